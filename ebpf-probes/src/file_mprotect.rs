// SPDX-License-Identifier: GPL-2.0-only
//! `security_file_mprotect`: the protection of mapped memory changes. What was mapped
//! without the right to execute was not measured, and may have been written since; the
//! hook cannot sleep, so nothing can be hashed here. Seen on 6.1 and 6.12.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{bindings::file, macros::lsm, programs::LsmContext};
use cima_abi::Kind;

use crate::{
    anonymous,
    cache::Digest,
    file::File,
    kernel::{OFF_VMA_FILE, OFF_VMA_FLAGS, Object, address, load},
    mmap_file::PROT_EXEC,
    record::{Event, How, emit_without_path},
    scope,
};

/// `VM_EXEC`, `include/linux/mm.h`.
const VM_EXEC: u64 = 4;

/// `int file_mprotect(struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)`
#[lsm(hook = "file_mprotect")]
pub fn file_mprotect(ctx: LsmContext) -> i32 {
    let prot: u64 = ctx.arg(2);
    let verdict: i32 = ctx.arg(3);
    if prot & PROT_EXEC == 0 {
        return verdict;
    }
    let vma: Object = ctx.arg::<*const c_void>(0).cast();
    // SAFETY: loads from the hook's argument.
    let (flags, mapped): (u64, Object) =
        unsafe { (load(vma, &OFF_VMA_FLAGS), load(vma, &OFF_VMA_FILE)) };
    if flags & VM_EXEC != 0 {
        return verdict;
    }
    let Some(who) = scope::current() else {
        return verdict;
    };
    if address(mapped).is_null() {
        let how = How::new(Kind::Anonymous, prot as u32, 0);
        anonymous::report(&who, &how);
        return verdict;
    }
    emit_without_path(&Event {
        who: &who,
        file: File::new(mapped.cast::<file>()),
        how: &How::new(Kind::Mprotect, prot as u32, 0),
        digest: Digest::none(&mut MaybeUninit::uninit()),
        error: 0,
        flags: 0,
    });
    verdict
}
