// SPDX-License-Identifier: Apache-2.0
//! The list while it grows, a part of `lifecycle`: `cima watch` shows what cimad writes, to root alone, and whatever becomes of
//! who watches is nothing to cimad. One goes on until cimad is told to end, and one stands still from then on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::agent::{CIMA, Site, eventually, text};
use crate::claims::Claims;
use crate::podman::{self, DEBIAN, Runtime};
use crate::process;

/// A user who may run containers, and no more.
const USER: &str = "65534";
/// How soon an execution is shown.
const SOON: Duration = Duration::from_secs(3);
/// How many may watch.
const WATCHERS: usize = 16;

/// Has the site's cimad open a socket for the user.
pub(super) fn allow_users(site: &Site) {
    let config = OpenOptions::new().append(true).open(site.config());
    let mut config = config.expect("it can be written");
    // The section of admission is the last.
    writeln!(config, "users = [{USER}]").expect("it can be written");
}

/// Who still watches.
pub(super) struct Watched {
    reads: Watcher,
    stands_still: Watcher,
}

pub(super) fn play(claims: &mut Claims, site: &Site) -> Watched {
    let watched = Watched {
        reads: Watcher::start(site, "reads"),
        stands_still: Watcher::start(site, "stands-still"),
    };
    claims.claim(
        "an execution is shown to who watches within three seconds",
        || soon(site, &watched.reads),
    );
    claims.claim(
        "a watcher that is killed or stands still holds up nobody",
        || {
            let killed = Watcher::start(site, "killed");
            killed.has("a start", |lines| !lines.is_empty());
            killed.signal(Signal::KILL);
            watched.stands_still.signal(Signal::STOP);
            podman::run(Runtime::Crun, DEBIAN, &["/usr/bin/sum", "/etc/hostname"]).succeeded();
            let name = "cima-exec:unregistered:/usr/bin/sum";
            watched.reads.has(name, |lines| is_named(lines, name));
            eventually("it is in the list", || {
                is_named(&site.entries(), name).then_some(())
            });
        },
    );
    claims.claim(
        "one watcher too many is told so, and the others go on",
        || {
            let others: Vec<_> = (2..WATCHERS)
                .map(|n| Watcher::start(site, &format!("other-{n}")))
                .collect();
            for other in &others {
                other.has("a start", |lines| !lines.is_empty());
            }
            let said = watch(&[], &site.socket());
            assert!(said.contains("16 watch the list already"), "it says {said}");
        },
    );
    claims.claim("nobody but root may watch, on no socket", || {
        only_root(site);
    });
    watched
}

impl Watched {
    /// Once cimad has ended.
    pub(super) fn ended(mut self, claims: &mut Claims, site: &Site) {
        claims.claim(
            "who watched has every entry of the list, each once, and is told that cimad has ended",
            || {
                assert_eq!(self.reads.end(), Some(2));
                let said = self.reads.said();
                assert!(said.contains("cimad has ended"), "it says {said}");
                assert_eq!(self.reads.lines(), site.entries());
                self.stands_still.signal(Signal::CONT);
                assert_eq!(self.stands_still.end(), Some(2));
                let (shown, all) = (self.stands_still.lines(), site.entries());
                assert!(all.starts_with(&shown), "neither gap nor repetition");
            },
        );
    }
}

fn soon(site: &Site, watcher: &Watcher) {
    watcher.has("a start", |lines| !lines.is_empty());
    // The filter of every verb.
    let only = ["--json", "--kind", "exec", "--path", "=/usr/bin/cksum"];
    let filtered = Watcher::start_with(site, "filtered", &only);
    podman::run(Runtime::Crun, DEBIAN, &["/usr/bin/cksum", "/etc/hostname"]).succeeded();
    let executed = Instant::now();
    let name = "cima-exec:unregistered:/usr/bin/cksum";
    watcher.has(name, |lines| is_named(lines, name));
    let took = executed.elapsed();
    assert!(took < SOON, "it took {took:?}");
    filtered.has("the execution", |lines| !lines.is_empty());
    let shown = filtered.lines();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(shown[0]["kind"], "exec");
    assert_eq!(shown[0]["args"][1], "/etc/hostname");
}

fn only_root(site: &Site) {
    let own = site.socket().with_file_name(format!("hook-{USER}.sock"));
    let cima = Path::new("/tmp/cima-watch");
    fs::copy(CIMA, cima).expect("it can be copied");
    fs::set_permissions(cima, Permissions::from_mode(0o755)).expect("a mode can be set");
    let user = [
        "setpriv",
        "--reuid",
        USER,
        "--regid",
        USER,
        "--clear-groups",
    ];
    let said = watch(&user, &site.socket());
    assert!(said.contains("ermission denied"), "on root's: {said}");
    let said = watch(&user, &own);
    assert!(
        said.contains("only root may ask for this"),
        "on the user's own: {said}"
    );
    let said = watch(&[], &own);
    assert!(
        said.contains("on the socket of root's hooks alone"),
        "as root, there: {said}"
    );
}

/// Runs `cima watch` where it is refused, and returns what it says.
#[track_caller]
fn watch(before: &[&str], socket: &Path) -> String {
    let cima = if before.is_empty() {
        CIMA
    } else {
        "/tmp/cima-watch"
    };
    let socket = socket.to_str().expect("a plain path");
    let words = [before, &[cima, "watch", "--socket", socket]].concat();
    let ran = process::run(&words);
    assert_eq!(ran.code(), Some(2), "{}", ran.stdout);
    ran.stderr
}

fn is_named(entries: &[Value], name: &str) -> bool {
    entries.iter().any(|entry| text(&entry["name"]) == name)
}

/// `cima watch` from the first entry on; killed if the scenario forgets it.
struct Watcher {
    child: Child,
    shown: PathBuf,
    said: PathBuf,
}

impl Watcher {
    #[track_caller]
    fn start(site: &Site, name: &str) -> Self {
        Self::start_with(site, name, &["--entries", "--from-entry", "0"])
    }

    #[track_caller]
    fn start_with(site: &Site, name: &str, words: &[&str]) -> Self {
        let file = |what: &str| site.socket().with_file_name(format!("watch-{name}.{what}"));
        let (shown, said) = (file("jsonl"), file("log"));
        let create = |path: &Path| File::create(path).expect("the guest's disks can be written");
        let child = Command::new(CIMA)
            .arg("watch")
            .args(words)
            .arg("--socket")
            .arg(site.socket())
            .stdin(Stdio::null())
            .stdout(create(&shown))
            .stderr(create(&said))
            .spawn()
            .expect("cima can be started");
        Self { child, shown, said }
    }

    /// The whole lines so far.
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.shown).expect("it can be read");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).expect("it can be read")
    }

    #[track_caller]
    fn has(&self, what: &str, holds: impl Fn(&[Value]) -> bool) {
        eventually(&format!("it shows {what}"), || {
            holds(&self.lines()).then_some(())
        });
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process has an id"), signal).expect("it can be signalled");
    }

    /// Its exit code, once it has ended.
    #[track_caller]
    fn end(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let status = eventually("it ends", || {
            child.try_wait().expect("it can be waited for")
        });
        status.code()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
