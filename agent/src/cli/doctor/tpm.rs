// SPDX-License-Identifier: Apache-2.0
//! The TPM: whether it is there, what its banks have, and whether the agent can use it.

use std::{collections::BTreeMap, fs};

use serde_json::json;

use super::{
    Host,
    page::{Finding, word},
};
use crate::{
    config::{DEFAULT_PCR, SinkKind},
    machine::is_denied,
    sink::{HOST_PCR, SinkError, TPM, kernel_ima_entries, pcr_rule},
};

const DEVICE: &str = "TPM";
const PCR: &str = "PCR";
/// Reboots into the firmware's own menu.
pub(super) const FIRMWARE: &str = "systemctl reboot --firmware-setup     # enable the TPM 2.0 there; a virtual machine is given one";
const ALLOCATE: [&str; 3] = [
    "apt-get install tpm2-tools",
    "tpm2_pcrallocate sha256:all     # refused if the firmware closed the platform hierarchy: then in its menu",
    "reboot",
];

pub(super) fn look(host: &Host<'_>) -> Vec<Finding> {
    let mut findings = vec![device(host)];
    findings.extend(pcr(host));
    findings
}

fn is_needed(host: &Host<'_>) -> bool {
    host.config.sink.kind != SinkKind::None
}

/// As the kernel shows it to anybody.
fn device(host: &Host<'_>) -> Finding {
    if !host.machine.path(TPM).exists() {
        let text = format!("there is none: no {TPM}");
        return match is_needed(host) && is_of_the_kernel(host) {
            true => {
                Finding::lacks(DEVICE, text).mended_by(["modprobe -a tpm_crb tpm_tis", FIRMWARE])
            }
            false => Finding::note(DEVICE, format!("{text}, and the configuration needs none")),
        };
    }
    match host.machine.text(format!("{TPM}/tpm_version_major")) {
        Ok(version) if version == "2" => banks(host),
        Ok(version) if version == "1" => {
            Finding::lacks(DEVICE, "it is a TPM 1.2, and cima needs 2.0").mended_by([FIRMWARE])
        }
        Ok(other) => Finding::unknown(DEVICE, format!("its version is {other:?}")),
        Err(error) => Finding::unknown(DEVICE, format!("its version cannot be read: {error}")),
    }
}

fn is_of_the_kernel(host: &Host<'_>) -> bool {
    host.config.sink.tpm.starts_with("device:")
}

/// Which bank has the PCRs that count: a PCR that is not allocated in it cannot be read.
fn banks(host: &Host<'_>) -> Finding {
    let asked = [HOST_PCR, host.config.sink.pcr];
    let mut banks: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let directory = fs::read_dir(host.machine.path(TPM)).into_iter();
    for entry in directory.flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(bank) = name.strip_prefix("pcr-") else {
            continue;
        };
        let has = |pcr: &u32| {
            let value = host.machine.text(format!("{TPM}/{name}/{pcr}"));
            value.is_ok_and(|value| hex::decode(value).is_ok_and(|value| !value.is_empty()))
        };
        let mut pcrs: Vec<u32> = asked.into_iter().filter(has).collect();
        pcrs.dedup();
        banks.insert(bank.to_owned(), pcrs);
    }
    let shown: Vec<String> = banks
        .iter()
        .map(|(bank, pcrs)| match pcrs.as_slice() {
            [] => format!("{bank} with neither PCR {} nor {}", asked[0], asked[1]),
            [pcr] => format!("{bank} with PCR {pcr}"),
            pcrs => format!("{bank} with PCRs {} and {}", pcrs[0], pcrs[1]),
        })
        .collect();
    let facts = json!({"version": 2, "banks": banks});
    if banks.is_empty() {
        return Finding::unknown(DEVICE, "2.0; the kernel does not show its banks").with(facts);
    }
    let shown = shown.join(", ");
    // Collisions of SHA-1 are made by anybody.
    let is_strong = |(bank, pcrs): (&String, &Vec<u32>)| {
        bank != "sha1" && asked.iter().all(|pcr| pcrs.contains(pcr))
    };
    if banks.iter().any(is_strong) {
        return Finding::good(DEVICE, format!("2.0, banks {shown}")).with(facts);
    }
    Finding::lacks(
        DEVICE,
        format!(
            "2.0, banks {shown}: none but that of SHA-1 has PCRs {} and {}",
            asked[0], asked[1]
        ),
    )
    .mended_by(ALLOCATE)
    .with(facts)
}

/// The PCR of the agent's own, if it may come to that.
fn pcr(host: &Host<'_>) -> Vec<Finding> {
    let pcr = host.config.sink.pcr;
    if !matches!(host.config.sink.kind, SinkKind::Pcr | SinkKind::Auto) {
        return Vec::new();
    }
    let warning = match pcr_rule(pcr, kernel_ima_entries(&host.machine)) {
        Ok(warning) => warning,
        Err(refused) => {
            let file = word(&host.config_path.to_string_lossy());
            return vec![Finding::lacks(PCR, refused.to_string()).mended_by([
                format!("sed -i 's/^ *pcr *=.*/pcr = {DEFAULT_PCR}/' {file}"),
                "systemctl restart cimad".into(),
            ])];
        }
    };
    let mut findings = Vec::new();
    if let Some(warning) = warning {
        findings.push(Finding::note(PCR, format!("{pcr} {warning}")));
    }
    findings.extend(usable(host));
    findings
}

fn usable(host: &Host<'_>) -> Option<Finding> {
    let pcr = host.config.sink.pcr;
    let error = match host.banks.as_ref()? {
        Ok(banks) => {
            let names: Vec<String> = banks.iter().map(ToString::to_string).collect();
            return Some(
                Finding::good(
                    PCR,
                    format!("{pcr} can be extended, banks {}", names.join(", ")),
                )
                .with(json!({"pcr": pcr, "banks": names})),
            );
        }
        Err(error) => error,
    };
    let mend: Vec<String> = match error {
        SinkError::Device { .. } if is_denied(error) => Vec::new(),
        // Said of the TPM.
        SinkError::Device { .. } if !host.machine.path(TPM).exists() => return None,
        SinkError::Device { .. } => vec!["udevadm trigger --subsystem-match=tpmrm".into()],
        SinkError::NoBank(_) => ALLOCATE.map(str::to_owned).into(),
        SinkError::UnknownBank(bank) => vec![
            "apt-get install tpm2-tools".into(),
            format!("tpm2_pcrallocate {}:none", word(&bank.to_lowercase())),
            "reboot".into(),
        ],
        SinkError::BadTcti { .. } => {
            vec![format!(
                "editor {}",
                word(&host.config_path.to_string_lossy())
            )]
        }
        _ => vec![
            "apt-get install libtss2-tcti-device0     # what tpm2-tss reaches a device by".into(),
            "systemctl restart cimad".into(),
        ],
    };
    Some(Finding::failed(PCR, error).mended_by(mend))
}
