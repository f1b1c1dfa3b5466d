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
    blob.extend(tpm_id(value.algorithm()).to_le_bytes());
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

/// `TPM_ALG_ID`, TCG Algorithm Registry.
fn tpm_id(algorithm: HashAlgorithm) -> u16 {
    match algorithm {
        HashAlgorithm::Sha1 => 0x0004,
        HashAlgorithm::Sha256 => 0x000b,
        HashAlgorithm::Sha384 => 0x000c,
        HashAlgorithm::Sha512 => 0x000d,
    }
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
}
