// SPDX-License-Identifier: Apache-2.0
//! The machine that is looked at: its files below a root, which is `/` but for images of machines and for tests, and whether
//! root looks. Reads only. Called by `preflight`, `sink` and the commands that look at a host.

use std::{
    error::Error,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use procfs::{FromRead as _, process::MountInfos};

/// Nothing that the kernel or a person writes into one of the files that are looked at comes near.
const LARGEST: u64 = 4 << 20;

/// A machine, and who looks at it.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
    by_root: bool,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        Self::at(Path::new("/"))
    }

    /// The one whose files lie below `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            by_root: rustix::process::geteuid().is_root(),
        }
    }

    /// As if root looked, or not.
    #[cfg(test)]
    pub(crate) fn seen_by_root(mut self, by_root: bool) -> Self {
        self.by_root = by_root;
        self
    }

    /// Whether root looks.
    #[must_use]
    pub fn by_root(&self) -> bool {
        self.by_root
    }

    /// Where its files are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// One of its files.
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        below(&self.root, path)
    }

    /// What a file says, without white space around it. What is no text stands as replacement characters.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn text(&self, path: impl AsRef<Path>) -> io::Result<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path))?
            .take(LARGEST)
            .read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The type of the file system that is mounted at `point`; `None`: nothing is.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub fn mounted(&self, point: &str) -> io::Result<Option<String>> {
        let file = File::open(self.path("/proc/self/mountinfo"))?;
        let mounts = MountInfos::from_read(file.take(LARGEST)).map_err(io::Error::other)?;
        // The last is the uppermost.
        let mount = mounts
            .0
            .into_iter()
            .rfind(|mount| mount.mount_point == Path::new(point));
        Ok(mount.map(|mount| mount.fs_type))
    }

    /// A connection to its TPM, as tpm2-tss takes it.
    #[must_use]
    pub fn tcti(&self, configured: &str) -> String {
        match configured.strip_prefix("device:") {
            Some(device) if device.starts_with('/') => {
                format!("device:{}", self.path(device).display())
            }
            _ => configured.to_owned(),
        }
    }
}

/// An absolute path below another root.
pub fn below(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Whether an error comes from a right that the caller has not.
pub fn is_denied(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        next = error.source();
    }
    false
}
