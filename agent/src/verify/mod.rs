// SPDX-License-Identifier: Apache-2.0
//! Whether a list is what the agent, or a kernel, extended into a PCR. Pure: takes
//! entries and PCR values, gives a judgement; opens no file, asks no TPM.
//!
//! A room of its own and not a part of `cli`, so that anyone who links this library
//! (a fleet's verifier, a report) gets the same judgement as `cima verify`. Trusts
//! nothing in the list; the PCR values are the caller's to trust. Memory is constant
//! but for one entry: of each kind of fault the first is kept.

mod anchor;
mod batch;
mod fault;
mod judge;
mod judgement;
mod start;

pub use anchor::{Anchor, BankOutcome};
pub use batch::{BatchView, EventView};
pub use fault::{Fault, FaultKind, Located, Place};
pub use judge::Judge;
pub use judgement::{Judgement, Warning};
pub use start::Start;
