// SPDX-License-Identifier: Apache-2.0
//! The key that signs quotes: a primary key of the endorsement hierarchy, ECDSA over P-256 with SHA-256, restricted, so that it signs only
//! what the TPM itself says. Made once, and kept in the TPM under a persistent handle; made again from the same seed it is the
//! same key. A verifier learns that it is in the TPM of a certified endorsement key by `TPM2_MakeCredential`
//! and `TPM2_ActivateCredential` (docs/KEYLIME.md).

use tss_esapi::{
    Context,
    abstraction::{
        AsymmetricAlgorithmSelection::{self, Ecc, Rsa},
        ek,
    },
    attributes::ObjectAttributesBuilder,
    constants::CapabilityType,
    handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        dynamic_handles::Persistent,
        ecc::EccCurve,
        key_bits::RsaKeyBits,
        resource_handles::{Hierarchy, Provision},
        session_handles::AuthSession,
    },
    structures::{
        CapabilityData, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Name, Public,
        PublicBuilder, PublicEccParameters, SymmetricDefinitionObject,
    },
    traits::Marshall as _,
};

use crate::sink::{SinkError, connect};

/// Where the key is kept: among the handles for primary keys of the endorsement hierarchy (TCG Registry of Reserved TPM 2.0 Handles), away
/// from those of endorsement keys.
pub const STANDARD_HANDLE: u32 = 0x8101_c1a0;
/// Persistent handles that the owner may give: TPM 2.0 Library, Part 2, 7.5.
const OWNERS: std::ops::Range<u32> = 0x8100_0000..0x8180_0000;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No TPM.
    #[error(transparent)]
    Tpm(#[from] SinkError),
    /// The TPM refused.
    #[error("the TPM refused to {action}: {source}")]
    Refused {
        /// What was asked.
        action: &'static str,
        /// The response code.
        #[source]
        source: tss_esapi::Error,
    },
    /// Not a handle for it.
    #[error(
        "{0:#010x} is no handle for a key that stays in the TPM: {first:#010x} to {last:#010x} are", first = OWNERS.start, last = OWNERS.end - 1
    )]
    Handle(u32),
    /// Something else is there.
    #[error(
        "the TPM keeps a key at {0:#010x} that does not sign quotes as cima's does (restricted, ECDSA with SHA-256, made in the TPM): name another handle with --key"
    )]
    OtherKey(u32),
}

/// The key, in the TPM that is connected.
pub struct Key {
    pub(super) context: Context,
    pub(super) handle: KeyHandle,
    public: Public,
    name: Name,
    /// Whether it was made just now.
    pub created: bool,
}

/// Who vouches for the TPM.
#[derive(Debug, Clone)]
pub struct Endorsement {
    /// The endorsement key, a `TPM2B_PUBLIC`.
    pub public: Vec<u8>,
    /// Its maker's certificate, DER, if the TPM has one.
    pub certificate: Option<Vec<u8>>,
}

impl Key {
    /// The key at `handle` of the TPM at `tcti`; if there is none it is made.
    ///
    /// # Errors
    /// No TPM, something else is kept there, or the TPM does not make it.
    pub fn open(tcti: &str, handle: u32) -> Result<Self, KeyError> {
        if !OWNERS.contains(&handle) {
            return Err(KeyError::Handle(handle));
        }
        let persistent = PersistentTpmHandle::new(handle).map_err(refused("name its handle"))?;
        let mut context = connect(tcti)?;
        let created = !is_kept(&mut context, persistent)?;
        if created {
            make(&mut context, persistent)?;
        }
        let handle_of_key = load(&mut context, persistent)?;
        let (public, name, _) = context
            .execute_without_session(|context| context.read_public(handle_of_key))
            .map_err(refused("read the attestation key"))?;
        if !is_ours(&public) {
            return Err(KeyError::OtherKey(handle));
        }
        Ok(Self {
            context,
            handle: handle_of_key,
            public,
            name,
            created,
        })
    }

    /// As a `TPM2B_PUBLIC`.
    ///
    /// # Errors
    /// The software stack cannot marshal it.
    pub fn public(&self) -> Result<Vec<u8>, KeyError> {
        sized(&self.public)
    }

    /// What `TPM2_MakeCredential` wants: the hash's identifier and the hash of the public area.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.name.value()
    }

    /// The TPM's endorsement key: the one that its maker certified, or if there is no certificate that over P-256.
    ///
    /// # Errors
    /// The TPM does not make it.
    pub fn endorsement(&mut self) -> Result<Endorsement, KeyError> {
        let kinds = [Ecc(EccCurve::NistP256), Rsa(RsaKeyBits::Rsa2048)];
        for kind in kinds {
            if has_certificate(&mut self.context, kind)? {
                let certificate = ek::retrieve_ek_pubcert(&mut self.context, kind)
                    .map_err(refused("read the endorsement key's certificate"))?;
                let public = endorsement_key(&mut self.context, kind)?;
                let certificate = Some(certificate);
                return Ok(Endorsement {
                    public,
                    certificate,
                });
            }
        }
        Ok(Endorsement {
            public: endorsement_key(&mut self.context, kinds[0])?,
            certificate: None,
        })
    }
}

/// Shorthand that names what was asked.
pub(super) fn refused(action: &'static str) -> impl Fn(tss_esapi::Error) -> KeyError {
    move |source| KeyError::Refused { action, source }
}

/// Whether a persistent object has this handle.
fn is_kept(context: &mut Context, handle: PersistentTpmHandle) -> Result<bool, KeyError> {
    is_defined(context, TpmHandle::Persistent(handle), handle.into())
}

/// Whether the first handle from `number` on is it. Asked for so, and not tried: the software stack writes what fails to the terminal.
fn is_defined(context: &mut Context, handle: TpmHandle, number: u32) -> Result<bool, KeyError> {
    let (data, _) = context
        .execute_without_session(|context| {
            context.get_capability(CapabilityType::Handles, number, 1)
        })
        .map_err(refused("say what it keeps"))?;
    let CapabilityData::Handles(handles) = data else {
        return Ok(false);
    };
    Ok(handles.into_inner().first() == Some(&handle))
}

fn load(context: &mut Context, handle: PersistentTpmHandle) -> Result<KeyHandle, KeyError> {
    let object = context
        .execute_without_session(|context| {
            context.tr_from_tpm_public(TpmHandle::Persistent(handle))
        })
        .map_err(refused("load the attestation key"))?;
    Ok(KeyHandle::from(object))
}

fn make(context: &mut Context, handle: PersistentTpmHandle) -> Result<(), KeyError> {
    let public = template().map_err(refused("make an attestation key"))?;
    let made = context
        .execute_with_session(Some(AuthSession::Password), |context| {
            context.create_primary(Hierarchy::Endorsement, public, None, None, None, None)
        })
        .map_err(refused(
            "make an attestation key (the endorsement hierarchy's password must be empty)",
        ))?;
    let kept = context.execute_with_session(Some(AuthSession::Password), |context| {
        context.evict_control(
            Provision::Owner,
            made.key_handle.into(),
            Persistent::Persistent(handle),
        )
    });
    flush(context, made.key_handle)?;
    kept.map(drop).map_err(refused(
        "keep the attestation key (the owner's password must be empty, and there must be room)",
    ))
}

fn flush(context: &mut Context, handle: KeyHandle) -> Result<(), KeyError> {
    context
        .flush_context(ObjectHandle::from(handle))
        .map_err(refused("forget a key"))
}

fn template() -> Result<Public, tss_esapi::Error> {
    let attributes = ObjectAttributesBuilder::new()
        .with_restricted(true)
        .with_sign_encrypt(true)
        .with_user_with_auth(true)
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        // A wrong password must not lock the TPM: it is empty.
        .with_no_da(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(PublicEccParameters::new(
            SymmetricDefinitionObject::Null,
            EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)),
            EccCurve::NistP256,
            KeyDerivationFunctionScheme::Null,
        ))
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// Whether a key is what [`template`] makes, but for the point.
fn is_ours(public: &Public) -> bool {
    let Ok(Public::Ecc {
        object_attributes,
        name_hashing_algorithm,
        parameters,
        ..
    }) = template()
    else {
        return false;
    };
    matches!(public, Public::Ecc { object_attributes: attributes, name_hashing_algorithm: hash, parameters: of, .. }
        if *attributes == object_attributes && *hash == name_hashing_algorithm && *of == parameters)
}

/// Where a maker puts the certificates: TCG EK Credential Profile, 2.2.1.4.
fn has_certificate(
    context: &mut Context,
    kind: AsymmetricAlgorithmSelection,
) -> Result<bool, KeyError> {
    let index = match kind {
        Ecc(_) => 0x01c0_000a,
        Rsa(_) => 0x01c0_0002,
    };
    let handle = tss_esapi::handles::NvIndexTpmHandle::new(index)
        .map_err(refused("name a certificate's index"))?;
    is_defined(context, TpmHandle::NvIndex(handle), index)
}

fn endorsement_key(
    context: &mut Context,
    kind: AsymmetricAlgorithmSelection,
) -> Result<Vec<u8>, KeyError> {
    let made = refused("make its endorsement key");
    let handle = ek::create_ek_object_2(context, kind, None).map_err(&made)?;
    let read = context.execute_without_session(|context| context.read_public(handle));
    flush(context, handle)?;
    let (public, _, _) = read.map_err(&made)?;
    sized(&public)
}

/// As a `TPM2B_PUBLIC`: u16 size in front, big-endian.
fn sized(public: &Public) -> Result<Vec<u8>, KeyError> {
    let marshalled = public.marshall().map_err(refused("marshal a key"))?;
    // A TPMT_PUBLIC has less than a kilobyte.
    let size = (marshalled.len() as u16).to_be_bytes();
    Ok([&size[..], &marshalled].concat())
}
