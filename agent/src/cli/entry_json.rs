// SPDX-License-Identifier: Apache-2.0
//! One entry as a JSON object. `"v":1` covers every key here and in `batch_json`; keys
//! are only ever added.
//!
//! Untrusted bytes are shown as `ima_log::EscapedName` does: printable ASCII as it is, all
//! else and the backslash as `\xNN`. That can be taken back, and no terminal obeys it.

use ima_log::{Entry, EscapedName, Fields, FileDigest, Template};
use serde::Serialize;

use super::batch_json::BatchJson;
use crate::verify::{BatchView, Place};

/// The object.
#[derive(Serialize)]
pub(crate) struct EntryJson<'a> {
    v: u32,
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<u32>,
    offset: u64,
    pcr: u32,
    template_hash: String,
    template: &'a str,
    /// Present where a violation of IMA's own hides what the template hash would be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    violation: bool,
    #[serde(flatten)]
    content: Content<'a>,
}

#[derive(Serialize, Default)]
struct Content<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<BatchJson<'a>>,
    /// Where the keys above do not say everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_hex: Option<String>,
    /// Why the data cannot be taken apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl<'a> EntryJson<'a> {
    pub(crate) fn new(place: Place, entry: &'a Entry) -> Self {
        let data = || Some(hex::encode(&entry.data));
        let content = match entry.fields() {
            Ok(fields) => Content {
                data_hex: match entry.template {
                    Template::Other(_) => data(),
                    _ => None,
                },
                ..Content::new(&fields)
            },
            Err(error) => Content {
                data_hex: data(),
                error: Some(error.to_string()),
                ..Content::default()
            },
        };
        Self {
            v: 1,
            index: place.index,
            segment: place.segment,
            offset: place.offset,
            pcr: entry.pcr,
            template_hash: entry.template_hash.to_string(),
            template: entry.template.name(),
            violation: entry.is_violation(),
            content,
        }
    }
}

impl<'a> Content<'a> {
    fn new(fields: &Fields<'a>) -> Self {
        let text = fields.payload.and_then(printable);
        Self {
            name: Some(escaped(fields.name)),
            digest: fields.digest.as_ref().map(digest),
            signature_hex: fields.signature.map(hex::encode),
            payload: text,
            payload_hex: fields.payload.filter(|_| text.is_none()).map(hex::encode),
            batch: fields
                .payload
                .filter(|_| fields.name.starts_with(b"cima-ctx:"))
                .and_then(BatchView::of)
                .map(BatchJson),
            ..Self::default()
        }
    }
}

/// Bytes as text.
pub(super) fn escaped(bytes: &[u8]) -> String {
    EscapedName(bytes).to_string()
}

fn printable(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
}

fn digest(digest: &FileDigest<'_>) -> String {
    let kind = digest.kind.map(|kind| format!("{kind}:"));
    // The original template names no algorithm where it cannot be told by the length.
    let algorithm = match digest.algorithm {
        "" => String::new(),
        algorithm => format!("{algorithm}:"),
    };
    let bytes = hex::encode(digest.bytes);
    format!("{}{algorithm}{bytes}", kind.unwrap_or_default())
}
