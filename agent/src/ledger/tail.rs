// SPDX-License-Identifier: Apache-2.0
//! Following the list while it is written. The writer says how far list and TPM have it, one number for each
//! group, and does nothing else for whoever follows: they read the segments up to there, in pieces, at their own pace. So there is no
//! seam between what was and what comes, nobody misses anything, and a reader that stands still holds a place and no memory.
//!
//! Entries have the numbers that `cima log` gives them: whole records, all segments. What cannot be read is passed over as
//! there, to the next segment.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use ima_log::{BinaryReader, Entry, Limits, ReadError, ReadErrorKind};
use tokio::sync::watch::{Receiver, Sender};

use super::{
    Ledger, LedgerError, at,
    intent::{FORMAT, Place},
    segment::{path, segments},
};

/// Bytes that are read at a time, if no record has more.
const PIECE: u64 = 256 << 10;
/// The longest record: what a reader takes of data, and of names and lengths.
const LONGEST: u64 = (16 << 20) + (1 << 10);

/// How far the list is in list and TPM, said by the writer.
pub(super) type Progress = Sender<Place>;

/// The list as far as it is in list and TPM, for whoever follows it.
#[derive(Debug, Clone)]
pub struct Committed {
    dir: PathBuf,
    end: Receiver<Place>,
    /// The last place up to which somebody counted, and how many entries were before it: the next need not begin at the list's
    /// beginning.
    counted: Arc<Mutex<(Place, u64)>>,
}

impl Ledger {
    /// For readers that follow the list.
    pub fn committed(&self) -> Committed {
        Committed {
            dir: self.dir.clone(),
            end: self.progress.subscribe(),
            counted: Arc::default(),
        }
    }

    /// List and TPM have everything so far.
    pub(super) fn tell_progress(&self) {
        self.progress.send_replace(Place {
            segment: self.segment.number(),
            offset: self.segment.len(),
        });
    }
}

impl Committed {
    /// Follows the list from entry number `from` on, which may be one to come; without it, from what is committed next. Reads nothing yet.
    pub fn follow(&self, from: Option<u64>) -> Tail {
        let now = *self.end.borrow();
        let from = from.map_or(Begin::Place(now), Begin::Number);
        let (place, next) = *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (place, next) = if from.is_behind(place, next) {
            (Place::default(), 0)
        } else {
            (place, next)
        };
        Tail {
            committed: self.clone(),
            from,
            place,
            next,
            segment: None,
        }
    }
}

/// The first entry that a reader wants.
#[derive(Debug, Clone, Copy)]
enum Begin {
    Number(u64),
    Place(Place),
}

impl Begin {
    /// Whether a reader that begins at entry `next`, at `place`, would miss some.
    fn is_behind(self, place: Place, next: u64) -> bool {
        match self {
            Self::Number(first) => first < next,
            Self::Place(first) => first < place,
        }
    }

    /// Whether entry `number`, at `place`, is wanted.
    fn wants(self, place: Place, number: u64) -> bool {
        match self {
            Self::Number(first) => first <= number,
            Self::Place(first) => first <= place,
        }
    }
}

/// A reader of the list, somewhere in it.
#[derive(Debug)]
pub struct Tail {
    committed: Committed,
    from: Begin,
    /// What is to be read next, and its number.
    place: Place,
    next: u64,
    /// The file of `place.segment`.
    segment: Option<File>,
}

/// A part of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Number of the first entry, or of the next one if there is none.
    pub first_entry: u64,
    /// The segment that holds them.
    pub segment: u32,
    /// Where the first begins in it, in bytes.
    pub offset: u64,
    /// Whole records, as in the segment. None: they are not wanted, or `unreadable` says why.
    pub records: Vec<u8>,
    /// Why the rest of the segment cannot be read; the next piece is of another.
    pub unreadable: Option<String>,
}

impl Tail {
    /// Number of the entry that is read next.
    pub fn next_entry(&self) -> u64 {
        self.next
    }

    /// Waits until there may be more to read. False: the writer has ended, and what it wrote may still be read.
    pub async fn wait(&mut self) -> bool {
        self.committed.end.changed().await.is_ok()
    }

    /// Reads the next piece; `None`: there is no more so far. Waits for the disk.
    ///
    /// # Errors
    /// A segment cannot be opened or read: it is gone, or the disk fails.
    pub fn read(&mut self) -> Result<Option<Piece>, LedgerError> {
        let end = *self.committed.end.borrow_and_update();
        while let Some(available) = self.available(end)? {
            if available > 0 {
                return self.piece(available).map(Some);
            }
            if self.place.segment >= end.segment || !self.next_segment(end)? {
                break;
            }
        }
        Ok(None)
    }

    /// Bytes of the segment at hand that there are to be read; `None`: nothing is written at all.
    fn available(&mut self, end: Place) -> Result<Option<u64>, LedgerError> {
        if end == Place::default() {
            return Ok(None);
        }
        if self.place.segment == 0 {
            return Ok(Some(0));
        }
        let limit = if self.place.segment < end.segment {
            let len = self.file()?.metadata().map(|metadata| metadata.len());
            len.map_err(|source| self.failed("look at", source))?
        } else {
            end.offset
        };
        Ok(Some(limit.saturating_sub(self.place.offset)))
    }

    /// Goes to the segment behind the one at hand, which has no more. False: there is none, though the writer said so.
    fn next_segment(&mut self, end: Place) -> Result<bool, LedgerError> {
        let dir = &self.committed.dir;
        let behind = |number: &u32| *number > self.place.segment && *number <= end.segment;
        let numbers = segments(dir).map_err(at("list", dir))?;
        let next = numbers.into_iter().map(|(number, _)| number).find(behind);
        let Some(segment) = next else {
            return Ok(false);
        };
        self.place = Place { segment, offset: 0 };
        self.segment = None;
        Ok(true)
    }

    /// The next records of the segment at hand, which has so many bytes more.
    fn piece(&mut self, available: u64) -> Result<Piece, LedgerError> {
        let mut size = PIECE;
        loop {
            let mut bytes = vec![0; usize::try_from(available.min(size)).unwrap_or(usize::MAX)];
            let offset = self.place.offset;
            let read = self.file()?.read_exact_at(&mut bytes, offset);
            read.map_err(|source| self.failed("read", source))?;
            let (wanted, stopped) = self.whole_records(&bytes);
            match stopped {
                _ if wanted.end > 0 => return Ok(self.advance(bytes, &wanted)),
                Some(error) if is_torn(&error) && size < available.min(LONGEST) => size *= 4,
                Some(error) => return Ok(self.pass_over(error)),
                // There are bytes, so there is a record or an error.
                None => return Ok(self.advance(bytes, &wanted)),
            }
        }
    }

    /// The records in `bytes`, which begin at the reader's place, and what stands behind them.
    fn whole_records(&self, bytes: &[u8]) -> (Wanted, Option<ReadError>) {
        let limits = Limits::default();
        let mut reader = BinaryReader::new(bytes, FORMAT).with_limits(limits);
        let (mut entry, mut first, mut stopped) = (Entry::default(), None, None);
        while let Some(read) = reader.read_entry(&mut entry) {
            match read {
                Ok(position) => {
                    let place = Place {
                        offset: self.place.offset + position.offset,
                        ..self.place
                    };
                    let number = self.next + position.index;
                    if first.is_none() && self.from.wants(place, number) {
                        first = Some((position.offset, number));
                    }
                }
                Err(error) => stopped = Some(error),
            }
        }
        let (end, next) = (reader.good_end(), self.next + reader.good_records());
        let (begin, number) = first.unwrap_or((end, next));
        let wanted = Wanted {
            begin,
            number,
            end,
            next,
        };
        (wanted, stopped)
    }

    /// Goes behind the records.
    fn advance(&mut self, mut bytes: Vec<u8>, wanted: &Wanted) -> Piece {
        let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        bytes.truncate(index(wanted.end));
        bytes.drain(..index(wanted.begin));
        let piece = Piece {
            first_entry: wanted.number,
            segment: self.place.segment,
            offset: self.place.offset + wanted.begin,
            records: bytes,
            unreadable: None,
        };
        self.place.offset += wanted.end;
        self.next = wanted.next;
        self.note_counted();
        piece
    }

    /// Goes behind the segment, of which no more can be read.
    fn pass_over(&mut self, error: ReadError) -> Piece {
        let error = ReadError {
            offset: self.place.offset,
            index: self.next,
            ..error
        };
        let path = path(&self.committed.dir, self.place.segment);
        let piece = Piece {
            first_entry: self.next,
            segment: self.place.segment,
            offset: self.place.offset,
            records: Vec::new(),
            unreadable: Some(format!("{}: {error}", path.display())),
        };
        self.place.offset = u64::MAX;
        piece
    }

    fn note_counted(&self) {
        let counted = &self.committed.counted;
        let mut counted = counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 < self.place {
            *counted = (self.place, self.next);
        }
    }

    fn file(&mut self) -> Result<&File, LedgerError> {
        let path = path(&self.committed.dir, self.place.segment);
        let file = match self.segment.take() {
            Some(file) => file,
            None => File::open(&path).map_err(at("open", &path))?,
        };
        Ok(self.segment.insert(file))
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> LedgerError {
        let path = path(&self.committed.dir, self.place.segment);
        at(action, &path)(source)
    }
}

/// Records that were found; offsets are from the reader's place.
struct Wanted {
    /// Where the first begins that is wanted, and its number.
    begin: u64,
    number: u64,
    /// Where the last ends, and the number of the one behind it.
    end: u64,
    next: u64,
}

fn is_torn(error: &ReadError) -> bool {
    matches!(error.kind, ReadErrorKind::Torn { .. })
}
