// SPDX-License-Identifier: Apache-2.0
//! `cima hook install` and `cima hook uninstall`: every change is known before the first is written.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use cima_hook::{
    HOOK, MOST_SECONDS, RUNTIME, SECONDS_TO_MEASURE, config,
    file::{Place, Sync},
};
use clap::{Args, ValueEnum};

use super::{
    HookError,
    engine::{self, Change, Engine, FormatError, Settings},
};
use crate::{cli::unless_broken_pipe, exit::Outcome, machine::below};

/// No engine's configuration comes near.
const LARGEST: u64 = 1 << 20;

/// Tell container engines of the hook.
///
/// Changes only what is cima's in their files, and says what it did and what has to be restarted. What is as
/// it should be is not touched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima hook install --dry-run
  cima hook install --engine podman --timeout 600
  cima hook install --engine docker --default      containers that name no runtime are judged, too

Exit codes: 0 installed, or it was already, 2 usage or environment: nothing was changed, or what is said before.")]
pub struct InstallArgs {
    #[command(flatten)]
    which: Which,
    /// Whether a container that cimad cannot judge may start: `closed` no, `open` yes and unmeasured
    #[arg(long, value_name = "HOW", default_value = "closed")]
    fail: Fail,
    /// How long cimad may take to measure and judge an image
    #[arg(long, value_name = "SECONDS", default_value_t = SECONDS_TO_MEASURE,
          value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    timeout: u64,
    /// docker: take the runtime for containers that name none
    #[arg(long)]
    default: bool,
    /// Where the hook is
    #[arg(long, value_name = "PATH", default_value = HOOK)]
    hook: String,
    /// Where the runtime for docker and containerd is
    #[arg(long, value_name = "PATH", default_value = RUNTIME)]
    runtime: String,
}

/// Take back what `cima hook install` did.
///
/// Runtimes and hooks of others stay, and so do the programs. Containers that were made with the runtime `cima` need
/// it until they are removed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima hook uninstall
  cima hook uninstall --engine podman --dry-run

Exit codes: 0 removed, or it was not there, 2 usage or environment.")]
pub struct UninstallArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// For which engines; again for another one
    #[arg(long, value_name = "ENGINE", default_value = "all-found")]
    engine: Vec<Choice>,
    /// Another root than /, for images of machines
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/",
        hide_default_value = true
    )]
    root: PathBuf,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Podman,
    CriO,
    Docker,
    Containerd,
    /// Each that is installed
    AllFound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fail {
    Closed,
    Open,
}

impl Which {
    fn all_found(&self) -> bool {
        self.engine.contains(&Choice::AllFound)
    }

    fn engines(&self) -> Vec<Engine> {
        let chosen = |engine: Engine| {
            let choice = match engine {
                Engine::Podman => Choice::Podman,
                Engine::CriO => Choice::CriO,
                Engine::Docker => Choice::Docker,
                Engine::Containerd => Choice::Containerd,
            };
            self.engine.contains(&choice) || (self.all_found() && engine.is_installed(&self.root))
        };
        Engine::ALL
            .into_iter()
            .filter(|&engine| chosen(engine))
            .collect()
    }

    /// What becomes of a file.
    fn edit(
        &self,
        path: &str,
        change: impl FnOnce(Option<&[u8]>) -> Result<Change, FormatError>,
    ) -> Result<Edit, HookError> {
        let path = below(&self.root, path);
        let old = read(&path)?;
        let change = change(old.as_deref()).map_err(|error| HookError::Format {
            path: path.clone(),
            error,
        })?;
        Ok(Edit { path, old, change })
    }
}

/// A file, and what becomes of it.
struct Edit {
    path: PathBuf,
    old: Option<Vec<u8>>,
    change: Change,
}

/// What is to be done, and to be said of it.
#[derive(Default)]
struct Plan {
    edits: Vec<Edit>,
    /// Before the work.
    notes: Vec<String>,
    /// After it.
    then: Vec<String>,
}

pub(super) fn install(args: &InstallArgs) -> Result<Outcome, HookError> {
    let engines = args.which.engines();
    if engines.is_empty() {
        return Err(HookError::NoEngine);
    }
    if args.default && !engines.contains(&Engine::Docker) {
        return Err(HookError::DefaultWithoutDocker);
    }
    is_program(&args.which.root, &args.hook, "--hook")?;
    if engines.iter().any(|engine| !engine.has_hooks()) {
        is_program(&args.which.root, &args.runtime, "--runtime")?;
    }
    let settings = Settings {
        hook: &args.hook,
        runtime: &args.runtime,
        open: args.fail == Fail::Open,
        timeout: args.timeout,
        default: args.default,
    };
    plan_install(&args.which, &engines, &settings)?.carry_out(args.which.dry_run)
}

fn plan_install(
    which: &Which,
    engines: &[Engine],
    settings: &Settings<'_>,
) -> Result<Plan, HookError> {
    let mut plan = Plan::default();
    let mut runtime = false;
    for &engine in engines {
        match which.edit(engine.file(), |old| engine::with(engine, old, settings)) {
            Ok(edit) => plan.add(engine, edit),
            Err(HookError::Format { path, error }) if which.all_found() && error.means_unused() => {
                plan.notes
                    .push(format!("passed over {}: {error}", path.display()));
                continue;
            }
            Err(error) => return Err(error),
        }
        runtime |= !engine.has_hooks();
        plan.then.push(engine.means().to_owned());
    }
    if runtime {
        // First: a runtime that an engine knows must find its settings.
        let edit = which.edit(config::FILE, |old| engine::runtime_toml_with(old, settings))?;
        plan.edits.insert(0, edit);
    }
    if !settings.open {
        plan.then
            .push("while cimad does not run, these containers do not start".to_owned());
    }
    Ok(plan)
}

pub(super) fn uninstall(args: &UninstallArgs) -> Result<Outcome, HookError> {
    let which = &args.which;
    // An engine that was removed may have left its file.
    let engines = match which.all_found() {
        true => Engine::ALL.to_vec(),
        false => which.engines(),
    };
    let mut plan = Plan::default();
    for &engine in &engines {
        let edit = which.edit(engine.file(), |old| engine::without(engine, old))?;
        plan.add(engine, edit);
    }
    let mut needed = false;
    for engine in Engine::ALL {
        if !engine.has_hooks() && !engines.contains(&engine) {
            let old = read(&below(&which.root, engine.file()))?;
            needed |= matches!(engine::runtime(engine, old.as_deref()), Ok(Some(_)));
        }
    }
    if !needed && engines.iter().any(|engine| !engine.has_hooks()) {
        let edit = which.edit(config::FILE, engine::runtime_toml_without)?;
        plan.edits.push(edit);
    }
    plan.carry_out(which.dry_run)
}

impl Plan {
    fn add(&mut self, engine: Engine, edit: Edit) {
        if edit.change != Change::None {
            self.then.push(engine.then().to_owned());
        }
        // podman and CRI-O share theirs.
        if !self.edits.iter().any(|other| other.path == edit.path) {
            self.edits.push(edit);
        }
    }

    fn carry_out(self, dry: bool) -> Result<Outcome, HookError> {
        for note in &self.notes {
            say(note)?;
        }
        for edit in &self.edits {
            if !dry {
                edit.carry_out()?;
            }
            say(&edit.said(dry))?;
        }
        if !dry {
            for then in &self.then {
                say(then)?;
            }
        }
        Ok(Outcome::Good)
    }
}

impl Edit {
    fn carry_out(&self) -> Result<(), HookError> {
        if self.change == Change::None {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(&self.path);
        fs::create_dir_all(directory).map_err(|error| HookError::Directory {
            path: directory.into(),
            error,
        })?;
        let place = Place::open(&self.path, LARGEST)?;
        if place.bytes() != self.old.as_deref() {
            return Err(HookError::Changed(self.path.clone()));
        }
        match &self.change {
            Change::None => {}
            Change::Write(text) => place.write(text.as_bytes(), Sync::Disk)?,
            Change::Remove => place.remove()?,
        }
        Ok(())
    }

    fn said(&self, dry: bool) -> String {
        let path = self.path.display();
        match (&self.change, dry) {
            (Change::None, _) => format!("unchanged {path}"),
            (Change::Write(_), false) => format!("wrote {path}"),
            (Change::Remove, false) => format!("removed {path}"),
            (Change::Remove, true) => format!("would remove {path}"),
            (Change::Write(text), true) => {
                let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
                format!("would write {path}\n{}", lines.join("\n"))
            }
        }
    }
}

/// What is at `path`; nothing in a directory that is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, HookError> {
    if path.parent().is_some_and(|parent| !parent.exists()) {
        return Ok(None);
    }
    Ok(Place::open(path, LARGEST)?.bytes().map(<[u8]>::to_vec))
}

/// Refuses a program that is not there: engines pass over a missing hook in silence.
fn is_program(root: &Path, path: &str, option: &'static str) -> Result<(), HookError> {
    if !Path::new(path).is_absolute() {
        return Err(HookError::Relative(path.into()));
    }
    match program_fault(&below(root, path), root == Path::new("/")) {
        None => Ok(()),
        Some(why) => Err(HookError::Program {
            path: below(root, path),
            why,
            option,
        }),
    }
}

/// Why this is no program that engines should start as root; its owner counts on the machine that it is for.
pub(super) fn program_fault(path: &Path, here: bool) -> Option<&'static str> {
    let Ok(metadata) = fs::metadata(path) else {
        return Some("is not there");
    };
    let mode = metadata.permissions().mode();
    if !metadata.is_file() {
        Some("is not a file")
    } else if mode & 0o111 == 0 {
        Some("is not executable")
    } else if mode & 0o022 != 0 {
        Some("may be written by others than its owner")
    } else if here && metadata.uid() != 0 {
        Some("does not belong to root")
    } else {
        None
    }
}

fn say(line: &str) -> Result<(), HookError> {
    unless_broken_pipe(writeln!(io::stdout(), "{line}")).map_err(HookError::Write)
}
