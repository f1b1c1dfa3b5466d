// SPDX-License-Identifier: Apache-2.0
//! cimad's life: started, told of a new policy, restarted, killed, tampered with.

use std::fs;

use rustix::process::Signal;

use super::{Scenario, handover, watch};
use crate::agent::{CIMAD, Site, eventually, text};
use crate::claims::Claims;
use crate::podman::{self, DEBIAN, Runtime};
use crate::process;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "lifecycle",
    about: "cimad stops in order, reloads its policy, goes on after a restart, a kill or an upgrade, records a broken chain, and has its list watched",
    play,
};

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = Site::new("lifecycle");
    watch::allow_users(&site);
    let mut agent = Some(site.start());
    claims.claim("a second cimad on the same list is refused", || {
        let ran = process::run(&[
            CIMAD,
            "--config",
            site.config().to_str().expect("a plain path"),
        ]);
        assert_eq!(ran.code(), Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("another cimad runs"),
            "it says {}",
            ran.stderr
        );
    });
    claims.claim(
        "SIGHUP takes a new policy: the host is measured from then on",
        || {
            let agent = agent.as_ref().expect("it runs");
            assert!(!measured(&site, "/usr/bin/uname"), "not before");
            site.write_policy("version = 1\ncandidate = [\"newns+newpid\"]\nunregistered = \"allow\"\nmeasure_host = true\n");
            agent.signal(Signal::HUP);
            eventually("the host is measured", || {
                process::run(&["/usr/bin/uname"]).succeeded();
                measured(&site, "/usr/bin/uname").then_some(())
            });
            let policies = site
                .policy_events()
                .iter()
                .filter(|(name, _)| name == "cima-agent:policy")
                .count();
            assert_eq!(policies, 2, "each policy that was in force is an entry");
        },
    );
    claims.claim(
        "a wrong policy is reported and the old one stays in force",
        || {
            let agent = agent.as_ref().expect("it runs");
            site.write_policy("version = 1\ncandidates = []\n");
            agent.signal(Signal::HUP);
            eventually("it is reported", || {
                site.log()
                    .contains("the policies in force stay")
                    .then_some(())
            });
            process::run(&["/usr/bin/nproc"]).succeeded();
            eventually("the host is still measured", || {
                measured(&site, "/usr/bin/nproc").then_some(())
            });
            site.write_policy("version = 1\ncandidate = [\"newns+newpid\"]\nunregistered = \"allow\"\nmeasure_host = false\n");
            agent.signal(Signal::HUP);
            eventually("the right one is taken", || {
                (site.log().matches("is in force").count() == 2).then_some(())
            });
        },
    );
    let watched = watch::play(claims, &site);
    claims.claim(
        "SIGTERM ends in order: what ran before is in the list, and the list in the TPM",
        || {
            podman::run(Runtime::Crun, DEBIAN, &["/usr/bin/factor", "6"]).succeeded();
            agent.take().expect("it runs").stop();
            assert!(measured(&site, "/usr/bin/factor"), "it is not in the list");
            site.verify().succeeded();
        },
    );
    watched.ended(claims, &site);
    let entries = site.entries().len();
    claims.claim(
        "after a restart the list goes on, nothing is said twice",
        || {
            let again = site.start();
            podman::run(Runtime::Crun, DEBIAN, &["/usr/bin/factor", "6"]).succeeded();
            again.stop();
            let events = site.policy_events();
            let distinct: std::collections::BTreeSet<_> = events.iter().collect();
            assert_eq!(
                distinct.len(),
                events.len(),
                "a policy event is listed twice"
            );
            assert!(site.entries().len() > entries);
            site.verify().succeeded();
        },
    );
    claims.claim(
        "after kill -9 under load the list goes on, nothing is lost, and it replays to the PCR",
        || {
            let victim = site.start();
            let load = podman::spawn(
                Runtime::Crun,
                DEBIAN,
                "for i in $(seq 30); do /bin/true; ls / >/dev/null; done",
            );
            std::thread::sleep(std::time::Duration::from_millis(1900));
            victim.kill();
            load.finish();
            site.start().stop();
            assert!(
                site.policy_events()
                    .iter()
                    .all(|(name, _)| !name.starts_with("cima-violation:loss:")),
                "the queue outlives the agent: nothing is lost"
            );
            let verdict = site.verify();
            assert_eq!(
                verdict.code(),
                Some(0),
                "{}{}",
                verdict.stdout,
                verdict.stderr
            );
        },
    );
    claims.claim(
        "an extend by somebody else is recorded as a broken chain",
        || {
            let zeros = "0".repeat(64);
            process::run(&["tpm2_pcrextend", &format!("13:sha256={zeros}")]).succeeded();
            let again = site.start();
            again.stop();
            assert!(
                site.policy_events()
                    .iter()
                    .any(|(name, _)| name.starts_with("cima-violation:chain:")),
                "there is no violation"
            );
            let verdict = site.verify();
            assert_eq!(
                verdict.code(),
                Some(1),
                "{}{}",
                verdict.stdout,
                verdict.stderr
            );
        },
    );
    handover::play(claims);
    other_sinks(claims);
    claims.claim(
        "what finds the ring buffer full is counted, and is an entry",
        || {
            losses();
        },
    );
    claims.claim("systemd finds no fault in the unit", || {
        fs::create_dir_all("/usr/local/lib/systemd/system").expect("/usr can be written");
        fs::copy(
            "/cima/share/cimad.service",
            "/usr/local/lib/systemd/system/cimad.service",
        )
        .expect("it is staged");
        fs::copy(CIMAD, "/usr/sbin/cimad").expect("/usr can be written");
        let ran = process::run(&[
            "systemd-analyze",
            "verify",
            "--man=no",
            "/usr/local/lib/systemd/system/cimad.service",
        ]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            ran.code() == Some(0) && !said.contains("cimad.service:"),
            "it says {said}"
        );
    });
}

/// A file is said once per container: each of these is another.
const MANY: &str = "for i in $(seq 60); do cp /bin/true /tmp/t$i; /tmp/t$i; done";

/// The agent is held while a container executes more than a small ring buffer takes.
fn losses() {
    let site = Site::new("losses");
    site.configure_probes("[sink]\npcr = 23\n", "ring_bytes = 65536\n");
    let agent = site.start();
    agent.signal(Signal::STOP);
    podman::run(Runtime::Crun, DEBIAN, &["bash", "-c", MANY]).succeeded();
    agent.signal(Signal::CONT);
    let counted = |site: &Site| -> u64 {
        site.context_events()
            .iter()
            .filter_map(|event| event["loss"]["count"].as_u64())
            .sum()
    };
    let lost = eventually("a loss is in the list", || {
        Some(counted(&site)).filter(|lost| *lost > 0)
    });
    agent.stop();
    let events = site.policy_events();
    for cause in ["map-ring-full", "exec-ring-full"] {
        assert!(
            events.iter().any(
                |(name, payload)| name == "cima-violation:loss:unregistered:"
                    && payload.contains(cause)
            ),
            "no violation says {cause}: {events:?}"
        );
    }
    // 60 copies are made and executed, by a shell.
    let seen = site
        .context_events()
        .iter()
        .filter(|event| !event["execution"].is_null())
        .count();
    assert!(
        seen < 121 && lost > 60,
        "{seen} executions seen, {lost} events lost"
    );
    site.verify_in("23").succeeded();
}

fn other_sinks(claims: &mut Claims) {
    claims.claim(
        "a resettable PCR is taken with a warning and a PCR of its own",
        || {
            let site = Site::new("pcr16");
            site.configure("[sink]\npcr = 16\n");
            let agent = site.start();
            podman::run(Runtime::Crun, DEBIAN, &["/usr/bin/factor", "6"]).succeeded();
            agent.stop();
            assert!(
                site.log().contains("PCR 16 can be reset"),
                "it says {}",
                site.log()
            );
            site.verify_in("16").succeeded();
            let said = site.verify().stdout;
            assert!(
                said.contains("the list is kept in PCR 16, not in PCR 13"),
                "a list in another PCR than expected: {said}"
            );
        },
    );
    claims.claim(
        "with sink none there is a list that says it is not anchored",
        || {
            let site = Site::new("none");
            site.configure("[sink]\nkind = \"none\"\n");
            let agent = site.start();
            podman::run(Runtime::Crun, DEBIAN, &["/usr/bin/factor", "6"]).succeeded();
            agent.stop();
            assert!(measured(&site, "/usr/bin/factor"), "it is not in the list");
            let start = &site.context_events()[0]["start"];
            assert!(start["pcr"].is_null(), "its start says {start}");
            assert_ne!(site.verify().code(), Some(0), "nothing vouches for it");
            let said = site.log();
            assert!(said.contains("nothing vouches"), "it says {said}");
        },
    );
}

/// Whether a file's execution is in the list.
fn measured(site: &Site, path: &str) -> bool {
    let name = format!("cima-exec:unregistered:{path}");
    site.entries()
        .iter()
        .any(|entry| text(&entry["name"]) == name)
}
