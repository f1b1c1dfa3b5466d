// SPDX-License-Identifier: Apache-2.0
//! Programs of the guest: run to their end or to a time limit, with what they
//! wrote. Failures are panics, which the claim around them turns into its reason.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a program may run unless it is given longer. The processor is emulated.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// A program that ran.
#[derive(Debug)]
pub(crate) struct Ran {
    line: String,
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Its exit code; `None` if a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it wrote to its standard output; panics unless it succeeded.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert!(
            self.status.success(),
            "`{}` ended with {}: {}{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr.trim_end()
        );
        self.stdout
    }

    /// What it wrote to its standard error; panics if it succeeded.
    #[track_caller]
    pub(crate) fn failed(self) -> String {
        assert!(
            !self.status.success(),
            "`{}` succeeded: {}",
            self.line,
            self.stdout
        );
        self.stderr
    }
}

/// Runs a program, the first of `words`, within the usual time limit.
#[track_caller]
pub(crate) fn run(words: &[&str]) -> Ran {
    run_within(DEFAULT_LIMIT, words)
}

/// Runs a program; panics when it cannot be started or is not done in time.
#[track_caller]
pub(crate) fn run_within(limit: Duration, words: &[&str]) -> Ran {
    let line = words.join(" ");
    let (mut stdout, mut stderr) = (scratch_file(), scratch_file());
    let mut child = start(words, &stdout, &stderr);
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => panic!("cannot wait for `{line}`: {error}"),
        }
        if started.elapsed() > limit {
            kill_group(&mut child);
            panic!(
                "`{line}` was not done after {} s: {}{}",
                limit.as_secs(),
                content(&mut stdout),
                content(&mut stderr)
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Ran {
        line,
        status,
        stdout: content(&mut stdout),
        stderr: content(&mut stderr),
    }
}

#[track_caller]
fn start(words: &[&str], stdout: &File, stderr: &File) -> Child {
    let dup = |file: &File| file.try_clone().expect("a file can be shared");
    let [program, arguments @ ..] = words else {
        panic!("there is no program to run");
    };
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(dup(stdout))
        .stderr(dup(stderr))
        // So that its children can be killed with it.
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {program}: {error}"))
}

fn kill_group(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        // Fails only when it has just ended by itself.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
}

/// Output goes to files: a pipe would stay open as long as a grandchild holds it.
fn scratch_file() -> File {
    tempfile::tempfile().expect("there is room in /tmp")
}

fn content(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .expect("a scratch file can be read back");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{run, run_within};
    use std::time::Duration;

    #[test]
    fn a_program_is_judged_by_its_status_and_its_output_is_kept() {
        assert_eq!(
            run(&["sh", "-c", "echo out; echo err >&2"]).succeeded(),
            "out\n"
        );
        assert_eq!(run(&["sh", "-c", "echo why >&2; exit 3"]).failed(), "why\n");
    }

    #[test]
    #[should_panic(expected = "was not done after 0 s: begun")]
    fn a_program_that_takes_too_long_is_killed_with_its_children() {
        run_within(
            Duration::from_millis(300),
            &["sh", "-c", "echo begun; sleep 60 & wait"],
        );
    }
}
