// SPDX-License-Identifier: Apache-2.0
//! Whether list and PCR fit, and what is done when they do not: a new segment begins
//! with what the PCR holds, says so, and says again what the PCR does not hold of the
//! group at hand, so that nothing measured stays out of the PCR. Found at a start, when
//! the TPM answers again after an error, and whenever [`Ledger::check`] is called.

use std::fs;

use ima_log::{Digest, Replay};
use prost::Message as _;

use super::{
    Ledger, LedgerError, at,
    intent::Place,
    line::Line,
    segment::{Segment, segments},
};
use crate::{
    measure::{
        Batch, ContextEvent, PAYLOAD_PREFIX, PolicyEvent, Violation, batch_name, batch_number,
        decode_batch, proto,
    },
    verify::Start,
};

/// List and PCR do not fit.
#[derive(Debug)]
pub(super) struct Broken {
    /// What the PCR holds.
    pub(super) held: Vec<Digest>,
    /// What does not fit.
    pub(super) detail: String,
    /// Whether the segment at hand ends as the group at hand expects.
    pub(super) appendable: bool,
}

impl Ledger {
    /// After an error of the sink: connects anew, finds out whether the last extend took
    /// place before the error, and goes on with the group at hand.
    ///
    /// # Errors
    /// The TPM still does not answer, or as [`Ledger::complete`].
    pub fn reconnect(&mut self) -> Result<(), LedgerError> {
        self.sink.reopen()?;
        self.check().map(drop)
    }

    /// Compares the PCR with the list, says in the list if they do not fit, and goes on
    /// with the group at hand, then with what the kernel listed by itself. False: they did not fit.
    ///
    /// # Errors
    /// As [`Ledger::complete`].
    pub fn check(&mut self) -> Result<bool, LedgerError> {
        let held = self.sink.read()?;
        let fits = self.fits(&held);
        self.broken = (!fits).then(|| self.difference(held));
        if let Some(broken) = &self.broken {
            let detail = &broken.detail;
            tracing::error!("the PCR no longer holds what the list gives ({detail})");
        }
        self.commit(&[], Batch::new())?;
        self.sink.settle()?;
        Ok(fits)
    }

    /// Whether the PCR holds the list, without or with the entry that was being extended.
    fn fits(&mut self, held: &[Digest]) -> bool {
        if self.matches(held) {
            return true;
        }
        let Some(line) = self.intent.next_line() else {
            return false;
        };
        let values = line.values(self.replay.banks());
        let mut with = self.replay.clone();
        with.extend_values(line.entry().pcr, &values);
        let fits = matches(&with, self.pcr, held);
        if fits {
            self.extended(&values);
        }
        fits
    }

    /// That the PCR holds these values and not the list's.
    pub(super) fn difference(&self, held: Vec<Digest>) -> Broken {
        let bank = held.first().copied();
        let replayed = bank.and_then(|bank| self.replay.value(self.pcr, bank.algorithm()));
        let detail = match (bank, replayed) {
            (Some(held), Some(replayed)) => format!("list={replayed};pcr={held}"),
            _ => "the list has none of the TPM's banks".to_owned(),
        };
        Broken {
            held,
            detail,
            appendable: true,
        }
    }

    /// Makes a break that was found the first thing of a new group, whose place is a new
    /// segment. Does nothing if there is none.
    pub(super) fn record_break(&mut self) -> Result<(), LedgerError> {
        let Some(broken) = self.broken.take() else {
            return Ok(());
        };
        let result = self.begin_anew(&broken);
        if result.is_err() {
            self.broken = Some(broken);
        }
        result
    }

    /// The old group is replaced by the new one in one step, so that there is no moment at
    /// which what it holds is lost.
    fn begin_anew(&mut self, broken: &Broken) -> Result<(), LedgerError> {
        if broken.appendable && !self.intent.is_empty() {
            // A record cut off would keep readers from the rest.
            self.write_group()?;
            self.segment.sync()?;
            self.show_pending(self.intent.pending().len())?;
        }
        self.note_pending();
        let seq = self.told.next_batch();
        let start = self.start(proto::start::Reason::ChainBroken, &broken.held);
        let mut lines = vec![
            Line::batch(self.pcr, start, seq)?,
            self.violation(&broken.detail)?,
        ];
        self.repeat_pending(seq + 1, &mut lines)?;
        let segment = Segment::open(&self.store.disk, &self.dir, self.unused_segment()?)?;
        let place = Place {
            segment: segment.number(),
            offset: segment.len(),
        };
        self.intent.replace(place, lines)?;
        self.segment = segment;
        self.replay = self.empty_replay(&broken.held);
        Ok(())
    }

    /// What the group at hand says, the list says.
    pub(super) fn note_pending(&mut self) {
        for line in self.intent.pending() {
            self.told.note(line.note());
        }
    }

    /// Has the first `count` entries that the PCR does not hold in the list that is kept as ASCII.
    pub(super) fn show_pending(&mut self, count: usize) -> Result<(), LedgerError> {
        let Some(ascii) = &mut self.ascii else {
            return Ok(());
        };
        while let Some(line) = self.intent.next_unshown(count) {
            ascii.put(line.entry())?;
            self.intent.shown();
        }
        Ok(())
    }

    fn violation(&self, detail: &str) -> Result<Line, LedgerError> {
        let event = PolicyEvent::own_violation(Violation::Chain, detail);
        Line::of(self.pcr, &event.name, event.payload.as_bytes())
    }

    /// The entries of the group at hand that the PCR does not hold, batches with numbers
    /// from `seq` on. Not a `Start`: what it says of the PCR is no longer so, and the new
    /// one says it again.
    fn repeat_pending(&self, mut seq: u64, lines: &mut Vec<Line>) -> Result<(), LedgerError> {
        for entry in self.intent.pending().iter().map(Line::entry) {
            let fields = entry.fields().ok();
            let payload = fields.as_ref().and_then(|fields| fields.payload);
            let (Some(fields), Some(payload)) = (fields, payload) else {
                continue;
            };
            let batch = batch_number(fields.name).and_then(|_| decode_batch(payload));
            match batch {
                Some(_) if Start::of(entry).is_some() => {}
                Some(mut batch) => {
                    batch.seq = seq;
                    let payload = [PAYLOAD_PREFIX, &batch.encode_to_vec()].concat();
                    lines.push(Line::of(self.pcr, &batch_name(seq), &payload)?);
                    seq += 1;
                }
                None => {
                    let name = String::from_utf8_lossy(fields.name);
                    lines.push(Line::of(self.pcr, &name, payload)?);
                }
            }
        }
        Ok(())
    }

    /// Number of the segment after the last; of the last if nothing is in it.
    fn unused_segment(&self) -> Result<u32, LedgerError> {
        let segments = segments(&self.dir).map_err(at("list", &self.dir))?;
        let Some((number, path)) = segments.into_iter().next_back() else {
            return Ok(1);
        };
        let len = fs::metadata(&path).map_err(at("look at", &path))?.len();
        Ok(if len == 0 { number } else { number + 1 })
    }

    /// Appends a `Start` with the PCR's value now.
    pub(super) fn begin(
        &mut self,
        reason: proto::start::Reason,
        held: &[Digest],
    ) -> Result<(), LedgerError> {
        let start = self.start(reason, held);
        if reason == proto::start::Reason::Boot {
            self.replay = self.empty_replay(held);
            // Nothing comes before it.
            return self.commit_all([].iter(), start);
        }
        self.commit(&[], start)
    }

    fn start(&self, reason: proto::start::Reason, held: &[Digest]) -> Batch {
        let start = proto::Start {
            boot_id: self.origin.boot_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: self.origin.kernel_release.clone(),
            pcr: self.sink.pcr(),
            banks: held
                .iter()
                .map(|value| proto::Bank {
                    algorithm: value.algorithm().name().to_owned(),
                    value: value.bytes().to_vec(),
                })
                .collect(),
            realtime_offset_ns: self.origin.realtime_offset_ns,
            reason: reason.into(),
            sink: self.sink.anchorage().name().to_owned(),
        };
        let mut batch = Batch::new();
        batch.push(ContextEvent::of_agent(
            self.origin.now_ns,
            proto::context_event::What::Start(start),
        ));
        batch
    }

    pub(super) fn empty_replay(&self, held: &[Digest]) -> Replay {
        let banks: Vec<_> = held.iter().map(Digest::algorithm).collect();
        held.iter().fold(Replay::new(&banks), |replay, value| {
            replay.with_start(self.pcr, *value)
        })
    }

    fn matches(&self, held: &[Digest]) -> bool {
        matches(&self.replay, self.pcr, held)
    }
}

/// Whether the replay has these values.
pub(super) fn matches(replay: &Replay, pcr: u32, held: &[Digest]) -> bool {
    held.iter()
        .all(|value| replay.value(pcr, value.algorithm()) == Some(*value))
}
