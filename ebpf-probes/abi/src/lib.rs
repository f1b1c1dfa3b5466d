// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What crosses the border between kernel and agent, and nothing else: the ring
//! buffer's records, the loss counters' causes, the scope configuration and the
//! names of the globals that carry kernel field offsets. Both sides compile this
//! file, so a field that one side forgets does not build.
//! All integers are in the machine's byte order; records never leave the node.

#![no_std]
#![warn(missing_docs)]

pub mod offsets;

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Layout version, first field of every record. A probe object of another
/// version is refused by the agent.
pub const ABI_VERSION: u16 = 4;

/// Ancestors recorded with an event, nearest first; the process itself is not among them.
pub const ANCESTORS: usize = 8;
/// Bytes of `comm` in the kernel (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;
/// Room for the cgroup path's components, nearest first, each ended by NUL.
pub const CGROUP_LEN: usize = 768;
/// Room for a file's path in a [`ShortMap`] or [`ShortExec`], its NUL included.
pub const SHORT_PATH: usize = 256;
/// Room for a file's path in a [`LongMap`] or [`LongExec`] (`PATH_MAX`), its NUL included.
pub const LONG_PATH: usize = 4096;
/// Room for the first bytes of an execution's argument strings.
pub const ARGS_LEN: usize = 512;
/// Largest digest the kernel's IMA returns (SHA-512).
pub const DIGEST_LEN: usize = 64;

/// What a record tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file was mapped executable (`mmap_file` with `PROT_EXEC`).
    Map = 1,
    /// A program was executed (`bprm_committed_creds`).
    Exec = 2,
    /// A file that is no ELF object was executed: a `#!` script or what binfmt_misc
    /// hands to an interpreter (`bprm_check_security`).
    Script = 3,
    /// The kernel reads a file on the task's behalf: a module, firmware, a kexec image
    /// (`kernel_read_file`); [`Header::map_flags`] says which.
    KernelRead = 4,
    /// A file was opened for writing while it is mapped, after it was measured (`file_open`).
    Written = 5,
    /// A mapping of a file was made executable (`file_mprotect`).
    Mprotect = 6,
    /// Memory without a file is executable (`mmap_file`, `file_mprotect`); the file of
    /// the record is the program that the process runs.
    Anonymous = 7,
    /// The kernel takes data of the task that lie in no file, such as a module from
    /// memory (`kernel_load_data`); [`Header::map_flags`] says which.
    KernelLoad = 8,
    /// A mount namespace was made that is a container's or could be (`unshare`, `clone`):
    /// a [`ChangeRecord`]. The task is the one that called.
    Made = 9,
    /// A task goes over to the mount namespace of a container, or from one to elsewhere (`setns`): a
    /// [`ChangeRecord`]. The record shows the task as it was.
    Joined = 10,
    /// A task exchanges the root of its mount namespace (`pivot_root`): a [`ChangeRecord`].
    Pivoted = 11,
    /// The process that a container began with has ended; [`Header::map_flags`] is its wait status.
    Ended = 12,
    /// An execution was refused: a container that nobody registered.
    Denied = 13,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 13] = [
        Kind::Map,
        Kind::Exec,
        Kind::Script,
        Kind::KernelRead,
        Kind::Written,
        Kind::Mprotect,
        Kind::Anonymous,
        Kind::KernelLoad,
        Kind::Made,
        Kind::Joined,
        Kind::Pivoted,
        Kind::Ended,
        Kind::Denied,
    ];
}

/// The namespaces of a task, in the order in which records and masks hold them.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of namespaces(7)")]
pub enum Ns {
    Mnt = 0,
    Pid = 1,
    User = 2,
    Uts = 3,
    Net = 4,
    Ipc = 5,
    Cgroup = 6,
    Time = 7,
}

/// How many namespaces a task has.
pub const NS_COUNT: usize = 8;

impl Ns {
    /// Every namespace, in record order.
    pub const ALL: [Ns; NS_COUNT] = [
        Ns::Mnt,
        Ns::Pid,
        Ns::User,
        Ns::Uts,
        Ns::Net,
        Ns::Ipc,
        Ns::Cgroup,
        Ns::Time,
    ];

    /// The flag that makes one (`include/uapi/linux/sched.h`).
    pub const fn clone_flag(self) -> u32 {
        match self {
            Ns::Mnt => 0x0002_0000,
            Ns::Pid => 0x2000_0000,
            Ns::User => 0x1000_0000,
            Ns::Uts => 0x0400_0000,
            Ns::Net => 0x4000_0000,
            Ns::Ipc => 0x0800_0000,
            Ns::Cgroup => 0x0200_0000,
            Ns::Time => 0x0000_0080,
        }
    }

    /// This namespace's bit in a mask of namespaces.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Its name in `/proc/PID/ns` and in the measurement policy.
    pub const fn name(self) -> &'static str {
        match self {
            Ns::Mnt => "mnt",
            Ns::Pid => "pid",
            Ns::User => "user",
            Ns::Uts => "uts",
            Ns::Net => "net",
            Ns::Ipc => "ipc",
            Ns::Cgroup => "cgroup",
            Ns::Time => "time",
        }
    }
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// The path did not fit [`super::LONG_PATH`] or could not be made: `path_len` is 0.
    pub const NO_PATH: u16 = 1 << 0;
    /// The path of the file lies on overlayfs.
    pub const OVERLAY: u16 = 1 << 1;
    /// The file lives on a kernel-internal tmpfs or hugetlbfs mount: a memfd or SysV segment.
    pub const MEMFD: u16 = 1 << 2;
    /// The file has no name left (link count 0).
    pub const UNLINKED: u16 = 1 << 3;
    /// The argument strings could not be read.
    pub const ARGS_UNREADABLE: u16 = 1 << 4;
    /// The cgroup path was longer or deeper than the record holds: its far end is cut off.
    pub const CGROUP_TRUNCATED: u16 = 1 << 5;
    /// The event belongs to the agent's self-test.
    pub const SELF_TEST: u16 = 1 << 6;
    /// Somebody could write the file while it was hashed and mapped.
    pub const WRITER: u16 = 1 << 7;
    /// The file was copied up in its overlay after it was opened: what is mapped is the
    /// lower file, what was hashed is the upper.
    pub const COPIED_UP: u16 = 1 << 8;
    /// The task is in what could be a container, and nobody registered it, which the policy does not allow.
    pub const UNREGISTERED: u16 = 1 << 9;
    /// The root that the container's mount namespace got is not the one that was measured; it
    /// is registered no more.
    pub const OTHER_ROOT: u16 = 1 << 10;
}

/// A task as an ancestor.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, KnownLayout))]
pub struct Ancestor {
    /// Start of its thread group's leader, ns since boot.
    pub start_ns: u64,
    /// Thread-group id in the initial pid namespace; 0: no such ancestor, nor any behind.
    pub tgid: u32,
    /// 0; like the rest undefined behind the first slot whose number is 0.
    pub reserved: u32,
    /// Name, ended by NUL if shorter than the array.
    pub comm: [u8; COMM_LEN],
}

/// The file as the kernel knows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, KnownLayout))]
pub struct FileId {
    /// Inode number (of the overlay's own inode for a file on overlayfs).
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// `super_block.s_magic`.
    pub fs_magic: u64,
    /// Device in the kernel's internal encoding (major << 20 | minor).
    pub device: u32,
    /// Inode generation.
    pub generation: u32,
    /// Link count.
    pub links: u32,
    /// Mode with file type.
    pub mode: u32,
}

/// The fixed part of every record.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, KnownLayout))]
pub struct Header {
    /// [`ABI_VERSION`].
    pub version: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// Kernel `enum hash_algo` of the digest (`include/uapi/linux/hash_info.h`); 255: none.
    pub hash_algo: u8,
    /// Bits of [`flag`].
    pub flags: u16,
    /// Bytes of room for the path behind the header ([`SHORT_PATH`] or [`LONG_PATH`]).
    pub path_cap: u16,
    /// Bytes of path, NUL not counted.
    pub path_len: u16,
    /// Bytes of argument strings (exec records).
    pub args_len: u16,
    /// Bytes of cgroup components, NULs counted.
    pub cgroup_len: u16,
    /// Always 0.
    pub reserved: u16,
    /// Negative errno of the hash, 0 if there is a digest.
    pub hash_error: i32,
    /// Arguments of the execution (exec records).
    pub argc: u32,
    /// When, ns since boot (`CLOCK_BOOTTIME`).
    pub time_ns: u64,
    /// Start of the process, ns since boot.
    pub start_ns: u64,
    /// Thread-group id in the initial pid namespace.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Thread-group id in the process's own pid namespace.
    pub ns_tgid: u32,
    /// Real user id in the initial user namespace.
    pub uid: u32,
    /// Real group id in the initial user namespace.
    pub gid: u32,
    /// Login user id (`audit_set_loginuid`), 0xffffffff: unset.
    pub login_uid: u32,
    /// Audit session, 0xffffffff: unset.
    pub session: u32,
    /// Namespace inodes in the order of [`Ns`].
    pub ns: [u32; NS_COUNT],
    /// `prot` of the mapping as granted (map records).
    pub prot: u32,
    /// Sequence number of the mount namespace: unique for a boot, unlike its inode.
    pub mnt_generation: u64,
    /// [`MountNs::container`] of the task's mount namespace.
    pub container: u64,
    /// Cgroup v2 id.
    pub cgroup_id: u64,
    /// `MAP_*` flags of the mapping (map records); the kernel's `enum kernel_read_file_id`
    /// or `kernel_load_data_id` ([`Kind::KernelRead`], [`Kind::KernelLoad`]).
    pub map_flags: u64,
    /// The file that was mapped or executed.
    pub file: FileId,
    /// Its digest, `hash_algo` says how many bytes count.
    pub digest: [u8; DIGEST_LEN],
    /// Name of the thread, ended by NUL if shorter.
    pub comm: [u8; COMM_LEN],
    /// Parents, nearest first, up to one with number 0.
    pub ancestors: [Ancestor; ANCESTORS],
    /// Components of the cgroup path, nearest first, each ended by NUL.
    pub cgroup: [u8; CGROUP_LEN],
}

/// Value of [`Header::hash_algo`] when there is no digest.
pub const NO_HASH: u8 = 255;

/// [`Kind::Map`] with a path of up to [`SHORT_PATH`].
#[repr(C)]
pub struct ShortMap {
    /// Fixed part.
    pub header: Header,
    /// Path as the process sees it.
    pub path: [u8; SHORT_PATH],
}

/// [`Kind::Map`] with a path of up to [`LONG_PATH`].
#[repr(C)]
pub struct LongMap {
    /// Fixed part.
    pub header: Header,
    /// Path as the process sees it.
    pub path: [u8; LONG_PATH],
}

/// [`Kind::Exec`] with a path of up to [`SHORT_PATH`].
#[repr(C)]
pub struct ShortExec {
    /// Fixed part.
    pub header: Header,
    /// Path as the process sees it.
    pub path: [u8; SHORT_PATH],
    /// Argument strings, each ended by NUL.
    pub args: [u8; ARGS_LEN],
}

/// [`Kind::Exec`] with a path of up to [`LONG_PATH`].
#[repr(C)]
pub struct LongExec {
    /// Fixed part.
    pub header: Header,
    /// Path as the process sees it.
    pub path: [u8; LONG_PATH],
    /// Argument strings, each ended by NUL.
    pub args: [u8; ARGS_LEN],
}

/// What a change of namespaces leads to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, KnownLayout))]
pub struct Change {
    /// Sequence number of the mount namespace.
    pub mnt_generation: u64,
    /// [`MountNs::container`] of it.
    pub container: u64,
    /// Inodes of the namespaces in the order of [`Ns`]; of pid, the one that children live in. Of user,
    /// 0 when a task joins.
    pub ns: [u32; NS_COUNT],
    /// `CLONE_NEW*` of the call; when a task joins, of all namespaces that are others than before; 0 of a pivot.
    pub flags: u32,
    /// [`MountNs::gathered`].
    pub gathered: u32,
    /// Of a pivot: device of the new root, or of that which the first program found, in the kernel's encoding.
    pub root_device: u32,
    /// 0.
    pub reserved: u32,
}

/// [`Kind::Made`], [`Kind::Joined`], [`Kind::Pivoted`].
#[repr(C)]
pub struct ChangeRecord {
    /// Fixed part, without a path.
    pub header: Header,
    /// What it leads to.
    pub change: Change,
}

/// What is known of a mount namespace: the registry of containers. Element of the map
/// [`map::NAMESPACES`], by the inode of the namespace. Each new mount namespace gets a new element in the place of
/// that of any other that had its inode, so that nothing need be removed for the sake of truth.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountNs {
    /// Sequence number; 0: it was there before the probes, and is whichever has the inode.
    pub generation: u64,
    /// Number of the container that it belongs to, as its hook registered it; 0: none.
    pub container: u64,
    /// Start of the process that the container begins with, ns since boot.
    pub init_start_ns: u64,
    /// Inode of the root that was measured, if that is to be compared; 0: not.
    pub root_inode: u64,
    /// Device of that root in the kernel's encoding; 0: not compared.
    pub root_device: u32,
    /// Thread-group id of the first process.
    pub init_tgid: u32,
    /// [`Ns::bit`]s: which namespaces were others than the host's when it was made, which its tasks made until one of them
    /// executed a program, and which were others when one exchanged its root.
    pub gathered: u32,
    /// Bits of [`mount_ns`]. The probes change it together with `gathered`, as one word.
    pub state: u32,
    /// Digest of the container's image, in memory's order; 0 unless [`provenance::IMAGE`].
    pub image: [u64; 4],
    /// One of [`provenance`].
    pub provenance: u32,
    /// 0.
    pub reserved: u32,
}

/// Bits of [`MountNs::state`].
pub mod mount_ns {
    /// No task of it has executed a program.
    pub const OPEN: u32 = 1 << 0;
    /// Its root was exchanged.
    pub const PIVOTED: u32 = 1 << 1;
    /// It got another root than the one that was registered: a container whatever the rules are.
    pub const OTHER_ROOT: u32 = 1 << 2;
    /// The process that the container begins with has executed a program: what its tasks do to their root from now on is
    /// their own doing.
    pub const STARTED: u32 = 1 << 3;
    /// The end of that process was reported.
    pub const ENDED: u32 = 1 << 4;
}

/// What becomes of an execution in what could be a container, and nobody registered: values of
/// [`Scope::unregistered`].
pub mod unregistered {
    /// It is measured.
    pub const ALLOW: u32 = 0;
    /// It is measured, and is a violation.
    pub const VIOLATION: u32 = 1;
    /// It is refused.
    pub const DENY: u32 = 2;
}

/// Mount namespaces that are known, at most.
pub const NAMESPACES: u32 = 1 << 15;

/// Why an event never reached the ring buffer: index into the per-CPU counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// No room for the record of a mapped file: a measurement is missing.
    MapRingFull = 0,
    /// No room for the record of an execution.
    ExecRingFull = 1,
    /// No room for the record of a violation.
    ViolationRingFull = 2,
    /// No room for the record of a change of namespaces or of the end of a container.
    ChangeRingFull = 3,
    /// No room in the map of mount namespaces for a new one: whether it is a container's is then told from the
    /// namespaces of each task, and it cannot be registered.
    NamespacesFull = 4,
}

/// How many causes of loss there are.
pub const LOSS_COUNT: usize = 5;

impl Loss {
    /// Every cause, in counter order.
    pub const ALL: [Loss; LOSS_COUNT] = [
        Loss::MapRingFull,
        Loss::ExecRingFull,
        Loss::ViolationRingFull,
        Loss::ChangeRingFull,
        Loss::NamespacesFull,
    ];

    /// The cause as entries and metrics name it.
    pub const fn name(self) -> &'static str {
        match self {
            Loss::MapRingFull => "map-ring-full",
            Loss::ExecRingFull => "exec-ring-full",
            Loss::ViolationRingFull => "violation-ring-full",
            Loss::ChangeRingFull => "change-ring-full",
            Loss::NamespacesFull => "namespaces-full",
        }
    }
}

/// What the probes count besides losses: index into the per-CPU counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stat {
    /// Files that the kernel hashed.
    Hashed = 0,
    /// Digests that were taken from the cache.
    CacheHit = 1,
    /// Mappings that had been reported before, of the same unchanged file: nothing was said.
    Said = 2,
    /// Files whose digest could not be kept: a writer, or a file system that does not tell of changes.
    Uncacheable = 3,
    /// Files that could not be handed on, to be listed by the kernel: the agent has them listed.
    Unhanded = 4,
}

/// How many counters there are.
pub const STAT_COUNT: usize = 5;

impl Stat {
    /// Every counter, in order.
    pub const ALL: [Stat; STAT_COUNT] = [
        Stat::Hashed,
        Stat::CacheHit,
        Stat::Said,
        Stat::Uncacheable,
        Stat::Unhanded,
    ];
}

/// Slots of the write clock: a power of two. See [`map::WRITES`].
pub const WRITE_SLOTS: u32 = 1 << 18;
/// Slots of the mount clock: a power of two. See [`map::MOUNTS`].
pub const MOUNT_SLOTS: u32 = 1 << 12;
/// Digests that are kept.
pub const DIGESTS: u32 = 1 << 16;
/// Reports that are remembered.
pub const SAID: u32 = 1 << 17;
/// Bytes of the ring buffer for the agent's own self-test.
pub const SELF_TEST_BYTES: u32 = 1 << 18;

/// Alternatives that make a task a container's, at most.
pub const MAX_CANDIDATES: usize = 8;

/// Which tasks are measured; one element of the array map [`map::SCOPE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Namespaces of the host, in the order of [`Ns`].
    pub host_ns: [u32; NS_COUNT],
    /// A mount namespace is a container's if, for any of these masks, all namespaces
    /// named in it were [gathered](MountNs::gathered); 0: unused. Of a mount namespace that was there before
    /// the probes: if the task's namespaces differ from the host's.
    pub candidates: [u32; MAX_CANDIDATES],
    /// Not 0: every task is measured, the host's too.
    pub measure_host: u32,
    /// This process and its children are reported with [`flag::SELF_TEST`]; 0: nobody.
    pub self_test_tgid: u32,
    /// Differs from that of the scope before: what was decided under that one counts no more.
    pub version: u32,
    /// Differs from the one before when a list does not go on where the last one ended: what
    /// was reported to that is reported again.
    pub epoch: u32,
    /// One of [`unregistered`].
    pub unregistered: u32,
    /// 0, which the verifier does not know: see `scope.rs` of the probes.
    pub nothing: u32,
    /// Inode of the host's root directory.
    pub host_root_inode: u64,
    /// Its device in the kernel's encoding.
    pub host_root_device: u32,
    /// Not 0: what is measured is [handed](Handed) to the programs that have the kernel list it.
    pub kernel_lists: u32,
}

/// What a task has measured, for the program that lists it in the same hook: element of the map [`map::HANDED`], by
/// the task (`bpf_get_current_pid_tgid`). What follows `is_last_word` is `struct cima_measurement` of `kmod-bridge/uapi/cima.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// Address of the `struct file`, by which the other knows that it is meant.
    pub file: u64,
    /// What need not be said again once it is listed: a key of [`map::SAID`].
    pub report: [u64; 5],
    /// Not 0: that is so.
    pub is_last_word: u64,
    /// One of [`provenance`].
    pub provenance: u32,
    /// Bits of [`handed`].
    pub flags: u32,
    /// Digest of the image, in memory's order; 0 unless [`provenance::IMAGE`].
    pub image: [u64; 4],
    /// Negative errno of the hash, or 0.
    pub error: i32,
    /// The kernel's `enum hash_algo`.
    pub algorithm: u32,
    /// The digest, in memory's order, zeros behind.
    pub digest: [u64; DIGEST_LEN / 8],
}

/// Values of [`Handed::provenance`] and [`MountNs::provenance`]: whose image a file is of. As in `enum cima_provenance`.
pub mod provenance {
    /// Nobody announced the container.
    pub const UNREGISTERED: u32 = 0;
    /// Announced, but its image has no digest.
    pub const UNMEASURED: u32 = 1;
    /// The image with that digest.
    pub const IMAGE: u32 = 2;
}

/// Bits of [`Handed::flags`]: `CIMA_*` of `kmod-bridge/uapi/cima.h`.
pub mod handed {
    /// There is a hash, or an error.
    pub const HASHED: u32 = 1 << 0;
    /// Somebody could write the file meanwhile.
    pub const WRITER: u32 = 1 << 1;
    /// The digest is of the upper file, what is mapped is the lower one.
    pub const COPIED_UP: u32 = 1 << 2;
}

/// Tasks that may have something handed at a time.
pub const HANDED: u32 = 1 << 12;

#[cfg(feature = "user")]
#[allow(unsafe_code, reason = "aya asks for this promise")]
// SAFETY: Scope is repr(C), made of u32 and a u64, without padding (below); any bytes are a valid value.
unsafe impl aya::Pod for Scope {}

#[cfg(feature = "user")]
#[allow(unsafe_code, reason = "aya asks for this promise")]
// SAFETY: MountNs is repr(C), made of u64 and pairs of u32, without padding (below); any bytes are a valid value.
unsafe impl aya::Pod for MountNs {}

/// Names of the maps.
pub mod map {
    /// Ring buffer of records.
    pub const EVENTS: &str = "EVENTS";
    /// Per-CPU array of loss counters (u64), indexed by [`super::Loss`].
    pub const LOSSES: &str = "LOSSES";
    /// Array of one [`super::Scope`].
    pub const SCOPE: &str = "SCOPE";
    /// Ring buffer of the self-test's records.
    pub const SELF_TEST: &str = "SELF_TEST";
    /// Per-CPU array of counters (u64), indexed by [`super::Stat`].
    pub const STATS: &str = "STATS";
    /// Array of u64: how often a file of this slot may have been changed. Many files share a
    /// slot: a stranger's write costs a hash, never a stale digest.
    pub const WRITES: &str = "WRITES";
    /// Array of u64: how often a file system of this slot went away.
    pub const MOUNTS: &str = "MOUNTS";
    /// LRU hash: file to digest.
    pub const DIGESTS: &str = "DIGESTS";
    /// LRU hash: what has been reported.
    pub const SAID: &str = "SAID";

    /// Hash map: inode of a mount namespace to [`super::MountNs`].
    pub const NAMESPACES: &str = "NAMESPACES";

    /// Inode storage: the last mapping of a file that needed no report.
    pub const NOTES: &str = "NOTES";
    /// Array of one u64: how often paths may have changed.
    pub const PATHS: &str = "PATHS";

    /// Hash map: task to [`super::Handed`].
    pub const HANDED: &str = "HANDED";

    /// Every map that a set of probes shares with the agents that come and go.
    pub const ALL: [&str; 11] = [
        EVENTS, LOSSES, SCOPE, SELF_TEST, STATS, WRITES, MOUNTS, DIGESTS, SAID, NAMESPACES, HANDED,
    ];
}

// The verifier and the reader both rely on these: no hidden padding, 8-byte steps.
const _: () = {
    assert!(size_of::<Header>().is_multiple_of(8));
    assert!(
        size_of::<Header>()
            == 16
                + 8
                + 16
                + 28
                + 32
                + 4
                + 32
                + size_of::<FileId>()
                + DIGEST_LEN
                + COMM_LEN
                + ANCESTORS * size_of::<Ancestor>()
                + CGROUP_LEN
    );
    assert!(size_of::<Scope>() == 4 * (NS_COUNT + MAX_CANDIDATES + 6) + 8 + 2 * 4);
    // One word.
    let (gathered, state) = (
        core::mem::offset_of!(MountNs, gathered),
        core::mem::offset_of!(MountNs, state),
    );
    assert!(gathered.is_multiple_of(8) && state == gathered + 4);
    assert!(size_of::<Handed>() == 7 * 8 + 4 * 4 + 32 + DIGEST_LEN);
    assert!(size_of::<MountNs>() == 48 + 32 + 8 && size_of::<Change>() == 64);
};
