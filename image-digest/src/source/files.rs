// SPDX-License-Identifier: Apache-2.0
//! Where the documents and layers of an image lie: the files of a directory, or the members of a tar archive.
//!
//! A directory is entered beneath, links are not followed, and what is opened is a regular file. An archive
//! is indexed once; if it is compressed, into a nameless file, since its parts are read in no order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, copy};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use super::tar::{Input, TarError, TarReader, What};
use crate::LimitError;
use crate::limits::Budget;

/// Links in an archive that lead to another: `docker save` had one for a layer that comes twice.
const MAX_LINKS: usize = 8;

/// Why a file of an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The directory or archive itself.
    #[error("{} cannot be opened: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What it should have.
    #[error("it has no file \"{}\": {source}", name.escape_default())]
    File {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive is none.
    #[error("{} is no archive of an image: {source}", path.display())]
    Archive {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: TarError,
    },
    /// It does not unpack.
    #[error("{} does not unpack: {source}", path.display())]
    Unpack {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One file has two contents.
    #[error("{} has \"{}\" twice, and readers differ in which they take", path.display(), name.escape_ascii())]
    Twice {
        /// The archive.
        path: PathBuf,
        /// The member.
        name: Vec<u8>,
    },
    /// It asks for too much.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// A place with files.
pub(crate) enum Files {
    Directory(OwnedFd),
    Archive {
        file: Arc<File>,
        members: HashMap<Vec<u8>, Stored>,
    },
}

pub(crate) enum Stored {
    File { offset: u64, size: u64 },
    Link(Vec<u8>),
}

/// One of the files, open.
pub(crate) struct Opened {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) size: u64,
}

impl Files {
    pub(crate) fn directory(path: &Path) -> Result<Self, FilesError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty()).map_err(|error| FilesError::Open {
            path: path.to_owned(),
            source: error.into(),
        })?;
        Ok(Self::Directory(root))
    }

    pub(crate) fn archive(path: &Path, budget: &Budget) -> Result<Self, FilesError> {
        let failed = |source| FilesError::Open {
            path: path.to_owned(),
            source,
        };
        // Without waiting for who writes, should it be a fifo, which is then refused.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let (file, _) = regular(file).map_err(failed)?;
        let file = unpacked(file, path, budget)?;
        let members = index(&file, path, budget)?;
        Ok(Self::Archive {
            file: Arc::new(file),
            members,
        })
    }

    /// Opens a file by its path, which has no `..` in it and no `/` in front.
    pub(crate) fn open(&self, name: &str) -> Result<Opened, FilesError> {
        let failed = |source: io::Error| FilesError::File {
            name: name.to_owned(),
            source,
        };
        match self {
            Self::Directory(root) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
                let beneath =
                    ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
                let file = openat2(root, name, flags, Mode::empty(), beneath)
                    .map_err(|error| failed(error.into()))?;
                let (file, size) = regular(file).map_err(failed)?;
                Ok(Opened {
                    reader: Box::new(file),
                    size,
                })
            }
            Self::Archive { file, members } => {
                let (offset, size) = find(members, name.as_bytes()).map_err(failed)?;
                let reader = Section {
                    file: Arc::clone(file),
                    offset,
                    left: size,
                };
                Ok(Opened {
                    reader: Box::new(reader),
                    size,
                })
            }
        }
    }
}

/// A regular file and its size.
fn regular(file: OwnedFd) -> io::Result<(File, u64)> {
    let file = File::from(file);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((file, metadata.len()))
}

/// The archive itself, or a nameless copy without its compression.
fn unpacked(mut file: File, path: &Path, budget: &Budget) -> Result<File, FilesError> {
    let failed = |source| FilesError::Unpack {
        path: path.to_owned(),
        source,
    };
    let mut head = [0; 4];
    let known = file.read_at(&mut head, 0).map_err(failed)?;
    let mut unpacked: Box<dyn Read> = match &head[..known] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(file).map_err(failed)?),
        _ => {
            file.seek(SeekFrom::Start(0)).map_err(failed)?;
            return Ok(file);
        }
    };
    let mut copied = tempfile::tempfile().map_err(failed)?;
    loop {
        let piece = copy(&mut unpacked.by_ref().take(16 << 20), &mut copied).map_err(failed)?;
        if piece == 0 {
            break;
        }
        budget.spend_content(piece)?;
    }
    copied.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(copied)
}

impl Input for &File {
    /// Passes over what is there: a seek behind the end would not be noticed.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let to = self.stream_position()?.saturating_add(bytes);
        if to > self.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.seek(SeekFrom::Start(to))?;
        Ok(())
    }
}

fn index(
    file: &File,
    path: &Path,
    budget: &Budget,
) -> Result<HashMap<Vec<u8>, Stored>, FilesError> {
    let failed = |source| FilesError::Archive {
        path: path.to_owned(),
        source,
    };
    let mut members = HashMap::new();
    let mut archive = TarReader::new(file);
    while let Some(member) = archive.next().map_err(failed)? {
        budget.spend_entries(1, member.path.len() as u64)?;
        let name = plain(&member.path);
        let stored = match member.what {
            What::File(_) if member.size == member.stored => Stored::File {
                offset: archive.position(),
                size: member.size,
            },
            What::Symlink { target, .. } => Stored::Link(beside(&name, &target)),
            What::HardLink(target) => Stored::Link(plain(&target)),
            // Nothing of an image's documents is anything else.
            _ => continue,
        };
        if members.insert(name.clone(), stored).is_some() {
            let path = path.to_owned();
            return Err(FilesError::Twice { path, name });
        }
    }
    archive.finish().map_err(failed)?;
    Ok(members)
}

fn find(members: &HashMap<Vec<u8>, Stored>, name: &[u8]) -> io::Result<(u64, u64)> {
    let mut name = name;
    for _ in 0..MAX_LINKS {
        match members.get(name) {
            None => return Err(io::ErrorKind::NotFound.into()),
            Some(Stored::File { offset, size }) => return Ok((*offset, *size)),
            Some(Stored::Link(target)) => name = target,
        }
    }
    Err(io::Error::other("it is a link that leads nowhere"))
}

/// A member's path without `./` and the like. One with `..` stays what no file is asked for by.
fn plain(path: &[u8]) -> Vec<u8> {
    let names = path.split(|byte| *byte == b'/');
    let names: Vec<_> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
    names.join(&b'/')
}

/// Where a link that stands at `name` leads; above the archive's root is nothing.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    names.pop();
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            part => names.push(part),
        }
    }
    names.join(&b'/')
}

/// A part of a file, read at its own place.
struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
