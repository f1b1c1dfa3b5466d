// SPDX-License-Identifier: Apache-2.0
//! `cima events`: what happened, in order.

use std::io::{self, IsTerminal as _, Write};

use clap::Args;

use super::{AskError, Filters, Lists, json_line, note};
use crate::{
    cli::{unless_broken_pipe, verdict::Paint},
    exit::Outcome,
    query::{Event, Page, Query, QueryError},
};

/// Show what happened: executions, mappings, containers made and gone, violations
///
/// In the order of the lists, several by time. What is listed for verifiers only (`image`, `measured`, `agent`, `sink`, and
/// `host` for what is not cima's) is left out unless --kind asks for it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima events --since 2h                       on this host, in the last two hours
  cima events -c web --kind exec               what container web executed
  cima events --violations --from nodes/       of every node below nodes/
  cima events -p '/tmp/*' --since '2026-03-09 14:00' --until 15:00
  cima events -d 8c2f1d3e --json | jq .container.name

One line of JSON for each event with --json; cima schema event has its schema.

Exit codes: 0 shown, 2 usage, or a list that cannot be read.")]
pub struct EventsArgs {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    lists: Lists,
    /// So many events at most; 0 for all
    #[arg(short = 'l', long, value_name = "N", default_value_t = 100)]
    limit: u64,
    /// Latest first
    #[arg(short, long)]
    reverse: bool,
    /// Go on where an earlier answer ended
    #[arg(long, value_name = "TOKEN")]
    after: Option<String>,
    /// A line of JSON for each
    #[arg(long)]
    json: bool,
}

/// The reader of the output went away, or writing failed.
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
pub fn run(args: &EventsArgs) -> Result<Outcome, AskError> {
    let filter = args.filters.parse()?;
    let index = args.lists.open()?;
    let page = Page {
        backwards: args.reverse,
        limit: (args.limit > 0).then_some(args.limit),
        after: args.after.clone(),
    };
    let stdout = io::stdout().lock();
    let paint = Paint::when(stdout.is_terminal());
    let mut out = io::BufWriter::new(stdout);
    let shown = Query::new(&index).events(&filter, &page, |event| {
        let written = match args.json {
            true => json_line(&mut out, &event),
            false => line(&mut out, &event, paint),
        };
        written.map(|()| true).map_err(Stop::Write)
    });
    let next = match shown {
        Ok(next) => next,
        Err(Stop::Ask(error)) => return Err(error),
        Err(Stop::Write(error)) => {
            let failed = super::written_to("standard output".as_ref());
            return unless_broken_pipe(Err(error))
                .map(|()| Outcome::Good)
                .map_err(failed);
        }
    };
    let failed = super::written_to("standard output".as_ref());
    unless_broken_pipe(out.flush()).map_err(failed)?;
    if let Some(next) = next {
        note(format_args!(
            "there are more: --after {next}, or --limit 0 for all"
        ));
    }
    Ok(Outcome::Good)
}

/// An event on a line.
pub(in crate::cli) fn line(out: &mut dyn Write, event: &Event, paint: Paint) -> io::Result<()> {
    let time = event.time.as_deref().or(event.not_before.as_deref());
    // Microseconds and zone are for programs.
    let time = time.map_or("-", |time| time.get(..23).unwrap_or(time));
    let mark = if event.time.is_some() { ' ' } else { '>' };
    let kind = format!("{:<11}", event.kind.word());
    let kind = if event.violation {
        paint.bad(&kind)
    } else {
        kind
    };
    let container = event
        .container
        .as_ref()
        .map_or("-".to_owned(), |container| {
            let id = container.id.get(..12).unwrap_or(&container.id);
            match (container.name.as_str(), id, container.mnt_ns) {
                ("", "", Some(mnt_ns)) => format!("mnt:{mnt_ns}"),
                ("", "", None) => "-".to_owned(),
                ("", id, _) => id.to_owned(),
                (name, _, _) => name.to_owned(),
            }
        });
    write!(
        out,
        "{mark}{time} {:<10} {container:<14} {kind}",
        event.node
    )?;
    if let Some(process) = &event.process {
        write!(
            out,
            " {}({}) uid {}",
            process.comm, process.pid, process.uid
        )?;
        if let Some(login) = process.login_uid {
            write!(out, " login {login}")?;
        }
    }
    if let Some(path) = &event.path {
        write!(out, " {path}")?;
    }
    if let Some(digest) = &event.digest {
        write!(out, " {}", digest.get(..19).unwrap_or(digest))?;
    }
    if event.args.len() > 1 {
        let more = if event.args_truncated { " ..." } else { "" };
        write!(out, " [{}{more}]", event.args[1..].join(" "))?;
    }
    if let Some(volume) = &event.volume {
        write!(out, " (volume {volume})")?;
    }
    if let Some(detail) = &event.detail {
        write!(out, " ({detail})")?;
    }
    if let Some(damaged) = &event.damaged {
        write!(out, " {}", paint.bad(&format!("DAMAGED: {damaged}")))?;
    }
    writeln!(out, "  {}", event.id)
}
