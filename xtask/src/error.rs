// SPDX-License-Identifier: Apache-2.0
//! How a command can end: a verdict, or an error that kept it from its work.
//! The one place that maps both to exit codes is `main`.

use std::path::{Path, PathBuf};

/// What a command that did its work has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Good,
    Bad,
}

impl Verdict {
    pub(crate) fn from_passed(passed: bool) -> Self {
        if passed { Self::Good } else { Self::Bad }
    }
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Guests(#[from] cima_guests::Error),
    #[error("{0}")]
    Environment(String),
    #[error("{step} failed: {what} ended with {status}.")]
    Build {
        step: &'static str,
        what: String,
        status: std::process::ExitStatus,
    },
    #[error("Cannot {doing} {}: {source}.", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("Cannot listen for signals: {0}.")]
    Signals(ctrlc::Error),
}

impl Error {
    /// A build that failed is a negative verdict; all else is a matter of usage
    /// or of the machine.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Build { .. } => 1,
            Self::Guests(_) | Self::Environment(_) | Self::Io { .. } | Self::Signals(_) => 2,
        }
    }
}

/// Says of an I/O error what was being done and to which file.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            doing,
            path: path.to_owned(),
            source,
        })
    }
}
