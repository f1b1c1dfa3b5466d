// SPDX-License-Identifier: Apache-2.0
//! A ring buffer record as a typed event. The kernel side is trusted to be the
//! object that was measured at start, but not to be of this agent's version:
//! lengths and the version are checked, nothing is assumed.

use std::mem::offset_of;

use cima_abi::{ABI_VERSION, Ancestor, Change, Header, Kind, NO_HASH, flag};
use ima_log::{Digest, HashAlgorithm};
use zerocopy::FromBytes;

use super::{
    Breach, ChangeKind, Command, Event, EventError, Hash, Home, How, Object, Process, Subject,
    What, memo::Memo,
};
use crate::shared::Shared;

/// Value of `loginuid` and `sessionid` that means unset (`include/linux/audit.h`).
const UNSET: u32 = u32::MAX;

/// Reads records. Remembers the parts that the next record is likely to have in common with
/// one before: on a busy node almost all of them, so that they need not be made again.
#[derive(Debug, Default)]
pub struct Parser {
    subjects: Memo<Subject>,
    ancestors: Memo<Vec<Process>>,
    homes: Memo<Home>,
    files: Memo<Object>,
    commands: Memo<Command>,
}

impl Parser {
    /// Reads one record.
    ///
    /// # Errors
    /// A record that is too short, of another version or of unknown kind.
    pub fn parse(&mut self, record: &[u8]) -> Result<Event, EventError> {
        let short = || EventError::Short { len: record.len() };
        let copy;
        let (header, rest) = if let Ok(whole) = Header::ref_from_prefix(record) {
            whole
        } else {
            // Too short, or not aligned as the ring's records are.
            let (header, rest) = Header::read_from_prefix(record).map_err(|_| short())?;
            copy = header;
            (&copy, rest)
        };
        if header.version != ABI_VERSION {
            return Err(EventError::Version {
                found: header.version,
            });
        }
        let cap = usize::from(header.path_cap);
        let path = rest
            .get(..usize::from(header.path_len).min(cap))
            .ok_or_else(short)?;
        let room = rest.get(cap..).unwrap_or_default();
        let what = self.what(header, room).ok_or_else(short)??;
        Ok(Event {
            what,
            time_ns: header.time_ns,
            tgid: header.tgid,
            start_ns: header.start_ns,
            tid: header.tid,
            ns_tgid: header.ns_tgid,
            subject: self.subject(header, record),
            home: self.home(header, record),
            file: self.file(header, record, path),
            flags: header.flags,
        })
    }

    /// What a record tells; `room` is what lies behind the path. `None`: it is too short.
    fn what(&mut self, header: &Header, room: &[u8]) -> Option<Result<What, EventError>> {
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| *kind as u8 == header.kind);
        let measured = |how| What::Measured {
            how,
            hash: hash(header),
        };
        let (prot, map_flags) = (header.prot, header.map_flags);
        Some(Ok(match kind {
            Some(Kind::Map) => measured(How::Mapped { prot, map_flags }),
            Some(Kind::Script) => measured(How::Script),
            Some(Kind::KernelRead) => measured(How::KernelRead { id: map_flags }),
            Some(Kind::Exec) => {
                let args = room.get(..usize::from(header.args_len))?;
                What::Exec(self.command(header, args))
            }
            Some(Kind::Written) => What::Breach(Breach::Written),
            Some(Kind::Mprotect) => What::Breach(Breach::Mprotect { prot }),
            Some(Kind::Anonymous) => What::Breach(Breach::Anonymous { prot, map_flags }),
            Some(Kind::KernelLoad) => What::Breach(Breach::KernelLoad { id: map_flags }),
            Some(Kind::Made) => What::Change(ChangeKind::Made, change(room)?),
            Some(Kind::Joined) => What::Change(ChangeKind::Joined, change(room)?),
            Some(Kind::Pivoted) => What::Change(ChangeKind::Pivoted, change(room)?),
            Some(Kind::Ended) => What::Ended {
                status: map_flags as u32,
            },
            Some(Kind::Denied) => What::Denied,
            None => return Some(Err(EventError::Kind(header.kind))),
        }))
    }

    fn command(&mut self, header: &Header, bytes: &[u8]) -> Shared<Command> {
        let argc = header.argc.to_ne_bytes();
        // The environment behind the arguments is not looked at: unless they were cut off, what a
        // slot holds has as many NULs as there are arguments.
        let key = header.file.inode ^ u64::from(header.argc);
        if let Some((raw, command)) = self.commands.slot(key) {
            let args = &raw[argc.len()..];
            let same = if command.truncated {
                bytes == args
            } else {
                bytes.starts_with(args)
            };
            if same && raw.starts_with(&argc) {
                return command.clone();
            }
        }
        let (args, truncated) = arguments(bytes, header.argc);
        let used = if truncated {
            bytes.len()
        } else {
            args.iter().map(|arg| arg.len() + 1).sum()
        };
        let command = Command {
            args,
            argc: header.argc,
            truncated,
        };
        self.commands.keep(key, &[&argc, &bytes[..used]], command)
    }

    fn subject(&mut self, header: &Header, record: &[u8]) -> Shared<Subject> {
        let used = header.ancestors.iter().take_while(|a| a.tgid != 0).count();
        let ancestors = &header.ancestors[..used];
        let begin = offset_of!(Header, ancestors);
        let lineage = &record[begin..begin + used * size_of::<Ancestor>()];
        let who = &record[offset_of!(Header, uid)..offset_of!(Header, ns)];
        let parent = ancestors.first().map_or(0, |parent| parent.start_ns);
        let name = header.comm.first_chunk().copied().unwrap_or_default();
        let key = parent ^ u64::from_ne_bytes(name);
        let raw = [who, &header.comm, lineage];
        if let Some(subject) = self.subjects.find(key, &raw) {
            return subject;
        }
        let ancestors = self.ancestors.find(parent, &[lineage]).unwrap_or_else(|| {
            let ancestors = ancestors.iter().map(process).collect();
            self.ancestors.keep(parent, &[lineage], ancestors)
        });
        let set = |id: u32| (id != UNSET).then_some(id);
        let subject = Subject {
            comm: until_nul(&header.comm).to_vec(),
            uid: header.uid,
            gid: header.gid,
            login_uid: set(header.login_uid),
            session: set(header.session),
            ancestors,
        };
        self.subjects.keep(key, &raw, subject)
    }

    fn home(&mut self, header: &Header, record: &[u8]) -> Shared<Home> {
        let cgroup_truncated = header.flags & flag::CGROUP_TRUNCATED != 0;
        let len = usize::from(header.cgroup_len).min(header.cgroup.len());
        let raw = [
            &record[offset_of!(Header, ns)..offset_of!(Header, prot)],
            &record[offset_of!(Header, mnt_generation)..offset_of!(Header, map_flags)],
            &[u8::from(cgroup_truncated)],
            &header.cgroup[..len],
        ];
        let key = header.cgroup_id ^ header.mnt_generation;
        self.homes.find(key, &raw).unwrap_or_else(|| {
            let home = Home {
                ns: header.ns,
                mnt_generation: header.mnt_generation,
                cgroup_id: header.cgroup_id,
                cgroup: cgroup_path(&header.cgroup[..len], cgroup_truncated),
                cgroup_truncated,
                container: header.container,
            };
            self.homes.keep(key, &raw, home)
        })
    }

    fn file(&mut self, header: &Header, record: &[u8], path: &[u8]) -> Shared<Object> {
        const KIND: u16 = flag::NO_PATH | flag::OVERLAY | flag::MEMFD;
        let raw = [
            &record[offset_of!(Header, file)..offset_of!(Header, digest)],
            &(header.flags & KIND).to_ne_bytes(),
            path,
        ];
        let key = header.file.inode;
        self.files.find(key, &raw).unwrap_or_else(|| {
            let object = Object {
                id: header.file,
                path: (header.flags & flag::NO_PATH == 0).then(|| path.to_vec()),
                overlay: header.flags & flag::OVERLAY != 0,
                memfd: header.flags & flag::MEMFD != 0,
            };
            self.files.keep(key, &raw, object)
        })
    }
}

fn process(ancestor: &Ancestor) -> Process {
    Process {
        tgid: ancestor.tgid,
        start_ns: ancestor.start_ns,
        comm: until_nul(&ancestor.comm).to_vec(),
    }
}

fn change(room: &[u8]) -> Option<Change> {
    Some(Change::read_from_prefix(room).ok()?.0)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// The kernel's numbers, `include/uapi/linux/hash_info.h` (enum `hash_algo`).
fn hash(header: &Header) -> Hash {
    let algorithm = match header.hash_algo {
        NO_HASH => return Hash::Failed(header.hash_error),
        4 => HashAlgorithm::Sha256,
        5 => HashAlgorithm::Sha384,
        6 => HashAlgorithm::Sha512,
        other => return Hash::Unusable(other),
    };
    let bytes = header
        .digest
        .get(..algorithm.digest_len())
        .unwrap_or_default();
    Digest::new(algorithm, bytes).map_or(Hash::Unusable(header.hash_algo), Hash::Digest)
}

/// The argument strings among the bytes copied off the stack: environment strings follow.
fn arguments(bytes: &[u8], argc: u32) -> (Vec<Vec<u8>>, bool) {
    let argc = usize::try_from(argc).unwrap_or(usize::MAX);
    let mut args: Vec<Vec<u8>> = bytes
        .split(|b| *b == 0)
        .take(argc)
        .map(<[u8]>::to_vec)
        .collect();
    let ends = bytes.iter().filter(|b| **b == 0).take(argc).count();
    if ends < argc && args.last().is_some_and(Vec::is_empty) {
        // What follows the last NUL is not an argument.
        args.pop();
    }
    (args, ends < argc)
}

/// Components come nearest first; the path starts at the root.
fn cgroup_path(components: &[u8], truncated: bool) -> Vec<u8> {
    let mut path = Vec::with_capacity(components.len() + 4);
    let components: Vec<&[u8]> = components
        .split(|b| *b == 0)
        .filter(|c| !c.is_empty())
        .collect();
    if truncated {
        path.extend_from_slice("…".as_bytes());
    }
    for component in components.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(component);
    }
    if components.is_empty() {
        path.push(b'/');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use cima_abi::{ARGS_LEN, SHORT_PATH};
    use proptest::prelude::*;

    /// Offsets of fields in a record, as the layout of `Header` gives them.
    const KIND: usize = 2;
    const HASH_ALGO: usize = 3;
    const FLAGS: usize = 4;
    const PATH_CAP: usize = 6;
    const PATH_LEN: usize = 8;
    const ARGS_LEN_AT: usize = 10;
    const ARGC: usize = 20;

    fn put(record: &mut [u8], at: usize, value: u16) {
        record[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }

    /// A record of `kind` with this path and these argument bytes.
    fn record(kind: Kind, path: &[u8], args: &[u8], argc: u16) -> Vec<u8> {
        let header = size_of::<Header>();
        let mut record = vec![0; header + SHORT_PATH + ARGS_LEN];
        put(&mut record, 0, ABI_VERSION);
        record[KIND] = kind as u8;
        record[HASH_ALGO] = 4;
        put(&mut record, PATH_CAP, u16::try_from(SHORT_PATH).unwrap());
        put(&mut record, PATH_LEN, u16::try_from(path.len()).unwrap());
        put(&mut record, ARGS_LEN_AT, u16::try_from(args.len()).unwrap());
        put(&mut record, ARGC, argc);
        record[header..header + path.len()].copy_from_slice(path);
        let args_at = header + SHORT_PATH;
        record[args_at..args_at + args.len()].copy_from_slice(args);
        record
    }

    fn args_of(record: &[u8]) -> (Vec<Vec<u8>>, bool) {
        match Event::parse(record).unwrap().what {
            What::Exec(command) => (command.args.clone(), command.truncated),
            other => panic!("it is an execution, not {other:?}"),
        }
    }

    #[test]
    fn arguments_end_where_the_environment_begins() {
        type Case = (&'static [u8], u16, &'static [&'static [u8]], bool);
        let cases: [Case; 5] = [
            (b"ls\0-l\0PATH=/bin\0", 2, &[b"ls", b"-l"], false),
            (b"ls\0\0HOME=/\0", 2, &[b"ls", b""], false),
            (b"ls\0long argu", 2, &[b"ls", b"long argu"], true),
            (b"ls\0", 2, &[b"ls"], true),
            (b"", 0, &[], false),
        ];
        for (bytes, argc, expected, truncated) in cases {
            let (args, cut) = args_of(&record(Kind::Exec, b"/bin/ls", bytes, argc));
            assert_eq!(args, expected, "{bytes:?}");
            assert_eq!(cut, truncated, "{bytes:?}");
        }
    }

    #[test]
    fn a_record_is_refused_for_its_version_kind_or_length() {
        let good = record(Kind::Map, b"/bin/ls", b"", 0);
        assert!(Event::parse(&good).is_ok());
        let mut other = good.clone();
        put(&mut other, 0, ABI_VERSION + 1);
        assert_eq!(
            Event::parse(&other).unwrap_err(),
            EventError::Version {
                found: ABI_VERSION + 1
            }
        );
        let mut other = good.clone();
        other[KIND] = 99;
        assert_eq!(Event::parse(&other).unwrap_err(), EventError::Kind(99));
        let short = &good[..size_of::<Header>() + 3];
        assert_eq!(
            Event::parse(short).unwrap_err(),
            EventError::Short { len: short.len() }
        );
    }

    #[test]
    fn only_hashes_of_sha256_and_better_are_digests() {
        let hash_of = |algorithm: u8| {
            let mut bytes = record(Kind::Map, b"/x", b"", 0);
            bytes[HASH_ALGO] = algorithm;
            match Event::parse(&bytes).unwrap().what {
                What::Measured { hash, .. } => hash,
                other => panic!("it is a mapping, not {other:?}"),
            }
        };
        assert!(matches!(hash_of(4), Hash::Digest(d) if d.algorithm() == HashAlgorithm::Sha256));
        assert!(matches!(hash_of(6), Hash::Digest(d) if d.algorithm() == HashAlgorithm::Sha512));
        assert_eq!(hash_of(2), Hash::Unusable(2), "SHA-1");
        assert_eq!(hash_of(NO_HASH), Hash::Failed(0));
    }

    #[test]
    fn the_cgroup_path_is_turned_round_and_says_when_it_is_cut() {
        let components = b"container\0libpod-1\0";
        let cut = "…/libpod-1/container".as_bytes();
        assert_eq!(cgroup_path(components, false), b"/libpod-1/container");
        assert_eq!(cgroup_path(components, true), cut);
        assert_eq!(cgroup_path(b"", false), b"/");
    }

    /// Everything of an event, by value.
    fn told(event: &Result<Event, EventError>) -> String {
        format!("{event:?}")
    }

    proptest! {
        #[test]
        fn what_is_remembered_of_other_records_changes_nothing(
            edits in proptest::collection::vec((0..size_of::<Header>() + SHORT_PATH + 40, 0..4u8), 0..60),
            argc in 0..4u16,
        ) {
            let mut parser = Parser::default();
            let mut bytes = record(Kind::Exec, b"/bin/ls", b"ls\0-l\0/tmp\0HOME=/\0", argc);
            for (at, byte) in edits {
                if at > 3 {
                    bytes[at] = byte;
                }
                prop_assert_eq!(told(&parser.parse(&bytes)), told(&Event::parse(&bytes)));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..4000), path_cap: u16) {
            let _ = Event::parse(&bytes);
            if bytes.len() > FLAGS + 4 {
                put(&mut bytes, 0, ABI_VERSION);
                bytes[KIND] = bytes[KIND] % 13 + 1;
                put(&mut bytes, PATH_CAP, path_cap % 600);
                let _ = Event::parse(&bytes);
            }
        }
    }
}
