// SPDX-License-Identifier: Apache-2.0
//! The kernel side's loader: field offsets from BTF, programs attached and pinned, their
//! queue of records as typed events, counters, and the self-test that proves all of it
//! before the first container is measured. The only room of the agent with `unsafe`
//! in it (the ring buffer's memory); called by `daemon`, its queue by `ledger`.

mod btf;
mod event;
mod host;
mod lister;
mod load;
mod memo;
mod parser;
mod pins;
mod queue;
mod ring;
mod self_test;

pub use btf::{BtfError, Offsets, VMLINUX};
pub use event::{
    Breach, ChangeKind, Command, Event, EventError, Hash, Home, How, Object, Process, Subject, What,
};
pub use host::{device_of_mount, host};
pub use lister::{Lister, ListerError};
pub use load::{
    Attached, LoadError, Losses, Namespaces, Probes, Retired, Settings, Stats, retire, unload,
};
pub use parser::Parser;
pub use pins::Set;
pub use queue::{Queue, Waker};
pub use self_test::{SelfTest, SelfTestError};
