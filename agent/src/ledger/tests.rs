// SPDX-License-Identifier: Apache-2.0
//! The ledger against a PCR in memory, stopped at every step of a group.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use ima_log::{BinaryReader, Digest, Entry, HashAlgorithm};

use super::{Ledger, LedgerError, Message, Opened, Origin, Writer, intent::FORMAT, segments};
use crate::{
    measure::{Batch, ContextEvent, PolicyEvent, SelfPart, proto},
    sink::{Sink, SinkError},
};

const PCR: u32 = 13;
const BANKS: [HashAlgorithm; 2] = [HashAlgorithm::Sha1, HashAlgorithm::Sha256];

/// A TPM that lives as long as the test, whatever happens to the agent.
#[derive(Clone)]
struct Tpm(Arc<Mutex<State>>);

struct State {
    values: Vec<Digest>,
    /// Commands until the next failure; `None`: never.
    fails_after: Option<u32>,
    /// Whether every command fails.
    gone: bool,
    /// Whether the failing extend is carried out before the answer is lost.
    extends_anyway: bool,
}

impl Tpm {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            values: BANKS.iter().map(|bank| Digest::zeros(*bank)).collect(),
            fails_after: None,
            gone: false,
            extends_anyway: false,
        })))
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    fn values(&self) -> Vec<Digest> {
        self.with(|state| state.values.clone())
    }

    fn fail_after(&self, extends: u32, extends_anyway: bool) {
        self.with(|state| {
            state.fails_after = Some(extends);
            state.extends_anyway = extends_anyway;
        });
    }

    /// Somebody else's extend.
    fn foreign(&self) {
        self.with(|state| {
            for value in &mut state.values {
                *value = value.extended(&Digest::ones(value.algorithm()));
            }
        });
    }
}

impl State {
    fn extend(&mut self, entry: &Entry) {
        for value in &mut self.values {
            *value = value.extended(&entry.extend_value(value.algorithm()));
        }
    }
}

impl Sink for Tpm {
    fn pcr(&self) -> Option<u32> {
        Some(PCR)
    }

    fn read(&mut self) -> Result<Vec<Digest>, SinkError> {
        Ok(self.values())
    }

    fn extend(&mut self, entry: &Entry) -> Result<(), SinkError> {
        self.with(|state| {
            if state.gone {
                return Err(SinkError::NoBank(PCR));
            }
            if state.fails_after == Some(0) {
                if state.extends_anyway {
                    state.extend(entry);
                }
                state.fails_after = None;
                return Err(SinkError::NoBank(PCR));
            }
            state.fails_after = state.fails_after.map(|n| n - 1);
            state.extend(entry);
            Ok(())
        })
    }

    fn reopen(&mut self) -> Result<(), SinkError> {
        if self.with(|state| state.gone) {
            return Err(SinkError::NoBank(PCR));
        }
        Ok(())
    }
}

fn origin() -> Origin {
    Origin {
        boot_id: "boot".into(),
        kernel_release: "6.1".into(),
        realtime_offset_ns: 0,
        now_ns: 1,
    }
}

fn open(dir: &Path, tpm: &Tpm) -> (Ledger, Opened) {
    Ledger::open(dir, origin(), Box::new(tpm.clone()), PCR).unwrap()
}

fn event(n: u32) -> PolicyEvent {
    PolicyEvent::exec(
        format!("/bin/{n}").as_bytes(),
        &HashAlgorithm::Sha256.digest(&n.to_le_bytes()),
    )
}

fn batch() -> Batch {
    let mut batch = Batch::new();
    batch.push(ContextEvent::of_agent(
        1,
        proto::context_event::What::Stop(proto::Stop {}),
    ));
    batch
}

fn segment(dir: &Path, number: u32) -> PathBuf {
    dir.join("ledger/boot").join(format!("{number:08}.ima"))
}

/// Every entry of the list, in order.
fn list(dir: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (_, path) in segments(&dir.join("ledger/boot")).unwrap() {
        let bytes = fs::read(path).unwrap();
        entries.extend(BinaryReader::new(bytes.as_slice(), FORMAT).map(|record| record.unwrap().1));
    }
    entries
}

fn names(dir: &Path) -> Vec<String> {
    list(dir).iter().map(Entry::display_name).collect()
}

/// Whether the whole list, from zero, gives the TPM's values.
fn replays(dir: &Path, tpm: &Tpm) -> bool {
    let mut state = State {
        values: BANKS.iter().map(|bank| Digest::zeros(*bank)).collect(),
        fails_after: None,
        gone: false,
        extends_anyway: false,
    };
    list(dir).iter().for_each(|entry| state.extend(entry));
    state.values == tpm.values()
}

#[test]
fn a_value_is_listed_once_a_boot_and_survives_a_restart() {
    let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
    let (mut ledger, opened) = open(dir.path(), &tpm);
    assert_eq!(opened, Opened::New);
    ledger
        .commit(&[event(1), event(2), event(1)], batch())
        .unwrap();
    ledger.commit(&[event(2)], Batch::new()).unwrap();
    assert!(ledger.stopped, "the batch was a farewell");
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
fn another_value_of_the_same_name_is_another_entry() {
    let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
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
            let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
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
            let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
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
    let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
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
        let (copy, tpm) = (tempfile::tempdir().unwrap(), tpm.clone());
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
fn a_torn_intent_was_never_begun() {
    let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    ledger.intent.stage(
        1,
        ledger.segment.len(),
        vec![ledger.entry("x", b"y").unwrap()],
    );
    ledger.intent.persist().unwrap();
    drop(ledger);
    let intent = dir.path().join("ledger/boot/intent");
    let whole = fs::read(&intent).unwrap();
    for cut in 0..whole.len() {
        let copy = tempfile::tempdir().unwrap();
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
    let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
    tpm.foreign();
    tpm.fail_after(0, true);
    assert!(Ledger::open(dir.path(), origin(), Box::new(tpm.clone()), PCR).is_err());
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
fn an_agent_that_did_not_say_farewell_has_lost_what_it_had_queued() {
    let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    ledger.commit(&[event(1)], Batch::new()).unwrap();
    drop(ledger);
    for start in 1..3 {
        let (ledger, _) = open(dir.path(), &tpm);
        drop(ledger);
        let losses: Vec<_> = list(dir.path())
            .iter()
            .filter(|entry| entry.display_name().starts_with("cima-violation:loss:"))
            .map(|entry| {
                String::from_utf8(entry.fields().unwrap().payload.unwrap().to_vec()).unwrap()
            })
            .collect();
        assert_eq!(losses.len(), start);
        assert_eq!(
            losses[start - 1],
            format!("v1;loss;cause=unclean-stop;before=cima-ctx:{start}")
        );
    }
    assert!(replays(dir.path(), &tpm));
}

#[test]
fn a_crash_while_a_break_is_recorded_does_not_number_a_batch_twice() {
    for extends_anyway in [false, true] {
        let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
        let (mut ledger, _) = open(dir.path(), &tpm);
        ledger.commit(&[event(1)], batch()).unwrap();
        drop(ledger);
        let path = segment(dir.path(), 1);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        tpm.fail_after(0, extends_anyway);
        assert!(Ledger::open(dir.path(), origin(), Box::new(tpm.clone()), PCR).is_err());
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
    let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
    let (mut ledger, _) = open(dir.path(), &tpm);
    ledger.commit(&[event(1)], batch()).unwrap();
    drop(ledger);
    let other = Tpm::new();
    let (_, opened) = Ledger::open(dir.path(), origin(), Box::new(other.clone()), PCR + 1).unwrap();
    assert_eq!(
        opened,
        Opened::Broken {
            detail: "pcr=14;list=13".into()
        }
    );
    let (_, opened) = Ledger::open(dir.path(), origin(), Box::new(other), PCR + 1).unwrap();
    assert!(matches!(opened, Opened::Continued { .. }), "{opened:?}");
}

/// A queue of one place in front of a TPM that fails at once.
fn failing_writer(dir: &Path, tpm: &Tpm) -> (Writer, tokio::sync::mpsc::Sender<Message>) {
    let (ledger, _) = open(dir, tpm);
    tpm.with(|state| state.gone = true);
    Writer::start(ledger, 1).unwrap()
}

fn message(n: u32) -> Message {
    Message::Agent {
        policy_events: vec![event(n)],
        context: None,
    }
}

#[test]
fn a_tpm_that_comes_back_finds_everything_that_waited() {
    let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
    let (writer, queue) = failing_writer(dir.path(), &tpm);
    queue.blocking_send(message(1)).unwrap();
    queue.blocking_send(message(2)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    tpm.with(|state| state.gone = false);
    queue.blocking_send(message(3)).unwrap();
    drop(queue);
    let ledger = writer.finish().unwrap();
    assert_eq!(ledger.entries(), 4);
    assert!(replays(dir.path(), &tpm));
}

#[test]
fn a_stop_does_not_wait_for_a_tpm_that_is_gone_and_keeps_the_group_at_hand() {
    let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
    let (writer, queue) = failing_writer(dir.path(), &tpm);
    queue.blocking_send(message(1)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    writer.stopper()();
    // Whoever waits for a place in the queue is let go, too.
    let mut refused = false;
    for n in 2..20 {
        refused |= queue.blocking_send(message(n)).is_err();
    }
    assert!(refused, "senders wait for ever");
    assert!(matches!(writer.finish(), Err(LedgerError::Interrupted(_))));
    tpm.with(|state| state.gone = false);
    let (_, opened) = open(dir.path(), &tpm);
    assert_eq!(
        opened,
        Opened::Continued {
            entries: 2,
            completed: 1
        }
    );
    assert!(replays(dir.path(), &tpm));
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
        let (dir, tpm) = (tempfile::tempdir().unwrap(), Tpm::new());
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
