// SPDX-License-Identifier: Apache-2.0
//! What a hook adds to `podman run --rm IMAGE true`, and what of it is measuring. Notes what it saw in
//! /out/bench-admission.json; `cargo xtask bench admission` judges. The claims here say only that each
//! container was what it was meant to be: without a hook, measured anew, or measured before.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use super::Scenario;
use crate::agent::{CIMA, Site};
use crate::claims::Claims;
use crate::hooks::{self, HOOK, created};
use crate::process;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "bench-admission",
    about: "times podman run without a hook, with an image that is new, and with one that was measured before",
    play,
};

const RESULT: &str = "/out/bench-admission.json";
/// Where cimad keeps what it knows of images.
const KNOWN: &str = "/var/lib/cima/images";
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Parser)]
struct Arguments {
    /// How often each is timed
    #[arg(long)]
    rounds: usize,
    /// Megabytes of each image
    #[arg(long, value_delimiter = ',', required = true)]
    sizes: Vec<u64>,
}

fn play(claims: &mut Claims, arguments: &[String]) {
    let words = std::iter::once("bench-admission").chain(arguments.iter().map(String::as_str));
    let asked = Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    let site = hooks::site("allow");
    let agent = site.start();
    let mut images = Vec::new();
    for size in &asked.sizes {
        let image = make(*size);
        images.extend(
            claims.claim(&format!("an image of {size} MB is timed"), || {
                timed(&site, *size, &image, asked.rounds)
            }),
        );
    }
    let hook = claims.claim("the hook alone is timed", || hook_alone(asked.rounds));
    agent.stop();
    let notes = json!({"images": images, "hook_ms": hook});
    fs::write(RESULT, notes.to_string()).expect("the notes can be written");
}

/// An image of busybox and as many of the guest's own files as make up its size.
#[track_caller]
fn make(megabytes: u64) -> String {
    let name = format!("localhost/bench-{megabytes}:1");
    let dir = format!("/var/bench/{megabytes}");
    let script = format!(
        "mkdir -p {dir}/bin {dir}/files && cp /usr/bin/busybox {dir}/bin/ && ln -s busybox {dir}/bin/true
        room=$(({megabytes} * 1000000 - $(stat -c %s /usr/bin/busybox)))
        find /usr/lib /usr/share /usr/bin -xdev -type f -size +0 -printf '%s %p\\n' | sort -k2 |
        while read -r size path; do
            [ \"$size\" -le \"$room\" ] || continue
            room=$((room - size))
            mkdir -p \"{dir}/files${{path%/*}}\" && cp \"$path\" \"{dir}/files$path\"
        done
        tar -C {dir} -cf {dir}.tar . && podman import --quiet {dir}.tar {name} && rm {dir}.tar"
    );
    process::run_within(Duration::from_secs(900), &["sh", "-ec", &script]).succeeded();
    name
}

/// Milliseconds of a container that does nothing.
#[track_caller]
fn run(image: &str) -> f64 {
    let started = Instant::now();
    process::run_within(LIMIT, &["podman", "run", "--rm", image, "true"]).succeeded();
    started.elapsed().as_secs_f64() * 1e3
}

fn timed(site: &Site, megabytes: u64, image: &str, rounds: usize) -> serde_json::Value {
    let layer = process::run(&[
        "podman",
        "inspect",
        "-f",
        "{{.GraphDriver.Data.UpperDir}}",
        image,
    ])
    .succeeded();
    let layer = layer.trim_end();
    let files = process::run(&["sh", "-c", &format!("find {layer} -type f | wc -l")]).succeeded();
    // Once each, so that all is in the page cache and the store's own files are made.
    run(image);
    let (mut without, mut first, mut again) = (Vec::new(), Vec::new(), Vec::new());
    let (mut measuring, mut admitting, mut openssl) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        process::run(&[CIMA, "hook", "uninstall", "--engine", "podman"]).succeeded();
        let before = created(site).len();
        without.push(run(image));
        assert_eq!(created(site).len(), before, "no hook fired");
        process::run(&[CIMA, "hook", "install", "--engine", "podman"]).succeeded();
        let _ = fs::remove_dir_all(KNOWN);
        first.push(run(image));
        let (measure, _) = told(site);
        measuring.push(measure);
        again.push(run(image));
        let (measure, all) = told(site);
        admitting.push((measure, all));
        assert_eq!(created(site).len(), before + 2, "the hook fired twice");
        let started = Instant::now();
        let command =
            format!("find {layer} -type f -print0 | xargs -0 openssl dgst -sha256 >/dev/null");
        process::run_within(LIMIT, &["sh", "-c", &command]).succeeded();
        openssl.push(started.elapsed().as_secs_f64() * 1e3);
    }
    json!({
        "megabytes": megabytes, "files": files.trim_end().parse::<u64>().unwrap_or_default(),
        "without_ms": without, "first_ms": first, "again_ms": again,
        "measuring_ms": measuring, "openssl_ms": openssl,
        "again_measuring_ms": admitting.iter().map(|(measure, _)| measure).collect::<Vec<_>>(),
        "again_admitting_ms": admitting.iter().map(|(_, all)| all).collect::<Vec<_>>(),
    })
}

/// What cimad's log says of the last container: milliseconds of measuring, and of all until the answer.
#[track_caller]
fn told(site: &Site) -> (f64, f64) {
    let log = site.log();
    let line = log
        .lines()
        .rfind(|line| line.contains("is admitted"))
        .expect("it says that it was admitted");
    let number = |key: &str| -> f64 {
        let (_, rest) = line.split_once(key).expect("the line has both times");
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        rest[..end].parse().expect("a number")
    };
    (number("measured_ms="), number("answered_ms="))
}

/// Milliseconds of a hook that is refused at once: of a process that is no container's.
fn hook_alone(rounds: usize) -> Vec<f64> {
    let state = r#"{"ociVersion":"1.0.2","id":"bench","pid":1,"status":"created","bundle":"/tmp"}"#;
    fs::write("/tmp/state", state).expect("a state can be written");
    assert!(Path::new(HOOK).exists());
    (0..rounds)
        .map(|_| {
            let started = Instant::now();
            process::run(&[
                "sh",
                "-c",
                &format!("exec {HOOK} --stage createRuntime </tmp/state"),
            ])
            .failed();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect()
}
