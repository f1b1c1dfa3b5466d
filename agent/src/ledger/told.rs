// SPDX-License-Identifier: Apache-2.0
//! What the list of this boot says so far, as far as the agent goes on from it: which
//! values are listed, the next batch's number, how far the kernel's queue is read and
//! which losses are reported. Taken from the entries alone, so that an agent that starts
//! again knows what the one before it knew.

use std::collections::BTreeMap;

use ima_log::Entry;

use super::seen::{GENERATION, Key, Seen, key};
use crate::measure::{Fate, Gist, batch_number, proto};

/// Losses by cause and CPU.
pub type Losses = BTreeMap<(String, u32), u64>;

/// See the module.
#[derive(Debug)]
pub(super) struct Told {
    seen: Seen,
    next_batch: u64,
    stopped: bool,
    /// Time of the first event, ns since boot.
    began: Option<u64>,
    queue: Option<proto::Queue>,
    losses: Losses,
    /// Time of the last event that is part of `losses`.
    loss_times: Losses,
    /// Containers that were made and are not gone, by their number.
    containers: BTreeMap<u64, proto::Created>,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            seen: Seen::new(GENERATION),
            next_batch: 0,
            stopped: true,
            began: None,
            queue: None,
            losses: Losses::new(),
            loss_times: Losses::new(),
            containers: BTreeMap::new(),
        }
    }
}

/// What is to be noted of an entry.
#[derive(Debug)]
pub(super) enum Note {
    /// A policy event.
    Value(Key),
    /// A batch and its number.
    Batch(u64, Gist),
    /// An entry that cannot be read.
    Nothing,
}

impl Note {
    /// Reads the entry.
    pub(super) fn of(entry: &Entry) -> Self {
        let Ok(fields) = entry.fields() else {
            return Self::Nothing;
        };
        let (name, payload) = (fields.name, fields.payload.unwrap_or_default());
        match batch_number(name) {
            Some(seq) => Self::Batch(seq, Gist::of(payload).unwrap_or_default()),
            None => Self::Value(key(name, payload)),
        }
    }
}

impl Told {
    /// Takes the next entry of the list.
    pub(super) fn note(&mut self, note: &Note) {
        match note {
            Note::Value(key) => self.seen.insert(*key),
            Note::Batch(seq, gist) => {
                self.next_batch = self.next_batch.max(seq.saturating_add(1));
                self.note_batch(gist);
            }
            Note::Nothing => {}
        }
    }

    fn note_batch(&mut self, batch: &Gist) {
        if let Some(queue) = batch.queue {
            if self.queue.is_some_and(|known| known.id != queue.id) {
                // The kernel counts a new queue's losses from zero.
                self.losses.clear();
                self.loss_times.clear();
            }
            self.queue = Some(queue);
        }
        self.stopped = batch.stopped;
        self.began = self.began.or(batch.began);
        for (time_ns, loss) in &batch.losses {
            self.note_loss(*time_ns, loss);
        }
        for fate in &batch.containers {
            match fate {
                Fate::Created(created) => {
                    self.containers
                        .insert(created.container, proto::Created::clone(created));
                }
                Fate::Gone(number) => {
                    self.containers.remove(number);
                }
            }
        }
    }

    /// After a broken chain a group may be in the list twice: the same loss counts once.
    fn note_loss(&mut self, time_ns: u64, loss: &proto::Loss) {
        let of = (loss.cause.clone(), loss.cpu);
        let last = self.loss_times.insert(of.clone(), time_ns);
        if last.is_none_or(|last| last < time_ns) {
            let sum = self.losses.entry(of).or_default();
            *sum = sum.saturating_add(loss.count);
        }
    }

    /// Whether the policy event is in the list.
    pub(super) fn has(&mut self, key: &Key) -> bool {
        self.seen.contains(key)
    }

    /// Has values listed again that the list has.
    pub(super) fn forget_values(&mut self) {
        self.seen = Seen::new(GENERATION);
    }

    /// Leaves out the numbers below `next`.
    pub(super) fn skip_batches(&mut self, next: u64) {
        self.next_batch = self.next_batch.max(next);
    }

    pub(super) fn next_batch(&self) -> u64 {
        self.next_batch
    }

    /// Whether the last batch ends with the agent's farewell; true if there is no batch.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn began(&self) -> Option<u64> {
        self.began
    }

    pub(super) fn queue(&self) -> Option<proto::Queue> {
        self.queue
    }

    pub(super) fn containers(&self) -> &BTreeMap<u64, proto::Created> {
        &self.containers
    }

    pub(super) fn losses(&self) -> &Losses {
        &self.losses
    }
}
