// SPDX-License-Identifier: Apache-2.0
//! A software TPM as the system has it. Also a part of the ledger's own tests.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A software TPM with all PCRs at their power-on value.
pub(crate) struct Swtpm {
    child: Child,
    port: u16,
    state: TempDir,
}

impl Swtpm {
    pub(crate) fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let port = two_free_ports();
        let child = spawn(&state, port);
        let tpm = Self { child, port, state };
        tpm.wait();
        tpm
    }

    /// Takes the TPM away.
    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Brings it back, as after a reset: the PCRs are at their power-on value.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.child = spawn(&self.state, self.port);
        self.wait();
    }

    fn wait(&self) {
        let started = Instant::now();
        // The control channel: a connection to the other would be the one it serves.
        while TcpStream::connect(("127.0.0.1", self.port + 1)).is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "swtpm did not start"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Runs a tool of tpm2-tools.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        Command::new(words[0])
            .args(&words[1..])
            .args(["-T", &self.tcti()])
            .output()
            .expect("tpm2-tools are to be installed")
    }

    /// Runs a tool that must succeed; its standard output.
    pub(crate) fn tool(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {err}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(state: &TempDir, port: u16) -> Child {
    let dir = state.path().join("tpm");
    fs::create_dir_all(&dir).unwrap();
    Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .args(["--tpmstate", &format!("dir={}", dir.display())])
        .args(["--server", &format!("type=tcp,port={port}")])
        .args(["--ctrl", &format!("type=tcp,port={}", port + 1)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm is to be installed: this test is about a real TPM's answers")
}

/// The software stack takes the control channel to be on the port above.
pub(crate) fn two_free_ports() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}
