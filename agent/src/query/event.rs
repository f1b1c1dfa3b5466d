// SPDX-License-Identifier: Apache-2.0
//! One event as it is shown, read from its list.
//!
//! `"v": 1` covers every key here; keys are only ever added. Untrusted bytes are escaped on the way in (printable ASCII as it
//! is, all else and the backslash as `\xNN`), so that whoever prints a value prints no more than it says.

use ima_log::{Entry, EscapedName, Fields};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Kind, fact, moment};
use crate::{
    containers::Provenance,
    measure::{
        Listed,
        proto::{self, context_event::What},
    },
    verify::{BatchView, EventView},
};

/// The version of the JSON that queries give.
pub const VERSION: u32 = 1;

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Event {
    /// Of this JSON: 1.
    pub v: u32,
    /// Names it among all: `<node>/<first 8 of the boot id>/<entry>`, and `.<number>` of an event in a batch.
    pub id: String,
    /// The node.
    pub node: String,
    /// The boot, as the list says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The entry of the list, from 0.
    pub entry: u64,
    /// The event in the entry's batch, from 0; absent: the entry as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<u32>,
    /// When: RFC 3339 in UTC, by the node's own clock, which nothing vouches for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Of an entry as a whole, which has no time of its own: that of the last event before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// When, nanoseconds since boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_boot_ns: Option<u64>,
    /// What.
    pub kind: Kind,
    /// Whether it should not have been.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub violation: bool,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerName>,
    /// The file, as the container sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The file's digest as the kernel took it, `<algorithm>:<hex>`. Of an execution: of what was mapped under this path
    /// in this container; where there is more than one such digest, all of them are in `digests`, and this is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// See `digest`; the first eight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
    /// How many more there were.
    #[serde(skip_serializing_if = "is_none")]
    pub more_digests: u64,
    /// The source of the volume that the file lies in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Parents, nearest first, at most eight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
    /// What the program was given, as far as it is recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Whether there was more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub args_truncated: bool,
    /// Of a container that was made: its first process, in the initial pid namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_pid: Option<u32>,
    /// What else there is to say, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why the list does not vouch for it: the entry is not what its own hashes say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

/// A container, as an event names it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct ContainerName {
    /// As the engine calls it; of one that nobody announced a hint, if anything.
    pub id: String,
    /// Its name, if the engine gave it one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Digest of its image, `sha256:<hex>`; `unmeasured`; empty of one that nobody announced.
    pub image: String,
    /// The image's name, as the engine has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_name: String,
    /// Its number in the boot; absent: nobody announced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Its mount namespace, where nobody announced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mnt_ns: Option<u64>,
}

/// A process, in the initial pid namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The thread, if it is not the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// Its number in its own pid namespace.
    pub ns_pid: u32,
    /// When it began, nanoseconds since boot.
    pub start_ns: u64,
    /// What it is called.
    pub comm: String,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Who logged in; absent: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// The audit session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<u32>,
}

/// A parent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub struct Ancestor {
    /// Its number, in the initial pid namespace.
    pub pid: u32,
    /// When it began, nanoseconds since boot.
    pub start_ns: u64,
    /// What it is called.
    pub comm: String,
}

/// What an entry does not say of its events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setting {
    pub(crate) node: String,
    pub(crate) boot_id: Option<String>,
    pub(crate) entry: u64,
    /// `CLOCK_REALTIME` minus `CLOCK_BOOTTIME`.
    pub(crate) clock: Option<i64>,
    /// What [`damage`] says of the entry.
    pub(crate) damaged: Option<String>,
    /// Microseconds since 1970 of the last event before an entry as a whole.
    pub(crate) not_before: Option<i64>,
    pub(crate) container: Option<ContainerName>,
}

impl Event {
    /// The event of that number in `entry`, or the entry itself.
    pub(crate) fn of(entry: &Entry, nth: Option<u32>, setting: &Setting) -> Self {
        let Setting {
            node,
            boot_id,
            entry: number,
            clock: _,
            not_before,
            damaged: _,
            container: _,
        } = setting;
        let mut event = Self {
            v: VERSION,
            id: name(node, boot_id.as_deref(), *number, nth),
            node: node.clone(),
            boot_id: boot_id.clone(),
            entry: *number,
            event: nth,
            time: None,
            not_before: not_before
                .filter(|_| nth.is_none())
                .and_then(|us| us.checked_mul(1000))
                .map(moment::show),
            since_boot_ns: None,
            kind: Kind::Unknown,
            violation: false,
            container: setting.container.clone(),
            path: None,
            digest: None,
            digests: Vec::new(),
            more_digests: 0,
            volume: None,
            process: None,
            ancestors: Vec::new(),
            args: Vec::new(),
            args_truncated: false,
            init_pid: None,
            detail: None,
            damaged: setting.damaged.clone(),
        };
        match entry.fields() {
            Err(error) => event.damaged = Some(error.to_string()),
            Ok(fields) => match nth {
                None => event.of_entry(entry, &fields),
                Some(nth) => {
                    let batch = fields.payload.and_then(BatchView::of);
                    match batch.and_then(|batch| batch.nth(nth)) {
                        Some(view) => event.of_view(view, setting.clock),
                        None => event.damaged = Some("it is no batch of events".to_owned()),
                    }
                }
            },
        }
        event
    }

    fn of_entry(&mut self, entry: &Entry, fields: &Fields<'_>) {
        let payload = fields.payload.map(shown);
        let after_version = |text: String| text.strip_prefix("v1;").map(str::to_owned);
        let said = payload.and_then(after_version);
        match Listed::parse(fields.name) {
            Some(Listed::Agent(part)) => {
                self.kind = Kind::Agent;
                self.digest = said;
                self.detail = Some(format!("the agent's {}", shown(part.as_bytes())));
            }
            Some(Listed::Sink(sink)) => {
                self.kind = Kind::Sink;
                self.detail = Some(shown(sink.as_bytes()));
            }
            Some(Listed::Image(image)) => {
                self.kind = Kind::Image;
                self.of_image(&Provenance::Image(image));
            }
            Some(Listed::Exec { of, path }) => {
                self.kind = Kind::Measured;
                self.of_image(&of);
                self.path = Some(shown(&path));
                self.digest = said;
            }
            Some(Listed::Violation { kind, of, path }) => {
                self.kind = Kind::Violation;
                self.violation = true;
                self.of_image(&of);
                self.path = (!path.is_empty()).then(|| shown(&path));
                self.detail = said.or_else(|| Some(shown(kind.as_bytes())));
            }
            Some(Listed::Context(_)) => {
                self.detail = Some("a batch that cannot be read".to_owned());
            }
            None if fields.name.starts_with(b"cima-") => self.path = Some(shown(fields.name)),
            None => {
                self.kind = Kind::Host;
                self.violation = entry.is_violation();
                self.path = Some(shown(fields.name));
                let digest = fields.digest.and_then(|digest| digest.to_digest());
                self.digest = digest.map(|digest| digest.to_string());
            }
        }
    }

    /// No container is named, only what it is made of.
    fn of_image(&mut self, of: &Provenance) {
        let name = self.container.get_or_insert_default();
        name.image = match of {
            Provenance::Unregistered => String::new(),
            of => of.to_string(),
        };
    }

    fn of_view(&mut self, view: EventView<'_>, clock: Option<i64>) {
        let EventView {
            bytes: _,
            event,
            time_ns,
            identity: _,
            subject,
            lineage,
            file,
            command,
        } = view;
        let Some(event) = event else {
            self.detail = Some("an event that this version does not know".to_owned());
            return;
        };
        self.since_boot_ns = Some(time_ns);
        let wall = time_ns.cast_signed().checked_add(clock.unwrap_or(0));
        self.time = clock.and(wall).map(moment::show);
        self.process = subject.map(|subject| process(&event, &subject, time_ns));
        self.ancestors = lineage
            .into_iter()
            .flat_map(|lineage| lineage.ancestors)
            .map(Ancestor::from)
            .collect();
        self.path = file
            .as_ref()
            .filter(|file| !file.path.is_empty())
            .map(|file| shown(&file.path));
        if let Some(command) = command {
            self.args = command.args.iter().map(|arg| shown(arg)).collect();
            self.args_truncated = command.args_truncated;
        }
        self.of_what(event.what, file.as_ref());
    }

    fn of_what(&mut self, what: Option<What>, file: Option<&proto::File>) {
        let Some(what) = what else {
            self.detail = Some("an event that this version does not know".to_owned());
            return;
        };
        self.kind = fact::kind(&what);
        self.violation = fact::is_violation(&what);
        self.detail = detail(&what).or_else(|| file.and_then(of_file));
        if let What::Created(created) = &what {
            self.init_pid = Some(created.init_tgid);
        }
        if let What::Mapping(mapping) = what {
            self.digest = fact::digest(&mapping).map(|digest| digest.to_string());
            self.volume = (!mapping.volume.is_empty()).then(|| shown(mapping.volume.as_bytes()));
        }
    }
}

/// What an event is called.
pub(super) fn name(node: &str, boot_id: Option<&str>, entry: u64, nth: Option<u32>) -> String {
    let boot: String = boot_id.unwrap_or("-").chars().take(8).collect();
    let of_batch = nth.map(|nth| format!(".{nth}")).unwrap_or_default();
    format!("{node}/{boot}/{entry}{of_batch}")
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// Why an entry is not what its own hashes say; of each entry once, whatever its events.
pub(crate) fn damage(entry: &Entry) -> Option<String> {
    entry.check().err().map(|error| error.to_string())
}

/// What the other keys do not say of it.
fn detail(what: &What) -> Option<String> {
    let text = match what {
        What::Execution(_) | What::Refused(_) | What::Stop(_) => return None,
        What::Mapping(mapping) => return of_mapping(mapping),
        What::Breach(breach) => match fact::kind(what) {
            Kind::Write => "opened for writing while it was in use".to_owned(),
            Kind::KernelLoad => format!("kernel_load_data_id {}", breach.kernel_load_id),
            _ => return None,
        },
        What::Change(change) => of_change(change),
        What::Ended(ended) => of_status(ended.status),
        What::Created(created) => match created.allowed {
            true => "allowed".to_owned(),
            false => {
                let reasons = created
                    .reasons
                    .iter()
                    .map(|reason| shown(reason.as_bytes()));
                format!("denied: {}", Vec::from_iter(reasons).join("; "))
            }
        },
        What::Gone(gone) => of_gone(gone.cause).to_owned(),
        What::Start(start) => of_start(start),
        What::Loss(loss) => {
            let cause = shown(loss.cause.as_bytes());
            format!("{} of {cause}", loss.count)
        }
        What::Parts(parts) => {
            let part = |part: &proto::Part| {
                let (name, digest) = (part.name.as_bytes(), part.digest.as_bytes());
                format!("{} {}", shown(name), shown(digest))
            };
            Vec::from_iter(parts.parts.iter().map(part)).join(", ")
        }
        What::PolicyLoaded(loaded) => {
            let name = match loaded.name.as_str() {
                "" => "policy",
                name => name,
            };
            format!(
                "{} sha256:{}",
                shown(name.as_bytes()),
                hex::encode(&loaded.sha256)
            )
        }
    };
    Some(text)
}

fn of_mapping(mapping: &proto::Mapping) -> Option<String> {
    if mapping.copied_up {
        return Some("copied up since it was opened: the digest is of another file".to_owned());
    }
    if mapping.writer {
        return Some("somebody could write it meanwhile: the digest proves nothing".to_owned());
    }
    if fact::digest(mapping).is_none() {
        return Some(format!(
            "could not be hashed: errno {}",
            -i64::from(mapping.hash_error)
        ));
    }
    (mapping.kernel_read_id != 0).then(|| format!("kernel_read_file_id {}", mapping.kernel_read_id))
}

/// What is unusual about a file.
fn of_file(file: &proto::File) -> Option<String> {
    if file.memfd {
        Some("memory, not a file with a name".to_owned())
    } else if file.path_unknown {
        Some(format!("its path is too long; inode {}", file.inode))
    } else {
        None
    }
}

/// `CLONE_NEW*` (`include/uapi/linux/sched.h`).
const NAMESPACES: [(u32, &str); 8] = [
    (0x0002_0000, "mnt"),
    (0x0200_0000, "cgroup"),
    (0x0400_0000, "uts"),
    (0x0800_0000, "ipc"),
    (0x1000_0000, "user"),
    (0x2000_0000, "pid"),
    (0x4000_0000, "net"),
    (0x0000_0080, "time"),
];

fn of_change(change: &proto::Change) -> String {
    if change.other_root {
        return "a root that is not the one that was measured".to_owned();
    }
    let names = NAMESPACES
        .iter()
        .filter(|(flag, _)| change.flags & flag != 0);
    let names: Vec<_> = names.map(|(_, name)| *name).collect();
    match names.is_empty() {
        true => format!("mount namespace {}", change.mnt_ns),
        false => names.join(" "),
    }
}

/// As `wait(2)` gives it.
fn of_status(status: u32) -> String {
    match status & 0x7f {
        0 => format!("exit status {}", status >> 8 & 0xff),
        signal => format!("signal {signal}"),
    }
}

pub(super) fn of_gone(cause: i32) -> &'static str {
    use proto::gone::Cause;
    match Cause::try_from(cause) {
        Ok(Cause::Stopped) => "stopped",
        Ok(Cause::Ended) => "ended",
        Ok(Cause::Unseen) => "ended unseen",
        Ok(Cause::Denied) => "denied",
        Err(_) => "for a reason that this version does not know",
    }
}

fn of_start(start: &proto::Start) -> String {
    use proto::start::Reason;
    let reason = match Reason::try_from(start.reason) {
        Ok(Reason::Boot) => "first of this boot",
        Ok(Reason::Restart) => "again",
        Ok(Reason::ChainBroken) => "list and PCR did not fit: what lies between is unknown",
        Err(_) => "for a reason that this version does not know",
    };
    let (version, kernel) = (&start.agent_version, &start.kernel_release);
    let (version, kernel) = (shown(version.as_bytes()), shown(kernel.as_bytes()));
    let anchor = match start.pcr {
        Some(pcr) => format!("PCR {pcr}"),
        None => "not anchored".to_owned(),
    };
    format!("{reason}; cima {version} on Linux {kernel}, {anchor}")
}

fn process(event: &proto::ContextEvent, subject: &proto::Subject, time_ns: u64) -> Process {
    Process {
        pid: event.tgid,
        tid: Some(event.tid).filter(|tid| *tid != 0 && *tid != event.tgid),
        ns_pid: event.ns_tgid,
        start_ns: time_ns.wrapping_sub(event.age_ns.cast_unsigned()),
        comm: shown(&subject.comm),
        uid: subject.uid,
        gid: subject.gid,
        login_uid: subject.login_uid,
        session: subject.session,
    }
}

impl From<proto::Process> for Ancestor {
    fn from(process: proto::Process) -> Self {
        let proto::Process {
            tgid,
            start_ns,
            comm,
        } = process;
        Self {
            pid: tgid,
            start_ns,
            comm: shown(&comm),
        }
    }
}

/// Bytes as they may be shown.
pub(super) fn shown(bytes: &[u8]) -> String {
    EscapedName(bytes).to_string()
}
