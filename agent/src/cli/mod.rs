// SPDX-License-Identifier: Apache-2.0
//! Subcommands of `cima`, one file each: arguments, then `run`. They read files, the
//! terminal's wishes and, for `verify` and `evidence`, the TPM; what a list is worth is judged in
//! `crate::verify`, what an image is is read by the crate `image-digest`, what a policy
//! means by the crate `cima-policies`; `doctor` reads the host by `crate::preflight` and `crate::sink`; `watch` asks cimad. Called by `bin/cima`.
//! Refuses nothing that another reader of the list would take: every list of a Linux kernel is read.

pub mod ask;
mod batch_json;
pub mod diff;
pub mod digest;
pub mod doctor;
pub(crate) mod entry_json;
pub mod evidence;
pub mod hook;
mod image;
mod live;
pub mod log;
pub(crate) mod pcr_values;
pub mod policy;
mod quoted;
pub mod reference;
mod references;
pub mod report;
mod source;
mod terms;
mod verdict;
pub mod verify;
pub mod watch;

pub use image::ImageError;
pub use live::LiveError;
pub use pcr_values::{PcrValue, PcrValueError};
pub use quoted::QuoteReadError;
pub use source::SourceError;
pub use terms::TermsError;

use std::io;

/// What a failed write to standard output means: a reader that went away (`| head`)
/// has what it wanted.
pub fn unless_broken_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
