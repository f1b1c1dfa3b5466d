// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench events`: how many mappings a second cimad gets into the TPM
//! without losing one, how soon, and in how much memory; with the guest's TPM and
//! with one that takes 10 ms longer for each extend. The guest plays
//! (`tests/src/scenarios/bench_events.rs`), its list is read here.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cima_guests::{Guests, Run, Series, Tpm};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::programs;
use crate::build::{self, Part};
use crate::error::{Doing as _, Error, Verdict};
use crate::setup::{self, Need};
use crate::{vm, workspace};

pub(super) const ABOUT: &str = "events a second, from mapping to TPM, and memory";

/// Events a second without loss.
const RATE_TARGET: f64 = 5000.0;
/// Events a second that are tried: a little above the target, more, and all that can be made.
const RATES: [u32; 3] = [5200, 6000, 0];
const MEMORY_TARGET_MIB: f64 = 40.0;
/// The memory counts when this many events went through it.
const MEMORY_EVENTS: u64 = 100_000;
const SLOW_MS: u32 = 10;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Kernel series: 6.1 or 6.12
    #[arg(long, default_value_t = Series::V6_12)]
    kernel: Series,
    /// Only with this TPM, or this sink [default: all]
    #[arg(long)]
    only: Option<Machine>,
    /// Events a second to try; 0: as many as the load can make
    #[arg(long, value_delimiter = ',', default_values_t = RATES)]
    rates: Vec<u32>,
    /// How long each is tried
    #[arg(long, default_value_t = 20)]
    seconds: u32,
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
            rates: RATES.to_vec(),
            seconds: 20,
            json,
        }
    }
}

/// What the list is anchored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Machine {
    /// A PCR of the guest's TPM, as fast as swtpm is
    Fast,
    /// A PCR of a TPM that takes 10 ms longer for each extend
    Slow,
    /// The kernel's list and the guest's TPM, by the module
    Kernel,
    /// The kernel's list and the guest's TPM, as files
    ImaFile,
}

impl Machine {
    /// As cimad's configuration names it.
    fn sink(self) -> &'static str {
        match self {
            Self::Fast | Self::Slow => "pcr",
            Self::Kernel => "kernel",
            Self::ImaFile => "ima-file",
        }
    }
}

/// What the guest noted.
#[derive(Deserialize)]
struct Notes {
    kernel: String,
    /// How many new programs were in the TPM so many seconds after they were mapped; the last
    /// has no bound.
    fresh: Vec<(Option<f64>, u64)>,
    /// New programs, one after the other.
    rush: Rush,
    quiet: Trial,
    trials: Vec<Trial>,
    memory_kib: Memory,
}

/// A load of one rate. Times are nanoseconds since the guest's boot.
#[derive(Deserialize)]
struct Trial {
    directory: String,
    rate: u32,
    mapped: u64,
    start_ns: u64,
    end_ns: u64,
    extended_ns: u64,
    /// When how many bytes of the list were in the TPM; only of the quiet trial.
    #[serde(default)]
    extended: Vec<(u64, u64)>,
}

#[derive(Deserialize)]
struct Rush {
    programs: u64,
    start_ns: u64,
    extended_ns: u64,
}

#[derive(Deserialize, Serialize)]
struct Memory {
    rss: u64,
    peak: u64,
    anonymous: u64,
    proportional: u64,
}

/// A line of `cima log --json`.
#[derive(Deserialize)]
struct Line {
    offset: u64,
    batch: Option<Batch>,
}

#[derive(Deserialize)]
struct Batch {
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    time_ns: u64,
    mapping: Option<Mapping>,
    loss: Option<Loss>,
}

#[derive(Deserialize)]
struct Mapping {
    file: File,
}

#[derive(Deserialize)]
struct File {
    path: String,
}

#[derive(Deserialize)]
struct Loss {
    count: u64,
}

/// What came of a trial.
#[derive(Serialize)]
struct Result {
    asked: u32,
    made: f64,
    sustained: f64,
    mapped: u64,
    listed: u64,
    lost: u64,
}

/// What came of all trials with one TPM.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    kernel: String,
    events: u64,
    results: Vec<Result>,
    /// New programs in the TPM in a second, an entry each.
    new_per_second: f64,
    /// Milliseconds from the mapping of a new program to the TPM; `None`: longer than any bucket.
    new_median_ms: Option<f64>,
    new_p99_ms: Option<f64>,
    /// Milliseconds from mapping to TPM, as context.
    median_ms: f64,
    p99_ms: f64,
    memory_kib: Memory,
}

pub(super) fn run(args: &Args) -> std::result::Result<Verdict, Error> {
    setup::ensure(&[Need::Programs, Need::Probes, Need::Guests])?;
    build::build(match args.only {
        None | Some(Machine::Kernel) => &Part::STAGED,
        Some(_) => &Part::ALL,
    })?;
    let machines = args
        .only
        .map_or_else(|| Machine::value_variants().to_vec(), |one| vec![one]);
    let mut reports = Vec::new();
    for machine in machines {
        match play(args, machine)? {
            Some(report) => reports.push(report),
            None => return Ok(Verdict::Bad),
        }
    }
    if args.json {
        println!(
            "{:#}",
            serde_json::json!({ "bench": "events", "machines": reports })
        );
    } else {
        for report in &reports {
            print!("{report}");
        }
    }
    Ok(Verdict::from_passed(reports.iter().all(Report::met)))
}

fn play(args: &Args, machine: Machine) -> std::result::Result<Option<Report>, Error> {
    let rates: Vec<String> = args.rates.iter().map(u32::to_string).collect();
    let mut words = vec!["--rates".to_owned(), rates.join(",")];
    words.extend(["--seconds".to_owned(), args.seconds.to_string()]);
    words.extend(["--sink".to_owned(), machine.sink().to_owned()]);
    if machine == Machine::Slow {
        words.extend(["--slow".to_owned(), SLOW_MS.to_string()]);
    }
    let run = Run {
        stage: Some(workspace::stage()),
        staged: programs::build()?,
        tpm: Tpm::Banks(["sha1", "sha256"].map(str::to_owned).to_vec()),
        time_limit: Duration::from_secs(30 * 60),
        environment: vec![("CIMA_GUEST_KERNEL".to_owned(), args.kernel.to_string())],
        ..Run::new(
            args.kernel,
            "bench-events",
            vm::scenario_command("bench-events", words),
        )
    };
    let outcome = Guests::new(&workspace::target()).run(&run, &mut std::io::stderr())?;
    if vm::report(&outcome)? == Verdict::Bad {
        return Ok(None);
    }
    let path = outcome.directory.join("out/bench-events.json");
    let text = std::fs::read_to_string(&path).doing("read", &path)?;
    let notes: Notes = serde_json::from_str(&text).map_err(|error| {
        Error::Environment(format!("{} is not a report: {error}.", path.display()))
    })?;
    let list = List::read(&outcome.directory.join("out/cima"), &notes)?;
    Ok(Some(list.report(machine, notes)))
}

/// What the list says of the trials, the quiet one first.
struct List {
    events: u64,
    /// Events in the list and events lost, one pair for each trial.
    counts: Vec<(u64, u64)>,
    /// Milliseconds from mapping to TPM, sorted.
    latencies: Vec<f64>,
}

impl List {
    /// Has the host's own `cima` decode the guest's list, line by line: it is large.
    fn read(directory: &Path, notes: &Notes) -> std::result::Result<Self, Error> {
        let program = workspace::stage().join("bin/cima");
        let mut cima = Command::new(&program)
            .args(["log", "--json"])
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn()
            .doing("run", &program)?;
        let mut list = Self {
            events: 0,
            counts: vec![(0, 0); notes.trials.len() + 1],
            latencies: Vec::new(),
        };
        let mut current = 0;
        for line in cima
            .stdout
            .take()
            .map(BufReader::new)
            .into_iter()
            .flat_map(BufReader::lines)
        {
            let line = line.doing("read from", &program)?;
            let line: Line = serde_json::from_str(&line).map_err(|error| {
                Error::Environment(format!(
                    "`cima log --json` says what is not expected: {error}."
                ))
            })?;
            list.take(line, notes, &mut current);
        }
        let status = cima.wait().doing("wait for", &program)?;
        if !status.success() {
            return Err(Error::Environment(format!(
                "`cima log` ended with {status}."
            )));
        }
        list.latencies.sort_by(f64::total_cmp);
        Ok(list)
    }

    /// Losses count for the trial whose events came last.
    fn take(&mut self, line: Line, notes: &Notes, current: &mut usize) {
        for event in line.batch.into_iter().flat_map(|batch| batch.events) {
            self.events += 1;
            if let Some(loss) = event.loss {
                self.counts[*current].1 += loss.count;
            }
            let Some(mapping) = event.mapping else {
                continue;
            };
            let trials = std::iter::once(&notes.quiet).chain(&notes.trials);
            let inside =
                |trial: &Trial| Path::new(&mapping.file.path).starts_with(&trial.directory);
            let mine = trials.enumerate().find(|(_, trial)| inside(trial));
            let Some((number, trial)) = mine.filter(|(_, trial)| event.time_ns >= trial.start_ns)
            else {
                continue;
            };
            *current = number;
            self.counts[number].0 += 1;
            let extended = trial
                .extended
                .iter()
                .find(|(_, bytes)| *bytes > line.offset);
            if let Some((at, _)) = extended {
                self.latencies
                    .push(at.saturating_sub(event.time_ns) as f64 / 1e6);
            }
        }
    }

    /// The latency that this share of the events does not exceed.
    fn quantile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1) as f64;
        let index = (last * share).round() as usize;
        self.latencies.get(index).copied().unwrap_or(f64::NAN)
    }

    fn report(&self, machine: Machine, notes: Notes) -> Report {
        let trials = std::iter::once(&notes.quiet).chain(&notes.trials);
        let results = trials.zip(&self.counts).map(|(trial, &(listed, lost))| {
            let seconds = |until: u64| until.saturating_sub(trial.start_ns) as f64 / 1e9;
            Result {
                asked: trial.rate,
                made: trial.mapped as f64 / seconds(trial.end_ns),
                sustained: listed as f64 / seconds(trial.extended_ns),
                mapped: trial.mapped,
                listed,
                lost,
            }
        });
        Report {
            machine,
            events: self.events,
            results: results.collect(),
            new_per_second: notes.rush.per_second(),
            new_median_ms: within(&notes.fresh, 0.5),
            new_p99_ms: within(&notes.fresh, 0.99),
            median_ms: self.quantile(0.5),
            p99_ms: self.quantile(0.99),
            kernel: notes.kernel,
            memory_kib: notes.memory_kib,
        }
    }
}

/// The milliseconds in which this share of a histogram came: its bucket's upper bound.
fn within(buckets: &[(Option<f64>, u64)], share: f64) -> Option<f64> {
    let all = buckets.last().map_or(0, |(_, count)| *count) as f64;
    let (seconds, _) = buckets
        .iter()
        .find(|(_, count)| *count as f64 >= all * share)?;
    seconds.map(|seconds| seconds * 1e3)
}

impl Rush {
    fn per_second(&self) -> f64 {
        let nanoseconds = self.extended_ns.saturating_sub(self.start_ns) as f64;
        self.programs as f64 * 1e9 / nanoseconds
    }
}

impl Result {
    /// Every mapping is in the list, once.
    fn whole(&self) -> bool {
        self.lost == 0 && self.listed == self.mapped
    }
}

impl Report {
    /// The best rate without loss.
    fn sustained(&self) -> f64 {
        let whole = self.results.iter().filter(|result| result.whole());
        whole.map(|result| result.sustained).fold(0.0, f64::max)
    }

    /// Each page once: the ring buffer is mapped twice in a row, and counts twice as resident.
    fn memory_mib(&self) -> f64 {
        self.memory_kib.proportional as f64 / 1024.0
    }

    /// Whether a rate was promised: with sinks in the kernel's list the kernel has its part in each event.
    fn has_target(&self) -> bool {
        self.machine.sink() == "pcr"
    }

    fn rate_met(&self) -> bool {
        !self.has_target() || self.sustained() >= RATE_TARGET
    }

    fn memory_met(&self) -> bool {
        self.events >= MEMORY_EVENTS && self.memory_mib() <= MEMORY_TARGET_MIB
    }

    fn met(&self) -> bool {
        self.rate_met() && self.memory_met()
    }
}

fn at_most(ms: Option<f64>) -> String {
    ms.map_or_else(
        || "longer than was counted".to_owned(),
        |ms| format!("<= {ms:.0} ms"),
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tpm = match self.machine {
            Machine::Fast => "the guest's TPM".to_owned(),
            Machine::Slow => format!("a TPM that takes {SLOW_MS} ms longer for each extend"),
            Machine::Kernel => "the guest's TPM, in the kernel's list by the module".to_owned(),
            Machine::ImaFile => "the guest's TPM, in the kernel's list as files".to_owned(),
        };
        writeln!(
            f,
            "\nLinux {}, two emulated processors, {tpm}.\n",
            self.kernel
        )?;
        writeln!(
            f,
            "{:>10}{:>10}{:>12}{:>11}{:>11}{:>8}",
            "asked/s", "made/s", "extended/s", "mappings", "in list", "lost"
        )?;
        for result in &self.results {
            let asked = match result.asked {
                0 => "all".to_owned(),
                rate => rate.to_string(),
            };
            writeln!(
                f,
                "{asked:>10}{:>10.0}{:>12.0}{:>11}{:>11}{:>8}",
                result.made, result.sustained, result.mapped, result.listed, result.lost
            )?;
        }
        let Memory {
            rss,
            peak,
            anonymous,
            proportional,
        } = &self.memory_kib;
        let asked = self.results.first().map_or(0, |quiet| quiet.asked);
        writeln!(
            f,
            "\nNew programs, one after the other, an entry each: {:.0} a second.\n\
             From mapping to TPM: a new program median {}, p99 {};\n\
             as context, at {asked}/s, median {:.1} ms, p99 {:.1} ms.\n\
             Memory after {} events: {rss} KiB resident, {peak} at most, {anonymous} anonymous, {proportional} proportional.\n",
            self.new_per_second,
            at_most(self.new_median_ms),
            at_most(self.new_p99_ms),
            self.median_ms,
            self.p99_ms,
            self.events
        )?;
        let word = |met| if met { "met   " } else { "MISSED" };
        if self.has_target() {
            writeln!(
                f,
                "{} {:.0} events a second without loss, at least {RATE_TARGET:.0}",
                word(self.rate_met()),
                self.sustained()
            )?;
        } else {
            writeln!(
                f,
                "       {:.0} events a second without loss",
                self.sustained()
            )?;
        }
        writeln!(
            f,
            "{} {:.1} MiB after {} events, target {MEMORY_TARGET_MIB:.0} MiB after {MEMORY_EVENTS}",
            word(self.memory_met()),
            self.memory_mib(),
            self.events
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{List, Notes, within};

    const NOTES: &str = r#"{ "kernel": "6.12", "fresh": [[0.01, 0], [0.05, 6], [0.1, 10], [null, 10]],
        "rush": { "programs": 10, "start_ns": 5, "extended_ns": 500000005 },
        "quiet": { "directory": "/q", "rate": 1, "mapped": 2, "start_ns": 5, "end_ns": 9, "extended_ns": 9,
                   "extended": [[2000010, 100], [7000010, 200]] },
        "trials": [{ "directory": "/t", "rate": 0, "mapped": 1, "start_ns": 5, "end_ns": 9, "extended_ns": 9 }],
        "memory_kib": { "rss": 1, "peak": 1, "anonymous": 1, "proportional": 1 } }"#;
    const LINES: [&str; 3] = [
        r#"{ "offset": 0, "batch": { "events": [{ "time_ns": 4, "mapping": { "file": { "path": "/q/warm-up" } } },
                                                { "time_ns": 10, "mapping": { "file": { "path": "/q/a" } } }] } }"#,
        r#"{ "offset": 100, "batch": { "events": [{ "time_ns": 10, "mapping": { "file": { "path": "/q/b" } } }] } }"#,
        r#"{ "offset": 200, "batch": { "events": [{ "time_ns": 20, "mapping": { "file": { "path": "/t/a" } } },
                                                  { "time_ns": 21, "loss": { "count": 7 } }] } }"#,
    ];

    #[test]
    fn events_go_to_their_trial_losses_to_the_last_one_and_times_to_the_record() {
        let notes: Notes = serde_json::from_str(NOTES).expect("notes");
        let mut list = List {
            events: 0,
            counts: vec![(0, 0); 2],
            latencies: Vec::new(),
        };
        let mut current = 0;
        for line in LINES {
            let line = serde_json::from_str(line).expect("a line");
            list.take(line, &notes, &mut current);
        }
        assert_eq!(list.counts, [(2, 0), (1, 7)]);
        assert_eq!(list.latencies, [2.0, 7.0]);
        assert_eq!(list.events, 5);
        assert_eq!(notes.rush.per_second(), 20.0);
        assert_eq!(within(&notes.fresh, 0.5), Some(50.0));
        assert_eq!(within(&notes.fresh, 0.99), Some(100.0));
        assert_eq!(within(&[(Some(0.1), 3), (None, 10)], 0.5), None);
    }
}
