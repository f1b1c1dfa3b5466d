// SPDX-License-Identifier: Apache-2.0
//! Sink `pcr`: a TPM 2.0 by way of tpm2-tss.

use std::{fs::File, str::FromStr};

use ima_log::{Digest, Entry, HashAlgorithm};
use tss_esapi::{
    Context, TctiNameConf,
    constants::CapabilityType,
    handles::PcrHandle,
    interface_types::{algorithm::HashingAlgorithm, session_handles::AuthSession},
    structures::{
        CapabilityData, Digest as TpmDigest, DigestValues, PcrSelectionList,
        PcrSelectionListBuilder, PcrSlot,
    },
};

use super::{Sink, SinkError};
use crate::measure::PolicyEvent;

/// One PCR of a TPM, in all its banks.
pub struct PcrSink {
    /// `None`: the connection is lost.
    context: Option<Context>,
    tcti: String,
    pcr: u32,
    banks: Vec<HashAlgorithm>,
}

impl PcrSink {
    /// Connects to the TPM at `tcti` (such as `device:/dev/tpmrm0`) and finds the banks of `pcr`.
    ///
    /// # Errors
    /// No TPM there, no bank with that PCR, or a bank that cannot be extended.
    pub fn open(tcti: &str, pcr: u32) -> Result<Self, SinkError> {
        let mut context = connect(tcti)?;
        let banks = allocated_banks(&mut context, tcti, pcr)?;
        Ok(Self {
            context: Some(context),
            tcti: tcti.to_owned(),
            pcr,
            banks,
        })
    }

    fn connected(&mut self) -> Result<&mut Context, SinkError> {
        if self.context.is_none() {
            self.reopen()?;
        }
        self.context.as_mut().ok_or(SinkError::NoBank(self.pcr))
    }

    fn failed(&self, action: &'static str) -> impl Fn(tss_esapi::Error) -> SinkError + use<> {
        let pcr = self.pcr;
        move |source| SinkError::Tpm {
            action,
            pcr,
            source,
        }
    }

    fn read_bank(&mut self, bank: HashAlgorithm) -> Result<Digest, SinkError> {
        let failed = self.failed("read");
        let selection = selection(bank, self.pcr).map_err(&failed)?;
        let (_, _, values) = self
            .connected()?
            .execute_without_session(|context| context.pcr_read(selection))
            .map_err(&failed)?;
        let value = values
            .value()
            .first()
            .map(TpmDigest::value)
            .unwrap_or_default();
        Digest::new(bank, value).map_err(|_| SinkError::NoBank(self.pcr))
    }
}

impl Sink for PcrSink {
    fn pcr(&self) -> Option<u32> {
        Some(self.pcr)
    }

    fn read(&mut self) -> Result<Vec<Digest>, SinkError> {
        self.banks
            .clone()
            .into_iter()
            .map(|bank| self.read_bank(bank))
            .collect()
    }

    fn lists(&mut self, _: &Entry) -> Option<bool> {
        None
    }

    fn last_batch(&self) -> Option<u64> {
        None
    }

    fn heard(&mut self) -> Vec<PolicyEvent> {
        Vec::new()
    }

    fn extend(&mut self, _: &Entry, values: &[Digest]) -> Result<(), SinkError> {
        let failed = self.failed("extend");
        // A connection that is made anew may find other banks.
        self.connected()?;
        let mut digests = DigestValues::new();
        for bank in &self.banks {
            let value = values.iter().find(|value| value.algorithm() == *bank);
            let value = value.ok_or(SinkError::NewBank(*bank))?;
            let value = TpmDigest::try_from(value.bytes().to_vec()).map_err(&failed)?;
            digests.set(tpm_algorithm(*bank), value);
        }
        let handle = PcrHandle::try_from(self.pcr).map_err(&failed)?;
        // One command for all banks: the TPM changes all of them or none.
        self.connected()?
            .execute_with_session(Some(AuthSession::Password), |context| {
                context.pcr_extend(handle, digests)
            })
            .map_err(&failed)
    }

    fn reopen(&mut self) -> Result<(), SinkError> {
        // First: a TPM without a resource manager serves one connection at a time.
        self.context = None;
        let mut context = connect(&self.tcti)?;
        self.banks = allocated_banks(&mut context, &self.tcti, self.pcr)?;
        self.context = Some(context);
        Ok(())
    }
}

/// A conversation with the TPM at `tcti`.
pub(crate) fn connect(tcti: &str) -> Result<Context, SinkError> {
    if let Some(device) = tcti.strip_prefix("device:") {
        // The software stack would only say "response code not recognized".
        let opened = File::options().read(true).write(true).open(device);
        opened.map_err(|source| SinkError::Device {
            device: device.to_owned(),
            source,
        })?;
    }
    let name = TctiNameConf::from_str(tcti).map_err(|source| SinkError::BadTcti {
        tcti: tcti.to_owned(),
        source,
    })?;
    Context::new(name).map_err(|source| SinkError::Unreachable {
        tcti: tcti.to_owned(),
        source,
    })
}

/// The banks in which the PCR is allocated.
fn allocated_banks(
    context: &mut Context,
    tcti: &str,
    pcr: u32,
) -> Result<Vec<HashAlgorithm>, SinkError> {
    let unreachable = |source| SinkError::Unreachable {
        tcti: tcti.to_owned(),
        source,
    };
    let slot = slot(pcr).map_err(unreachable)?;
    let (data, _) = context
        .execute_without_session(|context| {
            context.get_capability(CapabilityType::AssignedPcr, 0, 1)
        })
        .map_err(unreachable)?;
    let CapabilityData::AssignedPcr(assigned) = data else {
        return Err(SinkError::NoBank(pcr));
    };
    let mut banks = Vec::new();
    for bank in assigned
        .get_selections()
        .iter()
        .filter(|bank| bank.is_selected(slot))
    {
        banks.push(match bank.hashing_algorithm() {
            HashingAlgorithm::Sha1 => HashAlgorithm::Sha1,
            HashingAlgorithm::Sha256 => HashAlgorithm::Sha256,
            HashingAlgorithm::Sha384 => HashAlgorithm::Sha384,
            HashingAlgorithm::Sha512 => HashAlgorithm::Sha512,
            other => return Err(SinkError::UnknownBank(format!("{other:?}"))),
        });
    }
    if banks.is_empty() {
        return Err(SinkError::NoBank(pcr));
    }
    Ok(banks)
}

fn tpm_algorithm(bank: HashAlgorithm) -> HashingAlgorithm {
    match bank {
        HashAlgorithm::Sha1 => HashingAlgorithm::Sha1,
        HashAlgorithm::Sha256 => HashingAlgorithm::Sha256,
        HashAlgorithm::Sha384 => HashingAlgorithm::Sha384,
        HashAlgorithm::Sha512 => HashingAlgorithm::Sha512,
    }
}

/// The TPM's selection bit of a PCR.
fn slot(pcr: u32) -> Result<PcrSlot, tss_esapi::Error> {
    PcrSlot::try_from(1u32.checked_shl(pcr).unwrap_or(0))
}

/// One PCR of one bank.
pub(crate) fn selection(
    bank: HashAlgorithm,
    pcr: u32,
) -> Result<PcrSelectionList, tss_esapi::Error> {
    PcrSelectionListBuilder::new()
        .with_selection(tpm_algorithm(bank), &[slot(pcr)?])
        .build()
}
