// SPDX-License-Identifier: Apache-2.0
//! What the judge found: good, or the reasons why not.

use std::fmt;

use super::{BankOutcome, Fault};
use crate::sink::{PcrWarning, pcr_rule};

/// The judgement over a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Entries in the list.
    pub entries: u64,
    /// Whether it is a list of cima.
    pub cima: bool,
    /// The boot it is of, if it says so.
    pub boot_id: Option<String>,
    /// The PCR its first entry extends.
    pub pcr: Option<u32>,
    /// Whether there was anything to compare with.
    pub anchored: bool,
    /// Entries at the end that were appended while the list was being judged.
    pub since: u64,
    /// What was compared.
    pub banks: Vec<BankOutcome>,
    /// Why it is not good: the first fault of each kind by place, then the whole list's.
    pub faults: Vec<Fault>,
    /// Of a host's list: what is cima's in it.
    pub host: Option<HostOutcome>,
    pub(super) violations: Violations,
    pub(super) trusted_start: bool,
}

/// What was found of cima in a host's list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostOutcome {
    /// Entries that are cima's.
    pub entries: u64,
    /// Entries of the ledger, if there was one to compare with.
    pub ledger: Option<u64>,
    /// Entries at the ledger's end that were appended while the lists were being judged.
    pub ledger_since: u64,
    /// Entries that the host's list may have before the ledger, and the ledger does not have.
    pub untold: u64,
    /// Batches whose events the list does not have, nor a ledger.
    pub unread: u64,
}

/// How many violations of each kind are on record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Violations {
    pub(super) hash: u64,
    pub(super) path: u64,
    pub(super) loss: u64,
    pub(super) other: u64,
    pub(super) kernel: u64,
}

/// What a reader should know although it does not make the verdict negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// The list records violations; they are measurements like any other.
    Violations {
        /// `hash`, `path`, `loss`, `other`, or `kernel` for IMA's own.
        kind: &'static str,
        /// How many.
        count: u64,
    },
    /// The PCR proves nothing outside of tests.
    Resettable(u32),
    /// `--trust-start`.
    TrustedStart,
    /// [`HostOutcome::untold`].
    Untold(u64),
    /// [`HostOutcome::unread`].
    Unread(u64),
}

impl Judgement {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether all that is wrong is that the PCR lags behind the list, or a host's list and the ledger behind
    /// each other, as they do for a moment while the agent is at work.
    #[must_use]
    pub fn lags(&self) -> bool {
        !self.is_good() && self.faults.iter().all(|fault| fault.kind.may_pass())
    }

    /// The fault that the verdict names: the whole list's, else the first.
    #[must_use]
    pub fn main_fault(&self) -> Option<&Fault> {
        self.faults
            .iter()
            .find(|fault| fault.kind.is_of_list())
            .or_else(|| self.faults.first())
    }

    /// What to know besides.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let Violations {
            hash,
            path,
            loss,
            other,
            kernel,
        } = self.violations;
        let mut warnings: Vec<_> = [
            ("hash", hash),
            ("path", path),
            ("loss", loss),
            ("other", other),
            ("kernel", kernel),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| Warning::Violations { kind, count })
        .collect();
        let rule = self.pcr.map(|pcr| (pcr, pcr_rule(pcr, None)));
        if let Some((pcr, Ok(Some(PcrWarning::Resettable)))) = rule {
            warnings.push(Warning::Resettable(pcr));
        }
        if self.trusted_start {
            warnings.push(Warning::TrustedStart);
        }
        let HostOutcome { untold, unread, .. } = self.host.unwrap_or_default();
        warnings.extend((untold > 0).then_some(Warning::Untold(untold)));
        warnings.extend((unread > 0).then_some(Warning::Unread(unread)));
        warnings
    }

    /// The verdict in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        if let Some(fault) = self.main_fault() {
            return if fault.kind.is_of_list() && !fault.in_ledger {
                fault.kind.to_string()
            } else {
                fault.to_string()
            };
        }
        let (entries, since) = (self.entries, self.since);
        let pcrs = self.pcrs();
        if entries == 1 && self.host.is_none() {
            return format!("the only entry is in {pcrs}, unaltered");
        }
        let held = match entries - since {
            1 => "the first entry is".to_owned(),
            held if since == 0 => format!("all {held} entries are"),
            held => format!("the first {held} entries are"),
        };
        let later = match since {
            0 => String::new(),
            1 => "; one was appended while this looked".to_owned(),
            since => format!("; {since} were appended while this looked"),
        };
        let cimas = self.host.map(|host| host.sentence()).unwrap_or_default();
        format!("{held} in {pcrs}, unaltered and in order{later}{cimas}")
    }

    fn pcrs(&self) -> String {
        let mut pcrs: Vec<_> = self.banks.iter().map(|bank| bank.pcr).collect();
        pcrs.sort_unstable();
        pcrs.dedup();
        let pcrs: Vec<_> = pcrs.iter().map(|pcr| format!("PCR {pcr}")).collect();
        pcrs.join(" and ")
    }
}

impl HostOutcome {
    fn sentence(&self) -> String {
        let cimas = match self.entries {
            1 => "; one is cima's".to_owned(),
            entries => format!("; {entries} are cima's"),
        };
        let Some(ledger) = self.ledger else {
            return cimas;
        };
        match self.ledger_since {
            0 => format!("{cimas}, with all {ledger} of the ledger"),
            since => format!("{cimas}, with the first {} of the ledger", ledger - since),
        }
    }
}

impl Warning {
    /// A word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Violations { .. } => "violations",
            Self::Resettable(_) => "resettable-pcr",
            Self::TrustedStart => "trusted-start",
            Self::Untold(_) => "not-in-ledger",
            Self::Unread(_) => "unread-batches",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violations { kind, count } => {
                let what = match *kind {
                    "hash" => "files that were mapped executable could not be hashed",
                    "path" => "files that were mapped executable have no path",
                    "loss" => "events were lost on their way from the kernel",
                    "kernel" => "the kernel measured files while they were being changed",
                    _ => "violations of a kind this version does not know",
                };
                write!(
                    f,
                    "{count} of kind {kind} ({what}): on record, which does not make the list differ from the PCR"
                )
            }
            Self::Resettable(pcr) => write!(f, "PCR {pcr} {}", PcrWarning::Resettable),
            Self::TrustedStart => f.write_str(
                "the PCR's values before the first entry are the list's own claim (--trust-start)",
            ),
            Self::Untold(count) => write!(
                f,
                "{count} of the host's list are not in the ledger yet: the kernel listed them by itself, and the agent adds them before its next batch or when it starts again"
            ),
            Self::Unread(count) => write!(
                f,
                "{count} batches are in this list by their digest only: what they tell was not checked (give the ledger, too)"
            ),
        }
    }
}
