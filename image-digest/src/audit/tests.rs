// SPDX-License-Identifier: Apache-2.0
//! Those on a disk make device nodes and attributes `trusted.*`: they run as root.

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};

use super::*;

/// An upper directory in the making.
struct Upper(tempfile::TempDir);

impl Upper {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn mode(&self, path: &str, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.at(path), mode).unwrap();
    }

    fn directory(&self, path: &str, mode: u32) {
        std::fs::create_dir_all(self.at(path)).unwrap();
        self.mode(path, mode);
    }

    fn file(&self, path: &str, content: &str, mode: u32) {
        std::fs::write(self.at(path), content).unwrap();
        self.mode(path, mode);
    }

    fn attribute(&self, path: &str, name: &str, value: &[u8]) {
        setxattr(self.at(path), name, value, XattrFlags::empty()).unwrap();
    }

    fn whiteout(&self, path: &str) {
        let mode = Mode::empty();
        mknodat(CWD, self.at(path), FileType::CharacterDevice, mode, 0).unwrap();
    }

    fn audit(&self, question: &Audit<'_>) -> Vec<Finding> {
        audit(self.0.path(), question).unwrap()
    }
}

fn image() -> Tree {
    let mut image = Tree::default();
    let mut directory = |path: &str, mode| {
        let node = Node::Directory(Meta::new(mode, 0, 0));
        image.insert(path.as_bytes(), node).unwrap();
    };
    directory("etc", 0o755);
    directory("tmp", 0o1777);
    directory("usr", 0o755);
    image
}

fn question<'a>(stubs: &'a Stubs, engines: &'a [Engine], image: Option<&'a Tree>) -> Audit<'a> {
    Audit {
        stubs,
        engines,
        mount_points: &[],
        image,
        root: (0, 0),
        user_attributes: false,
        limits: Limits::default(),
    }
}

fn paths(findings: &[Finding]) -> Vec<String> {
    let path = |finding: &Finding| String::from_utf8(finding.path.clone()).unwrap();
    findings.iter().map(path).collect()
}

/// As podman and runc leave it.
fn podman() -> Upper {
    let upper = Upper::new();
    upper.directory("etc", 0o755);
    upper.directory("run", 0o755);
    upper.attribute("run", "trusted.overlay.opaque", b"y");
    for file in ["etc/hostname", "etc/hosts", "run/.containerenv"] {
        upper.file(file, "", 0o755);
    }
    symlink("/proc/mounts", upper.at("etc/mtab")).unwrap();
    upper.mode("", 0o555);
    upper
}

#[test]
fn what_an_engine_leaves_is_no_finding() {
    let (stubs, image) = (Stubs::shipped().unwrap(), image());
    let engines = [Engine::Podman, Engine::Runc];
    for engines in [&engines[..], &[]] {
        let found = podman().audit(&question(&stubs, engines, Some(&image)));
        assert_eq!(found, []);
    }
    // docker has no containerenv.
    let found = podman().audit(&question(&stubs, &[Engine::Docker], Some(&image)));
    assert_eq!(paths(&found), ["run", "run/.containerenv"]);
}

#[test]
fn what_was_made_changed_or_deleted_is_found_by_what_it_is() {
    let (stubs, image) = (Stubs::shipped().unwrap(), image());
    let upper = podman();
    upper.file("etc/passwd", "x", 0o644);
    upper.file("etc/resolv.conf", "evil", 0o755);
    upper.mode("etc/hostname", 0o4755);
    chown(upper.at("etc/hosts"), Some(1), Some(0)).unwrap();
    upper.attribute(
        "run/.containerenv",
        "security.capability",
        b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    );
    std::fs::remove_file(upper.at("etc/mtab")).unwrap();
    symlink("/tmp/mounts", upper.at("etc/mtab")).unwrap();
    upper.whiteout("etc/shadow");
    upper.directory("tmp", 0o1777);
    upper.directory("usr", 0o777);
    upper.directory("opt", 0o755);
    upper.file("opt/\u{1b}[2J", "x", 0o644);
    let found = upper.audit(&question(&stubs, &[], Some(&image)));
    let of = |path: &str| {
        let found = found.iter().find(|one| one.path == path.as_bytes());
        found.map(|one| (one.what, one.why.clone()))
    };
    let file = What::Created("file");
    assert_eq!(of("etc/passwd"), Some((file, Why::Unknown)));
    assert_eq!(of("etc/hostname"), Some((file, Why::SetId)));
    assert_eq!(of("run/.containerenv"), Some((file, Why::Capability)));
    assert_eq!(of("etc/shadow"), Some((What::Deleted, Why::Unknown)));
    assert_eq!(of("opt"), Some((What::Directory, Why::Unknown)));
    for path in ["etc/resolv.conf", "etc/hosts", "etc/mtab"] {
        let found = of(path);
        assert!(matches!(found, Some((_, Why::NoStub(_)))), "{found:?}");
    }
    assert!(matches!(
        of("usr"),
        Some((What::Directory, Why::Changed(_)))
    ));
    // Copied up, and as it was.
    assert_eq!(of("tmp"), None);
    assert_eq!(of("etc"), None);
    let text: Vec<_> = found.iter().map(Finding::to_string).collect();
    let text = text.join("\n");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.contains("it has 4 bytes"), "{text}");
}

#[test]
fn the_root_of_a_user_namespace_owns_the_stubs_in_it() {
    let (stubs, image) = (Stubs::shipped().unwrap(), image());
    let upper = podman();
    for path in ["etc", "etc/mtab", "run", "run/.containerenv"] {
        std::os::unix::fs::lchown(upper.at(path), Some(10_000), Some(0)).unwrap();
    }
    let question = question(&stubs, &[], Some(&image));
    assert_eq!(upper.audit(&question).len(), 4);
    let mapped = Audit {
        root: (10_000, 0),
        ..question
    };
    assert_eq!(upper.audit(&mapped), []);
}

#[test]
fn an_opaque_directory_is_found_if_it_hides_something() {
    let (stubs, image) = (Stubs::shipped().unwrap(), image());
    let upper = Upper::new();
    upper.directory("etc", 0o755);
    upper.attribute("etc", "trusted.overlay.opaque", b"y");
    let found = upper.audit(&question(&stubs, &[], Some(&image)));
    assert_eq!(
        (found[0].what, &found[0].why),
        (What::Opaque, &Why::Unknown)
    );
    let found = upper.audit(&question(&stubs, &[], None));
    assert_eq!(
        (found[0].what, &found[0].why),
        (What::Opaque, &Why::NoImage)
    );
}

#[test]
fn without_the_image_a_directory_above_a_stub_is_said_to_be_unproven() {
    let stubs = Stubs::shipped().unwrap();
    let upper = Upper::new();
    upper.directory("etc", 0o755);
    upper.file("etc/hostname", "", 0o700);
    let found = upper.audit(&question(&stubs, &[Engine::Podman], None));
    assert_eq!(paths(&found), ["etc"]);
    assert_eq!(found[0].why, Why::NoImage);
}

#[test]
fn mount_points_are_stubs_if_nothing_is_in_them() {
    let (stubs, image) = (Stubs::shipped().unwrap(), image());
    let mounts = [b"/srv/data/volume".to_vec(), b"usr/secret".to_vec()];
    let question = Audit {
        mount_points: &mounts,
        ..question(&stubs, &[Engine::Crun], Some(&image))
    };
    let upper = Upper::new();
    upper.directory("usr", 0o755);
    upper.file("usr/secret", "", 0o700);
    upper.directory("srv", 0o755);
    upper.directory("srv/data", 0o755);
    upper.directory("srv/data/volume", 0o700);
    assert_eq!(upper.audit(&question), []);
    upper.file("srv/data/volume/planted", "x", 0o644);
    upper.directory("srv/data", 0o777);
    let found = upper.audit(&question);
    assert_eq!(
        paths(&found),
        [
            "srv",
            "srv/data",
            "srv/data/volume",
            "srv/data/volume/planted"
        ]
    );
}

#[test]
fn what_the_overlay_shows_elsewhere_is_a_finding() {
    let (stubs, image) = (Stubs::shipped().unwrap(), image());
    let upper = Upper::new();
    upper.directory("etc", 0o755);
    upper.attribute("etc", "trusted.overlay.redirect", b"/usr");
    let found = upper.audit(&question(&stubs, &[], Some(&image)));
    assert_eq!(found[0].why, Why::Elsewhere("redirect"));
}

#[test]
fn a_hostile_directory_is_bounded_and_never_followed() {
    let stubs = Stubs::shipped().unwrap();
    let upper = Upper::new();
    symlink("/", upper.at("root")).unwrap();
    symlink("loop", upper.at("loop")).unwrap();
    for number in 0..100 {
        upper.file(&format!("file{number}"), "", 0o644);
    }
    let all = question(&stubs, &[], None);
    assert_eq!(upper.audit(&all).len(), 102);
    let few = Audit {
        limits: Limits {
            entries: 50,
            ..Limits::default()
        },
        ..all
    };
    assert!(matches!(
        audit(upper.0.path(), &few),
        Err(AuditError::Limit { .. })
    ));
    symlink(upper.0.path(), upper.at("link")).unwrap();
    let error = audit(&upper.at("link"), &all).unwrap_err().to_string();
    assert!(error.contains("cannot be opened"), "{error}");
}

#[test]
fn a_path_too_deep_to_open_is_a_finding_and_no_end() {
    use rustix::fs::{OFlags, mkdirat, openat};
    let stubs = Stubs::shipped().unwrap();
    let upper = Upper::new();
    let name = "d".repeat(250);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at = openat(CWD, upper.0.path(), flags, Mode::empty()).unwrap();
    for _ in 0..20 {
        mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    let found = upper.audit(&question(&stubs, &[], None));
    let last = found.last().unwrap();
    assert_eq!((last.what, &last.why), (What::Unread, &Why::TooDeep));
    assert_eq!(found.len(), 17);
}
