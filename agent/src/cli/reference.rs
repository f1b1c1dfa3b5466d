// SPDX-License-Identifier: Apache-2.0
//! `cima reference`: what a verifier needs to know of an image, and the annotation to publish with it.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Args;
use image_digest::reference::{ANNOTATION, Reference};

use super::{
    digest::replace,
    image::{ImageArgs, ImageError, Named, Place, SOURCES},
    unless_broken_pipe,
};
use crate::exit::Outcome;

/// Write the reference values of an image.
///
/// A JSON document: the image's digest, the digests of its config and manifest, its labels and annotations, and every
/// file that can be mapped executable (ELF objects, files with an executable bit, interpreters of scripts)
/// with its SHA-256.
#[derive(Debug, Args)]
#[command(after_help = format!("{SOURCES}

Examples:
  cima reference oci:build/image:v1 -o web.json
  cima reference containers-storage:localhost/web:1 | jq -r '.executables[].path'
  buildah config --annotation \"$(cima reference --label oci:build/image:v1)\" CONTAINER

The annotation is no part of the image's files: to publish it with the image does not change the digest.

Exit codes: 0 written, 2 usage, or no image."))]
pub struct ReferenceArgs {
    /// The image; a manifest does not say what is in its files, so it is none
    #[arg(value_name = "SOURCE")]
    source: Named,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print only the annotation, KEY=DIGEST
    #[arg(long, conflicts_with = "output")]
    label: bool,
    #[command(flatten)]
    how: ImageArgs,
}

/// Why no reference was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteReferenceError {
    /// See [`ImageError`].
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A manifest.
    #[error(
        "{0} does not say which of its files are executables: a reference is made of the image itself"
    )]
    Manifest(String),
    /// The output failed.
    #[error("cannot write to {to}: {source}")]
    Write {
        /// Where.
        to: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs the command.
///
/// # Errors
/// See [`WriteReferenceError`].
pub fn run(args: &ReferenceArgs) -> Result<Outcome, WriteReferenceError> {
    if matches!(args.source.place, Place::Manifest(_)) && !args.label {
        return Err(WriteReferenceError::Manifest(args.source.to_string()));
    }
    let image = args.how.read(&args.source)?;
    let text = if args.label {
        format!("{ANNOTATION}={}\n", image.tree.digest())
    } else {
        let json = serde_json::to_string_pretty(&Reference::of(&image));
        let json = json.map_err(|error| WriteReferenceError::Write {
            to: "JSON".into(),
            source: error.into(),
        })?;
        format!("{json}\n")
    };
    match &args.output {
        Some(path) => replace(path, |file| file.write_all(text.as_bytes())).map_err(|source| {
            WriteReferenceError::Write {
                to: path.display().to_string(),
                source,
            }
        })?,
        None => unless_broken_pipe(io::stdout().write_all(text.as_bytes())).map_err(|source| {
            WriteReferenceError::Write {
                to: "standard output".into(),
                source,
            }
        })?,
    }
    Ok(Outcome::Good)
}
