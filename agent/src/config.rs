// SPDX-License-Identifier: Apache-2.0
//! The daemon's configuration file: TOML, every key optional, unknown keys refused.
//! `etc/cimad.toml` is the same as these defaults and documents each key.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::metrics::Listen;

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/cima/cimad.toml";

/// Where the agent keeps its state, unless its configuration says so.
pub const STATE_DIR: &str = "/var/lib/cima";

/// The PCR of a node whose configuration names none: cannot be reset, and nobody else
/// extends it after boot.
pub const DEFAULT_PCR: u32 = 13;

/// The user whose files an IMA rule measures for cima: none that distributions or systemd give to anybody (60578 to 61183 are
/// unused in systemd's table).
pub const DEFAULT_IMA_OWNER: u32 = 60990;

/// Why the configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not TOML, an unknown key or a value of the wrong kind.
    #[error("the configuration {} is not valid: {source}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, key and reason.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value out of range.
    #[error("the configuration {} is not valid: {reason}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key, and what it may be.
        reason: String,
    },
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the list, created with mode 0700.
    pub state_dir: PathBuf,
    /// The measurement policy.
    pub policy: PathBuf,
    /// `[probes]`
    pub probes: ProbesConfig,
    /// `[sink]`
    pub sink: SinkConfig,
    /// `[admission]`
    pub admission: AdmissionConfig,
    /// `[metrics]`
    pub metrics: MetricsConfig,
}

/// `[admission]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// Directory of the admission policy.
    pub rules: PathBuf,
    /// Where root's hooks ask.
    pub socket: PathBuf,
    /// Users whose own containers have hooks, too.
    pub users: Vec<u32>,
}

/// `[probes]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbesConfig {
    /// The eBPF object.
    pub object: PathBuf,
    /// The eBPF object of the sink `kernel`.
    pub lister: PathBuf,
    /// Where programs, links and maps are pinned: below a BPF file system.
    pub pin_dir: PathBuf,
    /// Size of the kernel's ring buffer in bytes: a power of two of at least a page.
    pub ring_bytes: u32,
    /// Whether the probes' debug messages go to the log.
    pub debug: bool,
}

/// `[sink]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SinkConfig {
    /// Where entries are anchored.
    pub kind: SinkKind,
    /// The PCR that `pcr` extends.
    pub pcr: u32,
    /// Whom the files of `ima-file` belong to.
    pub ima_owner: u32,
    /// Where `pcr` keeps the list as ASCII, too, if it is the PCR of the kernel's IMA.
    pub ascii_list: PathBuf,
    /// How the TPM is reached, in tpm2-tss's notation.
    pub tpm: String,
}

/// Values of `sink.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SinkKind {
    /// The first of the others that works.
    Auto,
    /// The host's list, by the module.
    Kernel,
    /// The host's list, by files that are read.
    ImaFile,
    /// The agent extends a PCR.
    Pcr,
    /// Nothing vouches for the list.
    None,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Where metrics are served: see [`Listen`].
    pub listen: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: STATE_DIR.into(),
            policy: "/etc/cima/measurement.toml".into(),
            probes: ProbesConfig::default(),
            sink: SinkConfig::default(),
            admission: AdmissionConfig::default(),
            metrics: MetricsConfig::default(),
        }
    }
}

impl Default for ProbesConfig {
    fn default() -> Self {
        Self {
            object: "/usr/lib/cima/cima-probes.o".into(),
            lister: "/usr/lib/cima/cima-list.o".into(),
            pin_dir: "/sys/fs/bpf/cima".into(),
            ring_bytes: 16 << 20,
            debug: false,
        }
    }
}

impl Default for SinkConfig {
    fn default() -> Self {
        Self {
            kind: SinkKind::Auto,
            pcr: DEFAULT_PCR,
            ima_owner: DEFAULT_IMA_OWNER,
            ascii_list: "/run/cima/ascii_runtime_measurements".into(),
            tpm: "device:/dev/tpmrm0".into(),
        }
    }
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            rules: "/etc/cima/admission".into(),
            socket: cima_api::SOCKET.into(),
            users: Vec::new(),
        }
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            listen: "off".into(),
        }
    }
}

impl Config {
    /// Reads a configuration; the bytes are returned to be measured as they were read.
    ///
    /// # Errors
    /// Names the file, and the line and key that is wrong.
    pub fn read(path: &Path) -> Result<(Self, Vec<u8>), ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let config = Self::parse(&text, path)?;
        Ok((config, text.into_bytes()))
    }

    /// Where metrics are served.
    ///
    /// # Errors
    /// Not a place where they may be; [`Config::read`] has refused that.
    pub fn listen(&self) -> Result<Listen, String> {
        self.metrics.listen.parse()
    }

    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let refuse = |reason: &str| {
            Err(ConfigError::Value {
                path: path.to_owned(),
                reason: reason.to_owned(),
            })
        };
        if !config.probes.ring_bytes.is_power_of_two() || config.probes.ring_bytes < 1 << 16 {
            return refuse("probes.ring_bytes is to be a power of two of at least 65536");
        }
        if let Err(reason) = config.listen() {
            return refuse(&format!("metrics.listen: {reason}"));
        }
        for (key, path) in [
            ("state_dir", &config.state_dir),
            ("policy", &config.policy),
            ("probes.object", &config.probes.object),
            ("probes.pin_dir", &config.probes.pin_dir),
            ("sink.ascii_list", &config.sink.ascii_list),
            ("admission.rules", &config.admission.rules),
            ("admission.socket", &config.admission.socket),
        ] {
            if !path.is_absolute() {
                return refuse(&format!("{key} is to be an absolute path"));
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../etc/cimad.toml");

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("cimad.toml"))
    }

    #[test]
    fn the_shipped_file_documents_the_defaults() {
        assert_eq!(parse(SHIPPED).unwrap(), Config::default());
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn the_shipped_file_has_every_key() {
        // Debug shows every field of the structs; each is a key of the file.
        let debug = format!("{:#?}", Config::default());
        let keys = debug
            .lines()
            .filter_map(|line| line.trim().split_once(':'))
            .map(|(key, _)| key);
        for key in keys.filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_')) {
            let documented = SHIPPED
                .lines()
                .any(|line| line.starts_with(&format!("{key} =")) || line == format!("[{key}]"));
            assert!(documented, "{key} is not in etc/cimad.toml");
        }
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_key() {
        let cases = [
            ("state_dirr = '/x'", "state_dirr"),
            ("[sink]\nkindd = 'pcr'", "kindd"),
            ("[sink]\nkind = 'pcrr'", "pcrr"),
            ("[sink]\npcr = 'x'", "pcr"),
            ("[probes]\nring_bytes = 100000", "probes.ring_bytes"),
            ("[metrics]\nlisten = '0.0.0.0:80'", "metrics.listen"),
            (
                "[probes]\npin_dir = 'x'",
                "probes.pin_dir is to be an absolute path",
            ),
            ("policy = 'x.toml'", "policy is to be an absolute path"),
            ("sink = 3", "sink"),
            ("[sink", "not valid"),
        ];
        for (text, key) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.contains(key) && error.contains("cimad.toml"),
                "{text}: {error}"
            );
        }
    }
}
