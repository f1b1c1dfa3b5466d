// SPDX-License-Identifier: Apache-2.0
//! A list of ten million entries is read, checked and replayed in constant memory.
//!
//! Alone in its file: the peak it measures is the process's. In release mode, with
//! `--nocapture`, it prints the rate.
#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

use std::io::{self, Read};
use std::time::Instant;

use ima_log::{BinaryFormat, BinaryReader, Entry, HashAlgorithm, Replay};

const ENTRIES: u64 = 10_000_000;
const MAX_GROWTH_KIB: u64 = 8 * 1024;

/// A list that is never whole in memory: a few thousand records, over and over.
struct Endless {
    records: Vec<u8>,
    at: usize,
    left: u64,
}

impl Endless {
    fn new(entries: u64) -> Self {
        let distinct = 4_000;
        assert_eq!(entries % distinct, 0, "whole rounds");
        let mut records = Vec::new();
        for number in 0..distinct {
            let file = HashAlgorithm::Sha256.digest(&number.to_le_bytes());
            let name = format!("/usr/lib/x86_64-linux-gnu/libexample.so.{number}");
            let entry = match number % 2 {
                0 => Entry::ima_ng(10, file, name),
                _ => Entry::ima_buf(10, HashAlgorithm::Sha256, name, file.bytes()),
            };
            entry.unwrap().append_binary(&mut records);
        }
        let left = entries / distinct * records.len() as u64;
        Self {
            records,
            at: 0,
            left,
        }
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let here = &self.records[self.at..];
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = here.len().min(buffer.len()).min(most);
        buffer[..count].copy_from_slice(&here[..count]);
        self.at = (self.at + count) % self.records.len();
        self.left -= count as u64;
        Ok(count)
    }
}

/// Peak resident memory of this process, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads, checks and replays; the number of entries and the PCR.
fn follow(entries: u64) -> (u64, String) {
    let mut reader = BinaryReader::new(Endless::new(entries), BinaryFormat::default());
    let mut replay = Replay::new(&[HashAlgorithm::Sha256]);
    let mut entry = Entry::default();
    while let Some(position) = reader.read_entry(&mut entry) {
        position.unwrap();
        entry.check().unwrap();
        replay.extend(&entry);
    }
    let pcr = replay.value(10, HashAlgorithm::Sha256).unwrap();
    (reader.good_records(), pcr.to_string())
}

#[test]
fn ten_million_entries_are_verified_in_constant_memory() {
    assert_eq!(follow(4_000).0, 4_000);
    let before = peak_kib();
    let start = Instant::now();
    assert_eq!(follow(ENTRIES).0, ENTRIES);
    let took = start.elapsed();
    let growth = peak_kib() - before;
    println!(
        "{ENTRIES} entries in {took:.1?}: {:.0} entries/s, peak memory +{growth} KiB",
        ENTRIES as f64 / took.as_secs_f64()
    );
    assert!(growth < MAX_GROWTH_KIB, "peak memory grew by {growth} KiB");
}
