/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load of `cargo xtask bench`, as small as it can be: what it does itself is
 * in every figure.
 *
 *   load exec DIRECTORY same|fresh WARMUP BLOCKS RUNS
 *
 * Executes DIRECTORY/I/program and waits for it, again and again: I is always 0
 * (same), or one more each time (fresh). After WARMUP executions it says "ready"
 * and waits for a line; then it prints, for each block of RUNS executions, the
 * nanoseconds that the block took.
 *
 *   load map DIRECTORY RATE SECONDS
 *
 * Maps each file of DIRECTORY executable, in a new mount namespace, again and
 * again: whoever tells containers apart by it sees every mapping for the first
 * time. At most RATE mappings a second; 0: as many as it can. It maps each once,
 * says "ready" and waits; after SECONDS it prints how many mappings it made, and
 * the nanoseconds since boot when it began and ended.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static long long now_ns(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t))
		fail("clock_gettime");
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long number(const char *text)
{
	char *end;
	long n = strtol(text, &end, 10);

	if (*end || n < 0) {
		fprintf(stderr, "%s is not a count\n", text);
		exit(2);
	}
	return n;
}

/* Says that all is prepared, and waits for the word to go. */
static void wait_for_go(void)
{
	char line[16];

	puts("ready");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		fail("the word to go");
}

static void execute(const char *path)
{
	char *const argv[] = {(char *)path, NULL};
	char *const envp[] = {NULL};
	int status;
	/* vfork, as posix_spawn does: the cost of the caller's size stays out. */
	pid_t child = vfork();

	if (child < 0)
		fail("vfork");
	if (child == 0) {
		execve(path, argv, envp);
		_exit(127);
	}
	if (waitpid(child, &status, 0) != child)
		fail("waitpid");
	if (status != 0) {
		fprintf(stderr, "%s ended with status %#x\n", path, status);
		exit(2);
	}
}

static void exec_load(const char *directory, int fresh, long warmup, long blocks, long runs)
{
	char path[4096];
	long copy = 0;

	for (long block = -1; block < blocks; block++) {
		long count = block < 0 ? warmup : runs;
		long long start = now_ns(CLOCK_MONOTONIC);

		for (long i = 0; i < count; i++) {
			snprintf(path, sizeof(path), "%s/%ld/program", directory, copy);
			copy += fresh;
			execute(path);
		}
		if (block < 0)
			wait_for_go();
		else
			printf("%lld\n", now_ns(CLOCK_MONOTONIC) - start);
	}
}

static void map(const char *path)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	void *at;

	if (file < 0)
		fail(path);
	at = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
	if (at == MAP_FAILED)
		fail(path);
	munmap(at, 4096);
	close(file);
}

static void map_load(const char *directory, long rate, long seconds)
{
	struct dirent **entries;
	int n = scandir(directory, &entries, NULL, alphasort);
	long long start, now;
	long mapped = 0, go = 0;

	if (n < 0 || chdir(directory))
		fail(directory);
	do {
		/* After the first round, which is the warm-up. */
		if (go && unshare(CLONE_NEWNS))
			fail("unshare");
		for (int i = 0; i < n; i++) {
			if (entries[i]->d_name[0] == '.')
				continue;
			map(entries[i]->d_name);
			mapped += go;
		}
		if (!go) {
			wait_for_go();
			start = now_ns(CLOCK_BOOTTIME);
			go = 1;
		}
		now = now_ns(CLOCK_BOOTTIME);
		if (rate && mapped * 1000000000LL / rate > now - start)
			usleep((mapped * 1000000000LL / rate - (now - start)) / 1000);
	} while (now - start < seconds * 1000000000LL);
	printf("%ld %lld %lld\n", mapped, start, now_ns(CLOCK_BOOTTIME));
}

int main(int argc, char **argv)
{
	if (argc == 7 && !strcmp(argv[1], "exec")) {
		exec_load(argv[2], !strcmp(argv[3], "fresh"), number(argv[4]), number(argv[5]),
			  number(argv[6]));
		return 0;
	}
	if (argc == 5 && !strcmp(argv[1], "map")) {
		map_load(argv[2], number(argv[3]), number(argv[4]));
		return 0;
	}
	fprintf(stderr, "usage: load map DIRECTORY RATE SECONDS\n");
	fprintf(stderr, "       load exec DIRECTORY same|fresh WARMUP BLOCKS RUNS\n");
	return 2;
}
