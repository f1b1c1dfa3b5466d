// SPDX-License-Identifier: Apache-2.0
//! Parts of recent records, by their bytes: a few places, each for the last value whose
//! key fell there. A miss costs what making the value costs, never a wrong one.

use std::hash::Hash;

use crate::shared::Shared;

/// Places, as a power of two.
const BITS: u32 = 6;

#[derive(Debug)]
pub(super) struct Memo<T> {
    slots: Vec<Option<(Vec<u8>, Shared<T>)>>,
}

impl<T> Default for Memo<T> {
    fn default() -> Self {
        Self { slots: Vec::new() }
    }
}

impl<T: Hash> Memo<T> {
    /// The value that was made of these bytes, if it is remembered.
    #[inline]
    pub(super) fn find(&self, key: u64, raw: &[&[u8]]) -> Option<Shared<T>> {
        let (kept, value) = self.slot(key)?;
        let mut rest = kept;
        for part in raw {
            rest = rest.strip_prefix(*part)?;
        }
        rest.is_empty().then(|| value.clone())
    }

    /// What is remembered where `key` falls.
    #[inline]
    pub(super) fn slot(&self, key: u64) -> Option<(&[u8], &Shared<T>)> {
        let (raw, value) = self.slots.get(place(key))?.as_ref()?;
        Some((raw, value))
    }

    /// Remembers a value and what it was made of.
    pub(super) fn keep(&mut self, key: u64, raw: &[&[u8]], value: T) -> Shared<T> {
        let value = Shared::new(value);
        if self.slots.is_empty() {
            self.slots.resize_with(1 << BITS, || None);
        }
        self.slots[place(key)] = Some((raw.concat(), value.clone()));
        value
    }
}

/// The upper bits of the product depend on all of the key.
fn place(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS)) as usize
}
