// SPDX-License-Identifier: Apache-2.0
//! How many events a second cimad takes, and how soon they are in the TPM. Plays the
//! load and notes what happened when; `cargo xtask bench events` reads the notes
//! (/out/bench-events.json) and the list (/out/cima), and judges. The claims here say
//! only that cimad came through and that its list is in the TPM.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::Scenario;
use crate::agent::{CIMA, Running, Site};
use crate::claims::Claims;
use crate::load::{FILES, Load};
use crate::metrics::buckets;
use crate::process;
use crate::tpm_proxy::SoftTpm;
use crate::{host_list, kernel_sink};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "bench-events",
    about: "counts the events that cimad takes in a second, and how soon they are in the TPM",
    play,
};

/// On the root's ext4.
const SCRATCH: &str = "/var/bench/events";
const RESULT: &str = "/out/bench-events.json";
/// Events a second while the way from mapping to TPM is timed: not a full load.
const QUIET_RATE: u32 = 1000;
/// How often each library is copied: enough files that the cost of a namespace, which
/// is the load's own, does not weigh.
const COPIES: u32 = 10;
/// How often the list is looked at meanwhile: what the times are exact to.
const LOOK: Duration = Duration::from_millis(1);
/// Programs that nobody executed before, and the seconds from one to the next: each is in
/// the TPM before the next.
const FRESH: u32 = 300;
const FRESH_EVERY: &str = "0.05";
const METRICS: &str = "/run/bench-events.sock";
const VERIFY: Duration = Duration::from_secs(600);
const TPM: &str = "device:/dev/tpmrm0";
const NO_METRICS: &str = "listen = \"off\"";
const LATENCY: &str = "cima_mmap_to_extended_seconds";

#[derive(Parser)]
struct Arguments {
    /// Instead of the machine's TPM, one whose every extend takes this much longer
    #[arg(long, value_name = "MILLISECONDS")]
    slow: Option<u64>,
    /// Where entries are anchored
    #[arg(long, default_value = "pcr")]
    sink: String,
    /// Events a second to try; 0: as many as the load can make
    #[arg(long, value_delimiter = ',', required = true)]
    rates: Vec<u32>,
    /// How long each is tried
    #[arg(long)]
    seconds: u32,
}

fn play(claims: &mut Claims, arguments: &[String]) {
    let words = std::iter::once("bench-events").chain(arguments.iter().map(String::as_str));
    let asked = Arguments::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    let site = Site::shipped();
    change_config(
        &site,
        "kind = \"auto\"",
        &format!("kind = \"{}\"", asked.sink),
    );
    if asked.sink != "pcr" {
        host_list::write_rules(kernel_sink::RULES);
    }
    if asked.sink == "kernel" {
        kernel_sink::load();
    }
    let slow = asked.slow.map(|ms| slow_tpm(&site, ms));
    change_config(&site, NO_METRICS, &format!("listen = \"unix:{METRICS}\""));
    let agent = site.start();
    let fresh = claims.claim("each new program is in the TPM", || fresh(&site));
    let rush = claims.claim("and so are those that come one after the other", || {
        rush(&site)
    });
    let quiet = claims.claim("the way to the TPM is timed", || timed(&site));
    let mut trials = Vec::new();
    for rate in &asked.rates {
        let name = format!("the load makes {rate} events a second");
        trials.extend(claims.claim(&name, || trial(&site, *rate, asked.seconds)));
    }
    let memory = memory(&agent);
    agent.stop();
    claims.claim("the list is in the TPM", || {
        verify(&site, &asked, slow.as_ref());
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let result = json!({
        "kernel": kernel.trim(),
        "slow_ms": asked.slow,
        "fresh": fresh,
        "rush": rush,
        "quiet": quiet,
        "trials": trials,
        "memory_kib": memory,
    });
    fs::write(RESULT, format!("{result}\n")).expect("/out can be written");
}

/// A TPM of the guest's own that is slow to extend, for cimad to use.
fn slow_tpm(site: &Site, ms: u64) -> SoftTpm {
    let tpm = SoftTpm::start("bench-events");
    tpm.delay_extends(Duration::from_millis(ms));
    change_config(site, TPM, &tpm.tcti());
    tpm
}

fn change_config(site: &Site, from: &str, to: &str) {
    let shipped = fs::read_to_string(site.config()).expect("the configuration is there");
    assert!(
        shipped.contains(from),
        "the shipped configuration has {from}"
    );
    fs::write(site.config(), shipped.replace(from, to)).expect("the configuration can be written");
}

/// Programs that nobody executed before, one after the other in a container: how long it took
/// from mapping to TPM, as cimad's own metrics tell: `[seconds, how many took at most that]`, the
/// last without a bound.
fn fresh(site: &Site) -> Value {
    let before = buckets(Path::new(METRICS), LATENCY);
    new_programs("fresh", FRESH_EVERY);
    site.caught_up();
    let after = buckets(Path::new(METRICS), LATENCY);
    let since = after.iter().map(|&(bound, count)| {
        let earlier = before.iter().find(|(b, _)| *b == bound);
        (bound, count - earlier.map_or(0, |(_, count)| *count))
    });
    let since: Vec<(f64, u64)> = since.collect();
    let all = since.last().map_or(0, |(_, count)| *count);
    assert!(
        all >= u64::from(FRESH),
        "{all} of {FRESH} programs were timed"
    );
    json!(since)
}

/// The same without a pause: an entry each.
fn rush(site: &Site) -> Value {
    let start_ns = new_programs("rush", "0");
    let since = site.caught_up().elapsed();
    let extended_ns = boottime_ns() - u64::try_from(since.as_nanos()).unwrap_or_default();
    json!({ "programs": FRESH, "start_ns": start_ns, "extended_ns": extended_ns })
}

/// Executes programs that nobody executed before in a container, with a pause of so many seconds; when the first began.
fn new_programs(name: &str, pause: &str) -> u64 {
    let directory = Path::new(SCRATCH).join(name);
    fs::create_dir_all(&directory).expect("the root can be written");
    let static_program = fs::read_dir(Path::new(FILES).join("static"));
    let program = static_program
        .expect("it is staged")
        .next()
        .expect("one file");
    let program = fs::read(program.expect("a file").path()).expect("it can be read");
    for number in 0..FRESH {
        let copy = directory.join(number.to_string());
        // What lies behind an ELF object's last section nobody reads, but it is hashed.
        let content = [program.as_slice(), name.as_bytes(), &number.to_le_bytes()].concat();
        fs::write(&copy, content).expect("the root can be written");
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&copy, executable).expect("a mode can be set");
    }
    let sleep = match pause {
        "0" => String::new(),
        pause => format!("sleep {pause};"),
    };
    let each = format!(
        "for p in {}/*; do $p || exit; {sleep} done",
        directory.display()
    );
    let started = boottime_ns();
    let container = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", &each];
    process::run_within(VERIFY, &container).succeeded();
    started
}

/// Mappings at a rate for some seconds, and when the last was extended.
fn trial(site: &Site, rate: u32, seconds: u32) -> Value {
    let directory = files(&format!("rate-{rate}"));
    let path = directory.to_str().expect("a plain path");
    let (rate, seconds) = (rate.to_string(), seconds.to_string());
    let load = Load::start(&["map", path, &rate, &seconds]);
    site.caught_up();
    let said = load.go();
    let since = site.caught_up().elapsed();
    let extended_ns = boottime_ns() - u64::try_from(since.as_nanos()).unwrap_or_default();
    let line = said.first().expect("the load says what it did");
    let numbers = line.split(' ').map(|n| n.parse().expect("a number"));
    let &[mapped, start_ns, end_ns] = numbers.collect::<Vec<u64>>().as_slice() else {
        panic!("the load says {line}");
    };
    json!({
        "directory": path,
        "rate": rate.parse::<u32>().ok(),
        "mapped": mapped,
        "start_ns": start_ns,
        "end_ns": end_ns,
        "extended_ns": extended_ns,
    })
}

/// A quiet trial, watched: which part of the list was in the TPM when.
fn timed(site: &Site) -> Value {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| watch(site, &done));
        let mut trial = trial(site, QUIET_RATE, 10);
        done.store(true, Ordering::Relaxed);
        trial["extended"] = watch.join().expect("it does not panic").into();
        trial
    })
}

/// `[nanoseconds since boot, bytes of the first segment that the TPM holds]`, one for each change.
fn watch(site: &Site, done: &AtomicBool) -> Vec<Value> {
    let segment = site.list().join("00000001.ima");
    let intent = site.list().join("intent");
    let (mut seen, mut had) = (Vec::new(), 0);
    while !done.load(Ordering::Relaxed) {
        let length = fs::metadata(&segment).map_or(0, |file| file.len());
        let extended = extended(&intent, length);
        if extended > had {
            seen.push(json!([boottime_ns(), extended]));
            had = extended;
        }
        thread::sleep(LOOK);
    }
    seen
}

/// How much of a list that was `length` bytes long is extended *now*: all, or what was
/// there before the group that the intent holds (`agent/src/ledger/intent.rs`).
fn extended(intent: &Path, length: u64) -> u64 {
    const OFFSET: std::ops::Range<usize> = 18..26;
    let intent = fs::read(intent).unwrap_or_default();
    match intent.get(OFFSET).map(<[u8; 8]>::try_from) {
        Some(Ok(offset)) => u64::from_le_bytes(offset).min(length),
        _ if intent.is_empty() => length,
        _ => 0,
    }
}

/// The libraries of the bench, copied so that the trial's events are known by their paths.
fn files(name: &str) -> PathBuf {
    let to = Path::new(SCRATCH).join(name);
    fs::create_dir_all(&to).expect("the root can be written");
    let from = fs::read_dir(Path::new(FILES).join("libraries")).expect("they are staged");
    for file in from.flatten() {
        for number in 0..COPIES {
            let name = format!("{number}-{}", file.file_name().display());
            fs::copy(file.path(), to.join(name)).expect("a file can be copied");
        }
    }
    to
}

/// cimad's memory in KiB, as the kernel counts it.
fn memory(agent: &Running<'_>) -> Value {
    let text = agent.proc("status") + &agent.proc("smaps_rollup");
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    json!({
        "rss": field("VmRSS:"),
        "peak": field("VmHWM:"),
        "anonymous": field("RssAnon:"),
        "proportional": field("Pss:"),
    })
}

fn verify(site: &Site, asked: &Arguments, slow: Option<&SoftTpm>) {
    if let Some(tpm) = slow {
        tpm.delay_extends(Duration::ZERO);
    }
    let tpm = slow.map_or("--tpm".to_owned(), |tpm| format!("--tpm={}", tpm.tcti()));
    let list = site.list();
    let list = list.to_str().expect("a plain path");
    let pcr = match asked.sink.as_str() {
        "pcr" => "13",
        _ => "10",
    };
    let words = [CIMA, "verify", &tpm, "--expect-pcr", pcr, "--", list];
    process::run_within(VERIFY, &words).succeeded();
}

fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("boot was before now")
}
