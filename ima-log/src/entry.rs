// SPDX-License-Identifier: Apache-2.0
//! One entry of a measurement list.
//!
//! Owns how an entry is hashed and turned into the value a PCR is extended with. An entry
//! may be wrong: it holds what a list says. `check` judges it; the readers and writers carry it.
//! Mirrors `ima_calc_field_array_hash_tfm` (`ima_crypto.c`) and `ima_add_violation` (`ima_api.c`).

use crate::fields::{self, IMA_DIGEST_LEN, RawFields};
use crate::{ByteOrder, Digest, EscapedName, Fields, FieldsError, HashAlgorithm, Template};

/// The highest PCR the kernel lets an IMA rule name (`INVALID_PCR`, `ima_policy.c`: the bits of
/// a 64-bit `measured_pcrs`). TPMs have 24.
pub const MAX_PCR: u32 = 63;

/// Longest name of the original template, in bytes (`IMA_EVENT_NAME_LEN_MAX`).
pub(crate) const IMA_NAME_MAX: usize = 255;

/// Bytes the original template's name is padded to before hashing.
const IMA_NAME_HASHED_LEN: usize = IMA_NAME_MAX + 1;

/// Where an entry stands in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Offset of the record's first byte.
    pub offset: u64,
    /// Number of records before it.
    pub index: u64,
    /// Length of the record in bytes, an ASCII line's newline included.
    pub len: u64,
}

/// One measurement, as a list holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// PCR extended, 0 to [`MAX_PCR`].
    pub pcr: u32,
    /// The digest in the record's header: SHA-1 of the template data in the plain list, another
    /// algorithm in `binary_runtime_measurements_<algorithm>` (Linux 6.10). Zeros in a violation.
    pub template_hash: Digest,
    /// Template, which says how `data` is laid out. *No hash covers its name.*
    pub template: Template,
    /// Template data as in the binary record, without the length in front of all of it.
    /// For [`Template::Ima`]: `digest[20] ‖ u32 length ‖ name`; else `Π(u32 length ‖ bytes)`.
    pub data: Vec<u8>,
    /// Order of the integers in `data`, which the hash covers, and in the record's header.
    pub byte_order: ByteOrder,
}

/// Nothing yet: room for [`BinaryReader::read_entry`](crate::BinaryReader::read_entry).
impl Default for Entry {
    fn default() -> Self {
        Self {
            pcr: 0,
            template_hash: Digest::zeros(HashAlgorithm::Sha1),
            template: Template::ImaNg,
            data: Vec::new(),
            byte_order: ByteOrder::Little,
        }
    }
}

/// What an entry says, and what it does to a PCR.
impl Entry {
    /// Whether the entry records a violation: its template hash is all zeros. *Nothing else in
    /// such an entry is bound to the PCR*, which is extended with 0xff… whatever the data are.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        self.template_hash.is_zero()
    }

    /// Digest, name, signature and payload.
    ///
    /// # Errors
    /// [`FieldsError`] if the template is unknown or the data do not fit it exactly.
    pub fn fields(&self) -> Result<Fields<'_>, FieldsError> {
        fields::collect(self.raw_fields()?)
    }

    /// Every field of the template, in order.
    ///
    /// # Errors
    /// [`FieldsError::UnknownTemplate`]; the iterator gives the others.
    pub fn raw_fields(&self) -> Result<RawFields<'_>, FieldsError> {
        RawFields::new(&self.template, &self.data, self.byte_order)
    }

    /// The event name, escaped for people; `?` if it cannot be read.
    #[must_use]
    pub fn display_name(&self) -> String {
        self.fields()
            .map_or_else(|_| "?".to_owned(), |f| EscapedName(f.name).to_string())
    }

    /// Hash of the template data, as `algorithm`'s bank sees them. The original template hashes
    /// `digest[20] ‖ name`, the name padded with zeros to 256 bytes; data that do not have that
    /// shape are hashed as they are, and [`Entry::check`] says what is wrong with them.
    #[must_use]
    pub fn template_digest(&self, algorithm: HashAlgorithm) -> Digest {
        match self.original_parts() {
            Some((digest, name)) => {
                let padding = &[0; IMA_NAME_HASHED_LEN][name.len()..];
                algorithm.digest_parts(&[digest, name, padding])
            }
            None => algorithm.digest(&self.data),
        }
    }

    /// The value `algorithm`'s bank is extended with: the template digest, or all ones for a
    /// violation. (A kernel without that hash in its crypto API, or before 5.8, extends the SHA-1,
    /// padded with zeros: such a bank does not replay.)
    #[must_use]
    pub fn extend_value(&self, algorithm: HashAlgorithm) -> Digest {
        if self.is_violation() {
            Digest::ones(algorithm)
        } else {
            self.template_digest(algorithm)
        }
    }

    /// Digest and name of a well-formed original entry.
    fn original_parts(&self) -> Option<(&[u8], &[u8])> {
        if self.template != Template::Ima {
            return None;
        }
        let (digest, rest) = self.data.split_at_checked(IMA_DIGEST_LEN)?;
        let (len, name) = rest.split_first_chunk()?;
        let fits = self.byte_order.u32(*len) as usize == name.len() && name.len() <= IMA_NAME_MAX;
        fits.then_some((digest, name))
    }
}
