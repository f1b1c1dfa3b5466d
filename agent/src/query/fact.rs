// SPDX-License-Identifier: Apache-2.0
//! What an entry says, as far as it can be asked for. Pure: an entry comes in, facts go out.
//!
//! Reads what a hostile node wrote: what it cannot make sense of is a fact of the kind `unknown`, never an error.

use std::borrow::Cow;

use ima_log::{Digest, Entry, Fields, HashAlgorithm};

use super::Kind;
use crate::{
    containers::Provenance,
    measure::{
        Listed,
        proto::{self, context_event::What},
    },
    verify::{BatchView, Parts, place_of},
};

/// Where something happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Home {
    /// The agent says it of itself, or nobody knows.
    Nowhere,
    /// A container that a hook announced, by its number in the boot.
    Registered(u64),
    /// A mount namespace that nobody announced.
    Namespace { inode: u32, generation: u64 },
    /// Some container of this image: what is listed for verifiers names no other.
    Image(Provenance),
    /// No container's: an entry of the host's own list.
    Host,
}

/// What changes how later facts are read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum News {
    None,
    Start(Box<proto::Start>),
    Created(Box<proto::Created>),
    Gone(proto::Gone),
    /// A process ended: that of the fact.
    Ended(u32),
}

/// One thing that an entry says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fact<'a> {
    /// Which event of a batch, from 0; `None`: the entry as a whole.
    pub(crate) nth: Option<u32>,
    pub(crate) kind: Kind,
    /// Since boot.
    pub(crate) time_ns: Option<u64>,
    pub(crate) home: Home,
    /// The id of a container that nobody announced, as far as its cgroup tells.
    pub(crate) hint: String,
    /// Empty: it is of no file.
    pub(crate) path: Cow<'a, [u8]>,
    pub(crate) digest: Option<Digest>,
    pub(crate) uid: Option<u32>,
    pub(crate) login_uid: Option<u32>,
    pub(crate) pid: Option<u32>,
    /// Whether it should not have been.
    pub(crate) violation: bool,
    pub(crate) news: News,
}

impl Fact<'_> {
    fn new(kind: Kind) -> Self {
        Self {
            nth: None,
            kind,
            time_ns: None,
            home: Home::Nowhere,
            hint: String::new(),
            path: Cow::Borrowed(b""),
            digest: None,
            uid: None,
            login_uid: None,
            pid: None,
            violation: false,
            news: News::None,
        }
    }
}

/// Tells `visit` what `entry` says, in order.
pub(crate) fn facts(entry: &Entry, visit: &mut impl FnMut(Fact<'_>)) {
    let Ok(fields) = entry.fields() else {
        return visit(Fact::new(Kind::Unknown));
    };
    match Listed::parse(fields.name) {
        Some(Listed::Context(_)) => match fields.payload.and_then(BatchView::of) {
            Some(batch) => of_batch(&batch, visit),
            // The host's list has it as a file, whose content it has not; or somebody forged it.
            None => visit(Fact::new(Kind::Unknown)),
        },
        Some(listed) => visit(of_listed(listed, &fields)),
        None if fields.name.starts_with(b"cima-") => visit(Fact {
            path: Cow::Borrowed(fields.name),
            home: Home::Host,
            ..Fact::new(Kind::Unknown)
        }),
        None => visit(Fact {
            path: Cow::Borrowed(fields.name),
            digest: fields.digest.and_then(|digest| digest.to_digest()),
            home: Home::Host,
            violation: entry.is_violation(),
            ..Fact::new(Kind::Host)
        }),
    }
}

fn of_listed<'a>(listed: Listed<'a>, fields: &Fields<'_>) -> Fact<'a> {
    match listed {
        Listed::Agent(_) => Fact::new(Kind::Agent),
        Listed::Sink(_) => Fact::new(Kind::Sink),
        Listed::Image(image) => Fact {
            home: Home::Image(Provenance::Image(image)),
            ..Fact::new(Kind::Image)
        },
        Listed::Exec { of, path } => Fact {
            home: Home::Image(of),
            path,
            digest: fields.payload.and_then(listed_digest),
            ..Fact::new(Kind::Measured)
        },
        Listed::Violation { of, path, .. } => Fact {
            home: Home::Image(of),
            path,
            violation: true,
            ..Fact::new(Kind::Violation)
        },
        Listed::Context(_) => Fact::new(Kind::Unknown),
    }
}

/// `v1;<algorithm>:<hex>`.
fn listed_digest(payload: &[u8]) -> Option<Digest> {
    let text = std::str::from_utf8(payload).ok()?.strip_prefix("v1;")?;
    let (algorithm, digits) = text.split_once(':')?;
    let bytes = hex::decode(digits).ok()?;
    Digest::new(HashAlgorithm::from_name(algorithm)?, &bytes).ok()
}

fn of_batch(batch: &BatchView<'_>, visit: &mut impl FnMut(Fact<'_>)) {
    for (number, event) in (0..).zip(batch.bare_events()) {
        let mut fact = match event {
            Some(event) => {
                let parts = batch.parts(&event);
                let time_ns = batch.time_ns(&event);
                of_event(event, time_ns, &parts)
            }
            None => Fact::new(Kind::Unknown),
        };
        fact.nth = Some(number);
        visit(fact);
    }
}

fn of_event<'a>(event: proto::ContextEvent, time_ns: u64, parts: &Parts<'a>) -> Fact<'a> {
    let (home, hint) = parts.identity.map_or((Home::Nowhere, ""), home);
    let mut fact = Fact {
        time_ns: Some(time_ns),
        home,
        hint: hint.to_owned(),
        path: Cow::Borrowed(parts.path),
        uid: parts.has_subject.then_some(parts.uid),
        login_uid: parts.login_uid,
        pid: parts.has_subject.then_some(event.tgid),
        ..Fact::new(Kind::Unknown)
    };
    let Some(what) = event.what else {
        return fact;
    };
    fact.kind = kind(&what);
    fact.violation = is_violation(&what);
    match what {
        What::Mapping(mapping) => fact.digest = digest(&mapping),
        // What it did was to its new container.
        What::Change(change) if change.container != 0 => {
            fact.home = Home::Registered(change.container);
        }
        // Who makes a namespace nobody announced is in the one before: the host's, most often.
        What::Change(change)
            if change.kind == i32::from(proto::change::Kind::Made)
                && matches!(fact.home, Home::Namespace { .. }) =>
        {
            fact.home = Home::Namespace {
                inode: change.mnt_ns,
                generation: change.mnt_generation,
            };
        }
        What::Start(start) => fact.news = News::Start(Box::new(start)),
        What::Created(created) => {
            fact.home = Home::Registered(created.container);
            fact.pid = Some(created.init_tgid);
            fact.news = News::Created(Box::new(created));
        }
        What::Gone(gone) => {
            fact.home = Home::Registered(gone.container);
            fact.news = News::Gone(gone);
        }
        What::Ended(ended) => fact.news = News::Ended(ended.status),
        _ => {}
    }
    fact
}

/// Its word.
pub(crate) fn kind(what: &What) -> Kind {
    use proto::{breach::Kind as Breach, change::Kind as Change, mapping::How};
    match what {
        What::Execution(_) => Kind::Exec,
        What::Mapping(mapping) => match How::try_from(mapping.how) {
            Ok(How::Mapped) => Kind::Map,
            Ok(How::Script) => Kind::Script,
            Ok(How::KernelRead) => Kind::KernelRead,
            Err(_) => Kind::Unknown,
        },
        What::Breach(breach) => match Breach::try_from(breach.kind) {
            Ok(Breach::Written) => Kind::Write,
            Ok(Breach::Mprotect) => Kind::Mprotect,
            Ok(Breach::Anonymous) => Kind::Anonymous,
            Ok(Breach::KernelLoad) => Kind::KernelLoad,
            Err(_) => Kind::Unknown,
        },
        What::Change(change) => match Change::try_from(change.kind) {
            Ok(Change::Made) => Kind::Unshare,
            Ok(Change::Joined) => Kind::Join,
            Ok(Change::Pivoted) => Kind::Pivot,
            Err(_) => Kind::Unknown,
        },
        What::Refused(_) => Kind::Refused,
        What::Created(_) => Kind::Created,
        What::Gone(_) => Kind::Gone,
        What::Ended(_) => Kind::Ended,
        What::Start(_) => Kind::Start,
        What::Stop(_) => Kind::Stop,
        What::Loss(_) => Kind::Loss,
        What::Parts(_) => Kind::Parts,
        What::PolicyLoaded(_) => Kind::Policy,
    }
}

/// Whether it should not have been.
pub(crate) fn is_violation(what: &What) -> bool {
    match what {
        What::Breach(_) | What::Refused(_) | What::Loss(_) => true,
        What::Mapping(mapping) => mapping.writer || mapping.copied_up || digest(mapping).is_none(),
        What::Change(change) => change.other_root,
        What::Start(start) => start.reason == i32::from(proto::start::Reason::ChainBroken),
        What::Execution(_)
        | What::Created(_)
        | What::Gone(_)
        | What::Ended(_)
        | What::Stop(_)
        | What::Parts(_)
        | What::PolicyLoaded(_) => false,
    }
}

/// The file's digest; `None`: the kernel could not take it.
pub(crate) fn digest(mapping: &proto::Mapping) -> Option<Digest> {
    let algorithm = HashAlgorithm::from_name(&mapping.algorithm)?;
    Digest::new(algorithm, &mapping.digest).ok()
}

/// Where an identity is, and what the cgroup makes one think of it.
fn home(identity: &[u8]) -> (Home, &str) {
    let place = place_of(identity);
    if place.container != 0 {
        return (Home::Registered(place.container), "");
    }
    let namespace = Home::Namespace {
        inode: place.mnt_ns,
        generation: place.mnt_generation,
    };
    // What is no text is no hint.
    let hint = std::str::from_utf8(place.container_id);
    (namespace, hint.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::change::Kind as Change;

    use super::*;

    #[test]
    fn namespaces_that_are_made_are_where_that_happened_and_not_where_who_made_them_was() {
        let home = |kind: Change, container, identity: proto::Identity| {
            let change = proto::Change {
                kind: kind.into(),
                mnt_ns: 5,
                mnt_generation: 9,
                container,
                ..Default::default()
            };
            let event = proto::ContextEvent {
                what: Some(What::Change(change)),
                ..Default::default()
            };
            let identity = identity.encode_to_vec();
            let parts = Parts {
                identity: Some(&identity),
                ..Parts::default()
            };
            of_event(event, 0, &parts).home
        };
        let of_host = proto::Identity {
            mnt_ns: 1,
            mnt_generation: 2,
            ..Default::default()
        };
        let namespace = |inode, generation| Home::Namespace { inode, generation };
        assert_eq!(home(Change::Made, 0, of_host.clone()), namespace(5, 9));
        assert_eq!(home(Change::Joined, 0, of_host.clone()), namespace(1, 2));
        assert_eq!(home(Change::Joined, 7, of_host), Home::Registered(7));
        let inside = proto::Identity {
            container: 7,
            ..Default::default()
        };
        assert_eq!(home(Change::Made, 0, inside), Home::Registered(7));
    }
}
