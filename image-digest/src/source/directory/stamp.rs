// SPDX-License-Identifier: Apache-2.0
//! What tells whether an entry is what it was: all that `stat` says of it, its change time above all.
//!
//! Every change of content, attributes or names moves an inode's change time. Kernels before 6.13 move it in
//! ticks, so that two changes within one may leave one time: an entry changed just now is read when
//! the tick is over ([`Stamp::settle`]). A change time in the future, after a clock was set back, is as good as one in the
//! past: the next change gives another. What moves no time is a store through a mapping that was made writable before;
//! whoever keeps digests asks for those ([`crate::Cache`]).

use std::io;
use std::os::fd::BorrowedFd;
use std::thread::sleep;
use std::time::Duration;

use crate::cache::Key;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, StatxTimestamp, statx};
use rustix::time::{ClockId, clock_gettime};

/// Longer than the longest tick, 10 ms where `CONFIG_HZ` is 100.
const TICK: i128 = 20_000_000;

/// What `stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) special: (u32, u32),
    /// Seconds since 1970, nanoseconds.
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
    pub(super) is_mount: bool,
}

impl Stamp {
    /// Of an entry of this directory; the empty name: of what is open. A link is not followed.
    pub(super) fn of(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        let stat = statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
        let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        Ok(Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            mode: stat.stx_mode.into(),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            special: (stat.stx_rdev_major, stat.stx_rdev_minor),
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
            is_mount: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })
    }

    /// What a cache knows it by.
    pub(super) fn key(&self) -> Key {
        Key {
            device: self.device,
            inode: self.inode,
            size: self.size,
            modified: self.modified,
            changed: self.changed,
        }
    }

    /// Waits until a further change would give another change time. True if it waited: then the entry has to be
    /// stamped again.
    pub(super) fn settle(&self) -> bool {
        let now = clock_gettime(ClockId::Realtime);
        let seconds = i128::from(now.tv_sec) - i128::from(self.changed.0);
        let since = seconds * 1_000_000_000 + i128::from(now.tv_nsec) - i128::from(self.changed.1);
        if !(-TICK..=TICK).contains(&since) {
            return false;
        }
        let wait = u64::try_from(TICK - since + 1).unwrap_or(0);
        sleep(Duration::from_nanos(wait));
        true
    }

    /// What is another in `now`, if anything.
    pub(super) fn changed_to(&self, now: &Self) -> Option<&'static str> {
        if self == now {
            return None;
        }
        Some(if self.mode & 0o170_000 != now.mode & 0o170_000 {
            "it is of another type"
        } else if (self.device, self.inode) != (now.device, now.inode) {
            "another has taken its place"
        } else if self.is_mount != now.is_mount {
            "something was mounted there"
        } else if self.size != now.size {
            "its size is another"
        } else if (self.mode, self.uid, self.gid) != (now.mode, now.uid, now.gid) {
            "its mode or owner is another"
        } else if self.modified != now.modified {
            "it was written to"
        } else {
            "its attributes or links changed"
        })
    }
}
