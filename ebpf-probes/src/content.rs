// SPDX-License-Identifier: GPL-2.0-only
//! The content behind a file: which inode holds it, who could change it, and when
//! it last may have changed.
//!
//! A file on overlayfs has an inode of its own, but its bytes lie in the inode of a
//! lower or upper layer, and whoever keeps a writable mapping of it counts as a writer
//! there and only there (`fs/overlayfs/file.c`, 6.1 and 6.12). So the real inode is what counts.

use aya_ebpf::Global;
use cima_abi::{MOUNT_SLOTS, WRITE_SLOTS};

use crate::{
    file::{File, HUGETLBFS_MAGIC, OVERLAYFS_SUPER_MAGIC, SB_KERNMOUNT, TMPFS_MAGIC},
    kernel::{
        OFF_DENTRY_INODE, OFF_FILE_INODE, OFF_FILE_PRIVATE, OFF_INODE_GENERATION, OFF_INODE_NUMBER,
        OFF_INODE_READERS, OFF_INODE_SB, OFF_INODE_WRITERS, OFF_SB_FLAGS, OFF_SB_MAGIC,
        OFF_SHMEM_INODE, OFF_SHMEM_SEALS, Object, address, load, read, read_pointer,
    },
    maps::{MOUNTS, WRITES, tick},
};

/// `sizeof(struct inode)`.
#[unsafe(no_mangle)]
static SIZE_INODE: Global<u64> = Global::new(0);

/// `include/uapi/linux/magic.h`. Local file systems whose files only change through an
/// inode of this kernel that was opened for writing or truncated, and whose inode numbers
/// with their generation name one file for the life of a mount. Not btrfs: a snapshot has
/// the numbers of its origin. Not tmpfs: its pages can be pinned through a mapping (io_uring's
/// registered buffers) and written when the mapping and the file are closed.
const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;
const F2FS: u64 = 0xf2f5_2010;
const SQUASHFS: u64 = 0x7371_7368;
const EROFS: u64 = 0xe0f5_e1e2;

/// `F_SEAL_WRITE`, `include/uapi/linux/fcntl.h`. Not `F_SEAL_FUTURE_WRITE`, which leaves the
/// writable mappings that there are.
const SEALED: u32 = 0x08;

/// `struct ovl_inode` (`fs/overlayfs/ovl_entry.h`, 6.1 and 6.12) has `flags` eight bytes before
/// its `vfs_inode` and `__upperdentry` right behind it.
const OVERLAY_FLAGS_BEFORE: usize = 8;
/// `OVL_UPPERDATA`: the upper file has the data, not only the attributes (metacopy).
const OVERLAY_UPPERDATA: u64 = 1 << 3;

/// Names a content while its file system is mounted.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct ContentId {
    /// Address of the superblock.
    pub sb: u64,
    pub inode: u64,
    pub generation: u64,
}

impl ContentId {
    /// A number that grows whenever the content may have changed. Two equal readings:
    /// nobody opened it for writing, truncated it or unmounted it in between.
    #[inline(always)]
    pub fn clock(&self) -> u64 {
        clock_of(slots(self))
    }

    /// Somebody may change the content from now on.
    #[inline(always)]
    pub fn may_change(&self) {
        if let Some(slot) = WRITES.get_ptr_mut(write_slot(self)) {
            tick(slot);
        }
    }
}

/// The content of a file at one moment.
#[derive(Clone, Copy)]
pub struct Content {
    inode: Object,
    /// Whether a digest of it may be kept: false when in doubt.
    cacheable: bool,
    /// A memfd or shared memory that is not sealed: its writers cannot be counted.
    unsealed: bool,
    /// The file was opened before its copy-up: it maps the lower file, readers get the upper.
    pub copied_up: bool,
}

impl Content {
    #[inline(always)]
    pub fn unknown() -> Self {
        Self {
            inode: core::ptr::null(),
            cacheable: false,
            unsealed: false,
            copied_up: false,
        }
    }

    /// Finds the content of `file`.
    #[inline(never)]
    pub fn find(&mut self, id: &mut ContentId, file: File) {
        // SAFETY: chains of loads from a trusted file.
        unsafe {
            let inode: Object = load(file.object(), &OFF_FILE_INODE);
            let sb: Object = load(inode, &OFF_INODE_SB);
            if load::<u64>(sb, &OFF_SB_MAGIC) == OVERLAYFS_SUPER_MAGIC {
                self.find_in_overlay(id, file, inode);
            } else {
                self.find_inode(id, inode);
            }
        }
    }

    /// The content of an inode.
    ///
    /// # Safety
    /// `inode` is a pointer that the verifier tracks.
    #[inline(always)]
    pub unsafe fn find_inode(&mut self, id: &mut ContentId, inode: Object) {
        // SAFETY: chains of loads from the inode.
        unsafe {
            let sb: Object = load(inode, &OFF_INODE_SB);
            let magic = load::<u64>(sb, &OFF_SB_MAGIC);
            let internal = load::<u64>(sb, &OFF_SB_FLAGS) & SB_KERNMOUNT != 0;
            let memory = internal && (magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC);
            id.sb = address(sb) as u64;
            id.inode = load(inode, &OFF_INODE_NUMBER);
            id.generation = u64::from(load::<u32>(inode, &OFF_INODE_GENERATION));
            self.inode = address(inode);
            self.cacheable = !internal && tells_of_changes(magic);
            self.unsealed = memory && !(magic == TMPFS_MAGIC && sealed(self.inode));
        }
    }

    /// The file's real inode: overlayfs keeps the real file in `private_data`.
    #[inline(always)]
    unsafe fn find_in_overlay(&mut self, id: &mut ContentId, file: File, overlay: Object) {
        // SAFETY: a load from a trusted file.
        let real_file: Object = address(unsafe { load(file.object(), &OFF_FILE_PRIVATE) });
        let inode = read_pointer(real_file, OFF_FILE_INODE.load());
        let sb = read_pointer(inode, OFF_INODE_SB.load());
        id.sb = sb as u64;
        id.inode = read(inode, OFF_INODE_NUMBER.load());
        id.generation = u64::from(read::<u32>(inode, OFF_INODE_GENERATION.load()));
        self.inode = inode;
        // A zero from a read that failed is none of the magics.
        self.cacheable = tells_of_changes(read(sb, OFF_SB_MAGIC.load()));
        self.copied_up = copied_up(address(overlay), inode);
    }

    /// Whether somebody can write the content now: has it open for that, or mapped.
    #[inline(always)]
    pub fn has_writer(&self) -> bool {
        self.unsealed || read::<i32>(self.inode, OFF_INODE_WRITERS.load()) > 0
    }

    /// Whether somebody has it open for reading, as every mapping that cannot be written does.
    #[inline(always)]
    pub fn has_reader(&self) -> bool {
        read::<i32>(self.inode, OFF_INODE_READERS.load()) > 0
    }

    /// Whether its digest may be kept, as long as nobody can write it.
    #[inline(always)]
    pub fn is_cacheable(&self) -> bool {
        self.cacheable && !self.copied_up
    }
}

/// Where a content's clock is kept: a slot of the write clock and one of the mount clock.
#[inline(always)]
pub fn slots(id: &ContentId) -> u64 {
    u64::from(write_slot(id)) | u64::from(mount_slot(id.sb)) << 32
}

/// The reading of the clock in these [`slots`].
#[inline(always)]
pub fn clock_of(slots: u64) -> u64 {
    let writes = WRITES.get(slots as u32).copied().unwrap_or(0);
    let mounts = MOUNTS.get((slots >> 32) as u32).copied().unwrap_or(0);
    // Both only grow: the sum stands still only if both do.
    writes.wrapping_add(mounts)
}

/// The file system at this address goes away; another may come to lie there.
#[inline(always)]
pub fn unmounted(sb: Object) {
    if let Some(slot) = MOUNTS.get_ptr_mut(mount_slot(sb as u64)) {
        tick(slot);
    }
}

#[inline(always)]
fn tells_of_changes(magic: u64) -> bool {
    magic == EXT4 || magic == XFS || magic == F2FS || magic == SQUASHFS || magic == EROFS
}

/// Whether the memory of a memfd can no longer be written.
#[inline(always)]
fn sealed(inode: Object) -> bool {
    let info = inode.wrapping_sub(OFF_SHMEM_INODE.load() as usize);
    read::<u32>(info, OFF_SHMEM_SEALS.load()) & SEALED != 0
}

/// Whether the overlay's inode has its data in another inode than the one that is open.
#[inline(always)]
fn copied_up(overlay: Object, open: Object) -> bool {
    let upper = read_pointer(overlay, SIZE_INODE.load());
    if upper.is_null() {
        return false;
    }
    let flags = read::<u64>(overlay.wrapping_sub(OVERLAY_FLAGS_BEFORE), 0);
    flags & OVERLAY_UPPERDATA != 0 && read_pointer(upper, OFF_DENTRY_INODE.load()) != open
}

/// 2^64 divided by the golden ratio: spreads neighbours over the slots.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
fn write_slot(id: &ContentId) -> u32 {
    let hash = (id.sb ^ id.inode.wrapping_mul(SPREAD)).wrapping_mul(SPREAD);
    (hash >> 32) as u32 & (WRITE_SLOTS - 1)
}

#[inline(always)]
fn mount_slot(sb: u64) -> u32 {
    (sb.wrapping_mul(SPREAD) >> 32) as u32 & (MOUNT_SLOTS - 1)
}
