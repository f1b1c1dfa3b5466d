// SPDX-License-Identifier: Apache-2.0
//! No anchor: the list is kept, and every reader says that nothing vouches for it.

use ima_log::{Digest, Entry};

use super::{Sink, SinkError};
use crate::measure::PolicyEvent;

/// Sink `none`.
#[derive(Debug, Default)]
pub struct NoSink;

impl Sink for NoSink {
    fn pcr(&self) -> Option<u32> {
        None
    }

    fn read(&mut self) -> Result<Vec<Digest>, SinkError> {
        Ok(Vec::new())
    }

    fn lists(&mut self, _: &Entry) -> Option<bool> {
        None
    }

    fn last_batch(&self) -> Option<u64> {
        None
    }

    fn heard(&mut self) -> Vec<PolicyEvent> {
        Vec::new()
    }

    fn extend(&mut self, _: &Entry, _: &[Digest]) -> Result<(), SinkError> {
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}
