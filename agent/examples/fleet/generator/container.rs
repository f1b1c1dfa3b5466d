// SPDX-License-Identifier: Apache-2.0
//! A container, and what probes would report of its tasks.

use std::collections::HashSet;

use cima_abi::{Change, FileId, NS_COUNT, flag};
use cima_agent::{
    measure::proto,
    probes::{Breach, ChangeKind, Command, Event, Hash, Home, How, Object, Process, Subject, What},
    shared::Shared,
};
use cima_policies::admission::{self, Digest as Sha256, Engine, Input};

use super::{
    image::{Image, MAIN, MAKE, SHELL},
    kernel::{Kernel, systemd},
    numbers::{digest_of, hex_of},
};

const OVERLAY: u64 = 0x794c_7630;
const EXT4: u64 = 0xef53;
/// Major 8, minor 1: where volumes lie.
const DISK: u32 = 8 << 20 | 1;
/// Shells that are remembered as parents.
const SHELLS: usize = 6;
const PROT_READ_EXEC: u32 = 5;
const MAP_PRIVATE: u64 = 2;
const HOST_NS: [u32; NS_COUNT] = [
    4_026_531_841,
    4_026_531_836,
    4_026_531_837,
    4_026_531_838,
    4_026_531_840,
    4_026_531_839,
    4_026_531_835,
    4_026_531_834,
];

/// See the module.
pub(super) struct Container<'a> {
    pub(super) image: &'a Image,
    pub(super) id: String,
    name: String,
    engine: Engine,
    /// `Created.container`; 0: nobody registered it.
    pub(super) number: u64,
    home: Shared<Home>,
    /// Device of its overlay.
    device: u32,
    /// The files of its image, as it sees them.
    files: Vec<Shared<Object>>,
    init: Process,
    /// Who started it, nearest first.
    above: Chain,
    /// Its first process, with those.
    in_it: Chain,
    /// The shells that run in it, each with those above it.
    shells: Vec<Chain>,
    /// Files of the image that were mapped.
    mapped: HashSet<usize>,
    /// Files that it made itself.
    made: u64,
    /// Numbers in its own pid namespace.
    next_ns_tgid: u32,
}

/// Parents, nearest first.
type Chain = Shared<Vec<Process>>;

/// Who does something.
struct Task {
    process: Process,
    ns_tgid: u32,
    subject: Shared<Subject>,
}

impl<'a> Container<'a> {
    /// One that has not been started.
    pub(super) fn new(image: &'a Image, node: &str, slot: usize, seed: u64) -> Self {
        let name = format!("{}-{slot}", image.name.replace('/', "-"));
        let id = hex_of(&format!("container/{seed}/{node}/{name}"));
        let engine = match slot % 10 {
            0..6 => Engine::Podman,
            6..8 => Engine::Docker,
            _ => Engine::CriO,
        };
        Self {
            image,
            id,
            name,
            engine,
            number: 0,
            home: home(HOST_NS, 0, 0, b"/".to_vec()),
            device: 0,
            files: Vec::new(),
            init: systemd(),
            above: Shared::new(Vec::new()),
            in_it: Shared::new(Vec::new()),
            shells: Vec::new(),
            mapped: HashSet::new(),
            made: 0,
            next_ns_tgid: 2,
        }
    }

    /// Its namespaces are made, and it gets this number; what the probes say of that.
    pub(super) fn make(&mut self, kernel: &mut Kernel, number: u64) -> Event {
        let monitor = kernel.process(match self.engine {
            Engine::Docker => "containerd-shim",
            _ => "conmon",
        });
        let runtime = kernel.process("crun");
        self.number = number;
        self.device = 40 + kernel.numbers.below(4_000) as u32;
        let mut ns = HOST_NS;
        for (index, inode) in ns.iter_mut().enumerate() {
            // User and time stay the host's.
            if index != 2 && index != 7 {
                *inode = kernel.namespace();
            }
        }
        let cgroup = cgroup(self.engine, &self.id);
        let generation = kernel.generation();
        let cgroup_id = 4_000 + generation * 5;
        let before = home(ns, generation, cgroup_id, cgroup.clone());
        self.home = home_of(number, ns, generation, cgroup_id, cgroup);
        self.above = Shared::new(vec![monitor, systemd()]);
        self.init = runtime.clone();
        self.in_it = under(&runtime, &self.above);
        let files = self.image.files.iter();
        self.files = files
            .map(|file| self.object(&file.path, file.inode, file.size))
            .collect();
        (self.shells, self.mapped, self.next_ns_tgid) = (Vec::new(), HashSet::new(), 2);
        let task = self.task(runtime, self.above.clone(), None);
        let change = self.change(0x6c02_0000);
        let event = self.event(
            kernel,
            &task,
            no_file(),
            What::Change(ChangeKind::Made, change),
        );
        Event {
            home: before,
            ..event
        }
    }

    /// Its first program is executed.
    pub(super) fn start(&mut self, kernel: &mut Kernel) -> Vec<Event> {
        let runtime = self.task(self.init.clone(), self.above.clone(), None);
        let change = self.change(0);
        let pivoted = What::Change(ChangeKind::Pivoted, change);
        let mut events = vec![self.event(kernel, &runtime, no_file(), pivoted)];
        let name = self.image.programs[MAIN].name.clone();
        self.init.comm = name.into_bytes();
        self.in_it = under(&self.init, &self.above);
        let task = self.task(self.init.clone(), self.above.clone(), None);
        let args = self.image.arguments.iter().map(ToString::to_string);
        self.executes(kernel, &task, MAIN, args.collect(), &mut events);
        events
    }

    /// The event by which the agent says that it may run, or why not.
    pub(super) fn created(&self, reasons: &[&str]) -> proto::Created {
        let volumes = self.volumes();
        proto::Created {
            container: self.number,
            id: self.id.clone(),
            image: self.image.digest.bytes().to_vec(),
            mnt_ns: self.home.ns[0],
            mnt_generation: self.home.mnt_generation,
            init_tgid: self.init.tgid,
            init_start_ns: self.init.start_ns / 10_000_000 * 10_000_000,
            input: self.input(),
            allowed: reasons.is_empty(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
            policy: digest_of("admission policy").bytes().to_vec(),
            volumes: volumes
                .into_iter()
                .map(|(destination, source)| proto::Volume {
                    destination: destination.to_owned(),
                    source,
                    device: DISK,
                })
                .collect(),
        }
    }

    /// What the admission policy is asked.
    fn input(&self) -> String {
        // The example is held to its schema by a test of its own.
        let Ok(mut input) = Input::parse(admission::EXAMPLE.as_bytes()) else {
            return String::new();
        };
        let sha256 = |text: String| Sha256::try_from(text).ok();
        let container = &mut input.container;
        container.bundle = container.bundle.replace(&container.id, &self.id);
        container.id.clone_from(&self.id);
        container.name = Some(self.name.clone());
        container.engine = self.engine;
        let image = &mut input.image;
        image.digest = sha256(self.image.digest.to_string());
        image.reference = Some(self.image.reference.clone());
        let of_registry = |what: &str| format!("sha256:{}", hex_of(what));
        image.manifest_digest = sha256(of_registry(&format!("manifest/{}", self.image.name)));
        image.config_digest = sha256(of_registry(&format!("config/{}", self.image.name)));
        input.process.args = std::iter::once(&*self.image.programs[MAIN].name)
            .chain(self.image.arguments.iter().copied())
            .map(str::to_owned)
            .collect();
        let volume = input.volumes.pop();
        for (destination, source) in self.volumes() {
            input
                .volumes
                .extend(volume.clone().map(|volume| admission::Volume {
                    destination: destination.to_owned(),
                    source,
                    ..volume
                }));
        }
        // An input is plain data: it can be written.
        serde_json::to_string(&input).unwrap_or_default()
    }

    fn volumes(&self) -> Vec<(&'static str, String)> {
        match self.image.kind {
            "builder" | "runner" => vec![("/work", format!("/var/lib/builds/{}", self.name))],
            "postgres" | "redis" => vec![("/var/lib", format!("/srv/data/{}", self.name))],
            "web" => vec![
                ("/srv", format!("/srv/{}", self.name)),
                ("/etc/ssl", "/etc/ssl".to_owned()),
            ],
            _ => Vec::new(),
        }
    }

    /// Whether new programs are its daily work.
    pub(super) fn builds(&self) -> bool {
        matches!(self.image.kind, "builder" | "runner")
    }

    /// Somebody in it runs `count` programs, one after the other.
    pub(super) fn run(&mut self, kernel: &mut Kernel, count: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let (above, login) = self.parent(kernel);
        for _ in 0..count {
            let number = kernel.numbers.index(MAIN);
            let program = &self.image.programs[number];
            let arguments = kernel.numbers.of(program.arguments);
            let filled = kernel.numbers.below(256).to_string();
            let arguments = arguments.iter().map(|one| one.replace('#', &filled));
            let (name, arguments) = (program.name.clone(), arguments.collect());
            let process = kernel.process(&name);
            if number == SHELL || number == MAKE {
                if self.shells.len() == SHELLS {
                    self.shells.remove(0);
                }
                self.shells.push(under(&process, &above));
            }
            let task = self.task(process, above.clone(), login);
            self.executes(kernel, &task, number, arguments, &mut events);
        }
        events
    }

    /// A program that it knows already, an event alone.
    pub(super) fn run_again(&mut self, kernel: &mut Kernel) -> Vec<Event> {
        let (above, login) = self.parent(kernel);
        let program = &self.image.programs[MAIN];
        let process = kernel.process(&program.name);
        let task = self.task(process, above, login);
        let mut events = Vec::new();
        let arguments = vec!["--check".to_owned()];
        self.executes(kernel, &task, MAIN, arguments, &mut events);
        events
    }

    /// Something is executed that nobody executed before: what was just built, or loaded from outside.
    pub(super) fn run_new(&mut self, kernel: &mut Kernel, flags: u16) -> Vec<Event> {
        let (above, login) = self.parent(kernel);
        self.made += 1;
        let hex = hex_of(&format!("made/{}/{}", self.image.name, self.made));
        let (path, comm, how) = if self.builds() {
            let (part, unit) = (self.made / 200, &hex[..8]);
            let path = format!("/work/obj/part-{part:04}/unit-{unit}");
            (path, format!("unit-{unit}"), mapped())
        } else if self.made.is_multiple_of(3) {
            let path = format!("/tmp/run-{}.sh", &hex[..12]);
            (path, format!("run-{}.sh", &hex[..12]), How::Script)
        } else {
            let path = format!("/app/plugins/plugin-{}.so", &hex[..12]);
            (path, self.image.kind.to_owned(), mapped())
        };
        let digest = digest_of(&format!("content/{hex}"));
        let file = self.object(
            &path,
            3_000_000 + self.made,
            9_000 + u64::from(digest.bytes()[0]) * 512,
        );
        let process = kernel.process(&comm);
        let task = self.task(process, above, login);
        let mut events = Vec::new();
        if !path.ends_with(".so") {
            let args = vec![path.into_bytes(), b"--test".to_vec()];
            let what = What::Exec(command(args));
            events.push(self.event(kernel, &task, file.clone(), what));
        }
        let hash = Hash::Digest(digest);
        let mut measured = self.event(kernel, &task, file, What::Measured { how, hash });
        measured.flags |= flags;
        events.push(measured);
        events
    }

    /// What no digest can vouch for.
    pub(super) fn breach(&mut self, kernel: &mut Kernel) -> Vec<Event> {
        let (above, login) = self.parent(kernel);
        let process = kernel.process(self.image.kind);
        let task = self.task(process, above, login);
        let program = kernel.numbers.index(MAIN);
        let file = self.files[self.image.programs[program].file].clone();
        let what = match kernel.numbers.below(5) {
            0 => What::Breach(Breach::Written),
            1 => What::Breach(Breach::Mprotect { prot: 7 }),
            2 => What::Breach(Breach::KernelLoad { id: 2 }),
            3 => What::Measured {
                how: mapped(),
                hash: Hash::Failed(-95),
            },
            _ => What::Breach(Breach::Anonymous {
                prot: 7,
                map_flags: 0x22,
            }),
        };
        vec![self.event(kernel, &task, file, what)]
    }

    /// Its first process ends.
    pub(super) fn end(&mut self, kernel: &mut Kernel) -> Event {
        let task = self.task(self.init.clone(), self.above.clone(), None);
        let status = *kernel.numbers.of(&[0, 9, 15, 1 << 8, 137 << 8]);
        let file = self.files[self.image.programs[MAIN].file].clone();
        self.event(kernel, &task, file, What::Ended { status })
    }

    /// Who starts the next program in it, nearest first, and who logged in for that.
    fn parent(&self, kernel: &mut Kernel) -> (Chain, Option<u32>) {
        match kernel.numbers.below(100) {
            // As `podman exec` does.
            0..8 => {
                let monitor = kernel.process("conmon");
                (Shared::new(vec![monitor, systemd()]), Some(1000))
            }
            8..55 if !self.shells.is_empty() => (kernel.numbers.of(&self.shells).clone(), None),
            _ => (self.in_it.clone(), None),
        }
    }

    fn task(&mut self, process: Process, above: Chain, login_uid: Option<u32>) -> Task {
        let ns_tgid = if process == self.init {
            1
        } else {
            self.next_ns_tgid += 1;
            self.next_ns_tgid
        };
        let uid = match self.image.kind {
            "postgres" | "redis" => 999,
            "web" | "api" => 101,
            _ => 0,
        };
        Task {
            subject: Shared::new(Subject {
                comm: process.comm.clone(),
                uid,
                gid: uid,
                login_uid,
                session: login_uid.map(|_| 7),
                ancestors: above,
            }),
            process,
            ns_tgid,
        }
    }

    /// An execution, and the files that are mapped with it for the first time.
    fn executes(
        &mut self,
        kernel: &mut Kernel,
        task: &Task,
        program: usize,
        arguments: Vec<String>,
        events: &mut Vec<Event>,
    ) {
        let program = &self.image.programs[program];
        let args = std::iter::once(program.name.clone()).chain(arguments);
        let what = What::Exec(command(args.map(String::into_bytes).collect()));
        let file = self.files[program.file].clone();
        events.push(self.event(kernel, task, file, what));
        for index in std::iter::once(&program.file).chain(&program.libraries) {
            if !self.mapped.insert(*index) {
                continue;
            }
            let what = What::Measured {
                how: mapped(),
                hash: Hash::Digest(self.image.files[*index].digest),
            };
            let file = self.files[*index].clone();
            events.push(self.event(kernel, task, file, what));
        }
    }

    fn event(&self, kernel: &mut Kernel, task: &Task, file: Shared<Object>, what: What) -> Event {
        let flags = match what {
            What::Exec(_) if self.number == 0 => flag::UNREGISTERED,
            _ => 0,
        };
        Event {
            what,
            time_ns: kernel.tick(),
            tgid: task.process.tgid,
            start_ns: task.process.start_ns,
            tid: task.process.tgid,
            ns_tgid: task.ns_tgid,
            subject: task.subject.clone(),
            home: self.home.clone(),
            file,
            flags,
        }
    }

    fn change(&self, flags: u32) -> Change {
        Change {
            mnt_generation: self.home.mnt_generation,
            container: if flags == 0 { self.number } else { 0 },
            ns: self.home.ns,
            flags,
            gathered: 0b0111_1011,
            root_device: if flags == 0 { self.device } else { 0 },
            reserved: 0,
        }
    }

    fn object(&self, path: &str, inode: u64, size: u64) -> Shared<Object> {
        let in_volume = self.builds() && path.starts_with("/work/");
        let (device, fs_magic) = match in_volume {
            true => (DISK, EXT4),
            false => (self.device, OVERLAY),
        };
        Shared::new(Object {
            id: FileId {
                inode,
                size,
                fs_magic,
                device,
                generation: 0,
                links: 1,
                mode: 0o100_755,
            },
            path: Some(path.as_bytes().to_vec()),
            overlay: !in_volume,
            memfd: false,
        })
    }
}

/// A process and those above it.
fn under(process: &Process, above: &Chain) -> Chain {
    let chain = std::iter::once(process).chain(above.iter());
    Shared::new(chain.take(cima_abi::ANCESTORS).cloned().collect())
}

fn mapped() -> How {
    How::Mapped {
        prot: PROT_READ_EXEC,
        map_flags: MAP_PRIVATE,
    }
}

fn command(args: Vec<Vec<u8>>) -> Shared<Command> {
    Shared::new(Command {
        argc: u32::try_from(args.len()).unwrap_or(u32::MAX),
        args,
        truncated: false,
    })
}

fn no_file() -> Shared<Object> {
    let id = FileId {
        inode: 0,
        size: 0,
        fs_magic: 0,
        device: 0,
        generation: 0,
        links: 0,
        mode: 0,
    };
    Shared::new(Object {
        id,
        path: None,
        overlay: false,
        memfd: false,
    })
}

fn home(ns: [u32; NS_COUNT], generation: u64, cgroup_id: u64, cgroup: Vec<u8>) -> Shared<Home> {
    home_of(0, ns, generation, cgroup_id, cgroup)
}

fn home_of(
    container: u64,
    ns: [u32; NS_COUNT],
    mnt_generation: u64,
    cgroup_id: u64,
    cgroup: Vec<u8>,
) -> Shared<Home> {
    Shared::new(Home {
        ns,
        mnt_generation,
        cgroup_id,
        cgroup,
        cgroup_truncated: false,
        container,
    })
}

/// As each engine names it.
fn cgroup(engine: Engine, id: &str) -> Vec<u8> {
    match engine {
        Engine::Docker => format!("/system.slice/docker-{id}.scope"),
        Engine::CriO => format!("/kubepods.slice/crio-{id}.scope"),
        _ => format!("/machine.slice/libpod-{id}.scope/container"),
    }
    .into_bytes()
}
