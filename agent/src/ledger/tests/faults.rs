// SPDX-License-Identifier: Apache-2.0
//! The disk or the TPM refuses for a while, and the agent lives on: in the end the list
//! is what was committed, and the PCR holds it.

use ima_log::BinaryReader;
use rustix::io::Errno;

use super::{
    fixture::{Tpm, batch, event, judged, names, scratch, segment},
    rig::{Plan, Rig, Step},
    sweep::{broken, commit, groups_once, whole},
};
use crate::{
    ledger::{Ledger, LedgerError, intent::FORMAT},
    measure::Batch,
    verify::{BankOutcome, Start},
};

/// Tries often enough for any plan.
const TRIES: usize = 10;

/// As the writer does: after an error of the sink it reconnects.
fn insist(ledger: &mut Ledger, mut result: Result<(), LedgerError>) -> Vec<LedgerError> {
    let mut errors = Vec::new();
    while let Err(error) = result {
        assert!(errors.len() < TRIES, "{error}");
        result = match error {
            LedgerError::Sink(_) => ledger.reconnect(),
            _ => ledger.complete(),
        };
        errors.push(error);
    }
    errors
}

/// As systemd does.
fn open_in_the_end(rig: &Rig, tpm: &Tpm) -> (Ledger, Vec<LedgerError>) {
    let mut errors = Vec::new();
    loop {
        match rig.open(tpm.clone()) {
            Ok((ledger, _)) => return (ledger, errors),
            Err(error) => errors.push(error),
        }
        assert!(errors.len() < TRIES, "{errors:?}");
    }
}

/// Two lives that do not give up; what is acknowledged must be on the disk for good.
fn two_stubborn_lives(rig: &Rig, tpm: &Tpm) -> Vec<LedgerError> {
    let mut errors = Vec::new();
    for groups in [0..3, 3..5] {
        let (mut ledger, opening) = open_in_the_end(rig, tpm);
        errors.extend(opening);
        for n in groups {
            let result = commit(&mut ledger, n);
            errors.extend(insist(&mut ledger, result));
            for entry in rig.extended() {
                let name = entry.display_name();
                assert!(rig.listed_for_good(&entry), "{name} is not on the disk");
            }
        }
    }
    errors
}

/// The disk's steps of [`two_stubborn_lives`] and the ways each can be refused.
fn refusals(lives: impl Fn(&Rig, &Tpm)) -> Vec<Plan> {
    let (dir, tpm) = (scratch(), Tpm::new());
    let never = Plan::Refuse {
        at: usize::MAX / 2,
        times: 1,
        part: 0,
        errno: Errno::IO,
    };
    let rig = Rig::new(dir.path(), never);
    lives(&rig, &tpm);
    let mut plans = Vec::new();
    for (at, step) in rig.steps().into_iter().enumerate() {
        for errno in [Errno::NOSPC, Errno::IO, Errno::ROFS] {
            let parts = match step {
                Step::Write(len) if errno == Errno::NOSPC => vec![0, 1, len / 2, len - 1],
                _ => vec![0],
            };
            for (times, part) in [1, 3]
                .into_iter()
                .flat_map(|n| parts.iter().map(move |p| (n, *p)))
            {
                plans.push(Plan::Refuse {
                    at,
                    times,
                    part,
                    errno,
                });
            }
        }
    }
    plans
}

#[test]
fn whatever_the_disk_refuses_for_a_while_is_in_the_end_what_was_committed() {
    let plans = refusals(|rig, tpm| {
        two_stubborn_lives(rig, tpm);
    });
    for plan in &plans {
        let (dir, tpm) = (scratch(), Tpm::new());
        let rig = Rig::new(dir.path(), *plan);
        let errors = two_stubborn_lives(&rig, &tpm);
        assert!(!errors.is_empty(), "{plan:?}");
        for error in errors {
            let said = error.to_string();
            assert!(matches!(error, LedgerError::Io { .. }), "{said}");
            assert!(
                said.contains(&*dir.path().to_string_lossy()) && said.contains("(os error "),
                "{said}"
            );
        }
        let entries = whole(dir.path());
        assert_eq!(groups_once(&entries), 5, "{plan:?}");
        let judgement = judged(&entries, &tpm);
        assert!(judgement.is_good(), "{plan:?}: {}", judgement.sentence());
    }
    println!("{} refusals", plans.len());
    assert!(plans.len() >= 350, "{}", plans.len());
}

/// A life in which the chain breaks while a group is being extended.
fn stubborn_life_with_a_break(rig: &Rig, tpm: &Tpm) {
    let (mut ledger, _) = open_in_the_end(rig, tpm);
    tpm.fail_after(1, false);
    let result = commit(&mut ledger, 0);
    if let Err(LedgerError::Io { .. }) = result {
        insist(&mut ledger, result);
    } else {
        tpm.foreign();
        insist(&mut ledger, result);
    }
    let result = commit(&mut ledger, 1);
    insist(&mut ledger, result);
}

#[test]
fn whatever_the_disk_refuses_while_a_break_is_recorded_is_recorded_in_the_end() {
    let plans = refusals(stubborn_life_with_a_break);
    for plan in &plans {
        let (dir, tpm) = (scratch(), Tpm::new());
        let rig = Rig::new(dir.path(), *plan);
        stubborn_life_with_a_break(&rig, &tpm);
        let names = names(dir.path());
        let breaks = names.iter().filter(|name| name.contains(":chain:"));
        broken(dir.path(), &tpm, 2, breaks.count());
    }
    assert!(plans.len() >= 200, "{}", plans.len());
}

#[test]
fn a_tpm_that_fails_at_any_extend_with_or_without_effect_loses_and_repeats_nothing() {
    let extends = 3 * 5 + 2;
    for at in 0..extends {
        for anyway in [false, true] {
            let (dir, tpm) = (scratch(), Tpm::new());
            let rig = Rig::new(dir.path(), Plan::Nothing);
            tpm.fail_after(at, anyway);
            two_stubborn_lives(&rig, &tpm);
            assert!(tpm.with(|state| state.fails_after.is_none()), "{at}");
            let entries = whole(dir.path());
            assert_eq!(groups_once(&entries), 5);
            assert!(judged(&entries, &tpm).is_good(), "{at}, {anyway}");
        }
    }
}

#[test]
fn a_pcr_that_changed_under_our_feet_is_recorded_at_once_and_nothing_stays_out_of_it() {
    type Harm = fn(&Tpm);
    let harms: [(&str, Harm); 2] = [("foreign extend", Tpm::foreign), ("reset", Tpm::reset)];
    for (what, harm) in harms {
        for extends in 0..3 {
            for anyway in [false, true] {
                let (dir, tpm) = (scratch(), Tpm::new());
                let rig = Rig::new(dir.path(), Plan::Nothing);
                let (mut ledger, _) = rig.open(tpm.clone()).unwrap();
                commit(&mut ledger, 0).unwrap();
                tpm.fail_after(extends, anyway);
                let before = rig.extended().len();
                commit(&mut ledger, 1).unwrap_err();
                let known = rig.extended().len() - before;
                harm(&tpm);
                ledger.reconnect().unwrap();
                broken(dir.path(), &tpm, 2, 1);
                let names = names(dir.path());
                let chain = names.iter().position(|name| name.contains(":chain:"));
                let repeated = &names[chain.unwrap() + 1..];
                assert_eq!(repeated.len(), 3 - known, "{what}: {names:?}");
                commit(&mut ledger, 2).unwrap();
                drop(ledger);
                let (mut ledger, _) = rig.open(tpm.clone()).unwrap();
                commit(&mut ledger, 3).unwrap();
                broken(dir.path(), &tpm, 4, 1);
            }
        }
    }
}

#[test]
fn a_chain_that_breaks_again_while_the_break_is_recorded_is_two_breaks() {
    for extends in 0..5 {
        let (dir, tpm) = (scratch(), Tpm::new());
        let rig = Rig::new(dir.path(), Plan::Nothing);
        let (mut ledger, _) = rig.open(tpm.clone()).unwrap();
        tpm.fail_after(0, false);
        commit(&mut ledger, 0).unwrap_err();
        tpm.foreign();
        tpm.fail_after(extends, false);
        ledger.reconnect().unwrap_err();
        tpm.foreign();
        ledger.reconnect().unwrap();
        let entries = whole(dir.path());
        let starts: Vec<_> = entries.iter().filter_map(Start::of).collect();
        assert_eq!(starts.len(), 3, "{extends}: the boot and each break");
        let judgement = judged(&entries, &tpm);
        assert!(
            judgement.banks.iter().all(BankOutcome::matches),
            "{extends}"
        );
        // The third segment: its two, and what the second did not get into the PCR but the
        // Start, which is of no use any more.
        let bytes = std::fs::read(segment(dir.path(), 3)).unwrap();
        let third = BinaryReader::new(bytes.as_slice(), FORMAT).count();
        let left = 5 - extends as usize - usize::from(extends == 0);
        assert_eq!(third, 2 + left, "{extends}");
    }
}

#[test]
fn nothing_to_say_to_a_tpm_that_was_reset_is_found_by_a_look() {
    let (dir, tpm) = (scratch(), Tpm::new());
    let rig = Rig::new(dir.path(), Plan::Nothing);
    let (mut ledger, _) = rig.open(tpm.clone()).unwrap();
    ledger.commit(&[event(1)], batch()).unwrap();
    assert!(ledger.check().unwrap());
    tpm.reset();
    assert!(!ledger.check().unwrap());
    assert!(ledger.check().unwrap());
    ledger.commit(&[event(2)], Batch::new()).unwrap();
    let judgement = judged(&whole(dir.path()), &tpm);
    assert!(!judgement.is_good() && judgement.banks.iter().all(BankOutcome::matches));
}
