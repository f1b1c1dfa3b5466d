// SPDX-License-Identifier: Apache-2.0
//! The public part of a key that signs quotes, and what it says about itself. Layouts: TPM 2.0 Library, Part 2, 12.2.4
//! `TPMT_PUBLIC`, 8.3 `TPMA_OBJECT`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ima_log::HashAlgorithm;
use p256::{
    EncodedPoint,
    ecdsa::{Signature as EcSignature, VerifyingKey as EcKey, signature::Verifier as _},
};
use rsa::{
    BigUint, RsaPublicKey,
    pkcs8::DecodePublicKey as _,
    sha2::Sha256,
    traits::PublicKeyParts as _,
    {pkcs1v15, pss},
};

use super::wire::Wire;

pub(super) const RSASSA: u16 = 0x0014;
pub(super) const RSAPSS: u16 = 0x0016;
pub(super) const ECDSA: u16 = 0x0018;
const ECDAA: u16 = 0x001a;
const RSA: u16 = 0x0001;
const ECC: u16 = 0x0023;
const NULL: u16 = 0x0010;
pub(super) const SHA256: u16 = 0x000b;
const P256: u16 = 0x0003;
/// Shorter moduli are broken by who wants to.
const SHORTEST: usize = 2048;
/// `RSA_DEFAULT_PUBLIC_EXPONENT`, which a TPM writes as 0.
const EXPONENT: u32 = 65537;

/// Attributes that a key has which signs nothing but what its TPM says, and is nowhere else.
const NEEDED: [(u32, &str); 5] = [
    (1 << 1, "fixedTPM"),
    (1 << 4, "fixedParent"),
    (1 << 5, "sensitiveDataOrigin"),
    (1 << 16, "restricted"),
    (1 << 18, "sign"),
];
/// Of one that has this what it signs is not all that it does.
const DECRYPT: u32 = 1 << 17;

/// Why bytes are no key to verify with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteKeyError {
    /// In no form.
    #[error(
        "it is no key: a TPM2B_PUBLIC, as it is or in base64, a public key in PEM, or what `cima evidence key` prints is"
    )]
    Form,
    /// Of another kind.
    #[error(
        "it is a key of a kind that is not read here: ECDSA over P-256 is, and RSA of {SHORTEST} bits or more"
    )]
    Kind,
    /// The numbers are none of a key.
    #[error("its numbers are no public key: {0}")]
    Numbers(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Numbers {
    Ec(EcKey),
    Rsa(RsaPublicKey),
}

/// A key that quotes are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteKey {
    numbers: Numbers,
    /// `None`: PEM has none.
    attributes: Option<u32>,
    /// SHA-256 of the `TPM2B_PUBLIC`, hexadecimal: what `cima evidence key` calls `ak_sha256`.
    pub fingerprint: Option<String>,
}

impl QuoteKey {
    /// The key in a file: a `TPM2B_PUBLIC` as it is or in base64, PEM, or what `cima evidence key` prints, with `--json` or
    /// without.
    ///
    /// # Errors
    /// See [`QuoteKeyError`].
    pub fn read(file: &[u8]) -> Result<Self, QuoteKeyError> {
        if is_sized(file) {
            return Self::of_public(file);
        }
        let text = str::from_utf8(file).map_err(|_| QuoteKeyError::Form)?;
        let text = text.trim();
        if text.starts_with("-----BEGIN") {
            return Self::of_pem(text);
        }
        let named = if text.starts_with('{') {
            let object: serde_json::Value =
                serde_json::from_str(text).map_err(|_| QuoteKeyError::Form)?;
            object["tpm_ak"].as_str().map(str::to_owned)
        } else {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix("tpm_ak "));
            line.map(|line| line.trim().to_owned())
        };
        let base64 = named.as_deref().unwrap_or(text);
        let bytes = STANDARD.decode(base64.trim());
        Self::of_public(&bytes.map_err(|_| QuoteKeyError::Form)?)
    }

    /// Of a `TPM2B_PUBLIC`.
    ///
    /// # Errors
    /// See [`QuoteKeyError`].
    pub fn of_public(bytes: &[u8]) -> Result<Self, QuoteKeyError> {
        let mut wire = Wire(bytes);
        let public = wire.sized().ok_or(QuoteKeyError::Form)?;
        wire.end().ok_or(QuoteKeyError::Form)?;
        let mut wire = Wire(public);
        let kind = wire.u16().ok_or(QuoteKeyError::Form)?;
        let attributes = attributes(&mut wire).ok_or(QuoteKeyError::Form)?;
        let numbers = match kind {
            ECC => ec(wire)?,
            RSA => rsa(wire)?,
            _ => return Err(QuoteKeyError::Kind),
        };
        let fingerprint = HashAlgorithm::Sha256.digest(bytes);
        Ok(Self {
            numbers,
            attributes: Some(attributes),
            fingerprint: Some(hex::encode(fingerprint.bytes())),
        })
    }

    fn of_pem(text: &str) -> Result<Self, QuoteKeyError> {
        let numbers = if let Ok(key) = EcKey::from_public_key_pem(text) {
            Numbers::Ec(key)
        } else {
            let key = RsaPublicKey::from_public_key_pem(text).map_err(|_| QuoteKeyError::Kind)?;
            Numbers::Rsa(long_enough(key)?)
        };
        Ok(Self {
            numbers,
            attributes: None,
            fingerprint: None,
        })
    }

    /// Whether it is the same key, whatever is said of it.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.numbers == other.numbers
    }

    /// What of the attributes is missing; `None`: the form that it was given in has none.
    #[must_use]
    pub fn lacking(&self) -> Option<Vec<&'static str>> {
        let attributes = self.attributes?;
        let needed = NEEDED.iter().filter(|(bit, _)| attributes & bit == 0);
        let mut lacking: Vec<_> = needed.map(|(_, name)| *name).collect();
        lacking.extend((attributes & DECRYPT != 0).then_some("for signing alone (it decrypts)"));
        Some(lacking)
    }

    /// Whether `signature`, a `TPMT_SIGNATURE`, is this key's over `message`.
    pub(super) fn signed(&self, message: &[u8], signature: &Signature<'_>) -> bool {
        match (&self.numbers, signature) {
            (Numbers::Ec(key), Signature::Ecdsa { r, s }) => {
                let (Some(r), Some(s)) = (padded(r), padded(s)) else {
                    return false;
                };
                let signature = EcSignature::from_scalars(r, s);
                signature.is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            (Numbers::Rsa(key), Signature::Rsassa(bytes)) => {
                let key = pkcs1v15::VerifyingKey::<Sha256>::new(key.clone());
                let signature = pkcs1v15::Signature::try_from(*bytes);
                signature.is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            (Numbers::Rsa(key), Signature::Rsapss(bytes)) => {
                let signature = pss::Signature::try_from(*bytes);
                signature.is_ok_and(|signature| {
                    // A TPM's salt is as long as the hash, or, before revision 1.16 of the library, as there is room.
                    let most = key.size().saturating_sub(32 + 2);
                    [32, most].into_iter().any(|salt| {
                        pss::VerifyingKey::<Sha256>::new_with_salt_len(key.clone(), salt)
                            .verify(message, &signature)
                            .is_ok()
                    })
                })
            }
            _ => false,
        }
    }
}

/// A `TPMT_SIGNATURE` with SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature<'a> {
    Ecdsa { r: &'a [u8], s: &'a [u8] },
    Rsassa(&'a [u8]),
    Rsapss(&'a [u8]),
}

impl Signature<'_> {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ecdsa { .. } => "ecdsa",
            Self::Rsassa(_) => "rsassa",
            Self::Rsapss(_) => "rsapss",
        }
    }
}

/// A number of a TPM's as a field element.
fn padded(number: &[u8]) -> Option<p256::FieldBytes> {
    let start = 32_usize.checked_sub(number.len())?;
    let mut bytes = p256::FieldBytes::default();
    bytes[start..].copy_from_slice(number);
    Some(bytes)
}

fn is_sized(bytes: &[u8]) -> bool {
    let mut wire = Wire(bytes);
    wire.sized().is_some() && wire.end().is_some()
}

/// What stands before the parameters.
fn attributes(wire: &mut Wire<'_>) -> Option<u32> {
    wire.u16()?;
    let attributes = wire.u32()?;
    wire.sized()?;
    Some(attributes)
}

/// Symmetric algorithm, which a signing key has none of, and scheme.
fn scheme(wire: &mut Wire<'_>) -> Result<(), QuoteKeyError> {
    let form = || QuoteKeyError::Form;
    if wire.u16().ok_or_else(form)? != NULL {
        return Err(QuoteKeyError::Kind);
    }
    match wire.u16().ok_or_else(form)? {
        NULL => Ok(()),
        ECDAA => Err(QuoteKeyError::Kind),
        _ => wire.u16().map(drop).ok_or_else(form),
    }
}

fn ec(mut wire: Wire<'_>) -> Result<Numbers, QuoteKeyError> {
    let form = || QuoteKeyError::Form;
    scheme(&mut wire)?;
    if wire.u16().ok_or_else(form)? != P256 {
        return Err(QuoteKeyError::Kind);
    }
    if wire.u16().ok_or_else(form)? != NULL {
        wire.u16().ok_or_else(form)?;
    }
    let (x, y) = (
        wire.sized().ok_or_else(form)?,
        wire.sized().ok_or_else(form)?,
    );
    wire.end().ok_or_else(form)?;
    let (Some(x), Some(y)) = (padded(x), padded(y)) else {
        return Err(QuoteKeyError::Form);
    };
    let point = EncodedPoint::from_affine_coordinates(&x, &y, false);
    let key = EcKey::from_encoded_point(&point)
        .map_err(|_| QuoteKeyError::Numbers("the point is not on the curve".into()))?;
    Ok(Numbers::Ec(key))
}

fn rsa(mut wire: Wire<'_>) -> Result<Numbers, QuoteKeyError> {
    let form = || QuoteKeyError::Form;
    scheme(&mut wire)?;
    wire.u16().ok_or_else(form)?;
    let exponent = match wire.u32().ok_or_else(form)? {
        0 => EXPONENT,
        exponent => exponent,
    };
    let modulus = wire.sized().ok_or_else(form)?;
    wire.end().ok_or_else(form)?;
    let key = RsaPublicKey::new(BigUint::from_bytes_be(modulus), BigUint::from(exponent))
        .map_err(|error| QuoteKeyError::Numbers(error.to_string()))?;
    Ok(Numbers::Rsa(long_enough(key)?))
}

fn long_enough(key: RsaPublicKey) -> Result<RsaPublicKey, QuoteKeyError> {
    if key.n().bits() < SHORTEST {
        return Err(QuoteKeyError::Kind);
    }
    Ok(key)
}
