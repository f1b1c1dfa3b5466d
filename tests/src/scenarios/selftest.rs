// SPDX-License-Identifier: Apache-2.0
//! Scenarios that go wrong on purpose: `cargo xtask vm selftest` checks that each
//! fails its run, for the right reason and with the lines that say why.

use std::fs;
use std::time::Duration;

use super::Scenario;
use crate::process;

pub(crate) const FAIL: Scenario = Scenario {
    name: "selftest-fail",
    about: "goes wrong on purpose: a claim does not hold",
    play: |claims, _| {
        claims.claim("there is a kernel", || process::run(&["uname"]).succeeded());
        claims.claim("one is two", || assert_eq!(1, 2));
    },
};

pub(crate) const PANIC: Scenario = Scenario {
    name: "selftest-panic",
    about: "goes wrong on purpose: the kernel panics",
    play: |_, _| {
        write("/proc/sysrq-trigger", "c");
        wait();
    },
};

pub(crate) const WARNING: Scenario = Scenario {
    name: "selftest-warning",
    about: "goes wrong on purpose: the console says what WARN_ON says",
    play: |claims, _| {
        // Debian's kernels have no way to make a real one (CONFIG_LKDTM).
        write(
            "/dev/kmsg",
            "<4>WARNING: CPU: 0 PID: 1 at kernel/selftest.c:1 selftest+0x1/0x2",
        );
        claims.claim("the scenario itself is content", || ());
    },
};

pub(crate) const HUNG_TASK: Scenario = Scenario {
    name: "selftest-hung-task",
    about: "goes wrong on purpose: a task waits on a frozen file system",
    play: |_, _| {
        write("/proc/sys/kernel/hung_task_timeout_secs", "3");
        let freeze = "truncate -s 16M /tmp/disk && mke2fs -q -t ext4 /tmp/disk && mount -o loop /tmp/disk /mnt \
                      && fsfreeze --freeze /mnt && touch /mnt/file";
        process::run_within(Duration::from_secs(600), &["sh", "-c", freeze]).succeeded();
    },
};

pub(crate) const TIME_LIMIT: Scenario = Scenario {
    name: "selftest-time-limit",
    about: "goes wrong on purpose: it never ends",
    play: |_, _| {
        println!("not ending");
        wait();
    },
};

pub(crate) const SWITCH_OFF: Scenario = Scenario {
    name: "selftest-switch-off",
    about: "goes wrong on purpose: the machine is switched off under it",
    play: |_, _| {
        write("/proc/sysrq-trigger", "o");
        wait();
    },
};

pub(crate) const RESETS: Scenario = Scenario {
    name: "selftest-resets",
    about: "goes wrong on purpose: the machine is reset again and again",
    play: |claims, _| {
        const SYNCED: &str = "/root/synced";
        if fs::exists(SYNCED).unwrap_or(false) {
            claims.claim(
                "after a reset the disk holds what was synced, and not the rest",
                || assert!(!fs::exists("/root/not-synced").unwrap_or(true)),
            );
        } else {
            write(SYNCED, "");
            process::run(&["sync"]).succeeded();
            write("/root/not-synced", "");
        }
        println!("resetting");
        // The line must leave the machine first.
        std::thread::sleep(Duration::from_secs(1));
        write("/proc/sysrq-trigger", "b");
        wait();
    },
};

fn write(path: &str, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("cannot write to {path}: {error}"));
}

fn wait() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
