// SPDX-License-Identifier: Apache-2.0
//! A judgement as people read it, and as programs do. Both say the same.

use std::{collections::BTreeMap, env, io, io::Write};

use clap::builder::styling::{AnsiColor, Style};
use ima_log::{Digest, HashAlgorithm};
use serde::Serialize;

use crate::verify::{
    BankOutcome, ContainerFinding, Fault, Findings, Judgement, QuoteOutcome, Rating, Reason,
    ReasonKind, Selected, Tally, Usable, Warning,
};

/// What `cima verify` has to say.
pub(super) struct Verdict<'a> {
    /// The list, as named.
    pub(super) list: String,
    /// The ledger that a host's list was compared with, as named.
    pub(super) ledger: Option<String>,
    /// Where the values are from: `TPM`, `file` or `given`.
    pub(super) origin: &'static str,
    pub(super) judgement: &'a Judgement,
    /// What explains the verdict besides.
    pub(super) note: Option<String>,
}

impl Verdict<'_> {
    /// A few lines, the verdict last.
    pub(super) fn text(&self, out: &mut impl Write, paint: Paint) -> io::Result<()> {
        let judgement = self.judgement;
        let of_boot = match &judgement.boot_id {
            Some(boot) => format!("cima list of boot {boot}"),
            None => "cima list".to_owned(),
        };
        let entries = entries(judgement.entries);
        match judgement.host {
            None if judgement.cima => writeln!(out, "{}: {of_boot}, {entries}", self.list)?,
            None => writeln!(out, "{}: IMA list, {entries}", self.list)?,
            Some(host) => {
                let (list, cimas) = (&self.list, host.entries);
                writeln!(out, "{list}: IMA list, {entries}, {cimas} of cima")?;
            }
        }
        if let (Some(ledger), Some(count)) = (&self.ledger, self.ledger_entries()) {
            writeln!(out, "{ledger}: {of_boot}, {}", self::entries(count))?;
        }
        for bank in &judgement.banks {
            self.bank(out, bank, paint)?;
        }
        if let Some(quote) = &judgement.quote {
            writeln!(out, "quote: {}", quote_line(quote))?;
        }
        if let Some(findings) = &judgement.findings {
            self.findings(out, findings, paint)?;
        }
        for warning in judgement.warnings() {
            writeln!(out, "{} {warning}", paint.middling("warning:"))?;
        }
        let main = judgement.main_fault();
        for fault in &judgement.faults {
            if Some(fault) != main {
                writeln!(out, "{} {fault}", paint.bad("fault:"))?;
            }
        }
        if let Some(note) = &self.note {
            writeln!(out, "note: {note}")?;
        }
        if let Some(usable) = usable_line(judgement) {
            writeln!(out, "usable: {usable}")?;
        }
        let verdict = if judgement.is_good() {
            paint.good("good:")
        } else {
            paint.bad("bad:")
        };
        writeln!(out, "{verdict} {}", judgement.sentence())
    }

    /// What the list says of the agent, of each container, and of the node.
    fn findings(&self, out: &mut impl Write, findings: &Findings, paint: Paint) -> io::Result<()> {
        for part in &findings.agent {
            writeln!(
                out,
                "agent: entry {}: {} {}",
                part.index, part.name, part.digest
            )?;
        }
        for container in &findings.containers {
            let rating = match container.rating {
                Rating::Good => paint.good("good"),
                Rating::Bad => paint.bad("bad"),
                Rating::Unknown => paint.middling("unknown"),
            };
            writeln!(out, "{}: {rating}", container_line(container))?;
            reasons(out, &container.reasons, container.more, paint)?;
        }
        let tally = &self.judgement.tally;
        writeln!(out, "node: {}", tally_line(tally))?;
        reasons(out, &findings.reasons, findings.more, paint)
    }

    fn ledger_entries(&self) -> Option<u64> {
        self.judgement.host.and_then(|host| host.ledger)
    }

    fn bank(&self, out: &mut impl Write, bank: &BankOutcome, paint: Paint) -> io::Result<()> {
        let (pcr, algorithm) = (bank.pcr, bank.expected.algorithm());
        let replayed = hex::encode(bank.replayed.bytes());
        if bank.matches() {
            let matches = paint.good("match  ");
            let padded = if bank.padded {
                " (of SHA-1 alone: the kernel had no code for this bank's hash)"
            } else {
                ""
            };
            return writeln!(
                out,
                "PCR {pcr} {algorithm:<6} {matches} replayed and {} {replayed}{padded}",
                self.origin
            );
        }
        writeln!(
            out,
            "PCR {pcr} {algorithm:<6} {} replayed {replayed}",
            paint.bad("differs")
        )?;
        let expected = hex::encode(bank.expected.bytes());
        let indent = format!("PCR {pcr} ").len() + 6 + 1 + 7;
        writeln!(out, "{:indent$} {:<8} {expected}", "", self.origin)
    }

    /// One object on one line.
    pub(super) fn json(&self, out: &mut impl Write) -> io::Result<()> {
        let judgement = self.judgement;
        let object = VerdictJson {
            v: 1,
            good: judgement.is_good(),
            verdict: judgement.sentence(),
            note: self.note.as_deref(),
            list: &self.list,
            kind: match (judgement.host, judgement.cima) {
                (Some(_), _) => "host",
                (None, true) => "cima",
                (None, false) => "ima",
            },
            boot_id: judgement.boot_id.as_deref(),
            pcr: judgement.pcr,
            entries: judgement.entries,
            appended_since: judgement.since,
            values_from: judgement.anchored.then_some(self.origin),
            banks: judgement.banks.iter().map(BankJson::from).collect(),
            cima: judgement.host.map(|host| OursJson {
                entries: host.entries,
                ledger: self.ledger.as_deref(),
                ledger_entries: host.ledger,
                ledger_appended_since: host.ledger_since,
            }),
            list_good: judgement.holds(),
            usable: UsableJson::of(judgement),
            behind_quote: judgement.behind,
            quote: judgement.quote.as_ref().map(QuoteJson::from),
            completeness: CompletenessJson::from(&judgement.tally),
            node: judgement.findings.as_ref().map(NodeJson::from),
            containers: judgement.findings.as_ref().map(|findings| {
                let containers = findings.containers.iter();
                containers.map(ContainerJson::from).collect()
            }),
            faults: judgement.faults.iter().map(FaultJson::from).collect(),
            warnings: judgement
                .warnings()
                .into_iter()
                .map(WarningJson::from)
                .collect(),
        };
        serde_json::to_writer(&mut *out, &object)?;
        out.write_all(b"\n")
    }
}

/// Keys are only ever added.
#[derive(Serialize)]
struct VerdictJson<'a> {
    v: u32,
    good: bool,
    verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    list: &'a str,
    kind: &'static str,
    boot_id: Option<&'a str>,
    pcr: Option<u32>,
    entries: u64,
    appended_since: u64,
    values_from: Option<&'static str>,
    banks: Vec<BankJson>,
    /// Of a host's list only.
    #[serde(skip_serializing_if = "Option::is_none")]
    cima: Option<OursJson<'a>>,
    faults: Vec<FaultJson<'a>>,
    warnings: Vec<WarningJson>,
    /// Whether the list is what was extended; `good` is that, and that nothing it says is refused.
    list_good: bool,
    usable: UsableJson,
    behind_quote: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    quote: Option<QuoteJson<'a>>,
    completeness: CompletenessJson<'a>,
    /// With references, a policy or `--containers` only; and so the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<NodeJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    containers: Option<Vec<ContainerJson<'a>>>,
}

/// The beginning of the list that can be relied on.
#[derive(Serialize)]
struct UsableJson {
    entries: u64,
    /// null: there was nothing to compare with.
    in_pcr: Option<bool>,
    /// The bank that holds the rest, too, but for altered entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    rest_in_bank: Option<&'static str>,
}

#[derive(Serialize)]
struct QuoteJson<'a> {
    good: bool,
    scheme: Option<&'static str>,
    ak_sha256: Option<&'a str>,
    key_trusted: bool,
    nonce_checked: bool,
    #[serde(flatten)]
    info: Option<QuoteInfoJson<'a>>,
}

#[derive(Serialize)]
struct QuoteInfoJson<'a> {
    nonce: &'a str,
    pcrs: Vec<SelectedJson<'a>>,
    reset_count: u32,
    restart_count: u32,
    clock_ms: u64,
    safe: bool,
    firmware: String,
}

#[derive(Serialize)]
struct SelectedJson<'a> {
    bank: String,
    pcrs: &'a [u32],
}

/// What the agent says of itself, and of what it did not see.
#[derive(Serialize)]
struct CompletenessJson<'a> {
    batches: u64,
    starts: u64,
    restarts: u64,
    crashes: u64,
    chain_breaks: u64,
    stops: u64,
    stopped: bool,
    lost: u64,
    losses: &'a BTreeMap<String, u64>,
    unwatched: u64,
}

#[derive(Serialize)]
struct NodeJson<'a> {
    verdict: &'static str,
    judged: bool,
    agent: Vec<PartJson<'a>>,
    reasons: Vec<ReasonJson<'a>>,
    more_reasons: u64,
    containers_good: usize,
    containers_bad: usize,
    containers_unknown: usize,
}

#[derive(Serialize)]
struct PartJson<'a> {
    part: &'a str,
    digest: &'a str,
    index: u64,
}

#[derive(Serialize)]
struct ContainerJson<'a> {
    /// null: nobody registered it.
    container: Option<u64>,
    id: &'a str,
    name: Option<&'a str>,
    image: Option<&'a str>,
    image_name: Option<&'a str>,
    reference: Option<&'a str>,
    mnt_ns: u32,
    mnt_generation: u64,
    created_index: Option<u64>,
    /// The node's answer.
    allowed: Option<bool>,
    denied: &'a [String],
    policy: Option<&'a str>,
    upper_dirty: Option<bool>,
    gone: bool,
    executions: u64,
    measured: u64,
    verdict: &'static str,
    reasons: Vec<ReasonJson<'a>>,
    more_reasons: u64,
}

#[derive(Serialize)]
struct ReasonJson<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    violation: Option<&'a str>,
    refused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    sentence: &'a str,
}

/// What of a host's list is cima's.
#[derive(Serialize)]
struct OursJson<'a> {
    entries: u64,
    ledger: Option<&'a str>,
    ledger_entries: Option<u64>,
    ledger_appended_since: u64,
}

#[derive(Serialize)]
struct BankJson {
    pcr: u32,
    bank: &'static str,
    replayed: String,
    expected: String,
    matches: bool,
    /// Of SHA-1, padded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    padded: bool,
    /// Entries after which the list gave the expected value.
    held_entries: Option<u64>,
}

#[derive(Serialize)]
struct FaultJson<'a> {
    kind: &'static str,
    /// `ledger`, if it is in the ledger that a host's list was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    sentence: String,
}

#[derive(Serialize)]
struct WarningJson {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    violation: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    sentence: String,
}

impl From<&BankOutcome> for BankJson {
    fn from(bank: &BankOutcome) -> Self {
        let hex = |value: &Digest| hex::encode(value.bytes());
        Self {
            pcr: bank.pcr,
            bank: bank.expected.algorithm().name(),
            replayed: hex(&bank.replayed),
            expected: hex(&bank.expected),
            matches: bank.matches(),
            padded: bank.padded,
            held_entries: bank.held,
        }
    }
}

impl<'a> From<&'a Fault> for FaultJson<'a> {
    fn from(fault: &'a Fault) -> Self {
        let place = fault.at.as_ref().map(|at| at.place);
        Self {
            kind: fault.kind.word(),
            list: fault.in_ledger.then_some("ledger"),
            index: place.map(|place| place.index),
            segment: place.and_then(|place| place.segment),
            offset: place.map(|place| place.offset),
            name: fault.at.as_ref().map(|at| at.name.as_str()),
            sentence: fault.kind.to_string(),
        }
    }
}

impl From<Warning> for WarningJson {
    fn from(warning: Warning) -> Self {
        let (violation, count) = match warning {
            Warning::Violations { kind, count } => (Some(kind), Some(count)),
            Warning::Untold(count) | Warning::Unread(count) | Warning::Behind(count) => {
                (None, Some(count))
            }
            Warning::Resettable(_) | Warning::TrustedStart | Warning::Quote(_) => (None, None),
        };
        Self {
            kind: warning.word(),
            violation,
            count,
            sentence: warning.to_string(),
        }
    }
}

impl UsableJson {
    fn of(judgement: &Judgement) -> Self {
        let Usable {
            entries, in_pcr, ..
        } = judgement.usable();
        Self {
            entries,
            in_pcr,
            rest_in_bank: judgement.as_listed.map(HashAlgorithm::name),
        }
    }
}

impl<'a> From<&'a QuoteOutcome> for QuoteJson<'a> {
    fn from(quote: &'a QuoteOutcome) -> Self {
        let info = quote.info.as_ref().map(|info| QuoteInfoJson {
            nonce: &info.nonce,
            pcrs: info.selection.iter().map(SelectedJson::from).collect(),
            reset_count: info.reset_count,
            restart_count: info.restart_count,
            clock_ms: info.clock_ms,
            safe: info.safe,
            firmware: format!("{:#018x}", info.firmware),
        });
        Self {
            good: quote.is_good(),
            scheme: quote.scheme,
            ak_sha256: quote.key.as_deref(),
            key_trusted: quote.key_trusted,
            nonce_checked: quote.nonce_checked,
            info,
        }
    }
}

impl<'a> From<&'a Selected> for SelectedJson<'a> {
    fn from(selected: &'a Selected) -> Self {
        Self {
            bank: bank_name(selected),
            pcrs: &selected.pcrs,
        }
    }
}

fn bank_name(selected: &Selected) -> String {
    match selected.bank {
        Some(bank) => bank.name().to_owned(),
        None => format!("{:#06x}", selected.algorithm),
    }
}

impl<'a> From<&'a Tally> for CompletenessJson<'a> {
    fn from(tally: &'a Tally) -> Self {
        Self {
            batches: tally.batches,
            starts: tally.starts,
            restarts: tally.restarts.count,
            crashes: tally.crashes.count,
            chain_breaks: tally.chain_breaks.count,
            stops: tally.stops,
            stopped: tally.stopped,
            lost: tally.lost.count,
            losses: &tally.losses,
            unwatched: tally.unwatched.count,
        }
    }
}

impl<'a> From<&'a Findings> for NodeJson<'a> {
    fn from(findings: &'a Findings) -> Self {
        let part = |part: &'a crate::verify::AgentPart| PartJson {
            part: &part.name,
            digest: &part.digest,
            index: part.index,
        };
        Self {
            verdict: findings.rating.word(),
            judged: findings.judged,
            agent: findings.agent.iter().map(part).collect(),
            reasons: findings.reasons.iter().map(ReasonJson::from).collect(),
            more_reasons: findings.more,
            containers_good: findings.count(Rating::Good),
            containers_bad: findings.count(Rating::Bad),
            containers_unknown: findings.count(Rating::Unknown),
        }
    }
}

impl<'a> From<&'a ContainerFinding> for ContainerJson<'a> {
    fn from(found: &'a ContainerFinding) -> Self {
        Self {
            container: found.number,
            id: &found.id,
            name: found.name.as_deref(),
            image: found.image.as_deref(),
            image_name: found.image_name.as_deref(),
            reference: found.reference.as_deref(),
            mnt_ns: found.mnt_ns.0,
            mnt_generation: found.mnt_ns.1,
            created_index: found.created,
            allowed: found.allowed,
            denied: &found.denied,
            policy: found.policy.as_deref(),
            upper_dirty: found.upper_dirty,
            gone: found.gone,
            executions: found.executions,
            measured: found.measured,
            verdict: found.rating.word(),
            reasons: found.reasons.iter().map(ReasonJson::from).collect(),
            more_reasons: found.more,
        }
    }
}

impl<'a> From<&'a Reason> for ReasonJson<'a> {
    fn from(reason: &'a Reason) -> Self {
        Self {
            kind: reason.kind.word(),
            violation: match &reason.kind {
                ReasonKind::Violation(kind) => Some(kind),
                _ => None,
            },
            refused: reason.refused,
            index: reason.index,
            sentence: &reason.sentence,
        }
    }
}

fn reasons(out: &mut impl Write, reasons: &[Reason], more: u64, paint: Paint) -> io::Result<()> {
    for reason in reasons {
        let level = match reason.refused {
            true => paint.bad("refused:"),
            false => paint.middling("warning:"),
        };
        writeln!(out, "  {level} {reason}")?;
    }
    match more {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more, repeated ones among them"),
    }
}

/// Which container it is, and how the node answered its hook.
fn container_line(container: &ContainerFinding) -> String {
    let mut line = match (container.number, container.allowed) {
        (Some(number), Some(_)) => format!("container {number}"),
        (Some(number), None) => format!("container {number} of no known creation"),
        (None, _) => format!("unregistered, in mount namespace {}", container.mnt_ns.0),
    };
    if let Some(name) = &container.name {
        line += &format!(" {name}");
    }
    if !container.id.is_empty() {
        line += &format!(" ({})", container.id.get(..12).unwrap_or(&container.id));
    }
    let image = container
        .image_name
        .as_ref()
        .or(container.reference.as_ref());
    match (image, &container.image) {
        (Some(name), Some(digest)) => line += &format!(", image {name} {digest}"),
        (None, Some(digest)) => line += &format!(", image {digest}"),
        (Some(name), None) => line += &format!(", image {name}, not measured"),
        (None, None) => {}
    }
    let (executions, measured) = (container.executions, container.measured);
    line += match container.allowed {
        Some(true) => ", admitted",
        Some(false) => ", denied",
        None => "",
    };
    line + &format!(", {executions} executions, {measured} files measured")
}

fn tally_line(tally: &Tally) -> String {
    let mut parts = vec![
        format!("{} batches", tally.batches),
        format!("{} starts of the agent", tally.starts),
    ];
    for (count, what) in [
        (tally.restarts.count, "after an end in order"),
        (tally.crashes.count, "after none"),
        (tally.chain_breaks.count, "with a broken chain"),
        (tally.lost.count, "events lost"),
        (tally.unwatched.count, "times unwatched"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    if tally.stopped {
        parts.push("ended in order".to_owned());
    }
    parts.join(", ")
}

fn quote_line(quote: &QuoteOutcome) -> String {
    let signed = match (&quote.key, quote.scheme) {
        (Some(key), Some(scheme)) => format!("{scheme} by the key with SHA-256 {key}"),
        (None, Some(scheme)) => format!("{scheme} by the given key"),
        (_, None) => "of no signature".to_owned(),
    };
    let Some(info) = &quote.info else {
        return signed;
    };
    let selected = |one: &Selected| {
        let pcrs: Vec<_> = one.pcrs.iter().map(u32::to_string).collect();
        format!("{}:{}", bank_name(one), pcrs.join(","))
    };
    let selection: Vec<_> = info.selection.iter().map(selected).collect();
    format!(
        "{signed}, nonce {}, of PCR {}; reset {}, restart {}, {} ms, firmware {:#018x}",
        info.nonce,
        selection.join("+"),
        info.reset_count,
        info.restart_count,
        info.clock_ms,
        info.firmware
    )
}

/// What of a list that is not what was extended can be relied on; `None`: all of it, or nothing is to be said.
fn usable_line(judgement: &Judgement) -> Option<String> {
    let Usable {
        entries,
        in_pcr,
        next,
    } = judgement.usable();
    if judgement.holds() || entries == 0 {
        return None;
    }
    let which = match entries {
        1 => "entry 0 is".to_owned(),
        entries => format!("entries 0 to {} are", entries - 1),
    };
    let next = next
        .map(|next| format!("; behind is {next}"))
        .unwrap_or_default();
    Some(match (in_pcr, judgement.as_listed) {
        (None, _) => {
            format!("{which} right in themselves, and there was nothing to compare with{next}")
        }
        (Some(false), _) => {
            format!(
                "{which} right in themselves, but that the PCR holds them nothing shows: for that it takes what is behind, unaltered{next}"
            )
        }
        (Some(true), Some(bank)) => {
            format!(
                "{which} in the PCR, and so is what is behind but for altered entries: bank {bank} has what the records' own hashes give{next}"
            )
        }
        (Some(true), None) => format!("{which} in the PCR{next}"),
    })
}

fn entries(count: u64) -> String {
    match count {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    }
}

/// Colour, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    on: bool,
}

impl Paint {
    /// On a terminal, unless `NO_COLOR` says otherwise (<https://no-color.org>).
    pub(super) fn when(terminal: bool) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            on: terminal && !refused,
        }
    }

    pub(super) fn good(self, text: &str) -> String {
        self.coloured(AnsiColor::Green, text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.coloured(AnsiColor::Red, text)
    }

    pub(super) fn middling(self, text: &str) -> String {
        self.coloured(AnsiColor::Yellow, text)
    }

    fn coloured(self, colour: AnsiColor, text: &str) -> String {
        if !self.on {
            return text.to_owned();
        }
        let style = Style::new().bold().fg_color(Some(colour.into()));
        format!("{style}{text}{style:#}")
    }
}
