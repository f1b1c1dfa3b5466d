// SPDX-License-Identifier: Apache-2.0
//! Event names: printable ASCII, every other byte, space and `%` as `%XX`.
//!
//! IMA's ASCII list shows a space in a name as `_` and prints other bytes as they
//! are; escaped, a name reads the same everywhere and no path can forge a line.

use std::fmt::Write as _;

use ima_log::HashAlgorithm;

/// What the kernel takes of a file's name where there is no path (`ima_d_path`, `security/integrity/ima/ima_api.c`:
/// `NAME_MAX` with the NUL).
const LONGEST: usize = 254;

/// Escapes untrusted bytes for use in a name.
pub fn escape(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'%';
    // Nearly every path.
    if let Some(name) = str::from_utf8(bytes)
        .ok()
        .filter(|_| bytes.iter().all(is_plain))
    {
        return name.to_owned();
    }
    let mut name = String::with_capacity(bytes.len());
    for byte in bytes {
        if is_plain(byte) {
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

/// The name of the file by which the kernel lists an event of this name: `/` is `%2F`. One of more than 253 bytes is
/// cut to 189 and gets `~` and the SHA-256 of the event's name in hexadecimal, 254 bytes in all, which no other has.
pub fn file_name(name: &str) -> String {
    let plain = name.replace('/', "%2F");
    if plain.len() < LONGEST {
        return plain;
    }
    let digest = HashAlgorithm::Sha256.digest(name.as_bytes());
    let digest = hex::encode(digest.bytes());
    // Names are ASCII; of others, what fits.
    let cut = plain.floor_char_boundary(LONGEST - digest.len() - 1);
    format!("{}~{digest}", &plain[..cut])
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

    #[test]
    fn a_file_has_the_name_of_its_event_as_far_as_a_file_can() {
        assert_eq!(
            file_name("cima-exec:unregistered:/usr/bin/a%20b"),
            "cima-exec:unregistered:%2Fusr%2Fbin%2Fa%20b"
        );
        let of = |len: usize| format!("cima-exec:{}", "x".repeat(len - 10));
        assert_eq!(file_name(&of(253)), of(253));
        let (longest, longer) = (file_name(&of(254)), file_name(&of(255)));
        assert_eq!((longest.len(), longer.len()), (254, 254));
        assert_ne!(longest, longer);
        assert!(longest.starts_with(&of(189)) && longest.as_bytes()[189] == b'~');
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
