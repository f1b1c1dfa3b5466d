// SPDX-License-Identifier: Apache-2.0
//! The members of a tar archive, streamed.
//!
//! `tar-core` reads headers and their extensions; this file feeds it, hands out content, and
//! refuses what readers are known to understand differently: then an image would be one thing for who
//! publishes it and another for who runs it. Called for layers and for archives of whole images.

use std::io::{self, Read};

use tar_core::parse::{Limits, ParseError, ParseEvent, ParsedEntry, Parser};
use tar_core::{EntryType, PaxExtensions, SparseEntry};

use crate::{Device, Meta};

const BLOCK: u64 = 512;
/// What is read at once.
const BUFFER: usize = 256 << 10;
/// The most that headers of one member may need: their own limit, and a map of holes.
const MAX_HEADERS: usize = 4 << 20;
/// As Go's reader, which engines use, has it.
const MAX_EXTENSIONS: u32 = 1 << 20;
const MAX_HOLES: usize = 100_000;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Why an archive is no archive that can be trusted to mean one thing.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream failed.
    #[error("it cannot be read to its end: {0}")]
    Read(#[source] io::Error),
    /// It ends inside a member.
    #[error("it is cut: it ends inside {what}, at byte {at}")]
    Cut {
        /// In what.
        what: String,
        /// Bytes from the archive's beginning.
        at: u64,
    },
    /// No header where one should be.
    #[error("at byte {at} is no header that can be read: {reason}")]
    Header {
        /// Bytes from the archive's beginning.
        at: u64,
        /// Why.
        #[source]
        reason: ParseError,
    },
    /// A global header that says more than a comment.
    #[error(
        "at byte {at} is a header for all that follows (pax type g), which some readers heed and others do not"
    )]
    Global {
        /// Bytes from the archive's beginning.
        at: u64,
    },
    /// Something behind the end.
    #[error("there is something behind its end mark, at byte {at}")]
    BehindEnd {
        /// Bytes from the archive's beginning.
        at: u64,
    },
    /// A member that means nothing, or two things.
    #[error("entry \"{}\" is refused: {why}", path.escape_ascii())]
    Member {
        /// As in the archive.
        path: Vec<u8>,
        /// Why.
        why: &'static str,
    },
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    File(Meta),
    Directory(Meta),
    Symlink { uid: u32, gid: u32, target: Vec<u8> },
    HardLink(Vec<u8>),
    CharDevice(Meta, Device),
    BlockDevice(Meta, Device),
    Fifo(Meta),
}

/// One member. Its content, if it is a file, is to be had from the reader until the next is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// As in the archive.
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
    /// Bytes that the archive has of it.
    pub(crate) stored: u64,
}

/// Where an archive comes from.
pub(crate) trait Input: Read {
    /// Passes over so many bytes.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// A stream of members.
pub(crate) struct TarReader<R> {
    input: R,
    parser: Parser,
    buffer: Vec<u8>,
    /// What of the buffer is read and not used.
    from: usize,
    to: usize,
    /// Of `from`, in the archive.
    position: u64,
    pending: Pending,
}

/// What the archive still has of the member that was handed out.
#[derive(Default)]
struct Pending {
    path: Vec<u8>,
    regions: Vec<SparseEntry>,
    size: u64,
    /// With padding.
    stored: u64,
}

impl<R: Input> TarReader<R> {
    pub(crate) fn new(input: R) -> Self {
        let limits = Limits {
            max_metadata_size: MAX_EXTENSIONS,
            max_sparse_entries: MAX_HOLES,
            ..Limits::default()
        };
        Self {
            input,
            parser: Parser::new(limits),
            buffer: vec![0; BUFFER],
            from: 0,
            to: 0,
            position: 0,
            pending: Pending::default(),
        }
    }

    /// Bytes of the archive before what is read next: after [`Self::next`] of the member's content.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next member; `None` at the archive's end. What was not read of the one before is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, TarError> {
        self.skip_pending()?;
        loop {
            let (consumed, found) = match self.parse()? {
                Parsed::Member(consumed, member, regions) => {
                    let stored = padded(member.stored, &member.path)?;
                    self.pending = Pending {
                        path: member.path.clone(),
                        regions,
                        size: member.size,
                        stored,
                    };
                    (consumed, Some(member))
                }
                Parsed::Comment(consumed) => (consumed, None),
                Parsed::End => return Ok(None),
                Parsed::More(bytes) => {
                    if !self.fill(bytes)? {
                        return Ok(None);
                    }
                    continue;
                }
            };
            self.consume(consumed);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Hands the content of the last member to `each`, piece by piece, holes as zeros.
    pub(crate) fn content<E: From<TarError>>(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Pending {
            path,
            regions,
            size,
            stored,
        } = std::mem::take(&mut self.pending);
        let (mut at, mut read) = (0, 0);
        for region in &regions {
            zeros(region.offset - at, &mut each)?;
            self.take(region.length, &path, &mut each)?;
            at = region.offset + region.length;
            read += region.length;
        }
        zeros(size - at, &mut each)?;
        self.pending = Pending {
            path,
            regions: Vec::new(),
            size: 0,
            stored: stored - read,
        };
        Ok(self.skip_pending()?)
    }

    /// Makes sure that only zeros follow, as tar pads its records.
    pub(crate) fn finish(mut self) -> Result<(), TarError> {
        loop {
            let rest = &self.buffer[self.from..self.to];
            if let Some(at) = rest.iter().position(|byte| *byte != 0) {
                let at = self.position + at as u64;
                return Err(TarError::BehindEnd { at });
            }
            self.consume(rest.len());
            if self.read_more()? == 0 {
                return Ok(());
            }
        }
    }

    fn parse(&mut self) -> Result<Parsed, TarError> {
        let at = self.position;
        let available = &self.buffer[self.from..self.to];
        let header = |reason| TarError::Header { at, reason };
        match self.parser.parse(available).map_err(header)? {
            ParseEvent::NeedData { min_bytes } => Ok(Parsed::More(min_bytes)),
            ParseEvent::End { consumed } => {
                self.consume(consumed);
                Ok(Parsed::End)
            }
            ParseEvent::GlobalExtensions { consumed, pax_data } => {
                let comment = |key: &str| key == "comment";
                let harmless = PaxExtensions::new(pax_data)
                    .all(|record| record.is_ok_and(|record| record.key().is_ok_and(comment)));
                if !harmless {
                    return Err(TarError::Global { at });
                }
                Ok(Parsed::Comment(consumed))
            }
            ParseEvent::Entry { consumed, entry } => {
                unambiguous(&entry, available, consumed)?;
                let whole = SparseEntry {
                    offset: 0,
                    length: entry.size,
                };
                let member = member(&entry, entry.size)?;
                Ok(Parsed::Member(consumed, member, vec![whole]))
            }
            ParseEvent::SparseEntry {
                consumed,
                entry,
                sparse_map,
                real_size,
            } => {
                let regions = regions(&entry, sparse_map, real_size)?;
                let member = member(&entry, real_size)?;
                Ok(Parsed::Member(consumed, member, regions))
            }
        }
    }

    /// Reads until more is there than was, and at least so much; false if the archive has ended.
    fn fill(&mut self, bytes: usize) -> Result<bool, TarError> {
        let have = self.to - self.from;
        let wanted = bytes.max(have + 1);
        if wanted > MAX_HEADERS {
            return Err(TarError::Header {
                at: self.position,
                reason: ParseError::MetadataTooLarge {
                    size: wanted as u64,
                    limit: MAX_EXTENSIONS,
                },
            });
        }
        while self.to - self.from < wanted {
            if self.read_more()? > 0 {
                continue;
            }
            if self.from == self.to {
                return Ok(false);
            }
            return Err(TarError::Cut {
                what: "a header".into(),
                at: self.position + (self.to - self.from) as u64,
            });
        }
        Ok(true)
    }

    fn read_more(&mut self) -> Result<usize, TarError> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        } else if self.to == self.buffer.len() {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        if self.to == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        let read = read_some(&mut self.input, &mut self.buffer[self.to..])?;
        self.to += read;
        Ok(read)
    }

    fn consume(&mut self, bytes: usize) {
        self.from += bytes;
        self.position += bytes as u64;
    }

    fn take<E: From<TarError>>(
        &mut self,
        mut bytes: u64,
        path: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while bytes > 0 {
            if self.from == self.to && self.read_more()? == 0 {
                return Err(self.cut(path).into());
            }
            let here = (self.to - self.from).min(usize::try_from(bytes).unwrap_or(usize::MAX));
            each(&self.buffer[self.from..self.from + here])?;
            self.consume(here);
            bytes -= here as u64;
        }
        Ok(())
    }

    fn skip_pending(&mut self) -> Result<(), TarError> {
        let Pending { path, stored, .. } = std::mem::take(&mut self.pending);
        let buffered = ((self.to - self.from) as u64).min(stored);
        // It is at most what the buffer has.
        self.consume(usize::try_from(buffered).unwrap_or(usize::MAX));
        let beyond = stored - buffered;
        if beyond > 0 {
            self.input.skip(beyond).map_err(|error| {
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    self.cut(&path)
                } else {
                    TarError::Read(error)
                }
            })?;
            self.position += beyond;
        }
        Ok(())
    }

    fn cut(&self, path: &[u8]) -> TarError {
        TarError::Cut {
            what: format!("\"{}\"", path.escape_ascii()),
            at: self.position,
        }
    }
}

enum Parsed {
    Member(usize, Member, Vec<SparseEntry>),
    /// A header that says nothing of members.
    Comment(usize),
    End,
    /// So many bytes are needed.
    More(usize),
}

/// Reads, however often it is interrupted.
pub(crate) fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, TarError> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(TarError::Read),
        }
    }
}

fn zeros<E>(mut bytes: u64, each: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    while bytes > 0 {
        let here = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(ZEROS.len());
        each(&ZEROS[..here])?;
        bytes -= here as u64;
    }
    Ok(())
}

fn refused(path: &[u8], why: &'static str) -> TarError {
    TarError::Member {
        path: path.to_vec(),
        why,
    }
}

fn padded(size: u64, path: &[u8]) -> Result<u64, TarError> {
    let too_large = || refused(path, "it claims more bytes than a file can have");
    size.checked_next_multiple_of(BLOCK)
        .filter(|padded| i64::try_from(*padded).is_ok())
        .ok_or_else(too_large)
}

/// Refuses what the bytes in front of a member say in two ways.
fn unambiguous(entry: &ParsedEntry<'_>, bytes: &[u8], consumed: usize) -> Result<(), TarError> {
    let blocks = &bytes[..consumed.min(bytes.len())];
    if blocks.iter().take(BLOCK as usize).all(|byte| *byte == 0) {
        let why = "an empty block is before it, where some readers end and others go on";
        return Err(refused(&entry.path, why));
    }
    // The header, and in front of it one with attributes (pax): a long name of GNU's beside that
    // wins for Go and loses for others.
    if let Some(pax) = entry.pax {
        let attributes = BLOCK as usize + pax.len().next_multiple_of(BLOCK as usize);
        if consumed != BLOCK as usize + attributes {
            let why = "it has a long name of GNU's kind and attributes of pax's, and readers differ in which holds";
            return Err(refused(&entry.path, why));
        }
    }
    Ok(())
}

/// The parts of a file with holes, checked to be in order and to be what the archive has.
fn regions(
    entry: &ParsedEntry<'_>,
    map: Vec<SparseEntry>,
    size: u64,
) -> Result<Vec<SparseEntry>, TarError> {
    let (mut end, mut stored) = (0_u64, 0_u64);
    let ordered = map.iter().all(|region| {
        let after = region.offset.checked_add(region.length);
        let fits = region.offset >= end && after.is_some_and(|after| after <= size);
        end = after.unwrap_or(u64::MAX);
        stored = stored.saturating_add(region.length);
        fits
    });
    if !ordered || stored != entry.size {
        return Err(refused(
            &entry.path,
            "its map of holes does not fit its size",
        ));
    }
    Ok(map)
}

fn member(entry: &ParsedEntry<'_>, size: u64) -> Result<Member, TarError> {
    let path = &entry.path[..];
    let what = what(entry)?;
    if !matches!(what, What::File(_)) && (entry.size > 0 || size > 0) {
        let why =
            "it is no file and claims to have content, which some readers skip and others do not";
        return Err(refused(path, why));
    }
    Ok(Member {
        path: path.to_vec(),
        what,
        size,
        stored: entry.size,
    })
}

fn what(entry: &ParsedEntry<'_>) -> Result<What, TarError> {
    let path = &entry.path[..];
    let number = |value: u64| {
        u32::try_from(value)
            .ok()
            .filter(|value| *value != u32::MAX)
            .ok_or_else(|| refused(path, "its owner or group is no number that a file can have"))
    };
    let (uid, gid) = (number(entry.uid)?, number(entry.gid)?);
    let meta = || match capability(entry)? {
        Some(value) => Ok(Meta::new(entry.mode, uid, gid).with_capability(value)),
        None => Ok(Meta::new(entry.mode, uid, gid)),
    };
    let named_directory = path.ends_with(b"/");
    // Before POSIX a directory was a file whose name ends so: all readers agree on that one.
    let is_old = entry.header.as_bytes()[156] == 0;
    match entry.entry_type {
        EntryType::Regular if named_directory && is_old => Ok(What::Directory(meta()?)),
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse if named_directory => {
            let why =
                "it is a file with a directory's name, and readers differ in what they make of it";
            Err(refused(path, why))
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
            Ok(What::File(meta()?))
        }
        EntryType::Directory => Ok(What::Directory(meta()?)),
        EntryType::Symlink => {
            // A link's attributes are no part of the image, but an engine's own still are refused.
            capability(entry)?;
            let target = target(entry)?;
            Ok(What::Symlink { uid, gid, target })
        }
        EntryType::Link => Ok(What::HardLink(target(entry)?)),
        EntryType::Char => Ok(What::CharDevice(meta()?, device(entry)?)),
        EntryType::Block => Ok(What::BlockDevice(meta()?, device(entry)?)),
        EntryType::Fifo => Ok(What::Fifo(meta()?)),
        _ => Err(refused(path, "its type is none that an image can have")),
    }
}

fn target(entry: &ParsedEntry<'_>) -> Result<Vec<u8>, TarError> {
    match entry.link_target.as_deref() {
        None | Some(b"") => Err(refused(&entry.path, "it is a link to nothing")),
        Some(target) if target.contains(&0) => {
            Err(refused(&entry.path, "what it links to has a NUL in it"))
        }
        Some(target) if target.len() > 4095 => Err(refused(
            &entry.path,
            "what it links to has more than 4095 bytes",
        )),
        Some(target) => Ok(target.to_vec()),
    }
}

/// Widths of the kernel's `dev_t` (`MKDEV`, `include/linux/kdev_t.h`).
fn device(entry: &ParsedEntry<'_>) -> Result<Device, TarError> {
    let (major, minor) = (entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0));
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(refused(
            &entry.path,
            "its device's numbers are none that Linux has",
        ));
    }
    if major == 0 && minor == 0 && entry.entry_type == EntryType::Char {
        let why = "it is the character device 0, 0, which an overlay takes for a whiteout";
        return Err(refused(&entry.path, why));
    }
    Ok(Device { major, minor })
}

/// `security.capability` as the kernel would give it back. An engine writes every attribute that an
/// archive has, and one of overlayfs's own would change what is seen of the layers.
fn capability(entry: &ParsedEntry<'_>) -> Result<Option<Vec<u8>>, TarError> {
    let mut value = None;
    for (name, bytes) in &entry.xattrs {
        match &name[..] {
            b"security.capability" => value = Some(&bytes[..]),
            name if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") => {
                return Err(refused(
                    &entry.path,
                    "it has an attribute of overlayfs's own",
                ));
            }
            _ => {}
        }
    }
    // Without a value pax says that there is none.
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    crate::node::as_kernel_gives(value)
        .map(Some)
        .ok_or_else(|| {
            refused(
                &entry.path,
                "its capabilities are none that a kernel would store",
            )
        })
}
