// SPDX-License-Identifier: Apache-2.0
//! The intent: the group of entries being written, on disk before any of it is in
//! the list or the TPM.
//!
//! `"cima-intent-2\n" ‖ u32le segment ‖ u64le offset ‖ u32le n ‖ n bytes of records ‖
//! SHA256(all before but the records' template data)`; of the data, each record's own
//! template hash tells. An empty file: nothing is being written. A file whose
//! digests do not fit was torn while it was written: then nothing of it was
//! appended, since the append waits for the intent's sync. While a group is at hand
//! the file never holds anything but its bytes, the beginning of them, or nothing.

use std::{path::Path, sync::Arc};

use ima_log::{BinaryFormat, BinaryReader, ByteOrder, Entry, HashAlgorithm};
use sha2::{Digest as _, Sha256};

use super::{
    LedgerError,
    disk::{Disk, DiskFile},
    line::Line,
};

const MAGIC: &[u8] = b"cima-intent-2\n";
/// What the intents of all versions begin with.
const FAMILY: &[u8] = b"cima-intent-";
const HEADER: usize = MAGIC.len() + 4 + 8 + 4;
const DIGEST: usize = 32;
const NAME: &str = "intent";
/// What is to take the intent's place, until it does.
const NEW: &str = "intent.new";

/// How the ledger's own records are laid out, on every machine.
pub(super) const FORMAT: BinaryFormat = BinaryFormat {
    order: ByteOrder::Little,
    hash: HashAlgorithm::Sha1,
};

/// Where a group belongs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Number of the segment.
    pub(super) segment: u32,
    /// Byte at which the group begins.
    pub(super) offset: u64,
}

/// Entries that are written together.
#[derive(Debug, Default)]
struct Group {
    /// `None`: where they go is not decided.
    place: Option<Place>,
    lines: Vec<Line>,
    /// Their records.
    bytes: Vec<u8>,
    /// How many of `lines` the PCR holds.
    done: usize,
    /// How many of `lines` are in the list that is kept as ASCII.
    shown: usize,
    /// Whether the group is on the disk.
    persisted: bool,
}

/// The intent file and the group at hand.
pub(super) struct Intent {
    disk: Arc<dyn Disk>,
    file: DiskFile,
    group: Group,
}

impl Intent {
    /// Opens the intent of a boot's directory and reads what a crash left in it.
    pub(super) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, LedgerError> {
        let mut file = DiskFile::open(disk, dir.join(NAME))?;
        let content = file.read()?;
        if is_of_another_version(&content) {
            return Err(LedgerError::IntentVersion(file.path().to_owned()));
        }
        let group = parse(&content);
        if group.is_none() && !content.is_empty() {
            file.set_len(0)?;
        }
        Ok(Self {
            disk: Arc::clone(disk),
            file,
            group: group.unwrap_or_default(),
        })
    }

    /// Takes a group; its place is to be decided.
    pub(super) fn stage(&mut self, lines: Vec<Line>) {
        self.group = Group::of(lines);
    }

    /// Decides where the group goes.
    pub(super) fn put_at(&mut self, place: Place) {
        self.group.place = Some(place);
    }

    /// Puts the group on disk, unless it is there for certain. Not for certain: it was
    /// read after a crash, or a sync failed; either may have been from memory alone.
    pub(super) fn persist(&mut self) -> Result<(), LedgerError> {
        if self.group.persisted {
            return Ok(());
        }
        self.file.write_at(&self.group.file_content(), 0)?;
        self.file.sync()?;
        self.group.persisted = true;
        Ok(())
    }

    /// Puts another group in the place of the one at hand, on disk, all at once: whatever
    /// happens, one of them is there.
    pub(super) fn replace(&mut self, place: Place, lines: Vec<Line>) -> Result<(), LedgerError> {
        let mut group = Group::of(lines);
        group.place = Some(place);
        let path = self.file.path().to_owned();
        let mut file = DiskFile::open(&self.disk, path.with_file_name(NEW))?;
        file.set_len(0)?;
        file.write_at(&group.file_content(), 0)?;
        file.sync()?;
        file.rename(&path)?;
        group.persisted = true;
        (self.file, self.group) = (file, group);
        Ok(())
    }

    /// The group is in the list and in the TPM. Not synced: an old intent that is there
    /// again after a power cut is one whose group the list holds.
    pub(super) fn clear(&mut self) -> Result<(), LedgerError> {
        self.file.set_len(0)?;
        self.group = Group::default();
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.group.lines.is_empty()
    }

    /// Where the group goes; `None`: that is not decided, or there is none.
    pub(super) fn place(&self) -> Option<Place> {
        self.group.place
    }

    /// The group's records.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.group.bytes
    }

    /// The entries that the PCR does not hold yet, as far as is known.
    pub(super) fn pending(&self) -> &[Line] {
        &self.group.lines[self.group.done..]
    }

    pub(super) fn next_line(&self) -> Option<&Line> {
        self.pending().first()
    }

    /// The next entry that is to be in the list kept as ASCII, if it is one of the first `count` pending.
    pub(super) fn next_unshown(&self, count: usize) -> Option<&Line> {
        let wanted = self.group.shown < self.group.done + count;
        self.group.lines.get(self.group.shown).filter(|_| wanted)
    }

    /// It is there.
    pub(super) fn shown(&mut self) {
        self.group.shown += 1;
    }

    /// The next entry is in the PCR.
    pub(super) fn extended(&mut self) {
        self.group.done += 1;
    }
}

impl Group {
    fn of(lines: Vec<Line>) -> Self {
        let mut bytes = Vec::new();
        for line in &lines {
            line.entry().append_binary(&mut bytes);
        }
        Self {
            lines,
            bytes,
            ..Self::default()
        }
    }

    fn file_content(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(HEADER + self.bytes.len() + DIGEST);
        content.extend_from_slice(MAGIC);
        let Place { segment, offset } = self.place.unwrap_or_default();
        content.extend_from_slice(&segment.to_le_bytes());
        content.extend_from_slice(&offset.to_le_bytes());
        // The writer bounds a group far below 4 GiB.
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        content.extend_from_slice(&len.to_le_bytes());
        content.extend_from_slice(&self.bytes);
        let digest = digest(&content, self.lines.iter().map(Line::entry));
        content.extend_from_slice(&digest);
        content
    }
}

/// Of an intent with these entries, without their data: that would be hashed once more.
fn digest<'a>(content: &[u8], entries: impl Iterator<Item = &'a Entry>) -> [u8; DIGEST] {
    let mut hash = Sha256::new();
    let (header, mut records) = content.split_at(HEADER);
    hash.update(header);
    for entry in entries {
        let (record, rest) = records.split_at(entry.binary_len());
        hash.update(&record[..record.len() - entry.data.len()]);
        records = rest;
    }
    hash.finalize().into()
}

/// Whether it begins as every version's intent does, and then is not this one's: it may be
/// whole, and its group in the list and the TPM in part.
fn is_of_another_version(content: &[u8]) -> bool {
    let of_some_version = |start: &[u8]| match start.strip_prefix(FAMILY) {
        Some([digit, b'\n']) => digit.is_ascii_digit(),
        _ => false,
    };
    content
        .get(..MAGIC.len())
        .is_some_and(|start| start != MAGIC && of_some_version(start))
}

/// `None`: nothing was being written, or the intent itself was torn.
fn parse(content: &[u8]) -> Option<Group> {
    let (body, stated) = content.split_at_checked(content.len().checked_sub(DIGEST)?)?;
    let rest = body.strip_prefix(MAGIC)?;
    let (segment, rest) = rest.split_first_chunk::<4>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (len, bytes) = rest.split_first_chunk::<4>()?;
    if usize::try_from(u32::from_le_bytes(*len)).ok()? != bytes.len() {
        return None;
    }
    let entries: Result<Vec<_>, _> = BinaryReader::new(bytes, FORMAT)
        .map(|record| record.map(|(_, entry)| entry))
        .collect();
    let entries = entries.ok()?;
    if digest(body, entries.iter()) != stated {
        return None;
    }
    let lines: Option<Vec<_>> = entries.into_iter().map(Line::read).collect();
    let mut group = Group::of(lines?);
    group.place = Some(Place {
        segment: u32::from_le_bytes(*segment),
        offset: u64::from_le_bytes(*offset),
    });
    Some(group)
}

/// The entries in an intent file's content, and the content written anew: what
/// `crate::fuzzing` compares.
pub(crate) fn reread(content: &[u8]) -> Option<(Vec<Entry>, Vec<u8>)> {
    let group = parse(content)?;
    let content = group.file_content();
    let entries = group.lines.into_iter().map(Line::into_entry).collect();
    Some((entries, content))
}

/// The records in an intent file's content.
#[cfg(test)]
pub(super) fn records(content: &[u8]) -> Vec<Entry> {
    reread(content).map_or_else(Vec::new, |(entries, _)| entries)
}
