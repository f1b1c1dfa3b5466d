// SPDX-License-Identifier: Apache-2.0
//! The command for publishers, operators and responders.

use std::{
    error::Error,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use cima_agent::{
    cli::{
        ask::{
            events::{self, EventsArgs},
            explain::{self, ExplainArgs},
            export::{self, ExportArgs},
            files::{self, FilesArgs, WhereisArgs},
            index::{self, IndexArgs},
            ps::{self, PsArgs},
            schema::{self, SchemaArgs},
            show::{self, ShowArgs},
            tree::{self, TreeArgs},
        },
        diff::{self, DiffArgs},
        digest::{self, DigestArgs},
        doctor::{self, DoctorArgs},
        evidence::{self, EvidenceArgs},
        hook::{self, HookArgs},
        log::{self, LogArgs},
        policy::{self, PolicyArgs},
        reference::{self, ReferenceArgs},
        report::{self as page, ReportArgs},
        unless_broken_pipe,
        verify::{self, VerifyArgs},
        watch::{self, WatchArgs},
    },
    exit::{Outcome, report},
};
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

/// Reads and verifies what cimad measured, digests images, tries policies, tells container engines of cimad's hook, and
/// says what a host lacks. Needs no daemon, but for `hook check`, `policy explain`, `policy reload` and `watch`.
#[derive(Debug, Parser)]
#[command(
    name = "cima",
    version,
    after_help = "Examples:
  cima ps                                      which containers were there, and what of them was wrong
  cima events --since 2h --violations          what should not have happened
  cima whereis DIGEST --from nodes/            every container and node that ran it
  cima explain web --reference web.json        is it what was published, and what was not?
  cima log                                     this boot's list
  cima watch                                   what it gets, as it gets it
  cima verify                                  is it what was extended into the TPM?
  cima verify list.ima --pcrs pcrs.yaml        on another host
  cima report web -o web.html                  what there is to say of a container, to read and to hand on
  cima evidence --nonce 5f1c…                  a quote and the list that it is of, for a verifier
  cima digest containers-storage:web:1         one digest for a whole image
  cima diff oci:web:v1 overlay:web             what was published, and what the node has
  cima hook install                            let cimad judge what the engines here start
  cima doctor                                  what does this host lack?
  cima policy test DIR --input FILE            would the container start?

Exit codes: 0 good, 1 the verdict is negative, 2 usage or environment."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ps(PsArgs),
    Events(EventsArgs),
    Show(ShowArgs),
    Tree(TreeArgs),
    Files(FilesArgs),
    Whereis(WhereisArgs),
    Explain(ExplainArgs),
    Export(ExportArgs),
    Index(IndexArgs),
    Schema(SchemaArgs),
    Log(LogArgs),
    Verify(VerifyArgs),
    Evidence(EvidenceArgs),
    Digest(DigestArgs),
    Diff(DiffArgs),
    Reference(ReferenceArgs),
    Report(ReportArgs),
    Hook(HookArgs),
    Doctor(DoctorArgs),
    Policy(PolicyArgs),
    Watch(WatchArgs),
    /// Print a completion script for a shell
    ///
    /// The script goes to standard output.
    #[command(after_help = "Examples:
  cima completions bash > /usr/share/bash-completion/completions/cima
  cima completions zsh > /usr/share/zsh/site-functions/_cima
  cima completions fish > /usr/share/fish/vendor_completions.d/cima.fish

Exit codes: 0 printed, 2 usage.")]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: Shell,
    },
    /// Write manual pages: cima.1, and one for each command
    #[command(after_help = "Examples:
  cima man /usr/share/man/man1
  cima man . && man ./cima-events.1

Exit codes: 0 written, 2 usage, or a directory that cannot be written.")]
    Man {
        /// An existing directory
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// A failure to write manual pages.
#[derive(Debug, thiserror::Error)]
#[error("cannot write manual pages to {}: {source}", dir.display())]
struct ManError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

fn main() -> ExitCode {
    report("cima", run(&Args::parse().command))
}

fn run(command: &Command) -> Result<Outcome, Box<dyn Error>> {
    match command {
        Command::Ps(args) => Ok(ps::run(args)?),
        Command::Events(args) => Ok(events::run(args)?),
        Command::Show(args) => Ok(show::run(args)?),
        Command::Tree(args) => Ok(tree::run(args)?),
        Command::Files(args) => Ok(files::run(args)?),
        Command::Whereis(args) => Ok(files::whereis(args)?),
        Command::Explain(args) => Ok(explain::run(args)?),
        Command::Export(args) => Ok(export::run(args)?),
        Command::Index(args) => Ok(index::run(args)?),
        Command::Schema(args) => Ok(schema::run(args)?),
        Command::Log(args) => Ok(log::run(args)?),
        Command::Verify(args) => Ok(verify::run(args)?),
        Command::Evidence(args) => Ok(evidence::run(args)?),
        Command::Digest(args) => Ok(digest::run(args)?),
        Command::Diff(args) => Ok(diff::run(args)?),
        Command::Reference(args) => Ok(reference::run(args)?),
        Command::Report(args) => Ok(page::run(args)?),
        Command::Hook(args) => Ok(hook::run(args)?),
        Command::Doctor(args) => Ok(doctor::run(args)?),
        Command::Policy(args) => Ok(policy::run(args)?),
        Command::Watch(args) => Ok(watch::run(args)?),
        Command::Completions { shell } => Ok(completions(*shell)?),
        Command::Man { dir } => Ok(man(dir)?),
    }
}

fn completions(shell: Shell) -> io::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "cima", &mut script);
    unless_broken_pipe(io::stdout().write_all(&script))?;
    Ok(Outcome::Good)
}

fn man(dir: &Path) -> Result<Outcome, ManError> {
    // Pages are named by the program, whatever it is called here.
    let written = clap_mangen::generate_to(Args::command().name("cima"), dir);
    written.map_err(|source| ManError {
        dir: dir.to_owned(),
        source,
    })?;
    Ok(Outcome::Good)
}
