// SPDX-License-Identifier: Apache-2.0
//! Watches for the end of processes: one thread for all of them.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
};

/// Ends that are told at once, at most.
const AT_ONCE: usize = 64;

/// The processes that are watched.
#[derive(Debug)]
pub(super) struct Ends {
    epoll: Arc<OwnedFd>,
    held: Arc<Mutex<HashMap<u64, OwnedFd>>>,
}

impl Ends {
    /// Starts the thread, which calls `ended` with the number of each that has ended.
    pub(super) fn watch(ended: impl Fn(u64) + Send + 'static) -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
        let held: Arc<Mutex<HashMap<u64, OwnedFd>>> = Arc::default();
        let ends = Self {
            epoll: Arc::clone(&epoll),
            held: Arc::clone(&held),
        };
        thread::Builder::new().name("ends".into()).spawn(move || {
            let mut events = Vec::with_capacity(AT_ONCE);
            loop {
                events.clear();
                match epoll::wait(&*epoll, spare_capacity(&mut events), None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(errno) => {
                        tracing::error!("the ends of containers are not seen any more: {errno}");
                        return;
                    }
                }
                for event in &events {
                    let number = event.data.u64();
                    // Closed, it is out of the set.
                    lock(&held).remove(&number);
                    ended(number);
                }
            }
        })?;
        Ok(ends)
    }

    /// Watches the process behind a descriptor of it (`pidfd_open`), under a number that no other has.
    pub(super) fn add(&self, number: u64, process: OwnedFd) -> io::Result<()> {
        let mut held = lock(&self.held);
        epoll::add(
            &*self.epoll,
            &process,
            EventData::new_u64(number),
            EventFlags::IN,
        )?;
        held.insert(number, process);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::process::Process;
    use std::{process::Command, sync::mpsc, time::Duration};

    #[test]
    fn each_end_is_told_once() {
        let (told, ends) = mpsc::channel();
        let watched = Ends::watch(move |number| told.send(number).unwrap()).unwrap();
        let mut children: Vec<_> = (0..3)
            .map(|_| Command::new("sleep").arg("60").spawn().unwrap())
            .collect();
        for (number, child) in (7..).zip(&children) {
            let held = Process::open(child.id()).unwrap().into_held();
            watched.add(number, held).unwrap();
        }
        for (number, child) in (7..).zip(&mut children) {
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(ends.recv_timeout(Duration::from_secs(10)).unwrap(), number);
        }
        assert!(ends.recv_timeout(Duration::from_millis(50)).is_err());
    }
}
