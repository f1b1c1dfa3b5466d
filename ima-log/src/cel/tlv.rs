// SPDX-License-Identifier: Apache-2.0
//! CEL-TLV (section 5.1): each field is its type in one byte, the length of its value as u32 big endian, the value.
//!
//! The specification leaves the width of a number to its length. Here a record's number has eight bytes and a PCR one:
//! the only widths that every reader takes (google/go-eventlog takes no others).

use super::Record;

const RECNUM: u8 = 0;
const PCR: u8 = 1;
const DIGESTS: u8 = 3;
/// Content, as in the table of content types (section 4.2).
const IMA_TEMPLATE: u8 = 7;
/// In the content.
const TEMPLATE_NAME: u8 = 0;
const TEMPLATE_DATA: u8 = 1;

/// Type and length.
const HEADER: usize = 5;

pub(super) fn append(record: &Record<'_>, log: &mut Vec<u8>) {
    let name = record.entry.template.name().as_bytes();
    let data = &record.entry.data;
    field(RECNUM, &record.number.to_be_bytes(), log);
    field(PCR, pcr(&record.pcr.to_be_bytes()), log);
    let digests = record.digests.iter();
    let len = digests.map(|digest| HEADER + digest.bytes().len()).sum();
    header(DIGESTS, len, log);
    for digest in &record.digests {
        field(bank(digest.algorithm().tpm_id()), digest.bytes(), log);
    }
    header(IMA_TEMPLATE, 2 * HEADER + name.len() + data.len(), log);
    field(TEMPLATE_NAME, name, log);
    field(TEMPLATE_DATA, data, log);
}

fn field(kind: u8, value: &[u8], log: &mut Vec<u8>) {
    header(kind, value.len(), log);
    log.extend_from_slice(value);
}

fn header(kind: u8, len: usize, log: &mut Vec<u8>) {
    log.push(kind);
    // No entry has 4 GiB; a length that saturates makes a record unreadable instead of wrong.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    log.extend_from_slice(&len.to_be_bytes());
}

/// One byte for every PCR that a kernel extends, and more for a number that is none.
fn pcr(number: &[u8; 4]) -> &[u8] {
    match number {
        [0, 0, 0, _] => &number[3..],
        _ => number,
    }
}

/// A digest's type is its algorithm's identifier: all of this crate's fit one byte.
fn bank(tpm_id: u16) -> u8 {
    tpm_id.to_be_bytes()[1]
}
