// SPDX-License-Identifier: Apache-2.0
//! `cima verify` of what a list says: containers and node by references, a policy and an admission policy.

use std::fs;

use cima_agent::{
    containers::Provenance,
    measure::{
        PolicyEvent, SelfPart, Violation,
        proto::{self, context_event::What, start::Reason},
    },
};
use cima_policies::{VERIFICATION_DEFAULT, admission::EXAMPLE};
use ima_log::{Digest, HashAlgorithm};
use image_digest::ImageDigest;
use serde_json::{Value, json};

use crate::{
    command::{Files, Ran, cima},
    list::{List, event, pcr_args},
};

const SHELL: &[u8] = b"/bin/sh";
const TOOL: &[u8] = b"/usr/bin/tool";

fn image() -> ImageDigest {
    ImageDigest::new([7; 32])
}

fn digest(of: &[u8]) -> Digest {
    HashAlgorithm::Sha256.digest(of)
}

/// What is known of the image: a shell and a tool, each with its path for content.
fn reference() -> Value {
    let of = |path: &[u8]| {
        json!({
            "path": String::from_utf8_lossy(path),
            "sha256": hex::encode(digest(path).bytes()),
            "why": ["elf", "mode"],
        })
    };
    json!({
        "cima-reference": 1, "image": image().to_string(), "name": "localhost/web:1",
        "manifest": null, "config": null, "platform": null, "labels": {}, "annotations": {},
        "executables": [of(SHELL), of(TOOL)],
    })
}

/// A container of that image, as an agent admits it.
fn created(number: u64) -> proto::Created {
    let mut input: Value = serde_json::from_str(EXAMPLE).unwrap();
    input["container"]["name"] = json!("web");
    input["image"]["digest"] = json!(image().to_string());
    input["upper"] = json!({
        "dirty": true, "audited": true, "more": 0,
        "findings": [{"path": "opt/late", "what": "file", "why": "it is no stub"}],
    });
    proto::Created {
        container: number,
        id: "c1".repeat(32),
        image: image().bytes().to_vec(),
        mnt_ns: 4_026_532_700,
        mnt_generation: 70 + number,
        input: input.to_string(),
        allowed: true,
        policy: vec![9; 32],
        ..Default::default()
    }
}

fn in_container(number: u64) -> proto::Identity {
    proto::Identity {
        container: number,
        mnt_ns: 4_026_532_700,
        mnt_generation: 70 + number,
        ..Default::default()
    }
}

fn file(path: &[u8]) -> proto::File {
    proto::File {
        path: path.to_vec(),
        mode: 0o100_755,
        overlay: true,
        ..Default::default()
    }
}

fn mapping(digest: &Digest) -> proto::Mapping {
    proto::Mapping {
        digest: digest.bytes().to_vec(),
        algorithm: digest.algorithm().name().into(),
        ..Default::default()
    }
}

/// A list with one container, number 1.
fn begun() -> List {
    let mut list = List::new();
    list.policy_event(&PolicyEvent::agent(SelfPart::Binary, &digest(b"cimad")));
    list.policy_event(&PolicyEvent::image(&image()));
    list.batch(vec![event(What::Created(created(1)))]);
    list
}

/// A file is executed in container 1, with all that goes with it.
fn executed(list: &mut List, path: &[u8], content: &Digest) {
    let provenance = Provenance::Image(image());
    list.policy_event(&PolicyEvent::exec(&provenance, path, content));
    let what = What::Mapping(mapping(content));
    list.done(in_container(1), file(path), what);
}

/// Files that a list is judged by.
struct Terms {
    files: Files,
    reference: String,
}

impl Terms {
    fn new() -> Self {
        let files = Files::new();
        let reference = files.write("references/web.json", reference().to_string());
        Self { files, reference }
    }

    fn verify(&self, list: &List, more: &[&str]) -> Ran {
        let path = self.files.write("list.ima", list.binary());
        let mut words = vec!["verify".to_owned(), path];
        words.extend(pcr_args(&list.values()));
        words.extend(more.iter().map(|word| (*word).to_owned()));
        cima(words)
    }

    fn judged(&self, list: &List) -> Ran {
        self.verify(list, &["--json", "--reference", &self.reference])
    }

    /// A policy that differs from the shipped one.
    fn policy(&self, changes: &[(&str, &str)]) -> String {
        let mut text = VERIFICATION_DEFAULT.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        self.files.write("policy.toml", text)
    }
}

/// Kinds of the reasons of container `at`, with those refused in capitals.
fn reasons(of: &Value) -> Vec<String> {
    let word = |reason: &Value| {
        let kind = reason["kind"].as_str().unwrap();
        match reason["refused"].as_bool() {
            Some(true) => kind.to_uppercase(),
            _ => kind.to_owned(),
        }
    };
    of["reasons"].as_array().unwrap().iter().map(word).collect()
}

#[test]
fn a_container_that_executes_what_its_image_has_is_good() {
    let mut list = begun();
    executed(&mut list, SHELL, &digest(SHELL));
    executed(&mut list, TOOL, &digest(TOOL));
    let terms = Terms::new();
    let ran = terms.judged(&list);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    let verdict = ran.json();
    let web = &verdict["containers"][0];
    assert_eq!(
        (&web["verdict"], &web["name"]),
        (&json!("good"), &json!("web"))
    );
    assert_eq!(
        (&web["container"], &web["measured"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(web["reference"], "localhost/web:1");
    assert_eq!(
        (&web["allowed"], &web["created_index"]),
        (&json!(true), &json!(3))
    );
    assert_eq!(web["upper_dirty"], true);
    assert_eq!(reasons(web), [""; 0]);
    assert_eq!(verdict["node"]["verdict"], "good");
    assert_eq!(verdict["node"]["agent"][0]["part"], "binary");
    assert_eq!(reasons(&verdict["node"]), ["no-quote"]);
    let ran = terms.verify(&list, &["--reference", &terms.files.path("references")]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.verdict().ends_with("in order; 1 container: 1 good"),
        "{}",
        ran.out
    );
    // Nothing to judge by: the list alone is, as ever.
    let ran = terms.verify(&list, &["--containers", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let verdict = ran.json();
    assert_eq!(verdict["containers"][0]["verdict"], "unknown");
    assert_eq!(verdict["node"]["judged"], false);
    let verdict = terms.verify(&list, &["--json"]).json();
    assert!(verdict.get("containers").is_none() && verdict.get("node").is_none());
    assert_eq!(verdict["completeness"]["starts"], 1);
}

#[test]
fn what_a_container_did_is_held_against_its_image() {
    type Say = fn(&mut List);
    let cases: [(&str, Say, &str, &[&str], &str); 10] = [
        (
            "another content",
            |list| executed(list, SHELL, &digest(b"evil")),
            "bad",
            &["CHANGED"],
            "/bin/sh was executed with digest sha256:",
        ),
        (
            "another file",
            |list| executed(list, b"/tmp/miner", &digest(b"miner")),
            "bad",
            &["NOT-IN-REFERENCE"],
            "in the container's overlay",
        ),
        (
            "written before",
            |list| executed(list, b"/opt/late", &digest(b"late")),
            "bad",
            &["NOT-IN-REFERENCE"],
            "written over the image before the container was created",
        ),
        (
            "without a name",
            |list| executed(list, b"/bin/sh (deleted)", &digest(SHELL)),
            "bad",
            &["NOT-IN-REFERENCE"],
            "it has no name any more",
        ),
        (
            "by another algorithm",
            |list| executed(list, SHELL, &HashAlgorithm::Sha512.digest(SHELL)),
            "unknown",
            &["incomparable"],
            "by SHA-256 only",
        ),
        (
            "in a volume",
            |list| {
                let digest = digest(b"plugin");
                let provenance = Provenance::Image(image());
                list.policy_event(&PolicyEvent::exec(&provenance, b"/data/plugin", &digest));
                let what = What::Mapping(proto::Mapping {
                    volume: "/srv/data".into(),
                    ..mapping(&digest)
                });
                list.done(in_container(1), file(b"/data/plugin"), what);
            },
            "unknown",
            &["volume"],
            "/data/plugin was executed from the volume /srv/data",
        ),
        (
            "what could not be hashed",
            |list| {
                let provenance = Provenance::Image(image());
                list.policy_event(&PolicyEvent::violation(
                    Violation::Hash,
                    &provenance,
                    SHELL,
                    "errno=13",
                ));
                let what = What::Mapping(proto::Mapping {
                    hash_error: -13,
                    ..Default::default()
                });
                list.done(in_container(1), file(SHELL), what);
            },
            "unknown",
            &["violation"],
            "a file was executed that could not be hashed",
        ),
        (
            "while it was written",
            |list| {
                let digest = digest(SHELL);
                let provenance = Provenance::Image(image());
                let detail = format!("open;{digest}");
                list.policy_event(&PolicyEvent::violation(
                    Violation::Writer,
                    &provenance,
                    SHELL,
                    &detail,
                ));
                let what = What::Mapping(proto::Mapping {
                    writer: true,
                    ..mapping(&digest)
                });
                list.done(in_container(1), file(SHELL), what);
            },
            "bad",
            &["VIOLATION"],
            "could be written while it was hashed or in use: /bin/sh",
        ),
        (
            "memory",
            |list| {
                let provenance = Provenance::Image(image());
                list.policy_event(&PolicyEvent::violation(
                    Violation::Anonymous,
                    &provenance,
                    b"",
                    "memory",
                ));
                let what = What::Breach(proto::Breach {
                    kind: proto::breach::Kind::Anonymous.into(),
                    ..Default::default()
                });
                list.done(in_container(1), proto::File::default(), what);
            },
            "good",
            &["violation"],
            "memory without a file was made executable",
        ),
        (
            "another root",
            |list| {
                let provenance = Provenance::Image(image());
                list.policy_event(&PolicyEvent::violation(
                    Violation::Root,
                    &provenance,
                    b"/",
                    "other",
                ));
                let what = What::Change(proto::Change {
                    other_root: true,
                    ..Default::default()
                });
                list.done(in_container(1), proto::File::default(), what);
            },
            "bad",
            &["VIOLATION"],
            "another root than the one that was measured",
        ),
    ];
    for (name, say, rating, kinds, sentence) in cases {
        let mut list = begun();
        executed(&mut list, SHELL, &digest(SHELL));
        let policy_event = list.entries.len();
        say(&mut list);
        let ran = Terms::new().judged(&list);
        let verdict = ran.json();
        let web = &verdict["containers"][0];
        assert_eq!(
            (web["verdict"].as_str(), reasons(web)),
            (
                Some(rating),
                kinds.iter().map(ToString::to_string).collect()
            ),
            "{name}: {web}"
        );
        let said = web["reasons"][0]["sentence"].as_str().unwrap();
        assert!(said.contains(sentence), "{name}: {said}");
        assert_eq!(web["reasons"][0]["index"], policy_event, "{name}");
        assert_eq!(ran.code, Some(i32::from(rating == "bad")), "{name}");
        assert_eq!(verdict["list_good"], true);
    }
}

#[test]
fn who_is_announced_to_nobody_or_denied_is_named() {
    let nobody = |generation: u64, id: &str| proto::Identity {
        mnt_ns: 4_026_532_800,
        mnt_generation: generation,
        container_id: id.into(),
        ..Default::default()
    };
    let ran_as = |list: &mut List, identity: proto::Identity| {
        let provenance = Provenance::Unregistered;
        list.policy_event(&PolicyEvent::exec(&provenance, SHELL, &digest(SHELL)));
        list.done(
            identity,
            file(SHELL),
            What::Mapping(mapping(&digest(SHELL))),
        );
    };
    let terms = Terms::new();
    let mut list = begun();
    ran_as(&mut list, nobody(99, &"ab".repeat(32)));
    ran_as(&mut list, nobody(99, &"ab".repeat(32)));
    let ran = terms.judged(&list);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let verdict = ran.json();
    assert_eq!(verdict["containers"].as_array().unwrap().len(), 2);
    let unregistered = &verdict["containers"][1];
    assert_eq!(
        (&unregistered["verdict"], &unregistered["container"]),
        (&json!("bad"), &Value::Null)
    );
    assert_eq!(reasons(unregistered), ["UNREGISTERED"]);
    assert_eq!(reasons(&verdict["node"]), ["CONTAINERS", "no-quote"]);
    let policy = terms.policy(&[("unregistered = \"refuse\"", "unregistered = \"accept\"")]);
    let ran = terms.verify(
        &list,
        &["--policy", &policy, "--reference", &terms.reference],
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");

    // Denied, and known again by its namespace or its id.
    let id = "dd".repeat(32);
    for identity in [nobody(72, ""), nobody(1, &id), in_container(2)] {
        let mut list = begun();
        let denied = proto::Created {
            id: id.clone(),
            mnt_ns: 4_026_532_800,
            allowed: false,
            reasons: vec!["privileged \u{1b}[2J".into()],
            ..created(2)
        };
        list.batch(vec![event(What::Created(denied))]);
        let ran = terms.judged(&list);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let verdict = ran.json();
        let denied = &verdict["containers"][1];
        assert_eq!(
            (&denied["verdict"], &denied["allowed"]),
            (&json!("good"), &json!(false))
        );
        assert_eq!(denied["denied"][0], r"privileged \x1b[2J");
        ran_as(&mut list, identity);
        let ran = terms.judged(&list);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let verdict = ran.json();
        assert_eq!(
            verdict["containers"].as_array().unwrap().len(),
            2,
            "{verdict}"
        );
        assert_eq!(reasons(&verdict["containers"][1]), ["DENIED-RAN"]);
    }
}

#[test]
fn an_image_without_a_reference_is_not_known() {
    let terms = Terms::new();
    let mut other = created(2);
    other.image = vec![8; 32];
    let mut list = begun();
    list.policy_event(&PolicyEvent::image(&ImageDigest::new([8; 32])));
    list.batch(vec![event(What::Created(other))]);
    let mut unmeasured = created(3);
    unmeasured.image.clear();
    list.batch(vec![event(What::Created(unmeasured))]);
    let verdict = terms.judged(&list).json();
    assert_eq!(verdict["containers"][0]["verdict"], "good");
    assert_eq!(reasons(&verdict["containers"][1]), ["NO-REFERENCE"]);
    assert_eq!(reasons(&verdict["containers"][2]), ["UNMEASURED"]);
    let policy = terms.policy(&[
        ("no_reference = \"refuse\"", "no_reference = \"warn\""),
        ("unmeasured = \"refuse\"", "unmeasured = \"warn\""),
    ]);
    let ran = terms.verify(
        &list,
        &["--policy", &policy, "--reference", &terms.reference],
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.verdict().ends_with("3 containers: 1 good, 2 unknown"),
        "{}",
        ran.out
    );
    // Without any reference no container is good, and none is refused for it.
    let policy = terms.policy(&[("unmeasured = \"refuse\"", "unmeasured = \"accept\"")]);
    let ran = terms.verify(&list, &["--policy", &policy, "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let verdict = ran.json();
    assert_eq!(reasons(&verdict["containers"][0]), ["no-references"]);
    assert_eq!(verdict["containers"][0]["verdict"], "unknown");
}

#[test]
fn what_no_context_event_tells_of_is_the_nodes() {
    let terms = Terms::new();
    let mut list = begun();
    let provenance = Provenance::Image(image());
    list.policy_event(&PolicyEvent::exec(&provenance, TOOL, &digest(TOOL)));
    list.policy_event(&PolicyEvent::exec(&provenance, b"/tmp/x y", &digest(b"x")));
    list.policy_event(&PolicyEvent::violation(
        Violation::KernelLoad,
        &provenance,
        b"",
        "id=2",
    ));
    list.policy_event(&PolicyEvent::image(&ImageDigest::new([8; 32])));
    let ran = terms.judged(&list);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let verdict = ran.json();
    assert_eq!(verdict["containers"][0]["verdict"], "good");
    let kinds = ["NOT-IN-REFERENCE", "VIOLATION", "NO-REFERENCE", "no-quote"];
    assert_eq!(reasons(&verdict["node"]), kinds);
    let said = verdict["node"]["reasons"][0]["sentence"].as_str().unwrap();
    assert!(
        said.contains("/tmp/x y") && said.contains("no context event says"),
        "{said}"
    );
}

#[test]
fn the_node_is_judged_by_its_agent_its_sink_and_what_it_did_not_see() {
    let terms = Terms::new();
    let mut list = begun();
    list.policy_event(&PolicyEvent::own_violation(
        Violation::Loss,
        "cause=map-ring-full;count=17;at=5",
    ));
    list.policy_event(&PolicyEvent::own_violation(
        Violation::Loss,
        "cause=unwatched;before=cima-ctx:2",
    ));
    list.batch(vec![event(What::Stop(proto::Stop {}))]);
    list.start(Reason::Restart);
    list.start(Reason::Restart);
    let verdict = terms.judged(&list).json();
    assert_eq!(
        reasons(&verdict["node"]),
        ["UNWATCHED", "no-quote", "loss", "crash"]
    );
    let completeness = &verdict["completeness"];
    for (key, count) in [
        ("lost", 17),
        ("unwatched", 1),
        ("starts", 3),
        ("restarts", 1),
        ("crashes", 1),
        ("stops", 1),
    ] {
        assert_eq!(completeness[key], count, "{key}");
    }
    assert_eq!(completeness["losses"]["map-ring-full"], 17);
    let cimad = digest(b"cimad").to_string();
    let other = digest(b"another").to_string();
    let all = |binary: &str, probes: &str| {
        terms.policy(&[
            ("binary = []", &format!("binary = [{binary}]")),
            ("probes = []", &format!("probes = [{probes}]")),
            ("unwatched = \"refuse\"", "unwatched = \"accept\""),
        ])
    };
    let with = |policy: &str| terms.verify(&list, &["--json", "--policy", policy]);
    let good = with(&all(&format!("'{other}', '{cimad}'"), ""));
    assert_eq!(good.code, Some(0), "{good:?}");
    let verdict = with(&all(&format!("'{other}'"), &format!("'{other}'"))).json();
    let node = &verdict["node"];
    assert_eq!(reasons(node)[..2], ["AGENT", "AGENT"]);
    let said = |at: usize| node["reasons"][at]["sentence"].as_str().unwrap();
    assert!(
        said(0).contains("does not say what the agent's probes is"),
        "{}",
        said(0)
    );
    assert!(
        said(1).contains("the agent's binary is sha256:"),
        "{}",
        said(1)
    );
    let policy = terms.policy(&[
        (
            "sinks = [\"kernel\", \"ima-file\", \"pcr\"]",
            "sinks = [\"kernel\"]",
        ),
        ("no_quote = \"warn\"", "no_quote = \"refuse\""),
    ]);
    let verdict = with(&policy).json();
    assert_eq!(reasons(&verdict["node"])[..2], ["NO-QUOTE", "SINK"]);
}

#[test]
fn each_admission_is_judged_again() {
    let terms = Terms::new();
    let rule = |text: &str| {
        let dir = terms.files.path("admission");
        let text = format!("package cima.admission\n{text}");
        terms.files.write("admission/rule.rego", text);
        dir
    };
    let mut list = begun();
    let denied = proto::Created {
        allowed: false,
        reasons: vec!["not today".into()],
        ..created(2)
    };
    list.batch(vec![event(What::Created(denied))]);
    let broken = proto::Created {
        input: "{}".into(),
        ..created(3)
    };
    list.batch(vec![event(What::Created(broken))]);
    let strict = rule("deny contains \"never\" if { input.container.name == \"web\" }");
    let verdict = terms
        .verify(&list, &["--json", "--admission", &strict])
        .json();
    let of = |at: usize| reasons(&verdict["containers"][at]);
    assert_eq!(
        (of(0), of(1)),
        (vec!["ADMISSION".to_owned(), "no-references".into()], vec![])
    );
    let said = verdict["containers"][0]["reasons"][0]["sentence"]
        .as_str()
        .unwrap();
    assert!(said.ends_with("denies it: never"), "{said}");
    let said = verdict["containers"][2]["reasons"][0]["sentence"]
        .as_str()
        .unwrap();
    assert!(said.contains("cannot be judged again"), "{said}");
    let lax = rule("deny contains \"never\" if { input.container.name == \"other\" }");
    let verdict = terms.verify(&list, &["--json", "--admission", &lax]).json();
    assert_eq!(reasons(&verdict["containers"][0]), ["no-references"]);
    let said = verdict["containers"][1]["reasons"][0]["sentence"]
        .as_str()
        .unwrap();
    assert!(said.contains("the node denied it (not today)"), "{said}");
}

#[test]
fn of_a_list_that_is_not_proven_no_container_is_good() {
    let terms = Terms::new();
    let mut list = begun();
    executed(&mut list, SHELL, &digest(SHELL));
    let path = terms.files.write("list.ima", list.binary());
    list.foreign();
    let mut words = vec!["verify".to_owned(), path, "--json".into()];
    words.extend(["--reference".to_owned(), terms.reference.clone()]);
    words.extend(pcr_args(&list.values()));
    let ran = cima(words);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let web = &ran.json()["containers"][0];
    assert_eq!(
        (web["verdict"].as_str(), reasons(web)),
        (Some("unknown"), vec!["unproven".to_owned()])
    );
}

#[test]
fn what_cannot_be_judged_by_is_one_sentence() {
    let terms = Terms::new();
    let list = begun();
    let refused = |more: &[&str], said: &[&str]| terms.verify(&list, more).refused(said);
    let none = terms.files.write("none.json", "{}");
    refused(&["--reference", &none], &["none.json: it is no reference"]);
    let empty = terms.files.path("empty");
    fs::create_dir(&empty).unwrap();
    refused(&["--reference", &empty], &["empty has no file *.json"]);
    refused(
        &["--reference", "/nowhere"],
        &["cannot read the reference /nowhere"],
    );
    let mut other = reference();
    other["executables"][0]["sha256"] = json!("0".repeat(64));
    let other = terms.files.write("other.json", other.to_string());
    refused(
        &["--reference", &terms.reference, "--reference", &other],
        &["other.json: two references of image", "/bin/sh"],
    );
    let policy = terms.policy(&[("loss = \"warn\"", "loss = \"maybe\"")]);
    let ran = terms.verify(&list, &["--policy", &policy]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.err
            .contains("policy.toml: the verification policy is not valid")
            && ran.err.contains("line")
    );
    refused(&["--admission", &empty], &["empty has no file *.rego"]);
}

#[test]
fn no_text_of_a_list_reaches_the_terminal() {
    let terms = Terms::new();
    let mut list = List::new();
    let mut input: Value = serde_json::from_str(EXAMPLE).unwrap();
    input["container"]["name"] = json!("web\u{1b}[2J\u{202e}");
    input["image"]["reference"] = json!("x\u{7}");
    list.policy_event(&PolicyEvent::image(&image()));
    list.batch(vec![event(What::Created(proto::Created {
        id: "\u{1b}]0;x\u{7}".into(),
        input: input.to_string(),
        ..created(1)
    }))]);
    executed(&mut list, b"/tmp/\x1b[2J\xff", &digest(b"x"));
    let identity = proto::Identity {
        cgroup_path: b"/\x1b[2J".to_vec(),
        container_id: "\u{1b}".into(),
        ..Default::default()
    };
    let nobody = Provenance::Unregistered;
    list.policy_event(&PolicyEvent::exec(&nobody, b"/\x07", &digest(b"y")));
    list.done(
        identity,
        file(b"/\x07"),
        What::Mapping(mapping(&digest(b"y"))),
    );
    for more in [&[][..], &["--json"]] {
        let ran = terms.verify(&list, &[more, &["--reference", &terms.reference]].concat());
        assert_eq!(ran.code, Some(1));
        let shown = |byte: &u8| (b' '..=b'~').contains(byte) || *byte == b'\n';
        assert!(ran.bytes.iter().all(shown), "{}", ran.out);
        assert!(ran.out.contains("x1b[2J"), "{}", ran.out);
    }
}
