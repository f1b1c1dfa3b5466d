// SPDX-License-Identifier: Apache-2.0
//! The agent: everything between the kernel's events and the TPM, and the readers
//! of the list that results.
//!
//! Data goes one way: `probes` → `containers` → `measure` → `ledger` → `sink`.
//! `admission` answers engines' hooks: it has images measured and says which containers may run.
//! `daemon` wires them for the binary `cimad`; `cli` holds the subcommands of
//! `cima`, which read lists and need no daemon; `query` finds, `verify` judges, `report` makes a page of it. ARCHITECTURE.md draws it.

pub mod admission;
pub mod attest;
pub mod cli;
pub mod clock;
pub mod config;
pub mod containers;
pub mod daemon;
pub mod exit;
#[doc(hidden)]
pub mod fuzzing;
pub mod ledger;
pub mod machine;
pub mod measure;
pub mod metrics;
pub mod preflight;
pub mod probes;
pub mod query;
pub mod report;
pub mod shared;
pub mod sink;
pub mod verify;
