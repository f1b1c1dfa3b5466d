// SPDX-License-Identifier: Apache-2.0
//! `cima verify`: brings a list and PCR values before the judge. Owns where the values
//! come from; `live` owns the race with a running agent, `crate::verify` the judgement.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
};

use clap::Args;
use ima_log::{Digest, Entry};

use super::{
    live::{self, HostLists, LiveError, Looked},
    pcr_values::{self, PcrValue, PcrValueError},
    quoted::{GivenQuote, QuoteArgs, QuoteReadError, find_value},
    source::{Damage, Entries, Source, SourceError, running_boot},
    terms::{TermsArgs, TermsError},
    unless_broken_pipe,
    verdict::{Paint, Verdict},
};
use crate::{
    config::DEFAULT_PCR,
    exit::Outcome,
    sink::{HOST_LIST, HOST_PCR, PcrSink, SinkError},
    verify::{Anchor, FaultKind, HostJudge, Judge, QuoteOutcome, Start, Terms},
};

/// The TPM that is asked if none is named.
const TPM: &str = "device:/dev/tpmrm0";
/// A file of PCR values is far shorter.
const PCR_FILE: u64 = 1 << 20;

/// Verify a measurement list against PCR values, and what it says against references and a policy.
///
/// Replays LIST from power-on and compares with the PCR that its entries extend; checks
/// each entry's digests and, of a cima list, the numbering of its batches and what its
/// Start events recorded. LIST is what `cima log` takes; without it, the running boot's.
///
/// A running agent lists an entry just before it extends it. Against a TPM the PCR is
/// read before the list, and both again while they move: good means that every entry
/// that was there when this began is in the PCR.
///
/// With --host-list the kernel's own list is what is replayed, and cima's entries are looked for among the others:
/// each context event must have its policy event. With LIST besides, that must be the ledger
/// whose entries these are, all of them and no others. A ledger of this boot that is kept in the kernel's list (sinks
/// `kernel` and `ima-file`) is compared with it unasked.
///
/// With --evidence, or a quote's files, the values are those that a TPM signed: the signature, the key, the nonce and the
/// selection are checked. What is listed behind the quote is proven by nothing, and is not judged.
///
/// With --reference, --policy or --admission each container is judged, too: good, bad, or unknown, with the reasons, each with the number of
/// an entry; and the node by all of them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cima verify                                  this boot's list against this host's TPM
  cima verify list.ima --pcrs pcrs.yaml        elsewhere: tpm2_pcrread > pcrs.yaml
  cima verify list.ima --pcr sha256:13=7e01... the value out of a checked quote
  cima verify --json | jq .good
  cima verify --host-list ima.bin --pcrs pcrs.yaml
                                               a copy of a host's own list, with cima's entries in it
  cima verify ledger/ --host-list ima.bin --pcrs pcrs.yaml
                                               the same, and is all of that ledger in it?
  cima verify --evidence node.json --nonce 5f1c08 --ak ak.json --reference references/ --policy verification.toml
                                               what `cima evidence` made: is every container what it should be?
  cima verify list.ima --quote-msg msg --quote-sig sig --ak ak.pem --nonce-hex 5f1c08
                                               with what `tpm2_quote -q 5f1c08 -m msg -s sig` wrote
  cima verify --containers                     which containers does the list speak of?

The last line is the verdict. A list names its PCR itself: --expect-pcr says which one
your agents use, if it is not 13, or 10 with --host-list. Violations on record are warnings, except
those of a broken chain; the verdict is about the list, not about what it records, unless
references or a policy are given.

Exit codes: 0 the list is what was extended and nothing in it is refused, 1 it is not or something is,
2 usage, or something that cannot be read.")]
pub struct VerifyArgs {
    /// The list
    #[arg(value_name = "LIST")]
    list: Option<PathBuf>,
    /// The kernel's own list, `-` for standard input: as /sys/kernel/security/ima has it, binary or ASCII, of any algorithm
    #[arg(long, value_name = "FILE", conflicts_with = "trust_start")]
    host_list: Option<PathBuf>,
    /// Compare with a TPM, in every bank of the PCR; without TCTI `device:/dev/tpmrm0`, as when
    /// no values are given at all
    #[arg(long, value_name = "TCTI", num_args = 0..=1, require_equals = true, default_missing_value = TPM, group = "values")]
    tpm: Option<String>,
    /// Compare with the values in a file, as `tpm2_pcrread` or evmctl writes them
    #[arg(long, value_name = "FILE", group = "values")]
    pcrs: Option<PathBuf>,
    /// Compare with this value; may be repeated
    #[arg(long, value_name = "BANK:PCR=HEX", group = "values")]
    pcr: Vec<PcrValue>,
    #[command(flatten)]
    quote: QuoteArgs,
    #[command(flatten)]
    terms: TermsArgs,
    /// PCR that a cima list must be kept in; 13, or 10 in a host's list, unless --pcr says which by its value
    #[arg(long, value_name = "PCR")]
    expect_pcr: Option<u32>,
    /// Believe what the list says its PCR held before the first entry
    #[arg(long)]
    trust_start: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Where cimad keeps its state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cima")]
    state_dir: PathBuf,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// See [`SourceError`].
    #[error(transparent)]
    Source(#[from] SourceError),
    /// See [`LiveError`].
    #[error(transparent)]
    Live(#[from] LiveError),
    /// See [`SinkError`].
    #[error("{0} (name another with --tpm=, or give values with --pcrs or --pcr)")]
    Tpm(#[from] SinkError),
    /// The TPM has forgotten.
    #[error(
        "{list} is of boot {of}, and the TPM's PCRs are of boot {running}: give the values of that boot with --pcrs or --pcr"
    )]
    OtherBoot {
        /// The list.
        list: String,
        /// Its boot.
        of: String,
        /// This one.
        running: String,
    },
    /// The file of values cannot be read.
    #[error("cannot read the PCR values {}: {source}", path.display())]
    PcrFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file of values is not one.
    #[error("{}: {source}", path.display())]
    PcrSyntax {
        /// Which file.
        path: PathBuf,
        /// Line and reason.
        #[source]
        source: PcrValueError,
    },
    /// The values on the command line contradict each other.
    #[error(transparent)]
    PcrValue(#[from] PcrValueError),
    /// Values of other PCRs.
    #[error("the entries of {list} extend PCR {pcr}, and no value of that PCR was given")]
    NoValue {
        /// The list.
        list: String,
        /// The PCR of its first entry.
        pcr: u32,
    },
    /// A ledger whose anchor is not at hand.
    #[error(
        "the entries of {0} are in the IMA list of the host and boot that it is of, and are compared with that: give it with --host-list"
    )]
    HostList(String),
    /// Both lists from one place.
    #[error("standard input cannot be both the ledger and the host's list")]
    TwoOfStdin,
    /// See [`TermsError`].
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// See [`QuoteReadError`].
    #[error(transparent)]
    Quote(#[from] QuoteReadError),
    /// A list beside one that is a list of cima's by itself.
    #[error("{0} has cima's own list in it: no other goes with it")]
    NoLedger(String),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Write(#[source] io::Error),
}

/// Runs the command.
///
/// # Errors
/// See [`VerifyError`].
pub fn run(args: &VerifyArgs) -> Result<Outcome, VerifyError> {
    // Before the list: a wrong file of values need not wait for a gigabyte of entries.
    let terms = args.terms.read()?.map(Arc::new);
    let (given, evidence) = given(args)?;
    let found = Case::find(args, evidence)?;
    let origin = given.as_ref().map_or("TPM", Given::origin);
    let (list, ledger) = found.names();
    let case = OfCase { args, terms };
    let looked = match found {
        Case::Own(source, entries) => case.own(&source, entries, given)?,
        Case::Host(host, ledger) => case.in_host(&host, ledger, given)?,
    };
    let verdict = Verdict {
        list,
        ledger,
        origin,
        judgement: &looked.judgement,
        note: note(&looked),
    };
    let mut out = io::stdout().lock();
    let written = if args.json {
        verdict.json(&mut out)
    } else {
        let paint = Paint::when(out.is_terminal());
        verdict.text(&mut out, paint)
    };
    unless_broken_pipe(written.and_then(|()| out.flush())).map_err(VerifyError::Write)?;
    Ok(if looked.judgement.is_good() {
        Outcome::Good
    } else {
        Outcome::Negative
    })
}

/// What is to be judged.
enum Case {
    /// A list by itself.
    Own(Source, Entries),
    /// A host's list, and perhaps a ledger with it.
    Host(Source, Option<(Source, Entries)>),
}

impl Case {
    fn find(args: &VerifyArgs, evidence: Option<Source>) -> Result<Self, VerifyError> {
        let find = |list| Source::find(list, &args.state_dir);
        if let Some(evidence) = evidence {
            return Self::of_evidence(args, evidence);
        }
        if let (Some(host), list) = (&args.host_list, &args.list) {
            let host = find(Some(host))?;
            let Some(list) = list else {
                return Ok(Self::Host(host, None));
            };
            let ledger = find(Some(list))?;
            if host == Source::Stdin && ledger == Source::Stdin {
                return Err(VerifyError::TwoOfStdin);
            }
            let entries = ledger.open()?;
            return Ok(Self::Host(host, Some((ledger, entries))));
        }
        let source = find(args.list.as_deref())?;
        let mut entries = source.open()?;
        let start = entries.first()?.and_then(Start::of);
        let Some(start) = start.filter(|start| start.anchorage.host_form().is_some()) else {
            return Ok(Self::Own(source, entries));
        };
        if start.boot_id != running_boot()? {
            return Err(VerifyError::HostList(source.to_string()));
        }
        let host = find(Some(HOST_LIST.as_ref()))?;
        Ok(Self::Host(host, Some((source, entries))))
    }

    /// The list in evidence is cima's own if it begins as such, and else a host's.
    fn of_evidence(args: &VerifyArgs, evidence: Source) -> Result<Self, VerifyError> {
        let mut entries = evidence.open()?;
        let own = entries.first()?.and_then(Start::of).is_some();
        match (&args.list, own) {
            (None, true) => Ok(Self::Own(evidence, entries)),
            (None, false) => Ok(Self::Host(evidence, None)),
            (Some(_), true) => Err(VerifyError::NoLedger(evidence.to_string())),
            (Some(list), false) => {
                let ledger = Source::find(Some(list), &args.state_dir)?;
                let entries = ledger.open()?;
                Ok(Self::Host(evidence, Some((ledger, entries))))
            }
        }
    }

    /// The list's name, and the ledger's beside it.
    fn names(&self) -> (String, Option<String>) {
        match self {
            Self::Own(list, _) => (list.to_string(), None),
            Self::Host(list, ledger) => {
                let ledger = ledger.as_ref().map(|(ledger, _)| ledger.to_string());
                (list.to_string(), ledger)
            }
        }
    }
}

/// Values, and where they are from.
enum Given {
    /// From a file, or the command line.
    Values(&'static str, Anchor),
    /// What a TPM signed.
    Quote(Box<QuoteOutcome>),
}

impl Given {
    fn origin(&self) -> &'static str {
        match self {
            Self::Values(origin, _) => origin,
            Self::Quote(_) => "quote",
        }
    }
}

/// How a case is judged.
struct OfCase<'a> {
    args: &'a VerifyArgs,
    terms: Option<Arc<Terms>>,
}

impl OfCase<'_> {
    /// Judges a list by itself.
    fn own(
        &self,
        source: &Source,
        mut entries: Entries,
        given: Option<Given>,
    ) -> Result<Looked, VerifyError> {
        let expected_pcr = expected_pcr(self.args, DEFAULT_PCR);
        let judge = |anchor| {
            let judge = Judge::new(anchor)
                .trusting_start(self.args.trust_start)
                .expecting_pcr(expected_pcr)
                .of_ledger(matches!(source, Source::Ledger(_)));
            match &self.terms {
                Some(terms) => judge.by(Arc::clone(terms)),
                None => judge,
            }
        };
        match given {
            Some(Given::Values(_, anchor)) => {
                covers(&anchor, source, &mut entries)?;
                once(entries, judge(anchor))
            }
            Some(Given::Quote(mut quote)) => {
                let anchor = anchor_of(&mut quote, source, &mut entries)?;
                once(entries, judge(anchor).quoted(*quote))
            }
            None => against_tpm(self.args, source, entries, judge),
        }
    }

    /// Judges a host's list, and the ledger beside it.
    fn in_host(
        &self,
        host: &Source,
        mut ledger: Option<(Source, Entries)>,
        given: Option<Given>,
    ) -> Result<Looked, VerifyError> {
        let mut entries = host.open()?;
        let expected_pcr = expected_pcr(self.args, HOST_PCR);
        let with_ledger = ledger.is_some();
        let judge = |anchor| {
            let judge = HostJudge::new(anchor, expected_pcr, with_ledger);
            match &self.terms {
                Some(terms) => judge.by(terms),
                None => judge,
            }
        };
        let judge = match given {
            Some(Given::Values(_, anchor)) => {
                covers(&anchor, host, &mut entries)?;
                judge(anchor)
            }
            Some(Given::Quote(mut quote)) => {
                let anchor = anchor_of(&mut quote, host, &mut entries)?;
                judge(anchor).quoted(*quote)
            }
            None => {
                if let Some((source, entries)) = &mut ledger
                    && let Some(start) = entries.first()?.and_then(Start::of)
                {
                    this_boot(&start.boot_id, source)?;
                }
                let lists = HostLists::new(host, entries, ledger);
                return self.in_running_host(host, lists, expected_pcr, judge);
            }
        };
        Ok(HostLists::new(host, entries, ledger).once(judge)?)
    }

    fn in_running_host(
        &self,
        host: &Source,
        lists: HostLists<'_>,
        expected_pcr: Option<u32>,
        judge: impl Fn(Anchor) -> HostJudge,
    ) -> Result<Looked, VerifyError> {
        let pcr = expected_pcr.unwrap_or(HOST_PCR);
        let mut tpm = PcrSink::open(self.args.tpm.as_deref().unwrap_or(TPM), pcr)?;
        let looked = live::judge_host(lists, &mut tpm, |held| judge(all_of(pcr, held)))?;
        if let Some(boot_id) = &looked.judgement.boot_id {
            this_boot(boot_id, host)?;
        }
        Ok(looked)
    }
}

/// What a list is compared with by a quote.
fn anchor_of(
    quote: &mut QuoteOutcome,
    source: &Source,
    entries: &mut Entries,
) -> Result<Anchor, VerifyError> {
    let pcr = entries.first()?.map(|first| first.pcr);
    find_value(quote, source)?;
    Ok(quote.anchor(pcr))
}

fn expected_pcr(args: &VerifyArgs, usual: u32) -> Option<u32> {
    let pinned = !args.pcr.is_empty();
    args.expect_pcr.or_else(|| (!pinned).then_some(usual))
}

/// What the TPM holds in one PCR.
fn all_of(pcr: u32, held: Vec<Digest>) -> Anchor {
    Anchor::Exactly(held.into_iter().map(|value| (pcr, value)).collect())
}

/// The values of the command line, of the file it names, or of a quote, perhaps with the list that came with it; `None`: the TPM is to be
/// asked.
fn given(args: &VerifyArgs) -> Result<(Option<Given>, Option<Source>), VerifyError> {
    if let Some(GivenQuote { outcome, list }) = args.quote.read()? {
        return Ok((Some(Given::Quote(Box::new(outcome))), list));
    }
    if !args.pcr.is_empty() {
        let values: Vec<_> = args.pcr.iter().map(|pcr| (pcr.pcr, pcr.value)).collect();
        pcr_values::no_repetition(&values)?;
        let values = Given::Values("given", Anchor::Exactly(values));
        return Ok((Some(values), None));
    }
    let Some(path) = &args.pcrs else {
        return Ok((None, None));
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(PCR_FILE).read_to_string(&mut text))
        .map_err(|source| VerifyError::PcrFile {
            path: path.clone(),
            source,
        })?;
    let values = pcr_values::parse(&text).map_err(|source| VerifyError::PcrSyntax {
        path: path.clone(),
        source,
    })?;
    Ok((Some(Given::Values("file", Anchor::Among(values))), None))
}

/// Values of other PCRs only are a mistake in the command, not a verdict on the list.
fn covers(anchor: &Anchor, source: &Source, entries: &mut Entries) -> Result<(), VerifyError> {
    let (Anchor::Exactly(values) | Anchor::Among(values)) = anchor else {
        return Ok(());
    };
    match entries.first()? {
        Some(first) if values.iter().all(|(pcr, _)| *pcr != first.pcr) => {
            Err(VerifyError::NoValue {
                list: source.to_string(),
                pcr: first.pcr,
            })
        }
        _ => Ok(()),
    }
}

/// Against values that do not change: one look, and a torn end is a fault.
fn once(entries: Entries, judge: Judge) -> Result<Looked, VerifyError> {
    let (mut judge, torn) = live::read(entries, judge)?;
    if let Some(Damage { place, torn, said }) = torn {
        judge.damaged(place, torn, said);
    }
    let entries = judge.entries();
    Ok(Looked {
        judgement: judge.finish(entries),
        looks: 1,
        moving: false,
    })
}

/// Asks the TPM for the PCR of the list's first entry, unless there is nothing to ask.
fn against_tpm(
    args: &VerifyArgs,
    source: &Source,
    mut entries: Entries,
    judge: impl Fn(Anchor) -> Judge,
) -> Result<Looked, VerifyError> {
    let first = entries.first()?;
    let start = first.and_then(Start::of);
    let anchored = start.as_ref().is_none_or(|start| start.pcr.is_some());
    let Some(pcr) = first.map(|entry: &Entry| entry.pcr).filter(|_| anchored) else {
        return once(entries, judge(Anchor::Absent));
    };
    if let Some(start) = start {
        this_boot(&start.boot_id, source)?;
    }
    let mut tpm = PcrSink::open(args.tpm.as_deref().unwrap_or(TPM), pcr)?;
    let values = |held| judge(all_of(pcr, held));
    Ok(live::judge(source, entries, &mut tpm, values)?)
}

fn this_boot(boot_id: &str, source: &Source) -> Result<(), VerifyError> {
    let running = running_boot()?;
    if boot_id == running {
        return Ok(());
    }
    Err(VerifyError::OtherBoot {
        list: source.to_string(),
        of: boot_id.to_owned(),
        running,
    })
}

/// What a reader of a negative verdict should know of a list that lags.
fn note(looked: &Looked) -> Option<String> {
    if !looked.judgement.lags() || looked.looks == 1 {
        return None;
    }
    let looks = looked.looks;
    let mut faults = looked.judgement.faults.iter();
    let lags = faults.any(|fault| matches!(fault.kind, FaultKind::NotExtended { .. }));
    Some(if !lags {
        format!(
            "an agent at work has the same in its ledger and in the host's list within a moment, but {looks} looks found them apart"
        )
    } else if looked.moving {
        format!(
            "the PCR was still being extended after {looks} looks: the agent is behind with its work; verify again later"
        )
    } else {
        format!(
            "an agent at work extends an entry right after it lists it, but {looks} looks found the PCR unchanged"
        )
    })
}
