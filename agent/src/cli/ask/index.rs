// SPDX-License-Identifier: Apache-2.0
//! `cima index`: the index by itself. Every other verb does the same by the way.

use clap::{Args, Subcommand};

use super::{AskError, Lists, json_line, print, seconds, table::Table};
use crate::{exit::Outcome, query::Index};

/// Make and look at the index that questions are asked of
#[derive(Debug, Args)]
pub struct IndexArgs {
    #[command(subcommand)]
    command: IndexCommand,
}

#[derive(Debug, Subcommand)]
enum IndexCommand {
    /// Bring the index up to date, or make it
    ///
    /// Every question does so by itself. For lists of weeks, it can be done before anybody waits.
    #[command(after_help = "Examples:
  cima index build                             of this host's lists
  cima index build --from nodes/ --index nodes.index

Exit codes: 0 it is up to date, 2 usage, or a list that cannot be read.")]
    Build(BuildArgs),
    /// Show which lists there are, how far they reach, and what of them cannot be read
    #[command(after_help = "Examples:
  cima index status --from nodes/
  cima index status --json | jq -r 'select(.damage) | .path'

Exit codes: 0 shown, 2 usage, or a list that cannot be read.")]
    Status(StatusArgs),
}

#[derive(Debug, Args)]
struct BuildArgs {
    #[command(flatten)]
    lists: Lists,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    lists: Lists,
    /// A line of JSON for each list
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// See [`AskError`].
pub fn run(args: &IndexArgs) -> Result<Outcome, AskError> {
    match &args.command {
        IndexCommand::Build(args) => {
            let index = args.lists.open()?;
            let new = index.new;
            print(|out| writeln!(out, "up to date: {new} entries were new"))?;
        }
        IndexCommand::Status(args) => {
            let index = args.lists.open()?;
            status(&index, args.json)?;
        }
    }
    Ok(Outcome::Good)
}

fn status(index: &Index, json: bool) -> Result<(), AskError> {
    let lists = index.freshness();
    print(|out| {
        if json {
            return lists.iter().try_for_each(|list| json_line(out, list));
        }
        let mut table =
            Table::with_header(&["NODE", "BOOT", "ENTRIES", "EVENTS", "LAST EVENT", "PATH"]);
        for list in &lists {
            let boot = list.boot_id.as_deref().unwrap_or("-");
            table.push([
                list.node.clone(),
                boot.get(..8).unwrap_or(boot).to_owned(),
                list.entries.to_string(),
                list.events.to_string(),
                seconds(list.last_event.as_deref()).to_owned(),
                list.path.clone(),
            ]);
        }
        table.write(out)
    })
}
