// SPDX-License-Identifier: GPL-2.0-only
//! Whose events count: containers' tasks, by the namespaces that differ from the
//! host's; the host's own only if the policy says so; and the agent's self-test.

use cima_abi::{Ns, flag};

use crate::{
    kernel::{OFF_TASK_REAL_PARENT, OFF_TASK_TGID, load},
    maps,
    task::Task,
};

/// The current task, if it is in scope.
pub struct InScope {
    /// The task.
    pub task: Task,
    /// [`flag::SELF_TEST`] or 0.
    pub flags: u16,
}

/// The current task; `None`: none of our business.
#[inline(always)]
pub fn current() -> Option<InScope> {
    let flags = look();
    (flags != NOBODY).then(|| InScope {
        task: Task::current(),
        flags: flags as u16,
    })
}

/// What [`look`] says of a task that is not in scope: no flags of a record.
const NOBODY: u32 = u32::MAX;

/// Looks at the current task: [`InScope::flags`], or [`NOBODY`].
#[inline(never)]
fn look() -> u32 {
    let Some(scope) = maps::scope() else {
        return NOBODY;
    };
    let task = Task::current();
    if scope.self_test_tgid != 0 && is_self_test(&task, scope.self_test_tgid) {
        return u32::from(flag::SELF_TEST);
    }
    if scope.measure_host != 0 {
        return 0;
    }
    if task.mount_namespace() == scope.host_ns[Ns::Mnt as usize] {
        // The common case on a host, decided by one comparison.
        return NOBODY;
    }
    let mut differs = 0;
    for (i, inode) in task.namespaces().iter().enumerate() {
        if *inode != scope.host_ns[i] {
            differs |= 1 << i;
        }
    }
    for mask in &scope.candidates {
        if *mask != 0 && differs & *mask == *mask {
            return 0;
        }
    }
    NOBODY
}

/// The common case on a host, decided by one comparison: a task in the host's mount
/// namespace, while nothing there counts.
#[inline(always)]
pub fn is_host() -> bool {
    maps::scope().is_none_or(|scope| {
        scope.measure_host == 0
            && scope.self_test_tgid == 0
            && Task::current().mount_namespace() == scope.host_ns[Ns::Mnt as usize]
    })
}

/// The current task, whoever it is.
#[inline(always)]
pub fn anybody() -> InScope {
    InScope {
        task: Task::current(),
        flags: 0,
    }
}

#[inline(always)]
fn is_self_test(task: &Task, tgid: u32) -> bool {
    // SAFETY: the task and its parent are pointers the verifier tracks.
    unsafe {
        let parent = load(task.object(), &OFF_TASK_REAL_PARENT);
        task.tgid() == tgid || load::<u32>(parent, &OFF_TASK_TGID) == tgid
    }
}
