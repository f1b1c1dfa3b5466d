// SPDX-License-Identifier: GPL-2.0-only
//! Whose events count: containers' tasks, by the namespaces that differ from the
//! host's; the host's own only if the policy says so; and the agent's self-test.

use cima_abi::{Ns, Scope, flag};

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
    let bit = |ns: Ns, inode: u32| differs(inode, scope.host_ns[ns as usize]) << ns as u32;
    if task.mount_namespace() == scope.host_ns[Ns::Mnt as usize] {
        // The common case on a host, decided by one comparison.
        return NOBODY;
    }
    // The common case in a container: these two are enough.
    let two = Ns::Mnt.bit() | bit(Ns::Pid, task.pid_namespace());
    if is_candidate(scope, two) {
        return 0;
    }
    let all = Ns::ALL.into_iter().zip(task.namespaces());
    let all = all.fold(0, |all, (ns, inode)| all | bit(ns, inode));
    if is_candidate(scope, all) { 0 } else { NOBODY }
}

/// 1 if they differ, else 0. Calculated: with a branch the verifier would look at every
/// combination of namespaces.
#[inline(always)]
fn differs(a: u32, b: u32) -> u32 {
    ((u64::from(a ^ b) + u64::from(u32::MAX)) >> 32) as u32
}

/// Whether a task is a container's that differs from the host in these namespaces.
#[inline(always)]
fn is_candidate(scope: &Scope, differing: u32) -> bool {
    for mask in &scope.candidates {
        if *mask != 0 && differing & *mask == *mask {
            return true;
        }
    }
    false
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
