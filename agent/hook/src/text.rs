// SPDX-License-Identifier: Apache-2.0
//! Text of others on a terminal.

/// The line with `\u{1b}` and the like for control characters and those that turn the direction of text.
pub fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for char in line.chars() {
        let turns = matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if char.is_control() || turns {
            text.extend(char.escape_unicode());
        } else {
            text.push(char);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_moves_the_cursor_or_turns_the_text() {
        assert_eq!(printable("a \"é\" \\ 漢"), "a \"é\" \\ 漢");
        assert_eq!(
            printable("\u{1b}[2J\r\u{9b}\u{7f}\u{202e}"),
            r"\u{1b}[2J\u{d}\u{9b}\u{7f}\u{202e}"
        );
    }
}
