// SPDX-License-Identifier: Apache-2.0
//! Values that many events have in common: made once, hashed once, compared by address first.

use std::{
    fmt,
    hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher, RandomState},
    ops::Deref,
    sync::{Arc, LazyLock},
};

/// Keyed, since containers choose what the values are.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A value and its hash. Cloned without copying it.
pub struct Shared<T>(Arc<(u64, T)>);

impl<T: Hash> Shared<T> {
    /// Takes the value.
    pub fn new(value: T) -> Self {
        Self(Arc::new((KEY.hash_one(&value), value)))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.0);
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.1.fmt(f)
    }
}

/// For maps whose keys are [`Shared`], or several: their own hashes are good enough.
pub type Hashed = BuildHasherDefault<TakenAsIs>;

/// See [`Hashed`].
#[derive(Debug, Default)]
pub struct TakenAsIs(u64);

impl Hasher for TakenAsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // No `Shared` comes here; whatever does is hashed in its own right.
        self.0 = KEY.hash_one((self.0, bytes));
    }

    fn write_u64(&mut self, hash: u64) {
        // Different for (a, b) and (b, a), and nothing that somebody without the key can aim.
        self.0 = self.0.rotate_left(23) ^ hash;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_same_value_is_the_same_key_wherever_it_was_made() {
        let mut map: HashMap<Shared<Vec<u8>>, u32, Hashed> = HashMap::default();
        let first = Shared::new(b"value".to_vec());
        map.insert(first.clone(), 1);
        assert_eq!(map.get(&first), Some(&1));
        assert_eq!(map.get(&Shared::new(b"value".to_vec())), Some(&1));
        assert_eq!(map.get(&Shared::new(b"other".to_vec())), None);
    }
}
