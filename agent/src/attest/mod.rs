// SPDX-License-Identifier: Apache-2.0
//! Evidence: a quote of the PCR that a list is kept in, and the list up to what was quoted, no entry less and none more. In the
//! form of Keylime's `POST /v2.6/verify/evidence` (`keylime/cloud_verifier_tornado.py`, Keylime 7.14), which any
//! reader of quotes can take apart. Called by `cima evidence`; changes nothing in the TPM but for the key, once.

mod blob;
mod key;
mod quote;

pub use blob::{PcrValues, ValuesError, values_of};
pub use key::{Endorsement, Key, KeyError, STANDARD_HANDLE};
pub use quote::{Quote, QuoteError};

use ima_log::{Digest, Entry, HashAlgorithm, Replay};
use serde::Serialize;

/// The bank that is quoted: Keylime wants that of the signature's hash, and the key signs with SHA-256.
pub const BANK: HashAlgorithm = HashAlgorithm::Sha256;

/// What a verifier judges.
#[derive(Debug, Clone, Serialize)]
pub struct Evidence {
    /// `r<attest>:<signature>:<PCR values>`, each in base64: `TPMS_ATTEST` and `TPMT_SIGNATURE` as the TPM marshals them, the values as
    /// `tpm2_quote -F serialized` writes them.
    pub quote: String,
    /// What the verifier chose.
    pub nonce: String,
    /// Name of the bank and of the signature's hash.
    pub hash_alg: &'static str,
    /// The endorsement key, `TPM2B_PUBLIC` in base64.
    pub tpm_ek: String,
    /// The key that signed, `TPM2B_PUBLIC` in base64.
    pub tpm_ak: String,
    /// The list, a line for each entry, as in the kernel's `ascii_runtime_measurements`.
    pub ima_measurement_list: String,
}

/// The part of a list that gives what was quoted.
#[derive(Debug)]
pub struct Prefix {
    pcr: u32,
    replay: Replay,
    quoted: Digest,
    entries: u64,
    found: Option<u64>,
}

impl Prefix {
    /// Looks for `quoted`, the digest over the PCR's value.
    #[must_use]
    pub fn new(pcr: u32, quoted: Digest) -> Self {
        let mut prefix = Self {
            pcr,
            replay: Replay::new(&[BANK]),
            quoted,
            entries: 0,
            found: None,
        };
        prefix.look();
        prefix
    }

    /// Takes the next entry.
    pub fn push(&mut self, entry: &Entry) {
        self.replay.extend(entry);
        self.entries += 1;
        if entry.pcr == self.pcr {
            self.look();
        }
    }

    fn look(&mut self) {
        let value = self.value();
        if self.found.is_none() && BANK.digest(value.bytes()) == self.quoted {
            self.found = Some(self.entries);
        }
    }

    /// What the PCR holds after the entries so far.
    #[must_use]
    pub fn value(&self) -> Digest {
        let value = self.replay.value(self.pcr, BANK);
        value.unwrap_or_else(|| Digest::zeros(BANK))
    }

    /// How many entries give what was quoted; `None`: none of those so far.
    #[must_use]
    pub fn found(&self) -> Option<u64> {
        self.found
    }

    /// Entries so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u32) -> Entry {
        Entry::ima_buf(10, BANK, format!("cima-image:{n}"), &n.to_le_bytes()).unwrap()
    }

    fn quoted(entries: &[Entry]) -> Digest {
        let mut replay = Replay::new(&[BANK]);
        entries.iter().for_each(|entry| replay.extend(entry));
        let value = replay.value(10, BANK).unwrap_or(Digest::zeros(BANK));
        BANK.digest(value.bytes())
    }

    #[test]
    fn a_quote_belongs_to_exactly_one_part_of_a_list() {
        let entries: Vec<_> = (0..9).map(entry).collect();
        for quoted_after in 0..=entries.len() {
            let mut prefix = Prefix::new(10, quoted(&entries[..quoted_after]));
            entries.iter().for_each(|entry| prefix.push(entry));
            assert_eq!(prefix.found(), Some(quoted_after as u64));
            assert_eq!(prefix.entries(), 9);
        }
        let mut prefix = Prefix::new(10, quoted(&entries[1..]));
        entries.iter().for_each(|entry| prefix.push(entry));
        assert_eq!(prefix.found(), None);
    }
}
