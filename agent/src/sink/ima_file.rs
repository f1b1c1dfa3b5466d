// SPDX-License-Identifier: Apache-2.0
//! Sink `ima-file`: an entry becomes a file that the agent reads, and an IMA rule has the kernel list what is read.
//! No module, a stock kernel.
//!
//! The files lie in a directory of devtmpfs, reached by a mount that is nowhere: the kernel lists their bare names, as it does of every
//! file whose path cannot be made (`ima_d_path`, `security/integrity/ima/ima_api.c`; seen on 6.1 and 6.12). The name alone
//! is thus no proof of who made the file. The rule is: root of a container can give a file of a tmpfs to whomever it likes, but devtmpfs is
//! mounted by the host's root only, and in none of its directories anybody else can make a file. A file lives as long as it is read.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Uid, fchown, mkdirat, openat, unlinkat},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use super::{SinkError, host::Submit};
use crate::measure::{Anchorage, HostForm, file_name};

/// There is one file system of this kind, in memory (`drivers/base/devtmpfs.c`).
const FILE_SYSTEM: &str = "devtmpfs";
/// Where files are made in it.
const DIRECTORY: &str = ".cima";

/// The directory, and whom the files in it belong to.
#[derive(Debug)]
pub(super) struct Files {
    dir: OwnedFd,
    owner: u32,
}

impl Files {
    /// With files of user `owner`, by whom the rule knows them.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(super) fn new(owner: u32) -> Result<Self, SinkError> {
        let dir = directory().map_err(|source| SinkError::Files { source })?;
        Ok(Self { dir, owner })
    }

    fn list(&self, name: &str, payload: &[u8]) -> io::Result<()> {
        let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let new = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = File::from(openat(&self.dir, name, new, Mode::RUSR)?);
        file.write_all(payload)?;
        let owner = Uid::from_raw(self.owner);
        fchown(&file, Some(owner), None)?;
        // Whoever could write would make a violation of it.
        drop(file);
        let mut file = File::from(openat(
            &self.dir,
            name,
            flags | OFlags::RDONLY,
            Mode::empty(),
        )?);
        file.read_exact(&mut [0; 1])
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.dir, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => Ok(done?),
        }
    }
}

impl Submit for Files {
    fn anchorage(&self) -> Anchorage {
        Anchorage::ImaFile
    }

    fn form(&self) -> HostForm {
        HostForm::File
    }

    fn submit(&mut self, name: &str, payload: &[u8]) -> Result<bool, SinkError> {
        let name = file_name(name);
        // One may be there that an agent left which was killed.
        let listed = self.remove(&name).and_then(|()| self.list(&name, payload));
        listed
            .and(self.remove(&name))
            .map_err(|source| SinkError::Files { source })?;
        Ok(false)
    }

    fn lacks(&self) -> String {
        format!(
            "an IMA rule: `{}`, before any `dont_measure` of tmpfs. Put it into /etc/ima/ima-policy, which systemd loads at boot; or, once in a boot and if no other policy was loaded, write it to /sys/kernel/security/ima/policy. The rule does not help if IMA hashes with less than SHA-256 (ima_hash=) or lists by another template than ima-ng and ima-sig (ima_template=)",
            rule(self.owner)
        )
    }
}

/// The rule that has the kernel list files of user `owner`.
pub fn rule(owner: u32) -> String {
    format!("measure func=FILE_CHECK mask=MAY_READ fsname={FILE_SYSTEM} fowner={owner}")
}

fn directory() -> io::Result<OwnedFd> {
    let context = fsopen(FILE_SYSTEM, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    match mkdirat(&root, DIRECTORY, Mode::RWXU) {
        Err(Errno::EXIST) | Ok(()) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(&root, DIRECTORY, flags | OFlags::RDONLY, Mode::empty())?;
    let stat = rustix::fs::fstat(&dir)?;
    if stat.st_uid != 0 || stat.st_mode & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "/dev/{DIRECTORY} is not root's alone"
        )));
    }
    Ok(dir)
}
