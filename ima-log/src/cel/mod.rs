// SPDX-License-Identifier: Apache-2.0
//! The list as a Canonical Event Log (TCG, "Canonical Event Log Format", version 1.0).
//!
//! Owns what a record says: its number among those of its PCR (section 4.2.2), the PCR, what each
//! bank is extended with, and the template as content `ima_template`. `tlv` and `json` own how that is
//! written. Does not judge: an entry that fails its check is written as it is. Reads no such log: nothing here needs one.

mod json;
mod tlv;

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use crate::{Digest, Entry, HashAlgorithm};

/// How the records of a Canonical Event Log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CelEncoding {
    /// CEL-TLV, section 5.1: binary, one record after the other.
    Tlv,
    /// CEL-JSON, section 5.3: one array, here with a record on each line.
    Json,
}

/// Encodes a list as a Canonical Event Log, entry by entry.
///
/// Replaying the digests of its records gives the PCRs: of a violation they are all ones, as it is extended,
/// though the list has zeros there. In the bank of the record's own template hash the digest is what the record states, in
/// others the hash of its data: check entries that are not to be trusted first. Memory: one record, and a number for each PCR.
///
/// ```
/// use ima_log::{CelEncoding, CelEncoder, Entry, HashAlgorithm};
///
/// let entry = Entry::ima_buf(13, HashAlgorithm::Sha256, "name", b"payload")?;
/// let mut log = Vec::new();
/// let mut cel = CelEncoder::new(CelEncoding::Json, &[HashAlgorithm::Sha256]);
/// cel.write(&entry, &mut log)?;
/// cel.finish(&mut log)?;
/// let text = String::from_utf8(log)?;
/// assert!(text.starts_with("[\n{\"recnum\":0,\"pcr\":13,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\""));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CelEncoder {
    encoding: CelEncoding,
    banks: Vec<HashAlgorithm>,
    /// The next record's number, by PCR.
    numbers: BTreeMap<u32, u64>,
    bytes: Vec<u8>,
}

/// What is written of an entry.
struct Record<'a> {
    number: u64,
    pcr: u32,
    /// One for each bank.
    digests: Vec<Digest>,
    entry: &'a Entry,
}

impl CelEncoder {
    /// A log with the digests of these banks, in this order; the specification wants one at least, and naming one twice
    /// changes nothing.
    #[must_use]
    pub fn new(encoding: CelEncoding, banks: &[HashAlgorithm]) -> Self {
        let mut distinct = Vec::new();
        for bank in banks {
            if !distinct.contains(bank) {
                distinct.push(*bank);
            }
        }
        Self {
            encoding,
            banks: distinct,
            numbers: BTreeMap::new(),
            bytes: Vec::new(),
        }
    }

    /// Writes the next entry of the list, with one `write_all`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&mut self, entry: &Entry, out: &mut impl Write) -> io::Result<()> {
        let is_first = self.numbers.is_empty();
        let next = self.numbers.entry(entry.pcr).or_default();
        let record = Record {
            number: *next,
            pcr: entry.pcr,
            digests: self.banks.iter().map(|bank| value(entry, *bank)).collect(),
            entry,
        };
        *next += 1;
        self.bytes.clear();
        match self.encoding {
            CelEncoding::Tlv => tlv::append(&record, &mut self.bytes),
            CelEncoding::Json => json::append(&record, is_first, &mut self.bytes),
        }
        out.write_all(&self.bytes)
    }

    /// Writes what ends the log, once all entries are written. A log of no entry is one, too.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(&self, out: &mut impl Write) -> io::Result<()> {
        match self.encoding {
            CelEncoding::Tlv => Ok(()),
            CelEncoding::Json => out.write_all(json::end(self.numbers.is_empty())),
        }
    }
}

/// What the entry extends `bank` with, if it is what it says.
fn value(entry: &Entry, bank: HashAlgorithm) -> Digest {
    if entry.template_hash.algorithm() == bank && !entry.is_violation() {
        entry.template_hash
    } else {
        entry.extend_value(bank)
    }
}
