// SPDX-License-Identifier: Apache-2.0
//! What `docker save` and `podman save` write: `manifest.json` lists the images of the archive, each with a
//! config and its layers' archives. There is no manifest with a digest; the config's names everything.

use oci_spec::image::{Digest, ImageConfiguration, Sha256Digest};
use serde::Deserialize;

use super::Options;
use super::checked::Expected;
use super::document::{self, ConfigError, DocumentError, list};
use super::files::Files;
use super::stack::{self, LayerPlace, StackError};
use crate::limits::Budget;
use crate::{ContentDigest, Image, Published};

const MANIFEST: &str = "manifest.json";

/// Why an archive gives no image.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// A document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// No image is called so.
    #[error("no image in it is called \"{}\"; it has {}", name.escape_default(), list(found))]
    NoName {
        /// What was asked for.
        name: String,
        /// What there is.
        found: Vec<String>,
    },
    /// Several, and nothing says which.
    #[error("it has {count} images, of which one has to be named: {}", list(names))]
    Several {
        /// How many.
        count: usize,
        /// Those that have names.
        names: Vec<String>,
    },
    /// Nothing at all.
    #[error("it has no image")]
    Empty,
    /// The config is not the one that its name says.
    #[error("its config \"{}\" is not what its name says, but sha256:{found}", name.escape_default())]
    Other {
        /// Its name.
        name: String,
        /// What it is.
        found: String,
    },
    /// The config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer.
    #[error(transparent)]
    Stack(#[from] StackError),
}

/// An element of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Reads the image that `reference` names, or the only one.
pub(crate) fn read(
    files: &Files,
    reference: Option<&str>,
    budget: &Budget,
    options: &Options<'_>,
) -> Result<Image, DockerError> {
    let saved = document::bytes(files, MANIFEST, Expected::default())?;
    let saved: Vec<Saved> = document::parse(MANIFEST, &saved)?;
    let saved = choose(&saved, reference)?;
    let config = document::bytes(files, &saved.config, Expected::default())?;
    let digest = digest_of(&saved.config, &config)?;
    let config: ImageConfiguration = document::parse(&saved.config, &config)?;
    let layers = layers(saved, &config)?;
    let (tree, formats) = stack::read(&layers, files, options.threads, budget, options.progress)?;
    let tags = saved.repo_tags.iter().flatten();
    let named = reference.or_else(|| tags.map(String::as_str).next());
    let published = Published {
        reference: named.map(str::to_owned),
        ..document::published(&digest, &config)
    };
    Ok(Image {
        tree,
        formats,
        published: Some(published),
    })
}

fn choose<'a>(saved: &'a [Saved], reference: Option<&str>) -> Result<&'a Saved, DockerError> {
    let names = || {
        let tags = saved.iter().filter_map(|one| one.repo_tags.as_ref());
        tags.flatten().cloned().collect()
    };
    let Some(wanted) = reference else {
        return match saved {
            [] => Err(DockerError::Empty),
            [one] => Ok(one),
            several => Err(DockerError::Several {
                count: several.len(),
                names: names(),
            }),
        };
    };
    let called = |one: &&Saved| {
        let mut tags = one.repo_tags.iter().flatten();
        tags.any(|tag| tag == wanted)
    };
    saved
        .iter()
        .find(called)
        .ok_or_else(|| DockerError::NoName {
            name: wanted.to_owned(),
            found: names(),
        })
}

/// The config's digest, which is its file's name as well (`HEX.json`, or `blobs/sha256/HEX`).
fn digest_of(name: &str, config: &[u8]) -> Result<Digest, DockerError> {
    let found = hex::encode(ContentDigest::of(config).bytes());
    let wrong = || DockerError::Other {
        name: name.to_owned(),
        found: found.clone(),
    };
    let file = name.rsplit('/').next().unwrap_or(name);
    let stem = file.strip_suffix(".json").unwrap_or(file);
    let is_digest = stem.len() == 64 && stem.bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_digest && stem != found {
        return Err(wrong());
    }
    let digest: Sha256Digest = found.parse().map_err(|_| wrong())?;
    Ok(digest.into())
}

fn layers(saved: &Saved, config: &ImageConfiguration) -> Result<Vec<LayerPlace>, DockerError> {
    let archives = document::archives(config, saved.layers.len())?;
    let places = saved.layers.iter().zip(archives);
    let places = places.map(|(file, archive)| LayerPlace {
        name: file.escape_default().to_string(),
        file: file.clone(),
        blob: Expected::default(),
        archive,
    });
    Ok(places.collect())
}
