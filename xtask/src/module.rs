// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask build module`: kmod-bridge for each kernel that guests have, by the
//! Makefile that DKMS calls, and the BPF programs that call its kfunc.
//!
//! Staged as `lib/cima-SERIES.ko`, beside it what a build without BTF would give, and
//! `lib/cima-list.o` and, for a scenario, `lib/measure.bpf.o`. A module whose sources and
//! headers are those of the last time is left as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cima_guests::{Guests, Headers, Series, run_tool};

use crate::build::place;
use crate::error::{Doing as _, Error};
use crate::workspace;

/// The module's files that make up what is built.
const SOURCES: &[&str] = &[
    "Kbuild",
    "Makefile",
    "add-btf.sh",
    "cima.h",
    "device.c",
    "entry.c",
    "kfunc.c",
    "module.c",
    "uapi/cima.h",
];

/// Builds the module for every series, and the BPF program.
pub(crate) fn build() -> Result<(), Error> {
    let guests = Guests::new(&workspace::target());
    // The headers of 6.1 have no resolve_btfids: it takes that of 6.12.
    let newest = guests.headers(Series::V6_12)?;
    let resolver = newest
        .resolve_btfids
        .ok_or_else(|| Error::Environment("The headers of 6.12 have no resolve_btfids.".into()))?;
    for series in Series::ALL {
        module(series, &guests.headers(series)?, &resolver)?;
    }
    programs()
}

fn module(series: Series, headers: &Headers, resolver: &Path) -> Result<(), Error> {
    let directory = workspace::target()
        .join("cima/module")
        .join(series.as_str());
    let built = directory.join("cima.ko");
    let without_btf = directory.join("without-btf.ko");
    if !is_current(&directory, headers)? {
        eprintln!("[{series}] building the kernel module");
        lay_out(&directory)?;
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(&directory)
            .arg(format!("KVER={}", headers.release))
            .arg(format!("KDIR={}", headers.build.display()))
            .arg(format!("BTF_BASE={}", headers.vmlinux.display()))
            .arg(format!("RESOLVE_BTFIDS={}", resolver.display()))
            // Warnings are errors, and those of W=1, too.
            .args(["W=1", "KCFLAGS=-Werror"]);
        run_tool("Building the kernel module", &mut make)?;
        // As DKMS does: the BTF stays, what it was made from goes.
        run_tool(
            "Stripping the kernel module",
            Command::new("strip").arg("-g").arg(&built),
        )?;
        run_tool(
            "Taking the BTF out of a copy of the kernel module",
            Command::new("objcopy")
                .args(["--remove-section", ".BTF"])
                .args([&built, &without_btf]),
        )?;
        let stamp = directory.join("stamp");
        fs::write(&stamp, &headers.release).doing("write", &stamp)?;
    }
    let lib = workspace::stage().join("lib");
    place(&built, &lib.join(format!("cima-{series}.ko")))?;
    place(
        &without_btf,
        &lib.join(format!("cima-{series}-without-btf.ko")),
    )
}

/// Whether the last build was of these sources for this kernel.
fn is_current(directory: &Path, headers: &Headers) -> Result<bool, Error> {
    let stamp = fs::read_to_string(directory.join("stamp")).unwrap_or_default();
    if stamp != headers.release || !directory.join("without-btf.ko").exists() {
        return Ok(false);
    }
    for name in SOURCES {
        let source = source(name);
        let now = fs::read(&source).doing("read", &source)?;
        if !fs::read(directory.join(name)).is_ok_and(|then| then == now) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Copies the sources to where they are built: kbuild leaves its files beside them.
fn lay_out(directory: &Path) -> Result<(), Error> {
    if directory.exists() {
        fs::remove_dir_all(directory).doing("remove", directory)?;
    }
    for name in SOURCES {
        place(&source(name), &directory.join(name))?;
    }
    Ok(())
}

fn source(name: &str) -> PathBuf {
    workspace::root().join("kmod-bridge").join(name)
}

/// Compiles the BPF programs that call the module, those of the sink `kernel` and that of the scenario `module`: once, for both
/// kernels (CO-RE).
fn programs() -> Result<(), Error> {
    for (source, name) in [
        ("kmod-bridge/bpf/list.bpf.c", "cima-list.o"),
        ("tests/bpf/measure.bpf.c", "measure.bpf.o"),
    ] {
        let object = workspace::stage().join("lib").join(name);
        let mut clang = Command::new("clang");
        clang
            .args([
                "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror",
            ])
            .args(["-D__TARGET_ARCH_x86", "-I"])
            .arg(workspace::root().join("kmod-bridge/uapi"))
            // <linux/types.h> wants <asm/types.h>, which Debian keeps by architecture.
            .args(["-I", "/usr/include/x86_64-linux-gnu", "-c", "-o"])
            .args([&object, &workspace::root().join(source)]);
        run_tool("Compiling what calls the module", &mut clang)?;
    }
    Ok(())
}
