// SPDX-License-Identifier: GPL-2.0-only
//! Events about memory that has no file to hash. The file of such a record is the
//! program that the process runs; each process says each of them once.

use crate::{
    cache::{self, Digest, Report},
    content::ContentId,
    file::File,
    kernel::address,
    record::{Event, How, emit_without_path},
    scope::InScope,
};
use core::mem::MaybeUninit;

use aya_ebpf::bindings::file;

/// Reports `how` of the program that the current process runs. Without its path: of a
/// program that is not the hook's own argument the kernel lets no path be made where a
/// hook may sleep.
#[inline(never)]
pub fn report(who: &InScope, how: &How) {
    let program = who.task.program();
    if address(program).is_null() {
        // A kernel thread runs no program.
        return;
    }
    let what = Report {
        // No superblock has the address 0: never taken for a file.
        content: ContentId {
            sb: 0,
            inode: u64::from(who.task.tgid()),
            generation: how.kind as u64 | how.id() << 8,
        },
        clock: who.task.start(),
        rest: 0,
    };
    if cache::is_said(&what) {
        return;
    }
    let heard = emit_without_path(&Event {
        who,
        file: File::new(program.cast::<file>()),
        how,
        digest: Digest::none(&mut MaybeUninit::uninit()),
        error: 0,
        flags: 0,
    });
    if heard {
        cache::said(&what);
    }
}
