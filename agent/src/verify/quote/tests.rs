// SPDX-License-Identifier: Apache-2.0
//! Quotes made here by keys of our own, and then wrong in one way each.

use p256::ecdsa::{Signature as EcSignature, SigningKey, signature::Signer as _};
use proptest::prelude::*;
use rsa::{RsaPrivateKey, signature::RandomizedSigner as _, signature::SignatureEncoding as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rsa::{sha2::Sha256, traits::PublicKeyParts as _};

use super::*;

const RESTRICTED: u32 = 0x0005_0472;
const NONCE: &[u8] = b"chosen";

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A `TPM2B_PUBLIC` over P-256.
fn ec_public(key: &SigningKey, attributes: u32) -> Vec<u8> {
    let point = key.verifying_key().to_encoded_point(false);
    sized(
        &[
            &0x0023u16.to_be_bytes()[..],
            &0x000bu16.to_be_bytes(),
            &attributes.to_be_bytes(),
            &sized(b""),
            &[0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10],
            &sized(point.x().unwrap()),
            &sized(point.y().unwrap()),
        ]
        .concat(),
    )
}

fn rsa_public(key: &RsaPrivateKey, attributes: u32) -> Vec<u8> {
    sized(
        &[
            &0x0001u16.to_be_bytes()[..],
            &0x000bu16.to_be_bytes(),
            &attributes.to_be_bytes(),
            &sized(b""),
            &[0, 0x10, 0, 0x14, 0, 0x0b, 8, 0, 0, 0, 0, 0],
            &sized(&key.n().to_bytes_be()),
        ]
        .concat(),
    )
}

/// What a TPM would sign.
#[derive(Clone)]
struct Said {
    magic: u32,
    kind: u16,
    nonce: Vec<u8>,
    safe: u8,
    /// Algorithm and bytes of each selection.
    selection: Vec<(u16, Vec<u8>)>,
    digest: Vec<u8>,
}

impl Said {
    fn of(value: &Digest) -> Self {
        Self {
            magic: GENERATED,
            kind: QUOTE,
            nonce: NONCE.to_vec(),
            safe: 1,
            selection: vec![(0x000b, vec![0, 0x20, 0])],
            digest: HashAlgorithm::Sha256.digest(value.bytes()).bytes().to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_be_bytes().to_vec();
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(sized(b"name"));
        bytes.extend(sized(&self.nonce));
        bytes.extend(77u64.to_be_bytes());
        bytes.extend(5u32.to_be_bytes());
        bytes.extend(6u32.to_be_bytes());
        bytes.push(self.safe);
        bytes.extend(8u64.to_be_bytes());
        bytes.extend((self.selection.len() as u32).to_be_bytes());
        for (algorithm, bits) in &self.selection {
            bytes.extend(algorithm.to_be_bytes());
            bytes.push(bits.len() as u8);
            bytes.extend(bits);
        }
        bytes.extend(sized(&self.digest));
        bytes
    }
}

fn ec_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32].into()).unwrap()
}

fn ec_signed(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: EcSignature = key.sign(message);
    let (r, s) = signature.split_bytes();
    [&[0, 0x18, 0, 0x0b][..], &sized(&r), &sized(&s)].concat()
}

fn value() -> Digest {
    HashAlgorithm::Sha256.digest(b"a PCR")
}

fn words(outcome: &QuoteOutcome) -> Vec<&'static str> {
    outcome.faults.iter().map(QuoteFault::word).collect()
}

/// Of a quote by key 1, checked with that.
fn checked(said: &Said, values: Option<&[u8]>) -> QuoteOutcome {
    let signer = ec_key(1);
    let key = QuoteKey::of_public(&ec_public(&signer, RESTRICTED)).unwrap();
    let message = said.bytes();
    let quoted = Quoted {
        message: &message,
        signature: &ec_signed(&signer, &message),
        values,
        claimed: None,
    };
    quoted.check(Some(&key), Some(NONCE))
}

#[test]
fn a_genuine_quote_says_what_the_pcr_held() {
    let value = value();
    let outcome = checked(&Said::of(&value), Some(value.bytes()));
    assert_eq!((words(&outcome), &outcome.warnings[..]), (vec![], &[][..]));
    assert_eq!(outcome.values, Some(vec![(13, value)]));
    let info = outcome.info.unwrap();
    assert_eq!((info.reset_count, info.restart_count), (5, 6));
    assert_eq!((info.clock_ms, info.firmware, info.safe), (77, 8, true));
    assert_eq!(info.selection[0].pcrs, [13]);
    assert_eq!(info.nonce, "\"chosen\"");
    // Without values the list must give what was quoted.
    let mut outcome = checked(&Said::of(&value), None);
    let digest = HashAlgorithm::Sha256.digest(value.bytes());
    let unknown = Some((13, HashAlgorithm::Sha256, digest));
    assert_eq!(outcome.unknown_value(), unknown);
    outcome.found(13, HashAlgorithm::Sha256.digest(b"another"));
    assert_eq!(outcome.values, None);
    outcome.found(13, value);
    assert_eq!(outcome.values, Some(vec![(13, value)]));
}

#[test]
fn what_is_wrong_with_a_quote_is_named() {
    let value = value();
    let good = Said::of(&value);
    let other = HashAlgorithm::Sha256.digest(b"another");
    type Change = fn(&mut Said);
    let cases: [(&str, Change); 9] = [
        ("quote-type", |said| said.magic = 0xff54_4348),
        ("quote-type", |said| said.kind = 0x8017),
        ("quote-nonce", |said| said.nonce = b"older".to_vec()),
        ("quote-nonce", |said| said.nonce.clear()),
        ("quote-selection", |said| said.selection.clear()),
        ("quote-selection", |said| said.selection[0].1 = vec![0; 3]),
        ("quote-selection", |said| said.selection[0].0 = 0x0012),
        ("quote-form", |said| said.safe = 2),
        ("quote-form", |said| said.selection[0].1 = vec![0; 5]),
    ];
    for (word, change) in cases {
        let mut said = good.clone();
        change(&mut said);
        assert_eq!(words(&checked(&said, Some(value.bytes()))), [word]);
    }
    for (values, word) in [
        (other.bytes(), "quote-values"),
        (&value.bytes()[..31], "quote-form"),
        (&[], "quote-form"),
    ] {
        assert_eq!(words(&checked(&good, Some(values))), [word]);
    }
    // Another PCR than its values are of.
    let mut said = good.clone();
    said.selection[0].1 = vec![0, 0x30, 0];
    assert_eq!(words(&checked(&said, Some(value.bytes()))), ["quote-form"]);
    let mut said = good;
    said.safe = 0;
    let outcome = checked(&said, Some(value.bytes()));
    assert_eq!((words(&outcome), outcome.warnings.len()), (vec![], 1));
}

#[test]
fn a_key_that_could_sign_anything_proves_nothing() {
    let value = value();
    let message = Said::of(&value).bytes();
    let signer = ec_key(1);
    let signature = ec_signed(&signer, &message);
    let check = |attributes: u32| {
        let key = QuoteKey::of_public(&ec_public(&signer, attributes)).unwrap();
        let quoted = Quoted {
            message: &message,
            signature: &signature,
            values: None,
            claimed: None,
        };
        quoted.check(Some(&key), Some(NONCE))
    };
    assert!(check(RESTRICTED).is_good());
    for (bit, name) in [
        (1 << 1, "fixedTPM"),
        (1 << 4, "fixedParent"),
        (1 << 5, "sensitiveDataOrigin"),
        (1 << 16, "restricted"),
        (1 << 18, "sign"),
    ] {
        let said = check(RESTRICTED & !bit).faults[0].to_string();
        assert!(said.contains(name), "{said}");
    }
    let said = check(RESTRICTED | 1 << 17).faults[0].to_string();
    assert!(said.contains("decrypts"), "{said}");
}

#[test]
fn another_key_and_the_evidences_own_claim_are_told_apart() {
    let value = value();
    let message = Said::of(&value).bytes();
    let (signer, other) = (ec_key(1), ec_key(2));
    let public = |key| QuoteKey::of_public(&ec_public(key, RESTRICTED)).unwrap();
    let (own, trusted) = (public(&signer), public(&other));
    let signature = ec_signed(&signer, &message);
    let quoted = Quoted {
        message: &message,
        signature: &signature,
        values: None,
        claimed: Some(&own),
    };
    let claimed = quoted.check(None, None);
    assert!(claimed.is_good());
    assert_eq!(
        claimed.warnings,
        [QuoteWarning::ClaimedKey, QuoteWarning::NoNonce]
    );
    let outcome = quoted.check(Some(&trusted), Some(NONCE));
    assert_eq!(words(&outcome), ["quote-key", "quote-signature"]);
    let nobody = Quoted {
        claimed: None,
        ..quoted
    };
    assert_eq!(words(&nobody.check(None, None)), ["quote-signature"]);
    for len in 0..signature.len() {
        let cut = Quoted {
            signature: &signature[..len],
            ..quoted
        };
        assert!(!cut.check(None, None).is_good(), "{len}");
    }
    let sha1 = Quoted {
        signature: &[0, 0x18, 0, 4, 0, 1, 1, 0, 1, 1],
        ..quoted
    };
    let said = sha1.check(None, None).faults[0].to_string();
    assert!(said.contains("hash 0x0004"), "{said}");
}

#[test]
fn rsa_keys_sign_quotes_as_well() {
    let mut random = rsa::rand_core::OsRng;
    let signer = RsaPrivateKey::new(&mut random, 2048).unwrap();
    let key = QuoteKey::of_public(&rsa_public(&signer, RESTRICTED)).unwrap();
    let message = Said::of(&value()).bytes();
    let pkcs = rsa::pkcs1v15::SigningKey::<Sha256>::new(signer.clone());
    let pkcs = p256::ecdsa::signature::Signer::sign(&pkcs, &message).to_vec();
    let pss = |salt| {
        let signer = rsa::pss::SigningKey::<Sha256>::new_with_salt_len(signer.clone(), salt);
        signer.sign_with_rng(&mut rsa::rand_core::OsRng, &message)
    };
    let cases = [
        (RSASSA, pkcs.clone(), true),
        (RSAPSS, pss(32).to_vec(), true),
        (RSAPSS, pss(222).to_vec(), true),
        (RSAPSS, pkcs, false),
        (RSASSA, Vec::new(), false),
    ];
    for (scheme, bytes, good) in cases {
        let signature = [&scheme.to_be_bytes()[..], &[0, 0x0b], &sized(&bytes)].concat();
        let quoted = Quoted {
            message: &message,
            signature: &signature,
            values: None,
            claimed: None,
        };
        let outcome = quoted.check(Some(&key), Some(NONCE));
        assert_eq!(outcome.is_good(), good, "{scheme:#x}: {outcome:?}");
    }
    let short = RsaPrivateKey::new(&mut random, 1024).unwrap();
    let short = QuoteKey::of_public(&rsa_public(&short, RESTRICTED));
    assert_eq!(short, Err(QuoteKeyError::Kind));
}

#[test]
fn a_key_is_read_in_each_form() {
    let public = ec_public(&ec_key(1), RESTRICTED);
    let key = QuoteKey::of_public(&public).unwrap();
    let base64 = STANDARD.encode(&public);
    let json = format!("{{\"handle\":\"0x1\",\"tpm_ak\":\"{base64}\"}}\n");
    let text = format!("handle          0x1\ntpm_ak          {base64}\ntpm_ek          AAAA\n");
    for form in [
        &public[..],
        base64.as_bytes(),
        json.as_bytes(),
        text.as_bytes(),
    ] {
        assert_eq!(QuoteKey::read(form).as_ref(), Ok(&key));
    }
    let pem = p256::pkcs8::EncodePublicKey::to_public_key_pem(
        ec_key(1).verifying_key(),
        p256::pkcs8::LineEnding::LF,
    );
    let pem = QuoteKey::read(pem.unwrap().as_bytes()).unwrap();
    assert!(pem.is(&key) && pem.lacking().is_none());
    for none in [
        &b""[..],
        b"\0",
        b"{}",
        b"hello",
        b"-----BEGIN X-----",
        b"\xff\xff",
    ] {
        assert!(QuoteKey::read(none).is_err(), "{none:?}");
    }
    for at in 0..public.len() {
        let mut wrong = public.clone();
        wrong[at] ^= 0x80;
        // A point is on the curve or not, and attributes are what they are.
        let read = QuoteKey::of_public(&wrong);
        assert!(read.as_ref() != Ok(&key), "{at}");
    }
}

proptest! {
    #[test]
    fn a_flipped_bit_of_message_or_signature_is_noticed(at in 0..400usize, bit in 0..8u32) {
        let value = value();
        let signer = ec_key(1);
        let key = QuoteKey::of_public(&ec_public(&signer, RESTRICTED)).unwrap();
        let mut message = Said::of(&value).bytes();
        let mut signature = ec_signed(&signer, &message);
        let len = message.len();
        match message.get_mut(at) {
            Some(byte) => *byte ^= 1 << bit,
            None => {
                let at = (at - len) % signature.len();
                signature[at] ^= 1 << bit;
            }
        }
        let quoted = Quoted { message: &message, signature: &signature, values: Some(value.bytes()), claimed: None };
        prop_assert!(!quoted.check(Some(&key), Some(NONCE)).is_good());
    }

    #[test]
    fn any_bytes_are_a_sentence_and_never_a_panic(message: Vec<u8>, signature: Vec<u8>, values: Vec<u8>, key: Vec<u8>) {
        let message = [&Said::of(&value()).bytes()[..message.len().min(40)], &message].concat();
        let claimed = QuoteKey::read(&key).ok();
        let quoted = Quoted { message: &message, signature: &signature, values: Some(&values), claimed: claimed.as_ref() };
        let outcome = quoted.check(None, None);
        prop_assert!(!outcome.is_good());
        outcome.faults.iter().for_each(|fault| drop(fault.to_string()));
    }
}
