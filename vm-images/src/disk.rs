// SPDX-License-Identifier: Apache-2.0
//! Disk images: an ext4 file system made from a directory, without mounting it.

use std::path::Path;

use crate::Result;
use crate::command::{as_root, run_tool, tool};
use crate::error::Doing as _;

/// What a disk is for decides how it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Mounted read-only: no journal, no room to spare.
    ReadOnly,
    /// The guest's root: files keep their owners, and `free` bytes are left.
    Root { free: u64 },
}

/// Makes the image `image` with the files of `tree`. The image is sparse.
pub(crate) fn make(tree: &Path, image: &Path, label: &str, usage: Use) -> Result<()> {
    let doing = format!("Making the {label} disk");
    let (mut command, features, free) = match usage {
        Use::ReadOnly => (tool("mke2fs")?, "^has_journal", 0),
        Use::Root { free } => (as_root("mke2fs")?, "has_journal,verity", free),
    };
    let size = size_of_tree(tree) + free;
    command
        .args([
            "-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096", "-O", features, "-L", label,
        ])
        // The kernel would otherwise fill in tables while a scenario runs.
        .args([
            "-E",
            "root_owner=0:0,assume_storage_prezeroed=1,lazy_itable_init=0",
        ])
        .arg("-d")
        .arg(tree)
        .arg(image)
        .arg(format!("{}k", size / 1024));
    if image.exists() {
        std::fs::remove_file(image).doing("remove", image)?;
    }
    run_tool(&doing, &mut command).map(drop)
}

/// Bytes that a file system needs for the files below `tree`, generously.
fn size_of_tree(tree: &Path) -> u64 {
    const BLOCK: u64 = 4096;
    let files: u64 = walkdir::WalkDir::new(tree)
        .into_iter()
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .map(|meta| meta.len().div_ceil(BLOCK) * BLOCK + BLOCK)
        .sum();
    files + files / 8 + 8 * 1024 * 1024
}
