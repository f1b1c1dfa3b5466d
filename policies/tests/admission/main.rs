// SPDX-License-Identifier: Apache-2.0
//! The admission policy, as the agent asks it.
#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

mod compile;
mod files;
mod input;
mod limits;
mod shipped;

use cima_policies::admission::{Admission, AdmissionError, Decision, EXAMPLE, Input, PolicySource};
use serde_json::Value;

/// Files of these texts, `0.rego` and so on.
fn sources(texts: &[&str]) -> Vec<PolicySource> {
    let source = |(number, text): (usize, &&str)| PolicySource {
        name: format!("{number}.rego"),
        text: (*text).to_owned(),
    };
    texts.iter().enumerate().map(source).collect()
}

fn compile(texts: &[&str]) -> Result<Admission, AdmissionError> {
    Admission::compile(sources(texts), None)
}

/// In `package cima.admission`, new syntax.
fn rules(rules: &str) -> String {
    format!("package cima.admission\nimport rego.v1\n{rules}\n")
}

fn example() -> Input {
    Input::parse(EXAMPLE.as_bytes()).unwrap()
}

/// The example with other values at some pointers; null removes.
fn example_with(changes: &[(&str, Value)]) -> Input {
    let mut input: Value = serde_json::from_str(EXAMPLE).unwrap();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = input.pointer_mut(parent).unwrap();
        match (parent, value) {
            (Value::Object(fields), Value::Null) => _ = fields.remove(key),
            (Value::Object(fields), value) => _ = fields.insert(key.into(), value.clone()),
            (Value::Array(items), value) => items[key.parse::<usize>().unwrap()] = value.clone(),
            (other, _) => panic!("{pointer} is in {other}"),
        }
    }
    Input::parse(input.to_string().as_bytes()).unwrap()
}

/// What the policy of one file says of the example.
fn decided(text: &str) -> Decision {
    compile(&[text]).unwrap().decide(&example())
}
