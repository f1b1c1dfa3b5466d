// SPDX-License-Identifier: Apache-2.0
//! Writes seeds for the targets here from what the agent itself writes: `cargo run --example
//! seeds -- DIR` makes DIR/TARGET/NAME. README.md says how they are merged into `corpus/`.

use std::{fs, mem::offset_of, path::Path};

use cima_abi::{ABI_VERSION, ARGS_LEN, Header, Kind, NO_HASH, SHORT_PATH};
use cima_agent::{
    containers::Identities,
    ledger::{Ledger, Origin, segments},
    measure::{
        Batch, ContextEvent, Executed, PolicyEvent, SelfPart, Violation, measure,
        proto::{self, context_event::What},
    },
    probes::Event,
    sink::{Sink, SinkError},
};
use ima_log::{BinaryReader, Digest, Entry, HashAlgorithm, Replay};

const BOOT: &str = "8c2d2a94-3f0e-4a0b-9d6e-0a3f5ad0c1d2";
const PCR: u32 = 13;
const BANKS: [HashAlgorithm; 2] = [HashAlgorithm::Sha1, HashAlgorithm::Sha256];

/// A PCR in memory.
struct Soft(Replay);

impl Sink for Soft {
    fn pcr(&self) -> Option<u32> {
        Some(PCR)
    }

    fn read(&mut self) -> Result<Vec<Digest>, SinkError> {
        let value = |bank| self.0.value(PCR, bank).expect("its bank");
        Ok(BANKS.map(value).to_vec())
    }

    fn extend(&mut self, _: &Entry, values: &[Digest]) -> Result<(), SinkError> {
        self.0.extend_values(PCR, values);
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

fn main() {
    let dir = std::env::args().nth(1).expect("a directory to write to");
    let dir = Path::new(&dir);
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(dir.join(target)).expect("a directory");
        fs::write(dir.join(target).join(name), bytes).expect("a file");
    };
    for (name, record) in records() {
        write("record", &name, &record);
    }
    write("judge", "ledger", &list(&dir.join("state-1"), 2));
    let list = list(&dir.join("state-2"), 3);
    write("judge", "ledger-broken", &list);
    write(
        "intent",
        "ledger",
        &[&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], list.as_slice()].concat(),
    );
    let mut ascii = Vec::new();
    for (index, record) in BinaryReader::detect(list.as_slice()).enumerate() {
        let (_, entry) = record.expect("the ledger's own");
        entry.write_ascii(&mut ascii).expect("a vector takes it");
        write(
            "intent",
            &format!("entry-{index}"),
            &[&[0; 12], entry.to_binary().as_slice()].concat(),
        );
        let fields = entry.fields().expect("the ledger's own");
        write("text", &format!("name-{index}"), fields.name);
        if fields.name.starts_with(b"cima-ctx:") {
            write(
                "batch",
                &format!("batch-{index}"),
                fields.payload.unwrap_or_default(),
            );
        }
    }
    write("judge", "ledger-ascii", &ascii);
    for (name, payload) in hostile() {
        write("batch", name, &payload);
    }
    for (name, text) in texts() {
        write("text", name, text.as_bytes());
    }
    for state in ["state-1", "state-2"] {
        fs::remove_dir_all(dir.join(state)).expect("it was made here");
    }
}

/// Records as the kernel side makes them.
fn records() -> Vec<(String, Vec<u8>)> {
    let short = b"/usr/bin/a b";
    let long = b"/dir".repeat(100);
    let of_kind = |kind: Kind| (format!("{kind:?}"), record(kind, 4, short, b"a\0b\0", 2));
    let others = [
        ("map-sha512-long", record(Kind::Map, 6, &long, b"", 0)),
        ("map-failed", record(Kind::Map, NO_HASH, short, b"", 0)),
        ("map-sha1", record(Kind::Map, 2, short, b"", 0)),
        (
            "exec",
            record(Kind::Exec, NO_HASH, short, b"a b\0--flag\0x\0HOME=/\0", 3),
        ),
        (
            "exec-cut",
            record(Kind::Exec, NO_HASH, &long, &b"argument".repeat(64), 9),
        ),
    ];
    let others = others.map(|(name, record)| (name.to_owned(), record));
    Kind::ALL.into_iter().map(of_kind).chain(others).collect()
}

fn record(kind: Kind, algorithm: u8, path: &[u8], args: &[u8], argc: u32) -> Vec<u8> {
    let cap = if path.len() < SHORT_PATH {
        SHORT_PATH
    } else {
        4096
    };
    let header = size_of::<Header>();
    let mut bytes = vec![0; header + cap + ARGS_LEN];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let len = |bytes: &[u8]| u16::try_from(bytes.len()).expect("short").to_ne_bytes();
    put(offset_of!(Header, version), &ABI_VERSION.to_ne_bytes());
    put(offset_of!(Header, kind), &[kind as u8]);
    put(offset_of!(Header, hash_algo), &[algorithm]);
    put(
        offset_of!(Header, path_cap),
        &u16::try_from(cap).expect("short").to_ne_bytes(),
    );
    put(offset_of!(Header, path_len), &len(path));
    put(offset_of!(Header, args_len), &len(args));
    put(offset_of!(Header, argc), &argc.to_ne_bytes());
    put(offset_of!(Header, hash_error), &(-95_i32).to_ne_bytes());
    put(
        offset_of!(Header, time_ns),
        &1_000_000_007_u64.to_ne_bytes(),
    );
    put(offset_of!(Header, tgid), &4711_u32.to_ne_bytes());
    put(offset_of!(Header, login_uid), &u32::MAX.to_ne_bytes());
    put(offset_of!(Header, digest), &[0xab; 64]);
    put(offset_of!(Header, comm), b"a b");
    put(offset_of!(Header, ancestors), &[1; 32]);
    let cgroup = format!(
        "container\0libpod-{}.scope\0machine.slice\0",
        "c0".repeat(32)
    );
    put(offset_of!(Header, cgroup_len), &len(cgroup.as_bytes()));
    put(offset_of!(Header, cgroup), cgroup.as_bytes());
    put(header, path);
    put(header + cap, args);
    bytes
}

/// A list with every kind of event, of an agent started so many times: at the third, somebody
/// else has extended the PCR.
fn list(state: &Path, starts: u64) -> Vec<u8> {
    let mut pcr = Replay::new(&BANKS);
    let mut told = Vec::new();
    for start in 0..starts {
        if start == 2 {
            let foreign = Entry::ima_ng(PCR, Digest::ones(BANKS[1]), "somebody else");
            pcr.extend(&foreign.expect("an entry"));
        }
        let origin = Origin {
            boot_id: BOOT.to_owned(),
            kernel_release: "6.12.0".to_owned(),
            realtime_offset_ns: 1,
            now_ns: 5,
        };
        let (mut ledger, _) =
            Ledger::open(state, origin, Box::new(Soft(pcr.clone())), PCR).expect("a ledger");
        let (events, batch) = said(start);
        ledger.commit(&events, batch).expect("a commit");
        told.clear();
        for (_, path) in segments(ledger.dir()).expect("segments") {
            told.extend(fs::read(path).expect("a segment"));
        }
        if start + 1 < starts {
            pcr = Replay::new(&BANKS);
            for record in BinaryReader::detect(told.as_slice()) {
                pcr.extend(&record.expect("the ledger's own").1);
            }
        }
    }
    told
}

fn said(start: u64) -> (Vec<PolicyEvent>, Batch) {
    let digest = HashAlgorithm::Sha256.digest(b"a program");
    let mut events = vec![
        PolicyEvent::agent(SelfPart::Binary, &digest),
        PolicyEvent::own_violation(Violation::Loss, "cause=map-ring-full;count=3;at=7"),
    ];
    let mut batch = Batch::new();
    batch.set_queue(5, 4096 * start);
    for (_, record) in records() {
        let event = Event::parse(&record).expect("a record of this version");
        let identity = Identities::default().of(&event);
        let measured = measure(&event, &identity, BOOT, &mut Executed::default());
        events.extend(measured.policy_event);
        batch.push(measured.context);
    }
    let part = proto::Part {
        name: "binary".to_owned(),
        digest: digest.to_string(),
    };
    for what in [
        What::Parts(proto::Parts { parts: vec![part] }),
        What::PolicyLoaded(proto::PolicyLoaded {
            sha256: vec![7; 32],
            name: "admission".to_owned(),
        }),
        What::Created(proto::Created {
            container: 9,
            id: "c1".to_owned(),
            image: vec![8; 32],
            mnt_ns: 4_026_532_000,
            input: "{}".to_owned(),
            reasons: vec!["a reason".to_owned()],
            volumes: vec![proto::Volume {
                destination: "/data".to_owned(),
                source: "/srv".to_owned(),
                device: 8 << 20 | 1,
            }],
            ..Default::default()
        }),
        What::Gone(proto::Gone {
            container: 9,
            cause: proto::gone::Cause::Ended.into(),
        }),
        What::Loss(proto::Loss {
            cause: "map-ring-full".to_owned(),
            cpu: 1,
            count: 3,
        }),
        What::Stop(proto::Stop {}),
    ] {
        batch.push(ContextEvent::of_agent(7 + start, what));
    }
    (events, batch)
}

fn texts() -> Vec<(&'static str, String)> {
    let (sha1, sha256) = ("AB".repeat(20), "0c".repeat(32));
    let (spaced, policy) = ("ab ".repeat(32), cima_policies::DEFAULT.to_owned());
    vec![
        (
            "pcrread",
            format!("  sha1:\n    13: 0x{sha1}\n  sm3_256:\n  sha256:\n    13: 0x{sha256}\n"),
        ),
        (
            "evmctl",
            format!("# a comment\nPCR-13: {spaced}\npcr-10: {sha1}\n"),
        ),
        ("value", format!("sha256:13={sha256}")),
        ("digest", format!("sha256:{sha256}")),
        ("policy", policy),
        (
            "policy-host",
            "version = 1\ncandidate = []\nmeasure_host = true\nunregistered = \"deny\"\n"
                .to_owned(),
        ),
        (
            "candidate",
            "newns+newpid+newuser+newuts+newnet+newipc+newcgroup+newtime".to_owned(),
        ),
        ("config", include_str!("../../etc/cimad.toml").to_owned()),
        (
            "config-none",
            "[sink]\nkind = \"none\"\n[metrics]\nlisten = \"127.0.0.1:9000\"\n".to_owned(),
        ),
        ("path", "/usr/bin/a b\u{1b}[2J%41".to_owned()),
    ]
}

/// Batches full of messages of two bytes, which take the most memory for their size.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let many = |tag: u8| [tag, 0].repeat(1030);
    let inside = |tag: u8, content: &[u8]| {
        let len = content.len();
        let (low, high) = ((len & 0x7f | 0x80) as u8, (len >> 7) as u8);
        [&[tag, low, high], content].concat()
    };
    let event = |tag: u8, content: &[u8]| inside(0x22, &inside(tag, content));
    vec![
        ("identities", many(0x2a)),
        ("events", many(0x22)),
        ("arguments", inside(0x4a, &many(0x1a))),
        ("ancestors", inside(0x32, &many(0x0a))),
        ("banks", event(0x5a, &many(0x2a))),
        ("parts", event(0x72, &many(0x0a))),
    ]
}
