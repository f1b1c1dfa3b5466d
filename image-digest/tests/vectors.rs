// SPDX-License-Identifier: Apache-2.0
//! The vectors of SPEC.md, which `vectors/make.py` writes without this crate's code.

use image_digest::{ContentDigest, Device, Layer, Meta, Node, Tree};
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    name: String,
    layers: Vec<Vec<Entry>>,
    digests: Vec<String>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    r#type: String,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    content: String,
    #[serde(default)]
    target: String,
    #[serde(default)]
    major: u32,
    #[serde(default)]
    minor: u32,
    capability: Option<String>,
}

/// A string whose code points are bytes.
fn raw(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(c).expect("a byte"))
        .collect()
}

impl Entry {
    fn node(&self) -> Node {
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
}

fn holds(vectors: &str) {
    let vectors: Vec<Vector> = serde_json::from_str(vectors).expect("vectors");
    assert!(vectors.len() > 40);
    for vector in vectors {
        let mut image = Tree::default();
        for (number, (entries, digest)) in vector.layers.iter().zip(&vector.digests).enumerate() {
            let mut layer = Layer::default();
            for entry in entries {
                let path = raw(&entry.path);
                if entry.r#type == "hardlink" {
                    let target = raw(&entry.target);
                    layer.add_link(&path, &target).expect("a link");
                } else {
                    layer.add(&path, entry.node()).expect("an entry");
                }
            }
            layer.lay_over(&mut image).expect("links have targets");
            let name = &vector.name;
            assert_eq!(
                image.digest().to_string(),
                *digest,
                "{name}, layer {number}"
            );
            // The same from what is seen, as a walk of the unpacked image gives it.
            let mut walked = Tree::default();
            for (path, node) in image.entries() {
                walked.insert(&path, node.clone()).expect("a walk");
            }
            assert_eq!(walked.digest(), image.digest(), "{name}, layer {number}");
        }
    }
}

#[test]
fn every_written_vector_holds() {
    holds(include_str!("vectors/vectors.json"));
}

#[test]
fn every_random_history_of_layers_holds() {
    holds(include_str!("vectors/random.json"));
}
