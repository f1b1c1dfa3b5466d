// SPDX-License-Identifier: Apache-2.0
//! `cima verify --host-list`: cima's entries among the kernel's, alone and with the ledger.

use std::fs;

use cima_agent::{
    containers::Provenance,
    measure::{Anchorage, PolicyEvent, SelfPart, Violation, file_name, proto},
    sink::{PcrSink, Sink as _},
    verify::{Anchor, HostJudge, Judgement, Place},
};
use cima_policies::VERIFICATION_DEFAULT;
use ima_log::{BinaryReader, Digest, Entry, HashAlgorithm, Replay, Template};
use proptest::prelude::*;
use proto::context_event::What;

use crate::{
    command::{Files, Ran, cima, cima_reading},
    list::{BOOT, List, NOBODY, binary, event},
    swtpm::Swtpm,
};

const BANKS: [HashAlgorithm; 3] = [
    HashAlgorithm::Sha1,
    HashAlgorithm::Sha256,
    HashAlgorithm::Sha512,
];

/// How an entry of the ledger stands in the host's list.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Buffer,
    /// A file, by which algorithm hashed, and whether the template has room for a signature.
    File(HashAlgorithm, bool),
}

const FORMS: [Form; 4] = [
    Form::Buffer,
    Form::File(HashAlgorithm::Sha256, true),
    Form::File(HashAlgorithm::Sha256, false),
    Form::File(HashAlgorithm::Sha512, true),
];

impl Form {
    fn sink(self) -> &'static str {
        match self {
            Self::Buffer => "kernel",
            Self::File(..) => "ima-file",
        }
    }

    fn of(self, entry: &Entry) -> Entry {
        let fields = entry.fields().unwrap();
        let (name, payload) = (fields.name, fields.payload.unwrap());
        match self {
            Self::Buffer => Entry::ima_buf(10, HashAlgorithm::Sha256, name, payload),
            Self::File(algorithm, with_signature) => {
                let name = file_name(std::str::from_utf8(name).unwrap());
                let digest = algorithm.digest(payload);
                if with_signature {
                    Entry::ima_sig(10, digest, name, &[])
                } else {
                    Entry::ima_ng(10, digest, name)
                }
            }
        }
        .unwrap()
    }

    /// The list of a host whose agent kept this ledger.
    fn host(self, ledger: &[Entry]) -> Vec<Entry> {
        let mut host = vec![foreign("boot_aggregate"), foreign("/sbin/init")];
        for (at, entry) in ledger.iter().enumerate() {
            host.push(self.of(entry));
            host.push(foreign(&format!("/usr/bin/tool-{at}")));
        }
        host
    }
}

/// What the kernel measures besides.
fn foreign(path: &str) -> Entry {
    let digest = HashAlgorithm::Sha256.digest(path.as_bytes());
    Entry::ima_sig(10, digest, path, &[]).unwrap()
}

fn ledger(form: Form) -> List {
    List::in_host(form.sink(), BOOT).filled()
}

/// What PCR 10 holds after `host`.
fn values(host: &[Entry]) -> Vec<(u32, Digest)> {
    let mut replay = Replay::new(&BANKS);
    host.iter().for_each(|entry| replay.extend(entry));
    BANKS
        .iter()
        .map(|bank| (10, replay.value(10, *bank).unwrap()))
        .collect()
}

fn pcr_args(host: &[Entry]) -> Vec<String> {
    let arg = |(pcr, value): (u32, Digest)| {
        let hex = hex::encode(value.bytes());
        [
            "--pcr".to_owned(),
            format!("{}:{pcr}={hex}", value.algorithm()),
        ]
    };
    values(host).into_iter().flat_map(arg).collect()
}

/// `cima verify` of these bytes, with this ledger, against what `host` gives.
fn verify(list: &[u8], host: &[Entry], ledger: Option<&[Entry]>, more: &[&str]) -> Ran {
    let files = Files::new();
    let mut words = vec!["verify".to_owned()];
    if let Some(ledger) = ledger {
        files.write("boot/00000001.ima", binary(ledger));
        words.push(files.path("boot"));
    }
    words.extend(["--host-list".to_owned(), files.write("host.ima", list)]);
    words.extend(pcr_args(host));
    words.extend(more.iter().map(|word| (*word).to_owned()));
    cima(words)
}

fn place(index: usize) -> Place {
    Place {
        index: index as u64,
        offset: 0,
        segment: None,
    }
}

/// The judgement over lists that were extended as they are.
fn judged(host: &[Entry], ledger: Option<&[Entry]>) -> Judgement {
    judged_by(values(host), host, ledger)
}

fn judged_by(values: Vec<(u32, Digest)>, host: &[Entry], ledger: Option<&[Entry]>) -> Judgement {
    let mut judge = HostJudge::new(Anchor::Exactly(values), Some(10), ledger.is_some());
    for (index, entry) in host.iter().enumerate() {
        judge.push(place(index), entry);
    }
    for (index, entry) in ledger.unwrap_or_default().iter().enumerate() {
        judge.push_ledger(place(index), entry);
    }
    let extent = judge.extent();
    if let Some(index) = judge.unlisted(extent) {
        let index = usize::try_from(index).unwrap();
        judge.name(place(index), &host[index]);
    }
    judge.finish(extent)
}

#[track_caller]
fn good(judgement: &Judgement) {
    assert!(judgement.is_good(), "{:?}", judgement.faults);
}

/// Fails unless there is a fault of each of these words, and its sentence has the text beside it.
#[track_caller]
fn bad(judgement: &Judgement, faults: &[(&str, &str)]) {
    assert!(!judgement.is_good());
    for (word, said) in faults {
        let mut found = judgement.faults.iter();
        let found = found.find(|fault| fault.kind.word() == *word);
        let found = found.unwrap_or_else(|| panic!("no {word}: {:?}", judgement.faults));
        assert!(found.to_string().contains(said), "{said}: {found}");
    }
}

fn all_but(entries: &[Entry], at: usize) -> Vec<Entry> {
    let mut entries = entries.to_vec();
    entries.remove(at);
    entries
}

/// A policy event that the kernel lists by itself, and others.
fn exec(path: &str) -> Entry {
    let digest = HashAlgorithm::Sha256.digest(path.as_bytes());
    let event = PolicyEvent::exec(&NOBODY, path.as_bytes(), &digest);
    buffer(&event.name, event.payload.as_bytes())
}

fn buffer(name: &str, payload: &[u8]) -> Entry {
    Entry::ima_buf(10, HashAlgorithm::Sha256, name, payload).unwrap()
}

#[test]
fn a_host_list_and_the_ledger_in_it_are_good_in_every_form() {
    for form in FORMS {
        let ledger = ledger(form);
        let host = form.host(&ledger.entries);
        good(&judged(&host, None));
        good(&judged(&host, Some(&ledger.entries)));
        let with = |algorithm| {
            let hashed = |entry: &Entry| entry.clone().with_hash(algorithm);
            binary(&host.iter().map(hashed).collect::<Vec<_>>())
        };
        let files = [
            ("sha1", binary(&host)),
            ("sha256", with(HashAlgorithm::Sha256)),
            ("sha512", with(HashAlgorithm::Sha512)),
            ("ascii", cima_reading(["log", "-"], &binary(&host)).bytes),
        ];
        for (file, list) in files {
            let ran = verify(&list, &host, Some(&ledger.entries), &[]);
            assert_eq!(
                (ran.code, ran.err.as_str()),
                (Some(0), ""),
                "{file}: {ran:?}"
            );
            assert!(
                ran.out
                    .contains("host.ima: IMA list, 20 entries, 9 of cima\n")
            );
            assert!(
                ran.out
                    .contains(&format!("boot: cima list of boot {BOOT}, 9 entries\n"))
            );
            assert!(ran.out.contains("PCR 10 sha512 match   replayed and given"));
            assert_eq!(
                ran.verdict(),
                "good: all 20 entries are in PCR 10, unaltered and in order; 9 are cima's, with all 9 of the ledger"
            );
            let ran = verify(&list, &host, None, &[]);
            assert_eq!(
                (ran.code, ran.err.as_str()),
                (Some(0), ""),
                "{file}: {ran:?}"
            );
            assert_eq!(
                ran.verdict(),
                "good: all 20 entries are in PCR 10, unaltered and in order; 9 are cima's"
            );
            let unread = "warning: 4 batches are in this list by their digest only";
            assert_eq!(
                ran.out.contains(unread),
                form != Form::Buffer,
                "{}",
                ran.out
            );
        }
    }
}

#[test]
fn a_node_whose_batches_were_not_read_is_not_good() {
    let files = Files::new();
    let shipped = files.write("shipped.toml", VERIFICATION_DEFAULT);
    let strict = "sinks = [\"kernel\"]";
    let strict =
        VERIFICATION_DEFAULT.replace("sinks = [\"kernel\", \"ima-file\", \"pcr\"]", strict);
    let strict = files.write("strict.toml", strict);
    let kinds = |ran: &Ran| {
        let verdict = ran.json();
        let node = verdict["node"].clone();
        let reasons = node["reasons"].as_array().unwrap().iter();
        let kinds = reasons.map(|one| one["kind"].as_str().unwrap().to_owned());
        let rating = node["verdict"].as_str().unwrap().to_owned();
        (ran.code, rating, kinds.collect::<Vec<_>>())
    };
    let has = |kinds: &[String], kind: &str| kinds.iter().any(|of| of == kind);
    let form = FORMS[1];
    let with = |sinks: &[Anchorage]| {
        let mut ledger = List::in_host("ima-file", BOOT);
        for sink in sinks {
            ledger.policy_event(&PolicyEvent::sink(*sink));
        }
        let digest = HashAlgorithm::Sha256.digest(b"cimad");
        ledger.policy_event(&PolicyEvent::agent(SelfPart::Binary, &digest));
        ledger.batch(vec![event(What::Stop(proto::Stop {}))]);
        let host = form.host(&ledger.entries);
        (ledger, host)
    };
    let all = [Anchorage::ImaFile];
    for sinks in [&all[..], &[], &[Anchorage::Kernel, Anchorage::ImaFile]] {
        let (ledger, host) = with(sinks);
        let run = |ledger: Option<&[Entry]>, policy: &str| {
            kinds(&verify(
                &binary(&host),
                &host,
                ledger,
                &["--policy", policy, "--json"],
            ))
        };
        let (code, rating, found) = run(None, &shipped);
        assert_eq!((code, rating.as_str()), (Some(0), "unknown"), "{found:?}");
        assert!(
            has(&found, "unread-batches") && !has(&found, "sink"),
            "{found:?}"
        );
        let (code, rating, found) = run(Some(&ledger.entries), &shipped);
        assert_eq!((code, rating.as_str()), (Some(0), "good"), "{found:?}");
        assert!(!has(&found, "unread-batches"), "{found:?}");
        for ledger in [None, Some(&ledger.entries[..])] {
            let (code, rating, found) = run(ledger, &strict);
            assert_eq!((code, rating.as_str()), (Some(1), "bad"), "{found:?}");
            assert!(has(&found, "sink"), "{found:?}");
        }
    }
    let (_, host) = with(&all);
    let ran = verify(&binary(&host), &host, None, &["--policy", &shipped]);
    assert!(
        ran.verdict()
            .ends_with("what they tell was not judged: give the ledger, too"),
        "{}",
        ran.out
    );
}

#[test]
fn a_list_on_standard_input_is_a_list() {
    let ledger = ledger(Form::Buffer);
    let host = Form::Buffer.host(&ledger.entries);
    let files = Files::new();
    let path = files.write("ledger.ima", ledger.binary());
    let words = |list: &[&str]| {
        let mut words = vec!["verify".to_owned()];
        words.extend(list.iter().map(|word| (*word).to_owned()));
        words.extend(pcr_args(&host));
        words
    };
    let ran = cima_reading(words(&[&path, "--host-list", "-"]), &binary(&host));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let listed = files.write("host.ima", binary(&host));
    let ran = cima_reading(words(&["-", "--host-list", &listed]), &ledger.binary());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = cima_reading(words(&["-", "--host-list", "-"]), &[]);
    ran.refused(&["standard input cannot be both the ledger and the host's list"]);
    // What cannot be read again has no name, but a place.
    let ran = cima_reading(
        words(&[&path, "--host-list", "-"]),
        &binary(&[host.clone(), vec![buffer("cima-image:x", b"v1;x")]].concat()),
    );
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let at = format!("entry 20, at byte {}: it is called", binary(&host).len());
    assert!(ran.out.contains(&at), "{}", ran.out);
}

#[test]
fn policy_events_may_be_in_the_hosts_list_before_the_ledger_says_them() {
    let ledger = ledger(Form::Buffer);
    let (batches, values): (Vec<_>, Vec<_>) = ledger
        .entries
        .iter()
        .cloned()
        .partition(|entry| entry.display_name().starts_with("cima-ctx:"));
    let host = Form::Buffer.host(&[values.clone(), batches.clone()].concat());
    good(&judged(&host, Some(&ledger.entries)));
    // But not behind the batch that tells of them.
    let host = Form::Buffer.host(&[batches, values].concat());
    let judgement = judged(&host, Some(&ledger.entries));
    bad(
        &judgement,
        &[(
            "no-policy-event",
            "(cima-ctx:1): it tells of what cima-exec:",
        )],
    );
}

#[test]
fn a_value_that_the_ledger_lists_again_is_listed_once_by_the_kernel() {
    let mut ledger = ledger(Form::Buffer);
    let host = Form::Buffer.host(&ledger.entries);
    ledger.push(ledger.entries[2].clone());
    good(&judged(&host, Some(&ledger.entries)));
}

#[test]
fn every_flipped_bit_of_either_list_is_noticed() {
    for form in [FORMS[0], FORMS[1]] {
        // Two batches, and what the second tells of.
        let ledger = &ledger(form).entries[..4];
        let host = form.host(ledger);
        let values = values(&host);
        let flipped = |whole: &[u8], judge: &dyn Fn(&[Entry]) -> Judgement| {
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut bytes = whole.to_vec();
                    bytes[at] ^= 1 << bit;
                    let read: Result<Vec<_>, _> = BinaryReader::detect(bytes.as_slice()).collect();
                    let Ok(read) = read else { continue };
                    let read: Vec<_> = read.into_iter().map(|(_, entry)| entry).collect();
                    assert!(!judge(&read).is_good(), "bit {bit} of byte {at}");
                }
            }
        };
        flipped(&binary(&host[..6]), &|read| {
            let host = [read, &host[6..]].concat();
            judged_by(values.clone(), &host, None)
        });
        flipped(&binary(ledger), &|read| {
            judged_by(values.clone(), &host, Some(read))
        });
    }
}

#[test]
fn an_entry_of_the_ledger_that_never_came_into_the_hosts_list_is_named() {
    for form in FORMS {
        let ledger = ledger(form);
        for (at, entry) in ledger.entries.iter().enumerate() {
            let host = form.host(&all_but(&ledger.entries, at));
            let judgement = judged(&host, Some(&ledger.entries));
            let said = format!(
                "ledger: entry {at}, at byte 0 ({}): it is not in the host's list",
                entry.display_name()
            );
            bad(&judgement, &[("not-in-host-list", &said)]);
        }
    }
    let ledger = ledger(Form::Buffer);
    let host = Form::Buffer.host(&ledger.entries[..5]);
    let ran = verify(&binary(&host), &host, Some(&ledger.entries), &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.verdict().starts_with("bad: ledger: entry 5, at byte")
            && ran
                .verdict()
                .contains("of segment 1 (cima-violation:hash:unregistered:/usr/bin/d)"),
        "{}",
        ran.verdict()
    );
}

#[test]
fn an_entry_with_another_content_or_name_is_neither_lists() {
    let ledger = ledger(Form::Buffer).rested();
    let name = ledger.entries[4].display_name();
    let payload = b"v1;sha256:00";
    let others = [
        buffer(&name, payload),
        buffer("cima-exec:unregistered:/usr/bin/C", b"v1;x"),
        // What another sink would make of it.
        FORMS[1].of(&ledger.entries[4]),
        // The form of a file has its name without a path, and its slashes escaped.
        Entry::ima_ng(10, HashAlgorithm::Sha256.digest(payload), file_name(&name)).unwrap(),
        Entry::ima_ng(
            10,
            HashAlgorithm::Sha256.digest(ledger.entries[4].fields().unwrap().payload.unwrap()),
            &name,
        )
        .unwrap(),
    ];
    for other in others {
        let mut host = Form::Buffer.host(&ledger.entries);
        let at = host
            .iter()
            .position(|entry| entry.data == ledger.entries[4].data)
            .unwrap();
        host[at] = other;
        let named = host[at].display_name();
        let judgement = judged(&host, Some(&ledger.entries));
        bad(
            &judgement,
            &[
                ("not-in-host-list", &name),
                (
                    "not-in-ledger",
                    &format!("({named}): it is called cima's and is not in the ledger:"),
                ),
            ],
        );
    }
}

#[test]
fn an_entry_that_the_ledger_lost_is_named() {
    for form in FORMS {
        let ledger = ledger(form).rested();
        let host = form.host(&ledger.entries);
        for (at, entry) in ledger.entries.iter().enumerate() {
            let judgement = judged(&host, Some(&all_but(&ledger.entries, at)));
            let name = form.of(entry).display_name();
            bad(&judgement, &[("not-in-ledger", &format!("({name})"))]);
        }
        // Its tail.
        let judgement = judged(&host, Some(&ledger.entries[..6]));
        bad(
            &judgement,
            &[("not-in-ledger", "in the ledger, and so are 5 more: ")],
        );
    }
    let ledger = ledger(Form::Buffer);
    let host = Form::Buffer.host(&ledger.entries);
    let ran = verify(
        &binary(&host),
        &host,
        Some(&ledger.entries[..8]),
        &["--json"],
    );
    assert_eq!(ran.code, Some(1));
    let fault = &ran.json()["faults"][0];
    assert_eq!(fault["kind"], "not-in-ledger");
    assert_eq!(
        (fault["index"].as_u64(), fault["name"].as_str()),
        (Some(18), Some("cima-ctx:3"))
    );
    assert_eq!(
        fault["offset"].as_u64(),
        Some(binary(&host[..18]).len() as u64)
    );
}

#[test]
fn what_the_kernel_lists_by_itself_may_be_ahead_of_the_agent_and_nothing_else() {
    let ledger = ledger(Form::Buffer);
    let with = |entry: Entry, at: usize| {
        let mut host = Form::Buffer.host(&ledger.entries);
        let at = at.min(host.len());
        host.insert(at, entry);
        judged(&host, Some(&ledger.entries))
    };
    let violation = |kind| {
        let event = PolicyEvent::violation(kind, &NOBODY, b"/x", "open");
        buffer(&event.name, event.payload.as_bytes())
    };
    for entry in [exec("/bin/x"), violation(Violation::Writer)] {
        let judgement = with(entry.clone(), usize::MAX);
        good(&judgement);
        assert_eq!(judgement.host.unwrap().untold, 1);
        let warned = judgement
            .warnings()
            .iter()
            .any(|of| of.word() == "not-in-ledger");
        assert!(warned);
        // Two batches are behind it: the agent gave one before it looked, and one after a look that failed.
        let at = |batch: &str| {
            let host = Form::Buffer.host(&ledger.entries);
            let is_it = |entry: &Entry| entry.display_name() == batch;
            host.iter().position(is_it).unwrap()
        };
        good(&with(entry.clone(), at("cima-ctx:2")));
        // Three are: the agent did not say it.
        let first = at("cima-ctx:1");
        let said = format!("entry {first}");
        bad(&with(entry, first), &[("not-in-ledger", &said)]);
    }
    // The sink that was tried and not taken.
    let tried = PolicyEvent::sink(Anchorage::Kernel);
    let tried = with(buffer(&tried.name, tried.payload.as_bytes()), 3);
    good(&tried);
    assert_eq!(tried.host.unwrap().untold, 0);
    let digest = HashAlgorithm::Sha256.digest(b"x");
    let image = PolicyEvent::agent(SelfPart::Policy, &digest);
    for entry in [
        buffer(&image.name, image.payload.as_bytes()),
        violation(Violation::Chain),
        violation(Violation::Loss),
        buffer("cima-image:sha256:00", b"v1;x"),
        buffer("cima-new:", b"v1;x"),
        FORMS[1].of(&exec("/bin/x")),
    ] {
        bad(&with(entry, usize::MAX), &[("not-in-ledger", "entry 20")]);
    }
}

#[test]
fn a_loss_excuses_nothing_that_the_kernel_listed() {
    let mut ledger = List::in_host("kernel", BOOT);
    let loss = PolicyEvent::own_violation(Violation::Loss, "cause=map-ring-full;count=1;at=5");
    ledger.policy_event(&loss);
    ledger.batch(vec![event(What::Loss(proto::Loss {
        cause: "map-ring-full".into(),
        cpu: 0,
        count: 1,
    }))]);
    let ledger = ledger.rested();
    let mut host = Form::Buffer.host(&ledger.entries);
    host.insert(2, exec("/bin/x"));
    let judgement = judged(&host, Some(&ledger.entries));
    bad(&judgement, &[("not-in-ledger", "entry 2")]);
}

#[test]
fn batches_of_a_hosts_list_are_numbered_without_gap() {
    for form in FORMS {
        let ledger = ledger(form);
        let host = form.host(&all_but(&ledger.entries, 3));
        bad(
            &judged(&host, None),
            &[(
                "batch-order",
                "(cima-ctx:2): it is batch 2 where batch 1 belongs",
            )],
        );
        let host = form.host(&all_but(&ledger.entries, 0));
        bad(
            &judged(&host, None),
            &[("batch-order", "it is batch 1 where batch 0 belongs")],
        );
        let mut swapped = ledger.entries.clone();
        swapped.swap(3, 6);
        let host = form.host(&swapped);
        bad(
            &judged(&host, Some(&ledger.entries)),
            &[("batch-order", "(cima-ctx:2)")],
        );
    }
    for name in ["cima-ctx:01", "cima-ctx:", "cima-ctx:x"] {
        for form in [FORMS[0], FORMS[1]] {
            let mut host = form.host(&ledger(form).entries);
            host.push(form.of(&buffer(name, b"v1;\x08\x04")));
            bad(&judged(&host, None), &[("no-batch", name)]);
        }
    }
    let mut host = Form::Buffer.host(&ledger(Form::Buffer).entries);
    host.push(buffer("cima-ctx:4", b"v1;\x08\x05"));
    bad(
        &judged(&host, None),
        &[("batch-number", "its name says batch 4, its payload batch 5")],
    );
    host.pop();
    host.push(buffer("cima-ctx:4", b"\x08\x04"));
    bad(&judged(&host, None), &[("no-batch", "cima-ctx:4")]);
}

#[test]
fn a_batch_without_its_policy_event_is_named_from_the_hosts_list_alone() {
    let ledger = ledger(Form::Buffer);
    let host = Form::Buffer.host(&all_but(&ledger.entries, 2));
    let ran = verify(&binary(&host), &host, None, &[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.verdict().contains(
            "(cima-ctx:1): it tells of what cima-exec:unregistered:/usr/bin/a%20b%FF is the entry for, and no entry before it is that one"
        ),
        "{}",
        ran.verdict()
    );
}

#[test]
fn a_list_without_a_batch_of_cima_is_not_good() {
    let host = Form::Buffer.host(&[]);
    let ran = verify(&binary(&host), &host, None, &[]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.verdict()
            .starts_with("bad: the list has no entry cima-ctx:0"),
        "{}",
        ran.verdict()
    );
    bad(
        &judged(&Form::Buffer.host(&[exec("/bin/x")]), None),
        &[("not-there", "")],
    );
    bad(&judged(&[], None), &[("empty", "")]);
    bad(
        &judged(&Form::Buffer.host(&ledger(Form::Buffer).entries), Some(&[])),
        &[
            ("empty", "ledger: the list is empty"),
            ("not-in-ledger", ""),
        ],
    );
}

#[test]
fn another_template_cannot_hide_what_is_cimas() {
    let ledger = ledger(Form::Buffer);
    let plain = Form::Buffer.host(&ledger.entries);
    // No hash covers the name of a template: these replay.
    for name in ["ima-sig", "d-ng|n-ng|buf"] {
        let mut host = plain.clone();
        host[4].template = Template::from_name(name);
        bad(
            &judged(&host, None),
            &[("form", &format!("its template is {name}"))],
        );
    }
    let mut host = plain.clone();
    host[4].template = Template::from_name("ima-xyz");
    bad(&judged(&host, None), &[("undecided", "ima-xyz")]);
    let mut host = FORMS[1].host(&ledger.entries);
    host[4].template = Template::ImaBuf;
    bad(&judged(&host, None), &[("entry", "")]);
    let digest = HashAlgorithm::Sha256.digest(b"x");
    let mut host = plain;
    host.push(Entry::ima_sig(10, digest, "cima-exec:x", b"\x03signature").unwrap());
    bad(&judged(&host, None), &[("form", "entry 20")]);
}

#[test]
fn a_violation_or_another_pcr_in_the_place_of_an_entry_is_named() {
    let ledger = ledger(Form::Buffer);
    for template in [Template::ImaBuf, Template::ImaNg] {
        let mut host = Form::Buffer.host(&ledger.entries);
        let violation = Entry::violation(10, template, HashAlgorithm::Sha256, "cima-exec:x");
        host.push(violation.unwrap());
        bad(
            &judged(&host, Some(&ledger.entries)),
            &[("unbound", "(cima-exec:x)")],
        );
    }
    let mut host = Form::Buffer.host(&ledger.entries);
    let entry = Entry::ima_buf(11, HashAlgorithm::Sha256, "cima-exec:x", b"v1;x").unwrap();
    let values = [
        values(&host),
        vec![(
            11,
            Digest::zeros(HashAlgorithm::Sha1).extended(&entry.extend_value(HashAlgorithm::Sha1)),
        )],
    ]
    .concat();
    host.push(entry);
    bad(
        &judged_by(values, &host, Some(&ledger.entries)),
        &[(
            "pcr",
            "it extends PCR 11, but the list is anchored in PCR 10",
        )],
    );
    let of_other: Vec<_> = Form::Buffer
        .host(&ledger.entries)
        .into_iter()
        .map(|entry| Entry { pcr: 11, ..entry })
        .collect();
    let mut replay = Replay::new(&BANKS);
    of_other.iter().for_each(|entry| replay.extend(entry));
    let value = replay.value(11, BANKS[0]).unwrap();
    bad(
        &judged_by(vec![(11, value)], &of_other, None),
        &[("other-pcr", "the list is kept in PCR 11, not in PCR 10")],
    );
}

#[test]
fn an_altered_or_shortened_host_list_does_not_replay() {
    let ledger = ledger(Form::Buffer);
    let host = Form::Buffer.host(&ledger.entries);
    let values = values(&host);
    for at in 0..host.len() {
        let judgement = judged_by(values.clone(), &all_but(&host, at), Some(&ledger.entries));
        bad(&judgement, &[("no-replay", "")]);
    }
    let longer = [host.clone(), vec![foreign("/bin/late")]].concat();
    let judgement = judged_by(values, &longer, Some(&ledger.entries));
    bad(
        &judgement,
        &[(
            "not-extended",
            "entry 20 (/bin/late) is the first that was never extended",
        )],
    );
    assert!(judgement.lags());
}

#[test]
fn a_ledger_of_its_own_pcr_is_not_in_a_hosts_list() {
    let own = List::good();
    let host = Form::Buffer.host(&ledger(Form::Buffer).entries);
    bad(
        &judged(&host, Some(&own.entries)),
        &[
            (
                "other-pcr",
                "ledger: the list is kept in PCR 13, not in PCR 10",
            ),
            ("not-in-host-list", "entry 0"),
        ],
    );
}

#[test]
fn json_says_what_was_compared() {
    let ledger = ledger(Form::Buffer);
    let host = Form::Buffer.host(&ledger.entries);
    let verdict = verify(&binary(&host), &host, Some(&ledger.entries), &["--json"]).json();
    assert_eq!(
        (verdict["good"].as_bool(), verdict["kind"].as_str()),
        (Some(true), Some("host"))
    );
    assert_eq!(
        (verdict["pcr"].as_u64(), verdict["boot_id"].as_str()),
        (Some(10), Some(BOOT))
    );
    assert_eq!(
        (
            verdict["entries"].as_u64(),
            verdict["cima"]["entries"].as_u64()
        ),
        (Some(20), Some(9))
    );
    assert_eq!(verdict["cima"]["ledger_entries"], 9);
    assert!(
        verdict["cima"]["ledger"]
            .as_str()
            .unwrap()
            .ends_with("/boot")
    );
    let verdict = verify(&binary(&host), &host, None, &["--json"]).json();
    assert!(verdict["cima"]["ledger"].is_null() && verdict["cima"]["ledger_entries"].is_null());
    let shorter = &ledger.entries[..3];
    let host = Form::Buffer.host(shorter);
    let verdict = verify(&binary(&host), &host, Some(&ledger.entries), &["--json"]).json();
    let fault = &verdict["faults"][0];
    assert_eq!(
        (fault["kind"].as_str(), fault["list"].as_str()),
        (Some("not-in-host-list"), Some("ledger"))
    );
    assert_eq!(
        (fault["segment"].as_u64(), fault["index"].as_u64()),
        (Some(1), Some(3))
    );
}

#[test]
fn a_ledger_kept_in_a_hosts_list_is_not_compared_with_a_pcr_alone() {
    let files = Files::new();
    let ledger = ledger(Form::Buffer);
    let path = files.write("ledger.ima", ledger.binary());
    let host = Form::Buffer.host(&ledger.entries);
    let words = [vec!["verify".to_owned(), path], pcr_args(&host)].concat();
    cima(words).refused(&[
        "ledger.ima are in the IMA list of the host and boot",
        "--host-list",
    ]);
    let host = files.write("host.ima", binary(&host));
    let ran = cima(["verify", "--host-list", &host, "--trust-start"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    cima(["verify", "--host-list", &files.path("absent")]).refused(&["cannot open", "absent"]);
}

#[track_caller]
fn says_no(ran: &Ran, said: &[&str]) {
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""), "{ran:?}");
    for said in said {
        assert!(ran.out.contains(said), "{said} is not in {}", ran.out);
    }
}

#[test]
fn a_list_that_ends_in_a_record_is_not_what_was_extended() {
    let ledger = ledger(Form::Buffer);
    let host = Form::Buffer.host(&ledger.entries);
    let whole = binary(&host);
    let ran = verify(&whole[..whole.len() - 3], &host, Some(&ledger.entries), &[]);
    says_no(&ran, &["bad: entry 19, at byte", "the list ends inside it"]);
    let files = Files::new();
    let listed = files.write("host.ima", &whole);
    let torn = files.write("ledger.ima", &ledger.binary()[..ledger.binary().len() - 3]);
    let words = ["verify".to_owned(), torn, "--host-list".to_owned(), listed];
    let ran = cima([words.to_vec(), pcr_args(&host)].concat());
    says_no(
        &ran,
        &["ledger: entry 8, at byte", "the list ends inside it"],
    );
}

#[test]
fn a_host_list_is_verified_against_the_tpm() {
    let (files, tpm) = (Files::new(), Swtpm::start());
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let ledger = List::in_host(FORMS[1].sink(), boot.trim()).filled();
    let host = FORMS[1].host(&ledger.entries);
    let mut sink = PcrSink::open(&tpm.tcti(), 10).unwrap();
    let banks: Vec<_> = sink.read().unwrap().iter().map(Digest::algorithm).collect();
    for entry in &host {
        let values: Vec<_> = banks.iter().map(|bank| entry.extend_value(*bank)).collect();
        sink.extend(entry, &values).unwrap();
    }
    drop(sink);
    let path = files.write("ledger.ima", ledger.binary());
    let listed = files.write("host.ima", binary(&host));
    let tcti = format!("--tpm={}", tpm.tcti());
    let ran = cima(["verify", &path, "--host-list", &listed, &tcti]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    for bank in banks {
        let said = format!("PCR 10 {bank:<6} match   replayed and TPM");
        assert!(ran.out.contains(&said), "{}", ran.out);
    }
    // The ledger's last entry was never put into the list.
    let exec = exec("/bin/never");
    let longer = files.write("longer.ima", [ledger.binary(), exec.to_binary()].concat());
    let ran = cima(["verify", &longer, "--host-list", &listed, &tcti]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.out.contains("but 2 looks found them apart"),
        "{}",
        ran.out
    );
    assert!(
        ran.verdict()
            .contains("(cima-exec:unregistered:/bin/never): it is not in the host's list")
    );
    let of_other = List::in_host("kernel", BOOT);
    let other = files.write("other.ima", of_other.binary());
    cima(["verify", &other, "--host-list", &listed, &tcti]).refused(&["is of boot 8c2d2a94"]);
    let kernels = files.write("kernels.ima", binary(&Form::Buffer.host(&of_other.entries)));
    cima(["verify", "--host-list", &kernels, &tcti]).refused(&["is of boot 8c2d2a94"]);
}

/// What an agent may say: how many files are mapped before each batch, and whether one is new.
fn history() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(0..20u8, 0..4), 1..8)
}

fn told(history: &[Vec<u8>], sink: &'static str) -> Vec<Entry> {
    let mut list = List::in_host(sink, BOOT);
    let mut said = Vec::new();
    for files in history {
        for file in files {
            if !said.contains(file) {
                said.push(*file);
                let digest = HashAlgorithm::Sha256.digest(&[*file]);
                let path = format!("/bin/{file}/{}", "x".repeat(usize::from(*file) * 20));
                let event = PolicyEvent::exec(&Provenance::Unmeasured, path.as_bytes(), &digest);
                list.policy_event(&event);
            }
        }
        list.batch(vec![event(What::Stop(proto::Stop {}))]);
    }
    list.rested().entries
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_history_is_good_in_any_form_and_no_lack_of_it_is(
        history in history(),
        form in prop::sample::select(&FORMS[..]),
        at: prop::sample::Index,
    ) {
        let ledger = told(&history, form.sink());
        let host = form.host(&ledger);
        prop_assert!(judged(&host, Some(&ledger)).is_good());
        prop_assert!(judged(&host, None).is_good());
        let at = at.index(ledger.len());
        let lacking = all_but(&ledger, at);
        prop_assert!(!judged(&host, Some(&lacking)).is_good(), "the ledger lacks {at}");
        prop_assert!(!judged(&form.host(&lacking), Some(&ledger)).is_good(), "the host lacks {at}");
        let values = values(&host);
        prop_assert!(!judged_by(values, &form.host(&lacking), Some(&lacking)).is_good(), "both lack {at}");
    }
}
