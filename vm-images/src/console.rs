// SPDX-License-Identifier: Apache-2.0
//! What the kernel says on its console when something is wrong with it.

use std::fmt;

/// A kind of complaint that fails a run whatever its scenario says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The kernel gave up.
    Panic,
    /// A fault in kernel code.
    Oops,
    /// A failed assertion (`BUG`, and what KASAN or the slab allocator call one).
    Bug,
    /// A failed expectation (`WARN_ON`); see [`crate::Run::warnings_allowed`].
    Warning,
    /// A processor was kept by kernel code for too long, or RCU waited too long.
    Stall,
    /// A task was in uninterruptible sleep for too long.
    HungTask,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panic => "the kernel panicked",
            Self::Oops => "kernel code faulted",
            Self::Bug => "the kernel reported a bug",
            Self::Warning => "the kernel warned",
            Self::Stall => "the kernel stalled",
            Self::HungTask => "a task hung in the kernel",
        })
    }
}

impl Trouble {
    /// What a line of the console says, if it says trouble.
    #[must_use]
    pub fn in_line(line: &str) -> Option<Self> {
        let text = message(line);
        let starts = |what: &[&str]| what.iter().any(|what| text.starts_with(what));
        if starts(&["Kernel panic - not syncing"]) {
            Some(Self::Panic)
        } else if starts(&[
            "watchdog: BUG: soft lockup",
            "watchdog: Watchdog detected hard LOCKUP",
        ]) || (starts(&["rcu: INFO:"]) && text.contains("stall"))
        {
            Some(Self::Stall)
        } else if starts(&["INFO: task "]) && text.contains(" blocked for more than ") {
            Some(Self::HungTask)
        } else if starts(&[
            "BUG: unable to handle",
            "Oops: ",
            "general protection fault",
            "invalid opcode: ",
        ]) {
            Some(Self::Oops)
        } else if starts(&["BUG: ", "BUG ", "kernel BUG at ", "UBSAN: ", "refcount_t: "]) {
            Some(Self::Bug)
        } else if starts(&["WARNING: "]) {
            Some(Self::Warning)
        } else {
            None
        }
    }
}

/// Whether a line is the first of a kernel that boots.
pub(crate) fn is_first(line: &str) -> bool {
    message(line).starts_with("Linux version ")
}

/// The line without the kernel's time stamp, `[    1.234567] `.
fn message(line: &str) -> &str {
    let line = line.trim_start_matches(['\r', '\0']);
    let Some(rest) = line.strip_prefix('[') else {
        return line;
    };
    match rest.split_once("] ") {
        Some((stamp, text))
            if stamp
                .chars()
                .all(|c| c.is_ascii_digit() || " .".contains(c)) =>
        {
            text
        }
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::{Trouble, is_first};

    #[test]
    fn a_boot_is_told_by_the_kernels_first_line() {
        assert!(is_first("[    0.000000] Linux version 6.12.9 (x@y) #1 SMP"));
        assert!(!is_first(
            "[    0.000000] Command line: Linux version 6.12.9"
        ));
    }

    #[test]
    fn trouble_is_told_from_talk() {
        let cases = [
            (
                "[    5.1] Kernel panic - not syncing: sysrq triggered crash",
                Some(Trouble::Panic),
            ),
            (
                "[   12.345678] WARNING: CPU: 1 PID: 77 at kernel/bpf/x.c:9 f+0x1/0x2",
                Some(Trouble::Warning),
            ),
            (
                "[    1.0] BUG: kernel NULL pointer dereference, address: 0",
                Some(Trouble::Bug),
            ),
            (
                "[    1.0] BUG: unable to handle page fault for address: 0",
                Some(Trouble::Oops),
            ),
            (
                "[    1.0] Oops: 0002 [#1] PREEMPT SMP NOPTI",
                Some(Trouble::Oops),
            ),
            (
                "[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [a:1]",
                Some(Trouble::Stall),
            ),
            (
                "[    1.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
                Some(Trouble::Stall),
            ),
            (
                "[    1.0] rcu: INFO: rcu_sched self-detected stall on CPU",
                Some(Trouble::Stall),
            ),
            (
                "[  130.0] INFO: task podman:9 blocked for more than 60 seconds.",
                Some(Trouble::HungTask),
            ),
            ("[    1.0] kernel BUG at mm/slub.c:1!", Some(Trouble::Bug)),
            (
                "[    1.0] Spectre V2 : WARNING: Unprivileged eBPF is enabled",
                None,
            ),
            ("[    1.0] random: WARNING: x", None),
            (
                "[    1.0] Warning: unable to open an initial console.",
                None,
            ),
            ("[    1.0] rcu: Hierarchical RCU implementation.", None),
            ("[    1.0] Command line: panic=-1 hung_task_panic=0", None),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(Trouble::in_line(line), expected, "{line}");
        }
    }
}
