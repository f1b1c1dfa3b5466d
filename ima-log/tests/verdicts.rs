// SPDX-License-Identifier: Apache-2.0
//! Where a list and the PCRs part.
#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

use ima_log::{
    CheckError, Digest, Entry, HashAlgorithm, Match, Replay, Template, Verdict, Verifier,
};

type Expected = Vec<(u32, Digest)>;

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

fn entry(pcr: u32, number: u8) -> Entry {
    Entry::ima_buf(pcr, BANK, format!("entry {number}"), &[number]).unwrap()
}

fn value(entries: &[Entry], pcr: u32) -> Digest {
    let mut replay = Replay::new(&[BANK]);
    entries.iter().for_each(|entry| replay.extend(entry));
    replay.value(pcr, BANK).unwrap()
}

fn judge(expected: &[(u32, Digest)], entries: &[Entry]) -> Verdict {
    let mut verifier = Verifier::new(expected.iter().copied());
    entries.iter().for_each(|entry| verifier.push(entry));
    verifier.finish()
}

#[test]
fn the_verdict_says_how_much_of_the_list_is_in_the_pcrs() {
    let list = [
        entry(10, 0),
        entry(11, 1),
        entry(10, 2),
        entry(11, 3),
        entry(10, 4),
    ];
    let ten = |len: usize| (10, value(&list[..len], 10));
    let eleven = |len: usize| (11, value(&list[..len], 11));
    let prefix = |entries, first_unanchored| Match::Prefix {
        entries,
        first_unanchored,
    };
    let cases: [(&str, Expected, Match); 8] = [
        ("all of it", vec![ten(5), eleven(5)], Match::Whole),
        ("but the last", vec![ten(4), eleven(4)], prefix(4, 4)),
        ("two entries", vec![ten(2), eleven(2)], prefix(2, 2)),
        ("nothing", vec![ten(0), eleven(0)], prefix(0, 0)),
        ("one PCR only", vec![ten(2)], prefix(1, 2)),
        (
            "two PCRs at different places",
            vec![ten(5), eleven(1)],
            Match::None,
        ),
        ("another list", vec![(10, Digest::ones(BANK))], Match::None),
        ("no PCR", vec![], Match::None),
    ];
    for (case, expected, matched) in cases {
        assert_eq!(judge(&expected, &list).matched, matched, "{case}");
    }
}

#[test]
fn each_pcr_is_judged_by_itself_too() {
    let list = [entry(10, 0), entry(11, 1)];
    let verdict = judge(&[(10, value(&list, 10)), (11, Digest::ones(BANK))], &list);
    assert_eq!(verdict.pcrs[0].matched_after, Some(1));
    assert_eq!(verdict.pcrs[1].matched_after, None);
    assert_eq!(verdict.pcrs[1].replayed, value(&list, 11));
}

#[test]
fn entries_of_an_unexpected_pcr_are_not_anchored() {
    let list = [entry(10, 0), entry(12, 1)];
    let verdict = judge(&[(10, value(&list, 10))], &list);
    assert_eq!(
        (verdict.matched.clone(), verdict.first_uncovered),
        (Match::Whole, Some(1))
    );
    assert!(!verdict.holds());
}

#[test]
fn the_first_wrong_and_the_first_undecided_entry_are_named() {
    let mut list = [entry(10, 0), entry(10, 1), entry(10, 2), entry(10, 3)];
    list[1].template = Template::from_name("ima-next");
    list[2].data[50] ^= 1;
    list[3].data[50] ^= 1;
    let verdict = judge(&[(10, value(&list, 10))], &list);
    assert_eq!(verdict.matched, Match::Whole);
    let undecided = verdict.first_undecided.clone().unwrap();
    assert!(matches!(
        undecided.error,
        CheckError::UnknownTemplate { .. }
    ));
    assert_eq!(undecided.index, 1);
    let invalid = verdict.first_invalid.clone().unwrap();
    assert!(matches!(invalid.error, CheckError::TemplateHash { .. }));
    assert_eq!(invalid.index, 2);
    assert!(!verdict.holds());
}

#[test]
fn a_replay_of_values_is_that_of_their_entries() {
    let banks = [HashAlgorithm::Sha1, HashAlgorithm::Sha256];
    let (mut by_entry, mut by_value) = (Replay::new(&banks), Replay::new(&banks));
    for number in 0..3 {
        let entry = entry(10, number);
        by_entry.extend(&entry);
        by_value.extend_values(10, &banks.map(|bank| entry.extend_value(bank)));
    }
    for bank in banks {
        assert_eq!(by_entry.value(10, bank), by_value.value(10, bank));
    }
}

#[test]
fn a_replay_may_start_from_any_value() {
    let start = BANK.digest(b"kexec");
    let list = [entry(10, 0)];
    let expected = start.extended(&list[0].extend_value(BANK));
    let mut verifier = Verifier::new([(10, expected)]).with_start(10, start);
    verifier.push(&list[0]);
    assert!(verifier.finish().holds());
}

#[test]
fn pcrs_start_as_a_tpm_powers_on() {
    let replay = Replay::new(&[BANK]);
    for (pcr, start) in [
        (0, Digest::zeros(BANK)),
        (16, Digest::zeros(BANK)),
        (17, Digest::ones(BANK)),
        (22, Digest::ones(BANK)),
        (23, Digest::zeros(BANK)),
    ] {
        assert_eq!(replay.value(pcr, BANK), Some(start), "PCR {pcr}");
    }
    assert_eq!(
        replay.value(10, HashAlgorithm::Sha1),
        None,
        "a bank that is not replayed"
    );
}
