// SPDX-License-Identifier: Apache-2.0
//! What the agent's fuzz targets share: a batch read in two ways, and a line of
//! `cima log --json` as another program would read it.

use cima_agent::{
    fuzzing,
    measure::{
        decode_batch,
        proto::{self, context_event::What},
    },
    verify::{BatchView, Place},
};
use ima_log::Entry;
use ima_log_fuzz::within;
use serde_json::Value;

/// Place of an entry whose place does not matter.
pub const SOMEWHERE: Place = Place {
    index: 0,
    offset: 0,
    segment: None,
};

/// The batch event by event is the batch as a whole; `None` if no agent wrote it.
#[must_use]
pub fn batch_in_two_ways(payload: &[u8]) -> Option<proto::Batch> {
    let (view, whole) = (BatchView::of(payload)?, decode_batch(payload)?);
    assert_eq!(view.seq(), whole.seq);
    let mut events = view.events();
    for event in &whole.events {
        let view = events.next().expect("as many events");
        let command = match event.what {
            Some(What::Execution(command)) => referred(&whole.commands, command),
            _ => None,
        };
        let subject = command.map_or(event.subject, |command| command.subject);
        let subject = referred(&whole.subjects, subject);
        let lineage = subject.and_then(|subject| referred(&whole.lineages, subject.lineage));
        assert_eq!(
            view.time_ns,
            whole.time_ns.wrapping_add_signed(event.offset_ns)
        );
        let identity = subject.and_then(|subject| referred(&whole.identities, subject.identity));
        let file = command.map_or(event.file, |command| command.file);
        assert_eq!(view.identity.as_ref(), identity);
        assert_eq!(view.subject.as_ref(), subject);
        assert_eq!(view.lineage.as_ref(), lineage);
        assert_eq!(view.file.as_ref(), referred(&whole.files, file));
        assert_eq!(view.command.as_ref(), command);
        assert_eq!(view.event.as_ref(), Some(event));
    }
    assert!(events.next().is_none(), "no more events");
    Some(whole)
}

/// The message of this number, which counts from one.
fn referred<M>(messages: &[M], number: u32) -> Option<&M> {
    messages.get(usize::try_from(number).ok()?.checked_sub(1)?)
}

/// The entry's JSON: one line of printable ASCII, whatever is in the entry, made in memory
/// in proportion to the entry.
#[must_use]
pub fn json_of(entry: &Entry) -> Value {
    let mut line = Vec::new();
    let limit = (64 << 10) + 600 * entry.data.len();
    within(limit, || {
        fuzzing::json(SOMEWHERE, entry, &mut line).expect("a vector takes all of it");
    });
    assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~')));
    serde_json::from_slice(&line).expect("it is JSON")
}
