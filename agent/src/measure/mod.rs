// SPDX-License-Identifier: Apache-2.0
//! What is said: turns (event, identity) into measurement entries. Pure: no kernel,
//! no file, no clock.
//!
//! Two tracks. *Policy events* are the same on every node and at every boot, so
//! that a verifier can list them in advance; *context events* carry the rest, in
//! batches. Both are `ima-buf` entries; docs/FORMATS.md has the bytes.

mod context;
mod host;
mod implied;
mod listed;
mod name;
mod namespaced;
mod policy_event;

pub use context::{
    Batch, ContextEvent, Fate, Gist, PAYLOAD_PREFIX, batch_name, batch_number, decode_batch, proto,
};
pub use host::{Anchorage, CONTENT_HASHES, HostForm, HostKey, NoAnchorage, is_of_kernel};
pub use implied::implied;
pub use listed::Listed;
pub use name::{escape, file_name, unescape};
pub use namespaced::namespaced_digest;
pub use policy_event::{PolicyEvent, SelfPart, Violation};

use std::collections::HashSet;

use cima_abi::flag;

use crate::{
    containers::{Identity, Provenance},
    probes::{Breach, Event, Hash, Object, What},
    shared::{Hashed, Shared},
};

/// The file type in a mode, and that of a regular file: `include/uapi/linux/stat.h`.
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// Everything that one kernel event says.
#[derive(Debug)]
pub struct Measured {
    /// For the verifier's policy; `None` if the event says nothing new to it.
    pub policy_event: Option<PolicyEvent>,
    /// For the responder.
    pub context: ContextEvent,
}

/// Files whose execution is said to be a violation already in the group of events at hand, and in whose container. Again it
/// says nothing new; to put it into words each time is most of what an execution costs.
pub type Executed = HashSet<(Shared<Object>, Shared<Identity>), Hashed>;

/// Measures one event of the container `identity`, on the boot `boot_id`, in a group with `executed`.
pub fn measure(
    event: &Event,
    identity: &Shared<Identity>,
    boot_id: &str,
    executed: &mut Executed,
) -> Measured {
    let said = Said {
        provenance: &identity.provenance,
        event,
    };
    let policy_event = match &event.what {
        What::Measured { hash, .. } => Some(said.measured(hash)),
        What::Breach(breach) => Some(said.breached(*breach)),
        // What is executed is also measured; the execution itself is context, unless nobody may execute there.
        What::Exec(_) if event.flags & flag::UNREGISTERED != 0 => executed
            .insert((event.file.clone(), identity.clone()))
            .then(|| said.violation(Violation::Unregistered, "executed")),
        What::Denied => Some(said.violation(Violation::Unregistered, "denied")),
        What::Change(..) if event.flags & flag::OTHER_ROOT != 0 => {
            // Whatever program the runtime is: its path is not the container's.
            Some(PolicyEvent::violation(
                Violation::Root,
                &identity.provenance,
                b"/",
                "other",
            ))
        }
        What::Exec(_) | What::Change(..) | What::Ended { .. } => None,
    };
    Measured {
        policy_event,
        context: ContextEvent::of(event, identity, boot_id),
    }
}

/// What a verifier is told of an event.
struct Said<'a> {
    provenance: &'a Provenance,
    event: &'a Event,
}

impl Said<'_> {
    fn measured(&self, hash: &Hash) -> PolicyEvent {
        let event = self.event;
        let path = event.file.path.as_deref();
        let kind = event.file.id.mode & S_IFMT;
        if kind != S_IFREG {
            // The kernel hashes as many bytes as the size says: none of a device.
            return self.violation(Violation::Hash, &format!("type={kind:o}"));
        }
        let digest = match hash {
            Hash::Digest(digest) => digest,
            Hash::Unusable(algorithm) => {
                let detail = format!("algorithm={algorithm}");
                return self.violation(Violation::Hash, &detail);
            }
            Hash::Failed(errno) => {
                let detail = format!("errno={}", -errno);
                return self.violation(Violation::Hash, &detail);
            }
        };
        let detail = if event.flags & flag::COPIED_UP != 0 {
            "copied-up"
        } else if event.flags & flag::WRITER != 0 {
            "open"
        } else {
            let Some(path) = path else {
                let detail = format!("inode={};{digest}", event.file.id.inode);
                return self.violation(Violation::Path, &detail);
            };
            return PolicyEvent::exec(self.provenance, path, digest);
        };
        self.violation(Violation::Writer, &format!("{detail};{digest}"))
    }

    fn breached(&self, breach: Breach) -> PolicyEvent {
        match breach {
            Breach::Written => self.violation(Violation::Writer, "mapped"),
            Breach::Mprotect { .. } => self.violation(Violation::Mprotect, "file"),
            Breach::Anonymous { .. } => self.violation(Violation::Anonymous, "memory"),
            Breach::KernelLoad { id } => self.violation(Violation::KernelLoad, &format!("id={id}")),
        }
    }

    fn violation(&self, kind: Violation, detail: &str) -> PolicyEvent {
        let path = self.event.file.path.as_deref().unwrap_or_default();
        PolicyEvent::violation(kind, self.provenance, path, detail)
    }
}

/// What is said of `count` events that were lost on `cpu` at `at_ns` since boot. With the
/// time in it, since a value is listed once and the same loss may happen again.
pub fn loss(cause: &str, cpu: u32, count: u64, at_ns: u64) -> (PolicyEvent, ContextEvent) {
    let loss = proto::Loss {
        cause: cause.to_owned(),
        cpu,
        count,
    };
    (
        lost(cause, count, at_ns),
        ContextEvent::of_agent(at_ns, proto::context_event::What::Loss(loss)),
    )
}

fn lost(cause: &str, count: u64, at_ns: u64) -> PolicyEvent {
    let detail = format!("cause={cause};count={count};at={at_ns}");
    PolicyEvent::own_violation(Violation::Loss, &detail)
}
