// SPDX-License-Identifier: Apache-2.0
//! What each of cimad's eBPF programs costs, as the kernel counts it
//! (`bpf_enable_stats`), which costs a little itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::ProgramInfo;
use aya::sys::{Stats, enable_stats};
use serde_json::{Value, json};

/// The pins of programs: `program-<hook>`.
const PREFIX: &str = "program-";

/// The kernel counts as long as this lives.
pub(super) struct Hooks {
    _counting: OwnedFd,
    sets: Vec<PathBuf>,
    before: BTreeMap<String, Spent>,
}

/// Since the program was loaded, while the kernel counted.
#[derive(Clone, Copy, Default)]
struct Spent {
    ns: u64,
    runs: u64,
}

impl Hooks {
    /// Begins to count the programs that are pinned below `pins`.
    pub(super) fn count(pins: &Path) -> Self {
        let counting = enable_stats(Stats::RunTime).expect("the kernel counts");
        let sets = fs::read_dir(pins).expect("cimad pins its probes");
        let sets = sets.map(|set| set.expect("bpffs can be read").path());
        let mut hooks = Self {
            _counting: counting,
            sets: sets.collect(),
            before: BTreeMap::new(),
        };
        hooks.before = hooks.spent();
        hooks
    }

    /// By hook, since the counting began: nanoseconds and runs for one of `executions`.
    pub(super) fn tell(&self, executions: f64) -> Value {
        let told = self.spent().into_iter().filter_map(|(hook, now)| {
            let before = self.before.get(&hook).copied().unwrap_or_default();
            let (ns, runs) = (now.ns - before.ns, now.runs - before.runs);
            let told = json!({
                "hook": hook,
                "ns": ns as f64 / executions,
                "runs": runs as f64 / executions,
            });
            (runs > 0).then_some(told)
        });
        told.collect()
    }

    fn spent(&self) -> BTreeMap<String, Spent> {
        let pins = self.sets.iter().flat_map(|set| {
            let pins = fs::read_dir(set).expect("bpffs can be read");
            pins.map(|pin| pin.expect("bpffs can be read").path())
        });
        let spent = pins.filter_map(|pin| {
            let name = pin.file_name()?.to_str()?;
            Some((name.strip_prefix(PREFIX)?.to_owned(), Spent::of(&pin)))
        });
        spent.collect()
    }
}

impl Spent {
    /// From the lines `run_time_ns:` and `run_cnt:` of the descriptor's fdinfo.
    fn of(pin: &Path) -> Self {
        let program = ProgramInfo::from_pin(pin).and_then(|info| info.fd());
        let program = program.expect("a pinned program can be opened");
        let fd = program.as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"));
        let info = info.expect("a descriptor has its fdinfo");
        let number = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|number| number.trim().parse().ok())
                .unwrap_or(0)
        };
        Self {
            ns: number("run_time_ns:"),
            runs: number("run_cnt:"),
        }
    }
}
