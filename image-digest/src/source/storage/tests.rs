// SPDX-License-Identifier: Apache-2.0
//! Stores in the making. These make attributes `trusted.*` and device nodes: they run as root.

use std::fs::File;
use std::num::NonZero;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use super::documents::DIGITS;
use super::*;
use crate::{Limits, Progress};

const IMAGE: char = 'e';

/// An id of one digit.
fn id(digit: char) -> String {
    digit.to_string().repeat(DIGITS)
}

/// A store with an image of two layers and a container of it.
struct Rig {
    root: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let rig = Self {
            root: tempfile::tempdir().unwrap(),
        };
        rig.file(&format!("overlay/{}/diff/bin/sh", id('a')), b"first");
        rig.file(&format!("overlay/{}/diff/bin/gone", id('a')), b"first");
        rig.file(&format!("overlay/{}/diff/bin/sh", id('b')), b"second");
        rig.file(&format!("overlay/{}/diff/etc/made", id('c')), b"upper");
        let gone = rig.at(&format!("overlay/{}/diff/bin/gone", id('b')));
        mknodat(CWD, gone, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        for (layer, lower) in [('a', ""), ('b', "l/A"), ('c', "l/B:l/A")] {
            rig.link(layer, lower);
        }
        rig.layers(&json!([
            {"id": id('a')},
            {"id": id('b'), "parent": id('a'), "diff-digest": "sha256:00"},
            {"id": id('d'), "parent": id('d')},
            {"id": id('f'), "parent": id('a'), "flags": {"incomplete": true}},
        ]));
        let volatile = json!([{
            "id": id('c'), "parent": id('b'),
            "uidmap": [{"container_id": 0, "host_id": 10_000, "size": 5000}]
        }]);
        rig.json("overlay-layers/volatile-layers.json", &volatile);
        let container = json!([{
            "id": id('1'), "names": ["web"], "image": id(IMAGE), "layer": id('c'),
            "metadata": "{}", "created": "2026-01-01T00:00:00Z"
        }]);
        rig.json("overlay-containers/containers.json", &container);
        rig.documents(&id('b'), |_| ());
        rig
    }

    /// The driver's own notes beside a layer.
    fn link(&self, layer: char, lower: &str) {
        let link = format!("overlay/l/{}", layer.to_ascii_uppercase());
        std::fs::create_dir_all(self.at("overlay/l")).unwrap();
        symlink(format!("../{}/diff", id(layer)), self.at(&link)).unwrap();
        if !lower.is_empty() {
            self.file(&format!("overlay/{}/lower", id(layer)), lower.as_bytes());
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn file(&self, path: &str, content: &[u8]) {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        std::fs::write(self.at(path), content).unwrap();
    }

    fn json(&self, path: &str, value: &Value) {
        self.file(path, &serde_json::to_vec(value).unwrap());
    }

    fn layers(&self, layers: &Value) {
        self.json("overlay-layers/layers.json", layers);
    }

    /// Writes an image's record and documents; `change` may spoil the record.
    fn documents(&self, layer: &str, change: impl FnOnce(&mut Value)) {
        let config = json!({
            "architecture": "arm64", "variant": "v8", "os": "linux",
            "config": {"Labels": {"org.example": "yes"}},
            "rootfs": {"type": "layers", "diff_ids": []}
        });
        let config = serde_json::to_vec(&config).unwrap();
        let config_digest = ContentDigest::of(&config).to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest, "size": config.len()
            },
            "layers": [],
            "annotations": {"note": "n"}
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let directory = format!("overlay-images/{}", id(IMAGE));
        self.file(&format!("{directory}/manifest"), &manifest);
        let config_file = big_data_file(&config_digest);
        self.file(&format!("{directory}/{config_file}"), &config);
        let mut record = json!({
            "id": id(IMAGE), "layer": layer, "names": ["localhost/mine:1"],
            "digest": ContentDigest::of(&manifest).to_string(),
            "big-data-names": ["manifest", config_digest],
        });
        change(&mut record);
        self.json("overlay-images/images.json", &json!([record]));
    }

    fn named(&self, name: &str) -> String {
        format!("[overlay@{}]{name}", self.root.path().display())
    }

    fn read(&self, name: &str) -> Result<Image, StorageError> {
        let progress = Progress::default();
        let options = Options {
            limits: Limits::default(),
            platform: None,
            threads: NonZero::new(1).unwrap(),
            progress: &progress,
            cache: None,
        };
        read(&self.named(name), &options)
    }

    fn container(&self, name: &str) -> Result<Known, StorageError> {
        let text = self.named(name);
        let (store, name) = Store::open(&text).unwrap();
        store.container(name)
    }
}

fn paths(image: &Image) -> Vec<String> {
    let path = |(path, _): (Vec<u8>, &_)| String::from_utf8(path).unwrap();
    image.tree.entries().map(path).collect()
}

#[test]
fn an_image_is_its_layers_with_what_its_publisher_said() {
    let rig = Rig::new();
    let image = rig.read("mine:1").unwrap();
    assert_eq!(paths(&image), ["bin", "bin/sh"]);
    let published = image.published.clone().unwrap();
    assert_eq!(published.platform, "linux/arm64/v8");
    assert_eq!(published.reference.as_deref(), Some("mine:1"));
    assert_eq!(published.labels["org.example"], "yes");
    assert_eq!(published.annotations["note"], "n");
    let digest = published.manifest.unwrap();
    for name in [
        id(IMAGE),
        id(IMAGE)[..8].to_owned(),
        format!("sha256:{}", id(IMAGE)),
        format!("localhost/mine@{digest}"),
    ] {
        assert_eq!(rig.read(&name).unwrap().tree, image.tree, "{name}");
    }
    let error = rig.read("other").unwrap_err().to_string();
    assert!(error.contains("no image \"other\""), "{error}");
}

#[test]
fn a_container_that_does_not_run_has_its_image_and_its_own_directory() {
    let rig = Rig::new();
    for name in ["web", &id('1'), &id('1')[..12]] {
        let known = rig.container(name).unwrap();
        let lower: Vec<_> = known.lower.iter().map(|lower| lower.path.clone()).collect();
        let diff = |digit| rig.at(&format!("overlay/{}/diff", id(digit)));
        assert_eq!(lower, [rig.at("overlay/l/A"), rig.at("overlay/l/B")]);
        assert_eq!(known.upper, diff('c'));
        assert_eq!(known.attributes, OverlayAttributes::Trusted);
        assert_eq!(known.root, (10_000, 0));
        assert_eq!(known.said.name.as_deref(), Some("web"));
        assert_eq!(
            known.said.published.unwrap().reference.as_deref(),
            Some("localhost/mine:1")
        );
    }
    let beside = |layer: char| Store::said_beside(&rig.at("overlay"), &id(layer)).unwrap();
    assert_eq!(beside('c'), rig.container("web").unwrap().said);
    assert_eq!(beside('b'), Said::default());
    // The image was made anew since, from other layers: what is said of it is not said of this container.
    rig.documents(&id('a'), |_| ());
    let said = rig.container("web").unwrap().said;
    assert_eq!((said.name.as_deref(), said.published), (Some("web"), None));
    assert!(matches!(
        rig.container("we"),
        Err(StorageError::Unknown { .. })
    ));
}

#[test]
fn chains_that_loop_end_nowhere_or_are_incomplete_are_refused() {
    let rig = Rig::new();
    for (layer, reason) in [
        ('d', "below itself"),
        ('9', "not there"),
        ('f', "not written to its end"),
    ] {
        rig.documents(&id(layer), |_| ());
        let error = rig.read("mine:1").unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let composefs = format!("overlay/{}/composefs-data/composefs.blob", id('b'));
    rig.file(&composefs, b"");
    rig.documents(&id('b'), |_| ());
    let error = rig.read("mine:1").unwrap_err().to_string();
    assert!(error.contains("composefs"), "{error}");
}

#[test]
fn what_the_driver_mounts_counts_where_its_layers_are_more_than_the_chain() {
    // Seen with podman 4.3 and --uidmap: the layer for other owners is empty, lies over the one that it was made from, and
    // is said to lie over that one's parent.
    let rig = Rig::new();
    std::fs::create_dir_all(rig.at(&format!("overlay/{}/diff", id('7')))).unwrap();
    rig.link('7', "l/B:l/A");
    rig.layers(&json!([
        {"id": id('a')}, {"id": id('b'), "parent": id('a')}, {"id": id('7'), "parent": id('a')},
    ]));
    let plain = rig.read("mine:1").unwrap().tree;
    rig.documents(&id('7'), |_| ());
    assert_eq!(rig.read("mine:1").unwrap().tree, plain);
    // What is in it for other owners is beside it, and lies below it.
    rig.file(&format!("overlay/{}/diff1/bin/copy", id('7')), b"x");
    assert_eq!(
        paths(&rig.read("mine:1").unwrap()),
        ["bin", "bin/copy", "bin/sh"]
    );
    // But never less.
    rig.file(&format!("overlay/{}/lower", id('7')), b"l/B");
    let error = rig.read("mine:1").unwrap_err().to_string();
    assert!(error.contains("not where the driver"), "{error}");
    for lower in ["l/../../etc", "/etc", "l/"] {
        rig.file(&format!("overlay/{}/lower", id('7')), lower.as_bytes());
        let error = rig.read("mine:1").unwrap_err();
        assert!(matches!(error, StorageError::Document { .. }), "{error}");
    }
}

#[test]
fn a_document_that_is_not_the_publishers_is_refused_and_named() {
    let rig = Rig::new();
    let manifest = format!("overlay-images/{}/manifest", id(IMAGE));
    let good = std::fs::read(rig.at(&manifest)).unwrap();
    let spoiled = String::from_utf8(good.clone()).unwrap().replace('n', "m");
    rig.file(&manifest, spoiled.as_bytes());
    let error = rig.read("mine:1").unwrap_err();
    assert!(matches!(error, StorageError::Digest { .. }), "{error}");
    assert!(error.to_string().contains("manifest"), "{error}");

    // The config is what the manifest says, whatever the store says of it.
    let rig = Rig::new();
    let images = rig.at(&format!("overlay-images/{}", id(IMAGE)));
    let config = std::fs::read_dir(images).unwrap();
    let config = config.map(|entry| entry.unwrap().path());
    let is_config = |path: &PathBuf| path.to_string_lossy().contains("/=");
    let config = config.into_iter().find(is_config).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("yes", "no!")).unwrap();
    let error = rig.read("mine:1").unwrap_err();
    assert!(matches!(error, StorageError::Digest { .. }), "{error}");
}

#[test]
fn what_would_be_a_path_of_its_own_is_no_id() {
    for wrong in [
        json!("../../../../etc"),
        json!(id('A')),
        json!(&id('a')[1..]),
        json!(7),
    ] {
        let rig = Rig::new();
        rig.documents(&id('b'), |record| record["id"] = wrong.clone());
        let error = rig.read("mine:1").unwrap_err().to_string();
        assert!(error.contains("images.json"), "{error}");
        let rig = Rig::new();
        rig.documents(&id('b'), |record| record["layer"] = wrong.clone());
        assert!(rig.read("mine:1").is_err(), "{wrong}");
        let rig = Rig::new();
        rig.layers(&json!([{"id": id('a')}, {"id": id('b'), "parent": wrong}]));
        assert!(rig.read("mine:1").is_err(), "{wrong}");
    }
}

#[test]
fn a_document_is_read_up_to_a_bound() {
    let rig = Rig::new();
    let path = rig.at("overlay-images/images.json");
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(LARGEST + 1).unwrap();
    let error = rig.read("mine:1").unwrap_err();
    assert!(matches!(error, StorageError::TooLarge(_)), "{error}");
}

#[test]
fn an_image_without_layers_is_empty_and_one_of_vfs_is_its_directory() {
    let rig = Rig::new();
    rig.documents("", |_| ());
    assert_eq!(paths(&rig.read("mine:1").unwrap()), Vec::<String>::new());

    let rig = Rig::new();
    for what in ["images", "layers", "containers"] {
        let old = rig.at(&format!("overlay-{what}"));
        std::fs::rename(old, rig.at(&format!("vfs-{what}"))).unwrap();
        let (old, new) = (format!("vfs-{what}/{what}.json"), format!("vfs-{what}"));
        assert!(rig.at(&old).exists() && rig.at(&new).is_dir());
    }
    rig.file(&format!("vfs/dir/{}/all/of/it", id('b')), b"x");
    let text = rig.named("mine:1").replace("overlay@", "");
    let progress = Progress::default();
    let options = Options {
        limits: Limits::default(),
        platform: None,
        threads: NonZero::new(1).unwrap(),
        progress: &progress,
        cache: None,
    };
    let image = read(&text, &options).unwrap();
    assert_eq!(paths(&image), ["all", "all/of", "all/of/it"]);
    let (store, _) = Store::open(&text).unwrap();
    let error = store.container("web").unwrap_err().to_string();
    assert!(error.contains("vfs") && error.contains("dir:"), "{error}");
}

#[test]
fn layers_of_another_store_are_found_where_they_are() {
    let (rig, shared) = (Rig::new(), Rig::new());
    rig.layers(&json!([]));
    for (layer, link) in [('a', "A"), ('b', "B")] {
        std::fs::remove_dir_all(rig.at(&format!("overlay/{}", id(layer)))).unwrap();
        std::fs::remove_file(rig.at(&format!("overlay/l/{link}"))).unwrap();
    }
    rig.json("overlay-images/images.json", &json!([]));
    let root = |rig: &Rig| Root {
        path: rig.root.path().to_owned(),
        driver: Driver::Overlay("overlay"),
    };
    let store = Store {
        roots: vec![root(&rig), root(&shared)],
        run_root: None,
        mount_program: false,
    };
    let known = store.container("web").unwrap();
    let home = shared.root.path();
    assert!(known.lower.iter().all(|lower| lower.path.starts_with(home)));
    assert!(known.upper.starts_with(rig.root.path()));
    assert!(known.said.published.is_some());
}

#[test]
fn a_users_store_seen_from_outside_is_refused() {
    let rig = Rig::new();
    std::os::unix::fs::chown(rig.at("overlay"), Some(1000), Some(1000)).unwrap();
    let error = rig.read("mine:1").unwrap_err().to_string();
    assert!(
        error.contains("user 1000") && error.contains("unshare"),
        "{error}"
    );
}

#[test]
fn marks_are_whiteouts_in_a_store_that_was_filled_for_a_mount_program() {
    let rig = Rig::new();
    rig.file(&format!("overlay/{}/diff/bin/.wh.sh", id('b')), b"");
    std::fs::remove_file(rig.at(&format!("overlay/{}/diff/bin/sh", id('b')))).unwrap();
    let plain = rig.read("mine:1").unwrap();
    assert_eq!(paths(&plain), ["bin", "bin/.wh.sh", "bin/sh"]);
    rig.file("overlay/.has-mount-program", b"true");
    assert_eq!(paths(&rig.read("mine:1").unwrap()), ["bin"]);
}

#[test]
fn data_has_the_file_names_that_the_store_gives_it() {
    assert_eq!(big_data_file("manifest"), "manifest");
    assert_eq!(
        big_data_file("sha256:ab"),
        "=c2hhMjU2OmFi",
        "base64 of the whole name"
    );
}
