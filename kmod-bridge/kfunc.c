// SPDX-License-Identifier: GPL-2.0-only
/*
 * cima_measure_file(), which sleepable BPF LSM programs call before a file is
 * mapped or executed: when it returns, the file is in IMA's list and the PCR.
 *
 * Which programs: sleepable ones of type LSM, loaded by root. The kernel
 * registers kfuncs for LSM and tracing programs together (6.1 and 6.12); a filter
 * tells them apart where there is one, so 6.1 admits iterators, too. They say
 * who the container is; that is as far as they are trusted. Whatever they
 * pass, names have the form of docs/FORMATS.md.
 *
 * In which hooks: those that are called without the inode's lock, IMA's or the
 * memory map's, since a hash reads the file: mmap_file, bprm_check_security and
 * kernel_read_file (6.1.192 and 6.12.117; kernels of 2024 called mmap_file with
 * the map's lock in remap_file_pages()). bpf_ima_file_hash() is no different.
 *
 * Lifetime of the file: the hook's caller holds a reference until the hook
 * returns. Since 6.2 the verifier passes trusted pointers only
 * (KF_TRUSTED_ARGS): arguments of the hook and what it knows to be as safe. In
 * 6.1 that flag means "referenced", which an argument is not, and any pointer to
 * a file is passed: a program for 6.1 must pass the hook's own argument.
 *
 * Lifetime of the module: a program that calls the kfunc holds a reference to
 * the module from its load on (add_kfunc_call() in kernel/bpf/verifier.c), so
 * the module cannot go while one might run. The registration goes with the
 * module's BTF (btf_module_notify() in kernel/bpf/btf.c).
 */
#include <crypto/hash_info.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/dcache.h>
#include <linux/err.h>
#include <linux/fcntl.h>
#include <linux/ima.h>
#include <linux/init.h>
#include <linux/limits.h>
#include <linux/magic.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/stat.h>
#include <linux/string.h>

#include "cima.h"

/* "sha256:" and 64 digits, and a NUL. */
#define PROVENANCE_ROOM	(7 + 2 * CIMA_IMAGE_SIZE + 1)
/* The longest is "sha512:" and 128 digits. */
#define DIGEST_ROOM	(7 + 2 * CIMA_DIGEST_SIZE + 1)
/* The longest is "inode=" and 20 digits, ";" and a digest. */
#define DETAIL_ROOM	(6 + 20 + 1 + DIGEST_ROOM)
/* "v1;writer;", the longest kind, and a detail. */
#define PAYLOAD_ROOM	(10 + DETAIL_ROOM)
/* "cima-violation:writer", the longest beginning, and a NUL. */
#define TRACK_ROOM	22

static_assert(CIMA_DIGEST_SIZE == 64, "%*phN prints 64 bytes at most");

/* One event and who it is of. */
struct said {
	struct cima_measurement m;
	char provenance[PROVENANCE_ROOM];
	/* As the current task sees it; NULL if it cannot be made. */
	const char *path;
};

/* Which rules are in force for the words of the caller. */
static bool makes_sense(const struct cima_measurement *m)
{
	const u32 known = CIMA_HASHED | CIMA_WRITER | CIMA_COPIED_UP;

	if (m->provenance > CIMA_IMAGE || m->flags & ~known)
		return false;
	if (m->provenance != CIMA_IMAGE && memchr_inv(m->image, 0, sizeof(m->image)))
		return false;
	return !(m->flags & CIMA_HASHED) ||
	       (m->error <= 0 && m->error >= -MAX_ERRNO);
}

static void say_provenance(struct said *said)
{
	switch (said->m.provenance) {
	case CIMA_IMAGE:
		snprintf(said->provenance, sizeof(said->provenance),
			 "sha256:%*phN", CIMA_IMAGE_SIZE, said->m.image);
		break;
	case CIMA_UNMEASURED:
		strscpy(said->provenance, "unmeasured", sizeof(said->provenance));
		break;
	default:
		strscpy(said->provenance, "unregistered", sizeof(said->provenance));
	}
}

/* Lists an entry named "@track:<image>:<path>". */
static int list(const struct said *said, const char *track, const char *payload)
{
	const char *path = said->path ?: "";
	size_t room = TRACK_ROOM + PROVENANCE_ROOM + 1 + 3 * strlen(path);
	char *name = kmalloc(room, GFP_KERNEL);
	size_t length;
	int error;

	if (!name) {
		atomic64_inc(&cima_counters.failed);
		return -ENOMEM;
	}
	length = scnprintf(name, room, "%s:%s:", track, said->provenance);
	cima_escape(name + length, path);
	error = cima_list(name, payload, strlen(payload));
	kfree(name);
	return error;
}

static int list_violation(const struct said *said, const char *kind,
			  const char *detail)
{
	char track[TRACK_ROOM], payload[PAYLOAD_ROOM];

	snprintf(track, sizeof(track), "cima-violation:%s", kind);
	snprintf(payload, sizeof(payload), "v1;%s;%s", kind, detail);
	return list(said, track, payload);
}

/*
 * A memfd or shared memory of System V that is not sealed: who writes it is
 * not counted. Internal mounts of tmpfs are shmem's own, so SHMEM_I() is right.
 */
static bool is_open_memory(struct inode *inode)
{
	const struct super_block *sb = inode->i_sb;

	if (!(sb->s_flags & SB_KERNMOUNT))
		return false;
	if (sb->s_magic == TMPFS_MAGIC)
		return !(SHMEM_I(inode)->seals & F_SEAL_WRITE);
	return sb->s_magic == HUGETLBFS_MAGIC;
}

/*
 * Whether somebody can write the content. On overlayfs writers are counted in
 * the inode of the layer (fs/overlayfs/file.c, 6.1 and 6.12).
 */
static bool has_writer(struct file *file)
{
	struct inode *inode = file_inode(file);
	struct inode *real = d_real_inode(file->f_path.dentry);

	return is_open_memory(inode) || inode_is_open_for_write(inode) ||
	       (real && inode_is_open_for_write(real));
}

/*
 * IMA's own hash of the whole file. It may be one that IMA took earlier
 * for a rule of its own. IMA forgets that when the last writer closes, before
 * the writer is counted out (ima_file_free() and put_file_access() in
 * __fput()), so of a file that nobody has open for writing it is true; but not on
 * overlayfs, where a writable mapping outlives what IMA sees of it. A rule that
 * measures files of containers brings that gap along (README.md).
 */
static void take_hash(struct file *file, struct cima_measurement *m)
{
	int algorithm;

	memset(m->digest, 0, sizeof(m->digest));
	algorithm = ima_file_hash(file, m->digest, sizeof(m->digest));
	m->error = min(algorithm, 0);
	m->algorithm = max(algorithm, 0);
}

static bool is_usable(u32 algorithm)
{
	return algorithm == HASH_ALGO_SHA256 || algorithm == HASH_ALGO_SHA384 ||
	       algorithm == HASH_ALGO_SHA512;
}

static int list_unhashed(const struct said *said, const char *what, u32 number)
{
	char detail[DETAIL_ROOM];

	atomic64_inc(&cima_counters.hash_failed);
	/* The type of a file is octal, as in its mode. */
	snprintf(detail, sizeof(detail), *what == 't' ? "%s=%o" : "%s=%u",
		 what, number);
	return list_violation(said, "hash", detail);
}

/* Lists a file whose digest is known. */
static int list_hashed(const struct said *said, const struct file *file,
		       bool writer)
{
	const struct cima_measurement *m = &said->m;
	char digest[DIGEST_ROOM], text[PAYLOAD_ROOM];

	snprintf(digest, sizeof(digest), "%s:%*phN", hash_algo_name[m->algorithm],
		 hash_digest_size[m->algorithm], m->digest);
	if (m->flags & CIMA_COPIED_UP || writer) {
		snprintf(text, sizeof(text), "%s;%s",
			 m->flags & CIMA_COPIED_UP ? "copied-up" : "open", digest);
		return list_violation(said, "writer", text);
	}
	if (!said->path) {
		snprintf(text, sizeof(text), "inode=%lu;%s",
			 file_inode(file)->i_ino, digest);
		return list_violation(said, "path", text);
	}
	snprintf(text, sizeof(text), "v1;%s", digest);
	return list(said, "cima-exec", text);
}

/* In the order of measured() in agent/src/measure/mod.rs. */
static int measure(struct said *said, struct file *file)
{
	struct cima_measurement *m = &said->m;
	umode_t type = file_inode(file)->i_mode & S_IFMT;
	bool writer;

	/* IMA hashes as many bytes as the size says: none of a device. */
	if (type != S_IFREG)
		return list_unhashed(said, "type", type);
	/* Who hashed it looked for writers then: the answer of now is another. */
	writer = m->flags & CIMA_WRITER;
	if (!(m->flags & CIMA_HASHED)) {
		writer = writer || has_writer(file);
		take_hash(file, m);
		/* Who opened it after the first look may have changed it. */
		writer = writer || has_writer(file);
	}
	if (m->error)
		return list_unhashed(said, "errno", -m->error);
	if (!is_usable(m->algorithm))
		return list_unhashed(said, "algorithm", m->algorithm);
	return list_hashed(said, file, writer);
}

static int measure_with_path(struct said *said, struct file *file)
{
	char *room = kmalloc(PATH_MAX, GFP_KERNEL);
	int error;

	if (!room) {
		atomic64_inc(&cima_counters.failed);
		return -ENOMEM;
	}
	/* The same as bpf_d_path(), " (deleted)" included. It wants a root. */
	if (current->fs)
		said->path = d_path(&file->f_path, room, PATH_MAX);
	if (IS_ERR(said->path))
		said->path = NULL;
	error = measure(said, file);
	kfree(room);
	return error;
}

/**
 * cima_measure_file - list what is executed in a container
 * @file: the argument of the hook. Released kernels tell the verifier that
 *	mmap_file's is never NULL, which it is for memory without a file, so
 *	programs cannot always tell: such a call is refused.
 * @measurement: a struct cima_measurement
 * @measurement__sz: its size, which the verifier holds @measurement against
 *
 * The caller's memory may be a map's value that others write meanwhile, so it
 * is read once and written once.
 *
 * Return: see uapi/cima.h.
 */
__bpf_kfunc int cima_measure_file(struct file *file, void *measurement,
				  u32 measurement__sz)
{
	struct said said = {};
	int error;

	if (!file || measurement__sz != sizeof(said.m)) {
		atomic64_inc(&cima_counters.refused);
		return -EINVAL;
	}
	memcpy(&said.m, measurement, sizeof(said.m));
	if (!makes_sense(&said.m)) {
		atomic64_inc(&cima_counters.refused);
		return -EINVAL;
	}
	say_provenance(&said);
	error = measure_with_path(&said, file);
	memcpy(measurement, &said.m, sizeof(said.m));
	return error;
}

/* KF_TRUSTED_ARGS as described above came with KF_RCU. */
#ifdef KF_RCU
#define CIMA_KFUNC_FLAGS (KF_SLEEPABLE | KF_TRUSTED_ARGS)
#else
#define CIMA_KFUNC_FLAGS KF_SLEEPABLE
#endif

BTF_KFUNCS_START(cima_kfunc_ids)
BTF_ID_FLAGS(func, cima_measure_file, CIMA_KFUNC_FLAGS)
BTF_KFUNCS_END(cima_kfunc_ids)

#ifdef CIMA_HAS_KFUNC_FILTER
/* Asked for every kfunc of this module that a program calls: there is one. */
static int filter(const struct bpf_prog *prog, u32 kfunc_id)
{
	return prog->type == BPF_PROG_TYPE_LSM ? 0 : -EACCES;
}
#endif

static const struct btf_kfunc_id_set cima_kfuncs = {
	.owner	= THIS_MODULE,
	.set	= &cima_kfunc_ids,
#ifdef CIMA_HAS_KFUNC_FILTER
	.filter	= filter,
#endif
};

/* There is no way back, nor need: see the lifetime of the module above. */
int __init cima_kfunc_register(void)
{
	return register_btf_kfunc_id_set(BPF_PROG_TYPE_LSM, &cima_kfuncs);
}
