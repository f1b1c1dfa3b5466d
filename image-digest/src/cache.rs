// SPDX-License-Identifier: Apache-2.0
//! Digests of contents that need not be computed again: of files that did not change since, and could not
//! have changed unseen.
//!
//! A file is known by its inode, size and times. Whoever opens it for writing moves its change time before the
//! first byte changes: `write` and its kin call `file_modified` first (ext4, xfs and f2fs, fallocate from 5.18 on), and the first store
//! to a page through a mapping faults, and then `page_mkwrite` calls `file_update_time`. A later store to
//! that page moves nothing, but then the time is another already. What is left is who was writing before: so a digest is
//! kept only if nobody had the file open for writing, mappings included, before it was read and after ([`crate::lease`]),
//! and then the change time tells of everything since. That holds when it is used, so nothing is asked then.
//!
//! The same numbers elsewhere are told by what holds the files: the disk's sequence number, which each attachment of a loop
//! device moves, and since Linux 6.8 the number of a mount that was there all the time ([`crate::source::lasting_mount`]).
//! (Before, a disk that is rewritten while it is attached and not mounted is not noticed.)
//!
//! Where the reasoning does not hold, nothing is kept: on tmpfs, whose pages can be pinned and written
//! when nobody is a writer, and on overlayfs, FUSE and networks, whose inodes are not those that are written.
//! Who can write to the disk below the file system, use the file for swapping, or set the clock can deceive it, and is root.
//!
//! The file is binary, since a fast start is what it is for. Numbers are little-endian, `lp` is as in SPEC.md:
//!
//! ```text
//! "cima-cache 1\n" | lp(boot id) | u64 count | count times
//!     u64 disk, u64 mount | u64 inode | u64 size | i64 seconds, u32 nanoseconds of modification | the same of change
//!     | SHA-256 of the content | lp(format: nothing, 'e', or 's' and a script's interpreter)
//!     | lp(capability: nothing, or 'c' and the value of security.capability)
//! | SHA-256 of all before
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::fstatfs;
use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};

use crate::lease;
use crate::{ContentDigest, Format};

const HEADER: &[u8] = b"cima-cache 1\n";
/// A file of more is refused: ten million files are in it.
const MAX_FILE: u64 = 1 << 30;

/// A file as `stat` tells it from others. Times are seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) volume: Volume,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) modified: (i64, u32),
    pub(crate) changed: (i64, u32),
}

/// What holds a tree's files, so that the same numbers elsewhere are not taken for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Volume {
    /// The number that a disk got when it was attached.
    disk: u64,
    /// That of a mount of it, since Linux 6.8; before, 0. While that mount lives, so does the file system: nobody changes
    /// it behind the kernel's back.
    mount: u64,
}

impl Volume {
    /// That of a tree on this device, with this mount. `None`: nothing would tell it from another in its place.
    pub(crate) fn of(device: (u32, u32), mount: u64) -> Option<Self> {
        // `Documentation/ABI/stable/sysfs-block`, since Linux 5.15. A partition has its disk's.
        let place = PathBuf::from(format!("/sys/dev/block/{}:{}", device.0, device.1));
        let name = if place.join("partition").exists() {
            "../diskseq"
        } else {
            "diskseq"
        };
        let text = fs::read_to_string(place.join(name)).ok()?;
        let disk = text.trim().parse().ok()?;
        Some(Self { disk, mount })
    }
}

/// An inode has one change time: the rest would cost more than it parts.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.inode);
    }
}

/// How it is known that nobody writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// By asking for each file.
    Asked,
    /// The file system has none.
    Never,
}

impl Writers {
    /// `None`: this is no file system whose files can be known by their times (`include/uapi/linux/magic.h`).
    pub(crate) fn of_file_system(root: BorrowedFd<'_>) -> Option<Self> {
        const EXT4: u64 = 0xef53;
        const XFS: u64 = 0x5846_5342;
        const F2FS: u64 = 0xf2f5_2010;
        const SQUASHFS: u64 = 0x7371_7368;
        const EROFS: u64 = 0xe0f5_e1e2;
        match fstatfs(root).ok()?.f_type as u64 {
            EXT4 | XFS | F2FS => Some(Self::Asked),
            SQUASHFS | EROFS => Some(Self::Never),
            _ => None,
        }
    }

    /// Whether nobody has this open file open for writing now.
    pub(crate) fn are_none(self, file: BorrowedFd<'_>) -> bool {
        match self {
            Self::Asked => lease::nobody_writes(file),
            Self::Never => true,
        }
    }
}

/// Digests by file, of the running boot. Shared by all threads that read.
#[derive(Debug, Default)]
pub struct Cache {
    /// From the file, and whether it was asked for since: what was not is forgotten with the next save.
    loaded: HashMap<Key, (Known, AtomicBool)>,
    /// Device and inode of that file.
    file: Option<(u64, u64)>,
    added: Mutex<HashMap<Key, Known>>,
}

/// What is known of a file. Its change time stands for its attributes as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) digest: ContentDigest,
    pub(crate) format: Option<Format>,
    /// Value of `security.capability`.
    pub(crate) capability: Option<Vec<u8>>,
}

/// Why a cache was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The file failed.
    #[error("{}: {source}", path.display())]
    File {
        /// The cache's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could have written it.
    #[error("{} is not this user's alone: who can write it can make any file pass for another", .0.display())]
    Unsafe(PathBuf),
    /// It is no cache.
    #[error("{} is no cache, or a torn one; remove it to begin a new one", .0.display())]
    Garbage(PathBuf),
}

impl Cache {
    /// Reads what [`Cache::save`] wrote in this boot. Without the file, and with one of another boot, whose clock and
    /// devices may have been others, the cache is empty.
    ///
    /// # Errors
    /// See [`CacheError`].
    pub fn load(path: &Path) -> Result<Self, CacheError> {
        let failed = |source| CacheError::File {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            file => file.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        let own = metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0;
        if !(own && metadata.is_file()) {
            return Err(CacheError::Unsafe(path.to_owned()));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let boot = boot_id().map_err(failed)?;
        let known = decode(&bytes, &boot).ok_or_else(|| CacheError::Garbage(path.to_owned()))?;
        Ok(Self {
            loaded: known,
            file: Some((metadata.dev(), metadata.ino())),
            added: Mutex::default(),
        })
    }

    /// Writes what was used or added since it was loaded, readable by this user alone; at once, so that
    /// nobody sees a part.
    ///
    /// # Errors
    /// [`CacheError::File`].
    pub fn save(&self, path: &Path) -> Result<(), CacheError> {
        let failed = |source| CacheError::File {
            path: path.to_owned(),
            source,
        };
        if self.is_as_loaded(path) {
            return Ok(());
        }
        let bytes = self.encode(&boot_id().map_err(failed)?);
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Made with mode 0600, under a name that nobody knows.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Has it say of each file that its content is "a lie", so that a test sees whether it was asked.
    #[cfg(test)]
    pub(crate) fn lie(&self) {
        for known in self.added().values_mut() {
            known.digest = ContentDigest::of(b"a lie");
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Known> {
        if let Some((known, used)) = self.loaded.get(key) {
            used.store(true, Ordering::Relaxed);
            return Some(known.clone());
        }
        self.added().get(key).cloned()
    }

    pub(crate) fn put(&self, key: Key, known: Known) {
        self.added().insert(key, known);
    }

    /// The file is the one that was loaded, and would say the same again. An empty one is written all the same.
    fn is_as_loaded(&self, path: &Path) -> bool {
        let mut loaded = self.loaded.values();
        let there = path.symlink_metadata().ok();
        let there = there.map(|there| (there.dev(), there.ino()));
        !self.loaded.is_empty()
            && there.is_some()
            && there == self.file
            && self.added().is_empty()
            && loaded.all(|(_, used)| used.load(Ordering::Relaxed))
    }

    fn encode(&self, boot: &str) -> Vec<u8> {
        let added = self.added();
        let loaded = self.loaded.iter();
        let used = loaded.filter(|(_, (_, used))| used.load(Ordering::Relaxed));
        let used = used
            .map(|(key, (known, _))| (key, known))
            .chain(added.iter());
        let mut bytes = HEADER.to_vec();
        prefixed(&mut bytes, boot.as_bytes());
        bytes.extend((used.clone().count() as u64).to_le_bytes());
        for (key, known) in used {
            let Key {
                volume: Volume { disk, mount },
                inode,
                size,
                modified,
                changed,
            } = key;
            bytes.extend(disk.to_le_bytes());
            bytes.extend(mount.to_le_bytes());
            bytes.extend(inode.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            for (seconds, nanoseconds) in [modified, changed] {
                bytes.extend(seconds.to_le_bytes());
                bytes.extend(nanoseconds.to_le_bytes());
            }
            bytes.extend(known.digest.bytes());
            match &known.format {
                None => prefixed(&mut bytes, b""),
                Some(Format::Elf) => prefixed(&mut bytes, b"e"),
                Some(Format::Script(path)) => prefixed(&mut bytes, &[b"s", &path[..]].concat()),
            }
            match &known.capability {
                None => prefixed(&mut bytes, b""),
                Some(value) => prefixed(&mut bytes, &[b"c", &value[..]].concat()),
            }
        }
        let check = Sha256::digest(&bytes);
        bytes.extend(check);
        bytes
    }

    fn added(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn boot_id() -> io::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim_end().to_owned())
}

fn prefixed(bytes: &mut Vec<u8>, piece: &[u8]) {
    // Paths, names and attributes are below 64 KiB.
    bytes.extend(u32::try_from(piece.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(piece);
}

/// What a file says; `None`: it is no cache.
fn decode(bytes: &[u8], boot: &str) -> Option<HashMap<Key, (Known, AtomicBool)>> {
    let (bytes, check) = bytes.split_last_chunk::<32>()?;
    if Sha256::digest(bytes)[..] != check[..] {
        return None;
    }
    let mut rest = Rest(bytes.strip_prefix(HEADER)?);
    if rest.prefixed()? != boot.as_bytes() {
        return Some(HashMap::new());
    }
    let count = rest.u64()?;
    // As many as could be there at most: 100 bytes are the least of each.
    let mut known = HashMap::with_capacity(usize::try_from(count).ok()?.min(bytes.len() / 100));
    for _ in 0..count {
        let (key, value) = rest.entry()?;
        known.insert(key, (value, AtomicBool::new(false)));
    }
    rest.0.is_empty().then_some(known)
}

/// Bytes that are still to be understood.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<(i64, u32)> {
        Some((self.take().map(i64::from_le_bytes)?, self.u32()?))
    }

    fn prefixed(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn entry(&mut self) -> Option<(Key, Known)> {
        let key = Key {
            volume: Volume {
                disk: self.u64()?,
                mount: self.u64()?,
            },
            inode: self.u64()?,
            size: self.u64()?,
            modified: self.time()?,
            changed: self.time()?,
        };
        let digest = ContentDigest::new(self.take()?);
        let format = match self.prefixed()? {
            b"" => None,
            b"e" => Some(Format::Elf),
            [b's', path @ ..] => Some(Format::Script(path.to_vec())),
            _ => return None,
        };
        let capability = match self.prefixed()? {
            b"" => None,
            [b'c', value @ ..] => Some(value.to_vec()),
            _ => return None,
        };
        let known = Known {
            digest,
            format,
            capability,
        };
        Some((key, known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &[u8], format: Option<Format>) -> Known {
        Known {
            digest: ContentDigest::of(text),
            format,
            capability: (text == b"elf").then(|| vec![1, 2, 3]),
        }
    }

    fn key(inode: u64) -> Key {
        Key {
            volume: Volume { disk: 8, mount: 1 },
            inode,
            size: 3,
            modified: (-1, 999_999_999),
            changed: (1_700_000_000, 123_456_789),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_not_used_is_forgotten() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("cache");
        let cache = Cache::load(&path).expect("none is an empty one");
        let contents = [
            known(b"one", None),
            known(b"elf", Some(Format::Elf)),
            known(b"scr", Some(Format::Script(b"/bin/\xff sh".to_vec()))),
        ];
        for (inode, known) in contents.iter().enumerate() {
            cache.put(key(inode as u64), known.clone());
        }
        cache.save(&path).expect("saved");
        assert_eq!(fs::metadata(&path).expect("it").mode() & 0o777, 0o600);
        let cache = Cache::load(&path).expect("loaded");
        for (inode, known) in contents.iter().enumerate().skip(1) {
            assert_eq!(cache.get(&key(inode as u64)).as_ref(), Some(known));
        }
        cache.save(&path).expect("saved");
        let cache = Cache::load(&path).expect("loaded");
        assert_eq!(cache.get(&key(0)), None);
        assert!(cache.get(&key(1)).is_some());
    }

    #[test]
    fn a_cache_that_is_torn_altered_or_anothers_is_refused_by_name() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("cache");
        let cache = Cache::default();
        for inode in 0..3 {
            cache.put(key(inode), known(b"one", Some(Format::Elf)));
        }
        let whole = cache.encode(&boot_id().expect("a boot"));
        let refused = |bytes: &[u8], case: &str| {
            fs::write(&path, bytes).expect("a file");
            let error = Cache::load(&path).err().map(|error| error.to_string());
            let error = error.unwrap_or_else(|| panic!("{case}"));
            assert!(
                error.contains("cache is no cache, or a torn one"),
                "{error}"
            );
        };
        for at in 0..whole.len() {
            refused(&whole[..at], &format!("cut at {at}"));
            let mut altered = whole.clone();
            altered[at] ^= 1;
            refused(&altered, &format!("altered at {at}"));
        }
        refused(&[&whole[..], b"x"].concat(), "longer");
        refused(&[0; 100], "zeros");
        cache.save(&path).expect("saved");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o620);
        fs::set_permissions(&path, mode).expect("a mode");
        let error = Cache::load(&path).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("not this user's alone")));
    }

    #[test]
    fn no_count_that_lies_takes_memory() {
        let mut bytes = HEADER.to_vec();
        prefixed(&mut bytes, b"this");
        bytes.extend(u64::MAX.to_le_bytes());
        let check = Sha256::digest(&bytes);
        bytes.extend(check);
        assert!(decode(&bytes, "this").is_none());
    }

    #[test]
    fn the_cache_of_another_boot_is_none() {
        let cache = Cache::default();
        cache.put(key(1), known(b"one", None));
        assert_eq!(
            decode(&cache.encode("this"), "this").map(|known| known.len()),
            Some(1)
        );
        assert_eq!(
            decode(&cache.encode("another"), "this").map(|known| known.len()),
            Some(0)
        );
    }
}
