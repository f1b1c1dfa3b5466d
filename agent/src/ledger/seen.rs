// SPDX-License-Identifier: Apache-2.0
//! Which policy events the list has, in bounded memory. A container can map as many
//! distinct files as it likes, so the set must end somewhere: two generations, and when
//! the young one is full it becomes the old one, whose own keys are forgotten. A value
//! that is asked for stays, so that only what nobody said for long is listed again.
//!
//! A key is the whole SHA-256 of name and payload. With 16 bytes of it, 2^64 work would
//! give two files of one key, a harmless one to be listed and another that never is:
//! nothing here may be weaker than the digests that the list itself consists of.

use std::collections::HashSet;

use sha2::{Digest as _, Sha256};

/// Keys in a generation. As many as a hash table of 2^19 places holds: 17 MiB each.
pub(super) const GENERATION: usize = 1 << 18;

/// Stands for a name and a payload.
pub(super) type Key = [u8; 32];

/// The key of an entry.
pub(super) fn key(name: &[u8], payload: &[u8]) -> Key {
    let mut hash = Sha256::new();
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    hash.update(payload);
    hash.finalize().into()
}

/// The values that need not be listed.
#[derive(Debug)]
pub(super) struct Seen {
    young: HashSet<Key>,
    old: HashSet<Key>,
    generation: usize,
}

impl Seen {
    /// Remembers at least `generation` distinct values.
    pub(super) fn new(generation: usize) -> Self {
        Self {
            young: HashSet::new(),
            old: HashSet::new(),
            generation,
        }
    }

    /// Whether the value is in the list, as far as is remembered.
    pub(super) fn contains(&mut self, key: &Key) -> bool {
        if self.young.contains(key) {
            return true;
        }
        let known = self.old.contains(key);
        if known {
            self.insert(*key);
        }
        known
    }

    /// The value is in the list.
    pub(super) fn insert(&mut self, key: Key) {
        if self.young.len() >= self.generation && !self.young.contains(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(n: usize) -> Key {
        key(b"name", &n.to_le_bytes())
    }

    #[test]
    fn name_and_payload_are_not_run_together() {
        assert_ne!(key(b"ab", b"c"), key(b"a", b"bc"));
    }

    #[test]
    fn a_value_is_known_while_a_generation_of_others_comes_in() {
        let mut seen = Seen::new(8);
        seen.insert(of(0));
        for other in 1..=8 {
            assert!(!seen.contains(&of(other)));
            seen.insert(of(other));
            assert!(seen.old.contains(&of(0)) || seen.young.contains(&of(0)));
        }
        assert!(seen.contains(&of(0)));
    }

    #[test]
    fn a_value_nobody_says_is_forgotten_and_one_that_recurs_is_not() {
        let mut seen = Seen::new(8);
        seen.insert(of(0));
        seen.insert(of(1));
        for other in 2..100 {
            seen.insert(of(other));
            assert!(seen.contains(&of(0)), "asked for all the time: {other}");
        }
        assert!(!seen.contains(&of(1)));
    }

    #[test]
    fn a_flood_of_values_takes_no_more_than_two_generations() {
        let mut seen = Seen::new(8);
        for n in 0..1000 {
            seen.insert(of(n));
            seen.contains(&of(n / 2));
            assert!(seen.young.len() <= 8 && seen.old.len() <= 8);
        }
    }
}
