// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: what cima costs, as ratios to a named peer measured in the
//! same run. Figures are judged here and nowhere else: no test is timed.
//!
//! One file per bench; `programs` compiles what they execute in the guest.

mod admission;
mod digest;
mod events;
mod exec;
mod programs;
mod query;

use cima_guests::Series;

use crate::error::{Error, Verdict};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Option<Bench>,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// What measuring adds to an execution, beside no agent and the kernel's IMA
    Exec(exec::Args),
    /// Events a second, from mapping to TPM, and memory
    Events(events::Args),
    /// Digests of a tree and of its layers, beside tools that hash or unpack the same
    Digest(digest::Args),
    /// What the hook adds to `podman run`
    Admission(admission::Args),
    /// Answers from ten million entries, beside grep and DuckDB
    Query(query::Args),
    /// All of them, one after the other
    All {
        /// Kernel series: 6.1 or 6.12
        #[arg(long, default_value_t = Series::V6_12)]
        kernel: Series,
        /// Print JSON instead of tables, a document each
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Error> {
    match &args.bench {
        Some(Bench::Exec(args)) => exec::run(args),
        Some(Bench::Events(args)) => events::run(args),
        Some(Bench::Digest(args)) => digest::run(args),
        Some(Bench::Admission(args)) => admission::run(args),
        Some(Bench::Query(args)) => query::run(args),
        Some(Bench::All { kernel, json }) => {
            let exec = exec::run(&exec::Args::usual(*kernel, *json))?;
            let events = events::run(&events::Args::usual(*kernel, *json))?;
            let digest = digest::run(&digest::Args::usual(*json))?;
            let admission = admission::run(&admission::Args::usual(*kernel, *json))?;
            let query = query::run(&query::Args::usual(*json))?;
            let good = [exec, events, digest, admission, query] == [Verdict::Good; 5];
            Ok(Verdict::from_passed(good))
        }
        None => {
            println!("exec     {}", exec::ABOUT);
            println!("events   {}", events::ABOUT);
            println!("digest   {}", digest::ABOUT);
            println!("admission  {}", admission::ABOUT);
            println!("query    {}", query::ABOUT);
            println!("all      all of them");
            Ok(Verdict::Good)
        }
    }
}
