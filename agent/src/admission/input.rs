// SPDX-License-Identifier: Apache-2.0
//! What the admission policy is asked: a container's configuration, as its runtime goes by it, with what was
//! measured and what the kernel knows. Mounts are held against those that the kernel has.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use cima_policies::admission::{
    self as input, Capabilities, Device, Digest, Finding, Hook, Image, ImageSource, Input,
    LaunchedBy, MAX_FINDINGS, Mount, Namespace, Namespaces, Privileges, Seccomp, SeccompMode,
    SourceKind, Stage, Upper, Version, Volume,
};
use image_digest::{ImageDigest, audit, escaped};
use oci_spec::runtime::{
    Capabilities as SpecCapabilities, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType,
    LinuxSeccompAction, Mount as SpecMount, Spec,
};
use procfs::process::MountInfo;
use sha2::{Digest as _, Sha256};

use super::engine::{Claim, Engine};
use crate::{containers, probes::device_of_mount};

/// Everything that an input is made of.
pub(super) struct Facts<'a> {
    pub(super) id: &'a str,
    pub(super) bundle: &'a Path,
    pub(super) spec: &'a Spec,
    pub(super) root: &'a Path,
    pub(super) engine: Engine,
    pub(super) claim: &'a Claim,
    /// In the initial user namespace: of who made it, and who logged in.
    pub(super) launched_by: LaunchedBy,
    pub(super) rootless: bool,
    /// The image's digest, or why there is none.
    pub(super) image: Result<ImageDigest, String>,
    /// What was measured.
    pub(super) source: Option<ImageSource>,
    /// `None`: not audited.
    pub(super) findings: Option<&'a [audit::Finding]>,
    /// Of the container's first process.
    pub(super) mounts: &'a [MountInfo],
}

impl Facts<'_> {
    /// The input, and the volumes as events name them.
    pub(super) fn input(&self) -> (Input, Vec<containers::Volume>) {
        let (volumes, mounts, known) = self.mounts();
        let spec = self.spec;
        let claimed =
            |text: &Option<String>| text.clone().and_then(|text| Digest::try_from(text).ok());
        let input = Input {
            version: Version,
            container: input::Container {
                id: self.id.to_owned(),
                name: self.claim.name.clone(),
                engine: match self.engine {
                    Engine::Podman => input::Engine::Podman,
                    Engine::Docker => input::Engine::Docker,
                    Engine::Containerd => input::Engine::Containerd,
                    Engine::CriO => input::Engine::CriO,
                    Engine::Unknown => input::Engine::Unknown,
                },
                runtime: None,
                bundle: self.bundle.display().to_string(),
                rootless: self.rootless,
                launched_by: self.launched_by.clone(),
            },
            image: Image {
                digest: self
                    .image
                    .as_ref()
                    .ok()
                    .and_then(|d| Digest::try_from(d.to_string()).ok()),
                error: self.image.as_ref().err().cloned(),
                source: self.source,
                reference: self.claim.reference.clone(),
                manifest_digest: claimed(&self.claim.manifest),
                config_digest: claimed(&self.claim.config),
            },
            upper: upper(self.findings),
            process: process(spec),
            privileges: privileges(spec),
            volumes,
            mounts,
            annotations: spec
                .annotations()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<BTreeMap<_, _>>(),
            hook: Hook {
                stage: Stage::CreateRuntime,
            },
        };
        (input, known)
    }

    fn mounts(&self) -> (Vec<Volume>, Vec<Mount>, Vec<containers::Volume>) {
        let (mut volumes, mut others, mut known) = (Vec::new(), Vec::new(), Vec::new());
        for mount in self.spec.mounts().iter().flatten() {
            let options = mount.options().clone().unwrap_or_default();
            let kind = mount.typ().clone().unwrap_or_default();
            let told = Told {
                destination: mount.destination().display().to_string(),
                seen: self.seen(mount),
                options: &options,
            };
            if !is_of_host(mount, &kind) {
                others.push(Mount {
                    destination: told.destination.clone(),
                    kind,
                    source: mount
                        .source()
                        .as_ref()
                        .map(|source| source.display().to_string()),
                    writable: told.may("ro", "rw"),
                    executable: told.may("noexec", "exec"),
                    options,
                });
                continue;
            }
            let source = mount.source().clone().unwrap_or_default();
            let source = self.bundle.join(source);
            // Where it cannot be followed from here, as it was configured.
            let canonical = source.canonicalize().unwrap_or(source);
            let looked = fs::metadata(&canonical).ok();
            let device = told.seen.and_then(device_of_mount);
            known.extend(device.map(|device| containers::Volume {
                destination: told.destination.clone(),
                source: canonical.display().to_string(),
                device,
            }));
            volumes.push(Volume {
                destination: told.destination.clone(),
                source: canonical.display().to_string(),
                source_kind: looked.as_ref().and_then(source_kind),
                kind: if kind.is_empty() || kind == "none" {
                    "bind".to_owned()
                } else {
                    kind
                },
                writable: told.may("ro", "rw"),
                executable: told.may("noexec", "exec"),
                device: looked.as_ref().and_then(node),
                options,
            });
        }
        (volumes, others, known)
    }

    /// The mount as the kernel has it, if it is there already.
    fn seen(&self, mount: &SpecMount) -> Option<&MountInfo> {
        let inside = mount
            .destination()
            .strip_prefix("/")
            .unwrap_or(mount.destination());
        let point = self.root.join(inside);
        self.mounts.iter().rfind(|seen| seen.mount_point == point)
    }
}

/// A mount of the configuration, and how the kernel has it.
struct Told<'a> {
    destination: String,
    seen: Option<&'a MountInfo>,
    options: &'a [String],
}

impl Told<'_> {
    /// Whether the mount will lack the option `forbidding`, which `allowing` takes back: the last one of the configuration
    /// counts, and what is mounted may have it from where it comes. Runtimes mount first and restrict later, so that the
    /// kernel's mount alone would not tell.
    fn may(&self, forbidding: &str, allowing: &str) -> bool {
        let is_seen = self
            .seen
            .is_some_and(|seen| seen.mount_options.contains_key(forbidding));
        let said = self
            .options
            .iter()
            .rfind(|said| *said == forbidding || *said == allowing);
        !is_seen && said.is_none_or(|said| said == allowing)
    }
}

/// File systems of the kernel's own, which show nothing of the host's disks.
const OF_KERNEL: [&str; 7] = [
    "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2",
];

/// Whether a mount shows files of the host: all that is not known to be the kernel's own. Runtimes pass over the type of what
/// is bound.
fn is_of_host(mount: &SpecMount, kind: &str) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    let binds = options
        .iter()
        .any(|option| option == "bind" || option == "rbind");
    binds || !OF_KERNEL.contains(&kind)
}

fn source_kind(of: &fs::Metadata) -> Option<SourceKind> {
    let kind = of.file_type();
    Some(match () {
        () if kind.is_dir() => SourceKind::Directory,
        () if kind.is_file() => SourceKind::File,
        () if kind.is_socket() => SourceKind::Socket,
        () if kind.is_fifo() => SourceKind::Fifo,
        () if kind.is_char_device() => SourceKind::Character,
        () if kind.is_block_device() => SourceKind::Block,
        () => return None,
    })
}

fn node(of: &fs::Metadata) -> Option<String> {
    let kind = of.file_type();
    let (major, minor) = (rustix::fs::major(of.rdev()), rustix::fs::minor(of.rdev()));
    (kind.is_block_device() || kind.is_char_device()).then(|| format!("{major}:{minor}"))
}

fn upper(findings: Option<&[audit::Finding]>) -> Upper {
    let Some(findings) = findings else {
        return Upper::default();
    };
    let listed = findings.iter().take(MAX_FINDINGS).map(|finding| Finding {
        path: escaped(&finding.path),
        what: finding.what.to_string(),
        why: finding.why.to_string(),
    });
    Upper {
        dirty: !findings.is_empty(),
        audited: true,
        findings: listed.collect(),
        more: findings.len().saturating_sub(MAX_FINDINGS) as u64,
    }
}

fn sha256(bytes: impl Iterator<Item = Vec<u8>>) -> Digest {
    let mut hash = Sha256::new();
    for bytes in bytes {
        hash.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        hash.update(bytes);
    }
    let text = format!("sha256:{}", hex::encode(hash.finalize()));
    // It has the form of a digest, which is all that is asked.
    Digest::try_from(text).unwrap_or_else(|_| unreachable!("64 hexadecimal digits"))
}

/// The environment's digest: SHA-256 over each variable in the order of bytes, with its length as u32le in front.
fn process(spec: &Spec) -> input::Process {
    let process = spec.process().clone().unwrap_or_default();
    let mut env = process.env().clone().unwrap_or_default();
    env.sort();
    let name = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
    let user = process.user();
    input::Process {
        args: process.args().clone().unwrap_or_default(),
        cwd: process.cwd().display().to_string(),
        env_names: env.iter().map(name).collect(),
        env_sha256: sha256(env.into_iter().map(String::into_bytes)),
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
        no_new_privileges: process.no_new_privileges().unwrap_or_default(),
        terminal: process.terminal().unwrap_or_default(),
    }
}

fn privileges(spec: &Spec) -> Privileges {
    let process = spec.process().clone().unwrap_or_default();
    let linux = spec.linux().clone().unwrap_or_default();
    let set = |set: &Option<SpecCapabilities>| {
        let names = set.iter().flatten().map(ToString::to_string);
        let mut names: Vec<_> = names.map(|name| full_name(&name)).collect();
        names.sort();
        names
    };
    let capabilities = process.capabilities().as_ref();
    let capabilities = capabilities.map_or_else(Capabilities::default, |has| Capabilities {
        bounding: set(has.bounding()),
        effective: set(has.effective()),
        permitted: set(has.permitted()),
        inheritable: set(has.inheritable()),
        ambient: set(has.ambient()),
    });
    let rules = linux
        .resources()
        .as_ref()
        .and_then(|all| all.devices().as_ref());
    let any = |number: Option<i64>| number.is_none_or(|number| number < 0);
    let all = || {
        let rules = rules.into_iter().flatten();
        rules.filter(|rule| any(rule.major()) && any(rule.minor()))
    };
    let is_every = |typ: Option<LinuxDeviceType>| typ.is_none_or(|typ| typ == LinuxDeviceType::A);
    // The last rule that is about everything decides; to read or write any disk or any character device is as much. To make
    // nodes of them (m) alone is what every engine allows.
    let about_all = all().rfind(|rule| is_every(rule.typ()));
    let some = all().any(|rule| {
        let access = rule.access().as_deref().unwrap_or("rwm");
        rule.allow() && !is_every(rule.typ()) && access.contains(['r', 'w'])
    });
    let mut privileges = Privileges {
        privileged: false,
        capabilities,
        seccomp: Seccomp {
            mode: match linux.seccomp() {
                Some(_) => SeccompMode::Filter,
                None => SeccompMode::Unconfined,
            },
            default_action: linux
                .seccomp()
                .as_ref()
                .map(|filter| action(filter.default_action())),
        },
        apparmor: process
            .apparmor_profile()
            .clone()
            .filter(|profile| !profile.is_empty() && profile != "unconfined"),
        selinux: process
            .selinux_label()
            .clone()
            .filter(|label| !label.is_empty()),
        masked_paths: count(linux.masked_paths()),
        readonly_paths: count(linux.readonly_paths()),
        readonly_rootfs: spec
            .root()
            .as_ref()
            .and_then(oci_spec::runtime::Root::readonly)
            .unwrap_or_default(),
        all_devices: some || about_all.is_none_or(LinuxDeviceCgroup::allow),
        devices: linux
            .devices()
            .iter()
            .flatten()
            .map(|device| Device {
                path: device.path().display().to_string(),
                kind: device.typ().as_str().to_owned(),
                major: u32::try_from(device.major()).unwrap_or_default(),
                minor: u32::try_from(device.minor()).unwrap_or_default(),
            })
            .collect(),
        namespaces: namespaces(spec),
    };
    privileges.privileged = privileges.amount_to_privileged();
    privileges
}

/// `CAP_` in front: the crate shows names without.
fn full_name(name: &str) -> String {
    let name = name.to_uppercase();
    if name.starts_with("CAP_") {
        name
    } else {
        format!("CAP_{name}")
    }
}

fn count(paths: &Option<Vec<String>>) -> u32 {
    u32::try_from(paths.as_ref().map_or(0, Vec::len)).unwrap_or(u32::MAX)
}

/// As it is spelt in a configuration.
fn action(action: LinuxSeccompAction) -> String {
    match serde_json::to_value(action) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{action:?}"),
    }
}

fn namespaces(spec: &Spec) -> Namespaces {
    let linux = spec.linux().clone().unwrap_or_default();
    let made = linux.namespaces().clone().unwrap_or_default();
    let of = |typ: LinuxNamespaceType, name: &str| {
        let Some(one) = made.iter().find(|one| one.typ() == typ) else {
            return Namespace::Host;
        };
        match one.path() {
            None => Namespace::Own,
            Some(path) if path.as_os_str().is_empty() => Namespace::Own,
            Some(path) if is_hosts(path, name) => Namespace::Host,
            Some(_) => Namespace::Path,
        }
    };
    Namespaces {
        pid: of(LinuxNamespaceType::Pid, "pid"),
        network: of(LinuxNamespaceType::Network, "net"),
        ipc: of(LinuxNamespaceType::Ipc, "ipc"),
        uts: of(LinuxNamespaceType::Uts, "uts"),
        user: of(LinuxNamespaceType::User, "user"),
        cgroup: of(LinuxNamespaceType::Cgroup, "cgroup"),
        mount: of(LinuxNamespaceType::Mount, "mnt"),
        time: of(LinuxNamespaceType::Time, "time"),
    }
}

/// Whether a path is that of a namespace of the host.
fn is_hosts(path: &Path, name: &str) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let host = inode(&Path::new("/proc/1/ns").join(name));
    host.is_some() && inode(path) == host
}
