// SPDX-License-Identifier: Apache-2.0
//! The process is gone at any step: between any two, and inside of every write.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    fixture::{PCR, Tpm, event, judged, origin, scratch},
    rig::{Plan, Rig},
    sweep::{broken, commit, continues, readable, stops, two_lives},
    swtpm::Swtpm,
};
use crate::{
    ledger::{Ledger, LedgerError, Opened, Origin, segments},
    measure::Batch,
    sink::PcrSink,
};

/// Stops of [`two_lives`] there are at least: the sweep cannot become empty unseen.
const STOPS: usize = 100;

fn two_lives_stopped_anywhere(tpm: &Tpm) -> usize {
    let dir = scratch();
    let rig = Rig::new(dir.path(), Plan::Nothing);
    two_lives(&rig, tpm).1.unwrap();
    let segments = segments(&dir.path().join("ledger/boot")).unwrap();
    assert!(segments.len() >= 2, "no segment becomes full");
    let stops = stops(&rig.steps());
    for (at, part) in &stops {
        let (at, part) = (*at, *part);
        let dir = scratch();
        let rig = Rig::new(dir.path(), Plan::Stop { at, part });
        let (acknowledged, result) = two_lives(&rig, tpm);
        assert!(result.is_err() && rig.happened(), "stop {at}+{part}");
        continues(dir.path(), tpm, acknowledged);
    }
    assert!(stops.len() >= STOPS, "{}", stops.len());
    stops.len()
}

#[test]
fn killed_at_any_step_the_agent_goes_on_with_list_and_pcr_in_step() {
    two_lives_stopped_anywhere(&Tpm::new());
}

#[test]
fn killed_at_any_step_the_agent_goes_on_with_list_and_pcr_in_step_on_a_tpm() {
    let swtpm = Swtpm::start();
    let started = Instant::now();
    let tpm = Tpm::on(PcrSink::open(&swtpm.tcti(), PCR).unwrap());
    let stops = two_lives_stopped_anywhere(&tpm);
    let breaks = broken_stopped_anywhere(&tpm);
    println!(
        "{stops} stops of two lives and {breaks} of a life with broken chains on swtpm in {:?}",
        started.elapsed()
    );
}

/// The files below a directory.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for file in fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    files
}

fn restore(root: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    fs::remove_dir_all(root).unwrap();
    fs::create_dir(root).unwrap();
    for (path, content) in files {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[test]
fn killed_at_any_step_and_again_at_any_step_of_the_recovery_it_goes_on() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let rig = Rig::new(dir.path(), Plan::Nothing);
    two_lives(&rig, &tpm).1.unwrap();
    let mut tried = 0;
    for (at, part) in stops(&rig.steps()) {
        let (dir, tpm) = (scratch(), Tpm::new());
        let rig = Rig::new(dir.path(), Plan::Stop { at, part });
        let (acknowledged, _) = two_lives(&rig, &tpm);
        let (files, values) = (snapshot(dir.path()), tpm.values());
        let recovery = Rig::new(dir.path(), Plan::Nothing);
        let first = recovery.open(tpm.clone()).unwrap();
        drop(first);
        for (at, part) in stops(&recovery.steps()) {
            restore(dir.path(), &files);
            tpm.with(|state| state.values.clone_from(&values));
            let rig = Rig::new(dir.path(), Plan::Stop { at, part });
            assert!(rig.open(tpm.clone()).is_err() && rig.happened());
            continues(dir.path(), &tpm, acknowledged);
            tried += 1;
        }
    }
    println!("{tried} pairs of stops");
    assert!(tried >= 15 * STOPS, "{tried}");
}

/// A life whose chain breaks under it, once while a group is being extended, and another
/// that finds it broken at its start. Counts groups acknowledged and breaks.
fn broken_life(rig: &Rig, tpm: &Tpm, counted: &mut (u32, usize)) -> Result<(), LedgerError> {
    let (groups, breaks) = counted;
    let (mut ledger, _) = rig.open(tpm.clone())?;
    commit(&mut ledger, 0)?;
    *groups = 1;
    tpm.foreign();
    *breaks = 1;
    assert!(!ledger.check()?, "seen at once");
    tpm.fail_after(1, false);
    let failed = commit(&mut ledger, 1);
    if rig.happened() {
        return failed;
    }
    failed.unwrap_err();
    tpm.foreign();
    *breaks = 2;
    ledger.reconnect()?;
    *groups = 2;
    drop(ledger);
    tpm.foreign();
    *breaks = 3;
    let (mut ledger, opened) = rig.open(tpm.clone())?;
    assert!(matches!(opened, Opened::Broken { .. }), "{opened:?}");
    commit(&mut ledger, 2)?;
    *groups = 3;
    Ok(())
}

fn broken_stopped_anywhere(tpm: &Tpm) -> usize {
    let dir = scratch();
    let rig = Rig::new(dir.path(), Plan::Nothing);
    let mut counted = (0, 0);
    broken_life(&rig, tpm, &mut counted).unwrap();
    assert_eq!(counted, (3, 3));
    broken(dir.path(), tpm, 3, 3);
    let stops = stops(&rig.steps());
    for (at, part) in &stops {
        let (at, part) = (*at, *part);
        let dir = scratch();
        let rig = Rig::new(dir.path(), Plan::Stop { at, part });
        let (mut groups, mut breaks) = (0, 0);
        let mut counted = (groups, breaks);
        assert!(broken_life(&rig, tpm, &mut counted).is_err());
        (groups, breaks) = counted;
        tpm.with(|state| state.fails_after = None);
        drop(Rig::new(dir.path(), Plan::Nothing).open(tpm.clone()));
        broken(dir.path(), tpm, groups, breaks);
        let rig = Rig::new(dir.path(), Plan::Nothing);
        let (_, opened) = rig.open(tpm.clone()).unwrap();
        assert!(matches!(opened, Opened::Continued { .. }), "{opened:?}");
    }
    assert!(stops.len() >= 100, "{}", stops.len());
    stops.len()
}

#[test]
fn killed_while_a_broken_chain_is_recorded_the_record_is_completed_once() {
    broken_stopped_anywhere(&Tpm::new());
}

/// After a power cut: the list alone has everything that was extended.
fn nothing_extended_is_lost(root: &Path, rig: &Rig) {
    let (entries, torn) = readable(root, "boot");
    assert!(torn.len() <= 1, "torn: {torn:?}");
    for entry in rig.extended() {
        assert!(entries.contains(&entry), "{} is lost", entry.display_name());
    }
}

#[test]
fn a_power_cut_at_any_step_leaves_every_extended_entry_on_the_disk() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let rig = Rig::new(dir.path(), Plan::Nothing);
    two_lives(&rig, &tpm).1.unwrap();
    let (mut stopped, mut cuts) = (0, 0);
    for (at, part) in stops(&rig.steps()) {
        let (dir, tpm) = (scratch(), Tpm::new());
        let rig = Rig::new(dir.path(), Plan::Stop { at, part });
        let (acknowledged, _) = two_lives(&rig, &tpm);
        let values = tpm.values();
        stopped += 1;
        for cut in rig.power_cuts() {
            cuts += 1;
            rig.leave(&cut);
            nothing_extended_is_lost(dir.path(), &rig);
            another_boot(dir.path());
            // Never so in reality, but what was on the disk must have been enough.
            tpm.with(|state| state.values.clone_from(&values));
            if cut.zeros {
                drop(
                    Rig::new(dir.path(), Plan::Nothing)
                        .open(tpm.clone())
                        .unwrap(),
                );
            } else {
                continues(dir.path(), &tpm, acknowledged);
            }
        }
    }
    println!("{stopped} stops, {cuts} different disks after a power cut");
    assert!(
        stopped >= STOPS && 2 * cuts >= 5 * STOPS,
        "{stopped}, {cuts}"
    );
}

#[test]
fn a_power_cut_while_a_broken_chain_is_recorded_leaves_every_extended_entry_on_the_disk() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let rig = Rig::new(dir.path(), Plan::Nothing);
    broken_life(&rig, &tpm, &mut (0, 0)).unwrap();
    let mut cuts = 0;
    for (at, part) in stops(&rig.steps()) {
        let (dir, tpm) = (scratch(), Tpm::new());
        let rig = Rig::new(dir.path(), Plan::Stop { at, part });
        broken_life(&rig, &tpm, &mut (0, 0)).unwrap_err();
        tpm.with(|state| state.fails_after = None);
        for cut in rig.power_cuts() {
            cuts += 1;
            rig.leave(&cut);
            nothing_extended_is_lost(dir.path(), &rig);
            another_boot(dir.path());
            let rig = Rig::new(dir.path(), Plan::Nothing);
            drop(rig.open(tpm.clone()).unwrap());
        }
    }
    println!("{cuts} different disks after a power cut");
    assert!(2 * cuts >= 5 * STOPS, "{cuts}");
}

/// The list of the next boot, beside what is left of this one's.
fn another_boot(root: &Path) {
    let next = Origin {
        boot_id: "next".into(),
        ..origin()
    };
    let tpm = Tpm::new();
    let sink = Box::new(tpm.clone());
    let (mut ledger, opened) = Ledger::open(root, next, sink, PCR, None).unwrap();
    assert_eq!(opened, Opened::New);
    ledger.commit(&[event(0)], Batch::new()).unwrap();
    let (entries, torn) = readable(root, "next");
    assert!(torn.is_empty() && judged(&entries, &tpm).is_good());
    fs::remove_dir_all(root.join("ledger/next")).unwrap();
}

#[test]
fn an_intent_that_a_power_cut_brings_back_is_not_followed_twice() {
    // What came after the group: nothing, a group in the same segment, others in the next.
    for after in [0, 1, 4] {
        let (dir, tpm) = (scratch(), Tpm::new());
        let rig = Rig::new(dir.path(), Plan::Nothing);
        let (mut ledger, _) = rig.open(tpm.clone()).unwrap();
        tpm.fail_after(1, false);
        commit(&mut ledger, 0).unwrap_err();
        let intent = dir.path().join("ledger/boot/intent");
        let old = fs::read(&intent).unwrap();
        ledger.reconnect().unwrap();
        for n in 1..=after {
            commit(&mut ledger, n).unwrap();
        }
        drop(ledger);
        fs::write(&intent, old).unwrap();
        continues(dir.path(), &tpm, after + 1);
    }
}
