// SPDX-License-Identifier: Apache-2.0
//! What is another in one image than in another: which entries, and what of them.

use std::cmp::Ordering;
use std::fmt;

use crate::tree::Key;
use crate::{ContentDigest, Device, Meta, Node, Tree, escaped};

/// A path that is not the same in two images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Without a `/` in front.
    pub path: Vec<u8>,
    /// What is another.
    pub what: What,
}

/// What is another at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It is in the second only.
    Added(Node),
    /// It is in the first only.
    Removed(Node),
    /// It is in both, and these are not the same.
    Changed(Vec<Change>),
}

/// Something of an entry: in the first image, in the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What it is.
    Type(&'static str, &'static str),
    /// Bytes and digest of a file.
    Content((u64, ContentDigest), (u64, ContentDigest)),
    /// Permission bits.
    Mode(u32, u32),
    /// Owner and group.
    Owner((u32, u32), (u32, u32)),
    /// Value of `security.capability`.
    Capability(Option<Vec<u8>>, Option<Vec<u8>>),
    /// Of a symbolic link.
    Target(Vec<u8>, Vec<u8>),
    /// A device's numbers.
    Device(Device, Device),
}

/// All differences, in the order of [`Tree::entries`].
#[must_use]
pub fn diff(first: &Tree, second: &Tree) -> Vec<Difference> {
    let (mut first, mut second) = (first.keyed().peekable(), second.keyed().peekable());
    let mut differences = Vec::new();
    loop {
        let order = match (first.peek(), second.peek()) {
            (None, None) => return differences,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let one = first.next_if(|_| order.is_le());
        let other = second.next_if(|_| order.is_ge());
        let (key, what) = match (one, other) {
            (Some((_, a)), Some((_, b))) if a == b => continue,
            (Some((key, a)), Some((_, b))) => (key, What::Changed(changes(a, b))),
            (Some((key, a)), None) => (key, What::Removed(a.clone())),
            (None, Some((key, b))) => (key, What::Added(b.clone())),
            (None, None) => return differences,
        };
        differences.push(Difference {
            path: path(key),
            what,
        });
    }
}

fn path(key: &Key) -> Vec<u8> {
    let slash = |byte: &u8| if *byte == 0 { b'/' } else { *byte };
    key.iter().map(slash).collect()
}

fn changes(a: &Node, b: &Node) -> Vec<Change> {
    let mut changes = Vec::new();
    if a.kind() != b.kind() {
        changes.push(Change::Type(a.kind(), b.kind()));
    }
    match (a, b) {
        (
            Node::File { size, content, .. },
            Node::File {
                size: other_size,
                content: other,
                ..
            },
        ) if (size, content) != (other_size, other) => {
            changes.push(Change::Content((*size, *content), (*other_size, *other)));
        }
        (Node::Symlink { target, .. }, Node::Symlink { target: other, .. }) if target != other => {
            changes.push(Change::Target(target.clone(), other.clone()));
        }
        (Node::CharDevice(_, device), Node::CharDevice(_, other))
        | (Node::BlockDevice(_, device), Node::BlockDevice(_, other))
            if device != other =>
        {
            changes.push(Change::Device(*device, *other));
        }
        _ => {}
    }
    if let (Some(meta), Some(other)) = (a.meta(), b.meta()) {
        if meta.mode() != other.mode() {
            changes.push(Change::Mode(meta.mode(), other.mode()));
        }
        if meta.capability != other.capability {
            let capability = (meta.capability.clone(), other.capability.clone());
            changes.push(Change::Capability(capability.0, capability.1));
        }
    }
    if a.owner() != b.owner() {
        changes.push(Change::Owner(a.owner(), b.owner()));
    }
    changes
}

impl Node {
    /// Its type, as a manifest has it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::File { .. } => "file",
            Self::Symlink { .. } => "symlink",
            Self::CharDevice(..) => "char",
            Self::BlockDevice(..) => "block",
            Self::Fifo(_) => "fifo",
            Self::Socket(_) => "socket",
        }
    }

    /// What a symbolic link does not have.
    #[must_use]
    pub fn meta(&self) -> Option<&Meta> {
        match self {
            Self::Directory(meta)
            | Self::File { meta, .. }
            | Self::CharDevice(meta, _)
            | Self::BlockDevice(meta, _)
            | Self::Fifo(meta)
            | Self::Socket(meta) => Some(meta),
            Self::Symlink { .. } => None,
        }
    }

    /// Owner and group.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        match self {
            Self::Symlink { uid, gid, .. } => (*uid, *gid),
            other => other.meta().map_or((0, 0), |meta| (meta.uid, meta.gid)),
        }
    }
}

/// `+ path`, `- path` or `~ path: mode 0644 -> 0755, owner 0:0 -> 1:1`, as [`escaped`] writes paths.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = escaped(&self.path);
        match &self.what {
            What::Added(_) => write!(f, "+ {path}"),
            What::Removed(_) => write!(f, "- {path}"),
            What::Changed(changes) => {
                write!(f, "~ {path}: ")?;
                for (number, change) in changes.iter().enumerate() {
                    let comma = if number == 0 { "" } else { ", " };
                    write!(f, "{comma}{change}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capability = |value: &Option<Vec<u8>>| match value {
            None => "none".to_owned(),
            Some(value) => hex::encode(value),
        };
        match self {
            Self::Type(a, b) => write!(f, "type {a} -> {b}"),
            Self::Content((size, a), (other_size, b)) => {
                write!(f, "content {a} ({size} bytes) -> {b} ({other_size} bytes)")
            }
            Self::Mode(a, b) => write!(f, "mode {a:04o} -> {b:04o}"),
            Self::Owner((uid, gid), (other_uid, other_gid)) => {
                write!(f, "owner {uid}:{gid} -> {other_uid}:{other_gid}")
            }
            Self::Capability(a, b) => {
                write!(f, "capability {} -> {}", capability(a), capability(b))
            }
            Self::Target(a, b) => write!(f, "target {} -> {}", escaped(a), escaped(b)),
            Self::Device(a, b) => {
                write!(
                    f,
                    "device {}:{} -> {}:{}",
                    a.major, a.minor, b.major, b.minor
                )
            }
        }
    }
}
