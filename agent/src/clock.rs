// SPDX-License-Identifier: Apache-2.0
//! The two clocks of the node.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`, ns: what the kernel's events are stamped with.
pub fn boot_ns() -> u64 {
    u64::try_from(ns(ClockId::Boottime)).unwrap_or(0)
}

/// `CLOCK_REALTIME`, ns since 1970.
pub fn real_ns() -> i64 {
    ns(ClockId::Realtime)
}

fn ns(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
