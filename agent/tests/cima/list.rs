// SPDX-License-Identifier: Apache-2.0
//! Lists as the agent writes them, and lists of kernels from ima-log's vectors.

use std::fs;

use cima_agent::containers::Provenance;
use cima_agent::measure::{PAYLOAD_PREFIX, PolicyEvent, Violation, batch_name, proto};
use ima_log::{BinaryReader, Digest, Entry, HashAlgorithm, Replay};
use prost::Message as _;
use proto::{context_event::What, start::Reason};

pub(crate) const BOOT: &str = "8c2d2a94-3f0e-4a0b-9d6e-0a3f5ad0c1d2";
pub(crate) const PCR: u32 = 13;
pub(crate) const NOBODY: Provenance = Provenance::Unregistered;
/// With a byte that a terminal would not show.
pub(crate) const PROGRAM: &[u8] = b"/usr/bin/a b\xff";
pub(crate) const BANKS: [HashAlgorithm; 2] = [HashAlgorithm::Sha1, HashAlgorithm::Sha256];

/// A list that grows as the agent's does, with the PCR beside it.
pub(crate) struct List {
    pub(crate) entries: Vec<Entry>,
    pcr: Option<u32>,
    boot: String,
    replay: Replay,
    next_batch: u64,
    /// Whether its Start events say what the PCR held.
    recording: bool,
    /// What its Start events say anchors it.
    sink: &'static str,
}

impl List {
    /// The list of a boot: its Start event is there.
    pub(crate) fn new() -> Self {
        let mut list = Self::without_start(Some(PCR));
        list.start(Reason::Boot);
        list
    }

    pub(crate) fn without_start(pcr: Option<u32>) -> Self {
        Self {
            entries: Vec::new(),
            pcr,
            boot: BOOT.to_owned(),
            replay: Replay::new(&BANKS),
            next_batch: 0,
            recording: pcr.is_some(),
            sink: "",
        }
    }

    pub(crate) fn of_boot(mut self, boot: &str) -> Self {
        boot.clone_into(&mut self.boot);
        self
    }

    /// The PCR holds these values already.
    pub(crate) fn starting_from(mut self, values: &[Digest]) -> Self {
        for value in values {
            self.replay = self.replay.with_start(PCR, *value);
        }
        self
    }

    /// The ledger of a sink that puts its entries into the host's list: what PCR 10 holds is the kernel's affair.
    pub(crate) fn in_host(sink: &'static str, boot: &str) -> Self {
        let mut list = Self {
            recording: false,
            sink,
            ..Self::without_start(Some(10)).of_boot(boot)
        };
        list.start(Reason::Boot);
        list
    }

    /// A list with something of every kind: 9 entries, batches 0 to 3.
    pub(crate) fn good() -> Self {
        Self::new().filled()
    }

    /// With what [`List::good`] has.
    pub(crate) fn filled(mut self) -> Self {
        let list = &mut self;
        let digest = HashAlgorithm::Sha256.digest(b"a program");
        list.policy_event(&PolicyEvent::agent(
            cima_agent::measure::SelfPart::Binary,
            &digest,
        ));
        list.policy_event(&PolicyEvent::exec(&NOBODY, PROGRAM, &digest));
        list.mapping();
        list.policy_event(&PolicyEvent::exec(&NOBODY, b"/usr/bin/c", &digest));
        list.policy_event(&PolicyEvent::violation(
            Violation::Hash,
            &NOBODY,
            b"/usr/bin/d",
            "errno=13",
        ));
        list.start(Reason::Restart);
        list.policy_event(&PolicyEvent::exec(&NOBODY, b"/usr/bin/e", &digest));
        list.batch(vec![event(What::Stop(proto::Stop {}))]);
        self
    }

    /// With so many batches at its end that it must have whatever a host's list has before them.
    pub(crate) fn rested(mut self) -> Self {
        for _ in 0..3 {
            self.batch(vec![event(What::Stop(proto::Stop {}))]);
        }
        self
    }

    pub(crate) fn start(&mut self, reason: Reason) {
        let start = proto::Start {
            boot_id: self.boot.clone(),
            agent_version: "0.1.0".into(),
            kernel_release: "6.12.0".into(),
            pcr: self.pcr,
            banks: match self.recording {
                true => self.values().iter().map(bank).collect(),
                false => Vec::new(),
            },
            realtime_offset_ns: 1,
            reason: reason.into(),
            sink: self.sink.to_owned(),
        };
        self.batch(vec![event(What::Start(start))]);
    }

    pub(crate) fn batch(&mut self, events: Vec<proto::ContextEvent>) {
        self.batch_of(Vec::new(), Vec::new(), Vec::new(), events);
    }

    /// What a task in `identity` did, with a file.
    pub(crate) fn done(&mut self, identity: proto::Identity, file: proto::File, what: What) {
        let subject = proto::Subject {
            identity: 1,
            ..Default::default()
        };
        let event = proto::ContextEvent {
            subject: 1,
            file: 1,
            offset_ns: self.next_batch.cast_signed(),
            ..event(what)
        };
        self.batch_of(vec![identity], vec![subject], vec![file], vec![event]);
    }

    fn batch_of(
        &mut self,
        identities: Vec<proto::Identity>,
        subjects: Vec<proto::Subject>,
        files: Vec<proto::File>,
        events: Vec<proto::ContextEvent>,
    ) {
        let batch = proto::Batch {
            seq: self.next_batch,
            time_ns: 5,
            events,
            identities,
            subjects,
            files,
            ..Default::default()
        };
        let payload = [PAYLOAD_PREFIX, &batch.encode_to_vec()].concat();
        self.entry(&batch_name(self.next_batch), &payload);
        self.next_batch += 1;
    }

    /// A batch with one mapping, whose path and cgroup have bytes a terminal would obey.
    pub(crate) fn mapping(&mut self) {
        self.mapping_in(0);
    }

    /// The same in the container of this number.
    pub(crate) fn mapping_in(&mut self, container: u64) {
        let identity = proto::Identity {
            container,
            mnt_ns: 4_026_532_600,
            mnt_generation: 77,
            cgroup_path: b"/machine.slice/\x1b[2J".to_vec(),
            container_id: "ab".repeat(32),
            ..Default::default()
        };
        let file = proto::File {
            path: PROGRAM.to_vec(),
            mode: 0o100_755,
            ..Default::default()
        };
        let mapping = proto::Mapping {
            digest: HashAlgorithm::Sha256.digest(b"a program").bytes().to_vec(),
            algorithm: "sha256".into(),
            ..Default::default()
        };
        let subject = proto::Subject {
            identity: 1,
            ..Default::default()
        };
        let event = proto::ContextEvent {
            subject: 1,
            file: 1,
            ..event(What::Mapping(mapping))
        };
        self.batch_of(vec![identity], vec![subject], vec![file], vec![event]);
    }

    pub(crate) fn policy_event(&mut self, event: &PolicyEvent) {
        self.entry(&event.name, event.payload.as_bytes());
    }

    pub(crate) fn entry(&mut self, name: &str, payload: &[u8]) {
        let pcr = self.pcr.unwrap_or(PCR);
        self.push(Entry::ima_buf(pcr, HashAlgorithm::Sha256, name, payload).unwrap());
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.replay.extend(&entry);
        self.entries.push(entry);
    }

    /// Somebody else's extend.
    pub(crate) fn foreign(&mut self) {
        for value in self.values() {
            let foreign = value.extended(&Digest::ones(value.algorithm()));
            self.replay = self.replay.clone().with_start(PCR, foreign);
        }
    }

    /// What the PCR holds after the last entry.
    pub(crate) fn values(&self) -> Vec<Digest> {
        BANKS
            .iter()
            .map(|bank| self.replay.value(PCR, *bank).unwrap())
            .collect()
    }

    pub(crate) fn binary(&self) -> Vec<u8> {
        binary(&self.entries)
    }

    /// Offset of each entry, and of the end.
    pub(crate) fn offsets(&self) -> Vec<usize> {
        (0..=self.entries.len())
            .map(|count| binary(&self.entries[..count]).len())
            .collect()
    }
}

pub(crate) fn binary(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    entries
        .iter()
        .for_each(|entry| entry.append_binary(&mut bytes));
    bytes
}

/// What PCR 13 holds after `entries`, from power-on.
pub(crate) fn replayed(entries: &[Entry]) -> Vec<Digest> {
    let mut list = List::without_start(Some(PCR));
    entries.iter().for_each(|entry| list.push(entry.clone()));
    list.values()
}

/// `--pcr` arguments for these values of PCR 13.
pub(crate) fn pcr_args(values: &[Digest]) -> Vec<String> {
    values
        .iter()
        .flat_map(|value| {
            let hex = hex::encode(value.bytes());
            [
                "--pcr".to_owned(),
                format!("{}:{PCR}={hex}", value.algorithm()),
            ]
        })
        .collect()
}

pub(crate) fn event(what: What) -> proto::ContextEvent {
    proto::ContextEvent {
        what: Some(what),
        ..Default::default()
    }
}

fn bank(value: &Digest) -> proto::Bank {
    proto::Bank {
        algorithm: value.algorithm().name().to_owned(),
        value: value.bytes().to_vec(),
    }
}

/// A file of ima-log's vectors.
pub(crate) fn vector_path(name: &str) -> String {
    format!(
        "{}/../ima-log/tests/vectors/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

pub(crate) fn vector(name: &str) -> Vec<u8> {
    fs::read(vector_path(name)).unwrap()
}

/// `--pcr` arguments for the values in a vector's `.pcrs`: lines `10 sha1:<hex>`.
pub(crate) fn vector_pcr_args(name: &str) -> Vec<String> {
    let text = String::from_utf8(vector(&format!("{name}.pcrs"))).unwrap();
    text.lines()
        .flat_map(|line| {
            let (pcr, value) = line.split_once(' ').unwrap();
            let (bank, hex) = value.split_once(':').unwrap();
            ["--pcr".to_owned(), format!("{bank}:{pcr}={hex}")]
        })
        .collect()
}

/// The entries of a binary list.
pub(crate) fn entries(binary: &[u8]) -> Vec<Entry> {
    BinaryReader::detect(binary)
        .map(|record| record.unwrap().1)
        .collect()
}
