// SPDX-License-Identifier: Apache-2.0
//! What measuring adds to an execution: the same programs executed with no agent,
//! under cimad with each sink, and under the kernel's IMA. `cargo xtask bench exec` plays this and
//! judges /out/bench-exec.json; the claims here say only that whoever was to
//! measure did, and that nobody else did.

mod copies;
mod hooks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use ima_log::HashAlgorithm;
use serde_json::{Value, json};

use copies::{Copies, Program};
use hooks::Hooks;

use super::Scenario;
use crate::agent::{Running, Site, text};
use crate::claims::Claims;
use crate::load::Load;
use crate::{host_list, kernel_sink};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "bench-exec",
    about: "times executions with no agent, under cimad with each sink and under the kernel's IMA",
    play,
};

/// Where the programs are executed: on the root's ext4, or an overlay of it.
const SCRATCH: &str = "/var/bench";
const RESULT: &str = "/out/bench-exec.json";
/// The TPM's: see the bench.
const BANKS: [HashAlgorithm; 2] = [HashAlgorithm::Sha1, HashAlgorithm::Sha256];
/// Where probes are pinned that outlive their agent.
const PINS: &str = "/sys/fs/bpf";
/// Whose files the kernel's IMA measures: those that are executed in its turn.
const IMA_OWNER: u32 = 60991;
const ROOT: u32 = 0;

/// What the sinks in the kernel's list want, and executables and libraries, whoever maps them: what cimad measures in
/// containers. At once, since Debian's kernels take rules once in a boot; until IMA's turn nobody has files of its owner.
fn rules() -> String {
    format!(
        "{}measure func=BPRM_CHECK mask=MAY_EXEC fowner={IMA_OWNER}\nmeasure func=MMAP_CHECK mask=MAY_EXEC fowner={IMA_OWNER}\n",
        kernel_sink::RULES
    )
}

#[derive(Parser)]
struct Arguments {
    /// Who measures, in this order: from the sink kernel on the kernel has a policy, which stays
    #[arg(long, value_delimiter = ',', required = true)]
    under: Vec<Under>,
    #[arg(long, value_delimiter = ',', required = true)]
    program: Vec<Program>,
    #[arg(long, value_delimiter = ',', required = true)]
    pass: Vec<Pass>,
    /// Execute from an overlay's lower layer, as a container does
    #[arg(long)]
    overlay: bool,
    /// Have the kernel count what cimad's programs cost
    #[arg(long)]
    hooks: bool,
}

/// Who measures: nobody, cimad with a sink, or the kernel's IMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Under {
    None,
    Pcr,
    Kernel,
    ImaFile,
    Ima,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pass {
    /// The same files again and again.
    Warm,
    /// Files that nobody ever executed.
    First,
}

impl Under {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pcr => "pcr",
            Self::Kernel => "kernel",
            Self::ImaFile => "ima-file",
            Self::Ima => "ima",
        }
    }

    /// Whether the kernel's list has something to do with it.
    fn wants_rules(self) -> bool {
        self >= Self::Kernel
    }
}

/// How often a program is executed: before the clock runs, and in each block.
struct Count {
    warmup: usize,
    blocks: usize,
    runs: usize,
}

impl Pass {
    fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::First => "first",
        }
    }

    fn count(self, program: Program) -> Count {
        let (warmup, blocks, runs) = match (self, program) {
            // Several seconds: cimad writes executions down every two.
            (Self::Warm, Program::Static) => (20, 6, 1000),
            (Self::Warm, Program::Libraries) => (20, 6, 90),
            // The first one maps the C library and the dynamic linker, too.
            (Self::First, Program::Static) => (1, 12, 10),
            (Self::First, Program::Libraries) => (1, 12, 3),
        };
        Count {
            warmup,
            blocks,
            runs,
        }
    }

    /// How many copies of the program that takes.
    fn copies(self, count: &Count) -> usize {
        match self {
            Self::Warm => 1,
            Self::First => count.warmup + count.blocks * count.runs,
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy)]
struct Row {
    under: Under,
    program: Program,
    pass: Pass,
    overlay: bool,
}

impl Row {
    fn directory(self) -> PathBuf {
        let Self {
            under,
            program,
            pass,
            ..
        } = self;
        let leaf = format!("{}-{}", program.name(), pass.name());
        Path::new(SCRATCH).join(under.name()).join(leaf)
    }

    fn copies(self) -> Copies {
        let count = self.pass.count(self.program);
        let count = self.pass.copies(&count);
        let owner = match self.under {
            Under::Ima => IMA_OWNER,
            _ => ROOT,
        };
        Copies::make(
            self.program,
            &self.directory(),
            count,
            (owner, self.overlay),
        )
    }

    /// Files that are mapped executable from the row's directory.
    fn files(self) -> usize {
        let count = self.pass.count(self.program);
        self.pass.copies(&count) * self.program.files().len()
    }
}

fn play(claims: &mut Claims, arguments: &[String]) {
    let words = std::iter::once("bench-exec").chain(arguments.iter().map(String::as_str));
    let mut asked = Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    asked.under.sort_unstable();
    let overlay = asked.overlay;
    let mut rows = Vec::new();
    let (mut has_rules, mut module_bytes) = (false, None);
    for under in asked.under.iter().copied() {
        let mine = asked.program.iter().flat_map(|&program| {
            asked.pass.iter().map(move |&pass| Row {
                under,
                program,
                pass,
                overlay,
            })
        });
        let mine: Vec<Row> = mine.collect();
        if under.wants_rules() && !has_rules {
            host_list::write_rules(&rules());
            has_rules = true;
        }
        rows.extend(match under {
            Under::None => without(claims, &mine),
            Under::Pcr | Under::ImaFile => with_cimad(claims, &mine, asked.hooks),
            Under::Kernel => {
                module_bytes = Some(kernel_sink::load());
                let told = with_cimad(claims, &mine, asked.hooks);
                kernel_sink::unload();
                told
            }
            Under::Ima => with_ima(claims, &mine),
        });
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let result = json!({
        "kernel": kernel.trim(),
        "overlay": overlay,
        "module_bytes": module_bytes,
        "rows": rows,
    });
    fs::write(RESULT, format!("{result:#}\n")).expect("/out can be written");
}

fn without(claims: &mut Claims, rows: &[Row]) -> Vec<Value> {
    let mut told = Vec::new();
    for &row in rows {
        let timed = claims.claim(&title(row), || time(row, &row.copies(), || ()));
        told.extend(timed.map(|blocks| tell(row, &blocks, json!({ "measured": 0 }))));
    }
    claims.claim("with no agent nothing is measured", || {
        let measured = listed(Path::new(SCRATCH), Under::Ima).len();
        assert_eq!(measured, 0, "the kernel's IMA has a policy");
    });
    told
}

fn with_ima(claims: &mut Claims, rows: &[Row]) -> Vec<Value> {
    claims.claim("cimad left nothing in the kernel", nothing_is_pinned);
    let mut told = Vec::new();
    for &row in rows {
        let Some(blocks) = claims.claim(&title(row), || time(row, &row.copies(), || ())) else {
            continue;
        };
        let measured = claims.claim("the kernel's IMA measured each file once", || once(row));
        told.push(tell(row, &blocks, json!({ "measured": measured })));
    }
    told
}

fn nothing_is_pinned() {
    let pins = fs::read_dir(PINS).expect("bpffs is mounted");
    assert_eq!(pins.count(), 0, "pinned below {PINS}");
}

/// The kernel's list has each file of the row once; how many those are.
#[track_caller]
fn once(row: Row) -> usize {
    let listed = listed(&row.directory(), row.under);
    let repeated: Vec<_> = listed.iter().filter(|(_, count)| **count != 1).collect();
    assert!(repeated.is_empty(), "more than once: {repeated:?}");
    let files = row.files();
    assert_eq!(listed.len(), files, "of {}", row.directory().display());
    files
}

/// How often the kernel's list has each file below `directory`, in the form in which `under` has it there.
fn listed(directory: &Path, under: Under) -> BTreeMap<String, usize> {
    let below = format!("{}/", directory.display());
    let begin = match under {
        Under::Kernel => format!("cima-exec:unregistered:{below}"),
        Under::ImaFile => format!("cima-exec:unregistered:{}", below.replace('/', "%2F")),
        _ => below,
    };
    let list = fs::read_to_string(host_list::ASCII).expect("the kernel's list can be read");
    let mut counts = BTreeMap::new();
    for name in list.lines().filter_map(|line| line.split(' ').nth(4)) {
        if name.starts_with(&begin) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn with_cimad(claims: &mut Claims, rows: &[Row], hooks: bool) -> Vec<Value> {
    let Some(under) = rows.first().map(|row| row.under) else {
        return Vec::new();
    };
    let site = Site::shipped_with_sink(under.name());
    let agent = site.start();
    let mut timed = Vec::new();
    for &row in rows {
        let claimed = claims.claim(&title(row), || time_agent(row, &site, &agent, hooks));
        timed.extend(claimed.map(|(blocks, more)| (row, blocks, more)));
    }
    agent.stop();
    let name = format!("the list is in the TPM, under {}", under.name());
    claims.claim(&name, || match under {
        Under::Pcr => drop(site.verify_in("13").succeeded()),
        // That the row is in it, each file once, is claimed below. The kernel's list has other sites' entries, too.
        _ => drop(host_list::replays_in(&BANKS)),
    });
    let list = List::read(&site);
    claims.claim("no event was lost", || assert_eq!(list.losses, 0, "losses"));
    let mut told = Vec::new();
    for (row, blocks, mut more) in timed {
        let (files, events) = list.below(&row.directory());
        claims.claim(&format!("cimad measured each file, {}", title(row)), || {
            assert_eq!(files, row.files(), "files in policy events");
            if under.wants_rules() {
                once(row);
            }
        });
        more["measured"] = files.into();
        more["events"] = events.into();
        told.push(tell(row, &blocks, more));
    }
    told
}

/// [`time`], with what the agent does for it.
fn time_agent(row: Row, site: &Site, agent: &Running<'_>, hooks: bool) -> (Vec<f64>, Value) {
    let copies = row.copies();
    let mut counted = None;
    let mut cpu = Duration::ZERO;
    let blocks = time(row, &copies, || {
        site.caught_up();
        counted = hooks.then(|| Hooks::count(&site.pins()));
        cpu = agent.cpu();
    });
    let ended = Instant::now();
    let after = site.caught_up().saturating_duration_since(ended);
    let count = row.pass.count(row.program);
    let runs = (count.blocks * count.runs) as f64;
    let cpu = (agent.cpu() - cpu).as_secs_f64() * 1e6 / runs;
    let more = json!({
        "agent_cpu_us": cpu,
        "caught_up_after_ms": after.as_secs_f64() * 1e3,
        "hooks": counted.map(|hooks| hooks.tell(runs)),
    });
    (blocks, more)
}

/// What cimad's list says.
struct List {
    losses: usize,
    /// Files of policy events.
    files: BTreeSet<String>,
    /// Files of mapping events, each as often as it was said.
    mappings: Vec<String>,
}

impl List {
    fn read(site: &Site) -> Self {
        let policy = site.policy_events();
        let context = site.context_events();
        let name = |(name, _): &(String, String)| {
            name.strip_prefix("cima-exec:unregistered:")
                .map(str::to_owned)
        };
        let path = |event: &Value| text(&event["mapping"]["file"]["path"]);
        Self {
            losses: policy
                .iter()
                .filter(|(name, _)| name.starts_with("cima-violation:loss"))
                .count()
                + context
                    .iter()
                    .filter(|event| !event["loss"].is_null())
                    .count(),
            files: policy.iter().filter_map(name).collect(),
            mappings: context
                .iter()
                .map(path)
                .filter(|path| !path.is_empty())
                .collect(),
        }
    }

    /// Files below a directory, and how often they were said to be mapped.
    fn below(&self, directory: &Path) -> (usize, usize) {
        let inside = |path: &&String| Path::new(path).starts_with(directory);
        (
            self.files.iter().filter(inside).count(),
            self.mappings.iter().filter(inside).count(),
        )
    }
}

fn title(row: Row) -> String {
    let Row {
        under,
        program,
        pass,
        ..
    } = row;
    format!("{} under {}, {}", program.name(), under.name(), pass.name())
}

/// A row as the host reads it: microseconds for one execution, a number a block.
fn tell(row: Row, blocks: &[f64], more: Value) -> Value {
    let count = row.pass.count(row.program);
    let mut told = json!({
        "under": row.under.name(),
        "program": row.program.name(),
        "pass": row.pass.name(),
        "files": row.program.files().len(),
        "runs": count.blocks * count.runs,
        "blocks_us": blocks,
    });
    if let (Some(told), Value::Object(more)) = (told.as_object_mut(), more) {
        told.extend(more);
    }
    told
}

/// Executes what the row says; microseconds for one execution, a number a block.
/// `idle` is called between the warm-up and the rest.
fn time(row: Row, copies: &Copies, idle: impl FnOnce()) -> Vec<f64> {
    let count = row.pass.count(row.program);
    let how = match row.pass {
        Pass::Warm => "same",
        Pass::First => "fresh",
    };
    let numbers = [count.warmup, count.blocks, count.runs].map(|n| n.to_string());
    let path = copies.directory().to_str().expect("a plain path");
    let [warmup, blocks, runs] = numbers.each_ref().map(String::as_str);
    let load = Load::start(&["exec", path, how, warmup, blocks, runs]);
    idle();
    let told = load.go();
    let ns = told.iter().map(|line| line.parse::<u64>());
    let us = ns.map(|ns| ns.expect("a time in nanoseconds") as f64 / 1e3);
    let blocks: Vec<f64> = us.map(|us| us / count.runs as f64).collect();
    assert_eq!(blocks.len(), count.blocks, "blocks");
    blocks
}
