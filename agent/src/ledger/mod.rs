// SPDX-License-Identifier: Apache-2.0
//! The list on disk, and its only writer.
//!
//! ```text
//! <state>/ledger/<boot id>/00000001.ima   binary IMA list, append-only
//!                          00000002.ima   next segment: the first was full, or the chain broke
//!                          intent         what is being written now; empty: nothing
//! ```
//! A group of entries goes *intent (synced) → append → extend → commit*. Whatever
//! moment the agent dies at, `recovery` finds how many of the group the PCR holds
//! and completes it, or says that the chain is broken and begins a new segment.

mod intent;
mod recovery;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use ima_log::{Digest, Entry, EntryError, HashAlgorithm, Replay};
use sha2::{Digest as _, Sha256};

use crate::{
    measure::{
        Batch, ContextEvent, PolicyEvent, Violation, batch_name, batch_number, decode_batch, proto,
    },
    sink::{Sink, SinkError},
};
use intent::Intent;
use segment::Segment;

pub use recovery::Opened;
pub use segment::{SUFFIX, segments};
pub use writer::{Message, Writer, WriterHandle};

/// A segment is closed once it has this many bytes.
const SEGMENT_BYTES: u64 = 64 << 20;
/// The digest algorithm of the entries' `d-ng` field.
const DIGEST: HashAlgorithm = HashAlgorithm::Sha256;

/// Why the list cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// See [`SinkError`].
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// An entry could not be made.
    #[error("an entry cannot be encoded: {0}")]
    Entry(#[from] EntryError),
    /// Asked to stop while the TPM or the disk was failing: the group is in the intent.
    #[error(
        "stopped while an entry could not be completed; it is completed at the next start ({0})"
    )]
    Interrupted(#[source] Box<LedgerError>),
}

/// What the agent says of itself in each `Start` event.
#[derive(Debug, Clone)]
pub struct Origin {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// `CLOCK_REALTIME` minus `CLOCK_BOOTTIME`.
    pub realtime_offset_ns: i64,
    /// `CLOCK_BOOTTIME`.
    pub now_ns: u64,
}

/// The list of this boot, open for appending.
pub struct Ledger {
    dir: PathBuf,
    origin: Origin,
    sink: Box<dyn Sink>,
    /// PCR number in the entries, also when nothing anchors them.
    pcr: u32,
    segment: Segment,
    intent: Intent,
    replay: Replay,
    /// SHA-256 of name and payload of each policy event in the list: once per boot.
    seen: HashSet<[u8; 32]>,
    next_batch: u64,
    entries: u64,
    /// Whether the last batch says that the agent ended in order.
    stopped: bool,
}

impl Ledger {
    /// Opens the list of this boot under `state_dir`, completes what a crash left
    /// half done, and appends a `Start` event with the PCR's value.
    ///
    /// # Errors
    /// The directory cannot be used or the TPM does not answer. A list that does
    /// not fit the PCR is not an error: see [`Opened::Broken`].
    pub fn open(
        state_dir: &Path,
        origin: Origin,
        sink: Box<dyn Sink>,
        pcr: u32,
    ) -> Result<(Self, Opened), LedgerError> {
        recovery::open(state_dir, origin, sink, pcr)
    }

    /// Appends and extends: the policy events that are new in this boot, in order,
    /// then `batch` as one context entry. Nothing to say is nothing written.
    ///
    /// # Errors
    /// The disk or the TPM failed; the group is kept, and [`Ledger::complete`] goes on with it.
    pub fn commit(&mut self, events: &[PolicyEvent], batch: Batch) -> Result<(), LedgerError> {
        let mut entries = Vec::new();
        let mut fresh = HashSet::new();
        for event in events {
            let key = key(event.name.as_bytes(), event.payload.as_bytes());
            if !self.seen.contains(&key) && fresh.insert(key) {
                entries.push(self.entry(&event.name, event.payload.as_bytes())?);
            }
        }
        if !batch.is_empty() {
            let payload = batch.into_payload(self.next_batch);
            entries.push(self.entry(&batch_name(self.next_batch), &payload)?);
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.intent
            .stage(self.segment.number(), self.segment.len(), entries);
        self.complete()
    }

    /// Goes on with the group at hand, from the step that failed: writes the intent,
    /// appends what is missing, extends what the PCR does not hold yet, commits.
    /// Does nothing if there is none.
    ///
    /// # Errors
    /// As [`Ledger::commit`]; may be called again.
    pub fn complete(&mut self) -> Result<(), LedgerError> {
        if self.intent.is_empty() {
            return Ok(());
        }
        self.intent.persist()?;
        self.segment
            .append(self.intent.offset(), self.intent.bytes())?;
        while let Some(entry) = self.intent.next_entry() {
            let entry = entry.clone();
            self.sink.extend(&entry)?;
            self.extended(&entry);
        }
        self.segment.sync()?;
        self.intent.clear()?;
        if self.segment.len() >= SEGMENT_BYTES {
            self.segment = Segment::create(&self.dir, self.segment.number() + 1)?;
        }
        Ok(())
    }

    /// After an error of the sink: connects anew and finds out whether the last
    /// extend took place before the error.
    ///
    /// # Errors
    /// The TPM still does not answer.
    pub fn reconnect(&mut self) -> Result<(), LedgerError> {
        self.sink.reopen()?;
        let held = self.sink.read()?;
        if self.matches(&held) {
            return Ok(());
        }
        if let Some(entry) = self.intent.next_entry().cloned() {
            let mut with = self.replay.clone();
            with.extend(&entry);
            if matches(&with, self.pcr, &held) {
                self.extended(&entry);
            }
        }
        // Anything else is seen at the next comparison: the chain is broken.
        Ok(())
    }

    fn extended(&mut self, entry: &Entry) {
        self.replay.extend(entry);
        self.note(entry);
        self.intent.extended();
    }

    /// Remembers what an entry of the list says, so that it is not said again.
    fn note(&mut self, entry: &Entry) {
        self.entries += 1;
        let Ok(fields) = entry.fields() else { return };
        let (name, payload) = (fields.name, fields.payload.unwrap_or_default());
        match batch_number(name) {
            Some(seq) => {
                self.next_batch = self.next_batch.max(seq.saturating_add(1));
                self.stopped = says_stop(payload);
            }
            None => {
                self.seen.insert(key(name, payload));
            }
        }
    }

    /// A new segment whose first record holds the PCR's value now.
    fn begin(&mut self, reason: proto::start::Reason, held: &[Digest]) -> Result<(), LedgerError> {
        if reason != proto::start::Reason::Restart {
            self.replay = self.empty_replay(held);
        }
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
        };
        let mut batch = Batch::new();
        batch.push(ContextEvent::of_agent(
            self.origin.now_ns,
            proto::context_event::What::Start(start),
        ));
        self.commit(&[], batch)
    }

    /// Records that list and PCR do not fit.
    fn record_break(&mut self, detail: &str) -> Result<(), LedgerError> {
        self.commit(
            &[PolicyEvent::violation(Violation::Chain, b"", detail)],
            Batch::new(),
        )
    }

    /// Records that the agent before this one did not end in order: what it had queued,
    /// and what the kernel reported until now, is lost.
    fn record_unclean_stop(&mut self) -> Result<(), LedgerError> {
        let detail = format!("cause=unclean-stop;before=cima-ctx:{}", self.next_batch);
        let event = PolicyEvent::violation(Violation::Loss, b"", &detail);
        self.commit(&[event], Batch::new())
    }

    fn empty_replay(&self, held: &[Digest]) -> Replay {
        let banks: Vec<_> = held.iter().map(Digest::algorithm).collect();
        held.iter().fold(Replay::new(&banks), |replay, value| {
            replay.with_start(self.pcr, *value)
        })
    }

    fn matches(&self, held: &[Digest]) -> bool {
        matches(&self.replay, self.pcr, held)
    }

    fn entry(&self, name: &str, payload: &[u8]) -> Result<Entry, LedgerError> {
        Ok(Entry::ima_buf(self.pcr, DIGEST, name, payload)?)
    }

    /// Directory of this boot's segments.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Entries in the list.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

/// Whether the replay has these values.
fn matches(replay: &Replay, pcr: u32, held: &[Digest]) -> bool {
    held.iter()
        .all(|value| replay.value(pcr, value.algorithm()) == Some(*value))
}

/// Whether a batch ends with the agent's farewell.
fn says_stop(payload: &[u8]) -> bool {
    let last = decode_batch(payload).and_then(|batch| batch.events.into_iter().next_back());
    matches!(
        last.and_then(|event| event.what),
        Some(proto::context_event::What::Stop(_))
    )
}

fn key(name: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    hash.update(payload);
    hash.finalize().into()
}

/// Shorthand for I/O errors that name the file.
fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LedgerError + use<'a> {
    move |source| LedgerError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
