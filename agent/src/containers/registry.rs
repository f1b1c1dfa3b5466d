// SPDX-License-Identifier: Apache-2.0
//! What is known of registered containers, by number. `admission` adds them before the probes give their number to any
//! event, and takes them away when no event can have it any more; the ledger's thread looks them up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use image_digest::ImageDigest;

use crate::measure::proto;

/// A registered container, as far as events name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Unique in a boot.
    pub number: u64,
    /// As its engine calls it.
    pub id: String,
    /// Its image, if that could be measured.
    pub image: Option<ImageDigest>,
    /// File systems of the host that it shows.
    pub volumes: Arc<[Volume]>,
}

impl Registered {
    /// As a list has it.
    pub fn of(created: &proto::Created) -> Self {
        let volume = |volume: &proto::Volume| Volume {
            destination: volume.destination.clone(),
            source: volume.source.clone(),
            device: volume.device,
        };
        Self {
            number: created.container,
            id: created.id.clone(),
            image: created.image[..].try_into().ok().map(ImageDigest::new),
            volumes: created.volumes.iter().map(volume).collect(),
        }
    }
}

/// Something of the host's that a container shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Volume {
    /// Where in the container.
    pub destination: String,
    /// What of the host.
    pub source: String,
    /// The file system's device in the kernel's encoding (major << 20 | minor).
    pub device: u32,
}

impl Volume {
    /// Whether a path is that of the volume or in it.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        let destination = self.destination.trim_end_matches('/').as_bytes();
        path.strip_prefix(destination)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    }
}

/// All of them; clones are the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Mutex<HashMap<u64, Arc<Registered>>>>);

impl Registry {
    /// Adds a container.
    pub fn insert(&self, container: Registered) {
        self.all().insert(container.number, Arc::new(container));
    }

    /// Takes one away.
    pub fn remove(&self, number: u64) {
        self.all().remove(&number);
    }

    /// The container with this number.
    pub fn get(&self, number: u64) -> Option<Arc<Registered>> {
        self.all().get(&number).cloned()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Registered>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_what_is_below_it_and_not_what_begins_like_it() {
        let volume = |destination: &str| Volume {
            destination: destination.into(),
            source: "/srv".into(),
            device: 1,
        };
        for (destination, path, has) in [
            ("/data", "/data", true),
            ("/data", "/data/bin/x", true),
            ("/data/", "/data/x", true),
            ("/data", "/database", false),
            ("/", "/usr/bin/x", true),
            ("/data", "/usr", false),
        ] {
            assert_eq!(
                volume(destination).has(path.as_bytes()),
                has,
                "{destination} {path}"
            );
        }
    }
}
