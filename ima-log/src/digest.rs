// SPDX-License-Identifier: Apache-2.0
//! A digest together with its algorithm.
//!
//! Owns the text form `sha256:<hex>` and the guarantee that the length fits the algorithm,
//! so that no caller compares digests of different kinds by accident.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::HashAlgorithm;

/// The longest digest, in bytes (SHA-512).
const MAX_LEN: usize = 64;

/// A digest whose length is always its algorithm's. Text form: `sha256:<lower-case hex>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    algorithm: HashAlgorithm,
    /// The digest, then zeros: equal digests are equal arrays.
    bytes: [u8; MAX_LEN],
}

/// Why bytes or text are not a digest.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The text has no `algorithm:` in front.
    #[error("\"{text}\" is not a digest: it should look like sha256:<hex>")]
    NoAlgorithm {
        /// The text given.
        text: String,
    },
    /// The algorithm is none of sha1, sha256, sha384, sha512.
    #[error("the hash algorithm \"{name}\" is not known here (sha1, sha256, sha384, sha512 are)")]
    UnknownAlgorithm {
        /// The name given.
        name: String,
    },
    /// The part after the colon is not hexadecimal.
    #[error("\"{text}\" is not a digest: {reason}")]
    NotHex {
        /// The text given.
        text: String,
        /// What is wrong with it.
        reason: hex::FromHexError,
    },
    /// The length does not fit the algorithm.
    #[error("a {algorithm} digest has {} bytes, this one has {found}", algorithm.digest_len())]
    Length {
        /// The algorithm named.
        algorithm: HashAlgorithm,
        /// Bytes given.
        found: usize,
    },
}

impl Digest {
    /// A digest from its bytes.
    ///
    /// # Errors
    /// [`DigestError::Length`] if there are more or fewer bytes than the algorithm has.
    pub fn new(algorithm: HashAlgorithm, bytes: &[u8]) -> Result<Self, DigestError> {
        if bytes.len() != algorithm.digest_len() {
            return Err(DigestError::Length {
                algorithm,
                found: bytes.len(),
            });
        }
        Ok(Self::filled(algorithm, |own| own.copy_from_slice(bytes)))
    }

    /// All bits zero: what most PCRs hold at boot, and the template hash of a violation.
    #[must_use]
    pub const fn zeros(algorithm: HashAlgorithm) -> Self {
        Self {
            algorithm,
            bytes: [0; MAX_LEN],
        }
    }

    /// All bits one: the value a violation extends, and what PCRs 17–22 hold at boot.
    #[must_use]
    pub fn ones(algorithm: HashAlgorithm) -> Self {
        Self::filled(algorithm, |bytes| bytes.fill(0xff))
    }

    /// A digest whose bytes `fill` writes; the slice has the algorithm's length.
    pub(crate) fn filled(algorithm: HashAlgorithm, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut digest = Self::zeros(algorithm);
        fill(&mut digest.bytes[..algorithm.digest_len()]);
        digest
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The bytes, as many as the algorithm has.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    /// Whether all bits are zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.bytes.iter().all(|b| *b == 0)
    }

    /// What a TPM's PCR holds after extending `value` into this one: `H(self ‖ value)`.
    #[must_use]
    pub fn extended(&self, value: &Self) -> Self {
        self.algorithm.digest_parts(&[self.bytes(), value.bytes()])
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // At once: of half a million entries, byte by byte it was a sixth of what judging them took.
        let mut digits = [0; 2 * MAX_LEN];
        let digits = &mut digits[..2 * self.bytes().len()];
        hex::encode_to_slice(self.bytes(), digits).map_err(|_| fmt::Error)?;
        let digits = std::str::from_utf8(digits).map_err(|_| fmt::Error)?;
        write!(f, "{}:{digits}", self.algorithm)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, digits) = text
            .split_once(':')
            .ok_or_else(|| DigestError::NoAlgorithm {
                text: text.to_owned(),
            })?;
        let algorithm =
            HashAlgorithm::from_name(name).ok_or_else(|| DigestError::UnknownAlgorithm {
                name: name.to_owned(),
            })?;
        let bytes = hex::decode(digits).map_err(|reason| DigestError::NotHex {
            text: text.to_owned(),
            reason,
        })?;
        Self::new(algorithm, &bytes)
    }
}
