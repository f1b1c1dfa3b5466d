// SPDX-License-Identifier: Apache-2.0
//! Where entries are anchored. The only room that touches a PCR; called by `ledger`
//! alone, which has put the entry on disk before. A sink says which banks it has,
//! what they hold, and extends one entry at a time into all of them.

mod none;
mod pcr;
mod rules;

pub use none::NoSink;
pub use pcr::PcrSink;
pub use rules::{PcrRefused, PcrWarning, kernel_ima_entries, pcr_rule};

use ima_log::{Digest, HashAlgorithm};

/// Why an anchor is out of reach.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// No conversation with the TPM.
    #[error("the TPM at {tcti} does not answer: {source}")]
    Unreachable {
        /// Connection as configured.
        tcti: String,
        /// The TPM software stack's reason.
        #[source]
        source: tss_esapi::Error,
    },
    /// No TPM, or no right to use it.
    #[error("there is no usable TPM at {device}: {source}")]
    Device {
        /// The device file.
        device: String,
        /// Why it cannot be opened.
        #[source]
        source: std::io::Error,
    },
    /// A connection text that the stack does not know.
    #[error(
        "`{tcti}` is not a TPM connection (device:/dev/tpmrm0, swtpm:host=…,port=…, tabrmd:): {source}"
    )]
    BadTcti {
        /// As configured.
        tcti: String,
        /// The stack's reason.
        #[source]
        source: tss_esapi::Error,
    },
    /// The TPM answered with an error.
    #[error("the TPM refused to {action} PCR {pcr}: {source}")]
    Tpm {
        /// What was asked.
        action: &'static str,
        /// Of which PCR.
        pcr: u32,
        /// The response code.
        #[source]
        source: tss_esapi::Error,
    },
    /// No bank has the PCR.
    #[error("no PCR bank of the TPM has PCR {0}: allocate one (tpm2_pcrallocate) and reboot")]
    NoBank(u32),
    /// A bank that came to be after the list was opened.
    #[error("the TPM has a {0} bank now, which it had not when the list was begun")]
    NewBank(HashAlgorithm),
    /// A bank that would be left behind, open to a forged history.
    #[error(
        "the TPM's {0} bank is allocated but cima cannot extend it: deallocate it (tpm2_pcrallocate) and reboot"
    )]
    UnknownBank(String),
}

/// An anchor for entries.
pub trait Sink: Send {
    /// The PCR entries go to; `None`: nothing anchors them.
    fn pcr(&self) -> Option<u32>;

    /// The PCR's value in every allocated bank, in the banks' order; empty: not anchored.
    ///
    /// # Errors
    /// The TPM does not answer.
    fn read(&mut self) -> Result<Vec<Digest>, SinkError>;

    /// Extends every allocated bank with its value for an entry: `values` has one for each, in
    /// the banks' order.
    ///
    /// # Errors
    /// The TPM does not answer. Whether it extended is then unknown: [`Sink::read`] tells. Or it
    /// has a bank that there is no value for: then nothing was extended.
    fn extend(&mut self, values: &[Digest]) -> Result<(), SinkError>;

    /// Builds the connection anew after an error.
    ///
    /// # Errors
    /// Still no answer.
    fn reopen(&mut self) -> Result<(), SinkError>;
}
