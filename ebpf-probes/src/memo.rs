// SPDX-License-Identifier: GPL-2.0-only
//! A note on each inode about the last mapping of it that needed no report: the same task's
//! surroundings, the same name, the same content. What fits the note in every word is nothing
//! new, which is how most mappings of a busy node end, for the price of a few loads.
//!
//! The note is a shortcut only: whatever does not fit goes the long way. It names things by
//! their addresses, so each may be reused: a mount namespace is named by its sequence number,
//! which is not; a name by its dentry with the hash of its last component and whether it is
//! still in its directory, as long as no directory was renamed and nothing was moved or
//! unmounted (`paths`); a network or other namespace by the `nsproxy` that holds it, whose
//! reuse inside one container would at most leave a report out that differs in that number.

use aya_ebpf::{
    bindings::inode,
    btf_maps::InodeStorage,
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_current_task_btf,
    },
    macros::{btf_map, map},
    maps::Array,
};

use crate::{
    cache::Report,
    content::{clock_of, slots},
    file::{File, OVERLAYFS_SUPER_MAGIC},
    kernel::{
        Number, OFF_CRED_USER_NS, OFF_DENTRY_HASH, OFF_DENTRY_HASHED, OFF_FILE_DENTRY,
        OFF_FILE_INODE, OFF_FILE_MOUNT, OFF_FILE_PRIVATE, OFF_FS_ROOT_DENTRY, OFF_FS_ROOT_MOUNT,
        OFF_INODE_SB, OFF_INODE_WRITERS, OFF_MNT_SEQ, OFF_NSPROXY_MNT, OFF_PID_LEVEL, OFF_SB_MAGIC,
        OFF_TASK_CRED, OFF_TASK_FS, OFF_TASK_NSPROXY, OFF_TASK_THREAD_PID, Object, load, read,
        read_pointer,
    },
    maps::{self, tick},
};

/// What a mapping is like.
const WORDS: usize = 13;

#[repr(C)]
pub struct Note {
    words: [u64; WORDS],
    /// Slots of the content's clock.
    slots: u64,
    /// Two tasks may write at a time: a mixture of their notes does not fit its sum.
    sum: u64,
}

#[btf_map]
static NOTES: InodeStorage<Note> = InodeStorage::new();

/// How often a path may have changed without its name: one number for the host.
#[map]
static PATHS: Array<u64> = Array::with_max_entries(1, 0);

/// A directory was renamed, or something mounted elsewhere or no more.
#[inline(always)]
pub fn paths_change() {
    if let Some(paths) = PATHS.get_ptr_mut(0) {
        tick(paths);
    }
}

/// Whether the mapping of `file` by the current task is noted, and nobody can write it.
#[inline(never)]
pub fn knows(file: File) -> bool {
    // SAFETY: loads from a trusted file; the note stays as long as its inode.
    unsafe {
        let inode: Object = load(file.object(), &OFF_FILE_INODE);
        let note = NOTES.get_ptr_mut(inode.cast_mut().cast::<inode>());
        if note.is_null() {
            return false;
        }
        let mut sum = 0;
        let mut fits = true;
        let slots = (&raw const (*note).slots).read_volatile();
        let real = of(file, inode, slots, |i, word| {
            let noted = (&raw const (*note).words)
                .cast::<u64>()
                .add(i)
                .read_volatile();
            fits &= noted == word;
            sum = mix(sum, word);
        });
        fits && mix(sum, slots) == (&raw const (*note).sum).read_volatile()
            && !is_written(inode, real)
    }
}

/// Notes a mapping that was reported, of a content that nobody could write.
#[inline(never)]
pub fn note(file: File, report: &Report) {
    // SAFETY: loads from a trusted file; the note stays as long as its inode.
    unsafe {
        let inode: Object = load(file.object(), &OFF_FILE_INODE);
        let note = NOTES.get_or_insert_ptr_mut(inode.cast_mut().cast::<inode>(), None);
        if note.is_null() {
            return;
        }
        let slots = slots(&report.content);
        let mut sum = 0;
        // Whoever reads meanwhile finds that it does not fit.
        (&raw mut (*note).sum).write_volatile(0);
        of(file, inode, slots, |i, word| {
            // The reading of the clock at which it was measured, not a later one.
            let word = if i == CLOCK { report.clock } else { word };
            (&raw mut (*note).words)
                .cast::<u64>()
                .add(i)
                .write_volatile(word);
            sum = mix(sum, word);
        });
        (&raw mut (*note).slots).write_volatile(slots);
        (&raw mut (*note).sum).write_volatile(mix(sum, slots));
    }
}

/// Which word is the clock.
const CLOCK: usize = 10;

/// Gives each word of the mapping to `take`; returns the inode that has the content, null
/// if it is `inode` itself.
#[inline(always)]
unsafe fn of(file: File, inode: Object, slots: u64, mut take: impl FnMut(usize, u64)) -> Object {
    // SAFETY: chains of loads from the file and the current task.
    unsafe {
        let task: Object = bpf_get_current_task_btf().cast_const().cast();
        let number = Number::new(task, bpf_get_current_task());
        let nsproxy: Object = load(task, &OFF_TASK_NSPROXY);
        let mount_ns: Object = load(nsproxy, &OFF_NSPROXY_MNT);
        let cred: Object = load(task, &OFF_TASK_CRED);
        let pid: Object = load(task, &OFF_TASK_THREAD_PID);
        let dentry: Object = load(file.object(), &OFF_FILE_DENTRY);
        let mount: Object = load(file.object(), &OFF_FILE_MOUNT);
        let sb: Object = load(inode, &OFF_INODE_SB);
        take(0, number.of(nsproxy));
        take(1, load(mount_ns, &OFF_MNT_SEQ));
        take(2, bpf_get_current_cgroup_id());
        take(3, number.of(load(cred, &OFF_CRED_USER_NS)));
        // With the nsproxy it names the task's own pid namespace.
        take(
            4,
            u64::from(load::<u32>(pid, &OFF_PID_LEVEL)) | maps::scope_version() << 32,
        );
        take(5, number.of(dentry));
        // The hash without the length behind it: 6.1's verifier takes the union for its first
        // member, a structure of two numbers. And whether the name is gone from its directory: then
        // the path says so.
        let gone = load::<u64>(dentry, &OFF_DENTRY_HASHED) == 0;
        take(
            6,
            u64::from(load::<u32>(dentry, &OFF_DENTRY_HASH)) | u64::from(gone) << 32,
        );
        take(7, number.of(mount));
        take(8, PATHS.get(0).copied().unwrap_or(0));
        let mut real: Object = core::ptr::null();
        if load::<u64>(sb, &OFF_SB_MAGIC) == OVERLAYFS_SUPER_MAGIC {
            // A `void *` is a number to the verifier.
            let open: Object = load(file.object(), &OFF_FILE_PRIVATE);
            real = read_pointer(open, OFF_FILE_INODE.load());
        }
        take(9, real as u64);
        take(CLOCK, clock_of(slots));
        // A path is what leads there from the task's root.
        let fs: Object = load(task, &OFF_TASK_FS);
        take(11, number.of(load(fs, &OFF_FS_ROOT_DENTRY)));
        take(12, number.of(load(fs, &OFF_FS_ROOT_MOUNT)));
        real
    }
}

#[inline(always)]
fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Whether somebody has the content open for writing.
#[inline(always)]
unsafe fn is_written(inode: Object, real: Object) -> bool {
    if real.is_null() {
        // SAFETY: a load from an inode that the verifier tracks.
        return unsafe { load::<i32>(inode, &OFF_INODE_WRITERS) } > 0;
    }
    read::<i32>(real, OFF_INODE_WRITERS.load()) > 0
}
