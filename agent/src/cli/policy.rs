// SPDX-License-Identifier: Apache-2.0
//! `cima policy`: what an admission policy says of a container, and what it is given to say it.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use cima_hook::{
    client::{AskError, Cimad},
    printable,
};
use cima_policies::admission::{
    Admission, AdmissionError, DATA, EXAMPLE, FilesError, Input, InputError, MAX_DATA, MAX_RULES,
    PolicySource, schema_text, sources,
};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;
use tonic::Code;

use super::{unless_broken_pipe, verdict::Paint};
use crate::exit::Outcome;

/// Bytes of an input: a container's configuration has at most some hundred thousand.
const MAX_INPUT: u64 = 16 << 20;

/// Try admission policies, and see what they are given
#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    Test(TestArgs),
    Explain(ExplainArgs),
    Reload(ReloadArgs),
    /// Print the JSON schema of the input
    ///
    /// What a rule may ask for as `input`, with a description of each field.
    #[command(after_help = "Examples:
  cima policy schema > admission.schema.json
  cima policy schema | jq -r '.\"$defs\".Volume.properties | keys[]'

Exit codes: 0 printed, 2 usage.")]
    Schema,
    /// Print an example of an input
    ///
    /// To be changed, and tested against.
    #[command(after_help = "Examples:
  cima policy example > input.json
  cima policy example | cima policy test /etc/cima/admission --input -

Exit codes: 0 printed, 2 usage.")]
    Example,
}

/// Say how a container was judged, and by what
///
/// Asks cimad, as root. Of containers that are gone it remembers the last thousand of this boot.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima policy explain web
  cima policy explain --json 8c2f01b7aa90 | jq .input > input.json

Exit codes: 0 it was allowed, 1 it was denied, 2 usage, cimad does not know it or does not answer.")]
struct ExplainArgs {
    /// Its name, or its id or at least twelve digits of it
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Where cimad listens
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Have cimad read its policies again, and say whether it took them
///
/// The same as SIGHUP, with an answer. Of policies that are wrong none is taken.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima policy test /etc/cima/admission --input input.json && cima policy reload

Exit codes: 0 they are in force, 1 they are wrong and the ones before stay, 2 usage, or cimad does not answer.")]
struct ReloadArgs {
    /// Where cimad listens
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
}

/// How long cimad may take to explain, and to read policies.
const PATIENCE: Duration = Duration::from_secs(30);

/// Say whether a container would be allowed to start
///
/// Needs no daemon, and no container: what a policy knows of one is in the input.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima policy test /etc/cima/admission --input input.json
  cima policy test volumes.rego commands.rego --data data.json --input input.json
  cima policy example | cima policy test --json /etc/cima/admission --input - | jq -r '.denied[]'

Exit codes: 0 allowed, 1 denied, with a line for each reason, 2 usage, or no policy or input.")]
struct TestArgs {
    /// Files of rules, and directories: of each its *.rego, and its data.json if there is one
    #[arg(value_name = "POLICY", required = true)]
    policies: Vec<PathBuf>,
    /// The container, as JSON; - for standard input
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// What rules look up as `data`, as JSON
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a command did not end with a verdict.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// See [`AdmissionError`].
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// See [`FilesError`].
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A path without a last part.
    #[error("{} is no name of a file", .0.display())]
    NoName(PathBuf),
    /// Data from two places.
    #[error("{} is not the only data: a policy has one file of data", .0.display())]
    DataTwice(PathBuf),
    /// The input cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadInput {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The input is too large.
    #[error("{} has more than {MAX_INPUT} bytes, and is no input", .0.display())]
    LargeInput(PathBuf),
    /// The input is none.
    #[error("{}: {source}", path.display())]
    Input {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: InputError,
    },
    /// cimad.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// What cimad said.
    #[error("cimad's answer is no explanation: {0}")]
    Explanation(#[source] serde_json::Error),
    /// The output failed.
    #[error("cannot write to standard output: {0}")]
    Write(#[source] io::Error),
}

/// Runs the command.
///
/// # Errors
/// See [`PolicyError`].
pub fn run(args: &PolicyArgs) -> Result<Outcome, PolicyError> {
    match &args.command {
        PolicyCommand::Test(args) => test(args),
        PolicyCommand::Explain(args) => explain(args),
        PolicyCommand::Reload(args) => reload(args),
        PolicyCommand::Schema => print(&schema_text()),
        PolicyCommand::Example => print(EXAMPLE),
    }
}

fn print(text: &str) -> Result<Outcome, PolicyError> {
    unless_broken_pipe(io::stdout().write_all(text.as_bytes())).map_err(PolicyError::Write)?;
    Ok(Outcome::Good)
}

fn test(args: &TestArgs) -> Result<Outcome, PolicyError> {
    let admission = admission(args)?;
    let decision = admission.decide(&input(&args.input)?);
    let text = if args.json {
        let policy = admission.files().digest().to_string();
        let (allowed, denied) = (decision.allowed(), &decision.denied);
        json!({"allowed": allowed, "denied": denied, "policy": policy}).to_string() + "\n"
    } else {
        let paint = Paint::when(io::stdout().is_terminal());
        let denied = |reason: &String| format!("{}\n", paint.bad(&format!("denied: {reason}")));
        match decision.denied.as_slice() {
            [] => paint.good("allowed") + "\n",
            reasons => reasons.iter().map(denied).collect(),
        }
    };
    print(&text)?;
    Ok(if decision.allowed() {
        Outcome::Good
    } else {
        Outcome::Negative
    })
}

/// What cimad says of a container; the input is shown as JSON alone.
#[derive(Deserialize)]
struct Explanation {
    id: String,
    allowed: bool,
    reasons: Vec<String>,
    image: String,
    policy: String,
    pid: u32,
    gone: Option<String>,
    input: Input,
}

fn explain(args: &ExplainArgs) -> Result<Outcome, PolicyError> {
    let cimad = Cimad::at(args.socket.clone())?;
    let answer = cimad.explain(&args.container, PATIENCE)?.json;
    let told: Explanation = serde_json::from_str(&answer).map_err(PolicyError::Explanation)?;
    let outcome = if told.allowed {
        Outcome::Good
    } else {
        Outcome::Negative
    };
    if args.json {
        print(&(answer + "\n"))?;
        return Ok(outcome);
    }
    let paint = Paint::when(io::stdout().is_terminal());
    let mut text = if told.allowed {
        paint.good("allowed") + "\n"
    } else {
        String::new()
    };
    for reason in &told.reasons {
        text += &format!("{}\n", paint.bad(&format!("denied: {}", printable(reason))));
    }
    let input = &told.input;
    let or = |text: &Option<String>, none: &str| printable(text.as_deref().unwrap_or(none));
    let state = told
        .gone
        .as_deref()
        .map_or_else(|| format!("process {}", told.pid), str::to_lowercase);
    let measured = match (told.image.is_empty(), &input.image.error) {
        (true, error) => format!("not measured: {}", or(error, "nobody says why")),
        (false, _) => told.image.clone(),
    };
    let rows = [
        (
            "container",
            format!("{} {}", printable(&told.id), or(&input.container.name, "")),
        ),
        ("state", printable(&state)),
        ("image", or(&input.image.reference, "of no name")),
        ("measured", measured),
        ("command", printable(&input.process.args.join(" "))),
        (
            "user",
            format!("{}:{}", input.process.uid, input.process.gid),
        ),
        (
            "upper",
            if input.upper.dirty {
                "dirty".into()
            } else if input.upper.audited {
                "clean".into()
            } else {
                "not audited".into()
            },
        ),
        ("policy", printable(&told.policy)),
    ];
    for (name, value) in rows {
        text += &format!("{name:<10} {}\n", value.trim_end());
    }
    for finding in &input.upper.findings {
        text += &format!(
            "{:<10} {} {}: {}\n",
            "found",
            printable(&finding.path),
            printable(&finding.what),
            printable(&finding.why)
        );
    }
    for volume in &input.volumes {
        let access = if volume.writable { "rw" } else { "ro" };
        let execute = if volume.executable { "exec" } else { "noexec" };
        text += &format!(
            "{:<10} {} at {} ({access}, {execute})\n",
            "volume",
            printable(&volume.source),
            printable(&volume.destination)
        );
    }
    print(&text)?;
    Ok(outcome)
}

fn reload(args: &ReloadArgs) -> Result<Outcome, PolicyError> {
    match Cimad::at(args.socket.clone())?.reload(PATIENCE) {
        Ok(_) => print("the policies are in force\n"),
        Err(AskError::Refused {
            code: Code::FailedPrecondition,
            message,
            ..
        }) => {
            print(&(printable(&message) + "\n"))?;
            Ok(Outcome::Negative)
        }
        Err(error) => Err(error.into()),
    }
}

/// The policy of all files and directories together.
fn admission(args: &TestArgs) -> Result<Admission, PolicyError> {
    let mut rules = Vec::new();
    let mut data = match &args.data {
        Some(path) => Some(PolicySource::read(path, DATA.into(), MAX_DATA)?),
        None => None,
    };
    for path in &args.policies {
        if !path.is_dir() {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| PolicyError::NoName(path.clone()))?;
            rules.push(PolicySource::read(path, name.to_owned(), MAX_RULES)?);
            continue;
        }
        let (more, found) = sources(path)?;
        rules.extend(more);
        if let Some(found) = found
            && data.replace(found).is_some()
        {
            return Err(PolicyError::DataTwice(path.join(DATA)));
        }
    }
    Ok(Admission::compile(rules, data)?)
}

fn input(path: &Path) -> Result<Input, PolicyError> {
    let failed = |source| PolicyError::ReadInput {
        path: path.to_owned(),
        source,
    };
    let reader: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let mut text = Vec::new();
    let limited = &mut reader.take(MAX_INPUT + 1);
    limited.read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_INPUT {
        return Err(PolicyError::LargeInput(path.to_owned()));
    }
    Input::parse(&text).map_err(|source| PolicyError::Input {
        path: path.to_owned(),
        source,
    })
}
