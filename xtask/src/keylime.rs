// SPDX-License-Identifier: Apache-2.0
//! The Python package, `keylime-plugin/`: its lints and tests, with a real Keylime in an environment of its own below `target/`. And what
//! Keylime says of the evidence that guests left.

use std::path::{Path, PathBuf};
use std::process::Command;

use cima_guests::run_tool;

use crate::error::{Doing as _, Error};
use crate::workspace;

/// Debian's, of which Keylime needs a module that the index does not have.
const PYTHON: &str = "/usr/bin/python3";

/// Tests that judge what guests left.
const OF_GUESTS: [&str; 2] = ["tests/test_guests.py", "tests/test_guide.py"];

/// How many tests passed and failed.
pub(crate) type Counted = (u32, u32);

/// Python with Keylime, the package and what looks after it.
pub(crate) struct Environment {
    bin: PathBuf,
    package: PathBuf,
}

impl Environment {
    /// Makes it, or takes the one that was made of the same requirements.
    pub(crate) fn ensure() -> Result<Self, Error> {
        let venv = workspace::target().join("keylime-venv");
        let environment = Self {
            bin: venv.join("bin"),
            package: workspace::root().join("keylime-plugin"),
        };
        let wanted = environment.package.join("tests/requirements.txt");
        let mut wanted = std::fs::read(&wanted).doing("read", &wanted)?;
        let package = environment.package.join("pyproject.toml");
        wanted.extend(std::fs::read(&package).doing("read", &package)?);
        // Written last: a half of one is made again.
        let made_of = venv.join("made-of");
        if std::fs::read(&made_of).is_ok_and(|made_of| made_of == wanted) {
            return Ok(environment);
        }
        eprintln!("Making Python's environment with Keylime (about a minute)");
        let mut make = Command::new(PYTHON);
        make.args(["-m", "venv", "--clear", "--system-site-packages"]);
        run_tool("Making Python's environment", make.arg(&venv))?;
        let requirements = environment.package.join("tests/requirements.txt");
        let mut install = environment.pip();
        install.arg("--require-hashes").arg("-r").arg(requirements);
        run_tool("Installing Keylime", &mut install)?;
        let mut install = environment.pip();
        install.args(["--no-build-isolation", "--no-deps", "-e"]);
        run_tool("Installing cima-keylime", install.arg(&environment.package))?;
        std::fs::write(&made_of, wanted).doing("write", &made_of)?;
        Ok(environment)
    }

    fn pip(&self) -> Command {
        let mut pip = Command::new(self.bin.join("pip"));
        pip.args(["install", "-q", "--disable-pip-version-check"]);
        pip
    }

    /// A program of the environment, in the package's directory.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        if let Ok(with) = std::env::join_paths(
            std::iter::once(self.bin.clone()).chain(std::env::split_paths(&path)),
        ) {
            path = with;
        }
        command.current_dir(&self.package).env("PATH", path);
        command
    }

    /// Formatting, lints and types: how many are fine, and how many are not.
    pub(crate) fn lints(&self) -> Result<Counted, Error> {
        let (mut passed, mut failed) = (0, 0);
        for words in [
            "ruff check -q",
            "ruff format --check -q",
            "mypy --no-error-summary",
        ] {
            println!("── {words} in keylime-plugin");
            let mut words = words.split(' ');
            let mut command = self.program(words.next().unwrap_or_default());
            let status = command
                .args(words)
                .status()
                .doing("run a lint in", &self.package)?;
            let count = if status.success() {
                &mut passed
            } else {
                &mut failed
            };
            *count += 1;
        }
        Ok((passed, failed))
    }

    /// The package's own tests.
    pub(crate) fn tests(&self) -> Result<Counted, Error> {
        let of_guests = OF_GUESTS.map(|test| format!("--ignore={test}"));
        self.pytest(&of_guests.each_ref().map(String::as_str), &[])
    }

    /// What Keylime makes of what these runs of guests left.
    pub(crate) fn judge(&self, runs: &[PathBuf]) -> Result<Counted, Error> {
        self.pytest(&OF_GUESTS, runs)
    }

    fn pytest(&self, words: &[&str], runs: &[PathBuf]) -> Result<Counted, Error> {
        let mut command = self.program("python3");
        command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]);
        let runs = std::env::join_paths(runs).map_err(|error| {
            Error::Environment(format!(
                "A run's directory has a colon in its name: {error}."
            ))
        })?;
        command.args(words).env("CIMA_GUESTS", runs);
        let output = command.output().doing("run pytest in", &self.package)?;
        let said = String::from_utf8_lossy(&output.stdout);
        print!("{said}");
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        let (passed, failed) = counted(&said).unwrap_or_default();
        let fine = output.status.success() && passed > 0;
        Ok((passed, if fine { failed } else { failed.max(1) }))
    }
}

/// The directory that a run leaves its results in.
pub(crate) fn results(run: &Path) -> PathBuf {
    run.join("out/attest")
}

/// The last line of pytest: `2 failed, 7 passed, 1 skipped, 1 error in 3.21s`.
fn counted(output: &str) -> Option<Counted> {
    let last = output.trim_end().lines().last()?;
    let (counts, _) = last.split_once(" in ")?;
    let (mut passed, mut failed) = (0, 0);
    for count in counts.trim_start_matches(['=', ' ']).split(", ") {
        let (number, of) = count.split_once(' ')?;
        let number: u32 = number.parse().ok()?;
        match of {
            "passed" => passed += number,
            "failed" | "error" | "errors" => failed += number,
            _ => {}
        }
    }
    Some((passed, failed))
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn results_are_read_as_pytest_writes_them() {
        assert_eq!(counted("...\n7 passed in 0.12s\n"), Some((7, 0)));
        let all = "2 failed, 7 passed, 3 skipped, 1 warning, 1 error in 61.00s (0:01:01)";
        assert_eq!(counted(all), Some((7, 3)));
        assert_eq!(counted("no tests ran in 0.01s"), None);
        assert_eq!(counted("it died"), None);
    }
}
