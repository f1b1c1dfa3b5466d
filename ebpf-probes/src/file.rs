// SPDX-License-Identifier: GPL-2.0-only
//! The file of an event: what identifies it and what it is called.

use aya_ebpf::{
    bindings::{file, path},
    helpers::generated::bpf_d_path,
};
use cima_abi::{Header, flag};

use crate::kernel::{
    OFF_FILE_INODE, OFF_FILE_PATH, OFF_INODE_GENERATION, OFF_INODE_LINKS, OFF_INODE_MODE,
    OFF_INODE_NUMBER, OFF_INODE_SB, OFF_INODE_SIZE, OFF_SB_DEVICE, OFF_SB_FLAGS, OFF_SB_MAGIC,
    Object, load,
};

/// `include/uapi/linux/magic.h`.
pub const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
pub const TMPFS_MAGIC: u64 = 0x0102_1994;
pub const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
/// `include/linux/fs.h`: a mount that only the kernel itself made.
pub const SB_KERNMOUNT: u64 = 1 << 22;

/// `-ENAMETOOLONG`.
pub const ENAMETOOLONG: i64 = -36;

/// A file that the verifier knows as trusted.
#[derive(Clone, Copy)]
pub struct File(Object);

impl File {
    #[inline(always)]
    pub fn new(file: *const file) -> Self {
        Self(file.cast())
    }

    #[inline(always)]
    pub fn object(self) -> Object {
        self.0
    }

    #[inline(always)]
    pub fn as_ptr(self) -> *mut file {
        self.0.cast_mut().cast()
    }

    /// Writes the file's identity into `header`.
    ///
    /// # Safety
    /// `header` points into a reserved ring buffer record.
    #[inline(always)]
    pub unsafe fn describe(self, header: *mut Header) {
        // SAFETY: plain stores into the record; chains of loads from the file.
        unsafe {
            let inode: Object = load(self.0, &OFF_FILE_INODE);
            let sb: Object = load(inode, &OFF_INODE_SB);
            let links: u32 = load(inode, &OFF_INODE_LINKS);
            let magic: u64 = load(sb, &OFF_SB_MAGIC);
            let sb_flags: u64 = load(sb, &OFF_SB_FLAGS);
            (*header).file.inode = load(inode, &OFF_INODE_NUMBER);
            (*header).file.size = load(inode, &OFF_INODE_SIZE);
            (*header).file.fs_magic = magic;
            (*header).file.device = load(sb, &OFF_SB_DEVICE);
            (*header).file.generation = load(inode, &OFF_INODE_GENERATION);
            (*header).file.links = links;
            (*header).file.mode = u32::from(load::<u16>(inode, &OFF_INODE_MODE));
            let mut flags = 0;
            if magic == OVERLAYFS_SUPER_MAGIC {
                flags |= flag::OVERLAY;
            }
            if (magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC) && sb_flags & SB_KERNMOUNT != 0 {
                flags |= flag::MEMFD;
            }
            if links == 0 {
                flags |= flag::UNLINKED;
            }
            (*header).flags |= flags;
        }
    }

    /// Writes the path as the current task sees it; the length with its NUL, or a negative errno.
    ///
    /// # Safety
    /// `out` points to `room` bytes of a reserved ring buffer record.
    #[inline(always)]
    pub unsafe fn path(self, out: *mut u8, room: usize) -> i64 {
        // SAFETY: the embedded struct path of a trusted file, as the verifier checks.
        unsafe {
            let path = self
                .0
                .add(OFF_FILE_PATH.load() as usize)
                .cast_mut()
                .cast::<path>();
            bpf_d_path(path, out.cast(), room as u32)
        }
    }
}
