// SPDX-License-Identifier: Apache-2.0
//! Every way a list or an entry can be wrong, and the sentence that says so.
#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

use std::io::{self, Read};

use ima_log::{
    AsciiReader, BinaryFormat, BinaryReader, ByteOrder, Digest, Entry, HashAlgorithm, Limits,
    Template,
};

fn entry() -> Entry {
    Entry::ima_buf(10, HashAlgorithm::Sha256, "name", b"payload").unwrap()
}

/// One good record, then `bytes`: the sentence of the error they give.
fn after_good_record(bytes: &[u8]) -> String {
    let list = [entry().to_binary(), bytes.to_vec()].concat();
    let mut reader = BinaryReader::new(list.as_slice(), BinaryFormat::default());
    assert!(reader.next().unwrap().is_ok());
    let error = reader.next().unwrap().unwrap_err();
    assert_eq!(
        (error.index, error.offset),
        (1, entry().to_binary().len() as u64)
    );
    assert!(reader.next().is_none(), "a reader ends at its first error");
    error.to_string()
}

/// The good record with `bytes` put at `offset`.
fn patched(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut record = entry().to_binary();
    record[offset..offset + bytes.len()].copy_from_slice(bytes);
    record
}

#[test]
fn a_bad_record_is_named_with_its_place_and_reason() {
    let name_at = 28;
    let data_len_at = name_at + 7;
    let foreign = entry().with_order(ByteOrder::Big).unwrap().to_binary();
    let original = Entry {
        template: Template::Ima,
        ..Entry::ima(10, sha1(), "n").unwrap()
    };
    let mut long_name = original.to_binary();
    long_name[31 + 20..31 + 24].copy_from_slice(&256_u32.to_le_bytes());
    let cases: [(&str, Vec<u8>, &str); 10] = [
        (
            "cut in its PCR",
            vec![10, 0],
            "the list ends inside it, after 2 of its bytes",
        ),
        (
            "cut in its data",
            patched(0, &[])[..90].to_vec(),
            "the list ends inside it, after 90 of its bytes",
        ),
        (
            "zeros, as after a power loss",
            vec![0; 64],
            "its template name is empty",
        ),
        (
            "PCR",
            patched(0, &[200, 0, 0, 0]),
            "it names PCR 200; the kernel extends none above 63",
        ),
        (
            "name length",
            patched(24, &[0, 1, 1, 0]),
            "its template name is said to have 65792 bytes, more than the 255 allowed",
        ),
        (
            "name",
            patched(name_at, b"ima\x1b"),
            "its template name is not one: \"ima\\x1bbuf\"",
        ),
        (
            "data length",
            patched(data_len_at, &[0, 0, 0, 2]),
            "its template data is said to have 33554432 bytes, more than the 16777216 allowed",
        ),
        (
            "data length beyond the end",
            patched(data_len_at, &[0, 0, 1, 0]),
            "the list ends inside it, after 103 of its bytes",
        ),
        (
            "byte order",
            foreign,
            "it makes no sense as little-endian, but does as big-endian: the list is of a machine of the other byte order",
        ),
        (
            "name of an original entry",
            long_name,
            "its event name is said to have 256 bytes, more than the 255 allowed",
        ),
    ];
    for (case, bytes, sentence) in cases {
        let whole = format!("record 1, at byte 103: {sentence}");
        assert_eq!(after_good_record(&bytes), whole, "{case}");
    }
}

#[test]
fn what_is_no_list_is_said_to_be_none() {
    let cases: [(&str, &[u8], &str); 3] = [
        ("an ASCII list", b"10 5c4f7bddfc3988228ca9d50629d524b4dacb1454 ima-ng sha256:d3f7 /hello\n", "this is text, not a binary measurement list; an ASCII list, perhaps"),
        ("an ELF file", b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "this is not the start of a binary measurement list"),
        ("one PCR's worth of garbage", b"\xff\xff\xff\xff", "this is not the start of a binary measurement list"),
    ];
    for (case, bytes, sentence) in cases {
        let error = BinaryReader::detect(bytes).next().unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("record 0, at byte 0: {sentence}"),
            "{case}"
        );
    }
}

#[test]
fn what_is_said_of_no_list_depends_not_on_how_its_bytes_arrive() {
    let text_and_more = [&b"text ".repeat(100)[..], b"\xff"].concat();
    let (at_once, rest) = (&text_and_more[..], &text_and_more[400..]);
    let in_parts = text_and_more[..400].chain(rest);
    let said = |error: Option<ima_log::ReadError>| error.unwrap().to_string();
    let at_once = said(BinaryReader::detect(at_once).next().and_then(Result::err));
    let in_parts = said(BinaryReader::detect(in_parts).next().and_then(Result::err));
    assert_eq!(at_once, in_parts);
}

#[test]
fn an_empty_list_is_a_list() {
    assert!(BinaryReader::detect(&[][..]).next().is_none());
    assert!(AsciiReader::detect(&[][..]).next().is_none());
}

#[test]
fn a_bad_line_is_named_with_its_place_and_reason() {
    let hash = "0".repeat(40);
    let digest = "0".repeat(64);
    let cases: [(&str, String, &str); 15] = [
        (
            "nothing but a PCR",
            "10\n".into(),
            "it has no template hash",
        ),
        (
            "no template",
            format!("10 {hash}\n"),
            "it has no template name",
        ),
        (
            "no data",
            format!("10 {hash} ima-ng\n"),
            "it has no template data",
        ),
        (
            "no name",
            format!("10 {hash} ima-ng sha256:{digest}\n"),
            "it has no d-ng",
        ),
        (
            "PCR",
            format!("64 {hash} ima-ng x /n\n"),
            "it starts with \"64\", which is not a PCR (0 to 63)",
        ),
        (
            "PCR with a sign",
            format!("+1 {hash} ima-ng x /n\n"),
            "it starts with \"+1\", which is not a PCR (0 to 63)",
        ),
        (
            "hash",
            "10 abc ima-ng x /n\n".into(),
            "its template hash \"abc\" is not 40, 64, 96 or 128 hexadecimal digits",
        ),
        (
            "name of the template",
            format!("10 {hash} \x07 x /n\n"),
            "its template name is not one: \"\\x07\"",
        ),
        (
            "unknown template",
            format!("10 {hash} ima-next sha256:00 /n\n"),
            "the template \"ima-next\" is not known, so its columns cannot be read",
        ),
        (
            "digest",
            format!("10 {hash} ima-ng sha256:xyz /n\n"),
            "\"sha256:xyz\" is not what field \"d-ng\" looks like",
        ),
        (
            "a prefix that says nothing",
            format!("10 {hash} ima-ngv2 : /n\n"),
            "\":\" is not what field \"d-ngv2\" looks like",
        ),
        (
            "signature",
            format!("10 {hash} ima-sig sha256:{digest} /n zz\n"),
            "\"zz\" is not what field \"sig\" looks like",
        ),
        (
            "space in the names of attributes",
            format!("10 {hash} xattrnames security.ima security.evm\n"),
            "\"security.ima security.evm\" is not what field \"xattrnames\" looks like",
        ),
        (
            "digest of the original",
            format!("10 {hash} ima 00 /n\n"),
            "\"00\" is not what field \"d\" looks like",
        ),
        (
            "cut",
            format!("10 {hash} ima-ng sha256:{digest} /n"),
            "the list ends inside it, after 125 of its bytes",
        ),
    ];
    for (case, line, sentence) in cases {
        let list = format!("\n{line}");
        let error = AsciiReader::detect(list.as_bytes())
            .next()
            .unwrap()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("entry 0, at byte 1: {sentence}"),
            "{case}"
        );
    }
}

#[test]
fn a_line_longer_than_the_limit_is_refused() {
    let mut list = Vec::new();
    entry().write_ascii(&mut list).unwrap();
    let error = AsciiReader::detect(list.as_slice())
        .with_limit(50)
        .next()
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry 0, at byte 0: it is longer than the 50 bytes allowed"
    );
}

#[test]
fn trailing_spaces_an_editor_took_away_are_not_missed() {
    let signed = Entry::ima_sig(10, HashAlgorithm::Sha256.digest(b""), "/n", &[]).unwrap();
    let mut list = signed.to_ascii().unwrap();
    assert_eq!(list.pop(), Some(b' '));
    list.push(b'\n');
    assert_eq!(
        AsciiReader::detect(list.as_slice())
            .next()
            .unwrap()
            .unwrap()
            .1,
        signed
    );
}

fn sha1() -> Digest {
    HashAlgorithm::Sha1.digest(b"file")
}

/// An entry with these data whose template hash is right.
fn hashed(template: &str, data: &[u8]) -> Entry {
    let template_hash = Digest::ones(HashAlgorithm::Sha1);
    let template = Template::from_name(template);
    Entry {
        pcr: 10,
        template_hash,
        template,
        data: data.to_vec(),
        ..Entry::default()
    }
    .with_hash(HashAlgorithm::Sha1)
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat()
}

#[test]
fn an_inconsistent_entry_is_told_what_differs() {
    let d = field(b"sm3:\0\x01\x02");
    let n = field(b"/n\0");
    let short = field(b"sha256:\0\x01\x02");
    let mut listed = entry();
    listed.template_hash = Digest::ones(HashAlgorithm::Sha1);
    let mut violation = Entry::violation(10, Template::ImaNg, HashAlgorithm::Sha1, "/n").unwrap();
    violation.data[10] = 0xab;
    let payload = [
        field(&[b"sha1:\0", sha1().bytes()].concat()),
        n.clone(),
        field(b"x"),
    ]
    .concat();
    let cases: [(&str, Entry, &str); 13] = [
        (
            "template hash",
            listed,
            "the list gives its template hash as sha1:ffffffffffffffffffffffffffffffffffffffff, but its data hash to sha1:69c52dda9456a676267ae877912dc06ea782b0a2",
        ),
        (
            "short",
            hashed("ima-ng", &d),
            "its hash is right, but the template data end inside field \"n-ng\": it needs 4 bytes, 0 are left",
        ),
        (
            "shorter",
            hashed("ima-ng", &d[..6]),
            "its hash is right, but the template data end inside field \"d-ng\": it needs 7 bytes, 2 are left",
        ),
        (
            "trailing",
            hashed("ima-ng", &[d.clone(), n.clone(), vec![0]].concat()),
            "its hash is right, but 1 bytes follow the last field of the template data",
        ),
        (
            "no algorithm",
            hashed("ima-ng", &[field(&[7; 20]), n.clone()].concat()),
            "its hash is right, but field \"d-ng\" does not start with the name of a hash algorithm: \\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07\\x07",
        ),
        (
            "no NUL",
            hashed("ima-ng", &[d.clone(), field(b"/n")].concat()),
            "its hash is right, but field \"n-ng\" does not end in a NUL byte",
        ),
        (
            "two NULs",
            hashed("ima-ng", &[d.clone(), field(b"/n\0evil\0")].concat()),
            "its hash is right, but field \"n-ng\" has a NUL byte inside, at 2: the ASCII list would show it cut short",
        ),
        (
            "digest length",
            hashed("ima-ng", &[short, n.clone()].concat()),
            "its digest is called sha256 and has 2 bytes instead of 32",
        ),
        (
            "payload",
            hashed("ima-buf", &payload),
            "it states the digest sha1:971c419dd609331343dee105fffd0f4608dc0bf2 for a payload of 1 bytes whose digest is sha1:11f6ad8ec52a2984abaafd7c3b516503785c2072",
        ),
        (
            "payload of sm3",
            hashed("ima-buf", &[d.clone(), n.clone(), field(b"x")].concat()),
            "its hash is right, but the payload's digest is of the kind \"sm3\", which cannot be computed here",
        ),
        (
            "violation",
            violation,
            "it is a violation, yet it states a file digest: ab00000000000000000000000000000000000000",
        ),
        (
            "template",
            hashed("ima-next", b"?"),
            "its hash is right, but the template \"ima-next\" is not known, so its data cannot be judged",
        ),
        (
            "original",
            hashed("ima", &[0; 23]),
            "its hash is right, but the template data end inside field \"n\": it needs 4 bytes, 3 are left",
        ),
    ];
    for (case, entry, sentence) in cases {
        let error = entry.check().unwrap_err();
        assert_eq!(error.to_string(), sentence, "{case}");
        let undecided = matches!(case, "payload of sm3" | "template");
        assert_eq!(error.is_undecided(), undecided, "{case}");
    }
    assert_eq!(
        hashed("ima-ng", &[d, n].concat()).check(),
        Ok(()),
        "a digest of an unknown kind"
    );
}

#[test]
fn what_no_line_can_carry_is_not_written() {
    let newline = Entry::ima_ng(10, sha1(), "/tmp/a\n10 0000 ima-ng").unwrap();
    let empty = field(b"");
    let d = field(b"sm3:\0\x01\x02");
    let cases: [(&str, Entry, &str); 5] = [
        (
            "a forged line in a name",
            newline,
            "field \"n-ng\" has a newline inside",
        ),
        (
            "no name",
            hashed("ima-ng", &[d.clone(), empty.clone()].concat()),
            "field \"n-ng\" does not end in a NUL byte",
        ),
        (
            "no digest",
            hashed("ima-ng", &[field(b":\0"), field(b"\0")].concat()),
            "field \"d-ng\" has neither an algorithm nor a digest",
        ),
        (
            "a mode of one byte",
            hashed("d-ng|imode", &[d, field(b"\x01")].concat()),
            "field \"imode\" is not as wide as its kind",
        ),
        ("a PCR", Entry { pcr: 64, ..entry() }, "it names PCR 64"),
    ];
    for (case, entry, sentence) in cases {
        let whole = format!("the entry has no ASCII form: {sentence}");
        assert_eq!(entry.to_ascii().unwrap_err().to_string(), whole, "{case}");
        let error = entry.write_ascii(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{case}");
        assert_eq!(error.to_string(), whole, "{case}");
    }
}

#[test]
fn constructors_refuse_what_the_kernel_could_not_log() {
    let cases: [(&str, Result<Entry, _>, &str); 4] = [
        (
            "NUL",
            Entry::ima_ng(10, sha1(), "/a\0b"),
            "the event name \"/a\\x00b\" has a NUL byte, which ends a name in the kernel",
        ),
        (
            "long name",
            Entry::ima(10, sha1(), "n".repeat(256)),
            "the event name has 256 bytes; template \"ima\" holds 255",
        ),
        (
            "long digest",
            Entry::ima(10, HashAlgorithm::Sha256.digest(b""), "n"),
            "32 bytes do not fit field \"d\" of template \"ima\"",
        ),
        (
            "unknown",
            Entry::violation(
                10,
                Template::from_name("ima-next"),
                HashAlgorithm::Sha1,
                "n",
            ),
            "the template \"ima-next\" is not known, so its data cannot be read",
        ),
    ];
    for (case, made, sentence) in cases {
        assert_eq!(made.unwrap_err().to_string(), sentence, "{case}");
    }
}

#[test]
fn text_that_is_no_digest_is_told_why() {
    let cases = [
        (
            "00ff",
            "\"00ff\" is not a digest: it should look like sha256:<hex>",
        ),
        (
            "md5:00",
            "the hash algorithm \"md5\" is not known here (sha1, sha256, sha384, sha512 are)",
        ),
        ("sha1:0", "\"sha1:0\" is not a digest: Odd number of digits"),
        (
            "sha256:00ff",
            "a sha256 digest has 32 bytes, this one has 2",
        ),
    ];
    for (text, sentence) in cases {
        assert_eq!(
            text.parse::<Digest>().unwrap_err().to_string(),
            sentence,
            "{text}"
        );
    }
}

#[test]
fn a_space_in_a_name_is_logged_as_the_kernel_does() {
    let made = Entry::ima_ng(10, sha1(), "/tmp/a file (deleted)").unwrap();
    assert_eq!(made.fields().unwrap().name, b"/tmp/a_file_(deleted)");
}

/// A source that fails after `left` bytes.
struct Failing {
    bytes: Vec<u8>,
    left: usize,
}

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other("the disk is gone"));
        }
        buffer[0] = self.bytes.remove(0);
        self.left -= 1;
        Ok(1)
    }
}

#[test]
fn a_failing_source_is_named_and_the_entries_before_it_are_kept() {
    let bytes = [entry().to_binary(), entry().to_binary()].concat();
    let mut reader = BinaryReader::detect(Failing { bytes, left: 150 });
    // The reader looks no further than it must, so that the first record comes whole.
    assert!(reader.next().unwrap().is_ok());
    let error = reader.next().unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "record 1, at byte 103: the list cannot be read: the disk is gone"
    );
}

#[test]
fn a_forged_length_costs_no_memory() {
    let limits = Limits {
        data: u32::MAX,
        ..Limits::default()
    };
    let list = patched(35, &u32::MAX.to_le_bytes());
    let mut reader =
        BinaryReader::new(list.as_slice(), BinaryFormat::default()).with_limits(limits);
    let mut entry = Entry::default();
    assert!(reader.read_entry(&mut entry).unwrap().is_err());
    assert!(
        entry.data.capacity() < 1024 * 1024,
        "{}",
        entry.data.capacity()
    );
}
