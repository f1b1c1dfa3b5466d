// SPDX-License-Identifier: Apache-2.0
//! What a container has in its upper directory beside what its engine puts there: what it wrote, changed and
//! deleted of its image. A container that is started again has a clean image and, perhaps, a dirty upper directory.
//!
//! What engines leave is data, `audit/stubs.toml`, and who asks may bring a table of their own. Nothing is opened
//! but directories: what is listed was written by whoever is to be judged.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZero;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::limits::Budget;
use crate::path::components;
use crate::source::directory::{self, Contents, Mark, OverlayAttributes, Seen};
use crate::source::{DirectoryError, Options};
use crate::tree::{Key, key_of, parent};
use crate::{Limits, Meta, Node, Progress, Tree};

/// The rows that this version ships; that they can be read is a test.
static SHIPPED: LazyLock<Table> = LazyLock::new(|| {
    Table::parse(include_str!("audit/stubs.toml")).unwrap_or(Table { stubs: Vec::new() })
});

/// Why a table is none.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It cannot be read.
    #[error("it is no table of stubs: {0}")]
    Toml(#[source] Box<toml::de::Error>),
    /// A row that could not hold.
    #[error("the row of \"{}\" {why}", path.escape_default())]
    Row {
        /// Its path.
        path: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// What engines leave in upper directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    stubs: Vec<Stub>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stub {
    key: Key,
    kind: Kind,
    modes: Vec<u32>,
    target: Vec<u8>,
    engines: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Directory,
    Symlink,
    Device,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    stub: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    path: String,
    r#type: Kind,
    #[serde(default)]
    modes: Vec<String>,
    #[serde(default)]
    target: String,
    engines: Vec<String>,
    #[serde(rename = "why")]
    _why: String,
}

impl Table {
    /// The table that this crate ships.
    #[must_use]
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    /// Reads a table; the shipped one says what its rows are.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let file: File = toml::from_str(text).map_err(|error| TableError::Toml(Box::new(error)))?;
        let stubs = file.stub.into_iter().map(Stub::of);
        Ok(Self {
            stubs: stubs.collect::<Result<_, _>>()?,
        })
    }

    /// Names of the engines that have rows.
    #[must_use]
    pub fn engines(&self) -> BTreeSet<&str> {
        let engines = self.stubs.iter().flat_map(|stub| &stub.engines);
        engines.map(String::as_str).collect()
    }
}

impl Stub {
    fn of(row: Row) -> Result<Self, TableError> {
        let wrong = |why| TableError::Row {
            path: row.path.clone(),
            why,
        };
        let names =
            components(row.path.as_bytes()).map_err(|_| wrong("has a path that is none"))?;
        let modes = row.modes.iter().map(|mode| u32::from_str_radix(mode, 8));
        let modes: Vec<u32> = modes
            .collect::<Result<_, _>>()
            .map_err(|_| wrong("has a mode that is no octal number"))?;
        if names.is_empty() {
            return Err(wrong("is of the root, which no image has attributes of"));
        }
        if (row.r#type == Kind::Symlink) != modes.is_empty() {
            return Err(wrong(
                "needs modes, unless it is of a symlink, which has none",
            ));
        }
        if (row.r#type == Kind::Symlink) == row.target.is_empty() {
            return Err(wrong("needs a target if it is of a symlink, and none else"));
        }
        if row.engines.is_empty() {
            return Err(wrong("is of no engine"));
        }
        Ok(Self {
            key: key_of(&names),
            kind: row.r#type,
            modes,
            target: row.target.into_bytes(),
            engines: row.engines,
        })
    }

    fn fits(&self, node: &Node) -> bool {
        let plain = |meta: &Meta| {
            self.modes.contains(&meta.mode())
                && (meta.uid, meta.gid) == (0, 0)
                && meta.capability.is_none()
        };
        match (self.kind, node) {
            (Kind::File, Node::File { meta, size: 0, .. })
            | (Kind::Directory, Node::Directory(meta))
            | (Kind::Device, Node::CharDevice(meta, _)) => plain(meta),
            (
                Kind::Symlink,
                Node::Symlink {
                    uid: 0,
                    gid: 0,
                    target,
                },
            ) => *target == self.target,
            _ => false,
        }
    }
}

/// Whose upper directory it is.
#[derive(Debug, Clone, Copy)]
pub struct Audit<'a> {
    /// What engines leave.
    pub table: &'a Table,
    /// The engine, as the table calls it; none: any.
    pub engine: Option<&'a str>,
    /// Where the container has something mounted: what was made there to mount on is no finding.
    pub mount_points: &'a [Vec<u8>],
    /// The image: directories that are in the upper one since something in them is are compared with it.
    pub image: Option<&'a Tree>,
    /// Whether the overlay was mounted with `userxattr`, as without root.
    pub user_attributes: bool,
    /// What is too much.
    pub limits: Limits,
}

impl<'a> Audit<'a> {
    /// Of a container of which nothing else is known.
    #[must_use]
    pub fn new(table: &'a Table) -> Self {
        Self {
            table,
            engine: None,
            mount_points: &[],
            image: None,
            user_attributes: false,
            limits: Limits::default(),
        }
    }
}

/// What is in an upper directory and none of the engine's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// From the container's root, without a `/` in front.
    pub path: Vec<u8>,
    /// What happened.
    pub what: What,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Written, or one of the image written to.
    Written(&'static str),
    /// What the image has there was deleted.
    Deleted,
    /// All that the image has in this directory was deleted.
    Emptied,
    /// It was renamed, or its content is elsewhere.
    Moved,
    /// A directory's mode, owner or attributes are not the image's.
    Attributes,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" ", self.path.escape_ascii())?;
        match self.what {
            What::Written(kind) => write!(f, "was written: {kind}"),
            What::Deleted => write!(f, "was deleted"),
            What::Emptied => write!(
                f,
                "was deleted and made anew: nothing of the image is left in it"
            ),
            What::Moved => write!(f, "was moved, or shows the content of another"),
            What::Attributes => write!(f, "has another mode or owner than in the image"),
        }
    }
}

/// Lists what is in an upper directory and none of the engine's, sorted by path.
///
/// # Errors
/// See [`DirectoryError`]: it cannot be read, or is written to meanwhile, or there is too much in it.
pub fn audit(upper: &Path, question: &Audit<'_>) -> Result<Vec<Finding>, DirectoryError> {
    let options = Options {
        limits: question.limits,
        platform: None,
        threads: NonZero::<usize>::MIN,
        cache: None,
        progress: &Progress::default(),
    };
    let attributes = if question.user_attributes {
        OverlayAttributes::User
    } else {
        OverlayAttributes::Trusted
    };
    let root = directory::open_root(upper)?;
    let budget = Budget::new(question.limits);
    let walked = directory::walk(
        root.as_fd(),
        Contents::Unread,
        Some(attributes),
        &budget,
        &options,
    )?;
    let keyed: Vec<(Key, Vec<u8>, Seen)> = walked
        .entries
        .into_iter()
        .map(|(path, seen)| {
            (
                key_of(&path.split(|b| *b == b'/').collect::<Vec<_>>()),
                path,
                seen,
            )
        })
        .collect();
    let parents: BTreeSet<&[u8]> = keyed.iter().filter_map(|(key, ..)| parent(key)).collect();
    let mounts = Mounts::of(question.mount_points);
    let root = walked.root.is_some_and(|root| root.mark == Mark::Opaque);
    let root = root.then(|| Finding {
        path: Vec::new(),
        what: What::Emptied,
    });
    let found = keyed.iter().filter_map(|(key, path, seen)| {
        let what = judge(key, seen, parents.contains(&key[..]), &mounts, question)?;
        let path = path.clone();
        Some(Finding { path, what })
    });
    let mut findings: Vec<_> = root.into_iter().chain(found).collect();
    findings.sort();
    Ok(findings)
}

/// What happened to an entry; `None`: nothing, or what an engine does.
fn judge(
    key: &[u8],
    seen: &Seen,
    has_children: bool,
    mounts: &Mounts,
    question: &Audit<'_>,
) -> Option<What> {
    match seen.mark {
        Mark::None => {}
        Mark::Whiteout => return Some(What::Deleted),
        Mark::Opaque => return Some(What::Emptied),
        Mark::Other => return Some(What::Moved),
    }
    let of_engine = |stub: &Stub| {
        question
            .engine
            .is_none_or(|engine| stub.engines.iter().any(|one| one == engine))
    };
    let mut stubs = question.table.stubs.iter().filter(|stub| stub.key == key);
    let is_stub = stubs.any(|stub| of_engine(stub) && stub.fits(&seen.node));
    let in_image = question.image.and_then(|image| image.at(key));
    let Node::Directory(meta) = &seen.node else {
        let is_mount_point = mounts.at.contains(key) && is_empty_stub(&seen.node);
        let is_engines = is_stub || is_mount_point;
        return (!is_engines).then(|| What::Written(kind_of(&seen.node)));
    };
    if is_stub || in_image == Some(&seen.node) {
        return None;
    }
    let is_way = has_children || mounts.at.contains(key) || mounts.above.contains(key);
    match in_image {
        // It is there since something in it is, which is judged for itself.
        None if question.image.is_none() && is_way => None,
        None if is_way && is_made_to_mount_on(meta) => None,
        None => Some(What::Written("a directory")),
        Some(_) => Some(What::Attributes),
    }
}

/// Paths at which something is mounted, and those above them.
struct Mounts {
    at: BTreeSet<Key>,
    above: BTreeSet<Key>,
}

impl Mounts {
    fn of(paths: &[Vec<u8>]) -> Self {
        let names = paths.iter().filter_map(|path| components(path).ok());
        let at: BTreeSet<Key> = names.map(|names| key_of(&names)).collect();
        let mut above = BTreeSet::new();
        for key in &at {
            let mut key = &key[..];
            while let Some(directory) = parent(key) {
                above.insert(directory.to_vec());
                key = directory;
            }
        }
        Self { at, above }
    }
}

/// A file that a runtime makes to mount something over it.
fn is_empty_stub(node: &Node) -> bool {
    matches!(node, Node::File { meta, size: 0, .. } if is_made_to_mount_on(meta))
}

/// Modes that runc and crun give, and no attribute beside.
fn is_made_to_mount_on(meta: &Meta) -> bool {
    matches!(meta.mode(), 0o755 | 0o700 | 0o644)
        && (meta.uid, meta.gid) == (0, 0)
        && meta.capability.is_none()
}

fn kind_of(node: &Node) -> &'static str {
    match node {
        Node::Directory(_) => "a directory",
        Node::File { .. } => "a file",
        Node::Symlink { .. } => "a symbolic link",
        Node::CharDevice(..) | Node::BlockDevice(..) => "a device",
        Node::Fifo(_) => "a fifo",
        Node::Socket(_) => "a socket",
    }
}
