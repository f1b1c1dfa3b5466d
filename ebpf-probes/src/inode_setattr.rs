// SPDX-License-Identifier: GPL-2.0-only
//! `security_inode_setattr`: the one way to change a file's size without having it
//! open: `truncate(2)`, and overlayfs on the layer below. Seen on 6.1 and 6.12.

use core::ffi::c_void;

use aya_ebpf::{Global, macros::lsm, programs::LsmContext};

use crate::{
    content::{Content, ContentId},
    kernel::{OFF_ATTR_VALID, OFF_DENTRY_INODE, Object, load},
};

/// Position of the dentry among the arguments: an idmap came to be in front of it in 6.8.
#[unsafe(no_mangle)]
static ARG_SETATTR: Global<u64> = Global::new(0);

/// `include/linux/fs.h`.
const ATTR_SIZE: u32 = 1 << 3;

/// `int inode_setattr([struct mnt_idmap *idmap,] struct dentry *dentry, struct iattr *attr)`
#[lsm(hook = "inode_setattr")]
pub fn inode_setattr(ctx: LsmContext) -> i32 {
    // The verifier knows the number and looks at one of the two only.
    if ARG_SETATTR.load() == 0 {
        size_changes(
            ctx.arg::<*const c_void>(0).cast(),
            ctx.arg::<*const c_void>(1).cast(),
        );
    } else {
        size_changes(
            ctx.arg::<*const c_void>(1).cast(),
            ctx.arg::<*const c_void>(2).cast(),
        );
    }
    // Had a program before this one refused, this one would not have been called.
    0
}

#[inline(always)]
fn size_changes(dentry: Object, attr: Object) {
    // SAFETY: loads from the hook's arguments.
    unsafe {
        if load::<u32>(attr, &OFF_ATTR_VALID) & ATTR_SIZE != 0 {
            let mut id = ContentId::default();
            Content::unknown().find_inode(&mut id, load(dentry, &OFF_DENTRY_INODE));
            id.may_change();
        }
    }
}
