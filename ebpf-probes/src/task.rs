// SPDX-License-Identifier: GPL-2.0-only
//! The current task: who it is, where it lives, whose child it is.

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid,
    generated::{bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel_str},
};
use cima_abi::{ANCESTORS, Ancestor, CGROUP_LEN, COMM_LEN, Header, NS_COUNT, Ns, flag};

use crate::kernel::{
    Number, OFF_CGROUP_INUM, OFF_CGROUP_KN, OFF_CRED_GID, OFF_CRED_UID, OFF_CRED_USER_NS,
    OFF_CSS_SET_CGROUP, OFF_DENTRY_INODE, OFF_FS_ROOT_DENTRY, OFF_FS_ROOT_MOUNT, OFF_INODE_NUMBER,
    OFF_IPC_INUM, OFF_KN_NAME, OFF_KN_PARENT, OFF_MM_EXE, OFF_MNT_INUM, OFF_MNT_SEQ, OFF_NET_INUM,
    OFF_NSPROXY_CGROUP, OFF_NSPROXY_IPC, OFF_NSPROXY_MNT, OFF_NSPROXY_NET, OFF_NSPROXY_PID,
    OFF_NSPROXY_TIME, OFF_NSPROXY_UTS, OFF_PID_INUM, OFF_PID_LEVEL, OFF_PID_NS_LEVEL,
    OFF_PID_NUMBERS, OFF_SB_DEVICE, OFF_TASK_CGROUPS, OFF_TASK_COMM, OFF_TASK_CRED, OFF_TASK_FS,
    OFF_TASK_GROUP_LEADER, OFF_TASK_LOGINUID, OFF_TASK_MM, OFF_TASK_NSPROXY, OFF_TASK_REAL_PARENT,
    OFF_TASK_SESSION, OFF_TASK_START, OFF_TASK_TGID, OFF_TASK_THREAD_PID, OFF_TIME_INUM,
    OFF_UPID_NR, OFF_UPID_NS, OFF_USER_INUM, OFF_UTS_INUM, OFF_VFSMOUNT_SB, Object, SIZE_UPID,
    load, read, read_pointer,
};

/// Cgroups are looked at up to this depth above the task's own.
const CGROUP_DEPTH: usize = 8;
/// Room for a component of a cgroup path, NUL included: `NAME_MAX` and one.
const CGROUP_COMPONENT: usize = 256;

/// The current task.
pub struct Task(Object);

impl Task {
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper takes no argument and never fails.
        Self(unsafe { bpf_get_current_task_btf() }.cast_const().cast())
    }

    /// A task that a hook was given.
    #[inline(always)]
    pub fn of(object: Object) -> Self {
        Self(object)
    }

    #[inline(always)]
    pub fn object(&self) -> Object {
        self.0
    }

    #[inline(always)]
    pub fn tgid(&self) -> u32 {
        (bpf_get_current_pid_tgid() >> 32) as u32
    }

    /// Inode of the mount namespace; 0 while the task exits.
    #[inline(always)]
    pub fn mount_namespace(&self) -> u32 {
        // SAFETY: a chain of loads from the current task.
        unsafe {
            let nsproxy = load(self.0, &OFF_TASK_NSPROXY);
            load(load(nsproxy, &OFF_NSPROXY_MNT), &OFF_MNT_INUM)
        }
    }

    /// Sequence number of the mount namespace.
    #[inline(always)]
    pub fn mount_generation(&self) -> u64 {
        // SAFETY: a chain of loads from the current task.
        unsafe {
            let nsproxy = load(self.0, &OFF_TASK_NSPROXY);
            load(load(nsproxy, &OFF_NSPROXY_MNT), &OFF_MNT_SEQ)
        }
    }

    /// Cgroup v2 id.
    #[inline(always)]
    pub fn cgroup(&self) -> u64 {
        // SAFETY: the helper takes no argument.
        unsafe { bpf_get_current_cgroup_id() }
    }

    /// Start of the process, ns since boot.
    #[inline(always)]
    pub fn start(&self) -> u64 {
        // SAFETY: a chain of loads from the current task.
        unsafe {
            let leader = load(self.0, &OFF_TASK_GROUP_LEADER);
            load(leader, &OFF_TASK_START)
        }
    }

    /// The program that the process runs; null for a kernel thread.
    #[inline(always)]
    pub fn program(&self) -> Object {
        // SAFETY: a chain of loads from the current task.
        unsafe {
            let mm = load(self.0, &OFF_TASK_MM);
            load(mm, &OFF_MM_EXE)
        }
    }

    /// Inode of the pid namespace that the task lives in, which is not always the one that its
    /// children will. That one is the same or below it (`pidns_install`, `copy_pid_ns`), so
    /// on the same level it is the same: all plain loads, in almost every task.
    #[inline(always)]
    pub fn pid_namespace(&self) -> u32 {
        // SAFETY: chains of loads from the current task.
        unsafe { self.pid_namespace_by(load(self.0, &OFF_TASK_NSPROXY)) }
    }

    /// The same, by the task's `nsproxy`.
    ///
    /// # Safety
    /// As of [`load`].
    #[inline(always)]
    unsafe fn pid_namespace_by(&self, nsproxy: Object) -> u32 {
        // SAFETY: chains of loads from the current task.
        unsafe {
            let children: Object = load(nsproxy, &OFF_NSPROXY_PID);
            let pid: Object = load(self.0, &OFF_TASK_THREAD_PID);
            let inode: u32 = load(children, &OFF_PID_INUM);
            let level: u32 = load(children, &OFF_PID_NS_LEVEL);
            // Of a task that exits there is no `nsproxy`, and all of it reads as 0.
            if inode != 0 && level == load::<u32>(pid, &OFF_PID_LEVEL) {
                return inode;
            }
            let ns = read_pointer(self.upid(pid), OFF_UPID_NS.load());
            read(ns, OFF_PID_INUM.load())
        }
    }

    /// Inodes of the namespaces that its children get, in record order. All plain loads: also of
    /// a task that is not the current one.
    #[inline(always)]
    pub fn heirs(&self) -> [u32; NS_COUNT] {
        // SAFETY: chains of loads from a task.
        unsafe {
            let cred = load(self.0, &OFF_TASK_CRED);
            let user = load(load(cred, &OFF_CRED_USER_NS), &OFF_USER_INUM);
            Self::heirs_of(load(self.0, &OFF_TASK_NSPROXY), user)
        }
    }

    /// The same of an `nsproxy` that the verifier tracks, with the inode of the user namespace.
    #[inline(always)]
    pub fn heirs_of(nsproxy: Object, user: u32) -> [u32; NS_COUNT] {
        let mut ns = [0; NS_COUNT];
        // SAFETY: chains of loads.
        unsafe {
            ns[Ns::Mnt as usize] = load(load(nsproxy, &OFF_NSPROXY_MNT), &OFF_MNT_INUM);
            ns[Ns::Pid as usize] = load(load(nsproxy, &OFF_NSPROXY_PID), &OFF_PID_INUM);
            ns[Ns::User as usize] = user;
            ns[Ns::Uts as usize] = load(load(nsproxy, &OFF_NSPROXY_UTS), &OFF_UTS_INUM);
            ns[Ns::Net as usize] = load(load(nsproxy, &OFF_NSPROXY_NET), &OFF_NET_INUM);
            ns[Ns::Ipc as usize] = load(load(nsproxy, &OFF_NSPROXY_IPC), &OFF_IPC_INUM);
            ns[Ns::Cgroup as usize] = load(load(nsproxy, &OFF_NSPROXY_CGROUP), &OFF_CGROUP_INUM);
            ns[Ns::Time as usize] = load(load(nsproxy, &OFF_NSPROXY_TIME), &OFF_TIME_INUM);
        }
        ns
    }

    /// Inodes of all namespaces, in record order.
    #[inline(always)]
    pub fn namespaces(&self) -> [u32; NS_COUNT] {
        let mut ns = [0; NS_COUNT];
        // SAFETY: the array is there to be written.
        unsafe { self.put_namespaces(&raw mut ns) };
        ns
    }

    /// The same, into a record; the sequence number of the mount namespace.
    ///
    /// # Safety
    /// `out` points to that many words.
    #[inline(always)]
    unsafe fn put_namespaces(&self, out: *mut [u32; NS_COUNT]) -> u64 {
        // SAFETY: chains of loads from the current task, plain stores to `out`.
        unsafe {
            let ns = &mut *out;
            let nsproxy = load(self.0, &OFF_TASK_NSPROXY);
            let mount_ns = load(nsproxy, &OFF_NSPROXY_MNT);
            ns[Ns::Mnt as usize] = load(mount_ns, &OFF_MNT_INUM);
            ns[Ns::Uts as usize] = load(load(nsproxy, &OFF_NSPROXY_UTS), &OFF_UTS_INUM);
            ns[Ns::Net as usize] = load(load(nsproxy, &OFF_NSPROXY_NET), &OFF_NET_INUM);
            ns[Ns::Ipc as usize] = load(load(nsproxy, &OFF_NSPROXY_IPC), &OFF_IPC_INUM);
            ns[Ns::Cgroup as usize] = load(load(nsproxy, &OFF_NSPROXY_CGROUP), &OFF_CGROUP_INUM);
            ns[Ns::Time as usize] = load(load(nsproxy, &OFF_NSPROXY_TIME), &OFF_TIME_INUM);
            let cred = load(self.0, &OFF_TASK_CRED);
            ns[Ns::User as usize] = load(load(cred, &OFF_CRED_USER_NS), &OFF_USER_INUM);
            ns[Ns::Pid as usize] = self.pid_namespace_by(nsproxy);
            load(mount_ns, &OFF_MNT_SEQ)
        }
    }

    /// Its root directory: device of the file system in the kernel's encoding, and inode.
    #[inline(always)]
    pub fn root(&self) -> (u32, u64) {
        // SAFETY: chains of loads from the task.
        unsafe {
            let fs = load(self.0, &OFF_TASK_FS);
            let mount: Object = load(fs, &OFF_FS_ROOT_MOUNT);
            let dentry: Object = load(fs, &OFF_FS_ROOT_DENTRY);
            (
                load(load(mount, &OFF_VFSMOUNT_SB), &OFF_SB_DEVICE),
                load(load(dentry, &OFF_DENTRY_INODE), &OFF_INODE_NUMBER),
            )
        }
    }

    /// The innermost `struct upid` of a `struct pid` that the verifier tracks.
    ///
    /// # Safety
    /// As of [`load`].
    #[inline(always)]
    unsafe fn upid(&self, pid: Object) -> Object {
        // SAFETY: a load from `pid`.
        let level: u32 = unsafe { load(pid, &OFF_PID_LEVEL) };
        // `level` is a variable: from here on only the fault-safe helper may read.
        let step = u64::from(level).wrapping_mul(SIZE_UPID.load());
        let numbers = OFF_PID_NUMBERS.load().wrapping_add(step);
        self.number().of(pid).wrapping_add(numbers) as Object
    }

    /// What turns objects into numbers.
    #[inline(always)]
    pub fn number(&self) -> Number {
        // SAFETY: the helper takes no argument and never fails.
        Number::new(self.0, unsafe { bpf_get_current_task() })
    }

    /// Writes everything about the task into `header`.
    ///
    /// # Safety
    /// `header` points into a reserved ring buffer record.
    #[inline(always)]
    pub unsafe fn describe(&self, header: *mut Header) {
        let ids = bpf_get_current_pid_tgid();
        // SAFETY: plain stores into the record; loads from the current task.
        unsafe {
            (*header).tgid = (ids >> 32) as u32;
            (*header).tid = ids as u32;
            // A `kuid_t` is the id in the initial user namespace.
            let cred = load(self.0, &OFF_TASK_CRED);
            (*header).uid = load(cred, &OFF_CRED_UID);
            (*header).gid = load(cred, &OFF_CRED_GID);
            (*header).mnt_generation = self.put_namespaces(&raw mut (*header).ns);
            let leader = load(self.0, &OFF_TASK_GROUP_LEADER);
            (*header).start_ns = load(leader, &OFF_TASK_START);
            (*header).login_uid = load(self.0, &OFF_TASK_LOGINUID);
            (*header).session = load(self.0, &OFF_TASK_SESSION);
            (*header).cgroup_id = self.cgroup();
            put_comm(self.0, &raw mut (*header).comm);
            (*header).ns_tgid = self.ns_tgid(leader);
            self.ancestors(&raw mut (*header).ancestors);
            self.cgroup_path(header);
        }
    }

    /// Thread-group id in the task's own pid namespace.
    #[inline(always)]
    unsafe fn ns_tgid(&self, leader: Object) -> u32 {
        // SAFETY: a chain of loads from the current task's leader.
        let upid = unsafe { self.upid(load(leader, &OFF_TASK_THREAD_PID)) };
        read(upid, OFF_UPID_NR.load())
    }

    /// Records the parents up to the initial task, which is its own parent.
    #[inline(always)]
    unsafe fn ancestors(&self, out: *mut [Ancestor; ANCESTORS]) {
        let mut task = self.0;
        for i in 0..ANCESTORS {
            // SAFETY: chains of loads from the current task; `i` is below the array's length,
            // so the stores stay in the record.
            unsafe {
                let slot = out.cast::<Ancestor>().add(i);
                let parent: Object = load(task, &OFF_TASK_REAL_PARENT);
                if parent == task || parent.is_null() {
                    // Nobody reads more of it, nor what is behind.
                    (*slot).tgid = 0;
                    break;
                }
                let leader: Object = load(parent, &OFF_TASK_GROUP_LEADER);
                (*slot).start_ns = load(leader, &OFF_TASK_START);
                (*slot).tgid = load(parent, &OFF_TASK_TGID);
                (*slot).reserved = 0;
                put_comm(leader, &raw mut (*slot).comm);
                task = parent;
            }
        }
    }

    /// Records the names of the task's cgroup v2 and its parents, nearest first.
    #[inline(always)]
    unsafe fn cgroup_path(&self, header: *mut Header) {
        // SAFETY: chains of loads from the current task.
        let (mut node, mut parent): (Object, Object) = unsafe {
            let set = load(self.0, &OFF_TASK_CGROUPS);
            let node = load(load(set, &OFF_CSS_SET_CGROUP), &OFF_CGROUP_KN);
            (node, load(node, &OFF_KN_PARENT))
        };
        let mut used: usize = 0;
        let mut cut = false;
        for _ in 0..CGROUP_DEPTH {
            if parent.is_null() {
                // The root has no parent, and its name is empty.
                break;
            }
            if used > CGROUP_LEN - CGROUP_COMPONENT {
                cut = true;
                break;
            }
            // SAFETY: `used` leaves room for a whole component, as just checked; a name is a
            // number to the verifier, and only the helper reads there.
            let n = unsafe {
                bpf_probe_read_kernel_str(
                    (&raw mut (*header).cgroup).cast::<u8>().add(used).cast(),
                    CGROUP_COMPONENT as u32,
                    load::<u64>(node, &OFF_KN_NAME) as *const _,
                )
            };
            if n <= 0 || n > CGROUP_COMPONENT as i64 {
                cut = true;
                break;
            }
            used += n as usize;
            node = parent;
            // SAFETY: a load in the chain.
            parent = unsafe { load(node, &OFF_KN_PARENT) };
        }
        // SAFETY: plain stores into the record.
        unsafe {
            (*header).cgroup_len = used as u16;
            if cut || !parent.is_null() {
                (*header).flags |= flag::CGROUP_TRUNCATED;
            }
        }
    }
}

/// Copies the name of a task that the verifier tracks, in words.
///
/// # Safety
/// As of [`load`]; `out` points into a record.
#[inline(always)]
unsafe fn put_comm(task: Object, out: *mut [u8; COMM_LEN]) {
    let out = out.cast::<u64>();
    for i in 0..COMM_LEN / 8 {
        // SAFETY: inside the array on both sides, which are aligned.
        unsafe {
            let word = load::<u64>(task.add(i * 8), &OFF_TASK_COMM);
            out.add(i).write_volatile(word);
        }
    }
}
