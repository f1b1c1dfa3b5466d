// SPDX-License-Identifier: Apache-2.0
//! Evidence of a node, for verifiers elsewhere: what the node did is played here, with each sink whose entries are in PCR 10; an unmodified
//! Keylime judges what comes out of the guest afterwards, on the host (`keylime-plugin/tests/test_guests.py`).
//! In `/out/attest`: references of images, evidence by name, and the nonce in it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::Scenario;
use crate::agent::{CIMA, Site, eventually};
use crate::claims::Claims;
use crate::podman::{self, DEBIAN, Runtime, TINY, podman};
use crate::tpm_proxy::SoftTpm;
use crate::{hooks, host_list, kernel_sink, process};

pub(crate) const KERNEL: Scenario = Scenario {
    name: "attest-kernel",
    about: "evidence for a verifier elsewhere, with the sink kernel",
    play: |claims, _| play(claims, "kernel"),
};

pub(crate) const IMA_FILE: Scenario = Scenario {
    name: "attest-ima-file",
    about: "the same with the sink ima-file",
    play: |claims, _| play(claims, "ima-file"),
};

/// On a machine without a TPM that the kernel knows: its IMA extends nothing then.
pub(crate) const PCR: Scenario = Scenario {
    name: "attest-pcr",
    about: "the same with the sink pcr, in PCR 10, which the kernel leaves alone",
    play: |claims, _| play(claims, "pcr"),
};

const OUT: &str = "/out/attest";
/// The list as ASCII, where the agent of a verifier would look for it with the sink `pcr`.
const ASCII: &str = "/run/cima/ascii_runtime_measurements";
/// How long evidence is asked for while entries come: with the sink whose entries come by themselves, and with the others.
const CHURN: Duration = Duration::from_secs(60);
const SHORT_CHURN: Duration = Duration::from_secs(20);
/// The image of the next release.
const NEXT: &str = "localhost/debian:2";

fn play(claims: &mut Claims, sink: &str) {
    fs::create_dir_all(OUT).expect("the host takes files");
    // Before there is a hook: it refuses without an agent.
    claims.claim("images have references", || {
        podman(
            Runtime::Crun,
            &[
                "run",
                "--name",
                "next",
                DEBIAN,
                "sh",
                "-c",
                "cp /usr/bin/factor /usr/bin/next; echo >> /usr/bin/next",
            ],
        )
        .succeeded();
        podman(Runtime::Crun, &["commit", "-q", "next", NEXT]).succeeded();
        podman(Runtime::Crun, &["rm", "next"]).succeeded();
        for (image, name) in [(DEBIAN, "debian"), (NEXT, "next"), (TINY, "tiny")] {
            let to = format!("{OUT}/{name}.reference.json");
            let of = format!("containers-storage:{image}");
            process::run(&[CIMA, "reference", &of, "-o", &to]).succeeded();
        }
    });
    let tpm = (sink == "pcr").then(|| SoftTpm::start("attest"));
    let site = hooks::site("violation");
    configure(&site, sink, tpm.as_ref());
    let node = Node {
        tcti: tpm
            .as_ref()
            .map_or_else(|| "device:/dev/tpmrm0".to_owned(), SoftTpm::tcti),
        ascii: if sink == "pcr" {
            ASCII
        } else {
            host_list::ASCII
        },
    };
    claims.claim("a node that runs a known image gives evidence", || {
        let agent = site.start();
        podman::run(Runtime::Crun, DEBIAN, &["/usr/bin/factor", "15"]).succeeded();
        settled(&site);
        let evidence = node.evidence("good");
        assert!(lines(&evidence) > 5, "{evidence}");
        agent.stop();
    });
    claims.claim(
        "and goes on after the agent was stopped, and after it was killed",
        || {
            for (name, signal) in [("stopped", Signal::TERM), ("killed", Signal::KILL)] {
                let agent = site.start();
                podman::run(Runtime::Runc, DEBIAN, &["ls", "/"]).succeeded();
                settled(&site);
                match signal {
                    Signal::TERM => agent.stop(),
                    _ => agent.kill(),
                }
                let agent = site.start();
                node.evidence(name);
                agent.stop();
            }
        },
    );
    claims.claim("evidence while entries come: a quote and its list belong together each time", || {
        let agent = site.start();
        let all = "for program in /usr/bin/*; do [ -f $program ] && timeout 2 $program --version < /dev/null; done > /dev/null 2>&1; sleep 1";
        let busy = podman::spawn(Runtime::Crun, DEBIAN, all);
        let churn = match sink {
            "kernel" => CHURN,
            _ => SHORT_CHURN,
        };
        let until = Instant::now() + churn;
        let mut lengths = Vec::new();
        while Instant::now() < until {
            let evidence = node.evidence(&format!("churn-{}", lengths.len()));
            lengths.push(lines(&evidence));
        }
        busy.finish();
        assert!(lengths.is_sorted(), "a list only grows: {lengths:?}");
        let mut distinct = lengths.clone();
        distinct.dedup();
        println!("     {} pieces of evidence, {} lists", lengths.len(), distinct.len());
        assert!(distinct.len() >= 5, "hardly anything came meanwhile: {lengths:?}");
        agent.stop();
    });
    claims.claim("the next release is rolled out", || {
        let agent = site.start();
        podman::run(Runtime::Crun, NEXT, &["/usr/bin/next", "15"]).succeeded();
        settled(&site);
        node.evidence("rollout");
        agent.stop();
    });
    claims.claim("the agent goes on with another configuration", || {
        let text = fs::read_to_string(site.config()).expect("it is there");
        fs::write(site.config(), format!("{text}# The next release.\n"))
            .expect("it can be written");
        let agent = site.start();
        settled(&site);
        node.evidence("upgraded");
        agent.stop();
    });
    claims.claim("what is in no reference is in the evidence", || {
        let agent = site.start();
        let script = "cp /usr/bin/factor /usr/bin/evil; echo >> /usr/bin/evil; /usr/bin/evil 15; echo >> /usr/bin/factor; /usr/bin/factor 15";
        podman::run(Runtime::Crun, DEBIAN, &["sh", "-c", script]).succeeded();
        settled(&site);
        node.evidence("changed");
        podman::run(Runtime::Crun, TINY, &["true"]).succeeded();
        settled(&site);
        node.evidence("unknown");
        process::run(&["unshare", "--mount", "--pid", "--fork", "--", "true"]).succeeded();
        eventually("what nobody registered is in the list", || {
            let events = site.policy_events();
            let is_it = |(name, _): &(String, String)| {
                name.starts_with("cima-violation:unregistered:")
            };
            events.iter().any(is_it).then_some(())
        });
        node.evidence("violation");
        agent.stop();
    });
    claims.claim(
        "the list that was there all the time is the one in the evidence",
        || {
            let list = fs::read_to_string(node.ascii).expect("it is there");
            let evidence = node.evidence("last");
            let told = evidence["ima_measurement_list"]
                .as_str()
                .unwrap_or_default();
            assert_eq!(told, list);
        },
    );
}

/// Where evidence comes from.
struct Node {
    tcti: String,
    ascii: &'static str,
}

impl Node {
    /// Has the node make evidence, which the host gets by this name.
    #[track_caller]
    fn evidence(&self, name: &str) -> Value {
        let to = format!("{OUT}/{name}.evidence.json");
        let nonce = format!("cima-{name}");
        process::run(&[
            CIMA, "evidence", "--nonce", &nonce, "--tpm", &self.tcti, "-o", &to,
        ])
        .succeeded();
        let text = fs::read_to_string(to).expect("it was written");
        serde_json::from_str(&text).expect("it is JSON")
    }
}

fn lines(evidence: &Value) -> usize {
    let list = evidence["ima_measurement_list"].as_str();
    list.map_or(0, |list| list.lines().count())
}

/// Waits until what ran is in the list: the engine's containers are gone by then.
#[track_caller]
fn settled(site: &Site) {
    eventually("the container's end is in the list", || {
        let events = site.context_events();
        let made = events
            .iter()
            .filter(|event| event["created"].is_object())
            .count();
        let gone = events
            .iter()
            .filter(|event| event["gone"].is_object())
            .count();
        (made == gone).then_some(())
    });
}

/// The sink, and what it lacks on this node.
fn configure(site: &Site, sink: &str, tpm: Option<&SoftTpm>) {
    site.configure_shipped("kind = \"auto\"", &format!("kind = \"{sink}\""));
    if let Some(tpm) = tpm {
        site.configure_shipped("pcr = 13", "pcr = 10");
        site.configure_shipped("\"device:/dev/tpmrm0\"\n", &format!("\"{}\"\n", tpm.tcti()));
    } else {
        host_list::write_rules(kernel_sink::RULES);
    }
    if sink == "kernel" {
        kernel_sink::load();
    }
    // Its directory is systemd's to make.
    let run = Path::new(ASCII).parent().expect("a file has a directory");
    fs::create_dir_all(run).expect("/run can be written");
}
