// SPDX-License-Identifier: GPL-2.0-only
//! Mount namespaces: which came from where, by which calls, and whose they are.
//!
//! An element of the map belongs to an inode and names the one namespace that it is about by its
//! sequence number, so one that was left by a namespace which is gone is none. `copy_mnt_ns`
//! writes it before any task can live in the new namespace; the agent writes the container's
//! number into it. What is made inside a container inherits that number: it stays its container.

use cima_abi::{Change, Kind, Loss, MountNs, NS_COUNT, Ns, flag, mount_ns};

use crate::{
    kernel::{OFF_MNT_INUM, OFF_MNT_SEQ, OFF_NSPROXY_MNT, OFF_TASK_NSPROXY, Object, load},
    maps::{self, NAMESPACES, clear_bits, lost, set_bits},
    record::emit_change,
    scope::{self, InScope, differs, is_candidate},
    task::Task,
};

/// All flags of `clone` and `unshare` that make a namespace.
pub const CLONE_NEW: u32 = {
    let mut all = 0;
    let mut i = 0;
    while i < NS_COUNT {
        all |= Ns::ALL[i].clone_flag();
        i += 1;
    }
    all
};

/// Which namespaces these flags make, as a mask of [`Ns::bit`].
#[inline(always)]
fn made_by(flags: u32) -> u32 {
    let mut mask = 0;
    for ns in Ns::ALL {
        if flags & ns.clone_flag() != 0 {
            mask |= ns.bit();
        }
    }
    mask
}

/// Notes what was gathered, and bits of the state. Tasks of one namespace do so at once, and none may take another's back.
#[inline(always)]
pub fn note(element: *mut MountNs, gathered: u32, state: u32) {
    let bits = u64::from(gathered) | u64::from(state) << 32;
    set_bits(word(element), bits);
}

#[inline(always)]
fn take_back(element: *mut MountNs, state: u32) {
    clear_bits(word(element), u64::from(state) << 32);
}

/// [`MountNs::gathered`] below, [`MountNs::state`] above.
#[inline(always)]
fn word(element: *mut MountNs) -> *mut u64 {
    // SAFETY: the address of a field, not its value.
    unsafe { (&raw mut (*element).gathered).cast() }
}

/// What is known of the namespace with this inode and sequence number.
#[inline(always)]
pub fn find(inode: u32, generation: u64) -> Option<*mut MountNs> {
    let element = NAMESPACES.get_ptr_mut(&inode)?;
    // SAFETY: an element of a preallocated map stays readable.
    let known = unsafe { (&raw const (*element).generation).read_volatile() };
    if known == generation {
        return Some(element);
    }
    if known == 0 {
        // The only one that can have the inode; from now on another is told apart.
        // SAFETY: as above.
        unsafe { (&raw mut (*element).generation).write_volatile(generation) };
        return Some(element);
    }
    None
}

/// Which namespaces of a task, with those its children would get, differ from the host's.
#[inline(always)]
fn differing(namespaces: &[u32; NS_COUNT]) -> u32 {
    let Some(scope) = maps::scope() else {
        return 0;
    };
    let mut mask = 0;
    for ns in Ns::ALL {
        mask |= differs(namespaces[ns as usize], scope.host_ns[ns as usize]) << ns as u32;
    }
    mask
}

/// The current task has made the mount namespace `new` by a copy of `old`.
#[inline(never)]
pub fn made(old: Object, new: Object, flags: u32) -> u32 {
    // SAFETY: loads from what the hook was given; an error value in a pointer's place reads as 0.
    let (inode, generation, old_inode, old_generation): (u32, u64, u32, u64) = unsafe {
        (
            load(new, &OFF_MNT_INUM),
            load(new, &OFF_MNT_SEQ),
            load(old, &OFF_MNT_INUM),
            load(old, &OFF_MNT_SEQ),
        )
    };
    if inode == 0 || inode == old_inode {
        return 0;
    }
    let mut element = MountNs {
        generation,
        gathered: differing(&Task::current().heirs()) | made_by(flags),
        state: mount_ns::OPEN,
        ..MountNs::default()
    };
    if let Some(old) = find(old_inode, old_generation) {
        // SAFETY: an element of a preallocated map stays readable.
        unsafe {
            element.container = (*old).container;
            element.init_start_ns = (*old).init_start_ns;
            element.init_tgid = (*old).init_tgid;
            element.root_device = (*old).root_device;
            element.root_inode = (*old).root_inode;
            element.image = (*old).image;
            element.provenance = (*old).provenance;
            let mut kept = mount_ns::PIVOTED | mount_ns::OTHER_ROOT;
            // Of a container that is gone it would tell nothing of the next.
            if element.container != 0 {
                kept |= mount_ns::STARTED;
            }
            element.state |= (*old).state & kept;
        }
    }
    // A full map leaves no element behind that could be taken for this one's: there was none with
    // this inode, or it is replaced. The task's namespaces then decide.
    if NAMESPACES.insert(inode, element, 0).is_err() {
        lost(Loss::NamespacesFull);
    }
    0
}

/// A task is about to exchange the root of its mount namespace: what else of it differs from the host's counts, though the
/// calls for that may have been made by a program that was executed in between.
#[inline(never)]
pub fn gather() -> u32 {
    let task = Task::current();
    if let Some(element) = find(task.mount_namespace(), task.mount_generation()) {
        let mask = differing(&task.heirs());
        // SAFETY: an element of a preallocated map stays readable and writable.
        unsafe {
            if (*element).container == 0 {
                note(element, mask, 0);
            }
        }
    }
    0
}

/// A mount namespace gets a root, or has it when the container's first program is executed: is it the one that was
/// measured? If not, the container is registered no more, and this is said. Returns nothing that a caller could go by.
#[inline(never)]
pub fn compare_root(device: u32, inode: u64, pivots: bool) -> u32 {
    let Some(mut who) = scope::current() else {
        return 0;
    };
    let ns = who.task.heirs();
    let generation = who.task.mount_generation();
    let (mut gathered, mut is_to_say) = (0, pivots);
    if let Some(element) = find(ns[Ns::Mnt as usize], generation) {
        // SAFETY: an element of a preallocated map stays readable and writable.
        unsafe {
            gathered = (*element).gathered;
            let state = (*element).state;
            if pivots {
                note(element, 0, mount_ns::PIVOTED);
            }
            let (measured, root) = ((*element).root_device, (*element).root_inode);
            let is_other = measured != 0 && (measured != device || root != 0 && root != inode);
            // A hook of its runtime has the host's root, and what its programs do later is their own doing. Each pivot
            // before counts, since a call may yet fail.
            let counts =
                pivots || (*element).init_tgid == who.task.tgid() || !is_host_root(device, inode);
            if state & mount_ns::STARTED == 0 && counts && is_other {
                note(element, 0, mount_ns::OTHER_ROOT);
                who.flags |= flag::OTHER_ROOT;
                is_to_say = true;
                (&raw mut (*element).container).write_volatile(0);
            }
        }
    }
    if is_to_say {
        let change = Change {
            mnt_generation: generation,
            container: who.container,
            ns,
            flags: 0,
            gathered,
            root_device: device,
            reserved: 0,
        };
        emit_change(&who, Kind::Pivoted, &change);
    }
    0
}

#[inline(always)]
fn is_host_root(device: u32, inode: u64) -> bool {
    maps::scope()
        .is_some_and(|scope| device == scope.host_root_device && inode == scope.host_root_inode)
}

/// The current task has executed a program: what the tasks of its mount namespace do from now on did not lead to it.
#[inline(never)]
pub fn executed() -> u32 {
    let task = Task::current();
    if let Some(element) = find(task.mount_namespace(), task.mount_generation()) {
        // SAFETY: an element of a preallocated map stays readable and writable.
        unsafe {
            let state = (*element).state;
            if state & mount_ns::OPEN != 0 {
                take_back(element, mount_ns::OPEN);
            }
            let is_first = (*element).container != 0 && (*element).init_tgid == task.tgid();
            if is_first && state & mount_ns::STARTED == 0 {
                note(element, 0, mount_ns::STARTED);
            }
        }
    }
    0
}

/// A call with `flags` has succeeded, and `task` (the caller or its child) lives in what it made.
#[inline(always)]
pub fn changed(task: &Task, flags: u32) {
    let (inode, generation) = (task.mount_namespace(), task.mount_generation());
    let Some(scope) = maps::scope() else {
        return;
    };
    if inode == scope.host_ns[Ns::Mnt as usize] {
        return;
    }
    let Some(element) = find(inode, generation) else {
        return;
    };
    // SAFETY: an element of a preallocated map stays readable and writable.
    let (container, gathered, state) =
        unsafe { ((*element).container, (*element).gathered, (*element).state) };
    let mut all = gathered;
    if state & mount_ns::OPEN != 0 {
        all |= made_by(flags);
        note(element, all, 0);
    }
    let is_new = flags & Ns::Mnt.clone_flag() != 0 || !is_candidate(scope, gathered);
    if is_new && (container != 0 || is_candidate(scope, all)) {
        let who = InScope {
            container: scope::container_of_current(),
            ..scope::anybody()
        };
        emit_change(
            &who,
            Kind::Made,
            &Change {
                mnt_generation: generation,
                container,
                ns: task.heirs(),
                flags,
                gathered: all,
                root_device: 0,
                reserved: 0,
            },
        );
    }
}

/// A task goes over to the namespaces of `to`.
#[inline(always)]
pub fn joined(task: Object, to: Object) {
    // SAFETY: loads from what the hook was given. When a task exits there is no `to`, and all
    // of it reads as 0.
    let (from_inode, from_generation, inode, generation): (u32, u64, u32, u64) = unsafe {
        let from: Object = load(load(task, &OFF_TASK_NSPROXY), &OFF_NSPROXY_MNT);
        let to: Object = load(to, &OFF_NSPROXY_MNT);
        (
            load(from, &OFF_MNT_INUM),
            load(from, &OFF_MNT_SEQ),
            load(to, &OFF_MNT_INUM),
            load(to, &OFF_MNT_SEQ),
        )
    };
    if inode == 0 || inode == from_inode {
        return;
    }
    let Some(scope) = maps::scope() else {
        return;
    };
    let from = match find(from_inode, from_generation) {
        // SAFETY: an element of a preallocated map stays readable.
        Some(from) => unsafe { (*from).container },
        None => 0,
    };
    let (mut container, mut gathered, mut state) = (0, 0, 0);
    if let Some(element) = find(inode, generation) {
        // SAFETY: as above.
        unsafe {
            container = (*element).container;
            gathered = (*element).gathered;
            state = (*element).state;
        }
    }
    // What `unshare` made was entered a moment ago, by this very call: OPEN, and of the same container.
    if container == from && (container != 0 || state & mount_ns::OPEN != 0) {
        return;
    }
    // Out of a container to anywhere is as much to be said as into one.
    if container == from && !is_candidate(scope, gathered) {
        return;
    }
    let who = InScope {
        container: from,
        ..scope::anybody()
    };
    let before = who.task.heirs();
    let after = Task::heirs_of(to, 0);
    let flag = |ns: Ns| differs(before[ns as usize], after[ns as usize]) * ns.clone_flag();
    // Written out, so that no index is left to be checked, and without a branch: with one the verifier would look at every
    // combination. The user namespace of `to` is not in it.
    let flags = flag(Ns::Mnt)
        | flag(Ns::Pid)
        | flag(Ns::Uts)
        | flag(Ns::Net)
        | flag(Ns::Ipc)
        | flag(Ns::Cgroup)
        | flag(Ns::Time);
    emit_change(
        &who,
        Kind::Joined,
        &Change {
            mnt_generation: generation,
            container,
            ns: after,
            flags,
            gathered,
            root_device: 0,
            reserved: 0,
        },
    );
}
