// SPDX-License-Identifier: Apache-2.0
//! CEL-JSON (section 5.3): an array of objects, bytes in hexadecimal, algorithms and content types by name.

use super::Record;

/// Appends the record, and what stands before it.
pub(super) fn append(record: &Record<'_>, is_first: bool, log: &mut Vec<u8>) {
    text(if is_first { "[\n" } else { ",\n" }, log);
    let Record { number, pcr, .. } = record;
    text(
        &format!(r#"{{"recnum":{number},"pcr":{pcr},"digests":["#),
        log,
    );
    for (place, digest) in record.digests.iter().enumerate() {
        let comma = if place > 0 { "," } else { "" };
        let algorithm = digest.algorithm();
        text(
            &format!(r#"{comma}{{"hashAlg":"{algorithm}","digest":"#),
            log,
        );
        hexadecimal(digest.bytes(), log);
        text("}", log);
    }
    text(
        r#"],"content_type":"ima_template","content":{"template_name":"#,
        log,
    );
    quoted(record.entry.template.name(), log);
    text(r#","template_data":"#, log);
    hexadecimal(&record.entry.data, log);
    text("}}", log);
}

/// What stands at the end.
pub(super) fn end(is_empty: bool) -> &'static [u8] {
    if is_empty { b"[]\n" } else { b"\n]\n" }
}

fn text(text: &str, log: &mut Vec<u8>) {
    log.extend_from_slice(text.as_bytes());
}

fn hexadecimal(bytes: &[u8], log: &mut Vec<u8>) {
    log.push(b'"');
    text(&hex::encode(bytes), log);
    log.push(b'"');
}

/// A string of JSON (RFC 8259, section 7). The name of a template may be anything: no hash covers it.
fn quoted(string: &str, log: &mut Vec<u8>) {
    log.push(b'"');
    for character in string.chars() {
        match character {
            '"' => text("\\\"", log),
            '\\' => text("\\\\", log),
            '\0'..='\x1f' => text(&format!("\\u{:04x}", u32::from(character)), log),
            other => text(other.encode_utf8(&mut [0; 4]), log),
        }
    }
    log.push(b'"');
}
