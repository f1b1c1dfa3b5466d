// SPDX-License-Identifier: Apache-2.0
//! A question, and an entry that is asked: the first line is filters, the rest an entry's name, a NUL and its payload, or the
//! payload of a batch. What is shown is printable, and what a filter leaves is part of what is there.
#![no_main]

use cima_agent::{
    fuzzing,
    measure::batch_name,
    query::{Event, Filter, Kind, Live},
};
use ima_log::{Entry, HashAlgorithm};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (question, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    let rest = rest.get(1..).unwrap_or_default();
    let question = String::from_utf8_lossy(question);
    let filter = match fuzzing::question(&question) {
        Ok(filter) => filter,
        Err(said) => {
            assert!(!said.is_empty());
            Filter::default()
        }
    };
    let Some(entry) = entry(rest) else {
        return;
    };
    let all = Filter {
        kinds: Kind::ALL.to_vec(),
        ..Filter::default()
    };
    let all = asked(&entry, &all);
    let some = asked(&entry, &filter);
    assert!(some.iter().all(|id| all.contains(id)));
});

fn entry(bytes: &[u8]) -> Option<Entry> {
    let sha256 = HashAlgorithm::Sha256;
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) if bytes.starts_with(b"cima-") => {
            let name = std::str::from_utf8(&bytes[..end]).ok()?;
            Entry::ima_buf(13, sha256, name, &bytes[end + 1..]).ok()
        }
        _ => Entry::ima_buf(13, sha256, batch_name(0), bytes).ok(),
    }
}

/// What the events are called that are shown.
fn asked(entry: &Entry, filter: &Filter) -> Vec<String> {
    let mut shown = Vec::new();
    Live::new("node").take(0, entry, filter, &mut |event: Event| {
        let json = serde_json::to_string(&event).expect("an event has a JSON form");
        assert!(
            json.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{json}"
        );
        shown.push(event.id);
    });
    shown
}
