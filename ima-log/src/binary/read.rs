// SPDX-License-Identifier: Apache-2.0
//! Reading a binary list, record by record.
//!
//! Owns the record's layout on the way in, and the bounds on what a hostile list can cost.
//! Does not check hashes: `Entry::check` does. Ends at the first error; a reader that skipped a
//! bad record would let a forged length hide the entries it covers.

use std::io::{self, Read};

use super::{BinaryFormat, ReadError, ReadErrorKind, detect, window::Window};
use crate::entry::IMA_NAME_MAX;
use crate::fields::IMA_DIGEST_LEN;
use crate::{ByteOrder, Digest, Entry, HashAlgorithm, MAX_PCR, Position, Template};

/// The longest lengths a reader believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Template data, in bytes. Default 16 MiB: a measured policy, key or signature is far smaller.
    pub data: u32,
    /// Template name, in bytes. Default 255; the kernel's longest has 74.
    pub template_name: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            data: 16 << 20,
            template_name: u8::MAX,
        }
    }
}

/// Reads a binary list from a `Read`, which need not be buffered. Memory: 64 KiB and one entry.
#[derive(Debug)]
pub struct BinaryReader<R> {
    window: Window<R>,
    format: Option<BinaryFormat>,
    limits: Limits,
    /// End of the last good record.
    offset: u64,
    index: u64,
    ended: bool,
}

/// The part of a record before its data.
struct Header {
    pcr: u32,
    template_hash: Digest,
    template: Template,
    /// Bytes up to the data, the data's length included.
    len: usize,
    data_len: usize,
}

impl<R: Read> BinaryReader<R> {
    /// Reads a list of this order and hash length.
    pub fn new(source: R, format: BinaryFormat) -> Self {
        Self {
            format: Some(format),
            ..Self::detect(source)
        }
    }

    /// Finds order and hash length from the first record: the ones that make its PCR, its name
    /// length and its template name plausible, a known template before an unknown one. A list
    /// without a whole first record is taken for a little-endian SHA-1 one.
    pub fn detect(source: R) -> Self {
        Self {
            window: Window::new(source),
            format: None,
            limits: Limits::default(),
            offset: 0,
            index: 0,
            ended: false,
        }
    }

    /// Believes other lengths than [`Limits::default`].
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Order and hash length; `None` before the first record of a detecting reader.
    #[must_use]
    pub fn format(&self) -> Option<BinaryFormat> {
        self.format
    }

    /// Where the last good record ends, in bytes: where a torn list is to be cut.
    #[must_use]
    pub fn good_end(&self) -> u64 {
        self.offset
    }

    /// Number of good records read.
    #[must_use]
    pub fn good_records(&self) -> u64 {
        self.index
    }

    /// Reads the next record into `entry`, whose memory is used again. `None` at the end of the
    /// list and after an error, when `entry` holds nothing meaningful.
    ///
    /// # Errors
    /// [`ReadError`], after which the reader is at its end.
    pub fn read_entry(&mut self, entry: &mut Entry) -> Option<Result<Position, ReadError>> {
        if self.ended {
            return None;
        }
        match self.record(entry) {
            Ok(Some(len)) => {
                let position = Position {
                    offset: self.offset,
                    index: self.index,
                    len,
                };
                self.offset += len;
                self.index += 1;
                Some(Ok(position))
            }
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(kind) => {
                self.ended = true;
                Some(Err(ReadError {
                    offset: self.offset,
                    index: self.index,
                    kind,
                }))
            }
        }
    }

    /// One record; its length, or `None` if the list ends before it.
    fn record(&mut self, entry: &mut Entry) -> Result<Option<u64>, ReadErrorKind> {
        if self.window.peek(1)?.is_empty() {
            return Ok(None);
        }
        let format = match self.format {
            Some(format) => format,
            None => detect::format(&mut self.window)?,
        };
        self.format = Some(format);
        let header = self.header(format)?;
        self.window.consume(header.len);
        self.window.take(header.data_len, &mut entry.data)?;
        if entry.data.len() < header.data_len {
            return Err(torn(header.len + entry.data.len()));
        }
        entry.pcr = header.pcr;
        entry.template_hash = header.template_hash;
        entry.template = header.template;
        entry.byte_order = format.order;
        Ok(Some((header.len + header.data_len) as u64))
    }

    fn header(&mut self, format: BinaryFormat) -> Result<Header, ReadErrorKind> {
        let BinaryFormat { order, hash } = format;
        let name_at = 4 + hash.digest_len() + 4;
        let fixed = self.at_least(name_at)?;
        let pcr = u32_at(order, fixed, 0);
        let name_len = u32_at(order, fixed, name_at - 4);
        let template_hash = Digest::filled(hash, |own| own.copy_from_slice(&fixed[4..name_at - 4]));
        self.plausible(order, pcr, name_len)?;

        let name_end = name_at + name_len as usize;
        let template = template(&self.at_least(name_end)?[name_at..name_end])?;
        let (len, data_len) = if template.has_data_len() {
            let len = name_end + 4;
            (len, u32_at(order, self.at_least(len)?, name_end))
        } else {
            (name_end, self.original_data_len(order, name_end)?)
        };
        if data_len > self.limits.data {
            return Err(oversize("template data", data_len, self.limits.data));
        }
        Ok(Header {
            pcr,
            template_hash,
            template,
            len,
            data_len: data_len as usize,
        })
    }

    /// Length of `digest[20] ‖ u32 length ‖ name`, which the record does not state.
    fn original_data_len(&mut self, order: ByteOrder, at: usize) -> Result<u32, ReadErrorKind> {
        let fixed = IMA_DIGEST_LEN + 4;
        let name_len = u32_at(order, self.at_least(at + fixed)?, at + IMA_DIGEST_LEN);
        if name_len > IMA_NAME_MAX as u32 {
            return Err(oversize("event name", name_len, IMA_NAME_MAX as u32));
        }
        Ok(fixed as u32 + name_len)
    }

    fn plausible(&self, order: ByteOrder, pcr: u32, name_len: u32) -> Result<(), ReadErrorKind> {
        let limit = u32::from(self.limits.template_name);
        let sane = |pcr: u32, len: u32| pcr <= MAX_PCR && (1..=limit).contains(&len);
        if sane(pcr, name_len) {
            Ok(())
        } else if sane(pcr.swap_bytes(), name_len.swap_bytes()) {
            Err(ReadErrorKind::LooksForeignEndian { order })
        } else if pcr > MAX_PCR {
            Err(ReadErrorKind::BadPcr { pcr })
        } else if name_len == 0 {
            Err(ReadErrorKind::BadTemplateName { name: Vec::new() })
        } else {
            Err(oversize("template name", name_len, limit))
        }
    }

    fn at_least(&mut self, count: usize) -> Result<&[u8], ReadErrorKind> {
        let bytes = self.window.peek(count)?;
        if bytes.len() < count {
            Err(torn(bytes.len()))
        } else {
            Ok(bytes)
        }
    }
}

impl<R: Read> Iterator for BinaryReader<R> {
    type Item = Result<(Position, Entry), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut entry = Entry::default();
        let position = self.read_entry(&mut entry)?;
        Some(position.map(|position| (position, entry)))
    }
}

/// A template name: printable ASCII without spaces, since the ASCII list parts its columns there.
fn template(name: &[u8]) -> Result<Template, ReadErrorKind> {
    match std::str::from_utf8(name) {
        Ok(text) if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(Template::from_name(text)),
        _ => Err(ReadErrorKind::BadTemplateName {
            name: name.to_vec(),
        }),
    }
}

pub(super) fn u32_at(order: ByteOrder, bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    order.u32(word)
}

fn torn(present: usize) -> ReadErrorKind {
    ReadErrorKind::Torn {
        present: present as u64,
    }
}

fn oversize(what: &'static str, len: u32, limit: u32) -> ReadErrorKind {
    ReadErrorKind::Oversize { what, len, limit }
}

impl From<io::Error> for ReadErrorKind {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl BinaryFormat {
    /// All formats, the commonest first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        HashAlgorithm::ALL.into_iter().flat_map(|hash| {
            [ByteOrder::Little, ByteOrder::Big]
                .into_iter()
                .map(move |order| Self { order, hash })
        })
    }
}
