// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask build`: the probes for the BPF target, the programs and the
//! scenarios for this machine, and the kernel module for the guests' kernels, all
//! laid out as guests see them at /cima.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Doing as _, Error, Verdict};
use crate::setup::{self, Need};
use crate::{module, workspace};

const BPF_TARGET: &str = "bpfel-unknown-none";
/// Debian's compiler of the browsers' security updates: new, and with a core
/// library for BPF in libstd-rust-web-dev-bpf.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to build; everything but the module when nothing is named
    parts: Vec<Part>,
}

/// A part of the project that is built on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The kernel side, target/cima/cima-probes.o
    Probes,
    /// The daemon, the command line tools, and what container runtimes start
    Programs,
    /// The program that runs inside guests
    Scenarios,
    /// The kernel module, for each kernel that guests have: fetches those
    Module,
}

impl Part {
    /// What is built without any guest's kernel.
    pub(crate) const ALL: [Self; 3] = [Self::Probes, Self::Programs, Self::Scenarios];
    /// What scenarios find in a guest.
    pub(crate) const STAGED: [Self; 4] =
        [Self::Probes, Self::Programs, Self::Scenarios, Self::Module];

    /// What cargo builds of it for this machine, besides what runtimes start.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Probes | Self::Module => &[],
            Self::Programs => &["cima-agent"],
            Self::Scenarios => &["cima-scenarios"],
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<Verdict, Error> {
    build(if args.parts.is_empty() {
        &Part::ALL
    } else {
        &args.parts
    })?;
    Ok(Verdict::Good)
}

/// Builds these parts and lays them out in the stage.
pub(crate) fn build(parts: &[Part]) -> Result<(), Error> {
    let needs: Vec<Need> = parts
        .iter()
        .flat_map(|part| match part {
            Part::Probes => &[Need::Probes][..],
            // The scenarios load BPF programs with the agent's libbpf.
            Part::Programs | Part::Scenarios => &[Need::Programs],
            Part::Module => &[Need::Module, Need::Guests],
        })
        .copied()
        .collect();
    setup::ensure(&needs)?;
    if parts.contains(&Part::Probes) {
        probes()?;
    }
    let packages: Vec<&str> = parts
        .iter()
        .flat_map(|part| part.packages())
        .copied()
        .collect();
    if !packages.is_empty() {
        programs(&packages)?;
    }
    if parts.contains(&Part::Programs) {
        for program in ["cima-hook", "cima-runtime"] {
            hook(program)?;
        }
        site_files()?;
    }
    if parts.contains(&Part::Scenarios) {
        acts()?;
    }
    if parts.contains(&Part::Module) {
        module::build()?;
    }
    Ok(())
}

/// Compiles what the scenarios do to files and memory inside containers, and to the module's
/// device, static: it finds no libraries there, and Rust lets nobody do most of it.
fn acts() -> Result<(), Error> {
    for (source, name) in [
        ("tests/act/act.c", "cima-act"),
        ("tests/device/device.c", "cima-device"),
    ] {
        let program = workspace::stage().join("bin").join(name);
        let mut gcc = Command::new("gcc");
        gcc.args([
            "-static", "-pthread", "-O2", "-Wall", "-Wextra", "-Werror", "-I",
        ])
        .arg(workspace::root().join("kmod-bridge/uapi"))
        .arg("-o")
        .args([&program, &workspace::root().join(source)]);
        cima_guests::run_tool("Compiling what scenarios do in C", &mut gcc)?;
    }
    Ok(())
}

/// Builds packages for this machine and stages their programs. At once: built one by one they would want what they
/// share with other features each, so again.
fn programs(packages: &[&str]) -> Result<(), Error> {
    let mut arguments = vec!["build", "--release"];
    for package in packages {
        arguments.extend(["--package", package]);
    }
    stage("Building the programs", &arguments)
}

/// Builds the generator of a fleet's lists, which no guest needs.
pub(crate) fn fleet(place_at: &Path) -> Result<(), Error> {
    let arguments = "build --release --package cima-agent --example fleet";
    let arguments: Vec<_> = arguments.split(' ').collect();
    for program in made("Building the generator of lists", &arguments)? {
        place(&program, place_at)?;
    }
    Ok(())
}

/// What runtimes start for each container, twice: static and at a fixed address, since of its short life most would
/// be spent on finding libraries and on relocation. After the agent, which has its dependencies.
fn hook(program: &str) -> Result<(), Error> {
    let arguments = "rustc --release --package cima-hook --bin";
    let options = "-C target-feature=+crt-static -C relocation-model=static";
    let arguments: Vec<_> = arguments
        .split(' ')
        .chain([program, "--"])
        .chain(options.split(' '))
        .collect();
    stage("Building the hook", &arguments)
}

/// Runs cargo, and stages the programs that it made.
fn stage(step: &'static str, arguments: &[&str]) -> Result<(), Error> {
    for program in made(step, arguments)? {
        let name = program.file_name().unwrap_or_default();
        place(&program, &workspace::stage().join("bin").join(name))?;
    }
    Ok(())
}

/// Runs cargo; the programs that it made.
fn made(step: &'static str, arguments: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let (command, options) = arguments.split_first().unwrap_or((&"build", &[]));
    let mut cargo = cargo();
    cargo
        .current_dir(workspace::root())
        .args([command, "--message-format", "json-render-diagnostics"])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let output = cargo.output().doing("run", Path::new("cargo"))?;
    if !output.status.success() {
        return Err(Error::Build {
            step,
            what: format!("cargo {}", arguments.join(" ")),
            status: output.status,
        });
    }
    Ok(executables(&output.stdout))
}

/// What a node has beside the programs, as it is shipped, and the guides that are followed in one.
fn site_files() -> Result<(), Error> {
    for file in [
        "agent/etc/cimad.toml",
        "agent/etc/cimad.service",
        "policies/default/measurement.toml",
        "docs/KEYLIME.md",
        "docs/incident.md",
    ] {
        let from = workspace::root().join(file);
        let name = from.file_name().unwrap_or_default();
        place(&from, &workspace::stage().join("share").join(name))?;
    }
    for (from, to) in [
        ("policies/default/admission", "share/admission"),
        ("policies/admission", "share/policies"),
    ] {
        let (from, to) = (workspace::root().join(from), workspace::stage().join(to));
        for rule in std::fs::read_dir(&from).doing("read", &from)? {
            let rule = rule.doing("read", &from)?;
            place(&rule.path(), &to.join(rule.file_name()))?;
        }
    }
    Ok(())
}

/// The programs that cargo's messages say it made.
fn executables(messages: &[u8]) -> Vec<PathBuf> {
    String::from_utf8_lossy(messages)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .collect()
}

fn probes() -> Result<(), Error> {
    let source = workspace::root().join("ebpf-probes");
    let compiler = Compiler::find()?;
    eprintln!("Building the probes with {compiler}");
    let target = workspace::target().join("bpf");
    let mut cargo = cargo();
    compiler.configure(&mut cargo);
    let status = cargo
        .current_dir(&source)
        .args([
            "build",
            "--release",
            "--target",
            BPF_TARGET,
            "--package",
            "cima-probes",
        ])
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", "bpf-linker")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            [
                "--cfg=bpf_target_arch=\"x86_64\"",
                "-Cdebuginfo=2",
                "-Clink-arg=--btf",
            ]
            .join("\u{1f}"),
        )
        .status()
        .doing("run cargo in", &source)?;
    if !status.success() {
        return Err(Error::Build {
            step: "Building the probes",
            what: "cargo build --package cima-probes".to_owned(),
            status,
        });
    }
    let object = target.join(BPF_TARGET).join("release/cima-probes");
    place(&object, &workspace::target().join("cima/cima-probes.o"))?;
    place(&object, &workspace::stage().join("lib/cima-probes.o"))
}

/// A compiler that can build for the BPF target.
enum Compiler {
    /// Debian's rustc-web with its prebuilt core library.
    Debian,
    /// A nightly toolchain that builds the core library from its sources.
    Nightly,
}

impl Compiler {
    /// Debian's where it is there: it needs no download beyond the packages.
    fn find() -> Result<Self, Error> {
        if sysroot(Command::new(DEBIAN_RUSTC))
            .is_some_and(|root| root.join("lib/rustlib").join(BPF_TARGET).is_dir())
        {
            return Ok(Self::Debian);
        }
        let mut nightly = Command::new("rustup");
        nightly.args(["run", "nightly", "rustc"]);
        if sysroot(nightly)
            .is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
        {
            return Ok(Self::Nightly);
        }
        Err(Error::Environment(
            "No compiler here can build for BPF. Install Debian's (apt-get install rustc-web libstd-rust-web-dev-bpf) \
             or a nightly one (rustup toolchain install nightly --component rust-src)."
                .to_owned(),
        ))
    }

    fn configure(&self, cargo: &mut Command) {
        match self {
            // A stable compiler refuses no_core's features without this.
            Self::Debian => cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1"),
            Self::Nightly => cargo
                .args(["-Z", "build-std=core"])
                .env("RUSTUP_TOOLCHAIN", "nightly"),
        };
    }
}

impl std::fmt::Display for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Debian => "Debian's rustc-web and its core library for BPF",
            Self::Nightly => "the nightly toolchain, which builds the core library first",
        })
    }
}

fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let output = rustc.args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

/// Cargo as the user calls it, without what the cargo that started us set.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "RUSTC", "RUSTDOC"] {
        cargo.env_remove(name);
    }
    cargo
}

pub(crate) fn place(from: &Path, to: &Path) -> Result<(), Error> {
    let parent = to.parent().unwrap_or(to);
    std::fs::create_dir_all(parent).doing("make the directory", parent)?;
    std::fs::copy(from, to).map(drop).doing("copy", from)
}
