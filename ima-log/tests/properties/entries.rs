// SPDX-License-Identifier: Apache-2.0
//! Entries of every template, with fields of any content a list can carry.

use ima_log::{ByteOrder, Digest, Entry, FieldKind, HashAlgorithm, Template};
use proptest::collection::vec;
use proptest::prelude::*;

/// Every template this crate can take apart, and one custom format.
pub(crate) const KNOWN_TEMPLATES: [&str; 9] = [
    "ima",
    "ima-ng",
    "ima-sig",
    "ima-buf",
    "ima-ngv2",
    "ima-sigv2",
    "ima-modsig",
    "evm-sig",
    "d-ng|n-ng|sig|imode",
];

pub(crate) fn order() -> impl Strategy<Value = ByteOrder> {
    prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)]
}

pub(crate) fn algorithm() -> impl Strategy<Value = HashAlgorithm> {
    proptest::sample::select(HashAlgorithm::ALL.to_vec())
}

/// Any bytes but NUL and newline; spaces too, which no kernel writes.
fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(
        any::<u8>().prop_filter("NUL and newline", |b| !matches!(b, 0 | b'\n')),
        0..40,
    )
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

/// A valid entry of a known template, of this order, a violation now and then.
pub(crate) fn entry(order: ByteOrder, hash: HashAlgorithm) -> impl Strategy<Value = Entry> {
    let template = proptest::sample::select(KNOWN_TEMPLATES.to_vec());
    let contents = (name(), bytes(), bytes(), algorithm(), any::<u32>());
    (0_u32..24, template, contents, proptest::bool::weighted(0.1)).prop_map(
        move |(pcr, template, (name, last, content, algorithm, number), violation)| {
            let template = Template::from_name(template);
            let file = match template {
                Template::Ima => HashAlgorithm::Sha1.digest(&content),
                Template::ImaBuf => algorithm.digest(&last),
                _ => algorithm.digest(&content),
            };
            let file = if violation {
                Digest::zeros(file.algorithm())
            } else {
                file
            };
            let fields = Contents {
                name,
                last,
                file,
                number,
            };
            let data = fields.data(&template, order);
            let mut entry = Entry {
                pcr,
                template_hash: Digest::ones(hash),
                template,
                data,
                byte_order: order,
            };
            if violation {
                entry.template_hash = Digest::zeros(hash);
            }
            entry.with_hash(hash)
        },
    )
}

/// An entry of a template nobody knows.
pub(crate) fn unknown_entry(order: ByteOrder) -> impl Strategy<Value = Entry> {
    (0_u32..24, "[a-z]{1,8}-x[!-~]{0,8}", bytes()).prop_map(move |(pcr, name, data)| {
        Entry {
            pcr,
            template_hash: Digest::ones(HashAlgorithm::Sha1),
            template: Template::from_name(&name),
            data,
            byte_order: order,
        }
        .with_hash(HashAlgorithm::Sha1)
    })
}

/// Entries of one list: one order, one hash.
pub(crate) fn list(
    order: ByteOrder,
    len: std::ops::Range<usize>,
) -> impl Strategy<Value = Vec<Entry>> {
    vec(entry(order, HashAlgorithm::Sha1), len)
}

pub(crate) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut list = Vec::new();
    entries
        .iter()
        .for_each(|entry| entry.append_binary(&mut list));
    list
}

struct Contents {
    name: Vec<u8>,
    last: Vec<u8>,
    file: Digest,
    number: u32,
}

impl Contents {
    /// Template data, built without the crate's own builder.
    fn data(&self, template: &Template, order: ByteOrder) -> Vec<u8> {
        let field = |bytes: &[u8]| {
            let len = u32::try_from(bytes.len()).unwrap();
            [&order.u32_bytes(len), bytes].concat()
        };
        if *template == Template::Ima {
            return [self.file.bytes(), &field(&self.name)].concat();
        }
        let format = template.format().unwrap();
        format
            .iter()
            .flat_map(|kind| field(&self.field(*kind, order)))
            .collect()
    }

    fn field(&self, kind: FieldKind, order: ByteOrder) -> Vec<u8> {
        let algorithm = self.file.algorithm().name().as_bytes();
        match kind {
            FieldKind::Digest => self.file.bytes().to_vec(),
            FieldKind::DigestNg | FieldKind::ModsigDigest => {
                [algorithm, b":\0", self.file.bytes()].concat()
            }
            FieldKind::DigestNgV2 => [b"verity:", algorithm, b":\0", self.file.bytes()].concat(),
            FieldKind::Name | FieldKind::NameNg => [self.name.as_slice(), b"\0"].concat(),
            FieldKind::XattrNames => b"security.ima|security.selinux\0".to_vec(),
            FieldKind::InodeUid | FieldKind::InodeGid => order.u32_bytes(self.number).to_vec(),
            FieldKind::InodeMode => order.u16_bytes(self.number as u16).to_vec(),
            FieldKind::Signature
            | FieldKind::Buffer
            | FieldKind::Modsig
            | FieldKind::EvmSignature
            | FieldKind::XattrLengths
            | FieldKind::XattrValues => self.last.clone(),
        }
    }
}
