// SPDX-License-Identifier: Apache-2.0
//! `cima-hook` as runtimes start it, before cimads of every kind. Only root can stand in for cimad: what needs one
//! is passed over for other users, and says so.

#![expect(clippy::unwrap_used, reason = "a panic in a test keeps its stack")]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use cima_api::{
    CreateReply, CreateRequest, ExplainReply, ExplainRequest, ReloadReply, ReloadRequest,
    StopReply, StopRequest, WatchReply, WatchRequest,
    containers_server::{Containers, ContainersServer},
};
use cima_hook::client::{AskError, Cimad};
use rustix::{process::geteuid, thread::set_thread_res_uid};
use tempfile::TempDir;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

const CREATING: &str =
    r#"{"ociVersion":"1.0.2","id":"web","status":"creating","pid":7,"bundle":"/b"}"#;
const STOPPED: &str = r#"{"ociVersion":"1.0.2","id":"web","status":"stopped","bundle":"/b"}"#;

/// Which cimad stands there.
#[derive(Debug, Clone, Copy)]
enum Fake {
    Allows,
    Denies,
    Sleeps,
    Fails,
}

#[tonic::async_trait]
impl Containers for Fake {
    async fn create(
        &self,
        request: Request<CreateRequest>,
    ) -> Result<Response<CreateReply>, Status> {
        let state = String::from_utf8(request.into_inner().state).unwrap();
        assert!(state.starts_with('{') && state.contains("creat"));
        let (allowed, reasons) = match self {
            Self::Allows => (true, vec!["a note\u{1b}[2J".to_owned()]),
            Self::Denies => (
                false,
                vec![
                    "the image is not known\u{1b}[1A".to_owned(),
                    "nor signed".to_owned(),
                ],
            ),
            Self::Sleeps => {
                tokio::time::sleep(Duration::from_secs(30)).await;
                (true, Vec::new())
            }
            Self::Fails => return Err(Status::internal("the list cannot be written")),
        };
        Ok(Response::new(CreateReply {
            allowed,
            reasons,
            image: String::new(),
        }))
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        match self {
            Self::Fails => Err(Status::internal("the list cannot be written")),
            _ => Ok(Response::new(StopReply { known: true })),
        }
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn reload(&self, _: Request<ReloadRequest>) -> Result<Response<ReloadReply>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchStream = tokio_stream::Iter<std::vec::IntoIter<Result<WatchReply, Status>>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let first_entry = request.into_inner().from_entry.unwrap_or(100);
        let reply = |first_entry| {
            Ok(WatchReply {
                first_entry,
                records: vec![7; 2 << 20],
                ..WatchReply::default()
            })
        };
        let last = match self {
            Self::Allows => reply(first_entry + 1),
            Self::Denies => return Err(Status::permission_denied("only root may ask for this")),
            Self::Sleeps => {
                tokio::time::sleep(Duration::from_secs(30)).await;
                reply(first_entry + 1)
            }
            Self::Fails => Err(Status::internal("a segment is gone")),
        };
        let replies = vec![reply(first_entry), last];
        Ok(Response::new(tokio_stream::iter(replies)))
    }
}

/// A socket, which lives as long as the directory.
struct Socket {
    _directory: TempDir,
    path: PathBuf,
}

impl Socket {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let path = directory.path().join("hook.sock");
        Self {
            _directory: directory,
            path,
        }
    }

    /// None for a user who cannot pass for cimad.
    fn served(fake: Fake) -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("passed over: only root can stand in for cimad");
            return None;
        }
        let socket = Self::new();
        let listener = UnixListener::bind(&socket.path).unwrap();
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                Server::builder()
                    .add_service(ContainersServer::new(fake))
                    .serve_with_incoming(UnixListenerStream::new(listener))
                    .await
                    .unwrap();
            });
        });
        Some(socket)
    }
}

fn start(socket: &Path, args: &[&str]) -> (Child, ChildStdin) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cima-hook"))
        .arg("--socket")
        .arg(socket)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

fn run(socket: &Path, args: &[&str], state: &[u8]) -> (Option<i32>, String) {
    let (child, mut stdin) = start(socket, args);
    // A hook that had enough closes the pipe.
    _ = stdin.write_all(state);
    drop(stdin);
    said(&child.wait_with_output().unwrap())
}

fn said(output: &Output) -> (Option<i32>, String) {
    assert!(output.stdout.is_empty());
    (
        output.status.code(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    )
}

#[test]
fn a_container_that_cimad_allows_starts() {
    let Some(socket) = Socket::served(Fake::Allows) else {
        return;
    };
    let (code, stderr) = run(&socket.path, &[], CREATING.as_bytes());
    assert_eq!(
        (code, stderr.as_str()),
        (Some(0), "cima-hook: allowed: a note\\u{1b}[2J\n")
    );
    let crun = CREATING.replace("creating", "created");
    assert_eq!(run(&socket.path, &[], crun.as_bytes()).0, Some(0));
}

#[test]
fn a_container_that_cimad_denies_does_not_start_even_if_open() {
    let Some(socket) = Socket::served(Fake::Denies) else {
        return;
    };
    for args in [&[][..], &["--fail", "open"]] {
        let (code, stderr) = run(&socket.path, args, CREATING.as_bytes());
        assert_eq!(code, Some(1));
        assert_eq!(
            stderr,
            "cima-hook: denied: the image is not known\\u{1b}[1A\ncima-hook: denied: nor signed\n"
        );
    }
}

/// The container is blocked, started with a warning if open, and its end never blocked.
fn assert_not_judged(socket: &Path, sentence: &str) {
    let args = ["--timeout", "1"];
    let (code, stderr) = run(socket, &args, CREATING.as_bytes());
    assert_eq!(code, Some(2), "{stderr}");
    assert!(
        stderr.starts_with("cima-hook: denied: ") && stderr.contains(sentence),
        "{stderr}"
    );
    let (code, stderr) = run(
        socket,
        &["--timeout", "1", "--fail=open"],
        CREATING.as_bytes(),
    );
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stderr.contains(sentence) && stderr.contains("was not measured"),
        "{stderr}"
    );
}

fn assert_not_told(socket: &Path) {
    let (code, stderr) = run(socket, &[], STOPPED.as_bytes());
    assert_eq!(code, Some(0));
    assert!(
        stderr.starts_with("cima-hook: warning: cimad was not told"),
        "{stderr}"
    );
}

#[test]
fn without_a_cimad_nothing_is_judged() {
    let socket = Socket::new();
    assert_not_judged(&socket.path, "cimad cannot be reached");
    assert_not_told(&socket.path);
    // What a cimad that was killed leaves behind.
    drop(UnixListener::bind(&socket.path).unwrap());
    assert_not_judged(&socket.path, "cimad cannot be reached");
    assert_not_told(&socket.path);
}

#[test]
fn an_error_of_cimad_is_no_verdict() {
    let Some(socket) = Socket::served(Fake::Fails) else {
        return;
    };
    assert_not_judged(&socket.path, "the list cannot be written");
    assert_not_told(&socket.path);
}

#[test]
fn a_cimad_that_does_not_answer_in_time_is_given_up() {
    let Some(socket) = Socket::served(Fake::Sleeps) else {
        return;
    };
    let begin = Instant::now();
    assert_not_judged(&socket.path, "gave no answer within 1 s");
    assert!(begin.elapsed() < Duration::from_secs(6));
}

#[test]
fn one_that_accepts_and_says_nothing_is_given_up() {
    if !geteuid().is_root() {
        return;
    }
    let socket = Socket::new();
    let _listener = UnixListener::bind(&socket.path).unwrap();
    assert_not_judged(&socket.path, "gave no answer within 1 s");
}

#[test]
fn a_full_queue_of_connections_is_waited_for() {
    if !geteuid().is_root() {
        return;
    }
    let socket = Socket::new();
    let listener = UnixListener::bind(&socket.path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&socket.path).unwrap();
    // "Cannot be reached" would be what a queue that is full looks like to one who does not wait.
    assert_not_judged(&socket.path, "gave no answer within 1 s");
}

#[test]
fn garbage_is_no_verdict() {
    if !geteuid().is_root() {
        return;
    }
    for bytes in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\n\r\n",
        &[0xff; 64],
        // A frame that says it is sixteen megabytes long.
        &[0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0],
    ] {
        let socket = Socket::new();
        let listener = UnixListener::bind(&socket.path).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                _ = stream.write_all(bytes);
                _ = stream.read(&mut [0; 64]);
            }
        });
        assert_not_judged(&socket.path, "is no answer of cimad's");
        assert_not_told(&socket.path);
    }
}

fn listen_as(uid: u32, path: &Path) -> UnixListener {
    let path = path.to_owned();
    let listening = thread::spawn(move || {
        let user = rustix::thread::Uid::from_raw(uid);
        // Of this thread alone, and it ends here.
        set_thread_res_uid(user, user, user).unwrap();
        UnixListener::bind(path).unwrap()
    });
    listening.join().unwrap()
}

#[test]
fn another_user_cannot_stand_in_for_cimad() {
    if !geteuid().is_root() {
        return;
    }
    let socket = Socket::new();
    let _listener = listen_as(65_534, &socket.path);
    assert_not_judged(&socket.path, "user 65534 listens at");
    assert_not_told(&socket.path);
}

/// The hook as podman of user 12345 starts it: in that user's namespace, in which he is root.
fn run_rootless(socket: &Path) -> Option<(Option<i32>, String)> {
    // Cargo's directories may be closed to other users. Copied by another process: what one of ours holds open for
    // writing, and with it each that another test starts, is not executed.
    let hook = socket.with_file_name("cima-hook");
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_cima-hook")).arg(&hook);
    assert!(copy.status().unwrap().success());
    fs::set_permissions(socket, fs::Permissions::from_mode(0o777)).unwrap();
    let user = |program: &[&str]| {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", "12345", "--regid", "12345", "--clear-groups"]);
        setpriv.args(["unshare", "--user", "--map-root-user"]);
        setpriv.args(program);
        setpriv
    };
    if !user(&["true"])
        .output()
        .is_ok_and(|output| output.status.success())
    {
        eprintln!("passed over: no user namespaces here, or neither setpriv nor unshare");
        return None;
    }
    let state = socket.with_file_name("state");
    fs::write(&state, CREATING).unwrap();
    let output = user(&[hook.to_str().unwrap(), "--socket"])
        .arg(socket)
        .stdin(fs::File::open(state).unwrap())
        .output()
        .unwrap();
    Some(said(&output))
}

#[test]
fn a_users_own_hook_believes_the_hosts_root() {
    let Some(socket) = Socket::served(Fake::Allows) else {
        return;
    };
    if let Some((code, stderr)) = run_rootless(&socket.path) {
        assert_eq!(code, Some(0), "{stderr}");
    }
}

#[test]
fn a_users_own_hook_does_not_believe_that_user() {
    if !geteuid().is_root() {
        return;
    }
    let socket = Socket::new();
    let _listener = listen_as(12_345, &socket.path);
    if let Some((code, stderr)) = run_rootless(&socket.path) {
        assert_eq!(code, Some(2));
        assert!(stderr.contains("user 0 listens at"), "{stderr}");
    }
}

#[test]
fn a_state_that_is_none_or_huge_blocks_the_container() {
    let socket = Socket::new();
    for (state, sentence) in [
        (b"".to_vec(), "not the state of a container"),
        (b"{}".to_vec(), "not the state of a container"),
        (vec![b' '; cima_api::LARGEST_STATE + 1], "larger than"),
        (
            br#"{"id":"web","status":"running"}"#.to_vec(),
            "neither being created nor stopped",
        ),
    ] {
        let (code, stderr) = run(
            &socket.path,
            &["--stage", "createRuntime"][..if sentence.starts_with("neither") {
                0
            } else {
                2
            }],
            &state,
        );
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(sentence), "{stderr}");
        let (code, _) = run(&socket.path, &["--fail", "open"], &state);
        assert_eq!(code, Some(0));
        if !sentence.starts_with("neither") {
            let (code, _) = run(&socket.path, &["--stage", "poststop"], &state);
            assert_eq!(code, Some(0));
        }
    }
}

#[test]
fn a_runtime_that_never_ends_the_state_is_given_up() {
    let socket = Socket::new();
    let begin = Instant::now();
    let (child, mut stdin) = start(&socket.path, &[]);
    stdin.write_all(CREATING.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let (code, stderr) = said(&output);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("did not end the container's state"),
        "{stderr}"
    );
    assert!(begin.elapsed() < Duration::from_secs(8));
}

#[test]
fn the_largest_state_reaches_cimad() {
    let Some(socket) = Socket::served(Fake::Allows) else {
        return;
    };
    let mut state = CREATING.to_owned();
    state.extend(std::iter::repeat_n(
        ' ',
        cima_api::LARGEST_STATE - state.len(),
    ));
    assert_eq!(run(&socket.path, &[], state.as_bytes()).0, Some(0));
}

#[test]
fn a_wrong_argument_blocks_unless_the_container_is_gone_or_may_start_unmeasured() {
    let socket = Socket::new();
    for (args, code) in [
        (&["--what"][..], 2),
        (&["--timeout", "0"], 2),
        (&["--fail", "opne"], 2),
        (&["--what", "--fail", "open"], 0),
        (&["--what", "--fail=open"], 0),
        (&["--stage", "poststop", "--what"], 0),
        (&["--help"], 0),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_cima-hook"))
            .arg("--socket")
            .arg(&socket.path)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
}

/// How long a container waits for the hook beyond what cimad does: `cargo test --release -p cima-hook -- --ignored --nocapture`.
#[test]
#[ignore = "a figure for docs/HOOK.md, of a machine that does nothing else"]
fn the_hook_takes_less_than_twenty_milliseconds() {
    let Some(socket) = Socket::served(Fake::Allows) else {
        return;
    };
    let mut took: Vec<Duration> = (0..300)
        .map(|_| {
            let begin = Instant::now();
            assert_eq!(run(&socket.path, &[], CREATING.as_bytes()).0, Some(0));
            begin.elapsed()
        })
        .collect();
    took.sort();
    let (median, late) = (took[150], took[285]);
    println!("cima-hook: median {median:?}, 95 % within {late:?}");
    assert!(median < Duration::from_millis(20), "{median:?}");
}

/// What a watcher gets: the number of each reply, and how it ends.
fn watched(fake: Fake, from: Option<u64>) -> Option<(Vec<u64>, Result<(), AskError>)> {
    let socket = Socket::served(fake)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let cimad = Cimad::at(Some(socket.path.clone())).unwrap();
    let mut numbers = Vec::new();
    let ended = runtime.block_on(async {
        let mut watch = cimad.watch(from, Duration::from_secs(1)).await?;
        while let Some(reply) = watch.next().await? {
            assert_eq!(reply.records.len(), 2 << 20, "longer than a request may be");
            numbers.push(reply.first_entry);
        }
        Ok(())
    });
    Some((numbers, ended))
}

#[test]
fn who_watches_gets_reply_after_reply_until_cimad_ends() {
    for (from, expected) in [(Some(5), [5, 6]), (None, [100, 101])] {
        let Some((numbers, ended)) = watched(Fake::Allows, from) else {
            return;
        };
        ended.unwrap();
        assert_eq!(numbers, expected);
    }
}

#[test]
fn who_may_not_watch_or_no_more_is_told_why() {
    let sentences = [
        (Fake::Denies, 0, "only root may ask for this"),
        (Fake::Sleeps, 0, "gave no answer within 1 s"),
        (Fake::Fails, 1, "a segment is gone"),
    ];
    for (fake, replies, sentence) in sentences {
        let Some((numbers, ended)) = watched(fake, None) else {
            return;
        };
        assert_eq!(numbers.len(), replies);
        let error = ended.unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    }
}
