// SPDX-License-Identifier: Apache-2.0
//! The one place where outcomes become exit codes, for every binary.

use std::{error::Error, process::ExitCode};

use cima_hook::printable;

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
