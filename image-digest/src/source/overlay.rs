// SPDX-License-Identifier: Apache-2.0
//! The image below an overlay: its lower directories, each read as one layer.
//!
//! They are read where they lie and not mounted again: their files have their own inodes there, by which a cache
//! knows them, and whoever may read them may ask for the digest. What overlayfs would make of them is what SPEC.md makes
//! of layers; a mark that would have it show anything else is refused by name.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Options;
use super::directory::{self, Contents, DirectoryError, Mark, OverlayAttributes, Walked};
use crate::limits::Budget;
use crate::{Formats, Image, Layer, LayerError, Tree};

/// `PROC_USER_INIT_INO`, `include/linux/proc_ns.h`.
const INITIAL_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
/// `CAP_SYS_ADMIN`, `include/uapi/linux/capability.h`.
const SYS_ADMIN: u64 = 1 << 21;

/// Why lower directories give no image.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// One of them.
    #[error("lower directory {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: DirectoryError,
    },
    /// One of them, as a layer.
    #[error("lower directory {}: {source}", path.display())]
    Layer {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: LayerError,
    },
    /// Another overlay's marks.
    #[error(
        "lower directory {} has \"{}\", a mark of fuse-overlayfs, which is not read here",
        path.display(), name.escape_ascii()
    )]
    Fuse {
        /// Which.
        path: PathBuf,
        /// The file.
        name: Vec<u8>,
    },
    /// Opaque directories would not be seen.
    #[error(
        "what overlayfs marks in its lower directories can be read by root alone (CAP_SYS_ADMIN, initial user namespace)"
    )]
    Unprivileged,
}

/// What is below an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LowerDirectories {
    /// The lowest first.
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) attributes: OverlayAttributes,
}

/// Reads all of them.
pub(crate) fn read(
    lower: &LowerDirectories,
    budget: &Budget,
    options: &Options<'_>,
) -> Result<Image, OverlayError> {
    if lower.attributes == OverlayAttributes::Trusted && !sees_trusted_attributes() {
        return Err(OverlayError::Unprivileged);
    }
    let (mut tree, mut formats) = (Tree::default(), Formats::default());
    for path in &lower.paths {
        let failed = |source| OverlayError::Directory {
            path: path.clone(),
            source,
        };
        let root = directory::open_root(path).map_err(failed)?;
        let attributes = Some(lower.attributes);
        let walked = directory::walk(root.as_fd(), Contents::Hashed, attributes, budget, options);
        let walked = walked.map_err(failed)?;
        formats.extend(walked.formats.clone());
        let over = layer(path, walked)?.lay_over(&mut tree);
        over.map_err(|source| OverlayError::Layer {
            path: path.clone(),
            source,
        })?;
    }
    Ok(Image {
        tree,
        formats,
        published: None,
    })
}

fn layer(directory: &Path, walked: Walked) -> Result<Layer, OverlayError> {
    let failed = |source| OverlayError::Layer {
        path: directory.to_owned(),
        source,
    };
    let mut layer = Layer::default();
    if walked.root.is_some_and(|root| root.mark == Mark::Opaque) {
        layer.make_opaque(b"").map_err(failed)?;
    }
    for (path, seen) in walked.entries {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path);
        // No image has such a file: in a layer's archive its name is a whiteout.
        if name.starts_with(b".wh.") {
            return Err(OverlayError::Fuse {
                path: directory.to_owned(),
                name: path,
            });
        }
        match seen.mark {
            Mark::Whiteout => layer.white_out(&path).map_err(failed)?,
            // Of contents that matter the walk refuses others.
            Mark::None | Mark::Other => layer.add_named(&path, seen.node).map_err(failed)?,
            Mark::Opaque => {
                layer.add_named(&path, seen.node).map_err(failed)?;
                layer.make_opaque(&path).map_err(failed)?;
            }
        }
    }
    Ok(layer)
}

/// Whether the kernel lists `trusted.` attributes for this process; to others it says that there are none
/// (`xattr_permission`, `fs/xattr.c`).
fn sees_trusted_attributes() -> bool {
    let initial =
        fs::metadata("/proc/self/ns/user").is_ok_and(|ns| ns.ino() == INITIAL_USER_NAMESPACE);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    initial && effective.is_some_and(|effective| effective & SYS_ADMIN != 0)
}
