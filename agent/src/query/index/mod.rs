// SPDX-License-Identifier: Apache-2.0
//! An index of lists: derived, thrown away and made again at will, never a source of truth.
//!
//! `schema` has the tables, `build` fills them, `containers` knows who lived. An index is of the lists that it was made for; when it is
//! opened it follows them, and if a list is no longer the one that was read, it is made anew. Whatever it says is read from the
//! list again before it is shown (`query::event`).

mod build;
mod containers;
mod schema;

pub(crate) use containers::{Container, HOST, OF_IMAGE, REGISTERED, UNANNOUNCED, home_of, named};
pub(crate) use schema::{event_id, list_of, segment_and_offset};

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use ima_log::Entry;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};
use schemars::JsonSchema;
use serde::Serialize;

use self::build::{Progress, build};
use super::{
    List, VERSION,
    event::shown,
    moment,
    records::{At, Records},
};

/// How long another command may keep the index.
const BUSY: Duration = Duration::from_secs(30);

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file operation failed.
    #[error("cannot {action} the index {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not an index.
    #[error("{} is no index of cima's: it is left alone; name another file with --index", .0.display())]
    Foreign(PathBuf),
    /// Somebody else's.
    #[error(
        "the index {} is not this user's alone, and could say what is not so: remove it, or name another file with --index",
        .0.display()
    )]
    NotOurs(PathBuf),
    /// Two commands want one file for different lists.
    #[error("the index {} is made of other lists by somebody else at the same time: name another file with --index", .0.display())]
    Contended(PathBuf),
    /// The database failed.
    #[error("the index: {0} (it can be removed at any time, and is made anew)")]
    Sql(#[from] rusqlite::Error),
    /// It cannot be made.
    #[error("cannot open the index {}: {source}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// There is no room for a thread.
    #[error("cannot start a thread to read lists: {0}")]
    Thread(#[source] io::Error),
}

/// An index that has followed its lists.
pub struct Index {
    pub(crate) connection: Connection,
    /// Its lists, in order of their numbers.
    pub(crate) lists: Vec<Indexed>,
    /// Entries that were new.
    pub new: u64,
    /// Why it was made anew, if it was there before.
    pub anew: Option<String>,
}

/// A list of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Indexed {
    pub(crate) id: i64,
    pub(crate) list: List,
    pub(crate) boot: Option<String>,
    pub(crate) entries: u64,
    pub(crate) rows: i64,
    /// Microseconds since 1970 of its last event.
    pub(crate) ends: Option<i64>,
    pub(crate) damage: Option<String>,
    pub(crate) torn: bool,
    /// From which event on which `CLOCK_REALTIME` minus `CLOCK_BOOTTIME` holds, ns.
    pub(crate) clocks: Vec<(i64, i64)>,
}

/// How far a list reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Freshness {
    /// Of this JSON: 1.
    pub v: u32,
    /// The node.
    pub node: String,
    /// The boot, as the list says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The list.
    pub path: String,
    /// Entries that could be read.
    pub entries: u64,
    /// What they say, in the index's count.
    pub events: u64,
    /// When the last event was, by the node's own clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event: Option<String>,
    /// Why the rest cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Whether the list just ends within an entry: it was cut, or is being written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
}

impl Indexed {
    /// The offset of the clocks at an event.
    pub(crate) fn clock_at(&self, event: i64) -> Option<i64> {
        let after = self.clocks.partition_point(|(first, _)| *first <= event);
        self.clocks.get(after.checked_sub(1)?).map(|(_, ns)| *ns)
    }

    /// Its first event's number, and the one behind its last.
    pub(crate) fn range(&self) -> (i64, i64) {
        (event_id(self.id, 0), event_id(self.id, self.rows))
    }
}

impl Index {
    /// Opens the index at `path`, makes it if there is none, and follows `lists`. `told` hears how many entries were read.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn open(
        path: &Path,
        lists: &[List],
        told: &mut dyn FnMut(u64),
    ) -> Result<Self, IndexError> {
        let anew = match existing(path)? {
            None => None,
            Some(mut connection) => match follow(&mut connection, lists, told)? {
                Followed::New(new) => return Self::of(connection, new, None),
                Followed::Not(reason) => Some(reason),
            },
        };
        let new = make(path, lists, told)?;
        let gone = || IndexError::Foreign(path.to_owned());
        let mut connection = existing(path)?.ok_or_else(gone)?;
        // Somebody else may have put another there meanwhile.
        match follow(&mut connection, lists, told)? {
            Followed::New(more) => Self::of(connection, new + more, anew),
            Followed::Not(_) => Err(IndexError::Contended(path.to_owned())),
        }
    }

    /// An index that nobody else sees, of `lists`.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn in_memory(lists: &[List]) -> Result<Self, IndexError> {
        let connection = Connection::open_in_memory()?;
        let new = fill(&connection, lists, &mut |_| ())?;
        Self::of(connection, new, None)
    }

    fn of(connection: Connection, new: u64, anew: Option<String>) -> Result<Self, IndexError> {
        let lists = indexed(&connection)?;
        connection.execute_batch("PRAGMA cache_size = -65536; PRAGMA mmap_size = 4294967296;")?;
        Ok(Self {
            connection,
            lists,
            new,
            anew,
        })
    }

    /// How far its lists reach.
    #[must_use]
    pub fn freshness(&self) -> Vec<Freshness> {
        let of = |list: &Indexed| Freshness {
            v: VERSION,
            node: list.list.node.clone(),
            boot_id: list.boot.clone(),
            path: shown(list.list.path.as_os_str().as_bytes()),
            entries: list.entries,
            events: list.rows.cast_unsigned(),
            last_event: list
                .ends
                .and_then(|us| us.checked_mul(1000))
                .map(moment::show),
            damage: list.damage.as_ref().map(|damage| shown(damage.as_bytes())),
            torn: list.torn,
        };
        self.lists.iter().map(of).collect()
    }

    /// What of the lists could not be read, and what two of them claim at once; a sentence each.
    #[must_use]
    pub fn damages(&self) -> Vec<String> {
        let mut said = Vec::new();
        for list in &self.lists {
            if let Some(damage) = &list.damage {
                let what = match list.torn {
                    true => "ends within an entry, or is being written",
                    false => "cannot be read on",
                };
                said.push(format!(
                    "the list of {} {what} ({damage}); the {} entries before are here",
                    list.list.node, list.entries
                ));
            }
        }
        let mut boots: HashMap<&str, &str> = HashMap::new();
        for list in &self.lists {
            let Some(boot) = &list.boot else { continue };
            match boots.insert(boot, &list.list.node) {
                Some(other) if other != list.list.node => said.push(format!(
                    "the nodes {other} and {} both claim the boot {boot}: one is a copy of the other, or says what is not so",
                    list.list.node
                )),
                _ => {}
            }
        }
        said
    }

    /// The list of an event.
    pub(crate) fn list(&self, event: i64) -> Option<&Indexed> {
        let id = list_of(event);
        let found = self.lists.binary_search_by_key(&id, |list| list.id).ok()?;
        self.lists.get(found)
    }
}

/// The index at `path`, if there is one of this version.
fn existing(path: &Path) -> Result<Option<Connection>, IndexError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(IndexError::Io {
                action: "open",
                path: path.to_owned(),
                source,
            });
        }
        Ok(own) => {
            let is_ours = own.uid() == rustix::process::geteuid().as_raw();
            if !own.is_file() || !is_ours || own.mode() & 0o022 != 0 {
                return Err(IndexError::NotOurs(path.to_owned()));
            }
        }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<(Connection, i32, i32)> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
        let (application, version) = (pragma("application_id")?, pragma("user_version")?);
        Ok((connection, application, version))
    };
    match open() {
        Ok((connection, schema::APPLICATION, schema::VERSION)) => Ok(Some(connection)),
        // Of another version: made anew.
        Ok((_, schema::APPLICATION, _)) => Ok(None),
        Ok(_) => Err(IndexError::Foreign(path.to_owned())),
        Err(error) if is_broken(&error) => Err(IndexError::Foreign(path.to_owned())),
        Err(source) => Err(IndexError::Open {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether a file is no database, or a broken one.
fn is_broken(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}

enum Followed {
    /// So many entries were new.
    New(u64),
    /// Why it must be made anew.
    Not(String),
}

/// Reads on where the lists have grown.
fn follow(
    connection: &mut Connection,
    lists: &[List],
    told: &mut dyn FnMut(u64),
) -> Result<Followed, IndexError> {
    match grown(connection, lists) {
        Ok(Grown::Nothing) => Ok(Followed::New(0)),
        Ok(Grown::Some) => {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Somebody else may have followed meanwhile.
            let new = match grown(&transaction, lists)? {
                Grown::Nothing => 0,
                Grown::Not(reason) => return Ok(Followed::Not(reason)),
                Grown::Some => {
                    let lists = progress(&transaction)?;
                    build(&transaction, lists, false, told)?
                }
            };
            transaction.commit()?;
            Ok(Followed::New(new))
        }
        Ok(Grown::Not(reason)) => Ok(Followed::Not(reason)),
        Err(IndexError::Sql(error)) if is_broken(&error) => {
            Ok(Followed::Not(format!("it is broken: {error}")))
        }
        Err(error) => Err(error),
    }
}

enum Grown {
    Nothing,
    Some,
    Not(String),
}

/// Whether the lists are those of the index, and whether there is more of them.
fn grown(connection: &Connection, lists: &[List]) -> Result<Grown, IndexError> {
    let known = progress(connection)?;
    let mut names: Vec<_> = known.iter().map(|known| known.list.clone()).collect();
    names.sort();
    if names != lists {
        return Ok(Grown::Not("there are other lists now".to_owned()));
    }
    let mut grown = Grown::Nothing;
    for known in known {
        match known.now() {
            Now::Same => {}
            Now::Longer => grown = Grown::Some,
            Now::Another => {
                return Ok(Grown::Not(format!(
                    "{} is no longer the list that was indexed",
                    known.list
                )));
            }
        }
    }
    Ok(grown)
}

enum Now {
    Same,
    Longer,
    Another,
}

impl Progress {
    /// Looks at the last entry that was read, and behind it.
    fn now(&self) -> Now {
        let mut entry = Entry::default();
        let Some((place, hash)) = &self.last else {
            // Nothing was there, or nothing that could be read.
            return Now::Longer;
        };
        let (segment, offset) = segment_and_offset(*place);
        let last = At {
            segment,
            offset,
            entry: self.at.entry.saturating_sub(1),
        };
        let Ok(mut records) = Records::new(&self.list, last) else {
            return Now::Another;
        };
        match records.read(&mut entry) {
            Some(Ok(at)) if at == last && entry.template_hash.bytes() == hash => {}
            _ => return Now::Another,
        }
        match records.read(&mut entry) {
            None => Now::Same,
            // As it was.
            Some(Err(_)) if self.damage.is_some() && !self.torn => Now::Same,
            Some(_) => Now::Longer,
        }
    }
}

/// Makes the index beside the old one, and puts it in its place when it is whole.
fn make(path: &Path, lists: &[List], told: &mut dyn FnMut(u64)) -> Result<u64, IndexError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| IndexError::Io {
            action,
            path,
            source,
        }
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(failed("make the directory of", path))?;
    // Of this user alone: it says what ran.
    let temporary = tempfile::Builder::new()
        .prefix(".index-")
        .tempfile_in(dir)
        .map_err(failed("make", path))?;
    let open = Connection::open(temporary.path());
    let connection = open.map_err(|source| IndexError::Open {
        path: path.to_owned(),
        source,
    })?;
    // Nobody sees it before it is whole.
    connection.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; \
         PRAGMA cache_size = -131072; PRAGMA temp_store = MEMORY; PRAGMA threads = 2;",
    )?;
    let new = fill(&connection, lists, told)?;
    connection.close().map_err(|(_, error)| error)?;
    temporary
        .persist(path)
        .map_err(|error| failed("put in place", path)(error.error))?;
    Ok(new)
}

/// Makes the tables of `lists`.
fn fill(
    connection: &Connection,
    lists: &[List],
    told: &mut dyn FnMut(u64),
) -> Result<u64, IndexError> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(schema::TABLES)?;
    for list in lists {
        transaction
            .prepare_cached(
                "INSERT INTO list (node, path, segmented, segment, offset, entries, rows, torn) VALUES (?1, ?2, ?3, 0, 0, 0, \
                 0, 0)",
            )?
            .execute(params![
                list.node,
                list.path.as_os_str().as_bytes(),
                list.segmented
            ])?;
    }
    let lists = progress(&transaction)?;
    let new = build(&transaction, lists, true, told)?;
    transaction.execute_batch(schema::INDICES)?;
    transaction.pragma_update(None, "application_id", schema::APPLICATION)?;
    transaction.pragma_update(None, "user_version", schema::VERSION)?;
    transaction.commit()?;
    Ok(new)
}

/// How far each list is read.
fn progress(connection: &Connection) -> Result<Vec<Progress>, IndexError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, node, path, segmented, segment, offset, entries, rows, boot, clock, last_place, last_hash, ends, damage, \
         torn FROM list ORDER BY id",
    )?;
    let rows = statement.query_map([], |row| {
        let last: (Option<i64>, Option<Vec<u8>>) = (row.get(10)?, row.get(11)?);
        Ok(Progress {
            id: row.get(0)?,
            list: List {
                node: row.get(1)?,
                path: OsString::from_vec(row.get(2)?).into(),
                segmented: row.get(3)?,
            },
            at: At {
                segment: row.get(4)?,
                offset: row.get::<_, i64>(5)?.cast_unsigned(),
                entry: row.get::<_, i64>(6)?.cast_unsigned(),
            },
            rows: row.get(7)?,
            boot: row.get(8)?,
            clock: row.get(9)?,
            last: last.0.zip(last.1),
            ends: row.get(12)?,
            damage: row.get(13)?,
            torn: row.get(14)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn indexed(connection: &Connection) -> Result<Vec<Indexed>, IndexError> {
    let mut clocks =
        connection.prepare("SELECT first, offset_ns FROM clock WHERE list = ?1 ORDER BY first")?;
    let mut lists = Vec::new();
    for progress in progress(connection)? {
        let rows = clocks.query_map([progress.id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        lists.push(Indexed {
            clocks: rows.collect::<Result<_, _>>()?,
            id: progress.id,
            list: progress.list,
            boot: progress.boot,
            entries: progress.at.entry,
            rows: progress.rows,
            ends: progress.ends,
            damage: progress.damage,
            torn: progress.torn,
        });
    }
    Ok(lists)
}
