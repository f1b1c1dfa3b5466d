// SPDX-License-Identifier: Apache-2.0
//! Containers in a line each: who lived, of which image, and whether anything was wrong.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    ContainerName, Filter, Query, QueryError, VERSION,
    event::of_gone,
    index::{Container, UNANNOUNCED, event_id},
    moment,
};

/// A container as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Summary {
    /// Of this JSON: 1.
    pub v: u32,
    /// The node.
    pub node: String,
    /// The boot, as the list says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Which.
    pub container: ContainerName,
    /// Whether it lives.
    pub state: State,
    /// What is to be thought of it, by the list alone.
    pub verdict: Standing,
    /// When it was made: RFC 3339 in UTC, as all times here, by the node's own clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When it was no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone: Option<String>,
    /// How: `stopped`, `ended`, `ended unseen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
    /// With what its first process ended, as `wait(2)` gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u32>,
    /// When the first event was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<String>,
    /// When the last event was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// Its first process, in the initial pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Programs executed.
    pub executions: u64,
    /// Events of any kind.
    pub events: u64,
    /// Events that should not have been.
    pub violations: u64,
}

/// Whether a container lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The list knows of no end.
    Alive,
    /// It ended.
    Gone,
    /// It was refused, and never ran.
    Refused,
    /// The list knows of no end, but there is a later boot.
    BootOver,
}

/// What is to be thought of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Its image was measured, it was allowed, and nothing was wrong.
    Clean,
    /// Something in it should not have been.
    Violations,
    /// Its image could not be measured.
    Unmeasured,
    /// Nobody announced it.
    Unannounced,
    /// The policy denied it.
    Denied,
}

impl State {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::BootOver => "boot-over",
        }
    }
}

impl Standing {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Violations => "violations",
            Self::Unmeasured => "unmeasured",
            Self::Unannounced => "unannounced",
            Self::Denied => "denied",
        }
    }
}

impl Query<'_> {
    /// The containers that `filter` asks for, those that began first first; with a time, those that lived then.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn summaries(&mut self, filter: &Filter) -> Result<Vec<Summary>, QueryError> {
        let summaries = self.summarised(filter)?.into_iter();
        Ok(summaries.map(|(_, summary)| summary).collect())
    }

    /// [`Query::summaries`], each beside what the index has of it.
    pub(crate) fn summarised(
        &mut self,
        filter: &Filter,
    ) -> Result<Vec<(Container, Summary)>, QueryError> {
        let wanted = match filter.is_of_files() {
            true => Some(self.files_of(filter)?.containers),
            false => None,
        };
        let found = self.containers(filter, false)?;
        // What was seen before a container was announced is its own, too.
        let wanted = wanted.map(|mut wanted| {
            let became = found.iter().filter(|own| wanted.contains(&own.id));
            let became: Vec<_> = became.filter_map(|own| own.became).collect();
            wanted.extend(became);
            wanted
        });
        let last = self.last_boots();
        let mut summaries: Vec<_> = found
            .into_iter()
            .filter(|own| own.became.is_none())
            .filter(|own| {
                wanted
                    .as_ref()
                    .is_none_or(|wanted| wanted.contains(&own.id))
            })
            .filter(|own| !filter.violations || is_wrong(own))
            .filter(|own| lived(own, self.end(own, &last), filter))
            .filter_map(|own| Some((self.summary(&own, &last)?, own)))
            .map(|(summary, own)| (own, summary))
            .collect();
        summaries.sort_by_key(|(own, _)| own.first_us);
        Ok(summaries)
    }

    /// When a container was no more, microseconds since 1970; `None`: it lives, as far as is known.
    fn end(&self, own: &Container, last: &HashMap<&str, i64>) -> Option<i64> {
        if own.allowed == Some(false) {
            return own.created_us;
        }
        let list = self.index.list(event_id(own.list, 0))?;
        let is_last = last.get(list.list.node.as_str()) == Some(&list.id);
        own.gone_us.or(if is_last { None } else { list.ends })
    }

    /// The latest list of each node.
    pub(crate) fn last_boots(&self) -> HashMap<&str, i64> {
        let mut last: HashMap<&str, (Option<i64>, i64)> = HashMap::new();
        for list in &self.index.lists {
            let own = (list.ends, list.id);
            let latest = last.entry(&list.list.node).or_insert(own);
            *latest = own.max(*latest);
        }
        let lists = last.into_iter();
        lists.map(|(node, (_, list))| (node, list)).collect()
    }

    /// `None`: it is no container.
    pub(crate) fn summary(&self, own: &Container, last: &HashMap<&str, i64>) -> Option<Summary> {
        let list = self.index.list(event_id(own.list, 0))?;
        let time = |us: Option<i64>| us.and_then(|us| us.checked_mul(1000)).map(moment::show);
        let is_last = last.get(list.list.node.as_str()) == Some(&list.id);
        let number = |own: i64| u64::try_from(own).unwrap_or(0);
        Some(Summary {
            v: VERSION,
            node: list.list.node.clone(),
            boot_id: list.boot.clone(),
            container: own.name()?,
            state: match (own.allowed, own.gone_us) {
                (Some(false), _) => State::Refused,
                (_, Some(_)) => State::Gone,
                _ if is_last => State::Alive,
                _ => State::BootOver,
            },
            verdict: standing(own),
            created: time(own.created_us),
            gone: time(own.gone_us),
            how: own.gone.map(|cause| of_gone(cause).to_owned()),
            status: own.status.and_then(|status| status.try_into().ok()),
            first_seen: time(own.first_us),
            last_seen: time(own.last_us),
            pid: own.pid.and_then(|pid| pid.try_into().ok()),
            executions: number(own.executions),
            events: number(own.events),
            violations: number(own.violations),
        })
    }
}

fn standing(own: &Container) -> Standing {
    if own.sort == UNANNOUNCED {
        Standing::Unannounced
    } else if own.allowed == Some(false) {
        Standing::Denied
    } else if !own.image.starts_with("sha256:") {
        Standing::Unmeasured
    } else if own.violations > 0 {
        Standing::Violations
    } else {
        Standing::Clean
    }
}

fn is_wrong(own: &Container) -> bool {
    own.violations > 0 || own.sort == UNANNOUNCED
}

/// Whether it was there at some time that is asked for.
fn lived(own: &Container, end_us: Option<i64>, filter: &Filter) -> bool {
    let ns = |us: Option<i64>| us.map(|us| us.saturating_mul(1000));
    let begins = ns(own.created_us.or(own.first_us));
    let ends = ns(end_us);
    let before = |time: i64, until: i64| time < until;
    let until = filter
        .until
        .is_none_or(|until| begins.is_none_or(|own| before(own, until)));
    let since = filter
        .since
        .is_none_or(|since| ends.is_none_or(|own| !before(own, since)));
    until && since
}
