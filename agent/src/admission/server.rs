// SPDX-License-Identifier: Apache-2.0
//! The sockets on which hooks ask. One for root, one for each user who may run containers without root; each is
//! made with mode 0600, belongs to its user, and asks the kernel who has connected. Speaks gRPC
//! (`agent/proto/hook.proto`), judges nothing. On root's socket the list is watched, too (`watchers`).

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use cima_api::{
    CreateReply, CreateRequest, ExplainReply, ExplainRequest, LARGEST_MESSAGE, LARGEST_REPLY,
    LARGEST_STATE, ReloadReply, ReloadRequest, StopReply, StopRequest, WatchRequest,
    containers_server::{self, ContainersServer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};
use tonic::{
    Request, Response, Status,
    transport::{
        Server,
        server::{Connected, UdsConnectInfo},
    },
};

use super::{
    AdmissionError, Containers,
    watchers::{Replies, WATCHERS},
};

pub use super::watchers::Watchers;

/// How many connections there are at a time, each of a hook: of root, and of any other user, who shall not use up the
/// descriptors that root's hooks need. Others wait until one is closed.
const OF_ROOT: usize = 256;
const OF_USER: usize = 16;
/// Containers that are judged at a time, of root and of any other user: each has a thread, and another for what it waits for.
const ROOTS_AT_ONCE: usize = 128;
const USERS_AT_ONCE: usize = 16;
/// Ends of containers that are noted at a time, on a socket: they never wait for those that begin.
const ENDS_AT_ONCE: usize = 8;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why nobody can ask.
#[derive(Debug, thiserror::Error)]
#[error("hooks cannot be served on {}: {source}", path.display())]
pub struct ServeError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Asks the daemon to read its policies again; the answer is why it does not take them.
pub type Reload = mpsc::Sender<oneshot::Sender<Result<(), String>>>;

#[derive(Clone)]
struct Service {
    containers: Arc<Containers>,
    reload: Reload,
    /// Where nobody may watch: none.
    watchers: Option<Watchers>,
    begins: Arc<Semaphore>,
    ends: Arc<Semaphore>,
}

/// How many threads all that may be asked for at once takes, with the sockets of this many users beside root's. With
/// fewer, those who wait for a thread could have them all.
pub fn threads(users: usize) -> usize {
    2 * (ROOTS_AT_ONCE + users * USERS_AT_ONCE) + (1 + users) * ENDS_AT_ONCE + WATCHERS as usize
}

/// Serves hooks of user `user` on a socket at `path`, until the runtime ends; on root's the list is watched, too.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(
    path: &Path,
    user: u32,
    containers: Arc<Containers>,
    reload: Reload,
    watchers: &Watchers,
) -> Result<(), ServeError> {
    let failed = |source| ServeError {
        path: path.to_owned(),
        source,
    };
    let listener = bind(path, user).map_err(failed)?;
    let service = Service {
        containers,
        reload,
        watchers: (user == 0).then(|| watchers.clone()),
        begins: Arc::new(Semaphore::new(if user == 0 {
            ROOTS_AT_ONCE
        } else {
            USERS_AT_ONCE
        })),
        ends: Arc::new(Semaphore::new(ENDS_AT_ONCE)),
    };
    let service = ContainersServer::new(service)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_REPLY);
    let (arrived, incoming) = mpsc::channel(1);
    tokio::spawn(accept(listener, user, arrived));
    let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
    let path = path.to_owned();
    tokio::spawn(async move {
        let served = Server::builder()
            .timeout(PATIENCE)
            .max_concurrent_streams(64)
            .add_service(service)
            .serve_with_incoming(incoming);
        if let Err(error) = served.await {
            tracing::error!("hooks are served no more on {}: {error}", path.display());
        }
    });
    Ok(())
}

/// Takes connections of `user` and of root, and closes others.
async fn accept(listener: UnixListener, user: u32, arrived: mpsc::Sender<io::Result<Connection>>) {
    let room = Arc::new(Semaphore::new(if user == 0 { OF_ROOT } else { OF_USER }));
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Descriptors ran out, or somebody hung up at once.
                tracing::warn!("a hook could not be answered: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == user => {
                let connection = Connection {
                    stream,
                    _place: place,
                };
                if arrived.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Ok(peer) => tracing::warn!(
                "user {} may not ask for containers of user {user}",
                peer.uid()
            ),
            Err(error) => tracing::warn!("who asks is not known: {error}"),
        }
    }
}

/// A connection, and its place among those that there may be.
struct Connection {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

fn bind(path: &Path, user: u32) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made where nobody sees it before it is whose it is to be.
    let hidden = path.with_extension("new");
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600))?;
    if user != 0 {
        chown(&hidden, Some(user), None)?;
    }
    fs::rename(&hidden, path)?;
    Ok(listener)
}

impl Service {
    /// Who asks. The kernel said so when the connection was taken; if that is lost, nobody that there is.
    fn peer<T>(&self, request: &Request<T>) -> u32 {
        let info = request.extensions().get::<UdsConnectInfo>();
        let peer = info.and_then(|info| info.peer_cred).map(|peer| peer.uid());
        peer.unwrap_or(u32::MAX)
    }

    /// Does what takes a while without holding up whoever else is served.
    async fn blocking<T: Send + 'static>(
        room: &Arc<Semaphore>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let failed = |error: &dyn std::error::Error| Status::internal(error.to_string());
        let place = Arc::clone(room).acquire_owned().await;
        let place = place.map_err(|error| failed(&error))?;
        let done = tokio::task::spawn_blocking(move || {
            let done = job();
            drop(place);
            done
        });
        done.await.map_err(|error| failed(&error))
    }

    fn for_root<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if self.peer(request) == 0 {
            return Ok(());
        }
        Err(Status::permission_denied("only root may ask for this"))
    }
}

fn status(error: &AdmissionError) -> Status {
    let text = error.to_string();
    match error {
        AdmissionError::Foreign { .. } => Status::permission_denied(text),
        AdmissionError::State(_)
        | AdmissionError::Process(_)
        | AdmissionError::Bundle(_)
        | AdmissionError::Large(_)
        | AdmissionError::Taken { .. }
        | AdmissionError::Host(_) => Status::failed_precondition(text),
        AdmissionError::Probes(_)
        | AdmissionError::Writer(_)
        | AdmissionError::Unwritten
        | AdmissionError::Watch(_)
        | AdmissionError::Known { .. }
        | AdmissionError::Stubs(_)
        | AdmissionError::Thread => Status::internal(text),
    }
}

fn bounded(state: &[u8]) -> Result<&[u8], Status> {
    if state.len() > LARGEST_STATE {
        return Err(Status::invalid_argument(format!(
            "the container's state has more than {LARGEST_STATE} bytes"
        )));
    }
    Ok(state)
}

#[tonic::async_trait]
impl containers_server::Containers for Service {
    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateReply>, Status> {
        let peer = self.peer(&request);
        let state = request.into_inner().state;
        let containers = Arc::clone(&self.containers);
        bounded(&state)?;
        // To its end, also if the hook gives up: half a registration would be none.
        let wait = Handle::current();
        let judged = Self::blocking(&self.begins, move || {
            wait.block_on(containers.create(&state, peer))
        });
        let verdict = judged.await?.map_err(|error| {
            tracing::warn!("a container is refused: {error}");
            status(&error)
        })?;
        Ok(Response::new(CreateReply {
            allowed: verdict.allowed,
            reasons: verdict.reasons,
            image: verdict.image,
        }))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        let state = request.into_inner().state;
        bounded(&state)?;
        let containers = Arc::clone(&self.containers);
        let known = Self::blocking(&self.ends, move || containers.stop(&state)).await?;
        let known = known.map_err(|error| status(&error))?;
        Ok(Response::new(StopReply { known }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainReply>, Status> {
        self.for_root(&request)?;
        let name = request.into_inner().container;
        match self.containers.explain(&name) {
            Some(json) => Ok(Response::new(ExplainReply { json })),
            None => Err(Status::not_found(format!(
                "no container {name:?} was announced by a hook"
            ))),
        }
    }

    async fn reload(
        &self,
        request: Request<ReloadRequest>,
    ) -> Result<Response<ReloadReply>, Status> {
        self.for_root(&request)?;
        let (answer, answered) = oneshot::channel();
        let gone = || Status::unavailable("cimad is ending");
        self.reload.send(answer).await.map_err(|_| gone())?;
        match answered.await.map_err(|_| gone())? {
            Ok(()) => Ok(Response::new(ReloadReply {})),
            Err(reason) => Err(Status::failed_precondition(reason)),
        }
    }

    type WatchStream = Replies;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.for_root(&request)?;
        let watchers = self.watchers.as_ref().ok_or_else(|| {
            Status::permission_denied("the list may be watched on the socket of root's hooks alone")
        })?;
        let replies = watchers.watch(request.into_inner().from_entry)?;
        Ok(Response::new(replies))
    }
}
