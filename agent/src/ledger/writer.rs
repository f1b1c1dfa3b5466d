// SPDX-License-Identifier: Apache-2.0
//! The thread that owns the ledger. Everything queued while one group was being
//! extended becomes the next group: a slow TPM makes groups longer, never the queue.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{Ledger, LedgerError};
use crate::measure::{Batch, ContextEvent, Measured, PolicyEvent};

/// Events in one group at most: bounds an entry's size and the memory of a flood.
const GROUP: usize = 1000;
/// How long to wait before the disk or the TPM is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a failure that lasts is reported.
const REPORT: Duration = Duration::from_secs(30);

/// Something to be written.
#[derive(Debug)]
pub enum Message {
    /// What a kernel event says.
    Measured(Box<Measured>),
    /// What the agent says of itself.
    Agent {
        /// For the verifier's policy.
        policy_events: Vec<PolicyEvent>,
        /// For the responder.
        context: Option<Box<ContextEvent>>,
    },
}

/// The queue's end that gives.
pub type WriterHandle = mpsc::Sender<Message>;

/// The running thread.
pub struct Writer {
    thread: JoinHandle<Result<Ledger, LedgerError>>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread; at most `queue` messages wait, then senders do.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(ledger: Ledger, queue: usize) -> io::Result<(Self, WriterHandle)> {
        let (sender, receiver) = mpsc::channel(queue);
        let stop = Arc::new(AtomicBool::new(false));
        let patience = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(ledger, receiver, &patience))?;
        Ok((Self { thread, stop }, sender))
    }

    /// Whether the thread has ended, which it only does when told to or on a defect.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// What makes the thread wait no longer for a disk or TPM that fails: it then ends,
    /// the group at hand stays in the intent, and senders get an error instead of a place.
    pub fn stopper(&self) -> impl FnOnce() + Send + use<> {
        let stop = Arc::clone(&self.stop);
        move || stop.store(true, Ordering::Relaxed)
    }

    /// Writes what is queued and ends; the senders must be gone.
    ///
    /// # Errors
    /// The last group could not be completed.
    pub fn finish(self) -> Result<Ledger, LedgerError> {
        self.stopper()();
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn run(
    mut ledger: Ledger,
    mut queue: mpsc::Receiver<Message>,
    stop: &AtomicBool,
) -> Result<Ledger, LedgerError> {
    let mut waiting = Vec::with_capacity(GROUP);
    while queue.blocking_recv_many(&mut waiting, GROUP) > 0 {
        let (events, batch) = group(waiting.drain(..));
        persist(&mut ledger, stop, |ledger| ledger.commit(&events, batch))?;
    }
    Ok(ledger)
}

/// Policy events in order of arrival, context events as one batch.
fn group(messages: impl Iterator<Item = Message>) -> (Vec<PolicyEvent>, Batch) {
    let mut events = Vec::new();
    let mut batch = Batch::new();
    for message in messages {
        let (policy_events, context) = match message {
            Message::Measured(measured) => (
                Vec::from_iter(measured.policy_event),
                Some(measured.context),
            ),
            Message::Agent {
                policy_events,
                context,
            } => (policy_events, context.map(|context| *context)),
        };
        events.extend(policy_events);
        if let Some(context) = context {
            batch.push(context);
        }
    }
    (events, batch)
}

/// Commits, and while the disk or the TPM fails tries again until told to stop.
fn persist(
    ledger: &mut Ledger,
    stop: &AtomicBool,
    commit: impl FnOnce(&mut Ledger) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut reported: Option<Instant> = None;
    let mut result = commit(ledger);
    while let Err(error) = result {
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
    Ok(())
}
