// SPDX-License-Identifier: Apache-2.0
//! Which image of a place is meant, and what is known of it beside its files.

mod common;

use std::num::NonZero;
use std::path::Path;

use common::oci::{self, Files, Packing};
use common::tar::{archive, file};
use image_digest::source::{Options, read};
use image_digest::{Format, Image, Limits, Progress};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn image(source: &str, platform: &str) -> Result<Image, String> {
    let options = Options {
        limits: Limits::default(),
        platform: Some(platform.parse().expect("a platform")),
        threads: NonZero::new(2).expect("two"),
        cache: None,
        progress: &Progress::default(),
    };
    let source = source.parse().expect("a source");
    read(&source, &options).map_err(|error| error.to_string())
}

/// An image whose one file has this content, and its manifest's descriptor.
fn add(files: &mut Files, content: &str) -> Value {
    oci::add_image(
        files,
        &[archive(&[file("which", content)])],
        &[Packing::Gzip],
    )
}

fn with(mut descriptor: Value, key: &str, value: Value) -> Value {
    descriptor[key] = value;
    descriptor
}

fn named(descriptor: Value, name: &str) -> Value {
    let name = json!({"org.opencontainers.image.ref.name": name});
    with(descriptor, "annotations", name)
}

fn for_platform(descriptor: Value, architecture: &str, variant: Option<&str>) -> Value {
    let mut platform = json!({"os": "linux", "architecture": architecture});
    if let Some(variant) = variant {
        platform["variant"] = variant.into();
    }
    with(descriptor, "platform", platform)
}

/// The content of the one file of the image that is chosen.
fn chosen(root: &Path, reference: &str, platform: &str) -> Result<String, String> {
    let image = image(&format!("oci:{}{reference}", root.display()), platform)?;
    let digest = image.tree.digest();
    for content in ["one", "two", "arm", "arm v7"] {
        let mut files = Files::new();
        add(&mut files, content);
        let scratch = tempfile::tempdir().expect("a directory");
        let layout = oci::layout(&[archive(&[file("which", content)])], &[Packing::Plain]);
        oci::write_directory(&layout, scratch.path());
        let alone = self::image(&format!("oci:{}", scratch.path().display()), platform)?;
        if alone.tree.digest() == digest {
            return Ok(content.to_owned());
        }
    }
    panic!("none of the images");
}

#[test]
fn a_name_or_digest_chooses_among_several() {
    let mut files = Files::new();
    let one = named(add(&mut files, "one"), "first");
    let two = named(add(&mut files, "two"), "second:tag");
    let digest = two["digest"].as_str().expect("text").to_owned();
    oci::add_index(&mut files, &[one.clone(), two, named(one, "alias")]);
    let scratch = tempfile::tempdir().expect("a directory");
    oci::write_directory(&files, scratch.path());
    let chosen = |reference: &str| chosen(scratch.path(), reference, "linux/amd64");
    assert_eq!(chosen(":first"), Ok("one".into()));
    assert_eq!(chosen(":alias"), Ok("one".into()));
    assert_eq!(chosen(":second:tag"), Ok("two".into()));
    assert_eq!(chosen(&format!(":{digest}")), Ok("two".into()));
    let several = chosen("").expect_err("several");
    assert!(
        several.contains("of which one has to be named: first, second:tag"),
        "{several}"
    );
    let none = chosen(":third").expect_err("none");
    assert!(none.contains("it has first, second:tag, alias"), "{none}");
}

#[test]
fn an_index_has_an_image_for_each_platform() {
    let mut files = Files::new();
    let images = [
        for_platform(add(&mut files, "one"), "amd64", None),
        for_platform(add(&mut files, "arm"), "arm64", Some("v8")),
        for_platform(add(&mut files, "arm v7"), "arm", Some("v7")),
        // What builders put beside an image to say how it was built.
        with(
            add(&mut files, "two"),
            "platform",
            json!({"os": "unknown", "architecture": "unknown"}),
        ),
    ];
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
    let index = serde_json::to_vec(&index).expect("JSON");
    let index = named(oci::blob(&mut files, INDEX, index), "v1");
    oci::add_index(&mut files, &[index]);
    let scratch = tempfile::tempdir().expect("a directory");
    oci::write_directory(&files, scratch.path());
    let chosen = |platform: &str| chosen(scratch.path(), ":v1", platform);
    assert_eq!(chosen("linux/amd64"), Ok("one".into()));
    assert_eq!(chosen("linux/arm64"), Ok("arm".into()));
    assert_eq!(chosen("linux/arm64/v8"), Ok("arm".into()));
    assert_eq!(chosen("linux/arm/v7"), Ok("arm v7".into()));
    let none = chosen("linux/arm/v6").expect_err("none");
    let sentence = "it has no image for linux/arm/v6, only for linux/amd64, linux/arm64/v8, linux/arm/v7, unknown/unknown";
    assert!(none.contains(sentence), "{none}");

    // The same images listed by the layout itself.
    files.retain(|(name, _)| name != "index.json");
    oci::add_index(&mut files, &images);
    oci::write_directory(&files, scratch.path());
    assert_eq!(
        self::chosen(scratch.path(), "", "linux/arm64"),
        Ok("arm".into())
    );
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    let mut both = Files::new();
    let manifest = add(&mut both, "one");
    let document = json!({"schemaVersion": 2, "manifests": [], "layers": [], "config": manifest});
    let document = serde_json::to_vec(&document).expect("JSON");
    let document = oci::blob(&mut both, INDEX, document);

    let mut nested = Files::new();
    let mut inner = for_platform(add(&mut nested, "one"), "amd64", None);
    for _ in 0..5 {
        let index = json!({"schemaVersion": 2, "manifests": [inner]});
        let index = serde_json::to_vec(&index).expect("JSON");
        inner = for_platform(oci::blob(&mut nested, INDEX, index), "amd64", None);
    }

    let mut artifact = Files::new();
    let signature = oci::blob(
        &mut artifact,
        "application/vnd.dev.cosign.simplesigning.v1+json",
        b"{}".to_vec(),
    );
    for (mut files, descriptor, sentence) in [
        (both, document, "who pulls it decides what it is"),
        (nested, inner, "nested more than 4 deep"),
        (artifact, signature, "it has no image"),
    ] {
        oci::add_index(&mut files, &[descriptor]);
        let scratch = tempfile::tempdir().expect("a directory");
        oci::write_directory(&files, scratch.path());
        let error = image(&format!("oci:{}", scratch.path().display()), "linux/amd64");
        let error = error.expect_err("no image");
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn documents_and_formats_come_with_the_files() {
    let elf = b"\x7fELF rest";
    let script = b"#!/bin/sh\n";
    let layer = archive(&[
        file("bin", elf),
        file("script", script),
        file("text", "text"),
    ]);
    let scratch = tempfile::tempdir().expect("a directory");
    let mut files = Files::new();
    let manifest = oci::add_image(&mut files, &[layer], &[Packing::Zstd]);
    let digest = manifest["digest"].as_str().expect("text").to_owned();
    oci::add_index(&mut files, &[named(manifest, "v1")]);
    oci::write_directory(&files, scratch.path());
    let image = image(&format!("oci:{}", scratch.path().display()), "linux/amd64").expect("it");
    let published = image.published.expect("documents");
    assert_eq!(published.reference.as_deref(), Some("v1"));
    assert_eq!(published.manifest, Some(digest));
    assert_eq!(published.platform, "linux/amd64");
    assert_eq!(published.labels["org.opencontainers.image.title"], "test");
    let format = |content: &[u8]| image.formats.get(&image_digest::ContentDigest::of(content));
    assert_eq!(format(elf), Some(&Format::Elf));
    assert_eq!(format(script), Some(&Format::Script(b"/bin/sh".to_vec())));
    assert_eq!(format(b"text"), None);
}
