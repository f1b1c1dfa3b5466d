// SPDX-License-Identifier: Apache-2.0
//! The byte order of a list's integers.
//!
//! The kernel writes its own order, or little endian when booted with `ima_canonical_fmt`.
//! The same order is hashed: the length of each template field is part of the template hash
//! (`ima_calc_field_array_hash_tfm`, `security/integrity/ima/ima_crypto.c`).

use std::fmt;

/// The order of every integer in one list, the hashed ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// x86, arm64, riscv; everything booted with `ima_canonical_fmt`.
    #[default]
    Little,
    /// s390x, big-endian powerpc.
    Big,
}

impl ByteOrder {
    /// Reads a `u32` of this order.
    #[must_use]
    pub const fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }

    /// Writes a `u32` in this order.
    #[must_use]
    pub const fn u32_bytes(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// Reads a `u16` of this order.
    #[must_use]
    pub const fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    /// Writes a `u16` in this order.
    #[must_use]
    pub const fn u16_bytes(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// The other one.
    #[must_use]
    pub const fn swapped(self) -> Self {
        match self {
            Self::Little => Self::Big,
            Self::Big => Self::Little,
        }
    }
}

impl fmt::Display for ByteOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Little => "little-endian",
            Self::Big => "big-endian",
        })
    }
}
