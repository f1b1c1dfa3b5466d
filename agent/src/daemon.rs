// SPDX-License-Identifier: Apache-2.0
//! Wires the rooms together and runs until told to stop. Owns the order of things:
//! look (preflight), attach, prove (self-test), open the list, measure ourselves,
//! then the containers. Called by `bin/cimad`.
//!
//! Back-pressure runs against the flow: a slow TPM fills the ledger's queue, then
//! this loop stops reading, then the ring buffer fills, then events are counted as lost.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use cima_policies::{MeasurementPolicy, PolicyError};
use ima_log::{Digest, HashAlgorithm};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::{Interval, MissedTickBehavior, interval},
};

use crate::{
    config::{Config, SinkKind},
    containers::Identity,
    ledger::{Ledger, LedgerError, Message, Opened, Origin, Writer, WriterHandle},
    measure::{ContextEvent, PolicyEvent, SelfPart, Violation, measure, proto},
    preflight,
    probes::{
        BtfError, Event, EventError, LoadError, Losses, Offsets, Probes, SelfTest, SelfTestError,
        namespaces_of,
    },
    sink::{NoSink, PcrSink, Sink, SinkError},
};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Records taken from the ring buffer at once.
const READ: usize = 256;
/// How often the loss counters are looked at.
const LOSS_CHECK: Duration = Duration::from_secs(1);

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
    /// Another cimad has the list.
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
    #[error("the thread that writes the list has ended: this is a defect of cima")]
    WriterGone,
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

/// Runs the daemon with `config`, whose file had the bytes `config_bytes`, until
/// SIGTERM or SIGINT; then everything that was queued has been written.
///
/// # Errors
/// See [`DaemonError`]. Before the list is opened nothing on the host is changed.
pub async fn run(config: &Config, config_bytes: &[u8]) -> Result<(), DaemonError> {
    let report = preflight::check(config);
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    if !report.missing.is_empty() {
        return Err(DaemonError::Missing(report.missing));
    }
    let (policy, policy_bytes) = read_policy(&config.policy)?;
    let object = fs::read(&config.probes.object)
        .map_err(doing(format!("read {}", config.probes.object.display())))?;
    let host_ns = namespaces_of("1").map_err(doing("look at the namespaces of process 1"))?;
    let mut reload = signal(SignalKind::hangup()).map_err(doing("catch signals"))?;

    let offsets = Offsets::from_running_kernel()?;
    let mut probes = Probes::load(
        &object,
        &offsets,
        config.probes.ring_bytes,
        config.probes.debug,
    )?;
    let self_test = SelfTest::run(&mut probes, &policy.scope(host_ns)).await?;
    tracing::info!("the probes are attached and read this kernel's structures correctly");

    let _lock = lock(&config.state_dir)?;
    let origin = origin().map_err(doing(format!("read {BOOT_ID}")))?;
    let boot_id = origin.boot_id.clone();
    let (ledger, opened) = Ledger::open(&config.state_dir, origin, sink(config)?, config.sink.pcr)?;
    report_opened(&opened, &ledger);
    let (writer, queue) =
        Writer::start(ledger, config.queue.events).map_err(doing("start a thread"))?;
    let mut stopping = on_stop(writer.stopper()).map_err(doing("catch signals"))?;

    let digest = |bytes: &[u8]| HashAlgorithm::Sha256.digest(bytes);
    let parts = [
        (SelfPart::Binary, self_test.binary),
        (SelfPart::Probes, digest(&object)),
        (SelfPart::Config, digest(config_bytes)),
        (SelfPart::Policy, digest(&policy_bytes)),
    ];
    let mut daemon = Daemon {
        probes,
        queue,
        boot_id,
        host_ns,
        losses: Losses::default(),
    };
    daemon.introduce(&parts).await?;
    daemon
        .measure(self_test.others.into_iter().map(Ok).collect())
        .await?;
    notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!("measuring");

    let result = daemon
        .serve(config, &mut reload, &mut stopping, &writer)
        .await;
    notify(&[sd_notify::NotifyState::Stopping]);
    let drained = match result {
        Ok(()) => daemon.drain().await,
        Err(error) => Err(error),
    };
    drop(daemon);
    let ledger = writer.finish()?;
    drained?;
    tracing::info!(
        "stopped with {} entries in {}",
        ledger.entries(),
        ledger.dir().display()
    );
    Ok(())
}

struct Daemon {
    probes: Probes,
    queue: WriterHandle,
    boot_id: String,
    host_ns: [u32; cima_abi::NS_COUNT],
    losses: Losses,
}

impl Daemon {
    /// Until a signal says stop.
    async fn serve(
        &mut self,
        config: &Config,
        reload: &mut Signal,
        stopping: &mut oneshot::Receiver<()>,
        writer: &Writer,
    ) -> Result<(), DaemonError> {
        let mut loss_check = ticks();
        loop {
            tokio::select! {
                events = self.probes.next(READ) => {
                    let events = events.map_err(doing("read the ring buffer"))?;
                    self.measure(events).await?;
                }
                _ = loss_check.tick() => {
                    if writer.is_finished() {
                        return Err(DaemonError::WriterGone);
                    }
                    self.report_losses().await?;
                }
                _ = reload.recv() => self.reload(&config.policy).await?,
                _ = &mut *stopping => return Ok(()),
            }
        }
    }

    /// The agent's own parts: listed once a boot each, named in full at every start.
    async fn introduce(&self, parts: &[(SelfPart, Digest)]) -> Result<(), DaemonError> {
        let events = parts
            .iter()
            .map(|(part, digest)| PolicyEvent::agent(*part, digest))
            .collect();
        let parts = parts
            .iter()
            .map(|(part, digest)| proto::Part {
                name: part.to_string(),
                digest: digest.to_string(),
            })
            .collect();
        let parts = proto::context_event::What::Parts(proto::Parts { parts });
        self.say(events, Some(parts)).await
    }

    /// What is still in the ring buffer, the last losses, and a farewell.
    async fn drain(&mut self) -> Result<(), DaemonError> {
        // Without this a busy container could keep the agent from ever ending.
        self.probes.silence()?;
        loop {
            let events = self.probes.take_waiting(READ);
            if events.is_empty() {
                break;
            }
            self.measure(events).await?;
        }
        self.report_losses().await?;
        let stop = proto::context_event::What::Stop(proto::Stop {});
        self.say(Vec::new(), Some(stop)).await
    }

    async fn measure(&mut self, events: Vec<Result<Event, EventError>>) -> Result<(), DaemonError> {
        for event in events {
            match event {
                Ok(event) if event.is_self_test() => {}
                Ok(event) => {
                    let measured = measure(&event, &Identity::of(&event), &self.boot_id);
                    self.send(Message::Measured(Box::new(measured))).await?;
                }
                Err(error) => {
                    tracing::error!("{error}");
                    self.lost("unreadable-record", 0, 1).await?;
                }
            }
        }
        Ok(())
    }

    /// Each new loss becomes a violation and a context event.
    async fn report_losses(&mut self) -> Result<(), DaemonError> {
        let losses = self.probes.losses()?;
        for (cause, cpu, count) in losses.since(&self.losses) {
            tracing::error!("{count} events lost on CPU {cpu}: {}", cause.name());
            self.lost(cause.name(), cpu, count).await?;
        }
        self.losses = losses;
        Ok(())
    }

    /// A violation and a context event. With the time in it, since a value is listed
    /// once and the same loss may happen again.
    async fn lost(&self, cause: &str, cpu: usize, count: u64) -> Result<(), DaemonError> {
        let detail = format!("cause={cause};count={count};at={}", boot_time_ns());
        let loss = proto::Loss {
            cause: cause.to_owned(),
            cpu: u32::try_from(cpu).unwrap_or(u32::MAX),
            count,
        };
        self.say(
            vec![PolicyEvent::violation(Violation::Loss, b"", &detail)],
            Some(proto::context_event::What::Loss(loss)),
        )
        .await
    }

    /// Takes a changed policy; a wrong one is reported and the old stays in force.
    async fn reload(&mut self, path: &Path) -> Result<(), DaemonError> {
        let (policy, bytes) = match read_policy(path) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!("the policy in force stays: {error}");
                return Ok(());
            }
        };
        // On its way to the list before it is in force.
        let digest = HashAlgorithm::Sha256.digest(&bytes);
        let loaded = proto::PolicyLoaded {
            sha256: digest.bytes().to_vec(),
        };
        self.say(
            vec![PolicyEvent::agent(SelfPart::Policy, &digest)],
            Some(proto::context_event::What::PolicyLoaded(loaded)),
        )
        .await?;
        self.probes.set_scope(&policy.scope(self.host_ns))?;
        tracing::info!("the policy {} is in force", path.display());
        Ok(())
    }

    async fn say(
        &self,
        policy_events: Vec<PolicyEvent>,
        context: Option<proto::context_event::What>,
    ) -> Result<(), DaemonError> {
        let context = context.map(|what| Box::new(ContextEvent::of_agent(boot_time_ns(), what)));
        self.send(Message::Agent {
            policy_events,
            context,
        })
        .await
    }

    async fn send(&self, message: Message) -> Result<(), DaemonError> {
        self.queue
            .send(message)
            .await
            .map_err(|_| DaemonError::WriterGone)
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
    let mut ticks = interval(LOSS_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
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

fn sink(config: &Config) -> Result<Box<dyn Sink>, SinkError> {
    Ok(match config.sink.kind {
        SinkKind::Pcr => Box::new(PcrSink::open(&config.sink.tpm, config.sink.pcr)?),
        SinkKind::None => Box::new(NoSink),
    })
}

/// One agent per list: two writers would break the chain.
fn lock(state_dir: &Path) -> Result<OwnedFd, DaemonError> {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(doing(format!("create {}", state_dir.display())))?;
    let path = state_dir.join("lock");
    let file = open(
        &path,
        OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .map_err(|errno| doing(format!("open {}", path.display()))(errno.into()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DaemonError::Running(state_dir.to_owned())),
        Err(errno) => Err(doing(format!("lock {}", path.display()))(errno.into())),
    }
}

fn origin() -> io::Result<Origin> {
    let realtime = clock_gettime(ClockId::Realtime);
    let now_ns = boot_time_ns();
    let realtime_ns = realtime.tv_sec * 1_000_000_000 + realtime.tv_nsec;
    Ok(Origin {
        boot_id: fs::read_to_string(BOOT_ID)?.trim().to_owned(),
        kernel_release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        realtime_offset_ns: realtime_ns - i64::try_from(now_ns).unwrap_or(i64::MAX),
        now_ns,
    })
}

fn boot_time_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0)
}

fn report_opened(opened: &Opened, ledger: &Ledger) {
    let dir = ledger.dir().display();
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
