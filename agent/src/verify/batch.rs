// SPDX-License-Identifier: Apache-2.0
//! A batch read in place, event by event.
//!
//! Decoding a whole `proto::Batch` takes hundreds of times its bytes when a hostile list
//! fills it with empty messages. Here one event is decoded at a time; what no agent
//! writes (too many events, too long ones) is refused. Wire format: protobuf's own
//! encoding documentation; the schema is `proto/cima.proto`.

use prost::Message;

use crate::measure::{PAYLOAD_PREFIX, proto};

/// Events that a batch may have: the agent's ledger puts 1,000 into one at most.
const EVENTS: usize = 1 << 16;
/// Bytes that one event may have.
const EVENT: usize = 1 << 20;
/// Bytes that one identity may have: a cgroup path is 4 KiB at most.
const IDENTITY: usize = 1 << 14;
/// Bytes that one lineage may have: eight processes.
const LINEAGE: usize = 1 << 12;
/// Bytes that one file may have: a path is 4 KiB at most.
const FILE: usize = 1 << 13;

/// `Batch.seq`, `Batch.identities`, `Batch.events`, `Batch.lineages`, `Batch.files`.
const SEQ: u32 = 1;
const IDENTITIES: u32 = 2;
const EVENTS_FIELD: u32 = 3;
const LINEAGES: u32 = 5;
const FILES: u32 = 6;

/// A batch that is well formed on the outside.
#[derive(Debug, Clone)]
pub struct BatchView<'a> {
    seq: u64,
    identities: Vec<&'a [u8]>,
    lineages: Vec<&'a [u8]>,
    files: Vec<&'a [u8]>,
    body: &'a [u8],
}

/// One event of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct EventView<'a> {
    /// As in the payload.
    pub bytes: &'a [u8],
    /// `None` if it is not an event.
    pub event: Option<proto::ContextEvent>,
    /// The identity it refers to; `None`: the agent itself, or one that cannot be read.
    pub identity: Option<proto::Identity>,
    /// The ancestors it refers to.
    pub lineage: Option<proto::Lineage>,
    /// The file it refers to.
    pub file: Option<proto::File>,
}

impl<'a> BatchView<'a> {
    /// The batch in an entry's payload; `None` if it is not one.
    #[must_use]
    pub fn of(payload: &'a [u8]) -> Option<Self> {
        let body = payload.strip_prefix(PAYLOAD_PREFIX)?;
        let (mut seq, mut events) = (0, 0);
        let (mut identities, mut lineages, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for field in Fields(body) {
            match field? {
                (SEQ, Value::Varint(value)) => seq = value,
                (IDENTITIES, Value::Bytes(bytes)) => identities.push(bytes),
                (LINEAGES, Value::Bytes(bytes)) => lineages.push(bytes),
                (FILES, Value::Bytes(bytes)) => files.push(bytes),
                (EVENTS_FIELD, Value::Bytes(_)) => events += 1,
                (SEQ | IDENTITIES | EVENTS_FIELD | LINEAGES | FILES, _) => return None,
                // A newer schema's field.
                _ => {}
            }
            let tables = identities.len().max(lineages.len()).max(files.len());
            if tables.max(events) > EVENTS {
                return None;
            }
        }
        Some(Self {
            seq,
            identities,
            lineages,
            files,
            body,
        })
    }

    /// Number of the batch since boot.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Its events, in order.
    pub fn events(&self) -> impl Iterator<Item = EventView<'a>> + '_ {
        Fields(self.body).filter_map(|field| match field? {
            (EVENTS_FIELD, Value::Bytes(bytes)) => Some(self.event(bytes)),
            _ => None,
        })
    }

    fn event(&self, bytes: &'a [u8]) -> EventView<'a> {
        let event: Option<proto::ContextEvent> = decode(bytes, EVENT);
        let of = event.as_ref();
        EventView {
            bytes,
            identity: of.and_then(|of| referred(&self.identities, of.identity, IDENTITY)),
            lineage: of.and_then(|of| referred(&self.lineages, of.lineage, LINEAGE)),
            file: of.and_then(|of| referred(&self.files, of.file, FILE)),
            event,
        }
    }
}

/// The message that an event refers to by its number, which counts from one.
fn referred<M: Message + Default>(messages: &[&[u8]], number: u32, limit: usize) -> Option<M> {
    let index = usize::try_from(number).ok()?.checked_sub(1)?;
    decode(messages.get(index)?, limit)
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

    fn batch(seq: u64, identities: &[u32], events: &[(u64, u32)]) -> Vec<u8> {
        let batch = proto::Batch {
            seq,
            identities: identities
                .iter()
                .map(|inode| proto::Identity {
                    mnt_ns: *inode,
                    ..Default::default()
                })
                .collect(),
            events: events
                .iter()
                .map(|(time_ns, identity)| proto::ContextEvent {
                    time_ns: *time_ns,
                    identity: *identity,
                    lineage: *identity,
                    file: *identity,
                    what: Some(proto::context_event::What::Stop(proto::Stop {})),
                })
                .collect(),
            lineages: identities
                .iter()
                .map(|tgid| proto::Lineage {
                    ancestors: vec![proto::Process {
                        tgid: *tgid,
                        ..Default::default()
                    }],
                })
                .collect(),
            files: identities
                .iter()
                .map(|inode| proto::File {
                    inode: (*inode).into(),
                    ..Default::default()
                })
                .collect(),
            queue: None,
        };
        [PAYLOAD_PREFIX, &batch.encode_to_vec()].concat()
    }

    proptest! {
        #[test]
        fn what_the_agent_writes_is_read_as_the_schema_says(
            seq: u64,
            identities in prop::collection::vec(any::<u32>(), 0..5),
            events in prop::collection::vec((any::<u64>(), 0..7u32), 0..9),
        ) {
            let payload = batch(seq, &identities, &events);
            let (view, whole) = (BatchView::of(&payload).unwrap(), decode_batch(&payload).unwrap());
            prop_assert_eq!(view.seq(), whole.seq);
            let views: Vec<_> = view.events().collect();
            prop_assert_eq!(views.len(), whole.events.len());
            for (view, event) in views.into_iter().zip(whole.events) {
                let index = usize::try_from(event.identity).unwrap().checked_sub(1);
                let identity = index.and_then(|index| whole.identities.get(index));
                prop_assert_eq!(view.identity.as_ref(), identity);
                let lineage = index.and_then(|index| whole.lineages.get(index));
                prop_assert_eq!(view.lineage.as_ref(), lineage);
                let file = index.and_then(|index| whole.files.get(index));
                prop_assert_eq!(view.file.as_ref(), file);
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
        payload.extend([0x1a, 0].repeat(EVENTS));
        assert!(BatchView::of(&payload).is_some());
        payload.extend([0x1a, 0]);
        assert!(BatchView::of(&payload).is_none());
    }
}
