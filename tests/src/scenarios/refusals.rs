// SPDX-License-Identifier: Apache-2.0
//! What cimad does on a host that lacks something: it says what, in one sentence
//! for each lack, ends with 2 and has changed nothing. The machine is booted
//! without a TPM and with an `lsm=` that does not name bpf.

use std::fs;

use super::Scenario;
use crate::agent::{CIMA, CIMAD, Site};
use crate::claims::Claims;
use crate::process;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "refusals",
    about: "on a host without TPM, BPF LSM, BTF, bpffs or root, and with a wrong configuration, cimad says what is lacking",
    play,
};

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = Site::new("refusals");
    claims.claim("no TPM and no BPF LSM: a sentence for each", || {
        let said = site.refused();
        assert!(
            said.contains("there is no usable TPM at /dev/tpmrm0: No such file"),
            "it says {said}"
        );
        assert!(
            said.contains("`bpf` is not an active LSM") && said.contains(",bpf"),
            "it says {said}"
        );
        assert!(
            said.lines().all(|line| line.starts_with("cimad: ")),
            "it says {said}"
        );
        assert!(!site.state().exists(), "it made its state directory");
    });
    claims.claim("--check says the same and ends with 1", || {
        let config = site.config();
        let ran = process::run(&[
            CIMAD,
            "--check",
            "--config",
            config.to_str().expect("a plain path"),
        ]);
        assert_eq!(ran.code(), Some(1), "{}{}", ran.stdout, ran.stderr);
        assert_eq!(
            ran.stdout.matches("missing: ").count(),
            2,
            "it says {}",
            ran.stdout
        );
        let words = [
            CIMAD,
            "--check",
            "--json",
            "--config",
            config.to_str().expect("a plain path"),
        ];
        let report: serde_json::Value =
            serde_json::from_str(&process::run(&words).stdout).expect("it is JSON");
        assert_eq!(
            report["missing"].as_array().map(Vec::len),
            Some(2),
            "it says {report}"
        );
    });
    claims.claim(
        "cima doctor says the boot parameter that adds bpf, which sink there would be, and what mends the rest",
        || {
            let page = doctor(&site);
            let lsm = finding(&page, "LSM");
            assert_eq!(lsm["state"], "lacks", "{lsm}");
            let active = fs::read_to_string("/sys/kernel/security/lsm").expect("it can be read");
            let parameter = lsm["mend"][1].as_str().expect("a command");
            // Linux 6.1 panics without the one, and attaches in vain without the other.
            assert!(parameter.contains(",integrity,bpf\"'"), "{parameter}");
            for name in active.trim().split(',').filter(|name| *name != "capability") {
                let fixed = ["ima", "evm"].contains(&name);
                assert!(fixed || parameter.contains(name), "{name}: {parameter}");
            }
            assert_eq!(finding(&page, "TPM")["state"], "lacks", "{page}");
            let sink = finding(&page, "sink");
            let text = sink["text"].as_str().expect("a sentence");
            assert!(text.starts_with("pcr, as the configuration says; it does not work"), "{sink}");
            for part in ["kernel", "BTF", "bpffs", "cgroup", "policy", "probes"] {
                assert_eq!(finding(&page, part)["state"], "good", "{page}");
            }
            let rule = finding(&page, "IMA and TPM");
            assert!(rule["text"].as_str().is_some_and(|text| text.contains("extends no TPM")), "{rule}");
        },
    );
    claims.claim("no bpffs", || {
        process::run(&["umount", "/sys/fs/bpf"]).succeeded();
        let said = site.refused();
        process::run(&["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"]).succeeded();
        assert!(
            said.contains("/sys/fs/bpf is not a BPF file system"),
            "it says {said}"
        );
    });
    claims.claim("no BTF", || {
        fs::create_dir_all("/tmp/empty").expect("/tmp can be written");
        process::run(&["mount", "--bind", "/tmp/empty", "/sys/kernel/btf"]).succeeded();
        let said = site.refused();
        process::run(&["umount", "/sys/kernel/btf"]).succeeded();
        assert!(
            said.contains("/sys/kernel/btf/vmlinux is missing"),
            "it says {said}"
        );
    });
    claims.claim("no securityfs", || {
        process::run(&["umount", "/sys/kernel/security"]).succeeded();
        let said = site.refused();
        process::run(&["mount", "-t", "securityfs", "none", "/sys/kernel/security"]).succeeded();
        assert!(
            said.contains("cannot read /sys/kernel/security/lsm"),
            "it says {said}"
        );
    });
    claims.claim("not root", || {
        let config = site.config();
        let words = [
            "setpriv",
            "--reuid=65534",
            "--clear-groups",
            CIMAD,
            "--config",
            config.to_str().expect("a plain path"),
        ];
        let said = site.refused_by(&words);
        assert!(said.contains("cimad must run as root"), "it says {said}");
    });
    claims.claim("PCR 17, and what is not a TPM connection", || {
        site.configure("[sink]\npcr = 17\n");
        assert!(
            site.refused()
                .contains("PCR 17 belongs to a dynamic launch")
        );
        site.configure("[sink]\ntpm = \"nonsense:\"\n");
        assert!(
            site.refused()
                .contains("`nonsense:` is not a TPM connection")
        );
        site.configure("");
    });
    claims.claim("a typo in the configuration, named with its line", || {
        site.configure("state_dri = \"/x\"\n");
        let said = site.refused();
        assert!(
            said.contains("state_dri") && said.contains("line 3"),
            "it says {said}"
        );
        site.configure("");
    });
    claims.claim("no configuration, no probe object", || {
        let said = site.refused_by(&[CIMAD, "--config", "/nonexistent.toml"]);
        assert!(
            said.contains("cannot read the configuration /nonexistent.toml"),
            "it says {said}"
        );
    });
}

/// What `cima doctor` says of a host that lacks something.
#[track_caller]
fn doctor(site: &Site) -> serde_json::Value {
    let config = site.config();
    let config = config.to_str().expect("a plain path");
    let ran = process::run(&[CIMA, "doctor", "--json", "--config", config]);
    assert_eq!(ran.code(), Some(1), "{}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).expect("it is JSON")
}

/// The first of a part.
#[track_caller]
fn finding<'a>(page: &'a serde_json::Value, part: &str) -> &'a serde_json::Value {
    let findings = page["findings"].as_array().expect("a list");
    let finding = findings.iter().find(|finding| finding["part"] == part);
    finding.unwrap_or_else(|| panic!("nothing is said of {part}: {page}"))
}
