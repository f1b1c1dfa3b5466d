// SPDX-License-Identifier: Apache-2.0
//! Which image of a store a name means. Pure.
//!
//! As podman understands names, but for one thing: where podman takes the first of several registries that fits
//! a short name, here more than one image is an error, since which one it is would depend on the host's configuration.

use super::StorageError;
use super::documents::{DIGITS, ImageRecord, is_id_prefix};

const DOCKER: &str = "docker.io";

/// A name taken apart: `repository[:tag][@digest]`.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    /// Registry and path, if the name has a registry.
    repository: &'a str,
    tag: Option<&'a str>,
    digest: Option<&'a str>,
}

/// Index of the image that `text` names: by id, by the beginning of an id, or by name.
pub(super) fn find(text: &str, images: &[ImageRecord]) -> Result<Option<usize>, StorageError> {
    let id = text.strip_prefix("sha256:").unwrap_or(text);
    let by = |matches: &dyn Fn(&ImageRecord) -> bool| {
        let all = images.iter().enumerate();
        all.filter(|(_, image)| matches(image))
            .map(|(at, _)| at)
            .collect::<Vec<_>>()
    };
    let named = by(&|image| known_names(image).any(|name| name == text));
    let found = match parse(text) {
        _ if is_id_prefix(id) && id.len() == DIGITS => by(&|image| image.id.0 == id),
        _ if !named.is_empty() => named,
        Some(name) => {
            let mut found = by(&|image| is_named(&name, image));
            if found.is_empty() && is_id_prefix(text) {
                found = by(&|image| image.id.0.starts_with(text));
            }
            found
        }
        None => {
            return Err(StorageError::Name {
                text: text.to_owned(),
                reason: "a name is [REGISTRY/]PATH[:TAG][@sha256:DIGITS], or an id",
            });
        }
    };
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(ambiguous(
            text,
            found.iter().filter_map(|at| images.get(*at)),
        )),
    }
}

fn ambiguous<'a>(text: &str, found: impl Iterator<Item = &'a ImageRecord>) -> StorageError {
    let shown = |image: &ImageRecord| {
        let names: Vec<_> = known_names(image).collect();
        format!("{} ({})", image.id, names.join(" "))
    };
    StorageError::Ambiguous {
        name: text.to_owned(),
        candidates: found.map(shown).collect(),
    }
}

fn known_names(image: &ImageRecord) -> impl Iterator<Item = &str> {
    let names = image.names.as_deref().unwrap_or_default();
    names.iter().map(String::as_str)
}

fn is_named(name: &Name<'_>, image: &ImageRecord) -> bool {
    if let Some(digest) = name.digest
        && !has_digest(image, digest)
    {
        return false;
    }
    known_names(image).any(|known| {
        parse(known).is_some_and(|known| {
            let same_tag = name.digest.is_some() && name.tag.is_none()
                || known.tag.unwrap_or("latest") == name.tag.unwrap_or("latest");
            same_tag && same_repository(name.repository, known.repository)
        })
    })
}

/// The manifest's digest, or that of another that the image was known by (that of its index).
fn has_digest(image: &ImageRecord, digest: &str) -> bool {
    let documents = image.digests.iter().flatten();
    let mut manifests = documents
        .filter(|(name, _)| name.starts_with("manifest"))
        .map(|(_, digest)| digest);
    image.digest.as_deref() == Some(digest)
        || manifests.any(|known| known == digest)
        || known_names(image)
            .any(|known| parse(known).is_some_and(|known| known.digest == Some(digest)))
}

/// Whether a known name, which has a registry, can be meant by what was asked for.
fn same_repository(asked: &str, known: &str) -> bool {
    if asked == known {
        return true;
    }
    if let Some(path) = asked.strip_prefix("docker.io/")
        && !path.contains('/')
    {
        return known == format!("{DOCKER}/library/{path}");
    }
    // A short name: of this host, of docker.io, or of whatever registry there is.
    !has_registry(asked) && known.ends_with(&format!("/{asked}"))
}

/// What is before the first slash is a registry if it could be a host's name.
fn has_registry(repository: &str) -> bool {
    repository
        .split_once('/')
        .is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost")
}

fn parse(text: &str) -> Option<Name<'_>> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash is that of a port.
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (rest, None),
    };
    let digest_is_one = digest.is_none_or(|digest| {
        digest
            .strip_prefix("sha256:")
            .is_some_and(|digits| digits.len() == DIGITS && is_id_prefix(digits))
    });
    let part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
    let well_formed = !repository.is_empty()
        && repository.bytes().all(part)
        && tag.is_none_or(|tag| !tag.is_empty() && tag.bytes().all(part));
    (digest_is_one && well_formed).then_some(Name {
        repository,
        tag,
        digest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digit: char, digest: &str, names: &[&str]) -> ImageRecord {
        let id = digit.to_string().repeat(64);
        let record = serde_json::json!({"id": id, "digest": digest, "names": names});
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn a_name_finds_what_podman_would_find_or_nothing() {
        let digest = format!("sha256:{}", "d".repeat(64));
        let images = [
            image('a', &digest, &["docker.io/library/alpine:latest"]),
            image('b', "", &["localhost/mine:1", "localhost:5000/team/mine:2"]),
            image('c', "", &["quay.io/team/tool:latest"]),
        ];
        let by_digest = format!("alpine@{digest}");
        let both = format!("docker.io/library/alpine:latest@{digest}");
        let other = format!("mine@{digest}");
        let full = "c".repeat(64);
        for (name, at) in [
            ("alpine", Some(0)),
            ("alpine:latest", Some(0)),
            ("docker.io/alpine", Some(0)),
            ("library/alpine", Some(0)),
            ("alpine:3", None),
            ("pine", None),
            (&by_digest, Some(0)),
            (&both, Some(0)),
            (&other, None),
            ("mine:1", Some(1)),
            ("localhost/mine:1", Some(1)),
            ("localhost:5000/team/mine:2", Some(1)),
            ("mine", None),
            ("quay.io/team/tool", Some(2)),
            ("quay.io/tool", None),
            ("team/tool", Some(2)),
            ("cccc", Some(2)),
            (&full, Some(2)),
        ] {
            assert_eq!(find(name, &images).unwrap(), at, "{name}");
        }
    }

    #[test]
    fn what_could_be_two_images_is_refused_with_both() {
        let images = [
            image('a', "", &["docker.io/library/tool:latest"]),
            image('b', "", &["quay.io/team/tool:latest"]),
        ];
        let error = find("tool", &images).unwrap_err().to_string();
        assert!(error.contains("docker.io/library/tool"), "{error}");
        assert!(error.contains(&"b".repeat(64)), "{error}");
    }

    #[test]
    fn what_is_no_name_is_said_to_be_none() {
        for text in ["a b", "", ":tag", "a@sha256:12", "a:\u{1b}"] {
            assert!(matches!(find(text, &[]), Err(StorageError::Name { .. })));
        }
    }
}
