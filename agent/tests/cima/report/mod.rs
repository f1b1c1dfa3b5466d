// SPDX-License-Identifier: Apache-2.0
//! `cima report`: what the file says, that it is whole and bounded, and what a real browser makes of it.

mod browser;
mod command;
mod page;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use tempfile::{TempDir, tempdir};

use crate::{
    command::{Ran, cima},
    fleet::generator::{Fleet, Written, generate, hostile, incident},
};

/// Lists, and what is asked of them.
struct Lists {
    dir: TempDir,
}

impl Lists {
    fn new(entries: u64, fill: fn(&Fleet) -> std::io::Result<Written>) -> Self {
        let dir = tempdir().unwrap();
        let fleet = Fleet {
            dir: dir.path().join("nodes"),
            nodes: 2,
            containers: 8,
            entries,
            seed: 7,
            start_s: 1_795_737_600,
        };
        fill(&fleet).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `cima report` of the lists at `from`.
    fn report(&self, from: &str, words: &[&str]) -> Ran {
        let mut all: Vec<String> = ["report".to_owned()].into();
        all.extend(words.iter().map(|word| (*word).to_owned()));
        all.push(format!("--from={}", self.path(from).display()));
        all.push(format!("--index={}.index", self.path(from).display()));
        cima(all)
    }

    /// The report of the lists at `from`, and where it is.
    #[track_caller]
    fn page(&self, from: &str, words: &[&str]) -> (PathBuf, String) {
        let path = self.path(&format!("{}.html", from.replace('/', "-")));
        let output = format!("--output={}", path.display());
        let ran = self.report(from, &[words, &[&output]].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let page = fs::read_to_string(&path).unwrap();
        (path, page)
    }
}

/// An afternoon in which somebody gets into a container.
static INCIDENT: LazyLock<(Lists, PathBuf)> = LazyLock::new(|| {
    let lists = Lists::new(0, incident::generate);
    // As it would be called where people are.
    fs::rename(lists.path("nodes"), lists.path("incident")).unwrap();
    let reference = |name: &str| {
        format!(
            "--reference={}",
            lists.path("incident").join(name).display()
        )
    };
    let references = [reference("web.json"), reference("redis.json")];
    let (path, _) = lists.page(
        "incident/edge-2",
        &references.each_ref().map(String::as_str),
    );
    (lists, path)
});

fn incident_page() -> &'static Path {
    &INCIDENT.1
}
