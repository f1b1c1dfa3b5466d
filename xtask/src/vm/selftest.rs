// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask vm selftest`: a runner that cannot fail proves nothing. Each
//! scenario here goes wrong on purpose, and its run must fail for that reason.

use std::time::Duration;

use cima_guests::{Guests, Outcome, Run, Series, Trouble, Verdict as Ended};

use super::scenario_command;
use crate::build::{self, Part};
use crate::error::{Error, Verdict};
use crate::jobs::{processors, side_by_side};
use crate::workspace;

/// What must come of a scenario.
struct Expected {
    scenario: &'static str,
    time_limit: Duration,
    warnings_allowed: bool,
    resets: u32,
    verdict: fn(&Ended) -> bool,
    /// A text that the lines shown to the user must contain.
    shows: &'static str,
}

const MINUTE: Duration = Duration::from_secs(60);

const EXPECTED: &[Expected] = &[
    Expected {
        scenario: "selftest-fail",
        time_limit: MINUTE,
        warnings_allowed: false,
        resets: 0,
        verdict: |ended| *ended == Ended::Failed("1".to_owned()),
        shows: "FAIL one is two: ",
    },
    Expected {
        scenario: "selftest-panic",
        time_limit: MINUTE,
        warnings_allowed: false,
        resets: 0,
        verdict: |ended| matches!(ended, Ended::Kernel(Trouble::Panic, _)),
        shows: "Kernel panic - not syncing: sysrq triggered crash",
    },
    Expected {
        scenario: "selftest-warning",
        time_limit: MINUTE,
        warnings_allowed: false,
        resets: 0,
        verdict: |ended| matches!(ended, Ended::Kernel(Trouble::Warning, _)),
        shows: "WARNING: CPU: 0 PID: 1 at kernel/selftest.c:1",
    },
    Expected {
        scenario: "selftest-warning",
        time_limit: MINUTE,
        warnings_allowed: true,
        resets: 0,
        verdict: |ended| *ended == Ended::Passed,
        shows: "1 passed, 0 failed",
    },
    Expected {
        scenario: "selftest-hung-task",
        time_limit: MINUTE,
        warnings_allowed: false,
        resets: 0,
        verdict: |ended| matches!(ended, Ended::Kernel(Trouble::HungTask, _)),
        shows: "blocked for more than 3 seconds",
    },
    Expected {
        scenario: "selftest-time-limit",
        time_limit: Duration::from_secs(25),
        warnings_allowed: false,
        resets: 0,
        verdict: |ended| matches!(ended, Ended::TimeLimit(_)),
        shows: "not ending",
    },
    Expected {
        scenario: "selftest-switch-off",
        time_limit: MINUTE,
        warnings_allowed: false,
        resets: 0,
        verdict: |ended| *ended == Ended::Died,
        shows: "sysrq: Power Off",
    },
    Expected {
        scenario: "selftest-resets",
        time_limit: MINUTE,
        warnings_allowed: false,
        resets: 1,
        verdict: |ended| *ended == Ended::Resets(1),
        shows: "ok   after a reset the disk holds what was synced, and not the rest",
    },
    Expected {
        scenario: "selftest-resets",
        time_limit: MINUTE,
        warnings_allowed: false,
        resets: 0,
        verdict: |ended| *ended == Ended::Died,
        shows: "resetting",
    },
];

/// Runs them all on each kernel.
pub(crate) fn run(guests: &Guests, series: &[Series]) -> Result<Verdict, Error> {
    build::build(&[Part::Scenarios])?;
    let (passed, failed) = count(guests, series)?;
    println!("{passed} passed, {failed} failed");
    Ok(Verdict::from_passed(failed == 0))
}

/// How many fail as they must, and how many do not.
pub(crate) fn count(guests: &Guests, series: &[Series]) -> Result<(u32, u32), Error> {
    let jobs: Vec<(Series, usize, &Expected)> = series
        .iter()
        .flat_map(|series| {
            let numbered = EXPECTED.iter().enumerate();
            numbered.map(|(number, expected)| (*series, number, expected))
        })
        .collect();
    // Most of them wait for something that does not come.
    let results = side_by_side(&jobs, 2 * processors(), |(series, number, expected)| {
        let (outcome, shown) = run_one(guests, *series, *number, expected)?;
        let fine = (expected.verdict)(&outcome.verdict) && shown.contains(expected.shows);
        if fine {
            println!("ok   {outcome}, as it should");
        } else {
            println!(
                "FAIL {outcome}, and should not, or did not say {:?}:\n{shown}",
                expected.shows
            );
        }
        Ok(fine)
    })?;
    let count = |fine| results.iter().filter(|result| **result == fine).count();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok((number(count(true)), number(count(false))))
}

fn run_one(
    guests: &Guests,
    series: Series,
    number: usize,
    expected: &Expected,
) -> Result<(Outcome, String), Error> {
    let run = Run {
        stage: Some(workspace::stage()),
        time_limit: expected.time_limit,
        warnings_allowed: expected.warnings_allowed,
        resets: expected.resets,
        ..Run::new(
            series,
            // Each has a directory of its own.
            format!("{}-{number}", expected.scenario),
            scenario_command(expected.scenario, Vec::new()),
        )
    };
    let mut output = Vec::new();
    let outcome = guests.run(&run, &mut output)?;
    let shown = format!("{}{}", String::from_utf8_lossy(&output), outcome.evidence);
    Ok((outcome, shown))
}
