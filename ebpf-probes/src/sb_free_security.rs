// SPDX-License-Identifier: GPL-2.0-only
//! `security_sb_free`: a file system's superblock is freed. Whoever is mounted next may
//! get its address, and its disk may have changed meanwhile: nothing that is known of
//! its files counts any more. Seen on 6.1 and 6.12.

use core::ffi::c_void;

use aya_ebpf::{macros::lsm, programs::LsmContext};

use crate::{
    content::unmounted,
    kernel::{Object, address},
};

/// `void sb_free_security(struct super_block *sb)`
#[lsm(hook = "sb_free_security")]
pub fn sb_free_security(ctx: LsmContext) -> i32 {
    let sb: Object = ctx.arg::<*const c_void>(0).cast();
    unmounted(address(sb));
    0
}
