// SPDX-License-Identifier: Apache-2.0
//! The kernel's queue of events: read by the ledger's thread, and emptied only as far
//! as the ledger has it on disk and in the TPM.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use aya::maps::MapData;
use rustix::{
    buffer::spare_capacity,
    event::{EventfdFlags, epoll, eventfd},
    io::{Errno, write},
    time::Timespec,
};

use super::{Event, EventError, Parser, ring::Ring};

/// A ring buffer map as a descriptor.
#[derive(Debug)]
pub(super) struct RingMap(pub(super) MapData);

impl AsFd for RingMap {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.fd().as_fd()
    }
}

/// The queue of one set of probes.
#[derive(Debug)]
pub struct Queue {
    id: u64,
    ring: Ring<RingMap>,
    parser: Parser,
    epoll: OwnedFd,
    woken: Arc<OwnedFd>,
    /// Events of another set of probes that are in the list: each hides its twin here.
    twins: Vec<Event>,
    /// When that set was detached, ns since boot: what came later has no twin.
    twins_until: u64,
}

/// Ends the queue's waiting from another thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Whoever waits for the queue goes on.
    pub fn wake(&self) {
        // It fails only when it has been woken 2^64 times without looking.
        let _ = write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Queue {
    pub(super) fn open(map: MapData, id: u64) -> io::Result<Self> {
        let capacity = map.info().map_err(io::Error::other)?.max_entries();
        let ring = Ring::map(RingMap(map), capacity)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let woken = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // By edges: what has been read but not released would count as readable for ever.
        let edges = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, ring.fd(), epoll::EventData::new_u64(0), edges)?;
        epoll::add(&epoll, &woken, epoll::EventData::new_u64(1), edges)?;
        Ok(Self {
            id,
            ring,
            parser: Parser::default(),
            epoll,
            woken: Arc::new(woken),
            twins: Vec::new(),
            twins_until: 0,
        })
    }

    /// What wakes it.
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.woken))
    }

    /// When it was made, ns since boot: unique in a boot.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Bytes read since it was made.
    pub fn position(&self) -> u64 {
        self.ring.cursor()
    }

    /// Goes on behind what an agent before has already put into the list.
    pub fn resume(&mut self, position: u64) {
        self.ring.skip_to(position);
    }

    /// Bytes written since it was made.
    pub fn end(&self) -> u64 {
        self.ring.end()
    }

    /// Bytes that wait, and bytes that have room.
    pub fn fill(&self) -> (u64, u64) {
        (self.ring.fill(), self.ring.capacity())
    }

    /// These events are in the list already, reported by a set of probes that was attached
    /// while this one was, up to `until_ns` since boot: each of them hides one such event of
    /// this queue.
    pub fn expect_twins(&mut self, twins: Vec<Event>, until_ns: u64) {
        self.twins.extend(twins);
        self.twins_until = self.twins_until.max(until_ns);
    }

    /// The next event. A record that cannot be read is its error, in its place.
    pub fn read(&mut self) -> Option<Result<Event, EventError>> {
        loop {
            let (record, _) = self.ring.next()?;
            let event = self.parser.parse(record);
            // Borrowed from the ring no longer.
            if self.twins.is_empty() || !event.as_ref().is_ok_and(|event| self.is_known(event)) {
                return Some(event);
            }
        }
    }

    /// Takes the twin of `event` off the list.
    fn is_known(&mut self, event: &Event) -> bool {
        if event.time_ns > self.twins_until {
            return false;
        }
        let twin = self.twins.iter().position(|twin| twin.is_twin_of(event));
        if let Some(twin) = twin {
            self.twins.swap_remove(twin);
        }
        twin.is_some()
    }

    /// Everything before `position` is in the list: the kernel may use the room.
    pub fn release(&self, position: u64) {
        self.ring.release(position);
    }

    /// Waits until the kernel has something urgent, somebody wakes, or `limit` has passed.
    ///
    /// # Errors
    /// The descriptors cannot be watched.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut events = Vec::with_capacity(2);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut count = [0; 8];
        // Empty unless woken.
        let _ = rustix::io::read(&*self.woken, &mut count);
        Ok(())
    }
}
