// SPDX-License-Identifier: Apache-2.0
//! Sink `ima-file`: an entry becomes a file that the agent reads, and an IMA rule has the kernel list what is read.
//! No module, a stock kernel.
//!
//! The files lie on a tmpfs that is mounted nowhere: nobody has a path to it, and the kernel lists their bare names (`ima_d_path`
//! falls back to them, `security/integrity/ima/ima_api.c`; seen on 6.1 and 6.12), as it does no other file's that has one. A file
//! lives as long as it is read.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Uid, fchown, openat, unlinkat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    },
};

use super::{SinkError, host::Submit};
use crate::measure::{Anchorage, HostForm, file_name};

/// More than the largest entry has.
const SIZE: &str = "64m";
/// One file, and the directory.
const INODES: &str = "16";

/// The tmpfs, and whom the files on it belong to.
#[derive(Debug)]
pub(super) struct Files {
    dir: OwnedFd,
    owner: u32,
}

impl Files {
    /// With files of user `owner`, by whom the rule knows them.
    ///
    /// # Errors
    /// The tmpfs cannot be made.
    pub(super) fn new(owner: u32) -> Result<Self, SinkError> {
        let dir = tmpfs().map_err(|source| SinkError::Tmpfs { source })?;
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
}

impl Submit for Files {
    fn anchorage(&self) -> Anchorage {
        Anchorage::ImaFile
    }

    fn form(&self) -> HostForm {
        HostForm::File
    }

    fn submit(&mut self, name: &str, payload: &[u8]) -> Result<(), SinkError> {
        let name = file_name(name);
        let listed = self.list(&name, payload);
        let removed = unlinkat(&self.dir, &*name, AtFlags::empty()).map_err(io::Error::from);
        listed
            .and(removed)
            .map_err(|source| SinkError::Tmpfs { source })
    }

    fn lacks(&self) -> String {
        let owner = self.owner;
        format!(
            "an IMA rule: `measure func=FILE_CHECK mask=MAY_READ fowner={owner}`, before any `dont_measure` of tmpfs. Put it into /etc/ima/ima-policy, which systemd loads at boot; or, once in a boot and if no other policy was loaded, write it to /sys/kernel/security/ima/policy"
        )
    }
}

/// A tmpfs without a place.
fn tmpfs() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("mode", "0700"), ("size", SIZE), ("nr_inodes", INODES)] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}
