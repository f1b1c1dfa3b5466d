// SPDX-License-Identifier: Apache-2.0
//! The command `cima`, run as a user runs it.
#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

mod command;
mod containers;
mod doctor;
mod evidence;
mod evmctl;
mod fleet;
mod host_list;
mod images;
mod list;
mod log;
mod policy;
mod query;
mod quote;
mod report;
mod swtpm;
mod tpm;
mod tpm_faults;
mod verify;
