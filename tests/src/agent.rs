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
/// The admission policy that is shipped.
const RULES: &str = "/cima/share/admission";
const POLICY: &str = "version = 1\ncandidate = [\"newns+newpid\", \"newns+newcgroup\"]\nmeasure_host = false\nunregistered = \"allow\"\n";

/// How long cimad may take to attach and test itself on an emulated processor.
const START: Duration = Duration::from_secs(240);
const STOP: Duration = Duration::from_secs(30);
/// How long cimad may take for what is queued, with a slow TPM.
const CATCH_UP: Duration = Duration::from_secs(600);

/// A site's files: configuration, policy, state, log.
pub(crate) struct Site {
    dir: PathBuf,
    state: PathBuf,
}

impl Site {
    /// A new site `name` with sink `pcr` on PCR 13 and the shipped policy.
    pub(crate) fn new(name: &str) -> Self {
        Self::below("/tmp", name)
    }

    /// [`Site::new`] on the root disk, which outlives a reset of the machine.
    pub(crate) fn on_disk(name: &str) -> Self {
        Self::below("/root", name)
    }

    fn below(parent: &str, name: &str) -> Self {
        let dir = Path::new(parent).join(name);
        fs::create_dir_all(&dir).expect("the guest's disks can be written");
        let state = dir.join("state");
        let site = Self { dir, state };
        site.write_policy(POLICY);
        site.install_rules();
        site.configure("");
        site
    }

    /// The shipped configuration, policy and probes, where they say that they are.
    pub(crate) fn shipped() -> Self {
        for (from, to) in [
            ("share/cimad.toml", "/etc/cima/cimad.toml"),
            ("share/measurement.toml", "/etc/cima/measurement.toml"),
            ("lib/cima-probes.o", "/usr/lib/cima/cima-probes.o"),
        ] {
            let parent = Path::new(to).parent().expect("a file has a parent");
            fs::create_dir_all(parent).expect("the root can be written");
            fs::copy(Path::new("/cima").join(from), to).expect("a shipped file can be installed");
        }
        let site = Self {
            dir: PathBuf::from("/etc/cima"),
            state: PathBuf::from("/var/lib/cima"),
        };
        site.install_rules();
        site
    }

    /// The same with the sink `kind`, and a state and a log of its own: what one sink has begun no other goes on with.
    pub(crate) fn shipped_with_sink(kind: &str) -> Self {
        let mut site = Self::shipped();
        site.state = PathBuf::from(format!("/var/lib/cima-{kind}"));
        let state_dir = format!("state_dir = \"{}\"", site.state.display());
        site.configure_shipped("state_dir = \"/var/lib/cima\"", &state_dir);
        site.configure_shipped("kind = \"auto\"", &format!("kind = \"{kind}\""));
        let _ = fs::remove_file(site.dir.join("cimad.log"));
        site
    }

    /// The admission policy that is shipped.
    fn install_rules(&self) {
        fs::create_dir_all(self.rules()).expect("the guest's disks can be written");
        for rule in fs::read_dir(RULES).expect("the stage has rules") {
            let rule = rule.expect("the stage can be read");
            fs::copy(rule.path(), self.rules().join(rule.file_name()))
                .expect("a rule can be installed");
        }
    }

    /// Directory of the admission policy.
    pub(crate) fn rules(&self) -> PathBuf {
        self.dir.join("admission")
    }

    /// Where hooks ask.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("hook.sock")
    }

    /// Changes a line of the shipped configuration.
    pub(crate) fn configure_shipped(&self, line: &str, changed: &str) {
        let text = fs::read_to_string(self.config()).expect("the configuration is there");
        assert!(text.contains(line), "the shipped configuration has {line}");
        fs::write(self.config(), text.replace(line, changed)).expect("it can be written");
    }

    /// Writes the configuration: the site's paths, then `more` TOML. The sink is `pcr` if that names none.
    pub(crate) fn configure(&self, more: &str) {
        self.configure_probes(more, "");
    }

    /// [`Site::configure`], with more keys of `[probes]`.
    pub(crate) fn configure_probes(&self, more: &str, probes: &str) {
        let sink = "[sink]\nkind = \"pcr\"\n";
        let more = if more.contains("kind = ") {
            more.to_owned()
        } else if more.contains("[sink]\n") {
            more.replace("[sink]\n", sink)
        } else {
            format!("{more}{sink}")
        };
        let text = format!(
            "state_dir = \"{}\"\npolicy = \"{}\"\n{more}[probes]\nobject = \"{PROBES}\"\ndebug = true\npin_dir = \"{}\"\n{probes}\n[admission]\nrules = \"{}\"\nsocket = \"{}\"\n",
            self.state().display(),
            self.policy().display(),
            self.pins().display(),
            self.rules().display(),
            self.socket().display(),
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
        self.state.clone()
    }

    /// Where its probes are pinned.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(self.dir.file_name().unwrap_or_default())
    }

    /// Detaches the probes that its agents have left.
    pub(crate) fn unload(&self) -> process::Ran {
        let config = self.config();
        process::run(&[
            CIMAD,
            "--unload",
            "--config",
            config.to_str().expect("a plain path"),
        ])
    }

    /// The directory of this boot's list.
    pub(crate) fn list(&self) -> PathBuf {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("procfs is there");
        self.state().join("ledger").join(boot.trim())
    }

    /// Copies list and log to the host, for whoever looks into a failure.
    fn keep(&self) {
        // The shipped configuration is the same directory whatever the sink.
        let named = match self.state.starts_with(&self.dir) {
            true => &self.dir,
            false => &self.state,
        };
        let kept = Path::new("/out").join(named.file_name().unwrap_or_default());
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
        self.launch().ready()
    }

    /// Starts cimad, and does not wait.
    #[track_caller]
    pub(crate) fn launch(&self) -> Running<'_> {
        let socket = self.dir.join("notify");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).expect("a socket can be bound");
        notify
            .set_read_timeout(Some(Duration::from_millis(200)))
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
        Running {
            site: self,
            child,
            notify,
        }
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

    /// Waits until nothing is being written and the list has stood still for half a
    /// second; returns when it last grew.
    #[track_caller]
    pub(crate) fn caught_up(&self) -> Instant {
        let list = self.list();
        let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        let segments = || {
            let files = fs::read_dir(&list).into_iter().flatten().flatten();
            let paths = files.map(|file| file.path());
            let ima = paths.filter(|path| path.extension().is_some_and(|e| e == "ima"));
            ima.map(|path| size(&path)).sum::<u64>()
        };
        let started = Instant::now();
        let (mut last, mut had) = (started, segments());
        while last.elapsed() < Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(10));
            assert!(started.elapsed() < CATCH_UP, "cimad goes on and on");
            let have = segments();
            if have != had || size(&list.join("intent")) != 0 {
                (last, had) = (Instant::now(), have);
            }
        }
        last
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

impl Drop for Site {
    /// The next site's containers are not this one's business.
    fn drop(&mut self) {
        let _ = Command::new(CIMAD)
            .arg("--unload")
            .arg("--config")
            .arg(self.config())
            .stderr(Stdio::null())
            .status();
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
    /// Waits until it measures.
    #[track_caller]
    pub(crate) fn ready(mut self) -> Self {
        if self.told("READY=1").is_none() {
            let _ = self.child.kill();
            panic!("cimad did not become ready: {}", self.site.log());
        }
        // The peak of its memory is counted anew: loading the probes takes the kernel's types.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
        self
    }

    /// The most memory of its own that it held since it was ready, in KiB: what was resident,
    /// but for the kernel's ring buffer, which it maps twice in a row.
    #[track_caller]
    pub(crate) fn peak_memory(&self) -> u64 {
        let rings: u64 = self
            .proc("smaps")
            .split_inclusive("VmFlags:")
            .filter(|mapping| mapping.contains("bpf-map"))
            .filter_map(|mapping| kib(mapping, "Rss:"))
            .sum();
        let peak = kib(&self.proc("status"), "VmHWM:").expect("a process has memory");
        peak - rings
    }

    /// SIGTERM, whatever comes of it: its exit code, and how long it took to end.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, Duration) {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        (self.wait(), asked.elapsed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has an id"), signal).expect("cimad can be signalled");
    }

    /// A file of /proc about it.
    #[track_caller]
    pub(crate) fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).expect("cimad runs")
    }

    /// Processor time of its threads.
    pub(crate) fn cpu(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let ran = |thread: fs::DirEntry| {
            // Nanoseconds on a processor, nanoseconds waiting for one, time slices.
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        let threads = threads.into_iter().flatten().flatten();
        Duration::from_nanos(threads.filter_map(ran).sum())
    }

    /// Waits for a message to the service manager; not longer than cimad lives.
    fn told(&mut self, wanted: &str) -> Option<()> {
        let mut buffer = [0; 4096];
        let started = Instant::now();
        loop {
            let Ok(n) = self.notify.recv(&mut buffer) else {
                let gone = !matches!(self.child.try_wait(), Ok(None));
                if gone || started.elapsed() > START {
                    return None;
                }
                continue;
            };
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

/// The number in the first line of a file of /proc that begins so.
fn kib(text: &str, begin: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(begin))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Waits until `condition` gives something; fails after twenty seconds.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(60) {
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
