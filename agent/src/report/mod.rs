// SPDX-License-Identifier: Apache-2.0
//! A report for people: what queries answered, as one HTML file that needs nothing else.
//!
//! Pure: data in, a page out; `cli/report` asks and writes. Nothing in a list is trusted: markup is escaped where it is made, what
//! scripts read is data that cannot end its element, and the page's own policy lets the browser run one script and load nothing. What
//! matters is there without the script; with it events can be filtered and drawn. Whatever is left out is said where it would stand.

mod container;
mod data;
mod page;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod violations;

pub use data::Embedded;

use crate::query::{Branch, Event, Explanation, Summary};

/// Containers that are explained, at most.
pub const CONTAINERS: usize = 100;
/// Containers that have a line, at most.
pub const LINES: usize = 1_000;
/// Events that are in the page, at most.
pub const EVENTS: u64 = 20_000;
/// Violations that have a line, at most.
pub const VIOLATIONS: u64 = 1_000;
/// Executions that the tree of processes is made of, at most.
pub const EXECUTIONS: u64 = 2_000;

/// What a report says.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What was asked.
    pub asked: Asked,
    /// Of which lists.
    pub lists: Vec<Source>,
    /// What of the lists is damaged, or contradicts itself; a sentence each.
    pub notes: Vec<String>,
    /// How many images there were references of.
    pub references: usize,
    /// Containers that were looked into, those that something speaks against first.
    pub explained: Vec<Explanation>,
    /// Containers that were not.
    pub others: Part<Summary>,
    /// What should not have been, in order.
    pub violations: Part<Event>,
    /// What happened, in order.
    pub events: Embedded,
    /// Who started whom.
    pub tree: Part<Branch>,
}

/// A question, and when it was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The command.
    pub command: String,
    /// Not before, as it was understood.
    pub since: Option<String>,
    /// Before.
    pub until: Option<String>,
    /// When: RFC 3339 in UTC.
    pub at: String,
    /// On which host.
    pub host: String,
}

/// A list that was asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The node.
    pub node: String,
    /// The boot.
    pub boot_id: Option<String>,
    /// Where the list was read.
    pub path: String,
    /// How many entries.
    pub entries: u64,
    /// When its last event was.
    pub ends: Option<String>,
    /// How long that was before the question.
    pub age: Option<String>,
    /// Why it could not be read to its end.
    pub damage: Option<String>,
}

/// Some of many.
#[derive(Debug, Clone, PartialEq)]
pub struct Part<T> {
    /// Those.
    pub these: Vec<T>,
    /// What is not among them; a sentence.
    pub left_out: Option<String>,
}

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    page::page(report).into_string()
}
