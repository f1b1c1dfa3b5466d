// SPDX-License-Identifier: Apache-2.0
//! A machine on which everything is there, and what is said when one thing is not.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cima_hook::client::AskError;
use ima_log::{Entry, HashAlgorithm};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Ask, Host,
    page::{Page, State},
};
use crate::{
    cli::{
        hook::{Engine, Fires, HookError},
        verdict::Paint,
    },
    config::{Config, DEFAULT_PATH},
    machine::Machine,
    measure::{Anchorage, PolicyEvent, file_name},
    probes::ListerError,
    sink::{HOST_LIST, HOST_PCR, SinkError},
};

const HOOK: &str = "/usr/libexec/cima/cima-hook";
const HOOKS_D: &str = "/usr/share/containers/oci/hooks.d/cima.json";
const HOOK_FILE: &str = r#"{"version": "1.0.0",
  "hook": {"path": "/usr/libexec/cima/cima-hook", "args": ["cima-hook", "--fail", "closed", "--timeout", "120"], "timeout": 130},
  "when": {"always": true}, "stages": ["createRuntime", "poststop"]}"#;
const MOUNTS: &str = "\
24 29 0:22 / /proc rw,nosuid - proc proc rw
31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw
32 24 0:28 / /sys/fs/bpf rw,nosuid - bpf bpf rw,mode=700
";
const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
const UNIT: &str = "/etc/systemd/system/cimad.service";
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/cimad.service";
const TPM: &str = "/sys/class/tpm/tpm0";
const COUNTERS: &str = "/sys/class/misc/cima/counters";
const RULE: &str = "measure func=FILE_CHECK mask=MAY_READ fsname=devtmpfs fowner=60990";

/// A machine's root.
struct Node(TempDir);

impl Node {
    /// Nothing lacks.
    fn whole() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        let files = [
            ("/proc/sys/kernel/osrelease", "6.12.5-amd64\n"),
            ("/proc/sys/kernel/random/boot_id", "boot\n"),
            ("/proc/self/mountinfo", MOUNTS),
            (
                "/sys/kernel/security/lsm",
                "lockdown,capability,yama,apparmor,bpf,ima,evm",
            ),
            (
                "/sys/kernel/security/lockdown",
                "[none] integrity confidentiality\n",
            ),
            ("/sys/kernel/security/ima/runtime_measurements_count", "1\n"),
            ("/sys/kernel/btf/vmlinux", ""),
            (SECURE_BOOT, "\x06\0\0\0\0"),
            ("/dev/tpmrm0", ""),
            ("/dev/cima", ""),
            ("/usr/bin/podman", ""),
            (HOOKS_D, HOOK_FILE),
            (DEFAULT_PATH, include_str!("../../../etc/cimad.toml")),
            (
                "/etc/cima/measurement.toml",
                include_str!("../../../../policies/default/measurement.toml"),
            ),
            ("/usr/lib/cima/cima-probes.o", ""),
            ("/usr/lib/cima/cima-list.o", ""),
            ("/run/systemd/system/x", ""),
            (UNIT, ""),
        ];
        for (path, text) in files {
            node.write(path, text);
        }
        node.write(&format!("{TPM}/tpm_version_major"), "2\n");
        for (bank, digits) in [("sha1", 40), ("sha256", 64)] {
            for pcr in [10, 13] {
                node.write(&format!("{TPM}/pcr-{bank}/{pcr}"), "A".repeat(digits));
            }
        }
        for name in [
            "listed",
            "repeated",
            "unmatched",
            "failed",
            "hash_failed",
            "refused",
        ] {
            node.write(&format!("{COUNTERS}/{name}"), "3\n");
        }
        node.lists(&[Anchorage::Kernel, Anchorage::ImaFile]);
        node.program(HOOK, "#!/bin/sh\necho cima-hook 0.1.0\n");
        fs::create_dir_all(node.path(ENABLED).parent().unwrap()).unwrap();
        symlink(UNIT, node.path(ENABLED)).unwrap();
        node
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.strip_prefix('/').unwrap())
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.path(path);
        match path.is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }

    /// Written by another process: see `tests/hook.rs`.
    fn program(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        assert!(shell.wait().unwrap().success());
    }

    /// The kernel's list has its own entry, and what these sinks say of themselves.
    fn lists(&self, sinks: &[Anchorage]) {
        let hash = HashAlgorithm::Sha256;
        let mut entries =
            vec![Entry::ima_ng(HOST_PCR, hash.digest(b"boot"), "boot_aggregate").unwrap()];
        for sink in sinks {
            let event = PolicyEvent::sink(*sink);
            let payload = event.payload.as_bytes();
            entries.push(match sink {
                Anchorage::Kernel => Entry::ima_buf(HOST_PCR, hash, &event.name, payload).unwrap(),
                _ => Entry::ima_ng(HOST_PCR, hash.digest(payload), file_name(&event.name)).unwrap(),
            });
        }
        let mut bytes = Vec::new();
        for entry in &entries {
            entry.append_binary(&mut bytes);
        }
        self.write(HOST_LIST, bytes);
    }

    fn mounts(&self, but: &str, that: &str) {
        self.write("/proc/self/mountinfo", MOUNTS.replace(but, that));
    }

    fn configure(&self, sink: &str) {
        self.write(DEFAULT_PATH, format!("[sink]\n{sink}\n"));
    }

    fn machine(&self) -> Machine {
        Machine::at(self.0.path()).seen_by_root(true)
    }

    fn page(&self) -> Page {
        self.page_of(&Answers::default(), false)
    }

    fn page_of(&self, answers: &Answers, tries: bool) -> Page {
        Host::look(self.machine(), Path::new(DEFAULT_PATH), answers, tries).page()
    }

    /// Without the place of this root.
    fn text(&self, page: &Page) -> String {
        let mut text = Vec::new();
        page.text(&mut text, Paint::when(false)).unwrap();
        let text = String::from_utf8(text).unwrap();
        text.replace(self.0.path().to_str().unwrap(), "")
    }
}

type Chosen = Result<(Anchorage, String), SinkError>;
type Banks = fn() -> Result<Vec<HashAlgorithm>, SinkError>;

/// What devices, sockets and programs answer.
struct Answers {
    banks: Banks,
    cimad: fn() -> Result<(), AskError>,
    chosen: fn(Option<Anchorage>) -> Chosen,
    fires: fn() -> Result<Fires, HookError>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            banks: || Ok(vec![HashAlgorithm::Sha1, HashAlgorithm::Sha256]),
            cimad: || Ok(()),
            chosen: |_| Ok((Anchorage::Kernel, "it is the best there is".into())),
            fires: || Ok(Fires::Yes("the hook fires".into())),
        }
    }
}

impl Ask for Answers {
    fn banks(&self, _: &str, _: u32) -> Result<Vec<HashAlgorithm>, SinkError> {
        (self.banks)()
    }

    fn cimad(&self, _: &Path) -> Result<(), AskError> {
        (self.cimad)()
    }

    /// As if it were whole.
    fn lister(&self, path: &Path) -> Result<(), ListerError> {
        let source = |source| ListerError::Unreadable {
            path: path.to_owned(),
            source,
        };
        fs::read(path).map(drop).map_err(source)
    }

    fn choose(&self, _: &Config, kept: Option<Anchorage>) -> Chosen {
        (self.chosen)(kept)
    }

    fn fires(&self, _: Engine, _: &Path) -> Result<Fires, HookError> {
        (self.fires)()
    }
}

fn device(kind: io::ErrorKind) -> SinkError {
    SinkError::Device {
        device: "/dev/tpmrm0".into(),
        source: kind.into(),
    }
}

/// The only lack is of this part, says so, and is mended by these commands.
#[track_caller]
fn lacks(node: &Node, page: &Page, part: &str, words: &str, mend: &[&str]) {
    let text = node.text(page);
    let lacks: Vec<_> = page
        .findings
        .iter()
        .filter(|finding| finding.state == State::Lacks)
        .collect();
    let [one] = lacks.as_slice() else {
        panic!("{part} was to be the only lack: {text}");
    };
    assert_eq!(one.part, part, "{text}");
    assert!(one.text.contains(words), "{text}");
    assert_eq!(one.mend, mend, "{text}");
    assert!(!page.is_good());
}

#[track_caller]
fn found<'a>(page: &'a Page, part: &str) -> (State, &'a str) {
    let finding = page.findings.iter().find(|finding| finding.part == part);
    let finding = finding.unwrap();
    (finding.state, &finding.text)
}

#[test]
fn where_everything_is_there_nothing_lacks() {
    let node = Node::whole();
    let page = node.page();
    assert!(page.is_good());
    let text = node.text(&page);
    assert_eq!(text, include_str!("tests/whole.txt"), "{text}");
    let mut json = Vec::new();
    page.json(&mut json).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["good"], true);
    let sink = json["findings"].as_array().unwrap().iter();
    let mut sink = sink.filter(|finding| finding["part"] == "sink");
    assert_eq!(sink.next().unwrap()["facts"]["chosen"], "kernel");
}

const GRUB: &str = "mkdir -p /etc/default/grub.d";
const OTHER_KERNEL: [&str; 2] = ["apt-get install linux-image-amd64", "reboot"];
const ALLOCATE: [&str; 3] = [
    "apt-get install tpm2-tools",
    "tpm2_pcrallocate sha256:all     # refused if the firmware closed the platform hierarchy: then in its menu",
    "reboot",
];
const FIRMWARE: &str = "systemctl reboot --firmware-setup     # enable the TPM 2.0 there; a virtual machine is given one";

#[test]
fn each_lack_of_the_kernel_is_said_alone_with_what_mends_it() {
    let lsm_parameter = "echo 'GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX lsm=lockdown,yama,apparmor,integrity,bpf\"' > /etc/default/grub.d/cima-lsm.cfg";
    let cgroup = "echo 'GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX systemd.unified_cgroup_hierarchy=1\"' > /etc/default/grub.d/cima-cgroup.cfg";
    type Break = fn(&Node);
    let cases: [(Break, &str, &str, &[&str]); 9] = [
        (
            |node| node.write("/proc/sys/kernel/osrelease", "5.10.0-30-amd64"),
            "kernel",
            "this kernel is 5.10.0-30-amd64",
            &OTHER_KERNEL,
        ),
        (
            |node| {
                node.write(
                    "/sys/kernel/security/lsm",
                    "lockdown,capability,yama,apparmor,ima,evm",
                );
            },
            "LSM",
            "`bpf` is not an active LSM",
            &[GRUB, lsm_parameter, "update-grub", "reboot"],
        ),
        (
            |node| node.remove("/sys/kernel/security/lsm"),
            "LSM",
            "mount securityfs",
            &["mount -t securityfs none /sys/kernel/security"],
        ),
        (
            |node| node.remove("/sys/kernel/btf/vmlinux"),
            "BTF",
            "CONFIG_DEBUG_INFO_BTF",
            &OTHER_KERNEL,
        ),
        (
            |node| node.remove("/sys/kernel/security/ima"),
            "IMA",
            "CONFIG_IMA",
            &OTHER_KERNEL,
        ),
        (
            |node| node.mounts("- bpf", "- tmpfs"),
            "bpffs",
            "/sys/fs/bpf is not a BPF file system",
            &["mount -t bpf bpf /sys/fs/bpf"],
        ),
        (
            |node| node.mounts("- cgroup2", "- tmpfs"),
            "cgroup",
            "/sys/fs/cgroup is tmpfs",
            &[GRUB, cgroup, "update-grub", "reboot"],
        ),
        (
            |node| node.mounts("/cgroup ", "/other "),
            "cgroup",
            "no cgroup version 2",
            &["mount -t cgroup2 none /sys/fs/cgroup"],
        ),
        (
            |node| {
                node.write(
                    "/sys/kernel/security/lockdown",
                    "none integrity [confidentiality]",
                );
            },
            "lockdown",
            "bpf_probe_read_kernel",
            &[
                "sed -i 's/ *lockdown=confidentiality//g' /etc/default/grub",
                "update-grub",
                "reboot",
            ],
        ),
    ];
    for (spoil, part, words, mend) in cases {
        let node = Node::whole();
        spoil(&node);
        lacks(&node, &node.page(), part, words, mend);
    }
}

#[test]
fn each_lack_of_the_agent_and_the_engines_is_said_alone_with_what_mends_it() {
    type Break = fn(&Node);
    let install_hook = "cima hook install --engine podman";
    let programs = "install -D -m 755 -t /usr/libexec/cima target/cima/stage/bin/cima-hook target/cima/stage/bin/cima-runtime";
    let cases: [(Break, &str, &str, &[&str]); 13] = [
        (
            |node| node.remove(DEFAULT_PATH),
            "configuration",
            "cannot read the configuration",
            &["install -D -m 644 agent/etc/cimad.toml /etc/cima/cimad.toml"],
        ),
        (
            |node| node.write(DEFAULT_PATH, "state_dri = 1"),
            "configuration",
            "state_dri",
            &[
                "editor /etc/cima/cimad.toml",
                "cimad --check --config /etc/cima/cimad.toml",
            ],
        ),
        (
            |node| node.remove("/etc/cima/measurement.toml"),
            "policy",
            "cannot read the policy",
            &["install -D -m 644 policies/default/measurement.toml /etc/cima/measurement.toml"],
        ),
        (
            |node| node.write("/etc/cima/measurement.toml", "nonsense = 1"),
            "policy",
            "nonsense",
            &[
                "editor /etc/cima/measurement.toml",
                "systemctl reload cimad",
            ],
        ),
        (
            |node| node.remove("/usr/lib/cima/cima-probes.o"),
            "probes",
            "cannot read the probe object",
            &[
                "cargo xtask build",
                "install -D -m 644 target/cima/cima-probes.o /usr/lib/cima/cima-probes.o",
            ],
        ),
        (
            |node| node.remove("/usr/lib/cima/cima-list.o"),
            "lister",
            "cima-list.o: No such file",
            &[
                "cargo xtask build module",
                "install -D -m 644 target/cima/stage/lib/cima-list.o /usr/lib/cima/cima-list.o",
            ],
        ),
        (
            |node| node.remove(UNIT),
            "unit",
            "no unit",
            &[
                "install -m 644 agent/etc/cimad.service /etc/systemd/system/",
                "systemctl daemon-reload",
                "systemctl enable --now cimad",
            ],
        ),
        (
            |node| fs::remove_file(node.path(ENABLED)).unwrap(),
            "unit",
            "not enabled",
            &["systemctl enable --now cimad"],
        ),
        (
            |node| node.remove(HOOKS_D),
            "podman",
            "cima.json is not there",
            &[install_hook],
        ),
        (
            |node| node.write(HOOKS_D, HOOK_FILE.replace("true", "false")),
            "podman",
            "not for every container",
            &[install_hook],
        ),
        (
            |node| node.remove(HOOK),
            "podman",
            "cima-hook is not there",
            &[programs, install_hook],
        ),
        (
            |node| node.write("/usr/bin/dockerd", ""),
            "dockerd",
            "daemon.json is not there",
            &[
                programs,
                "cima hook install --engine docker",
                "systemctl reload docker",
            ],
        ),
        (
            |node| node.write("/usr/bin/crio", HOOK_FILE),
            // The two share a file, which is as it should be.
            "",
            "",
            &[],
        ),
    ];
    for (spoil, part, words, mend) in cases {
        let node = Node::whole();
        spoil(&node);
        match part {
            "" => assert!(node.page().is_good()),
            part => lacks(&node, &node.page(), part, words, mend),
        }
    }
}

#[test]
fn a_cimad_that_does_not_answer_lacks_and_one_that_may_not_be_asked_does_not() {
    fn unreachable(kind: io::ErrorKind) -> Result<(), AskError> {
        Err(AskError::Unreachable {
            socket: "/run/cima/hook.sock".into(),
            error: kind.into(),
        })
    }
    let node = Node::whole();
    let page = |cimad| {
        let answers = Answers {
            cimad,
            ..Answers::default()
        };
        node.page_of(&answers, false)
    };
    let stopped = page(|| unreachable(io::ErrorKind::NotFound));
    let mend = [
        "systemctl restart cimad",
        "journalctl -b -u cimad     # why it does not run",
    ];
    lacks(&node, &stopped, "cimad", "cannot be reached", &mend);
    let denied = page(|| unreachable(io::ErrorKind::PermissionDenied));
    assert_eq!(found(&denied, "cimad").0, State::Unknown);
}

#[test]
fn each_lack_of_the_tpm_is_said_alone_with_what_mends_it() {
    type Break = fn(&Node);
    let absent: Banks = || Err(device(io::ErrorKind::NotFound));
    let there: Banks = || Ok(vec![HashAlgorithm::Sha256]);
    let cases: [(Break, Banks, &str, &str, &[&str]); 7] = [
        (
            |node| node.remove(TPM),
            absent,
            "TPM",
            "there is none",
            &["modprobe -a tpm_crb tpm_tis", FIRMWARE],
        ),
        (
            |node| node.write(&format!("{TPM}/tpm_version_major"), "1\n"),
            there,
            "TPM",
            "TPM 1.2",
            &[FIRMWARE],
        ),
        (
            |node| node.remove(&format!("{TPM}/pcr-sha256")),
            there,
            "TPM",
            "sha1 with PCRs 10 and 13",
            &ALLOCATE,
        ),
        (
            |node| node.remove(&format!("{TPM}/pcr-sha256/13")),
            there,
            "TPM",
            "sha256 with PCR 10",
            &ALLOCATE,
        ),
        (
            |_| (),
            || Err(SinkError::NoBank(13)),
            "PCR",
            "no PCR bank of the TPM has PCR 13",
            &ALLOCATE,
        ),
        (
            |_| (),
            || Err(SinkError::UnknownBank("Sm3_256".into())),
            "PCR",
            "Sm3_256",
            &[
                "apt-get install tpm2-tools",
                "tpm2_pcrallocate sm3_256:none",
                "reboot",
            ],
        ),
        (
            |node| node.configure("pcr = 17"),
            there,
            "PCR",
            "dynamic launch",
            &[
                "sed -i 's/^ *pcr *=.*/pcr = 13/' /etc/cima/cimad.toml",
                "systemctl restart cimad",
            ],
        ),
    ];
    for (spoil, banks, part, words, mend) in cases {
        let node = Node::whole();
        // The banks of the kernel's own view are of the configured PCR.
        if words == "dynamic launch" {
            node.write(&format!("{TPM}/pcr-sha256/17"), "F".repeat(64));
        }
        spoil(&node);
        let answers = Answers {
            banks,
            ..Answers::default()
        };
        lacks(&node, &node.page_of(&answers, false), part, words, mend);
    }
}

#[test]
fn a_configuration_without_tpm_lacks_none() {
    let node = Node::whole();
    node.remove(TPM);
    node.configure("kind = \"none\"");
    let page = node.page();
    assert!(page.is_good(), "{}", node.text(&page));
    let said = found(&page, "sink");
    assert_eq!(said.0, State::Note);
    assert!(said.1.contains("nothing vouches"), "{}", said.1);
}

#[test]
fn what_the_sink_kernel_lacks_is_the_module_or_its_rule() {
    let node = Node::whole();
    node.configure("kind = \"kernel\"");
    assert!(node.page().is_good());
    let load = ["modprobe cima", "echo cima > /etc/modules-load.d/cima.conf"];
    node.remove("/dev/cima");
    let build = [
        "apt-get install dkms pahole linux-headers-$(uname -r)",
        "cp -r kmod-bridge /usr/src/cima-0.1.0",
        "dkms install cima/0.1.0",
        load[0],
        load[1],
    ];
    lacks(&node, &node.page(), "module", "not loaded", &build);
    node.write("/lib/modules/6.12.5-amd64/updates/dkms/cima.ko.xz", "");
    lacks(&node, &node.page(), "module", "not loaded", &load);
    node.write("/dev/cima", "");
    node.lists(&[]);
    node.write(&format!("{COUNTERS}/listed"), "0");
    let rule = [
        "mkdir -p /etc/ima",
        "echo 'measure func=CRITICAL_DATA label=cima' > /etc/ima/ima-policy",
        "cat /etc/ima/ima-policy > /sys/kernel/security/ima/policy     # once in a boot; if it is refused: reboot",
    ];
    lacks(&node, &node.page(), "module", "no IMA rule", &rule);
}

#[test]
fn of_a_rule_only_a_try_or_a_readable_policy_tells() {
    let node = Node::whole();
    node.configure("kind = \"ima-file\"");
    node.lists(&[]);
    let page = node.page();
    assert_eq!(found(&page, "IMA rule").0, State::Unknown);
    assert_eq!(found(&page, "sink").0, State::Unknown);
    let rule = page.findings.iter().find(|one| one.part == "IMA rule");
    assert_eq!(
        rule.unwrap().mend[1],
        format!("echo '{RULE}' > /etc/ima/ima-policy")
    );
    // The file is there, with another rule: ours goes before.
    node.write("/etc/ima/ima-policy", "dont_measure fsmagic=0x01021994\n");
    node.write(
        "/sys/kernel/security/ima/policy",
        "dont_measure fsmagic=0x01021994\n",
    );
    let mend = [
        format!("sed -i '1i {RULE}' /etc/ima/ima-policy"),
        "cat /etc/ima/ima-policy > /sys/kernel/security/ima/policy     # once in a boot; if it is refused: reboot".into(),
    ];
    let mend: Vec<&str> = mend.iter().map(String::as_str).collect();
    lacks(&node, &node.page(), "IMA rule", "policy lacks", &mend);
    node.write("/etc/ima/ima-policy", RULE);
    let mend = ["reboot     # /etc/ima/ima-policy has the rule already"];
    lacks(&node, &node.page(), "IMA rule", "policy lacks", &mend);
    node.write("/sys/kernel/security/ima/policy", format!("{RULE}\n"));
    assert_eq!(found(&node.page(), "IMA rule").0, State::Good);
    for pcr in ["sha1/10", "sha256/10"] {
        node.write(&format!("{TPM}/pcr-{pcr}"), "0".repeat(40));
    }
    lacks(
        &node,
        &node.page(),
        "IMA and TPM",
        "PCR 10 is untouched",
        &[FIRMWARE],
    );
}

#[test]
fn auto_is_foretold_in_the_order_in_which_sinks_are_tried() {
    let node = Node::whole();
    let said = |node: &Node| {
        let page = node.page();
        let sink = page.findings.iter().find(|one| one.part == "sink").unwrap();
        (
            sink.state,
            sink.text.clone(),
            sink.facts["candidates"].to_string(),
        )
    };
    assert_eq!(said(&node).1, "kernel");
    node.lists(&[]);
    let (state, text, candidates) = said(&node);
    assert_eq!(state, State::Unknown);
    assert!(
        text.contains("kernel if") && text.contains("else pcr"),
        "{text}"
    );
    assert_eq!(candidates, r#"["kernel","ima-file","pcr"]"#);
    let lister = node.path("/usr/lib/cima/cima-list.o");
    fs::remove_file(&lister).unwrap();
    let (state, text, candidates) = said(&node);
    assert_eq!(state, State::Unknown);
    let words = "not kernel: the kernel cannot list what is measured: cannot read";
    assert!(text.contains(words), "{text}");
    assert_eq!(candidates, r#"["ima-file","pcr"]"#);
    fs::write(lister, "").unwrap();
    node.remove("/dev/cima");
    node.lists(&[Anchorage::ImaFile]);
    let (state, text, _) = said(&node);
    assert_eq!(state, State::Good);
    assert!(
        text.starts_with("ima-file (not kernel: the kernel module"),
        "{text}"
    );
    for pcr in ["sha1/10", "sha256/10"] {
        node.write(&format!("{TPM}/pcr-{pcr}"), "0".repeat(40));
    }
    let (_, text, candidates) = said(&node);
    assert!(
        text.contains("not ima-file: the kernel's IMA extends no TPM"),
        "{text}"
    );
    assert_eq!(candidates, r#"["pcr"]"#);
    let answers = Answers {
        banks: || Err(device(io::ErrorKind::NotFound)),
        ..Answers::default()
    };
    let page = node.page_of(&answers, false);
    assert!(
        found(&page, "sink")
            .1
            .starts_with("none: nothing would vouch")
    );
    let answers = Answers {
        banks: || Err(SinkError::NoBank(13)),
        ..Answers::default()
    };
    let page = node.page_of(&answers, false);
    assert!(found(&page, "sink").1.contains("cimad does not start"));
}

#[test]
fn what_was_tried_is_said_with_its_reason_and_its_cure() {
    let node = Node::whole();
    let page = node.page_of(&Answers::default(), true);
    assert!(page.is_good());
    assert_eq!(
        found(&page, "sink").1,
        "kernel was tried and works: it is the best there is"
    );
    assert_eq!(found(&page, "podman").1, "the hook fires");
    node.lists(&[]);
    node.configure("kind = \"ima-file\"");
    let answers = Answers {
        chosen: |_| {
            Err(SinkError::Unlisted {
                name: "cima-sink:ima-file".into(),
                lacks: "an IMA rule".into(),
            })
        },
        fires: || Ok(Fires::No("the hook does not fire".into())),
        ..Answers::default()
    };
    let page = node.page_of(&answers, true);
    for part in ["sink", "IMA rule", "podman"] {
        assert_eq!(found(&page, part).0, State::Lacks, "{}", node.text(&page));
    }
    assert!(node.text(&page).contains(RULE));
    let answers = Answers {
        chosen: |_| {
            let source = io::ErrorKind::NotFound.into();
            let path = "/usr/lib/cima/cima-list.o".into();
            Err(SinkError::Kept {
                kept: "kernel",
                source: Box::new(ListerError::Unreadable { path, source }.into()),
            })
        },
        ..Answers::default()
    };
    node.configure("kind = \"auto\"");
    let page = node.page_of(&answers, true);
    let sink = page.findings.iter().find(|one| one.part == "sink").unwrap();
    assert!(sink.text.contains("cannot read /usr/lib/cima/cima-list.o"));
    assert!(sink.mend[1].contains("cima-list.o"), "{:?}", sink.mend);
}

#[test]
fn a_rule_is_not_blamed_for_a_sink_that_was_not_tried() {
    let node = Node::whole();
    node.lists(&[]);
    let pcr = Answers {
        chosen: |_| Ok((Anchorage::Pcr, "not ima-file".into())),
        ..Answers::default()
    };
    let page = node.page_of(&pcr, true);
    let said = found(&page, "IMA rule").1;
    assert!(said.contains("it was tried"), "{said}");
    // The module was first, and none was tried after it.
    node.lists(&[Anchorage::Kernel]);
    let page = node.page_of(&Answers::default(), true);
    let text = node.text(&page);
    assert!(
        text.contains("for the sink ima-file: this kernel")
            || text.contains("for the sink ima-file: /sys"),
        "{text}"
    );
    assert!(!text.contains("it was tried"), "{text}");
}

#[test]
fn garbage_in_a_file_is_said_and_believed_nowhere() {
    let counter = format!("{COUNTERS}/listed");
    let version = format!("{TPM}/tpm_version_major");
    let cases = [
        ("/proc/sys/kernel/osrelease", "kernel"),
        ("/proc/self/mountinfo", "bpffs"),
        ("/proc/self/mountinfo", "cgroup"),
        ("/sys/kernel/security/lsm", "LSM"),
        ("/sys/kernel/security/lockdown", "lockdown"),
        (HOST_LIST, "IMA"),
        (SECURE_BOOT, "Secure Boot"),
        (HOOKS_D, "podman"),
        (DEFAULT_PATH, "configuration"),
        ("/etc/cima/measurement.toml", "policy"),
        (counter.as_str(), "module"),
        (version.as_str(), "TPM"),
    ];
    for (path, part) in cases {
        let node = Node::whole();
        node.write(path, b"\xff\0\x1b[31m'; rm -rf $(x)\n]garbage[");
        let page = node.page();
        let text = node.text(&page);
        let (state, _) = found(&page, part);
        assert!(
            matches!(state, State::Lacks | State::Unknown),
            "{path}: {text}"
        );
        assert!(!text.contains('\x1b'), "{path}: {text}");
        let commands = page.findings.iter().flat_map(|finding| &finding.mend);
        for command in commands {
            assert!(!command.contains("rm -rf"), "{path}: {command}");
        }
    }
    // These have a value that counts only if it is one.
    for path in [
        "/sys/kernel/security/ima/runtime_measurements_count",
        "/proc/sys/kernel/random/boot_id",
        "/sys/class/tpm/tpm0/pcr-sha1/10",
        "/etc/ima/ima-policy",
    ] {
        let node = Node::whole();
        node.write(path, b"\xff\0garbage");
        assert!(node.page().is_good(), "{path}: {}", node.text(&node.page()));
    }
}

#[test]
fn an_engine_that_is_there_for_another_ones_sake_lacks_nothing() {
    let node = Node::whole();
    node.write("/usr/bin/containerd", "");
    node.write(
        "/etc/containerd/config.toml",
        "disabled_plugins = [\"cri\"]\n",
    );
    let page = node.page();
    assert!(page.is_good(), "{}", node.text(&page));
    assert_eq!(found(&page, "containerd").0, State::Note);
    let node = Node::whole();
    node.remove("/usr/bin/podman");
    assert_eq!(found(&node.page(), "engines").0, State::Note);
}
