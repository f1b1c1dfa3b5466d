// SPDX-License-Identifier: Apache-2.0
//! Images for the commands that take them: what names one on the command line, how it is read, the
//! bar that shows how far the reading is, and how files are written. Called by `digest`, `diff` and `reference`.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    num::NonZero,
    path::{Path, PathBuf},
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use bytesize::ByteSize;
use clap::Args;
use image_digest::{
    Cache, CacheError, Image, Limits, Progress,
    manifest::{self, ManifestError},
    source::{self, Options, Platform, Source, SourceTextError},
};
use indicatif::{ProgressBar, ProgressStyle};

/// How sources are written; for `--help`.
pub(super) const SOURCES: &str = "Sources:
  dir:PATH                       the root of a tree of files
  oci:PATH[:REF]                 an OCI layout; REF is a name or a manifest's digest
  oci-archive:PATH[:REF]         the same in a tar archive
  docker-archive:PATH[:REF]      what `docker save` and `podman save` write
  containers-storage:IMAGE       in the store of podman, buildah or CRI-O; [DRIVER@ROOT]IMAGE: in that one
  overlay:CONTAINER              the image below a container: its name, id or a process of it
  manifest:FILE                  what `cima digest --manifest` wrote; - is standard input";

/// A source, or the manifest of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Source(Source),
    /// `-`: standard input.
    Manifest(PathBuf),
}

/// A place and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) place: Place,
    text: String,
}

impl FromStr for Named {
    type Err = SourceTextError;

    fn from_str(text: &str) -> Result<Self, SourceTextError> {
        let place = match text.strip_prefix("manifest:") {
            Some("") => return Err(SourceTextError::Empty(text.to_owned())),
            Some(path) => Place::Manifest(path.into()),
            None => Place::Source(text.parse()?),
        };
        Ok(Self {
            place,
            text: text.to_owned(),
        })
    }
}

impl Named {
    pub(super) fn is_stdin(&self) -> bool {
        matches!(&self.place, Place::Manifest(path) if path.as_os_str() == "-")
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&image_digest::escaped(self.text.as_bytes()))
    }
}

/// How images are read.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// Which image of an index, as linux/arm64 or linux/arm/v7 [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Threads that read and hash [default: one for each processor]
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// Digests of files that did not change since: read, used and written again; this boot's alone
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Refuse an image of more files and directories
    #[arg(long, value_name = "N", default_value_t = Limits::default().entries)]
    max_entries: u64,
    /// Refuse an image that unpacks to more, as 20GiB
    #[arg(long, value_name = "BYTES", default_value_t = ByteSize::b(Limits::default().content_bytes))]
    max_bytes: ByteSize,
}

/// Why an image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// See [`image_digest::source::SourceError`].
    #[error(transparent)]
    Source(#[from] source::SourceError),
    /// See [`CacheError`].
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A manifest that cannot be opened.
    #[error("{}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One that is none.
    #[error("{of}: {source}")]
    Manifest {
        /// Which.
        of: String,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
}

impl ImageArgs {
    /// Reads an image. A manifest has its files, and nothing else is known of it.
    pub(super) fn read(&self, named: &Named) -> Result<Image, ImageError> {
        let [image] = self.read_all([named])?;
        Ok(image)
    }

    /// Reads images one after the other, with one cache: what is not used between load and save is forgotten.
    pub(super) fn read_all<const N: usize>(
        &self,
        named: [&Named; N],
    ) -> Result<[Image; N], ImageError> {
        let from_disk = named
            .iter()
            .any(|one| matches!(one.place, Place::Source(_)));
        let file = self.cache.as_deref().filter(|_| from_disk);
        let cache = file.map(Cache::load).transpose()?;
        let mut images = [const { None }; N];
        for (image, named) in images.iter_mut().zip(named) {
            *image = Some(self.read_one(named, cache.as_ref())?);
        }
        if let (Some(cache), Some(file)) = (&cache, file) {
            cache.save(file)?;
        }
        // Each was read, or the loop ended with its error.
        Ok(images.map(Option::unwrap_or_default))
    }

    fn read_one(&self, named: &Named, cache: Option<&Cache>) -> Result<Image, ImageError> {
        let limits = Limits {
            entries: self.max_entries,
            content_bytes: self.max_bytes.as_u64(),
            ..Limits::default()
        };
        let source = match &named.place {
            Place::Source(source) => source,
            Place::Manifest(path) => return read_manifest(path, limits),
        };
        let progress = Progress::default();
        let options = Options {
            limits,
            platform: self.platform.clone(),
            threads: self.threads.unwrap_or_else(processors),
            cache,
            progress: &progress,
        };
        Ok(shown(&progress, || source::read(source, &options))?)
    }
}

fn processors() -> NonZero<usize> {
    thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)
}

fn read_manifest(path: &Path, limits: Limits) -> Result<Image, ImageError> {
    let (of, tree) = if path.as_os_str() == "-" {
        let tree = manifest::read(io::stdin().lock(), limits);
        ("standard input".to_owned(), tree)
    } else {
        let file = File::open(path).map_err(|source| ImageError::Open {
            path: path.to_owned(),
            source,
        })?;
        let tree = manifest::read(BufReader::new(file), limits);
        (path.display().to_string(), tree)
    };
    Ok(Image {
        tree: tree.map_err(|source| ImageError::Manifest { of, source })?,
        ..Image::default()
    })
}

/// Does the work, and shows how far it is if standard error is a terminal.
fn shown<T: Send>(progress: &Progress, work: impl FnOnce() -> T + Send) -> T {
    let bar = ProgressBar::new(0);
    if bar.is_hidden() {
        return work();
    }
    let style = "{bytes:>10} of {total_bytes:<10} {wide_bar} {bytes_per_sec:>12} {eta:>4} left";
    // The template is a constant, and one that holds.
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let done = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let drawing = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                bar.set_length(progress.total());
                bar.set_position(progress.done());
                thread::park_timeout(Duration::from_millis(100));
            }
        });
        // Also if the work panics: the scope waits for the bar.
        let _end = End(&done, drawing.thread());
        work()
    });
    bar.finish_and_clear();
    result
}

/// Ends the drawing of a bar when the work ends.
struct End<'a>(&'a AtomicBool, &'a thread::Thread);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.unpark();
    }
}

/// Writes a file, which is then there whole or not at all. What is no regular file, a pipe or `/dev/null`, stays what it
/// is and is written to; a symbolic link to a file stays, and that file is another.
pub(super) fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let place = match fs::metadata(path) {
        Ok(there) if there.is_file() => fs::canonicalize(path)?,
        Ok(_) => {
            let file = File::options().write(true).open(path)?;
            let mut file = BufWriter::new(&file);
            return super::unless_broken_pipe(write(&mut file).and_then(|()| file.flush()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let folder = match place.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // As any new file: what is written is for others to read.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let temporary = tempfile::Builder::new()
        .permissions(mode)
        .tempfile_in(folder)?;
    let mut file = BufWriter::new(temporary.as_file());
    write(&mut file)?;
    file.flush()?;
    drop(file);
    temporary.persist(&place).map_err(|error| error.error)?;
    Ok(())
}
