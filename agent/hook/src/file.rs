// SPDX-License-Identifier: Apache-2.0
//! Replacing a file of another program whole, or not at all. Refuses what is not a plain file: through a symbolic link root
//! would be made to write elsewhere. The directory is opened once, so that nobody can
//! exchange it between reading and writing. Called by `bundle` and `cima hook`.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process,
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, fsync, openat,
        renameat, unlinkat,
    },
    io::Errno,
};

/// Why a file was not read or not replaced.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not readable.
    #[error("cannot read {}: {error}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Not writable.
    #[error("cannot write {}: {error}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It would be written elsewhere.
    #[error("{} is a symbolic link, and what it points to is not changed: name the file itself", .0.display())]
    Link(PathBuf),
    /// A directory, a device, a pipe.
    #[error("{} is not a regular file", .0.display())]
    Kind(PathBuf),
    /// Nothing that a person or an engine writes is so large.
    #[error("{} is larger than {limit} bytes", .path.display())]
    Large {
        /// Which.
        path: PathBuf,
        /// What is taken.
        limit: u64,
    },
    /// No name at the end of the path.
    #[error("{} does not name a file", .0.display())]
    Name(PathBuf),
}

/// How sure a write has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// It survives a crash of the machine.
    Disk,
    /// It need not outlive the boot, as nothing in `/run` does.
    No,
}

/// A place in a directory that is held open, and what was there.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    found: Option<Found>,
}

#[derive(Debug)]
struct Found {
    bytes: Vec<u8>,
    mode: Mode,
    owner: (Uid, Gid),
}

impl Place {
    /// Opens `path`'s directory, and reads the file if there is one, up to `limit` bytes.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn open(path: &Path, limit: u64) -> Result<Self, FileError> {
        let name = path
            .file_name()
            .ok_or_else(|| FileError::Name(path.into()))?
            .to_owned();
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(FileError::Name(path.into())),
        };
        let failed = |errno: Errno| FileError::Read {
            path: path.into(),
            error: errno.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent, flags, Mode::empty()).map_err(failed)?;
        // Without O_NONBLOCK a pipe in the file's place would hold us until somebody writes to it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let found = match openat(&directory, &name, flags, Mode::empty()) {
            Ok(file) => Some(read(path, file, limit)?),
            Err(Errno::NOENT) => None,
            Err(Errno::LOOP) => return Err(FileError::Link(path.into())),
            Err(errno) => return Err(failed(errno)),
        };
        Ok(Self {
            path: path.into(),
            directory,
            name,
            found,
        })
    }

    /// What is there.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.found.as_ref().map(|found| found.bytes.as_slice())
    }

    /// Puts `bytes` there, with mode and owner of what was there before; a new file is root's, and everybody reads it.
    /// A reader finds the old or the new, never half of one.
    ///
    /// # Errors
    /// [`FileError::Write`]; the old file is there then.
    pub fn write(&self, bytes: &[u8], sync: Sync) -> Result<(), FileError> {
        let temporary = self.temporary();
        let written = self.write_as(&temporary, bytes, sync).and_then(|()| {
            Ok(renameat(
                &self.directory,
                &temporary,
                &self.directory,
                &self.name,
            )?)
        });
        if written.is_err() {
            // The error is the news; what is left over says so by its name.
            _ = unlinkat(&self.directory, &temporary, AtFlags::empty());
        }
        written
            .and_then(|()| self.sync_directory(sync))
            .map_err(|error| self.write_failed(error))
    }

    /// Removes what is there.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn remove(&self) -> Result<(), FileError> {
        unlinkat(&self.directory, &self.name, AtFlags::empty())
            .map_err(io::Error::from)
            .and_then(|()| self.sync_directory(Sync::Disk))
            .map_err(|error| self.write_failed(error))
    }

    fn write_as(&self, name: &OsString, bytes: &[u8], sync: Sync) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(
            &self.directory,
            name,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        file.write_all(bytes)?;
        // Owner before mode: the kernel takes setuid bits away when the owner changes, and until then
        // nobody else reads what the old file kept from him.
        let mode = match &self.found {
            Some(Found { mode, owner, .. }) => {
                fchown(&file, Some(owner.0), Some(owner.1))?;
                *mode
            }
            None => Mode::from_raw_mode(0o644),
        };
        fchmod(&file, mode)?;
        if sync == Sync::Disk {
            fsync(&file)?;
        }
        Ok(())
    }

    fn sync_directory(&self, sync: Sync) -> io::Result<()> {
        match sync {
            Sync::Disk => Ok(fsync(&self.directory)?),
            Sync::No => Ok(()),
        }
    }

    /// Of this process: two runtimes never work on one bundle, and if they do, each has its own.
    fn temporary(&self) -> OsString {
        let mut name = OsString::from(".");
        name.push(&self.name);
        name.push(format!(".cima-{}", process::id()));
        name
    }

    fn write_failed(&self, error: io::Error) -> FileError {
        FileError::Write {
            path: self.path.clone(),
            error,
        }
    }
}

fn read(path: &Path, file: OwnedFd, limit: u64) -> Result<Found, FileError> {
    let failed = |error| FileError::Read {
        path: path.into(),
        error,
    };
    let stat = fstat(&file).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileError::Kind(path.into()));
    }
    let mut bytes = Vec::new();
    // One more than is allowed tells a file that grew from one that fits.
    let most = limit.saturating_add(1);
    File::from(file)
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(FileError::Large {
            path: path.into(),
            limit,
        });
    }
    Ok(Found {
        bytes,
        mode: Mode::from_raw_mode(stat.st_mode & 0o7777),
        owner: (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let place = Place::open(&path, 100).unwrap();
        assert_eq!(place.bytes(), Some(&b"old"[..]));
        place.write(b"new", Sync::Disk).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_pipes_directories_and_large_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        symlink("file", at("link")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let open = |name: &str| Place::open(&at(name), 4);
        assert!(matches!(open("link"), Err(FileError::Link(_))));
        assert!(matches!(open("directory"), Err(FileError::Kind(_))));
        assert!(matches!(open("pipe"), Err(FileError::Kind(_))));
        assert!(matches!(open("file"), Err(FileError::Large { .. })));
        assert!(open("nothing").unwrap().bytes().is_none());
    }

    #[test]
    fn a_new_file_is_readable_by_all_and_can_be_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new.json");
        Place::open(&path, 10)
            .unwrap()
            .write(b"{}", Sync::Disk)
            .unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o644
        );
        Place::open(&path, 10).unwrap().remove().unwrap();
        assert!(!path.exists());
    }
}
