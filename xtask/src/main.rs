// SPDX-License-Identifier: Apache-2.0
//! The project's own commands, called as `cargo xtask COMMAND`. One file per
//! command; each first asks `setup` for what it needs of the machine, so that
//! any of them works alone on a fresh one.
//!
//! Exit codes: 0 all is well, 1 the verdict is negative (a build, a test or a
//! scenario failed), 2 the command could not do its work.

mod bench;
mod build;
mod demo;
mod error;
mod fuzz;
mod jobs;
mod keylime;
mod module;
mod setup;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::{Error, Verdict};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "cima's build, guests and tests"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what this machine lacks to build and test cima
    Setup(setup::Args),
    /// Build the probes, the programs and the scenarios
    Build(build::Args),
    /// Show the main job in a guest
    Demo(demo::Args),
    /// Run every test: lints, units, and scenarios on every kernel
    Test(test::Args),
    /// Measure what cima costs, beside its peers
    Bench(bench::Args),
    /// Feed the parsers what no test would think of
    Fuzz(fuzz::Args),
    /// Build guest machines, and run things in them
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<Verdict, Error> {
    // Whoever waits notices, and takes its machines and scratch files along.
    ctrlc::set_handler(cima_guests::request_interrupt).map_err(Error::Signals)?;
    match cli.command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Vm(args) => vm::run(args),
    }
}
