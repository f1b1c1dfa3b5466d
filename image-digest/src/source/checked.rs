// SPDX-License-Identifier: Apache-2.0
//! A stream whose digest and length are known before it is read, and hold at its end.

use std::io::{self, Read};

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// Why a stream is not the one that was meant.
#[derive(Debug, thiserror::Error)]
pub enum CheckedError {
    /// Another digest.
    #[error("it should be {expected} and is {found}")]
    Digest {
        /// As who refers to it says.
        expected: String,
        /// As it was read.
        found: String,
    },
    /// Another length.
    #[error("it should have {expected} bytes and has {}", if *more { "more" } else { "fewer" })]
    Size {
        /// As who refers to it says.
        expected: u64,
        /// Whether it is longer.
        more: bool,
    },
    /// A digest that nobody here can compute.
    #[error("its digest is of the algorithm \"{0}\", which is not known here")]
    Algorithm(String),
    /// The stream failed.
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
}

/// What is known of a stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
}

enum Hash {
    None,
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

/// A stream that is measured while it is read.
pub(crate) struct Checked<R> {
    reader: R,
    expected: Expected,
    hash: Hash,
    read: u64,
}

impl<R: Read> Checked<R> {
    pub(crate) fn new(reader: R, expected: Expected) -> Self {
        let hash = match expected.digest.as_ref().map(Digest::algorithm) {
            Some(DigestAlgorithm::Sha256) => Hash::Sha256(Sha256::new()),
            Some(DigestAlgorithm::Sha384) => Hash::Sha384(Sha384::new()),
            Some(DigestAlgorithm::Sha512) => Hash::Sha512(Sha512::new()),
            _ => Hash::None,
        };
        Self {
            reader,
            expected,
            hash,
            read: 0,
        }
    }

    /// Reads what is left, and compares.
    pub(crate) fn finish(&mut self) -> Result<(), CheckedError> {
        // One byte more than there should be is enough to know.
        let left = match self.expected.size {
            Some(size) => (size + 1).saturating_sub(self.read),
            None => u64::MAX,
        };
        io::copy(&mut self.by_ref().take(left), &mut io::sink()).map_err(CheckedError::Read)?;
        if let Some(expected) = self.expected.size.filter(|size| *size != self.read) {
            let more = self.read > expected;
            return Err(CheckedError::Size { expected, more });
        }
        let Some(expected) = &self.expected.digest else {
            return Ok(());
        };
        let found = match std::mem::replace(&mut self.hash, Hash::None) {
            Hash::Sha256(hash) => hex::encode(hash.finalize()),
            Hash::Sha384(hash) => hex::encode(hash.finalize()),
            Hash::Sha512(hash) => hex::encode(hash.finalize()),
            Hash::None => {
                let algorithm = expected.algorithm().to_string();
                return Err(CheckedError::Algorithm(algorithm));
            }
        };
        if expected.digest() != found {
            return Err(CheckedError::Digest {
                expected: expected.to_string(),
                found: format!("{}:{found}", expected.algorithm()),
            });
        }
        Ok(())
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let bytes = &buffer[..read];
        match &mut self.hash {
            Hash::None => {}
            Hash::Sha256(hash) => hash.update(bytes),
            Hash::Sha384(hash) => hash.update(bytes),
            Hash::Sha512(hash) => hash.update(bytes),
        }
        self.read += read as u64;
        Ok(read)
    }
}
