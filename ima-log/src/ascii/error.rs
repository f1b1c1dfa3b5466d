// SPDX-License-Identifier: Apache-2.0
//! Why an ASCII list cannot be read, or an entry not be shown as a line.
//!
//! As in binary lists, a read error carries where the last good line ends.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::FieldsError;

/// An ASCII list that cannot be read any further.
#[derive(Debug, Error)]
#[error("entry {index}, at byte {offset}: {kind}")]
pub struct AsciiError {
    /// Offset where the line starts: all bytes before it are whole lines.
    pub offset: u64,
    /// Number of entries before it.
    pub index: u64,
    /// What is wrong. Not the error's `source()`: the sentence above already says it.
    pub kind: AsciiErrorKind,
}

/// What stopped the reader.
#[derive(Debug)]
#[non_exhaustive]
pub enum AsciiErrorKind {
    /// The list ends inside the line: no newline, and no template hash that proves it complete.
    Torn {
        /// Bytes of the line that are there.
        present: u64,
    },
    /// The line is longer than the reader's limit.
    TooLong {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The line is not an entry.
    Line(LineError),
    /// The source failed.
    Io(io::Error),
}

impl fmt::Display for AsciiErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn { present } => {
                write!(f, "the list ends inside it, after {present} of its bytes")
            }
            Self::TooLong { limit } => write!(f, "it is longer than the {limit} bytes allowed"),
            Self::Line(error) => error.fmt(f),
            Self::Io(error) => write!(f, "the list cannot be read: {error}"),
        }
    }
}

/// Why a line is not an entry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LineError {
    /// A column is missing.
    #[error("it has no {what}")]
    Missing {
        /// The column.
        what: &'static str,
    },
    /// The first column is not a PCR.
    #[error(
        "it starts with \"{text}\", which is not a PCR (0 to {})",
        crate::MAX_PCR
    )]
    BadPcr {
        /// The column, escaped.
        text: String,
    },
    /// The second column is not hexadecimal, or of no digest's length.
    #[error("its template hash \"{text}\" is not 40, 64, 96 or 128 hexadecimal digits")]
    BadHash {
        /// The column, escaped.
        text: String,
    },
    /// The third column is not a template name.
    #[error("its template name is not one: \"{text}\"")]
    BadTemplateName {
        /// The column, escaped.
        text: String,
    },
    /// The template is unknown, and the line is not in the one form it may then have: a single
    /// column with the template data in hex.
    #[error("the template \"{name}\" is not known, so its columns cannot be read")]
    UnknownTemplate {
        /// The template's name.
        name: String,
    },
    /// A column does not fit its field.
    #[error("\"{text}\" is not what field \"{field}\" looks like")]
    BadField {
        /// Kernel id of the field.
        field: &'static str,
        /// The column's first bytes, escaped.
        text: String,
    },
}

/// Why an entry cannot be shown as a line that reads back as the same entry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotShowable {
    /// The data cannot be taken apart.
    #[error("the entry has no ASCII form: {0}")]
    Fields(#[from] FieldsError),
    /// A field has bytes no line can carry.
    #[error("the entry has no ASCII form: field \"{field}\" {why}")]
    Field {
        /// Kernel id of the field.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The template's name has a space or worse.
    #[error("the entry has no ASCII form: its template name is \"{name}\"")]
    TemplateName {
        /// The name, escaped.
        name: String,
    },
    /// The PCR is above [`MAX_PCR`](crate::MAX_PCR).
    #[error("the entry has no ASCII form: it names PCR {pcr}")]
    Pcr {
        /// The number.
        pcr: u32,
    },
}

impl From<LineError> for AsciiErrorKind {
    fn from(error: LineError) -> Self {
        Self::Line(error)
    }
}

impl From<io::Error> for AsciiErrorKind {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
