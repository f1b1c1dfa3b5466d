// SPDX-License-Identifier: Apache-2.0
//! Where a quote comes from: evidence as `cima evidence` makes it, or the files that `tpm2_quote` writes.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use ima_log::Entry;
use serde::Deserialize;

use super::source::{Source, SourceError};
use crate::{
    attest::{BANK, Prefix},
    verify::{QuoteKey, QuoteKeyError, QuoteOutcome, Quoted},
};

/// Evidence has a list in it: some millions of entries.
const EVIDENCE: u64 = 4 << 30;
/// Anything else of a quote is a few kilobytes.
const PART: u64 = 1 << 20;

/// What a TPM signed.
#[derive(Debug, Args)]
pub(super) struct QuoteArgs {
    /// A quote and the list that it is of, as `cima evidence` makes them; - for standard input
    #[arg(long, value_name = "FILE", group = "values", conflicts_with_all = ["host_list", "quote_sig", "quote_pcrs"])]
    evidence: Option<PathBuf>,
    /// A quote's message, as `tpm2_quote -m` writes it
    #[arg(long, value_name = "FILE", group = "values", requires_all = ["quote_sig", "ak"])]
    quote_msg: Option<PathBuf>,
    /// Its signature, as `tpm2_quote -s` writes it
    #[arg(long, value_name = "FILE", requires = "quote_msg")]
    quote_sig: Option<PathBuf>,
    /// Its PCR values, as `tpm2_quote -o` writes them (-F serialized or values); not needed of one PCR
    #[arg(long, value_name = "FILE", requires = "quote_msg")]
    quote_pcrs: Option<PathBuf>,
    /// The nonce that was chosen for this quote
    #[arg(long, value_name = "TEXT", conflicts_with = "nonce_hex")]
    nonce: Option<String>,
    /// The same in hexadecimal, as `tpm2_quote -q` takes it
    #[arg(long, value_name = "HEX", value_parser = hex_bytes)]
    nonce_hex: Option<Bytes>,
    /// The key that is to have signed: PEM, `TPM2B_PUBLIC` or what `cima evidence key --json` prints
    #[arg(long, value_name = "FILE")]
    ak: Option<PathBuf>,
}

/// Bytes of the command line.
#[derive(Debug, Clone)]
struct Bytes(Vec<u8>);

fn hex_bytes(text: &str) -> Result<Bytes, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bytes = hex::decode(digits);
    bytes
        .map(Bytes)
        .map_err(|_| "it is not hexadecimal".to_owned())
}

/// Why there is no quote to be checked.
#[derive(Debug, thiserror::Error)]
pub enum QuoteReadError {
    /// The file system refuses.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More than it can be.
    #[error("{} has more than {limit} bytes", path.display())]
    Long {
        /// What.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// No evidence.
    #[error("{} is no evidence as `cima evidence` makes it: {what}", path.display())]
    Evidence {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// No key.
    #[error("{}: {source}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: QuoteKeyError,
    },
    /// A nonce for nothing.
    #[error("--nonce and --ak are for a quote: give one with --evidence or --quote-msg")]
    NoQuote,
    /// The list is to be read twice.
    #[error("without --quote-pcrs the list is read twice, and standard input cannot be")]
    Stdin,
    /// See [`SourceError`].
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// What `cima evidence` makes; whatever else is in it is Keylime's.
#[derive(Deserialize)]
struct EvidenceFile {
    quote: String,
    tpm_ak: String,
    ima_measurement_list: String,
}

/// A quote, checked, and the list that came with it.
pub(super) struct GivenQuote {
    pub(super) outcome: QuoteOutcome,
    pub(super) list: Option<Source>,
}

impl QuoteArgs {
    /// `None`: none was given.
    pub(super) fn read(&self) -> Result<Option<GivenQuote>, QuoteReadError> {
        let trusted = match &self.ak {
            None => None,
            Some(path) => {
                let key = QuoteKey::read(&read(path, PART)?);
                let path = path.clone();
                Some(key.map_err(|source| QuoteReadError::Key { path, source })?)
            }
        };
        if let Some(path) = &self.evidence {
            return self.of_evidence(path, trusted.as_ref()).map(Some);
        }
        let (Some(message), Some(signature)) = (&self.quote_msg, &self.quote_sig) else {
            let is_for_one = self.ak.is_some() || self.nonce().is_some();
            return match is_for_one {
                true => Err(QuoteReadError::NoQuote),
                false => Ok(None),
            };
        };
        let values = self.quote_pcrs.as_deref().map(|path| read(path, PART));
        let values = values.transpose()?;
        let quoted = Quoted {
            message: &read(message, PART)?,
            signature: &read(signature, PART)?,
            values: values.as_deref(),
            claimed: None,
        };
        let outcome = quoted.check(trusted.as_ref(), self.nonce());
        Ok(Some(GivenQuote {
            outcome,
            list: None,
        }))
    }

    fn nonce(&self) -> Option<&[u8]> {
        let text = self.nonce.as_deref().map(str::as_bytes);
        text.or(self.nonce_hex.as_ref().map(|Bytes(bytes)| &bytes[..]))
    }

    fn of_evidence(
        &self,
        path: &Path,
        trusted: Option<&QuoteKey>,
    ) -> Result<GivenQuote, QuoteReadError> {
        let wrong = |what: &str| QuoteReadError::Evidence {
            path: path.to_owned(),
            what: what.to_owned(),
        };
        let bytes = read(path, EVIDENCE)?;
        let evidence: EvidenceFile = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(&cima_hook::printable(&error.to_string())))?;
        let parts = evidence.quote.strip_prefix('r').map(|quote| {
            let parts = quote.split(':').map(|part| STANDARD.decode(part).ok());
            parts.collect::<Option<Vec<_>>>()
        });
        let (message, signature, values) = match parts.flatten().as_deref() {
            Some([message, signature]) => (message.clone(), signature.clone(), None),
            Some([message, signature, values]) => {
                (message.clone(), signature.clone(), Some(values.clone()))
            }
            _ => {
                return Err(wrong(
                    "its quote is not \"r\" and two or three parts in base64",
                ));
            }
        };
        let claimed = QuoteKey::read(evidence.tpm_ak.as_bytes());
        let claimed = claimed.map_err(|error| wrong(&format!("its tpm_ak: {error}")))?;
        let quoted = Quoted {
            message: &message,
            signature: &signature,
            values: values.as_deref(),
            claimed: Some(&claimed),
        };
        let outcome = quoted.check(trusted, self.nonce());
        let list = Source::Evidence {
            path: path.to_owned(),
            list: evidence.ima_measurement_list.into_bytes().into(),
        };
        Ok(GivenQuote {
            outcome,
            list: Some(list),
        })
    }
}

/// Finds the value that was quoted, if none came with the quote, as what `list` gives.
pub(super) fn find_value(outcome: &mut QuoteOutcome, list: &Source) -> Result<(), QuoteReadError> {
    let Some((pcr, _, digest)) = outcome.unknown_value().filter(|(_, bank, _)| *bank == BANK)
    else {
        return Ok(());
    };
    if *list == Source::Stdin {
        return Err(QuoteReadError::Stdin);
    }
    let mut entries = list.open()?;
    let mut entry = Entry::default();
    let mut prefix = Prefix::new(pcr, digest);
    while prefix.found().is_none() {
        match entries.read(&mut entry) {
            Some(Ok(_)) => prefix.push(&entry),
            // The judge says what is wrong there.
            Some(Err(error)) => _ = entries.damage(error)?,
            None => return Ok(()),
        }
    }
    outcome.found(pcr, prefix.value());
    Ok(())
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, QuoteReadError> {
    let failed = |source| QuoteReadError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let source: Box<dyn io::Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let mut source = source.take(limit + 1);
    source.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        let path = path.to_owned();
        return Err(QuoteReadError::Long { path, limit });
    }
    Ok(bytes)
}
