// SPDX-License-Identifier: Apache-2.0
//! More than there is room for: executions as fast as the machine can, a thousand
//! containers with files of their own, paths and arguments of 64 KiB, names of every
//! byte. What is lost is counted, to the event; memory stays bounded.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::Scenario;
use crate::agent::{Running, Site, text};
use crate::claims::Claims;
use crate::tpm_proxy::SoftTpm;
use crate::work::{assert_sound, container, context_events, install, losses, payload};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "floods",
    about: "storms of executions, a thousand containers, paths of 64 KiB, names of every byte: each loss is counted",
    play,
};

const CONTAINERS: u32 = 1000;
const FILES: u32 = 5;
/// Containers at a time.
const AT_ONCE: usize = 8;
/// What cimad may hold of its own, in KiB.
const MEMORY: u64 = 40 * 1024;
const SETTLE: Duration = Duration::from_secs(180);
const DIR: &str = "/tmp/flood";

fn play(claims: &mut Claims, arguments: &[String]) {
    let containers = arguments.first().and_then(|n| n.parse().ok());
    let containers = containers.unwrap_or(CONTAINERS);
    fs::create_dir_all(DIR).expect("/tmp can be written");
    storm(claims);
    let site = Site::new("floods");
    let agent = site.start();
    names(claims, &site);
    long_paths(claims, &site);
    thousand(claims, &site, containers);
    memory(claims, &agent);
    agent.stop();
    claims.claim(
        "the list with all of it is sound and replays to the TPM",
        || {
            assert_eq!(assert_sound(&site.entries()), 0, "events lost");
            site.verify().succeeded();
        },
    );
}

/// With a ring buffer of the least size and a slow TPM, so that it does overflow.
fn storm(claims: &mut Claims) {
    let tpm = SoftTpm::start("storm");
    tpm.delay_extends(Duration::from_millis(20));
    let site = Site::new("storm");
    site.configure_probes(&tpm.sink(), "ring_bytes = 65536\n");
    let agent = site.start();
    claims.claim(
        "a storm of forks: executions seen and executions counted as lost are those that were",
        || {
            let caused = storm_over(&agent);
            let entries = settled(&site, caused);
            let seen = executions(&entries).count() as u64;
            let lost = losses(&entries, "exec-ring-full");
            println!(
                "     {caused} executions: {seen} seen, {lost} lost, and {} mappings",
                losses(&entries, "map-ring-full")
            );
            assert!(lost > 0, "it was no storm");
            assert_eq!(seen + lost, caused, "seen and lost");
        },
    );
    memory(claims, &agent);
    agent.stop();
    claims.claim(
        "each loss has cause and count, and the list replays to the TPM",
        || {
            assert!(assert_sound(&site.entries()) > 0, "there were losses");
            tpm.verify(&site).succeeded();
        },
    );
}

/// The storm, during which cimad stands still for a while: the ring buffer does overflow.
fn storm_over(agent: &Running<'_>) -> u64 {
    thread::scope(|scope| {
        let storm = scope.spawn(run_storm);
        thread::sleep(Duration::from_secs(3));
        agent.signal(Signal::STOP);
        thread::sleep(Duration::from_secs(4));
        agent.signal(Signal::CONT);
        storm.join().expect("the storm ends")
    })
}

/// Within a group of 200 processes; the number of executions, that of the storm's maker included.
fn run_storm() -> u64 {
    const GROUP: &str = "/sys/fs/cgroup/storm";
    install(&Path::new(DIR).join("same"), "same");
    fs::create_dir_all(GROUP).expect("a cgroup can be made");
    fs::write(format!("{GROUP}/pids.max"), "200").expect("it can be limited");
    let enter = format!("echo $$ > {GROUP}/cgroup.procs; exec \"$0\" \"$@\"");
    let inside = container("/cima/bin/cima-scenarios");
    let status = Command::new("sh")
        .args(["-c", &enter])
        .arg(inside.get_program())
        .args(inside.get_args())
        .args(["work", "storm", DIR, "16", "10"])
        .stdin(Stdio::null())
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "the storm ends"
    );
    let count = fs::read_to_string(Path::new(DIR).join("count")).expect("it counted");
    count.parse::<u64>().expect("a number") + 1
}

/// The list once so many executions are in it, seen or lost.
#[track_caller]
fn settled(site: &Site, caused: u64) -> Vec<Value> {
    let since = Instant::now();
    loop {
        let entries = site.entries();
        let told = executions(&entries).count() as u64 + losses(&entries, "exec-ring-full");
        if told >= caused || since.elapsed() > SETTLE {
            return entries;
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn executions(entries: &[Value]) -> impl Iterator<Item = &Value> {
    context_events(entries)
        .map(|event| &event["execution"])
        .filter(|execution| !execution.is_null())
}

/// Programs whose names are one byte each, every one that a name can have.
fn names(claims: &mut Claims, site: &Site) {
    claims.claim(
        "a name of each byte from 1 to 255 is in the list, whole",
        || {
            let bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
            let (mut wanted, mut script) = (BTreeMap::new(), OsString::new());
            for byte in &bytes {
                let path = Path::new(DIR).join(OsStr::from_bytes(&[b'n', *byte]));
                install(&path, &format!("name {byte}"));
                let name = format!("cima-exec:unregistered:{DIR}/n{}", escaped(*byte));
                wanted.insert(name, payload(&format!("name {byte}")));
                script.push(quoted(&path));
                script.push(" && ");
            }
            script.push("true");
            run_script(&script);
            let entries = drained(site);
            let listed = policy_events(&entries);
            for (name, payload) in wanted {
                assert_eq!(listed.get(&name), Some(&vec![payload]), "{name}");
            }
        },
    );
}

/// As `docs/FORMATS.md` says of names; `cima log --json` shows a backslash as `\x5c`.
fn escaped(byte: u8) -> String {
    if byte == b'\\' {
        "\\x5c".to_owned()
    } else if byte.is_ascii_graphic() && byte != b'%' {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

fn quoted(path: &Path) -> OsString {
    let mut word = b"'".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            other => word.push(*other),
        }
    }
    word.push(b'\'');
    OsStr::from_bytes(&word).to_owned()
}

/// A container whose shell takes this script from a file.
#[track_caller]
fn run_script(script: &OsStr) {
    let file = Path::new(DIR).join("script");
    fs::write(&file, script.as_bytes()).expect("/tmp can be written");
    let status = container("/bin/busybox").arg("sh").arg(&file).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "the script runs"
    );
}

fn long_paths(claims: &mut Claims, site: &Site) {
    let program = Path::new(DIR).join("long");
    install(&program, "long");
    let up = "../".repeat(64 * 1024 / 3);
    claims.claim(
        "a path of 64 KiB is refused by the kernel and disturbs nobody",
        || {
            let error = inside(Path::new(&format!("{DIR}/{up}{DIR}/long")), &[])
                .expect_err("it is too long");
            assert!(error.contains("File name too long"), "{error}");
        },
    );
    claims.claim(
        "an argument of 64 KiB is kept up to its limit, and said to be cut",
        || {
            inside(&program, &[&up]).expect("it runs");
            let entries = drained(site);
            let path = program.to_string_lossy();
            let seen = executions(&entries).find(|e| text(&e["file"]["path"]) == path);
            let seen = seen.expect("it is in the list");
            assert_eq!(seen["args_truncated"], true, "{seen}");
            assert_eq!(seen["argc"], 2, "{seen}");
        },
    );
    claims.claim(
        "a program reached over a path of 4,000 bytes of ../ has its plain name",
        || {
            let far = Path::new(DIR).join("far");
            install(&far, "far");
            let deep: PathBuf = Path::new(DIR).join("d/".repeat(30));
            fs::create_dir_all(&deep).expect("/tmp can be written");
            let path = format!("{}{}{DIR}/far", deep.display(), "../".repeat(1200));
            inside(Path::new(&path), &[]).expect("it runs");
            let name = format!("cima-exec:unregistered:{DIR}/far");
            assert_eq!(policy_events(&drained(site))[&name], [payload("far")]);
        },
    );
}

/// Executes a program in a container; what went wrong, if something did.
fn inside(program: &Path, arguments: &[&str]) -> Result<(), String> {
    let wrapped = container("/cima/bin/cima-scenarios")
        .args(["work", "once"])
        .arg(program)
        .args(arguments)
        .process_group(0)
        .output()
        .expect("unshare can be started");
    if wrapped.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&wrapped.stderr).into_owned())
}

fn thousand(claims: &mut Claims, site: &Site, containers: u32) {
    let name =
        format!("{containers} containers with {FILES} files of their own: each in the list once");
    claims.claim(&name, || {
        let began = Instant::now();
        let mut running: Vec<Child> = Vec::new();
        for container in 0..containers {
            running.push(one_of_many(container));
            if running.len() == AT_ONCE {
                finish(&mut running);
            }
        }
        finish(&mut running);
        println!("     they ran within {} s", began.elapsed().as_secs());
        let entries = drained(site);
        let listed = policy_events(&entries);
        for (container, number) in (0..containers).flat_map(|c| (0..FILES).map(move |n| (c, n))) {
            let path = file(container, number);
            let name = format!("cima-exec:unregistered:{}", path.display());
            let content = payload(&format!("{container} {number}"));
            assert_eq!(listed.get(&name), Some(&vec![content]), "{name}");
        }
        let namespaces: std::collections::BTreeSet<_> = context_events(&entries)
            .filter(|event| {
                text(&event["mapping"]["file"]["path"]).starts_with(&format!("{DIR}/c"))
            })
            .map(|event| event["identity"]["mnt_generation"].as_u64())
            .collect();
        assert_eq!(namespaces.len(), containers as usize, "mount namespaces");
    });
}

fn file(container: u32, number: u32) -> PathBuf {
    Path::new(DIR).join(format!("c{container}-{number}"))
}

/// A container that executes its files and ends.
fn one_of_many(number: u32) -> Child {
    let mut script = String::new();
    for program in 0..FILES {
        let path = file(number, program);
        install(&path, &format!("{number} {program}"));
        script += &format!("{} && ", path.display());
    }
    script.push_str("true");
    container("/bin/busybox")
        .args(["sh", "-c", &script])
        .spawn()
        .expect("unshare can be started")
}

#[track_caller]
fn finish(running: &mut Vec<Child>) {
    for mut child in running.drain(..) {
        let status = child.wait().expect("unshare ends");
        assert!(status.success(), "a container ended with {status}");
    }
}

/// The list once all that has happened is in it: one more execution is, which comes now.
#[track_caller]
fn drained(site: &Site) -> Vec<Value> {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let last = format!("last-{}", LAST.fetch_add(1, Ordering::Relaxed));
    let path = Path::new(DIR).join(&last);
    install(&path, &last);
    inside(&path, &[]).expect("it runs");
    let path = path.to_string_lossy();
    let since = Instant::now();
    loop {
        let entries = site.entries();
        // Context comes after the news that it has with it.
        if executions(&entries).any(|execution| text(&execution["file"]["path"]) == path) {
            return entries;
        }
        assert!(since.elapsed() < SETTLE, "{path} is not in the list");
        thread::sleep(Duration::from_millis(500));
    }
}

/// Name to payloads.
fn policy_events(entries: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut events: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry["batch"].is_null()) {
        let payloads = events.entry(text(&entry["name"])).or_default();
        payloads.push(text(&entry["payload"]));
    }
    events
}

fn memory(claims: &mut Claims, agent: &Running<'_>) {
    claims.claim(
        "the most memory of its own that cimad held is below 40 MiB",
        || {
            let peak = agent.peak_memory();
            println!("     {peak} KiB");
            assert!(peak <= MEMORY, "{peak} KiB");
        },
    );
}
