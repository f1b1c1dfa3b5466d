// SPDX-License-Identifier: Apache-2.0
//! The kernel module: what root submits by /dev/cima and what BPF programs say by the kfunc
//! is in the host's own list and in PCR 10 of every bank; what is wrong is refused; and
//! nothing that is done to it, while it comes and goes, makes the kernel complain.
//!
//! Not in this order by chance: Debian's kernels take IMA rules once in a boot, so what
//! happens without a rule comes first, and what locks the kernel down comes last.

mod calls;
mod device;

use std::fs;
use std::path::Path;

use super::Scenario;
use crate::claims::Claims;
use crate::evmctl;
use crate::host_list;
use crate::kfunc::Kfunc;
use crate::process::{self, Ran};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "module",
    about: "the kernel module puts entries of root and of BPF programs into the host's list, and survives whatever is done to it",
    play,
};

/// The rule that the module wants.
const RULE: &str = "measure func=CRITICAL_DATA label=cima\n";
const COUNTERS: &str = "/sys/class/misc/cima/counters";

fn play(claims: &mut Claims, _arguments: &[String]) {
    claims.claim("a module that was built without BTF does not load", || {
        let said = insmod("-without-btf").failed();
        assert!(said.contains("Invalid module format"), "insmod says {said}");
        let log = process::run(&["dmesg"]).succeeded();
        assert!(
            log.contains("cima: built without BTF"),
            "the kernel says why"
        );
    });
    claims.claim("the module loads, with its BTF", || {
        insmod("").succeeded();
        assert!(fs::exists("/sys/kernel/btf/cima").unwrap_or(false));
        let size = read("/sys/module/cima/coresize");
        println!("     it takes {} bytes of memory", size.trim());
    });
    claims.claim("counters begin at 0", || {
        for name in [
            "listed",
            "repeated",
            "unmatched",
            "failed",
            "hash_failed",
            "refused",
        ] {
            assert_eq!(counter(name), 0, "{name}");
        }
    });
    device::without_a_rule(claims);
    calls::without_a_rule(claims);
    host_list::write_rules(RULE);
    device::play(claims);
    calls::play(claims);
    claims.claim(
        "it can be loaded and unloaded fifty times, under fire",
        || {
            device::come_and_go();
        },
    );
    claims.claim("twenty seconds of random calls", device::fuzzed);
    claims.claim("PCR 10 of all four banks is what the list says", || {
        let (entries, of_sha1) = host_list::replays();
        println!("     {entries} entries; banks that hold padded SHA-1: {of_sha1:?}");
    });
    claims.claim("evmctl says so, too", || {
        fs::copy(host_list::BINARY, "/tmp/host.ima").expect("the list can be copied");
        evmctl::agrees(Path::new("/tmp/host.ima"));
    });
    claims.claim(
        "under lockdown what is loaded goes on, programs call it, and an unsigned module is not loaded",
        lockdown,
    );
    claims.claim("the kernel has nothing to complain of", quiet);
}

fn lockdown() {
    fs::write("/sys/kernel/security/lockdown", "integrity").expect("it can be locked down");
    assert_eq!(device::submit("cima-ctx:locked", "v1;"), "LISTED");
    drop(Kfunc::attach());
    calls::unload();
    let said = insmod("").failed();
    assert!(
        said.contains("Operation not permitted") || said.contains("Key was rejected"),
        "it says {said}"
    );
}

/// No line of the kernel's log is about trouble: the runner fails a run for the worst of them,
/// this finds the rest.
fn quiet() {
    const TROUBLE: &[&str] = &[
        "BUG",
        "WARNING",
        "Oops",
        "fault",
        "Call Trace",
        "cut here",
        "refcount",
        "corrupt",
        "leak",
        "allocation failure",
        "stall",
        "hung",
        "blocked for",
    ];
    let log = process::run(&["dmesg"]).succeeded();
    let (_, since) = log
        .split_once("cima: loading out-of-tree module taints kernel")
        .expect("the log goes back to when the module was loaded");
    let trouble: Vec<&str> = since
        .lines()
        .filter(|line| !line.contains("audit: type="))
        .filter(|line| TROUBLE.iter().any(|word| line.contains(word)))
        .collect();
    assert!(trouble.is_empty(), "it says {trouble:#?}");
    let own: Vec<&str> = since
        .lines()
        .filter(|line| line.contains("cima: "))
        .filter(|line| !line.contains("built without BTF"))
        .filter(|line| !line.contains("nothing is listed: no IMA rule"))
        .filter(|line| !line.contains("module verification failed"))
        .collect();
    assert!(own.is_empty(), "the module says {own:#?}");
}

/// Loads the module for this kernel, or a variant of it.
fn insmod(variant: &str) -> Ran {
    let series =
        std::env::var("CIMA_GUEST_KERNEL").expect("the runner says which kernel it booted");
    process::run(&["insmod", &format!("/cima/lib/cima-{series}{variant}.ko")])
}

#[track_caller]
fn counter(name: &str) -> u64 {
    let text = read(&format!("{COUNTERS}/{name}"));
    text.trim().parse().expect("a counter is a number")
}

#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}
