/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The module's rooms: entry.c lists and counts, kfunc.c says what BPF programs
 * saw, device.c takes what the agent says, module.c wires them.
 */
#ifndef _CIMA_H
#define _CIMA_H

#include <linux/atomic.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/fs.h>
#include <linux/types.h>

#include "uapi/cima.h"

/* Kernels before 6.3. */
#ifndef __bpf_kfunc
#define __bpf_kfunc noinline
#endif
/* Kernels before 6.9. Filters of callers came with 6.4, unannounced by a macro. */
#ifdef BTF_KFUNCS_START
#define CIMA_HAS_KFUNC_FILTER
#else
#define BTF_KFUNCS_START(name) BTF_SET8_START(name)
#define BTF_KFUNCS_END(name) BTF_SET8_END(name)
#endif

/* What became of the entries; each is a file in /sys/class/misc/cima/counters. */
struct cima_counters {
	atomic64_t listed;	/* new in IMA's list */
	atomic64_t repeated;	/* were in the list already */
	atomic64_t unmatched;	/* no IMA rule matched: not listed */
	atomic64_t failed;	/* not listed for another reason */
	atomic64_t hash_failed;	/* files without a usable digest: violations */
	atomic64_t refused;	/* records of the device, calls of the kfunc */
};

extern struct cima_counters cima_counters;

bool cima_is_name(const char *name, size_t length);
size_t cima_escape(char *out, const char *path);
int cima_list(const char *name, const void *payload, size_t length);

int cima_measure_file(struct file *file, void *measurement, u32 measurement__sz);
int cima_kfunc_register(void);

int cima_device_register(void);
void cima_device_unregister(void);

#endif /* _CIMA_H */
