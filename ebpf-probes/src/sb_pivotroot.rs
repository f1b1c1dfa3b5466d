// SPDX-License-Identifier: GPL-2.0-only
//! `security_sb_pivotroot`: a mount namespace gets another root, which of a container is its image. What was measured
//! when it was registered and what is to become its root are compared here, so that whoever lies is found out before anything
//! is executed, and again when its first program is (`bprm_check_security`), since the call may yet fail and a root can be
//! changed without it (a mount moved, chroot). Paths change, too. Seen on 6.1 and 6.12.

use core::ffi::c_void;

use aya_ebpf::{macros::lsm, programs::LsmContext};

use crate::{
    kernel::{
        OFF_DENTRY_INODE, OFF_INODE_NUMBER, OFF_PATH_DENTRY, OFF_PATH_MOUNT, OFF_SB_DEVICE,
        OFF_VFSMOUNT_SB, Object, load,
    },
    memo::paths_change,
    namespaces, scope,
};

/// `int sb_pivotroot(const struct path *old_path, const struct path *new_path)`
#[lsm(hook = "sb_pivotroot")]
pub fn sb_pivotroot(ctx: LsmContext) -> i32 {
    paths_change();
    let new: Object = ctx.arg::<*const c_void>(1).cast();
    // SAFETY: loads from the hook's argument.
    let (device, inode): (u32, u64) = unsafe {
        let mount: Object = load(new, &OFF_PATH_MOUNT);
        let dentry: Object = load(new, &OFF_PATH_DENTRY);
        (
            load(load(mount, &OFF_VFSMOUNT_SB), &OFF_SB_DEVICE),
            load(load(dentry, &OFF_DENTRY_INODE), &OFF_INODE_NUMBER),
        )
    };
    if !scope::is_host() {
        namespaces::gather();
        namespaces::compare_root(device, inode, true);
    }
    ctx.arg(2)
}
