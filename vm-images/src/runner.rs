// SPDX-License-Identifier: Apache-2.0
//! Runs one machine: starts its TPM and QEMU, passes its output on, watches the
//! kernel's console and the clock, and comes to a verdict.
//!
//! QEMU writes each channel to a file of its own, and this reads along: what a
//! guest said is on disk whatever becomes of either process.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::command::{Held, TICK, last_lines, own_process_group};
use crate::disk::{self, Use};
use crate::error::{Doing as _, Error};
use crate::machine::{self, Places, Run};
use crate::tpm::SoftwareTpm;
use crate::{Kernel, Layout, Result, Series, Tpm, Trouble, check_interrupt, console, root};

/// How long a guest in trouble may go on, so that the kernel's whole report comes out.
const TROUBLE_GRACE: Duration = Duration::from_secs(2);
/// How long a guest may take to switch itself off.
const POWEROFF_GRACE: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The command succeeded, and the kernel had nothing to complain about.
    Passed,
    /// The command ended with this status.
    Failed(String),
    /// The kernel complained, with this line.
    Kernel(Trouble, String),
    /// The machine ran for longer than it may.
    TimeLimit(Duration),
    /// The machine was reset more often than [`Run::resets`] allows.
    Resets(u32),
    /// The machine ended without a word about its command.
    Died,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => write!(f, "passed"),
            Self::Failed(status) => write!(f, "failed: the command ended with status {status}"),
            Self::Kernel(trouble, line) => write!(f, "failed: {trouble}: {line}"),
            Self::TimeLimit(limit) => write!(f, "failed: not done within {} s", limit.as_secs()),
            Self::Resets(allowed) => {
                write!(f, "failed: the machine was reset more than {allowed} times")
            }
            Self::Died => write!(f, "failed: the machine ended before its command did"),
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The kernel it ran on.
    pub series: Series,
    /// The label of the run.
    pub label: String,
    /// How it ended.
    pub verdict: Verdict,
    /// From QEMU's start to the command's; `None` if it never started.
    pub started_after: Option<Duration>,
    /// From QEMU's start to its end.
    pub took: Duration,
    /// Holds `console.log`, `scenario.log` and `out/`.
    pub directory: PathBuf,
    /// The last lines of what explains a verdict other than [`Verdict::Passed`]
    /// and is not in the output already; else empty.
    pub evidence: String,
}

impl Outcome {
    /// Whether all is well.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            series,
            label,
            verdict,
            took,
            ..
        } = self;
        write!(
            f,
            "[{series}] {label} {verdict} ({:.1} s)",
            took.as_secs_f64()
        )
    }
}

/// The root disk of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RootDisk<'a> {
    pub(crate) image: &'a Path,
    /// Whether what the guest writes stays.
    pub(crate) persist: bool,
}

/// Runs on the finished root, which stays as it is.
pub(crate) fn run(
    layout: &Layout,
    kernel: &Kernel,
    run: &Run,
    output: &mut dyn Write,
) -> Result<Outcome> {
    let disk = RootDisk {
        image: &root::image(layout),
        persist: false,
    };
    run_on(disk, layout, kernel, run, output)
}

/// Runs on a root disk of the caller's choice.
pub(crate) fn run_on(
    disk: RootDisk<'_>,
    layout: &Layout,
    kernel: &Kernel,
    run: &Run,
    output: &mut dyn Write,
) -> Result<Outcome> {
    let mut machine = Machine::start(disk, layout, kernel, run, false)?;
    machine.watch(run, output)
}

/// Runs with the command on this terminal.
pub(crate) fn shell(layout: &Layout, kernel: &Kernel, run: &Run) -> Result<Outcome> {
    let disk = RootDisk {
        image: &root::image(layout),
        persist: false,
    };
    let mut machine = Machine::start(disk, layout, kernel, run, true)?;
    let outcome = machine.watch(run, &mut std::io::sink());
    drop(machine);
    // QEMU sets the terminal back at its end, unless it was killed.
    let _ = std::process::Command::new("stty").arg("sane").status();
    outcome
}

/// A machine that runs. Dropped, it and its TPM are killed.
struct Machine {
    qemu: Held,
    directory: PathBuf,
    started: Instant,
    console: Channel,
    output: Option<Channel>,
    verdict: Channel,
    seen: Seen,
    interactive: bool,
    _tpm: Option<SoftwareTpm>,
    _scratch: tempfile::TempDir,
    _lock: File,
}

/// What the machine has said so far.
#[derive(Default)]
struct Seen {
    running: Option<Duration>,
    /// Kernels that began to talk.
    boots: u32,
    status: Option<(String, Instant)>,
    trouble: Option<(Trouble, String, Instant)>,
}

impl Machine {
    fn start(
        disk: RootDisk<'_>,
        layout: &Layout,
        kernel: &Kernel,
        run: &Run,
        interactive: bool,
    ) -> Result<Self> {
        let directory = layout.run_directory(run.series, &run.label);
        let lock = clear_directory(&directory)?;
        let scratch = tempfile::tempdir().doing("make a directory in", &std::env::temp_dir())?;
        let stage = scratch.path().join("stage");
        machine::lay_out_stage(run, &stage)?;
        let stage_image = scratch.path().join("stage.img");
        disk::make(&stage, &stage_image, "stage", Use::ReadOnly)?;
        let tpm = match &run.tpm {
            Tpm::Absent => None,
            Tpm::Banks(banks) => Some(SoftwareTpm::start(scratch.path(), banks)?),
        };
        let places = Places {
            root_image: disk.image,
            persist: disk.persist,
            stage_image: &stage_image,
            tpm_socket: tpm.as_ref().map(|tpm| tpm.socket.as_path()),
            directory: &directory,
            interactive,
        };
        let qemu_log = directory.join("qemu.log");
        let log = File::create(&qemu_log).doing("make", &qemu_log)?;
        let started = Instant::now();
        let qemu = Held::spawn("qemu-system-x86_64", |qemu| {
            machine::configure(qemu, run, kernel, &places);
            qemu.stderr(log);
            if !interactive {
                qemu.stdin(Stdio::null()).stdout(Stdio::null());
                own_process_group(qemu);
            }
        })?;
        Ok(Self {
            qemu,
            started,
            console: Channel::new(directory.join("console.log")),
            output: (!interactive).then(|| Channel::new(directory.join("scenario.log"))),
            verdict: Channel::new(directory.join("verdict")),
            directory,
            seen: Seen::default(),
            interactive,
            _tpm: tpm,
            _scratch: scratch,
            _lock: lock,
        })
    }

    /// Reads along until there is a verdict.
    fn watch(&mut self, run: &Run, output: &mut dyn Write) -> Result<Outcome> {
        let verdict = loop {
            check_interrupt()?;
            let ended = self.qemu.ended().is_some();
            self.read_along(run, output)?;
            if let Some(verdict) = self.verdict_now(run, ended) {
                break verdict;
            }
            std::thread::sleep(TICK);
        };
        Ok(Outcome {
            series: run.series,
            label: run.label.clone(),
            evidence: self.evidence(&verdict),
            verdict,
            started_after: self.seen.running,
            took: self.started.elapsed(),
            directory: self.directory.clone(),
        })
    }

    fn read_along(&mut self, run: &Run, output: &mut dyn Write) -> Result<()> {
        for line in self.verdict.lines()? {
            if line == "running" {
                let after = self.started.elapsed();
                self.seen.running.get_or_insert(after);
                if !self.interactive {
                    say(
                        output,
                        &format!(
                            "[{}] scenario running after {:.1} s\n",
                            run.series,
                            after.as_secs_f64()
                        ),
                    )?;
                }
            } else if let Some(status) = line.strip_prefix("exit ") {
                self.seen.status = Some((status.to_owned(), Instant::now()));
            }
        }
        if let Some(channel) = &mut self.output {
            let bytes = channel.read()?;
            output
                .write_all(&bytes)
                .and_then(|()| output.flush())
                .doing("pass on", &channel.path)?;
        }
        for line in self.console.lines()? {
            self.seen.boots += u32::from(console::is_first(&line));
            let trouble = Trouble::in_line(&line)
                .filter(|trouble| *trouble != Trouble::Warning || run.minds_warning(&line));
            if let (Some(trouble), None) = (trouble, &self.seen.trouble) {
                self.seen.trouble = Some((trouble, line, Instant::now()));
            }
        }
        Ok(())
    }

    /// The verdict, if there is one. `ended` was asked before the channels were
    /// read for the last time, so nothing more comes when it is true.
    fn verdict_now(&self, run: &Run, ended: bool) -> Option<Verdict> {
        if let Some((trouble, line, at)) = &self.seen.trouble
            && (ended || at.elapsed() > TROUBLE_GRACE)
            && !self.interactive
        {
            return Some(Verdict::Kernel(*trouble, line.clone()));
        }
        if let Some((status, at)) = &self.seen.status
            && (ended || at.elapsed() > POWEROFF_GRACE)
        {
            return Some(match status.as_str() {
                "0" => Verdict::Passed,
                _ => Verdict::Failed(status.clone()),
            });
        }
        // Without any allowed a reset has ended the machine.
        if run.resets > 0 && self.seen.boots > run.resets + 1 {
            return Some(Verdict::Resets(run.resets));
        }
        if ended {
            return Some(Verdict::Died);
        }
        (self.started.elapsed() > run.time_limit && !self.interactive)
            .then_some(Verdict::TimeLimit(run.time_limit))
    }

    fn evidence(&self, verdict: &Verdict) -> String {
        let tail = |name: &str, lines: usize| {
            let path = self.directory.join(name);
            let text = std::fs::read(&path).unwrap_or_default();
            let text = last_lines(&String::from_utf8_lossy(&text).replace('\r', ""), lines);
            if text.is_empty() {
                return String::new();
            }
            format!("--- last lines of {}\n{text}\n", path.display())
        };
        match verdict {
            Verdict::Passed | Verdict::Failed(_) => String::new(),
            Verdict::Kernel(..) | Verdict::Resets(_) => tail("console.log", 60),
            Verdict::TimeLimit(_) => tail("console.log", 15) + &tail("scenario.log", 15),
            Verdict::Died => tail("qemu.log", 15) + &tail("console.log", 30),
        }
    }
}

fn say(output: &mut dyn Write, text: &str) -> Result<()> {
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .doing("write to", Path::new("the output"))
}

/// Empties a run's directory, and keeps other runs out of it as long as the
/// returned file is open.
fn clear_directory(directory: &Path) -> Result<File> {
    let runs = directory.parent().unwrap_or(directory);
    std::fs::create_dir_all(runs).doing("make the directory", runs)?;
    let lock_path = directory.with_added_extension("lock");
    let lock = File::create(&lock_path).doing("make", &lock_path)?;
    lock.try_lock().map_err(|_| Error::RunDirectoryBusy {
        dir: directory.to_owned(),
    })?;
    if directory.exists() {
        std::fs::remove_dir_all(directory).doing("empty", directory)?;
    }
    let out = directory.join("out");
    std::fs::create_dir_all(&out).doing("make the directory", &out)?;
    Ok(lock)
}

/// A file that QEMU appends to and this reads as it grows.
struct Channel {
    path: PathBuf,
    file: Option<File>,
    partial: Vec<u8>,
}

impl Channel {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            partial: Vec::new(),
        }
    }

    /// What was appended since the last call.
    fn read(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if self.file.is_none() {
            // QEMU has not made it yet.
            let Ok(file) = File::open(&self.path) else {
                return Ok(bytes);
            };
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut bytes).doing("read", &self.path)?;
        }
        Ok(bytes)
    }

    /// The lines that were completed since the last call.
    fn lines(&mut self) -> Result<Vec<String>> {
        let more = self.read()?;
        self.partial.extend(more);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let complete: Vec<u8> = self.partial.drain(..=end).collect();
        Ok(String::from_utf8_lossy(&complete)
            .lines()
            .map(|line| line.trim_end_matches('\r').to_owned())
            .collect())
    }
}
