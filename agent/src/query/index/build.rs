// SPDX-License-Identifier: Apache-2.0
//! Lists into rows: one thread for each list takes its entries apart, one puts the rows into the tables.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use ima_log::Entry;
use rusqlite::{Connection, Statement, params};
use sha2::{Digest as _, Sha256};

use super::{
    IndexError,
    containers::Containers,
    schema::{event_id, place},
};
use crate::query::{
    Kind, List,
    fact::{Fact, Home, News, facts},
    records::{At, Records, RecordsError},
};

/// Rows that are handed over at once.
const CHUNK: usize = 4096;
/// Rows of a zone.
const ZONE: i64 = 4096;
/// Chunks that wait for the tables, at most.
const WAITING: usize = 8;
/// Sightings that are held before they are written.
const SIGHTINGS: usize = 1 << 20;

/// A list, and how far it is read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Progress {
    pub(super) id: i64,
    pub(super) list: List,
    /// Where reading goes on.
    pub(super) at: At,
    pub(super) rows: i64,
    pub(super) boot: Option<String>,
    pub(super) clock: Option<i64>,
    /// The last entry: where, and its template hash.
    pub(super) last: Option<(i64, Vec<u8>)>,
    /// When the last event was, microseconds since 1970.
    pub(super) ends: Option<i64>,
    pub(super) damage: Option<String>,
    /// Whether the damage may pass: the list just ends within an entry.
    pub(super) torn: bool,
}

/// 16 bytes of a hash over path and digest.
pub(super) type Key = [u8; 16];

/// One fact, as it goes from one thread to the other.
pub(super) struct Row {
    pub(super) at: i64,
    pub(super) entry: u64,
    pub(super) nth: Option<u32>,
    pub(super) time_ns: Option<u64>,
    pub(super) kind: Kind,
    pub(super) home: Home,
    pub(super) hint: String,
    pub(super) key: Option<Key>,
    pub(super) uid: Option<u32>,
    pub(super) login_uid: Option<u32>,
    pub(super) pid: Option<u32>,
    pub(super) violation: bool,
    pub(super) news: News,
}

/// A file that the reading thread has not seen before.
struct NewFile {
    key: Key,
    path: Vec<u8>,
    digest: Option<String>,
}

/// What a reading thread hands over.
enum Load {
    Rows {
        list: usize,
        rows: Vec<Row>,
        files: Vec<NewFile>,
    },
    /// The list is at its end.
    End {
        list: usize,
        progress: Box<Progress>,
    },
}

/// Reads every list on, and puts what is new into the tables; says how many entries that were. `told` hears of them.
pub(super) fn build(
    connection: &Connection,
    lists: Vec<Progress>,
    fresh: bool,
    told: &mut dyn FnMut(u64),
) -> Result<u64, IndexError> {
    let (sender, receiver) = sync_channel(WAITING);
    let readers = thread::available_parallelism().map_or(1, |cpus| cpus.get().saturating_sub(1));
    let readers = readers.clamp(1, 8).min(lists.len().max(1));
    let mut states = Vec::new();
    for list in &lists {
        states.push(State::load(connection, list.id)?);
    }
    let work = Mutex::new(lists.into_iter().enumerate());
    thread::scope(|scope| {
        for _ in 0..readers {
            let (sender, work) = (sender.clone(), &work);
            let read = move || {
                loop {
                    // The lock is not held by who panicked: nothing is done under it.
                    let next = work.lock().ok().and_then(|mut work| work.next());
                    let Some((index, progress)) = next else {
                        return;
                    };
                    if Reading::new(index, progress, &sender).run().is_none() {
                        return;
                    }
                }
            };
            let reader = thread::Builder::new().name("read".to_owned());
            reader
                .spawn_scoped(scope, read)
                .map_err(IndexError::Thread)?;
        }
        drop(sender);
        let mut tables = Tables::new(connection, fresh)?;
        tables.fill(receiver, &mut states, told)
    })
}

/// One list as it is read.
struct Reading<'a> {
    list: usize,
    progress: Progress,
    sender: &'a SyncSender<Load>,
    rows: Vec<Row>,
    files: Vec<NewFile>,
    seen: HashMap<Key, (), BuildHasherDefault<OfKey>>,
}

/// A writer that is gone has had an error of its own to say.
struct Gone;

impl<'a> Reading<'a> {
    fn new(list: usize, progress: Progress, sender: &'a SyncSender<Load>) -> Self {
        Self {
            list,
            progress,
            sender,
            rows: Vec::with_capacity(CHUNK),
            files: Vec::new(),
            seen: HashMap::default(),
        }
    }

    /// `None`: there is nobody to read for.
    fn run(mut self) -> Option<()> {
        match Records::new(&self.progress.list, self.progress.at) {
            Ok(records) => self.read(records).ok()?,
            Err(error) => self.damaged(&error),
        }
        self.flush().ok()?;
        let end = Load::End {
            list: self.list,
            progress: Box::new(self.progress),
        };
        self.sender.send(end).ok()
    }

    fn read(&mut self, mut records: Records) -> Result<(), Gone> {
        let mut entry = Entry::default();
        if self.progress.torn {
            self.progress.damage = None;
            self.progress.torn = false;
        }
        while let Some(read) = records.read(&mut entry) {
            match read {
                Ok(at) => {
                    // Something is behind it: it will not be made whole any more.
                    self.progress.torn = false;
                    let at_place = place(at.segment, at.offset);
                    facts(&entry, &mut |fact| self.take(at_place, at.entry, fact));
                    let hash = entry.template_hash.bytes();
                    match &mut self.progress.last {
                        Some((last, bytes)) if bytes.len() == hash.len() => {
                            *last = at_place;
                            bytes.copy_from_slice(hash);
                        }
                        last => *last = Some((at_place, hash.to_vec())),
                    }
                    if self.rows.len() >= CHUNK {
                        self.flush()?;
                    }
                }
                Err(error) => self.damaged(&error),
            }
            self.progress.at = records.at();
        }
        Ok(())
    }

    /// The first damage is what is said.
    fn damaged(&mut self, error: &RecordsError) {
        if self.progress.damage.is_none() {
            self.progress.torn = matches!(error, RecordsError::Bad { torn: true, .. });
            self.progress.damage = Some(error.to_string());
        }
    }

    fn take(&mut self, at: i64, entry: u64, fact: Fact<'_>) {
        let has_file = !fact.path.is_empty() || fact.digest.is_some();
        let key = has_file.then(|| {
            let key = key_of(&fact);
            if self.seen.insert(key, ()).is_none() {
                self.files.push(NewFile {
                    key,
                    path: fact.path.to_vec(),
                    digest: fact.digest.map(|digest| digest.to_string()),
                });
            }
            key
        });
        self.rows.push(Row {
            at,
            entry,
            nth: fact.nth,
            time_ns: fact.time_ns,
            kind: fact.kind,
            home: fact.home,
            hint: fact.hint,
            key,
            uid: fact.uid,
            login_uid: fact.login_uid,
            pid: fact.pid,
            violation: fact.violation,
            news: fact.news,
        });
    }

    fn flush(&mut self) -> Result<(), Gone> {
        let load = Load::Rows {
            list: self.list,
            rows: std::mem::replace(&mut self.rows, Vec::with_capacity(CHUNK)),
            files: std::mem::take(&mut self.files),
        };
        self.sender.send(load).map_err(|_| Gone)
    }
}

/// Of path and digest: no two files that anybody can make have the same.
fn key_of(fact: &Fact<'_>) -> Key {
    let mut hash = Sha256::new();
    hash.update((fact.path.len() as u64).to_le_bytes());
    hash.update(&fact.path);
    if let Some(digest) = &fact.digest {
        hash.update(digest.algorithm().name());
        hash.update(digest.bytes());
    }
    let hash: [u8; 32] = hash.finalize().into();
    let mut key = Key::default();
    key.copy_from_slice(&hash[..16]);
    key
}

/// Numbers of the index, which nobody chooses.
#[derive(Default)]
struct OfNumbers(u64);

impl Hasher for OfNumbers {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_i64((*byte).into()));
    }

    fn write_i64(&mut self, number: i64) {
        // The golden ratio, as in Fibonacci hashing.
        self.0 =
            (self.0.rotate_left(5) ^ number.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A key is a hash already.
#[derive(Default)]
struct OfKey(u64);

impl Hasher for OfKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for (own, byte) in bytes.iter().take(8).enumerate() {
            self.0 ^= u64::from(*byte) << (8 * own);
        }
    }

    // The length that is written before an array's bytes says nothing.
    fn write_usize(&mut self, _: usize) {}
}

/// What of a list is needed to make rows of its facts.
struct State {
    id: i64,
    rows: i64,
    clock: Option<i64>,
    containers: Containers,
    zone: Zone,
    /// Microseconds since boot of the last event.
    time: Option<i64>,
    ends: Option<i64>,
}

#[derive(Default)]
struct Zone {
    rows: i64,
    earliest: Option<i64>,
    latest: Option<i64>,
}

impl State {
    fn load(connection: &Connection, id: i64) -> Result<Self, IndexError> {
        let (rows, clock, ends): (i64, Option<i64>, Option<i64>) = connection
            .prepare_cached("SELECT rows, clock, ends FROM list WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok(Self {
            id,
            rows,
            clock,
            containers: Containers::load(connection, id)?,
            zone: Zone::default(),
            time: ends.and_then(|ends| ends.checked_sub(clock.unwrap_or(0) / 1000)),
            ends,
        })
    }
}

type Files = HashMap<Key, i64, BuildHasherDefault<OfKey>>;

/// What writes.
struct Tables<'a> {
    connection: &'a Connection,
    /// Whether the tables were empty: then no file can be there that is not in `files`.
    fresh: bool,
    event: Statement<'a>,
    file: Statement<'a>,
    files: Files,
    /// By container and file: the first event, the last, executions.
    sightings: HashMap<(i64, i64), (i64, i64, i64), BuildHasherDefault<OfNumbers>>,
    entries: u64,
}

impl<'a> Tables<'a> {
    fn new(connection: &'a Connection, fresh: bool) -> Result<Self, IndexError> {
        Ok(Self {
            connection,
            fresh,
            event: connection
                .prepare("INSERT INTO event VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)")?,
            file: connection.prepare("INSERT INTO file (key, path, digest) VALUES (?1,?2,?3)")?,
            files: Files::default(),
            sightings: HashMap::default(),
            entries: 0,
        })
    }

    fn fill(
        &mut self,
        receiver: Receiver<Load>,
        states: &mut [State],
        told: &mut dyn FnMut(u64),
    ) -> Result<u64, IndexError> {
        for load in receiver {
            match load {
                Load::Rows { list, rows, files } => {
                    for file in files {
                        self.take_file(file)?;
                    }
                    let mut last = None;
                    for row in rows {
                        if last.replace(row.entry) != Some(row.entry) {
                            self.entries += 1;
                        }
                        self.take(&mut states[list], &row)?;
                    }
                    told(self.entries);
                }
                Load::End { list, progress } => {
                    self.flush_sightings()?;
                    self.end(&mut states[list], *progress)?;
                }
            }
        }
        self.flush_sightings()?;
        Ok(self.entries)
    }

    fn take_file(&mut self, file: NewFile) -> Result<(), IndexError> {
        if self.files.contains_key(&file.key) {
            return Ok(());
        }
        let NewFile { key, path, digest } = file;
        let mut first = [0; 8];
        first.copy_from_slice(&key[..8]);
        let short = i64::from_le_bytes(first);
        let known = match self.fresh {
            true => None,
            false => self.known_file(short, &path, digest.as_deref())?,
        };
        let id = match known {
            Some(id) => id,
            None => self.file.insert(params![short, path, digest])?,
        };
        self.files.insert(key, id);
        Ok(())
    }

    fn known_file(
        &self,
        key: i64,
        path: &[u8],
        digest: Option<&str>,
    ) -> Result<Option<i64>, IndexError> {
        let sql = "SELECT id FROM file WHERE key = ?1 AND path = ?2 AND digest IS ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![key, path, digest])?;
        Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
    }

    fn take(&mut self, state: &mut State, row: &Row) -> Result<(), IndexError> {
        let id = event_id(state.id, state.rows);
        state.rows += 1;
        if let News::Start(start) = &row.news {
            self.start(state, id, start.realtime_offset_ns)?;
        }
        if let Some(ns) = row.time_ns {
            state.time = i64::try_from(ns / 1000).ok();
        }
        // An entry as a whole has none of its own.
        let time_us = state.time;
        let wall = time_us.and_then(|us| us.checked_add(state.clock.unwrap_or(0) / 1000));
        let file = row.key.and_then(|key| self.files.get(&key).copied());
        let container = state
            .containers
            .take(self.connection, state.id, id, wall, row)?;
        self.event.execute(params![
            id,
            row.at,
            row.entry.cast_signed(),
            row.nth,
            time_us,
            row.kind.code(),
            container,
            file,
            row.uid,
            row.login_uid,
            row.pid,
            row.violation.then_some(1),
        ])?;
        if let (Some(file), Some(container)) = (file, container) {
            let executed = row.kind.is_execution() || row.kind == Kind::Measured;
            let sighting = self.sightings.entry((container, file));
            let (_, last, count) = sighting.or_insert((id, id, 0));
            (*last, *count) = (id, *count + i64::from(executed));
            if self.sightings.len() >= SIGHTINGS {
                self.flush_sightings()?;
            }
        }
        self.zone(state, id, wall)
    }

    fn start(&self, state: &mut State, id: i64, offset_ns: i64) -> Result<(), IndexError> {
        state.clock = Some(offset_ns);
        self.connection
            .prepare_cached("INSERT INTO clock VALUES (?1, ?2, ?3)")?
            .execute([state.id, id, offset_ns])?;
        Ok(())
    }

    fn zone(&self, state: &mut State, id: i64, wall: Option<i64>) -> Result<(), IndexError> {
        let zone = &mut state.zone;
        zone.rows += 1;
        if let Some(wall) = wall {
            zone.earliest = Some(zone.earliest.map_or(wall, |own| own.min(wall)));
            zone.latest = Some(zone.latest.map_or(wall, |own| own.max(wall)));
            state.ends = Some(wall);
        }
        if zone.rows == ZONE {
            self.end_zone(state, id)?;
        }
        Ok(())
    }

    fn end_zone(&self, state: &mut State, last: i64) -> Result<(), IndexError> {
        let zone = std::mem::take(&mut state.zone);
        self.connection
            .prepare_cached("INSERT INTO zone VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                last + 1 - zone.rows,
                last,
                zone.earliest,
                zone.latest
            ])?;
        Ok(())
    }

    fn end(&mut self, state: &mut State, progress: Progress) -> Result<(), IndexError> {
        if state.zone.rows > 0 {
            self.end_zone(state, event_id(state.id, state.rows - 1))?;
        }
        state.containers.flush(self.connection)?;
        let boot = progress.boot.or_else(|| state.containers.boot.take());
        let (last_place, last_hash) = progress.last.unzip();
        self.connection
            .prepare_cached(
                "UPDATE list SET boot=?2, segment=?3, offset=?4, entries=?5, rows=?6, last_place=?7, last_hash=?8, clock=?9, \
                 ends=?10, damage=?11, torn=?12 WHERE id=?1",
            )?
            .execute(params![
                state.id,
                boot,
                progress.at.segment,
                progress.at.offset.cast_signed(),
                progress.at.entry.cast_signed(),
                state.rows,
                last_place,
                last_hash,
                state.clock,
                state.ends,
                progress.damage,
                progress.torn,
            ])?;
        Ok(())
    }

    /// In the order of the table, which is then filled from its beginning to its end.
    fn flush_sightings(&mut self) -> Result<(), IndexError> {
        let mut sightings: Vec<_> = self.sightings.drain().collect();
        sightings.sort_unstable_by_key(|(key, _)| *key);
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO sighting VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET \
             last = excluded.last, count = count + excluded.count",
        )?;
        for ((container, file), (first, last, count)) in sightings {
            insert.execute([container, file, first, last, count])?;
        }
        Ok(())
    }
}
