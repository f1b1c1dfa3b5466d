// SPDX-License-Identifier: Apache-2.0
//! The admission policy: which containers may start (Rego).
//!
//! Owns what a policy is given ([`Input`]), how it is read, reviewed and evaluated, and what its answer
//! means. Refuses whatever does not say clearly that the container may start. Knows nothing of engines, images
//! or hooks: the agent asks, with an input that it made. `docs/ADMISSION.md` is for those who write policies.

mod builtins;
mod deadline;
mod files;
mod input;
mod paths;
mod review;

use std::{collections::BTreeSet, fmt::Write as _, num::NonZeroU32, path::Path, time::Duration};

use regorus::{Engine as Rego, Value, utils::limits::ExecutionTimerConfig};
use serde::Serialize;

use deadline::{Left, within};
use review::Complaint;

pub use deadline::Unfinished;
pub use files::{
    DATA, FilesError, MAX_DATA, MAX_FILES, MAX_RULES, PolicyDigest, PolicyFiles, PolicySource,
    sources,
};
pub use input::*;

/// The policy that cima ships as its default, by file.
pub const DEFAULT: &[(&str, &str)] = &[(
    "measured_image.rego",
    include_str!("../../default/admission/measured_image.rego"),
)];
/// An input with every kind of field, `examples/input.json`.
pub const EXAMPLE: &str = include_str!("../../examples/input.json");

/// How long a decision may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(1);
/// How long it may take to read a policy: far more than any takes, far less than hostile text can make it.
const COMPILE_LIMIT: Duration = Duration::from_secs(10);
/// The interpreter stops itself at the limit; so much later it is left alone.
const GRACE: Duration = Duration::from_millis(50);
/// Steps of the interpreter between two looks at the clock.
const STEPS: NonZeroU32 = NonZeroU32::new(16).expect("is not 0");

const PACKAGE: &str = "data.cima.admission";
const DENY: &str = "data.cima.admission.deny";

/// Reasons that are told, and characters of each: what fits a terminal and an event.
const MAX_REASONS: usize = 100;
const MAX_REASON: usize = 1000;

/// Why a policy is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// Its files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Not Rego, or Rego that cannot mean what was meant.
    #[error("{file}, line {line}: {reason}")]
    Rule {
        /// In which file.
        file: String,
        /// On which line, from 1.
        line: u64,
        /// What.
        reason: String,
    },
    /// An error that has no place.
    #[error("the admission policy is not valid: {0}")]
    Invalid(String),
    /// Not JSON, or no object.
    #[error("{file} is no JSON object: {reason}")]
    Data {
        /// Which file.
        file: String,
        /// Why.
        reason: String,
    },
    /// Data in the place of rules.
    #[error("{0} has a value at cima.admission, where the rules are: name it otherwise")]
    DataOverRules(String),
    /// One name for two files.
    #[error("two files of the admission policy have the name {0}")]
    Twice(String),
    /// It would never deny.
    #[error(
        "no file of the admission policy has a rule `deny` in `package cima.admission`: nothing would be denied"
    )]
    Silent,
    /// It would never be asked.
    #[error(
        "{file} has a rule `deny` in `package {package}`, where nobody looks: move it to `package cima.admission`, or name it otherwise"
    )]
    Elsewhere {
        /// Which file.
        file: String,
        /// Its package.
        package: String,
    },
    /// It took too long to read.
    #[error("the admission policy was not read: {0}")]
    Unfinished(#[from] Unfinished),
}

impl From<Complaint> for AdmissionError {
    fn from(complaint: Complaint) -> Self {
        Self::Rule {
            file: complaint.file,
            line: complaint.line,
            reason: complaint.reason,
        }
    }
}

/// What came of a policy for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Why the container may not start, sorted, each once, printable. It may if there is no reason.
    pub denied: Vec<String>,
}

impl Decision {
    /// Whether the container may start.
    pub fn allowed(&self) -> bool {
        self.denied.is_empty()
    }

    fn new(reasons: BTreeSet<String>) -> Self {
        let more = reasons.len().saturating_sub(MAX_REASONS);
        let mut denied: Vec<_> = reasons.into_iter().take(MAX_REASONS).collect();
        if more > 0 {
            denied.push(format!("… and {more} more reasons"));
        }
        Self { denied }
    }

    /// Denied since the policy gave no answer.
    fn without_answer(why: &str) -> Self {
        Self::new(
            [printable(&format!(
                "the admission policy gave no answer: {why}"
            ))]
            .into(),
        )
    }
}

/// An admission policy that was read and reviewed. Decisions may be asked for from many threads at once.
#[derive(Debug)]
pub struct Admission {
    /// None: everything is allowed.
    rego: Option<Rego>,
    files: PolicyFiles,
    time_limit: Duration,
    left: Left,
}

impl Admission {
    /// No policy, on purpose: every container is allowed.
    pub fn allow_all() -> Self {
        Self {
            rego: None,
            files: PolicyFiles::default(),
            time_limit: TIME_LIMIT,
            left: Left::default(),
        }
    }

    /// Reads a policy: files of rules, and the data that they look up as `data`.
    ///
    /// Both syntaxes of Rego are read: `deny contains reason if { … }`, and the classic `deny[reason] { … }`.
    ///
    /// # Errors
    /// Names file and line of what is wrong, and refuses what could only be meant otherwise: a policy that denies nothing,
    /// a rule `deny` in another package, a part of the input that does not exist, a function that does not
    /// exist or calls itself.
    pub fn compile(
        sources: Vec<PolicySource>,
        data: Option<PolicySource>,
    ) -> Result<Self, AdmissionError> {
        let files = PolicyFiles::new(sources.iter().cloned().chain(data.clone()).collect());
        let left = Left::default();
        let rego = within(COMPILE_LIMIT, &left, move || compiled(sources, data))??;
        Ok(Self {
            rego: Some(rego),
            files,
            time_limit: TIME_LIMIT,
            left,
        })
    }

    /// Reads the policy in a directory: every `*.rego`, and `data.json` if there is one. Other files, hidden files and
    /// directories below are no part of it.
    ///
    /// # Errors
    /// As [`Admission::compile`], and for files that cannot be read or are too large.
    pub fn read(dir: &Path) -> Result<Self, AdmissionError> {
        let (rules, data) = sources(dir)?;
        Self::compile(rules, data)
    }

    /// Another limit than [`TIME_LIMIT`] for each decision.
    #[must_use]
    pub fn with_time_limit(self, time_limit: Duration) -> Self {
        Self { time_limit, ..self }
    }

    /// The files of which the policy was made, as they were read: what is to be measured of it.
    pub fn files(&self) -> &PolicyFiles {
        &self.files
    }

    /// Whether the container may start. Blocks for the time limit at most, and a moment.
    ///
    /// A policy that fails, takes too long, or whose `deny` is no set of strings denies. The memory that an evaluation
    /// takes is not limited but by its time: a policy that joins a string with itself again and again can take all.
    pub fn decide(&self, input: &Input) -> Decision {
        let Some(rego) = &self.rego else {
            return Decision::default();
        };
        let input = match serde_json::to_value(input) {
            Ok(input) => Value::from(input),
            Err(error) => return Decision::without_answer(&error.to_string()),
        };
        let mut rego = rego.clone();
        rego.set_execution_timer_config(ExecutionTimerConfig {
            limit: self.time_limit,
            check_interval: STEPS,
        });
        let answer = within(self.time_limit + GRACE, &self.left, move || {
            evaluate(&mut rego, input)
        });
        match answer {
            Ok(Ok(reasons)) => Decision::new(reasons),
            Ok(Err(Failure::Late)) | Err(Unfinished::Late(_)) => {
                Decision::without_answer(&format!("it took longer than {:?}", self.time_limit))
            }
            Ok(Err(failure)) => Decision::without_answer(&failure.to_string()),
            Err(unfinished) => Decision::without_answer(&unfinished.to_string()),
        }
    }
}

/// Why an evaluation gave no set of reasons.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it took too long")]
    Late,
    #[error("{file}, line {line}: {reason}")]
    At {
        file: String,
        line: u64,
        reason: String,
    },
    #[error("{0}")]
    Elsewhere(String),
    #[error(
        "`deny` is {0}, and not a set of strings (`deny contains reason if {{ … }}`, or classic `deny[reason] {{ … }}`)"
    )]
    NoSet(&'static str),
    #[error("`deny` has {0} in it, and not only strings")]
    NoString(&'static str),
}

impl Failure {
    /// From an error of the interpreter, which draws the place under the line of text.
    fn new(error: &anyhow::Error) -> Self {
        let text = format!("{error:#}");
        if text.contains("execution exceeded time limit") {
            return Self::Late;
        }
        let (place, reason) = match text.rsplit_once("error: ") {
            Some((place, reason)) => (place, reason.trim()),
            None => return Self::Elsewhere(text.trim().to_owned()),
        };
        // `--> a.rego:3:14` above the line of text, or `a.rego:3:14 error: …`.
        let found = place.lines().find_map(|line| {
            let line = line.trim();
            let (rest, _) = line.strip_prefix("--> ").unwrap_or(line).rsplit_once(':')?;
            let (file, line) = rest.rsplit_once(':')?;
            Some((file.to_owned(), line.parse().ok()?))
        });
        let reason = reason.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        match found {
            Some((file, line)) => Self::At { file, line, reason },
            None => Self::Elsewhere(reason),
        }
    }

    fn line(&self) -> u64 {
        match self {
            Self::At { line, .. } => *line,
            _ => 0,
        }
    }
}

impl From<Failure> for AdmissionError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::At { file, line, reason } => Self::Rule { file, line, reason },
            failure => Self::Invalid(failure.to_string()),
        }
    }
}

/// A new interpreter with these rules and data.
fn compiled(
    sources: Vec<PolicySource>,
    data: Option<PolicySource>,
) -> Result<Rego, AdmissionError> {
    let internal = |error: anyhow::Error| AdmissionError::Invalid(error.to_string());
    let mut rego = Rego::new();
    // What a policy prints would go to the daemon's standard error, unmarked.
    rego.set_gather_prints(true);
    builtins::replace(&mut rego).map_err(internal)?;
    let mut names = BTreeSet::new();
    let mut denies = false;
    for PolicySource { name, text } in sources {
        if !names.insert(name.clone()) {
            return Err(AdmissionError::Twice(name));
        }
        let package = add(&mut rego, &name, &text)?;
        let has_deny = rego
            .has_declared_rule_rooted_at(&name, "deny")
            .map_err(internal)?;
        if has_deny && package != PACKAGE {
            let package = package.trim_start_matches("data.").to_owned();
            return Err(AdmissionError::Elsewhere {
                file: name,
                package,
            });
        }
        denies |= has_deny;
    }
    if !denies {
        return Err(AdmissionError::Silent);
    }
    if let Some(data) = data {
        add_data(&mut rego, &data)?;
    }
    review::review(&rego)?;
    try_out(&mut rego)?;
    Ok(rego)
}

/// Adds a file in the syntax that it is written in, and gives its package.
///
/// The new syntax is tried first: it refuses every classic rule with a body, while the old one takes `if` and `contains`
/// for names of rules and reads something else than was meant.
fn add(rego: &mut Rego, name: &str, text: &str) -> Result<String, AdmissionError> {
    let mut parse = |classic: bool| {
        let mut trial = rego.clone();
        trial.set_rego_v0(classic);
        let package = trial
            .add_policy(name.to_owned(), text.to_owned())
            .map_err(|error| Failure::new(&error))?;
        let misread = classic
            && ["if", "contains"].iter().any(|word| {
                trial
                    .has_declared_rule_rooted_at(name, word)
                    .unwrap_or(true)
            });
        if misread {
            let line = 0;
            let (file, reason) = (name.to_owned(), String::new());
            return Err(Failure::At { file, line, reason });
        }
        trial.set_rego_v0(false);
        *rego = trial;
        Ok(package)
    };
    let modern = match parse(false) {
        Ok(package) => return Ok(package),
        Err(failure) => failure,
    };
    // Of two errors the one that came later: the other says little more than that it is the other syntax.
    let line = modern.line();
    parse(true).map_err(|classic| {
        let later = classic.line() > line || classic.line() == line && wants_if(&modern);
        if later { classic } else { modern }.into()
    })
}

/// Whether it is the error that a classic rule gets from the new syntax.
fn wants_if(failure: &Failure) -> bool {
    matches!(failure, Failure::At { reason, .. } if reason.contains("keyword is required"))
}

fn add_data(rego: &mut Rego, data: &PolicySource) -> Result<(), AdmissionError> {
    let refuse = |reason: String| AdmissionError::Data {
        file: data.name.clone(),
        reason,
    };
    let value: serde_json::Value =
        serde_json::from_str(&data.text).map_err(|error| refuse(error.to_string()))?;
    if !value.is_object() {
        return Err(refuse("it is another kind of value".into()));
    }
    if value.pointer("/cima/admission").is_some() {
        return Err(AdmissionError::DataOverRules(data.name.clone()));
    }
    rego.add_data(Value::from(value))
        .map_err(|error| refuse(error.to_string()))
}

/// Evaluates the policy for the example: some errors the interpreter finds only then. What it prepares for its first
/// evaluation, it has for all.
fn try_out(rego: &mut Rego) -> Result<(), AdmissionError> {
    rego.set_execution_timer_config(ExecutionTimerConfig {
        limit: COMPILE_LIMIT / 2,
        check_interval: STEPS,
    });
    let example = Value::from_json_str(EXAMPLE)
        .map_err(|error| AdmissionError::Invalid(error.to_string()))?;
    match evaluate(rego, example) {
        // Slow for the example is no error of the policy; each decision has its own limit.
        Ok(_) | Err(Failure::Late) => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

/// The reasons that the policy gives for this input.
fn evaluate(rego: &mut Rego, input: Value) -> Result<BTreeSet<String>, Failure> {
    rego.set_input(input);
    let deny = rego.eval_rule(DENY.to_owned());
    // Printed for nobody, and not kept for the next evaluation.
    _ = rego.take_prints();
    let deny = deny.map_err(|error| Failure::new(&error))?;
    match &deny {
        // The policy has a rule `deny`, and it says nothing.
        Value::Undefined => Ok(BTreeSet::new()),
        Value::Set(reasons) => reasons
            .iter()
            .map(|reason| match reason {
                Value::String(reason) if reason.trim().is_empty() => {
                    Ok("the admission policy denies and gives no reason".to_owned())
                }
                Value::String(reason) => Ok(printable(reason)),
                other => Err(Failure::NoString(kind(other))),
            })
            .collect(),
        other => Err(Failure::NoSet(kind(other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Set(_) => "a set",
        Value::Object(_) => "an object",
        Value::Undefined => "undefined",
    }
}

/// On one line, without what a terminal obeys, and not too long.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_REASON));
    for (count, char) in text.chars().enumerate() {
        let turns = matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if count == MAX_REASON {
            line.push('…');
            break;
        }
        if char.is_control() || turns {
            _ = write!(line, "{}", char.escape_unicode());
        } else {
            line.push(char);
        }
    }
    line
}
