// SPDX-License-Identifier: Apache-2.0
//! The guest is a machine that cima can be tested in.

use std::fs;

use super::Scenario;
use crate::claims::Claims;
use crate::podman::{self, Runtime};
use crate::process;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "boot",
    about: "the guest has the kernel, the TPM, the file systems and the containers that cima needs",
    play,
};

fn play(claims: &mut Claims, _arguments: &[String]) {
    claims.claim("the kernel is the one that was asked for", kernel);
    claims.claim("the LSM list contains bpf", || {
        let list = read("/sys/kernel/security/lsm");
        assert!(
            list.trim().split(',').any(|name| name == "bpf"),
            "it is {list}"
        );
    });
    claims.claim("the kernel has BTF", || {
        let btf = fs::read("/sys/kernel/btf/vmlinux").expect("there is a vmlinux BTF");
        assert!(btf.starts_with(&[0x9f, 0xeb]), "its magic number is wrong");
    });
    claims.claim("every file system that cima reads is mounted", file_systems);
    claims.claim("the TPM has the banks sha1 and sha256", tpm);
    claims.claim(
        "the kernel's IMA list begins with the boot aggregate",
        || {
            let list = read("/sys/kernel/security/ima/ascii_runtime_measurements");
            let first = list.lines().next().unwrap_or_default();
            assert!(
                first.starts_with("10 ") && first.contains(" boot_aggregate"),
                "it is {first}"
            );
        },
    );
    claims.claim("modprobe finds the kernel's modules", || {
        process::run(&["modprobe", "dm-verity"]).succeeded()
    });
    for runtime in Runtime::ALL {
        for image in [podman::TINY, podman::DEBIAN] {
            claims.claim(
                &format!("podman runs {image} with {}", runtime.name()),
                || {
                    let said =
                        podman::run(runtime, image, &["sh", "-c", "echo $((6 * 7))"]).succeeded();
                    assert_eq!(said, "42\n");
                },
            );
        }
    }
    claims.claim("an image that is not in the store is refused", || {
        let refused =
            process::run(&["podman", "run", "--pull", "never", "localhost/none:1"]).failed();
        assert!(
            refused.contains("localhost/none:1"),
            "podman says: {refused}"
        );
    });
    claims.claim("what a scenario leaves in /out can be read back", || {
        fs::write("/out/boot.txt", "left by the scenario boot\n").expect("/out takes a file");
        assert_eq!(read("/out/boot.txt"), "left by the scenario boot\n");
    });
}

fn kernel() {
    let release = read("/proc/sys/kernel/osrelease");
    let series =
        std::env::var("CIMA_GUEST_KERNEL").expect("the runner says which kernel it booted");
    assert!(
        release.starts_with(&format!("{series}.")),
        "{release} is not of {series}"
    );
}

fn file_systems() {
    let mounts = read("/proc/self/mounts");
    for (kind, place) in [
        ("cgroup2", "/sys/fs/cgroup"),
        ("bpf", "/sys/fs/bpf"),
        ("securityfs", "/sys/kernel/security"),
        ("tracefs", "/sys/kernel/tracing"),
        ("ext4", "/"),
        ("ext4", "/cima"),
        ("9p", "/out"),
    ] {
        let there = mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(place) && words.next() == Some(kind)
        });
        assert!(there, "no {kind} is mounted at {place}:\n{mounts}");
    }
}

fn tpm() {
    assert!(
        fs::exists("/dev/tpmrm0").unwrap_or(false),
        "there is no /dev/tpmrm0"
    );
    let said = process::run(&["tpm2_pcrread", "sha1:10+sha256:10"]).succeeded();
    for bank in ["sha1:", "sha256:"] {
        let mut lines = said.lines().map(str::trim).skip_while(|line| *line != bank);
        let value = lines.nth(1).unwrap_or_default();
        assert!(
            value.starts_with("10"),
            "the bank {bank} has no PCR 10: {said}"
        );
    }
}

#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}
