// SPDX-License-Identifier: GPL-2.0-only
//! Hands what a task has measured to the program that has the kernel list it (`kmod-bridge/bpf`): that one calls a function of a
//! module, which Rust cannot declare. It runs in the same hook after this one, since it was attached before.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use cima_abi::{DIGEST_LEN, Handed, Stat, flag, handed, provenance};

use crate::{
    cache::{Digest, Report},
    file::File,
    maps::{self, HANDED},
    namespaces,
    scope::InScope,
};

const _: () = assert!(size_of::<Report>() == 5 * 8);

/// Whose memory the kernel copies: an element is filled in its place, for lack of stack.
static NOTHING: Handed = Handed {
    file: 0,
    report: [0; 5],
    is_last_word: 0,
    provenance: 0,
    flags: 0,
    image: [0; 4],
    error: 0,
    algorithm: 0,
    digest: [0; DIGEST_LEN / 8],
};

/// Whether what `who` does is to be listed by the kernel.
#[inline(always)]
pub fn is_to_be_listed(who: &InScope) -> bool {
    who.flags & flag::SELF_TEST == 0 && maps::scope().is_some_and(|scope| scope.kernel_lists != 0)
}

/// What is known of a file that is to be listed.
pub struct Hashed<'a> {
    pub file: File,
    pub digest: &'a Digest,
    pub error: i32,
    pub flags: u16,
    /// What need not be said again.
    pub report: &'a Report,
    /// Once it is listed.
    pub is_last_word: bool,
}

/// Hands that on. Without room it is said again the next time, and the agent has it listed meanwhile. A report counts as made once it is
/// listed: another task that executes the same at this moment is not to run before.
#[inline(never)]
pub fn hand(who: &InScope, what: &Hashed<'_>) -> u32 {
    let Hashed {
        file,
        digest,
        error,
        flags,
        report,
        is_last_word,
    } = *what;
    let task = bpf_get_current_pid_tgid();
    if HANDED.insert(&task, &NOTHING, 0).is_err() {
        // One of before may be there.
        let _ = HANDED.remove(&task);
        maps::count(Stat::Unhanded);
        return 0;
    }
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
        let words = core::ptr::from_ref(report).cast::<u64>();
        for i in 0..5 {
            let place = (&raw mut (*element).report).cast::<u64>().add(i);
            place.write_volatile(words.add(i).read_volatile());
        }
        (*element).is_last_word = u64::from(is_last_word);
        // Last: by it the other knows that it is meant.
        (&raw mut (*element).file).write_volatile(file.as_ptr() as u64);
    }
    0
}
