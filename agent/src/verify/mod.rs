// SPDX-License-Identifier: Apache-2.0
//! Whether a list is what the agent, or a kernel, extended into a PCR. Pure: takes
//! entries and PCR values, gives a judgement; opens no file, asks no TPM.
//!
//! A room of its own and not a part of `cli`, so that anyone who links this library
//! (a fleet's verifier, a report) gets the same judgement as `cima verify`. Trusts
//! nothing in the list; the PCR values are the caller's to trust. Of each kind of fault the first is kept; memory
//! grows with distinct policy events and containers only, by a key for each (`known`).

mod account;
mod anchor;
mod batch;
mod containers;
mod fault;
mod findings;
mod host;
mod judge;
mod judgement;
mod known;
mod quote;
mod references;
mod start;
mod tally;

pub use account::Terms;
pub use anchor::{Anchor, BankOutcome};
pub use batch::{BatchView, EventView};
pub(crate) use batch::{Parts, place_of};
pub use fault::{Fault, FaultKind, Located, Place};
pub use findings::{AgentPart, ContainerFinding, Findings, Rating, Reason, ReasonKind};
pub use host::{Extent, HostJudge};
pub use judge::Judge;
pub use judgement::{HostOutcome, Judgement, Usable, Warning};
pub use quote::{
    QuoteFault, QuoteInfo, QuoteKey, QuoteKeyError, QuoteOutcome, QuoteWarning, Quoted, Selected,
};
pub(crate) use references::Standing;
pub use references::{Contradiction, References};
pub use start::Start;
pub use tally::{Counted, Tally};
