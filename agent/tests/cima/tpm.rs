// SPDX-License-Identifier: Apache-2.0
//! `cima verify` against a TPM: swtpm, extended by the agent's own ledger.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use cima_agent::containers::Provenance;
use cima_agent::{
    ledger::{Ledger, Origin},
    measure::{Batch, ContextEvent, PolicyEvent, proto},
    sink::PcrSink,
};
use ima_log::HashAlgorithm;

use crate::{
    command::{Files, Ran, cima},
    swtpm::{Swtpm, two_free_ports},
};

fn verify(tpm: &Swtpm, list: &str) -> Ran {
    cima(["verify", &format!("--tpm={}", tpm.tcti()), list])
}

/// What the agent does at a start with some work: the ledger is closed again, since
/// swtpm serves one connection at a time.
fn agent(state: &Path, tpm: &Swtpm, paths: &[&str]) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let origin = Origin {
        boot_id: boot.trim().to_owned(),
        kernel_release: "6.12.0".into(),
        realtime_offset_ns: 0,
        now_ns: 1,
    };
    let sink = Box::new(PcrSink::open(&tpm.tcti(), 13).unwrap());
    let (mut ledger, _) = Ledger::open(state, origin, sink, 13, None).unwrap();
    for path in paths {
        let digest = HashAlgorithm::Sha256.digest(path.as_bytes());
        let mut batch = Batch::new();
        // The last batch of an agent that ends in order is its farewell.
        let stop = proto::context_event::What::Stop(proto::Stop {});
        batch.push(ContextEvent::of_agent(2, stop));
        ledger
            .commit(
                &[PolicyEvent::exec(
                    &Provenance::Unregistered,
                    path.as_bytes(),
                    &digest,
                )],
                batch,
            )
            .unwrap();
    }
}

#[test]
fn what_the_agent_extends_is_verified_against_the_tpm_and_its_tools() {
    let (files, tpm) = (Files::new(), Swtpm::start());
    let state = files.path("state");
    agent(state.as_ref(), &tpm, &["/bin/a", "/bin/b"]);
    agent(state.as_ref(), &tpm, &["/bin/a", "/bin/c"]);
    let tcti = format!("--tpm={}", tpm.tcti());

    let ran = cima(["verify", &tcti, "--state-dir", &state]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(
        ran.verdict()
            .starts_with("good: all 9 entries are in PCR 13"),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("sha384 match   replayed and TPM"),
        "every bank: {}",
        ran.out
    );
    let verdict = cima(["verify", &tcti, "--state-dir", &state, "--json"]).json();
    assert_eq!(
        (verdict["good"].as_bool(), verdict["values_from"].as_str()),
        (Some(true), Some("TPM"))
    );

    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let list = files.path(&format!("state/ledger/{}", boot.trim()));
    for selection in [
        &["tpm2_pcrread"][..],
        &["tpm2_pcrread", "sha256:13"],
        &["tpm2_pcrread", "sha1:10,13+sha256:13"],
    ] {
        let pcrs = files.write("pcrs.yaml", tpm.tool(selection));
        let ran = cima(["verify", &list, "--pcrs", &pcrs]);
        assert_eq!(
            (ran.code, ran.err.as_str()),
            (Some(0), ""),
            "{selection:?}: {ran:?}"
        );
    }

    let segment = format!("{list}/00000001.ima");
    let whole = fs::read(&segment).unwrap();
    let never =
        ima_log::Entry::ima_buf(13, HashAlgorithm::Sha256, "cima-exec:never", b"v1;x").unwrap();
    append(&segment, &never.to_binary());
    let ran = verify(&tpm, &list);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(
        ran.verdict(),
        "bad: the PCR holds the first 9 of 10 entries; entry 9 (cima-exec:never) is the first that was never extended"
    );
    assert!(
        ran.out.contains("2 looks found the PCR unchanged"),
        "{}",
        ran.out
    );

    fs::write(&segment, &whole).unwrap();
    append(&segment, &never.to_binary()[..20]);
    let ran = verify(&tpm, &list);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for said in [
        "usable: entries 0 to 8 are in the PCR; behind is entry 9, at byte",
        "bad: entry 9, at byte",
        "of segment 1: the list ends inside it, after 20 of its bytes",
    ] {
        assert!(ran.out.contains(said), "{said} is not in {}", ran.out);
    }

    let zeros = "0".repeat(64);
    tpm.tool(&["tpm2_pcrextend", &format!("13:sha256={zeros}")]);
    fs::write(&segment, &whole).unwrap();
    let ran = verify(&tpm, &list);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.out.contains("sha1   match") && ran.out.contains("sha256 differs"),
        "{}",
        ran.out
    );

    agent(state.as_ref(), &tpm, &["/bin/d"]);
    let ran = verify(&tpm, &list);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.verdict().contains("the chain is broken here"),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("sha256 match"),
        "the new segment fits: {}",
        ran.out
    );
}

#[test]
fn a_tpm_that_does_not_answer_is_2() {
    let port = two_free_ports();
    let path = crate::list::vector_path("talk.bin");
    let ran = cima([
        "verify",
        &format!("--tpm=swtpm:host=127.0.0.1,port={port}"),
        &path,
    ]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
    let said = ran.err.lines().last().unwrap();
    assert!(
        said.starts_with("cima: the TPM at swtpm:") && said.contains("does not answer"),
        "{said}"
    );
}

fn append(path: &str, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}
