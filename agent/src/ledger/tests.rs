// SPDX-License-Identifier: Apache-2.0
//! The ledger against a PCR in memory, stopped at every step of a group.

mod crash;
mod faults;
pub(crate) mod fixture;
mod rig;
mod sweep;
#[path = "../../tests/cima/swtpm.rs"]
#[expect(dead_code, reason = "the tests of the commands use more of it")]
mod swtpm;

use std::{fs, path::Path};

use ima_log::{BinaryReader, HashAlgorithm};

use super::{Ledger, LedgerError, Opened, intent::FORMAT};
use crate::measure::{Batch, ContextEvent, PolicyEvent, SelfPart, proto};
use fixture::{PCR, Tpm, batch, event, list, names, open, origin, replays, scratch, segment};

#[test]
fn a_value_is_listed_once_a_boot_and_survives_a_restart() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, opened) = open(dir.path(), &tpm);
    assert_eq!(opened, Opened::New);
    ledger
        .commit(&[event(1), event(2), event(1)], batch())
        .unwrap();
    ledger.commit(&[event(2)], Batch::new()).unwrap();
    assert!(ledger.told.stopped(), "the batch was a farewell");
    drop(ledger);
    let (mut ledger, opened) = open(dir.path(), &tpm);
    assert_eq!(
        opened,
        Opened::Continued {
            entries: 4,
            completed: 0
        }
    );
    ledger.commit(&[event(2), event(3)], Batch::new()).unwrap();
    assert_eq!(
        names(dir.path()),
        [
            "cima-ctx:0",
            "cima-exec:unregistered:/bin/1",
            "cima-exec:unregistered:/bin/2",
            "cima-ctx:1",
            "cima-ctx:2",
            "cima-exec:unregistered:/bin/3"
        ]
    );
    assert!(replays(dir.path(), &tpm));
}

#[test]
fn what_the_kernel_lists_by_itself_is_said_once_before_the_next_batch() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let hear = |events: &[u32]| {
        tpm.with(|state| state.heard = events.iter().map(|n| event(*n)).collect());
    };
    // From before the list: the first entry says where the list begins.
    hear(&[1]);
    let (mut ledger, _) = open(dir.path(), &tpm);
    ledger.commit(&[event(1), event(2)], batch()).unwrap();
    hear(&[2, 3]);
    assert!(ledger.check().unwrap());
    hear(&[3, 4]);
    ledger.commit(&[event(4), event(5)], batch()).unwrap();
    drop(ledger);
    hear(&[5, 6]);
    let _ = open(dir.path(), &tpm);
    assert_eq!(
        names(dir.path()),
        [
            "cima-ctx:0",
            "cima-exec:unregistered:/bin/1",
            "cima-exec:unregistered:/bin/2",
            "cima-ctx:1",
            "cima-exec:unregistered:/bin/3",
            "cima-exec:unregistered:/bin/4",
            "cima-exec:unregistered:/bin/5",
            "cima-ctx:2",
            "cima-exec:unregistered:/bin/6",
            "cima-ctx:3",
        ]
    );
    assert!(replays(dir.path(), &tpm));
}

#[test]
fn another_value_of_the_same_name_is_another_entry() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    let part =
        |text: &[u8]| PolicyEvent::agent(SelfPart::Policy, &HashAlgorithm::Sha256.digest(text));
    ledger
        .commit(&[part(b"a"), part(b"b")], Batch::new())
        .unwrap();
    assert_eq!(
        names(dir.path()),
        ["cima-ctx:0", "cima-agent:policy", "cima-agent:policy"]
    );
}

#[test]
fn an_extend_whose_answer_was_lost_is_neither_lost_nor_repeated() {
    for extends in 0..4 {
        for extends_anyway in [false, true] {
            let (dir, tpm) = (scratch(), Tpm::new());
            let (mut ledger, _) = open(dir.path(), &tpm);
            tpm.fail_after(extends, extends_anyway);
            let error = ledger
                .commit(&[event(1), event(2), event(3)], batch())
                .unwrap_err();
            assert!(matches!(error, LedgerError::Sink(_)));
            ledger.reconnect().unwrap();
            ledger.complete().unwrap();
            assert_eq!(list(dir.path()).len(), 5);
            assert!(
                replays(dir.path(), &tpm),
                "after {extends} extends, {extends_anyway}"
            );
        }
    }
}

#[test]
fn a_crash_between_any_two_extends_is_completed_at_the_next_start() {
    for extends in 0..4 {
        for extends_anyway in [false, true] {
            let (dir, tpm) = (scratch(), Tpm::new());
            let (mut ledger, _) = open(dir.path(), &tpm);
            tpm.fail_after(extends, extends_anyway);
            ledger
                .commit(&[event(1), event(2), event(3)], batch())
                .unwrap_err();
            drop(ledger);
            let (_, opened) = open(dir.path(), &tpm);
            assert_eq!(
                opened,
                Opened::Continued {
                    entries: 5,
                    completed: 4
                }
            );
            assert!(
                replays(dir.path(), &tpm),
                "after {extends} extends, {extends_anyway}"
            );
        }
    }
}

#[test]
fn a_crash_inside_the_append_is_completed_at_the_next_start() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    let before = ledger.segment.len();
    tpm.fail_after(0, false);
    ledger
        .commit(&[event(1), event(2)], Batch::new())
        .unwrap_err();
    drop(ledger);
    let (path, intent) = (
        segment(dir.path(), 1),
        dir.path().join("ledger/boot/intent"),
    );
    let (whole, pending) = (fs::read(&path).unwrap(), fs::read(&intent).unwrap());
    for cut in usize::try_from(before).unwrap()..=whole.len() {
        let (copy, tpm) = (scratch(), tpm.clone());
        let values = tpm.values();
        fs::create_dir_all(copy.path().join("ledger/boot")).unwrap();
        fs::write(segment(copy.path(), 1), &whole[..cut]).unwrap();
        fs::write(copy.path().join("ledger/boot/intent"), &pending).unwrap();
        let (_, opened) = open(copy.path(), &tpm);
        assert_eq!(
            opened,
            Opened::Continued {
                entries: 3,
                completed: 2
            },
            "cut at {cut}"
        );
        assert!(replays(copy.path(), &tpm), "cut at {cut}");
        tpm.with(|state| state.values = values);
    }
}

#[test]
fn an_intent_with_any_byte_altered_is_none() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    let line = super::Line::of(PCR, "x", b"some payload").unwrap();
    ledger.intent.stage(vec![line]);
    ledger.intent.persist().unwrap();
    let whole = fs::read(dir.path().join("ledger/boot/intent")).unwrap();
    assert_eq!(super::intent::records(&whole).len(), 1);
    for at in 0..whole.len() {
        let mut altered = whole.clone();
        altered[at] ^= 0x40;
        assert!(super::intent::records(&altered).is_empty(), "byte {at}");
    }
}

#[test]
fn an_intent_of_another_version_is_left_for_it() {
    let (dir, tpm) = (scratch(), Tpm::new());
    drop(open(dir.path(), &tpm));
    let intent = dir.path().join("ledger/boot/intent");
    let old = b"cima-intent-1\nwhatever it held";
    fs::write(&intent, old).unwrap();
    let sink = Box::new(tpm.clone());
    let opened = Ledger::open(dir.path(), origin(), sink, PCR, None);
    let error = opened.err().expect("it is refused").to_string();
    assert!(error.contains("another version"), "{error}");
    assert_eq!(fs::read(&intent).unwrap(), old);
}

#[test]
fn a_torn_intent_was_never_begun() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    let line = super::Line::of(PCR, "x", b"y").unwrap();
    ledger.intent.stage(vec![line]);
    let place = ledger.next_place().unwrap();
    ledger.intent.put_at(place);
    ledger.intent.persist().unwrap();
    drop(ledger);
    let intent = dir.path().join("ledger/boot/intent");
    let whole = fs::read(&intent).unwrap();
    for cut in 0..whole.len() {
        let copy = scratch();
        fs::create_dir_all(copy.path().join("ledger/boot")).unwrap();
        fs::copy(segment(dir.path(), 1), segment(copy.path(), 1)).unwrap();
        fs::write(copy.path().join("ledger/boot/intent"), &whole[..cut]).unwrap();
        let values = tpm.values();
        let (_, opened) = open(copy.path(), &tpm);
        assert_eq!(
            opened,
            Opened::Continued {
                entries: 1,
                completed: 0
            },
            "cut at {cut}"
        );
        tpm.with(|state| state.values = values);
    }
}

#[test]
fn a_crash_while_the_very_first_entry_is_written_loses_nothing() {
    let (dir, tpm) = (scratch(), Tpm::new());
    tpm.foreign();
    tpm.fail_after(0, true);
    assert!(Ledger::open(dir.path(), origin(), Box::new(tpm.clone()), PCR, None).is_err());
    let (_, opened) = open(dir.path(), &tpm);
    assert_eq!(
        opened,
        Opened::Continued {
            entries: 1,
            completed: 1
        }
    );
}

#[test]
fn whether_the_agent_before_ended_in_order_is_known_and_not_held_against_it() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    assert!(ledger.stopped(), "there was none");
    ledger.commit(&[event(1)], Batch::new()).unwrap();
    drop(ledger);
    let (mut ledger, _) = open(dir.path(), &tpm);
    assert!(!ledger.stopped());
    tpm.fail_after(0, false);
    ledger.commit(&[event(2)], batch()).unwrap_err();
    drop(ledger);
    let (ledger, _) = open(dir.path(), &tpm);
    assert!(ledger.stopped(), "the farewell was in the intent");
    drop(ledger);
    tpm.foreign();
    let (ledger, _) = open(dir.path(), &tpm);
    assert!(!ledger.stopped(), "nor when the chain is broken");
    assert!(!names(dir.path()).iter().any(|name| name.contains("loss")));
}

#[test]
fn a_gap_is_recorded_with_its_place() {
    let (dir, tpm) = (scratch(), Tpm::new());
    for start in 0..3 {
        let (mut ledger, _) = open(dir.path(), &tpm);
        ledger.record_gap("queue-gone").unwrap();
        let entries = list(dir.path());
        let fields = entries.last().unwrap().fields().unwrap();
        assert_eq!(fields.name, b"cima-violation:loss:unregistered:");
        let payload = String::from_utf8_lossy(fields.payload.unwrap());
        let expected = format!("v1;loss;cause=queue-gone;before=cima-ctx:{}", start + 1);
        assert_eq!(payload, expected);
    }
    assert!(replays(dir.path(), &tpm));
}

fn loss(time_ns: u64, cause: &str, cpu: u32, count: u64) -> ContextEvent {
    let cause = cause.to_owned();
    let loss = proto::Loss { cause, cpu, count };
    ContextEvent::of_agent(time_ns, proto::context_event::What::Loss(loss))
}

/// A batch with these losses, of queue `id` at `position`.
fn reading(id: u64, position: u64, losses: &[(u64, &str, u32, u64)]) -> Batch {
    let mut batch = Batch::new();
    batch.set_queue(id, position);
    for (time_ns, cause, cpu, count) in losses {
        batch.push(loss(*time_ns, cause, *cpu, *count));
    }
    batch
}

fn losses(ledger: &Ledger) -> Vec<(&str, u32, u64)> {
    let losses = ledger.losses().iter();
    losses
        .map(|((cause, cpu), count)| (cause.as_str(), *cpu, *count))
        .collect()
}

#[test]
fn an_agent_that_starts_again_knows_how_far_the_queue_is_read_and_what_is_reported() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    assert_eq!(ledger.queue(), None);
    ledger.commit(&[], reading(7, 0, &[])).unwrap();
    assert_eq!(ledger.queue(), None, "a position alone is nothing to say");
    let batches = [
        reading(
            7,
            100,
            &[(1, "map-ring-full", 0, 5), (1, "map-ring-full", 1, 2)],
        ),
        reading(
            7,
            200,
            &[(2, "map-ring-full", 0, 3), (2, "exec-ring-full", 0, 1)],
        ),
    ];
    for batch in batches {
        ledger.commit(&[], batch).unwrap();
    }
    ledger.commit(&[], batch()).unwrap();
    drop(ledger);
    let (mut ledger, _) = open(dir.path(), &tpm);
    let position = |ledger: &Ledger| ledger.queue().map(|queue| (queue.id, queue.position));
    assert_eq!(position(&ledger), Some((7, 200)));
    assert_eq!(
        losses(&ledger),
        [
            ("exec-ring-full", 0, 1),
            ("map-ring-full", 0, 8),
            ("map-ring-full", 1, 2)
        ]
    );

    // Another queue counts anew, beginning with the batch that names it.
    ledger
        .commit(&[], reading(8, 10, &[(3, "map-ring-full", 0, 4)]))
        .unwrap();
    tpm.fail_after(0, true);
    let pending = reading(8, 20, &[(4, "map-ring-full", 0, 1)]);
    ledger.commit(&[event(1)], pending).unwrap_err();
    drop(ledger);
    let (ledger, _) = open(dir.path(), &tpm);
    assert_eq!(position(&ledger), Some((8, 20)), "the intent counts");
    assert_eq!(losses(&ledger), [("map-ring-full", 0, 5)]);
}

#[test]
fn a_loss_that_a_broken_chain_has_in_the_list_twice_counts_once() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    ledger
        .commit(&[], reading(7, 10, &[(1, "map-ring-full", 0, 2)]))
        .unwrap();
    tpm.fail_after(0, false);
    tpm.foreign();
    ledger
        .commit(&[], reading(7, 20, &[(2, "map-ring-full", 0, 3)]))
        .unwrap_err();
    ledger.reconnect().unwrap();
    assert_eq!(losses(&ledger), [("map-ring-full", 0, 5)]);
    drop(ledger);
    let (ledger, _) = open(dir.path(), &tpm);
    assert_eq!(losses(&ledger), [("map-ring-full", 0, 5)]);
    assert_eq!(ledger.queue().unwrap().position, 20);
}

#[test]
fn a_crash_while_a_break_is_recorded_does_not_number_a_batch_twice() {
    for extends_anyway in [false, true] {
        let (dir, tpm) = (scratch(), Tpm::new());
        let (mut ledger, _) = open(dir.path(), &tpm);
        ledger.commit(&[event(1)], batch()).unwrap();
        drop(ledger);
        let path = segment(dir.path(), 1);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        tpm.fail_after(0, extends_anyway);
        assert!(Ledger::open(dir.path(), origin(), Box::new(tpm.clone()), PCR, None).is_err());
        let (_, opened) = open(dir.path(), &tpm);
        assert!(matches!(opened, Opened::Continued { .. }), "{opened:?}");
        let second = fs::read(segment(dir.path(), 2)).unwrap();
        let mut batches: Vec<_> = BinaryReader::new(second.as_slice(), FORMAT)
            .map(|record| record.unwrap().1.display_name())
            .filter(|name| name.starts_with("cima-ctx:"))
            .collect();
        let count = batches.len();
        batches.dedup();
        assert!(batches.len() == count && count == 2, "{batches:?}");
    }
}

#[test]
fn a_list_of_another_pcr_is_not_continued() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    ledger.commit(&[event(1)], batch()).unwrap();
    drop(ledger);
    let other = Tpm::new();
    let (_, opened) =
        Ledger::open(dir.path(), origin(), Box::new(other.clone()), PCR + 1, None).unwrap();
    assert_eq!(
        opened,
        Opened::Broken {
            detail: "pcr=14;list=13".into()
        }
    );
    let (_, opened) = Ledger::open(dir.path(), origin(), Box::new(other), PCR + 1, None).unwrap();
    assert!(matches!(opened, Opened::Continued { .. }), "{opened:?}");
}

#[test]
fn what_does_not_fit_the_pcr_is_recorded_and_a_new_segment_begun() {
    type Harm = fn(&Path, &Tpm);
    let harms: [(&str, Harm); 4] = [
        ("somebody else's extend", |_, tpm| tpm.foreign()),
        ("an entry cut off", |dir, _| {
            let path = segment(dir, 1);
            let whole = fs::read(&path).unwrap();
            let entries = BinaryReader::new(whole.as_slice(), FORMAT).map(|r| r.unwrap().0.offset);
            let last = usize::try_from(entries.last().unwrap()).unwrap();
            fs::write(&path, &whole[..last]).unwrap();
        }),
        ("a torn tail", |dir, _| {
            let path = segment(dir, 1);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        }),
        ("garbage at the end", |dir, _| {
            let path = segment(dir, 1);
            let mut whole = fs::read(&path).unwrap();
            whole.extend_from_slice(b"garbage");
            fs::write(&path, whole).unwrap();
        }),
    ];
    for (what, harm) in harms {
        let (dir, tpm) = (scratch(), Tpm::new());
        let (mut ledger, _) = open(dir.path(), &tpm);
        ledger.commit(&[event(1), event(2)], Batch::new()).unwrap();
        drop(ledger);
        harm(dir.path(), &tpm);
        let first = fs::read(segment(dir.path(), 1)).unwrap();
        let (mut ledger, opened) = open(dir.path(), &tpm);
        assert!(
            matches!(opened, Opened::Broken { .. }),
            "{what}: {opened:?}"
        );
        ledger.commit(&[event(3)], Batch::new()).unwrap();
        drop(ledger);
        assert_eq!(
            fs::read(segment(dir.path(), 1)).unwrap(),
            first,
            "{what}: evidence was changed"
        );
        let second = fs::read(segment(dir.path(), 2)).unwrap();
        let names: Vec<_> = BinaryReader::new(second.as_slice(), FORMAT)
            .map(|record| record.unwrap().1.display_name())
            .collect();
        assert!(
            names[0].starts_with("cima-ctx:") && names[1].starts_with("cima-violation:chain:"),
            "{what}: {names:?}"
        );
        let (_, opened) = open(dir.path(), &tpm);
        assert!(
            matches!(opened, Opened::Continued { .. }),
            "{what}: the new segment goes on: {opened:?}"
        );
    }
}
