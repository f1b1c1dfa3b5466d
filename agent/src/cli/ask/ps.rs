// SPDX-License-Identifier: Apache-2.0
//! `cima ps`: which containers there were.

use clap::Args;

use super::{AskError, Filters, Lists, json_line, named, print, seconds, table::Table, useless};
use crate::{
    exit::Outcome,
    query::{Query, Summary},
};

/// Show containers, alive and gone: image, digest, and what is to be thought of them
///
/// With --since or --until those that lived then; with --path or --digest those in which such a file was.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima ps                                      every container of this host's lists
  cima ps --since 1h --violations              of the last hour, where something was wrong
  cima ps -i registry.example/shop/web --from nodes/
  cima ps -d 8c2f1d3e --from nodes/            in which a file of this digest was
  cima ps --json | jq -r 'select(.verdict != \"clean\") | .container.id'

VERDICT is by the list alone: clean, violations, unmeasured (its image could not be measured), unannounced (no hook
told of it), denied. cima explain compares with references, cima verify with the TPM.

Exit codes: 0 shown, 2 usage, or a list that cannot be read.")]
pub struct PsArgs {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    lists: Lists,
    /// A line of JSON for each
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// See [`AskError`].
pub fn run(args: &PsArgs) -> Result<Outcome, AskError> {
    let filter = args.filters.without(useless::OF_EVENTS)?;
    let index = args.lists.open()?;
    let summaries = Query::new(&index).summaries(&filter)?;
    print(|out| {
        if args.json {
            return summaries
                .iter()
                .try_for_each(|summary| json_line(out, summary));
        }
        let mut table = Table::with_header(&[
            "NODE",
            "CONTAINER",
            "NAME",
            "VERDICT",
            "STATE",
            "CREATED",
            "GONE",
            "EXECS",
            "IMAGE",
        ]);
        summaries
            .iter()
            .for_each(|summary| table.push(cells(summary)));
        table.write(out)
    })?;
    Ok(Outcome::Good)
}

fn cells(summary: &Summary) -> [String; 9] {
    let container = &summary.container;
    let digest = container.image.get(..19).unwrap_or(&container.image);
    let image = match (container.image_name.as_str(), digest) {
        ("", "") => "-".to_owned(),
        ("", digest) => digest.to_owned(),
        (name, "") => name.to_owned(),
        (name, digest) => format!("{name} {digest}"),
    };
    let time = |time: &Option<String>| seconds(time.as_deref()).to_owned();
    let first = summary.created.as_ref().or(summary.first_seen.as_ref());
    [
        summary.node.clone(),
        container
            .id
            .get(..12)
            .filter(|id| !id.is_empty())
            .map_or_else(|| named(container), str::to_owned),
        match container.name.as_str() {
            "" => "-".to_owned(),
            name => name.to_owned(),
        },
        summary.verdict.word().to_owned(),
        summary.state.word().to_owned(),
        time(&first.cloned()),
        time(&summary.gone),
        summary.executions.to_string(),
        image,
    ]
}
