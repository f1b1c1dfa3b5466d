// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench exec`: one guest whose clock counts instructions executes the
//! same programs with no agent, under cimad with each sink and under the kernel's IMA
//! (`tests/src/scenarios/bench_exec.rs`); this shows the times and judges cimad's.

use std::fmt;
use std::time::Duration;

use cima_guests::{Clock, Guests, Run, Series, Tpm};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::programs;
use crate::build::{self, Part};
use crate::error::{Doing as _, Error, Verdict};
use crate::setup::{self, Need};
use crate::{vm, workspace};

pub(super) const ABOUT: &str =
    "what measuring adds to an execution, beside no agent and the kernel's IMA";

/// cimad's warm time may be this much of the time with no agent.
const WARM_LIMIT: f64 = 1.02;
/// cimad's first time may be this much of that under the kernel's IMA.
const FIRST_LIMIT: f64 = 1.10;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Kernel series: 6.1 or 6.12
    #[arg(long, default_value_t = Series::V6_12)]
    kernel: Series,
    /// Only files that were executed before, or only new ones [default: both]
    #[arg(long)]
    only: Option<Pass>,
    /// Only this program [default: both]
    #[arg(long)]
    program: Option<Program>,
    /// Who measures: nobody, cimad with one of its sinks, or the kernel's IMA
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "none,pcr,kernel,ima-file,ima"
    )]
    under: Vec<Under>,
    /// Execute from an overlay, as containers do, instead of the root's ext4
    #[arg(long)]
    overlay: bool,
    /// Also have the kernel count what each of cimad's programs costs, which adds to the times
    #[arg(long)]
    hooks: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    /// What `bench all` runs.
    pub(super) fn usual(kernel: Series, json: bool) -> Self {
        Self {
            kernel,
            only: None,
            program: None,
            under: Under::ALL.to_vec(),
            overlay: false,
            hooks: false,
            json,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Under {
    /// No agent
    None,
    /// cimad, which extends a PCR
    Pcr,
    /// cimad, which has the module put entries into the kernel's list
    Kernel,
    /// cimad, which has the kernel list files
    ImaFile,
    /// The kernel's IMA
    Ima,
}

impl Under {
    const ALL: [Self; 5] = [
        Self::None,
        Self::Pcr,
        Self::Kernel,
        Self::ImaFile,
        Self::Ima,
    ];

    fn is_cimad(self) -> bool {
        matches!(self, Self::Pcr | Self::Kernel | Self::ImaFile)
    }

    /// Whether an execution of something new waits for the TPM.
    fn waits_for_tpm(self) -> bool {
        matches!(self, Self::Kernel | Self::Ima)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Program {
    /// A static one of 1 MiB
    Static,
    /// One with 40 libraries of 60 KiB
    Libraries,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Pass {
    /// The same files again and again
    Warm,
    /// Files that nobody executed before
    First,
}

/// What the guest reports.
#[derive(Deserialize)]
struct Report {
    kernel: String,
    overlay: bool,
    /// Memory of the kernel module, if it was loaded.
    module_bytes: Option<u64>,
    rows: Vec<Row>,
}

/// Executions of one program under one of the peers.
#[derive(Deserialize, Serialize)]
struct Row {
    program: Program,
    pass: Pass,
    under: Under,
    /// Files that one execution maps, without the system's own.
    files: u32,
    runs: u32,
    /// Microseconds for one execution, the mean of each block.
    blocks_us: Vec<f64>,
    /// Files of the row that are in the list of whoever measures.
    measured: u32,
    /// Mappings in cimad's list.
    events: Option<u32>,
    /// cimad's own processor time for one execution.
    agent_cpu_us: Option<f64>,
    /// From the last execution until cimad has written what it knew.
    caught_up_after_ms: Option<f64>,
    /// What cimad's programs cost, if that was asked for.
    hooks: Option<Vec<Hook>>,
}

/// One of cimad's programs, for one execution.
#[derive(Deserialize, Serialize)]
struct Hook {
    hook: String,
    ns: f64,
    runs: f64,
}

pub(super) fn run(args: &Args) -> Result<Verdict, Error> {
    setup::ensure(&[Need::Programs, Need::Probes, Need::Guests])?;
    build::build(match args.under.contains(&Under::Kernel) {
        true => &Part::STAGED,
        false => &Part::ALL,
    })?;
    let guests = Guests::new(&workspace::target());
    let outcome = guests.run(&machine(args)?, &mut std::io::stderr())?;
    if vm::report(&outcome)? == Verdict::Bad {
        return Ok(Verdict::Bad);
    }
    let path = outcome.directory.join("out/bench-exec.json");
    let text = std::fs::read_to_string(&path).doing("read", &path)?;
    let report: Report = serde_json::from_str(&text).map_err(|error| {
        Error::Environment(format!("{} is not a report: {error}.", path.display()))
    })?;
    let targets = report.targets();
    if args.json {
        println!("{:#}", report.json(&targets));
    } else {
        print!("{report}");
        for target in &targets {
            println!("{target}");
        }
    }
    Ok(Verdict::from_passed(targets.iter().all(Target::met)))
}

/// Both banks that a TPM is sold with, and a clock that no neighbour disturbs.
fn machine(args: &Args) -> Result<Run, Error> {
    let Args {
        kernel,
        only,
        program,
        under,
        overlay,
        hooks,
        json: _,
    } = args;
    let words = [
        ("--under", names(under)),
        ("--program", names(&one_or_all(*program))),
        ("--pass", names(&one_or_all(*only))),
    ];
    let words = words.map(|(option, value)| [option.to_owned(), value]);
    let mut words = words.concat();
    words.extend(overlay.then(|| "--overlay".to_owned()));
    words.extend(hooks.then(|| "--hooks".to_owned()));
    Ok(Run {
        stage: Some(workspace::stage()),
        staged: programs::build()?,
        tpm: Tpm::Banks(["sha1", "sha256"].map(str::to_owned).to_vec()),
        clock: Clock::Instructions,
        environment: vec![("CIMA_GUEST_KERNEL".to_owned(), kernel.to_string())],
        time_limit: Duration::from_secs(45 * 60),
        ..Run::new(
            *kernel,
            "bench-exec",
            vm::scenario_command("bench-exec", words),
        )
    })
}

fn one_or_all<T: ValueEnum + Copy>(one: Option<T>) -> Vec<T> {
    one.map_or_else(|| T::value_variants().to_vec(), |one| vec![one])
}

fn names<T: ValueEnum>(values: &[T]) -> String {
    let names = values.iter().filter_map(ValueEnum::to_possible_value);
    let names: Vec<String> = names.map(|name| name.get_name().to_owned()).collect();
    names.join(",")
}

impl Row {
    fn mean(&self) -> f64 {
        self.blocks_us.iter().sum::<f64>() / self.blocks_us.len() as f64
    }

    fn median(&self) -> f64 {
        let mut sorted = self.blocks_us.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        }
    }

    fn quickest(&self) -> f64 {
        self.blocks_us.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// What ratios are made of: the mean, so that what cimad puts off to another block
    /// counts. Not so for who waits within an execution for the TPM, which runs on the
    /// host's clock: a busy host would make that peer slow.
    fn figure(&self) -> f64 {
        if self.under.waits_for_tpm() && self.pass == Pass::First {
            self.quickest()
        } else {
            self.mean()
        }
    }
}

/// A bound that was set before anything was measured.
#[derive(Serialize)]
struct Target {
    program: Program,
    pass: Pass,
    under: Under,
    beside: Under,
    limit: f64,
    ratio: f64,
}

impl Target {
    fn met(&self) -> bool {
        self.ratio <= self.limit
    }
}

impl Report {
    /// A row's figure to that of another peer; `None` unless both were measured.
    fn ratio(&self, row: &Row, beside: Under) -> Option<f64> {
        let same = |other: &&Row| {
            (other.program, other.pass, other.under) == (row.program, row.pass, beside)
        };
        let peer = self.rows.iter().find(same)?;
        Some(row.figure() / peer.figure())
    }

    fn targets(&self) -> Vec<Target> {
        // Of the sink `ima-file` nobody promises anything: what the kernel does for each file is its own.
        let judged = [Under::Pcr, Under::Kernel];
        let ours = self.rows.iter().filter(|row| judged.contains(&row.under));
        ours.filter_map(|row| {
            let (beside, limit) = match row.pass {
                Pass::Warm => (Under::None, WARM_LIMIT),
                Pass::First => (Under::Ima, FIRST_LIMIT),
            };
            Some(Target {
                program: row.program,
                pass: row.pass,
                under: row.under,
                beside,
                limit,
                ratio: self.ratio(row, beside)?,
            })
        })
        .collect()
    }

    fn json(&self, targets: &[Target]) -> serde_json::Value {
        let rows = self.rows.iter().map(|row| {
            let mut told = serde_json::json!(row);
            told["median_us"] = row.median().into();
            told["mean_us"] = row.mean().into();
            told["quickest_us"] = row.quickest().into();
            told["to_none"] = self.ratio(row, Under::None).into();
            told["to_ima"] = self.ratio(row, Under::Ima).into();
            told
        });
        let targets = targets.iter().map(|target| {
            let mut told = serde_json::json!(target);
            told["met"] = target.met().into();
            told
        });
        serde_json::json!({
            "bench": "exec",
            "kernel": self.kernel,
            "overlay": self.overlay,
            "module_bytes": self.module_bytes,
            "rows": rows.collect::<Vec<_>>(),
            "targets": targets.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kernel, overlay, ..
        } = self;
        let place = if *overlay { "an overlay" } else { "ext4" };
        writeln!(
            f,
            "\nLinux {kernel}, programs on {place}, one emulated processor, 2 ns an instruction.\n\
             µs of guest time for one execution. Ratios are of means; of the kernel's IMA and the sink kernel, which wait at the first\n\
             time for a TPM that runs on the host's clock, the quickest block counts then. Measured: files in the list of who measures.\n"
        )?;
        writeln!(
            f,
            "{:<42}{:>10}{:>11}{:>11}{:>13}{:>15}{:>10}{:>10}{:>13}{:>12}",
            "",
            "median",
            "mean",
            "quickest",
            "to no agent",
            "to kernel IMA",
            "measured",
            "mappings",
            "cimad's CPU",
            "caught up"
        )?;
        for program in Program::value_variants() {
            for pass in Pass::value_variants() {
                let rows = self.rows.iter();
                for row in rows.filter(|row| (row.program, row.pass) == (*program, *pass)) {
                    self.line(f, row)?;
                    for hook in row.hooks.iter().flatten() {
                        writeln!(f, "{hook}")?;
                    }
                }
            }
        }
        if let Some(bytes) = self.module_bytes {
            let kib = bytes as f64 / 1024.0;
            writeln!(f, "\nThe kernel module takes {kib:.0} KiB of memory.")?;
        }
        writeln!(f)
    }
}

impl Report {
    fn line(&self, f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
        let what = format!("{}, {}", row.program, row.pass);
        let ratio = |beside: Under, show: bool| {
            let ratio = self.ratio(row, beside).filter(|_| show);
            ratio.map(percent).unwrap_or_default()
        };
        let figure = |value: Option<f64>, unit: &str| {
            value.map_or_else(String::new, |value| format!("{value:.1} {unit}"))
        };
        let events = row.events.map(|events| events.to_string());
        writeln!(
            f,
            "{what:<26}{:<16}{:>10.1}{:>11.1}{:>11.1}{:>13}{:>15}{:>10}{:>10}{:>13}{:>12}",
            row.under.to_string(),
            row.median(),
            row.mean(),
            row.quickest(),
            ratio(Under::None, row.under != Under::None),
            ratio(Under::Ima, row.under.is_cimad()),
            row.measured,
            events.unwrap_or_default(),
            figure(row.agent_cpu_us, "µs"),
            figure(row.caught_up_after_ms, "ms"),
        )
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hook, ns, runs } = self;
        write!(
            f,
            "    {hook:<24}{:>8.0} ns x {runs:>6.2} ={:>8.2} µs",
            ns / runs,
            ns / 1e3
        )
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            pass,
            under,
            beside,
            limit,
            ratio,
        } = self;
        let verdict = if self.met() { "met   " } else { "MISSED" };
        write!(
            f,
            "{verdict} {program}, {pass}: {under} {} to {beside}, at most {}",
            percent(*ratio),
            percent(*limit)
        )
    }
}

/// A ratio as what comes on top, or as a multiple when it is not near one.
fn percent(ratio: f64) -> String {
    if ratio < 3.0 {
        format!("{:+.1} %", (ratio - 1.0) * 100.0)
    } else {
        format!("x {ratio:.1}")
    }
}

impl fmt::Display for Under {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no agent",
            Self::Pcr => "cimad pcr",
            Self::Kernel => "cimad kernel",
            Self::ImaFile => "cimad ima-file",
            Self::Ima => "kernel IMA",
        })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static => "static",
            Self::Libraries => "40 libraries",
        })
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warm => "warm",
            Self::First => "first time",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Under};

    const REPORT: &str = r#"{ "kernel": "6.12", "overlay": false, "module_bytes": 45056, "rows": [
        { "under": "none", "program": "static", "pass": "first", "files": 1, "runs": 3, "measured": 0, "blocks_us": [10, 10, 10] },
        { "under": "pcr", "program": "static", "pass": "first", "files": 1, "runs": 3, "measured": 3, "blocks_us": [10, 20, 33] },
        { "under": "kernel", "program": "static", "pass": "first", "files": 1, "runs": 3, "measured": 3, "blocks_us": [21, 80, 90] },
        { "under": "ima-file", "program": "static", "pass": "warm", "files": 1, "runs": 3, "measured": 3, "blocks_us": [10, 10, 10] },
        { "under": "ima", "program": "static", "pass": "first", "files": 1, "runs": 3, "measured": 3, "blocks_us": [20, 90, 20] } ] }"#;

    #[test]
    fn who_waits_for_the_tpm_is_taken_at_its_best_and_others_with_all_they_put_off() {
        let report: Report = serde_json::from_str(REPORT).expect("a report");
        let targets = report.targets();
        let ratios: Vec<_> = targets.iter().map(|target| target.ratio).collect();
        // What has no peer in the run is not judged.
        assert_eq!(ratios, [21.0 / 20.0, 21.0 / 20.0]);
        let said: Vec<_> = targets.iter().map(ToString::to_string).collect();
        for (said, sink) in said.iter().zip(["pcr", "kernel"]) {
            let wanted = format!("met    static, first time: cimad {sink} +5.0 % to kernel IMA");
            assert!(said.starts_with(&wanted), "{said}");
        }
        assert!(report.to_string().contains("takes 44 KiB"), "{report}");
    }

    #[test]
    fn peers_have_the_names_that_the_guest_gives_them() {
        let names = super::names(&Under::ALL);
        assert_eq!(names, "none,pcr,kernel,ima-file,ima");
        let told = Under::ALL.map(|under| serde_json::json!(under).to_string());
        assert_eq!(told.join(",").replace('"', ""), names);
    }
}
