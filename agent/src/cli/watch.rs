// SPDX-License-Identifier: Apache-2.0
//! `cima watch`: what happens, as it happens, from cimad.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use cima_api::WatchReply;
use cima_hook::client::{AskError, Cimad};
use clap::Args;
use ima_log::{BinaryFormat, BinaryReader, Entry, ReadError};

use super::{
    ask::{self, Filters, Lists},
    entry_json::EntryJson,
    source::running_boot,
    unless_broken_pipe,
    verdict::Paint,
};
use crate::{
    exit::Outcome,
    query::{Filter, Live, QueryError},
    verify::Place,
};

/// How long cimad may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// Show what happens, as it happens
///
/// Asks cimad, as root: an event is shown when list and TPM have it, within a few seconds. Everything comes once and
/// in order, however slowly it is read. The containers that were there before are known by this host's index.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima watch                               from now on
  cima watch --violations                  only what should not be
  cima watch -c web --kind exec --json     as cima events --json
  cima watch --entries --from-entry 0      this boot's list as cima log --json has it, and then what comes

Exit codes: 2 cimad has ended, does not answer or refuses; 0 whoever reads the output has gone.")]
pub struct WatchArgs {
    #[command(flatten)]
    filters: Filters,
    /// Number of the list's entry to begin with [default: the next one]
    #[arg(long, value_name = "NUMBER")]
    from_entry: Option<u64>,
    /// A line of JSON for each event
    #[arg(long)]
    json: bool,
    /// A line of JSON for each entry of the list, unfiltered
    #[arg(long, conflicts_with = "json")]
    entries: bool,
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
    /// See [`ask::AskError`].
    #[error(transparent)]
    Filter(#[from] ask::AskError),
    /// See [`QueryError`].
    #[error(transparent)]
    Query(#[from] QueryError),
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
    let filter = args.filters.parse()?;
    let mut shown = Shown {
        live: None,
        filter,
        json: args.json,
        paint: Paint::when(io::stdout().is_terminal()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(WatchError::Setup)?;
    let cimad = Cimad::at(args.socket.clone())?;
    match runtime.block_on(watch(&cimad, args, &mut shown)) {
        Err(WatchError::Write(error)) => {
            unless_broken_pipe(Err(error))?;
            Ok(Outcome::Good)
        }
        ended => ended.map(|()| Outcome::Good),
    }
}

/// This host, and what an index knows of it: without one, containers of before are called by their namespaces.
fn known() -> Result<Live, WatchError> {
    let node = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let live = Live::new(&node);
    match Lists::of_this_host().open() {
        Ok(index) => Ok(live.remembering(&index, &running_boot().unwrap_or_default())?),
        Err(_) => Ok(live),
    }
}

/// How entries are shown.
struct Shown {
    /// `None`: as they are.
    live: Option<Live>,
    filter: Filter,
    json: bool,
    paint: Paint,
}

async fn watch(cimad: &Cimad, args: &WatchArgs, shown: &mut Shown) -> Result<(), WatchError> {
    let mut watch = cimad.watch(args.from_entry, PATIENCE).await?;
    // After that: what is made meanwhile comes.
    if !args.entries {
        shown.live = Some(known()?);
    }
    loop {
        let reply = watch.next().await?.ok_or(WatchError::Ended)?;
        shown.show(&reply, &mut io::stdout().lock())?;
    }
}

impl Shown {
    /// Writes what the reply's entries say, and flushes: somebody waits for it.
    fn show(&mut self, reply: &WatchReply, out: &mut impl io::Write) -> Result<(), WatchError> {
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
            self.entry(place, &entry, &mut lines)?;
        }
        out.write_all(&lines)?;
        out.flush()?;
        if !reply.unreadable.is_empty() {
            eprintln!("cima: {}", cima_hook::printable(&reply.unreadable));
        }
        Ok(())
    }

    fn entry(&mut self, place: Place, entry: &Entry, lines: &mut Vec<u8>) -> io::Result<()> {
        let Some(live) = &mut self.live else {
            return ask::json_line(lines, &EntryJson::new(place, entry));
        };
        let (json, paint) = (self.json, self.paint);
        let mut written = Ok(());
        live.take(place.index, entry, &self.filter, &mut |event| {
            let line = match json {
                true => ask::json_line(lines, &event),
                false => ask::events::line(lines, &event, paint),
            };
            written = std::mem::replace(&mut written, Ok(())).and(line);
        });
        written
    }
}

#[cfg(test)]
mod tests {
    use ima_log::HashAlgorithm;

    use super::*;

    fn as_they_are() -> Shown {
        Shown {
            live: None,
            filter: Filter::default(),
            json: false,
            paint: Paint::when(false),
        }
    }

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
        as_they_are().show(&reply, &mut shown).unwrap();
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
        let shown = as_they_are().show(&reply, &mut Vec::new());
        assert!(matches!(shown, Err(WatchError::Records(_))), "{shown:?}");
    }
}
