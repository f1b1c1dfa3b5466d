// SPDX-License-Identifier: Apache-2.0
//! Context events and the batches they travel in.

use std::{collections::HashMap, hash::Hash};

use cima_abi::{Ns, flag};
use prost::Message as _;

use super::namespaced::namespaced_digest;
use crate::{
    containers::Identity,
    probes::{self, Breach, Event, Hash as FileHash, How, What},
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
    identity: Option<Identity>,
    lineage: proto::Lineage,
    file: Option<proto::File>,
    time_ns: u64,
    what: Said,
}

impl ContextEvent {
    /// What the agent says of itself at `time_ns` since boot.
    pub fn of_agent(time_ns: u64, what: Said) -> Self {
        Self {
            identity: None,
            lineage: proto::Lineage::default(),
            file: None,
            time_ns,
            what,
        }
    }

    /// What a container's task did.
    pub fn of(event: &Event, identity: &Identity, boot_id: &str) -> Self {
        let what = match &event.what {
            What::Exec {
                args,
                argc,
                truncated,
            } => Said::Execution(proto::Execution {
                task: Some(task(event)),
                args: args.clone(),
                argc: *argc,
                args_truncated: *truncated,
            }),
            What::Measured { how, hash } => {
                Said::Mapping(measured(event, *how, hash, identity, boot_id))
            }
            What::Breach(kind) => Said::Breach(breach(event, *kind)),
        };
        Self {
            identity: Some(identity.clone()),
            lineage: proto::Lineage {
                ancestors: event.ancestors.iter().map(process).collect(),
            },
            file: Some(file(event)),
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
        task: Some(task(event)),
        writer: event.flags & flag::WRITER != 0,
        copied_up: event.flags & flag::COPIED_UP != 0,
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

fn breach(event: &Event, kind: Breach) -> proto::Breach {
    use proto::breach::Kind;
    let mut breach = proto::Breach {
        task: Some(task(event)),
        ..Default::default()
    };
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

fn process(process: &probes::Process) -> proto::Process {
    proto::Process {
        tgid: process.tgid,
        start_ns: process.start_ns,
        comm: process.comm.clone(),
    }
}

fn task(event: &Event) -> proto::Task {
    proto::Task {
        process: Some(process(&event.process)),
        tid: event.tid,
        ns_tgid: event.ns_tgid,
        uid: event.uid,
        gid: event.gid,
        login_uid: event.login_uid,
        session: event.session,
    }
}

fn file(event: &Event) -> proto::File {
    // Taken apart so that a new field is not forgotten here.
    let cima_abi::FileId {
        inode,
        size,
        fs_magic,
        device,
        generation,
        links,
        mode,
    } = event.file;
    proto::File {
        path: event.path.clone().unwrap_or_default(),
        inode,
        device,
        generation,
        links,
        size,
        mode,
        fs_magic,
        overlay: event.flags & flag::OVERLAY != 0,
        memfd: event.flags & flag::MEMFD != 0,
        path_unknown: event.path.is_none(),
    }
}

/// Collects context events into one payload, each identity, lineage and file once.
#[derive(Debug, Default)]
pub struct Batch {
    identities: HashMap<Identity, u32>,
    lineages: HashMap<proto::Lineage, u32>,
    files: HashMap<proto::File, u32>,
    batch: proto::Batch,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that the kernel's queue `id` is read up to `position` with this batch.
    pub fn set_queue(&mut self, id: u64, position: u64) {
        self.batch.queue = Some(proto::Queue { id, position });
    }

    /// Adds an event.
    pub fn push(&mut self, event: ContextEvent) {
        let ContextEvent {
            identity,
            lineage,
            file,
            time_ns,
            what,
        } = event;
        let identity = identity.map_or(0, |identity| self.identity(identity));
        let lineage = if lineage.ancestors.is_empty() {
            0
        } else {
            once(lineage, &mut self.batch.lineages, &mut self.lineages)
        };
        let file = file.map_or(0, |file| once(file, &mut self.batch.files, &mut self.files));
        self.batch.events.push(proto::ContextEvent {
            time_ns,
            identity,
            lineage,
            file,
            what: Some(what),
        });
    }

    fn identity(&mut self, identity: Identity) -> u32 {
        if let Some(index) = self.identities.get(&identity) {
            return *index;
        }
        self.batch.identities.push(proto::Identity {
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
        });
        let number = number(self.batch.identities.len());
        self.identities.insert(identity, number);
        number
    }

    /// Events so far.
    pub fn len(&self) -> usize {
        self.batch.events.len()
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.batch.events.is_empty()
    }

    /// The payload of the entry `cima-ctx:<seq>`.
    pub fn into_payload(mut self, seq: u64) -> Vec<u8> {
        self.batch.seq = seq;
        let mut payload = PAYLOAD_PREFIX.to_vec();
        // A Vec grows as needed.
        let _ = self.batch.encode(&mut payload);
        payload
    }
}

/// The number of `message` in the batch, which holds it once.
fn once<M: Clone + Eq + Hash>(message: M, held: &mut Vec<M>, numbers: &mut HashMap<M, u32>) -> u32 {
    if let Some(number) = numbers.get(&message) {
        return *number;
    }
    held.push(message.clone());
    let number = number(held.len());
    numbers.insert(message, number);
    number
}

/// Numbers count from one. A batch is cut long before 2^32: see the ledger's limit.
fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
