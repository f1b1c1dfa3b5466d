// SPDX-License-Identifier: Apache-2.0
//! What a verifier needs to know of an image: its digest, its documents, and every file that a kernel could map
//! executable, with the digest that a measurement of it has. SPEC.md, "Reference", has the format.
//!
//! Owns the choice of files, and the document; what is read is checked once, so that who uses it need not. Refuses what
//! it would not write but for white space and the order of keys, naming what is wrong. Called by `cima reference`.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::{self, Read, Write};

use oci_spec::image::Digest;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::escape::{ascii_json, shown, unescaped};
use crate::path::components;
use crate::tree::{Key, key_of};
use crate::{ContentDigest, Format, Image, ImageDigest, Node, Tree, escaped};

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
    #[error("it is no reference of an image: {}", shown(.0))]
    Json(#[source] serde_json::Error),
    /// Too long for one.
    #[error("it has more than {MAX_DOCUMENT} bytes, which no reference has")]
    Long,
    /// Something that should be a digest.
    #[error("its {key} \"{}\" is no digest", shown(.text))]
    Digest {
        /// Where it stands.
        key: &'static str,
        /// What stands there.
        text: String,
    },
    /// An executable that cannot be.
    #[error("its executable \"{}\": {what}", shown(.path))]
    Executable {
        /// As it is written.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
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
    #[serde(deserialize_with = "Option::deserialize")]
    pub name: Option<String>,
    /// Digest of its manifest.
    #[serde(deserialize_with = "Option::deserialize")]
    pub manifest: Option<String>,
    /// Digest of its config.
    #[serde(deserialize_with = "Option::deserialize")]
    pub config: Option<String>,
    /// `os/architecture[/variant]`.
    #[serde(deserialize_with = "Option::deserialize")]
    pub platform: Option<String>,
    /// The config's labels.
    #[serde(deserialize_with = "each_key_once")]
    pub labels: BTreeMap<String, String>,
    /// The manifest's annotations.
    #[serde(deserialize_with = "each_key_once")]
    pub annotations: BTreeMap<String, String>,
    /// In the order of [`Tree::entries`].
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
    /// Why it is here, each once, in the order of [`Why`].
    #[serde(deserialize_with = "in_order")]
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

    /// Writes the document, in printable ASCII, with a newline at its end.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        writer.write_all(ascii_json(&json).as_bytes())?;
        writer.write_all(b"\n")
    }

    /// Reads one that was written as JSON.
    ///
    /// # Errors
    /// See [`ReferenceError`].
    pub fn read(reader: impl Read) -> Result<Self, ReferenceError> {
        let mut bytes = Vec::new();
        let mut reader = reader.take(MAX_DOCUMENT + 1);
        reader
            .read_to_end(&mut bytes)
            .map_err(ReferenceError::Read)?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(ReferenceError::Long);
        }
        // First, since other versions have other keys.
        let Version { version } = serde_json::from_slice(&bytes).map_err(ReferenceError::Json)?;
        if version != VERSION {
            return Err(ReferenceError::Version(version));
        }
        let reference: Self = serde_json::from_slice(&bytes).map_err(ReferenceError::Json)?;
        reference.check()?;
        Ok(reference)
    }

    /// Texts that stand for something do.
    fn check(&self) -> Result<(), ReferenceError> {
        let digests = [
            (
                "image",
                Some(&self.image),
                is_digest::<ImageDigest> as fn(&str) -> bool,
            ),
            ("manifest", self.manifest.as_ref(), is_digest::<Digest>),
            ("config", self.config.as_ref(), is_digest::<Digest>),
        ];
        for (key, text, is_digest) in digests {
            if let Some(text) = text.filter(|text| !is_digest(text)) {
                let text = text.clone();
                return Err(ReferenceError::Digest { key, text });
            }
        }
        let mut before: Option<Key> = None;
        for executable in &self.executables {
            let wrong = |what| ReferenceError::Executable {
                path: executable.path.clone(),
                what,
            };
            let key = executable.key().map_err(wrong)?;
            match before.as_ref().map(|before| before.cmp(&key)) {
                Some(Ordering::Equal) => return Err(wrong("it is there twice")),
                Some(Ordering::Greater) => return Err(wrong("it is not in order")),
                Some(Ordering::Less) | None => before = Some(key),
            }
        }
        Ok(())
    }
}

impl Executable {
    /// Its path's place in the order, or what is wrong with it.
    fn key(&self) -> Result<Key, &'static str> {
        if self.why.is_empty() {
            return Err("it says not why it is there");
        }
        if !is_digest::<ContentDigest>(&format!("sha256:{}", self.sha256)) {
            return Err("its sha256 is no digest");
        }
        let path = unescaped(&self.path).ok_or("its path is not written as bytes are")?;
        let path = path
            .strip_prefix(b"/")
            .ok_or("its path begins without \"/\"")?;
        let names = components(path).map_err(|_| "its path is no path inside an image")?;
        if names.is_empty() || names.join(&b'/') != path {
            return Err("its path is not names with a \"/\" before each");
        }
        Ok(key_of(&names))
    }
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "cima-reference")]
    version: u32,
}

fn is_digest<T: std::str::FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

/// A map of which no value hides another: parsers disagree about which one holds.
fn each_key_once<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Map;
    impl<'de> Visitor<'de> for Map {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = access.next_entry()? {
                match map.entry(key) {
                    Entry::Vacant(vacant) => _ = vacant.insert(value),
                    Entry::Occupied(occupied) => {
                        let key: &String = occupied.key();
                        return Err(A::Error::custom(format_args!("\"{key}\" is there twice")));
                    }
                }
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(Map)
}

fn in_order<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Why>, D::Error> {
    let list = Vec::<Why>::deserialize(deserializer)?;
    if list.is_sorted_by(|one, next| one < next) {
        return Ok(list.into_iter().collect());
    }
    Err(D::Error::custom("reasons are not each once and in order"))
}

fn executables(image: &Image) -> Vec<Executable> {
    let mut found: BTreeMap<&Key, BTreeSet<Why>> = BTreeMap::new();
    // Thousands of scripts name the same few: each is looked for once.
    let mut interpreters: HashMap<&[u8], Option<&Key>> = HashMap::new();
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
                let key = interpreters
                    .entry(interpreter)
                    .or_insert_with(|| resolved(&image.tree, interpreter));
                if let Some(key) = *key {
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
