// SPDX-License-Identifier: Apache-2.0
//! Which of cima's entries a list has had so far. One key for each, so that memory grows with each distinct entry, and not
//! with what it says: a million distinct events in a host's list were 190 MB at the peak, 300 MB with the ledger beside it.
//!
//! A key is a whole SHA-256: with less of it, work that nobody should rely on nobody doing would give a harmless entry
//! the key of one that is missing.

use std::collections::HashMap;

use ima_log::Entry;

use crate::measure::{HostForm, HostKey, PolicyEvent};

/// Stands for an entry in its form: a name without a slash is the same in both.
pub(super) type Key = (bool, HostKey);

fn key(form: HostForm, key: HostKey) -> Key {
    (form == HostForm::File, key)
}

/// Of an entry as a list has it; `None`: it is none of cima's in this form.
pub(super) fn of_listed(form: HostForm, entry: &Entry) -> Option<Key> {
    form.key_of_listed(entry).map(|of| key(form, of))
}

/// Those that the entry of a ledger may have in the host's list.
pub(super) fn of_own(form: HostForm, entry: &Entry) -> impl Iterator<Item = Key> {
    let keys = form.keys_of_own(entry);
    keys.map(move |of| key(form, of))
}

/// Those that a policy event may have, where the list has its payload.
pub(super) fn of_event(event: &PolicyEvent) -> impl Iterator<Item = Key> {
    let form = HostForm::Buffer;
    let keys = form.keys_of(event.name.as_bytes(), event.payload.as_bytes());
    keys.map(move |of| key(form, of))
}

/// When the ledger must have what the host's list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Before the host's list.
    Before,
    /// Once enough batches are behind it.
    Batches,
    /// It need not.
    Never,
}

/// An entry that the list has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// Entries before it.
    pub(super) index: u64,
    /// Where its record begins.
    pub(super) offset: u64,
    /// When the ledger must have it.
    pub(super) due: Due,
    /// Whether the ledger has it, too.
    pub(super) told: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known(HashMap<Key, Mark>);

impl Known {
    /// The list has it; the first place counts.
    pub(super) fn note(&mut self, key: Key, mark: Mark) {
        self.0.entry(key).or_insert(mark);
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Mark> {
        self.0.get(key)
    }

    /// The ledger has it; false: the list has not.
    pub(super) fn tell(&mut self, key: &Key) -> bool {
        let mark = self.0.get_mut(key);
        mark.map(|mark| mark.told = true).is_some()
    }

    /// What the ledger does not have.
    pub(super) fn untold(&self) -> impl Iterator<Item = &Mark> {
        self.0.values().filter(|mark| !mark.told)
    }
}
