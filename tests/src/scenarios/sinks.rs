// SPDX-License-Identifier: Apache-2.0
//! Where entries are anchored, and that each sink is what it says: with a stock kernel, an IMA rule and no module they are
//! in the kernel's own list and in PCR 10.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Scenario;
use crate::agent::{CIMA, CIMAD, Site, eventually};
use crate::claims::Claims;
use crate::evmctl;
use crate::process;
use crate::work::{Load, assert_sound, container, install};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "sinks",
    about: "entries are anchored where the configuration says, or by the best sink that works",
    play,
};

/// The kernel's own list.
const HOST_LIST: &str = "/sys/kernel/security/ima/binary_runtime_measurements";
const HOST_ASCII: &str = "/sys/kernel/security/ima/ascii_runtime_measurements";
const POLICY: &str = "/sys/kernel/security/ima/policy";
const RULE: &str = "measure func=FILE_CHECK mask=MAY_READ fowner=60990\n";
/// From one execution of the container to the next.
const EVERY: Duration = Duration::from_millis(50);
const IMA_FILE: &str = "[sink]\nkind = \"ima-file\"\n";
const AUTO: &str = "[sink]\nkind = \"auto\"\n";

fn play(claims: &mut Claims, _arguments: &[String]) {
    let first = Site::new("sinks-pcr");
    first.configure(AUTO);
    claims.claim(
        "without a module and a rule, auto takes the PCR and says why",
        || {
            first.start().stop();
            let log = first.log();
            assert!(
                log.contains("by the sink pcr: not kernel: the kernel module cima is not loaded"),
                "{log}"
            );
            assert!(
                log.contains("not ima-file: the kernel did not list"),
                "{log}"
            );
            chosen(&first, "pcr");
            first.verify().succeeded();
        },
    );
    claims.claim(
        "a sink that is asked for by name and does not work is an error that says what it lacks",
        || {
            for (kind, lack) in [
                (
                    "ima-file",
                    "measure func=FILE_CHECK mask=MAY_READ fowner=60990",
                ),
                ("kernel", "/dev/cima"),
            ] {
                let site = Site::new("sinks-none");
                site.configure(&format!("[sink]\nkind = \"{kind}\"\n"));
                let config = site.config();
                let config = config.to_str().expect("a plain path");
                let ran = process::run(&[CIMAD, "--config", config]);
                assert_eq!(ran.code(), Some(2), "{kind}: {}", ran.stderr);
                assert!(ran.stderr.contains(lack), "{kind}: {}", ran.stderr);
            }
        },
    );
    fs::write(POLICY, RULE).expect("the kernel takes a policy once");
    claims.claim(
        "a list that was begun with the PCR goes on so, though there is a rule now",
        || {
            first.start().stop();
            assert!(
                first
                    .log()
                    .contains("by the sink pcr: this boot's list was begun so"),
                "{}",
                first.log()
            );
            first.verify().succeeded();
        },
    );
    drop(first);
    let site = Site::new("sinks-file");
    site.configure(AUTO);
    claims.claim("with the rule, auto takes the kernel's list", || {
        site.start().stop();
        assert!(
            site.log().contains("by the sink ima-file: not kernel"),
            "{}",
            site.log()
        );
        chosen(&site, "ima-file");
        all_listed(&site);
    });
    claims.claim(
        "every entry is in the kernel's list, and PCR 10 is that list's in every bank",
        || {
            let agent = site.start();
            let load = Load::start(Path::new("/tmp/sinks-load"), 0, EVERY);
            load.wait_for(40);
            let executed = load.finish();
            eventually("the last is in the list", || {
                executed.last_is_in(&site.entries()).then_some(())
            });
            agent.stop();
            executed.assert_in(&site.entries());
            all_listed(&site);
            evmctl::agrees(Path::new(HOST_LIST));
        },
    );
    claims.claim(
        "a path that no file can be named like is listed by what stands for it",
        || {
            let agent = site.start();
            let name = format!("/tmp/{}/{}", "a".repeat(200), "b".repeat(200));
            let path = Path::new(&name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("/tmp can be written");
            install(path, "long");
            let ran = container(&name).output().expect("it can be started");
            assert!(ran.status.success(), "{ran:?}");
            eventually("it is listed", || {
                let events = site.policy_events();
                events
                    .iter()
                    .any(|(event, _)| event.contains("bbb"))
                    .then_some(())
            });
            agent.stop();
            let cut = |line: &&str| {
                line.contains("cima-exec:unregistered:%2Ftmp%2Faaa") && line.contains('~')
            };
            let host = fs::read_to_string(HOST_ASCII).expect("the kernel shows it");
            assert_eq!(host.lines().filter(cut).count(), 1);
            all_listed(&site);
        },
    );
    claims.claim(
        "killed again and again: everything once, nothing lost, every entry listed",
        || {
            let load = Load::start(Path::new("/tmp/sinks-kills"), 1 << 20, EVERY);
            for round in 0..4u64 {
                let agent = site.start();
                load.wait_for(10 * (round + 1));
                std::thread::sleep(Duration::from_millis(37 * round));
                agent.kill();
            }
            let agent = site.start();
            let executed = load.finish();
            eventually("the last is in the list", || {
                executed.last_is_in(&site.entries()).then_some(())
            });
            agent.stop();
            executed.assert_in(&site.entries());
            assert_eq!(assert_sound(&site.entries()), 0, "events lost");
            all_listed(&site);
            evmctl::agrees(Path::new(HOST_LIST));
        },
    );
    claims.claim("the files that are read are nobody's to find", || {
        let agent = site.start();
        let mounts = agent.proc("mountinfo");
        assert_eq!(
            mounts,
            fs::read_to_string("/proc/self/mountinfo").expect("proc"),
            "no mount of its own"
        );
        agent.stop();
    });
    claims.claim(
        "a list that says what the kernel's does not is a break that is on record",
        || {
            let list = site.list().join("00000001.ima");
            let mut bytes = fs::read(&list).expect("the list");
            let place = bytes
                .windows(12)
                .rposition(|part| part == b"/tmp/sinks-k")
                .expect("a path in a payload or name");
            bytes[place + 11] ^= 1;
            fs::write(&list, bytes).expect("root can write it");
            let agent = site.start();
            agent.stop();
            let chain: Vec<_> = site
                .policy_events()
                .into_iter()
                .filter(|(name, _)| name.starts_with("cima-violation:chain:"))
                .collect();
            assert!(
                chain.len() == 1 && chain[0].1.contains("host-list-lacks"),
                "{chain:?}"
            );
        },
    );
    claims.claim(
        "another sink asked for in the same boot is a break, too, and the new list is whole",
        || {
            let site = Site::new("sinks-change");
            site.configure("");
            site.start().stop();
            site.configure(IMA_FILE);
            site.start().stop();
            let names: Vec<_> = site
                .policy_events()
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            assert!(
                names
                    .iter()
                    .any(|name| name.starts_with("cima-violation:chain:")),
                "{names:?}"
            );
            assert!(
                names.contains(&"cima-sink:ima-file".to_owned()),
                "{names:?}"
            );
            let log = site.log();
            site.start().stop();
            assert!(
                !site.log()[log.len()..].contains("does not fit"),
                "{}",
                site.log()
            );
        },
    );
}

/// The list says what anchors it.
#[track_caller]
fn chosen(site: &Site, sink: &str) {
    let events = site.policy_events();
    let wanted = (format!("cima-sink:{sink}"), format!("v1;sink={sink}"));
    assert!(events.contains(&wanted), "{events:?}");
    let events = site.context_events();
    assert_eq!(events[0]["start"]["sink"], sink, "{}", events[0]);
}

/// Each entry of the list is a file of the kernel's list, under its bare name, with its payload's digest.
#[track_caller]
fn all_listed(site: &Site) {
    let host = fs::read_to_string(HOST_ASCII).expect("the kernel shows it");
    let listed: BTreeSet<_> = host.lines().map(digest_and_name).collect();
    let list = site.list();
    let own = process::run(&[CIMA, "log", list.to_str().expect("a plain path")]).succeeded();
    let mut count = 0;
    for line in own.lines() {
        let (digest, name) = digest_and_name(line);
        let plain = name.replace('/', "%2F");
        let is_it = |entry: &(&str, &str)| {
            let is_name = if plain.len() < 254 {
                entry.1 == plain
            } else {
                entry.1.len() == 254 && plain.starts_with(&entry.1[..189])
            };
            entry.0 == digest && is_name
        };
        assert!(listed.iter().any(is_it), "the kernel has not listed {line}");
        count += 1;
    }
    assert!(count > 5, "{count} entries");
}

/// Of a line of an ASCII list.
fn digest_and_name(line: &str) -> (&str, &str) {
    let mut words = line.split(' ').skip(3);
    (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    )
}
