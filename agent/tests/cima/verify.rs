// SPDX-License-Identifier: Apache-2.0
//! `cima verify` against values in files and on the command line.

use std::fmt::Write as _;

use cima_agent::{
    containers::Provenance,
    measure::{
        PolicyEvent, SelfPart, Violation,
        proto::{self, context_event::What, start::Reason},
    },
    verify::{Anchor, Judge, Place},
};
use ima_log::{BinaryReader, ByteOrder, Digest, Entry, HashAlgorithm, Template};

use crate::{
    command::{Files, Ran, cima, cima_reading},
    evmctl::pcr_file,
    list::{
        BANKS, BOOT, List, NOBODY, PCR, PROGRAM, binary, event, pcr_args, replayed, vector,
        vector_path, vector_pcr_args,
    },
};

/// `cima verify` of these bytes against these values.
fn verify(list: &[u8], values: &[Digest], more: &[&str]) -> Ran {
    let files = Files::new();
    let path = files.write("list.ima", list);
    let mut words = vec!["verify".to_owned(), path];
    words.extend(pcr_args(values));
    words.extend(more.iter().map(|word| (*word).to_owned()));
    cima(words)
}

#[track_caller]
fn bad(ran: &Ran, said: &[&str]) {
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.err, "");
    assert!(ran.verdict().starts_with("bad: "), "{}", ran.out);
    for said in said {
        assert!(ran.out.contains(said), "{said} is not in {}", ran.out);
    }
}

#[track_caller]
fn good(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.err, "");
    assert!(ran.verdict().starts_with("good: "), "{}", ran.out);
}

const NO_REPLAY: &str =
    "bad: the list does not replay to the PCR: altered, reordered, or entries are missing";

#[test]
fn a_good_list_fits_whatever_form_it_has() {
    let list = List::good();
    let ran = verify(&list.binary(), &list.values(), &[]);
    good(&ran);
    let hex = |value: &Digest| hex::encode(value.bytes());
    let expected = format!(
        "cima list of boot {BOOT}, 9 entries
PCR 13 sha1   match   replayed and given {}
PCR 13 sha256 match   replayed and given {}
warning: 1 of kind hash (files that were mapped executable could not be hashed): on record, which does not make the list differ from the PCR
good: all 9 entries are in PCR 13, unaltered and in order
",
        hex(&list.values()[0]),
        hex(&list.values()[1])
    );
    assert_eq!(ran.out.split_once(": ").unwrap().1, expected);
    let ascii = cima_reading(["log", "-"], &list.binary()).bytes;
    good(&verify(&ascii, &list.values(), &[]));
    let mut words = vec!["verify".to_owned(), "-".to_owned()];
    words.extend(pcr_args(&list.values()));
    good(&cima_reading(words, &list.binary()));
}

#[test]
fn a_directory_of_two_segments_is_one_list() {
    let files = Files::new();
    let list = List::good();
    files.write("boot/00000001.ima", binary(&list.entries[..4]));
    files.write("boot/00000002.ima", binary(&list.entries[4..]));
    let words = |dir: &str| {
        [
            vec!["verify".to_owned(), files.path(dir)],
            pcr_args(&list.values()),
        ]
        .concat()
    };
    good(&cima(words("boot")));
    files.write("gap/00000001.ima", binary(&list.entries[..3]));
    files.write("gap/00000003.ima", binary(&list.entries[4..]));
    bad(
        &cima(words("gap")),
        &[
            "entry 5, at byte",
            "of segment 3 (cima-ctx:2): it is batch 2 where batch 1 belongs",
            NO_REPLAY,
        ],
    );
}

#[test]
fn every_flipped_bit_of_a_list_is_noticed() {
    let list = List::good();
    let whole = list.binary();
    let values: Vec<_> = list
        .values()
        .into_iter()
        .map(|value| (PCR, value))
        .collect();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let mut judge = Judge::new(Anchor::Exactly(values.clone()));
            let readable = BinaryReader::detect(bytes.as_slice()).try_for_each(|record| {
                let (position, entry) = record.map_err(drop)?;
                let place = Place {
                    index: position.index,
                    offset: position.offset,
                    segment: None,
                };
                judge.push(place, &entry);
                Ok::<(), ()>(())
            });
            let entries = judge.entries();
            let judged = judge.finish(entries);
            assert!(
                readable.is_err() || !judged.is_good(),
                "bit {bit} of byte {at}"
            );
        }
    }
}

#[test]
fn a_flipped_byte_of_each_field_is_refused_and_located() {
    let list = List::good();
    let start = list.offsets()[2];
    let entry = &list.entries[2];
    let end = list.offsets()[3];
    let name = format!("entry 2, at byte {start} (cima-exec:unregistered:/usr/bin/a%20b%FF)");
    let cases: [(&str, usize, i32, &str); 8] = [
        ("pcr", start, 1, "entry 2, at byte"),
        ("template hash", start + 4, 1, &name),
        (
            "template name length",
            start + 24,
            1,
            "bad: entry 2, at byte",
        ),
        ("template name", start + 28, 1, "is not known"),
        ("data length", start + 35, 1, "bad: entry 3, at byte"),
        ("d-ng", start + 39 + 4 + 10, 1, &name),
        ("name", start + 39 + 4 + 40 + 4 + 30, 1, "its data hash to"),
        ("payload", end - 1, 1, &name),
    ];
    assert_eq!(entry.template.name().len(), 7);
    for (field, at, code, said) in cases {
        let mut bytes = list.binary();
        bytes[at] ^= 1;
        let ran = verify(&bytes, &list.values(), &[]);
        assert_eq!(ran.code, Some(code), "{field}: {ran:?}");
        assert!(
            format!("{}{}", ran.out, ran.err).contains(said),
            "{field}: {ran:?}"
        );
    }
}

#[test]
fn a_removed_entry_is_noticed_and_a_removed_batch_located() {
    let list = List::good();
    for (index, removed) in list.entries.iter().enumerate() {
        let mut entries = list.entries.clone();
        entries.remove(index);
        let ran = verify(&binary(&entries), &list.values(), &[]);
        bad(&ran, &[NO_REPLAY]);
        let said = match removed.display_name().as_str() {
            "cima-ctx:0" => {
                "entry 0, at byte 0 (cima-agent:binary): a cima list begins with batch 0"
            }
            "cima-ctx:1" => {
                "(cima-ctx:2): it is batch 2 where batch 1 belongs: entries before it are missing"
            }
            "cima-ctx:2" => "(cima-ctx:3): it is batch 3 where batch 2 belongs",
            // Nothing comes after the last; between the rest, the restart saw the PCR.
            _ if index > 6 => NO_REPLAY,
            _ => "(cima-ctx:2): the agent was started here and found sha1:",
        };
        assert!(ran.out.contains(said), "without {index}: {}", ran.out);
    }
}

#[test]
fn two_swapped_entries_are_noticed_and_swapped_batches_located() {
    let list = List::good();
    for index in 1..list.entries.len() {
        let mut entries = list.entries.clone();
        entries.swap(index - 1, index);
        bad(
            &verify(&binary(&entries), &list.values(), &[]),
            &[NO_REPLAY],
        );
    }
    let mut entries = list.entries.clone();
    entries.swap(3, 6);
    let ran = verify(&binary(&entries), &list.values(), &["--json"]);
    let verdict = ran.json();
    assert_eq!(verdict["good"], false);
    let fault = &verdict["faults"][0];
    assert_eq!(fault["kind"], "batch-order");
    assert_eq!(
        (fault["index"].as_u64(), fault["name"].as_str()),
        (Some(3), Some("cima-ctx:2"))
    );
}

#[test]
fn an_entry_that_is_repeated_is_noticed() {
    let mut list = List::good();
    list.push(list.entries[3].clone());
    let ran = verify(&list.binary(), &list.values(), &[]);
    bad(
        &ran,
        &[
            "bad: entry 9",
            "it is batch 1 where batch 4 belongs: it was moved or repeated",
        ],
    );
}

#[test]
fn a_forged_payload_with_hashes_to_fit_is_noticed() {
    let list = List::good();
    let mut entries = list.entries.clone();
    let payload = format!("v1;sha256:{}", "0".repeat(64));
    entries[7] = Entry::ima_buf(
        PCR,
        HashAlgorithm::Sha256,
        entries[7].display_name(),
        payload.as_bytes(),
    )
    .unwrap();
    bad(
        &verify(&binary(&entries), &list.values(), &[]),
        &[NO_REPLAY],
    );
}

#[test]
fn a_payload_that_is_not_what_its_digest_says_is_noticed_though_it_was_extended() {
    let mut list = List::good();
    let mut entry = Entry::ima_buf(PCR, HashAlgorithm::Sha256, "cima-exec:x", b"v1;one").unwrap();
    let end = entry.data.len();
    entry.data[end - 3..].copy_from_slice(b"two");
    list.push(entry.with_hash(HashAlgorithm::Sha1));
    let ran = verify(&list.binary(), &list.values(), &[]);
    bad(
        &ran,
        &[
            "bad: entry 9",
            "(cima-exec:x)",
            "it states the digest sha256:",
        ],
    );
}

#[test]
fn a_list_cut_between_entries_does_not_replay() {
    let list = List::good();
    for count in 1..list.entries.len() {
        let ran = verify(&binary(&list.entries[..count]), &list.values(), &[]);
        bad(&ran, &[NO_REPLAY]);
    }
}

#[test]
fn a_list_longer_than_the_pcr_is_told_where() {
    let list = List::good();
    for held in 1..list.entries.len() {
        let ran = verify(&list.binary(), &replayed(&list.entries[..held]), &[]);
        let name = list.entries[held].display_name();
        bad(
            &ran,
            &[&format!(
                "bad: the PCR holds the first {held} of 9 entries; entry {held} ({name}) is the first that was never extended"
            )],
        );
    }
    let ran = verify(&list.binary(), &replayed(&[]), &[]);
    bad(
        &ran,
        &["bad: the PCR holds none of the 9 entries; entry 0 (cima-ctx:0) is the first"],
    );
    // Every bank is compared: one that holds less is what counts.
    let values = [list.values()[0], replayed(&list.entries[..5])[1]];
    bad(
        &verify(&list.binary(), &values, &[]),
        &["the first 5 of 9 entries", "sha1   match", "sha256 differs"],
    );
}

#[test]
fn a_torn_list_is_located_and_what_is_before_it_is_usable_as_far_as_the_pcr_shows() {
    let list = List::good();
    let offsets = list.offsets();
    let torn = &list.binary()[..offsets[4] + 9];
    let at = format!(
        "bad: entry 4, at byte {}: the list ends inside it, after 9 of its bytes",
        offsets[4]
    );
    // The entry was extended, and so is needed.
    bad(
        &verify(torn, &list.values(), &[]),
        &[&at, "usable: entries 0 to 3 are right in themselves, but"],
    );
    // It was not.
    let values = replayed(&list.entries[..4]);
    bad(
        &verify(torn, &values, &[]),
        &[
            &at,
            "usable: entries 0 to 3 are in the PCR; behind is entry 4",
        ],
    );
    let verdict = verify(torn, &values, &["--json"]).json();
    let fault = &verdict["faults"][0];
    assert_eq!(fault["kind"], "torn");
    assert_eq!(
        (fault["index"].as_u64(), fault["offset"].as_u64()),
        (Some(4), Some(offsets[4] as u64))
    );
    assert_eq!(verdict["usable"]["entries"], 4);
    assert_eq!(verdict["usable"]["in_pcr"], true);
    // Of nothing, nothing can be said.
    let ran = verify(&list.binary()[..2], &list.values(), &[]);
    ran.refused(&["record 0, at byte 0"]);
}

#[test]
fn an_altered_entry_is_told_from_the_rest_by_the_hash_in_its_record() {
    let list = List::good();
    for (index, offset) in list.offsets().into_iter().take(9).enumerate() {
        let mut bytes = list.binary();
        // In the digest of the payload.
        bytes[offset + 39 + 4 + 12] ^= 1;
        let ran = verify(&bytes, &list.values(), &["--json"]);
        let verdict = ran.json();
        assert_eq!(ran.code, Some(1));
        assert_eq!(verdict["faults"][0]["kind"], "entry");
        assert_eq!(verdict["faults"][0]["index"], index);
        let usable = &verdict["usable"];
        assert_eq!(
            (&usable["entries"], &usable["in_pcr"]),
            (&index.into(), &true.into())
        );
        assert_eq!(usable["rest_in_bank"], "sha1");
        // Without the bank of that hash the rest is not told from what is altered.
        let verdict = verify(&bytes, &list.values()[1..], &["--json"]).json();
        let usable = &verdict["usable"];
        assert_eq!(
            (&usable["entries"], &usable["in_pcr"]),
            (&index.into(), &false.into())
        );
        assert!(usable["rest_in_bank"].is_null());
    }
    let mut bytes = list.binary();
    bytes[list.offsets()[5] + 39 + 4 + 12] ^= 1;
    bad(
        &verify(&bytes, &list.values(), &[]),
        &[
            "usable: entries 0 to 4 are in the PCR, and so is what is behind but for altered entries",
        ],
    );
}

#[test]
fn a_segment_that_ends_in_a_record_does_not_hide_the_next() {
    let files = Files::new();
    let mut list = List::good();
    let first = list.binary();
    list.foreign();
    let entries = list.entries.len();
    list.start(Reason::ChainBroken);
    files.write("boot/00000001.ima", &first[..first.len() - 5]);
    files.write("boot/00000002.ima", binary(&list.entries[entries..]));
    let words = vec!["verify".to_owned(), files.path("boot")];
    bad(
        &cima([words, pcr_args(&list.values())].concat()),
        &[
            "bad: entry 8, at byte",
            "of segment 1: the list ends inside it",
            "fault: entry 8, at byte 0 of segment 2 (cima-ctx:4): the chain is broken here",
            "sha256 match",
        ],
    );
}

#[test]
fn a_big_endian_machines_list_is_verified() {
    let list = List::good();
    let swapped = |entry: &Entry| entry.with_order(ByteOrder::Big).unwrap();
    let entries: Vec<_> = list.entries[..6].iter().map(swapped).collect();
    let ran = verify(&binary(&entries), &replayed(&entries), &[]);
    good(&ran);
    bad(
        &verify(&binary(&entries), &list.values(), &[]),
        &[NO_REPLAY],
    );
}

#[test]
fn kernels_lists_are_verified() {
    for name in ["talk", "common", "violations", "original", "big-endian"] {
        for form in ["bin", "ascii"] {
            let mut words = vec!["verify".to_owned(), vector_path(&format!("{name}.{form}"))];
            words.extend(vector_pcr_args(name));
            let ran = cima(words);
            good(&ran);
            assert!(ran.out.contains(": IMA list, "), "{}", ran.out);
        }
    }
    let mut words = vec!["verify".to_owned(), vector_path("violations.bin")];
    words.extend(vector_pcr_args("violations"));
    assert!(cima(words).out.contains("of kind kernel"));
}

#[test]
fn a_kernels_list_in_the_place_of_cimas_is_refused() {
    let files = Files::new();
    files.write("boot/00000001.ima", vector("talk.bin"));
    let mut words = vec!["verify".to_owned(), files.path("boot")];
    words.extend(vector_pcr_args("talk"));
    bad(
        &cima(words),
        &[
            "bad: entry 0, at byte 0 of segment 1 (/hello): ",
            "a cima list begins with batch 0",
        ],
    );
}

#[test]
fn a_list_in_another_pcr_than_the_agents_is_refused() {
    let list = List::good();
    good(&verify(
        &list.binary(),
        &list.values(),
        &["--expect-pcr", "13"],
    ));
    bad(
        &verify(&list.binary(), &list.values(), &["--expect-pcr", "15"]),
        &["the list is kept in PCR 13, not in PCR 15"],
    );
}

#[test]
fn every_value_on_the_command_line_must_fit_but_a_file_may_have_others() {
    let files = Files::new();
    let list = List::good();
    let path = files.write("list.ima", list.binary());
    let zero = format!("sha1:10={}", "00".repeat(20));
    let one = format!("sha1:10={}", "11".repeat(20));
    // PCR 10 at its power-on value is what a list without entries for it gives.
    good(&verify(&list.binary(), &list.values(), &["--pcr", &zero]));
    bad(
        &verify(&list.binary(), &list.values(), &["--pcr", &one]),
        &[NO_REPLAY, "PCR 10 sha1   differs"],
    );
    let mut file = format!("  sha1:\n    10: 0x{}\n", "11".repeat(20));
    writeln!(file, "    13: 0x{}", hex::encode(list.values()[0].bytes())).unwrap();
    good(&cima([
        "verify",
        &path,
        "--pcrs",
        &files.write("pcrs", file),
    ]));
}

#[test]
fn an_entry_for_a_pcr_without_a_value_is_not_vouched_for() {
    let files = Files::new();
    let path = files.write("common.bin", vector("common.bin"));
    let pcr10: Vec<_> = vector_pcr_args("common")
        .chunks(2)
        .filter(|pair| pair[1].contains(":10="))
        .flatten()
        .cloned()
        .collect();
    let ran = cima([vec!["verify".to_owned(), path], pcr10].concat());
    bad(&ran, &["bad: entry 3", "no value of PCR 13 was given"]);
}

#[test]
fn a_cima_list_extends_one_pcr() {
    let mut list = List::good();
    list.entries
        .push(Entry::ima_buf(10, HashAlgorithm::Sha256, "cima-exec:x", b"v1;x").unwrap());
    let value = Digest::zeros(HashAlgorithm::Sha256)
        .extended(&list.entries[9].extend_value(HashAlgorithm::Sha256));
    let pcr10 = format!("sha256:10={}", hex::encode(value.bytes()));
    let ran = verify(&list.binary(), &list.values()[1..], &["--pcr", &pcr10]);
    bad(
        &ran,
        &[
            "bad: entry 9",
            "it extends PCR 10, but the list is anchored in PCR 13",
        ],
    );
}

#[test]
fn another_template_cannot_hide_what_a_name_says() {
    // No hash covers the template's name: this list replays.
    let mut list = List::good();
    list.policy_event(&PolicyEvent::own_violation(
        Violation::Chain,
        "list=1;pcr=2",
    ));
    list.entries[9].template = Template::ImaSig;
    let ran = verify(&list.binary(), &list.values(), &[]);
    bad(
        &ran,
        &[
            "its template is ima-sig, and cima writes ima-buf only",
            "the agent recorded that list and PCR did not fit",
        ],
    );
    let mut list = List::good();
    list.entries[0].template = Template::from_name("ima-xyz");
    bad(
        &verify(&list.binary(), &list.values(), &[]),
        &["the template \"ima-xyz\" is not known"],
    );
}

#[test]
fn a_broken_chain_is_named_though_the_new_segment_fits() {
    let files = Files::new();
    let mut list = List::good();
    files.write("boot/00000001.ima", list.binary());
    list.foreign();
    let first = list.entries.len();
    list.start(Reason::ChainBroken);
    list.policy_event(&PolicyEvent::own_violation(
        Violation::Chain,
        "list=sha1:00;pcr=sha1:11",
    ));
    files.write("boot/00000002.ima", binary(&list.entries[first..]));
    for trust in [&[][..], &["--trust-start".to_owned()]] {
        let ran = cima(
            [
                vec!["verify".to_owned(), files.path("boot")],
                pcr_args(&list.values()),
                trust.to_vec(),
            ]
            .concat(),
        );
        bad(
            &ran,
            &[
                "bad: entry 9, at byte 0 of segment 2 (cima-ctx:4): the chain is broken here",
                "fault: entry 10, at byte",
                "did not fit: v1;chain;list=sha1:00;pcr=sha1:11",
                "sha256 match",
            ],
        );
    }
}

#[test]
fn other_start_values_than_at_power_on_are_a_claim() {
    let before: Vec<_> = BANKS.iter().map(|bank| bank.digest(b"unknown")).collect();
    let mut list = List::without_start(Some(PCR)).starting_from(&before);
    list.start(Reason::Boot);
    list.entry("cima-exec:x", b"v1;x");
    let ran = verify(&list.binary(), &list.values(), &[]);
    bad(
        &ran,
        &[
            "bad: entry 0",
            &format!(
                "claims that PCR 13 held {} before its first entry",
                before[0]
            ),
            "--trust-start",
        ],
    );
    let ran = verify(&list.binary(), &list.values(), &["--trust-start"]);
    good(&ran);
    assert!(
        ran.out
            .contains("warning: the PCR's values before the first entry are the list's own claim")
    );
    let values = replayed(&list.entries);
    bad(
        &verify(&list.binary(), &values, &["--trust-start"]),
        &[NO_REPLAY],
    );
}

#[test]
fn a_list_of_a_restart_on_does_not_pass_for_a_whole_one() {
    let list = List::good();
    let ran = verify(
        &binary(&list.entries[6..]),
        &list.values(),
        &["--trust-start"],
    );
    bad(&ran, &["a cima list begins with batch 0"]);
}

#[test]
fn lists_of_two_boots_do_not_join() {
    let mut list = List::good().of_boot("another");
    list.start(Reason::Restart);
    let ran = verify(&list.binary(), &list.values(), &[]);
    bad(
        &ran,
        &["it starts boot another, but the list is of boot 8c2d2a94"],
    );
}

#[test]
fn a_name_and_a_payload_that_disagree_are_named() {
    let cases: [(&str, &[u8], &str); 5] = [
        // An event that is none.
        (
            "cima-ctx:1",
            b"v1;\x08\x01\x22\x01\x08",
            "payload or its name is not one",
        ),
        (
            "cima-ctx:1",
            b"v1;\x08\x02",
            "its name says batch 1, its payload batch 2",
        ),
        ("cima-ctx:1", b"v1;\x08", "payload or its name is not one"),
        (
            "cima-ctx:01",
            b"v1;\x08\x01",
            "payload or its name is not one",
        ),
        (
            "cima-ctx:+1",
            b"v1;\x08\x01",
            "payload or its name is not one",
        ),
    ];
    for (name, payload, said) in cases {
        let mut list = List::new();
        list.entry(name, payload);
        bad(
            &verify(&list.binary(), &list.values(), &[]),
            &["bad: entry 1", said],
        );
    }
}

#[test]
fn nothing_vouches_for_a_list_of_sink_none() {
    let files = Files::new();
    let mut list = List::without_start(None);
    list.start(Reason::Boot);
    list.entry("cima-exec:x", b"v1;x");
    let path = files.write("list.ima", list.binary());
    for words in [&["verify", &path][..], &["verify", "--tpm", "--", &path]] {
        let ran = cima(words);
        bad(&ran, &["bad: not anchored: nothing vouches for this list"]);
    }
    let verdict = cima(["verify", "--json", &path]).json();
    assert_eq!(verdict["faults"][0]["kind"], "not-anchored");
    assert!(verdict["values_from"].is_null());
}

#[test]
fn a_list_of_another_boot_is_not_for_this_tpm() {
    let files = Files::new();
    let path = files.write("list.ima", List::good().binary());
    for words in [
        &["verify", &path][..],
        &["verify", "--tpm=swtpm:port=1", &path],
    ] {
        cima(words).refused(&[
            "is of boot 8c2d2a94",
            "the TPM's PCRs are of boot",
            "--pcrs",
        ]);
    }
}

#[test]
fn without_a_tpm_there_is_one_sentence() {
    let files = Files::new();
    let path = files.write("list.ima", vector("talk.bin"));
    cima(["verify", "--tpm=device:/absent/tpm", &path])
        .refused(&["there is no usable TPM at /absent/tpm: No such file"]);
    cima(["verify", "--tpm=nonsense:x", &path])
        .complained(&["`nonsense:x` is not a TPM connection"]);
}

#[test]
fn values_are_read_from_files_of_both_tools() {
    let files = Files::new();
    let list = List::good();
    let path = files.write("list.ima", list.binary());
    let [sha1, sha256] = [0, 1].map(|n| hex::encode_upper(list.values()[n].bytes()));
    let yaml = format!(
        "  sha1:\n    12: 0x{}\n    13: 0x{sha1}\n  sha256:\n    13: 0x{sha256}\n",
        "00".repeat(20)
    );
    let evmctl = format!(
        "{}{}",
        pcr_file(&list.values()[0]),
        pcr_file(&list.values()[1])
    );
    for (name, text) in [("yaml", &yaml), ("evmctl", &evmctl)] {
        let ran = cima(["verify", &path, "--pcrs", &files.write(name, text)]);
        good(&ran);
        assert!(
            ran.out.contains("sha256 match   replayed and file"),
            "{}",
            ran.out
        );
        let altered = files.write(name, text.replace(['d', 'D'], "0"));
        bad(&cima(["verify", &path, "--pcrs", &altered]), &[NO_REPLAY]);
    }
}

#[test]
fn a_malformed_file_of_values_is_named_with_its_line() {
    let files = Files::new();
    let path = files.write("list.ima", List::good().binary());
    let cases: [(&[u8], &str); 5] = [
        (b"", "no PCR value"),
        (b"  sha256:\n    13: 0x1234\n", "line 2"),
        (b"PCR-13: zz\n", "line 1"),
        (
            b"\x1b[2J\n",
            r"line 1: it is neither a bank nor a value: \x1b[2J",
        ),
        (b"\xff\xfe", "UTF-8"),
    ];
    for (text, said) in cases {
        let pcrs = files.write("pcrs", text);
        cima(["verify", &path, "--pcrs", &pcrs]).refused(&["pcrs", said]);
    }
    cima(["verify", &path, "--pcrs", &files.path("absent")])
        .refused(&["cannot read the PCR values", "absent"]);
    let other = files.write("pcrs", format!("sha1:\n 10: {}\n", "00".repeat(20)));
    cima(["verify", &path, "--pcrs", &other])
        .refused(&["extend PCR 13, and no value of that PCR was given"]);
}

#[test]
fn an_empty_list_is_not_good() {
    let values: Vec<_> = BANKS.iter().map(|bank| Digest::zeros(*bank)).collect();
    bad(&verify(b"", &values, &[]), &["bad: the list is empty"]);
    let files = Files::new();
    bad(
        &cima(["verify", &files.write("empty", b"")]),
        &["bad: the list is empty"],
    );
}

#[test]
fn a_missing_list_is_one_sentence() {
    let files = Files::new();
    cima(["verify", &files.path("absent")]).refused(&["cannot open", "absent"]);
    cima(["verify", "--state-dir", &files.path("state")])
        .refused(&["there is no list of this boot"]);
}

#[test]
fn a_wrong_command_line_is_2() {
    let value = format!("sha1:13={}", "00".repeat(20));
    let cases: [&[&str]; 7] = [
        &["verify", "x", "--pcr", "13=00"],
        &["verify", "x", "--pcr", &value, "--tpm"],
        &["verify", "x", "--pcr", &value, "--pcrs", "y"],
        &["log", "x", "--json", "--format", "ascii"],
        &["log", "x", "--format", "cel"],
        &["completions", "csh"],
        &[],
    ];
    for words in cases {
        assert_eq!(cima(words).code, Some(2), "{words:?}");
    }
    let ran = cima(["verify", "x", "--pcr", &value, "--pcr", &value]);
    ran.refused(&["PCR 13 of bank sha1 is given twice"]);
}

#[test]
fn json_says_what_the_text_says() {
    let list = List::good();
    let ran = verify(&list.binary(), &replayed(&list.entries[..4]), &["--json"]);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out.lines().count(), 1);
    let verdict = ran.json();
    let text = verify(&list.binary(), &replayed(&list.entries[..4]), &[]);
    assert_eq!(
        format!("bad: {}", verdict["verdict"].as_str().unwrap()),
        text.verdict()
    );
    assert_eq!(verdict["v"], 1);
    assert_eq!(verdict["kind"], "cima");
    assert_eq!(verdict["boot_id"], BOOT);
    assert_eq!(
        (verdict["pcr"].as_u64(), verdict["entries"].as_u64()),
        (Some(13), Some(9))
    );
    assert_eq!(verdict["banks"][1]["bank"], "sha256");
    assert_eq!(verdict["banks"][1]["matches"], false);
    assert_eq!(verdict["banks"][1]["held_entries"], 4);
    assert_eq!(verdict["faults"][0]["kind"], "not-extended");
    assert_eq!(verdict["faults"][0]["index"], 4);
    assert_eq!(verdict["warnings"][0]["violation"], "hash");
}

#[test]
fn no_byte_of_a_list_reaches_the_terminal() {
    let mut list = List::good();
    list.entry("cima-ctx:\u{1b}[2J", b"v1;\x1b");
    list.policy_event(&PolicyEvent {
        name: "cima-violation:chain:\u{202e}".into(),
        payload: "\u{1b}]0;x\u{7}".into(),
    });
    for more in [&[][..], &["--json"]] {
        let ran = verify(&list.binary(), &list.values(), more);
        assert_eq!(ran.code, Some(1));
        assert!(
            ran.bytes
                .iter()
                .all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\n'),
            "{}",
            ran.out
        );
        assert!(
            ran.out.contains("x1b[2J") && ran.out.contains("xe2"),
            "{}",
            ran.out
        );
    }
}

#[test]
fn a_pcr_that_anyone_can_reset_is_warned_about() {
    let entry = Entry::ima_buf(16, HashAlgorithm::Sha256, "x", b"y").unwrap();
    let value =
        Digest::zeros(HashAlgorithm::Sha256).extended(&entry.extend_value(HashAlgorithm::Sha256));
    let pcr = format!("sha256:16={}", hex::encode(value.bytes()));
    let ran = verify(&entry.to_binary(), &[], &["--pcr", &pcr]);
    good(&ran);
    assert!(
        ran.out.contains("warning: PCR 16 can be reset by anyone"),
        "{}",
        ran.out
    );
    assert_eq!(
        ran.verdict(),
        "good: the only entry is in PCR 16, unaltered"
    );
}

#[test]
fn completions_and_help_are_there() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = cima(["completions", shell]);
        assert_eq!(ran.code, Some(0));
        assert!(
            ran.out.contains("verify") && ran.out.contains("state-dir"),
            "{shell}"
        );
    }
    for words in [
        &["--help"][..],
        &["log", "--help"],
        &["verify", "--help"],
        &["completions", "--help"],
    ] {
        let ran = cima(words);
        assert_eq!(ran.code, Some(0));
        assert!(
            ran.out.contains("Examples:") && ran.out.contains("Exit codes: 0"),
            "{words:?}"
        );
    }
}

/// What was extended as it is: no PCR tells that the agent left something out.
fn of(say: impl FnOnce(&mut List)) -> Ran {
    let mut list = List::new();
    say(&mut list);
    verify(&list.binary(), &list.values(), &[])
}

#[test]
fn each_context_event_has_its_policy_event_before_it() {
    let digest = HashAlgorithm::Sha256.digest(b"a program");
    let image: image_digest::ImageDigest = digest.to_string().parse().unwrap();
    let loss = What::Loss(proto::Loss {
        cause: "map-ring-full".into(),
        cpu: 1,
        count: 17,
    });
    let parts = What::Parts(proto::Parts {
        parts: vec![proto::Part {
            name: "probes".into(),
            digest: digest.to_string(),
        }],
    });
    let loaded = What::PolicyLoaded(proto::PolicyLoaded {
        sha256: digest.bytes().to_vec(),
        name: "admission".into(),
    });
    let created = proto::Created {
        container: 7,
        image: digest.bytes().to_vec(),
        allowed: true,
        ..Default::default()
    };
    let lost = "cause=map-ring-full;count=17;at=5";
    let said = |what: What| move |list: &mut List| list.batch(vec![event(what.clone())]);
    type Say = Box<dyn Fn(&mut List)>;
    let cases: [(PolicyEvent, Say); 5] = [
        (
            PolicyEvent::own_violation(Violation::Loss, lost),
            Box::new(said(loss)),
        ),
        (
            PolicyEvent::agent(SelfPart::Probes, &digest),
            Box::new(said(parts)),
        ),
        (
            PolicyEvent::agent(SelfPart::Admission, &digest),
            Box::new(said(loaded)),
        ),
        (
            PolicyEvent::image(&image),
            Box::new(said(What::Created(created.clone()))),
        ),
        (
            PolicyEvent::exec(&NOBODY, PROGRAM, &digest),
            Box::new(List::mapping),
        ),
    ];
    for (policy_event, context) in &cases {
        let name = &policy_event.name;
        let missing = format!("(cima-ctx:1): it tells of what {name} is the entry for");
        good(&of(|list| {
            list.policy_event(policy_event);
            context(list);
        }));
        bad(&of(|list| context(list)), &[&missing]);
        bad(
            &of(|list| {
                context(list);
                list.policy_event(policy_event);
            }),
            &[&missing],
        );
        bad(
            &of(|list| {
                list.entry(name, b"v1;another");
                context(list);
            }),
            &[&missing],
        );
    }
    // Whose a mapping is, the list says itself.
    let of_image = PolicyEvent::exec(&Provenance::Image(image), PROGRAM, &digest);
    let of_nobody = PolicyEvent::exec(&NOBODY, PROGRAM, &digest);
    let in_container = |policy_event: &PolicyEvent, gone: bool| {
        of(|list| {
            list.policy_event(&PolicyEvent::image(&image));
            list.batch(vec![event(What::Created(created.clone()))]);
            if gone {
                let container = created.container;
                let gone = proto::Gone {
                    container,
                    cause: 0,
                };
                list.batch(vec![event(What::Gone(gone))]);
            }
            list.policy_event(policy_event);
            list.mapping_in(created.container);
        })
    };
    good(&in_container(&of_image, false));
    bad(&in_container(&of_nobody, false), &[&of_image.name]);
    for policy_event in [&of_image, &of_nobody] {
        good(&in_container(policy_event, true));
    }
}
