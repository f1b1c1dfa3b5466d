// SPDX-License-Identifier: Apache-2.0
//! The payload of a context entry: event by event and as a whole it says the same, what is
//! written again reads again, and a hostile one costs no more memory than a small multiple of itself.
#![no_main]

use cima_agent::{
    measure::{PAYLOAD_PREFIX, batch_name},
    verify::{BatchView, Start},
};
use cima_agent_fuzz::{batch_in_two_ways, json_of};
use ima_log::{Entry, HashAlgorithm};
use ima_log_fuzz::within;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// An identity of two bytes is a slice of 16, in a vector that doubles: 16 · 3 / 2 for each byte.
const VIEW: usize = 24;
/// Events are held one at a time; a message of two bytes in one becomes 48: 48 · 3 / 2, and its strings.
const EVENT: usize = 80;
const OWN: usize = 4 << 10;

fuzz_target!(|payload: &[u8]| {
    one(payload);
    if !payload.starts_with(PAYLOAD_PREFIX) {
        one(&[PAYLOAD_PREFIX, payload].concat());
    }
});

fn one(payload: &[u8]) {
    let len = payload.len();
    let view = within(OWN + VIEW * len, || BatchView::of(payload));
    let whole = batch_in_two_ways(payload);
    let name = batch_name(whole.as_ref().map_or(0, |batch| batch.seq));
    let entry = Entry::ima_buf(13, HashAlgorithm::Sha256, name, payload).expect("a good name");
    let json = json_of(&entry);
    assert_eq!(json["batch"].is_object(), view.is_some());
    let Some(view) = view else {
        assert!(Start::of(&entry).is_none());
        return;
    };
    let count = within(OWN + EVENT * len, || view.events().count());
    assert_eq!(
        json["batch"]["events"].as_array().map(Vec::len),
        Some(count)
    );
    let start = Start::of(&entry);
    if let Some(start) = &start {
        assert!(
            start
                .boot_id
                .bytes()
                .all(|byte| matches!(byte, b' '..=b'~'))
        );
    }
    if let Some(batch) = whole {
        let again = [PAYLOAD_PREFIX, &batch.encode_to_vec()].concat();
        assert_eq!(batch_in_two_ways(&again), Some(batch));
    }
}
