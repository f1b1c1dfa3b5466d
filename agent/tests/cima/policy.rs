// SPDX-License-Identifier: Apache-2.0
//! `cima policy`, with rules made for it and those that are shipped.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::command::{Files, cima, cima_reading};

const RULES: &str = "package cima.admission

import rego.v1

deny contains reason if {
    not input.container.name in data.names
    reason := sprintf(\"nobody knows %s\\u001b[2J\", [input.container.name])
}

deny contains \"a privileged container\" if input.privileges.privileged
";

/// A directory with rules and data, and the example as an input beside it.
fn policy() -> (Files, String, String) {
    let files = Files::new();
    files.write("policy/names.rego", RULES);
    files.write("policy/data.json", "{\"names\": [\"web\"]}");
    let input = files.write("input.json", cima(["policy", "example"]).bytes);
    let dir = files.path("policy");
    (files, dir, input)
}

#[test]
fn a_container_that_no_rule_names_is_allowed() {
    let (_files, dir, input) = policy();
    let ran = cima(["policy", "test", &dir, "--input", &input]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "allowed\n", "")
    );
    let ran = cima(["policy", "test", "--json", &dir, "--input", &input]);
    assert_eq!(ran.code, Some(0));
    let json = ran.json();
    assert_eq!(json["allowed"], true);
    assert_eq!(json["denied"], json!([]));
    let digest = json["policy"].as_str().unwrap();
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{digest}"
    );
}

#[test]
fn a_container_that_is_denied_has_every_reason_on_a_line_of_its_own() {
    let (files, dir, input) = policy();
    let mut container: Value = serde_json::from_str(&cima(["policy", "example"]).out).unwrap();
    container["container"]["name"] = "db".into();
    container["privileges"]["privileged"] = true.into();
    let other = files.write("other.json", container.to_string());
    let ran = cima(["policy", "test", &dir, "--input", &other]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let reasons = ["a privileged container", r"nobody knows db\u{1b}[2J"];
    assert_eq!(
        ran.out,
        format!("denied: {}\ndenied: {}\n", reasons[0], reasons[1])
    );
    let ran = cima_reading(
        ["policy", "test", &dir, "--json", "--input", "-"],
        container.to_string().as_bytes(),
    );
    assert_eq!((ran.code, &ran.json()["allowed"]), (Some(1), &json!(false)));
    assert_eq!(ran.json()["denied"], json!(reasons));

    // Of files by name; the data is another.
    let rules = files.path("policy/names.rego");
    let data = files.write("none.json", "{\"names\": []}");
    let ran = cima(["policy", "test", &rules, "--data", &data, "--input", &input]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("nobody knows web"), "{}", ran.out);
}

#[test]
fn a_policy_that_does_not_answer_denies() {
    let (files, _, input) = policy();
    let rules = files.write(
        "slow.rego",
        "package cima.admission\ndeny[msg] { input.container.name == \"web\"; x := numbers.range(1, 90000); \
         x[_] + x[_] + x[_] == 0; msg := \"no\" }",
    );
    let ran = cima(["policy", "test", &rules, "--input", &input]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(
        ran.out,
        "denied: the admission policy gave no answer: it took longer than 1s\n"
    );
}

#[test]
fn what_is_no_policy_or_no_input_is_refused_by_name() {
    let (files, dir, input) = policy();
    let test = |policy: &str, input: &str| cima(["policy", "test", policy, "--input", input]);
    test(&files.path("none"), &input).refused(&["none", "No such file"]);
    test(&dir, &files.path("none.json")).refused(&["none.json", "No such file"]);
    let empty = files.write("empty/README", "");
    test(&files.path("empty"), &input).refused(&["has no file *.rego"]);
    test(&empty, &input).refused(&["README, line 1", "expecting `package`"]);
    let broken = files.write("broken.rego", "package cima.admission\ndeny[msg] {\n}\n");
    test(&broken, &input).refused(&["broken.rego, line "]);
    let silent = files.write("silent.rego", "package cima.admision\nx = 1\n");
    test(&silent, &input).refused(&["nothing would be denied"]);
    let typo = files.write(
        "typo.rego",
        RULES.replace("privileges.privileged", "privileged"),
    );
    test(&typo, &input).refused(&[
        "typo.rego, line 10",
        "input.privileged is no part of the input",
    ]);
    let data = files.write("data.json", "[]");
    let ran = cima(["policy", "test", &typo, "--input", &input, "--data", &data]);
    ran.refused(&["data.json is no JSON object"]);
    let ran = cima(["policy", "test", &dir, "--input", &input, "--data", &data]);
    ran.refused(&["is not the only data"]);
    let other = files.write("other.json", "{\"version\": 2}");
    test(&dir, &other).refused(&["other.json", "version 2, this cima reads 1"]);
    for args in [
        &["policy"][..],
        &["policy", "test", &dir],
        &["policy", "test", "--input", &input],
    ] {
        assert_eq!(cima(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn schema_and_example_are_those_in_the_repository() {
    let policies = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies");
    for (command, file) in [
        ("schema", "admission.schema.json"),
        ("example", "examples/input.json"),
    ] {
        let ran = cima(["policy", command]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        let committed = std::fs::read_to_string(format!("{policies}/{file}")).unwrap();
        assert_eq!(ran.out, committed);
    }
}

#[test]
fn the_shipped_default_allows_the_example() {
    let (_files, _, input) = policy();
    let policies = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies");
    let default = format!("{policies}/default/admission");
    assert_eq!(
        cima(["policy", "test", &default, "--input", &input]).code,
        Some(0)
    );
    let strict = format!("{policies}/admission");
    assert_eq!(
        cima(["policy", "test", &strict, "--input", &input]).code,
        Some(1)
    );
}

/// Every block of a file is written, every line of a console is run by a shell, and what is printed is compared, but for a
/// digest at its end.
#[test]
fn every_example_in_the_document_is_so() {
    let text = include_str!("../../../docs/ADMISSION.md");
    let files = Files::new();
    let directory = Path::new(env!("CARGO_BIN_EXE_cima")).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin", directory.display());
    let mut commands = 0;
    for block in text.split("\n```").skip(1).step_by(2) {
        let (info, content) = block.split_once('\n').unwrap();
        match info.split_once(' ') {
            Some(("rego" | "json", name)) => _ = files.write(name, content),
            None if info == "console" => {
                for step in content.trim_start_matches("$ ").split("\n$ ") {
                    let (line, printed) = step.split_once('\n').unwrap_or((step, ""));
                    let output = Command::new("sh")
                        .args(["-c", &format!("{line} 2>&1")])
                        .env("PATH", &path)
                        .current_dir(files.path("."))
                        .output()
                        .unwrap();
                    let out = String::from_utf8(output.stdout).unwrap();
                    assert_eq!(without_digest(&out), without_digest(printed), "{line}");
                    commands += 1;
                }
            }
            None if info == "text" => {}
            _ => panic!("what is a block of {info:?}?"),
        }
    }
    assert!(commands >= 10, "{commands}");
}

fn without_digest(printed: &str) -> &str {
    printed.split("sha256:").next().unwrap().trim_end()
}
