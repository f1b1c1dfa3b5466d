// SPDX-License-Identifier: Apache-2.0
//! One entry whose hash is right, whatever its template and data are: a mutated list never gets
//! that far. Its fields, its forms and its check agree, and what constructors make passes all.
//! Input: PCR and algorithm, a template's name, a line end, the template data.
#![no_main]

use ima_log::{
    ByteOrder, Digest, Entry, EscapedName, FieldKind, HashAlgorithm, MAX_PCR, RawField, Template,
};
use ima_log_fuzz::{line_of, record_of, same_in_both_orders, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some(([first, second], rest)) = input.split_first_chunk() else {
        return;
    };
    let line_end = rest.iter().position(|byte| *byte == b'\n');
    let (name, data) = rest.split_at(line_end.unwrap_or(rest.len()));
    let data = data.strip_prefix(b"\n").unwrap_or_default();
    let hash = HashAlgorithm::ALL[usize::from(second % 4)];
    let mut entry = Entry {
        pcr: u32::from(*first) % (MAX_PCR + 1),
        template_hash: Digest::ones(hash),
        template: template(name),
        data: data.to_vec(),
        byte_order: if second & 4 == 0 {
            ByteOrder::Little
        } else {
            ByteOrder::Big
        },
    };
    if second & 8 == 0 {
        entry = entry.with_hash(hash);
    } else {
        entry.template_hash = Digest::zeros(hash);
    }
    fields_are_the_data(&entry);
    check_agrees(&entry);
    line_of(&entry);
    record_of(&entry);
    same_in_both_orders(&entry);
    names(&entry);
    constructors(u32::from(*first), hash, name, data);
});

/// As a reader would take it: printable ASCII, else `ima-ng`.
fn template(name: &[u8]) -> Template {
    match std::str::from_utf8(name) {
        Ok(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            let template = Template::from_name(&text[..text.len().min(255)]);
            assert_eq!(Template::from_name(template.name()), template);
            template
        }
        _ => Template::ImaNg,
    }
}

/// The fields, one after the other, are all of the data.
fn fields_are_the_data(entry: &Entry) {
    let Ok(fields) = entry.raw_fields() else {
        assert!(entry.template.format().is_none());
        return;
    };
    let read = within(4 << 10, || fields.clone().collect::<Result<Vec<_>, _>>());
    let Ok(read) = read else { return };
    let mut data = Vec::new();
    for RawField { kind, bytes } in read {
        let len = u32::try_from(bytes.len()).expect("no longer than the input");
        if entry.template != Template::Ima || kind != FieldKind::Digest {
            data.extend_from_slice(&entry.byte_order.u32_bytes(len));
        }
        data.extend_from_slice(bytes);
        assert_eq!(FieldKind::from_id(kind.id()), Some(kind));
    }
    assert_eq!(data, entry.data);
}

/// What passes the check can be taken apart; what cannot, does not.
fn check_agrees(entry: &Entry) {
    let checked = entry.check();
    match (entry.fields(), &checked) {
        (Err(_), Ok(())) => panic!("it passes, but cannot be taken apart"),
        (Err(error), Err(said)) => {
            assert!(!error.to_string().is_empty() && !said.to_string().is_empty())
        }
        (Ok(fields), _) => {
            let stated = fields.digest.and_then(|digest| digest.to_digest());
            let Some(stated) = stated else { return };
            assert_eq!(stated.to_string().parse(), Ok(stated));
        }
    }
    for bank in HashAlgorithm::ALL {
        let value = entry.extend_value(bank);
        assert_eq!(value.algorithm(), bank);
        assert_eq!(value == Digest::ones(bank), entry.is_violation());
    }
}

/// What is shown of a name is printable, and says every byte of it.
fn names(entry: &Entry) {
    let Ok(fields) = entry.fields() else { return };
    let shown = EscapedName(fields.name).to_string();
    assert!(shown.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    let mut bytes = Vec::new();
    let mut rest = shown.as_str();
    while let Some(first) = rest.chars().next() {
        if let Some(escaped) = rest.strip_prefix("\\x") {
            bytes.push(u8::from_str_radix(&escaped[..2], 16).expect("two digits"));
            rest = &escaped[2..];
        } else {
            bytes.push(first as u8);
            rest = &rest[1..];
        }
    }
    assert_eq!(bytes, fields.name);
}

/// What a constructor makes is right and says what it was given.
fn constructors(pcr: u32, algorithm: HashAlgorithm, name: &[u8], content: &[u8]) {
    let file = algorithm.digest(content);
    let made = [
        Entry::ima_buf(pcr, algorithm, name, content),
        Entry::ima_ng(pcr, file, name),
        Entry::ima_sig(pcr, file, name, content),
        Entry::ima(pcr, file, name),
        Entry::violation(pcr, template(name), algorithm, content),
    ];
    let possible = pcr <= MAX_PCR && !name.contains(&0);
    assert_eq!(made[0].is_ok(), possible);
    for entry in made.into_iter().flatten() {
        if let Err(error) = entry.check() {
            panic!("{error}: {entry:?}");
        }
        record_of(&entry).expect("it has a record");
        same_in_both_orders(&entry);
    }
    let Ok(entry) = Entry::ima_buf(pcr, algorithm, name, content) else {
        return;
    };
    let fields = entry.fields().expect("it was checked");
    let listed: Vec<u8> = name
        .iter()
        .map(|byte| if *byte == b' ' { b'_' } else { *byte })
        .collect();
    assert_eq!(
        (fields.name, fields.payload),
        (listed.as_slice(), Some(content))
    );
}
