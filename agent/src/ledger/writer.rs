// SPDX-License-Identifier: Apache-2.0
//! The thread that owns the ledger and reads the kernel's queue. Everything that came while
//! one group was being extended becomes the next: a slow TPM makes groups longer. What is
//! read stays in the kernel's queue until its group is in the list and the TPM, so that
//! an agent that dies leaves it to the next; the group says how far the queue is read.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Ledger, LedgerError};
use crate::{
    containers::Identities,
    measure::{Anchorage, Batch, ContextEvent, Executed, PolicyEvent, loss, measure},
    metrics::Metrics,
    probes::{Event, EventError, Queue, Waker, What},
};

/// Events in one group at most: bounds an entry's size and the memory of a flood.
pub(super) const GROUP: usize = 2000;
/// Bytes of their context from which on there are no more: a reader takes entries of 16 MiB, the kernel module of 2 MiB less one byte.
const GROUP_BYTES: usize = 1 << 20;
/// No context waits while this part of the queue is taken, a quarter: what is read leaves
/// the queue only with its group.
const CROWDED: u64 = 4;
/// How long context may wait for company. What a verifier wants to know, such as the digest of
/// a file that is new to the list, waits for nothing.
const LINGER: Duration = Duration::from_secs(2);
/// How long a measured file may wait where the kernel itself has listed it before the agent hears of it: for others. What could not
/// be listed there waits as long. It costs the kernel a walk along its list to say what is new there.
const LISTED_LINGER: Duration = Duration::from_millis(100);
/// How long to wait for a record that the kernel has begun.
const UNFINISHED: Duration = Duration::from_millis(5);
/// How long to wait before the disk or the TPM is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a record may be on its way into a queue that is given up.
const UNWRITTEN: Duration = Duration::from_secs(2);
/// How often a failure that lasts is reported.
const REPORT: Duration = Duration::from_secs(30);
/// How often the PCR is compared with the list when there is nothing to write: an extend
/// by somebody else and a TPM that was reset are no error of any command.
const CHECK: Duration = Duration::from_secs(60);

/// Where events come from: the kernel's queue.
pub trait Feed: Send {
    /// When it was made, ns since boot: tells queues apart.
    fn id(&self) -> u64;
    /// The next event, without waiting.
    fn read(&mut self) -> Option<Result<Event, EventError>>;
    /// Bytes read so far.
    fn position(&self) -> u64;
    /// Bytes that there are to be read.
    fn end(&self) -> u64;
    /// Everything before `position` is in the list.
    fn release(&mut self, position: u64);
    /// Waits for something urgent, for the waker or for `limit`.
    ///
    /// # Errors
    /// It cannot be watched.
    fn wait(&mut self, limit: Duration) -> io::Result<()>;
    /// Bytes that wait, and bytes that have room.
    fn fill(&self) -> (u64, u64);
}

impl Feed for Queue {
    fn id(&self) -> u64 {
        self.id()
    }
    fn read(&mut self) -> Option<Result<Event, EventError>> {
        Queue::read(self)
    }
    fn position(&self) -> u64 {
        self.position()
    }
    fn end(&self) -> u64 {
        self.end()
    }
    fn release(&mut self, position: u64) {
        Queue::release(self, position);
    }
    fn wait(&mut self, limit: Duration) -> io::Result<()> {
        Queue::wait(self, limit)
    }
    fn fill(&self) -> (u64, u64) {
        Queue::fill(self)
    }
}

/// What the agent itself has to say.
#[derive(Debug)]
pub enum Message {
    /// To be written with what is at hand.
    Say {
        /// For the verifier's policy.
        policy_events: Vec<PolicyEvent>,
        /// For the responder.
        context: Option<Box<ContextEvent>>,
        /// Who waits until it is in the list and the TPM.
        done: Option<Done>,
    },
    /// What is in the queue by now is to be written, then this, and then no more.
    End(Box<ContextEvent>),
}

/// Told when what was said is in the list and the TPM; dropped untold if the thread ends before.
pub type Done = tokio::sync::oneshot::Sender<()>;

/// The thread's other end.
#[derive(Clone)]
pub struct WriterHandle {
    messages: Sender<Message>,
    waker: Option<Waker>,
}

/// The thread has ended.
#[derive(Debug, thiserror::Error)]
#[error("the thread that writes the list has ended")]
pub struct WriterGone;

impl WriterHandle {
    /// Hands a message over.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn send(&self, message: Message) -> Result<(), WriterGone> {
        self.messages.send(message).map_err(|_| WriterGone)?;
        if let Some(waker) = &self.waker {
            waker.wake();
        }
        Ok(())
    }
}

/// The running thread.
pub struct Writer {
    thread: JoinHandle<Result<Ledger, LedgerError>>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread. `waker` ends the waiting of `feed`.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        ledger: Ledger,
        feed: Box<dyn Feed>,
        waker: Option<Waker>,
        metrics: Arc<Metrics>,
    ) -> io::Result<(Self, WriterHandle)> {
        Self::checking(ledger, feed, waker, metrics, CHECK)
    }

    /// [`Writer::start`], with how often the PCR is looked at.
    pub(super) fn checking(
        ledger: Ledger,
        feed: Box<dyn Feed>,
        waker: Option<Waker>,
        metrics: Arc<Metrics>,
        check: Duration,
    ) -> io::Result<(Self, WriterHandle)> {
        let (messages, receiver) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let identities = Identities::new(ledger.registry().clone());
        let news_linger = match ledger.anchorage() {
            Anchorage::Kernel => LISTED_LINGER,
            Anchorage::ImaFile | Anchorage::Pcr | Anchorage::None => Duration::ZERO,
        };
        let desk = Desk {
            news_linger,
            ledger,
            feed,
            messages: receiver,
            identities,
            group: Group::default(),
            end: None,
            abandoned: false,
            waiting: Vec::new(),
            stop: Arc::clone(&stop),
            metrics,
            check,
            checked: Instant::now(),
        };
        let thread = thread::Builder::new()
            .name("ledger".into())
            .spawn(|| desk.run())?;
        Ok((Self { thread, stop }, WriterHandle { messages, waker }))
    }

    /// Whether the thread has ended, which it only does when told to or on a defect.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// What makes the thread wait no longer for a disk or TPM that fails: it then ends,
    /// the group at hand stays in the intent, and the rest in the kernel's queue.
    pub fn stopper(&self) -> impl FnOnce() + Send + use<> {
        let stop = Arc::clone(&self.stop);
        move || stop.store(true, Ordering::Relaxed)
    }

    /// Waits for the thread, which was told to end, but not longer than `patience`: then the
    /// thread is left alone, to end with the process.
    ///
    /// # Errors
    /// The last group could not be completed, or the thread waits for a disk or a TPM that
    /// does not answer.
    pub fn finish(self, patience: Duration) -> Result<Ledger, LedgerError> {
        self.stopper()();
        let asked = Instant::now();
        while !self.thread.is_finished() {
            if asked.elapsed() > patience {
                return Err(LedgerError::Unfinished(patience));
            }
            thread::sleep(Duration::from_millis(10));
        }
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Writes what a queue holds from position `from` up to `end`, and returns its events since
/// `since_ns`. Nothing is released: an agent that dies meanwhile leaves the same to the next.
///
/// # Errors
/// The disk or the TPM failed: what is not in the list is still in the queue.
pub fn drain(
    ledger: &mut Ledger,
    feed: &mut dyn Feed,
    (from, end): (u64, u64),
    since_ns: u64,
) -> Result<Vec<Event>, LedgerError> {
    let mut recent = Vec::new();
    let mut last = Instant::now();
    let mut group = Group::default();
    let mut identities = Identities::new(ledger.registry().clone());
    while feed.position() < end {
        if let Some(event) = feed.read() {
            last = Instant::now();
            recent.extend(event.iter().filter(|e| e.time_ns >= since_ns).cloned());
            if feed.position() > from {
                group.add(event, &mut identities, ledger.boot_id());
            }
        } else if last.elapsed() < UNWRITTEN && feed.position() < end {
            thread::sleep(Duration::from_millis(10));
        } else {
            break;
        }
        if group.is_full() {
            commit(ledger, std::mem::take(&mut group), feed)?;
        }
    }
    commit(ledger, group, feed)?;
    Ok(recent)
}

fn commit(ledger: &mut Ledger, mut group: Group, feed: &dyn Feed) -> Result<(), LedgerError> {
    let (events, mut batch) = group.take();
    if !batch.is_empty() {
        batch.set_queue(feed.id(), feed.position());
    }
    ledger.commit(&events, batch)
}

/// What is to be written next.
#[derive(Default)]
struct Group {
    events: Vec<PolicyEvent>,
    /// What of `events` an execution need not say again.
    executed: Executed,
    batch: Batch,
    /// When each mapped file was seen, ns since boot.
    seen_ns: Vec<u64>,
    /// Whether the agent itself has something to say, which waits for nothing.
    urgent: bool,
    /// When the first of it came.
    since: Option<Instant>,
    /// When the first of `events` came.
    news_since: Option<Instant>,
    /// Whether one of them is of a kind that the kernel does not list by itself, which waits for nothing.
    prompt: bool,
}

impl Group {
    fn len(&self) -> usize {
        self.batch.len().max(self.events.len())
    }

    /// Whether no more fits.
    fn is_full(&self) -> bool {
        self.len() >= GROUP || self.batch.bytes() >= GROUP_BYTES
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it waits no longer; `fill` is the queue's [`Feed::fill`].
    fn is_due(&self, fill: (u64, u64)) -> bool {
        let (taken, room) = fill;
        let crowded = taken >= room / CROWDED;
        let waited = self.since.is_some_and(|since| since.elapsed() >= LINGER);
        !self.is_empty() && (self.urgent || waited || crowded || self.is_full())
    }

    /// Whether what a verifier wants to know waits no longer; so long it may.
    fn has_news(&self, linger: Duration) -> bool {
        let waited = || {
            self.news_since
                .is_none_or(|since| since.elapsed() >= linger)
        };
        !self.events.is_empty() && (self.prompt || waited())
    }

    /// How long it may still wait, what a verifier wants to know for `news`.
    fn patience(&self, news: Duration) -> Duration {
        let left = |since: Option<Instant>, linger: Duration| {
            since.map_or(linger, |since| linger.saturating_sub(since.elapsed()))
        };
        let context = left(self.since, LINGER);
        if self.events.is_empty() {
            return context;
        }
        let news = if self.prompt { Duration::ZERO } else { news };
        context.min(left(self.news_since, news))
    }

    /// Adds what the kernel reported; a record that cannot be read is a loss.
    fn add(
        &mut self,
        event: Result<Event, EventError>,
        identities: &mut Identities,
        boot_id: &str,
    ) {
        self.since.get_or_insert_with(Instant::now);
        match event {
            Ok(event) => {
                let identity = identities.of(&event);
                let measured = measure(&event, &identity, boot_id, &mut self.executed);
                if measured.policy_event.is_some() {
                    self.seen_ns.push(event.time_ns);
                    self.news_since.get_or_insert_with(Instant::now);
                    self.prompt |= !matches!(event.what, What::Measured { .. });
                }
                self.events.extend(measured.policy_event);
                self.batch.push(measured.context);
            }
            Err(error) => {
                tracing::error!("{error}");
                let (event, context) = loss("unreadable-record", 0, 1, crate::clock::boot_ns());
                self.say(vec![event], Some(context));
            }
        }
    }

    fn say(&mut self, events: Vec<PolicyEvent>, context: Option<ContextEvent>) {
        self.urgent = true;
        self.events.extend(events);
        if let Some(context) = context {
            self.batch.push(context);
        }
    }

    /// What a verifier waits for, and when of it each mapped file was seen.
    fn take_news(&mut self) -> (Vec<PolicyEvent>, Vec<u64>) {
        self.executed.clear();
        (self.news_since, self.prompt) = (None, false);
        let seen_ns = std::mem::take(&mut self.seen_ns);
        (std::mem::take(&mut self.events), seen_ns)
    }

    fn take(&mut self) -> (Vec<PolicyEvent>, Batch) {
        let taken = std::mem::take(self);
        (taken.events, taken.batch)
    }
}

struct Desk {
    ledger: Ledger,
    feed: Box<dyn Feed>,
    messages: Receiver<Message>,
    identities: Identities,
    group: Group,
    /// Where the queue is to be left, and the last word.
    end: Option<(u64, Box<ContextEvent>)>,
    /// Nobody can send messages any more.
    abandoned: bool,
    /// Who waits for the group at hand.
    waiting: Vec<Done>,
    stop: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    /// How long news may wait.
    news_linger: Duration,
    /// How often the PCR is looked at, and when it was last.
    check: Duration,
    checked: Instant,
}

impl Desk {
    fn run(mut self) -> Result<Ledger, LedgerError> {
        loop {
            self.listen();
            self.read();
            let (taken, room) = self.feed.fill();
            self.metrics.ring(taken, room);
            if self.group.is_due((taken, room)) {
                self.write()?;
            } else if self.group.has_news(self.news_linger) {
                self.write_news()?;
            } else if self.is_at_end() {
                if let Some((_, farewell)) = self.end.take() {
                    self.group.say(Vec::new(), Some(*farewell));
                }
                self.write()?;
                return Ok(self.ledger);
            } else if self.checked.elapsed() >= self.check {
                self.check()?;
            } else if let Err(error) = self.feed.wait(self.patience()) {
                tracing::error!("the kernel's queue cannot be watched: {error}");
                thread::sleep(RETRY);
            }
        }
    }

    /// How long to wait for the kernel. A record that is still being written may be in front
    /// of one that is urgent, and nobody wakes for it when it is done.
    fn patience(&self) -> Duration {
        if self.feed.position() < self.feed.end() {
            return UNFINISHED;
        }
        self.group.patience(self.news_linger)
    }

    /// Takes the messages that are there.
    fn listen(&mut self) {
        while !self.group.is_full() {
            match self.messages.try_recv() {
                Ok(Message::Say {
                    policy_events,
                    context,
                    done,
                }) => {
                    self.group.say(policy_events, context.map(|said| *said));
                    self.waiting.extend(done);
                }
                Ok(Message::End(farewell)) => self.end = Some((self.feed.end(), farewell)),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    // The daemon failed: what is in the queue is the next agent's.
                    self.abandoned = true;
                    return;
                }
            }
        }
    }

    /// Takes events as far as the group has room for them.
    fn read(&mut self) {
        while !self.group.is_full() && !self.is_at_end() {
            let Some(event) = self.feed.read() else {
                return;
            };
            self.metrics.event(&event);
            let boot_id = self.ledger.boot_id();
            self.group.add(event, &mut self.identities, boot_id);
        }
    }

    /// Whether the queue is read as far as it is to be.
    fn is_at_end(&self) -> bool {
        match &self.end {
            Some((end, _)) => self.feed.position() >= *end,
            None => self.abandoned,
        }
    }

    /// Commits what a verifier waits for, and leaves the context for later: it is as much
    /// again to be extended. The records stay in the kernel's queue meanwhile; an agent that
    /// reads them again finds that the news are in the list.
    fn write_news(&mut self) -> Result<(), LedgerError> {
        let (events, seen_ns) = self.group.take_news();
        let before = self.ledger.entries();
        persist(&mut self.ledger, &self.stop, &self.metrics, |ledger| {
            ledger.commit(&events, Batch::new())
        })?;
        let entries = self.ledger.entries() - before;
        self.metrics.written(entries, &seen_ns);
        Ok(())
    }

    /// Commits the group, then lets the kernel have its room.
    fn write(&mut self) -> Result<(), LedgerError> {
        let position = self.feed.position();
        let seen_ns = std::mem::take(&mut self.group.seen_ns);
        let (events, mut batch) = self.group.take();
        let before = self.ledger.entries();
        self.metrics.group(batch.len());
        let says_how_far = !batch.is_empty();
        if says_how_far {
            batch.set_queue(self.feed.id(), position);
        }
        persist(&mut self.ledger, &self.stop, &self.metrics, |ledger| {
            ledger.commit(&events, batch)
        })?;
        if says_how_far {
            self.feed.release(position);
        }
        self.metrics
            .written(self.ledger.entries() - before, &seen_ns);
        for done in self.waiting.drain(..) {
            // Who waited may have given up.
            let _ = done.send(());
        }
        Ok(())
    }

    /// Whether the PCR still holds the list; if not, that is recorded.
    fn check(&mut self) -> Result<(), LedgerError> {
        let checked = persist(&mut self.ledger, &self.stop, &self.metrics, |ledger| {
            ledger.check().map(drop)
        });
        self.checked = Instant::now();
        checked
    }
}

/// Writes, and while the disk or the TPM fails tries again until told to stop.
fn persist(
    ledger: &mut Ledger,
    stop: &AtomicBool,
    metrics: &Metrics,
    write: impl FnOnce(&mut Ledger) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut reported: Option<Instant> = None;
    let mut result = write(ledger);
    while let Err(error) = result {
        metrics.failing(true);
        if stop.load(Ordering::Relaxed) {
            return Err(LedgerError::Interrupted(Box::new(error)));
        }
        if reported.is_none_or(|at| at.elapsed() > REPORT) {
            tracing::error!("{error}; trying again every second, events wait meanwhile");
            reported = Some(Instant::now());
        }
        thread::sleep(RETRY);
        result = match error {
            LedgerError::Sink(_) => ledger.reconnect().and_then(|()| ledger.complete()),
            _ => ledger.complete(),
        };
        if result.is_ok() {
            tracing::info!("the list is being written again");
        }
    }
    metrics.failing(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_waits_for_company_only_while_the_queue_has_room() {
        let mut group = Group::default();
        assert!(!group.is_due((900, 1000)), "there is nothing to write");
        let (_, context) = loss("exec-ring-full", 0, 1, 5);
        group.batch.push(context);
        assert!(!group.is_due((249, 1000)));
        assert!(group.is_due((250, 1000)));
        group.urgent = true;
        assert!(group.is_due((0, 1000)));
    }

    #[test]
    fn what_the_kernel_has_listed_waits_a_moment_and_what_it_has_not_does_not() {
        let mut group = Group::default();
        assert!(!group.has_news(Duration::ZERO), "there are none");
        group.events.push(PolicyEvent::own_violation(
            crate::measure::Violation::Loss,
            "x",
        ));
        group.news_since = Some(Instant::now());
        assert!(group.has_news(Duration::ZERO));
        assert_eq!(group.patience(Duration::ZERO), Duration::ZERO);
        let hour = Duration::from_secs(3600);
        assert!(!group.has_news(hour));
        assert!(group.patience(hour) <= LINGER);
        group.prompt = true;
        assert!(group.has_news(hour));
        assert_eq!(group.patience(hour), Duration::ZERO);
        group.take_news();
        assert!(!group.has_news(Duration::ZERO));
        assert_eq!(group.patience(Duration::ZERO), LINGER);
    }
}
