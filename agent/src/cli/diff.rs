// SPDX-License-Identifier: Apache-2.0
//! `cima diff`: what is another in one image than in another.

use std::io::{self, BufWriter, IsTerminal as _, Write as _};

use clap::Args;
use image_digest::{
    diff::{Change, Difference, What, diff},
    escaped,
};
use serde_json::{Map, Value, json};

use super::{
    image::{ImageArgs, ImageError, Named, SOURCES},
    unless_broken_pipe,
    verdict::Paint,
};
use crate::exit::Outcome;

/// Show what differs between two images.
///
/// Each may be any source or manifest. Nothing is shown that does not count for the digest: images
/// without a difference have one digest.
#[derive(Debug, Args)]
#[command(after_help = format!("{SOURCES}

Examples:
  cima diff oci:build/image:v1 overlay:web           what was published, and what the node has
  cima diff manifest:monday.jsonl dir:/srv/rootfs    what changed since
  cima diff --json oci:a:v1 oci:a:v2 | jq -r 'select(.change == \"added\").path'

+ is in the second image only, - in the first only, ~ in both; then what of it changed, from -> to.

Exit codes: 0 no difference, 1 a difference, 2 usage, or no image."))]
pub struct DiffArgs {
    /// The first image
    #[arg(value_name = "A")]
    first: Named,
    /// The second image
    #[arg(value_name = "B")]
    second: Named,
    /// Print JSON, a line for each difference
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    how: ImageArgs,
}

/// Why two images were not compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// See [`ImageError`].
    #[error(transparent)]
    Image(#[from] ImageError),
    /// One input for two.
    #[error("standard input has one manifest, and not both images: name a file for the other")]
    BothFromStdin,
    /// The output failed.
    #[error("cannot write to standard output: {0}")]
    Write(#[source] io::Error),
}

/// Runs the command.
///
/// # Errors
/// See [`DiffError`].
pub fn run(args: &DiffArgs) -> Result<Outcome, DiffError> {
    if args.first.is_stdin() && args.second.is_stdin() {
        return Err(DiffError::BothFromStdin);
    }
    let [first, second] = args.how.read_all([&args.first, &args.second])?;
    let differences = diff(&first.tree, &second.tree);
    let stdout = io::stdout().lock();
    let paint = Paint::when(stdout.is_terminal());
    let mut out = BufWriter::new(stdout);
    let shown = differences
        .iter()
        .try_for_each(|difference| {
            let line = match difference.what {
                _ if args.json => as_json(difference).to_string(),
                What::Added(_) => paint.good(&difference.to_string()),
                What::Removed(_) => paint.bad(&difference.to_string()),
                What::Changed(_) => paint.middling(&difference.to_string()),
            };
            writeln!(out, "{line}")
        })
        .and_then(|()| out.flush());
    unless_broken_pipe(shown).map_err(DiffError::Write)?;
    Ok(if differences.is_empty() {
        Outcome::Good
    } else {
        Outcome::Negative
    })
}

/// `{"path", "change": "added" | "removed" | "changed", …}`; of what changed, `[from, to]` by name.
fn as_json(difference: &Difference) -> Value {
    let mut object = Map::new();
    object.insert("path".into(), escaped(&difference.path).into());
    let mut put = |key: &str, value: Value| _ = object.insert(key.into(), value);
    match &difference.what {
        What::Added(node) => {
            put("change", "added".into());
            put("type", node.kind().into());
        }
        What::Removed(node) => {
            put("change", "removed".into());
            put("type", node.kind().into());
        }
        What::Changed(changes) => {
            put("change", "changed".into());
            for change in changes {
                let (name, value) = change_json(change);
                put(name, value);
            }
        }
    }
    object.into()
}

fn change_json(change: &Change) -> (&'static str, Value) {
    let hexadecimal = |value: &Option<Vec<u8>>| value.as_ref().map(hex::encode);
    match change {
        Change::Type(a, b) => ("type", json!([a, b])),
        Change::Content((a_size, a), (b_size, b)) => {
            let content = |size: &u64, digest: &image_digest::ContentDigest| json!({"size": size, "sha256": hex::encode(digest.bytes())});
            ("content", json!([content(a_size, a), content(b_size, b)]))
        }
        Change::Mode(a, b) => ("mode", json!([format!("{a:04o}"), format!("{b:04o}")])),
        Change::Owner((a_uid, a_gid), (b_uid, b_gid)) => {
            let owner = |uid: &u32, gid: &u32| json!({"uid": uid, "gid": gid});
            ("owner", json!([owner(a_uid, a_gid), owner(b_uid, b_gid)]))
        }
        Change::Capability(a, b) => ("capability", json!([hexadecimal(a), hexadecimal(b)])),
        Change::Target(a, b) => ("target", json!([escaped(a), escaped(b)])),
        Change::Device(a, b) => {
            let device = |device: &image_digest::Device| json!({"major": device.major, "minor": device.minor});
            ("device", json!([device(a), device(b)]))
        }
    }
}
