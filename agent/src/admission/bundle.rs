// SPDX-License-Identifier: Apache-2.0
//! A container's bundle: the `config.json` that its runtime goes by (OCI runtime specification, `config.md`). Read as bytes
//! of a plain file that only its owner can write, then parsed; where the root is comes out of it, and is held
//! against the kernel's mounts by others.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

/// The largest `config.json`: those of Kubernetes have some 100 KiB.
const LARGEST: u64 = 8 << 20;

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A link, a pipe, a directory.
    #[error("{} is a {kind}, not a file", path.display())]
    Kind {
        /// Which.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Others could change it between this look and the runtime's.
    #[error("{} belongs to user {owner} with mode {mode:o}: others than root and the container's user can write it", path.display())]
    Writable {
        /// Which.
        path: PathBuf,
        /// Whose.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// More than any engine writes.
    #[error("{} has more than {LARGEST} bytes", .0.display())]
    Large(PathBuf),
    /// Not what the specification says.
    #[error("{} is no configuration of a container: {source}", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Line, column and reason.
        #[source]
        source: serde_json::Error,
    },
    /// No root file system.
    #[error("{} names no root file system", .0.display())]
    NoRoot(PathBuf),
}

/// A bundle as it was read.
#[derive(Debug)]
pub(super) struct Bundle {
    /// The configuration.
    pub(super) spec: Spec,
    /// Where its root file system is assembled, as the runtime's mount namespace has it.
    pub(super) root: PathBuf,
}

impl Bundle {
    /// Reads the bundle in `directory` of a container of user `owner` (in the initial user namespace).
    ///
    /// # Errors
    /// See [`BundleError`].
    pub(super) fn read(directory: &Path, owner: u32) -> Result<Self, BundleError> {
        let path = directory.join("config.json");
        let bytes = plain_file(&path, owner)?;
        let spec: Spec = serde_json::from_slice(&bytes).map_err(|source| BundleError::Json {
            path: path.clone(),
            source,
        })?;
        let root = spec.root().as_ref().map(|root| directory.join(root.path()));
        let root = root.ok_or(BundleError::NoRoot(path))?;
        // As mountinfo spells it.
        let root = root.canonicalize().unwrap_or(root);
        Ok(Self { spec, root })
    }
}

fn plain_file(path: &Path, owner: u32) -> Result<Vec<u8>, BundleError> {
    let failed = |source| BundleError::Io {
        path: path.to_owned(),
        source,
    };
    // Not waiting for a pipe's other end.
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        Ok(file) => file,
        Err(rustix::io::Errno::LOOP) => {
            return Err(BundleError::Kind {
                path: path.to_owned(),
                kind: "symbolic link",
            });
        }
        Err(errno) => return Err(failed(errno.into())),
    };
    let stat = fstat(&file).map_err(|errno| failed(errno.into()))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("directory"),
        FileType::Fifo => Some("pipe"),
        _ => Some("device or socket"),
    };
    if let Some(kind) = kind {
        return Err(BundleError::Kind {
            path: path.to_owned(),
            kind,
        });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o022 != 0 || (stat.st_uid != 0 && stat.st_uid != owner) {
        return Err(BundleError::Writable {
            path: path.to_owned(),
            owner: stat.st_uid,
            mode,
        });
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(BundleError::Large(path.to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    const SPEC: &str = r#"{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"cwd":"/","args":["true"],"user":{"uid":0,"gid":0}}}"#;

    fn refused(make: impl FnOnce(&Path)) -> String {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("config.json"));
        let owner = rustix::process::getuid().as_raw();
        Bundle::read(dir.path(), owner).unwrap_err().to_string()
    }

    #[test]
    fn a_bundle_says_where_its_root_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        fs::write(dir.path().join("config.json"), SPEC).unwrap();
        let owner = rustix::process::getuid().as_raw();
        let bundle = Bundle::read(dir.path(), owner).unwrap();
        assert_eq!(
            bundle.root,
            dir.path().canonicalize().unwrap().join("rootfs")
        );
    }

    #[test]
    fn a_bundle_that_could_lie_is_refused_by_name() {
        type Case = (&'static str, Box<dyn FnOnce(&Path)>);
        let write = |text: &'static str| move |path: &Path| fs::write(path, text).unwrap();
        let cases: Vec<Case> = vec![
            ("No such file", Box::new(|_: &Path| ())),
            (
                "symbolic link",
                Box::new(|path: &Path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()),
            ),
            (
                "is a directory",
                Box::new(|path: &Path| fs::create_dir(path).unwrap()),
            ),
            (
                "is a pipe",
                Box::new(|path: &Path| {
                    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
                }),
            ),
            (
                "others than root",
                Box::new(|path: &Path| {
                    fs::write(path, SPEC).unwrap();
                    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
                }),
            ),
            ("no configuration", Box::new(write("{\"ociVersion\":1}"))),
            ("no configuration", Box::new(write("\u{1}\u{2}"))),
            (
                "names no root",
                Box::new(write("{\"ociVersion\":\"1.0.2\"}")),
            ),
            (
                "more than",
                Box::new(|path: &Path| {
                    fs::File::create(path)
                        .unwrap()
                        .set_len(LARGEST + 1)
                        .unwrap();
                }),
            ),
        ];
        for (reason, make) in cases {
            let error = refused(make);
            assert!(
                error.contains(reason) && error.contains("config.json"),
                "{reason}: {error}"
            );
        }
    }
}
