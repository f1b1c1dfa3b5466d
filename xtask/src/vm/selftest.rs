// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask vm selftest`: a runner that cannot fail proves nothing. Each
//! scenario here goes wrong on purpose, and its run must fail for that reason.

use std::time::Duration;

use cima_guests::{Guests, Outcome, Run, Series, Trouble, Verdict as Ended};

use super::scenario_command;
use crate::build::{self, Part};
use crate::error::{Error, Verdict};
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
    let (mut passed, mut failed) = (0, 0);
    for &series in series {
        for expected in EXPECTED {
            let (outcome, shown) = run_one(guests, series, expected)?;
            if (expected.verdict)(&outcome.verdict) && shown.contains(expected.shows) {
                println!("ok   {outcome}, as it should");
                passed += 1;
            } else {
                println!(
                    "FAIL {outcome}, and should not, or did not say {:?}:\n{shown}",
                    expected.shows
                );
                failed += 1;
            }
        }
    }
    Ok((passed, failed))
}

fn run_one(
    guests: &Guests,
    series: Series,
    expected: &Expected,
) -> Result<(Outcome, String), Error> {
    let run = Run {
        stage: Some(workspace::stage()),
        time_limit: expected.time_limit,
        warnings_allowed: expected.warnings_allowed,
        resets: expected.resets,
        ..Run::new(
            series,
            expected.scenario,
            scenario_command(expected.scenario, Vec::new()),
        )
    };
    let mut output = Vec::new();
    let outcome = guests.run(&run, &mut output)?;
    let shown = format!("{}{}", String::from_utf8_lossy(&output), outcome.evidence);
    Ok((outcome, shown))
}
