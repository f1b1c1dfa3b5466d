// SPDX-License-Identifier: Apache-2.0
//! Stores of containers/storage: those of podman, buildah and CRI-O. What they say of images, layers and
//! containers is in JSON files beside the layers' directories; the engines are not asked, and not needed.
//!
//! ```text
//! GRAPHROOT/overlay-images/images.json       images: id, names, digest, top layer
//! GRAPHROOT/overlay-images/ID/               manifest, config
//! GRAPHROOT/overlay-layers/layers.json       layers: id, parent; volatile-layers.json has those of containers
//! GRAPHROOT/overlay-containers/containers.json
//! GRAPHROOT/overlay/LAYER/diff/              a layer's files
//! GRAPHROOT/vfs/dir/LAYER/                   or all files up to a layer
//! ```

mod config;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use oci_spec::image::{Digest, ImageConfiguration, Sha256Digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use self::config::ConfigFileError;
use self::config::{Place, places};
use super::directory::{self, DirectoryError, OverlayAttributes};
use super::overlay::{self, LowerDirectories, OverlayError};
use super::{Options, document};
use crate::limits::Budget;
use crate::{ContentDigest, Image, Published};

/// More than any store's list of layers has.
const MAX_LIST: u64 = 256 << 20;

/// Why a store gives no image.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Where it is.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// One of its files.
    #[error("{} cannot be read: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One of its files is not what it should be.
    #[error("{} is not what a store has: {source}", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// No store.
    #[error("there is no store of images in {}", .0.display())]
    NoStore(PathBuf),
    /// No such image.
    #[error("no image in {} is called \"{}\"", places.join(", "), name.escape_default())]
    NoImage {
        /// What was asked for.
        name: String,
        /// Where.
        places: Vec<String>,
    },
    /// More than one.
    #[error("\"{}\" may be any of {}", name.escape_default(), candidates.join(", "))]
    Several {
        /// What was asked for.
        name: String,
        /// Their ids.
        candidates: Vec<String>,
    },
    /// A layer that the store does not have.
    #[error("the store in {} has no layer \"{}\", which it refers to", place.display(), layer.escape_default())]
    NoLayer {
        /// The store.
        place: PathBuf,
        /// Its id.
        layer: String,
    },
    /// Layers that are above themselves.
    #[error("the layers of the store in {} are above one another in a circle, at \"{layer}\"", place.display())]
    Circle {
        /// The store.
        place: PathBuf,
        /// One of them.
        layer: String,
    },
    /// A driver that is not read.
    #[error("the store in {} is kept by the driver \"{}\": only overlay and vfs are read", place.display(), driver.escape_default())]
    Driver {
        /// The store.
        place: PathBuf,
        /// Its driver.
        driver: String,
    },
    /// What the store has is not what it says.
    #[error("{} is sha256:{found}, and the store says {expected}", path.display())]
    Other {
        /// A document.
        path: PathBuf,
        /// What its digest should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// An overlay's directories.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A whole tree.
    #[error("{}: {source}", path.display())]
    Directory {
        /// Its root.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: DirectoryError,
    },
}

/// An element of `images.json`.
#[derive(Debug, Clone, Deserialize)]
struct ImageRecord {
    id: String,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    layer: String,
}

/// An element of `layers.json`.
#[derive(Debug, Clone, Deserialize)]
struct LayerRecord {
    id: String,
    #[serde(default)]
    parent: String,
}

/// An element of `containers.json`.
#[derive(Debug, Clone, Deserialize)]
struct ContainerRecord {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    layer: String,
}

/// What is below a container of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Below {
    Overlay {
        lower: LowerDirectories,
        upper: PathBuf,
    },
    /// The container's own copy of everything: what its image is, is with the image.
    Copy { driver: String },
}

/// Reads an image that a store has.
pub(crate) fn read(
    image: &str,
    budget: &Budget,
    options: &Options<'_>,
) -> Result<Image, StorageError> {
    let (places, name) = places(image)?;
    let mut found = None;
    for place in &places {
        if let Some(record) = find(&images(place)?, name)? {
            found = Some((place, record));
            break;
        }
    }
    let Some((place, record)) = found else {
        return Err(StorageError::NoImage {
            name: name.to_owned(),
            places: places
                .iter()
                .map(|place| place.root.display().to_string())
                .collect(),
        });
    };
    let read = match place.driver.as_str() {
        _ if record.layer.is_empty() => Image::default(),
        "overlay" => overlay::read(&lower_directories(place, &record.layer)?, budget, options)?,
        "vfs" => {
            let layers = layers(place)?;
            known(place, &layers, &record.layer)?;
            let path = place.root.join("vfs/dir").join(&record.layer);
            directory::read(&path, budget, options)
                .map_err(|source| StorageError::Directory { path, source })?
        }
        _ => return Err(driver(place)),
    };
    Ok(Image {
        published: Some(published(place, &record)?),
        ..read
    })
}

/// What is below the container of this name or id, in whichever store has it.
pub(crate) fn below_container(name: &str) -> Result<Option<Below>, StorageError> {
    let (places, name) = places(name)?;
    for place in &places {
        let path = list(place, "containers", "containers.json");
        let containers: Vec<ContainerRecord> = json_or_none(&path)?.unwrap_or_default();
        let called = |one: &&ContainerRecord| {
            one.names.iter().flatten().any(|has| has == name) || is_id(&one.id, name)
        };
        let mut fitting = containers.iter().filter(called);
        let Some(container) = fitting.next() else {
            continue;
        };
        if let Some(other) = fitting.next() {
            return Err(StorageError::Several {
                name: name.to_owned(),
                candidates: vec![container.id.clone(), other.id.clone()],
            });
        }
        if place.driver != "overlay" {
            let driver = place.driver.clone();
            return Ok(Some(Below::Copy { driver }));
        }
        let layers = layers(place)?;
        let own = known(place, &layers, &container.layer)?;
        let lower = match own.parent.as_str() {
            "" => LowerDirectories {
                paths: Vec::new(),
                attributes: place.attributes,
            },
            parent => lower_directories(place, parent)?,
        };
        let upper = diff(place, &own.id);
        return Ok(Some(Below::Overlay { lower, upper }));
    }
    Ok(None)
}

fn images(place: &Place) -> Result<Vec<ImageRecord>, StorageError> {
    let path = list(place, "images", "images.json");
    match json_or_none(&path)? {
        Some(images) => Ok(images),
        // The first is the store itself, the others hold images that are shared.
        None if place.is_own => Err(StorageError::NoStore(place.root.clone())),
        None => Ok(Vec::new()),
    }
}

/// The image that is called so, as podman finds it: by its whole name, by one that it adds to, or by id.
fn find(images: &[ImageRecord], name: &str) -> Result<Option<ImageRecord>, StorageError> {
    let (base, digest) = match name.split_once('@') {
        Some((base, digest)) => (base, Some(digest)),
        None => (name, None),
    };
    let last = base.rsplit('/').next().unwrap_or(base);
    let tagged = if last.contains(':') || digest.is_some() {
        base.to_owned()
    } else {
        format!("{base}:latest")
    };
    for prefix in ["", "localhost/", "docker.io/library/", "docker.io/"] {
        let whole = format!("{prefix}{tagged}");
        let called = |image: &&ImageRecord| {
            let mut names = image.names.iter().flatten();
            match digest {
                None => names.any(|has| *has == whole),
                Some(digest) => {
                    image.digest.as_deref() == Some(digest)
                        && names.any(|has| untagged(has) == whole)
                }
            }
        };
        if let Some(image) = images.iter().find(called) {
            return Ok(Some(image.clone()));
        }
    }
    let id = name.strip_prefix("sha256:").unwrap_or(name);
    let fitting: Vec<_> = images.iter().filter(|image| is_id(&image.id, id)).collect();
    match fitting[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        _ => Err(StorageError::Several {
            name: name.to_owned(),
            candidates: fitting.iter().map(|image| image.id.clone()).collect(),
        }),
    }
}

fn untagged(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        Some((base, tag)) if !tag.contains('/') => base,
        _ => name,
    }
}

/// Whether `text` is the id or the beginning of it that an engine shows.
fn is_id(id: &str, text: &str) -> bool {
    text.len() >= 12 && id.starts_with(text)
}

fn layers(place: &Place) -> Result<HashMap<String, LayerRecord>, StorageError> {
    let mut all = HashMap::new();
    for file in ["layers.json", "volatile-layers.json"] {
        let records: Option<Vec<LayerRecord>> = json_or_none(&list(place, "layers", file))?;
        let records = records.into_iter().flatten();
        all.extend(records.map(|record| (record.id.clone(), record)));
    }
    Ok(all)
}

/// A layer that is there, whose id is none but an id: it becomes a path.
fn known<'a>(
    place: &Place,
    layers: &'a HashMap<String, LayerRecord>,
    id: &str,
) -> Result<&'a LayerRecord, StorageError> {
    let is_hexadecimal = id.len() == 64 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    layers
        .get(id)
        .filter(|_| is_hexadecimal)
        .ok_or_else(|| StorageError::NoLayer {
            place: place.root.clone(),
            layer: id.to_owned(),
        })
}

/// The directories of a layer and those below it.
fn lower_directories(place: &Place, top: &str) -> Result<LowerDirectories, StorageError> {
    let layers = layers(place)?;
    let (mut paths, mut seen) = (Vec::new(), HashSet::new());
    let mut id = top;
    while !id.is_empty() {
        let layer = known(place, &layers, id)?;
        if !seen.insert(id) {
            return Err(StorageError::Circle {
                place: place.root.clone(),
                layer: id.to_owned(),
            });
        }
        paths.push(diff(place, &layer.id));
        id = &layer.parent;
    }
    paths.reverse();
    Ok(LowerDirectories {
        paths,
        attributes: place.attributes,
    })
}

fn diff(place: &Place, layer: &str) -> PathBuf {
    place.root.join("overlay").join(layer).join("diff")
}

fn list(place: &Place, kind: &str, file: &str) -> PathBuf {
    place
        .root
        .join(format!("{}-{kind}", place.driver))
        .join(file)
}

fn driver(place: &Place) -> StorageError {
    StorageError::Driver {
        place: place.root.clone(),
        driver: place.driver.clone(),
    }
}

/// The image's documents; each is what the store's record of the image says.
fn published(place: &Place, record: &ImageRecord) -> Result<Published, StorageError> {
    let folder = list(place, "images", &record.id);
    let config_path = folder.join(big_data(&format!("sha256:{}", record.id)));
    let config = bytes(&config_path)?;
    let digest = checked(&config_path, &config, &format!("sha256:{}", record.id))?;
    let config: ImageConfiguration = parse(&config_path, &config)?;
    let manifest_path = folder.join("manifest");
    let manifest = bytes(&manifest_path)?;
    let manifest_digest = match &record.digest {
        Some(expected) => checked(&manifest_path, &manifest, expected)?.to_string(),
        None => ContentDigest::of(&manifest).to_string(),
    };
    let manifest: AnnotatedManifest = parse(&manifest_path, &manifest)?;
    Ok(Published {
        reference: record.names.iter().flatten().next().cloned(),
        manifest: Some(manifest_digest),
        annotations: manifest
            .annotations
            .unwrap_or_default()
            .into_iter()
            .collect(),
        ..document::published(&digest, &config)
    })
}

/// What counts of a manifest here; docker's have no annotations.
#[derive(Deserialize)]
struct AnnotatedManifest {
    annotations: Option<HashMap<String, String>>,
}

/// The file that has an item of a record (`makeBigDataBaseName`, containers/storage).
fn big_data(key: &str) -> String {
    format!("={}", base64::engine::general_purpose::STANDARD.encode(key))
}

fn checked(path: &Path, bytes: &[u8], expected: &str) -> Result<Digest, StorageError> {
    let found = hex::encode(ContentDigest::of(bytes).bytes());
    let other = || StorageError::Other {
        path: path.to_owned(),
        expected: expected.escape_default().to_string(),
        found: found.clone(),
    };
    if expected != format!("sha256:{found}") {
        return Err(other());
    }
    let digest: Sha256Digest = found.parse().map_err(|_| other())?;
    Ok(digest.into())
}

fn bytes(path: &Path) -> Result<Vec<u8>, StorageError> {
    let failed = |source| StorageError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_LIST + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_LIST {
        return Err(failed(io::Error::other("it is longer than any store's")));
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, StorageError> {
    serde_json::from_slice(bytes).map_err(|source| StorageError::Json {
        path: path.to_owned(),
        source,
    })
}

fn json_or_none<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StorageError> {
    match bytes(path) {
        Ok(bytes) => parse(path, &bytes).map(Some),
        Err(StorageError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What marks an overlay has in a store of root's, and of another's.
fn attributes(is_rootless: bool) -> OverlayAttributes {
    if is_rootless {
        OverlayAttributes::User
    } else {
        OverlayAttributes::Trusted
    }
}
