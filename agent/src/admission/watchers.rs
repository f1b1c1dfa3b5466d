// SPDX-License-Identifier: Apache-2.0
//! Who watches the list grow (`rpc Watch`). Each has a task that reads the segments behind the ledger's writer, piece by piece on a thread that may wait for
//! the disk, and sends the next when the last was taken. One that does not read stands still, and nobody waits for it. Called by `server`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use cima_api::WatchReply;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::spawn_blocking,
    time,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

use crate::ledger::{Committed, Ledger, Piece, Tail};

/// How many there may be: each has a thread while it reads.
pub(super) const WATCHERS: u32 = 16;
/// How long a stop waits for those who still get the last entries; who reads nothing does not get them.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the last bytes of a stream may lie between its end and the socket.
const ON_THE_WAY: Duration = Duration::from_millis(50);

/// Those who watch, and the list.
#[derive(Clone)]
pub struct Watchers {
    committed: Committed,
    room: Arc<Semaphore>,
}

/// What one of them is sent.
pub(super) struct Replies {
    replies: ReceiverStream<Result<WatchReply, Status>>,
    _place: Arc<OwnedSemaphorePermit>,
}

impl Watchers {
    /// Nobody yet.
    #[must_use]
    pub fn of(committed: Committed) -> Self {
        let room = Arc::new(Semaphore::new(WATCHERS as usize));
        Self { committed, room }
    }

    /// One more, from entry `from` on or from now.
    pub(super) fn watch(&self, from: Option<u64>) -> Result<Replies, Status> {
        let place = Arc::clone(&self.room).try_acquire_owned();
        let place = place.map_err(|_| {
            Status::resource_exhausted(format!(
                "{WATCHERS} watch the list already, and there may be no more: end one of them"
            ))
        })?;
        let place = Arc::new(place);
        // One piece waits to be taken, one to be sent: that is all the memory a watcher has.
        let (sender, replies) = mpsc::channel(1);
        let tail = self.committed.follow(from);
        let held = Arc::clone(&place);
        tokio::spawn(async move {
            if let Err(status) = send(tail, &sender).await {
                // Who watched may be gone.
                let _ = sender.send(Err(status)).await;
            }
            drop(held);
        });
        Ok(Replies {
            replies: ReceiverStream::new(replies),
            _place: place,
        })
    }

    /// Ends the list for whoever watches, and waits until they have its last entries, but not long.
    pub async fn finish(self, ledger: Ledger) {
        let nobody = self.room.available_permits() == WATCHERS as usize;
        drop(ledger);
        if !nobody {
            // Who does not read is left.
            let _ = time::timeout(LAST_WORDS, self.room.acquire_many(WATCHERS)).await;
            time::sleep(ON_THE_WAY).await;
        }
    }
}

/// Sends what there is and what comes, until the ledger's writer or the watcher has gone.
async fn send(
    mut tail: Tail,
    sender: &mpsc::Sender<Result<WatchReply, Status>>,
) -> Result<(), Status> {
    let (mut is_first, mut is_written) = (true, true);
    loop {
        let piece;
        (tail, piece) = read(tail).await?;
        let next = match piece {
            Some(piece) if piece.records.is_empty() && piece.unreadable.is_none() => {
                if sender.is_closed() {
                    return Ok(());
                }
                continue;
            }
            Some(piece) => reply(piece),
            None if is_first => WatchReply {
                first_entry: tail.next_entry(),
                ..WatchReply::default()
            },
            None if !is_written => return Ok(()),
            None => {
                tokio::select! {
                    more = tail.wait() => is_written = more,
                    () = sender.closed() => return Ok(()),
                }
                continue;
            }
        };
        is_first = false;
        if sender.send(Ok(next)).await.is_err() {
            return Ok(());
        }
    }
}

async fn read(mut tail: Tail) -> Result<(Tail, Option<Piece>), Status> {
    let read = spawn_blocking(move || {
        let piece = tail.read();
        (tail, piece)
    });
    let (tail, piece) = read
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    let piece = piece.map_err(|error| Status::internal(error.to_string()))?;
    Ok((tail, piece))
}

fn reply(piece: Piece) -> WatchReply {
    let Piece {
        first_entry,
        segment,
        offset,
        records,
        unreadable,
    } = piece;
    WatchReply {
        first_entry,
        segment,
        offset,
        records,
        unreadable: unreadable.unwrap_or_default(),
    }
}

impl Stream for Replies {
    type Item = Result<WatchReply, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.get_mut().replies).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        sync::atomic::{AtomicU64, Ordering},
        thread,
        time::Instant,
    };

    use cima_api::{
        CreateReply, CreateRequest, ExplainReply, ExplainRequest, ReloadReply, ReloadRequest,
        StopReply, StopRequest, WatchRequest,
        containers_server::{Containers, ContainersServer},
    };
    use cima_hook::client::Cimad;
    use tokio::{
        net::UnixListener,
        runtime::{Builder, Runtime},
    };
    use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
    use tonic::{Request, Response, transport::Server};

    use super::*;
    use crate::{
        ledger::{
            Ledger, segments,
            tests::fixture::{Tpm, batch, event, list, open, scratch},
        },
        measure::{Batch, ContextEvent, proto},
    };

    fn commit(ledger: &mut Ledger, n: u32) {
        ledger.commit(&[event(n)], batch()).unwrap();
    }

    /// The next reply, without waiting longer than anything takes.
    async fn next(replies: &mut Replies) -> Option<WatchReply> {
        let reply = time::timeout(Duration::from_secs(20), replies.next()).await;
        reply.expect("it comes").transpose().unwrap()
    }

    /// The records of what comes until the end.
    async fn rest(replies: &mut Replies) -> Vec<u8> {
        let mut records = Vec::new();
        while let Some(reply) = next(replies).await {
            records.extend(reply.records);
        }
        records
    }

    fn on_disk(dir: &Path) -> Vec<u8> {
        let segments = segments(&dir.join("ledger/boot")).unwrap();
        segments
            .iter()
            .flat_map(|(_, path)| fs::read(path).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_watcher_gets_what_was_what_comes_and_the_end() {
        let (dir, tpm) = (scratch(), Tpm::new());
        let (mut ledger, _) = open(dir.path(), &tpm);
        commit(&mut ledger, 1);
        let watchers = Watchers::of(ledger.committed());
        let mut all = watchers.watch(Some(0)).unwrap();
        let mut new = watchers.watch(None).unwrap();
        let (was, first) = (next(&mut all).await.unwrap(), next(&mut new).await.unwrap());
        assert_eq!(was.records, on_disk(dir.path()));
        assert_eq!((first.first_entry, first.records.len()), (3, 0));
        commit(&mut ledger, 2);
        let comes = next(&mut all).await.unwrap();
        assert_eq!((comes.first_entry, comes.segment), (3, 1));
        assert_eq!(comes.offset, was.records.len() as u64);
        assert_eq!(next(&mut new).await.unwrap(), comes);
        commit(&mut ledger, 3);
        drop(ledger);
        let last = rest(&mut all).await;
        assert_eq!(rest(&mut new).await, last);
        assert_eq!(
            [was.records, comes.records, last].concat(),
            on_disk(dir.path())
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_that_stands_still_delays_nobody_and_misses_nothing() {
        let (dir, tpm) = (scratch(), Tpm::new());
        let (mut ledger, _) = open(dir.path(), &tpm);
        let watchers = Watchers::of(ledger.committed());
        let mut stuck = watchers.watch(Some(0)).unwrap();
        let mut reads = watchers.watch(Some(0)).unwrap();
        let reads = tokio::spawn(async move { rest(&mut reads).await });
        let writes = spawn_blocking(move || {
            (0..2000).for_each(|n| commit(&mut ledger, n));
            ledger
        });
        let ledger = time::timeout(Duration::from_secs(60), writes)
            .await
            .expect("the writer waits for nobody")
            .unwrap();
        let stopped = Instant::now();
        watchers.finish(ledger).await;
        assert!(
            stopped.elapsed() < Duration::from_secs(2),
            "nor does a stop"
        );
        assert_eq!(reads.await.unwrap(), on_disk(dir.path()));
        assert_eq!(rest(&mut stuck).await, on_disk(dir.path()));
        assert_eq!(list(dir.path()).len(), 4001);
    }

    #[tokio::test]
    async fn there_may_be_so_many_and_who_goes_leaves_a_place() {
        let (dir, tpm) = (scratch(), Tpm::new());
        let (mut ledger, _) = open(dir.path(), &tpm);
        let watchers = Watchers::of(ledger.committed());
        let mut all: Vec<_> = (0..WATCHERS)
            .map(|_| watchers.watch(None).unwrap())
            .collect();
        let Err(refused) = watchers.watch(None) else {
            panic!("one too many")
        };
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().starts_with("16 watch the list already"));
        // One that has said its first word, and so waits for the next.
        next(&mut all[0]).await;
        drop(all.swap_remove(0));
        let started = Instant::now();
        while watchers.watch(None).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20));
            time::sleep(Duration::from_millis(5)).await;
        }
        commit(&mut ledger, 1);
    }

    /// A cimad that only has its list watched.
    struct Only(Watchers);

    #[tonic::async_trait]
    impl Containers for Only {
        async fn create(&self, _: Request<CreateRequest>) -> Result<Response<CreateReply>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn explain(
            &self,
            _: Request<ExplainRequest>,
        ) -> Result<Response<ExplainReply>, Status> {
            Err(Status::unimplemented(""))
        }

        async fn reload(&self, _: Request<ReloadRequest>) -> Result<Response<ReloadReply>, Status> {
            Err(Status::unimplemented(""))
        }

        type WatchStream = Replies;

        async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Replies>, Status> {
            Ok(Response::new(
                self.0.watch(request.into_inner().from_entry)?,
            ))
        }
    }

    #[test]
    fn on_a_socket_the_list_is_whole_when_cimad_stops_though_another_reads_nothing() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("passed over: only root can stand in for cimad");
            return;
        }
        let (dir, tpm) = (scratch(), Tpm::new());
        let (mut ledger, _) = open(dir.path(), &tpm);
        let watchers = Watchers::of(ledger.committed());
        let socket = dir.path().join("hook.sock");
        let serves = runtime();
        let entered = serves.enter();
        let listener = UnixListener::bind(&socket).unwrap();
        drop(entered);
        let service = ContainersServer::new(Only(watchers.clone()));
        let incoming = UnixListenerStream::new(listener);
        serves.spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming),
        );
        let watches = runtime();
        let cimad = Cimad::at(Some(socket)).unwrap();
        let patience = Duration::from_secs(20);
        let stuck = watches.block_on(cimad.watch(Some(0), patience)).unwrap();
        let mut watch = watches.block_on(cimad.watch(Some(0), patience)).unwrap();
        let read = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&read);
        let reads = watches.spawn(async move {
            let mut records = Vec::new();
            while let Some(reply) = watch.next().await.unwrap() {
                records.extend(reply.records);
                count.store(records.len() as u64, Ordering::Relaxed);
            }
            records
        });
        // More than any buffer on the way takes.
        for n in 0..40 {
            let mut long = Batch::new();
            let what = proto::context_event::What::PolicyLoaded(proto::PolicyLoaded {
                sha256: vec![7; 200_000],
                name: String::new(),
            });
            long.push(ContextEvent::of_agent(1, what));
            ledger.commit(&[event(n)], long).unwrap();
        }
        let before = on_disk(dir.path()).len() as u64;
        while read.load(Ordering::Relaxed) < before {
            thread::sleep(Duration::from_millis(5));
        }
        commit(&mut ledger, 40);
        let stopped = Instant::now();
        serves.block_on(watchers.finish(ledger));
        serves.shutdown_background();
        assert!(
            stopped.elapsed() < Duration::from_secs(2),
            "{:?}",
            stopped.elapsed()
        );
        assert!(watches.block_on(reads).unwrap() == on_disk(dir.path()));
        drop(stuck);
    }

    fn runtime() -> Runtime {
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    }
}
