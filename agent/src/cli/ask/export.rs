// SPDX-License-Identifier: Apache-2.0
//! `cima export`: events for other tools.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use ima_log::{CelEncoder, CelEncoding, HashAlgorithm};

use super::{AskError, Filters, Lists, json_line, note, refuse_inputs};
use crate::{
    cli::{image::write_file, unless_broken_pipe},
    exit::Outcome,
    query::{Event, Filter, Kind, Page, Query, QueryError},
};

/// Write events for other tools
///
/// All that are asked for, in the order of cima events. As a Canonical Event Log it is whole entries, of one list: all that have
/// something which is asked for, and without filters the list itself, as cima log writes it, too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima export --since 7d -o week.jsonl
  cima export --format csv --kind exec -o executions.csv
  cima export --format cel-json --node web-1 -o web-1.cel.json
  cima export --from nodes/ | duckdb -c \"select kind, count(*) from read_json('/dev/stdin') group by kind\"

Exit codes: 0 written, 2 usage, or a list that cannot be read.")]
pub struct ExportArgs {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    lists: Lists,
    /// How events are written
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Write to a file instead of standard output; it is there whole, or not at all
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line of JSON for each, as cima events --json
    Jsonl,
    /// A line for each, with a header; what programs do with cells that look like formulas is prevented by a ' in front
    Csv,
    /// The TCG's Canonical Event Log, JSON
    CelJson,
    /// The TCG's Canonical Event Log, binary
    CelTlv,
}

impl Format {
    fn cel(self) -> Option<CelEncoding> {
        match self {
            Self::Jsonl | Self::Csv => None,
            Self::CelJson => Some(CelEncoding::Json),
            Self::CelTlv => Some(CelEncoding::Tlv),
        }
    }
}

enum Stop {
    Ask(AskError),
    Write(io::Error),
}

impl From<QueryError> for Stop {
    fn from(error: QueryError) -> Self {
        Self::Ask(error.into())
    }
}

/// Runs the command.
///
/// # Errors
/// See [`AskError`].
pub fn run(args: &ExportArgs) -> Result<Outcome, AskError> {
    let filter = args.filters.parse()?;
    let output = args
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    if let Some(path) = output {
        refuse_inputs(path, &args.lists.find()?, &[])?;
    }
    let index = args.lists.open()?;
    if args.format.cel().is_some() {
        let lists = index.freshness();
        let mut lists = lists.iter().filter(|list| filter.node(&list.node));
        if let (Some(one), Some(other)) = (lists.next(), lists.next()) {
            return Err(AskError::OneList(one.path.clone(), other.path.clone()));
        }
    }
    let mut query = Query::new(&index);
    let mut events = 0_u64;
    let mut failed: Option<AskError> = None;
    let mut write = |mut out: &mut dyn Write| -> io::Result<()> {
        if let Some(encoding) = args.format.cel() {
            return match log(&mut query, &filter, encoding, &mut out) {
                Ok(count) => {
                    events = count;
                    Ok(())
                }
                Err(Stop::Write(error)) => Err(error),
                Err(Stop::Ask(error)) => {
                    failed = Some(error);
                    Err(io::Error::other("there is no answer"))
                }
            };
        }
        let mut rows = Rows::new(args.format, out)?;
        let written = query.events(&filter, &Page::default(), |event| {
            events += 1;
            rows.write(&event).map(|()| true).map_err(Stop::Write)
        });
        match written {
            Ok(_) => rows.flush(),
            Err(Stop::Write(error)) => Err(error),
            // What is written is not kept.
            Err(Stop::Ask(error)) => {
                failed = Some(error);
                Err(io::Error::other("there is no answer"))
            }
        }
    };
    let (path, written) = match output {
        Some(path) => (path.to_owned(), write_file(path, |file| write(file))),
        None => {
            let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
            let written = unless_broken_pipe(write(&mut out));
            (PathBuf::from("standard output"), written)
        }
    };
    match (failed, written) {
        (Some(error), _) => return Err(error),
        (None, written) => written.map_err(super::written_to(&path))?,
    }
    if output.is_some() {
        let what = args.format.cel().map_or("events", |_| "entries");
        note(format_args!("{events} {what} are in {}", path.display()));
    }
    Ok(Outcome::Good)
}

/// Writes entries as a Canonical Event Log, which is of one list; says how many.
fn log(
    query: &mut Query<'_>,
    filter: &Filter,
    encoding: CelEncoding,
    out: &mut &mut dyn Write,
) -> Result<u64, Stop> {
    let mut filter = filter.clone();
    if filter.kinds.is_empty() {
        filter.kinds = Kind::ALL.to_vec();
    }
    let mut encoder = CelEncoder::new(encoding, &[HashAlgorithm::Sha256]);
    let mut entries = 0;
    query.entries(&filter, |entry| {
        entries += 1;
        encoder.write(entry, out).map_err(Stop::Write)
    })?;
    encoder.finish(out).map_err(Stop::Write)?;
    out.flush().map_err(Stop::Write)?;
    Ok(entries)
}

enum Rows<'a> {
    Jsonl(&'a mut dyn Write),
    Csv(Box<csv::Writer<&'a mut dyn Write>>),
}

impl<'a> Rows<'a> {
    fn new(format: Format, out: &'a mut dyn Write) -> io::Result<Self> {
        Ok(match format {
            Format::Csv => {
                let mut writer = csv::Writer::from_writer(out);
                writer.write_record(COLUMNS)?;
                Self::Csv(Box::new(writer))
            }
            _ => Self::Jsonl(out),
        })
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        match self {
            Self::Jsonl(out) => json_line(*out, event),
            Self::Csv(writer) => Ok(writer.write_record(record(event).map(harmless))?),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Jsonl(out) => out.flush(),
            Self::Csv(writer) => writer.flush(),
        }
    }
}

const COLUMNS: [&str; 20] = [
    "id",
    "node",
    "boot_id",
    "time",
    "kind",
    "violation",
    "container",
    "container_name",
    "image",
    "image_name",
    "path",
    "digest",
    "volume",
    "pid",
    "comm",
    "uid",
    "login_uid",
    "args",
    "detail",
    "damaged",
];

fn record(event: &Event) -> [String; 20] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let container = event.container.clone().unwrap_or_default();
    let process = event.process.as_ref();
    let of = |value: Option<u32>| value.map(|value| value.to_string()).unwrap_or_default();
    let digest = match &event.digest {
        Some(digest) => digest.clone(),
        None => event.digests.join(" "),
    };
    [
        event.id.clone(),
        event.node.clone(),
        text(&event.boot_id),
        text(&event.time),
        event.kind.word().to_owned(),
        event.violation.to_string(),
        container.id,
        container.name,
        container.image,
        container.image_name,
        text(&event.path),
        digest,
        text(&event.volume),
        of(process.map(|process| process.pid)),
        process
            .map(|process| process.comm.clone())
            .unwrap_or_default(),
        of(process.map(|process| process.uid)),
        of(process.and_then(|process| process.login_uid)),
        serde_json::to_string(&event.args).unwrap_or_default(),
        text(&event.detail),
        text(&event.damaged),
    ]
}

/// A spreadsheet takes what begins so for a formula.
fn harmless(cell: String) -> String {
    match cell.starts_with(['=', '+', '-', '@']) {
        true => format!("'{cell}"),
        false => cell,
    }
}
