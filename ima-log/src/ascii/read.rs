// SPDX-License-Identifier: Apache-2.0
//! Reading an ASCII list, line by line.
//!
//! Owns lines, limits and positions; `line` owns what a line says. Ends at the first error, like
//! the binary reader. Does not check hashes but in two places where only they can tell: the byte
//! order of the machine, and whether a last line without its newline is complete.

use std::io::{BufRead, Read};

use super::{AsciiError, AsciiErrorKind, line};
use crate::{ByteOrder, Entry, Position};

/// Longest line, in bytes: a 16 MiB payload in hex and room for the rest.
const DEFAULT_LIMIT: u64 = (32 << 20) + (64 << 10);

/// Reads an ASCII list from a `BufRead`. Memory: one line and one entry.
///
/// A line does not tell its machine's byte order, but the template hash covers the lengths of the
/// fields in that order: see [`AsciiReader::with_order`] and [`AsciiReader::detect`]. Empty lines
/// are skipped. A last line without a newline counts if its template hash holds; else it is torn.
#[derive(Debug)]
pub struct AsciiReader<R> {
    source: R,
    /// `None` until an entry whose hash holds in one order has been read.
    order: Option<ByteOrder>,
    limit: u64,
    buffer: Vec<u8>,
    offset: u64,
    index: u64,
    ended: bool,
}

impl<R: BufRead> AsciiReader<R> {
    /// Reads the list of a machine of this order.
    pub fn with_order(source: R, order: ByteOrder) -> Self {
        Self {
            order: Some(order),
            ..Self::detect(source)
        }
    }

    /// Takes the order from the first entry whose template hash holds in one order and not in the
    /// other; entries before it, and a list without one, are read as little endian.
    pub fn detect(source: R) -> Self {
        Self {
            source,
            order: None,
            limit: DEFAULT_LIMIT,
            buffer: Vec::new(),
            offset: 0,
            index: 0,
            ended: false,
        }
    }

    /// Refuses lines longer than `limit` bytes; the default is 32 MiB and 64 KiB.
    #[must_use]
    pub fn with_limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Where the last good line ends, in bytes: where a torn list is to be cut.
    #[must_use]
    pub fn good_end(&self) -> u64 {
        self.offset
    }

    fn entry(&mut self) -> Result<Option<(Position, Entry)>, AsciiErrorKind> {
        loop {
            self.buffer.clear();
            let room = self.limit.saturating_add(1);
            let len = self
                .source
                .by_ref()
                .take(room)
                .read_until(b'\n', &mut self.buffer)? as u64;
            match self.buffer.strip_suffix(b"\n") {
                None if len == 0 => return Ok(None),
                None if len > self.limit => {
                    return Err(AsciiErrorKind::TooLong { limit: self.limit });
                }
                Some(b"") => self.offset += 1,
                Some(text) => {
                    let entry = parse(text, &mut self.order)?;
                    return Ok(Some((self.advance(len), entry)));
                }
                None => {
                    let entry = parse(&self.buffer, &mut self.order).ok();
                    let entry = entry.filter(proven_complete);
                    let entry = entry.ok_or(AsciiErrorKind::Torn { present: len })?;
                    return Ok(Some((self.advance(len), entry)));
                }
            }
        }
    }

    fn advance(&mut self, len: u64) -> Position {
        let position = Position {
            offset: self.offset,
            index: self.index,
            len,
        };
        self.offset += len;
        self.index += 1;
        position
    }
}

/// Parses a line, finding the list's order by it if that is still open.
fn parse(text: &[u8], order: &mut Option<ByteOrder>) -> Result<Entry, AsciiErrorKind> {
    if let Some(order) = *order {
        return Ok(line::parse(text, order)?);
    }
    let little = line::parse(text, ByteOrder::Little)?;
    let big = line::parse(text, ByteOrder::Big)?;
    match (proven_complete(&little), proven_complete(&big)) {
        (true, false) => *order = Some(ByteOrder::Little),
        (false, true) => {
            *order = Some(ByteOrder::Big);
            return Ok(big);
        }
        // The original template hashes no length; a violation has no hash.
        (true, true) | (false, false) => {}
    }
    Ok(little)
}

/// Whether the template hash covers these data.
fn proven_complete(entry: &Entry) -> bool {
    !entry.is_violation()
        && entry.template_digest(entry.template_hash.algorithm()) == entry.template_hash
}

impl<R: BufRead> Iterator for AsciiReader<R> {
    type Item = Result<(Position, Entry), AsciiError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.entry();
        self.ended = !matches!(item, Ok(Some(_)));
        match item {
            Ok(found) => found.map(Ok),
            Err(kind) => Some(Err(AsciiError {
                offset: self.offset,
                index: self.index,
                kind,
            })),
        }
    }
}
