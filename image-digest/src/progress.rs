// SPDX-License-Identifier: Apache-2.0
//! How far a reading has come: counted by who reads, drawn by who asked.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes, done and expected. Of layers the bytes as they are stored, of directories those of files.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// So many bytes more were read.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many bytes more will be read.
    pub fn expect(&self, bytes: u64) {
        // Sizes are others' words: a sum that wraps is only drawn wrong.
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes read.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes known of so far. It grows while a directory is walked.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}
