// SPDX-License-Identifier: Apache-2.0
//! `cima report`: what there is to say of containers, as a page to read after an incident. `collect` asks, `crate::report` makes the page.

mod collect;

use std::{
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    ask::{AskError, Filters, Lists},
    image::write_file,
    references::{ReferencesError, references},
    unless_broken_pipe,
};
use crate::{
    exit::Outcome,
    query::{Pattern, Query, QueryError},
    report,
};

/// Write what there is to say of containers as one HTML file
///
/// For a person to read after an incident, to print and to hand on: verdicts, what differs from images, violations, who started whom, a
/// timeline and a table of events to filter. The file needs nothing else and loads nothing; what containers chose to
/// call themselves is shown and never run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima report web --reference web.json -o web.html       of one container, against its image's reference
  cima report --since 2h --from nodes/ -o report.html    what ran on every node below nodes/ in two hours
  cima report --violations -o report.html                containers in which something should not have been
  cima report -i registry.example/web -o - | ssh desk 'cat > web.html'

Without a reference nothing is compared with an image. Of containers 100 are looked into, those first that something speaks
against; of events the latest 20,000 are in the file; whatever is left out is said in it.

Exit codes: 0 written, whatever it says; 2 usage, or a list that cannot be read. For a verdict as an exit code: cima verify.")]
pub struct ReportArgs {
    /// Container, by id or name, as --container
    #[arg(value_name = "CONTAINER")]
    named: Vec<Pattern>,
    /// Where to, - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Reference of an image, as cima reference writes it, or a directory of such; may be repeated
    #[arg(long, value_name = "PATH")]
    reference: Vec<PathBuf>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    lists: Lists,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// See [`AskError`].
    #[error(transparent)]
    Ask(#[from] AskError),
    /// See [`QueryError`].
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A name of no container.
    #[error(
        "no container that {0} names is in these lists, or none that the other options ask for: cima events shows what is"
    )]
    NoContainer(String),
    /// See [`ReferencesError`].
    #[error(transparent)]
    References(#[from] ReferencesError),
    /// The output failed.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs the command.
///
/// # Errors
/// See [`ReportError`].
pub fn run(args: &ReportArgs) -> Result<Outcome, ReportError> {
    let mut filter = args.filters.parse()?;
    filter.containers.extend(args.named.iter().cloned());
    if args.output != Path::new("-") {
        let lists = args.lists.find().map_err(AskError::from)?;
        super::ask::refuse_inputs(&args.output, &lists, &args.reference)?;
    }
    let references = references(&args.reference)?;
    let index = args.lists.open()?;
    let report = collect::collect(&index, &mut Query::new(&index), &filter, &references)?;
    if let (true, Some(named)) = (
        report.explained.is_empty() && report.others.these.is_empty(),
        args.named.first(),
    ) {
        return Err(ReportError::NoContainer(named.to_string()));
    }
    write(&args.output, &report::page(&report))?;
    Ok(Outcome::Good)
}

/// A reader of standard output that goes away has what it wanted; a file is there whole, or not at all.
fn write(output: &Path, page: &str) -> Result<(), ReportError> {
    let failed = |source| ReportError::Write {
        path: output.to_owned(),
        source,
    };
    if output == Path::new("-") {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = out.write_all(page.as_bytes()).and_then(|()| out.flush());
        return unless_broken_pipe(written).map_err(failed);
    }
    write_file(output, |file| file.write_all(page.as_bytes())).map_err(failed)
}
