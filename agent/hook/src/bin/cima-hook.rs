// SPDX-License-Identifier: Apache-2.0
//! The OCI hook: asks cimad whether a container may start, and tells it when one is gone.

use std::{
    env,
    ffi::OsString,
    fmt::Display,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use cima_hook::{
    MOST_SECONDS, SECONDS_TO_MEASURE,
    client::{AskError, Cimad},
    printable,
    state::{Stage, State, StateError},
};
use clap::{Parser, ValueEnum};

/// How long a runtime may take to write a state. It has it ready.
const TO_READ: Duration = Duration::from_secs(5);
/// How long a container's end may wait for cimad.
const TO_STOP: Duration = Duration::from_secs(5);
/// cimad refused the container.
const DENIED: u8 = 1;
/// The container could not be judged.
const NOT_JUDGED: u8 = 2;

/// Asks cimad whether a container may start, and tells it when one is gone.
///
/// An OCI hook for the stages createRuntime and poststop. Container runtimes start it, with the state of the
/// container on standard input; `cima hook install` tells the engines. A container that cannot be judged
/// does not start.
#[derive(Debug, Parser)]
#[command(
    name = "cima-hook",
    version,
    after_help = "Examples:
  In /usr/share/containers/oci/hooks.d/cima.json, for podman and CRI-O:
    {\"version\": \"1.0.0\",
     \"hook\": {\"path\": \"/usr/libexec/cima/cima-hook\", \"args\": [\"cima-hook\", \"--timeout\", \"300\"], \"timeout\": 310},
     \"when\": {\"always\": true}, \"stages\": [\"createRuntime\", \"poststop\"]}
  In a bundle's config.json, under hooks.poststop:
    {\"path\": \"/usr/libexec/cima/cima-hook\", \"args\": [\"cima-hook\", \"--stage\", \"poststop\"]}
  By hand:
    echo '{\"ociVersion\": \"1.0.2\", \"id\": \"web\", \"status\": \"stopped\", \"bundle\": \"/b\"}' | cima-hook

Exit codes at createRuntime: 0 the container may start, 1 cimad refused it, 2 it could not be judged (it may start
then if --fail open was given, with exit code 0). At poststop: always 0."
)]
struct Args {
    /// What it is called for; without this the container's status says so
    #[arg(long, value_name = "STAGE")]
    stage: Option<StageArg>,
    /// Where cimad listens [default: /run/cima/hook.sock, of a user's own containers /run/cima/hook-UID.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Whether a container that cannot be judged may start: `closed` no, `open` yes and unmeasured
    #[arg(long, value_name = "HOW", default_value = "closed")]
    fail: Fail,
    /// How long cimad may take to measure and judge an image
    #[arg(long, value_name = "SECONDS", default_value_t = SECONDS_TO_MEASURE,
          value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    timeout: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StageArg {
    #[value(name = "createRuntime")]
    CreateRuntime,
    #[value(name = "poststop")]
    Poststop,
}

impl From<StageArg> for Stage {
    fn from(stage: StageArg) -> Self {
        match stage {
            StageArg::CreateRuntime => Self::Create,
            StageArg::Poststop => Self::Stop,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fail {
    Closed,
    Open,
}

/// Why a container was not judged.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Ask(#[from] AskError),
}

fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => run(args),
        Err(error) => usage(&error),
    }
}

fn run(args: Args) -> ExitCode {
    let fail = args.fail;
    let asked = args.stage.map(Stage::from);
    let (state, stage) = match state(asked) {
        Ok(read) => read,
        Err(error) if asked == Some(Stage::Stop) => return not_told(&error.into()),
        Err(error) => return not_judged(&error.into(), fail),
    };
    let id = state.id.clone();
    let cimad = Cimad::at(args.socket);
    match stage {
        Stage::Create => {
            let within = Duration::from_secs(args.timeout);
            match cimad.and_then(|cimad| cimad.create(state.bytes, within)) {
                Ok(reply) => judged(&id, reply.allowed, &reply.reasons),
                Err(error) => not_judged(&error.into(), fail),
            }
        }
        Stage::Stop => match cimad.and_then(|cimad| cimad.stop(state.bytes, TO_STOP)) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => not_told(&error.into()),
        },
    }
}

fn state(asked: Option<Stage>) -> Result<(State, Stage), StateError> {
    let state = State::read(io::stdin(), TO_READ)?;
    let stage = asked.map_or_else(|| state.stage(), Ok)?;
    Ok((state, stage))
}

fn judged(id: &str, allowed: bool, reasons: &[String]) -> ExitCode {
    if allowed {
        for reason in reasons {
            say("allowed", reason);
        }
        return ExitCode::SUCCESS;
    }
    if reasons.is_empty() {
        say(
            "denied",
            format_args!("cimad refused the container {id} and gave no reason"),
        );
    }
    for reason in reasons {
        say("denied", reason);
    }
    ExitCode::from(DENIED)
}

fn not_judged(error: &HookError, fail: Fail) -> ExitCode {
    match fail {
        Fail::Closed => {
            say("denied", error);
            say(
                "denied",
                "the container was not judged, and without that none starts here (--fail closed)",
            );
            ExitCode::from(NOT_JUDGED)
        }
        Fail::Open => {
            say("warning", error);
            say(
                "warning",
                "the container starts, but it was not measured (--fail open)",
            );
            ExitCode::SUCCESS
        }
    }
}

/// A container that is gone cannot be blocked, and an error here only makes engines keep its remains.
fn not_told(error: &HookError) -> ExitCode {
    say(
        "warning",
        format_args!("cimad was not told that a container is gone: {error}"),
    );
    ExitCode::SUCCESS
}

/// Whoever installed the hook with `--fail open` wants that of an option that this version does not know, too.
fn usage(error: &clap::Error) -> ExitCode {
    // What it says is for a terminal or for nobody.
    _ = error.print();
    let args: Vec<OsString> = env::args_os().collect();
    let given = |option: &str, value: &str| {
        let both = format!("{option}={value}");
        args.iter().any(|arg| *arg == *both)
            || args
                .windows(2)
                .any(|pair| pair[0] == option && pair[1] == value)
    };
    if !error.use_stderr() || given("--stage", "poststop") {
        ExitCode::SUCCESS
    } else if given("--fail", "open") {
        say(
            "warning",
            "the container starts, but it was not measured (--fail open)",
        );
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_JUDGED)
    }
}

/// One line for each; an engine that closed standard error is no reason to block a container.
fn say(what: &str, text: impl Display) {
    for line in text.to_string().lines() {
        _ = writeln!(io::stderr(), "cima-hook: {what}: {}", printable(line));
    }
}
