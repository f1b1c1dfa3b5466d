// SPDX-License-Identifier: Apache-2.0
//! `cima tree`: who started whom.

use std::io::{self, Write};

use clap::Args;

use super::{AskError, Filters, Lists, json_line, note, print, seconds, useless};
use crate::{
    exit::Outcome,
    query::{Branch, Page, Query},
};

/// Generations that are indented: a hostile list may have more than a line has room for.
const DEEPEST: u32 = 40;

/// Show who started whom: processes, what they executed, and their ancestors
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima tree -c web                             of one container
  cima tree --pid 4711 --since 10m             how did this process come to be?
  cima tree -p '/tmp/*' --from nodes/          what started programs in /tmp?

One line of JSON for each process with --json, parents first, `depth` says how deep.

Exit codes: 0 shown, 2 usage, or a list that cannot be read.")]
pub struct TreeArgs {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    lists: Lists,
    /// Of so many executions at most; 0 for all
    #[arg(short = 'l', long, value_name = "N", default_value_t = 10_000)]
    limit: u64,
    /// A line of JSON for each process
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// See [`AskError`].
pub fn run(args: &TreeArgs) -> Result<Outcome, AskError> {
    let filter = args.filters.without(useless::OF_EXECUTIONS)?;
    let index = args.lists.open()?;
    let page = Page {
        limit: (args.limit > 0).then_some(args.limit),
        ..Page::default()
    };
    let tree = Query::new(&index).tree(&filter, &page)?;
    print(|out| {
        for branch in &tree.branches {
            match args.json {
                true => json_line(out, branch)?,
                false => text(out, branch)?,
            }
        }
        Ok(())
    })?;
    if tree.more.is_some() {
        note(format_args!(
            "only the first {} executions are here: --limit 0 for all, or narrow it with --since",
            args.limit
        ));
    }
    Ok(Outcome::Good)
}

fn text(out: &mut dyn Write, branch: &Branch) -> io::Result<()> {
    let depth = branch.depth.min(DEEPEST) as usize;
    let indent = "  ".repeat(depth);
    let circle = if branch.circle {
        " (named as an ancestor of itself: the list is not to be believed here)"
    } else {
        ""
    };
    let node = if depth == 0 {
        format!("  {}", branch.node)
    } else {
        String::new()
    };
    writeln!(out, "{indent}{}({}){circle}{node}", branch.comm, branch.pid)?;
    for executed in &branch.executions {
        let path = executed.path.as_deref().unwrap_or("?");
        let digest = executed.digest.as_deref().unwrap_or_default();
        let args = executed.args.get(1..).unwrap_or_default().join(" ");
        let who = |what, id: Option<u32>| id.map(|id| format!("{what} {id} ")).unwrap_or_default();
        let (uid, login) = (who("uid", executed.uid), who("login", executed.login_uid));
        writeln!(
            out,
            "{indent}  > {} {uid}{login}{path} {args} {}",
            seconds(executed.time.as_deref()),
            digest.get(..19).unwrap_or(digest)
        )?;
    }
    Ok(())
}
