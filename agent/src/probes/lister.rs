// SPDX-License-Identifier: Apache-2.0
//! Loads and attaches the programs that have the kernel list what the probes measure (`kmod-bridge/bpf`). By libbpf,
//! which knows functions of modules; aya does not.

use std::path::Path;

use cima_abi::map;
use libbpf_rs::{ErrorExt as _, ObjectBuilder};

use super::{LoadError, pins};

/// Their programs.
pub(super) const PROGRAMS: [&str; 3] = ["list_mmap_file", "list_bprm_check", "list_kernel_read"];

/// Attaches them and pins what keeps them so into `dir`, where the probes' maps are pinned. Before the probes are attached: what is attached
/// last runs first.
pub(super) fn attach(object: &[u8], dir: &Path) -> Result<(), LoadError> {
    attached(object, dir).map_err(|source| LoadError::Lister {
        source: Box::new(source),
    })
}

fn attached(object: &[u8], dir: &Path) -> libbpf_rs::Result<()> {
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Warn, |_, text| {
        tracing::debug!("libbpf: {}", text.trim_end());
    })));
    let mut builder = ObjectBuilder::default();
    let mut open = builder.name("cima_list")?.open_memory(object)?;
    for mut shared in open.maps_mut() {
        for name in [map::HANDED, map::SAID] {
            if shared.name() == name {
                shared
                    .reuse_pinned_map(pins::map(dir, name))
                    .context("the probes' maps cannot be shared")?;
            }
        }
    }
    let object = open
        .load()
        .context("is the kernel module loaded, and does it have BTF?")?;
    for program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        let mut link = program.attach()?;
        link.pin(pins::link(dir, &name))?;
    }
    Ok(())
}
