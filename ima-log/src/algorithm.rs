// SPDX-License-Identifier: Apache-2.0
//! The hash algorithms of PCR banks and file digests.
//!
//! Owns their names, lengths, TPM ids and the computation itself. Refuses algorithms that
//! no TPM bank of ours has (md5, sm3): a digest field may still *name* them, see `FileDigest`.

use std::fmt;

use crate::Digest;

/// A hash algorithm this crate computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashAlgorithm {
    /// 20 bytes. Every entry's template hash in the plain list.
    Sha1,
    /// 32 bytes.
    Sha256,
    /// 48 bytes.
    Sha384,
    /// 64 bytes.
    Sha512,
}

impl HashAlgorithm {
    /// Every algorithm, in ascending order of digest length.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The kernel's name (`hash_algo_name[]`, `crypto/hash_info.c)`: `sha1`, `sha256`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The algorithm of this kernel name, or `None` if this crate does not compute it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// Length of a digest, in bytes.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The algorithm whose digests are `len` bytes long.
    #[must_use]
    pub fn from_digest_len(len: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.digest_len() == len)
    }

    /// `TPM_ALG_ID` (TCG Algorithm Registry): 0x0004, 0x000b, 0x000c, 0x000d.
    #[must_use]
    pub const fn tpm_id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// The algorithm of this `TPM_ALG_ID`.
    #[must_use]
    pub fn from_tpm_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.tpm_id() == id)
    }

    /// Hash of `data`.
    #[must_use]
    pub fn digest(self, data: &[u8]) -> Digest {
        self.digest_parts(&[data])
    }

    /// Hash of the concatenation of `parts`, without building it.
    #[must_use]
    pub fn digest_parts(self, parts: &[&[u8]]) -> Digest {
        match self {
            Self::Sha1 => run::<sha1::Sha1>(self, parts),
            Self::Sha256 => run::<sha2::Sha256>(self, parts),
            Self::Sha384 => run::<sha2::Sha384>(self, parts),
            Self::Sha512 => run::<sha2::Sha512>(self, parts),
        }
    }
}

fn run<H: sha1::Digest>(algorithm: HashAlgorithm, parts: &[&[u8]]) -> Digest {
    let mut hasher = H::new();
    for part in parts {
        hasher.update(part);
    }
    Digest::filled(algorithm, |bytes| bytes.copy_from_slice(&hasher.finalize()))
}

/// The kernel's name.
impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
