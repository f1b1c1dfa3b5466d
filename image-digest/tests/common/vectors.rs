// SPDX-License-Identifier: Apache-2.0
//! The vectors of SPEC.md, which `vectors/make.py` writes without this crate's code.

use image_digest::{ContentDigest, Device, Meta, Node};
use serde::Deserialize;

use super::tar::{self, Member};

pub(crate) const WRITTEN: &str = include_str!("../vectors/vectors.json");
pub(crate) const RANDOM: &str = include_str!("../vectors/random.json");

#[derive(Deserialize)]
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) layers: Vec<Vec<Entry>>,
    pub(crate) digests: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Entry {
    pub(crate) path: String,
    pub(crate) r#type: String,
    #[serde(default)]
    pub(crate) mode: u32,
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
    #[serde(default)]
    pub(crate) content: String,
    #[serde(default)]
    pub(crate) target: String,
    #[serde(default)]
    pub(crate) major: u32,
    #[serde(default)]
    pub(crate) minor: u32,
    pub(crate) capability: Option<String>,
}

pub(crate) fn vectors(json: &str) -> Vec<Vector> {
    let vectors: Vec<Vector> = serde_json::from_str(json).expect("vectors");
    assert!(vectors.len() > 40);
    vectors
}

/// A string whose code points are bytes.
pub(crate) fn raw(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(c).expect("a byte"))
        .collect()
}

impl Entry {
    pub(crate) fn node(&self) -> Node {
        let mut meta = Meta::new(self.mode, self.uid, self.gid);
        if let Some(value) = &self.capability {
            meta = meta.with_capability(hex::decode(value).expect("hex"));
        }
        let device = Device {
            major: self.major,
            minor: self.minor,
        };
        let content = raw(&self.content);
        match self.r#type.as_str() {
            "d" => Node::Directory(meta),
            "f" => Node::File {
                meta,
                size: content.len() as u64,
                content: ContentDigest::of(&content),
            },
            "l" => Node::Symlink {
                uid: self.uid,
                gid: self.gid,
                target: raw(&self.target),
            },
            "c" => Node::CharDevice(meta, device),
            "b" => Node::BlockDevice(meta, device),
            "p" => Node::Fifo(meta),
            "s" => Node::Socket(meta),
            other => panic!("{other} is no type"),
        }
    }

    /// The member of an archive that says the same; none has sockets.
    pub(crate) fn member(&self) -> Option<Member> {
        let kind = match self.r#type.as_str() {
            "d" => b'5',
            "f" => b'0',
            "hardlink" => b'1',
            "l" => b'2',
            "c" => b'3',
            "b" => b'4',
            "p" => b'6',
            _ => return None,
        };
        let mut member = Member {
            mode: self.mode,
            uid: self.uid.into(),
            gid: self.gid.into(),
            content: raw(&self.content),
            target: raw(&self.target),
            device: (self.major, self.minor),
            ..tar::member(kind, raw(&self.path))
        };
        if let Some(value) = &self.capability {
            let value = hex::decode(value).expect("hex");
            member = member.attribute("SCHILY.xattr.security.capability", value);
        }
        Some(member)
    }
}
