// SPDX-License-Identifier: GPL-2.0-only
/*
 * cima's entries in IMA's list and PCR 10, from inside the kernel: what BPF
 * programs saw (kfunc.c) and what the agent says (device.c).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/build_bug.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/printk.h>

#include "cima.h"

/* User space and BPF programs have these structures in their own files. */
static_assert(sizeof(struct cima_entry) == 16);
static_assert(sizeof(struct cima_measurement) == 112);

/*
 * A module that was built without BTF would load on 6.12 without its kfunc and
 * with a line in the log (__register_btf_kfunc_id_set() in kernel/bpf/btf.c).
 */
static bool has_btf(void)
{
#ifdef CONFIG_DEBUG_INFO_BTF_MODULES
	return THIS_MODULE->btf_data_size;
#else
	return false;
#endif
}

static int __init cima_init(void)
{
	int error;

	if (!has_btf()) {
		pr_err("built without BTF, or for a kernel without: BPF programs could not call it\n");
		return -ENOEXEC;
	}
	/*
	 * Nobody can call it before this function is done: the verifier takes
	 * kfuncs of live modules only (btf_try_get_module() in kernel/bpf/btf.c).
	 */
	error = cima_kfunc_register();
	if (error) {
		pr_err("the kernel does not take the kfunc: error %d\n", error);
		return error;
	}
	return cima_device_register();
}

static void __exit cima_exit(void)
{
	cima_device_unregister();
}

module_init(cima_init);
module_exit(cima_exit);

MODULE_DESCRIPTION("Container integrity measurements in IMA's list");
MODULE_AUTHOR("The cima authors");
MODULE_VERSION("0.1.0");
MODULE_LICENSE("GPL");
