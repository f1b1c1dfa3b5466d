// SPDX-License-Identifier: Apache-2.0
//! Who is at the other end of the socket, and who we are to him: both depend on the user namespace that the
//! hook runs in. A runtime that a user starts without root runs its hooks in that user's namespace
//! (`user_namespaces(7)`). Called by `client`.

use std::{fs, io, path::PathBuf, str::FromStr};

/// What the kernel shows for a user who has no id in this user namespace, unless somebody changed it.
const OVERFLOW_UID: u32 = 65_534;

/// One line of `/proc/self/uid_map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

/// Which user of the host each user of this user namespace is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UidMap(Vec<Range>);

/// Why there is no such map.
#[derive(Debug, thiserror::Error)]
pub enum UidMapError {
    /// procfs is not mounted, or is somebody else's.
    #[error("cannot read /proc/self/uid_map, which says whose containers these are: {0}")]
    Read(#[source] io::Error),
    /// The line.
    #[error("/proc/self/uid_map has a line that no kernel writes: {0:?}")]
    Line(String),
}

impl FromStr for UidMap {
    type Err = UidMapError;

    fn from_str(text: &str) -> Result<Self, UidMapError> {
        let line = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            match (
                numbers.next(),
                numbers.next(),
                numbers.next(),
                numbers.next(),
            ) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count)), None) => Ok(Range {
                    inside,
                    outside,
                    count,
                }),
                _ => Err(UidMapError::Line(line.to_owned())),
            }
        };
        text.lines().map(line).collect::<Result<_, _>>().map(Self)
    }
}

impl UidMap {
    /// The map of the namespace that this process is in.
    ///
    /// # Errors
    /// See [`UidMapError`].
    pub fn of_self() -> Result<Self, UidMapError> {
        fs::read_to_string("/proc/self/uid_map")
            .map_err(UidMapError::Read)?
            .parse()
    }

    /// The user of the host who is `uid` here. Of namespaces within namespaces the kernel shows the next one out.
    pub fn outside(&self, uid: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let nth = uid.checked_sub(range.inside)?;
            (nth < range.count).then(|| range.outside.checked_add(nth))?
        })
    }

    /// Who the host's `uid` is here.
    fn inside(&self, uid: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let nth = uid.checked_sub(range.outside)?;
            (nth < range.count).then(|| range.inside.checked_add(nth))?
        })
    }

    /// As whom the kernel shows the host's root here: 0 on the host. In the namespace of another user 0 is *that user*,
    /// who could listen in place of cimad, and root is one of those who have no id.
    pub fn root(&self) -> u32 {
        self.inside(0).unwrap_or_else(|| {
            fs::read_to_string("/proc/sys/kernel/overflowuid")
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(OVERFLOW_UID)
        })
    }

    /// Where the hooks of containers of this process's user find cimad.
    pub fn socket(&self) -> PathBuf {
        let uid = rustix::process::getuid().as_raw();
        self.socket_of(uid)
    }

    fn socket_of(&self, uid: u32) -> PathBuf {
        match self.outside(uid) {
            Some(0) => cima_api::SOCKET.into(),
            Some(uid) => cima_api::socket_of_user(uid).into(),
            // A process whose user has no id here is nobody's that cimad listens to.
            None => cima_api::socket_of_user(OVERFLOW_UID).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "         0          0 4294967295\n";
    const ROOTLESS: &str = "         0       1000          1\n         1     100000      65536\n";

    fn map(text: &str) -> UidMap {
        text.parse().unwrap()
    }

    #[test]
    fn on_the_host_root_is_root_and_users_have_their_sockets() {
        let host = map(HOST);
        assert_eq!(host.root(), 0);
        assert_eq!(host.socket_of(0).to_str(), Some("/run/cima/hook.sock"));
        assert_eq!(
            host.socket_of(1000).to_str(),
            Some("/run/cima/hook-1000.sock")
        );
    }

    #[test]
    fn in_a_users_namespace_its_root_is_that_user_and_cannot_pass_for_cimad() {
        let rootless = map(ROOTLESS);
        assert_ne!(rootless.root(), 0);
        assert_eq!(rootless.outside(0), Some(1000));
        assert_eq!(
            rootless.socket_of(0).to_str(),
            Some("/run/cima/hook-1000.sock")
        );
        assert_eq!(rootless.outside(1), Some(100_000));
        assert_eq!(rootless.outside(65_537), None);
    }

    #[test]
    fn in_a_namespace_that_root_made_root_is_found_by_its_id_there() {
        let shifted = map("0 100000 1000\n5000 0 1\n");
        assert_eq!(shifted.root(), 5000);
        assert_eq!(shifted.socket_of(5000).to_str(), Some(cima_api::SOCKET));
    }

    #[test]
    fn a_map_of_no_kernel_is_refused_and_numbers_at_the_end_do_not_wrap() {
        assert!("0 0".parse::<UidMap>().is_err());
        assert!("0 0 1 1".parse::<UidMap>().is_err());
        assert!("0 -1 1".parse::<UidMap>().is_err());
        let end = map("0 4294967295 4294967295");
        assert_eq!(end.outside(1), None);
        assert_eq!(end.inside(0), None);
    }
}
