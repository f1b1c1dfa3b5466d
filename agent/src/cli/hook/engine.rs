// SPDX-License-Identifier: Apache-2.0
//! What each engine reads, and what cima puts there and finds there. Bytes to bytes: files are opened elsewhere.
//! Keeps all that is not cima's: an operator's comments, order and keys.

use std::path::Path;

use cima_hook::{
    SECONDS_TO_MEASURE,
    json::{Object, raw},
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toml_edit::{Array, DocumentMut, Item, Table, value};

use crate::machine::below;

/// The file of podman and CRI-O.
pub(super) const HOOKS_D: &str = "/usr/share/containers/oci/hooks.d/cima.json";
/// docker's.
pub(super) const DOCKER: &str = "/etc/docker/daemon.json";
/// containerd's.
pub(super) const CONTAINERD: &str = "/etc/containerd/config.toml";
/// Where engines are looked for.
pub(super) const DIRECTORIES: [&str; 4] =
    ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"];
/// The runtime as docker and containerd know it.
pub(super) const NAME: &str = "cima";
/// What the engine waits beyond the hook's own deadlines: the hook says why it gave up, an engine that kills it does not.
const GRACE_SECONDS: u64 = 10;
const HOOKS_D_VERSION: &str = "1.0.0";
const STAGES: [&str; 2] = cima_hook::bundle::STAGES;

/// A container engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Engine {
    /// podman
    Podman,
    /// CRI-O
    CriO,
    /// docker
    Docker,
    /// containerd, as Kubernetes uses it
    Containerd,
}

impl Engine {
    pub(in crate::cli) const ALL: [Self; 4] =
        [Self::Podman, Self::CriO, Self::Docker, Self::Containerd];

    /// The program that makes a machine one where it is installed.
    pub(in crate::cli) fn program(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::CriO => "crio",
            Self::Docker => "dockerd",
            Self::Containerd => "containerd",
        }
    }

    /// As `--engine` takes it.
    pub(in crate::cli) fn option(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::CriO => "cri-o",
            Self::Docker => "docker",
            Self::Containerd => "containerd",
        }
    }

    /// Whether it is, on the machine with this root.
    pub(in crate::cli) fn is_installed(self, root: &Path) -> bool {
        let program = |directory| below(root, directory).join(self.program());
        DIRECTORIES
            .into_iter()
            .any(|directory| program(directory).is_file())
    }

    /// Whether it has hooks; the others get a runtime.
    pub(in crate::cli) fn has_hooks(self) -> bool {
        matches!(self, Self::Podman | Self::CriO)
    }

    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Podman | Self::CriO => HOOKS_D,
            Self::Docker => DOCKER,
            Self::Containerd => CONTAINERD,
        }
    }

    /// When the change counts.
    pub(super) fn then(self) -> &'static str {
        match self {
            Self::Podman => "podman: nothing to restart, containers made from now on are judged",
            Self::CriO => "CRI-O: systemctl restart crio",
            Self::Docker => "docker: systemctl reload docker",
            Self::Containerd => "containerd: systemctl restart containerd",
        }
    }

    /// Which containers are judged then.
    pub(in crate::cli) fn means(self) -> &'static str {
        match self {
            Self::Podman => "podman starts the hook with every container",
            Self::CriO => "CRI-O starts the hook with every container",
            Self::Docker => "docker has the runtime cima: docker run --runtime cima ...",
            Self::Containerd => {
                "containerd has the runtime handler cima: a RuntimeClass with handler: cima"
            }
        }
    }
}

/// What is installed.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    pub(super) hook: &'a str,
    pub(super) runtime: &'a str,
    pub(super) open: bool,
    pub(super) timeout: u64,
    /// Whether docker takes the runtime for containers that name none.
    pub(super) default: bool,
}

impl Settings<'_> {
    fn hook_args(&self) -> Vec<String> {
        let fail = if self.open { "open" } else { "closed" };
        ["--fail", fail, "--timeout", &self.timeout.to_string()]
            .map(str::to_owned)
            .into()
    }
}

/// What becomes of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is as it should be.
    None,
    Write(String),
    Remove,
}

/// Why an engine's file is not changed.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// JSON.
    #[error("this is not the JSON that its engine reads: {0}")]
    Json(#[from] serde_json::Error),
    /// Bytes.
    #[error("this is not text: {0}")]
    Text(#[from] std::str::Utf8Error),
    /// TOML.
    #[error("this is not the TOML that its engine reads: {0}")]
    Toml(#[from] toml_edit::TomlError),
    /// A value of another type, or written in one line.
    #[error("{0} is not a table of its own: write it as one ([{0}]) first")]
    NotATable(String),
    /// Nobody's but the operator's to decide.
    #[error(
        "default-runtime is {0:?} already: name that one's program as `runtime` in /etc/cima/runtime.toml and remove \
         default-runtime, then it becomes cima's"
    )]
    OtherDefault(String),
    /// Another one by that name.
    #[error("what is called cima here is not cima's ({0}), and stays")]
    NotOurs(String),
    /// containerd without its part for Kubernetes.
    #[error("the CRI plugin is disabled here, so containerd has no runtimes by configuration")]
    CriDisabled,
    /// Keys differ.
    #[error(
        "version = {0}: runtimes are configured from version 2 to 3 (containerd config migrate)"
    )]
    Version(i64),
}

impl FormatError {
    /// Whether this is an engine that is installed and not used by itself: docker brings containerd along.
    pub(in crate::cli) fn means_unused(&self) -> bool {
        matches!(self, Self::CriDisabled)
    }
}

/// `oci-hooks(5)`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HookFile {
    pub(super) version: String,
    pub(super) hook: HookEntry,
    pub(super) when: Value,
    pub(super) stages: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HookEntry {
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    pub(super) timeout: Option<u64>,
}

impl HookFile {
    fn new(settings: &Settings<'_>) -> Self {
        let mut args = vec!["cima-hook".to_owned()];
        args.extend(settings.hook_args());
        Self {
            version: HOOKS_D_VERSION.to_owned(),
            hook: HookEntry {
                path: settings.hook.to_owned(),
                args,
                timeout: Some(settings.timeout.saturating_add(GRACE_SECONDS)),
            },
            when: json!({"always": true}),
            stages: STAGES.map(str::to_owned).into(),
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// What keeps it from judging every container.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.version != HOOKS_D_VERSION {
            faults.push(format!(
                "its version is {:?} and not {HOOKS_D_VERSION:?}",
                self.version
            ));
        }
        if self.when != json!({"always": true}) {
            faults.push(format!(
                "it is not for every container, but when {}",
                self.when
            ));
        }
        for stage in STAGES {
            if !self.stages.iter().any(|other| other == stage) {
                faults.push(format!("it is not started at {stage}"));
            }
        }
        let own = self.own_timeout();
        if let Some(timeout) = self.hook.timeout.filter(|&timeout| timeout <= own) {
            faults.push(format!(
                "the engine gives it {timeout} s, and it gives cimad {own} s: it would be killed before it can say why"
            ));
        }
        faults
    }

    fn own_timeout(&self) -> u64 {
        let args = &self.hook.args;
        let apart = args
            .windows(2)
            .find_map(|pair| (pair[0] == "--timeout").then(|| pair[1].as_str()));
        let joined = args.iter().find_map(|arg| arg.strip_prefix("--timeout="));
        apart
            .or(joined)
            .and_then(|text| text.parse().ok())
            .unwrap_or(SECONDS_TO_MEASURE)
    }
}

/// The file with cima in it.
pub(super) fn with(
    engine: Engine,
    old: Option<&[u8]>,
    settings: &Settings<'_>,
) -> Result<Change, FormatError> {
    let new = match engine {
        Engine::Podman | Engine::CriO => {
            serde_json::to_string_pretty(&HookFile::new(settings))? + "\n"
        }
        Engine::Docker => docker_with(old, settings)?,
        Engine::Containerd => containerd_with(old, settings.runtime)?,
    };
    Ok(match old == Some(new.as_bytes()) {
        true => Change::None,
        false => Change::Write(new),
    })
}

/// The file without what [`with`] put there.
pub(super) fn without(engine: Engine, old: Option<&[u8]>) -> Result<Change, FormatError> {
    let Some(old) = old else {
        return Ok(Change::None);
    };
    match engine {
        Engine::Podman | Engine::CriO => {
            let path = HookFile::parse(old)?.hook.path;
            ours(&path, "cima-hook")?;
            Ok(Change::Remove)
        }
        Engine::Docker => docker_without(old),
        Engine::Containerd => containerd_without(old),
    }
}

/// The program of the runtime `cima` in the file of an engine that has no hooks.
pub(super) fn runtime(engine: Engine, old: Option<&[u8]>) -> Result<Option<String>, FormatError> {
    let Some(old) = old else {
        return Ok(None);
    };
    match engine {
        Engine::Podman | Engine::CriO => Ok(None),
        Engine::Docker => {
            let document = object(old)?;
            let Some(runtimes) = document.get("runtimes") else {
                return Ok(None);
            };
            let runtimes = Object::parse(runtimes.get().as_bytes())?;
            docker_path(&runtimes)
        }
        Engine::Containerd => {
            let document: DocumentMut = text(old)?.parse()?;
            let cima = runtimes(&document)?.and_then(|runtimes| runtimes.get(NAME));
            Ok(cima.and_then(binary_name).map(str::to_owned))
        }
    }
}

fn ours(path: &str, name: &str) -> Result<(), FormatError> {
    match Path::new(path).file_name().is_some_and(|file| file == name) {
        true => Ok(()),
        false => Err(FormatError::NotOurs(path.to_owned())),
    }
}

/// docker takes an empty file for an empty object.
fn object(bytes: &[u8]) -> Result<Object<'_>, FormatError> {
    match bytes.trim_ascii().is_empty() {
        true => Ok(Object::new()),
        false => Ok(Object::parse(bytes)?),
    }
}

fn docker_path(runtimes: &Object<'_>) -> Result<Option<String>, FormatError> {
    let Some(cima) = runtimes.get(NAME) else {
        return Ok(None);
    };
    let cima: Value = serde_json::from_str(cima.get())?;
    let path = cima.get("path").and_then(Value::as_str).unwrap_or_default();
    Ok(Some(path.to_owned()))
}

fn docker_with(old: Option<&[u8]>, settings: &Settings<'_>) -> Result<String, FormatError> {
    let old = old.unwrap_or_default();
    let mut document = object(old)?;
    let list = document.get("runtimes").map(ToOwned::to_owned);
    let mut runtimes = match &list {
        Some(runtimes) => Object::parse(runtimes.get().as_bytes())?,
        None => Object::new(),
    };
    let mut changed = false;
    if docker_path(&runtimes)?.as_deref() != Some(settings.runtime) {
        runtimes.set(NAME, raw(json!({"path": settings.runtime}).to_string())?);
        document.set("runtimes", runtimes.render(1)?);
        changed = true;
    }
    let default = default_runtime(&document)?;
    if settings.default && default.as_deref() != Some(NAME) {
        if let Some(other) = default {
            return Err(FormatError::OtherDefault(other));
        }
        document.set("default-runtime", raw(json!(NAME).to_string())?);
        changed = true;
    }
    match changed {
        true => Ok(format!("{}\n", document.render(0)?)),
        // Not a blank is moved in a file that has it.
        false => Ok(text(old)?.to_owned()),
    }
}

fn default_runtime(document: &Object<'_>) -> Result<Option<String>, FormatError> {
    Ok(match document.get("default-runtime") {
        Some(name) => Some(serde_json::from_str(name.get())?),
        None => None,
    })
}

fn docker_without(old: &[u8]) -> Result<Change, FormatError> {
    let mut document = object(old)?;
    let Some(list) = document.get("runtimes").map(ToOwned::to_owned) else {
        return Ok(Change::None);
    };
    let mut runtimes = Object::parse(list.get().as_bytes())?;
    let Some(path) = docker_path(&runtimes)? else {
        return Ok(Change::None);
    };
    ours(&path, "cima-runtime")?;
    runtimes.remove(NAME);
    match runtimes.is_empty() {
        true => document.remove("runtimes"),
        false => document.set("runtimes", runtimes.render(1)?),
    }
    // docker does not start with a default that it does not have.
    if default_runtime(&document)?.as_deref() == Some(NAME) {
        document.remove("default-runtime");
    }
    Ok(match document.is_empty() {
        true => Change::Remove,
        false => Change::Write(format!("{}\n", document.render(0)?)),
    })
}

fn text(bytes: &[u8]) -> Result<&str, FormatError> {
    Ok(std::str::from_utf8(bytes)?)
}

/// The tables down to the runtimes, by the file's version.
fn way(document: &DocumentMut) -> Result<[&'static str; 4], FormatError> {
    let disabled = document.get("disabled_plugins").and_then(Item::as_array);
    let is_cri = |plugin: &str| {
        matches!(
            plugin,
            "cri" | "io.containerd.grpc.v1.cri" | "io.containerd.cri.v1.runtime"
        )
    };
    if disabled.is_some_and(|plugins| {
        plugins
            .iter()
            .any(|plugin| plugin.as_str().is_some_and(is_cri))
    }) {
        return Err(FormatError::CriDisabled);
    }
    // Without one, containerd takes a file for its first version.
    match document.get("version").map_or(Some(1), Item::as_integer) {
        Some(2) => Ok([
            "plugins",
            "io.containerd.grpc.v1.cri",
            "containerd",
            "runtimes",
        ]),
        Some(3) => Ok([
            "plugins",
            "io.containerd.cri.v1.runtime",
            "containerd",
            "runtimes",
        ]),
        version => Err(FormatError::Version(version.unwrap_or_default())),
    }
}

fn runtimes(document: &DocumentMut) -> Result<Option<&Table>, FormatError> {
    let mut table = document.as_table();
    for key in way(document)? {
        table = match table.get(key) {
            Some(item) => item
                .as_table()
                .ok_or_else(|| FormatError::NotATable(key.to_owned()))?,
            None => return Ok(None),
        };
    }
    Ok(Some(table))
}

fn runtimes_mut(document: &mut DocumentMut) -> Result<&mut Table, FormatError> {
    let way = way(document)?;
    let mut table = document.as_table_mut();
    for key in way {
        let item = table.entry(key).or_insert_with(|| {
            let mut table = Table::new();
            // No header for a table that has nothing but tables.
            table.set_implicit(true);
            Item::Table(table)
        });
        table = item
            .as_table_mut()
            .ok_or_else(|| FormatError::NotATable(key.to_owned()))?;
    }
    Ok(table)
}

fn binary_name(cima: &Item) -> Option<&str> {
    cima.get("options")?.get("BinaryName")?.as_str()
}

fn containerd_with(old: Option<&[u8]>, runtime: &str) -> Result<String, FormatError> {
    let old = text(old.unwrap_or_default())?;
    let mut document: DocumentMut = old.parse()?;
    if document.is_empty() && old.trim().is_empty() {
        document["version"] = value(2);
    }
    if runtimes(&document)?.and_then(|runtimes| binary_name(runtimes.get(NAME)?)) == Some(runtime) {
        return Ok(old.to_owned());
    }
    let mut options = Table::new();
    options.insert("BinaryName", value(runtime));
    let mut cima = Table::new();
    cima.insert("runtime_type", value("io.containerd.runc.v2"));
    cima.insert("options", Item::Table(options));
    runtimes_mut(&mut document)?.insert(NAME, Item::Table(cima));
    Ok(document.to_string())
}

fn containerd_without(old: &[u8]) -> Result<Change, FormatError> {
    let mut document: DocumentMut = text(old)?.parse()?;
    let found = match runtimes(&document) {
        Ok(runtimes) => runtimes.and_then(|runtimes| runtimes.get(NAME)),
        // Nothing was put there, then.
        Err(FormatError::CriDisabled | FormatError::Version(_)) => None,
        Err(error) => return Err(error),
    };
    let Some(cima) = found else {
        return Ok(Change::None);
    };
    ours(binary_name(cima).unwrap_or_default(), "cima-runtime")?;
    runtimes_mut(&mut document)?.remove(NAME);
    // A file that cima made has nothing else.
    let rest = document.to_string();
    Ok(match rest.trim() == "version = 2" {
        true => Change::Remove,
        false => Change::Write(rest),
    })
}

/// `/etc/cima/runtime.toml` with this hook, whatever else it says.
pub(super) fn runtime_toml_with(
    old: Option<&[u8]>,
    settings: &Settings<'_>,
) -> Result<Change, FormatError> {
    const HEADER: &str = "# What cima-runtime adds to containers of docker and containerd, and (runtime = \"/path\") what it\n\
                          # becomes then: the first runc or crun that is found, if nothing is said.\n";
    let text = text(old.unwrap_or(HEADER.as_bytes()))?;
    let mut document: DocumentMut = text.parse()?;
    let args: Array = settings.hook_args().into_iter().collect();
    let same =
        |item: Option<&Item>, new: &str| item.is_some_and(|item| item.to_string().trim() == new);
    let hook = value(settings.hook);
    let args = value(args);
    if same(document.get("hook"), hook.to_string().trim())
        && same(document.get("hook_args"), args.to_string().trim())
    {
        return Ok(Change::None);
    }
    document["hook"] = hook;
    document["hook_args"] = args;
    Ok(Change::Write(match old {
        Some(_) => document.to_string(),
        None => format!("{HEADER}{}", document.to_string().replace(HEADER, "")),
    }))
}

/// `/etc/cima/runtime.toml` without the hook.
pub(super) fn runtime_toml_without(old: Option<&[u8]>) -> Result<Change, FormatError> {
    let Some(old) = old else {
        return Ok(Change::None);
    };
    let mut document: DocumentMut = text(old)?.parse()?;
    let was = document.remove("hook").is_some() | document.remove("hook_args").is_some();
    Ok(match (was, document.is_empty()) {
        (false, _) => Change::None,
        (true, true) => Change::Remove,
        (true, false) => Change::Write(document.to_string()),
    })
}
