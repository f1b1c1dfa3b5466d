// SPDX-License-Identifier: Apache-2.0
//! Reference values: what each image is known to execute.

use std::collections::HashMap;

use ima_log::{Digest, HashAlgorithm};
use image_digest::{ImageDigest, reference::Reference, unescaped};

/// Path in the image, with a `/` in front, and SHA-256 of its content.
type Executables = HashMap<Box<[u8]>, [u8; 32]>;

/// Why references do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two references of image {image} have another content at {path}: one of them is wrong")]
pub struct Contradiction {
    /// Whose.
    pub image: ImageDigest,
    /// Where, printable.
    pub path: String,
}

/// Images that are known, and what they execute.
#[derive(Debug, Default)]
pub struct References(HashMap<ImageDigest, Known>);

#[derive(Debug)]
struct Known {
    name: Option<String>,
    executables: Executables,
}

/// What a reference says of an executed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is as the image has it.
    Known,
    /// The image has another content there.
    Changed {
        /// SHA-256 by the reference.
        expected: [u8; 32],
    },
    /// The image has none there.
    Missing,
    /// Hashed otherwise than the reference.
    Incomparable,
    /// Nothing is known of the image.
    NoReference,
}

impl References {
    /// None so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one, which was read and so is right in itself.
    ///
    /// # Errors
    /// It contradicts one of the same image.
    pub fn add(&mut self, reference: &Reference) -> Result<(), Contradiction> {
        let Ok(image) = reference.image.parse::<ImageDigest>() else {
            return Ok(());
        };
        let known = self.0.entry(image).or_insert_with(|| Known {
            name: None,
            executables: HashMap::new(),
        });
        if known.name.is_none() {
            known.name.clone_from(&reference.name);
        }
        for executable in &reference.executables {
            let mut sha256 = [0; 32];
            let (Some(path), Ok(())) = (
                unescaped(&executable.path),
                hex::decode_to_slice(&executable.sha256, &mut sha256),
            ) else {
                continue;
            };
            let is = *known.executables.entry(path.into()).or_insert(sha256);
            if is != sha256 {
                let path = executable.path.clone();
                return Err(Contradiction { image, path });
            }
        }
        Ok(())
    }

    /// How many images are known.
    #[must_use]
    pub fn images(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn has(&self, image: &ImageDigest) -> bool {
        self.0.contains_key(image)
    }

    /// The name under which an image was found when its reference was made.
    pub(crate) fn name(&self, image: &ImageDigest) -> Option<&str> {
        self.0.get(image)?.name.as_deref()
    }

    /// The images that were found under a name when their references were made, in the order of their digests.
    pub(crate) fn named(&self, name: &str) -> Vec<ImageDigest> {
        let of_name = |known: &Known| known.name.as_deref() == Some(name);
        let images = self.0.iter().filter(|(_, known)| of_name(known));
        let mut images: Vec<_> = images.map(|(image, _)| *image).collect();
        images.sort_by_key(ToString::to_string);
        images
    }

    pub(crate) fn standing(&self, image: &ImageDigest, path: &[u8], digest: &Digest) -> Standing {
        let Some(known) = self.0.get(image) else {
            return Standing::NoReference;
        };
        let Some(expected) = known.executables.get(path) else {
            return Standing::Missing;
        };
        if digest.algorithm() != HashAlgorithm::Sha256 {
            Standing::Incomparable
        } else if digest.bytes() == expected {
            Standing::Known
        } else {
            Standing::Changed {
                expected: *expected,
            }
        }
    }
}
