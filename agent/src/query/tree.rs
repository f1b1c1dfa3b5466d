// SPDX-License-Identifier: Apache-2.0
//! Who started whom.
//!
//! Made of executions and the ancestors they name. A hostile list may name ancestors in a circle, or a chain without end: every process
//! stands below one parent, and where that would close a circle it stands by itself and is marked.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Event, Filter, Kind, Page, Query, QueryError, VERSION};

/// A process, after its parent and before its children.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Branch {
    /// Of this JSON: 1.
    pub v: u32,
    /// The node.
    pub node: String,
    /// Generations above it that are here.
    pub depth: u32,
    /// In the initial pid namespace.
    pub pid: u32,
    /// When it began, nanoseconds since boot.
    pub start_ns: u64,
    /// What it was called last.
    pub comm: String,
    /// Its parent; absent: not known here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_pid: Option<u32>,
    /// Whether it is named as an ancestor of itself, so that its place is not known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub circle: bool,
    /// What it executed, in order.
    pub executions: Vec<Executed>,
}

/// A program that a process executed.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Executed {
    /// The event.
    pub event: String,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its digest, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What it was given.
    pub args: Vec<String>,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Who logged in; absent: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
}

/// Ancestors that are believed: Linux has no more than 4,194,304 processes at once, and no sane program such a chain.
const GENERATIONS: usize = 1024;

/// A process of a boot of a node: a number is used again, a start is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    boot: (String, Option<String>),
    start_ns: u64,
    pid: u32,
}

#[derive(Debug, Default)]
struct Known {
    comm: String,
    parent: Option<Key>,
    children: Vec<Key>,
    circle: bool,
    executions: Vec<Executed>,
}

/// A tree, and whether there was more than it was let have.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// Its processes, each behind its parent.
    pub branches: Vec<Branch>,
    /// Executions that were left out are behind this.
    pub more: Option<String>,
}

impl Branch {
    /// The processes of these executions.
    pub(crate) fn all_of(executions: impl IntoIterator<Item = Event>) -> Vec<Self> {
        let mut forest = Forest::default();
        executions.into_iter().for_each(|event| forest.take(event));
        forest.branches()
    }
}

impl Query<'_> {
    /// The processes of the first `limit` executions that `filter` asks for.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn tree(&mut self, filter: &Filter, page: &Page) -> Result<Tree, QueryError> {
        let mut filter = filter.clone();
        filter.kinds = vec![Kind::Exec];
        let mut forest = Forest::default();
        let more = self.events::<QueryError>(&filter, page, |event| {
            forest.take(event);
            Ok(true)
        })?;
        Ok(Tree {
            branches: forest.branches(),
            more,
        })
    }
}

#[derive(Debug, Default)]
struct Forest {
    known: HashMap<Key, Known>,
    /// In the order in which they were first named.
    order: Vec<Key>,
}

impl Forest {
    fn take(&mut self, event: Event) {
        let Some(process) = event.process else {
            return;
        };
        let boot = (event.node, event.boot_id);
        let key = |pid, start_ns| Key {
            boot: boot.clone(),
            start_ns,
            pid,
        };
        let own = key(process.pid, process.start_ns);
        let executed = Executed {
            event: event.id,
            time: event.time,
            path: event.path,
            digest: event.digest,
            args: event.args,
            uid: Some(process.uid),
            login_uid: process.login_uid,
        };
        let known = self.know(&own);
        known.comm = process.comm;
        known.executions.push(executed);
        let mut child = own;
        for ancestor in event.ancestors {
            let parent = key(ancestor.pid, ancestor.start_ns);
            let known = self.know(&parent);
            if known.comm.is_empty() {
                known.comm = ancestor.comm;
            }
            self.adopt(&child, &parent);
            child = parent;
        }
    }

    fn know(&mut self, key: &Key) -> &mut Known {
        if !self.known.contains_key(key) {
            self.order.push(key.clone());
        }
        self.known.entry(key.clone()).or_default()
    }

    /// The first parent that is named counts: later ones adopt orphans.
    fn adopt(&mut self, child: &Key, parent: &Key) {
        let is_orphan = |child: &Known| child.parent.is_none() && !child.circle;
        if !self.known.get(child).is_some_and(is_orphan) {
            return;
        }
        if child == parent || self.is_above(child, parent) {
            self.know(child).circle = true;
            return;
        }
        self.know(child).parent = Some(parent.clone());
        self.know(parent).children.push(child.clone());
    }

    /// Whether `one` is an ancestor of `other`, or nobody can tell since there are more than anybody has.
    fn is_above(&self, one: &Key, other: &Key) -> bool {
        let parent = |key: &Key| self.known.get(key).and_then(|known| known.parent.as_ref());
        let mut at = parent(other);
        for _ in 0..GENERATIONS {
            match at {
                None => return false,
                Some(key) if key == one => return true,
                Some(key) => at = parent(key),
            }
        }
        true
    }

    /// Depth first, without recursion: a chain may be as long as its list.
    fn branches(mut self) -> Vec<Branch> {
        let roots: Vec<_> = self
            .order
            .iter()
            .filter(|key| {
                self.known
                    .get(*key)
                    .is_some_and(|known| known.parent.is_none())
            })
            .cloned()
            .collect();
        let mut left: Vec<(Key, u32)> = roots.into_iter().rev().map(|root| (root, 0)).collect();
        let mut branches = Vec::with_capacity(self.known.len());
        while let Some((key, depth)) = left.pop() {
            let Some(known) = self.known.remove(&key) else {
                continue;
            };
            let children = known.children.iter().rev().cloned();
            left.extend(children.map(|child| (child, depth + 1)));
            branches.push(Branch {
                v: VERSION,
                node: key.boot.0,
                depth,
                pid: key.pid,
                start_ns: key.start_ns,
                comm: known.comm,
                parent_pid: known.parent.map(|parent| parent.pid),
                circle: known.circle,
                executions: known.executions,
            });
        }
        branches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{Ancestor, Process};

    fn event(pid: u32, ancestors: &[u32]) -> Event {
        let name = |pid| format!("p{pid}");
        let event = Event::of(&ima_log::Entry::default(), None, &Default::default());
        Event {
            process: Some(Process {
                pid,
                tid: None,
                ns_pid: pid,
                start_ns: pid.into(),
                comm: name(pid),
                uid: 0,
                gid: 0,
                login_uid: None,
                session: None,
            }),
            ancestors: ancestors
                .iter()
                .map(|pid| Ancestor {
                    pid: *pid,
                    start_ns: u64::from(*pid),
                    comm: name(*pid),
                })
                .collect(),
            ..event
        }
    }

    fn drawn(events: &[(u32, &[u32])]) -> Vec<(u32, u32, bool)> {
        let mut forest = Forest::default();
        for (pid, ancestors) in events {
            forest.take(event(*pid, ancestors));
        }
        let branches = forest.branches().into_iter();
        branches
            .map(|branch| (branch.depth, branch.pid, branch.circle))
            .collect()
    }

    #[test]
    fn processes_stand_below_their_parents() {
        let events: [(u32, &[u32]); 3] = [(3, &[2, 1]), (4, &[2, 1]), (5, &[4, 2])];
        assert_eq!(
            drawn(&events),
            [
                (0, 1, false),
                (1, 2, false),
                (2, 3, false),
                (2, 4, false),
                (3, 5, false)
            ]
        );
    }

    #[test]
    fn a_circle_is_marked_and_everybody_is_there_once() {
        assert_eq!(drawn(&[(1, &[1])]), [(0, 1, true)]);
        let events: [(u32, &[u32]); 2] = [(1, &[2, 3, 1]), (3, &[1, 2])];
        let drawn = drawn(&events);
        assert_eq!(drawn.len(), 3);
        assert_eq!(drawn.iter().filter(|(_, _, circle)| *circle).count(), 1);
    }

    #[test]
    fn a_long_chain_needs_no_stack() {
        let mut forest = Forest::default();
        for pid in (2..20_000).rev() {
            forest.take(event(pid, &[pid - 1]));
        }
        let branches = forest.branches();
        assert_eq!(branches.len(), 19_999);
        let deepest = branches.iter().map(|branch| branch.depth).max();
        assert!(deepest >= Some(GENERATIONS as u32), "{deepest:?}");
    }
}
