// SPDX-License-Identifier: Apache-2.0
//! What is said: turns (event, identity) into measurement entries. Pure: no kernel,
//! no file, no clock.
//!
//! Two tracks. *Policy events* are the same on every node and at every boot, so
//! that a verifier can list them in advance; *context events* carry the rest, in
//! batches. Both are `ima-buf` entries; docs/FORMATS.md has the bytes.

mod context;
mod name;
mod namespaced;
mod policy_event;

pub use context::{
    Batch, ContextEvent, PAYLOAD_PREFIX, batch_name, batch_number, decode_batch, proto,
};
pub use name::{escape, unescape};
pub use namespaced::namespaced_digest;
pub use policy_event::{PolicyEvent, SelfPart, Violation};

use crate::{
    containers::Identity,
    probes::{Event, Hash, What},
};

/// Everything that one kernel event says.
#[derive(Debug)]
pub struct Measured {
    /// For the verifier's policy; `None` if the event says nothing new to it.
    pub policy_event: Option<PolicyEvent>,
    /// For the responder.
    pub context: ContextEvent,
}

/// Measures one event of the container `identity`, on the boot `boot_id`.
pub fn measure(event: &Event, identity: &Identity, boot_id: &str) -> Measured {
    let policy_event = match &event.what {
        What::Map { hash, .. } => Some(mapping(event, hash)),
        // What is executed is also mapped; the execution itself is context.
        What::Exec { .. } => None,
    };
    Measured {
        policy_event,
        context: ContextEvent::of(event, identity, boot_id),
    }
}

fn mapping(event: &Event, hash: &Hash) -> PolicyEvent {
    let path = event.path.as_deref();
    match (hash, path) {
        (Hash::Digest(digest), Some(path)) => PolicyEvent::exec(path, digest),
        (Hash::Digest(digest), None) => PolicyEvent::violation(
            Violation::Path,
            b"",
            &format!("inode={};{digest}", event.file.inode),
        ),
        (Hash::Unusable(algorithm), path) => PolicyEvent::violation(
            Violation::Hash,
            path.unwrap_or_default(),
            &format!("algorithm={algorithm}"),
        ),
        (Hash::Failed(errno), path) => PolicyEvent::violation(
            Violation::Hash,
            path.unwrap_or_default(),
            &format!("errno={}", -errno),
        ),
    }
}
