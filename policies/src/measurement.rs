// SPDX-License-Identifier: Apache-2.0
//! The measurement policy: which tasks' executables are measured (TOML).

use std::{fmt, str::FromStr};

use cima_abi::{MAX_CANDIDATES, NS_COUNT, Ns, Scope};
use serde::Deserialize;

/// The policy that cima ships, `default/measurement.toml`.
pub const DEFAULT: &str = include_str!("../default/measurement.toml");

/// The only format version so far.
const VERSION: u32 = 1;

/// Why a policy is refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML, an unknown key, a wrong type or a rule that makes no sense.
    #[error("the measurement policy is not valid: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Written for another version of cima.
    #[error("the measurement policy has version {0}, this cima reads version {VERSION}")]
    Version(u32),
    /// Nothing would ever be measured.
    #[error(
        "the measurement policy measures nothing: give at least one `candidate` rule or set measure_host = true"
    )]
    Empty,
    /// More than the probes hold.
    #[error(
        "the measurement policy has {0} candidate rules, at most {MAX_CANDIDATES} are possible"
    )]
    TooMany(usize),
}

/// Why a candidate rule is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CandidateError {
    /// A word that names no namespace.
    #[error("`{0}` is not a namespace (mnt, pid, user, uts, net, ipc, cgroup, time)")]
    Unknown(String),
    /// Named twice.
    #[error("namespace `{0}` is named twice in one rule")]
    Twice(String),
    /// The key of a container is its mount namespace.
    #[error("the rule `{0}` does not name mnt: a container has a mount namespace of its own")]
    WithoutMount(String),
}

/// Namespaces which, if all differ from the host's, make a task a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Candidate(u32);

impl Candidate {
    /// The rule as a mask of [`Ns::bit`]s.
    pub fn mask(self) -> u32 {
        self.0
    }
}

impl FromStr for Candidate {
    type Err = CandidateError;

    fn from_str(rule: &str) -> Result<Self, Self::Err> {
        let mut mask = 0;
        for word in rule.split('+') {
            let ns = Ns::ALL
                .into_iter()
                .find(|ns| ns.name() == word)
                .ok_or_else(|| CandidateError::Unknown(word.into()))?;
            if mask & ns.bit() != 0 {
                return Err(CandidateError::Twice(word.into()));
            }
            mask |= ns.bit();
        }
        if mask & Ns::Mnt.bit() == 0 {
            return Err(CandidateError::WithoutMount(rule.into()));
        }
        Ok(Self(mask))
    }
}

impl TryFrom<String> for Candidate {
    type Error = CandidateError;

    fn try_from(rule: String) -> Result<Self, Self::Error> {
        rule.parse()
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for ns in Ns::ALL.into_iter().filter(|ns| self.0 & ns.bit() != 0) {
            if !first {
                f.write_str("+")?;
            }
            f.write_str(ns.name())?;
            first = false;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    candidate: Vec<Candidate>,
    measure_host: bool,
}

/// Which tasks are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasurementPolicy {
    /// Rules of which any one makes a task a container's.
    pub candidates: Vec<Candidate>,
    /// Whether the host's own tasks are measured, too.
    pub measure_host: bool,
}

impl MeasurementPolicy {
    /// Reads a policy.
    ///
    /// # Errors
    /// Names the line and key that is wrong; an unknown key is wrong.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let document: Document = toml::from_str(text)?;
        if document.version != VERSION {
            return Err(PolicyError::Version(document.version));
        }
        if document.candidate.len() > MAX_CANDIDATES {
            return Err(PolicyError::TooMany(document.candidate.len()));
        }
        if document.candidate.is_empty() && !document.measure_host {
            return Err(PolicyError::Empty);
        }
        Ok(Self {
            candidates: document.candidate,
            measure_host: document.measure_host,
        })
    }

    /// The policy as the probes read it, on a host with these namespaces.
    pub fn scope(&self, host_ns: [u32; NS_COUNT]) -> Scope {
        let mut candidates = [0; MAX_CANDIDATES];
        for (slot, rule) in candidates.iter_mut().zip(&self.candidates) {
            *slot = rule.mask();
        }
        Scope {
            host_ns,
            candidates,
            measure_host: self.measure_host.into(),
            self_test_tgid: 0,
            version: 0,
            epoch: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_policy_measures_containers_only() {
        let policy = MeasurementPolicy::parse(DEFAULT).unwrap();
        let rules: Vec<_> = policy.candidates.iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["mnt+pid", "mnt+cgroup"]);
        assert!(!policy.measure_host);
    }

    #[test]
    fn a_wrong_policy_is_refused_with_the_reason() {
        let cases = [
            (
                "version = 2\ncandidate = ['mnt+pid']\nmeasure_host = false",
                "version 2",
            ),
            (
                "version = 1\ncandidate = []\nmeasure_host = false",
                "measures nothing",
            ),
            (
                "version = 1\ncandidate = ['pid']\nmeasure_host = false",
                "does not name mnt",
            ),
            (
                "version = 1\ncandidate = ['mnt+pidd']\nmeasure_host = false",
                "`pidd` is not a namespace",
            ),
            (
                "version = 1\ncandidate = ['mnt+mnt']\nmeasure_host = false",
                "named twice",
            ),
            (
                "version = 1\ncandidate = ['mnt+pid']\nmeasure_hosts = false",
                "measure_hosts",
            ),
            ("version = 1\ncandidate = ['mnt+pid']", "measure_host"),
            ("version = ", "not valid"),
        ];
        for (text, reason) in cases {
            let error = MeasurementPolicy::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let nine = format!(
            "version = 1\ncandidate = [{}]\nmeasure_host = false",
            "'mnt',".repeat(9)
        );
        assert!(
            MeasurementPolicy::parse(&nine)
                .unwrap_err()
                .to_string()
                .contains("9 candidate")
        );
    }

    #[test]
    fn rules_become_the_masks_that_the_probes_compare() {
        let policy = MeasurementPolicy::parse(DEFAULT).unwrap();
        let scope = policy.scope([7; NS_COUNT]);
        assert_eq!(scope.candidates[0], Ns::Mnt.bit() | Ns::Pid.bit());
        assert_eq!(scope.candidates[1], Ns::Mnt.bit() | Ns::Cgroup.bit());
        assert_eq!(scope.candidates[2..], [0; 6]);
        assert_eq!((scope.measure_host, scope.self_test_tgid), (0, 0));
    }
}
