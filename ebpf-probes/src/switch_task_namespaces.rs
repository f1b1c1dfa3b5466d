// SPDX-License-Identifier: GPL-2.0-only
//! `switch_task_namespaces`: a task goes over to other namespaces, by `setns` (by `unshare` to new ones, when it exits
//! to none). Seen on 6.1 and 6.12.

use core::ffi::c_void;

use aya_ebpf::{macros::fentry, programs::FEntryContext};

use crate::namespaces::joined;

/// `void switch_task_namespaces(struct task_struct *p, struct nsproxy *new)`
#[fentry(function = "switch_task_namespaces")]
pub fn switch_task_namespaces(ctx: FEntryContext) -> u32 {
    joined(
        ctx.arg::<*const c_void>(0).cast(),
        ctx.arg::<*const c_void>(1).cast(),
    );
    0
}
