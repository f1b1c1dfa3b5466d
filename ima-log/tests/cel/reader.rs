// SPDX-License-Identifier: Apache-2.0
//! What the tests read Canonical Event Logs with. Whatever is not as the specification has it is a panic.

use ima_log::{Digest, HashAlgorithm};
use serde::Deserialize;

/// A record.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) pcr: u32,
    pub(crate) digests: Vec<Digest>,
    /// Name and data of a template of IMA; `None`: other content.
    pub(crate) content: Option<(String, Vec<u8>)>,
}

/// CEL-TLV, section 5.1.
pub(crate) fn tlv(mut log: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while !log.is_empty() {
        let number = number(expect(0, &mut log));
        let pcr = u32::try_from(self::number(expect(1, &mut log))).unwrap();
        let mut listed = expect(3, &mut log);
        let mut digests = Vec::new();
        while !listed.is_empty() {
            let (kind, value) = field(&mut listed);
            let bank = HashAlgorithm::from_tpm_id(kind.into()).unwrap();
            digests.push(Digest::new(bank, value).unwrap());
        }
        let (kind, mut content) = field(&mut log);
        let content = (kind == 7).then(|| {
            let name = String::from_utf8(expect(0, &mut content).to_vec()).unwrap();
            let data = expect(1, &mut content).to_vec();
            assert!(content.is_empty());
            (name, data)
        });
        records.push(Record {
            number,
            pcr,
            digests,
            content,
        });
    }
    records
}

fn field<'a>(log: &mut &'a [u8]) -> (u8, &'a [u8]) {
    let (header, rest) = log.split_first_chunk::<5>().unwrap();
    let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let (value, rest) = rest.split_at(usize::try_from(len).unwrap());
    *log = rest;
    (header[0], value)
}

fn expect<'a>(kind: u8, log: &mut &'a [u8]) -> &'a [u8] {
    let (found, value) = field(log);
    assert_eq!(found, kind);
    value
}

fn number(value: &[u8]) -> u64 {
    assert!((1..=8).contains(&value.len()));
    value
        .iter()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    recnum: u64,
    pcr: u32,
    digests: Vec<Listed>,
    content_type: String,
    content: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(rename = "hashAlg")]
    bank: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    template_name: String,
    template_data: String,
}

/// CEL-JSON, section 5.3.
pub(crate) fn json(log: &[u8]) -> Vec<Record> {
    let objects: Vec<Object> = serde_json::from_slice(log).unwrap();
    objects.into_iter().map(record).collect()
}

fn record(object: Object) -> Record {
    let digest = |listed: &Listed| {
        format!("{}:{}", listed.bank, listed.digest)
            .parse()
            .unwrap()
    };
    let template = (object.content_type == "ima_template").then(|| {
        let template: Template = serde_json::from_value(object.content).unwrap();
        let data = hex::decode(template.template_data).unwrap();
        (template.template_name, data)
    });
    Record {
        number: object.recnum,
        pcr: object.pcr,
        digests: object.digests.iter().map(digest).collect(),
        content: template,
    }
}
