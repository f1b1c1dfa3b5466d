// SPDX-License-Identifier: Apache-2.0
//! Programs of the host: started so that they end with us, waited for so that
//! Ctrl-C is heard, and their failure told with the last lines they wrote.

use std::ffi::OsStr;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Doing as _, Error};
use crate::{Result, check_interrupt};

/// How often a wait looks around.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// How long a program that was asked to end may take to.
const CLEAN_UP_GRACE: Duration = Duration::from_secs(10);

/// A child process that is killed when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Held(Child);

impl Held {
    /// Starts `program` so that the kernel kills it even if this process dies
    /// without a chance to: `setpriv --pdeathsig` says so before it executes it.
    pub(crate) fn spawn(program: &str, configure: impl FnOnce(&mut Command)) -> Result<Self> {
        if find_program(program).is_none() {
            return Err(missing(program));
        }
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        configure(&mut command);
        command.spawn().map(Self).map_err(|_| missing("setpriv"))
    }

    /// Gives the process a moment to clean up after itself: apt would leave
    /// half-installed packages.
    fn ask_to_end(&mut self) {
        let id = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let asked = id.is_some_and(|id| kill_process(id, Signal::TERM).is_ok());
        let since = Instant::now();
        while asked && self.ended().is_none() && since.elapsed() < CLEAN_UP_GRACE {
            std::thread::sleep(TICK);
        }
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Fails only when it ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps the terminal's Ctrl-C from `command`: only we answer it, in order.
pub(crate) fn own_process_group(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    command.process_group(0);
}

/// Runs `command` to its end and returns what it wrote to its standard output.
/// `doing` names the step in an error, as in "Making the root disk".
///
/// # Errors
/// When the program is missing, fails, or the user asks to stop.
pub fn run_tool(doing: &str, command: &mut Command) -> Result<String> {
    let scratch = || tempfile::tempfile().doing("make a file in", &std::env::temp_dir());
    let (mut stdout, mut stderr) = (scratch()?, scratch()?);
    let dup = |file: &std::fs::File| {
        file.try_clone()
            .doing("share a file of", &std::env::temp_dir())
    };
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(dup(&stdout)?)
        .stderr(dup(&stderr)?)
        .spawn()
        .map_err(|_| missing(&program))?;
    let mut child = Held(child);
    let status = loop {
        if let Some(status) = child.ended() {
            break status;
        }
        if let Err(interrupted) = check_interrupt() {
            child.ask_to_end();
            return Err(interrupted);
        }
        std::thread::sleep(TICK);
    };
    if status.success() {
        return Ok(written(&mut stdout));
    }
    check_interrupt()?;
    Err(Error::ToolFailed {
        doing: doing.to_owned(),
        program,
        status,
        output: last_lines(
            &format!("{}{}", written(&mut stdout), written(&mut stderr)),
            20,
        ),
    })
}

fn written(file: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    if file
        .rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .is_err()
    {
        bytes.extend_from_slice(b"(its output could not be read back)");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last `count` lines of `text`.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A command that runs as root: directly, or by way of sudo.
///
/// # Errors
/// When the program is missing, or there is neither root nor sudo.
pub fn as_root(program: &str) -> Result<Command> {
    if find_program(program).is_none() {
        return Err(missing(program));
    }
    if is_root() {
        return Ok(Command::new(program));
    }
    if find_program("sudo").is_none() {
        return Err(Error::NeedsRoot);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

/// Whether this process is root's: /proc/self belongs to the effective user.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn missing(program: &str) -> Error {
    Error::ToolMissing {
        program: program.to_owned(),
    }
}

/// Finds a program as a root shell would: Debian leaves the sbin directories
/// out of an ordinary user's PATH.
pub(crate) fn find_program(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// `Command::new` for a program that may lie in an sbin directory.
pub(crate) fn tool(program: &str) -> Result<Command> {
    find_program(program)
        .map(Command::new)
        .ok_or_else(|| missing(program))
}

/// One word of a POSIX shell's command line.
pub(crate) fn shell_quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A path within one of QEMU's comma-separated options.
pub(crate) fn qemu_path(path: &Path) -> String {
    let path: &OsStr = path.as_ref();
    path.to_string_lossy().replace(',', ",,")
}
