// SPDX-License-Identifier: Apache-2.0
//! The kernel as it was built and booted: what the probes need, and what a module meets.

use std::io;

use serde_json::json;

use super::{
    Host,
    page::{Finding, boot_parameter},
};
use crate::preflight::{self, Missing};

/// How far the kernel is locked down: `none [integrity] confidentiality`.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const EFI: &str = "/sys/firmware/efi";
/// Four bytes of attributes, then 1 or 0 (UEFI specification, 3.3).
const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
const CGROUP: &str = "/sys/fs/cgroup";
/// Debian 12's and 13's kernels have all that is needed.
const OTHER_KERNEL: [&str; 2] = ["apt-get install linux-image-amd64", "reboot"];

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    let machine = &host.machine;
    let other_kernel = |_: &Missing| OTHER_KERNEL.map(str::to_owned).into();
    vec![
        Finding::of(
            "kernel",
            preflight::kernel(machine),
            |release| format!("{release}, which cima knows"),
            other_kernel,
        ),
        lsm(host),
        Finding::of(
            "BTF",
            preflight::btf(machine),
            |()| "the kernel says how its structures are laid out".into(),
            other_kernel,
        ),
        Finding::of(
            "bpffs",
            preflight::bpffs(machine),
            |()| "/sys/fs/bpf is mounted".into(),
            |_| vec!["mount -t bpf bpf /sys/fs/bpf".into()],
        ),
        cgroup(host),
    ]
}

fn lsm(host: &Host<'_>) -> Finding {
    let looked = preflight::lsm(&host.machine);
    let active = match &looked {
        Ok(active) | Err(Missing::BpfLsm { active, .. }) => {
            json!({"active": active.split(',').collect::<Vec<_>>()})
        }
        Err(_) => serde_json::Value::Null,
    };
    let mend = |missing: &Missing| match missing {
        Missing::BpfLsm { parameter, .. } => boot_parameter("lsm", parameter),
        _ => vec!["mount -t securityfs none /sys/kernel/security".into()],
    };
    let good = |active| format!("active are {active}");
    Finding::of("LSM", looked, good, mend).with(active)
}

/// By the container's cgroup its id is known.
fn cgroup(host: &Host<'_>) -> Finding {
    const PART: &str = "cgroup";
    match host.machine.mounted(CGROUP) {
        Ok(Some(kind)) if kind == "cgroup2" => {
            Finding::good(PART, "version 2 is mounted at /sys/fs/cgroup")
        }
        Ok(Some(kind)) => Finding::lacks(
            PART,
            format!("{CGROUP} is {kind} and not cgroup version 2: containers have no ids"),
        )
        .mended_by(boot_parameter(
            "cgroup",
            "systemd.unified_cgroup_hierarchy=1",
        )),
        Ok(None) => Finding::lacks(
            PART,
            "no cgroup version 2 is mounted: containers have no ids",
        )
        .mended_by([format!("mount -t cgroup2 none {CGROUP}")]),
        Err(error) => Finding::unknown(PART, format!("the mounts cannot be read: {error}")),
    }
}

/// What a module meets when it is loaded.
pub(super) fn locks(host: &Host<'_>) -> Vec<Finding> {
    vec![lockdown(host), secure_boot(host)]
}

fn lockdown(host: &Host<'_>) -> Finding {
    const PART: &str = "lockdown";
    let text = match host.machine.text(LOCKDOWN) {
        Ok(text) => text,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && host.machine.path(preflight::LSM).exists() =>
        {
            return Finding::note(PART, "this kernel cannot be locked down");
        }
        Err(error) => return Finding::unknown(PART, format!("{LOCKDOWN}: {error}")),
    };
    let chosen = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    let (level, finding) = match chosen.map(|(level, _)| level) {
        Some(level @ "none") => (level, Finding::good(PART, "none")),
        Some(level @ "integrity") => (
            level,
            Finding::note(PART, "integrity: the kernel loads signed modules only"),
        ),
        Some(level @ "confidentiality") => (
            level,
            Finding::lacks(
                PART,
                "confidentiality: the kernel refuses the probes bpf_probe_read_kernel, and loads signed modules only",
            )
            .mended_by([
                "sed -i 's/ *lockdown=confidentiality//g' /etc/default/grub",
                "update-grub",
                "reboot",
            ]),
        ),
        _ => return Finding::unknown(PART, format!("{LOCKDOWN} says {text:?}")),
    };
    finding.with(json!({"level": level}))
}

fn secure_boot(host: &Host<'_>) -> Finding {
    const PART: &str = "Secure Boot";
    if !host.machine.path(EFI).exists() {
        return Finding::note(PART, "off: this machine was not booted by UEFI");
    }
    let text = match host.machine.text(SECURE_BOOT) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Finding::note(
                PART,
                "the firmware does not have it, or efivarfs is not mounted",
            );
        }
        Err(error) => return Finding::unknown(PART, format!("{SECURE_BOOT}: {error}")),
    };
    match text.as_bytes() {
        [_, _, _, _, 0] => Finding::good(PART, "off").with(json!({"on": false})),
        [_, _, _, _, 1] => Finding::note(
            PART,
            "on: Debian's kernels load signed modules only, and DKMS's key must be enrolled for that of cima",
        )
        .mended_by([
            "mokutil --test-key /var/lib/dkms/mok.pub     # whether it is enrolled",
            "mokutil --import /var/lib/dkms/mok.pub       # asks for a password; reboot, Enroll MOK, the same password",
        ])
        .with(json!({"on": true})),
        _ => Finding::unknown(PART, format!("{SECURE_BOOT} is not five bytes that end with 0 or 1")),
    }
}
