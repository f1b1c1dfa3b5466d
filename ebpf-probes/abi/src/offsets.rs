// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The kernel fields that the probes read, as one table for both sides: the
//! probes declare a read-only global for each row, the agent fills it from the
//! kernel's BTF before it loads them and refuses to start when a row has no
//! answer. A row lists alternatives, newest kernel last, because fields move:
//! `file.f_path` is at 16 on 6.1 and at 64 on 6.12.

/// Calls `$m!` with every row: `NAME: "struct" . "field" [or "struct" . "field"]…;`
/// A field is a path through embedded structs; anonymous unions are looked through.
#[macro_export]
macro_rules! for_each_offset {
    ($m:ident) => {
        $m! {
            OFF_FILE_PATH: "file"."f_path";
            OFF_FILE_DENTRY: "file"."f_path.dentry";
            OFF_FILE_MOUNT: "file"."f_path.mnt";
            OFF_FILE_INODE: "file"."f_inode";
            OFF_FILE_MODE: "file"."f_mode";
            OFF_FILE_PRIVATE: "file"."private_data";
            OFF_INODE_NUMBER: "inode"."i_ino";
            OFF_INODE_SB: "inode"."i_sb";
            OFF_INODE_GENERATION: "inode"."i_generation";
            OFF_INODE_LINKS: "inode"."i_nlink";
            OFF_INODE_MODE: "inode"."i_mode";
            OFF_INODE_SIZE: "inode"."i_size";
            OFF_INODE_WRITERS: "inode"."i_writecount";
            OFF_INODE_READERS: "inode"."i_readcount";
            OFF_DENTRY_INODE: "dentry"."d_inode";
            OFF_DENTRY_HASH: "dentry"."d_name.hash_len";
            OFF_DENTRY_HASHED: "dentry"."d_hash.pprev";
            OFF_SHMEM_INODE: "shmem_inode_info"."vfs_inode";
            OFF_SHMEM_SEALS: "shmem_inode_info"."seals";
            OFF_SB_DEVICE: "super_block"."s_dev";
            OFF_SB_MAGIC: "super_block"."s_magic";
            OFF_SB_FLAGS: "super_block"."s_flags";
            OFF_TASK_REAL_PARENT: "task_struct"."real_parent";
            OFF_TASK_GROUP_LEADER: "task_struct"."group_leader";
            OFF_TASK_TGID: "task_struct"."tgid";
            OFF_TASK_START: "task_struct"."start_boottime";
            OFF_TASK_COMM: "task_struct"."comm";
            OFF_TASK_LOGINUID: "task_struct"."loginuid";
            OFF_TASK_SESSION: "task_struct"."sessionid";
            OFF_TASK_NSPROXY: "task_struct"."nsproxy";
            OFF_TASK_CRED: "task_struct"."cred";
            OFF_TASK_CGROUPS: "task_struct"."cgroups";
            OFF_TASK_THREAD_PID: "task_struct"."thread_pid";
            OFF_NSPROXY_UTS: "nsproxy"."uts_ns";
            OFF_NSPROXY_IPC: "nsproxy"."ipc_ns";
            OFF_NSPROXY_MNT: "nsproxy"."mnt_ns";
            OFF_NSPROXY_NET: "nsproxy"."net_ns";
            OFF_NSPROXY_TIME: "nsproxy"."time_ns";
            OFF_NSPROXY_CGROUP: "nsproxy"."cgroup_ns";
            OFF_NSPROXY_PID: "nsproxy"."pid_ns_for_children";
            OFF_UTS_INUM: "uts_namespace"."ns.inum";
            OFF_IPC_INUM: "ipc_namespace"."ns.inum";
            OFF_MNT_INUM: "mnt_namespace"."ns.inum";
            OFF_MNT_SEQ: "mnt_namespace"."seq" or "mnt_namespace"."ns.ns_id";
            OFF_NET_INUM: "net"."ns.inum";
            OFF_TIME_INUM: "time_namespace"."ns.inum";
            OFF_CGROUP_INUM: "cgroup_namespace"."ns.inum";
            OFF_USER_INUM: "user_namespace"."ns.inum";
            OFF_PID_INUM: "pid_namespace"."ns.inum";
            OFF_PID_NS_LEVEL: "pid_namespace"."level";
            OFF_CRED_USER_NS: "cred"."user_ns";
            OFF_CRED_UID: "cred"."uid";
            OFF_CRED_GID: "cred"."gid";
            OFF_PID_LEVEL: "pid"."level";
            OFF_PID_NUMBERS: "pid"."numbers";
            OFF_UPID_NR: "upid"."nr";
            OFF_UPID_NS: "upid"."ns";
            OFF_CSS_SET_CGROUP: "css_set"."dfl_cgrp";
            OFF_CGROUP_KN: "cgroup"."kn";
            OFF_KN_NAME: "kernfs_node"."name";
            OFF_KN_PARENT: "kernfs_node"."parent" or "kernfs_node"."__parent";
            OFF_BPRM_FILE: "linux_binprm"."file";
            OFF_BPRM_P: "linux_binprm"."p";
            OFF_BPRM_EXEC: "linux_binprm"."exec";
            OFF_BPRM_ARGC: "linux_binprm"."argc";
            OFF_BPRM_BUF: "linux_binprm"."buf";
            OFF_TASK_MM: "task_struct"."mm";
            OFF_TASK_FS: "task_struct"."fs";
            OFF_FS_ROOT_DENTRY: "fs_struct"."root.dentry";
            OFF_FS_ROOT_MOUNT: "fs_struct"."root.mnt";
            OFF_MM_EXE: "mm_struct"."exe_file";
            OFF_VMA_FILE: "vm_area_struct"."vm_file";
            OFF_VMA_FLAGS: "vm_area_struct"."vm_flags";
            OFF_ATTR_VALID: "iattr"."ia_valid";
            OFF_PATH_MOUNT: "path"."mnt";
            OFF_PATH_DENTRY: "path"."dentry";
            OFF_VFSMOUNT_SB: "vfsmount"."mnt_sb";
            OFF_TASK_SIGNAL: "task_struct"."signal";
            OFF_TASK_EXIT_CODE: "task_struct"."exit_code";
            OFF_SIGNAL_LIVE: "signal_struct"."live";
        }
    };
}

/// `sizeof(struct upid)`: the step of `pid.numbers`.
pub const SIZE_UPID: &str = "SIZE_UPID";

/// `sizeof(struct inode)`: overlayfs keeps its upper dentry right behind its inode.
pub const SIZE_INODE: &str = "SIZE_INODE";

/// Position of the dentry among the arguments of `inode_setattr`: 0, or 1 where an idmap
/// comes first (Linux 6.8).
pub const ARG_SETATTR: &str = "ARG_SETATTR";

/// Two random numbers that key the hash of what has been reported: a container that knew
/// them could make one report hide another.
pub const SECRETS: [&str; 2] = ["SECRET_0", "SECRET_1"];

/// One row of the table: the global's name and its (struct, field) alternatives.
pub struct Offset {
    /// Symbol of the read-only global in the probe object.
    pub global: &'static str,
    /// Where the field may be found; the first that exists counts.
    pub alternatives: &'static [(&'static str, &'static str)],
}

macro_rules! table {
    ($($global:ident: $s:literal . $f:literal $(or $s2:literal . $f2:literal)*;)*) => {
        /// Every row.
        pub const TABLE: &[Offset] = &[$(Offset {
            global: stringify!($global),
            alternatives: &[($s, $f) $(, ($s2, $f2))*],
        }),*];
    };
}
for_each_offset!(table);
