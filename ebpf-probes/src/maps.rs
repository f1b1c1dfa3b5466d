// SPDX-License-Identifier: GPL-2.0-only
//! The maps that the agent and the probes share; names and shapes are in `cima-abi`.

use core::arch::asm;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
pub use cima_abi::Stat;
use cima_abi::{
    Handed, LOSS_COUNT, Loss, MOUNT_SLOTS, MountNs, SELF_TEST_BYTES, STAT_COUNT, Scope, WRITE_SLOTS,
};

use crate::{
    cache::{Digest, Report},
    content::ContentId,
};

/// Records for the agent. The size is the default; the agent's configuration overrides it.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// Records of the agent's own self-test, which must find room whatever waits in the other.
#[map]
pub static SELF_TEST: RingBuf = RingBuf::with_byte_size(SELF_TEST_BYTES, 0);

/// Events that found no room, by cause.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_COUNT as u32, 0);

/// Whose tasks are measured.
#[map]
static SCOPE: Array<Scope> = Array::with_max_entries(1, 0);

/// What the metrics tell.
#[map]
static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(STAT_COUNT as u32, 0);

/// How often the contents of a slot may have changed.
#[map]
pub static WRITES: Array<u64> = Array::with_max_entries(WRITE_SLOTS, 0);

/// How often a file system of a slot went away.
#[map]
pub static MOUNTS: Array<u64> = Array::with_max_entries(MOUNT_SLOTS, 0);

/// Digests of contents.
#[map]
pub static DIGESTS: LruHashMap<ContentId, Digest> =
    LruHashMap::with_max_entries(cima_abi::DIGESTS, 0);

/// Reports that the agent has been given.
#[map]
pub static SAID: LruHashMap<Report, u64> = LruHashMap::with_max_entries(cima_abi::SAID, 0);

/// What is known of mount namespaces, by inode.
#[map]
pub static NAMESPACES: HashMap<u32, MountNs> = HashMap::with_max_entries(cima_abi::NAMESPACES, 0);

/// What tasks have measured, for the program that has the kernel list it.
#[map]
pub static HANDED: HashMap<u64, Handed> = HashMap::with_max_entries(cima_abi::HANDED, 0);

/// Counts one event lost.
#[inline(always)]
pub fn lost(cause: Loss) {
    if let Some(counter) = LOSSES.get_ptr_mut(cause as u32) {
        tick(counter);
    }
}

/// Counts for the metrics.
#[inline(always)]
pub fn count(what: Stat) {
    if let Some(counter) = STATS.get_ptr_mut(what as u32) {
        tick(counter);
    }
}

/// Adds one to a value in a map, atomically.
///
/// Also where the value is this CPU's own: a sleepable program may be preempted by another
/// on the same CPU, and a plain increment could lose one. Rust's core has no
/// read-modify-write atomics for this target, the instruction set has (v1).
#[inline(always)]
pub fn tick(counter: *mut u64) {
    // SAFETY: the callers pass aligned u64 values of maps, which live as long as the program.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1u64);
    }
}

/// Sets bits of a value in a map, atomically: as [`tick`].
#[inline(always)]
pub fn set_bits(word: *mut u64, bits: u64) {
    // SAFETY: the callers pass aligned u64 values of maps, which live as long as the program.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(reg) bits);
    }
}

/// Clears bits of a value in a map, atomically: as [`tick`].
#[inline(always)]
pub fn clear_bits(word: *mut u64, bits: u64) {
    // SAFETY: the callers pass aligned u64 values of maps, which live as long as the program.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) &= {rest}", word = in(reg) word, rest = in(reg) !bits);
    }
}

/// The scope in force, as a pointer into the map.
#[inline(always)]
pub fn scope() -> Option<&'static Scope> {
    SCOPE.get(0)
}

/// Tells the lists apart that reports were made to.
#[inline(always)]
pub fn epoch() -> u64 {
    scope().map_or(0, |scope| u64::from(scope.epoch))
}

/// Tells scopes apart.
#[inline(always)]
pub fn scope_version() -> u64 {
    scope().map_or(0, |scope| u64::from(scope.version))
}
