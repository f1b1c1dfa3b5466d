// SPDX-License-Identifier: GPL-2.0-only
//! One record in the ring buffer: reserved, filled in place, submitted.
//!
//! In place, because a sleepable program may be preempted by another on the same
//! CPU: a per-CPU scratch buffer would mix two events. A short record is tried
//! first; the rare long path costs a second reservation.

use aya_ebpf::helpers::generated::{bpf_copy_from_user, bpf_ktime_get_boot_ns};
use cima_abi::{
    ABI_VERSION, ARGS_LEN, DIGEST_LEN, Header, Kind, LONG_PATH, LongExec, LongMap, Loss, NO_HASH,
    SHORT_PATH, ShortExec, ShortMap, flag,
};

use crate::{
    file::{ENAMETOOLONG, File},
    maps::{EVENTS, lost},
    scope::InScope,
};

/// `PAGE_SIZE` of x86-64, and the least of every other architecture.
const PAGE: u64 = 4096;

/// What a hook has to say.
pub struct Event<'a> {
    pub who: &'a InScope,
    pub file: File,
    pub what: What<'a>,
}

/// The part that differs between the hooks.
pub enum What<'a> {
    Map {
        hash: &'a Hash,
        prot: u32,
        map_flags: u64,
    },
    Exec {
        args: u64,
        argc: u32,
    },
}

/// A digest, or why there is none.
pub struct Hash {
    pub algo: u8,
    pub error: i32,
    pub digest: [u8; DIGEST_LEN],
}

/// The shapes a record can have: a header, room for the path, room for the arguments if it is an execution's.
trait Shape: 'static {
    const PATH: usize;
}
impl Shape for ShortMap {
    const PATH: usize = SHORT_PATH;
}
impl Shape for LongMap {
    const PATH: usize = LONG_PATH;
}
impl Shape for ShortExec {
    const PATH: usize = SHORT_PATH;
}
impl Shape for LongExec {
    const PATH: usize = LONG_PATH;
}

/// The path does not fit this shape.
struct TooLong;

/// Hands the event to the agent, or counts it lost.
#[inline(always)]
pub fn emit(event: &Event) {
    match event.what {
        What::Map { .. } => {
            if emit_as::<ShortMap>(event, Loss::MapRingFull).is_err() {
                let _ = emit_as::<LongMap>(event, Loss::MapRingFull);
            }
        }
        What::Exec { .. } => {
            if emit_as::<ShortExec>(event, Loss::ExecRingFull).is_err() {
                let _ = emit_as::<LongExec>(event, Loss::ExecRingFull);
            }
        }
    }
}

#[inline(always)]
fn emit_as<R: Shape>(event: &Event, full: Loss) -> Result<(), TooLong> {
    let Some(mut entry) = EVENTS.reserve::<R>(0) else {
        lost(full);
        return Ok(());
    };
    let header: *mut Header = entry.as_mut_ptr().cast();
    // SAFETY: every shape is a Header followed by PATH and ARGS bytes.
    unsafe {
        let path: *mut u8 = header.add(1).cast();
        let length = event.file.path(path, R::PATH);
        if length == ENAMETOOLONG && R::PATH < LONG_PATH {
            entry.discard(0);
            return Err(TooLong);
        }
        (*header).version = ABI_VERSION;
        (*header).flags = event.who.flags;
        (*header).path_cap = R::PATH as u16;
        (*header).reserved = 0;
        if length > 0 && length <= R::PATH as i64 {
            (*header).path_len = (length - 1) as u16;
        } else {
            (*header).path_len = 0;
            (*header).flags |= flag::NO_PATH;
        }
        (*header).time_ns = bpf_ktime_get_boot_ns();
        event.file.describe(header);
        event.who.task.describe(header, &event.who.ns);
        match event.what {
            What::Map {
                hash,
                prot,
                map_flags,
            } => {
                (*header).kind = Kind::Map as u8;
                (*header).hash_algo = hash.algo;
                (*header).hash_error = hash.error;
                (*header).digest = hash.digest;
                (*header).prot = prot;
                (*header).map_flags = map_flags;
                (*header).args_len = 0;
                (*header).argc = 0;
            }
            What::Exec { args, argc } => {
                (*header).kind = Kind::Exec as u8;
                (*header).hash_algo = NO_HASH;
                (*header).hash_error = 0;
                (*header).digest = [0; DIGEST_LEN];
                (*header).prot = 0;
                (*header).map_flags = 0;
                (*header).argc = argc;
                arguments(header, path.add(R::PATH), args);
            }
        }
    }
    entry.submit(0);
    Ok(())
}

/// Copies the first bytes of the argument strings from the new program's stack.
///
/// # Safety
/// `out` points to [`ARGS_LEN`] bytes of the record that `header` begins.
#[inline(always)]
unsafe fn arguments(header: *mut Header, out: *mut u8, args: u64) {
    // The stack ends at a page boundary above the strings (argv, envp, file name):
    // when fewer than ARGS_LEN bytes are left below it, read what is there. The
    // agent cuts what lies behind the last argument.
    // SAFETY: the helper writes at most ARGS_LEN bytes; a bad address is an error.
    unsafe {
        if bpf_copy_from_user(out.cast(), ARGS_LEN as u32, args as *const _) == 0 {
            (*header).args_len = ARGS_LEN as u16;
            return;
        }
        let left = (PAGE - (args & (PAGE - 1))) as u32;
        if left < ARGS_LEN as u32 && bpf_copy_from_user(out.cast(), left, args as *const _) == 0 {
            (*header).args_len = left as u16;
        } else {
            (*header).args_len = 0;
            (*header).flags |= flag::ARGS_UNREADABLE;
        }
    }
}
