// SPDX-License-Identifier: Apache-2.0
//! What a verifier needs to know of an image: its digest, its documents, and every file that a kernel could map
//! executable, with the digest that a measurement of it has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::tree::{Key, key_of};
use crate::{Format, Image, Node, Tree, escaped};

/// The annotation of an image's manifest that has its digest.
pub const ANNOTATION: &str = "io.cima.image.digest";
const VERSION: u32 = 1;
/// Links that a kernel follows in one path (`MAXSYMLINKS`, `include/linux/namei.h`).
const MAX_LINKS: usize = 40;
/// A reference of four million files is in it.
const MAX_DOCUMENT: u64 = 1 << 30;

/// Why a document is no reference.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
    /// It is none.
    #[error("it is no reference of an image: {0}")]
    Json(#[source] serde_json::Error),
    /// Of another version.
    #[error("it is a reference of version {0}, and only {VERSION} is known here")]
    Version(u32),
}

/// The reference values of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Of this format: 1.
    #[serde(rename = "cima-reference")]
    pub version: u32,
    /// The image's digest.
    pub image: String,
    /// The name under which it was found.
    pub name: Option<String>,
    /// Digest of its manifest.
    pub manifest: Option<String>,
    /// Digest of its config.
    pub config: Option<String>,
    /// `os/architecture[/variant]`.
    pub platform: Option<String>,
    /// The config's labels.
    pub labels: BTreeMap<String, String>,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Sorted by path.
    pub executables: Vec<Executable>,
}

/// A file that can be mapped executable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Executable {
    /// With a `/` in front, as [`escaped`] writes it.
    pub path: String,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
    /// Why it is here, each once.
    pub why: BTreeSet<Why>,
}

/// Why a file can be mapped executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// It is an ELF object.
    Elf,
    /// Somebody may execute it.
    Mode,
    /// A script names it behind `#!`.
    Interpreter,
}

impl Reference {
    /// The reference of an image.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        let published = image.published.clone();
        let (labels, annotations) = match &published {
            Some(published) => (published.labels.clone(), published.annotations.clone()),
            None => Default::default(),
        };
        let name = published.as_ref().and_then(|one| one.reference.clone());
        let manifest = published.as_ref().and_then(|one| one.manifest.clone());
        Self {
            version: VERSION,
            image: image.tree.digest().to_string(),
            name,
            manifest,
            config: published.as_ref().map(|one| one.config.clone()),
            platform: published.map(|one| one.platform),
            labels,
            annotations,
            executables: executables(image),
        }
    }

    /// Reads one that was written as JSON.
    ///
    /// # Errors
    /// See [`ReferenceError`].
    pub fn read(reader: impl Read) -> Result<Self, ReferenceError> {
        let mut bytes = Vec::new();
        let mut reader = reader.take(MAX_DOCUMENT);
        reader
            .read_to_end(&mut bytes)
            .map_err(ReferenceError::Read)?;
        let reference: Self = serde_json::from_slice(&bytes).map_err(ReferenceError::Json)?;
        if reference.version != VERSION {
            return Err(ReferenceError::Version(reference.version));
        }
        Ok(reference)
    }
}

fn executables(image: &Image) -> Vec<Executable> {
    let mut found: BTreeMap<&Key, BTreeSet<Why>> = BTreeMap::new();
    for (key, node) in image.tree.keyed() {
        let Node::File { meta, content, .. } = node else {
            continue;
        };
        if meta.mode() & 0o111 != 0 {
            found.entry(key).or_default().insert(Why::Mode);
        }
        match image.formats.get(content) {
            Some(Format::Elf) => _ = found.entry(key).or_default().insert(Why::Elf),
            Some(Format::Script(interpreter)) => {
                if let Some(key) = resolved(&image.tree, interpreter) {
                    found.entry(key).or_default().insert(Why::Interpreter);
                }
            }
            None => {}
        }
    }
    let executable = |(key, why): (&Key, BTreeSet<Why>)| {
        let Some(Node::File { content, .. }) = image.tree.at(key) else {
            return None;
        };
        let slash = |byte: &u8| if *byte == 0 { b'/' } else { *byte };
        let path: Vec<u8> = std::iter::once(b'/').chain(key.iter().map(slash)).collect();
        Some(Executable {
            path: escaped(&path),
            sha256: hex::encode(content.bytes()),
            why,
        })
    };
    found.into_iter().filter_map(executable).collect()
}

/// The file that an absolute path leads to, as for a process with the image as its root: a link begins at
/// the root again if it is absolute, and nothing is above the root.
fn resolved<'a>(tree: &'a Tree, path: &[u8]) -> Option<&'a Key> {
    if !path.starts_with(b"/") {
        return None;
    }
    let mut left: Vec<Vec<u8>> = names(path).rev().map(<[u8]>::to_vec).collect();
    let mut here: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(name) = left.pop() {
        match &name[..] {
            b".." => _ = here.pop(),
            _ => here.push(name),
        }
        let at: Vec<&[u8]> = here.iter().map(Vec::as_slice).collect();
        let Some((key, node)) = tree.at_with_key(&key_of(&at)) else {
            // Nothing is there, but for the root itself.
            if here.is_empty() {
                continue;
            }
            return None;
        };
        match node {
            Node::Symlink { target, .. } => {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                here.pop();
                if target.starts_with(b"/") {
                    here.clear();
                }
                left.extend(names(target).rev().map(<[u8]>::to_vec));
            }
            Node::File { .. } => return left.is_empty().then_some(key),
            Node::Directory(_) => {}
            _ => return None,
        }
    }
    None
}

/// The names in a path, `..` among them.
fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let names = path.split(|byte| *byte == b'/');
    names.filter(|name| !matches!(*name, b"" | b"."))
}
