// SPDX-License-Identifier: GPL-2.0-only
//! cima's kernel side: one file per hook, and what they share.
//!
//! Hooks that measure: `mmap_file`, `bprm_check_security`, `kernel_read_file`, by way of
//! `measure`. Hooks that report: `bprm_committed_creds`, `file_mprotect`, `kernel_load_data`.
//! Hooks that keep the digest `cache` honest: `file_open`, `inode_setattr`,
//! `sb_free_security`, and the notes of `memo`: those in `paths`. Hooks that follow containers: `copy_mnt_ns`,
//! `copy_namespaces`, `ksys_unshare`, `switch_task_namespaces`, `sb_pivotroot`, `sched_process_exit`, by way of
//! `namespaces`. `scope` says whose tasks count, `task`, `file` and `content` read the
//! kernel's structures, `record` puts one record into the ring buffer. `bprm_check_security` alone denies.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod anonymous;
mod bprm_check_security;
mod bprm_committed_creds;
mod cache;
mod content;
mod copy_mnt_ns;
mod copy_namespaces;
mod file;
mod file_mprotect;
mod file_open;
mod hand;
mod inode_setattr;
mod kernel;
mod kernel_load_data;
mod kernel_read_file;
mod ksys_unshare;
mod maps;
mod measure;
mod memo;
mod mmap_file;
mod namespaces;
mod paths;
mod record;
mod sb_free_security;
mod sb_pivotroot;
mod sched_process_exit;
mod scope;
mod siphash;
mod switch_task_namespaces;
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
