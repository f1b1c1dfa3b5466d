// SPDX-License-Identifier: Apache-2.0
//! The policies that a site writes and cima obeys.
//!
//! Owns their formats and shipped defaults; parses text into types that cannot be
//! wrong and knows nothing of kernels or daemons: `admission` alone reads files, those of a policy's directory. Called by
//! the agent.

pub mod admission;
mod measurement;
mod verification;

pub use measurement::{Candidate, DEFAULT, Host, MeasurementPolicy, PolicyError, Unregistered};
pub use verification::{
    AcceptedSink, AgentRules, ContainerRules, FileRules, Level, ListRules, PartDigest,
    VERIFICATION_DEFAULT, VerificationPolicy, VerificationPolicyError, ViolationRules,
};
