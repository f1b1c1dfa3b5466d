// SPDX-License-Identifier: Apache-2.0
//! `overlay:CONTAINER`: the image below a container, and its upper directory for the audit.
//!
//! Owns how a container is found: by a process, by the id in the cgroup paths of its processes, or by a name that podman's or
//! CRI-O's store knows. The options of its root's mount name directories; they are paths of this mount namespace only if
//! the mount was made here. So a mount that neither this process's namespace nor the first one's has is refused: whoever
//! may mount in a namespace of their own could name another image's directories.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, fstat, open, openat, statx};
use rustix::io::Errno;

use crate::source::directory::OverlayAttributes;
use crate::source::mountinfo::{self, Mount, MountInfoError, OverlayOptionsError};
use crate::source::overlay::{Lower, OverlayError, WhiteoutNames};
use crate::source::storage::{Said, StorageError, Store};
use crate::source::{Options, overlay};
use crate::{Image, Published};

/// Hexadecimal digits of an id, as every engine writes it, and the least that are taken for one.
const ID_LEN: usize = 64;
const ID_LEAST: usize = 12;
/// Of a mountinfo: a container with a hundred thousand mounts has less.
const LARGEST: u64 = 64 << 20;

/// Why a container's image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Its process is gone, or was never there.
    #[error("of process {pid} \"{file}\" cannot be read: {reason}")]
    Process {
        /// Its number.
        pid: u32,
        /// Below its directory in procfs.
        file: &'static str,
        /// Why.
        #[source]
        reason: io::Error,
    },
    /// More than any process has.
    #[error("no process can have the number {0}")]
    NoNumber(String),
    /// All processes.
    #[error("/proc cannot be read: {0}")]
    Proc(#[source] io::Error),
    /// Its mounts.
    #[error("of process {pid}: {reason}")]
    MountInfo {
        /// Its number.
        pid: u32,
        /// Why.
        #[source]
        reason: MountInfoError,
    },
    /// Its root is no mount that it can see.
    #[error("the root of process {0} is none of the mounts that it has")]
    NoRoot(u32),
    /// Its root is something else.
    #[error(
        "the root of process {pid} is no overlay but {kind} (of \"{device}\"), in which the image's files and the container's \
         do not stand apart; read all of them by dir:/proc/{pid}/root"
    )]
    NoOverlay {
        /// Its number.
        pid: u32,
        /// Type of the file system.
        kind: String,
        /// What is mounted.
        device: String,
    },
    /// Its root is mounted by a program.
    #[error(
        "the root of process {0} is mounted by fuse-overlayfs, which does not say which directories it shows; \
         name the container instead of a process, so that the store says it"
    )]
    Fuse(u32),
    /// Its root is a part of an overlay.
    #[error("the root of process {pid} is \"{}\" inside an overlay, which is no image", root.escape_ascii())]
    Inside {
        /// Its number.
        pid: u32,
        /// Where.
        root: Vec<u8>,
    },
    /// Mounted elsewhere.
    #[error(
        "the root of process {0} was mounted in another mount namespace, and what its directories are called there means nothing here; \
         name the container instead of a process, or for a user's own run this by \"podman unshare\""
    )]
    Elsewhere(u32),
    /// Its mount options.
    #[error("of the root of process {pid}: {reason}")]
    Options {
        /// Its number.
        pid: u32,
        /// Why.
        #[source]
        reason: OverlayOptionsError,
    },
    /// A path that is not whole, and nothing says where it begins.
    #[error("the lower directory \"{}\" has no whole path, and the mount does not say where its store is", .0.escape_ascii())]
    Relative(Vec<u8>),
    /// A mount of the past, with other owners.
    #[error(
        "the lower directory \"{}\" shows a layer with other owners, and was unmounted since; \
         name the container instead of a process, so that the store says which layers it has",
        .0.escape_ascii()
    )]
    Mapped(Vec<u8>),
    /// A path that means something to who mounted only.
    #[error("the lower directory \"{}\" is a path of the process that mounted it", .0.escape_ascii())]
    Descriptor(Vec<u8>),
    /// Several containers.
    #[error("\"{id}\" could be any of the containers {}", candidates.join(", "))]
    Ambiguous {
        /// As given.
        id: String,
        /// Their ids.
        candidates: Vec<String>,
    },
    /// Nobody knows it.
    #[error("no process is in a container \"{}\", and in the store it is not found either: {reason}", text.escape_default())]
    Unknown {
        /// As given.
        text: String,
        /// What was said of the store.
        #[source]
        reason: StorageError,
    },
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Its lower directories.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

/// A container's directories: those of its image, open, and its own.
#[derive(Debug)]
pub struct Container {
    /// The bottom one first.
    lower: Vec<Lower>,
    upper: Option<PathBuf>,
    attributes: OverlayAttributes,
    root: (u32, u32),
    mounts: Vec<Vec<u8>>,
    said: Said,
}

/// Reads the image below a container; see [`Container::find`] for what it may be called.
///
/// # Errors
/// See [`ContainerError`].
pub(super) fn read(text: &str, options: &Options<'_>) -> Result<Image, ContainerError> {
    Container::find(text)?.read(options)
}

impl Container {
    /// Finds a container by the number of a process in it (fewer than 12 digits), by its id (at least
    /// 12 hexadecimal digits of it), or by a name that the store of podman or CRI-O knows.
    ///
    /// # Errors
    /// See [`ContainerError`].
    pub fn find(text: &str) -> Result<Self, ContainerError> {
        let is_number = text.len() < ID_LEAST && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && !text.is_empty() {
            let pid = text
                .parse()
                .map_err(|_| ContainerError::NoNumber(text.to_owned()))?;
            return Self::of_process(pid);
        }
        if is_id(text)
            && let Some(pid) = first_process(text)?
        {
            return Self::of_process(pid);
        }
        Self::of_store(text).map_err(|error| match error {
            ContainerError::Storage(
                reason @ (StorageError::Unknown { .. } | StorageError::NoStore(_)),
            ) => ContainerError::Unknown {
                text: text.to_owned(),
                reason,
            },
            error => error,
        })
    }

    /// The container whose root is that of a process.
    ///
    /// # Errors
    /// See [`ContainerError`].
    pub fn of_process(pid: u32) -> Result<Self, ContainerError> {
        let process = Process::open(pid)?;
        let root = process.root_mount()?;
        Self::of_mount(&process, |mount| mount.id == root)
    }

    /// The container that is being made: its root is a mount of the process's namespace that is not its root yet, as an
    /// engine's hook finds it (OCI runtime specification, `createRuntime`).
    ///
    /// # Errors
    /// See [`ContainerError`].
    pub fn of_mount_point(pid: u32, root: &Path) -> Result<Self, ContainerError> {
        let root = root.as_os_str().as_bytes();
        Self::of_mount(&Process::open(pid)?, |mount| mount.point == root)
    }

    /// Reads its image.
    ///
    /// # Errors
    /// [`ContainerError::Overlay`]
    pub fn read(&self, options: &Options<'_>) -> Result<Image, ContainerError> {
        let mut image = overlay::read(&self.lower, self.attributes, options)?;
        image.published = self.said.published.clone();
        Ok(image)
    }

    /// Device and inode of each lower directory, the bottom one first: tells apart what would be measured.
    ///
    /// # Errors
    /// The file system gives no answer.
    pub fn layers(&self) -> Result<Vec<(u64, u64)>, ContainerError> {
        let of = |lower: &Lower| match fstat(&lower.directory) {
            Ok(stat) => Ok((stat.st_dev, stat.st_ino)),
            Err(reason) => Err(ContainerError::Overlay(OverlayError::Open {
                path: lower.path.clone(),
                reason,
            })),
        };
        self.lower.iter().map(of).collect()
    }

    /// What its publisher said, as far as the engine's store tells.
    #[must_use]
    pub fn published(&self) -> Option<&Published> {
        self.said.published.as_ref()
    }

    /// Its name, as far as the engine's store tells.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.said.name.as_deref()
    }

    /// The directory that has what was written in the container; one that is read only has none.
    #[must_use]
    pub fn upper(&self) -> Option<&Path> {
        self.upper.as_deref()
    }

    /// Where it has mounts, from its root; empty if it does not run.
    #[must_use]
    pub fn mount_points(&self) -> &[Vec<u8>] {
        &self.mounts
    }

    /// Whether its overlay has the option `userxattr`.
    #[must_use]
    pub fn user_attributes(&self) -> bool {
        self.attributes == OverlayAttributes::User
    }

    /// User and group, in the initial user namespace, that are 0 in the container.
    #[must_use]
    pub fn root(&self) -> (u32, u32) {
        self.root
    }

    fn of_store(text: &str) -> Result<Self, ContainerError> {
        let (store, name) = Store::open(text)?;
        let known = store.container(name)?;
        let mounts = match first_process(&known.id)? {
            Some(pid) => Process::open(pid)?.mount_points()?,
            None => Vec::new(),
        };
        Ok(Self {
            lower: known.lower,
            upper: Some(known.upper),
            attributes: known.attributes,
            root: known.root,
            mounts,
            said: known.said,
        })
    }

    fn of_mount(
        process: &Process,
        is_root: impl Fn(&Mount) -> bool,
    ) -> Result<Self, ContainerError> {
        let pid = process.pid;
        let mounts = process.mounts()?;
        // Of mounts over one another the last one is seen.
        let root = mounts.iter().rfind(|mount| is_root(mount));
        let root = root.ok_or(ContainerError::NoRoot(pid))?;
        check_type(pid, root)?;
        let failed = |reason| ContainerError::Options { pid, reason };
        let told = root.overlay().map_err(failed)?;
        let here = mounted_here(root).ok_or(ContainerError::Elsewhere(pid))?;
        let home = home(told.upper.as_deref(), &here);
        let upper = told.upper.as_deref();
        let upper = upper.map(|path| whole(path, home.as_deref())).transpose()?;
        let lower = open_all(&told.lower, upper.as_deref(), home.as_deref())?;
        let layer = upper.as_deref().and_then(Path::parent);
        let layer = layer.and_then(Path::file_name).and_then(OsStr::to_str);
        let said = match home.as_deref().zip(layer) {
            Some((home, layer)) => Store::said_beside(home, layer)?,
            None => Said::default(),
        };
        let below = |mount: &Mount| below_root(&mount.point, &root.point);
        Ok(Self {
            lower,
            upper,
            attributes: told.attributes,
            root: (process.root_id("uid_map")?, process.root_id("gid_map")?),
            mounts: mounts.iter().filter_map(below).collect(),
            said,
        })
    }
}

/// Opens the lower directories, told the top one first, for the bottom one first.
fn open_all(
    told: &[Vec<u8>],
    upper: Option<&Path>,
    home: Option<&Path>,
) -> Result<Vec<Lower>, ContainerError> {
    let open = |path: &Vec<u8>| lower_directory(path, home);
    let mut lower: Vec<_> = told.iter().rev().map(open).collect::<Result<_, _>>()?;
    if let (Some(home), Some(upper), [_, .., top]) = (home, upper, &lower[..])
        && is_init_layer(home, upper, top)?
    {
        lower.pop();
    }
    Ok(lower)
}

/// The path of a mount point from the container's root; none for the root itself and for what is beside it.
fn below_root(point: &[u8], root: &[u8]) -> Option<Vec<u8>> {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    let inside = point.strip_prefix(root)?.strip_prefix(b"/")?;
    (!inside.is_empty()).then(|| inside.to_vec())
}

fn check_type(pid: u32, root: &Mount) -> Result<(), ContainerError> {
    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match &root.kind[..] {
        b"overlay" if root.root == b"/" => Ok(()),
        b"overlay" => Err(ContainerError::Inside {
            pid,
            root: root.root.clone(),
        }),
        b"fuse.fuse-overlayfs" => Err(ContainerError::Fuse(pid)),
        kind => Err(ContainerError::NoOverlay {
            pid,
            kind: shown(kind),
            device: shown(&root.source),
        }),
    }
}

/// Where the same file system is mounted in this namespace or in the first one, if it is.
fn mounted_here(root: &Mount) -> Option<Vec<Mount>> {
    let mut here = Vec::new();
    for namespace in ["/proc/self/mountinfo", "/proc/1/mountinfo"] {
        // The first process's may be hidden from this one; then this one's own counts.
        let Ok(text) = bounded(Path::new(namespace)) else {
            continue;
        };
        let Ok(mounts) = mountinfo::parse(&text) else {
            continue;
        };
        let same = |mount: &Mount| mount.device == root.device && mount.kind == root.kind;
        here.extend(mounts.into_iter().filter(same));
    }
    (!here.is_empty()).then_some(here)
}

/// The directory in which a driver of podman, CRI-O or docker keeps its layers: `<home>/<id>/diff` is the upper one, and
/// `<home>/<id>/merged` the mount.
fn home(upper: Option<&[u8]>, here: &[Mount]) -> Option<PathBuf> {
    let of = |path: &[u8], last: &str| {
        let path = Path::new(OsStr::from_bytes(path));
        let is_one = path.is_absolute() && path.file_name() == Some(OsStr::new(last));
        let home = path.parent()?.parent()?;
        is_one.then(|| home.to_owned())
    };
    let by_upper = upper.and_then(|upper| of(upper, "diff"));
    by_upper.or_else(|| here.iter().find_map(|mount| of(&mount.point, "merged")))
}

fn whole(path: &[u8], home: Option<&Path>) -> Result<PathBuf, ContainerError> {
    let as_path = Path::new(OsStr::from_bytes(path));
    match home {
        _ if as_path.is_absolute() => Ok(as_path.to_owned()),
        Some(home) => Ok(home.join(as_path)),
        None => Err(ContainerError::Relative(path.to_vec())),
    }
}

fn lower_directory(path: &[u8], home: Option<&Path>) -> Result<Lower, ContainerError> {
    // Names of descriptors would be this process's own.
    if path.starts_with(b"/proc/") || path.starts_with(b"/dev/fd/") {
        return Err(ContainerError::Descriptor(path.to_vec()));
    }
    let whole = whole(path, home)?;
    let inside = home.and_then(|home| Some((home, whole.strip_prefix(home).ok()?)));
    let Some((home, inside)) = inside else {
        return Ok(Lower::at(&whole, WhiteoutNames::Plain)?);
    };
    // `<id>/mapped/<n>`: idmapped mounts, gone as soon as the overlay is mounted.
    if inside.components().nth(1).map(Component::as_os_str) == Some(OsStr::new("mapped")) {
        return Err(ContainerError::Mapped(path.to_vec()));
    }
    Ok(Lower::beneath(home, inside, WhiteoutNames::Plain)?)
}

/// Whether the top lower directory is docker's own, in which it makes mount points: `<id>-init/diff` beside `<id>/diff`.
fn is_init_layer(home: &Path, upper: &Path, top: &Lower) -> Result<bool, ContainerError> {
    let Some(id) = upper.parent().and_then(Path::file_name) else {
        return Ok(false);
    };
    let mut name = id.to_owned();
    name.push("-init");
    let path = home.join(name).join("diff");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |reason| {
        let path = path.clone();
        ContainerError::Overlay(OverlayError::Open { path, reason })
    };
    let init = match open(&path, flags, Mode::empty()) {
        Ok(init) => fstat(&init).map_err(failed)?,
        Err(Errno::NOENT) => return Ok(false),
        Err(reason) => return Err(failed(reason)),
    };
    let top = fstat(&top.directory).map_err(failed)?;
    Ok((init.st_dev, init.st_ino) == (top.st_dev, top.st_ino))
}

/// A process's directory in procfs: open, it stays that process's, whoever gets its number.
struct Process {
    pid: u32,
    directory: OwnedFd,
}

impl Process {
    fn open(pid: u32) -> Result<Self, ContainerError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty());
        let directory = directory.map_err(|reason| failed(pid, "")(reason.into()))?;
        Ok(Self { pid, directory })
    }

    fn read(&self, file: &'static str) -> Result<Vec<u8>, ContainerError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = openat(&self.directory, file, flags, Mode::empty());
        opened
            .map_err(io::Error::from)
            .and_then(|fd| all_of(File::from(fd)))
            .map_err(failed(self.pid, file))
    }

    fn mounts(&self) -> Result<Vec<Mount>, ContainerError> {
        let pid = self.pid;
        let text = self.read("mountinfo")?;
        mountinfo::parse(&text).map_err(|reason| ContainerError::MountInfo { pid, reason })
    }

    /// What this process calls the id that is 0 to that one (`user_namespaces(7)`).
    fn root_id(&self, map: &'static str) -> Result<u32, ContainerError> {
        let text = String::from_utf8_lossy(&self.read(map)?).into_owned();
        let ids = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        });
        // Without a map the namespace has no root.
        let root = ids
            .into_iter()
            .find(|(inside, _): &(u32, u32)| *inside == 0);
        Ok(root.map_or(0, |(_, outside)| outside))
    }

    fn mount_points(&self) -> Result<Vec<Vec<u8>>, ContainerError> {
        let mounts = self.mounts()?;
        Ok(mounts
            .iter()
            .filter_map(|mount| below_root(&mount.point, b"/"))
            .collect())
    }

    /// The id of the mount that is its root (`STATX_MNT_ID`, Linux 5.8).
    fn root_mount(&self) -> Result<u64, ContainerError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = openat(&self.directory, "root", flags, Mode::empty())
            .and_then(|root| statx(&root, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID))
            .map_err(|reason| failed(self.pid, "root")(reason.into()))?;
        if StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID) {
            return Ok(found.stx_mnt_id);
        }
        Err(failed(self.pid, "root")(io::ErrorKind::Unsupported.into()))
    }

    /// What tells its mount namespace from others.
    fn namespace(&self) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.directory, "ns/mnt", Vec::new())?.into_bytes())
    }

    /// Clock ticks since boot when it was started (`proc_pid_stat(5)`, field 22).
    fn start(&self) -> Option<u64> {
        let stat = self.read("stat").ok()?;
        // Its name, in parentheses, can have anything in it.
        let behind = stat.iter().rposition(|byte| *byte == b')')?;
        let fields = std::str::from_utf8(stat.get(behind + 1..)?).ok()?;
        fields.split_ascii_whitespace().nth(19)?.parse().ok()
    }
}

fn failed(pid: u32, file: &'static str) -> impl Fn(io::Error) -> ContainerError {
    move |reason| ContainerError::Process { pid, file, reason }
}

/// The oldest process of the container whose id begins so.
fn first_process(prefix: &str) -> Result<Option<u32>, ContainerError> {
    let own = std::process::id();
    let of_hosts = [own, 1].map(|pid| Process::open(pid).ok()?.namespace().ok());
    let mut oldest: BTreeMap<String, (u64, u32)> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").map_err(ContainerError::Proc)? {
        let name = entry.map_err(ContainerError::Proc)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes end while they are looked at; one that is gone is in no container.
        let Ok(process) = Process::open(pid) else {
            continue;
        };
        let Ok(cgroups) = process.read("cgroup") else {
            continue;
        };
        let Some(id) = container_id(&cgroups).filter(|id| id.starts_with(prefix)) else {
            continue;
        };
        // What an engine runs beside a container may have the id in its cgroup, but not a root of its own.
        let (Ok(namespace), Some(start)) = (process.namespace(), process.start()) else {
            continue;
        };
        if !of_hosts.contains(&Some(namespace)) {
            let first = oldest.entry(id).or_insert((start, pid));
            *first = (*first).min((start, pid));
        }
    }
    if oldest.len() > 1 {
        return Err(ContainerError::Ambiguous {
            id: prefix.to_owned(),
            candidates: oldest.into_keys().collect(),
        });
    }
    Ok(oldest.into_values().next().map(|(_, pid)| pid))
}

/// The id in `/proc/PID/cgroup`: the outermost, since who may make cgroups in a container makes them below its
/// own. The line of cgroup v2 comes first; with v1 alone any other that has one.
fn container_id(cgroups: &[u8]) -> Option<String> {
    let lines = || cgroups.split(|byte| *byte == b'\n');
    let paths_of = |line: &[u8]| {
        let mut fields = line.splitn(3, |byte| *byte == b':');
        fields.nth(2).and_then(id_in)
    };
    lines()
        .filter(|line| line.starts_with(b"0::"))
        .chain(lines().filter(|line| !line.starts_with(b"0::")))
        .find_map(paths_of)
}

fn id_in(path: &[u8]) -> Option<String> {
    let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    path.split(|byte| *byte == b'/').find_map(|component| {
        // The monitor of podman and CRI-O: `libpod-conmon-<id>.scope`.
        if component.windows(7).any(|part| part == b"conmon-") {
            return None;
        }
        let mut runs = component.split(|byte| !digit(byte));
        let run = runs.find(|run| run.len() == ID_LEN)?;
        String::from_utf8(run.to_vec()).ok()
    })
}

fn is_id(text: &str) -> bool {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (ID_LEAST..=ID_LEN).contains(&text.len()) && text.bytes().all(digit)
}

pub(super) fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    all_of(File::open(path)?)
}

fn all_of(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
