// SPDX-License-Identifier: Apache-2.0
//! Who answers the same from an export: the tools that everybody has, and a database made for such questions.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use cima_guests::run_tool;

use super::{lists, timing::once};
use crate::error::{Doing as _, Error};
use crate::workspace;

/// Debian's: the wheel is for it.
const PYTHON: &str = "/usr/bin/python3";

/// Python with DuckDB.
pub(super) struct Python(PathBuf);

impl Python {
    /// Makes it, or takes the one that was made of the same requirements.
    pub(super) fn ensure(venv: &Path) -> Result<Self, Error> {
        let program = venv.join("bin/python3");
        let requirements = workspace::root().join("tests/bench/requirements.txt");
        let wanted = std::fs::read(&requirements).doing("read", &requirements)?;
        // Written last: a half of one is made again.
        let made_of = venv.join("made-of");
        if std::fs::read(&made_of).is_ok_and(|made_of| made_of == wanted) {
            return Ok(Self(program));
        }
        let mut make = Command::new(PYTHON);
        make.args(["-m", "venv", "--clear"]);
        run_tool("Making Python's environment", make.arg(venv))?;
        let mut install = Command::new(venv.join("bin/pip"));
        install
            .args(["install", "-q", "--disable-pip-version-check"])
            .args(["--require-hashes", "--only-binary", ":all:", "-r"])
            .arg(&requirements);
        run_tool("Installing DuckDB", &mut install)?;
        std::fs::write(&made_of, wanted).doing("write", &made_of)?;
        Ok(Self(program))
    }
}

/// One file with all events, a JSON object each. It is large: it goes when it is let go.
pub(super) struct Export(PathBuf);

impl Export {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Milliseconds that it took.
    pub(super) fn fill(&self, command: &mut Command) -> Result<f64, Error> {
        let file = File::create(&self.0).doing("make", &self.0)?;
        let began = Instant::now();
        let status = command
            .stdin(Stdio::null())
            .stdout(file)
            .status()
            .doing("export to", &self.0)?;
        if !status.success() {
            let message = format!("`cima export` ended with {status}.");
            return Err(Error::Environment(message));
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    pub(super) fn bytes(&self) -> Result<u64, Error> {
        lists::size(&self.0)
    }

    /// A question to the shell, which finds the file as `$1`. In no language of people, in which grep is slow.
    pub(super) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-ec", script, "sh"])
            .arg(&self.0)
            .env("LC_ALL", "C");
        command
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // What is left is overwritten the next time.
        let _ = lists::remove(&self.0);
    }
}

/// DuckDB with the export in it.
pub(super) struct Database {
    python: Python,
    path: PathBuf,
}

impl Database {
    pub(super) fn new(python: Python, path: PathBuf) -> Self {
        Self { python, path }
    }

    fn command(&self, command: &str) -> Command {
        let script = workspace::root().join("tests/bench/duckdb_peer.py");
        let mut python = Command::new(&self.python.0);
        python.arg(script).arg(command);
        python
    }

    /// From nothing; milliseconds that it took.
    pub(super) fn load(&self, export: &Export) -> Result<f64, Error> {
        lists::remove(&self.path)?;
        let mut command = self.command("load");
        Ok(once("DuckDB", command.arg(&export.0).arg(&self.path))?.0)
    }

    pub(super) fn bytes(&self) -> Result<u64, Error> {
        lists::size(&self.path)
    }

    pub(super) fn ask(&self, sql: &str) -> Command {
        let mut command = self.command("ask");
        command.arg(&self.path).arg(sql);
        command
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = lists::remove(&self.path);
    }
}
