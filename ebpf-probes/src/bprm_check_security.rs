// SPDX-License-Identifier: GPL-2.0-only
//! `security_bprm_check`: called for every file of an execution, first for what was
//! asked for, then for the interpreter that it names. An ELF object is measured when
//! it is mapped; anything else, such as a `#!` script, is measured here, where
//! it is still the file of the execution. Sleepable. Seen on 6.1 and 6.12.

use aya_ebpf::{bindings::linux_binprm, macros::lsm, programs::LsmContext};
use cima_abi::Kind;

use crate::{
    file::File,
    kernel::{OFF_BPRM_BUF, OFF_BPRM_FILE, Object, load},
    measure::measure,
    record::How,
    scope,
};

/// `\x7fELF`.
const ELF: u32 = u32::from_ne_bytes(*b"\x7fELF");

/// `int bprm_check_security(struct linux_binprm *bprm)`
#[lsm(hook = "bprm_check_security", sleepable)]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(1);
    let bprm: Object = ctx.arg::<*const linux_binprm>(0).cast();
    // SAFETY: a load from the hook's argument.
    if unsafe { load::<u32>(bprm, &OFF_BPRM_BUF) } == ELF {
        return verdict;
    }
    let Some(who) = scope::current() else {
        return verdict;
    };
    // SAFETY: a load from the hook's argument.
    let file = unsafe { load(bprm, &OFF_BPRM_FILE) };
    let how = How::new(Kind::Script, 0, 0);
    measure(&ctx, &who, File::new(file), &how);
    verdict
}
