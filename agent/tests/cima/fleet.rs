// SPDX-License-Identifier: Apache-2.0
//! The generator of a fleet's lists (`examples/fleet`): what is measured and tried with them is what agents write.

#[path = "../../examples/fleet/generator/mod.rs"]
pub(crate) mod generator;

use std::{
    fs,
    path::{Path, PathBuf},
};

use cima_agent::ledger::segments;
use generator::{Fleet, generate, hostile, unix_seconds};
use tempfile::{TempDir, tempdir};

use crate::{
    command::{Ran, cima},
    list::entries,
};

const ENTRIES: u64 = 3_001;

fn fleet(dir: &TempDir, seed: u64) -> Fleet {
    Fleet {
        dir: dir.path().to_owned(),
        nodes: 2,
        containers: 7,
        entries: ENTRIES,
        seed,
        start_s: 1_790_000_000,
    }
}

/// The boots' directories, by node.
fn boots(dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let below = |dir: &Path| {
        let entries = fs::read_dir(dir).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let boot = |node: PathBuf| {
        let boot = below(&node.join("ledger")).remove(0);
        (node, boot)
    };
    below(dir).into_iter().map(boot).collect()
}

/// The list of a boot, its segments one after the other.
fn list(boot: &Path) -> Vec<u8> {
    let segments = segments(boot).unwrap();
    segments
        .iter()
        .flat_map(|(_, path)| fs::read(path).unwrap())
        .collect()
}

fn verified((node, boot): &(PathBuf, PathBuf)) -> Ran {
    let pcrs = node.join("pcrs.yaml");
    cima([
        "verify".as_ref(),
        boot.as_os_str(),
        "--pcrs".as_ref(),
        pcrs.as_os_str(),
    ])
}

#[test]
fn every_list_of_a_fleet_verifies_and_there_are_as_many_entries_as_asked_for() {
    let dir = tempdir().unwrap();
    let written = generate(&fleet(&dir, 1)).unwrap();
    assert_eq!(written.entries, ENTRIES);
    let boots = boots(dir.path());
    assert_eq!(boots.len(), 2);
    let mut all = Vec::new();
    for boot in &boots {
        let ran = verified(boot);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        all.extend(entries(&list(&boot.1)));
    }
    assert_eq!(all.len() as u64, ENTRIES);
    let batches = all
        .iter()
        .filter(|entry| entry.display_name().starts_with("cima-ctx:"));
    // Three quarters, and what a short list begins with.
    let share = batches.count() * 100 / all.len();
    assert!((65..80).contains(&share), "{share}");
}

#[test]
fn the_same_seed_gives_the_same_lists_and_another_gives_others() {
    let written = |seed| {
        let dir = tempdir().unwrap();
        generate(&fleet(&dir, seed)).unwrap();
        let boots = boots(dir.path());
        let boots = boots.iter().map(|(node, boot)| {
            let names = [node.file_name().unwrap(), boot.file_name().unwrap()];
            (names.map(ToOwned::to_owned), list(boot))
        });
        boots.collect::<Vec<_>>()
    };
    let first = written(1);
    assert_eq!(first, written(1));
    assert_ne!(first, written(2));
}

#[test]
fn what_anybody_may_choose_verifies_and_what_is_forged_does_not() {
    let dir = tempdir().unwrap();
    hostile::generate(&fleet(&dir, 1)).unwrap();
    let boots = boots(dir.path());
    assert_eq!(boots.len(), 5);
    for boot in &boots {
        let forged = boot.0.ends_with("node-forged");
        let ran = verified(boot);
        assert_eq!(ran.code, Some(i32::from(forged)), "{ran:?}");
        assert_eq!(ran.err, "");
    }
}

#[test]
fn a_fleet_begins_when_it_is_told_to() {
    for (text, seconds) in [
        ("1970-01-01T00:00:00Z", 0),
        ("2000-02-29T12:00:01Z", 951_825_601),
        ("2026-10-01T00:00:00Z", 1_790_812_800),
        ("1969-12-31T23:59:59Z", -1),
    ] {
        assert_eq!(unix_seconds(text), Ok(seconds), "{text}");
    }
    for text in ["", "2026-10-01", "2026-10-01T00:00:00", "today"] {
        assert!(unix_seconds(text).is_err(), "{text}");
    }
}
