// SPDX-License-Identifier: Apache-2.0
//! What the agent does while something goes wrong, and what must be so afterwards.
//!
//! Group `n` is two policy events, the second of which is a loss, and a batch that reads the kernel's queue up to
//! `100 * (n + 1)` and reports that loss, so that a list shows what is in it.

use std::{fs, ops::Range, path::Path};

use ima_log::{BinaryReader, Entry};

use super::{
    fixture::{Tpm, event, judged},
    rig::{Plan, Rig, Step},
};
use crate::{
    ledger::{Ledger, LedgerError, Opened, intent::FORMAT, segments},
    measure::{Batch, PolicyEvent, decode_batch, loss, proto},
    verify::{BankOutcome, FaultKind, Start},
};

pub(crate) fn group(n: u32) -> ([PolicyEvent; 2], Batch) {
    let mut batch = Batch::new();
    batch.set_queue(7, 100 * u64::from(n + 1));
    let (lost, context) = loss("map-ring-full", 0, 1, u64::from(n + 1));
    batch.push(context);
    ([event(2 * n), lost], batch)
}

/// What the policy events of the first `groups` groups say.
fn said(groups: u32) -> Vec<(String, Vec<u8>)> {
    let of = |event: PolicyEvent| (event.name, event.payload.into_bytes());
    (0..groups).flat_map(|n| group(n).0.map(of)).collect()
}

fn says(entry: &Entry) -> (String, Vec<u8>) {
    let payload = entry.fields().unwrap().payload.unwrap();
    (entry.display_name(), payload.to_vec())
}

pub(crate) fn commit(ledger: &mut Ledger, n: u32) -> Result<(), LedgerError> {
    let (events, batch) = group(n);
    ledger.commit(&events, batch)
}

/// An agent's life: opens the list and writes these groups; `acknowledged` counts those
/// that were committed.
pub(crate) fn life(
    rig: &Rig,
    tpm: &Tpm,
    groups: Range<u32>,
    acknowledged: &mut u32,
) -> Result<(), LedgerError> {
    let (mut ledger, _) = rig.open(tpm.clone())?;
    for n in groups {
        commit(&mut ledger, n)?;
        *acknowledged = n + 1;
    }
    Ok(())
}

/// Two lives without a farewell between them; the list goes on in another segment.
pub(crate) fn two_lives(rig: &Rig, tpm: &Tpm) -> (u32, Result<(), LedgerError>) {
    let mut acknowledged = 0;
    let result = life(rig, tpm, 0..3, &mut acknowledged)
        .and_then(|()| life(rig, tpm, 3..5, &mut acknowledged));
    (acknowledged, result)
}

/// Every place a process can be stopped at: step, and bytes of a write that are done.
pub(crate) fn stops(steps: &[Step]) -> Vec<(usize, usize)> {
    let mut stops = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        stops.push((at, 0));
        if let Step::Write(len) = *step {
            // All bytes: that is where the next step stops.
            let mut parts = vec![1, len / 2, len - 1];
            parts.dedup();
            stops.extend(parts.into_iter().map(|part| (at, part)));
        }
    }
    stops
}

/// The whole records of a boot's list, in order, and how many segments end in something
/// else.
pub(crate) fn readable(root: &Path, boot: &str) -> (Vec<Entry>, Vec<u32>) {
    let (mut entries, mut torn) = (Vec::new(), Vec::new());
    let dir = root.join("ledger").join(boot);
    for (number, path) in segments(&dir).unwrap_or_default() {
        let bytes = fs::read(path).unwrap();
        for record in BinaryReader::new(bytes.as_slice(), FORMAT) {
            match record {
                Ok((_, entry)) => entries.push(entry),
                Err(_) => torn.push(number),
            }
        }
    }
    (entries, torn)
}

pub(crate) fn whole(root: &Path) -> Vec<Entry> {
    let (entries, torn) = readable(root, "boot");
    assert!(torn.is_empty(), "torn: {torn:?}");
    entries
}

/// How many groups the list has: all entries of each, once, in order, nothing else but
/// `Start` events; batches numbered without gap.
pub(crate) fn groups_once(entries: &[Entry]) -> u32 {
    let (mut events, mut batches) = (Vec::new(), Vec::new());
    for entry in entries {
        let fields = entry.fields().unwrap();
        let Some(batch) = decode_batch(fields.payload.unwrap()) else {
            events.push(says(entry));
            continue;
        };
        if Start::of(entry).is_none() {
            batches.push(batch.queue.unwrap().position);
        }
    }
    let groups = u32::try_from(batches.len()).unwrap();
    assert_eq!(events, said(groups));
    let expected: Vec<_> = (1..=u64::from(groups)).map(|n| 100 * n).collect();
    assert_eq!(batches, expected);
    groups
}

/// Opens the list as the next agent does and checks that it fits, with everything that
/// was acknowledged and nothing twice; then that it goes on.
pub(crate) fn continues(root: &Path, tpm: &Tpm, acknowledged: u32) {
    let rig = Rig::new(root, Plan::Nothing);
    let (mut ledger, opened) = rig.open(tpm.clone()).unwrap();
    assert!(
        matches!(opened, Opened::New | Opened::Continued { .. }),
        "{opened:?}"
    );
    let groups = groups_once(&whole(root));
    assert!(
        (acknowledged..=acknowledged + 1).contains(&groups),
        "{acknowledged} acknowledged, {groups} listed"
    );
    let position = ledger.queue().map(|queue| queue.position);
    assert_eq!(position.unwrap_or(0), 100 * u64::from(groups));
    let losses: u64 = ledger.losses().values().sum();
    assert_eq!(losses, u64::from(groups));
    commit(&mut ledger, groups).unwrap();
    let entries = whole(root);
    assert_eq!(groups_once(&entries), groups + 1);
    let judgement = judged(&entries, tpm);
    assert!(judgement.is_good(), "{}", judgement.sentence());
    shown(root, &entries);
}

/// The list is there as ASCII, too.
fn shown(root: &Path, entries: &[Entry]) {
    let line = |entry: &Entry| String::from_utf8(entry.to_ascii().unwrap()).unwrap() + "\n";
    let lines: String = entries.iter().map(line).collect();
    let ascii = Rig::new(root, Plan::Nothing).ascii();
    assert_eq!(fs::read_to_string(ascii).unwrap(), lines);
}

/// Checks a list whose chain is broken `breaks` times: each is on record, what was
/// acknowledged is in it, and its last part gives what the PCR holds.
pub(crate) fn broken(root: &Path, tpm: &Tpm, acknowledged: u32, breaks: usize) {
    let entries = whole(root);
    let starts = entries.iter().filter_map(Start::of);
    let anew = starts.filter(|start| start.reason == proto::start::Reason::ChainBroken);
    assert_eq!(anew.count(), breaks);
    let names: Vec<_> = entries.iter().map(Entry::display_name).collect();
    let violations = names.iter().filter(|name| name.contains(":chain:"));
    assert_eq!(violations.count(), breaks);
    let found: Vec<_> = entries.iter().map(says).collect();
    for event in said(acknowledged) {
        assert!(found.contains(&event), "{event:?} is lost");
    }
    let positions: Vec<_> = entries.iter().filter_map(position).collect();
    for n in 1..=u64::from(acknowledged) {
        assert!(positions.contains(&(100 * n)), "batch {n} is lost");
    }
    let judgement = judged(&entries, tpm);
    for fault in &judgement.faults {
        assert!(
            matches!(
                fault.kind,
                FaultKind::ChainBroken | FaultKind::ChainViolation(_)
            ),
            "{fault}"
        );
    }
    assert_eq!(judgement.is_good(), breaks == 0);
    shown(root, &entries);
    assert!(judgement.banks.iter().all(BankOutcome::matches));
}

fn position(entry: &Entry) -> Option<u64> {
    let batch = decode_batch(entry.fields().ok()?.payload?)?;
    batch.queue.map(|queue| queue.position)
}
