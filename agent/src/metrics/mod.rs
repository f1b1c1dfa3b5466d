// SPDX-License-Identifier: Apache-2.0
//! What an operator's monitoring wants to know, in Prometheus' text format. Counted
//! where it happens (`ledger`, `daemon`), served by [`serve`] if the configuration says so.
//! Nothing here is evidence: losses are entries of the list, too.

mod serve;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cima_abi::{Loss, Stat};
use ima_log::{Digest, Entry};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{
    measure::{Anchorage, PolicyEvent},
    probes::{Breach, ChangeKind, Event, EventError, How, What},
    sink::{Sink, SinkError},
};

pub use serve::{Listen, MetricsError, serve};

const EXECUTION: &str = "execution";

/// A counter's one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Every metric.
pub struct Metrics {
    registry: Registry,
    events: Family<Kind, Counter>,
    /// The one of `events` that counts most.
    executions: Counter,
    losses: Family<Kind, Counter>,
    files: Family<Kind, Counter>,
    entries: Counter,
    extends: Counter,
    batch: Histogram,
    extend: Histogram,
    latency: Histogram,
    ring: Gauge,
    ring_room: Gauge,
    failing: Gauge,
    /// When the TPM was asked what it has not answered yet, ns since boot; 0: nothing.
    asked: AtomicU64,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let events = Family::<Kind, Counter>::default();
        let executions = events.get_or_create(&Kind { kind: EXECUTION }).clone();
        let metrics = Self {
            registry: Registry::with_prefix("cima"),
            events,
            executions,
            losses: Family::default(),
            files: Family::default(),
            entries: Counter::default(),
            extends: Counter::default(),
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            // 0.1 ms to 1.6 s.
            extend: Histogram::new(exponential_buckets(0.0001, 2.0, 15)),
            // 1 ms to 65 s, in steps of a quarter: medians are read off them.
            latency: Histogram::new(exponential_buckets(0.001, 1.25, 51)),
            ring: Gauge::default(),
            ring_room: Gauge::default(),
            failing: Gauge::default(),
            asked: AtomicU64::new(0),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let to = &mut self.registry;
        to.register("events", "Events read from the kernel", self.events.clone());
        to.register("losses", "Events lost, by cause", self.losses.clone());
        to.register(
            "files",
            "Files about to be executed, by what became of them",
            self.files.clone(),
        );
        to.register(
            "entries",
            "Entries written to the list",
            self.entries.clone(),
        );
        to.register("extends", "Extends of the PCR", self.extends.clone());
        to.register("batch_events", "Events in one batch", self.batch.clone());
        to.register_with_unit(
            "extend",
            "Time of one extend",
            Unit::Seconds,
            self.extend.clone(),
        );
        to.register_with_unit(
            "mmap_to_extended",
            "Time from a file's measurement in the kernel to its extend",
            Unit::Seconds,
            self.latency.clone(),
        );
        to.register_with_unit(
            "ring_used",
            "Events that wait in the kernel's queue",
            Unit::Bytes,
            self.ring.clone(),
        );
        to.register_with_unit(
            "ring_size",
            "Room of the kernel's queue",
            Unit::Bytes,
            self.ring_room.clone(),
        );
        to.register(
            "ledger_failing",
            "1 while the disk or the TPM fails and events wait",
            self.failing.clone(),
        );
        for cause in Loss::ALL {
            drop(self.losses.get_or_create(&Kind { kind: cause.name() }));
        }
        self
    }

    /// An event was read.
    pub(crate) fn event(&self, event: &Result<Event, EventError>) {
        let kind = event
            .as_ref()
            .map_or("unreadable", |event| name(&event.what));
        if kind == EXECUTION {
            self.executions.inc();
        } else {
            self.events.get_or_create(&Kind { kind }).inc();
        }
    }

    /// `count` events were lost.
    pub(crate) fn lost(&self, cause: Loss, count: u64) {
        let kind = cause.name();
        self.losses.get_or_create(&Kind { kind }).inc_by(count);
    }

    /// The probes' counter `stat` has grown by `count`.
    pub(crate) fn files(&self, stat: Stat, count: u64) {
        let kind = match stat {
            Stat::Hashed => "hashed",
            Stat::CacheHit => "cache_hit",
            Stat::Said => "said",
            Stat::Uncacheable => "uncacheable",
            Stat::Unhanded => "unhanded",
        };
        self.files.get_or_create(&Kind { kind }).inc_by(count);
    }

    /// A group with a batch of so many events is about to be written.
    pub(crate) fn group(&self, events: usize) {
        if events > 0 {
            self.batch.observe(events as f64);
        }
    }

    /// `entries` are in the list and the PCR, for files that were seen at these times.
    pub(crate) fn written(&self, entries: u64, seen_ns: &[u64]) {
        self.entries.inc_by(entries);
        let now = crate::clock::boot_ns();
        for seen in seen_ns {
            let latency = Duration::from_nanos(now.saturating_sub(*seen));
            self.latency.observe(latency.as_secs_f64());
        }
    }

    /// Bytes in the kernel's queue, and its size.
    pub(crate) fn ring(&self, used: u64, size: u64) {
        self.ring.set(i64::try_from(used).unwrap_or(i64::MAX));
        self.ring_room.set(i64::try_from(size).unwrap_or(i64::MAX));
    }

    /// Whether the disk or the TPM fails.
    pub(crate) fn failing(&self, failing: bool) {
        self.failing.set(failing.into());
    }

    /// How long the TPM has been silent, if it was asked something.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let asked = self.asked.load(Ordering::Relaxed);
        let silent = crate::clock::boot_ns().saturating_sub(asked);
        (asked != 0).then(|| Duration::from_nanos(silent))
    }

    /// All of it, as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // A String takes whatever is written to it.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

fn name(what: &What) -> &'static str {
    match what {
        What::Exec(_) => EXECUTION,
        What::Measured { how, .. } => match how {
            How::Mapped { .. } => "mapping",
            How::Script => "script",
            How::KernelRead { .. } => "kernel_read",
        },
        What::Breach(breach) => match breach {
            Breach::Written => "written",
            Breach::Mprotect { .. } => "mprotect",
            Breach::Anonymous { .. } => "anonymous",
            Breach::KernelLoad { .. } => "kernel_load",
        },
        What::Change(kind, _) => match kind {
            ChangeKind::Made => "made",
            ChangeKind::Joined => "joined",
            ChangeKind::Pivoted => "pivoted",
        },
        What::Ended { .. } => "ended",
        What::Denied => "denied",
    }
}

/// A sink whose extends are timed, and whose silence is noticed.
pub struct Timed {
    sink: Box<dyn Sink>,
    metrics: std::sync::Arc<Metrics>,
}

impl Timed {
    /// Times the extends of `sink`.
    pub fn new(sink: Box<dyn Sink>, metrics: std::sync::Arc<Metrics>) -> Self {
        Self { sink, metrics }
    }

    /// Asks the TPM, and lets everybody see that there is no answer yet.
    fn asking<T>(&mut self, ask: impl FnOnce(&mut dyn Sink) -> T) -> T {
        let asked = crate::clock::boot_ns().max(1);
        self.metrics.asked.store(asked, Ordering::Relaxed);
        let answer = ask(&mut *self.sink);
        self.metrics.asked.store(0, Ordering::Relaxed);
        answer
    }
}

impl Sink for Timed {
    fn anchorage(&self) -> Anchorage {
        self.sink.anchorage()
    }

    fn pcr(&self) -> Option<u32> {
        self.sink.pcr()
    }

    fn read(&mut self) -> Result<Vec<Digest>, SinkError> {
        self.asking(|sink| sink.read())
    }

    fn lists(&mut self, entry: &Entry) -> Option<bool> {
        self.sink.lists(entry)
    }

    fn heard(&mut self) -> Vec<PolicyEvent> {
        self.sink.heard()
    }

    fn last_batch(&self) -> Option<u64> {
        self.sink.last_batch()
    }

    fn settle(&mut self) -> Result<(), SinkError> {
        self.asking(|sink| sink.settle())
    }

    fn extend(&mut self, entry: &Entry, values: &[Digest]) -> Result<(), SinkError> {
        let started = std::time::Instant::now();
        self.asking(|sink| sink.extend(entry, values))?;
        if self.sink.pcr().is_some() {
            self.metrics.extends.inc();
            self.metrics.extend.observe(started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), SinkError> {
        self.asking(|sink| sink.reopen())
    }
}
