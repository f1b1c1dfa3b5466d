// SPDX-License-Identifier: Apache-2.0
//! Opening the list after whatever happened: a clean stop, a crash between any two
//! steps of a group, or somebody else's hand in list or PCR.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ima_log::{BinaryReader, Digest, Entry, ReadErrorKind, Replay};

use super::{
    AsciiList, Broken, Ledger, LedgerError, Origin, Progress, Store, Told, at,
    chain::matches,
    disk::Disk,
    intent::{FORMAT, Intent},
    line::Line,
    segment::{Segment, Written, segments},
    told::Note,
};
use crate::{
    containers::{Registered, Registry},
    measure::{Anchorage, batch_name, batch_number, proto},
    sink::Sink,
    verify::Start,
};

/// What was found when the list was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There was no list of this boot.
    New,
    /// The list fitted the PCR.
    Continued {
        /// Entries in it.
        entries: u64,
        /// Entries that a crash had left half written and that are now complete.
        completed: u64,
    },
    /// It did not; this is recorded and a new segment begun.
    Broken {
        /// What does not fit.
        detail: String,
    },
}

/// How the list on disk fits what the PCR holds.
enum Fit {
    New,
    Whole { completed: u64 },
    Broken(Broken),
}

/// What does not fit within the list itself.
#[derive(Default)]
struct Problem {
    detail: Option<String>,
    /// Whether the intent does not fit the segment it is for.
    intent: bool,
}

impl Problem {
    /// Keeps the first.
    fn found(&mut self, detail: impl Into<String>) {
        self.detail.get_or_insert(detail.into());
    }
}

pub(super) fn open(
    store: Store,
    state_dir: &Path,
    origin: Origin,
    mut sink: Box<dyn Sink>,
    pcr: u32,
) -> Result<(Ledger, Opened), LedgerError> {
    let dir = make_dirs(&store.disk, state_dir, &origin.boot_id)?;
    let held = sink.read()?;
    let numbers: Vec<u32> = segments(&dir)
        .map_err(at("list", &dir))?
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    let mut intent = Intent::open(&store.disk, &dir)?;
    drop_stale(&mut intent, &dir, &numbers)?;
    let begun = intent.place().map(|place| place.segment);
    let begun = begun.filter(|number| numbers.contains(number));
    let number = begun.or(numbers.last().copied()).unwrap_or(1);
    let segment = Segment::open(&store.disk, &dir, number)?;
    let ascii = store.ascii.as_deref().map(AsciiList::open).transpose()?;
    let banks: Vec<_> = held.iter().map(Digest::algorithm).collect();
    let mut ledger = Ledger {
        store,
        dir,
        origin,
        sink,
        pcr,
        segment,
        ascii,
        intent,
        replay: Replay::new(&banks),
        broken: None,
        told: Told::default(),
        registry: Registry::default(),
        entries: 0,
        stopped: true,
        begun: None,
        anew: false,
        progress: Progress::default(),
    };
    let fit = ledger.read_back(&numbers, &held)?;
    let opened = ledger.resume(fit, &held)?;
    for created in ledger.told.containers().values() {
        ledger.registry.insert(Registered::of(created));
    }
    Ok((ledger, opened))
}

/// What anchors the list of this boot, as far as there is one: what its last segment that says so began with.
///
/// # Errors
/// A segment cannot be read.
pub fn anchored_by(state_dir: &Path, boot_id: &str) -> Result<Option<Anchorage>, LedgerError> {
    let dir = state_dir.join("ledger").join(boot_id);
    if !dir.exists() {
        return Ok(None);
    }
    let numbers = segments(&dir).map_err(at("list", &dir))?;
    for (number, _) in numbers.into_iter().rev() {
        let written = Written::open(&dir, number)?;
        let len = written.len();
        let first = BinaryReader::new(written.reader(len), FORMAT).next();
        // What is torn is found when the list is opened.
        let start = first
            .and_then(Result::ok)
            .and_then(|(_, entry)| Start::of(&entry));
        if let Some(start) = start {
            return Ok(Some(start.anchorage));
        }
    }
    Ok(None)
}

/// The boot's directory. The names on the way to it must survive a power cut, too.
fn make_dirs(
    disk: &Arc<dyn Disk>,
    state_dir: &Path,
    boot_id: &str,
) -> Result<PathBuf, LedgerError> {
    let ledger = state_dir.join("ledger");
    let dir = ledger.join(boot_id);
    let fresh = !state_dir.exists();
    disk.make_dir(&dir).map_err(at("create", &dir))?;
    for dir in [&ledger, state_dir] {
        disk.sync_dir(dir).map_err(at("sync", dir))?;
    }
    if let Some(above) = state_dir.parent().filter(|_| fresh) {
        let above = if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        };
        disk.sync_dir(above).map_err(at("sync", above))?;
    }
    Ok(dir)
}

/// Clears an intent whose group is in the list with something behind it: after a power
/// cut the file may be as it was before it was emptied.
fn drop_stale(intent: &mut Intent, dir: &Path, numbers: &[u32]) -> Result<(), LedgerError> {
    let Some(place) = intent.place().filter(|p| numbers.contains(&p.segment)) else {
        return Ok(());
    };
    let whole = intent.bytes().len();
    let written = Written::open(dir, place.segment)?;
    let mut followed = written.len() > place.offset.saturating_add(whole as u64);
    for later in numbers.iter().filter(|number| **number > place.segment) {
        followed |= Written::open(dir, *later)?.len() > 0;
    }
    if followed && written.part_of(place.offset, intent.bytes())? == Some(whole) {
        intent.clear()?;
    }
    Ok(())
}

impl Ledger {
    /// Reads the segments, then finds how many entries of the intent the PCR holds.
    fn read_back(&mut self, numbers: &[u32], held: &[Digest]) -> Result<Fit, LedgerError> {
        let mut problem = Problem::default();
        for number in numbers {
            self.read_segment(*number, &mut problem)?;
        }
        let begun = self.intent.place().map(|place| place.segment);
        if let Some(missing) = begun.filter(|number| !numbers.contains(number)) {
            problem.found(format!("segment {missing} of its intent is not there"));
            problem.intent = true;
        }
        self.compare_anchors(&mut problem);
        if let Some(detail) = problem.detail {
            return Ok(Fit::Broken(Broken {
                held: held.to_vec(),
                detail,
                appendable: !problem.intent,
            }));
        }
        if self.entries == 0 && self.intent.is_empty() {
            return Ok(Fit::New);
        }
        self.fit(held)
    }

    /// Whether the list was begun with the sink that there is now, and whether the kernel's list has batches that this one does
    /// not have: then it lost its end, or all of it.
    fn compare_anchors(&mut self, problem: &mut Problem) {
        let now = self.sink.anchorage();
        let pending = self.intent.pending().iter().map(Line::entry);
        let begun = pending.clone().find_map(Start::of);
        let begun = begun.map(|start| start.anchorage).or(self.begun);
        if let Some(begun) = begun.filter(|begun| *begun != now) {
            problem.found(format!("sink={};list={}", now.name(), begun.name()));
            self.anew = true;
        }
        for entry in pending.clone().filter(|entry| entry.pcr != self.pcr) {
            problem.found(format!("pcr={};intent={}", self.pcr, entry.pcr));
        }
        let numbers = pending.filter_map(|entry| batch_number(entry.fields().ok()?.name));
        let next = numbers.map(|number| number + 1).max();
        let next = next.unwrap_or_default().max(self.told.next_batch());
        if let Some(last) = self.sink.last_batch().filter(|last| *last >= next) {
            problem.found(format!("host-list-has={}", batch_name(last)));
            self.told.skip_batches(last.saturating_add(1));
        }
        if self.anew {
            self.told.forget_values();
        }
    }

    /// Takes the entries of a segment, up to those that the intent has.
    fn read_segment(&mut self, number: u32, problem: &mut Problem) -> Result<(), LedgerError> {
        let written = Written::open(&self.dir, number)?;
        let place = self.intent.place().filter(|place| place.segment == number);
        let fits = match place {
            Some(place) => written
                .part_of(place.offset, self.intent.bytes())?
                .is_some(),
            None => true,
        };
        let end = place.map_or(written.len(), |place| place.offset.min(written.len()));
        let path = written.path().to_owned();
        for record in BinaryReader::new(written.reader(end), FORMAT) {
            match record.map_err(|error| (error.to_string(), error.kind)) {
                Ok((_, entry)) => self.reread(&entry, problem)?,
                Err((_, ReadErrorKind::Io(error))) => return Err(at("read", &path)(error)),
                Err((error, _)) => problem.found(format!("segment {number}: {error}")),
            }
        }
        let begins_anew = self.intent.next_line().and_then(begins).is_some();
        if place.is_some() && begins_anew {
            // The agent died while it recorded that very break.
            problem.detail = None;
        }
        if !fits {
            problem.found(format!("segment {number} does not end as its intent says"));
            problem.intent = true;
        }
        Ok(())
    }

    /// Takes an entry of the list.
    fn reread(&mut self, entry: &Entry, problem: &mut Problem) -> Result<(), LedgerError> {
        if let Some(ascii) = &mut self.ascii {
            ascii.put(entry)?;
        }
        let start = Start::of(entry);
        if let Some(start) = &start {
            self.begun = Some(start.anchorage);
        }
        let start = start.and_then(begins_segment);
        if let Some(start) = &start {
            self.replay = self.empty_replay(start);
        }
        self.replay.extend(entry);
        self.told.note(&Note::of(entry));
        self.entries += 1;
        if entry.pcr != self.pcr {
            problem.found(format!("pcr={};list={}", self.pcr, entry.pcr));
        } else if start.is_some() {
            // A break before this segment is on record in it.
            problem.detail = None;
        }
        if entry.pcr == self.pcr && self.sink.lists(entry) == Some(false) {
            problem.found(format!("host-list-lacks={}", entry.display_name()));
        }
        Ok(())
    }

    /// Replays with none, one, … all pending entries: exactly one fits, or none does.
    fn fit(&mut self, held: &[Digest]) -> Result<Fit, LedgerError> {
        let pending = self.intent.pending();
        let whole = Fit::Whole {
            completed: pending.len() as u64,
        };
        if held.is_empty() {
            // Nothing anchors the list: nothing to compare with, the group is completed.
            return Ok(whole);
        }
        if let Some(start) = pending.first().and_then(begins) {
            self.replay = self.empty_replay(&start);
        }
        let mut replay = self.replay.clone();
        let mut values = Vec::new();
        for line in self.intent.pending() {
            if matches(&replay, self.pcr, held) {
                break;
            }
            let of_line = line.values(replay.banks());
            replay.extend_values(line.entry().pcr, &of_line);
            values.push(of_line);
        }
        if matches(&replay, self.pcr, held) {
            self.show_pending(values.len())?;
            values.iter().for_each(|values| self.extended(values));
            return Ok(whole);
        }
        Ok(Fit::Broken(self.difference(held.to_vec())))
    }

    fn resume(&mut self, fit: Fit, held: &[Digest]) -> Result<Opened, LedgerError> {
        use proto::start::Reason;
        match fit {
            Fit::New => {
                self.begin(Reason::Boot, held)?;
                Ok(Opened::New)
            }
            Fit::Whole { completed } => {
                self.complete()?;
                self.stopped = self.told.stopped();
                let entries = self.entries;
                let held = self.sink.read()?;
                self.begin(Reason::Restart, &held)?;
                Ok(Opened::Continued { entries, completed })
            }
            Fit::Broken(broken) => {
                self.note_pending();
                self.stopped = self.told.stopped();
                let detail = broken.detail.clone();
                self.broken = Some(broken);
                self.complete()?;
                Ok(Opened::Broken { detail })
            }
        }
    }
}

fn begins(line: &Line) -> Option<Vec<Digest>> {
    segment_start(line.entry())
}

/// The PCR values that the chain starts from at `entry`, if it starts there.
fn segment_start(entry: &Entry) -> Option<Vec<Digest>> {
    begins_segment(Start::of(entry)?)
}

fn begins_segment(start: Start) -> Option<Vec<Digest>> {
    (start.reason != proto::start::Reason::Restart).then_some(start.values)
}
