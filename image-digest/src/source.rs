// SPDX-License-Identifier: Apache-2.0
//! Where an image can be read from. Each kind has its file; all give an [`Image`](crate::Image) or say what is
//! wrong with which entry.

mod checked;
mod container;
pub(crate) mod directory;
mod docker;
mod document;
mod files;
mod lasting;
pub(crate) mod layer;
mod mountinfo;
mod oci;
mod overlay;
mod platform;
mod stack;
mod storage;
pub(crate) mod tar;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use self::checked::CheckedError;
pub use self::container::{Container, ContainerError};
pub use self::directory::DirectoryError;
pub use self::docker::DockerError;
pub use self::document::{ConfigError, DocumentError};
pub use self::files::FilesError;
pub(crate) use self::lasting::lasting_mount;
pub use self::layer::LayerReadError;
pub use self::mountinfo::{MountInfoError, OverlayOptionsError};
pub use self::oci::OciError;
pub use self::overlay::OverlayError;
pub use self::platform::{Platform, PlatformError};
pub use self::stack::StackError;
pub use self::storage::StorageError;
pub use self::tar::TarError;

use self::files::Files;
use crate::limits::Budget;
use crate::{Cache, Image, Limits, Progress};

/// An image's place, as it is written on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `dir:PATH`, the root of a tree of files.
    Directory(PathBuf),
    /// `oci:PATH[:REF]`, an OCI layout.
    OciLayout(PathBuf, Option<String>),
    /// `oci-archive:PATH[:REF]`, an OCI layout in a tar archive, perhaps compressed.
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:PATH[:REF]`, what `docker save` writes.
    DockerArchive(PathBuf, Option<String>),
    /// `containers-storage:IMAGE`, in the store of podman, buildah and CRI-O.
    Storage(String),
    /// `overlay:CONTAINER`, below a container: its image as this node has it.
    Overlay(String),
}

/// Why a text is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceTextError {
    /// No known kind in front.
    #[error(
        "\"{0}\" is no source: it begins with none of dir:, oci:, oci-archive:, docker-archive:, \
         containers-storage: and overlay:"
    )]
    Kind(String),
    /// Nothing behind the kind.
    #[error("\"{0}\" names nothing")]
    Empty(String),
}

impl FromStr for Source {
    type Err = SourceTextError;

    fn from_str(text: &str) -> Result<Self, SourceTextError> {
        let unknown = || SourceTextError::Kind(text.to_owned());
        let (kind, place) = text.split_once(':').ok_or_else(unknown)?;
        if place.is_empty() {
            return Err(SourceTextError::Empty(text.to_owned()));
        }
        // Of paths with a colon inside only a directory's can be named.
        let (path, reference) = match place.split_once(':') {
            Some((path, reference)) => (path, Some(reference.to_owned())),
            None => (place, None),
        };
        let path = PathBuf::from(path);
        match kind {
            "dir" => Ok(Self::Directory(place.into())),
            "oci" => Ok(Self::OciLayout(path, reference)),
            "oci-archive" => Ok(Self::OciArchive(path, reference)),
            "docker-archive" => Ok(Self::DockerArchive(path, reference)),
            "containers-storage" => Ok(Self::Storage(place.to_owned())),
            "overlay" => Ok(Self::Overlay(place.to_owned())),
            _ => Err(unknown()),
        }
    }
}

/// How a source is read.
#[derive(Debug)]
pub struct Options<'a> {
    /// What is too much.
    pub limits: Limits,
    /// Which image of an index; none: this host's.
    pub platform: Option<Platform>,
    /// Threads that read and hash.
    pub threads: NonZero<usize>,
    /// Digests of files that did not change since they were read.
    pub cache: Option<&'a Cache>,
    /// Counts what was read.
    pub progress: &'a Progress,
}

/// Why a source gives no image.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Its place.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// An OCI layout.
    #[error("{}: {source}", path.display())]
    Oci {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<OciError>,
    },
    /// A tree of files.
    #[error("{}: {source}", path.display())]
    Directory {
        /// Its root.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: DirectoryError,
    },
    /// A store.
    #[error(transparent)]
    Storage(#[from] Box<StorageError>),
    /// A container.
    #[error(transparent)]
    Container(#[from] Box<ContainerError>),
    /// A docker archive.
    #[error("{}: {source}", path.display())]
    Docker {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<DockerError>,
    },
}

/// Reads an image.
///
/// # Errors
/// See [`SourceError`].
pub fn read(source: &Source, options: &Options<'_>) -> Result<Image, SourceError> {
    let budget = Budget::new(options.limits);
    let oci = |path: &Path, files: &Files, reference: &Option<String>| {
        oci::read(files, reference.as_deref(), &budget, options).map_err(|source| {
            SourceError::Oci {
                path: path.to_owned(),
                source: source.into(),
            }
        })
    };
    match source {
        Source::OciLayout(path, reference) => oci(path, &Files::directory(path)?, reference),
        Source::OciArchive(path, reference) => {
            oci(path, &Files::archive(path, &budget)?, reference)
        }
        Source::DockerArchive(path, reference) => {
            let files = Files::archive(path, &budget)?;
            docker::read(&files, reference.as_deref(), &budget, options).map_err(|source| {
                SourceError::Docker {
                    path: path.to_owned(),
                    source: source.into(),
                }
            })
        }
        Source::Directory(path) => {
            directory::read(path, options).map_err(|source| SourceError::Directory {
                path: path.to_owned(),
                source,
            })
        }
        Source::Storage(image) => Ok(storage::read(image, options).map_err(Box::new)?),
        Source::Overlay(container) => Ok(container::read(container, options).map_err(Box::new)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_says_what_it_is() {
        let read = |text: &str| text.parse::<Source>();
        let tag = Some("v1:2".to_owned());
        assert_eq!(read("dir:/a:b"), Ok(Source::Directory("/a:b".into())));
        assert_eq!(read("oci:a:v1:2"), Ok(Source::OciLayout("a".into(), tag)));
        assert_eq!(
            read("containers-storage:localhost/x:1"),
            Ok(Source::Storage("localhost/x:1".into()))
        );
        assert_eq!(read("dir:"), Err(SourceTextError::Empty("dir:".into())));
        for kind in ["/a", "docker:x"] {
            assert_eq!(read(kind), Err(SourceTextError::Kind(kind.into())));
        }
    }
}
