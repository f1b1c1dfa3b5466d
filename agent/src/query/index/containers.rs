// SPDX-License-Identifier: Apache-2.0
//! The containers of a list, as its events tell of them.

use std::collections::HashMap;

use ima_log::EscapedName;
use rusqlite::{Connection, Row as SqlRow, params};

use super::{IndexError, build::Row};
use crate::{
    containers::Provenance,
    measure::proto,
    query::{
        Kind,
        fact::{Home, News},
    },
};

/// What [`Container::sort`] may be.
pub(crate) const REGISTERED: i64 = 0;
pub(crate) const UNANNOUNCED: i64 = 1;
pub(crate) const OF_IMAGE: i64 = 2;
pub(crate) const HOST: i64 = 3;

/// A row of the table `container`.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Container {
    pub(crate) id: i64,
    pub(crate) list: i64,
    pub(crate) sort: i64,
    pub(crate) became: Option<i64>,
    pub(crate) number: Option<i64>,
    pub(crate) inode: Option<i64>,
    pub(crate) generation: Option<i64>,
    pub(crate) cid: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) reference: String,
    pub(crate) created: Option<i64>,
    pub(crate) allowed: Option<bool>,
    pub(crate) created_us: Option<i64>,
    pub(crate) gone_us: Option<i64>,
    pub(crate) gone: Option<i32>,
    pub(crate) first_us: Option<i64>,
    pub(crate) last_us: Option<i64>,
    pub(crate) pid: Option<i64>,
    pub(crate) status: Option<i64>,
    pub(crate) executions: i64,
    pub(crate) events: i64,
    pub(crate) violations: i64,
}

impl Container {
    /// The columns that [`Container::of_row`] reads, in its order.
    pub(crate) const COLUMNS: &str = "id, list, sort, became, number, inode, generation, cid, name, image, reference, created, allowed, \
         created_us, gone_us, gone, first_us, last_us, pid, status, executions, events, violations";

    pub(crate) fn of_row(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            list: row.get(1)?,
            sort: row.get(2)?,
            became: row.get(3)?,
            number: row.get(4)?,
            inode: row.get(5)?,
            generation: row.get(6)?,
            cid: row.get(7)?,
            name: row.get(8)?,
            image: row.get(9)?,
            reference: row.get(10)?,
            created: row.get(11)?,
            allowed: row.get(12)?,
            created_us: row.get(13)?,
            gone_us: row.get(14)?,
            gone: row.get(15)?,
            first_us: row.get(16)?,
            last_us: row.get(17)?,
            pid: row.get(18)?,
            status: row.get(19)?,
            executions: row.get(20)?,
            events: row.get(21)?,
            violations: row.get(22)?,
        })
    }

    fn insert(&mut self, connection: &Connection) -> Result<(), IndexError> {
        self.id = connection
            .prepare_cached(
                "INSERT INTO container (list, sort, number, inode, generation, cid, name, image, reference, executions, \
                 events, violations) VALUES (?1, ?2, ?3, ?4, ?5, ?6, '', ?7, '', 0, 0, 0)",
            )?
            .insert(params![
                self.list,
                self.sort,
                self.number,
                self.inode,
                self.generation,
                self.cid,
                self.image,
            ])?;
        Ok(())
    }

    fn update(&self, connection: &Connection) -> Result<(), IndexError> {
        connection
            .prepare_cached(
                "UPDATE container SET cid=?2, name=?3, image=?4, reference=?5, created=?6, allowed=?7, created_us=?8, \
                 gone_us=?9, gone=?10, first_us=?11, last_us=?12, pid=?13, status=?14, executions=?15, events=?16, \
                 violations=?17, became=?18, inode=?19, generation=?20 WHERE id=?1",
            )?
            .execute(params![
                self.id,
                self.cid,
                self.name,
                self.image,
                self.reference,
                self.created,
                self.allowed,
                self.created_us,
                self.gone_us,
                self.gone,
                self.first_us,
                self.last_us,
                self.pid,
                self.status,
                self.executions,
                self.events,
                self.violations,
                self.became,
                self.inode,
                self.generation,
            ])?;
        Ok(())
    }

    fn count(&mut self, row: &Row, wall: Option<i64>) {
        self.events += 1;
        self.violations += i64::from(row.violation);
        self.executions += i64::from(row.kind == Kind::Exec);
        if wall.is_some() {
            self.first_us = self.first_us.or(wall);
            self.last_us = self.last_us.max(wall);
        }
        if self.cid.is_empty() && !row.hint.is_empty() {
            self.cid = shown(row.hint.as_bytes());
        }
        match &row.news {
            News::Gone(gone) => {
                self.gone_us = wall;
                self.gone = Some(gone.cause);
            }
            News::Ended(status) => {
                let is_first = self.pid == row.pid.map(i64::from);
                if is_first || self.sort == UNANNOUNCED {
                    self.status = Some((*status).into());
                }
            }
            News::None | News::Start(_) | News::Created(_) => {}
        }
    }

    /// Takes what its making says. What is said twice of one number is the hostile node's affair: the last counts.
    fn made(&mut self, created: &proto::Created, event: i64, wall: Option<i64>) {
        self.cid = shown(created.id.as_bytes());
        self.image = match <[u8; 32]>::try_from(&created.image[..]) {
            Ok(bytes) => format!("sha256:{}", hex::encode(bytes)),
            Err(_) => "unmeasured".to_owned(),
        };
        self.created = Some(event);
        self.allowed = Some(created.allowed);
        self.created_us = wall;
        self.pid = Some(created.init_tgid.into());
        self.inode = Some(created.mnt_ns.into());
        self.generation = Some(created.mnt_generation.cast_signed());
        let input: serde_json::Value = serde_json::from_str(&created.input).unwrap_or_default();
        let text = |pointer: &str| {
            let text = input.pointer(pointer).and_then(serde_json::Value::as_str);
            shown(text.unwrap_or_default().as_bytes())
        };
        self.name = text("/container/name");
        self.reference = text("/image/reference");
    }
}

/// Bytes of a name that are kept: it is in each answer that names its container.
const NAME: usize = 1024;

/// Escaped once, on the way in: what is in the tables can be shown.
fn shown(bytes: &[u8]) -> String {
    match bytes.split_at_checked(NAME) {
        None => EscapedName(bytes).to_string(),
        Some((start, rest)) => format!("{}... ({} more bytes)", EscapedName(start), rest.len()),
    }
}

/// Those of one list.
#[derive(Debug, Default)]
pub(super) struct Containers {
    own: HashMap<Home, Container>,
    /// Which namespaces are registered containers', whatever the registry knows of them: before they were announced, and after it
    /// forgot them.
    namespaces: HashMap<Home, Home>,
    /// The boot that the last Start names.
    pub(super) boot: Option<String>,
}

impl Containers {
    pub(super) fn load(connection: &Connection, list: i64) -> Result<Self, IndexError> {
        let sql = format!(
            "SELECT {} FROM container WHERE list = ?1",
            Container::COLUMNS
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let rows = statement.query_map([list], Container::of_row)?;
        let mut containers = Self::default();
        for container in rows {
            let container = container?;
            let home = home_of(&container);
            if let (REGISTERED, Some(namespace)) = (container.sort, namespace(&container)) {
                containers.namespaces.insert(namespace, home.clone());
            }
            containers.own.insert(home, container);
        }
        Ok(containers)
    }

    /// Counts the row for its container; gives that one's number.
    pub(super) fn take(
        &mut self,
        connection: &Connection,
        list: i64,
        event: i64,
        wall: Option<i64>,
        row: &Row,
    ) -> Result<Option<i64>, IndexError> {
        if let News::Start(start) = &row.news {
            self.boot = Some(shown(start.boot_id.as_bytes()));
        }
        if row.home == Home::Nowhere {
            return Ok(None);
        }
        let of_namespace = match row.home {
            Home::Namespace { .. } => self.namespaces.get(&row.home).cloned(),
            _ => None,
        };
        let home = of_namespace.as_ref().unwrap_or(&row.home);
        if !self.own.contains_key(home) {
            let mut container = of_home(home, list);
            container.insert(connection)?;
            self.own.insert(home.clone(), container);
        }
        let Some(container) = self.own.get_mut(home) else {
            return Ok(None);
        };
        container.count(row, wall);
        let id = container.id;
        if let News::Created(created) = &row.news {
            container.made(created, event, wall);
            self.announced(home.clone());
        }
        Ok(Some(id))
    }

    /// What happened in its namespace before was already its own.
    fn announced(&mut self, home: Home) {
        let Some(own) = self.own.get(&home) else {
            return;
        };
        let Some(namespace) = namespace(own) else {
            return;
        };
        let id = own.id;
        let before = self.own.get_mut(&namespace);
        let before = before.filter(|before| before.became.is_none());
        if let Some(before) = before {
            before.became = Some(id);
            let counts = (before.executions, before.events, before.violations);
            let first_us = before.first_us;
            if let Some(own) = self.own.get_mut(&home) {
                own.executions += counts.0;
                own.events += counts.1;
                own.violations += counts.2;
                own.first_us = first_us.or(own.first_us);
            }
        }
        self.namespaces.insert(namespace, home);
    }

    pub(super) fn flush(&self, connection: &Connection) -> Result<(), IndexError> {
        let mut own = self.own.values();
        own.try_for_each(|container| container.update(connection))
    }
}

fn of_home(home: &Home, list: i64) -> Container {
    let mut container = Container {
        list,
        ..Container::default()
    };
    match home {
        Home::Nowhere => {}
        Home::Host => container.sort = HOST,
        Home::Registered(number) => {
            container.sort = REGISTERED;
            container.number = Some(number.cast_signed());
        }
        Home::Namespace { inode, generation } => {
            container.sort = UNANNOUNCED;
            container.inode = Some((*inode).into());
            container.generation = Some(generation.cast_signed());
        }
        Home::Image(provenance) => {
            container.sort = OF_IMAGE;
            container.image = provenance.to_string();
        }
    }
    container
}

/// The mount namespace of a container; `None`: it is not known.
fn namespace(container: &Container) -> Option<Home> {
    let inode = u32::try_from(container.inode?).ok()?;
    let generation = container.generation?.cast_unsigned();
    (generation != 0).then_some(Home::Namespace { inode, generation })
}

/// A container as its making tells of it.
pub(crate) fn named(created: &proto::Created) -> Container {
    let mut container = of_home(&Home::Registered(created.container), 0);
    container.made(created, 0, None);
    container
}

/// [`of_home`] taken back.
pub(crate) fn home_of(container: &Container) -> Home {
    match container.sort {
        REGISTERED => Home::Registered(container.number.unwrap_or(0).cast_unsigned()),
        UNANNOUNCED => Home::Namespace {
            inode: container
                .inode
                .and_then(|inode| inode.try_into().ok())
                .unwrap_or(0),
            generation: container.generation.unwrap_or(0).cast_unsigned(),
        },
        HOST => Home::Host,
        _ => Home::Image(match container.image.parse() {
            Ok(image) => Provenance::Image(image),
            Err(_) if container.image == "unmeasured" => Provenance::Unmeasured,
            Err(_) => Provenance::Unregistered,
        }),
    }
}
