// SPDX-License-Identifier: Apache-2.0
//! The table of what engines and runtimes make in a container's upper directory: `stubs.toml`, or a caller's own.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Deserialize;

use crate::path::components;
use crate::tree::key_of;

/// As it is shipped.
const SHIPPED: &str = include_str!("stubs.toml");

/// Who makes containers: an engine, or the runtime that it calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// podman, buildah
    Podman,
    /// Runtime
    Crun,
    /// Runtime
    Runc,
    /// dockerd
    Docker,
    /// containerd
    Containerd,
    /// CRI-O
    CriO,
}

/// Why a table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StubsError {
    /// It is no such table.
    #[error("the table of stubs cannot be read: {0}")]
    Toml(String),
    /// A row means nothing, or too much.
    #[error("the table of stubs is refused at \"{}\": {reason}", path.escape_default())]
    Row {
        /// Its path, or the name of the section.
        path: String,
        /// Why.
        reason: &'static str,
    },
}

/// A table that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stubs {
    mount_point: Look,
    parent: Look,
    stubs: Vec<Stub>,
}

/// Mode and owner: any of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) modes: Vec<u32>,
    pub(super) owners: Vec<(u32, u32)>,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stub {
    engines: Vec<Engine>,
    key: Vec<u8>,
    kind: StubType,
    look: Look,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StubType {
    /// Empty.
    File,
    /// Empty.
    Directory,
    /// To this target.
    Symlink(Vec<u8>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    mount_point: RawLook,
    parent: RawLook,
    #[serde(default)]
    stub: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLook {
    modes: Vec<String>,
    owners: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    engines: Vec<Engine>,
    path: String,
    r#type: RawType,
    #[serde(default)]
    modes: Vec<String>,
    owners: Vec<String>,
    #[serde(default)]
    empty: bool,
    target: Option<String>,
    why: String,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum RawType {
    File,
    Directory,
    Symlink,
}

impl Stubs {
    /// The table that comes with this crate.
    ///
    /// # Errors
    /// None, as a test of the crate shows; the type is that of reading any table.
    pub fn shipped() -> Result<Self, StubsError> {
        SHIPPED.parse()
    }

    /// The rows of these engines by key; without engines those of all.
    pub(super) fn rows(&self, engines: &[Engine]) -> BTreeMap<Vec<u8>, Vec<&Stub>> {
        let mut rows: BTreeMap<Vec<u8>, Vec<&Stub>> = BTreeMap::new();
        for stub in &self.stubs {
            let is_asked =
                engines.is_empty() || engines.iter().any(|one| stub.engines.contains(one));
            if is_asked {
                rows.entry(stub.key.clone()).or_default().push(stub);
            }
        }
        rows
    }

    pub(super) fn mount_point(&self) -> &Look {
        &self.mount_point
    }

    pub(super) fn parent(&self) -> &Look {
        &self.parent
    }
}

impl Stub {
    pub(super) fn kind(&self) -> &StubType {
        &self.kind
    }

    pub(super) fn look(&self) -> &Look {
        &self.look
    }
}

impl StubType {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink(_) => "symbolic link",
        }
    }
}

impl FromStr for Stubs {
    type Err = StubsError;

    fn from_str(text: &str) -> Result<Self, StubsError> {
        let table: Table = toml::from_str(text)
            .map_err(|error| StubsError::Toml(error.to_string().escape_default().to_string()))?;
        Ok(Self {
            mount_point: table.mount_point.look("mount-point", false)?,
            parent: table.parent.look("parent", false)?,
            stubs: table
                .stub
                .into_iter()
                .map(Row::stub)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl RawLook {
    fn look(self, of: &str, is_link: bool) -> Result<Look, StubsError> {
        let wrong = |reason| StubsError::Row {
            path: of.to_owned(),
            reason,
        };
        let modes: Option<Vec<u32>> = self.modes.iter().map(|mode| permissions(mode)).collect();
        let modes = modes.ok_or_else(|| wrong("a mode is four octal digits, at most 1777"))?;
        let owners: Option<Vec<(u32, u32)>> = self.owners.iter().map(|pair| owner(pair)).collect();
        let owners = owners.ok_or_else(|| wrong("an owner is \"user:group\", in numbers"))?;
        if owners.is_empty() {
            return Err(wrong("it has no owner that would do"));
        }
        if modes.is_empty() != is_link {
            return Err(wrong("files and directories have modes, links have none"));
        }
        Ok(Look { modes, owners })
    }
}

impl Row {
    fn stub(self) -> Result<Stub, StubsError> {
        let path = self.path.clone();
        let wrong = |reason| StubsError::Row {
            path: path.clone(),
            reason,
        };
        let names = components(self.path.as_bytes());
        let names = names.map_err(|_| wrong("that is no path"))?;
        if names.is_empty() || !self.path.starts_with('/') {
            return Err(wrong(
                "a path begins with a slash, and something is behind it",
            ));
        }
        if self.engines.is_empty() {
            return Err(wrong("nobody makes it"));
        }
        if self.why.trim().is_empty() {
            return Err(wrong("it does not say why it is there"));
        }
        let kind = match (self.r#type, self.target) {
            (RawType::Symlink, Some(target)) if !target.is_empty() && !self.empty => {
                StubType::Symlink(target.into_bytes())
            }
            (RawType::Symlink, _) => return Err(wrong("a link has a target, and is not empty")),
            (_, Some(_)) => return Err(wrong("only a link has a target")),
            (_, None) if !self.empty => {
                return Err(wrong(
                    "what may have content is no stub; empty must be true",
                ));
            }
            (RawType::File, None) => StubType::File,
            (RawType::Directory, None) => StubType::Directory,
        };
        let look = RawLook {
            modes: self.modes,
            owners: self.owners,
        };
        Ok(Stub {
            engines: self.engines,
            key: key_of(&names),
            look: look.look(&self.path, matches!(kind, StubType::Symlink(_)))?,
            kind,
        })
    }
}

/// Without the bits that make a program run as somebody else.
fn permissions(text: &str) -> Option<u32> {
    let digits = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits)?;
    // The sticky bit makes nobody anybody.
    (mode & !0o1777 == 0).then_some(mode)
}

fn owner(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_table_is_in_order() {
        let stubs = Stubs::shipped().unwrap();
        let of = |engine| stubs.rows(&[engine]).len();
        for engine in [
            Engine::Podman,
            Engine::Crun,
            Engine::Runc,
            Engine::Docker,
            Engine::Containerd,
            Engine::CriO,
        ] {
            assert!(of(engine) > 0, "{engine:?}");
        }
        assert!(stubs.rows(&[]).len() >= of(Engine::Docker));
        assert!(
            stubs
                .rows(&[Engine::Docker])
                .contains_key(&b".dockerenv"[..])
        );
        assert!(
            !stubs
                .rows(&[Engine::Podman])
                .contains_key(&b".dockerenv"[..])
        );
    }

    #[test]
    fn a_row_that_would_let_content_through_is_refused() {
        let head = "[mount-point]\nmodes=[\"0755\"]\nowners=[\"0:0\"]\n[parent]\nmodes=[\"0755\"]\nowners=[\"0:0\"]\n";
        let row = |row: &str| {
            let text = format!("{head}[[stub]]\nwhy=\"w\"\nowners=[\"0:0\"]\n{row}");
            text.parse::<Stubs>()
        };
        let good = "engines=[\"docker\"]\npath=\"/a\"\ntype=\"file\"\nmodes=[\"0755\"]\nempty=true";
        assert!(row(good).is_ok());
        for (from, to) in [
            ("empty=true", "empty=false"),
            ("\"0755\"", "\"4755\""),
            ("\"0755\"", "\"3755\""),
            ("\"0755\"", "\"0855\""),
            ("\"0755\"", ""),
            ("\"/a\"", "\"a\""),
            ("\"/a\"", "\"/../a\""),
            ("\"/a\"", "\"/\""),
            ("\"docker\"", ""),
            ("\"docker\"", "\"dockerd\""),
            ("type=\"file\"", "type=\"fifo\""),
            ("empty=true", "empty=true\ntarget=\"/x\""),
            ("type=\"file\"", "type=\"symlink\""),
            ("empty=true", "empty=true\nsize=1"),
        ] {
            let text = good.replacen(from, to, 1);
            assert!(row(&text).is_err(), "{text}");
        }
    }
}
