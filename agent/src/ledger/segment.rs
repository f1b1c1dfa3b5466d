// SPDX-License-Identifier: Apache-2.0
//! One file of the list.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{LedgerError, at};

/// What a segment's file name ends in.
pub const SUFFIX: &str = "ima";

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    number: u32,
    path: PathBuf,
    file: File,
    len: u64,
}

impl Segment {
    /// A new, empty segment; an unused one of that number is taken.
    pub(super) fn create(dir: &Path, number: u32) -> Result<Self, LedgerError> {
        let segment = Self::open(dir, number)?;
        // The name must survive a power cut before the first entry is in the TPM.
        let sync = |dir: &Path| File::open(dir)?.sync_all();
        sync(dir).map_err(at("sync", dir))?;
        Ok(segment)
    }

    /// An existing segment, for appending.
    pub(super) fn open(dir: &Path, number: u32) -> Result<Self, LedgerError> {
        let path = dir.join(format!("{number:08}.{SUFFIX}"));
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(at("open", &path))?;
        let len = file.metadata().map_err(at("look at", &path))?.len();
        Ok(Self {
            number,
            path,
            file,
            len,
        })
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Bytes in the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Makes the file hold `bytes` at `offset`, its end. A part of them that is
    /// already there, left by a crash, is kept: a reader may have seen it.
    pub(super) fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        let there = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut rest = bytes.get(there..).unwrap_or_default();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(at("append to", &self.path)(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.len += n as u64;
                    rest = &rest[n..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at("append to", &self.path)(error)),
            }
        }
        Ok(())
    }

    /// Whether the file's bytes from `offset` on are the beginning of `bytes`.
    pub(super) fn ends_in_part_of(&self, offset: u64, bytes: &[u8]) -> Result<bool, LedgerError> {
        let Some(there) = self
            .len
            .checked_sub(offset)
            .and_then(|n| usize::try_from(n).ok())
        else {
            return Ok(false);
        };
        let Some(expected) = bytes.get(..there) else {
            return Ok(false);
        };
        let mut found = vec![0; there];
        self.file
            .read_exact_at(&mut found, offset)
            .map_err(at("read", &self.path))?;
        Ok(found == expected)
    }

    /// Everything written is on the disk.
    pub(super) fn sync(&self) -> Result<(), LedgerError> {
        self.file.sync_data().map_err(at("sync", &self.path))
    }

    /// The bytes before `end`.
    pub(super) fn reader(&self, end: u64) -> Result<impl Read + use<>, LedgerError> {
        let file = File::open(&self.path).map_err(at("open", &self.path))?;
        Ok(file.take(end))
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
            .and_then(|_| path.file_stem()?.to_str()?.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}
