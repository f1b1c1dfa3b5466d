// SPDX-License-Identifier: Apache-2.0
//! Work for containers, so regular that what must be in the list can be told
//! afterwards: numbered programs of 140 bytes, each executed once, some new, some the
//! same as before, some new under an old name.
//!
//! A container here is what `unshare` makes: namespaces without an engine, a hundred
//! times cheaper than podman.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Subcommand;
use ima_log::HashAlgorithm;
use serde_json::Value;

use crate::agent::text;

const SCENARIOS: &str = "/cima/bin/cima-scenarios";

/// A program that ends with 0 at once: an ELF header, one segment to read and execute,
/// `mov eax, 60; xor edi, edi; syscall`. What follows tells it from others.
const ELF: [u8; 129] = {
    let mut elf = [0; 129];
    let parts: [(usize, &[u8]); 10] = [
        (0, b"\x7fELF\x02\x01\x01"),
        // ET_EXEC, EM_X86_64, version; entry; program headers' place
        (16, &[2, 0, 62, 0, 1]),
        (24, &[0x78, 0, 0x40]),
        (32, &[64]),
        (52, &[64, 0, 56, 0, 1]),
        // PT_LOAD, R and X; address
        (64, &[1, 0, 0, 0, 5]),
        (80, &[0, 0, 0x40]),
        (96, &[129]),
        (104, &[129]),
        (120, b"\xb8\x3c\0\0\0\x31\xff\x0f\x05"),
    ];
    let mut part = 0;
    while part < parts.len() {
        let (at, bytes) = parts[part];
        let mut byte = 0;
        while byte < bytes.len() {
            elf[at + byte] = bytes[byte];
            byte += 1;
        }
        part += 1;
    }
    elf
};

/// The program that `name` tells from all others.
pub(crate) fn program(name: &str) -> Vec<u8> {
    [&ELF, name.as_bytes()].concat()
}

/// Writes a program so that it can be executed at once.
pub(crate) fn install(path: &Path, name: &str) {
    fs::write(path, program(name)).expect("a program can be written");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it can be made executable");
}

/// The payload of the policy event of [`program`].
pub(crate) fn payload(name: &str) -> String {
    format!("v1;{}", HashAlgorithm::Sha256.digest(&program(name)))
}

/// A command in namespaces of its own, which the shipped policy takes for a container.
pub(crate) fn container(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--", program])
        .stdin(Stdio::null());
    command
}

/// What runs inside a container.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Work {
    /// Execute one numbered program after the other until DIR/stop is there
    Steady {
        dir: PathBuf,
        /// Number of the first
        first: u64,
        /// Milliseconds from one to the next
        every: u64,
    },
    /// Become a program
    Once {
        program: PathBuf,
        arguments: Vec<String>,
    },
    /// Execute DIR/same from many threads at once, and write to DIR/count how often
    Storm {
        dir: PathBuf,
        threads: u32,
        seconds: u64,
    },
}

impl Work {
    pub(crate) fn run(self) {
        match self {
            Self::Steady { dir, first, every } => {
                steady(&dir, first, Duration::from_millis(every));
            }
            Self::Once { program, arguments } => {
                panic!("{}", Command::new(program).args(arguments).exec());
            }
            Self::Storm {
                dir,
                threads,
                seconds,
            } => storm(&dir, threads, Duration::from_secs(seconds)),
        }
    }
}

fn steady(dir: &Path, first: u64, every: Duration) {
    let mut journal = File::create(dir.join("journal")).expect("the journal can be written");
    let mut due = Instant::now();
    for number in first.. {
        if dir.join("stop").exists() {
            return;
        }
        let step = Step { dir, number };
        let path = step.path();
        if step.is_new() {
            // A new inode, for which the file system likes to take the number of the last.
            let _ = fs::remove_file(&path);
        }
        install(&path, &step.content());
        let status = Command::new(&path).arg(number.to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "{path:?} runs");
        writeln!(journal, "{number}").expect("the journal can be written");
        due += every;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if step.is_new() {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Executions are counted when they succeeded; that a fork fails is part of the storm.
fn storm(dir: &Path, threads: u32, time: Duration) {
    let path = dir.join("same");
    let end = Instant::now() + time;
    let done: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| executions_until(end, &path)))
            .collect();
        let counts = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
        counts.map(|count| count.expect("a worker ends")).sum()
    });
    fs::write(dir.join("count"), done.to_string()).expect("the count can be written");
}

fn executions_until(end: Instant, path: &Path) -> u64 {
    let mut done = 0;
    while Instant::now() < end {
        // Not waited for one by one, so that they pile up against the limit.
        let mut children: Vec<_> = (0..30)
            .filter_map(|_| Command::new(path).spawn().ok())
            .collect();
        done += children.len() as u64;
        for child in &mut children {
            let _ = child.wait();
        }
    }
    done
}

/// One execution of the steady work.
pub(crate) struct Step<'a> {
    dir: &'a Path,
    number: u64,
}

impl Step<'_> {
    /// One in four executes the same file unchanged, one in four the same path with new content.
    fn path(&self) -> PathBuf {
        self.dir.join(match self.number % 4 {
            0 => "same".to_owned(),
            1 => "again".to_owned(),
            _ => format!("p{}", self.number),
        })
    }

    fn is_new(&self) -> bool {
        self.number % 4 > 1
    }

    fn content(&self) -> String {
        match self.number % 4 {
            0 => "same".to_owned(),
            _ => self.number.to_string(),
        }
    }
}

/// A container that executes numbered programs at a steady rate.
pub(crate) struct Load {
    child: Child,
    dir: PathBuf,
    first: u64,
}

impl Load {
    /// Starts it; its files are in `dir`, its programs numbered from `first`.
    #[track_caller]
    pub(crate) fn start(dir: &Path, first: u64, every: Duration) -> Self {
        fs::create_dir_all(dir).expect("a directory can be made");
        let _ = fs::remove_file(dir.join("stop"));
        let _ = fs::remove_file(dir.join("journal"));
        let log = File::create(dir.join("log")).expect("a log can be written");
        let child = container(SCENARIOS)
            .args(["work", "steady"])
            .arg(dir)
            .args([first.to_string(), every.as_millis().to_string()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare can be started");
        Self {
            child,
            dir: dir.to_owned(),
            first,
        }
    }

    /// Waits until so many programs have run.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: u64) {
        let started = Instant::now();
        while executed(&self.dir) < count {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "the load runs: {}",
                fs::read_to_string(self.dir.join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it, and says what it executed.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Executed {
        fs::write(self.dir.join("stop"), "").expect("a file can be made");
        let status = self.child.wait().expect("unshare ends");
        assert!(
            status.success(),
            "the load ended with {status}: {}",
            fs::read_to_string(self.dir.join("log")).unwrap_or_default()
        );
        let numbers = self.first..self.first + executed(&self.dir);
        Executed {
            dir: self.dir.clone(),
            numbers,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn executed(dir: &Path) -> u64 {
    let journal = fs::read(dir.join("journal")).unwrap_or_default();
    journal.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// What a steady load executed.
pub(crate) struct Executed {
    dir: PathBuf,
    numbers: std::ops::Range<u64>,
}

impl Executed {
    pub(crate) fn count(&self) -> u64 {
        self.numbers.end - self.numbers.start
    }

    /// What the list must hold of it and does not hold exactly once, as sentences.
    pub(crate) fn faults(&self, entries: &[Value]) -> Vec<String> {
        let listed = Listed::of(entries);
        let mut faults = Vec::new();
        for number in self.numbers.clone() {
            let step = Step {
                dir: &self.dir,
                number,
            };
            let path = step.path();
            let name = format!("cima-exec:unregistered:{}", path.display());
            let said = (name, payload(&step.content()));
            let times = [
                ("policy event", listed.policy.get(&said)),
                (
                    "execution",
                    listed.executions.get(&(text_of(&path), number)),
                ),
            ];
            for (what, times) in times {
                let times = times.copied().unwrap_or_default();
                if times != 1 {
                    faults.push(format!(
                        "{times} times as {what}: program {number}, {}",
                        path.display()
                    ));
                }
            }
        }
        faults
    }

    /// Fails unless each program is in the list, and each execution exactly once.
    #[track_caller]
    pub(crate) fn assert_in(&self, entries: &[Value]) {
        let faults = self.faults(entries);
        assert!(
            faults.is_empty(),
            "of {} executions {} are not there once: {}",
            self.count(),
            faults.len(),
            faults[..faults.len().min(5)].join("; ")
        );
    }

    /// Whether the last one is in the list: then so are those before it.
    pub(crate) fn last_is_in(&self, entries: &[Value]) -> bool {
        let last = Self {
            dir: self.dir.clone(),
            numbers: self.numbers.end - 1..self.numbers.end,
        };
        last.faults(entries).is_empty()
    }
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What a list says, counted.
struct Listed {
    policy: BTreeMap<(String, String), u32>,
    /// By path and the number in the first argument.
    executions: BTreeMap<(String, u64), u32>,
}

impl Listed {
    fn of(entries: &[Value]) -> Self {
        let (mut policy, mut executions) = (BTreeMap::new(), BTreeMap::new());
        for entry in entries {
            let Some(events) = entry["batch"]["events"].as_array() else {
                let said = (text(&entry["name"]), text(&entry["payload"]));
                *policy.entry(said).or_default() += 1;
                continue;
            };
            for execution in events.iter().map(|event| &event["execution"]) {
                if let Some(number) = execution["args"][1].as_str().and_then(|n| n.parse().ok()) {
                    let path = text(&execution["file"]["path"]);
                    *executions.entry((path, number)).or_default() += 1;
                }
            }
        }
        Self { policy, executions }
    }
}

/// What every list must be, however it came about: fails unless its batches are numbered
/// from 0 without a gap, no policy event is listed twice, each loss has a count and no
/// chain broke. Returns how many events it says were lost.
#[track_caller]
pub(crate) fn assert_sound(entries: &[Value]) -> u64 {
    let batches = entries
        .iter()
        .filter_map(|entry| entry["batch"]["seq"].as_u64());
    for (expected, seq) in (0..).zip(batches) {
        assert_eq!(seq, expected, "number of a batch");
    }
    for (said, times) in Listed::of(entries).policy {
        assert_eq!(times, 1, "{said:?} is listed {times} times");
        assert!(
            !said.0.starts_with("cima-violation:chain:"),
            "the chain broke: {said:?}"
        );
        assert!(
            !said.0.starts_with("cima-violation:loss:") || counted(&said.1) > 0,
            "a loss without its count: {said:?}"
        );
    }
    losses(entries, "")
}

/// `…;count=N;…`
fn counted(payload: &str) -> u64 {
    let count = payload.split(';').find_map(|p| p.strip_prefix("count="));
    count.and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Events lost for a cause, or for any: as the policy events say, and the context events too.
#[track_caller]
pub(crate) fn losses(entries: &[Value], cause: &str) -> u64 {
    let violations: u64 = entries
        .iter()
        .filter(|entry| text(&entry["name"]) == "cima-violation:loss:unregistered:")
        .map(|entry| text(&entry["payload"]))
        .filter(|payload| cause.is_empty() || payload.contains(&format!("cause={cause};")))
        .map(|payload| counted(&payload))
        .sum();
    let events: u64 = context_events(entries)
        .map(|event| &event["loss"])
        .filter(|loss| cause.is_empty() || text(&loss["cause"]) == cause)
        .filter_map(|loss| loss["count"].as_u64())
        .sum();
    assert_eq!(
        violations, events,
        "losses, as violations and as context events"
    );
    events
}

/// The context events of entries.
pub(crate) fn context_events(entries: &[Value]) -> impl Iterator<Item = &Value> {
    entries
        .iter()
        .filter_map(|entry| entry["batch"]["events"].as_array())
        .flatten()
}

/// A sequence of numbers that its seed repeats (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// With the seed of the command line, or one that is new each time; it is told.
    pub(crate) fn new(arguments: &[String]) -> Self {
        let given = arguments.first().and_then(|seed| seed.parse().ok());
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        let seed = given.unwrap_or_else(|| now.map_or(0, |now| u64::from(now.subsec_nanos())));
        println!("     seed {seed}");
        Self(seed)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::{install, program};
    use std::process::Command;

    #[test]
    fn a_program_runs_and_is_like_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        install(&path, "one");
        assert!(Command::new(&path).status().unwrap().success());
        assert_ne!(program("one"), program("two"));
    }
}
