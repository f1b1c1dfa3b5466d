// SPDX-License-Identifier: Apache-2.0
//! The measurement policy: which tasks' executables are measured (TOML).

use std::{fmt, str::FromStr};

use cima_abi::{MAX_CANDIDATES, NS_COUNT, Ns, Scope, unregistered};
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
    /// A word that names no flag.
    #[error(
        "`{0}` is not a namespace's flag (newns, newpid, newuser, newuts, newnet, newipc, newcgroup, newtime)"
    )]
    Unknown(String),
    /// Named twice.
    #[error("`{0}` is named twice in one rule")]
    Twice(String),
    /// The key of a container is its mount namespace.
    #[error("the rule `{0}` does not name newns: a container has a mount namespace of its own")]
    WithoutMount(String),
}

/// Namespaces which, if all were made on the way to a mount namespace, make that a container's.
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
                .find(|ns| flag_name(*ns) == word)
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
            f.write_str(flag_name(ns))?;
            first = false;
        }
        Ok(())
    }
}

/// The flag of `clone(2)` that makes one, without `CLONE_` and in small letters.
fn flag_name(ns: Ns) -> &'static str {
    match ns {
        Ns::Mnt => "newns",
        Ns::Pid => "newpid",
        Ns::User => "newuser",
        Ns::Uts => "newuts",
        Ns::Net => "newnet",
        Ns::Ipc => "newipc",
        Ns::Cgroup => "newcgroup",
        Ns::Time => "newtime",
    }
}

/// What becomes of an execution in a candidate that no hook registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unregistered {
    /// It is measured.
    Allow,
    /// It is measured, and is a violation.
    Violation,
    /// The kernel refuses it, with or without an agent.
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    candidate: Vec<Candidate>,
    unregistered: Unregistered,
    measure_host: bool,
}

/// Which tasks are measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasurementPolicy {
    /// Rules of which any one makes a mount namespace a container's.
    pub candidates: Vec<Candidate>,
    /// What becomes of executions in one that nobody registered.
    pub unregistered: Unregistered,
    /// Whether the host's own tasks are measured, too.
    pub measure_host: bool,
}

/// What a host's tasks are told from a container's by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Inodes of the first process's namespaces, in the order of [`cima_abi::Ns`].
    pub namespaces: [u32; NS_COUNT],
    /// Device of its root directory, in the kernel's encoding.
    pub root_device: u32,
    /// The inode of that.
    pub root_inode: u64,
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
            unregistered: document.unregistered,
            measure_host: document.measure_host,
        })
    }

    /// The policy as the probes read it, on this host.
    pub fn scope(&self, host: &Host) -> Scope {
        let mut candidates = [0; MAX_CANDIDATES];
        for (slot, rule) in candidates.iter_mut().zip(&self.candidates) {
            *slot = rule.mask();
        }
        Scope {
            host_ns: host.namespaces,
            candidates,
            measure_host: self.measure_host.into(),
            self_test_tgid: 0,
            version: 0,
            epoch: 0,
            nothing: 0,
            host_root_inode: host.root_inode,
            host_root_device: host.root_device,
            kernel_lists: 0,
            unregistered: match self.unregistered {
                Unregistered::Allow => unregistered::ALLOW,
                Unregistered::Violation => unregistered::VIOLATION,
                Unregistered::Deny => unregistered::DENY,
            },
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
        assert_eq!(rules, ["newns+newpid", "newns+newcgroup"]);
        assert!(!policy.measure_host);
        assert_eq!(policy.unregistered, Unregistered::Violation);
    }

    #[test]
    fn a_wrong_policy_is_refused_with_the_reason() {
        let cases = [
            (
                "version = 2\ncandidate = ['newns+newpid']\nmeasure_host = false\nunregistered = 'allow'",
                "version 2",
            ),
            (
                "version = 1\ncandidate = []\nmeasure_host = false\nunregistered = 'allow'",
                "measures nothing",
            ),
            (
                "version = 1\ncandidate = ['newpid']\nmeasure_host = false\nunregistered = 'allow'",
                "does not name newns",
            ),
            (
                "version = 1\ncandidate = ['newns+newpidd']\nmeasure_host = false\nunregistered = 'allow'",
                "`newpidd` is not a namespace",
            ),
            (
                "version = 1\ncandidate = ['newns+newns']\nmeasure_host = false\nunregistered = 'allow'",
                "named twice",
            ),
            (
                "version = 1\ncandidate = ['newns+newpid']\nmeasure_hosts = false\nunregistered = 'allow'",
                "measure_hosts",
            ),
            (
                "version = 1\ncandidate = ['newns+newpid']\nunregistered = 'allow'",
                "measure_host",
            ),
            (
                "version = 1\ncandidate = ['newns+newpid']\nmeasure_host = false",
                "unregistered",
            ),
            (
                "version = 1\ncandidate = ['newns']\nmeasure_host = false\nunregistered = 'refuse'",
                "refuse",
            ),
            ("version = ", "not valid"),
        ];
        for (text, reason) in cases {
            let error = MeasurementPolicy::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let nine = format!(
            "version = 1\ncandidate = [{}]\nmeasure_host = false\nunregistered = 'allow'",
            "'newns',".repeat(9)
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
        let scope = policy.scope(&Host {
            namespaces: [7; NS_COUNT],
            root_device: 8 << 20 | 1,
            root_inode: 2,
        });
        assert_eq!(scope.candidates[0], Ns::Mnt.bit() | Ns::Pid.bit());
        assert_eq!(scope.candidates[1], Ns::Mnt.bit() | Ns::Cgroup.bit());
        assert_eq!(scope.candidates[2..], [0; 6]);
        assert_eq!((scope.measure_host, scope.self_test_tgid), (0, 0));
    }
}
