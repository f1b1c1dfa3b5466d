// SPDX-License-Identifier: Apache-2.0
//! The writer between a queue and a ledger whose TPM fails.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use cima_abi::{ABI_VERSION, ARGS_LEN, Header, Kind, SHORT_PATH, flag};

use super::{
    Feed, LedgerError, Message, Opened, Writer, WriterHandle, drain,
    tests::fixture::{Tpm, event, list, names, open, replays},
    writer::GROUP,
};
use crate::{
    measure::{Batch, ContextEvent, decode_batch, proto},
    metrics::Metrics,
    probes::{Command, Event, EventError, What},
    shared::Shared,
};

/// How long a writer may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A queue in memory, whose records have a position each.
#[derive(Clone, Default)]
struct Fake(Arc<(Mutex<Records>, Condvar)>);

#[derive(Default)]
struct Records {
    waiting: VecDeque<Result<Event, EventError>>,
    put: u64,
    read: u64,
    released: u64,
}

impl Fake {
    fn with<T>(&self, f: impl FnOnce(&mut Records) -> T) -> T {
        f(&mut self.0.0.lock().unwrap())
    }

    fn put(&self, record: Result<Event, EventError>) {
        self.with(|records| {
            records.waiting.push_back(record);
            records.put += 1;
        });
        self.0.1.notify_all();
    }

    fn released(&self) -> u64 {
        self.with(|records| records.released)
    }
}

impl Feed for Fake {
    fn id(&self) -> u64 {
        7
    }
    fn read(&mut self) -> Option<Result<Event, EventError>> {
        self.with(|records| {
            let record = records.waiting.pop_front()?;
            records.read += 1;
            Some(record)
        })
    }
    fn position(&self) -> u64 {
        self.with(|records| records.read)
    }
    fn end(&self) -> u64 {
        self.with(|records| records.put)
    }
    fn release(&mut self, position: u64) {
        self.with(|records| records.released = position);
    }
    fn wait(&mut self, limit: Duration) -> io::Result<()> {
        let records = self.0.0.lock().unwrap();
        if records.waiting.is_empty() {
            // Nobody wakes it for messages here.
            let limit = limit.min(Duration::from_millis(20));
            drop(self.0.1.wait_timeout(records, limit).unwrap());
        }
        Ok(())
    }
    fn fill(&self) -> (u64, u64) {
        self.with(|records| (records.put - records.released, u64::MAX))
    }
}

/// A record of `kind` about `/bin/<n>`.
fn record(kind: Kind, n: u8) -> Result<Event, EventError> {
    let header = size_of::<Header>();
    let path = format!("/bin/{n}");
    let mut bytes = vec![0; header + SHORT_PATH + ARGS_LEN];
    bytes[..2].copy_from_slice(&ABI_VERSION.to_ne_bytes());
    (bytes[2], bytes[3]) = (kind as u8, 4);
    let room = u16::try_from(SHORT_PATH).unwrap();
    bytes[6..8].copy_from_slice(&room.to_ne_bytes());
    let len = u16::try_from(path.len()).unwrap();
    bytes[8..10].copy_from_slice(&len.to_ne_bytes());
    bytes[header..header + path.len()].copy_from_slice(path.as_bytes());
    Event::parse(&bytes)
}

fn start(dir: &Path, tpm: &Tpm, feed: &Fake) -> (Writer, WriterHandle) {
    checking(dir, tpm, feed, Duration::from_secs(3600))
}

fn checking(dir: &Path, tpm: &Tpm, feed: &Fake, check: Duration) -> (Writer, WriterHandle) {
    let (ledger, _) = open(dir, tpm);
    let (feed, metrics) = (Box::new(feed.clone()), Arc::new(Metrics::default()));
    Writer::checking(ledger, feed, None, metrics, check).unwrap()
}

fn end(handle: &WriterHandle) {
    let stop = proto::context_event::What::Stop(proto::Stop {});
    let farewell = Box::new(ContextEvent::of_agent(1, stop));
    handle.send(Message::End(farewell)).unwrap();
}

fn say(handle: &WriterHandle, n: u32) {
    let message = Message::Say {
        policy_events: vec![event(n)],
        context: None,
        done: None,
    };
    handle.send(message).unwrap();
}

fn eventually(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "it never came true"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_in_the_queue_at_the_end_is_written_and_then_the_farewell() {
    let (dir, tpm, feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let (writer, handle) = start(dir.path(), &tpm, &feed);
    for n in 0..3 {
        feed.put(record(Kind::Exec, n));
    }
    end(&handle);
    let ledger = writer.finish(PATIENCE).unwrap();
    assert_eq!(feed.released(), 3);
    assert_eq!(ledger.queue().unwrap(), proto::Queue { id: 7, position: 3 });
    drop(ledger);
    let (ledger, opened) = open(dir.path(), &tpm);
    assert!(matches!(opened, Opened::Continued { .. }));
    assert!(ledger.stopped(), "the farewell is the last word");
}

#[test]
fn what_a_verifier_waits_for_is_written_at_once_and_context_waits_for_company() {
    let (dir, tpm, feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let (writer, handle) = start(dir.path(), &tpm, &feed);
    for n in 0..5 {
        feed.put(record(Kind::Exec, n));
    }
    feed.put(record(Kind::Map, 5));
    eventually(|| list(dir.path()).len() == 2);
    assert_eq!(feed.released(), 0, "the context of all six waits");
    eventually(|| feed.released() == 6);
    let names = names(dir.path());
    assert_eq!(names.len(), 3, "a start, a file, one batch: {names:?}");
    feed.put(record(Kind::Exec, 6));
    eventually(|| feed.released() == 7);
    end(&handle);
    writer.finish(PATIENCE).unwrap();
    assert!(replays(dir.path(), &tpm));
}

#[test]
fn executions_that_are_violations_are_said_once_for_each_file_and_told_each_time() {
    let (dir, tpm, feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let executed = |n| {
        record(Kind::Exec, n).map(|mut event| {
            event.flags |= flag::UNREGISTERED;
            event
        })
    };
    let (writer, handle) = start(dir.path(), &tpm, &feed);
    for n in [1, 2, 1, 1, 2] {
        feed.put(executed(n));
    }
    // In another group, and by an agent that found them in the list.
    eventually(|| feed.released() == 5);
    feed.put(executed(1));
    end(&handle);
    drop(writer.finish(PATIENCE).unwrap());
    let (writer, handle) = start(dir.path(), &tpm, &feed);
    feed.put(executed(2));
    feed.put(executed(3));
    end(&handle);
    writer.finish(PATIENCE).unwrap();
    let said = names(dir.path());
    let said: Vec<_> = said
        .iter()
        .filter(|name| name.contains("violation"))
        .collect();
    let of = |n| format!("cima-violation:unregistered:unregistered:/bin/{n}");
    assert_eq!(said, [&of(1), &of(2), &of(3)]);
    let told = list(dir.path()).into_iter().filter_map(|entry| {
        let batch = decode_batch(entry.fields().ok()?.payload?)?;
        let what = batch.events.into_iter().filter_map(|event| event.what);
        let is_execution = |what: &_| matches!(what, proto::context_event::What::Execution(_));
        Some(what.filter(is_execution).count())
    });
    assert_eq!(told.sum::<usize>(), 8);
}

#[test]
fn an_agent_killed_between_news_and_context_says_neither_twice() {
    let (dir, tpm, mut feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let (mut ledger, _) = open(dir.path(), &tpm);
    ledger.commit(&[event(1)], Batch::new()).unwrap();
    drop(ledger);
    let (mut ledger, _) = open(dir.path(), &tpm);
    ledger.commit(&[event(1)], Batch::new()).unwrap();
    feed.put(record(Kind::Exec, 1));
    drain(&mut ledger, &mut feed, (0, 1), 1).unwrap();
    let names = names(dir.path());
    let news = names
        .iter()
        .filter(|name| name.starts_with("cima-exec:"))
        .count();
    assert_eq!((news, names.len()), (1, 4), "{names:?}");
}

#[test]
fn nothing_is_released_before_the_tpm_has_it() {
    let (dir, tpm, feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let (writer, handle) = start(dir.path(), &tpm, &feed);
    tpm.with(|state| state.gone = true);
    feed.put(record(Kind::Map, 1));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(feed.released(), 0);
    say(&handle, 2);
    tpm.with(|state| state.gone = false);
    eventually(|| feed.released() == 1);
    end(&handle);
    writer.finish(PATIENCE).unwrap();
    assert!(replays(dir.path(), &tpm));
}

#[test]
fn a_stop_does_not_wait_for_a_tpm_that_is_gone_and_leaves_the_rest_in_the_queue() {
    let (dir, tpm, feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let (writer, handle) = start(dir.path(), &tpm, &feed);
    tpm.with(|state| state.gone = true);
    feed.put(record(Kind::Map, 1));
    std::thread::sleep(Duration::from_millis(300));
    feed.put(record(Kind::Map, 2));
    writer.stopper()();
    end(&handle);
    assert!(matches!(
        writer.finish(PATIENCE),
        Err(LedgerError::Interrupted(_))
    ));
    assert_eq!(feed.released(), 0, "the next agent reads it");
    tpm.with(|state| state.gone = false);
    let (ledger, opened) = open(dir.path(), &tpm);
    assert!(
        matches!(opened, Opened::Continued { completed: 1, .. }),
        "{opened:?}"
    );
    assert_eq!(
        ledger.queue(),
        None,
        "from the first on: its context is missing"
    );
    assert!(replays(dir.path(), &tpm));
}

#[test]
fn a_stop_does_not_wait_for_a_tpm_that_hangs() {
    let (dir, tpm, feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let (writer, handle) = start(dir.path(), &tpm, &feed);
    tpm.with(|state| state.hangs = true);
    feed.put(record(Kind::Map, 1));
    end(&handle);
    let ended = writer.finish(Duration::from_millis(200));
    assert!(matches!(ended, Err(LedgerError::Unfinished(_))));
    assert_eq!(feed.released(), 0, "the next agent reads it");
    tpm.with(|state| state.hangs = false);
    eventually(|| feed.released() == 1);
}

#[test]
fn a_pcr_that_somebody_else_extends_is_noticed_though_there_is_nothing_to_write() {
    let (dir, tpm, feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let (writer, handle) = checking(dir.path(), &tpm, &feed, Duration::from_millis(50));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(
        list(dir.path()).len(),
        1,
        "as long as it fits, nothing is said"
    );
    tpm.foreign();
    let broken = |name: &String| name.starts_with("cima-violation:chain:");
    eventually(|| names(dir.path()).iter().any(broken));
    end(&handle);
    writer.finish(PATIENCE).unwrap();
}

#[test]
fn a_record_that_cannot_be_read_is_a_loss() {
    let (dir, tpm, feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let (writer, handle) = start(dir.path(), &tpm, &feed);
    feed.put(Err(EventError::Kind(99)));
    end(&handle);
    writer.finish(PATIENCE).unwrap();
    assert!(
        names(dir.path())
            .iter()
            .any(|name| name.starts_with("cima-violation:loss:"))
    );
}

#[test]
fn an_old_queue_is_read_out_in_groups_and_what_is_recent_is_returned() {
    let (dir, tpm, mut feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let old = 2 * GROUP as u64 + 500;
    for _ in 0..old {
        feed.put(record(Kind::Exec, 1));
    }
    let (mut ledger, _) = open(dir.path(), &tpm);
    let recent = drain(&mut ledger, &mut feed, (0, old), 1).unwrap();
    assert_eq!((recent.len(), list(dir.path()).len()), (0, 1 + 3));
    assert_eq!(ledger.queue().unwrap().position, old);
    feed.put(record(Kind::Exec, 1));
    let recent = drain(&mut ledger, &mut feed, (0, old + 1), 0).unwrap();
    assert_eq!((recent.len(), list(dir.path()).len()), (1, 1 + 3 + 1));
    assert_eq!(
        feed.released(),
        0,
        "whoever comes after a kill reads it again"
    );
    assert!(replays(dir.path(), &tpm));
}

#[test]
fn events_that_have_little_in_common_fill_a_batch_before_it_is_too_long_for_any_sink() {
    // `CIMA_PAYLOAD_MAX` of kmod-bridge/uapi/cima.h.
    const LONGEST: usize = (2 << 20) - 1;
    /// From here on a batch takes no more events.
    const FULL: usize = 1 << 20;
    const ARGS: usize = 64 << 10;
    let (dir, tpm, mut feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    let count = 3 * (FULL / ARGS) as u32;
    for argc in 0..count {
        let mut event = record(Kind::Exec, 1).unwrap();
        // All of it is in a table of the batch, and an event of its own has a few bytes.
        event.what = What::Exec(Shared::new(Command {
            args: vec![vec![b'a'; ARGS]],
            argc,
            truncated: false,
        }));
        feed.put(Ok(event));
    }
    let (mut ledger, _) = open(dir.path(), &tpm);
    drain(&mut ledger, &mut feed, (0, count.into()), 1).unwrap();
    let payloads: Vec<_> = list(dir.path())
        .iter()
        .filter_map(|entry| entry.fields().unwrap().payload.map(<[u8]>::to_vec))
        .collect();
    let batches = payloads.iter().filter_map(|payload| decode_batch(payload));
    let events: Vec<_> = batches.map(|batch| batch.events.len()).collect();
    assert_eq!(
        events.iter().sum::<usize>(),
        1 + count as usize,
        "{events:?}"
    );
    let longest = payloads.iter().map(Vec::len).max().unwrap();
    assert!((FULL..=LONGEST).contains(&longest), "{longest}");
    assert!(events.len() > 3, "{events:?}");
    assert!(replays(dir.path(), &tpm));
}

#[test]
fn of_an_old_queue_what_is_in_the_list_is_returned_and_not_written_again() {
    let (dir, tpm, mut feed) = (tempfile::tempdir().unwrap(), Tpm::new(), Fake::default());
    for _ in 0..3 {
        feed.put(record(Kind::Exec, 1));
    }
    let (mut ledger, _) = open(dir.path(), &tpm);
    let recent = drain(&mut ledger, &mut feed, (2, 3), 0).unwrap();
    assert_eq!(recent.len(), 3);
    let last = list(dir.path()).pop().unwrap();
    let batch = decode_batch(last.fields().unwrap().payload.unwrap()).unwrap();
    assert_eq!(batch.events.len(), 1, "the third");
}
