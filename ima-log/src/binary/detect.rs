// SPDX-License-Identifier: Apache-2.0
//! Finding a list's byte order and hash length from its first record.
//!
//! A format fits if the PCR, the name length and the name it leads to are plausible; a name of a
//! known template beats any other, and a record cut by the list's end comes last. Two formats
//! cannot both lead to a known name but by forgery, and then no hash of the list holds.

use std::io::Read;

use super::{BinaryFormat, ReadErrorKind, read::u32_at, window::Window};
use crate::{ByteOrder, HashAlgorithm, MAX_PCR, Template};

/// Bytes that hold any first record up to its template name.
const PEEK: usize = 4 + 64 + 4 + 255;

/// Longer than the kernel's built-in template names, shorter than the rest of any record.
const BUILT_IN_NAME: usize = 16;

/// How well a format fits; a greater one is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    CutShort,
    UnknownTemplate,
    KnownTemplate,
}

/// The format of the list that starts in `window`.
pub(super) fn format<R: Read>(window: &mut Window<R>) -> Result<BinaryFormat, ReadErrorKind> {
    // The usual first record is recognised without waiting for bytes beyond it: the source may
    // be a pipe that holds no more yet.
    for hash in HashAlgorithm::ALL {
        let first = window.peek(4 + hash.digest_len() + 4 + BUILT_IN_NAME)?;
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let format = BinaryFormat { order, hash };
            if fit(format, first) == Some(Fit::KnownTemplate) {
                return Ok(format);
            }
        }
    }
    let first = window.peek(PEEK)?;
    // No more than that: what is found, and what is said, depends not on how the bytes arrive.
    best(&first[..first.len().min(PEEK)])
}

/// The best format for a list that begins with `first`: [`PEEK`] bytes, or all there are.
fn best(first: &[u8]) -> Result<BinaryFormat, ReadErrorKind> {
    let mut best: Option<(Fit, BinaryFormat)> = None;
    for format in BinaryFormat::all() {
        if let Some(found) = fit(format, first)
            && best.is_none_or(|(fit, _)| found > fit)
        {
            best = Some((found, format));
        }
    }
    best.map(|(_, format)| format)
        .ok_or_else(|| ReadErrorKind::Unrecognised {
            text: looks_like_text(first),
        })
}

fn fit(format: BinaryFormat, first: &[u8]) -> Option<Fit> {
    let name_at = 4 + format.hash.digest_len() + 4;
    if first.len() >= 4 && u32_at(format.order, first, 0) > MAX_PCR {
        return None;
    }
    if first.len() < name_at {
        return Some(Fit::CutShort);
    }
    let name_len = u32_at(format.order, first, name_at - 4) as usize;
    if !(1..=255).contains(&name_len) {
        return None;
    }
    let name = &first[name_at..first.len().min(name_at + name_len)];
    if !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    let known = || {
        Template::from_name(&String::from_utf8_lossy(name))
            .format()
            .is_some()
    };
    Some(match name.len() {
        len if len < name_len => Fit::CutShort,
        _ if known() => Fit::KnownTemplate,
        _ => Fit::UnknownTemplate,
    })
}

fn looks_like_text(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace())
}
