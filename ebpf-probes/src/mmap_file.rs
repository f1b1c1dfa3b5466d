// SPDX-License-Identifier: GPL-2.0-only
//! `security_mmap_file`: a file is about to be mapped. Sleepable, so that IMA may
//! read and hash the whole file before the mapping exists. Seen on 6.1 and 6.12.

use aya_ebpf::{bindings::file, macros::lsm, programs::LsmContext};
use cima_abi::Kind;

use crate::{
    anonymous,
    file::File,
    hand,
    maps::{Stat, count},
    measure::measure,
    memo,
    record::How,
    scope,
    task::Task,
};

pub const PROT_EXEC: u64 = 4;

/// `int mmap_file(struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)`
#[lsm(hook = "mmap_file", sleepable)]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    let prot: u64 = ctx.arg(2);
    let verdict: i32 = ctx.arg(4);
    if prot & PROT_EXEC == 0 {
        return verdict;
    }
    hand::forget();
    if scope::is_host() {
        return verdict;
    }
    let file = File::new(ctx.arg::<*const file>(0));
    if has_no_file(file) {
        if let Some(who) = scope::current() {
            let how = How::new(Kind::Anonymous, prot as u32, ctx.arg(3));
            anonymous::report(&who, &how);
        }
        return verdict;
    }
    if memo::knows(file) {
        count(Stat::Said);
        return verdict;
    }
    if let Some(who) = scope::current() {
        let how = How::new(Kind::Map, prot as u32, ctx.arg(3));
        measure(&ctx, &who, file, &how);
    }
    verdict
}

/// Whether the hook was called without a file, for anonymous memory.
///
/// Released kernels tell the verifier that the argument is never null, and 6.12's
/// verifier then drops a plain comparison as dead code. So its address is looked at
/// as a number. A kernel that says that it may be null (`file__nullable`, a change of later ones) wants the plain
/// comparison, too: before it nothing may be calculated with the pointer, let alone read from it.
#[inline(always)]
fn has_no_file(file: File) -> bool {
    file.object().is_null() || Task::current().number().of(file.object()) == 0
}
