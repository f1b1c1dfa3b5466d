// SPDX-License-Identifier: Apache-2.0
//! Container engines: which are here, whether their hook is installed as it should be, and, if it is to be tried, whether it
//! fires. The looking and the trying are `cima hook check`'s.

use cima_hook::{HOOK, RUNTIME};
use serde_json::json;

use super::{
    Host,
    page::{Finding, State},
};
use crate::cli::hook::{Engine, Findings, Fires};

/// From the sources, as README.md has it.
const PROGRAMS: &str = "install -D -m 755 -t /usr/libexec/cima target/cima/stage/bin/cima-hook target/cima/stage/bin/cima-runtime";

/// podman may be told to read others than cima's.
const OTHER_HOOKS: &str = "grep -rs hooks_dir /etc/containers /usr/share/containers     # to have /usr/share/containers/oci/hooks.d";

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    let root = host.machine.root();
    let engines: Vec<Engine> = Engine::ALL
        .into_iter()
        .filter(|engine| engine.is_installed(root))
        .collect();
    if engines.is_empty() {
        let text = "none of podman, CRI-O, docker and containerd is installed here";
        return vec![Finding::note("engines", text)];
    }
    engines
        .into_iter()
        .map(|engine| of_one(host, engine))
        .collect()
}

fn of_one(host: &Host<'_>, engine: Engine) -> Finding {
    let part = engine.program();
    let mut found = Findings::default();
    found.installed(engine, host.machine.root());
    let bad: Vec<&str> = found
        .all
        .iter()
        .filter(|finding| !finding.good)
        .map(|finding| finding.text.as_str())
        .collect();
    if found.unused {
        return Finding::note(part, format!("not used by itself: {}", bad.join("; ")))
            .with(json!({"installed": false, "fires": null}));
    }
    if !bad.is_empty() {
        // Those of root alone, for others to look at.
        let state = match !host.machine.by_root() && found.denied {
            true => State::Unknown,
            false => State::Lacks,
        };
        return Finding::new(part, state, bad.join("; "))
            .mended_by(commands(host, engine))
            .with(json!({"installed": false, "fires": null}));
    }
    if !host.tries {
        // Of these only the containers that name the runtime are judged.
        let installed = match engine.has_hooks() {
            true => "the hook is installed",
            false => engine.means(),
        };
        let text = format!(
            "{installed}; whether it fires is known when it is tried: cima hook check --engine {}",
            engine.option()
        );
        return Finding::good(part, text).with(json!({"installed": true, "fires": null}));
    }
    tried(host, engine)
}

fn commands(host: &Host<'_>, engine: Engine) -> Vec<String> {
    let is_there = |program| host.machine.path(program).exists();
    let mut commands = Vec::new();
    if !is_there(HOOK) || !(engine.has_hooks() || is_there(RUNTIME)) {
        commands.push(PROGRAMS.to_owned());
    }
    commands.push(format!("cima hook install --engine {}", engine.option()));
    commands.extend(again(engine).map(str::to_owned));
    commands
}

/// Has the engine read its configuration again; podman does with each container.
fn again(engine: Engine) -> Option<&'static str> {
    match engine {
        Engine::Podman => None,
        Engine::CriO => Some("systemctl restart crio"),
        Engine::Docker => Some("systemctl reload docker"),
        Engine::Containerd => Some("systemctl restart containerd"),
    }
}

fn tried(host: &Host<'_>, engine: Engine) -> Finding {
    let part = engine.program();
    let fires = host.ask.fires(engine, &host.config.admission.socket);
    let (state, fires, text) = match fires {
        Ok(Fires::Yes(text)) => (State::Good, Some(true), text),
        Ok(Fires::No(text)) => (State::Lacks, Some(false), text),
        Ok(Fires::NotTried(error)) | Err(error) => (State::Unknown, None, error.to_string()),
    };
    let finding = Finding::new(part, state, text).with(json!({"installed": true, "fires": fires}));
    match state {
        // Its file is as it should be: the engine did not read it, or reads others.
        State::Lacks => finding.mended_by([again(engine).unwrap_or(OTHER_HOOKS)]),
        _ => finding,
    }
}
