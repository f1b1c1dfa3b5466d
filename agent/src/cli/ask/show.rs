// SPDX-License-Identifier: Apache-2.0
//! `cima show`: one event in full.

use std::io::{self, IsTerminal as _, Write};

use clap::Args;

use super::{AskError, Lists, events, json_line, print};
use crate::{
    cli::verdict::Paint,
    exit::Outcome,
    query::{Query, Shown},
};

/// Show one event in full: its bytes, template hash, position, and the PCR after it
///
/// EVENT is what events are called in every answer: <node>/<boot>/<entry>.<number>. The first digits of the boot are enough.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima show web-1/8c2d2a94/17.3
  cima show web-1/8c2d2a94/17 --json | jq -r .data_hex | xxd -r -p | sha1sum
                                               the template hash, made again

Exit codes: 0 shown, 1 there is no such event, 2 usage, or a list that cannot be read.")]
pub struct ShowArgs {
    /// The event
    #[arg(value_name = "EVENT")]
    event: String,
    #[command(flatten)]
    lists: Lists,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// See [`AskError`].
pub fn run(args: &ShowArgs) -> Result<Outcome, AskError> {
    let index = args.lists.open()?;
    let Some(shown) = Query::new(&index).show(&args.event)? else {
        super::note(format_args!("there is no event {}", args.event));
        return Ok(Outcome::Negative);
    };
    let paint = Paint::when(io::stdout().is_terminal());
    print(|out| match args.json {
        true => json_line(out, &shown),
        false => text(out, &shown, paint),
    })?;
    Ok(Outcome::Good)
}

fn text(out: &mut dyn Write, shown: &Shown, paint: Paint) -> io::Result<()> {
    events::line(out, &shown.event, paint)?;
    let segment = shown.segment.map(|segment| format!(", segment {segment}"));
    writeln!(
        out,
        "list          {}{}, entry {}, at byte {}",
        cima_hook::printable(&shown.list),
        segment.unwrap_or_default(),
        shown.event.entry,
        shown.offset
    )?;
    writeln!(out, "template hash {}", shown.template_hash)?;
    if let Some(sink) = &shown.sink {
        writeln!(out, "sink          {sink}, PCR {}", shown.pcr)?;
    }
    for value in &shown.extended {
        writeln!(out, "extended with {value}")?;
    }
    for value in &shown.pcr_after {
        writeln!(out, "PCR {:<2} after  {value}", shown.pcr)?;
    }
    for ancestor in &shown.event.ancestors {
        writeln!(out, "ancestor      {} ({})", ancestor.comm, ancestor.pid)?;
    }
    // Of a batch, which may have thousands, the one.
    let number = shown.event.event.and_then(|number| number.try_into().ok());
    let events = shown.entry.pointer("/batch/events");
    let own = number.and_then(|number: usize| events?.get(number));
    let text = serde_json::to_string_pretty(own.unwrap_or(&shown.entry)).unwrap_or_default();
    writeln!(out, "{text}")?;
    match own {
        Some(_) => {
            let bytes = shown.data_hex.len() / 2;
            writeln!(
                out,
                "data          {bytes} bytes, of all events of the entry: --json has them"
            )
        }
        None => writeln!(out, "data          {}", shown.data_hex),
    }
}
