// SPDX-License-Identifier: Apache-2.0
//! Bytes as text that every terminal and every JSON parser takes: printable ASCII as it is, all other bytes and the
//! backslash as `\xNN`. Each string of bytes has one such text.

use std::fmt::{Display, Write as _};

/// The text of these bytes.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\x5c"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a string does not fail.
            _ => _ = write!(text, "\\x{byte:02x}"),
        }
    }
    text
}

/// The bytes of this text; `None`: it is not what [`escaped`] makes of any.
#[must_use]
pub fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match (first, after) {
            (b'\\', [b'x', digits @ ..]) => {
                let (digits, after) = digits.split_first_chunk::<2>()?;
                rest = after;
                let mut byte = [0];
                hex::decode_to_slice(digits, &mut byte).ok()?;
                byte[0]
            }
            (b'\\', _) => return None,
            _ => *first,
        });
    }
    (escaped(&bytes) == text).then_some(bytes)
}

/// JSON that says the same in printable ASCII alone, so that a terminal shows it and obeys none of it: what is not stands in
/// strings, where every character may be written as `\uXXXX` (RFC 8259, section 7).
#[must_use]
pub fn ascii_json(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for char in json.chars() {
        if char.is_ascii() && char != '\x7f' {
            ascii.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            _ = write!(ascii, "\\u{unit:04x}");
        }
    }
    ascii
}

/// What another says of bytes from outside, for an error: printable, and not longer than a sentence. Parsers quote
/// names that they do not know as they stand.
pub(crate) fn shown(said: impl Display) -> String {
    let said = said.to_string();
    let mut text = String::new();
    for char in said.chars() {
        match char {
            _ if text.len() > 300 => return text + "...",
            ' '..='~' => text.push(char),
            _ => text.extend(char.escape_default()),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_ascii_says_the_same() {
        let all: String = ('\0'..='\u{800}')
            .chain(['\u{202e}', '𝄞', '\u{10ffff}'])
            .collect();
        let json = serde_json::to_string_pretty(&[&all, "\"\\"]).expect("JSON");
        let ascii = ascii_json(&json);
        assert!(
            ascii
                .bytes()
                .all(|byte| matches!(byte, b' '..=b'~' | b'\n'))
        );
        let read: Vec<String> = serde_json::from_str(&ascii).expect("JSON");
        assert_eq!(read, [&all, "\"\\"]);
    }

    #[test]
    fn bytes_have_one_text_and_texts_one_meaning() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescaped(&escaped(&all)), Some(all));
        assert_eq!(escaped(b"a b\\\n\xff"), r"a b\x5c\x0a\xff");
        for wrong in [r"\", r"\x", r"\x4", r"\x41", r"\xFF", r"\n", "é", "\n"] {
            assert_eq!(unescaped(wrong), None, "{wrong:?}");
        }
    }
}
