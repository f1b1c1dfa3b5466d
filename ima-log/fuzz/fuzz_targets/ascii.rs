// SPDX-License-Identifier: Apache-2.0
//! What the ASCII reader accepts is written as lines that read as the same entries.
#![no_main]

use ima_log::{AsciiReader, BinaryFormat, BinaryReader, Entry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|list: &[u8]| {
    for line in AsciiReader::detect(list) {
        let Ok((_, entry)) = line else { return };
        let _ = entry.check();
        let mut shown = entry.to_ascii().expect("what was a line can be one");
        shown.push(b'\n');
        let mut lines = AsciiReader::with_order(shown.as_slice(), entry.byte_order);
        assert_eq!(
            lines
                .next()
                .expect("one line")
                .expect("it was a line before")
                .1,
            entry
        );
        reads_back_as_a_record(&entry);
    }
});

/// An entry of a line makes a record that reads as the same entry.
fn reads_back_as_a_record(entry: &Entry) {
    let format = BinaryFormat {
        order: entry.byte_order,
        hash: entry.template_hash.algorithm(),
    };
    let record = entry.to_binary();
    match BinaryReader::new(record.as_slice(), format)
        .next()
        .expect("one record")
    {
        Ok((_, read)) => assert_eq!(&read, entry),
        // A line may be longer than a record's limits allow.
        Err(error) => assert!(error.to_string().contains("allowed"), "{error}"),
    }
}
