// SPDX-License-Identifier: GPL-2.0-only
//! Hooks that tell when the path of a file may change though its own name does not: a
//! directory is renamed, a mount is moved or removed (a root exchanged: `sb_pivotroot`). Rare, and
//! they only make the notes of `memo` void. Seen on 6.1 and 6.12.

use core::ffi::c_void;

use aya_ebpf::{macros::lsm, programs::LsmContext};

use crate::{
    kernel::{OFF_DENTRY_INODE, OFF_INODE_MODE, Object, load},
    memo::paths_change,
};

/// `include/uapi/linux/stat.h`.
const S_IFMT: u16 = 0o170_000;
const S_IFDIR: u16 = 0o040_000;

/// `int inode_rename(struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir, struct dentry *new_dentry)`
#[lsm(hook = "inode_rename")]
pub fn inode_rename(ctx: LsmContext) -> i32 {
    let dentry: Object = ctx.arg::<*const c_void>(1).cast();
    // SAFETY: loads from the hook's argument.
    let mode: u16 = unsafe { load(load(dentry, &OFF_DENTRY_INODE), &OFF_INODE_MODE) };
    if mode & S_IFMT == S_IFDIR {
        paths_change();
    }
    ctx.arg(4)
}

/// `int move_mount(const struct path *from_path, const struct path *to_path)`
#[lsm(hook = "move_mount")]
pub fn move_mount(ctx: LsmContext) -> i32 {
    paths_change();
    ctx.arg(2)
}

/// `MS_MOVE`, `include/uapi/linux/mount.h`: `mount(2)` does not ask `move_mount`.
const MS_MOVE: u64 = 0x2000;

/// `int sb_mount(const char *dev_name, const struct path *path, const char *type, unsigned long flags, void *data)`
#[lsm(hook = "sb_mount")]
pub fn sb_mount(ctx: LsmContext) -> i32 {
    let flags: u64 = ctx.arg(3);
    if flags & MS_MOVE != 0 {
        paths_change();
    }
    ctx.arg(5)
}

/// `int sb_umount(struct vfsmount *mnt, int flags)`
#[lsm(hook = "sb_umount")]
pub fn sb_umount(ctx: LsmContext) -> i32 {
    paths_change();
    ctx.arg(2)
}
