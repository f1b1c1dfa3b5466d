// SPDX-License-Identifier: Apache-2.0
//! Where entries are anchored. The only room that touches a PCR, or has the kernel do so; called by `ledger`
//! alone, which has put the entry on disk before. A sink with a PCR of its own says which banks it has,
//! what they hold, and extends one entry at a time into all of them. One that shares the kernel's says what the
//! kernel's list has.

mod choice;
mod device;
mod host;
mod host_list;
mod ima_file;
mod none;
mod pcr;
mod rules;

pub use choice::{Choice, choose};
pub(crate) use choice::{ORDER, named};
pub use host::HOST_PCR;
pub use host_list::{HOST_LIST, Listed};
pub use ima_file::rule as ima_file_rule;
pub use none::NoSink;
pub use pcr::PcrSink;
pub(crate) use pcr::{connect, selection};
pub use rules::{
    KERNEL_RULE, PcrRefused, PcrWarning, TPM, is_extended, kernel_ima_entries, kernel_ima_listed,
    pcr_rule,
};

use ima_log::{Digest, Entry, HashAlgorithm};

use crate::{
    measure::{Anchorage, PolicyEvent},
    probes::ListerError,
};

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
    /// The kernel's list.
    #[error("the kernel's measurement list {} cannot be read: {source}", path.display())]
    HostList {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No module.
    #[error("the kernel module cima is not loaded (there is no /dev/cima)")]
    NoModule,
    /// The programs that hand it what is measured.
    #[error("the kernel cannot list what is measured: {0}")]
    Lister(#[from] ListerError),
    /// The module.
    #[error("the kernel module cima does not take an entry: {source}")]
    Module {
        /// What it says.
        #[source]
        source: std::io::Error,
    },
    /// A list that nothing vouches for.
    #[error("the kernel's IMA extends no TPM: {0}")]
    Bypass(&'static str),
    /// Where entries become files.
    #[error("an entry cannot be made a file on devtmpfs: {source}")]
    Files {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel did not take it.
    #[error("the kernel did not list {name}: it lacks {lacks}")]
    Unlisted {
        /// The entry.
        name: String,
        /// What to do.
        lacks: String,
    },
    /// The rules for PCRs.
    #[error(transparent)]
    Pcr(#[from] PcrRefused),
    /// What this boot's list began with.
    #[error(
        "this boot's list is anchored by {kept}, which does not work now: {source}; after a reboot another may be chosen"
    )]
    Kept {
        /// How.
        kept: &'static str,
        /// Why not.
        #[source]
        source: Box<SinkError>,
    },
    /// A bank that would be left behind, open to a forged history.
    #[error(
        "the TPM's {0} bank is allocated but cima cannot extend it: deallocate it (tpm2_pcrallocate) and reboot"
    )]
    UnknownBank(String),
}

/// An anchor for entries.
pub trait Sink: Send {
    /// Which it is.
    fn anchorage(&self) -> Anchorage {
        match self.pcr() {
            Some(_) => Anchorage::Pcr,
            None => Anchorage::None,
        }
    }

    /// The PCR entries go to; `None`: nothing anchors them.
    fn pcr(&self) -> Option<u32>;

    /// The PCR's value in every allocated bank, in the banks' order; empty: the PCR is not this list's alone, or there
    /// is none.
    ///
    /// # Errors
    /// The TPM does not answer.
    fn read(&mut self) -> Result<Vec<Digest>, SinkError>;

    /// Whether the kernel's list had this entry when the sink was opened; `None`: it is not anchored there, or something was
    /// given to it since.
    fn lists(&mut self, entry: &Entry) -> Option<bool>;

    /// The highest number of a batch that the kernel's list had by then.
    fn last_batch(&self) -> Option<u64>;

    /// What the kernel listed by itself since the last call, up to now: the list has it, whether or not the agent was told. If the list
    /// cannot be read, [`Sink::settle`] says so.
    fn heard(&mut self) -> Vec<PolicyEvent>;

    /// Extends every allocated bank with its value for an entry: `values` has one for each, in
    /// the banks' order. Or gives the entry to the kernel, which may be done again.
    ///
    /// # Errors
    /// The TPM does not answer. Whether it extended is then unknown: [`Sink::read`] tells. Or it
    /// has a bank that there is no value for: then nothing was extended.
    fn extend(&mut self, entry: &Entry, values: &[Digest]) -> Result<(), SinkError>;

    /// Makes sure of what was extended since the last call.
    ///
    /// # Errors
    /// The kernel did not take all of it; the next call tries again.
    fn settle(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Builds the connection anew after an error.
    ///
    /// # Errors
    /// Still no answer.
    fn reopen(&mut self) -> Result<(), SinkError>;
}
