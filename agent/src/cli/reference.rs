// SPDX-License-Identifier: Apache-2.0
//! `cima reference`: what a verifier needs to know of an image, and the annotation to publish with it.

use std::{
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use clap::Args;
use image_digest::reference::{ANNOTATION, Reference};

use super::{
    image::{ImageArgs, ImageError, Named, Place, SOURCES, write_file},
    unless_broken_pipe,
};
use crate::exit::Outcome;

/// Write the reference values of an image.
///
/// Always a JSON document: the image's digest, the digests of its config and manifest, its labels and annotations, and every
/// file that can be mapped executable (ELF objects, files with an executable bit, interpreters of scripts)
/// with its SHA-256.
#[derive(Debug, Args)]
#[command(after_help = format!("{SOURCES}

Examples:
  cima reference oci:build/image:v1 -o web.json
  cima reference containers-storage:localhost/web:1 | jq -r '.executables[].path'
  buildah config --annotation \"$(cima reference --label oci:build/image:v1)\" CONTAINER

The annotation is no part of the image's files: to publish it with the image does not change the digest. It may be a
label, too (buildah config --label): that changes the config and its digest, but no file.

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
    let failed = |to: String| move |source| WriteReferenceError::Write { to, source };
    if let Some(path) = &args.output {
        write_file(path, |file| Reference::of(&image).write(file))
            .map_err(failed(path.display().to_string()))?;
        return Ok(Outcome::Good);
    }
    let mut stdout = BufWriter::new(io::stdout().lock());
    let written = if args.label {
        writeln!(stdout, "{ANNOTATION}={}", image.tree.digest())
    } else {
        Reference::of(&image).write(&mut stdout)
    };
    unless_broken_pipe(written.and_then(|()| stdout.flush()))
        .map_err(failed("standard output".into()))?;
    Ok(Outcome::Good)
}
