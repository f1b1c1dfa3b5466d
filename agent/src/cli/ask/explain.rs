// SPDX-License-Identifier: Apache-2.0
//! `cima explain`: a container, and what speaks against it.

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
};

use clap::Args;

use super::{AskError, Filters, Lists, events, json_line, named, print, seconds, useless};
use crate::{
    cli::{
        references::{ReferencesError, references},
        verdict::Paint,
    },
    exit::Outcome,
    query::{Explanation, Finding, Pattern, Query, Volume},
};

/// Explain containers: image claimed, measured and referenced; drift; volumes; who launched it; denied or not, and why
///
/// By the lists alone: whether they are what the TPM vouches for, cima verify says.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima explain web                             by name or id
  cima explain web --reference web.json        and compare with what was published
  cima explain 3f1c9a52 --reference references/ --from nodes/ --json

Exit codes: 0 nothing speaks against it (or there is no reference to compare with), 1 something does, or there is no such
container, 2 usage, or something that cannot be read.")]
pub struct ExplainArgs {
    /// Container, by id or name
    #[arg(value_name = "CONTAINER")]
    containers: Vec<Pattern>,
    /// Reference of an image, as cima reference writes it, or a directory of such; may be repeated
    #[arg(long, value_name = "PATH")]
    reference: Vec<PathBuf>,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    lists: Lists,
    /// A line of JSON for each
    #[arg(long)]
    json: bool,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// See [`AskError`].
    #[error(transparent)]
    Ask(#[from] AskError),
    /// See [`ReferencesError`].
    #[error(transparent)]
    References(#[from] ReferencesError),
}

/// Runs the command.
///
/// # Errors
/// See [`ExplainError`].
pub fn run(args: &ExplainArgs) -> Result<Outcome, ExplainError> {
    let mut filter = args.filters.without(useless::WITHIN)?;
    filter.containers.extend(args.containers.iter().cloned());
    let references = references(&args.reference)?;
    let index = args.lists.open()?;
    let explained = Query::new(&index).explain(&filter, &references);
    let explained = explained.map_err(AskError::from)?;
    let paint = Paint::when(io::stdout().is_terminal());
    print(|out| {
        for (number, explanation) in explained.iter().enumerate() {
            match args.json {
                true => json_line(out, explanation)?,
                false => {
                    if number > 0 {
                        writeln!(out)?;
                    }
                    text(out, explanation, paint)?;
                }
            }
        }
        Ok(())
    })?;
    if explained.is_empty() {
        super::note(format_args!("there is no such container"));
        return Ok(Outcome::Negative);
    }
    let bad = explained.iter().any(|own| own.verdict == Finding::Bad);
    Ok(if bad {
        Outcome::Negative
    } else {
        Outcome::Good
    })
}

fn text(out: &mut dyn Write, own: &Explanation, paint: Paint) -> io::Result<()> {
    let summary = &own.summary;
    let verdict = match own.verdict {
        Finding::Good => paint.good("good"),
        Finding::Bad => paint.bad("bad"),
        Finding::Unknown => paint.middling("unknown"),
    };
    let (container, node) = (&summary.container, &summary.node);
    writeln!(out, "{} on {node}: {verdict}", named(container))?;
    for reason in &own.reasons {
        writeln!(out, "  - {reason}")?;
    }
    let line = |out: &mut dyn Write, name: &str, value: &str| match value {
        "" => Ok(()),
        value => writeln!(out, "  {name:<14}{value}"),
    };
    line(out, "id", &container.id)?;
    let ended = match (&summary.gone, &summary.how) {
        (Some(gone), Some(how)) => format!("{how} {}", seconds(Some(gone))),
        _ => summary.state.word().to_owned(),
    };
    let created = seconds(summary.created.as_deref().or(summary.first_seen.as_deref()));
    line(out, "lived", &format!("from {created}, {ended}"))?;
    image(out, own, &line)?;
    if let Some(by) = &own.launched_by {
        let who = |what, id: Option<u64>| id.map(|id| format!("{what} {id}"));
        let login = who("login", by.login_uid).unwrap_or("nobody logged in".to_owned());
        let uid = who("uid", by.uid).unwrap_or_default();
        line(out, "launched by", &format!("{} {uid}, {login}", by.engine))?;
    }
    line(out, "command", &own.command.join(" "))?;
    if let Some(admission) = &own.admission {
        let said = match admission.allowed {
            true => "allowed".to_owned(),
            false => format!("denied: {}", admission.reasons.join("; ")),
        };
        line(out, "admission", &said)?;
        line(out, "by policy", &admission.policy)?;
    }
    // Engines put hosts, hostname and the like into each container: what lies in a directory called like it.
    let is_engines = |volume: &&Volume| {
        volume.executed == 0 && !container.id.is_empty() && volume.source.contains(&container.id)
    };
    let engines = own.volumes.iter().filter(is_engines).count();
    for volume in own.volumes.iter().filter(|volume| !is_engines(volume)) {
        let executed = match volume.executed {
            0 => String::new(),
            executed => format!(" ({executed} executed)"),
        };
        let (source, destination) = (&volume.source, &volume.destination);
        line(
            out,
            "volume",
            &format!("{source} at {destination}{executed}"),
        )?;
    }
    if engines > 0 {
        line(out, "", &format!("and {engines} of the engine's own"))?;
    }
    for change in &own.upper {
        line(out, "upper layer", change)?;
    }
    for drift in &own.drift {
        let digest = drift.digest.as_deref().unwrap_or("no digest");
        let volume = drift.volume.as_ref().map(|volume| format!(" {volume}"));
        let why = format!("{}{}", drift.why.words(), volume.unwrap_or_default());
        line(
            out,
            "drift",
            &format!("{} {digest} ({why})  {}", drift.path, drift.event),
        )?;
        if let Some(expected) = &drift.expected {
            line(out, "", &format!("in the reference: {expected}"))?;
        }
    }
    for event in own.joined.iter().chain(&own.violations) {
        write!(out, "  ")?;
        events::line(out, event, paint)?;
    }
    Ok(())
}

type Line<'a> = &'a dyn Fn(&mut dyn Write, &str, &str) -> io::Result<()>;

fn image(out: &mut dyn Write, own: &Explanation, line: Line<'_>) -> io::Result<()> {
    let image = &own.image;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    line(out, "image", &text(&image.reference))?;
    line(out, "manifest", &text(&image.manifest_digest))?;
    let measured = image.measured.as_deref().unwrap_or("not measured");
    line(out, "measured", measured)?;
    let as_in_it = format!("{} executed files are as in it", own.as_referenced);
    let reference = match (image.has_reference, &image.reference_name) {
        (true, Some(name)) => format!("{name}; {as_in_it}"),
        (true, None) => format!("given; {as_in_it}"),
        (false, _) => "none of this image".to_owned(),
    };
    for published in &image.published {
        line(out, "published", &format!("{published}; {as_in_it}"))?;
    }
    line(out, "reference", &reference)
}
