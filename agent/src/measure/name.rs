// SPDX-License-Identifier: Apache-2.0
//! Event names: printable ASCII, every other byte, space and `%` as `%XX`.
//!
//! IMA's ASCII list shows a space in a name as `_` and prints other bytes as they
//! are; escaped, a name reads the same everywhere and no path can forge a line.

use std::fmt::Write as _;

/// Escapes untrusted bytes for use in a name.
pub fn escape(bytes: &[u8]) -> String {
    let mut name = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && *byte != b'%' {
            name.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

/// Takes [`escape`] back; `None` if `name` was not made by it.
pub fn unescape(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let upper_hex = digits
            .iter()
            .all(|d| d.is_ascii_digit() || (b'A'..=b'F').contains(d));
        let digits = std::str::from_utf8(&digits).ok().filter(|_| upper_hex)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    (escape(&bytes) == name).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_readable_and_unambiguous() {
        assert_eq!(escape(b"/usr/bin/ls"), "/usr/bin/ls");
        assert_eq!(escape(b"/a b%41\n\x1b[2J\xff"), "/a%20b%2541%0A%1B[2J%FF");
        assert_eq!(unescape("/%4"), None);
        assert_eq!(unescape("/%ff"), None, "only the one spelling is taken");
        assert_eq!(unescape("/%41"), None, "a letter is never escaped");
    }

    proptest! {
        #[test]
        fn every_path_comes_back(bytes: Vec<u8>) {
            let name = escape(&bytes);
            prop_assert!(name.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(unescape(&name), Some(bytes));
        }
    }
}
