// SPDX-License-Identifier: Apache-2.0
//! What the judge found: good, or the reasons why not.

use std::fmt;

use ima_log::HashAlgorithm;

use super::{
    BankOutcome, Fault, FaultKind, Findings, Located, Place, QuoteOutcome, QuoteWarning, Rating,
    Reason, Tally, account::Account,
};
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
    /// Entries behind those that a quote vouches for: proven by nothing.
    pub behind: u64,
    /// Entries at the beginning that the PCRs hold; `None`: there was nothing to compare with.
    pub in_pcr: Option<u64>,
    /// The bank that holds all of the list, if each entry is taken for what its record's hash is of: so only entries with fault `entry`
    /// are altered.
    pub as_listed: Option<HashAlgorithm>,
    /// What was compared.
    pub banks: Vec<BankOutcome>,
    /// Why it is not good: the first fault of each kind by place, then the whole list's.
    pub faults: Vec<Fault>,
    /// Of a host's list: what is cima's in it.
    pub host: Option<HostOutcome>,
    /// The quote that the values are from.
    pub quote: Option<QuoteOutcome>,
    /// How complete the list is, by its own account.
    pub tally: Tally,
    /// What it says of containers and node, if that was asked for.
    pub findings: Option<Findings>,
    pub(super) violations: Violations,
    pub(super) trusted_start: bool,
}

/// The part of a list that can be relied on though not all of it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usable {
    /// Entries at the beginning.
    pub entries: u64,
    /// Whether the PCRs hold them; if not, they are right in themselves only. `None`: there was nothing to compare with.
    pub in_pcr: Option<bool>,
    /// What is behind them.
    pub next: Option<Located>,
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

/// Kinds of violations, and what each is. The last two are of no name: those that this version does not know, and the kernel's own.
const KINDS: [(&str, &str); 11] = [
    (
        "hash",
        "files that were mapped executable could not be hashed",
    ),
    ("path", "files that were mapped executable have no path"),
    ("loss", "events were lost on their way from the kernel"),
    (
        "writer",
        "executed files could be written while they were hashed or in use",
    ),
    (
        "mprotect",
        "mappings of files were made executable afterwards",
    ),
    ("anonymous", "memory without a file was made executable"),
    ("kernel-load", "the kernel took code from tasks' memory"),
    (
        "unregistered",
        "programs were executed, or to be, in containers that no hook announced",
    ),
    (
        "root",
        "containers got another root than the one that was measured",
    ),
    (OTHER, "violations of a kind this version does not know"),
    (
        KERNEL,
        "the kernel measured files while they were being changed",
    ),
];
const OTHER: &str = "other";
const KERNEL: &str = "kernel";

/// How many violations of each kind are on record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Violations([u64; KINDS.len()]);

impl Violations {
    /// Counts one, by the kind in its name.
    pub(super) fn note(&mut self, kind: &[u8]) {
        let known = KINDS[..KINDS.len() - 2].iter();
        let mut known = known.map(|(name, _)| name.as_bytes());
        let at = known.position(|name| name == kind);
        self.0[at.unwrap_or(KINDS.len() - 2)] += 1;
    }

    /// Counts one of the kernel's.
    pub(super) fn note_kernels(&mut self) {
        self.0[KINDS.len() - 1] += 1;
    }
}

/// What a reader should know although it does not make the verdict negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// The list records violations; they are measurements like any other.
    Violations {
        /// As in the violation's name, `other`, or `kernel` for IMA's own.
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
    /// See [`QuoteWarning`].
    Quote(QuoteWarning),
    /// [`Judgement::behind`].
    Behind(u64),
}

impl Judgement {
    /// Whether nothing is wrong: the list is what was extended, and nothing that it says is refused.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.holds() && self.refusal().is_none()
    }

    /// Whether the list is what was extended, whatever it says.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.faults.is_empty()
    }

    /// What is refused of that which the list says.
    fn refusal(&self) -> Option<&Findings> {
        let findings = self.findings.as_ref();
        findings.filter(|findings| findings.rating == Rating::Bad)
    }

    /// Takes what the list says of containers, but for batches that are `unread`.
    pub(super) fn account_for(&mut self, account: Option<Account>, unread: u64) {
        let lacking = match &self.quote {
            Some(quote) => quote.lacking(),
            None => Some("the PCR values are not from a quote: who gave them vouches for them"),
        };
        let (tally, holds) = (&self.tally, self.holds());
        self.findings = account.map(|account| account.finish(tally, lacking, unread, holds));
    }

    /// The list ends inside a record that it should not end in.
    pub fn torn(&mut self, place: Place, said: String, in_ledger: bool) {
        let mut fault = Fault::new(Some(Located::new(place, None)), FaultKind::Torn(said));
        fault.in_ledger = in_ledger;
        self.faults.push(fault);
    }

    /// What of a list that is not what was extended can be relied on.
    #[must_use]
    pub fn usable(&self) -> Usable {
        let is_damage = |fault: &&Fault| fault.kind.is_damage() && !fault.in_ledger;
        let damage = self.faults.iter().filter(is_damage);
        let damage = damage.filter_map(|fault| fault.at.as_ref());
        let next = damage.min_by_key(|at| at.place.index).cloned();
        let right = next.as_ref().map(|at| at.place.index);
        let (entries, in_pcr) = match (self.in_pcr, self.as_listed) {
            (None, _) => (right.unwrap_or(self.entries), None),
            (Some(0), Some(_)) => (right.unwrap_or(0), Some(true)),
            // Nothing says where a list begins to be another's.
            (Some(0), None) => (right.unwrap_or(0), Some(false)),
            (Some(held), _) => (right.unwrap_or(held).min(held), Some(true)),
        };
        Usable {
            entries,
            in_pcr,
            next,
        }
    }

    /// Whether all that is wrong is that the PCR lags behind the list, or a host's list and the ledger behind
    /// each other, as they do for a moment while the agent is at work.
    #[must_use]
    pub fn lags(&self) -> bool {
        !self.holds() && self.faults.iter().all(|fault| fault.kind.may_pass())
    }

    /// The fault that the verdict names: the whole list's, else the first.
    #[must_use]
    pub fn main_fault(&self) -> Option<&Fault> {
        let of_list = self.faults.iter().find(|fault| fault.kind.is_of_list());
        // Of a list that ends in the middle, or goes on as none, nothing tells more than where.
        let unreadable = self.faults.iter().find(|fault| {
            matches!(fault.kind, FaultKind::Torn(_) | FaultKind::Unreadable(_)) && !fault.in_ledger
        });
        unreadable.or(of_list).or_else(|| self.faults.first())
    }

    /// What to know besides.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let counts = KINDS.iter().zip(self.violations.0);
        let mut warnings: Vec<_> = counts
            .filter(|(_, count)| *count > 0)
            .map(|((kind, _), count)| Warning::Violations { kind, count })
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
        let quote = self.quote.iter().flat_map(|quote| &quote.warnings);
        warnings.extend(quote.map(|warning| Warning::Quote(*warning)));
        warnings.extend((self.behind > 0).then_some(Warning::Behind(self.behind)));
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
        let held = self.held();
        match (&self.findings, self.refusal()) {
            (_, Some(refused)) => format!("{held}; but {}", refused.sentence()),
            (Some(findings), None) if findings.judged => {
                format!("{held}; {}", findings.sentence())
            }
            _ => held,
        }
    }

    /// That the list is what was extended.
    fn held(&self) -> String {
        let (entries, since) = (self.entries - self.behind, self.since);
        let pcrs = self.pcrs();
        if self.entries == 1 && self.host.is_none() {
            return format!("the only entry is in {pcrs}, unaltered");
        }
        let held = match entries - since {
            1 => "the first entry is".to_owned(),
            held if since == 0 && self.behind == 0 => format!("all {held} entries are"),
            held => format!("the first {held} entries are"),
        };
        let later = match since {
            0 if self.behind > 0 => format!("; {} more are behind the quote", self.behind),
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

impl Findings {
    fn sentence(&self) -> String {
        let main = self.reasons.iter().find(|reason| reason.refused);
        let all = self.containers.len();
        let told = |rating: Rating| match self.count(rating) {
            0 => None,
            count => Some(format!("{count} {}", rating.word())),
        };
        let counts: Vec<_> = [Rating::Good, Rating::Bad, Rating::Unknown]
            .into_iter()
            .filter_map(told)
            .collect();
        let counts = match all {
            0 => "no container".to_owned(),
            1 => format!("1 container: {}", counts.join(", ")),
            all => format!("{all} containers: {}", counts.join(", ")),
        };
        match main.filter(|_| self.rating == Rating::Bad) {
            Some(Reason { kind, .. }) if *kind == super::ReasonKind::Containers => counts,
            Some(reason) => format!("{reason} ({counts})"),
            None if self.rating == Rating::Unknown => {
                let of = |reason: &&Reason| reason.kind.is_uncertain();
                let why = self.reasons.iter().find(of);
                why.map_or_else(
                    || counts.clone(),
                    |why| format!("{counts}; node unknown: {why}"),
                )
            }
            None => counts,
        }
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
            Self::Quote(warning) => warning.word(),
            Self::Behind(_) => "behind-quote",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violations { kind, count } => {
                let of = KINDS.iter().find(|(name, _)| name == kind);
                let what = of.map_or("", |(_, what)| what);
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
            Self::Quote(warning) => warning.fmt(f),
            Self::Behind(1) => f.write_str(
                "1 entry is behind the quote: listed later, and proven by nothing; what it says was not judged",
            ),
            Self::Behind(count) => write!(
                f,
                "{count} entries are behind the quote: listed later, and proven by nothing; what they say was not judged"
            ),
            Self::Unread(count) => write!(
                f,
                "{count} batches are in this list by their digest only: what they tell was not checked (give the ledger, too)"
            ),
        }
    }
}
