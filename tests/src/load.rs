// SPDX-License-Identifier: Apache-2.0
//! The load of a bench (`tests/bench/load.c`), run as a container runs it: in a
//! mount and a pid namespace of its own, under whatever measures.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Where the staging disk has what `cargo xtask bench` compiled.
pub(crate) const FILES: &str = "/cima/bench";

/// A load that has warmed up and waits for the word to go. Killed if it is
/// forgotten.
pub(crate) struct Load {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Load {
    /// Starts the load with these arguments, and waits until it is warm.
    #[track_caller]
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .arg(format!("{FILES}/load"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be started");
        let stdout = child.stdout.take().expect("it was asked for");
        let mut load = Self {
            child,
            stdout: BufReader::new(stdout),
        };
        let mut line = String::new();
        load.stdout
            .read_line(&mut line)
            .expect("the load can be read from");
        assert_eq!(line, "ready\n", "what the load says when it is warm");
        load
    }

    /// Lets it go, and returns the lines that it printed until its end.
    #[track_caller]
    pub(crate) fn go(mut self) -> Vec<String> {
        let mut stdin = self.child.stdin.take().expect("it was asked for");
        stdin.write_all(b"go\n").expect("the load listens");
        let mut said = String::new();
        self.stdout
            .read_to_string(&mut said)
            .expect("the load can be read from");
        let status = self.child.wait().expect("the load ends");
        assert!(status.success(), "the load ended with {status}");
        said.lines().map(str::to_owned).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
