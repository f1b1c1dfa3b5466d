// SPDX-License-Identifier: Apache-2.0
//! The kernel side's loader: field offsets from BTF, programs attached, records
//! read from the ring buffer as typed events, loss counters, and the self-test
//! that proves all of it before the first container is measured.
//! The only room of the agent with `unsafe` in reach (through aya); called by `daemon`.

mod btf;
mod event;
mod load;
mod self_test;

pub use btf::{BtfError, Offsets, VMLINUX};
pub use event::{Event, EventError, Hash, Process, What};
pub use load::{LoadError, Losses, Probes};
pub use self_test::{SelfTest, SelfTestError, namespaces_of};
