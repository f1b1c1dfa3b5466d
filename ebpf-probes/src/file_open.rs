// SPDX-License-Identifier: GPL-2.0-only
//! `security_file_open`: the one way to become a writer of a file, whoever opens it
//! and by whatever call (`do_dentry_open`, with the right to write already taken): io_uring,
//! overlayfs for its layers and its copy-up, nfsd, the kernel itself. Host-wide: a container's
//! file may be written from outside. Seen on 6.1 and 6.12.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::file, macros::lsm, programs::LsmContext};
use cima_abi::Kind;

use crate::{
    cache::{self, Digest},
    content::{Content, ContentId},
    file::File,
    kernel::{OFF_FILE_INODE, OFF_FILE_MODE, Object, load},
    record::{Event, How, emit},
    scope,
};

/// `include/linux/fs.h`.
const FMODE_WRITE: u32 = 2;

/// `int file_open(struct file *file)`
#[lsm(hook = "file_open")]
pub fn file_open(ctx: LsmContext) -> i32 {
    let verdict: i32 = ctx.arg(1);
    let file = File::new(ctx.arg::<*const file>(0));
    let (mut id, mut content) = (ContentId::default(), Content::unknown());
    // SAFETY: loads from the hook's argument.
    unsafe {
        if load::<u32>(file.object(), &OFF_FILE_MODE) & FMODE_WRITE == 0 {
            return verdict;
        }
        let inode: Object = load(file.object(), &OFF_FILE_INODE);
        content.find_inode(&mut id, inode);
    }
    id.may_change();
    // Measured, and still open for reading as every mapping is: what runs may now change.
    if cache::was_measured(&id) && content.has_reader() {
        emit(&Event {
            who: &scope::anybody(),
            file,
            how: &How::new(Kind::Written, 0, 0),
            digest: Digest::none(&mut MaybeUninit::uninit()),
            error: 0,
            flags: 0,
        });
    }
    verdict
}
