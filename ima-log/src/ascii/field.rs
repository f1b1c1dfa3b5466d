// SPDX-License-Identifier: Apache-2.0
//! One field as a column of the ASCII list, both ways.
//!
//! Mirrors `ima_show_template_data_ascii` (`ima_template_lib.c`). `show` writes only columns that
//! `parse` turns into the very same bytes, so that a shown list always reads back.

use std::io::Write as _;

use super::{LineError, NotShowable};
use crate::fields::{digest_with_algorithm, terminated, without_nul};
use crate::template::DataFormat;
use crate::{ByteOrder, EscapedName, FieldKind, FieldsError, RawField, Template};

/// Appends the column of `field` to `line`. An empty field leaves nothing, as in the kernel.
pub(super) fn show(
    field: RawField<'_>,
    template: &Template,
    order: ByteOrder,
    line: &mut Vec<u8>,
) -> Result<(), NotShowable> {
    let RawField { kind, bytes } = field;
    match kind.data_format() {
        DataFormat::Hex => append_hex(bytes, line),
        DataFormat::DigestWithAlgorithm => show_digest(kind, bytes, line)?,
        DataFormat::String if *template == Template::Ima => {
            show_name(kind, without_nul(kind, bytes)?, line)?;
        }
        DataFormat::String => show_name(kind, terminated(kind, bytes)?, line)?,
        DataFormat::U16 | DataFormat::U32 => show_integer(kind, bytes, order, line)?,
    }
    Ok(())
}

fn append_hex(bytes: &[u8], line: &mut Vec<u8>) {
    let at = line.len();
    line.resize(at + 2 * bytes.len(), 0);
    // The slice has exactly the length `hex` asks for.
    let encoded = hex::encode_to_slice(bytes, &mut line[at..]);
    debug_assert!(encoded.is_ok(), "the slice is twice as long as the bytes");
}

fn show_digest(kind: FieldKind, bytes: &[u8], line: &mut Vec<u8>) -> Result<(), NotShowable> {
    if bytes.is_empty() {
        return Ok(());
    }
    digest_with_algorithm(kind, bytes)?;
    let nul = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (prefix, digest) = (&bytes[..nul], &bytes[nul + 1..]);
    if prefix == b":" {
        // Without an algorithm the kernel shows the digest alone.
        if digest.is_empty() {
            return Err(cannot(kind, "has neither an algorithm nor a digest"));
        }
    } else {
        line.extend_from_slice(prefix);
    }
    append_hex(digest, line);
    Ok(())
}

fn show_name(kind: FieldKind, name: &[u8], line: &mut Vec<u8>) -> Result<(), NotShowable> {
    if name.contains(&b'\n') {
        return Err(cannot(kind, "has a newline inside"));
    }
    if kind == FieldKind::XattrNames && name.contains(&b' ') {
        return Err(cannot(kind, "has a space inside"));
    }
    line.extend_from_slice(name);
    Ok(())
}

fn show_integer(
    kind: FieldKind,
    bytes: &[u8],
    order: ByteOrder,
    line: &mut Vec<u8>,
) -> Result<(), NotShowable> {
    let value = match (bytes, kind.data_format()) {
        ([], _) => return Ok(()),
        ([a, b], DataFormat::U16) => u32::from(order.u16([*a, *b])),
        ([a, b, c, d], DataFormat::U32) => order.u32([*a, *b, *c, *d]),
        _ => return Err(cannot(kind, "is not as wide as its kind")),
    };
    // Writing to a vector does not fail.
    let _ = write!(line, "{value}");
    Ok(())
}

/// Bytes of the field shown as `column`, the closing NUL of a name left out.
pub(super) fn parse(
    kind: FieldKind,
    column: &[u8],
    order: ByteOrder,
) -> Result<Vec<u8>, LineError> {
    let wrong = || LineError::BadField {
        field: kind.id(),
        text: EscapedName(&column[..column.len().min(80)]).to_string(),
    };
    let text = || std::str::from_utf8(column).map_err(|_| wrong());
    match kind.data_format() {
        DataFormat::Hex => hex::decode(column).map_err(|_| wrong()),
        DataFormat::DigestWithAlgorithm => parse_digest(kind, column).ok_or_else(wrong),
        DataFormat::String if column.contains(&0) => Err(wrong()),
        // Where no name is in the template, the last column is all that is left of the line.
        DataFormat::String if kind == FieldKind::XattrNames && column.contains(&b' ') => {
            Err(wrong())
        }
        DataFormat::String => Ok(column.to_vec()),
        DataFormat::U16 | DataFormat::U32 if column.is_empty() => Ok(Vec::new()),
        DataFormat::U16 => {
            let value = text()?.parse().map_err(|_| wrong())?;
            Ok(order.u16_bytes(value).to_vec())
        }
        DataFormat::U32 => {
            let value = text()?.parse().map_err(|_| wrong())?;
            Ok(order.u32_bytes(value).to_vec())
        }
    }
}

fn parse_digest(kind: FieldKind, column: &[u8]) -> Option<Vec<u8>> {
    if column.is_empty() {
        return Some(Vec::new());
    }
    let digits_at = column
        .iter()
        .rposition(|b| *b == b':')
        .map_or(0, |at| at + 1);
    let (prefix, digits) = column.split_at(digits_at);
    let mut bytes = match prefix {
        b"" => b":".to_vec(),
        // Shown by no kernel: a digest without an algorithm stands alone.
        b":" => return None,
        _ => prefix.to_vec(),
    };
    bytes.push(0);
    bytes.extend(hex::decode(digits).ok()?);
    let shape: Result<_, FieldsError> = digest_with_algorithm(kind, &bytes);
    shape.is_ok().then_some(bytes)
}

fn cannot(kind: FieldKind, why: &'static str) -> NotShowable {
    NotShowable::Field {
        field: kind.id(),
        why,
    }
}
