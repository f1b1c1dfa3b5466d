// SPDX-License-Identifier: Apache-2.0
//! Which sink. `auto` takes the first that works, from the one that vouches for most to none at all. A list that was begun
//! goes on as it began: an anchor cannot be changed without a break.

use std::{io, path::Path};

use super::{
    HOST_LIST, NoSink, PcrSink, Sink, SinkError,
    device::Device,
    host::HostSink,
    ima_file::Files,
    rules::{is_extended, kernel_ima_entries, pcr_rule},
};
use crate::{
    config::{Config, SinkKind},
    machine::Machine,
    measure::Anchorage,
    probes::Lister,
};

/// In which `auto` tries them; what remains is none.
pub(crate) const ORDER: [Anchorage; 3] = [Anchorage::Kernel, Anchorage::ImaFile, Anchorage::Pcr];

/// The one that a configuration asks for; of `auto` none.
pub(crate) fn named(kind: SinkKind) -> Option<Anchorage> {
    match kind {
        SinkKind::Auto => None,
        SinkKind::Kernel => Some(Anchorage::Kernel),
        SinkKind::ImaFile => Some(Anchorage::ImaFile),
        SinkKind::Pcr => Some(Anchorage::Pcr),
        SinkKind::None => Some(Anchorage::None),
    }
}

/// The sink, and why.
pub struct Choice {
    /// It works.
    pub sink: Box<dyn Sink>,
    /// What has the kernel list, with the sink `kernel`: the kernel takes it.
    pub lister: Option<Lister>,
    /// In words, for the log.
    pub why: String,
}

/// Opens the sink that `config` asks for. This boot's list, if there is one, was begun with `kept`.
///
/// # Errors
/// It does not work. Of `auto`: none does, though there is a TPM, or the one does not that the list was begun with.
pub fn choose(config: &Config, kept: Option<Anchorage>) -> Result<Choice, SinkError> {
    let chosen = |anchorage, why: &str| {
        open(anchorage, config).map(|(sink, lister)| Choice {
            sink,
            lister,
            why: why.to_owned(),
        })
    };
    match (named(config.sink.kind), kept) {
        (Some(anchorage), _) => chosen(anchorage, "it is what the configuration says"),
        // Nothing vouches for it so far: whatever works is better, and a break is what it is.
        (None, Some(kept)) if kept != Anchorage::None => {
            let choice = chosen(kept, "this boot's list was begun so");
            choice.map_err(|source| SinkError::Kept {
                kept: kept.name(),
                source: Box::new(source),
            })
        }
        (None, _) => first(config),
    }
}

/// The first that works.
fn first(config: &Config) -> Result<Choice, SinkError> {
    let mut others = Vec::new();
    for anchorage in ORDER {
        match open(anchorage, config) {
            Ok((sink, lister)) => {
                return Ok(Choice {
                    sink,
                    lister,
                    why: why(&others),
                });
            }
            // A TPM that is there and does not answer yet must not leave the whole boot without an anchor.
            Err(error) if anchorage == Anchorage::Pcr && !is_absent(&error) => return Err(error),
            Err(error) => others.push(format!("not {}: {error}", anchorage.name())),
        }
    }
    Ok(Choice {
        sink: Box::new(NoSink),
        lister: None,
        why: why(&others),
    })
}

fn why(others: &[String]) -> String {
    if others.is_empty() {
        return "it is the best there is".to_owned();
    }
    others.join("; ")
}

fn is_absent(error: &SinkError) -> bool {
    matches!(error, SinkError::Device { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn open(
    anchorage: Anchorage,
    config: &Config,
) -> Result<(Box<dyn Sink>, Option<Lister>), SinkError> {
    let sink: Box<dyn Sink> = match anchorage {
        Anchorage::Kernel => {
            let device = Device::open()?;
            is_extended(&Machine::here())?;
            // Before the kernel's list says that this is the sink: `auto` may come to another.
            let lister = Lister::try_it(&config.probes.lister)?;
            let sink = HostSink::open(device, Path::new(HOST_LIST))?;
            return Ok((Box::new(sink), Some(lister)));
        }
        Anchorage::ImaFile => {
            is_extended(&Machine::here())?;
            let files = Files::new(config.sink.ima_owner)?;
            Box::new(HostSink::open(files, Path::new(HOST_LIST))?)
        }
        Anchorage::Pcr => {
            let sink = &config.sink;
            let warning = pcr_rule(sink.pcr, kernel_ima_entries(&Machine::here()))?;
            // Of a PCR that is asked for by name it was said before.
            if let Some(warning) = warning.filter(|_| sink.kind == SinkKind::Auto) {
                tracing::warn!("PCR {} {warning}", sink.pcr);
            }
            Box::new(PcrSink::open(&sink.tpm, sink.pcr)?)
        }
        Anchorage::None => Box::new(NoSink),
    };
    Ok((sink, None))
}
