// SPDX-License-Identifier: Apache-2.0
//! The binary list: `binary_runtime_measurements` and its per-algorithm siblings.
//!
//! Record: `u32 pcr ‖ template hash ‖ u32 name length ‖ template name ‖ u32 data length ‖ data`;
//! the original template `ima` has no data length, its data are `digest[20] ‖ u32 length ‖ name`
//! (`ima_measurements_show`, `security/integrity/ima/ima_fs.c`). Integers in the host's order, or
//! little endian under `ima_canonical_fmt`; the hash is 20 bytes, or the list's own algorithm's.

mod detect;
mod error;
mod read;
mod window;
mod write;

pub use error::{ReadError, ReadErrorKind};
pub use read::{BinaryReader, Limits};

use crate::{ByteOrder, HashAlgorithm};

/// What a binary list does not say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinaryFormat {
    /// Order of its integers.
    pub order: ByteOrder,
    /// Algorithm, and so length, of the template hashes: SHA-1 but in
    /// `binary_runtime_measurements_<algorithm>` (Linux 6.10).
    pub hash: HashAlgorithm,
}

/// The plain list of a little-endian machine.
impl Default for BinaryFormat {
    fn default() -> Self {
        Self {
            order: ByteOrder::Little,
            hash: HashAlgorithm::Sha1,
        }
    }
}
