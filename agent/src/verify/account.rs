// SPDX-License-Identifier: Apache-2.0
//! What a list says of each container, taken down while it is read, and judged by reference values and policy.
//!
//! A policy event does not say which container it is of, nor how often: context events do. So files and violations are judged where a
//! context event tells of them, and policy events that none did at the end, as the node's. Kept are containers and what is to be said of them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cima_policies::{
    AcceptedSink, Level, VerificationPolicy,
    admission::{Admission, Input},
};
use ima_log::{Digest, EscapedName, Fields, HashAlgorithm};
use image_digest::ImageDigest;
use serde::Deserialize;

use super::{
    Start,
    batch::identity_of,
    fault::shown,
    findings::{AgentPart, ContainerFinding, Findings, Rating, ReasonKind, Reasons},
    known::Key,
    references::{References, Standing},
    tally::Tally,
};
use crate::measure::{
    Anchorage, PolicyEvent,
    proto::{self, context_event::What},
    unescape,
};

/// Identities that are remembered by their bytes.
const IDENTITIES: usize = 4096;
/// Parts of the agent that are told: six, and each change of a policy.
const PARTS: usize = 1000;
/// Policy events that are kept until a context event tells of them; what is beyond is the node's at once.
const PENDING: usize = 1 << 16;
/// Bytes of a text from the list that are shown.
const SHOWN: usize = 300;

/// What a list is judged by.
#[derive(Debug, Default)]
pub struct Terms {
    /// What images are known to execute.
    pub references: Option<References>,
    /// What is accepted; none: containers are listed, and not judged.
    pub policy: Option<VerificationPolicy>,
    /// Asked again of each container.
    pub admission: Option<Admission>,
}

impl Terms {
    /// What becomes of a finding, by this rule.
    fn level(&self, rule: impl FnOnce(&VerificationPolicy) -> Level) -> Level {
        self.policy.as_ref().map_or(Level::Warn, rule)
    }

    fn of_violation(&self, kind: &str) -> Level {
        self.level(|policy| policy.violation(kind))
    }
}

/// What is known of a list so far.
#[derive(Debug)]
pub(super) struct Account {
    terms: Arc<Terms>,
    containers: Vec<Container>,
    by_number: HashMap<u64, usize>,
    by_namespace: HashMap<(u32, u64), usize>,
    /// Containers that were denied, by mount namespace and by id: whoever is there is registered as nobody.
    denied_in: HashMap<(u32, u64), usize>,
    denied_as: HashMap<String, usize>,
    /// Which container an identity is of, by its bytes.
    identities: HashMap<Box<[u8]>, usize>,
    /// The last of these that was asked for.
    last: Option<(Box<[u8]>, usize)>,
    pending: HashMap<Key, Pending>,
    /// Whether a Start event said what anchors the list.
    started: bool,
    /// Anchors that the list names by themselves, and where first.
    sinks: Vec<(Anchorage, u64)>,
    agent: Vec<AgentPart>,
    node: Reasons,
}

/// A policy event that no context event told of so far.
#[derive(Debug)]
struct Pending {
    index: u64,
    kind: ReasonKind,
    level: Level,
    sentence: String,
}

#[derive(Debug)]
struct Container {
    found: ContainerFinding,
    image: Option<ImageDigest>,
    created_ns: u64,
    /// What was written over the image before it began, as far as its audit lists it.
    written: HashSet<String>,
    reasons: Reasons,
}

/// What is read of an admission input, whatever its version.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    container: ToldContainer,
    image: ToldImage,
    upper: ToldUpper,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToldContainer {
    name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToldImage {
    reference: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToldUpper {
    dirty: bool,
    audited: bool,
    findings: Vec<ToldFinding>,
}

#[derive(Deserialize)]
struct ToldFinding {
    path: String,
}

/// A context event of a task, and what goes with it.
pub(super) struct Seen<'a> {
    /// Entries before the one that has it.
    pub(super) index: u64,
    pub(super) time_ns: u64,
    /// [`super::BatchView::identity`].
    pub(super) identity: Option<&'a [u8]>,
    pub(super) file: &'a proto::File,
    /// The policy event that goes with it, where that is, and its key.
    pub(super) policy_event: Option<(&'a PolicyEvent, u64, Key)>,
}

impl Account {
    pub(super) fn new(terms: Arc<Terms>) -> Self {
        Self {
            terms,
            containers: Vec::new(),
            by_number: HashMap::new(),
            by_namespace: HashMap::new(),
            denied_in: HashMap::new(),
            denied_as: HashMap::new(),
            identities: HashMap::new(),
            last: None,
            pending: HashMap::new(),
            started: false,
            sinks: Vec::new(),
            agent: Vec::new(),
            node: Reasons::default(),
        }
    }

    /// Takes an entry of cima's that names what anchors the list, with its payload or not.
    pub(super) fn sink(&mut self, index: u64, name: &[u8]) {
        let named = str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        let Some(sink) = named else { return };
        if self.sinks.iter().all(|(of, _)| *of != sink) {
            self.sinks.push((sink, index));
        }
    }

    /// Takes an entry of cima's that is no batch, and has its payload.
    pub(super) fn policy_event(&mut self, index: u64, fields: &Fields<'_>, key: Option<Key>) {
        let (name, payload) = (fields.name, fields.payload.unwrap_or_default());
        let Some((kind, rest)) = split(name) else {
            return;
        };
        match kind {
            b"cima-agent" => self.part(index, rest, payload),
            b"cima-exec" => self.pend(index, key, |account| account.of_exec(rest, payload)),
            b"cima-image" => self.pend(index, key, |account| account.of_image(rest)),
            b"cima-violation" => self.pend(index, key, |account| account.of_violation(rest)),
            _ => {}
        }
    }

    /// Keeps what is to be said of a policy event, should no context event tell of it.
    fn pend(
        &mut self,
        index: u64,
        key: Option<Key>,
        found: impl FnOnce(&Self) -> Option<(ReasonKind, Level, String)>,
    ) {
        let Some(key) = key else { return };
        let Some((kind, level, sentence)) = found(self) else {
            return;
        };
        if level == Level::Accept {
            return;
        }
        if self.pending.len() >= PENDING && !self.pending.contains_key(&key) {
            // Not to be forgotten, whether or not a context event tells of it.
            let of = index.to_le_bytes();
            return self.node.add(level, kind, Some(index), &of, || sentence);
        }
        self.pending.entry(key).or_insert(Pending {
            index,
            kind,
            level,
            sentence,
        });
    }

    /// `<image>:<path>` of a file that was executed.
    fn of_exec(&self, rest: &[u8], payload: &[u8]) -> Option<(ReasonKind, Level, String)> {
        let references = self.terms.references.as_ref()?;
        let (image, path) = image_and_path(rest)?;
        let image: ImageDigest = image.parse().ok()?;
        let path = unescape(path)?;
        let digest = digest_of(payload)?;
        let known = references.standing(&image, &path, &digest);
        let (kind, level, said) = self.of_file(known, &path, &digest)?;
        let said = format!("{said}, in a container of image {image}{UNTOLD}");
        Some((kind, level, said))
    }

    fn of_image(&self, rest: &[u8]) -> Option<(ReasonKind, Level, String)> {
        let references = self.terms.references.as_ref()?;
        let image: ImageDigest = str::from_utf8(rest).ok()?.parse().ok()?;
        let level = self.terms.level(|policy| policy.containers.no_reference);
        let said = || format!("no reference is of image {image}{UNTOLD}");
        (!references.has(&image)).then(|| (ReasonKind::NoReference, level, said()))
    }

    /// `<kind>:<image>:<path>` of a violation that is a container's.
    fn of_violation(&self, rest: &[u8]) -> Option<(ReasonKind, Level, String)> {
        let (kind, rest) = split(rest)?;
        let kind = EscapedName(kind).to_string();
        if matches!(&kind[..], "loss" | "chain") {
            return None;
        }
        let level = self.terms.of_violation(&kind);
        let said = format!("{} ({}){UNTOLD}", phrase(&kind), shown(rest));
        let kind = match &kind[..] {
            "unregistered" => ReasonKind::Unregistered,
            _ => ReasonKind::Violation(kind),
        };
        Some((kind, level, said))
    }

    /// A part of the agent, by its name and the payload `v1;<digest>`.
    fn part(&mut self, index: u64, name: &[u8], payload: &[u8]) {
        let digest = payload.strip_prefix(b"v1;").unwrap_or(payload);
        let part = AgentPart {
            name: shown(name),
            digest: text(digest),
            index,
        };
        if let Some(policy) = &self.terms.policy {
            let parts = policy.agent.parts();
            let rule = parts.iter().find(|(of, _)| *of == part.name);
            let accepted = rule.map_or(&[][..], |(_, accepted)| accepted);
            let is_accepted = accepted.iter().any(|one| one.as_str() == part.digest);
            if !accepted.is_empty() && !is_accepted {
                let AgentPart { name, digest, .. } = &part;
                let of = format!("{name}:{digest}");
                let said =
                    || format!("the agent's {name} is {digest}, which the policy does not accept");
                self.node.add(
                    Level::Refuse,
                    ReasonKind::Agent,
                    Some(index),
                    of.as_bytes(),
                    said,
                );
            }
        }
        if self.agent.len() < PARTS {
            self.agent.push(part);
        }
    }

    pub(super) fn start(&mut self, index: u64, start: &Start) {
        self.started = true;
        self.anchored(Level::Refuse, Some(index), start.anchorage);
    }

    /// What the policy says of what anchors the list.
    fn anchored(&mut self, level: Level, index: Option<u64>, anchorage: Anchorage) {
        let Some(policy) = &self.terms.policy else {
            return;
        };
        let sink = match anchorage {
            Anchorage::Kernel => AcceptedSink::Kernel,
            Anchorage::ImaFile => AcceptedSink::ImaFile,
            Anchorage::Pcr => AcceptedSink::Pcr,
            Anchorage::None => AcceptedSink::None,
        };
        if !policy.list.sinks.contains(&sink) {
            let name = anchorage.name();
            let said =
                || format!("the list is anchored by {name}, which the policy does not accept");
            let of = name.as_bytes();
            self.node.add(level, ReasonKind::Sink, index, of, said);
        }
    }

    /// Batches of which a host's list has the digest only, and no ledger the rest. Of what they tell the policy can be asked nothing but
    /// what the sink is: only one puts files there.
    fn add_unread(&mut self, unread: u64) {
        let in_files = unread > 0;
        for (sink, index) in std::mem::take(&mut self.sinks) {
            // A sink that was tried need not be the one that was taken, which a Start event says, or the form of batches.
            match (sink, in_files, self.started) {
                (Anchorage::ImaFile, true, _) | (_, false, false) => {
                    self.anchored(Level::Refuse, Some(index), sink);
                }
                _ => {}
            }
        }
        if !in_files {
            return;
        }
        // Said before, if the list names it.
        self.anchored(Level::Refuse, None, Anchorage::ImaFile);
        if self.terms.policy.is_some() {
            let said = || {
                format!(
                    "{unread} batches are in the host's list by their digest only, and what they tell was not judged: give the ledger, too"
                )
            };
            self.node
                .add(Level::Warn, ReasonKind::Unread, None, b"", said);
        }
    }

    /// A container was made, or refused; `key` is that of its image's policy event.
    pub(super) fn created(
        &mut self,
        index: u64,
        time_ns: u64,
        created: &proto::Created,
        key: Option<Key>,
    ) {
        if let Some(key) = key {
            self.pending.remove(&key);
        }
        let told: Told = serde_json::from_str(&created.input).unwrap_or_default();
        let image = created.image[..].try_into().ok().map(ImageDigest::new);
        let references = self.terms.references.as_ref();
        let reference = image.and_then(|image| references?.name(&image).map(text_of));
        let ToldUpper {
            dirty,
            audited,
            findings,
        } = told.upper;
        let found = ContainerFinding {
            number: Some(created.container),
            mnt_ns: (created.mnt_ns, created.mnt_generation),
            id: text_of(&created.id),
            name: told.container.name.as_deref().map(text_of),
            image: image.map(|image| image.to_string()),
            image_name: told.image.reference.as_deref().map(text_of),
            reference,
            created: Some(index),
            allowed: Some(created.allowed),
            denied: created
                .reasons
                .iter()
                .map(|reason| text_of(reason))
                .collect(),
            policy: (!created.policy.is_empty())
                .then(|| format!("sha256:{}", hex::encode(&created.policy))),
            upper_dirty: audited.then_some(dirty),
            ..nobody()
        };
        let mut container = Container {
            found,
            image,
            created_ns: time_ns,
            written: findings.into_iter().map(|finding| finding.path).collect(),
            reasons: Reasons::default(),
        };
        judge_creation(&self.terms, index, created, &mut container);
        let slot = self.containers.len();
        self.containers.push(container);
        self.by_number.insert(created.container, slot);
        if !created.allowed {
            let place = (created.mnt_ns, created.mnt_generation);
            if created.mnt_generation != 0 {
                self.denied_in.insert(place, slot);
            }
            if !created.id.is_empty() {
                self.denied_as.insert(created.id.clone(), slot);
            }
        } else {
            self.denied_as.remove(&created.id);
        }
        // Whoever was nobody so far may be this.
        self.identities.clear();
        self.last = None;
    }

    pub(super) fn gone(&mut self, number: u64) {
        if let Some(slot) = self.by_number.get(&number) {
            self.containers[*slot].found.gone = true;
        }
    }

    /// A program was executed.
    pub(super) fn executed(&mut self, index: u64, time_ns: u64, identity: Option<&[u8]>) {
        let Some(slot) = self.whose(index, time_ns, identity) else {
            return;
        };
        self.containers[slot].found.executions += 1;
        self.ran(slot, index, time_ns);
    }

    /// Something was measured, or is a violation.
    pub(super) fn seen(&mut self, seen: &Seen<'_>, what: &What) {
        if let Some((_, _, key)) = &seen.policy_event {
            self.pending.remove(key);
        }
        let Some(slot) = self.whose(seen.index, seen.time_ns, seen.identity) else {
            return;
        };
        if let What::Mapping(mapping) = what {
            self.containers[slot].found.measured += 1;
            self.ran(slot, seen.index, seen.time_ns);
            let is_exec =
                |(event, ..): &(&PolicyEvent, u64, Key)| event.name.starts_with("cima-exec:");
            if seen.policy_event.as_ref().is_some_and(is_exec) {
                return self.mapped(slot, seen, mapping);
            }
        }
        if let Some((event, index, _)) = seen.policy_event {
            self.violated(slot, event, index);
        }
    }

    /// Something ran in a container: of one that was denied, after it was.
    fn ran(&mut self, slot: usize, index: u64, time_ns: u64) {
        let container = &mut self.containers[slot];
        if container.found.allowed == Some(false) && time_ns >= container.created_ns {
            let level = self.terms.level(|policy| policy.containers.denied_ran);
            let said = || "the node denied it, and yet something was executed there".to_owned();
            let reasons = &mut container.reasons;
            reasons.add(level, ReasonKind::DeniedRan, Some(index), b"", said);
        }
    }

    fn mapped(&mut self, slot: usize, seen: &Seen<'_>, mapping: &proto::Mapping) {
        let index = seen
            .policy_event
            .as_ref()
            .map_or(seen.index, |(_, index, _)| *index);
        let path = &seen.file.path;
        if !mapping.volume.is_empty() {
            let level = self.terms.level(|policy| policy.files.volume);
            let of = [path, mapping.volume.as_bytes()].concat();
            let said = || {
                let volume = text_of(&mapping.volume);
                format!("{} was executed from the volume {volume}", text(path))
            };
            let reasons = &mut self.containers[slot].reasons;
            return reasons.add(level, ReasonKind::Volume, Some(index), &of, said);
        }
        let (Some(references), Some(image)) = (&self.terms.references, self.containers[slot].image)
        else {
            return;
        };
        let algorithm = HashAlgorithm::from_name(&mapping.algorithm);
        let digest = algorithm.and_then(|algorithm| Digest::new(algorithm, &mapping.digest).ok());
        let Some(digest) = digest else { return };
        let known = references.standing(&image, path, &digest);
        let Some((kind, level, said)) = self.of_file(known, path, &digest) else {
            return;
        };
        let container = &mut self.containers[slot];
        let whence = whence(seen.file, &container.written);
        let of = [path, digest.bytes()].concat();
        let reasons = &mut container.reasons;
        reasons.add(level, kind, Some(index), &of, || format!("{said}{whence}"));
    }

    /// What is to be said of an executed file, if anything.
    fn of_file(
        &self,
        known: Standing,
        path: &[u8],
        digest: &Digest,
    ) -> Option<(ReasonKind, Level, String)> {
        let path = text(path);
        let level = |rule: fn(&VerificationPolicy) -> Level| self.terms.level(rule);
        Some(match known {
            // Of the image, and so of each of its containers, it is said once.
            Standing::Known | Standing::NoReference => return None,
            Standing::Changed { expected } => (
                ReasonKind::Changed,
                level(|policy| policy.files.changed),
                format!(
                    "{path} was executed with digest {digest}, and the image has sha256:{} there",
                    hex::encode(expected)
                ),
            ),
            Standing::Missing => (
                ReasonKind::NotInReference,
                level(|policy| policy.files.not_in_reference),
                format!(
                    "{path} was executed with digest {digest}, and the image has no such executable"
                ),
            ),
            Standing::Incomparable => (
                ReasonKind::Incomparable,
                level(|policy| policy.files.incomparable),
                format!(
                    "{path} has digest {digest}, and the image's reference has those by SHA-256 only"
                ),
            ),
        })
    }

    fn violated(&mut self, slot: usize, event: &PolicyEvent, index: u64) {
        let Some(rest) = event.name.strip_prefix("cima-violation:") else {
            return;
        };
        let Some((kind, rest)) = rest.split_once(':') else {
            return;
        };
        let path = image_and_path(rest.as_bytes()).map_or("", |(_, path)| path);
        let level = self.terms.of_violation(kind);
        let said = || {
            let detail = event.payload.strip_prefix("v1;").unwrap_or(&event.payload);
            let detail = text_of(detail);
            match path {
                "" => format!("{} ({detail})", phrase(kind)),
                path => format!("{}: {} ({detail})", phrase(kind), text_of(path)),
            }
        };
        let of = [event.name.as_bytes(), event.payload.as_bytes()].concat();
        let of_kind = match kind {
            "unregistered" => ReasonKind::Unregistered,
            _ => ReasonKind::Violation(text_of(kind)),
        };
        let reasons = &mut self.containers[slot].reasons;
        reasons.add(level, of_kind, Some(index), &of, said);
    }

    /// The container that an event is of.
    fn whose(&mut self, index: u64, time_ns: u64, identity: Option<&[u8]>) -> Option<usize> {
        let bytes = identity?;
        if let Some((_, slot)) = self.last.as_ref().filter(|(last, _)| **last == *bytes) {
            return Some(*slot);
        }
        if let Some(slot) = self.identities.get(bytes) {
            self.last = Some((bytes.into(), *slot));
            return Some(*slot);
        }
        let identity = identity_of(bytes)?;
        let place = (identity.mnt_ns, identity.mnt_generation);
        let slot = if identity.container != 0 {
            let number = identity.container;
            let known = self.by_number.get(&number).copied();
            known.unwrap_or_else(|| self.unknown(index, Some(number), &identity))
        } else {
            let denied = self.denied_in.get(&place);
            let denied = denied.or_else(|| self.denied_as.get(&identity.container_id));
            // The runtime may have executed something there before its hook asked.
            let is_later = |slot: &&usize| time_ns >= self.containers[**slot].created_ns;
            match (denied.filter(is_later), denied) {
                (Some(slot), _) => return Some(*slot),
                (None, Some(_)) => return None,
                (None, None) => {}
            }
            let known = self.by_namespace.get(&place).copied();
            known.unwrap_or_else(|| self.unknown(index, None, &identity))
        };
        if self.identities.len() >= IDENTITIES {
            self.identities.clear();
        }
        self.identities.insert(bytes.into(), slot);
        Some(slot)
    }

    /// A container that the list does not say the creation of.
    fn unknown(&mut self, index: u64, number: Option<u64>, identity: &proto::Identity) -> usize {
        let level = self.terms.level(|policy| policy.containers.unregistered);
        let place = (identity.mnt_ns, identity.mnt_generation);
        let mut reasons = Reasons::default();
        let said = || match number {
            Some(number) => format!("no entry says how container {number} was made"),
            None => format!(
                "no hook announced what runs in mount namespace {} of cgroup {}",
                place.0,
                text(&identity.cgroup_path)
            ),
        };
        reasons.add(level, ReasonKind::Unregistered, Some(index), b"", said);
        let slot = self.containers.len();
        self.containers.push(Container {
            found: ContainerFinding {
                number,
                mnt_ns: place,
                id: text_of(&identity.container_id),
                ..nobody()
            },
            image: None,
            created_ns: 0,
            written: HashSet::new(),
            reasons,
        });
        match number {
            Some(number) => self.by_number.insert(number, slot),
            None => self.by_namespace.insert(place, slot),
        };
        slot
    }

    /// The verdicts: of a list that is what was extended, or not.
    /// `no_quote`: why no quote vouches for the values, if none does; `unread`: batches that could not be read.
    pub(super) fn finish(
        mut self,
        tally: &Tally,
        no_quote: Option<&str>,
        unread: u64,
        is_proven: bool,
    ) -> Findings {
        self.add_pending();
        self.add_unread(unread);
        self.add_parts();
        self.add_tally(tally);
        if let (Some(policy), Some(lacking)) = (&self.terms.policy, no_quote) {
            let said = || lacking.to_owned();
            self.node
                .add(policy.list.no_quote, ReasonKind::NoQuote, None, b"", said);
        }
        let judged = self.terms.policy.is_some();
        let finish = |container: Container| finished(container, judged, is_proven);
        let containers: Vec<_> = self.containers.into_iter().map(finish).collect();
        let bad = containers.iter().filter(|one| one.rating == Rating::Bad);
        let bad = bad.count();
        if bad > 0 {
            let said = || {
                format!(
                    "{bad} of {} containers are not as they should be",
                    containers.len()
                )
            };
            self.node
                .add(Level::Refuse, ReasonKind::Containers, None, b"", said);
        }
        let rating = match self.node.rating() {
            Rating::Good if !judged => Rating::Unknown,
            rating => rating,
        };
        let (reasons, more) = self.node.into_list();
        Findings {
            judged,
            containers,
            agent: self.agent,
            rating,
            reasons,
            more,
        }
    }

    /// Of policy events that no context event tells of, nobody knows the container.
    fn add_pending(&mut self) {
        let told = !self.by_namespace.is_empty();
        let mut pending: Vec<_> = std::mem::take(&mut self.pending).into_values().collect();
        pending.sort_by_key(|one| one.index);
        for Pending {
            index,
            kind,
            level,
            sentence,
        } in pending
        {
            // An execution's context event does not say that it was one: its container is listed.
            if kind == ReasonKind::Unregistered && told {
                continue;
            }
            let of = index.to_le_bytes();
            self.node.add(level, kind, Some(index), &of, || sentence);
        }
    }

    /// What the policy names and the list does not.
    fn add_parts(&mut self) {
        let Some(policy) = &self.terms.policy else {
            return;
        };
        for (name, accepted) in policy.agent.parts() {
            let is_there = self.agent.iter().any(|part| part.name == name);
            if !accepted.is_empty() && !is_there {
                let said = || {
                    format!(
                        "the list does not say what the agent's {name} is, and the policy accepts certain ones only"
                    )
                };
                self.node.add(
                    Level::Refuse,
                    ReasonKind::Agent,
                    None,
                    name.as_bytes(),
                    said,
                );
            }
        }
    }

    fn add_tally(&mut self, tally: &Tally) {
        let of_list = |rule: fn(&cima_policies::ListRules) -> Level| {
            self.terms.level(|policy| rule(&policy.list))
        };
        let causes: Vec<_> = tally
            .losses
            .iter()
            .map(|(cause, count)| format!("{cause}: {count}"))
            .collect();
        let cases = [
            (
                tally.lost,
                ReasonKind::Loss,
                of_list(|rules| rules.loss),
                format!(
                    "events were lost on their way from the kernel ({})",
                    causes.join(", ")
                ),
            ),
            (
                tally.unwatched,
                ReasonKind::Unwatched,
                of_list(|rules| rules.unwatched),
                "times nobody watched: what ran then is not known".to_owned(),
            ),
            (
                tally.restarts,
                ReasonKind::Restart,
                of_list(|rules| rules.restart),
                "times the agent was started again after it had ended in order".to_owned(),
            ),
            (
                tally.crashes,
                ReasonKind::Crash,
                of_list(|rules| rules.crash),
                "times the agent was started again and had not ended in order".to_owned(),
            ),
        ];
        for (counted, kind, level, said) in cases {
            if counted.count > 0 {
                let said = || format!("{} {said}; this is the first", counted.count);
                self.node.add(level, kind, counted.first, b"", said);
            }
        }
    }
}

/// In a sentence on a policy event without a context event.
const UNTOLD: &str = "; no context event says in which container";

/// What is said of a container at its creation.
fn judge_creation(terms: &Terms, index: u64, created: &proto::Created, container: &mut Container) {
    let reasons = &mut container.reasons;
    if let Some(admission) = &terms.admission {
        let level = terms.level(|policy| policy.containers.admission);
        if let Some(said) = answered_otherwise(admission, created) {
            reasons.add(level, ReasonKind::Admission, Some(index), b"", || said);
        }
    }
    if !created.allowed {
        return;
    }
    let Some(image) = container.image else {
        let level = terms.level(|policy| policy.containers.unmeasured);
        let said = || "its image could not be measured".to_owned();
        return reasons.add(level, ReasonKind::Unmeasured, Some(index), b"", said);
    };
    match &terms.references {
        Some(references) if references.has(&image) => {}
        Some(_) => {
            let level = terms.level(|policy| policy.containers.no_reference);
            let said = || format!("no reference is of its image {image}");
            reasons.add(level, ReasonKind::NoReference, Some(index), b"", said);
        }
        None => {
            let said = || {
                "no references were given: what it executed was compared with nothing".to_owned()
            };
            let level = terms.policy.as_ref().map_or(Level::Accept, |_| Level::Warn);
            reasons.add(level, ReasonKind::NoReferences, None, b"", said);
        }
    }
}

/// How the node's answer differs from this policy's; `None`: it does not.
fn answered_otherwise(admission: &Admission, created: &proto::Created) -> Option<String> {
    let input = match Input::parse(created.input.as_bytes()) {
        Ok(input) => input,
        Err(error) => {
            return Some(format!(
                "its admission cannot be judged again: {}",
                text_of(&error.to_string())
            ));
        }
    };
    let decision = admission.decide(&input);
    let join = |reasons: &[String]| text_of(&reasons.join("; "));
    match (created.allowed, decision.allowed()) {
        (true, false) => Some(format!(
            "the node allowed it, and the given admission policy denies it: {}",
            join(&decision.denied)
        )),
        (false, true) => Some(format!(
            "the node denied it ({}), and the given admission policy allows it",
            join(&created.reasons)
        )),
        _ => None,
    }
}

/// Whence a file may be that the image does not have so, as far as its measurement tells.
fn whence(file: &proto::File, written: &HashSet<String>) -> String {
    let path = text_of(&String::from_utf8_lossy(&file.path));
    if file.memfd {
        "; it is memory (memfd), not a file of a file system".into()
    } else if file.path.ends_with(b" (deleted)") {
        "; it has no name any more".into()
    } else if written.contains(path.trim_start_matches('/')) || written.contains(&path) {
        "; it was written over the image before the container was created".into()
    } else if file.overlay {
        "; it is in the container's overlay: written after the image was made, or put there by the engine".into()
    } else {
        let (major, minor) = (file.device >> 20, file.device & 0xf_ffff);
        format!("; it is on another file system than the image (device {major}:{minor})")
    }
}

fn finished(container: Container, judged: bool, is_proven: bool) -> ContainerFinding {
    let Container {
        mut found,
        mut reasons,
        ..
    } = container;
    if judged && !is_proven {
        let said = || "the list that says so is not what was extended".to_owned();
        reasons.add(Level::Warn, ReasonKind::Unproven, None, b"", said);
    }
    found.rating = match reasons.rating() {
        Rating::Good if !judged => Rating::Unknown,
        rating => rating,
    };
    (found.reasons, found.more) = reasons.into_list();
    found
}

fn nobody() -> ContainerFinding {
    ContainerFinding {
        number: None,
        mnt_ns: (0, 0),
        id: String::new(),
        name: None,
        image: None,
        image_name: None,
        reference: None,
        created: None,
        allowed: None,
        denied: Vec::new(),
        policy: None,
        upper_dirty: None,
        gone: false,
        executions: 0,
        measured: 0,
        rating: Rating::Unknown,
        reasons: Vec::new(),
        more: 0,
    }
}

/// What a violation of this kind is, in words.
fn phrase(kind: &str) -> &str {
    match kind {
        "writer" => "a file could be written while it was hashed or in use",
        "hash" => "a file was executed that could not be hashed",
        "mprotect" => "a mapping of a file was made executable afterwards",
        "anonymous" => "memory without a file was made executable",
        "kernel-load" => "the kernel took code or policy from a task's memory",
        "path" => "a file was executed whose path is too long to be said",
        "root" => "it got another root than the one that was measured",
        "unregistered" => "a program was executed, or to be, in a container that no hook announced",
        _ => "a violation of a kind that this version does not know",
    }
}

/// What stands before and behind the first colon.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = name.iter().position(|byte| *byte == b':')?;
    Some((&name[..colon], &name[colon + 1..]))
}

/// `sha256:<hex>:<path>`, `unregistered:<path>` or `unmeasured:<path>`.
fn image_and_path(rest: &[u8]) -> Option<(&str, &str)> {
    let rest = str::from_utf8(rest).ok()?;
    let from = if rest.starts_with("sha256:") {
        "sha256:".len()
    } else {
        0
    };
    let colon = from + rest[from..].find(':')?;
    Some((&rest[..colon], &rest[colon + 1..]))
}

/// `v1;<algorithm>:<hex>`.
fn digest_of(payload: &[u8]) -> Option<Digest> {
    let text = str::from_utf8(payload).ok()?.strip_prefix("v1;")?;
    let (algorithm, digits) = text.split_once(':')?;
    let algorithm = HashAlgorithm::from_name(algorithm)?;
    let mut bytes = [0; 64];
    let bytes = bytes.get_mut(..algorithm.digest_len())?;
    hex::decode_to_slice(digits, bytes).ok()?;
    Digest::new(algorithm, bytes).ok()
}

/// Bytes of whoever, as a sentence has them.
fn text(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN) {
        Some(beginning) if bytes.len() > SHOWN => format!("{}...", EscapedName(beginning)),
        _ => EscapedName(bytes).to_string(),
    }
}

fn text_of(string: &str) -> String {
    text(string.as_bytes())
}

#[cfg(test)]
mod tests {
    use cima_policies::VERIFICATION_DEFAULT;
    use ima_log::Entry;

    use super::*;
    use crate::{measure::HostForm, verify::known::of_listed};

    #[test]
    fn what_is_refused_counts_however_much_was_said_before() {
        let policy = VerificationPolicy::parse(VERIFICATION_DEFAULT).unwrap();
        let policy = Some(policy);
        let mut account = Account::new(Arc::new(Terms {
            policy,
            ..Terms::default()
        }));
        let mut say = |index: u64, name: &str| {
            let entry = Entry::ima_buf(10, HashAlgorithm::Sha256, name, b"v1;x").unwrap();
            let key = of_listed(HostForm::Buffer, &entry);
            account.policy_event(index, &entry.fields().unwrap(), key);
        };
        let most = PENDING as u64;
        for index in 0..most {
            let name = format!("cima-violation:anonymous:unregistered:/{index}");
            say(index, &name);
        }
        say(most, "cima-violation:kernel-load:unregistered:/x");
        assert_eq!(account.pending.len(), PENDING);
        let findings = account.finish(&Tally::default(), None, 0, true);
        assert_eq!(findings.rating, Rating::Bad);
        assert_eq!(findings.reasons[0].index, Some(most));
        assert_eq!(findings.reasons.len() as u64 + findings.more, most + 1);
    }
}
