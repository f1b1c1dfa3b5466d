// SPDX-License-Identifier: Apache-2.0
//! The `Start` event: which boot, which PCR, and what the PCR held right before the
//! entry that carries the event was extended.

use ima_log::{Digest, DigestError, Entry, EscapedName, HashAlgorithm};

use super::BatchView;
use crate::measure::{Anchorage, proto};

/// A Start event whose fields make sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Printable ASCII.
    pub boot_id: String,
    /// The PCR that anchors the list; `None`: nothing does.
    pub pcr: Option<u32>,
    /// What anchors it.
    pub anchorage: Anchorage,
    /// Why the agent says it.
    pub reason: proto::start::Reason,
    /// What the PCR held, in the banks that can be replayed here.
    pub values: Vec<Digest>,
}

impl Start {
    /// The Start event that `entry` begins with, if it does.
    #[must_use]
    pub fn of(entry: &Entry) -> Option<Self> {
        let fields = entry.fields().ok()?;
        let batch = BatchView::of(fields.payload?)?;
        let event = batch.events().next()?.event?;
        match event.what? {
            proto::context_event::What::Start(start) => Self::parse(&start),
            _ => None,
        }
    }

    /// `None` if a value is not as long as its algorithm's, or the sink or the reason is unknown.
    pub(super) fn parse(start: &proto::Start) -> Option<Self> {
        let mut values = Vec::new();
        for bank in &start.banks {
            if let Some(algorithm) = HashAlgorithm::from_name(&bank.algorithm) {
                let value: Result<_, DigestError> = Digest::new(algorithm, &bank.value);
                values.push(value.ok()?);
            }
        }
        Some(Self {
            boot_id: EscapedName(start.boot_id.as_bytes()).to_string(),
            pcr: start.pcr,
            anchorage: match (&*start.sink, start.pcr) {
                ("", Some(_)) => Anchorage::Pcr,
                ("", None) => Anchorage::None,
                (name, _) => name.parse().ok()?,
            },
            reason: proto::start::Reason::try_from(start.reason).ok()?,
            values,
        })
    }
}
