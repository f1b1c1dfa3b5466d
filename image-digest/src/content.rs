// SPDX-License-Identifier: Apache-2.0
//! Content as it passes: its digest, its size, and whether a kernel could run it.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::ContentDigest;

/// As much of a file as `execve` looks at (`BINPRM_BUF_SIZE`, `include/uapi/linux/binfmts.h`).
const HEAD: usize = 256;

/// What a kernel makes of a file, seen from its first bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Format {
    /// An ELF object: a program, a library, a module.
    Elf,
    /// A script; the path behind `#!`, without its argument.
    Script(Vec<u8>),
}

/// The formats of contents, by digest. What is neither ELF nor script is not in it.
pub type Formats = HashMap<ContentDigest, Format>;

/// What a content came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// SHA-256 of all of it.
    pub digest: ContentDigest,
    /// Bytes.
    pub size: u64,
    /// What it is for a kernel, if anything.
    pub format: Option<Format>,
}

/// Content in the making.
#[derive(Debug, Clone, Default)]
pub struct ContentHash {
    hash: Sha256,
    size: u64,
    head: Vec<u8>,
}

impl ContentHash {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let missing = HEAD - self.head.len();
        if missing > 0 {
            self.head
                .extend_from_slice(&bytes[..missing.min(bytes.len())]);
        }
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// All of it has passed.
    #[must_use]
    pub fn finish(self) -> Content {
        Content {
            digest: ContentDigest(self.hash.finalize().into()),
            size: self.size,
            format: format_of(&self.head),
        }
    }
}

fn format_of(head: &[u8]) -> Option<Format> {
    if head.starts_with(b"\x7fELF") {
        return Some(Format::Elf);
    }
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    // As `load_script` (fs/binfmt_script.c) parts it: blanks are spaces and tabs, a NUL ends it.
    let mut words = line
        .split(|byte| matches!(byte, b' ' | b'\t' | 0))
        .filter(|word| !word.is_empty());
    Some(Format::Script(words.next()?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_what_a_kernel_would_see() {
        let script = |path: &str| Some(Format::Script(path.as_bytes().to_vec()));
        for (content, format) in [
            (&b"\x7fELF\x02\x01"[..], Some(Format::Elf)),
            (b"#!/bin/sh -e\necho", script("/bin/sh")),
            (b"#! \t/usr/bin/env python3", script("/usr/bin/env")),
            (b"#!\n/bin/sh", None),
            (b"", None),
            (b"ELF", None),
        ] {
            let mut hash = ContentHash::default();
            for byte in content {
                hash.update(std::slice::from_ref(byte));
            }
            let made = hash.finish();
            assert_eq!(made.format, format, "{}", content.escape_ascii());
            assert_eq!(made.digest, ContentDigest::of(content));
            assert_eq!(made.size, content.len() as u64);
        }
    }
}
