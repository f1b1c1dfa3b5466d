// SPDX-License-Identifier: Apache-2.0
//! How much an image may ask for before it is refused. What is read is another's word.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds of one image. Each is refused by name when it is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and whiteouts, over all layers, with the directories that they imply.
    pub entries: u64,
    /// Bytes of all their paths: with `entries` it bounds the memory.
    pub path_bytes: u64,
    /// Bytes of all layers unpacked, or of all files: it bounds the time.
    pub content_bytes: u64,
}

/// Ten times the largest images in use: 4 million entries, 1 GiB of paths, 256 GiB of content.
impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            path_bytes: 1 << 30,
            content_bytes: 256 << 30,
        }
    }
}

/// One of the [`Limits`] was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// See [`Limits::entries`].
    #[error("the image has more than {0} files and directories, the limit that was set")]
    Entries(u64),
    /// See [`Limits::path_bytes`].
    #[error("the paths of the image have more than {0} bytes, the limit that was set")]
    PathBytes(u64),
    /// See [`Limits::content_bytes`].
    #[error("the image unpacks to more than {0} bytes, the limit that was set")]
    ContentBytes(u64),
}

/// What is left of the [`Limits`], for all threads that read one image.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    entries: AtomicU64,
    path_bytes: AtomicU64,
    content_bytes: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: AtomicU64::new(0),
            path_bytes: AtomicU64::new(0),
            content_bytes: AtomicU64::new(0),
        }
    }

    /// So many entries more, whose paths have so many bytes.
    pub(crate) fn spend_entries(&self, entries: u64, path_bytes: u64) -> Result<(), LimitError> {
        let limits = self.limits;
        if spend(&self.entries, entries) > limits.entries {
            return Err(LimitError::Entries(limits.entries));
        }
        if spend(&self.path_bytes, path_bytes) > limits.path_bytes {
            return Err(LimitError::PathBytes(limits.path_bytes));
        }
        Ok(())
    }

    /// So many bytes more of content or of an archive.
    pub(crate) fn spend_content(&self, bytes: u64) -> Result<(), LimitError> {
        let limit = self.limits.content_bytes;
        if spend(&self.content_bytes, bytes) > limit {
            return Err(LimitError::ContentBytes(limit));
        }
        Ok(())
    }
}

/// All that was spent. A sum above `u64` is above every limit: the first error ends the reading, and
/// what one call adds is below 2^63.
fn spend(spent: &AtomicU64, more: u64) -> u64 {
    spent
        .fetch_add(more, Ordering::Relaxed)
        .saturating_add(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends_where_its_limit_says() {
        let limits = Limits {
            entries: 2,
            path_bytes: 10,
            content_bytes: 5,
        };
        let budget = Budget::new(limits);
        assert_eq!(budget.spend_entries(1, 10), Ok(()));
        assert_eq!(budget.spend_entries(1, 1), Err(LimitError::PathBytes(10)));
        assert_eq!(budget.spend_entries(1, 0), Err(LimitError::Entries(2)));
        assert_eq!(budget.spend_content(5), Ok(()));
        assert_eq!(budget.spend_content(1), Err(LimitError::ContentBytes(5)));
    }
}
