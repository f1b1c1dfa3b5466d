// SPDX-License-Identifier: Apache-2.0
//! A scenario's claims: each is a name and a body that panics when it does not
//! hold. They are told as they come, and counted.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

/// Message and place of the last panic, which the hook sees and `catch_unwind` does not.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// The claims of one scenario so far.
pub(crate) struct Claims {
    passed: u32,
    failed: u32,
}

impl Claims {
    pub(crate) fn new() -> Self {
        set_hook(Box::new(remember));
        Self {
            passed: 0,
            failed: 0,
        }
    }

    /// Plays a scenario. A panic between its claims is a failure too.
    pub(crate) fn play(&mut self, scenario: impl FnOnce(&mut Self)) {
        if catch_unwind(AssertUnwindSafe(|| scenario(self))).is_err() {
            println!("FAIL the scenario plays to its end: {}", last_panic());
            self.failed += 1;
        }
    }

    /// Checks one claim and tells of it. Returns what its body found, for claims
    /// that build on it; `None` when it does not hold.
    pub(crate) fn claim<T>(&mut self, name: &str, body: impl FnOnce() -> T) -> Option<T> {
        let started = Instant::now();
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(found) => {
                println!("ok   {name} ({:.1} s)", started.elapsed().as_secs_f64());
                self.passed += 1;
                Some(found)
            }
            Err(_) => {
                println!("FAIL {name}: {}", last_panic());
                self.failed += 1;
                None
            }
        }
    }

    /// Passed and failed so far: what a scenario takes along when it resets the machine.
    pub(crate) fn counts(&self) -> (u32, u32) {
        (self.passed, self.failed)
    }

    /// Goes on from the counts of before a reset.
    pub(crate) fn go_on_from(&mut self, (passed, failed): (u32, u32)) {
        self.passed += passed;
        self.failed += failed;
    }

    /// Tells the count, and gives the exit code that it means.
    pub(crate) fn conclude(self) -> ExitCode {
        let Self { passed, failed } = self;
        println!("{passed} passed, {failed} failed");
        if failed == 0 && passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

fn remember(panic: &PanicHookInfo<'_>) {
    let message = panic
        .payload_as_str()
        .unwrap_or("a panic without a message");
    let place = panic
        .location()
        .map(|at| format!(" ({}:{})", at.file(), at.line()));
    if let Ok(mut last) = LAST_PANIC.lock() {
        *last = format!("{message}{}", place.unwrap_or_default());
    }
}

fn last_panic() -> String {
    LAST_PANIC
        .lock()
        .map(|last| last.clone())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Claims, last_panic};

    #[test]
    fn a_panic_is_a_claim_that_failed_with_its_message_and_place() {
        let mut claims = Claims::new();
        assert_eq!(claims.claim("holds", || 7), Some(7));
        assert_eq!(
            claims.claim("does not hold", || assert_eq!(1, 2, "one is not two")),
            None
        );
        assert!(last_panic().contains("one is not two"), "{}", last_panic());
        assert!(last_panic().contains("claims.rs:"), "{}", last_panic());
        assert_eq!((claims.passed, claims.failed), (1, 1));
        claims.play(|claims| {
            claims.claim("holds too", || ());
            panic!("between claims");
        });
        assert!(last_panic().contains("between claims"), "{}", last_panic());
        assert_eq!((claims.passed, claims.failed), (2, 2));
    }
}
