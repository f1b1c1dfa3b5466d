// SPDX-License-Identifier: Apache-2.0
//! A fixed window over a `Read`: look ahead without consuming, then take.
//!
//! Memory stays constant whatever the lengths in a list claim: what does not fit the window
//! grows the caller's vector only as bytes really arrive.

use std::io::{self, Read};

/// Enough for any record header, and few reads per megabyte.
const CAPACITY: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Window<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: Read> Window<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; CAPACITY].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// The next bytes: at least `wanted` (no more than [`CAPACITY`]), fewer only at the end.
    pub(super) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        if self.start + wanted > CAPACITY {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < wanted {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Drops `count` bytes that were peeked at.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// Fills `data` with the next `len` bytes; fewer only at the end.
    pub(super) fn take(&mut self, len: usize, data: &mut Vec<u8>) -> io::Result<()> {
        data.clear();
        let here = self.peek(len.min(CAPACITY))?;
        let count = here.len().min(len);
        data.extend_from_slice(&here[..count]);
        self.consume(count);
        if count < len {
            self.source
                .by_ref()
                .take((len - count) as u64)
                .read_to_end(data)?;
        }
        Ok(())
    }
}
