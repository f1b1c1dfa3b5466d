// SPDX-License-Identifier: Apache-2.0
//! The vectors of SPEC.md: as entries, and as the layers of images in every form that has layers.

mod common;

use common::oci::{self, Packing};
use common::vectors::{RANDOM, Vector, WRITTEN, raw, vectors};
use common::{image, tar};
use image_digest::{Layer, Tree};

fn holds(json: &str) {
    for vector in vectors(json) {
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
    holds(WRITTEN);
}

#[test]
fn every_random_history_of_layers_holds() {
    holds(RANDOM);
}

/// The layers as archives; `None`: something in them is in no archive.
fn archives(vector: &Vector) -> Option<Vec<Vec<u8>>> {
    let layers = vector.layers.iter().map(|entries| {
        let members: Option<Vec<_>> = entries.iter().map(common::vectors::Entry::member).collect();
        Some(tar::archive(&members?))
    });
    layers.collect()
}

fn holds_as_an_image(json: &str, at_least: usize) {
    let scratch = tempfile::tempdir().expect("a directory");
    let mut tried = 0;
    for (number, vector) in vectors(json).iter().enumerate() {
        let (Some(archives), Some(digest)) = (archives(vector), vector.digests.last()) else {
            continue;
        };
        let packing = [Packing::Gzip, Packing::Plain, Packing::Zstd];
        let layout = oci::layout(&archives, &packing[number % 3..]);
        let path = scratch.path().join(number.to_string());
        oci::write_directory(&layout, &path);
        let shown = path.display();
        oci::write_archive(&layout, &path.with_extension("oci"), packing[number % 3]);
        let docker = oci::docker(&archives);
        oci::write_archive(
            &docker,
            &path.with_extension("docker"),
            packing[(number + 1) % 3],
        );
        for source in [
            format!("oci:{shown}"),
            format!("oci-archive:{shown}.oci"),
            format!("docker-archive:{shown}.docker:test:1"),
        ] {
            let image = image(&source).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
            let name = &vector.name;
            assert_eq!(image.tree.digest().to_string(), *digest, "{name}, {source}");
        }
        tried += 1;
    }
    assert!(tried >= at_least, "only {tried} vectors can be archives");
}

#[test]
fn every_written_vector_holds_as_layout_and_archives() {
    holds_as_an_image(WRITTEN, 35);
}

#[test]
fn every_random_history_holds_as_layout_and_archives() {
    holds_as_an_image(RANDOM, 100);
}
