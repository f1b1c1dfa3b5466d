// SPDX-License-Identifier: Apache-2.0
//! Linux IMA measurement lists: parse, encode, check, replay to PCRs, write as Canonical Event Logs.
//!
//! Owns the list formats and the arithmetic of PCRs; knows nothing of files, TPMs or policies:
//! it takes bytes from a `Read` and hands back typed entries, sentence errors, digests.
//! Called by whoever writes a list (the agent's ledger) and whoever judges one (query, verify).
//! It refuses to guess: what it cannot parse is an error naming the entry and the byte.
//!
//! ```
//! use ima_log::{BinaryReader, Entry, HashAlgorithm, Replay};
//!
//! let entry = Entry::ima_buf(10, HashAlgorithm::Sha256, "cima-image:sha256:00ff", b"v1;image")?;
//! let list = entry.to_binary();
//!
//! let mut replay = Replay::new(&[HashAlgorithm::Sha256]);
//! for record in BinaryReader::detect(list.as_slice()) {
//!     let (_position, entry) = record?;
//!     entry.check()?;
//!     replay.extend(&entry);
//! }
//! println!("{}", replay.value(10, HashAlgorithm::Sha256).expect("the bank was asked for"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod algorithm;
mod ascii;
mod binary;
mod byte_order;
mod cel;
mod check;
mod digest;
mod entry;
mod fields;
mod make;
mod name;
mod replay;
mod template;
mod verify;

pub use algorithm::HashAlgorithm;
pub use ascii::{AsciiError, AsciiErrorKind, AsciiReader, LineError, NotShowable};
pub use binary::{BinaryFormat, BinaryReader, Limits, ReadError, ReadErrorKind};
pub use byte_order::ByteOrder;
pub use cel::{CelEncoder, CelEncoding};
pub use check::CheckError;
pub use digest::{Digest, DigestError};
pub use entry::{Entry, MAX_PCR, Position};
pub use fields::{Fields, FieldsError, FileDigest, RawField, RawFields};
pub use make::EntryError;
pub use name::EscapedName;
pub use replay::Replay;
pub use template::{FieldKind, Template};
pub use verify::{Invalid, Match, PcrOutcome, Verdict, Verifier};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
