// SPDX-License-Identifier: Apache-2.0
//! The scenarios, one file each. To add one: a file with a `SCENARIO`, its `mod`
//! line and its place in [`ALL`].

mod admission;
mod attest;
mod bench_admission;
mod bench_events;
mod bench_exec;
mod blindspots;
mod boot;
mod containers;
mod crash;
mod demo;
mod edges;
mod engines;
mod faults;
mod floods;
mod guide;
mod handover;
mod images;
mod incident;
mod lifecycle;
mod lister;
mod measures;
mod module;
mod outrun;
mod powercut;
mod refusals;
mod selftest;
mod sinks;
mod stale;
mod unregistered;
mod watch;

use crate::claims::Claims;

/// A scenario by its name.
pub(crate) struct Scenario {
    /// As `cargo xtask vm run` takes it.
    pub(crate) name: &'static str,
    /// What it claims, in a line.
    pub(crate) about: &'static str,
    /// Checks its claims; the arguments are those of the command line.
    pub(crate) play: fn(&mut Claims, &[String]),
}

pub(crate) const ALL: &[Scenario] = &[
    boot::SCENARIO,
    measures::SCENARIO,
    demo::SCENARIO,
    edges::SCENARIO,
    stale::SCENARIO,
    blindspots::SCENARIO,
    lifecycle::SCENARIO,
    crash::SCENARIO,
    faults::SCENARIO,
    powercut::SCENARIO,
    sinks::SCENARIO,
    outrun::SCENARIO,
    attest::KERNEL,
    attest::IMA_FILE,
    attest::PCR,
    guide::SCENARIO,
    incident::SCENARIO,
    lister::SCENARIO,
    floods::SCENARIO,
    module::SCENARIO,
    images::SCENARIO,
    containers::SCENARIO,
    admission::SCENARIO,
    unregistered::SCENARIO,
    engines::SCENARIO,
    refusals::SCENARIO,
    bench_exec::SCENARIO,
    bench_events::SCENARIO,
    bench_admission::SCENARIO,
    selftest::FAIL,
    selftest::PANIC,
    selftest::WARNING,
    selftest::HUNG_TASK,
    selftest::TIME_LIMIT,
    selftest::SWITCH_OFF,
    selftest::RESETS,
];
