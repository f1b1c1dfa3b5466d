// SPDX-License-Identifier: Apache-2.0
//! A node with hooks: the shipped files where they say that they are, and cima's hook in podman.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use serde_json::Value;

use crate::agent::{CIMA, Site, eventually, text};
use crate::process;

/// What engines call.
pub(crate) const HOOK: &str = "/usr/libexec/cima/cima-hook";
/// Where hooks are expected.
const LIBEXEC: &str = "/usr/libexec/cima";

/// Installs the shipped files, with this measurement policy for who is not registered, and the hook for podman.
#[track_caller]
pub(crate) fn site(unregistered: &str) -> Site {
    let site = Site::shipped();
    install();
    process::run(&[CIMA, "hook", "install", "--engine", "podman"]).succeeded();
    let policy = fs::read_to_string(site.policy()).expect("the policy is there");
    let shipped = "unregistered = \"violation\"";
    assert!(
        policy.contains(shipped),
        "the shipped policy says {shipped}"
    );
    site.write_policy(&policy.replace(shipped, &format!("unregistered = \"{unregistered}\"")));
    site
}

/// Installs what engines call.
#[track_caller]
pub(crate) fn install() {
    fs::create_dir_all(LIBEXEC).expect("the root can be written");
    for name in ["cima-hook", "cima-runtime"] {
        fs::copy(
            Path::new("/cima/bin").join(name),
            Path::new(LIBEXEC).join(name),
        )
        .expect("a program can be installed");
    }
}

/// The image's digest, as a publisher makes it. Read once.
#[track_caller]
pub(crate) fn digest_of(image: &str) -> String {
    static KNOWN: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().expect("nobody panics with it");
    if let Some(digest) = known.get(image) {
        return digest.clone();
    }
    let said = process::run(&[CIMA, "digest", &format!("containers-storage:{image}")]).succeeded();
    let digest = said.split_whitespace().next().unwrap_or_default();
    known.insert(image.to_owned(), digest.to_owned());
    digest.to_owned()
}

/// What the list says of the creations of containers, in order.
#[track_caller]
pub(crate) fn created(site: &Site) -> Vec<Value> {
    let events = site.context_events();
    events
        .iter()
        .filter(|event| event["created"].is_object())
        .map(|event| event["created"].clone())
        .collect()
}

/// Waits for an event about a container with this number that `is` one, and returns it.
#[track_caller]
pub(crate) fn event_of(
    site: &Site,
    what: &str,
    container: &Value,
    is: impl Fn(&Value) -> bool,
) -> Value {
    eventually(what, || {
        let events = site.context_events();
        events
            .into_iter()
            .find(|event| event["identity"]["container"] == *container && is(event))
    })
}

/// Waits for a policy event with this name.
#[track_caller]
pub(crate) fn listed(site: &Site, name: &str) -> String {
    eventually(&format!("{name} is in the list"), || {
        site.policy_events()
            .into_iter()
            .find(|(listed, _)| listed == name)
            .map(|(_, payload)| payload)
    })
}

/// The path of the program that was executed in an event.
pub(crate) fn executed(event: &Value) -> String {
    text(&event["execution"]["file"]["path"])
}

/// Puts files of rules, and data, in the place of the admission policy's, and has cimad take them.
#[track_caller]
pub(crate) fn take_rules(site: &Site, files: &[(&str, &str)]) {
    write_rules(site, files);
    process::run(&[CIMA, "policy", "reload"]).succeeded();
}

/// Puts files of rules, and data, in the place of the admission policy's.
#[track_caller]
pub(crate) fn write_rules(site: &Site, files: &[(&str, &str)]) {
    for old in fs::read_dir(site.rules())
        .expect("the policy is there")
        .flatten()
    {
        fs::remove_file(old.path()).expect("a rule can be removed");
    }
    for (name, text) in files {
        fs::write(site.rules().join(name), text).expect("a rule can be written");
    }
}

/// A policy that is shipped beside the default.
#[track_caller]
pub(crate) fn shipped(name: &str) -> String {
    let path = Path::new("/cima/share/policies").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Puts the shipped admission policy back.
#[track_caller]
pub(crate) fn take_shipped_rules(site: &Site) {
    let name = "measured_image.rego";
    let text =
        fs::read_to_string(Path::new("/cima/share/admission").join(name)).expect("it is staged");
    take_rules(site, &[(name, &text)]);
}
