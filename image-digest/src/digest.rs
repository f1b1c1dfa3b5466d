// SPDX-License-Identifier: Apache-2.0
//! SHA-256 values, as text and as bytes. Two types, so that a file's content is never taken for an image.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not \"sha256:\" and 64 hexadecimal digits in lower case")]
pub struct DigestError {
    /// The text, escaped, its beginning only.
    text: String,
}

fn parse(text: &str) -> Result<[u8; 32], DigestError> {
    let mut bytes = [0; 32];
    text.strip_prefix("sha256:")
        .filter(|digits| !digits.bytes().any(|b| b.is_ascii_uppercase()))
        .and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok())
        .ok_or_else(|| DigestError {
            text: text.escape_default().take(100).collect(),
        })?;
    Ok(bytes)
}

/// SHA-256 of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentDigest(pub(crate) [u8; 32]);

impl ContentDigest {
    /// Of this content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// What a hash came to.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Digest of an image, or of one node in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageDigest(pub(crate) [u8; 32]);

impl ImageDigest {
    /// One that was made before.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

macro_rules! as_text {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; 64];
                hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error)?;
                f.write_str("sha256:")?;
                f.write_str(str::from_utf8(&digits).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $type {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                parse(text).map(Self)
            }
        }
    };
}

as_text!(ContentDigest);
as_text!(ImageDigest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_has_one_spelling() {
        let text = ContentDigest::of(b"").to_string();
        assert_eq!(text.parse(), Ok(ContentDigest::of(b"")));
        for wrong in [
            &text[7..],
            &text[..70],
            &text.to_uppercase(),
            "sha256:\u{1b}[2J",
            "",
        ] {
            let error = wrong.parse::<ContentDigest>().unwrap_err().to_string();
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }
}
