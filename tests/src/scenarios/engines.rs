// SPDX-License-Identifier: Apache-2.0
//! Engines without hooks of their own: docker and containerd by `cima-runtime`; and podman without root.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Scenario;
use crate::agent::{CIMA, Site, text};
use crate::claims::Claims;
use crate::hooks::{self, created, digest_of, event_of, executed, listed, shipped, take_rules};
use crate::podman::DEBIAN;
use crate::process::{self, Ran};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "engines",
    about: "docker and containerd by cima-runtime, and podman without root, are measured and judged like podman",
    play,
};

const ARCHIVE: &str = "/tmp/debian.tar";
const CONTAINERD: &str = "/run/docker/containerd/containerd.sock";
const START: Duration = Duration::from_secs(180);
const RUN: Duration = Duration::from_secs(120);
/// Who runs containers without root.
const USER: &str = "1000";

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = hooks::site("deny");
    site.configure_shipped("users = []", "users = [1000]");
    let agent = site.start();
    process::run(&["podman", "save", "--quiet", "-o", ARCHIVE, DEBIAN]).succeeded();
    let Some(_docker) = claims.claim("dockerd starts with cima's runtime as its default", dockerd)
    else {
        return;
    };
    claims.claim(
        "docker: the image is the publisher's, measured before it runs",
        || {
            docker_measures(&site);
        },
    );
    claims.claim("docker: what `docker exec` runs is its container's", || {
        docker_exec(&site);
    });
    claims.claim(
        "docker: what the policy denies does not run, and docker says why",
        || {
            take_rules(
                &site,
                &[("privileged.rego", &shipped("no_privileged.rego"))],
            );
            let said = docker(&[
                "run",
                "--rm",
                "--network",
                "none",
                "--privileged",
                DEBIAN,
                "true",
            ])
            .failed();
            assert!(said.contains("privileged"), "docker says {said}");
            hooks::take_shipped_rules(&site);
        },
    );
    claims.claim(
        "docker without cima's runtime is refused by the kernel",
        || {
            docker(&[
                "run",
                "--rm",
                "--network",
                "none",
                "--runtime",
                "runc",
                DEBIAN,
                "true",
            ])
            .failed();
        },
    );
    claims.claim(
        "containerd: the image is the publisher's, measured before it runs",
        || {
            containerd_measures(&site);
        },
    );
    claims.claim(
        "podman without root: measured and judged on the user's own socket",
        || {
            rootless(&site);
        },
    );
    claims.claim(
        "podman without root: a user may not announce another's process",
        || {
            others_process();
        },
    );
    agent.stop();
    claims.claim("cima verify finds the list in the TPM", || {
        site.verify().succeeded();
    });
}

/// A daemon that is killed when it goes out of scope.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dockerd() -> Daemon {
    process::run(&[CIMA, "hook", "install", "--engine", "docker", "--default"]).succeeded();
    let log = File::create("/out/dockerd.log").expect("a log can be written");
    let child = Command::new("dockerd")
        .args([
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=overlay2",
        ])
        .args([
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
            "--host",
            "unix:///run/docker.sock",
        ])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be shared"))
        .stderr(log)
        .spawn()
        .expect("dockerd can be started");
    let daemon = Daemon(child);
    let started = Instant::now();
    while process::run(&["docker", "version"]).code() != Some(0) {
        assert!(started.elapsed() < START, "dockerd does not answer");
        std::thread::sleep(Duration::from_secs(1));
    }
    process::run_within(START, &["docker", "load", "-i", ARCHIVE]).succeeded();
    daemon
}

#[track_caller]
fn docker(words: &[&str]) -> Ran {
    // The guest has nothing to load docker's profile with.
    let unconfined = ["--security-opt", "apparmor=unconfined"];
    let words = match words {
        ["run", rest @ ..] => [&["run"], &unconfined[..], rest].concat(),
        words => words.to_vec(),
    };
    process::run_within(RUN, &[&["docker"], &words[..]].concat())
}

/// The input that the policy was asked about the last container.
#[track_caller]
fn last(site: &Site) -> (Value, Value) {
    let told = created(site).pop().expect("it is in the list");
    let input = serde_json::from_str(&text(&told["input"])).expect("the input is JSON");
    (told, input)
}

fn docker_measures(site: &Site) {
    docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--name",
        "web",
        DEBIAN,
        "/usr/bin/stat",
        "/",
    ])
    .succeeded();
    let image = digest_of(DEBIAN);
    listed(site, &format!("cima-exec:{image}:/usr/bin/stat"));
    let (told, input) = last(site);
    assert_eq!(format!("sha256:{}", text(&told["image"])), image);
    assert_eq!(input["container"]["engine"], "docker", "{input}");
    assert_eq!(input["container"]["name"], "web", "{input}");
    assert_eq!(input["image"]["reference"], DEBIAN, "{input}");
    let config = docker(&["inspect", "-f", "{{.Id}}", DEBIAN]).succeeded();
    assert_eq!(text(&input["image"]["config_digest"]), config.trim_end());
    assert_eq!(input["upper"]["dirty"], false, "{}", input["upper"]);
}

fn docker_exec(site: &Site) {
    docker(&[
        "run",
        "-d",
        "--network",
        "none",
        "--name",
        "entered",
        DEBIAN,
        "sleep",
        "600",
    ])
    .succeeded();
    let (told, _) = last(site);
    docker(&["exec", "entered", "/usr/bin/tac", "/etc/passwd"]).succeeded();
    event_of(site, "the execution", &told["container"], |event| {
        executed(event) == "/usr/bin/tac"
    });
    docker(&["rm", "-f", "entered"]).succeeded();
}

fn containerd_measures(site: &Site) {
    let ctr = |words: &[&str]| {
        process::run_within(
            RUN,
            &[&["ctr", "-a", CONTAINERD, "-n", "site"], words].concat(),
        )
    };
    ctr(&["images", "import", ARCHIVE]).succeeded();
    ctr(&[
        "run",
        "--rm",
        "--runc-binary",
        "/usr/libexec/cima/cima-runtime",
        DEBIAN,
        "c1",
        "/usr/bin/tsort",
        "/dev/null",
    ])
    .succeeded();
    let image = digest_of(DEBIAN);
    listed(site, &format!("cima-exec:{image}:/usr/bin/tsort"));
    let (told, input) = last(site);
    assert_eq!(format!("sha256:{}", text(&told["image"])), image);
    assert_eq!(input["container"]["engine"], "containerd", "{input}");
    assert_eq!(input["image"]["reference"], DEBIAN, "{input}");
    let manifest = text(&input["image"]["manifest_digest"]);
    let config = text(&input["image"]["config_digest"]);
    assert!(
        manifest.starts_with("sha256:") && config.starts_with("sha256:"),
        "{input}"
    );
    assert_eq!(input["upper"]["dirty"], false, "{}", input["upper"]);
}

/// Runs a command as the user, who has a home and a runtime directory.
fn as_user(command: &str) -> Ran {
    let line = format!("cd /home/user && {command}");
    process::run_within(
        RUN,
        &[
            "setpriv",
            "--reuid",
            USER,
            "--regid",
            USER,
            "--clear-groups",
            "env",
            "HOME=/home/user",
            "XDG_RUNTIME_DIR=/run/user/1000",
            "USER=user",
            "sh",
            "-c",
            &line,
        ],
    )
}

fn rootless(site: &Site) {
    process::run(&["sh", "-ec", "mkdir -p /run/user/1000 /home/user; chown 1000:1000 /run/user/1000 /home/user; chmod 644 /tmp/debian.tar"]).succeeded();
    as_user("podman --cgroup-manager cgroupfs load -q -i /tmp/debian.tar").succeeded();
    // Its overlay is mounted in the user's own mount namespace, where names of directories mean what the user wants.
    let run = format!(
        "podman run --rm --cgroups disabled --network none {DEBIAN} /usr/bin/uniq /etc/passwd"
    );
    as_user(&run).failed();
    let (told, _) = last(site);
    assert!(
        told["reasons"]
            .to_string()
            .contains("could not be measured"),
        "{told}"
    );
    take_rules(site, &[("privileged.rego", &shipped("no_privileged.rego"))]);
    as_user(&run).succeeded();
    let (told, input) = last(site);
    assert_eq!(input["container"]["rootless"], true, "{input}");
    assert_eq!(input["container"]["launched_by"]["uid"], 1000, "{input}");
    event_of(site, "the execution", &told["container"], |event| {
        executed(event) == "/usr/bin/uniq"
    });
    listed(site, "cima-exec:unmeasured:/usr/bin/uniq");
    hooks::take_shipped_rules(site);
}

fn others_process() {
    let child = Command::new("unshare")
        .args(["-m", "sleep", "600"])
        .spawn()
        .expect("unshare can be started");
    let mut child = Daemon(child);
    let state = format!(
        r#"{{"id":"x","pid":{},"status":"created","bundle":"/tmp"}}"#,
        child.0.id()
    );
    let said = as_user(&format!(
        "echo '{state}' | /usr/libexec/cima/cima-hook --stage createRuntime"
    ))
    .failed();
    assert!(said.contains("belongs to user 0"), "{said}");
    let _ = child.0.kill();
}
