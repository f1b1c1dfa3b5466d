// SPDX-License-Identifier: Apache-2.0
//! The ASCII list: `ascii_runtime_measurements` and its per-algorithm siblings.
//!
//! Line: `%2d pcr ‖ " " ‖ hex template hash ‖ " " ‖ template name ‖ Π(" " ‖ field) ‖ "\n"`; an
//! empty field leaves its space (`ima_ascii_measurements_show`, `ima_fs.c`). Names stand there as
//! hashed: the kernel turns spaces into `_` *before* hashing, so nothing is lost by it. What a
//! line cannot express (a newline in a name, another shape of field) is refused, not bent.

mod error;
mod field;
mod line;
mod read;
mod write;

pub use error::{AsciiError, AsciiErrorKind, LineError, NotShowable};
pub use read::AsciiReader;
