// SPDX-License-Identifier: Apache-2.0
//! The sink that cimad would choose, and why: foretold in the order of `crate::sink::choose`, or chosen, if it is to be tried.

use std::io;

use serde_json::json;

use super::{
    Host, agent, ima, module,
    page::{Finding, State},
};
use crate::{
    config::SinkKind,
    machine::is_denied,
    measure::Anchorage,
    preflight::Missing,
    sink::{ORDER, SinkError, is_extended, kernel_ima_entries, named, pcr_rule},
};

const PART: &str = "sink";

/// Whether a sink works.
enum Works {
    Yes,
    /// And why.
    No(String),
    /// What has to be so.
    If(String),
    /// It does not, and cimad does not start with another.
    Fails(String),
}

pub(super) fn look(host: &Host<'_>) -> Finding {
    if let Some(tried) = &host.tried {
        return chosen(host, tried);
    }
    let foretold = match (named(host.config.sink.kind), &host.kept) {
        (Some(sink), _) => one(host, sink, "as the configuration says"),
        (None, Err(error)) => {
            return Finding::unknown(
                PART,
                format!("what this boot's list was begun with cannot be read: {error}"),
            );
        }
        (None, Ok(Some(sink))) if *sink != Anchorage::None => {
            one(host, *sink, "as this boot's list was begun")
        }
        (None, Ok(_)) => first(host),
    };
    let kept = host.kept.as_ref().ok().copied().flatten();
    let chosen = foretold.sink.map(Anchorage::name);
    let candidates: Vec<_> = foretold.candidates.iter().map(|one| one.name()).collect();
    Finding::new(PART, foretold.state, foretold.text).with(json!({
        "configured": configured(host),
        "kept": kept.map(Anchorage::name),
        "chosen": chosen,
        "candidates": candidates,
    }))
}

fn configured(host: &Host<'_>) -> &'static str {
    named(host.config.sink.kind).map_or("auto", Anchorage::name)
}

/// Whether this sink gave the kernel something to list: `crate::sink::choose` stops at the first that works.
pub(super) fn was_tried(host: &Host<'_>, sink: Anchorage) -> bool {
    // What is in no place comes after all.
    let place = |sink: &Anchorage| ORDER.iter().position(|other| other == sink);
    let comes_before = |chosen| place(chosen).is_none_or(|at| Some(at) >= place(&sink));
    let came_to = match &host.tried {
        None | Some(Err(SinkError::NoModule)) => return false,
        Some(Ok((chosen, _))) => comes_before(chosen),
        Some(Err(_)) => true,
    };
    let kept = host.kept.as_ref().ok().copied().flatten();
    let only = named(host.config.sink.kind).or(kept.filter(|kept| *kept != Anchorage::None));
    let has_kernel = || host.has_module() && host.lister.is_ok();
    let could = is_extended(&host.machine).is_ok() && (sink != Anchorage::Kernel || has_kernel());
    could && only.map_or(came_to, |only| only == sink)
}

/// What was tried.
fn chosen(host: &Host<'_>, tried: &Result<(Anchorage, String), SinkError>) -> Finding {
    match tried {
        Ok((sink, why)) => {
            let state = match sink {
                Anchorage::None => State::Note,
                _ => State::Good,
            };
            let name = sink.name();
            Finding::new(PART, state, format!("{name} was tried and works: {why}")).with(json!({
                "configured": configured(host),
                "chosen": name,
                "why": why,
            }))
        }
        Err(error) => Finding::failed(PART, error).mended_by(mend(host, error)),
    }
}

fn mend(host: &Host<'_>, error: &SinkError) -> Vec<String> {
    match error {
        SinkError::NoModule => module::commands(host),
        SinkError::Lister(_) => agent::install_lister(host),
        SinkError::Unlisted { .. } if host.config.sink.kind == SinkKind::Kernel => {
            ima::commands(host, Anchorage::Kernel)
        }
        SinkError::Unlisted { .. } => ima::commands(host, Anchorage::ImaFile),
        // Of what the list was begun with only this can be mended without a reboot.
        SinkError::Kept { source, .. } if matches!(**source, SinkError::Lister(_)) => {
            agent::install_lister(host)
        }
        SinkError::Kept { .. } => vec!["reboot     # another sink may be chosen then".into()],
        _ => Vec::new(),
    }
}

struct Foretold {
    state: State,
    /// If it is sure.
    sink: Option<Anchorage>,
    /// All that it may come to.
    candidates: Vec<Anchorage>,
    text: String,
}

/// No other is tried.
fn one(host: &Host<'_>, sink: Anchorage, why: &str) -> Foretold {
    let name = sink.name();
    let (state, text) = match works(host, sink) {
        Works::Yes if sink == Anchorage::None => (
            State::Note,
            format!("{name}, {why}: nothing vouches for the list"),
        ),
        Works::Yes => (State::Good, format!("{name}, {why}")),
        Works::If(what) => (State::Unknown, format!("{name}, {why}: it works if {what}")),
        // What it lacks is said where it is looked at.
        Works::No(error) | Works::Fails(error) => (
            State::Note,
            format!("{name}, {why}; it does not work: {error}"),
        ),
    };
    Foretold {
        state,
        sink: (state == State::Good || sink == Anchorage::None).then_some(sink),
        candidates: vec![sink],
        text,
    }
}

/// The first that works.
fn first(host: &Host<'_>) -> Foretold {
    let (mut candidates, mut ifs, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for sink in ORDER {
        let name = sink.name();
        match works(host, sink) {
            Works::Yes => {
                candidates.push(sink);
                return with(candidates, &ifs, &others);
            }
            Works::If(what) => {
                candidates.push(sink);
                ifs.push(format!("{name} if {what}"));
            }
            Works::No(error) => others.push(format!("not {name}: {error}")),
            Works::Fails(error) => {
                others.push(format!(
                    "not {name}, and then cimad does not start: {error}"
                ));
                return with(candidates, &ifs, &others);
            }
        }
    }
    candidates.push(Anchorage::None);
    with(candidates, &ifs, &others)
}

fn with(candidates: Vec<Anchorage>, ifs: &[String], others: &[String]) -> Foretold {
    let last = candidates.last().copied();
    let others = match others {
        [] => String::new(),
        others => format!(" ({})", others.join("; ")),
    };
    let sure = last.filter(|_| ifs.len() < candidates.len());
    let (state, text) = match (sure, ifs) {
        (None, []) => (State::Note, format!("no sink works{others}")),
        (Some(Anchorage::None), []) => (
            State::Note,
            format!("none: nothing would vouch for the list{others}"),
        ),
        (Some(sink), []) => (State::Good, format!("{}{others}", sink.name())),
        (sure, ifs) => {
            let last = sure.map_or_else(|| "none works".into(), |sink| sink.name().to_owned());
            (
                State::Unknown,
                format!("{}, else {last}{others}", ifs.join(", else ")),
            )
        }
    };
    Foretold {
        state,
        sink: sure.filter(|_| ifs.is_empty()),
        candidates,
        text,
    }
}

fn works(host: &Host<'_>, sink: Anchorage) -> Works {
    match sink {
        Anchorage::Kernel if !host.has_module() => Works::No(SinkError::NoModule.to_string()),
        Anchorage::Kernel | Anchorage::ImaFile => {
            if let Err(error) = is_extended(&host.machine) {
                Works::No(error.to_string())
            } else if let (Anchorage::Kernel, Err(error)) = (sink, &host.lister) {
                // In the words of `SinkError::Lister`.
                Works::No(format!("the kernel cannot list what is measured: {error}"))
            } else if host.has_listed(sink) {
                Works::Yes
            } else {
                Works::If("an IMA rule lists what it gives (known when it is tried)".into())
            }
        }
        Anchorage::Pcr => pcr(host),
        Anchorage::None => Works::Yes,
    }
}

fn pcr(host: &Host<'_>) -> Works {
    if let Err(refused) = pcr_rule(host.config.sink.pcr, kernel_ima_entries(&host.machine)) {
        return Works::Fails(Missing::from(refused).to_string());
    }
    match &host.banks {
        None => Works::If("the TPM answers".into()),
        Some(Ok(_)) => Works::Yes,
        Some(Err(error)) if is_denied(error) => Works::If("the TPM answers root".into()),
        Some(Err(error @ SinkError::Device { source, .. }))
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Works::No(error.to_string())
        }
        Some(Err(error)) => Works::Fails(error.to_string()),
    }
}
