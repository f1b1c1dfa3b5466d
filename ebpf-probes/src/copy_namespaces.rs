// SPDX-License-Identifier: GPL-2.0-only
//! `copy_namespaces`: a task is being made by `clone` or `clone3`, and has its namespaces. Seen on 6.1 and 6.12.

use core::ffi::c_void;

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::{
    namespaces::{CLONE_NEW, changed},
    task::Task,
};

/// `int copy_namespaces(unsigned long flags, struct task_struct *tsk)`
#[fexit(function = "copy_namespaces")]
pub fn copy_namespaces(ctx: FExitContext) -> u32 {
    let flags = ctx.arg::<u64>(0) as u32 & CLONE_NEW;
    if flags == 0 {
        // Nearly always.
        return 0;
    }
    let result: i32 = ctx.arg(2);
    if result == 0 {
        changed(&Task::of(ctx.arg::<*const c_void>(1).cast()), flags);
    }
    0
}
