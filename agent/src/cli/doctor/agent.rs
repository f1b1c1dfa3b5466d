// SPDX-License-Identifier: Apache-2.0
//! The agent itself: its files, its unit, and whether it runs.

use std::fs;

use super::{
    Host,
    page::{Finding, State, word},
};
use crate::{
    config::{ConfigError, SinkKind},
    machine::is_denied,
    preflight::{self, Missing},
};

/// Where systemd looks for units, the administrator's own first.
const UNITS: [&str; 3] = [
    "/etc/systemd/system/cimad.service",
    "/usr/lib/systemd/system/cimad.service",
    "/lib/systemd/system/cimad.service",
];
const LISTER: &str = "lister";
/// What `systemctl enable` makes.
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/cimad.service";
/// There while systemd is the first process (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    let mut findings = vec![configuration(host), policy(host), probes(host)];
    findings.extend(lister(host));
    findings.extend([unit(host), cimad(host)]);
    findings
}

fn configuration(host: &Host<'_>) -> Finding {
    const PART: &str = "configuration";
    let path = host.config_path.display();
    let Some(error) = &host.config_error else {
        return Finding::good(PART, format!("{path} is as it may be"));
    };
    let finding = Finding::failed(PART, error);
    let text = format!("{}; what follows is by the defaults", finding.text);
    let path = word(&host.config_path.to_string_lossy());
    let mend = match error {
        ConfigError::Unreadable { .. } if finding.state == State::Unknown => Vec::new(),
        ConfigError::Unreadable { .. } => {
            vec![format!("install -D -m 644 agent/etc/cimad.toml {path}")]
        }
        ConfigError::Syntax { .. } | ConfigError::Value { .. } => vec![
            format!("editor {path}"),
            format!("cimad --check --config {path}"),
        ],
    };
    Finding { text, ..finding }.mended_by(mend)
}

fn policy(host: &Host<'_>) -> Finding {
    let path = &host.config.policy;
    let shown = word(&path.to_string_lossy());
    Finding::of(
        "policy",
        preflight::policy(&host.machine, path),
        |()| format!("{} is as it may be", path.display()),
        |missing| match missing {
            Missing::Policy { .. } => vec![
                format!("editor {shown}"),
                "systemctl reload cimad".to_owned(),
            ],
            _ => vec![format!(
                "install -D -m 644 policies/default/measurement.toml {shown}"
            )],
        },
    )
}

fn probes(host: &Host<'_>) -> Finding {
    let path = &host.config.probes.object;
    Finding::of(
        "probes",
        preflight::probes(&host.machine, path),
        |()| format!("{} is there", path.display()),
        |_| {
            vec![
                "cargo xtask build".to_owned(),
                format!(
                    "install -D -m 644 target/cima/cima-probes.o {}",
                    word(&path.to_string_lossy())
                ),
            ]
        },
    )
}

/// The object of the sink `kernel`: where the module is, `auto` takes another sink without it.
fn lister(host: &Host<'_>) -> Option<Finding> {
    let is_needed = match host.config.sink.kind {
        SinkKind::Kernel => true,
        SinkKind::Auto => host.has_module(),
        SinkKind::ImaFile | SinkKind::Pcr | SinkKind::None => false,
    };
    is_needed.then(|| match &host.lister {
        Ok(()) => {
            let path = host.config.probes.lister.display();
            Finding::good(LISTER, format!("{path} is there"))
        }
        Err(error) => Finding::failed(LISTER, error).mended_by(install_lister(host)),
    })
}

/// Builds the object and puts it where the configuration says.
pub(super) fn install_lister(host: &Host<'_>) -> Vec<String> {
    let path = word(&host.config.probes.lister.to_string_lossy());
    vec![
        "cargo xtask build module".to_owned(),
        format!("install -D -m 644 target/cima/stage/lib/cima-list.o {path}"),
    ]
}

fn has_unit(host: &Host<'_>) -> bool {
    UNITS.iter().any(|unit| host.machine.path(unit).exists())
}

fn unit(host: &Host<'_>) -> Finding {
    const PART: &str = "unit";
    if !host.machine.path(SYSTEMD).exists() {
        let text = "systemd does not run here: cimad is to be started before the container engines";
        return Finding::note(PART, text);
    }
    const ENABLE: &str = "systemctl enable --now cimad";
    if !has_unit(host) {
        return Finding::lacks(PART, "systemd has no unit cimad.service").mended_by([
            "install -m 644 agent/etc/cimad.service /etc/systemd/system/",
            "systemctl daemon-reload",
            ENABLE,
        ]);
    }
    // Also of a link that points nowhere on this root.
    match fs::symlink_metadata(host.machine.path(ENABLED)) {
        Ok(_) => Finding::good(PART, "cimad.service is enabled"),
        Err(error) if is_denied(&error) => Finding::unknown(PART, format!("{ENABLED}: {error}")),
        Err(_) => Finding::lacks(
            PART,
            "cimad.service is not enabled: cimad does not start at boot",
        )
        .mended_by([ENABLE]),
    }
}

fn cimad(host: &Host<'_>) -> Finding {
    const PART: &str = "cimad";
    let socket = host.machine.path(&host.config.admission.socket);
    let error = match host.ask.cimad(&socket) {
        Ok(()) => return Finding::good(PART, format!("it answers at {}", socket.display())),
        Err(error) => error,
    };
    let mend = match has_unit(host) {
        true => vec![
            "systemctl restart cimad".to_owned(),
            "journalctl -b -u cimad     # why it does not run".to_owned(),
        ],
        false => vec![format!(
            "cimad --check --config {}",
            word(&host.config_path.to_string_lossy())
        )],
    };
    Finding::failed(PART, &error).mended_by(mend)
}
