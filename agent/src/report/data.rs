// SPDX-License-Identifier: Apache-2.0
//! Events as the page's script reads them: rows of numbers, each of which is a text in one table.
//!
//! What recurs is there once, so that 20,000 events take some megabytes; whatever a list claims, no more than [`BYTES`] are taken.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::text::{for_script, shown};
use crate::query::{ContainerName, Event, Explanation, Process};

/// Of texts and rows, at most.
const BYTES: usize = 12 << 20;
/// Digits of a row's numbers, and what stands between them, about.
const ROW_BYTES: usize = 80;

const VIOLATION: u32 = 1;
/// The time is that of the event before.
const NOT_BEFORE: u32 = 2;
const DAMAGED: u32 = 4;
/// What was executed is not as in the reference.
const DRIFT: u32 = 8;
/// What was executed is one of several, of which some are not.
const PERHAPS: u32 = 16;
/// It names an image, or what nobody announced, but no container.
const NOBODY: u32 = 32;

/// The columns of a row, in order: numbers of texts, but for the flags.
type Row = [u32; 12];

/// Events of a page.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Embedded {
    /// The first is empty.
    texts: Vec<String>,
    events: Vec<Row>,
    #[serde(skip)]
    known: HashMap<String, u32>,
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    drift: HashSet<Place>,
    /// What is not among them; a sentence.
    #[serde(skip)]
    pub left_out: Option<String>,
}

/// Of a file in a container: node, id of the container, path, digest.
type Place = (String, String, String, String);

impl Embedded {
    /// No events so far; of what `explained` says is not as in the reference, each will be marked.
    #[must_use]
    pub fn of(explained: &[Explanation]) -> Self {
        let mut drift = HashSet::new();
        for explanation in explained {
            let summary = &explanation.summary;
            for own in &explanation.drift {
                let place = (
                    summary.node.clone(),
                    summary.container.id.clone(),
                    own.path.clone(),
                    own.digest.clone().unwrap_or_default(),
                );
                drift.insert(place);
            }
        }
        Self {
            texts: vec![String::new()],
            known: HashMap::from([(String::new(), 0)]),
            drift,
            ..Self::default()
        }
    }

    /// Takes an event; false: there is no room for it.
    pub fn push(&mut self, event: &Event) -> bool {
        if self.bytes > BYTES {
            return false;
        }
        let time = event.time.as_ref().or(event.not_before.as_ref());
        let (container, container_id) = match &event.container {
            Some(name) => (label(name), name.id.as_str()),
            None => (String::new(), ""),
        };
        let process = event.process.as_ref().map(process).unwrap_or_default();
        let row = [
            self.text(&event.id),
            self.text(time.map_or("", String::as_str)),
            self.text(&event.node),
            self.text(&container),
            self.text(container_id),
            self.text(event.kind.word()),
            self.flags(event),
            self.text(&process),
            self.text(event.path.as_deref().unwrap_or_default()),
            self.text(&digests(event)),
            self.text(&detail(event)),
            self.text(&ancestors(event)),
        ];
        self.events.push(row);
        self.bytes += ROW_BYTES;
        true
    }

    /// Events that came latest first.
    pub fn reverse(&mut self) {
        self.events.reverse();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// When the first of them was.
    #[must_use]
    pub fn first_time(&self) -> Option<&str> {
        let time = self.events.first()?[1];
        self.texts.get(time as usize).map(String::as_str)
    }

    /// As JSON that the content of an element `script` can be.
    pub(super) fn json(&self) -> String {
        // Numbers and texts: nothing that could fail.
        for_script(&serde_json::to_string(self).unwrap_or_default())
    }

    fn flags(&self, event: &Event) -> u32 {
        let flag = |is: bool, flag| if is { flag } else { 0 };
        flag(event.violation, VIOLATION)
            | flag(
                event.time.is_none() && event.not_before.is_some(),
                NOT_BEFORE,
            )
            | flag(event.damaged.is_some(), DAMAGED)
            | flag(event.container.as_ref().is_some_and(is_nobody), NOBODY)
            | self.drift_flag(event)
    }

    fn drift_flag(&self, event: &Event) -> u32 {
        if self.drift.is_empty() || !event.kind.is_execution() {
            return 0;
        }
        let (Some(container), Some(path)) = (&event.container, &event.path) else {
            return 0;
        };
        let is_drift = |digest: &String| {
            let (node, id) = (event.node.clone(), container.id.clone());
            let place = (node, id, path.clone(), digest.clone());
            self.drift.contains(&place)
        };
        if is_drift(&event.digest.clone().unwrap_or_default()) {
            DRIFT
        } else if event.digests.iter().any(is_drift) {
            PERHAPS
        } else {
            0
        }
    }

    /// The number of a text.
    fn text(&mut self, text: &str) -> u32 {
        let text = shown(text);
        if let Some(number) = self.known.get(&text) {
            return *number;
        }
        // There are no more than the columns of some thousand rows.
        let number = u32::try_from(self.texts.len()).unwrap_or(0);
        self.bytes += text.len() + 4;
        self.texts.push(text.clone());
        self.known.insert(text, number);
        number
    }
}

fn is_nobody(name: &ContainerName) -> bool {
    name.id.is_empty() && name.name.is_empty() && name.mnt_ns.is_none() && name.number.is_none()
}

/// What people call a container.
pub(super) fn label(name: &ContainerName) -> String {
    let id = name.id.get(..12).unwrap_or(&name.id);
    match (name.name.as_str(), id, name.mnt_ns) {
        ("", "", Some(mnt_ns)) => format!("mnt:{mnt_ns}"),
        // An entry for verifiers names an image, and no container of it.
        ("", "", None) if !name.image.is_empty() => {
            let digits = name.image.strip_prefix("sha256:").unwrap_or(&name.image);
            format!("any of image {}", digits.get(..12).unwrap_or(digits))
        }
        ("", "", None) => "unannounced".to_owned(),
        ("", id, _) => id.to_owned(),
        (name, ..) => name.to_owned(),
    }
}

/// `sh(409) uid 33 login 1000`.
pub(super) fn process(process: &Process) -> String {
    let login = process.login_uid.map(|login| format!(" login {login}"));
    format!(
        "{}({}) uid {}{}",
        process.comm,
        process.pid,
        process.uid,
        login.unwrap_or_default()
    )
}

fn digests(event: &Event) -> String {
    match &event.digest {
        Some(digest) => digest.clone(),
        None => event.digests.join(" or "),
    }
}

/// What is to be said besides: arguments, volume, detail, damage.
pub(super) fn detail(event: &Event) -> String {
    let mut parts = Vec::new();
    if !event.args.is_empty() {
        let more = if event.args_truncated { " ..." } else { "" };
        parts.push(format!("[{}{more}]", event.args.join(" ")));
    }
    parts.extend(event.volume.iter().map(|volume| format!("volume {volume}")));
    parts.extend(event.detail.clone());
    parts.extend(event.damaged.iter().map(|why| format!("DAMAGED: {why}")));
    parts.join("; ")
}

fn ancestors(event: &Event) -> String {
    let of = |parent: &crate::query::Ancestor| format!("{}({})", parent.comm, parent.pid);
    Vec::from_iter(event.ancestors.iter().map(of)).join(" < ")
}
