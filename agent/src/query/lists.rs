// SPDX-License-Identifier: Apache-2.0
//! Where lists are: of this node, copied from another, or of many nodes at once.
//!
//! Owns the shapes that a path may have, and what a node is called. Opens nothing but directories.

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use ima_log::EscapedName;
use rustix::system::uname;

use crate::ledger::segments;

/// Why there are no lists.
#[derive(Debug, thiserror::Error)]
pub enum ListsError {
    /// A directory cannot be read.
    #[error("cannot look for lists in {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing that is a list.
    #[error(
        "{} has no lists: it is no list's file, no boot's directory (with 00000001.ima), no state directory (with ledger/), and no \
         directory of nodes that are one of these",
        .0.display()
    )]
    None(PathBuf),
    /// Two lists by one name.
    #[error("the node {node} is both {} and {}: name them apart, NAME=PATH", .first.display(), .second.display())]
    Name {
        /// The name.
        node: String,
        /// One.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
}

/// What `--from` names: `PATH`, or `NAME=PATH` for a node that its path does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// What the node is called.
    name: Option<String>,
    path: PathBuf,
}

impl std::str::FromStr for From {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !name.contains('/') => Self {
                name: Some(name.to_owned()),
                path: path.into(),
            },
            _ => Self {
                name: None,
                path: text.into(),
            },
        })
    }
}

impl From {
    /// A path without a name.
    #[must_use]
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self {
            name: None,
            path: path.into(),
        }
    }
}

/// One list: of a boot of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct List {
    /// Whose.
    pub node: String,
    /// A boot's directory, or a file.
    pub path: PathBuf,
    /// Whether it is a directory of segments.
    pub segmented: bool,
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

/// Every list that `places` name, in order of nodes.
///
/// # Errors
/// See [`ListsError`].
pub fn find(places: &[From]) -> Result<Vec<List>, ListsError> {
    let mut lists = Vec::new();
    let mut named: HashMap<String, &Path> = HashMap::new();
    for place in places {
        let found = at(place)?;
        if found.is_empty() {
            return Err(ListsError::None(place.path.clone()));
        }
        for list in &found {
            let first = *named.entry(list.node.clone()).or_insert(&place.path);
            // Boots of one node may be given one by one.
            if first != place.path && first.parent() != place.path.parent() {
                return Err(ListsError::Name {
                    node: list.node.clone(),
                    first: first.to_owned(),
                    second: place.path.clone(),
                });
            }
        }
        lists.extend(found);
    }
    lists.sort();
    lists.dedup();
    Ok(lists)
}

fn at(place: &From) -> Result<Vec<List>, ListsError> {
    let path = &place.path;
    let name = || place.name.clone().unwrap_or_else(|| name_of(path));
    if let Some(lists) = of_node(path, &name)? {
        return Ok(lists);
    }
    let mut lists = Vec::new();
    for (own, below) in directory(path)? {
        let node = match &place.name {
            Some(prefix) => format!("{prefix}/{own}"),
            None => own,
        };
        lists.extend(of_node(&below, &|| node.clone())?.unwrap_or_default());
    }
    Ok(lists)
}

/// The lists of one node; `None`: the path is none.
fn of_node(path: &Path, name: &dyn Fn() -> String) -> Result<Option<Vec<List>>, ListsError> {
    let failed = |source| ListsError::Io {
        path: path.to_owned(),
        source,
    };
    let list = |path: PathBuf, segmented| List {
        // Of a directory, which anybody may have named: it is shown, and asked for, so.
        node: EscapedName(name().as_bytes()).to_string(),
        path,
        segmented,
    };
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(Some(vec![list(path.to_owned(), false)]));
    }
    if !segments(path).map_err(failed)?.is_empty() {
        return Ok(Some(vec![list(path.to_owned(), true)]));
    }
    let ledger = path.join("ledger");
    let boots = if ledger.is_dir() { &ledger } else { path };
    let mut lists = Vec::new();
    for (_, boot) in directory(boots)? {
        if boot.is_dir() && !segments(&boot).map_err(failed)?.is_empty() {
            lists.push(list(boot, true));
        }
    }
    // A directory of boots by itself is a node's, too, if they are boots': else its parts are nodes.
    let is_node = ledger.is_dir() || (!lists.is_empty() && lists.iter().all(is_boot));
    Ok(is_node.then_some(lists))
}

/// Whether a directory is called like a boot.
fn is_boot(list: &List) -> bool {
    let name = list.path.file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    name.len() == 36 && name.bytes().filter(|byte| *byte == b'-').count() == 4
}

/// What is in a directory, by name.
fn directory(path: &Path) -> Result<Vec<(String, PathBuf)>, ListsError> {
    let read = || -> io::Result<Vec<_>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            found.push((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ));
        }
        found.sort();
        Ok(found)
    };
    read().map_err(|source| ListsError::Io {
        path: path.to_owned(),
        source,
    })
}

/// What a path without a name is called: this host's own state by the host's name, a boot by what it lies in, anything else by itself.
fn name_of(path: &Path) -> String {
    if path == Path::new(crate::config::STATE_DIR) {
        return uname().nodename().to_string_lossy().into_owned();
    }
    let names: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    match &names[..] {
        [.., node, ledger, boot] if ledger == "ledger" && boot.len() == 36 => node.clone(),
        [.., last] => last.clone(),
        [] => "node".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "8c2d2a94-3f0e-4a0b-9d6e-0a3f5ad0c1d2";

    fn made(paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        dir
    }

    fn nodes(place: &From) -> Vec<(String, usize)> {
        let mut nodes: Vec<(String, usize)> = Vec::new();
        for list in find(std::slice::from_ref(place)).unwrap() {
            match nodes.last_mut() {
                Some((node, lists)) if *node == list.node => *lists += 1,
                _ => nodes.push((list.node, 1)),
            }
        }
        nodes
    }

    #[test]
    fn a_list_may_be_given_in_any_of_its_shapes() {
        let segment = format!("web/ledger/{BOOT}/00000001.ima");
        let other = format!("web/ledger/{}/00000001.ima", BOOT.replace('8', "9"));
        let bare = format!("db/{BOOT}/00000001.ima");
        let dir = made(&[&segment, &other, &bare, "mail/00000001.ima", "copy.ima"]);
        let at = |path: &str| From::path(dir.path().join(path));
        let web = || vec![("web".to_owned(), 2)];
        assert_eq!(nodes(&at("web")), web());
        assert_eq!(
            nodes(&at(&format!("web/ledger/{BOOT}"))),
            [("web".to_owned(), 1)]
        );
        assert_eq!(nodes(&at("db")), [("db".to_owned(), 1)]);
        assert_eq!(nodes(&at("mail")), [("mail".to_owned(), 1)]);
        assert_eq!(nodes(&at("copy.ima")), [("copy.ima".to_owned(), 1)]);
        let all = [("copy.ima", 1), ("db", 1), ("mail", 1), ("web", 2)];
        let all = all.map(|(node, lists)| (node.to_owned(), lists));
        assert_eq!(nodes(&at(".")), all);
        let named = format!("n1={}", dir.path().join("web").display());
        assert_eq!(nodes(&named.parse().unwrap()), [("n1".to_owned(), 2)]);
    }

    #[test]
    fn a_directory_without_lists_is_an_error_that_says_what_was_looked_for() {
        let dir = made(&["x/readme/nothing"]);
        let error = find(&[From::path(dir.path().join("x"))]).unwrap_err();
        assert!(matches!(error, ListsError::None(_)), "{error}");
        let error = find(&[From::path("/nonexistent")]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
