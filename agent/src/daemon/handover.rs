// SPDX-License-Identifier: Apache-2.0
//! From the agent before to this one. Its probes may be ours, or may be replaced; either
//! way each event is in the list once, and each loss. The agent may die at any step:
//!
//! 1. The new probes are attached beside the old; what both see, both queue.
//! 2. The old are detached. What their queue holds, and their losses, are written.
//! 3. What the new queue holds up to here is written, without what the old had seen.
//! 4. A batch says which probes are in force; now nothing needs the old ones any more.
//!
//! The list's last batch with a queue tells how far this went. Sets are older or newer by
//! their id, which is when they were made: one that is older than the last batch's is read out.

use ima_log::Digest;

use super::{DaemonError, doing};
use crate::{
    clock,
    ledger::{Ledger, Opened, drain},
    measure::{Anchorage, Batch, ContextEvent, PolicyEvent, SelfPart, loss, proto},
    probes::{Attached, Event, Losses, Probes, Queue, Retired, Set, retire},
};

/// Goes on where the list says that the kernel's queue was left: nothing is read twice, and
/// what came while no agent ran is still there. What is not continuous is recorded. Then
/// the agent's sink and its parts are named.
pub(super) fn go_on(
    attached: Attached,
    ledger: &mut Ledger,
    opened: &Opened,
    agent: (Anchorage, &[(SelfPart, Digest)]),
) -> Result<(Probes, Queue), DaemonError> {
    let Attached {
        mut probes,
        mut queue,
        before,
    } = attached;
    let last = ledger.queue();
    let watched = is_watched(ledger, opened, &before, &queue);
    let twins = read_out(&before, ledger, last, queue.id())?;
    if let Some(last) = last.filter(|last| last.id == queue.id()) {
        queue.resume(last.position);
    }
    if !before.is_empty() {
        queue.expect_twins(twins, clock::boot_ns());
        let end = queue.end();
        drain(ledger, &mut queue, (0, end), u64::MAX)?;
    }
    if ledger.is_anew() {
        probes.report_anew()?;
    }
    if !watched {
        tracing::error!(
            "the probes were not attached all the time since the last entry: what ran meanwhile is not known"
        );
        ledger.record_gap("unwatched")?;
        probes.report_anew()?;
    }
    introduce(ledger, &queue, agent)?;
    for set in &before {
        set.remove()
            .map_err(doing(format!("remove {}", set.dir().display())))?;
    }
    Ok((probes, queue))
}

/// Whether some probes were attached, and their queue read by nobody else, from the list's
/// last word on.
fn is_watched(ledger: &Ledger, opened: &Opened, before: &[Set], queue: &Queue) -> bool {
    let ids = || before.iter().map(Set::id).chain([queue.id()]);
    match ledger.queue() {
        // An agent of another list may have used them.
        None if matches!(opened, Opened::New) => queue.position() == 0,
        // The agent that began it died before it read anything.
        None => ids().any(|id| ledger.began_ns().is_some_and(|began| id <= began)),
        Some(last) if last.id == queue.id() => queue.position() <= last.position,
        Some(last) => ids().any(|id| id == last.id),
    }
}

/// Detaches the probes of other agents, oldest first, and writes what their queues hold.
/// Returns what they saw while the probes `newest` (their id) were attached, too.
fn read_out(
    sets: &[Set],
    ledger: &mut Ledger,
    last: Option<proto::Queue>,
    newest: u64,
) -> Result<Vec<Event>, DaemonError> {
    let mut seen: Vec<Event> = Vec::new();
    let nexts = sets.iter().skip(1).map(Set::id).chain([newest]);
    for (set, next) in sets.iter().zip(nexts) {
        tracing::info!("taking over from the probes in {}", set.dir().display());
        let Retired { mut queue, losses } = retire(set)?;
        let read = match last {
            Some(last) if last.id == set.id() => last.position,
            Some(last) if last.id > set.id() => u64::MAX,
            _ => 0,
        };
        queue.expect_twins(seen.clone(), clock::boot_ns());
        let end = queue.end();
        // What this set saw as a twin of one before, the next may have seen, too: three are attached when an agent died
        // while it took over.
        seen.retain(|event| event.time_ns >= next);
        seen.extend(drain(ledger, &mut queue, (read, end), next)?);
        if queue.position() < end {
            // A record that is never completed hides what is behind it.
            ledger.record_gap("unwatched")?;
        }
        if read < u64::MAX {
            report(ledger, &queue, &losses)?;
        }
    }
    Ok(seen)
}

/// Says what was lost by probes that are given up, as far as nobody has said it.
fn report(ledger: &mut Ledger, queue: &Queue, losses: &Losses) -> Result<(), DaemonError> {
    let of_queue = ledger.queue().is_some_and(|last| last.id == queue.id());
    let reported = if of_queue {
        Losses::reported(ledger.losses())
    } else {
        Losses::default()
    };
    let (mut events, mut batch) = (Vec::new(), Batch::new());
    for (cause, cpu, count) in losses.since(&reported) {
        tracing::error!("{count} events lost on CPU {cpu}: {}", cause.name());
        let (event, context) = loss(cause.name(), cpu, count, clock::boot_ns());
        events.push(event);
        batch.push(context);
    }
    batch.set_queue(queue.id(), queue.position());
    Ok(ledger.commit(&events, batch)?)
}

/// The agent's own parts: listed once a boot each, named in full at every start. The batch
/// says which queue is read from now on.
fn introduce(
    ledger: &mut Ledger,
    queue: &Queue,
    (anchorage, parts): (Anchorage, &[(SelfPart, Digest)]),
) -> Result<(), DaemonError> {
    let parts_are = parts.iter();
    let parts_are = parts_are.map(|(part, digest)| PolicyEvent::agent(*part, digest));
    let events: Vec<_> = std::iter::once(PolicyEvent::sink(anchorage))
        .chain(parts_are)
        .collect();
    let parts = parts
        .iter()
        .map(|(part, digest)| proto::Part {
            name: part.to_string(),
            digest: digest.to_string(),
        })
        .collect();
    let what = proto::context_event::What::Parts(proto::Parts { parts });
    let mut batch = Batch::new();
    batch.push(ContextEvent::of_agent(clock::boot_ns(), what));
    batch.set_queue(queue.id(), queue.position());
    Ok(ledger.commit(&events, batch)?)
}
