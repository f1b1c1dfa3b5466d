// SPDX-License-Identifier: Apache-2.0
//! Where a list comes from: a file, standard input, or the segments of a ledger's
//! directory, read one after the other as one list.
//!
//! Binary or ASCII is found by the first bytes, for each segment by itself. A segment
//! that ends inside a record is an error at that place, after which the next segment
//! is read: a chain that broke leaves such an end behind.

use std::{
    fmt,
    fs::{self, File, Metadata},
    io::{self, BufReader, Chain, Cursor, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use ima_log::{
    AsciiError, AsciiErrorKind, AsciiReader, BinaryReader, Entry, Position, ReadError,
    ReadErrorKind,
};

use crate::{
    ledger::{SUFFIX, segments},
    verify::Place,
};

/// The running boot's id.
pub(super) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why a list cannot be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Nothing was written in this boot.
    #[error(
        "there is no list of this boot: {} does not exist (cimad has not run since the boot, or its state is elsewhere: --state-dir)",
        .0.display()
    )]
    NoList(PathBuf),
    /// A directory that is not a boot's.
    #[error(
        "{} has no segments (00000001.{SUFFIX} and so on): name a boot's own directory, <state>/ledger/<boot id>",
        .0.display()
    )]
    NoSegments(PathBuf),
    /// A binary list ends early.
    #[error("{file}: {source}")]
    Binary {
        /// The file.
        file: String,
        /// Record and byte.
        #[source]
        source: ReadError,
    },
    /// An ASCII list ends early.
    #[error("{file}: {source}")]
    Ascii {
        /// The file.
        file: String,
        /// Entry and byte.
        #[source]
        source: AsciiError,
    },
}

impl SourceError {
    /// Whether the list ends inside a record: it was cut, or is being written now.
    pub fn is_torn(&self) -> bool {
        match self {
            Self::Binary { source, .. } => matches!(source.kind, ReadErrorKind::Torn { .. }),
            Self::Ascii { source, .. } => matches!(source.kind, AsciiErrorKind::Torn { .. }),
            Self::Io { .. } | Self::NoList(_) | Self::NoSegments(_) => false,
        }
    }

    /// Where the record that cannot be read begins, in its file, and what is wrong with it; `None`: the file cannot be read.
    fn damage(&self) -> Option<(u64, String)> {
        match self {
            Self::Binary { source, .. } if !matches!(source.kind, ReadErrorKind::Io(_)) => {
                Some((source.offset, source.kind.to_string()))
            }
            Self::Ascii { source, .. } if !matches!(source.kind, AsciiErrorKind::Io(_)) => {
                Some((source.offset, source.kind.to_string()))
            }
            _ => None,
        }
    }
}

/// A record that cannot be read.
#[derive(Debug, Clone)]
pub(super) struct Damage {
    /// Where.
    pub(super) place: Place,
    /// The list ends inside it.
    pub(super) torn: bool,
    /// What is wrong.
    pub(super) said: String,
}

/// A place a list can be read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Standard input.
    Stdin,
    /// A file in either form.
    File(PathBuf),
    /// A boot's directory.
    Ledger(PathBuf),
    /// What evidence has in it.
    Evidence {
        /// The file of evidence.
        path: PathBuf,
        /// The list.
        list: Arc<[u8]>,
    },
}

impl Source {
    /// The list that the command line names: `list`, or the running boot's below `state_dir`.
    ///
    /// # Errors
    /// There is no such thing.
    pub(super) fn find(list: Option<&Path>, state_dir: &Path) -> Result<Self, SourceError> {
        match list {
            Some(path) if path == Path::new("-") => Ok(Self::Stdin),
            Some(path) => {
                let metadata = fs::metadata(path).map_err(failed("open", path))?;
                Ok(if metadata.is_dir() {
                    Self::Ledger(path.to_owned())
                } else {
                    Self::File(path.to_owned())
                })
            }
            None => {
                let dir = state_dir.join("ledger").join(running_boot()?);
                match fs::metadata(&dir) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        Err(SourceError::NoList(dir))
                    }
                    Err(error) => Err(failed("open", &dir)(error)),
                    Ok(_) => Ok(Self::Ledger(dir)),
                }
            }
        }
    }

    /// Opens it at its beginning.
    ///
    /// # Errors
    /// It cannot be opened, or a directory has no segments.
    pub(super) fn open(&self) -> Result<Entries, SourceError> {
        let (dir, reader) = match self {
            Self::Stdin => {
                let reader = Reader::new(Box::new(io::stdin()), self.to_string());
                (None, Some(reader.map_err(failed("read", "-".as_ref()))?))
            }
            Self::File(path) => (None, Some(open(path)?)),
            Self::Evidence { path, list } => {
                let bytes = Box::new(Cursor::new(Arc::clone(list)));
                let reader = Reader::new(bytes, path.display().to_string());
                (None, Some(reader.map_err(failed("read", path))?))
            }
            Self::Ledger(dir) => (Some(dir.clone()), None),
        };
        let mut entries = Entries {
            reader,
            dir,
            segment: None,
            index: 0,
            first: None,
        };
        if entries.reader.is_none() && !entries.next_segment()? {
            let dir = entries.dir.unwrap_or_default();
            return Err(SourceError::NoSegments(dir));
        }
        Ok(entries)
    }

    /// Whether `file` is this list's, or one of its segments.
    pub(super) fn holds(&self, file: &Metadata) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let same = |path: &Path| {
            fs::metadata(path).is_ok_and(|own| own.dev() == file.dev() && own.ino() == file.ino())
        };
        match self {
            Self::Stdin | Self::Evidence { .. } => false,
            Self::File(path) => same(path),
            Self::Ledger(dir) => {
                segments(dir).is_ok_and(|segments| segments.iter().any(|(_, path)| same(path)))
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) | Self::Ledger(path) | Self::Evidence { path, .. } => {
                path.display().fmt(f)
            }
        }
    }
}

/// The running boot's id.
///
/// # Errors
/// The kernel's file cannot be read.
pub(super) fn running_boot() -> Result<String, SourceError> {
    let path = Path::new(BOOT_ID);
    let id = fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(id.trim().to_owned())
}

/// The entries of a list, in order.
pub(super) struct Entries {
    reader: Option<Reader>,
    /// Where further segments are looked for.
    dir: Option<PathBuf>,
    segment: Option<u32>,
    /// Entries read.
    index: u64,
    /// An entry that was looked at but not taken.
    first: Option<(Place, Entry)>,
}

impl Entries {
    /// The first entry, which [`Entries::read`] gives again; `None`: the list is empty.
    ///
    /// # Errors
    /// As [`Entries::read`].
    pub(super) fn first(&mut self) -> Result<Option<&Entry>, SourceError> {
        let mut entry = Entry::default();
        if let Some(place) = self.read(&mut entry) {
            self.first = Some((place?, entry));
        }
        Ok(self.first.as_ref().map(|(_, entry)| entry))
    }

    /// Where the list cannot be read on, after [`Entries::read`] gave this error, and why.
    ///
    /// # Errors
    /// The same, if it is the file that cannot be read.
    pub(super) fn damage(&self, error: SourceError) -> Result<Damage, SourceError> {
        match error.damage() {
            None => Err(error),
            Some((offset, said)) => Ok(Damage {
                place: Place {
                    index: self.index,
                    offset,
                    segment: self.segment,
                },
                torn: error.is_torn(),
                said,
            }),
        }
    }

    /// Reads the next entry into `entry`. `None`: the list is at its end. After an error
    /// the next segment, if there is one, goes on.
    ///
    /// # Errors
    /// A file cannot be read any further: see [`SourceError`].
    pub(super) fn read(&mut self, entry: &mut Entry) -> Option<Result<Place, SourceError>> {
        if let Some((place, first)) = self.first.take() {
            *entry = first;
            return Some(Ok(place));
        }
        loop {
            match self.reader.as_mut()?.read(entry) {
                Some(Ok(position)) => {
                    let place = Place {
                        index: self.index,
                        offset: position.offset,
                        segment: self.segment,
                    };
                    self.index += 1;
                    return Some(Ok(place));
                }
                Some(Err(error)) => return Some(Err(error)),
                // Looked for only now: while a list is read, segments may be added.
                None => match self.next_segment() {
                    Ok(true) => {}
                    Ok(false) => self.reader = None,
                    Err(error) => {
                        self.reader = None;
                        return Some(Err(error));
                    }
                },
            }
        }
    }

    /// Goes to the segment after the one at hand; false: there is none.
    fn next_segment(&mut self) -> Result<bool, SourceError> {
        let Some(dir) = &self.dir else {
            return Ok(false);
        };
        let after = self.segment;
        let next = segments(dir)
            .map_err(failed("list", dir))?
            .into_iter()
            .find(|(number, _)| after.is_none_or(|after| *number > after));
        let Some((number, path)) = next else {
            return Ok(false);
        };
        self.reader = Some(open(&path)?);
        self.segment = Some(number);
        Ok(true)
    }
}

type Bytes = Chain<Cursor<Vec<u8>>, Box<dyn Read>>;

struct Reader {
    file: String,
    form: Form,
}

enum Form {
    Binary(BinaryReader<Bytes>),
    Ascii(AsciiReader<BufReader<Bytes>>),
}

impl Reader {
    fn new(mut source: Box<dyn Read>, file: String) -> io::Result<Self> {
        let mut start = Vec::new();
        source.by_ref().take(4).read_to_end(&mut start)?;
        // A binary record starts with a PCR number of 32 bits: some byte is 0.
        let text = !start.is_empty()
            && start
                .iter()
                .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
        let bytes = Cursor::new(start).chain(source);
        let form = if text {
            Form::Ascii(AsciiReader::detect(BufReader::new(bytes)))
        } else {
            Form::Binary(BinaryReader::detect(bytes))
        };
        Ok(Self { file, form })
    }

    fn read(&mut self, entry: &mut Entry) -> Option<Result<Position, SourceError>> {
        let file = &self.file;
        match &mut self.form {
            Form::Binary(reader) => {
                Some(
                    reader
                        .read_entry(entry)?
                        .map_err(|source| SourceError::Binary {
                            file: file.clone(),
                            source,
                        }),
                )
            }
            Form::Ascii(reader) => Some(match reader.next()? {
                Ok((position, read)) => {
                    *entry = read;
                    Ok(position)
                }
                Err(source) => Err(SourceError::Ascii {
                    file: file.clone(),
                    source,
                }),
            }),
        }
    }
}

fn open(path: &Path) -> Result<Reader, SourceError> {
    let file = File::open(path).map_err(failed("open", path))?;
    Reader::new(Box::new(file), path.display().to_string()).map_err(failed("read", path))
}

/// Shorthand for I/O errors that name the file.
fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> SourceError + use<'a> {
    move |source| SourceError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
