// SPDX-License-Identifier: Apache-2.0
//! What the probes tell the host's tasks from a container's by, and numbers of files as the kernel has them inside.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use cima_abi::{NS_COUNT, Ns};
use cima_policies::Host;
use procfs::process::{MountInfo, Process};

/// The host, by its first process.
///
/// # Errors
/// `/proc` is not to be read: this is not root, or not the host.
pub fn host() -> io::Result<Host> {
    let root = Path::new("/proc/1/root/");
    Ok(Host {
        namespaces: namespaces_of("1")?,
        root_device: device_of("1", root)?,
        // Of an overlay the kernel may have another inside; then nothing is taken for the host's.
        root_inode: match rustix::fs::statfs(root)?.f_type as u64 {
            // The root of each subvolume has the same.
            BTRFS_SUPER_MAGIC => 0,
            _ => fs::metadata(root)?.ino(),
        },
    })
}

/// `include/uapi/linux/magic.h`.
const BTRFS_SUPER_MAGIC: u64 = 0x9123_683e;

/// Inodes of the namespaces of process `pid` (or `self`), in record order.
///
/// # Errors
/// No such process.
pub(super) fn namespaces_of(pid: &str) -> io::Result<[u32; NS_COUNT]> {
    let mut inodes = [0; NS_COUNT];
    for ns in Ns::ALL {
        let inode = fs::metadata(format!("/proc/{pid}/ns/{}", ns.name()))?.ino();
        inodes[ns as usize] = u32::try_from(inode).map_err(io::Error::other)?;
    }
    Ok(inodes)
}

/// The device of what is at `path`, in the mount namespace of process `pid` (or `self`), in the kernel's encoding. Not
/// `st_dev`: btrfs and overlayfs give files other numbers there; mountinfo shows the superblock's.
///
/// # Errors
/// There is nothing, or its mount is not listed.
pub(super) fn device_of(pid: &str, path: &Path) -> io::Result<u32> {
    let statx = rustix::fs::statx(
        rustix::fs::CWD,
        path,
        rustix::fs::AtFlags::empty(),
        rustix::fs::StatxFlags::MNT_ID,
    )?;
    let process = match pid {
        "self" => Process::myself(),
        pid => Process::new(pid.parse().map_err(io::Error::other)?),
    };
    let mounts = process.and_then(|process| process.mountinfo());
    let mounts = mounts.map_err(io::Error::other)?;
    let mount = mounts
        .0
        .iter()
        .find(|mount| u64::try_from(mount.mnt_id).is_ok_and(|id| id == statx.stx_mnt_id))
        .ok_or_else(|| {
            let file = path.display();
            io::Error::other(format!(
                "the mount of {file} is not in /proc/{pid}/mountinfo"
            ))
        })?;
    device_of_mount(mount).ok_or_else(|| {
        let device = &mount.majmin;
        io::Error::other(format!("device {device} in /proc/{pid}/mountinfo"))
    })
}

/// The device of what is mounted, in the kernel's encoding (`MKDEV`); `None`: the line names none.
pub fn device_of_mount(mount: &MountInfo) -> Option<u32> {
    let (major, minor) = mount.majmin.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 1 << 12 && minor < 1 << 20).then_some(major << 20 | minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_major_and_minor_and_nothing_else() {
        let of = |device: &str| {
            let line = format!("24 29 {device} / /proc rw,nosuid - proc proc rw");
            device_of_mount(&MountInfo::from_line(&line).unwrap())
        };
        assert_eq!(of("8:1"), Some(8 << 20 | 1));
        assert_eq!(of("4095:1048575"), Some(u32::MAX));
        for odd in ["8", "8:", ":1", "8:1:2", "4096:0", "0:1048576", "-1:0"] {
            assert_eq!(of(odd), None, "{odd}");
        }
    }
}
