// SPDX-License-Identifier: Apache-2.0
//! The one vocabulary of filters, whatever is asked.
//!
//! Owns what a filter means; knows of no index. Each key may be given several times: one of its values must match, and
//! so must every key. A value matches what begins with it; with `*`, `?` or `[` it is a glob over the whole, and with `=`
//! in front only itself.

use std::{fmt, str::FromStr};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::Kind;

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No glob.
    #[error("\"{text}\" is no pattern: {reason}")]
    Glob {
        /// As it was written.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing.
    #[error("an empty pattern matches everything: leave it out")]
    Empty,
    /// No digest.
    #[error(
        "\"{0}\" is no digest: hexadecimal digits, with their algorithm and a colon in front if you like, and the first ones are enough"
    )]
    Digest(String),
    /// No user.
    #[error(
        "\"{0}\" is no user: a number (of the process) or login:NUMBER (who logged in). Names differ from node to node"
    )]
    User(String),
}

/// What a text must look like.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    way: Way,
}

#[derive(Debug, Clone)]
enum Way {
    Prefix,
    Exact,
    /// A set of one: unlike a matcher it says no to what cannot be compiled.
    Glob(Box<GlobSet>),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl FromStr for Pattern {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text == "=" {
            return Err(FilterError::Empty);
        }
        if let Some(exact) = text.strip_prefix('=') {
            return Ok(Self {
                text: exact.to_owned(),
                way: Way::Exact,
            });
        }
        let way = if text.contains(['*', '?', '[']) {
            let set = || {
                let glob = GlobBuilder::new(text).backslash_escape(true).build()?;
                GlobSetBuilder::new().add(glob).build()
            };
            let set = set().map_err(|error: globset::Error| FilterError::Glob {
                text: text.to_owned(),
                reason: error.kind().to_string(),
            })?;
            Way::Glob(Box::new(set))
        } else {
            Way::Prefix
        };
        Ok(Self {
            text: text.to_owned(),
            way,
        })
    }
}

impl Pattern {
    /// Whether `bytes` look so.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt as _;
        match &self.way {
            Way::Prefix => bytes.starts_with(self.text.as_bytes()),
            Way::Exact => bytes == self.text.as_bytes(),
            Way::Glob(glob) => glob.is_match(std::ffi::OsStr::from_bytes(bytes)),
        }
    }

    /// The text that all that matches begins with.
    fn literal(&self) -> &str {
        match self.way {
            Way::Glob(_) => {
                let end = self.text.find(['*', '?', '[', '\\']);
                &self.text[..end.unwrap_or(self.text.len())]
            }
            Way::Prefix | Way::Exact => &self.text,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The first digits of a digest, of an algorithm or of any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestPattern {
    algorithm: Option<String>,
    digits: String,
}

impl FromStr for DigestPattern {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, digits) = match text.rsplit_once(':') {
            Some((algorithm, digits)) => (Some(algorithm.to_ascii_lowercase()), digits),
            None => (None, text),
        };
        let is_hex = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_known = |own: &String| ALGORITHMS.contains(&own.as_str());
        if !is_hex || !algorithm.as_ref().is_none_or(is_known) {
            return Err(FilterError::Digest(text.to_owned()));
        }
        Ok(Self {
            algorithm,
            digits: digits.to_ascii_lowercase(),
        })
    }
}

/// Algorithms that a digest may be of, where none is named.
const ALGORITHMS: [&str; 5] = ["sha1", "sha224", "sha256", "sha384", "sha512"];

impl DigestPattern {
    /// What the digests lie between that begin so, in the order of their texts.
    pub(super) fn ranges(&self) -> Vec<(String, String)> {
        let algorithms = match &self.algorithm {
            Some(algorithm) => vec![algorithm.as_str()],
            None => ALGORITHMS.to_vec(),
        };
        let range = |algorithm: &str| {
            let from = format!("{algorithm}:{}", self.digits);
            // Behind every digit.
            let to = format!("{from}g");
            (from, to)
        };
        algorithms.into_iter().map(range).collect()
    }

    /// Whether a digest, `<algorithm>:<hex>`, begins so.
    #[must_use]
    pub fn matches(&self, digest: &str) -> bool {
        let Some((algorithm, digits)) = digest.rsplit_once(':') else {
            return false;
        };
        let algorithm_fits = self.algorithm.as_deref().is_none_or(|own| own == algorithm);
        algorithm_fits && digits.starts_with(&self.digits)
    }
}

/// Somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Who the process is.
    Process(u32),
    /// Who logged in.
    Login(u32),
}

impl FromStr for User {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, of): (_, fn(u32) -> Self) = match text.strip_prefix("login:") {
            Some(digits) => (digits, Self::Login),
            None => (text, Self::Process),
        };
        let number = digits.parse();
        number
            .map(of)
            .map_err(|_| FilterError::User(text.to_owned()))
    }
}

/// What is asked for. What is left empty asks for everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Id or name of a container.
    pub containers: Vec<Pattern>,
    /// Digest or name of a container's image.
    pub images: Vec<Pattern>,
    /// Path of a file, as the container sees it.
    pub paths: Vec<Pattern>,
    /// Digest of a file.
    pub digests: Vec<DigestPattern>,
    /// Who did it.
    pub users: Vec<User>,
    /// Process, in the initial pid namespace.
    pub pids: Vec<u32>,
    /// What happened.
    pub kinds: Vec<Kind>,
    /// Not before, ns since 1970.
    pub since: Option<i64>,
    /// Before, ns since 1970.
    pub until: Option<i64>,
    /// On which node.
    pub nodes: Vec<Pattern>,
    /// Only what should not have been.
    pub violations: bool,
}

/// Whether one of `patterns` fits one of `texts`, or there is none.
pub(super) fn any(patterns: &[Pattern], texts: &[&[u8]]) -> bool {
    let fits = |pattern: &Pattern| texts.iter().any(|text| pattern.matches(text));
    patterns.is_empty() || patterns.iter().any(fits)
}

impl Filter {
    /// Whether a container is asked for: its id, its name.
    #[must_use]
    pub fn container(&self, id: &str, name: &str) -> bool {
        any(&self.containers, &[id.as_bytes(), name.as_bytes()])
    }

    /// Whether its image is: the digest, with and without its algorithm, and the names it goes by.
    #[must_use]
    pub fn image(&self, digest: &str, names: &[&str]) -> bool {
        let bare = digest.strip_prefix("sha256:").unwrap_or(digest);
        let names = names.iter().map(|name| name.as_bytes());
        let texts: Vec<_> = [digest.as_bytes(), bare.as_bytes()]
            .into_iter()
            .filter(|text| !text.is_empty())
            .chain(names)
            .collect();
        any(&self.images, &texts)
    }

    /// Whether a file is: its path, and its digest if there is one.
    #[must_use]
    pub fn file(&self, path: &[u8], digest: Option<&str>) -> bool {
        any(&self.paths, &[path])
            && (self.digests.is_empty() || digest.is_some_and(|digest| self.digest(digest)))
    }

    /// Whether a digest is.
    #[must_use]
    pub fn digest(&self, digest: &str) -> bool {
        let fits = |pattern: &DigestPattern| pattern.matches(digest);
        self.digests.is_empty() || self.digests.iter().any(fits)
    }

    /// Whether a user is.
    #[must_use]
    pub fn user(&self, uid: Option<u32>, login_uid: Option<u32>) -> bool {
        let fits = |user: &User| match user {
            User::Process(wanted) => uid == Some(*wanted),
            User::Login(wanted) => login_uid == Some(*wanted),
        };
        self.users.is_empty() || self.users.iter().any(fits)
    }

    /// Whether a node is.
    #[must_use]
    pub fn node(&self, name: &str) -> bool {
        any(&self.nodes, &[name.as_bytes()])
    }

    /// Whether a time is. What has none is asked for only if no time is.
    #[must_use]
    pub fn time(&self, ns: Option<i64>) -> bool {
        let Some(ns) = ns else {
            return self.since.is_none() && self.until.is_none();
        };
        self.since.is_none_or(|since| ns >= since) && self.until.is_none_or(|until| ns < until)
    }

    /// Whether anything but containers, images and nodes is.
    #[must_use]
    pub fn is_of_files(&self) -> bool {
        !self.paths.is_empty() || !self.digests.is_empty()
    }

    /// Texts that the paths begin with, one for each; `None`: some may begin with anything.
    #[must_use]
    pub fn path_prefixes(&self) -> Option<Vec<&str>> {
        let literals: Vec<_> = self.paths.iter().map(Pattern::literal).collect();
        (!literals.is_empty() && literals.iter().all(|text| !text.is_empty())).then_some(literals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_is_a_beginning_a_glob_or_a_whole() {
        for (text, matching, other) in [
            ("/usr/bin", &["/usr/bin", "/usr/bin/sh"][..], &["/bin"][..]),
            ("=/bin/sh", &["/bin/sh"], &["/bin/sha256sum"]),
            ("/tmp/*", &["/tmp/a", "/tmp/a/b"], &["/var/tmp/a", "/tmp"]),
            ("*/sh", &["/bin/sh", "/usr/bin/sh"], &["/bin/bash"]),
            ("/opt/v[12]?", &["/opt/v1a"], &["/opt/v3a", "/opt/v1"]),
            (r"/a\*b*", &["/a*bc"], &["/axbc"]),
        ] {
            for path in matching {
                assert!(pattern(text).matches(path.as_bytes()), "{text} {path}");
            }
            for path in other {
                assert!(!pattern(text).matches(path.as_bytes()), "{text} {path}");
            }
        }
        // Bytes that are no text.
        assert!(pattern("/tmp/*").matches(b"/tmp/\xff\xfe"));
        assert_eq!("".parse::<Pattern>(), Err(FilterError::Empty));
        let deep = format!("*{}{}", "{".repeat(400), "}".repeat(400));
        assert!(deep.parse::<Pattern>().is_err());
        assert!(matches!(
            "[".parse::<Pattern>(),
            Err(FilterError::Glob { .. })
        ));
    }

    #[test]
    fn digests_match_by_their_first_digits() {
        let pattern = |text: &str| text.parse::<DigestPattern>();
        assert!(pattern("AB").unwrap().matches("sha256:abcd"));
        assert!(pattern("sha256:ab").unwrap().matches("sha256:abcd"));
        assert!(!pattern("sha512:ab").unwrap().matches("sha256:abcd"));
        assert!(pattern("SHA256:AB").unwrap().matches("sha256:abcd"));
        assert!(pattern("sha265:ab").is_err());
        assert!(!pattern("cd").unwrap().matches("sha256:abcd"));
        for text in ["", "sha256:", "xyz", "' OR 1=1 --"] {
            assert!(pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!("0".parse(), Ok(User::Process(0)));
        assert_eq!("login:1000".parse(), Ok(User::Login(1000)));
        for text in ["", "root", "-1", "login:", "4294967296"] {
            assert_eq!(text.parse::<User>(), Err(FilterError::User(text.into())));
        }
    }

    #[test]
    fn an_image_is_found_by_its_digest_with_and_without_algorithm_and_by_its_names() {
        let digest = "sha256:8c2f";
        let names = ["registry.example/web:1.4"];
        for (text, fits) in [
            ("sha256:8c", true),
            ("8c2", true),
            ("registry.example/web", true),
            ("*web:1.*", true),
            ("web", false),
        ] {
            let filter = Filter {
                images: vec![pattern(text)],
                ..Filter::default()
            };
            assert_eq!(filter.image(digest, &names), fits, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String, bytes: Vec<u8>) {
            if let Ok(pattern) = text.parse::<Pattern>() {
                let _ = pattern.matches(&bytes);
                prop_assert!(text.contains(pattern.literal()));
            }
            let _ = text.parse::<DigestPattern>();
            let _ = text.parse::<User>();
        }
    }
}
