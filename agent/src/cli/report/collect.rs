// SPDX-License-Identifier: Apache-2.0
//! From a filter to what a report says: asks, and says what is more than a report holds.

use rustix::system::uname;

use crate::{
    clock::real_ns,
    query::{
        Branch, Event, Explanation, Filter, Finding, Index, Kind, Page, Query, QueryError,
        Standing, Summary, moment,
    },
    report::{
        Asked, CONTAINERS, EVENTS, EXECUTIONS, Embedded, LINES, Part, Report, Source, VIOLATIONS,
    },
    verify::References,
};

/// Asks for all of it.
pub(super) fn collect(
    index: &Index,
    query: &mut Query<'_>,
    filter: &Filter,
    references: &References,
) -> Result<Report, QueryError> {
    let now = real_ns();
    let (explained, others) = containers(query, filter, references)?;
    let mut events = Embedded::of(&explained);
    fill(query, filter, &mut events)?;
    Ok(Report {
        asked: asked(filter, now),
        lists: sources(index, filter, now),
        notes: index.damages(),
        references: references.images(),
        violations: violations(query, filter)?,
        tree: tree(query, filter)?,
        explained,
        others,
        events,
    })
}

/// As it was typed, and as it was understood.
fn asked(filter: &Filter, now: i64) -> Asked {
    let words: Vec<_> = std::env::args_os()
        .skip(1)
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    Asked {
        command: format!("cima {}", words.join(" ")),
        since: filter.since.map(moment::show),
        until: filter.until.map(moment::show),
        at: moment::show(now),
        host: uname().nodename().to_string_lossy().into_owned(),
    }
}

/// A word as a shell would read it.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn sources(index: &Index, filter: &Filter, now: i64) -> Vec<Source> {
    let lists = index.lists.iter();
    lists
        .filter(|list| filter.node(&list.list.node))
        .map(|list| {
            let ends = list.ends.and_then(|us| us.checked_mul(1000));
            let age = ends.map(|ends| match now.saturating_sub(ends) {
                ..0 => "later than it".to_owned(),
                age => ago(age),
            });
            Source {
                node: list.list.node.clone(),
                boot_id: list.boot.clone(),
                path: list.list.path.display().to_string(),
                entries: list.entries,
                ends: ends.map(moment::show),
                age,
                damage: list.damage.clone(),
            }
        })
        .collect()
}

/// How long, in the largest unit of which there are two.
fn ago(ns: i64) -> String {
    let seconds = ns / 1_000_000_000;
    let units = [(86_400, "days"), (3_600, "hours"), (60, "minutes")];
    let unit = units.iter().find(|(unit, _)| seconds >= 2 * unit);
    match unit {
        Some((unit, word)) => format!("{} {word}", seconds / unit),
        None => format!("{seconds} s"),
    }
}

type Containers = (Vec<Explanation>, Part<Summary>);

fn containers(
    query: &mut Query<'_>,
    filter: &Filter,
    references: &References,
) -> Result<Containers, QueryError> {
    let mut found = query.summarised(filter)?;
    // It keeps the order of time otherwise.
    found.sort_by_key(|(_, summary)| summary.verdict == Standing::Clean && summary.violations == 0);
    let mut explained = Vec::new();
    let rest = found.split_off(found.len().min(CONTAINERS));
    for (container, summary) in found {
        explained.push(query.explanation(&container, summary, references)?);
    }
    explained.sort_by_key(|own| match own.verdict {
        Finding::Bad => 0,
        Finding::Unknown => 1,
        Finding::Good => 2,
    });
    let lines = LINES - CONTAINERS;
    let more = rest.len().saturating_sub(lines);
    let left_out = match (rest.len(), more) {
        (0, _) => None,
        (rest, 0) => Some(format!(
            "The last {rest} were not looked into: a report has {CONTAINERS}. Ask for fewer, or cima explain for one."
        )),
        (_, more) => Some(format!(
            "{more} more are not here, and of those that are {CONTAINERS} were looked into. Ask for fewer."
        )),
    };
    let these = rest.into_iter().map(|(_, own)| own).take(lines).collect();
    Ok((explained, Part { these, left_out }))
}

/// The latest events, in order.
fn fill(query: &mut Query<'_>, filter: &Filter, events: &mut Embedded) -> Result<(), QueryError> {
    let mut full = false;
    let more = query.events::<QueryError>(filter, &latest(EVENTS), |event| {
        full = !events.push(&event);
        Ok(!full)
    })?;
    events.reverse();
    if full || more.is_some() {
        let from = events.first_time().unwrap_or_default();
        events.left_out = Some(format!(
            "These are the latest {} events. Earlier ones were asked for, too, and are left out: they come with --until '{from}'.",
            events.len()
        ));
    }
    Ok(())
}

fn latest(limit: u64) -> Page {
    Page {
        backwards: true,
        limit: Some(limit),
        after: None,
    }
}

fn violations(query: &mut Query<'_>, filter: &Filter) -> Result<Part<Event>, QueryError> {
    let filter = Filter {
        violations: true,
        ..filter.clone()
    };
    let (these, more) = latest_of(query, &filter, VIOLATIONS)?;
    let left_out = more.then(|| {
        format!("These are the latest {VIOLATIONS}. Earlier ones are left out: cima events --violations has them.")
    });
    Ok(Part { these, left_out })
}

fn tree(query: &mut Query<'_>, filter: &Filter) -> Result<Part<Branch>, QueryError> {
    let filter = Filter {
        kinds: vec![Kind::Exec],
        violations: false,
        ..filter.clone()
    };
    let (executions, more) = latest_of(query, &filter, EXECUTIONS)?;
    let left_out = more.then(|| {
        format!("This is of the latest {EXECUTIONS} executions. Earlier ones are left out: cima tree has them.")
    });
    Ok(Part {
        these: Branch::all_of(executions),
        left_out,
    })
}

/// The latest events, in order, and whether there were earlier ones.
fn latest_of(
    query: &mut Query<'_>,
    filter: &Filter,
    limit: u64,
) -> Result<(Vec<Event>, bool), QueryError> {
    let mut these = Vec::new();
    let more = query.events::<QueryError>(filter, &latest(limit), |event| {
        these.push(event);
        Ok(true)
    })?;
    these.reverse();
    Ok((these, more.is_some()))
}
