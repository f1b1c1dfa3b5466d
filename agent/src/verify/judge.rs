// SPDX-License-Identifier: Apache-2.0
//! The judge: takes the entries of a list one after the other.
//!
//! Of any list: each entry is consistent with itself, and together they give the PCR
//! values. Of batches in it besides: numbered without gap, of one boot, and each event behind the policy
//! event that goes with it. Of a cima list besides: one template, one PCR, and Start events that recorded what
//! the list gives at their place. The PCR alone proves that a list is altered; these say where.

use std::mem::discriminant;

use ima_log::{Entry, EscapedName, Fields, Template};

use super::{
    Anchor, BatchView, Fault, FaultKind, Judgement, Located, Place, Start,
    anchor::{Comparison, Held},
    containers::Containers,
    fault::shown,
    host::{Ours, due},
    judgement::Violations,
    known::{Key, Known, Mark, of_event, of_listed},
};
use crate::measure::{Anchorage, HostForm, batch_number, implied, proto};
use proto::context_event::What;

/// In front of every name that cima gives.
pub(super) const CIMA: &[u8] = b"cima-";
pub(super) const BATCH: &[u8] = b"cima-ctx:";
pub(super) const VIOLATION: &[u8] = b"cima-violation:";
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
    /// Of a host's list: what is cima's in it.
    pub(super) ours: Option<Ours>,
    /// Whether a host's list vouches for this one.
    vouched: bool,
    entries: u64,
    pcr: Option<u32>,
    boot_id: Option<String>,
    /// What anchors the list, as its last Start event says.
    pub(super) anchorage: Option<Anchorage>,
    claimed_start: bool,
    next_batch: u64,
    /// Policy events so far; of a host's list all that is cima's.
    pub(super) known: Known,
    containers: Containers,
    pub(super) violations: Violations,
    faults: Vec<Fault>,
}

/// An entry as the checks see it.
pub(super) struct Item<'a> {
    pub(super) place: Place,
    pub(super) entry: &'a Entry,
    pub(super) fields: Option<Fields<'a>>,
}

impl Item<'_> {
    pub(super) fn name(&self) -> Option<&[u8]> {
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
            ours: None,
            vouched: false,
            entries: 0,
            pcr: None,
            boot_id: None,
            anchorage: None,
            claimed_start: false,
            next_batch: 0,
            known: Known::default(),
            containers: Containers::default(),
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

    /// The list is a host's, with cima's entries among the others.
    pub(super) fn of_host(mut self) -> Self {
        self.ours = Some(Ours::default());
        self.comparison = self.comparison.of_kernel();
        self
    }

    /// The list is a ledger that a host's list vouches for.
    pub(super) fn vouched(mut self) -> Self {
        (self.cima, self.vouched) = (true, true);
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
        if self.entries == 0 && self.ours.is_none() {
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
        self.note(&item);
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
        self.check_bound(item);
    }

    fn check_bound(&mut self, item: &Item<'_>) {
        if item.entry.is_violation() {
            self.fault(item, FaultKind::Unbound);
        }
        if let Some(expected) = self.pcr.filter(|pcr| *pcr != item.entry.pcr) {
            let found = item.entry.pcr;
            self.fault(item, FaultKind::Pcr { expected, found });
        }
    }

    /// Remembers what is cima's, as far as somebody may ask for it.
    fn note(&mut self, item: &Item<'_>) {
        let Some(fields) = item.fields.as_ref().filter(|of| of.name.starts_with(CIMA)) else {
            return;
        };
        let key = if self.ours.is_some() {
            self.key_in_host(item, fields)
        } else if fields.name.starts_with(BATCH) {
            None
        } else {
            of_listed(HostForm::Buffer, item.entry)
        };
        if let Some(key) = key {
            let Place { index, offset, .. } = item.place;
            let mark = Mark {
                index,
                offset,
                due: due(fields),
                told: false,
            };
            self.known.note(key, mark);
        }
    }

    /// The key of an entry of cima's in a host's list, if it may be one.
    fn key_in_host(&mut self, item: &Item<'_>, fields: &Fields<'_>) -> Option<Key> {
        self.pcr.get_or_insert(item.entry.pcr);
        self.check_bound(item);
        let key = self.ours.as_mut()?.note(item, fields);
        if key.is_none() && !item.entry.is_violation() {
            let template = EscapedName(item.entry.template.name().as_bytes()).to_string();
            self.fault(item, FaultKind::Form(template));
        }
        key
    }

    fn check_batch(&mut self, item: &Item<'_>) {
        let Some(fields) = &item.fields else { return };
        if !fields.name.starts_with(BATCH) {
            return;
        }
        let named = batch_number(fields.name);
        let batch = fields.payload.and_then(BatchView::of);
        let (named, batch) = match (named, batch) {
            (Some(named), Some(batch)) => (named, batch),
            // A file, of which a host's list has the digest.
            (Some(named), None) if self.ours.is_some() && fields.payload.is_none() => {
                return self.check_order(item, named);
            }
            // Somebody else's.
            _ if self.ours.is_none() && !self.cima && fields.payload.is_none() => return,
            _ => return self.fault(item, FaultKind::NoBatch),
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
        self.check_order(item, named);
        for event in batch.bare_events() {
            match event {
                Some(event) => self.check_event(item, &batch, &event),
                None => self.fault(item, FaultKind::NoBatch),
            }
        }
    }

    fn check_order(&mut self, item: &Item<'_>, named: u64) {
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
    }

    fn check_event(&mut self, item: &Item<'_>, batch: &BatchView<'_>, event: &proto::ContextEvent) {
        match &event.what {
            // Most of them, and nothing is to be found with them.
            None | Some(What::Execution(_)) => return,
            Some(What::Start(start)) => match Start::parse(start) {
                Some(start) => self.check_start(item, &start),
                None => self.fault(item, FaultKind::NoBatch),
            },
            Some(What::Created(created)) => self.containers.created(created),
            Some(What::Gone(gone)) => self.containers.gone(gone.container),
            _ => {}
        }
        let file = batch.file(event).unwrap_or_default();
        let time_ns = batch.time_ns(event);
        let mut missing = None;
        for provenance in self.containers.provenances(batch.container(event)) {
            let events = implied(event, &file, time_ns, &provenance);
            let mut events = events.into_iter();
            let lacking = events.find(|event| !of_event(event).any(|key| self.known.has(&key)));
            match lacking {
                Some(event) => missing.get_or_insert(event),
                None => return,
            };
        }
        if let Some(event) = missing {
            let name = shown(event.name.as_bytes());
            self.fault(item, FaultKind::NoPolicyEvent(name));
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
        self.anchorage = Some(start.anchorage);
        let pcr = item.entry.pcr;
        if let Some(expected) = start.pcr.filter(|expected| *expected != pcr) {
            let found = pcr;
            self.fault(item, FaultKind::Pcr { expected, found });
        }
        let anew = start.reason == proto::start::Reason::ChainBroken;
        if anew {
            self.fault(item, FaultKind::ChainBroken);
        }
        if self.ours.is_some() {
            // Others extend a host's PCR, too, between its reading and this entry.
        } else if anew {
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
            self.faults.push(Fault::new(at, kind));
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
            Held::NotCompared if self.vouched => None,
            Held::NotCompared => Some((None, FaultKind::NotAnchored)),
            Held::Nothing => Some((None, FaultKind::NoReplay)),
        };
        let cimas = self.cima || self.ours.is_some();
        let anchored = !self.not_anchored || self.vouched;
        if let (true, true, Some(expected), Some(found)) =
            (cimas, anchored, self.expected_pcr, self.pcr)
            && expected != found
        {
            let kind = FaultKind::OtherPcr { expected, found };
            self.faults.push(Fault::new(None, kind));
        }
        if self.ours.is_some() && self.entries > 0 && self.next_batch == 0 {
            self.faults.push(Fault::new(None, FaultKind::NotThere));
        }
        self.faults
            .extend(of_list.map(|(at, kind)| Fault::new(at, kind)));
        Judgement {
            entries: self.entries,
            cima: self.cima && self.entries > 0,
            boot_id: self.boot_id,
            pcr: self.pcr,
            anchored: !self.not_anchored,
            since,
            banks,
            faults: self.faults,
            host: None,
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
