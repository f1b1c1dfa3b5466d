// SPDX-License-Identifier: Apache-2.0
//! Who is a container though nobody said so: by the calls that led to its mount namespace, and by nothing that is
//! done later. What executes in one is measured, a violation or refused, with or without an agent.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::Scenario;
use crate::act::ACT;
use crate::agent::{Running, Site, eventually, text};
use crate::claims::Claims;
use crate::hooks::{self, HOOK, listed};
use crate::podman::{self, DEBIAN, Runtime, TINY, podman};
use crate::process;
use crate::work;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "unregistered",
    about: "what executes in a container that nobody registered is measured, a violation or refused",
    play,
};

const NEWNS: &str = "0x20000";
const NEWPID: &str = "0x20000000";
const NEWCGROUP: &str = "0x02000000";
const NEWUSER: &str = "0x10000000";
const BOTH: &str = "0x20020000";

/// Acts that lead to a container by the shipped rules.
const CONTAINERS: &[(&str, &[&str])] = &[
    ("one unshare", &["unshare", BOTH, "fork"]),
    ("one clone3", &["clone", BOTH]),
    (
        "pid, then mount, in the child",
        &["clone", NEWPID, "unshare", NEWNS],
    ),
    ("mount, then pid", &["unshare", NEWNS, "clone", NEWPID]),
    (
        "pid for children, then mount",
        &["unshare", NEWPID, "unshare", NEWNS, "fork"],
    ),
    ("user, then the rest", &["unshare", NEWUSER, "clone", BOTH]),
    (
        "mount, then cgroup last",
        &["unshare", NEWNS, "fork", "unshare", NEWCGROUP],
    ),
];

/// Acts that do not.
const HOST: &[(&str, &[&str])] = &[
    ("a mount namespace, as of PrivateTmp=", &["unshare", NEWNS]),
    (
        "pid and user without mount, as of a browser",
        &["unshare", NEWUSER, "clone", NEWPID],
    ),
    ("a clone with a mount namespace", &["clone", NEWNS]),
];

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = hooks::site("deny");
    let agent = site.start();
    for (name, acts) in CONTAINERS {
        claims.claim(&format!("a container: {name}"), || {
            assert_eq!(executes(acts), Some(126), "it is refused");
        });
    }
    for (name, acts) in HOST {
        claims.claim(&format!("not a container: {name}"), || {
            assert_eq!(executes(acts), Some(0), "it is not refused");
        });
    }
    claims.claim("not a container: what a service in a mount namespace of its own does later", || {
        // As a browser under PrivateTmp= does.
        let inner = format!("{ACT} clone {NEWPID} execute /bin/true && {ACT} unshare {NEWUSER} clone {NEWPID} execute /bin/true");
        process::run(&["unshare", "--mount", "sh", "-c", &inner]).succeeded();
    });
    claims.claim("but it may make containers, which are", || {
        let inner = format!("{ACT} unshare {NEWNS} clone {NEWPID} execute /bin/true");
        let ran = process::run(&["unshare", "--mount", "sh", "-c", &inner]);
        assert_eq!(ran.code(), Some(126), "{}", ran.stderr);
    });
    claims.claim(
        "a container that is made by two programs, once its root is exchanged",
        || {
            let inner = "cd /tmp/two && pivot_root . old && exec /bin/busybox true";
            let outer = format!(
                "mkdir -p /tmp/two/old /tmp/two/bin && cp /usr/bin/busybox /tmp/two/bin &&
            mount --bind /tmp/two /tmp/two && exec unshare --pid --fork sh -ec '{inner}'"
            );
            let ran = process::run(&["unshare", "--mount", "sh", "-ec", &outer]);
            assert_eq!(ran.code(), Some(126), "{}", ran.stderr);
            assert!(
                ran.stderr.contains("Operation not permitted"),
                "{}",
                ran.stderr
            );
            let refused = "cima-violation:unregistered:unregistered:/bin/busybox";
            listed(&site, refused);
        },
    );
    claims.claim("what is refused is in the list", || {
        listed(
            &site,
            "cima-violation:unregistered:unregistered:/usr/bin/true",
        );
        let refused = eventually("it is a context event", || {
            site.context_events()
                .into_iter()
                .find(|event| event["refused"].is_object())
        });
        assert!(
            text(&refused["refused"]["file"]["path"]).ends_with("/true"),
            "{refused}"
        );
    });
    for runtime in Runtime::ALL {
        claims.claim(
            &format!(
                "{}: a registered container runs, and so does `podman exec`",
                runtime.name()
            ),
            || {
                let name = format!("known-{}", runtime.name());
                podman(
                    runtime,
                    &["run", "-d", "--name", &name, DEBIAN, "sleep", "600"],
                )
                .succeeded();
                podman(runtime, &["exec", &name, "true"]).succeeded();
                podman(runtime, &["rm", "-f", "-t", "0", &name]).succeeded();
            },
        );
        claims.claim(
            &format!(
                "{}: with the hook's binary gone the engine says nothing, and the kernel refuses",
                runtime.name()
            ),
            || {
                without_hook(|| {
                    let said = podman::run(runtime, TINY, &["true"]).failed();
                    println!("     podman: {}", said.trim_end());
                });
            },
        );
    }
    claims.claim(
        "mount namespaces that reuse inodes are not taken for containers that are gone",
        || reuse(&site),
    );
    claims.claim("the refusal outlives the agent", || {
        assert_eq!(executes(CONTAINERS[0].1), Some(126));
        without_hook(|| {
            podman::run(Runtime::Crun, TINY, &["true"]).failed();
        });
    });
    agent.kill();
    claims.claim("with the agent killed it is refused all the same", || {
        assert_eq!(executes(CONTAINERS[0].1), Some(126));
        without_hook(|| {
            podman::run(Runtime::Crun, TINY, &["true"]).failed();
        });
    });
    let agent = site.start();
    claims.claim("the rules change at run time: by SIGHUP", || {
        set(&site, &agent, "unregistered", "\"violation\"");
        let path = Path::new("/tmp/only-now");
        work::install(path, "only-now");
        work::container("/tmp/only-now")
            .status()
            .expect("unshare can be started");
        listed(
            &site,
            "cima-violation:unregistered:unregistered:/tmp/only-now",
        );
        listed(&site, "cima-exec:unregistered:/tmp/only-now");
    });
    claims.claim("and which flags make a container", || {
        set(&site, &agent, "candidate", "[\"newns+newuts\"]");
        set(&site, &agent, "unregistered", "\"deny\"");
        assert_eq!(
            executes(CONTAINERS[0].1),
            Some(0),
            "mount and pid do no more"
        );
        assert_eq!(
            executes(&["unshare", "0x04020000"]),
            Some(126),
            "mount and uts do"
        );
    });
    agent.stop();
    claims.claim("cima verify finds the list in the TPM", || {
        site.verify().succeeded();
    });
}

/// Does acts, then executes a program; its exit code, 126 if it could not be executed.
#[track_caller]
fn executes(acts: &[&str]) -> Option<i32> {
    let words = [&[ACT], acts, &["execute", "/bin/true"]].concat();
    let ran = process::run(&words);
    if ran.code() == Some(126) {
        assert!(
            ran.stderr.contains("Operation not permitted"),
            "{}",
            ran.stderr
        );
    }
    ran.code()
}

fn without_hook(body: impl FnOnce()) {
    fs::rename(HOOK, "/tmp/hook-away")
        .or_else(|_| {
            fs::copy(HOOK, "/tmp/hook-away")
                .and_then(|_| fs::remove_file(HOOK))
                .map(drop)
        })
        .expect("the hook can be taken away");
    body();
    fs::copy("/tmp/hook-away", HOOK).expect("the hook can be put back");
}

/// Changes a key of the policy and has it taken.
fn set(site: &Site, agent: &Running<'_>, key: &str, value: &str) {
    let text = fs::read_to_string(site.policy()).expect("the policy is there");
    let changed = text.lines().map(|line| {
        if line.starts_with(&format!("{key} =")) {
            format!("{key} = {value}\n")
        } else {
            format!("{line}\n")
        }
    });
    let before = site.log().matches("is in force").count();
    site.write_policy(&changed.collect::<String>());
    agent.signal(Signal::HUP);
    eventually("the policy is taken", || {
        (site.log().matches("is in force").count() >= before + 2).then_some(())
    });
}

/// Containers come and go, then namespaces that are none get their inodes, and the other way round.
fn reuse(site: &Site) {
    let before = hooks::created(site).len();
    for _ in 0..3 {
        podman::run(Runtime::Crun, TINY, &["true"]).succeeded();
        let children: Vec<_> = (0..20)
            .map(|_| {
                Command::new("unshare")
                    .args(["--mount", "sleep", "2"])
                    .stdin(Stdio::null())
                    .spawn()
                    .expect("unshare can be started")
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(executes(CONTAINERS[0].1), Some(126));
        for mut child in children {
            assert!(
                child.wait().is_ok_and(|status| status.success()),
                "a namespace that is none runs"
            );
        }
    }
    let told = hooks::created(site).split_off(before);
    let inodes: std::collections::BTreeSet<_> =
        told.iter().map(|one| one["mnt_ns"].as_u64()).collect();
    println!("     {} containers had {} inodes", told.len(), inodes.len());
    site.caught_up();
    let events = site.context_events();
    let sleeps = events.iter().filter(|event| {
        event["execution"]["args"][0] == "sleep" && event["execution"]["args"][1] == "2"
    });
    assert_eq!(sleeps.count(), 0, "they are the host's");
}
