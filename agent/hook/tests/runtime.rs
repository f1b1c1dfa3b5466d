// SPDX-License-Identifier: Apache-2.0
//! `cima-runtime` as docker and containerd start it, before a runtime that writes down what it gets.

#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Writes its arguments, a line each, and what it finds in the bundle.
const RUNTIME: &str = r#"#!/bin/sh
here=${0%/*}
printf '%s\n' "$@" > "$here/args"
if [ -e "$here/bundle/config.json" ]; then cat "$here/bundle/config.json" > "$here/seen"; fi
exit 7
"#;

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

struct Node(TempDir);

impl Node {
    fn new() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        write_program(&node.path("runc"), RUNTIME);
        node.configure(&format!("runtime = {:?}\n", node.path("runc")));
        fs::create_dir(node.path("bundle")).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn configure(&self, text: &str) {
        let path = self.path("runtime.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn bundle(&self, config: &str) {
        fs::write(self.path("bundle/config.json"), config).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_in(self.0.path(), args)
    }

    fn run_in(&self, directory: &Path, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cima-runtime"))
            .arg("--cima-config")
            .arg(self.path("runtime.toml"))
            .args(args)
            .env("CIMA_RUNTIME", "/bin/true")
            .current_dir(directory)
            .output()
            .unwrap()
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// The real runtime ran, with these arguments.
    fn assert_passed_on(&self, output: &Output, args: &[&str]) {
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(self.read("args").unwrap(), args.join("\n") + "\n");
    }

    /// It did not.
    fn assert_refused(&self, output: &Output, sentence: &str) {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(
            stderr.starts_with("cima-runtime: ") && stderr.contains(sentence),
            "{stderr}"
        );
        assert_eq!(self.read("args"), None);
    }
}

#[test]
fn create_gets_the_hook_and_the_same_arguments() {
    let node = Node::new();
    node.bundle(r#"{"ociVersion":"1.0.2","process":{"args":["sh"]}}"#);
    let bundle = node.path("bundle");
    let args = [
        "--root",
        "/run/docker/runtime-runc/moby",
        "--log",
        "log.json",
        "--log-format",
        "json",
        "create",
        "--bundle",
        bundle.to_str().unwrap(),
        "--pid-file",
        "init.pid",
        "4f2a",
    ];
    node.assert_passed_on(&node.run(&args), &args);
    let seen = node.read("seen").unwrap();
    let expected = r#"{
    "ociVersion": "1.0.2",
    "process": {"args":["sh"]},
    "hooks": {
        "createRuntime": [{"args":["cima-hook","--stage","createRuntime"],"path":"/usr/libexec/cima/cima-hook"}],
        "poststop": [{"args":["cima-hook","--stage","poststop"],"path":"/usr/libexec/cima/cima-hook"}]
    }
}"#;
    assert_eq!(seen, expected);
    node.assert_passed_on(&node.run(&args), &args);
    assert_eq!(node.read("seen").unwrap(), expected);
    assert_eq!(fs::read_dir(bundle).unwrap().count(), 1);
}

#[test]
fn the_bundle_is_the_current_directory_if_nothing_is_said() {
    let node = Node::new();
    node.bundle("{}");
    let output = node.run_in(&node.path("bundle"), &["run", "c1"]);
    node.assert_passed_on(&output, &["run", "c1"]);
    assert!(node.read("seen").unwrap().contains("cima-hook"));
}

#[test]
fn all_else_is_passed_on_and_changes_nothing() {
    let node = Node::new();
    node.bundle("{}");
    for args in [
        &["--version"][..],
        &["--root", "/r", "start", "c1"],
        &["exec", "c1", "create", "--bundle", "bundle", "a b", ""],
    ] {
        node.assert_passed_on(&node.run(args), args);
    }
    assert_eq!(node.read("bundle/config.json").unwrap(), "{}");
}

#[test]
fn the_configured_hook_and_its_arguments_are_taken() {
    let node = Node::new();
    let runtime = node.path("runc");
    node.configure(&format!(
        "runtime = {runtime:?}\nhook = \"/opt/hook\"\nhook_args = [\"--fail\", \"open\"]\n"
    ));
    node.bundle("{}");
    node.run(&["create", "-b", "bundle", "c1"]);
    let seen = node.read("seen").unwrap();
    assert!(
        seen.contains(
            r#"["cima-hook","--stage","createRuntime","--fail","open"],"path":"/opt/hook""#
        ),
        "{seen}"
    );
}

#[test]
fn a_bundle_that_cannot_be_changed_makes_no_container_and_the_engine_is_told() {
    let node = Node::new();
    let args = [
        "--log",
        "log.json",
        "--log-format",
        "json",
        "create",
        "-b",
        "bundle",
        "c1",
    ];
    node.assert_refused(&node.run(&args), "there is no bundle/config.json");
    node.bundle("not json");
    node.assert_refused(
        &node.run(&args),
        "no hook can be added to bundle/config.json",
    );
    fs::rename(node.path("bundle/config.json"), node.path("real.json")).unwrap();
    fs::write(node.path("real.json"), "{}").unwrap();
    symlink("../real.json", node.path("bundle/config.json")).unwrap();
    node.assert_refused(&node.run(&args), "is a symbolic link");
    assert_eq!(node.read("real.json").unwrap(), "{}");
    let log = node.read("log.json").unwrap();
    let last = log.lines().last().unwrap();
    assert!(
        last.starts_with(r#"{"level":"error","msg":"cima-runtime: "#)
            && last.contains("symbolic link"),
        "{last}"
    );
}

#[test]
fn what_could_hide_the_bundle_makes_no_container() {
    let node = Node::new();
    node.bundle("{}");
    let output = node.run(&["--later", "x", "create", "-b", "bundle", "c1"]);
    node.assert_refused(&output, "\"--later\" is not known");
}

#[test]
fn without_a_usable_configuration_nothing_runs() {
    let node = Node::new();
    node.bundle("{}");
    for (text, sentence) in [
        ("runtime = 7", "is not what it has to be"),
        ("runtime = \"runc\"", "is not an absolute path"),
        (
            "runtime = \"/nonexistent/runc\"",
            "cannot start the runtime",
        ),
    ] {
        node.configure(text);
        node.assert_refused(&node.run(&["create", "-b", "bundle", "c1"]), sentence);
    }
    let itself = env!("CARGO_BIN_EXE_cima-runtime");
    node.configure(&format!("runtime = {itself:?}"));
    node.assert_refused(
        &node.run(&["create", "-b", "bundle", "c1"]),
        "is cima-runtime itself",
    );
}

/// What the wrapper adds before the real runtime starts, with a configuration as docker writes it (40 KiB here).
#[test]
#[ignore = "a figure for docs/HOOK.md, of a machine that does nothing else"]
fn the_runtime_takes_less_than_twenty_milliseconds() {
    let node = Node::new();
    let runtime = Path::new("/bin/true");
    node.configure(&format!("runtime = {runtime:?}\n"));
    let mount = r#"{"destination":"/a/mount/point","type":"bind","source":"/var/lib/docker/volumes/v/_data","options":["rbind","rprivate"]}"#;
    let config = format!(
        r#"{{"ociVersion":"1.0.2","mounts":[{}]}}"#,
        vec![mount; 320].join(",")
    );
    let run = |wrapped: bool| {
        node.bundle(&config);
        let begin = Instant::now();
        let output = match wrapped {
            true => node.run(&["create", "--bundle", "bundle", "c1"]),
            false => Command::new(runtime).output().unwrap(),
        };
        assert_eq!(output.status.code(), Some(0));
        begin.elapsed()
    };
    for wrapped in [false, true] {
        let mut took: Vec<Duration> = (0..300).map(|_| run(wrapped)).collect();
        took.sort();
        let (median, late) = (took[150], took[285]);
        println!("wrapped {wrapped}: median {median:?}, 95 % within {late:?}");
        assert!(median < Duration::from_millis(20), "{median:?}");
    }
}
