// SPDX-License-Identifier: Apache-2.0
//! Writing a record of a binary list.
//!
//! Owns the record's layout on the way out, byte for byte what the kernel shows. Each record is
//! handed to the writer at once: a reader of a growing file sees whole records, or a torn tail.

use std::io::{self, Write};

use crate::Entry;

impl Entry {
    /// The binary record, in the entry's own byte order.
    ///
    /// Of the original template the record has no data length: data that are not
    /// `digest[20] ‖ u32 length ‖ name` would derail every reader, so make sure that
    /// [`Entry::fields`] holds before writing an entry this crate did not make.
    #[must_use]
    pub fn to_binary(&self) -> Vec<u8> {
        let mut record = Vec::new();
        self.append_binary(&mut record);
        record
    }

    /// Bytes of the binary record.
    #[must_use]
    pub fn binary_len(&self) -> usize {
        let data_len = if self.template.has_data_len() { 4 } else { 0 };
        let (hash, name) = (self.template_hash.bytes(), self.template.name());
        8 + hash.len() + name.len() + data_len + self.data.len()
    }

    /// Appends the binary record to `list`: [`Entry::to_binary`] without a vector of its own.
    pub fn append_binary(&self, list: &mut Vec<u8>) {
        let name = self.template.name();
        let hash = self.template_hash.bytes();
        let word = |value: u32| self.byte_order.u32_bytes(value);
        list.reserve(self.binary_len());
        list.extend_from_slice(&word(self.pcr));
        list.extend_from_slice(hash);
        list.extend_from_slice(&word(len32(name.len())));
        list.extend_from_slice(name.as_bytes());
        if self.template.has_data_len() {
            list.extend_from_slice(&word(len32(self.data.len())));
        }
        list.extend_from_slice(&self.data);
    }

    /// Writes the binary record with one `write_all`.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_binary(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&self.to_binary())
    }
}

/// Lengths are 32 bits wide in the format; more than 4 GiB of data cannot come from a constructor
/// or a reader, and saturating makes such a record unreadable instead of wrong.
fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
