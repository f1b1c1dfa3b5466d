// SPDX-License-Identifier: Apache-2.0
//! The binary reader: what it accepts is written back byte for byte up to where it stops,
//! in every format, however the bytes arrive, in little memory; and a list's own PCRs hold it.
#![no_main]

use std::io::{self, Read};

use ima_log::{
    BinaryFormat, BinaryReader, ByteOrder, Entry, HashAlgorithm, Limits, Match, Replay, Verifier,
};
use ima_log_fuzz::{line_of, same_in_both_orders, within};
use libfuzzer_sys::fuzz_target;

/// What a reader holds beside its entry: the window, and names that errors show.
const OWN: usize = 68 << 10;

fuzz_target!(|list: &[u8]| {
    let mut reader = BinaryReader::detect(list);
    let found = within(OWN + 4 * list.len(), || written_back(&mut reader, list));
    if let Some(format) = reader.format() {
        let told = written_back(&mut BinaryReader::new(list, format), list);
        assert_eq!(
            told, found,
            "{format:?} was found, and told reads otherwise"
        );
    }
    assert_eq!(
        written_back(&mut BinaryReader::detect(Slow::new(list)), list),
        found
    );
    for order in [ByteOrder::Little, ByteOrder::Big] {
        for hash in HashAlgorithm::ALL {
            let format = BinaryFormat { order, hash };
            written_back(&mut BinaryReader::new(list, format), list);
        }
    }
    limits_hold(list);
    holds_its_own_pcrs(list);
    for (_, entry) in BinaryReader::detect(list).map_while(Result::ok) {
        line_of(&entry);
        same_in_both_orders(&entry);
    }
});

/// Reads to the end: how many records, and the error in words.
fn written_back(reader: &mut BinaryReader<impl Read>, list: &[u8]) -> (u64, Option<String>) {
    let (mut entry, mut record, mut end) = (Entry::default(), Vec::new(), 0);
    let mut error = None;
    while let Some(read) = reader.read_entry(&mut entry) {
        match read {
            Ok(position) => {
                assert_eq!(
                    (position.offset, position.index + 1),
                    (end, reader.good_records())
                );
                record.clear();
                entry.append_binary(&mut record);
                assert_eq!(position.len, record.len() as u64);
                assert!(list[end as usize..].starts_with(&record));
                end += position.len;
            }
            Err(read) => {
                assert_eq!((read.offset, read.index), (end, reader.good_records()));
                error = Some(read.to_string());
            }
        }
    }
    assert!(
        error.is_some() || end == list.len() as u64,
        "an end without a reason"
    );
    assert_eq!(reader.good_end(), end);
    (reader.good_records(), error)
}

/// No entry is longer than the reader was told to believe.
fn limits_hold(list: &[u8]) {
    let (data, template_name) = (100, 6);
    let limits = Limits {
        data,
        template_name,
    };
    for (_, entry) in BinaryReader::detect(list)
        .with_limits(limits)
        .map_while(Result::ok)
    {
        assert!(entry.data.len() <= data as usize);
        assert!(entry.template.name().len() <= usize::from(template_name));
    }
}

/// The PCRs that a list gives hold all of it, and none holds it after one more entry.
fn holds_its_own_pcrs(list: &[u8]) {
    let entries: Vec<Entry> = BinaryReader::detect(list)
        .map_while(Result::ok)
        .map(|(_, entry)| entry)
        .collect();
    let bank = HashAlgorithm::Sha256;
    let mut replay = Replay::new(&[bank]);
    entries.iter().for_each(|entry| replay.extend(entry));
    let mut pcrs: Vec<u32> = entries.iter().map(|entry| entry.pcr).collect();
    pcrs.sort_unstable();
    pcrs.dedup();
    let expected = pcrs
        .iter()
        .map(|pcr| (*pcr, replay.value(*pcr, bank).expect("its bank")));
    let mut verifier = Verifier::new(expected);
    entries.iter().for_each(|entry| verifier.push(entry));
    let Some(last) = entries.last() else { return };
    let verdict = verifier.verdict();
    assert_eq!(verdict.matched, Match::Whole);
    let good = entries.iter().all(|entry| entry.check().is_ok());
    assert_eq!(verdict.holds(), good);
    verifier.push(last);
    assert!(!verifier.finish().holds());
}

/// Gives a few bytes at a time, and is interrupted in between.
struct Slow<'a> {
    rest: &'a [u8],
    turn: usize,
}

impl<'a> Slow<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest, turn: 0 }
    }
}

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn.is_multiple_of(5) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = (self.turn % 97 + 1).min(buffer.len());
        self.rest.read(&mut buffer[..count])
    }
}
