// SPDX-License-Identifier: Apache-2.0
//! The policies that a site writes and cima obeys.
//!
//! Owns their formats and shipped defaults; parses text into types that cannot be
//! wrong and knows nothing of files, kernels or daemons. Called by the agent.

mod measurement;

pub use measurement::{Candidate, DEFAULT, MeasurementPolicy, PolicyError};
