// SPDX-License-Identifier: Apache-2.0
//! Golden lists: read, check, replay and write again, byte for byte.
//!
//! `tests/vectors/README.md` says where they come from. No vector was made by this crate.
#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

use std::fs;
use std::path::PathBuf;

use ima_log::{AsciiReader, BinaryFormat, BinaryReader, ByteOrder, Digest, Entry};
use ima_log::{HashAlgorithm, Replay, Verifier};

struct Vector {
    name: &'static str,
    format: BinaryFormat,
    entries: usize,
}

const fn vector(
    name: &'static str,
    order: ByteOrder,
    hash: HashAlgorithm,
    entries: usize,
) -> Vector {
    Vector {
        name,
        format: BinaryFormat { order, hash },
        entries,
    }
}

const VECTORS: [Vector; 8] = [
    vector("talk", ByteOrder::Little, HashAlgorithm::Sha1, 4),
    vector("common", ByteOrder::Little, HashAlgorithm::Sha1, 5),
    vector("violations", ByteOrder::Little, HashAlgorithm::Sha1, 5),
    vector("original", ByteOrder::Little, HashAlgorithm::Sha1, 3),
    vector("newer-templates", ByteOrder::Little, HashAlgorithm::Sha1, 7),
    vector("big-endian", ByteOrder::Big, HashAlgorithm::Sha1, 15),
    vector(
        "per-algorithm-sha256",
        ByteOrder::Little,
        HashAlgorithm::Sha256,
        10,
    ),
    vector(
        "per-algorithm-sha512",
        ByteOrder::Big,
        HashAlgorithm::Sha512,
        10,
    ),
];

fn file(name: &str, extension: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let path = path.join(format!("{name}.{extension}"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn binary_entries(vector: &Vector) -> Vec<Entry> {
    BinaryReader::new(file(vector.name, "bin").as_slice(), vector.format)
        .map(|record| record.unwrap().1)
        .collect()
}

/// Lines `<pcr> <algorithm>:<hex>`.
fn pcrs(name: &str) -> Vec<(u32, Digest)> {
    let text = String::from_utf8(file(name, "pcrs")).unwrap();
    text.lines()
        .map(|line| {
            let (pcr, digest) = line.split_once(' ').unwrap();
            (pcr.parse().unwrap(), digest.parse().unwrap())
        })
        .collect()
}

#[test]
fn every_entry_of_every_vector_passes_its_check() {
    for vector in &VECTORS {
        let entries = binary_entries(vector);
        assert_eq!(entries.len(), vector.entries, "{}", vector.name);
        for (index, entry) in entries.iter().enumerate() {
            assert_eq!(entry.check(), Ok(()), "{} entry {index}", vector.name);
        }
    }
}

#[test]
fn byte_order_and_hash_length_are_found_by_themselves() {
    for vector in &VECTORS {
        let list = file(vector.name, "bin");
        let mut reader = BinaryReader::detect(list.as_slice());
        let entries: Vec<Entry> = reader.by_ref().map(|record| record.unwrap().1).collect();
        assert_eq!(reader.format(), Some(vector.format), "{}", vector.name);
        assert_eq!(entries, binary_entries(vector), "{}", vector.name);
    }
}

#[test]
fn binary_lists_are_written_back_byte_for_byte() {
    for vector in &VECTORS {
        let mut written = Vec::new();
        for entry in binary_entries(vector) {
            entry.write_binary(&mut written).unwrap();
        }
        assert!(written == file(vector.name, "bin"), "{}", vector.name);
    }
}

#[test]
fn ascii_lists_are_written_as_the_kernel_does() {
    for vector in &VECTORS {
        let mut written = Vec::new();
        for entry in binary_entries(vector) {
            entry.write_ascii(&mut written).unwrap();
        }
        let expected = file(vector.name, "ascii");
        assert_eq!(
            String::from_utf8_lossy(&written),
            String::from_utf8_lossy(&expected),
            "{}",
            vector.name
        );
    }
}

#[test]
fn ascii_lists_read_as_the_same_entries() {
    for vector in &VECTORS {
        let list = file(vector.name, "ascii");
        let order = vector.format.order;
        let given: Vec<Entry> = AsciiReader::with_order(list.as_slice(), order)
            .map(|line| line.unwrap().1)
            .collect();
        assert_eq!(given, binary_entries(vector), "{}", vector.name);
        let detected: Vec<Entry> = AsciiReader::detect(list.as_slice())
            .map(|line| line.unwrap().1)
            .collect();
        assert_eq!(detected, given, "{}", vector.name);
    }
}

#[test]
fn positions_tile_the_list() {
    for vector in &VECTORS {
        let list = file(vector.name, "bin");
        let mut end = 0;
        for (number, record) in BinaryReader::detect(list.as_slice()).enumerate() {
            let (position, entry) = record.unwrap();
            assert_eq!(
                (position.offset, position.index),
                (end, number as u64),
                "{}",
                vector.name
            );
            end += position.len;
            let bytes = &list[usize::try_from(position.offset).unwrap()..];
            assert!(bytes.starts_with(&entry.to_binary()), "{}", vector.name);
        }
        assert_eq!(end, list.len() as u64, "{}", vector.name);
    }
}

#[test]
fn the_replay_gives_every_pcr_in_every_bank() {
    for vector in &VECTORS {
        let mut replay = Replay::new(&HashAlgorithm::ALL);
        binary_entries(vector)
            .iter()
            .for_each(|entry| replay.extend(entry));
        for (pcr, expected) in pcrs(vector.name) {
            let replayed = replay.value(pcr, expected.algorithm());
            assert_eq!(replayed, Some(expected), "{} PCR {pcr}", vector.name);
        }
    }
}

#[test]
fn the_verifier_holds_for_every_vector() {
    for vector in &VECTORS {
        let mut verifier = Verifier::new(pcrs(vector.name));
        binary_entries(vector)
            .iter()
            .for_each(|entry| verifier.push(entry));
        let verdict = verifier.finish();
        assert!(verdict.holds(), "{}: {verdict:?}", vector.name);
    }
}

#[test]
fn the_constructors_make_the_entries_of_the_talk() {
    let digest = |text: &str| text.parse::<Digest>().unwrap();
    let made = [
        Entry::ima_ng(
            10,
            digest("sha256:d3f7d10e296e5c626ea78539cb38cd8dffd043bea3627da35ce3b20c0ac68014"),
            "/hello",
        ),
        Entry::ima_ng(
            11,
            digest("sha256:aa15dcbe503ee00f9f72924e8bea3b0c9bd42ca5205c40e70dde9d7c963e56e0"),
            "4026532559:/hello",
        ),
        Entry::ima_ng(
            11,
            digest("sha256:6f3671bd20ed4b121ee0f8175a3b312300a33a79444239371863bfb5c6ea8e97"),
            "4026532559",
        ),
        Entry::ima_buf(
            10,
            HashAlgorithm::Sha256,
            "container",
            &hex::decode(
                "02bcda52c1a5dfc236f94d9e5255b4a0e26347d8a372a5223b650e31f291ce3c\
                 0100000000000000010000f000000000",
            )
            .unwrap(),
        ),
    ];
    let made: Vec<Entry> = made.into_iter().map(Result::unwrap).collect();
    assert_eq!(made, binary_entries(&VECTORS[0]));
}

#[test]
fn an_entry_changes_order_and_hash_as_the_vectors_do() {
    let little = binary_entries(&VECTORS[1]);
    let big = binary_entries(&VECTORS[5]);
    for (little, big) in little.iter().zip(&big) {
        assert_eq!(little.with_order(ByteOrder::Big).as_ref(), Ok(big));
        assert_eq!(big.with_order(ByteOrder::Little).as_ref(), Ok(little));
    }
    let newer_little = binary_entries(&VECTORS[4]);
    for (little, big) in newer_little.iter().zip(&big[little.len() + 3..]) {
        assert_eq!(little.with_order(ByteOrder::Big).as_ref(), Ok(big));
    }
    let sha256 = binary_entries(&VECTORS[6]);
    for (plain, sha256) in little.iter().zip(&sha256) {
        assert_eq!(&plain.clone().with_hash(HashAlgorithm::Sha256), sha256);
    }
}

#[test]
fn the_talks_second_digest_covers_eight_bytes_of_the_first() {
    // The prototype hashed only these: the namespace never entered its digest.
    let entries = binary_entries(&VECTORS[0]);
    let first = entries[0]
        .fields()
        .unwrap()
        .digest
        .unwrap()
        .to_digest()
        .unwrap();
    let second = entries[1]
        .fields()
        .unwrap()
        .digest
        .unwrap()
        .to_digest()
        .unwrap();
    assert_eq!(HashAlgorithm::Sha256.digest(&first.bytes()[..8]), second);
}
