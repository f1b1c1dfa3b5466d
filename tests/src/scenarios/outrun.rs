// SPDX-License-Identifier: Apache-2.0
//! Sink `kernel`: what is executed in a container is in the kernel's own list and in PCR 10 before its first instruction, whatever
//! it then does to the agent. And how far the same comes with the sinks whose entries the agent gives.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::Scenario;
use crate::agent::{CIMA, Site, eventually};
use crate::claims::Claims;
use crate::podman::{DEBIAN, Runtime, podman};
use crate::process::{self, Ran};
use crate::work::{Load, assert_sound};
use crate::{evmctl, hooks, host_list, kernel_sink};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "outrun",
    about: "with the kernel module no program outruns its own measurement; how far one comes without it",
    play,
};

/// Gives the module an entry, as root may.
const DEVICE: &str = "/cima/bin/cima-device";
/// From one execution of the container to the next.
const EVERY: Duration = Duration::from_millis(50);

fn play(claims: &mut Claims, _arguments: &[String]) {
    host_list::write_rules(kernel_sink::RULES);
    kernel_sink::install();
    claims.claim(
        "without the module, the sink is an error that says so",
        || {
            let site = Site::new("outrun-none");
            site.configure("[sink]\nkind = \"kernel\"\n");
            let ran = site.refused();
            assert!(
                ran.contains("the kernel module cima is not loaded"),
                "{ran}"
            );
        },
    );
    kernel_sink::insmod().succeeded();
    let site = Site::new("outrun-kernel");
    site.configure("[sink]\nkind = \"auto\"\n");
    claims.claim("with the module, auto takes the kernel's list", || {
        site.start().stop();
        assert!(
            site.log()
                .contains("by the sink kernel: it is the best there is"),
            "{}",
            site.log()
        );
        all_listed(&site);
    });
    claims.claim(
        "a program finds itself in the list by its first act, though the agent sleeps",
        || {
            let agent = site.start();
            agent.signal(Signal::STOP);
            let program = copy("asleep");
            let list = process::run(&[
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--",
                &program,
                "cat",
                host_list::ASCII,
            ]);
            agent.signal(Signal::CONT);
            let list = list.succeeded();
            let last = list.lines().last().expect("the list is not empty");
            assert!(
                last.contains(&format!(" cima-exec:unregistered:{program} ")),
                "the last is {last}"
            );
            agent.stop();
            let name = format!("cima-exec:unregistered:{program}");
            assert_eq!(
                host_list::entries()
                    .iter()
                    .filter(|entry| entry.name == name)
                    .count(),
                1
            );
            all_listed(&site);
        },
    );
    claims.claim("killed again and again at work: everything once, all of it listed, PCR 10 fits in every bank", || {
        let load = Load::start(Path::new("/tmp/outrun-load"), 0, EVERY);
        for round in 0..3u64 {
            let agent = site.start();
            load.wait_for(10 * (round + 1));
            std::thread::sleep(Duration::from_millis(41 * round));
            agent.kill();
        }
        let agent = site.start();
        let executed = load.finish();
        eventually("the last is in the list", || executed.last_is_in(&site.entries()).then_some(()));
        agent.stop();
        executed.assert_in(&site.entries());
        assert_eq!(assert_sound(&site.entries()), 0, "events lost");
        site.verify_in("10").succeeded();
        all_listed(&site);
        let (entries, _) = host_list::replays();
        println!("     {entries} entries");
        fs::copy(host_list::BINARY, "/tmp/host.ima").expect("the list can be copied");
        evmctl::agrees(Path::new("/tmp/host.ima"));
    });
    claims.claim(
        "what the kernel listed and told nobody of is in the agent's list, too",
        || {
            let name = |when: &str| format!("cima-exec:unregistered:/untold-{when}");
            let submit = |when: &str| {
                let said = process::run(&[DEVICE, "submit", &name(when), "v1;sha256:00"]);
                assert_eq!(said.succeeded().trim(), "LISTED");
            };
            submit("before");
            let agent = site.start();
            submit("while");
            let load = Load::start(Path::new("/tmp/outrun-untold"), 0, EVERY);
            load.wait_for(50);
            let executed = load.finish();
            eventually("the last is in the list", || {
                executed.last_is_in(&site.entries()).then_some(())
            });
            agent.stop();
            submit("after");
            let ran = site.verify_in("10");
            let warned = "1 of the host's list are not in the ledger yet";
            assert!(ran.stdout.contains(warned), "{}", ran.stdout);
            ran.succeeded();
            site.start().stop();
            let events = site.policy_events();
            for when in ["before", "while", "after"] {
                let count = events
                    .iter()
                    .filter(|(event, _)| *event == name(when))
                    .count();
                assert_eq!(count, 1, "{when}");
            }
            site.verify_in("10").succeeded();
            all_listed(&site);
        },
    );
    claims.claim("a program that first kills the agent, erases its files and unloads what it can is in PCR 10", || {
        let agent = site.start();
        let program = killer("kernel");
        let said = kills(&program, &erase(&site));
        assert!(said.stderr.contains("killed"), "{}", said.stderr);
        assert!(!site.list().exists(), "its files are erased");
        drop(agent);
        let name = format!("cima-exec:unregistered:{program}");
        let entries = host_list::entries();
        assert_eq!(entries.iter().filter(|entry| entry.name == name).count(), 1);
        host_list::replays();
        // And what it executes after that, while nobody runs.
        let later = copy("later");
        process::run(&["unshare", "--mount", "--pid", "--fork", "--", &later, "true"]).succeeded();
        let name = format!("cima-exec:unregistered:{later}");
        let is_listed = host_list::entries().iter().any(|entry| entry.name == name);
        println!("     listed after its pins were removed: {is_listed}");
        site.start().stop();
        let events = site.policy_events();
        let broken = events.iter().any(|(_, payload)| payload.contains("host-list-has"));
        assert!(broken, "that the list was erased is on record: {events:?}");
    });
    claims.claim(
        "a container of a known image: the kernel's entries have its digest",
        || {
            process::run(&["sh", "-c", "rm -rf /var/lib/cima/ledger"]).succeeded();
            let site = hooks::site("violation");
            let agent = site.start();
            assert!(site.log().contains("by the sink kernel"), "{}", site.log());
            let run = ["run", "-d", "--name", "known", DEBIAN, "sleep", "600"];
            podman(Runtime::Crun, &run).succeeded();
            let image = hooks::digest_of(DEBIAN);
            agent.signal(Signal::STOP);
            podman(Runtime::Crun, &["exec", "known", "/usr/bin/factor", "15"]).succeeded();
            let name = format!("cima-exec:{image}:/usr/bin/factor");
            let listed = host_list::entries();
            assert!(
                listed.iter().any(|entry| entry.name == name),
                "it is listed while the agent sleeps"
            );
            agent.signal(Signal::CONT);
            podman(Runtime::Crun, &["rm", "-f", "-t", "0", "known"]).succeeded();
            agent.stop();
            let names: BTreeSet<_> = host_list::entries()
                .into_iter()
                .map(|entry| entry.name)
                .collect();
            assert!(names.contains(&format!("cima-image:{image}")), "{names:?}");
            all_listed(&site);
        },
    );
    claims.claim(
        "the module stays while the probes are attached, and goes when they do",
        || {
            process::run(&["rmmod", "cima"]).failed();
            drop(site);
            for pins in fs::read_dir("/sys/fs/bpf").into_iter().flatten().flatten() {
                let _ = fs::remove_dir_all(pins.path());
            }
            eventually("nobody holds it", || {
                (process::run(&["rmmod", "cima"]).code() == Some(0)).then_some(())
            });
        },
    );
    // The others last: there is one list for a boot, and lists of other sites would be missed in it.
    for kind in ["pcr", "ima-file"] {
        claims.claim(
            &format!("sink {kind}: how far a program comes that kills the agent first"),
            || {
                let site = Site::new(&format!("outrun-{kind}"));
                site.configure(&format!("[sink]\nkind = \"{kind}\"\n"));
                let agent = site.start();
                println!("     the window: {} s", window(kind));
                let program = killer(kind);
                let said = kills(&program, "");
                assert!(said.stderr.contains("killed"), "{}", said.stderr);
                drop(agent);
                let name = format!("cima-exec:unregistered:{program}");
                let is_in = || {
                    let events = site.policy_events();
                    events.iter().any(|(event, _)| *event == name)
                };
                println!("     in the list when the agent was dead: {}", is_in());
                site.start().stop();
                assert!(is_in(), "after the next start it is in the list");
                let agent = site.start();
                let program = killer(&format!("{kind}-all"));
                let said = kills(&program, &erase(&site));
                assert!(said.stderr.contains("killed"), "{}", said.stderr);
                drop(agent);
                site.start().stop();
                let name = format!("cima-exec:unregistered:{program}");
                let list = fs::read_to_string(host_list::ASCII).expect("the kernel shows it");
                let (own, host) = (
                    site.policy_events().iter().any(|(event, _)| *event == name),
                    list.contains(&name.replace('/', "%2F")),
                );
                println!(
                    "     with its files erased and the probes removed: in the next list {own}, in the kernel's {host}"
                );
            },
        );
    }
}

/// A static program of its own name, which is busybox.
fn copy(name: &str) -> String {
    let path = format!("/tmp/busybox-{name}");
    fs::copy("/bin/busybox", &path).expect("/tmp can be written");
    path
}

/// The same, with another content for each: a known content would be nothing new.
fn killer(kind: &str) -> String {
    let path = copy(&format!("killer-{kind}"));
    let mut bytes = fs::read(&path).expect("it was made");
    bytes.extend_from_slice(kind.as_bytes());
    fs::write(&path, bytes).expect("/tmp can be written");
    path
}

/// In a mount and a cgroup namespace of its own it is a container, and has the host's pids.
fn kills(program: &str, then: &str) -> Ran {
    let script =
        format!("busybox kill -9 $(busybox pidof cimad) && echo killed >&2; {then} exit 0")
            .replace("busybox ", &format!("{program} "));
    process::run(&[
        "unshare", "--mount", "--cgroup", "--", program, "sh", "-c", &script,
    ])
}

/// The agent's files, the module and the probes' pins.
fn erase(site: &Site) -> String {
    let (state, pins) = (site.state(), site.pins());
    format!(
        "busybox rm -rf {}; busybox rmmod cima; busybox rm -rf {}/*;",
        state.display(),
        pins.display()
    )
}

/// How long a program runs until it finds itself in the kernel's list, or the PCR changed: seconds of the guest's clock.
#[track_caller]
fn window(kind: &str) -> String {
    let program = killer(&format!("window-{kind}"));
    let until = if kind == "pcr" {
        let pcr = "/sys/class/tpm/tpm0/pcr-sha256/13";
        // What it holds before: by its first look it may be over.
        let was = fs::read_to_string(pcr).expect("the kernel shows it");
        let was = was.trim();
        format!("while [ \"$(busybox cat {pcr})\" = \"{was}\" ]; do :; done")
    } else {
        let name = format!("%2Ftmp%2Fbusybox-killer-window-{kind}");
        format!(
            "while ! busybox grep -q {name} {}; do :; done",
            host_list::ASCII
        )
    };
    let script = format!(
        "read from rest < /proc/uptime; {until}; read to rest < /proc/uptime; echo $from $to"
    )
    .replace("busybox ", &format!("{program} "));
    let said = process::run(&[
        "unshare", "--mount", "--pid", "--fork", "--", &program, "sh", "-c", &script,
    ]);
    let said = said.succeeded();
    let times: Vec<f64> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    format!("{:.2}", times[1] - times[0])
}

/// The kernel's list has each entry of the site's, as it is.
#[track_caller]
fn all_listed(site: &Site) {
    let host = fs::read_to_string(host_list::ASCII).expect("the kernel shows it");
    let of = |line: &str| {
        line.split(' ')
            .skip(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let host: BTreeSet<_> = host.lines().map(of).collect();
    let list: PathBuf = site.list();
    let own = process::run(&[CIMA, "log", list.to_str().expect("a plain path")]).succeeded();
    for line in own.lines() {
        assert!(host.contains(&of(line)), "the kernel has not listed {line}");
    }
    assert!(own.lines().count() > 5, "{own}");
}
