// SPDX-License-Identifier: Apache-2.0
//! What the kernel side reports, as types. `parser` makes them of records.

use cima_abi::{ABI_VERSION, FileId, NS_COUNT, flag};
use ima_log::Digest;

use super::Parser;
use crate::shared::Shared;

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
    /// A file is about to be executed in some way.
    Measured {
        /// In which.
        how: How,
        /// Its digest, or why there is none.
        hash: Hash,
    },
    /// A program was executed.
    Exec(Shared<Command>),
    /// Something that cannot be measured, or undoes a measurement.
    Breach(Breach),
    /// A task's namespaces became others.
    Change(ChangeKind, cima_abi::Change),
    /// The process that a container began with has ended.
    Ended {
        /// As `wait` gives it.
        status: u32,
    },
    /// An execution was refused: nobody registered the container.
    Denied,
}

/// How namespaces became others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// A mount namespace was made, by `unshare` or `clone`.
    Made,
    /// The task went over to a container's, by `setns`.
    Joined,
    /// The mount namespace got another root.
    Pivoted,
}

/// How a measured file is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Mapped executable.
    Mapped {
        /// `PROT_*` as granted.
        prot: u32,
        /// `MAP_*` as asked.
        map_flags: u64,
    },
    /// Executed though it is no ELF object: a script.
    Script,
    /// Read by the kernel for its own use.
    KernelRead {
        /// The kernel's `enum kernel_read_file_id`.
        id: u64,
    },
}

/// What no digest can vouch for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// A measured file was opened for writing while it was in use.
    Written,
    /// A mapping of a file was made executable afterwards.
    Mprotect {
        /// `PROT_*` as granted.
        prot: u32,
    },
    /// Memory without a file is executable.
    Anonymous {
        /// `PROT_*` as granted.
        prot: u32,
        /// `MAP_*` as asked; 0 if it was made executable afterwards.
        map_flags: u64,
    },
    /// The kernel took code from memory.
    KernelLoad {
        /// The kernel's `enum kernel_load_data_id`.
        id: u64,
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

/// What a program was given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Command {
    /// First bytes of the arguments, whole arguments except perhaps the last.
    pub args: Vec<Vec<u8>>,
    /// How many there were.
    pub argc: u32,
    /// Whether `args` is not all of them.
    pub truncated: bool,
}

/// A process in the ancestry of an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    /// Thread-group id in the initial pid namespace.
    pub tgid: u32,
    /// Start, ns since boot.
    pub start_ns: u64,
    /// Name.
    pub comm: Vec<u8>,
}

/// Who does something: what the executions of one program by one parent have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Name of the thread.
    pub comm: Vec<u8>,
    /// Real user in the initial user namespace.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Login user, `None`: unset.
    pub login_uid: Option<u32>,
    /// Audit session, `None`: unset.
    pub session: Option<u32>,
    /// Parents, nearest first.
    pub ancestors: Shared<Vec<Process>>,
}

/// Where a task lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Home {
    /// Namespace inodes in the order of `cima_abi::Ns`.
    pub ns: [u32; NS_COUNT],
    /// Sequence number of the mount namespace.
    pub mnt_generation: u64,
    /// Cgroup v2 id.
    pub cgroup_id: u64,
    /// Cgroup path from the hierarchy's root, `…/` in front if its start was cut off.
    pub cgroup: Vec<u8>,
    /// Whether it was.
    pub cgroup_truncated: bool,
    /// Number of the registered container, 0: none.
    pub container: u64,
}

/// A file and what it is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its identity.
    pub id: FileId,
    /// Its path as the process sees it; `None` if it could not be made.
    pub path: Option<Vec<u8>>,
    /// Whether the path lies on overlayfs.
    pub overlay: bool,
    /// Memory of a memfd or a System V segment, not a file with a name.
    pub memfd: bool,
}

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub what: What,
    /// When, ns since boot.
    pub time_ns: u64,
    /// Thread-group id in the initial pid namespace.
    pub tgid: u32,
    /// Start of the process, ns since boot.
    pub start_ns: u64,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Thread-group id in its own pid namespace.
    pub ns_tgid: u32,
    /// Who did it.
    pub subject: Shared<Subject>,
    /// Where.
    pub home: Shared<Home>,
    /// To which file.
    pub file: Shared<Object>,
    /// Bits of `cima_abi::flag`.
    pub flags: u16,
}

impl Event {
    /// Reads one record.
    ///
    /// # Errors
    /// As [`Parser::parse`].
    pub fn parse(record: &[u8]) -> Result<Self, EventError> {
        Parser::default().parse(record)
    }

    /// Whether this is the same report as `other`, made by another set of probes that was
    /// attached at the same time.
    pub fn is_twin_of(&self, other: &Event) -> bool {
        (
            self.tid,
            self.start_ns,
            self.file.id.inode,
            self.home.mnt_generation,
        ) == (
            other.tid,
            other.start_ns,
            other.file.id.inode,
            other.home.mnt_generation,
        ) && (&self.what, &self.file.path) == (&other.what, &other.file.path)
    }

    /// Whether the agent's self-test caused it.
    pub fn is_self_test(&self) -> bool {
        self.flags & flag::SELF_TEST != 0
    }
}
