// SPDX-License-Identifier: Apache-2.0
//! Each shipped policy allows what it should and denies what it should.

use std::{collections::BTreeSet, fs, path::PathBuf};

use cima_policies::admission::{Admission, DATA, DEFAULT, PolicySource};
use serde_json::{Value, json};

use crate::{example, example_with};

fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn shipped(name: &str, data: &Value) -> Admission {
    let text = fs::read_to_string(directory("admission").join(name)).unwrap();
    let name = name.to_owned();
    let data = PolicySource {
        name: DATA.into(),
        text: data.to_string(),
    };
    Admission::compile(vec![PolicySource { name, text }], Some(data)).unwrap()
}

const IMAGE: &str = "sha256:8c2f1d3e5a7b9c0d1e2f3a4b5c6d7e8f9a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d";

fn cima(name: &str, value: impl Into<Value>) -> Value {
    let value: Value = value.into();
    json!({"cima": {name: value}})
}

/// Of a file, with this data, of the example with this at this pointer: the reason, or none.
type Case = (
    &'static str,
    Value,
    &'static str,
    Value,
    &'static [&'static str],
);

fn volume(destination: &str, source: &str, kind: &str, writable: bool) -> Value {
    json!([{"destination": destination, "source": source, "source_kind": kind, "type": "bind", "options": [],
        "writable": writable, "executable": true}])
}

fn cases() -> Vec<Case> {
    let id = example().container.id;
    let stub = format!("/var/lib/containers/storage/overlay-containers/{id}/userdata/hosts");
    let engine = |destination: &str| volume(destination, &stub, "file", true);
    let none = || json!({});
    let same = || json!(1);
    let unmeasured = || json!({"error": "no store has it"});
    let commands = |what: Value| cima("commands", json!({IMAGE: what}));
    let web = || json!([["/usr/bin/web", "--listen", "0.0.0.0:8080"], ["/bin/other"]]);
    let listed = |list: Value| cima("volumes", list);
    let tmpfs = |at: &str, writable: bool, executable: bool| json!([{"destination": at, "type": "tmpfs", "options": [], "writable": writable, "executable": executable}]);
    let capabilities = |names: &[&str]| json!({"bounding": names, "effective": [], "permitted": [], "inheritable": [], "ambient": ["CAP_CHOWN"]});
    let upper = |findings: Value, more: u64, audited: bool| json!({"dirty": more > 0 || findings != json!([]), "audited": audited, "findings": findings, "more": more});
    let finding =
        || json!([{"path": "/bin/x", "what": "file", "why": "the image does not have it"}]);
    vec![
        ("measured_image.rego", none(), "/version", same(), &[]),
        (
            "measured_image.rego",
            none(),
            "/image",
            unmeasured(),
            &["the image could not be measured: no store has it"],
        ),
        (
            "measured_image.rego",
            none(),
            "/image",
            none(),
            &["the image could not be measured: nobody says why"],
        ),
        (
            "image_allow_list.rego",
            cima("images", json!({IMAGE: "web"})),
            "/version",
            same(),
            &[],
        ),
        (
            "image_allow_list.rego",
            cima("images", json!({IMAGE: "web"})),
            "/image",
            unmeasured(),
            &["an image that could not be measured is in no list"],
        ),
        (
            "image_allow_list.rego",
            cima("images", json!({IMAGE: false})),
            "/version",
            same(),
            &["(registry.example/shop/web:1.4) is not in the list"],
        ),
        (
            "image_allow_list.rego",
            cima("images", json!({})),
            "/image/reference",
            Value::Null,
            &["(without a name) is not in the list"],
        ),
        (
            "image_allow_list.rego",
            cima("images", json!([IMAGE])),
            "/version",
            same(),
            &["is not in the list"],
        ),
        (
            "image_allow_list.rego",
            none(),
            "/version",
            same(),
            &["is not in the list"],
        ),
        ("commands.rego", commands(web()), "/version", same(), &[]),
        (
            "commands.rego",
            commands(json!("any")),
            "/process/args",
            json!(["sh"]),
            &[],
        ),
        (
            "commands.rego",
            commands(web()),
            "/process/args",
            json!(["/usr/bin/web"]),
            &["the command [\"/usr/bin/web\"] is not listed for the image sha256:8c2f"],
        ),
        (
            "commands.rego",
            commands(web()),
            "/process/args",
            json!(["sh", "-c", "/usr/bin/web --listen 0.0.0.0:8080"]),
            &["is not listed"],
        ),
        (
            "commands.rego",
            commands(web()),
            "/image",
            unmeasured(),
            &["for the image that could not be measured"],
        ),
        (
            "commands.rego",
            none(),
            "/version",
            same(),
            &["is not listed"],
        ),
        ("volumes.rego", none(), "/volumes", json!([]), &[]),
        (
            "volumes.rego",
            none(),
            "/version",
            same(),
            &["the volume /srv/web at /srv (read-only) is not listed"],
        ),
        (
            "volumes.rego",
            listed(json!([{"source": "/srv/web", "destination": "/srv"}])),
            "/version",
            same(),
            &[],
        ),
        (
            "volumes.rego",
            listed(json!([{"source": "/srv/"}])),
            "/version",
            same(),
            &[],
        ),
        (
            "volumes.rego",
            listed(json!([{"source": "/"}])),
            "/version",
            same(),
            &[],
        ),
        (
            "volumes.rego",
            listed(json!([{"source": "/srv/we"}])),
            "/version",
            same(),
            &["is not listed"],
        ),
        (
            "volumes.rego",
            listed(json!([{"source": "/srv/web", "destination": "/data"}])),
            "/version",
            same(),
            &["is not listed"],
        ),
        (
            "volumes.rego",
            listed(json!([{"source": "/srv/web"}])),
            "/volumes/0/writable",
            json!(true),
            &["(writable) is not listed"],
        ),
        (
            "volumes.rego",
            listed(json!([{"source": "/srv/web", "writable": true}])),
            "/volumes/0/writable",
            json!(true),
            &[],
        ),
        (
            "volumes.rego",
            none(),
            "/volumes",
            engine("/etc/hosts"),
            &[],
        ),
        (
            "volumes.rego",
            none(),
            "/volumes",
            engine("/usr/bin/sh"),
            &["at /usr/bin/sh"],
        ),
        (
            "volumes.rego",
            none(),
            "/volumes",
            volume(
                "/etc/hosts",
                "/var/lib/docker/containers/other/hosts",
                "file",
                true,
            ),
            &["docker/containers/other"],
        ),
        ("no_executable_volume.rego", none(), "/version", same(), &[]),
        (
            "no_executable_volume.rego",
            none(),
            "/volumes",
            engine("/etc/hosts"),
            &[],
        ),
        (
            "no_executable_volume.rego",
            none(),
            "/volumes",
            engine("/usr/bin/sh"),
            &["files can be executed from the volume"],
        ),
        (
            "no_executable_volume.rego",
            none(),
            "/volumes/0/executable",
            json!(true),
            &["the volume /srv/web at /srv: mount it noexec"],
        ),
        (
            "no_executable_volume.rego",
            cima("executable", json!(["/srv"])),
            "/volumes/0/executable",
            json!(true),
            &[],
        ),
        (
            "no_executable_volume.rego",
            none(),
            "/mounts",
            tmpfs("/tmp", true, true),
            &["the tmpfs at /tmp"],
        ),
        (
            "no_executable_volume.rego",
            cima("executable", json!(["/tmp"])),
            "/mounts",
            tmpfs("/tmp", true, true),
            &[],
        ),
        (
            "no_executable_volume.rego",
            none(),
            "/mounts",
            tmpfs("/tmp", false, true),
            &[],
        ),
        (
            "no_executable_volume.rego",
            none(),
            "/mounts",
            tmpfs("/dev", true, true),
            &[],
        ),
        ("no_privileged.rego", none(), "/version", same(), &[]),
        (
            "no_privileged.rego",
            none(),
            "/privileges/privileged",
            json!(true),
            &["the container is privileged"],
        ),
        (
            "no_privileged.rego",
            none(),
            "/privileges/all_devices",
            json!(true),
            &["every device"],
        ),
        (
            "no_privileged.rego",
            none(),
            "/privileges/seccomp",
            json!({"mode": "unconfined"}),
            &["no seccomp filter"],
        ),
        (
            "no_privileged.rego",
            none(),
            "/privileges/capabilities",
            capabilities(&["CAP_SYS_ADMIN"]),
            &["the capability CAP_SYS_ADMIN"],
        ),
        (
            "no_privileged.rego",
            cima("capabilities", json!(["CAP_SYS_ADMIN"])),
            "/privileges/capabilities",
            capabilities(&["CAP_SYS_ADMIN"]),
            &["the capability CAP_CHOWN"],
        ),
        (
            "no_privileged.rego",
            cima("capabilities", json!([])),
            "/privileges/capabilities",
            capabilities(&[]),
            &["the capability CAP_CHOWN"],
        ),
        ("no_host_namespaces.rego", none(), "/version", same(), &[]),
        (
            "no_host_namespaces.rego",
            none(),
            "/privileges/namespaces/pid",
            json!("host"),
            &["the host's pid namespace"],
        ),
        (
            "no_host_namespaces.rego",
            none(),
            "/privileges/namespaces/network",
            json!("host"),
            &["the host's network namespace"],
        ),
        (
            "no_host_namespaces.rego",
            cima("host_namespaces", json!(["network"])),
            "/privileges/namespaces/network",
            json!("host"),
            &[],
        ),
        ("clean_upper.rego", none(), "/version", same(), &[]),
        (
            "clean_upper.rego",
            none(),
            "/upper",
            upper(finding(), 0, true),
            &["/bin/x was written over the image: the image does not have it"],
        ),
        (
            "clean_upper.rego",
            none(),
            "/upper",
            upper(json!([]), 3, true),
            &[
                "3 more files were written over the image",
                "something was written over the image",
            ],
        ),
        (
            "clean_upper.rego",
            none(),
            "/upper",
            upper(json!([]), 0, false),
            &["nobody could look"],
        ),
    ]
}

#[test]
fn each_shipped_policy_allows_and_denies() {
    let (mut allow, mut deny) = (BTreeSet::new(), BTreeSet::new());
    for (file, data, pointer, value, reasons) in cases() {
        let decision = shipped(file, &data).decide(&example_with(&[(pointer, value.clone())]));
        let told = &decision.denied;
        let as_expected = told.len() == reasons.len()
            && told
                .iter()
                .zip(reasons)
                .all(|(told, reason)| told.contains(reason));
        assert!(
            as_expected,
            "{file}, data {data}, {pointer} = {value}: {told:?}, not {reasons:?}"
        );
        if reasons.is_empty() {
            allow.insert(file);
        } else {
            deny.insert(file);
        }
    }
    assert_eq!(allow, deny);
    let entries = fs::read_dir(directory("admission")).unwrap();
    let files: BTreeSet<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        files
            .iter()
            .all(|file| allow.contains(file.to_str().unwrap())),
        "{files:?}"
    );
}

#[test]
fn shipped_policies_stand_side_by_side() {
    let admission = Admission::read(&directory("admission")).unwrap();
    let denied = admission.decide(&example()).denied;
    assert_eq!(
        denied.len(),
        3,
        "no list of images, commands and volumes: {denied:?}"
    );
}

#[test]
fn the_default_denies_only_what_could_not_be_measured() {
    let admission = Admission::read(&directory("default/admission")).unwrap();
    assert!(admission.decide(&example()).allowed());
    let privileged = example_with(&[("/privileges/privileged", json!(true))]);
    assert!(admission.decide(&privileged).allowed());
    let unmeasured = example_with(&[("/image", json!({"error": "it is on btrfs"}))]);
    let denied = admission.decide(&unmeasured).denied;
    assert_eq!(denied, ["the image could not be measured: it is on btrfs"]);
    let embedded: Vec<_> = DEFAULT
        .iter()
        .map(|(name, text)| (name.to_string(), text.to_string()))
        .collect();
    let files: Vec<_> = admission
        .files()
        .iter()
        .map(|file| (file.name.clone(), file.text.clone()))
        .collect();
    assert_eq!(embedded, files);
    let rules = |text: &str| text.split_once("package").unwrap().1.to_owned();
    let same = fs::read_to_string(directory("admission/measured_image.rego")).unwrap();
    assert_eq!(rules(&same), rules(DEFAULT[0].1));
}

#[test]
fn a_users_own_container_needs_no_device_cgroup() {
    let policy = shipped("no_privileged.rego", &json!({}));
    let decide = |rootless: bool| {
        let mut input = example_with(&[("/privileges/all_devices", json!(true))]);
        input.container.rootless = rootless;
        policy.decide(&input).denied
    };
    assert!(decide(true).is_empty());
    assert_eq!(decide(false).len(), 1);
}
