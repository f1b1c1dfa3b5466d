// SPDX-License-Identifier: Apache-2.0
//! What is said in the end of each container and of the node: a verdict and the reasons, each a sentence that names an entry.

use std::collections::HashSet;

use cima_policies::Level;

/// Reasons of one container, or of the node, that are told; what is beyond is counted.
const MOST: usize = 100;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReasonKind {
    /// The image has another content at this path.
    Changed,
    /// The image has no such executable.
    NotInReference,
    /// A volume's file was executed.
    Volume,
    /// Hashed by another algorithm than the reference.
    Incomparable,
    /// No reference is its image's.
    NoReference,
    /// No references were given.
    NoReferences,
    /// The image could not be measured.
    Unmeasured,
    /// No hook announced it.
    Unregistered,
    /// The node denied it, and it ran.
    DeniedRan,
    /// Node and verifier answer differently.
    Admission,
    /// The agent recorded one.
    Violation(String),
    /// Events were lost.
    Loss,
    /// Nobody watched.
    Unwatched,
    /// The agent was restarted.
    Restart,
    /// The agent was started again without having ended.
    Crash,
    /// What anchors the list.
    Sink,
    /// A part of the agent.
    Agent,
    /// The values are not from a quote, or from one without a trusted key or a nonce.
    NoQuote,
    /// The list is not what was extended.
    Unproven,
    /// Batches are in a host's list by their digest only.
    Unread,
    /// Something is refused of a container.
    Containers,
}

impl ReasonKind {
    /// A word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::NotInReference => "not-in-reference",
            Self::Volume => "volume",
            Self::Incomparable => "incomparable",
            Self::NoReference => "no-reference",
            Self::NoReferences => "no-references",
            Self::Unmeasured => "unmeasured",
            Self::Unregistered => "unregistered",
            Self::DeniedRan => "denied-ran",
            Self::Admission => "admission",
            Self::Violation(_) => "violation",
            Self::Loss => "loss",
            Self::Unwatched => "unwatched",
            Self::Restart => "restart",
            Self::Crash => "crash",
            Self::Sink => "sink",
            Self::Agent => "agent",
            Self::NoQuote => "no-quote",
            Self::Unproven => "unproven",
            Self::Unread => "unread-batches",
            Self::Containers => "containers",
        }
    }

    /// Whether with it, where it is not refused, nobody can say that a container, or the node, is as it should be.
    pub(super) fn is_uncertain(&self) -> bool {
        match self {
            Self::Volume
            | Self::Incomparable
            | Self::NoReference
            | Self::NoReferences
            | Self::Unmeasured
            | Self::Unproven
            | Self::Unread => true,
            // Nothing says what was executed.
            Self::Violation(kind) => matches!(&kind[..], "hash" | "path"),
            _ => false,
        }
    }
}

/// Why a verdict is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What was found.
    pub kind: ReasonKind,
    /// Whether it is refused.
    pub refused: bool,
    /// Entries before the one that says so; `None` if it is of the whole list.
    pub index: Option<u64>,
    /// In printable ASCII, without the entry.
    pub sentence: String,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.index {
            Some(index) => write!(f, "entry {index}: {}", self.sentence),
            None => f.write_str(&self.sentence),
        }
    }
}

/// What a verifier says of a container, or of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rating {
    /// All that it did is known and accepted.
    Good,
    /// Something is refused.
    Bad,
    /// Nothing is refused, and not all is known.
    Unknown,
}

impl Rating {
    /// A word for programs and people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// Reasons as they are found.
#[derive(Debug, Clone, Default)]
pub(super) struct Reasons {
    list: Vec<Reason>,
    said: HashSet<Box<[u8]>>,
    more: u64,
    refused: bool,
    uncertain: bool,
}

impl Reasons {
    /// Takes a reason, unless it is accepted or `of` was said in this kind before.
    pub(super) fn add(
        &mut self,
        level: Level,
        kind: ReasonKind,
        index: Option<u64>,
        of: &[u8],
        sentence: impl FnOnce() -> String,
    ) {
        if level == Level::Accept {
            return;
        }
        let refused = level == Level::Refuse;
        // Of what is not listed any more the first refusal still is.
        let first_refusal = refused && !self.refused;
        self.refused |= refused;
        self.uncertain |= kind.is_uncertain();
        if self.list.len() >= MOST && !first_refusal {
            self.more += 1;
            return;
        }
        let key = [kind.word().as_bytes(), b"\0", of].concat();
        if self.said.insert(key.into()) {
            self.list.push(Reason {
                kind,
                refused,
                index,
                sentence: sentence(),
            });
        }
    }

    pub(super) fn rating(&self) -> Rating {
        if self.refused {
            Rating::Bad
        } else if self.uncertain {
            Rating::Unknown
        } else {
            Rating::Good
        }
    }

    pub(super) fn into_list(mut self) -> (Vec<Reason>, u64) {
        // What is refused first, and in the order of the list.
        self.list
            .sort_by_key(|reason| (!reason.refused, reason.index));
        (self.list, self.more)
    }
}

/// A container, and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerFinding {
    /// `Created.container`; `None`: nobody registered it.
    pub number: Option<u64>,
    /// Mount namespace and its generation; 0: not known.
    pub mnt_ns: (u32, u64),
    /// As its engine calls it, or, of an unregistered one, as its cgroup hints; printable, perhaps empty.
    pub id: String,
    /// Its name, printable.
    pub name: Option<String>,
    /// Its image, `sha256:<hex>`.
    pub image: Option<String>,
    /// The image's name in the node's store, printable.
    pub image_name: Option<String>,
    /// The image's name in its reference, printable.
    pub reference: Option<String>,
    /// Entries before the one that says how it was made.
    pub created: Option<u64>,
    /// The node's answer to its hook; `None`: it had none.
    pub allowed: Option<bool>,
    /// Why the node denied it, printable.
    pub denied: Vec<String>,
    /// SHA-256 of the node's admission policy.
    pub policy: Option<String>,
    /// Whether something but the engine's stubs was written over the image before; `None`: not audited.
    pub upper_dirty: Option<bool>,
    /// Whether it is at its end.
    pub gone: bool,
    /// Programs that were executed.
    pub executions: u64,
    /// Files that were measured there.
    pub measured: u64,
    /// The verdict.
    pub rating: Rating,
    /// Why.
    pub reasons: Vec<Reason>,
    /// Findings beyond, repeated ones among them.
    pub more: u64,
}

/// A part of the agent that the list names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPart {
    /// `binary` and so on, printable.
    pub name: String,
    /// `sha256:<hex>`, printable.
    pub digest: String,
    /// Entries before the one that says so.
    pub index: u64,
}

/// What the list says of its node, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Whether there was anything to judge by; if not, containers are listed only.
    pub judged: bool,
    /// In the order in which the list names them.
    pub containers: Vec<ContainerFinding>,
    /// The agent's parts.
    pub agent: Vec<AgentPart>,
    /// Of the node.
    pub rating: Rating,
    /// Why.
    pub reasons: Vec<Reason>,
    /// Findings beyond.
    pub more: u64,
}

impl Findings {
    /// Containers of this rating.
    #[must_use]
    pub fn count(&self, rating: Rating) -> usize {
        let of = |container: &&ContainerFinding| container.rating == rating;
        self.containers.iter().filter(of).count()
    }
}
