// SPDX-License-Identifier: GPL-2.0-only
//! `security_bprm_check`: called for every file of an execution, first for what was
//! asked for, then for the interpreter that it names. An ELF object is measured when
//! it is mapped; anything else, such as a `#!` script, is measured here, where
//! it is still the file of the execution. The first of a container's shows whether its root is the one that was measured,
//! however it came to it. And the one place that refuses: what executes in a container that nobody
//! registered, if the policy says so, with or without an agent. Sleepable. Seen on 6.1 and 6.12.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::linux_binprm, macros::lsm, programs::LsmContext};
use cima_abi::{Kind, flag, unregistered};

use crate::{
    cache::Digest,
    file::File,
    hand,
    kernel::{OFF_BPRM_BUF, OFF_BPRM_FILE, Object, load},
    maps,
    measure::measure,
    namespaces,
    record::{Event, How, emit},
    scope::{self, InScope},
    task::Task,
};

/// `-EPERM`.
const EPERM: i32 = -1;

/// `\x7fELF`.
const ELF: u32 = u32::from_ne_bytes(*b"\x7fELF");

/// `int bprm_check_security(struct linux_binprm *bprm)`
#[lsm(hook = "bprm_check_security", sleepable)]
pub fn bprm_check_security(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(1);
    hand::forget();
    if scope::is_host() {
        return verdict;
    }
    let mut found = scope::find();
    if found.begins {
        let (device, inode) = Task::current().root();
        namespaces::compare_root(device, inode, false);
        found = scope::find();
    }
    let Some(who) = found.who else {
        return verdict;
    };
    let bprm: Object = ctx.arg::<*const linux_binprm>(0).cast();
    // SAFETY: loads from the hook's argument.
    let (magic, file) = unsafe {
        (
            load::<u32>(bprm, &OFF_BPRM_BUF),
            File::new(load(bprm, &OFF_BPRM_FILE)),
        )
    };
    if who.flags & flag::UNREGISTERED != 0
        && maps::scope().is_some_and(|scope| scope.unregistered == unregistered::DENY)
    {
        denied(&who, file);
        return EPERM;
    }
    if magic != ELF {
        let how = How::new(Kind::Script, 0, 0);
        measure(&ctx, &who, file, &how);
    }
    verdict
}

#[inline(never)]
fn denied(who: &InScope, file: File) -> bool {
    emit(&Event {
        who,
        file,
        how: &How::new(Kind::Denied, 0, 0),
        digest: Digest::none(&mut MaybeUninit::uninit()),
        error: 0,
        flags: 0,
    })
}
