// SPDX-License-Identifier: Apache-2.0
//! `evmctl ima_measurement`, the outside judge of lists.

use std::fs;
use std::path::Path;

use crate::process;

/// It replays this list to what the TPM holds, in both banks.
#[track_caller]
pub(crate) fn agrees(list: &Path) {
    for bank in ["sha1", "sha256"] {
        // evmctl wants all 24 PCRs, in order.
        let read = process::run(&["tpm2_pcrread", &format!("{bank}:all")]).succeeded();
        let lines: String = read
            .split("0x")
            .skip(1)
            .enumerate()
            .map(|(pcr, value)| format!("PCR-{pcr:02}: {}\n", spaced_hex(value)))
            .collect();
        assert_eq!(lines.lines().count(), 24, "PCRs of {bank}: {read}");
        fs::write(format!("/tmp/pcr-{bank}"), lines).expect("/tmp can be written");
    }
    let ran = process::run(&[
        "evmctl",
        "ima_measurement",
        "--ignore-violations",
        "--pcrs",
        "sha1,/tmp/pcr-sha1",
        "--pcrs",
        "sha256,/tmp/pcr-sha256",
        list.to_str().expect("a plain path"),
    ]);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("Matched per TPM bank"), "evmctl says {said}");
    assert!(!said.contains("does not match"), "evmctl says {said}");
}

/// `0AFF…` up to the next space as `0a ff …`.
fn spaced_hex(value: &str) -> String {
    let digits = value
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_lowercase();
    let bytes: Vec<_> = digits
        .as_bytes()
        .chunks(2)
        .map(String::from_utf8_lossy)
        .collect();
    bytes.join(" ")
}
