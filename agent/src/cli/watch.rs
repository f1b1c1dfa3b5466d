// SPDX-License-Identifier: Apache-2.0
//! `cima watch`: the list while it grows, from cimad. The entries are those of `cima log --json`, line by line.

use std::{io, path::PathBuf, time::Duration};

use cima_api::WatchReply;
use cima_hook::client::{AskError, Cimad};
use clap::Args;
use ima_log::{BinaryFormat, BinaryReader, Entry, ReadError};

use super::{entry_json::EntryJson, unless_broken_pipe};
use crate::{exit::Outcome, verify::Place};

/// How long cimad may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// Show what the list gets, as it gets it
///
/// Asks cimad, as root: an entry is shown when list and TPM have it, within a few seconds of what it tells of. Every entry
/// comes once and in order, however slowly they are read. As in `cima log --json`, a line for each.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima watch                    from now on
  cima watch --from 0           this boot's list, and then what comes
  cima watch | jq 'select(.batch|not)'

Exit codes: 2 cimad has ended, does not answer or refuses; 0 whoever reads the output has gone.")]
pub struct WatchArgs {
    /// Number of the first entry
    #[arg(long, value_name = "NUMBER")]
    from: Option<u64>,
    /// Where cimad listens
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
}

/// Why there is no more to show.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// See [`AskError`].
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A stop, or a restart.
    #[error("cimad has ended, and with it its list, until it starts again")]
    Ended,
    /// Not what cimad may send.
    #[error("cimad sent what is no part of a list: {0}")]
    Records(#[from] ReadError),
    /// No event loop.
    #[error("cannot wait for cimad: {0}")]
    Setup(#[source] io::Error),
    /// The output failed.
    #[error("cannot write to standard output: {0}")]
    Write(#[from] io::Error),
}

/// Runs the command.
///
/// # Errors
/// See [`WatchError`].
pub fn run(args: &WatchArgs) -> Result<Outcome, WatchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WatchError::Setup)?;
    let cimad = Cimad::at(args.socket.clone())?;
    match runtime.block_on(watch(&cimad, args.from)) {
        Err(WatchError::Write(error)) => {
            unless_broken_pipe(Err(error))?;
            Ok(Outcome::Good)
        }
        ended => ended.map(|()| Outcome::Good),
    }
}

async fn watch(cimad: &Cimad, from: Option<u64>) -> Result<(), WatchError> {
    let mut watch = cimad.watch(from, PATIENCE).await?;
    loop {
        let reply = watch.next().await?.ok_or(WatchError::Ended)?;
        show(&reply, &mut io::stdout().lock())?;
    }
}

/// Writes the reply's entries, and flushes: somebody waits for them.
fn show(reply: &WatchReply, out: &mut impl io::Write) -> Result<(), WatchError> {
    let mut reader = BinaryReader::new(reply.records.as_slice(), BinaryFormat::default());
    let mut entry = Entry::default();
    let mut lines = Vec::new();
    while let Some(position) = reader.read_entry(&mut entry) {
        let position = position?;
        let place = Place {
            index: reply.first_entry + position.index,
            offset: reply.offset + position.offset,
            segment: Some(reply.segment),
        };
        serde_json::to_writer(&mut lines, &EntryJson::new(place, &entry))
            .map_err(io::Error::from)?;
        lines.push(b'\n');
    }
    out.write_all(&lines)?;
    out.flush()?;
    if !reply.unreadable.is_empty() {
        eprintln!("cima: {}", cima_hook::printable(&reply.unreadable));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ima_log::HashAlgorithm;

    use super::*;

    #[test]
    fn lines_are_those_of_the_log_with_the_numbers_and_places_of_the_list() {
        let entry = |n| Entry::ima_buf(13, HashAlgorithm::Sha256, n, b"v1;x").unwrap();
        let (one, two) = (entry("one"), entry("two"));
        let reply = WatchReply {
            first_entry: 41,
            segment: 2,
            offset: 1000,
            records: [one.to_binary(), two.to_binary()].concat(),
            unreadable: String::new(),
        };
        let mut shown = Vec::new();
        show(&reply, &mut shown).unwrap();
        let length = one.binary_len() as u64;
        let line = |entry: &Entry, index, offset| {
            let place = Place {
                index,
                offset,
                segment: Some(2),
            };
            serde_json::to_string(&EntryJson::new(place, entry)).unwrap() + "\n"
        };
        let expected = line(&one, 41, 1000) + &line(&two, 42, 1000 + length);
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
    }

    #[test]
    fn half_a_record_is_an_error() {
        let record = Entry::ima_buf(13, HashAlgorithm::Sha256, "one", b"").unwrap();
        let mut records = record.to_binary();
        records.pop();
        let reply = WatchReply {
            records,
            ..WatchReply::default()
        };
        let shown = show(&reply, &mut Vec::new());
        assert!(matches!(shown, Err(WatchError::Records(_))), "{shown:?}");
    }
}
