// SPDX-License-Identifier: Apache-2.0
//! A context batch as JSON: the schema's field names (`proto/cima.proto`), but for the reader's sake
//! everything in place instead of by number, times and starts since boot instead of relative,
//! digests in hex, and other bytes and texts escaped as `entry_json` says.
//!
//! Every message is taken apart exhaustively: a new field of the schema is a compile
//! error here. Events are shown one at a time, never held together.

use serde::{Serialize, Serializer, ser::SerializeStruct};

use super::entry_json::escaped;
use crate::{
    measure::proto::{self, context_event::What},
    verify::{BatchView, EventView},
};

pub(super) struct BatchJson<'a>(pub(super) BatchView<'a>);

impl Serialize for BatchJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut batch = serializer.serialize_struct("Batch", 2)?;
        batch.serialize_field("seq", &self.0.seq())?;
        batch.serialize_field("events", &Events(&self.0))?;
        batch.end()
    }
}

struct Events<'a>(&'a BatchView<'a>);

impl Serialize for Events<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.events().map(Event::from))
    }
}

#[derive(Serialize)]
struct Event {
    #[serde(skip_serializing_if = "Option::is_none")]
    time_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    #[serde(flatten)]
    what: Said,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Start(Start),
    Stop {},
    Execution(Execution),
    Mapping(Mapping),
    Loss(Loss),
    PolicyLoaded {
        name: String,
        sha256: String,
    },
    Change(Change),
    Ended(Ended),
    Refused(Refused),
    Created(Created),
    Gone {
        container: u64,
        cause: String,
    },
    Parts(Vec<Part>),
    Breach(Breach),
    /// An event that this version does not know: its bytes.
    UnknownHex(String),
}

#[derive(Serialize)]
struct Identity {
    mnt_ns: u32,
    mnt_generation: u64,
    pid_ns: u32,
    user_ns: u32,
    uts_ns: u32,
    net_ns: u32,
    ipc_ns: u32,
    cgroup_ns: u32,
    time_ns: u32,
    cgroup_id: u64,
    cgroup_path: String,
    container_id: String,
    container: u64,
}

#[derive(Serialize)]
struct Start {
    boot_id: String,
    agent_version: String,
    kernel_release: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcr: Option<u32>,
    banks: Vec<Bank>,
    realtime_offset_ns: i64,
    reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sink: String,
}

#[derive(Serialize)]
struct Bank {
    algorithm: String,
    value: String,
}

#[derive(Serialize)]
struct Process {
    tgid: u32,
    start_ns: u64,
    comm: String,
}

#[derive(Serialize)]
struct Task {
    process: Process,
    tid: u32,
    ns_tgid: u32,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    login_uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u32>,
    ancestors: Vec<Process>,
}

#[derive(Serialize)]
struct File {
    path: String,
    inode: u64,
    device: u32,
    generation: u32,
    links: u32,
    size: u64,
    mode: u32,
    fs_magic: u64,
    overlay: bool,
    memfd: bool,
    path_unknown: bool,
}

#[derive(Serialize)]
struct Execution {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File>,
    args: Vec<String>,
    argc: u32,
    args_truncated: bool,
}

#[derive(Serialize)]
struct Mapping {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File>,
    digest: String,
    algorithm: String,
    namespaced_digest: String,
    hash_error: i32,
    prot: u32,
    map_flags: u64,
    how: String,
    kernel_read_id: u64,
    writer: bool,
    copied_up: bool,
    volume: String,
}

#[derive(Serialize)]
struct Breach {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File>,
    kind: String,
    prot: u32,
    map_flags: u64,
    kernel_load_id: u64,
}

#[derive(Serialize)]
struct Change {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    /// The program that the task runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File>,
    kind: String,
    flags: u32,
    mnt_ns: u32,
    mnt_generation: u64,
    pid_ns: u32,
    user_ns: u32,
    uts_ns: u32,
    net_ns: u32,
    ipc_ns: u32,
    cgroup_ns: u32,
    time_ns: u32,
    container: u64,
    gathered: u32,
    root_device: u32,
    other_root: bool,
}

#[derive(Serialize)]
struct Ended {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    status: u32,
}

#[derive(Serialize)]
struct Refused {
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File>,
}

#[derive(Serialize)]
struct Created {
    container: u64,
    id: String,
    image: String,
    mnt_ns: u32,
    mnt_generation: u64,
    init_tgid: u32,
    init_start_ns: u64,
    /// The JSON text, escaped like any other.
    input: String,
    allowed: bool,
    reasons: Vec<String>,
    policy: String,
    volumes: Vec<Volume>,
}

#[derive(Serialize)]
struct Volume {
    destination: String,
    source: String,
    device: u32,
}

#[derive(Serialize)]
struct Part {
    name: String,
    digest: String,
}

#[derive(Serialize)]
struct Loss {
    cause: String,
    cpu: u32,
    count: u64,
}

/// The task's numbers.
struct Who {
    tgid: u32,
    age_ns: i64,
    tid: u32,
    ns_tgid: u32,
}

/// What the view has in place, and the schema by number.
struct InPlace {
    time_ns: u64,
    who: Option<Who>,
    subject: Option<proto::Subject>,
    lineage: Option<proto::Lineage>,
    file: Option<proto::File>,
    command: Option<proto::Command>,
}

impl From<EventView<'_>> for Event {
    fn from(view: EventView<'_>) -> Self {
        let unknown = || Said::UnknownHex(hex::encode(view.bytes));
        let Some(proto::ContextEvent {
            // In the view.
            offset_ns: _,
            subject: _,
            tgid,
            age_ns,
            tid,
            ns_tgid,
            file: _,
            what,
        }) = view.event
        else {
            return Self {
                time_ns: None,
                identity: None,
                what: unknown(),
            };
        };
        let place = InPlace {
            time_ns: view.time_ns,
            // Of the agent itself nothing is said but what it says.
            who: (tgid != 0).then_some(Who {
                tgid,
                age_ns,
                tid,
                ns_tgid,
            }),
            subject: view.subject,
            lineage: view.lineage,
            file: view.file,
            command: view.command,
        };
        Self {
            time_ns: Some(view.time_ns),
            identity: view.identity.map(Identity::from),
            what: match what {
                Some(What::Start(start)) => Said::Start(start.into()),
                Some(What::Stop(proto::Stop {})) => Said::Stop {},
                Some(What::Execution(_)) => {
                    Execution::new(place).map_or_else(unknown, Said::Execution)
                }
                Some(What::Mapping(mapping)) => Said::Mapping(Mapping::new(mapping, place)),
                Some(What::Loss(proto::Loss { cause, cpu, count })) => Said::Loss(Loss {
                    cause: escaped(cause.as_bytes()),
                    cpu,
                    count,
                }),
                Some(What::Breach(breach)) => Said::Breach(Breach::new(breach, place)),
                Some(What::Parts(proto::Parts { parts })) => {
                    Said::Parts(parts.into_iter().map(Part::from).collect())
                }
                Some(What::PolicyLoaded(proto::PolicyLoaded { sha256, name })) => {
                    Said::PolicyLoaded {
                        name: escaped(name.as_bytes()),
                        sha256: hex::encode(sha256),
                    }
                }
                Some(What::Change(change)) => Said::Change(Change::new(change, place)),
                Some(What::Ended(ended)) => Said::Ended(Ended::new(ended, place)),
                Some(What::Refused(refused)) => Said::Refused(Refused::new(refused, place)),
                Some(What::Created(created)) => Said::Created(created.into()),
                Some(What::Gone(proto::Gone { container, cause })) => Said::Gone {
                    container,
                    cause: proto::gone::Cause::try_from(cause).map_or_else(
                        |_| cause.to_string(),
                        |cause| cause.as_str_name().to_owned(),
                    ),
                },
                None => unknown(),
            },
        }
    }
}

impl From<proto::Identity> for Identity {
    fn from(identity: proto::Identity) -> Self {
        let proto::Identity {
            mnt_ns,
            mnt_generation,
            pid_ns,
            user_ns,
            uts_ns,
            net_ns,
            ipc_ns,
            cgroup_ns,
            time_ns,
            cgroup_id,
            cgroup_path,
            container_id,
            container,
        } = identity;
        Self {
            mnt_ns,
            mnt_generation,
            pid_ns,
            user_ns,
            uts_ns,
            net_ns,
            ipc_ns,
            cgroup_ns,
            time_ns,
            cgroup_id,
            cgroup_path: escaped(&cgroup_path),
            container_id: escaped(container_id.as_bytes()),
            container,
        }
    }
}

impl From<proto::Start> for Start {
    fn from(start: proto::Start) -> Self {
        let reason = start.reason;
        let proto::Start {
            boot_id,
            agent_version,
            kernel_release,
            pcr,
            banks,
            realtime_offset_ns,
            reason: _,
            sink,
        } = start;
        Self {
            boot_id: escaped(boot_id.as_bytes()),
            agent_version: escaped(agent_version.as_bytes()),
            kernel_release: escaped(kernel_release.as_bytes()),
            pcr,
            banks: banks
                .into_iter()
                .map(|proto::Bank { algorithm, value }| Bank {
                    algorithm: escaped(algorithm.as_bytes()),
                    value: hex::encode(value),
                })
                .collect(),
            realtime_offset_ns,
            reason: proto::start::Reason::try_from(reason).map_or_else(
                |_| reason.to_string(),
                |reason| reason.as_str_name().to_owned(),
            ),
            sink: escaped(sink.as_bytes()),
        }
    }
}

impl From<proto::Process> for Process {
    fn from(process: proto::Process) -> Self {
        let proto::Process {
            tgid,
            start_ns,
            comm,
        } = process;
        Self {
            tgid,
            start_ns,
            comm: escaped(&comm),
        }
    }
}

impl InPlace {
    /// `None` of the agent itself, and if the batch does not say who it was: nobody is made root.
    fn task(&mut self) -> Option<Task> {
        let Who {
            tgid,
            age_ns,
            tid,
            ns_tgid,
        } = self.who.take()?;
        let proto::Subject {
            comm,
            uid,
            gid,
            login_uid,
            session,
            // In place.
            lineage: _,
            identity: _,
        } = self.subject.take()?;
        let proto::Lineage { ancestors } = self.lineage.take().unwrap_or_default();
        Some(Task {
            process: Process {
                tgid,
                start_ns: self.time_ns.wrapping_sub(age_ns.cast_unsigned()),
                comm: escaped(&comm),
            },
            tid: if tid == 0 { tgid } else { tid },
            ns_tgid,
            uid,
            gid,
            login_uid,
            session,
            ancestors: ancestors.into_iter().map(Process::from).collect(),
        })
    }

    fn file(&mut self) -> Option<File> {
        self.file.take().map(File::from)
    }
}

impl From<proto::File> for File {
    fn from(file: proto::File) -> Self {
        let proto::File {
            path,
            inode,
            device,
            generation,
            links,
            size,
            mode,
            fs_magic,
            overlay,
            memfd,
            path_unknown,
        } = file;
        Self {
            path: escaped(&path),
            inode,
            device,
            generation,
            links,
            size,
            mode,
            fs_magic,
            overlay,
            memfd,
            path_unknown,
        }
    }
}

impl Execution {
    /// `None` if the batch does not say what was executed.
    fn new(mut place: InPlace) -> Option<Self> {
        let proto::Command {
            // In place.
            subject: _,
            file: _,
            args,
            argc,
            args_truncated,
        } = place.command.take()?;
        Some(Self {
            task: place.task(),
            file: place.file(),
            args: args.iter().map(|arg| escaped(arg)).collect(),
            argc,
            args_truncated,
        })
    }
}

impl Mapping {
    fn new(mapping: proto::Mapping, mut place: InPlace) -> Self {
        let how = mapping.how;
        let proto::Mapping {
            digest,
            algorithm,
            namespaced_digest,
            hash_error,
            prot,
            map_flags,
            how: _,
            kernel_read_id,
            writer,
            copied_up,
            volume,
        } = mapping;
        Self {
            task: place.task(),
            file: place.file(),
            digest: hex::encode(digest),
            algorithm: escaped(algorithm.as_bytes()),
            namespaced_digest: hex::encode(namespaced_digest),
            hash_error,
            prot,
            map_flags,
            how: proto::mapping::How::try_from(how)
                .map_or_else(|_| how.to_string(), |how| how.as_str_name().to_owned()),
            kernel_read_id,
            writer,
            copied_up,
            volume: escaped(volume.as_bytes()),
        }
    }
}

impl Breach {
    fn new(breach: proto::Breach, mut place: InPlace) -> Self {
        let proto::Breach {
            kind,
            prot,
            map_flags,
            kernel_load_id,
        } = breach;
        Self {
            task: place.task(),
            file: place.file(),
            kind: proto::breach::Kind::try_from(kind)
                .map_or_else(|_| kind.to_string(), |kind| kind.as_str_name().to_owned()),
            prot,
            map_flags,
            kernel_load_id,
        }
    }
}

impl Change {
    fn new(change: proto::Change, mut place: InPlace) -> Self {
        let proto::Change {
            kind,
            flags,
            mnt_ns,
            mnt_generation,
            pid_ns,
            user_ns,
            uts_ns,
            net_ns,
            ipc_ns,
            cgroup_ns,
            time_ns,
            container,
            gathered,
            root_device,
            other_root,
        } = change;
        Self {
            task: place.task(),
            file: place.file(),
            kind: proto::change::Kind::try_from(kind)
                .map_or_else(|_| kind.to_string(), |kind| kind.as_str_name().to_owned()),
            flags,
            mnt_ns,
            mnt_generation,
            pid_ns,
            user_ns,
            uts_ns,
            net_ns,
            ipc_ns,
            cgroup_ns,
            time_ns,
            container,
            gathered,
            root_device,
            other_root,
        }
    }
}

impl Ended {
    fn new(ended: proto::Ended, mut place: InPlace) -> Self {
        let proto::Ended { status } = ended;
        Self {
            task: place.task(),
            status,
        }
    }
}

impl Refused {
    fn new(refused: proto::Refused, mut place: InPlace) -> Self {
        let proto::Refused {} = refused;
        Self {
            task: place.task(),
            file: place.file(),
        }
    }
}

impl From<proto::Created> for Created {
    fn from(created: proto::Created) -> Self {
        let proto::Created {
            container,
            id,
            image,
            mnt_ns,
            mnt_generation,
            init_tgid,
            init_start_ns,
            input,
            allowed,
            reasons,
            policy,
            volumes,
        } = created;
        let volume = |volume: proto::Volume| {
            let proto::Volume {
                destination,
                source,
                device,
            } = volume;
            Volume {
                destination: escaped(destination.as_bytes()),
                source: escaped(source.as_bytes()),
                device,
            }
        };
        Self {
            container,
            id: escaped(id.as_bytes()),
            image: hex::encode(image),
            mnt_ns,
            mnt_generation,
            init_tgid,
            init_start_ns,
            input: escaped(input.as_bytes()),
            allowed,
            reasons: reasons
                .iter()
                .map(|reason| escaped(reason.as_bytes()))
                .collect(),
            policy: hex::encode(policy),
            volumes: volumes.into_iter().map(volume).collect(),
        }
    }
}

impl From<proto::Part> for Part {
    fn from(part: proto::Part) -> Self {
        let proto::Part { name, digest } = part;
        Self {
            name: escaped(name.as_bytes()),
            digest: escaped(digest.as_bytes()),
        }
    }
}
