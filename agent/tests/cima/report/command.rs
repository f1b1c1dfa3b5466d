// SPDX-License-Identifier: Apache-2.0
//! The command: where it writes, and where it does not.

use std::fs;

use super::{INCIDENT, Lists, generate};
use crate::command::cima;

const FROM: &str = "incident/edge-2";

#[test]
fn a_report_goes_to_a_file_whole_or_to_standard_output() {
    let (lists, path) = &*INCIDENT;
    let page = fs::read_to_string(path).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    let ran = lists.report(FROM, &["shop-web", "-o", "-"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(
        ran.out
            .contains("<title>cima report: container shop-web</title>")
    );
    assert!(!ran.out.contains("shop-redis"));
    // Bad as it is, what was asked for is done.
    assert!(ran.out.contains("This container has findings against it"));
}

#[test]
fn the_list_of_the_incident_verifies() {
    let (lists, _) = &*INCIDENT;
    let ledger = lists.path(FROM).join("ledger");
    let boot = fs::read_dir(ledger).unwrap().next().unwrap().unwrap();
    let pcrs = lists.path(FROM).join("pcrs.yaml");
    let words = ["verify".as_ref(), "--pcrs".as_ref(), pcrs.as_os_str()];
    let ran = cima(words.into_iter().chain([boot.path().as_os_str()]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn nothing_that_is_read_is_written_over() {
    let (lists, _) = &*INCIDENT;
    let ledger = lists.path(FROM).join("ledger");
    let boot = fs::read_dir(ledger)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let segment = boot.join("00000001.ima");
    let before = fs::read(&segment).unwrap();
    let link = lists.path("link.html");
    fs::hard_link(&segment, &link).unwrap();
    let reference = lists.path("incident").join("web.json");
    let own = format!("--reference={}", reference.display());
    for (output, word) in [
        (&segment, "a list"),
        (&link, "a list"),
        (&boot.join("00000002.ima"), "a segment"),
        (&reference, "a reference"),
    ] {
        let output = format!("--output={}", output.display());
        lists
            .report(FROM, &[&output, &own])
            .refused(&[word, "--output"]);
    }
    assert_eq!(fs::read(&segment).unwrap(), before);
    fs::remove_file(link).unwrap();
}

#[test]
fn what_cannot_be_asked_is_a_sentence() {
    let (lists, _) = &*INCIDENT;
    lists
        .report(FROM, &["-o", "-", "nobody"])
        .refused(&["nobody", "no container"]);
    lists
        .report(FROM, &["-o", "-", "--reference", "/nonexistent"])
        .refused(&["/nonexistent"]);
    lists
        .report(FROM, &["-o", "/nonexistent/x.html"])
        .refused(&["/nonexistent/x.html"]);
    let ran = lists.report(FROM, &[]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("--output"), "{}", ran.err);
}

#[test]
fn a_report_says_which_containers_it_did_not_look_into() {
    let lists = Lists::new(6_000, |fleet| {
        generate(&crate::fleet::generator::Fleet {
            dir: fleet.dir.clone(),
            containers: 110,
            ..*fleet
        })
    });
    let (_, page) = lists.page("nodes", &["--kind=created"]);
    assert_eq!(page.matches("<article").count(), 100);
    assert!(page.contains("not looked into"));
    assert!(page.contains("were not looked into: a report has 100"));
}
