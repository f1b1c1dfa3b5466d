// SPDX-License-Identifier: Apache-2.0
//! What cimad's metrics say, asked over its unix socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::agent::Site;

/// What the probes counted of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) hashed: u64,
    pub(crate) cache_hit: u64,
    pub(crate) said: u64,
    pub(crate) uncacheable: u64,
}

impl Files {
    /// The counters now, of an agent that serves its metrics on `socket`.
    #[track_caller]
    pub(crate) fn now(site: &Site, socket: &Path) -> Self {
        site.caught_up();
        // The agent reads the probes' counters once in a second.
        std::thread::sleep(Duration::from_millis(1500));
        let text = get(socket);
        let value = |kind| files_in(&text, kind);
        Self {
            hashed: value("hashed"),
            cache_hit: value("cache_hit"),
            said: value("said"),
            uncacheable: value("uncacheable"),
        }
    }

    /// What came to the counters of before.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            hashed: self.hashed - before.hashed,
            cache_hit: self.cache_hit - before.cache_hit,
            said: self.said - before.said,
            uncacheable: self.uncacheable - before.uncacheable,
        }
    }
}

/// How many files there were of a kind.
#[track_caller]
pub(crate) fn files(socket: &Path, kind: &str) -> u64 {
    files_in(&get(socket), kind)
}

fn files_in(text: &str, kind: &str) -> u64 {
    let name = format!("cima_files_total{{kind=\"{kind}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// A histogram's buckets as they are now: upper bound, and how many were at most that.
#[track_caller]
pub(crate) fn buckets(socket: &Path, name: &str) -> Vec<(f64, u64)> {
    let text = get(socket);
    let start = format!("{name}_bucket{{le=\"");
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix(&start)?.split_once("\"} ")?;
        Some((bound.parse().ok()?, count.parse().ok()?))
    };
    text.lines().filter_map(bucket).collect()
}

#[track_caller]
fn get(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("metrics are served");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("it can be asked");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("it answers in text");
    assert!(answer.starts_with("HTTP/1.1 200"), "it answers {answer}");
    answer
}
