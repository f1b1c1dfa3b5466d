// SPDX-License-Identifier: Apache-2.0
//! One file of the list. It only ever grows; bytes that are written a second time, since
//! the disk may have lost them, are the same bytes.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    LedgerError, at,
    disk::{Disk, DiskFile},
};

/// What a segment's file name ends in.
pub const SUFFIX: &str = "ima";

/// An open segment.
pub(super) struct Segment {
    number: u32,
    file: DiskFile,
    len: u64,
    /// Whether the group at the end may be on the disk in part, or not at all, although
    /// it can be read: a write or sync of it failed, or was somebody's who died.
    doubtful: bool,
}

impl Segment {
    /// The segment of that number, for appending; made if need be.
    pub(super) fn open(disk: &Arc<dyn Disk>, dir: &Path, number: u32) -> Result<Self, LedgerError> {
        let file = DiskFile::open(disk, path(dir, number))?;
        // The name must survive a power cut before the first entry is in the TPM.
        disk.sync_dir(dir).map_err(at("sync", dir))?;
        let len = file.len()?;
        Ok(Self {
            number,
            file,
            len,
            doubtful: true,
        })
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Bytes in the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Makes the file hold `bytes` at `offset`, and end there. What a crash left of them
    /// is written again: its pages may be clean and yet not on the disk.
    pub(super) fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        let end = offset + bytes.len() as u64;
        if self.len == end && !self.doubtful {
            return Ok(());
        }
        self.doubtful = true;
        self.file.write_at(bytes, offset)?;
        (self.len, self.doubtful) = (end, false);
        Ok(())
    }

    /// Everything appended is on the disk.
    pub(super) fn sync(&mut self) -> Result<(), LedgerError> {
        let result = self.file.sync();
        self.doubtful |= result.is_err();
        result
    }
}

/// The path of a segment.
pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.{SUFFIX}"))
}

/// A segment that is only read.
pub(super) struct Written {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Written {
    pub(super) fn open(dir: &Path, number: u32) -> Result<Self, LedgerError> {
        let path = path(dir, number);
        let file = File::open(&path).map_err(at("open", &path))?;
        let len = file.metadata().map_err(at("look at", &path))?.len();
        Ok(Self { path, file, len })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How many bytes from `offset` on are those of `bytes`; `None` if others are there,
    /// or the file does not reach `offset`.
    pub(super) fn part_of(&self, offset: u64, bytes: &[u8]) -> Result<Option<usize>, LedgerError> {
        use std::os::unix::fs::FileExt as _;
        let Some(there) = self.len.checked_sub(offset) else {
            return Ok(None);
        };
        let len = usize::try_from(there).map_or(bytes.len(), |there| there.min(bytes.len()));
        let mut found = vec![0; len];
        self.file
            .read_exact_at(&mut found, offset)
            .map_err(at("read", &self.path))?;
        Ok((found == bytes[..len]).then_some(len))
    }

    /// The bytes before `end`.
    pub(super) fn reader(self, end: u64) -> impl Read {
        self.file.take(end)
    }
}

/// The segments in a boot's directory, in order: number and path.
///
/// # Errors
/// The directory cannot be read.
pub fn segments(dir: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let number = path
            .extension()
            .filter(|suffix| *suffix == SUFFIX)
            .and_then(|_| path.file_stem()?.to_str())
            // As the agent names them: nothing else is a segment.
            .filter(|name| name.len() == 8 && name.bytes().all(|digit| digit.is_ascii_digit()))
            .and_then(|name| name.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}
