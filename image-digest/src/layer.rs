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

/// What is known of a layer so far. It is made without the layers below it, so that all of an image's
/// can be made at once.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    /// Whatever is in it, all that is above it is in it too, as directories.
    nodes: BTreeMap<Key, Entry>,
    gone: BTreeSet<Key>,
    /// Directories of which all that is below is gone; the empty key is the root.
    opaque: BTreeSet<Key>,
    /// All hard links to files of the layers below, those too that were replaced since: who unpacks the
    /// layer makes each.
    links: Vec<Link>,
    size: LayerSize,
}

#[derive(Debug, Clone)]
enum Entry {
    /// A directory that only what is in it speaks of.
    Implied,
    Node(Node),
    /// A hard link to a file of the layers below.
    Link(Key),
}

#[derive(Debug, Clone)]
struct Link {
    key: Key,
    /// As in the archive.
    path: Vec<u8>,
    target: Vec<u8>,
}

/// How much a layer has been told, what was replaced since included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerSize {
    /// Nodes, those implied, and whiteouts.
    pub entries: u64,
    /// Bytes of their paths.
    pub path_bytes: u64,
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
            Place::Node(names) => self.put(path, &names, Entry::Node(node)),
            other => self.hide(path, &other),
        }
    }

    /// Adds the archive's next entry, a hard link.
    ///
    /// # Errors
    /// See [`LayerError`]. Whether the layers below have the target is seen in [`Layer::lay_over`].
    pub fn add_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), LayerError> {
        // Whiteouts have been hard links in the archives of one engine.
        let names = match place(path, false)? {
            Place::Node(names) => names,
            other => return self.hide(path, &other),
        };
        let link = |key| Link {
            key,
            path: path.to_vec(),
            target: target.to_vec(),
        };
        let refused = |_| link(Key::new()).refused();
        let key = key_of(&components(target).map_err(refused)?);
        let copy = match self.nodes.get(&key) {
            None => {
                self.links.push(link(key.clone()));
                Entry::Link(key)
            }
            Some(Entry::Implied) => return Err(link(key).refused()),
            Some(Entry::Node(node)) if node.is_directory() => return Err(link(key).refused()),
            Some(file) => file.clone(),
        };
        self.put(path, &names, copy)
    }

    /// Adds a node whose name is its name, whatever it begins with: for layers that are directories
    /// on a disk, where whiteouts are no files with names.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub fn add_named(&mut self, path: &[u8], node: Node) -> Result<(), LayerError> {
        self.put(path, &names_of(path)?, Entry::Node(node))
    }

    /// What the layers below have under this path is gone.
    ///
    /// # Errors
    /// See [`LayerError`]; the root cannot be gone.
    pub fn white_out(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let names = names_of(path)?;
        if names.is_empty() {
            return Err(LayerError::Whiteout {
                path: path.to_vec(),
            });
        }
        self.hide(path, &Place::Gone(names))
    }

    /// All that the layers below have in this directory is gone.
    ///
    /// # Errors
    /// See [`LayerError`].
    pub fn make_opaque(&mut self, path: &[u8]) -> Result<(), LayerError> {
        self.hide(path, &Place::Opaque(names_of(path)?))
    }

    /// How much it has been told so far.
    #[must_use]
    pub fn size(&self) -> LayerSize {
        self.size
    }

    /// Lays the layer over `image`, the layers below it.
    ///
    /// # Errors
    /// [`LayerError::Link`], and then the image is as it was.
    pub fn lay_over(self, image: &mut Tree) -> Result<(), LayerError> {
        for link in self.links {
            if image.at(&link.key).is_none_or(Node::is_directory) {
                return Err(link.refused());
            }
        }
        let linked = |entry| match entry {
            Entry::Implied => None,
            Entry::Node(node) => Some(node),
            // That it is there was seen.
            Entry::Link(key) => image.at(&key).cloned(),
        };
        let nodes = self.nodes.into_iter();
        let nodes: Vec<_> = nodes.map(|(key, entry)| (key, linked(entry))).collect();
        for key in &self.opaque {
            image.clear(key);
        }
        for key in &self.gone {
            image.remove(key);
        }
        for (key, node) in nodes {
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
        Ok(())
    }

    fn put(&mut self, path: &[u8], names: &[&[u8]], entry: Entry) -> Result<(), LayerError> {
        let Some((_, above)) = names.split_last() else {
            // The root, which has no attributes.
            return Ok(());
        };
        self.imply(path, above)?;
        let key = key_of(names);
        if !entry.is_directory() {
            clear(&mut self.nodes, &key);
        }
        self.count(&key);
        self.nodes.insert(key, entry);
        Ok(())
    }

    fn hide(&mut self, path: &[u8], what: &Place<'_>) -> Result<(), LayerError> {
        let (directory, key) = match what {
            Place::Opaque(directory) => (&directory[..], key_of(directory)),
            Place::Gone(names) => (&names[..names.len() - 1], key_of(names)),
            Place::Node(_) | Place::Nothing => return Ok(()),
        };
        self.imply(path, directory)?;
        self.count(&key);
        if matches!(what, Place::Opaque(_)) {
            self.opaque.insert(key);
        } else {
            self.gone.insert(key);
        }
        Ok(())
    }

    /// Makes sure that a directory of the layer is there, and those above it. Looks from below, since
    /// most are: a path of two thousand names costs its two thousand look-ups once.
    fn imply(&mut self, path: &[u8], directory: &[&[u8]]) -> Result<(), LayerError> {
        let mut missing = Vec::new();
        for depth in (1..=directory.len()).rev() {
            let key = key_of(&directory[..depth]);
            match self.nodes.get(&key) {
                Some(above) if above.is_directory() => break,
                Some(_) => {
                    return Err(LayerError::Below {
                        path: path.to_vec(),
                        above: directory[..depth].join(&b'/'),
                    });
                }
                None => missing.push(key),
            }
        }
        for key in missing {
            self.count(&key);
            self.nodes.insert(key, Entry::Implied);
        }
        Ok(())
    }

    fn count(&mut self, key: &[u8]) {
        self.size.entries += 1;
        self.size.path_bytes += key.len() as u64;
    }
}

impl Entry {
    fn is_directory(&self) -> bool {
        matches!(self, Self::Implied | Self::Node(Node::Directory(_)))
    }
}

impl Link {
    fn refused(self) -> LayerError {
        LayerError::Link {
            path: self.path,
            target: self.target,
        }
    }
}

fn names_of(path: &[u8]) -> Result<Vec<&[u8]>, LayerError> {
    components(path).map_err(|reason| LayerError::Path {
        path: path.to_vec(),
        reason,
    })
}

fn place(path: &[u8], is_directory: bool) -> Result<Place<'_>, LayerError> {
    let mut names = names_of(path)?;
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
