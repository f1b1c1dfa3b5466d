// SPDX-License-Identifier: Apache-2.0
//! Bytes as text that every terminal and every JSON parser takes: printable ASCII as it is, all other bytes and the
//! backslash as `\xNN`. Each string of bytes has one such text.

use std::fmt::Write as _;

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

#[cfg(test)]
mod tests {
    use super::*;

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
