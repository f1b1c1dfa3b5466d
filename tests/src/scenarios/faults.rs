// SPDX-License-Identifier: Apache-2.0
//! Disk and TPM fail while a container goes on executing programs: nothing that it
//! executed is missing afterwards, memory stays bounded, and cimad can be ended
//! meanwhile. The list lies on a disk of its own, its anchor is a TPM of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Scenario;
use crate::agent::{Running, Site, eventually, text};
use crate::claims::Claims;
use crate::process;
use crate::tpm_proxy::SoftTpm;
use crate::work::{Executed, Load, assert_sound};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "faults",
    about: "a full or read-only disk, a TPM that is gone, hangs, is slow, locked out or reset: nothing is missing after it",
    play,
};

/// From one execution of the container to the next.
const EVERY: Duration = Duration::from_millis(50);
/// How long SIGTERM may take while a fault lasts.
const END: Duration = Duration::from_secs(15);
/// What runtimes call.
const HOOK: &str = "/cima/bin/cima-hook";
/// What cimad may hold of its own, in KiB.
const MEMORY: u64 = 40 * 1024;

/// Something that fails, and how it comes and goes.
struct Fault {
    name: &'static str,
    /// How long the container works on while it lasts.
    lasts: Duration,
    begin: fn(&mut Bench),
    end: fn(&mut Bench),
    /// What cimad's log must say meanwhile, all of it; nothing where cimad need not notice.
    says: &'static [&'static str],
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "the disk is full",
        lasts: Duration::from_secs(5),
        begin: |bench| bench.fill_disk(),
        end: |bench| bench.free_disk(),
        says: &["/tmp/faults/state/ledger/", "No space left", "again"],
    },
    Fault {
        name: "the disk is read-only",
        lasts: Duration::from_secs(5),
        begin: |bench| bench.disk_read_only(),
        end: |bench| bench.disk_writable(),
        says: &[
            "/tmp/faults/state/ledger/",
            "Read-only file system",
            "again",
        ],
    },
    Fault {
        name: "the TPM is gone for a minute",
        lasts: Duration::from_secs(60),
        begin: |bench| bench.tpm.gone(),
        end: |bench| bench.tpm.resume(),
        says: &["TPM", "again"],
    },
    Fault {
        name: "the TPM answers nothing for 20 seconds",
        lasts: Duration::from_secs(20),
        begin: |bench| bench.tpm.hang(),
        end: |bench| bench.tpm.resume(),
        says: &["the TPM has not answered for"],
    },
    Fault {
        name: "an extend takes half a second",
        lasts: Duration::from_secs(5),
        begin: |bench| bench.tpm.delay_extends(Duration::from_millis(500)),
        end: |bench| bench.tpm.delay_extends(Duration::ZERO),
        says: &[],
    },
    Fault {
        name: "the TPM extends, and the answer is lost",
        lasts: Duration::from_secs(2),
        begin: |bench| bench.tpm.lose_next_answer(),
        end: |_| {},
        says: &["TPM"],
    },
    Fault {
        name: "the TPM is in lockout",
        lasts: Duration::from_secs(2),
        begin: |bench| bench.lock_out(),
        end: |_| {},
        says: &[],
    },
];

fn play(claims: &mut Claims, _arguments: &[String]) {
    let mut bench = Bench::new();
    let site = Site::new("faults");
    site.configure(&bench.tpm.sink());
    let mut agent = Some(site.start());
    let mut done = Vec::new();
    for fault in FAULTS {
        let running = agent.take().unwrap_or_else(|| site.start());
        let name = format!("{}: nothing is missing once it is over", fault.name);
        claims.claim(&name, || {
            done.push(bench.survived(&site, &running, fault));
        });
        let name = format!("{}: the most memory of its own is below 40 MiB", fault.name);
        claims.claim(&name, || {
            let peak = running.peak_memory();
            println!("     {peak} KiB");
            assert!(peak <= MEMORY, "{peak} KiB");
        });
        let name = format!("{}: SIGTERM ends it, the next start completes", fault.name);
        claims.claim(&name, || {
            done.push(bench.ended(&site, running, fault));
        });
        (fault.end)(&mut bench);
    }
    if let Some(agent) = agent.take() {
        agent.stop();
    }
    claims.claim(
        "a container whose hook waits for a TPM that answers nothing: SIGTERM ends cimad, and the container does not start",
        || bench.ended_in_between(&site),
    );
    let last = site.start();
    claims.claim(
        "after all of it: everything once, nothing lost, no chain broken",
        || {
            let entries = site.entries();
            for executed in &done {
                executed.assert_in(&entries);
            }
            assert_eq!(assert_sound(&entries), 0, "events lost");
            let entries = entries.len() as u64;
            assert_eq!(bench.tpm.extends(), entries, "extends, and entries");
        },
    );
    claims.claim(
        "after a TPM's reset the break is on record and cimad goes on",
        || {
            bench.power_cycled(&site, last);
        },
    );
}

/// What the faults befall: the disk of the list, the TPM. And the containers' work.
struct Bench {
    tpm: SoftTpm,
    disk: PathBuf,
    /// Number of the next program.
    next: u64,
}

impl Bench {
    fn new() -> Self {
        let disk = PathBuf::from("/tmp/faults/state");
        let make = "mkdir -p /tmp/faults/state && truncate -s 24M /tmp/faults.img \
                    && mke2fs -q -t ext4 -m 0 /tmp/faults.img && mount -o loop /tmp/faults.img /tmp/faults/state";
        process::run(&["sh", "-c", make]).succeeded();
        Self {
            tpm: SoftTpm::start("faults"),
            disk,
            next: 0,
        }
    }

    /// Lets a container work for a while, and says what it executed.
    fn work(&mut self, time: Duration) -> Executed {
        let dir = Path::new("/tmp/faults-load").join(self.next.to_string());
        let load = Load::start(&dir, self.next, EVERY);
        load.wait_for(5);
        std::thread::sleep(time);
        let executed = load.finish();
        self.next += executed.count();
        executed
    }

    /// The fault comes, lasts, is told of, goes: then all is in the list, and the list in the TPM.
    #[track_caller]
    fn survived(&mut self, site: &Site, agent: &Running<'_>, fault: &Fault) -> Executed {
        let told = site.log().len();
        (fault.begin)(self);
        let executed = self.work(fault.lasts);
        let log = site.log();
        (fault.end)(self);
        let said = log.get(told..).unwrap_or_default();
        for word in fault.says {
            assert!(said.contains(word), "the log does not say {word:?}: {said}");
        }
        self.complete(site, &executed);
        // It held on, and was not started again by anybody.
        agent.peak_memory();
        executed
    }

    /// SIGTERM while the fault lasts; it goes; a new agent completes what the old could not.
    #[track_caller]
    fn ended(&mut self, site: &Site, agent: Running<'_>, fault: &Fault) -> Executed {
        (fault.begin)(self);
        let executed = self.work(Duration::from_secs(1));
        let (code, took) = agent.end();
        (fault.end)(self);
        println!("     ended with {code:?} after {:.1} s", took.as_secs_f64());
        // 2: with a group in the intent.
        assert!(matches!(code, Some(0 | 2)), "{}", site.log());
        let again = site.start();
        self.complete(site, &executed);
        again.stop();
        assert!(took <= END, "SIGTERM took {} s", took.as_secs());
        executed
    }

    /// SIGTERM while a hook's question waits for the TPM.
    #[track_caller]
    fn ended_in_between(&self, site: &Site) {
        let agent = site.start();
        let bundle = Path::new("/tmp/faults-bundle");
        let make = "mkdir -p /tmp/faults-bundle/rootfs/bin && cd /tmp/faults-bundle && cp /usr/bin/busybox rootfs/bin && crun spec";
        process::run(&["sh", "-ec", make]).succeeded();
        let path = bundle.join("config.json");
        let text = std::fs::read_to_string(&path).expect("it was made");
        let mut config: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/busybox", "true"]);
        let socket = site.socket();
        config["hooks"]["createRuntime"] = serde_json::json!([
            {"path": HOOK, "args": [HOOK, "--stage", "createRuntime", "--socket", socket]}
        ]);
        std::fs::write(&path, config.to_string()).expect("it can be written");
        let run = || {
            let mut crun = std::process::Command::new("crun");
            crun.args(["run", "--bundle", "/tmp/faults-bundle", "in-between"]);
            crun.spawn().expect("crun can be started")
        };
        let ran = run().wait().expect("crun ends");
        assert!(ran.success(), "with a TPM that answers: {}", site.log());
        self.tpm.hang();
        let mut waiting = run();
        std::thread::sleep(Duration::from_secs(5));
        let is_waiting = waiting.try_wait().expect("crun can be asked").is_none();
        let (code, took) = agent.end();
        let ran = waiting.wait().expect("crun ends");
        self.tpm.resume();
        println!("     ended with {code:?} after {:.1} s", took.as_secs_f64());
        process::run(&["crun", "delete", "--force", "in-between"]);
        assert!(is_waiting, "nothing was waiting: {}", site.log());
        assert!(!ran.success(), "it was not judged, and started");
        assert!(took <= END, "SIGTERM took {} s", took.as_secs());
        site.start().stop();
        self.tpm.verify(site).succeeded();
    }

    #[track_caller]
    fn complete(&self, site: &Site, executed: &Executed) {
        let since = Instant::now();
        while !executed.last_is_in(&site.entries()) {
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "the last execution is not in the list: {}",
                site.log()
            );
            std::thread::sleep(Duration::from_millis(300));
        }
        executed.assert_in(&site.entries());
        self.tpm.verify(site).succeeded();
    }

    /// The TPM loses its PCRs under the agent, as by a reset that its driver does not tell of.
    #[track_caller]
    fn power_cycled(&mut self, site: &Site, agent: Running<'_>) {
        self.tpm.power_cycle();
        let executed = self.work(Duration::from_secs(2));
        eventually("what ran afterwards is in the list", || {
            executed.last_is_in(&site.entries()).then_some(())
        });
        agent.stop();
        site.start().stop();
        let broken = |(name, _): &(String, String)| name.starts_with("cima-violation:chain:");
        assert!(site.policy_events().iter().any(broken), "no violation");
        executed.assert_in(&site.entries());
        let verdict = self.tpm.verify(site);
        assert_eq!(verdict.code(), Some(1), "{}", verdict.stdout);
        let starts = site.context_events();
        let reasons: Vec<_> = starts
            .iter()
            .map(|event| text(&event["start"]["reason"]))
            .collect();
        assert!(reasons.iter().any(|r| r == "CHAIN_BROKEN"), "{reasons:?}");
    }

    fn fill_disk(&self) {
        let ballast = self.disk.join("ballast");
        let ballast = ballast.to_str().expect("a plain path");
        // Ends when there is no room left.
        process::run(&["dd", "if=/dev/zero", &format!("of={ballast}"), "bs=4096"]).failed();
        process::run(&["sync", "-f", ballast]).succeeded();
    }

    fn free_disk(&self) {
        let _ = std::fs::remove_file(self.disk.join("ballast"));
    }

    /// Every file system on a block device, whoever writes to it, as in an emergency.
    fn disk_read_only(&self) {
        process::run(&["sync"]).succeeded();
        std::fs::write("/proc/sysrq-trigger", "u").expect("sysrq is there");
        eventually("the disk is read-only", || {
            std::fs::write(self.disk.join("probe"), "")
                .is_err()
                .then_some(())
        });
    }

    fn disk_writable(&self) {
        for place in ["/", "/tmp/faults/state"] {
            process::run(&["mount", "-o", "remount,rw", place]).succeeded();
        }
    }

    /// One failed authorization is enough.
    fn lock_out(&self) {
        let tpm = &self.tpm;
        tpm.tool(&[
            "tpm2_dictionarylockout",
            "--setup-parameters",
            "--max-tries=1",
            "--recovery-time=1000",
            "--lockout-recovery-time=1000",
        ])
        .succeeded();
        tpm.tool(&[
            "tpm2_createprimary",
            "-C",
            "o",
            "-p",
            "right",
            "-c",
            "/tmp/faults.ctx",
        ])
        .succeeded();
        tpm.tool(&[
            "tpm2_create",
            "-C",
            "/tmp/faults.ctx",
            "-P",
            "wrong",
            "-u",
            "/tmp/x.pub",
            "-r",
            "/tmp/x.priv",
        ])
        .failed();
        // There is no resource manager that would do it.
        tpm.tool(&["tpm2_flushcontext", "--transient-object"])
            .succeeded();
        let said = tpm
            .tool(&["tpm2_getcap", "properties-variable"])
            .succeeded();
        assert!(said.contains("inLockout:"), "{said}");
    }
}
