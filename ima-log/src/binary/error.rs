// SPDX-License-Identifier: Apache-2.0
//! Why a binary list cannot be read any further.
//!
//! Every error says which record it stopped at and where that record starts, which is where the
//! last good one ends: a caller that wants to keep all before it has the offset to cut at.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::{ByteOrder, EscapedName};

/// A binary list that cannot be read any further.
#[derive(Debug, Error)]
#[error("record {index}, at byte {offset}: {kind}")]
pub struct ReadError {
    /// Offset where the record starts: all bytes before it are whole records.
    pub offset: u64,
    /// Number of whole records before it.
    pub index: u64,
    /// What is wrong. Not the error's `source()`: the sentence above already says it.
    pub kind: ReadErrorKind,
}

/// What is wrong with a record.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadErrorKind {
    /// The list ends inside the record: it was cut, or is being written.
    Torn {
        /// Bytes of the record that are there.
        present: u64,
    },
    /// PCR and name length make no sense in the order given, and do in the other.
    LooksForeignEndian {
        /// The order the reader was given.
        order: ByteOrder,
    },
    /// A length above the reader's limit.
    Oversize {
        /// `template name` or `template data`.
        what: &'static str,
        /// Length in the record, in bytes.
        len: u32,
        /// The limit, in bytes.
        limit: u32,
    },
    /// A template name that is empty or not printable ASCII.
    BadTemplateName {
        /// The name's bytes.
        name: Vec<u8>,
    },
    /// A PCR no kernel extends: above [`MAX_PCR`](crate::MAX_PCR).
    BadPcr {
        /// The number in the record.
        pcr: u32,
    },
    /// No order and hash length make sense of the first record.
    Unrecognised {
        /// Whether its bytes are text: an ASCII list, perhaps.
        text: bool,
    },
    /// The source failed.
    Io(io::Error),
}

impl fmt::Display for ReadErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn { present } => {
                write!(f, "the list ends inside it, after {present} of its bytes")
            }
            Self::LooksForeignEndian { order } => write!(
                f,
                "it makes no sense as {order}, but does as {}: the list is of a machine of the \
                 other byte order",
                order.swapped()
            ),
            Self::Oversize { what, len, limit } => {
                write!(
                    f,
                    "its {what} is said to have {len} bytes, more than the {limit} allowed"
                )
            }
            Self::BadTemplateName { name } if name.is_empty() => {
                f.write_str("its template name is empty")
            }
            Self::BadTemplateName { name } => {
                write!(f, "its template name is not one: \"{}\"", EscapedName(name))
            }
            Self::BadPcr { pcr } => {
                write!(
                    f,
                    "it names PCR {pcr}; the kernel extends none above {}",
                    crate::MAX_PCR
                )
            }
            Self::Unrecognised { text: true } => {
                f.write_str("this is text, not a binary measurement list; an ASCII list, perhaps")
            }
            Self::Unrecognised { text: false } => {
                f.write_str("this is not the start of a binary measurement list")
            }
            Self::Io(error) => write!(f, "the list cannot be read: {error}"),
        }
    }
}
