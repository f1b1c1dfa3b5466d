// SPDX-License-Identifier: Apache-2.0
//! The host's own list: what the kernel's IMA measured and extended into PCR 10.

use std::fs;

use ima_log::{BinaryReader, Digest, HashAlgorithm, Replay, Verifier};

use crate::process;

/// The list as people read it, and as it is.
pub(crate) const ASCII: &str = "/sys/kernel/security/ima/ascii_runtime_measurements";
pub(crate) const BINARY: &str = "/sys/kernel/security/ima/binary_runtime_measurements";
const POLICY: &str = "/sys/kernel/security/ima/policy";
const PCR: u32 = 10;
const BANKS: [HashAlgorithm; 4] = [
    HashAlgorithm::Sha1,
    HashAlgorithm::Sha256,
    HashAlgorithm::Sha384,
    HashAlgorithm::Sha512,
];

/// An `ima-buf` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) payload: Vec<u8>,
}

/// Gives IMA its rules. Debian's kernels take rules once in a boot.
#[track_caller]
pub(crate) fn write_rules(rules: &str) {
    fs::write(POLICY, rules).unwrap_or_else(|error| panic!("IMA does not take {rules}: {error}"));
}

/// The `ima-buf` entries for PCR 10, from the ASCII list.
#[track_caller]
pub(crate) fn entries() -> Vec<Entry> {
    let text = fs::read(ASCII).expect("the list can be read");
    let text = String::from_utf8(text).expect("no name of this list has a byte beyond ASCII");
    text.lines().filter_map(entry).collect()
}

/// `10 <sha1> ima-buf sha256:<digest> <name> <payload>`, of which the digest must be the payload's.
#[track_caller]
fn entry(line: &str) -> Option<Entry> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["10", _, "ima-buf", digest, name, payload] = words[..] else {
        return None;
    };
    let payload = bytes(payload);
    let own = HashAlgorithm::Sha256.digest(&payload).to_string();
    assert_eq!(digest, own, "d-ng of {name}");
    Some(Entry {
        name: name.to_owned(),
        payload,
    })
}

#[track_caller]
fn bytes(hex: &str) -> Vec<u8> {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
            .expect("it is a hexadecimal digit")
    };
    hex.as_bytes()
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, half| byte << 4 | digit(half)))
        .collect()
}

/// How often the list has an entry of this name and payload.
#[track_caller]
pub(crate) fn count(name: &str, payload: &str) -> usize {
    entries()
        .iter()
        .filter(|entry| entry.name == name && entry.payload == payload.as_bytes())
        .count()
}

/// Replays the list: PCR 10 of every bank must be what comes of it. Returns the number of
/// entries, and the banks that hold SHA-1 values.
///
/// A bank whose hash the kernel had no code for when IMA began is extended with the SHA-1 of each entry, padded
/// with zeros (`ima_calc_field_array_hash()`, `security/integrity/ima/ima_crypto.c`, 6.1 and 6.12):
/// Debian's 6.1 has SHA-384 and SHA-512 in a module, its 6.12 built in.
#[track_caller]
pub(crate) fn replays() -> (u64, Vec<HashAlgorithm>) {
    replays_in(&BANKS)
}

/// The same of a TPM with these banks.
#[track_caller]
pub(crate) fn replays_in(banks: &[HashAlgorithm]) -> (u64, Vec<HashAlgorithm>) {
    let expected: Vec<_> = banks.iter().map(|bank| (PCR, pcr(*bank))).collect();
    let list = fs::read(BINARY).expect("the list can be read");
    let mut verifier = Verifier::new(expected.clone());
    let mut padded = Replay::new(banks);
    for record in BinaryReader::detect(list.as_slice()) {
        let entry = record.expect("the list is whole").1;
        verifier.push(&entry);
        let values: Vec<_> = banks
            .iter()
            .map(|bank| padded_sha1(&entry, *bank))
            .collect();
        padded.extend_values(entry.pcr, &values);
    }
    let verdict = verifier.finish();
    assert_eq!(verdict.first_invalid, None, "every entry is in order");
    let of_sha1: Vec<HashAlgorithm> = verdict
        .pcrs
        .iter()
        .filter(|bank| bank.replayed != bank.expected)
        .map(|bank| bank.expected.algorithm())
        .collect();
    for bank in &of_sha1 {
        assert!(
            matches!(bank, HashAlgorithm::Sha384 | HashAlgorithm::Sha512)
                && expected.contains(&(PCR, padded.value(PCR, *bank).expect("it was replayed"))),
            "list and PCR 10 of the bank {bank} do not fit"
        );
    }
    (verdict.entries, of_sha1)
}

fn padded_sha1(entry: &ima_log::Entry, bank: HashAlgorithm) -> Digest {
    if entry.is_violation() {
        return Digest::ones(bank);
    }
    let mut value = Digest::zeros(bank).bytes().to_vec();
    let sha1 = entry.template_digest(HashAlgorithm::Sha1);
    value[..sha1.bytes().len()].copy_from_slice(sha1.bytes());
    Digest::new(bank, &value).expect("it has the bank's length")
}

#[track_caller]
fn pcr(bank: HashAlgorithm) -> Digest {
    let said = process::run(&["tpm2_pcrread", &format!("{bank}:{PCR}")]).succeeded();
    let hex = said.split("0x").nth(1).expect("it says the value").trim();
    Digest::new(bank, &bytes(hex)).expect("it is a digest of the bank")
}
