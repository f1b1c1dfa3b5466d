// SPDX-License-Identifier: GPL-2.0-only
//! `security_bprm_committed_creds`: an execution past its point of no return, with
//! the new address space in place, so that the arguments can be read from its
//! stack. Sleepable for that reason. Seen on 6.1 and 6.12.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::linux_binprm, macros::lsm, programs::LsmContext};
use cima_abi::Kind;

use crate::{
    cache::Digest,
    file::File,
    kernel::{OFF_BPRM_ARGC, OFF_BPRM_EXEC, OFF_BPRM_FILE, OFF_BPRM_P, Object, load},
    namespaces,
    record::{Event, How, emit_execution},
    scope,
};

/// `void bprm_committed_creds(struct linux_binprm *bprm)`
#[lsm(hook = "bprm_committed_creds", sleepable)]
pub fn bprm_committed_creds(ctx: LsmContext) -> i32 {
    if scope::is_host() {
        return 0;
    }
    let found = scope::find();
    let counts = found.is_open || found.begins;
    // Twice: the verifier of 6.1 does not know after a first look at one bit what a second will find.
    let Some(who) = found.who else {
        if counts {
            namespaces::executed();
        }
        return 0;
    };
    if counts {
        namespaces::executed();
    }
    let bprm: Object = ctx.arg::<*const linux_binprm>(0).cast();
    // SAFETY: loads from the hook's argument.
    let (file, args, args_end, argc) = unsafe {
        (
            load(bprm, &OFF_BPRM_FILE),
            load(bprm, &OFF_BPRM_P),
            load(bprm, &OFF_BPRM_EXEC),
            load(bprm, &OFF_BPRM_ARGC),
        )
    };
    emit_execution(&Event {
        who: &who,
        file: File::new(file),
        how: &How {
            args,
            args_end,
            argc,
            ..How::new(Kind::Exec, 0, 0)
        },
        digest: Digest::none(&mut MaybeUninit::uninit()),
        error: 0,
        flags: 0,
    });
    0
}
