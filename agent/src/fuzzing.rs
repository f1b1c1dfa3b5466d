// SPDX-License-Identifier: Apache-2.0
//! Parsers that are private to their rooms, for the fuzz targets in `agent/fuzz` and
//! nobody else: no part of the library's interface, and no logic of its own.

use std::path::Path;

use ima_log::{Digest, Entry};

use crate::{
    cli::{entry_json, pcr_values},
    config::{Config, ConfigError},
    ledger,
    query::{self, Filter, Kind},
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

/// Filters on a line: words of `key=value`, as the options of the verbs are called.
///
/// # Errors
/// What the command would say.
pub fn question(line: &str) -> Result<Filter, String> {
    let mut filter = Filter::default();
    let now = jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(jiff::tz::TimeZone::UTC);
    let moment = |text: &str| query::moment::parse(text, &now).map_err(|said| said.to_string());
    let said = |error: query::FilterError| error.to_string();
    for word in line.split('\x1f') {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "container" => filter.containers.push(value.parse().map_err(said)?),
            "image" => filter.images.push(value.parse().map_err(said)?),
            "path" => filter.paths.push(value.parse().map_err(said)?),
            "digest" => filter.digests.push(value.parse().map_err(said)?),
            "user" => filter.users.push(value.parse().map_err(said)?),
            "node" => filter.nodes.push(value.parse().map_err(said)?),
            "since" => filter.since = Some(moment(value)?),
            "until" => filter.until = Some(moment(value)?),
            "violations" => filter.violations = true,
            "kind" => filter
                .kinds
                .extend(Kind::ALL.iter().filter(|kind| kind.word() == value)),
            _ => return Err(format!("no filter is called so: {}", key.escape_debug())),
        }
    }
    Ok(filter)
}
