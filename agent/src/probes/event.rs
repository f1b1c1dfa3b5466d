// SPDX-License-Identifier: Apache-2.0
//! A ring buffer record as a typed event. The kernel side is trusted to be the
//! object that was measured at start, but not to be of this agent's version:
//! lengths and the version are checked, nothing is assumed.

use cima_abi::{ABI_VERSION, Ancestor, FileId, Header, Kind, NO_HASH, NS_COUNT, flag};
use ima_log::{Digest, HashAlgorithm};
use zerocopy::FromBytes;

/// Why a record could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EventError {
    /// Shorter than its own lengths say.
    #[error("a record of {len} bytes from the kernel is shorter than its contents")]
    Short {
        /// Bytes received.
        len: usize,
    },
    /// Made by another version of the probes.
    #[error(
        "a record of layout version {found} from the kernel, this agent reads version {ABI_VERSION}"
    )]
    Version {
        /// Version received.
        found: u16,
    },
    /// Unknown kind.
    #[error("a record of unknown kind {0} from the kernel")]
    Kind(u8),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A file was mapped executable.
    Map {
        /// Its digest, or why there is none.
        hash: Hash,
        /// `PROT_*` as granted.
        prot: u32,
        /// `MAP_*` as asked.
        map_flags: u64,
    },
    /// A program was executed.
    Exec {
        /// First bytes of the arguments, whole arguments except perhaps the last.
        args: Vec<Vec<u8>>,
        /// How many there were.
        argc: u32,
        /// Whether `args` is not all of them.
        truncated: bool,
    },
}

/// The kernel's own hash of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hash {
    /// As `ima_file_hash()` computed it.
    Digest(Digest),
    /// In an algorithm this agent does not accept; the kernel's number for it.
    Unusable(u8),
    /// None, with the negative errno.
    Failed(i32),
}

/// A process in the ancestry of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Thread-group id in the initial pid namespace.
    pub tgid: u32,
    /// Start, ns since boot.
    pub start_ns: u64,
    /// Name.
    pub comm: Vec<u8>,
}

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub what: What,
    /// When, ns since boot.
    pub time_ns: u64,
    /// The process.
    pub process: Process,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Thread-group id in its own pid namespace.
    pub ns_tgid: u32,
    /// Real user and group in the initial user namespace.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Login user, `None`: unset.
    pub login_uid: Option<u32>,
    /// Audit session, `None`: unset.
    pub session: Option<u32>,
    /// Namespace inodes in the order of `cima_abi::Ns`.
    pub ns: [u32; NS_COUNT],
    /// Sequence number of the mount namespace.
    pub mnt_generation: u64,
    /// Cgroup v2 id.
    pub cgroup_id: u64,
    /// Cgroup path from the hierarchy's root, `…/` in front if its start was cut off.
    pub cgroup: Vec<u8>,
    /// The file's identity.
    pub file: FileId,
    /// Its path as the process sees it; `None` if it could not be made.
    pub path: Option<Vec<u8>>,
    /// Bits of `cima_abi::flag`.
    pub flags: u16,
    /// Parents, nearest first.
    pub ancestors: Vec<Process>,
}

/// Value of `loginuid` and `sessionid` that means unset (`include/linux/audit.h`).
const UNSET: u32 = u32::MAX;

impl Event {
    /// Reads one record.
    ///
    /// # Errors
    /// A record that is too short, of another version or of unknown kind.
    pub fn parse(record: &[u8]) -> Result<Self, EventError> {
        let short = || EventError::Short { len: record.len() };
        let (header, rest) = Header::read_from_prefix(record).map_err(|_| short())?;
        if header.version != ABI_VERSION {
            return Err(EventError::Version {
                found: header.version,
            });
        }
        let cap = usize::from(header.path_cap);
        let path = rest
            .get(..usize::from(header.path_len).min(cap))
            .ok_or_else(short)?;
        let what = match header.kind {
            k if k == Kind::Map as u8 => What::Map {
                hash: hash(&header),
                prot: header.prot,
                map_flags: header.map_flags,
            },
            k if k == Kind::Exec as u8 => {
                let args = rest
                    .get(cap..)
                    .and_then(|args| args.get(..usize::from(header.args_len)))
                    .ok_or_else(short)?;
                let (args, truncated) = arguments(args, header.argc);
                What::Exec {
                    args,
                    argc: header.argc,
                    truncated,
                }
            }
            other => return Err(EventError::Kind(other)),
        };
        let set = |id: u32| (id != UNSET).then_some(id);
        Ok(Self {
            what,
            time_ns: header.time_ns,
            process: Process {
                tgid: header.tgid,
                start_ns: header.start_ns,
                comm: until_nul(&header.comm).to_vec(),
            },
            tid: header.tid,
            ns_tgid: header.ns_tgid,
            uid: header.uid,
            gid: header.gid,
            login_uid: set(header.login_uid),
            session: set(header.session),
            ns: header.ns,
            mnt_generation: header.mnt_generation,
            cgroup_id: header.cgroup_id,
            cgroup: cgroup_path(&header),
            file: header.file,
            path: (header.flags & flag::NO_PATH == 0).then(|| path.to_vec()),
            flags: header.flags,
            ancestors: header
                .ancestors
                .iter()
                .filter(|a| a.tgid != 0)
                .map(process)
                .collect(),
        })
    }

    /// Whether the agent's self-test caused it.
    pub fn is_self_test(&self) -> bool {
        self.flags & flag::SELF_TEST != 0
    }
}

fn process(ancestor: &Ancestor) -> Process {
    Process {
        tgid: ancestor.tgid,
        start_ns: ancestor.start_ns,
        comm: until_nul(&ancestor.comm).to_vec(),
    }
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
fn cgroup_path(header: &Header) -> Vec<u8> {
    let len = usize::from(header.cgroup_len).min(header.cgroup.len());
    let components: Vec<&[u8]> = header.cgroup[..len]
        .split(|b| *b == 0)
        .filter(|c| !c.is_empty())
        .collect();
    let mut path = Vec::with_capacity(len + 2);
    if header.flags & flag::CGROUP_TRUNCATED != 0 {
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
