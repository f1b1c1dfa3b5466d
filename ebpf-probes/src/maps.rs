// SPDX-License-Identifier: GPL-2.0-only
//! The maps that the agent and the probes share; names and shapes are in `cima-abi`.

use core::arch::asm;

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray, RingBuf},
};
use cima_abi::{LOSS_COUNT, Loss, Scope};

/// Records for the agent. The size is the default; the agent's configuration overrides it.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(16 << 20, 0);

/// Events that found no room, by cause.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(LOSS_COUNT as u32, 0);

/// Whose tasks are measured.
#[map]
static SCOPE: Array<Scope> = Array::with_max_entries(1, 0);

/// Counts one event lost.
#[inline(always)]
pub fn lost(cause: Loss) {
    if let Some(counter) = LOSSES.get_ptr_mut(cause as u32) {
        // Sleepable programs may be preempted by each other on one CPU: a plain
        // increment of a per-CPU value could lose a loss. Rust's core has no
        // read-modify-write atomics for this target, the instruction set has (v1).
        // SAFETY: the map holds aligned u64 values that live as long as the program.
        unsafe {
            asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1u64);
        }
    }
}

/// The scope in force, as a pointer into the map.
#[inline(always)]
pub fn scope() -> Option<&'static Scope> {
    SCOPE.get(0)
}
