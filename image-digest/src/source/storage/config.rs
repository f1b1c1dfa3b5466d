// SPDX-License-Identifier: Apache-2.0
//! Where this process's store is: `storage.conf` (containers-storage.conf(5)), or what stands in brackets before
//! the image's name, as skopeo has it (containers-transports(5)).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::documents::bounded;
use super::{Driver, Root, StorageError, Store};

const SYSTEM: [&str; 2] = [
    "/etc/containers/storage.conf",
    "/usr/share/containers/storage.conf",
];

/// What the configuration depends on.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// A user's store, not the system's.
    pub(super) rootless: bool,
    pub(super) uid: u32,
    pub(super) home: Option<PathBuf>,
    pub(super) data_home: Option<PathBuf>,
    pub(super) config_home: Option<PathBuf>,
    /// `CONTAINERS_STORAGE_CONF`
    pub(super) file: Option<PathBuf>,
    /// `STORAGE_DRIVER`
    pub(super) driver: Option<String>,
    /// Looked for in this order; the first that is there is read.
    pub(super) system: Vec<PathBuf>,
}

/// `[driver@graphroot+runroot:options]`, what of it is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    driver: Option<&'a str>,
    graph_root: &'a str,
    run_root: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    storage: Section,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Section {
    driver: String,
    graphroot: String,
    runroot: String,
    /// Images apart from containers.
    imagestore: String,
    rootless_storage_path: String,
    options: StoreOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StoreOptions {
    additionalimagestores: Vec<String>,
    mount_program: String,
    overlay: DriverOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DriverOptions {
    mount_program: String,
}

impl Surroundings {
    pub(super) fn of_process() -> Self {
        let path = |name| {
            std::env::var_os(name)
                .filter(|value: &OsString| !value.is_empty())
                .map(PathBuf::from)
        };
        let euid = rustix::process::geteuid().as_raw();
        // Set by `podman unshare`, in which the user is 0.
        let user = std::env::var("_CONTAINERS_ROOTLESS_UID");
        let user = user.ok().and_then(|uid| uid.parse().ok());
        let uid = user.unwrap_or(euid);
        Self {
            rootless: uid != 0,
            uid,
            home: path("HOME"),
            data_home: path("XDG_DATA_HOME"),
            config_home: path("XDG_CONFIG_HOME"),
            file: path("CONTAINERS_STORAGE_CONF"),
            driver: std::env::var("STORAGE_DRIVER").ok(),
            system: SYSTEM.map(PathBuf::from).to_vec(),
        }
    }

    fn conf(&self) -> Result<Conf, StorageError> {
        let users = self.config_home.clone();
        let users = users.or_else(|| self.home.as_ref().map(|home| home.join(".config")));
        let users = users.map(|config| config.join("containers/storage.conf"));
        let mut files = Vec::new();
        match &self.file {
            Some(file) => files.push(file.clone()),
            None => {
                files.extend(users.filter(|_| self.rootless));
                files.extend(self.system.iter().cloned());
            }
        }
        for file in &files {
            if let Some(bytes) = bounded(file)? {
                let conf = toml::from_slice(&bytes);
                return conf.map_err(|error| StorageError::Document {
                    path: file.clone(),
                    reason: error.to_string().escape_default().take(300).collect(),
                });
            }
        }
        match &self.file {
            Some(file) => Err(StorageError::NoStore(format!(
                "CONTAINERS_STORAGE_CONF names \"{}\", which is not there",
                shown(file)
            ))),
            None => Ok(Conf::default()),
        }
    }

    /// `$HOME`, `$UID` and `$USER` in a path of a configuration.
    fn expanded(&self, path: &str) -> Result<PathBuf, StorageError> {
        if path.contains("$USER") {
            return Err(StorageError::NoStore(format!(
                "the store's path \"{}\" depends on a user's name, which is not looked up; name the store as [overlay@PATH]",
                path.escape_default()
            )));
        }
        let home = self.home.as_deref().unwrap_or(Path::new("/"));
        let expanded = path
            .replace("$HOME", &home.to_string_lossy())
            .replace("$UID", &self.uid.to_string());
        Ok(expanded.into())
    }
}

/// Parts `[PLACE]NAME`; without brackets all is the name.
pub(super) fn place(text: &str) -> Result<(Option<Place<'_>>, &str), StorageError> {
    let Some(rest) = text.strip_prefix('[') else {
        return Ok((None, text));
    };
    let wrong = |reason| StorageError::Name {
        text: text.to_owned(),
        reason,
    };
    let (place, name) = rest
        .split_once(']')
        .ok_or_else(|| wrong("the bracket is not closed"))?;
    let (driver, path) = match place.split_once('@') {
        Some((driver, path)) => (Some(driver), path),
        None => (None, place),
    };
    // Options of the driver say how it mounts, which nothing here does.
    let path = path.split_once(':').map_or(path, |(path, _)| path);
    let (graph_root, run_root) = match path.split_once('+') {
        Some((graph, run)) => (graph, Some(run).filter(|run| !run.is_empty())),
        None => (path, None),
    };
    if !graph_root.starts_with('/') {
        return Err(wrong("the store's path does not begin with a slash"));
    }
    let place = Place {
        driver: driver.filter(|driver| !driver.is_empty()),
        graph_root,
        run_root,
    };
    Ok((Some(place), name))
}

/// The store, with those that it takes images from.
pub(super) fn store(
    place: Option<Place<'_>>,
    around: &Surroundings,
) -> Result<Store, StorageError> {
    let mut store = match place {
        Some(place) => Store {
            roots: vec![root(place.graph_root.into(), place.driver)?],
            run_root: place.run_root.map(PathBuf::from),
            mount_program: false,
        },
        None => configured(around)?,
    };
    let mut seen = std::collections::HashSet::new();
    store.roots.retain(|root| seen.insert(root.path.clone()));
    Ok(store)
}

fn configured(around: &Surroundings) -> Result<Store, StorageError> {
    let section = around.conf()?.storage;
    let driver = around.driver.as_deref().filter(|name| !name.is_empty());
    let driver = driver.or(Some(&section.driver[..]).filter(|name| !name.is_empty()));
    let graph_root = graph_root(&section, around)?;
    let mut roots = vec![root(graph_root, driver)?];
    if !section.imagestore.is_empty() {
        roots.push(root(around.expanded(&section.imagestore)?, driver)?);
    }
    for additional in &section.options.additionalimagestores {
        roots.push(root(around.expanded(additional)?, driver)?);
    }
    let options = &section.options;
    Ok(Store {
        roots,
        run_root: Some(&section.runroot)
            .filter(|path| !path.is_empty() && !around.rootless)
            .map(PathBuf::from),
        mount_program: !options.mount_program.is_empty()
            || !options.overlay.mount_program.is_empty(),
    })
}

/// The system's configuration names root's store, and a user's perhaps apart from that.
fn graph_root(section: &Section, around: &Surroundings) -> Result<PathBuf, StorageError> {
    if around.rootless && !section.rootless_storage_path.is_empty() {
        return around.expanded(&section.rootless_storage_path);
    }
    let of_the_system = section.graphroot.starts_with("/var/lib/containers");
    let not_a_users = around.rootless && of_the_system;
    if !section.graphroot.is_empty() && !not_a_users {
        return around.expanded(&section.graphroot);
    }
    if !around.rootless {
        return Ok("/var/lib/containers/storage".into());
    }
    let data = around.data_home.clone();
    data.or_else(|| around.home.as_ref().map(|home| home.join(".local/share")))
        .map(|data| data.join("containers/storage"))
        .ok_or_else(|| {
            StorageError::NoStore(
                "neither XDG_DATA_HOME nor HOME says where this user's containers are".to_owned(),
            )
        })
}

/// One of the drivers that are read.
pub(super) fn driver(name: &OsStr) -> Option<Driver> {
    match name.to_str()? {
        "overlay" => Some(Driver::Overlay("overlay")),
        "overlay2" => Some(Driver::Overlay("overlay2")),
        "vfs" => Some(Driver::Vfs),
        _ => None,
    }
}

/// A store at a path. If nobody says its driver, its directories do.
fn root(path: PathBuf, driver: Option<&str>) -> Result<Root, StorageError> {
    if let Some(name) = driver {
        let driver = self::driver(name.as_ref()).ok_or_else(|| {
            StorageError::NoStore(format!(
                "the store \"{}\" has the driver \"{}\"; those that are read are overlay and vfs. \
                 Mount the image (podman image mount) and read it as dir:PATH",
                shown(&path),
                name.escape_default()
            ))
        })?;
        return Ok(Root { path, driver });
    }
    let there: Vec<_> = ["overlay", "overlay2", "vfs"]
        .into_iter()
        .filter(|name| path.join(format!("{name}-images")).is_dir())
        .filter_map(|name| self::driver(name.as_ref()))
        .collect();
    match there[..] {
        [driver] => Ok(Root { path, driver }),
        [] => Err(StorageError::NoStore(format!(
            "\"{}\" is no store of containers of the drivers overlay or vfs",
            shown(&path)
        ))),
        _ => Err(StorageError::NoStore(format!(
            "the store \"{}\" has images of several drivers; say which: [overlay@{0}]IMAGE",
            shown(&path)
        ))),
    }
}

fn shown(path: &Path) -> String {
    path.as_os_str()
        .as_encoded_bytes()
        .escape_ascii()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_in_brackets_is_taken_as_skopeo_takes_it() {
        let (found, name) = place("[overlay@/a/b+/run/c:overlay.x=y]localhost/m:1").unwrap();
        assert_eq!(name, "localhost/m:1");
        let store = store(found, &Surroundings::default()).unwrap();
        assert_eq!(store.roots[0].path, Path::new("/a/b"));
        assert_eq!(store.run_root.as_deref(), Some(Path::new("/run/c")));
        assert_eq!(place("alpine:3").unwrap(), (None, "alpine:3"));
        for wrong in ["[overlay@/a", "[overlay@a]x"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_configuration_says_where_stores_are() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("storage.conf");
        let conf = "[storage]\ndriver = \"overlay\"\nrunroot = \"/run/x\"\ngraphroot = \"/srv/$UID\"\n\
                    [storage.options]\nadditionalimagestores = [\"/usr/share/images\", \"/srv/7\"]\n\
                    [storage.options.overlay]\nmount_program = \"/usr/bin/fuse-overlayfs\"\n";
        std::fs::write(&file, conf).unwrap();
        let around = Surroundings {
            uid: 7,
            system: vec![directory.path().join("none"), file],
            ..Surroundings::default()
        };
        let read = store(None, &around).unwrap();
        let paths: Vec<_> = read.roots.iter().map(|root| root.path.clone()).collect();
        assert_eq!(paths, [Path::new("/srv/7"), Path::new("/usr/share/images")]);
        assert!(read.mount_program);
    }

    #[test]
    fn a_users_store_is_in_the_users_home() {
        let around = Surroundings {
            rootless: true,
            home: Some("/home/u".into()),
            driver: Some("overlay".into()),
            ..Surroundings::default()
        };
        let read = store(None, &around).unwrap();
        assert_eq!(
            read.roots[0].path,
            Path::new("/home/u/.local/share/containers/storage")
        );
        let zfs = Surroundings {
            driver: Some("zfs".into()),
            ..Surroundings::default()
        };
        let error = store(None, &zfs).unwrap_err().to_string();
        assert!(error.contains("zfs") && error.contains("dir:"), "{error}");
    }
}
