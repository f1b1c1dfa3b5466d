// SPDX-License-Identifier: GPL-2.0-only
//! Whose events count: containers' tasks, by what is known of their mount namespace; the host's own only
//! if the policy says so; and the agent's self-test.

use cima_abi::{Ns, Scope, flag, mount_ns, unregistered};

use crate::{
    kernel::{OFF_TASK_REAL_PARENT, OFF_TASK_TGID, load},
    maps, namespaces,
    task::Task,
};

/// The current task, if it is in scope.
pub struct InScope {
    /// The task.
    pub task: Task,
    /// [`flag::SELF_TEST`], [`flag::UNREGISTERED`] or 0.
    pub flags: u16,
    /// Number of the container; 0: none that is registered.
    pub container: u64,
}

/// The current task; `None`: none of our business.
#[inline(always)]
pub fn current() -> Option<InScope> {
    find().who
}

/// What an execution has to know of the current task.
pub struct Found {
    /// `None`: none of our business.
    pub who: Option<InScope>,
    /// Nobody in its mount namespace has executed a program so far.
    pub is_open: bool,
    /// It is in a registered container whose first process has executed none.
    pub begins: bool,
}

/// The same, and what an execution has to know.
#[inline(always)]
pub fn find() -> Found {
    let mut container = 0;
    let found = look(&mut container);
    let who = (found & NOBODY == 0).then(|| InScope {
        task: Task::current(),
        flags: found as u16,
        container,
    });
    Found {
        who,
        is_open: found & OPEN != 0,
        begins: found & BEGINS != 0,
    }
}

/// What [`look`] says besides the flags of a record, which are 16 bits: the task is not in scope; and what [`Found`] has.
const NOBODY: u32 = 1 << 16;
const OPEN: u32 = 1 << 17;
const BEGINS: u32 = 1 << 18;

/// Looks at the current task: [`InScope::flags`], [`NOBODY`], [`OPEN`], [`BEGINS`].
///
/// None of it may be a constant to the verifier: that of 6.1 takes two returns with different constants for the same
/// now and then, and cuts off what the caller does for the second.
#[inline(never)]
fn look(container: &mut u64) -> u32 {
    let Some(scope) = maps::scope() else {
        return NOBODY;
    };
    *container = u64::from(scope.nothing);
    judge(scope, container) | scope.nothing
}

#[inline(always)]
fn judge(scope: &Scope, container: &mut u64) -> u32 {
    let task = Task::current();
    if scope.self_test_tgid != 0 && is_self_test(&task, scope.self_test_tgid) {
        return u32::from(flag::SELF_TEST);
    }
    let stranger = if scope.unregistered == unregistered::ALLOW {
        0
    } else {
        u32::from(flag::UNREGISTERED)
    };
    let others = if scope.measure_host == 0 { NOBODY } else { 0 };
    let inode = task.mount_namespace();
    if inode == scope.host_ns[Ns::Mnt as usize] {
        // The common case on a host, decided by one comparison.
        return others;
    }
    if let Some(element) = namespaces::find(inode, task.mount_generation()) {
        // SAFETY: an element of a preallocated map stays readable.
        let (number, gathered, state) =
            unsafe { ((*element).container, (*element).gathered, (*element).state) };
        *container = number;
        let open = if state & mount_ns::OPEN != 0 { OPEN } else { 0 };
        if number != 0 {
            let begins = if state & mount_ns::STARTED == 0 {
                BEGINS
            } else {
                0
            };
            return open | begins;
        }
        let is_one = state & mount_ns::OTHER_ROOT != 0 || is_candidate(scope, gathered);
        return open | if is_one { stranger } else { others };
    }
    // It was there before the probes. The common case in a container: these two are enough.
    let bit = |ns: Ns, inode: u32| differs(inode, scope.host_ns[ns as usize]) << ns as u32;
    let two = Ns::Mnt.bit() | bit(Ns::Pid, task.pid_namespace());
    if is_candidate(scope, two) {
        return stranger;
    }
    let all = Ns::ALL.into_iter().zip(task.namespaces());
    let all = all.fold(0, |all, (ns, inode)| all | bit(ns, inode));
    if is_candidate(scope, all) {
        stranger
    } else {
        others
    }
}

/// Number of the container that the current task is in.
#[inline(always)]
pub fn container_of_current() -> u64 {
    let task = Task::current();
    match namespaces::find(task.mount_namespace(), task.mount_generation()) {
        // SAFETY: an element of a preallocated map stays readable.
        Some(element) => unsafe { (*element).container },
        None => 0,
    }
}

/// 1 if they differ, else 0. Calculated: with a branch the verifier would look at every
/// combination of namespaces.
#[inline(always)]
pub fn differs(a: u32, b: u32) -> u32 {
    ((u64::from(a ^ b) + u64::from(u32::MAX)) >> 32) as u32
}

/// Whether these namespaces make a container by one of the rules.
#[inline(always)]
pub fn is_candidate(scope: &Scope, differing: u32) -> bool {
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
        container: 0,
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
