// SPDX-License-Identifier: Apache-2.0
//! A container explained: what was claimed of it, what was measured, what it executed that its image does not have, and whether it
//! was let.

use std::collections::HashMap;

use ima_log::Digest;
use image_digest::ImageDigest;
use rusqlite::params;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    Event, Filter, Kind, Page, Query, QueryError, Standing, Summary, VERSION, event::shown,
    index::Container,
};
use crate::{
    measure::proto::{self, context_event::What},
    verify::{BatchView, References, Standing as OfReference},
};

/// Events of one sort that are shown, at most.
const MOST: u64 = 200;

/// What there is to say of a container.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Explanation {
    /// Of this JSON: 1.
    pub v: u32,
    /// Which, and how it fared.
    pub summary: Summary,
    /// Whether anything speaks against it.
    pub verdict: Finding,
    /// A sentence for each thing that does.
    pub reasons: Vec<String>,
    /// What is claimed of its image, and what was measured.
    pub image: ImageClaim,
    /// What the node's policy said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<Admission>,
    /// Who asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launched_by: Option<Launcher>,
    /// Its first program, with arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// What of the host it shows.
    pub volumes: Vec<Volume>,
    /// Changes that its upper layer had before it started.
    pub upper: Vec<String>,
    /// What it executed that is not as in the reference of its image, or cannot be.
    pub drift: Vec<Drift>,
    /// How many files it executed that are as in the reference.
    pub as_referenced: u64,
    /// Who joined it from outside: `podman exec`, `nsenter`.
    pub joined: Vec<Event>,
    /// What should not have been.
    pub violations: Vec<Event>,
}

/// Whether anything speaks against a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Nothing does, and all of it is in its image's reference.
    Good,
    /// Something does.
    Bad,
    /// Nothing does, but there is no reference to compare with.
    Unknown,
}

/// An image, by its several names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ImageClaim {
    /// What the engine calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The manifest that the engine says it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// The config that the engine says it is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// What was measured; absent: it could not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<String>,
    /// Whether there is a reference of what was measured.
    pub has_reference: bool,
    /// The name in that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_name: Option<String>,
    /// Of what was measured there is no reference, but of other images that go by the name that the engine calls it: these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<String>,
}

/// What the admission policy said.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Admission {
    /// Whether it might start.
    pub allowed: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// Digest of the policy.
    pub policy: String,
    /// What it was asked, if that can be read.
    pub input: Value,
    /// The event.
    pub event: String,
}

/// Who asked for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Launcher {
    /// The engine.
    pub engine: String,
    /// Its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u64>,
    /// Who logged in; absent: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u64>,
}

/// Something of the host's that the container shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Volume {
    /// Where in the container.
    pub destination: String,
    /// What of the host.
    pub source: String,
    /// How many files out of it were executed.
    pub executed: u64,
}

/// A file that is not as in the reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Drift {
    /// As the container saw it.
    pub path: String,
    /// What was executed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What the reference has there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// How it differs.
    pub why: Why,
    /// The volume that it came out of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The event that tells of it first.
    pub event: String,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<String>,
}

/// How a file differs from a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It came out of a volume, of which no reference says anything.
    Volume,
    /// The image has another content there.
    Changed,
    /// The image has nothing executable there.
    NotInImage,
    /// It was hashed otherwise than the reference.
    Incomparable,
    /// It could not be hashed.
    NoDigest,
}

impl Why {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Volume => "out of a volume",
            Self::Changed => "the reference has another content there",
            Self::NotInImage => "not in the reference",
            Self::Incomparable => "hashed otherwise than the reference",
            Self::NoDigest => "could not be hashed",
        }
    }
}

impl Query<'_> {
    /// The containers that `filter` asks for, each explained, with what `references` say of their images.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn explain(
        &mut self,
        filter: &Filter,
        references: &References,
    ) -> Result<Vec<Explanation>, QueryError> {
        let containers = self.containers(filter, false)?;
        let last = self.last_boots();
        let own = containers.into_iter().filter(|own| own.became.is_none());
        let own = own.filter_map(|own| Some((self.summary(&own, &last)?, own)));
        Vec::from_iter(own)
            .into_iter()
            .map(|(summary, own)| self.explanation(&own, summary, references))
            .collect()
    }

    /// One of them explained.
    pub(crate) fn explanation(
        &mut self,
        container: &Container,
        summary: Summary,
        references: &References,
    ) -> Result<Explanation, QueryError> {
        let (created, event) = self.created(container)?.unzip();
        let input: Value = created
            .as_ref()
            .and_then(|created| serde_json::from_str(&created.input).ok())
            .unwrap_or_default();
        let measured: Option<ImageDigest> = container.image.parse().ok();
        let (image, published) = claim(&input, measured, references);
        let (drift, as_referenced) = self.drift(container, &published, references)?;
        let of = |kinds: Vec<Kind>, violations| Filter {
            kinds,
            violations,
            ..Filter::default()
        };
        let joined = self.some_of(container, &of(vec![Kind::Join], false))?;
        let violations = self.some_of(container, &of(Vec::new(), true))?;
        let mut explanation = Explanation {
            v: VERSION,
            verdict: Finding::Unknown,
            reasons: Vec::new(),
            image,
            admission: created
                .as_ref()
                .zip(event)
                .map(|(created, event)| admission(created, &input, event)),
            launched_by: launcher(&input),
            command: texts(&input, "/process/args"),
            volumes: volumes(created.as_ref(), &drift),
            upper: upper(&input),
            drift,
            as_referenced,
            joined,
            violations,
            summary,
        };
        explanation.judge();
        Ok(explanation)
    }

    /// What its making says, and what that event is called.
    fn created(
        &mut self,
        container: &Container,
    ) -> Result<Option<(proto::Created, String)>, QueryError> {
        let Some(hit) = container
            .created
            .map(|id| self.hit(id))
            .transpose()?
            .flatten()
        else {
            return Ok(None);
        };
        let name = self.event_name(&hit);
        let Some(list) = self.index.list(hit.id) else {
            return Ok(None);
        };
        let (id, list) = (list.id, list.list.clone());
        let entry = self.entry(id, &list, &hit)?;
        let payload = entry.fields().ok().and_then(|fields| fields.payload);
        let event = payload
            .and_then(BatchView::of)
            .and_then(|batch| batch.nth(hit.nth?)?.event);
        Ok(event.and_then(|event| match event.what {
            Some(What::Created(created)) => Some((created, name)),
            _ => None,
        }))
    }

    /// Some events of one container.
    fn some_of(
        &mut self,
        container: &Container,
        filter: &Filter,
    ) -> Result<Vec<Event>, QueryError> {
        let mut events = Vec::new();
        let page = Page {
            limit: Some(MOST),
            ..Page::default()
        };
        self.events_of(container.id, filter, &page, |event| {
            events.push(event);
            Ok::<_, QueryError>(true)
        })?;
        Ok(events)
    }

    /// What it executed, beside what these images have; and how many files were as they should be.
    fn drift(
        &mut self,
        container: &Container,
        images: &[ImageDigest],
        references: &References,
    ) -> Result<(Vec<Drift>, u64), QueryError> {
        let mut statement = self.index.connection.prepare_cached(
            "SELECT file.path, file.digest, sighting.first FROM sighting JOIN file ON file.id = sighting.file \
             WHERE sighting.container IN (SELECT id FROM container WHERE id = ?1 OR became = ?1) AND sighting.count > 0 ORDER BY sighting.first",
        )?;
        let rows = statement.query_map(params![container.id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
        let rows: Vec<(Vec<u8>, Option<String>, i64)> = rows.collect::<Result<_, _>>()?;
        let known: HashMap<&[u8], bool> = rows
            .iter()
            .filter(|(_, digest, _)| digest.is_some())
            .map(|(path, ..)| (path.as_slice(), true))
            .collect();
        let (mut drift, mut as_referenced) = (Vec::new(), 0);
        for (path, digest, first) in &rows {
            // An execution; its file was mapped, too.
            if digest.is_none() && known.contains_key(path.as_slice()) {
                continue;
            }
            let Some(hit) = self.hit(*first)? else {
                continue;
            };
            let event = self.event(&hit)?;
            match standing(&event, path, digest.as_deref(), images, references) {
                Some((why, expected)) => drift.push(Drift {
                    path: shown(path),
                    digest: digest.clone(),
                    expected,
                    why,
                    volume: event.volume,
                    event: event.id,
                    first_seen: event.time,
                }),
                None if digest.is_some() && !images.is_empty() => as_referenced += 1,
                None => {}
            }
        }
        Ok((drift, as_referenced))
    }
}

/// How a file differs from what each of these images has, and what the first has; `None`: it does not, or nothing is known.
fn standing(
    event: &Event,
    path: &[u8],
    digest: Option<&str>,
    images: &[ImageDigest],
    references: &References,
) -> Option<(Why, Option<String>)> {
    if event.volume.is_some() {
        return Some((Why::Volume, None));
    }
    // An execution of which nothing was mapped says nothing of a content.
    if event.kind == Kind::Exec && digest.is_none() {
        return None;
    }
    let digest = digest.and_then(parse);
    let Some(digest) = digest else {
        return Some((Why::NoDigest, None));
    };
    let of_each = images
        .iter()
        .map(|image| references.standing(image, path, &digest));
    match of_each.min_by_key(|standing| *standing != OfReference::Known)? {
        OfReference::Known | OfReference::NoReference => None,
        OfReference::Changed { expected } => {
            let expected = format!("sha256:{}", hex::encode(expected));
            Some((Why::Changed, Some(expected)))
        }
        OfReference::Missing => Some((Why::NotInImage, None)),
        OfReference::Incomparable => Some((Why::Incomparable, None)),
    }
}

/// `<algorithm>:<hex>`.
fn parse(text: &str) -> Option<Digest> {
    let (algorithm, digits) = text.split_once(':')?;
    let algorithm = ima_log::HashAlgorithm::from_name(algorithm)?;
    Digest::new(algorithm, &hex::decode(digits).ok()?).ok()
}

impl Explanation {
    /// What speaks against it, in words.
    fn judge(&mut self) {
        let mut reasons = Vec::new();
        match self.summary.verdict {
            Standing::Unannounced => {
                reasons.push("no hook announced it: its image is not known".to_owned());
            }
            Standing::Denied => reasons.push("the node's policy denied it".to_owned()),
            Standing::Unmeasured => reasons.push("its image could not be measured".to_owned()),
            Standing::Clean | Standing::Violations => {}
        }
        if let (Some(name), false) = (&self.image.reference, self.image.published.is_empty()) {
            reasons.push(format!("its image is none that was published as {name}"));
        }
        let counted = |count: usize, one: &str, more: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {more}")),
        };
        let drift = |why: Why| self.drift.iter().filter(|drift| drift.why == why).count();
        reasons.extend(counted(
            drift(Why::Changed),
            "executed file has another content than in the reference",
            "executed files have another content than in the reference",
        ));
        reasons.extend(counted(
            drift(Why::NotInImage),
            "executed file is not in the reference",
            "executed files are not in the reference",
        ));
        reasons.extend(counted(
            drift(Why::Volume),
            "executed file came out of a volume",
            "executed files came out of volumes",
        ));
        reasons.extend(counted(
            drift(Why::NoDigest),
            "executed file could not be hashed",
            "executed files could not be hashed",
        ));
        reasons.extend(counted(
            drift(Why::Incomparable),
            "executed file was hashed otherwise than the reference",
            "executed files were hashed otherwise than the reference",
        ));
        reasons.extend(counted(
            usize::try_from(self.summary.violations).unwrap_or(usize::MAX),
            "event should not have been",
            "events should not have been",
        ));
        reasons.extend(counted(
            self.upper.len(),
            "change was in its upper layer before it started",
            "changes were in its upper layer before it started",
        ));
        self.verdict = match (reasons.is_empty(), self.image.has_reference) {
            (false, _) => Finding::Bad,
            (true, true) => Finding::Good,
            (true, false) => Finding::Unknown,
        };
        if self.verdict == Finding::Unknown {
            reasons.push("there is no reference of its image to compare with".to_owned());
        }
        self.reasons = reasons;
    }
}

fn text(input: &Value, pointer: &str) -> Option<String> {
    let text = input.pointer(pointer)?.as_str()?;
    (!text.is_empty()).then(|| shown(text.as_bytes()))
}

fn texts(input: &Value, pointer: &str) -> Vec<String> {
    let values = input.pointer(pointer).and_then(Value::as_array);
    let values = values.map_or(&[][..], Vec::as_slice).iter();
    values
        .map(|value| shown(value.as_str().unwrap_or_default().as_bytes()))
        .collect()
}

/// What is claimed of an image, and of which images the references are that it must be like: its own, or those of its name.
fn claim(
    input: &Value,
    measured: Option<ImageDigest>,
    references: &References,
) -> (ImageClaim, Vec<ImageDigest>) {
    let reference = text(input, "/image/reference");
    let known = measured.filter(|image| references.has(image));
    let of_name = match (known, input.pointer("/image/reference")) {
        (None, Some(Value::String(name))) if measured.is_some() => references.named(name),
        _ => Vec::new(),
    };
    let claim = ImageClaim {
        reference,
        manifest_digest: text(input, "/image/manifest_digest"),
        config_digest: text(input, "/image/config_digest"),
        measured: measured.as_ref().map(ToString::to_string),
        has_reference: known.is_some(),
        reference_name: known
            .and_then(|image| references.name(&image).map(str::to_owned))
            .map(|name| shown(name.as_bytes())),
        published: of_name.iter().map(ToString::to_string).collect(),
    };
    let images = known.map_or(of_name, |image| vec![image]);
    (claim, images)
}

fn admission(created: &proto::Created, input: &Value, event: String) -> Admission {
    let reasons = created.reasons.iter();
    Admission {
        allowed: created.allowed,
        reasons: reasons.map(|reason| shown(reason.as_bytes())).collect(),
        policy: format!("sha256:{}", hex::encode(&created.policy)),
        input: printable(input.clone()),
        event,
    }
}

/// A value whose texts can be shown.
fn printable(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(shown(text.as_bytes())),
        Value::Array(values) => values.into_iter().map(printable).collect(),
        Value::Object(values) => values
            .into_iter()
            .map(|(key, value)| (shown(key.as_bytes()), printable(value)))
            .collect(),
        value => value,
    }
}

fn launcher(input: &Value) -> Option<Launcher> {
    let by = input.pointer("/container/launched_by")?;
    let number = |key: &str| by.get(key).and_then(Value::as_u64);
    Some(Launcher {
        engine: text(input, "/container/engine").unwrap_or_default(),
        uid: number("uid"),
        login_uid: number("login_uid"),
    })
}

fn volumes(created: Option<&proto::Created>, drift: &[Drift]) -> Vec<Volume> {
    let volumes = created.map_or(&[][..], |created| created.volumes.as_slice());
    let volume = |volume: &proto::Volume| {
        let source = shown(volume.source.as_bytes());
        let of_it = drift
            .iter()
            .filter(|drift| drift.volume.as_ref() == Some(&source));
        Volume {
            destination: shown(volume.destination.as_bytes()),
            executed: of_it.count() as u64,
            source,
        }
    };
    volumes.iter().map(volume).collect()
}

/// What the audit of the upper layer found.
fn upper(input: &Value) -> Vec<String> {
    let findings = input.pointer("/upper/findings").and_then(Value::as_array);
    let findings = findings.map_or(&[][..], Vec::as_slice).iter();
    let finding = |finding: &Value| {
        let text = |pointer| text(finding, pointer).unwrap_or_default();
        format!("{}: {} ({})", text("/path"), text("/what"), text("/why"))
    };
    findings.map(finding).collect()
}
