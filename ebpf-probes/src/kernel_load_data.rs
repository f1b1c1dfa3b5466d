// SPDX-License-Identifier: GPL-2.0-only
//! `security_kernel_load_data`: the kernel takes code or policy from a task's memory,
//! as `init_module(2)` does. There is no file to hash, so that is a violation.
//! Seen on 6.1 and 6.12.

use aya_ebpf::{macros::lsm, programs::LsmContext};
use cima_abi::Kind;

use crate::{anonymous, record::How, scope};

/// `int kernel_load_data(enum kernel_load_data_id id, bool contents)`
#[lsm(hook = "kernel_load_data")]
pub fn kernel_load_data(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(2);
    if let Some(who) = scope::current() {
        let id: u32 = ctx.arg(0);
        let how = How::new(Kind::KernelLoad, 0, u64::from(id));
        anonymous::report(&who, &how);
    }
    verdict
}
