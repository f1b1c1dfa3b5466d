// SPDX-License-Identifier: Apache-2.0
//! Wires the rooms together and runs until told to stop. Owns the order of things:
//! look (preflight), attach or take over the probes, prove (self-test), open the list, go on
//! where the queue was left, measure ourselves, then the containers. Called by `bin/cimad`.
//!
//! Back-pressure runs against the flow: a slow TPM makes the ledger's groups longer, then
//! the kernel's ring buffer fills, then events are counted as lost. Nothing waits in between.

mod handover;

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cima_abi::{Ns, Stat};
use cima_policies::{
    Host, MeasurementPolicy, PolicyError,
    admission::{Admission, PolicyDigest},
};
use ima_log::{Digest, HashAlgorithm};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    admission::{
        AdmissionError, Containers, Setup,
        server::{self as hooks, ServeError, Watchers},
    },
    clock,
    config::{Config, SinkKind},
    ledger::{
        Ledger, LedgerError, Message, Opened, Origin, Writer, WriterGone, WriterHandle, anchored_by,
    },
    machine::Machine,
    measure::{Anchorage, ContextEvent, PolicyEvent, SelfPart, loss, proto},
    metrics::{Metrics, Timed, serve},
    preflight,
    probes::{
        BtfError, LoadError, Losses, Offsets, Probes, SelfTest, SelfTestError, Settings, Stats,
        host,
    },
    sink::{Choice, HOST_PCR, SinkError, choose},
};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How often the counters are looked at.
const COUNTERS: Duration = Duration::from_secs(1);
/// How long the TPM may take for one answer before the log says that it does.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a stop may take. What is not written then is written by the next start.
const STOP: Duration = Duration::from_secs(10);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The host lacks something; one line each.
    #[error("{}", lines(.0))]
    Missing(Vec<preflight::Missing>),
    /// A file or descriptor.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Another cimad has the list or the probes.
    #[error("another cimad runs on {}", .0.display())]
    Running(PathBuf),
    /// See [`PolicyError`].
    #[error("{}: {source}", path.display())]
    Policy {
        /// The policy's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PolicyError,
    },
    /// See [`AdmissionRulesError`](cima_policies::admission::AdmissionError).
    #[error("the admission policy in {}: {source}", dir.display())]
    Rules {
        /// Its directory.
        dir: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<cima_policies::admission::AdmissionError>,
    },
    /// See [`AdmissionError`].
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// See [`ServeError`].
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// See [`BtfError`].
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// See [`LoadError`].
    #[error(transparent)]
    Load(#[from] LoadError),
    /// See [`SelfTestError`].
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
    /// See [`SinkError`].
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// See [`LedgerError`].
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A defect of cima.
    #[error("{0}: this is a defect of cima")]
    WriterGone(#[from] WriterGone),
}

fn lines(missing: &[preflight::Missing]) -> String {
    missing
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

fn doing(action: impl Into<String>) -> impl FnOnce(io::Error) -> DaemonError {
    |source| DaemonError::Io {
        action: action.into(),
        source,
    }
}

/// How many threads that may wait the daemon needs with this configuration.
pub fn blocking_threads(config: &Config) -> usize {
    // One is left for whatever is not asked for by hooks.
    hooks::threads(config.admission.users.len()) + 1
}

/// Runs the daemon with `config`, whose file had the bytes `config_bytes`, until
/// SIGTERM or SIGINT; then everything that was queued has been written.
///
/// # Errors
/// See [`DaemonError`]. Before the list is opened nothing on the host is changed.
pub async fn run(config: &Config, config_bytes: &[u8]) -> Result<(), DaemonError> {
    let report = preflight::check(config, &Machine::here());
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    if !report.missing.is_empty() {
        return Err(DaemonError::Missing(report.missing));
    }
    let (policy, policy_bytes) = read_policy(&config.policy)?;
    let object = read_object(&config.probes.object)?;
    let admission = read_admission(&config.admission.rules)?;
    let host = host().map_err(doing("look at the namespaces and the root of process 1"))?;
    let mut reload = signal(SignalKind::hangup()).map_err(doing("catch signals"))?;

    // Until the process is gone, and no sooner: a thread that waits for the TPM may be left behind.
    for dir in [&config.state_dir, &config.probes.pin_dir] {
        std::mem::forget(lock(dir)?);
    }
    let origin = origin().map_err(doing(format!("read {BOOT_ID}")))?;
    // One that does not work is an error once the probes are attached, which queue what runs until it does.
    let choice = choose(config, anchored_by(&config.state_dir, &origin.boot_id)?);
    let lister = choice.as_ref().ok();
    let lister = lister.and_then(|choice| choice.lister.clone());
    let offsets = Offsets::from_running_kernel()?;
    let settings = Settings {
        object: &object,
        lister: lister.as_ref(),
        offsets: &offsets,
        ring_bytes: config.probes.ring_bytes,
        debug: config.probes.debug,
        pin_dir: &config.probes.pin_dir,
    };
    let mut attached = Probes::attach(&settings, clock::boot_ns())?;
    let self_test = SelfTest::run(&mut attached.probes, &policy.scope(&host)).await?;
    tracing::info!("the probes are attached and read this kernel's structures correctly");

    let metrics = Arc::new(Metrics::default());
    let Choice { sink, why, .. } = choice?;
    let anchorage = sink.anchorage();
    tracing::info!(
        "entries are anchored by the sink {}: {why}",
        anchorage.name()
    );
    if anchorage == Anchorage::None && config.sink.kind == SinkKind::Auto {
        tracing::error!(
            "there is no TPM: nothing vouches for the list; the next start looks again"
        );
    }
    let pcr = sink.pcr().unwrap_or(config.sink.pcr);
    let sink = Box::new(Timed::new(sink, Arc::clone(&metrics)));
    // Whose readers would have looked at the kernel's.
    let ascii =
        (anchorage == Anchorage::Pcr && pcr == HOST_PCR).then_some(&*config.sink.ascii_list);
    let (mut ledger, opened) = Ledger::open(&config.state_dir, origin, sink, pcr, ascii)?;
    report_opened(&opened, &ledger);
    let digest = |bytes: &[u8]| HashAlgorithm::Sha256.digest(bytes);
    let mut parts = vec![
        (SelfPart::Binary, self_test.binary),
        (SelfPart::Probes, digest(&object)),
        (SelfPart::Config, digest(config_bytes)),
        (SelfPart::Policy, digest(&policy_bytes)),
        (SelfPart::Admission, digest_of(&admission)),
    ];
    parts.extend(lister.map(|lister| (SelfPart::Lister, digest(lister.bytes()))));
    let (probes, queue) = handover::go_on(attached, &mut ledger, &opened, (anchorage, &parts))?;
    let losses = Losses::reported(ledger.losses());
    let listen = config.listen().unwrap_or_default();
    if let Err(error) = serve(&listen, &metrics).await {
        // Measuring matters more.
        tracing::error!("{error}; going on without");
    }
    let waker = queue.waker();
    let watchers = Watchers::of(ledger.committed());
    let (registry, before) = (ledger.registry().clone(), ledger.containers().clone());
    let (writer, queue) = Writer::start(ledger, Box::new(queue), Some(waker), Arc::clone(&metrics))
        .map_err(doing("start a thread"))?;
    let mut stopping = on_stop(writer.stopper()).map_err(doing("catch signals"))?;
    let containers = Containers::new(Setup {
        known_images: config.state_dir.join("images"),
        policy: admission,
        registry,
        namespaces: probes.namespaces()?,
        host_mnt_ns: host.namespaces[Ns::Mnt as usize],
        queue: queue.clone(),
    })?;
    containers.take_up(before.into_values())?;
    let asked = serve_hooks(config, &containers, &watchers)?;
    let mut daemon = Daemon {
        probes,
        queue,
        containers,
        host,
        losses,
        stats: Stats::default(),
        metrics,
        silent: false,
    };
    notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!("measuring");

    let result = daemon
        .serve(config, (&mut reload, asked), &mut stopping, &writer)
        .await;
    notify(&[sd_notify::NotifyState::Stopping]);
    let ended = result.and_then(|()| daemon.end());
    drop(daemon);
    let ledger = writer.finish(STOP)?;
    ended?;
    tracing::info!(
        "stopped with {} entries in {}; the probes stay and queue what they see",
        ledger.entries(),
        ledger.dir().display()
    );
    watchers.finish(ledger).await;
    Ok(())
}

struct Daemon {
    probes: Probes,
    queue: WriterHandle,
    containers: Arc<Containers>,
    host: Host,
    losses: Losses,
    stats: Stats,
    metrics: Arc<Metrics>,
    /// Whether the log says that the TPM does not answer.
    silent: bool,
}

impl Daemon {
    /// Until a signal says stop.
    async fn serve(
        &mut self,
        config: &Config,
        (signalled, mut asked): (&mut Signal, mpsc::Receiver<Answer>),
        stopping: &mut oneshot::Receiver<()>,
        writer: &Writer,
    ) -> Result<(), DaemonError> {
        let mut counters = ticks();
        loop {
            tokio::select! {
                _ = counters.tick() => {
                    if writer.is_finished() {
                        return Err(WriterGone.into());
                    }
                    self.watch_tpm();
                    self.count()?;
                }
                _ = signalled.recv() => {
                    if let Err(reason) = self.reload(config).await? {
                        tracing::error!("{reason}");
                    }
                }
                Some(answer) = asked.recv() => {
                    let taken = self.reload(config).await?;
                    // Who asked may have given up.
                    let _ = answer.send(taken);
                }
                _ = &mut *stopping => return Ok(()),
            }
        }
    }

    /// The last losses; what is in the queue by now; a farewell.
    fn end(&mut self) -> Result<(), DaemonError> {
        self.count()?;
        let stop = proto::context_event::What::Stop(proto::Stop {});
        let farewell = ContextEvent::of_agent(clock::boot_ns(), stop);
        Ok(self.queue.send(Message::End(Box::new(farewell)))?)
    }

    /// Tells when the TPM does not answer: it may do so for ever, and nobody else notices.
    fn watch_tpm(&mut self) {
        let silence = self.metrics.silence().filter(|time| *time > SILENCE);
        match silence {
            Some(time) if !self.silent => tracing::error!(
                "the TPM has not answered for {} s; events wait meanwhile",
                time.as_secs()
            ),
            None if self.silent => tracing::info!("the TPM answers again"),
            _ => {}
        }
        self.silent = silence.is_some();
    }

    /// Each new loss becomes a violation and a context event; the rest is for the metrics.
    fn count(&mut self) -> Result<(), DaemonError> {
        let losses = self.probes.losses()?;
        for (cause, cpu, count) in losses.since(&self.losses) {
            tracing::error!("{count} events lost on CPU {cpu}: {}", cause.name());
            self.metrics.lost(cause, count);
            let (event, context) = loss(cause.name(), cpu, count, clock::boot_ns());
            self.queue.send(Message::Say {
                policy_events: vec![event],
                context: Some(Box::new(context)),
                done: None,
            })?;
        }
        self.losses = losses;
        let stats = self.probes.stats()?;
        for stat in Stat::ALL {
            let (now, then) = (stats[stat as usize], self.stats[stat as usize]);
            self.metrics.files(stat, now.saturating_sub(then));
        }
        self.stats = stats;
        Ok(())
    }

    /// Takes changed policies. Of a wrong one the reason is returned, and both that are in force stay.
    async fn reload(&mut self, config: &Config) -> Result<Result<(), String>, DaemonError> {
        let read = read_policy(&config.policy)
            .and_then(|policy| Ok((policy, read_admission(&config.admission.rules)?)));
        let ((policy, bytes), admission) = match read {
            Ok(read) => read,
            Err(error) => return Ok(Err(format!("the policies in force stay: {error}"))),
        };
        // On its way to the list before it is in force.
        let digest = HashAlgorithm::Sha256.digest(&bytes);
        self.say(
            vec![PolicyEvent::agent(SelfPart::Policy, &digest)],
            Some(loaded(SelfPart::Policy, digest.bytes())),
        )?;
        self.probes.set_scope(&policy.scope(&self.host))?;
        tracing::info!("the policy {} is in force", config.policy.display());
        let digest = digest_of(&admission);
        let what = loaded(SelfPart::Admission, digest.bytes());
        let events = vec![PolicyEvent::agent(SelfPart::Admission, &digest)];
        let context = ContextEvent::of_agent(clock::boot_ns(), what);
        self.containers
            .set_policy(admission, events, context)
            .await?;
        tracing::info!(
            "the policy in {} is in force",
            config.admission.rules.display()
        );
        Ok(Ok(()))
    }

    fn say(
        &self,
        policy_events: Vec<PolicyEvent>,
        context: Option<proto::context_event::What>,
    ) -> Result<(), DaemonError> {
        let context = context.map(|what| Box::new(ContextEvent::of_agent(clock::boot_ns(), what)));
        Ok(self.queue.send(Message::Say {
            policy_events,
            context,
            done: None,
        })?)
    }
}

/// SIGTERM or SIGINT: tells the writer, which may be waiting for a TPM that is gone
/// while everybody else waits for the writer, and then the daemon.
fn on_stop(stop_waiting: impl FnOnce() + Send + 'static) -> io::Result<oneshot::Receiver<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop_waiting();
        // Nobody listens once the daemon has failed by itself.
        let _ = tell.send(());
    });
    Ok(told)
}

fn ticks() -> Interval {
    let mut ticks = interval(COUNTERS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

fn read_object(path: &Path) -> Result<Vec<u8>, DaemonError> {
    fs::read(path).map_err(doing(format!("read {}", path.display())))
}

fn read_policy(path: &Path) -> Result<(MeasurementPolicy, Vec<u8>), DaemonError> {
    let text =
        fs::read_to_string(path).map_err(doing(format!("read the policy {}", path.display())))?;
    let policy = MeasurementPolicy::parse(&text).map_err(|source| DaemonError::Policy {
        path: path.to_owned(),
        source,
    })?;
    Ok((policy, text.into_bytes()))
}

fn read_admission(dir: &Path) -> Result<Admission, DaemonError> {
    Admission::read(dir).map_err(|source| DaemonError::Rules {
        dir: dir.to_owned(),
        source: Box::new(source),
    })
}

fn digest_of(admission: &Admission) -> Digest {
    let PolicyDigest(sha256) = admission.files().digest();
    // SHA-256 has 32 bytes.
    Digest::new(HashAlgorithm::Sha256, &sha256)
        .unwrap_or_else(|_| HashAlgorithm::Sha256.digest(&sha256))
}

fn loaded(part: SelfPart, sha256: &[u8]) -> proto::context_event::What {
    proto::context_event::What::PolicyLoaded(proto::PolicyLoaded {
        sha256: sha256.to_vec(),
        name: part.to_string(),
    })
}

/// Where a reload that was asked for is answered.
type Answer = oneshot::Sender<Result<(), String>>;

/// Opens the sockets of root's hooks and of the users'; what is asked for on them is to be done by the daemon.
fn serve_hooks(
    config: &Config,
    containers: &Arc<Containers>,
    watchers: &Watchers,
) -> Result<mpsc::Receiver<Answer>, DaemonError> {
    let (reload, asked) = mpsc::channel(1);
    let socket = &config.admission.socket;
    let users = config.admission.users.iter();
    let sockets = users.map(|user| (*user, socket.with_file_name(format!("hook-{user}.sock"))));
    for (user, path) in std::iter::once((0, socket.clone())).chain(sockets) {
        let containers = Arc::clone(containers);
        hooks::serve(&path, user, containers, reload.clone(), watchers)?;
    }
    Ok(asked)
}

/// One agent per list and set of probes: two writers would break the chain, two readers
/// would take each other's events. The directory itself is locked: a BPF file system has no files.
fn lock(dir: &Path) -> Result<OwnedFd, DaemonError> {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(doing(format!("create {}", dir.display())))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let file = open(dir, flags, Mode::empty())
        .map_err(|errno| doing(format!("open {}", dir.display()))(errno.into()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DaemonError::Running(dir.to_owned())),
        Err(errno) => Err(doing(format!("lock {}", dir.display()))(errno.into())),
    }
}

/// Detaches and removes the probes, unless an agent uses them; says how many sets there were.
///
/// # Errors
/// An agent runs, or the BPF file system refuses.
pub fn unload(pin_dir: &Path) -> Result<usize, DaemonError> {
    if !pin_dir.exists() {
        return Ok(0);
    }
    let _lock = lock(pin_dir)?;
    Ok(crate::probes::unload(pin_dir)?)
}

fn origin() -> io::Result<Origin> {
    let now_ns = clock::boot_ns();
    Ok(Origin {
        boot_id: fs::read_to_string(BOOT_ID)?.trim().to_owned(),
        kernel_release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        realtime_offset_ns: clock::real_ns() - i64::try_from(now_ns).unwrap_or(i64::MAX),
        now_ns,
    })
}

fn report_opened(opened: &Opened, ledger: &Ledger) {
    let dir = ledger.dir().display();
    if !ledger.stopped() {
        tracing::warn!("the agent before this one did not end in order");
    }
    match opened {
        Opened::New => tracing::info!("a new list in {dir}"),
        Opened::Continued { entries, completed } => {
            tracing::info!(
                "the list in {dir} goes on after {entries} entries, {completed} of them completed now"
            );
        }
        Opened::Broken { detail } => tracing::error!(
            "the list in {dir} does not fit the PCR ({detail}): the break is recorded and a new segment begun"
        ),
    }
}

/// Tells the service manager; without one there is nobody to tell.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}
