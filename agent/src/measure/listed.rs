// SPDX-License-Identifier: Apache-2.0
//! Names of policy events taken apart, for who reads a list. The other direction of `policy_event`.

use std::borrow::Cow;

use image_digest::ImageDigest;

use super::{batch_number, unescape};
use crate::containers::Provenance;

/// What an entry's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed<'a> {
    /// A part of the agent: `cima-agent:<part>`.
    Agent(&'a str),
    /// What anchors the list: `cima-sink:<sink>`.
    Sink(&'a str),
    /// An image that a container was admitted with.
    Image(ImageDigest),
    /// A file that was executed in some way.
    Exec {
        /// In a container of which image.
        of: Provenance,
        /// As the container sees it.
        path: Cow<'a, [u8]>,
    },
    /// Something that should not be.
    Violation {
        /// `hash`, `writer`, …
        kind: &'a str,
        /// In a container of which image.
        of: Provenance,
        /// As the container sees it; empty if it is none of a file.
        path: Cow<'a, [u8]>,
    },
    /// A batch of context events, by its number.
    Context(u64),
}

impl<'a> Listed<'a> {
    /// What `name` says; `None`: it is none that an agent of this version writes.
    #[must_use]
    pub fn parse(name: &'a [u8]) -> Option<Self> {
        if let Some(number) = batch_number(name) {
            return Some(Self::Context(number));
        }
        let (kind, rest) = std::str::from_utf8(name).ok()?.split_once(':')?;
        Some(match kind {
            "cima-agent" => Self::Agent(rest),
            "cima-sink" => Self::Sink(rest),
            "cima-image" => Self::Image(rest.parse().ok()?),
            "cima-exec" => {
                let (of, path) = of_path(rest)?;
                Self::Exec { of, path }
            }
            "cima-violation" => {
                let (kind, rest) = rest.split_once(':')?;
                let (of, path) = of_path(rest)?;
                Self::Violation { kind, of, path }
            }
            _ => return None,
        })
    }
}

/// `<image>:<path>`.
fn of_path(text: &str) -> Option<(Provenance, Cow<'_, [u8]>)> {
    let (of, path) = if let Some(path) = text.strip_prefix("unregistered:") {
        (Provenance::Unregistered, path)
    } else if let Some(path) = text.strip_prefix("unmeasured:") {
        (Provenance::Unmeasured, path)
    } else {
        let (digest, path) = text.split_at_checked("sha256:".len() + 64)?;
        (
            Provenance::Image(digest.parse().ok()?),
            path.strip_prefix(':')?,
        )
    };
    let plain = !path.contains('%') && path.bytes().all(|byte| byte.is_ascii_graphic());
    let path = if plain {
        Cow::Borrowed(path.as_bytes())
    } else {
        Cow::Owned(unescape(path)?)
    };
    Some((of, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{PolicyEvent, Violation};
    use ima_log::HashAlgorithm;
    use proptest::prelude::*;

    fn provenance() -> impl Strategy<Value = Provenance> {
        prop_oneof![
            Just(Provenance::Unregistered),
            Just(Provenance::Unmeasured),
            any::<[u8; 32]>().prop_map(|bytes| Provenance::Image(ImageDigest::new(bytes))),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(of in provenance(), path: Vec<u8>) {
            let digest = HashAlgorithm::Sha256.digest(b"");
            let exec = PolicyEvent::exec(&of, &path, &digest);
            let path = Cow::Borrowed(&path[..]);
            prop_assert_eq!(
                Listed::parse(exec.name.as_bytes()),
                Some(Listed::Exec { of, path: path.clone() })
            );
            let violation = PolicyEvent::violation(Violation::Writer, &of, &path, "open");
            prop_assert_eq!(
                Listed::parse(violation.name.as_bytes()),
                Some(Listed::Violation { kind: "writer", of, path })
            );
        }

        #[test]
        fn other_names_are_none(name: Vec<u8>) {
            let _ = Listed::parse(&name);
        }
    }

    #[test]
    fn a_name_that_no_agent_writes_is_none() {
        for name in [
            "cima-exec:sha256:00:/x",
            "cima-exec:unregistered",
            "cima-exec:other:/x",
            "cima-exec:unregistered:/%ff",
            "cima-exec:unregistered:/a b",
            "cima-violation:writer:/x",
            "cima-image:sha256:zz",
            "cima-ctx:01",
            "cima-other:x",
            "/usr/bin/sh",
        ] {
            assert_eq!(Listed::parse(name.as_bytes()), None, "{name}");
        }
        assert_eq!(Listed::parse(b"cima-ctx:7"), Some(Listed::Context(7)));
        assert_eq!(Listed::parse(b"cima-sink:pcr"), Some(Listed::Sink("pcr")));
    }
}
