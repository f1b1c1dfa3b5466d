// SPDX-License-Identifier: GPL-2.0-only
//! `security_kernel_read_file`: the kernel is about to read a file for a task: a
//! module, firmware, a kexec image, a policy. What it then runs or trusts is
//! measured like what a task maps. Sleepable. Seen on 6.1 and 6.12.

use aya_ebpf::{bindings::file, macros::lsm, programs::LsmContext};
use cima_abi::Kind;

use crate::{file::File, hand, measure::measure, record::How, scope};

/// `int kernel_read_file(struct file *file, enum kernel_read_file_id id, bool contents)`
#[lsm(hook = "kernel_read_file", sleepable)]
pub fn kernel_read_file(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(3);
    hand::forget();
    let Some(who) = scope::current() else {
        return verdict;
    };
    let id: u32 = ctx.arg(1);
    let how = How::new(Kind::KernelRead, 0, u64::from(id));
    measure(&ctx, &who, File::new(ctx.arg::<*const file>(0)), &how);
    verdict
}
