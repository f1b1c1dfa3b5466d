// SPDX-License-Identifier: Apache-2.0
//! Loads the probe object, attaches its programs, hands out its records.

use std::{io, os::fd::AsRawFd};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, MapData, MapError, PerCpuArray, RingBuf},
    programs::{Lsm, ProgramError},
};
use cima_abi::{LOSS_COUNT, Loss, MAX_CANDIDATES, NS_COUNT, Scope, map};
use tokio::io::unix::AsyncFd;

use super::{Event, EventError, Offsets, btf::BtfError};

/// The programs of the object: its function names are the hooks' names.
const HOOKS: [&str; 2] = ["mmap_file", "bprm_committed_creds"];

/// Why the probes do not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// See [`BtfError`].
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// aya could not read the kernel's BTF.
    #[error("the kernel's type information cannot be read: {0}")]
    KernelTypes(#[source] Box<aya::BtfError>),
    /// Not an object of ours, or refused by the kernel.
    #[error("the probe object cannot be loaded: {0}")]
    Object(#[source] Box<EbpfError>),
    /// A program or map that this agent needs is not in the object.
    #[error("the probe object has no {0}: it was built for another version of cima")]
    Absent(&'static str),
    /// The kernel refused a program; the verifier's log is in the text.
    #[error("the kernel refused the probe {hook}: {source}")]
    Program {
        /// LSM hook.
        hook: &'static str,
        /// aya's report, with the verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
    /// A map could not be read or written.
    #[error("the probes' map {map} cannot be used: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// aya's report.
        #[source]
        source: Box<MapError>,
    },
    /// The ring buffer's descriptor could not be watched.
    #[error("the ring buffer cannot be watched: {0}")]
    Watch(#[source] io::Error),
}

/// Lost events so far: per cause, per CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses([Vec<u64>; LOSS_COUNT]);

impl Losses {
    /// Events lost for `cause`, over all CPUs.
    pub fn total(&self, cause: Loss) -> u64 {
        self.0[cause as usize].iter().sum()
    }

    /// `(cause, cpu, new losses)` since `before`.
    pub fn since(&self, before: &Losses) -> Vec<(Loss, usize, u64)> {
        let mut new = Vec::new();
        for cause in Loss::ALL {
            for (cpu, now) in self.0[cause as usize].iter().enumerate() {
                let then = before.0[cause as usize].get(cpu).copied().unwrap_or(0);
                if *now > then {
                    new.push((cause, cpu, now - then));
                }
            }
        }
        new
    }
}

/// The running probes. They stop when this is dropped.
pub struct Probes {
    // Holds the programs and their links.
    _ebpf: Ebpf,
    events: AsyncFd<RingBuf<MapData>>,
    losses: PerCpuArray<MapData, u64>,
    scope: Array<MapData, Scope>,
}

impl Probes {
    /// Loads `object` with `offsets`, a ring buffer of `ring_bytes` (a power of two),
    /// and attaches every program. Nothing is reported before [`Probes::set_scope`].
    /// `debug` lets the probes speak through `aya-log` at level `debug`.
    ///
    /// # Errors
    /// An object of another version, or a kernel that refuses it.
    pub fn load(
        object: &[u8],
        offsets: &Offsets,
        ring_bytes: u32,
        debug: bool,
    ) -> Result<Self, LoadError> {
        let level = if debug {
            aya_log::Level::Debug
        } else {
            aya_log::Level::Warn
        } as u8;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(map::EVENTS, ring_bytes);
        loader.override_global(aya_log::LEVEL, &level, false);
        for (name, value) in offsets.iter() {
            // A global that the compiler dropped is one that no probe reads.
            loader.override_global(name, value, false);
        }
        let mut ebpf = loader
            .load(object)
            .map_err(|e| LoadError::Object(Box::new(e)))?;
        let btf = Btf::from_sys_fs().map_err(|e| LoadError::KernelTypes(Box::new(e)))?;
        for hook in HOOKS {
            attach(&mut ebpf, hook, &btf)?;
        }
        let events =
            RingBuf::try_from(take(&mut ebpf, map::EVENTS)?).map_err(bad_map(map::EVENTS))?;
        let losses =
            PerCpuArray::try_from(take(&mut ebpf, map::LOSSES)?).map_err(bad_map(map::LOSSES))?;
        let scope = Array::try_from(take(&mut ebpf, map::SCOPE)?).map_err(bad_map(map::SCOPE))?;
        if debug {
            forward_log(&mut ebpf)?;
        }
        let events = watch(events)?;
        Ok(Self {
            _ebpf: ebpf,
            events,
            losses,
            scope,
        })
    }

    /// Says whose tasks are measured from now on.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_scope(&mut self, scope: &Scope) -> Result<(), LoadError> {
        self.scope.set(0, scope, 0).map_err(bad_map(map::SCOPE))
    }

    /// No task is in scope any more: what is in the ring buffer is all there will be.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn silence(&mut self) -> Result<(), LoadError> {
        self.set_scope(&Scope {
            host_ns: [0; NS_COUNT],
            candidates: [0; MAX_CANDIDATES],
            measure_host: 0,
            self_test_tgid: 0,
        })
    }

    /// Waits until there is at least one record, then takes what is there, `limit` at most.
    /// A record that cannot be read is returned as its error, in its place.
    ///
    /// # Errors
    /// The ring buffer cannot be watched any more.
    pub async fn next(&mut self, limit: usize) -> io::Result<Vec<Result<Event, EventError>>> {
        loop {
            let waiting = self.take_waiting(limit);
            if !waiting.is_empty() {
                return Ok(waiting);
            }
            let mut guard = self.events.readable_mut().await?;
            let events = take_from(guard.get_inner_mut(), limit);
            if events.len() < limit {
                guard.clear_ready();
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// Takes what is in the ring buffer now, `limit` at most, without waiting.
    pub fn take_waiting(&mut self, limit: usize) -> Vec<Result<Event, EventError>> {
        take_from(self.events.get_mut(), limit)
    }

    /// The loss counters now.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn losses(&self) -> Result<Losses, LoadError> {
        let mut losses = Losses::default();
        for cause in Loss::ALL {
            let values = self
                .losses
                .get(&(cause as u32), 0)
                .map_err(bad_map(map::LOSSES))?;
            losses.0[cause as usize] = values.iter().copied().collect();
        }
        Ok(losses)
    }
}

fn take_from(ring: &mut RingBuf<MapData>, limit: usize) -> Vec<Result<Event, EventError>> {
    let mut events = Vec::new();
    while events.len() < limit {
        let Some(record) = ring.next() else { break };
        events.push(Event::parse(&record));
    }
    events
}

fn attach(ebpf: &mut Ebpf, hook: &'static str, btf: &Btf) -> Result<(), LoadError> {
    let refused = |source| LoadError::Program {
        hook,
        source: Box::new(source),
    };
    let program: &mut Lsm = ebpf
        .program_mut(hook)
        .ok_or(LoadError::Absent(hook))?
        .try_into()
        .map_err(refused)?;
    program.load(hook, btf).map_err(refused)?;
    program.attach().map_err(refused)?;
    Ok(())
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Absent(name))
}

fn bad_map(map: &'static str) -> impl Fn(MapError) -> LoadError {
    move |source| LoadError::Map {
        map,
        source: Box::new(source),
    }
}

/// Sends the probes' own messages to this process's log.
fn forward_log(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let logger = match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => watch(logger)?,
        // An object whose messages were all compiled out has no log.
        Err(aya_log::Error::MapNotFound) => return Ok(()),
        Err(error) => return Err(LoadError::Watch(io::Error::other(error))),
    };
    tokio::spawn(async move {
        let mut logger = logger;
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}

/// Registers a ring buffer with the reactor.
fn watch<T: AsRawFd>(ring: T) -> Result<AsyncFd<T>, LoadError> {
    #[expect(unsafe_code, reason = "tokio asks for this promise")]
    // SAFETY: both callers pass an aya ring buffer, which owns its map's descriptor:
    // it stays open, and `as_raw_fd` names the same one, until the value is dropped.
    let registered = unsafe { AsyncFd::register(ring) };
    registered.map_err(|error| LoadError::Watch(error.into()))
}
