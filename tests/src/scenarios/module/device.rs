// SPDX-License-Identifier: Apache-2.0
//! /dev/cima: who may write, what is taken, and what becomes of the module meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{counter, insmod};
use crate::act::Actor;
use crate::claims::Claims;
use crate::host_list;
use crate::process;

/// The program of `tests/device`.
const DEVICE: &str = "/cima/bin/cima-device";
const NODE: &str = "/dev/cima";

pub(super) fn without_a_rule(claims: &mut Claims) {
    claims.claim("without a rule a write is ENOENT, and counted", || {
        assert_eq!(submit("cima-ctx:0", "v1;no rule"), "ENOENT");
        assert_eq!(counter("unmatched"), 1);
        assert_eq!(counter("listed"), 0);
    });
}

pub(super) fn play(claims: &mut Claims) {
    claims.claim(
        "what root submits is in the list as it was submitted",
        || {
            let image = "ab".repeat(32);
            for (name, payload) in [
                (
                    format!("cima-image:sha256:{image}"),
                    format!("v1;image=sha256:{image}"),
                ),
                ("cima-ctx:0".to_owned(), "v1;a batch\x01\x02\x7f".to_owned()),
                (
                    "cima-violation:loss:unregistered:".to_owned(),
                    "v1;loss;cause=x".to_owned(),
                ),
                ("cima-sink:kernel".to_owned(), "v1;sink=kernel".to_owned()),
                ("cima-agent:binary".to_owned(), "v1;sha256:00".to_owned()),
            ] {
                assert_eq!(submit(&name, &payload), "LISTED");
                assert_eq!(host_list::count(&name, &payload), 1, "{name} in the list");
            }
            assert_eq!(counter("listed"), 5);
        },
    );
    claims.claim(
        "the same entry again is EEXIST, and not listed again",
        || {
            assert_eq!(submit("cima-agent:binary", "v1;sha256:00"), "EEXIST");
            assert_eq!(host_list::count("cima-agent:binary", "v1;sha256:00"), 1);
            assert_eq!(counter("repeated"), 1);
        },
    );
    claims.claim("nobody but root may submit", others);
    claims.claim("a wrong record is refused, a strange one taken", || {
        let refused = counter("refused");
        let said = process::run(&[DEVICE, "refusals"]).stdout;
        assert_eq!(said, "", "what was not as expected");
        assert!(counter("refused") > refused + 40);
    });
    claims.claim("eight writers at once: each entry is listed, once", storm);
    claims.claim(
        "writers that are killed, forked and closed under way",
        || {
            let said = process::run(&[DEVICE, "kill", "10"]).succeeded();
            println!("     {} writers", said.trim());
            host_list::replays();
        },
    );
    claims.claim("the module does not go while the device is open", || {
        let holder = Actor::of(Command::new(DEVICE).arg("hold"));
        assert_eq!(device(&["unload"]), "EAGAIN");
        let said = process::run(&["rmmod", "cima"]).failed();
        assert!(said.contains("is in use"), "rmmod says {said}");
        holder.finish();
        assert_eq!(device(&["unload"]), "OK");
        assert!(!fs::exists(NODE).expect("/dev can be looked into"));
        insmod("").succeeded();
    });
}

/// Everyone who is not root of the host, by every way in.
fn others() {
    let submit = [DEVICE, "submit", "cima-ctx:others", "v1;"];
    let said = |way: &[&str]| {
        let words = [way, &submit].concat();
        process::run(&words).succeeded().trim().to_owned()
    };
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let mode = fs::metadata(NODE).expect("it is there").mode();
    assert_eq!(mode & 0o7777, 0o600, "mode of the device");
    assert_eq!(said(&nobody), "EACCES");
    process::run(&["chmod", "666", NODE]).succeeded();
    assert_eq!(
        said(&nobody),
        "EPERM",
        "another user, with the file mode's consent"
    );
    assert_eq!(
        said(&["unshare", "--user", "--map-root-user"]),
        "EPERM",
        "root of a namespace"
    );
    assert_eq!(
        said(&["setpriv", "--bounding-set=-sys_admin"]),
        "EPERM",
        "root without CAP_SYS_ADMIN"
    );
    process::run(&["chmod", "600", NODE]).succeeded();
    let inherited = format!(
        "exec 5>{NODE}; exec {} {DEVICE} inherited 5 cima-ctx:others v1;",
        nobody.join(" ")
    )
    .replace("v1;", "'v1;'");
    let said = process::run(&["sh", "-c", &inherited]).succeeded();
    assert_eq!(said.trim(), "EPERM", "a descriptor that leaked");
    assert_eq!(host_list::count("cima-ctx:others", "v1;"), 0);
}

fn storm() {
    let (processes, entries) = (8, 100);
    let words = [DEVICE, "storm", "8", "100"];
    let said = process::run(&words).succeeded();
    // Every tenth is the same for all.
    let expected = processes * entries * 9 / 10 + entries / 10;
    assert_eq!(
        said.trim(),
        expected.to_string(),
        "listed, as the writers say"
    );
    let mut names: Vec<String> = host_list::entries()
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| name.starts_with("cima-ctx:storm-"))
        .collect();
    assert_eq!(names.len(), expected, "in the list");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), expected, "in the list, each once");
    host_list::replays();
}

pub(super) fn come_and_go() {
    let mut pester = Command::new(DEVICE)
        .args(["pester", "1000"])
        .stdout(Stdio::null())
        .spawn()
        .expect("it can be started");
    let mut busy = 0;
    for _ in 0..50 {
        while device(&["unload"]) != "OK" {
            busy += 1;
        }
        insmod("").succeeded();
    }
    pester.kill().expect("it runs");
    pester.wait().expect("it runs");
    println!("     {busy} times it was in use, and stayed");
}

pub(super) fn fuzzed() {
    let words = [DEVICE, "fuzz", "20", "42"];
    let said = process::run_within(Duration::from_secs(120), &words).succeeded();
    for line in said.lines() {
        println!("     {line}");
    }
    assert_eq!(said.lines().count(), 3, "each process comes to its end");
}

/// Submits one entry as root: LISTED or the error's name.
#[track_caller]
pub(super) fn submit(name: &str, payload: &str) -> String {
    device(&["submit", name, payload])
}

#[track_caller]
fn device(words: &[&str]) -> String {
    let all = [&[DEVICE], words].concat();
    process::run(&all).succeeded().trim().to_owned()
}
