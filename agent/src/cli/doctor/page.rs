// SPDX-License-Identifier: Apache-2.0
//! What is said of a host, as people read it and as programs do. Both say the same.

use std::{
    error::Error,
    io::{self, Write},
};

use cima_hook::printable;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{cli::verdict::Paint, machine::is_denied, preflight::Missing};

/// How a part of the host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    Good,
    /// Nothing lacks, and it is worth knowing.
    Note,
    Lacks,
    /// It could not be looked at, or is known only when it is tried.
    Unknown,
}

/// What was found of a part.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) part: &'static str,
    pub(super) state: State,
    pub(super) text: String,
    /// Commands, in their order; behind a `#` stands what is to be known of one.
    pub(super) mend: Vec<String>,
    /// The same as the text, for programs.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(super) facts: Value,
}

impl Finding {
    pub(super) fn new(part: &'static str, state: State, text: impl Into<String>) -> Self {
        Self {
            part,
            state,
            text: text.into(),
            mend: Vec::new(),
            facts: Value::Null,
        }
    }

    pub(super) fn good(part: &'static str, text: impl Into<String>) -> Self {
        Self::new(part, State::Good, text)
    }

    pub(super) fn note(part: &'static str, text: impl Into<String>) -> Self {
        Self::new(part, State::Note, text)
    }

    pub(super) fn lacks(part: &'static str, text: impl Into<String>) -> Self {
        Self::new(part, State::Lacks, text)
    }

    pub(super) fn unknown(part: &'static str, text: impl Into<String>) -> Self {
        Self::new(part, State::Unknown, text)
    }

    /// A lack, unless it only may not be looked at.
    pub(super) fn failed<E: Error + 'static>(part: &'static str, error: &E) -> Self {
        let state = match is_denied(error) {
            true => State::Unknown,
            false => State::Lacks,
        };
        Self::new(part, state, error.to_string())
    }

    /// What a look of `preflight` found.
    pub(super) fn of<T>(
        part: &'static str,
        looked: Result<T, Missing>,
        good: impl FnOnce(T) -> String,
        mend: impl FnOnce(&Missing) -> Vec<String>,
    ) -> Self {
        match looked {
            Ok(found) => Self::good(part, good(found)),
            Err(missing) => Self::failed(part, &missing).mended_by(mend(&missing)),
        }
    }

    pub(super) fn mended_by<C: Into<String>>(
        mut self,
        commands: impl IntoIterator<Item = C>,
    ) -> Self {
        self.mend = commands.into_iter().map(Into::into).collect();
        self
    }

    pub(super) fn with(mut self, facts: Value) -> Self {
        self.facts = facts;
        self
    }

    fn show(&self, out: &mut impl Write, paint: Paint) -> io::Result<()> {
        let label = match self.state {
            State::Good => paint.good("good:   "),
            State::Note => "note:   ".to_owned(),
            State::Lacks => paint.bad("lacks:  "),
            State::Unknown => paint.middling("unknown:"),
        };
        writeln!(out, "{label} {}: {}", self.part, printable(&self.text))?;
        self.mend
            .iter()
            .try_for_each(|command| writeln!(out, "             {}", printable(command)))
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) findings: Vec<Finding>,
    pub(super) by_root: bool,
    pub(super) tried: bool,
}

impl Page {
    fn count(&self, state: State) -> usize {
        let findings = self.findings.iter();
        findings.filter(|finding| finding.state == state).count()
    }

    pub(super) fn is_good(&self) -> bool {
        self.count(State::Lacks) == 0
    }

    fn sentence(&self) -> String {
        let lacks = match self.count(State::Lacks) {
            0 => "nothing lacks".to_owned(),
            1 => "1 thing lacks".to_owned(),
            lacks => format!("{lacks} things lack"),
        };
        let unknown = match self.count(State::Unknown) {
            0 => return lacks,
            1 => "1 is not known".to_owned(),
            unknown => format!("{unknown} are not known"),
        };
        let then = match (self.by_root, self.tried) {
            (false, _) => " (root may look at more)",
            (true, false) => " (more is known when it is tried: cima doctor --try)",
            (true, true) => "",
        };
        format!("{lacks}, {unknown}{then}")
    }

    pub(super) fn text(&self, out: &mut impl Write, paint: Paint) -> io::Result<()> {
        for finding in &self.findings {
            finding.show(out, paint)?;
        }
        writeln!(out, "{}", self.sentence())
    }

    /// One object on one line; keys are only ever added.
    pub(super) fn json(&self, out: &mut impl Write) -> io::Result<()> {
        let object = json!({
            "v": 1,
            "good": self.is_good(),
            "verdict": self.sentence(),
            "root": self.by_root,
            "tried": self.tried,
            "findings": self.findings,
        });
        writeln!(out, "{object}")
    }
}

/// Has the next boot's kernel a parameter: a file of its own, which Debian's `update-grub` reads after /etc/default/grub.
pub(super) fn boot_parameter(name: &str, parameter: &str) -> Vec<String> {
    vec![
        "mkdir -p /etc/default/grub.d".to_owned(),
        format!(
            "echo 'GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {parameter}\"' > /etc/default/grub.d/cima-{name}.cfg"
        ),
        "update-grub".to_owned(),
        "reboot".to_owned(),
    ]
}

/// A word of a shell's command line.
pub(super) fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
