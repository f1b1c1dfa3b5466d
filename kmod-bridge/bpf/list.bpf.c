/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Has the kernel list what the probes (ebpf-probes/) have measured in the same
 * hook: Rust cannot declare the module's function. Attached before them, and so
 * run after them: bpf_trampoline_link_prog() puts the newest first (6.1 and 6.12).
 * CO-RE: one object for both.
 *
 * One event, one hash: the digest comes along. Whom nothing was handed for had
 * nothing new to say, and leaves after one look into a map. What is there was
 * handed in this very hook: the probes begin by removing what an earlier one
 * left, where a program between them and this refused.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "cima.h"

#define PROT_EXEC 4

#define field __attribute__((preserve_access_index))

struct file {
} field;

struct linux_binprm {
	struct file *file;
} field;

extern int cima_measure_file(struct file *file, void *measurement, __u32 measurement__sz) __ksym;

char LICENSE[] SEC("license") = "GPL";

/* Handed in ebpf-probes/abi. */
struct report {
	__u64 words[5];
};

struct handed {
	__u64 file;
	struct report report;
	__u64 is_last_word;
	struct cima_measurement measurement;
};

/* The probes' map, by bpf_get_current_pid_tgid(). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct handed);
} HANDED SEC(".maps");

/* The probes', too: what need not be said again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 17);
	__type(key, struct report);
	__type(value, __u64);
} SAID SEC(".maps");

#define EEXIST 17

/*
 * What the module returns is counted there (/sys/class/misc/cima/counters); the
 * agent finds what was not listed, and has it listed by the device. Only what is
 * listed need not be said again: a task that executes the same meanwhile comes
 * here, too, and waits.
 */
static __always_inline void list(struct file *file)
{
	__u64 task = bpf_get_current_pid_tgid(), one = 1;
	struct handed *there = bpf_map_lookup_elem(&HANDED, &task);
	struct handed handed;
	int error;

	if (!there)
		return;
	handed = *there;
	/* Before the TPM: others need the room meanwhile. */
	bpf_map_delete_elem(&HANDED, &task);
	/* The same hook, so the same file, or none where it could not be filled. */
	if (!file || handed.file != (__u64)file)
		return;
	error = cima_measure_file(file, &handed.measurement, sizeof(handed.measurement));
	if (handed.is_last_word && (!error || error == -EEXIST))
		bpf_map_update_elem(&SAID, &handed.report, &one, BPF_ANY);
}

/* int mmap_file(struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags) */
SEC("lsm.s/mmap_file")
int list_mmap_file(__u64 *ctx)
{
	/* The probes look at no other mapping, and remove nothing there. */
	if (ctx[2] & PROT_EXEC)
		list((struct file *)ctx[0]);
	return (int)ctx[4];
}

/* int bprm_check_security(struct linux_binprm *bprm) */
SEC("lsm.s/bprm_check_security")
int list_bprm_check(__u64 *ctx)
{
	struct linux_binprm *bprm = (struct linux_binprm *)ctx[0];

	list(bprm->file);
	return (int)ctx[1];
}

/* int kernel_read_file(struct file *file, enum kernel_read_file_id id, bool contents) */
SEC("lsm.s/kernel_read_file")
int list_kernel_read(__u64 *ctx)
{
	list((struct file *)ctx[0]);
	return (int)ctx[3];
}
