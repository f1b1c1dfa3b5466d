// SPDX-License-Identifier: Apache-2.0
//! These make device nodes and attributes `trusted.*`, and mount: they run as root.

use std::num::NonZero;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use rustix::fs::{FileType, XattrFlags, mknodat, setxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;
use crate::{ContentDigest, Limits, Meta, Progress};

/// Directories of an overlay in the making.
struct Rig {
    root: tempfile::TempDir,
}

impl Rig {
    fn new(layers: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for layer in layers {
            std::fs::create_dir(root.path().join(layer)).unwrap();
        }
        Self { root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn file(&self, path: &str, content: &str) {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        std::fs::write(self.at(path), content).unwrap();
    }

    fn directory(&self, path: &str, mode: u32) {
        std::fs::create_dir_all(self.at(path)).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.at(path), mode).unwrap();
    }

    fn whiteout(&self, path: &str) {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        let mode = Mode::from_raw_mode(0);
        mknodat(CWD, self.at(path), FileType::CharacterDevice, mode, 0).unwrap();
    }

    fn attribute(&self, path: &str, name: &str, value: &[u8]) {
        setxattr(self.at(path), name, value, XattrFlags::empty()).unwrap();
    }

    fn opaque(&self, path: &str) {
        self.attribute(path, "trusted.overlay.opaque", b"y");
    }

    fn lower(&self, layers: &[&str], names: WhiteoutNames) -> Vec<Lower> {
        layers
            .iter()
            .map(|layer| Lower::at(&self.at(layer), names).unwrap())
            .collect()
    }

    fn read(&self, layers: &[&str], names: WhiteoutNames) -> Result<Image, OverlayError> {
        let lower = self.lower(layers, names);
        with_options(|options| read(&lower, OverlayAttributes::Trusted, options))
    }

    /// What the kernel shows of the same layers, read as any directory is.
    fn mounted(&self, layers: &[&str]) -> Image {
        let read = |at: &Path| {
            with_options(|options| crate::source::directory::read(at, options)).unwrap()
        };
        self.in_mount(layers, read)
    }

    fn in_mount<T>(&self, layers: &[&str], look: impl FnOnce(&Path) -> T) -> T {
        std::fs::create_dir_all(self.at("merged")).unwrap();
        let top_first: Vec<_> = layers
            .iter()
            .rev()
            .map(|layer| self.at(layer).display().to_string())
            .collect();
        let options = format!("lowerdir={}", top_first.join(":"));
        let options = std::ffi::CString::new(options).unwrap();
        let at = self.at("merged");
        let nothing = MountFlags::empty();
        mount("overlay", &at, "overlay", nothing, &*options).unwrap();
        let seen = look(&at);
        unmount(&at, UnmountFlags::DETACH).unwrap();
        seen
    }
}

fn with_options<T>(run: impl FnOnce(&Options<'_>) -> T) -> T {
    let progress = Progress::default();
    run(&Options {
        limits: Limits::default(),
        platform: None,
        threads: NonZero::new(2).unwrap(),
        progress: &progress,
        cache: None,
    })
}

fn paths(image: &Image) -> Vec<String> {
    let path = |(path, _): (Vec<u8>, &Node)| String::from_utf8(path).unwrap();
    image.tree.entries().map(path).collect()
}

/// Three layers with everything in them that means something to an overlay.
fn busy() -> Rig {
    let rig = Rig::new(&["a", "b", "c"]);
    rig.file("a/bin/sh", "\x7fELF of the first");
    rig.file("a/bin/gone", "1");
    rig.file("a/etc/hidden/one", "1");
    rig.file("a/etc/kept/one", "1");
    rig.file("a/file-to-directory", "1");
    rig.file("a/directory-to-file/inside/deep", "1");
    rig.file("a/back/old", "1");
    rig.file("a/nested/x/y/z", "1");
    rig.file("a/nested/x/w", "1");
    rig.file("a/linked/one", "hard");
    std::fs::hard_link(rig.at("a/linked/one"), rig.at("a/linked/two")).unwrap();
    symlink("../etc", rig.at("a/linked/etc")).unwrap();
    rig.file("a/.wh.name", "a name like any other");
    rig.directory("a/tmp", 0o1777);
    rig.attribute(
        "a/bin/sh",
        "security.capability",
        b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    );

    rig.whiteout("b/bin/gone");
    rig.file("b/etc/hidden/two", "2");
    rig.opaque("b/etc/hidden");
    rig.file("b/etc/kept/two", "2");
    rig.directory("b/etc/kept", 0o700);
    chown(rig.at("b/etc/kept"), Some(7), Some(8)).unwrap();
    rig.file("b/file-to-directory/inside", "2");
    rig.file("b/directory-to-file", "2");
    rig.file("b/back", "a file between two directories");
    rig.file("b/nested/x/y/v", "2");
    rig.opaque("b/nested/x");
    // A new directory is opaque, as overlayfs makes them, over a whiteout of itself below.
    rig.whiteout("b/linked/two");

    rig.file("c/bin/sh", "#!/bin/true\n");
    rig.file("c/back/new", "3");
    rig.file("c/nested/x/y/u", "3");
    rig.opaque("c/nested/x/y");
    rig.whiteout("c/etc/kept/one");
    rig.file("c/linked/two", "hard again");
    rig.attribute("c/linked", "trusted.overlay.origin", b"\0\xfb!\0");
    rig.attribute("c/linked", "trusted.overlay.impure", b"y");
    rig
}

#[test]
fn read_without_a_mount_it_is_what_the_kernel_mounts() {
    let rig = busy();
    let layers = ["a", "b", "c"];
    let read = rig.read(&layers, WhiteoutNames::Plain).unwrap();
    let mounted = rig.mounted(&layers);
    assert_eq!(paths(&read), paths(&mounted));
    assert_eq!(read.tree, mounted.tree);
    assert_eq!(read.formats, mounted.formats);
    assert_eq!(read.tree.digest(), mounted.tree.digest());
    for (path, is_there) in [
        ("bin/gone", false),
        ("etc/hidden/one", false),
        ("etc/hidden/two", true),
        ("etc/kept/one", false),
        ("back/new", true),
        ("back/old", false),
        ("nested/x/y/v", false),
        ("nested/x/w", false),
        (".wh.name", true),
    ] {
        assert_eq!(read.tree.get(path.as_bytes()).is_some(), is_there, "{path}");
    }
}

#[test]
fn an_opaque_root_hides_nothing_since_the_kernel_does_not_look_at_it() {
    let rig = Rig::new(&["a", "b"]);
    rig.file("a/old", "1");
    rig.file("b/new", "2");
    rig.opaque("b");
    let layers = ["a", "b"];
    let read = rig.read(&layers, WhiteoutNames::Plain).unwrap();
    assert_eq!(read.tree, rig.mounted(&layers).tree);
    assert_eq!(paths(&read), ["new", "old"]);
}

#[test]
fn whiteouts_that_are_files_are_refused_since_kernels_disagree_about_them() {
    // They can be in an image that overlayfs itself shows, from 6.7 on; before, they are files.
    for (of, attribute, value) in [
        ("b/d/gone", "trusted.overlay.whiteout", b"y"),
        ("b/d", "trusted.overlay.opaque", b"x"),
    ] {
        let rig = Rig::new(&["a", "b"]);
        rig.file("a/d/gone", "1");
        rig.file("b/d/gone", "");
        rig.attribute(of, attribute, value);
        let error = rig.read(&["a", "b"], WhiteoutNames::Plain).unwrap_err();
        assert!(error.to_string().contains(attribute), "{error}");
    }
}

#[test]
fn what_an_overlay_shows_in_the_place_of_something_else_is_refused() {
    for attribute in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
        let rig = Rig::new(&["a"]);
        rig.file("a/d/f", "1");
        let of = if attribute.ends_with("redirect") {
            "a/d"
        } else {
            "a/d/f"
        };
        rig.attribute(of, attribute, b"/x");
        let error = rig.read(&["a"], WhiteoutNames::Plain).unwrap_err();
        assert!(error.to_string().contains(attribute), "{error}");
    }
    let rig = Rig::new(&["a"]);
    rig.attribute("a", "user.containers.override_stat", b"0:0:0755");
    assert!(matches!(
        Lower::at(&rig.at("a"), WhiteoutNames::Plain),
        Err(OverlayError::Override(_))
    ));
}

#[test]
fn marks_of_a_mount_program_are_whiteouts_where_a_store_has_one() {
    let rig = Rig::new(&["a", "b"]);
    rig.file("a/d/gone", "1");
    rig.file("a/e/gone", "1");
    rig.file("a/e/also", "1");
    rig.file("b/d/.wh.gone", "");
    rig.file("b/e/.wh..wh..opq", "");
    rig.file("b/e/new", "2");
    let read = rig.read(&["a", "b"], WhiteoutNames::Marks).unwrap();
    assert_eq!(paths(&read), ["d", "e", "e/new"]);
    // The kernel's overlay shows them.
    let read = rig.read(&["a", "b"], WhiteoutNames::Plain).unwrap();
    assert_eq!(read.tree, rig.mounted(&["a", "b"]).tree);
}

#[test]
fn links_in_a_store_lead_nowhere_else() {
    let rig = Rig::new(&["home", "home/id", "home/id/diff", "home/l", "other"]);
    symlink("../id/diff", rig.at("home/l/GOOD")).unwrap();
    symlink("../../other", rig.at("home/l/OUT")).unwrap();
    symlink(rig.at("other"), rig.at("home/l/ABSOLUTE")).unwrap();
    let home = rig.at("home");
    let open = |link: &str| Lower::beneath(&home, Path::new(link), WhiteoutNames::Plain);
    assert!(open("l/GOOD").is_ok());
    for link in ["l/OUT", "l/ABSOLUTE", "../other"] {
        assert!(
            matches!(open(link), Err(OverlayError::Outside(_))),
            "{link}"
        );
    }
}

#[test]
fn limits_are_those_of_all_layers_together() {
    let rig = Rig::new(&["a", "b"]);
    rig.file("a/one", "1");
    rig.file("b/two", "2");
    let lower = rig.lower(&["a", "b"], WhiteoutNames::Plain);
    let progress = Progress::default();
    let limited = |entries| {
        let options = Options {
            limits: Limits {
                entries,
                ..Limits::default()
            },
            platform: None,
            threads: NonZero::new(1).unwrap(),
            progress: &progress,
            cache: None,
        };
        read(&lower, OverlayAttributes::Trusted, &options)
    };
    assert!(limited(1).is_err());
    let read = limited(100).unwrap();
    let file = |content: &[u8]| Node::File {
        meta: Meta::new(0o644, 0, 0),
        size: 1,
        content: ContentDigest::of(content),
    };
    assert_eq!(read.tree.get(b"two"), Some(&file(b"2")));
}

/// Numbers that are the same at each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// A path of one to three names, of few, so that layers meet.
    fn path(&mut self, layer: &str) -> String {
        let names = 1 + self.below(3);
        let mut path = layer.to_owned();
        for _ in 0..names {
            path.push('/');
            path.push(char::from(b'a' + u8::try_from(self.below(3)).unwrap()));
        }
        path
    }
}

/// Puts something at a path of a layer, if the layer allows it.
fn scatter(rig: &Rig, random: &mut Random, layer: &str) {
    let path = random.path(layer);
    let at = rig.at(&path);
    let above = at.parent().unwrap();
    if std::fs::create_dir_all(above).is_err() || at.symlink_metadata().is_ok() {
        return;
    }
    match random.below(6) {
        0 => rig.whiteout(&path),
        1 => symlink("target", &at).unwrap(),
        2 => {
            rig.directory(&path, 0o700 + u32::try_from(random.below(8)).unwrap());
            rig.opaque(&path);
        }
        3 => rig.directory(&path, 0o750),
        _ => rig.file(&path, &format!("{layer}{}", random.below(3))),
    }
}

/// A tree by other means. Where a directory is of one layer alone overlayfs lists its whiteouts, whose names nothing
/// has: an image's directory would be refused for that.
fn collect(root: &Path, directory: &Path, tree: &mut Tree) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let Ok(found) = path.symlink_metadata() else {
            continue;
        };
        let meta = Meta::new(found.mode(), found.uid(), found.gid());
        let node = if found.is_dir() {
            Node::Directory(meta)
        } else if found.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            Node::Symlink {
                uid: found.uid(),
                gid: found.gid(),
                target: target.into_os_string().into_encoded_bytes(),
            }
        } else {
            let content = std::fs::read(&path).unwrap();
            Node::File {
                meta,
                size: found.len(),
                content: ContentDigest::of(&content),
            }
        };
        let inside = path.strip_prefix(root).unwrap().as_os_str();
        tree.insert(inside.as_encoded_bytes(), node).unwrap();
        if found.is_dir() {
            collect(root, &path, tree);
        }
    }
}

#[test]
fn of_any_layers_the_kernel_and_this_crate_see_the_same() {
    let layers = ["l0", "l1", "l2", "l3"];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for round in 0..150 {
        let rig = Rig::new(&layers);
        for layer in layers {
            for _ in 0..random.below(14) {
                scatter(&rig, &mut random, layer);
            }
        }
        let read = rig.read(&layers, WhiteoutNames::Plain).unwrap();
        let mut mounted = Tree::default();
        rig.in_mount(&layers, |at| collect(at, at, &mut mounted));
        assert_eq!(read.tree, mounted, "round {round}");
    }
}
