// SPDX-License-Identifier: Apache-2.0
//! One layer of an image: what an archive's entries come to, and how that is laid over what
//! is below. SPEC.md says why each rule is what it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::path::{PathError, components};
use crate::tree::{Key, Tree, clear, key_of};
use crate::{Meta, Node};

/// In front of a name: that name is gone from the layers below (OCI image specification, layers).
const WHITEOUT: &[u8] = b".wh.";
/// In front of what is an engine's own.
const RESERVED: &[u8] = b".wh..wh.";
/// Everything is gone from this directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Why an entry of a layer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// Its path is none.
    #[error("entry \"{}\" is refused: {reason}", path.escape_ascii())]
    Path {
        /// As in the archive.
        path: Vec<u8>,
        /// Why.
        #[source]
        reason: PathError,
    },
    /// Something above it in the same layer is no directory.
    #[error(
        "entry \"{}\" is refused: \"{}\" is no directory, and who unpacks the layer decides what is meant",
        path.escape_ascii(), above.escape_ascii()
    )]
    Below {
        /// As in the archive.
        path: Vec<u8>,
        /// What is above it.
        above: Vec<u8>,
    },
    /// A whiteout of nothing that a file can be called, or one that is a directory.
    #[error("entry \"{}\" is refused: it is no whiteout that means anything", path.escape_ascii())]
    Whiteout {
        /// As in the archive.
        path: Vec<u8>,
    },
    /// A hard link to nothing, or to a directory.
    #[error(
        "entry \"{}\" is refused: it is a hard link to \"{}\", which is no file of this image",
        path.escape_ascii(), target.escape_ascii()
    )]
    Link {
        /// As in the archive.
        path: Vec<u8>,
        /// As in the archive.
        target: Vec<u8>,
    },
}

/// What is known of a layer so far.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    /// `None`: a directory that only what is in it speaks of.
    nodes: BTreeMap<Key, Option<Node>>,
    gone: BTreeSet<Key>,
    /// Directories of which all that is below is gone; the empty key is the root.
    opaque: BTreeSet<Key>,
}

/// What an entry's names make of it.
enum Place<'a> {
    /// A node of the image.
    Node(Vec<&'a [u8]>),
    /// All of a directory is gone below.
    Opaque(Vec<&'a [u8]>),
    /// This is gone below.
    Gone(Vec<&'a [u8]>),
    /// An engine's own.
    Nothing,
}

impl Layer {
    /// Adds the archive's next entry.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub fn add(&mut self, path: &[u8], node: Node) -> Result<(), LayerError> {
        match place(path, node.is_directory())? {
            Place::Node(names) => self.put(path, &names, node),
            other => self.hide(path, &other),
        }
    }

    /// Adds the archive's next entry, a hard link. `below` is the image without this layer.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub fn add_link(&mut self, path: &[u8], target: &[u8], below: &Tree) -> Result<(), LayerError> {
        // Whiteouts have been hard links in the archives of one engine.
        let names = match place(path, false)? {
            Place::Node(names) => names,
            other => return self.hide(path, &other),
        };
        let refused = || LayerError::Link {
            path: path.to_vec(),
            target: target.to_vec(),
        };
        let key = key_of(&components(target).map_err(|_| refused())?);
        let found = match self.nodes.get(&key) {
            Some(own) => own.as_ref(),
            None => below.at(&key),
        };
        let copy = found.filter(|node| !node.is_directory());
        let copy = copy.cloned().ok_or_else(refused)?;
        self.put(path, &names, copy)
    }

    /// Lays the layer over `image`, the layers below it.
    pub fn lay_over(self, image: &mut Tree) {
        for key in &self.opaque {
            image.clear(key);
        }
        for key in &self.gone {
            image.remove(key);
        }
        for (key, node) in self.nodes {
            let over_directory = image.at(&key).is_some_and(Node::is_directory);
            match node {
                None if over_directory => {}
                None => image.put(key, Node::Directory(Meta::default())),
                Some(node) => {
                    if over_directory && !node.is_directory() {
                        image.clear(&key);
                    }
                    image.put(key, node);
                }
            }
        }
    }

    fn put(&mut self, path: &[u8], names: &[&[u8]], node: Node) -> Result<(), LayerError> {
        let Some((_, above)) = names.split_last() else {
            // The root, which has no attributes.
            return Ok(());
        };
        self.imply(path, above)?;
        let key = key_of(names);
        if !node.is_directory() {
            clear(&mut self.nodes, &key);
        }
        self.nodes.insert(key, Some(node));
        Ok(())
    }

    fn hide(&mut self, path: &[u8], what: &Place<'_>) -> Result<(), LayerError> {
        match what {
            Place::Opaque(directory) => {
                self.imply(path, directory)?;
                self.opaque.insert(key_of(directory));
            }
            Place::Gone(names) => {
                self.imply(path, &names[..names.len() - 1])?;
                self.gone.insert(key_of(names));
            }
            Place::Node(_) | Place::Nothing => {}
        }
        Ok(())
    }

    /// Makes sure that a directory of the layer is there, and those above it.
    fn imply(&mut self, path: &[u8], directory: &[&[u8]]) -> Result<(), LayerError> {
        for depth in 1..=directory.len() {
            let key = key_of(&directory[..depth]);
            let above = self.nodes.entry(key).or_default();
            if above.as_ref().is_some_and(|node| !node.is_directory()) {
                return Err(LayerError::Below {
                    path: path.to_vec(),
                    above: directory[..depth].join(&b'/'),
                });
            }
        }
        Ok(())
    }
}

fn place(path: &[u8], is_directory: bool) -> Result<Place<'_>, LayerError> {
    let mut names = components(path).map_err(|reason| LayerError::Path {
        path: path.to_vec(),
        reason,
    })?;
    let refused = || LayerError::Whiteout {
        path: path.to_vec(),
    };
    let Some(at) = names.iter().position(|name| name.starts_with(WHITEOUT)) else {
        return Ok(Place::Node(names));
    };
    let is_last = at + 1 == names.len();
    let whiteout = names[at];
    if whiteout == OPAQUE && is_last && !is_directory {
        names.pop();
        return Ok(Place::Opaque(names));
    }
    if whiteout.starts_with(RESERVED) && whiteout != OPAQUE {
        return Ok(Place::Nothing);
    }
    let name = &whiteout[WHITEOUT.len()..];
    if !is_last || is_directory || matches!(name, b"" | b"." | b".." | b".wh..opq") {
        return Err(refused());
    }
    names[at] = name;
    Ok(Place::Gone(names))
}
