// SPDX-License-Identifier: Apache-2.0
//! A record of the kernel side, read and measured: no bytes make the agent fail, and what it
//! says of any event can be listed and reads back.
#![no_main]

use cima_abi::{ABI_VERSION, Header, Kind};
use cima_agent::{
    containers::Identities,
    measure::{Batch, Executed, PolicyEvent, batch_name, measure, unescape},
    probes::{Event, Parser, What},
    verify::BatchView,
};
use cima_agent_fuzz::{batch_in_two_ways, json_of};
use ima_log::{Entry, HashAlgorithm};
use ima_log_fuzz::{line_of, record_of};
use libfuzzer_sys::fuzz_target;

const BOOT: &str = "8c2d2a94-3f0e-4a0b-9d6e-0a3f5ad0c1d2";

fuzz_target!(|record: &[u8]| {
    one(record);
    // The same as a record of this version, of some kind, as long as a header at least.
    let mut record = record.to_vec();
    record.resize(record.len().max(size_of::<Header>()), 0);
    record[..2].copy_from_slice(&ABI_VERSION.to_ne_bytes());
    record[2] = Kind::ALL[usize::from(record[2]) % Kind::ALL.len()] as u8;
    one(&record);
    // And again and again with a byte changed, by a parser that remembers those before.
    let mut parser = Parser::default();
    for changes in record.clone().chunks_exact(3).rev().take(8) {
        let at = usize::from(u16::from_ne_bytes([changes[0], changes[1]])) % record.len();
        if at > 2 {
            record[at] = changes[2];
        }
        let (remembering, alone) = (parser.parse(&record), Event::parse(&record));
        assert_eq!(format!("{remembering:?}"), format!("{alone:?}"));
    }
});

fn one(record: &[u8]) {
    let Ok(event) = Event::parse(record) else {
        return;
    };
    let identity = Identities::default().of(&event);
    assert!(matches!(identity.container_id.len(), 0 | 64));
    let measured = measure(&event, &identity, BOOT, &mut Executed::default());
    if let Some(said) = &measured.policy_event {
        let path = match event.what {
            // Of a container's root, whatever program made it so.
            What::Change(..) => Some(&b"/"[..]),
            _ => event.file.path.as_deref(),
        };
        listed(said, path);
    }
    let mut batch = Batch::new();
    batch.push(measured.context);
    let payload = batch.into_payload(7);
    batch_in_two_ways(&payload).expect("it is a batch");
    let view = BatchView::of(&payload).expect("it is a batch");
    let read = view.events().next().expect("one event");
    let task = read.event.expect("an event");
    let tid = if task.tid == 0 { task.tgid } else { task.tid };
    // A thread of number 0 is no task's.
    assert!(tid == event.tid || event.tid == 0);
    assert_eq!((task.tgid, task.ns_tgid), (event.tgid, event.ns_tgid));
    assert_eq!(read.time_ns, event.time_ns);
    let start_ns = read.time_ns.wrapping_sub(task.age_ns.cast_unsigned());
    assert_eq!(start_ns, event.start_ns);
    let subject = read.subject.expect("its subject");
    assert_eq!(subject.comm, event.subject.comm);
    let file = read.file.expect("its file");
    assert_eq!(file.path, event.file.path.clone().unwrap_or_default());
    assert_eq!(file.inode, event.file.id.inode);
    if let What::Exec(command) = &event.what {
        assert_eq!(read.command.expect("its command").args, command.args);
    }
    let entry = Entry::ima_buf(13, HashAlgorithm::Sha256, batch_name(7), &payload);
    let _ = json_of(&entry.expect("a good name"));
}

/// A policy event is an entry in both forms, and names the path and nothing else.
fn listed(said: &PolicyEvent, path: Option<&[u8]>) {
    let payload = said.payload.as_bytes();
    let entry = Entry::ima_buf(13, HashAlgorithm::Sha256, &said.name, payload).expect("no NUL");
    assert_eq!(entry.check(), Ok(()));
    record_of(&entry).expect("it has a record");
    line_of(&entry).expect("it has a line");
    assert_eq!(entry.fields().expect("checked").name, said.name.as_bytes());
    assert!(payload.starts_with(b"v1;"));
    let mut parts = said.name.splitn(4, ':');
    let kind = parts.next();
    if kind == Some("cima-violation") {
        parts.next();
    }
    assert_eq!(parts.next(), Some("unregistered"));
    let named = parts.collect::<Vec<_>>().join(":");
    assert_eq!(unescape(&named).as_deref(), Some(path.unwrap_or_default()));
}
