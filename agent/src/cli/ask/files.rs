// SPDX-License-Identifier: Apache-2.0
//! `cima files` and `cima whereis`: what was executed, and where.

use std::io;

use clap::Args;

use super::{
    AskError, Filters, Lists, json_line, named, note, print, seconds, table::Table, useless,
};
use crate::{
    exit::Outcome,
    query::{DigestPattern, File, Query, QueryError, Sighting},
};

/// Show distinct executables: path, digest, when and where they were first and last seen
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima files -c web                            what container web executed, each content once
  cima files --from nodes/ -p '/tmp/*'         of all nodes
  cima files --since yesterday --json | jq -r .digest

Exit codes: 0 shown, 2 usage, or a list that cannot be read.")]
pub struct FilesArgs {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    lists: Lists,
    /// So many files at most; 0 for all
    #[arg(short = 'l', long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// A line of JSON for each
    #[arg(long)]
    json: bool,
}

/// Show every container and node that ran a digest
///
/// Of a file, or of an image. The first digits are enough. With the exit code it can be asked whether there is any.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima whereis 8c2f1d3e5a7b --from nodes/      which containers executed this content?
  cima whereis sha256:8c2f… --since 7d --json
  cima whereis $(sha256sum < evil | cut -d' ' -f1) && echo it ran

Exit codes: 0 it ran, 1 it is in none of the lists, 2 usage, or a list that cannot be read.")]
pub struct WhereisArgs {
    /// Digest, with its algorithm or without
    #[arg(value_name = "DIGEST", required = true)]
    digests: Vec<DigestPattern>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    lists: Lists,
    /// A line of JSON for each
    #[arg(long)]
    json: bool,
}

/// Runs `cima files`.
///
/// # Errors
/// See [`AskError`].
pub fn run(args: &FilesArgs) -> Result<Outcome, AskError> {
    let filter = args.filters.without(useless::OF_FILES)?;
    let index = args.lists.open()?;
    let mut files: Vec<File> = Vec::new();
    let mut more = false;
    Query::new(&index).files::<QueryError>(&filter, |file| {
        more = args.limit > 0 && files.len() >= args.limit;
        if !more {
            files.push(file);
        }
        Ok(!more)
    })?;
    print(|out| {
        if args.json {
            return files.iter().try_for_each(|file| json_line(out, file));
        }
        let mut table = Table::with_header(&[
            "FIRST SEEN",
            "LAST SEEN",
            "EXECS",
            "CONTAINERS",
            "NODES",
            "DIGEST",
            "PATH",
        ]);
        files.iter().for_each(|file| table.push(cells(file)));
        table.write(out)
    })?;
    if more {
        note(format_args!(
            "there are more than {}: --limit 0 for all",
            args.limit
        ));
    }
    Ok(Outcome::Good)
}

fn cells(file: &File) -> [String; 7] {
    let digest = file.digest.as_deref().unwrap_or("-");
    [
        seconds(file.first_seen.as_deref()).to_owned(),
        seconds(file.last_seen.as_deref()).to_owned(),
        file.executions.to_string(),
        file.containers.to_string(),
        match &file.nodes[..] {
            [one] => one.clone(),
            nodes => nodes.len().to_string(),
        },
        digest.get(..19).unwrap_or(digest).to_owned(),
        file.path.clone(),
    ]
}

/// Runs `cima whereis`.
///
/// # Errors
/// See [`AskError`].
pub fn whereis(args: &WhereisArgs) -> Result<Outcome, AskError> {
    let mut filter = args.filters.without(useless::OF_FILES)?;
    filter.digests.extend(args.digests.iter().cloned());
    let index = args.lists.open()?;
    let sightings = Query::new(&index).whereis(&filter)?;
    print(|out| sighted(out, &sightings, args.json))?;
    Ok(match sightings.is_empty() {
        true => Outcome::Negative,
        false => Outcome::Good,
    })
}

fn sighted(out: &mut dyn io::Write, sightings: &[Sighting], json: bool) -> io::Result<()> {
    if json {
        return sightings
            .iter()
            .try_for_each(|sighting| json_line(out, sighting));
    }
    if sightings.is_empty() {
        return writeln!(out, "nowhere");
    }
    let mut table = Table::with_header(&[
        "FIRST SEEN",
        "LAST SEEN",
        "NODE",
        "CONTAINER",
        "IMAGE",
        "DIGEST",
        "PATH",
    ]);
    for sighting in sightings {
        let container = &sighting.container;
        let image = match container.image_name.as_str() {
            "" => container.image.get(..19).unwrap_or(&container.image),
            name => name,
        };
        table.push([
            seconds(sighting.first_seen.as_deref()).to_owned(),
            seconds(sighting.last_seen.as_deref()).to_owned(),
            sighting.node.clone(),
            named(container),
            image.to_owned(),
            sighting
                .digest
                .get(..19)
                .unwrap_or(&sighting.digest)
                .to_owned(),
            sighting
                .path
                .clone()
                .unwrap_or_else(|| "(the image)".to_owned()),
        ]);
    }
    table.write(out)
}
