/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What scenarios do to files, memory and namespaces: one act after
 * the other, as the arguments name them, on one file and one mapping at a time.
 *
 *   open PATH          for reading          write PATH        for writing, too
 *   direct PATH        with O_DIRECT        memfd NAME        with room for seals
 *   fill PATH          copies PATH into the file
 *   seal               so that nobody can write it any more
 *   map PROT           private, of the file; PROT is some of "rwx"
 *   share              shared and writable, of the file
 *   anonymous PROT     memory without a file
 *   protect PROT       changes the mapping
 *   close              the file; the mapping stays
 *   unmap              the mapping; the file stays
 *   put TEXT           writes TEXT over the end of the file, by pwrite
 *   store TEXT         the same by stores into the mapping, without any system call
 *   truncate PATH      by path: the last byte goes, and comes back as a zero
 *   uring PATH TEXT    the same by io_uring, which opens the file, too
 *   run                executes the file, by its descriptor
 *   segment            shared memory of System V, attached to be executed
 *   module             gives the file to finit_module(2), which unpacks it
 *   load               gives memory to init_module(2)
 *   unshare FLAGS      by unshare(2); FLAGS are CLONE_NEW* as a number
 *   clone FLAGS        by clone3(2); the child goes on with the acts, its parent waits
 *   fork               the same without flags
 *   execute PATH       becomes that program
 *   wait               says "ready" and waits for a line
 *   ignore             what the next act fails with, if it does
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int file = -1;
static char *memory;
static size_t length;
static int forgiving;

static void check(const char *what, long result)
{
	if (result >= 0 || forgiving) {
		forgiving = 0;
		return;
	}
	perror(what);
	exit(2);
}

static off_t size(int fd)
{
	struct stat stat;

	check("fstat", fstat(fd, &stat));
	return stat.st_size;
}

static int prot(const char *letters)
{
	return (strchr(letters, 'r') ? PROT_READ : 0) |
	       (strchr(letters, 'w') ? PROT_WRITE : 0) |
	       (strchr(letters, 'x') ? PROT_EXEC : 0);
}

static void map(int prot, int flags)
{
	length = file < 0 ? 0 : (size_t)size(file);
	if (length == 0)
		length = 4096;
	memory = mmap(NULL, length, prot, flags | (file < 0 ? MAP_ANONYMOUS : 0), file, 0);
	check("mmap", memory == MAP_FAILED ? -1 : 0);
}

static void fill(const char *path)
{
	int from = open(path, O_RDONLY);
	char part[65536];
	ssize_t n;

	check(path, from);
	while ((n = read(from, part, sizeof part)) > 0)
		check("write", write(file, part, n));
	check("close", close(from));
}

static void cut(const char *path)
{
	struct stat was;

	check(path, stat(path, &was));
	check("truncate", truncate(path, was.st_size - 1));
	check("truncate", truncate(path, was.st_size));
}

static void run(void)
{
	static char *const words[] = { "act", NULL };
	int status = 0;
	pid_t child = fork();

	check("fork", child);
	if (child == 0) {
		syscall(SYS_execveat, file, "", words, NULL, AT_EMPTY_PATH);
		_exit(errno);
	}
	check("wait", waitpid(child, &status, 0));
	errno = WEXITSTATUS(status);
	check("execveat", status ? -1 : 0);
}

/* One ring for one request at a time. */
static struct {
	int fd;
	struct io_uring_params params;
	char *sq, *cq;
	struct io_uring_sqe *requests;
} ring;

static void set_up(void)
{
	if (ring.requests)
		return;
	ring.fd = syscall(SYS_io_uring_setup, 4, &ring.params);
	check("io_uring_setup", ring.fd);
	ring.sq = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	ring.cq = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_CQ_RING);
	ring.requests = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQES);
	check("mmap of the ring",
	      ring.sq == MAP_FAILED || ring.cq == MAP_FAILED || ring.requests == MAP_FAILED ? -1 : 0);
}

static int request(struct io_uring_sqe sqe)
{
	unsigned *tail = (unsigned *)(ring.sq + ring.params.sq_off.tail);
	unsigned mask = *(unsigned *)(ring.sq + ring.params.sq_off.ring_mask);
	unsigned *array = (unsigned *)(ring.sq + ring.params.sq_off.array);
	unsigned *head = (unsigned *)(ring.cq + ring.params.cq_off.head);
	unsigned answers = *(unsigned *)(ring.cq + ring.params.cq_off.ring_mask);
	struct io_uring_cqe *cqes = (void *)(ring.cq + ring.params.cq_off.cqes);
	int result;

	ring.requests[*tail & mask] = sqe;
	array[*tail & mask] = *tail & mask;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	check("io_uring_enter",
	      syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0));
	result = cqes[*head & answers].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	errno = -result;
	check("a request of io_uring", result);
	return result;
}

static void uring(const char *path, const char *text)
{
	struct io_uring_sqe sqe = { .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD };
	int fd;

	set_up();
	sqe.addr = (unsigned long)path;
	sqe.open_flags = O_WRONLY;
	fd = request(sqe);
	sqe = (struct io_uring_sqe){ .opcode = IORING_OP_WRITE, .fd = fd };
	sqe.addr = (unsigned long)text;
	sqe.len = strlen(text);
	sqe.off = size(fd) - sqe.len;
	request(sqe);
	request((struct io_uring_sqe){ .opcode = IORING_OP_CLOSE, .fd = fd });
}

static void segment(void)
{
	int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0700);
	void *at;

	check("shmget", id);
	at = shmat(id, NULL, SHM_EXEC);
	check("shmat", at == (void *)-1 ? -1 : 0);
	check("IPC_RMID", shmctl(id, IPC_RMID, NULL));
}

/* Not an ELF object. */
static int is_packed(void)
{
	char magic;

	return pread(file, &magic, 1, 0) == 1 && magic != 0x7f;
}

/* As youki and crun do it: the new namespaces are the child's from its first instruction on. */
static void clone_with(unsigned long long flags)
{
	struct clone_args args = { .flags = flags, .exit_signal = SIGCHLD };
	long child;
	int status;

	fflush(stdout);
	check("clone3", child = syscall(SYS_clone3, &args, sizeof args));
	if (!child)
		return;
	check("waitpid", waitpid(child, &status, 0));
	exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128);
}

static void execute(char *path)
{
	char *argv[] = { path, NULL };

	execv(path, argv);
	perror(path);
	exit(126);
}

static void say(void)
{
	char line[16];

	puts("ready");
	fflush(stdout);
	if (!fgets(line, sizeof line, stdin))
		exit(0);
}

/* Acts with an argument of their own. */
static int act_with(const char *act, char *with)
{
	if (!strcmp(act, "open"))
		check(with, file = open(with, O_RDONLY));
	else if (!strcmp(act, "write"))
		check(with, file = open(with, O_RDWR));
	else if (!strcmp(act, "direct"))
		check(with, file = open(with, O_RDONLY | O_DIRECT));
	else if (!strcmp(act, "memfd"))
		check("memfd_create", file = memfd_create(with, MFD_ALLOW_SEALING));
	else if (!strcmp(act, "fill"))
		fill(with);
	else if (!strcmp(act, "map"))
		map(prot(with), MAP_PRIVATE);
	else if (!strcmp(act, "anonymous"))
		file = -1, map(prot(with), MAP_PRIVATE);
	else if (!strcmp(act, "protect"))
		check("mprotect", mprotect(memory, length, prot(with)));
	else if (!strcmp(act, "put"))
		check("pwrite", pwrite(file, with, strlen(with), size(file) - strlen(with)));
	else if (!strcmp(act, "store"))
		memcpy(memory + length - strlen(with), with, strlen(with));
	else if (!strcmp(act, "truncate"))
		cut(with);
	else if (!strcmp(act, "unshare"))
		check("unshare", unshare(strtoul(with, NULL, 0)));
	else if (!strcmp(act, "clone"))
		clone_with(strtoull(with, NULL, 0));
	else if (!strcmp(act, "execute"))
		execute(with);
	else
		return 0;
	return 1;
}

static int act_alone(const char *act)
{
	if (!strcmp(act, "seal"))
		check("F_ADD_SEALS",
		      fcntl(file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL));
	else if (!strcmp(act, "share"))
		map(PROT_READ | PROT_WRITE, MAP_SHARED);
	else if (!strcmp(act, "close"))
		check("close", close(file)), file = -1;
	else if (!strcmp(act, "unmap"))
		check("munmap", munmap(memory, length));
	else if (!strcmp(act, "run"))
		run();
	else if (!strcmp(act, "module"))
		check("finit_module", syscall(SYS_finit_module, file, "", is_packed() ? MODULE_INIT_COMPRESSED_FILE : 0));
	else if (!strcmp(act, "segment"))
		segment();
	else if (!strcmp(act, "load"))
		check("init_module", syscall(SYS_init_module, memory, length, ""));
	else if (!strcmp(act, "wait"))
		say();
	else if (!strcmp(act, "fork"))
		clone_with(0);
	else if (!strcmp(act, "ignore"))
		forgiving = 1;
	else
		return 0;
	return 1;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (act_alone(argv[i]))
			continue;
		if (i + 1 < argc && act_with(argv[i], argv[i + 1])) {
			i++;
			continue;
		}
		if (i + 2 < argc && !strcmp(argv[i], "uring")) {
			uring(argv[i + 1], argv[i + 2]);
			i += 2;
			continue;
		}
		fprintf(stderr, "%s: no such act\n", argv[i]);
		return 2;
	}
	return 0;
}
