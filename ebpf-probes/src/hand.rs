// SPDX-License-Identifier: GPL-2.0-only
//! Hands what a task has measured to the program that has the kernel list it (`kmod-bridge/bpf`): that one calls a function of a
//! module, which Rust cannot declare. It runs in the same hook after this one, since it was attached before.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use cima_abi::{DIGEST_LEN, Handed, flag, handed, provenance};

use crate::{
    cache::Digest,
    file::File,
    maps::{self, HANDED},
    namespaces,
    scope::InScope,
};

/// Whose memory the kernel copies: an element is filled in its place, for lack of stack.
static NOTHING: Handed = Handed {
    file: 0,
    provenance: 0,
    flags: 0,
    image: [0; 4],
    error: 0,
    algorithm: 0,
    digest: [0; DIGEST_LEN / 8],
};

/// Hands the digest of `file`, or the error, if the kernel is to list it. Without room the agent has it listed, later.
#[inline(never)]
pub fn hand(who: &InScope, file: File, digest: &Digest, error: i32, flags: u16) -> u32 {
    if who.flags & flag::SELF_TEST != 0 || maps::scope().is_none_or(|scope| scope.kernel_lists == 0)
    {
        return 0;
    }
    let task = bpf_get_current_pid_tgid();
    let _ = HANDED.insert(&task, &NOTHING, 0);
    let Some(element) = HANDED.get_ptr_mut(&task) else {
        return 0;
    };
    let mut bits = handed::HASHED;
    if flags & flag::WRITER != 0 {
        bits |= handed::WRITER;
    }
    if flags & flag::COPIED_UP != 0 {
        bits |= handed::COPIED_UP;
    }
    // SAFETY: an element of a preallocated map stays readable and writable; nobody else has this task's.
    unsafe {
        if who.container != 0 {
            let known = namespaces::find(who.task.mount_namespace(), who.task.mount_generation());
            (*element).provenance = provenance::UNMEASURED;
            if let Some(known) = known {
                (*element).provenance = (*known).provenance;
                for i in 0..4 {
                    let word = (&raw const (*known).image).cast::<u64>().add(i);
                    let place = (&raw mut (*element).image).cast::<u64>().add(i);
                    place.write_volatile(word.read_volatile());
                }
            }
        }
        (*element).flags = bits;
        (*element).error = error;
        if error == 0 {
            (*element).algorithm = digest.algo as u32;
            for i in 0..DIGEST_LEN / 8 {
                let place = (&raw mut (*element).digest).cast::<u64>().add(i);
                place.write_volatile(digest.words[i]);
            }
        }
        // Last: by it the other knows that it is meant.
        (&raw mut (*element).file).write_volatile(file.as_ptr() as u64);
    }
    0
}
