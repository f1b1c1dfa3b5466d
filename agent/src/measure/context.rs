// SPDX-License-Identifier: Apache-2.0
//! Context events and the batches they travel in.

use std::collections::HashMap;

use cima_abi::{Ns, flag};
use prost::Message as _;

use super::namespaced::namespaced_digest;
use crate::{
    containers::Identity,
    probes::{
        Breach, ChangeKind, Command, Event, Hash as FileHash, How, Object, Process, Subject, What,
    },
    shared::{Hashed, Shared},
};

/// The schema's types, made from `proto/cima.proto`.
#[allow(
    missing_docs,
    clippy::allow_attributes,
    clippy::doc_markdown,
    unreachable_pub,
    reason = "generated; the schema is documented"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/cima.v1.rs"));
}

use proto::context_event::What as Said;

/// In front of the protobuf bytes: a payload in text never parses as a DER key.
pub const PAYLOAD_PREFIX: &[u8] = b"v1;";

/// Name of the entry that carries batch `seq`.
pub fn batch_name(seq: u64) -> String {
    format!("cima-ctx:{seq}")
}

/// The number in [`batch_name`], in that one spelling; `None` for any other name.
pub fn batch_number(name: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(name.strip_prefix(b"cima-ctx:")?).ok()?;
    let number = digits.parse().ok()?;
    (batch_name(number).as_bytes() == name).then_some(number)
}

/// The batch in an entry's payload; `None` if it is not one.
pub fn decode_batch(payload: &[u8]) -> Option<proto::Batch> {
    proto::Batch::decode(payload.strip_prefix(PAYLOAD_PREFIX)?).ok()
}

/// A context event before it is put into a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct ContextEvent {
    time_ns: u64,
    what: Happened,
}

#[derive(Debug, Clone, PartialEq)]
enum Happened {
    /// The agent has something to say itself.
    OfAgent(Said),
    Executed(Task, Shared<Command>),
    OfTask(Task, Said),
}

/// Whose doing, and to which file.
#[derive(Debug, Clone, PartialEq)]
struct Task {
    tgid: u32,
    start_ns: u64,
    tid: u32,
    ns_tgid: u32,
    who: Who,
    file: Shared<Object>,
}

/// A subject, and where it lives.
type Who = (Shared<Subject>, Shared<Identity>);

impl ContextEvent {
    /// What the agent says of itself at `time_ns` since boot.
    pub fn of_agent(time_ns: u64, what: Said) -> Self {
        let what = Happened::OfAgent(what);
        Self { time_ns, what }
    }

    /// What a container's task did.
    pub fn of(event: &Event, identity: &Shared<Identity>, boot_id: &str) -> Self {
        let task = Task {
            tgid: event.tgid,
            start_ns: event.start_ns,
            tid: event.tid,
            ns_tgid: event.ns_tgid,
            who: (event.subject.clone(), identity.clone()),
            file: event.file.clone(),
        };
        let what = match &event.what {
            What::Exec(command) => Happened::Executed(task, command.clone()),
            What::Measured { how, hash } => {
                let mapping = measured(event, *how, hash, identity, boot_id);
                Happened::OfTask(task, Said::Mapping(mapping))
            }
            What::Breach(kind) => Happened::OfTask(task, Said::Breach(breach(*kind))),
            What::Change(kind, change) => {
                let change = changed(event, *kind, change);
                Happened::OfTask(task, Said::Change(change))
            }
            What::Ended { status } => {
                Happened::OfTask(task, Said::Ended(proto::Ended { status: *status }))
            }
            What::Denied => Happened::OfTask(task, Said::Refused(proto::Refused {})),
        };
        Self {
            time_ns: event.time_ns,
            what,
        }
    }
}

fn measured(
    event: &Event,
    how: How,
    hash: &FileHash,
    identity: &Identity,
    boot_id: &str,
) -> proto::Mapping {
    use proto::mapping::How as Named;
    let mut mapping = proto::Mapping {
        writer: event.flags & flag::WRITER != 0,
        copied_up: event.flags & flag::COPIED_UP != 0,
        volume: identity.volume_of(&event.file).unwrap_or_default(),
        ..Default::default()
    };
    match how {
        How::Mapped { prot, map_flags } => (mapping.prot, mapping.map_flags) = (prot, map_flags),
        How::Script => mapping.how = Named::Script.into(),
        How::KernelRead { id } => {
            (mapping.how, mapping.kernel_read_id) = (Named::KernelRead.into(), id);
        }
    }
    match hash {
        FileHash::Digest(digest) => {
            mapping.digest = digest.bytes().to_vec();
            mapping.algorithm = digest.algorithm().name().to_owned();
            mapping.namespaced_digest = namespaced_digest(digest, identity, boot_id).to_vec();
        }
        FileHash::Unusable(number) => mapping.algorithm = format!("kernel:{number}"),
        FileHash::Failed(errno) => mapping.hash_error = *errno,
    }
    mapping
}

fn changed(event: &Event, kind: ChangeKind, change: &cima_abi::Change) -> proto::Change {
    use proto::change::Kind;
    // Taken apart so that a new field is not forgotten here.
    let cima_abi::Change {
        mnt_generation,
        container,
        ns,
        flags,
        gathered,
        root_device,
        reserved: _,
    } = change;
    let of = |of: Ns| ns[of as usize];
    let kind = match kind {
        ChangeKind::Made => Kind::Made,
        ChangeKind::Joined => Kind::Joined,
        ChangeKind::Pivoted => Kind::Pivoted,
    };
    let counted = Ns::ALL.into_iter().filter(|ns| gathered & ns.bit() != 0);
    proto::Change {
        kind: kind.into(),
        flags: *flags,
        mnt_ns: of(Ns::Mnt),
        mnt_generation: *mnt_generation,
        pid_ns: of(Ns::Pid),
        user_ns: of(Ns::User),
        uts_ns: of(Ns::Uts),
        net_ns: of(Ns::Net),
        ipc_ns: of(Ns::Ipc),
        cgroup_ns: of(Ns::Cgroup),
        time_ns: of(Ns::Time),
        container: *container,
        gathered: counted.fold(0, |flags, ns| flags | ns.clone_flag()),
        root_device: *root_device,
        other_root: event.flags & flag::OTHER_ROOT != 0,
    }
}

fn breach(kind: Breach) -> proto::Breach {
    use proto::breach::Kind;
    let mut breach = proto::Breach::default();
    let kind = match kind {
        Breach::Written => Kind::Written,
        Breach::Mprotect { prot } => {
            breach.prot = prot;
            Kind::Mprotect
        }
        Breach::Anonymous { prot, map_flags } => {
            (breach.prot, breach.map_flags) = (prot, map_flags);
            Kind::Anonymous
        }
        Breach::KernelLoad { id } => {
            breach.kernel_load_id = id;
            Kind::KernelLoad
        }
    };
    breach.kind = kind.into();
    breach
}

/// Tag of `Batch.events`: field 4, length-delimited.
const EVENTS: u8 = 4 << 3 | 2;

/// Collects context events into one payload, what they have in common once. Each event is
/// encoded as it comes: a message may be written in parts, of which the last are the events.
#[derive(Debug, Default)]
pub struct Batch {
    tables: Tables,
    /// The message but for its events.
    head: proto::Batch,
    events: Vec<u8>,
    len: usize,
    /// Of each table, how much is in `table_bytes`.
    counted: [usize; 5],
    table_bytes: usize,
    gist: Gist,
}

/// The number of each value that the batch holds.
#[derive(Debug, Default)]
struct Tables {
    identities: HashMap<Shared<Identity>, u32, Hashed>,
    lineages: HashMap<Shared<Vec<Process>>, u32, Hashed>,
    subjects: HashMap<Who, u32, Hashed>,
    files: HashMap<Shared<Object>, u32, Hashed>,
    commands: HashMap<(Shared<Command>, Shared<Object>, Who), u32, Hashed>,
}

/// What the agent itself goes on from once a batch is in the list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gist {
    /// See `proto::Batch`.
    pub queue: Option<proto::Queue>,
    /// Time of the first event, ns since boot.
    pub began: Option<u64>,
    /// Whether it ends with the agent's farewell.
    pub stopped: bool,
    /// Losses, each with its time.
    pub losses: Vec<(u64, proto::Loss)>,
    /// Containers that were made and may run, and the numbers of those that are no more, in order.
    pub containers: Vec<Fate>,
}

/// What a list says of a container.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It was made, and admitted.
    Created(Box<proto::Created>),
    /// The one with this number is no more.
    Gone(u64),
}

impl Gist {
    /// Of the batch in an entry's payload; `None` if it is not one.
    pub fn of(payload: &[u8]) -> Option<Self> {
        let batch = decode_batch(payload)?;
        let mut gist = Self {
            queue: batch.queue,
            ..Self::default()
        };
        for event in batch.events {
            let time_ns = batch.time_ns.wrapping_add_signed(event.offset_ns);
            gist.note(time_ns, event.what.as_ref());
        }
        Some(gist)
    }

    fn note(&mut self, time_ns: u64, what: Option<&Said>) {
        self.began.get_or_insert(time_ns);
        self.stopped = matches!(what, Some(Said::Stop(_)));
        match what {
            Some(Said::Loss(loss)) => self.losses.push((time_ns, loss.clone())),
            Some(Said::Created(created)) if created.allowed => {
                let created = Box::new(created.clone());
                self.containers.push(Fate::Created(created));
            }
            Some(Said::Gone(gone)) => self.containers.push(Fate::Gone(gone.container)),
            _ => {}
        }
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that the kernel's queue `id` is read up to `position` with this batch.
    pub fn set_queue(&mut self, id: u64, position: u64) {
        let queue = Some(proto::Queue { id, position });
        (self.head.queue, self.gist.queue) = (queue, queue);
    }

    /// Adds an event.
    pub fn push(&mut self, event: ContextEvent) {
        let ContextEvent { time_ns, what } = event;
        if self.len == 0 {
            self.head.time_ns = time_ns;
        }
        let mut event = match &what {
            Happened::OfAgent(_) => proto::ContextEvent::default(),
            Happened::Executed(task, _) | Happened::OfTask(task, _) => proto::ContextEvent {
                tgid: task.tgid,
                age_ns: time_ns.wrapping_sub(task.start_ns).cast_signed(),
                tid: if task.tid == task.tgid { 0 } else { task.tid },
                ns_tgid: task.ns_tgid,
                ..Default::default()
            },
        };
        event.offset_ns = time_ns.wrapping_sub(self.head.time_ns).cast_signed();
        event.what = Some(match what {
            Happened::OfAgent(what) => what,
            Happened::Executed(task, command) => {
                Said::Execution(self.command(command, task.file, task.who))
            }
            Happened::OfTask(task, what) => {
                event.subject = self.subject(task.who);
                event.file = self.file(&task.file);
                what
            }
        });
        self.gist.note(time_ns, event.what.as_ref());
        self.events.push(EVENTS);
        // A Vec grows as needed.
        let _ = event.encode_length_delimited(&mut self.events);
        self.len += 1;
        self.count_tables();
    }

    fn count_tables(&mut self) {
        let Self {
            head,
            counted,
            table_bytes,
            ..
        } = self;
        let [identities, lineages, subjects, files, commands] = counted;
        *table_bytes += new_bytes(&head.identities, identities)
            + new_bytes(&head.lineages, lineages)
            + new_bytes(&head.subjects, subjects)
            + new_bytes(&head.files, files)
            + new_bytes(&head.commands, commands);
    }

    fn identity(&mut self, identity: &Shared<Identity>) -> u32 {
        once(
            identity,
            &mut self.head.identities,
            &mut self.tables.identities,
            |identity| proto::Identity {
                mnt_ns: identity.ns(Ns::Mnt),
                mnt_generation: identity.mnt_generation,
                pid_ns: identity.ns(Ns::Pid),
                user_ns: identity.ns(Ns::User),
                uts_ns: identity.ns(Ns::Uts),
                net_ns: identity.ns(Ns::Net),
                ipc_ns: identity.ns(Ns::Ipc),
                cgroup_ns: identity.ns(Ns::Cgroup),
                time_ns: identity.ns(Ns::Time),
                cgroup_id: identity.cgroup_id,
                cgroup_path: identity.cgroup.clone(),
                container_id: identity.container_id.clone(),
                container: identity.container,
            },
        )
    }

    fn subject(&mut self, key: Who) -> u32 {
        if let Some(number) = self.tables.subjects.get(&key) {
            return *number;
        }
        let (subject, identity) = &key;
        let message = proto::Subject {
            comm: subject.comm.clone(),
            uid: subject.uid,
            gid: subject.gid,
            login_uid: subject.login_uid,
            session: subject.session,
            lineage: match subject.ancestors.as_slice() {
                [] => 0,
                _ => self.lineage(&subject.ancestors),
            },
            identity: self.identity(identity),
        };
        let number = hold(message, &mut self.head.subjects);
        self.tables.subjects.insert(key, number);
        number
    }

    fn lineage(&mut self, ancestors: &Shared<Vec<Process>>) -> u32 {
        once(
            ancestors,
            &mut self.head.lineages,
            &mut self.tables.lineages,
            |ancestors| proto::Lineage {
                ancestors: ancestors.iter().map(process).collect(),
            },
        )
    }

    fn file(&mut self, file: &Shared<Object>) -> u32 {
        once(file, &mut self.head.files, &mut self.tables.files, object)
    }

    fn command(&mut self, command: Shared<Command>, file: Shared<Object>, who: Who) -> u32 {
        let key = (command, file, who);
        if let Some(number) = self.tables.commands.get(&key) {
            return *number;
        }
        let (command, file, who) = &key;
        let message = proto::Command {
            subject: self.subject(who.clone()),
            file: self.file(file),
            args: command.args.clone(),
            argc: command.argc,
            args_truncated: command.truncated,
        };
        let number = hold(message, &mut self.head.commands);
        self.tables.commands.insert(key, number);
        number
    }

    /// Events so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes so far, of its events and of what they have in common.
    pub fn bytes(&self) -> usize {
        self.events.len() + self.table_bytes
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is to be remembered of it.
    pub fn gist(&self) -> &Gist {
        &self.gist
    }

    /// The payload of the entry `cima-ctx:<seq>`.
    pub fn into_payload(mut self, seq: u64) -> Vec<u8> {
        self.head.seq = seq;
        let mut payload = PAYLOAD_PREFIX.to_vec();
        // A Vec grows as needed.
        let _ = self.head.encode(&mut payload);
        payload.append(&mut self.events);
        payload
    }
}

fn process(process: &Process) -> proto::Process {
    proto::Process {
        tgid: process.tgid,
        start_ns: process.start_ns,
        comm: process.comm.clone(),
    }
}

fn object(object: &Object) -> proto::File {
    // Taken apart so that a new field is not forgotten here.
    let Object {
        id:
            cima_abi::FileId {
                inode,
                size,
                fs_magic,
                device,
                generation,
                links,
                mode,
            },
        path,
        overlay,
        memfd,
    } = object;
    proto::File {
        path: path.clone().unwrap_or_default(),
        inode: *inode,
        device: *device,
        generation: *generation,
        links: *links,
        size: *size,
        mode: *mode,
        fs_magic: *fs_magic,
        overlay: *overlay,
        memfd: *memfd,
        path_unknown: path.is_none(),
    }
}

/// The number of `value` in the batch, which holds it once.
fn once<T: Eq, M>(
    value: &Shared<T>,
    held: &mut Vec<M>,
    numbers: &mut HashMap<Shared<T>, u32, Hashed>,
    message: impl FnOnce(&T) -> M,
) -> u32 {
    if let Some(number) = numbers.get(value) {
        return *number;
    }
    let number = hold(message(value), held);
    numbers.insert(value.clone(), number);
    number
}

/// Bytes of a table's elements from `counted` on, with what stands in front of each.
fn new_bytes<M: prost::Message>(table: &[M], counted: &mut usize) -> usize {
    let new = table.get(*counted..).unwrap_or_default();
    *counted = table.len();
    let bytes = |message: &M| {
        let len = message.encoded_len();
        1 + prost::length_delimiter_len(len) + len
    };
    new.iter().map(bytes).sum()
}

/// Puts a message into its table. Numbers count from one; a batch is cut long before 2^32:
/// see the ledger's limit.
fn hold<M>(message: M, held: &mut Vec<M>) -> u32 {
    held.push(message);
    u32::try_from(held.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{probes::Home, verify::BatchView};
    use ima_log::HashAlgorithm;
    use proptest::prelude::*;

    const BOOT: &str = "8c2d2a94-3f0e-4a0b-9d6e-0a3f5ad0c1d2";

    /// An event whose parts are shared with those that have the same numbers.
    fn event(parts: [u8; 4], what: u8, time_ns: u64, tid: u32) -> Event {
        let [who, home, file, args] = parts.map(u32::from);
        let ancestors = (0..who).map(|tgid| Process {
            tgid: tgid + 1,
            start_ns: 7,
            comm: b"sh".to_vec(),
        });
        let digest = HashAlgorithm::Sha256.digest(b"content");
        Event {
            what: match what {
                0 => What::Measured {
                    how: How::Script,
                    hash: FileHash::Digest(digest),
                },
                1 => What::Breach(Breach::Written),
                _ => What::Exec(Shared::new(Command {
                    args: vec![b"a".to_vec(); args as usize],
                    argc: args,
                    truncated: false,
                })),
            },
            time_ns,
            tgid: 40,
            start_ns: 5,
            tid,
            ns_tgid: 4,
            subject: Shared::new(Subject {
                comm: b"comm".to_vec(),
                uid: who,
                gid: 0,
                login_uid: None,
                session: Some(who),
                ancestors: Shared::new(ancestors.collect()),
            }),
            home: Shared::new(Home {
                ns: [home; cima_abi::NS_COUNT],
                mnt_generation: 1,
                cgroup_id: 2,
                cgroup: b"/".to_vec(),
                cgroup_truncated: false,
                container: 0,
            }),
            file: Shared::new(Object {
                id: cima_abi::FileId {
                    inode: file.into(),
                    size: 1,
                    fs_magic: 2,
                    device: 3,
                    generation: 4,
                    links: 5,
                    mode: 6,
                },
                path: Some(vec![b'/'; file as usize]),
                overlay: false,
                memfd: false,
            }),
            flags: 0,
        }
    }

    proptest! {
        #[test]
        fn each_event_of_a_batch_reads_as_it_was_and_the_gist_is_the_payloads(
            events in prop::collection::vec((any::<[bool; 4]>(), 0..5u8, any::<u64>(), 39..42u32), 1..20),
            queue: bool,
        ) {
            let mut batch = Batch::new();
            let mut identities = crate::containers::Identities::default();
            let parts = |parts: [bool; 4]| parts.map(u8::from);
            for (bits, what, time_ns, tid) in &events {
                batch.push(match what {
                    3 => ContextEvent::of_agent(*time_ns, Said::Stop(proto::Stop {})),
                    4 => ContextEvent::of_agent(*time_ns, Said::Loss(proto::Loss { cause: "c".into(), cpu: 1, count: 2 })),
                    _ => {
                        let event = event(parts(*bits), *what, *time_ns, *tid);
                        ContextEvent::of(&event, &identities.of(&event), BOOT)
                    }
                });
            }
            if queue {
                batch.set_queue(5, 6);
            }
            let gist = batch.gist().clone();
            let payload = batch.into_payload(3);
            prop_assert_eq!(Gist::of(&payload), Some(gist));
            let view = BatchView::of(&payload).unwrap();
            prop_assert_eq!(view.seq(), 3);
            let views: Vec<_> = view.events().collect();
            prop_assert_eq!(views.len(), events.len());
            for (view, (bits, what, time_ns, tid)) in views.into_iter().zip(events) {
                prop_assert_eq!(view.time_ns, time_ns);
                let said = view.event.unwrap();
                if what > 2 {
                    prop_assert_eq!((said.tgid, view.subject, view.file), (0, None, None));
                    continue;
                }
                let event = event(parts(bits), what, time_ns, tid);
                prop_assert_eq!(if said.tid == 0 { said.tgid } else { said.tid }, tid);
                prop_assert_eq!(time_ns.wrapping_sub(said.age_ns.cast_unsigned()), event.start_ns);
                let subject = view.subject.unwrap();
                prop_assert_eq!((subject.uid, subject.session), (event.subject.uid, event.subject.session));
                let ancestors = view.lineage.unwrap_or_default().ancestors;
                prop_assert_eq!(ancestors.len(), event.subject.ancestors.len());
                prop_assert_eq!(view.identity.unwrap().mnt_ns, event.home.ns[0]);
                prop_assert_eq!(view.file.unwrap(), object(&event.file));
                if let What::Exec(command) = &event.what {
                    prop_assert_eq!(view.command.unwrap().args, command.args.clone());
                }
            }
            // What they have in common stands there once.
            let whole = decode_batch(&payload).unwrap();
            prop_assert!(whole.subjects.len() <= 4 && whole.identities.len() <= 2);
            prop_assert!(whole.files.len() <= 2 && whole.lineages.len() <= 1);
        }
    }
}
