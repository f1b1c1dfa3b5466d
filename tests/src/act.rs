// SPDX-License-Identifier: Apache-2.0
//! A container that idles, and what is done inside it: programs and, by `tests/act`,
//! system calls one after the other. `nsenter` takes them in, fifty times cheaper than
//! `podman exec`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::agent::Site;
use crate::podman::{self, Runtime};
use crate::process::{self, Ran};

/// The program of `tests/act`, on the host and in every [`Container`].
pub(crate) const ACT: &str = "/cima/bin/cima-act";

/// Name and payload of a policy event.
pub(crate) type Event = (String, String);

/// A container that sleeps; removed when it goes out of scope.
pub(crate) struct Container {
    name: String,
    pid: String,
}

impl Container {
    /// Starts one of `image`, with more options of `podman run`.
    #[track_caller]
    pub(crate) fn start(name: &str, image: &str, options: &[&str]) -> Self {
        let mut words = vec!["run", "-d", "--name", name, "-v", "/cima:/cima:ro"];
        words.extend(options);
        words.extend([image, "sleep", "1000"]);
        podman::podman(Runtime::Crun, &words).succeeded();
        Self {
            name: name.to_owned(),
            pid: podman::pid_of(name),
        }
    }

    /// Where the host sees one of its paths.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Runs a program in it.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let mut all = vec!["nsenter", "-t", &self.pid, "-m", "-p", "--"];
        all.extend(words);
        process::run(&all)
    }

    /// Does acts in it.
    #[track_caller]
    pub(crate) fn act(&self, acts: &[&str]) {
        let words = [&[ACT], acts].concat();
        self.run(&words).succeeded();
    }

    /// Does acts in it up to the first `wait`.
    #[track_caller]
    pub(crate) fn begin(&self, acts: &[&str]) -> Actor {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", &self.pid, "-m", "-p", "--", ACT]);
        Actor::of(nsenter.args(acts))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        podman::podman(Runtime::Crun, &["rm", "-f", "-t", "0", &self.name]);
    }
}

/// Acts that are under way.
pub(crate) struct Actor {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Actor {
    /// Starts acts, and comes to their first `wait`.
    #[track_caller]
    pub(crate) fn of(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("acts can be started");
        let mut actor = Self {
            to: child.stdin.take(),
            from: BufReader::new(child.stdout.take().expect("it was asked for")),
            child,
        };
        actor.ready();
        actor
    }

    #[track_caller]
    fn ready(&mut self) {
        let mut line = String::new();
        let read = self.from.read_line(&mut line);
        assert!(
            read.is_ok() && line == "ready\n",
            "the acts do not come to their wait"
        );
    }

    #[track_caller]
    fn let_go(&mut self) {
        let to = self.to.as_mut().expect("it is not ended");
        writeln!(to).expect("it waits");
    }

    /// On to the next `wait`.
    #[track_caller]
    pub(crate) fn go_on(&mut self) {
        self.let_go();
        self.ready();
    }

    /// On to the end.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.let_go();
        let ended = self.child.wait().expect("it can be waited for");
        assert!(ended.success(), "the acts end with {ended}");
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It ends when there is no line any more, and so does nsenter.
        drop(self.to.take());
        let _ = self.child.wait();
    }
}

/// Waits until all of `wanted` is in the list.
#[track_caller]
pub(crate) fn expect(site: &Site, wanted: &[Event]) {
    let started = Instant::now();
    loop {
        site.caught_up();
        let events = site.policy_events();
        let lacks = |event: &&Event| !events.contains(event);
        let Some((name, payload)) = wanted.iter().find(lacks) else {
            return;
        };
        if started.elapsed() > Duration::from_secs(5) {
            let path = name.rsplit(':').next().unwrap_or_default();
            let others: Vec<_> = events
                .iter()
                .filter(|(name, _)| name.ends_with(path))
                .collect();
            panic!("{name} with {payload} is not in the list, which has {others:?}");
        }
    }
}

/// Fails if there is a policy event of which `unwanted` is true.
#[track_caller]
pub(crate) fn expect_none(site: &Site, unwanted: impl Fn(&Event) -> bool) {
    site.caught_up();
    let found = site.policy_events().into_iter().find(unwanted);
    assert_eq!(found, None, "it is in the list");
}

/// The policy event of a file that was executed, `payload` as `work::payload` gives it.
pub(crate) fn executed(path: &str, payload: &str) -> Event {
    (format!("cima-exec:unregistered:{path}"), payload.to_owned())
}

/// The policy event of a violation.
pub(crate) fn violation(kind: &str, path: &str, detail: &str) -> Event {
    (
        format!("cima-violation:{kind}:unregistered:{path}"),
        format!("v1;{kind};{detail}"),
    )
}
