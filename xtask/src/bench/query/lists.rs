// SPDX-License-Identifier: Apache-2.0
//! The lists of a fleet, as `agent/examples/fleet` makes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Doing as _, Error};

const NODES: u64 = 20;
const CONTAINERS: u64 = 200;
/// Of what the generator makes: what was made by another is made again.
const GENERATION: u32 = 1;

/// See the module.
pub(super) struct Lists {
    /// Where what is made of them goes, too.
    pub(super) place: PathBuf,
    pub(super) nodes: PathBuf,
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// The list of one node.
pub(super) struct One {
    pub(super) boot: PathBuf,
    /// As `cima verify --pcr` takes it.
    pub(super) pcr: String,
    pub(super) entries: u64,
}

impl Lists {
    /// Makes what is not there from before.
    pub(super) fn make(place: &Path, fleet: &Path, entries: u64) -> Result<Self, Error> {
        let place = place.join(format!("{entries}-{GENERATION}"));
        let (nodes, done) = (place.join("nodes"), place.join("made"));
        if !done.exists() {
            println!("Making {entries} entries in {}.", nodes.display());
            remove(&place)?;
            fs::create_dir_all(&nodes).doing("make", &nodes)?;
            let mut command = Command::new(fleet);
            command.arg(&nodes);
            for (option, value) in [
                ("--nodes", NODES),
                ("--containers", CONTAINERS),
                ("--entries", entries),
            ] {
                command.args([option, &value.to_string()]);
            }
            cima_guests::run_tool("Making the lists", &mut command)?;
            fs::write(&done, "").doing("write", &done)?;
        }
        let bytes = size_below(&nodes)?;
        Ok(Self {
            place,
            nodes,
            entries,
            bytes,
        })
    }

    /// The node in the middle: whoever reads all lists in order is half through when he comes to it.
    pub(super) fn middle(&self) -> Result<One, Error> {
        let number = NODES / 2;
        let node = self.nodes.join(format!("node-{number:02}"));
        let ledger = node.join("ledger");
        let mut boots = fs::read_dir(&ledger).doing("list", &ledger)?;
        let boot = boots.next().transpose().doing("list", &ledger)?;
        let pcrs = node.join("pcrs.yaml");
        let values = fs::read_to_string(&pcrs).doing("read", &pcrs)?;
        let value = values.split_once("sha256:").and_then(|(_, value)| {
            let (pcr, hex) = value.trim().split_once(": 0x")?;
            Some(format!("sha256:{pcr}={hex}"))
        });
        let (Some(boot), Some(pcr)) = (boot, value) else {
            let message = format!("There is no list in {}.", node.display());
            return Err(Error::Environment(message));
        };
        // The first ones have what is left over.
        let entries = self.entries / NODES + u64::from(number <= self.entries % NODES);
        Ok(One {
            boot: boot.path(),
            pcr,
            entries,
        })
    }
}

/// Bytes of the files below a directory.
fn size_below(directory: &Path) -> Result<u64, Error> {
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(directory) {
        let metadata = entry.and_then(|entry| entry.metadata());
        let metadata = metadata
            .map_err(std::io::Error::from)
            .doing("walk", directory)?;
        bytes += if metadata.is_file() {
            metadata.len()
        } else {
            0
        };
    }
    Ok(bytes)
}

/// A file and those that a database keeps beside it.
fn files(path: &Path) -> [PathBuf; 4] {
    ["", "-wal", "-shm", ".wal"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

/// Bytes of a file and of those that a database keeps beside it.
pub(super) fn size(path: &Path) -> Result<u64, Error> {
    let all = files(path);
    let there = all.iter().filter(|file| file.exists());
    there
        .map(|file| Ok(fs::metadata(file).doing("look at", file)?.len()))
        .sum()
}

/// Removes a file with those, or a directory; it need not be there.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    for file in files(path) {
        if file.is_dir() {
            fs::remove_dir_all(&file).doing("remove", &file)?;
        } else if file.exists() {
            fs::remove_file(&file).doing("remove", &file)?;
        }
    }
    Ok(())
}
