// SPDX-License-Identifier: Apache-2.0
//! The judge: takes the entries of a list one after the other.
//!
//! Of any list: each entry is consistent with itself, and together they give the PCR
//! values. Of batches in it besides: numbered without gap, of one boot, and each event behind the policy
//! event that goes with it. Of a cima list besides: one template, one PCR, and Start events that recorded what
//! the list gives at their place. The PCR alone proves that a list is altered; these say where.

use std::{mem::discriminant, sync::Arc};

use ima_log::{CheckError, Entry, EscapedName, Fields, Template};

use super::{
    Anchor, BatchView, Fault, FaultKind, Judgement, Located, Place, QuoteOutcome, Start, Terms,
    account::{Account, Seen},
    anchor::{Comparison, Held},
    batch::container_of,
    containers::Containers,
    fault::shown,
    host::{Ours, SINK, due},
    judgement::Violations,
    known::{Key, Known, Mark, of_event, of_listed},
    tally::Tally,
};
use crate::measure::{Anchorage, HostForm, PolicyEvent, batch_number, implied, proto};
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
    /// How complete the list is.
    pub(super) tally: Tally,
    /// What it says of containers, if that is to be judged.
    pub(super) account: Option<Account>,
    /// Whether the entry at hand is to be taken into that: not what nothing vouches for.
    pub(super) accounting: bool,
    /// The quote that the values are from.
    quote: Option<QuoteOutcome>,
    /// Entries behind those that were quoted.
    behind: u64,
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
            tally: Tally::default(),
            account: None,
            accounting: true,
            quote: None,
            behind: 0,
            faults: Vec::new(),
        }
    }

    /// Judges what the list says of containers, too.
    #[must_use]
    pub fn by(mut self, terms: Arc<Terms>) -> Self {
        self.account = Some(Account::new(terms));
        self
    }

    /// The values are what a quote vouches for. What is listed behind it is counted, and no more: nothing vouches for it.
    #[must_use]
    pub fn quoted(mut self, quote: QuoteOutcome) -> Self {
        self.quote = Some(quote);
        self
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
        if self.is_behind() {
            self.behind += 1;
            self.entries += 1;
            return;
        }
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

    /// Whether the values are a quote's.
    pub(super) fn is_quoted(&self) -> bool {
        self.quote.is_some()
    }

    /// Whether all that was quoted has been there.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.behind > 0 || self.quote.is_some() && self.comparison.is_whole()
    }

    /// What should be the next entry cannot be read; `torn`: the list ends inside it.
    pub fn damaged(&mut self, place: Place, torn: bool, said: String) {
        if self.is_behind() {
            return;
        }
        let kind = match torn {
            true => FaultKind::Torn(said),
            false => FaultKind::Unreadable(said),
        };
        self.fault_at(place, None, kind);
    }

    fn check_entry(&mut self, item: &Item<'_>) {
        if let Err(error) = item.entry.check() {
            if matches!(error, CheckError::TemplateHash { .. }) {
                self.comparison.altered(item.entry);
            }
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
        let Place { index, offset, .. } = item.place;
        if let (Some(account), Some(sink)) = (&mut self.account, fields.name.strip_prefix(SINK))
            && self.accounting
        {
            account.sink(index, sink);
        }
        let is_told = self.accounting && fields.payload.is_some();
        if let Some(account) = self.account.as_mut().filter(|_| is_told) {
            account.policy_event(index, fields, key);
        }
        if let Some(key) = key {
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
        self.tally.batches += 1;
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
        let Some(what) = &event.what else { return };
        let index = item.place.index;
        match what {
            // Most of them, and no policy event goes with them.
            What::Execution(_) => {
                if let Some(account) = self.account.as_mut().filter(|_| self.accounting) {
                    account.executed(index, batch.time_ns(event), batch.identity(event));
                }
            }
            What::Start(start) => match Start::parse(start) {
                Some(start) => self.check_start(item, &start),
                None => self.fault(item, FaultKind::NoBatch),
            },
            What::Stop(_) => self.tally.stop(),
            What::Gone(gone) => {
                self.containers.gone(gone.container);
                if let Some(account) = self.account.as_mut().filter(|_| self.accounting) {
                    account.gone(gone.container);
                }
            }
            What::Created(created) => {
                self.containers.created(created);
                self.check_implied(item, batch, event, what);
            }
            What::Change(change) if !change.other_root => {}
            What::Ended(_) => {}
            _ => self.check_implied(item, batch, event, what),
        }
    }

    /// An event with which policy events go: each must be there.
    fn check_implied(
        &mut self,
        item: &Item<'_>,
        batch: &BatchView<'_>,
        event: &proto::ContextEvent,
        what: &What,
    ) {
        let file = batch.file(event).unwrap_or_default();
        let time_ns = batch.time_ns(event);
        let identity = batch.identity(event);
        let mut missing = None;
        let mut found = None;
        for provenance in self
            .containers
            .provenances(identity.map_or(0, container_of))
        {
            let events = implied(event, &file, time_ns, &provenance);
            match self.find(events) {
                Ok(there) => {
                    (missing, found) = (None, there);
                    break;
                }
                Err(event) => _ = missing.get_or_insert(event),
            }
        }
        if let Some(event) = missing {
            let name = shown(event.name.as_bytes());
            self.fault(item, FaultKind::NoPolicyEvent(name));
        }
        let index = item.place.index;
        let Some(account) = self.account.as_mut().filter(|_| self.accounting) else {
            return;
        };
        match what {
            What::Created(created) => {
                let key = found.map(|(_, _, key)| key);
                account.created(index, time_ns, created, key);
            }
            What::Mapping(_) | What::Breach(_) | What::Refused(_) | What::Change(_) => {
                let policy_event = found.as_ref();
                let seen = Seen {
                    index,
                    time_ns,
                    identity,
                    file: &file,
                    policy_event: policy_event.map(|(event, mark, key)| (event, mark.index, *key)),
                };
                account.seen(&seen, what);
            }
            _ => {}
        }
    }

    /// The last of these policy events as the list has it, or the first that it has not.
    fn find(
        &self,
        events: Vec<PolicyEvent>,
    ) -> Result<Option<(PolicyEvent, Mark, Key)>, PolicyEvent> {
        let mut last = None;
        for event in events {
            let known = |key: Key| Some((*self.known.get(&key)?, key));
            let there = of_event(&event).find_map(known);
            match there {
                Some((mark, key)) => last = Some((event, mark, key)),
                None => return Err(event),
            }
        }
        Ok(last)
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
        self.tally.start(start.reason, item.place.index);
        if let Some(account) = self.account.as_mut().filter(|_| self.accounting) {
            account.start(item.place.index, start);
        }
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
            self.violations.note_kernels();
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
            kind => {
                self.violations.note(kind);
                if kind == b"loss" {
                    let payload = fields.payload.unwrap_or_default();
                    self.tally.loss(payload, item.place.index);
                }
            }
        }
    }

    /// Keeps the first fault of each kind: a list of a million wrong entries has one.
    fn fault(&mut self, item: &Item<'_>, kind: FaultKind) {
        self.fault_at(item.place, item.name(), kind);
    }

    fn fault_at(&mut self, place: Place, name: Option<&[u8]>, kind: FaultKind) {
        if self
            .faults
            .iter()
            .all(|fault| discriminant(&fault.kind) != discriminant(&kind))
        {
            let at = Some(Located::new(place, name));
            self.faults.push(Fault::new(at, kind));
        }
    }

    /// The judgement. All entries must be in the PCR, or, where the list grows while it
    /// is judged, the first `required`: the rest was appended since.
    #[must_use]
    pub fn finish(mut self, required: u64) -> Judgement {
        let account = self.account.take();
        let mut judgement = self.conclude(required);
        judgement.account_for(account, 0);
        judgement
    }

    /// The judgement but for what the list says of containers.
    pub(super) fn conclude(mut self, required: u64) -> Judgement {
        let (banks, held) = self.comparison.finish();
        let proven = self.entries - self.behind;
        let mut since = 0;
        let (in_pcr, as_listed) = match held {
            Held::NotCompared => (None, None),
            Held::Whole => (Some(proven), None),
            Held::First { entries, .. } => (Some(entries), None),
            Held::Nothing { as_listed } => (Some(0), as_listed),
        };
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
            Held::Nothing { .. } => Some((None, FaultKind::NoReplay)),
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
        let quote = self.quote.iter().flat_map(|quote| &quote.faults);
        let quote = quote.map(|fault| Fault::new(None, FaultKind::Quote(fault.clone())));
        self.faults.splice(0..0, quote);
        self.faults
            .extend(of_list.map(|(at, kind)| Fault::new(at, kind)));
        Judgement {
            entries: self.entries,
            cima: self.cima && self.entries > 0,
            boot_id: self.boot_id,
            pcr: self.pcr,
            anchored: !self.not_anchored,
            since,
            behind: self.behind,
            in_pcr,
            as_listed,
            banks,
            faults: self.faults,
            host: None,
            quote: self.quote,
            tally: self.tally,
            findings: None,
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
