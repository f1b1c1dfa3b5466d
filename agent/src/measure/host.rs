// SPDX-License-Identifier: Apache-2.0
//! What an entry of ours looks like in the host's own IMA list. Pure: given entries.

use std::str::FromStr;

use ima_log::{Digest, Entry, Fields, HashAlgorithm, Template};
use sha2::{Digest as _, Sha256};

use super::file_name;

/// How the kernel lists an entry of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostForm {
    /// As it is, payload and all (`ima_measure_critical_data`).
    Buffer,
    /// As a file named like it, whose content is the payload ([`file_name`]).
    File,
}

/// Stands for a name and the payload, or, in a file's form, its digest.
pub type HostKey = [u8; 32];

/// What a payload may be hashed with (`ima_hash=`): collisions of SHA-1 are made by anybody.
pub const CONTENT_HASHES: [HashAlgorithm; 3] = [
    HashAlgorithm::Sha256,
    HashAlgorithm::Sha384,
    HashAlgorithm::Sha512,
];

impl HostForm {
    /// What an entry of the host's list stands for in this form; `None`: it is none of ours in this form.
    #[must_use]
    pub fn key_of_listed(self, listed: &Entry) -> Option<HostKey> {
        if listed.is_violation() {
            return None;
        }
        let fields = listed.fields().ok()?;
        let is_form = match self {
            Self::Buffer => listed.template == Template::ImaBuf && fields.payload.is_some(),
            // A path begins with `/`. A bare name may be anybody's, but for the rule: see the sink.
            Self::File => matches!(listed.template, Template::ImaNg | Template::ImaSig),
        };
        if !is_form || !fields.name.starts_with(b"cima-") {
            return None;
        }
        // What a digest is of, who has the payload need not ask; `Entry::check` says whether it is that.
        let stated = fields.digest?.to_digest()?;
        Some(match self {
            Self::Buffer => key_of_payload(fields.name, fields.payload?),
            Self::File => key_of_digest(fields.name, &stated),
        })
    }

    /// What an entry of ours may stand for in the host's list, in this form; made as it is asked for, the likeliest first.
    pub fn keys_of_own(self, own: &Entry) -> impl Iterator<Item = HostKey> + use<'_> {
        let fields = own.fields().ok();
        // By the payload, whatever the entry says that its digest is.
        let keys = fields.map(|of| self.keys_of(of.name, of.payload.unwrap_or_default()));
        keys.into_iter().flatten()
    }

    /// The same of the entry that has this name and payload.
    pub fn keys_of<'a>(
        self,
        name: &'a [u8],
        payload: &'a [u8],
    ) -> impl Iterator<Item = HostKey> + use<'a> {
        let as_it_is = (self == Self::Buffer).then(|| key_of_payload(name, payload));
        let of_file = (self == Self::File).then(|| {
            let name = file_name(&String::from_utf8_lossy(name)).into_bytes();
            let hashes = CONTENT_HASHES.into_iter();
            hashes.map(move |hash| key_of_digest(&name, &hash.digest(payload)))
        });
        as_it_is.into_iter().chain(of_file.into_iter().flatten())
    }
}

/// In front of the names that the kernel gives by itself.
const EXEC: &[u8] = b"cima-exec:";
const VIOLATION: &[u8] = b"cima-violation:";
/// Violations that the agent finds, and the kernel does not.
const OF_AGENT: [&[u8]; 2] = [b"loss", b"chain"];

/// Whether an entry is one that the kernel may have listed by itself: what was executed, and what was seen while it was.
#[must_use]
pub fn is_of_kernel(fields: &Fields<'_>) -> bool {
    let violation = fields.name.strip_prefix(VIOLATION);
    let kind = violation.and_then(|rest| rest.split(|byte| *byte == b':').next());
    let has_name = fields.name.starts_with(EXEC) || kind.is_some_and(|it| !OF_AGENT.contains(&it));
    // The kernel says it in ASCII.
    let is_text = |bytes: &[u8]| str::from_utf8(bytes).is_ok();
    has_name && is_text(fields.name) && fields.payload.is_some_and(is_text)
}

fn key_of_payload(name: &[u8], payload: &[u8]) -> HostKey {
    key(b"payload", name, payload)
}

fn key_of_digest(name: &[u8], digest: &Digest) -> HostKey {
    key(digest.algorithm().name().as_bytes(), name, digest.bytes())
}

fn key(what: &[u8], name: &[u8], content: &[u8]) -> HostKey {
    let mut hash = Sha256::new();
    hash.update(what);
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    hash.update(content);
    hash.finalize().into()
}

/// Where entries are anchored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchorage {
    /// In the kernel's list, by the module.
    Kernel,
    /// In the kernel's list, as files.
    ImaFile,
    /// In a PCR of the agent's own.
    Pcr,
    /// Nowhere.
    None,
}

impl Anchorage {
    /// As it is written in configurations and in the list.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::ImaFile => "ima-file",
            Self::Pcr => "pcr",
            Self::None => "none",
        }
    }

    /// How the host's list has the entries; `None`: it has not.
    #[must_use]
    pub fn host_form(self) -> Option<HostForm> {
        match self {
            Self::Kernel => Some(HostForm::Buffer),
            Self::ImaFile => Some(HostForm::File),
            Self::Pcr | Self::None => None,
        }
    }
}

/// It is no name of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("entries are anchored by kernel, ima-file, pcr or none")]
pub struct NoAnchorage;

impl FromStr for Anchorage {
    type Err = NoAnchorage;

    fn from_str(text: &str) -> Result<Self, NoAnchorage> {
        [Self::Kernel, Self::ImaFile, Self::Pcr, Self::None]
            .into_iter()
            .find(|one| one.name() == text)
            .ok_or(NoAnchorage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(name: &str, payload: &[u8]) -> Entry {
        Entry::ima_buf(10, HashAlgorithm::Sha256, name, payload).unwrap()
    }

    fn listed_file(name: &str, digest: Digest) -> Entry {
        Entry::ima_ng(10, digest, name).unwrap()
    }

    #[test]
    fn an_entry_is_found_in_the_form_of_its_sink_and_in_no_other() {
        let entry = own("cima-exec:unregistered:/bin/x", b"v1;a");
        let file = |payload: &[u8], hash: HashAlgorithm| {
            listed_file("cima-exec:unregistered:%2Fbin%2Fx", hash.digest(payload))
        };
        let is = |form: HostForm, listed: &Entry| {
            let key = form.key_of_listed(listed);
            key.is_some_and(|key| form.keys_of_own(&entry).any(|own| own == key))
        };
        assert!(is(HostForm::Buffer, &entry));
        assert!(!is(HostForm::File, &entry));
        for hash in CONTENT_HASHES {
            assert!(is(HostForm::File, &file(b"v1;a", hash)), "{hash}");
            assert!(!is(HostForm::Buffer, &file(b"v1;a", hash)), "{hash}");
            assert!(!is(HostForm::File, &file(b"v1;b", hash)), "{hash}");
        }
        assert!(!is(HostForm::File, &file(b"v1;a", HashAlgorithm::Sha1)));
        assert!(!is(
            HostForm::Buffer,
            &own("cima-exec:unregistered:/bin/y", b"v1;a")
        ));
        assert!(!is(
            HostForm::Buffer,
            &own("cima-exec:unregistered:/bin/x", b"v1;b")
        ));
        let path = listed_file("/tmp/cima-exec:x", HashAlgorithm::Sha256.digest(b"v1;a"));
        assert_eq!(HostForm::File.key_of_listed(&path), None);
        let mut violation = entry.clone();
        violation.template_hash = Digest::zeros(HashAlgorithm::Sha1);
        assert!(!is(HostForm::Buffer, &violation));
    }

    #[test]
    fn what_was_executed_may_be_the_kernels_and_what_the_agent_alone_knows_is_not() {
        let is = |name: &str| is_of_kernel(&own(name, b"v1;a").fields().unwrap());
        for name in [
            "cima-exec:unregistered:/x",
            "cima-violation:writer:unregistered:/x",
            "cima-violation:losses:",
        ] {
            assert!(is(name), "{name}");
        }
        for name in [
            "cima-violation:loss:agent:",
            "cima-violation:chain:agent:",
            "cima-image:x",
            "cima-sink:kernel",
            "cima-ctx:1",
        ] {
            assert!(!is(name), "{name}");
        }
        let file = listed_file("cima-exec:x", HashAlgorithm::Sha256.digest(b"v1;a"));
        assert!(!is_of_kernel(&file.fields().unwrap()));
    }

    #[test]
    fn a_name_is_an_anchorage_or_none() {
        for name in ["kernel", "ima-file", "pcr", "none"] {
            assert_eq!(name.parse::<Anchorage>().unwrap().name(), name);
        }
        assert_eq!("auto".parse::<Anchorage>(), Err(NoAnchorage));
    }
}
