// SPDX-License-Identifier: Apache-2.0
//! cimad as an operator runs it: with its own configuration and state directory,
//! started until it says READY to the service manager, stopped by SIGTERM.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process;

/// Where the staging disk has the binaries and the probes.
pub(crate) const CIMAD: &str = "/cima/bin/cimad";
pub(crate) const CIMA: &str = "/cima/bin/cima";
const PROBES: &str = "/cima/lib/cima-probes.o";
const POLICY: &str =
    "version = 1\ncandidate = [\"mnt+pid\", \"mnt+cgroup\"]\nmeasure_host = false\n";

/// How long cimad may take to attach and test itself on an emulated processor.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);

/// A site's files: configuration, policy, state, log.
pub(crate) struct Site {
    dir: PathBuf,
}

impl Site {
    /// A new site `name` with sink `pcr` on PCR 13 and the shipped policy.
    pub(crate) fn new(name: &str) -> Self {
        let dir = PathBuf::from("/tmp").join(name);
        fs::create_dir_all(&dir).expect("/tmp can be written");
        let site = Self { dir };
        site.write_policy(POLICY);
        site.configure("");
        site
    }

    /// Writes the configuration: the site's paths, then `more` TOML.
    pub(crate) fn configure(&self, more: &str) {
        self.configure_probes(more, "");
    }

    /// [`Site::configure`], with more keys of `[probes]`.
    pub(crate) fn configure_probes(&self, more: &str, probes: &str) {
        let text = format!(
            "state_dir = \"{}\"\npolicy = \"{}\"\n{more}[probes]\nobject = \"{PROBES}\"\ndebug = true\n{probes}",
            self.state().display(),
            self.policy().display(),
        );
        fs::write(self.config(), text).expect("the configuration can be written");
    }

    pub(crate) fn write_policy(&self, text: &str) {
        fs::write(self.policy(), text).expect("the policy can be written");
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("cimad.toml")
    }

    pub(crate) fn policy(&self) -> PathBuf {
        self.dir.join("measurement.toml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The directory of this boot's list.
    pub(crate) fn list(&self) -> PathBuf {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("procfs is there");
        self.state().join("ledger").join(boot.trim())
    }

    /// Copies list and log to the host, for whoever looks into a failure.
    fn keep(&self) {
        let name = self.dir.file_name().unwrap_or_default();
        let kept = Path::new("/out").join(name);
        let _ = fs::create_dir_all(&kept);
        for file in fs::read_dir(self.list()).into_iter().flatten().flatten() {
            let _ = fs::copy(file.path(), kept.join(file.file_name()));
        }
        let _ = fs::write(kept.join("cimad.log"), self.log());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("cimad.log")).unwrap_or_default()
    }

    /// Starts cimad and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&self) -> Running<'_> {
        let socket = self.dir.join("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).expect("a socket can be bound");
        notify
            .set_read_timeout(Some(START))
            .expect("a timeout can be set");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("cimad.log"))
            .expect("the log can be written");
        let child = Command::new(CIMAD)
            .arg("--config")
            .arg(self.config())
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("cimad can be started");
        let mut running = Running {
            site: self,
            child,
            notify,
        };
        if running.told("READY=1").is_none() {
            let _ = running.child.kill();
            panic!("cimad did not become ready: {}", self.log());
        }
        running
    }

    /// Runs cimad when it is expected to refuse: exit code and what it said.
    #[track_caller]
    pub(crate) fn refused(&self) -> String {
        self.refused_by(&[
            CIMAD,
            "--config",
            self.config().to_str().expect("a plain path"),
        ])
    }

    /// [`Site::refused`] with another command line.
    #[track_caller]
    pub(crate) fn refused_by(&self, words: &[&str]) -> String {
        let ran = process::run(words);
        assert_eq!(ran.code(), Some(2), "exit code, with {}", ran.stderr);
        let said = ran.stderr;
        assert!(
            !said.contains("panicked") && !said.contains("RUST_BACKTRACE"),
            "it says {said}"
        );
        assert!(
            !self.state().join("ledger").exists(),
            "it made a list: {said}"
        );
        said
    }

    /// Entries of this boot's list, in order, as `cima log --json` shows them.
    #[track_caller]
    pub(crate) fn entries(&self) -> Vec<serde_json::Value> {
        let list = self.list();
        let words = [CIMA, "log", "--json", list.to_str().expect("a plain path")];
        let mut ran = process::run(&words);
        for _ in 0..10 {
            if ran.code() == Some(0) {
                break;
            }
            // The agent may be in the middle of a record: then its end is torn.
            std::thread::sleep(Duration::from_millis(100));
            ran = process::run(&words);
        }
        let text = ran.succeeded();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }

    /// The policy events of the list: name and payload.
    #[track_caller]
    pub(crate) fn policy_events(&self) -> Vec<(String, String)> {
        self.entries()
            .iter()
            .filter(|entry| entry["batch"].is_null())
            .map(|entry| (text(&entry["name"]), text(&entry["payload"])))
            .collect()
    }

    /// Every context event, with its identity in place.
    #[track_caller]
    pub(crate) fn context_events(&self) -> Vec<serde_json::Value> {
        self.entries()
            .iter()
            .filter_map(|entry| entry["batch"]["events"].as_array().cloned())
            .flatten()
            .collect()
    }

    /// `cima verify` of this boot's list against the TPM: exit code and text.
    pub(crate) fn verify(&self) -> process::Ran {
        self.verify_in("13")
    }

    /// [`Site::verify`], with the PCR that the list must be in.
    pub(crate) fn verify_in(&self, pcr: &str) -> process::Ran {
        let list = self.list();
        process::run(&[
            CIMA,
            "verify",
            "--tpm",
            "--expect-pcr",
            pcr,
            "--",
            list.to_str().expect("a plain path"),
        ])
    }
}

/// A string of a JSON value.
pub(crate) fn text(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// cimad, running; killed if the scenario forgets it.
pub(crate) struct Running<'a> {
    site: &'a Site,
    child: Child,
    notify: UnixDatagram,
}

impl Running<'_> {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has an id"), signal).expect("cimad can be signalled");
    }

    /// Waits for a message to the service manager.
    fn told(&self, wanted: &str) -> Option<()> {
        let mut buffer = [0; 4096];
        loop {
            let n = self.notify.recv(&mut buffer).ok()?;
            if buffer[..n]
                .split(|b| *b == b'\n')
                .any(|line| line == wanted.as_bytes())
            {
                return Some(());
            }
        }
    }

    /// SIGTERM, and what is queued is written: fails unless cimad ends with 0.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert!(
            self.told("STOPPING=1").is_some(),
            "cimad says that it stops"
        );
        let status = self.wait();
        assert_eq!(status, Some(0), "exit code of cimad: {}", self.site.log());
        self.site.keep();
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        while started.elapsed() < STOP {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("cimad did not end: {}", self.site.log());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `condition` gives something; fails after ten seconds.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        if let Some(found) = condition() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("it never came true that {what}");
}

/// SHA-256 of a file, as coreutils computes it.
#[track_caller]
pub(crate) fn sha256sum(path: &Path) -> String {
    let out = process::run(&["sha256sum", "-b", path.to_str().expect("a plain path")]).succeeded();
    // A name with a backslash or newline makes sha256sum put a backslash in front.
    out.trim_start_matches('\\')
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}
