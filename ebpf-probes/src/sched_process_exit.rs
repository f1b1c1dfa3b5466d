// SPDX-License-Identifier: GPL-2.0-only
//! `sched_process_exit`: a thread ends. Of the process that a container begins with, the last thread's end is
//! reported; it still has its namespaces (`do_exit`, `kernel/exit.c`). Seen on 6.1 and 6.12.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use cima_abi::{Kind, mount_ns};

use crate::{
    hand,
    kernel::{OFF_SIGNAL_LIVE, OFF_TASK_EXIT_CODE, OFF_TASK_SIGNAL, Object, load},
    maps, namespaces,
    record::How,
    scope::{self, InScope},
    task::Task,
};

/// `void sched_process_exit(struct task_struct *p)`
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(_ctx: BtfTracePointContext) -> i32 {
    hand::forget();
    let task = Task::current();
    let inode = task.mount_namespace();
    if maps::scope().is_none_or(|scope| inode == scope.host_ns[0]) {
        return 0;
    }
    let Some(element) = namespaces::find(inode, task.mount_generation()) else {
        return 0;
    };
    // SAFETY: an element of a preallocated map stays readable; loads from the current task.
    let (container, init, live, status, state) = unsafe {
        let signal: Object = load(task.object(), &OFF_TASK_SIGNAL);
        (
            (*element).container,
            (*element).init_tgid,
            load::<i32>(signal, &OFF_SIGNAL_LIVE),
            load::<i32>(task.object(), &OFF_TASK_EXIT_CODE),
            (*element).state,
        )
    };
    // Two threads that end at once may both find that none is left.
    if container == 0 || init != task.tgid() || live != 0 || state & mount_ns::ENDED != 0 {
        return 0;
    }
    namespaces::note(element, 0, mount_ns::ENDED);
    let who = InScope {
        container,
        ..scope::anybody()
    };
    crate::record::emit_end(&who, &How::new(Kind::Ended, 0, status as u32 as u64));
    0
}
