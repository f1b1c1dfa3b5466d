// SPDX-License-Identifier: Apache-2.0
//! The verification policy: what a verifier accepts of a node and its containers (TOML). Read where lists are judged, never on
//! the node that is judged.

use serde::Deserialize;

/// The policy that cima ships, `default/verification.toml`.
pub const VERIFICATION_DEFAULT: &str = include_str!("../default/verification.toml");

/// The only format version so far.
const VERSION: u32 = 1;

/// Why a policy is refused.
#[derive(Debug, thiserror::Error)]
pub enum VerificationPolicyError {
    /// Not TOML, an unknown or missing key, a wrong type or a value that stands for nothing.
    #[error("the verification policy is not valid: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Written for another version of cima.
    #[error("the verification policy has version {0}, this cima reads version {VERSION}")]
    Version(u32),
}

/// What is to become of something that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is no reason for anything, and not listed.
    Accept,
    /// It is listed.
    Warn,
    /// It makes a container, or the node, bad.
    Refuse,
}

/// What anchors a list, as `cima-sink:<sink>` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcceptedSink {
    /// The kernel's list, by the module.
    Kernel,
    /// The kernel's list, as files.
    ImaFile,
    /// A PCR of the agent's own.
    Pcr,
    /// Nothing.
    None,
}

/// `sha256:` and 64 digits, as in the payload of `cima-agent:<part>`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PartDigest(String);

impl PartDigest {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PartDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digest = crate::admission::Digest::try_from(text)?;
        Ok(Self(digest.as_str().to_owned()))
    }
}

/// Digests that are accepted of each part of the agent; none: any.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRules {
    /// The running `cimad`.
    pub binary: Vec<PartDigest>,
    /// The probe object.
    pub probes: Vec<PartDigest>,
    /// The object of the sink `kernel`.
    pub lister: Vec<PartDigest>,
    /// Its configuration file.
    pub config: Vec<PartDigest>,
    /// The measurement policy.
    pub policy: Vec<PartDigest>,
    /// The admission policy.
    pub admission: Vec<PartDigest>,
}

impl AgentRules {
    /// Each part by its name in the list, and what is accepted of it.
    pub fn parts(&self) -> [(&'static str, &[PartDigest]); 6] {
        let Self {
            binary,
            probes,
            lister,
            config,
            policy,
            admission,
        } = self;
        [
            ("binary", binary),
            ("probes", probes),
            ("lister", lister),
            ("config", config),
            ("policy", policy),
            ("admission", admission),
        ]
    }
}

/// What is asked of the list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListRules {
    /// What may anchor it.
    pub sinks: Vec<AcceptedSink>,
    /// The PCR values are not from a quote by a trusted key over a chosen nonce.
    pub no_quote: Level,
    /// Events were lost on their way from the kernel.
    pub loss: Level,
    /// For some time nobody watched.
    pub unwatched: Level,
    /// The agent was started again after it had ended in order.
    pub restart: Level,
    /// The agent was started again and had not ended in order.
    pub crash: Level,
}

/// What is asked of containers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRules {
    /// None of the references is its image's.
    pub no_reference: Level,
    /// Its image could not be measured.
    pub unmeasured: Level,
    /// No hook announced it.
    pub unregistered: Level,
    /// The node denied it, and something was executed in it.
    pub denied_ran: Level,
    /// The node allowed it, and the policy that the verifier gives does not, or the reverse.
    pub admission: Level,
}

/// What is asked of executed files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRules {
    /// The image has another content at this path.
    pub changed: Level,
    /// The image has no such executable.
    pub not_in_reference: Level,
    /// It is in a volume.
    pub volume: Level,
    /// Its digest is by another algorithm than the references'.
    pub incomparable: Level,
}

/// What becomes of the violations that an agent records, by kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViolationRules {
    /// Could be written while it was hashed or mapped.
    pub writer: Level,
    /// Could not be hashed.
    pub hash: Level,
    /// A mapping became executable later.
    pub mprotect: Level,
    /// Executable memory without a file.
    pub anonymous: Level,
    /// The kernel took code from a task's memory.
    pub kernel_load: Level,
    /// A path that is too long.
    pub path: Level,
    /// A container with another root than was measured.
    pub root: Level,
    /// Of a kind that this cima does not know.
    pub other: Level,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "version")]
    _version: u32,
    agent: AgentRules,
    list: ListRules,
    containers: ContainerRules,
    files: FileRules,
    violations: ViolationRules,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What a verifier accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationPolicy {
    /// Of the agent.
    pub agent: AgentRules,
    /// Of the list.
    pub list: ListRules,
    /// Of containers.
    pub containers: ContainerRules,
    /// Of files.
    pub files: FileRules,
    /// Of violations.
    pub violations: ViolationRules,
}

impl VerificationPolicy {
    /// Reads a policy.
    ///
    /// # Errors
    /// Names the line and key that is wrong; an unknown key is, and so is a missing one: nothing is decided silently.
    pub fn parse(text: &str) -> Result<Self, VerificationPolicyError> {
        // First: another version may have other keys.
        let Versioned { version } = toml::from_str(text)?;
        if version != VERSION {
            return Err(VerificationPolicyError::Version(version));
        }
        let Document {
            _version,
            agent,
            list,
            containers,
            files,
            violations,
        } = toml::from_str(text)?;
        Ok(Self {
            agent,
            list,
            containers,
            files,
            violations,
        })
    }

    /// What becomes of a violation of this kind, as `cima-violation:<kind>` names it; of losses and broken chains, and of what ran
    /// unregistered, other rules say it.
    #[must_use]
    pub fn violation(&self, kind: &str) -> Level {
        let rules = &self.violations;
        match kind {
            "writer" => rules.writer,
            "hash" => rules.hash,
            "mprotect" => rules.mprotect,
            "anonymous" => rules.anonymous,
            "kernel-load" => rules.kernel_load,
            "path" => rules.path,
            "root" => rules.root,
            "unregistered" => self.containers.unregistered,
            _ => rules.other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_policy_refuses_what_no_honest_node_does() {
        let policy = VerificationPolicy::parse(VERIFICATION_DEFAULT).unwrap();
        assert_eq!(policy.files.changed, Level::Refuse);
        assert_eq!(policy.files.not_in_reference, Level::Refuse);
        assert_eq!(policy.containers.unregistered, Level::Refuse);
        assert_eq!(policy.containers.denied_ran, Level::Refuse);
        assert!(!policy.list.sinks.contains(&AcceptedSink::None));
        assert_eq!(policy.violation("writer"), Level::Refuse);
        assert_eq!(policy.violation("kernel-load"), Level::Refuse);
        assert_eq!(policy.violation("of the future"), Level::Refuse);
        let parts = policy.agent.parts();
        assert!(parts.iter().all(|(_, accepted)| accepted.is_empty()));
    }

    #[test]
    fn a_wrong_policy_is_refused_with_line_and_reason() {
        let digest = format!("binary = [\"sha256:{}\"]", "0".repeat(64));
        let with = |from: &str, to: &str| {
            assert!(VERIFICATION_DEFAULT.contains(from), "{from}");
            VERIFICATION_DEFAULT.replacen(from, to, 1)
        };
        let cases = [
            (with("version = 1", "version = 2"), "version 2"),
            (with("loss = \"warn\"", "loss = \"maybe\""), "maybe"),
            (with("loss = \"warn\"", "losses = \"warn\""), "losses"),
            (with("loss = \"warn\"\n", "\n"), "loss"),
            (with("binary = []", "binary = [\"md5:00\"]"), "is no digest"),
            (with("sinks = [", "sinks = [\"tpm\", "), "tpm"),
            (with("[files]", "[file]"), "file"),
            ("version = ".into(), "not valid"),
        ];
        for (text, reason) in cases {
            let error = VerificationPolicy::parse(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{reason}: {error}");
            assert!(reason == "version 2" || error.contains("line"), "{error}");
        }
        assert!(VerificationPolicy::parse(&with("binary = []", &digest)).is_ok());
    }
}
