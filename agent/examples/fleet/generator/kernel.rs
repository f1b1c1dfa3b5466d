// SPDX-License-Identifier: Apache-2.0
//! What the kernel of a node hands out: times, process numbers, namespaces.

use cima_agent::probes::Process;

use super::numbers::Numbers;

const LARGEST_TGID: u32 = 4_194_304;

pub(super) struct Kernel {
    pub(super) numbers: Numbers,
    /// Now, ns since boot.
    pub(super) clock_ns: u64,
    tgid: u32,
    namespace: u32,
    generation: u64,
}

impl Kernel {
    /// Half a minute after the boot, when agents start.
    pub(super) fn new(mut numbers: Numbers) -> Self {
        Self {
            clock_ns: 20_000_000_000 + numbers.below(20_000_000_000),
            tgid: 600,
            namespace: 4_026_532_200,
            generation: 40,
            numbers,
        }
    }

    /// A moment later.
    pub(super) fn tick(&mut self) -> u64 {
        self.clock_ns += 40_000 + self.numbers.below(2_000_000);
        self.clock_ns
    }

    /// Later, by something around `pace_ns`.
    pub(super) fn wait(&mut self, pace_ns: u64) {
        self.clock_ns += self.numbers.below(2 * pace_ns + 1);
    }

    /// A process that begins now.
    pub(super) fn process(&mut self, comm: &str) -> Process {
        self.tgid += 1 + u32::from(self.numbers.chance(300)) * 3;
        if self.tgid >= LARGEST_TGID {
            self.tgid = 600;
        }
        // The name of a task has fifteen bytes.
        let comm = comm.as_bytes();
        Process {
            tgid: self.tgid,
            start_ns: self.tick(),
            comm: comm[..comm.len().min(15)].to_vec(),
        }
    }

    /// Inode of a new namespace.
    pub(super) fn namespace(&mut self) -> u32 {
        self.namespace += 1;
        self.namespace
    }

    /// Sequence number of a new mount namespace.
    pub(super) fn generation(&mut self) -> u64 {
        self.generation += 3;
        self.generation
    }
}

/// The first process of the host.
pub(super) fn systemd() -> Process {
    Process {
        tgid: 1,
        start_ns: 30_000_000,
        comm: b"systemd".to_vec(),
    }
}
