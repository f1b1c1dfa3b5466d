// SPDX-License-Identifier: Apache-2.0
//! How an event name is shown to people.
//!
//! Names are bytes chosen by whoever created the file: a terminal escape or a right-to-left
//! mark in one must not rewrite what a responder reads. Shown here, never parsed back.

use std::fmt;

/// Shows bytes as printable ASCII, all others and the backslash as `\xNN`.
///
/// ```
/// assert_eq!(ima_log::EscapedName(b"/tmp/\x1b[2J").to_string(), r"/tmp/\x1b[2J");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EscapedName<'a>(
    /// The name's bytes.
    pub &'a [u8],
);

impl fmt::Display for EscapedName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        self.0.iter().try_for_each(|b| match b {
            b'\\' => f.write_str("\\x5c"),
            b' '..=b'~' => f.write_char(char::from(*b)),
            _ => write!(f, "\\x{b:02x}"),
        })
    }
}
