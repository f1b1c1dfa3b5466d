// SPDX-License-Identifier: Apache-2.0
//! Everything that is read as text, each parser on the same input: names, digests, PCR values
//! and files of them, the policy and the configuration. What is read is written and read again.
#![no_main]

use cima_agent::{
    cli::PcrValue,
    fuzzing,
    measure::{batch_name, batch_number, escape, unescape},
};
use cima_policies::{Candidate, MeasurementPolicy};
use ima_log::Digest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    names(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(unescaped) = unescape(text) {
        assert_eq!(escape(&unescaped), text);
    }
    match text.parse::<Digest>() {
        Ok(digest) => assert_eq!(digest.to_string().parse(), Ok(digest)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    pcr_values(text);
    settings(text);
});

fn names(bytes: &[u8]) {
    let name = escape(bytes);
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(unescape(&name).as_deref(), Some(bytes));
    if let Some(number) = batch_number(bytes) {
        assert_eq!(
            batch_name(number).as_bytes(),
            bytes,
            "one spelling for each number"
        );
    }
}

fn pcr_values(text: &str) {
    match text.parse::<PcrValue>() {
        Ok(PcrValue { pcr, value }) => {
            let again = format!("{}:{pcr}={}", value.algorithm(), hex(&value));
            assert_eq!(again.parse(), Ok(PcrValue { pcr, value }));
        }
        Err(error) => shown(&error.to_string()),
    }
    let values = match fuzzing::pcr_values(text) {
        Ok(values) => values,
        Err(error) => return shown(&error.to_string()),
    };
    let (mut evmctl, mut pcrread) = (String::new(), String::new());
    for (pcr, value) in &values {
        evmctl += &format!("PCR-{pcr:02}: {}\n", hex(value));
        pcrread += &format!("  {}:\n    {pcr}: 0x{}\n", value.algorithm(), hex(value));
    }
    assert_eq!(fuzzing::pcr_values(&evmctl).as_ref(), Ok(&values));
    assert_eq!(fuzzing::pcr_values(&pcrread).as_ref(), Ok(&values));
}

fn settings(text: &str) {
    if let Ok(candidate) = text.parse::<Candidate>() {
        assert_eq!(candidate.to_string().parse(), Ok(candidate));
    }
    if let Ok(policy) = MeasurementPolicy::parse(text) {
        assert!(policy.measure_host || !policy.candidates.is_empty());
        let scope = policy.scope(&cima_policies::Host {
            namespaces: [1; cima_abi::NS_COUNT],
            root_device: 1,
            root_inode: 2,
        });
        let masks = scope.candidates.iter().filter(|mask| **mask != 0).count();
        assert_eq!(masks, policy.candidates.len());
    }
    if let Ok(config) = fuzzing::config(text) {
        assert!(config.listen().is_ok() && config.state_dir.is_absolute());
    }
}

fn hex(value: &Digest) -> String {
    let text = value.to_string();
    text.split_once(':')
        .map_or_else(String::new, |(_, hex)| hex.to_owned())
}

/// A message does not repeat bytes that a terminal would obey.
fn shown(message: &str) {
    assert!(!message.contains(char::is_control), "{message:?}");
}
