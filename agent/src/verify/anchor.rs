// SPDX-License-Identifier: Apache-2.0
//! The list replayed beside the PCR values it should give, entry by entry.

use ima_log::{Digest, Entry, HashAlgorithm, Replay};

use super::{Located, Place};

/// The PCR values that a list is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchor {
    /// None were given, and the list itself says that nothing anchors it.
    Absent,
    /// Each of these must be what the list gives.
    Exactly(Vec<(u32, Digest)>),
    /// A dump of a TPM's PCRs: those that no entry extends are somebody else's.
    Among(Vec<(u32, Digest)>),
}

/// One bank of one PCR: what was expected and what came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankOutcome {
    /// The PCR.
    pub pcr: u32,
    /// The value to be compared with; its algorithm is the bank.
    pub expected: Digest,
    /// The value that the whole list gives.
    pub replayed: Digest,
    /// Entries after which the list gave the expected value, the smallest such number.
    pub held: Option<u64>,
    /// The first entry after these that extends the PCR.
    pub next: Option<Located>,
    extended: bool,
}

impl BankOutcome {
    /// Whether the whole list gives the value.
    #[must_use]
    pub fn matches(&self) -> bool {
        self.replayed == self.expected
    }
}

/// How much of the list the PCRs hold, all of them.
#[derive(Debug)]
pub(super) enum Held {
    NotCompared,
    Whole,
    First { entries: u64, next: Located },
    Nothing,
}

#[derive(Debug)]
pub(super) struct Comparison {
    replay: Replay,
    banks: Vec<BankOutcome>,
    /// Whether PCRs that no entry extends are passed over.
    among: bool,
}

impl Comparison {
    pub(super) fn new(anchor: Anchor) -> Self {
        let (expected, among) = match anchor {
            Anchor::Absent => (Vec::new(), false),
            Anchor::Exactly(values) => (values, false),
            Anchor::Among(values) => (values, true),
        };
        let algorithms: Vec<_> = expected.iter().map(|(_, v)| v.algorithm()).collect();
        let mut comparison = Self {
            replay: Replay::new(&algorithms),
            banks: expected
                .into_iter()
                .map(|(pcr, expected)| BankOutcome {
                    pcr,
                    expected,
                    replayed: Digest::zeros(expected.algorithm()),
                    held: None,
                    next: None,
                    extended: false,
                })
                .collect(),
            among,
        };
        comparison.look(0);
        comparison
    }

    /// Whether a value of this PCR was given, or none of any.
    pub(super) fn covers(&self, pcr: u32) -> bool {
        self.banks.is_empty() || self.banks.iter().any(|bank| bank.pcr == pcr)
    }

    /// What the list gives so far; `None` if that bank is not replayed.
    pub(super) fn value(&self, pcr: u32, bank: HashAlgorithm) -> Option<Digest> {
        self.replay.value(pcr, bank)
    }

    /// Goes on from `values`, after `entries` entries.
    pub(super) fn start(&mut self, pcr: u32, values: &[Digest], entries: u64) {
        for value in values {
            if self.replay.banks().any(|bank| bank == value.algorithm()) {
                self.replay = self.replay.clone().with_start(pcr, *value);
            }
        }
        for bank in self.banks.iter_mut().filter(|bank| bank.pcr == pcr) {
            (bank.held, bank.next) = (None, None);
        }
        self.look(entries);
    }

    pub(super) fn extend(&mut self, place: Place, name: Option<&[u8]>, entry: &Entry) {
        if self.banks.is_empty() {
            return;
        }
        self.replay.extend(entry);
        for bank in self.banks.iter_mut().filter(|bank| bank.pcr == entry.pcr) {
            bank.extended = true;
            if bank.held.is_some() && bank.next.is_none() {
                bank.next = Some(Located::new(place, name));
            }
        }
        self.look(place.index + 1);
    }

    fn look(&mut self, entries: u64) {
        for bank in &mut self.banks {
            if let Some(value) = self.replay.value(bank.pcr, bank.expected.algorithm()) {
                bank.replayed = value;
            }
            if bank.matches() && bank.held.is_none() {
                bank.held = Some(entries);
            }
        }
    }

    pub(super) fn finish(mut self) -> (Vec<BankOutcome>, Held) {
        if self.among {
            self.banks.retain(|bank| bank.extended);
        }
        let held = if self.banks.is_empty() {
            Held::NotCompared
        } else if self.banks.iter().any(|bank| bank.held.is_none()) {
            Held::Nothing
        } else {
            let next = self.banks.iter().filter_map(|bank| bank.next.clone());
            match next.min_by_key(|next| next.place.index) {
                Some(next) => Held::First {
                    entries: next.place.index,
                    next,
                },
                None => Held::Whole,
            }
        };
        (self.banks, held)
    }
}
