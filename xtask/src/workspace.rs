// SPDX-License-Identifier: Apache-2.0
//! Where things lie in the work tree.
//!
//! ```text
//! target/cima/cima-probes.o   the probes
//! target/cima/stage/          what guests see at /cima: bin/, lib/
//! target/cima/module/SERIES/   the kernel module's files for that kernel
//! target/fuzz/                cargo's files for the fuzz targets
//! target/bpf/                 cargo's files for the probes
//! target/vm/                  guests and their runs (cima-guests)
//! ```

use std::path::PathBuf;

/// The root of the work tree.
pub(crate) fn root() -> PathBuf {
    // `cargo run` says where it found xtask; the path of the build is for a
    // binary that is started by hand.
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or_else(|| own.clone(), PathBuf::from)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The tree that guests see at /cima.
pub(crate) fn stage() -> PathBuf {
    target().join("cima/stage")
}
