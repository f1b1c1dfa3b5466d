// SPDX-License-Identifier: Apache-2.0
//! The ledger on a TPM that is slow, silent, locked out, gone or reset: swtpm, and where
//! its answers are to be wrong, something in between that makes them so.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use cima_agent::containers::Provenance;
use cima_agent::{
    ledger::{Ledger, LedgerError, Opened, Origin},
    measure::{Batch, PolicyEvent},
    sink::PcrSink,
};
use ima_log::HashAlgorithm;

use crate::{
    command::{Files, Ran, cima},
    swtpm::{Swtpm, two_free_ports},
};

const PCR: u32 = 13;

/// This boot's: the command compares it with the list's.
fn boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    boot.trim().to_owned()
}

fn open(state: &str, tcti: &str) -> (Ledger, Opened) {
    let origin = Origin {
        boot_id: boot(),
        kernel_release: "6.12.0".into(),
        realtime_offset_ns: 0,
        now_ns: 1,
    };
    let sink = Box::new(PcrSink::open(tcti, PCR).unwrap());
    Ledger::open(Path::new(state), origin, sink, PCR, None).unwrap()
}

fn commit(ledger: &mut Ledger, path: &str) -> Result<(), LedgerError> {
    let digest = HashAlgorithm::Sha256.digest(path.as_bytes());
    ledger.commit(
        &[PolicyEvent::exec(
            &Provenance::Unregistered,
            path.as_bytes(),
            &digest,
        )],
        Batch::new(),
    )
}

fn verify(state: &str, tpm: &Swtpm) -> Ran {
    let list = format!("{state}/ledger/{}", boot());
    cima(["verify", &format!("--tpm={}", tpm.tcti()), &list])
}

/// What becomes of an extend on its way.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The TPM does not get it and this is the answer.
    Answered(u32),
    /// The TPM does not get it and the connection ends.
    CutBefore,
    /// The TPM carries it out and the connection ends.
    CutAfter,
}

/// Something between the agent and the TPM; both of swtpm's channels go through it.
struct Between {
    port: u16,
    ways: Arc<Mutex<VecDeque<Way>>>,
}

impl Between {
    fn start(tpm: &Swtpm) -> Self {
        let port = two_free_ports();
        let ways = Arc::new(Mutex::new(VecDeque::new()));
        for channel in 0..2 {
            let listener = TcpListener::bind(("127.0.0.1", port + channel)).unwrap();
            let (ways, to) = (Arc::clone(&ways), tpm.port() + channel);
            // Ends with the process.
            thread::spawn(move || {
                for client in listener.incoming() {
                    let ways = Arc::clone(&ways);
                    thread::spawn(move || forward(client?, to, channel == 0, &ways));
                }
            });
        }
        Self { port, ways }
    }

    fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// The ways of the next extends.
    fn lead(&self, ways: impl IntoIterator<Item = Way>) {
        self.ways.lock().unwrap().extend(ways);
    }

    fn left(&self) -> usize {
        self.ways.lock().unwrap().len()
    }
}

fn forward(
    mut client: TcpStream,
    port: u16,
    commands: bool,
    ways: &Mutex<VecDeque<Way>>,
) -> io::Result<()> {
    let mut tpm = TcpStream::connect(("127.0.0.1", port))?;
    let (mut answers, mut back) = (tpm.try_clone()?, client.try_clone()?);
    let returning = thread::spawn(move || {
        let _ = io::copy(&mut answers, &mut back);
        back.shutdown(Shutdown::Both)
    });
    if !commands {
        io::copy(&mut client, &mut tpm)?;
        return tpm.shutdown(Shutdown::Both);
    }
    // A command is tag (2 bytes), its whole size (4), code (4): TPM 2.0 part 1, 18.
    let mut header = [0; 10];
    while client.read_exact(&mut header).is_ok() {
        let [_, _, size @ .., c0, c1, c2, c3] = header;
        let size = usize::try_from(u32::from_be_bytes(size)).unwrap();
        let mut command = header.to_vec();
        command.resize(size, 0);
        client.read_exact(&mut command[10..])?;
        let extend = u32::from_be_bytes([c0, c1, c2, c3]) == 0x182;
        let way = extend.then(|| ways.lock().unwrap().pop_front()).flatten();
        match way {
            None => tpm.write_all(&command)?,
            Some(Way::Answered(code)) => {
                let mut answer = vec![0x80, 0x01, 0, 0, 0, 10];
                answer.extend(code.to_be_bytes());
                client.write_all(&answer)?;
            }
            Some(Way::CutBefore) => break,
            Some(Way::CutAfter) => {
                client.shutdown(Shutdown::Both)?;
                tpm.write_all(&command)?;
                thread::sleep(std::time::Duration::from_millis(100));
                break;
            }
        }
    }
    tpm.shutdown(Shutdown::Both)?;
    let _ = returning.join();
    Ok(())
}

/// As the writer does.
fn insist(ledger: &mut Ledger, mut result: Result<(), LedgerError>) -> usize {
    let mut errors = 0;
    while let Err(error) = result {
        assert!(errors < 10, "{error}");
        assert!(matches!(error, LedgerError::Sink(_)), "{error}");
        result = ledger.reconnect();
        errors += 1;
    }
    errors
}

#[test]
fn a_tpm_that_asks_to_try_again_or_loses_answers_gets_every_entry_once() {
    const YIELDED: u32 = 0x908;
    const TESTING: u32 = 0x90a;
    const LOCALITY: u32 = 0x907;
    const FAILURE: u32 = 0x101;
    const RETRY: u32 = 0x922;
    let (files, tpm) = (Files::new(), Swtpm::start());
    let between = Between::start(&tpm);
    let state = files.path("state");
    let (mut ledger, _) = open(&state, &between.tcti());
    let warnings = [YIELDED, TESTING, RETRY];
    for (n, code) in warnings.into_iter().enumerate() {
        between.lead([Way::Answered(code); 3]);
        let result = commit(&mut ledger, &format!("/bin/patient{n}"));
        assert_eq!(
            insist(&mut ledger, result),
            0,
            "the software stack asks again"
        );
        between.lead([Way::Answered(code); 12]);
        let result = commit(&mut ledger, &format!("/bin/again{n}"));
        assert!(insist(&mut ledger, result) > 0, "but not for ever");
    }
    let others = [
        Way::Answered(FAILURE),
        Way::Answered(LOCALITY),
        Way::CutBefore,
        Way::CutAfter,
    ];
    for (n, way) in others.into_iter().enumerate() {
        between.lead([way]);
        let result = commit(&mut ledger, &format!("/bin/other{n}"));
        assert!(insist(&mut ledger, result) > 0, "{way:?}");
    }
    assert_eq!(between.left(), 0);
    drop(ledger);
    let ran = verify(&state, &tpm);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.verdict().starts_with("good: all 11 entries are"),
        "{}",
        ran.out
    );
}

#[test]
fn a_tpm_that_was_gone_and_comes_back_reset_is_a_broken_chain_at_once() {
    let (files, mut tpm) = (Files::new(), Swtpm::start());
    let state = files.path("state");
    let (mut ledger, _) = open(&state, &tpm.tcti());
    commit(&mut ledger, "/bin/before").unwrap();
    tpm.stop();
    for _ in 0..3 {
        commit(&mut ledger, "/bin/meanwhile").unwrap_err();
        ledger.reconnect().unwrap_err();
    }
    tpm.restart();
    ledger.reconnect().unwrap();
    commit(&mut ledger, "/bin/after").unwrap();
    drop(ledger);
    let second = format!("{state}/ledger/{}/00000002.ima", boot());
    let ran = cima(["log", &second]);
    let names: Vec<_> = ran
        .out
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    assert_eq!(
        names,
        [
            "cima-ctx:1",
            "cima-violation:chain:unregistered:",
            "cima-exec:unregistered:/bin/meanwhile",
            "cima-exec:unregistered:/bin/after"
        ],
        "{}",
        ran.out
    );
    let ran = verify(&state, &tpm);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.verdict().contains("the chain is broken here"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("sha256 match"), "{}", ran.out);
}

#[test]
fn a_tpm_locked_out_by_wrong_passwords_still_takes_every_entry() {
    let (files, tpm) = (Files::new(), Swtpm::start());
    let state = files.path("state");
    let key = files.path("key.ctx");
    tpm.tool(&[
        "tpm2_dictionarylockout",
        "--setup-parameters",
        "--max-tries=1",
        "--recovery-time=1000",
        "--lockout-recovery-time=1000",
    ]);
    tpm.tool(&["tpm2_createprimary", "-C", "o", "-p", "secret", "-c", &key]);
    let (public, private) = (files.path("public"), files.path("private"));
    let (key, public, private) = (key.as_str(), public.as_str(), private.as_str());
    let guess = [
        "tpm2_create",
        "-C",
        key,
        "-P",
        "wrong",
        "-u",
        public,
        "-r",
        private,
    ];
    let said = |ran: std::process::Output| String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!tpm.run(&guess).status.success());
    let refused = said(tpm.run(&guess));
    assert!(refused.contains("0x921"), "TPM_RC_LOCKOUT: {refused}");

    let (mut ledger, _) = open(&state, &tpm.tcti());
    commit(&mut ledger, "/bin/a").unwrap();
    drop(ledger);
    let ran = verify(&state, &tpm);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // Without a resource manager the attempts' keys stay in the TPM's few places.
    tpm.tool(&["tpm2_flushcontext", "-t"]);
    let refused = said(tpm.run(&guess));
    assert!(refused.contains("0x921"), "still locked out: {refused}");
}
