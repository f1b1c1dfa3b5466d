// SPDX-License-Identifier: Apache-2.0
//! What the binary reader accepts is written back byte for byte, up to where it stops.
#![no_main]

use ima_log::{AsciiReader, BinaryReader, Entry, HashAlgorithm, Verifier};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|list: &[u8]| {
    let mut reader = BinaryReader::detect(list);
    let mut entry = Entry::default();
    let mut written = Vec::new();
    let mut verifier = Verifier::new([(10, HashAlgorithm::Sha256.digest(b"quoted"))]);
    while let Some(Ok(position)) = reader.read_entry(&mut entry) {
        assert_eq!(position.offset, written.len() as u64);
        entry.append_binary(&mut written);
        assert_eq!(position.offset + position.len, written.len() as u64);
        verifier.push(&entry);
        reads_back_as_a_line(&entry);
    }
    let good_end = usize::try_from(reader.good_end()).expect("no longer than the list");
    assert_eq!(written, list[..good_end]);
});

/// Whatever is shown as a line reads back as the same entry.
fn reads_back_as_a_line(entry: &Entry) {
    let Ok(mut line) = entry.to_ascii() else {
        return;
    };
    line.push(b'\n');
    let mut lines = AsciiReader::with_order(line.as_slice(), entry.byte_order);
    let (_, read) = lines
        .next()
        .expect("one line")
        .expect("a line this crate wrote");
    assert_eq!(&read, entry);
    assert!(lines.next().is_none());
}
