/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * What user space and BPF programs hand to the module cima, and what it hands
 * back. docs/FORMATS.md has the bytes that come into IMA's list.
 */
#ifndef _UAPI_CIMA_H
#define _UAPI_CIMA_H

#include <linux/types.h>

/* The label that an IMA rule names: measure func=CRITICAL_DATA label=cima */
#define CIMA_LABEL		"cima"

/*
 * The device, /dev/cima: one write(2) or writev(2) is one entry, which is
 *
 *	struct cima_entry | name | payload
 *
 * without padding, in the byte order of the machine. It returns all of the
 * length when the entry is in IMA's list and the TPM was asked to extend, or
 *
 *	EPERM		the writer has no CAP_SYS_ADMIN in the initial user namespace
 *	EINVAL		not such a record, or a name or payload that is not allowed
 *	EMSGSIZE	name or payload is too long
 *	EFAULT		memory that cannot be read
 *	EEXIST		the very same entry is in the list already
 *	ENOENT		no IMA rule matches; nothing was listed
 *	ENOMEM		no memory; nothing was listed
 *	others		as ima_measure_critical_data() gave them; nothing was listed
 *
 * A write is listed whole or not at all. It blocks while the TPM works, with
 * O_NONBLOCK, too, and no signal ends it.
 */
#define CIMA_DEVICE		"/dev/cima"
#define CIMA_ENTRY_VERSION	1

/* Bytes. A name of the longest path, every byte of it escaped, is shorter. */
#define CIMA_NAME_MAX		16383
/*
 * Bytes. The agent's batches end behind the event that makes them 1 MiB, and
 * no event has so much. IMA keeps payloads in one piece of memory that is never
 * swapped.
 */
#define CIMA_PAYLOAD_MAX	((2 << 20) - 1)

struct cima_entry {
	__u32 version;		/* CIMA_ENTRY_VERSION */
	__u32 name_length;	/* 1 to CIMA_NAME_MAX, there is no NUL */
	__u32 payload_length;	/* 1 to CIMA_PAYLOAD_MAX */
	__u32 reserved;		/* 0 */
};

/*
 * Names start with one of these and go on with printable ASCII other than
 * space; % is followed by two of 0-9A-F. Payloads start with "v1;". What was
 * executed is said by the kernel side before it runs; by the device, only what
 * that could not list, for lack of memory or since the module came later.
 */
#define CIMA_NAME_AGENT		"cima-agent:"
#define CIMA_NAME_EXEC		"cima-exec:"
#define CIMA_NAME_SINK		"cima-sink:"
#define CIMA_NAME_IMAGE		"cima-image:"
#define CIMA_NAME_CONTEXT	"cima-ctx:"
#define CIMA_NAME_VIOLATION	"cima-violation:"
#define CIMA_PAYLOAD_PREFIX	"v1;"

/*
 * The kfunc, for sleepable BPF LSM programs:
 *
 *	int cima_measure_file(struct file *file, void *measurement, u32 measurement__sz)
 *
 * Lists what a policy event says of the file: cima-exec, or cima-violation if
 * it could not be hashed, could be written, or has no path. Returns 0 when a
 * new entry is in the list and the TPM was asked to extend, or a negative
 * errno: EEXIST, ENOENT, ENOMEM and others as above, EINVAL for no file or a
 * measurement that makes no sense. Whatever it returns but EINVAL, the fields
 * marked "out" are filled.
 */
enum cima_provenance {
	CIMA_UNREGISTERED	= 0,	/* a container that no hook announced */
	CIMA_UNMEASURED		= 1,	/* announced, but its image has no digest */
	CIMA_IMAGE		= 2,	/* of the image with this digest */
};

/* The caller hashed the file: error, algorithm and digest are "in". */
#define CIMA_HASHED		0x1
/* The caller knows that somebody could write the file while it was hashed. */
#define CIMA_WRITER		0x2
/* The digest is of an overlay's upper file, what is mapped is the lower one. */
#define CIMA_COPIED_UP		0x4

#define CIMA_IMAGE_SIZE		32	/* SHA-256, image-digest/SPEC.md */
#define CIMA_DIGEST_SIZE	64	/* of the longest algorithm, SHA-512 */

struct cima_measurement {
	__u32 provenance;		/* in: enum cima_provenance */
	__u32 flags;			/* in: CIMA_HASHED and so on */
	__u8 image[CIMA_IMAGE_SIZE];	/* in: zeros unless CIMA_IMAGE */
	__s32 error;			/* out: 0, or the hash's negative errno */
	__u32 algorithm;		/* out: enum hash_algo, linux/hash_info.h */
	__u8 digest[CIMA_DIGEST_SIZE];	/* out: zeros behind the digest */
};

#endif /* _UAPI_CIMA_H */
