// SPDX-License-Identifier: Apache-2.0
//! Making entries as the kernel would.
//!
//! Owns the way from what was measured to template data (`ima_write_template_field_data` and the
//! `ima_event*_init` functions, `ima_template_lib.c`). Refuses what no kernel could log, so that
//! an entry made here always passes its `check` and every reader.

use thiserror::Error;

use crate::entry::IMA_NAME_MAX;
use crate::fields::DataBuilder;
use crate::{
    ByteOrder, Digest, Entry, EscapedName, FieldKind, FieldsError, HashAlgorithm, MAX_PCR, Template,
};

/// Why an entry cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A PCR the kernel does not extend.
    #[error("PCR {pcr} is none the kernel extends: the highest is {MAX_PCR}")]
    BadPcr {
        /// The PCR given.
        pcr: u32,
    },
    /// The name has a NUL byte.
    #[error("the event name \"{shown}\" has a NUL byte, which ends a name in the kernel")]
    NulInName {
        /// The name, escaped.
        shown: String,
    },
    /// The name is too long for the original template.
    #[error("the event name has {len} bytes; template \"ima\" holds {IMA_NAME_MAX}")]
    NameTooLong {
        /// Bytes given.
        len: usize,
    },
    /// A field does not fit the template.
    #[error("{len} bytes do not fit field \"{field}\" of template \"{template}\"")]
    FieldLength {
        /// Name of the template.
        template: String,
        /// Kernel id of the field.
        field: &'static str,
        /// Bytes given.
        len: usize,
    },
    /// The existing data cannot be read.
    #[error(transparent)]
    Fields(#[from] FieldsError),
}

/// Making entries. All are little endian, with a SHA-1 template hash: see
/// [`Entry::with_order`] and [`Entry::with_hash`] for others. As the kernel does *before*
/// hashing (`ima_write_template_field_data`), a space in a name becomes `_`.
impl Entry {
    /// An `ima-buf` entry: `algorithm`'s digest of `payload`, `name`, `payload`.
    ///
    /// # Errors
    /// A PCR above [`MAX_PCR`]; a name with a NUL; more than 4 GiB of anything.
    pub fn ima_buf(
        pcr: u32,
        algorithm: HashAlgorithm,
        name: impl AsRef<[u8]>,
        payload: &[u8],
    ) -> Result<Self, EntryError> {
        let digest = algorithm.digest(payload);
        Self::build(pcr, Template::ImaBuf, digest, name.as_ref(), payload)
    }

    /// An `ima-ng` entry: digest of a file, its path.
    ///
    /// # Errors
    /// As [`Entry::ima_buf`].
    pub fn ima_ng(pcr: u32, digest: Digest, name: impl AsRef<[u8]>) -> Result<Self, EntryError> {
        Self::build(pcr, Template::ImaNg, digest, name.as_ref(), &[])
    }

    /// An `ima-sig` entry: digest of a file, its path, its signature (empty if it has none).
    ///
    /// # Errors
    /// As [`Entry::ima_buf`].
    pub fn ima_sig(
        pcr: u32,
        digest: Digest,
        name: impl AsRef<[u8]>,
        signature: &[u8],
    ) -> Result<Self, EntryError> {
        Self::build(pcr, Template::ImaSig, digest, name.as_ref(), signature)
    }

    /// An entry of the original template `ima`: SHA-1 of a file, its path of at most 255 bytes.
    ///
    /// # Errors
    /// A name with a NUL, or too long; a digest that is not SHA-1.
    pub fn ima(pcr: u32, digest: Digest, name: impl AsRef<[u8]>) -> Result<Self, EntryError> {
        Self::build(pcr, Template::Ima, digest, name.as_ref(), &[])
    }

    /// A violation: its template hash is zeros, and so is its file digest, as long as the
    /// algorithm's (newer kernels) and not 20 bytes (older ones). The original template
    /// takes [`HashAlgorithm::Sha1`] only.
    ///
    /// # Errors
    /// As [`Entry::ima_buf`]; a template this crate does not know.
    pub fn violation(
        pcr: u32,
        template: Template,
        algorithm: HashAlgorithm,
        name: impl AsRef<[u8]>,
    ) -> Result<Self, EntryError> {
        let digest = Digest::zeros(algorithm);
        let mut entry = Self::build(pcr, template, digest, name.as_ref(), &[])?;
        entry.template_hash = Digest::zeros(HashAlgorithm::Sha1);
        Ok(entry)
    }

    /// `last` is the content of `sig` or `buf`.
    fn build(
        pcr: u32,
        template: Template,
        digest: Digest,
        name: &[u8],
        last: &[u8],
    ) -> Result<Self, EntryError> {
        if pcr > MAX_PCR {
            return Err(EntryError::BadPcr { pcr });
        }
        let name = kernel_name(name)?;
        if template == Template::Ima && name.len() > IMA_NAME_MAX {
            return Err(EntryError::NameTooLong { len: name.len() });
        }
        let format = template
            .format()
            .ok_or_else(|| FieldsError::UnknownTemplate {
                name: template.name().to_owned(),
            })?;
        let mut data = DataBuilder::new(&template, ByteOrder::Little);
        for kind in format.iter().copied() {
            append(&mut data, kind, digest, &name, last).map_err(|len| {
                EntryError::FieldLength {
                    template: template.name().to_owned(),
                    field: kind.id(),
                    len,
                }
            })?;
        }
        let mut entry = Self {
            pcr,
            template,
            data: data.finish(),
            ..Self::default()
        };
        entry.template_hash = entry.template_digest(HashAlgorithm::Sha1);
        Ok(entry)
    }

    /// The same measurement as a machine of the other byte order logs it. A *different* entry for
    /// a TPM, unless the template is the original one: the hash covers the fields' lengths. The
    /// template hash is made anew, right or wrong as it was: check the entry first.
    ///
    /// # Errors
    /// [`EntryError::Fields`] if the data cannot be taken apart.
    pub fn with_order(&self, order: ByteOrder) -> Result<Self, EntryError> {
        let mut data = DataBuilder::new(&self.template, order);
        for field in self.raw_fields()? {
            let field = field?;
            let width = match field.kind {
                _ if order == self.byte_order => 1,
                FieldKind::InodeUid | FieldKind::InodeGid | FieldKind::XattrLengths => 4,
                FieldKind::InodeMode => 2,
                _ => 1,
            };
            let mut swapped = field.bytes.to_vec();
            swapped.chunks_exact_mut(width).for_each(<[u8]>::reverse);
            data.field(field.kind, &[&swapped])
                .map_err(|len| EntryError::FieldLength {
                    template: self.template.name().to_owned(),
                    field: field.kind.id(),
                    len,
                })?;
        }
        let entry = Self {
            data: data.finish(),
            byte_order: order,
            ..self.clone()
        };
        Ok(entry.with_hash(self.template_hash.algorithm()))
    }

    /// The same entry with a template hash of another algorithm, as in the kernel's
    /// `…_runtime_measurements_<algorithm>` lists. A violation stays one. Right or wrong as
    /// the old hash was: check the entry first.
    #[must_use]
    pub fn with_hash(mut self, algorithm: HashAlgorithm) -> Self {
        self.template_hash = if self.is_violation() {
            Digest::zeros(algorithm)
        } else {
            self.template_digest(algorithm)
        };
        self
    }
}

/// The name as the kernel would store it, without the closing NUL.
fn kernel_name(name: &[u8]) -> Result<Vec<u8>, EntryError> {
    if name.contains(&0) {
        let shown = EscapedName(name).to_string();
        return Err(EntryError::NulInName { shown });
    }
    Ok(name
        .iter()
        .map(|b| if *b == b' ' { b'_' } else { *b })
        .collect())
}

/// Appends one field; a field nothing was given for is empty. The error is the length that
/// does not fit.
fn append(
    data: &mut DataBuilder,
    kind: FieldKind,
    digest: Digest,
    name: &[u8],
    last: &[u8],
) -> Result<(), usize> {
    let algorithm = digest.algorithm().name().as_bytes();
    let digest = digest.bytes();
    match kind {
        FieldKind::Digest => data.field(kind, &[digest]),
        FieldKind::DigestNg => data.field(kind, &[algorithm, b":\0", digest]),
        FieldKind::DigestNgV2 => data.field(kind, &[b"ima:", algorithm, b":\0", digest]),
        FieldKind::Name | FieldKind::NameNg => data.string(kind, name),
        FieldKind::XattrNames => data.string(kind, b""),
        FieldKind::Signature | FieldKind::Buffer => data.field(kind, &[last]),
        FieldKind::ModsigDigest
        | FieldKind::Modsig
        | FieldKind::EvmSignature
        | FieldKind::XattrLengths
        | FieldKind::XattrValues
        | FieldKind::InodeUid
        | FieldKind::InodeGid
        | FieldKind::InodeMode => data.field(kind, &[]),
    }
}
