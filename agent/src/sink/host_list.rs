// SPDX-License-Identifier: Apache-2.0
//! The kernel's own list, read as it grows.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use ima_log::{BinaryFormat, BinaryReader, ByteOrder, Entry, HashAlgorithm};

use super::{HOST_PCR, SinkError};
use crate::measure::{Anchorage, HostKey, PolicyEvent};

/// Where the kernel shows it.
pub const HOST_LIST: &str = "/sys/kernel/security/ima/binary_runtime_measurements";

/// In the machine's order, unless the kernel was booted with `ima_canonical_fmt`, which says little-endian.
const FORMAT: BinaryFormat = BinaryFormat {
    order: if cfg!(target_endian = "big") {
        ByteOrder::Big
    } else {
        ByteOrder::Little
    },
    hash: HashAlgorithm::Sha1,
};

/// What the kernel's list has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// All entries.
    pub entries: u64,
    /// Those of cima.
    pub ours: u64,
    /// The sinks that said there which they are: their rule was there.
    pub sinks: Vec<Anchorage>,
}

impl Listed {
    /// Reads the list at `path`.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, SinkError> {
        let mut listed = Self::default();
        HostList::open(path)?.news(|entry| listed.note(entry))?;
        Ok(listed)
    }

    fn note(&mut self, entry: &Entry) {
        self.entries += 1;
        for sink in [Anchorage::Kernel, Anchorage::ImaFile] {
            let Some(key) = sink.host_form().and_then(|form| form.key_of_listed(entry)) else {
                continue;
            };
            self.ours += 1;
            if is_said_by(sink, key) && !self.sinks.contains(&sink) {
                self.sinks.push(sink);
            }
        }
    }
}

/// Whether it is what this sink says of itself.
fn is_said_by(sink: Anchorage, key: HostKey) -> bool {
    let event = PolicyEvent::sink(sink);
    let own = Entry::ima_buf(
        HOST_PCR,
        HashAlgorithm::Sha256,
        &event.name,
        event.payload.as_bytes(),
    );
    let keys = sink.host_form().zip(own.ok());
    keys.is_some_and(|(form, own)| form.keys_of_own(&own).any(|own| own == key))
}

/// The list, open.
#[derive(Debug)]
pub(super) struct HostList {
    path: PathBuf,
    file: File,
    /// Entries read.
    read: u64,
    /// Of these so many were handed over before.
    known: u64,
    /// A reading failed in the middle: from there none goes on.
    broken: bool,
}

impl HostList {
    /// At its beginning.
    pub(super) fn open(path: &Path) -> Result<Self, SinkError> {
        let path = path.to_owned();
        match File::open(&path) {
            Ok(file) => Ok(Self {
                path,
                file,
                read: 0,
                known: 0,
                broken: false,
            }),
            Err(source) => Err(SinkError::HostList { path, source }),
        }
    }

    /// The same, at its beginning.
    pub(super) fn again(&self) -> Result<Self, SinkError> {
        Self::open(&self.path)
    }

    /// The same, opened anew: what it handed over it does not again.
    pub(super) fn reopened(&self) -> Result<Self, SinkError> {
        let known = self.read.max(self.known);
        self.again().map(|list| Self { known, ..list })
    }

    /// Hands over the entries that came since the last call. The kernel writes whole ones, and who has read to the end
    /// finds what is added there by reading on (`ima_measurements_start`, `security/integrity/ima/ima_fs.c`).
    pub(super) fn news(&mut self, mut each: impl FnMut(&Entry)) -> Result<(), SinkError> {
        if self.broken {
            *self = self.reopened()?;
        }
        for record in BinaryReader::new(&self.file, FORMAT) {
            let (_, entry) = record.map_err(|error| {
                self.broken = true;
                SinkError::HostList {
                    path: self.path.clone(),
                    source: io::Error::other(error),
                }
            })?;
            self.read += 1;
            if self.read > self.known {
                each(&entry);
            }
        }
        Ok(())
    }
}
