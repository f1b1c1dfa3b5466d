// SPDX-License-Identifier: Apache-2.0
//! Trees that are made for it, and changed while they are read. Run by root: devices and owners are made.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, XattrFlags, makedev, mkdirat, mknodat, openat, setxattr,
};

use super::walk::walk;
use super::*;
use crate::{Cache, ContentDigest, Device, Format, ImageDigest, Limits, Meta, Node, Progress};

const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn file(path: impl AsRef<Path>, content: &str) {
    fs::write(path, content).expect("a file");
}

/// Reads with two threads, doing `change` at each moment.
fn read_with(
    root: &Path,
    cache: Option<&Cache>,
    limits: Limits,
    change: &(dyn Fn(Moment<'_>) + Sync),
) -> Result<Tree, DirectoryError> {
    let options = Options {
        limits,
        platform: None,
        threads: std::num::NonZero::new(2).expect("two"),
        cache,
        progress: &Progress::default(),
    };
    let root = open_root(root)?;
    let budget = Budget::new(limits);
    let change = Some(change);
    let root = root.as_fd();
    let walked = walk(root, Kind::Image, &budget, &options, change, |walked| {
        walked
    })?;
    let entries = walked.entries.into_iter();
    Ok(Tree::of_walk(entries.map(|(path, found)| match found {
        Found::Node(node) => (path, node),
        other => panic!("{other:?}"),
    })))
}

fn tree(root: &Path) -> Result<Tree, DirectoryError> {
    read_with(root, None, Limits::default(), &|_| {})
}

fn digest(root: &Path) -> ImageDigest {
    tree(root).expect("it is quiet").digest()
}

#[test]
fn every_kind_of_entry_is_what_it_is_and_no_link_is_followed() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    let node = |name: &str, kind, device| {
        mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device).expect("root");
    };
    fs::create_dir(at("d")).expect("a directory");
    fs::set_permissions(at("d"), Permissions::from_mode(0o1777)).expect("a mode");
    file(at("d/f"), "#!/bin/sh\n");
    fs::set_permissions(at("d/f"), Permissions::from_mode(0o4711)).expect("a mode");
    chown(at("d/f"), Some(1000), Some(2000)).expect("root");
    fs::set_permissions(at("d/f"), Permissions::from_mode(0o4711)).expect("a mode");
    for name in ["d", "d/f"] {
        setxattr(
            at(name),
            "security.capability",
            CAPABILITY,
            XattrFlags::empty(),
        )
        .expect("root");
    }
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    node("char", FileType::CharacterDevice, makedev(1, 300));
    node("block", FileType::BlockDevice, makedev(259, 70_000));
    setxattr(
        at("char"),
        "security.capability",
        CAPABILITY,
        XattrFlags::empty(),
    )
    .expect("root");
    fs::hard_link(at("d/f"), at("hard")).expect("a link");
    // Who followed these would wait for ever, leave the tree, or go round in it.
    for (name, target) in [
        ("l1", "fifo"),
        ("l2", "/proc"),
        ("l3", "."),
        ("l4", "nowhere"),
    ] {
        symlink(target, at(name)).expect("a link");
    }
    let odd = std::ffi::OsStr::from_bytes(b"odd \n\\\xff");
    file(scratch.path().join(odd), "");
    file(at(&"n".repeat(255)), "");

    let read = tree(scratch.path()).expect("it is quiet");
    let get = |path: &[u8]| {
        read.get(path)
            .unwrap_or_else(|| panic!("{}", path.escape_ascii()))
    };
    let meta = |mode| Meta::new(mode, 0, 0);
    let capable = |meta: Meta| meta.with_capability(CAPABILITY.to_vec());
    assert_eq!(*get(b"d"), Node::Directory(capable(meta(0o1777))));
    let script = Node::File {
        meta: capable(Meta::new(0o4711, 1000, 2000)),
        size: 10,
        content: ContentDigest::of(b"#!/bin/sh\n"),
    };
    assert_eq!(*get(b"d/f"), script);
    assert_eq!(*get(b"hard"), script);
    assert_eq!(*get(b"fifo"), Node::Fifo(meta(0o640)));
    assert_eq!(*get(b"socket"), Node::Socket(meta(0o640)));
    let device = |major, minor| Device { major, minor };
    assert_eq!(
        *get(b"char"),
        Node::CharDevice(capable(meta(0o640)), device(1, 300))
    );
    assert_eq!(
        *get(b"block"),
        Node::BlockDevice(meta(0o640), device(259, 70_000))
    );
    for (name, target) in [
        (b"l1", &b"fifo"[..]),
        (b"l2", b"/proc"),
        (b"l3", b"."),
        (b"l4", b"nowhere"),
    ] {
        let target = target.to_vec();
        assert_eq!(
            *get(name),
            Node::Symlink {
                uid: 0,
                gid: 0,
                target
            }
        );
    }
    get(b"odd \n\\\xff");
    assert_eq!(read.entries().count(), 13);
    // What a walk gives is in order, and a tree.
    let mut again = Tree::default();
    for (path, node) in read.entries() {
        again.insert(&path, node.clone()).expect("it is a tree");
    }
    assert_eq!(again, read);
}

#[test]
fn formats_of_large_and_small_files_are_known() {
    let scratch = scratch();
    let large = format!("\x7fELF{}", "x".repeat(3 << 20));
    file(scratch.path().join("large"), &large);
    file(scratch.path().join("small"), "#! /bin/sh -e\n");
    let progress = Progress::default();
    let options = Options {
        limits: Limits::default(),
        platform: None,
        threads: std::num::NonZero::<usize>::MIN,
        cache: None,
        progress: &progress,
    };
    let image = read(scratch.path(), &options).expect("quiet");
    let format = |content: &str| image.formats.get(&ContentDigest::of(content.as_bytes()));
    assert_eq!(format(&large), Some(&Format::Elf));
    assert_eq!(
        format("#! /bin/sh -e\n"),
        Some(&Format::Script(b"/bin/sh".to_vec()))
    );
    assert_eq!(progress.done(), large.len() as u64 + 14);
    assert_eq!(progress.total(), progress.done());
}

#[test]
fn a_path_that_nobody_could_open_is_refused_and_one_byte_less_is_read() {
    let scratch = scratch();
    // 4,094 bytes of directories, and a name behind them.
    let mut directory = open(scratch.path(), OFlags::PATH, Mode::empty()).expect("it");
    for name in std::iter::repeat_n("d", 2046) {
        mkdirat(&directory, name, Mode::from_raw_mode(0o755)).expect("a directory");
        directory = openat(&directory, name, OFlags::PATH, Mode::empty()).expect("it");
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let create = |name: &str| {
        openat(&directory, name, flags, Mode::from_raw_mode(0o644)).expect("a file");
    };
    create("xxx");
    let read = tree(scratch.path()).expect("deep is no crime");
    assert_eq!(read.entries().map(|(path, _)| path.len()).max(), Some(4095));
    create("xxxx");
    let error = tree(scratch.path()).expect_err("too long").to_string();
    assert!(
        error.contains("d/d/xxxx\" is no path inside an image"),
        "{error}"
    );
}

#[test]
fn limits_hold_for_trees() {
    let scratch = scratch();
    for name in ["a", "b", "c"] {
        file(scratch.path().join(name), "12345");
    }
    let limited = |limits| {
        let read = read_with(scratch.path(), None, limits, &|_| {});
        read.err().map(|error| error.to_string())
    };
    let limits = Limits {
        entries: 3,
        path_bytes: 3,
        content_bytes: 15,
    };
    assert_eq!(limited(limits), None);
    let entries = limited(Limits {
        entries: 2,
        ..limits
    });
    assert!(entries.is_some_and(|error| error.contains("more than 2 files")));
    let content = limited(Limits {
        content_bytes: 14,
        ..limits
    });
    assert!(content.is_some_and(|error| error.contains("more than 14 bytes")));
}

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let scratch = scratch();
    file(scratch.path().join("file"), "");
    for name in ["file", "nothing"] {
        let error = tree(&scratch.path().join(name))
            .expect_err("no directory")
            .to_string();
        assert!(error.contains("cannot be opened as a directory"), "{error}");
    }
    // Who names a link means what it leads to.
    symlink(".", scratch.path().join("link")).expect("a link");
    assert_eq!(digest(&scratch.path().join("link")), digest(scratch.path()));
}

/// What is done to the tree of `made`, when, and what is said of it.
type Case = (&'static str, Moment<'static>, fn(&Path), &'static str);

/// Files `a` to `c`, a large one, a directory with a file.
fn made() -> tempfile::TempDir {
    let scratch = scratch();
    for name in ["a", "b", "c"] {
        file(scratch.path().join(name), "content");
    }
    file(scratch.path().join("large"), &"x".repeat(2 << 20));
    fs::create_dir(scratch.path().join("d")).expect("a directory");
    file(scratch.path().join("d/e"), "content");
    scratch
}

fn append(path: impl AsRef<Path>) {
    let file = OpenOptions::new().append(true).open(path);
    file.expect("a file").write_all(b"more").expect("a write");
}

#[test]
fn a_tree_that_changes_while_it_is_read_is_an_error_that_names_what_changed() {
    const START: Moment<'_> = Moment::Listed(b"");
    const END: Moment<'_> = Moment::ReadAll;
    let cases: Vec<Case> = vec![
        (
            "vanishes",
            START,
            |at| fs::remove_file(at.join("b")).expect("it"),
            "\"b\" changed while the tree was read: it is gone",
        ),
        (
            "becomes a link",
            START,
            |at| {
                fs::remove_file(at.join("b")).expect("it");
                symlink("/etc/passwd", at.join("b")).expect("a link");
            },
            "\"b\" changed while the tree was read: it is of another type",
        ),
        (
            "becomes a fifo",
            START,
            |at| {
                fs::remove_file(at.join("b")).expect("it");
                mknodat(
                    CWD,
                    at.join("b"),
                    FileType::Fifo,
                    Mode::from_raw_mode(0o644),
                    0,
                )
                .expect("root");
            },
            "\"b\" changed while the tree was read: it is of another type",
        ),
        (
            "becomes a directory",
            START,
            |at| {
                fs::remove_file(at.join("b")).expect("it");
                fs::create_dir(at.join("b")).expect("a directory");
            },
            "\"b\" changed while the tree was read: it is of another type",
        ),
        (
            "directory becomes a link",
            START,
            |at| {
                fs::rename(at.join("d"), at.join("elsewhere")).expect("it");
                symlink("elsewhere", at.join("d")).expect("a link");
            },
            "changed while the tree was read",
        ),
        (
            "grows",
            Moment::Opened(b"b"),
            |at| append(at.join("b")),
            "\"b\" changed",
        ),
        (
            "grows, large",
            Moment::Opened(b"large"),
            |at| append(at.join("large")),
            "\"large\" changed",
        ),
        (
            "shrinks",
            Moment::Opened(b"large"),
            |at| {
                File::create(at.join("large")).expect("it");
            },
            "\"large\" changed",
        ),
        (
            "grows when it was read",
            END,
            |at| append(at.join("b")),
            "\"b\" changed while the tree was read: its size is another",
        ),
        (
            "is written to",
            END,
            |at| file(at.join("b"), "CONTENT"),
            "\"b\" changed while the tree was read: it was written to",
        ),
        (
            "is replaced",
            END,
            |at| {
                file(at.join("../other"), "content");
                fs::rename(at.join("../other"), at.join("b")).expect("it");
            },
            "changed while the tree was read",
        ),
        (
            "gets another mode",
            END,
            |at| {
                fs::set_permissions(at.join("b"), Permissions::from_mode(0o600)).expect("a mode");
            },
            "\"b\" changed while the tree was read: its mode or owner is another",
        ),
        (
            "gets another owner",
            END,
            |at| chown(at.join("d/e"), Some(7), None).expect("root"),
            "\"d/e\" changed while the tree was read: its mode or owner is another",
        ),
        (
            "gets a capability",
            END,
            |at| {
                setxattr(
                    at.join("c"),
                    "security.capability",
                    CAPABILITY,
                    XattrFlags::empty(),
                )
                .expect("root");
            },
            "\"c\" changed while the tree was read: its attributes or links changed",
        ),
        (
            "comes",
            END,
            |at| file(at.join("d/new"), ""),
            "\"d\" changed while the tree was read",
        ),
        (
            "goes",
            END,
            |at| fs::remove_file(at.join("d/e")).expect("it"),
            "\"d\" changed while the tree was read",
        ),
        (
            "directory goes",
            END,
            |at| fs::remove_dir_all(at.join("d")).expect("it"),
            "changed while the tree was read",
        ),
        (
            "is exchanged",
            END,
            |at| {
                fs::rename(at.join("a"), at.join("x")).expect("it");
                fs::rename(at.join("b"), at.join("a")).expect("it");
                fs::rename(at.join("x"), at.join("b")).expect("it");
            },
            "changed while the tree was read",
        ),
    ];
    for (case, moment, change, sentence) in cases {
        // A directory above, to have somewhere beside the tree.
        let outer = scratch();
        let root = outer.path().join("root");
        fs::rename(made().keep(), &root).expect("the same file system");
        let done = AtomicBool::new(false);
        let read = read_with(&root, None, Limits::default(), &|now| {
            if now == moment && !done.swap(true, Ordering::Relaxed) {
                change(&root);
            }
        });
        assert!(done.into_inner(), "{case}: the moment came");
        let error = read.expect_err(case).to_string();
        assert!(error.contains(sentence), "{case}: {error}");
    }
}

#[test]
fn two_files_are_never_of_two_times() {
    // The one that was read changes, then the one that is about to be read: each for itself is whole.
    let scratch = made();
    let seen = std::sync::Mutex::new(Vec::new());
    let read = read_with(scratch.path(), None, Limits::default(), &|moment| {
        if let Moment::Opened(path) = moment {
            let mut seen = seen.lock().expect("no panic");
            if let Some(before) = seen.last() {
                let before: &Vec<u8> = before;
                file(
                    scratch.path().join(std::ffi::OsStr::from_bytes(before)),
                    "later",
                );
            }
            seen.push(path.to_vec());
        }
    });
    let error = read.expect_err("a mixture").to_string();
    assert!(error.contains("changed while the tree was read"), "{error}");
}

#[test]
fn a_tree_under_change_gives_a_digest_of_a_moment_or_none() {
    let scratch = made();
    let at = |name: &str| scratch.path().join(name);
    // Two states, which differ in two files.
    let put = |text: &str| {
        for name in ["a", "d/e"] {
            file(at("temporary"), text);
            fs::rename(at("temporary"), at(name)).expect("it");
        }
    };
    let mut legal = Vec::new();
    for text in ["odd", "even"] {
        put(text);
        legal.push(digest(scratch.path()));
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for text in ["odd", "even"] {
                    put(text);
                    std::thread::sleep(std::time::Duration::from_millis(7));
                }
            }
        });
        let (mut whole, mut refused) = (0, 0);
        for _ in 0..60 {
            match tree(scratch.path()) {
                Ok(tree) => {
                    assert!(legal.contains(&tree.digest()), "a mixture");
                    whole += 1;
                }
                Err(DirectoryError::Changed { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(refused > 0, "{whole} whole");
    });
}

/// A cache that has another digest for every file than it has, so that its use can be seen.
fn lying_cache(root: &Path) -> Cache {
    let cache = Cache::default();
    read_with(root, Some(&cache), Limits::default(), &|_| {}).expect("quiet");
    cache.lie();
    cache
}

fn uses_cache(root: &Path, cache: &Cache, name: &[u8]) -> bool {
    let read = read_with(root, Some(cache), Limits::default(), &|_| {}).expect("quiet");
    match read.get(name) {
        Some(Node::File { content, .. }) => *content == ContentDigest::of(b"a lie"),
        other => panic!("{other:?}"),
    }
}

/// On a file system where digests are kept; `/tmp` may be none.
fn on_disk() -> tempfile::TempDir {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    fs::create_dir_all(&target).expect("a directory");
    tempfile::tempdir_in(target).expect("a directory")
}

#[test]
fn a_known_digest_is_used_only_for_what_nobody_wrote_to() {
    let scratch = on_disk();
    let at = scratch.path().join("file");
    let reset = || {
        let _ = fs::remove_file(&at);
        file(&at, "content");
        lying_cache(scratch.path())
    };
    let uses = |cache: &Cache| uses_cache(scratch.path(), cache, b"file");

    let cache = reset();
    assert!(uses(&cache), "nothing happened");
    File::open(&at).expect("it");
    assert!(uses(&cache), "it was read");

    let mut writer = OpenOptions::new().write(true).open(&at).expect("it");
    assert!(uses(&cache), "nobody wrote so far");
    writer.write_all(b"C").expect("a write");
    assert!(!uses(&cache), "somebody wrote, and still may");
    drop(writer);

    for (case, change) in [
        ("written to", (|at| file(at, "CONTENT")) as fn(&Path)),
        ("appended to", |at| append(at)),
        ("another mode", |at| {
            fs::set_permissions(at, Permissions::from_mode(0o600)).expect("a mode");
        }),
        ("times set back", |at| {
            let times = fs::metadata(at).expect("it").modified().expect("a time");
            file(at, "CONTENT");
            let file = OpenOptions::new().write(true).open(at).expect("it");
            file.set_modified(times).expect("root");
        }),
        ("another in its place", |at| {
            let other = at.with_extension("other");
            file(&other, "CONTENT");
            fs::rename(&other, at).expect("it");
        }),
    ] {
        let cache = reset();
        change(&at);
        assert!(!uses(&cache), "{case}");
    }
}

#[test]
fn what_is_open_for_writing_while_it_is_read_is_not_kept() {
    let scratch = on_disk();
    let at = scratch.path().join("file");
    file(&at, "content");
    let writer = OpenOptions::new().write(true).open(&at).expect("it");
    let cache = Cache::default();
    read_with(scratch.path(), Some(&cache), Limits::default(), &|_| {}).expect("quiet");
    drop(writer);
    cache.lie();
    assert!(!uses_cache(scratch.path(), &cache, b"file"));
    // That reading, in turn, is kept.
    cache.lie();
    assert!(uses_cache(scratch.path(), &cache, b"file"));
}

#[test]
fn nothing_is_kept_of_file_systems_that_do_not_tell_of_every_change() {
    let shared = tempfile::tempdir_in("/dev/shm").expect("tmpfs");
    file(shared.path().join("file"), "content");
    let cache = lying_cache(shared.path());
    assert!(!uses_cache(shared.path(), &cache, b"file"));
}

/// A file system of its own in a file, mounted by a loop device; unmounted when dropped.
struct Mounted {
    image: std::path::PathBuf,
    at: std::path::PathBuf,
}

impl Mounted {
    fn made(scratch: &Path, inode_size: &str) -> Self {
        let image = scratch.join("image");
        File::create(&image)
            .expect("a file")
            .set_len(32 << 20)
            .expect("room");
        let mut mke2fs = std::process::Command::new("mke2fs");
        run(mke2fs
            .args(["-q", "-t", "ext4", "-I", inode_size])
            .arg(&image));
        Self::again(image, scratch.join("mounted"))
    }

    /// Unmounted, and the content of a file changed on its disk.
    fn rewritten(self) -> (std::path::PathBuf, std::path::PathBuf) {
        let (image, at) = (self.image.clone(), self.at.clone());
        drop(self);
        let bytes = fs::read(&image).expect("the image");
        let place = bytes
            .windows(4)
            .position(|four| four == b"good")
            .expect("it is there");
        let writer = OpenOptions::new()
            .write(true)
            .open(&image)
            .expect("the image");
        std::os::unix::fs::FileExt::write_all_at(&writer, b"evil", place as u64).expect("a write");
        (image, at)
    }

    fn again(image: std::path::PathBuf, at: std::path::PathBuf) -> Self {
        let _ = fs::create_dir(&at);
        let mut mount = std::process::Command::new("mount");
        run(mount.args(["-o", "loop"]).arg(&image).arg(&at));
        Self { image, at }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(std::process::Command::new("umount").arg(&self.at));
    }
}

fn run(command: &mut std::process::Command) {
    let done = command.output().expect("it can be started");
    assert!(done.status.success(), "{command:?}: {done:?}");
}

fn cached_digest(root: &Path, cache: &Cache) -> ImageDigest {
    let read = read_with(root, Some(cache), Limits::default(), &|_| {});
    read.expect("quiet").digest()
}

#[test]
fn a_file_system_that_keeps_whole_seconds_hides_no_change() {
    let scratch = on_disk();
    let mounted = Mounted::made(scratch.path(), "128");
    let tree = mounted.at.join("tree");
    fs::create_dir(&tree).expect("a directory");
    let cache = Cache::default();
    for round in 0..3 {
        file(tree.join("f"), &format!("content {round}"));
        assert_eq!(cached_digest(&tree, &cache), digest(&tree));
    }
}

#[test]
fn an_image_that_was_changed_while_it_was_not_mounted_is_read_again() {
    let scratch = on_disk();
    let mounted = Mounted::made(scratch.path(), "256");
    let tree = mounted.at.join("tree");
    fs::create_dir(&tree).expect("a directory");
    file(tree.join("f"), "good, good, good");
    let cache = lying_cache(&tree);
    assert!(uses_cache(&tree, &cache, b"f"));
    let before = digest(&tree);
    let (image, at) = mounted.rewritten();
    let _mounted = Mounted::again(image, at);
    assert_eq!(cached_digest(&tree, &cache), digest(&tree));
    assert_ne!(digest(&tree), before);
}

/// Before Linux 6.8 a mount has no number of its own, and then this is not noticed, as `cache.rs` says.
#[test]
fn a_disk_that_was_changed_while_it_was_attached_but_not_mounted_is_read_again() {
    let scratch = on_disk();
    if stamp::Stamp::of(File::open(scratch.path()).expect("it").as_fd(), c"")
        .expect("a stamp")
        .mount
        == 0
    {
        return;
    }
    let mounted = Mounted::made(scratch.path(), "256");
    let mut attach = std::process::Command::new("losetup");
    let attached = attach.args(["--find", "--show"]).arg(&mounted.image);
    let attached = attached.output().expect("it can be started");
    let disk = String::from_utf8(attached.stdout).expect("a path");
    let disk = Path::new(disk.trim());
    let at = scratch.path().join("disk");
    fs::create_dir(&at).expect("a directory");
    // The first mount of the image is another disk to the kernel.
    drop(mounted);
    let mount = || run(std::process::Command::new("mount").arg(disk).arg(&at));
    let unmount = || run(std::process::Command::new("umount").arg(&at));
    mount();
    let tree = at.join("tree");
    fs::create_dir(&tree).expect("a directory");
    file(tree.join("f"), "good, good, good");
    let before = digest(&tree);
    let cache = lying_cache(&tree);
    let was_used = uses_cache(&tree, &cache, b"f");
    unmount();
    let bytes = fs::read(disk).expect("the disk");
    let place = bytes.windows(4).position(|four| four == b"good");
    let writer = OpenOptions::new().write(true).open(disk).expect("the disk");
    let place = place.expect("it is there") as u64;
    std::os::unix::fs::FileExt::write_all_at(&writer, b"evil", place).expect("a write");
    drop(writer);
    mount();
    let (cached, now) = (cached_digest(&tree, &cache), digest(&tree));
    unmount();
    run(std::process::Command::new("losetup").arg("-d").arg(disk));
    assert!(was_used);
    assert_eq!(cached, now);
    assert_ne!(now, before);
}

#[test]
fn what_is_known_of_a_file_system_is_used_by_each_of_its_mounts() {
    let scratch = on_disk();
    let mounted = Mounted::made(scratch.path(), "256");
    let tree = mounted.at.join("tree");
    fs::create_dir(&tree).expect("a directory");
    file(tree.join("f"), "content");
    let bound = |look: &dyn Fn()| {
        run(std::process::Command::new("mount")
            .arg("--bind")
            .args([&tree, &tree]));
        look();
        run(std::process::Command::new("umount").arg(&tree));
    };
    let cache = std::cell::OnceCell::new();
    bound(&|| {
        cache.get_or_init(|| lying_cache(&tree));
    });
    let cache = cache.into_inner().expect("it was read");
    let used = std::cell::Cell::new(false);
    bound(&|| used.set(uses_cache(&tree, &cache, b"f")));
    assert!(used.get(), "by another mount");
    assert!(uses_cache(&tree, &cache, b"f"), "by the first");
}
