// SPDX-License-Identifier: Apache-2.0
//! One line of the ASCII list, taken apart.
//!
//! Columns part at single spaces. Only one column may hold spaces of its own, the name (never in
//! a kernel's list): the columns before it are counted from the left, those after it from the
//! right, so no line can be read in two ways. Trailing empty columns may have lost their space.

use super::{LineError, field};
use crate::fields::DataBuilder;
use crate::template::DataFormat;
use crate::{ByteOrder, Digest, Entry, EscapedName, FieldKind, HashAlgorithm, MAX_PCR, Template};

/// The entry of `line`, which has no newline.
pub(super) fn parse(line: &[u8], order: ByteOrder) -> Result<Entry, LineError> {
    // The kernel pads the PCR to two columns.
    let line = line.strip_prefix(b" ").unwrap_or(line);
    let (pcr, line) = split_column(line).ok_or(LineError::Missing {
        what: "template hash",
    })?;
    let (hash, line) = split_column(line).ok_or(LineError::Missing {
        what: "template name",
    })?;
    let (name, columns) = split_column(line).ok_or(LineError::Missing {
        what: "template data",
    })?;

    let pcr = parse_pcr(pcr)?;
    let template_hash = parse_hash(hash)?;
    let template = parse_template(name)?;
    let data = match template.format() {
        Some(format) => parse_fields(&template, &format, columns, order)?,
        None => hex::decode(columns).map_err(|_| LineError::UnknownTemplate {
            name: template.name().to_owned(),
        })?,
    };
    Ok(Entry {
        pcr,
        template_hash,
        template,
        data,
        byte_order: order,
    })
}

fn split_column(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = line.iter().position(|b| *b == b' ')?;
    Some((&line[..at], &line[at + 1..]))
}

fn parse_pcr(text: &[u8]) -> Result<u32, LineError> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
    number
        .filter(|pcr| digits && *pcr <= MAX_PCR)
        .ok_or_else(|| LineError::BadPcr { text: shown(text) })
}

fn parse_hash(text: &[u8]) -> Result<Digest, LineError> {
    let wrong = || LineError::BadHash { text: shown(text) };
    let algorithm = HashAlgorithm::from_digest_len(text.len() / 2).ok_or_else(wrong)?;
    let bytes = hex::decode(text).map_err(|_| wrong())?;
    Digest::new(algorithm, &bytes).map_err(|_| wrong())
}

fn parse_template(text: &[u8]) -> Result<Template, LineError> {
    match std::str::from_utf8(text) {
        Ok(name) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Template::from_name(name))
        }
        _ => Err(LineError::BadTemplateName { text: shown(text) }),
    }
}

fn parse_fields(
    template: &Template,
    format: &[FieldKind],
    columns: &[u8],
    order: ByteOrder,
) -> Result<Vec<u8>, LineError> {
    let columns = split_columns(format, columns)?;
    let mut data = DataBuilder::new(template, order);
    for (kind, column) in format.iter().copied().zip(columns) {
        let bytes = field::parse(kind, column, order)?;
        let is_string = kind.data_format() == DataFormat::String;
        let written = if is_string {
            data.string(kind, &bytes)
        } else {
            data.field(kind, &[&bytes])
        };
        written.map_err(|_| LineError::BadField {
            field: kind.id(),
            text: shown(column),
        })?;
    }
    Ok(data.finish())
}

/// As many columns as the format has fields.
fn split_columns<'a>(format: &[FieldKind], mut rest: &'a [u8]) -> Result<Vec<&'a [u8]>, LineError> {
    let name_at = format
        .iter()
        .position(|k| matches!(k, FieldKind::Name | FieldKind::NameNg))
        .unwrap_or(format.len() - 1);
    let mut columns = Vec::with_capacity(format.len());
    for kind in &format[..name_at] {
        let (column, after) = split_column(rest).ok_or(LineError::Missing { what: kind.id() })?;
        columns.push(column);
        rest = after;
    }
    let after_name = format.len() - name_at - 1;
    let spaces = rest.iter().filter(|b| **b == b' ').count();
    let mut tail = Vec::with_capacity(after_name);
    for _ in 0..after_name.saturating_sub(spaces) {
        tail.push(&rest[rest.len()..]);
    }
    while tail.len() < after_name {
        let Some(at) = rest.iter().rposition(|b| *b == b' ') else {
            break;
        };
        tail.push(&rest[at + 1..]);
        rest = &rest[..at];
    }
    columns.push(rest);
    columns.extend(tail.into_iter().rev());
    Ok(columns)
}

fn shown(text: &[u8]) -> String {
    EscapedName(&text[..text.len().min(140)]).to_string()
}
