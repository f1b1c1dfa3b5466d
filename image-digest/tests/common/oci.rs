// SPDX-License-Identifier: Apache-2.0
//! Images of given layers, as the places that hold images have them.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use image_digest::ContentDigest;
use serde_json::{Value, json};

use super::tar::{self, archive};

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

pub(crate) fn packed(bytes: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => bytes.to_vec(),
        Packing::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).expect("memory");
            gzip.finish().expect("memory")
        }
        Packing::Zstd => zstd::encode_all(bytes, 1).expect("memory"),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    ContentDigest::of(bytes).to_string()
}

/// The files of a layout: path and content.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// Adds a blob and gives its descriptor.
pub(crate) fn blob(files: &mut Files, media_type: &str, bytes: Vec<u8>) -> Value {
    let digest = sha256(&bytes);
    let descriptor = json!({
        "mediaType": media_type,
        "digest": digest,
        "size": bytes.len(),
    });
    let path = format!("blobs/{}", digest.replace(':', "/"));
    if files.iter().all(|(has, _)| *has != path) {
        files.push((path, bytes));
    }
    descriptor
}

pub(crate) fn config(archives: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<_> = archives.iter().map(|archive| sha256(archive)).collect();
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"org.opencontainers.image.title": "test"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

/// Adds an image of these archives and gives its manifest's descriptor.
pub(crate) fn add_image(files: &mut Files, archives: &[Vec<u8>], packing: &[Packing]) -> Value {
    let config = serde_json::to_vec(&config(archives)).expect("JSON");
    let config = blob(files, "application/vnd.oci.image.config.v1+json", config);
    let layers = archives.iter().zip(packing.iter().cycle());
    let layers: Vec<_> = layers
        .map(|(archive, packing)| {
            let media_type = match packing {
                Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
                Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
                Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            };
            blob(files, media_type, packed(archive, *packing))
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    });
    let manifest = serde_json::to_vec(&manifest).expect("JSON");
    blob(
        files,
        "application/vnd.oci.image.manifest.v1+json",
        manifest,
    )
}

pub(crate) fn add_index(files: &mut Files, manifests: &[Value]) {
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    files.push((
        "index.json".into(),
        serde_json::to_vec(&index).expect("JSON"),
    ));
    files.push((
        "oci-layout".into(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    ));
}

/// A layout with one image.
pub(crate) fn layout(archives: &[Vec<u8>], packing: &[Packing]) -> Files {
    let mut files = Files::new();
    let manifest = add_image(&mut files, archives, packing);
    add_index(&mut files, &[manifest]);
    files
}

/// A docker archive with one image.
pub(crate) fn docker(archives: &[Vec<u8>]) -> Files {
    let mut files = Files::new();
    let config = serde_json::to_vec(&config(archives)).expect("JSON");
    let config_name = format!("{}.json", &sha256(&config)[7..]);
    let mut layers = Vec::new();
    for (number, archive) in archives.iter().enumerate() {
        layers.push(format!("{number}/layer.tar"));
        files.push((format!("{number}/layer.tar"), archive.clone()));
    }
    let manifest = json!([{"Config": config_name, "RepoTags": ["test:1"], "Layers": layers}]);
    files.push((config_name, config));
    files.push((
        "manifest.json".into(),
        serde_json::to_vec(&manifest).expect("JSON"),
    ));
    files
}

/// Writes the files below a directory.
pub(crate) fn write_directory(files: &Files, root: &Path) {
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
        fs::write(path, bytes).expect("a file");
    }
}

/// Writes the files as an archive.
pub(crate) fn write_archive(files: &Files, path: &Path, packing: Packing) {
    let members: Vec<_> = files
        .iter()
        .map(|(path, bytes)| tar::file(path, bytes))
        .collect();
    fs::write(path, packed(&archive(&members), packing)).expect("a file");
}
