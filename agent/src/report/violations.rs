// SPDX-License-Identifier: Apache-2.0
//! What should not have been, in order.
//!
//! The list tells most of it twice: in an entry for verifiers, and with time and process. Here the former is a note to the latter; one that
//! stands alone has a line of its own.

use maud::{Markup, html};

use super::{
    Part,
    container::event_link,
    data,
    text::{code, digest, or_dash, shown, time},
};
use crate::query::{Event, Kind};

/// Entries between the one for verifiers and the batch with the event, at most.
const NEAR: usize = 8;

/// The table.
pub(super) fn section(violations: &Part<Event>) -> Markup {
    html! {
        section #violations aria-labelledby="violations-title" {
            h2 #violations-title { "Violations" }
            @if violations.these.is_empty() {
                p { "None is in these lists that was asked for." }
            } @else {
                div.scroll role="region" aria-label="Violations" tabindex="0" {
                    table {
                        thead { tr {
                            th scope="col" { "Time" }
                            th scope="col" { "Node, container" }
                            th scope="col" { "What" }
                            th scope="col" { "Process" }
                            th scope="col" { "File and details" }
                            th scope="col" { "Event" }
                        } }
                        tbody { @for line in lines(&violations.these) { (row(&line)) } }
                    }
                }
            }
            @if let Some(left_out) = &violations.left_out { p.left-out { (shown(left_out)) } }
        }
    }
}

/// How many lines it has.
pub(super) fn count(violations: &Part<Event>) -> usize {
    lines(&violations.these).len()
}

/// An event, and the entry for verifiers that says the same.
struct Line<'a> {
    event: &'a Event,
    listed: Option<&'a Event>,
}

fn lines(events: &[Event]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut waiting: Vec<&Event> = Vec::new();
    for event in events {
        if event.kind == Kind::Violation {
            waiting.push(event);
            continue;
        }
        let listed = waiting.iter().rposition(|listed| is_same(listed, event));
        let listed = listed.map(|listed| waiting.remove(listed));
        if waiting.len() > NEAR {
            lines.extend(waiting.drain(..).map(alone));
        }
        lines.push(Line { event, listed });
    }
    lines.extend(waiting.into_iter().map(alone));
    lines
}

fn alone(event: &Event) -> Line<'_> {
    Line {
        event,
        listed: None,
    }
}

/// Whether an entry for verifiers is of what `event` tells.
fn is_same(listed: &Event, event: &Event) -> bool {
    let of_list = (&listed.node, &listed.boot_id) == (&event.node, &event.boot_id);
    let before = listed.entry < event.entry && event.entry - listed.entry <= NEAR as u64;
    let image = |event: &Event| event.container.as_ref().map(|name| name.image.clone());
    let file = listed.path.is_none() || listed.path == event.path;
    let word = listed.detail.as_deref().unwrap_or_default();
    let word = word.split(';').next().unwrap_or_default();
    let kind = match event.kind {
        Kind::Anonymous => word == "anonymous",
        Kind::Mprotect => word == "mprotect",
        Kind::KernelLoad => word == "kernel-load",
        Kind::Loss => word == "loss",
        Kind::Pivot => word == "root",
        Kind::Refused => word == "unregistered",
        Kind::Write => word == "writer",
        kind if kind.is_execution() => matches!(word, "writer" | "hash" | "path"),
        _ => false,
    };
    of_list
        && before
        && file
        && kind
        && (event.container.is_none() || image(listed) == image(event))
}

fn row(line: &Line<'_>) -> Markup {
    let Line { event, listed } = line;
    html! {
        tr {
            td {
                @if event.time.is_none() && event.not_before.is_some() { "not before " }
                (or_dash(event.time.as_deref().or(event.not_before.as_deref()), time))
            }
            td { (shown(&event.node)) @if let Some(name) = &event.container { br; (shown(&data::label(name))) } }
            th scope="row" { (what(event)) }
            td { (or_dash(event.process.as_ref().map(data::process).as_deref(), code)) }
            td {
                (or_dash(event.path.as_deref(), code))
                @let detail = data::detail(event);
                @if !detail.is_empty() { div { (shown(&detail)) } }
                @if let Some(own) = &event.digest { div { (digest(own)) } }
            }
            td {
                (event_link(&event.id))
                @if let Some(listed) = listed { div.expected { "listed as " (event_link(&listed.id)) } }
            }
        }
    }
}

/// What happened, in words.
fn what(event: &Event) -> &'static str {
    match event.kind {
        Kind::Anonymous => "memory without a file is executable",
        Kind::Mprotect => "a mapping was made executable afterwards",
        Kind::KernelLoad => "the kernel took code from memory",
        Kind::Write => "a measured file was opened for writing",
        Kind::Map | Kind::Script | Kind::KernelRead | Kind::Exec => {
            "executed, and its digest proves nothing"
        }
        Kind::Refused => "an execution was refused",
        Kind::Pivot => "another root than the one that was measured",
        Kind::Loss => "events were lost",
        Kind::Start => "the agent started, and list and PCR did not fit",
        Kind::Violation => "recorded for verifiers",
        kind => kind.word(),
    }
}
