// SPDX-License-Identifier: Apache-2.0
//! The intent: the group of entries being written, on disk before any of it is in
//! the list or the TPM.
//!
//! `"cima-intent-1\n" ‖ u32le segment ‖ u64le offset ‖ u32le n ‖ n bytes of records ‖
//! SHA256(all before)`. An empty file: nothing is being written. A file whose
//! digest does not fit was torn while it was written: then nothing of it was
//! appended, since the append waits for the intent's sync.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ima_log::{BinaryFormat, BinaryReader, ByteOrder, Entry, HashAlgorithm};
use sha2::{Digest as _, Sha256};

use super::{LedgerError, at};

const MAGIC: &[u8] = b"cima-intent-1\n";
const HEADER: usize = MAGIC.len() + 4 + 8 + 4;
const DIGEST: usize = 32;
const NAME: &str = "intent";

/// How the ledger's own records are laid out, on every machine.
pub(super) const FORMAT: BinaryFormat = BinaryFormat {
    order: ByteOrder::Little,
    hash: HashAlgorithm::Sha1,
};

/// The intent file.
#[derive(Debug)]
pub(super) struct Intent {
    path: PathBuf,
    file: File,
    segment: u32,
    offset: u64,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// How many of `entries` the PCR holds.
    done: usize,
    /// Whether the file holds the group.
    persisted: bool,
}

impl Intent {
    /// Opens the intent of a boot's directory and reads what a crash left in it.
    pub(super) fn open(dir: &Path) -> Result<Self, LedgerError> {
        let path = dir.join(NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(at("open", &path))?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(at("read", &path))?;
        let (segment, offset, bytes, entries) = parse(&content).unwrap_or_default();
        Ok(Self {
            path,
            file,
            segment,
            offset,
            bytes,
            entries,
            done: 0,
            persisted: true,
        })
    }

    /// Takes a group that is to be appended to `segment` at `offset`.
    pub(super) fn stage(&mut self, segment: u32, offset: u64, entries: Vec<Entry>) {
        self.bytes.clear();
        for entry in &entries {
            entry.append_binary(&mut self.bytes);
        }
        (self.segment, self.offset, self.entries) = (segment, offset, entries);
        (self.done, self.persisted) = (0, false);
    }

    /// Puts the group on disk, unless it is there.
    pub(super) fn persist(&mut self) -> Result<(), LedgerError> {
        if self.persisted {
            return Ok(());
        }
        let mut content = Vec::with_capacity(HEADER + self.bytes.len() + DIGEST);
        content.extend_from_slice(MAGIC);
        content.extend_from_slice(&self.segment.to_le_bytes());
        content.extend_from_slice(&self.offset.to_le_bytes());
        // The writer bounds a group far below 4 GiB.
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        content.extend_from_slice(&len.to_le_bytes());
        content.extend_from_slice(&self.bytes);
        content.extend_from_slice(&Sha256::digest(&content));
        self.put(&content).map_err(at("write", &self.path))?;
        self.persisted = true;
        Ok(())
    }

    fn put(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(content)?;
        self.file.sync_data()
    }

    /// The group is in the list and in the TPM.
    pub(super) fn clear(&mut self) -> Result<(), LedgerError> {
        self.file.set_len(0).map_err(at("clear", &self.path))?;
        self.bytes.clear();
        self.entries.clear();
        self.done = 0;
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn segment(&self) -> u32 {
        self.segment
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The entries that the PCR does not hold yet, as far as is known.
    pub(super) fn pending(&self) -> &[Entry] {
        &self.entries[self.done..]
    }

    pub(super) fn next_entry(&self) -> Option<&Entry> {
        self.entries.get(self.done)
    }

    /// The next entry is in the PCR.
    pub(super) fn extended(&mut self) {
        self.done += 1;
    }
}

type Parsed = (u32, u64, Vec<u8>, Vec<Entry>);

/// `None`: nothing was being written, or the intent itself was torn.
fn parse(content: &[u8]) -> Option<Parsed> {
    let (signed, digest) = content.split_at_checked(content.len().checked_sub(DIGEST)?)?;
    if Sha256::digest(signed).as_slice() != digest {
        return None;
    }
    let rest = signed.strip_prefix(MAGIC)?;
    let (segment, rest) = rest.split_first_chunk::<4>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (len, bytes) = rest.split_first_chunk::<4>()?;
    if usize::try_from(u32::from_le_bytes(*len)).ok()? != bytes.len() {
        return None;
    }
    let entries: Result<Vec<_>, _> = BinaryReader::new(bytes, FORMAT)
        .map(|record| record.map(|(_, entry)| entry))
        .collect();
    Some((
        u32::from_le_bytes(*segment),
        u64::from_le_bytes(*offset),
        bytes.to_vec(),
        entries.ok()?,
    ))
}
