// SPDX-License-Identifier: Apache-2.0
//! An entry on its way into the list and the TPM, with what was worked out of it: nothing
//! of a batch is hashed or decoded twice.

use ima_log::{Digest, Entry, HashAlgorithm};

use super::{DIGEST, LedgerError, seen::Key, told::Note};
use crate::measure::{Batch, PolicyEvent, batch_name};

/// See the module. Its template hash is right.
#[derive(Debug)]
pub(super) struct Line {
    entry: Entry,
    note: Note,
}

impl Line {
    /// A policy event, whose key is known.
    pub(super) fn value(pcr: u32, event: &PolicyEvent, key: Key) -> Result<Self, LedgerError> {
        let entry = Entry::ima_buf(pcr, DIGEST, &event.name, event.payload.as_bytes())?;
        let note = Note::Value(key);
        Ok(Self { entry, note })
    }

    /// A batch.
    pub(super) fn batch(pcr: u32, batch: Batch, seq: u64) -> Result<Self, LedgerError> {
        let note = Note::Batch(seq, batch.gist().clone());
        let entry = Entry::ima_buf(pcr, DIGEST, batch_name(seq), &batch.into_payload(seq))?;
        Ok(Self { entry, note })
    }

    /// A name and payload of any kind.
    pub(super) fn of(pcr: u32, name: &str, payload: &[u8]) -> Result<Self, LedgerError> {
        let entry = Entry::ima_buf(pcr, DIGEST, name, payload)?;
        let note = Note::of(&entry);
        Ok(Self { entry, note })
    }

    /// An entry that was read; `None` if its template hash is wrong.
    pub(super) fn read(entry: Entry) -> Option<Self> {
        let computed = entry.template_digest(entry.template_hash.algorithm());
        let note = Note::of(&entry);
        (computed == entry.template_hash).then_some(Self { entry, note })
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.entry
    }

    pub(super) fn into_entry(self) -> Entry {
        self.entry
    }

    pub(super) fn note(&self) -> &Note {
        &self.note
    }

    /// What each of these banks is extended with.
    pub(super) fn values(&self, banks: impl Iterator<Item = HashAlgorithm>) -> Vec<Digest> {
        let known = self.entry.template_hash;
        banks
            .map(|bank| {
                if bank == known.algorithm() {
                    known
                } else {
                    self.entry.extend_value(bank)
                }
            })
            .collect()
    }
}
