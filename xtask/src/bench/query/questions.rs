// SPDX-License-Identifier: Apache-2.0
//! What is asked, in each one's language. Whoever answers gives the same rows, or the figures do not count.

use std::process::Command;

use serde_json::Value;

use super::timing::once;
use crate::error::Error;

/// Events of a page.
const PAGE: usize = 100;

/// Whom and what the questions are about.
pub(super) struct Subject {
    container: String,
    digest: String,
}

impl Subject {
    /// A program that was built on several nodes, and the container that built it on the node in the middle.
    pub(super) fn choose(cima: impl Fn(&[&str]) -> Command) -> Result<Self, Error> {
        let asked = "events --json --limit 1 --kind map --node =node-10 --path /work/obj/";
        let words: Vec<_> = asked.split(' ').collect();
        let (_, output) = once("cima", &mut cima(&words))?;
        let line = output.stdout.split(|byte| *byte == b'\n').next();
        let event: Option<Value> = line.and_then(|line| serde_json::from_slice(line).ok());
        let text = |pointer: &str| {
            let value = event.as_ref().and_then(|event| event.pointer(pointer));
            value.and_then(Value::as_str).map(str::to_owned)
        };
        match (text("/container/id"), text("/digest")) {
            (Some(container), Some(digest)) => Ok(Self { container, digest }),
            _ => Err(Error::Environment(
                "`cima events` does not know of the program that the questions are about.".into(),
            )),
        }
    }
}

/// One question.
pub(super) struct Question {
    pub(super) name: &'static str,
    pub(super) target_ms: f64,
    pub(super) cima: Vec<String>,
    /// What of cima's answer, a JSON object for each row, the others give as an array.
    columns: &'static [&'static str],
    /// Prints a JSON array for each row.
    pub(super) shell: String,
    pub(super) sql: String,
}

impl Question {
    pub(super) fn all(subject: &Subject) -> [Self; 3] {
        [
            Self::events(&subject.container),
            Self::whereis(&subject.digest),
            Self::ps(),
        ]
    }

    /// What a container did, the first page.
    fn events(container: &str) -> Self {
        Self {
            name: "events of a container, a page",
            target_ms: 50.0,
            cima: words(&format!(
                "events --json --limit {PAGE} --container {container}"
            )),
            columns: &["/id"],
            shell: format!(
                "grep -F {container} \"$1\" | jq -c 'select(.container.id == \"{container}\") | [.id]' | head -n {PAGE}"
            ),
            sql: format!(
                "SELECT id FROM events WHERE container.id = '{container}' ORDER BY node, entry, event LIMIT {PAGE}"
            ),
        }
    }

    /// Which containers had a file of this content, and where.
    fn whereis(digest: &str) -> Self {
        Self {
            name: "whereis",
            target_ms: 50.0,
            cima: words(&format!("whereis --json {digest}")),
            columns: &["/node", "/container/id", "/path"],
            shell: format!(
                "grep -F {digest} \"$1\" | jq -c 'select(.kind == \"map\" and .digest == \"{digest}\") | [.node, .container.id, .path]' | sort -u"
            ),
            sql: format!(
                "SELECT DISTINCT node, container.id, path FROM events WHERE kind = 'map' AND digest = '{digest}'"
            ),
        }
    }

    /// Which containers there were.
    fn ps() -> Self {
        Self {
            name: "ps",
            target_ms: 100.0,
            cima: words("ps --json"),
            columns: &["/node", "/container/id"],
            shell: "grep -F '\"kind\":\"created\"' \"$1\" | jq -c 'select(.kind == \"created\") | [.node, .container.id]' | sort -u".to_owned(),
            sql: "SELECT DISTINCT node, container.id FROM events WHERE kind = 'created'".to_owned(),
        }
    }

    /// The rows of an answer of cima's, sorted.
    pub(super) fn rows_of_cima(&self, answer: &[u8]) -> Result<Vec<String>, Error> {
        // Who only has events knows of no container but those that were announced.
        let of_all = |row: &Value| self.name != "ps" || row.pointer("/container/number").is_some();
        let rows = lines(answer).map(serde_json::from_slice::<Value>);
        let rows = rows.filter(|row| row.as_ref().map_or(true, of_all));
        let rows = rows.map(|row| {
            let row = row.ok()?;
            let columns = self
                .columns
                .iter()
                .map(|column| row.pointer(column).cloned());
            columns.collect::<Option<Value>>()
        });
        self.sorted("cima", rows)
    }

    /// Fails unless a peer said the same as cima.
    pub(super) fn compare(&self, who: &str, cima: &[String], answer: &[u8]) -> Result<(), Error> {
        let rows = lines(answer).map(|line| serde_json::from_slice(line).ok());
        let rows = self.sorted(who, rows)?;
        if rows == cima {
            return Ok(());
        }
        let message = format!(
            "To `{}` {who} gave {} rows and cima {}, or others.",
            self.name,
            rows.len(),
            cima.len()
        );
        Err(Error::Environment(message))
    }

    fn sorted(
        &self,
        who: &str,
        rows: impl Iterator<Item = Option<Value>>,
    ) -> Result<Vec<String>, Error> {
        let rows: Option<Vec<_>> = rows.map(|row| Some(row?.to_string())).collect();
        let mut rows = rows.unwrap_or_default();
        rows.sort();
        rows.dedup();
        if rows.is_empty() {
            let message = format!("To `{}` {who} gave no answer, or none in JSON.", self.name);
            return Err(Error::Environment(message));
        }
        Ok(rows)
    }
}

fn lines(answer: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = answer.split(|byte| *byte == b'\n');
    lines.filter(|line| !line.is_empty())
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}
