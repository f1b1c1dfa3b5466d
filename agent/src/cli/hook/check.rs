// SPDX-License-Identifier: Apache-2.0
//! `cima hook check`: first what lies where, then the only proof: a container is made, and cimad is asked whether it
//! was told. What the engine says is no proof, since engines pass over a missing hook in silence.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use cima_hook::{
    client::{AskError, Cimad},
    config::{self, Config},
};
use clap::Args;
use serde_json::{Value, json};
use tonic::Code;

use super::{
    HookError, command,
    engine::{self, Engine, HookFile},
    install::{program_fault, read},
};
use crate::{
    cli::{unless_broken_pipe, verdict::Paint},
    exit::Outcome,
    machine::{below, is_denied},
};

/// What an engine may take for a command that makes nothing.
const SHORT: Duration = Duration::from_secs(20);
/// For one that makes a container, beyond what the hook may take.
const LONG: Duration = Duration::from_secs(60);
/// For cimad to answer a question.
const ANSWER: Duration = Duration::from_secs(5);
/// No container has this id; whoever says so is cimad.
const NOBODY: &str = "000000000000";
/// How the hook's own words begin.
const WORDS: &str = "cima-hook: ";

/// Find out whether the hook is started with containers.
///
/// Looks at what is installed, then makes a container, asks cimad whether it was announced, and removes it. Only
/// podman and docker can be tried; of CRI-O and containerd it is only looked at what is installed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima hook check
  cima hook check --engine docker --image debian:12
  cima hook check --json | jq .fires

Exit codes: 0 the hook fires, 1 it does not, 2 that could not be tried.")]
pub struct CheckArgs {
    /// Whose containers
    #[arg(long, value_name = "ENGINE", default_value = "podman")]
    engine: Engine,
    /// The image of the container that is made [default: the first that the engine has]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Where cimad listens [default: /run/cima/hook.sock, of a user's own containers /run/cima/hook-UID.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Another root than / for what is installed
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
pub(in crate::cli) struct Finding {
    what: &'static str,
    pub(in crate::cli) good: bool,
    pub(in crate::cli) text: String,
}

/// What is known in the end.
pub(in crate::cli) enum Fires {
    Yes(String),
    No(String),
    NotTried(HookError),
}

pub(super) fn run(args: &CheckArgs) -> Result<Outcome, HookError> {
    let mut findings = Findings::default();
    findings.installed(args.engine, &args.root);
    let cimad = Cimad::at(args.socket.clone())?;
    findings.cimad(&cimad);
    let fires = match try_it(args.engine, args.image.as_deref(), &cimad) {
        Ok(fires) => fires,
        // What is not installed does not fire, tried or not.
        Err(error) if findings.missing => Fires::No(format!(
            "the hook does not fire: it is not installed ({error})"
        )),
        Err(error) => Fires::NotTried(error),
    };
    let said = match args.json {
        true => writeln!(io::stdout(), "{}", findings.json(args.engine, &fires)),
        false => findings.show(&fires),
    };
    unless_broken_pipe(said).map_err(HookError::Write)?;
    match fires {
        Fires::Yes(_) => Ok(Outcome::Good),
        Fires::No(_) => Ok(Outcome::Negative),
        Fires::NotTried(error) => Err(error),
    }
}

/// What was found of an engine.
#[derive(Default)]
pub(in crate::cli) struct Findings {
    pub(in crate::cli) all: Vec<Finding>,
    /// Nothing tells the engine of the hook.
    missing: bool,
    /// The engine is there for another one's sake.
    pub(in crate::cli) unused: bool,
    /// Its file may not be read by this user.
    pub(in crate::cli) denied: bool,
}

impl Findings {
    fn add(&mut self, what: &'static str, good: bool, text: impl Into<String>) {
        self.all.push(Finding {
            what,
            good,
            text: text.into(),
        });
    }

    /// What lies where, on the machine with this root.
    pub(in crate::cli) fn installed(&mut self, engine: Engine, root: &Path) {
        let path = below(root, engine.file());
        let shown = path.display();
        let bytes = match read(&path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.missing = true;
                return self.add("configuration", false, format!("{shown} is not there"));
            }
            Err(error) => {
                self.denied = is_denied(&error);
                return self.add("configuration", false, error.to_string());
            }
        };
        if engine.has_hooks() {
            match HookFile::parse(&bytes) {
                Ok(file) => self.hook_file(root, &path, &file),
                Err(error) => self.add("configuration", false, format!("{shown}: {error}")),
            }
            return;
        }
        match engine::runtime(engine, Some(&bytes)) {
            Ok(Some(runtime)) => {
                self.add(
                    "configuration",
                    true,
                    format!("{shown} has the runtime cima"),
                );
                self.program("runtime", root, &runtime);
                self.settings(root);
            }
            Ok(None) => {
                self.missing = true;
                self.add(
                    "configuration",
                    false,
                    format!("{shown} has no runtime cima"),
                );
            }
            Err(error) => {
                self.unused = error.means_unused();
                self.add("configuration", false, format!("{shown}: {error}"));
            }
        }
    }

    fn hook_file(&mut self, root: &Path, path: &Path, file: &HookFile) {
        let faults = file.faults();
        match faults.is_empty() {
            true => self.add(
                "configuration",
                true,
                format!("{} is for every container", path.display()),
            ),
            false => self.add(
                "configuration",
                false,
                format!("{}: {}", path.display(), faults.join("; ")),
            ),
        }
        if self.program("hook", root, &file.hook.path) {
            let args = file.hook.args.get(1..).unwrap_or_default();
            self.arguments(&below(root, &file.hook.path), args);
        }
    }

    /// What `cima-runtime` adds.
    fn settings(&mut self, root: &Path) {
        match Config::load(&below(root, config::FILE)) {
            Ok(config) => {
                if self.program("hook", root, &config.hook) {
                    self.arguments(&below(root, &config.hook), &config.hook_args);
                }
            }
            Err(error) => self.add("settings", false, error.to_string()),
        }
    }

    fn program(&mut self, what: &'static str, root: &Path, path: &str) -> bool {
        let fault = program_fault(&below(root, path), root == Path::new("/"));
        match fault {
            None => self.add(what, true, format!("{path} can be started")),
            Some(why) => self.add(what, false, format!("{path} {why}")),
        }
        fault.is_none()
    }

    /// The hook itself is asked whether it understands them: with `--version` it does nothing else.
    fn arguments(&mut self, hook: &Path, args: &[String]) {
        let mut all: Vec<&str> = args.iter().map(String::as_str).collect();
        all.push("--version");
        match command::run(&hook.to_string_lossy(), &all, SHORT) {
            // Success alone says nothing: with --fail open the hook forgives all.
            Ok(ran) if ran.success && ran.stdout.starts_with("cima-hook ") => {
                let version = ran.stdout.trim().to_owned();
                self.add(
                    "arguments",
                    true,
                    format!("{version} understands [{}]", args.join(" ")),
                );
            }
            Ok(ran) => {
                let error = ran.stderr.lines().next().unwrap_or("it gave no reason");
                self.add(
                    "arguments",
                    false,
                    format!("the hook does not understand [{}]: {error}", args.join(" ")),
                );
            }
            Err(error) => self.add("arguments", false, error.to_string()),
        }
    }

    fn cimad(&mut self, cimad: &Cimad) {
        match answers(cimad) {
            Ok(()) => self.add(
                "cimad",
                true,
                format!("cimad answers at {}", cimad.socket().display()),
            ),
            Err(error) => self.add("cimad", false, error.to_string()),
        }
    }

    fn show(&self, fires: &Fires) -> io::Result<()> {
        use std::io::IsTerminal as _;
        let mut out = io::stdout().lock();
        let paint = Paint::when(out.is_terminal());
        let label = |good: bool| match good {
            true => paint.good("good:"),
            false => paint.bad("bad:"),
        };
        for finding in &self.all {
            let text = cima_hook::printable(&finding.text);
            writeln!(out, "{} {}: {text}", label(finding.good), finding.what)?;
        }
        match fires {
            Fires::Yes(text) => writeln!(out, "{} {}", label(true), cima_hook::printable(text)),
            Fires::No(text) => writeln!(out, "{} {}", label(false), cima_hook::printable(text)),
            // Said on stderr, with the exit code.
            Fires::NotTried(_) => Ok(()),
        }
    }

    fn json(&self, engine: Engine, fires: &Fires) -> Value {
        let findings: Vec<Value> = self
            .all
            .iter()
            .map(
                |finding| json!({"what": finding.what, "good": finding.good, "text": finding.text}),
            )
            .collect();
        let (fires, text) = match fires {
            Fires::Yes(text) => (Some(true), text.clone()),
            Fires::No(text) => (Some(false), text.clone()),
            Fires::NotTried(error) => (None, error.to_string()),
        };
        let engine = engine.program();
        json!({"engine": engine, "fires": fires, "text": text, "findings": findings})
    }
}

/// Whether it is cimad that listens.
pub(in crate::cli) fn answers(cimad: &Cimad) -> Result<(), AskError> {
    knows(cimad, NOBODY).map(drop)
}

/// Whether cimad was told of this container.
fn knows(cimad: &Cimad, container: &str) -> Result<bool, AskError> {
    match cimad.explain(container, ANSWER) {
        Ok(_) => Ok(true),
        Err(AskError::Refused {
            code: Code::NotFound,
            ..
        }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a container whose program need not run, nor even exist, and asks cimad.
pub(in crate::cli) fn try_it(
    engine: Engine,
    image: Option<&str>,
    cimad: &Cimad,
) -> Result<Fires, HookError> {
    // `podman init` makes the container and starts nothing in it; docker has no such command.
    let (program, create, start): (_, &[&str], _) = match engine {
        Engine::Podman => (
            "podman",
            &["create", "--annotation", "io.cima.check=true"],
            "init",
        ),
        Engine::Docker => ("docker", &["create", "--runtime", engine::NAME], "start"),
        Engine::CriO | Engine::Containerd => {
            return Err(HookError::NotTried(
                "this engine's containers are made by Kubernetes, not from here; look at `cima policy explain` \
                 for one of them"
                    .to_owned(),
            ));
        }
    };
    let image = match image {
        Some(image) => image.to_owned(),
        None => first_image(program)?,
    };
    let directory = tempfile::tempdir().map_err(HookError::Temporary)?;
    let id_file = directory.path().join("id");
    let id_text = id_file.to_string_lossy();
    let mut words = create.to_vec();
    words.extend(["--network", "none", "--cidfile", &id_text, &image, "true"]);
    let created = command::run(program, &words, LONG)?;
    let id = match fs::read_to_string(&id_file) {
        Ok(id) if created.success && !id.trim().is_empty() => id.trim().to_owned(),
        _ => {
            let reason = created.last_words();
            return Err(HookError::NotTried(format!(
                "{program} makes no container of {image}: {reason}"
            )));
        }
    };
    let made = Made { program, id };
    made.start(start, cimad)
}

fn first_image(program: &str) -> Result<String, HookError> {
    let images = command::run(program, &["images", "--format", "{{.ID}}"], SHORT)?;
    if !images.success {
        let reason = images.last_words();
        return Err(HookError::NotTried(format!(
            "{program} does not list its images: {reason}"
        )));
    }
    match images
        .stdout
        .lines()
        .map(str::trim)
        .find(|id| !id.is_empty())
    {
        Some(id) => Ok(id.to_owned()),
        None => Err(HookError::NotTried(format!(
            "{program} has no image here: fetch one, or name one with --image"
        ))),
    }
}

/// A container, which is removed whatever happens.
struct Made {
    program: &'static str,
    id: String,
}

impl Made {
    fn start(&self, start: &str, cimad: &Cimad) -> Result<Fires, HookError> {
        let within = LONG + Duration::from_secs(cima_hook::SECONDS_TO_MEASURE);
        let started = command::run(self.program, &[start, &self.id], within)?;
        // It spoke: no better proof, and what it says may be that cimad does not run.
        if let Some((_, words)) = started.stderr.split_once(WORDS) {
            let words = words.lines().next().unwrap_or_default();
            return Ok(Fires::Yes(format!("the hook fires, and says: {words}")));
        }
        let short: String = self.id.chars().take(12).collect();
        if knows(cimad, &self.id)? {
            return Ok(Fires::Yes(format!(
                "the hook fires: cimad was told of the container {short} that {} made",
                self.program
            )));
        }
        if started.success {
            return Ok(Fires::No(format!(
                "the hook does not fire: {} made the container {short}, and cimad was not told of it",
                self.program
            )));
        }
        let (program, reason) = (self.program, started.last_words());
        Err(HookError::NotTried(format!(
            "{program} does not start the container: {reason}"
        )))
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let removed = command::run(self.program, &["rm", "--force", &self.id], LONG);
        if !removed.is_ok_and(|ran| ran.success) {
            _ = writeln!(
                io::stderr(),
                "cima: the container {} of this check is still there: {} rm --force it",
                self.id,
                self.program
            );
        }
    }
}
