// SPDX-License-Identifier: Apache-2.0
//! The one place where outcomes become exit codes, for every binary.

use std::{error::Error, process::ExitCode};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What was asked for is so: 0.
    Good,
    /// The command worked, its verdict is negative: 1.
    Negative,
}

/// Turns a command's result into the process's exit code; an error (usage or
/// environment) is said on stderr, each line after the program's name, and is 2. What an error quotes, a
/// terminal does not obey.
pub fn report(program: &str, result: Result<Outcome, Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Negative) => ExitCode::from(1),
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("{program}: {}", printable(line));
            }
            ExitCode::from(2)
        }
    }
}

/// The line with `\u{1b}` and the like for control characters and those that turn the direction of text.
fn printable(line: &str) -> String {
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
