// SPDX-License-Identifier: Apache-2.0
//! Parsers that are private to their rooms, for the fuzz targets in `agent/fuzz` and
//! nobody else: no part of the library's interface, and no logic of its own.

use std::path::Path;

use ima_log::{Digest, Entry};

use crate::{
    cli::{entry_json, pcr_values},
    config::{Config, ConfigError},
    ledger,
    verify::Place,
};

pub use crate::cli::PcrValueError;

/// The entries of an intent file, and its bytes written anew from what was read of it.
#[must_use]
pub fn intent(content: &[u8]) -> Option<(Vec<Entry>, Vec<u8>)> {
    ledger::reread_intent(content)
}

/// The values in a file of PCRs.
///
/// # Errors
/// As `cima verify --pcrs` says them.
pub fn pcr_values(text: &str) -> Result<Vec<(u32, Digest)>, PcrValueError> {
    pcr_values::parse(text)
}

/// The configuration in a file of that name.
///
/// # Errors
/// See [`ConfigError`].
pub fn config(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("cimad.toml"))
}

/// A line of `cima log --json`.
///
/// # Errors
/// The writer's.
pub fn json(place: Place, entry: &Entry, out: impl std::io::Write) -> serde_json::Result<()> {
    serde_json::to_writer(out, &entry_json::EntryJson::new(place, entry))
}
