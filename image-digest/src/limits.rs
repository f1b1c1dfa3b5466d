// SPDX-License-Identifier: Apache-2.0
//! How much an image may ask for before it is refused. What is read is another's word.

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
