// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/cima, by which root submits the agent's own entries, and the counters
 * in /sys/class/misc/cima/counters.
 *
 * Who: CAP_SYS_ADMIN in the initial user namespace, asked at open and again at
 * each write, so that a descriptor which leaks to a lesser process is of no use.
 *
 * Concurrency: no state is kept between writes or per descriptor; each has its
 * own copy of its record, and IMA puts the entries in line. stream_open() keeps
 * writers of one descriptor from waiting for each other at the file position.
 *
 * Lifetime: each open descriptor holds a reference to the module (.owner), so
 * rmmod is refused until the last is closed. misc_deregister() takes misc_mtx,
 * under which misc_open() takes that reference, and waits for readers of the
 * counters (kernfs drains active references).
 */
#include <linux/capability.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/uio.h>

#include "cima.h"

static const char * const allowed_names[] = {
	CIMA_NAME_AGENT, CIMA_NAME_EXEC, CIMA_NAME_SINK, CIMA_NAME_IMAGE,
	CIMA_NAME_CONTEXT, CIMA_NAME_VIOLATION,
};

static bool is_allowed_name(const char *name, size_t length)
{
	size_t i, prefix;

	for (i = 0; i < ARRAY_SIZE(allowed_names); i++) {
		/* @name has a NUL behind it: longer prefixes end there. */
		prefix = str_has_prefix(name, allowed_names[i]);
		if (prefix)
			return length > prefix &&
			       cima_is_name(name + prefix, length - prefix);
	}
	return false;
}

static bool is_allowed_payload(const char *payload, size_t length)
{
	const size_t prefix = sizeof(CIMA_PAYLOAD_PREFIX) - 1;

	return length >= prefix && !memcmp(payload, CIMA_PAYLOAD_PREFIX, prefix);
}

/* Sizes that fit each other and @count, the length of the whole record. */
static int check_sizes(const struct cima_entry *entry, size_t count)
{
	if (entry->version != CIMA_ENTRY_VERSION || entry->reserved)
		return -EINVAL;
	if (!entry->name_length || !entry->payload_length)
		return -EINVAL;
	if (entry->name_length > CIMA_NAME_MAX ||
	    entry->payload_length > CIMA_PAYLOAD_MAX)
		return -EMSGSIZE;
	/* Both are below 2^22 here: the sum cannot wrap. */
	if (count - sizeof(*entry) != entry->name_length + entry->payload_length)
		return -EINVAL;
	return 0;
}

/*
 * The next @length bytes and a NUL. kmalloc() and not kvmalloc(): cima_list()
 * wants linear memory.
 */
static char *copy_part(struct iov_iter *from, size_t length)
{
	char *part = kmalloc(length + 1, GFP_KERNEL);

	if (!part)
		return ERR_PTR(-ENOMEM);
	if (!copy_from_iter_full(part, length, from)) {
		kfree(part);
		return ERR_PTR(-EFAULT);
	}
	part[length] = '\0';
	return part;
}

/* Counts what never came to IMA. */
static int refuse(int error)
{
	atomic64_inc(error == -ENOMEM ? &cima_counters.failed : &cima_counters.refused);
	return error;
}

/* Everything is copied first and judged by the copy, which nobody else sees. */
static int submit(const struct cima_entry *entry, struct iov_iter *from)
{
	char *name, *payload;
	int error;

	name = copy_part(from, entry->name_length);
	if (IS_ERR(name))
		return refuse(PTR_ERR(name));
	payload = copy_part(from, entry->payload_length);
	if (IS_ERR(payload)) {
		error = refuse(PTR_ERR(payload));
		goto free_name;
	}
	if (is_allowed_name(name, entry->name_length) &&
	    is_allowed_payload(payload, entry->payload_length))
		error = cima_list(name, payload, entry->payload_length);
	else
		error = refuse(-EINVAL);
	kfree(payload);
free_name:
	kfree(name);
	return error;
}

static ssize_t cima_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	size_t count = iov_iter_count(from);
	struct cima_entry entry;
	int error;

	if (!capable(CAP_SYS_ADMIN))
		return refuse(-EPERM);
	if (count < sizeof(entry))
		return refuse(-EINVAL);
	if (!copy_from_iter_full(&entry, sizeof(entry), from))
		return refuse(-EFAULT);
	error = check_sizes(&entry, count);
	if (error)
		return refuse(error);
	error = submit(&entry, from);
	return error ?: count;
}

static int cima_open(struct inode *inode, struct file *file)
{
	if (!capable(CAP_SYS_ADMIN))
		return refuse(-EPERM);
	return stream_open(inode, file);
}

static const struct file_operations cima_operations = {
	.owner		= THIS_MODULE,
	.open		= cima_open,
	.write_iter	= cima_write_iter,
};

static ssize_t counter_show(struct device *dev, struct device_attribute *attr,
			    char *out)
{
	struct dev_ext_attribute *ext =
		container_of(attr, struct dev_ext_attribute, attr);

	return sysfs_emit(out, "%lld\n", atomic64_read(ext->var));
}

#define COUNTER(_name) \
	static struct dev_ext_attribute counter_##_name = { \
		.attr = __ATTR(_name, 0444, counter_show, NULL), \
		.var = &cima_counters._name, \
	}

COUNTER(listed);
COUNTER(repeated);
COUNTER(unmatched);
COUNTER(failed);
COUNTER(hash_failed);
COUNTER(refused);

static struct attribute *counter_attributes[] = {
	&counter_listed.attr.attr,
	&counter_repeated.attr.attr,
	&counter_unmatched.attr.attr,
	&counter_failed.attr.attr,
	&counter_hash_failed.attr.attr,
	&counter_refused.attr.attr,
	NULL,
};

static const struct attribute_group counter_group = {
	.name	= "counters",
	.attrs	= counter_attributes,
};

static const struct attribute_group *device_groups[] = {
	&counter_group,
	NULL,
};

static struct miscdevice cima_device = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "cima",
	.fops	= &cima_operations,
	.mode	= 0600,
	.groups	= device_groups,
};

int cima_device_register(void)
{
	return misc_register(&cima_device);
}

void cima_device_unregister(void)
{
	misc_deregister(&cima_device);
}
