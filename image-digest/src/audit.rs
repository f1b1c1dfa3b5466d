// SPDX-License-Identifier: Apache-2.0
//! What a container's upper directory has beside what its engine puts there: files that were made,
//! changed or deleted in it. An image's digest does not see them; who decides on admission should.
//!
//! Owns the judgement, which is pure; `audit/stubs` is the table of what engines make, `audit/upper` looks at the disk. What
//! is looked at was written by the container, perhaps still is: it is never followed, it is bounded, and what cannot be
//! looked at is itself a finding. Called by who admits containers.

mod stubs;
mod upper;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

pub use stubs::{Engine, Stubs, StubsError};

use crate::limits::Budget;
use crate::path::components;
use crate::tree::key_of;
use crate::{LimitError, Limits, Meta, Node, Tree};
use stubs::{Look, Stub, StubType};
use upper::{Entry, Seen};

/// What is asked of an upper directory.
#[derive(Debug, Clone, Copy)]
pub struct Audit<'a> {
    /// What engines make.
    pub stubs: &'a Stubs,
    /// Who made this container: engine and runtime; none: any of those known.
    pub engines: &'a [Engine],
    /// Where the container has mounts, from its root. What is made there to be mounted over is no finding.
    pub mount_points: &'a [Vec<u8>],
    /// The image. Without it a directory that is only copied up cannot be told from one that was made or changed, and
    /// each is a finding that says so.
    pub image: Option<&'a Tree>,
    /// User and group, in the initial user namespace, that are 0 in the container: owners of stubs.
    pub root: (u32, u32),
    /// The overlay has the option `userxattr`.
    pub user_attributes: bool,
    /// What is too much.
    pub limits: Limits,
}

/// Why an upper directory was not looked at to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// It cannot be opened.
    #[error("the upper directory \"{}\" cannot be opened: {reason}", path.as_os_str().as_encoded_bytes().escape_ascii())]
    Open {
        /// Which.
        path: PathBuf,
        /// The kernel's.
        #[source]
        reason: Errno,
    },
    /// The kernel hides the overlay's attributes.
    #[error(
        "the upper directory \"{}\" is not audited: only CAP_SYS_ADMIN of the initial user namespace sees \
         attributes trusted.overlay.*, without which an opaque directory is taken for a plain one",
        .0.as_os_str().as_encoded_bytes().escape_ascii()
    )]
    Unprivileged(PathBuf),
    /// It asks for too much.
    #[error("the upper directory \"{}\" is refused: {reason}", path.as_os_str().as_encoded_bytes().escape_ascii())]
    Limit {
        /// Which.
        path: PathBuf,
        /// Of what.
        #[source]
        reason: LimitError,
    },
}

/// Something in an upper directory that no engine is known to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// From the container's root, without a `/` in front. Any bytes.
    pub path: Vec<u8>,
    /// What it is.
    pub what: What,
    /// Why it is one.
    pub why: Why,
}

/// What a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It is there: a file, a link or whatever the word says, made or changed in the container.
    Created(&'static str),
    /// A directory, made, changed or copied up.
    Directory,
    /// The image's file of that name is deleted.
    Deleted,
    /// A directory that hides what the image has in it.
    Opaque,
    /// It could not be looked at.
    Unread,
}

/// Why something is a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No engine makes anything there.
    Unknown,
    /// It is where one makes a stub, but no stub: how it differs.
    NoStub(String),
    /// Whoever executes it gets privileges of a file.
    Capability,
    /// It has a set-user-id or set-group-id bit.
    SetId,
    /// An attribute of the overlay shows something else in its place.
    Elsewhere(&'static str),
    /// The image's directory has another mode or owner.
    Changed(String),
    /// It stands in the place of something of the image's of another type.
    Replaces(&'static str),
    /// What it hides, or whether it is as in the image, is not known without the image.
    NoImage,
    /// What the kernel said.
    Refused(Errno),
    /// Its path is longer than any that could be opened.
    TooDeep,
}

/// Lists what in the directory `upper` is no stub, in the order of paths.
///
/// # Errors
/// See [`AuditError`]; what is wrong with a single entry is a finding.
pub fn audit(upper: &Path, question: &Audit<'_>) -> Result<Vec<Finding>, AuditError> {
    if !question.user_attributes && !crate::source::directory::trusted_are_seen() {
        return Err(AuditError::Unprivileged(upper.to_owned()));
    }
    let budget = Budget::new(question.limits);
    let entries = upper::list(upper, question.user_attributes, &budget)?;
    Ok(judge(&entries, question))
}

/// Entries by their keys, and what was understood of them.
struct Judge<'a> {
    question: &'a Audit<'a>,
    rows: BTreeMap<Vec<u8>, Vec<&'a Stub>>,
    mount_points: BTreeSet<Vec<u8>>,
    /// Directories with something in them.
    full: BTreeSet<Vec<u8>>,
    /// Directories above a stub that is there.
    implied: BTreeSet<Vec<u8>>,
}

fn judge(entries: &[Entry], question: &Audit<'_>) -> Vec<Finding> {
    let mut judge = Judge {
        question,
        rows: question.stubs.rows(question.engines),
        mount_points: question
            .mount_points
            .iter()
            .filter_map(|path| Some(key_of(&components(path).ok()?)))
            .collect(),
        full: BTreeSet::new(),
        implied: BTreeSet::new(),
    };
    for entry in entries {
        if let Some(above) = parent(&entry.path) {
            judge.full.insert(above.to_vec());
        }
    }
    for entry in entries {
        if judge.is_stub(entry) == Ok(true) {
            let mut path = &entry.path[..];
            while let Some(above) = parent(path) {
                judge.implied.insert(above.to_vec());
                path = above;
            }
        }
    }
    let mut findings: Vec<_> = entries
        .iter()
        .filter_map(|entry| {
            let (what, why) = judge.finding(entry)?;
            Some(Finding {
                path: entry.path.clone(),
                what,
                why,
            })
        })
        .collect();
    findings.sort_by(|one, other| one.path.cmp(&other.path));
    findings
}

impl Judge<'_> {
    fn finding(&self, entry: &Entry) -> Option<(What, Why)> {
        let what = match &entry.seen {
            Seen::Unread(reason) => return Some((What::Unread, Why::Refused(*reason))),
            Seen::TooDeep => return Some((What::Unread, Why::TooDeep)),
            Seen::Whiteout => return Some((What::Deleted, Why::Unknown)),
            Seen::Directory { .. } => What::Directory,
            other => What::Created(other.word()),
        };
        if entry.capability {
            return Some((what, Why::Capability));
        }
        if let Some(attribute) = entry.elsewhere {
            return Some((what, Why::Elsewhere(attribute)));
        }
        if let Seen::Directory { opaque } = entry.seen {
            return self.directory(entry, opaque);
        }
        if entry.mode & 0o6000 != 0 && !matches!(entry.seen, Seen::Symlink(_)) {
            return Some((what, Why::SetId));
        }
        match self.is_stub(entry) {
            Ok(true) if self.in_image(entry).is_some_and(Node::is_directory) => {
                Some((what, Why::Replaces("directory")))
            }
            Ok(true) => None,
            Ok(false) => Some((what, Why::Unknown)),
            Err(differs) => Some((what, Why::NoStub(differs))),
        }
    }

    fn directory(&self, entry: &Entry, opaque: bool) -> Option<(What, Why)> {
        let what = What::Directory;
        let image_given = self.question.image.is_some();
        match self.in_image(entry) {
            Some(Node::Directory(meta)) => self.copied_up(entry, opaque, meta),
            Some(_) => Some((what, Why::Replaces("file"))),
            None if opaque && !image_given => Some((What::Opaque, Why::NoImage)),
            None => match self.is_stub(entry) {
                Ok(true) => None,
                // A stub with a stub inside is one above a stub.
                _ if self.implied.contains(&entry.path) => self.implied_directory(entry),
                Ok(false) if image_given => Some((what, Why::Unknown)),
                Ok(false) => Some((what, Why::NoImage)),
                Err(differs) => Some((what, Why::NoStub(differs))),
            },
        }
    }

    /// A directory of the image, copied up since something in it changed.
    fn copied_up(&self, entry: &Entry, opaque: bool, meta: &Meta) -> Option<(What, Why)> {
        if opaque {
            return Some((What::Opaque, Why::Unknown));
        }
        let now = Meta::new(entry.mode, entry.uid, entry.gid);
        // Where the image is mounted with other owners, what is copied up has those.
        let (uid, gid) = self.inside(entry);
        if now == *meta || Meta::new(entry.mode, uid, gid) == *meta {
            return None;
        }
        let shown = |meta: &Meta| format!("{:04o} {}:{}", meta.mode(), meta.uid, meta.gid);
        let differs = format!("{} there, {} in the image", shown(&now), shown(meta));
        Some((What::Directory, Why::Changed(differs)))
    }

    /// One that was made, or copied up, since a stub was made in it.
    fn implied_directory(&self, entry: &Entry) -> Option<(What, Why)> {
        if self.question.image.is_none() {
            return Some((What::Directory, Why::NoImage));
        }
        let differs = self.looks_differ(self.question.stubs.parent(), entry)?;
        Some((What::Directory, Why::NoStub(differs)))
    }

    /// Its owner, 0 if it is the container's root.
    fn inside(&self, entry: &Entry) -> (u32, u32) {
        let (uid, gid) = self.question.root;
        (
            if entry.uid == uid { 0 } else { entry.uid },
            if entry.gid == gid { 0 } else { entry.gid },
        )
    }

    fn in_image(&self, entry: &Entry) -> Option<&Node> {
        self.question.image?.get(&entry.path)
    }

    /// Whether it is a stub; an error says how it differs from the one that is known there.
    fn is_stub(&self, entry: &Entry) -> Result<bool, String> {
        let Ok(names) = components(&entry.path) else {
            return Ok(false);
        };
        let key = key_of(&names);
        let rows = self.rows.get(&key).map(Vec::as_slice).unwrap_or_default();
        let mut differs = Vec::new();
        for row in rows {
            match self.differs_from(entry, row.kind(), row.look()) {
                None => return Ok(true),
                Some(how) => differs.push(how),
            }
        }
        if self.mount_points.contains(&key) {
            let look = self.question.stubs.mount_point();
            let kind = match entry.seen {
                Seen::Directory { .. } => &StubType::Directory,
                _ => &StubType::File,
            };
            match self.differs_from(entry, kind, look) {
                None => return Ok(true),
                Some(how) => differs.push(how),
            }
        }
        differs.dedup();
        if differs.is_empty() {
            return Ok(false);
        }
        Err(differs.join("; "))
    }

    fn differs_from(&self, entry: &Entry, kind: &StubType, look: &Look) -> Option<String> {
        match (kind, &entry.seen) {
            (StubType::File, Seen::File(0)) => {}
            (StubType::File, Seen::File(size)) => return Some(format!("it has {size} bytes")),
            (StubType::Directory, Seen::Directory { .. }) => {
                if self.full.contains(&entry.path) {
                    return Some("it is not empty".to_owned());
                }
            }
            (StubType::Symlink(target), Seen::Symlink(to)) if target == to => {}
            (StubType::Symlink(_), Seen::Symlink(to)) => {
                return Some(format!("it points to \"{}\"", to.escape_ascii()));
            }
            (kind, seen) => return Some(format!("it is a {}, not a {}", seen.word(), kind.word())),
        }
        if entry.capability || entry.elsewhere.is_some() {
            return Some("it has attributes".to_owned());
        }
        self.looks_differ(look, entry)
    }

    fn looks_differ(&self, look: &Look, entry: &Entry) -> Option<String> {
        if !look.owners.contains(&self.inside(entry)) {
            return Some(format!("its owner is {}:{}", entry.uid, entry.gid));
        }
        let has_mode = !matches!(entry.seen, Seen::Symlink(_));
        if has_mode && !look.modes.contains(&entry.mode) {
            return Some(format!("its mode is {:04o}", entry.mode));
        }
        None
    }
}

/// The directory that a path is in; none for one in the root.
fn parent(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().rposition(|byte| *byte == b'/')?;
    path.get(..end)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"/{}\" {}: {}",
            self.path.escape_ascii(),
            self.what,
            self.why
        )
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(word) => write!(f, "is a {word} that the image does not have so"),
            Self::Directory => f.write_str("is a directory that was made or changed"),
            Self::Deleted => f.write_str("is deleted"),
            Self::Opaque => f.write_str("is a directory that hides the image's"),
            Self::Unread => f.write_str("could not be looked at"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no engine is known to do that"),
            Self::NoStub(differs) => {
                write!(f, "engines make a stub there, but this is none: {differs}")
            }
            Self::Capability => f.write_str("it has the attribute security.capability"),
            Self::SetId => f.write_str("it has a set-user-id or set-group-id bit"),
            Self::Elsewhere(attribute) => write!(
                f,
                "it has the overlay's attribute {attribute}, so something else is shown in its place"
            ),
            Self::Changed(differs) => write!(f, "its mode and owner are {differs}"),
            Self::Replaces(word) => write!(f, "it stands in the place of a {word} of the image"),
            Self::NoImage => {
                f.write_str("whether the image has it so is not known, since no image was given")
            }
            Self::Refused(reason) => write!(f, "{reason}"),
            Self::TooDeep => f.write_str("its path is longer than any that can be opened"),
        }
    }
}

#[cfg(test)]
mod tests;
