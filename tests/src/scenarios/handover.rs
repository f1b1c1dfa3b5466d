// SPDX-License-Identifier: Apache-2.0
//! From one agent to the next, a part of `lifecycle`: what containers execute while none
//! runs, while probes are replaced, and while that is interrupted, is in the list once. Only
//! `cimad --unload` ends it, and that is said.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::agent::{Site, eventually, text};
use crate::claims::Claims;
use crate::tpm_proxy::SoftTpm;
use crate::work::{Executed, Load, Random, assert_sound, context_events, losses};

/// From one execution of the container to the next.
const EVERY: Duration = Duration::from_millis(40);
/// How often an agent dies while it takes over.
const KILLS: u64 = 5;
/// Sizes of the ring buffer: another one makes another set of probes, as an upgrade does.
/// Each takes all that runs until an agent comes to read it.
const SIZES: [u32; 2] = [1 << 23, 1 << 24];

pub(super) fn play(claims: &mut Claims) {
    let tpm = SoftTpm::start("handover");
    let bench = Bench {
        site: Site::new("handover"),
        tpm,
        loads: Cell::new(0),
        upgrades: Cell::new(0),
    };
    bench.upgrade();
    bench.site.start().stop();
    claims.claim(
        "what runs while no agent does is in the list of the next, once",
        || bench.while_nobody_runs(),
    );
    claims.claim(
        "an upgrade under load, after a stop: every execution once, nothing lost",
        || bench.upgraded(false),
    );
    claims.claim(
        "an upgrade under load, after a kill: every execution once, nothing lost",
        || bench.upgraded(true),
    );
    claims.claim(
        "killed again and again while it takes over: every execution once, nothing lost",
        || bench.interrupted(),
    );
    claims.claim(
        "what was lost while no agent ran is counted by the one that replaces the probes",
        || lost_meanwhile(&bench.tpm),
    );
    claims.claim("--unload is refused while an agent runs", || {
        let agent = bench.site.start();
        let ran = bench.site.unload();
        assert_eq!(ran.code(), Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains("another cimad runs"), "{}", ran.stderr);
        agent.stop();
    });
    claims.claim(
        "--unload removes all of it, and the next start says that nobody watched",
        || bench.unloaded(),
    );
}

struct Bench {
    site: Site,
    tpm: SoftTpm,
    loads: Cell<u64>,
    upgrades: Cell<usize>,
}

impl Bench {
    /// From the next start on the probes are others.
    fn upgrade(&self) {
        let size = SIZES[self.upgrades.get() % SIZES.len()];
        self.upgrades.set(self.upgrades.get() + 1);
        self.site
            .configure_probes(&self.tpm.sink(), &format!("ring_bytes = {size}\n"));
    }

    /// A container at work, its files in a directory of its own.
    #[track_caller]
    fn load(&self) -> Load {
        let number = self.loads.replace(self.loads.get() + 1);
        let dir = Path::new("/tmp/handover-load").join(number.to_string());
        let load = Load::start(&dir, 0, EVERY);
        load.wait_for(20);
        load
    }

    fn while_nobody_runs(&self) {
        let executed = self.load().finish();
        let agent = self.site.start();
        self.complete(&executed);
        agent.stop();
        self.whole(&executed);
    }

    fn upgraded(&self, kill: bool) {
        let agent = self.site.start();
        let load = self.load();
        if kill {
            agent.kill();
        } else {
            agent.stop();
        }
        self.upgrade();
        let agent = self.site.start();
        load.wait_for(40);
        let executed = load.finish();
        self.complete(&executed);
        agent.stop();
        self.whole(&executed);
        let sets = fs::read_dir(self.site.pins()).expect("the probes are pinned");
        assert_eq!(sets.count(), 1, "sets of probes");
    }

    fn interrupted(&self) {
        let mut random = Random::new(&[]);
        let load = self.load();
        for round in 0..KILLS {
            if round % 2 == 0 {
                self.upgrade();
            }
            let agent = self.site.launch();
            let log = self.site.log().len();
            // The first sign of the old probes, or the end of a start that finds none.
            eventually("it takes over", || {
                let log = &self.site.log()[log..];
                ["taking over", "goes on after"]
                    .iter()
                    .any(|sign| log.contains(sign))
                    .then_some(())
            });
            thread::sleep(Duration::from_millis(random.below(600)));
            agent.kill();
        }
        let agent = self.site.start();
        let executed = load.finish();
        self.complete(&executed);
        agent.stop();
        self.whole(&executed);
    }

    fn unloaded(&self) {
        self.site.unload().succeeded();
        assert!(!self.site.pins().exists(), "it is pinned");
        let unseen = self.load().finish();
        let agent = self.site.start();
        let seen = self.load().finish();
        self.complete(&seen);
        agent.stop();
        let entries = self.site.entries();
        seen.assert_in(&entries);
        // Neither as a program nor as an execution.
        let faults = unseen.faults(&entries).len() as u64;
        assert_eq!(faults, 2 * unseen.count(), "it was measured");
        let said = violations(&entries);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("v1;loss;cause=unwatched;before=cima-ctx:"),
            "{said:?}"
        );
        self.tpm.verify(&self.site).succeeded();
    }

    #[track_caller]
    fn complete(&self, executed: &Executed) {
        eventually("the last execution is in the list", || {
            executed.last_is_in(&self.site.entries()).then_some(())
        });
    }

    /// All of it once, nothing else to complain of, and in the TPM.
    #[track_caller]
    fn whole(&self, executed: &Executed) {
        println!("     {} executions", executed.count());
        let entries = self.site.entries();
        executed.assert_in(&entries);
        assert_eq!(assert_sound(&entries), 0, "events lost");
        let said = violations(&entries);
        assert!(said.is_empty(), "{said:?}");
        self.tpm.verify(&self.site).succeeded();
    }
}

/// Payloads of the violations of a list.
fn violations(entries: &[Value]) -> Vec<String> {
    entries
        .iter()
        .filter(|entry| text(&entry["name"]).starts_with("cima-violation:"))
        .map(|entry| text(&entry["payload"]))
        .collect()
}

/// The least ring buffer overflows while nobody reads it, and then its probes are replaced.
fn lost_meanwhile(tpm: &SoftTpm) {
    let site = Site::new("lost");
    // In another PCR of the same TPM.
    let sink = format!("{}pcr = 14\n", tpm.sink());
    site.configure_probes(&sink, "ring_bytes = 65536\n");
    site.start().stop();
    let load = Load::start(Path::new("/tmp/lost-load"), 0, Duration::ZERO);
    load.wait_for(100);
    let executed = load.finish();
    site.configure_probes(&sink, "");
    site.start().stop();
    let entries = site.entries();
    let seen = context_events(&entries)
        .filter(|event| !event["execution"].is_null())
        .count() as u64;
    let lost = losses(&entries, "exec-ring-full");
    assert!(lost > 0, "{seen} seen");
    // The container's own program is one more.
    assert_eq!(
        seen + lost,
        executed.count() + 1,
        "{seen} seen, {lost} lost"
    );
    site.start().stop();
    assert_eq!(
        losses(&site.entries(), "exec-ring-full"),
        lost,
        "the next start does not count them again"
    );
}
