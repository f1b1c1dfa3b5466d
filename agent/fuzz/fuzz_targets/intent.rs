// SPDX-License-Identifier: Apache-2.0
//! The intent file: what is accepted is accepted as exactly these bytes, and nothing less.
//! Its digest keeps a fuzzer out, so the input is also sealed as the agent would.
#![no_main]

use cima_agent::fuzzing::intent;
use ima_log::{BinaryFormat, BinaryReader, ByteOrder, HashAlgorithm};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};

const MAGIC: &[u8] = b"cima-intent-2\n";
const FORMAT: BinaryFormat = BinaryFormat {
    order: ByteOrder::Little,
    hash: HashAlgorithm::Sha1,
};

fuzz_target!(|input: &[u8]| {
    accepted_as_written(input);
    // As segment, offset and records, with the right hashes and the right length.
    if let Some((place, records)) = input.split_at_checked(12) {
        accepted_as_written(&sealed(place, records));
    }
});

fn sealed(place: &[u8], records: &[u8]) -> Vec<u8> {
    let entries = BinaryReader::new(records, FORMAT).map_while(|record| Some(record.ok()?.1));
    let (mut body, mut outside) = (Vec::new(), Vec::new());
    for entry in entries {
        let entry = entry.with_hash(HashAlgorithm::Sha1);
        let record = entry.to_binary();
        outside.extend_from_slice(&record[..record.len() - entry.data.len()]);
        body.extend_from_slice(&record);
    }
    let len = u32::try_from(body.len()).expect("no such input");
    let head = [MAGIC, place, &len.to_le_bytes()].concat();
    let digest = Sha256::new().chain_update(&head).chain_update(&outside);
    [&head, &body, digest.finalize().as_slice()].concat()
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
