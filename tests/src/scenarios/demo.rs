// SPDX-License-Identifier: Apache-2.0
//! The main job, told to a newcomer: `cargo xtask demo` plays this and shows it.

use std::collections::BTreeMap;
use std::fs;

use super::Scenario;
use crate::agent::{CIMA, Site, text};
use crate::claims::Claims;
use crate::podman::{self, DEBIAN, Runtime, TINY};
use crate::process;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "demo",
    about: "two containers of two images are measured, the list is verified against the TPM, a tampered copy refused",
    play,
};

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = Site::new("demo");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    step(&format!("cimad starts on Linux {}", kernel.trim()));
    let agent = site.start();
    for line in site.log().lines() {
        println!("    {}", line.trim());
    }
    step("podman runs two containers from two images");
    claims.claim(
        "podman run --runtime crun localhost/tiny:1 uname -m",
        || {
            podman::run(Runtime::Crun, TINY, &["uname", "-m"]).succeeded();
        },
    );
    claims.claim(
        "podman run --runtime runc localhost/debian:1 perl -e '…'",
        || {
            podman::run(
                Runtime::Runc,
                DEBIAN,
                &["perl", "-e", "use POSIX; print floor(42.5)"],
            )
            .succeeded();
        },
    );
    agent.stop();
    step("what was measured, by container");
    claims.claim("both containers are in the list", || {
        let containers = by_container(&site);
        for (id, files) in &containers {
            println!("\n    container {} ran", id.get(..12).unwrap_or(id));
            for command in commands(&site, id) {
                println!("      $ {command}");
            }
            println!("    and mapped executable, with the SHA-256 that the kernel computed:");
            for (path, digest) in files {
                println!("      {digest:.16}…  {path}");
            }
        }
        println!();
        assert_eq!(containers.len(), 2, "containers");
    });
    step("the same facts as a verifier gets them: an IMA list (first lines)");
    let list = site.list();
    let list = list.to_str().expect("a plain path");
    let ascii = process::run(&[CIMA, "log", list]).succeeded();
    for line in ascii
        .lines()
        .filter(|line| !line.contains(" cima-ctx:"))
        .take(7)
    {
        println!("    {line:.150}");
    }
    step("cima verify: does the list replay to the TPM's PCR 13?");
    claims.claim("the list is in the TPM", || {
        let ran = process::run(&[CIMA, "verify", "--tpm", "--", list]);
        show(&format!("{}{}", ran.stdout, ran.stderr));
        ran.succeeded();
    });
    step("an intruder replaces one digest in a copy of the list, and makes its hashes fit");
    claims.claim("the tampered copy is refused", || {
        forge(list);
        let ran = process::run(&[CIMA, "verify", "--tpm", "--", "/tmp/forged.ima"]);
        show(&format!("{}{}", ran.stdout, ran.stderr));
        assert_eq!(ran.code(), Some(1), "exit code");
    });
}

fn step(what: &str) {
    println!("\n── {what}");
}

fn show(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}

/// Container id → path → digest of what it mapped executable.
fn by_container(site: &Site) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut containers: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for event in site.context_events() {
        let mapping = &event["mapping"];
        if !mapping.is_null() {
            let files = containers
                .entry(text(&event["identity"]["container_id"]))
                .or_default();
            files.insert(text(&mapping["file"]["path"]), text(&mapping["digest"]));
        }
    }
    containers
}

/// What a container executed.
fn commands(site: &Site, container: &str) -> Vec<String> {
    site.context_events()
        .iter()
        .filter(|event| text(&event["identity"]["container_id"]) == container)
        .filter_map(|event| event["execution"]["args"].as_array())
        .map(|args| args.iter().map(text).collect::<Vec<_>>().join(" "))
        .collect()
}

/// A copy in which the last program has another digest, with template hash and d-ng made to fit.
fn forge(list: &str) {
    let bytes = fs::read(format!("{list}/00000001.ima")).expect("the list is there");
    let entries: Vec<_> = ima_log::BinaryReader::detect(bytes.as_slice())
        .map(|record| record.expect("the list is whole").1)
        .collect();
    let victim = entries
        .iter()
        .rposition(|entry| entry.display_name().starts_with("cima-exec:"))
        .expect("there is a program");
    let mut forged = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if index == victim {
            let payload = format!("v1;sha256:{}", "0".repeat(64));
            let name = entry.display_name();
            ima_log::Entry::ima_buf(
                entry.pcr,
                ima_log::HashAlgorithm::Sha256,
                name,
                payload.as_bytes(),
            )
            .expect("the name was good before")
            .append_binary(&mut forged);
        } else {
            entry.append_binary(&mut forged);
        }
    }
    fs::write("/tmp/forged.ima", forged).expect("/tmp can be written");
}
