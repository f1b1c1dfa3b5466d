// SPDX-License-Identifier: Apache-2.0
//! Policy events: name and payload of what a verifier can list in advance. No
//! container id, no pid, no time: the same value on every node and at every boot.

use std::fmt;

use ima_log::Digest;
use image_digest::ImageDigest;

use super::{Anchorage, name::escape};
use crate::containers::Provenance;

/// One policy event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PolicyEvent {
    /// Name of the `ima-buf` entry.
    pub name: String,
    /// Its payload: text, so that no verifier takes it for a key.
    pub payload: String,
}

/// Kinds of violations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A file was mapped executable whose hash could not be taken.
    Hash,
    /// A file was mapped executable whose path could not be made.
    Path,
    /// The file could be written while it was hashed and mapped, or was opened for that later.
    Writer,
    /// A mapping of a file was made executable after it was made.
    Mprotect,
    /// Memory without a file is executable.
    Anonymous,
    /// The kernel took code from a task's memory.
    KernelLoad,
    /// A program was executed, or was to be, in what is a container and nobody registered.
    Unregistered,
    /// A container got another root than the one that was measured.
    Root,
    /// Events were lost on their way from the kernel.
    Loss,
    /// List and PCR do not fit each other.
    Chain,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash => "hash",
            Self::Path => "path",
            Self::Writer => "writer",
            Self::Mprotect => "mprotect",
            Self::Anonymous => "anonymous",
            Self::KernelLoad => "kernel-load",
            Self::Unregistered => "unregistered",
            Self::Root => "root",
            Self::Loss => "loss",
            Self::Chain => "chain",
        })
    }
}

/// A part of the agent itself, measured before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfPart {
    /// The running `cimad`, hashed by the kernel.
    Binary,
    /// The probe object.
    Probes,
    /// The object of the sink `kernel`.
    Lister,
    /// Its configuration file.
    Config,
    /// The measurement policy in force.
    Policy,
    /// The admission policy in force.
    Admission,
}

impl fmt::Display for SelfPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Probes => "probes",
            Self::Lister => "lister",
            Self::Config => "config",
            Self::Policy => "policy",
            Self::Admission => "admission",
        })
    }
}

impl PolicyEvent {
    /// The image of a container.
    pub fn image(digest: &ImageDigest) -> Self {
        Self {
            name: format!("cima-image:{digest}"),
            payload: format!("v1;image={digest}"),
        }
    }

    /// A file that was mapped executable or executed there.
    pub fn exec(provenance: &Provenance, path: &[u8], digest: &Digest) -> Self {
        Self {
            name: format!("cima-exec:{provenance}:{}", escape(path)),
            payload: format!("v1;{digest}"),
        }
    }

    /// Something that should not be.
    pub fn violation(kind: Violation, provenance: &Provenance, path: &[u8], detail: &str) -> Self {
        Self {
            name: format!("cima-violation:{kind}:{provenance}:{}", escape(path)),
            payload: format!("v1;{kind};{}", escape(detail.as_bytes())),
        }
    }

    /// Something that should not be and is no container's doing.
    pub fn own_violation(kind: Violation, detail: &str) -> Self {
        Self::violation(kind, &Provenance::Unregistered, b"", detail)
    }

    /// What anchors the list.
    pub fn sink(anchorage: Anchorage) -> Self {
        let name = anchorage.name();
        Self {
            name: format!("cima-sink:{name}"),
            payload: format!("v1;sink={name}"),
        }
    }

    /// A part of the agent.
    pub fn agent(part: SelfPart, digest: &Digest) -> Self {
        Self {
            name: format!("cima-agent:{part}"),
            payload: format!("v1;{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ima_log::HashAlgorithm;

    #[test]
    fn names_and_payloads_are_the_documented_ones() {
        let digest = HashAlgorithm::Sha256.digest(b"");
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let nobody = Provenance::Unregistered;
        let exec = PolicyEvent::exec(&nobody, b"/usr/bin/a b", &digest);
        assert_eq!(exec.name, "cima-exec:unregistered:/usr/bin/a%20b");
        assert_eq!(exec.payload, format!("v1;sha256:{hex}"));
        let violation = PolicyEvent::violation(Violation::Hash, &nobody, b"/x", "errno=5");
        assert_eq!(violation.name, "cima-violation:hash:unregistered:/x");
        assert_eq!(violation.payload, "v1;hash;errno=5");
        let image: ImageDigest = digest.to_string().parse().unwrap();
        let event = PolicyEvent::image(&image);
        assert_eq!(event.name, format!("cima-image:sha256:{hex}"));
        assert_eq!(event.payload, format!("v1;image=sha256:{hex}"));
        let exec = PolicyEvent::exec(&Provenance::Image(image), b"/x", &digest);
        assert_eq!(exec.name, format!("cima-exec:sha256:{hex}:/x"));
        let exec = PolicyEvent::exec(&Provenance::Unmeasured, b"/x", &digest);
        assert_eq!(exec.name, "cima-exec:unmeasured:/x");
        assert_eq!(
            PolicyEvent::agent(SelfPart::Probes, &digest).name,
            "cima-agent:probes"
        );
    }
}
