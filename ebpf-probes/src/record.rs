// SPDX-License-Identifier: GPL-2.0-only
//! One record in the ring buffer: reserved, filled in place, submitted.
//!
//! In place, because a sleepable program may be preempted by another on the same
//! CPU: a per-CPU scratch buffer would mix two events. A short record is tried
//! first; the rare long path costs a second reservation.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_copy_from_user, bpf_ktime_get_boot_ns};
use cima_abi::{
    ABI_VERSION, ARGS_LEN, Change, ChangeRecord, Header, Kind, LONG_PATH, LongExec, LongMap, Loss,
    NO_HASH, SHORT_PATH, ShortExec, ShortMap, flag,
};

use crate::{
    cache::Digest,
    file::{ENAMETOOLONG, File},
    maps::{EVENTS, SELF_TEST, lost},
    scope::InScope,
};

/// After how many bytes the agent is woken for executions, at most; in a small ring
/// buffer after its [`RING_PARTS`]th part.
const RING_PART: u64 = 1 << 20;
const RING_PARTS: u64 = 8;

/// What a hook has to say.
pub struct Event<'a> {
    pub who: &'a InScope,
    pub file: File,
    pub how: &'a How,
    /// [`Digest::none`] for what is not measured.
    pub digest: &'a Digest,
    /// Negative errno of the hash.
    pub error: i32,
    /// Bits of [`flag`], besides those of the task and the file.
    pub flags: u16,
}

/// What happens to the file.
pub struct How {
    pub kind: Kind,
    pub prot: u32,
    pub map_flags: u64,
    /// Of an execution: from where to where the strings of its arguments and its environment
    /// are, and how many are arguments.
    pub args: u64,
    pub args_end: u64,
    pub argc: u32,
    /// Of a change of namespaces; null otherwise. Not the value: it would be on the stack of every hook.
    pub change: *const Change,
}

impl How {
    #[inline(always)]
    pub fn new(kind: Kind, prot: u32, map_flags: u64) -> Self {
        Self {
            kind,
            prot,
            map_flags,
            args: 0,
            args_end: 0,
            argc: 0,
            change: core::ptr::null(),
        }
    }

    /// What the kernel takes from memory is told apart by its kind; memory is memory.
    #[inline(always)]
    pub fn id(&self) -> u64 {
        if self.kind as u8 == Kind::KernelLoad as u8 {
            self.map_flags
        } else {
            0
        }
    }
}

/// The shapes a record can have: a header, room for the path, room for the arguments if it is an execution's, or
/// what a change leads to.
trait Shape: 'static {
    const PATH: usize;
    const ARGS: bool;
    const CHANGE: bool = false;
}
impl Shape for ChangeRecord {
    const PATH: usize = 0;
    const ARGS: bool = false;
    const CHANGE: bool = true;
}
impl Shape for ShortMap {
    const PATH: usize = SHORT_PATH;
    const ARGS: bool = false;
}
impl Shape for LongMap {
    const PATH: usize = LONG_PATH;
    const ARGS: bool = false;
}
impl Shape for ShortExec {
    const PATH: usize = SHORT_PATH;
    const ARGS: bool = true;
}
impl Shape for LongExec {
    const PATH: usize = LONG_PATH;
    const ARGS: bool = true;
}

/// The path does not fit this shape.
struct TooLong;

/// Hands the event to the agent, or counts it lost. True if the agent is sure to get it.
#[inline(never)]
pub fn emit(event: &Event) -> bool {
    emit_as::<ShortMap, true>(event, 0)
        .or_else(|TooLong| emit_as::<LongMap, true>(event, 0))
        .unwrap_or(false)
}

/// The same for hooks in which the kernel lets no path be made: those that are not on its
/// list of hooks that may sleep.
#[inline(never)]
pub fn emit_without_path(event: &Event) -> bool {
    emit_as::<ShortMap, false>(event, 0).unwrap_or(false)
}

/// A change of namespaces by the current task; its file is the program that the task runs.
#[inline(never)]
pub fn emit_change(who: &InScope, kind: Kind, change: &Change) -> bool {
    let how = How {
        change: &raw const *change,
        ..How::new(kind, 0, 0)
    };
    emit_of_program::<ChangeRecord>(who, &how)
}

/// The end of the current task's process.
#[inline(never)]
pub fn emit_end(who: &InScope, how: &How) -> bool {
    emit_of_program::<ShortMap>(who, how)
}

#[inline(always)]
fn emit_of_program<R: Shape>(who: &InScope, how: &How) -> bool {
    // A kernel thread, or a process whose memory is gone, has none: all of it reads as 0.
    let program = who.task.program();
    emit_as::<R, false>(
        &Event {
            who,
            file: File::new(program.cast()),
            how,
            digest: Digest::none(&mut MaybeUninit::uninit()),
            error: 0,
            flags: 0,
        },
        0,
    )
    .unwrap_or(false)
}

/// The same for an execution, whose arguments are copied from the task: may sleep.
#[inline(never)]
pub fn emit_execution(event: &Event) -> bool {
    // A reservation that is given up moves the position on, too.
    let before = EVENTS.query(PRODUCER);
    emit_as::<ShortExec, true>(event, before)
        .or_else(|TooLong| emit_as::<LongExec, true>(event, before))
        .unwrap_or(false)
}

/// The counter of this kind of event.
#[inline(always)]
fn loss(kind: Kind) -> Loss {
    match kind {
        Kind::Map | Kind::Script | Kind::KernelRead => Loss::MapRingFull,
        Kind::Exec | Kind::Denied => Loss::ExecRingFull,
        Kind::Written | Kind::Mprotect | Kind::Anonymous | Kind::KernelLoad => {
            Loss::ViolationRingFull
        }
        Kind::Made | Kind::Joined | Kind::Pivoted | Kind::Ended => Loss::ChangeRingFull,
    }
}

/// `before`: see [`wakeup`].
#[inline(always)]
fn emit_as<R: Shape, const PATH: bool>(event: &Event, before: u64) -> Result<bool, TooLong> {
    let entry = if event.who.flags & flag::SELF_TEST == 0 {
        EVENTS.reserve::<R>(0)
    } else {
        SELF_TEST.reserve::<R>(0)
    };
    let Some(mut entry) = entry else {
        lost(loss(event.how.kind));
        return Ok(false);
    };
    let header: *mut Header = entry.as_mut_ptr().cast();
    // SAFETY: every shape is a Header followed by PATH and ARGS bytes.
    unsafe {
        let path: *mut u8 = header.add(1).cast();
        let length = if PATH {
            event.file.path(path, R::PATH)
        } else {
            0
        };
        if length == ENAMETOOLONG && R::PATH < LONG_PATH {
            entry.discard(QUIETLY);
            return Err(TooLong);
        }
        (*header).version = ABI_VERSION;
        (*header).kind = event.how.kind as u8;
        (*header).flags = event.who.flags | event.flags;
        (*header).path_cap = R::PATH as u16;
        (*header).reserved = 0;
        if length > 0 && length <= R::PATH as i64 {
            (*header).path_len = (length - 1) as u16;
        } else {
            (*header).path_len = 0;
            (*header).flags |= flag::NO_PATH;
        }
        (*header).container = event.who.container;
        (*header).time_ns = bpf_ktime_get_boot_ns();
        (*header).prot = event.how.prot;
        (*header).map_flags = event.how.map_flags;
        event.file.describe(header);
        event.who.task.describe(header);
        (*header).hash_algo = event.digest.algo as u8;
        (*header).hash_error = event.error;
        if event.digest.algo != u64::from(NO_HASH) {
            let digest = (&raw mut (*header).digest).cast::<u64>();
            for (i, word) in event.digest.words.iter().enumerate() {
                digest.add(i).write_volatile(*word);
            }
        }
        (*header).args_len = 0;
        (*header).argc = event.how.argc;
        if R::CHANGE {
            // `emit_change` alone makes records of this shape.
            header
                .add(1)
                .cast::<Change>()
                .write(event.how.change.read());
        }
        if R::ARGS {
            arguments(header, path.add(R::PATH), event.how);
        }
    }
    entry.submit(wakeup::<R>(event, before));
    Ok(true)
}

/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`, `BPF_RB_RING_SIZE`, `BPF_RB_PROD_POS`
/// (`include/uapi/linux/bpf.h`).
const QUIETLY: u64 = 1;
const AT_ONCE: u64 = 2;
const SIZE: u64 = 1;
const PRODUCER: u64 = 3;

/// What a verifier wants to know may not wait. An execution is context and may wait until
/// the agent looks, two seconds at most, also where it is a violation since nobody registered the container: what is executed was
/// mapped before, which is told at once if it is new. The agent is woken whenever a record crosses into another part of the ring buffer. Not
/// by how much of it is taken: what is read is released only when it is in the list.
///
/// `before` is the producer's position before the record was reserved. Whose record crosses
/// the border of a part sees it between the two, whatever other CPUs reserve meanwhile.
#[inline(always)]
fn wakeup<R: Shape>(event: &Event, before: u64) -> u64 {
    if !R::ARGS || event.who.flags & flag::SELF_TEST != 0 {
        return AT_ONCE;
    }
    // A power of two, as the size is.
    let part = RING_PART.min(EVENTS.query(SIZE) / RING_PARTS);
    if (before ^ EVENTS.query(PRODUCER)) < part {
        QUIETLY
    } else {
        AT_ONCE
    }
}

/// Copies the first bytes of the argument strings from the new program's stack.
///
/// # Safety
/// `out` points to [`ARGS_LEN`] bytes of the record that `header` begins.
#[inline(always)]
unsafe fn arguments(header: *mut Header, out: *mut u8, how: &How) {
    // Not past the strings: the stack ends right above them, and running into its end is a
    // page fault. The agent cuts what lies behind the last argument.
    let length = how.args_end.wrapping_sub(how.args).min(ARGS_LEN as u64) as u32;
    // SAFETY: the helper writes at most ARGS_LEN bytes; a bad address is an error.
    unsafe {
        if bpf_copy_from_user(out.cast(), length, how.args as *const _) == 0 {
            (*header).args_len = length as u16;
        } else {
            (*header).args_len = 0;
            (*header).flags |= flag::ARGS_UNREADABLE;
        }
    }
}
