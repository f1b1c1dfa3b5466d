// SPDX-License-Identifier: Apache-2.0
//! `cima hook`: tells container engines of cima's hook, takes that back, and finds out whether it fires. What is
//! written into which engine's file is in `engine`; `install` writes, `check` looks and tries.

mod check;
mod command;
mod engine;
mod install;

use std::path::PathBuf;

use cima_hook::{client::AskError, file::FileError};
use clap::{Args, Subcommand};

pub use check::CheckArgs;
pub(in crate::cli) use check::{Findings, Fires, answers, try_it};
pub use command::CommandError;
pub use engine::{Engine, FormatError};
pub use install::{InstallArgs, UninstallArgs};

use crate::exit::Outcome;

/// Install, remove or check the hook that lets cimad judge containers.
///
/// podman and CRI-O start hooks themselves. docker and containerd do not: they get a runtime named `cima`, which
/// adds the hook and becomes the real runtime.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima hook install                     for every engine that is found here
  cima hook check                       does podman really start it?
  cima hook uninstall --engine docker

docs/HOOK.md has what each engine needs, and what happens when cimad does not run.")]
pub struct HookArgs {
    #[command(subcommand)]
    command: HookCommand,
}

#[derive(Debug, Subcommand)]
enum HookCommand {
    Install(InstallArgs),
    Uninstall(UninstallArgs),
    Check(CheckArgs),
}

/// Why the hook was not installed, removed or checked.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Engines pass over a hook that is not there, in silence.
    #[error(
        "{} {why}: engines would start containers without it. Install it first, or say where it is with {option}",
        .path.display()
    )]
    Program {
        /// Where it was looked for.
        path: PathBuf,
        /// What it is instead.
        why: &'static str,
        /// How another place is given.
        option: &'static str,
    },
    /// What a relative path means depends on who starts the engine.
    #[error("{} is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// Nothing to install for.
    #[error(
        "no container engine is installed here: podman, crio, dockerd and containerd are in none of {}",
        engine::DIRECTORIES.join(", ")
    )]
    NoEngine,
    /// The option is for one engine.
    #[error("--default is for docker, which is not among the engines")]
    DefaultWithoutDocker,
    /// See [`FileError`].
    #[error(transparent)]
    File(#[from] FileError),
    /// See [`FormatError`].
    #[error("{}: {error}", .path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        error: FormatError,
    },
    /// No directory.
    #[error("cannot make the directory {}: {error}", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// Two at work.
    #[error("{} was changed by somebody else meanwhile: nothing was written there, try again", .0.display())]
    Changed(PathBuf),
    /// It is not known whether the hook fires.
    #[error("whether the hook fires could not be tried: {0}")]
    NotTried(String),
    /// See [`CommandError`].
    #[error("whether the hook fires could not be tried: {0}")]
    Command(#[from] CommandError),
    /// See [`AskError`].
    #[error("whether the hook fires could not be tried: {0}")]
    Ask(#[from] AskError),
    /// No directory for the container's id.
    #[error("cannot make a temporary directory: {0}")]
    Temporary(#[source] std::io::Error),
    /// The output failed.
    #[error("cannot write to standard output: {0}")]
    Write(#[source] std::io::Error),
}

/// Runs the command.
///
/// # Errors
/// See [`HookError`].
pub fn run(args: &HookArgs) -> Result<Outcome, HookError> {
    match &args.command {
        HookCommand::Install(args) => install::install(args),
        HookCommand::Uninstall(args) => install::uninstall(args),
        HookCommand::Check(args) => check::run(args),
    }
}
