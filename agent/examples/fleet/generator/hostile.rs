// SPDX-License-Identifier: Apache-2.0
//! Lists with all that somebody might put into one to harm a reader: each attack of a reader's threat model has an entry here.
//!
//! ```text
//! node-names     what a container, an image or a user may choose, through the agent: it verifies
//! node-forged    what root may write, or a disk may make of it: no agent does, and it does not verify
//! node-twin-a    two lists of one boot id that differ: each verifies
//! node-twin-b
//! node-<b>…      a directory with such a name: it verifies
//! ```

use std::io;

use cima_abi::{FileId, NS_COUNT};
use cima_agent::{
    containers::{Identities, Registered, Registry},
    measure::{
        Anchorage, Batch, ContextEvent, Executed, PAYLOAD_PREFIX, PolicyEvent, batch_name, measure,
        proto::{self, context_event::What, start::Reason},
    },
    probes::{Command, Event, Hash, Home, How, Object, Process, Subject, What as Seen},
    shared::Shared,
};
use prost::Message as _;

use super::{
    Fleet,
    list::{List, PCR, Written},
    numbers::{digest_of, hex_of, uuid_of},
};

/// What a name may have in it.
const NAMES: [&[u8]; 14] = [
    b"\x1b[2J\x1b[1;1H\x1b]0;owned\x07good: all entries are in PCR 13",
    b"\x9b31mred\x9b0m",
    b"<script>alert(document.domain)</script><img src=x onerror=alert(1)>",
    b"'; DROP TABLE events; --",
    b"\" OR 1=1 --\\",
    b"line\nbreak\r\nseq 0 good\ttab",
    b"\"},{\"good\":true},{\"\\u0000",
    b"=cmd|' /C calc'!A0,\"a\",b",
    b"%1B%s%n%x{}${HOME}`id`$(id)",
    "\u{202e}gpj.exe\u{2066}\u{200b}\u{feff}".as_bytes(),
    b"\xff\xfe\xc3\x28\xf0\x80\x80\x80 not UTF-8",
    b"../../../../etc/passwd",
    b"",
    b" leading and trailing ",
];
/// Bytes of what is large: near the limits of the agent and of its readers.
const LARGE: usize = 1_000_000;
const DIRECTORY: &str = "node-<b>\u{1b}[31m'\"&;--";

/// Writes them; of the fleet the place, the seed and the start count.
pub(crate) fn generate(fleet: &Fleet) -> io::Result<Written> {
    let mut written = names(fleet)?;
    written += forged(fleet)?;
    let twins = uuid_of(&format!("twins/{}", fleet.seed));
    for (name, program) in [("node-twin-a", "/usr/bin/a"), ("node-twin-b", "/usr/bin/b")] {
        let mut hostile = Hostile::new(fleet, name, &twins)?;
        hostile.begin(fleet.start_s * 1_000_000_000)?;
        let task = Task::usual();
        hostile.executed(&task, program.as_bytes(), &[b"twin"])?;
        written += hostile.list.finish()?;
    }
    let boot_id = uuid_of(&format!("directory/{}", fleet.seed));
    let mut hostile = Hostile::new(fleet, DIRECTORY, &boot_id)?;
    hostile.begin(fleet.start_s * 1_000_000_000)?;
    written += hostile.list.finish()?;
    Ok(written)
}

/// A list, and what the agent knows while it writes it.
struct Hostile {
    list: List,
    boot_id: String,
    registry: Registry,
    identities: Identities,
    now_ns: u64,
}

/// Who does something.
struct Task {
    process: Process,
    above: Vec<Process>,
    cgroup: Vec<u8>,
    container: u64,
}

impl Task {
    fn usual() -> Self {
        Self {
            process: process(40, 7, b"sh"),
            above: vec![process(39, 6, b"conmon"), process(1, 1, b"systemd")],
            cgroup: format!("/machine.slice/libpod-{}.scope", hex_of("usual")).into_bytes(),
            container: 0,
        }
    }
}

fn process(tgid: u32, start_s: u64, comm: &[u8]) -> Process {
    Process {
        tgid,
        start_ns: start_s * 1_000_000_000,
        comm: comm[..comm.len().min(15)].to_vec(),
    }
}

impl Hostile {
    fn new(fleet: &Fleet, name: &str, boot_id: &str) -> io::Result<Self> {
        let registry = Registry::default();
        Ok(Self {
            list: List::new(&fleet.dir.join(name), boot_id)?,
            boot_id: boot_id.to_owned(),
            identities: Identities::new(registry.clone()),
            registry,
            now_ns: 30_000_000_000,
        })
    }

    fn begin(&mut self, realtime_offset_ns: i64) -> io::Result<()> {
        let start = proto::Start {
            boot_id: self.boot_id.clone(),
            agent_version: "0.1.0".to_owned(),
            kernel_release: "6.12.0-\u{1b}[31m<b>'".to_owned(),
            pcr: Some(PCR),
            banks: Vec::new(),
            realtime_offset_ns,
            reason: Reason::Boot.into(),
            sink: Anchorage::Pcr.name().to_owned(),
        };
        self.say_itself(Vec::new(), What::Start(start))
    }

    fn say_itself(&mut self, events: Vec<PolicyEvent>, what: What) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.push(ContextEvent::of_agent(self.tick(), what));
        self.list.commit(events, batch)
    }

    fn tick(&mut self) -> u64 {
        self.now_ns += 1_000_000_000;
        self.now_ns
    }

    /// A program is executed and mapped, as the agent says it.
    fn executed(&mut self, task: &Task, path: &[u8], args: &[&[u8]]) -> io::Result<()> {
        let command = Command {
            args: args.iter().map(|arg| arg.to_vec()).collect(),
            argc: u32::try_from(args.len()).unwrap_or(u32::MAX),
            truncated: false,
        };
        let hash = Hash::Digest(digest_of(&hex::encode(path)));
        let how = How::Script;
        let (mut batch, mut said) = (Batch::new(), Vec::new());
        for what in [
            Seen::Exec(Shared::new(command)),
            Seen::Measured { how, hash },
        ] {
            let event = event(self.tick(), task, path, what);
            let identity = self.identities.of(&event);
            let measured = measure(&event, &identity, &self.boot_id, &mut Executed::default());
            said.extend(measured.policy_event);
            batch.push(measured.context);
        }
        self.list.commit(said, batch)
    }

    /// A container of this number is made, with a name of somebody's choice.
    fn created(&mut self, container: u64, name: &str, note: &str) -> io::Result<()> {
        let digest = digest_of("hostile image");
        let input = serde_json::json!({
            "version": 1,
            "container": {"id": hex_of(name), "name": name, "engine": "podman"},
            "image": {"digest": digest.to_string(), "reference": name},
            "process": {"args": [name, name]},
            "annotations": {"note": note, name: name},
        });
        let created = proto::Created {
            container,
            id: hex_of(name),
            image: digest.bytes().to_vec(),
            mnt_ns: 4_026_532_300,
            mnt_generation: container,
            init_tgid: 40,
            init_start_ns: 7_000_000_000,
            input: input.to_string(),
            allowed: true,
            reasons: Vec::new(),
            policy: digest_of("policy").bytes().to_vec(),
            volumes: vec![proto::Volume {
                destination: format!("/srv/{name}"),
                source: format!("/host/{name}"),
                device: 1,
            }],
        };
        let image = PolicyEvent {
            name: format!("cima-image:{digest}"),
            payload: format!("v1;image={digest}"),
        };
        self.registry.insert(Registered::of(&created));
        self.say_itself(vec![image], What::Created(created))
    }
}

fn event(time_ns: u64, task: &Task, path: &[u8], what: Seen) -> Event {
    Event {
        what,
        time_ns,
        tgid: task.process.tgid,
        start_ns: task.process.start_ns,
        tid: task.process.tgid,
        ns_tgid: 1,
        subject: Shared::new(Subject {
            comm: task.process.comm.clone(),
            uid: u32::MAX,
            gid: 0,
            login_uid: Some(0),
            session: Some(u32::MAX),
            ancestors: Shared::new(task.above.clone()),
        }),
        home: Shared::new(Home {
            ns: [4_026_532_300; NS_COUNT],
            mnt_generation: task.container,
            cgroup_id: 1,
            cgroup: task.cgroup.clone(),
            cgroup_truncated: false,
            container: task.container,
        }),
        file: Shared::new(Object {
            id: FileId {
                inode: u64::MAX,
                size: u64::MAX,
                fs_magic: 1,
                device: u32::MAX,
                generation: 0,
                links: 0,
                mode: 0o100_755,
            },
            path: Some(path.to_vec()),
            overlay: true,
            memfd: true,
        }),
        flags: 0,
    }
}

/// What a container, an image or a user may choose.
fn names(fleet: &Fleet) -> io::Result<Written> {
    let boot_id = uuid_of(&format!("names/{}", fleet.seed));
    let mut hostile = Hostile::new(fleet, "node-names", &boot_id)?;
    hostile.begin(fleet.start_s * 1_000_000_000)?;
    let mut task = Task::usual();
    for (number, name) in (1..).zip(NAMES) {
        // Of a container's name and input: text, which protobuf keeps no other bytes in.
        let text = String::from_utf8_lossy(name);
        hostile.created(number, &text, "")?;
        let path = [b"/usr/bin/", name].concat();
        task.container = number;
        task.cgroup = [b"/machine.slice/", name].concat();
        task.process = process(40, 7, name);
        task.above = vec![process(39, 6, name), process(1, 1, b"systemd")];
        hostile.executed(&task, &path, &[name, &path, name])?;
    }
    let number = NAMES.len() as u64 + 1;
    hostile.created(number, "large", &"<b>'\u{1b}".repeat(LARGE / 16))?;
    task.container = number;
    // The longest path, every byte of it escaped; as many arguments as 512 bytes can be.
    hostile.executed(&task, &[b'\x1b'; 4095], &[&b""[..]; 512])?;
    // As deep as ancestors go, and a process that was its own parent's number before.
    task.above = (0..8).map(|depth| process(40, depth, b"again")).collect();
    hostile.executed(&task, b"/usr/bin/deep", &[])?;
    hostile.list.finish()
}

/// What root may write.
fn forged(fleet: &Fleet) -> io::Result<Written> {
    let boot_id = uuid_of(&format!("forged/{}", fleet.seed));
    let mut hostile = Hostile::new(fleet, "node-forged", &boot_id)?;
    // The date of every event overflows.
    hostile.begin(i64::MAX)?;
    let list = &mut hostile.list;
    for (number, batch) in forged_batches() {
        let payload = [PAYLOAD_PREFIX, &batch.encode_to_vec()].concat();
        list.push(&batch_name(number), &payload)?;
    }
    for (name, payload) in forged_entries() {
        list.push(&name, &payload)?;
    }
    hostile.list.finish()
}

fn said(what: What) -> proto::ContextEvent {
    proto::ContextEvent {
        what: Some(what),
        ..Default::default()
    }
}

/// Batches, each with the number that its entry's name has.
fn forged_batches() -> Vec<(u64, proto::Batch)> {
    let of = |seq, time_ns, events| proto::Batch {
        seq,
        time_ns,
        events,
        ..Default::default()
    };
    let gone = |container| {
        let (container, cause) = (container, 99);
        said(What::Gone(proto::Gone { container, cause }))
    };
    let created = |id: &str, input: String| {
        said(What::Created(proto::Created {
            container: 1,
            id: id.to_owned(),
            input,
            allowed: true,
            image: vec![7; 31],
            ..Default::default()
        }))
    };
    let far = |offset_ns| proto::ContextEvent {
        offset_ns,
        ..gone(u64::MAX)
    };
    vec![
        // One number, two contents; a number that the payload contradicts; the last and first again.
        (1, of(1, 50, vec![gone(1)])),
        (1, of(1, 40, vec![gone(2)])),
        (2, of(7, 30, Vec::new())),
        (u64::MAX, of(u64::MAX, 20, Vec::new())),
        (0, of(0, 10, Vec::new())),
        // Times that go back, and that overflow either way.
        (3, of(3, u64::MAX, vec![far(1), far(i64::MAX)])),
        (4, of(4, 0, vec![far(-1), far(i64::MIN)])),
        // One number of two containers; inputs that are no JSON, deep JSON, large JSON.
        (5, of(5, 60, vec![created("first", "not JSON".into())])),
        (6, of(6, 61, vec![created("second", "[".repeat(100_000))])),
        (
            7,
            of(
                7,
                62,
                vec![created("", format!("\"{}\"", "x".repeat(LARGE)))],
            ),
        ),
        (8, of(8, 63, vec![gone(1), gone(1), gone(0)])),
        (9, cycle()),
        (10, dangling()),
        (11, of(11, 64, vec![gone(3); 60_000])),
    ]
}

/// Each process is the other's child, and one its own.
fn cycle() -> proto::Batch {
    let process = |tgid| proto::Process {
        tgid,
        start_ns: 5,
        comm: b"cycle".to_vec(),
    };
    let lineage = |of: &[u32]| proto::Lineage {
        ancestors: of.iter().copied().map(process).collect(),
    };
    let subject = |lineage| proto::Subject {
        comm: b"cycle".to_vec(),
        lineage,
        ..Default::default()
    };
    let command = |subject| proto::Command {
        subject,
        file: 1,
        args: vec![b"cycle".to_vec()],
        argc: u32::MAX,
        args_truncated: false,
    };
    let executed = |tgid, command| proto::ContextEvent {
        tgid,
        age_ns: 65,
        offset_ns: 0,
        what: Some(What::Execution(command)),
        ..Default::default()
    };
    proto::Batch {
        seq: 9,
        time_ns: 70,
        events: vec![executed(70, 1), executed(71, 2), executed(72, 3)],
        lineages: vec![lineage(&[71, 70]), lineage(&[70, 71]), lineage(&[72, 72])],
        subjects: vec![subject(1), subject(2), subject(3)],
        files: vec![proto::File {
            path: b"/usr/bin/cycle".to_vec(),
            ..Default::default()
        }],
        commands: vec![command(1), command(2), command(3)],
        ..Default::default()
    }
}

/// Numbers of tables that have no such element, and elements that are larger than any agent's.
fn dangling() -> proto::Batch {
    let of = |subject, file, what| proto::ContextEvent {
        subject,
        file,
        age_ns: i64::MIN,
        what: Some(what),
        ..Default::default()
    };
    let mapping = What::Mapping(proto::Mapping {
        digest: vec![1; 7],
        algorithm: "<b>\u{1b}[31m".to_owned(),
        how: -1,
        hash_error: i32::MIN,
        ..Default::default()
    });
    let file = proto::File {
        path: vec![b'x'; LARGE],
        mode: 0o100_755,
        ..Default::default()
    };
    proto::Batch {
        seq: 10,
        time_ns: 71,
        events: vec![
            of(u32::MAX, u32::MAX, mapping.clone()),
            of(1, 1, mapping),
            of(0, 0, What::Execution(u32::MAX)),
            proto::ContextEvent::default(),
        ],
        subjects: vec![proto::Subject {
            comm: vec![0; LARGE],
            lineage: u32::MAX,
            identity: u32::MAX,
            ..Default::default()
        }],
        files: vec![file],
        ..Default::default()
    }
}

/// Entries whose name and payload no agent gives.
fn forged_entries() -> Vec<(String, Vec<u8>)> {
    let large = vec![b'A'; LARGE];
    vec![
        ("cima-ctx:12".to_owned(), b"v1;\xff\xff\xff\xff".to_vec()),
        ("cima-ctx:13".to_owned(), b"v2;".to_vec()),
        // A number in another spelling, and one that no integer holds.
        ("cima-ctx:0014".to_owned(), b"v1;\x08\x0e".to_vec()),
        ("cima-ctx:99999999999999999999".to_owned(), b"v1;".to_vec()),
        ("cima-ctx:".to_owned(), Vec::new()),
        ("cima-exec:".to_owned(), b"v1;sha256:".to_vec()),
        (
            "cima-exec:sha256:zz:/usr/bin/x".to_owned(),
            b"v1;sha256:zz".to_vec(),
        ),
        (
            "cima-exec:unregistered:/%1b%".to_owned(),
            b"v1;sha256:00".to_vec(),
        ),
        ("cima-violation:".to_owned(), Vec::new()),
        (
            "cima-violation:<b>:\u{1b}[31m:'--".to_owned(),
            b"\x1b]0;x\x07".to_vec(),
        ),
        ("cima-image:sha256:".to_owned(), large.clone()),
        (
            format!("cima-exec:unregistered:/{}", "a/".repeat(LARGE / 2)),
            large,
        ),
    ]
}
