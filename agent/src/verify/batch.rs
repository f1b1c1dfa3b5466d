// SPDX-License-Identifier: Apache-2.0
//! A batch read in place, event by event.
//!
//! Decoding a whole `proto::Batch` takes hundreds of times its bytes when a hostile list
//! fills it with empty messages. Here one event is decoded at a time; what no agent
//! writes (too many events, too long ones) is refused. Wire format: protobuf's own
//! encoding documentation; the schema is `proto/cima.proto`.

use prost::Message;

use crate::measure::{PAYLOAD_PREFIX, proto};

/// Events that a batch may have, and elements of each table: the agent's ledger puts 2,000 events into one at most. Who asks for one after
/// the other reads the batch as often.
const MOST: usize = 1 << 12;
/// Bytes that one event may have.
const EVENT: usize = 1 << 20;
/// Bytes that an identity may have: a cgroup path is 4 KiB at most.
const IDENTITY: usize = 1 << 13;
/// A lineage: eight processes.
const LINEAGE: usize = 1 << 10;
/// A subject: a name of 16 bytes and numbers.
const SUBJECT: usize = 1 << 7;
/// A file: a path is 4 KiB at most.
const FILE: usize = 1 << 13;
/// A command: 512 bytes of arguments, which may all be empty.
const COMMAND: usize = 1 << 12;

/// Fields of `Command`, `Subject`, `Identity` and `File`.
const COMMAND_SUBJECT: u32 = 1;
const COMMAND_FILE: u32 = 2;
const SUBJECT_UID: u32 = 2;
const SUBJECT_LOGIN: u32 = 4;
const SUBJECT_IDENTITY: u32 = 7;
const IDENTITY_MNT: u32 = 1;
const IDENTITY_GENERATION: u32 = 2;
const IDENTITY_CONTAINER_ID: u32 = 12;
const IDENTITY_CONTAINER: u32 = 13;
const FILE_PATH: u32 = 1;
/// Fields of `Batch`.
const SEQ: u32 = 1;
const TIME: u32 = 3;
const EVENTS: u32 = 4;
const IDENTITIES: u32 = 5;
const LINEAGES: u32 = 6;
const SUBJECTS: u32 = 7;
const FILES: u32 = 8;
const COMMANDS: u32 = 9;

/// A batch that is well formed on the outside.
#[derive(Debug, Clone, Default)]
pub struct BatchView<'a> {
    seq: u64,
    time_ns: u64,
    identities: Vec<&'a [u8]>,
    lineages: Vec<&'a [u8]>,
    subjects: Vec<&'a [u8]>,
    files: Vec<&'a [u8]>,
    commands: Vec<&'a [u8]>,
    events: Vec<&'a [u8]>,
}

/// One event of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct EventView<'a> {
    /// As in the payload.
    pub bytes: &'a [u8],
    /// `None` if it is not an event.
    pub event: Option<proto::ContextEvent>,
    /// When, ns since boot.
    pub time_ns: u64,
    /// The identity it refers to; `None`: the agent itself, or one that cannot be read. So
    /// with the others.
    pub identity: Option<proto::Identity>,
    /// Who.
    pub subject: Option<proto::Subject>,
    /// Whose child.
    pub lineage: Option<proto::Lineage>,
    /// The file at issue.
    pub file: Option<proto::File>,
    /// What a program was given.
    pub command: Option<proto::Command>,
}

/// What an event refers to, as far as an index wants it: read in place, since it is wanted of every event.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) has_subject: bool,
    pub(crate) uid: u32,
    pub(crate) login_uid: Option<u32>,
    /// See [`place_of`].
    pub(crate) identity: Option<&'a [u8]>,
    pub(crate) path: &'a [u8],
}

/// Where somebody lives.
#[derive(Debug, Default)]
pub(crate) struct Place<'a> {
    pub(crate) mnt_ns: u32,
    pub(crate) mnt_generation: u64,
    pub(crate) container_id: &'a [u8],
    pub(crate) container: u64,
}

/// Of the bytes of an identity.
pub(crate) fn place_of(identity: &[u8]) -> Place<'_> {
    let mut place = Place::default();
    for field in Fields(identity).flatten() {
        match field {
            (IDENTITY_MNT, Value::Varint(inode)) => place.mnt_ns = inode as u32,
            (IDENTITY_GENERATION, Value::Varint(number)) => place.mnt_generation = number,
            (IDENTITY_CONTAINER_ID, Value::Bytes(id)) => place.container_id = id,
            (IDENTITY_CONTAINER, Value::Varint(number)) => place.container = number,
            _ => {}
        }
    }
    place
}

impl<'a> BatchView<'a> {
    /// The batch in an entry's payload; `None` if it is not one.
    #[must_use]
    pub fn of(payload: &'a [u8]) -> Option<Self> {
        let body = payload.strip_prefix(PAYLOAD_PREFIX)?;
        let mut view = Self::default();
        for field in Fields(body) {
            let (number, value) = field?;
            match (number, value) {
                (SEQ, Value::Varint(seq)) => view.seq = seq,
                (TIME, Value::Varint(time_ns)) => view.time_ns = time_ns,
                (EVENTS, Value::Bytes(bytes)) => {
                    if view.events.len() >= MOST {
                        return None;
                    }
                    view.events.push(bytes);
                }
                (SEQ | TIME | EVENTS, _) => return None,
                (number, value) => {
                    // Else a newer schema's field.
                    if let Some(table) = view.table(number) {
                        let Value::Bytes(bytes) = value else {
                            return None;
                        };
                        if table.len() >= MOST {
                            return None;
                        }
                        table.push(bytes);
                    }
                }
            }
        }
        Some(view)
    }

    fn table(&mut self, number: u32) -> Option<&mut Vec<&'a [u8]>> {
        match number {
            IDENTITIES => Some(&mut self.identities),
            LINEAGES => Some(&mut self.lineages),
            SUBJECTS => Some(&mut self.subjects),
            FILES => Some(&mut self.files),
            COMMANDS => Some(&mut self.commands),
            _ => None,
        }
    }

    /// Number of the batch since boot.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Its events, in order.
    pub fn events(&self) -> impl Iterator<Item = EventView<'a>> + '_ {
        self.events.iter().map(|bytes| self.event(bytes))
    }

    /// The same without what they refer to, for who needs little of it; `None` for what is no event.
    pub(crate) fn bare_events(&self) -> impl Iterator<Item = Option<proto::ContextEvent>> + '_ {
        self.events.iter().map(|bytes| decode(bytes, EVENT))
    }

    /// When an event of it was, ns since boot.
    pub(crate) fn time_ns(&self, event: &proto::ContextEvent) -> u64 {
        self.time_ns.wrapping_add_signed(event.offset_ns)
    }

    /// The file that one of its events refers to, other than an execution.
    pub(super) fn file(&self, event: &proto::ContextEvent) -> Option<proto::File> {
        referred(&self.files, event.file, FILE)
    }

    /// The identity of the one whose event it is, as it stands in the batch: events of one place have the same bytes.
    pub(super) fn identity(&self, event: &proto::ContextEvent) -> Option<&'a [u8]> {
        use proto::context_event::What;
        let subject = match event.what {
            Some(What::Execution(command)) => {
                let command = at(&self.commands, command, COMMAND)?;
                // As a decoder makes 32 bits of it.
                number_in(command, COMMAND_SUBJECT)? as u32
            }
            _ => event.subject,
        };
        let subject = at(&self.subjects, subject, SUBJECT)?;
        let identity = number_in(subject, SUBJECT_IDENTITY)? as u32;
        at(&self.identities, identity, IDENTITY)
    }

    /// Who did one of its events, where, and to which file; without ancestors and arguments.
    pub(crate) fn parts(&self, event: &proto::ContextEvent) -> Parts<'a> {
        let mut numbers = (event.subject, event.file);
        if let Some(proto::context_event::What::Execution(command)) = event.what {
            let command = at(&self.commands, command, COMMAND).unwrap_or_default();
            let number = |field| number_in(command, field).unwrap_or(0) as u32;
            numbers = (number(COMMAND_SUBJECT), number(COMMAND_FILE));
        }
        let mut parts = Parts::default();
        if let Some(subject) = at(&self.subjects, numbers.0, SUBJECT) {
            parts.has_subject = true;
            for field in Fields(subject).flatten() {
                match field {
                    (SUBJECT_UID, Value::Varint(uid)) => parts.uid = uid as u32,
                    (SUBJECT_LOGIN, Value::Varint(uid)) => parts.login_uid = Some(uid as u32),
                    (SUBJECT_IDENTITY, Value::Varint(number)) => {
                        parts.identity = at(&self.identities, number as u32, IDENTITY);
                    }
                    _ => {}
                }
            }
        }
        for field in Fields(at(&self.files, numbers.1, FILE).unwrap_or_default()).flatten() {
            if let (FILE_PATH, Value::Bytes(path)) = field {
                parts.path = path;
            }
        }
        parts
    }

    /// The event of that number, from 0.
    pub(crate) fn nth(&self, number: u32) -> Option<EventView<'a>> {
        let bytes = self.events.get(usize::try_from(number).ok()?)?;
        Some(self.event(bytes))
    }

    fn event(&self, bytes: &'a [u8]) -> EventView<'a> {
        use proto::context_event::What;
        let event: Option<proto::ContextEvent> = decode(bytes, EVENT);
        let of = event.as_ref();
        let command: Option<proto::Command> = of.and_then(|of| match &of.what {
            Some(What::Execution(command)) => referred(&self.commands, *command, COMMAND),
            _ => None,
        });
        let (subject, file) = match (&command, of) {
            (Some(command), _) => (command.subject, command.file),
            (None, Some(of)) => (of.subject, of.file),
            (None, None) => (0, 0),
        };
        let subject: Option<proto::Subject> = referred(&self.subjects, subject, SUBJECT);
        EventView {
            bytes,
            time_ns: of.map_or(0, |of| self.time_ns(of)),
            identity: subject
                .as_ref()
                .and_then(|subject| referred(&self.identities, subject.identity, IDENTITY)),
            lineage: subject
                .as_ref()
                .and_then(|subject| referred(&self.lineages, subject.lineage, LINEAGE)),
            subject,
            file: referred(&self.files, file, FILE),
            command,
            event,
        }
    }
}

/// The message that an event refers to by its number, which counts from one.
fn referred<M: Message + Default>(messages: &[&[u8]], number: u32, limit: usize) -> Option<M> {
    decode(at(messages, number, limit)?, limit)
}

fn at<'a>(messages: &[&'a [u8]], number: u32, limit: usize) -> Option<&'a [u8]> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    messages
        .get(index)
        .copied()
        .filter(|bytes| bytes.len() <= limit)
}

/// One number of a message, without the rest: the last counts, and none is 0.
fn number_in(message: &[u8], field: u32) -> Option<u64> {
    let mut number = 0;
    for read in Fields(message) {
        if let (found, Value::Varint(value)) = read?
            && found == field
        {
            number = value;
        }
    }
    Some(number)
}

/// The registered container of an identity, of [`BatchView::identity`]; 0: of none.
pub(super) fn container_of(identity: &[u8]) -> u64 {
    number_in(identity, IDENTITY_CONTAINER).unwrap_or(0)
}

/// Who lives there, of [`BatchView::identity`]; `None`: it is no identity.
pub(super) fn identity_of(bytes: &[u8]) -> Option<proto::Identity> {
    decode(bytes, IDENTITY)
}

fn decode<M: Message + Default>(bytes: &[u8], limit: usize) -> Option<M> {
    (bytes.len() <= limit)
        .then(|| M::decode(bytes).ok())
        .flatten()
}

/// The outermost fields of a message: number and value; `None` where it is malformed.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups, which proto3 does not have.
            _ => return None,
        };
        Some((number, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            // The tenth byte has one bit left.
            if shift == 63 && *byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u32, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::decode_batch;
    use proptest::prelude::*;
    use proto::context_event::What;

    /// A batch of five tables with an element for each of `numbers`.
    fn batch(seq: u64, numbers: &[u32], events: &[(u64, u32)]) -> Vec<u8> {
        fn each<M>(numbers: &[u32], of: impl Fn(u32) -> M) -> Vec<M> {
            numbers.iter().map(|number| of(*number)).collect()
        }
        let time_ns = events.first().map_or(0, |(time_ns, _)| *time_ns);
        let event = |(at, number): &(u64, u32)| proto::ContextEvent {
            offset_ns: at.wrapping_sub(time_ns).cast_signed(),
            subject: *number,
            file: *number,
            what: Some(match number % 2 {
                0 => What::Stop(proto::Stop {}),
                _ => What::Execution(*number),
            }),
            ..Default::default()
        };
        let batch = proto::Batch {
            seq,
            queue: None,
            time_ns,
            events: events.iter().map(event).collect(),
            identities: each(numbers, |mnt_ns| proto::Identity {
                mnt_ns,
                ..Default::default()
            }),
            lineages: each(numbers, |tgid| proto::Lineage {
                ancestors: vec![proto::Process {
                    tgid,
                    ..Default::default()
                }],
            }),
            subjects: each(numbers, |uid| proto::Subject {
                uid,
                lineage: uid % 5,
                identity: uid % 4,
                ..Default::default()
            }),
            files: each(numbers, |inode| proto::File {
                inode: inode.into(),
                ..Default::default()
            }),
            commands: each(numbers, |argc| proto::Command {
                argc,
                subject: argc % 6,
                file: argc % 4,
                ..Default::default()
            }),
        };
        [PAYLOAD_PREFIX, &batch.encode_to_vec()].concat()
    }

    fn element<M>(table: &[M], number: u32) -> Option<&M> {
        table.get(usize::try_from(number).unwrap().checked_sub(1)?)
    }

    proptest! {
        #[test]
        fn a_batch_event_by_event_is_what_it_is_as_a_whole(
            seq: u64,
            numbers in prop::collection::vec(any::<u32>(), 0..5),
            events in prop::collection::vec((any::<u64>(), 0..7u32), 0..9),
        ) {
            let payload = batch(seq, &numbers, &events);
            let (view, whole) = (BatchView::of(&payload).unwrap(), decode_batch(&payload).unwrap());
            prop_assert_eq!(view.seq(), whole.seq);
            let whole_view = &view;
            let views: Vec<_> = view.events().collect();
            prop_assert_eq!(views.len(), whole.events.len());
            for ((view, event), (time_ns, number)) in views.into_iter().zip(whole.events).zip(events) {
                prop_assert_eq!(view.time_ns, time_ns);
                let command = element(&whole.commands, number).filter(|_| number % 2 == 1);
                let subject = command.map_or(number, |command| command.subject);
                let subject = element(&whole.subjects, subject);
                let lineage = subject.and_then(|subject| element(&whole.lineages, subject.lineage));
                let identity = subject.and_then(|subject| element(&whole.identities, subject.identity));
                let file = command.map_or(number, |command| command.file);
                prop_assert_eq!(view.identity.as_ref(), identity);
                let bytes = whole_view.identity(&event);
                let of_bytes = bytes.and_then(identity_of);
                prop_assert_eq!(of_bytes.as_ref(), identity);
                let parts = whole_view.parts(&event);
                prop_assert_eq!(parts.has_subject, subject.is_some());
                prop_assert_eq!(parts.uid, subject.map_or(0, |subject| subject.uid));
                prop_assert_eq!(parts.login_uid, subject.and_then(|subject| subject.login_uid));
                let place = place_of(parts.identity.unwrap_or_default());
                let known = identity.cloned().unwrap_or_default();
                prop_assert_eq!(place.container, known.container);
                prop_assert_eq!(place.mnt_ns, known.mnt_ns);
                prop_assert_eq!(place.mnt_generation, known.mnt_generation);
                prop_assert_eq!(place.container_id, known.container_id.as_bytes());
                let path = element(&whole.files, file).map_or(&[][..], |file| &file.path);
                prop_assert_eq!(parts.path, path);
                prop_assert_eq!(view.subject.as_ref(), subject);
                prop_assert_eq!(view.lineage.as_ref(), lineage);
                prop_assert_eq!(view.file.as_ref(), element(&whole.files, file));
                prop_assert_eq!(view.command.as_ref(), command);
                prop_assert_eq!(view.event, Some(event));
            }
        }

        #[test]
        fn any_bytes_are_a_batch_or_not_but_never_a_panic(bytes: Vec<u8>) {
            let payload = [PAYLOAD_PREFIX, &bytes].concat();
            if let Some(view) = BatchView::of(&payload) {
                view.events().for_each(drop);
            }
        }
    }

    #[test]
    fn a_batch_of_more_events_than_any_agent_writes_is_refused() {
        let mut payload = PAYLOAD_PREFIX.to_vec();
        payload.extend([0x22, 0].repeat(MOST));
        assert!(BatchView::of(&payload).is_some());
        payload.extend([0x22, 0]);
        assert!(BatchView::of(&payload).is_none());
    }
}
