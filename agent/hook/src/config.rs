// SPDX-License-Identifier: Apache-2.0
//! `/etc/cima/runtime.toml`: which runtime `cima-runtime` stands before, and which hook it adds. From the file alone, never
//! from the environment: engines hand that on from whoever starts a container.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::HOOK;

/// Where it is.
pub const FILE: &str = "/etc/cima/runtime.toml";
/// The runtimes that are looked for if none is configured: where Debian, Fedora and docker's own packages have them.
pub const RUNTIMES: [&str; 6] = [
    "/usr/bin/runc",
    "/usr/sbin/runc",
    "/usr/local/sbin/runc",
    "/usr/local/bin/runc",
    "/usr/bin/crun",
    "/usr/local/bin/crun",
];

/// The file; every key may be absent, and so may the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The runtime that makes containers; the first of [`RUNTIMES`] that is there if absent.
    pub runtime: Option<PathBuf>,
    /// The hook that is added.
    pub hook: String,
    /// Its arguments after `--stage`.
    pub hook_args: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: None,
            hook: HOOK.to_owned(),
            hook_args: Vec::new(),
        }
    }
}

/// Why no container is made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read {}: {error}", .file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Somebody could name a runtime of his own, which root would start.
    #[error("{} may be written by others than its owner: chmod go-w it", .0.display())]
    Writable(PathBuf),
    /// The text.
    #[error("{} is not what it has to be: {error}", .file.display())]
    Parse {
        /// Which.
        file: PathBuf,
        /// Where and what.
        #[source]
        error: Box<toml::de::Error>,
    },
    /// What a relative path means depends on who starts the runtime.
    #[error("{}: {key} = {path:?} is not an absolute path", .file.display())]
    Relative {
        /// Which.
        file: PathBuf,
        /// `runtime` or `hook`.
        key: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// It would start itself for ever.
    #[error("runtime = {0:?} is cima-runtime itself: name the runtime that makes the containers")]
    Itself(PathBuf),
    /// Nothing to start.
    #[error("there is no runtime at {}: name one in {FILE} (runtime = \"/path\")", RUNTIMES.join(", "))]
    NoRuntime,
}

impl Config {
    /// Reads `file`.
    ///
    /// # Errors
    /// See [`ConfigError`]; a file that is not there is none.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let failed = |error| ConfigError::Read {
            file: file.into(),
            error,
        };
        let mut open = match File::open(file) {
            Ok(open) => open,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        if open.metadata().map_err(failed)?.permissions().mode() & 0o022 != 0 {
            return Err(ConfigError::Writable(file.into()));
        }
        let mut text = String::new();
        open.read_to_string(&mut text).map_err(failed)?;
        let config: Self = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            file: file.into(),
            error: Box::new(error),
        })?;
        config.absolute(file)
    }

    fn absolute(self, file: &Path) -> Result<Self, ConfigError> {
        let paths = [
            ("runtime", self.runtime.as_deref()),
            ("hook", Some(Path::new(&self.hook))),
        ];
        for (key, path) in paths {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                return Err(ConfigError::Relative {
                    file: file.into(),
                    key,
                    path: path.into(),
                });
            }
        }
        Ok(self)
    }

    /// The runtime to start.
    ///
    /// # Errors
    /// [`ConfigError::NoRuntime`], [`ConfigError::Itself`].
    pub fn runtime(&self) -> Result<PathBuf, ConfigError> {
        let runtime = match &self.runtime {
            Some(runtime) => runtime.clone(),
            None => RUNTIMES
                .iter()
                .map(PathBuf::from)
                .find(|path| path.is_file())
                .ok_or(ConfigError::NoRuntime)?,
        };
        // A link in the place of runc is how a wrapper is put in front of it.
        let own = fs::canonicalize("/proc/self/exe").ok();
        if own.is_some() && fs::canonicalize(&runtime).ok() == own {
            return Err(ConfigError::Itself(runtime));
        }
        Ok(runtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("runtime.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        Config::load(&file)
    }

    #[test]
    fn a_file_that_is_not_there_or_empty_means_the_defaults() {
        let none = Config::load(Path::new("/nonexistent/runtime.toml")).unwrap();
        assert_eq!(none, Config::default());
        assert_eq!(load("").unwrap(), none);
    }

    #[test]
    fn every_key_is_read_and_no_other_is_taken() {
        let config =
            load("runtime = \"/r\"\nhook = \"/h\"\nhook_args = [\"--fail\", \"open\"]").unwrap();
        assert_eq!(config.runtime.as_deref(), Some(Path::new("/r")));
        assert_eq!((config.hook.as_str(), config.hook_args.len()), ("/h", 2));
        assert!(matches!(
            load("hooks = \"/h\""),
            Err(ConfigError::Parse { .. })
        ));
        assert!(matches!(
            load("hook = \"h\""),
            Err(ConfigError::Relative { key: "hook", .. })
        ));
    }

    #[test]
    fn a_file_that_others_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("runtime.toml");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
        assert!(matches!(Config::load(&file), Err(ConfigError::Writable(_))));
    }

    #[test]
    fn it_does_not_start_itself() {
        let config = Config {
            runtime: Some("/proc/self/exe".into()),
            ..Config::default()
        };
        assert!(matches!(config.runtime(), Err(ConfigError::Itself(_))));
    }
}
