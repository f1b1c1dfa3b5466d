// SPDX-License-Identifier: Apache-2.0
//! The program that runs inside a guest machine (`vm-images/`) and plays one
//! scenario: a list of named claims about cima and the machine, each checked in
//! turn. `cargo xtask vm run NAME` stages it, starts it and takes its exit code.
//!
//! Exit codes: 0 every claim holds, 1 one does not, 2 it could not be asked.

mod act;
mod agent;
mod claims;
mod evmctl;
mod guide;
mod hooks;
mod host_list;
mod kernel_sink;
mod kfunc;
mod load;
mod metrics;
mod podman;
mod process;
mod scenarios;
mod tpm_proxy;
mod work;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use claims::Claims;

#[derive(Parser)]
#[command(about = "cima's end-to-end scenarios, run inside a guest machine")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the scenarios
    List,
    /// Play a scenario
    Run {
        /// Its name
        name: String,
        /// What it takes as arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Be a container's work: what the scenarios start in namespaces of their own
    #[command(hide = true)]
    Work {
        #[command(subcommand)]
        work: work::Work,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::List => {
            for scenario in scenarios::ALL {
                println!("{:<20} {}", scenario.name, scenario.about);
            }
            ExitCode::SUCCESS
        }
        Command::Run { name, arguments } => play(&name, &arguments),
        Command::Work { work } => {
            work.run();
            ExitCode::SUCCESS
        }
    }
}

fn play(name: &str, arguments: &[String]) -> ExitCode {
    let Some(scenario) = scenarios::ALL.iter().find(|scenario| scenario.name == name) else {
        eprintln!("There is no scenario {name}: `cima-scenarios list` lists them.");
        return ExitCode::from(2);
    };
    let mut claims = Claims::new();
    claims.play(|claims| (scenario.play)(claims, arguments));
    claims.conclude()
}
