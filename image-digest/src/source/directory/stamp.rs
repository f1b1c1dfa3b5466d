// SPDX-License-Identifier: Apache-2.0
//! What tells whether an entry is what it was: all that `stat` says of it, its change time above all.
//!
//! Every change of content, attributes or names moves an inode's change time, and nobody can set it. But the kernel
//! stamps by a clock that stands still for a tick (`CLOCK_REALTIME_COARSE`; since 6.13 until somebody looked), and file
//! systems cut times off, so that two changes may leave one time: a stamp says something only once its time has
//! passed, and who was changed just now is looked at again then ([`settled`]). A change time well ahead of the clock, after that was
//! set back, is as good as one in the past: the next change gives another.

use std::io;
use std::os::fd::BorrowedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cache::{Key, Volume};

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, StatxTimestamp, statx};
use rustix::time::{ClockId, clock_gettime};

const SECOND: i128 = 1_000_000_000;
/// Longer than a tick and than the coarsest clock of a file system (2 s, FAT).
const PATIENCE: Duration = Duration::from_secs(5);
/// Times further ahead than this come from a clock that was set back, not from one that is read coarsely.
const AHEAD: i128 = 3 * SECOND;
/// `STATX_MNT_ID_UNIQUE` (`include/uapi/linux/stat.h`, since Linux 6.8), which goes before `STATX_MNT_ID`.
pub(in crate::source) const UNIQUE_MOUNT: StatxFlags = StatxFlags::from_bits_retain(0x4000);

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
    /// Number of the mount that it was reached by, which no other of this boot has; 0 before Linux 6.8.
    pub(super) mount: u64,
}

impl Stamp {
    /// Of an entry of this directory; the empty name: of what is open. A link is not followed.
    pub(super) fn of(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        let wanted = StatxFlags::BASIC_STATS | UNIQUE_MOUNT;
        let stat = statx(directory, name, flags, wanted)?;
        let is_unique = stat.stx_mask & UNIQUE_MOUNT.bits() != 0;
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
            mount: if is_unique { stat.stx_mnt_id } else { 0 },
        })
    }

    /// What a cache knows it by.
    pub(super) fn key(&self, volume: Volume) -> Key {
        Key {
            volume,
            inode: self.inode,
            size: self.size,
            modified: self.modified,
            changed: self.changed,
        }
    }

    /// Whether every change from now on gives another change time. The clock said `now` before it was taken.
    fn is_settled(&self, now: i128) -> bool {
        let grain = match self.changed.1 {
            // Cut off to seconds (ext4 with small inodes), or to two (FAT).
            0 => 2 * SECOND,
            // exFAT.
            n if n % 10_000_000 == 0 => 10_000_000,
            // NTFS, and those that keep microseconds.
            _ => 1_000,
        };
        let changed = i128::from(self.changed.0) * SECOND + i128::from(self.changed.1);
        changed + grain <= now || changed > now + AHEAD
    }

    /// What is another in `now`, if anything.
    pub(super) fn changed_to(&self, now: &Self) -> Option<&'static str> {
        if self == now {
            return None;
        }
        Some(if self.mode & 0o170_000 != now.mode & 0o170_000 {
            "it is of another type"
        } else if (self.device, self.inode, self.mount) != (now.device, now.inode, now.mount) {
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

/// A stamp after which no change can hide, as `look` takes it; `None`: it was changed each time.
pub(super) fn settled(look: impl Fn() -> io::Result<Stamp>) -> io::Result<Option<Stamp>> {
    let mut now = clock();
    let mut since = None;
    loop {
        let stamp = look()?;
        if stamp.is_settled(now) {
            return Ok(Some(stamp));
        }
        if since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            return Ok(None);
        }
        sleep(Duration::from_millis(1));
        now = clock();
    }
}

/// That with which the kernel stamps.
fn clock() -> i128 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    i128::from(now.tv_sec) * SECOND + i128::from(now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_says_something_when_a_further_change_would_get_another() {
        let changed = |seconds, nanoseconds| Stamp {
            device: (8, 1),
            inode: 1,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            size: 0,
            special: (0, 0),
            modified: (0, 0),
            changed: (seconds, nanoseconds),
            is_mount: false,
            mount: 0,
        };
        for (stamp, now, is_settled) in [
            (changed(100, 123_456_789), 100 * SECOND + 123_456_789, false),
            (changed(100, 123_456_789), 100 * SECOND + 127_456_789, true),
            (changed(100, 120_000_000), 100 * SECOND + 127_456_789, false),
            (changed(100, 120_000_000), 100 * SECOND + 131_456_789, true),
            (changed(100, 0), 101 * SECOND, false),
            (changed(100, 0), 102 * SECOND, true),
            (changed(101, 5_000), 100 * SECOND, false),
            (changed(104, 5_000), 100 * SECOND, true),
            (changed(-5, 0), 0, true),
        ] {
            assert_eq!(
                stamp.is_settled(now),
                is_settled,
                "{:?} at {now}",
                stamp.changed
            );
        }
    }
}
