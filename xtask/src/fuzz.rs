// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask fuzz`: builds the fuzz targets and runs them, as many at once as there are
//! cores. Needs no nightly compiler and no cargo-fuzz: coverage is an option of every
//! compiler, and `AddressSanitizer` comes with those that rustup installs; where its runtime
//! is lacking (Debian's compiler), the targets run without, and this says so.
//!
//! ```text
//! CRATE/fuzz/                 the targets, each with its seeds in corpus/
//! target/cima/fuzz/TARGET/    corpus/: new inputs; found/: those that fail; log
//! ```

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::error::{Doing as _, Error, Verdict};
use crate::setup::{self, Need};
use crate::workspace;
use crate::{build, jobs};

/// Folders with fuzz targets, each a workspace of its own, and the targets.
const CRATES: [(&str, &[&str]); 3] = [
    ("ima-log/fuzz", &["binary", "ascii", "entry"]),
    (
        "agent/fuzz",
        &["batch", "intent", "judge", "query", "record", "text"],
    ),
    ("image-digest/fuzz", &["layer", "manifest"]),
];

/// What libFuzzer needs: cargo-fuzz gives the same.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Of one input: a target that takes longer hangs, one that takes more leaks.
const SECONDS_PER_INPUT: u32 = 10;
const MEGABYTES: u32 = 2048;
/// Beyond the time asked for: reading the corpus, and one input that hangs.
const GRACE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these targets [default: all]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(names()))]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 600)]
    seconds: u32,
}

fn names() -> impl Iterator<Item = &'static str> {
    CRATES
        .iter()
        .flat_map(|(_, targets)| targets.iter().copied())
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Error> {
    let failed = fuzz(&args.targets, args.seconds)?.1;
    Ok(Verdict::from_passed(failed == 0))
}

/// Runs these targets, all if none is named; how many passed and failed.
pub(crate) fn fuzz(targets: &[String], seconds: u32) -> Result<(u32, u32), Error> {
    setup::ensure(&[Need::Programs, Need::Fuzz])?;
    let mut waiting = VecDeque::new();
    for (folder, all) in CRATES {
        let wanted = |name: &&str| targets.is_empty() || targets.iter().any(|one| one == name);
        let wanted: Vec<&str> = all.iter().copied().filter(wanted).collect();
        if !wanted.is_empty() {
            build_targets(folder, &wanted)?;
        }
        waiting.extend(wanted.into_iter().map(|name| Target { folder, name }));
    }
    let at_once = jobs::processors();
    let names: Vec<&str> = waiting.iter().map(|target| target.name).collect();
    println!(
        "Fuzzing {} for {seconds} s each, {at_once} at once.",
        names.join(", ")
    );
    let (mut running, mut passed, mut failed) = (Vec::new(), 0, 0);
    while !(waiting.is_empty() && running.is_empty()) {
        while running.len() < at_once
            && let Some(target) = waiting.pop_front()
        {
            running.push(target.start(seconds)?);
        }
        std::thread::sleep(Duration::from_millis(200));
        // Before the targets are looked at: Ctrl-C ends them, too.
        cima_guests::check_interrupt()?;
        let mut index = 0;
        while let Some(run) = running.get_mut(index) {
            match run.ended()? {
                None => index += 1,
                Some(true) => passed += 1,
                Some(false) => failed += 1,
            }
            if run.done {
                running.swap_remove(index);
            }
        }
    }
    Ok((passed, failed))
}

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
struct Target {
    folder: &'static str,
    name: &'static str,
}

impl Target {
    /// Where its findings go.
    fn place(self) -> PathBuf {
        workspace::target().join("cima/fuzz").join(self.name)
    }

    fn program(self) -> PathBuf {
        build_dir().join(triple()).join("release").join(self.name)
    }

    fn start(self, seconds: u32) -> Result<Running, Error> {
        let place = self.place();
        let (corpus, found) = (place.join("corpus"), place.join("found"));
        for dir in [&corpus, &found] {
            fs::create_dir_all(dir).doing("make the directory", dir)?;
        }
        let log = place.join("log");
        let file = File::create(&log).doing("write", &log)?;
        let copy = file.try_clone().doing("write", &log)?;
        let program = self.program();
        let process = Command::new(&program)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={SECONDS_PER_INPUT}"))
            .arg(format!("-rss_limit_mb={MEGABYTES}"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .arg("-print_final_stats=1")
            // New inputs go to the first.
            .args([corpus, self.seeds()])
            // Leaks are no errors of memory, and looking for them needs ptrace, which containers forbid.
            .env("ASAN_OPTIONS", "detect_leaks=0:detect_odr_violation=0")
            .stdout(file)
            .stderr(copy)
            .spawn()
            .doing("run", &program)?;
        let until = Instant::now() + Duration::from_secs(seconds.into()) + GRACE;
        Ok(Running {
            target: self,
            process,
            until,
            log,
            done: false,
        })
    }

    fn seeds(self) -> PathBuf {
        workspace::root()
            .join(self.folder)
            .join("corpus")
            .join(self.name)
    }
}

/// A target at work. It ends with its owner.
struct Running {
    target: Target,
    process: Child,
    until: Instant,
    log: PathBuf,
    done: bool,
}

impl Running {
    /// Whether it passed; `None`: it goes on.
    fn ended(&mut self) -> Result<Option<bool>, Error> {
        let status = self.process.try_wait().doing("wait for", &self.log)?;
        let late = Instant::now() > self.until;
        if status.is_none() && !late {
            return Ok(None);
        }
        self.done = true;
        let log = fs::read(&self.log).doing("read", &self.log)?;
        let log = String::from_utf8_lossy(&log);
        let name = self.target.name;
        if status.is_some_and(|status| status.success()) {
            println!("ok   {name}: {}", summary(&log));
            return Ok(Some(true));
        }
        println!(
            "FAIL {name}: {}",
            finding(&log).unwrap_or("it did not end in time, or could not run")
        );
        match artifact(&log) {
            Some(input) => println!(
                "     the input: {input}\n     once more: {} {input}",
                self.target.program().display()
            ),
            None => println!("     no input was kept"),
        }
        println!("     all it said: {}", self.log.display());
        Ok(Some(false))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `stat::number_of_executed_units: 23834` and its neighbours, as a sentence.
fn summary(log: &str) -> String {
    let stat = |name: &str| {
        log.lines()
            .find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name))
            .map_or("?", |value| value.trim_start_matches(':').trim())
    };
    format!(
        "{} inputs, {} per second, {} kept as new",
        stat("number_of_executed_units"),
        stat("average_exec_per_sec"),
        stat("new_units_added")
    )
}

/// The line that says what went wrong, and the next one if it is a panic's.
fn finding(log: &str) -> Option<&str> {
    let panic = log.find("panicked at ").map(|at| &log[at..]);
    if let Some(panic) = panic {
        let end = panic
            .match_indices('\n')
            .nth(1)
            .map_or(panic.len(), |(at, _)| at);
        return Some(&panic[..end]);
    }
    log.lines()
        .find(|line| line.contains("ERROR: ") || line.contains("error while loading"))
}

/// The file that libFuzzer says it kept the input in.
fn artifact(log: &str) -> Option<&str> {
    log.lines()
        .find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim()))
}

/// Builds targets of a crate with instrumentation.
fn build_targets(folder: &str, targets: &[&str]) -> Result<(), Error> {
    let sanitizer = has_address_sanitizer();
    let with = if sanitizer {
        "with AddressSanitizer"
    } else {
        "without a sanitizer: this compiler ships none (rustup's does)"
    };
    println!("Building the fuzz targets of {folder}, {with}.");
    let mut flags = COVERAGE.to_vec();
    let mut cargo = build::cargo();
    if sanitizer {
        flags.push("-Zsanitizer=address");
        // A stable compiler has the option, and refuses it without this.
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    let folder = workspace::root().join(folder);
    cargo
        .current_dir(&folder)
        .args(["build", "--quiet", "--release", "--target", &triple()])
        .args(targets.iter().flat_map(|name| ["--bin", name]))
        .env("CARGO_TARGET_DIR", build_dir())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let status = cargo.status().doing("run cargo in", &folder)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Build {
        step: "Building the fuzz targets",
        what: format!("cargo build in {}", folder.display()),
        status,
    })
}

/// Whether the compiler that cargo calls has the runtime: it is called `librustc-stable_rt.asan.a`,
/// or after another channel.
fn has_address_sanitizer() -> bool {
    let said = Command::new("rustc")
        .args(["--print", "target-libdir"])
        .output();
    let Ok(said) = said else { return false };
    let dir = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    fs::read_dir(Path::new(&dir)).is_ok_and(|files| {
        files
            .flatten()
            .any(|file| file.file_name().to_string_lossy().ends_with("_rt.asan.a"))
    })
}

/// Named, so that flags for the targets are not also for build scripts.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn build_dir() -> PathBuf {
    workspace::target().join("fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_read() {
        let log = "INFO: Seed: 1\nDone 7 runs\nstat::number_of_executed_units: 23834\n\
                   stat::average_exec_per_sec:     2166\nstat::new_units_added:          810\n";
        assert_eq!(
            summary(log),
            "23834 inputs, 2166 per second, 810 kept as new"
        );
        assert_eq!((finding(log), artifact(log)), (None, None));
        let log = "thread '<unnamed>' panicked at src/x.rs:1:2:\nno entry\nnote: …\n\
                   ==1== ERROR: libFuzzer: deadly signal\n\
                   artifact_prefix='/t/'; Test unit written to /t/crash-1\n";
        assert_eq!(finding(log), Some("panicked at src/x.rs:1:2:\nno entry"));
        assert_eq!(artifact(log), Some("/t/crash-1"));
    }

    #[test]
    fn every_target_is_in_its_crate_and_has_seeds() {
        for (folder, targets) in CRATES {
            let folder = workspace::root().join(folder);
            let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("a crate");
            assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
            for name in targets {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
                let seeds = fs::read_dir(folder.join("corpus").join(name));
                assert!(
                    seeds.is_ok_and(|mut seeds| seeds.next().is_some()),
                    "{name}"
                );
            }
        }
    }
}
