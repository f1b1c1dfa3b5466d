// SPDX-License-Identifier: Apache-2.0
//! The JSON documents of an image: read whole, but never more than a document has; and what an image's
//! config says, whoever stored it.

use std::collections::BTreeMap;
use std::io::{self, Read as _};

use oci_spec::image::{Digest, ImageConfiguration};
use serde::de::DeserializeOwned;

use super::checked::{Checked, CheckedError, Expected};
use super::files::{Files, FilesError};
use crate::Published;
use crate::escape::shown;

/// The image specification asks registries for 4 MiB (OCI distribution specification, pushing manifests).
const MAX_DOCUMENT: u64 = 4 << 20;

/// Why a document says nothing.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not there.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// It cannot be read.
    #[error("\"{name}\" cannot be read: {source}")]
    Read {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is another.
    #[error("\"{name}\" is not what refers to it: {source}")]
    Checked {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: CheckedError,
    },
    /// Too long for one.
    #[error("\"{0}\" is longer than {MAX_DOCUMENT} bytes, which no document of an image is")]
    Long(String),
    /// No JSON, or not that of such a document.
    #[error("\"{name}\" is not what it should be: {}", shown(source))]
    Json {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// The bytes of a document.
pub(crate) fn bytes(
    files: &Files,
    name: &str,
    expected: Expected,
) -> Result<Vec<u8>, DocumentError> {
    let opened = files.open(name)?;
    let mut reader = Checked::new(opened.reader, expected);
    let mut bytes = Vec::new();
    reader
        .by_ref()
        .take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| DocumentError::Read {
            name: name.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(DocumentError::Long(name.to_owned()));
    }
    reader.finish().map_err(|source| DocumentError::Checked {
        name: name.to_owned(),
        source,
    })?;
    Ok(bytes)
}

/// What a document says.
pub(crate) fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Json {
        name: name.to_owned(),
        source,
    })
}

/// What an image's config says of it, but for its names.
pub(crate) fn published(digest: &Digest, config: &ImageConfiguration) -> Published {
    let mut platform = format!("{}/{}", config.os(), config.architecture());
    if let Some(variant) = config.variant() {
        platform = format!("{platform}/{variant}");
    }
    let labels = config.labels_of_config().cloned().unwrap_or_default();
    Published {
        reference: None,
        manifest: None,
        config: digest.to_string(),
        platform,
        labels: labels.into_iter().collect(),
        annotations: BTreeMap::new(),
    }
}

/// Why a config does not go with an image's layers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It speaks of other layers.
    #[error("the image has {layers} layers and its config {diff_ids}")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the config.
        diff_ids: usize,
    },
    /// It has what is no digest.
    #[error("its config lists \"{0}\", which is no digest of a layer")]
    DiffId(String),
}

/// What the archives of an image's layers should be, of which its manifest has so many.
pub(crate) fn archives(
    config: &ImageConfiguration,
    layers: usize,
) -> Result<Vec<Expected>, ConfigError> {
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != layers {
        let diff_ids = diff_ids.len();
        return Err(ConfigError::Layers { layers, diff_ids });
    }
    let expected = diff_ids.iter().map(|text| {
        let wrong = |_| ConfigError::DiffId(text.escape_default().to_string());
        Ok(Expected {
            digest: Some(text.parse().map_err(wrong)?),
            size: None,
        })
    });
    expected.collect()
}

/// Names for an error.
pub(crate) fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none that has a name".into();
    }
    let names = names.iter().map(|name| name.escape_default().to_string());
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use oci_spec::image::ImageIndex;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_parser_quotes_of_a_document_is_printable() {
        let odd = "\u{1b}[2J\u{9b}";
        for (key, value) in [
            ("digest", json!(format!("{odd}:00"))),
            ("size", json!(odd)),
            ("platform", json!({"os": odd, "architecture": 1})),
        ] {
            let mut entry = json!({"mediaType": "x", "digest": "sha256:00", "size": 1});
            entry[key] = value;
            let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
            let error = parse::<ImageIndex>("index.json", index.as_bytes()).err();
            let error = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with("\"index.json\" is not what"), "{error}");
            assert!(
                error.bytes().all(|byte| matches!(byte, b' '..=b'~')),
                "{error:?}"
            );
        }
    }
}
