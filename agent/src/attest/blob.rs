// SPDX-License-Identifier: Apache-2.0
//! PCR values as `tpm2_quote -F serialized` writes them: the memory of C structures of a little-endian machine, which Keylime
//! reads (`keylime/tpm/tpm_util.py`, `__get_pcrs_from_blob`).
//!
//! ```text
//! TPML_PCR_SELECTION   u32le count | 16 x (u16le algorithm | u8 size | 4 bytes of selection | 1 of padding)
//!                      u32le lists of digests
//! TPML_DIGEST          u32le count | 8 x (u16le size | 64 bytes)
//! ```

use ima_log::{Digest, HashAlgorithm};

/// `TPM2_NUM_PCR_BANKS`, and the digests of a `TPML_DIGEST`.
const BANKS: usize = 16;
const DIGESTS: usize = 8;
/// `sizeof(TPMU_HA)`.
const DIGEST_LEN: usize = 64;
/// `sizeofSelect`: bits for 24 PCRs.
const SELECT: u8 = 3;

/// One PCR of one bank.
pub(super) fn of_pcr(pcr: u32, value: &Digest) -> Vec<u8> {
    let mut blob = Vec::new();
    blob.extend(1u32.to_le_bytes());
    let bits = 1u32.checked_shl(pcr).unwrap_or(0).to_le_bytes();
    blob.extend(value.algorithm().tpm_id().to_le_bytes());
    blob.push(SELECT);
    blob.extend([bits[0], bits[1], bits[2], 0, 0]);
    blob.resize(blob.len() + (BANKS - 1) * 8, 0);
    blob.extend(1u32.to_le_bytes());
    blob.extend(1u32.to_le_bytes());
    let bytes = value.bytes();
    // A digest is 64 bytes long at most.
    blob.extend((bytes.len() as u16).to_le_bytes());
    blob.extend(bytes);
    blob.resize(blob.len() + DIGEST_LEN - bytes.len(), 0);
    blob.resize(blob.len() + (DIGESTS - 1) * (2 + DIGEST_LEN), 0);
    blob
}

/// Why bytes are no PCR values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// Neither form.
    #[error(
        "{0} bytes are neither values one after the other nor what `tpm2_quote -F serialized` writes"
    )]
    Form(usize),
    /// Other PCRs.
    #[error("it is of other PCRs than the quote")]
    Selection,
    /// More or fewer.
    #[error("it has {found} values, and the quote is of {expected} PCRs")]
    Count {
        /// PCRs of the quote.
        expected: usize,
        /// Values.
        found: usize,
    },
    /// A value that is none.
    #[error("the value of PCR {0} is not as long as its bank's")]
    Length(u32),
}

/// The value of a PCR, in whatever bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrValues {
    /// `TPM_ALG_ID` of the bank.
    pub algorithm: u16,
    /// The PCR.
    pub pcr: u32,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// The values that `tpm2_quote -o` wrote, by `-F serialized` or `-F values`, of `pcrs`: each with the `TPM_ALG_ID` of its bank, as
/// the quote selects them.
///
/// # Errors
/// See [`ValuesError`].
pub fn values_of(blob: &[u8], pcrs: &[(u16, u32)]) -> Result<Vec<PcrValues>, ValuesError> {
    let len = |algorithm: u16| HashAlgorithm::from_tpm_id(algorithm).map(HashAlgorithm::digest_len);
    let lens: Option<Vec<_>> = pcrs.iter().map(|(algorithm, _)| len(*algorithm)).collect();
    let plain = lens.filter(|lens| lens.iter().sum::<usize>() == blob.len());
    let values: Vec<&[u8]> = match plain {
        Some(lens) => {
            let mut rest = blob;
            let mut next = |len| rest.split_off(..len).unwrap_or_default();
            lens.into_iter().map(&mut next).collect()
        }
        None => {
            let form = || ValuesError::Form(blob.len());
            let (selected, values) = serialized(blob).ok_or_else(form)?;
            if selected != pcrs {
                return Err(ValuesError::Selection);
            }
            values
        }
    };
    if values.len() != pcrs.len() {
        let (expected, found) = (pcrs.len(), values.len());
        return Err(ValuesError::Count { expected, found });
    }
    let value = |(&(algorithm, pcr), bytes): (&(u16, u32), &&[u8])| {
        if len(algorithm).is_some_and(|len| len != bytes.len()) {
            return Err(ValuesError::Length(pcr));
        }
        let bytes = bytes.to_vec();
        Ok(PcrValues {
            algorithm,
            pcr,
            bytes,
        })
    };
    pcrs.iter().zip(&values).map(value).collect()
}

/// What is selected, and the values.
type Serialized<'a> = (Vec<(u16, u32)>, Vec<&'a [u8]>);

/// The C structures, taken apart.
fn serialized(blob: &[u8]) -> Option<Serialized<'_>> {
    let (selection, rest) = blob.split_at_checked(4 + BANKS * 8)?;
    let (count, banks) = selection.split_first_chunk()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let mut selected = Vec::new();
    for bank in banks.chunks_exact(8).take(count.min(BANKS)) {
        let (algorithm, bits) = bank.split_first_chunk::<2>()?;
        let algorithm = u16::from_le_bytes(*algorithm);
        let (size, bits) = bits.split_first()?;
        let bits = bits.get(..usize::from(*size).min(4))?;
        for (at, byte) in bits.iter().enumerate() {
            let set = (0..8).filter(|bit| byte >> bit & 1 == 1);
            // Four bytes have 32 bits.
            selected.extend(set.map(|bit| (algorithm, at as u32 * 8 + bit)));
        }
    }
    let (lists, rest) = rest.split_first_chunk()?;
    let lists = usize::try_from(u32::from_le_bytes(*lists)).ok()?;
    let list_len = 4 + DIGESTS * (2 + DIGEST_LEN);
    if count > BANKS || lists.checked_mul(list_len)? != rest.len() {
        return None;
    }
    let mut values = Vec::new();
    for list in rest.chunks_exact(list_len) {
        let (count, digests) = list.split_first_chunk()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        if count > DIGESTS {
            return None;
        }
        for digest in digests.chunks_exact(2 + DIGEST_LEN).take(count) {
            let (len, bytes) = digest.split_first_chunk()?;
            values.push(bytes.get(..usize::from(u16::from_le_bytes(*len)))?);
        }
    }
    Some((selected, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_where_c_has_it() {
        let value = HashAlgorithm::Sha256.digest(b"x");
        let blob = of_pcr(10, &value);
        // Both sizes are those of `sizeof` in tpm2-tss.
        assert_eq!(blob.len(), 132 + 4 + 532);
        assert_eq!(blob[..12], [1, 0, 0, 0, 0x0b, 0, 3, 0, 4, 0, 0, 0]);
        assert_eq!(blob[132..142], [1, 0, 0, 0, 1, 0, 0, 0, 32, 0]);
        assert_eq!(&blob[142..174], value.bytes());
        assert!(blob[174..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        let value = HashAlgorithm::Sha256.digest(b"x");
        let blob = of_pcr(13, &value);
        let pcrs = [(0x0b, 13)];
        let read = values_of(&blob, &pcrs).unwrap();
        assert_eq!((read[0].pcr, &read[0].bytes[..]), (13, value.bytes()));
        assert_eq!(values_of(value.bytes(), &pcrs).unwrap(), read);
        let other = values_of(&blob, &[(0x0b, 10)]);
        assert_eq!(other, Err(ValuesError::Selection));
        for len in 0..blob.len() {
            assert!(
                values_of(&blob[..len], &pcrs).is_err() || len == 32,
                "{len}"
            );
        }
        let mut long = blob.clone();
        long[140] = 31;
        assert_eq!(values_of(&long, &pcrs), Err(ValuesError::Length(13)));
        let mut none = blob;
        none[136] = 0;
        let error = values_of(&none, &pcrs).unwrap_err().to_string();
        assert!(error.contains("0 values"), "{error}");
    }
}
