// SPDX-License-Identifier: Apache-2.0
//! `cima evidence` with a software TPM; what it makes is read with tpm2-tools.

use std::process::{Command, Output};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cima_agent::sink::{PcrSink, Sink as _};
use ima_log::{AsciiReader, Digest, Entry, HashAlgorithm, Replay};
use serde_json::Value;

use crate::{
    command::{Files, cima, cima_reading},
    list::List,
    swtpm::Swtpm,
};

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

/// Extends the TPM with entries.
pub(crate) fn extend(tpm: &Swtpm, pcr: u32, entries: &[Entry]) {
    let mut sink = PcrSink::open(&tpm.tcti(), pcr).unwrap();
    let banks: Vec<_> = sink.read().unwrap().iter().map(Digest::algorithm).collect();
    for entry in entries {
        let values: Vec<_> = banks.iter().map(|bank| entry.extend_value(*bank)).collect();
        sink.extend(entry, &values).unwrap();
    }
}

pub(crate) fn evidence(tpm: &Swtpm, nonce: &str, list: &str) -> Value {
    let tcti = tpm.tcti();
    let ran = cima(["evidence", "--nonce", nonce, "--tpm", &tcti, list]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.json()
}

fn bytes(of: &Value) -> Vec<u8> {
    STANDARD.decode(of.as_str().unwrap()).unwrap()
}

/// A tool that needs no TPM.
fn offline(words: &[&str]) -> Output {
    Command::new(words[0])
        .args(&words[1..])
        .output()
        .expect("tpm2-tools are to be installed")
}

/// What tpm2-tools say of a quote, and whether they take it.
fn checked(files: &Files, evidence: &Value, nonce: &str) -> (bool, String) {
    let key = files.write("ak.tss", bytes(&evidence["tpm_ak"]));
    let pem = files.path("ak.pem");
    let print = ["tpm2_print", "-t", "TPM2B_PUBLIC", "-f", "pem", &key];
    let printed = offline(&print);
    assert!(printed.status.success(), "{printed:?}");
    files.write("ak.pem", printed.stdout);
    let quote = evidence["quote"]
        .as_str()
        .unwrap()
        .strip_prefix('r')
        .unwrap();
    let parts: Vec<_> = quote
        .split(':')
        .zip(["attest", "signature", "values"])
        .map(|(part, name)| files.write(name, STANDARD.decode(part).unwrap()))
        .collect();
    let nonce = hex::encode(nonce);
    let ran = offline(&[
        "tpm2_checkquote",
        "-u",
        &pem,
        "-m",
        &parts[0],
        "-s",
        &parts[1],
        "-f",
        &parts[2],
        "-g",
        "sha256",
        "-q",
        &nonce,
    ]);
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    (
        ran.status.success(),
        said + &String::from_utf8_lossy(&ran.stderr),
    )
}

#[test]
fn a_quote_and_its_list_belong_together_whatever_is_listed_meanwhile() {
    let (files, tpm) = (Files::new(), Swtpm::start());
    let list = List::good();
    let extended = list.entries.len() - 1;
    extend(&tpm, 13, &list.entries[..extended]);
    let path = files.write("list.ima", list.binary());
    let evidence = evidence(&tpm, "chosen", &path);
    assert_eq!(evidence["hash_alg"], "sha256");
    assert_eq!(evidence["nonce"], "chosen");
    let lines = evidence["ima_measurement_list"].as_str().unwrap();
    let read: Vec<_> = AsciiReader::detect(lines.as_bytes())
        .map(|read| read.unwrap().1)
        .collect();
    assert_eq!(read, list.entries[..extended], "the last was not extended");
    let mut replay = Replay::new(&[BANK]);
    read.iter().for_each(|entry| replay.extend(entry));
    let value = hex::encode(replay.value(13, BANK).unwrap().bytes()).to_uppercase();
    let (good, said) = checked(&files, &evidence, "chosen");
    assert!(good && said.to_uppercase().contains(&value), "{said}");
    let (good, said) = checked(&files, &evidence, "another");
    assert!(!good, "{said}");
    let words = ["evidence", "--nonce", "piped", "--tpm", &tpm.tcti(), "-"];
    let piped = cima_reading(words, &list.binary()).json();
    assert_eq!(
        piped["ima_measurement_list"],
        evidence["ima_measurement_list"]
    );
}

#[test]
fn the_key_is_made_once_and_is_the_same_again() {
    let (files, mut tpm) = (Files::new(), Swtpm::start());
    let path = files.write("list.ima", List::good().binary());
    extend(&tpm, 13, &List::good().entries);
    let tcti = tpm.tcti();
    let first = cima(["evidence", "--nonce", "1", "--tpm", &tcti, &path]);
    assert!(first.err.contains("made an attestation key"), "{first:?}");
    let first = first.json();
    tpm.restart();
    let key = cima(["evidence", "key", "--json", "--tpm", &tcti]);
    assert_eq!((key.code, key.err.as_str()), (Some(0), ""), "{key:?}");
    let key = key.json();
    assert_eq!(key["tpm_ak"], first["tpm_ak"]);
    assert_eq!(key["tpm_ek"], first["tpm_ek"]);
    assert_eq!(key["handle"], "0x8101c1a0");
    let fingerprint = BANK.digest(&bytes(&key["tpm_ak"]));
    assert_eq!(key["ak_sha256"], hex::encode(fingerprint.bytes()));
    assert_eq!(key["ek_certificate"], Value::Null);
    // The TPM's own name for it, as `TPM2_MakeCredential` wants it.
    let own = tpm.run(&["tpm2_readpublic", "-c", "0x8101c1a0"]);
    let own = String::from_utf8_lossy(&own.stdout).into_owned();
    let name = key["name"].as_str().unwrap();
    assert!(own.contains(&format!("name: {name}")), "{own}");
    assert!(own.contains("restricted"), "{own}");
    let text = cima(["evidence", "key", "--tpm", &tcti]);
    assert!(text.out.contains(name) && text.out.contains("none in the TPM"));
    // Removed, it is made from the same seed.
    tpm.run(&["tpm2_evictcontrol", "-C", "o", "-c", "0x8101c1a0"]);
    let again = cima(["evidence", "key", "--json", "--tpm", &tcti]);
    assert_eq!(again.json()["tpm_ak"], first["tpm_ak"]);
    let elsewhere = cima(["evidence", "key", "--key", "0x81010042", "--tpm", &tcti]);
    assert_eq!(elsewhere.code, Some(0), "{elsewhere:?}");
}

#[test]
fn a_credential_for_the_key_is_opened_by_its_tpm() {
    let (files, tpm) = (Files::new(), Swtpm::start());
    let key = cima(["evidence", "key", "--json", "--tpm", &tpm.tcti()]).json();
    let endorsement = files.write("ek.pub", bytes(&key["tpm_ek"]));
    let secret = files.write("secret", "opened");
    let credential = files.path("credential");
    let name = key["name"].as_str().unwrap();
    let made = tpm.run(&[
        "tpm2_makecredential",
        "-u",
        &endorsement,
        "-s",
        &secret,
        "-n",
        name,
        "-o",
        &credential,
    ]);
    assert!(made.status.success(), "{made:?}");
    let (ek, session, opened) = (
        files.path("ek.ctx"),
        files.path("s.ctx"),
        files.path("opened"),
    );
    let run = |words: &[&str]| {
        let ran = tpm.run(words);
        assert!(ran.status.success(), "{words:?}: {ran:?}");
    };
    run(&["tpm2_createek", "-G", "ecc", "-c", &ek]);
    run(&["tpm2_startauthsession", "--policy-session", "-S", &session]);
    run(&["tpm2_policysecret", "-S", &session, "-c", "e"]);
    let auth = format!("session:{session}");
    run(&[
        "tpm2_activatecredential",
        "-c",
        "0x8101c1a0",
        "-C",
        &ek,
        "-P",
        &auth,
        "-i",
        &credential,
        "-o",
        &opened,
    ]);
    assert_eq!(std::fs::read(opened).unwrap(), b"opened");
}

#[test]
fn what_is_no_evidence_is_a_sentence() {
    let (files, tpm) = (Files::new(), Swtpm::start());
    let list = List::good();
    let path = files.write("list.ima", list.binary());
    let tcti = tpm.tcti();
    let with = |more: &[&str]| {
        let words = ["evidence", "--nonce", "1", "--tpm", &tcti];
        cima([&words, more].concat())
    };
    cima(["evidence", "key", "--tpm", &tcti]);
    with(&[&path]).refused(&["PCR 13 of the TPM is untouched", "list.ima"]);
    extend(&tpm, 13, &list.entries[1..]);
    with(&[&path]).refused(&["PCR 13", "list.ima", "after any of its"]);
    let empty = files.write("empty.ima", "");
    with(&[&empty]).refused(&["empty.ima is empty"]);
    let none = files.write(
        "none.ima",
        List::in_host("none", crate::list::BOOT).binary(),
    );
    with(&[&none]).refused(&["none.ima is not anchored"]);
    let kernels = List::in_host("kernel", crate::list::BOOT).binary();
    let kernels = files.write("kernels.ima", kernels);
    with(&[&kernels]).refused(&["kernels.ima are in the kernel's IMA list"]);
    with(&["/nowhere"]).refused(&["/nowhere"]);
    with(&["--key", "0x40000001", &path]).refused(&["0x40000001 is no handle for a key"]);
    let long = "n".repeat(65);
    let words = ["evidence", "--nonce", &long, "--tpm", &tcti, &path];
    cima(words).refused(&["a nonce has 1 to 64 bytes, this one 65"]);
    // Another key is at the handle.
    let other = files.path("other.ctx");
    tpm.run(&["tpm2_createprimary", "-C", "o", "-c", &other]);
    tpm.run(&["tpm2_evictcontrol", "-C", "o", "-c", &other, "0x81010043"]);
    with(&["--key", "0x81010043", &path]).refused(&["0x81010043", "name another handle"]);
    let gone = "device:/nowhere";
    cima(["evidence", "--nonce", "1", "--tpm", gone, &path])
        .refused(&["there is no usable TPM at /nowhere", "--tpm"]);
    let usage = cima(["evidence", &path]);
    assert_eq!(usage.code, Some(2));
    assert!(usage.err.contains("--nonce"), "{usage:?}");
}
