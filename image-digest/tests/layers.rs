// SPDX-License-Identifier: Apache-2.0
//! Layers and the tree that they unpack to have one digest: for every attribute that counts, for none that does
//! not, and for random histories, unpacked by the few lines below, which share nothing with the crate. Root runs
//! this: owners and devices are made.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{
    FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown, lchown, symlink,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::image;
use common::oci::{self, Packing};
use common::tar::{Member, archive, directory, file, link, member};
use image_digest::ImageDigest;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

const CAPABILITY: &str = "security.capability";
const NET_RAW: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const NET_ADMIN: &[u8] = b"\x01\0\0\x02\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn of_layers(layers: &[Vec<u8>]) -> Result<ImageDigest, String> {
    let scratch = tempfile::tempdir().expect("a directory");
    oci::write_directory(&oci::layout(layers, &[Packing::Plain]), scratch.path());
    let image = image(&format!("oci:{}", scratch.path().display()));
    image
        .map(|image| image.tree.digest())
        .map_err(|error| error.to_string())
}

fn of_directory(root: &Path) -> ImageDigest {
    let image = image(&format!("dir:{}", root.display()));
    image
        .unwrap_or_else(|error| panic!("{error}"))
        .tree
        .digest()
}

/// The tree of the table: one entry of each type.
fn members() -> Vec<Member> {
    let device = |kind, path, major, minor| Member {
        device: (major, minor),
        ..member(kind, path)
    };
    vec![
        directory("dir"),
        file("dir/file", "content"),
        link(b'2', "link", "dir/file"),
        device(b'3', "char", 1, 3),
        device(b'4', "block", 8, 1),
        member(b'6', "fifo"),
    ]
}

/// What is done to an entry of the table's tree: in the layer, on the disk.
struct Row {
    attribute: &'static str,
    counts: bool,
    layer: fn(&mut Vec<Member>),
    disk: fn(&Path),
}

fn of(members: &mut [Member], path: &str) -> usize {
    let found = members
        .iter()
        .position(|member| member.path == path.as_bytes());
    found.expect("it is in the table's tree")
}

fn remake(path: PathBuf, kind: FileType, device: u64) {
    fs::remove_file(&path).expect("it");
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), device).expect("root");
}

fn mode(path: PathBuf, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

fn attribute(path: PathBuf, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).expect("root");
}

macro_rules! row {
    ($attribute:literal, $counts:literal, $path:literal, |$member:ident| $change:expr, |$at:ident| $disk:expr) => {
        Row {
            attribute: $attribute,
            counts: $counts,
            layer: |members| {
                let at = of(members, $path);
                let $member = &mut members[at];
                $change;
            },
            disk: |root| {
                let $at = root.join($path);
                $disk
            },
        }
    };
}

fn rows() -> Vec<Row> {
    vec![
        row!(
            "name",
            true,
            "dir/file",
            |m| m.path = b"dir/name".to_vec(),
            |at| fs::rename(&at, at.with_file_name("name")).expect("it")
        ),
        row!(
            "place",
            true,
            "dir/file",
            |m| m.path = b"file".to_vec(),
            |at| fs::rename(&at, at.with_file_name("../file")).expect("it")
        ),
        row!(
            "content",
            true,
            "dir/file",
            |m| m.content = b"CONTENT".to_vec(),
            |at| fs::write(at, "CONTENT").expect("it")
        ),
        row!(
            "size",
            true,
            "dir/file",
            |m| m.content = b"content\0".to_vec(),
            |at| fs::write(at, "content\0").expect("it")
        ),
        row!(
            "permission bits of a file",
            true,
            "dir/file",
            |m| m.mode = 0o600,
            |at| mode(at, 0o600)
        ),
        row!("set-user-id", true, "dir/file", |m| m.mode = 0o4644, |at| {
            mode(at, 0o4644);
        }),
        row!(
            "set-group-id",
            true,
            "dir/file",
            |m| m.mode = 0o2644,
            |at| mode(at, 0o2644)
        ),
        row!("sticky bit", true, "dir", |m| m.mode = 0o1755, |at| mode(
            at, 0o1755
        )),
        row!(
            "permission bits of a directory",
            true,
            "dir",
            |m| m.mode = 0o700,
            |at| mode(at, 0o700)
        ),
        row!(
            "permission bits of a device",
            true,
            "char",
            |m| m.mode = 0o666,
            |at| mode(at, 0o666)
        ),
        row!(
            "permission bits of a fifo",
            true,
            "fifo",
            |m| m.mode = 0o600,
            |at| mode(at, 0o600)
        ),
        row!("owner of a file", true, "dir/file", |m| m.uid = 1, |at| {
            chown(at, Some(1), None).expect("root");
        }),
        row!("group of a file", true, "dir/file", |m| m.gid = 1, |at| {
            chown(at, None, Some(1)).expect("root");
        }),
        row!("owner of a directory", true, "dir", |m| m.uid = 1, |at| {
            chown(at, Some(1), None).expect("root");
        }),
        row!("owner of a link", true, "link", |m| m.uid = 1, |at| lchown(
            at,
            Some(1),
            None
        )
        .expect("root")),
        row!("group of a link", true, "link", |m| m.gid = 1, |at| lchown(
            at,
            None,
            Some(1)
        )
        .expect("root")),
        row!(
            "owner above 2^21",
            true,
            "dir/file",
            |m| m.uid = 4_000_000_000,
            |at| chown(at, Some(4_000_000_000), None).expect("root")
        ),
        row!(
            "target of a link",
            true,
            "link",
            |m| m.target = b"dir".to_vec(),
            |at| {
                fs::remove_file(&at).expect("it");
                symlink("dir", at).expect("a link");
            }
        ),
        row!("major number", true, "block", |m| m.device = (9, 1), |at| {
            remake(at, FileType::BlockDevice, makedev(9, 1));
        }),
        row!(
            "minor number",
            true,
            "block",
            |m| m.device = (8, 300),
            |at| remake(at, FileType::BlockDevice, makedev(8, 300))
        ),
        row!(
            "type: block for character",
            true,
            "char",
            |m| m.kind = b'4',
            |at| remake(at, FileType::BlockDevice, makedev(1, 3))
        ),
        row!(
            "type: file for fifo",
            true,
            "fifo",
            |m| m.kind = b'0',
            |at| {
                fs::remove_file(&at).expect("it");
                fs::write(at, "").expect("a file");
            }
        ),
        row!(
            "capability",
            true,
            "dir/file",
            |m| m.pax.push((
                b"SCHILY.xattr.security.capability".to_vec(),
                NET_RAW.to_vec()
            )),
            |at| attribute(at, CAPABILITY, NET_RAW)
        ),
        row!(
            "capability of a directory",
            true,
            "dir",
            |m| m.pax.push((
                b"SCHILY.xattr.security.capability".to_vec(),
                NET_RAW.to_vec()
            )),
            |at| attribute(at, CAPABILITY, NET_RAW)
        ),
        row!(
            "which capability",
            true,
            "dir/file",
            |m| m.pax.push((
                b"SCHILY.xattr.security.capability".to_vec(),
                NET_ADMIN.to_vec()
            )),
            |at| attribute(at, CAPABILITY, NET_ADMIN)
        ),
        row!(
            "modification time",
            false,
            "dir/file",
            |m| m.pax.push((b"mtime".to_vec(), b"7.5".to_vec())),
            |at| {
                let file = fs::File::options().write(true).open(at).expect("it");
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(7))
                    .expect("root");
            }
        ),
        row!(
            "names of owner and group",
            false,
            "dir/file",
            |m| m.pax.extend([
                (b"uname".to_vec(), b"nobody".to_vec()),
                (b"gname".to_vec(), b"adm".to_vec())
            ]),
            |_at| ()
        ),
        row!(
            "an attribute of a user's",
            false,
            "dir/file",
            |m| m.pax.push((b"SCHILY.xattr.user.x".to_vec(), b"y".to_vec())),
            |at| attribute(at, "user.x", b"y")
        ),
        row!(
            "a trusted attribute",
            false,
            "dir",
            |m| m
                .pax
                .push((b"SCHILY.xattr.trusted.x".to_vec(), b"y".to_vec())),
            |at| attribute(at, "trusted.x", b"y")
        ),
        row!("mode of a link", false, "link", |m| m.mode = 0o700, |_at| (
        )),
        row!("how many names it has", false, "dir/file", |_m| {}, |at| {
            // The other name is outside the tree.
            fs::hard_link(&at, at.with_file_name("../../another")).expect("a link");
        }),
        row!("its inode", false, "dir/file", |_m| {}, |at| {
            fs::copy(&at, at.with_file_name("../../copy")).expect("a copy");
            fs::rename(at.with_file_name("../../copy"), at).expect("it");
        }),
        Row {
            attribute: "mode and owner of the root",
            counts: false,
            layer: |members| members.insert(0, directory("./").with_mode(0o700).owned_by(7, 8)),
            disk: |root| {
                chown(root, Some(7), Some(8)).expect("root");
                mode(root.to_owned(), 0o700);
            },
        },
        Row {
            attribute: "order in the archive",
            counts: false,
            layer: |members| members.reverse(),
            disk: |_| (),
        },
    ]
}

#[test]
fn the_digest_changes_for_every_attribute_that_counts_and_for_none_that_does_not() {
    let original = of_layers(&[archive(&members())]).expect("an image");
    let mut seen = BTreeSet::new();
    for row in rows() {
        let outer = tempfile::tempdir().expect("a directory");
        let root = outer.path().join("root");
        fs::create_dir(&root).expect("a directory");
        unpack(&members(), &root);
        assert_eq!(of_directory(&root), original, "{}: before", row.attribute);
        (row.disk)(&root);
        let mut members = members();
        (row.layer)(&mut members);
        let layers = of_layers(&[archive(&members)]).expect("an image");
        assert_eq!(
            of_directory(&root),
            layers,
            "{}: on the disk",
            row.attribute
        );
        assert_eq!(layers != original, row.counts, "{}", row.attribute);
        if row.counts {
            let text = layers.to_string();
            assert!(seen.insert(text), "{} is taken for another", row.attribute);
        }
    }
}

/// A layer over what is in `root`, as overlayfs has it: its entries come, in their order, into a directory of their
/// own; what it hides goes from `root`; and then the one is laid over the other.
fn unpack(layer: &[Member], root: &Path) {
    let upper = tempfile::tempdir().expect("a directory");
    let mut own = BTreeSet::new();
    for member in layer {
        let path = text(&member.path);
        let path = path.trim_start_matches("./").trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if path.is_empty() {
            continue;
        }
        make_way(upper.path(), parent);
        if !name.starts_with(".wh.") {
            bring(member, path, upper.path(), root);
            // What was below it is gone, unless both are directories.
            if member.kind != b'5' {
                own.retain(|other: &String| !other.starts_with(&format!("{path}/")));
            }
            own.insert(path.to_owned());
        }
    }
    for member in layer {
        hide(&text(&member.path), root);
    }
    lay_over(upper.path(), root, "", &own);
}

/// Makes an entry in `upper`; what it links to is there, or below.
fn bring(member: &Member, path: &str, upper: &Path, below: &Path) {
    let (at, target) = (upper.join(path), text(&member.target));
    let is_directory = fs::symlink_metadata(&at).is_ok_and(|metadata| metadata.is_dir());
    if member.kind == b'1' {
        let own = upper.join(&target);
        let is_own = fs::symlink_metadata(&own).is_ok();
        let copy = tempfile::tempdir().expect("a directory");
        let copy = copy.path().join("copy");
        copy_entry(&if is_own { own } else { below.join(&target) }, &copy);
        remove(&at);
        copy_entry(&copy, &at);
    } else {
        if !(member.kind == b'5' && is_directory) {
            remove(&at);
        }
        create(member, &at, &target);
    }
}

/// Takes away what a whiteout hides.
fn hide(path: &str, root: &Path) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let Some(hidden) = name.strip_prefix(".wh.").filter(|_| is_real(root, parent)) else {
        return;
    };
    if hidden != ".wh..opq" {
        return remove(&root.join(parent).join(hidden));
    }
    for entry in fs::read_dir(root.join(parent)).expect("a directory") {
        remove(&entry.expect("an entry").path());
    }
}

/// Lays a directory over another; one that nobody described, which is not in `own`, keeps what is there.
fn lay_over(upper: &Path, root: &Path, path: &str, own: &BTreeSet<String>) {
    for entry in fs::read_dir(upper.join(path)).expect("a directory") {
        let name = entry.expect("an entry").file_name();
        let path = Path::new(path).join(name);
        let path = path.to_str().expect("text");
        let (from, to) = (upper.join(path), root.join(path));
        let metadata = fs::symlink_metadata(&from).expect("it");
        if !metadata.is_dir() {
            remove(&to);
            copy_entry(&from, &to);
            continue;
        }
        let over_directory = fs::symlink_metadata(&to).is_ok_and(|metadata| metadata.is_dir());
        if !over_directory {
            remove(&to);
            fs::create_dir(&to).expect("a directory");
        }
        if own.contains(path) || !over_directory {
            chown(&to, Some(metadata.uid()), Some(metadata.gid())).expect("root");
            mode(to, metadata.mode() & 0o7777);
        }
        lay_over(upper, root, path, own);
    }
}

fn create(member: &Member, at: &Path, target: &str) {
    let (uid, gid) = (member.uid as u32, member.gid as u32);
    let node = |kind| {
        let device = makedev(member.device.0, member.device.1);
        mknodat(CWD, at, kind, Mode::from_raw_mode(0o600), device).expect("root");
    };
    match member.kind {
        b'0' => fs::write(at, &member.content).expect("a file"),
        b'2' => {
            symlink(target, at).expect("a link");
            return lchown(at, Some(uid), Some(gid)).expect("root");
        }
        b'3' => node(FileType::CharacterDevice),
        b'4' => node(FileType::BlockDevice),
        b'5' => {
            let _ = fs::create_dir(at);
        }
        b'6' => node(FileType::Fifo),
        other => panic!("{other}"),
    }
    chown(at, Some(uid), Some(gid)).expect("root");
    mode(at.to_owned(), member.mode);
}

/// Directories on the way to something; what is none gives way, and what is new is root's, 0755.
fn make_way(root: &Path, path: &str) {
    let mut at = root.to_owned();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at.push(name);
        if !fs::symlink_metadata(&at).is_ok_and(|metadata| metadata.is_dir()) {
            remove(&at);
            fs::create_dir(&at).expect("a directory");
            mode(at.clone(), 0o755);
        }
    }
}

/// Whether a directory is there, and no link on the way to it.
fn is_real(root: &Path, path: &str) -> bool {
    let mut at = root.to_owned();
    path.split('/').filter(|name| !name.is_empty()).all(|name| {
        at.push(name);
        fs::symlink_metadata(&at).is_ok_and(|metadata| metadata.is_dir())
    })
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).expect("it"),
        Ok(_) => fs::remove_file(path).expect("it"),
        Err(_) => {}
    }
}

fn copy_entry(from: &Path, to: &Path) {
    let metadata = fs::symlink_metadata(from).expect("it");
    let kind = metadata.file_type();
    let node = |kind| {
        mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), metadata.rdev()).expect("root");
    };
    if kind.is_symlink() {
        symlink(fs::read_link(from).expect("a link"), to).expect("a link");
        return lchown(to, Some(metadata.uid()), Some(metadata.gid())).expect("root");
    } else if kind.is_fifo() {
        node(FileType::Fifo);
    } else if kind.is_char_device() {
        node(FileType::CharacterDevice);
    } else if kind.is_block_device() {
        node(FileType::BlockDevice);
    } else {
        fs::copy(from, to).expect("a copy");
    }
    chown(to, Some(metadata.uid()), Some(metadata.gid())).expect("root");
    mode(to.to_owned(), metadata.mode() & 0o7777);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the tests' own names")
}

/// Few names, so that layers meet.
fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c d"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn entry() -> impl Strategy<Value = Member> {
    let kinds = prop::sample::select(b"00055512346wo".to_vec());
    let modes = prop::sample::select(vec![0o644, 0o755, 0o4711, 0o1777, 0]);
    (kinds, path(), path(), modes, 0..3_u64, ".{0,4}").prop_map(
        |(kind, path, target, mode, owner, content)| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let beside = |name: &str| match parent {
                "" => name.to_owned(),
                parent => format!("{parent}/{name}"),
            };
            let hidden = match kind {
                b'w' => Some(beside(&format!(".wh.{name}"))),
                b'o' => Some(beside(".wh..wh..opq")),
                _ => None,
            };
            match hidden {
                Some(hidden) => file(hidden, ""),
                None => Member {
                    content: if kind == b'0' {
                        content.into_bytes()
                    } else {
                        Vec::new()
                    },
                    target: if matches!(kind, b'1' | b'2') {
                        target.into_bytes()
                    } else {
                        Vec::new()
                    },
                    device: if matches!(kind, b'3' | b'4') {
                        (owner as u32 + 1, 7)
                    } else {
                        (0, 0)
                    },
                    ..member(kind, path)
                        .with_mode(mode)
                        .owned_by(owner, owner * 1000)
                },
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn random_layers_are_the_tree_that_they_unpack_to(
        layers in prop::collection::vec(prop::collection::vec(entry(), 0..7), 1..4)
    ) {
        // Layers that no engine would take mean nothing: entries below files, links to nothing.
        let archives: Vec<_> = layers.iter().map(archive).collect();
        let digest = of_layers(&archives);
        prop_assume!(digest.is_ok());
        let root = tempfile::tempdir().expect("a directory");
        for layer in &layers {
            unpack(layer, root.path());
        }
        prop_assert_eq!(of_directory(root.path()), digest.expect("assumed"));
    }
}
