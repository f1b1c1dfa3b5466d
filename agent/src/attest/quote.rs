// SPDX-License-Identifier: Apache-2.0
//! A quote of one PCR.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ima_log::{Digest, DigestError};
use tss_esapi::{
    constants::CapabilityType,
    interface_types::session_handles::AuthSession,
    structures::{Attest, AttestInfo, CapabilityData, Data, Signature, SignatureScheme},
    traits::Marshall as _,
};

use super::{BANK, Key, KeyError, blob, key::refused};
use crate::sink::selection;

/// A nonce's bytes: `TPM2B_DATA` has room for a digest with its algorithm.
const NONCE: std::ops::RangeInclusive<usize> = 1..=64;

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
pub enum QuoteError {
    /// See [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not a nonce.
    #[error("a nonce has 1 to 64 bytes, this one {0}")]
    Nonce(usize),
    /// A bank that is not there.
    #[error(
        "the TPM has no {BANK} bank, or not with PCR {0}: allocate one (tpm2_pcrallocate) and reboot"
    )]
    NoBank(u32),
    /// The TPM signed something else.
    #[error("the TPM signed no quote")]
    NoQuote,
    /// Its digest has another length.
    #[error("the TPM quoted with another hash: {0}")]
    Digest(#[from] DigestError),
}

/// What the TPM signed.
#[derive(Debug)]
pub struct Quote {
    attest: Attest,
    signature: Signature,
    pcr: u32,
    /// Over the value of the PCR.
    pub digest: Digest,
}

impl Quote {
    /// Has `key` sign what the PCR holds, and the nonce.
    ///
    /// # Errors
    /// See [`QuoteError`].
    pub fn of(key: &mut Key, pcr: u32, nonce: &[u8]) -> Result<Self, QuoteError> {
        if !NONCE.contains(&nonce.len()) {
            return Err(QuoteError::Nonce(nonce.len()));
        }
        let failed = refused("quote");
        if !has_bank(key, pcr)? {
            return Err(QuoteError::NoBank(pcr));
        }
        let data = Data::try_from(nonce.to_vec()).map_err(&failed)?;
        let selection = selection(BANK, pcr).map_err(&failed)?;
        let handle = key.handle;
        let (attest, signature) = key
            .context
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.quote(handle, data, SignatureScheme::Null, selection)
            })
            .map_err(&failed)?;
        let AttestInfo::Quote { info } = attest.attested() else {
            return Err(QuoteError::NoQuote);
        };
        let digest = Digest::new(BANK, info.pcr_digest().value())?;
        Ok(Self {
            attest,
            signature,
            pcr,
            digest,
        })
    }

    /// As Keylime takes it, with the value that the PCR had: see [`Evidence::quote`](super::Evidence::quote).
    ///
    /// # Errors
    /// The software stack cannot marshal it.
    pub fn with_value(&self, value: &Digest) -> Result<String, QuoteError> {
        let failed = refused("marshal a quote");
        let attest = self.attest.marshall().map_err(&failed)?;
        let signature = self.signature.marshall().map_err(&failed)?;
        let values = blob::of_pcr(self.pcr, value);
        let [attest, signature, values] =
            [attest, signature, values].map(|part| STANDARD.encode(part));
        Ok(format!("r{attest}:{signature}:{values}"))
    }
}

/// A TPM quotes a PCR that it does not have as well, as nothing.
fn has_bank(key: &mut Key, pcr: u32) -> Result<bool, KeyError> {
    let (data, _) = key
        .context
        .execute_without_session(|context| {
            context.get_capability(CapabilityType::AssignedPcr, 0, 1)
        })
        .map_err(refused("say which banks it has"))?;
    let wanted = selection(BANK, pcr).map_err(refused("name a PCR"))?;
    let CapabilityData::AssignedPcr(assigned) = data else {
        return Ok(false);
    };
    let has = |wanted: &tss_esapi::structures::PcrSelection| {
        let mut banks = assigned.get_selections().iter();
        banks.any(|bank| {
            bank.hashing_algorithm() == wanted.hashing_algorithm()
                && wanted.selected().iter().all(|slot| bank.is_selected(*slot))
        })
    };
    Ok(wanted.get_selections().iter().all(has))
}
