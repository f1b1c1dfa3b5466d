// SPDX-License-Identifier: Apache-2.0
//! The process that a container begins with, held by descriptors: whatever is read of it is of that process or fails, though
//! its number may be another's by then.

use std::{io, os::fd::OwnedFd};

use procfs::{
    ProcError,
    process::{MountInfo, Process as ProcProcess},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Unit of start times in procfs.
const TICK_NS: u64 = 10_000_000;

/// Why a process is none that can be registered.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It ended, or was never there.
    #[error("process {0} is gone")]
    Gone(u32),
    /// It cannot be looked at.
    #[error("process {pid} cannot be looked at: {source}")]
    Proc {
        /// Its number.
        pid: u32,
        /// What procfs says.
        #[source]
        source: Box<ProcError>,
    },
    /// The kernel gives no descriptor for it.
    #[error("process {pid} cannot be held: {source}")]
    Hold {
        /// Its number.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A process that was there when it was opened.
#[derive(Debug)]
pub struct Process {
    /// In the initial pid namespace.
    pub pid: u32,
    /// Its effective user, in the initial user namespace.
    pub owner: u32,
    /// When it started, ns since boot, to 1/100 s.
    pub start_ns: u64,
    /// Inode of its mount namespace.
    pub mnt_ns: u32,
    held: OwnedFd,
    proc: ProcProcess,
}

impl Process {
    /// Takes hold of process `pid`.
    ///
    /// # Errors
    /// See [`ProcessError`].
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let gone = || ProcessError::Gone(pid);
        let number = i32::try_from(pid).map_err(|_| gone())?;
        let held = Pid::from_raw(number).ok_or_else(gone)?;
        let held = match pidfd_open(held, PidfdFlags::empty()) {
            Ok(held) => held,
            // EINVAL: the number of a thread that leads no process.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Err(gone()),
            Err(errno) => {
                let source = errno.into();
                return Err(ProcessError::Hold { pid, source });
            }
        };
        let failed = |source| match source {
            ProcError::NotFound(_) => gone(),
            source => ProcessError::Proc {
                pid,
                source: Box::new(source),
            },
        };
        let proc = ProcProcess::new(number).map_err(failed)?;
        let stat = proc.stat().map_err(failed)?;
        let namespaces = proc.namespaces().map_err(failed)?;
        let mnt = namespaces.0.get(std::ffi::OsStr::new("mnt"));
        let mnt_ns = mnt.and_then(|mnt| u32::try_from(mnt.identifier).ok());
        let process = Self {
            pid,
            owner: proc.uid().map_err(failed)?,
            start_ns: stat.starttime.saturating_mul(TICK_NS),
            mnt_ns: mnt_ns.ok_or_else(gone)?,
            held,
            proc,
        };
        // The number did not become another's between the two: the one that is held still has it.
        if process.is_alive() {
            Ok(process)
        } else {
            Err(gone())
        }
    }

    /// Whether it is in the mount namespace with this inode now.
    pub fn is_in(&self, mnt_ns: u32) -> bool {
        let namespaces = self.proc.namespaces().ok();
        let mnt = namespaces.and_then(|all| {
            all.0
                .get(std::ffi::OsStr::new("mnt"))
                .map(|mnt| mnt.identifier)
        });
        mnt == Some(u64::from(mnt_ns))
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.held, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // When the kernel cannot say, it is not counted upon.
        matches!(poll(&mut fds, Some(&at_once)), Ok(0))
    }

    /// A descriptor that becomes readable when it ends.
    pub fn into_held(self) -> OwnedFd {
        self.held
    }

    /// Login user and audit session of who launched it; `None`: unset, or a kernel without audit.
    pub fn login(&self) -> (Option<u32>, Option<u32>) {
        let set = |id: u32| (id != u32::MAX).then_some(id);
        let session = std::fs::read_to_string(format!("/proc/{}/sessionid", self.pid));
        let session = session.ok().and_then(|text| text.trim().parse().ok());
        (
            self.proc.loginuid().ok().and_then(set),
            session.and_then(set),
        )
    }

    /// Its mounts, those over one another in order.
    ///
    /// # Errors
    /// See [`ProcessError`].
    pub fn mounts(&self) -> Result<Vec<MountInfo>, ProcessError> {
        let pid = self.pid;
        match self.proc.mountinfo() {
            Ok(mounts) => Ok(mounts.0),
            Err(ProcError::NotFound(_)) => Err(ProcessError::Gone(pid)),
            Err(source) => Err(ProcessError::Proc {
                pid,
                source: Box::new(source),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::MetadataExt as _, process::Command};

    #[test]
    fn a_process_is_held_and_its_end_is_seen() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        let mnt = std::fs::metadata("/proc/self/ns/mnt").unwrap().ino();
        assert_eq!(u64::from(process.mnt_ns), mnt);
        assert!(process.is_alive() && !process.mounts().unwrap().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        assert!(matches!(process.mounts(), Err(ProcessError::Gone(_))));
        let error = Process::open(child.id()).unwrap_err().to_string();
        assert!(error.ends_with("is gone"), "{error}");
    }

    #[test]
    fn no_number_is_a_process_that_none_has() {
        for pid in [0, u32::MAX, 1 << 31] {
            assert!(
                matches!(Process::open(pid), Err(ProcessError::Gone(_))),
                "{pid}"
            );
        }
    }
}
