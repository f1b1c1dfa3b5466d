// SPDX-License-Identifier: Apache-2.0
//! A PCR in memory, and what most tests say and look at.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use ima_log::{BinaryReader, Digest, Entry, HashAlgorithm};

use crate::{
    ledger::{Ledger, Opened, Origin, intent::FORMAT, segments},
    measure::{Batch, ContextEvent, PolicyEvent, proto},
    sink::{PcrSink, Sink, SinkError},
    verify::{Anchor, Judge, Judgement, Place},
};

pub(crate) const PCR: u32 = 13;
pub(crate) const BANKS: [HashAlgorithm; 2] = [HashAlgorithm::Sha1, HashAlgorithm::Sha256];

/// A TPM that lives as long as the test, whatever happens to the agent.
#[derive(Clone)]
pub(crate) struct Tpm(Arc<Mutex<State>>);

pub(crate) struct State {
    pub(crate) values: Vec<Digest>,
    /// Takes the place of `values`: a TPM that is one.
    pub(crate) real: Option<PcrSink>,
    /// Commands until the next failure; `None`: never.
    pub(crate) fails_after: Option<u32>,
    /// Whether every command fails.
    pub(crate) gone: bool,
    /// Whether extends wait for better times.
    pub(crate) hangs: bool,
    /// Whether the failing extend is carried out before the answer is lost.
    pub(crate) extends_anyway: bool,
    /// What the kernel listed, and nobody asked for.
    pub(crate) heard: Vec<PolicyEvent>,
}

impl Tpm {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State::new())))
    }

    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    /// What `real` holds and does, with the failures of this one.
    pub(crate) fn on(real: PcrSink) -> Self {
        let tpm = Self::new();
        tpm.with(|state| state.real = Some(real));
        tpm
    }

    pub(crate) fn values(&self) -> Vec<Digest> {
        self.with(|state| match &mut state.real {
            Some(real) => real.read().unwrap(),
            None => state.values.clone(),
        })
    }

    pub(crate) fn fail_after(&self, extends: u32, extends_anyway: bool) {
        self.with(|state| {
            state.fails_after = Some(extends);
            state.extends_anyway = extends_anyway;
        });
    }

    /// Somebody else's extend.
    pub(crate) fn foreign(&self) {
        let entry = Entry::ima_buf(PCR, HashAlgorithm::Sha256, "foreign", b"").unwrap();
        self.with(|state| state.extend(&entry, &values_of(&entry)));
    }

    /// The TPM is reset, alone.
    pub(crate) fn reset(&self) {
        self.with(|state| state.values = Self::new().values());
    }
}

impl State {
    fn new() -> Self {
        Self {
            values: BANKS.iter().map(|bank| Digest::zeros(*bank)).collect(),
            real: None,
            fails_after: None,
            gone: false,
            hangs: false,
            extends_anyway: false,
            heard: Vec::new(),
        }
    }

    pub(crate) fn extend(&mut self, entry: &Entry, values: &[Digest]) {
        if let Some(real) = &mut self.real {
            return real.extend(entry, values).unwrap();
        }
        for held in &mut self.values {
            let mut of_bank = values.iter().filter(|v| v.algorithm() == held.algorithm());
            *held = held.extended(of_bank.next().expect("a value for each bank"));
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

    fn lists(&mut self, _: &Entry) -> Option<bool> {
        None
    }

    fn last_batch(&self) -> Option<u64> {
        None
    }

    fn heard(&mut self) -> Vec<PolicyEvent> {
        self.with(|state| std::mem::take(&mut state.heard))
    }

    fn extend(&mut self, entry: &Entry, values: &[Digest]) -> Result<(), SinkError> {
        while self.with(|state| state.hangs) {
            thread::sleep(Duration::from_millis(5));
        }
        self.with(|state| {
            if state.gone {
                return Err(SinkError::NoBank(PCR));
            }
            if state.fails_after == Some(0) {
                if state.extends_anyway {
                    state.extend(entry, values);
                }
                state.fails_after = None;
                return Err(SinkError::NoBank(PCR));
            }
            state.fails_after = state.fails_after.map(|n| n - 1);
            state.extend(entry, values);
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

/// What a bank of any kind is extended with for an entry.
fn values_of(entry: &Entry) -> Vec<Digest> {
    HashAlgorithm::ALL
        .map(|bank| entry.extend_value(bank))
        .to_vec()
}

pub(crate) fn origin() -> Origin {
    Origin {
        boot_id: "boot".into(),
        kernel_release: "6.1".into(),
        realtime_offset_ns: 0,
        now_ns: 1,
    }
}

pub(crate) fn open(dir: &Path, tpm: &Tpm) -> (Ledger, Opened) {
    Ledger::open(dir, origin(), Box::new(tpm.clone()), PCR, None).unwrap()
}

pub(crate) fn event(n: u32) -> PolicyEvent {
    PolicyEvent::exec(
        &crate::containers::Provenance::Unregistered,
        format!("/bin/{n}").as_bytes(),
        &HashAlgorithm::Sha256.digest(&n.to_le_bytes()),
    )
}

pub(crate) fn batch() -> Batch {
    let mut batch = Batch::new();
    batch.push(ContextEvent::of_agent(
        1,
        proto::context_event::What::Stop(proto::Stop {}),
    ));
    batch
}

pub(crate) fn segment(dir: &Path, number: u32) -> PathBuf {
    dir.join("ledger/boot").join(format!("{number:08}.ima"))
}

/// Every entry of the list, in order.
pub(crate) fn list(dir: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (_, path) in segments(&dir.join("ledger/boot")).unwrap() {
        let bytes = fs::read(path).unwrap();
        entries.extend(BinaryReader::new(bytes.as_slice(), FORMAT).map(|record| record.unwrap().1));
    }
    entries
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    list(dir).iter().map(Entry::display_name).collect()
}

/// Whether the whole list, from zero, gives the TPM's values.
pub(crate) fn replays(dir: &Path, tpm: &Tpm) -> bool {
    let mut state = State::new();
    for entry in list(dir) {
        state.extend(&entry, &values_of(&entry));
    }
    state.values == tpm.values()
}

/// Memory that looks like a disk, where there is some: the tests sync by the thousand.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// What `cima verify` says of the list of `boot`, whose PCR is the one in `tpm`.
pub(crate) fn judged(entries: &[Entry], tpm: &Tpm) -> Judgement {
    let values = tpm.values().into_iter().map(|value| (PCR, value)).collect();
    let mut judge = Judge::new(Anchor::Exactly(values))
        .trusting_start(true)
        .of_ledger(true);
    for (index, entry) in (0..).zip(entries) {
        let place = Place {
            index,
            offset: 0,
            segment: None,
        };
        judge.push(place, entry);
    }
    judge.finish(entries.len() as u64)
}
