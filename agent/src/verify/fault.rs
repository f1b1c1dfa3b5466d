// SPDX-License-Identifier: Apache-2.0
//! What makes a verdict negative, and where in the list it is.

use std::fmt;

use ima_log::{CheckError, Digest, EscapedName};

use super::QuoteFault;

/// In a name's place where none can be read.
const NAMELESS: &str = "?";
/// Bytes of a name that are shown: a list may claim names of megabytes.
const SHOWN: usize = 200;

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Entries before it, in the whole list.
    pub index: u64,
    /// Where its record begins, in bytes, in the file that holds it.
    pub offset: u64,
    /// The segment that holds it, if the list is a ledger's.
    pub segment: Option<u32>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            offset,
            segment,
        } = self;
        match segment {
            Some(segment) => write!(f, "entry {index}, at byte {offset} of segment {segment}"),
            None => write!(f, "entry {index}, at byte {offset}"),
        }
    }
}

/// An entry, as a sentence names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Where.
    pub place: Place,
    /// Its name: printable ASCII, cut if it is very long; `?` if it cannot be read.
    pub name: String,
}

impl Located {
    pub(super) fn new(place: Place, name: Option<&[u8]>) -> Self {
        let name = name.map_or_else(|| NAMELESS.to_owned(), shown);
        Self { place, name }
    }
}

/// A name as a sentence has it.
pub(super) fn shown(name: &[u8]) -> String {
    match name.get(..SHOWN) {
        Some(beginning) if name.len() > SHOWN => format!("{}...", EscapedName(beginning)),
        _ => EscapedName(name).to_string(),
    }
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name[..] {
            NAMELESS => self.place.fmt(f),
            name => write!(f, "{} ({name})", self.place),
        }
    }
}

/// One reason for a negative verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The first entry with this fault; `None` if it is the whole list's.
    pub at: Option<Located>,
    /// What is wrong.
    pub kind: FaultKind,
    /// Whether it is in the ledger that a host's list is compared with, and not in that list.
    pub in_ledger: bool,
}

impl Fault {
    pub(super) fn new(at: Option<Located>, kind: FaultKind) -> Self {
        Self {
            at,
            kind,
            in_ledger: false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.in_ledger {
            f.write_str("ledger: ")?;
        }
        match &self.at {
            Some(at) => write!(f, "{at}: {}", self.kind),
            None => self.kind.fmt(f),
        }
    }
}

/// What is wrong. The sentences go on from the entry's name, or stand alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// No entry at all.
    #[error("the list is empty: it says nothing that a PCR could confirm")]
    Empty,
    /// The entry is not consistent with itself.
    #[error("{0}")]
    Entry(CheckError),
    /// The entry cannot be judged.
    #[error("{0}")]
    Undecided(CheckError),
    /// A cima list with another template.
    #[error("its template is {0}, and cima writes ima-buf only (no hash covers a template's name)")]
    Template(String),
    /// An IMA violation in a cima list.
    #[error("it is marked as an IMA violation, so that no hash covers what it says")]
    Unbound,
    /// A cima list with entries for two PCRs, or for another than it says.
    #[error("it extends PCR {found}, but the list is anchored in PCR {expected}")]
    Pcr {
        /// The PCR of the list.
        expected: u32,
        /// The entry's.
        found: u32,
    },
    /// An entry for a PCR that no value was given of.
    #[error("no value of PCR {0} was given, so nothing vouches for it")]
    Uncovered(u32),
    /// A cima list, or what should be one, that begins otherwise.
    #[error(
        "a cima list begins with batch 0 and its Start event, this one does not: its beginning is missing"
    )]
    NoStart,
    /// A `cima-ctx` entry without a readable batch.
    #[error("it should carry a batch of events, but its payload or its name is not one")]
    NoBatch,
    /// Name and payload disagree.
    #[error("its name says batch {name}, its payload batch {payload}")]
    BatchNumber {
        /// In the name.
        name: u64,
        /// In the payload.
        payload: u64,
    },
    /// A gap or a repetition.
    #[error("{}", order(*expected, *found))]
    BatchOrder {
        /// What should come here.
        expected: u64,
        /// What does.
        found: u64,
    },
    /// A context event without the policy event that goes with it.
    #[error(
        "it tells of what {0} is the entry for, and no entry before it is that one: an entry is missing or altered"
    )]
    NoPolicyEvent(String),
    /// An entry of cima's in a host's list, of a form that cima's do not have there.
    #[error(
        "its template is {0}, and cima's entries in a host's list are ima-buf, or ima-ng or ima-sig of a file with a digest of SHA-256 or more and no signature (no hash covers a template's name)"
    )]
    Form(String),
    /// A host's list without any batch.
    #[error(
        "the list has no entry cima-ctx:0: cima put nothing into it since the boot, so nothing says what containers executed"
    )]
    NotThere,
    /// A ledger's entry that the host's list has not.
    #[error(
        "it is not in the host's list: it was never put there, or another stands there in its place"
    )]
    NotInHost,
    /// A host's entry that the ledger has not.
    #[error("{}", unlisted(*.0))]
    NotInLedger(u64),
    /// The list says that its PCR was not at its power-on value.
    #[error(
        "the list claims that PCR {pcr} held {value} before its first entry, but a PCR starts from its power-on value: what was extended before is unknown (--trust-start takes the claim)"
    )]
    StartValue {
        /// The PCR.
        pcr: u32,
        /// The first value that is not the one at power-on.
        value: Box<Digest>,
    },
    /// A restart recorded another PCR value than the list gives.
    #[error(
        "the agent was started here and found {recorded} in the PCR, but the list up to here gives {replayed}: an entry before it is altered, added or missing"
    )]
    Checkpoint {
        /// In the Start event.
        recorded: Box<Digest>,
        /// By the list.
        replayed: Box<Digest>,
    },
    /// Start events of two boots.
    #[error("it starts boot {found}, but the list is of boot {expected}")]
    Boot {
        /// In the first Start event.
        expected: String,
        /// Here.
        found: String,
    },
    /// The agent found list and PCR apart and began anew.
    #[error(
        "the chain is broken here: the agent found that list and PCR did not fit and began a new segment; what lies between is unknown"
    )]
    ChainBroken,
    /// The violation that goes with it.
    #[error("the agent recorded that list and PCR did not fit: {0}")]
    ChainViolation(String),
    /// The list says that nothing anchors it, and no values were given.
    #[error("not anchored: nothing vouches for this list")]
    NotAnchored,
    /// A cima list in another PCR than the node's agent uses.
    #[error(
        "the list is kept in PCR {found}, not in PCR {expected}: whoever chooses the PCR can keep a second, nicer list there (--expect-pcr {found} if that is where your agent keeps it)"
    )]
    OtherPcr {
        /// Where the agent keeps its list.
        expected: u32,
        /// Where this one is.
        found: u32,
    },
    /// The PCR holds a beginning of the list.
    #[error("{}", prefix(*held, *entries, name))]
    NotExtended {
        /// Entries the PCR holds.
        held: u64,
        /// Entries of the list.
        entries: u64,
        /// Name of the first that it does not hold.
        name: String,
    },
    /// The list ends inside a record.
    #[error("{0}")]
    Torn(String),
    /// A record that is none.
    #[error("{0}")]
    Unreadable(String),
    /// See [`QuoteFault`].
    #[error(transparent)]
    Quote(QuoteFault),
    /// The PCR holds no beginning of the list.
    #[error("the list does not replay to the PCR: altered, reordered, or entries are missing")]
    NoReplay,
}

impl FaultKind {
    /// A word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Entry(_) => "entry",
            Self::Undecided(_) => "undecided",
            Self::Template(_) => "template",
            Self::Unbound => "unbound",
            Self::Pcr { .. } => "pcr",
            Self::Uncovered(_) => "uncovered",
            Self::NoStart => "no-start",
            Self::NoBatch => "no-batch",
            Self::BatchNumber { .. } => "batch-number",
            Self::BatchOrder { .. } => "batch-order",
            Self::NoPolicyEvent(_) => "no-policy-event",
            Self::Form(_) => "form",
            Self::NotThere => "not-there",
            Self::NotInHost => "not-in-host-list",
            Self::NotInLedger(_) => "not-in-ledger",
            Self::StartValue { .. } => "start-value",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Boot { .. } => "boot",
            Self::ChainBroken => "chain-broken",
            Self::ChainViolation(_) => "chain-violation",
            Self::NotAnchored => "not-anchored",
            Self::OtherPcr { .. } => "other-pcr",
            Self::NotExtended { .. } => "not-extended",
            Self::Torn(_) => "torn",
            Self::Unreadable(_) => "unreadable",
            Self::Quote(fault) => fault.word(),
            Self::NoReplay => "no-replay",
        }
    }

    /// Whether it may be gone in a moment, while the agent is at work.
    #[must_use]
    pub(super) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NotExtended { .. } | Self::NotInHost | Self::NotInLedger(_)
        )
    }

    /// Whether it is about the list as a whole, rather than one entry of it.
    #[must_use]
    pub fn is_of_list(&self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::NotThere
                | Self::NotAnchored
                | Self::OtherPcr { .. }
                | Self::NotExtended { .. }
                | Self::Quote(_)
                | Self::NoReplay
        )
    }

    /// Whether an entry with it, or what should be one, says nothing that could be relied on; nor, if it is the list that ends there,
    /// does what follows.
    pub(super) fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Entry(_)
                | Self::Undecided(_)
                | Self::Template(_)
                | Self::Unbound
                | Self::Torn(_)
                | Self::Unreadable(_)
                | Self::NotExtended { .. }
        )
    }
}

fn order(expected: u64, found: u64) -> String {
    let what = if found > expected {
        "entries before it are missing or stand elsewhere"
    } else {
        "it was moved or repeated"
    };
    format!("it is batch {found} where batch {expected} belongs: {what}")
}

fn unlisted(count: u64) -> String {
    let more = match count {
        0 | 1 => String::new(),
        2 => ", and so is one more".to_owned(),
        count => format!(", and so are {} more", count - 1),
    };
    format!(
        "it is called cima's and is not in the ledger{more}: somebody else put it there, or the ledger lost entries"
    )
}

fn prefix(held: u64, entries: u64, name: &str) -> String {
    let beginning = if held == 0 {
        format!("the PCR holds none of the {entries} entries")
    } else {
        format!("the PCR holds the first {held} of {entries} entries")
    };
    format!("{beginning}; entry {held} ({name}) is the first that was never extended")
}
