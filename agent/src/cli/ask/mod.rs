// SPDX-License-Identifier: Apache-2.0
//! The verbs that ask what ran: one vocabulary of options and filters, one way to the index, one way out.

pub mod events;
pub mod explain;
pub mod export;
pub mod files;
pub mod index;
pub mod ps;
pub mod schema;
pub mod show;
mod table;
pub mod tree;

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{self, IsTerminal as _, Write},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::ZonedDateTime;

use super::unless_broken_pipe;
use crate::{
    config::STATE_DIR,
    ledger::segments,
    query::{
        self, ContainerName, DigestPattern, Filter, Index, IndexError, Kind, List, ListsError,
        Pattern, QueryError, User, moment,
    },
};

/// Where lists are, and their index.
#[derive(Debug, Args)]
#[command(next_help_heading = "Lists")]
pub struct Lists {
    /// A list, a boot's directory, a node's state directory, or a directory of nodes; may be repeated [default: this host's,
    /// /var/lib/cima]
    ///
    /// A node is called as its directory is. NAME=PATH calls it otherwise.
    #[arg(long, value_name = "PATH")]
    from: Vec<query::From>,
    /// The index [default: one for these lists in /var/cache/cima, or of another user than root in ~/.cache/cima]
    ///
    /// Made if there is none, and brought up to date. It can be removed at any time.
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
}

/// What is asked for. Each may be repeated: one of the values, and every option.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Filters (a VALUE matches what begins with it; with * ? [ ] it is a glob, with = in front only itself)"
)]
pub struct Filters {
    /// Container, by id or name
    #[arg(short, long, value_name = "VALUE")]
    container: Vec<Pattern>,
    /// Image of the container, by digest or name
    #[arg(short, long, value_name = "VALUE")]
    image: Vec<Pattern>,
    /// File, as the container sees it
    #[arg(short, long, value_name = "VALUE")]
    path: Vec<Pattern>,
    /// Digest of the file, or its first digits
    #[arg(short, long, value_name = "HEX")]
    digest: Vec<DigestPattern>,
    /// User of the process, or login:NUMBER for who logged in
    #[arg(short, long, value_name = "NUMBER")]
    user: Vec<User>,
    /// Process, in the initial pid namespace
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// What happened
    #[arg(short, long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<Kind>,
    /// Not before: 2026-03-09, "2026-03-09 14:30", 14:30, yesterday, 90m, "2h ago"
    #[arg(short, long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Before
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Node
    #[arg(short, long, value_name = "VALUE")]
    node: Vec<Pattern>,
    /// Only what should not have been
    #[arg(long)]
    violations: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// See [`ListsError`].
    #[error(transparent)]
    Lists(#[from] ListsError),
    /// See [`IndexError`].
    #[error(transparent)]
    Index(#[from] IndexError),
    /// See [`QueryError`].
    #[error(transparent)]
    Query(#[from] QueryError),
    /// See [`moment::MomentError`].
    #[error("--{option}: {source}")]
    Moment {
        /// Which option.
        option: &'static str,
        /// Why.
        #[source]
        source: moment::MomentError,
    },
    /// A filter that means nothing here.
    #[error("--{0} chooses nothing here: cima events takes it")]
    Useless(&'static str),
    /// What is to be read would be overwritten.
    #[error("{} is {what}: name another file with --output", path.display())]
    Overwrite {
        /// The output.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Two lists for one log.
    #[error(
        "a Canonical Event Log is of one list, and both {0} and {1} were asked for: choose with --node or --from"
    )]
    OneList(String, String),
    /// Nothing can be between.
    #[error("--until is not after --since: nothing can be between them")]
    Between,
    /// Of many containers one is wanted.
    #[error("{}", .0)]
    Which(String),
    /// The output failed.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Filters that a verb has no use for, and so refuses.
pub(in crate::cli) mod useless {
    /// What is about containers or files as a whole.
    pub(in crate::cli) const OF_EVENTS: &[&str] = &["user", "pid", "kind"];
    /// The same, and whether something was wrong.
    pub(in crate::cli) const OF_FILES: &[&str] = &["user", "pid", "kind", "violations"];
    /// Whatever chooses among what a container did.
    pub(in crate::cli) const WITHIN: &[&str] = &[
        "user",
        "pid",
        "kind",
        "violations",
        "path",
        "digest",
        "since",
        "until",
    ];
    /// What is of executions alone.
    pub(in crate::cli) const OF_EXECUTIONS: &[&str] = &["kind", "violations"];
}

impl Filters {
    /// [`Filters::parse`], but for filters that mean nothing here.
    ///
    /// # Errors
    /// One of `useless` was given, or a time is none.
    pub(in crate::cli) fn without(&self, useless: &[&'static str]) -> Result<Filter, AskError> {
        let given = [
            ("user", !self.user.is_empty()),
            ("pid", !self.pid.is_empty()),
            ("kind", !self.kind.is_empty()),
            ("violations", self.violations),
            ("path", !self.path.is_empty()),
            ("digest", !self.digest.is_empty()),
            ("since", self.since.is_some()),
            ("until", self.until.is_some()),
        ];
        let refused = given
            .iter()
            .find(|(name, given)| *given && useless.contains(name));
        match refused {
            Some((name, _)) => Err(AskError::Useless(name)),
            None => self.parse(),
        }
    }

    /// As the library takes them.
    ///
    /// # Errors
    /// A time is none.
    pub fn parse(&self) -> Result<Filter, AskError> {
        let now = ZonedDateTime::now();
        let time = |text: &Option<String>, option| {
            let parsed = text.as_ref().map(|text| moment::parse(text, &now));
            parsed
                .transpose()
                .map_err(|source| AskError::Moment { option, source })
        };
        let (since, until) = (time(&self.since, "since")?, time(&self.until, "until")?);
        if since
            .zip(until)
            .is_some_and(|(since, until)| until <= since)
        {
            return Err(AskError::Between);
        }
        Ok(Filter {
            containers: self.container.clone(),
            images: self.image.clone(),
            paths: self.path.clone(),
            digests: self.digest.clone(),
            users: self.user.clone(),
            pids: self.pid.clone(),
            kinds: self.kind.clone(),
            since,
            until,
            nodes: self.node.clone(),
            violations: self.violations,
        })
    }
}

impl Lists {
    /// Those of this host.
    pub(super) fn of_this_host() -> Self {
        Self {
            from: Vec::new(),
            index: None,
        }
    }

    /// The lists.
    ///
    /// # Errors
    /// There are none.
    pub fn find(&self) -> Result<Vec<List>, ListsError> {
        match self.from.is_empty() {
            true => query::find(&[query::From::path(STATE_DIR)]),
            false => query::find(&self.from),
        }
    }

    /// The index, up to date. What is to be known of it is said on standard error.
    ///
    /// # Errors
    /// There are no lists, or there can be no index.
    pub fn open(&self) -> Result<Index, AskError> {
        let lists = self.find()?;
        let path = match &self.index {
            Some(path) => Some(path.clone()),
            None => default_index(&lists),
        };
        let bar = progress();
        let mut told = |entries| bar.set_position(entries);
        let opened = match &path {
            Some(path) => match Index::open(path, &lists, &mut told) {
                // A place that nobody chose need not be writable.
                Err(IndexError::Io { .. } | IndexError::Open { .. }) if self.index.is_none() => {
                    Index::in_memory(&lists)
                }
                opened => opened,
            },
            None => Index::in_memory(&lists),
        };
        bar.finish_and_clear();
        let index = opened?;
        if let Some(reason) = &index.anew {
            note(format_args!("the index was made anew: {reason}"));
        }
        for damage in index.damages() {
            note(format_args!("{damage}"));
        }
        Ok(index)
    }
}

/// Fails if `output` is what is to be read, by whatever name, or would be taken for a part of it.
pub(in crate::cli) fn refuse_inputs(
    output: &Path,
    lists: &[List],
    references: &[PathBuf],
) -> Result<(), AskError> {
    let refused = |what| AskError::Overwrite {
        path: output.to_owned(),
        what,
    };
    let own = fs::metadata(output).ok();
    let is_own = |path: &Path| {
        let other = fs::metadata(path).ok();
        let key = |of: &fs::Metadata| (of.dev(), of.ino());
        own.as_ref()
            .zip(other)
            .is_some_and(|(own, other)| key(own) == key(&other))
    };
    let folder = output.parent().filter(|folder| *folder != Path::new(""));
    let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).ok();
    for list in lists {
        let segments = match list.segmented {
            true => segments(&list.path).unwrap_or_default(),
            false => Vec::new(),
        };
        if is_own(&list.path) || segments.iter().any(|(_, path)| is_own(path)) {
            return Err(refused("a list that is to be read"));
        }
        let is_within =
            list.segmented && folder.is_some() && fs::canonicalize(&list.path).ok() == folder;
        let is_segment = output.extension() == Some(OsStr::new("ima"));
        if is_within && is_segment {
            return Err(refused("called like a segment of a list, beside others"));
        }
    }
    let is_reference = |path: &PathBuf| {
        let within = fs::canonicalize(path).ok() == folder && path.is_dir();
        is_own(path) || within && output.extension() == Some(OsStr::new("json"))
    };
    match references.iter().any(is_reference) {
        true => Err(refused("a reference that is to be read")),
        false => Ok(()),
    }
}

/// What a reader of the answer should know besides.
fn note(text: std::fmt::Arguments<'_>) {
    eprintln!("cima: note: {}", cima_hook::printable(&text.to_string()));
}

/// The index of these lists where this user keeps such; `None`: nowhere.
fn default_index(lists: &[List]) -> Option<PathBuf> {
    use sha2::{Digest as _, Sha256};
    let dir = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/cache")
    } else {
        let own = env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute());
        own.map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?
    };
    let mut hash = Sha256::new();
    // Not of each boot: a new one is still the same node's.
    let mut places: Vec<_> = lists
        .iter()
        .map(|list| (list.node.as_str(), list.path.parent().unwrap_or(&list.path)))
        .collect();
    places.dedup();
    for (node, place) in places {
        let place = fs::canonicalize(place).unwrap_or_else(|_| place.to_owned());
        for part in [node.as_bytes(), place.as_os_str().as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    let name = hex::encode(&hash.finalize()[..8]);
    Some(dir.join("cima").join(format!("{name}.index")))
}

fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} indexing: {human_pos} entries, {per_sec}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Has `write` write to standard output; a reader that goes away has what it wanted.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), AskError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = write(&mut out).and_then(|()| out.flush());
    unless_broken_pipe(written).map_err(written_to(Path::new("standard output")))
}

fn written_to(path: &Path) -> impl FnOnce(io::Error) -> AskError + use<'_> {
    move |source| AskError::Write {
        path: path.to_owned(),
        source,
    }
}

/// A container in a word.
fn named(container: &ContainerName) -> String {
    let id = container.id.get(..12).unwrap_or(&container.id);
    match (container.name.as_str(), id, container.mnt_ns) {
        ("", "", Some(mnt_ns)) => format!("mnt:{mnt_ns}"),
        ("", "", None) => "-".to_owned(),
        ("", id, _) => id.to_owned(),
        (name, _, _) => name.to_owned(),
    }
}

/// A time for people: to the second.
fn seconds(time: Option<&str>) -> &str {
    time.map_or("-", |time| time.get(..19).unwrap_or(time))
}

/// A value as a line of JSON.
pub(super) fn json_line(out: &mut dyn Write, value: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}
