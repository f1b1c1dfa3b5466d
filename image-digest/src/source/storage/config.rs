// SPDX-License-Identifier: Apache-2.0
//! Where this user's store is (containers-storage.conf(5)), or where a name says that it is:
//! `[DRIVER@GRAPHROOT+RUNROOT]IMAGE` as skopeo has it (containers-transports(5)).

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use serde::Deserialize;

use super::super::directory::OverlayAttributes;

/// Why it is not known where a store is.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The configuration.
    #[error("{} cannot be read: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not that of stores.
    #[error("{} is no configuration of a store: {source}", path.display())]
    Toml {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A name that begins with a bracket and has no end of it.
    #[error("\"{}\" has no \"]\" behind the place of its store", .0.escape_default())]
    Bracket(String),
    /// No home.
    #[error("without HOME and XDG_DATA_HOME it is not known where this user's store is")]
    NoHome,
}

/// A store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) driver: String,
    pub(crate) attributes: OverlayAttributes,
    /// Not one that is shared for its images.
    pub(crate) is_own: bool,
}

#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    storage: Storage,
}

#[derive(Debug, Default, Deserialize)]
struct Storage {
    #[serde(default)]
    driver: String,
    graphroot: Option<PathBuf>,
    rootless_storage_path: Option<String>,
    #[serde(default)]
    options: StorageOptions,
}

#[derive(Debug, Default, Deserialize)]
struct StorageOptions {
    #[serde(default)]
    additionalimagestores: Vec<PathBuf>,
}

/// The stores to look in, the user's own first, and the name without its place.
pub(crate) fn places(name: &str) -> Result<(Vec<Place>, &str), ConfigFileError> {
    if let Some(rest) = name.strip_prefix('[') {
        let bracket = || ConfigFileError::Bracket(name.to_owned());
        let (place, name) = rest.split_once(']').ok_or_else(bracket)?;
        return Ok((vec![named(place)], name));
    }
    let config = config()?;
    let root = match config.graphroot {
        Some(root) if !is_rootless() => root,
        _ => rootless_root(config.rootless_storage_path)?,
    };
    let own = place(root, &config.driver, true);
    let shared = config.options.additionalimagestores.into_iter();
    let shared = shared.map(|root| place(root, &own.driver, false));
    Ok((std::iter::once(own.clone()).chain(shared).collect(), name))
}

/// `[DRIVER@]GRAPHROOT[+RUNROOT][:OPTIONS]`.
fn named(place: &str) -> Place {
    let (driver, rest) = place.split_once('@').unwrap_or(("", place));
    let root = rest.split(['+', ':']).next().unwrap_or(rest);
    self::place(root.into(), driver, true)
}

fn place(root: PathBuf, driver: &str, is_own: bool) -> Place {
    let driver = match driver {
        // As the engine does: what is there already is gone on with.
        "" => ["overlay", "vfs", "btrfs", "zfs"]
            .into_iter()
            .find(|driver| root.join(format!("{driver}-images")).is_dir())
            .unwrap_or("overlay"),
        "overlay2" => "overlay",
        driver => driver,
    };
    Place {
        driver: driver.to_owned(),
        attributes: super::attributes(is_rootless()),
        root,
        is_own,
    }
}

/// A user's own engine runs as root of a user namespace, and says so to what it starts in there.
fn is_rootless() -> bool {
    !geteuid().is_root() || env::var_os("_CONTAINERS_ROOTLESS_UID").is_some()
}

fn config() -> Result<Storage, ConfigFileError> {
    let user = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let user = user.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".config")));
    let candidates = [
        env::var_os("CONTAINERS_STORAGE_CONF").map(PathBuf::from),
        user.filter(|_| is_rootless())
            .map(|folder| folder.join("containers/storage.conf")),
        Some("/etc/containers/storage.conf".into()),
        Some("/usr/share/containers/storage.conf".into()),
    ];
    for path in candidates.into_iter().flatten() {
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ConfigFileError::File { path, source }),
        }
    }
    parse(Path::new("no file"), "")
}

fn parse(path: &Path, text: &str) -> Result<Storage, ConfigFileError> {
    let file: File = toml::from_str(text).map_err(|source| ConfigFileError::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let mut storage = file.storage;
    storage
        .graphroot
        .get_or_insert_with(|| "/var/lib/containers/storage".into());
    Ok(storage)
}

fn rootless_root(configured: Option<String>) -> Result<PathBuf, ConfigFileError> {
    if let Some(path) = configured {
        let home = env::var("HOME").unwrap_or_default();
        let user = env::var("USER").unwrap_or_default();
        let id =
            env::var("_CONTAINERS_ROOTLESS_UID").unwrap_or_else(|_| geteuid().as_raw().to_string());
        let path = path
            .replace("$HOME", &home)
            .replace("$USER", &user)
            .replace("$UID", &id);
        return Ok(path.into());
    }
    let data = env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".local/share"));
    let data = data.or_else(home).ok_or(ConfigFileError::NoHome)?;
    Ok(data.join("containers/storage"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_say_where_its_store_is() {
        for (text, driver, root, name) in [
            (
                "[vfs@/a/b+/run/x]localhost/i:1",
                "vfs",
                "/a/b",
                "localhost/i:1",
            ),
            ("[overlay2@/a]i", "overlay", "/a", "i"),
            ("[/a+/b:overlay.x=y]i", "overlay", "/a", "i"),
        ] {
            let (places, rest) = places(text).expect("a place");
            assert_eq!(
                (places[0].driver.as_str(), places[0].root.as_path()),
                (driver, Path::new(root))
            );
            assert_eq!(rest, name);
        }
        let error = places("[vfs@/a").expect_err("no end").to_string();
        assert!(error.contains("no \"]\""), "{error}");
    }

    #[test]
    fn a_configuration_says_where_the_store_is() {
        let text = "[storage]\ndriver = \"overlay\"\ngraphroot = \"/g\"\nrunroot = \"/r\"\n\
                    [storage.options]\nadditionalimagestores = [\"/shared\"]\n[storage.options.overlay]\nmountopt = \"nodev\"\n";
        let storage = parse(Path::new("storage.conf"), text).expect("a configuration");
        assert_eq!(storage.graphroot, Some("/g".into()));
        assert_eq!(
            storage.options.additionalimagestores,
            [PathBuf::from("/shared")]
        );
        let empty = parse(Path::new("storage.conf"), "").expect("nothing is a configuration");
        assert_eq!(empty.graphroot, Some("/var/lib/containers/storage".into()));
        let error = parse(Path::new("storage.conf"), "[storage")
            .expect_err("torn")
            .to_string();
        assert!(
            error.starts_with("storage.conf is no configuration"),
            "{error}"
        );
    }
}
