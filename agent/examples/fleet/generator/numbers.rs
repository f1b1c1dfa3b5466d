// SPDX-License-Identifier: Apache-2.0
//! Numbers and digests that look random and are the same everywhere.

use ima_log::{Digest, HashAlgorithm};

/// xorshift64*, Vigna 2016.
#[derive(Debug)]
pub(super) struct Numbers(u64);

impl Numbers {
    /// Different for each `stream` of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let digest = digest_of(&format!("numbers/{seed}/{stream}"));
        let bytes = digest.bytes().first_chunk().copied().unwrap_or_default();
        // The one state that never changes is none of them.
        Self(u64::from_le_bytes(bytes) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        // Of something that is in memory: it fits.
        self.below(len as u64) as usize
    }

    pub(super) fn of<'a, T>(&mut self, these: &'a [T]) -> &'a T {
        &these[self.index(these.len())]
    }

    /// So many times in a thousand.
    pub(super) fn chance(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }
}

/// SHA-256 of a text that stands for a content.
pub(super) fn digest_of(text: &str) -> Digest {
    HashAlgorithm::Sha256.digest(text.as_bytes())
}

/// Its 64 hexadecimal digits.
pub(super) fn hex_of(text: &str) -> String {
    hex::encode(digest_of(text).bytes())
}

/// A boot id as the kernel writes one.
pub(super) fn uuid_of(text: &str) -> String {
    let hex = hex_of(text);
    format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..15],
        &hex[15..18],
        &hex[18..30]
    )
}
