// SPDX-License-Identifier: Apache-2.0
//! Events as they come, without an index: entry by entry, with what is remembered of containers so far.

use std::collections::HashMap;

use ima_log::{Entry, EscapedName};

use super::{
    ContainerName, Event, Filter, Index,
    event::{Setting, damage},
    fact::{Fact, Home, News, facts},
    index::{Indexed, event_id, home_of, named},
};

/// A list as it grows.
#[derive(Debug, Default)]
pub struct Live {
    node: String,
    boot_id: Option<String>,
    clock: Option<i64>,
    /// Microseconds since 1970 of the last event.
    last_us: Option<i64>,
    containers: HashMap<Home, ContainerName>,
    /// Which namespaces are registered containers'.
    namespaces: HashMap<Home, Home>,
}

impl Live {
    /// The list of a node of which nothing is known.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            ..Self::default()
        }
    }

    /// Remembers what an index of the node's lists knows of this boot.
    ///
    /// # Errors
    /// See [`super::IndexError`].
    pub fn remembering(mut self, index: &Index, boot_id: &str) -> Result<Self, super::QueryError> {
        let is_own =
            |list: &&Indexed| list.list.node == self.node && list.boot.as_deref() == Some(boot_id);
        let Some(list) = index.lists.iter().find(is_own) else {
            return Ok(self);
        };
        self.boot_id.clone_from(&list.boot);
        self.clock = list.clock_at(event_id(list.id, list.rows));
        self.last_us = list.ends;
        let all = super::Query::new(index).containers(&Filter::default(), false)?;
        let own = all.iter().filter(|own| own.list == list.id);
        let named = own.filter_map(|own| Some((home_of(own), own.name()?)));
        self.containers = named.collect();
        Ok(self)
    }

    /// Tells `visit` of what the entry of that number says, as far as `filter` asks for it.
    pub fn take(
        &mut self,
        number: u64,
        entry: &Entry,
        filter: &Filter,
        visit: &mut dyn FnMut(Event),
    ) {
        let damaged = damage(entry);
        facts(entry, &mut |fact| {
            self.learn(&fact);
            let home = self.namespaces.get(&fact.home).unwrap_or(&fact.home);
            let container = self.containers.get(home).cloned();
            if self.is_wanted(&fact, container.as_ref(), filter) {
                let setting = Setting {
                    node: self.node.clone(),
                    boot_id: self.boot_id.clone(),
                    entry: number,
                    clock: self.clock,
                    not_before: self.last_us,
                    damaged: damaged.clone(),
                    container,
                };
                visit(Event::of(entry, fact.nth, &setting));
            }
        });
    }

    fn learn(&mut self, fact: &Fact<'_>) {
        match &fact.news {
            News::Start(start) => {
                self.clock = Some(start.realtime_offset_ns);
                self.boot_id = Some(EscapedName(start.boot_id.as_bytes()).to_string());
            }
            News::Created(created) => {
                if let Some(name) = named(created).name() {
                    self.containers.insert(fact.home.clone(), name);
                }
                let (inode, generation) = (created.mnt_ns, created.mnt_generation);
                let namespace = Home::Namespace { inode, generation };
                self.namespaces.insert(namespace, fact.home.clone());
            }
            News::None | News::Gone(_) | News::Ended(_) => {}
        }
        if let Home::Namespace { inode, .. } = &fact.home {
            let name = self.containers.entry(fact.home.clone()).or_default();
            name.mnt_ns = Some(u64::from(*inode));
            if name.id.is_empty() {
                name.id = EscapedName(fact.hint.as_bytes()).to_string();
            }
        }
        let wall = |ns: u64| i64::try_from(ns).ok()?.checked_add(self.clock?);
        self.last_us = fact
            .time_ns
            .and_then(wall)
            .map(|ns| ns / 1000)
            .or(self.last_us);
    }

    fn is_wanted(
        &self,
        fact: &Fact<'_>,
        container: Option<&ContainerName>,
        filter: &Filter,
    ) -> bool {
        let of_container = match container {
            None => filter.containers.is_empty() && filter.images.is_empty(),
            Some(own) => {
                filter.container(&own.id, &own.name) && filter.image(&own.image, &[&own.image_name])
            }
        };
        let of_kind = match filter.kinds.is_empty() {
            true => !fact.kind.is_repetition(),
            false => filter.kinds.contains(&fact.kind),
        };
        let digest = fact.digest.map(|digest| digest.to_string());
        let of_pid = || fact.pid.is_some_and(|pid| filter.pids.contains(&pid));
        of_kind
            && of_container
            && (!filter.violations || fact.violation)
            && (filter.pids.is_empty() || of_pid())
            && filter.user(fact.uid, fact.login_uid)
            && filter.node(&self.node)
            && filter.time(self.last_us.map(|us| us.saturating_mul(1000)))
            && (!filter.is_of_files() || filter.file(&fact.path, digest.as_deref()))
    }
}
