// SPDX-License-Identifier: Apache-2.0
//! The documents of a store, what of them is needed, and the bounds up to which they are read.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::StorageError;

/// Of one document.
pub(super) const LARGEST: u64 = 64 << 20;
/// Of an id.
pub(super) const DIGITS: usize = 64;

/// An id that can be a file's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Id(pub(super) String);

/// One of `images.json` (containers/storage, `images.go`).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) id: Id,
    pub(super) digest: Option<String>,
    #[serde(default)]
    pub(super) names: Option<Vec<String>>,
    /// Its top layer; an image without files has none.
    pub(super) layer: Option<String>,
    #[serde(default, rename = "mapped-layers")]
    pub(super) mapped_layers: Option<Vec<Id>>,
    #[serde(default, rename = "big-data-digests")]
    pub(super) digests: Option<BTreeMap<String, String>>,
}

/// One of `layers.json` (`layers.go`).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) id: Id,
    pub(super) parent: Option<String>,
    #[serde(default, rename = "uidmap")]
    pub(super) users: Option<Vec<IdRange>>,
    #[serde(default, rename = "gidmap")]
    pub(super) groups: Option<Vec<IdRange>>,
    #[serde(default)]
    pub(super) flags: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Ids of a container and of the host.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct IdRange {
    pub(super) container_id: u32,
    pub(super) host_id: u32,
}

/// One of `containers.json` (`containers.go`).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) id: Id,
    #[serde(default)]
    pub(super) names: Option<Vec<String>>,
    pub(super) image: Option<String>,
    pub(super) layer: Id,
}

impl ContainerRecord {
    /// Its first name: engines give one.
    pub(super) fn name(&self) -> Option<String> {
        self.names.as_ref()?.first().cloned()
    }
}

impl Id {
    pub(super) fn checked(text: &str, file: &Path) -> Result<Self, StorageError> {
        Self::try_from(text.to_owned()).map_err(|reason| StorageError::Document {
            path: file.to_owned(),
            reason,
        })
    }
}

impl TryFrom<String> for Id {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.len() == DIGITS && is_id_prefix(&text) {
            return Ok(Self(text));
        }
        let shown: String = text.escape_default().take(100).collect();
        Err(format!("\"{shown}\" is no id of {DIGITS} digits"))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Hexadecimal digits in lower case, at least one.
pub(super) fn is_id_prefix(text: &str) -> bool {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    !text.is_empty() && text.len() <= DIGITS && text.bytes().all(digit)
}

/// The name of a file with such data (`makeBigDataBaseName` of containers/storage): plain if it is all lower case letters,
/// digits and dots, else base64.
pub(super) fn big_data_file(name: &str) -> String {
    let plain = |byte: u8| matches!(byte, b'.' | b'0'..=b'9' | b'a'..=b'z');
    if name.bytes().all(plain) {
        return name.to_owned();
    }
    format!("={}", BASE64.encode(name))
}

pub(super) fn expect_digest(
    path: &Path,
    found: &str,
    said: [Option<&String>; 2],
) -> Result<(), StorageError> {
    match said
        .into_iter()
        .flatten()
        .find(|said| !said.is_empty() && *said != found)
    {
        None => Ok(()),
        Some(expected) => Err(StorageError::Digest {
            path: path.to_owned(),
            found: found.to_owned(),
            expected: expected.escape_default().take(100).collect(),
        }),
    }
}

/// A list that need not be there.
pub(super) fn list<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, StorageError> {
    match bounded(path)? {
        // The store writes "null" for a list without anything in it.
        Some(bytes) if !bytes.is_empty() => {
            document::<Option<Vec<T>>>(path, &bytes).map(Option::unwrap_or_default)
        }
        _ => Ok(Vec::new()),
    }
}

pub(super) fn document<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, StorageError> {
    serde_json::from_slice(bytes).map_err(|error| StorageError::Document {
        path: path.to_owned(),
        reason: error.to_string().escape_default().take(300).collect(),
    })
}

pub(super) fn present(path: &Path) -> Result<Vec<u8>, StorageError> {
    bounded(path)?.ok_or_else(|| StorageError::Io {
        path: path.to_owned(),
        reason: io::ErrorKind::NotFound.into(),
    })
}

/// All of a file, if it is there.
pub(super) fn bounded(path: &Path) -> Result<Option<Vec<u8>>, StorageError> {
    let failed = |reason| StorageError::Io {
        path: path.to_owned(),
        reason,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(reason) => return Err(failed(reason)),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(StorageError::TooLarge(path.to_owned()));
    }
    Ok(Some(bytes))
}

/// What the host calls the container's 0.
pub(super) fn root_of(map: Option<&[IdRange]>) -> u32 {
    let ranges = map.unwrap_or_default();
    let first = ranges.iter().find(|range| range.container_id == 0);
    first.map_or(0, |range| range.host_id)
}
