// SPDX-License-Identifier: Apache-2.0
//! Every entry of an image as a line of JSON, and the image again from those lines. SPEC.md, "Manifest", has
//! every byte; what is read is checked to be what would be written, so that an image has one manifest.
//!
//! Owns the format and streams it. Opens no file, and knows nothing of what is in files: see [`crate::reference`].

use std::io::{self, BufRead, Read as _, Write};

use serde::{Deserialize, Serialize};

use crate::escape::shown;
use crate::limits::Budget;
use crate::{
    ContentDigest, Device, ImageDigest, LimitError, Limits, Meta, Node, Tree, TreeError, escaped,
    unescaped,
};

const VERSION: u32 = 1;
/// A path and a target of 4,095 bytes, each five in JSON (`\\xNN`), an attribute of 64 KiB in hexadecimal, and
/// 300 bytes of keys and numbers: 172,322. The next power of two.
const MAX_LINE: u64 = 256 << 10;

/// Why lines are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// They cannot be read.
    #[error("line {line} cannot be read: {source}")]
    Read {
        /// From 1.
        line: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line that is too long for any entry.
    #[error("line {0} is longer than any entry's")]
    Long(u64),
    /// The last line has no end.
    #[error("line {0} is cut")]
    Cut(u64),
    /// No JSON, or not that of an entry.
    #[error("line {line} is no entry: {}", shown(source))]
    Json {
        /// From 1.
        line: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The first line is not that of a manifest.
    #[error("line 1 is not the first line of a manifest of version {VERSION}")]
    Header,
    /// An entry that says too much, too little, or what cannot be.
    #[error("line {line}, \"{path}\": {what}")]
    Entry {
        /// From 1.
        line: u64,
        /// As it is written.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Entries that are no tree.
    #[error("line {line}: {source}")]
    Tree {
        /// From 1.
        line: u64,
        /// What is wrong.
        #[source]
        source: TreeError,
    },
    /// The entries are not those of the image.
    #[error("its entries are those of the image {found}, and its first line says {said}")]
    Digest {
        /// The first line's.
        said: ImageDigest,
        /// What the entries come to.
        found: ImageDigest,
    },
    /// It asks for too much.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "cima-manifest")]
    version: u32,
    image: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Directory,
    File,
    Symlink,
    Char,
    Block,
    Fifo,
    Socket,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    path: String,
    r#type: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    minor: Option<u32>,
}

/// Writes the manifest of an image.
///
/// # Errors
/// Those of the writer.
pub fn write(tree: &Tree, writer: &mut impl Write) -> io::Result<()> {
    let header = Header {
        version: VERSION,
        image: tree.digest().to_string(),
    };
    serde_json::to_writer(&mut *writer, &header)?;
    writer.write_all(b"\n")?;
    for (path, node) in tree.entries() {
        serde_json::to_writer(&mut *writer, &Line::of(&path, node))?;
        writer.write_all(b"\n")?;
    }
    Ok(())
}

/// Reads the manifest of an image, which is then what its entries come to.
///
/// # Errors
/// See [`ManifestError`].
pub fn read(mut reader: impl BufRead, limits: Limits) -> Result<Tree, ManifestError> {
    let budget = Budget::new(limits);
    let mut text = Vec::new();
    if !next(&mut reader, &mut text, 1)? {
        return Err(ManifestError::Header);
    }
    let header: Header = serde_json::from_slice(&text).map_err(|_| ManifestError::Header)?;
    let said: ImageDigest = header.image.parse().map_err(|_| ManifestError::Header)?;
    if header.version != VERSION || !is_written(&header, &text) {
        return Err(ManifestError::Header);
    }
    let mut tree = Tree::default();
    let mut line = 2;
    while next(&mut reader, &mut text, line)? {
        let entry: Line =
            serde_json::from_slice(&text).map_err(|source| ManifestError::Json { line, source })?;
        let wrong = |what| ManifestError::Entry {
            line,
            path: shown(&entry.path),
            what,
        };
        let path =
            unescaped(&entry.path).ok_or_else(|| wrong("its path is not written as bytes are"))?;
        if path
            .split(|byte| *byte == b'/')
            .any(|name| matches!(name, b"" | b"."))
        {
            return Err(wrong("its path is not names with a \"/\" between them"));
        }
        let node = entry.node().map_err(wrong)?;
        if !is_written(&entry, &text) {
            return Err(wrong("it is spelled in another way than a manifest is"));
        }
        budget.spend_entries(1, path.len() as u64)?;
        if tree.is_before_last(&path) {
            return Err(wrong("it is not in order"));
        }
        tree.insert(&path, node)
            .map_err(|source| ManifestError::Tree { line, source })?;
        line += 1;
    }
    let found = tree.digest();
    if found != said {
        return Err(ManifestError::Digest { said, found });
    }
    Ok(tree)
}

/// Whether a line is as it would be written: JSON has many spellings of one value.
fn is_written(value: &impl Serialize, line: &[u8]) -> bool {
    serde_json::to_vec(value).is_ok_and(|written| written == line)
}

/// Reads a line without its end; false: there is none.
fn next(reader: &mut impl BufRead, text: &mut Vec<u8>, line: u64) -> Result<bool, ManifestError> {
    text.clear();
    let read = reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', text);
    let read = read.map_err(|source| ManifestError::Read { line, source })?;
    match text.pop() {
        None => Ok(false),
        Some(b'\n') => Ok(true),
        Some(_) if read as u64 > MAX_LINE => Err(ManifestError::Long(line)),
        Some(_) => Err(ManifestError::Cut(line)),
    }
}

impl Line {
    fn of(path: &[u8], node: &Node) -> Self {
        let (kind, uid, gid, meta) = match node {
            Node::Directory(meta) => (Kind::Directory, meta.uid, meta.gid, Some(meta)),
            Node::File { meta, .. } => (Kind::File, meta.uid, meta.gid, Some(meta)),
            Node::Symlink { uid, gid, .. } => (Kind::Symlink, *uid, *gid, None),
            Node::CharDevice(meta, _) => (Kind::Char, meta.uid, meta.gid, Some(meta)),
            Node::BlockDevice(meta, _) => (Kind::Block, meta.uid, meta.gid, Some(meta)),
            Node::Fifo(meta) => (Kind::Fifo, meta.uid, meta.gid, Some(meta)),
            Node::Socket(meta) => (Kind::Socket, meta.uid, meta.gid, Some(meta)),
        };
        let mut line = Self {
            path: escaped(path),
            r#type: kind,
            mode: meta.map(|meta| octal(meta.mode())),
            uid,
            gid,
            capability: meta.and_then(|meta| meta.capability.as_ref().map(hex::encode)),
            size: None,
            sha256: None,
            target: None,
            major: None,
            minor: None,
        };
        match node {
            Node::File { size, content, .. } => {
                line.size = Some(*size);
                line.sha256 = Some(hex::encode(content.bytes()));
            }
            Node::Symlink { target, .. } => line.target = Some(escaped(target)),
            Node::CharDevice(_, device) | Node::BlockDevice(_, device) => {
                line.major = Some(device.major);
                line.minor = Some(device.minor);
            }
            Node::Directory(_) | Node::Fifo(_) | Node::Socket(_) => {}
        }
        line
    }

    /// The node that it says, or what is wrong with it.
    fn node(&self) -> Result<Node, &'static str> {
        let content = self.size.zip(self.sha256.as_deref());
        let device = self.major.zip(self.minor);
        let is_device = matches!(self.r#type, Kind::Char | Kind::Block);
        if self.size.is_some() != (self.r#type == Kind::File)
            || self.sha256.is_some() != (self.r#type == Kind::File)
            || self.target.is_some() != (self.r#type == Kind::Symlink)
            || self.major.is_some() != is_device
            || self.minor.is_some() != is_device
        {
            return Err("it has not what its type has");
        }
        if let Some(target) = &self.target {
            if self.mode.is_some() || self.capability.is_some() {
                return Err("it has not what its type has");
            }
            return Ok(Node::Symlink {
                uid: self.uid,
                gid: self.gid,
                target: unescaped(target).ok_or("its target is not written as bytes are")?,
            });
        }
        let meta = self.meta()?;
        Ok(match (self.r#type, content, device) {
            (Kind::File, Some((size, sha256)), _) => {
                let digest = format!("sha256:{sha256}").parse::<ContentDigest>();
                let content = digest.map_err(|_| "its sha256 is no digest")?;
                Node::File {
                    meta,
                    size,
                    content,
                }
            }
            (Kind::Char, _, Some((major, minor))) => {
                Node::CharDevice(meta, Device { major, minor })
            }
            (Kind::Block, _, Some((major, minor))) => {
                Node::BlockDevice(meta, Device { major, minor })
            }
            (Kind::Fifo, ..) => Node::Fifo(meta),
            (Kind::Socket, ..) => Node::Socket(meta),
            // What the others have was seen to be there.
            _ => Node::Directory(meta),
        })
    }

    fn meta(&self) -> Result<Meta, &'static str> {
        let text = self.mode.as_deref().ok_or("it has no mode")?;
        let mode = u32::from_str_radix(text, 8).map_err(|_| "its mode is no octal number")?;
        if octal(mode) != text || mode > 0o7777 {
            return Err("its mode is not four octal digits");
        }
        let meta = Meta::new(mode, self.uid, self.gid);
        let Some(text) = &self.capability else {
            return Ok(meta);
        };
        let value = hex::decode(text)
            .ok()
            .filter(|value| hex::encode(value) == *text);
        Ok(meta.with_capability(value.ok_or("its capability is not hexadecimal")?))
    }
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}
