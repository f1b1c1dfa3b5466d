// SPDX-License-Identifier: Apache-2.0
//! A judgement as people read it, and as programs do. Both say the same.

use std::{env, io, io::Write};

use clap::builder::styling::{AnsiColor, Style};
use ima_log::Digest;
use serde::Serialize;

use crate::verify::{BankOutcome, Fault, Judgement, Warning};

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
        let verdict = if judgement.is_good() {
            paint.good("good:")
        } else {
            paint.bad("bad:")
        };
        writeln!(out, "{verdict} {}", judgement.sentence())
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
            Warning::Untold(count) | Warning::Unread(count) => (None, Some(count)),
            Warning::Resettable(_) | Warning::TrustedStart => (None, None),
        };
        Self {
            kind: warning.word(),
            violation,
            count,
            sentence: warning.to_string(),
        }
    }
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
