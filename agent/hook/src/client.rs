// SPDX-License-Identifier: Apache-2.0
//! Asking cimad. Every call has a deadline for all of it, connection included, and speaks only to a socket that
//! the host's root listens on. An answer of cimad is a value; all else is an [`AskError`], and what that
//! means for a container is the caller's business. Called by `cima-hook`, `cima hook check`, and `cima watch`, whose stream has no
//! deadline but for its beginning.

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use cima_api::{
    CreateReply, CreateRequest, ExplainReply, ExplainRequest, LARGEST_MESSAGE, LARGEST_REPLY,
    ReloadReply, ReloadRequest, StopReply, StopRequest, WatchReply, WatchRequest,
    containers_client::ContainersClient,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime, time};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::peer::{UidMap, UidMapError};

/// How long to wait before the next try while cimad's queue of connections is full.
const QUEUE_FULL: Duration = Duration::from_millis(5);

/// Why cimad did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No socket, or nobody listens.
    #[error("cimad cannot be reached at {}: {error}", .socket.display())]
    Unreachable {
        /// Where.
        socket: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// Another user could stand in for cimad.
    #[error(
        "user {uid} listens at {}, who is not the host's root: that is not cimad",
        .socket.display()
    )]
    NotRoot {
        /// Where.
        socket: PathBuf,
        /// The listener's user, as this user namespace shows him.
        uid: u32,
    },
    /// See [`UidMapError`].
    #[error(transparent)]
    Namespace(#[from] UidMapError),
    /// No answer in time.
    #[error(
        "cimad at {} gave no answer within {} s",
        .socket.display(),
        .within.as_secs_f64()
    )]
    Deadline {
        /// Where.
        socket: PathBuf,
        /// The deadline.
        within: Duration,
    },
    /// Whoever listens does not speak this protocol, or stopped in the middle.
    #[error("what came from {} is no answer of cimad's: {error}", .socket.display())]
    Garbage {
        /// Where.
        socket: PathBuf,
        /// What the protocol's reader says.
        error: String,
    },
    /// cimad itself says that it has no answer.
    #[error("cimad at {} answered with an error ({code:?}): {message}", .socket.display())]
    Refused {
        /// Where.
        socket: PathBuf,
        /// What kind.
        code: Code,
        /// Its words.
        message: String,
    },
    /// In the middle of a stream.
    #[error("the connection to cimad at {} was lost: {error}", .socket.display())]
    Lost {
        /// Where.
        socket: PathBuf,
        /// What the protocol's reader says.
        error: String,
    },
    /// No event loop, for lack of memory or descriptors.
    #[error("cannot set up a connection to cimad: {0}")]
    Setup(#[source] io::Error),
}

/// cimad, as seen from a client that blocks.
#[derive(Debug, Clone)]
pub struct Cimad {
    socket: PathBuf,
    /// As whom its listener has to appear.
    root: u32,
}

impl Cimad {
    /// The one at `socket`, or where this user's containers are announced.
    ///
    /// # Errors
    /// [`AskError::Namespace`].
    pub fn at(socket: Option<PathBuf>) -> Result<Self, AskError> {
        let map = UidMap::of_self()?;
        Ok(Self {
            socket: socket.unwrap_or_else(|| map.socket()),
            root: map.root(),
        })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Announces a container; the answer is the verdict.
    ///
    /// # Errors
    /// See [`AskError`]; there is no verdict then.
    pub fn create(&self, state: Vec<u8>, within: Duration) -> Result<CreateReply, AskError> {
        self.ask(within, async |client| {
            client
                .create(request(CreateRequest { state }, within))
                .await
        })
    }

    /// Says that a container is gone.
    ///
    /// # Errors
    /// See [`AskError`].
    pub fn stop(&self, state: Vec<u8>, within: Duration) -> Result<StopReply, AskError> {
        self.ask(within, async |client| {
            client.stop(request(StopRequest { state }, within)).await
        })
    }

    /// Asks how a container was judged.
    ///
    /// # Errors
    /// See [`AskError`]; [`AskError::Refused`] with [`Code::NotFound`] if cimad does not know it.
    pub fn explain(&self, container: &str, within: Duration) -> Result<ExplainReply, AskError> {
        let container = container.to_owned();
        self.ask(within, async |client| {
            client
                .explain(request(ExplainRequest { container }, within))
                .await
        })
    }

    /// Has the policies read again.
    ///
    /// # Errors
    /// See [`AskError`]; [`AskError::Refused`] with [`Code::FailedPrecondition`] if they are not taken, and why.
    pub fn reload(&self, within: Duration) -> Result<ReloadReply, AskError> {
        self.ask(within, async |client| {
            client.reload(request(ReloadRequest {}, within)).await
        })
    }

    /// Watches the list grow: from entry number `from` on, or what comes from now on. `within` is for cimad's first
    /// word; then it may be silent for as long as there is nothing to say. Root alone may, and a few at a time.
    ///
    /// # Errors
    /// See [`AskError`]; [`AskError::Refused`] with [`Code::ResourceExhausted`] if enough others watch.
    pub async fn watch(&self, from: Option<u64>, within: Duration) -> Result<Watch, AskError> {
        let begun = async {
            let channel = self.connect().await?;
            let mut client =
                ContainersClient::new(channel).max_decoding_message_size(LARGEST_REPLY);
            let request = Request::new(WatchRequest { from_entry: from });
            let answer = client.watch(request).await;
            answer.map_err(|status| self.no_answer(&status, within))
        };
        let answer = time::timeout(within, begun).await;
        let replies = answer.unwrap_or_else(|_| Err(self.deadline(within)))?;
        Ok(Watch {
            cimad: self.clone(),
            replies: replies.into_inner(),
        })
    }

    fn ask<T>(
        &self,
        within: Duration,
        call: impl AsyncFnOnce(&mut ContainersClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, AskError> {
        let conversation = async {
            let channel = self.connect().await?;
            let mut client = ContainersClient::new(channel)
                .max_decoding_message_size(LARGEST_MESSAGE)
                .max_encoding_message_size(LARGEST_MESSAGE);
            let answer = call(&mut client).await;
            answer
                .map(Response::into_inner)
                .map_err(|status| self.no_answer(&status, within))
        };
        runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(AskError::Setup)?
            .block_on(async { time::timeout(within, conversation).await })
            .unwrap_or_else(|_| Err(self.deadline(within)))
    }

    /// Connects here and not in the channel's own connector, whose errors lose what they were.
    async fn connect(&self) -> Result<Channel, AskError> {
        let stream = self.stream().await?;
        let peer = stream
            .peer_cred()
            .map_err(|error| self.unreachable(error))?;
        if peer.uid() != self.root {
            return Err(AskError::NotRoot {
                socket: self.socket.clone(),
                uid: peer.uid(),
            });
        }
        let mut stream = Some(TokioIo::new(stream));
        // The name is the authority in the requests; nobody looks it up.
        Endpoint::from_static("http://cimad")
            .connect_with_connector(service_fn(move |_| {
                let stream = stream.take().ok_or_else(|| {
                    io::Error::new(io::ErrorKind::BrokenPipe, "the connection was lost")
                });
                async { stream }
            }))
            .await
            .map_err(|error| self.garbage(&error))
    }

    async fn stream(&self) -> Result<UnixStream, AskError> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                // Many containers start at once; a unix socket does not wait by itself.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    time::sleep(QUEUE_FULL).await;
                }
                Err(error) => return Err(self.unreachable(error)),
            }
        }
    }

    fn no_answer(&self, status: &Status, within: Duration) -> AskError {
        match status.code() {
            // tonic's clock for this call, here or at cimad: it knows the deadline too.
            Code::DeadlineExceeded => self.deadline(within),
            Code::Cancelled if status.message() == "Timeout expired" => self.deadline(within),
            // A status with a source was made on this side: by the transport, not by cimad.
            _ if status.source().is_some() => self.garbage(status),
            code => AskError::Refused {
                socket: self.socket.clone(),
                code,
                message: status.message().to_owned(),
            },
        }
    }

    fn unreachable(&self, error: io::Error) -> AskError {
        AskError::Unreachable {
            socket: self.socket.clone(),
            error,
        }
    }

    fn deadline(&self, within: Duration) -> AskError {
        AskError::Deadline {
            socket: self.socket.clone(),
            within,
        }
    }

    fn garbage(&self, error: &dyn std::error::Error) -> AskError {
        AskError::Garbage {
            socket: self.socket.clone(),
            error: with_causes(error),
        }
    }
}

/// The list as cimad sends it while it grows.
#[derive(Debug)]
pub struct Watch {
    cimad: Cimad,
    replies: Streaming<WatchReply>,
}

impl Watch {
    /// What comes next, each entry once and in order; `None`: cimad has ended, and everything is said. May be dropped
    /// while it waits, and asked again.
    ///
    /// # Errors
    /// [`AskError::Lost`] if cimad ended by force, [`AskError::Refused`] if it cannot read its list.
    pub async fn next(&mut self) -> Result<Option<WatchReply>, AskError> {
        let reply = self.replies.message().await;
        reply.map_err(|status| match status.source() {
            Some(_) => AskError::Lost {
                socket: self.cimad.socket.clone(),
                error: with_causes(&status),
            },
            None => AskError::Refused {
                socket: self.cimad.socket.clone(),
                code: status.code(),
                message: status.message().to_owned(),
            },
        })
    }
}

/// With every cause: the outer ones say no more than that the transport failed.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes: Vec<String> = std::iter::successors(Some(error), |&error| error.source())
        .map(ToString::to_string)
        .collect();
    causes.join(": ")
}

/// The request with its deadline, so that cimad gives up when nobody waits any more.
fn request<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}
