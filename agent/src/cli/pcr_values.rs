// SPDX-License-Identifier: Apache-2.0
//! PCR values as text: `tpm2_pcrread`'s YAML, the lines evmctl takes, and one value on
//! the command line. Pure: parses, opens nothing.
//!
//! ```text
//!   sha256:                          tpm2_pcrread (tpm2-tools 4 and 5)
//!     13: 0xAB12…
//! PCR-13: ab 12 …                    evmctl; the bank is told by the length
//! ```

use std::{collections::HashSet, str::FromStr};

use ima_log::{Digest, DigestError, EscapedName, HashAlgorithm, MAX_PCR};

/// Bytes of a wrong line that are shown.
const SHOWN: usize = 60;

/// One value on the command line: `sha256:13=<hex>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PcrValue {
    /// The PCR.
    pub pcr: u32,
    /// What it holds.
    pub value: Digest,
}

/// Why a text is not a PCR value, or a file not a set of them.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PcrValueError {
    /// Not of the form.
    #[error("`{0}` is not a PCR value: it should look like sha256:13=<64 hexadecimal digits>")]
    Form(String),
    /// No PCR number.
    #[error("`{0}` is not a PCR: a number from 0 to {MAX_PCR} is")]
    Pcr(String),
    /// Not a digest of that bank.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// As many bytes as no bank has.
    #[error("it has {0} bytes, as no bank's value has (sha1 20, sha256 32, sha384 48, sha512 64)")]
    Length(usize),
    /// A value before any bank was named.
    #[error("a value stands before the name of its bank (such as `sha256:`)")]
    NoBank,
    /// Neither a bank nor a value.
    #[error("it is neither a bank nor a value: {0}")]
    Line(String),
    /// The same PCR and bank again.
    #[error("PCR {0} of bank {1} is given twice")]
    Twice(u32, HashAlgorithm),
    /// No value at all.
    #[error("it has no PCR value: `tpm2_pcrread` and evmctl's form are read")]
    Nothing,
    /// Which line of a file.
    #[error("line {0}: {1}")]
    At(usize, Box<PcrValueError>),
}

impl FromStr for PcrValue {
    type Err = PcrValueError;

    fn from_str(text: &str) -> Result<Self, PcrValueError> {
        let form = || PcrValueError::Form(shown(text));
        let (bank, rest) = text.split_once(':').ok_or_else(form)?;
        let (pcr, value) = rest.split_once('=').ok_or_else(form)?;
        let bank = bank.to_ascii_lowercase();
        let algorithm = HashAlgorithm::from_name(&bank)
            .ok_or_else(|| DigestError::UnknownAlgorithm { name: shown(&bank) })?;
        Ok(Self {
            pcr: number(pcr)?,
            value: in_bank(algorithm, value)?,
        })
    }
}

/// Which bank the values of a file belong to.
enum Bank {
    Unnamed,
    Known(HashAlgorithm),
    /// One that cannot be replayed here, such as `sm3_256`: passed over.
    Unknown,
}

/// The values of a file.
///
/// # Errors
/// The first line that is not understood, or that there is no value.
pub(crate) fn parse(text: &str) -> Result<Vec<(u32, Digest)>, PcrValueError> {
    let mut values = Vec::new();
    let mut bank = Bank::Unnamed;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let value = parse_line(line, &mut bank)
            .map_err(|error| PcrValueError::At(index + 1, Box::new(error)))?;
        values.extend(value);
    }
    if values.is_empty() {
        return Err(PcrValueError::Nothing);
    }
    no_repetition(&values)?;
    Ok(values)
}

/// Each PCR has one value in each bank.
///
/// # Errors
/// The first that has two.
pub(super) fn no_repetition(values: &[(u32, Digest)]) -> Result<(), PcrValueError> {
    let mut seen = HashSet::new();
    for (pcr, value) in values {
        if !seen.insert((*pcr, value.algorithm())) {
            return Err(PcrValueError::Twice(*pcr, value.algorithm()));
        }
    }
    Ok(())
}

fn parse_line(line: &str, bank: &mut Bank) -> Result<Option<(u32, Digest)>, PcrValueError> {
    let wrong = || PcrValueError::Line(shown(line));
    let (key, value) = line.split_once(':').ok_or_else(wrong)?;
    let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
    if let Some(pcr) = key.strip_prefix("pcr-") {
        return Ok(Some((number(pcr)?, by_length(value)?)));
    }
    if key.bytes().all(|byte| byte.is_ascii_digit()) && !key.is_empty() {
        let pcr = number(&key)?;
        return match bank {
            Bank::Unnamed => Err(PcrValueError::NoBank),
            Bank::Known(algorithm) => Ok(Some((pcr, in_bank(*algorithm, value)?))),
            Bank::Unknown => Ok(None),
        };
    }
    let is_name = key
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if key.is_empty() || !is_name || !value.is_empty() {
        return Err(wrong());
    }
    *bank = HashAlgorithm::from_name(&key).map_or(Bank::Unknown, Bank::Known);
    Ok(None)
}

fn number(text: &str) -> Result<u32, PcrValueError> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|pcr| digits && *pcr <= MAX_PCR)
        .ok_or_else(|| PcrValueError::Pcr(shown(text)))
}

fn in_bank(algorithm: HashAlgorithm, digits: &str) -> Result<Digest, PcrValueError> {
    Ok(Digest::new(algorithm, &bytes(digits)?)?)
}

fn by_length(digits: &str) -> Result<Digest, PcrValueError> {
    let bytes = bytes(digits)?;
    let algorithm =
        HashAlgorithm::from_digest_len(bytes.len()).ok_or(PcrValueError::Length(bytes.len()))?;
    Ok(Digest::new(algorithm, &bytes)?)
}

/// Hexadecimal digits in either case, with `0x` in front or not, spaces between or not.
fn bytes(text: &str) -> Result<Vec<u8>, PcrValueError> {
    let digits: String = text.split_ascii_whitespace().collect();
    let digits = digits.strip_prefix("0x").unwrap_or(&digits);
    hex::decode(digits).map_err(|reason| {
        let text = shown(text);
        PcrValueError::Digest(DigestError::NotHex { text, reason })
    })
}

fn shown(text: &str) -> String {
    let bytes = text.as_bytes();
    EscapedName(&bytes[..bytes.len().min(SHOWN)]).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(algorithm: HashAlgorithm, byte: u8) -> Digest {
        Digest::new(algorithm, &vec![byte; algorithm.digest_len()]).unwrap()
    }

    #[test]
    fn every_form_gives_the_same_values() {
        use HashAlgorithm::{Sha1, Sha256};
        let (a, b) = ("AB".repeat(20), "cd".repeat(32));
        let spaced = |hex: &str| {
            let pairs: Vec<_> = hex.as_bytes().chunks(2).map(<[u8]>::to_vec).collect();
            String::from_utf8(pairs.join(&b' ')).unwrap()
        };
        let forms = [
            (
                "tpm2-tools 5",
                format!("  sha1:\n    13: 0x{a}\n  sha256:\n    13: 0x{b}\n"),
            ),
            (
                "other spacing",
                format!("sha1 :\n  13 : 0x{a}\nsha256:\r\n13:0x{b}\r\n"),
            ),
            (
                "an unknown bank",
                format!(
                    "  sha1:\n    13: 0x{a}\n  sm3_256:\n    13: 0x{b}\n  sha256:\n    13: {b}"
                ),
            ),
            (
                "a bank that is not allocated",
                format!("  sha384:\n  sha1:\n    13: 0x{a}\n  sha256:\n    13: 0x{b}\n"),
            ),
            (
                "evmctl",
                format!("PCR-13: {}\npcr-13: {}\n", spaced(&a), spaced(&b)),
            ),
            (
                "evmctl without spaces",
                format!("PCR-13: {a}\n\nPCR-13:{b}"),
            ),
        ];
        for (form, text) in forms {
            assert_eq!(
                parse(&text),
                Ok(vec![(13, value(Sha1, 0xab)), (13, value(Sha256, 0xcd))]),
                "{form}"
            );
        }
    }

    #[test]
    fn a_wrong_line_is_named() {
        let hex = "00".repeat(32);
        let cases = [
            ("".to_owned(), "no PCR value"),
            ("  sha256:\n".to_owned(), "no PCR value"),
            (format!("13: 0x{hex}"), "line 1: a value stands before"),
            (
                format!("sha256:\n  64: 0x{hex}"),
                "line 2: `64` is not a PCR",
            ),
            (
                "sha256:\n  13: 0x00".to_owned(),
                "line 2: a sha256 digest has 32 bytes",
            ),
            ("sha256:\n\n  13: 0xzz".to_owned(), "line 3: "),
            ("PCR-13: 00 11".to_owned(), "line 1: it has 2 bytes"),
            ("PCR-x: 00".to_owned(), "line 1: `x` is not a PCR"),
            (
                "\u{1b}[2Jhello".to_owned(),
                r"neither a bank nor a value: \x1b[2Jhello",
            ),
            (
                format!("sha256:\n13: {hex}\n13: {hex}"),
                "PCR 13 of bank sha256 is given twice",
            ),
        ];
        for (text, said) in cases {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_value_on_the_command_line_names_bank_and_pcr() {
        let hex = "11".repeat(32);
        let expected = PcrValue {
            pcr: 13,
            value: value(HashAlgorithm::Sha256, 0x11),
        };
        for text in [format!("sha256:13={hex}"), format!("SHA256:13=0x{hex}")] {
            assert_eq!(text.parse(), Ok(expected));
        }
        for text in [
            "13=00",
            "sha256:13",
            "sha256:=00",
            "sm3:13=00",
            "sha256:13=00",
        ] {
            assert!(text.parse::<PcrValue>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_values_or_an_error_but_never_a_panic(text: String) {
            let _ = parse(&text);
            let _ = text.parse::<PcrValue>();
        }
    }
}
