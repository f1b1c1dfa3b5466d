// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: lints, unit and property tests, every fuzz target, then every
//! scenario on every kernel, and one line at the end that counts them all.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cima_guests::{Guests, Run, Series, Tpm};

use crate::build::{self, Part};
use crate::error::{Doing as _, Error, Verdict};
use crate::jobs::{processors, side_by_side};
use crate::setup::{self, Need};
use crate::{fuzz, keylime, vm, workspace};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts [default: all]
    parts: Vec<Tests>,
    /// Only this kernel series [default: all]
    #[arg(long)]
    kernel: Option<Series>,
}

/// A part of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tests {
    /// Formatting and lints
    Lints,
    /// Unit and property tests
    Unit,
    /// Every fuzz target, a minute each
    Fuzz,
    /// The guests' runner: that it fails what must fail
    Runner,
    /// The Python package, with a real Keylime
    Keylime,
    /// Scenarios in guests; what they leave for a verifier, Keylime judges
    Scenarios,
}

/// A scenario and the machine it wants.
struct Scenario {
    name: &'static str,
    /// Without a TPM of the machine.
    without_tpm: bool,
    /// Without the BPF LSM.
    without_bpf: bool,
    /// How often it resets the machine, at most.
    resets: u32,
    /// A warning of the kernel that it provokes.
    warns: Option<&'static str>,
    limit: Duration,
    /// The only kernel that it is played on.
    only: Option<Series>,
}

const fn scenario(name: &'static str, minutes: u64) -> Scenario {
    Scenario {
        name,
        without_tpm: false,
        without_bpf: false,
        resets: 0,
        warns: None,
        // Two guests share what they have, and a machine may be slow.
        limit: Duration::from_secs(2 * 60 * minutes),
        only: None,
    }
}

const SCENARIOS: &[Scenario] = &[
    scenario("boot", 4),
    scenario("measures", 6),
    scenario("edges", 5),
    scenario("stale", 6),
    scenario("blindspots", 4),
    scenario("lifecycle", 8),
    scenario("crash", 15),
    Scenario {
        // ext4 warns when it is written to after an emergency remount.
        warns: Some("ext4_journal_check_start"),
        ..scenario("faults", 12)
    },
    Scenario {
        resets: 6,
        ..scenario("powercut", 5)
    },
    scenario("sinks", 5),
    scenario("outrun", 6),
    scenario("attest-kernel", 8),
    scenario("attest-ima-file", 8),
    Scenario {
        without_tpm: true,
        ..scenario("attest-pcr", 8)
    },
    Scenario {
        only: Some(Series::V6_12),
        ..scenario("attest-guide", 6)
    },
    Scenario {
        // What is asked of a list, which is the same from each kernel.
        only: Some(Series::V6_12),
        ..scenario("incident", 8)
    },
    scenario("lister", 8),
    scenario("floods", 10),
    scenario("module", 6),
    scenario("images", 12),
    scenario("containers", 15),
    scenario("admission", 15),
    scenario("unregistered", 8),
    Scenario {
        only: Some(Series::V6_12),
        ..scenario("engines", 15)
    },
    scenario("demo", 5),
    Scenario {
        without_tpm: true,
        without_bpf: true,
        ..scenario("refusals", 3)
    },
];

/// Security modules of a host whose administrator has not heard of BPF.
const LSM_WITHOUT_BPF: &str = "landlock,lockdown,yama,integrity,apparmor";

/// Guests at once, at most: each has memory of its own.
const PLAYERS: usize = 6;

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 60;

/// How many checks passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u32,
    failed: u32,
}

impl Count {
    fn one(passed: bool) -> Self {
        Self {
            passed: passed.into(),
            failed: (!passed).into(),
        }
    }

    fn of((passed, failed): (u32, u32)) -> Self {
        Self { passed, failed }
    }

    fn and(mut self, other: Self) -> Self {
        self.add(other);
        self
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// A part that went wrong counts at least one failure.
    fn unless(mut self, fine: bool) -> Self {
        if !fine && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Error> {
    timed("setup", || setup::ensure(&Need::ALL))?;
    let wanted = |part| args.parts.is_empty() || args.parts.contains(&part);
    let mut total = Count::default();
    if wanted(Tests::Lints) {
        total.add(timed("lints", lints)?);
    }
    if wanted(Tests::Unit) {
        total.add(timed("unit tests", unit)?);
    }
    if wanted(Tests::Keylime) {
        let environment = keylime::Environment::ensure()?;
        total.add(timed("Keylime's plugin", || {
            let (lints, tests) = (environment.lints()?, environment.tests()?);
            Ok(Count::of(lints).and(Count::of(tests)))
        })?);
    }
    if wanted(Tests::Fuzz) {
        let counted = timed("fuzzing", || fuzz::fuzz(&[], FUZZ_SECONDS))?;
        total.add(Count::of(counted));
    }
    let guests = Guests::new(&workspace::target());
    let series = args
        .kernel
        .map_or_else(|| Series::ALL.to_vec(), |one| vec![one]);
    if wanted(Tests::Runner) || wanted(Tests::Scenarios) {
        timed("the guests' programs", || build::build(&Part::STAGED))?;
    }
    if wanted(Tests::Runner) {
        total.add(timed("the guests' runner", || runner(&guests, &series))?);
    }
    if wanted(Tests::Scenarios) {
        let (count, evidence) = timed("scenarios", || scenarios(&guests, &series))?;
        total.add(count);
        let environment = keylime::Environment::ensure()?;
        total.add(timed("what Keylime says of the guests", || {
            environment.judge(&evidence).map(Count::of)
        })?);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(Verdict::from_passed(total.failed == 0 && total.passed > 0))
}

/// Says how long a part took: all of them have a limit together.
fn timed<T>(part: &str, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let started = Instant::now();
    let result = run();
    println!("── {part}: {} s", started.elapsed().as_secs());
    result
}

fn lints() -> Result<Count, Error> {
    let mut count = Count::default();
    for (folder, words) in [
        (".", "fmt --all --check"),
        ("ebpf-probes", "fmt --check"),
        ("ima-log/fuzz", "fmt --check"),
        ("agent/fuzz", "fmt --check"),
        ("image-digest/fuzz", "fmt --check"),
        (".", "clippy --workspace --all-targets -- -D warnings"),
    ] {
        println!("── cargo {words} in {folder}");
        let status = build::cargo()
            .current_dir(workspace::root().join(folder))
            .args(words.split(' '))
            .status()
            .doing("run cargo in", &workspace::root().join(folder))?;
        count.add(Count::one(status.success()));
    }
    Ok(count)
}

fn unit() -> Result<Count, Error> {
    println!("── cargo test --workspace");
    let mut cargo = build::cargo();
    cargo
        .current_dir(workspace::root())
        .args(["test", "--workspace", "--no-fail-fast"])
        // It was installed: without one the tests of reports are not skipped.
        .env("CIMA_TESTS_NEED_BROWSER", "1");
    if !cima_guests::is_root() {
        // Tests of images make devices, owners and mounts.
        cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo -E --");
    }
    let (output, fine) = shown(&mut cargo)?;
    let count = output
        .lines()
        .filter_map(cargo_result)
        .fold(Count::default(), |mut sum, one| {
            sum.add(one);
            sum
        });
    Ok(count.unless(fine && count.passed > 0))
}

/// `test result: ok. 3 passed; 1 failed; …`
fn cargo_result(line: &str) -> Option<Count> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| rest.split(word).next()?.rsplit(' ').nth(1)?.parse().ok();
    Some(Count {
        passed: number("passed")?,
        failed: number("failed")?,
    })
}

fn runner(guests: &Guests, series: &[Series]) -> Result<Count, Error> {
    println!("── the guests' runner fails what must fail");
    vm::selftest::count(guests, series).map(|(passed, failed)| Count { passed, failed })
}

/// Plays every scenario on every kernel, three for two processors at once: a guest's are one thread of this machine, and
/// a third of the time it waits. What a guest says is shown when it is done, so that two do not speak at once. Also where some left
/// evidence.
fn scenarios(guests: &Guests, series: &[Series]) -> Result<(Count, Vec<PathBuf>), Error> {
    for series in series {
        // Its root is made once, by one.
        guests.prepare(*series, false)?;
    }
    let wanted = |scenario: &Scenario, series| scenario.only.is_none_or(|only| only == series);
    let games: Vec<(&Scenario, Series)> = SCENARIOS
        .iter()
        .flat_map(|scenario| series.iter().map(move |series| (scenario, *series)))
        .filter(|(scenario, series)| wanted(scenario, *series))
        .collect();
    let players = (processors() * 3).div_ceil(2).min(PLAYERS);
    let played = side_by_side(&games, players, |(scenario, series)| {
        play(guests, *series, scenario)
    })?;
    let (mut total, mut evidence) = (Count::default(), Vec::new());
    for (count, left) in played {
        total.add(count);
        evidence.extend(left);
    }
    Ok((total, evidence))
}

fn play(
    guests: &Guests,
    series: Series,
    scenario: &Scenario,
) -> Result<(Count, Option<PathBuf>), Error> {
    let mut run = Run {
        stage: Some(workspace::stage()),
        time_limit: scenario.limit,
        resets: scenario.resets,
        expected_warnings: scenario.warns.map(str::to_owned).into_iter().collect(),
        environment: vec![("CIMA_GUEST_KERNEL".to_owned(), series.to_string())],
        ..Run::new(
            series,
            scenario.name,
            vm::scenario_command(scenario.name, Vec::new()),
        )
    };
    if scenario.without_tpm {
        run.tpm = Tpm::Absent;
    }
    if scenario.without_bpf {
        LSM_WITHOUT_BPF.clone_into(&mut run.lsm);
    }
    let mut output = Vec::new();
    let outcome = guests.run(&run, &mut output)?;
    let said = String::from_utf8_lossy(&output);
    // One call, so that what another guest says comes before or after it.
    print!("── {} on Linux {series}\n{said}", scenario.name);
    vm::report(&outcome)?;
    let count = scenario_result(&said).unwrap_or_default();
    let count = count.unless(outcome.passed() && count.passed > 0);
    let attests = scenario.name.starts_with("attest-");
    let evidence = attests.then(|| keylime::results(&outcome.directory));
    Ok((count, evidence))
}

/// The last line of a scenario: `3 passed, 1 failed`.
fn scenario_result(output: &str) -> Option<Count> {
    let last = output.trim_end().lines().last()?;
    let (passed, failed) = last.split_once(" passed, ")?;
    Some(Count {
        passed: passed.parse().ok()?,
        failed: failed.strip_suffix(" failed")?.parse().ok()?,
    })
}

/// Runs a program whose output is shown and kept; and whether it succeeded.
fn shown(command: &mut Command) -> Result<(String, bool), Error> {
    let doing = "run";
    let program = PathBuf::from(command.get_program());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .doing(doing, &program)?;
    let mut output = Tee::default();
    if let Some(mut stdout) = child.stdout.take() {
        io::copy(&mut stdout, &mut output).doing(doing, &program)?;
    }
    let status = child.wait().doing(doing, &program)?;
    Ok((
        String::from_utf8_lossy(&output.kept).into_owned(),
        status.success(),
    ))
}

/// Writes to the standard output and keeps a copy.
#[derive(Default)]
struct Tee {
    kept: Vec<u8>,
}

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write_all(bytes)?;
        self.kept.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::{Count, cargo_result, scenario_result};

    #[test]
    fn results_are_read_as_cargo_and_scenarios_write_them() {
        let line =
            "test result: FAILED. 24 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out";
        assert_eq!(
            cargo_result(line),
            Some(Count {
                passed: 24,
                failed: 1
            })
        );
        assert_eq!(cargo_result("running 3 tests"), None);
        assert_eq!(
            scenario_result("ok   x\n7 passed, 2 failed\n"),
            Some(Count {
                passed: 7,
                failed: 2
            })
        );
        assert_eq!(scenario_result("the guest died"), None);
    }

    #[test]
    fn what_went_wrong_without_a_count_is_a_failure() {
        assert_eq!(Count::default().unless(false).failed, 1);
        assert_eq!(
            Count {
                passed: 1,
                failed: 2
            }
            .unless(false)
            .failed,
            2
        );
        assert_eq!(
            Count::one(true).unless(true),
            Count {
                passed: 1,
                failed: 0
            }
        );
    }
}
