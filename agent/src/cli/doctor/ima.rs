// SPDX-License-Identifier: Apache-2.0
//! The kernel's own IMA: what can be known of its rules, what its list has, and whether it extends the TPM. A kernel that does not let
//! its policy be read shows by its list alone what it has rules for.

use std::io;

use serde_json::json;

use super::{
    Host,
    page::{Finding, State},
    sink,
    tpm::FIRMWARE,
};
use crate::{
    config::SinkKind,
    machine::is_denied,
    measure::Anchorage,
    preflight,
    sink::{KERNEL_RULE, Listed, SinkError, ima_file_rule, is_extended},
};

/// Readable only with `CONFIG_IMA_READ_POLICY`.
const POLICY: &str = "/sys/kernel/security/ima/policy";
/// What systemd loads at boot.
const POLICY_FILE: &str = "/etc/ima/ima-policy";

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    let is_there = preflight::ima(&host.machine);
    let mut findings = Vec::new();
    if let Err(missing) = is_there {
        let mend = ["apt-get install linux-image-amd64", "reboot"];
        findings.push(Finding::failed("IMA", &missing).mended_by(mend));
        return findings;
    }
    findings.push(list(&host.listed));
    if let Some(warning) = preflight::stale_digests(&host.machine) {
        findings.push(Finding::note("IMA", warning));
    }
    findings.extend(rules(host));
    findings.push(tpm(host));
    findings
}

fn list(listed: &Result<Listed, SinkError>) -> Finding {
    const PART: &str = "IMA";
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => return Finding::unknown(PART, error.to_string()),
    };
    let sinks: Vec<&str> = listed.sinks.iter().map(|sink| sink.name()).collect();
    let ours = match (listed.ours, sinks.as_slice()) {
        (0, _) => "none of them cima's".to_owned(),
        (ours, []) => format!("{ours} of them cima's"),
        (ours, sinks) => format!("{ours} of them cima's (sink {})", sinks.join(", ")),
    };
    let entries = listed.entries;
    let noun = if entries == 1 { "entry" } else { "entries" };
    Finding::good(PART, format!("its list has {entries} {noun}, {ours}"))
        .with(json!({"entries": entries, "cima": listed.ours, "sinks": sinks}))
}

/// For the sinks that the configuration may come to.
fn rules(host: &Host<'_>) -> Vec<Finding> {
    let wanted: &[Anchorage] = match host.config.sink.kind {
        SinkKind::Kernel => &[Anchorage::Kernel],
        SinkKind::ImaFile => &[Anchorage::ImaFile],
        SinkKind::Auto if host.has_module() => &[Anchorage::Kernel, Anchorage::ImaFile],
        SinkKind::Auto => &[Anchorage::ImaFile],
        SinkKind::Pcr | SinkKind::None => &[],
    };
    wanted.iter().map(|sink| rule(host, *sink)).collect()
}

/// The rule that has the kernel list what a sink gives it.
fn line(host: &Host<'_>, sink: Anchorage) -> String {
    match sink {
        Anchorage::Kernel => KERNEL_RULE.to_owned(),
        _ => ima_file_rule(host.config.sink.ima_owner),
    }
}

fn rule(host: &Host<'_>, sink: Anchorage) -> Finding {
    const PART: &str = "IMA rule";
    let (name, line) = (sink.name(), line(host, sink));
    let finding = |state, text: String| {
        Finding::new(PART, state, format!("for the sink {name}: {text}"))
            .with(json!({"sink": name, "rule": line}))
    };
    if host.has_listed(sink) {
        return finding(State::Good, "the kernel has listed what it gives".into());
    }
    // With `auto` another sink does.
    let unless_auto = |state| match host.config.sink.kind {
        SinkKind::Auto => State::Note,
        _ => state,
    };
    let (state, text) = match host.machine.text(POLICY) {
        Ok(policy) if has_line(&policy, &line) => {
            return finding(State::Good, format!("the kernel's policy has `{line}`"));
        }
        Ok(_) => (State::Lacks, format!("the kernel's policy lacks `{line}`")),
        Err(_) if sink::was_tried(host, sink) => (
            State::Lacks,
            "it was tried: the kernel does not list what the sink gives".into(),
        ),
        Err(error) => {
            let why = unreadable(host, &error);
            (
                State::Unknown,
                format!("{why}; whether there is one is known when it is tried: cima doctor --try"),
            )
        }
    };
    finding(unless_auto(state), text).mended_by(commands(host, sink))
}

fn unreadable(host: &Host<'_>, error: &io::Error) -> String {
    match (is_denied(error), host.machine.by_root()) {
        (true, true) => {
            "this kernel does not let its policy be read (CONFIG_IMA_READ_POLICY)".into()
        }
        _ => format!("{POLICY} cannot be read: {error}"),
    }
}

fn has_line(policy: &str, rule: &str) -> bool {
    policy.lines().any(|line| line.trim() == rule)
}

/// Puts the rule where the next boot finds it, and into the running kernel, which takes one policy a boot.
pub(super) fn commands(host: &Host<'_>, sink: Anchorage) -> Vec<String> {
    let line = line(host, sink);
    let file = host.machine.text(POLICY_FILE).unwrap_or_default();
    if has_line(&file, &line) {
        return vec![format!("reboot     # {POLICY_FILE} has the rule already")];
    }
    let mut commands = match file.is_empty() {
        true => vec![
            "mkdir -p /etc/ima".to_owned(),
            format!("echo '{line}' > {POLICY_FILE}"),
        ],
        // The first that matches counts.
        false => vec![format!("sed -i '1i {line}' {POLICY_FILE}")],
    };
    commands.push(format!(
        "cat {POLICY_FILE} > {POLICY}     # once in a boot; if it is refused: reboot"
    ));
    commands
}

fn tpm(host: &Host<'_>) -> Finding {
    const PART: &str = "IMA and TPM";
    match is_extended(&host.machine) {
        Ok(()) => Finding::good(PART, "IMA extends PCR 10"),
        Err(error) if matches!(host.config.sink.kind, SinkKind::Kernel | SinkKind::ImaFile) => {
            Finding::lacks(PART, error.to_string()).mended_by([FIRMWARE])
        }
        Err(error) => Finding::note(PART, error.to_string()),
    }
}
