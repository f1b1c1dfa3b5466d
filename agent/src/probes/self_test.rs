// SPDX-License-Identifier: Apache-2.0
//! Proves at each start that the probes fire and read the right fields: the agent
//! runs its own binary once and compares what the kernel reported with what
//! procfs and stat say. The verifier refuses a wrong pointer field but not a wrong
//! scalar; and LSM programs of a kernel booted without `lsm=…,bpf` attach and never fire.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use cima_abi::Scope;
use ima_log::{Digest, HashAlgorithm};
use procfs::process::Process as ProcProcess;

use super::{
    Event, EventError, Hash, LoadError, Probes, What,
    host::{device_of, namespaces_of},
};

/// How long the kernel may take to report the agent's own child.
const PATIENCE: Duration = Duration::from_secs(20);
/// Unit of `/proc/PID/stat` start times, which are in 1/100 s on every Linux.
const TICK_NS: u64 = 10_000_000;

/// Why the probes are not to be trusted.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// The child could not be run or looked at.
    #[error("the self-test cannot look at its own process: {0}")]
    Environment(#[from] io::Error),
    /// Same, through procfs.
    #[error("the self-test cannot read procfs: {0}")]
    Procfs(#[from] procfs::ProcError),
    /// The programs are attached, yet no event came.
    #[error(
        "the probes are attached but did not report a program that was run: the kernel does not call BPF LSM programs (is `bpf` in the boot parameter lsm=?)"
    )]
    Silent,
    /// A field read from the wrong place.
    #[error(
        "the probes read {what} as {seen}, but it is {expected}: this kernel's layout is not understood, nothing can be measured"
    )]
    Mismatch {
        /// Which value.
        what: &'static str,
        /// As the kernel side read it.
        seen: String,
        /// As user space knows it.
        expected: String,
    },
    /// A record of another layout.
    #[error("{0}: probe object and agent are of different versions")]
    Record(#[from] EventError),
    /// The probes' maps failed.
    #[error(transparent)]
    Probes(#[from] LoadError),
}

/// What the self-test found out.
#[derive(Debug)]
pub struct SelfTest {
    /// The kernel's digest of this very binary.
    pub binary: Digest,
}

impl SelfTest {
    /// Runs `/proc/self/exe --version` under the probes and compares.
    /// Leaves `scope` in force, with the self-test switched off.
    ///
    /// # Errors
    /// See [`SelfTestError`].
    pub async fn run(probes: &mut Probes, scope: &Scope) -> Result<Self, SelfTestError> {
        let testing = Scope {
            self_test_tgid: std::process::id(),
            ..*scope
        };
        probes.set_scope(&testing)?;
        let mut child = spawn()?;
        let pid = child.id();
        let events = tokio::time::timeout(PATIENCE, collect(probes, pid)).await;
        if events.is_err() {
            child.kill().ok();
        }
        // It ends by itself: a kill in the middle of a hash would make that hash fail.
        child.wait()?;
        probes.set_scope(&Scope {
            self_test_tgid: 0,
            ..*scope
        })?;
        let events = events.map_err(|_| SelfTestError::Silent)??;
        compare(&events, pid)?;
        let binary = compare_file(&events.map)?;
        Ok(Self { binary })
    }
}

fn spawn() -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

struct Collected {
    exec: Event,
    map: Event,
}

/// The child's execution and the mapping of our binary into it.
async fn collect(probes: &mut Probes, pid: u32) -> Result<Collected, SelfTestError> {
    let own_inode = fs::metadata("/proc/self/exe")?.ino();
    let (mut exec, mut map) = (None, None);
    loop {
        for event in probes.self_test().await? {
            let event = match event {
                Ok(event) => event,
                Err(error) => return Err(error.into()),
            };
            let of_child = event.tgid == pid;
            tracing::debug!(
                "the self-test saw {:?} of {:?} by process {}",
                event.what,
                event
                    .file
                    .path
                    .as_deref()
                    .map(<[u8]>::escape_ascii)
                    .map(|path| path.to_string()),
                event.tgid
            );
            match event.what {
                What::Exec(_) if of_child => exec = Some(event),
                What::Measured { .. } if of_child && event.file.id.inode == own_inode => {
                    map = Some(event);
                }
                _ => {}
            }
        }
        if let (Some(exec), Some(map)) = (&exec, &map) {
            return Ok(Collected {
                exec: exec.clone(),
                map: map.clone(),
            });
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "a list of comparisons reads better without ampersands"
)]
fn same<T: PartialEq + std::fmt::Debug>(
    what: &'static str,
    seen: T,
    expected: T,
) -> Result<(), SelfTestError> {
    if seen == expected {
        return Ok(());
    }
    Err(SelfTestError::Mismatch {
        what,
        seen: format!("{seen:?}"),
        expected: format!("{expected:?}"),
    })
}

/// The process, its namespaces, its parent, its cgroup, its arguments.
fn compare(events: &Collected, pid: u32) -> Result<(), SelfTestError> {
    let exec = &events.exec;
    let me = ProcProcess::myself()?;
    let stat = me.stat()?;
    same(
        "the process's namespaces",
        exec.home.ns,
        namespaces_of("self")?,
    )?;
    if exec.home.mnt_generation == 0 {
        return same("the mount namespace's generation", "0", "a number above 0");
    }
    same(
        "the login uid",
        exec.subject.login_uid,
        own_audit_id("loginuid")?,
    )?;
    same(
        "the audit session",
        exec.subject.session,
        own_audit_id("sessionid")?,
    )?;
    same(
        "the user id",
        exec.subject.uid,
        rustix::process::getuid().as_raw(),
    )?;
    same(
        "the group id",
        exec.subject.gid,
        rustix::process::getgid().as_raw(),
    )?;
    same("the thread id", exec.tid, pid)?;
    same("the process id in its namespace", exec.ns_tgid, pid)?;
    let parent = exec.subject.ancestors.first();
    same(
        "the parent's process id",
        parent.map(|p| p.tgid),
        Some(std::process::id()),
    )?;
    same(
        "the parent's name",
        parent.map(|p| p.comm.as_slice()),
        Some(stat.comm.as_bytes()),
    )?;
    same(
        "the parent's start time",
        parent.map(|p| p.start_ns / TICK_NS),
        Some(stat.starttime),
    )?;
    let grandparent = exec.subject.ancestors.get(1).map_or(0, |p| p.tgid);
    same(
        "the grandparent's process id",
        grandparent,
        u32::try_from(stat.ppid).unwrap_or(0),
    )?;
    if let Some(cgroup) = me.cgroups()?.0.iter().find(|c| c.hierarchy == 0) {
        same(
            "the cgroup path",
            String::from_utf8_lossy(&exec.home.cgroup).into_owned(),
            cgroup.pathname.clone(),
        )?;
    }
    match &exec.what {
        What::Exec(command) => {
            same("the argument count", command.argc, 2)?;
            same(
                "the last argument",
                command.args.last().map(Vec::as_slice),
                Some(b"--version".as_slice()),
            )
        }
        other => same(
            "the kind of an execution",
            format!("{other:?}"),
            "exec".into(),
        ),
    }
}

/// The mapped file: identity, path and digest of our own binary.
fn compare_file(map: &Event) -> Result<Digest, SelfTestError> {
    let exe = Path::new("/proc/self/exe");
    let stat = fs::metadata(exe)?;
    same("the file's size", map.file.id.size, stat.size())?;
    same("the file's mode", map.file.id.mode, stat.mode())?;
    same(
        "the file's link count",
        u64::from(map.file.id.links),
        stat.nlink(),
    )?;
    same(
        "the file's device",
        map.file.id.device,
        device_of("self", exe)?,
    )?;
    // statfs reports the magic as a signed long, 32 bits of it used.
    let magic = rustix::fs::statfs(exe).map_err(io::Error::from)?.f_type;
    same(
        "the file system's magic",
        map.file.id.fs_magic & 0xffff_ffff,
        (magic as u64) & 0xffff_ffff,
    )?;
    let path = fs::read_link(exe)?;
    same(
        "the file's path",
        map.file.path.clone(),
        Some(path.into_os_string().into_encoded_bytes()),
    )?;
    let What::Measured {
        hash: Hash::Digest(digest),
        ..
    } = &map.what
    else {
        return Err(SelfTestError::Mismatch {
            what: "the digest of a file",
            seen: format!("{:?}", map.what),
            expected: "a SHA-256, SHA-384 or SHA-512 digest (boot parameter ima_hash=)".into(),
        });
    };
    let expected = digest_of(exe, digest.algorithm())?;
    same(
        "the digest of a file",
        digest.to_string(),
        expected.to_string(),
    )?;
    Ok(*digest)
}

fn digest_of(path: &Path, algorithm: HashAlgorithm) -> io::Result<Digest> {
    Ok(algorithm.digest(&fs::read(path)?))
}

/// `/proc/self/loginuid` or `sessionid`; a kernel without audit has neither.
fn own_audit_id(name: &str) -> io::Result<Option<u32>> {
    match fs::read_to_string(format!("/proc/self/{name}")) {
        Ok(text) => {
            let id: u32 = text.trim().parse().map_err(io::Error::other)?;
            Ok((id != u32::MAX).then_some(id))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
