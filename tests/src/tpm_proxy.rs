// SPDX-License-Identifier: Apache-2.0
//! A TPM that can be taken away. swtpm runs in the guest, and a proxy in front of it
//! makes it slow, hang, refuse, lose an answer or forget its PCRs. cimad reaches it with
//! `[sink] tpm = "swtpm:host=127.0.0.1,port=…"`.
//!
//! The proxy knows where a command ends and takes one at a time, as a TPM does, so that
//! several programs may be connected: swtpm alone would keep the second waiting.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use ima_log::HashAlgorithm;

use crate::agent::{CIMA, Site};
use crate::process;

/// Each TPM takes four ports in a row: the proxy's two, then swtpm's two.
static NEXT_PORT: AtomicU16 = AtomicU16::new(23210);

/// `TPM_CC_PCR_Extend`.
const PCR_EXTEND: u32 = 0x182;
/// Tag, size and code, in front of every command and answer.
const HEADER: usize = 10;
/// Longer than any command: what claims to be is not one.
const LONGEST: usize = 1 << 16;
/// How long swtpm may take to listen, on an emulated processor.
const START: Duration = Duration::from_secs(20);

/// A software TPM of the guest with its proxy. Dropped, both end.
pub(crate) struct SoftTpm {
    port: u16,
    state: PathBuf,
    swtpm: Child,
    proxy: Arc<Proxy>,
}

impl SoftTpm {
    /// A new TPM with zero PCRs, its files in /tmp/NAME.tpm.
    #[track_caller]
    pub(crate) fn start(name: &str) -> Self {
        let state = PathBuf::from("/tmp").join(format!("{name}.tpm"));
        fs::create_dir_all(&state).expect("/tmp can be written");
        let port = NEXT_PORT.fetch_add(4, Ordering::Relaxed);
        let swtpm = swtpm(&state, port + 2);
        let proxy = Arc::new(Proxy::new(port + 2));
        for (from, to, commands) in [(port, port + 2, true), (port + 1, port + 3, false)] {
            let proxy = Arc::clone(&proxy);
            thread::spawn(move || proxy.listen(from, to, commands));
        }
        proxy.wait_until(|state| state.listening == 2);
        Self {
            port,
            state,
            swtpm,
            proxy,
        }
    }

    /// How tpm2-tss reaches it, by way of the proxy.
    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// The lines of cimad's configuration that anchor a list in it.
    pub(crate) fn sink(&self) -> String {
        format!("[sink]\ntpm = \"{}\"\n", self.tcti())
    }

    /// From now on each extend takes this much longer.
    pub(crate) fn delay_extends(&self, by: Duration) {
        self.proxy.lock().delay = by;
    }

    /// Drops every connection and refuses new ones, until [`SoftTpm::resume`].
    pub(crate) fn gone(&self) {
        self.proxy.enter(Mode::Gone);
        // Each listener is woken to see it.
        for port in [self.port, self.port + 1] {
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        }
        self.proxy.wait_until(|state| state.listening == 0);
    }

    /// Takes connections and commands, and answers none. What is sent meanwhile never
    /// reaches the TPM, and its connection is dropped at [`SoftTpm::resume`].
    pub(crate) fn hang(&self) {
        self.proxy.enter(Mode::Hang);
    }

    /// The next extend is done, but its connection drops before the answer.
    pub(crate) fn lose_next_answer(&self) {
        self.proxy.lock().lose_answer = true;
    }

    /// From now on what each extend gives to the sha256 bank is a line of this file, in
    /// hexadecimal, before the extend is answered. On a file system of the host it is
    /// there whatever becomes of the guest.
    pub(crate) fn keep_journal(&self, path: &Path) {
        let journal = File::create(path).expect("the journal can be written");
        self.proxy.lock().journal = Some(journal);
    }

    /// Ends [`SoftTpm::gone`] and [`SoftTpm::hang`].
    pub(crate) fn resume(&self) {
        self.proxy.enter(Mode::Pass);
        self.proxy.wait_until(|state| state.listening == 2);
    }

    /// Ends swtpm and starts it again: its PCRs are zero, as after a power cycle of the TPM alone.
    pub(crate) fn power_cycle(&mut self) {
        let mut upstream = self.proxy.upstream();
        *upstream = None;
        end(&mut self.swtpm);
        self.swtpm = swtpm(&self.state, self.port + 2);
        drop(upstream);
    }

    /// Extends that the TPM has done since its start.
    pub(crate) fn extends(&self) -> u64 {
        self.proxy.lock().extends
    }

    /// `cima verify` of the site's list of this boot against this TPM.
    #[track_caller]
    pub(crate) fn verify(&self, site: &Site) -> process::Ran {
        let tpm = format!("--tpm={}", self.tcti());
        let list = site.list();
        process::run(&[
            CIMA,
            "verify",
            &tpm,
            "--",
            list.to_str().expect("a plain path"),
        ])
    }

    /// Runs one of tpm2-tools, such as `tpm2_pcrread`, on this TPM.
    #[track_caller]
    pub(crate) fn tool(&self, words: &[&str]) -> process::Ran {
        let [program, arguments @ ..] = words else {
            panic!("there is no program to run");
        };
        let tcti = self.tcti();
        process::run(&[&[*program, "-T", &tcti], arguments].concat())
    }
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        self.proxy.enter(Mode::Ended);
        for port in [self.port, self.port + 1] {
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        }
        end(&mut self.swtpm);
    }
}

/// Starts swtpm on `port` and the one after, and waits until it listens.
#[track_caller]
fn swtpm(state: &Path, port: u16) -> Child {
    let child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .args(["--server", &format!("type=tcp,port={port}")])
        .args(["--ctrl", &format!("type=tcp,port={}", port + 1)])
        .args(["--flags", "not-need-init,startup-clear"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm can be started");
    let started = Instant::now();
    // The control port: a connection to the other would be the one that swtpm serves.
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_err() {
        assert!(started.elapsed() < START, "swtpm does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    child
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Hang,
    Gone,
    Ended,
}

struct State {
    mode: Mode,
    /// Counts the changes of mode: what was sent before one is not passed on after it.
    era: u64,
    delay: Duration,
    lose_answer: bool,
    extends: u64,
    journal: Option<File>,
    /// Ports that take connections now.
    listening: u32,
    /// Connections of clients, to be dropped when the TPM is gone.
    clients: Vec<TcpStream>,
}

/// What the threads of the two ports share.
struct Proxy {
    state: Mutex<State>,
    changed: Condvar,
    port: u16,
    /// The only connection to swtpm's command port; held during a command.
    upstream: Mutex<Option<TcpStream>>,
}

impl Proxy {
    fn new(port: u16) -> Self {
        Self {
            state: Mutex::new(State {
                mode: Mode::Pass,
                era: 0,
                delay: Duration::ZERO,
                lose_answer: false,
                extends: 0,
                journal: None,
                listening: 0,
                clients: Vec::new(),
            }),
            changed: Condvar::new(),
            port,
            upstream: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the proxy panics")
    }

    fn upstream(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.upstream.lock().expect("no thread of the proxy panics")
    }

    fn enter(&self, mode: Mode) {
        let mut state = self.lock();
        state.mode = mode;
        state.era += 1;
        if matches!(mode, Mode::Gone | Mode::Ended) {
            for client in state.clients.drain(..) {
                let _ = client.shutdown(Shutdown::Both);
            }
        }
        self.changed.notify_all();
    }

    /// Waits for a state, and returns the mode it is in then.
    fn wait_until(&self, reached: impl Fn(&State) -> bool) -> Mode {
        let state = self.lock();
        self.changed
            .wait_while(state, |state| !reached(state))
            .expect("no thread of the proxy panics")
            .mode
    }

    fn count_listening(&self, change: impl FnOnce(u32) -> u32) {
        let mut state = self.lock();
        state.listening = change(state.listening);
        self.changed.notify_all();
    }

    /// Takes connections at `from` for swtpm's port `to`, whenever the TPM is there.
    fn listen(self: &Arc<Self>, from: u16, to: u16, commands: bool) {
        while self.wait_until(|state| state.mode != Mode::Gone) != Mode::Ended {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, from)).expect("the port is free");
            self.count_listening(|n| n + 1);
            for client in listener.incoming().filter_map(Result::ok) {
                if matches!(self.lock().mode, Mode::Gone | Mode::Ended) {
                    break;
                }
                let proxy = Arc::clone(self);
                thread::spawn(move || proxy.serve(&client, to, commands));
            }
            drop(listener);
            self.count_listening(|n| n - 1);
        }
    }

    /// One client, until either side drops it.
    fn serve(&self, client: &TcpStream, to: u16, commands: bool) {
        if let Ok(copy) = client.try_clone() {
            let mut state = self.lock();
            // One that came just before the TPM went is dropped with the others.
            if state.mode == Mode::Gone {
                return;
            }
            state.clients.push(copy);
        }
        let _ = if commands {
            self.pass_commands(client)
        } else {
            self.pass_control(client, to)
        };
        let _ = client.shutdown(Shutdown::Both);
        let own = client.peer_addr().ok();
        self.lock()
            .clients
            .retain(|other| other.peer_addr().ok() != own);
    }

    fn pass_commands(&self, mut client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        loop {
            let command = framed(client)?;
            match self.answer(&command)? {
                Some(answer) => client.write_all(&answer)?,
                None => return Ok(()),
            }
        }
    }

    /// What the TPM says to a command; `None` if the client's connection is to drop.
    fn answer(&self, command: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let extend = be32(&command[6..]) == PCR_EXTEND;
        let sent = self.lock().era;
        if !self.passes(sent) {
            return Ok(None);
        }
        let mut upstream = self.upstream();
        if extend {
            let delay = self.lock().delay;
            thread::sleep(delay);
        }
        if !self.passes(sent) {
            return Ok(None);
        }
        let answer = match self.ask(&mut upstream, command) {
            Ok(answer) => answer,
            Err(error) => {
                *upstream = None;
                return Err(error);
            }
        };
        let mut state = self.lock();
        if extend && be32(&answer[6..]) == 0 {
            state.extends += 1;
            if let Some(journal) = &mut state.journal {
                writeln!(journal, "{}", sha256_of(command).unwrap_or_default())?;
            }
            if std::mem::take(&mut state.lose_answer) {
                return Ok(None);
            }
        }
        Ok(Some(answer))
    }

    /// Whether what was sent in an era still reaches the TPM; waits while the TPM hangs.
    fn passes(&self, sent: u64) -> bool {
        let mode = self.wait_until(|state| state.mode != Mode::Hang);
        mode == Mode::Pass && self.lock().era == sent
    }

    fn ask(&self, upstream: &mut Option<TcpStream>, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = match upstream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(command)?;
        let answer = framed(&stream)?;
        *upstream = Some(stream);
        Ok(answer)
    }

    /// swtpm's control port, where tpm2-tss chooses a locality: bytes both ways.
    fn pass_control(&self, client: &TcpStream, to: u16) -> io::Result<()> {
        let sent = self.lock().era;
        if !self.passes(sent) {
            return Ok(());
        }
        let upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
        let (mut from_client, mut to_upstream) = (client.try_clone()?, upstream.try_clone()?);
        let forth = thread::spawn(move || {
            let copied = io::copy(&mut from_client, &mut to_upstream);
            let _ = to_upstream.shutdown(Shutdown::Write);
            copied
        });
        let copied = io::copy(&mut (&upstream), &mut (&*client));
        let _ = client.shutdown(Shutdown::Both);
        let _ = forth.join();
        copied.map(drop)
    }
}

/// A command or an answer: all of the bytes that its header counts.
fn framed(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    stream.read_exact(&mut bytes)?;
    let size = usize::try_from(be32(&bytes[2..])).unwrap_or(usize::MAX);
    if !(HEADER..=LONGEST).contains(&size) {
        return Err(io::Error::other("not a command of a TPM"));
    }
    bytes.resize(size, 0);
    stream.read_exact(&mut bytes[HEADER..])?;
    Ok(bytes)
}

/// What a `TPM2_PCR_Extend` gives to the sha256 bank: after the header come the PCR, the
/// authorization with its size, and a count of pairs of algorithm and digest.
fn sha256_of(extend: &[u8]) -> Option<String> {
    let authorization = usize::try_from(be32(extend.get(14..)?)).ok()?;
    let mut digests = extend.get(18 + authorization + 4..)?;
    loop {
        let algorithm = u16::from_be_bytes([*digests.first()?, *digests.get(1)?]);
        let bank = HashAlgorithm::from_tpm_id(algorithm)?;
        let digest = digests.get(2..2 + bank.digest_len())?;
        if bank == HashAlgorithm::Sha256 {
            return Some(digest.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        digests = digests.get(2 + bank.digest_len()..)?;
    }
}

fn be32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .fold(0, |value, byte| (value << 8) | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::sha256_of;

    #[test]
    fn the_digest_of_a_bank_is_found_behind_the_others() {
        let mut extend = vec![0x80, 2, 0, 0, 0, 0, 0, 0, 1, 0x82, 0, 0, 0, 13];
        // An empty password, then two digests.
        extend.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        extend.extend([0, 4]);
        extend.extend([0xaa; 20]);
        extend.extend([0, 0xb]);
        extend.extend([0xbb; 32]);
        assert_eq!(sha256_of(&extend), Some("bb".repeat(32)));
        assert_eq!(sha256_of(&extend[..60]), None);
    }
}
