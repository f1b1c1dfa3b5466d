// SPDX-License-Identifier: Apache-2.0
//! The programs that have the kernel list what the probes measure (`kmod-bridge/bpf`): read, tried, and attached. By libbpf,
//! which knows functions of modules; aya does not.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cima_abi::{Handed, map};
use libbpf_rs::{ErrorExt as _, ObjectBuilder, OpenObject};

use super::{LoadError, pins};

/// Their programs.
pub(super) const PROGRAMS: [&str; 3] = ["list_mmap_file", "list_bprm_check", "list_kernel_read"];
/// The probes' maps that they share, with the bytes of a key and a value.
const SHARED: [(&str, usize, usize); 2] = [
    (map::HANDED, size_of::<u64>(), size_of::<Handed>()),
    (map::SAID, size_of::<[u64; 5]>(), size_of::<u64>()),
];

/// Why the kernel cannot list what is measured.
#[derive(Debug, thiserror::Error)]
pub enum ListerError {
    /// No such file, or no right to it.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Torn, or something else.
    #[error("{} is no object with cima's programs: {source:#}", path.display())]
    Torn {
        /// The file.
        path: PathBuf,
        /// libbpf's report.
        #[source]
        source: Box<libbpf_rs::Error>,
    },
    /// Whole, and of another version.
    #[error("{} lacks {what}: it was built for another version of cima", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What this version has.
        what: &'static str,
    },
    /// By the verifier, or for lack of the module.
    #[error("the kernel refused the programs in {}: {source:#}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// libbpf's report.
        #[source]
        source: Box<libbpf_rs::Error>,
    },
}

/// The object with the programs, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lister(Vec<u8>);

impl Lister {
    /// Reads it.
    ///
    /// # Errors
    /// There is none, or it is torn or of another version.
    pub fn read(path: &Path) -> Result<Self, ListerError> {
        let bytes = fs::read(path).map_err(|source| ListerError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let object = open(&bytes).map_err(|source| ListerError::Torn {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        if let Some(what) = lacks(&object) {
            return Err(ListerError::Other {
                path: path.to_owned(),
                what,
            });
        }
        Ok(Self(bytes))
    }

    /// Reads it and has the kernel check the programs, with maps of their own. Nothing is attached.
    ///
    /// # Errors
    /// As [`Lister::read`], or the kernel refuses them.
    pub fn try_it(path: &Path) -> Result<Self, ListerError> {
        let lister = Self::read(path)?;
        let refused = |source| ListerError::Refused {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let mut object = open(&lister.0).map_err(refused)?;
        for mut map in object.maps_mut() {
            map.set_max_entries(1).map_err(refused)?;
        }
        loaded(object).map_err(refused)?;
        Ok(lister)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Attaches them and pins what keeps them so into `dir`, where the probes' maps are pinned. Before the probes are attached: what is
    /// attached last runs first.
    pub(super) fn attach(&self, dir: &Path) -> Result<(), LoadError> {
        self.attached(dir).map_err(|source| LoadError::Lister {
            source: Box::new(source),
        })
    }

    fn attached(&self, dir: &Path) -> libbpf_rs::Result<()> {
        let mut object = open(&self.0)?;
        for mut shared in object.maps_mut() {
            if let Some((name, ..)) = SHARED.iter().find(|(name, ..)| shared.name() == *name) {
                shared
                    .reuse_pinned_map(pins::map(dir, name))
                    .context("the probes' maps cannot be shared")?;
            }
        }
        let object = loaded(object)?;
        for program in object.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            let mut link = program.attach()?;
            link.pin(pins::link(dir, &name))?;
        }
        Ok(())
    }
}

fn open(bytes: &[u8]) -> libbpf_rs::Result<OpenObject> {
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Warn, |_, text| {
        tracing::debug!("libbpf: {}", text.trim_end());
    })));
    ObjectBuilder::default()
        .name("cima_list")?
        .open_memory(bytes)
}

fn loaded(object: OpenObject) -> libbpf_rs::Result<libbpf_rs::Object> {
    object
        .load()
        .context("is the kernel module loaded, and does it have BTF?")
}

/// What the agent's version has and the object has not. libbpf does not compare a shared map with the object's own.
fn lacks(object: &OpenObject) -> Option<&'static str> {
    let has_program = |name: &&str| object.progs().any(|program| program.name() == *name);
    if let Some(name) = PROGRAMS.into_iter().find(|name| !has_program(name)) {
        return Some(name);
    }
    let has_map = |(name, key, value): &(&str, usize, usize)| {
        object.maps().any(|map| {
            map.name() == *name
                && map.key_size() as usize == *key
                && map.value_size() as usize == *value
        })
    };
    SHARED
        .into_iter()
        .find(|shared| !has_map(shared))
        .map(|(name, ..)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_or_no_object_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cima-list.o");
        let said = |path: &Path| {
            let said = Lister::read(path).unwrap_err().to_string();
            assert!(said.contains(path.to_str().unwrap()), "{said}");
            said
        };
        assert!(said(&path).starts_with("cannot read"));
        // The beginning of an object for BPF: its sections are said to lie behind the end.
        let mut torn = [0; 64];
        torn[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\xf7\0");
        torn[20] = 1;
        torn[41] = 0x10;
        torn[52..64].copy_from_slice(&[64, 0, 0, 0, 0, 0, 64, 0, 9, 0, 1, 0]);
        for bytes in [&b""[..], b"not an object", &torn] {
            fs::write(&path, bytes).unwrap();
            let said = said(&path);
            assert!(said.contains("no object with cima's programs"), "{said}");
        }
    }
}
