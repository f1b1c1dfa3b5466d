// SPDX-License-Identifier: Apache-2.0
//! One file, directory or other thing of an image, and the bytes that are hashed of it.

use sha2::{Digest as _, Sha256};

use crate::{ContentDigest, ImageDigest};

/// Changing it, the order of what is hashed or a width is another format: see SPEC.md.
const DOMAIN: &[u8] = b"cima-image-v1\0";
const CAPABILITY: &[u8] = b"security.capability";

/// What counts of a node's attributes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meta {
    mode: u32,
    /// Owner, in the initial user namespace.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Value of `security.capability`, if it is set.
    pub capability: Option<Vec<u8>>,
}

impl Meta {
    /// Without capabilities. Of `mode` the permission bits with set-user-id, set-group-id and sticky
    /// count (07777); the file type is the node's.
    #[must_use]
    pub fn new(mode: u32, uid: u32, gid: u32) -> Self {
        Self {
            mode: mode & 0o7777,
            uid,
            gid,
            capability: None,
        }
    }

    /// The same with this value of `security.capability`.
    #[must_use]
    pub fn with_capability(self, value: Vec<u8>) -> Self {
        Self {
            capability: Some(value),
            ..self
        }
    }

    /// Permission bits, at most 07777.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.mode
    }

    fn hash(&self, hash: &mut Sha256) {
        for number in [self.mode, self.uid, self.gid] {
            hash.update(number.to_le_bytes());
        }
        hash.update(u32::from(self.capability.is_some()).to_le_bytes());
        if let Some(value) = &self.capability {
            prefixed(hash, CAPABILITY);
            prefixed(hash, value);
        }
    }
}

/// A directory that nobody described: `0755`, owner and group 0.
impl Default for Meta {
    fn default() -> Self {
        Self::new(0o755, 0, 0)
    }
}

/// A node without its name and, if it is a directory, without what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// A directory.
    Directory(Meta),
    /// A regular file. A hard link is a copy.
    File {
        /// Mode and owner.
        meta: Meta,
        /// Bytes of content.
        size: u64,
        /// SHA-256 of them.
        content: ContentDigest,
    },
    /// A symbolic link. Its mode is the host's, and does not count.
    Symlink {
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Where it points, as it is written.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice(Meta, Device),
    /// A block device.
    BlockDevice(Meta, Device),
    /// A named pipe.
    Fifo(Meta),
    /// A socket's name.
    Socket(Meta),
}

/// A device's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl Node {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    /// Digest of a node in the tree. `children` are those of a directory, sorted by name;
    /// nothing else has any.
    pub(crate) fn digest<'a>(
        &self,
        children: impl ExactSizeIterator<Item = (&'a [u8], ImageDigest)>,
    ) -> ImageDigest {
        let mut hash = Sha256::new_with_prefix(DOMAIN);
        match self {
            Self::Directory(meta) => {
                hash.update(b"d");
                meta.hash(&mut hash);
                hash_children(&mut hash, children);
            }
            Self::File {
                meta,
                size,
                content,
            } => {
                hash.update(b"f");
                meta.hash(&mut hash);
                hash.update(size.to_le_bytes());
                hash.update(content.bytes());
            }
            Self::Symlink { uid, gid, target } => {
                hash.update(b"l");
                hash.update(uid.to_le_bytes());
                hash.update(gid.to_le_bytes());
                prefixed(&mut hash, target);
            }
            Self::CharDevice(meta, device) => {
                hash.update(b"c");
                meta.hash(&mut hash);
                device.hash(&mut hash);
            }
            Self::BlockDevice(meta, device) => {
                hash.update(b"b");
                meta.hash(&mut hash);
                device.hash(&mut hash);
            }
            Self::Fifo(meta) => {
                hash.update(b"p");
                meta.hash(&mut hash);
            }
            Self::Socket(meta) => {
                hash.update(b"s");
                meta.hash(&mut hash);
            }
        }
        ImageDigest(hash.finalize().into())
    }
}

impl Device {
    fn hash(self, hash: &mut Sha256) {
        hash.update(self.major.to_le_bytes());
        hash.update(self.minor.to_le_bytes());
    }
}

/// Digest of the root directory, of which only the children count.
pub(crate) fn root_digest<'a>(
    children: impl ExactSizeIterator<Item = (&'a [u8], ImageDigest)>,
) -> ImageDigest {
    let mut hash = Sha256::new_with_prefix(DOMAIN);
    hash.update(b"R");
    hash_children(&mut hash, children);
    ImageDigest(hash.finalize().into())
}

fn hash_children<'a>(
    hash: &mut Sha256,
    children: impl ExactSizeIterator<Item = (&'a [u8], ImageDigest)>,
) {
    hash.update((children.len() as u64).to_le_bytes());
    for (name, digest) in children {
        prefixed(hash, name);
        hash.update(digest.bytes());
    }
}

/// A value of `security.capability` as it was stored, made what reading it gives in the initial user
/// namespace: one for namespaces whose root is that of the initial one comes back without the root
/// (`cap_inode_getsecurity`, `security/commoncap.c`). `None`: a kernel would not have stored it.
pub(crate) fn as_kernel_gives(value: &[u8]) -> Option<Vec<u8>> {
    // `VFS_CAP_REVISION_2` and `_3`, `include/uapi/linux/capability.h`: magic with the revision in its
    // highest byte, then two pairs of sets; the third revision has a root's id behind them.
    const ROOT_ID: usize = 20;
    if value.get(1..3)? != [0, 0] || value[0] > 1 {
        return None;
    }
    match (value.get(3)?, value.len()) {
        (2, ROOT_ID) => Some(value.to_vec()),
        (3, 24) if value[ROOT_ID..] == [0; 4] => {
            let mut value = value[..ROOT_ID].to_vec();
            value[3] = 2;
            Some(value)
        }
        (3, 24) => Some(value.to_vec()),
        _ => None,
    }
}

/// `lp` of SPEC.md.
fn prefixed(hash: &mut Sha256, bytes: &[u8]) {
    // Names, targets and attributes end at 64 KiB in the kernel, and at less here.
    hash.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    hash.update(bytes);
}
