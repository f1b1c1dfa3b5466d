// SPDX-License-Identifier: Apache-2.0
//! The ASCII reader: what it accepts is written as lines that read as the same entries, in
//! both forms and orders, in little memory.
#![no_main]

use ima_log::{AsciiReader, ByteOrder};
use ima_log_fuzz::{line_of, record_of, same_in_both_orders, within};
use libfuzzer_sys::fuzz_target;

/// An error shows the beginning of what it is about.
const OWN: usize = 4 << 10;

fuzz_target!(|list: &[u8]| {
    within(OWN + 16 * list.len(), || AsciiReader::detect(list).count());
    let mut end = 0;
    for line in AsciiReader::detect(list) {
        let Ok((position, entry)) = line else { break };
        let (at, after) = (position.offset, position.offset + position.len);
        let between = &list[end..at as usize];
        assert!(
            between.iter().all(|byte| *byte == b'\n'),
            "only empty lines are passed over"
        );
        end = after as usize;
        let own = &list[at as usize..end];
        let (_, alone) = AsciiReader::with_order(own, entry.byte_order)
            .next()
            .expect("a line")
            .expect("it was read among others");
        assert_eq!(alone, entry);
        line_of(&entry).expect("what was a line can be one");
        record_of(&entry);
        same_in_both_orders(&entry);
        let _ = entry.check();
    }
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let mut reader = AsciiReader::with_order(list, order);
        let read = reader.by_ref().map_while(Result::ok);
        assert!(read.into_iter().all(|(_, entry)| entry.byte_order == order));
        assert!(reader.good_end() <= list.len() as u64);
    }
});
