// SPDX-License-Identifier: Apache-2.0
//! Whether an entry is consistent with itself.
//!
//! Owns what can be said of one entry without a TPM: its hash covers its data, its data fit its
//! template, an `ima-buf` digest is the payload's (Keylime does not check that). Whether the
//! entry was ever extended is `Replay`'s and `Verifier`'s business.

use thiserror::Error;

use crate::{Digest, Entry, Fields, FieldsError, HashAlgorithm, Template};

/// What is wrong with an entry, or cannot be known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The template hash is not the data's.
    #[error("the list gives its template hash as {listed}, but its data hash to {computed}")]
    TemplateHash {
        /// What the record's header says.
        listed: Box<Digest>,
        /// What the data give.
        computed: Box<Digest>,
    },
    /// The data do not fit the template.
    #[error("its hash is right, but {0}")]
    Fields(FieldsError),
    /// The digest field is not as long as its algorithm's digests.
    #[error("its digest is called {algorithm} and has {found} bytes instead of {}", algorithm.digest_len())]
    DigestLength {
        /// The algorithm the field names.
        algorithm: HashAlgorithm,
        /// Bytes in the field.
        found: usize,
    },
    /// An `ima-buf` entry's digest is not its payload's. The kernel itself writes this only for
    /// a *file* rule with `template=ima-buf`, whose payload is then empty.
    #[error(
        "it states the digest {stated} for a payload of {payload_len} bytes whose digest is {computed}"
    )]
    PayloadDigest {
        /// The `d-ng` field.
        stated: Box<Digest>,
        /// Hash of the payload.
        computed: Box<Digest>,
        /// Length of the payload in bytes.
        payload_len: usize,
    },
    /// A violation with a file digest; the kernel records none.
    #[error("it is a violation, yet it states a file digest: {found}")]
    ViolationDigest {
        /// The digest's bytes, in hex.
        found: String,
    },
    /// Nothing is wrong as far as one can see, but the template is not known. Since no hash
    /// covers the template's *name*, an altered name ends here too.
    #[error(
        "its hash is right, but the template \"{name}\" is not known, so its data cannot be judged"
    )]
    UnknownTemplate {
        /// The template's name.
        name: String,
    },
    /// Nothing is wrong as far as one can see, but the payload's digest cannot be computed.
    #[error(
        "its hash is right, but the payload's digest is of the kind \"{algorithm}\", which cannot be computed here"
    )]
    UnknownPayloadAlgorithm {
        /// The algorithm's kernel name.
        algorithm: String,
    },
}

impl CheckError {
    /// Whether the entry could not be judged to the end, rather than found wrong.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        matches!(
            self,
            Self::UnknownTemplate { .. } | Self::UnknownPayloadAlgorithm { .. }
        )
    }
}

impl Entry {
    /// Checks the entry against itself: the template hash is the data's (unless it is a
    /// violation), the data fit the template to the last byte, a known digest has its length, an
    /// `ima-buf` digest is the payload's, a violation states no digest.
    ///
    /// # Errors
    /// The first of these that does not hold. [`CheckError::is_undecided`] errors come last:
    /// all that can be checked then held.
    pub fn check(&self) -> Result<(), CheckError> {
        if !self.is_violation() {
            let computed = self.template_digest(self.template_hash.algorithm());
            if computed != self.template_hash {
                return Err(CheckError::TemplateHash {
                    listed: Box::new(self.template_hash),
                    computed: Box::new(computed),
                });
            }
        }
        let fields = self.fields().map_err(|e| match e {
            FieldsError::UnknownTemplate { name } => CheckError::UnknownTemplate { name },
            other => CheckError::Fields(other),
        })?;
        if self.is_violation() {
            check_violation(&fields)
        } else {
            check_digest_len(&fields)?;
            if self.template == Template::ImaBuf {
                check_payload(&fields)
            } else {
                Ok(())
            }
        }
    }
}

fn check_violation(fields: &Fields<'_>) -> Result<(), CheckError> {
    match fields.digest {
        Some(digest) if digest.bytes.iter().any(|b| *b != 0) => Err(CheckError::ViolationDigest {
            found: hex::encode(digest.bytes),
        }),
        _ => Ok(()),
    }
}

fn check_digest_len(fields: &Fields<'_>) -> Result<(), CheckError> {
    let Some(digest) = fields.digest else {
        return Ok(());
    };
    match HashAlgorithm::from_name(digest.algorithm) {
        Some(algorithm) if digest.bytes.len() != algorithm.digest_len() => {
            Err(CheckError::DigestLength {
                algorithm,
                found: digest.bytes.len(),
            })
        }
        _ => Ok(()),
    }
}

fn check_payload(fields: &Fields<'_>) -> Result<(), CheckError> {
    let (Some(digest), Some(payload)) = (fields.digest, fields.payload) else {
        return Ok(());
    };
    let Some(stated) = digest.to_digest() else {
        return Err(CheckError::UnknownPayloadAlgorithm {
            algorithm: digest.algorithm.to_owned(),
        });
    };
    let computed = stated.algorithm().digest(payload);
    if stated == computed {
        Ok(())
    } else {
        Err(CheckError::PayloadDigest {
            stated: Box::new(stated),
            computed: Box::new(computed),
            payload_len: payload.len(),
        })
    }
}
