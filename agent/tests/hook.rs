// SPDX-License-Identifier: Apache-2.0
//! `cima hook` on roots of machines that are not this one: what it writes is compared with files in `hook/`, and with what
//! was there before. `check` is tried with engines and a cimad that are made for it.

#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use cima_api::{
    CreateReply, CreateRequest, ExplainReply, ExplainRequest, ReloadReply, ReloadRequest,
    StopReply, StopRequest, WatchReply, WatchRequest,
    containers_server::{Containers, ContainersServer},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

const HOOKS_D: &str = "usr/share/containers/oci/hooks.d/cima.json";
const DOCKER: &str = "etc/docker/daemon.json";
const CONTAINERD: &str = "etc/containerd/config.toml";
const RUNTIME: &str = "etc/cima/runtime.toml";
const HOOK: &str = "usr/libexec/cima/cima-hook";

/// Written by another process: one that another test starts at this moment would hold ours open, and the kernel
/// executes nothing that is open for writing.
fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(shell.wait().unwrap().success());
}

/// A machine's root.
struct Node(TempDir);

impl Node {
    /// With the programs of cima, and these engines.
    fn with(engines: &[&str]) -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        node.program(HOOK, "#!/bin/sh\necho cima-hook 0.1.0\n");
        node.program("usr/libexec/cima/cima-runtime", "");
        for engine in engines {
            node.program(&format!("usr/bin/{engine}"), "");
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_program(&path, text);
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    fn cima(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cima"))
            .arg("hook")
            .args(args)
            .arg("--root")
            .arg(self.0.path())
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", self.path("usr/bin").display()),
            )
            .output()
            .unwrap()
    }

    /// It works; what it said, without the place of this root.
    fn done(&self, args: &[&str]) -> String {
        let output = self.cima(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        stdout.replace(self.0.path().to_str().unwrap(), "")
    }

    /// It does not, for this reason.
    fn refused(&self, args: &[&str], sentence: &str) {
        let output = self.cima(args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.starts_with("cima: ") && stderr.contains(sentence),
            "{stderr}"
        );
    }
}

#[test]
fn podman_and_cri_o_get_one_file_and_lose_it_again() {
    let node = Node::with(&["podman", "crio"]);
    let said = node.done(&["install"]);
    assert_eq!(node.read(HOOKS_D).unwrap(), include_str!("hook/cima.json"));
    assert_eq!(said, include_str!("hook/install-podman-crio.txt"));
    assert!(node.done(&["install"]).starts_with("unchanged /usr/share"));
    node.done(&["install", "--fail", "open", "--timeout", "600"]);
    assert_eq!(
        node.read(HOOKS_D).unwrap(),
        include_str!("hook/cima-open.json")
    );
    assert_eq!(node.read(RUNTIME), None);
    node.done(&["uninstall"]);
    assert_eq!(node.read(HOOKS_D), None);
    assert!(node.done(&["uninstall"]).contains("unchanged"));
}

#[test]
fn docker_keeps_every_other_key_and_gets_them_back() {
    let node = Node::with(&["dockerd"]);
    node.write(DOCKER, include_str!("hook/daemon.json"));
    node.done(&["install"]);
    assert_eq!(
        node.read(DOCKER).unwrap(),
        include_str!("hook/daemon-cima.json")
    );
    assert_eq!(
        node.read(RUNTIME).unwrap(),
        include_str!("hook/runtime.toml")
    );
    assert!(node.done(&["install"]).contains("unchanged /etc/docker"));
    node.done(&["install", "--default"]);
    assert_eq!(
        node.read(DOCKER).unwrap(),
        include_str!("hook/daemon-default.json")
    );
    node.done(&["uninstall"]);
    assert_eq!(node.read(DOCKER).unwrap(), include_str!("hook/daemon.json"));
    assert_eq!(node.read(RUNTIME), None);
}

#[test]
fn docker_without_a_file_gets_one_which_goes_again() {
    let node = Node::with(&["dockerd"]);
    node.done(&["install", "--default"]);
    let written: Value = serde_json::from_str(&node.read(DOCKER).unwrap()).unwrap();
    assert_eq!(written["default-runtime"], "cima");
    node.done(&["uninstall", "--engine", "docker"]);
    assert_eq!(node.read(DOCKER), None);
}

#[test]
fn what_an_operator_decided_about_docker_stays() {
    let node = Node::with(&["dockerd"]);
    let text = r#"{"default-runtime": "nvidia", "runtimes": {"nvidia": {"path": "/n"}}}"#;
    node.write(DOCKER, text);
    node.refused(
        &["install", "--default"],
        "default-runtime is \"nvidia\" already",
    );
    assert_eq!(node.read(DOCKER).unwrap(), text);
    let text = r#"{"runtimes": {"cima": {"path": "/opt/other"}}}"#;
    node.write(DOCKER, text);
    node.refused(&["uninstall"], "is not cima's (/opt/other)");
    assert_eq!(node.read(DOCKER).unwrap(), text);
}

#[test]
fn containerd_keeps_comments_and_order_and_gets_them_back() {
    let node = Node::with(&["containerd"]);
    node.write(CONTAINERD, include_str!("hook/config.toml"));
    node.done(&["install"]);
    assert_eq!(
        node.read(CONTAINERD).unwrap(),
        include_str!("hook/config-cima.toml")
    );
    assert!(
        node.done(&["install"])
            .contains("unchanged /etc/containerd")
    );
    node.done(&["uninstall"]);
    assert_eq!(
        node.read(CONTAINERD).unwrap(),
        include_str!("hook/config.toml")
    );
}

#[test]
fn containerd_without_a_file_gets_the_smallest_which_goes_again() {
    let node = Node::with(&["containerd"]);
    node.done(&["install", "--engine", "containerd"]);
    assert_eq!(
        node.read(CONTAINERD).unwrap(),
        include_str!("hook/config-new.toml")
    );
    node.done(&["uninstall"]);
    assert_eq!(node.read(CONTAINERD), None);
}

#[test]
fn containerd_of_other_versions_is_changed_by_its_own_names_or_not_at_all() {
    let node = Node::with(&["containerd"]);
    node.write(CONTAINERD, "version = 3\n");
    node.done(&["install"]);
    let text = node.read(CONTAINERD).unwrap();
    assert!(
        text.contains("[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.cima]"),
        "{text}"
    );
    for text in ["root = \"/r\"\n", "version = 1\n", "version = 4\n"] {
        node.write(CONTAINERD, text);
        node.refused(&["install"], "runtimes are configured from version 2 to 3");
        assert_eq!(node.read(CONTAINERD).unwrap(), text);
    }
}

#[test]
fn the_containerd_that_docker_brings_is_passed_over() {
    let node = Node::with(&["dockerd", "containerd"]);
    node.write(CONTAINERD, "disabled_plugins = [\"cri\"]\n");
    assert!(
        node.done(&["install"])
            .contains("passed over /etc/containerd/config.toml")
    );
    assert!(node.read(DOCKER).is_some());
    node.refused(
        &["install", "--engine", "containerd"],
        "the CRI plugin is disabled",
    );
    node.done(&["uninstall"]);
    assert_eq!(
        node.read(CONTAINERD).unwrap(),
        "disabled_plugins = [\"cri\"]\n"
    );
}

#[test]
fn the_settings_of_the_runtime_stay_while_an_engine_needs_them() {
    let node = Node::with(&["dockerd", "containerd"]);
    node.write(RUNTIME, "# mine\nruntime = \"/usr/bin/crun\"\n");
    node.done(&["install"]);
    node.done(&["uninstall", "--engine", "docker"]);
    let text = node.read(RUNTIME).unwrap();
    assert!(
        text.starts_with("# mine\nruntime = \"/usr/bin/crun\"\nhook = "),
        "{text}"
    );
    node.done(&["uninstall", "--engine", "containerd"]);
    assert_eq!(
        node.read(RUNTIME).unwrap(),
        "# mine\nruntime = \"/usr/bin/crun\"\n"
    );
}

#[test]
fn a_dry_run_shows_all_and_writes_nothing() {
    let node = Node::with(&["podman", "dockerd"]);
    let said = node.done(&["install", "--dry-run"]);
    assert!(
        said.contains("would write /usr/share/containers/oci/hooks.d/cima.json\n    {"),
        "{said}"
    );
    assert!(
        said.contains("would write /etc/docker/daemon.json"),
        "{said}"
    );
    assert!(!node.path("etc").exists() && !node.path("usr/share").exists());
}

#[test]
fn without_a_program_to_start_nothing_is_installed() {
    let node = Node::with(&["podman", "dockerd"]);
    let mode =
        |mode| fs::set_permissions(node.path(HOOK), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    node.refused(
        &["install"],
        "is not executable: engines would start containers without it",
    );
    mode(0o777);
    node.refused(&["install"], "may be written by others");
    mode(0o755);
    node.refused(
        &["install", "--runtime", "/usr/libexec/none"],
        "/usr/libexec/none is not there",
    );
    node.refused(
        &["install", "--hook", "cima-hook"],
        "is not an absolute path",
    );
    fs::remove_file(node.path(HOOK)).unwrap();
    node.refused(
        &["install"],
        "is not there: engines would start containers without it",
    );
    assert!(!node.path("etc").exists() && !node.path("usr/share").exists());
}

#[test]
fn links_and_files_that_cannot_be_understood_are_refused_before_anything_is_written() {
    let node = Node::with(&["podman", "dockerd"]);
    node.write("elsewhere", "{}");
    fs::create_dir_all(node.path("etc/docker")).unwrap();
    symlink(node.path("elsewhere"), node.path(DOCKER)).unwrap();
    node.refused(&["install"], "is a symbolic link");
    fs::remove_file(node.path(DOCKER)).unwrap();
    node.write(DOCKER, "{ // comment\n}");
    node.refused(&["install"], "this is not the JSON that its engine reads");
    assert_eq!(node.read("elsewhere").unwrap(), "{}");
    assert_eq!(node.read(HOOKS_D), None);
}

#[test]
fn without_an_engine_there_is_a_sentence() {
    let node = Node::with(&[]);
    node.refused(&["install"], "no container engine is installed here");
    node.refused(
        &["install", "--engine", "podman", "--default"],
        "--default is for docker",
    );
}

/// Knows one container.
struct Fake(&'static str);

#[tonic::async_trait]
impl Containers for Fake {
    async fn create(&self, _: Request<CreateRequest>) -> Result<Response<CreateReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainReply>, Status> {
        match request.into_inner().container == self.0 {
            true => Ok(Response::new(ExplainReply { json: "{}".into() })),
            false => Err(Status::not_found("no such container")),
        }
    }

    async fn reload(&self, _: Request<ReloadRequest>) -> Result<Response<ReloadReply>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchStream = tokio_stream::Pending<Result<WatchReply, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn serve(socket: &Path, fake: Fake) {
    let listener = UnixListener::bind(socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            Server::builder()
                .add_service(ContainersServer::new(fake))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
    });
}

/// A podman that has one image and makes one container; `init` is what the test says.
fn podman(node: &Node, init: &str) {
    let log = node.path("log");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {}\ncase $1 in\nimages) echo 0123abc;;\n\
         create) while [ \"$1\" != --cidfile ]; do shift; done; printf c0ffee > \"$2\"; echo c0ffee;;\n\
         init) {init};;\nesac\n",
        log.display()
    );
    node.program("usr/bin/podman", &text);
}

struct Checked {
    code: Option<i32>,
    json: Value,
    stderr: String,
}

fn check(node: &Node) -> Checked {
    let socket = node.path("hook.sock");
    let output = node.cima(&["check", "--json", "--socket", socket.to_str().unwrap()]);
    Checked {
        code: output.status.code(),
        json: serde_json::from_slice(&output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Only root can stand in for cimad.
fn node_with_cimad(knows: &'static str) -> Option<Node> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("passed over: only root can stand in for cimad");
        return None;
    }
    let node = Node::with(&["podman"]);
    node.done(&["install"]);
    serve(&node.path("hook.sock"), Fake(knows));
    Some(node)
}

#[test]
fn a_hook_that_cimad_heard_of_fires() {
    let Some(node) = node_with_cimad("c0ffee") else {
        return;
    };
    podman(&node, "exit 0");
    let checked = check(&node);
    assert_eq!(
        (checked.code, &checked.json["fires"]),
        (Some(0), &Value::Bool(true))
    );
    let findings = checked.json["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 4);
    assert!(
        findings.iter().all(|finding| finding["good"] == true),
        "{findings:?}"
    );
    let log = node.read("log").unwrap();
    assert!(
        log.contains("0123abc true\ninit c0ffee\nrm --force c0ffee\n"),
        "{log}"
    );
}

#[test]
fn a_container_that_cimad_never_heard_of_shows_that_the_hook_does_not_fire() {
    let Some(node) = node_with_cimad("other") else {
        return;
    };
    podman(&node, "exit 0");
    let checked = check(&node);
    assert_eq!(
        (checked.code, &checked.json["fires"]),
        (Some(1), &Value::Bool(false))
    );
    assert!(node.read("log").unwrap().ends_with("rm --force c0ffee\n"));
}

#[test]
fn a_denial_by_the_hook_shows_that_it_fires() {
    let Some(node) = node_with_cimad("other") else {
        return;
    };
    podman(
        &node,
        "echo 'Error: crun: cima-hook: denied: not known' >&2; exit 126",
    );
    let checked = check(&node);
    assert_eq!(
        (checked.code, &checked.json["fires"]),
        (Some(0), &Value::Bool(true))
    );
}

#[test]
fn what_cannot_be_tried_is_said_and_is_no_verdict() {
    let Some(node) = node_with_cimad("other") else {
        return;
    };
    podman(&node, "echo 'Error: no space left' >&2; exit 125");
    let checked = check(&node);
    assert_eq!(
        (checked.code, &checked.json["fires"]),
        (Some(2), &Value::Null)
    );
    assert!(
        checked.stderr.contains("no space left"),
        "{}",
        checked.stderr
    );
    node.program("usr/bin/podman", "#!/bin/sh\nexit 0\n");
    let checked = check(&node);
    assert_eq!(checked.code, Some(2));
    assert!(
        checked.stderr.contains("podman has no image here"),
        "{}",
        checked.stderr
    );
}

#[test]
fn what_is_not_installed_does_not_fire() {
    let node = Node::with(&[]);
    let checked = check(&node);
    assert_eq!(checked.code, Some(1));
    let text = checked.json["text"].as_str().unwrap();
    assert!(text.contains("it is not installed"), "{text}");
}
