// SPDX-License-Identifier: Apache-2.0
//! A list read on from any of its entries.
//!
//! Owns opening and seeking; binary or ASCII is found by the first bytes of each file. Holds one file open for each list.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use ima_log::{AsciiErrorKind, AsciiReader, BinaryFormat, BinaryReader, Entry, ReadErrorKind};

use super::List;
use crate::ledger::{SUFFIX, segments};

/// Why a list cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It makes no sense from there on.
    #[error("{}: {reason}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
        /// Whether it just ends: it was cut, or is being written now.
        torn: bool,
    },
}

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    /// 0 in a list that is one file.
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    /// Entries of the list before it.
    pub(crate) entry: u64,
}

impl At {
    /// The list's beginning.
    pub(crate) const START: Self = Self {
        segment: 0,
        offset: 0,
        entry: 0,
    };
}

/// The entries of a list from some place on.
pub(crate) struct Records {
    list: List,
    reader: Option<Reader>,
    segment: u32,
    entry: u64,
    /// Whether the segment at hand was read to its end once more, after there was another.
    finished: bool,
}

struct Reader {
    path: PathBuf,
    form: Form,
    /// Where the reader began.
    base: u64,
    /// Where the next entry begins.
    next: u64,
}

enum Form {
    Binary(BinaryReader<File>),
    Ascii(AsciiReader<BufReader<File>>),
}

impl Records {
    /// The entries from `at` on.
    pub(crate) fn new(list: &List, at: At) -> Result<Self, RecordsError> {
        let mut records = Self {
            list: list.clone(),
            reader: None,
            segment: at.segment,
            entry: at.entry,
            finished: false,
        };
        if !list.segmented {
            records.reader = Some(Reader::open(&list.path, at.offset)?);
        } else if at.segment > 0 {
            let path = list.path.join(format!("{:08}.{SUFFIX}", at.segment));
            records.reader = Some(Reader::open(&path, at.offset)?);
        } else {
            records.advance()?;
        }
        Ok(records)
    }

    /// Where the next entry is, or would be.
    pub(crate) fn at(&self) -> At {
        At {
            segment: self.segment,
            offset: self.reader.as_ref().map_or(0, |reader| reader.next),
            entry: self.entry,
        }
    }

    /// Reads the next entry into `entry`; `None`: there is none so far. After an error the next segment, if there is one, goes on.
    pub(crate) fn read(&mut self, entry: &mut Entry) -> Option<Result<At, RecordsError>> {
        loop {
            let segment = self.segment;
            let reader = self.reader.as_mut()?;
            match reader.read(entry, self.entry) {
                Some(Ok(offset)) => {
                    let at = At {
                        segment,
                        offset,
                        entry: self.entry,
                    };
                    self.entry += 1;
                    return Some(Ok(at));
                }
                Some(Err(error)) => return Some(Err(error)),
                // Looked for only now: while a list is read, segments may be added.
                None => match self.advance() {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => return Some(Err(error)),
                },
            }
        }
    }

    /// Goes to the segment after the one at hand; false: there is none.
    pub(crate) fn advance(&mut self) -> Result<bool, RecordsError> {
        if !self.list.segmented {
            return Ok(false);
        }
        let dir = &self.list.path;
        let next = segments(dir)
            .map_err(failed("list", dir))?
            .into_iter()
            .find(|(number, _)| *number > self.segment);
        let Some((number, path)) = next else {
            return Ok(false);
        };
        // It may have been finished since its end was seen, and before the next was begun.
        if let (Some(reader), false) = (&self.reader, self.finished) {
            let (path, next) = (reader.path.clone(), reader.next);
            self.reader = Some(Reader::open(&path, next)?);
            self.finished = true;
            return Ok(true);
        }
        self.finished = false;
        self.reader = Some(Reader::open(&path, 0)?);
        self.segment = number;
        Ok(true)
    }
}

impl Reader {
    fn open(path: &Path, offset: u64) -> Result<Self, RecordsError> {
        let mut file = File::open(path).map_err(failed("open", path))?;
        let mut start = [0; 4];
        let read = file.read(&mut start).map_err(failed("read", path))?;
        // A binary record starts with a PCR number of 32 bits: some byte is 0.
        let text = read > 0
            && start[..read]
                .iter()
                .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
        let format = if text {
            None
        } else {
            Some(Self::format(&mut file).map_err(failed("read", path))?)
        };
        file.seek(SeekFrom::Start(offset))
            .map_err(failed("seek in", path))?;
        let form = match format {
            None => Form::Ascii(AsciiReader::detect(BufReader::new(file))),
            Some(format) => Form::Binary(BinaryReader::new(file, format)),
        };
        Ok(Self {
            path: path.to_owned(),
            form,
            base: offset,
            next: offset,
        })
    }

    /// Only the first record tells byte order and hash.
    fn format(file: &mut File) -> io::Result<BinaryFormat> {
        file.rewind()?;
        let mut reader = BinaryReader::detect(&*file);
        let mut entry = Entry::default();
        let _ = reader.read_entry(&mut entry);
        Ok(reader.format().unwrap_or_default())
    }

    fn read(&mut self, entry: &mut Entry, number: u64) -> Option<Result<u64, RecordsError>> {
        let base = self.base;
        let path = &self.path;
        let bad = |offset: u64, kind: String, torn| RecordsError::Bad {
            path: path.clone(),
            reason: format!("entry {number}, at byte {}: {kind}", base + offset),
            torn,
        };
        let (offset, len) = match &mut self.form {
            Form::Binary(reader) => match reader.read_entry(entry)? {
                Ok(position) => (base + position.offset, position.len),
                Err(error) => {
                    let torn = matches!(error.kind, ReadErrorKind::Torn { .. });
                    return Some(Err(bad(error.offset, error.kind.to_string(), torn)));
                }
            },
            Form::Ascii(reader) => match reader.next()? {
                Ok((position, read)) => {
                    *entry = read;
                    (base + position.offset, position.len)
                }
                Err(error) => {
                    let torn = matches!(error.kind, AsciiErrorKind::Torn { .. });
                    return Some(Err(bad(error.offset, error.kind.to_string(), torn)));
                }
            },
        };
        self.next = offset + len;
        Some(Ok(offset))
    }
}

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> RecordsError + use<'a> {
    move |source| RecordsError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
