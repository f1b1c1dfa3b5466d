// SPDX-License-Identifier: Apache-2.0
//! Sink `kernel` when something of it lacks: the object with the programs that list, one of them detached, room for what is
//! handed to them. And that they list what was handed to them in the same hook, once, whoever comes at the same time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use rustix::process::Signal;

use super::Scenario;
use crate::act::{ACT, Actor};
use crate::agent::{CIMA, CIMAD, Running, Site, eventually};
use crate::claims::Claims;
use crate::{host_list, kernel_sink, kfunc, metrics, process, work};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "lister",
    about: "what has the kernel list may lack, be detached, or find no room: nothing is lost, and nothing listed that is not so",
    play,
};

const RULE: &str = "measure func=CRITICAL_DATA label=cima\n";
const SHIPPED: &str = "/cima/lib/cima-list.o";
/// Where the sites have it.
const LISTER: &str = "/tmp/cima-list.o";
const PROBES: &str = "lister = \"/tmp/cima-list.o\"\n";
const KERNEL: &str =
    "[sink]\nkind = \"kernel\"\n[metrics]\nlisten = \"unix:/run/lister-metrics\"\n";
const METRICS: &str = "/run/lister-metrics";
const AUTO: &str = "[sink]\nkind = \"auto\"\n";
/// `HANDED` of `ebpf-probes/abi`: how many tasks there is room for.
const ROOM: u64 = 4096;
/// Where the digest begins in an element of that map.
const DIGEST: usize = 104;
/// How many execute the same file at once.
const TASKS: usize = 8;

fn play(claims: &mut Claims, _arguments: &[String]) {
    host_list::write_rules(RULE);
    kernel_sink::insmod().succeeded();
    unusable(claims);
    fs::copy(SHIPPED, LISTER).expect("it is in the stage");
    let site = Site::new("lister");
    site.configure_probes(KERNEL, PROBES);
    claims.claim(
        "with one of the programs detached the set is not gone on with: the next start attaches all",
        || detached(&site),
    );
    claims.claim(
        "a list that was begun with the kernel is not gone on with without the object, and lacks nothing afterwards",
        || missed(&site),
    );
    claims.claim(
        "what was left behind by another hook is not listed, and goes with the next or the task's end",
        || left_behind(&site),
    );
    claims.claim(
        "without room for what is handed on, it is counted, and the agent has it listed",
        || no_room(&site),
    );
    claims.claim(
        "whoever executes the same new file at the same time finds it in the list, which has it once",
        || at_once(&site),
    );
    claims.claim(
        "what older probes knew of mount namespaces is taken over; of another layout, it is said that it is not",
        || older(&site),
    );
    claims.claim("the list is whole, and PCR 10 is that list's", || {
        let ran = site.verify_in("10");
        assert_eq!(ran.code(), Some(0), "{}{}", ran.stdout, ran.stderr);
        host_list::replays();
    });
}

/// The object is not there, or not what it should be.
fn unusable(claims: &mut Claims) {
    type Spoil = fn(Vec<u8>) -> Option<Vec<u8>>;
    let cases: [(&str, Spoil, &str); 4] = [
        ("absent", |_| None, "cannot read /tmp/cima-list.o"),
        (
            "torn",
            |mut object| {
                object.truncate(object.len() / 2);
                Some(object)
            },
            "/tmp/cima-list.o is no object with cima's programs",
        ),
        (
            "of another version",
            |object| Some(renamed(object, "list_kernel_read", "list_kernel_reae")),
            "/tmp/cima-list.o lacks list_kernel_read",
        ),
        (
            "refused by the kernel",
            |object| Some(renamed(object, "cima_measure_file", "cima_measure_filf")),
            "the kernel refused the programs in /tmp/cima-list.o",
        ),
    ];
    for (number, (what, spoil, said)) in cases.into_iter().enumerate() {
        claims.claim(
            &format!("with an object that is {what}, auto says so and takes the next sink; by name it is an error"),
            || {
                let _ = fs::remove_file(LISTER);
                let object = fs::read(SHIPPED).expect("it is in the stage");
                if let Some(object) = spoil(object) {
                    fs::write(LISTER, object).expect("/tmp can be written");
                }
                let site = Site::new(&format!("lister-{number}"));
                site.configure_probes("[sink]\nkind = \"kernel\"\n", PROBES);
                let refused = site.refused();
                assert!(refused.contains(said), "{refused}");
                site.configure_probes(AUTO, PROBES);
                foretold(&site, said);
                site.start().stop();
                let log = site.log();
                let why = format!("by the sink pcr: not kernel: the kernel cannot list what is measured: {said}");
                assert!(log.contains(&why), "{log}");
                let taken = ("cima-sink:pcr".to_owned(), "v1;sink=pcr".to_owned());
                assert!(site.policy_events().contains(&taken));
                let sinks = host_list::entries().into_iter();
                let sinks: Vec<_> = sinks.filter(|entry| entry.name.starts_with("cima-sink:")).collect();
                assert_eq!(sinks, [], "the kernel's list was told of a sink that was not taken");
            },
        );
    }
}

/// `cima doctor` says the same as what `auto` would do; whether the kernel refuses it, only if that is tried.
#[track_caller]
fn foretold(site: &Site, said: &str) {
    let config = site.config();
    let config = config.to_str().expect("a plain path");
    for words in [&["--try"][..], &[]] {
        if words.is_empty() && said.contains("refused") {
            continue;
        }
        let words = [&[CIMA, "doctor", "--json", "--config", config], words].concat();
        let page = process::run(&words).stdout;
        let page: serde_json::Value = serde_json::from_str(&page).expect("it is JSON");
        let findings = page["findings"].as_array().expect("a list");
        let of = |part: &str| {
            let finding = findings.iter().find(|finding| finding["part"] == part);
            finding.expect("the part is there").clone()
        };
        let sink = of("sink");
        let text = sink["text"].as_str().unwrap_or_default();
        assert!(text.contains(said), "{sink}");
        let facts = &sink["facts"];
        let comes_to = match facts["chosen"].as_str() {
            Some(chosen) => chosen == "pcr",
            None => facts["candidates"] == serde_json::json!(["ima-file", "pcr"]),
        };
        assert!(comes_to, "{sink}");
        if !said.contains("refused") {
            assert_eq!(of("lister")["state"], "lacks", "{page}");
        }
    }
}

/// An object with another name of the same length.
#[track_caller]
fn renamed(object: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let (mut renamed, mut at, mut found) = (object, 0, 0);
    while at + from.len() <= renamed.len() {
        if renamed[at..].starts_with(from.as_bytes()) {
            renamed[at..at + from.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
        at += 1;
    }
    assert!(found > 0, "the object has {from}");
    renamed
}

fn detached(site: &Site) {
    site.start().stop();
    let set = set(site);
    fs::remove_file(set.join("link-list_mmap_file")).expect("it is pinned");
    let agent = site.start();
    assert!(site.log().contains("taking over from the probes in"));
    assert_ne!(self::set(site), set, "the same set");
    asleep(&agent, || {
        let program = copy("detached");
        let list = contained(&[&program, "cat", host_list::ASCII]).succeeded();
        let last = list.lines().last().expect("the list is not empty");
        let name = format!(" cima-exec:unregistered:{program} ");
        assert!(last.contains(&name), "the last is {last}");
    });
    agent.stop();
}

fn missed(site: &Site) {
    fs::remove_file(LISTER).expect("it was installed");
    site.configure_probes(&KERNEL.replace("\"kernel\"", "\"auto\""), PROBES);
    let config = site.config();
    let ran = process::run(&[CIMAD, "--config", config.to_str().expect("a plain path")]);
    assert_eq!(ran.code(), Some(2), "{}", ran.stderr);
    for said in [
        "this boot's list is anchored by kernel",
        "cannot read /tmp/cima-list.o",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let program = copy("missed");
    contained(&[&program, "true"]).succeeded();
    fs::copy(SHIPPED, LISTER).expect("it is in the stage");
    site.configure_probes(KERNEL, PROBES);
    site.start().stop();
    let name = format!("cima-exec:unregistered:{program}");
    let own = site.policy_events();
    assert_eq!(own.iter().filter(|(event, _)| *event == name).count(), 1);
    let host = host_list::entries();
    assert_eq!(host.iter().filter(|entry| entry.name == name).count(), 1);
    assert_eq!(work::assert_sound(&site.entries()), 0, "events lost");
}

fn left_behind(site: &Site) {
    let agent = site.start();
    fs::remove_file(set(site).join("link-list_mmap_file")).expect("it is pinned");
    let file = "/root/left-behind";
    fs::write(file, "left behind").expect("the root disk can be written");
    let acts = [
        "open", file, "wait", "map", "rx", "wait", "map", "rx", "wait", "map", "rx", "wait", "map",
        "r", "wait", "map", "rx", "wait",
    ];
    let mut actor = Actor::of(work::container(ACT).stdin(Stdio::piped()).args(acts));
    actor.go_on();
    let (task, mut element) = {
        let handed = handed(site);
        let tasks: Vec<_> = handed.keys().collect();
        let [task] = &tasks[..] else {
            panic!("one task has left something, not {}", tasks.len());
        };
        let element = handed.lookup(task, MapFlags::ANY).expect("it can be read");
        (task.clone(), element.expect("it is there"))
    };
    element[DIGEST..DIGEST + 32].fill(0xab);
    agent.stop();
    let agent = site.start();
    // Listed, and from the second time on nothing new.
    actor.go_on();
    actor.go_on();
    asleep(&agent, || {
        let handed = handed(site);
        let is_there = || {
            let element = handed.lookup(&task, MapFlags::ANY);
            element.expect("it can be read").is_some()
        };
        let leave = || {
            handed
                .update(&task, &element, MapFlags::ANY)
                .expect("there is room");
        };
        let marked = || {
            let payload = format!("v1;sha256:{}", "ab".repeat(32));
            let entries = host_list::entries().into_iter();
            entries
                .filter(|entry| entry.payload == payload.as_bytes())
                .count()
        };
        assert!(!is_there());
        leave();
        actor.go_on();
        assert!(is_there(), "who maps to read is not asked");
        assert_eq!(marked(), 0, "who maps to read lists it");
        actor.go_on();
        assert!(!is_there(), "the next hook has removed it");
        assert_eq!(marked(), 0, "the next hook lists it");
        leave();
        actor.finish();
        assert!(!is_there(), "it outlives its task");
        assert_eq!(marked(), 0);
    });
    agent.stop();
}

fn no_room(site: &Site) {
    let agent = site.start();
    let handed = handed(site);
    let before = metrics::files(Path::new(METRICS), "unhanded");
    let value = vec![0; handed.value_size() as usize];
    let mut filled = Vec::new();
    for number in 0..ROOM {
        // No task has such an id.
        let task = (u64::MAX - number).to_ne_bytes();
        if handed.update(&task, &value, MapFlags::ANY).is_err() {
            break;
        }
        filled.push(task);
    }
    println!("     {} elements fill it", filled.len());
    let program = copy("no-room");
    contained(&[&program, "true"]).succeeded();
    let name = format!("cima-exec:unregistered:{program}");
    let listed = || {
        let entries = host_list::entries();
        entries.iter().filter(|entry| entry.name == name).count()
    };
    eventually("the agent has it listed", || (listed() > 0).then_some(()));
    for task in &filled {
        handed.delete(task).expect("it is there");
    }
    contained(&[&program, "true"]).succeeded();
    site.caught_up();
    // The agent reads the probes' counters once in a second.
    let counted = eventually("it is counted", || {
        let now = metrics::files(Path::new(METRICS), "unhanded");
        (now > before).then_some(now - before)
    });
    println!("     {counted} were not handed on");
    assert_eq!(listed(), 1, "{name}");
    agent.stop();
}

/// In one container, where what one has said is said for all; and each in a container of its own.
fn at_once(site: &Site) {
    let agent = site.start();
    let audited = audits();
    asleep(&agent, || {
        for (what, unshare) in [("one", ["unshare", ""]), ("each", ["", "unshare"])] {
            let program = copy(&format!("at-once-{what}"));
            let [outer, inner] =
                unshare.map(|word| word.replace("unshare", "unshare --mount --pid --fork --"));
            let find = format!(
                "{program} grep -c ' cima-exec:unregistered:{program} ' {}",
                host_list::ASCII
            );
            let script = format!("for n in $(seq {TASKS}); do {inner} {find} & done; wait");
            let mut shell = Command::new("sh");
            let said = shell
                .env("SCRIPT", script)
                .args(["-c", &format!("{outer} sh -c \"$SCRIPT\"")])
                .output()
                .expect("a shell can be started");
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            let counts: Vec<_> = said.lines().collect();
            assert_eq!(
                counts, ["1"; TASKS],
                "{what}: what each finds by its first act"
            );
        }
    });
    println!("     {} audit records of type 1804", audits() - audited);
    agent.stop();
    assert_eq!(work::assert_sound(&site.entries()), 0, "events lost");
}

/// What IMA says of entries that it does not list, the same again among them.
fn audits() -> usize {
    let log = process::run(&["dmesg"]).succeeded();
    log.lines()
        .filter(|line| line.contains("type=1804"))
        .count()
}

fn older(site: &Site) {
    let object = kfunc::load("measure").unwrap_or_else(|said| panic!("it does not load: {said}"));
    let mut replaced = 0;
    let mut replace = |map: &str| {
        site.start().stop();
        let pin = set(site).join("map-NAMESPACES");
        fs::remove_file(&pin).expect("it is pinned");
        let map = object.maps().find(|one| one.name() == map);
        let map = map.expect("the object has this map");
        let copy = MapHandle::try_from(&map);
        let mut copy = copy.expect("a descriptor can be copied");
        copy.pin(&pin).expect("it can be pinned");
        replaced += 1;
        // Other probes, as after an upgrade.
        let size = format!("ring_bytes = {}\n", (1 << 20) << replaced);
        site.configure_probes(KERNEL, &format!("{PROBES}{size}"));
        map
    };
    // No mount namespace has this inode.
    let inode = 7u32.to_ne_bytes();
    let known: Vec<u8> = (1..=48).collect();
    let old = replace("old_namespaces");
    old.update(&inode, &known, MapFlags::ANY)
        .expect("there is room");
    let log = site.log().len();
    site.start().stop();
    let new = MapHandle::from_pinned_path(set(site).join("map-NAMESPACES")).expect("it is pinned");
    let taken = new.lookup(&inode, MapFlags::ANY).expect("it can be read");
    let taken = taken.expect("it is taken over");
    assert_eq!(taken[..48], known);
    assert_eq!(taken[48..], [0; 40]);
    assert!(!site.log()[log..].contains("is not taken over"));
    replace("settings");
    let log = site.log().len();
    site.start().stop();
    let log = &site.log()[log..];
    let said = "what the probes before knew of mount namespaces is not taken over from";
    assert!(log.contains(said) && log.contains("NAMESPACES"), "{log}");
}

/// The only set of the site's probes.
#[track_caller]
fn set(site: &Site) -> PathBuf {
    let sets = fs::read_dir(site.pins()).expect("the probes are pinned");
    let sets: Vec<_> = sets.flatten().map(|set| set.path()).collect();
    let [set] = &sets[..] else {
        panic!("one set of probes, not {sets:?}");
    };
    set.clone()
}

#[track_caller]
fn handed(site: &Site) -> MapHandle {
    MapHandle::from_pinned_path(set(site).join("map-HANDED")).expect("it is pinned")
}

/// While the agent gives the kernel nothing.
fn asleep(agent: &Running<'_>, body: impl FnOnce()) {
    agent.signal(Signal::STOP);
    body();
    agent.signal(Signal::CONT);
}

fn contained(words: &[&str]) -> process::Ran {
    process::run(&[&["unshare", "--mount", "--pid", "--fork", "--"], words].concat())
}

/// A static program of its own name and content, which is busybox.
fn copy(name: &str) -> String {
    let path = format!("/root/busybox-{name}");
    fs::copy("/bin/busybox", &path).expect("the root disk can be written");
    let mut bytes = fs::read(&path).expect("it was made");
    bytes.extend_from_slice(name.as_bytes());
    fs::write(&path, bytes).expect("the root disk can be written");
    path
}
