// SPDX-License-Identifier: GPL-2.0-only
//! `ksys_unshare`: the task has made namespaces for itself and, of pid and time, for its
//! children. Seen on 6.1 and 6.12.

use aya_ebpf::{macros::fexit, programs::FExitContext};

use crate::{
    namespaces::{CLONE_NEW, changed},
    task::Task,
};

/// `int ksys_unshare(unsigned long unshare_flags)`
#[fexit(function = "ksys_unshare")]
pub fn ksys_unshare(ctx: FExitContext) -> u32 {
    let flags = ctx.arg::<u64>(0) as u32 & CLONE_NEW;
    let result: i32 = ctx.arg(1);
    if flags != 0 && result == 0 {
        changed(&Task::current(), flags);
    }
    0
}
