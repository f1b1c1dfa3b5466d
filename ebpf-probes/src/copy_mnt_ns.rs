// SPDX-License-Identifier: GPL-2.0-only
//! `copy_mnt_ns`: where every mount namespace is made, for `unshare`, `clone` and `clone3` alike, with the one that it
//! is a copy of. It runs before any task lives in the new one. Seen on 6.1 and 6.12.

use core::ffi::c_void;

use aya_ebpf::{macros::fexit, programs::FExitContext};
use cima_abi::Ns;

use crate::namespaces::made;

/// `struct mnt_namespace *copy_mnt_ns(unsigned long flags, struct mnt_namespace *ns, struct user_namespace *user_ns, struct fs_struct *new_fs)`
#[fexit(function = "copy_mnt_ns")]
pub fn copy_mnt_ns(ctx: FExitContext) -> u32 {
    let flags: u64 = ctx.arg(0);
    if flags & u64::from(Ns::Mnt.clone_flag()) != 0 {
        let (old, new) = (
            ctx.arg::<*const c_void>(1).cast(),
            ctx.arg::<*const c_void>(4).cast(),
        );
        made(old, new, flags as u32);
    }
    0
}
