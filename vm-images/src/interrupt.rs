// SPDX-License-Identifier: Apache-2.0
//! A wish to stop, from Ctrl-C or a termination signal. Whoever waits looks here,
//! so that every process and scratch directory goes away with its owner.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Asks everything that waits in this crate to stop. Safe in a signal handler.
pub fn request_interrupt() {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Fails when the user asked to stop.
///
/// # Errors
/// [`crate::Error::Interrupted`] after [`request_interrupt`].
pub fn check_interrupt() -> crate::Result<()> {
    if REQUESTED.load(Ordering::Relaxed) {
        return Err(crate::Error::Interrupted);
    }
    Ok(())
}
