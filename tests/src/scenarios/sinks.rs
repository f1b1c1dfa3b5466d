// SPDX-License-Identifier: Apache-2.0
//! Where entries are anchored, and that each sink is what it says: with a stock kernel, an IMA rule and no module they are
//! in the kernel's own list and in PCR 10.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ima_log::HashAlgorithm;

use super::Scenario;
use crate::agent::{CIMA, CIMAD, Site, eventually};
use crate::claims::Claims;
use crate::evmctl;
use crate::process;
use crate::work::{Executed, Load, assert_sound, container, install};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "sinks",
    about: "entries are anchored where the configuration says, or by the best sink that works",
    play,
};

/// The kernel's own list.
const HOST_LIST: &str = "/sys/kernel/security/ima/binary_runtime_measurements";
const HOST_ASCII: &str = "/sys/kernel/security/ima/ascii_runtime_measurements";
const POLICY: &str = "/sys/kernel/security/ima/policy";
const RULE: &str = "measure func=FILE_CHECK mask=MAY_READ fsname=devtmpfs fowner=60990\n";
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
            for (kind, lack) in [("ima-file", RULE.trim_end()), ("kernel", "/dev/cima")] {
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
    claims.claim(
        "PCR 10 is refused while the kernel's IMA extends it",
        || {
            let site = Site::new("sinks-host-pcr");
            site.configure("[sink]\nkind = \"pcr\"\npcr = 10\n");
            let said = site.refused();
            assert!(
                said.contains("PCR 10 is extended by the kernel's own IMA"),
                "it says {said}"
            );
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
    claims.claim(
        "cima doctor says that the list was begun with the PCR, and does not know of the rule until it is tried",
        || {
            let sink = doctor(&first, &[], "sink");
            assert_eq!(sink["facts"]["chosen"], "pcr", "{sink}");
            assert_eq!(sink["facts"]["kept"], "pcr", "{sink}");
            let other = Site::new("sinks-doctor");
            other.configure(AUTO);
            let sink = doctor(&other, &[], "sink");
            let candidates = serde_json::json!(["ima-file", "pcr"]);
            assert_eq!(sink["facts"]["candidates"], candidates, "{sink}");
            let sink = doctor(&other, &["--try"], "sink");
            assert_eq!(sink["facts"]["chosen"], "ima-file", "{sink}");
            // The try is in the kernel's list.
            let rule = doctor(&other, &[], "IMA rule");
            assert_eq!(rule["state"], "good", "{rule}");
            assert_eq!(doctor(&other, &[], "sink")["facts"]["chosen"], "ima-file");
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
        verified(&site);
    });
    claims.claim(
        "every entry is in the kernel's list, and PCR 10 is that list's in every bank",
        || {
            let agent = site.start();
            let load = Load::start(Path::new("/tmp/sinks-load"), 0, EVERY);
            load.wait_for(40);
            // The agent is at work, and so is the kernel.
            for _ in 0..5 {
                good(&site);
            }
            let executed = load.finish();
            eventually("the last is in the list", || {
                executed.last_is_in(&site.entries()).then_some(())
            });
            agent.stop();
            whole(&site, &executed);
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
            whole(&site, &executed);
        },
    );
    claims.claim(
        "root of a container cannot put an entry there: not by a path that is too long, nor by a detached mount",
        || {
            let agent = site.start();
            forge();
            let host = fs::read_to_string(HOST_ASCII).expect("the kernel shows it");
            let forged: Vec<_> = host.lines().filter(|line| line.contains("forged")).collect();
            assert!(forged.is_empty(), "{forged:?}");
            agent.stop();
            let left = fs::read_dir("/dev/.cima").expect("the agent made it").count();
            assert_eq!(left, 0, "files that are left");
        },
    );
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
            let ran = site.verify_in("10");
            assert_eq!(ran.code(), Some(1), "{}", ran.stderr);
            for said in [
                "it is not in the host's list",
                "is not in the ledger",
                "PCR 10 sha256 match",
            ] {
                assert!(ran.stdout.contains(said), "{said}: {}", ran.stdout);
            }
            let agent = site.start();
            agent.stop();
            let ran = site.verify_in("10");
            assert_eq!(ran.code(), Some(1), "{}", ran.stderr);
            assert!(
                ran.stdout.contains("the chain is broken here"),
                "{}",
                ran.stdout
            );
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
            // The new segment says all of it again.
            let list = site.list().join("00000002.ima");
            let own = listed(&list);
            for part in ["binary", "probes", "policy", "admission"] {
                let name = format!("cima-agent:{part}");
                assert!(own.iter().any(|(_, own)| *own == name), "{name}: {own:?}");
            }
        },
    );
    claims.claim(
        "a list that was removed is missed: the kernel's has its batches",
        || {
            fs::remove_dir_all(site.list()).expect("root can remove it");
            site.start().stop();
            let chain: Vec<_> = site
                .policy_events()
                .into_iter()
                .filter(|(name, _)| name.starts_with("cima-violation:chain:"))
                .collect();
            assert!(
                chain.len() == 1 && chain[0].1.contains("host-list-has"),
                "{chain:?}"
            );
            all_listed(&site);
        },
    );
}

/// What root of a container may do by default: give a file of its own to that user, and read it where it has no path.
fn forge() {
    let script = "mount -t tmpfs none /tmp && cd /tmp
        name=$(printf '%0250d' 0)
        for level in $(seq 20); do mkdir $name && cd -P $name 2>/dev/null || cd $name; done
        echo 'v1;forged' > cima-exec:forged:deep && chown 60990 cima-exec:forged:deep && cat cima-exec:forged:deep > /dev/null
        mkdir /mnt/forge && mount -t tmpfs none /mnt/forge && cd /mnt/forge
        echo 'v1;forged' > cima-exec:forged:detached && chown 60990 cima-exec:forged:detached
        umount -l /mnt/forge && cat ./cima-exec:forged:detached > /dev/null && rmdir /mnt/forge";
    process::run(&["unshare", "--mount", "bash", "-ec", script]).succeeded();
}

/// What `cima doctor` says first of a part; other parts may lack what they will.
#[track_caller]
fn doctor(site: &Site, more: &[&str], part: &str) -> serde_json::Value {
    let config = site.config();
    let config = config.to_str().expect("a plain path");
    let words = [&[CIMA, "doctor", "--json", "--config", config], more].concat();
    let ran = process::run(&words);
    let page: serde_json::Value = serde_json::from_str(&ran.stdout).expect("it is JSON");
    let findings = page["findings"].as_array().expect("a list").iter();
    let mut findings = findings.filter(|finding| finding["part"] == part);
    findings.next().expect("the part is there").clone()
}

/// All that was executed is in the list once, all of that in the kernel's, and that in PCR 10, whoever judges.
#[track_caller]
fn whole(site: &Site, executed: &Executed) {
    executed.assert_in(&site.entries());
    assert_eq!(assert_sound(&site.entries()), 0, "events lost");
    all_listed(site);
    verified(site);
    verified_alone();
    evmctl::agrees(Path::new(HOST_LIST));
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

/// `cima verify` finds no fault with the kernel's list and the agent's in it, and says this.
#[track_caller]
fn good(site: &Site) -> String {
    let ran = site.verify_in("10");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code(), Some(0), "{said}");
    assert!(said.contains(" of the ledger"), "{said}");
    said
}

/// While nobody is at work: the kernel's list is what PCR 10 holds in each bank.
#[track_caller]
fn verified(site: &Site) {
    let said = good(site);
    for bank in ["sha1  ", "sha256", "sha384", "sha512"] {
        assert!(said.contains(&format!("PCR 10 {bank} match")), "{said}");
    }
}

/// The same of the kernel's list by itself, in each form that it has.
#[track_caller]
fn verified_alone() {
    let dir = Path::new(HOST_LIST).parent().expect("it has one");
    let mut forms = 0;
    for file in fs::read_dir(dir).expect("the kernel shows it").flatten() {
        let path = file.path();
        let path = path.to_str().expect("a plain path");
        if path.contains("_runtime_measurements") {
            let ran = process::run(&[CIMA, "verify", "--tpm", "--host-list", path]);
            assert_eq!(ran.code(), Some(0), "{path}: {}{}", ran.stdout, ran.stderr);
            forms += 1;
        }
    }
    // Linux 6.10 and later have one more of each form for each bank.
    assert!(forms >= 2, "{forms}");
}

/// Each entry of the list is a file of the kernel's list, under its bare name, with its payload's digest.
#[track_caller]
fn all_listed(site: &Site) {
    let host = fs::read_to_string(HOST_ASCII).expect("the kernel shows it");
    let host: BTreeSet<_> = host.lines().map(digest_and_name).collect();
    let own = listed(&site.list());
    for (digest, name) in &own {
        let mut file = name.replace('/', "%2F");
        if file.len() > 253 {
            let whole = HashAlgorithm::Sha256.digest(name.as_bytes()).to_string();
            let whole = whole.split_once(':').expect("sha256:").1;
            file = format!("{}~{whole}", &file[..189]);
        }
        let wanted = (digest.clone(), file);
        assert!(
            host.contains(&wanted),
            "the kernel has not listed {wanted:?}"
        );
    }
    assert!(own.len() > 5, "{own:?}");
}

/// Digest and name of each entry of a list.
#[track_caller]
fn listed(list: &Path) -> Vec<(String, String)> {
    let own = process::run(&[CIMA, "log", list.to_str().expect("a plain path")]).succeeded();
    own.lines().map(digest_and_name).collect()
}

/// Of a line of an ASCII list.
fn digest_and_name(line: &str) -> (String, String) {
    let mut words = line.split(' ').skip(3).map(str::to_owned);
    (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    )
}
