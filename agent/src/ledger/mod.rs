// SPDX-License-Identifier: Apache-2.0
//! The list on disk, and its only writer.
//!
//! ```text
//! <state>/ledger/<boot id>/00000001.ima   binary IMA list, append-only
//!                          00000002.ima   next segment: the first was full, or the chain broke
//!                          intent         what is being written now; empty: nothing
//! ```
//! and, if somebody reads it, the same as ASCII elsewhere (`ascii`). Who follows the list reads its segments (`tail`).
//!
//! A group of entries goes *intent (synced) → append (synced) → extend → commit*. Whatever
//! moment the agent dies at, `recovery` finds how many of the group the PCR holds
//! and completes it. `chain` compares list and PCR: where they do not fit, it says so in
//! a new segment, and says the group again there. `disk` is all that touches files.

mod ascii;
mod chain;
mod disk;
mod intent;
mod line;
mod recovery;
mod seen;
mod segment;
mod tail;
mod told;
mod writer;

#[cfg(test)]
mod tail_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod writer_tests;

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ima_log::{Digest, EntryError, HashAlgorithm, Replay};

use crate::{
    containers::Registry,
    measure::{Anchorage, Batch, PolicyEvent, Violation, proto},
    sink::{Sink, SinkError},
};
use ascii::AsciiList;
use chain::Broken;
use disk::{Disk, OsDisk};
use intent::{Intent, Place};
use line::Line;
use segment::Segment;
use tail::Progress;
use told::Told;

pub(crate) use intent::reread as reread_intent;
pub use recovery::{Opened, anchored_by};
pub use segment::{SUFFIX, segments};
pub use tail::{Committed, Piece, Tail};
pub use told::Losses;
pub use writer::{Done, Feed, Message, Writer, WriterGone, WriterHandle, drain};

/// No group is begun in a segment that has this many bytes.
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
    /// Written by another version, which is to complete it.
    #[error(
        "{} was left by another version of cima, and this one cannot complete it: start that version once, or reboot",
        .0.display()
    )]
    IntentVersion(PathBuf),
    /// Asked to stop while the TPM or the disk was failing: the group is in the intent.
    #[error(
        "stopped while an entry could not be completed; it is completed at the next start ({0})"
    )]
    Interrupted(#[source] Box<LedgerError>),
    /// Asked to stop while the TPM or the disk is slow or does not answer.
    #[error(
        "stopped with entries left to be written after {} s, since the TPM or the disk is slow or does not answer; they are in the intent and the kernel's queue, and written at the next start",
        .0.as_secs()
    )]
    Unfinished(Duration),
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

/// Where and how lists are kept.
struct Store {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    /// Where the list is as ASCII, too.
    ascii: Option<PathBuf>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            disk: Arc::new(OsDisk),
            segment_bytes: SEGMENT_BYTES,
            ascii: None,
        }
    }
}

/// The list of this boot, open for appending.
pub struct Ledger {
    store: Store,
    dir: PathBuf,
    origin: Origin,
    sink: Box<dyn Sink>,
    /// PCR number in the entries, also when nothing anchors them.
    pcr: u32,
    segment: Segment,
    ascii: Option<AsciiList>,
    intent: Intent,
    replay: Replay,
    /// List and PCR do not fit, and that is not on disk yet.
    broken: Option<Broken>,
    told: Told,
    /// Containers that events may name.
    registry: Registry,
    entries: u64,
    /// Whether the agent before this one ended in order.
    stopped: bool,
    /// What anchored the list so far.
    begun: Option<Anchorage>,
    /// Another anchor than before holds nothing of what was said.
    anew: bool,
    /// Told to whoever follows the list.
    progress: Progress,
}

impl Ledger {
    /// Opens the list of this boot under `state_dir`, completes what a crash left
    /// half done, and appends a `Start` event with the PCR's value. It is kept at `ascii`, too, as text.
    ///
    /// # Errors
    /// The directory cannot be used or the TPM does not answer. A list that does
    /// not fit the PCR is not an error: see [`Opened::Broken`].
    pub fn open(
        state_dir: &Path,
        origin: Origin,
        sink: Box<dyn Sink>,
        pcr: u32,
        ascii: Option<&Path>,
    ) -> Result<(Self, Opened), LedgerError> {
        let store = Store {
            ascii: ascii.map(Path::to_owned),
            ..Store::default()
        };
        recovery::open(store, state_dir, origin, sink, pcr)
    }

    /// Appends and extends: the policy events that are new in this boot, in order,
    /// then `batch` as one context entry. Before them what the kernel listed by itself and nobody said so far: when a
    /// batch is in the kernel's list, the ledger has whatever that list has before the last but two. Nothing to say is nothing written.
    /// A group that is at hand must be completed first; if it is not, this tries to.
    ///
    /// # Errors
    /// The disk or the TPM failed; the group is kept, and [`Ledger::complete`] goes on with it.
    pub fn commit(&mut self, events: &[PolicyEvent], batch: Batch) -> Result<(), LedgerError> {
        self.complete()?;
        let heard = self.sink.heard();
        self.commit_all(heard.iter().chain(events), batch)
    }

    fn commit_all<'a>(
        &mut self,
        events: impl Iterator<Item = &'a PolicyEvent>,
        batch: Batch,
    ) -> Result<(), LedgerError> {
        let mut lines = Vec::new();
        let mut fresh = HashSet::new();
        for event in events {
            let key = seen::key(event.name.as_bytes(), event.payload.as_bytes());
            if !self.told.has(&key) && fresh.insert(key) {
                lines.push(Line::value(self.pcr, event, key)?);
            }
        }
        if !batch.is_empty() {
            lines.push(Line::batch(self.pcr, batch, self.told.next_batch())?);
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.intent.stage(lines);
        self.complete()
    }

    /// Goes on from the step that failed with what is at hand: records that the chain is
    /// broken, writes the intent, appends what is missing, extends what the PCR does not
    /// hold yet, commits. Does nothing if there is nothing.
    ///
    /// # Errors
    /// As [`Ledger::commit`]; may be called again. After an error of the sink, call
    /// [`Ledger::reconnect`] instead.
    pub fn complete(&mut self) -> Result<(), LedgerError> {
        self.record_break()?;
        if self.intent.is_empty() {
            return Ok(());
        }
        self.write_group()?;
        // Before the TPM has any of it: after a power cut the list on the disk lacks nothing
        // that was extended, and readers need not know of the intent.
        self.segment.sync()?;
        loop {
            self.show_pending(1)?;
            let Some(line) = self.intent.next_line() else {
                break;
            };
            let values = line.values(self.replay.banks());
            self.sink.extend(line.entry(), &values)?;
            self.extended(&values);
        }
        self.sink.settle()?;
        self.tell_progress();
        self.intent.clear()
    }

    /// Puts the group at hand into the intent and then into the list.
    fn write_group(&mut self) -> Result<(), LedgerError> {
        let place = match self.intent.place() {
            Some(place) => place,
            None => self.next_place()?,
        };
        self.intent.put_at(place);
        self.intent.persist()?;
        self.segment.append(place.offset, self.intent.bytes())
    }

    /// The list's end; in a new segment if this one is full.
    fn next_place(&mut self) -> Result<Place, LedgerError> {
        if self.segment.len() >= self.store.segment_bytes {
            let number = self.segment.number() + 1;
            self.segment = Segment::open(&self.store.disk, &self.dir, number)?;
        }
        Ok(Place {
            segment: self.segment.number(),
            offset: self.segment.len(),
        })
    }

    /// The PCR holds the next entry of the group at hand, by these values.
    fn extended(&mut self, values: &[Digest]) {
        if let Some(line) = self.intent.next_line() {
            self.replay.extend_values(line.entry().pcr, values);
            self.told.note(line.note());
            self.entries += 1;
            self.intent.extended();
        }
    }

    /// Records that events were lost, nobody knows how many: those between the last batch
    /// in the list and the next, because of `cause`.
    ///
    /// # Errors
    /// As [`Ledger::commit`].
    pub fn record_gap(&mut self, cause: &str) -> Result<(), LedgerError> {
        let detail = format!("cause={cause};before=cima-ctx:{}", self.told.next_batch());
        let event = PolicyEvent::own_violation(Violation::Loss, &detail);
        self.commit(&[event], Batch::new())
    }

    /// Whom the numbers in events mean; with those of before this start in it.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Containers that were admitted and of which the list does not say that they are gone, by their number.
    pub fn containers(&self) -> &BTreeMap<u64, proto::Created> {
        self.told.containers()
    }

    /// How far the kernel's queue is read: what the last batch that says so says. All
    /// events before that place are in the list.
    pub fn queue(&self) -> Option<proto::Queue> {
        self.told.queue()
    }

    /// When the list was begun, ns since boot.
    pub fn began_ns(&self) -> Option<u64> {
        self.told.began()
    }

    /// The losses that this boot's list reports, by cause and CPU, since a batch named
    /// another queue than the one before; those of that batch included.
    pub fn losses(&self) -> &Losses {
        self.told.losses()
    }

    /// Whether the agent before this one ended in order; true if there was none.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether everything is to be said again: the anchor is another than before, and holds nothing of it.
    pub fn is_anew(&self) -> bool {
        self.anew
    }

    /// What anchors it.
    pub fn anchorage(&self) -> Anchorage {
        self.sink.anchorage()
    }

    /// Directory of this boot's segments.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Of this boot.
    pub fn boot_id(&self) -> &str {
        &self.origin.boot_id
    }

    /// Entries in the list.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

/// Shorthand for I/O errors that name the file.
fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LedgerError + use<'a> {
    move |source| LedgerError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
