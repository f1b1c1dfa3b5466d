// SPDX-License-Identifier: Apache-2.0
//! Files that were executed: which there were, and where each was.

use std::collections::{BTreeSet, HashSet};

use rusqlite::params;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    ContainerName, Filter, Query, QueryError, VERSION, cursor::Hit, event::shown, index::OF_IMAGE,
    moment,
};

/// An executable: one content under one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct File {
    /// Of this JSON: 1.
    pub v: u32,
    /// As containers see it.
    pub path: String,
    /// As the kernel took it, `<algorithm>:<hex>`; absent: it could not be taken, or the list does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When it was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<String>,
    /// When it was last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// On which nodes.
    pub nodes: Vec<String>,
    /// In how many containers.
    pub containers: u64,
    /// Executions of this path in these containers. Where a container had other contents under it, too, theirs are among them.
    pub executions: u64,
}

/// A place where a file was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Sighting {
    /// Of this JSON: 1.
    pub v: u32,
    /// The digest that was looked for, whole.
    pub digest: String,
    /// As the container sees it; absent: the digest is the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The node.
    pub node: String,
    /// The boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Which container; with nothing but an image: it is not told which.
    pub container: ContainerName,
    /// When it was first seen there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<String>,
    /// When it was last seen there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// The event that tells of it first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_event: Option<String>,
}

/// A file and what was seen of it in one container.
struct Seen {
    container: i64,
    first: i64,
    last: i64,
    count: i64,
}

impl Query<'_> {
    /// Tells `visit` of each executable that `filter` asks for, until it says false.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn files<E: From<QueryError>>(
        &mut self,
        filter: &Filter,
        mut visit: impl FnMut(File) -> Result<bool, E>,
    ) -> Result<(), E> {
        let containers = self.of_filter(filter)?;
        let files = self.named_files(filter)?;
        for (id, path, digest) in files {
            let mut seen = self.seen(id, containers.as_ref(), filter)?;
            if digest.is_none() {
                self.without_digest(&path, &mut seen)?;
            }
            if seen.iter().all(|seen| seen.count == 0) {
                continue;
            }
            let file = self.file(&path, digest, &seen)?;
            if !visit(file)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Where files of these digests were, and which containers were of images of these digests.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn whereis(&mut self, filter: &Filter) -> Result<Vec<Sighting>, QueryError> {
        let containers = self.of_filter(filter)?;
        let mut sightings = Vec::new();
        for (id, path, digest) in self.named_files(filter)? {
            let Some(digest) = digest else { continue };
            let seen = self.seen(id, containers.as_ref(), filter)?;
            for seen in seen.iter().filter(|seen| seen.count > 0) {
                if let Some(sighting) = self.sighting(&digest, Some(&path), seen)? {
                    sightings.push((seen.container, sighting));
                }
            }
        }
        self.without_repetition(&mut sightings)?;
        let mut sightings: Vec<_> = sightings.into_iter().map(|(_, own)| own).collect();
        sightings.extend(self.of_images(filter)?);
        sightings.sort_by(|one, other| {
            let key = |own: &Sighting| (own.first_seen.clone(), own.node.clone());
            key(one).cmp(&key(other))
        });
        Ok(sightings)
    }

    /// What is listed for verifiers names an image and no container: it says nothing where a container of it is told of.
    fn without_repetition(&mut self, own: &mut Vec<(i64, Sighting)>) -> Result<(), QueryError> {
        let key = |own: &Sighting| {
            let image = own.container.image.clone();
            (
                own.node.clone(),
                own.boot_id.clone(),
                image,
                own.path.clone(),
            )
        };
        let (mut told, mut of_image) = (HashSet::new(), HashSet::new());
        for (id, sighting) in own.iter() {
            match self.container(*id)?.map(|container| container.sort) {
                Some(OF_IMAGE) => drop(of_image.insert(*id)),
                _ => drop(told.insert(key(sighting))),
            }
        }
        own.retain(|(id, sighting)| !(of_image.contains(id) && told.contains(&key(sighting))));
        Ok(())
    }

    /// The containers whose image has such a digest.
    fn of_images(&mut self, filter: &Filter) -> Result<Vec<Sighting>, QueryError> {
        let last = self.last_boots();
        let mut found = Vec::new();
        for container in self.containers(filter, false)? {
            if container.became.is_some() || !filter.digest(&container.image) {
                continue;
            }
            if let Some(summary) = self.summary(&container, &last) {
                found.push(Sighting {
                    v: VERSION,
                    digest: container.image.clone(),
                    path: None,
                    node: summary.node,
                    boot_id: summary.boot_id,
                    container: summary.container,
                    first_seen: summary.first_seen,
                    last_seen: summary.last_seen,
                    first_event: None,
                });
            }
        }
        Ok(found)
    }

    /// Containers that a filter names; `None`: any.
    fn of_filter(&mut self, filter: &Filter) -> Result<Option<HashSet<i64>>, QueryError> {
        let any =
            filter.containers.is_empty() && filter.images.is_empty() && filter.nodes.is_empty();
        if any {
            return Ok(None);
        }
        let of_images = filter.containers.is_empty();
        let found = self.containers(filter, of_images)?;
        Ok(Some(found.into_iter().map(|own| own.id).collect()))
    }

    /// Where a file was seen, within the containers and times that are asked for.
    fn seen(
        &mut self,
        file: i64,
        containers: Option<&HashSet<i64>>,
        filter: &Filter,
    ) -> Result<Vec<Seen>, QueryError> {
        let mut statement = self.index.connection.prepare_cached(
            "SELECT container, first, last, count FROM sighting WHERE file = ?1 ORDER BY container",
        )?;
        let mut rows = statement.query([file])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let seen = Seen {
                container: row.get(0)?,
                first: row.get(1)?,
                last: row.get(2)?,
                count: row.get(3)?,
            };
            let is_wanted = containers.is_none_or(|own| own.contains(&seen.container));
            if is_wanted && self.is_of_time(&seen, filter)? {
                found.push(seen);
            }
        }
        Ok(found)
    }

    /// Whether it was seen at some time that is asked for, as far as its first and last time tell.
    fn is_of_time(&self, seen: &Seen, filter: &Filter) -> Result<bool, QueryError> {
        if filter.since.is_none() && filter.until.is_none() {
            return Ok(true);
        }
        let (first, last) = (self.wall(seen.first)?, self.wall(seen.last)?);
        let until = filter
            .until
            .is_none_or(|until| first.is_none_or(|own| own < until));
        let since = filter
            .since
            .is_none_or(|since| last.is_none_or(|own| own >= since));
        Ok(until && since)
    }

    /// When an event was, ns since 1970.
    fn wall(&self, event: i64) -> Result<Option<i64>, QueryError> {
        let time: Option<i64> = self
            .index
            .connection
            .prepare_cached("SELECT time FROM event WHERE id = ?1")?
            .query_row([event], |row| row.get(0))?;
        let clock = self.index.list(event).and_then(|list| list.clock_at(event));
        let wall = time.and_then(|us| us.checked_mul(1000)?.checked_add(clock.unwrap_or(0)));
        Ok(wall)
    }

    /// Leaves the containers of which no content under this path is known: with a digest more is said.
    fn without_digest(&self, path: &[u8], seen: &mut Vec<Seen>) -> Result<(), QueryError> {
        let mut statement = self.index.connection.prepare_cached(
            "SELECT 1 FROM file JOIN sighting ON sighting.file = file.id AND sighting.container = ?2 \
             WHERE file.path = ?1 AND file.digest IS NOT NULL LIMIT 1",
        )?;
        let mut left = Vec::new();
        for seen in seen.drain(..) {
            if !statement.exists(params![path, seen.container])? {
                left.push(seen);
            }
        }
        *seen = left;
        Ok(())
    }

    fn file(
        &mut self,
        path: &[u8],
        digest: Option<String>,
        seen: &[Seen],
    ) -> Result<File, QueryError> {
        let mut bare = self.index.connection.prepare_cached(
            "SELECT sighting.first, sighting.last, sighting.count FROM file JOIN sighting ON sighting.file = file.id AND \
             sighting.container = ?2 WHERE file.path = ?1 AND file.digest IS NULL",
        )?;
        let mut nodes = BTreeSet::new();
        let (mut first, mut last): (Option<i64>, Option<i64>) = (None, None);
        let (mut executions, mut containers) = (0, HashSet::new());
        for own in seen {
            let mut ends = vec![own.first, own.last];
            if digest.is_none() {
                executions += own.count;
            } else {
                let mut rows = bare.query(params![path, own.container])?;
                if let Some(row) = rows.next()? {
                    ends.extend([row.get::<_, i64>(0)?, row.get(1)?]);
                    executions += row.get::<_, i64>(2)?;
                }
            }
            for end in ends {
                let wall = self.wall(end)?;
                first = [first, wall].into_iter().flatten().min();
                last = last.max(wall);
            }
            if let Some(list) = self.index.list(own.first) {
                nodes.insert(list.list.node.clone());
            }
            match self.container(own.container)? {
                // Started again, it is still the same.
                Some(container) if container.sort != OF_IMAGE && !container.cid.is_empty() => {
                    containers.insert(container.cid.clone());
                }
                Some(container) if container.sort != OF_IMAGE => {
                    containers.insert(container.id.to_string());
                }
                _ => {}
            }
        }
        Ok(File {
            v: VERSION,
            path: shown(path),
            digest,
            first_seen: first.map(moment::show),
            last_seen: last.map(moment::show),
            nodes: nodes.into_iter().collect(),
            containers: containers.len() as u64,
            executions: executions.cast_unsigned(),
        })
    }

    fn sighting(
        &mut self,
        digest: &str,
        path: Option<&[u8]>,
        seen: &Seen,
    ) -> Result<Option<Sighting>, QueryError> {
        let (first, last) = (self.wall(seen.first)?, self.wall(seen.last)?);
        let name = self
            .announced(seen.container)?
            .and_then(super::index::Container::name);
        let Some(list) = self.index.list(seen.first) else {
            return Ok(None);
        };
        let (node, boot_id) = (list.list.node.clone(), list.boot.clone());
        let hit: Option<Hit> = self.hit(seen.first)?;
        let first_event = hit.map(|hit| self.event_name(&hit));
        Ok(name.map(|container| Sighting {
            v: VERSION,
            digest: digest.to_owned(),
            path: path.map(shown),
            node,
            boot_id,
            container,
            first_seen: first.map(moment::show),
            last_seen: last.map(moment::show),
            first_event,
        }))
    }
}
