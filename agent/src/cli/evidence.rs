// SPDX-License-Identifier: Apache-2.0
//! `cima evidence`: has the TPM sign what its PCR holds, and cuts the list where it gives just that.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand};
use ima_log::{Digest, Entry, HashAlgorithm, NotShowable};
use serde::Serialize;

use super::{
    source::{Entries, Source, SourceError, running_boot},
    unless_broken_pipe,
};
use crate::{
    attest::{BANK, Evidence, Key, KeyError, Prefix, Quote, QuoteError, STANDARD_HANDLE},
    exit::Outcome,
    ledger::{LedgerError, anchored_by},
    measure::Anchorage,
    sink::HOST_LIST,
    verify::Start,
};

/// The TPM that is asked if none is named.
const TPM: &str = "device:/dev/tpmrm0";

/// Make evidence for a verifier: a quote, and the list that it is of.
///
/// The TPM signs the nonce and what the PCR holds. The list is cut where it gives just that, whatever is listed meanwhile: no entry is
/// between the two. What comes out is the "data" of Keylime's `POST /v2.6/verify/evidence`, but for the policy.
///
/// Without LIST it is the running boot's: the kernel's own for the sinks `kernel` and `ima-file`, cima's for `pcr`.
/// Keylime judges PCR 10 alone.
///
/// The key is made at the first call, and kept in the TPM.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  cima evidence --nonce 5f1c08 -o node.json    a file for the verifier that chose this nonce
  cima evidence key                            which key signs, and whose TPM is it in?
  cima-keylime verify --verifier URL --policy policy.json node.json

Exit codes: 0 made, 2 usage, no TPM, or a list that does not give what the PCR holds."
)]
pub struct EvidenceArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// What the verifier chose: 1 to 64 bytes of text
    #[arg(long, value_name = "TEXT", required = true)]
    nonce: Option<String>,
    /// The list, as `cima log` takes it
    #[arg(value_name = "LIST")]
    list: Option<PathBuf>,
    #[command(flatten)]
    tpm: TpmArgs,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Where cimad keeps its state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cima")]
    state_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the key that signs, and the TPM's endorsement key; both as `TPM2B_PUBLIC` in base64
    ///
    /// A verifier makes sure that both are in one TPM by a credential that only that TPM opens: docs/KEYLIME.md.
    #[command(after_help = "Examples:
  cima evidence key --json | jq -r .tpm_ak | base64 -d > ak.pub
  cima evidence key --json | jq -r .ek_certificate | base64 -d | openssl x509 -inform der -text

Exit codes: 0 shown, 2 usage or no TPM.")]
    Key {
        #[command(flatten)]
        tpm: TpmArgs,
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct TpmArgs {
    /// The TPM
    #[arg(long, value_name = "TCTI", default_value = TPM)]
    tpm: String,
    /// Persistent handle of the key
    #[arg(long, value_name = "HANDLE", value_parser = handle, default_value_t = Handle(STANDARD_HANDLE))]
    key: Handle,
}

/// A TPM's handle, hexadecimal.
#[derive(Debug, Clone, Copy)]
struct Handle(u32);

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

fn handle(text: &str) -> Result<Handle, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let handle = u32::from_str_radix(digits, 16);
    handle
        .map(Handle)
        .map_err(|_| "a handle is a hexadecimal number, such as 0x8101c1a0".to_owned())
}

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// See [`SourceError`].
    #[error(transparent)]
    Source(#[from] SourceError),
    /// See [`KeyError`].
    #[error("{0} (name another with --tpm)")]
    Key(#[from] KeyError),
    /// See [`QuoteError`].
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// Nothing to quote.
    #[error("{0} is empty: cimad has not begun it, or the kernel's IMA measures nothing")]
    Empty(String),
    /// The list is another's.
    #[error(
        "what PCR {pcr} of the TPM holds is not what {list} gives after any of its {entries} entries: `cima verify` says where they part"
    )]
    NoPrefix {
        /// The list.
        list: String,
        /// The PCR.
        pcr: u32,
        /// How many it has.
        entries: u64,
    },
    /// The PCR knows nothing of it.
    #[error("PCR {pcr} of the TPM is untouched: nothing of {list} is in it")]
    Untouched {
        /// The list.
        list: String,
        /// The PCR.
        pcr: u32,
    },
    /// A ledger beside the list that counts.
    #[error(
        "the entries of {0} are in the kernel's IMA list, which is what the PCR vouches for: give that, or none"
    )]
    InHost(String),
    /// See [`LedgerError`].
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Nothing anchors it.
    #[error("{0} is not anchored (sink none): there is nothing to quote")]
    NotAnchored(String),
    /// A verifier could not read it.
    #[error("entry {index} of {list} cannot be a line of a list: {source}")]
    NotShowable {
        /// The list.
        list: String,
        /// Which.
        index: u64,
        /// Why.
        #[source]
        source: NotShowable,
    },
    /// A line of bytes that are no text.
    #[error(
        "entry {index} of {list} has bytes that are not UTF-8, which JSON cannot carry: {name}"
    )]
    NotText {
        /// The list.
        list: String,
        /// Which.
        index: u64,
        /// Its name.
        name: String,
    },
    /// The output.
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
/// See [`EvidenceError`].
pub fn run(args: &EvidenceArgs) -> Result<Outcome, EvidenceError> {
    if let Some(Command::Key { tpm, json }) = &args.command {
        return show_key(tpm, *json);
    }
    let nonce = args.nonce.as_deref().unwrap_or_default();
    let (source, mut entries) = find(args)?;
    // Of the list as it was before the quote: only its first entry is looked at.
    let first = entries.first()?;
    let Some(pcr) = first.map(|first| first.pcr) else {
        return Err(EvidenceError::Empty(source.to_string()));
    };
    let mut key = open(&args.tpm)?;
    let quote = Quote::of(&mut key, pcr, nonce.as_bytes())?;
    let (list, value) = cut(&source, entries, pcr, quote.digest)?;
    let evidence = Evidence {
        quote: quote.with_value(&value)?,
        nonce: nonce.to_owned(),
        hash_alg: BANK.name(),
        tpm_ek: STANDARD.encode(key.endorsement()?.public),
        tpm_ak: STANDARD.encode(key.public()?),
        ima_measurement_list: list,
    };
    let text = serde_json::json!(evidence).to_string() + "\n";
    write(args.output.as_deref(), &text)?;
    Ok(Outcome::Good)
}

fn open(args: &TpmArgs) -> Result<Key, KeyError> {
    let key = Key::open(&args.tpm, args.key.0)?;
    if key.created {
        eprintln!(
            "cima: made an attestation key; the TPM keeps it at {}",
            args.key
        );
    }
    Ok(key)
}

/// The list that the PCR vouches for.
fn find(args: &EvidenceArgs) -> Result<(Source, Entries), EvidenceError> {
    let Some(list) = args.list.as_deref() else {
        let anchorage = anchored_by(&args.state_dir, &running_boot()?)?;
        let in_host = anchorage.and_then(Anchorage::host_form).is_some();
        let list = in_host.then(|| Path::new(HOST_LIST));
        let source = Source::find(list, &args.state_dir)?;
        if anchorage == Some(Anchorage::None) {
            return Err(EvidenceError::NotAnchored(source.to_string()));
        }
        let entries = source.open()?;
        return Ok((source, entries));
    };
    let source = Source::find(Some(list), &args.state_dir)?;
    let mut entries = source.open()?;
    let start = entries.first()?.and_then(Start::of);
    match start.map(|start| start.anchorage) {
        Some(Anchorage::None) => Err(EvidenceError::NotAnchored(source.to_string())),
        Some(Anchorage::Kernel | Anchorage::ImaFile) => {
            Err(EvidenceError::InHost(source.to_string()))
        }
        Some(Anchorage::Pcr) | None => Ok((source, entries)),
    }
}

/// The lines of the list that give what was quoted, and what the PCR held.
fn cut(
    source: &Source,
    mut entries: Entries,
    pcr: u32,
    quoted: Digest,
) -> Result<(String, Digest), EvidenceError> {
    let mut prefix = Prefix::new(pcr, quoted);
    if prefix.found().is_some() {
        return Err(EvidenceError::Untouched {
            list: source.to_string(),
            pcr,
        });
    }
    let mut entry = Entry::default();
    let mut list = String::new();
    while prefix.found().is_none() {
        let Some(read) = entries.read(&mut entry) else {
            return Err(EvidenceError::NoPrefix {
                list: source.to_string(),
                pcr,
                entries: prefix.entries(),
            });
        };
        let index = read?.index;
        let line = entry.to_ascii();
        let line = line.map_err(|reason| EvidenceError::NotShowable {
            list: source.to_string(),
            index,
            source: reason,
        })?;
        let line = String::from_utf8(line).map_err(|_| EvidenceError::NotText {
            list: source.to_string(),
            index,
            name: entry.display_name(),
        })?;
        list.push_str(&line);
        list.push('\n');
        prefix.push(&entry);
    }
    Ok((list, prefix.value()))
}

/// What `cima evidence key` shows.
#[derive(Serialize)]
struct KeyJson {
    handle: String,
    /// Name of the key, hexadecimal.
    name: String,
    tpm_ak: String,
    /// Of `tpm_ak` as it is in the TPM, hexadecimal: what an operator keeps.
    ak_sha256: String,
    tpm_ek: String,
    ek_certificate: Option<String>,
}

fn show_key(tpm: &TpmArgs, json: bool) -> Result<Outcome, EvidenceError> {
    let mut key = open(tpm)?;
    let endorsement = key.endorsement()?;
    let public = key.public()?;
    let shown = KeyJson {
        handle: tpm.key.to_string(),
        name: hex::encode(key.name()),
        ak_sha256: hex::encode(HashAlgorithm::Sha256.digest(&public).bytes()),
        tpm_ak: STANDARD.encode(public),
        tpm_ek: STANDARD.encode(&endorsement.public),
        ek_certificate: endorsement.certificate.map(|of| STANDARD.encode(of)),
    };
    let text = if json {
        serde_json::json!(shown).to_string() + "\n"
    } else {
        let none = "none in the TPM".to_owned();
        let KeyJson {
            handle,
            name,
            tpm_ak,
            ak_sha256,
            tpm_ek,
            ek_certificate,
        } = shown;
        format!(
            "handle          {handle}\nname            {name}\ntpm_ak          {tpm_ak}\nak_sha256       {ak_sha256}\ntpm_ek          {tpm_ek}\nek_certificate  {}\n",
            ek_certificate.unwrap_or(none)
        )
    };
    write(None, &text)?;
    Ok(Outcome::Good)
}

fn write(output: Option<&Path>, text: &str) -> Result<(), EvidenceError> {
    let (to, written) = match output {
        Some(path) => (path.display().to_string(), fs::write(path, text)),
        None => {
            let mut out = io::stdout().lock();
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            ("standard output".to_owned(), unless_broken_pipe(written))
        }
    };
    written.map_err(|source| EvidenceError::Write { to, source })
}
