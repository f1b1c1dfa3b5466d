// SPDX-License-Identifier: Apache-2.0
//! How complete a list is: what its agent says of its own starts and ends, and of what it did not see.

use std::collections::BTreeMap;

use ima_log::EscapedName;

use crate::measure::proto::start::Reason;

/// Causes that are told apart; a list of any agent has a handful.
const CAUSES: usize = 32;
/// Bytes of one that are shown.
const SHOWN: usize = 64;
/// The cause of what nobody watched.
const UNWATCHED: &str = "unwatched";

/// Counts of a list, and where the first of each kind is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Batches of context events.
    pub batches: u64,
    /// Starts of the agent, of whatever reason.
    pub starts: u64,
    /// Of these, those that followed an end in order.
    pub restarts: Counted,
    /// Of these, those that followed none.
    pub crashes: Counted,
    /// Of these, those that found the chain broken.
    pub chain_breaks: Counted,
    /// Ends in order.
    pub stops: u64,
    /// Whether the last that the agent said is that it ends.
    pub stopped: bool,
    /// Events that were lost on their way from the kernel.
    pub lost: Counted,
    /// The same by cause, printable.
    pub losses: BTreeMap<String, u64>,
    /// Times that were not watched.
    pub unwatched: Counted,
}

/// How many, and the entry of the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// Entries before the first.
    pub first: Option<u64>,
}

impl Counted {
    fn add(&mut self, count: u64, index: u64) {
        self.count = self.count.saturating_add(count);
        self.first.get_or_insert(index);
    }
}

impl Tally {
    pub(super) fn start(&mut self, reason: Reason, index: u64) {
        match reason {
            _ if self.starts == 0 => {}
            Reason::ChainBroken => self.chain_breaks.add(1, index),
            Reason::Boot | Reason::Restart if self.stopped => self.restarts.add(1, index),
            Reason::Boot | Reason::Restart => self.crashes.add(1, index),
        }
        self.starts += 1;
        self.stopped = false;
    }

    pub(super) fn stop(&mut self) {
        self.stops += 1;
        self.stopped = true;
    }

    /// A `cima-violation:loss`, by its payload: `v1;loss;cause=<cause>;…`.
    pub(super) fn loss(&mut self, payload: &[u8], index: u64) {
        let fields = payload.split(|byte| *byte == b';');
        let value = |key: &[u8]| {
            let mut values = fields.clone().filter_map(|field| field.strip_prefix(key));
            values.next()
        };
        let cause = value(b"cause=").unwrap_or(b"?");
        if cause == UNWATCHED.as_bytes() {
            return self.unwatched.add(1, index);
        }
        let count = value(b"count=").and_then(|count| str::from_utf8(count).ok()?.parse().ok());
        let count = count.unwrap_or(1);
        self.lost.add(count, index);
        let mut cause = EscapedName(&cause[..cause.len().min(SHOWN)]).to_string();
        if self.losses.len() >= CAUSES && !self.losses.contains_key(&cause) {
            "other".clone_into(&mut cause);
        }
        let of_cause = self.losses.entry(cause).or_default();
        *of_cause = of_cause.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_and_losses_are_counted_by_what_went_before() {
        let mut tally = Tally::default();
        tally.start(Reason::Boot, 0);
        tally.stop();
        tally.start(Reason::Restart, 4);
        tally.start(Reason::Restart, 6);
        tally.start(Reason::ChainBroken, 8);
        tally.loss(b"v1;loss;cause=map-ring-full;count=17;at=5", 9);
        tally.loss(b"v1;loss;cause=map-ring-full;count=3;at=6", 10);
        tally.loss(b"v1;loss;cause=unwatched;before=cima-ctx:4", 11);
        tally.loss(b"nonsense \x1b", 12);
        let first = |counted: Counted| (counted.count, counted.first);
        assert_eq!((tally.starts, tally.stops, tally.stopped), (4, 1, false));
        assert_eq!(first(tally.restarts), (1, Some(4)));
        assert_eq!(first(tally.crashes), (1, Some(6)));
        assert_eq!(first(tally.chain_breaks), (1, Some(8)));
        assert_eq!(first(tally.lost), (21, Some(9)));
        assert_eq!(first(tally.unwatched), (1, Some(11)));
        assert_eq!(tally.losses["map-ring-full"], 20);
        assert_eq!(tally.losses["?"], 1);
        for cause in 0..99 {
            tally.loss(format!("v1;loss;cause={cause};count=1").as_bytes(), 13);
        }
        assert_eq!(tally.losses.len(), CAUSES + 1);
    }
}
