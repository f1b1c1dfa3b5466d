// SPDX-License-Identifier: Apache-2.0
//! A tree of files on a disk: an image's root, a lower directory of an overlay, or what a container wrote.
//!
//! Whoever owns the tree may be hostile, and may change it meanwhile. It is entered beneath its root, across no
//! mount and no link; nothing but directories and regular files is opened; and it is looked at twice: what is not
//! the same in the end as when it was read is an error that names it, never a digest of a mixture.

pub(super) mod stamp;
#[cfg(test)]
mod tests;
mod walk;
mod work;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{CapabilitySet, capabilities};

pub(crate) use self::walk::{Found, OverlayAttributes, Walked};
use super::Options;
use crate::limits::Budget;
use crate::{Image, LimitError, PathError, Tree};

/// Why a tree gives no image.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The root.
    #[error("it cannot be opened as a directory: {0}")]
    Root(#[source] io::Error),
    /// An entry that cannot be read.
    #[error("\"{}\" cannot be read: {source}", path.escape_ascii())]
    Read {
        /// Below the root.
        path: Vec<u8>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else is mounted there.
    #[error("\"{}\" is a mount point: what is mounted there is no part of the tree", path.escape_ascii())]
    Mount {
        /// Below the root.
        path: Vec<u8>,
    },
    /// It is another than it was.
    #[error("\"{}\" changed while the tree was read: {what}", path.escape_ascii())]
    Changed {
        /// Below the root; empty for the root.
        path: Vec<u8>,
        /// What is another.
        what: &'static str,
    },
    /// It lies too deep.
    #[error("\"{}\" is no path inside an image: {reason}", path.escape_ascii())]
    Path {
        /// Below the root.
        path: Vec<u8>,
        /// Why.
        #[source]
        reason: PathError,
    },
    /// A device's numbers or a type that no image has.
    #[error("\"{}\" is of a type that no image has", path.escape_ascii())]
    Type {
        /// Below the root.
        path: Vec<u8>,
    },
    /// Opaque directories would not be seen.
    #[error(
        "what overlayfs marks in lower directories is seen by root alone (CAP_SYS_ADMIN in the initial user namespace)"
    )]
    Unprivileged,
    /// A lower directory that means more than its files say.
    #[error("\"{}\" has the attribute {name}: an overlay shows something else there", path.escape_ascii())]
    Overlay {
        /// Below the root.
        path: Vec<u8>,
        /// Of the attribute.
        name: String,
    },
    /// It asks for too much.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

impl DirectoryError {
    fn read(path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Read {
            path: path.to_vec(),
            source: source.into(),
        }
    }
}

/// Opens the root of a tree. A link to it is followed: who names it means what it leads to.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, DirectoryError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|error| DirectoryError::Root(error.into()))
}

/// What a walk is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An image's root: every entry is a file of the image.
    Image,
    /// One lower directory of an overlay, with its marks.
    Lower(OverlayAttributes),
}

/// The image whose root is this directory.
pub(crate) fn read(path: &Path, options: &Options<'_>) -> Result<Image, DirectoryError> {
    let root = open_root(path)?;
    let made = |walked: Walked| {
        let entries = walked.entries.into_iter();
        let nodes = entries.filter_map(|(path, found)| match found {
            Found::Node(node) | Found::Opaque(node) => Some((path, node)),
            // Of an image's root the walk takes nothing for one.
            Found::Whiteout => None,
        });
        let tree = Tree::of_walk(nodes);
        // It is remembered, and there is time for it now.
        let _ = tree.digest();
        Image {
            tree,
            formats: walked.formats,
            published: None,
        }
    };
    let budget = Budget::new(options.limits);
    walk::walk(root.as_fd(), Kind::Image, &budget, options, None, made)
}

/// Walks a tree.
pub(crate) fn walk(
    root: BorrowedFd<'_>,
    kind: Kind,
    budget: &Budget,
    options: &Options<'_>,
) -> Result<Walked, DirectoryError> {
    walk::walk(root, kind, budget, options, None, |walked| walked)
}

/// Whether the kernel shows attributes `trusted.*` to this process: to who lacks the privilege it says that
/// there are none (`xattr_permission`, `fs/xattr.c`).
pub(crate) fn trusted_are_seen() -> bool {
    let privileged =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    // In a user namespace of its own a process has capabilities that count for nothing here.
    let map = std::fs::read_to_string("/proc/self/uid_map");
    let initial = map.is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]));
    privileged && initial
}

/// Where a walk is, for tests that change the tree under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment<'a> {
    /// The names of this directory were read.
    Listed(&'a [u8]),
    /// This file is open and stamped, and nothing was read of it.
    Opened(&'a [u8]),
    /// Everything was read, and nothing was looked at again.
    ReadAll,
}
