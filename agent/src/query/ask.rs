// SPDX-License-Identifier: Apache-2.0
//! Asking: from a filter to what the lists say.

use std::{
    collections::{HashMap, HashSet},
    os::unix::ffi::OsStrExt as _,
};

use ima_log::Entry;
use rusqlite::params;

use super::{
    ContainerName, DigestPattern, Event, Filter, Index, IndexError, List,
    cursor::{Files, Hit, Hits, Passed, Wanted},
    event::{self, Setting},
    index::{Container, HOST, OF_IMAGE, REGISTERED, UNANNOUNCED, segment_and_offset},
    records::{At, Records, RecordsError},
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// See [`IndexError`].
    #[error(transparent)]
    Index(#[from] IndexError),
    /// See [`RecordsError`].
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A list is not what was indexed.
    #[error("{list} is no longer what was indexed: entry {entry} is not where it was. Ask again")]
    Moved {
        /// The list.
        list: String,
        /// The entry.
        entry: u64,
    },
    /// Not a place to go on from.
    #[error(
        "\"{0}\" is no place to go on from: it is not one that --after was told to take, or the lists are others now"
    )]
    After(String),
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Index(error.into())
    }
}

/// Number in the index, path and digest.
pub(crate) type NamedFile = (i64, Vec<u8>, Option<String>);

/// Contents under one path that an event names.
const DIGESTS: usize = 8;
/// Files of containers whose digests are remembered, at most.
const REMEMBERED: usize = 1 << 16;
/// Lists kept open at once, at most.
const OPEN: usize = 64;

/// What asks an index, and reads the lists.
pub struct Query<'a> {
    pub(crate) index: &'a Index,
    open: HashMap<i64, Open>,
    containers: HashMap<i64, Container>,
    digests: HashMap<(i64, i64), Vec<String>>,
}

/// A list at some place of it.
struct Open {
    records: Records,
    entry: Entry,
    damaged: Option<String>,
    /// Of what `entry` is, if it is anything.
    place: Option<i64>,
}

/// In which order, and how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Latest first.
    pub backwards: bool,
    /// So many; `None`: all.
    pub limit: Option<u64>,
    /// Behind those that this token says were had.
    pub after: Option<String>,
}

impl<'a> Query<'a> {
    /// Asks `index`.
    #[must_use]
    pub fn new(index: &'a Index) -> Self {
        Self {
            index,
            open: HashMap::new(),
            containers: HashMap::new(),
            digests: HashMap::new(),
        }
    }

    /// Tells `visit` of the events that `filter` asks for, in order, until it says false; where to go on, if there is more.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn events<E: From<QueryError>>(
        &mut self,
        filter: &Filter,
        page: &Page,
        visit: impl FnMut(Event) -> Result<bool, E>,
    ) -> Result<Option<String>, E> {
        let wanted = self.wanted(filter)?;
        self.wanted_events(filter, &wanted, page, visit)
    }

    fn wanted_events<E: From<QueryError>>(
        &mut self,
        filter: &Filter,
        wanted: &Wanted,
        page: &Page,
        mut visit: impl FnMut(Event) -> Result<bool, E>,
    ) -> Result<Option<String>, E> {
        let tag = self.tag(page.backwards);
        let mut passed = match &page.after {
            None => Passed::default(),
            Some(token) => {
                Passed::parse(token, tag).ok_or_else(|| QueryError::After(token.clone()))?
            }
        };
        let hits = Hits::new(self.index, filter, wanted, page.backwards, &passed);
        let mut hits = hits.map_err(QueryError::from)?;
        let mut left = page.limit;
        while let Some(hit) = hits.next().map_err(QueryError::from)? {
            if left == Some(0) {
                return Ok(Some(passed.token(tag)));
            }
            left = left.map(|left| left - 1);
            passed.note(hit.id);
            if !visit(self.event(&hit)?)? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Tells `visit` of the entries that have something which `filter` asks for, each once and whole, in order.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn entries<E: From<QueryError>>(
        &mut self,
        filter: &Filter,
        mut visit: impl FnMut(&Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let wanted = self.wanted(filter)?;
        let passed = Passed::default();
        let hits = Hits::new(self.index, filter, &wanted, false, &passed);
        let mut hits = hits.map_err(QueryError::from)?;
        let mut last = None;
        while let Some(hit) = hits.next().map_err(QueryError::from)? {
            let list = self
                .index
                .list(hit.id)
                .ok_or_else(|| moved("-", hit.entry))?;
            let (id, list) = (list.id, list.list.clone());
            if last.replace((id, hit.place)) != Some((id, hit.place)) {
                visit(self.entry(id, &list, &hit)?)?;
            }
        }
        Ok(())
    }

    /// [`Query::events`] of one container, by its number in the index, whatever containers and nodes `filter` asks for.
    pub(crate) fn events_of<E: From<QueryError>>(
        &mut self,
        container: i64,
        filter: &Filter,
        page: &Page,
        visit: impl FnMut(Event) -> Result<bool, E>,
    ) -> Result<Option<String>, E> {
        let ids = self
            .index
            .connection
            .prepare_cached("SELECT id FROM container WHERE id = ?1 OR became = ?1")
            .and_then(|mut statement| {
                let ids = statement.query_map([container], |row| row.get(0))?;
                ids.collect()
            })
            .map_err(QueryError::from)?;
        let wanted = Wanted {
            containers: Some(ids),
            ..self.wanted(filter)?
        };
        self.wanted_events(filter, &wanted, page, visit)
    }

    /// Of these lists, in this direction.
    fn tag(&self, backwards: bool) -> u32 {
        use sha2::{Digest as _, Sha256};
        let mut hash = Sha256::new();
        hash.update([u8::from(backwards)]);
        for list in &self.index.lists {
            let path = list.list.path.as_os_str().as_bytes();
            hash.update((path.len() as u64).to_le_bytes());
            hash.update(path);
        }
        let hash = hash.finalize();
        u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]])
    }

    /// The row of an event.
    pub(crate) fn hit(&self, id: i64) -> Result<Option<Hit>, QueryError> {
        Ok(Hit::of_id(&self.index.connection, id)?)
    }

    /// What an event is called: see [`Event::id`].
    pub(crate) fn event_name(&self, hit: &Hit) -> String {
        let list = self.index.list(hit.id);
        let node = list.map_or("-", |list| &list.list.node);
        let boot = list.and_then(|list| list.boot.as_deref());
        event::name(node, boot, hit.entry.cast_unsigned(), hit.nth)
    }

    /// An event, read from its list.
    pub(crate) fn event(&mut self, hit: &Hit) -> Result<Event, QueryError> {
        let index = self.index;
        let list = index.list(hit.id).ok_or_else(|| moved("-", hit.entry))?;
        let container = match hit.container {
            Some(id) => self.announced(id)?.and_then(Container::name),
            None => None,
        };
        let mut setting = Setting {
            node: list.list.node.clone(),
            boot_id: list.boot.clone(),
            entry: hit.entry.cast_unsigned(),
            clock: list.clock_at(hit.id),
            not_before: hit.wall,
            damaged: None,
            container,
        };
        let (id, list) = (list.id, list.list.clone());
        self.entry(id, &list, hit)?;
        let open = self.open.get(&id).ok_or_else(|| moved(&list, hit.entry))?;
        setting.damaged.clone_from(&open.damaged);
        let mut event = Event::of(&open.entry, hit.nth, &setting);
        if let (true, Some(container), Some(file)) =
            (event.digest.is_none(), hit.container, hit.file)
            && hit.nth.is_some()
        {
            let mut digests = self.digests(container, file)?.to_vec();
            match digests.len() {
                1 => event.digest = digests.pop(),
                _ => {
                    let more = digests.len().saturating_sub(DIGESTS);
                    event.more_digests = more as u64;
                    digests.truncate(DIGESTS);
                    event.digests = digests;
                }
            }
        }
        Ok(event)
    }

    /// The entry that an event is in.
    pub(crate) fn entry(&mut self, id: i64, list: &List, hit: &Hit) -> Result<&Entry, QueryError> {
        let (segment, offset) = segment_and_offset(hit.place);
        let at = At {
            segment,
            offset,
            entry: hit.entry.cast_unsigned(),
        };
        if self.open.len() >= OPEN && !self.open.contains_key(&id) {
            self.open.clear();
        }
        let is_next = |open: &Open| {
            let next = open.records.at();
            open.place == Some(hit.place) || (next.segment, next.offset) == (segment, offset)
        };
        if !self.open.get(&id).is_some_and(is_next) {
            let open = Open {
                records: Records::new(list, at)?,
                entry: Entry::default(),
                damaged: None,
                place: None,
            };
            self.open.insert(id, open);
        }
        let open = self
            .open
            .get_mut(&id)
            .ok_or_else(|| moved(list, hit.entry))?;
        if open.place != Some(hit.place) {
            open.place = None;
            match open.records.read(&mut open.entry) {
                Some(Ok(read)) if (read.segment, read.offset) == (segment, offset) => {}
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(_)) | None => return Err(moved(list, hit.entry)),
            }
            open.damaged = event::damage(&open.entry);
            open.place = Some(hit.place);
        }
        Ok(&open.entry)
    }

    /// A container, by its number in the index.
    pub(crate) fn container(&mut self, id: i64) -> Result<Option<&Container>, QueryError> {
        if !self.containers.contains_key(&id) {
            let sql = format!("SELECT {} FROM container WHERE id = ?1", Container::COLUMNS);
            let mut statement = self.index.connection.prepare_cached(&sql)?;
            let mut rows = statement.query([id])?;
            if let Some(row) = rows.next()? {
                self.containers.insert(id, Container::of_row(row)?);
            }
        }
        Ok(self.containers.get(&id))
    }

    /// A container, or what it was announced as.
    pub(crate) fn announced(&mut self, id: i64) -> Result<Option<&Container>, QueryError> {
        match self.container(id)?.and_then(|container| container.became) {
            Some(became) => self.container(became),
            None => self.container(id),
        }
    }

    /// The digests that a container mapped under the path of a file whose own is not said.
    fn digests(&mut self, container: i64, file: i64) -> Result<&[String], QueryError> {
        if !self.digests.contains_key(&(container, file)) {
            if self.digests.len() >= REMEMBERED {
                self.digests.clear();
            }
            let mut statement = self.index.connection.prepare_cached(
                "SELECT DISTINCT other.digest FROM file own JOIN file other ON other.path = own.path \
                 JOIN sighting ON sighting.file = other.id AND sighting.container IN \
                 (SELECT own.id FROM container own JOIN container this ON this.id = ?1 \
                  WHERE own.id = coalesce(this.became, this.id) OR own.became = coalesce(this.became, this.id)) \
                 WHERE own.id = ?2 AND other.digest IS NOT NULL ORDER BY 1",
            )?;
            let rows = statement.query_map([container, file], |row| row.get(0))?;
            let digests = rows.collect::<Result<_, _>>()?;
            self.digests.insert((container, file), digests);
        }
        Ok(self
            .digests
            .get(&(container, file))
            .map_or(&[], Vec::as_slice))
    }

    /// What a filter comes to here.
    pub(crate) fn wanted(&mut self, filter: &Filter) -> Result<Wanted, QueryError> {
        let containers = match filter.containers.is_empty() && filter.images.is_empty() {
            true => None,
            false => {
                let ids = self.containers(filter, filter.containers.is_empty())?;
                Some(ids.into_iter().map(|container| container.id).collect())
            }
        };
        let files = match filter.is_of_files() {
            true => Some(self.files_of(filter)?),
            false => None,
        };
        Ok(Wanted { containers, files })
    }

    /// The containers of the nodes, ids, names and images that are asked for, and behind each what it was before it was announced; if
    /// `of_images`, also what stands for any of an image.
    pub(crate) fn containers(
        &self,
        filter: &Filter,
        of_images: bool,
    ) -> Result<Vec<Container>, QueryError> {
        let sql = format!(
            "SELECT {} FROM container ORDER BY coalesce(became, id), became IS NOT NULL",
            Container::COLUMNS
        );
        let mut statement = self.index.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        let mut known = HashSet::new();
        while let Some(row) = rows.next()? {
            let container = Container::of_row(row)?;
            let of_sort = match container.sort {
                REGISTERED | UNANNOUNCED => true,
                OF_IMAGE => of_images,
                _ => false,
            };
            let of_node = || {
                let list = self.index.list(super::index::event_id(container.list, 0));
                list.is_some_and(|list| filter.node(&list.list.node))
            };
            let became = container.became.is_some_and(|id| known.contains(&id));
            let is_one = container.became.is_none()
                && of_sort
                && filter.container(&container.cid, &container.name)
                && filter.image(&container.image, &[&container.reference])
                && of_node();
            if is_one {
                known.insert(container.id);
            }
            if is_one || became {
                found.push(container);
            }
        }
        Ok(found)
    }

    /// The files that are asked for.
    pub(crate) fn files_of(&self, filter: &Filter) -> Result<Files, QueryError> {
        let mut files = Files::default();
        let named = self.named_files(filter)?;
        let connection = &self.index.connection;
        let mut seen =
            connection.prepare_cached("SELECT container FROM sighting WHERE file = ?1")?;
        let mut bare =
            connection.prepare_cached("SELECT id FROM file WHERE path = ?1 AND digest IS NULL")?;
        for (id, path, digest) in named {
            let containers = seen.query_map([id], |row| row.get(0))?;
            let containers: HashSet<i64> = containers.collect::<Result<_, _>>()?;
            files.containers.extend(&containers);
            files.any.insert(id);
            if digest.is_some() && !filter.digests.is_empty() {
                let bare = bare.query_map(params![path], |row| row.get(0))?;
                for bare in bare {
                    files.within.entry(bare?).or_default().extend(&containers);
                }
            }
        }
        Ok(files)
    }

    /// Number, path and digest of the files that are asked for by either.
    pub(crate) fn named_files(&self, filter: &Filter) -> Result<Vec<NamedFile>, QueryError> {
        let mut found = Vec::new();
        let mut known = HashSet::new();
        for (sql, values) in ways(filter) {
            let mut statement = self.index.connection.prepare_cached(sql)?;
            let mut rows = statement.query(rusqlite::params_from_iter(values))?;
            while let Some(row) = rows.next()? {
                let (id, path): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
                let digest: Option<String> = row.get(2)?;
                if filter.file(&path, digest.as_deref()) && known.insert(id) {
                    found.push((id, path, digest));
                }
            }
        }
        Ok(found)
    }
}

impl Container {
    /// As an event names it; `None`: it is the host.
    pub(crate) fn name(&self) -> Option<ContainerName> {
        if self.sort == HOST {
            return None;
        }
        Some(ContainerName {
            id: self.cid.clone(),
            name: self.name.clone(),
            image: match self.image.as_str() {
                "unregistered" => String::new(),
                image => image.to_owned(),
            },
            image_name: self.reference.clone(),
            number: self.number.map(i64::cast_unsigned),
            mnt_ns: self.inode.map(i64::cast_unsigned),
        })
    }
}

type Way = (&'static str, Vec<rusqlite::types::Value>);

/// How to find files: by digest, by path, or all of them.
fn ways(filter: &Filter) -> Vec<Way> {
    const BY_DIGEST: &str = "SELECT id, path, digest FROM file WHERE digest >= ?1 AND digest < ?2";
    const BY_PATH: &str = "SELECT id, path, digest FROM file WHERE path >= ?1 AND path < ?2";
    if !filter.digests.is_empty() {
        let ranges = filter.digests.iter().flat_map(DigestPattern::ranges);
        return ranges
            .map(|(from, to)| (BY_DIGEST, vec![from.into(), to.into()]))
            .collect();
    }
    match filter.path_prefixes() {
        None => vec![("SELECT id, path, digest FROM file", Vec::new())],
        Some(prefixes) => prefixes
            .into_iter()
            .map(|prefix| {
                let from = prefix.as_bytes().to_vec();
                let mut to = from.clone();
                // A text has no byte of 0xff.
                if let Some(last) = to.last_mut() {
                    *last += 1;
                }
                (BY_PATH, vec![from.into(), to.into()])
            })
            .collect(),
    }
}

fn moved(list: impl std::fmt::Display, entry: i64) -> QueryError {
    QueryError::Moved {
        list: list.to_string(),
        entry: entry.cast_unsigned(),
    }
}
