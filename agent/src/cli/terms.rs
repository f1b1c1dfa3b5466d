// SPDX-License-Identifier: Apache-2.0
//! What a list is judged by, read from files: reference values, a verification policy, an admission policy.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use cima_policies::{
    VERIFICATION_DEFAULT, VerificationPolicy, VerificationPolicyError,
    admission::{Admission, AdmissionError},
};
use clap::Args;

use super::references::{ReferencesError, references};
use crate::verify::Terms;

/// A policy is far shorter.
const POLICY: u64 = 1 << 20;

/// What containers are judged by.
#[derive(Debug, Args)]
pub(super) struct TermsArgs {
    /// What an image executes, as `cima reference` writes it; a directory: each *.json in it. May be repeated
    #[arg(long, value_name = "FILE")]
    reference: Vec<PathBuf>,
    /// What is accepted of node and containers; without it, if anything of these is given, what cima ships (policies/default/verification.toml)
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// An admission policy, asked again of each container
    #[arg(long, value_name = "DIR")]
    admission: Option<PathBuf>,
    /// List the containers, though there is nothing to judge them by
    #[arg(long)]
    containers: bool,
}

/// Why there is nothing to judge by.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// The file system refuses.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// See [`ReferencesError`].
    #[error(transparent)]
    References(#[from] ReferencesError),
    /// The verification policy.
    #[error("{}: {source}", path.display())]
    Policy {
        /// Which file.
        path: PathBuf,
        /// Line and reason.
        #[source]
        source: VerificationPolicyError,
    },
    /// The admission policy.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
}

impl TermsArgs {
    /// `None`: the list alone is judged.
    pub(super) fn read(&self) -> Result<Option<Terms>, TermsError> {
        let judges =
            !self.reference.is_empty() || self.policy.is_some() || self.admission.is_some();
        if !judges && !self.containers {
            return Ok(None);
        }
        let mut terms = Terms::default();
        if judges {
            terms.policy = Some(policy(self.policy.as_deref())?);
        }
        if !self.reference.is_empty() {
            terms.references = Some(references(&self.reference)?);
        }
        if let Some(dir) = &self.admission {
            terms.admission = Some(Admission::read(dir)?);
        }
        Ok(Some(terms))
    }
}

fn policy(path: Option<&Path>) -> Result<VerificationPolicy, TermsError> {
    let text = match path {
        None => VERIFICATION_DEFAULT.to_owned(),
        Some(path) => {
            let mut text = String::new();
            File::open(path)
                .and_then(|file| file.take(POLICY).read_to_string(&mut text))
                .map_err(failed(path))?;
            text
        }
    };
    VerificationPolicy::parse(&text).map_err(|source| TermsError::Policy {
        path: path.unwrap_or("the shipped policy".as_ref()).to_owned(),
        source,
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> TermsError + use<'_> {
    move |source| TermsError::Read {
        path: path.to_owned(),
        source,
    }
}
