// SPDX-License-Identifier: Apache-2.0
//! Work that is waited for so long and no longer.
//!
//! The interpreter looks at the clock between its steps, but not while one step lasts (a function that
//! sorts or formats something huge) nor while it parses, which hostile text makes take years. A thread cannot be
//! stopped; one that is late is left alone and its result dropped. Only so many may be left.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

/// Threads of one policy that are left alone at a time.
const MAX_LEFT: usize = 4;

/// What the interpreter's recursion over nested expressions needs, in a debug build, too.
const STACK: usize = 16 << 20;

const RUNNING: u8 = 0;
const LEFT: u8 = 1;
const DONE: u8 = 2;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// Not in time.
    #[error("it took longer than {0:?}")]
    Late(Duration),
    /// Too many were late and still are.
    #[error("{MAX_LEFT} evaluations that took too long have not ended yet")]
    Crowded,
    /// A defect of the interpreter.
    #[error("the interpreter failed")]
    Panicked,
    /// No thread.
    #[error("no thread could be started for it: {0}")]
    Thread(#[source] io::Error),
}

/// How many threads were left alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Left(Arc<AtomicUsize>);

/// Says that the thread is at its end, however it came there.
struct End {
    state: Arc<AtomicU8>,
    left: Left,
}

impl Drop for End {
    fn drop(&mut self) {
        if self.state.swap(DONE, Ordering::AcqRel) == LEFT {
            self.left.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The result of `work`, unless it takes longer than `limit`.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    left: &Left,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unfinished> {
    if left.0.load(Ordering::Acquire) >= MAX_LEFT {
        return Err(Unfinished::Crowded);
    }
    let state = Arc::new(AtomicU8::new(RUNNING));
    let end = End {
        state: Arc::clone(&state),
        left: left.clone(),
    };
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("cima-admission".into())
        .stack_size(STACK)
        .spawn(move || {
            let _end = end;
            // Nobody waits any more: then the result is of no use.
            _ = sender.send(work());
        })
        .map_err(Unfinished::Thread)?;
    match receiver.recv_timeout(limit) {
        Ok(result) => Ok(result),
        Err(RecvTimeoutError::Disconnected) => Err(Unfinished::Panicked),
        Err(RecvTimeoutError::Timeout) => {
            // Counted first, so that the thread never takes back what was not yet added.
            left.0.fetch_add(1, Ordering::AcqRel);
            if state.swap(LEFT, Ordering::AcqRel) == DONE {
                left.0.fetch_sub(1, Ordering::AcqRel);
            }
            Err(Unfinished::Late(limit))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_left_alone_and_only_so_many_are() {
        let left = Left::default();
        assert_eq!(within(Duration::from_secs(60), &left, || 7).unwrap(), 7);
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        let late = || {
            let wait = Arc::clone(&wait);
            within(Duration::from_millis(1), &left, move || {
                _ = wait.lock().unwrap().recv();
            })
        };
        for _ in 0..MAX_LEFT {
            assert!(matches!(late(), Err(Unfinished::Late(_))));
        }
        assert!(matches!(late(), Err(Unfinished::Crowded)));
        drop(release);
        while left.0.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        assert_eq!(within(Duration::from_secs(60), &left, || 8).unwrap(), 8);
    }

    #[test]
    fn a_panic_is_no_result() {
        let panicked = within(Duration::from_secs(60), &Left::default(), || {
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(matches!(panicked, Err(Unfinished::Panicked)));
    }
}
