// SPDX-License-Identifier: Apache-2.0
//! Following the list: against what lies on the disk, while it is written.

use std::{fs, path::Path, thread};

use ima_log::{BinaryReader, Entry};

use super::{
    Ledger, Opened, Piece, Store, Tail,
    intent::FORMAT,
    recovery, segments,
    tests::fixture::{PCR, Tpm, batch, event, list, names, open, origin, scratch, segment},
};
use crate::measure::{Batch, ContextEvent, PolicyEvent, proto};

fn open_small(dir: &Path, tpm: &Tpm) -> (Ledger, Opened) {
    let store = Store {
        segment_bytes: 1000,
        ..Store::default()
    };
    recovery::open(store, dir, origin(), Box::new(tpm.clone()), PCR).unwrap()
}

fn commit(ledger: &mut Ledger, n: u32) {
    ledger
        .commit(&[event(2 * n), event(2 * n + 1)], batch())
        .unwrap();
}

/// All that there is to be read, and nothing that is not wanted.
fn read(tail: &mut Tail) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while let Some(piece) = tail.read().unwrap() {
        if !piece.records.is_empty() || piece.unreadable.is_some() {
            pieces.push(piece);
        }
    }
    pieces
}

fn entries(piece: &Piece) -> Vec<Entry> {
    BinaryReader::new(piece.records.as_slice(), FORMAT)
        .map(|record| record.unwrap().1)
        .collect()
}

/// What the pieces hold must be the list from entry `first` on, with its numbers and places.
fn assert_is_list_from(dir: &Path, first: usize, pieces: &[Piece]) {
    let whole = list(dir);
    let mut next = first;
    for piece in pieces {
        assert_eq!(piece.first_entry, next as u64, "neither gap nor repetition");
        let file = fs::read(segment(dir, piece.segment)).unwrap();
        let offset = usize::try_from(piece.offset).unwrap();
        assert!(file[offset..].starts_with(&piece.records));
        for entry in entries(piece) {
            assert_eq!(entry, whole[next]);
            next += 1;
        }
    }
    assert_eq!(next, whole.len(), "all of it");
}

#[test]
fn from_any_entry_on_the_list_comes_whole_and_from_now_on_what_is_new() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open_small(dir.path(), &tpm);
    (0..20).for_each(|n| commit(&mut ledger, n));
    assert!(segments(ledger.dir()).unwrap().len() > 3);
    let committed = ledger.committed();
    let before = list(dir.path()).len();
    let mut tails: Vec<_> = (0..before + 5)
        .map(|first| (first, committed.follow(Some(first as u64))))
        .collect();
    // Once with what others have counted, and once without.
    tails.push((before, committed.follow(None)));
    tails.push((before, ledger.committed().follow(None)));
    for (first, tail) in &mut tails {
        let pieces = read(tail);
        if *first < before {
            assert_is_list_from(dir.path(), *first, &pieces);
        } else {
            assert_eq!(pieces, []);
        }
        assert_eq!(tail.next_entry(), before as u64);
    }
    (20..30).for_each(|n| commit(&mut ledger, n));
    for (first, tail) in &mut tails {
        assert_is_list_from(dir.path(), (*first).max(before), &read(tail));
    }
    assert!(ledger.committed().follow(Some(10_000)).read().is_ok());
}

#[test]
fn a_reader_beside_the_writer_sees_each_entry_once() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open_small(dir.path(), &tpm);
    commit(&mut ledger, 0);
    let mut tails = vec![
        (0, ledger.committed().follow(Some(0))),
        (list(dir.path()).len(), ledger.committed().follow(None)),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let writer = thread::spawn(move || {
        (1..300).for_each(|n| commit(&mut ledger, n));
    });
    for (first, mut tail) in tails.drain(..) {
        let mut pieces = read(&mut tail);
        while runtime.block_on(tail.wait()) {
            pieces.extend(read(&mut tail));
        }
        pieces.extend(read(&mut tail));
        assert_is_list_from(dir.path(), first, &pieces);
    }
    writer.join().unwrap();
}

#[test]
fn what_the_tpm_does_not_have_is_not_shown() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    let mut tail = ledger.committed().follow(None);
    tpm.fail_after(1, false);
    ledger.commit(&[event(1), event(2)], batch()).unwrap_err();
    assert_eq!(list(dir.path()).len(), 4, "it is on the disk");
    assert_eq!(read(&mut tail), []);
    ledger.reconnect().unwrap();
    assert_is_list_from(dir.path(), 1, &read(&mut tail));
}

#[test]
fn after_a_broken_chain_numbers_are_still_those_of_the_list() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    let mut tail = ledger.committed().follow(Some(0));
    let mut pieces = read(&mut tail);
    commit(&mut ledger, 0);
    tpm.fail_after(1, false);
    ledger.commit(&[event(7), event(8)], batch()).unwrap_err();
    tpm.reset();
    ledger.reconnect().unwrap();
    commit(&mut ledger, 1);
    pieces.extend(read(&mut tail));
    assert!(
        names(dir.path())
            .iter()
            .any(|name| name.contains(":chain:"))
    );
    assert_is_list_from(dir.path(), 0, &pieces);
    let mut late = ledger.committed().follow(Some(3));
    assert_is_list_from(dir.path(), 3, &read(&mut late));
}

#[test]
fn what_cannot_be_read_is_passed_over_and_said() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    commit(&mut ledger, 0);
    drop(ledger);
    let first = segment(dir.path(), 1);
    let whole = fs::read(&first).unwrap();
    fs::write(&first, &whole[..whole.len() - 3]).unwrap();
    let (ledger, opened) = open(dir.path(), &tpm);
    assert!(matches!(opened, Opened::Broken { .. }));
    let pieces = read(&mut ledger.committed().follow(Some(0)));
    let [before, torn, behind] = &pieces[..] else {
        panic!("{pieces:?}")
    };
    assert_eq!((before.first_entry, before.segment), (0, 1));
    assert_eq!(entries(before).len(), 3);
    let said = torn.unreadable.as_deref().unwrap();
    let expected = format!("00000001.ima: record 3, at byte {}: ", before.records.len());
    assert!(said.contains(&expected), "{said}");
    assert_eq!((behind.first_entry, behind.segment), (3, 2));
}

#[test]
fn an_entry_that_is_longer_than_a_piece_comes_whole() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    let mut long = Batch::new();
    let what = proto::context_event::What::PolicyLoaded(proto::PolicyLoaded {
        sha256: vec![7; 1_500_000],
        name: String::new(),
    });
    long.push(ContextEvent::of_agent(1, what));
    ledger.commit(&[event(1)], long).unwrap();
    commit(&mut ledger, 1);
    let pieces = read(&mut ledger.committed().follow(Some(0)));
    assert!(pieces.iter().any(|piece| piece.records.len() > 1_500_000));
    assert_is_list_from(dir.path(), 0, &pieces);
}

#[test]
fn a_segment_that_is_gone_is_an_error_with_its_name() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    let events: [PolicyEvent; 1] = [event(1)];
    ledger.commit(&events, Batch::new()).unwrap();
    let mut tail = ledger.committed().follow(Some(0));
    fs::write(segment(dir.path(), 1), b"").unwrap();
    let error = tail.read().unwrap_err().to_string();
    assert!(
        error.contains("cannot read") && error.contains("00000001.ima"),
        "{error}"
    );
}
