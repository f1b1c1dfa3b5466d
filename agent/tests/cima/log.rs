// SPDX-License-Identifier: Apache-2.0
//! `cima log`.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use ima_log::{Entry, HashAlgorithm};
use serde_json::{Value, json};

use crate::{
    command::{Files, Ran, cima, cima_reading, command, run_reading},
    list::{List, PCR, binary, entries, vector, vector_path},
};

/// Vectors of kernels' lists that have both forms; all but the original template's torn ends.
const VECTORS: [&str; 8] = [
    "talk",
    "common",
    "violations",
    "original",
    "newer-templates",
    "big-endian",
    "per-algorithm-sha256",
    "per-algorithm-sha512",
];

fn json_lines(ran: &Ran) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap();
    ran.out.lines().map(parse).collect()
}

#[test]
fn a_kernels_list_of_either_form_is_shown_in_either_form() {
    for name in VECTORS {
        let forms = [
            ("ascii", vector(&format!("{name}.ascii"))),
            ("binary", vector(&format!("{name}.bin"))),
        ];
        for from in ["bin", "ascii"] {
            for (format, expected) in &forms {
                let path = vector_path(&format!("{name}.{from}"));
                let ran = cima(["log", &path, "--format", format]);
                assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{name}.{from}");
                // Without an entry whose hash tells, an ASCII list is taken for little endian.
                assert!(ran.bytes == *expected, "{name}.{from} as {format}");
            }
        }
    }
}

#[test]
fn the_list_may_come_from_standard_input() {
    for form in ["bin", "ascii"] {
        let ran = cima_reading(["log", "-"], &vector(&format!("common.{form}")));
        assert_eq!(ran.code, Some(0));
        assert_eq!(ran.bytes, vector("common.ascii"));
    }
}

#[test]
fn a_json_line_tells_what_a_policy_event_says() {
    let files = Files::new();
    let list = List::good();
    let path = files.write("list.ima", list.binary());
    let lines = json_lines(&cima(["log", "--json", &path]));
    assert_eq!(lines.len(), list.entries.len());
    let digest = HashAlgorithm::Sha256.digest(b"a program");
    let payload = format!("v1;{digest}");
    assert_eq!(
        lines[2],
        json!({
            "v": 1,
            "index": 2,
            "offset": list.offsets()[2],
            "pcr": 13,
            "template_hash": list.entries[2].template_hash.to_string(),
            "template": "ima-buf",
            "name": "cima-exec:unregistered:/usr/bin/a%20b%FF",
            "digest": HashAlgorithm::Sha256.digest(payload.as_bytes()).to_string(),
            "payload": payload,
        })
    );
}

#[test]
fn a_json_line_decodes_a_batch_with_the_identity_in_place() {
    let files = Files::new();
    let path = files.write("list.ima", List::good().binary());
    let lines = json_lines(&cima(["log", "--format", "jsonl", &path]));
    let start = &lines[0]["batch"]["events"][0]["start"];
    assert_eq!(start["boot_id"], crate::list::BOOT);
    assert_eq!(start["pcr"], 13);
    assert_eq!(start["reason"], "BOOT");
    assert_eq!(start["banks"][0]["value"], "00".repeat(20));
    let batch = &lines[3]["batch"];
    assert_eq!(batch["seq"], 1);
    let event = &batch["events"][0];
    assert_eq!(event["time_ns"], 5);
    assert_eq!(event["identity"]["mnt_generation"], 77);
    assert_eq!(event["identity"]["container_id"], "ab".repeat(32));
    assert_eq!(event["identity"]["cgroup_path"], r"/machine.slice/\x1b[2J");
    assert_eq!(event["mapping"]["file"]["path"], r"/usr/bin/a b\xff");
    let digest = HashAlgorithm::Sha256.digest(b"a program");
    assert_eq!(event["mapping"]["digest"], hex::encode(digest.bytes()));
    assert!(lines[3]["payload"].is_null() && lines[3]["payload_hex"].is_string());
    let restart = &lines[6]["batch"]["events"][0];
    assert_eq!(restart["start"]["reason"], "RESTART");
    assert!(restart["identity"].is_null());
    assert_eq!(lines[8]["batch"]["events"][0]["stop"], json!({}));
}

#[test]
fn segments_are_one_list() {
    let files = Files::new();
    let list = List::good();
    files.write("boot/00000001.ima", binary(&list.entries[..4]));
    files.write("boot/00000002.ima", binary(&list.entries[4..]));
    files.write("boot/00000003.ima", b"");
    files.write("boot/intent", b"cima-intent-2\n");
    let dir = files.path("boot");
    let ran = cima(["log", "--format", "binary", &dir]);
    assert_eq!(ran.bytes, list.binary());
    let lines = json_lines(&cima(["log", "--json", &dir]));
    let place = |line: &Value| {
        (
            line["index"].as_u64(),
            line["segment"].as_u64(),
            line["offset"].as_u64(),
        )
    };
    assert_eq!(place(&lines[4]), (Some(4), Some(2), Some(0)));
    let offsets = list.offsets();
    let offset = u64::try_from(offsets[5] - offsets[4]).unwrap();
    assert_eq!(place(&lines[5]), (Some(5), Some(2), Some(offset)));
}

#[test]
fn without_a_name_it_is_the_running_boots_list() {
    let files = Files::new();
    let state = files.path("state");
    let ran = cima(["log", "--state-dir", &state]);
    ran.refused(&["there is no list of this boot", &state, "--state-dir"]);
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let name = format!("state/ledger/{}/00000001.ima", boot.trim());
    files.write(&name, List::good().binary());
    assert_eq!(cima(["log", "--state-dir", &state]).out.lines().count(), 9);
}

#[test]
fn a_torn_list_is_shown_up_to_there() {
    let files = Files::new();
    let list = List::good();
    let offsets = list.offsets();
    for present in 1..offsets[5] - offsets[4] {
        let path = files.write("torn.ima", &list.binary()[..offsets[4] + present]);
        for format in ["ascii", "binary", "jsonl"] {
            let ran = cima(["log", "--format", format, &path]);
            let at = format!("byte {}", offsets[4]);
            ran.complained(&["torn.ima", "record 4", &at, "the list ends inside it"]);
            match format {
                "binary" => assert_eq!(ran.bytes, list.binary()[..offsets[4]]),
                _ => assert_eq!(ran.out.lines().count(), 4),
            }
            if present > 3 {
                // Every format is shown alike: the rest of the cuts need one only.
                break;
            }
        }
    }
}

#[test]
fn a_segment_that_a_broken_chain_left_torn_does_not_hide_the_next() {
    let files = Files::new();
    let list = List::good();
    let torn = &binary(&list.entries[..4])[..list.offsets()[4] - 5];
    files.write("boot/00000001.ima", torn);
    files.write("boot/00000002.ima", binary(&list.entries[4..]));
    let ran = cima(["log", &files.path("boot")]);
    assert_eq!(ran.out.lines().count(), 3 + 5);
    ran.complained(&["00000001.ima", "record 3"]);
}

#[test]
fn what_is_not_a_list_is_refused_in_one_sentence() {
    let files = Files::new();
    let cases: [(&str, &[u8], &str); 5] = [
        (
            "elf",
            b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0>\0\x01\0\0\0",
            "not the start of a binary",
        ),
        ("text", b"hello, this is a text\n", "not a PCR"),
        ("escape", b"10 0 \x1b[2J x\n", "template hash"),
        ("two", b"\x0d\0", "ends inside it"),
        ("zeros", &[0; 4096], ""),
    ];
    for (name, content, said) in cases {
        let path = files.write(name, content);
        cima(["log", &path]).refused(&[name, said]);
    }
    cima(["log", &files.path("absent")]).refused(&["cannot open", "absent"]);
    files.write("state/ledger/boot/00000001.ima", b"");
    cima(["log", &files.path("state")]).refused(&["has no segments", "<boot id>"]);
}

#[test]
fn an_empty_list_is_nothing() {
    let files = Files::new();
    let path = files.write("empty.ima", b"");
    let ran = cima(["log", &path]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "", "")
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let files = Files::new();
    let entry = Entry::ima_buf(PCR, HashAlgorithm::Sha256, "x", &[b'x'; 10_000]).unwrap();
    let path = files.write("long.ima", binary(&vec![entry; 2000]));
    for format in ["ascii", "binary", "jsonl"] {
        let mut child = command()
            .args(["log", "--format", format, &path])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        assert!(!stdout.fill_buf().unwrap().is_empty());
        drop(stdout);
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{format}");
    }
}

#[test]
fn a_file_is_written_and_never_the_list_itself() {
    let files = Files::new();
    let list = List::good();
    let path = files.write("boot/00000001.ima", list.binary());
    let output = files.write("out", vec![b'x'; 100_000]);
    let ran = cima(["log", &path, "--format", "binary", "-o", &output]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""));
    assert_eq!(fs::read(&output).unwrap(), list.binary());
    std::os::unix::fs::symlink(&path, files.path("link")).unwrap();
    for (from, to) in [
        (&path, &path),
        (&files.path("boot"), &path),
        (&path, &files.path("link")),
    ] {
        let ran = cima(["log", from, "--format", "binary", "-o", to]);
        ran.refused(&["is the list itself"]);
        assert_eq!(
            fs::read(&path).unwrap(),
            list.binary(),
            "the list is unharmed"
        );
    }
    let ran = cima(["log", &path, "-o", "/absent/out"]);
    ran.refused(&["cannot write to /absent/out"]);
    let ran = cima(["log", &path, "-o", "/dev/full"]);
    ran.refused(&["cannot write to /dev/full", "No space"]);
}

#[test]
fn a_name_that_no_line_can_carry_is_left_out_and_said() {
    let files = Files::new();
    let digest = HashAlgorithm::Sha256.digest(b"");
    let entry = |name: &[u8]| Entry::ima_ng(10, digest, name).unwrap();
    let forged = b"/x\n10 00 ima-ng sha256:00 /forged";
    let list = binary(&[entry(b"/a"), entry(forged), entry(forged), entry(b"/b")]);
    let path = files.write("list.ima", &list);
    let ran = cima(["log", &path]);
    assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
    ran.complained(&[
        "entry 1",
        "no ASCII form",
        "it and 1 more are left out",
        "jsonl",
    ]);
    let lines = json_lines(&cima(["log", "--json", &path]));
    assert_eq!(lines[1]["name"], r"/x\x0a10_00_ima-ng_sha256:00_/forged");
}

#[test]
fn no_byte_of_a_list_reaches_the_terminal_in_json() {
    let files = Files::new();
    let mut list = List::new();
    list.entry("cima-exec:\u{1b}[2J\u{202e}\\", b"\x1b]0;owned\x07");
    // A container id and an algorithm are text in the schema: no reason to trust them.
    list.entry("cima-ctx:1", b"v1;\x08\x01\x2a\x08\x62\x06\x1b[2J\xc2\x9b\x3a\x02\x38\x01\x22\x04\x08\x0a\x10\x01\x22\x07\x08\x0a\x6a\x03\x0a\x01\x9b");
    let path = files.write("list.ima", list.binary());
    let ran = cima(["log", "--json", &path]);
    assert!(
        ran.bytes
            .iter()
            .all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\n'),
        "{}",
        ran.out
    );
    let lines = json_lines(&ran);
    assert_eq!(lines[1]["name"], r"cima-exec:\x1b[2J\xe2\x80\xae\x5c");
    assert_eq!(lines[1]["payload_hex"], hex::encode(b"\x1b]0;owned\x07"));
    let events = &lines[2]["batch"]["events"];
    assert_eq!(events[0]["identity"]["container_id"], r"\x1b[2J\xc2\x9b");
    assert_eq!(
        events[1]["unknown_hex"], "080a6a030a019b",
        "not UTF-8: shown as bytes"
    );
}

#[test]
fn a_long_list_and_a_hostile_batch_take_constant_memory() {
    let mut list = List::new();
    // 16 MiB of empty events and identities: whole, they would take gigabytes.
    for empty in [[0x22, 0], [0x2a, 0]] {
        let payload = [b"v1;".as_slice(), &empty.repeat((8 << 20) - 100)].concat();
        list.entry("cima-ctx:1", &payload);
    }
    // One event of 16 MiB, a Start with millions of empty banks; and one just short enough to be read.
    for banks in [(8 << 20) - 100, (512 << 10) - 10] {
        let start = [0x2a, 0].repeat(banks);
        let event = field(0x5a, &start);
        list.entry(
            "cima-ctx:1",
            &[b"v1;".as_slice(), &field(0x22, &event)].concat(),
        );
    }
    for n in 0..60 {
        list.entry(&format!("cima-exec:{n}"), &vec![b'x'; 1 << 20]);
    }
    let bytes = list.binary();
    assert!(bytes.len() > 100 << 20);
    for words in [
        vec!["log", "--json"],
        vec!["log", "--format", "binary"],
        vec!["verify", "--pcr", ZERO],
    ] {
        let limited = "ulimit -v 200000; exec \"$0\" \"$@\" -";
        let mut shell = Command::new("sh");
        shell
            .args(["-c", limited, env!("CARGO_BIN_EXE_cima")])
            .args(&words);
        let ran = run_reading(&mut shell, &bytes);
        let code = if words[0] == "log" { 0 } else { 1 };
        assert_eq!(ran.code, Some(code), "{words:?}: {}", ran.err);
    }
}

/// A protobuf field with its length in front.
fn field(key: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![key];
    prost::encode_length_delimiter(bytes.len(), &mut field).unwrap();
    field.extend_from_slice(bytes);
    field
}

const ZERO: &str = "sha1:13=0000000000000000000000000000000000000000";

#[test]
fn what_log_writes_as_binary_is_what_it_reads() {
    let list = List::good();
    let ascii = cima_reading(["log", "-"], &list.binary()).bytes;
    let back = cima_reading(["log", "-", "--format", "binary"], &ascii).bytes;
    assert_eq!(entries(&back), list.entries);
}
