// SPDX-License-Identifier: Apache-2.0
//! `cima log`: shows a list. Streams; whatever stops it, everything before is shown.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use ima_log::{CelEncoder, CelEncoding, Entry, EscapedName, HashAlgorithm, NotShowable};

use super::{
    entry_json::EntryJson,
    source::{Source, SourceError},
    unless_broken_pipe,
};
use crate::{exit::Outcome, verify::Place};

/// Show a measurement list.
///
/// LIST is a binary or ASCII list of any kernel, `-` for standard input, or a boot's
/// directory, whose segments are read as one list. Without it: the running boot's list.
/// A list that ends inside a record is shown up to there; so is one being written now.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima log                                     this boot's list, a line per entry
  cima log --json | jq 'select(.batch|not)'    policy events only
  cima log /sys/kernel/security/ima/binary_runtime_measurements
  cima log /var/lib/cima/ledger/BOOT --format binary -o list.ima
                                               one file, for evmctl or another host
  cima log --format cel-tlv --bank sha1 --bank sha256 -o list.cel
                                               for verifiers of the TCG's Canonical Event Log

In jsonl, bytes that are not printable ASCII, and backslashes, are shown as \\xNN; on a
terminal in ascii too. In a file or pipe, ascii is byte for byte what a kernel prints.

Exit codes: 0 all shown, 2 usage, or a list that cannot be read to its end.")]
pub struct LogArgs {
    /// The list
    #[arg(value_name = "LIST")]
    list: Option<PathBuf>,
    /// How entries are written
    #[arg(long, value_enum, default_value_t = Format::Ascii)]
    format: Format,
    /// With cel-tlv and cel-json: a PCR bank whose digests the log shall have; may be repeated [default: sha256]
    #[arg(long, value_name = "ALGORITHM", value_parser = bank)]
    bank: Vec<HashAlgorithm>,
    /// Short for --format jsonl
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where cimad keeps its state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cima")]
    state_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line per entry, as in the kernel's `ascii_runtime_measurements`
    Ascii,
    /// Records as in `binary_runtime_measurements`, segments joined
    Binary,
    /// A JSON object per entry, context batches decoded
    Jsonl,
    /// The TCG's Canonical Event Log, binary
    CelTlv,
    /// The TCG's Canonical Event Log, JSON
    CelJson,
}

fn bank(name: &str) -> Result<HashAlgorithm, String> {
    HashAlgorithm::from_name(name)
        .ok_or_else(|| "sha1, sha256, sha384 and sha512 are known".to_owned())
}

/// Why a list was not shown, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// See [`SourceError`].
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The output is the input.
    #[error("{} is the list itself: it would be overwritten while it is read", .0.display())]
    OverList(PathBuf),
    /// Bytes for a terminal.
    #[error("a binary list is not for a terminal: name a file (-o) or use a pipe")]
    BinaryOnTerminal,
    /// Other formats have no digests of banks.
    #[error(
        "--bank goes with --format cel-tlv or cel-json: no other format has digests of PCR banks"
    )]
    Bank,
    /// The output failed.
    #[error("cannot write to {to}: {source}")]
    Write {
        /// Where.
        to: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Names with a newline and the like.
    #[error("{at}: {source}; {}", left_out(*.others))]
    NotShowable {
        /// The first.
        at: Place,
        /// Why.
        #[source]
        source: NotShowable,
        /// How many more.
        others: u64,
    },
    /// Several of the above.
    #[error("{0}\n{1}")]
    Both(Box<LogError>, Box<LogError>),
}

fn left_out(others: u64) -> String {
    let which = match others {
        0 => "it is left out".to_owned(),
        others => format!("it and {others} more are left out"),
    };
    format!("{which} here, --format jsonl shows everything")
}

/// Runs the command.
///
/// # Errors
/// See [`LogError`].
pub fn run(args: &LogArgs) -> Result<Outcome, LogError> {
    let format = if args.json {
        Format::Jsonl
    } else {
        args.format
    };
    if !args.bank.is_empty() && !matches!(format, Format::CelTlv | Format::CelJson) {
        return Err(LogError::Bank);
    }
    let source = Source::find(args.list.as_deref(), &args.state_dir)?;
    let mut shown = Shown {
        form: Form::of(format, &args.bank),
        terminal: false,
        not_showable: None,
    };
    let (to, result) = if let Some(path) = &args.output {
        let entries = source.open()?;
        let mut file = BufWriter::new(create(path, &source)?);
        let result = shown.all(entries, &mut file);
        (path.display().to_string(), result)
    } else {
        let stdout = io::stdout().lock();
        shown.terminal = stdout.is_terminal();
        if shown.terminal && matches!(format, Format::Binary | Format::CelTlv) {
            return Err(LogError::BinaryOnTerminal);
        }
        let result = shown.all(source.open()?, &mut BufWriter::new(stdout));
        ("standard output".to_owned(), result)
    };
    let torn = match result {
        Ok(torn) => torn,
        Err(source) => {
            unless_broken_pipe(Err(source)).map_err(|source| LogError::Write { to, source })?;
            return Ok(Outcome::Good);
        }
    };
    match (torn.map(LogError::from), shown.not_showable) {
        (None, None) => Ok(Outcome::Good),
        (Some(error), None) | (None, Some(error)) => Err(error),
        (Some(torn), Some(other)) => Err(LogError::Both(Box::new(other), Box::new(torn))),
    }
}

/// Opens the output without harm to a list that is read at the same time.
fn create(path: &Path, source: &Source) -> Result<File, LogError> {
    let failed = |error| LogError::Write {
        to: path.display().to_string(),
        source: error,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if source.holds(&metadata) {
        return Err(LogError::OverList(path.to_owned()));
    }
    if metadata.is_file() {
        file.set_len(0).map_err(failed)?;
    }
    Ok(file)
}

/// How entries are written, with what that needs.
enum Form {
    Ascii,
    Binary,
    Jsonl,
    Cel(CelEncoder),
}

impl Form {
    fn of(format: Format, banks: &[HashAlgorithm]) -> Self {
        let banks = match banks {
            [] => &[HashAlgorithm::Sha256],
            named => named,
        };
        match format {
            Format::Ascii => Self::Ascii,
            Format::Binary => Self::Binary,
            Format::Jsonl => Self::Jsonl,
            Format::CelTlv => Self::Cel(CelEncoder::new(CelEncoding::Tlv, banks)),
            Format::CelJson => Self::Cel(CelEncoder::new(CelEncoding::Json, banks)),
        }
    }
}

struct Shown {
    form: Form,
    terminal: bool,
    not_showable: Option<LogError>,
}

impl Shown {
    /// Writes every entry; gives what stopped the reading, if anything did. Of several
    /// torn segments the others are told at once: a list may have thousands.
    fn all(
        &mut self,
        mut entries: super::source::Entries,
        out: &mut impl Write,
    ) -> io::Result<Option<SourceError>> {
        let mut stopped: Option<SourceError> = None;
        let mut entry = Entry::default();
        while let Some(read) = entries.read(&mut entry) {
            match read {
                Ok(place) => self.one(place, &entry, out)?,
                Err(error) => {
                    if let Some(before) = stopped.replace(error) {
                        eprintln!("cima: {before}");
                    }
                }
            }
        }
        if let Form::Cel(encoder) = &mut self.form {
            encoder.finish(out)?;
        }
        out.flush()?;
        Ok(stopped)
    }

    fn one(&mut self, place: Place, entry: &Entry, out: &mut impl Write) -> io::Result<()> {
        match &mut self.form {
            Form::Cel(encoder) => encoder.write(entry, out),
            Form::Binary => entry.write_binary(out),
            Form::Jsonl => {
                serde_json::to_writer(&mut *out, &EntryJson::new(place, entry))?;
                out.write_all(b"\n")
            }
            Form::Ascii => match entry.to_ascii() {
                Ok(line) if self.terminal => writeln!(out, "{}", EscapedName(&line)),
                Ok(mut line) => {
                    line.push(b'\n');
                    out.write_all(&line)
                }
                Err(source) => {
                    self.left_out(place, source);
                    Ok(())
                }
            },
        }
    }

    fn left_out(&mut self, at: Place, source: NotShowable) {
        match &mut self.not_showable {
            Some(LogError::NotShowable { others, .. }) => *others += 1,
            not_showable => {
                *not_showable = Some(LogError::NotShowable {
                    at,
                    source,
                    others: 0,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_escape_sequence_and_a_pipe_every_byte() {
        let digest = HashAlgorithm::Sha256.digest(b"");
        let entry = Entry::ima_ng(10, digest, b"/tmp/\x1b[2J").unwrap();
        let place = Place {
            index: 0,
            offset: 0,
            segment: None,
        };
        for (terminal, name) in [(true, &b"/tmp/\\x1b[2J\n"[..]), (false, b"/tmp/\x1b[2J\n")] {
            let mut shown = Shown {
                form: Form::Ascii,
                terminal,
                not_showable: None,
            };
            let mut out = Vec::new();
            shown.one(place, &entry, &mut out).unwrap();
            assert!(out.ends_with(name), "{}", EscapedName(&out));
        }
    }

    #[test]
    fn a_canonical_event_log_of_a_torn_list_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (list, log) = (dir.path().join("list.ima"), dir.path().join("list.cel"));
        let entry = Entry::ima_buf(13, HashAlgorithm::Sha256, "name", b"payload").unwrap();
        let record = entry.to_binary();
        std::fs::write(&list, [&record, &record[..50]].concat()).unwrap();
        let args = LogArgs {
            list: Some(list),
            format: Format::CelJson,
            bank: vec![HashAlgorithm::Sha256, HashAlgorithm::Sha384],
            json: false,
            output: Some(log.clone()),
            state_dir: PathBuf::new(),
        };
        let error = run(&args).unwrap_err();
        assert!(
            error.to_string().contains("the list ends inside it"),
            "{error}"
        );
        let log: serde_json::Value = serde_json::from_slice(&std::fs::read(log).unwrap()).unwrap();
        assert_eq!(log.as_array().unwrap().len(), 1);
        let digests = &log[0]["digests"];
        for (place, bank) in args.bank.iter().enumerate() {
            let value = hex::encode(entry.extend_value(*bank).bytes());
            assert_eq!(digests[place]["digest"], value);
        }
    }

    #[test]
    fn banks_are_refused_where_no_digests_are_written() {
        let args = LogArgs {
            list: None,
            format: Format::Ascii,
            bank: vec![HashAlgorithm::Sha1],
            json: false,
            output: None,
            state_dir: PathBuf::new(),
        };
        assert!(matches!(run(&args), Err(LogError::Bank)));
    }
}
