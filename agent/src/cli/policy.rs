// SPDX-License-Identifier: Apache-2.0
//! `cima policy`: what an admission policy says of a container, and what it is given to say it.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read, Write as _},
    path::{Path, PathBuf},
};

use cima_policies::admission::{
    Admission, AdmissionError, DATA, EXAMPLE, FilesError, Input, InputError, MAX_DATA, MAX_RULES,
    PolicySource, schema_text, sources,
};
use clap::{Args, Subcommand};
use serde_json::json;

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
