/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the scenario `module` does to /dev/cima, system call by system call:
 *
 *   submit NAME PAYLOAD     one entry; says LISTED or the errno's name
 *   inherited FD NAME PAYLOAD    the same by a descriptor that is open
 *   unload                  delete_module(2) without waiting; says OK or the errno's name
 *   hold                    opens it, says "ready" and waits for a line
 *   refusals                everything that must be refused, and how; fails if it is not
 *   storm PROCESSES ENTRIES each writes that many, 255 at most, at once; says how many are listed
 *   kill SECONDS            writers that are killed, closed and forked under way
 *   pester SECONDS          opens, writes and closes whether it is there or not
 *   fuzz SECONDS SEED       random calls with random arguments
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cima.h"

static int opened(int flags)
{
	int fd = open(CIMA_DEVICE, flags | O_CLOEXEC);

	if (fd < 0) {
		puts(strerrorname_np(errno));
		exit(0);
	}
	return fd;
}

static long submit(int fd, const char *name, const char *payload)
{
	struct cima_entry entry = { CIMA_ENTRY_VERSION, strlen(name), strlen(payload), 0 };
	struct iovec parts[] = {
		{ &entry, sizeof(entry) },
		{ (void *)name, entry.name_length },
		{ (void *)payload, entry.payload_length },
	};

	return writev(fd, parts, 3);
}

static int say(long result)
{
	puts(result < 0 ? strerrorname_np(errno) : "LISTED");
	return 0;
}

/* refusals */

static int failures;

static void expect(const char *what, long result, int error)
{
	int got = result < 0 ? errno : 0;

	if (got != error) {
		printf("%s: %s, not %s\n", what, got ? strerrorname_np(got) : "accepted",
		       error ? strerrorname_np(error) : "accepted");
		failures++;
	}
}

static char record[1 << 18];

/* Lays a record out at @at; its length. */
static size_t lay_out(char *at, struct cima_entry entry, const char *name, const char *payload)
{
	memcpy(at, &entry, sizeof(entry));
	memcpy(at + sizeof(entry), name, entry.name_length);
	memcpy(at + sizeof(entry) + entry.name_length, payload, entry.payload_length);
	return sizeof(entry) + entry.name_length + entry.payload_length;
}

static struct cima_entry sizes(uint32_t name, uint32_t payload)
{
	return (struct cima_entry){ CIMA_ENTRY_VERSION, name, payload, 0 };
}

static void headers(int fd)
{
	struct cima_entry good = sizes(10, 4), entry;
	size_t length = lay_out(record, good, "cima-ctx:h", "v1;h");

	expect("nothing", write(fd, record, 0), EINVAL);
	expect("a byte", write(fd, record, 1), EINVAL);
	expect("a header less a byte", write(fd, record, sizeof(good) - 1), EINVAL);
	expect("a header alone", write(fd, record, sizeof(good)), EINVAL);
	expect("a byte too few", write(fd, record, length - 1), EINVAL);
	expect("a byte too many", write(fd, record, length + 1), EINVAL);
	expect("all of a large buffer", write(fd, record, sizeof(record)), EINVAL);
#define TRY(what, field, value, error) \
	entry = good; entry.field = (value); memcpy(record, &entry, sizeof(entry)); \
	expect(what, write(fd, record, length), error)
	TRY("version 0", version, 0, EINVAL);
	TRY("version 2", version, 2, EINVAL);
	TRY("a version of another byte order", version, 1 << 24, EINVAL);
	TRY("reserved 1", reserved, 1, EINVAL);
	TRY("no name", name_length, 0, EINVAL);
	TRY("no payload", payload_length, 0, EINVAL);
	TRY("a name too long", name_length, CIMA_NAME_MAX + 1, EMSGSIZE);
	TRY("a payload too long", payload_length, CIMA_PAYLOAD_MAX + 1, EMSGSIZE);
	TRY("a name of 4 GiB", name_length, UINT32_MAX, EMSGSIZE);
	TRY("a payload of 4 GiB", payload_length, UINT32_MAX, EMSGSIZE);
#undef TRY
	entry = sizes(1u << 31, (1u << 31) + 14);
	memcpy(record, &entry, sizeof(entry));
	expect("lengths whose sum wraps to the right one", write(fd, record, length), EMSGSIZE);
}

static void content(int fd)
{
	static const char *const names[] = {
		"boot_aggregate", "cima", "cima-ctx", "cima-ctx:",
		"cima-other:x", " cima-ctx:1", "CIMA-CTX:1", "cima-ctx:a b", "cima-ctx:a\nb",
		"cima-ctx:\x7f", "cima-ctx:\x80", "cima-ctx:\xff", "cima-ctx:%", "cima-ctx:%4",
		"cima-ctx:%ff", "cima-ctx:%G0", "cima-ctx:%%", "cima-ctx:\x01", "/etc/passwd",
	};
	static const char *const payloads[] = { "v", "v1", "v1:", "v2;x", " v1;x", "x", "\x30\x82" };
	struct cima_entry entry = sizes(11, 4);

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		expect(names[i], submit(fd, names[i], "v1;x"), EINVAL);
	for (size_t i = 0; i < sizeof(payloads) / sizeof(*payloads); i++)
		expect(payloads[i], submit(fd, "cima-ctx:p", payloads[i]), EINVAL);
	expect("a NUL in a name", write(fd, record, lay_out(record, entry, "cima-ctx:\0x", "v1;x")),
	       EINVAL);
	expect("a NUL in a prefix", write(fd, record, lay_out(record, entry, "cima\0ctx:xx", "v1;x")),
	       EINVAL);
	expect("an escaped name", submit(fd, "cima-ctx:%00%20%FF~!", "v1;"), 0);
	expect("any byte in a payload",
	       write(fd, record, lay_out(record, sizes(11, 6), "cima-ctx:pb", "v1;\0\xff\n")), 0);
}

static void longest(int fd)
{
	static char name[CIMA_NAME_MAX + 1], payload[CIMA_PAYLOAD_MAX + 1];

	memset(name, 'n', CIMA_NAME_MAX);
	memcpy(name, "cima-ctx:", 9);
	memset(payload, 'p', CIMA_PAYLOAD_MAX);
	memcpy(payload, "v1;", 3);
	expect("the longest name and payload", submit(fd, name, payload), 0);
	expect("the longest name and payload again", submit(fd, name, payload), EEXIST);
}

/* Memory of two pages of which the second cannot be read. */
static char *edge(void)
{
	long page = sysconf(_SC_PAGESIZE);
	char *at = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED || mprotect(at + page, page, PROT_NONE))
		exit(2);
	return at + page;
}

static void pointers(int fd)
{
	struct cima_entry entry = sizes(11, 200);
	char payload[201], *end = edge(), *huge;
	size_t length;

	memset(payload, 'q', 200);
	memcpy(payload, "v1;", 4);
	payload[3] = 'q';
	length = lay_out(record, entry, "cima-ctx:e1", payload);
	expect("a null pointer", syscall(SYS_write, fd, NULL, length), EFAULT);
	expect("a kernel address", write(fd, (void *)0xffffffff81000000ul, length), EFAULT);
	expect("a non-canonical address", write(fd, (void *)0x8000000000000000ul, length), EFAULT);
	expect("memory that ends in the header", write(fd, memcpy(end - 8, record, 8), length), EFAULT);
	expect("memory that ends in the name", write(fd, memcpy(end - 20, record, 20), length), EFAULT);
	expect("memory that ends in the payload", write(fd, memcpy(end - length + 1, record, length - 1), length),
	       EFAULT);
	expect("memory that ends with the record", write(fd, memcpy(end - length, record, length), length), 0);
	for (int shift = 1; shift < 16; shift++) {
		char name[12];

		snprintf(name, sizeof(name), "cima-ctx:u%c", 'a' + shift);
		lay_out(record + shift, entry, name, payload);
		expect("an unaligned record", write(fd, record + shift, length), 0);
	}
	huge = mmap(NULL, 1ul << 32, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	expect("4 GiB of zeros", write(fd, huge, 1ul << 32), EINVAL);
	expect("more than there is", syscall(SYS_write, fd, record, INT64_MAX), EFAULT);
}

static void pieces(int fd)
{
	struct iovec parts[1024] = {};
	size_t length = lay_out(record, sizes(11, 4), "cima-ctx:v1", "v1;v");

	for (size_t i = 0; i < length; i++)
		parts[2 * i] = (struct iovec){ record + i, 1 };
	expect("a record in pieces of a byte, some of none", writev(fd, parts, 1024), 0);
	parts[2 * length - 2].iov_base = (void *)8;
	record[sizeof(struct cima_entry) + 10] = '2';
	expect("whose last piece cannot be read", writev(fd, parts, 1024), EFAULT);
	expect("no pieces at all", writev(fd, parts, 0) ? -1 : 0, 0);
}

static void calls(int fd)
{
	char text[64] = {};
	int pipes[2], reader = open(CIMA_DEVICE, O_RDONLY);
	struct pollfd poll_it = { fd, POLLIN | POLLOUT, 0 };
	struct iovec part = { record, lay_out(record, sizes(11, 4), "cima-ctx:c1", "v1;c") };

	expect("write to a descriptor for reading", write(reader, part.iov_base, part.iov_len), EBADF);
	expect("read", read(fd, text, sizeof(text)), EINVAL);
	expect("lseek", lseek(fd, 0, SEEK_SET), ESPIPE);
	expect("pwrite", pwrite(fd, part.iov_base, part.iov_len, 0), ESPIPE);
	expect("a write that does not wait", pwritev2(fd, &part, 1, -1, RWF_NOWAIT), EOPNOTSUPP);
	expect("mmap", mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0, ENODEV);
	expect("an ioctl", ioctl(fd, _IOWR('c', 1, long), text), ENOTTY);
	expect("fsync", fsync(fd), EINVAL);
	expect("ftruncate", ftruncate(fd, 0), EINVAL);
	expect("poll", poll(&poll_it, 1, 0) == 1 ? 0 : -1, 0);
	if (pipe(pipes) || write(pipes[1], part.iov_base, part.iov_len) < 0)
		exit(2);
	expect("splice", splice(pipes[0], NULL, fd, NULL, part.iov_len, 0), EINVAL);
	expect("the same record by write", write(fd, part.iov_base, part.iov_len), 0);
	close(reader);
}

static int refusals(void)
{
	int fd = opened(O_RDWR);

	headers(fd);
	content(fd);
	longest(fd);
	pointers(fd);
	pieces(fd);
	calls(fd);
	return failures != 0;
}

/* storm, kill, pester */

static int storm(int processes, int entries)
{
	long listed = 0;

	for (int p = 0; p < processes; p++) {
		if (fork())
			continue;
		int fd = opened(O_WRONLY), done = 0;

		for (int e = 0; e < entries; e++) {
			char name[64];

			snprintf(name, sizeof(name), "cima-ctx:storm-%d-%d", p, e);
			/* Every tenth is one that all of them submit. */
			if (e % 10 == 0)
				snprintf(name, sizeof(name), "cima-ctx:storm-%d", e);
			done += submit(fd, name, "v1;storm") > 0;
		}
		_exit(done);
	}
	for (int p = 0; p < processes; p++) {
		int status;

		if (wait(&status) < 0 || !WIFEXITED(status))
			return 1;
		listed += WEXITSTATUS(status);
	}
	printf("%ld\n", listed);
	return 0;
}

static time_t deadline(const char *seconds)
{
	return time(NULL) + atoi(seconds);
}

static int shared_fd;

static void *closer(void *unused)
{
	(void)unused;
	usleep(rand() % 3000);
	close(shared_fd);
	return NULL;
}

/* A process with a descriptor of its parent's that one thread writes to and one closes. */
static void written_and_closed(int number)
{
	pthread_t thread;
	char name[64];

	pthread_create(&thread, NULL, closer, NULL);
	for (int i = 0; i < 5; i++) {
		snprintf(name, sizeof(name), "cima-ctx:kill-%d-%d", number, i);
		submit(shared_fd, name, "v1;kill");
	}
	pthread_join(thread, NULL);
	_exit(0);
}

static int kill_writers(const char *seconds)
{
	time_t until = deadline(seconds);
	int number = 0;

	while (time(NULL) < until) {
		pid_t children[8];

		shared_fd = opened(O_WRONLY);
		for (int c = 0; c < 8; c++) {
			children[c] = fork();
			srand(number);
			if (!children[c])
				written_and_closed(number);
			number++;
		}
		close(shared_fd);
		for (int c = 0; c < 8; c++) {
			if (c % 2) {
				usleep(rand() % 4000);
				kill(children[c], SIGKILL);
			}
			waitpid(children[c], NULL, 0);
		}
	}
	printf("%d\n", number);
	return 0;
}

static int pester(const char *seconds)
{
	time_t until = deadline(seconds);
	long entries = 0;
	char name[64];

	while (time(NULL) < until) {
		int fd = open(CIMA_DEVICE, O_WRONLY | O_CLOEXEC);
		int counter = open("/sys/class/misc/cima/counters/listed", O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			snprintf(name, sizeof(name), "cima-ctx:pester-%ld", entries % 100);
			entries += submit(fd, name, "v1;pester") > 0 || errno == EEXIST;
		}
		if (counter >= 0)
			(void)!read(counter, name, sizeof(name));
		close(counter);
		close(fd);
		usleep(2000);
	}
	printf("%ld\n", entries);
	return 0;
}

/* fuzz */

static uint64_t state;

static uint64_t any(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* A number that is more often near an edge than not. */
static uint64_t odd(void)
{
	static const uint64_t edges[] = {
		0, 1, 15, 16, 17, 4095, 4096, CIMA_NAME_MAX, CIMA_NAME_MAX + 1, CIMA_PAYLOAD_MAX,
		CIMA_PAYLOAD_MAX + 1, 1u << 31, UINT32_MAX, 1ul << 32, INT64_MAX, UINT64_MAX,
	};

	return any() % 3 ? edges[any() % 16] + any() % 3 - 1 : any();
}

static void *odd_pointer(void)
{
	switch (any() % 6) {
	case 0:
		return (void *)odd();
	case 1:
		return (void *)(0xffff888000000000ul + any() % (1ul << 30));
	default:
		return record + any() % 4096;
	}
}

/* A record that is wrong somewhere, or nowhere. */
static size_t odd_record(char *at)
{
	static const char *const prefixes[] = {
		CIMA_NAME_AGENT, CIMA_NAME_SINK, CIMA_NAME_IMAGE, CIMA_NAME_CONTEXT,
		CIMA_NAME_VIOLATION, "cima-exec:",
	};
	const char *prefix = prefixes[any() % 6];
	uint32_t name = strlen(prefix) + any() % 64, payload = 3 + any() % 512;
	struct cima_entry entry = sizes(name, payload);
	size_t length = sizeof(entry) + name + payload;

	memcpy(at, &entry, sizeof(entry));
	for (uint32_t i = 0; i < name + payload; i++)
		at[sizeof(entry) + i] = 'a' + any() % 16;
	memcpy(at + sizeof(entry), prefix, strlen(prefix));
	memcpy(at + sizeof(entry) + name, "v1;", 3);
	if (any() % 4)
		at[any() % length] = any();
	if (any() % 4 == 0)
		((uint32_t *)at)[any() % 4] = odd();
	if (any() % 4 == 0)
		length = odd();
	return length;
}

static long odd_call(int fd)
{
	struct iovec parts[8];
	struct pollfd poll_it = { fd, any(), 0 };
	void *at;

	switch (any() % 10) {
	case 0:
		return ioctl(fd, odd(), odd_pointer());
	case 1:
		return lseek(fd, odd(), any() % 6);
	case 2:
		at = mmap(NULL, 1 + odd() % (1 << 20), any() % 8, any() % 4, fd, odd() & ~4095ul);
		return at == MAP_FAILED ? -1 : munmap(at, 4096);
	case 3:
		return poll(&poll_it, 1, 0);
	case 4:
		return syscall(SYS_read, fd, odd_pointer(), odd() % 4096);
	case 5:
		for (int i = 0; i < 8; i++)
			parts[i] = (struct iovec){ odd_pointer(), odd() % 4096 };
		return syscall(SYS_pwritev2, fd, parts, odd() % 12, any() % 2 ? UINT64_MAX : odd(), 0, any() % 64);
	case 6:
		return syscall(SYS_write, fd, odd_pointer(), odd());
	case 7:
		return fcntl(fd, F_SETFL, (int)(any() & (O_NONBLOCK | O_APPEND | O_DIRECT)));
	default:
		return write(fd, record, odd_record(record));
	}
}

static int fuzz(const char *seconds, const char *seed)
{
	time_t until = deadline(seconds);
	unsigned long calls = 0, succeeded = 0;

	for (int p = 0; p < 3; p++) {
		if (fork())
			continue;
		state = strtoul(seed, NULL, 0) * 3 + p + 1;
		for (; time(NULL) < until; calls++) {
			int fd = opened(any() % 4 ? O_RDWR : O_WRONLY | O_NONBLOCK);

			for (int i = 0; i < 64; i++, calls++)
				succeeded += odd_call(fd) >= 0;
			close(fd);
		}
		printf("%lu calls, %lu succeeded\n", calls, succeeded);
		fflush(stdout);
		_exit(0);
	}
	for (int p = 0; p < 3; p++) {
		int status;

		if (wait(&status) < 0 || status)
			return 1;
	}
	return 0;
}

static int hold(void)
{
	char line[16];

	opened(O_WRONLY);
	puts("ready");
	fflush(stdout);
	(void)!fgets(line, sizeof(line), stdin);
	return 0;
}

static int unload(void)
{
	puts(syscall(SYS_delete_module, "cima", O_NONBLOCK) ? strerrorname_np(errno) : "OK");
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "submit") && argc == 4)
		return say(submit(opened(O_WRONLY), argv[2], argv[3]));
	if (!strcmp(what, "inherited") && argc == 5)
		return say(submit(atoi(argv[2]), argv[3], argv[4]));
	if (!strcmp(what, "unload"))
		return unload();
	if (!strcmp(what, "hold"))
		return hold();
	if (!strcmp(what, "refusals"))
		return refusals();
	if (!strcmp(what, "storm") && argc == 4)
		return storm(atoi(argv[2]), atoi(argv[3]));
	if (!strcmp(what, "kill") && argc == 3)
		return kill_writers(argv[2]);
	if (!strcmp(what, "pester") && argc == 3)
		return pester(argv[2]);
	if (!strcmp(what, "fuzz") && argc == 4)
		return fuzz(argv[2], argv[3]);
	fprintf(stderr, "It takes no \"%s\" like this: see the head of tests/device/device.c.\n", what);
	return 2;
}
