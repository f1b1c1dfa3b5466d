// SPDX-License-Identifier: Apache-2.0
//! `cima doctor` on roots of machines that are not this one: its exit codes, its JSON, and what a user who is not root is told.
//! What it says of which lack is tested beside it, with devices and sockets that are made up.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::command::{Ran, cima, command};

/// Nobody.
const USER: u32 = 65534;

/// A directory that others may look into.
fn open_directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o755);
    directory
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn write(root: &Path, path: &str, text: &str, mode: u32) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    set_mode(&path, mode);
}

/// Runs it as a user who is not root.
fn as_user(program: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(USER).gid(USER);
    }
    command.args(args).output().unwrap().into()
}

/// The program, where any user can start it. Copied by another process: one that another test starts at this moment would
/// hold ours open, and the kernel executes nothing that is open for writing.
fn program(directory: &Path) -> PathBuf {
    let program = directory.join("cima");
    let mut copy = Command::new("cp");
    copy.arg(command().get_program()).arg(&program);
    assert!(copy.status().unwrap().success());
    program
}

#[test]
fn a_user_is_told_what_only_root_may_look_at() {
    let directory = open_directory();
    let root = directory.path();
    let program = program(root);
    // As the kernel, systemd and cimad protect them; 0 stands for all that this user has not.
    for path in [
        "sys/kernel/security/ima/binary_runtime_measurements",
        "sys/kernel/security/ima/policy",
        "dev/tpmrm0",
        "etc/cima/measurement.toml",
        "usr/lib/cima/cima-probes.o",
        "usr/share/containers/oci/hooks.d/cima.json",
    ] {
        write(root, path, "", 0);
    }
    write(root, "sys/kernel/security/lsm", "bpf", 0o644);
    write(root, "proc/sys/kernel/random/boot_id", "boot", 0o644);
    write(root, "sys/class/tpm/tpm0/tpm_version_major", "2", 0o644);
    write(root, "usr/bin/podman", "", 0o755);
    write(
        root,
        "etc/cima/cimad.toml",
        "[sink]\nkind = \"auto\"\n",
        0o644,
    );
    fs::create_dir_all(root.join("var/lib/cima")).unwrap();
    set_mode(&root.join("var/lib/cima"), 0);
    let root = root.to_str().unwrap();
    let ran = as_user(&program, &["doctor", "--root", root, "--json"]);
    set_mode(&directory.path().join("var/lib/cima"), 0o700);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let page = ran.json();
    assert_eq!(page["root"], false);
    let findings = page["findings"].as_array().unwrap();
    for part in ["IMA", "PCR", "sink", "policy", "probes", "podman"] {
        let finding = findings.iter().find(|one| one["part"] == part).unwrap();
        assert_eq!(finding["state"], "unknown", "{finding}");
        let text = finding["text"].as_str().unwrap();
        assert!(text.contains("ermission denied"), "{finding}");
    }
    let verdict = page["verdict"].as_str().unwrap();
    assert!(verdict.ends_with("(root may look at more)"), "{verdict}");
}

#[test]
fn only_root_may_try() {
    let directory = open_directory();
    let ran = as_user(&program(directory.path()), &["doctor", "--try"]);
    ran.refused(&["--try is for root"]);
}

#[test]
fn nothing_is_tried_on_another_root_and_an_unknown_option_is_usage() {
    for args in [
        ["doctor", "--try", "--root", "/x"],
        ["doctor", "--cure", "--root", "/x"],
    ] {
        let ran = cima(args);
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
    }
}

#[test]
fn the_page_and_its_json_say_the_same_and_end_alike() {
    let directory = open_directory();
    let root = directory.path().to_str().unwrap();
    let text = cima(["doctor", "--root", root]);
    let json = cima(["doctor", "--root", root, "--json"]);
    assert_eq!((text.code, json.code), (Some(1), Some(1)), "{text:?}");
    assert!(!text.out.contains('\x1b'), "colour is for terminals");
    let page = json.json();
    assert_eq!(
        (page["v"].as_u64(), page["good"].as_bool()),
        (Some(1), Some(false))
    );
    assert_eq!(text.verdict(), page["verdict"].as_str().unwrap());
    for finding in page["findings"].as_array().unwrap() {
        let said = finding["text"].as_str().unwrap();
        assert!(text.out.contains(said), "{said}");
        for command in finding["mend"].as_array().unwrap() {
            let command = command.as_str().unwrap();
            assert!(
                text.out.contains(&format!("             {command}\n")),
                "{command}"
            );
        }
    }
}
