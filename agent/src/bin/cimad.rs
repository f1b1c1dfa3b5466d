// SPDX-License-Identifier: Apache-2.0
//! The node daemon.

use std::{error::Error, io, path::PathBuf, process::ExitCode};

use cima_agent::{
    config::{Config, DEFAULT_PATH},
    daemon,
    exit::{Outcome, report},
    machine::Machine,
    preflight,
};
use clap::{CommandFactory as _, Parser};
use clap_complete::Shell;
use tracing_subscriber::EnvFilter;

/// Container integrity measurement agent: measures what every container executes
/// and anchors it in the TPM.
///
/// Runs in the foreground. SIGTERM writes what is queued and ends, and leaves the probes
/// attached: they queue what they see for the next start. SIGHUP reads the measurement
/// policy again.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  cimad                              run with /etc/cima/cimad.toml
  cimad --check                      say what this host lacks, change nothing
  cimad --unload                     detach the probes that an agent has left
  cimad --config ./cimad.toml        run with another configuration
  CIMA_LOG=debug cimad               say more

Exit codes: 0 ended in order, 1 --check found something missing, 2 usage or environment."
)]
struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Only look whether everything is there
    #[arg(long)]
    check: bool,
    /// Detach and remove the probes, which otherwise go on without an agent
    #[arg(long, conflicts_with = "check")]
    unload: bool,
    /// With --check: one JSON object instead of lines
    #[arg(long, requires = "check")]
    json: bool,
    /// Print a completion script for a shell
    #[arg(long, value_name = "SHELL", exclusive = true)]
    completions: Option<Shell>,
}

fn main() -> ExitCode {
    report("cimad", run(&Args::parse()))
}

fn run(args: &Args) -> Result<Outcome, Box<dyn Error>> {
    if let Some(shell) = args.completions {
        clap_complete::generate(shell, &mut Args::command(), "cimad", &mut io::stdout());
        return Ok(Outcome::Good);
    }
    log_to_stderr();
    let (config, bytes) = Config::read(&args.config)?;
    if args.check {
        return Ok(check(&config, args.json));
    }
    if args.unload {
        let sets = daemon::unload(&config.probes.pin_dir)?;
        tracing::info!(
            "{sets} sets of probes removed from {}",
            config.probes.pin_dir.display()
        );
        return Ok(Outcome::Good);
    }
    // Memory that is small and lives long: to join its pages costs the host more than it saves.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!("the kernel may give huge pages: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(daemon::blocking_threads(&config))
        .enable_all()
        .build()?;
    let ended = runtime.block_on(daemon::run(&config, &bytes));
    // A hook's container may wait for a TPM that hangs: a stop does not.
    runtime.shutdown_background();
    ended?;
    Ok(Outcome::Good)
}

fn check(config: &Config, json: bool) -> Outcome {
    let report = preflight::check(config, &Machine::here());
    if json {
        let missing: Vec<_> = report.missing.iter().map(ToString::to_string).collect();
        let object = serde_json::json!({ "v": 1, "missing": missing, "warnings": report.warnings });
        println!("{object}");
        return verdict(&report);
    }
    for warning in &report.warnings {
        println!("warning: {warning}");
    }
    for missing in &report.missing {
        println!("missing: {missing}");
    }
    if report.missing.is_empty() {
        println!("everything is there");
    }
    verdict(&report)
}

fn verdict(report: &preflight::Report) -> Outcome {
    if report.missing.is_empty() {
        Outcome::Good
    } else {
        Outcome::Negative
    }
}

/// Plain lines: the service manager's journal adds time and unit. The probes speak at
/// level debug, and only if the configuration lets them.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("CIMA_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,tss_esapi=off,cima_probes=debug"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .init();
}
