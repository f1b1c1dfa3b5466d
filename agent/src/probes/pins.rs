// SPDX-License-Identifier: Apache-2.0
//! Sets of probes in the BPF file system, where they outlive the agent.
//!
//! ```text
//! <pin_dir>/<key>-<id>/map-EVENTS …        the maps, the ring buffer among them
//!                      program-mmap_file …
//!                      link-mmap_file …    what keeps a program attached
//!           being-made/                    a set that is not complete
//!           being-removed/                 a set that is not complete any more
//! ```
//! The key says what the set was made from, so that an agent knows its own. The id
//! is the moment it was made, in nanoseconds since boot: it names the set's queue in the list.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

const BEING_MADE: &str = "being-made";
const BEING_REMOVED: &str = "being-removed";

/// A pinned set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    dir: PathBuf,
    key: String,
    id: u64,
}

impl Set {
    /// The complete sets below `pin_dir`, oldest first.
    pub(super) fn all(pin_dir: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(pin_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut sets = Vec::new();
        for entry in entries {
            sets.extend(Self::of(entry?.path()));
        }
        sets.sort_by_key(|set| set.id);
        Ok(sets)
    }

    fn of(dir: PathBuf) -> Option<Self> {
        let (key, id) = dir.file_name()?.to_str()?.rsplit_once('-')?;
        let (key, id) = (key.to_owned(), u64::from_str_radix(id, 16).ok()?);
        Some(Self { dir, key, id })
    }

    /// An empty place for a new set; whatever an agent left half made there is removed.
    pub(super) fn begin(pin_dir: &Path) -> io::Result<PathBuf> {
        let dir = pin_dir.join(BEING_MADE);
        remove(&dir)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(dir)
    }

    /// Gives the set that was begun its name: from now on it is complete.
    pub(super) fn complete(pin_dir: &Path, key: &str, id: u64) -> io::Result<Self> {
        let dir = pin_dir.join(format!("{key}-{id:016x}"));
        fs::rename(pin_dir.join(BEING_MADE), &dir)?;
        Ok(Self {
            dir,
            key: key.to_owned(),
            id,
        })
    }

    /// What it was made from.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// When it was made, ns since boot.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is pinned.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        map(&self.dir, name)
    }

    pub(super) fn program(&self, hook: &str) -> PathBuf {
        program(&self.dir, hook)
    }

    pub(super) fn link(&self, hook: &str) -> PathBuf {
        link(&self.dir, hook)
    }

    /// Removes all but these maps: once nobody else holds the links, the programs are
    /// attached no more.
    pub(super) fn remove_but(&self, maps: &[&str]) -> io::Result<()> {
        let kept: Vec<_> = maps.iter().map(|name| self.map(name)).collect();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if !kept.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Removes all of it, as if at once: nobody takes what is left for a set.
    ///
    /// # Errors
    /// The BPF file system refused.
    pub fn remove(&self) -> io::Result<()> {
        let doomed = self.dir.with_file_name(BEING_REMOVED);
        remove(&doomed)?;
        fs::rename(&self.dir, &doomed)?;
        remove(&doomed)
    }
}

pub(super) fn map(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("map-{name}"))
}

pub(super) fn program(dir: &Path, hook: &str) -> PathBuf {
    dir.join(format!("program-{hook}"))
}

pub(super) fn link(dir: &Path, hook: &str) -> PathBuf {
    dir.join(format!("link-{hook}"))
}

/// Removes every set below `pin_dir`, whoever made it, and says how many there were.
pub(super) fn remove_all(pin_dir: &Path) -> io::Result<usize> {
    let sets = Set::all(pin_dir)?;
    for set in &sets {
        set.remove()?;
    }
    remove(&pin_dir.join(BEING_MADE))?;
    remove(&pin_dir.join(BEING_REMOVED))?;
    match fs::remove_dir(pin_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(sets.len()),
    }
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_counts_once_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path().join("cima");
        assert_eq!(Set::all(&pins).unwrap(), []);
        let begun = Set::begin(&pins).unwrap();
        fs::write(link(&begun, "mmap_file"), "").unwrap();
        fs::write(map(&begun, "EVENTS"), "").unwrap();
        assert_eq!(Set::all(&pins).unwrap(), []);
        let set = Set::complete(&pins, "00ff", 0x123).unwrap();
        assert_eq!(Set::all(&pins).unwrap(), std::slice::from_ref(&set));
        assert_eq!((set.key(), set.id()), ("00ff", 0x123));
        set.remove_but(&["EVENTS"]).unwrap();
        assert!(!set.link("mmap_file").exists() && set.map("EVENTS").exists());
        fs::create_dir(pins.join(BEING_REMOVED)).unwrap();
        set.remove().unwrap();
        assert_eq!(fs::read_dir(&pins).unwrap().count(), 0);
    }

    #[test]
    fn what_was_left_half_made_is_removed_before_the_next_and_with_all() {
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path().join("cima");
        fs::write(Set::begin(&pins).unwrap().join("map-X"), "").unwrap();
        assert_eq!(fs::read_dir(Set::begin(&pins).unwrap()).unwrap().count(), 0);
        Set::complete(&pins, "a", 1).unwrap();
        Set::begin(&pins).unwrap();
        assert_eq!(remove_all(&pins).unwrap(), 1);
        assert!(!pins.exists());
        assert_eq!(remove_all(&pins).unwrap(), 0, "there is nothing to remove");
    }
}
