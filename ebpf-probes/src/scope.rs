// SPDX-License-Identifier: GPL-2.0-only
//! Whose events count: containers' tasks, by the namespaces that differ from the
//! host's; the host's own only if the policy says so; and the agent's self-test.

use cima_abi::{NS_COUNT, Ns, flag};

use crate::{
    kernel::{OFF_TASK_REAL_PARENT, OFF_TASK_TGID, load},
    maps,
    task::Task,
};

/// The current task, if it is in scope.
pub struct InScope {
    /// The task.
    pub task: Task,
    /// Inodes of its namespaces.
    pub ns: [u32; NS_COUNT],
    /// [`flag::SELF_TEST`] or 0.
    pub flags: u16,
}

/// Looks at the current task; `None`: none of our business.
#[inline(always)]
pub fn current() -> Option<InScope> {
    let scope = maps::scope()?;
    let task = Task::current();
    if scope.self_test_tgid != 0 && is_self_test(&task, scope.self_test_tgid) {
        let ns = task.namespaces();
        return Some(InScope {
            task,
            ns,
            flags: flag::SELF_TEST,
        });
    }
    if scope.measure_host == 0 && task.mount_namespace() == scope.host_ns[Ns::Mnt as usize] {
        // The common case on a host, decided by one comparison.
        return None;
    }
    let ns = task.namespaces();
    if scope.measure_host != 0 {
        return Some(InScope { task, ns, flags: 0 });
    }
    let mut differs = 0;
    for (i, inode) in ns.iter().enumerate() {
        if *inode != scope.host_ns[i] {
            differs |= 1 << i;
        }
    }
    for mask in &scope.candidates {
        if *mask != 0 && differs & *mask == *mask {
            return Some(InScope { task, ns, flags: 0 });
        }
    }
    None
}

#[inline(always)]
fn is_self_test(task: &Task, tgid: u32) -> bool {
    // SAFETY: the task and its parent are pointers the verifier tracks.
    unsafe {
        let parent = load(task.object(), &OFF_TASK_REAL_PARENT);
        task.tgid() == tgid || load::<u32>(parent, &OFF_TASK_TGID) == tgid
    }
}
