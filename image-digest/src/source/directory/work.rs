// SPDX-License-Identifier: Apache-2.0
//! Work that makes more work, for several threads: the first error ends it.

use std::num::NonZero;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// What waits, how many are at work, and what went wrong.
struct State<T, E> {
    waiting: Vec<T>,
    busy: usize,
    idle: usize,
    failed: Option<E>,
}

/// A pile of work.
pub(super) struct Work<T, E> {
    state: Mutex<State<T, E>>,
    changed: Condvar,
}

impl<T: Send, E: Send> Work<T, E> {
    pub(super) fn new(first: Vec<T>) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: first,
                busy: 0,
                idle: 0,
                failed: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds to the pile; for who works on it.
    pub(super) fn add(&self, item: T) {
        let mut state = self.state();
        state.waiting.push(item);
        if state.idle > 0 {
            self.changed.notify_one();
        }
    }

    /// Has `threads` workers do everything, each with its own hands; gives the hands back.
    pub(super) fn done_by<H: Send>(
        self,
        threads: NonZero<usize>,
        hands: impl Fn() -> H + Sync,
        work: impl Fn(&Self, &mut H, T) -> Result<(), E> + Sync,
    ) -> Result<Vec<H>, E> {
        let one = || {
            let mut hands = hands();
            while let Some(item) = self.take() {
                let done = work(&self, &mut hands, item);
                self.finished(done);
            }
            hands
        };
        let hands = thread::scope(|scope| {
            let others: Vec<_> = (1..threads.get()).map(|_| scope.spawn(one)).collect();
            let mut hands = vec![one()];
            for other in others {
                match other.join() {
                    Ok(other) => hands.push(other),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            hands
        });
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        state.failed.map_or(Ok(hands), Err)
    }

    /// The next item; `None` when there will be none.
    fn take(&self) -> Option<T> {
        let mut state = self.state();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(item) = state.waiting.pop() {
                state.busy += 1;
                return Some(item);
            }
            if state.busy == 0 {
                return None;
            }
            state.idle += 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn finished(&self, done: Result<(), E>) {
        let mut state = self.state();
        state.busy -= 1;
        if let Err(error) = done {
            state.failed.get_or_insert(error);
        }
        if state.busy == 0 || state.failed.is_some() {
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
