// SPDX-License-Identifier: Apache-2.0
//! Lists as Canonical Event Logs: read back they are the same list, and their digests give its PCRs.
//!
//! The readers are the tests' own, strict to the byte. `tests/vectors/README.md` says where the golden logs come from.
#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

#[expect(dead_code, reason = "the properties of lists use all of it")]
#[path = "../properties/entries.rs"]
mod entries;
mod reader;

use std::{collections::BTreeMap, fs, path::PathBuf};

use ima_log::{
    BinaryReader, ByteOrder, CelEncoder, CelEncoding, Digest, Entry, HashAlgorithm, Replay,
};
use proptest::{collection::vec, prelude::*, sample::subsequence};
use reader::{Record, json, tlv};

const BANKS: [HashAlgorithm; 2] = [HashAlgorithm::Sha256, HashAlgorithm::Sha1];

fn file(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    fs::read(path.join(name)).unwrap()
}

fn encoded(entries: &[Entry], encoding: CelEncoding, banks: &[HashAlgorithm]) -> Vec<u8> {
    let mut log = Vec::new();
    let mut encoder = CelEncoder::new(encoding, banks);
    for entry in entries {
        encoder.write(entry, &mut log).unwrap();
    }
    encoder.finish(&mut log).unwrap();
    log
}

/// By the records' digests alone, as a verifier of such logs does it.
fn replayed(records: &[Record]) -> BTreeMap<(u32, HashAlgorithm), Digest> {
    let mut pcrs = BTreeMap::new();
    for record in records {
        for digest in &record.digests {
            let bank = digest.algorithm();
            let start = Replay::new(&[bank]).value(record.pcr, bank).unwrap();
            let pcr = pcrs.entry((record.pcr, bank)).or_insert(start);
            *pcr = pcr.extended(digest);
        }
    }
    pcrs
}

#[test]
fn golden_lists_are_written_as_another_implementation_writes_them() {
    for name in ["common", "violations"] {
        let list = file(&format!("{name}.bin"));
        let entries: Vec<Entry> = BinaryReader::detect(list.as_slice())
            .map(|record| record.unwrap().1)
            .collect();
        let golden = file(&format!("{name}.cel"));
        assert!(
            encoded(&entries, CelEncoding::Tlv, &BANKS) == golden,
            "{name}"
        );
        let value = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).unwrap();
        let written = value(&encoded(&entries, CelEncoding::Json, &BANKS));
        assert_eq!(written, value(&file(&format!("{name}.cel.json"))), "{name}");
    }
}

#[test]
fn a_violation_has_the_value_that_is_extended_and_not_the_zeros_that_are_listed() {
    for records in [
        tlv(&file("violations.cel")),
        json(&file("violations.cel.json")),
    ] {
        let ones = |record: &Record| record.digests == BANKS.map(Digest::ones);
        let violations = records.iter().map(ones).collect::<Vec<_>>();
        assert_eq!(violations, [false, true, true, true, false]);
        let expected = String::from_utf8(file("violations.pcrs")).unwrap();
        for ((pcr, _), value) in replayed(&records) {
            let line = format!("{pcr} {value}\n");
            assert!(expected.contains(&line), "{line}");
        }
    }
}

/// The example of section 5.3: what the tests' reader takes is what the specification writes.
#[test]
fn the_specifications_example_is_read() {
    let example = br#"[{"content":{"event_type":"EV_COMPACT_HASH","event_data":
        "44656c6c20436f6e66696775726174696f6e20496e666f726d6174696f6e2032"},"content_type":"pcclient_std","pcr":6,"recnum":2,
        "digests":[{"hashAlg":"sha1","digest":"bac9a8935b720760bcdea2faae75152f5d1e4bea"},{"hashAlg":"sha256",
        "digest":"d18bf8d221a3a3b08774c8d077328c4b2ca205e4f1618ad4bac2b5786f453bc7"}]}]"#;
    let records = json(example);
    assert_eq!((records[0].number, records[0].pcr), (2, 6));
    assert_eq!(records[0].digests.len(), 2);
    assert_eq!(records[0].content, None, "it is no template of IMA");
}

#[test]
fn a_list_of_nothing_is_a_log_of_nothing() {
    assert_eq!(encoded(&[], CelEncoding::Tlv, &BANKS), b"");
    assert_eq!(encoded(&[], CelEncoding::Json, &BANKS), b"[]\n");
}

#[test]
fn a_name_of_a_template_may_be_anything() {
    let mut entry = Entry::ima_buf(10, HashAlgorithm::Sha256, "name", b"").unwrap();
    let name = "\"quoted\", a \\ and \u{1}";
    entry.template = ima_log::Template::from_name(name);
    for (encoding, read) in READERS {
        let records = read(&encoded(
            std::slice::from_ref(&entry),
            encoding,
            &[HashAlgorithm::Sha256],
        ));
        assert_eq!(records[0].content.as_ref().unwrap().0, name);
    }
}

type Reader = fn(&[u8]) -> Vec<Record>;
const READERS: [(CelEncoding, Reader); 2] = [(CelEncoding::Tlv, tlv), (CelEncoding::Json, json)];

fn list() -> impl Strategy<Value = Vec<Entry>> {
    entries::order()
        .prop_flat_map(|order: ByteOrder| vec(entries::entry(order, HashAlgorithm::Sha1), 0..12))
}

proptest! {
    #[test]
    fn read_back_it_is_the_same_list_and_gives_the_same_pcrs(
        entries in list(),
        banks in subsequence(HashAlgorithm::ALL.to_vec(), 1..=4).prop_shuffle(),
    ) {
        for (encoding, read) in READERS {
            let records = read(&encoded(&entries, encoding, &banks));
            prop_assert_eq!(records.len(), entries.len());
            let mut replay = Replay::new(&banks);
            let mut numbers = BTreeMap::<u32, u64>::new();
            for (record, entry) in records.iter().zip(&entries) {
                replay.extend(entry);
                let number = numbers.entry(entry.pcr).or_default();
                prop_assert_eq!((record.number, record.pcr), (*number, entry.pcr));
                *number += 1;
                let expected: Vec<Digest> = banks.iter().map(|bank| entry.extend_value(*bank)).collect();
                prop_assert_eq!(&record.digests, &expected);
                let (name, data) = record.content.as_ref().unwrap();
                prop_assert_eq!(name, entry.template.name());
                prop_assert_eq!(data, &entry.data);
            }
            for ((pcr, bank), value) in replayed(&records) {
                prop_assert_eq!(replay.value(pcr, bank), Some(value));
            }
        }
    }

    #[test]
    fn what_a_record_states_in_its_own_bank_is_not_made_right(
        mut entry in entries::entry(ByteOrder::Little, HashAlgorithm::Sha1),
    ) {
        let forged = HashAlgorithm::Sha1.digest(b"forged");
        entry.template_hash = forged;
        for (encoding, read) in READERS {
            let log = encoded(std::slice::from_ref(&entry), encoding, &BANKS);
            let computed = entry.template_digest(HashAlgorithm::Sha256);
            prop_assert_eq!(&read(&log)[0].digests, &vec![computed, forged]);
        }
    }
}
