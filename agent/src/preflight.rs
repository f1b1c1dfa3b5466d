// SPDX-License-Identifier: Apache-2.0
//! What the host must have before anything is loaded, opened or written: looked at
//! all at once, so that the operator mends all of it in one go. Changes nothing.

use std::{fs, io, path::Path};

use cima_policies::{MeasurementPolicy, PolicyError};

use crate::{
    config::{Config, SinkKind},
    machine::Machine,
    probes::VMLINUX,
    sink::{
        PcrRefused, PcrSink, PcrWarning, SinkError, kernel_ima_entries, kernel_ima_listed, pcr_rule,
    },
};

/// The oldest kernel whose hooks and helpers the probes were built for.
const OLDEST: (u32, u32) = (6, 1);
/// The newest whose structures the probes know: overlayfs keeps its files otherwise from 6.13 on.
const NEWEST: (u32, u32) = (6, 12);
/// Active LSMs, comma-separated.
pub(crate) const LSM: &str = "/sys/kernel/security/lsm";
/// `uname -r`.
const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// The kernel's own IMA.
const IMA: &str = "/sys/kernel/security/ima";
const BPFFS: &str = "/sys/fs/bpf";

/// Something that the host lacks, with what mends it.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// Not privileged.
    #[error("cimad must run as root: it loads BPF programs and opens the TPM")]
    Root,
    /// Too old or too new.
    #[error("this kernel is {release}; cima knows Linux {}.{} to {}.{}", OLDEST.0, OLDEST.1, NEWEST.0, NEWEST.1)]
    Kernel {
        /// `uname -r`.
        release: String,
    },
    /// Attached programs would never be called.
    #[error("`bpf` is not an active LSM ({active}): boot with the parameter {parameter}")]
    BpfLsm {
        /// Those that are.
        active: String,
        /// With it, and all that are active.
        parameter: String,
    },
    /// The list of LSMs cannot be read.
    #[error(
        "cannot read {LSM}: {0}; mount securityfs: mount -t securityfs none /sys/kernel/security"
    )]
    Securityfs(#[source] io::Error),
    /// No types.
    #[error("{VMLINUX} is missing: cima needs a kernel built with CONFIG_DEBUG_INFO_BTF")]
    Btf,
    /// Nobody to compute hashes.
    #[error(
        "{IMA} is missing: cima takes its hashes from IMA, which this kernel was built without (CONFIG_IMA)"
    )]
    Ima,
    /// The policy.
    #[error("{path}: {source}")]
    Policy {
        /// Where.
        path: String,
        /// What is wrong.
        #[source]
        source: PolicyError,
    },
    /// Where BPF objects are pinned.
    #[error("{BPFFS} is not a BPF file system: mount -t bpf bpf {BPFFS}")]
    Bpffs,
    /// A needed file.
    #[error("cannot read {what} {path}: {source}")]
    File {
        /// Which.
        what: &'static str,
        /// Where.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The PCR is somebody else's.
    #[error(transparent)]
    Pcr(#[from] PcrRefused),
    /// No TPM.
    #[error(
        "{0}; without a TPM only sink.kind = \"none\" works (or \"auto\", which takes it then), and nothing vouches for the list"
    )]
    Tpm(#[from] SinkError),
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// What stands in the way; empty: the agent may start.
    pub missing: Vec<Missing>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Looks at everything that `config` needs.
pub fn check(config: &Config, machine: &Machine) -> Report {
    let mut report = Report::default();
    let checks: [Result<(), Missing>; 8] = [
        root(machine),
        kernel(machine).map(drop),
        lsm(machine).map(drop),
        ima(machine),
        btf(machine),
        bpffs(machine),
        policy(machine, &config.policy),
        probes(machine, &config.probes.object),
    ];
    report
        .missing
        .extend(checks.into_iter().filter_map(Result::err));
    report.warnings.extend(stale_digests(machine));
    match config.sink.kind {
        SinkKind::Pcr => match pcr(machine, config) {
            Ok(Some(warning)) => {
                report
                    .warnings
                    .push(format!("PCR {} {warning}", config.sink.pcr));
            }
            Ok(None) => {}
            Err(missing) => report.missing.push(missing),
        },
        // Whether these work is known when they are tried, which leaves an entry in the kernel's list.
        SinkKind::Kernel | SinkKind::ImaFile => {}
        SinkKind::Auto => {
            if let Err(missing) = pcr(machine, config) {
                report
                    .warnings
                    .push(format!("the sink \"pcr\" does not work: {missing}"));
            }
        }
        SinkKind::None => report
            .warnings
            .push("sink.kind is \"none\": nothing vouches for the list".into()),
    }
    report
}

fn root(machine: &Machine) -> Result<(), Missing> {
    if machine.by_root() {
        Ok(())
    } else {
        Err(Missing::Root)
    }
}

/// The release, which is known.
pub(crate) fn kernel(machine: &Machine) -> Result<String, Missing> {
    let release = machine.text(RELEASE).map_err(|source| Missing::File {
        what: "the kernel's release",
        path: RELEASE.into(),
        source,
    })?;
    supported(&release)?;
    Ok(release)
}

fn supported(release: &str) -> Result<(), Missing> {
    if version(release).is_some_and(|version| (OLDEST..=NEWEST).contains(&version)) {
        return Ok(());
    }
    Err(Missing::Kernel {
        release: release.to_owned(),
    })
}

/// Major and minor of a release such as `6.1.0-47-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The active LSMs, `bpf` among them.
pub(crate) fn lsm(machine: &Machine) -> Result<String, Missing> {
    let active = machine.text(LSM).map_err(Missing::Securityfs)?;
    if active.split(',').any(|lsm| lsm == "bpf") {
        return Ok(active);
    }
    let parameter = lsm_parameter(&active);
    Err(Missing::BpfLsm { active, parameter })
}

/// The boot parameter that adds `bpf`, and loses none. `integrity` has no hooks and is not in the list of active ones; but Linux before
/// 6.4 boots without it if the parameter does not name it, and panics as soon as IMA measures
/// (`integrity_inode_get`, `security/integrity/iint.c`).
fn lsm_parameter(active: &str) -> String {
    // Not taken from the parameter: always there, first or last.
    let fixed = ["capability", "ima", "evm", "integrity", ""];
    // It becomes part of a command line.
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let mut names: Vec<_> = active
        .split(',')
        .filter(|name| is_name(name) && !fixed.contains(name))
        .collect();
    names.extend(["integrity", "bpf"]);
    format!("lsm={}", names.join(","))
}

pub(crate) fn ima(machine: &Machine) -> Result<(), Missing> {
    // Without securityfs that is what is said, once.
    if machine.path(IMA).exists() || !machine.path(LSM).exists() {
        Ok(())
    } else {
        Err(Missing::Ima)
    }
}

/// What a policy of the kernel's own means for digests.
pub(crate) fn stale_digests(machine: &Machine) -> Option<String> {
    // The first entry is the boot's own, without any policy.
    kernel_ima_listed(machine).filter(|entries| *entries > 1)?;
    Some("the kernel's own IMA measures by a policy: it may answer with digests that it keeps, which can be older than a file's content".into())
}

pub(crate) fn policy(machine: &Machine, path: &Path) -> Result<(), Missing> {
    let text = fs::read_to_string(machine.path(path)).map_err(|source| Missing::File {
        what: "the policy",
        path: path.display().to_string(),
        source,
    })?;
    MeasurementPolicy::parse(&text)
        .map(drop)
        .map_err(|source| Missing::Policy {
            path: path.display().to_string(),
            source,
        })
}

pub(crate) fn btf(machine: &Machine) -> Result<(), Missing> {
    if machine.path(VMLINUX).exists() {
        Ok(())
    } else {
        Err(Missing::Btf)
    }
}

pub(crate) fn bpffs(machine: &Machine) -> Result<(), Missing> {
    match machine.mounted(BPFFS) {
        Ok(Some(kind)) if kind == "bpf" => Ok(()),
        _ => Err(Missing::Bpffs),
    }
}

/// The probe object can be read.
pub(crate) fn probes(machine: &Machine, path: &Path) -> Result<(), Missing> {
    fs::File::open(machine.path(path))
        .map(drop)
        .map_err(|source| Missing::File {
            what: "the probe object",
            path: path.display().to_string(),
            source,
        })
}

/// What the sink `pcr` needs.
fn pcr(machine: &Machine, config: &Config) -> Result<Option<PcrWarning>, Missing> {
    let warning = pcr_rule(config.sink.pcr, kernel_ima_entries(machine))?;
    PcrSink::open(&machine.tcti(&config.sink.tpm), config.sink.pcr)?;
    Ok(warning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_as_numbers() {
        assert_eq!(version("6.1.0-47-amd64"), Some((6, 1)));
        assert_eq!(version("6.12.117+deb12-amd64"), Some((6, 12)));
        assert_eq!(version("10.0-rc1"), Some((10, 0)));
        assert_eq!(version("linux"), None);
        assert!(version("5.10.0").unwrap() < OLDEST && version("6.12").unwrap() > OLDEST);
    }
    #[test]
    fn a_kernel_that_is_not_known_is_named_with_those_that_are() {
        assert!(supported("6.1.0-47-amd64").is_ok());
        assert_eq!(
            supported("5.10.0-30-amd64").unwrap_err().to_string(),
            "this kernel is 5.10.0-30-amd64; cima knows Linux 6.1 to 6.12"
        );
        assert!(supported("6.13.1").is_err());
        assert!(supported("garbage").is_err());
    }

    #[test]
    fn the_boot_parameter_adds_bpf_and_keeps_what_a_kernel_needs() {
        let cases = [
            (
                "capability,landlock,yama,apparmor,tomoyo",
                "lsm=landlock,yama,apparmor,tomoyo,integrity,bpf",
            ),
            (
                "lockdown,capability,yama,ima,evm",
                "lsm=lockdown,yama,integrity,bpf",
            ),
            ("", "lsm=integrity,bpf"),
            ("yama,$(reboot),\x1b[2J", "lsm=yama,integrity,bpf"),
        ];
        for (active, parameter) in cases {
            assert_eq!(lsm_parameter(active), parameter, "{active}");
        }
    }
}
