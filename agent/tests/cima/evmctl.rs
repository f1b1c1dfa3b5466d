// SPDX-License-Identifier: Apache-2.0
//! A judge that is not ours: evmctl (package ima-evm-utils).

use std::{
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
};

use ima_log::{Digest, HashAlgorithm};

use crate::{
    command::{Files, Ran, cima},
    list::{List, PCR},
};

/// evmctl's file of one bank: all 24 PCRs, in order.
pub(crate) fn pcr_file(value: &Digest) -> String {
    let mut text = String::new();
    for pcr in 0..24 {
        let zeros = Digest::zeros(value.algorithm());
        let value = if pcr == PCR { value } else { &zeros };
        let hex: Vec<_> = value.bytes().iter().map(|b| format!("{b:02x}")).collect();
        writeln!(text, "PCR-{pcr:02}: {}", hex.join(" ")).unwrap();
    }
    text
}

fn evmctl(files: &Files, list: &str, values: &[Digest]) -> Ran {
    let mut command = Command::new("evmctl");
    command.args(["ima_measurement", "--ignore-violations"]);
    for value in values {
        let bank = value.algorithm();
        let path = files.write(&format!("pcrs-{bank}"), pcr_file(value));
        command.args(["--pcrs", &format!("{bank},{path}")]);
    }
    let output = command.arg(list).stdin(Stdio::null()).output();
    output
        .expect("evmctl is to be installed (package ima-evm-utils)")
        .into()
}

#[test]
fn evmctl_and_cima_give_the_same_verdict_on_what_log_writes() {
    let files = Files::new();
    let list = List::good();
    let values = list.values();
    let path = files.write("boot/00000001.ima", list.binary());
    let mut altered = fs::read(&path).unwrap();
    let at = altered.len() - 3;
    altered[at] ^= 1;
    files.write("altered/00000001.ima", altered);
    for (dir, good) in [("boot", true), ("altered", false)] {
        let joined = files.path("joined.ima");
        let ran = cima(["log", &files.path(dir), "--format", "binary", "-o", &joined]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let said = evmctl(&files, &joined, &values);
        let matched = format!("{}{}", said.out, said.err).contains("Matched per TPM bank");
        assert_eq!(
            matched && said.code == Some(0),
            good,
            "evmctl of {dir}: {said:?}"
        );
        for bank in [HashAlgorithm::Sha1, HashAlgorithm::Sha256] {
            let pcrs = files.path(&format!("pcrs-{bank}"));
            let ran = cima(["verify", &joined, "--pcrs", &pcrs]);
            assert_eq!(ran.code, Some(if good { 0 } else { 1 }), "{}", ran.out);
        }
    }
}
