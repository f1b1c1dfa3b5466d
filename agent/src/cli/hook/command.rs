// SPDX-License-Identifier: Apache-2.0
//! Commands of engines, each with a deadline: an engine that hangs must not take the check with it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

/// How often it is looked whether a command ended.
const STEP: Duration = Duration::from_millis(20);

/// What a command said.
pub(super) struct Ran {
    pub(super) success: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ran {
    /// Why it failed, in its own words: the last are the ones that count.
    pub(super) fn last_words(&self) -> &str {
        self.stderr
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("it gave no reason")
    }
}

/// Why a command said nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Not installed.
    #[error("{0} is not in PATH")]
    Missing(String),
    /// Not startable.
    #[error("cannot run {program}: {error}")]
    Run {
        /// Which.
        program: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It was ended.
    #[error("{command} did not end within {} s", .within.as_secs())]
    Deadline {
        /// With its arguments.
        command: String,
        /// The deadline.
        within: Duration,
    },
}

/// Runs `program` with `args`. Its output goes to files: what an engine leaves running may keep a pipe open.
pub(super) fn run<A: AsRef<OsStr>>(
    program: &str,
    args: &[A],
    within: Duration,
) -> Result<Ran, CommandError> {
    let failed = |error| CommandError::Run {
        program: program.to_owned(),
        error,
    };
    let mut stdout = tempfile::tempfile().map_err(failed)?;
    let mut stderr = tempfile::tempfile().map_err(failed)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().map_err(failed)?)
        .stderr(stderr.try_clone().map_err(failed)?)
        // A group of its own: an engine is several processes.
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CommandError::Missing(program.to_owned()),
            _ => failed(error),
        })?;
    let status = wait(&mut child, within).map_err(failed)?;
    match status {
        Some(status) => Ok(Ran {
            success: status.success(),
            stdout: text(&mut stdout).map_err(failed)?,
            stderr: text(&mut stderr).map_err(failed)?,
        }),
        None => {
            let mut command = program.to_owned();
            for arg in args {
                command.push(' ');
                command.push_str(&arg.as_ref().to_string_lossy());
            }
            Err(CommandError::Deadline { command, within })
        }
    }
}

/// Nothing if the deadline was first; the command is gone then.
fn wait(child: &mut Child, within: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            // It has not been waited for, so the number is still its own.
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                kill_process_group(group, Signal::KILL)?;
            }
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(STEP);
    }
}

fn text(file: &mut File) -> io::Result<String> {
    /// More than that of an engine's words nobody reads.
    const MOST: u64 = 1 << 20;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_says_how_it_ended_and_what_it_wrote() {
        let ran = run(
            "sh",
            &["-c", "echo out; echo a >&2; echo 'b' >&2; echo >&2; exit 3"],
            STEP * 500,
        )
        .unwrap();
        assert!(!ran.success);
        assert_eq!((ran.stdout.as_str(), ran.last_words()), ("out\n", "b"));
    }

    #[test]
    fn a_command_that_hangs_is_ended_with_its_children() {
        let begin = Instant::now();
        let ran = run("sh", &["-c", "sleep 60 & wait"], STEP * 5);
        assert!(matches!(ran, Err(CommandError::Deadline { .. })));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let ran = run("no-such-engine", &["x"], STEP);
        assert_eq!(
            ran.err().unwrap().to_string(),
            "no-such-engine is not in PATH"
        );
    }
}
