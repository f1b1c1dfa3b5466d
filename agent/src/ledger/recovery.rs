// SPDX-License-Identifier: Apache-2.0
//! Opening the list after whatever happened: a clean stop, a crash between any two
//! steps of a group, or somebody else's hand in list or PCR.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use ima_log::{BinaryReader, Digest, Entry, Replay};

use super::{
    Ledger, LedgerError, Origin, at,
    intent::{FORMAT, Intent},
    matches,
    segment::{Segment, segments},
};
use crate::{measure::proto, sink::Sink, verify::Start};

/// What was found when the list was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There was no list of this boot.
    New,
    /// The list fitted the PCR.
    Continued {
        /// Entries in it.
        entries: u64,
        /// Entries that a crash had left half written and that are now complete.
        completed: u64,
    },
    /// It did not; this is recorded and a new segment begun.
    Broken {
        /// What does not fit.
        detail: String,
    },
}

/// How the list on disk fits what the PCR holds.
enum Fit {
    New,
    Whole { completed: u64 },
    Broken(String),
}

pub(super) fn open(
    state_dir: &Path,
    origin: Origin,
    mut sink: Box<dyn Sink>,
    pcr: u32,
) -> Result<(Ledger, Opened), LedgerError> {
    let dir = state_dir.join("ledger").join(&origin.boot_id);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(at("create", &dir))?;
    let held = sink.read()?;
    let intent = Intent::open(&dir)?;
    let numbers: Vec<u32> = segments(&dir)
        .map_err(at("list", &dir))?
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    let last = numbers.last().copied().unwrap_or(1);
    let segment = Segment::create(&dir, last)?;
    let banks: Vec<_> = held.iter().map(Digest::algorithm).collect();
    let mut ledger = Ledger {
        dir,
        origin,
        sink,
        pcr,
        segment,
        intent,
        replay: Replay::new(&banks),
        seen: HashSet::new(),
        next_batch: 0,
        entries: 0,
        stopped: true,
    };
    let fit = ledger.read_back(&numbers, &held)?;
    let opened = ledger.resume(fit, last, &held)?;
    Ok((ledger, opened))
}

impl Ledger {
    /// Reads the segments, then finds how many entries of the intent the PCR holds.
    fn read_back(&mut self, numbers: &[u32], held: &[Digest]) -> Result<Fit, LedgerError> {
        let mut problem = None;
        for number in numbers {
            let segment = Segment::open(&self.dir, *number)?;
            let pending = !self.intent.is_empty() && self.intent.segment() == *number;
            let end = if pending {
                self.intent.offset().min(segment.len())
            } else {
                segment.len()
            };
            if pending && !segment.ends_in_part_of(self.intent.offset(), self.intent.bytes())? {
                problem.get_or_insert(format!("segment {number} does not end as its intent says"));
            }
            for record in BinaryReader::new(segment.reader(end)?, FORMAT) {
                match record {
                    Ok((_, entry)) => {
                        if entry.pcr != self.pcr {
                            problem.get_or_insert(format!("pcr={};list={}", self.pcr, entry.pcr));
                        }
                        if self.reread(&entry) && entry.pcr == self.pcr {
                            // A break before this segment is on record in it.
                            problem = None;
                        }
                    }
                    Err(error) => {
                        problem.get_or_insert(format!("segment {number}: {error}"));
                    }
                }
            }
        }
        if self
            .intent
            .pending()
            .first()
            .and_then(segment_start)
            .is_some()
        {
            // The agent died while it recorded that very break.
            problem = None;
        }
        if let Some(problem) = problem {
            return Ok(Fit::Broken(problem));
        }
        if self.entries == 0 && self.intent.is_empty() {
            return Ok(Fit::New);
        }
        Ok(self.fit(held))
    }

    /// Takes an entry of the list; true if it begins the chain anew.
    fn reread(&mut self, entry: &Entry) -> bool {
        let start = segment_start(entry);
        if let Some(start) = &start {
            self.replay = self.empty_replay(start);
        }
        self.replay.extend(entry);
        self.note(entry);
        start.is_some()
    }

    /// Replays with none, one, … all pending entries: exactly one fits, or none does.
    fn fit(&mut self, held: &[Digest]) -> Fit {
        let pending = self.intent.pending().to_vec();
        if held.is_empty() {
            // Nothing anchors the list: nothing to compare with, the group is completed.
            return Fit::Whole {
                completed: pending.len() as u64,
            };
        }
        if let Some(start) = pending.first().and_then(segment_start) {
            self.replay = self.empty_replay(&start);
        }
        let mut replay = self.replay.clone();
        for extended in 0..=pending.len() {
            if matches(&replay, self.pcr, held) {
                for entry in &pending[..extended] {
                    self.extended(entry);
                }
                return Fit::Whole {
                    completed: pending.len() as u64,
                };
            }
            if let Some(entry) = pending.get(extended) {
                replay.extend(entry);
            }
        }
        let bank = held.first().copied();
        let replayed = bank.and_then(|bank| self.replay.value(self.pcr, bank.algorithm()));
        Fit::Broken(match (bank, replayed) {
            (Some(held), Some(replayed)) => format!("list={replayed};pcr={held}"),
            _ => "the list has none of the TPM's banks".to_owned(),
        })
    }

    fn resume(&mut self, fit: Fit, last: u32, held: &[Digest]) -> Result<Opened, LedgerError> {
        use proto::start::Reason;
        match fit {
            Fit::New => {
                self.begin(Reason::Boot, held)?;
                Ok(Opened::New)
            }
            Fit::Whole { completed } => {
                self.complete()?;
                let entries = self.entries;
                if !self.stopped {
                    self.record_unclean_stop()?;
                }
                let held = self.sink.read()?;
                self.begin(Reason::Restart, &held)?;
                Ok(Opened::Continued { entries, completed })
            }
            Fit::Broken(detail) => {
                self.keep_broken_intent()?;
                self.segment = Segment::create(&self.dir, last + 1)?;
                self.begin(Reason::ChainBroken, held)?;
                self.record_break(&detail)?;
                Ok(Opened::Broken { detail })
            }
        }
    }

    /// A group that fits neither list nor PCR is evidence: it is kept beside the list.
    fn keep_broken_intent(&mut self) -> Result<(), LedgerError> {
        if self.intent.is_empty() {
            return Ok(());
        }
        let path = self
            .dir
            .join(format!("intent.broken-{:08}", self.segment.number()));
        fs::write(&path, self.intent.bytes()).map_err(at("write", &path))?;
        self.intent.clear()
    }
}

/// The PCR values that the chain starts from at `entry`, if it starts there.
fn segment_start(entry: &Entry) -> Option<Vec<Digest>> {
    let start = Start::of(entry)?;
    (start.reason != proto::start::Reason::Restart).then_some(start.values)
}
