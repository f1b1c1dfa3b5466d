// SPDX-License-Identifier: Apache-2.0
//! Whether anybody has a file open for writing: the one question that needs `unsafe`, since no library wraps
//! the system call.
//!
//! The kernel gives a read lease only on a file that nobody has open for writing (`check_conflicting_open`,
//! `fs/locks.c`); a writable shared mapping holds its open file as long as it lives. It is given back at
//! once: whoever wants to write in that moment waits, or, with `O_NONBLOCK`, is told to try again.

use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `include/uapi/asm-generic/fcntl.h`; the libc crate does not have it.
const F_SETSIG: libc::c_int = 10;

/// True if the kernel says that nobody has this file, which is open for reading, open for writing now. False if
/// somebody has, and if the kernel will not say: that takes the owner or `CAP_LEASE`, and a file system with leases.
#[expect(unsafe_code, reason = "no library wraps F_SETLEASE and F_SETSIG")]
pub(crate) fn nobody_writes(file: BorrowedFd<'_>) -> bool {
    let file = file.as_raw_fd();
    // Who breaks the lease in the moment it is held has the kernel send a signal, SIGIO if nothing else is set,
    // which ends a process. SIGURG does nothing to one that does not ask for it (signal(7)).
    //
    // SAFETY: these commands of fcntl take an integer and touch no memory of this process; the
    // descriptor is borrowed, so it stays open for the calls.
    unsafe {
        libc::fcntl(file, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) == 0
            && libc::fcntl(file, libc::F_SETLEASE, libc::F_UNLCK) == 0
    }
}
