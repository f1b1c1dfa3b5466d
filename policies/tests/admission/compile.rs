// SPDX-License-Identifier: Apache-2.0
//! What is taken for a policy, and what is not.

use cima_policies::admission::{Admission, PolicySource};

use crate::{compile, decided, example, rules, sources};

const CLASSIC: &str = "package cima.admission\n\ndeny[msg] {\n  input.container.name == \"web\"\n  msg := \"classic\"\n}\n";
const MODERN: &str = "package cima.admission\nimport rego.v1\ndeny contains msg if {\n  input.container.name == \"web\"\n  msg := \"modern\"\n}\n";
const BARE: &str =
    "package cima.admission\ndeny contains \"bare\" if input.container.name == \"web\"\n";

#[test]
fn both_syntaxes_and_all_files_make_one_set_of_reasons() {
    assert_eq!(decided(CLASSIC).denied, ["classic"]);
    assert_eq!(decided(MODERN).denied, ["modern"]);
    assert_eq!(decided(BARE).denied, ["bare"]);
    let again = MODERN.replace("modern", "classic");
    let library = "package lib.names\nimport rego.v1\nweb(name) if name == \"web\"\n";
    let user = rules(
        "import data.lib.names\ndeny contains \"library\" if names.web(input.container.name)",
    );
    let admission = compile(&[MODERN, CLASSIC, BARE, &again, library, &user]).unwrap();
    let decision = admission.decide(&example());
    assert_eq!(decision.denied, ["bare", "classic", "library", "modern"]);
    assert!(!decision.allowed());
}

#[test]
fn a_policy_that_says_nothing_of_a_container_allows_it() {
    for text in [
        rules("deny contains \"no\" if input.container.name == \"other\""),
        rules("deny := reasons if { input.container.name == \"other\"; reasons := {\"no\"} }"),
        rules("deny := set()"),
    ] {
        assert!(decided(&text).allowed(), "{text}");
    }
    assert!(Admission::allow_all().decide(&example()).allowed());
}

#[test]
fn what_is_wrong_is_named_with_its_file_and_line() {
    let classic = |body: &str| format!("package cima.admission\ndeny[msg] {{\n {body}\n}}\n");
    for (text, words) in [
        (String::new(), "0.rego, line 1: expecting `package`"),
        ("deny".into(), "0.rego, line 1: expecting `package`"),
        (classic("input.version == "), "0.rego, line "),
        (rules("deny contains msg if {\n input.version == \n}"), "0.rego, line "),
        // New syntax with an old rule in it is not read as something else.
        (
            "package cima.admission\ndeny contains \"a\" if input.version == 2\ndeny[msg] { msg := \"b\" }\n".into(),
            "0.rego, line 3: `if` keyword is required",
        ),
        (rules("deny contains nowhere(1)"), "0.rego, line 3: there is no function nowhere"),
        (rules("deny contains x if { input.version == 2; x := http.send({}) }"), "there is no function http.send"),
        (rules("deny contains x if { input.version == 2; x := time.now_ns() }"), "there is no function time.now_ns"),
        (classic("input.version == 1"), "0.rego, line 2: var msg is unsafe"),
        (rules("deny contains \"x\" if input.imge.digest"), "line 3: input.imge is no part of the input"),
        (rules("deny contains \"x\" if not input.image[\"digst\"]"), "input.image.digst is no part"),
        (rules("deny contains \"x\" if input.volumes[_].path == \"/\""), "input.volumes[_].path is no part"),
        (rules("deny contains \"x\" if input.image.digest.sha"), "input.image.digest.sha is no part"),
        (rules("deny contains \"x\" if input.volumes.source"), "input.volumes.source is no part"),
        (rules("deny contains \"x\" if { y := 1 with input.nothing as 2; y == 2 }"), "input.nothing is no part"),
        (rules("deny contains \"x\" if {\n some volume in input.volumes\n volume.writeable }"), "line 5: input.volumes[_].writeable is no part"),
        (rules("deny contains \"x\" if { v := input.volumes[_]; w := v; w.writeable }"), "input.volumes[_].writeable is no part"),
        (rules("deny contains \"x\" if every v in input.volumes { v.writeable }"), "input.volumes[_].writeable is no part"),
        (rules("import input.image as image\nimport input.process\ndeny contains \"x\" if image.digests"), "input.image.digests is no part"),
        (rules("import input.process\ndeny contains \"x\" if process.argv"), "input.process.argv is no part"),
        ("package cima.admission\ndeny[\"x\"] { v = input.volumes[_]; v.writeable }".into(), "input.volumes[_].writeable is no part"),
        (rules("f(x) := f(x + 1)\ndeny contains f(1)"), "the function data.cima.admission.f calls itself"),
        (rules("f(x) := g(x)\ng(x) := data.cima.admission.f(x)\ndeny contains f(1)"), "calls itself"),
        (rules("deny[msg] if msg := \"x\""), "is an object, and not a set of strings"),
        (rules("deny := true"), "is a boolean, and not a set"),
        (rules("deny contains 1"), "has a number in it"),
        (rules("x := 1"), "nothing would be denied"),
        (rules("dney contains \"x\""), "nothing would be denied"),
        ("package cima.admision\nimport rego.v1\ndeny contains \"x\"".into(), "`package cima.admision`, where nobody looks"),
        ("package cima.admission.web\nimport rego.v1\ndeny contains \"x\"".into(), "where nobody looks"),
        (rules("deny contains rand.intn(\"x\", 4)"), "not left to chance"),
        (format!("package cima.admission\ndeny contains {}1{} if true", "[".repeat(300), "]".repeat(300)), ""),
    ] {
        let error = compile(&[&text]).unwrap_err().to_string();
        assert!(error.contains(words), "{text}\n{words}\n{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = compile(&[
        MODERN,
        "package cima.admission\ndeny := true if input.version == 1",
    ]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("1.rego, line 2"), "{error}");
    let error = compile(&[]).unwrap_err().to_string();
    assert!(error.contains("nothing would be denied"), "{error}");
}

#[test]
fn what_the_input_has_may_be_asked_for() {
    let text = rules(
        "deny contains \"x\" if {
    input.annotations[\"io.container.manager\"] == \"libpod\"
    input.annotations.anything
    some volume in input.volumes
    volume.writable
    input.upper.findings[_].path == \"/\"
    input.process.args[0] == \"sh\"
    input.privileges.capabilities[\"bounding\"][_] == \"CAP_SYS_ADMIN\"
    some set
    input.privileges.capabilities[set][_] == \"CAP_SYS_ADMIN\"
    input.privileges.seccomp.default_action
    input.container.launched_by.login_uid
}
# One name for several things is not looked at.
deny contains \"y\" if { some x in input.volumes; x.source == \"\" }
deny contains \"z\" if { some x in [{\"writeable\": 1}]; x.writeable == 2; some y in input.volumes; y.type == x }
deny contains \"u\" if {
    count({z | some z in input.volumes}) == 9
    count([z | some z in [{\"sauce\": 2}]; z.sauce == 1]) == 1
}
f(volume) if volume.sauce
deny contains \"v\" if { some volume in input.volumes; f({\"sauce\": 1}); volume.type == \"\" }
deny contains \"w\" if { some k, v in input.privileges.namespaces; v == k }",
    );
    assert_eq!(decided(&text).denied, [""; 0]);
}

#[test]
fn data_is_an_object_and_leaves_the_rules_alone() {
    let data = |text: &str| {
        let text = text.to_owned();
        let name = "data.json".to_owned();
        Admission::compile(sources(&[MODERN]), Some(PolicySource { name, text }))
    };
    assert!(data("{\"cima\": {\"images\": {}}, \"other\": [1]}").is_ok());
    for (text, words) in [
        (
            "{\"a\": \n",
            "data.json is no JSON object: EOF while parsing a value at line 2",
        ),
        ("[]", "data.json is no JSON object"),
        (
            "{\"cima\": {\"admission\": {\"deny\": []}}}",
            "where the rules are",
        ),
        ("{\"cima\": 1}", ""),
    ] {
        let error = data(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn two_files_do_not_share_a_name() {
    let mut files = sources(&[MODERN, BARE]);
    files[1].name = "0.rego".into();
    let error = Admission::compile(files, None).unwrap_err().to_string();
    assert!(error.contains("have the name 0.rego"), "{error}");
}
