// SPDX-License-Identifier: Apache-2.0
//! Which PCR may carry the list: who else extends it, and who can take it back; and whether the kernel extends its own.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
};

use super::{HOST_PCR, SinkError};
use crate::machine::Machine;

/// The kernel's own IMA list, as text, if it keeps one.
const IMA_LIST: &str = "/sys/kernel/security/ima/ascii_runtime_measurements";

/// Entries of it.
const IMA_COUNT: &str = "/sys/kernel/security/ima/runtime_measurements_count";

/// The rule that has the kernel list what the module says.
pub const KERNEL_RULE: &str = "measure func=CRITICAL_DATA label=cima";

/// The first TPM, of which IMA takes its (`Documentation/ABI/stable/sysfs-class-tpm`, Linux 5.12).
pub const TPM: &str = "/sys/class/tpm/tpm0";

/// Why a PCR is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PcrRefused {
    /// No such PCR.
    #[error("PCR {0} does not exist: a TPM has PCRs 0 to 23")]
    Unknown(u32),
    /// The kernel extends it.
    #[error(
        "PCR 10 is extended by the kernel's own IMA ({0} entries so far): two writers would make both lists useless; use the sink `ima-file` or `kernel`, or another PCR (13 is the default)"
    )]
    KernelIma(u64),
    /// Locality above the operating system's.
    #[error(
        "PCR {0} belongs to a dynamic launch (DRTM) and cannot be extended from here; use another PCR (13 is the default)"
    )]
    DynamicLaunch(u32),
}

/// Why a PCR is a questionable choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PcrWarning {
    /// Replayed by verifiers from the firmware's event log.
    MeasuredBoot,
    /// Extended by systemd.
    Systemd,
    /// Can be set back.
    Resettable,
}

impl std::fmt::Display for PcrWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MeasuredBoot => {
                "belongs to measured boot: verifiers replay it from the firmware's log and will not find these entries there"
            }
            Self::Systemd => "is also extended by systemd: the list alone will not replay to it",
            Self::Resettable => "can be reset by anyone with access to the TPM: good for tests only",
        })
    }
}

/// Judges a PCR; `kernel_ima` is the number of entries in the kernel's list.
///
/// # Errors
/// See [`PcrRefused`].
pub fn pcr_rule(pcr: u32, kernel_ima: Option<u64>) -> Result<Option<PcrWarning>, PcrRefused> {
    match (pcr, kernel_ima) {
        (0..=9 | 14, _) => Ok(Some(PcrWarning::MeasuredBoot)),
        (10, Some(entries)) if entries > 0 => Err(PcrRefused::KernelIma(entries)),
        (10 | 13, _) => Ok(None),
        (11 | 12 | 15, _) => Ok(Some(PcrWarning::Systemd)),
        (16 | 23, _) => Ok(Some(PcrWarning::Resettable)),
        (17..=22, _) => Err(PcrRefused::DynamicLaunch(pcr)),
        _ => Err(PcrRefused::Unknown(pcr)),
    }
}

/// How many entries the kernel's IMA has listed and extended since boot; `None`: it keeps no list, or extends nothing, and then will not
/// before the next boot.
pub fn kernel_ima_entries(machine: &Machine) -> Option<u64> {
    is_extended(machine).ok()?;
    kernel_ima_listed(machine)
}

/// How many it has listed; `None`: it keeps no list.
pub fn kernel_ima_listed(machine: &Machine) -> Option<u64> {
    machine.text(IMA_COUNT).ok()?.parse().ok()
}

/// Whether the kernel's IMA extends the TPM. It goes on without one, or with one that came too late, and extends nothing until the next
/// boot (`ima_init`, `security/integrity/ima/ima_init.c`). Then the digest in its first entry, the boot aggregate, is zeros. The
/// PCR holds zeros, too, unless somebody else extends it.
///
/// # Errors
/// [`SinkError::Bypass`].
pub fn is_extended(machine: &Machine) -> Result<(), SinkError> {
    let tpm = fs::read_dir(machine.path(TPM)).map_err(|_| SinkError::Bypass("there is none"))?;
    if has_no_boot_aggregate(machine) {
        return Err(SinkError::Bypass(
            "it found none when the kernel started: its boot aggregate is zeros",
        ));
    }
    let banks = tpm
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("pcr-"));
    let value = |bank: fs::DirEntry| fs::read_to_string(bank.path().join(HOST_PCR.to_string()));
    let mut values = banks.flat_map(value);
    if values.any(|value| value.trim().bytes().any(|digit| digit != b'0')) {
        return Ok(());
    }
    Err(SinkError::Bypass("its PCR 10 is untouched"))
}

/// Whether the list says that IMA found no TPM.
fn has_no_boot_aggregate(machine: &Machine) -> bool {
    let mut first = String::new();
    let list = File::open(machine.path(IMA_LIST));
    let read = list.and_then(|list| BufReader::new(list).read_line(&mut first));
    // PCR, template hash, template, digest, name.
    let digest = first.split(' ').nth(3).unwrap_or_default();
    // Without an algorithm it is the template `ima`, which has zeros also of a TPM without a SHA-1 bank.
    let digits = digest.split_once(':').map_or("", |(_, digits)| digits);
    read.is_ok() && !digits.is_empty() && digits.bytes().all(|digit| digit == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcr_that_somebody_else_extends_does_not_make_ima_extend_it() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::at(root.path());
        let write = |path: &str, text: &str| {
            let path = machine.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(IMA_COUNT, "1\n");
        let list = |digest: &str| {
            let line = format!("10 {} ima-ng {digest} boot_aggregate\n", "0".repeat(40));
            write(IMA_LIST, &(line.clone() + &line));
        };
        list(&format!("sha256:{}", "0".repeat(64)));
        assert!(is_extended(&machine).is_err(), "there is no TPM");
        let pcr = format!("{TPM}/pcr-sha256/10");
        write(&pcr, "00\n");
        assert!(is_extended(&machine).is_err());
        write(&pcr, "5A\n");
        let error = is_extended(&machine).unwrap_err().to_string();
        assert!(error.contains("boot aggregate"), "{error}");
        assert_eq!(kernel_ima_entries(&machine), None);
        assert_eq!(kernel_ima_listed(&machine), Some(1));
        for digest in ["sha256:07", "07", "00"] {
            list(digest);
            assert!(is_extended(&machine).is_ok(), "{digest}");
        }
        assert_eq!(kernel_ima_entries(&machine), Some(1));
    }

    #[test]
    fn each_pcr_is_judged_as_documented() {
        use PcrWarning::{MeasuredBoot, Resettable, Systemd};
        for pcr in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14] {
            assert_eq!(pcr_rule(pcr, Some(1)), Ok(Some(MeasuredBoot)), "{pcr}");
        }
        for pcr in [11, 12, 15] {
            assert_eq!(pcr_rule(pcr, None), Ok(Some(Systemd)), "{pcr}");
        }
        for pcr in [16, 23] {
            assert_eq!(pcr_rule(pcr, None), Ok(Some(Resettable)), "{pcr}");
        }
        for pcr in 17..=22 {
            assert_eq!(pcr_rule(pcr, None), Err(PcrRefused::DynamicLaunch(pcr)));
        }
        assert_eq!(pcr_rule(13, Some(9)), Ok(None));
        assert_eq!(pcr_rule(24, None), Err(PcrRefused::Unknown(24)));
    }

    #[test]
    fn pcr_10_is_ours_only_while_the_kernel_leaves_it_alone() {
        assert_eq!(pcr_rule(10, Some(1)), Err(PcrRefused::KernelIma(1)));
        assert_eq!(pcr_rule(10, Some(0)), Ok(None));
        assert_eq!(pcr_rule(10, None), Ok(None));
    }
}
