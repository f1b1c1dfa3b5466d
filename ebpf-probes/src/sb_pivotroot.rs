// SPDX-License-Identifier: GPL-2.0-only
//! `security_sb_pivotroot`: a mount namespace gets another root, which of a container is its image. What was measured
//! when it was registered and what is to become its root are compared here, until a program is executed. The call may yet
//! fail, and a root can be changed without it (a mount moved, chroot): that is not compared. Paths change, too. Seen on 6.1 and 6.12.

use core::ffi::c_void;

use aya_ebpf::{macros::lsm, programs::LsmContext};
use cima_abi::{Change, Kind, flag, mount_ns};

use crate::{
    kernel::{
        OFF_DENTRY_INODE, OFF_INODE_NUMBER, OFF_PATH_DENTRY, OFF_PATH_MOUNT, OFF_SB_DEVICE,
        OFF_VFSMOUNT_SB, Object, load,
    },
    memo::paths_change,
    namespaces,
    record::emit_change,
    scope,
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
    pivoted(device, inode);
    ctx.arg(2)
}

#[inline(always)]
fn pivoted(device: u32, inode: u64) {
    let Some(mut who) = scope::current() else {
        return;
    };
    let ns = who.task.heirs();
    let generation = who.task.mount_generation();
    let mut gathered = 0;
    if let Some(element) = namespaces::find(ns[0], generation) {
        // SAFETY: an element of a preallocated map stays readable and writable.
        unsafe {
            gathered = (*element).gathered;
            let state = (*element).state;
            let (measured, root) = ((*element).root_device, (*element).root_inode);
            let is_other = measured != 0 && (measured != device || root != 0 && root != inode);
            let mut now = state | mount_ns::PIVOTED;
            // What a program of the container does later is its own doing. Each before counts, since a call may yet
            // fail.
            if state & mount_ns::OPEN != 0 && is_other {
                now |= mount_ns::OTHER_ROOT;
                who.flags |= flag::OTHER_ROOT;
                (&raw mut (*element).container).write_volatile(0);
            }
            (&raw mut (*element).state).write_volatile(now);
        }
    }
    let change = Change {
        mnt_generation: generation,
        container: who.container,
        ns,
        flags: 0,
        gathered,
        root_device: device,
        reserved: 0,
    };
    emit_change(&who, Kind::Pivoted, &change);
}
