// SPDX-License-Identifier: Apache-2.0
//! The kernel's own list, read as it grows.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use ima_log::{BinaryFormat, BinaryReader, ByteOrder, Entry, HashAlgorithm};

use super::SinkError;

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

/// The list, open.
#[derive(Debug)]
pub(super) struct HostList {
    path: PathBuf,
    file: File,
}

impl HostList {
    /// At its beginning.
    pub(super) fn open(path: &Path) -> Result<Self, SinkError> {
        let path = path.to_owned();
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(SinkError::HostList { path, source }),
        }
    }

    /// The same, at its beginning.
    pub(super) fn again(&self) -> Result<Self, SinkError> {
        Self::open(&self.path)
    }

    /// Hands over the entries that came since the last call. The kernel writes whole ones, and who has read to the end
    /// finds what is added there by reading on (`ima_measurements_start`, `security/integrity/ima/ima_fs.c`).
    pub(super) fn news(&mut self, mut each: impl FnMut(&Entry)) -> Result<(), SinkError> {
        for record in BinaryReader::new(&self.file, FORMAT) {
            let (_, entry) = record.map_err(|error| SinkError::HostList {
                path: self.path.clone(),
                source: io::Error::other(error),
            })?;
            each(&entry);
        }
        Ok(())
    }
}
