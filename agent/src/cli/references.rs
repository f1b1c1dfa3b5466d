// SPDX-License-Identifier: Apache-2.0
//! References of images, read from files and directories: for whatever holds against them what was measured.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use image_digest::reference::{Reference, ReferenceError};

use crate::verify::{Contradiction, References};

/// Why references cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ReferencesError {
    /// It cannot be read.
    #[error("cannot read the reference {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory without any.
    #[error("{} has no file *.json: references are what `cima reference` writes", .0.display())]
    None(PathBuf),
    /// It is none.
    #[error("{}: {source}", path.display())]
    Reference {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// Two do not go together.
    #[error("{}: {source}", path.display())]
    Contradiction {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Contradiction,
    },
}

/// Reads references, each a file or a directory of files that end in `.json`.
///
/// # Errors
/// See [`ReferencesError`].
pub(in crate::cli) fn references(paths: &[PathBuf]) -> Result<References, ReferencesError> {
    let mut references = References::new();
    for path in paths {
        let failed = |source| ReferencesError::Io {
            path: path.clone(),
            source,
        };
        if !fs::metadata(path).map_err(failed)?.is_dir() {
            take(&mut references, path)?;
            continue;
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            files.push(entry.map_err(failed)?.path());
        }
        let is_hidden = |file: &Path| {
            let name = file.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(b".")
        };
        let is_json = |file: &Path| file.extension().is_some_and(|suffix| suffix == "json");
        files.retain(|file| is_json(file) && !is_hidden(file));
        if files.is_empty() {
            return Err(ReferencesError::None(path.clone()));
        }
        files.sort();
        for file in files {
            take(&mut references, &file)?;
        }
    }
    Ok(references)
}

fn take(references: &mut References, path: &Path) -> Result<(), ReferencesError> {
    let path = path.to_owned();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(source) => return Err(ReferencesError::Io { path, source }),
    };
    let reference = match Reference::read(io::BufReader::new(file)) {
        Ok(reference) => reference,
        Err(source) => return Err(ReferencesError::Reference { path, source }),
    };
    references
        .add(&reference)
        .map_err(|source| ReferencesError::Contradiction { path, source })
}
