// SPDX-License-Identifier: Apache-2.0
//! Upper directories made by hand: what engines leave is known, everything else is found. Root runs this: it makes
//! devices and whiteouts, and attributes that only root can.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use image_digest::audit::{Audit, Table, TableError, audit};
use image_digest::{ContentDigest, Meta, Node, Tree};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

fn directory(path: impl AsRef<Path>, mode: u32) {
    fs::DirBuilder::new()
        .recursive(true)
        .create(&path)
        .expect("a directory");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn file(path: impl AsRef<Path>, content: &str, mode: u32) {
    fs::write(&path, content).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn whiteout(path: impl AsRef<Path>) {
    let mode = Mode::from_raw_mode(0);
    mknodat(
        CWD,
        path.as_ref(),
        FileType::CharacterDevice,
        mode,
        makedev(0, 0),
    )
    .expect("root");
}

fn mark(path: impl AsRef<Path>, name: &str, value: &str) {
    setxattr(path.as_ref(), name, value.as_bytes(), XattrFlags::empty()).expect("root");
}

/// What podman with runc leaves of an image without `/run` and `/etc/hostname`.
fn podman(root: &Path) {
    directory(root.join("etc"), 0o755);
    file(root.join("etc/hostname"), "", 0o755);
    file(root.join("etc/hosts"), "", 0o700);
    symlink("/proc/mounts", root.join("etc/mtab")).expect("a link");
    directory(root.join("run"), 0o755);
    file(root.join("run/.containerenv"), "", 0o755);
    directory(root.join("data/deep"), 0o755);
}

fn found(root: &Path, question: &Audit<'_>) -> Vec<String> {
    let findings = audit(root, question).expect("it can be read");
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn what_an_engine_leaves_is_no_finding() {
    let scratch = tempfile::tempdir().expect("a directory");
    podman(scratch.path());
    let mounts = [b"/data/deep".to_vec()];
    let question = Audit {
        engine: Some("podman"),
        mount_points: &mounts,
        ..Audit::new(Table::shipped())
    };
    assert_eq!(found(scratch.path(), &question), Vec::<String>::new());
    // It is only the mount that explains these, and only this engine that leaves those.
    let without = Audit {
        mount_points: &[],
        ..question
    };
    assert_eq!(
        found(scratch.path(), &without),
        [r#""data/deep" was written: a directory"#]
    );
    let docker = Audit {
        engine: Some("docker"),
        ..question
    };
    assert_eq!(
        found(scratch.path(), &docker),
        [r#""run/.containerenv" was written: a file"#]
    );
}

#[test]
fn everything_else_is_found_by_path_and_kind() {
    type Change = Box<dyn Fn(&Path)>;
    let cases: Vec<(Change, &str)> = vec![
        (
            Box::new(|at| file(at.join("etc/new"), "", 0o755)),
            r#""etc/new" was written: a file"#,
        ),
        (
            Box::new(|at| file(at.join("etc/hosts"), "x", 0o755)),
            r#""etc/hosts" was written: a file"#,
        ),
        (
            Box::new(|at| file(at.join("etc/hosts"), "", 0o4755)),
            r#""etc/hosts" was written: a file"#,
        ),
        (
            Box::new(|at| chown(at.join("etc/hosts"), Some(1), None).expect("root")),
            r#""etc/hosts" was written: a file"#,
        ),
        (
            Box::new(|at| {
                fs::remove_file(at.join("etc/mtab")).expect("it");
                symlink("/etc/shadow", at.join("etc/mtab")).expect("a link");
            }),
            r#""etc/mtab" was written: a symbolic link"#,
        ),
        (
            Box::new(|at| whiteout(at.join("etc/passwd"))),
            r#""etc/passwd" was deleted"#,
        ),
        (
            Box::new(|at| mark(at.join("etc"), "trusted.overlay.opaque", "y")),
            r#""etc" was deleted and made anew: nothing of the image is left in it"#,
        ),
        (
            Box::new(|at| mark(at.join("etc"), "trusted.overlay.redirect", "/usr")),
            r#""etc" was moved, or shows the content of another"#,
        ),
        (
            Box::new(|at| mark(at, "trusted.overlay.opaque", "y")),
            r#""" was deleted and made anew: nothing of the image is left in it"#,
        ),
        (
            Box::new(|at| {
                let value = "\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
                mark(at.join("run/.containerenv"), "security.capability", value);
            }),
            r#""run/.containerenv" was written: a file"#,
        ),
        (
            Box::new(|at| {
                let mode = Mode::from_raw_mode(0o600);
                mknodat(CWD, at.join("etc/fifo"), FileType::Fifo, mode, 0).expect("root");
            }),
            r#""etc/fifo" was written: a fifo"#,
        ),
        (
            Box::new(|at| file(at.join("data/deep/in"), "", 0o755)),
            r#""data/deep/in" was written: a file"#,
        ),
        (
            Box::new(|at| file(at.join("etc/\x1b[2J"), "", 0o755)),
            r#""etc/\x1b[2J" was written: a file"#,
        ),
        (
            Box::new(|at| directory(at.join("opt"), 0o755)),
            r#""opt" was written: a directory"#,
        ),
    ];
    for (change, sentence) in cases {
        let scratch = tempfile::tempdir().expect("a directory");
        podman(scratch.path());
        change(scratch.path());
        let mounts = [b"data/deep/".to_vec()];
        let question = Audit {
            mount_points: &mounts,
            ..Audit::new(Table::shipped())
        };
        assert_eq!(found(scratch.path(), &question), [sentence]);
    }
}

#[test]
fn a_directory_on_the_way_is_compared_with_the_image() {
    let scratch = tempfile::tempdir().expect("a directory");
    podman(scratch.path());
    let mut image = Tree::default();
    let opt = || Node::Directory(Meta::new(0o2755, 7, 8));
    image.insert(b"opt", opt()).expect("a tree");
    let content = ContentDigest::of(b"x");
    let meta = Meta::new(0o644, 0, 0);
    image
        .insert(
            b"opt/x",
            Node::File {
                meta,
                size: 1,
                content,
            },
        )
        .expect("a tree");
    directory(scratch.path().join("opt"), 0o2755);
    file(scratch.path().join("opt/x"), "y", 0o644);
    let mounts = [b"/data/deep".to_vec()];
    let question = Audit {
        mount_points: &mounts,
        image: Some(&image),
        ..Audit::new(Table::shipped())
    };
    let written = r#""opt/x" was written: a file"#;
    let attributes = r#""opt" has another mode or owner than in the image"#;
    assert_eq!(found(scratch.path(), &question), [attributes, written]);
    chown(scratch.path().join("opt"), Some(7), Some(8)).expect("root");
    fs::set_permissions(
        scratch.path().join("opt"),
        fs::Permissions::from_mode(0o2755),
    )
    .expect("a mode");
    assert_eq!(found(scratch.path(), &question), [written]);
    // Nobody's mount point is made for another.
    directory(scratch.path().join("data"), 0o777);
    assert_eq!(
        found(scratch.path(), &question),
        [r#""data" was written: a directory"#, written]
    );
}

#[test]
fn a_table_is_checked_before_it_is_used() {
    let engines: Vec<_> = Table::shipped().engines().into_iter().collect();
    assert_eq!(engines, ["containerd", "cri-o", "docker", "podman"]);
    let row = |text: &str| {
        let table = format!("[[stub]]\nwhy = \"x\"\nengines = [\"podman\"]\n{text}");
        Table::parse(&table).err().map(|error| error.to_string())
    };
    assert_eq!(
        row("path = \"/x\"\ntype = \"file\"\nmodes = [\"0644\"]"),
        None
    );
    for (text, sentence) in [
        ("path = \"/x\"\ntype = \"file\"", "needs modes"),
        (
            "path = \"/x\"\ntype = \"file\"\nmodes = [\"0899\"]",
            "no octal number",
        ),
        (
            "path = \"/../x\"\ntype = \"file\"\nmodes = [\"0644\"]",
            "a path that is none",
        ),
        (
            "path = \"/\"\ntype = \"directory\"\nmodes = [\"0755\"]",
            "of the root",
        ),
        ("path = \"/x\"\ntype = \"symlink\"", "needs a target"),
        ("path = \"/x\"\ntype = \"door\"", "no table of stubs"),
        (
            "path = \"/x\"\ntype = \"file\"\nmode = 7",
            "no table of stubs",
        ),
    ] {
        let error = row(text).expect("refused");
        assert!(error.contains(sentence), "{text}: {error}");
    }
    assert!(matches!(Table::parse("stub"), Err(TableError::Toml(_))));
}
