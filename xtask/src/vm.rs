// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask vm`: builds guest machines, and runs a scenario, any command or
//! a shell in one.

pub(crate) mod selftest;

use std::path::PathBuf;
use std::time::Duration;

use cima_guests::{Clock, Guests, Outcome, Run, Series, Staged, Tpm};

use crate::build::{self, Part};
use crate::error::{Error, Verdict};
use crate::setup::{self, Need};
use crate::workspace;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Build the guests' root and kernels, unless they are there
    Build {
        /// Ask the archive for newer kernels
        #[arg(long)]
        refresh: bool,
        /// Only this kernel series [default: all]
        #[arg(long)]
        kernel: Option<Series>,
    },
    /// Run a scenario in a guest and end with its verdict
    Run {
        /// Its name, as `list` gives it
        scenario: String,
        /// What it takes as arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
        #[command(flatten)]
        machine: Machine,
        /// Build only the scenarios, and take the programs and probes of an earlier build
        #[arg(long)]
        scenarios_only: bool,
    },
    /// Run any command in a guest and end with its verdict
    Exec {
        #[command(flatten)]
        machine: Machine,
        /// Program and arguments, as the guest sees them
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Boot a guest and give this terminal a shell in it
    Shell {
        #[command(flatten)]
        machine: Machine,
    },
    /// List the scenarios
    List,
    /// Check that a guest in trouble fails its run
    Selftest {
        /// Only this kernel series [default: all]
        #[arg(long)]
        kernel: Option<Series>,
    },
}

/// What a run asks of its machine.
#[derive(clap::Args)]
struct Machine {
    /// Kernel series: 6.1 or 6.12
    #[arg(long, default_value_t = Series::V6_12)]
    kernel: Series,
    /// A host file to put at /cima/NAME, or at /cima/PLACE
    #[arg(long, value_name = "FILE[:PLACE]", value_parser = parse_staged)]
    stage: Vec<Staged>,
    /// PCR banks of the TPM, or "none" for a machine without one
    #[arg(long, value_name = "BANKS", value_parser = parse_tpm, default_value = "sha1,sha256,sha384,sha512")]
    tpm: Tpm,
    /// Security modules, as the kernel parameter lsm= takes them
    #[arg(long, value_name = "LIST", default_value = cima_guests::DEFAULT_LSM)]
    lsm: String,
    /// One more kernel parameter
    #[arg(long = "parameter", value_name = "NAME[=VALUE]")]
    parameters: Vec<String>,
    /// Memory in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Processors
    #[arg(long, default_value_t = 2)]
    processors: u32,
    /// Count instructions instead of time: slow, and the same at every run
    #[arg(long)]
    icount: bool,
    /// Names the run's directory: two runs at a time need two labels
    #[arg(long)]
    label: Option<String>,
    /// How long the machine may run, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 180)]
    time_limit: u64,
    /// Let the run pass though the kernel warns
    #[arg(long)]
    warnings_allowed: bool,
    /// Let the run pass though the kernel warns with this text
    #[arg(long = "expected-warning", value_name = "TEXT")]
    expected_warnings: Vec<String>,
    /// How often the guest may reset itself and boot again, with its disks as it left them
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    resets: u32,
}

fn parse_staged(text: &str) -> Result<Staged, String> {
    let (host, place) = text.split_once(':').unwrap_or((text, ""));
    let host = PathBuf::from(host);
    let name = host.file_name().ok_or("it names no file")?;
    let place = if place.is_empty() {
        PathBuf::from(name)
    } else {
        PathBuf::from(place)
    };
    Ok(Staged::new(host, place))
}

fn parse_tpm(text: &str) -> Result<Tpm, String> {
    const BANKS: [&str; 4] = ["sha1", "sha256", "sha384", "sha512"];
    if text == "none" {
        return Ok(Tpm::Absent);
    }
    let banks: Vec<String> = text.split(',').map(str::to_owned).collect();
    match banks.iter().find(|bank| !BANKS.contains(&bank.as_str())) {
        Some(bank) => Err(format!("{bank} is not one of {}", BANKS.join(", "))),
        None => Ok(Tpm::Banks(banks)),
    }
}

impl Machine {
    fn run(self, label: &str, command: Vec<String>) -> Run {
        let Self {
            kernel,
            stage,
            tpm,
            lsm,
            parameters,
            memory,
            processors,
            icount,
            label: own_label,
            time_limit,
            warnings_allowed,
            expected_warnings,
            resets,
        } = self;
        Run {
            stage: Some(workspace::stage()).filter(|stage| stage.exists()),
            staged: stage,
            tpm,
            lsm,
            parameters,
            memory,
            processors,
            clock: if icount {
                Clock::Instructions
            } else {
                Clock::Host
            },
            time_limit: Duration::from_secs(time_limit),
            warnings_allowed,
            expected_warnings,
            resets,
            environment: vec![("CIMA_GUEST_KERNEL".to_owned(), kernel.to_string())],
            ..Run::new(kernel, own_label.as_deref().unwrap_or(label), command)
        }
    }
}

pub(crate) fn run(args: Args) -> Result<Verdict, Error> {
    let guests = Guests::new(&workspace::target());
    if !matches!(args.command, Command::List) {
        setup::ensure(&[Need::Guests])?;
    }
    match args.command {
        Command::Build { refresh, kernel } => prepare(&guests, kernel, refresh),
        Command::Run {
            scenario,
            arguments,
            machine,
            scenarios_only,
        } => {
            build::build(if scenarios_only {
                &[Part::Scenarios]
            } else {
                &Part::STAGED
            })?;
            let run = machine.run(&scenario, scenario_command(&scenario, arguments));
            report(&guests.run(&run, &mut std::io::stdout())?)
        }
        Command::Exec { machine, command } => {
            let run = machine.run("exec", command);
            report(&guests.run(&run, &mut std::io::stdout())?)
        }
        Command::Shell { machine } => {
            eprintln!(
                "Booting; /cima holds what is staged, /out comes back to the host. Leave with `exit`."
            );
            let outcome = guests.shell(&shell_run(machine))?;
            eprintln!(
                "[{}] the guest's console is in {}/console.log",
                outcome.series,
                outcome.directory.display()
            );
            Ok(Verdict::Good)
        }
        Command::List => list(),
        Command::Selftest { kernel } => selftest::run(&guests, &series(kernel)),
    }
}

/// What starts a scenario in the guest.
pub(crate) fn scenario_command(scenario: &str, arguments: Vec<String>) -> Vec<String> {
    let mut command = ["/cima/bin/cima-scenarios", "run", scenario]
        .map(str::to_owned)
        .to_vec();
    command.extend(arguments);
    command
}

fn prepare(guests: &Guests, kernel: Option<Series>, refresh: bool) -> Result<Verdict, Error> {
    for series in series(kernel) {
        let kernel = guests.prepare(series, refresh)?;
        println!("[{series}] {} is ready", kernel.package);
    }
    Ok(Verdict::Good)
}

fn series(only: Option<Series>) -> Vec<Series> {
    only.map_or_else(|| Series::ALL.to_vec(), |series| vec![series])
}

/// Tells of an outcome, with the last lines of what explains a bad one.
pub(crate) fn report(outcome: &Outcome) -> Result<Verdict, Error> {
    if !outcome.passed() {
        eprint!("{}", outcome.evidence);
        eprintln!("The run's files are in {}", outcome.directory.display());
    }
    eprintln!("{outcome}");
    Ok(Verdict::from_passed(outcome.passed()))
}

/// A login shell as large as this terminal.
fn shell_run(machine: Machine) -> Run {
    let mut run = machine.run("shell", ["/bin/bash", "-l"].map(str::to_owned).to_vec());
    let size = std::process::Command::new("stty")
        .arg("size")
        .stdin(std::process::Stdio::inherit())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    if let Some((rows, columns)) = size.trim().split_once(' ') {
        let resize = format!("stty rows {rows} columns {columns}; exec bash -l");
        run.command = ["/bin/bash", "-c", &resize].map(str::to_owned).to_vec();
    }
    let terminal = std::env::var("TERM").unwrap_or_else(|_| "vt220".to_owned());
    run.environment.push(("TERM".to_owned(), terminal));
    run
}

fn list() -> Result<Verdict, Error> {
    build::build(&[Part::Scenarios])?;
    let program = workspace::stage().join("bin/cima-scenarios");
    let mut command = std::process::Command::new(program);
    print!(
        "{}",
        cima_guests::run_tool("Listing the scenarios", command.arg("list"))?
    );
    Ok(Verdict::Good)
}
