// SPDX-License-Identifier: Apache-2.0
//! The main job: what containers map executable is in the list, with the value
//! that sha256sum gives, in the right container, and the list is in the TPM.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Scenario;
use crate::agent::{CIMA, Site, eventually, sha256sum, text};
use crate::claims::Claims;
use crate::evmctl;
use crate::podman::{self, DEBIAN, Runtime, TINY};
use crate::process;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "measures",
    about: "every file mapped executable in a container is in the list and the TPM, with sha256sum's value",
    play,
};

/// In front of the path in the name of a policy event.
const EXEC: &str = "cima-exec:unregistered:";

/// What the traced container does once it is let go: programs that come and go,
/// a pipeline, a library loaded late (perl's modules), a loop of forks.
const WORK: &str = "read go < /go/pipe
ls -l / | grep -c bin
cat /etc/passwd | sort | head -3
perl -e 'use POSIX; use Fcntl; print POSIX::floor(3.7)'
for i in 1 2 3; do stat /bin/sh; done
echo done > /go/done
exec sleep 1000";

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = Site::new("measures");
    let agent = site.start();
    for runtime in Runtime::ALL {
        let name = format!(
            "with {}, all that strace and /proc/PID/maps saw is in the list",
            runtime.name()
        );
        claims.claim(&name, || traced_container(&site, runtime));
    }
    claims.claim(
        "a static program is measured under its own name, not its link's",
        || {
            podman::run(Runtime::Crun, TINY, &["/bin/ls", "/"]).succeeded();
            let wanted = format!("{EXEC}/bin/busybox");
            eventually("busybox is in the list", || {
                let events = site.policy_events();
                events.iter().any(|(name, _)| *name == wanted).then_some(())
            });
        },
    );
    claims.claim(
        "the same file in two containers: one policy event, two namespaced digests",
        || {
            same_file_in_two_containers(&site);
        },
    );
    claims.claim("the host's own processes are not measured", || {
        process::run(&["cp", "/usr/bin/id", "/tmp/only-on-the-host"]).succeeded();
        process::run(&["/tmp/only-on-the-host"]).succeeded();
        process::run(&["unshare", "-m", "/tmp/only-on-the-host"]).succeeded();
        // Once what ran later is in the list, what ran before would be, too.
        podman::run(Runtime::Crun, DEBIAN, &["/usr/bin/factor", "6"]).succeeded();
        let sentinel = format!("{EXEC}/usr/bin/factor");
        eventually("the later container is in the list", || {
            let events = site.policy_events();
            events
                .iter()
                .any(|(name, _)| *name == sentinel)
                .then_some(())
        });
        let events = site.policy_events();
        assert!(
            !events
                .iter()
                .any(|(name, _)| name.contains("only-on-the-host")),
            "it is in the list"
        );
    });
    claims.claim(
        "the agent's own parts are the first entries after the start",
        || first_entries(&site),
    );
    agent.stop();
    claims.claim(
        "nothing else is in the list: every entry has the digest of a file that was there",
        || {
            nothing_else(&site);
        },
    );
    claims.claim(
        "an execution is a context event with its arguments, ancestors and container",
        || executions(&site),
    );
    claims.claim("cima verify finds the list in the TPM", || {
        let said = site.verify().succeeded();
        println!(
            "     {}",
            said.trim_end().lines().last().unwrap_or_default()
        );
    });
    claims.claim(
        "evmctl finds the list in the TPM's sha1 and sha256 banks",
        || evmctl::agrees(&site.list().join("00000001.ima")),
    );
    claims.claim("a copy with one byte changed is refused", || {
        tampered(&site);
    });
}

/// Each entry is one of the agent's own, or names a file of one of the images with its digest.
fn nothing_else(site: &Site) {
    let roots = [TINY, DEBIAN].map(|image| {
        let root = process::run(&["podman", "image", "mount", image]).succeeded();
        PathBuf::from(root.trim_end())
    });
    for (name, payload) in site.policy_events() {
        if name.starts_with("cima-agent:") || name == "cima-sink:pcr" {
            continue;
        }
        let path = name
            .strip_prefix(EXEC)
            .unwrap_or_else(|| panic!("{name} with {payload} is in the list"));
        let known = roots
            .iter()
            .map(|root| root.join(path.trim_start_matches('/')))
            .filter(|file| file.is_file())
            .any(|file| payload == format!("v1;sha256:{}", sha256sum(&file)));
        assert!(known, "{path} with {payload} is in no image");
    }
}

/// Runs [`WORK`] in a container under strace; fails if a file that was mapped
/// executable is not in the list with its digest.
fn traced_container(site: &Site, runtime: Runtime) {
    let dir = PathBuf::from("/tmp/go").join(runtime.name());
    fs::create_dir_all(&dir).expect("/tmp can be written");
    process::run(&["mkfifo", dir.join("pipe").to_str().expect("a plain path")]).succeeded();
    let volume = format!("{}:/go", dir.display());
    let name = format!("traced-{}", runtime.name());
    let words = [
        "run", "-d", "--name", &name, "-v", &volume, DEBIAN, "bash", "-c", WORK,
    ];
    let id = podman::podman(runtime, &words).succeeded();
    let pid = podman::pid_of(&name);
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let mut seen = mapped(&pid);
    let trace = dir.join("trace");
    let mut strace = strace(&pid, &trace);
    fs::write(dir.join("pipe"), "go\n").expect("the container reads the pipe");
    eventually("the container has done its work", || {
        dir.join("done").exists().then_some(())
    });
    eventually("it sleeps", || {
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .ok()
            .filter(|comm| comm.trim() == "sleep")
    });
    seen.extend(mapped(&pid));
    let _ = strace.kill();
    let _ = strace.wait();
    let traced = traced(&trace, &pid);
    assert!(traced.len() >= 8, "strace saw only {traced:?}");
    seen.extend(traced);
    let expected: BTreeMap<String, String> = seen
        .into_iter()
        .map(|path| {
            let digest = sha256sum(&root.join(path.trim_start_matches('/')));
            (path, digest)
        })
        .collect();
    let measured = eventually("the last program is in the list", || {
        let measured = measured_in(site, id.trim());
        measured
            .iter()
            .any(|(path, _)| path == "/usr/bin/sleep")
            .then_some(measured)
    });
    let events: BTreeSet<_> = site.policy_events().into_iter().collect();
    for (path, digest) in &expected {
        assert!(
            measured.contains(&(path.clone(), digest.clone())),
            "no context event says that this container mapped {path} with {digest}"
        );
        let event = (format!("{EXEC}{path}"), format!("v1;sha256:{digest}"));
        assert!(
            events.contains(&event),
            "there is no policy event {event:?}"
        );
    }
    println!("     {} files, all in the list", expected.len());
    podman::podman(runtime, &["rm", "-f", "-t", "0", &name]).succeeded();
}

/// Path and digest of what one container mapped, as its context events say.
fn measured_in(site: &Site, container: &str) -> BTreeSet<(String, String)> {
    site.context_events()
        .iter()
        .filter(|event| text(&event["identity"]["container_id"]) == container)
        .map(|event| &event["mapping"])
        .filter(|mapping| !mapping.is_null())
        .map(|mapping| (text(&mapping["file"]["path"]), text(&mapping["digest"])))
        .collect()
}

/// Files mapped executable by a process now.
fn mapped(pid: &str) -> BTreeSet<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the container runs");
    maps.lines()
        .filter(|line| {
            line.split(' ')
                .nth(1)
                .is_some_and(|mode| mode.contains('x'))
        })
        .filter_map(|line| line.find('/').map(|at| line[at..].to_owned()))
        .collect()
}

fn strace(pid: &str, trace: &Path) -> Child {
    let child = Command::new("strace")
        .args(["-f", "-y", "-s", "4096", "-e", "trace=mmap,execve", "-o"])
        .arg(trace)
        .args(["-p", pid])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace can be started");
    eventually("strace is attached", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status
            .lines()
            .any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"))
            .then_some(())
    });
    child
}

/// Files that strace saw executed, or mapped with `PROT_EXEC`.
fn traced(trace: &Path, pid: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(trace).expect("strace wrote its trace");
    let mut paths = BTreeSet::new();
    for line in text.lines() {
        if line.contains("mmap(") && line.contains("PROT_EXEC") && !line.contains("= -1") {
            // mmap(NULL, 100, PROT_READ|PROT_EXEC, MAP_PRIVATE, 3</usr/lib/libc.so.6>, 0) = 0x7f…
            if let Some((_, rest)) = line.split_once('<') {
                paths.extend(rest.split_once('>').map(|(path, _)| path.to_owned()));
            }
        } else if line.contains("execve(\"") && line.ends_with("= 0") {
            let path = line.split('"').nth(1).expect("execve has a path");
            let real =
                process::run(&["nsenter", "-t", pid, "-m", "-r", "realpath", path]).succeeded();
            paths.insert(real.trim_end().to_owned());
        }
    }
    paths
}

fn same_file_in_two_containers(site: &Site) {
    let command = ["/usr/bin/tac", "/etc/passwd"];
    podman::run(Runtime::Crun, DEBIAN, &command).succeeded();
    podman::run(Runtime::Runc, DEBIAN, &command).succeeded();
    let mappings = eventually("both are in the list", || {
        let found: Vec<_> = site
            .context_events()
            .into_iter()
            .filter(|event| text(&event["mapping"]["file"]["path"]) == "/usr/bin/tac")
            .collect();
        (found.len() >= 2).then_some(found)
    });
    let distinct = |key: &str| -> BTreeSet<String> {
        mappings
            .iter()
            .map(|event| text(&event["mapping"][key]))
            .collect()
    };
    assert_eq!(distinct("digest").len(), 1, "one file, one digest");
    assert_eq!(
        distinct("namespaced_digest").len(),
        2,
        "two containers, two namespaced digests"
    );
    let events = site.policy_events();
    let named = events
        .iter()
        .filter(|(name, _)| name == &format!("{EXEC}/usr/bin/tac"))
        .count();
    assert_eq!(named, 1, "policy events");
}

fn first_entries(site: &Site) {
    let entries = site.entries();
    let names: Vec<_> = entries
        .iter()
        .take(6)
        .map(|entry| text(&entry["name"]))
        .collect();
    assert_eq!(
        names,
        [
            "cima-ctx:0",
            "cima-sink:pcr",
            "cima-agent:binary",
            "cima-agent:probes",
            "cima-agent:config",
            "cima-agent:policy"
        ]
    );
    let parts = [
        Path::new(crate::agent::CIMAD).to_owned(),
        PathBuf::from("/cima/lib/cima-probes.o"),
        site.config(),
        site.policy(),
    ];
    for (entry, part) in entries[2..].iter().zip(parts) {
        assert_eq!(
            text(&entry["payload"]),
            format!("v1;sha256:{}", sha256sum(&part)),
            "{}",
            part.display()
        );
    }
}

fn executions(site: &Site) {
    let events = site.context_events();
    let execution = events
        .iter()
        .map(|event| &event["execution"])
        .find(|e| text(&e["file"]["path"]) == "/usr/bin/tac")
        .expect("tac was executed");
    let args: Vec<_> = execution["args"]
        .as_array()
        .expect("a list")
        .iter()
        .map(text)
        .collect();
    assert_eq!(args, ["/usr/bin/tac", "/etc/passwd"]);
    let task = &execution["task"];
    assert_eq!(
        task["ns_tgid"], 1,
        "it is the first process of its container"
    );
    assert!(
        task["ancestors"].as_array().is_some_and(|a| !a.is_empty()),
        "it has ancestors: {task}"
    );
    let container = &events
        .iter()
        .find(|event| text(&event["execution"]["file"]["path"]) == "/usr/bin/tac")
        .expect("tac was executed")["identity"];
    assert_eq!(
        text(&container["container_id"]).len(),
        64,
        "its container has an id: {container}"
    );
}

fn tampered(site: &Site) {
    let mut list = fs::read(site.list().join("00000001.ima")).expect("the list is there");
    // A byte of the first record's template hash: u32 PCR, then 20 bytes.
    list[10] ^= 1;
    fs::write("/tmp/tampered.ima", list).expect("/tmp can be written");
    let ran = process::run(&[CIMA, "verify", "--tpm", "--", "/tmp/tampered.ima"]);
    assert_eq!(ran.code(), Some(1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("entry 0"), "it says {}", ran.stdout);
}
