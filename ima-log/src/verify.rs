// SPDX-License-Identifier: Apache-2.0
//! Whether a list and PCR values tell the same story, and if not, where they part.
//!
//! Owns the judgement over a whole list, entry by entry in constant memory: all of the list is
//! in the PCRs, or only a beginning of it, or no beginning at all. Trusts nothing in the list;
//! the PCR values are the caller's to trust (a checked quote). Reads no file, asks no TPM.

use crate::{CheckError, Digest, Entry, HashAlgorithm, Replay};

/// Compares a list with PCR values while it is read.
///
/// ```
/// use ima_log::{Entry, HashAlgorithm, Match, Verifier};
/// let entry = Entry::ima_buf(13, HashAlgorithm::Sha256, "name", b"payload")?;
/// let pcr = ima_log::Digest::zeros(HashAlgorithm::Sha256)
///     .extended(&entry.extend_value(HashAlgorithm::Sha256));
///
/// let mut verifier = Verifier::new([(13, pcr)]);
/// verifier.push(&entry);
/// assert_eq!(verifier.finish().matched, Match::Whole);
/// # Ok::<(), ima_log::EntryError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Verifier {
    replay: Replay,
    verdict: Verdict,
}

/// What was expected of one PCR in one bank, and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrOutcome {
    /// The PCR.
    pub pcr: u32,
    /// The value the TPM gave; its algorithm is the bank.
    pub expected: Digest,
    /// The value after the whole list.
    pub replayed: Digest,
    /// The smallest number of entries after which this PCR had the expected value.
    pub matched_after: Option<u64>,
}

/// An entry that fails [`Entry::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Number of entries before it.
    pub index: u64,
    /// Its name, escaped for people.
    pub name: String,
    /// What is wrong.
    pub error: CheckError,
}

/// How much of the list the PCRs hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// All of it.
    Whole,
    /// A beginning: the list has entries that were not extended (yet).
    Prefix {
        /// The smallest number of entries that gives all expected values.
        entries: u64,
        /// Index of the first entry after these which extends an expected PCR: the first that
        /// does not fit.
        first_unanchored: u64,
    },
    /// No beginning of the list gives the expected values.
    None,
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Entries seen.
    pub entries: u64,
    /// How much of the list the PCRs hold, all of them at the same place.
    pub matched: Match,
    /// Each expected value by itself.
    pub pcrs: Vec<PcrOutcome>,
    /// Index of the first entry for a PCR of which no value was expected: nothing anchors it.
    pub first_uncovered: Option<u64>,
    /// The first entry found wrong.
    pub first_invalid: Option<Invalid>,
    /// The first entry that could not be judged: see [`CheckError::is_undecided`].
    pub first_undecided: Option<Invalid>,
}

impl Verdict {
    /// Whether every entry is in a PCR that was expected, and was judged and found right.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.matched == Match::Whole
            && self.first_uncovered.is_none()
            && self.first_invalid.is_none()
            && self.first_undecided.is_none()
    }
}

impl Verifier {
    /// A verifier that expects these values, each in the bank of its algorithm. With no values
    /// nothing anchors the list: the verdict is then [`Match::None`].
    pub fn new(expected: impl IntoIterator<Item = (u32, Digest)>) -> Self {
        let expected: Vec<(u32, Digest)> = expected.into_iter().collect();
        let banks: Vec<HashAlgorithm> = expected.iter().map(|(_, d)| d.algorithm()).collect();
        let replay = Replay::new(&banks);
        let pcrs = expected
            .into_iter()
            .map(|(pcr, expected)| PcrOutcome {
                pcr,
                expected,
                replayed: Digest::zeros(expected.algorithm()),
                matched_after: None,
            })
            .collect();
        let verdict = Verdict {
            entries: 0,
            matched: Match::None,
            pcrs,
            first_uncovered: None,
            first_invalid: None,
            first_undecided: None,
        };
        let mut verifier = Self { replay, verdict };
        verifier.compare();
        verifier
    }

    /// Starts a PCR from `value` instead of its power-on value. Before the first entry only: a
    /// later call changes nothing.
    #[must_use]
    pub fn with_start(mut self, pcr: u32, value: Digest) -> Self {
        if self.verdict.entries == 0 {
            self.replay = self.replay.with_start(pcr, value);
            self.verdict.matched = Match::None;
            self.verdict
                .pcrs
                .iter_mut()
                .for_each(|p| p.matched_after = None);
            self.compare();
        }
        self
    }

    /// Takes the next entry of the list.
    pub fn push(&mut self, entry: &Entry) {
        let index = self.verdict.entries;
        self.verdict.entries += 1;
        if let Err(error) = entry.check() {
            self.note(index, entry, error);
        }
        if self.verdict.pcrs.iter().any(|p| p.pcr == entry.pcr) {
            self.replay.extend(entry);
            self.advance(index);
        } else {
            self.verdict.first_uncovered.get_or_insert(index);
        }
    }

    /// The judgement over what was pushed so far; more may follow.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The judgement over the whole list.
    #[must_use]
    pub fn finish(self) -> Verdict {
        self.verdict
    }

    fn note(&mut self, index: u64, entry: &Entry, error: CheckError) {
        let first = if error.is_undecided() {
            &mut self.verdict.first_undecided
        } else {
            &mut self.verdict.first_invalid
        };
        first.get_or_insert_with(|| Invalid {
            index,
            name: entry.display_name(),
            error,
        });
    }

    /// Entry `index` changed an expected PCR: what matched before now matches a prefix only.
    fn advance(&mut self, index: u64) {
        if self.verdict.matched == Match::Whole {
            let entries = self
                .verdict
                .pcrs
                .iter()
                .filter_map(|p| p.matched_after)
                .max();
            self.verdict.matched = Match::Prefix {
                entries: entries.unwrap_or(0),
                first_unanchored: index,
            };
        }
        self.compare();
    }

    fn compare(&mut self) {
        let entries = self.verdict.entries;
        let mut all = !self.verdict.pcrs.is_empty();
        for outcome in &mut self.verdict.pcrs {
            if let Some(value) = self.replay.value(outcome.pcr, outcome.expected.algorithm()) {
                outcome.replayed = value;
            }
            if outcome.replayed == outcome.expected {
                outcome.matched_after.get_or_insert(entries);
            } else {
                all = false;
            }
        }
        if all {
            self.verdict.matched = Match::Whole;
        }
    }
}
