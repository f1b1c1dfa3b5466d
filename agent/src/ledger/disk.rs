// SPDX-License-Identifier: Apache-2.0
//! The file operations that the list's promise hangs on, and no others: a list is on the
//! disk when these say so, in this order. One real implementation; the tests put one in
//! front of it that stops, fails or forgets at any of them. Reading is not a part of it.
//!
//! Of a directory that could not be synced a later sync is believed: its pages are the
//! file system's own, and one that cannot write those refuses everything from then on.
//! Of a file it is not: see [`Disk::sync`].

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{LedgerError, at};

/// Where the list is kept.
pub(super) trait Disk: Send + Sync {
    /// Makes a directory and those above it; one that is there is taken.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory survive a power cut.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Opens a file for reading and writing; makes it if need be.
    fn open(&self, path: &Path) -> io::Result<File>;

    /// Writes at `offset`, as many bytes as the disk takes.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Cuts the file off.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()>;

    /// Makes what was written survive a power cut. After an error Linux may have dropped
    /// the bytes, and the next call succeeds without them: they must be written again.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Puts a file in another's place, all at once.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// The operating system's.
#[derive(Debug)]
pub(super) struct OsDisk;

impl Disk for OsDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}

/// An open file that knows its name, so that every error says which file it is about.
pub(super) struct DiskFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: File,
}

impl DiskFile {
    pub(super) fn open(disk: &Arc<dyn Disk>, path: PathBuf) -> Result<Self, LedgerError> {
        let file = disk.open(&path).map_err(at("open", &path))?;
        Ok(Self {
            disk: Arc::clone(disk),
            path,
            file,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> Result<u64, LedgerError> {
        let metadata = self.file.metadata().map_err(at("look at", &self.path))?;
        Ok(metadata.len())
    }

    /// All of it.
    pub(super) fn read(&mut self) -> Result<Vec<u8>, LedgerError> {
        let mut content = Vec::new();
        self.file
            .rewind()
            .and_then(|()| self.file.read_to_end(&mut content))
            .map_err(at("read", &self.path))?;
        Ok(content)
    }

    /// Writes all of `bytes` at `offset`. After an error a part of them may be there.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), LedgerError> {
        let mut done = 0;
        while done < bytes.len() {
            let place = offset + done as u64;
            match self.disk.write_at(&self.file, &bytes[done..], place) {
                Ok(0) => return Err(at("write", &self.path)(io::ErrorKind::WriteZero.into())),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at("write", &self.path)(error)),
            }
        }
        Ok(())
    }

    pub(super) fn set_len(&self, len: u64) -> Result<(), LedgerError> {
        let result = self.disk.set_len(&self.file, len);
        result.map_err(at("cut off", &self.path))
    }

    pub(super) fn sync(&self) -> Result<(), LedgerError> {
        self.disk.sync(&self.file).map_err(at("sync", &self.path))
    }

    /// Takes the place of the file at `path`, in the same directory, for good.
    pub(super) fn rename(&mut self, path: &Path) -> Result<(), LedgerError> {
        let result = self.disk.rename(&self.path, path);
        result.map_err(at("rename", &self.path))?;
        path.clone_into(&mut self.path);
        match path.parent() {
            Some(dir) => self.disk.sync_dir(dir).map_err(at("sync", dir)),
            None => Ok(()),
        }
    }
}
