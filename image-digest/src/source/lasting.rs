// SPDX-License-Identifier: Apache-2.0
//! A mount that outlasts those that come and go: podman's store, say, is mounted on itself when its first container starts
//! and unmounted when its last one ends.
//!
//! A mount holds its file system (`struct vfsmount::mnt_sb`), and its number is no other's in this boot. If a mount with the
//! number of then is there now, the file system was there all the time between. Which of its mounts is asked for that is
//! thus no matter of safety: any will do that is there both times.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::container::bounded;
use super::directory::stamp::UNIQUE_MOUNT;
use super::mountinfo;

/// The first process's mounts, seen from here, then this process's own.
const SEEN: [(&str, &str); 2] = [
    ("/proc/1/mountinfo", "/proc/1/root"),
    ("/proc/self/mountinfo", "/proc/self/root"),
];

/// The number of the first mount listed of those that the file system on `device` has, as far as they are seen from here; if
/// none is, that of `reached`, by which a tree of it was. 0 before Linux 6.8, as `reached` is.
pub(crate) fn lasting_mount(device: (u32, u32), reached: u64) -> u64 {
    if reached == 0 {
        return 0;
    }
    let text = format!("{}:{}", device.0, device.1);
    let found = SEEN.iter().find_map(|(list, root)| {
        // Hidden from a user who is not root: then the own ones count.
        let mounts = mountinfo::parse(&bounded(Path::new(list)).ok()?).ok()?;
        let same = mounts
            .iter()
            .filter(|mount| mount.device == text.as_bytes());
        same.into_iter().find_map(|mount| {
            let point = mount.point.strip_prefix(b"/")?;
            let at = Path::new(root).join(OsStr::from_bytes(point));
            number(&at, device).ok().flatten()
        })
    });
    found.unwrap_or(reached)
}

/// That of the mount at `point`, if it is one of the file system on `device`: another may lie over it.
fn number(point: &Path, device: (u32, u32)) -> io::Result<Option<u64>> {
    // Nobody's server is waited for: a mount of something else may lie over it.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = statx(CWD, point, flags, StatxFlags::INO | UNIQUE_MOUNT)?;
    let is_it = (stat.stx_dev_major, stat.stx_dev_minor) == device
        && stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        && stat.stx_mask & UNIQUE_MOUNT.bits() != 0;
    Ok(is_it.then_some(stat.stx_mnt_id))
}
