// SPDX-License-Identifier: Apache-2.0
//! Processes from start to end.

use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde::Serialize;

use super::FEW;
use crate::error::Error;

/// What takes longer than so many milliseconds is done a few times only.
const LONG_MS: f64 = 3_000.0;

/// What came of one who was timed.
#[derive(Serialize)]
pub(super) struct Timed {
    pub(super) who: &'static str,
    pub(super) what: &'static str,
    pub(super) n: usize,
    pub(super) median_ms: f64,
    pub(super) least_ms: f64,
    /// What of it was the question itself, where a process says so: its start is not the database's doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) inner_ms: Option<f64>,
}

impl Timed {
    pub(super) fn of(who: &'static str, what: &'static str, mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self {
            who,
            what,
            n: times.len(),
            median_ms: median(&times),
            least_ms: times.first().copied().unwrap_or(f64::NAN),
            inner_ms: None,
        }
    }
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Asks again and again, after once that warms the page cache up, and whose answer is given. Whoever is to be timed ends with 0.
pub(super) fn race(
    who: &'static str,
    what: &'static str,
    rounds: usize,
    command: impl Fn() -> Command,
) -> Result<(Timed, Vec<u8>), Error> {
    let (first_ms, first) = once(who, &mut command())?;
    let rounds = if first_ms > LONG_MS { FEW } else { rounds };
    let (mut times, mut inner) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (took, output) = once(who, &mut command())?;
        times.push(took);
        let said = String::from_utf8_lossy(&output.stderr);
        inner.extend(said.trim().parse::<f64>().ok().map(|seconds| seconds * 1e3));
    }
    inner.sort_by(f64::total_cmp);
    let mut timed = Timed::of(who, what, times);
    timed.inner_ms = (!inner.is_empty()).then(|| median(&inner));
    Ok((timed, first.stdout))
}

/// Runs a command; milliseconds that it took, and what it said.
pub(super) fn once(who: &str, command: &mut Command) -> Result<(f64, Output), Error> {
    cima_guests::check_interrupt()?;
    let failed = |why: String| Error::Environment(format!("{who} {why}."));
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output();
    let took = began.elapsed().as_secs_f64() * 1e3;
    let output = output.map_err(|error| failed(format!("cannot be started: {error}")))?;
    if output.status.success() {
        return Ok((took, output));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!(
        "ended with {}: {}",
        output.status,
        said.trim()
    )))
}
