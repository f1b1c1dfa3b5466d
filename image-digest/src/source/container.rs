// SPDX-License-Identifier: Apache-2.0
//! The image below a container of this node, whichever engine runs it: by a process of it, by its id, or, in
//! a store of podman or CRI-O, by its name as well, also when it does not run.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::Options;
use super::mountinfo::{self, Overlay};
use super::overlay::{self, LowerDirectories, OverlayError};
use super::storage::{self, Below, StorageError};
use crate::Image;
use crate::limits::Budget;

/// Why nothing is known to be below a container.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// No such container.
    #[error(
        "no container here is called \"{}\": no process has that id in its control group, and no store has the name",
        .0.escape_default()
    )]
    None(String),
    /// No such process.
    #[error("process {pid} cannot be looked at: {source}")]
    Process {
        /// Which.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its root is no overlay.
    #[error("the root of process {pid} is no overlay but {file_system}: read its tree with dir:")]
    NoOverlay {
        /// Which.
        pid: u32,
        /// What it is.
        file_system: String,
    },
    /// A copy of the image.
    #[error(
        "the container is a copy that the driver {0} made of its image: read that with containers-storage:IMAGE"
    )]
    Copy(String),
    /// What its files are is in several layers.
    #[error(
        "the overlay of process {0} has layers with nothing but data for the files of others, which are not read here"
    )]
    DataOnly(u32),
    /// Nobody knows where they begin.
    #[error("the overlay of process {pid} has the lower directory {}, and it is not known from where", path.display())]
    Relative {
        /// Which.
        pid: u32,
        /// As it was mounted.
        path: PathBuf,
    },
    /// A store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Its directories.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
}

/// The directories of a container's overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerDirectories {
    pub(crate) lower: LowerDirectories,
    /// What the container wrote.
    pub(crate) upper: Option<PathBuf>,
}

/// Reads the image below a container.
pub(crate) fn read(
    container: &str,
    budget: &Budget,
    options: &Options<'_>,
) -> Result<Image, ContainerError> {
    let directories = find(container)?;
    Ok(overlay::read(&directories.lower, budget, options)?)
}

/// Finds a container's directories.
pub(crate) fn find(container: &str) -> Result<ContainerDirectories, ContainerError> {
    // An id that an engine shows has twelve digits at least; a process never has.
    if container.len() < 12
        && let Ok(pid) = container.parse()
    {
        return of_process(pid);
    }
    // Stores first: they know containers that do not run. Without one there may still be a process.
    let stored = match storage::below_container(container) {
        Ok(stored) => stored,
        Err(StorageError::NoStore(_) | StorageError::Config(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match stored {
        Some(Below::Overlay { lower, upper }) => Ok(ContainerDirectories {
            lower,
            upper: Some(upper),
        }),
        Some(Below::Copy { driver }) => Err(ContainerError::Copy(driver)),
        None => match process_of(container) {
            Some(pid) => of_process(pid),
            None => Err(ContainerError::None(container.to_owned())),
        },
    }
}

fn of_process(pid: u32) -> Result<ContainerDirectories, ContainerError> {
    let path = format!("/proc/{pid}/mountinfo");
    let mountinfo = fs::read(path).map_err(|source| ContainerError::Process { pid, source })?;
    let root = mountinfo::root_mount(&mountinfo);
    let Some(root) = root else {
        let source = io::Error::other("it has no root of its own");
        return Err(ContainerError::Process { pid, source });
    };
    let Some(overlay) = root.overlay else {
        return Err(ContainerError::NoOverlay {
            pid,
            file_system: root.file_system,
        });
    };
    if overlay.has_data_only {
        return Err(ContainerError::DataOnly(pid));
    }
    match directories(overlay) {
        Ok(directories) => Ok(directories),
        // Long lists are mounted from within the store's directory, which only the store knows.
        Err(path) => match stored(pid)? {
            Some(directories) => Ok(directories),
            None => Err(ContainerError::Relative { pid, path }),
        },
    }
}

/// What the engine of a process has on record.
fn stored(pid: u32) -> Result<Option<ContainerDirectories>, ContainerError> {
    let Some(id) = container_of(pid) else {
        return Ok(None);
    };
    Ok(match storage::below_container(&id)? {
        Some(Below::Overlay { lower, upper }) => Some(ContainerDirectories {
            lower,
            upper: Some(upper),
        }),
        Some(Below::Copy { .. }) | None => None,
    })
}

/// An overlay's directories without what is the engine's; the path of one that cannot be found from here.
fn directories(overlay: Overlay) -> Result<ContainerDirectories, PathBuf> {
    let Overlay {
        mut lower,
        upper,
        attributes,
        ..
    } = overlay;
    let from_here = lower.iter().find(|path| !path.is_absolute());
    if let Some(path) = from_here {
        return Err(path.clone());
    }
    if let Some(top) = lower.last()
        && is_init_layer(top, upper.as_deref())
    {
        lower.pop();
    }
    Ok(ContainerDirectories {
        lower: LowerDirectories {
            paths: lower,
            attributes,
        },
        upper,
    })
}

/// Docker puts `ID-init/diff`, with its own empty files for `/etc/hosts` and the like, below `ID/diff`. It may
/// have mounted a link to it, `l/LINK`.
fn is_init_layer(lower: &Path, upper: Option<&Path>) -> bool {
    let Some(id) = upper.and_then(layer_of) else {
        return false;
    };
    let target = fs::canonicalize(lower).unwrap_or_else(|_| lower.to_owned());
    layer_of(&target).is_some_and(|layer| layer == format!("{id}-init"))
}

/// `ID` of `…/ID/diff`.
fn layer_of(diff: &Path) -> Option<&str> {
    let mut components = diff.components().rev();
    if components.next()?.as_os_str() != "diff" {
        return None;
    }
    match components.next()? {
        Component::Normal(id) => id.to_str(),
        _ => None,
    }
}

/// A process whose control group is that of a container with this id.
fn process_of(id: &str) -> Option<u32> {
    let is_id = id.len() >= 12 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    let processes = fs::read_dir("/proc").ok().filter(|_| is_id)?;
    processes.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        container_of(pid)?.starts_with(id).then_some(pid)
    })
}

/// The id in a process's control group: the outermost run of 64 digits, since a container may make
/// groups below its own and not above.
fn container_of(pid: u32) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    groups.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        let runs = path.split(|c: char| !matches!(c, '0'..='9' | 'a'..='f'));
        let mut ids = runs.filter(|run| run.len() == 64);
        ids.next().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::directory::OverlayAttributes;

    fn overlay(lower: &[&str], upper: &str) -> Overlay {
        Overlay {
            lower: lower.iter().map(PathBuf::from).collect(),
            upper: Some(upper.into()),
            attributes: OverlayAttributes::Trusted,
            has_data_only: false,
        }
    }

    #[test]
    fn what_docker_puts_below_a_container_is_none_of_the_image() {
        let docker = overlay(&["/d/base/diff", "/d/abc-init/diff"], "/d/abc/diff");
        let found = directories(docker).expect("absolute");
        assert_eq!(found.lower.paths, [PathBuf::from("/d/base/diff")]);
        for other in ["/d/abd-init/diff", "/d/abc-init/dif", "/abc-init"] {
            let found = directories(overlay(&["/d/base/diff", other], "/d/abc/diff"));
            assert_eq!(found.expect("absolute").lower.paths.len(), 2, "{other}");
        }
    }

    #[test]
    fn a_path_from_nowhere_is_told() {
        let podman = overlay(&["l/BASE", "l/TOP"], "abc/diff");
        assert_eq!(directories(podman), Err(PathBuf::from("l/BASE")));
    }

    #[test]
    fn no_container_is_said_to_be_none() {
        let error = find("nobody-is-called-so").expect_err("none").to_string();
        assert!(error.contains("called \"nobody-is-called-so\""), "{error}");
        let error = find("4294967").expect_err("no process").to_string();
        assert!(
            error.contains("process 4294967 cannot be looked at"),
            "{error}"
        );
    }
}
