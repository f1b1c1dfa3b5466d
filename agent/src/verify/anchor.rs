// SPDX-License-Identifier: Apache-2.0
//! The list replayed beside the PCR values it should give, entry by entry.

use ima_log::{Digest, Entry, HashAlgorithm, Replay};

use super::{Located, Place};

/// Banks that a kernel may have no code for.
const PADDED: [HashAlgorithm; 2] = [HashAlgorithm::Sha384, HashAlgorithm::Sha512];

/// What such a bank is extended with.
fn padded_value(entry: &Entry, bank: HashAlgorithm) -> Digest {
    if entry.is_violation() {
        return Digest::ones(bank);
    }
    let sha1 = entry.template_digest(HashAlgorithm::Sha1);
    let mut bytes = sha1.bytes().to_vec();
    bytes.resize(bank.digest_len(), 0);
    // It has the bank's length.
    Digest::new(bank, &bytes).unwrap_or_else(|_| Digest::zeros(bank))
}

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
    /// The bank was extended with each entry's SHA-1, padded with zeros, and says no more than that: the kernel had no code for its
    /// hash when IMA began (`ima_calc_field_array_hash`, `security/integrity/ima/ima_crypto.c`). Debian's 6.1 has SHA-384 and
    /// SHA-512 in a module.
    pub padded: bool,
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
    First {
        entries: u64,
        next: Located,
    },
    Nothing {
        /// The bank that the list fits by the hashes in its records, with entries altered.
        as_listed: Option<HashAlgorithm>,
    },
}

#[derive(Debug)]
pub(super) struct Comparison {
    replay: Replay,
    banks: Vec<BankOutcome>,
    /// Of a kernel's list: what banks hold whose hash the kernel had no code for.
    padded: Option<Replay>,
    /// Whether PCRs that no entry extends are passed over.
    among: bool,
    /// With an entry in it that is not what its record's hash is of: the bank of that hash, as if it were.
    listed: Option<(HashAlgorithm, Replay)>,
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
                    padded: false,
                    extended: false,
                })
                .collect(),
            padded: None,
            among,
            listed: None,
        };
        comparison.look(0);
        comparison
    }

    /// The list is a kernel's, which pads where it lacks a hash. Not so for SHA-256, without which nothing would vouch.
    pub(super) fn of_kernel(mut self) -> Self {
        let banks = self.replay.banks();
        let padded: Vec<_> = banks.filter(|bank| PADDED.contains(bank)).collect();
        self.padded = (!padded.is_empty()).then(|| Replay::new(&padded));
        self
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
        self.listed = None;
        self.look(entries);
    }

    /// The next entry is not what the hash in its record is of: one of the two was altered. If it is not the hash, the PCR in the bank of
    /// that hash still tells that nothing else was.
    pub(super) fn altered(&mut self, entry: &Entry) {
        let algorithm = entry.template_hash.algorithm();
        if self.listed.is_none() && self.replay.banks().any(|bank| bank == algorithm) {
            self.listed = Some((algorithm, self.replay.clone()));
        }
    }

    /// Whether each PCR that was given holds what the list gives at this very moment, but for those that no entry extended so far.
    pub(super) fn is_whole(&self) -> bool {
        let mut extended = self.banks.iter().filter(|bank| bank.extended).peekable();
        extended.peek().is_some() && extended.all(BankOutcome::matches)
    }

    /// The bank that the list fits by the hashes in its records.
    fn fits_as_listed(&self) -> Option<HashAlgorithm> {
        let (algorithm, listed) = self.listed.as_ref()?;
        let of = |bank: &&BankOutcome| bank.expected.algorithm() == *algorithm && bank.extended;
        let mut banks = self.banks.iter().filter(of).peekable();
        banks.peek()?;
        let fits = |bank: &BankOutcome| listed.value(bank.pcr, *algorithm) == Some(bank.expected);
        banks.all(fits).then_some(*algorithm)
    }

    pub(super) fn extend(&mut self, place: Place, name: Option<&[u8]>, entry: &Entry) {
        if self.banks.is_empty() {
            return;
        }
        self.replay.extend(entry);
        if let Some((algorithm, listed)) = &mut self.listed {
            let value = match entry.is_violation() {
                true => Digest::ones(*algorithm),
                false if entry.template_hash.algorithm() == *algorithm => entry.template_hash,
                false => entry.template_digest(*algorithm),
            };
            listed.extend_values(entry.pcr, &[value]);
        }
        if let Some(padded) = &mut self.padded {
            let banks: Vec<_> = padded.banks().collect();
            let values: Vec<_> = banks
                .iter()
                .map(|bank| padded_value(entry, *bank))
                .collect();
            padded.extend_values(entry.pcr, &values);
        }
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
            let algorithm = bank.expected.algorithm();
            if let Some(value) = self.replay.value(bank.pcr, algorithm) {
                bank.replayed = value;
            }
            let padded = self.padded.as_ref();
            let padded = padded.and_then(|padded| padded.value(bank.pcr, algorithm));
            bank.padded = !bank.matches() && padded == Some(bank.expected);
            if bank.padded {
                bank.replayed = bank.expected;
            }
            if bank.matches() && bank.held.is_none() {
                bank.held = Some(entries);
            }
        }
    }

    pub(super) fn finish(mut self) -> (Vec<BankOutcome>, Held) {
        let as_listed = self.fits_as_listed();
        if self.among {
            self.banks.retain(|bank| bank.extended);
        }
        let held = if self.banks.is_empty() {
            Held::NotCompared
        } else if self.banks.iter().any(|bank| bank.held.is_none()) {
            Held::Nothing { as_listed }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bank_that_the_kernel_padded_fits_its_own_list_and_is_told_apart() {
        let entry = Entry::ima_buf(10, HashAlgorithm::Sha256, "cima-ctx:0", b"v1;").unwrap();
        let plain = |bank: HashAlgorithm| Digest::zeros(bank).extended(&entry.extend_value(bank));
        let padded =
            |bank: HashAlgorithm| Digest::zeros(bank).extended(&padded_value(&entry, bank));
        let outcome = |value: Digest, of_kernel: bool| {
            let mut comparison = Comparison::new(Anchor::Exactly(vec![(10, value)]));
            if of_kernel {
                comparison = comparison.of_kernel();
            }
            comparison.extend(
                Place {
                    index: 0,
                    offset: 0,
                    segment: None,
                },
                None,
                &entry,
            );
            let (banks, _) = comparison.finish();
            (banks[0].matches(), banks[0].padded)
        };
        for bank in PADDED {
            assert_eq!(outcome(plain(bank), true), (true, false), "{bank}");
            assert_eq!(outcome(padded(bank), true), (true, true), "{bank}");
            assert_eq!(outcome(padded(bank), false), (false, false), "{bank}");
        }
        let sha256 = HashAlgorithm::Sha256;
        assert_eq!(outcome(padded(sha256), true), (false, false));
    }
}
