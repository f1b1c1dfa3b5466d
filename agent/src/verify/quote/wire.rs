// SPDX-License-Identifier: Apache-2.0
//! TPM structures read from bytes: big-endian, each length checked against what is there. TPM 2.0 Library, Part 2.

/// Bytes of a `TPM2B_` of any kind: an RSA modulus of 4096 bits has 512.
const LONGEST: usize = 1024;

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire<'a>(pub(super) &'a [u8]);

impl<'a> Wire<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A `TPM2B_`: its size and so many bytes.
    pub(super) fn sized(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        if len > LONGEST {
            return None;
        }
        self.take(len)
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}
