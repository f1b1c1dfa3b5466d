// SPDX-License-Identifier: Apache-2.0
//! Who: the identity of the container that an event came from.
//!
//! The probes say which registered container a task is in, by a number; `registry` knows what the container's
//! hook said of it. Of a container without a hook the task's namespaces are the identity, and the id in its cgroup path is
//! a hint. Takes an event, gives an identity.

mod registry;

use std::{collections::HashMap, fmt, sync::Arc};

use cima_abi::{NS_COUNT, Ns};
use image_digest::ImageDigest;

use crate::{
    probes::{Event, Home, Object},
    shared::{Hashed, Shared},
};

pub use registry::{Registered, Registry, Volume};

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
    /// Container id: as it was registered, or of the cgroup path, empty if that has none.
    pub container_id: String,
    /// Number of the registered container, 0: none.
    pub container: u64,
    /// What policy events call it.
    pub provenance: Provenance,
    /// File systems of the host that it shows.
    pub volumes: Arc<[Volume]>,
}

/// What stands for the container in policy events, which are the same on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provenance {
    /// Its image.
    Image(ImageDigest),
    /// It is registered, but its image could not be measured.
    Unmeasured,
    /// Nobody registered it, or it is no container.
    Unregistered,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(digest) => digest.fmt(f),
            Self::Unmeasured => f.write_str("unmeasured"),
            Self::Unregistered => f.write_str("unregistered"),
        }
    }
}

impl Identity {
    /// Who lives there.
    fn at(home: &Home, registered: Option<&Registered>) -> Self {
        // A path whose beginning was cut off could hide the true id and show another.
        let hint = || match home.cgroup_truncated {
            true => None,
            false => container_id(&home.cgroup),
        };
        let id = registered.map(|known| known.id.clone()).or_else(hint);
        Self {
            ns: home.ns,
            mnt_generation: home.mnt_generation,
            cgroup_id: home.cgroup_id,
            cgroup: home.cgroup.clone(),
            container_id: id.unwrap_or_default(),
            container: home.container,
            provenance: match registered {
                Some(known) => known
                    .image
                    .map_or(Provenance::Unmeasured, Provenance::Image),
                None => Provenance::Unregistered,
            },
            volumes: registered.map_or_else(|| Arc::from([]), |known| Arc::clone(&known.volumes)),
        }
    }

    /// The source of the volume that a file lies in, if it does: the one that is mounted closest above the file's path among
    /// those of the file's device, or, if the path is below none of them, any of that device. The
    /// container may have mounted it elsewhere.
    pub fn volume_of(&self, file: &Object) -> Option<String> {
        if self.volumes.is_empty() {
            return None;
        }
        let path = file.path.as_deref().unwrap_or_default();
        let on_device = || {
            let device = file.id.device;
            self.volumes
                .iter()
                .filter(move |volume| volume.device == device)
        };
        let nearest = on_device()
            .filter(|volume| volume.has(path))
            .max_by_key(|volume| volume.destination.len());
        let volume = nearest.or_else(|| on_device().next())?;
        Some(volume.source.clone())
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
pub struct Identities {
    registry: Registry,
    known: HashMap<Shared<Home>, Shared<Identity>, Hashed>,
}

impl Identities {
    /// With what hooks have said.
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            known: HashMap::default(),
        }
    }

    /// The identity of the task that caused `event`.
    pub fn of(&mut self, event: &Event) -> Shared<Identity> {
        if let Some(identity) = self.known.get(&event.home) {
            return identity.clone();
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let registered = self.registry.get(event.home.container);
        let identity = Shared::new(Identity::at(&event.home, registered.as_deref()));
        self.known.insert(event.home.clone(), identity.clone());
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
