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

/// Removes what is there of a hook before: the program that lists did not run there, since somebody else's between the two refused.
/// First in each hook that hands something on, whoever the task is, so that what is found there is of the very same hook; and when
/// the task ends, for the room.
#[inline(always)]
pub fn forget() {
    if maps::scope().is_none_or(|scope| scope.kernel_lists == 0) {
        return;
    }
    let task = bpf_get_current_pid_tgid();
    if HANDED.get_ptr(&task).is_some() {
        let _ = HANDED.remove(&task);
    }
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

/// Hands that on. What cannot be is said again the next time, and the agent has it listed meanwhile. A report counts as made once it is
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
    if who.container != 0 && !identify(who, element) {
        let _ = HANDED.remove(&task);
        maps::count(Stat::Unhanded);
        return 0;
    }
    // SAFETY: an element of a preallocated map stays readable and writable; nobody else has this task's.
    unsafe {
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

/// Writes whose image it is. False: what is known of the container is not what it was when the task was looked at, or says nothing of
/// an image.
///
/// The kernel gives the agent's change of an element a new place, and the old one to whoever is next: what was read counts if it
/// is found there again.
#[inline(always)]
fn identify(who: &InScope, element: *mut Handed) -> bool {
    let (inode, generation) = (who.task.mount_namespace(), who.task.mount_generation());
    let Some(known) = namespaces::find(inode, generation) else {
        return false;
    };
    // SAFETY: elements of preallocated maps stay readable, and this task's writable.
    unsafe {
        (*element).provenance = (&raw const (*known).provenance).read_volatile();
        for i in 0..4 {
            let word = (&raw const (*known).image).cast::<u64>().add(i);
            let place = (&raw mut (*element).image).cast::<u64>().add(i);
            place.write_volatile(word.read_volatile());
        }
        let Some(again) = namespaces::find(inode, generation) else {
            return false;
        };
        let provenance = (&raw const (*element).provenance).read_volatile();
        let mut holds = provenance != provenance::UNREGISTERED
            && provenance == (&raw const (*again).provenance).read_volatile()
            && who.container == (&raw const (*again).container).read_volatile();
        for i in 0..4 {
            let word = (&raw const (*again).image).cast::<u64>().add(i);
            let place = (&raw const (*element).image).cast::<u64>().add(i);
            holds &= place.read_volatile() == word.read_volatile();
        }
        holds
    }
}
