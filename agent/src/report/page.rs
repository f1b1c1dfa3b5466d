// SPDX-License-Identifier: Apache-2.0
//! The page: what was asked, what there is to say in short, and the parts below.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::{
    Report, Source, container, data,
    text::{code, counted, grouped, or_dash, shown, time},
    tree, violations,
};
use crate::query::{Explanation, Finding, Summary};

const STYLE: &str = include_str!("assets/report.css");
const SCRIPT: &str = include_str!("assets/report.js");

/// All of it.
pub(super) fn page(report: &Report) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                // Before anything that it is to hold for.
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="referrer" content="no-referrer";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title(report)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the findings" }
                (head(report))
                (contents(report))
                main #main {
                    (findings(report))
                    (timeline())
                    (containers(report))
                    (violations::section(&report.violations))
                    (tree::section(&report.tree, &report.explained))
                    (events(report))
                    (sources(&report.lists))
                }
                (foot())
                script #data type="application/json" { (PreEscaped(report.events.json())) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

/// One style and one script, by what they are; nothing else is run, and nothing loaded, whatever a list had put here.
fn policy() -> String {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

fn title(report: &Report) -> String {
    let names: Vec<_> = report
        .explained
        .iter()
        .map(|own| shown(&data::label(&own.summary.container)))
        .collect();
    let what = match &names[..] {
        [] => "no container".to_owned(),
        [one] => format!("container {one}"),
        _ => counted(all(report), "container", "containers"),
    };
    format!("cima report: {what}")
}

/// Containers, looked into or not.
fn all(report: &Report) -> u64 {
    (report.explained.len() + report.others.these.len()) as u64
}

fn head(report: &Report) -> Markup {
    let asked = &report.asked;
    html! {
        header {
            p.brand { "cima report" }
            h1 { (verdict(report)) }
            dl.facts.asked {
                div { dt { "Asked" } dd { (code(&asked.command)) } }
                div { dt { "Lists" } dd { (freshness(&report.lists)) " (" a href="#lists" { "each" } ")" } }
                div { dt { "Made" } dd { (time(&asked.at)) " UTC on " (code(&asked.host)) ", by cima " (env!("CARGO_PKG_VERSION")) } }
                div { dt { "Period" } dd { (period(report)) } }
                div { dt { "References" } dd {
                    @if report.references == 0 { "none: what was executed is compared with no image (" code { "--reference" } ")" }
                    @else { "of " (counted(report.references as u64, "image", "images")) }
                } }
            }
            @if !report.notes.is_empty() {
                div.note role="note" aria-label="Damage" {
                    p { strong { "The lists are not whole." } }
                    ul { @for note in &report.notes { li { (shown(note)) } } }
                }
            }
            p.aside {
                "This is what the lists say. Whether a list is what the node's TPM vouches for, " code { "cima verify" }
                " says. Times are each node's own clock, in UTC."
            }
        }
    }
}

fn period(report: &Report) -> Markup {
    let asked = &report.asked;
    html! {
        @match (&asked.since, &asked.until) {
            (None, None) => "all that the lists have",
            (Some(since), None) => { "from " (time(since)) " on" }
            (None, Some(until)) => { "before " (time(until)) }
            (Some(since), Some(until)) => { "from " (time(since)) " to " (time(until)) }
        }
    }
}

/// How many there are, and the one that ends first.
fn freshness(lists: &[Source]) -> String {
    let entries = lists.iter().map(|list| list.entries).sum();
    let all = format!(
        "{}, {}",
        counted(lists.len() as u64, "list", "lists"),
        counted(entries, "entry", "entries")
    );
    let oldest = lists.iter().filter(|list| list.ends.is_some());
    match oldest.min_by_key(|list| &list.ends) {
        Some(Source {
            node,
            age: Some(age),
            ..
        }) => format!(
            "{all}; the last event of {} was {age} before this",
            shown(node)
        ),
        _ => all,
    }
}

fn sources(lists: &[Source]) -> Markup {
    html! {
        section #lists aria-labelledby="lists-title" {
        h2 #lists-title { "Lists" }
        div.scroll role="region" aria-label="Lists" tabindex="0" {
            table {
                thead { tr {
                    th scope="col" { "Node" }
                    th scope="col" { "Boot" }
                    th.number scope="col" { "Entries" }
                    th scope="col" { "Last event" }
                    th scope="col" { "Before this report" }
                    th scope="col" { "Read from" }
                } }
                tbody {
                    @for list in lists.iter().take(super::LINES) { tr {
                        th scope="row" { (shown(&list.node)) }
                        td { (or_dash(list.boot_id.as_deref(), code)) }
                        td.number { (grouped(list.entries)) }
                        td { (or_dash(list.ends.as_deref(), time)) }
                        td { (or_dash(list.age.as_deref(), |age| html! { (shown(age)) })) }
                        td { (code(&list.path)) @if list.damage.is_some() { " " strong { "damaged" } } }
                    } }
                }
            }
        }
        }
    }
}

/// The finding in a sentence.
fn verdict(report: &Report) -> String {
    let bad = report
        .explained
        .iter()
        .filter(|own| own.verdict == Finding::Bad)
        .count() as u64;
    let all = all(report);
    let verb = if bad == 1 { "has" } else { "have" };
    match (bad, all) {
        (_, 0) if report.violations.these.is_empty() => "No container is in these lists".to_owned(),
        (_, 0) => "No container, and events that should not have been".to_owned(),
        (0, all) => {
            let found = format!(
                "Nothing found against {}",
                counted(all, "container", "containers")
            );
            let good = report
                .explained
                .iter()
                .filter(|own| own.verdict == Finding::Good)
                .count();
            // Nothing found is no praise where nothing was compared.
            match all - good as u64 {
                0 => found,
                unknown => format!(
                    "{found}, {} of them compared with no image",
                    grouped(unknown)
                ),
            }
        }
        (1, 1) => "This container has findings against it".to_owned(),
        (bad, all) => format!(
            "{} of {} {verb} findings against {}",
            grouped(bad),
            counted(all, "container", "containers"),
            if bad == 1 { "it" } else { "them" }
        ),
    }
}

fn contents(report: &Report) -> Markup {
    html! {
        nav aria-label="Contents" {
            ul {
                li { a href="#findings" { "Findings" } }
                li.scripted { a href="#timeline" { "Timeline" } }
                li { a href="#containers" { "Containers" } }
                li { a href="#violations" { "Violations " (count(violations::count(&report.violations))) } }
                li { a href="#tree" { "Processes" } }
                li { a href="#events" { "Events " (count(report.events.len())) } }
                li { a href="#lists" { "Lists" } }
            }
        }
    }
}

fn count(count: usize) -> Markup {
    html! { span.count { (grouped(count as u64)) } }
}

/// A line for each container.
fn findings(report: &Report) -> Markup {
    html! {
        section #findings aria-labelledby="findings-title" {
            h2 #findings-title { "Findings" }
            @if all(report) == 0 {
                p { "No container is in these lists that was asked for." }
            } @else {
                div.scroll role="region" aria-label="Findings" tabindex="0" {
                    table.findings {
                        thead { tr {
                            th scope="col" { "Verdict" }
                            th scope="col" { "Container" }
                            th scope="col" { "Node" }
                            th scope="col" { "Made" }
                            th scope="col" { "State" }
                            th.number scope="col" { "Executions" }
                            th.number scope="col" { "Violations" }
                            th scope="col" { "Why" }
                        } }
                        tbody {
                            @for (number, own) in report.explained.iter().enumerate() { (explained(number, own)) }
                            @for own in &report.others.these { (other(own)) }
                        }
                    }
                }
            }
            @if let Some(left_out) = &report.others.left_out { p.left-out { (shown(left_out)) } }
        }
    }
}

fn explained(number: usize, own: &Explanation) -> Markup {
    html! {
        tr {
            td { (container::badge(own.verdict)) }
            th scope="row" { a href={ "#container-" (number) } { (shown(&data::label(&own.summary.container))) } }
            (life(&own.summary))
            td.why {
                @for (nth, reason) in own.reasons.iter().enumerate() { @if nth > 0 { "; " } (shown(reason)) }
                @if own.reasons.is_empty() { "all that it executed is as in the reference" }
            }
        }
    }
}

fn other(own: &Summary) -> Markup {
    html! {
        tr {
            td { span.badge.unasked { "not looked into" } }
            th scope="row" { (shown(&data::label(&own.container))) }
            (life(own))
            td.why { "by the list alone: " (own.verdict.word()) }
        }
    }
}

fn life(own: &Summary) -> Markup {
    html! {
        td { (shown(&own.node)) }
        td { (or_dash(own.created.as_deref().or(own.first_seen.as_deref()), time)) }
        td { (own.state.word()) }
        td.number { (grouped(own.executions)) }
        td.number { (grouped(own.violations)) }
    }
}

/// Drawn by the script.
fn timeline() -> Markup {
    html! {
        section #timeline.scripted aria-labelledby="timeline-title" {
            h2 #timeline-title { "Timeline" }
            div.controls {
                button type="button" data-zoom="in" { "Zoom in" }
                button type="button" data-zoom="out" { "Zoom out" }
                button type="button" data-zoom="earlier" { "Earlier" }
                button type="button" data-zoom="later" { "Later" }
                button type="button" data-zoom="all" { "Whole period" }
                span #range {}
            }
            figure {
                div #chart {}
                figcaption {
                    "Executions by container: the taller, the more. "
                    span.key.drift { "\u{25bc}" } " not as in the reference, "
                    span.key.violation { "\u{25b2}" } " violation. Drag to choose a period: the table of events follows."
                }
            }
        }
    }
}

fn containers(report: &Report) -> Markup {
    html! {
        section #containers aria-labelledby="containers-title" {
            h2 #containers-title { "Containers" }
            @for (number, own) in report.explained.iter().enumerate() { (container::section(number, own)) }
        }
    }
}

/// Filled by the script.
fn events(report: &Report) -> Markup {
    html! {
        section #events aria-labelledby="events-title" {
            h2 #events-title { "Events" }
            noscript { p.left-out {
                "The table of events needs JavaScript, which is off. " code { "cima events" } " prints the same, with the same filters."
            } }
            @if let Some(left_out) = &report.events.left_out { p.left-out #left-out { (shown(left_out)) } }
            div.scripted {
                form.controls #filters role="search" aria-label="Filters of events" {
                    label { "Text " input #text type="search" autocomplete="off" spellcheck="false" placeholder="path, digest, process, ..."; }
                    label { "Container " select #container { option value="" { "all" } } }
                    label { "Node " select #node { option value="" { "all" } } }
                    label { "Kind " select #kind { option value="" { "all" } } }
                    label.check { input #only-violations type="checkbox"; " only violations" }
                    label.check { input #only-drift type="checkbox"; " only not as in the reference" }
                    button #start-over type="reset" { "Reset" }
                }
                p #shown role="status" {}
                div.scroll {
                    table #event-table {
                        caption.quiet { "Events, in order" }
                        thead { tr {
                            th scope="col" { "Time (UTC)" }
                            th scope="col" { "Container" }
                            th scope="col" { "Kind" }
                            th scope="col" { "Process" }
                            th scope="col" { "File, arguments, details" }
                            th scope="col" { "Digest" }
                        } }
                        tbody {}
                    }
                }
                p.controls {
                    button #more type="button" { "Show more" }
                    button #every type="button" { "Show all" }
                }
            }
        }
    }
}

fn foot() -> Markup {
    html! {
        footer {
            p {
                "Everything in this file is in this file: it loads nothing and sends nothing. Texts from containers are shown as printable ASCII, "
                "all else escaped, and cut where they are long; " code { "cima events --json" } " has them whole."
            }
        }
    }
}
