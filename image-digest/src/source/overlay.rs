// SPDX-License-Identifier: Apache-2.0
//! The lower directories of an overlay, laid over one another as the kernel lays them, without a mount: the
//! files keep their inodes, so that contents need not be hashed twice, and no privilege to mount is needed.
//!
//! Owns how a lower directory is opened and what it means for those below. What makes an overlay show
//! something else than files and whiteouts (`redirect`, `metacopy`) is refused by `directory`, data-only layers by who knows
//! the mount. `origin`, `impure`, `nlink`, `upper`, `uuid` change nothing that counts. Called by `container` and `storage`.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fgetxattr, open, openat2};
use rustix::io::Errno;

use crate::limits::Budget;
use crate::source::Options;
use crate::source::directory::{DirectoryError, Found, Kind, OverlayAttributes, Walked, walk};
use crate::{Formats, Image, Layer, LayerError, Node, Tree};

/// With it a store says that owner and mode of a file are in its value (containers/storage, `force_mask`).
const OVERRIDE: &std::ffi::CStr = c"user.containers.override_stat";

/// Why lower directories are no image.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// It cannot be opened.
    #[error("the lower directory \"{}\" cannot be opened: {reason}", path.as_os_str().as_encoded_bytes().escape_ascii())]
    Open {
        /// Which.
        path: PathBuf,
        /// The kernel's.
        #[source]
        reason: Errno,
    },
    /// A link in the store that points elsewhere.
    #[error("the lower directory \"{}\" is refused: its link leads out of the store", .0.as_os_str().as_encoded_bytes().escape_ascii())]
    Outside(PathBuf),
    /// Owner and mode are not the files'.
    #[error(
        "the lower directory \"{}\" is refused: it has the attribute user.containers.override_stat, \
         so owners and modes of its files are not what its file system says",
        .0.as_os_str().as_encoded_bytes().escape_ascii()
    )]
    Override(PathBuf),
    /// It cannot be read.
    #[error("in the lower directory \"{}\": {reason}", path.as_os_str().as_encoded_bytes().escape_ascii())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        reason: DirectoryError,
    },
    /// What is in it is no layer.
    #[error("in the lower directory \"{}\": {reason}", path.as_os_str().as_encoded_bytes().escape_ascii())]
    Layer {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        reason: LayerError,
    },
}

/// How a lower directory says that something below it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhiteoutNames {
    /// By what the kernel's overlay takes for a whiteout, whatever it is called.
    Plain,
    /// By files named `.wh.*` too: unpacked for a mount program such as fuse-overlayfs.
    Marks,
}

/// One lower directory, open.
#[derive(Debug)]
pub(crate) struct Lower {
    pub(crate) directory: OwnedFd,
    /// For errors.
    pub(crate) path: PathBuf,
    names: WhiteoutNames,
}

impl Lower {
    /// A directory of a store: links on the way may lead anywhere in `home`, and nowhere else.
    pub(crate) fn beneath(
        home: &Path,
        inside: &Path,
        names: WhiteoutNames,
    ) -> Result<Self, OverlayError> {
        let path = home.join(inside);
        let failed = |reason| match reason {
            Errno::XDEV => OverlayError::Outside(path.clone()),
            reason => OverlayError::Open {
                path: path.clone(),
                reason,
            },
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let home = open(home, flags, Mode::empty()).map_err(failed)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let directory = loop {
            match openat2(&home, inside, Self::FLAGS, Mode::empty(), resolve) {
                // Something was renamed or mounted meanwhile; the kernel could not tell whether a `..` in a
                // link still leads where it should.
                Err(Errno::AGAIN) => {}
                opened => break opened.map_err(failed)?,
            }
        };
        Self::checked(directory, path, names)
    }

    /// A directory by its whole path.
    pub(crate) fn at(path: &Path, names: WhiteoutNames) -> Result<Self, OverlayError> {
        let resolve = ResolveFlags::NO_MAGICLINKS;
        let directory = openat2(CWD, path, Self::FLAGS, Mode::empty(), resolve);
        let directory = directory.map_err(|reason| OverlayError::Open {
            path: path.to_owned(),
            reason,
        })?;
        Self::checked(directory, path.to_owned(), names)
    }

    /// It may have been unpacked for a mount program.
    pub(crate) fn expect_marks(&mut self) {
        self.names = WhiteoutNames::Marks;
    }

    const FLAGS: OFlags = OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::CLOEXEC);

    fn checked(
        directory: OwnedFd,
        path: PathBuf,
        names: WhiteoutNames,
    ) -> Result<Self, OverlayError> {
        match fgetxattr(&directory, OVERRIDE, &mut [0_u8; 256]) {
            Ok(_) | Err(Errno::RANGE) => Err(OverlayError::Override(path)),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(Self {
                directory,
                path,
                names,
            }),
            Err(reason) => Err(OverlayError::Open { path, reason }),
        }
    }

    /// Lays what was found in it over what is below.
    fn lay_over(&self, entries: Vec<(Vec<u8>, Found)>, image: &mut Tree) -> Result<(), LayerError> {
        let mut layer = Layer::default();
        for (path, found) in entries {
            // The kernel stacks the roots of all layers, and looks at no attribute of theirs (`ovl_get_root`).
            if path.is_empty() {
                continue;
            }
            match found {
                Found::Whiteout => layer.white_out(&path)?,
                Found::Node(node) => self.add(&mut layer, &path, node)?,
                Found::Opaque(node) => {
                    self.add(&mut layer, &path, node)?;
                    layer.make_opaque(&path)?;
                }
            }
        }
        layer.lay_over(image)
    }

    fn add(&self, layer: &mut Layer, path: &[u8], node: Node) -> Result<(), LayerError> {
        match self.names {
            WhiteoutNames::Plain => layer.add_named(path, node),
            WhiteoutNames::Marks => layer.add(path, node),
        }
    }
}

/// Reads lower directories, the bottom one first.
pub(crate) fn read(
    lower: &[Lower],
    attributes: OverlayAttributes,
    options: &Options<'_>,
) -> Result<Image, OverlayError> {
    let budget = Budget::new(options.limits);
    let mut tree = Tree::default();
    let mut all_formats = Formats::new();
    for one in lower {
        let kind = Kind::Lower(attributes);
        let walked = walk(one.directory.as_fd(), kind, &budget, options);
        let Walked { entries, formats } = walked.map_err(|reason| OverlayError::Directory {
            path: one.path.clone(),
            reason,
        })?;
        all_formats.extend(formats);
        let laid = one.lay_over(entries, &mut tree);
        laid.map_err(|reason| OverlayError::Layer {
            path: one.path.clone(),
            reason,
        })?;
    }
    // Without those of files that a layer above hides.
    let contents: HashSet<_> = tree
        .entries()
        .filter_map(|(_, node)| match node {
            Node::File { content, .. } => Some(*content),
            _ => None,
        })
        .collect();
    all_formats.retain(|content, _| contents.contains(content));
    Ok(Image {
        tree,
        formats: all_formats,
        published: None,
    })
}

#[cfg(test)]
mod tests;
