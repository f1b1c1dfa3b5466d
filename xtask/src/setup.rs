// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask setup`: installs what a Debian 12 machine lacks. Every other
//! command calls [`ensure`] with its own needs, which costs a moment when
//! nothing is lacking.

use std::path::PathBuf;
use std::process::Command;

use cima_guests::run_tool;

use crate::error::{Error, Verdict};

/// Version of the linker that turns LLVM bitcode into BPF objects.
const BPF_LINKER: &str = "0.13.0";
const LLVM: &str = "22";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Say what is lacking and install nothing
    #[arg(long)]
    check: bool,
}

/// A part of the project's work, with Debian packages of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Building the programs.
    Programs,
    /// Building the probes for the BPF target.
    Probes,
    /// Building the kernel module and the BPF programs that call it.
    Module,
    /// Building and running guests.
    Guests,
    /// Unit tests that ask real tools.
    Tests,
    /// Fuzzing.
    Fuzz,
    /// The Python package, with Keylime.
    Keylime,
    /// Peers that answer questions.
    Query,
}

impl Need {
    pub(crate) const ALL: [Self; 8] = [
        Self::Programs,
        Self::Probes,
        Self::Module,
        Self::Guests,
        Self::Tests,
        Self::Fuzz,
        Self::Keylime,
        Self::Query,
    ];

    /// The Debian packages, each with what it is for.
    fn packages(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Programs => &[
                ("gcc", "links programs"),
                ("libc6-dev", "links programs"),
                ("pkg-config", "finds libraries"),
                ("libtss2-dev", "talks to the TPM"),
                ("clang", "reads the TPM library's headers"),
                ("libclang-dev", "reads the TPM library's headers"),
                ("make", "builds libbpf"),
                ("libelf-dev", "builds libbpf"),
                ("zlib1g-dev", "builds libbpf"),
            ],
            Self::Probes => &[
                ("rustc-web", "compiles the probes"),
                ("libstd-rust-web-dev-bpf", "is Rust's core library for BPF"),
                ("llvm-22-dev", "builds bpf-linker"),
                ("libpolly-22-dev", "builds bpf-linker"),
                ("libzstd-dev", "builds bpf-linker"),
                ("g++", "builds bpf-linker"),
            ],
            Self::Module => &[
                ("gcc-12", "compiles the kernel module"),
                ("make", "builds the kernel module"),
                ("binutils", "strips the kernel module"),
                ("pahole", "makes the kernel module's BTF"),
                ("clang", "compiles BPF programs"),
                ("libbpf-dev", "has the headers of BPF programs"),
            ],
            Self::Guests => cima_guests::HOST_PACKAGES,
            Self::Tests => &[
                ("swtpm", "is the TPM of a unit test"),
                ("tpm2-tools", "reads PCRs in a unit test"),
                ("ima-evm-utils", "judges lists in a unit test"),
                ("chromium-headless-shell", "reads reports in a unit test"),
                ("fonts-liberation", "is what a report's picture is set in"),
            ],
            Self::Fuzz => &[("g++", "builds libFuzzer")],
            Self::Keylime => &[
                ("python3-venv", "keeps Keylime to itself"),
                ("python3-gpg", "is a part of Keylime that its index lacks"),
                ("swtpm", "is the TPM of a test"),
                ("tpm2-tools", "quotes in a test"),
            ],
            Self::Query => &[
                ("jq", "answers beside cima"),
                ("python3-venv", "keeps DuckDB to itself"),
            ],
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Error> {
    if args.check {
        let lacking = lacking_packages(&Need::ALL)?;
        for (package, why) in &lacking {
            println!("lacking: {package} ({why})");
        }
        let linker = find_bpf_linker().is_some();
        if !linker {
            println!("lacking: bpf-linker {BPF_LINKER} (links the probes)");
        }
        return Ok(Verdict::from_passed(lacking.is_empty() && linker));
    }
    ensure(&Need::ALL)?;
    println!("This machine has all that cima's build and tests need.");
    Ok(Verdict::Good)
}

/// Installs what lacks of `needs`.
pub(crate) fn ensure(needs: &[Need]) -> Result<(), Error> {
    let lacking = lacking_packages(needs)?;
    if !lacking.is_empty() {
        install(&lacking)?;
    }
    if needs.contains(&Need::Probes) && find_bpf_linker().is_none() {
        install_bpf_linker()?;
    }
    Ok(())
}

fn lacking_packages(needs: &[Need]) -> Result<Vec<(&'static str, &'static str)>, Error> {
    debian_12()?;
    let wanted = needs.iter().flat_map(|need| need.packages()).copied();
    // It fails when it does not know a package, and still lists the others.
    let listed = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status} ${Package}\n"])
        .args(wanted.clone().map(|(package, _)| package))
        .output()
        .map_err(|error| {
            Error::Environment(format!("Cannot ask dpkg-query what is installed: {error}."))
        })?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let installed = |package: &str| {
        listed
            .lines()
            .any(|line| line.strip_prefix("installed ") == Some(package))
    };
    Ok(wanted.filter(|(package, _)| !installed(package)).collect())
}

/// Fails on any other system, with what to do there.
fn debian_12() -> Result<(), Error> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let has = |line: &str| release.lines().any(|have| have.replace('"', "") == line);
    if has("ID=debian") && has("VERSION_ID=12") {
        return Ok(());
    }
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("of an unknown kind");
    Err(Error::Environment(format!(
        "This machine is {name}, not Debian 12: its packages have other names and versions. \
         Use a Debian 12 machine, virtual or not; a container does for everything, guests included."
    )))
}

fn install(packages: &[(&str, &str)]) -> Result<(), Error> {
    for (package, why) in packages {
        eprintln!("Installing {package}: it {why}");
    }
    let names: Vec<&str> = packages.iter().map(|(package, _)| *package).collect();
    let failed = |step: &str, error: &dyn std::fmt::Display| {
        Error::Environment(format!(
            "{step} failed. Run this as root, or run `apt-get install {}` by hand.\n{error}",
            names.join(" ")
        ))
    };
    let mut update = apt_get()?;
    update.args(["-q", "update"]);
    run_tool("Bringing apt's package lists up to date", &mut update)
        .map_err(|error| failed("Bringing apt's package lists up to date", &error))?;
    let mut install = apt_get()?;
    install
        .args(["-q", "-y", "--no-install-recommends", "install"])
        .args(&names);
    run_tool("Installing packages", &mut install)
        .map_err(|error| failed("Installing packages", &error))?;
    Ok(())
}

fn apt_get() -> Result<Command, Error> {
    let mut command = cima_guests::as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    Ok(command)
}

/// The linker, if it is there in the right version.
fn find_bpf_linker() -> Option<()> {
    let said = Command::new("bpf-linker").arg("--version").output().ok()?;
    String::from_utf8_lossy(&said.stdout)
        .split_whitespace()
        .any(|word| word == BPF_LINKER)
        .then_some(())
}

fn install_bpf_linker() -> Result<(), Error> {
    eprintln!("Installing bpf-linker {BPF_LINKER}: it links the probes (about two minutes)");
    let llvm = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    let path = std::env::join_paths(std::iter::once(llvm.join("bin")).chain(
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()),
    ))
    .map_err(|error| Error::Environment(format!("The PATH makes no sense: {error}.")))?;
    let mut cargo = Command::new("cargo");
    cargo
        .args(["install", "bpf-linker", "--locked", "--version", BPF_LINKER])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{LLVM}"),
        ])
        .env("LLVM_PREFIX", &llvm)
        .env("PATH", path)
        .env_remove("CARGO_TARGET_DIR");
    run_tool("Building bpf-linker", &mut cargo)?;
    Ok(())
}
