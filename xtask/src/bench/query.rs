// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench query`: how soon `cima` answers from ten million entries of twenty nodes, what the index of them
//! costs, and how fast a list is verified; beside grep with jq, and DuckDB, which answer the same from an export of the same.
//! On the host: no kernel and no TPM is asked.
//!
//! ```text
//! target/cima/bench/query/<entries>-<n>/nodes/     the lists, made once, the same everywhere
//! target/cima/bench/query/<entries>-<n>/index      cima's index of them
//! target/cima/bench/query/<entries>-<n>/export…    what the peers read; removed afterwards
//! target/cima/bench/query/venv/                    DuckDB
//! ```

mod lists;
mod peers;
mod questions;
mod timing;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use serde_json::json;

use self::lists::Lists;
use self::peers::{Database, Export, Python};
use self::questions::{Question, Subject};
use self::timing::{Timed, once, race};
use crate::build::{self, Part};
use crate::error::{Error, Verdict};
use crate::setup::{self, Need};
use crate::workspace;

pub(super) const ABOUT: &str =
    "answers from ten million entries, their index, and verification, beside grep and DuckDB";

const ENTRIES: u64 = 10_000_000;
/// How often what takes long is done.
const FEW: usize = 3;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Entries of all lists together
    #[arg(long, default_value_t = ENTRIES)]
    entries: u64,
    /// How often a question is asked; the median counts. What takes longer than three seconds is done three times
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Only cima
    #[arg(long)]
    alone: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    /// What `bench all` runs.
    pub(super) fn usual(json: bool) -> Self {
        Self {
            entries: ENTRIES,
            rounds: 20,
            alone: false,
            json,
        }
    }
}

/// A size, in bytes.
#[derive(Serialize)]
struct Size {
    what: &'static str,
    bytes: u64,
}

/// What is to be reached.
#[derive(Serialize)]
struct Target {
    what: String,
    found: f64,
    bound: f64,
    /// Whether less is better.
    at_most: bool,
}

#[derive(Serialize)]
struct Report {
    entries: u64,
    cores: usize,
    timed: Vec<Timed>,
    sizes: Vec<Size>,
    targets: Vec<Target>,
}

pub(super) fn run(args: &Args) -> Result<Verdict, Error> {
    setup::ensure(&[Need::Programs, Need::Query])?;
    build::build(&[Part::Programs])?;
    let place = workspace::target().join("cima/bench/query");
    let fleet = place.join("fleet");
    build::fleet(&fleet)?;
    let lists = Lists::make(&place, &fleet, args.entries)?;
    let report = Bench::new(&lists, args.rounds.max(FEW)).run(&place, args.alone)?;
    if args.json {
        let report = json!({"bench": "query", "report": report});
        println!("{report:#}");
    } else {
        print!("{report}");
    }
    Ok(Verdict::from_passed(report.met()))
}

/// A bench at work.
struct Bench<'a> {
    lists: &'a Lists,
    index: PathBuf,
    rounds: usize,
    timed: Vec<Timed>,
    sizes: Vec<Size>,
    targets: Vec<Target>,
}

impl<'a> Bench<'a> {
    fn new(lists: &'a Lists, rounds: usize) -> Self {
        Self {
            index: lists.place.join("index"),
            lists,
            rounds,
            timed: Vec::new(),
            sizes: Vec::new(),
            targets: Vec::new(),
        }
    }

    fn run(mut self, place: &Path, alone: bool) -> Result<Report, Error> {
        self.verify()?;
        self.build()?;
        let subject = Subject::choose(|arguments| self.cima(arguments))?;
        let questions = Question::all(&subject);
        let mut answers = Vec::new();
        for question in &questions {
            let (timed, answer) = race("cima", question.name, self.rounds, || {
                let words: Vec<_> = question.cima.iter().map(String::as_str).collect();
                self.cima(&words)
            })?;
            self.target(question.name, timed.median_ms, question.target_ms, true);
            self.timed.push(timed);
            answers.push(question.rows_of_cima(&answer)?);
        }
        if !alone {
            self.peers(place, &questions, &answers)?;
        }
        Ok(Report {
            entries: self.lists.entries,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            timed: self.timed,
            sizes: self.sizes,
            targets: self.targets,
        })
    }

    /// A command of cima's over all lists and their index.
    fn cima(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(workspace::stage().join("bin/cima"));
        command
            .args(arguments)
            .arg("--from")
            .arg(&self.lists.nodes)
            .arg("--index")
            .arg(&self.index);
        command
    }

    /// One list, one core, one bank.
    fn verify(&mut self) -> Result<(), Error> {
        let one = self.lists.middle()?;
        let (timed, _) = race("cima", "verify, one core", self.rounds, || {
            let mut command = Command::new("taskset");
            command
                .args(["-c", "0"])
                .arg(workspace::stage().join("bin/cima"))
                .arg("verify")
                .arg(&one.boot)
                .args(["--pcr", &one.pcr]);
            command
        })?;
        let entries = one.entries as f64 / timed.median_ms * 1e3;
        self.timed.push(timed);
        self.target("verify, entries/s", entries, 400_000.0, false);
        Ok(())
    }

    /// The index, from nothing.
    fn build(&mut self) -> Result<(), Error> {
        let mut times = Vec::new();
        for _ in 0..FEW {
            lists::remove(&self.index)?;
            times.push(once("cima", &mut self.cima(&["index", "build"]))?.0);
        }
        let timed = Timed::of("cima", "index build", times);
        let entries = self.lists.entries as f64 / timed.median_ms * 1e3;
        self.timed.push(timed);
        self.target("index build, entries/s", entries, 200_000.0, false);
        let bytes = lists::size(&self.index)?;
        self.size("the lists", self.lists.bytes);
        self.size("cima's index", bytes);
        let share = bytes as f64 / self.lists.bytes as f64;
        self.target("index, of the lists", share, 0.6, true);
        Ok(())
    }

    /// The same questions to those who have an export of the same.
    fn peers(
        &mut self,
        place: &Path,
        questions: &[Question],
        answers: &[Vec<String>],
    ) -> Result<(), Error> {
        let python = Python::ensure(&place.join("venv"))?;
        let export = Export::new(self.lists.place.join("export.jsonl"));
        let mut command = self.cima(&["export", "--format", "jsonl"]);
        let took = export.fill(&mut command)?;
        self.timed.push(Timed::of("cima", "export", vec![took]));
        self.size("the export, JSON lines", export.bytes()?);
        for (question, answer) in questions.iter().zip(answers) {
            let (timed, said) = race("grep, jq", question.name, self.rounds, || {
                export.shell(&question.shell)
            })?;
            self.timed.push(timed);
            question.compare("grep and jq", answer, &said)?;
        }
        let database = Database::new(python, self.lists.place.join("duckdb"));
        let mut times = Vec::new();
        for _ in 0..FEW {
            times.push(database.load(&export)?);
        }
        self.timed.push(Timed::of("DuckDB", "load", times));
        self.size("DuckDB's database", database.bytes()?);
        for (question, answer) in questions.iter().zip(answers) {
            let (timed, said) = race("DuckDB", question.name, self.rounds, || {
                database.ask(&question.sql)
            })?;
            self.timed.push(timed);
            question.compare("DuckDB", answer, &said)?;
        }
        Ok(())
    }

    fn size(&mut self, what: &'static str, bytes: u64) {
        self.sizes.push(Size { what, bytes });
    }

    fn target(&mut self, what: &str, found: f64, bound: f64, at_most: bool) {
        let what = match at_most && bound > 1.0 {
            true => format!("{what}, ms"),
            false => what.to_owned(),
        };
        self.targets.push(Target {
            what,
            found,
            bound,
            at_most,
        });
    }
}

impl Target {
    fn met(&self) -> bool {
        match self.at_most {
            true => self.found <= self.bound,
            false => self.found >= self.bound,
        }
    }
}

impl Report {
    fn met(&self) -> bool {
        self.targets.iter().all(Target::met)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} entries, {} cores", self.entries, self.cores)?;
        for size in &self.sizes {
            writeln!(f, "{:<42} {:>12.1} MB", size.what, size.bytes as f64 / 1e6)?;
        }
        writeln!(
            f,
            "{:<10} {:<31} {:>4} {:>12} {:>12} {:>12}",
            "", "", "N", "median ms", "least ms", "in it, ms"
        )?;
        for one in &self.timed {
            write!(
                f,
                "{:<10} {:<31} {:>4} {:>12.1} {:>12.1}",
                one.who, one.what, one.n, one.median_ms, one.least_ms
            )?;
            match one.inner_ms {
                Some(inner) => writeln!(f, " {inner:>12.1}")?,
                None => writeln!(f)?,
            }
        }
        for target in &self.targets {
            let met = if target.met() { "met" } else { "MISSED" };
            let sign = if target.at_most { "<=" } else { ">=" };
            writeln!(
                f,
                "{:<42} {:>12.2} {sign} {} {met}",
                target.what, target.found, target.bound
            )?;
        }
        Ok(())
    }
}
