// SPDX-License-Identifier: Apache-2.0
//! Looks at an upper directory: names and attributes, never content. Who wrote it may be writing still: directories are
//! opened by their path from the root without following anything or leaving the file system, and what is gone, or
//! something else by then, is an entry that says so.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, lgetxattr, llistxattr, openat2,
    readlinkat, statat,
};
use rustix::io::Errno;

use super::AuditError;
use crate::LimitError;
use crate::limits::Budget;

/// `XATTR_LIST_MAX` (`include/uapi/linux/limits.h`).
const LIST_MAX: usize = 65_536;
/// `PATH_MAX` less its NUL.
const PATH_MAX: usize = 4095;

/// One name in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) seen: Seen,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// It has `security.capability`.
    pub(super) capability: bool,
    /// It has an attribute of the overlay by which something else is shown.
    pub(super) elsewhere: Option<&'static str>,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// Bytes.
    File(u64),
    Directory {
        opaque: bool,
    },
    /// Target.
    Symlink(Vec<u8>),
    /// Character device 0/0, or a file with the overlay's attribute `whiteout` (Linux 6.7).
    Whiteout,
    /// A device, a pipe or a socket, in a word.
    Other(&'static str),
    Unread(Errno),
    TooDeep,
}

impl Seen {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Directory { .. } => "directory",
            Self::Symlink(_) => "symbolic link",
            Self::Whiteout => "whiteout",
            Self::Other(word) => word,
            Self::Unread(_) | Self::TooDeep => "thing",
        }
    }
}

impl Entry {
    fn without_attributes(path: Vec<u8>, seen: Seen) -> Self {
        Self {
            path,
            seen,
            mode: 0,
            uid: 0,
            gid: 0,
            capability: false,
            elsewhere: None,
        }
    }
}

/// What the overlay's and other attributes say of one name.
#[derive(Default)]
struct Marks {
    capability: bool,
    opaque: bool,
    whiteout: bool,
    elsewhere: Option<&'static str>,
}

/// All that is in an upper directory but the directory itself.
pub(super) fn list(
    upper: &Path,
    user_attributes: bool,
    budget: &Budget,
) -> Result<Vec<Entry>, AuditError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_MAGICLINKS;
    let root = openat2(CWD, upper, flags, Mode::empty(), resolve);
    let root = root.map_err(|reason| AuditError::Open {
        path: upper.to_owned(),
        reason,
    })?;
    let walk = Walk {
        root,
        prefix: if user_attributes {
            b"user.overlay."
        } else {
            b"trusted.overlay."
        },
        budget,
    };
    walk.all().map_err(|reason| AuditError::Limit {
        path: upper.to_owned(),
        reason,
    })
}

struct Walk<'a> {
    root: OwnedFd,
    prefix: &'static [u8],
    budget: &'a Budget,
}

impl Walk<'_> {
    fn all(&self) -> Result<Vec<Entry>, LimitError> {
        let mut entries = Vec::new();
        let mut directories = vec![Vec::new()];
        while let Some(path) = directories.pop() {
            let before = entries.len();
            if let Err(Stop::Limit(reason)) = self.directory(&path, &mut entries).or_else(|stop| {
                let Stop::Refused(reason) = stop else {
                    return Err(stop);
                };
                let seen = Seen::Unread(reason);
                entries.push(Entry::without_attributes(path.clone(), seen));
                Ok(())
            }) {
                return Err(reason);
            }
            let inside = entries.iter().skip(before);
            let inside = inside.filter(|entry| matches!(entry.seen, Seen::Directory { .. }));
            directories.extend(inside.map(|entry| entry.path.clone()));
        }
        Ok(entries)
    }

    fn directory(&self, path: &[u8], entries: &mut Vec<Entry>) -> Result<(), Stop> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_SYMLINKS;
        let name = if path.is_empty() { b"." } else { path };
        let directory = loop {
            match openat2(&self.root, name, flags, Mode::empty(), resolve) {
                // Something was renamed meanwhile, and the kernel could not tell whether it mattered.
                Err(Errno::AGAIN) => {}
                opened => break opened?,
            }
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
            let inside = [path, slash, name.to_bytes()].concat();
            self.budget.spend_entries(1, inside.len() as u64)?;
            entries.push(if inside.len() > PATH_MAX {
                Entry::without_attributes(inside, Seen::TooDeep)
            } else {
                self.entry(&directory, name, inside)
            });
        }
        Ok(())
    }

    fn entry(&self, directory: &OwnedFd, name: &CStr, path: Vec<u8>) -> Entry {
        match self.look_at(directory, name) {
            Ok(entry) => Entry { path, ..entry },
            Err(reason) => Entry::without_attributes(path, Seen::Unread(reason)),
        }
    }

    fn look_at(&self, directory: &OwnedFd, name: &CStr) -> Result<Entry, Errno> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let marks = self.marks(directory, name)?;
        let seen = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if marks.whiteout => Seen::Whiteout,
            FileType::RegularFile => Seen::File(u64::try_from(stat.st_size).unwrap_or(u64::MAX)),
            FileType::Directory => Seen::Directory {
                opaque: marks.opaque,
            },
            FileType::Symlink => {
                Seen::Symlink(readlinkat(directory, name, Vec::new())?.into_bytes())
            }
            FileType::CharacterDevice if stat.st_rdev == 0 => Seen::Whiteout,
            FileType::CharacterDevice => Seen::Other("character device"),
            FileType::BlockDevice => Seen::Other("block device"),
            FileType::Fifo => Seen::Other("named pipe"),
            FileType::Socket => Seen::Other("socket"),
            FileType::Unknown => Seen::Other("thing of an unknown type"),
        };
        Ok(Entry {
            path: Vec::new(),
            seen,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            capability: marks.capability,
            elsewhere: marks.elsewhere,
        })
    }

    /// By procfs, since what is no file or directory is not opened, and there is no such call before Linux 6.13.
    fn marks(&self, directory: &OwnedFd, name: &CStr) -> Result<Marks, Errno> {
        let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        let mut marks = Marks::default();
        for attribute in names(&path)?.split(|byte| *byte == 0) {
            if attribute == b"security.capability" {
                marks.capability = true;
            }
            match attribute.strip_prefix(self.prefix) {
                Some(b"opaque") => {
                    let mut value = [0_u8; 8];
                    let length = lgetxattr(&*path, attribute, &mut value)?;
                    // "x" says that files in it may be whiteouts, which are looked for anyway.
                    marks.opaque = value.get(..length) != Some(b"x");
                }
                Some(b"whiteout") => marks.whiteout = true,
                Some(b"redirect") => marks.elsewhere = Some("redirect"),
                Some(b"metacopy") => marks.elsewhere = Some("metacopy"),
                _ => {}
            }
        }
        Ok(marks)
    }
}

fn names(path: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut few = [0; 512];
    match llistxattr(path, &mut few[..]) {
        Ok(length) => Ok(few.get(..length).unwrap_or_default().to_vec()),
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(Errno::RANGE) => {
            let mut many = vec![0; LIST_MAX];
            let length = llistxattr(path, &mut many[..])?;
            many.truncate(length);
            Ok(many)
        }
        Err(reason) => Err(reason),
    }
}

/// Why a directory was not listed to its end.
enum Stop {
    Refused(Errno),
    Limit(LimitError),
}

impl From<Errno> for Stop {
    fn from(reason: Errno) -> Self {
        Self::Refused(reason)
    }
}

impl From<LimitError> for Stop {
    fn from(reason: LimitError) -> Self {
        Self::Limit(reason)
    }
}
