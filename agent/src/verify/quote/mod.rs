// SPDX-License-Identifier: Apache-2.0
//! What a TPM signed: whether it is a quote, by the key that is trusted, over the nonce that was chosen, and of which PCR values.
//! Pure: bytes in, an outcome out; asks no TPM. Whatever the bytes are, what is wrong is a sentence.
//! Layouts: TPM 2.0 Library, Part 2, 10.12.12 `TPMS_ATTEST`, 11.3.4 `TPMT_SIGNATURE`.

mod key;
mod wire;

use ima_log::{Digest, HashAlgorithm};

use key::{ECDSA, RSAPSS, RSASSA, SHA256, Signature};
pub use key::{QuoteKey, QuoteKeyError};
use wire::Wire;

use super::Anchor;
use crate::attest::{PcrValues, values_of};

/// `TPM_GENERATED_VALUE`: no key that signs only what its TPM says signs other bytes that begin so.
const GENERATED: u32 = 0xff54_4347;
/// `TPM_ST_ATTEST_QUOTE`.
const QUOTE: u16 = 0x8018;
/// `TPM2_NUM_PCR_BANKS`.
const BANKS: u32 = 16;
/// Bytes of a selection: PCRs 0 to 31.
const SELECT: u8 = 4;

/// What is wrong with a quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteFault {
    /// The bytes are no `TPMS_ATTEST`.
    #[error("the quote's message is no TPMS_ATTEST: it ends early, or goes on where it should end")]
    Message,
    /// No TPM said it.
    #[error("the quote's message was not made by a TPM: it begins with {0:#010x}")]
    NotGenerated(u32),
    /// A TPM said something else.
    #[error("what was signed is no quote (type {0:#06x})")]
    NotQuote(u16),
    /// The bytes are no `TPMT_SIGNATURE`.
    #[error("the quote's signature is none that a TPM makes")]
    SignatureForm,
    /// By another algorithm.
    #[error(
        "the quote is signed by algorithm {algorithm:#06x} with hash {hash:#06x}: ECDSA, RSASSA and RSAPSS with SHA-256 are checked here"
    )]
    SignatureKind {
        /// `TPM_ALG_ID`.
        algorithm: u16,
        /// `TPM_ALG_ID`.
        hash: u16,
    },
    /// Another key's, or nobody's.
    #[error("the quote is not signed by the key: another key signed it, or it was altered since")]
    Signature,
    /// The key signs what it is given.
    #[error("the key could have signed a quote that no TPM made: it is not {}", .0.join(", "))]
    Attributes(Vec<&'static str>),
    /// The evidence names another key than the trusted.
    #[error("the evidence names another key than the one that is trusted")]
    OtherKey,
    /// Another nonce.
    #[error(
        "the quote is over another nonce: it has {found}, and {chosen} was chosen; it may be an old one"
    )]
    Nonce {
        /// In the quote, printable.
        found: String,
        /// Chosen, printable.
        chosen: String,
    },
    /// No PCR that could be compared.
    #[error("the quote selects no PCR in a bank that can be replayed here")]
    Selection,
    /// Of PCRs that the list does not extend.
    #[error("the quote is of other PCRs than the list extends: nothing of it vouches for PCR {0}")]
    OtherPcr(u32),
    /// No values came with it, and the list gives none that fit.
    #[error(
        "the list gives what was quoted after none of its entries: altered, reordered, or entries are missing"
    )]
    NotOfList,
    /// The values are not the quote's.
    #[error("the PCR values that come with the quote are not those that it was made of")]
    Values,
    /// Values in no form.
    #[error("the PCR values that come with the quote are in no form that is read here: {0}")]
    ValuesForm(String),
}

impl QuoteFault {
    /// A word for programs.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Message | Self::SignatureForm | Self::ValuesForm(_) => "quote-form",
            Self::NotGenerated(_) | Self::NotQuote(_) => "quote-type",
            Self::SignatureKind { .. } | Self::Signature => "quote-signature",
            Self::Attributes(_) => "quote-key-attributes",
            Self::OtherKey => "quote-key",
            Self::Nonce { .. } => "quote-nonce",
            Self::Selection | Self::OtherPcr(_) => "quote-selection",
            Self::NotOfList => "quote-list",
            Self::Values => "quote-values",
        }
    }
}

/// What was not checked, for lack of what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuoteWarning {
    /// No nonce was given.
    #[error(
        "whether the quote is fresh was not checked: any old one of this TPM would do (--nonce says what was chosen)"
    )]
    NoNonce,
    /// No key was given.
    #[error(
        "the key that signed is the evidence's own claim: anybody could have made it (--ak names a key that is trusted)"
    )]
    ClaimedKey,
    /// The key's form has no attributes.
    #[error(
        "whether the key signs only what its TPM says was not checked: PEM does not tell (a TPM2B_PUBLIC does)"
    )]
    NoAttributes,
    /// The TPM's clock may have gone back.
    #[error("the TPM lost track of its clock (safe is not set): resetCount is still right")]
    Unsafe,
}

impl QuoteWarning {
    /// A word for programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NoNonce => "no-nonce",
            Self::ClaimedKey => "claimed-key",
            Self::NoAttributes => "no-key-attributes",
            Self::Unsafe => "unsafe-clock",
        }
    }
}

/// What is to be checked, as bytes of whoever.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a> {
    /// `TPMS_ATTEST`, as the TPM marshals it.
    pub message: &'a [u8],
    /// `TPMT_SIGNATURE`, likewise.
    pub signature: &'a [u8],
    /// PCR values as `tpm2_quote -o` writes them, `-F serialized` or `-F values`.
    pub values: Option<&'a [u8]>,
    /// The key that the evidence names.
    pub claimed: Option<&'a QuoteKey>,
}

/// PCRs of one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The bank; `None`: one that is not known here.
    pub bank: Option<HashAlgorithm>,
    /// `TPM_ALG_ID` of it.
    pub algorithm: u16,
    /// Which, in order.
    pub pcrs: Vec<u32>,
}

/// What a quote says besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteInfo {
    /// The nonce, printable: hexadecimal unless it is text.
    pub nonce: String,
    /// Milliseconds that the TPM was powered, as it counts.
    pub clock_ms: u64,
    /// Resets of the TPM: boots.
    pub reset_count: u32,
    /// Resumes since.
    pub restart_count: u32,
    /// Whether the clock can be relied on.
    pub safe: bool,
    /// The TPM's firmware.
    pub firmware: u64,
    /// What it is of.
    pub selection: Vec<Selected>,
    /// Over their values.
    pub digest: Vec<u8>,
}

/// What came of a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteOutcome {
    /// What it says, if it can be read.
    pub info: Option<QuoteInfo>,
    /// `ecdsa`, `rsassa` or `rsapss`.
    pub scheme: Option<&'static str>,
    /// SHA-256 of the key that it was checked with.
    pub key: Option<String>,
    /// Whether that key was given by who judges.
    pub key_trusted: bool,
    /// Whether a nonce was.
    pub nonce_checked: bool,
    /// What is wrong.
    pub faults: Vec<QuoteFault>,
    /// What was not checked.
    pub warnings: Vec<QuoteWarning>,
    /// The values that the quote vouches for; `None`: they are to be found in the list, or there are none.
    pub values: Option<Vec<(u32, Digest)>>,
}

impl QuoteOutcome {
    /// Whether nothing is wrong with it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// Why it is no quote that somebody could not have made himself, or made before; `None`: it is one.
    pub(super) fn lacking(&self) -> Option<&'static str> {
        if !self.is_good() {
            return Some("the quote that the PCR values are from is not good");
        }
        match (self.key_trusted, self.nonce_checked) {
            (true, true) => None,
            (true, false) => Some(
                "whether the quote that the PCR values are from is fresh was not checked: no nonce was given",
            ),
            (false, true) => Some(
                "the quote that the PCR values are from is signed by a key that it names itself: none was given",
            ),
            (false, false) => Some(
                "the quote that the PCR values are from is signed by a key that it names itself, and whether it is fresh was not checked: neither key nor nonce was given",
            ),
        }
    }

    /// What a list whose first entry extends `pcr` is compared with.
    #[must_use]
    pub fn anchor(&mut self, pcr: Option<u32>) -> Anchor {
        let Some(values) = &self.values else {
            if self.is_good() {
                self.faults.push(QuoteFault::NotOfList);
            }
            return Anchor::Absent;
        };
        match pcr.filter(|pcr| values.iter().all(|(of, _)| of != pcr)) {
            None => Anchor::Among(values.clone()),
            Some(pcr) => {
                self.faults.push(QuoteFault::OtherPcr(pcr));
                Anchor::Absent
            }
        }
    }

    /// The one PCR that was quoted, with the digest over its value, if no values came with it: a list that gives a value with that digest
    /// is what was quoted.
    #[must_use]
    pub fn unknown_value(&self) -> Option<(u32, HashAlgorithm, Digest)> {
        let info = self.info.as_ref().filter(|_| self.values.is_none())?;
        let [Selected { bank, pcrs, .. }] = &info.selection[..] else {
            return None;
        };
        let [pcr] = pcrs[..] else { return None };
        let digest = Digest::new(HashAlgorithm::Sha256, &info.digest).ok()?;
        Some((pcr, (*bank)?, digest))
    }

    /// Takes a value that [`QuoteOutcome::unknown_value`] is of.
    pub fn found(&mut self, pcr: u32, value: Digest) {
        let matches = self.unknown_value().is_some_and(|(of, bank, digest)| {
            of == pcr
                && bank == value.algorithm()
                && HashAlgorithm::Sha256.digest(value.bytes()) == digest
        });
        if matches {
            self.values = Some(vec![(pcr, value)]);
        }
    }
}

impl Quoted<'_> {
    /// Checks it: by `trusted`, or if there is none by the key that the evidence names.
    #[must_use]
    pub fn check(&self, trusted: Option<&QuoteKey>, nonce: Option<&[u8]>) -> QuoteOutcome {
        let mut outcome = QuoteOutcome {
            info: None,
            scheme: None,
            key: None,
            key_trusted: trusted.is_some(),
            nonce_checked: nonce.is_some(),
            faults: Vec::new(),
            warnings: Vec::new(),
            values: None,
        };
        self.check_key(trusted, &mut outcome);
        match attest(self.message) {
            Ok((info, extra)) => {
                self.check_nonce(extra, nonce, &mut outcome);
                outcome
                    .warnings
                    .extend((!info.safe).then_some(QuoteWarning::Unsafe));
                self.check_values(&info, &mut outcome);
                outcome.info = Some(info);
            }
            Err(fault) => outcome.faults.push(fault),
        }
        outcome
    }

    fn check_key(&self, trusted: Option<&QuoteKey>, outcome: &mut QuoteOutcome) {
        let signature = match signature(self.signature) {
            Ok(signature) => signature,
            Err(fault) => return outcome.faults.push(fault),
        };
        outcome.scheme = Some(signature.name());
        if trusted.is_none() {
            outcome.warnings.push(QuoteWarning::ClaimedKey);
        }
        if let (Some(trusted), Some(claimed)) = (trusted, self.claimed)
            && !trusted.is(claimed)
        {
            outcome.faults.push(QuoteFault::OtherKey);
        }
        let Some(key) = trusted.or(self.claimed) else {
            return outcome.faults.push(QuoteFault::Signature);
        };
        outcome.key.clone_from(&key.fingerprint);
        match key.lacking() {
            None => outcome.warnings.push(QuoteWarning::NoAttributes),
            Some(lacking) if lacking.is_empty() => {}
            Some(lacking) => outcome.faults.push(QuoteFault::Attributes(lacking)),
        }
        if !key.signed(self.message, &signature) {
            outcome.faults.push(QuoteFault::Signature);
        }
    }

    fn check_nonce(&self, extra: &[u8], nonce: Option<&[u8]>, outcome: &mut QuoteOutcome) {
        match nonce {
            None => outcome.warnings.push(QuoteWarning::NoNonce),
            Some(nonce) if nonce == extra => {}
            Some(nonce) => outcome.faults.push(QuoteFault::Nonce {
                found: printable(extra),
                chosen: printable(nonce),
            }),
        }
    }

    /// The values count only if they are what was signed.
    fn check_values(&self, info: &QuoteInfo, outcome: &mut QuoteOutcome) {
        let known = |selected: &Selected| selected.bank.is_some() && !selected.pcrs.is_empty();
        if !info.selection.iter().any(known) {
            return outcome.faults.push(QuoteFault::Selection);
        }
        let Some(bytes) = self.values else { return };
        let values = match values_of(bytes, &shape(&info.selection)) {
            Ok(values) => values,
            Err(error) => {
                let error = error.to_string();
                return outcome.faults.push(QuoteFault::ValuesForm(error));
            }
        };
        let parts: Vec<&[u8]> = values.iter().map(|value| &value.bytes[..]).collect();
        if HashAlgorithm::Sha256.digest_parts(&parts).bytes() != info.digest {
            return outcome.faults.push(QuoteFault::Values);
        }
        let digest = |value: &PcrValues| {
            let bank = HashAlgorithm::from_tpm_id(value.algorithm)?;
            Some((value.pcr, Digest::new(bank, &value.bytes).ok()?))
        };
        outcome.values = Some(values.iter().filter_map(digest).collect());
    }
}

/// Each PCR of a selection, in the order in which their values are hashed.
fn shape(selection: &[Selected]) -> Vec<(u16, u32)> {
    let of = |selected: &Selected| {
        let algorithm = selected.algorithm;
        let pcrs = selected.pcrs.clone().into_iter();
        pcrs.map(move |pcr| (algorithm, pcr))
    };
    selection.iter().flat_map(of).collect()
}

fn printable(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            format!("\"{text}\"")
        }
        _ if bytes.is_empty() => "none".to_owned(),
        _ => hex::encode(bytes),
    }
}

/// What is in a `TPMS_ATTEST`, and its `extraData`.
fn attest(message: &[u8]) -> Result<(QuoteInfo, &[u8]), QuoteFault> {
    let mut wire = Wire(message);
    let magic = wire.u32().ok_or(QuoteFault::Message)?;
    if magic != GENERATED {
        return Err(QuoteFault::NotGenerated(magic));
    }
    let kind = wire.u16().ok_or(QuoteFault::Message)?;
    if kind != QUOTE {
        return Err(QuoteFault::NotQuote(kind));
    }
    quote(wire).ok_or(QuoteFault::Message)
}

fn quote(mut wire: Wire<'_>) -> Option<(QuoteInfo, &[u8])> {
    // Name of the key, which who has the key does not need.
    wire.sized()?;
    let extra = wire.sized()?;
    let clock_ms = wire.u64()?;
    let reset_count = wire.u32()?;
    let restart_count = wire.u32()?;
    let safe = match wire.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let firmware = wire.u64()?;
    let selection = selection(&mut wire)?;
    let digest = wire.sized()?.to_vec();
    wire.end()?;
    let info = QuoteInfo {
        nonce: printable(extra),
        clock_ms,
        reset_count,
        restart_count,
        safe,
        firmware,
        selection,
        digest,
    };
    Some((info, extra))
}

/// A `TPML_PCR_SELECTION`.
fn selection(wire: &mut Wire<'_>) -> Option<Vec<Selected>> {
    let count = wire.u32()?;
    if count > BANKS {
        return None;
    }
    let mut selection = Vec::new();
    for _ in 0..count {
        let algorithm = wire.u16()?;
        let size = wire.u8()?;
        if size > SELECT {
            return None;
        }
        let bits = wire.take(size.into())?;
        let is_set = |pcr: &u32| {
            let byte = bits.get(*pcr as usize / 8);
            byte.is_some_and(|byte| byte >> (pcr % 8) & 1 == 1)
        };
        selection.push(Selected {
            bank: HashAlgorithm::from_tpm_id(algorithm),
            algorithm,
            pcrs: (0..u32::from(size) * 8).filter(is_set).collect(),
        });
    }
    Some(selection)
}

/// A `TPMT_SIGNATURE`.
fn signature(bytes: &[u8]) -> Result<Signature<'_>, QuoteFault> {
    let form = || QuoteFault::SignatureForm;
    let mut wire = Wire(bytes);
    let algorithm = wire.u16().ok_or_else(form)?;
    let hash = wire.u16().ok_or_else(form)?;
    if hash != SHA256 || ![ECDSA, RSASSA, RSAPSS].contains(&algorithm) {
        return Err(QuoteFault::SignatureKind { algorithm, hash });
    }
    let first = wire.sized().ok_or_else(form)?;
    let signature = match algorithm {
        ECDSA => {
            let s = wire.sized().ok_or_else(form)?;
            Signature::Ecdsa { r: first, s }
        }
        RSASSA => Signature::Rsassa(first),
        _ => Signature::Rsapss(first),
    };
    wire.end().ok_or_else(form)?;
    Ok(signature)
}

#[cfg(test)]
mod tests;
