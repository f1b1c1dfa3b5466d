// SPDX-License-Identifier: Apache-2.0
//! `cima doctor`: what this host has of all that cima can use, and the command that mends each lack. One file for each part of a
//! host; `page` is how it is said. Looks by the same rules as `crate::preflight` and `crate::sink`, and changes nothing, but for `--try`.

mod agent;
mod engines;
mod ima;
mod kernel;
mod module;
mod page;
mod sink;
#[cfg(test)]
mod tests;
mod tpm;

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use cima_hook::client::{AskError, Cimad};
use clap::Args;
use ima_log::{Digest, HashAlgorithm};

use self::page::{Finding, Page};
use super::{
    hook::{self, Engine, Fires, HookError},
    source::BOOT_ID,
    unless_broken_pipe,
    verdict::Paint,
};
use crate::{
    config::{Config, ConfigError, DEFAULT_PATH, SinkKind},
    exit::Outcome,
    ledger::anchored_by,
    machine::Machine,
    measure::Anchorage,
    probes::{Lister, ListerError},
    sink::{HOST_LIST, Listed, PcrSink, Sink as _, SinkError, choose},
};

/// Say what this host lacks, and the commands that mend it.
///
/// Looks at the kernel, IMA, the TPM, the module, container engines and cimad, and says which sink cimad would choose. Any user may
/// ask; what only root may look at is said. The commands are for Debian; those that name files of cima's sources are for their directory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima doctor
  cima doctor --try                 choose the sink, and make a container with each engine
  cima doctor --json | jq -r '.findings[] | select(.state == \"lacks\") | .mend[]'

Whether the kernel lists what a sink gives it is known only when it is tried, and the try leaves
an entry cima-sink:... in the kernel's list for the rest of the boot.

Exit codes: 0 nothing lacks, 1 something lacks, 2 usage or environment.")]
pub struct DoctorArgs {
    /// cimad's configuration
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Find out by trying, as root, what cannot be looked at: which sink works, and whether hooks fire
    #[arg(long = "try", conflicts_with = "root")]
    tries: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Another root than / for all files
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// Why nothing is said of the host.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Not privileged.
    #[error("--try is for root: it gives the kernel an entry to list, and makes containers")]
    Root,
    /// The output failed.
    #[error("cannot write to standard output: {0}")]
    Write(#[source] io::Error),
}

/// What is asked of devices, sockets and programs, and not read from files.
trait Ask {
    /// In which banks the TPM has the PCR.
    fn banks(&self, tcti: &str, pcr: u32) -> Result<Vec<HashAlgorithm>, SinkError>;

    /// Whether cimad listens there.
    fn cimad(&self, socket: &Path) -> Result<(), AskError>;

    /// Whether the object of the sink `kernel` is whole.
    fn lister(&self, path: &Path) -> Result<(), ListerError>;

    /// Has a sink chosen, and why.
    fn choose(
        &self,
        config: &Config,
        kept: Option<Anchorage>,
    ) -> Result<(Anchorage, String), SinkError>;

    /// Makes a container.
    fn fires(&self, engine: Engine, socket: &Path) -> Result<Fires, HookError>;
}

/// This machine's.
struct Here;

impl Ask for Here {
    fn banks(&self, tcti: &str, pcr: u32) -> Result<Vec<HashAlgorithm>, SinkError> {
        let values = PcrSink::open(tcti, pcr)?.read()?;
        Ok(values.iter().map(Digest::algorithm).collect())
    }

    fn cimad(&self, socket: &Path) -> Result<(), AskError> {
        hook::answers(&Cimad::at(Some(socket.to_owned()))?)
    }

    fn lister(&self, path: &Path) -> Result<(), ListerError> {
        Lister::read(path).map(drop)
    }

    fn choose(
        &self,
        config: &Config,
        kept: Option<Anchorage>,
    ) -> Result<(Anchorage, String), SinkError> {
        choose(config, kept).map(|choice| (choice.sink.anchorage(), choice.why))
    }

    fn fires(&self, engine: Engine, socket: &Path) -> Result<Fires, HookError> {
        hook::try_it(engine, None, &Cimad::at(Some(socket.to_owned()))?)
    }
}

/// What is looked at.
struct Host<'a> {
    machine: Machine,
    ask: &'a dyn Ask,
    config: Config,
    config_path: PathBuf,
    /// Then `config` is the default.
    config_error: Option<ConfigError>,
    /// What this boot's list was begun with; or why that is not known.
    kept: Result<Option<Anchorage>, String>,
    /// Whether to try what cannot be looked at.
    tries: bool,
    /// The sink that was chosen, if it was tried.
    tried: Option<Result<(Anchorage, String), SinkError>>,
    /// What the kernel's list has, after that.
    listed: Result<Listed, SinkError>,
    /// The PCR's; `None`: no sink asks for it.
    banks: Option<Result<Vec<HashAlgorithm>, SinkError>>,
    /// The object of the sink `kernel`.
    lister: Result<(), ListerError>,
}

impl<'a> Host<'a> {
    fn look(machine: Machine, config: &Path, ask: &'a dyn Ask, tries: bool) -> Self {
        let (config_path, read) = (config, Config::read(&machine.path(config)));
        let (config, config_error) = match read {
            Ok((config, _)) => (config, None),
            Err(error) => (Config::default(), Some(error)),
        };
        let kept = kept(&machine, &config);
        let sink = &config.sink;
        let tried = match &kept {
            Ok(kept) if tries => Some(ask.choose(&config, *kept)),
            _ => None,
        };
        let banks = matches!(sink.kind, SinkKind::Auto | SinkKind::Pcr)
            .then(|| ask.banks(&machine.tcti(&sink.tpm), sink.pcr));
        Self {
            ask,
            config_path: config_path.to_owned(),
            config_error,
            kept,
            tries,
            tried,
            listed: Listed::read(&machine.path(HOST_LIST)),
            banks,
            lister: ask.lister(&machine.path(&config.probes.lister)),
            config,
            machine,
        }
    }

    fn has_module(&self) -> bool {
        module::is_loaded(self)
    }

    /// Whether the kernel's list has, of this boot, what this sink says of itself.
    fn has_listed(&self, sink: Anchorage) -> bool {
        let listed = self.listed.as_ref();
        listed.is_ok_and(|listed| listed.sinks.contains(&sink))
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = kernel::look(self);
        findings.extend(ima::look(self));
        findings.extend(tpm::look(self));
        findings.push(sink::look(self));
        findings.push(module::look(self));
        findings.extend(kernel::locks(self));
        findings.extend(engines::look(self));
        findings.extend(agent::look(self));
        findings
    }

    fn page(&self) -> Page {
        Page {
            findings: self.findings(),
            by_root: self.machine.by_root(),
            tried: self.tries,
        }
    }
}

fn kept(machine: &Machine, config: &Config) -> Result<Option<Anchorage>, String> {
    let boot = machine.text(BOOT_ID);
    let boot = boot.map_err(|error| format!("{BOOT_ID}: {error}"))?;
    let directory = machine.path(&config.state_dir);
    // To whoever may not look into it a list seems not to be there.
    if let Err(error) = std::fs::read_dir(&directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(format!("{}: {error}", directory.display()));
    }
    anchored_by(&directory, &boot).map_err(|error| error.to_string())
}

/// Runs the command.
///
/// # Errors
/// See [`DoctorError`].
pub fn run(args: &DoctorArgs) -> Result<Outcome, DoctorError> {
    let machine = Machine::at(&args.root);
    if args.tries && !machine.by_root() {
        return Err(DoctorError::Root);
    }
    let host = Host::look(machine, &args.config, &Here, args.tries);
    let page = host.page();
    let mut out = io::stdout().lock();
    let said = match args.json {
        true => page.json(&mut out),
        false => {
            let paint = Paint::when(out.is_terminal());
            page.text(&mut out, paint)
        }
    };
    unless_broken_pipe(said).map_err(DoctorError::Write)?;
    Ok(match page.is_good() {
        true => Outcome::Good,
        false => Outcome::Negative,
    })
}
