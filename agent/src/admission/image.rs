// SPDX-License-Identifier: Apache-2.0
//! Measures a container's image where the engine keeps it, and what was written over it.
//!
//! A measurement that began after somebody asked is an answer to them: of a hundred containers of one
//! image that start at once, the image is read twice at most. What was read before is known by its files'
//! times (`image_digest::Cache`), kept in a file for each image, so that nothing of it is in memory between.

use std::{
    collections::HashMap,
    fs, io,
    num::NonZero,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use image_digest::{
    Cache, Image, ImageDigest, Limits, Progress, Published,
    audit::{Audit, AuditError, Engine, Finding, Stubs, audit},
    source::{Container, ContainerError, Options, Source, SourceError, read},
};
use sha2::{Digest as _, Sha256};

/// Files of digests that are kept: the images of a node.
const KEPT: usize = 256;

/// What is known of an image once it was read.
#[derive(Debug)]
pub(super) struct Measured {
    /// Its digest.
    pub(super) digest: ImageDigest,
    image: Image,
}

/// What a container is made from.
#[derive(Debug)]
pub(super) enum Root {
    /// An overlay: the image below, what the container wrote above.
    Overlay(Box<Container>),
    /// All of it in one directory.
    Directory(PathBuf),
}

/// Why an image has no digest, in a sentence.
pub(super) type Unmeasured = String;

/// Results by what was measured, each behind the lock that its maker holds.
type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Result<Arc<Measured>, Unmeasured>)>>>;

/// Measures images, one at a time for each.
#[derive(Debug)]
pub(super) struct Measurer {
    /// Where digests of files are kept.
    known: PathBuf,
    threads: NonZero<usize>,
    stubs: Stubs,
    slots: Mutex<HashMap<String, Slot>>,
}

impl Measurer {
    /// One that keeps what it knows in the directory `known`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(super) fn new(known: PathBuf, stubs: Stubs) -> io::Result<Self> {
        make_private(&known)?;
        Ok(Self {
            known,
            threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            stubs,
            slots: Mutex::default(),
        })
    }

    /// The digest of the image of `root`, read since this was called.
    ///
    /// # Errors
    /// Why it has none.
    pub(super) async fn measure(
        self: &Arc<Self>,
        root: &Arc<Root>,
    ) -> Result<Arc<Measured>, Unmeasured> {
        let asked = Instant::now();
        let key = root.key()?;
        let slot = Arc::clone(self.slots().entry(key.clone()).or_default());
        let mut known = slot.lock().await;
        let result = match &*known {
            Some((began, result)) if *began >= asked => result.clone(),
            _ => {
                let (began, this, root, of) = (
                    Instant::now(),
                    Arc::clone(self),
                    Arc::clone(root),
                    key.clone(),
                );
                let result = tokio::task::spawn_blocking(move || this.read(&root, &of)).await;
                let result =
                    result.unwrap_or_else(|error| Err(format!("reading it failed: {error}")));
                *known = Some((began, result.clone()));
                result
            }
        };
        drop(known);
        // If nobody else waits for it: what it holds is as large as the image has files.
        let mut slots = self.slots();
        drop(slot);
        if slots
            .get(&key)
            .is_some_and(|slot| Arc::strong_count(slot) == 1)
        {
            slots.remove(&key);
        }
        result
    }

    fn read(&self, root: &Root, key: &str) -> Result<Arc<Measured>, Unmeasured> {
        let path = self.known.join(key);
        // What is known only saves time; a file that is torn is written anew.
        let cache = Cache::load(&path).unwrap_or_else(|error| {
            tracing::warn!("{error}; reading the image anew");
            Cache::default()
        });
        let progress = Progress::default();
        let options = Options {
            limits: Limits::default(),
            platform: None,
            threads: self.threads,
            cache: Some(&cache),
            progress: &progress,
        };
        let image = root.read(&options).map_err(|error| error.to_string())?;
        if let Err(error) = self.keep(&cache, &path) {
            tracing::warn!("what is known of an image cannot be kept: {error}");
        }
        Ok(Arc::new(Measured {
            digest: image.tree.digest(),
            image,
        }))
    }

    fn keep(&self, cache: &Cache, path: &Path) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", self.known.display());
        // It may be emptied at any time, and be gone with that.
        make_private(&self.known).map_err(failed)?;
        cache.save(path).map_err(|error| error.to_string())?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.known).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let used = entry
                .metadata()
                .and_then(|data| data.modified())
                .map_err(failed)?;
            files.push((used, entry.path()));
        }
        files.sort();
        let surplus = files.len().saturating_sub(KEPT);
        for (_, path) in &files[..surplus] {
            fs::remove_file(path).map_err(failed)?;
        }
        Ok(())
    }

    /// What the container has beside its image that no engine is known to put there.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(super) fn audit(
        &self,
        container: &Container,
        measured: &Measured,
        engines: &[Engine],
    ) -> Result<Vec<Finding>, AuditError> {
        let Some(upper) = container.upper() else {
            return Ok(Vec::new());
        };
        let question = Audit {
            stubs: &self.stubs,
            engines,
            mount_points: container.mount_points(),
            image: Some(&measured.image.tree),
            root: container.root(),
            user_attributes: container.user_attributes(),
            limits: Limits::default(),
        };
        audit(upper, &question)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

/// Why a root file system cannot be found or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    /// See [`ContainerError`].
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// See [`SourceError`].
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl Root {
    /// The root of the container that process `pid` begins, which is assembled at `path`.
    ///
    /// # Errors
    /// It is none that can be measured.
    pub(super) fn find(pid: u32, path: &Path) -> Result<Self, RootError> {
        match Container::of_mount_point(pid, path) {
            Ok(container) => Ok(Self::Overlay(Box::new(container))),
            // A driver without layers (vfs): nothing is mounted, or the directory on itself.
            Err(ContainerError::NoOverlay { .. } | ContainerError::NoRoot(_)) => {
                Ok(Self::Directory(path.to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What its publisher said, as far as the engine's store tells.
    pub(super) fn published(&self) -> Option<&Published> {
        match self {
            Self::Overlay(container) => container.published(),
            Self::Directory(_) => None,
        }
    }

    /// The container's name, as far as the engine's store tells.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Overlay(container) => container.name(),
            Self::Directory(_) => None,
        }
    }

    fn read(&self, options: &Options<'_>) -> Result<Image, RootError> {
        match self {
            Self::Overlay(container) => Ok(container.read(options)?),
            Self::Directory(path) => Ok(read(&Source::Directory(path.clone()), options)?),
        }
    }

    /// Names what would be read, as a file name.
    fn key(&self) -> Result<String, Unmeasured> {
        let mut hash = Sha256::new();
        match self {
            Self::Overlay(container) => {
                for (device, inode) in container.layers().map_err(|error| error.to_string())? {
                    hash.update(device.to_le_bytes());
                    hash.update(inode.to_le_bytes());
                }
            }
            Self::Directory(path) => hash.update(path.as_os_str().as_encoded_bytes()),
        }
        Ok(hex::encode(hash.finalize()))
    }
}
