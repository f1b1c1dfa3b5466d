// SPDX-License-Identifier: Apache-2.0
//! Rows of the index in order: of each list in the list's own, of several by time.
//!
//! A list's order is what its PCR vouches for, its times are its own claim: where they go back, the order stays. Owns the choice of
//! the way: by containers, by what is marked a violation, or along the list.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
};

use rusqlite::{Connection, Row as SqlRow, params_from_iter, types::Value};

use super::{
    Filter, Index, IndexError, Kind,
    index::{Indexed, event_id, list_of},
};

/// Rows that are fetched at once, at first and at most.
const FETCH: (i64, i64) = (32, 1024);

/// A row of the table `event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) id: i64,
    pub(crate) place: i64,
    pub(crate) entry: i64,
    pub(crate) nth: Option<u32>,
    /// Microseconds since boot.
    time: Option<i64>,
    pub(crate) kind: Kind,
    pub(crate) container: Option<i64>,
    pub(crate) file: Option<i64>,
    uid: Option<u32>,
    login: Option<u32>,
    pid: Option<u32>,
    violation: bool,
    /// Microseconds since 1970.
    pub(crate) wall: Option<i64>,
}

impl Hit {
    const COLUMNS: &str =
        "id, place, entry, nth, time, kind, container, file, uid, login, pid, violation";

    /// The row of that number, without its time.
    pub(crate) fn of_id(connection: &Connection, id: i64) -> rusqlite::Result<Option<Self>> {
        let sql = format!("SELECT {} FROM event WHERE id = ?1", Self::COLUMNS);
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([id])?;
        rows.next()?.map(Self::of_row).transpose()
    }

    fn of_row(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            place: row.get(1)?,
            entry: row.get(2)?,
            nth: row.get(3)?,
            time: row.get(4)?,
            kind: Kind::of_code(row.get(5)?),
            container: row.get(6)?,
            file: row.get(7)?,
            uid: row.get(8)?,
            login: row.get(9)?,
            pid: row.get(10)?,
            violation: row.get::<_, Option<bool>>(11)?.unwrap_or(false),
            wall: None,
        })
    }
}

/// What a filter comes to in an index.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Containers; `None`: any, and none.
    pub(crate) containers: Option<HashSet<i64>>,
    /// Files; `None`: any, and none.
    pub(crate) files: Option<Files>,
}

/// Files that are asked for.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) any: HashSet<i64>,
    /// Of a path whose digest an event does not say: only in these containers it has one that is asked for.
    pub(crate) within: HashMap<i64, HashSet<i64>>,
    /// Containers that have seen one of them.
    pub(crate) containers: HashSet<i64>,
}

impl Files {
    fn has(&self, file: Option<i64>, container: Option<i64>) -> bool {
        let Some(file) = file else {
            return false;
        };
        let within = || {
            let containers = self.within.get(&file);
            containers
                .zip(container)
                .is_some_and(|(containers, container)| containers.contains(&container))
        };
        self.any.contains(&file) || within()
    }
}

/// Whether `hit` is what is asked for, as far as the index knows.
fn is_wanted(hit: &Hit, filter: &Filter, wanted: &Wanted) -> bool {
    let of_container = |own: &HashSet<i64>| hit.container.is_some_and(|id| own.contains(&id));
    let of_kind = match filter.kinds.is_empty() {
        true => !hit.kind.is_repetition(),
        false => filter.kinds.contains(&hit.kind),
    };
    of_kind
        && (!filter.violations || hit.violation)
        && (filter.pids.is_empty() || hit.pid.is_some_and(|pid| filter.pids.contains(&pid)))
        && filter.user(hit.uid, hit.login)
        && wanted.containers.as_ref().is_none_or(of_container)
        && wanted
            .files
            .as_ref()
            .is_none_or(|files| files.has(hit.file, hit.container))
        && filter.time(hit.wall.map(|us| us.saturating_mul(1000)))
}

/// Which rows a cursor goes along.
#[derive(Debug, Clone, Copy)]
enum Way {
    List,
    Container(i64),
    Violations,
}

/// Some rows of one list, in its order.
struct Cursor {
    way: Way,
    /// Numbers that are left, from one to another that is not among them.
    ranges: VecDeque<(i64, i64)>,
    fetched: VecDeque<Hit>,
    fetch: i64,
}

impl Cursor {
    fn new(way: Way, ranges: impl IntoIterator<Item = (i64, i64)>) -> Self {
        Self {
            way,
            ranges: ranges.into_iter().collect(),
            fetched: VecDeque::new(),
            fetch: FETCH.0,
        }
    }

    fn fill(
        &mut self,
        connection: &Connection,
        backwards: bool,
        keep: &mut dyn FnMut(&mut Hit) -> bool,
    ) -> Result<(), IndexError> {
        while self.fetched.is_empty() {
            let end = match backwards {
                true => self.ranges.back_mut(),
                false => self.ranges.front_mut(),
            };
            let Some(range) = end else {
                return Ok(());
            };
            let rows = rows(connection, self.way, *range, backwards, self.fetch)?;
            let is_all = i64::try_from(rows.len()).is_ok_and(|rows| rows < self.fetch);
            self.fetch = FETCH.1.min(self.fetch * 2);
            match rows.last() {
                Some(last) if !is_all && backwards => range.1 = last.id,
                Some(last) if !is_all => range.0 = last.id + 1,
                _ if backwards => drop(self.ranges.pop_back()),
                _ => drop(self.ranges.pop_front()),
            }
            for mut hit in rows {
                if keep(&mut hit) {
                    self.fetched.push_back(hit);
                }
            }
        }
        Ok(())
    }
}

fn rows(
    connection: &Connection,
    way: Way,
    range: (i64, i64),
    backwards: bool,
    limit: i64,
) -> Result<Vec<Hit>, IndexError> {
    let (index, which) = match way {
        Way::List => ("NOT INDEXED", ""),
        Way::Container(_) => ("INDEXED BY event_container", "container = ?4 AND"),
        Way::Violations => ("INDEXED BY event_violation", "violation = 1 AND"),
    };
    let order = if backwards { "DESC" } else { "ASC" };
    let sql = format!(
        "SELECT {} FROM event {index} WHERE {which} id >= ?1 AND id < ?2 ORDER BY id {order} LIMIT ?3",
        Hit::COLUMNS
    );
    let mut values = vec![
        Value::from(range.0),
        Value::from(range.1),
        Value::from(limit),
    ];
    if let Way::Container(container) = way {
        values.push(container.into());
    }
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(values), Hit::of_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What is asked for of one list, in its order.
struct OfList<'a> {
    list: &'a Indexed,
    cursors: Vec<Cursor>,
    /// The cursors' next, by number.
    next: BinaryHeap<Reverse<(i64, usize)>>,
    /// The latest time so far, or backwards the earliest.
    time: Option<i64>,
}

/// Every row that is asked for, in order.
pub(crate) struct Hits<'a> {
    connection: &'a Connection,
    filter: &'a Filter,
    wanted: &'a Wanted,
    backwards: bool,
    lists: Vec<OfList<'a>>,
    next: BinaryHeap<Reverse<(i64, usize)>>,
}

/// Containers by which rows are looked for: with more, lists are read along.
const CONTAINERS: usize = 512;

impl<'a> Hits<'a> {
    /// The rows of `index` that `filter` asks for, behind (or backwards before) those that `passed` says were had.
    pub(crate) fn new(
        index: &'a Index,
        filter: &'a Filter,
        wanted: &'a Wanted,
        backwards: bool,
        passed: &Passed,
    ) -> Result<Self, IndexError> {
        let mut hits = Self {
            connection: &index.connection,
            filter,
            wanted,
            backwards,
            lists: Vec::new(),
            next: BinaryHeap::new(),
        };
        let containers = hits.by_containers()?;
        for list in &index.lists {
            if !filter.node(&list.list.node) {
                continue;
            }
            let ranges = hits.ranges(list, passed)?;
            let cursor = |way| Cursor::new(way, ranges.iter().copied());
            let cursors = match &containers {
                Some(containers) => {
                    let own = containers.iter().filter(|(_, of)| *of == list.id);
                    own.map(|(id, _)| cursor(Way::Container(*id))).collect()
                }
                None if filter.violations => vec![cursor(Way::Violations)],
                None => vec![cursor(Way::List)],
            };
            hits.lists.push(OfList {
                list,
                cursors,
                next: BinaryHeap::new(),
                time: None,
            });
        }
        for list in 0..hits.lists.len() {
            for cursor in 0..hits.lists[list].cursors.len() {
                hits.refill(list, cursor)?;
            }
            hits.queue(list);
        }
        Ok(hits)
    }

    /// The containers, and their lists, by which to look; `None`: not by containers.
    fn by_containers(&self) -> Result<Option<Vec<(i64, i64)>>, IndexError> {
        let own = self.wanted.containers.as_ref();
        let files = self.wanted.files.as_ref().map(|files| &files.containers);
        let chosen: Vec<i64> = match (own, files) {
            (Some(own), Some(files)) => own.intersection(files).copied().collect(),
            (Some(own), None) => own.iter().copied().collect(),
            (None, Some(files)) => files.iter().copied().collect(),
            (None, None) => return Ok(None),
        };
        if chosen.len() > CONTAINERS {
            return Ok(None);
        }
        let sql = "SELECT list FROM container WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let with_list = |id: i64| Ok((id, statement.query_row([id], |row| row.get(0))?));
        chosen
            .into_iter()
            .map(with_list)
            .collect::<Result<_, IndexError>>()
            .map(Some)
    }

    /// The numbers of a list's events that may be of the time that is asked for.
    fn ranges(&self, list: &Indexed, passed: &Passed) -> Result<Vec<(i64, i64)>, IndexError> {
        let (mut first, mut end) = list.range();
        match (passed.0.get(&list.id), self.backwards) {
            (Some(row), true) => end = end.min(event_id(list.id, *row)),
            (Some(row), false) => first = first.max(event_id(list.id, row + 1)),
            (None, _) => {}
        }
        if self.filter.since.is_none() && self.filter.until.is_none() {
            return Ok(Vec::from([(first, end)]));
        }
        let since = self.filter.since.map_or(i64::MIN, |ns| ns.div_euclid(1000));
        let until = self.filter.until.map_or(i64::MAX, |ns| ns.div_euclid(1000));
        let sql = "SELECT first, last FROM zone WHERE first >= ?1 AND first < ?2 AND latest >= ?3 AND earliest <= ?4 ORDER BY first";
        let mut statement = self.connection.prepare_cached(sql)?;
        let all = list.range();
        let rows = statement.query_map([all.0, all.1, since, until], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)? + 1))
        })?;
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for row in rows {
            let (from, to) = row?;
            let (from, to) = (from.max(first), to.min(end));
            match ranges.last_mut() {
                _ if from >= to => {}
                Some(last) if last.1 == from => last.1 = to,
                _ => ranges.push((from, to)),
            }
        }
        Ok(ranges)
    }

    /// Fetches a cursor's next rows if it has none.
    fn refill(&mut self, list: usize, cursor: usize) -> Result<(), IndexError> {
        let of_list = &mut self.lists[list];
        let (filter, wanted, clock) = (self.filter, self.wanted, of_list.list);
        let mut keep = |hit: &mut Hit| {
            let clock_us = clock.clock_at(hit.id).unwrap_or(0) / 1000;
            hit.wall = hit.time.and_then(|time| time.checked_add(clock_us));
            is_wanted(hit, filter, wanted)
        };
        of_list.cursors[cursor].fill(self.connection, self.backwards, &mut keep)?;
        if let Some(hit) = of_list.cursors[cursor].fetched.front() {
            let order = if self.backwards { -hit.id } else { hit.id };
            of_list.next.push(Reverse((order, cursor)));
        }
        Ok(())
    }

    /// Puts a list's next among those of the others.
    fn queue(&mut self, list: usize) {
        let of_list = &mut self.lists[list];
        let Some(Reverse((_, cursor))) = of_list.next.peek() else {
            return;
        };
        let Some(hit) = of_list.cursors[*cursor].fetched.front() else {
            return;
        };
        let backwards = self.backwards;
        let later = |one: i64, other: i64| match backwards {
            true => one.min(other),
            false => one.max(other),
        };
        if let Some(wall) = hit.wall {
            of_list.time = Some(of_list.time.map_or(wall, |time| later(time, wall)));
        }
        let time = of_list.time.unwrap_or(0);
        let order = if backwards {
            time.saturating_neg()
        } else {
            time
        };
        self.next.push(Reverse((order, list)));
    }

    /// The next row; `None`: there is none.
    pub(crate) fn next(&mut self) -> Result<Option<Hit>, IndexError> {
        let Some(Reverse((_, list))) = self.next.pop() else {
            return Ok(None);
        };
        let of_list = &mut self.lists[list];
        let cursor = of_list.next.pop().map(|Reverse((_, cursor))| cursor);
        let hit = cursor.and_then(|cursor| of_list.cursors[cursor].fetched.pop_front());
        if let Some(cursor) = cursor {
            match of_list.cursors[cursor].fetched.front() {
                Some(next) => {
                    let order = if self.backwards { -next.id } else { next.id };
                    of_list.next.push(Reverse((order, cursor)));
                }
                None => self.refill(list, cursor)?,
            }
        }
        self.queue(list);
        Ok(hit)
    }
}

/// Up to which row each list was had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Passed(HashMap<i64, i64>);

impl Passed {
    /// `id` was had.
    pub(crate) fn note(&mut self, id: i64) {
        let list = list_of(id);
        self.0.insert(list, id - event_id(list, 0));
    }

    /// As a text of letters and digits.
    pub(crate) fn token(&self, tag: u32) -> String {
        let mut lists: Vec<_> = self.0.iter().collect();
        lists.sort();
        let rows = lists.iter().map(|(list, row)| format!("-{list:x}.{row:x}"));
        format!("{tag:08x}{}", String::from_iter(rows))
    }

    /// [`Passed::token`] taken back; `None`: it is none, or has another tag.
    pub(crate) fn parse(token: &str, tag: u32) -> Option<Self> {
        let (own, rows) = token.split_once('-').unwrap_or((token, ""));
        if u32::from_str_radix(own, 16).ok()? != tag {
            return None;
        }
        let row = |text: &str| {
            let (list, row) = text.split_once('.')?;
            let number = |text| i64::from_str_radix(text, 16).ok().filter(|n| *n >= 0);
            Some((number(list)?, number(row)?))
        };
        let rows = rows.split('-').filter(|text| !text.is_empty());
        rows.map(row).collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_how_far_each_list_was_read_and_is_of_one_set_of_lists() {
        let mut passed = Passed::default();
        assert_eq!(Passed::parse(&passed.token(7), 7), Some(passed.clone()));
        passed.note(event_id(3, 0));
        passed.note(event_id(1, 70_000));
        passed.note(event_id(3, 9));
        let token = passed.token(0xdead_beef);
        assert_eq!(token, "deadbeef-1.11170-3.9");
        assert_eq!(Passed::parse(&token, 0xdead_beef), Some(passed));
        assert_eq!(Passed::parse(&token, 7), None);
        for token in ["", "x", "7-", "00000007-1", "00000007-1.-2", "00000007-z.1"] {
            let read = Passed::parse(token, 7);
            assert!(read.is_none() || token == "7-", "{token}");
        }
    }
}
