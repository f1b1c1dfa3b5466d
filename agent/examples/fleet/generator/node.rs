// SPDX-License-Identifier: Apache-2.0
//! What happens on a node from its boot on, and what its agent makes of it: the part of the agent's writer, without queue
//! and TPM.

use std::io;

use cima_abi::flag;
use cima_agent::{
    containers::{Identities, Registered, Registry},
    measure::{
        Anchorage, Batch, ContextEvent, Executed, PolicyEvent, SelfPart, loss, measure,
        proto::{self, context_event::What, gone, start::Reason},
    },
    probes::Event,
};

use super::{
    Fleet,
    container::Container,
    image::Image,
    kernel::Kernel,
    list::{List, PCR, Written},
    numbers::{Numbers, digest_of, uuid_of},
};

const THIRTY_DAYS_NS: u64 = 30 * 86_400 * 1_000_000_000;
/// The last entries of a list are executions of known programs, one each: so the number comes out right.
const LAST: u64 = 64;
/// Bytes of a record in the kernel's queue, about.
const RECORD: u64 = 1_600;

/// What happens besides programs being run, and after how many thousandths of the list.
const SPECIAL: [(u64, Special); 24] = [
    (30, Special::Denied),
    (60, Special::Stranger),
    (90, Special::Breach),
    (130, Special::Again),
    (170, Special::Writer),
    (200, Special::Breach),
    (240, Special::Again),
    (290, Special::Loss),
    (330, Special::Again),
    (370, Special::Stranger),
    (410, Special::Breach),
    (450, Special::Again),
    (500, Special::Restart),
    (540, Special::Again),
    (580, Special::Denied),
    (620, Special::Breach),
    (660, Special::Policy),
    (700, Special::Again),
    (740, Special::Loss),
    (780, Special::Writer),
    (820, Special::Stopped),
    (860, Special::Breach),
    (900, Special::Again),
    (940, Special::Breach),
];

#[derive(Clone, Copy)]
enum Special {
    /// A container may not run.
    Denied,
    /// Something runs in a container that nobody registered.
    Stranger,
    Breach,
    /// Somebody can write what is executed.
    Writer,
    /// A container ends and is started again.
    Again,
    /// A container ends.
    Stopped,
    Loss,
    /// The agent is restarted.
    Restart,
    /// The agent takes another policy.
    Policy,
}

/// See the module.
pub(super) struct Node<'a> {
    images: &'a [Image],
    name: String,
    seed: u64,
    /// Entries that its list is to have.
    target: u64,
    kernel: Kernel,
    /// Mean time between two groups.
    pace_ns: u64,
    list: List,
    boot_id: String,
    realtime_offset_ns: i64,
    registry: Registry,
    identities: Identities,
    containers: Vec<Container<'a>>,
    /// Containers so far, those that were denied included.
    numbered: u64,
    /// Where the kernel's queue is read.
    position: u64,
}

impl<'a> Node<'a> {
    pub(super) fn new(fleet: &Fleet, images: &'a [Image], index: usize) -> io::Result<Self> {
        let width = fleet.nodes.to_string().len().max(2);
        let name = format!("node-{:0width$}", index + 1);
        let boot_id = uuid_of(&format!("boot/{}/{name}", fleet.seed));
        let mut numbers = Numbers::new(fleet.seed, index as u64);
        // One after the other: some minutes apart.
        let booted_s = fleet.start_s + 420 * index as i64 + numbers.below(300) as i64;
        let target = fleet.share(fleet.entries, index);
        let slots = fleet.share(fleet.containers as u64, index) as usize;
        let containers = (0..slots)
            .map(|slot| {
                // Neighbours have most of their images in common.
                let image = &images[(slot * 7 + index * 3) % images.len()];
                Container::new(image, &name, slot, fleet.seed)
            })
            .collect();
        let registry = Registry::default();
        Ok(Self {
            images,
            seed: fleet.seed,
            target,
            kernel: Kernel::new(numbers),
            // Three of four entries are groups' batches.
            pace_ns: THIRTY_DAYS_NS / (target * 3 / 4).max(1),
            list: List::new(&fleet.dir.join(&name), &boot_id)?,
            name,
            boot_id,
            realtime_offset_ns: booted_s * 1_000_000_000,
            identities: Identities::new(registry.clone()),
            registry,
            containers,
            numbered: 0,
            position: 0,
        })
    }

    /// All of it.
    pub(super) fn run(mut self) -> io::Result<Written> {
        self.begin(Reason::Boot)?;
        for slot in 0..self.containers.len() {
            self.kernel.wait(2_000_000_000);
            self.start(slot)?;
        }
        let mut special = SPECIAL.iter().peekable();
        while self.list.entries() < self.target {
            self.kernel.wait(self.pace_ns);
            let left = self.target - self.list.entries();
            if left <= LAST {
                let slot = self.kernel.numbers.index(self.containers.len());
                let events = self.containers[slot].run_again(&mut self.kernel);
                self.say(events)?;
                continue;
            }
            let done = self.list.entries() * 1000 / self.target;
            match special.next_if(|(at, _)| *at <= done) {
                Some((_, special)) => self.special(*special)?,
                None => self.step()?,
            }
        }
        self.list.finish()
    }

    /// The agent starts.
    fn begin(&mut self, reason: Reason) -> io::Result<()> {
        let banks = self.list.values();
        let banks = banks.iter().map(|value| proto::Bank {
            algorithm: value.algorithm().name().to_owned(),
            value: value.bytes().to_vec(),
        });
        let start = proto::Start {
            boot_id: self.boot_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: "6.12.48+deb13-amd64".to_owned(),
            pcr: Some(PCR),
            banks: banks.collect(),
            realtime_offset_ns: self.realtime_offset_ns,
            reason: reason.into(),
            sink: Anchorage::Pcr.name().to_owned(),
        };
        self.say_itself(Vec::new(), What::Start(start))?;
        let parts = [
            SelfPart::Binary,
            SelfPart::Probes,
            SelfPart::Config,
            SelfPart::Policy,
            SelfPart::Admission,
        ]
        .map(|part| (part, digest_of(&format!("part/{part}"))));
        let listed = parts.map(|(part, digest)| PolicyEvent::agent(part, &digest));
        let events = std::iter::once(PolicyEvent::sink(Anchorage::Pcr)).chain(listed);
        let parts = parts.map(|(part, digest)| proto::Part {
            name: part.to_string(),
            digest: digest.to_string(),
        });
        let parts = What::Parts(proto::Parts {
            parts: parts.to_vec(),
        });
        self.say_itself(events.collect(), parts)
    }

    /// A container is made, admitted and started.
    fn start(&mut self, slot: usize) -> io::Result<()> {
        self.numbered += 1;
        let container = &mut self.containers[slot];
        let made = container.make(&mut self.kernel, self.numbered);
        let created = container.created(&[]);
        let image = PolicyEvent::image(&container.image.digest);
        self.say(vec![made])?;
        self.registry.insert(Registered::of(&created));
        self.say_itself(vec![image], What::Created(created))?;
        let events = self.containers[slot].start(&mut self.kernel);
        self.say(events)
    }

    fn stop(&mut self, slot: usize) -> io::Result<()> {
        let container = &mut self.containers[slot];
        let ended = container.end(&mut self.kernel);
        let number = container.number;
        self.say(vec![ended])?;
        let cause = match self.kernel.numbers.below(3) {
            0 => gone::Cause::Ended,
            _ => gone::Cause::Stopped,
        };
        let gone = proto::Gone {
            container: number,
            cause: cause.into(),
        };
        self.say_itself(Vec::new(), What::Gone(gone))?;
        self.registry.remove(number);
        Ok(())
    }

    /// Programs are run: in one of three groups is one that is new.
    fn step(&mut self) -> io::Result<()> {
        let numbers = &mut self.kernel.numbers;
        let mut slot = numbers.index(self.containers.len());
        let events = if numbers.below(3) == 0 {
            // Mostly somewhere where that is what is done.
            let builders: Vec<_> = (0..self.containers.len())
                .filter(|slot| self.containers[*slot].builds())
                .collect();
            if !builders.is_empty() && numbers.chance(800) {
                slot = *numbers.of(&builders);
            }
            self.containers[slot].run_new(&mut self.kernel, 0)
        } else {
            let count = match numbers.below(100) {
                0..70 => 1,
                70..82 => 2,
                82..90 => 3,
                90..95 => 4,
                _ => 5,
            };
            self.containers[slot].run(&mut self.kernel, count)
        };
        self.say(events)
    }

    fn special(&mut self, special: Special) -> io::Result<()> {
        let slot = self.kernel.numbers.index(self.containers.len());
        match special {
            Special::Denied => self.deny(),
            Special::Stranger => self.stranger(),
            Special::Breach => {
                let events = self.containers[slot].breach(&mut self.kernel);
                self.say(events)
            }
            Special::Writer => {
                let events = self.containers[slot].run_new(&mut self.kernel, flag::WRITER);
                self.say(events)
            }
            Special::Again => {
                self.stop(slot)?;
                self.kernel.wait(10_000_000_000);
                self.start(slot)
            }
            Special::Stopped if self.containers.len() > 1 => {
                self.stop(slot)?;
                self.containers.remove(slot);
                Ok(())
            }
            Special::Stopped => Ok(()),
            Special::Loss => {
                let (event, context) = loss("exec-ring-full", 1, 17, self.kernel.tick());
                self.commit(vec![event], Vec::from([context]))
            }
            Special::Restart => {
                self.say_itself(Vec::new(), What::Stop(proto::Stop {}))?;
                self.kernel.wait(5_000_000_000);
                self.begin(Reason::Restart)
            }
            Special::Policy => self.policy(),
        }
    }

    fn deny(&mut self) -> io::Result<()> {
        self.numbered += 1;
        let image = self.kernel.numbers.of(self.images);
        let slot = self.containers.len() + self.numbered as usize;
        let mut container = Container::new(image, &self.name, slot, self.seed);
        let made = container.make(&mut self.kernel, self.numbered);
        let reasons = [
            "the image is not one of this site",
            "it asks for CAP_SYS_ADMIN",
        ];
        let created = container.created(&reasons);
        self.say(vec![made])?;
        self.say_itself(Vec::new(), What::Created(created))
    }

    /// Nobody announced it, and yet it runs something.
    fn stranger(&mut self) -> io::Result<()> {
        let image = self.kernel.numbers.of(self.images);
        let slot = 1000 + self.numbered as usize;
        let mut container = Container::new(image, &self.name, slot, self.seed);
        let mut events = vec![container.make(&mut self.kernel, 0)];
        events.extend(container.run(&mut self.kernel, 2));
        self.say(events)
    }

    fn policy(&mut self) -> io::Result<()> {
        let digest = digest_of("another policy");
        let loaded = proto::PolicyLoaded {
            sha256: digest.bytes().to_vec(),
            name: SelfPart::Policy.to_string(),
        };
        let event = PolicyEvent::agent(SelfPart::Policy, &digest);
        self.say_itself(vec![event], What::PolicyLoaded(loaded))
    }

    /// What the agent says itself.
    fn say_itself(&mut self, events: Vec<PolicyEvent>, what: What) -> io::Result<()> {
        let context = ContextEvent::of_agent(self.kernel.tick(), what);
        self.commit(events, vec![context])
    }

    /// What the kernel reported, as a group.
    fn say(&mut self, events: Vec<Event>) -> io::Result<()> {
        let (mut said, mut context) = (Vec::new(), Vec::new());
        let mut executed = Executed::default();
        self.position += RECORD * events.len() as u64;
        for event in events {
            let identity = self.identities.of(&event);
            let measured = measure(&event, &identity, &self.boot_id, &mut executed);
            said.extend(measured.policy_event);
            context.push(measured.context);
        }
        self.commit(said, context)
    }

    fn commit(&mut self, events: Vec<PolicyEvent>, context: Vec<ContextEvent>) -> io::Result<()> {
        let mut batch = Batch::new();
        for event in context {
            batch.push(event);
        }
        batch.set_queue(19_000_000_000, self.position);
        self.list.commit(events, batch)
    }
}
