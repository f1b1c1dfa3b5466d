// SPDX-License-Identifier: Apache-2.0
//! A container: what is thought of it, what it was made of, and what it executed that its image does not have.

use maud::{Markup, html};

use super::{
    data,
    text::{code, counted, digest, grouped, or_dash, shown, time},
};
use crate::query::{Admission, Drift, Event, Explanation, Finding, State};

/// Rows of a table, and items of a list, at most.
const ROWS: usize = 200;
/// Bytes of what an admission policy was asked, at most.
const INPUT: usize = 20_000;

/// A verdict as a word.
pub(super) fn badge(finding: Finding) -> Markup {
    let (class, word) = match finding {
        Finding::Bad => ("bad", "bad"),
        Finding::Good => ("good", "good"),
        Finding::Unknown => ("unknown", "unknown"),
    };
    html! { span class={ "badge " (class) } { (word) } }
}

/// All there is to say of it.
pub(super) fn section(number: usize, own: &Explanation) -> Markup {
    let name = &own.summary.container;
    html! {
        article.container id={ "container-" (number) } aria-labelledby={ "container-" (number) "-title" } {
            h3 id={ "container-" (number) "-title" } { (shown(&data::label(name))) " " (badge(own.verdict)) }
            @if !own.reasons.is_empty() {
                ul.reasons { @for reason in &own.reasons { li { (shown(reason)) } } }
            }
            @if own.as_referenced > 0 {
                p { (counted(own.as_referenced, "file that it executed is", "files that it executed are")) " as in the reference of its image." }
            }
            dl.facts {
                (identity(own))
                (image(own))
                (start(own))
                (listed("Upper layer", &own.upper, |text| html! { code { (shown(text)) } }))
            }
            @if let Some(admission) = &own.admission { (asked(admission)) }
            (drift(&own.drift))
            (joined(&own.joined))
        }
    }
}

fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn identity(own: &Explanation) -> Markup {
    let summary = &own.summary;
    let state = html! {
        @match summary.state {
            State::Alive => "alive when its list ends",
            State::Gone => { "gone " (or_dash(summary.gone.as_deref(), time)) @if let Some(how) = &summary.how { ", " (shown(how)) } }
            State::Refused => "refused: it never ran",
            State::BootOver => "its boot is over, and its end is not in the list",
        }
        @if let Some(status) = summary.status { ", wait status " (status) }
    };
    let first = summary.created.as_deref().or(summary.first_seen.as_deref());
    html! {
        (fact("Id", &or_dash(Some(&summary.container.id), digest)))
        (fact("Node", &html! { (shown(&summary.node)) ", boot " (or_dash(summary.boot_id.as_deref(), code)) }))
        (fact("Made", &or_dash(first, time)))
        (fact("State", &state))
        (fact("Seen", &html! {
            (counted(summary.executions, "execution", "executions")) ", "
            (counted(summary.events, "event", "events")) ", "
            (counted(summary.violations, "violation", "violations"))
            @if summary.violations > 0 { " (" a href="#violations" { "listed below" } ")" }
        }))
    }
}

fn image(own: &Explanation) -> Markup {
    let image = &own.image;
    let reference = match (image.has_reference, &image.reference_name) {
        (true, Some(name)) => code(name),
        (true, None) => html! { "there is one, without a name" },
        (false, _) if image.published.is_empty() => html! { "none" },
        (false, _) => html! {
            "none; " strong { "of that name are" } " "
            @for (nth, published) in image.published.iter().take(ROWS).enumerate() { @if nth > 0 { ", " } (digest(published)) }
        },
    };
    html! {
        (fact("Claimed image", &or_dash(image.reference.as_deref(), code)))
        (fact("Claimed manifest", &or_dash(image.manifest_digest.as_deref(), digest)))
        (fact("Claimed config", &or_dash(image.config_digest.as_deref(), digest)))
        (fact("Measured image", &match &image.measured {
            Some(measured) => digest(measured),
            None => html! { strong { "not measured" } },
        }))
        (fact("Reference", &reference))
    }
}

fn start(own: &Explanation) -> Markup {
    let launcher = own.launched_by.as_ref().map(|by| {
        html! {
            @if by.engine.is_empty() { "an engine" } @else { (shown(&by.engine)) }
            @if let Some(uid) = by.uid { " for user " (uid) }
            @if let Some(login) = by.login_uid { ", who logged in as " (login) } @else { ", nobody logged in" }
        }
    });
    html! {
        (fact("Launched by", &launcher.unwrap_or_else(|| or_dash(None, code))))
        (fact("Command", &or_dash(Some(&own.command.join(" ")), code)))
        (listed("Volumes", &own.volumes, |volume| html! {
            (code(&volume.destination)) " shows " (code(&volume.source))
            @if volume.executed > 0 { " (" strong { (counted(volume.executed, "file", "files")) " executed" } ")" }
        }))
    }
}

/// Some of many, with how many are missing.
fn listed<T>(name: &str, all: &[T], show: impl Fn(&T) -> Markup) -> Markup {
    html! {
        @if !all.is_empty() {
            div.wide { dt { (name) } dd {
                ul.plain { @for one in all.iter().take(ROWS) { li { (show(one)) } } }
                (missing(all.len()))
            } }
        }
    }
}

fn missing(all: usize) -> Markup {
    html! {
        @if all > ROWS {
            p.left-out { "The first " (ROWS) " of " (grouped(all as u64)) ". " code { "cima explain" } " has all." }
        }
    }
}

fn asked(admission: &Admission) -> Markup {
    // What was read as JSON can be written as JSON.
    let input = serde_json::to_string_pretty(&admission.input).unwrap_or_default();
    let cut = input.char_indices().nth(INPUT).map(|(at, _)| at);
    let more = cut.map(|cut| input.len() - cut);
    let printable = |char: char| char == '\n' || (' '..='~').contains(&char);
    let input: String = input[..cut.unwrap_or(input.len())]
        .chars()
        .map(|char| if printable(char) { char } else { '?' })
        .collect();
    html! {
        h4 { "Admission: " @if admission.allowed { "allowed" } @else { strong { "denied" } } }
        @if !admission.reasons.is_empty() {
            ul.reasons { @for reason in admission.reasons.iter().take(ROWS) { li { (shown(reason)) } } }
        }
        dl.facts {
            (fact("Policy", &digest(&admission.policy)))
            (fact("Event", &event_link(&admission.event)))
        }
        details {
            summary { "What the policy was asked" }
            pre tabindex="0" { (input) }
            @if let Some(more) = more { p.left-out { (grouped(more as u64)) " more bytes: " code { "cima policy explain" } } }
        }
    }
}

/// An event that the script finds in its table.
pub(super) fn event_link(id: &str) -> Markup {
    html! { a.event href="#events" data-event=(shown(id)) { (shown(id)) } }
}

fn drift(drift: &[Drift]) -> Markup {
    html! {
        @if !drift.is_empty() {
            div.scroll role="region" aria-label="Drift" tabindex="0" {
                table.drift {
                    caption { "Executed, and not as in the reference" }
                    thead { tr {
                        th scope="col" { "First seen" }
                        th scope="col" { "File" }
                        th scope="col" { "How it differs" }
                        th scope="col" { "Digest" }
                        th scope="col" { "Event" }
                    } }
                    tbody { @for own in drift.iter().take(ROWS) { (difference(own)) } }
                }
            }
            (missing(drift.len()))
        }
    }
}

fn difference(own: &Drift) -> Markup {
    html! {
        tr {
            td { (or_dash(own.first_seen.as_deref(), time)) }
            th scope="row" { (code(&own.path)) }
            td {
                (own.why.words())
                @if let Some(volume) = &own.volume { ": " (code(volume)) }
            }
            td {
                (or_dash(own.digest.as_deref(), digest))
                @if let Some(expected) = &own.expected { div.expected { "reference: " (digest(expected)) } }
            }
            td { (event_link(&own.event)) }
        }
    }
}

fn joined(joined: &[Event]) -> Markup {
    html! {
        @if !joined.is_empty() {
            div.scroll role="region" aria-label="Joined from outside" tabindex="0" {
                table {
                    caption { "Joined from outside" }
                    thead { tr {
                        th scope="col" { "Time" }
                        th scope="col" { "Process" }
                        th scope="col" { "Namespaces" }
                        th scope="col" { "Event" }
                    } }
                    tbody { @for own in joined.iter().take(ROWS) { tr {
                        td { (or_dash(own.time.as_deref(), time)) }
                        th scope="row" { (or_dash(own.process.as_ref().map(data::process).as_deref(), code)) }
                        td { (or_dash(own.detail.as_deref(), |detail| html! { (shown(detail)) })) }
                        td { (event_link(&own.id)) }
                    } } }
                }
            }
            (missing(joined.len()))
        }
    }
}
