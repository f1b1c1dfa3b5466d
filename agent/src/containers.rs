// SPDX-License-Identifier: Apache-2.0
//! Who: the identity of the container that an event came from.
//!
//! Until an engine's hook announces containers, that is the task's namespaces and
//! the id in its cgroup path. Pure: takes an event, gives an identity.

use std::collections::HashMap;

use cima_abi::{NS_COUNT, Ns};

use crate::{
    probes::{Event, Home},
    shared::{Hashed, Shared},
};

/// Hexadecimal digits of a container id, as every engine writes them.
const ID_LEN: usize = 64;

/// Where a task lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Namespace inodes in the order of `cima_abi::Ns`.
    pub ns: [u32; NS_COUNT],
    /// The kernel's sequence number of the mount namespace.
    pub mnt_generation: u64,
    /// Cgroup v2 id.
    pub cgroup_id: u64,
    /// Cgroup path from the root of the hierarchy.
    pub cgroup: Vec<u8>,
    /// Container id, empty if the cgroup path has none.
    pub container_id: String,
}

impl Identity {
    /// Who lives there.
    fn at(home: &Home) -> Self {
        // A path whose beginning was cut off could hide the true id and show another.
        let id = if home.cgroup_truncated {
            None
        } else {
            container_id(&home.cgroup)
        };
        Self {
            ns: home.ns,
            mnt_generation: home.mnt_generation,
            cgroup_id: home.cgroup_id,
            cgroup: home.cgroup.clone(),
            container_id: id.unwrap_or_default(),
        }
    }

    /// Inode of one namespace.
    pub fn ns(&self, ns: Ns) -> u32 {
        self.ns[ns as usize]
    }
}

/// Homes whose identity is remembered.
const REMEMBERED: usize = 1024;

/// The identities of those who were heard of lately.
#[derive(Debug, Default)]
pub struct Identities(HashMap<Shared<Home>, Shared<Identity>, Hashed>);

impl Identities {
    /// The identity of the task that caused `event`.
    pub fn of(&mut self, event: &Event) -> Shared<Identity> {
        if let Some(identity) = self.0.get(&event.home) {
            return identity.clone();
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let identity = Shared::new(Identity::at(&event.home));
        self.0.insert(event.home.clone(), identity.clone());
        identity
    }
}

/// The id in a cgroup path such as `/machine.slice/libpod-<id>.scope/container`.
///
/// The outermost one: whoever may make cgroups inside a container could name one
/// after another container, but not above its own.
fn container_id(cgroup: &[u8]) -> Option<String> {
    cgroup.split(|b| *b == b'/').find_map(|component| {
        component
            .split(|b| !b.is_ascii_digit() && !(b'a'..=b'f').contains(b))
            .find(|run| run.len() == ID_LEN)
            .and_then(|id| String::from_utf8(id.to_vec()).ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "ff23456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_id_is_found_as_each_engine_writes_it() {
        for path in [
            format!("/libpod_parent/libpod-{ID}"),
            format!("/libpod_parent/libpod-{ID}/container"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods.slice/crio-{ID}.scope"),
        ] {
            assert_eq!(container_id(path.as_bytes()).as_deref(), Some(ID), "{path}");
        }
    }

    #[test]
    fn a_cgroup_made_inside_a_container_cannot_rename_it() {
        let path = format!("/libpod-{ID}.scope/{OTHER}");
        assert_eq!(container_id(path.as_bytes()).as_deref(), Some(ID));
    }

    #[test]
    fn what_is_no_id_is_not_taken_for_one() {
        for path in [
            "/",
            "",
            "/user.slice/user-0.slice",
            &format!("/{ID}0"),
            &ID[1..],
            "/libpod-xyz",
        ] {
            assert_eq!(container_id(path.as_bytes()), None, "{path}");
        }
    }
}
