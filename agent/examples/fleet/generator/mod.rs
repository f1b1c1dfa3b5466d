// SPDX-License-Identifier: Apache-2.0
//! A fleet, node by node. `image` owns what containers are made of, `node` what happens on a node, `list` how it is
//! written; `hostile` writes what no agent would, `incident` an afternoon in which somebody gets in.

mod container;
pub(crate) mod hostile;
mod image;
pub(crate) mod incident;
mod kernel;
mod list;
mod node;
mod numbers;

use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use image::Image;
pub(crate) use list::Written;
use node::Node;

/// Entries that a node's own beginning takes at most, and each container's.
const NODE_ENTRIES: u64 = 100;
const CONTAINER_ENTRIES: u64 = 40;

/// What is to be written.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) dir: PathBuf,
    pub(crate) nodes: usize,
    /// On all nodes.
    pub(crate) containers: usize,
    /// Of all lists.
    pub(crate) entries: u64,
    pub(crate) seed: u64,
    /// When the first node boots, seconds since 1970.
    pub(crate) start_s: i64,
}

impl Fleet {
    /// How many of `all` a node gets: the first ones get what is left over.
    fn share(&self, all: u64, node: usize) -> u64 {
        let (nodes, node) = (self.nodes as u64, node as u64);
        all / nodes + u64::from(node < all % nodes)
    }

    fn check(&self) -> io::Result<()> {
        let least = NODE_ENTRIES * self.nodes as u64 + CONTAINER_ENTRIES * self.containers as u64;
        if self.nodes > 0 && self.containers >= self.nodes && self.entries >= least {
            return Ok(());
        }
        let message = format!(
            "a fleet has at least a node, a container on each node, and {NODE_ENTRIES} entries for each node and \
             {CONTAINER_ENTRIES} for each container: {least}"
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }
}

/// Writes the lists, a thread for each core.
pub(crate) fn generate(fleet: &Fleet) -> io::Result<Written> {
    fleet.check()?;
    let images = Image::all();
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism()?.get().min(fleet.nodes);
    let work = || {
        let mut written = Written::default();
        loop {
            let node = next.fetch_add(1, Ordering::Relaxed);
            if node >= fleet.nodes {
                return Ok(written);
            }
            written += Node::new(fleet, &images, node)?.run()?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut all = Written::default();
        for thread in threads {
            let written: io::Result<Written> = thread.join().unwrap_or_else(|panic| {
                std::panic::resume_unwind(panic);
            });
            all += written?;
        }
        Ok(all)
    })
}

/// Seconds since 1970 of a time such as `2026-10-01T00:00:00Z`.
pub(crate) fn unix_seconds(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is not a time such as 2026-10-01T00:00:00Z");
    let numbers: Option<Vec<i64>> = text
        .strip_suffix('Z')
        .ok_or_else(wrong)?
        .split(['-', 'T', ':'])
        .map(|number| number.parse().ok())
        .collect();
    let Some([year, month, day, hour, minute, second]) = numbers.as_deref() else {
        return Err(wrong());
    };
    // Years that begin in March: the day that some have more is their last.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (*year, month - 3),
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Ok(((days * 24 + hour) * 60 + minute) * 60 + second)
}
