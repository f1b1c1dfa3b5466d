// SPDX-License-Identifier: Apache-2.0
//! A disk and a TPM that stop, fail or forget at any step. The disk is real (without its
//! syncs) and besides a model of what a power cut leaves of it: of each file what was
//! synced, and what was written since; of each name whether its directory was synced.
//!
//! A sync that fails drops what was written, as Linux may: a later one succeeds, and only
//! what is written again is durable then.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use ima_log::{BinaryReader, Digest, Entry};
use rustix::io::Errno;

use crate::{
    ledger::{
        Ledger, LedgerError, Opened, Store,
        disk::{Disk, OsDisk},
        intent::{FORMAT, records},
        recovery,
        tests::fixture::{PCR, origin},
    },
    measure::PolicyEvent,
    sink::{Sink, SinkError},
};

/// Something that changes the disk or the TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    MakeDir,
    SyncDir,
    Open,
    Write(usize),
    SetLen,
    Sync,
    Rename,
    Extend,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    Nothing,
    /// At step `at` the process is gone; of a write, `part` bytes are done.
    Stop {
        at: usize,
        part: usize,
    },
    /// From step `at` on, the disk refuses `times` times; of a write, `part` bytes are done.
    Refuse {
        at: usize,
        times: usize,
        part: usize,
        errno: Errno,
    },
}

/// What a power cut leaves of bytes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Lost,
    /// The file has its length, but zeros.
    Zeros,
    /// The first half of them.
    Half,
    Kept,
}

impl Unsynced {
    pub(crate) const ALL: [Self; 4] = [Self::Lost, Self::Zeros, Self::Half, Self::Kept];
}

#[derive(Debug, Default)]
struct Modelled {
    durable: Vec<u8>,
    /// Written since, and not dropped by a sync that failed.
    dirty: Vec<Range<u64>>,
    /// Cut off since, to this length.
    cut: Option<u64>,
}

struct State {
    plan: Plan,
    dead: bool,
    steps: Vec<Step>,
    files: HashMap<u64, Modelled>,
    /// What each name stands for; a directory: 0.
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    extended: Vec<Entry>,
}

/// One life of an agent's disk and TPM.
#[derive(Clone)]
pub(crate) struct Rig {
    root: PathBuf,
    segment_bytes: u64,
    state: Arc<Mutex<State>>,
}

impl Rig {
    /// A rig on a directory; what is there is durable.
    pub(crate) fn new(root: &Path, plan: Plan) -> Self {
        let mut state = State {
            plan,
            dead: false,
            steps: Vec::new(),
            files: HashMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            extended: Vec::new(),
        };
        state.adopt(root);
        Self {
            root: root.to_owned(),
            segment_bytes: 1000,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Where the list is as ASCII: in memory that outlives the agent, and of which no step is counted.
    pub(crate) fn ascii(&self) -> PathBuf {
        self.root.join("ascii")
    }

    /// Opens the list on this disk, with `tpm` behind it.
    pub(crate) fn open(&self, tpm: impl Sink + 'static) -> Result<(Ledger, Opened), LedgerError> {
        let store = Store {
            disk: Arc::new(self.clone()),
            segment_bytes: self.segment_bytes,
            ascii: Some(self.ascii()),
        };
        let sink = RigSink {
            rig: self.clone(),
            tpm: Box::new(tpm),
        };
        recovery::open(store, &self.root, origin(), Box::new(sink), PCR)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap())
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.with(|state| state.steps.clone())
    }

    /// Entries that the TPM has taken.
    pub(crate) fn extended(&self) -> Vec<Entry> {
        self.with(|state| state.extended.clone())
    }

    /// Whether the plan's time has come.
    pub(crate) fn happened(&self) -> bool {
        self.with(|state| match state.plan {
            Plan::Nothing => false,
            Plan::Stop { at, .. } | Plan::Refuse { at, .. } => state.steps.len() > at,
        })
    }

    /// Whether the segments hold `entry` for good.
    pub(crate) fn listed_for_good(&self, entry: &Entry) -> bool {
        self.with(|state| state.is_listed_for_good(entry))
    }

    /// What a power cut now may leave, each way once.
    pub(crate) fn power_cuts(&self) -> BTreeSet<Cut> {
        let mut cuts = BTreeSet::new();
        for segments in Unsynced::ALL {
            for others in Unsynced::ALL {
                for names in [false, true] {
                    cuts.insert(self.with(|state| state.after_cut(segments, others, names)));
                }
            }
        }
        cuts
    }

    /// The power is cut: the directory is as it is found at the next boot.
    pub(crate) fn leave(&self, cut: &Cut) {
        fs::remove_dir_all(&self.root).unwrap();
        fs::create_dir(&self.root).unwrap();
        for dir in &cut.dirs {
            fs::create_dir_all(dir).unwrap();
        }
        for (path, content) in &cut.files {
            fs::write(path, content).unwrap();
        }
    }
}

/// What a power cut leaves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cut {
    dirs: Vec<PathBuf>,
    files: Vec<(PathBuf, Vec<u8>)>,
    /// Whether a file has its length and not its bytes.
    pub(crate) zeros: bool,
}

impl State {
    fn adopt(&mut self, dir: &Path) {
        for file in fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            let ino = if path.is_dir() {
                self.adopt(&path);
                0
            } else {
                let ino = fs::metadata(&path).unwrap().ino();
                let durable = fs::read(&path).unwrap();
                let modelled = Modelled {
                    durable,
                    ..Modelled::default()
                };
                self.files.insert(ino, modelled);
                ino
            };
            self.names.insert(path.clone(), ino);
            self.durable_names.insert(path, ino);
        }
    }

    /// The fate of the next step: `Ok(None)`: it goes well; `Ok(Some(n))`: a write does n
    /// bytes and then fails as the next call does.
    fn step(&mut self, step: Step) -> Result<Option<usize>, io::Error> {
        let gone = || io::Error::other("the process is gone");
        if self.dead {
            return Err(gone());
        }
        let now = self.steps.len();
        self.steps.push(step);
        match self.plan {
            Plan::Stop { at, part } if now == at => {
                self.dead = true;
                match step {
                    Step::Write(_) if part > 0 => Ok(Some(part)),
                    _ => Err(gone()),
                }
            }
            Plan::Refuse {
                at,
                times,
                part,
                errno,
            } => {
                // What is written of a write is a step of its own.
                let first = at + usize::from(part > 0);
                match step {
                    Step::Write(_) if part > 0 && now == at => Ok(Some(part)),
                    _ if (first..first + times).contains(&now) => Err(errno.into()),
                    _ => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    /// The names that lead from the root to something durable.
    fn reachable(&self, path: &Path) -> bool {
        path.ancestors()
            .skip(1)
            .all(|above| !self.names.contains_key(above) || self.durable_names.contains_key(above))
    }

    fn durable_files(&self) -> impl Iterator<Item = (&PathBuf, &Vec<u8>)> {
        self.durable_names
            .iter()
            .filter(|(path, ino)| **ino != 0 && self.reachable(path))
            .map(|(path, ino)| (path, &self.files[ino].durable))
    }

    fn is_listed_for_good(&self, entry: &Entry) -> bool {
        let record = entry.to_binary();
        self.durable_files()
            .filter(|(path, _)| is_segment(path))
            .any(|(_, durable)| durable.windows(record.len()).any(|bytes| bytes == record))
    }

    /// Before an extend: the entry that is extended must survive a power cut.
    fn durable(&self, values: &[Digest]) -> Option<Entry> {
        self.durable_files()
            .flat_map(|(path, durable)| match path {
                path if path.ends_with("intent") => records(durable),
                path if is_segment(path) => BinaryReader::new(durable.as_slice(), FORMAT)
                    .map_while(|record| Some(record.ok()?.1))
                    .collect(),
                _ => Vec::new(),
            })
            .find(|entry| {
                let of_entry = |value: &Digest| entry.extend_value(value.algorithm()) == *value;
                values.iter().all(of_entry)
            })
    }

    fn sync(&mut self, file: &File) {
        let metadata = file.metadata().unwrap();
        let modelled = self.files.entry(metadata.ino()).or_default();
        if let Some(cut) = modelled.cut.take() {
            modelled.durable.truncate(usize::try_from(cut).unwrap());
        }
        let len = usize::try_from(metadata.len()).unwrap();
        modelled.durable.resize(len, 0);
        for range in modelled.dirty.drain(..) {
            let place = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            file.read_exact_at(&mut modelled.durable[place], range.start)
                .unwrap();
        }
    }

    fn after_cut(&self, segments: Unsynced, others: Unsynced, names: bool) -> Cut {
        let kept = if names {
            &self.names
        } else {
            &self.durable_names
        };
        let (mut dirs, mut files, mut zeros) = (Vec::new(), Vec::new(), false);
        for (path, ino) in kept
            .iter()
            .filter(|(path, _)| names || self.reachable(path))
        {
            if *ino == 0 {
                dirs.push(path.clone());
                continue;
            }
            let unsynced = if is_segment(path) { segments } else { others };
            let current = self.names.iter().find(|(_, other)| *other == ino);
            let current = current.map_or_else(Vec::new, |(path, _)| fs::read(path).unwrap());
            let content = self.files[ino].after_cut(&current, unsynced);
            zeros |= unsynced == Unsynced::Zeros && content != current;
            files.push((path.clone(), content));
        }
        Cut { dirs, files, zeros }
    }
}

impl Modelled {
    fn after_cut(&self, current: &[u8], unsynced: Unsynced) -> Vec<u8> {
        let mut content = self.durable.clone();
        if unsynced == Unsynced::Lost {
            return content;
        }
        if let Some(cut) = self.cut {
            content.truncate(usize::try_from(cut).unwrap());
        }
        let new = current.get(content.len()..).unwrap_or_default();
        match unsynced {
            Unsynced::Lost => {}
            Unsynced::Zeros => content.resize(content.len() + new.len(), 0),
            Unsynced::Half => content.extend_from_slice(&new[..new.len() / 2]),
            Unsynced::Kept => content.extend_from_slice(new),
        }
        content
    }
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix == "ima")
}

impl Disk for Rig {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            state.step(Step::MakeDir)?;
            OsDisk.make_dir(path)?;
            for dir in path.ancestors().take_while(|dir| *dir != self.root) {
                state.names.insert(dir.to_owned(), 0);
            }
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            state.step(Step::SyncDir)?;
            state
                .durable_names
                .retain(|name, _| name.parent() != Some(path));
            let inside = state.names.iter();
            let inside = inside.filter(|(name, _)| name.parent() == Some(path));
            let inside: Vec<_> = inside.map(|(name, ino)| (name.clone(), *ino)).collect();
            state.durable_names.extend(inside);
            Ok(())
        })
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.with(|state| {
            state.step(Step::Open)?;
            let file = OsDisk.open(path)?;
            let ino = file.metadata()?.ino();
            state.files.entry(ino).or_default();
            state.names.insert(path.to_owned(), ino);
            Ok(file)
        })
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.with(|state| {
            let part = state.step(Step::Write(bytes.len()))?;
            let bytes = &bytes[..part.unwrap_or(bytes.len())];
            file.write_all_at(bytes, offset)?;
            let modelled = state.files.entry(file.metadata()?.ino()).or_default();
            modelled.dirty.push(offset..offset + bytes.len() as u64);
            Ok(bytes.len())
        })
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.step(Step::SetLen)?;
            let ino = file.metadata()?.ino();
            let path = state.names.iter().find(|(_, other)| **other == ino);
            if path.is_some_and(|(path, _)| path.ends_with("intent")) {
                for entry in records(&fs::read(path.unwrap().0)?) {
                    let listed = state.is_listed_for_good(&entry);
                    assert!(listed, "the intent is cleared: {}", entry.display_name());
                }
            }
            let modelled = state.files.entry(ino).or_default();
            modelled.cut = Some(modelled.cut.map_or(len, |cut| cut.min(len)));
            modelled.dirty.retain(|range| range.start < len);
            for range in &mut modelled.dirty {
                range.end = range.end.min(len);
            }
            file.set_len(len)
        })
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.with(|state| {
            if let Err(error) = state.step(Step::Sync) {
                if !state.dead {
                    let ino = file.metadata()?.ino();
                    state.files.entry(ino).or_default().dirty.clear();
                }
                return Err(error);
            }
            state.sync(file);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|state| {
            state.step(Step::Rename)?;
            OsDisk.rename(from, to)?;
            let ino = state.names.remove(from).unwrap();
            state.names.insert(to.to_owned(), ino);
            Ok(())
        })
    }
}

/// The TPM behind the same steps.
struct RigSink {
    rig: Rig,
    tpm: Box<dyn Sink>,
}

impl RigSink {
    fn alive(&self) -> Result<(), SinkError> {
        let dead = self.rig.with(|state| state.dead);
        (!dead).then_some(()).ok_or(SinkError::NoBank(PCR))
    }
}

impl Sink for RigSink {
    fn pcr(&self) -> Option<u32> {
        self.tpm.pcr()
    }

    fn read(&mut self) -> Result<Vec<Digest>, SinkError> {
        self.alive()?;
        self.tpm.read()
    }

    fn lists(&mut self, entry: &Entry) -> Option<bool> {
        self.tpm.lists(entry)
    }

    fn last_batch(&self) -> Option<u64> {
        self.tpm.last_batch()
    }

    fn heard(&mut self) -> Vec<PolicyEvent> {
        self.tpm.heard()
    }

    fn extend(&mut self, entry: &Entry, values: &[Digest]) -> Result<(), SinkError> {
        // Only the disk refuses; the TPM's own failures are its own.
        let stopped = self.rig.with(|state| match state.plan {
            Plan::Refuse { .. } => false,
            _ => state.step(Step::Extend).is_err(),
        });
        if stopped {
            return Err(SinkError::NoBank(PCR));
        }
        let durable = self.rig.with(|state| state.durable(values));
        let durable = durable.expect("what is extended is on the disk before");
        self.tpm.extend(entry, values)?;
        self.rig.with(|state| state.extended.push(durable));
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), SinkError> {
        self.alive()?;
        self.tpm.reopen()
    }
}
