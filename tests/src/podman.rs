// SPDX-License-Identifier: Apache-2.0
//! Containers of the guest. The images are in podman's store already; there is
//! no network to get others from.

use crate::process::{self, Ran};

/// A static userland: busybox and a link for each applet.
pub(crate) const TINY: &str = "localhost/tiny:1";
/// A dynamic userland: bash, coreutils, grep, perl and the libraries they load.
pub(crate) const DEBIAN: &str = "localhost/debian:1";

/// An OCI runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Crun,
    Runc,
}

impl Runtime {
    pub(crate) const ALL: [Self; 2] = [Self::Crun, Self::Runc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crun => "crun",
            Self::Runc => "runc",
        }
    }
}

/// Runs podman with `arguments`.
#[track_caller]
pub(crate) fn podman(runtime: Runtime, arguments: &[&str]) -> Ran {
    let mut words = vec!["podman", "--runtime", runtime.name()];
    words.extend(arguments);
    process::run(&words)
}

/// A container that runs meanwhile.
pub(crate) struct Background(std::process::Child);

impl Background {
    /// Waits for its end, whatever that is.
    pub(crate) fn finish(mut self) {
        let _ = self.0.wait();
    }
}

/// Starts a container that runs a shell script, and does not wait for it.
pub(crate) fn spawn(runtime: Runtime, image: &str, script: &str) -> Background {
    let child = std::process::Command::new("podman")
        .args([
            "--runtime",
            runtime.name(),
            "run",
            "--rm",
            image,
            "sh",
            "-c",
            script,
        ])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("podman can be started");
    Background(child)
}

/// Process id, on the host, of a running container's first process.
#[track_caller]
pub(crate) fn pid_of(container: &str) -> String {
    let out = process::run(&["podman", "inspect", "-f", "{{.State.Pid}}", container]).succeeded();
    out.trim_end().to_owned()
}

/// Runs `command` in a container of `image` that is removed at its end.
#[track_caller]
pub(crate) fn run(runtime: Runtime, image: &str, command: &[&str]) -> Ran {
    let mut words = vec!["run", "--rm", image];
    words.extend(command);
    podman(runtime, &words)
}
