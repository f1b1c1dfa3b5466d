// SPDX-License-Identifier: Apache-2.0
//! The intent file: what is accepted is accepted as exactly these bytes, and nothing less.
//! Its digest keeps a fuzzer out, so the input is also sealed as the agent would.
#![no_main]

use cima_agent::fuzzing::intent;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};

const MAGIC: &[u8] = b"cima-intent-1\n";

fuzz_target!(|input: &[u8]| {
    accepted_as_written(input);
    accepted_as_written(&sealed(input));
    // As segment, offset and records, with the right length.
    if let Some((place, records)) = input.split_at_checked(12) {
        let len = u32::try_from(records.len()).expect("no such input");
        let group = [MAGIC, place, &len.to_le_bytes(), records].concat();
        accepted_as_written(&sealed(&group));
    }
});

fn sealed(content: &[u8]) -> Vec<u8> {
    [content, Sha256::digest(content).as_slice()].concat()
}

fn accepted_as_written(content: &[u8]) {
    let Some((entries, written)) = intent(content) else {
        return;
    };
    assert_eq!(written, content);
    let mut records = Vec::new();
    entries
        .iter()
        .for_each(|entry| entry.append_binary(&mut records));
    let body = &content[MAGIC.len() + 16..content.len() - 32];
    assert_eq!(
        records, body,
        "the entries are the records, to the last byte"
    );
    assert!(intent(&content[..content.len() - 1]).is_none(), "torn");
    let mut altered = content.to_vec();
    let at = records.len() % content.len();
    altered[at] ^= 1;
    assert!(intent(&altered).is_none(), "altered at {at}");
}
