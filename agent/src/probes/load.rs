// SPDX-License-Identifier: Apache-2.0
//! Loads the probe object and attaches its programs, or takes over the set that an
//! agent before this one has left attached. Programs, links and maps are pinned:
//! the probes go on, and their queue fills, whatever happens to the agent.

use std::{
    collections::BTreeMap,
    io,
    mem::offset_of,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf, loaded_maps},
    pin::PinError,
    programs::{
        BtfTracePoint, FEntry, FExit, Lsm, ProgramError, ProgramInfo,
        links::{FdLink, LinkError, PinnedLink},
        loaded_links,
    },
};
use cima_abi::{
    ABI_VERSION, LOSS_COUNT, Loss, MountNs, STAT_COUNT, Scope, Stat, map, offsets::SECRETS,
    provenance,
};
use sha2::{Digest as _, Sha256};
use tokio::io::unix::AsyncFd;

use super::{
    Event, EventError, Offsets, Queue,
    btf::BtfError,
    lister::{self, Lister},
    pins::{self, Set},
};

/// How a program is attached.
#[derive(Debug, Clone, Copy)]
enum Hook {
    /// To an LSM hook.
    Lsm,
    /// To the beginning of a kernel function.
    Entry,
    /// To its end.
    Exit,
    /// To a tracepoint.
    Tracepoint,
}

/// The programs of the object, each named like its hook. Those that keep digests honest and know whose a mount
/// namespace is come before those that measure.
const PROGRAMS: [(&str, Hook); 19] = [
    ("file_open", Hook::Lsm),
    ("inode_setattr", Hook::Lsm),
    ("sb_free_security", Hook::Lsm),
    ("inode_rename", Hook::Lsm),
    ("move_mount", Hook::Lsm),
    ("sb_mount", Hook::Lsm),
    ("sb_umount", Hook::Lsm),
    ("copy_mnt_ns", Hook::Exit),
    ("copy_namespaces", Hook::Exit),
    ("ksys_unshare", Hook::Exit),
    ("switch_task_namespaces", Hook::Entry),
    ("sb_pivotroot", Hook::Lsm),
    ("sched_process_exit", Hook::Tracepoint),
    ("mmap_file", Hook::Lsm),
    ("bprm_check_security", Hook::Lsm),
    ("kernel_read_file", Hook::Lsm),
    ("kernel_load_data", Hook::Lsm),
    ("file_mprotect", Hook::Lsm),
    ("bprm_committed_creds", Hook::Lsm),
];

/// `include/uapi/linux/bpf.h`: only what is not there.
const BPF_NOEXIST: u64 = 1;

/// How long the kernel may take to let go of programs that are detached.
const DETACHED: Duration = Duration::from_secs(10);

/// Why the probes do not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// See [`BtfError`].
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// aya could not read the kernel's BTF.
    #[error("the kernel's type information cannot be read: {0}")]
    KernelTypes(#[source] Box<aya::BtfError>),
    /// Not an object of ours, or refused by the kernel.
    #[error("the probe object cannot be loaded: {0}")]
    Object(#[source] Box<EbpfError>),
    /// A program or map that this agent needs is not in the object.
    #[error("the probe object has no {0}: it was built for another version of cima")]
    Absent(&'static str),
    /// The kernel refused a program; the verifier's log is in the text.
    #[error("the kernel refused the probe {name}: {source}")]
    Program {
        /// Which.
        name: &'static str,
        /// aya's report, with the verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
    /// The programs that have the kernel list.
    #[error("the programs that have the kernel list what is measured cannot be loaded: {source:#}")]
    Lister {
        /// libbpf's report.
        #[source]
        source: Box<libbpf_rs::Error>,
    },
    /// A map could not be read or written.
    #[error("the probes' map {map} cannot be used: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// aya's report.
        #[source]
        source: Box<MapError>,
    },
    /// A program, link or map could not be pinned.
    #[error("cannot pin {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// aya's report.
        #[source]
        source: Box<PinError>,
    },
    /// A pinned link could not be opened.
    #[error("the pinned probe {} cannot be used: {source}; `cimad --unload` removes it", path.display())]
    Link {
        /// Where.
        path: PathBuf,
        /// aya's report.
        #[source]
        source: Box<LinkError>,
    },
    /// The BPF file system.
    #[error("cannot {action} {}: {source}", path.display())]
    BpfFs {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The old probes would not go.
    #[error("the probes of the agent before are still attached, {} s after they were given up", DETACHED.as_secs())]
    StillAttached,
    /// The kernel gave no random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Random(#[source] io::Error),
    /// The probes' own messages cannot be read.
    #[error("the probes' debug messages cannot be read: {0}")]
    Log(#[source] io::Error),
    /// The ring buffer's descriptor could not be watched.
    #[error("the ring buffer cannot be watched: {0}")]
    Watch(#[source] io::Error),
}

/// Lost events so far: per cause, per CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses([Vec<u64>; LOSS_COUNT]);

impl Losses {
    /// What the counters say now.
    fn of(counters: &PerCpuArray<MapData, u64>) -> Result<Self, LoadError> {
        let mut losses = Self::default();
        // Probes of an older version may count fewer causes.
        let counted = |cause: &Loss| (*cause as u32) < counters.len();
        for cause in Loss::ALL.into_iter().filter(counted) {
            let values = counters
                .get(&(cause as u32), 0)
                .map_err(bad_map(map::LOSSES))?;
            losses.0[cause as usize] = values.iter().copied().collect();
        }
        Ok(losses)
    }

    /// What agents before this one have reported of the same counters: cause and CPU to count.
    pub fn reported(counts: &BTreeMap<(String, u32), u64>) -> Self {
        let mut losses = Self::default();
        for ((name, cpu), count) in counts {
            let Some(cause) = Loss::ALL.into_iter().find(|cause| cause.name() == name) else {
                continue;
            };
            let (cpus, cpu) = (&mut losses.0[cause as usize], *cpu as usize);
            if cpus.len() <= cpu {
                cpus.resize(cpu + 1, 0);
            }
            cpus[cpu] = *count;
        }
        losses
    }

    /// `(cause, cpu, new losses)` since `before`.
    pub fn since(&self, before: &Losses) -> Vec<(Loss, u32, u64)> {
        let mut new = Vec::new();
        for cause in Loss::ALL {
            for (cpu, now) in (0..).zip(&self.0[cause as usize]) {
                let then = before.0[cause as usize]
                    .get(cpu as usize)
                    .copied()
                    .unwrap_or(0);
                if *now > then {
                    new.push((cause, cpu, now - then));
                }
            }
        }
        new
    }
}

/// What the probes counted besides losses, over all CPUs, indexed by `cima_abi::Stat`.
pub type Stats = [u64; STAT_COUNT];

/// What a set of probes is made from.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The probe object.
    pub object: &'a [u8],
    /// The object with the programs that have the kernel list what is measured, if it is to.
    pub lister: Option<&'a Lister>,
    /// Values for its globals.
    pub offsets: &'a Offsets,
    /// Bytes of the ring buffer, a power of two.
    pub ring_bytes: u32,
    /// Whether the probes speak through `aya-log` at level `debug`.
    pub debug: bool,
    /// Where sets are pinned, in a BPF file system.
    pub pin_dir: &'a Path,
}

impl Settings<'_> {
    /// Tells sets apart that were made from other things.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(ABI_VERSION.to_le_bytes());
        hash.update(self.ring_bytes.to_le_bytes());
        hash.update([u8::from(self.debug)]);
        for (name, value) in self.offsets.iter() {
            hash.update(name);
            hash.update(value.to_le_bytes());
        }
        hash.update(self.object);
        if let Some(lister) = self.lister {
            hash.update((self.object.len() as u64).to_le_bytes());
            hash.update(lister.bytes());
        }
        hex::encode(&hash.finalize()[..8])
    }
}

/// The probes at work, and what was found when they were attached.
pub struct Attached {
    /// What controls them.
    pub probes: Probes,
    /// Their events.
    pub queue: Queue,
    /// Sets of agents before this one, oldest first, to be [retired](retire).
    pub before: Vec<Set>,
}

/// What a set still holds that is detached for good.
pub struct Retired {
    /// Its events.
    pub queue: Queue,
    /// Its loss counters.
    pub losses: Losses,
}

/// The map of mount namespaces, by inode: the registry that the probes read.
#[derive(Debug)]
pub struct Namespaces(HashMap<MapData, u32, MountNs>);

impl Namespaces {
    /// What is known of the mount namespace that has this inode now.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn get(&self, inode: u32) -> Result<Option<MountNs>, LoadError> {
        match self.0.get(&inode, 0) {
            Ok(known) => Ok(Some(known)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(bad_map(map::NAMESPACES)(error)),
        }
    }

    /// Says what the mount namespace with this inode is.
    ///
    /// # Errors
    /// The map cannot be written, or is full.
    pub fn set(&mut self, inode: u32, known: &MountNs) -> Result<(), LoadError> {
        self.0
            .insert(inode, known, 0)
            .map_err(bad_map(map::NAMESPACES))
    }

    /// Everything that is known, by inode.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn all(&self) -> Result<Vec<(u32, MountNs)>, LoadError> {
        let all: Result<_, _> = self.0.iter().collect();
        all.map_err(bad_map(map::NAMESPACES))
    }
}

/// Control over one set of probes. They stay attached when this is dropped.
pub struct Probes {
    set: Set,
    self_test: AsyncFd<RingBuf<MapData>>,
    losses: PerCpuArray<MapData, u64>,
    stats: PerCpuArray<MapData, u64>,
    scope: Array<MapData, Scope>,
    /// See `Scope::epoch`.
    epoch: u32,
    /// See `Scope::kernel_lists`.
    kernel_lists: bool,
}

impl Probes {
    /// Takes over the last set if it was made from the same `settings`, or makes one with the id
    /// `now_ns` (`CLOCK_BOOTTIME`) and attaches it. A new one reports nothing before
    /// [`Probes::set_scope`].
    ///
    /// # Errors
    /// An object of another version, a kernel that refuses it, no BPF file system.
    pub fn attach(settings: &Settings<'_>, now_ns: u64) -> Result<Attached, LoadError> {
        let key = settings.key();
        let mut before = Set::all(settings.pin_dir).map_err(bpffs("list", settings.pin_dir))?;
        // An older one may be attached, too, and made from the same, if the settings went back while an agent died: what
        // the newer have seen since, the list may have already, and only an order by age says what it has.
        let listed = settings.lister.is_some();
        let own = before.pop_if(|set| set.key() == key && is_attached(set, listed));
        let set = match own {
            Some(set) => set,
            None => make(settings, &key, now_ns)?,
        };
        // Whose a mount namespace is, the probes before know; the newest best, but its agent may have died before it had
        // that from those before it. What is there already stays.
        for older in before.iter().rev() {
            inherit(older, &set)?;
        }
        if settings.debug {
            forward_log(&set)?;
        }
        let (probes, queue) = Self::open(set, settings.lister.is_some())?;
        Ok(Attached {
            probes,
            queue,
            before,
        })
    }

    fn open(set: Set, kernel_lists: bool) -> Result<(Self, Queue), LoadError> {
        let self_test = RingBuf::try_from(Map::RingBuf(pinned(&set, map::SELF_TEST)?))
            .map_err(bad_map(map::SELF_TEST))?;
        let losses = losses_of(&set)?;
        let stats = PerCpuArray::try_from(Map::PerCpuArray(pinned(&set, map::STATS)?))
            .map_err(bad_map(map::STATS))?;
        let scope: Array<_, Scope> =
            Array::try_from(Map::Array(pinned(&set, map::SCOPE)?)).map_err(bad_map(map::SCOPE))?;
        let queue = queue_of(&set)?;
        let epoch = scope.get(&0, 0).map_err(bad_map(map::SCOPE))?.epoch;
        let probes = Self {
            epoch,
            kernel_lists,
            set,
            self_test: watch(self_test)?,
            losses,
            stats,
            scope,
        };
        Ok((probes, queue))
    }

    /// Where they are pinned.
    pub fn set(&self) -> &Set {
        &self.set
    }

    /// Says whose tasks are measured from now on.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_scope(&mut self, scope: &Scope) -> Result<(), LoadError> {
        let scope = Scope {
            // Of this moment: an agent before this one may have set others.
            version: crate::clock::boot_ns() as u32,
            epoch: self.epoch,
            kernel_lists: self.kernel_lists.into(),
            ..*scope
        };
        self.scope.set(0, scope, 0).map_err(bad_map(map::SCOPE))
    }

    /// What is known of mount namespaces, for the registry.
    ///
    /// # Errors
    /// The map cannot be opened.
    pub fn namespaces(&self) -> Result<Namespaces, LoadError> {
        namespaces_map(&self.set).map(Namespaces)
    }

    /// Has everything reported again: the list is not the one that it was reported to.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn report_anew(&mut self) -> Result<(), LoadError> {
        self.epoch = crate::clock::boot_ns() as u32;
        let scope = self.scope.get(&0, 0).map_err(bad_map(map::SCOPE))?;
        self.set_scope(&scope)
    }

    /// Waits for events of the self-test and takes them.
    ///
    /// # Errors
    /// The ring buffer cannot be watched any more.
    pub(super) async fn self_test(&mut self) -> io::Result<Vec<Result<Event, EventError>>> {
        loop {
            let mut guard = self.self_test.readable_mut().await?;
            let ring = guard.get_inner_mut();
            let mut events = Vec::new();
            while let Some(record) = ring.next() {
                events.push(Event::parse(&record));
            }
            guard.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    /// The loss counters now.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn losses(&self) -> Result<Losses, LoadError> {
        Losses::of(&self.losses)
    }

    /// The other counters now.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn stats(&self) -> Result<Stats, LoadError> {
        let mut stats = Stats::default();
        for stat in Stat::ALL {
            let values = self
                .stats
                .get(&(stat as u32), 0)
                .map_err(bad_map(map::STATS))?;
            stats[stat as usize] = values.iter().sum();
        }
        Ok(stats)
    }
}

/// Copies what is known of mount namespaces, but for those that the new set has seen made.
fn inherit(from: &Set, to: &Set) -> Result<(), LoadError> {
    let path = from.map(map::NAMESPACES);
    // Probes of long ago registered nobody.
    if !path.exists() {
        return Ok(());
    }
    let known = match known_to(from) {
        Ok(known) => known,
        Err(
            error @ (MapError::InvalidMapType { .. }
            | MapError::InvalidKeySize { .. }
            | MapError::InvalidValueSize { .. }),
        ) => {
            tracing::error!(
                "what the probes before knew of mount namespaces is not taken over from {}: {error}; this version has values of {} bytes; whatever container runs now is not registered any more",
                path.display(),
                size_of::<MountNs>(),
            );
            return Ok(());
        }
        Err(error) => return Err(bad_map(map::NAMESPACES)(error)),
    };
    let mut new = namespaces_map(to)?;
    for (inode, known) in known {
        match new.insert(inode, known, BPF_NOEXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done.map_err(bad_map(map::NAMESPACES))?,
        }
    }
    Ok(())
}

/// What a set of whatever version knows of mount namespaces.
fn known_to(set: &Set) -> Result<Vec<(u32, MountNs)>, MapError> {
    let open = || MapData::from_pin(set.map(map::NAMESPACES));
    if open()?.info()?.value_size() as usize == size_of::<OldMountNs>() {
        let old = HashMap::<_, u32, OldMountNs>::try_from(Map::HashMap(open()?))?;
        let known = old.iter().map(|entry| {
            let (inode, old) = entry?;
            Ok((inode, grown(old)))
        });
        return known.collect();
    }
    let known = HashMap::<_, u32, MountNs>::try_from(Map::HashMap(open()?))?;
    known.iter().collect()
}

/// [`MountNs`] as it was before it had images: the words up to there.
type OldMountNs = [u64; offset_of!(MountNs, image) / 8];

/// The same, of no image that is known: the kernel lists nothing of such a container by itself, the agent does.
fn grown(old: OldMountNs) -> MountNs {
    let [generation, container, init_start_ns, root_inode, root, bits] = old;
    // Two fields each, in memory's order.
    let halves = |word: u64| {
        let [a, b, c, d, rest @ ..] = word.to_ne_bytes();
        (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes(rest))
    };
    let (root_device, init_tgid) = halves(root);
    let (gathered, state) = halves(bits);
    MountNs {
        generation,
        container,
        init_start_ns,
        root_inode,
        root_device,
        init_tgid,
        gathered,
        state,
        image: [0; 4],
        provenance: provenance::UNREGISTERED,
        reserved: 0,
    }
}

fn namespaces_map(set: &Set) -> Result<HashMap<MapData, u32, MountNs>, LoadError> {
    HashMap::try_from(Map::HashMap(pinned(set, map::NAMESPACES)?)).map_err(bad_map(map::NAMESPACES))
}

/// Makes a set. In a thread of its own: reading the kernel's types takes some 20 MiB in small
/// pieces, which the allocator gives back once a thread has nothing left, and otherwise keeps.
fn make(settings: &Settings<'_>, key: &str, now_ns: u64) -> Result<Set, LoadError> {
    let made = std::thread::scope(|scope| scope.spawn(|| pin_all(settings)).join());
    match made {
        Ok(made) => made?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    Set::complete(settings.pin_dir, key, now_ns).map_err(bpffs("use", settings.pin_dir))
}

/// Loads the object, attaches and pins everything.
fn pin_all(settings: &Settings<'_>) -> Result<(), LoadError> {
    let dir = Set::begin(settings.pin_dir).map_err(bpffs("use", settings.pin_dir))?;
    let mut ebpf = load(settings)?;
    for name in map::ALL {
        let map = ebpf.map(name).ok_or(LoadError::Absent(name))?;
        let path = pins::map(&dir, name);
        map.pin(&path).map_err(unpinned(&path))?;
    }
    if let Some(lister) = settings.lister {
        lister.attach(&dir)?;
    }
    let btf = Btf::from_sys_fs().map_err(|e| LoadError::KernelTypes(Box::new(e)))?;
    for (program, hook) in PROGRAMS {
        attach(&mut ebpf, program, hook, &btf, &dir)?;
    }
    Ok(())
}

fn load(settings: &Settings<'_>) -> Result<Ebpf, LoadError> {
    let level = if settings.debug {
        aya_log::Level::Debug
    } else {
        aya_log::Level::Warn
    } as u8;
    let mut secrets = [[0; 8]; SECRETS.len()];
    for secret in &mut secrets {
        rustix::rand::getrandom(secret, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| LoadError::Random(errno.into()))?;
    }
    let secrets = secrets.map(u64::from_ne_bytes);
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(map::EVENTS, settings.ring_bytes);
    loader.override_global(aya_log::LEVEL, &level, false);
    for (name, value) in settings.offsets.iter() {
        // A global that the compiler dropped is one that no probe reads.
        loader.override_global(name, value, false);
    }
    for (name, value) in SECRETS.iter().zip(&secrets) {
        loader.override_global(name, value, true);
    }
    loader
        .load(settings.object)
        .map_err(|e| LoadError::Object(Box::new(e)))
}

/// Loads, attaches and pins a program; the kinds of them have the same methods, but no trait.
macro_rules! attach_as {
    ($kind:ty, $program:expr, $name:expr, $btf:expr, $dir:expr) => {{
        let name: &'static str = $name;
        let refused = |source| LoadError::Program {
            name,
            source: Box::new(source),
        };
        let program: &mut $kind = $program.try_into().map_err(refused)?;
        program.load(name, $btf).map_err(refused)?;
        let path = pins::program($dir, name);
        program.pin(&path).map_err(unpinned(&path))?;
        let link = program.attach().map_err(refused)?;
        FdLink::from(program.take_link(link).map_err(refused)?)
    }};
}

fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    hook: Hook,
    btf: &Btf,
    dir: &Path,
) -> Result<(), LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Absent(name))?;
    let link = match hook {
        Hook::Lsm => attach_as!(Lsm, program, name, btf, dir),
        Hook::Entry => attach_as!(FEntry, program, name, btf, dir),
        Hook::Exit => attach_as!(FExit, program, name, btf, dir),
        Hook::Tracepoint => attach_as!(BtfTracePoint, program, name, btf, dir),
    };
    let path = pins::link(dir, name);
    link.pin(&path).map_err(unpinned(&path))?;
    Ok(())
}

fn losses_of(set: &Set) -> Result<PerCpuArray<MapData, u64>, LoadError> {
    PerCpuArray::try_from(Map::PerCpuArray(pinned(set, map::LOSSES)?)).map_err(bad_map(map::LOSSES))
}

/// The names of a set's programs; also of those that have the kernel list what is measured, if they are `listed`.
fn programs(listed: bool) -> impl Iterator<Item = &'static str> {
    let listers = lister::PROGRAMS.into_iter().filter(move |_| listed);
    PROGRAMS.iter().map(|(program, _)| *program).chain(listers)
}

/// Whether every program of the set is attached: one that is being retired has no links, and root may remove any. Then what
/// is left of it is no set to go on with.
fn is_attached(set: &Set, listed: bool) -> bool {
    programs(listed).all(|program| link(set, program).is_ok_and(|link| link.info().is_ok()))
}

fn link(set: &Set, program: &str) -> Result<FdLink, LoadError> {
    let path = set.link(program);
    match PinnedLink::from_pin(&path) {
        Ok(link) => Ok(link.into()),
        Err(source) => Err(LoadError::Link {
            path,
            source: Box::new(source),
        }),
    }
}

fn queue_of(set: &Set) -> Result<Queue, LoadError> {
    Queue::open(pinned(set, map::EVENTS)?, set.id()).map_err(LoadError::Watch)
}

/// Detaches a set of another agent, if that has not been done. What it still holds is to be
/// read; then the set may be [removed](Set::remove).
///
/// # Errors
/// It cannot be opened or detached.
pub fn retire(set: &Set) -> Result<Retired, LoadError> {
    let (queue, counters) = (queue_of(set)?, losses_of(set)?);
    let mut links = Vec::new();
    for program in programs(true).filter(|program| set.link(program).exists()) {
        let info = link(set, program)?.info();
        links.extend(info.ok().map(|info| info.id()));
    }
    // Every program uses it: the kernel lets go of it when the last run of the last has ended.
    let used = pinned(set, map::SCOPE).and_then(|map| map.info().map_err(bad_map(map::SCOPE)));
    let used = used.ok().map(|info| info.id());
    set.remove_but(&[map::EVENTS, map::LOSSES])
        .map_err(bpffs("clear", set.dir()))?;
    if !within(DETACHED, || !is_linked(&links)) {
        return Err(LoadError::StillAttached);
    }
    if !within(DETACHED, || !used.is_some_and(is_loaded)) {
        tracing::warn!("somebody holds the probes that were detached; they report no more");
    }
    Ok(Retired {
        losses: Losses::of(&counters)?,
        queue,
    })
}

/// Whether one of these links is there.
fn is_linked(links: &[u32]) -> bool {
    loaded_links().any(|link| link.is_ok_and(|link| links.contains(&link.id())))
}

/// Whether the map is there.
fn is_loaded(map: u32) -> bool {
    loaded_maps().any(|loaded| loaded.is_ok_and(|loaded| loaded.id() == map))
}

/// The kernel detaches in its own time: waits until it is done.
fn within(limit: Duration, done: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Detaches and removes every set below `pin_dir`, and says how many there were.
///
/// # Errors
/// The BPF file system refused.
pub fn unload(pin_dir: &Path) -> Result<usize, LoadError> {
    pins::remove_all(pin_dir).map_err(bpffs("remove", pin_dir))
}

fn pinned(set: &Set, name: &'static str) -> Result<MapData, LoadError> {
    MapData::from_pin(set.map(name)).map_err(bad_map(name))
}

fn unpinned(path: &Path) -> impl FnOnce(PinError) -> LoadError + use<> {
    let path = path.to_owned();
    |source| LoadError::Pin {
        path,
        source: Box::new(source),
    }
}

fn bpffs(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LoadError + use<> {
    let path = path.to_owned();
    move |source| LoadError::BpfFs {
        action,
        path,
        source,
    }
}

fn bad_map(map: &'static str) -> impl Fn(MapError) -> LoadError {
    move |source| LoadError::Map {
        map,
        source: Box::new(source),
    }
}

/// Sends the probes' own messages to this process's log.
fn forward_log(set: &Set) -> Result<(), LoadError> {
    // Every program that measures writes to the same log.
    let program = ProgramInfo::from_pin(set.program("mmap_file"));
    let logger = program
        .map_err(|error| LoadError::Log(io::Error::other(error)))
        .map(|program| aya_log::EbpfLogger::init_from_id(program.id()))?;
    let logger = match logger {
        Ok(logger) => watch(logger)?,
        // An object whose messages were all compiled out has no log.
        Err(aya_log::Error::MapNotFound) => return Ok(()),
        Err(error) => return Err(LoadError::Log(io::Error::other(error))),
    };
    tokio::spawn(async move {
        let mut logger = logger;
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}

/// Registers a ring buffer with the reactor.
fn watch<T: AsRawFd>(ring: T) -> Result<AsyncFd<T>, LoadError> {
    #[expect(unsafe_code, reason = "tokio asks for this promise")]
    // SAFETY: both callers pass an aya ring buffer, which owns its map's descriptor:
    // it stays open, and `as_raw_fd` names the same one, until the value is dropped.
    let registered = unsafe { AsyncFd::register(ring) };
    registered.map_err(|error| LoadError::Watch(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_probes_without_images_knew_is_the_same_with_an_image_that_is_not_known() {
        let pair = |first: u32, second: u32| {
            let bytes = [first.to_ne_bytes(), second.to_ne_bytes()].concat();
            u64::from_ne_bytes(bytes.try_into().unwrap())
        };
        let known = MountNs {
            generation: 1,
            container: 2,
            init_start_ns: 3,
            root_inode: 4,
            root_device: 5,
            init_tgid: 6,
            gathered: 7,
            state: 8,
            ..MountNs::default()
        };
        assert_eq!(grown([1, 2, 3, 4, pair(5, 6), pair(7, 8)]), known);
        assert_eq!(known.provenance, provenance::UNREGISTERED);
    }
}
