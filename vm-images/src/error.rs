// SPDX-License-Identifier: Apache-2.0
//! Why a guest could not be built or started, as sentences that say what mends it.

use std::path::{Path, PathBuf};

/// Why a guest could not be built or started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program of the host is not installed.
    #[error(
        "The program {program} is not installed. `cargo xtask setup` installs what is lacking."
    )]
    ToolMissing {
        /// Name of the program.
        program: String,
    },
    /// A program of the host did not succeed.
    #[error("{doing} failed: {program} ended with {status}.\n{output}")]
    ToolFailed {
        /// What was being done.
        doing: String,
        /// Name of the program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines it wrote.
        output: String,
    },
    /// Building the root needs root, and there is neither root nor sudo.
    #[error("Making the guests' root file system needs root: run this as root, or install sudo.")]
    NeedsRoot,
    /// The archive lists no kernel of a series.
    #[error(
        "No package matches {pattern}: apt knows of no Linux {series} kernel. \
         It is in Debian 12's main and security suites; is this Debian 12, and are both in apt's sources?"
    )]
    NoKernel {
        /// The series asked for.
        series: crate::Series,
        /// The pattern that nothing matched.
        pattern: String,
    },
    /// Apt has no source to build the root from.
    #[error(
        "apt has no source for Debian 12 (bookworm) main, which the guests' root is built from."
    )]
    NoSource,
    /// A package did not hold what it should.
    #[error("{what} in {}.", within.display())]
    Unexpected {
        /// What was found or not found.
        what: String,
        /// Where.
        within: PathBuf,
    },
    /// The container images could not be put into the root.
    #[error("The container images could not be put into the guests' root: {verdict}.\n{output}")]
    NotProvisioned {
        /// How the guest that does it ended.
        verdict: String,
        /// What it wrote.
        output: String,
    },
    /// Two runs would write to one directory.
    #[error("Another run is writing to {}: wait for it, or give this one a label.", dir.display())]
    RunDirectoryBusy {
        /// The directory.
        dir: PathBuf,
    },
    /// A file to stage cannot be staged.
    #[error("{} cannot be staged: {why}.", path.display())]
    Stage {
        /// The host's file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The software TPM ended before the guest could use it.
    #[error("The software TPM did not start.\n{output}")]
    TpmDidNotStart {
        /// What swtpm wrote.
        output: String,
    },
    /// The user asked to stop.
    #[error("Stopped as asked.")]
    Interrupted,
    /// A file operation of the host failed.
    #[error("Cannot {doing} {}: {source}.", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Says of an I/O error what was being done and to which file.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> crate::Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> crate::Result<T> {
        self.map_err(|source| Error::Io {
            doing,
            path: path.to_owned(),
            source,
        })
    }
}
