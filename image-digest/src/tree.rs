// SPDX-License-Identifier: Apache-2.0
//! The files of an image.
//!
//! Kept flat, in one map: nothing here recurses, however deep an image nests, and memory goes by
//! the number of entries.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::OnceLock;

use crate::node::root_digest;
use crate::path::{PathError, components};
use crate::{ImageDigest, Node};

/// Why an entry cannot be put into a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Its path is none.
    #[error("\"{}\" is no path inside an image: {reason}", path.escape_ascii())]
    Path {
        /// As it was given.
        path: Vec<u8>,
        /// Why.
        #[source]
        reason: PathError,
    },
    /// Nothing, or no directory, is above it.
    #[error("\"{}\" is in no directory of the image", path.escape_ascii())]
    NoParent {
        /// As it was given.
        path: Vec<u8>,
    },
    /// Something else has the path.
    #[error("\"{}\" is in the image already", path.escape_ascii())]
    Twice {
        /// As it was given.
        path: Vec<u8>,
    },
}

/// The names on the way to a node, each but the last ended by NUL, which no name has in it. So
/// the order of keys is a directory, then all that is in it, then what is beside it, names bytewise.
pub(crate) type Key = Vec<u8>;

/// An image's files. The root directory is there always, and has no attributes.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<Key, Node>,
    /// Computed once, until something changes.
    digest: OnceLock<ImageDigest>,
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        self.nodes == other.nodes
    }
}

impl Eq for Tree {}

impl Tree {
    /// Adds a node, for who walks a directory from the top; see [`crate::Layer`] for archives.
    ///
    /// # Errors
    /// See [`TreeError`]. The root itself is there already.
    pub fn insert(&mut self, path: &[u8], node: Node) -> Result<(), TreeError> {
        let names = components(path).map_err(|reason| TreeError::Path {
            path: path.to_vec(),
            reason,
        })?;
        let key = key_of(&names);
        let path = || path.to_vec();
        let in_directory = match parent(&key) {
            Some(above) => self.nodes.get(above).is_some_and(Node::is_directory),
            None => true,
        };
        if !in_directory {
            return Err(TreeError::NoParent { path: path() });
        }
        if key.is_empty() || self.nodes.contains_key(&key) {
            return Err(TreeError::Twice { path: path() });
        }
        self.put(key, node);
        Ok(())
    }

    /// What was found by walking, in order, each once and below a directory.
    pub(crate) fn of_walk(entries: impl Iterator<Item = (Vec<u8>, Node)>) -> Self {
        let keyed = entries.map(|(mut path, node)| {
            for byte in path.iter_mut().filter(|byte| **byte == b'/') {
                *byte = 0;
            }
            (path, node)
        });
        // A map of what is in order is made in one go.
        Self {
            nodes: keyed.collect(),
            digest: OnceLock::new(),
        }
    }

    /// The node of this path; `None` for the root.
    #[must_use]
    pub fn get(&self, path: &[u8]) -> Option<&Node> {
        self.nodes.get(&key_of(&components(path).ok()?))
    }

    /// Every node but the root with its path, which has no `/` in front: directories before what
    /// is in them, names bytewise.
    pub fn entries(&self) -> impl Iterator<Item = (Vec<u8>, &Node)> {
        self.nodes.iter().map(|(key, node)| {
            let slash = |byte: &u8| if *byte == 0 { b'/' } else { *byte };
            (key.iter().map(slash).collect(), node)
        })
    }

    /// The image's digest.
    #[must_use]
    pub fn digest(&self) -> ImageDigest {
        *self.digest.get_or_init(|| self.computed())
    }

    fn computed(&self) -> ImageDigest {
        let mut open: Vec<Open<'_>> = Vec::new();
        let mut top = Vec::new();
        for (key, node) in &self.nodes {
            let depth = key.iter().filter(|byte| **byte == 0).count();
            close(&mut open, depth, &mut top);
            let name = key.rsplit(|byte| *byte == 0).next().unwrap_or_default();
            open.push(Open {
                name,
                node,
                children: Vec::new(),
            });
        }
        close(&mut open, 0, &mut top);
        root_digest(top.into_iter())
    }

    /// As [`Self::entries`], by key.
    pub(crate) fn keyed(&self) -> impl Iterator<Item = (&Key, &Node)> {
        self.nodes.iter()
    }

    pub(crate) fn at_with_key(&self, key: &[u8]) -> Option<(&Key, &Node)> {
        self.nodes.get_key_value(key)
    }

    /// Whether this path's place is before the last entry's.
    pub(crate) fn is_before_last(&self, path: &[u8]) -> bool {
        let key = components(path).map(|names| key_of(&names));
        let last = self.nodes.last_key_value();
        matches!((key, last), (Ok(key), Some((last, _))) if key < *last)
    }

    pub(crate) fn at(&self, key: &[u8]) -> Option<&Node> {
        self.nodes.get(key)
    }

    /// Takes away a node and all that is in it.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.nodes.remove(key);
        // Which forgets the digest.
        self.clear(key);
    }

    /// Takes away all that is in a directory.
    pub(crate) fn clear(&mut self, key: &[u8]) {
        self.digest.take();
        clear(&mut self.nodes, key);
    }

    pub(crate) fn put(&mut self, key: Key, node: Node) {
        self.digest.take();
        self.nodes.insert(key, node);
    }
}

/// A node whose digest waits for what is in it.
struct Open<'a> {
    name: &'a [u8],
    node: &'a Node,
    children: Vec<(&'a [u8], ImageDigest)>,
}

/// Finishes the nodes below `depth`; those of the root's own children go to `top`.
fn close<'a>(open: &mut Vec<Open<'a>>, depth: usize, top: &mut Vec<(&'a [u8], ImageDigest)>) {
    while open.len() > depth {
        let Some(done) = open.pop() else { return };
        let digest = done.node.digest(done.children.into_iter());
        let siblings = open
            .last_mut()
            .map_or(&mut *top, |above| &mut above.children);
        siblings.push((done.name, digest));
    }
}

pub(crate) fn key_of(names: &[&[u8]]) -> Key {
    names.join(&0)
}

/// The directory that a key is in; `None`: the root.
pub(crate) fn parent(key: &[u8]) -> Option<&[u8]> {
    let end = key.iter().rposition(|byte| *byte == 0)?;
    Some(&key[..end])
}

/// Removes what is in the directory of this key; the empty one is the root.
pub(crate) fn clear<T>(nodes: &mut BTreeMap<Key, T>, key: &[u8]) {
    if key.is_empty() {
        nodes.clear();
        return;
    }
    let (from, to) = ([key, b"\0"].concat(), [key, b"\x01"].concat());
    let inside = (Bound::Included(from), Bound::Excluded(to));
    let inside: Vec<Key> = nodes.range(inside).map(|(key, _)| key.clone()).collect();
    for key in inside {
        nodes.remove(&key);
    }
}
