// SPDX-License-Identifier: Apache-2.0
//! `containers-storage:IMAGE`: the store of podman, buildah and CRI-O (containers/storage).
//!
//! Owns which directories of a store are an image's, and what its publisher said of it; `storage/config` finds the
//! store, `storage/names` the image. Every document in it is another's word: read up to a bound, ids are checked before they
//! become paths, chains that loop are refused. The store's locks are not taken: its documents are replaced whole.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use oci_spec::image::{ImageConfiguration, ImageManifest};
use rustix::fs::{AtFlags, fstat, statat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use crate::source::directory::{DirectoryError, OverlayAttributes};
use crate::source::overlay::{Lower, OverlayError, WhiteoutNames};
use crate::source::{Options, directory, overlay};
use crate::{ContentDigest, Image, Published};

mod config;
mod documents;
mod names;

use documents::{
    ContainerRecord, Id, ImageRecord, LARGEST, LayerRecord, big_data_file, bounded, document,
    expect_digest, is_id_prefix, list, present, root_of,
};

/// Why an image of a store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The system said no.
    #[error("\"{}\" cannot be read: {reason}", path.as_os_str().as_encoded_bytes().escape_ascii())]
    Io {
        /// Of what.
        path: PathBuf,
        /// Why.
        #[source]
        reason: io::Error,
    },
    /// A document of more bytes than any store has.
    #[error("\"{}\" has more than {LARGEST} bytes", .0.as_os_str().as_encoded_bytes().escape_ascii())]
    TooLarge(PathBuf),
    /// A document that is not what it should be.
    #[error("\"{}\" is not what a store of containers has there: {reason}", path.as_os_str().as_encoded_bytes().escape_ascii())]
    Document {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No store, or none of a kind that can be read.
    #[error("{0}")]
    NoStore(String),
    /// Text behind `containers-storage:` that means nothing.
    #[error("\"{}\" names no image of a store: {reason}", text.escape_default())]
    Name {
        /// As given.
        text: String,
        /// Why.
        reason: &'static str,
    },
    /// The store has no such thing.
    #[error("no {what} \"{}\" is in {}", name.escape_default(), stores.escape_default())]
    Unknown {
        /// Image or container.
        what: &'static str,
        /// As given.
        name: String,
        /// Where it was looked for.
        stores: String,
    },
    /// More than one has that name.
    #[error("\"{}\" could be any of {}", name.escape_default(), candidates.join(", ").escape_default())]
    Ambiguous {
        /// As given.
        name: String,
        /// Ids, and the names that match.
        candidates: Vec<String>,
    },
    /// A chain of layers that is broken or a loop.
    #[error("layer {0} of the store {1}")]
    Layer(String, &'static str),
    /// A document whose digest is another than the store says.
    #[error("\"{}\" has the digest {found}, the store says {expected}", path.as_os_str().as_encoded_bytes().escape_ascii())]
    Digest {
        /// Which.
        path: PathBuf,
        /// Computed.
        found: String,
        /// Of the store.
        expected: String,
    },
    /// The store is a user's, seen from outside.
    #[error(
        "the store \"{}\" belongs to user {uid}, who sees other owners of its files than this process does; \
         run it as that user by \"podman unshare\"",
        path.as_os_str().as_encoded_bytes().escape_ascii()
    )]
    OtherOwners {
        /// Its root.
        path: PathBuf,
        /// Of the directory of layers.
        uid: u32,
    },
    /// A layer, as a directory.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// An image of the driver vfs, as a directory.
    #[error("{}: {reason}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        reason: DirectoryError,
    },
}

/// How the driver keeps layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    /// `overlay`, or by its old name `overlay2`: one directory a layer.
    Overlay(&'static str),
    /// One directory with all files an image.
    Vfs,
}

/// A store, and those for reading that it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Store {
    /// The first is that of containers.
    roots: Vec<Root>,
    run_root: Option<PathBuf>,
    /// The configuration names a mount program.
    mount_program: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Root {
    path: PathBuf,
    driver: Driver,
}

/// A container that the store knows, running or not.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) id: String,
    /// The bottom one first.
    pub(crate) lower: Vec<Lower>,
    pub(crate) upper: PathBuf,
    pub(crate) attributes: OverlayAttributes,
    /// User and group that are 0 in the container.
    pub(crate) root: (u32, u32),
    pub(crate) said: Said,
}

/// What a store says of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) name: Option<String>,
    /// Of its image.
    pub(crate) published: Option<Published>,
}

/// Reads the image of that name, `[driver@graphroot+runroot]NAME` or `NAME` in this user's store.
///
/// # Errors
/// See [`StorageError`].
pub(super) fn read(text: &str, options: &Options<'_>) -> Result<Image, StorageError> {
    let (store, name) = Store::open(text)?;
    let (root, record) = store.image(name)?;
    let top = record.layer.as_deref().filter(|id| !id.is_empty());
    let mut image = match (top, root.driver) {
        (None, _) => Image::default(),
        (Some(top), Driver::Vfs) => {
            let (root, _) = store.layer(&Id::checked(top, &root.file("images"))?)?;
            root.check_owner()?;
            let path = root.path.join("vfs/dir").join(top);
            directory::read(&path, options)
                .map_err(|reason| StorageError::Directory { path, reason })?
        }
        (Some(top), Driver::Overlay(_)) => {
            let chain = store.chain(Id::checked(top, &root.file("images"))?)?;
            let attributes = store.attributes(&chain)?;
            overlay::read(&store.lower(&chain)?, attributes, options)?
        }
    };
    image.published = Some(root.published(&record, Some(name))?);
    Ok(image)
}

impl Store {
    /// The store that a text names, and what is behind that.
    pub(crate) fn open(text: &str) -> Result<(Self, &str), StorageError> {
        let (place, name) = config::place(text)?;
        let store = config::store(place, &config::Surroundings::of_process())?;
        if name.is_empty() {
            return Err(StorageError::Name {
                text: text.to_owned(),
                reason: "nothing is behind the store",
            });
        }
        Ok((store, name))
    }

    /// The container of this name, id or beginning of an id.
    pub(crate) fn container(&self, name: &str) -> Result<Known, StorageError> {
        let Some(root) = self.roots.first() else {
            return Err(self.unknown("container", name));
        };
        let container = self.container_record(root, name)?;
        if root.driver == Driver::Vfs {
            return Err(StorageError::NoStore(format!(
                "container {} has a copy of all its image's files (driver vfs), which do not stand apart from its own; \
                 name the image by containers-storage:, or read \"dir:{}\"",
                container.id,
                root.path
                    .join("vfs/dir")
                    .join(&container.layer.0)
                    .display()
                    .to_string()
                    .escape_default()
            )));
        }
        let (_, own) = self.layer(&container.layer)?;
        let mut chain = self.chain(container.layer.clone())?;
        let mut lower = self.lower(&chain)?;
        // The topmost of each is the container's own.
        lower.pop();
        chain.remove(0);
        Ok(Known {
            lower,
            upper: root.home().join(&container.layer.0).join("diff"),
            attributes: self.attributes(&chain)?,
            root: (
                root_of(own.users.as_deref()),
                root_of(own.groups.as_deref()),
            ),
            said: Said {
                published: match chain.first() {
                    Some((_, top)) => self.published_of(&container, top)?,
                    None => None,
                },
                name: container.name(),
            },
            id: container.id.0,
        })
    }

    fn container_record(&self, root: &Root, name: &str) -> Result<ContainerRecord, StorageError> {
        let mut found: Vec<ContainerRecord> = Vec::new();
        for container in root.containers(self.run_root.as_deref())? {
            let names = container.names.as_deref().unwrap_or_default();
            let exact = container.id.0 == name || names.iter().any(|known| known == name);
            if exact {
                found = vec![container];
                break;
            }
            if is_id_prefix(name) && container.id.0.starts_with(name) {
                found.push(container);
            }
        }
        match found.len() {
            0 => Err(self.unknown("container", name)),
            1 => Ok(found.remove(0)),
            _ => {
                let candidates = found.into_iter().map(|one| one.id.0).collect();
                Err(StorageError::Ambiguous {
                    name: name.to_owned(),
                    candidates,
                })
            }
        }
    }

    /// What is said of the container with a layer, found by the driver's directory: the store is around it, if it is one of
    /// podman's or CRI-O's.
    pub(crate) fn said_beside(home: &Path, layer: &str) -> Result<Said, StorageError> {
        let Some((path, name)) = home.parent().zip(home.file_name()) else {
            return Ok(Said::default());
        };
        let Some(driver) = config::driver(name).filter(|driver| *driver != Driver::Vfs) else {
            return Ok(Said::default());
        };
        let path = path.to_owned();
        let store = Self {
            roots: vec![Root { path, driver }],
            run_root: None,
            mount_program: false,
        };
        let Some(root) = store.roots.first() else {
            return Ok(Said::default());
        };
        let containers = root.containers(None)?;
        let Some(container) = containers.into_iter().find(|one| one.layer.0 == layer) else {
            return Ok(Said::default());
        };
        let (root, record) = store.layer(&container.layer)?;
        let published = match record.parent.filter(|id| !id.is_empty()) {
            Some(top) => {
                store.published_of(&container, &Id::checked(&top, &root.file("layers"))?)?
            }
            None => None,
        };
        Ok(Said {
            name: container.name(),
            published,
        })
    }

    /// What the publisher said of a container's image, if the store still has it and the container's layers
    /// are that image's.
    fn published_of(
        &self,
        container: &ContainerRecord,
        top: &Id,
    ) -> Result<Option<Published>, StorageError> {
        for root in &self.roots {
            for image in root.images()? {
                let is_its = Some(&image.id.0) == container.image.as_ref();
                let mapped = image.mapped_layers.as_deref().unwrap_or_default();
                if is_its && (image.layer.as_ref() == Some(&top.0) || mapped.contains(top)) {
                    let name = image.names.as_deref().unwrap_or_default().first();
                    return root.published(&image, name.map(String::as_str)).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn image(&self, name: &str) -> Result<(&Root, ImageRecord), StorageError> {
        for root in &self.roots {
            let images = root.images()?;
            let found = names::find(name, &images)?;
            if let Some(image) = found.and_then(|at| images.into_iter().nth(at)) {
                return Ok((root, image));
            }
        }
        Err(self.unknown("image", name))
    }

    fn unknown(&self, what: &'static str, name: &str) -> StorageError {
        let roots: Vec<_> = self.roots.iter().map(Root::to_string).collect();
        StorageError::Unknown {
            what,
            name: name.to_owned(),
            stores: roots.join(", "),
        }
    }

    fn layer(&self, id: &Id) -> Result<(&Root, LayerRecord), StorageError> {
        for root in &self.roots {
            let layers = root.layers(self.run_root.as_deref())?;
            if let Some(layer) = layers.into_iter().find(|layer| layer.id == *id) {
                return Ok((root, layer));
            }
        }
        Err(StorageError::Layer(id.0.clone(), "is not there"))
    }

    /// A layer and those below it, the top one first.
    fn chain(&self, top: Id) -> Result<Vec<(&Root, Id)>, StorageError> {
        let mut known = std::collections::HashMap::new();
        for root in self.roots.iter().rev() {
            for layer in root.layers(self.run_root.as_deref())? {
                known.insert(layer.id.clone(), (root, layer));
            }
        }
        let mut chain = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some(top);
        while let Some(id) = next {
            if !seen.insert(id.clone()) {
                return Err(StorageError::Layer(id.0, "is below itself"));
            }
            let Some((root, layer)) = known.get(&id) else {
                return Err(StorageError::Layer(id.0, "is not there"));
            };
            let flag = |name| layer.flags.as_ref().and_then(|flags| flags.get(name));
            if flag("incomplete").is_some_and(|value| *value != false) {
                return Err(StorageError::Layer(id.0, "was not written to its end"));
            }
            chain.push((*root, id));
            let parent = layer.parent.as_deref().filter(|id| !id.is_empty());
            next = parent
                .map(|id| Id::checked(id, &root.file("layers")))
                .transpose()?;
        }
        Ok(chain)
    }

    /// The directories of the top layer of a chain and of those below, the bottom one first, as the driver mounts them: the
    /// file `lower` beside the layer has links to them. It is not always what `layers.json` says: of a layer for other
    /// owners (`--uidmap`) the store has the parent of the layer that it was made from, the driver that layer, too. So
    /// each of the chain must be among them, in its order.
    fn lower(&self, chain: &[(&Root, Id)]) -> Result<Vec<Lower>, StorageError> {
        let Some((root, top)) = chain.first() else {
            return Ok(Vec::new());
        };
        let mut lower = root.directories(&Path::new(&top.0).join("diff"))?;
        let file = root.home().join(&top.0).join("lower");
        let links = bounded(&file)?.unwrap_or_default();
        for link in links
            .split(|byte| *byte == b':')
            .filter(|link| !link.is_empty())
        {
            let link = layer_link(link).ok_or_else(|| StorageError::Document {
                path: file.clone(),
                reason: "it has more in it than links to layers".to_owned(),
            })?;
            let there = |root: &&Root| root.home().join(link).symlink_metadata().is_ok();
            let holder = self.roots.iter().find(there).unwrap_or(root);
            lower.extend(holder.directories(Path::new(link))?);
        }
        let mut rest = lower.iter();
        for (root, id) in chain {
            let own = root.lower(&Path::new(&id.0).join("diff"))?;
            if !rest.any(|one| is_same(one, &own)) {
                return Err(StorageError::Layer(
                    id.0.clone(),
                    "is in its chain of layers, but not where the driver has those",
                ));
            }
        }
        if self.mount_program {
            lower.iter_mut().for_each(Lower::expect_marks);
        }
        lower.reverse();
        Ok(lower)
    }

    /// Whose attributes mark what is gone: in a user namespace the kernel takes none but `user.*`.
    fn attributes(&self, chain: &[(&Root, Id)]) -> Result<OverlayAttributes, StorageError> {
        for (root, _) in chain {
            root.check_owner()?;
        }
        if in_first_user_namespace()? {
            Ok(OverlayAttributes::Trusted)
        } else {
            Ok(OverlayAttributes::User)
        }
    }
}

impl Root {
    fn driver_name(&self) -> &'static str {
        match self.driver {
            Driver::Overlay(name) => name,
            Driver::Vfs => "vfs",
        }
    }

    /// `<driver>-<what>/<what>.json`.
    fn file(&self, what: &str) -> PathBuf {
        let directory = format!("{}-{what}", self.driver_name());
        self.path.join(directory).join(format!("{what}.json"))
    }

    fn home(&self) -> PathBuf {
        self.path.join(self.driver_name())
    }

    /// A layer's directories, the top one first: that which `inside` leads to, and `diff1`, `diff2` and so on beside it, which hold
    /// copies with other owners.
    fn directories(&self, inside: &Path) -> Result<Vec<Lower>, StorageError> {
        let mut lower = vec![self.lower(inside)?];
        if beside(&lower, "../composefs-data")? {
            return Err(StorageError::Layer(
                inside.display().to_string().escape_default().to_string(),
                "is kept by composefs, whose files have no names; such images are not read",
            ));
        }
        for number in 1.. {
            let name = format!("../diff{number}");
            if !beside(&lower, &name)? {
                break;
            }
            lower.push(self.lower(&inside.join(name))?);
        }
        Ok(lower)
    }

    fn lower(&self, inside: &Path) -> Result<Lower, StorageError> {
        let home = self.home();
        let names = if has_mount_program(&home)? {
            WhiteoutNames::Marks
        } else {
            WhiteoutNames::Plain
        };
        Ok(Lower::beneath(&home, inside, names)?)
    }

    /// Refuses a store whose root user is not this process's: all owners would be others.
    fn check_owner(&self) -> Result<(), StorageError> {
        let path = self.home();
        match std::fs::metadata(&path) {
            Ok(found) if found.uid() == 0 => Ok(()),
            Ok(found) => Err(StorageError::OtherOwners {
                path: self.path.clone(),
                uid: found.uid(),
            }),
            Err(reason) => Err(StorageError::Io { path, reason }),
        }
    }

    fn images(&self) -> Result<Vec<ImageRecord>, StorageError> {
        list(&self.file("images"))
    }

    fn layers(&self, run_root: Option<&Path>) -> Result<Vec<LayerRecord>, StorageError> {
        self.with_volatile("layers", run_root)
    }

    fn containers(&self, run_root: Option<&Path>) -> Result<Vec<ContainerRecord>, StorageError> {
        self.with_volatile("containers", run_root)
    }

    /// What is to be forgotten at the next boot is in a file of its own, beside the other or below the run root.
    fn with_volatile<T: DeserializeOwned>(
        &self,
        what: &str,
        run_root: Option<&Path>,
    ) -> Result<Vec<T>, StorageError> {
        let mut all = list(&self.file(what))?;
        let volatile = format!("volatile-{what}.json");
        all.extend(list(&self.file(what).with_file_name(&volatile))?);
        if let Some(run_root) = run_root {
            let directory = format!("{}-{what}", self.driver_name());
            all.extend(list(&run_root.join(directory).join(volatile))?);
        }
        Ok(all)
    }

    /// The documents that came with an image, their digests checked.
    fn published(
        &self,
        record: &ImageRecord,
        reference: Option<&str>,
    ) -> Result<Published, StorageError> {
        let path = self.big_data(record, "manifest");
        let bytes = present(&path)?;
        let manifest_digest = ContentDigest::of(&bytes).to_string();
        let digests = record.digests.clone().unwrap_or_default();
        let said = [record.digest.as_ref(), digests.get("manifest")];
        expect_digest(&path, &manifest_digest, said)?;
        let manifest: ImageManifest = document(&path, &bytes)?;

        let config = manifest.config().digest().to_string();
        let path = self.big_data(record, &config);
        let bytes = present(&path)?;
        let said = [Some(&config), digests.get(&config)];
        expect_digest(&path, &ContentDigest::of(&bytes).to_string(), said)?;
        let read: ImageConfiguration = document(&path, &bytes)?;

        let variant = read.variant().as_ref();
        let variant = variant.map_or_else(String::new, |variant| format!("/{variant}"));
        let labels = read.labels_of_config().cloned().unwrap_or_default();
        let annotations = manifest.annotations().clone().unwrap_or_default();
        Ok(Published {
            reference: reference.map(str::to_owned),
            manifest: Some(manifest_digest),
            config,
            platform: format!("{}/{}{variant}", read.os(), read.architecture()),
            labels: labels.into_iter().collect(),
            annotations: annotations.into_iter().collect(),
        })
    }

    fn big_data(&self, record: &ImageRecord, name: &str) -> PathBuf {
        let directory = self.file("images");
        directory
            .with_file_name(&record.id.0)
            .join(big_data_file(name))
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.driver_name(), self.path.display())
    }
}

/// `l/NAME`, as the driver names its links.
fn layer_link(link: &[u8]) -> Option<&str> {
    let link = std::str::from_utf8(link.trim_ascii()).ok()?;
    let name = link.strip_prefix("l/")?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_name.then_some(link)
}

/// Whether there is something of that name, from the first of a layer's directories.
fn beside(lower: &[Lower], name: &str) -> Result<bool, StorageError> {
    let Some(lower) = lower.first() else {
        return Ok(false);
    };
    match statat(&lower.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(reason) => Err(StorageError::Io {
            path: lower.path.join(name),
            reason: reason.into(),
        }),
    }
}

fn is_same(one: &Lower, other: &Lower) -> bool {
    let of = |lower: &Lower| fstat(&lower.directory).map(|stat| (stat.st_dev, stat.st_ino));
    of(one).is_ok_and(|one| of(other).is_ok_and(|other| one == other))
}

/// Whether the driver noted that it mounts through a program (fuse-overlayfs), and so unpacked layers with marks of
/// names.
fn has_mount_program(home: &Path) -> Result<bool, StorageError> {
    let noted = bounded(&home.join(".has-mount-program"))?;
    Ok(noted.is_some_and(|text| text.trim_ascii() == b"true"))
}

/// Whether ids of users mean what they mean to the kernel: `/proc/self/uid_map` maps all of them to themselves.
fn in_first_user_namespace() -> Result<bool, StorageError> {
    let map = present(Path::new("/proc/self/uid_map"))?;
    let words = map.split(u8::is_ascii_whitespace);
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    Ok(words == [&b"0"[..], b"0", b"4294967295"])
}

#[cfg(test)]
mod tests;
