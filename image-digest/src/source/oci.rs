// SPDX-License-Identifier: Apache-2.0
//! An OCI layout (OCI image specification, image-layout): which of its images is meant, and that one's
//! documents, each checked against what refers to it.

use std::collections::HashSet;

use oci_spec::image::{
    Descriptor, Digest, ImageConfiguration, ImageIndex, ImageManifest, MediaType,
};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Options;
use super::checked::Expected;
use super::document::{self, ConfigError, DocumentError, list};
use super::files::Files;
use super::platform::Platform;
use super::stack::{self, LayerPlace, StackError};
use crate::limits::Budget;
use crate::{Image, Published};

const INDEX: &str = "index.json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// An index may list indexes; nobody nests them more than once.
const MAX_DEPTH: usize = 4;

/// Why a layout gives no image.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
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
    #[error("it has several images, of which one has to be named: {}", list(.0))]
    Several(Vec<String>),
    /// None for this platform.
    #[error(
        "it has no image for {wanted}, only for {}; choose with --platform",
        list(found)
    )]
    NoPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        found: Vec<String>,
    },
    /// Nothing at all.
    #[error("it has no image")]
    Empty,
    /// What is meant is no image.
    #[error("\"{digest}\" is of the type \"{}\", which is no image", media_type.escape_default())]
    Type {
        /// Which.
        digest: String,
        /// Its type.
        media_type: String,
    },
    /// A document that can be read as two.
    #[error("\"{0}\" has what an image has and what an index has: who pulls it decides what it is")]
    Both(String),
    /// Indexes in indexes.
    #[error("its indexes are nested more than {MAX_DEPTH} deep")]
    Nested,
    /// An encrypted layer.
    #[error("layer {number} ({digest}) is encrypted")]
    Encrypted {
        /// From 1, the lowest.
        number: usize,
        /// Which.
        digest: String,
    },
    /// The config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer.
    #[error(transparent)]
    Stack(#[from] StackError),
}

/// Reads the image that `reference` names, or the only one.
pub(crate) fn read(
    files: &Files,
    reference: Option<&str>,
    budget: &Budget,
    options: &Options<'_>,
) -> Result<Image, OciError> {
    let index = document::bytes(files, INDEX, Expected::default())?;
    let index: ImageIndex = document::parse(INDEX, &index)?;
    let (named, descriptor) = choose(index.manifests(), reference, options)?;
    let (descriptor, manifest) = manifest(files, descriptor, options)?;
    let config_name = blob(manifest.config().digest());
    let config = document::bytes(files, &config_name, expected(manifest.config()))?;
    let config: ImageConfiguration = document::parse(&config_name, &config)?;
    let layers = layers(&manifest, &config)?;
    let (tree, formats) = stack::read(&layers, files, options.threads, budget, options.progress)?;
    let annotations = manifest.annotations().clone().unwrap_or_default();
    let published = Published {
        reference: named,
        manifest: Some(descriptor.digest().to_string()),
        annotations: annotations.into_iter().collect(),
        ..document::published(manifest.config().digest(), &config)
    };
    Ok(Image {
        tree,
        formats,
        published: Some(published),
    })
}

/// One of the images that `index.json` lists, with its name.
fn choose(
    listed: &[Descriptor],
    reference: Option<&str>,
    options: &Options<'_>,
) -> Result<(Option<String>, Descriptor), OciError> {
    let mut chosen: Vec<_> = listed.iter().filter(|one| may_be_image(one)).collect();
    if let Some(wanted) = reference {
        chosen.retain(|one| name(one) == Some(wanted) || one.digest().to_string() == wanted);
        if chosen.is_empty() {
            let found = listed.iter().filter_map(name).map(str::to_owned).collect();
            return Err(OciError::NoName {
                name: wanted.to_owned(),
                found,
            });
        }
    }
    // One image may be listed under two names, and one name may have the images of several platforms.
    let mut seen = HashSet::new();
    chosen.retain(|one| seen.insert(one.digest()));
    if chosen.len() > 1 && chosen.iter().all(|one| one.platform().is_some()) {
        chosen = vec![for_platform(&chosen, options)?];
    }
    match chosen[..] {
        [] => Err(OciError::Empty),
        [one] => Ok((name(one).map(str::to_owned), one.clone())),
        _ => {
            let names = chosen.iter().map(|one| match name(one) {
                Some(name) => name.to_owned(),
                None => one.digest().to_string(),
            });
            Err(OciError::Several(names.collect()))
        }
    }
}

/// The manifest that a descriptor means, through indexes.
fn manifest(
    files: &Files,
    mut descriptor: Descriptor,
    options: &Options<'_>,
) -> Result<(Descriptor, ImageManifest), OciError> {
    for _ in 0..MAX_DEPTH {
        let name = blob(descriptor.digest());
        if !may_be_image(&descriptor) {
            return Err(OciError::Type {
                digest: descriptor.digest().to_string(),
                media_type: descriptor.media_type().to_string(),
            });
        }
        let bytes = document::bytes(files, &name, expected(&descriptor))?;
        let shape: Shape = document::parse(&name, &bytes)?;
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(OciError::Both(descriptor.digest().to_string()));
        }
        if !is_index(descriptor.media_type()) {
            return Ok((descriptor, document::parse(&name, &bytes)?));
        }
        let index: ImageIndex = document::parse(&name, &bytes)?;
        let images: Vec<_> = index
            .manifests()
            .iter()
            .filter(|one| may_be_image(one))
            .collect();
        descriptor = for_platform(&images, options)?.clone();
    }
    Err(OciError::Nested)
}

/// What tells an index from an image, whatever its type says (CVE-2021-41190).
#[derive(Deserialize)]
struct Shape {
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
}

fn for_platform<'a>(
    images: &[&'a Descriptor],
    options: &Options<'_>,
) -> Result<&'a Descriptor, OciError> {
    let wanted = options.platform.clone().unwrap_or_default();
    let mut fitting = images.iter().filter(|one| {
        let platform = one.platform().as_ref();
        platform.is_some_and(|platform| wanted.takes(platform))
    });
    match (fitting.next(), fitting.next(), images) {
        (Some(one), None, _) => Ok(one),
        (Some(one), Some(other), _) => {
            let several = [one, other].map(|one| one.digest().to_string());
            Err(OciError::Several(several.to_vec()))
        }
        // An index of one that does not say for what.
        (None, _, [one]) if one.platform().is_none() => Ok(one),
        (None, ..) => {
            let found = images.iter().filter_map(|one| one.platform().as_ref());
            let found = found.map(|platform| {
                let variant = platform.variant().as_ref();
                let variant = variant
                    .map(|variant| format!("/{variant}"))
                    .unwrap_or_default();
                format!("{}/{}{variant}", platform.os(), platform.architecture())
            });
            Err(OciError::NoPlatform {
                wanted,
                found: found.collect(),
            })
        }
    }
}

fn layers(
    manifest: &ImageManifest,
    config: &ImageConfiguration,
) -> Result<Vec<LayerPlace>, OciError> {
    let archives = document::archives(config, manifest.layers().len())?;
    let layers = manifest.layers().iter().zip(archives).enumerate();
    let places = layers.map(|(index, (layer, archive))| {
        let digest = layer.digest();
        if layer.media_type().to_string().ends_with("+encrypted") {
            return Err(OciError::Encrypted {
                number: index + 1,
                digest: digest.to_string(),
            });
        }
        Ok(LayerPlace {
            name: digest.to_string(),
            file: blob(digest),
            blob: expected(layer),
            archive,
        })
    });
    places.collect()
}

fn may_be_image(descriptor: &Descriptor) -> bool {
    let media_type = descriptor.media_type();
    is_index(media_type)
        || *media_type == MediaType::ImageManifest
        || media_type.to_string() == DOCKER_MANIFEST
}

fn is_index(media_type: &MediaType) -> bool {
    *media_type == MediaType::ImageIndex || media_type.to_string() == DOCKER_LIST
}

fn name(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations().as_ref()?;
    annotations.get(REF_NAME).map(String::as_str)
}

/// A digest is of words and of hexadecimal digits, or `oci-spec` would have refused it.
fn blob(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}

fn expected(descriptor: &Descriptor) -> Expected {
    Expected {
        digest: Some(descriptor.digest().clone()),
        size: Some(descriptor.size()),
    }
}
