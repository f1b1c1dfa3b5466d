// SPDX-License-Identifier: Apache-2.0
//! What an admission policy is given: everything about a container that is known at its creation.
//!
//! Names are those of the OCI runtime specification, in snake case, where it has one. What is not known is absent, never
//! null: in Rego `not input.image.digest` is then true, and a null would make it false.

use std::{collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The only format version so far.
const VERSION: u32 = 1;

/// The findings of an audit that are listed; what is beyond is counted.
pub const MAX_FINDINGS: usize = 100;

/// Why an input is refused.
#[derive(Debug, thiserror::Error)]
#[error("the input is not valid: {0}")]
pub struct InputError(#[from] serde_json::Error);

/// What an admission policy of cima is given, as `input`: a container, at its creation, before its first
/// instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The version of this format. What has another meaning gets another version; fields may be added.
    pub version: Version,
    /// Which container, whose.
    pub container: Container,
    /// The image that it is made of.
    pub image: Image,
    /// What was written over the image before the container was created.
    pub upper: Upper,
    /// The first process.
    pub process: Process,
    /// What the first process may do.
    pub privileges: Privileges,
    /// Mounts that show files of the host: bind mounts, named volumes, block devices.
    pub volumes: Vec<Volume>,
    /// The other mounts: proc, sysfs, tmpfs, devpts, mqueue and the like.
    pub mounts: Vec<Mount>,
    /// The annotations of the container's configuration.
    pub annotations: BTreeMap<String, String>,
    /// The hook that asks.
    pub hook: Hook,
}

impl Input {
    /// Reads an input from JSON.
    ///
    /// # Errors
    /// Names the field, line and column: of an unknown field, too.
    pub fn parse(text: &[u8]) -> Result<Self, InputError> {
        Ok(serde_json::from_slice(text)?)
    }
}

/// The number of the format: 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Version;

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, Self::Error> {
        if version == VERSION {
            Ok(Self)
        } else {
            Err(format!("version {version}, this cima reads {VERSION}"))
        }
    }
}

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        VERSION
    }
}

impl JsonSchema for Version {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "const": VERSION})
    }
}

/// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.strip_prefix("sha256:") {
            Some(digits) if digits.len() == 64 && digits.bytes().all(is_hexadecimal) => {
                Ok(Self(text))
            }
            _ => Err(format!(
                "{text:?} is no digest (sha256: and 64 lower-case hexadecimal digits)"
            )),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})
    }
}

/// Which container, and whose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// The id that the engine gave it.
    pub id: String,
    /// The name that the engine's store has for it. A user chooses it: it proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The engine whose store knows the container.
    pub engine: Engine,
    /// The path of the OCI runtime that runs the hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The directory of the container's `config.json`.
    pub bundle: String,
    /// Whether the runtime runs in a user namespace that is not the host's.
    pub rootless: bool,
    /// Who had it made.
    pub launched_by: LaunchedBy,
}

/// A container engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Podman.
    Podman,
    /// Docker.
    Docker,
    /// containerd without Docker.
    Containerd,
    /// CRI-O.
    #[serde(rename = "cri-o")]
    CriO,
    /// No store of a known engine has the container.
    Unknown,
}

/// Who had the container made, as the kernel knows the process that runs the hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LaunchedBy {
    /// The user, in the host's user namespace.
    pub uid: u32,
    /// The user who logged in, whatever became of it after (sudo, su). Absent for services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// The audit session. Absent for services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<u32>,
}

/// The image that the container is made of.
///
/// `digest` is measured on this node from the files that the container will see. All else is what the engine's store
/// says, and a store can be wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The image's digest cima-image-v1, as `cima digest` prints it. Absent if it could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Why there is no digest. Present if and only if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ImageSource>,
    /// The name under which the engine's store has the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The digest of the image's manifest, as the store says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<Digest>,
    /// The digest of the image's config (Docker's image id), as the store says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<Digest>,
}

/// What an image was measured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageSource {
    /// The lower directories of an overlay: what was written by the container itself is apart, in `upper`.
    Overlay,
    /// A directory: image and writes of the container cannot be told apart.
    Directory,
}

/// What was written over the image before the container was created: in a new container nothing but
/// the stubs that engines put there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upper {
    /// Whether anything but the engines' known stubs is there.
    pub dirty: bool,
    /// Whether it was looked at. If not, `dirty` is false and says nothing.
    pub audited: bool,
    /// The first of what was found, at most 100.
    #[schemars(length(max = MAX_FINDINGS))]
    pub findings: Vec<Finding>,
    /// How many were found beyond those.
    pub more: u64,
}

/// Something that was written over the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Where, from the container's root.
    pub path: String,
    /// What it is now: a type of file, or `whiteout`.
    pub what: String,
    /// Why it is none of the known stubs.
    pub why: String,
}

/// The first process of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Its working directory.
    pub cwd: String,
    /// The names of its environment variables, sorted. Values may be secrets: they are only in `env_sha256`.
    pub env_names: Vec<String>,
    /// The digest of its environment, as the measurement list has it.
    pub env_sha256: Digest,
    /// Its user, in the container.
    pub uid: u32,
    /// Its group, in the container.
    pub gid: u32,
    /// Its other groups.
    pub additional_gids: Vec<u32>,
    /// Whether execution cannot give it more privileges (setuid programs, file capabilities).
    pub no_new_privileges: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// What the first process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Privileges {
    /// Whether it is what `--privileged` makes: every capability in the bounding set, no seccomp filter, and every device
    /// or no `AppArmor` profile.
    pub privileged: bool,
    /// Capabilities, by set.
    pub capabilities: Capabilities,
    /// System calls.
    pub seccomp: Seccomp,
    /// The `AppArmor` profile. Absent if there is none, or if it is `unconfined`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor: Option<String>,
    /// The `SELinux` label. Absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux: Option<String>,
    /// How many paths of /proc and /sys are hidden.
    pub masked_paths: u32,
    /// How many paths of /proc and /sys cannot be written.
    pub readonly_paths: u32,
    /// Whether the root file system cannot be written.
    pub readonly_rootfs: bool,
    /// Whether the device cgroup allows every device.
    pub all_devices: bool,
    /// Devices that are made in the container beyond the runtime's own (null, zero, tty and the like).
    pub devices: Vec<Device>,
    /// Whose namespaces it is in.
    pub namespaces: Namespaces,
}

impl Privileges {
    /// What `privileged` says, from the other fields. "Every capability" are those that every supported engine knows, up
    /// to `CAP_AUDIT_READ` of Linux 3.16: an engine that does not know the newest gives all the same.
    pub fn amount_to_privileged(&self) -> bool {
        let bounding = &self.capabilities.bounding;
        EVERY_CAPABILITY
            .iter()
            .all(|name| bounding.iter().any(|has| has == name))
            && self.seccomp.mode == SeccompMode::Unconfined
            && (self.all_devices || self.apparmor.is_none())
    }
}

/// As numbered by the kernel (`include/uapi/linux/capability.h`), 0 to 37.
const EVERY_CAPABILITY: [&str; 38] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
];

/// Capabilities by set, each as `CAP_NET_ADMIN`, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// What no process of the container can go beyond.
    pub bounding: Vec<String>,
    /// What the first process has.
    pub effective: Vec<String>,
    /// What it can give itself.
    pub permitted: Vec<String>,
    /// What it can pass on to programs that ask for it.
    pub inheritable: Vec<String>,
    /// What it passes on to every program.
    pub ambient: Vec<String>,
}

/// The seccomp filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Seccomp {
    /// Whether there is one.
    pub mode: SeccompMode,
    /// What it does with a system call that it does not name, as `SCMP_ACT_ERRNO`. Absent without a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<String>,
}

/// Whether there is a seccomp filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SeccompMode {
    /// None.
    Unconfined,
    /// One.
    Filter,
}

/// A device node that is made in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Where, in the container.
    pub path: String,
    /// `c`, `b`, `u` or `p`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its major number; 0 for a pipe.
    pub major: u32,
    /// Its minor number; 0 for a pipe.
    pub minor: u32,
}

/// Whose namespaces the container is in, by type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Namespaces {
    /// Processes.
    pub pid: Namespace,
    /// The network.
    pub network: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// The host's name.
    pub uts: Namespace,
    /// Users and capabilities.
    pub user: Namespace,
    /// Control groups.
    pub cgroup: Namespace,
    /// Mounts.
    pub mount: Namespace,
    /// Clocks.
    pub time: Namespace,
}

/// Whose a namespace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Namespace {
    /// Made for the container.
    Own,
    /// The host's, whether by not making one or by the path of one of the host's processes.
    Host,
    /// Another one that was there before: the pod's, or one that the engine prepared (podman, for the network).
    Path,
}

/// A mount that shows files of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Where, in the container.
    pub destination: String,
    /// What, on the host: the path without symbolic links.
    pub source: String,
    /// What is there. Absent if it could not be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_kind: Option<SourceKind>,
    /// The type of mount, as configured: `bind`, or a file system on a block device.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its options, as configured.
    pub options: Vec<String>,
    /// Whether it can be written (no `ro`).
    pub writable: bool,
    /// Whether files can be executed from it (no `noexec`).
    pub executable: bool,
    /// The number of the device, `MAJOR:MINOR`, if the source is a device node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

/// What a volume's source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A socket: whoever listens there serves the container.
    Socket,
    /// A named pipe.
    Fifo,
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// A mount that shows no files of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where, in the container.
    pub destination: String,
    /// Its type: `proc`, `tmpfs` and the like.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted, as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Its options, as configured.
    pub options: Vec<String>,
    /// Whether it can be written (no `ro`).
    pub writable: bool,
    /// Whether files can be executed from it (no `noexec`).
    pub executable: bool,
}

/// The hook that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// At which stage of the container's life the runtime runs it.
    pub stage: Stage,
}

/// A stage of a container's life at which a hook can still refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Stage {
    /// As old engines configure it.
    #[serde(rename = "prestart")]
    Prestart,
    /// In the runtime's namespaces, before the root is changed.
    #[serde(rename = "createRuntime")]
    CreateRuntime,
    /// In the container's namespaces, before the root is changed.
    #[serde(rename = "createContainer")]
    CreateContainer,
    /// In the container, before its command.
    #[serde(rename = "startContainer")]
    StartContainer,
}

/// The JSON schema of [`Input`], as `admission.schema.json` has it, with a newline at the end.
pub fn schema_text() -> String {
    // A schema is plain JSON: it can be written.
    serde_json::to_string_pretty(&schemars::schema_for!(Input)).unwrap_or_default() + "\n"
}
