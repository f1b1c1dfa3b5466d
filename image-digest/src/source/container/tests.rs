// SPDX-License-Identifier: Apache-2.0
//! One of these mounts an overlay and runs a program in it: it runs as root.

use std::num::NonZero;
use std::os::unix::fs::symlink;
use std::process::{Child, Command};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;
use crate::{Limits, Progress};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "ff23456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn the_id_is_found_as_each_engine_writes_it() {
    for path in [
        format!("0::/libpod_parent/libpod-{ID}"),
        format!("0::/machine.slice/libpod-{ID}.scope/container/{OTHER}"),
        format!("0::/system.slice/docker-{ID}.scope\n"),
        format!("12:pids:/docker/{OTHER}\n0::/kubepods.slice/crio-{ID}.scope"),
        format!("1:name=systemd:/docker/{ID}\n0::/\n"),
    ] {
        assert_eq!(container_id(path.as_bytes()).as_deref(), Some(ID), "{path}");
    }
    for path in [
        "0::/",
        "",
        &format!("0::/{ID}0"),
        &format!("0::/machine.slice/libpod-conmon-{ID}.scope"),
        &format!("0::/{}", &ID[1..]),
    ] {
        assert_eq!(container_id(path.as_bytes()), None, "{path}");
    }
}

fn root_of(line: &str) -> Mount {
    mountinfo::parse(line.as_bytes()).unwrap().remove(0)
}

#[test]
fn a_root_that_is_no_overlay_is_named_with_the_source_that_reads_it() {
    for (kind, says) in [
        ("btrfs", "btrfs"),
        ("zfs", "dir:/proc/7/root"),
        ("ext4", "ext4"),
        ("fuse.fuse-overlayfs", "name the container"),
    ] {
        let root = root_of(&format!("5 4 0:9 / / rw - {kind} tank/x rw"));
        let error = check_type(7, &root).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let inside = root_of("5 4 0:9 /sub / rw - overlay overlay rw,lowerdir=a");
    assert!(matches!(
        check_type(7, &inside),
        Err(ContainerError::Inside { .. })
    ));
}

#[test]
fn the_store_is_where_the_upper_directory_or_the_mount_is() {
    let here = [root_of("5 4 0:9 / /s/overlay/id/merged rw - overlay o rw")];
    let home = |upper: Option<&str>, here: &[Mount]| home(upper.map(str::as_bytes), here);
    assert_eq!(home(Some("/x/o/id/diff"), &[]), Some("/x/o".into()));
    assert_eq!(home(Some("id/diff"), &here), Some("/s/overlay".into()));
    assert_eq!(home(None, &here), Some("/s/overlay".into()));
    assert_eq!(home(Some("id/diff"), &[]), None);
    assert_eq!(home(Some("/x/snapshots/2/fs"), &[]), None);
    assert!(matches!(
        lower_directory(b"l/A", None),
        Err(ContainerError::Relative(_))
    ));
    assert!(matches!(
        lower_directory(b"/proc/self/fd/7", None),
        Err(ContainerError::Descriptor(_))
    ));
    let home = Path::new("/x/o");
    assert!(matches!(
        lower_directory(b"/x/o/id/mapped/0", Some(home)),
        Err(ContainerError::Mapped(_))
    ));
}

#[test]
fn mounts_are_told_from_the_containers_root() {
    assert_eq!(below_root(b"/proc", b"/"), Some(b"proc".to_vec()));
    assert_eq!(below_root(b"/r/etc/a", b"/r"), Some(b"etc/a".to_vec()));
    assert_eq!(below_root(b"/rest", b"/r"), None);
    assert_eq!(below_root(b"/", b"/"), None);
}

/// A driver's home with layers, an overlay of them, and a process whose root that is.
struct Rig {
    root: tempfile::TempDir,
    child: Option<Child>,
}

impl Rig {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let rig = Self { root, child: None };
        for directory in [
            "base/diff/mnt",
            "id-init/diff/etc",
            "id/diff",
            "id/work",
            "id/merged",
            "l",
        ] {
            std::fs::create_dir_all(rig.at(directory)).unwrap();
        }
        symlink("../base/diff", rig.at("l/BASE")).unwrap();
        symlink("../id-init/diff", rig.at("l/INIT")).unwrap();
        std::fs::write(rig.at("id-init/diff/etc/hosts"), "").unwrap();
        for path in libraries_of("/bin/sleep") {
            let to = rig.at("base/diff").join(path.strip_prefix("/").unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(&path, to).unwrap();
        }
        rig
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn mount(&self) {
        let at = |path| self.at(path).display().to_string();
        let options = format!(
            "lowerdir={}:{},upperdir={},workdir={}",
            at("l/INIT"),
            at("l/BASE"),
            at("id/diff"),
            at("id/work")
        );
        let options = std::ffi::CString::new(options).unwrap();
        let merged = self.at("id/merged");
        let flags = MountFlags::empty();
        mount("overlay", merged, "overlay", flags, &*options).unwrap();
    }

    /// Runs a program in it, and waits until it is there.
    fn start(&mut self) -> u32 {
        let mut chroot = Command::new("chroot");
        let child = chroot.arg(self.at("id/merged")).args(["/bin/sleep", "60"]);
        let child = child.spawn().unwrap();
        let pid = child.id();
        self.child = Some(child);
        for _ in 0..500 {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
            if name.trim() == "sleep" {
                return pid;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the program does not start");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = unmount(self.at("id/merged"), UnmountFlags::DETACH);
    }
}

/// A program and the files that its loader reads.
fn libraries_of(program: &str) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let words = output.split_whitespace();
    let mut files: Vec<_> = words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect();
    files.push(program.into());
    files
}

#[test]
fn below_a_process_are_its_images_layers_without_what_docker_made() {
    let mut rig = Rig::new();
    rig.mount();
    let pid = rig.start();
    let container = Container::of_process(pid).unwrap();
    assert_eq!(container.upper(), Some(&*rig.at("id/diff")));
    assert!(!container.user_attributes());
    let progress = Progress::default();
    let options = Options {
        limits: Limits::default(),
        platform: None,
        threads: NonZero::new(2).unwrap(),
        progress: &progress,
        cache: None,
    };
    let image = container.read(&options).unwrap();
    let base = crate::source::directory::read(&rig.at("base/diff"), &options).unwrap();
    assert_eq!(image.tree, base.tree);
    assert_eq!(read(&pid.to_string(), &options).unwrap().tree, base.tree);
    // What a hook is given: the mount, not yet anybody's root.
    let hook = Container::of_mount_point(std::process::id(), &rig.at("id/merged")).unwrap();
    assert_eq!(hook.read(&options).unwrap().tree, base.tree);
}

#[test]
fn an_overlay_that_was_mounted_in_another_namespace_is_refused() {
    let mut rig = Rig::new();
    let at = |path| rig.at(path).display().to_string();
    let script = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} {2}/../merged && exec chroot {2}/../merged /bin/sleep 60",
        at("base/diff"),
        at("id/diff"),
        at("id/work")
    );
    let mut unshare = Command::new("unshare");
    let child = unshare.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    let pid = child
        .spawn()
        .map(|child| (child.id(), rig.child = Some(child)));
    let pid = pid.unwrap().0;
    let mut found = Container::of_process(pid);
    for _ in 0..500 {
        if matches!(found, Err(ContainerError::Elsewhere(_))) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        found = Container::of_process(pid);
    }
    let error = found.unwrap_err().to_string();
    assert!(error.contains("another mount namespace"), "{error}");
}

#[test]
fn what_is_no_container_is_said_so() {
    let own = Container::of_process(std::process::id());
    assert!(own.is_err());
    for number in ["99999999999", "4294967295"] {
        let error = Container::find(number).unwrap_err().to_string();
        assert!(error.contains(number), "{error}");
    }
    let text = format!("[overlay@/nonexistent]{ID}");
    assert!(Container::find(&text).is_err());
    assert_eq!(first_process(ID).unwrap(), None);
}
