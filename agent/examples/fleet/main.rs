// SPDX-License-Identifier: Apache-2.0
//! `fleet DIR`: writes the measurement lists of a fleet that never was, for benches and for those who
//! try queries out. What agents would have seen goes through the agent's own `measure`, so the lists are what
//! agents write, and `cima verify` says good.
//!
//! ```text
//! DIR/<node>/ledger/<boot id>/00000001.ima …   the list
//! DIR/<node>/pcrs.yaml                         what `cima verify --pcrs` takes
//! DIR/*.json                                   with --incident: what `cima report --reference` takes
//! ```

mod generator;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;
use generator::{Fleet, hostile, incident, unix_seconds};

/// Write the lists of a fleet.
#[derive(Debug, Parser)]
struct Args {
    /// Where to; made if need be
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[arg(long, default_value_t = 20)]
    nodes: usize,
    /// Containers on all nodes; some are started again and again, a few besides are denied or unregistered
    #[arg(long, default_value_t = 200)]
    containers: usize,
    /// Entries of all lists together
    #[arg(long, default_value_t = 10_000_000)]
    entries: u64,
    /// The same seed gives the same lists
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// When the first node boots; the lists go on for thirty days
    #[arg(long, value_name = "TIME", default_value = "2026-10-01T00:00:00Z", value_parser = unix_seconds)]
    start: i64,
    /// Instead a few short lists with all that somebody might put into one to harm a reader
    #[arg(long)]
    hostile: bool,
    /// Instead one node on which somebody gets into a container, and references of two images
    #[arg(long, conflicts_with = "hostile")]
    incident: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    let fleet = Fleet {
        dir: args.dir,
        nodes: args.nodes,
        containers: args.containers,
        entries: args.entries,
        seed: args.seed,
        start_s: args.start,
    };
    let written = if args.hostile {
        hostile::generate(&fleet)
    } else if args.incident {
        incident::generate(&fleet)
    } else {
        generator::generate(&fleet)
    };
    match written {
        Ok(written) => {
            let seconds = began.elapsed().as_secs_f64();
            println!(
                "{} entries, {} bytes, {:.1} s, {:.0} entries/s",
                written.entries,
                written.bytes,
                seconds,
                written.entries as f64 / seconds
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::from(2)
        }
    }
}
