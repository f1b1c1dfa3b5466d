// SPDX-License-Identifier: GPL-2.0-only
/*
 * Entries: which names are allowed, and how one comes into IMA's list.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ctype.h>
#include <linux/ima.h>
#include <linux/kernel.h>
#include <linux/printk.h>
#include <linux/string.h>

#include "cima.h"

struct cima_counters cima_counters;

/* A byte that stands for itself in a name: docs/FORMATS.md. */
static bool is_plain(unsigned char byte)
{
	return byte > ' ' && byte < 0x7f && byte != '%';
}

static bool is_upper_hex(char byte)
{
	return isdigit(byte) || (byte >= 'A' && byte <= 'F');
}

/*
 * Whether the rest of a name cannot be taken for anything else: IMA's ASCII
 * list ends a line at any newline and shows a space as "_".
 */
bool cima_is_name(const char *name, size_t length)
{
	size_t i;

	for (i = 0; i < length; i++) {
		if (is_plain(name[i]))
			continue;
		if (name[i] != '%' || length - i < 3 ||
		    !is_upper_hex(name[i + 1]) || !is_upper_hex(name[i + 2]))
			return false;
		i += 2;
	}
	return true;
}

/*
 * Writes a path as names have it, and a NUL behind it. @out has room for three
 * times its length and the NUL.
 */
size_t cima_escape(char *out, const char *path)
{
	char *at = out;

	for (; *path; path++) {
		if (is_plain(*path)) {
			*at++ = *path;
		} else {
			*at++ = '%';
			at = hex_byte_pack_upper(at, *path);
		}
	}
	*at = '\0';
	return at - out;
}

/*
 * Puts an entry into IMA's list, and returns when the TPM has extended PCR 10
 * (or whatever the rule's pcr= says). May sleep for as long as that takes.
 *
 * @payload must be linear memory, not vmalloc's: with ima.ahash_minsize= IMA
 * hashes it by way of a scatterlist (calc_buffer_ahash() in
 * security/integrity/ima/ima_crypto.c, 6.1 and 6.12). IMA copies both.
 *
 * Concurrency: IMA takes ima_extend_list_mutex around list and TPM, so entries
 * of many callers come one after the other, in the same order to both.
 *
 * A TPM that fails is not told of: ima_add_template_entry() audits the error
 * and returns success, since the entry is in the list (ima_queue.c, 6.1 and
 * 6.12). A verifier sees that list and PCR do not fit.
 */
int cima_list(const char *name, const void *payload, size_t length)
{
	int error = ima_measure_critical_data(CIMA_LABEL, name, payload, length,
					      false, NULL, 0);

	switch (error) {
	case 0:
		atomic64_inc(&cima_counters.listed);
		break;
	case -EEXIST:
		atomic64_inc(&cima_counters.repeated);
		break;
	case -ENOENT:
		atomic64_inc(&cima_counters.unmatched);
		pr_warn_once("nothing is listed: no IMA rule has func=CRITICAL_DATA label=%s\n",
			     CIMA_LABEL);
		break;
	default:
		atomic64_inc(&cima_counters.failed);
		pr_warn_ratelimited("an entry was not listed: error %d\n", error);
	}
	return error;
}
