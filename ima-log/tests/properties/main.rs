// SPDX-License-Identifier: Apache-2.0
//! What holds for every list: round trips, torn tails, order, and where a change is noticed.
#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

mod entries;

use entries::{algorithm, encode, entry, list, order, unknown_entry};
use ima_log::{
    AsciiReader, BinaryFormat, BinaryReader, ByteOrder, CheckError, Entry, HashAlgorithm,
    ReadErrorKind, Replay,
};
use proptest::prelude::*;

/// Who notices that a list was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noticed {
    Reader,
    Check,
    Pcr,
    Nobody,
}

/// Where in a record a byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Region {
    Pcr,
    TemplateHash,
    NameLen,
    Name,
    DataLen,
    Data,
}

fn reader(list: &[u8], order: ByteOrder) -> BinaryReader<&[u8]> {
    BinaryReader::new(
        list,
        BinaryFormat {
            order,
            hash: HashAlgorithm::Sha1,
        },
    )
}

fn pcrs(entries: &[Entry]) -> Vec<String> {
    let mut replay = Replay::new(&[HashAlgorithm::Sha1, HashAlgorithm::Sha256]);
    entries.iter().for_each(|entry| replay.extend(entry));
    (0..24)
        .flat_map(|pcr| {
            replay
                .banks()
                .map(move |bank| (pcr, bank))
                .collect::<Vec<_>>()
        })
        .map(|(pcr, bank)| replay.value(pcr, bank).unwrap().to_string())
        .collect()
}

/// Reads as a verifier does: entry by entry, each checked at once, the PCRs at the end.
fn who_notices(list: &[u8], order: ByteOrder, quoted: &[String]) -> Noticed {
    let mut entries = Vec::new();
    for record in reader(list, order) {
        match record {
            Err(_) => return Noticed::Reader,
            Ok((_, entry)) if entry.check().is_err() => return Noticed::Check,
            Ok((_, entry)) => entries.push(entry),
        }
    }
    if pcrs(&entries) == quoted {
        Noticed::Nobody
    } else {
        Noticed::Pcr
    }
}

/// The entry and the region of the byte at `offset`.
fn locate(entries: &[Entry], offset: usize) -> (&Entry, Region) {
    let mut at = offset;
    for entry in entries {
        let name = entry.template.name();
        let data_len = if name == "ima" { 0 } else { 4 };
        let regions = [
            (Region::Pcr, 4),
            (Region::TemplateHash, 20),
            (Region::NameLen, 4),
            (Region::Name, name.len()),
            (Region::DataLen, data_len),
            (Region::Data, entry.data.len()),
        ];
        for (region, len) in regions {
            if at < len {
                return (entry, region);
            }
            at -= len;
        }
    }
    panic!("offset {offset} is beyond the list");
}

/// The rule the README states: every change is noticed, and by whom, but for the data of a
/// violation, which nothing authenticates.
fn assert_noticed(entries: &[Entry], offset: usize, noticed: Noticed) {
    let (entry, region) = locate(entries, offset);
    let allowed: &[Noticed] = match region {
        Region::Pcr => &[Noticed::Reader, Noticed::Pcr],
        Region::TemplateHash => &[Noticed::Check],
        Region::NameLen | Region::Name | Region::DataLen => &[Noticed::Reader, Noticed::Check],
        Region::Data if entry.is_violation() => &[
            Noticed::Nobody,
            Noticed::Check,
            Noticed::Reader,
            Noticed::Pcr,
        ],
        // A length inside the original template's data decides where its record ends.
        Region::Data if entry.template.name() == "ima" => &[Noticed::Check, Noticed::Reader],
        Region::Data => &[Noticed::Check],
    };
    assert!(
        allowed.contains(&noticed),
        "byte {offset}, {region:?} of {entry:?}: noticed by {noticed:?}"
    );
}

/// One entry of each template, and a violation.
fn one_of_each(order: ByteOrder) -> Vec<Entry> {
    let little = ["common", "original", "newer-templates", "violations"]
        .map(|name| format!("{}/tests/vectors/{name}.bin", env!("CARGO_MANIFEST_DIR")))
        .map(|path| std::fs::read(path).unwrap())
        .concat();
    reader(&little, ByteOrder::Little)
        .map(|record| record.unwrap().1.with_order(order).unwrap())
        .collect()
}

#[test]
fn every_flipped_bit_of_a_list_of_all_templates_is_noticed() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let entries = one_of_each(order);
        let list = encode(&entries);
        let quoted = pcrs(&entries);
        assert_eq!(who_notices(&list, order, &quoted), Noticed::Nobody);
        let mut changed = list.clone();
        for offset in 0..list.len() {
            for bit in 0..8 {
                changed[offset] = list[offset] ^ (1 << bit);
                assert_noticed(&entries, offset, who_notices(&changed, order, &quoted));
            }
            changed[offset] = list[offset];
        }
    }
}

#[test]
fn a_list_cut_at_any_byte_keeps_every_whole_entry_and_names_where_they_end() {
    for order in [ByteOrder::Little, ByteOrder::Big] {
        let entries = one_of_each(order);
        let list = encode(&entries);
        let mut ends = vec![0];
        entries
            .iter()
            .for_each(|e| ends.push(ends[ends.len() - 1] + e.to_binary().len()));
        for cut in 0..=list.len() {
            let whole = ends.iter().filter(|end| **end > 0 && **end <= cut).count();
            for mut reader in [
                reader(&list[..cut], order),
                BinaryReader::detect(&list[..cut]),
            ] {
                let mut kept = Vec::new();
                let mut error = None;
                for record in reader.by_ref() {
                    match record {
                        Ok((_, entry)) => kept.push(entry),
                        Err(e) => error = Some(e),
                    }
                }
                assert_eq!(kept.len(), whole, "cut at {cut}");
                assert_eq!(reader.good_end(), ends[whole] as u64, "cut at {cut}");
                assert!(kept == entries[..whole], "cut at {cut}");
                let torn = matches!(
                    error,
                    Some(ref e) if e.offset == ends[whole] as u64 && e.index == whole as u64
                        && matches!(e.kind, ReadErrorKind::Torn { present }
                            if present == (cut - ends[whole]) as u64)
                );
                assert_eq!(torn, cut != ends[whole], "cut at {cut}: {error:?}");
                assert_eq!(error.is_some(), torn, "cut at {cut}: {error:?}");
            }
        }
    }
}

#[test]
fn an_ascii_list_cut_at_any_byte_never_yields_an_entry_it_did_not_hold() {
    let entries: Vec<Entry> = one_of_each(ByteOrder::Little);
    let mut list = Vec::new();
    entries
        .iter()
        .for_each(|entry| entry.write_ascii(&mut list).unwrap());
    for cut in 0..=list.len() {
        let kept: Vec<Entry> = AsciiReader::detect(&list[..cut])
            .map_while(|line| Some(line.ok()?.1))
            .collect();
        let whole = list[..cut].iter().filter(|b| **b == b'\n').count();
        assert!(kept == entries[..kept.len()], "cut at {cut}");
        // One more than the newlines seen: a last line whose hash proves it complete.
        assert!((whole..=whole + 1).contains(&kept.len()), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn a_made_entry_passes_its_check(
        entry in (order(), algorithm()).prop_flat_map(|(order, hash)| entry(order, hash)),
    ) {
        prop_assert_eq!(entry.check(), Ok(()));
    }

    #[test]
    fn binary_lists_round_trip(
        (order, hash, entries) in (order(), algorithm()).prop_flat_map(|(order, hash)| {
            (Just(order), Just(hash), proptest::collection::vec(entry(order, hash), 1..6))
        }),
    ) {
        let list = encode(&entries);
        let format = BinaryFormat { order, hash };
        let read: Vec<Entry> = BinaryReader::new(list.as_slice(), format).map(|r| r.unwrap().1).collect();
        prop_assert_eq!(&read, &entries);
        let mut detecting = BinaryReader::detect(list.as_slice());
        let read: Vec<Entry> = detecting.by_ref().map(|r| r.unwrap().1).collect();
        prop_assert_eq!(&read, &entries);
        prop_assert_eq!(detecting.format(), Some(format));
    }

    #[test]
    fn ascii_lists_round_trip(
        (order, entries) in (order(), algorithm()).prop_flat_map(|(order, hash)| {
            (Just(order), proptest::collection::vec(entry(order, hash), 1..6))
        }),
    ) {
        let mut list = Vec::new();
        entries.iter().for_each(|entry| entry.write_ascii(&mut list).unwrap());
        let read: Vec<Entry> =
            AsciiReader::with_order(list.as_slice(), order).map(|line| line.unwrap().1).collect();
        prop_assert_eq!(read, entries);
    }

    #[test]
    fn unknown_templates_are_kept_and_replayed(
        entry in order().prop_flat_map(unknown_entry),
    ) {
        let list = entry.to_binary();
        prop_assert_eq!(list.len(), entry.binary_len());
        let (_, read) = reader(&list, entry.byte_order).next().unwrap().unwrap();
        prop_assert_eq!(&read, &entry);
        let line = entry.to_ascii().unwrap();
        let line = [line.as_slice(), b"\n"].concat();
        let (_, read) =
            AsciiReader::with_order(line.as_slice(), entry.byte_order).next().unwrap().unwrap();
        prop_assert_eq!(&read, &entry);
        let undecided = matches!(entry.check(), Err(CheckError::UnknownTemplate { .. }));
        prop_assert!(undecided);
        let expected = HashAlgorithm::Sha256.digest(&entry.data);
        prop_assert_eq!(entry.extend_value(HashAlgorithm::Sha256), expected);
    }

    #[test]
    fn any_changed_byte_is_noticed(
        (order, entries) in order().prop_flat_map(|order| (Just(order), list(order, 1..5))),
        at in any::<prop::sample::Index>(),
        change in 1_u8..,
    ) {
        let mut list = encode(&entries);
        let offset = at.index(list.len());
        list[offset] ^= change;
        assert_noticed(&entries, offset, who_notices(&list, order, &pcrs(&entries)));
    }

    #[test]
    fn swapping_two_different_entries_of_a_pcr_changes_it(
        (entries, first, second) in list(ByteOrder::Little, 2..6).prop_flat_map(|entries| {
            let len = entries.len();
            (Just(entries), 0..len, 0..len)
        }),
    ) {
        let mut entries = entries;
        entries.iter_mut().for_each(|entry| entry.pcr = 10);
        let bank = HashAlgorithm::Sha256;
        let differ = entries[first].extend_value(bank) != entries[second].extend_value(bank);
        let before = pcrs(&entries);
        entries.swap(first, second);
        prop_assert_eq!(pcrs(&entries) != before, differ);
    }

    #[test]
    fn a_dropped_or_doubled_entry_changes_its_pcr(
        (entries, at) in list(ByteOrder::Little, 1..6)
            .prop_flat_map(|entries| { let len = entries.len(); (Just(entries), 0..len) }),
    ) {
        let before = pcrs(&entries);
        let mut fewer = entries.clone();
        fewer.remove(at);
        prop_assert_ne!(pcrs(&fewer), before.clone());
        let mut more = entries.clone();
        more.insert(at, entries[at].clone());
        prop_assert_ne!(pcrs(&more), before);
    }

    #[test]
    fn no_bytes_make_a_reader_panic_or_loop(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for (_, entry) in BinaryReader::detect(bytes.as_slice()).flatten() {
            let _ = entry.check();
            let _ = entry.to_ascii();
        }
        for (_, entry) in AsciiReader::detect(bytes.as_slice()).flatten() {
            let _ = entry.check();
        }
    }
}
