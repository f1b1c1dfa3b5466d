// SPDX-License-Identifier: Apache-2.0
//! The kernel module: loaded or not, and what it counted.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::json;

use super::{Host, ima, page::Finding};
use crate::{config::SinkKind, measure::Anchorage};

const PART: &str = "module";
/// By which the agent speaks to it.
const DEVICE: &str = "/dev/cima";
const COUNTERS: &str = "/sys/class/misc/cima/counters";
const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// `kmod-bridge/dkms.conf`.
const SOURCE: &str = "/usr/src/cima-0.1.0";
const DKMS: &str = "dkms install cima/0.1.0";
/// As DKMS installs it, compressed as the kernel's own.
const FILES: [&str; 4] = ["cima.ko", "cima.ko.xz", "cima.ko.zst", "cima.ko.gz"];

pub(super) fn is_loaded(host: &Host<'_>) -> bool {
    host.machine.path(DEVICE).exists()
}

pub(super) fn look(host: &Host<'_>) -> Finding {
    if is_loaded(host) {
        return counted(host);
    }
    let text = "cima is not loaded (there is no /dev/cima)";
    let finding = match host.config.sink.kind {
        SinkKind::Kernel => Finding::lacks(PART, text),
        SinkKind::Auto => Finding::note(
            PART,
            format!(
                "{text}: with it entries are in the kernel's list before what was measured runs"
            ),
        ),
        SinkKind::ImaFile | SinkKind::Pcr | SinkKind::None => {
            return Finding::note(PART, format!("{text}, and the configuration does without"))
                .with(json!({"loaded": false}));
        }
    };
    finding
        .mended_by(commands(host))
        .with(json!({"loaded": false}))
}

/// Builds it if it is not built, and loads it, now and at each boot.
pub(super) fn commands(host: &Host<'_>) -> Vec<String> {
    let mut commands = Vec::new();
    if !is_built(host) {
        commands.push("apt-get install dkms pahole linux-headers-$(uname -r)".to_owned());
        if !host.machine.path(SOURCE).exists() {
            commands.push(format!("cp -r kmod-bridge {SOURCE}"));
        }
        commands.push(DKMS.to_owned());
    }
    commands.push("modprobe cima".to_owned());
    commands.push("echo cima > /etc/modules-load.d/cima.conf".to_owned());
    commands
}

fn is_built(host: &Host<'_>) -> bool {
    let release = host.machine.text(RELEASE).unwrap_or_default();
    let directory = Path::new("/lib/modules").join(release).join("updates/dkms");
    let directory = host.machine.path(directory);
    FILES.iter().any(|file| directory.join(file).exists())
}

fn counted(host: &Host<'_>) -> Finding {
    let mut counters: BTreeMap<String, u64> = BTreeMap::new();
    let mut odd = Vec::new();
    let directory = fs::read_dir(host.machine.path(COUNTERS)).into_iter();
    for entry in directory.flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let value = host.machine.text(format!("{COUNTERS}/{name}"));
        match value.ok().and_then(|value| value.parse().ok()) {
            Some(value) => _ = counters.insert(name, value),
            None => odd.push(name),
        }
    }
    odd.sort();
    let shown: Vec<String> = counters
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let facts = json!({"loaded": true, "counters": counters});
    let count = |name: &str| counters.get(name).copied().unwrap_or_default();
    let shown = shown.join(", ");
    let finding = if !odd.is_empty() {
        Finding::unknown(
            PART,
            format!(
                "cima is loaded; no number is in {COUNTERS}/{}",
                odd.join(", ")
            ),
        )
    } else if counters.is_empty() {
        Finding::unknown(
            PART,
            format!("cima is loaded; it shows no counters in {COUNTERS}"),
        )
    } else if count("unmatched") > 0 && count("listed") == 0 {
        Finding::lacks(
            PART,
            format!("cima is loaded, and no IMA rule lists what it says: {shown}"),
        )
        .mended_by(ima::commands(host, Anchorage::Kernel))
    } else {
        Finding::good(PART, format!("cima is loaded: {shown}"))
    };
    finding.with(facts)
}
