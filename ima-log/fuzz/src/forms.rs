// SPDX-License-Identifier: Apache-2.0
//! An entry is the same in every form that it has.

use ima_log::{AsciiReader, BinaryFormat, BinaryReader, Entry};

/// The entry's record, which reads back as the same entry. A line may be longer than a
/// record's limits allow, and data that do not fit the original template derail any reader:
/// there may be no such record.
pub fn record_of(entry: &Entry) -> Option<Vec<u8>> {
    let format = BinaryFormat {
        order: entry.byte_order,
        hash: entry.template_hash.algorithm(),
    };
    let record = entry.to_binary();
    assert_eq!(record.len(), entry.binary_len());
    let mut reader = BinaryReader::new(record.as_slice(), format);
    match reader.next().expect("a record is not empty") {
        Ok((_, read)) if &read == entry => {
            assert_eq!(reader.good_end(), record.len() as u64);
            assert!(reader.next().is_none(), "nothing follows the record");
            Some(record)
        }
        Ok((_, read)) => {
            assert!(
                entry.template == ima_log::Template::Ima,
                "{read:?} of {entry:?}"
            );
            assert!(entry.raw_fields().is_ok_and(|mut f| f.any(|f| f.is_err())));
            None
        }
        Err(error) => {
            let original = entry.template == ima_log::Template::Ima;
            assert!(original || error.to_string().contains("allowed"), "{error}");
            None
        }
    }
}

/// The entry's line with its newline, which reads back as the same entry; `None` if it has none.
pub fn line_of(entry: &Entry) -> Option<Vec<u8>> {
    let mut line = entry.to_ascii().ok()?;
    line.push(b'\n');
    let mut lines = AsciiReader::with_order(line.as_slice(), entry.byte_order);
    let (position, read) = lines
        .next()
        .expect("one line")
        .expect("a line that this crate wrote");
    assert_eq!(&read, entry);
    assert_eq!(position.len, line.len() as u64);
    assert!(lines.next().is_none());
    Some(line)
}

/// As a machine of the other byte order logs it and back again, it is the same measurement.
pub fn same_in_both_orders(entry: &Entry) {
    let anew = entry.clone().with_hash(entry.template_hash.algorithm());
    let Ok(swapped) = entry.with_order(entry.byte_order.swapped()) else {
        assert!(entry.fields().is_err(), "its data can be taken apart");
        return;
    };
    assert_eq!(swapped.with_order(entry.byte_order).as_ref(), Ok(&anew));
    assert_eq!(swapped.fields(), entry.fields());
    assert_eq!(swapped.is_violation(), entry.is_violation());
}
