// SPDX-License-Identifier: Apache-2.0
//! `cima digest`: the digest of an image, wherever it is, and its manifest.

use std::{
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use clap::Args;
use image_digest::{ImageDigest, Node, Published, ascii_json, manifest};
use serde::Serialize;

use super::{
    image::{ImageArgs, ImageError, Named, SOURCES, write_file},
    unless_broken_pipe,
};
use crate::exit::Outcome;

/// Compute the digest of an image.
///
/// The same for the layers that were published and for the files on a node's disk: of names, types, contents,
/// modes, owners, file capabilities, links' targets and device numbers, and of nothing else.
#[derive(Debug, Args)]
#[command(after_help = format!("{SOURCES}

Examples:
  cima digest oci:build/image:v1                     before it is pushed
  cima digest containers-storage:localhost/web:1     as podman has it
  cima digest overlay:web --expect sha256:5feceb…    is it still what was published?
  cima digest dir:rootfs --manifest rootfs.jsonl     every entry, for later comparison
  cima digest manifest:rootfs.jsonl                  the digest again, from that

Exit codes: 0 computed, 1 it is not the one expected, 2 usage, or no image."))]
pub struct DigestArgs {
    /// The image
    #[arg(value_name = "SOURCE")]
    source: Named,
    /// Write every entry, a line of JSON each; - is standard output, instead of the digest
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Fail unless the digest is this
    #[arg(long, value_name = "DIGEST")]
    expect: Option<ImageDigest>,
    /// Print JSON: the digest, sizes, and what the image's publisher says of it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    how: ImageArgs,
}

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// See [`ImageError`].
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Two things for one place.
    #[error(
        "--json and --manifest - would both go to standard output: name a file for the manifest"
    )]
    Both,
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

#[derive(Serialize)]
struct Report<'a> {
    source: String,
    image: String,
    /// But for the root.
    entries: u64,
    /// Of all files.
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<&'a Published>,
}

/// Runs the command.
///
/// # Errors
/// See [`DigestError`].
pub fn run(args: &DigestArgs) -> Result<Outcome, DigestError> {
    let to_stdout = args
        .manifest
        .as_deref()
        .is_some_and(|path| path.as_os_str() == "-");
    if to_stdout && args.json {
        return Err(DigestError::Both);
    }
    let image = args.how.read(&args.source)?;
    let digest = image.tree.digest();
    let written = match &args.manifest {
        None => Ok(()),
        Some(_) if to_stdout => {
            let mut stdout = BufWriter::new(io::stdout().lock());
            manifest::write(&image.tree, &mut stdout).and_then(|()| stdout.flush())
        }
        Some(path) => {
            write_file(path, |file| manifest::write(&image.tree, file)).map_err(|source| {
                DigestError::Write {
                    to: path.display().to_string(),
                    source,
                }
            })?;
            Ok(())
        }
    };
    let written = match written {
        Ok(()) if to_stdout => Ok(()),
        Ok(()) if args.json => {
            let bytes = image.tree.entries().map(|(_, node)| match node {
                Node::File { size, .. } => *size,
                _ => 0,
            });
            let report = Report {
                source: args.source.to_string(),
                image: digest.to_string(),
                entries: image.tree.entries().count() as u64,
                bytes: bytes.sum(),
                published: image.published.as_ref(),
            };
            serde_json::to_string(&report)
                .map_err(io::Error::from)
                .and_then(|report| writeln!(io::stdout(), "{}", ascii_json(&report)))
        }
        Ok(()) => writeln!(io::stdout(), "{digest}  {}", args.source),
        Err(error) => Err(error),
    };
    unless_broken_pipe(written).map_err(|source| DigestError::Write {
        to: "standard output".into(),
        source,
    })?;
    match args.expect {
        Some(expected) if expected != digest => {
            eprintln!("cima: {} is {digest}, not {expected}", args.source);
            Ok(Outcome::Negative)
        }
        _ => Ok(Outcome::Good),
    }
}
