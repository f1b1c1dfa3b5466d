// SPDX-License-Identifier: Apache-2.0
//! Containers before they run: a hook says that one was made; its image is measured, the policy asked, what was found
//! written and anchored, and only then the probes are told whose its mount namespace is, and the hook that it may go on.
//!
//! What a hook says is believed as far as the kernel bears it out: the process is held, the mounts are the
//! kernel's, and the root that was measured is compared with the one that the container gets (`sb_pivotroot`). Called by
//! `server`, which speaks with hooks; owns the registry together with the probes' map.

mod bolt;
pub mod bundle;
mod ends;
mod engine;
mod image;
mod input;
pub mod process;
pub mod server;
pub mod state;
mod watchers;

use std::{
    collections::HashMap,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cima_abi::{MountNs, mount_ns, provenance};
use cima_policies::admission::{Admission, ImageSource, Input, LaunchedBy};
use image_digest::audit::{Stubs, StubsError};
use procfs::process::MountInfo;
use prost::Message as _;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use crate::{
    clock,
    containers::{Registered, Registry},
    ledger::{Message, WriterGone, WriterHandle},
    measure::{ContextEvent, PolicyEvent, proto},
    probes::{LoadError, Namespaces, device_of_mount},
};
use bundle::{Bundle, BundleError};
use ends::Ends;
use engine::Engine;
use image::{Measurer, Root};
use process::{Process, ProcessError};
use state::{State, StateError};

/// How long a container's runtime may take to say that it is gone, once its first process has ended.
const POSTSTOP: Duration = Duration::from_secs(10);
/// How long events of a container may still be in the kernel's queue once it is gone.
const AFTERMATH: Duration = Duration::from_secs(60);
/// Bytes of what the list says of a container; its readers take events of 1 MiB. Those of Kubernetes have some 10 KiB.
const LARGEST_CREATED: usize = 900 << 10;
/// Containers that are gone and can still be explained.
const EXPLAINED: usize = 1000;

/// Why a container is not registered.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// See [`StateError`].
    #[error(transparent)]
    State(#[from] StateError),
    /// See [`ProcessError`].
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// See [`BundleError`].
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A user may register their own containers only.
    #[error("process {pid} belongs to user {owner}, not to user {peer}, who asks")]
    Foreign {
        /// The process.
        pid: u32,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        peer: u32,
    },
    /// More than the list takes.
    #[error(
        "what is known of the container has {0} bytes, more than the {LARGEST_CREATED} that the list takes: arguments, mounts and annotations count"
    )]
    Large(usize),
    /// No container.
    #[error("process {0} is in the host's own mount namespace: it is no container's")]
    Host(u32),
    /// The map.
    #[error("the container cannot be registered: {0}")]
    Probes(#[from] LoadError),
    /// A defect.
    #[error(transparent)]
    Writer(#[from] WriterGone),
    /// The list.
    #[error("what was measured could not be written to the list")]
    Unwritten,
    /// Where digests of files are kept.
    #[error("{} cannot be made: {source}", path.display())]
    Known {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its mount namespace is not one in which a container is being made.
    #[error("the mount namespace of process {pid} is no new container's: {reason}")]
    Taken {
        /// The process.
        pid: u32,
        /// Why.
        reason: &'static str,
    },
    /// The end of containers cannot be watched.
    #[error("the end of containers cannot be watched: {0}")]
    Watch(#[source] std::io::Error),
    /// The table that is built in.
    #[error("{0}: this is a defect of cima")]
    Stubs(#[from] StubsError),
    /// A defect.
    #[error("a thread of cimad failed: this is a defect of cima")]
    Thread,
}

/// What a hook is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the container may go on.
    pub allowed: bool,
    /// Why not, or what was found.
    pub reasons: Vec<String>,
    /// `sha256:<hex>`, empty if the image could not be measured.
    pub image: String,
}

/// A container as it was judged.
#[derive(Debug, Clone)]
struct Known {
    created: proto::Created,
    /// What `createRuntime` said of the first process.
    pid: u32,
    start_ns: u64,
    gone: Option<proto::gone::Cause>,
}

/// Everything that hooks can ask for.
pub struct Containers {
    measurer: Arc<Measurer>,
    policy: RwLock<Arc<Admission>>,
    registry: Registry,
    namespaces: Mutex<Namespaces>,
    /// Of the host.
    host_mnt_ns: u32,
    queue: WriterHandle,
    last: AtomicU64,
    known: Mutex<HashMap<u64, Known>>,
    /// By mount namespace: who is registering it.
    turns: Mutex<HashMap<u32, Turn>>,
    ends: Ends,
}

/// Held by one hook at a time of those that speak of the same mount namespace.
type Turn = Arc<tokio::sync::Mutex<()>>;

/// Where it lies, and what it needs.
pub struct Setup {
    /// Directory of what is known of images.
    pub known_images: PathBuf,
    /// The policy to begin with.
    pub policy: Admission,
    /// Shared with the ledger's thread.
    pub registry: Registry,
    /// The probes' map.
    pub namespaces: Namespaces,
    /// Inode of the host's mount namespace.
    pub host_mnt_ns: u32,
    /// To the ledger's thread.
    pub queue: WriterHandle,
}

impl Containers {
    /// In a tokio runtime, in which containers are watched.
    ///
    /// # Errors
    /// See [`AdmissionError`].
    pub fn new(setup: Setup) -> Result<Arc<Self>, AdmissionError> {
        let Setup {
            known_images,
            policy,
            registry,
            namespaces,
            host_mnt_ns,
            queue,
        } = setup;
        let measurer = Measurer::new(known_images.clone(), Stubs::shipped()?);
        let measurer = measurer.map_err(|source| AdmissionError::Known {
            path: known_images,
            source,
        })?;
        let (ended, mut ends) = mpsc::unbounded_channel();
        let watched = Ends::watch(move |number| {
            // Nobody listens once the daemon ends.
            let _ = ended.send(number);
        })
        .map_err(AdmissionError::Watch)?;
        let containers = Arc::new(Self {
            measurer: Arc::new(measurer),
            policy: RwLock::new(Arc::new(policy)),
            registry,
            namespaces: Mutex::new(namespaces),
            host_mnt_ns,
            queue,
            last: AtomicU64::new(0),
            known: Mutex::default(),
            turns: Mutex::default(),
            ends: watched,
        });
        let this = Arc::downgrade(&containers);
        Handle::current().spawn(async move {
            while let Some(number) = ends.recv().await {
                let this = this.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(POSTSTOP).await;
                    let Some(this) = this.upgrade() else { return };
                    if let Err(error) = this.gone(number, proto::gone::Cause::Ended) {
                        tracing::error!("{error}");
                    }
                });
            }
        });
        Ok(containers)
    }

    /// Takes up the containers that the list says were admitted and are not gone: watches those that are there, and says of
    /// the others that they ended unseen.
    ///
    /// # Errors
    /// The map cannot be read, or the ledger's thread has ended.
    pub fn take_up(
        self: &Arc<Self>,
        before: impl Iterator<Item = proto::Created>,
    ) -> Result<(), AdmissionError> {
        let registered: Vec<_> = self.namespaces().all()?;
        for created in before {
            let number = created.container;
            self.last.fetch_max(number, Ordering::Relaxed);
            let known = Known {
                pid: created.init_tgid,
                start_ns: created.init_start_ns,
                created,
                gone: None,
            };
            let is_registered = registered.iter().any(|(_, ns)| ns.container == number);
            let process = match Process::open(known.pid) {
                Ok(process) => Some(process),
                Err(ProcessError::Gone(_)) => None,
                // It may live: its end is then said by its runtime.
                Err(error) => {
                    tracing::error!("container {} is not watched: {error}", known.created.id);
                    self.known().insert(number, known);
                    continue;
                }
            };
            let process =
                process.filter(|process| is_registered && process.start_ns == known.start_ns);
            self.known().insert(number, known);
            match process {
                Some(process) => self.watch(number, process.into_held()),
                None => self.gone(number, proto::gone::Cause::Unseen)?,
            }
        }
        Ok(())
    }

    /// The policy from now on; it is in the list when this returns.
    ///
    /// # Errors
    /// It could not be written.
    pub async fn set_policy(
        &self,
        policy: Admission,
        events: Vec<PolicyEvent>,
        context: ContextEvent,
    ) -> Result<(), AdmissionError> {
        self.say(events, context).await?;
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        Ok(())
    }

    /// A runtime has made a container, says a hook of user `peer`: see the module. Reads files and asks the kernel between
    /// its waiting: not on a thread that serves others.
    ///
    /// # Errors
    /// See [`AdmissionError`]: the container is not registered.
    pub async fn create(
        self: &Arc<Self>,
        state: &[u8],
        peer: u32,
    ) -> Result<Verdict, AdmissionError> {
        let asked = Instant::now();
        let state = State::parse(state)?;
        let process = Process::open(state.process()?)?;
        if peer != 0 && process.owner != peer {
            return Err(AdmissionError::Foreign {
                pid: process.pid,
                owner: process.owner,
                peer,
            });
        }
        if process.mnt_ns == self.host_mnt_ns {
            return Err(AdmissionError::Host(process.pid));
        }
        let turn = self.turn(process.mnt_ns);
        let _turn = turn.lock().await;
        if let Some(verdict) = self.judged(&state, &process)? {
            return Ok(verdict);
        }
        let bundle = Bundle::read(&state.bundle, process.owner)?;
        let found = self.measure(&state, &process, &bundle, peer).await?;
        let measured_ms = found.took.as_secs_f64() * 1e3;
        let verdict = self.judge(&state, process, found).await?;
        if verdict.allowed {
            let answered_ms = asked.elapsed().as_secs_f64() * 1e3;
            tracing::info!(
                "container {} of {} is admitted: measured_ms={measured_ms:.1} answered_ms={answered_ms:.1}",
                state.id,
                verdict.image
            );
        }
        Ok(verdict)
    }

    /// For the hooks that speak of this mount namespace, one after the other.
    fn turn(&self, mnt_ns: u32) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(mnt_ns).or_default())
    }

    /// The verdict on a container that was admitted already, if a second hook asks (engine and runtime may both have one).
    fn judged(&self, state: &State, process: &Process) -> Result<Option<Verdict>, AdmissionError> {
        let number = match self.namespaces().get(process.mnt_ns)? {
            Some(ns) if ns.container != 0 => ns.container,
            _ => return Ok(None),
        };
        let known = self.known();
        let same = known.get(&number).filter(|known| {
            known.created.id == state.id
                && (known.pid, known.start_ns) == (process.pid, process.start_ns)
        });
        Ok(same.map(|known| Verdict {
            allowed: true,
            reasons: Vec::new(),
            image: image_text(&known.created.image),
        }))
    }

    /// Reads everything that the policy is to know.
    async fn measure(
        &self,
        state: &State,
        process: &Process,
        bundle: &Bundle,
        peer: u32,
    ) -> Result<Found, AdmissionError> {
        let mounts = process.mounts()?;
        let annotations = bundle.spec.annotations().clone().unwrap_or_default();
        let engine = Engine::of(&state.bundle, &annotations);
        let began = Instant::now();
        // What a user's overlay shows is named by directories of the user's own mount namespace, where names mean what the
        // user wants them to; and whoever copies the host's mounts has those of root's containers.
        let root = if peer == 0 {
            Root::find(process.pid, &bundle.root).map_err(|error| error.to_string())
        } else {
            Err("it is a user's own, whose word alone says where it lies".to_owned())
        };
        let root = root.map(Arc::new);
        let (image, source, findings, published) = match &root {
            Err(error) => (Err(error.clone()), None, None, None),
            Ok(root) => {
                let measured = self.measurer.measure(root).await;
                let findings = match (&**root, &measured) {
                    (Root::Overlay(_), Ok(measured)) => {
                        let (measurer, root, measured) = (
                            Arc::clone(&self.measurer),
                            Arc::clone(root),
                            Arc::clone(measured),
                        );
                        tokio::task::spawn_blocking(move || match &*root {
                            Root::Overlay(container) => measurer
                                .audit(container, &measured, engine.stubs())
                                .map_err(|error| {
                                    tracing::warn!("{error}");
                                })
                                .ok(),
                            Root::Directory(_) => None,
                        })
                        .await
                        .map_err(|_| AdmissionError::Thread)?
                    }
                    _ => None,
                };
                let source = match &**root {
                    Root::Overlay(_) => ImageSource::Overlay,
                    Root::Directory(_) => ImageSource::Directory,
                };
                (
                    measured.map(|measured| measured.digest),
                    Some(source),
                    findings,
                    root.published(),
                )
            }
        };
        let took = began.elapsed();
        // Root's stores are not opened for what a user says.
        let claim = if peer == 0 {
            let beside = engine::Beside {
                name: root.as_ref().ok().and_then(|root| root.name()),
                published,
            };
            engine.claim(&state.id, &state.bundle, &annotations, beside)
        } else {
            engine::Claim::default()
        };
        let (login_uid, session) = process.login();
        let facts = input::Facts {
            id: &state.id,
            bundle: &state.bundle,
            spec: &bundle.spec,
            root: &bundle.root,
            engine,
            claim: &claim,
            launched_by: LaunchedBy {
                uid: if peer == 0 { process.owner } else { peer },
                login_uid,
                session,
            },
            rootless: peer != 0,
            image: image.clone(),
            source,
            findings: findings.as_deref(),
            mounts: &mounts,
        };
        let (input, volumes) = facts.input();
        let image = image.ok();
        let measured = source.filter(|_| image.is_some());
        Ok(Found {
            input,
            volumes,
            image,
            root: measured.map_or((0, 0), |source| root_of(&mounts, bundle, source)),
            took,
        })
    }

    async fn judge(
        self: &Arc<Self>,
        state: &State,
        process: Process,
        found: Found,
    ) -> Result<Verdict, AdmissionError> {
        let Found {
            input,
            volumes,
            image,
            root,
            took: _,
        } = found;
        let policy = Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner));
        let sha256 = policy.files().digest().0.to_vec();
        // An input is plain data: it can be written.
        let text = serde_json::to_string(&input).unwrap_or_default();
        let decision = tokio::task::spawn_blocking(move || policy.decide(&input)).await;
        let decision = decision.map_err(|_| AdmissionError::Thread)?;
        let verdict = Verdict {
            allowed: decision.allowed(),
            reasons: decision.denied,
            image: image.map(|image| image.to_string()).unwrap_or_default(),
        };
        let generation = self.fresh(&process)?.generation;
        let created = proto::Created {
            container: self.number(),
            id: state.id.clone(),
            image: image
                .map(|image| image.bytes().to_vec())
                .unwrap_or_default(),
            mnt_ns: process.mnt_ns,
            mnt_generation: generation,
            init_tgid: process.pid,
            init_start_ns: process.start_ns,
            input: text,
            allowed: verdict.allowed,
            reasons: verdict.reasons.clone(),
            policy: sha256,
            volumes: volumes
                .into_iter()
                .map(|volume| proto::Volume {
                    destination: volume.destination,
                    source: volume.source,
                    device: volume.device,
                })
                .collect(),
        };
        if created.encoded_len() > LARGEST_CREATED {
            return Err(AdmissionError::Large(created.encoded_len()));
        }
        let events = image
            .filter(|_| verdict.allowed)
            .map(|image| PolicyEvent::image(&image));
        let what = proto::context_event::What::Created(created.clone());
        self.say(
            events.into_iter().collect(),
            ContextEvent::of_agent(clock::boot_ns(), what),
        )
        .await?;
        if !verdict.allowed {
            tracing::info!(
                "container {} is denied: {}",
                state.id,
                verdict.reasons.join("; ")
            );
            self.keep(&process, created, Some(proto::gone::Cause::Denied));
            self.forget();
            return Ok(verdict);
        }
        // Before any event can have the number.
        self.registry.insert(Registered::of(&created));
        let number = created.container;
        self.keep(&process, created, None);
        // As it is by now: the TPM took its time, and the probes write, too.
        let registered = self.fresh(&process).and_then(|now| {
            if now.generation != generation {
                return Err(taken(&process, "it is another one by now"));
            }
            let known = MountNs {
                container: number,
                init_start_ns: process.start_ns,
                init_tgid: process.pid,
                root_device: root.0,
                root_inode: root.1,
                image: words_of(image.as_ref()),
                provenance: match image {
                    Some(_) => provenance::IMAGE,
                    None => provenance::UNMEASURED,
                },
                // Of this container, nothing yet.
                state: now.state & !(mount_ns::STARTED | mount_ns::ENDED),
                ..now
            };
            Ok(self.namespaces().set(process.mnt_ns, &known)?)
        });
        // The inode is this container's as long as its process lives: else it may be another's by now.
        let lives = process.is_alive();
        self.watch(number, process.into_held());
        if registered.is_err() {
            self.gone(number, proto::gone::Cause::Unseen)?;
        }
        registered?;
        if !lives {
            return Err(ProcessError::Gone(state.pid).into());
        }
        Ok(verdict)
    }

    /// What is known of a process's mount namespace, if a container is being made in it: nobody has registered it, nothing has
    /// executed in it, and its root is still the one that it was copied with.
    fn fresh(&self, process: &Process) -> Result<MountNs, AdmissionError> {
        if !process.is_in(process.mnt_ns) {
            return Err(taken(process, "the process has left it"));
        }
        let known = self.namespaces().get(process.mnt_ns)?;
        let known = known.ok_or_else(|| {
            taken(
                process,
                "it was there before cimad's probes, or there are too many",
            )
        })?;
        if known.container != 0 {
            return Err(taken(process, "it is registered already"));
        }
        if known.state & (mount_ns::OPEN | mount_ns::PIVOTED | mount_ns::OTHER_ROOT)
            != mount_ns::OPEN
        {
            return Err(taken(
                process,
                "a program was executed in it, or its root exchanged",
            ));
        }
        Ok(known)
    }

    /// Remembers how a container was judged.
    fn keep(&self, process: &Process, created: proto::Created, gone: Option<proto::gone::Cause>) {
        let known = Known {
            pid: process.pid,
            start_ns: process.start_ns,
            gone,
            created,
        };
        self.known().insert(known.created.container, known);
    }

    /// A runtime says that a container is gone. Whether it was known.
    ///
    /// # Errors
    /// The state is none, or the ledger's thread has ended.
    pub fn stop(&self, state: &[u8]) -> Result<bool, AdmissionError> {
        let state = State::parse(state)?;
        let mut numbers: Vec<_> = {
            let known = self.known();
            let of = |known: &&Known| known.gone.is_none() && known.created.id == state.id;
            known
                .values()
                .filter(of)
                .map(|known| (known.created.container, known.pid, known.start_ns))
                .collect()
        };
        // Only when the process is gone indeed: an id can be said by anybody, and two engines may have the same.
        numbers.retain(|(_, pid, start_ns)| {
            !Process::open(*pid).is_ok_and(|process| process.start_ns == *start_ns)
        });
        for (number, ..) in &numbers {
            self.gone(*number, proto::gone::Cause::Stopped)?;
        }
        Ok(!numbers.is_empty())
    }

    /// How a container was judged, as JSON: the last one with this id, with an id that begins so, or with this name.
    pub fn explain(&self, container: &str) -> Option<String> {
        let known = self.known();
        let names = |created: &proto::Created| {
            let by_id = container.len() >= 12 && created.id.starts_with(container);
            let input: Option<Input> = serde_json::from_str(&created.input).ok();
            by_id
                || created.id == container
                || input.is_some_and(|input| input.container.name.as_deref() == Some(container))
        };
        let found = known
            .values()
            .filter(|known| names(&known.created))
            .max_by_key(|known| known.created.container)?;
        let created = &found.created;
        let input: serde_json::Value = serde_json::from_str(&created.input).unwrap_or_default();
        let explained = serde_json::json!({
            "container": created.container,
            "id": created.id,
            "allowed": created.allowed,
            "reasons": created.reasons,
            "image": image_text(&created.image),
            "policy": format!("sha256:{}", hex::encode(&created.policy)),
            "mnt_ns": created.mnt_ns,
            "pid": created.init_tgid,
            "gone": found.gone.map(|cause| cause.as_str_name()),
            "input": input,
        });
        Some(explained.to_string())
    }

    fn gone(&self, number: u64, cause: proto::gone::Cause) -> Result<(), AdmissionError> {
        {
            let mut known = self.known();
            let Some(known) = known.get_mut(&number).filter(|known| known.gone.is_none()) else {
                return Ok(());
            };
            known.gone = Some(cause);
        }
        self.clear(number)?;
        let gone = proto::Gone {
            container: number,
            cause: cause.into(),
        };
        let what = proto::context_event::What::Gone(gone);
        self.queue.send(Message::Say {
            policy_events: Vec::new(),
            context: Some(Box::new(ContextEvent::of_agent(clock::boot_ns(), what))),
            done: None,
        })?;
        self.forget();
        // Its last events may still be in the kernel's queue.
        let registry = self.registry.clone();
        tokio::spawn(async move {
            tokio::time::sleep(AFTERMATH).await;
            registry.remove(number);
        });
        Ok(())
    }

    /// Has the probes take nothing for the container any more: not what it made inside, nor what outlives it.
    fn clear(&self, number: u64) -> Result<(), AdmissionError> {
        let mut namespaces = self.namespaces();
        let of_it = |known: &MountNs| known.container == number;
        let all = namespaces.all()?;
        for (inode, _) in all.into_iter().filter(|(_, known)| of_it(known)) {
            // As it is by now: the inode may be another's, whose element this must not be.
            if let Some(known) = namespaces.get(inode)?.filter(of_it) {
                let known = MountNs {
                    container: 0,
                    ..known
                };
                namespaces.set(inode, &known)?;
            }
        }
        Ok(())
    }

    /// Waits for the end of a container's first process, then for its runtime to say so.
    fn watch(&self, number: u64, held: OwnedFd) {
        if let Err(error) = self.ends.add(number, held) {
            tracing::error!("the end of container {number} cannot be watched: {error}");
        }
    }

    /// Keeps the last of those that are gone.
    fn forget(&self) {
        let mut known = self.known();
        let mut gone: Vec<_> = known
            .iter()
            .filter(|(_, known)| known.gone.is_some())
            .map(|(number, _)| *number)
            .collect();
        gone.sort_unstable();
        let surplus = gone.len().saturating_sub(EXPLAINED);
        for number in &gone[..surplus] {
            known.remove(number);
        }
    }

    async fn say(
        &self,
        policy_events: Vec<PolicyEvent>,
        context: ContextEvent,
    ) -> Result<(), AdmissionError> {
        let (done, written) = oneshot::channel();
        self.queue.send(Message::Say {
            policy_events,
            context: Some(Box::new(context)),
            done: Some(done),
        })?;
        written.await.map_err(|_| AdmissionError::Unwritten)
    }

    /// A number that nobody had in this boot: the time, or the next if that is taken.
    fn number(&self) -> u64 {
        let now = clock::boot_ns();
        let next = |last: u64| Some(now.max(last + 1));
        let last = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        now.max(last.unwrap_or_default() + 1)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn namespaces(&self) -> MutexGuard<'_, Namespaces> {
        self.namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct Found {
    input: Input,
    volumes: Vec<crate::containers::Volume>,
    image: Option<image_digest::ImageDigest>,
    /// Device and inode of the root that was measured; 0: not to be compared.
    root: (u32, u64),
    /// How long the image took.
    took: Duration,
}

fn taken(process: &Process, reason: &'static str) -> AdmissionError {
    AdmissionError::Taken {
        pid: process.pid,
        reason,
    }
}

/// A digest as the probes hand it on: words in memory's order.
fn words_of(image: Option<&image_digest::ImageDigest>) -> [u64; 4] {
    let mut words = [0; 4];
    let bytes = image.iter().flat_map(|image| image.bytes().chunks_exact(8));
    for (word, bytes) in words.iter_mut().zip(bytes) {
        *word = bytes.try_into().map_or(0, u64::from_ne_bytes);
    }
    words
}

fn image_text(image: &[u8]) -> String {
    if image.is_empty() {
        return String::new();
    }
    format!("sha256:{}", hex::encode(image))
}

/// What the container's root is to be, by the kernel's numbers: an overlay has a device of its own; of a directory
/// its inode counts, too.
fn root_of(mounts: &[MountInfo], bundle: &Bundle, source: ImageSource) -> (u32, u64) {
    let root = bundle.root.as_path();
    let mounted = mounts
        .iter()
        .filter(|mount| root.starts_with(&mount.mount_point));
    let Some(mount) = mounted.max_by_key(|mount| mount.mount_point.as_os_str().len()) else {
        return (0, 0);
    };
    let device = device_of_mount(mount).unwrap_or_default();
    match source {
        ImageSource::Overlay => (device, 0),
        ImageSource::Directory => (device, std::fs::metadata(root).map_or(0, |data| data.ino())),
    }
}
