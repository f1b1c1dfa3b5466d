// SPDX-License-Identifier: Apache-2.0
//! Who started whom, as lists in lists that open and close by themselves.
//!
//! However deep a hostile list makes it: elements are nested to [`DEEPEST`], what is below says how deep it is.

use std::collections::HashSet;

use maud::{Markup, PreEscaped, html};

use super::{
    Part,
    container::event_link,
    text::{code, counted, shown, time},
};
use crate::query::{Branch, Executed, Explanation};

/// Generations that are nested; browsers flatten elements some hundreds deep.
const DEEPEST: u32 = 40;
/// Programs of one process that are shown, at most.
const PROGRAMS: usize = 20;

/// Node, path and digest of what is not as in an image.
type Drift<'a> = HashSet<(&'a str, &'a str, Option<&'a str>)>;

/// The tree.
pub(super) fn section(tree: &Part<Branch>, explained: &[Explanation]) -> Markup {
    let drift = explained
        .iter()
        .flat_map(|own| own.drift.iter().map(|drift| (&own.summary.node, drift)))
        .map(|(node, own)| (node.as_str(), own.path.as_str(), own.digest.as_deref()))
        .collect();
    html! {
        section #tree aria-labelledby="tree-title" {
            h2 #tree-title { "Processes" }
            @if tree.these.is_empty() {
                p { "No execution is in these lists that was asked for." }
            } @else {
                div.controls.scripted {
                    button type="button" data-tree="open" { "Open all" }
                    button type="button" data-tree="close" { "Close all" }
                }
                div.tree { (PreEscaped(nested(&lines(&tree.these), &drift))) }
            }
            @if let Some(left_out) = &tree.left_out { p.left-out { (shown(left_out)) } }
        }
    }
}

/// A process, or several in a row that did the same, and so did those below them.
struct Line<'a> {
    branch: &'a Branch,
    times: u64,
    is_leaf: bool,
}

fn lines(branches: &[Branch]) -> Vec<Line<'_>> {
    let ends = ends(branches);
    let mut lines = Vec::new();
    let mut at = 0;
    // Behind each fold that is open: where it ends, and where to go on.
    let mut folds: Vec<(usize, usize)> = Vec::new();
    while at < branches.len() {
        let end = ends[at];
        let (mut times, mut next) = (1, end);
        while next < branches.len() && is_same(&branches[at..end], &branches[next..ends[next]]) {
            (times, next) = (times + 1, ends[next]);
        }
        lines.push(Line {
            branch: &branches[at],
            times,
            is_leaf: end == at + 1,
        });
        folds.push((end, next));
        at += 1;
        while let Some((end, next)) = folds.last().copied().filter(|(end, _)| *end == at) {
            folds.pop();
            at = next.max(end);
        }
    }
    lines
}

/// Of each process the one that is not below it any more.
fn ends(branches: &[Branch]) -> Vec<usize> {
    let mut ends = vec![branches.len(); branches.len()];
    let mut open: Vec<usize> = Vec::new();
    for (at, branch) in branches.iter().enumerate() {
        while let Some(last) = open.pop_if(|last| branches[*last].depth >= branch.depth) {
            ends[last] = at;
        }
        open.push(at);
    }
    ends
}

fn is_same(one: &[Branch], other: &[Branch]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| is_alike(one, other))
}

fn is_alike(one: &Branch, other: &Branch) -> bool {
    fn key(own: &Branch) -> (&str, u32, &str, bool) {
        (&own.node, own.depth, &own.comm, own.circle)
    }
    let same = |(one, other): (&Executed, &Executed)| {
        (&one.path, &one.digest, &one.args, one.uid)
            == (&other.path, &other.digest, &other.args, other.uid)
    };
    key(one) == key(other)
        && one.executions.len() == other.executions.len()
        && one.executions.iter().zip(&other.executions).all(same)
}

fn nested(lines: &[Line<'_>], drift: &Drift<'_>) -> String {
    let mut out = String::from("<ul>");
    // Of what is open: how deep it is.
    let mut open: Vec<u32> = Vec::new();
    for line in lines {
        let depth = line.branch.depth.min(DEEPEST);
        while open.last().is_some_and(|own| *own >= depth) {
            out.push_str("</ul></details></li>");
            open.pop();
        }
        let label = label(line, drift).into_string();
        if line.is_leaf || depth == DEEPEST {
            out.push_str(&format!("<li class=\"leaf\">{label}</li>"));
        } else {
            out.push_str(&format!("<li><details open><summary>{label}</summary><ul>"));
            open.push(depth);
        }
    }
    for _ in open {
        out.push_str("</ul></details></li>");
    }
    out.push_str("</ul>");
    out
}

fn label(line: &Line<'_>, drift: &Drift<'_>) -> Markup {
    let branch = line.branch;
    let first = branch
        .executions
        .first()
        .and_then(|own| own.time.as_deref());
    let uid = branch.executions.last().and_then(|own| own.uid);
    html! {
        code.comm { (shown(&branch.comm)) }
        span.pid { "(" (branch.pid) ")" }
        @if branch.depth == 0 { span.pid { " on " (shown(&branch.node)) } }
        @if branch.depth > DEEPEST { span.pid { " generation " (branch.depth) } }
        @if branch.circle { " " strong { "named as an ancestor of itself: its place is not known" } }
        @for (nth, own) in branch.executions.iter().take(PROGRAMS).enumerate() {
            @if nth > 0 { span.pid { " then" } }
            " " (program(&branch.node, own, drift))
        }
        @if branch.executions.len() > PROGRAMS {
            " and " (counted((branch.executions.len() - PROGRAMS) as u64, "other program", "other programs"))
        }
        @if let Some(uid) = uid { span.pid { " uid " (uid) } }
        @if line.times > 1 { span.pid { ", " } strong { (line.times) " times in a row" } }
        @if let Some(first) = first { span.when { (time(first)) } }
    }
}

fn program(node: &str, own: &Executed, drift: &Drift<'_>) -> Markup {
    let path = own.path.as_deref().unwrap_or_default();
    // The first is the program's own name.
    let args = own.args.get(1..).unwrap_or_default().join(" ");
    html! {
        (code(path))
        @if !args.is_empty() { " " span.args { (shown(&args)) } }
        @if drift.contains(&(node, path, own.digest.as_deref())) {
            " " span.badge.bad { "not as in the reference" } " " (event_link(&own.event))
        } @else if own.digest.is_none() && drift.iter().any(|(on, of, _)| (*on, *of) == (node, path)) {
            " " span.badge.unknown { "perhaps not as in the reference" } " " (event_link(&own.event))
        }
    }
}
