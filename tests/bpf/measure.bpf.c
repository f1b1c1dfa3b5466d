/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Calls the kfunc of kmod-bridge for what a named program maps executable, as the
 * scenario `module` says, and tells it what came back. CO-RE: one object for 6.1 and 6.12.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "cima.h"

#define PROT_EXEC 4

#define field __attribute__((preserve_access_index))

struct file {
} field;

struct mm_struct {
	struct file *exe_file;
} field;

struct task_struct {
	struct mm_struct *mm;
} field;

extern int cima_measure_file(struct file *file, void *measurement, __u32 measurement__sz) __ksym;

char LICENSE[] SEC("license") = "GPL";

/* What the scenario says. */
struct settings {
	char comm[16];			/* of the tasks that are measured */
	__u32 one_byte_short;		/* the size of the measurement is wrong */
	__u32 unused;
	struct cima_measurement measurement;
};

/* What came back. */
struct told {
	__s64 returned;
	struct cima_measurement measurement;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} told SEC(".maps");

/* As probes had it that knew of no images: what the scenario `lister` has an agent find. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64[6]);
} old_namespaces SEC(".maps");

static int is_meant(const struct settings *settings)
{
	char comm[16] = {};

	bpf_get_current_comm(comm, sizeof(comm));
	for (int i = 0; i < 16; i++)
		if (comm[i] != settings->comm[i])
			return 0;
	return 1;
}

SEC("lsm.s/mmap_file")
int BPF_PROG(measure, struct file *file, unsigned long reqprot, unsigned long prot,
	     unsigned long flags, int verdict)
{
	struct told record = {};
	struct settings *said;
	__u32 zero = 0;

	if (verdict || !(prot & PROT_EXEC))
		return verdict;
	said = bpf_map_lookup_elem(&settings, &zero);
	if (!said || !is_meant(said))
		return 0;
	record.measurement = said->measurement;
	if (said->one_byte_short)
		record.returned = cima_measure_file(file, &record.measurement,
						    sizeof(record.measurement) - 1);
	else
		record.returned = cima_measure_file(file, &record.measurement,
						    sizeof(record.measurement));
	bpf_ringbuf_output(&told, &record, sizeof(record), 0);
	return 0;
}

/* The verifier must refuse the rest. */

SEC("lsm/mmap_file")
int not_sleepable(void *ctx)
{
	struct cima_measurement measurement = {};

	return cima_measure_file(((struct file **)ctx)[0], &measurement, sizeof(measurement));
}

/* Nobody holds a reference to another task's, nor to an own, exe_file. */
SEC("lsm.s/mmap_file")
int walked(void *ctx)
{
	struct cima_measurement measurement = {};
	struct task_struct *task = bpf_get_current_task_btf();

	cima_measure_file(task->mm->exe_file, &measurement, sizeof(measurement));
	return 0;
}

SEC("lsm.s/mmap_file")
int a_number(void *ctx)
{
	struct cima_measurement measurement = {};

	cima_measure_file((void *)0x1234, &measurement, sizeof(measurement));
	return 0;
}

SEC("lsm.s/mmap_file")
int too_long(void *ctx)
{
	struct cima_measurement measurement = {};

	cima_measure_file(((struct file **)ctx)[0], &measurement, 2 * sizeof(measurement));
	return 0;
}

SEC("fentry/__x64_sys_getpgid")
int not_lsm(void *ctx)
{
	struct cima_measurement measurement = {};

	cima_measure_file((void *)0, &measurement, sizeof(measurement));
	return 0;
}
