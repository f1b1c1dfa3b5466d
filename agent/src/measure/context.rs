// SPDX-License-Identifier: Apache-2.0
//! Context events and the batches they travel in.

use std::collections::HashMap;

use cima_abi::{Ns, flag};
use prost::Message as _;

use super::namespaced::namespaced_digest;
use crate::{
    containers::Identity,
    probes::{self, Event, Hash, What},
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
    time_ns: u64,
    what: Said,
}

impl ContextEvent {
    /// What the agent says of itself at `time_ns` since boot.
    pub fn of_agent(time_ns: u64, what: Said) -> Self {
        Self {
            identity: None,
            time_ns,
            what,
        }
    }

    /// What a container's task did.
    pub fn of(event: &Event, identity: &Identity, boot_id: &str) -> Self {
        let task = Some(task(event));
        let file = Some(file(event));
        let what = match &event.what {
            What::Exec {
                args,
                argc,
                truncated,
            } => Said::Execution(proto::Execution {
                task,
                file,
                args: args.clone(),
                argc: *argc,
                args_truncated: *truncated,
            }),
            What::Map {
                hash,
                prot,
                map_flags,
            } => {
                let mut mapping = proto::Mapping {
                    task,
                    file,
                    prot: *prot,
                    map_flags: *map_flags,
                    ..Default::default()
                };
                match hash {
                    Hash::Digest(digest) => {
                        mapping.digest = digest.bytes().to_vec();
                        mapping.algorithm = digest.algorithm().name().to_owned();
                        mapping.namespaced_digest =
                            namespaced_digest(digest, identity, boot_id).to_vec();
                    }
                    Hash::Unusable(number) => mapping.algorithm = format!("kernel:{number}"),
                    Hash::Failed(errno) => mapping.hash_error = *errno,
                }
                Said::Mapping(mapping)
            }
        };
        Self {
            identity: Some(identity.clone()),
            time_ns: event.time_ns,
            what,
        }
    }
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
        ancestors: event.ancestors.iter().map(process).collect(),
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

/// Collects context events into one payload, each identity once.
#[derive(Debug, Default)]
pub struct Batch {
    identities: HashMap<Identity, u32>,
    batch: proto::Batch,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event.
    pub fn push(&mut self, event: ContextEvent) {
        let ContextEvent {
            identity,
            time_ns,
            what,
        } = event;
        let identity = identity.map_or(0, |identity| self.index(identity));
        self.batch.events.push(proto::ContextEvent {
            time_ns,
            identity,
            what: Some(what),
        });
    }

    fn index(&mut self, identity: Identity) -> u32 {
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
        // A batch is cut long before 2^32 identities: see the ledger's limit.
        let index = u32::try_from(self.batch.identities.len()).unwrap_or(u32::MAX);
        self.identities.insert(identity, index);
        index
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
