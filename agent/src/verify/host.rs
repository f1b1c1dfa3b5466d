// SPDX-License-Identifier: Apache-2.0
//! A host's list: cima's entries among those of the kernel, and the ledger beside it if there is one.
//!
//! A ledger's entry stands in a host's list in one of two forms: as it is (sink `kernel`), or as a file of that content
//! (sink `ima-file`). The host's list is read first: the agent writes its ledger first, so whatever is
//! in the host's list by then is in the ledger that is read after it. But for what the kernel lists by itself.

use std::sync::Arc;

use ima_log::{Entry, Fields};

use super::{
    Anchor, Fault, FaultKind, HostOutcome, Judge, Judgement, Located, Place, QuoteOutcome, Start,
    Terms,
    judge::{BATCH, Item},
    known::{Due, Key, Mark, of_listed, of_own},
};
use crate::measure::{Anchorage, CONTENT_HASHES, HostForm, is_of_kernel};

/// With so many batches behind it in the host's list, what the kernel listed by itself is in the ledger: one may be given at
/// the moment of the listing, one after a look that failed.
const BATCHES: usize = 3;
/// In front of what an agent tries its sink with, before it opens its ledger.
pub(super) const SINK: &[u8] = b"cima-sink:";

/// How much of both lists there was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    /// Entries of the host's list.
    pub host: u64,
    /// Entries of the ledger.
    pub ledger: u64,
}

/// Judges a host's list, and then the ledger that it should hold.
#[derive(Debug)]
pub struct HostJudge {
    host: Judge,
    ledger: Option<Judge>,
    /// The ledger's first entry that the host's list has not.
    missing: Option<Located>,
    /// Whether entries of the agent's own that the list has come behind that.
    missing_inside: bool,
    /// Name of the host's first entry that the ledger has not.
    name: Option<Located>,
}

/// What of a host's list is cima's.
#[derive(Debug, Default)]
pub(super) struct Ours {
    entries: u64,
    /// Batches of which the list has but the digest.
    unread: u64,
    /// Entries before the last batches, the last first.
    last_batches: [Option<u64>; BATCHES],
}

impl Ours {
    /// The key of an entry that has a name of cima's; `None` if cima's have no such form.
    pub(super) fn note(&mut self, item: &Item<'_>, fields: &Fields<'_>) -> Option<Key> {
        self.entries += 1;
        if fields.name.starts_with(BATCH) {
            self.last_batches.rotate_right(1);
            self.last_batches[0] = Some(item.place.index);
            self.unread += u64::from(fields.payload.is_none());
        }
        let file = || of_listed(HostForm::File, item.entry).filter(|_| is_file(fields));
        of_listed(HostForm::Buffer, item.entry).or_else(file)
    }
}

/// Whether a file is like cima's: by a hash that counts, and without a signature, where an `ima-buf` entry has its payload. No
/// hash covers a template's name.
fn is_file(fields: &Fields<'_>) -> bool {
    let digest = fields.digest.and_then(|digest| digest.to_digest());
    let counts = digest.is_some_and(|digest| CONTENT_HASHES.contains(&digest.algorithm()));
    counts && fields.signature.is_none()
}

/// When the ledger must have an entry that the host's list has. The agent says what the kernel listed by itself before it gives its next
/// batch, or, if it cannot read the kernel's list just then, the one after; and everything else, losses and broken chains too, before it gives it to the kernel. What it
/// tries its sink with it says only if that becomes the sink. Files are all the agent's.
pub(super) fn due(fields: &Fields<'_>) -> Due {
    if fields.name.starts_with(SINK) {
        Due::Never
    } else if is_of_kernel(fields) {
        Due::Batches
    } else {
        Due::Before
    }
}

impl HostJudge {
    /// A judge that compares the host's list with `anchor`, and then, if there is a `ledger`, that with the list.
    #[must_use]
    pub fn new(anchor: Anchor, expected_pcr: Option<u32>, ledger: bool) -> Self {
        let of_ledger = || {
            Judge::new(Anchor::Absent)
                .expecting_pcr(expected_pcr)
                .vouched()
        };
        Self {
            host: Judge::new(anchor).expecting_pcr(expected_pcr).of_host(),
            ledger: ledger.then(of_ledger),
            missing: None,
            missing_inside: false,
            name: None,
        }
    }

    /// Judges what the lists say of containers, too.
    #[must_use]
    pub fn by(mut self, terms: &Arc<Terms>) -> Self {
        self.host = self.host.by(Arc::clone(terms));
        self.ledger = self.ledger.map(|ledger| ledger.by(Arc::clone(terms)));
        self
    }

    /// The values are what a quote vouches for: see [`Judge::quoted`].
    #[must_use]
    pub fn quoted(mut self, quote: QuoteOutcome) -> Self {
        self.host = self.host.quoted(quote);
        self
    }

    /// What should be the next entry of the host's list cannot be read.
    pub fn damaged(&mut self, place: Place, torn: bool, said: String) {
        self.host.damaged(place, torn, said);
    }

    /// Whether all that was quoted of the host's list has been there.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.host.is_behind()
    }

    /// What should be the next entry of the ledger cannot be read.
    pub fn damaged_ledger(&mut self, place: Place, torn: bool, said: String) {
        if let Some(ledger) = &mut self.ledger {
            ledger.damaged(place, torn, said);
        }
    }

    /// Takes the next entry of the host's list, before any of the ledger.
    pub fn push(&mut self, place: Place, entry: &Entry) {
        self.host.push(place, entry);
    }

    /// Takes the next entry of the ledger.
    pub fn push_ledger(&mut self, place: Place, entry: &Entry) {
        let Some(ledger) = &mut self.ledger else {
            return;
        };
        let anchorage = ledger.anchorage;
        let anchorage = anchorage.or_else(|| Start::of(entry).map(|start| start.anchorage));
        let form = anchorage.and_then(Anchorage::host_form);
        let is_listed = form.is_some_and(|form| {
            let mut keys = of_own(form, entry);
            keys.any(|key| self.host.known.tell(&key))
        });
        // Of a host's list with payloads that itself is what says something of containers.
        ledger.accounting = is_listed && form == Some(HostForm::File);
        ledger.push(place, entry);
        if !is_listed && self.missing.is_none() {
            self.missing = Some(located(place, entry));
        }
        if is_listed && self.missing.is_some() && !self.missing_inside {
            let fields = entry.fields().ok();
            self.missing_inside = fields.is_some_and(|fields| due(&fields) == Due::Before);
        }
    }

    /// How much was taken.
    #[must_use]
    pub fn extent(&self) -> Extent {
        Extent {
            host: self.host.entries(),
            ledger: self.ledger.as_ref().map_or(0, Judge::entries),
        }
    }

    /// Entries before the first among the host's first `of.host` that is not in the ledger and should be:
    /// [`HostJudge::name`] takes it, since what an entry says is not kept.
    #[must_use]
    pub fn unlisted(&self, of: Extent) -> Option<u64> {
        self.untold(of).first.map(|first| first.index)
    }

    /// An entry of the host's list, for who asks for its name.
    pub fn name(&mut self, place: Place, entry: &Entry) {
        self.name = Some(located(place, entry));
    }

    /// The judgement. All entries must be where they belong, or, where lists grow while they are judged, the
    /// first `required` of them.
    #[must_use]
    pub fn finish(mut self, required: Extent) -> Judgement {
        let untold = self.untold(required);
        let quoted = self.host.is_quoted();
        let ledger_counts = |ledger: &Judge| {
            let form = ledger.anchorage.and_then(Anchorage::host_form);
            form == Some(HostForm::File)
        };
        let in_files = self.ledger.as_ref().is_some_and(ledger_counts);
        let of_ledgers = self.ledger.as_mut().map(|ledger| {
            let tally = std::mem::take(&mut ledger.tally);
            (ledger.account.take(), tally)
        });
        let of_host = self.host.account.take();
        let mut outcome = HostOutcome {
            untold: untold.allowed,
            ..HostOutcome::default()
        };
        if let Some(ours) = &self.host.ours {
            outcome.entries = ours.entries;
            outcome.unread = ours.unread;
        }
        let mut judgement = self.host.conclude(required.host);
        let of_digest_only = outcome.unread;
        if let Some(first) = untold.first {
            let place = Place {
                index: first.index,
                offset: first.offset,
                segment: None,
            };
            let named = self.name.filter(|name| name.place.index == place.index);
            let at = named.unwrap_or_else(|| Located::new(place, None));
            let kind = FaultKind::NotInLedger(untold.faults);
            judgement.faults.push(Fault::new(Some(at), kind));
        }
        if let Some(ledger) = self.ledger {
            outcome.unread = 0;
            let mut required = required;
            if quoted && !self.missing_inside {
                // The ledger's end was written after the quote.
                required.ledger = 0;
            }
            let missing = self.missing;
            of_ledger(ledger, missing, required, &mut judgement, &mut outcome);
        }
        let unread = if in_files { 0 } else { of_digest_only };
        judgement.host = Some(outcome);
        let account = match of_ledgers {
            Some((account, tally)) if in_files => {
                judgement.tally = tally;
                account
            }
            _ => of_host,
        };
        judgement.account_for(account, unread);
        judgement
    }

    /// What of the host's first entries is not in the ledger.
    fn untold(&self, of: Extent) -> Untold {
        let mut untold = Untold::default();
        let (Some(ours), Some(_)) = (&self.host.ours, &self.ledger) else {
            return untold;
        };
        let is_new =
            |mark: &Mark| ours.last_batches[BATCHES - 1].is_none_or(|last| mark.index > last);
        let marks = self.host.known.untold();
        for mark in marks.filter(|mark| mark.index < of.host) {
            match mark.due {
                Due::Never => continue,
                Due::Batches if is_new(mark) => {
                    untold.allowed += 1;
                    continue;
                }
                Due::Batches | Due::Before => {}
            }
            untold.faults += 1;
            if untold.first.is_none_or(|first| mark.index < first.index) {
                untold.first = Some(*mark);
            }
        }
        untold
    }
}

/// Entries of a host's list that the ledger has not.
#[derive(Default)]
struct Untold {
    /// The first that it should have.
    first: Option<Mark>,
    faults: u64,
    /// Those that it need not have.
    allowed: u64,
}

fn located(place: Place, entry: &Entry) -> Located {
    let fields = entry.fields().ok();
    Located::new(place, fields.map(|fields| fields.name))
}

/// Adds what is wrong with the ledger and between both lists.
fn of_ledger(
    ledger: Judge,
    missing: Option<Located>,
    required: Extent,
    judgement: &mut Judgement,
    outcome: &mut HostOutcome,
) {
    let entries = ledger.entries();
    let own = ledger.conclude(entries);
    let known = |fault: &Fault, faults: &[Fault]| faults.iter().any(|of| of.kind == fault.kind);
    for mut fault in own.faults {
        // What a batch says is the same in both lists.
        if !known(&fault, &judgement.faults) {
            fault.in_ledger = true;
            judgement.faults.push(fault);
        }
    }
    if judgement.boot_id.is_none() {
        judgement.boot_id = own.boot_id;
    }
    outcome.ledger = Some(entries);
    match missing {
        Some(missing) if missing.place.index < required.ledger => {
            let mut fault = Fault::new(Some(missing), FaultKind::NotInHost);
            fault.in_ledger = true;
            judgement.faults.push(fault);
        }
        Some(missing) => outcome.ledger_since = entries - missing.place.index,
        None => {}
    }
}
