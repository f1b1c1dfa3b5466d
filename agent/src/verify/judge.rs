// SPDX-License-Identifier: Apache-2.0
//! The judge: takes the entries of a list one after the other.
//!
//! Of any list: each entry is consistent with itself, and together they give the PCR
//! values. Of a cima list besides: one template, one PCR, one boot, batches numbered
//! without gap, and Start events that recorded what the list gives at their place. The
//! PCR alone proves that a list is altered; these say where.

use std::mem::discriminant;

use ima_log::{Entry, EscapedName, Fields, Template};

use super::{
    Anchor, BatchView, Fault, FaultKind, Judgement, Located, Place, Start,
    anchor::{Comparison, Held},
    judgement::Violations,
};
use crate::measure::{batch_number, proto};

/// In front of every name that cima gives.
const CIMA: &[u8] = b"cima-";
const BATCH: &[u8] = b"cima-ctx:";
const VIOLATION: &[u8] = b"cima-violation:";
/// Bytes of a violation's detail that are shown.
const SHOWN: usize = 300;

/// Judges a list while it is read.
#[derive(Debug)]
pub struct Judge {
    comparison: Comparison,
    not_anchored: bool,
    trust_start: bool,
    expected_pcr: Option<u32>,
    /// Whether the list must be cima's, or turned out to be.
    cima: bool,
    entries: u64,
    pcr: Option<u32>,
    boot_id: Option<String>,
    claimed_start: bool,
    next_batch: u64,
    violations: Violations,
    faults: Vec<Fault>,
}

/// An entry as the checks see it.
struct Item<'a> {
    place: Place,
    entry: &'a Entry,
    fields: Option<Fields<'a>>,
}

impl Item<'_> {
    fn name(&self) -> Option<&[u8]> {
        self.fields.as_ref().map(|fields| fields.name)
    }
}

impl Judge {
    /// A judge that compares with `anchor`.
    #[must_use]
    pub fn new(anchor: Anchor) -> Self {
        Self {
            not_anchored: anchor == Anchor::Absent,
            comparison: Comparison::new(anchor),
            trust_start: false,
            expected_pcr: None,
            cima: false,
            entries: 0,
            pcr: None,
            boot_id: None,
            claimed_start: false,
            next_batch: 0,
            violations: Violations::default(),
            faults: Vec::new(),
        }
    }

    /// Takes the list's own word for what its PCR held before the first entry.
    #[must_use]
    pub fn trusting_start(mut self, trust: bool) -> Self {
        self.trust_start = trust;
        self
    }

    /// The list is to be cima's. Without this a list is taken for what its first entry
    /// says it is: in a ledger's place, a kernel's genuine list would pass for cima's.
    #[must_use]
    pub fn of_ledger(mut self, ledger: bool) -> Self {
        self.cima = ledger;
        self
    }

    /// The PCR that a cima list is to be kept in. The list names its PCR itself, and
    /// who may extend any PCR may anchor a list of his own in one that nobody uses.
    #[must_use]
    pub fn expecting_pcr(mut self, pcr: Option<u32>) -> Self {
        self.expected_pcr = pcr;
        self
    }

    /// Entries so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Takes the next entry; `place.index` counts from 0 without gaps.
    pub fn push(&mut self, place: Place, entry: &Entry) {
        let item = Item {
            place,
            entry,
            fields: entry.fields().ok(),
        };
        if self.entries == 0 {
            self.pcr = Some(entry.pcr);
            self.cima |= item.name().is_some_and(|name| name.starts_with(CIMA));
            if self.cima && !is_beginning(entry) {
                self.fault(&item, FaultKind::NoStart);
            }
        }
        self.check_entry(&item);
        if self.cima {
            self.check_form(&item);
        }
        self.check_batch(&item);
        self.note_violation(&item);
        self.comparison.extend(place, item.name(), entry);
        self.entries += 1;
    }

    fn check_entry(&mut self, item: &Item<'_>) {
        if let Err(error) = item.entry.check() {
            let kind = if error.is_undecided() {
                FaultKind::Undecided(error)
            } else {
                FaultKind::Entry(error)
            };
            self.fault(item, kind);
        }
        if !self.comparison.covers(item.entry.pcr) {
            self.fault(item, FaultKind::Uncovered(item.entry.pcr));
        }
    }

    /// What an entry of the agent looks like. Names count whatever the template: no hash
    /// covers its name, so `ima-sig` in its place would hide a violation.
    fn check_form(&mut self, item: &Item<'_>) {
        if item.entry.template != Template::ImaBuf {
            let template = EscapedName(item.entry.template.name().as_bytes()).to_string();
            self.fault(item, FaultKind::Template(template));
        }
        if item.entry.is_violation() {
            self.fault(item, FaultKind::Unbound);
        }
        if let Some(expected) = self.pcr.filter(|pcr| *pcr != item.entry.pcr) {
            let found = item.entry.pcr;
            self.fault(item, FaultKind::Pcr { expected, found });
        }
    }

    fn check_batch(&mut self, item: &Item<'_>) {
        let Some(fields) = &item.fields else { return };
        if !fields.name.starts_with(BATCH) || (!self.cima && fields.payload.is_none()) {
            return;
        }
        let named = batch_number(fields.name);
        let batch = fields.payload.and_then(BatchView::of);
        let (Some(named), Some(batch)) = (named, batch) else {
            self.fault(item, FaultKind::NoBatch);
            return;
        };
        if named != batch.seq() {
            let payload = batch.seq();
            self.fault(
                item,
                FaultKind::BatchNumber {
                    name: named,
                    payload,
                },
            );
        }
        if named != self.next_batch {
            let expected = self.next_batch;
            self.fault(
                item,
                FaultKind::BatchOrder {
                    expected,
                    found: named,
                },
            );
        }
        self.next_batch = named.saturating_add(1);
        for event in batch.bare_events() {
            if let Some(proto::context_event::What::Start(start)) = event.what {
                match Start::parse(&start) {
                    Some(start) => self.check_start(item, &start),
                    None => self.fault(item, FaultKind::NoBatch),
                }
            }
        }
    }

    /// A Start event says what the PCR held right before its own entry.
    fn check_start(&mut self, item: &Item<'_>, start: &Start) {
        match &self.boot_id {
            Some(boot_id) if *boot_id != start.boot_id => {
                let (expected, found) = (boot_id.clone(), start.boot_id.clone());
                self.fault(item, FaultKind::Boot { expected, found });
            }
            Some(_) => {}
            None => self.boot_id = Some(start.boot_id.clone()),
        }
        let pcr = item.entry.pcr;
        if let Some(expected) = start.pcr.filter(|expected| *expected != pcr) {
            let found = pcr;
            self.fault(item, FaultKind::Pcr { expected, found });
        }
        if start.reason == proto::start::Reason::ChainBroken {
            self.fault(item, FaultKind::ChainBroken);
            self.comparison.start(pcr, &start.values, self.entries);
        } else if self.entries == 0 {
            self.check_first_values(item, start);
        } else {
            self.check_values(item, start);
        }
    }

    /// The replay goes on from a claim even where it is not trusted: the bank lines then
    /// tell whether the list fits but for it.
    fn check_first_values(&mut self, item: &Item<'_>, start: &Start) {
        let pcr = item.entry.pcr;
        let at_power_on = ima_log::Replay::new(&ima_log::HashAlgorithm::ALL);
        let claimed = start
            .values
            .iter()
            .find(|value| at_power_on.value(pcr, value.algorithm()) != Some(**value));
        let Some(value) = claimed else { return };
        self.claimed_start = true;
        if !self.trust_start {
            let value = Box::new(*value);
            self.fault(item, FaultKind::StartValue { pcr, value });
        }
        self.comparison.start(pcr, &start.values, self.entries);
    }

    fn check_values(&mut self, item: &Item<'_>, start: &Start) {
        for recorded in &start.values {
            let replayed = self.comparison.value(item.entry.pcr, recorded.algorithm());
            if let Some(replayed) = replayed.filter(|replayed| replayed != recorded) {
                let (recorded, replayed) = (Box::new(*recorded), Box::new(replayed));
                self.fault(item, FaultKind::Checkpoint { recorded, replayed });
                return;
            }
        }
    }

    fn note_violation(&mut self, item: &Item<'_>) {
        if !self.cima && item.entry.is_violation() {
            self.violations.kernel += 1;
        }
        let Some(fields) = &item.fields else { return };
        let Some(rest) = fields.name.strip_prefix(VIOLATION) else {
            return;
        };
        match rest.split(|byte| *byte == b':').next().unwrap_or_default() {
            b"chain" => {
                let detail = fields.payload.unwrap_or_default();
                let detail = &detail[..detail.len().min(SHOWN)];
                let detail = EscapedName(detail).to_string();
                self.fault(item, FaultKind::ChainViolation(detail));
            }
            b"hash" => self.violations.hash += 1,
            b"path" => self.violations.path += 1,
            b"loss" => self.violations.loss += 1,
            _ => self.violations.other += 1,
        }
    }

    /// Keeps the first fault of each kind: a list of a million wrong entries has one.
    fn fault(&mut self, item: &Item<'_>, kind: FaultKind) {
        if self
            .faults
            .iter()
            .all(|fault| discriminant(&fault.kind) != discriminant(&kind))
        {
            let at = Some(Located::new(item.place, item.name()));
            self.faults.push(Fault { at, kind });
        }
    }

    /// The judgement. All entries must be in the PCR, or, where the list grows while it
    /// is judged, the first `required`: the rest was appended since.
    #[must_use]
    pub fn finish(mut self, required: u64) -> Judgement {
        let (banks, held) = self.comparison.finish();
        let mut since = 0;
        let of_list = match held {
            _ if self.entries == 0 => Some((None, FaultKind::Empty)),
            Held::Whole => None,
            Held::First { entries, .. } if entries >= required => {
                since = self.entries - entries;
                None
            }
            Held::First { entries, next } => {
                let kind = FaultKind::NotExtended {
                    held: entries,
                    entries: self.entries,
                    name: next.name.clone(),
                };
                Some((Some(next), kind))
            }
            Held::NotCompared => Some((None, FaultKind::NotAnchored)),
            Held::Nothing => Some((None, FaultKind::NoReplay)),
        };
        if let (true, false, Some(expected), Some(found)) =
            (self.cima, self.not_anchored, self.expected_pcr, self.pcr)
            && expected != found
        {
            let kind = FaultKind::OtherPcr { expected, found };
            self.faults.push(Fault { at: None, kind });
        }
        self.faults
            .extend(of_list.map(|(at, kind)| Fault { at, kind }));
        Judgement {
            entries: self.entries,
            cima: self.cima && self.entries > 0,
            boot_id: self.boot_id,
            pcr: self.pcr,
            anchored: !self.not_anchored,
            since,
            banks,
            faults: self.faults,
            violations: self.violations,
            trusted_start: self.claimed_start && self.trust_start,
        }
    }
}

/// Whether `entry` is how a cima list begins.
fn is_beginning(entry: &Entry) -> bool {
    let name = entry.fields().ok().map(|fields| fields.name);
    name.and_then(batch_number) == Some(0) && Start::of(entry).is_some()
}
