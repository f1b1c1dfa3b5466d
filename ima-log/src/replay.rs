// SPDX-License-Identifier: Apache-2.0
//! What PCRs hold after a list was extended into them.
//!
//! Owns the arithmetic: `new = H(old ‖ value)`, per bank, one value per entry. Does not check
//! entries and asks no TPM. Constant memory: one digest per PCR seen and bank.

use crate::{Digest, Entry, HashAlgorithm};

/// PCR values of any set of banks, followed through a list.
///
/// PCRs start at zero, 17 to 22 (dynamic launch) at all ones, as after a TPM's power-on (TCG PC
/// Client Platform TPM Profile). Other starts: [`Replay::with_start`].
#[derive(Clone, Debug)]
pub struct Replay {
    banks: Vec<Bank>,
}

#[derive(Clone, Debug)]
struct Bank {
    algorithm: HashAlgorithm,
    /// PCRs whose value is no longer the one at power-on. Few: searched one by one.
    values: Vec<(u32, Digest)>,
}

impl Replay {
    /// A replay of these banks; naming one twice changes nothing.
    #[must_use]
    pub fn new(banks: &[HashAlgorithm]) -> Self {
        let mut replay = Self { banks: Vec::new() };
        for algorithm in banks {
            replay.bank_mut(*algorithm);
        }
        replay
    }

    /// Starts a PCR from `value` in the bank of its algorithm, which is added if need be.
    #[must_use]
    pub fn with_start(mut self, pcr: u32, value: Digest) -> Self {
        *self.bank_mut(value.algorithm()).slot(pcr) = value;
        self
    }

    /// Extends the entry into every bank.
    pub fn extend(&mut self, entry: &Entry) {
        for bank in &mut self.banks {
            let value = entry.extend_value(bank.algorithm);
            let slot = bank.slot(entry.pcr);
            *slot = slot.extended(&value);
        }
    }

    /// Extends one PCR with these values, each in the bank of its algorithm: what
    /// [`Entry::extend_value`] gave, for who has the values already. A bank that none is for
    /// is left as it is.
    pub fn extend_values(&mut self, pcr: u32, values: &[Digest]) {
        for bank in &mut self.banks {
            if let Some(value) = values.iter().find(|v| v.algorithm() == bank.algorithm) {
                let slot = bank.slot(pcr);
                *slot = slot.extended(value);
            }
        }
    }

    /// What the PCR holds now; `None` if this bank is not replayed.
    #[must_use]
    pub fn value(&self, pcr: u32, bank: HashAlgorithm) -> Option<Digest> {
        let bank = self.banks.iter().find(|b| b.algorithm == bank)?;
        let changed = bank.values.iter().find(|(p, _)| *p == pcr);
        Some(changed.map_or_else(|| at_power_on(pcr, bank.algorithm), |(_, value)| *value))
    }

    /// The banks replayed, in the order they were named.
    pub fn banks(&self) -> impl Iterator<Item = HashAlgorithm> + '_ {
        self.banks.iter().map(|b| b.algorithm)
    }

    fn bank_mut(&mut self, algorithm: HashAlgorithm) -> &mut Bank {
        let at = self
            .banks
            .iter()
            .position(|b| b.algorithm == algorithm)
            .unwrap_or_else(|| {
                self.banks.push(Bank {
                    algorithm,
                    values: Vec::new(),
                });
                self.banks.len() - 1
            });
        &mut self.banks[at]
    }
}

impl Bank {
    fn slot(&mut self, pcr: u32) -> &mut Digest {
        let at = self
            .values
            .iter()
            .position(|(p, _)| *p == pcr)
            .unwrap_or_else(|| {
                self.values.push((pcr, at_power_on(pcr, self.algorithm)));
                self.values.len() - 1
            });
        &mut self.values[at].1
    }
}

fn at_power_on(pcr: u32, algorithm: HashAlgorithm) -> Digest {
    if (17..=22).contains(&pcr) {
        Digest::ones(algorithm)
    } else {
        Digest::zeros(algorithm)
    }
}
