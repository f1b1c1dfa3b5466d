// SPDX-License-Identifier: Apache-2.0
//! Template data taken apart.
//!
//! Owns the layout inside an entry: `Π(u32 length ‖ bytes)`, or `digest[20] ‖ u32 length ‖ name`
//! for the original template. Borrows, never copies. Refuses data that leave bytes over, and
//! names with a NUL inside: the kernel's ASCII list would show such a name cut short, so that a
//! policy matched there would see another name than the one hashed.

use thiserror::Error;

use crate::template::DataFormat;
use crate::{ByteOrder, Digest, EscapedName, FieldKind, HashAlgorithm, Template};

/// Length of the digest in the original template (`IMA_DIGEST_SIZE`).
pub(crate) const IMA_DIGEST_LEN: usize = 20;

/// Why template data cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FieldsError {
    /// Neither a template built into the kernel nor a string of its field ids.
    #[error("the template \"{name}\" is not known, so its data cannot be read")]
    UnknownTemplate {
        /// The template's name.
        name: String,
    },
    /// The data end before the field does.
    #[error(
        "the template data end inside field \"{field}\": it needs {needed} bytes, {left} are left"
    )]
    Short {
        /// Kernel id of the field.
        field: &'static str,
        /// Bytes the field needs.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// Bytes follow the last field.
    #[error("{count} bytes follow the last field of the template data")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// A digest field without `<algorithm>:\0` in front of the digest.
    #[error("field \"{field}\" does not start with the name of a hash algorithm: {shown}")]
    NoAlgorithm {
        /// Kernel id of the field.
        field: &'static str,
        /// The field's first bytes, escaped.
        shown: String,
    },
    /// A name without its closing NUL.
    #[error("field \"{field}\" does not end in a NUL byte")]
    NotTerminated {
        /// Kernel id of the field.
        field: &'static str,
    },
    /// A name with a NUL inside.
    #[error(
        "field \"{field}\" has a NUL byte inside, at {at}: the ASCII list would show it cut short"
    )]
    NulInside {
        /// Kernel id of the field.
        field: &'static str,
        /// Offset in the field.
        at: usize,
    },
}

/// A file's digest as an entry states it. The algorithm may be one this crate cannot compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDigest<'a> {
    /// What was hashed, in `d-ngv2` only: `ima` (the content) or `verity` (the fs-verity digest).
    pub kind: Option<&'a str>,
    /// The kernel's name of the algorithm (`sm3`, `sha3-256`, …). Empty if the field has none.
    pub algorithm: &'a str,
    /// The digest. In a violation zeros: 20 of them in older kernels, as many as the algorithm has in newer.
    pub bytes: &'a [u8],
}

impl FileDigest<'_> {
    /// The digest in typed form, if the algorithm is known and the length fits.
    #[must_use]
    pub fn to_digest(&self) -> Option<Digest> {
        Digest::new(HashAlgorithm::from_name(self.algorithm)?, self.bytes).ok()
    }
}

/// The usual fields of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fields<'a> {
    /// Digest of the file or buffer (`d`, `d-ng`, `d-ngv2`); `None` if the format has no such field.
    pub digest: Option<FileDigest<'a>>,
    /// Event name without its NUL; empty if the format has no such field.
    pub name: &'a [u8],
    /// Signature (`sig`); `None` if the template has none or the file was not signed.
    pub signature: Option<&'a [u8]>,
    /// Measured buffer (`buf`); `None` if the template has none.
    pub payload: Option<&'a [u8]>,
}

/// One field: its kind and its bytes as hashed, the closing NUL of a name included.
/// The original template's name has none (the kernel hashes it padded to 256 bytes with zeros).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawField<'a> {
    /// Which field.
    pub kind: FieldKind,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// The fields of one entry, in order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct RawFields<'a> {
    rest: &'a [u8],
    order: ByteOrder,
    original: bool,
    kinds: std::borrow::Cow<'static, [FieldKind]>,
    next: usize,
}

impl<'a> RawFields<'a> {
    pub(crate) fn new(
        template: &Template,
        data: &'a [u8],
        order: ByteOrder,
    ) -> Result<Self, FieldsError> {
        let kinds = template
            .format()
            .ok_or_else(|| FieldsError::UnknownTemplate {
                name: template.name().to_owned(),
            })?;
        Ok(Self {
            rest: data,
            order,
            original: *template == Template::Ima,
            kinds,
            next: 0,
        })
    }

    fn take(&mut self, kind: FieldKind, needed: usize) -> Result<&'a [u8], FieldsError> {
        let left = self.rest.len();
        let (bytes, rest) = self
            .rest
            .split_at_checked(needed)
            .ok_or(FieldsError::Short {
                field: kind.id(),
                needed,
                left,
            })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn field(&mut self, kind: FieldKind) -> Result<RawField<'a>, FieldsError> {
        let len = if self.original && kind == FieldKind::Digest {
            IMA_DIGEST_LEN
        } else {
            let mut len = [0; 4];
            len.copy_from_slice(self.take(kind, 4)?);
            self.order.u32(len) as usize
        };
        Ok(RawField {
            kind,
            bytes: self.take(kind, len)?,
        })
    }
}

impl<'a> Iterator for RawFields<'a> {
    type Item = Result<RawField<'a>, FieldsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = match self.kinds.get(self.next) {
            Some(kind) => self.field(*kind),
            None if self.rest.is_empty() => return None,
            None => Err(FieldsError::Trailing {
                count: self.rest.len(),
            }),
        };
        self.next += 1;
        if item.is_err() {
            self.rest = &[];
            self.next = self.kinds.len();
        }
        Some(item)
    }
}

/// The usual fields among `fields`; every field is read, whether it is wanted or not.
pub(crate) fn collect<'a>(mut fields: RawFields<'a>) -> Result<Fields<'a>, FieldsError> {
    let original = fields.original;
    let mut found = Fields {
        digest: None,
        name: &[],
        signature: None,
        payload: None,
    };
    fields.try_for_each(|field| {
        let RawField { kind, bytes } = field?;
        match kind {
            FieldKind::Digest => found.digest = Some(bare_digest(bytes)),
            FieldKind::DigestNg | FieldKind::DigestNgV2 => {
                found.digest = Some(digest_with_algorithm(kind, bytes)?);
            }
            FieldKind::Name if original => found.name = without_nul(kind, bytes)?,
            FieldKind::Name | FieldKind::NameNg => found.name = terminated(kind, bytes)?,
            FieldKind::Signature => found.signature = (!bytes.is_empty()).then_some(bytes),
            FieldKind::Buffer => found.payload = Some(bytes),
            // Absent from an unsigned file.
            FieldKind::ModsigDigest if bytes.is_empty() => {}
            FieldKind::ModsigDigest => {
                digest_with_algorithm(kind, bytes)?;
            }
            FieldKind::Modsig
            | FieldKind::EvmSignature
            | FieldKind::XattrNames
            | FieldKind::XattrLengths
            | FieldKind::XattrValues
            | FieldKind::InodeUid
            | FieldKind::InodeGid
            | FieldKind::InodeMode => {}
        }
        Ok(())
    })?;
    Ok(found)
}

/// `d` names no algorithm; the kernel allows two there (`ima_template_hash_algo_allowed`).
fn bare_digest(bytes: &[u8]) -> FileDigest<'_> {
    let algorithm = match bytes.len() {
        16 => "md5",
        20 => "sha1",
        _ => "",
    };
    FileDigest {
        kind: None,
        algorithm,
        bytes,
    }
}

/// Parses `<algorithm>:\0<digest>`, with `<kind>:` in front for `d-ngv2`.
pub(crate) fn digest_with_algorithm(
    kind: FieldKind,
    bytes: &[u8],
) -> Result<FileDigest<'_>, FieldsError> {
    let wrong = || FieldsError::NoAlgorithm {
        field: kind.id(),
        shown: EscapedName(&bytes[..bytes.len().min(16)]).to_string(),
    };
    let nul = bytes.iter().position(|b| *b == 0).ok_or_else(wrong)?;
    let prefix = bytes[..nul].strip_suffix(b":").ok_or_else(wrong)?;
    let prefix = std::str::from_utf8(prefix).map_err(|_| wrong())?;
    if !prefix.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong());
    }
    let (digest_kind, algorithm) = match prefix.split_once(':') {
        Some((of, algorithm)) if kind == FieldKind::DigestNgV2 => (Some(of), algorithm),
        Some(_) => return Err(wrong()),
        None => (None, prefix),
    };
    Ok(FileDigest {
        kind: digest_kind,
        algorithm,
        bytes: &bytes[nul + 1..],
    })
}

/// The string of a NUL-terminated field.
pub(crate) fn terminated(kind: FieldKind, bytes: &[u8]) -> Result<&[u8], FieldsError> {
    let name = bytes
        .strip_suffix(b"\0")
        .ok_or(FieldsError::NotTerminated { field: kind.id() })?;
    without_nul(kind, name)
}

pub(crate) fn without_nul(kind: FieldKind, name: &[u8]) -> Result<&[u8], FieldsError> {
    match name.iter().position(|b| *b == 0) {
        None => Ok(name),
        Some(at) => Err(FieldsError::NulInside {
            field: kind.id(),
            at,
        }),
    }
}

/// Builds template data field by field.
pub(crate) struct DataBuilder {
    data: Vec<u8>,
    order: ByteOrder,
    original: bool,
}

impl DataBuilder {
    pub(crate) fn new(template: &Template, order: ByteOrder) -> Self {
        Self {
            data: Vec::new(),
            order,
            original: *template == Template::Ima,
        }
    }

    /// Appends one field, its length in front; `parts` are its bytes, one after the other.
    ///
    /// # Errors
    /// The number of bytes, if it does not fit the field's 32-bit length, or is not 20 for
    /// the original template's digest.
    pub(crate) fn field(&mut self, kind: FieldKind, parts: &[&[u8]]) -> Result<(), usize> {
        let len = parts.iter().map(|p| p.len()).sum::<usize>();
        if self.original && kind == FieldKind::Digest {
            if len != IMA_DIGEST_LEN {
                return Err(len);
            }
        } else {
            let len = u32::try_from(len).map_err(|_| len)?;
            self.data.extend_from_slice(&self.order.u32_bytes(len));
        }
        parts.iter().for_each(|p| self.data.extend_from_slice(p));
        Ok(())
    }

    /// Appends a string, with the closing NUL where the template has one.
    pub(crate) fn string(&mut self, kind: FieldKind, name: &[u8]) -> Result<(), usize> {
        debug_assert!(
            kind.data_format() == DataFormat::String,
            "only strings end in NUL"
        );
        let end: &[u8] = if self.original { b"" } else { b"\0" };
        self.field(kind, &[name, end])
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.data
    }
}
