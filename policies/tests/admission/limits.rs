// SPDX-License-Identifier: Apache-2.0
//! A policy that fails or does not end denies, in time, and one that is asked from many threads answers each.

use std::{
    thread,
    time::{Duration, Instant},
};

use cima_policies::admission::{Admission, MAX_FINDINGS};
use serde_json::json;

use crate::{compile, decided, example, example_with, rules};

/// A rule that the example does not reach.
fn for_docker(rule: &str) -> String {
    rules(&format!(
        "deny contains reason if {{ input.container.engine == \"docker\"; {rule} }}"
    ))
}

fn docker(text: &str, limit: Duration) -> Vec<String> {
    let admission = compile(&[text]).unwrap().with_time_limit(limit);
    admission
        .decide(&example_with(&[("/container/engine", json!("docker"))]))
        .denied
}

#[test]
fn a_policy_that_does_not_end_denies_in_time() {
    for rule in [
        "some a in numbers.range(1, 90000); some b in numbers.range(1, 90000); a + b == 0; reason := \"x\"",
        "x := numbers.range(1, 90000); y := x[_]; z := x[_]; y + z == 0; reason := \"x\"",
        "reason := concat(\"\", [sprintf(\"%d\", [x]) | x := numbers.range(1, 90000)[_] * numbers.range(1, 90000)[_]])",
    ] {
        let text = for_docker(rule);
        let start = Instant::now();
        let denied = docker(&text, Duration::from_millis(200));
        assert_eq!(
            denied,
            ["the admission policy gave no answer: it took longer than 200ms"]
        );
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn a_policy_that_fails_denies_and_says_where() {
    for (rule, words) in [
        (
            "reason := numbers.range(1, 10000000000)",
            "0.rego, line 3: a range has at most 100000 numbers",
        ),
        (
            "reason := bits.lsh(1, 4000000000)",
            "0.rego, line 3: 1 shifted left",
        ),
        (
            "reason := to_number(input.container.name)",
            "0.rego, line 3: could not parse string as number",
        ),
        ("reason := 1", "`deny` has a number in it"),
        ("reason := {}", "`deny` has an object in it"),
    ] {
        let denied = docker(&for_docker(rule), Duration::from_secs(5));
        assert_eq!(denied.len(), 1);
        assert!(
            denied[0].starts_with("the admission policy gave no answer: "),
            "{denied:?}"
        );
        assert!(denied[0].contains(words), "{denied:?}");
    }
    let text = rules("deny := false if input.container.engine == \"docker\"");
    let denied = docker(&text, Duration::from_secs(5));
    assert!(denied[0].contains("`deny` is a boolean"), "{denied:?}");
}

#[test]
fn reasons_are_few_short_printable_and_never_nothing() {
    let decision = decided(&rules(
        "deny contains \"a\\u001b[2J\\n\\u202eb\"\ndeny contains \" \"",
    ));
    assert_eq!(
        decision.denied,
        [
            r"a\u{1b}[2J\u{a}\u{202e}b",
            "the admission policy denies and gives no reason"
        ]
    );
    let decision = decided(&rules(
        "deny contains sprintf(\"%d\", [x]) if some x in numbers.range(1, 150)",
    ));
    assert_eq!(decision.denied.len(), 101);
    assert_eq!(decision.denied[100], "… and 50 more reasons");
    let decision = decided(&rules(
        "deny contains concat(\"\", [\"é\" | some _ in numbers.range(1, 5000)])",
    ));
    assert_eq!(decision.denied[0].chars().count(), 1001);
}

#[test]
fn decisions_are_asked_for_from_many_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let admission = compile(&[&rules("deny contains input.container.id")]).unwrap();
    let admission = admission.with_time_limit(Duration::from_secs(20));
    shared(&admission);
    thread::scope(|scope| {
        for number in 0..8 {
            let admission: &Admission = &admission;
            scope.spawn(move || {
                for round in 0..20 {
                    let mut input = example();
                    input.container.id = format!("{number} {round}");
                    assert_eq!(
                        admission.decide(&input).denied,
                        [input.container.id.as_str()]
                    );
                }
            });
        }
    });
}

#[test]
fn a_large_input_is_decided() {
    let mut input = example();
    input.process.args = (0..20_000).map(|number| number.to_string()).collect();
    let finding = json!({"path": "/x", "what": "file", "why": "new"});
    input.upper.findings = vec![serde_json::from_value(finding).unwrap(); MAX_FINDINGS];
    let text = rules("deny contains sprintf(\"%d\", [count(input.process.args)])");
    let admission = compile(&[&text])
        .unwrap()
        .with_time_limit(Duration::from_secs(20));
    assert_eq!(admission.decide(&input).denied, ["20000"]);
}
