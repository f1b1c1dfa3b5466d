// SPDX-License-Identifier: GPL-2.0-only
//! `security_mmap_file`: a file is about to be mapped. Sleepable, so that IMA may
//! read and hash the whole file before the mapping exists. Seen on 6.1 and 6.12.

use aya_ebpf::{
    EbpfContext,
    bindings::file,
    helpers::generated::{bpf_ima_file_hash, bpf_probe_read_kernel},
    macros::lsm,
    programs::LsmContext,
};
use aya_log_ebpf::debug;
use cima_abi::{DIGEST_LEN, NO_HASH};

use crate::{
    file::File,
    record::{Event, Hash, What, emit},
    scope,
};

const PROT_EXEC: u64 = 4;

/// `int mmap_file(struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)`
#[lsm(hook = "mmap_file", sleepable)]
pub fn mmap_file(ctx: LsmContext) -> i32 {
    let prot: u64 = ctx.arg(2);
    let verdict: i32 = ctx.arg(4);
    if prot & PROT_EXEC == 0 || is_anonymous(&ctx) {
        return verdict;
    }
    let Some(who) = scope::current() else {
        return verdict;
    };
    let file = File::new(ctx.arg::<*const file>(0));
    let hash = hash(file);
    if hash.algo == NO_HASH {
        debug!(
            &ctx,
            "no hash: error {} for pid {}",
            hash.error,
            who.task.tgid()
        );
    }
    emit(&Event {
        who: &who,
        file,
        what: What::Map {
            hash: &hash,
            prot: prot as u32,
            map_flags: ctx.arg(3),
        },
    });
    verdict
}

/// Whether the hook was called without a file, for anonymous memory.
///
/// Released kernels tell the verifier that the argument is never null, and 6.12's
/// verifier then drops a plain comparison as dead code. So the pointer's bytes are
/// read as data.
#[inline(always)]
fn is_anonymous(ctx: &LsmContext) -> bool {
    let mut file = 0u64;
    // SAFETY: copies the first eight bytes of the context into a live u64.
    unsafe {
        bpf_probe_read_kernel((&raw mut file).cast(), 8, ctx.as_ptr().cast_const());
    }
    file == 0
}

#[inline(always)]
fn hash(file: File) -> Hash {
    let mut hash = Hash {
        algo: NO_HASH,
        error: 0,
        digest: [0; DIGEST_LEN],
    };
    // SAFETY: the helper writes at most DIGEST_LEN bytes.
    let result = unsafe {
        bpf_ima_file_hash(
            file.as_ptr(),
            (&raw mut hash.digest).cast(),
            DIGEST_LEN as u32,
        )
    };
    if result < 0 {
        hash.error = result as i32;
    } else {
        hash.algo = result as u8;
    }
    hash
}
