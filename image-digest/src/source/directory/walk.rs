// SPDX-License-Identifier: Apache-2.0
//! Two passes over a tree, each by all threads: everything is read, then looked at again.
//!
//! A directory is one piece of work, with the small files in it; a large file is one of its own, so that
//! none waits for another. What is open at a time is a directory and a file for each thread, whatever the depth.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::thread;

use rustix::fs::{
    FileType, Mode, OFlags, RawDir, ResolveFlags, fgetxattr, flistxattr, lgetxattr, openat2,
    readlinkat,
};
use rustix::io::{Errno, read};

use super::super::lasting_mount;
use super::stamp::{Stamp, settled};
use super::work::Work;
use super::{DirectoryError, Kind, Moment, trusted_are_seen};
use crate::cache::{Cache, Known, Volume, Writers};
use crate::limits::Budget;
use crate::path::{PATH_MAX, PathError};
use crate::source::Options;
use crate::{Content, ContentDigest, ContentHash, Device, Formats, Meta, Node};

/// A file above this is a piece of work of its own.
const LARGE: u64 = 1 << 20;
/// What is read of a file at once, and of a directory.
const BUFFER: usize = 64 << 10;
const NAMES: usize = 32 << 10;
/// The longest list of attributes and the longest value that a kernel has (`XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`, `include/uapi/linux/limits.h`).
const ATTRIBUTES: usize = 64 << 10;
const FEW_ATTRIBUTES: usize = 256;
const CAPABILITY: &str = "security.capability";

/// Which name space overlayfs has its marks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OverlayAttributes {
    /// `trusted.overlay.`, which only the initial user namespace's root can read and write.
    Trusted,
    /// `user.overlay.`, of mounts with `userxattr`.
    User,
}

impl OverlayAttributes {
    fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }
}

/// What reading says of an entry of a lower directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Mark {
    /// It is what it is.
    #[default]
    None,
    /// What is below it is gone, and itself is nothing.
    Whiteout,
    /// It hides what is below it.
    Opaque,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A file of the tree.
    Node(Node),
    /// What is below under this name is gone.
    Whiteout,
    /// A directory that hides what is below under its name.
    Opaque(Node),
}

/// A tree as it was seen.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// All but the root. Paths without a `/` in front, in the order of [`crate::Tree::entries`].
    pub(crate) entries: Vec<(Vec<u8>, Found)>,
    pub(crate) formats: Formats,
}

/// A piece of the first pass.
enum Piece {
    Directory {
        path: Vec<u8>,
        stamp: Option<Stamp>,
    },
    /// A large file.
    File {
        path: Vec<u8>,
        stamp: Stamp,
    },
}

/// A directory that was read.
struct Listed {
    path: Vec<u8>,
    stamp: Stamp,
    found: Told,
    children: Vec<Child>,
}

struct Child {
    name: CString,
    stamp: Stamp,
    /// Of what is neither a directory nor a large file, which are found on their own.
    found: Option<Told>,
}

/// Where an entry is: its directory's path, that directory, its name. Of the name alone no path is made unless
/// something is to be said of it.
#[derive(Clone, Copy)]
struct Place<'a> {
    directory: &'a [u8],
    within: BorrowedFd<'a>,
    name: &'a CStr,
}

impl Place<'_> {
    fn path(&self) -> Vec<u8> {
        joined(self.directory, self.name.to_bytes())
    }

    fn lost(&self, error: impl Into<std::io::Error>) -> DirectoryError {
        opened(&self.path(), error)
    }
}

/// What reading adds to what `stat` says.
#[derive(Debug, Clone, Default)]
struct Told {
    capability: Option<Vec<u8>>,
    mark: Mark,
    /// Of a symbolic link.
    target: Vec<u8>,
    /// Of a file.
    content: Option<ContentDigest>,
}

/// One thread's buffers and what it found.
struct Hands {
    buffer: Vec<u8>,
    attributes: Vec<u8>,
    listed: Vec<Listed>,
    large: Vec<(Vec<u8>, Told)>,
    formats: Formats,
}

/// What all threads have in common.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    overlay: Option<OverlayAttributes>,
    budget: &'a Budget,
    options: &'a Options<'a>,
    cache: Option<(&'a Cache, Volume, Writers)>,
    /// For tests.
    moment: Option<&'a (dyn Fn(Moment<'_>) + Sync)>,
}

type Done<T = ()> = Result<T, DirectoryError>;

/// Walks, and hands what was read to `made` while the second pass is under way; what that makes of it counts
/// only if everything is as it was.
pub(super) fn walk<T>(
    root: BorrowedFd<'_>,
    kind: Kind,
    budget: &Budget,
    options: &Options<'_>,
    moment: Option<&(dyn Fn(Moment<'_>) + Sync)>,
    made: impl FnOnce(Walked) -> T,
) -> Done<T> {
    let overlay = match kind {
        Kind::Image => None,
        Kind::Lower(OverlayAttributes::Trusted) if !trusted_are_seen() => {
            return Err(DirectoryError::Unprivileged);
        }
        Kind::Lower(attributes) => Some(attributes),
    };
    let cache = options.cache.and_then(|cache| {
        let writers = Writers::of_file_system(root)?;
        let stamp = Stamp::of(root, c"").ok()?;
        let mount = lasting_mount(stamp.device, stamp.mount);
        Some((cache, Volume::of(stamp.device, mount)?, writers))
    });
    let walk = Walk {
        root,
        overlay,
        budget,
        options,
        cache,
        moment,
    };
    let first = Piece::Directory {
        path: Vec::new(),
        stamp: None,
    };
    let hands =
        Work::new(vec![first]).done_by(options.threads, Hands::new, |work, hands, piece| {
            match piece {
                Piece::Directory { path, stamp } => walk.list(work, hands, path, stamp),
                Piece::File { path, stamp } => walk.large_file(hands, path, &stamp),
            }
        })?;
    walk.moment(Moment::ReadAll);
    let (mut listed, mut large, mut formats) = (Vec::new(), HashMap::new(), Formats::new());
    for hands in hands {
        listed.extend(hands.listed);
        large.extend(hands.large);
        formats.extend(hands.formats);
    }
    let (same, made) = thread::scope(|scope| {
        let again = scope.spawn(|| walk.look_again(&listed));
        let made = made(assembled(&listed, &large, formats));
        match again.join() {
            Ok(same) => (same, made),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    same.map(|()| made)
}

impl Hands {
    fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER],
            attributes: vec![0; ATTRIBUTES],
            listed: Vec::new(),
            large: Vec::new(),
            formats: Formats::new(),
        }
    }
}

impl Walk<'_> {
    fn moment(&self, now: Moment<'_>) {
        if let Some(moment) = self.moment {
            moment(now);
        }
    }

    /// Reads a directory and the small files in it.
    fn list(
        &self,
        work: &Work<Piece, DirectoryError>,
        hands: &mut Hands,
        path: Vec<u8>,
        seen: Option<Stamp>,
    ) -> Done {
        let failed = |error: Errno| DirectoryError::read(&path, error);
        let directory = self
            .open(self.root, &path, OFlags::DIRECTORY)
            .map_err(|error| opened(&path, error))?;
        let stamp = self.settled(|| path.clone(), directory.as_fd())?;
        if let Some(seen) = seen {
            same_inode(&path, &seen, &stamp)?;
        }
        let found = self.attributes(|| path.clone(), directory.as_fd(), hands)?;
        let mut children = Vec::new();
        let mut names = vec![MaybeUninit::uninit(); NAMES];
        let mut entries = RawDir::new(&directory, &mut names);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                children.push((name.to_owned(), entry.file_type()));
            }
        }
        self.moment(Moment::Listed(&path));
        let mut listed = Listed {
            path,
            stamp,
            found,
            children: Vec::with_capacity(children.len()),
        };
        for (name, kind) in children {
            let at = Place {
                directory: &listed.path,
                within: directory.as_fd(),
                name: &name,
            };
            let (stamp, found) = self.child(work, hands, at, kind)?;
            listed.children.push(Child { name, stamp, found });
        }
        listed.children.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        hands.listed.push(listed);
        Ok(())
    }

    fn child(
        &self,
        work: &Work<Piece, DirectoryError>,
        hands: &mut Hands,
        at: Place<'_>,
        kind: FileType,
    ) -> Done<(Stamp, Option<Told>)> {
        let slash = usize::from(!at.directory.is_empty());
        let length = at.directory.len() + slash + at.name.to_bytes().len();
        // A file system's names are names; only how many are in a row it does not bound.
        if length > PATH_MAX {
            return Err(DirectoryError::Path {
                path: at.path(),
                reason: PathError::Long,
            });
        }
        self.budget.spend_entries(1, length as u64)?;
        // Most entries are files, and are told by what is open, unless a cache may know them. Some file systems
        // do not say what is one.
        let may_be_known = self.cache.is_some() && self.overlay.is_none();
        if kind == FileType::RegularFile && !may_be_known {
            return self.listed_file(work, hands, at);
        }
        let stamp = Stamp::of(at.within, at.name).map_err(|error| at.lost(error))?;
        if stamp.is_mount {
            return Err(DirectoryError::Mount { path: at.path() });
        }
        let found = match FileType::from_raw_mode(stamp.mode) {
            FileType::Directory => {
                work.add(Piece::Directory {
                    path: at.path(),
                    stamp: Some(stamp),
                });
                None
            }
            FileType::RegularFile => {
                let known = may_be_known
                    .then(|| self.known_file(hands, &stamp))
                    .flatten();
                if known.is_none() {
                    return self.listed_file(work, hands, at);
                }
                self.options.progress.expect(stamp.size);
                known
            }
            FileType::Symlink => {
                let target = readlinkat(at.within, at.name, Vec::new());
                let target = target.map_err(|error| at.lost(error))?;
                Some(Told {
                    target: target.into_bytes(),
                    ..Told::default()
                })
            }
            FileType::CharacterDevice if self.overlay.is_some() && stamp.special == (0, 0) => {
                Some(Told {
                    mark: Mark::Whiteout,
                    ..Told::default()
                })
            }
            FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Fifo
            | FileType::Socket => Some(unopened(at)?),
            FileType::Unknown => return Err(DirectoryError::Type { path: at.path() }),
        };
        Ok((stamp, found))
    }

    /// A file that a directory lists: read at once if it is small or known, else left for later.
    fn listed_file(
        &self,
        work: &Work<Piece, DirectoryError>,
        hands: &mut Hands,
        at: Place<'_>,
    ) -> Done<(Stamp, Option<Told>)> {
        let (file, stamp) = self.open_file(at)?;
        self.options.progress.expect(stamp.size);
        if stamp.size > LARGE {
            let path = at.path();
            work.add(Piece::File { path, stamp });
            return Ok((stamp, None));
        }
        let found = self.file(hands, at, &file, &stamp)?;
        Ok((stamp, Some(found)))
    }

    fn large_file(&self, hands: &mut Hands, path: Vec<u8>, seen: &Stamp) -> Done {
        let name = CString::new(&path[..]);
        // Names come from the kernel, which has none with a NUL.
        let name =
            name.map_err(|error| DirectoryError::read(&path, std::io::Error::from(error)))?;
        let at = Place {
            directory: b"",
            within: self.root,
            name: &name,
        };
        let (file, stamp) = self.open_file(at)?;
        if let Some(what) = seen.changed_to(&stamp) {
            return Err(changed(&path, what));
        }
        let found = self.file(hands, at, &file, &stamp)?;
        hands.large.push((path, found));
        Ok(())
    }

    /// Opens a file that will not change unseen.
    fn open_file(&self, at: Place<'_>) -> Done<(OwnedFd, Stamp)> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open(at.within, at.name.to_bytes(), flags);
        let file = file.map_err(|error| at.lost(error))?;
        let stamp = self.settled(|| at.path(), file.as_fd())?;
        if FileType::from_raw_mode(stamp.mode) != FileType::RegularFile {
            return Err(changed(&at.path(), "it is of another type"));
        }
        if self.moment.is_some() {
            self.moment(Moment::Opened(&at.path()));
        }
        Ok((file, stamp))
    }

    /// A stamp of what is open, after which no change can hide.
    fn settled(&self, path: impl Fn() -> Vec<u8>, open: BorrowedFd<'_>) -> Done<Stamp> {
        let stamp = settled(|| Stamp::of(open, c""));
        let stamp = stamp.map_err(|error| DirectoryError::read(&path(), error))?;
        stamp.ok_or_else(|| changed(&path(), "it is changed all the time"))
    }

    /// What the cache knows of a file.
    fn known_file(&self, hands: &mut Hands, stamp: &Stamp) -> Option<Told> {
        let (cache, volume, _) = self.cache?;
        let known = cache.get(&stamp.key(volume))?;
        self.options.progress.advance(stamp.size);
        if let Some(format) = known.format {
            hands.formats.insert(known.digest, format);
        }
        Some(Told {
            capability: known.capability,
            content: Some(known.digest),
            ..Told::default()
        })
    }

    /// Reads an open file. That it is what it was when it was stamped is seen in the second pass; what a cache is told
    /// is told of the stamp, which a file that has changed since will never have again.
    fn file(&self, hands: &mut Hands, at: Place<'_>, file: &OwnedFd, stamp: &Stamp) -> Done<Told> {
        let mut found = self.attributes(|| at.path(), file.as_fd(), hands)?;
        // Below an overlay the marks, which no cache has, had to be read first.
        if self.overlay.is_some()
            && let Some(known) = self.known_file(hands, stamp)
        {
            let mark = found.mark;
            return Ok(Told { mark, ..known });
        }
        let quiet = self
            .cache
            .filter(|(.., writers)| writers.are_none(file.as_fd()));
        let content = self.content(hands, at, file, stamp.size)?;
        if let Some((cache, volume, writers)) = quiet
            && writers.are_none(file.as_fd())
        {
            let known = Known {
                digest: content.digest,
                format: content.format.clone(),
                capability: found.capability.clone(),
            };
            cache.put(stamp.key(volume), known);
        }
        found.content = Some(content.digest);
        if let Some(format) = content.format {
            hands.formats.insert(content.digest, format);
        }
        Ok(found)
    }

    /// Reads as many bytes as it was said to have.
    fn content(
        &self,
        hands: &mut Hands,
        at: Place<'_>,
        file: &OwnedFd,
        size: u64,
    ) -> Done<Content> {
        let mut hash = ContentHash::default();
        let mut left = size;
        // Files that are made while they are read say that they are empty.
        let mut is_empty = size == 0;
        while left > 0 || is_empty {
            let wanted = usize::try_from(left).unwrap_or(BUFFER).clamp(1, BUFFER);
            match read(file, &mut hands.buffer[..wanted]) {
                Ok(0) if is_empty => is_empty = false,
                Ok(_) if is_empty => return Err(changed(&at.path(), "it is longer than it was")),
                Ok(0) => return Err(changed(&at.path(), "it is shorter than it was")),
                Ok(count) => {
                    self.budget.spend_content(count as u64)?;
                    hash.update(&hands.buffer[..count]);
                    left -= count as u64;
                    self.options.progress.advance(count as u64);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(DirectoryError::read(&at.path(), error)),
            }
        }
        Ok(hash.finish())
    }

    /// The attributes of what is open.
    fn attributes(
        &self,
        path: impl Fn() -> Vec<u8>,
        open: BorrowedFd<'_>,
        hands: &mut Hands,
    ) -> Done<Told> {
        let failed = |error| DirectoryError::read(&path(), error);
        let mut found = Told::default();
        // The kernel makes room for as much as it is offered: most files have none or one.
        let listed = match flistxattr(open, &mut hands.attributes[..FEW_ATTRIBUTES]) {
            Err(Errno::RANGE) => flistxattr(open, &mut hands.attributes[..]),
            listed => listed,
        };
        let length = match listed {
            Ok(length) => length,
            // A file system without them.
            Err(Errno::NOTSUP) => 0,
            Err(error) => return Err(failed(error)),
        };
        if length == 0 {
            return Ok(found);
        }
        let names = hands.attributes[..length].to_vec();
        let prefix = self.overlay.map(OverlayAttributes::prefix);
        for name in names.split(|byte| *byte == 0) {
            if name == CAPABILITY.as_bytes() {
                let length = fgetxattr(open, name, &mut hands.attributes[..]).map_err(failed)?;
                found.capability = Some(hands.attributes[..length].to_vec());
            }
            // How overlayfs in user space marks what the kernel's cannot.
            if prefix.is_some() && name.starts_with(b"user.fuseoverlayfs.") {
                return Err(overlay_mark(&path(), name));
            }
            let Some(mark) = prefix.and_then(|prefix| name.strip_prefix(prefix.as_bytes())) else {
                continue;
            };
            let length = fgetxattr(open, name, &mut hands.attributes[..]).map_err(failed)?;
            // Where a file came from, and what an upper directory's own bookkeeping is, change nothing. Whiteouts that
            // are files (from 6.7 on) kernels disagree about, and redirects and the like show something else.
            found.mark = match (mark, &hands.attributes[..length]) {
                (b"opaque", b"y") => Mark::Opaque,
                (b"origin" | b"impure" | b"nlink" | b"upper" | b"uuid" | b"protattr", _) => {
                    found.mark
                }
                _ => return Err(overlay_mark(&path(), name)),
            };
        }
        Ok(found)
    }

    /// Opens for reading, beneath the root, across no mount and no link.
    fn open(&self, within: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_SYMLINKS;
        loop {
            let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
            match openat2(within, path, flags, Mode::empty(), resolve) {
                // Something was renamed meanwhile; the kernel could not tell whether it mattered.
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
    }

    /// The second pass: everything is as it was.
    fn look_again(&self, listed: &[Listed]) -> Done {
        let some = listed.len().div_ceil(8 * self.options.threads.get()).max(1);
        let pieces: Vec<&[Listed]> = listed.chunks(some).collect();
        Work::new(pieces)
            .done_by(
                self.options.threads,
                || (),
                |_, (), piece| piece.iter().try_for_each(|one| self.look_again_at(one)),
            )
            .map(|_| ())
    }

    fn look_again_at(&self, listed: &Listed) -> Done {
        let path = &listed.path;
        let directory = self
            .open(self.root, path, OFlags::DIRECTORY)
            .map_err(|error| opened(path, error))?;
        let now =
            Stamp::of(directory.as_fd(), c"").map_err(|error| DirectoryError::read(path, error))?;
        // The root's own mark is its mount's, not its own.
        if let Some(what) = listed.stamp.changed_to(&now) {
            return Err(changed(path, what));
        }
        for child in &listed.children {
            let path = || joined(path, child.name.to_bytes());
            let now = Stamp::of(directory.as_fd(), &child.name)
                .map_err(|error| opened(&path(), error))?;
            if let Some(what) = child.stamp.changed_to(&now) {
                return Err(changed(&path(), what));
            }
        }
        Ok(())
    }
}

/// What is never opened, since that does something: its capabilities by its name.
fn unopened(at: Place<'_>) -> Done<Told> {
    let mut by_name = format!("/proc/self/fd/{}/", at.within.as_raw_fd()).into_bytes();
    by_name.extend_from_slice(at.name.to_bytes());
    let mut value = [0; 64];
    let capability = match lgetxattr(by_name, CAPABILITY, &mut value[..]) {
        Ok(length) => Some(value[..length].to_vec()),
        Err(Errno::NODATA | Errno::NOTSUP) => None,
        Err(error) => return Err(at.lost(error)),
    };
    Ok(Told {
        capability,
        ..Told::default()
    })
}

/// Everything in the order of a tree: a directory, all that is in it, what is beside it.
fn assembled(listed: &[Listed], large: &HashMap<Vec<u8>, Told>, formats: Formats) -> Walked {
    let mut entries = Vec::with_capacity(listed.iter().map(|one| one.children.len()).sum());
    let directories: HashMap<&[u8], &Listed> =
        listed.iter().map(|one| (&one.path[..], one)).collect();
    let mut open = Vec::new();
    // What marks the root of a lower directory has, overlayfs does not look at (`ovl_get_root`).
    if let Some(root) = directories.get(&b""[..]) {
        open.push((root, root.children.iter()));
    }
    while let Some((directory, children)) = open.last_mut() {
        let Some(child) = children.next() else {
            open.pop();
            continue;
        };
        let path = joined(&directory.path, child.name.to_bytes());
        if let Some(told) = child.found.as_ref().or_else(|| large.get(&path)) {
            entries.push((path, found(&child.stamp, told)));
        } else if let Some(directory) = directories.get(&path[..]) {
            entries.push((path, found(&directory.stamp, &directory.found)));
            open.push((directory, directory.children.iter()));
        }
    }
    Walked { entries, formats }
}

fn found(stamp: &Stamp, told: &Told) -> Found {
    match told.mark {
        Mark::Whiteout => Found::Whiteout,
        Mark::None => Found::Node(node(stamp, told)),
        Mark::Opaque => Found::Opaque(node(stamp, told)),
    }
}

fn meta(stamp: &Stamp, found: &Told) -> Meta {
    let meta = Meta::new(stamp.mode, stamp.uid, stamp.gid);
    match &found.capability {
        Some(value) => meta.with_capability(value.clone()),
        None => meta,
    }
}

/// Types that are none were refused when they were seen.
fn node(stamp: &Stamp, found: &Told) -> Node {
    let meta = meta(stamp, found);
    let device = Device {
        major: stamp.special.0,
        minor: stamp.special.1,
    };
    match FileType::from_raw_mode(stamp.mode) {
        FileType::Symlink => Node::Symlink {
            uid: meta.uid,
            gid: meta.gid,
            target: found.target.clone(),
        },
        FileType::CharacterDevice => Node::CharDevice(meta, device),
        FileType::BlockDevice => Node::BlockDevice(meta, device),
        FileType::Fifo => Node::Fifo(meta),
        FileType::Socket => Node::Socket(meta),
        FileType::Directory => Node::Directory(meta),
        FileType::RegularFile | FileType::Unknown => Node::File {
            meta,
            size: stamp.size,
            content: found.content.unwrap_or_else(|| ContentDigest::of(b"")),
        },
    }
}

/// Between two looks another file may have taken the name.
fn same_inode(path: &[u8], seen: &Stamp, now: &Stamp) -> Done {
    if (seen.device, seen.inode) == (now.device, now.inode) {
        return Ok(());
    }
    Err(changed(path, "another has taken its place"))
}

fn changed(path: &[u8], what: &'static str) -> DirectoryError {
    DirectoryError::Changed {
        path: path.to_vec(),
        what,
    }
}

/// Why what was listed cannot be opened: most errors mean that it is no longer what it was.
fn opened(path: &[u8], error: impl Into<std::io::Error>) -> DirectoryError {
    let source = error.into();
    match Errno::from_io_error(&source) {
        _ if path.is_empty() => DirectoryError::read(path, source),
        Some(Errno::NOENT) => changed(path, "it is gone"),
        Some(Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => changed(path, "it is of another type"),
        Some(Errno::XDEV) => DirectoryError::Mount {
            path: path.to_vec(),
        },
        _ => DirectoryError::read(path, source),
    }
}

fn overlay_mark(path: &[u8], name: &[u8]) -> DirectoryError {
    DirectoryError::Overlay {
        path: path.to_vec(),
        name: name.escape_ascii().to_string(),
    }
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    [directory, b"/", name].concat()
}
