// SPDX-License-Identifier: Apache-2.0
//! kill -9, 200 times, at moments that a seed chooses, while a container executes new
//! programs all the time. The kernel keeps what happens while nobody reads; the list
//! ends up with everything, once. `crash SEED ROUNDS` repeats a run.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Scenario;
use crate::agent::{Site, eventually};
use crate::claims::Claims;
use crate::work::{Load, Random, assert_sound};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "crash",
    about: "after 200 kills under load every execution is in the list once, and the list in the TPM",
    play,
};

const ROUNDS: u64 = 200;
/// From one execution of the container to the next.
const EVERY: Duration = Duration::from_millis(60);
/// A kill comes at most so long after cimad is ready.
const AFTER_READY: u64 = 600;

fn play(claims: &mut Claims, arguments: &[String]) {
    let mut random = Random::new(arguments);
    let rounds = arguments.get(1).and_then(|n| n.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let site = Site::new("crash");
    // The first attaches the probes: from then on they stay, and a start is a short one.
    site.start().kill();
    let began = Instant::now();
    let first = site.start();
    let start = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    println!("     a start takes {start} ms");
    let load = Load::start(Path::new("/root/crash-load"), 0, EVERY);
    load.wait_for(4);
    first.kill();
    claims.claim("cimad can be started again after each kill", || {
        // Two kills have been.
        for round in 3..=rounds {
            kill_once(&site, &mut random, start);
            if round % 20 == 0 {
                println!("     {round} kills in {} s", began.elapsed().as_secs());
            }
        }
    });
    let executed = load.finish();
    println!("     {} executions", executed.count());
    claims.claim("it ends in order then", || {
        let last = site.start();
        eventually("the last execution is in the list", || {
            executed.last_is_in(&site.entries()).then_some(())
        });
        last.stop();
    });
    let entries = site.entries();
    claims.claim(
        "every program is in the list with its digest, every execution exactly once",
        || executed.assert_in(&entries),
    );
    claims.claim(
        "nothing is listed twice, batches have no gap, the chain never broke",
        || assert_eq!(assert_sound(&entries), 0, "events lost"),
    );
    claims.claim("the list replays to the TPM", || {
        site.verify().succeeded();
    });
}

/// Half of the kills come after cimad said READY, half wherever it is on its way there.
fn kill_once(site: &Site, random: &mut Random, start: u64) {
    let agent = site.launch();
    let (agent, wait) = if random.below(2) == 0 {
        (agent.ready(), random.below(AFTER_READY))
    } else {
        (agent, random.below(start))
    };
    std::thread::sleep(Duration::from_millis(wait));
    agent.kill();
}
