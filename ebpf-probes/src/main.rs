// SPDX-License-Identifier: GPL-2.0-only
//! cima's kernel side: one file per hook, and what they share.
//!
//! `mmap_file` measures, `bprm_committed_creds` reports executions; `scope` says
//! whose tasks count, `task` and `file` read the kernel's structures, `record`
//! puts one record into the ring buffer. Nothing here decides or denies.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod bprm_committed_creds;
mod file;
mod kernel;
mod maps;
mod mmap_file;
mod record;
mod scope;
mod task;

/// `bpf_ima_file_hash` and `bpf_d_path` are open to GPL programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // A reachable panic would be an endless loop, which the verifier refuses to load.
    loop {}
}
