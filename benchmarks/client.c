/*
 * The client of the benchmark: the tight loops of every workload, the same binary for every peer.
 *
 * It is C so that the client costs next to nothing beside the file system that it measures. It times
 * only what the sub-command names (set-up and cooling down are outside), and prints seconds, one
 * number per phase. It is not a test: it checks that calls succeed, not what they return.
 *
 * What "cold" means here: mount(2) with MS_REMOUNT makes the kernel drop the dentries of this one
 * mount, and FUSE drops an inode and its cached pages with its last dentry. Unlike drop_caches this
 * leaves the rest of the machine alone.
 *
 * Memory that bulk data is about to need is touched and given back first, untimed. The host of a virtual
 * machine may take free memory away and give it again when it is touched, which takes several times as long
 * as filling it: without this a figure would tell who ran before, and how long ago.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MIB (1 << 20)
#define GIB (1 << 30)
#define NAME_LEN 32

static void die(const char *format, ...)
{
	int error = errno;
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %s\n", strerror(error));
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void report(double since)
{
	printf("%.9f\n", now() - since);
}

static uint64_t random_state = 88172645463325252ull;

static uint64_t random_u64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

struct half {
	char *memory;
	size_t bytes;
};

static void *touch_half(void *argument)
{
	struct half *half = argument;

	for (size_t at = 0; at < half->bytes; at += 2 * PAGE)
		half->memory[at] = 1;
	return NULL;
}

/* Page by page: bigger pieces go back to the host as soon as they are free. Returns the seconds. */
static double touch_memory(size_t bytes)
{
	double start = now();
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct half even = {memory, bytes}, odd = {memory + PAGE, bytes - PAGE};
	pthread_t other;

	if (memory == MAP_FAILED)
		die("memory to touch");
	/* A thread, not a process: whoever ends the client ends both, and no file stays open. */
	if ((errno = pthread_create(&other, NULL, touch_half, &odd)))
		die("thread");
	touch_half(&even);
	pthread_join(other, NULL);
	munmap(memory, bytes);
	return now() - start;
}

/* touch BYTES */
static void run_touch(char **args)
{
	printf("%.9f\n", touch_memory(strtoull(args[0], NULL, 0)));
}

/* Page-aligned, already faulted in, and not compressible: no peer may profit from zeros. */
static char *filled_buffer(size_t bytes)
{
	char *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (buffer == MAP_FAILED)
		die("mmap");
	for (size_t at = 0; at < bytes; at += sizeof(uint64_t))
		*(uint64_t *)(buffer + at) = random_u64();
	return buffer;
}

static int open_or_die(int dirfd, const char *name, int flags)
{
	int fd = openat(dirfd, name, flags | O_CLOEXEC, 0644);

	if (fd < 0)
		die("open %s", name);
	return fd;
}

static void close_or_die(int fd)
{
	if (close(fd))
		die("close");
}

static void write_all(int fd, const char *data, size_t bytes)
{
	if (write(fd, data, bytes) != (ssize_t)bytes)
		die("write");
}

static unsigned long mount_flags(const char *mountpoint)
{
	struct statvfs status;
	unsigned long flags = 0;

	if (statvfs(mountpoint, &status))
		die("statvfs %s", mountpoint);
	if (status.f_flag & ST_RDONLY)
		flags |= MS_RDONLY;
	if (status.f_flag & ST_NOSUID)
		flags |= MS_NOSUID;
	if (status.f_flag & ST_NODEV)
		flags |= MS_NODEV;
	if (status.f_flag & ST_NOEXEC)
		flags |= MS_NOEXEC;
	if (status.f_flag & ST_RELATIME)
		flags |= MS_RELATIME;
	return flags;
}

static void cool(const char *mountpoint)
{
	const struct timespec settle = {.tv_nsec = 50 * 1000 * 1000};
	struct statvfs status;

	if (mount("none", mountpoint, NULL, MS_REMOUNT | mount_flags(mountpoint), NULL))
		die("remount %s", mountpoint);
	/* The daemon is still being told to forget thousands of inodes: not part of what follows. */
	if (statvfs(mountpoint, &status))
		die("statvfs %s", mountpoint);
	nanosleep(&settle, NULL);
}

/* Touch the memory of the next GiB, `copies` times; returns the seconds. Free memory is not kept for long. */
static double touch_next(size_t done, size_t bytes, size_t copies)
{
	size_t left = bytes - done;

	return touch_memory(copies * (left < GIB ? left : GIB));
}

/* write FILE BYTES BLOCK: from open to close, so that a write-back cache is flushed in time. */
static void run_write(char **args)
{
	size_t bytes = strtoull(args[1], NULL, 0), block = strtoull(args[2], NULL, 0);
	char *data = filled_buffer(block);
	int is_new = access(args[0], F_OK) != 0, fd;
	double start = now();

	fd = open_or_die(AT_FDCWD, args[0], O_WRONLY | O_CREAT);
	for (size_t done = 0; done < bytes; done += block) {
		if (is_new && done % GIB == 0) {
			/* What is written back meanwhile would not be timed. */
			if (fsync(fd))
				die("fsync");
			/* In the page cache, and where the file system keeps it. */
			start += touch_next(done, bytes, 2);
		}
		write_all(fd, data, block);
	}
	close_or_die(fd);
	report(start);
}

/* read FILE BYTES BLOCK */
static void run_read(char **args)
{
	size_t bytes = strtoull(args[1], NULL, 0), block = strtoull(args[2], NULL, 0), done = 0;
	char *data = filled_buffer(block);
	double start = now();
	int fd = open_or_die(AT_FDCWD, args[0], O_RDONLY);
	ssize_t got;

	do {
		/* Whoever has dropped the page cache has just given back what the first GiB needs. */
		if (done && done < bytes && done % GIB == 0)
			start += touch_next(done, bytes, 1);
		got = read(fd, data, block);
		done += got;
	} while (got > 0);
	close_or_die(fd);
	report(start);
	if (got < 0 || done != bytes)
		die("read %zu of %zu bytes of %s", done, bytes, args[0]);
}

/* resident FILE: how many of its bytes the kernel's page cache holds. */
static void run_resident(char **args)
{
	int fd = open_or_die(AT_FDCWD, args[0], O_RDONLY);
	struct stat status;
	size_t pages, resident = 0;
	unsigned char *held;
	void *map;

	if (fstat(fd, &status))
		die("fstat %s", args[0]);
	pages = (status.st_size + PAGE - 1) / PAGE;
	held = calloc(pages, 1);
	/* Private, as a file opened for direct I/O cannot be mapped shared. */
	map = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (!held || map == MAP_FAILED || mincore(map, status.st_size, held))
		die("mincore %s", args[0]);
	for (size_t page = 0; page < pages; page++)
		resident += held[page] & 1;
	printf("%zu\n", resident * PAGE);
}

/* cool MOUNTPOINT */
static void run_cool(char **args)
{
	cool(args[0]);
}

static void name_file(char *name, char kind, long number)
{
	snprintf(name, NAME_LEN, "%c%06ld", kind, number);
}

static void create_file(int dirfd, const char *name, const char *data, size_t bytes)
{
	int fd = open_or_die(dirfd, name, O_WRONLY | O_CREAT | O_EXCL);

	write_all(fd, data, bytes);
	close_or_die(fd);
}

static void read_file(int dirfd, const char *name, char *data)
{
	int fd = open_or_die(dirfd, name, O_RDONLY);

	if (read(fd, data, PAGE) != PAGE)
		die("read %s", name);
	close_or_die(fd);
}

enum phase { CREATE, STAT_COLD, READ_COLD, READ_WARM, RENAME, UNLINK, PHASES };

static void do_phase(enum phase phase, int dirfd, long number, char *data)
{
	char name[NAME_LEN], other[NAME_LEN];
	struct stat status;

	name_file(name, phase == UNLINK ? 'r' : 'f', number);
	switch (phase) {
	case CREATE:
		create_file(dirfd, name, data, PAGE);
		break;
	case STAT_COLD:
		if (fstatat(dirfd, name, &status, AT_SYMLINK_NOFOLLOW))
			die("stat %s", name);
		break;
	case READ_COLD:
	case READ_WARM:
		read_file(dirfd, name, data);
		break;
	case RENAME:
		name_file(other, 'r', number);
		if (renameat(dirfd, name, dirfd, other))
			die("rename %s", name);
		break;
	default:
		if (unlinkat(dirfd, name, 0))
			die("unlink %s", name);
	}
}

/* files MOUNTPOINT COUNT CAN_COOL: one number per phase, in the order of the enum. */
static void run_files(char **args)
{
	long count = atol(args[1]);
	int can_cool = atoi(args[2]);
	char *data = filled_buffer(PAGE);

	for (enum phase phase = 0; phase < PHASES; phase++) {
		double start;
		int dirfd;

		if (can_cool && (phase == STAT_COLD || phase == READ_COLD))
			cool(args[0]);
		dirfd = open_or_die(AT_FDCWD, args[0], O_RDONLY | O_DIRECTORY);
		start = now();
		for (long number = 0; number < count; number++)
			do_phase(phase, dirfd, number, data);
		report(start);
		close_or_die(dirfd);
	}
}

/* fill DIR COUNT BYTES: so many files in one directory. */
static void run_fill(char **args)
{
	long count = atol(args[1]);
	size_t bytes = strtoull(args[2], NULL, 0);
	char *data = filled_buffer((bytes + PAGE - 1) / PAGE * PAGE + PAGE);
	double start = now();
	int dirfd = open_or_die(AT_FDCWD, args[0], O_RDONLY | O_DIRECTORY);
	char name[NAME_LEN];

	for (long number = 0; number < count; number++) {
		name_file(name, 'f', number);
		create_file(dirfd, name, data, bytes);
	}
	close_or_die(dirfd);
	report(start);
}

/* grow DIR DIRS FILES BYTES: DIRS directories of FILES files each. */
static void run_grow(char **args)
{
	long dirs = atol(args[1]), files = atol(args[2]);
	size_t bytes = strtoull(args[3], NULL, 0);
	char *data = filled_buffer((bytes + PAGE - 1) / PAGE * PAGE + PAGE);
	double start = now();
	int top = open_or_die(AT_FDCWD, args[0], O_RDONLY | O_DIRECTORY);
	char name[NAME_LEN];

	for (long dir = 0; dir < dirs; dir++) {
		int dirfd;

		name_file(name, 'd', dir);
		if (mkdirat(top, name, 0755))
			die("mkdir %s", name);
		dirfd = open_or_die(top, name, O_RDONLY | O_DIRECTORY);
		for (long file = 0; file < files; file++) {
			name_file(name, 'f', file);
			create_file(dirfd, name, data, bytes);
		}
		close_or_die(dirfd);
	}
	close_or_die(top);
	report(start);
}

static long walk(int dirfd)
{
	DIR *dir = fdopendir(dirfd);
	struct dirent *entry;
	struct stat status;
	long seen = 0;

	if (!dir)
		die("opendir");
	while ((entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (fstatat(dirfd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW))
			die("stat %s", entry->d_name);
		seen++;
		if (S_ISDIR(status.st_mode))
			seen += walk(open_or_die(dirfd, entry->d_name, O_RDONLY | O_DIRECTORY));
	}
	closedir(dir);
	return seen;
}

/* walk DIR COUNT: list and stat everything below it; it must be COUNT objects. */
static void run_walk(char **args)
{
	long expected = atol(args[1]), seen;
	double start = now();

	seen = walk(open_or_die(AT_FDCWD, args[0], O_RDONLY | O_DIRECTORY));
	report(start);
	if (seen != expected) {
		fprintf(stderr, "%s holds %ld objects, not %ld\n", args[0], seen, expected);
		exit(1);
	}
}

/* scatter FILE FRACTION_INVERSE: rewrite one page in so many, at random places. */
static void run_scatter(char **args)
{
	int fd = open_or_die(AT_FDCWD, args[0], O_WRONLY);
	char *data = filled_buffer(MIB);
	struct stat status;
	size_t pages;

	if (fstat(fd, &status))
		die("fstat %s", args[0]);
	pages = status.st_size / PAGE;
	for (size_t left = pages / atol(args[1]); left; left--) {
		const char *page = data + random_u64() % (MIB / PAGE) * PAGE;

		if (pwrite(fd, page, PAGE, random_u64() % pages * PAGE) != PAGE)
			die("pwrite");
	}
	close_or_die(fd);
}

#define SMALL_IMAGES 15
#define LOG_LINES 4000
#define SOURCE (64 * MIB)

static void dump_pages(int dirfd, size_t bytes, char *memory)
{
	int fd = open_or_die(dirfd, "pages-1.img", O_CREAT | O_TRUNC | O_WRONLY), ends[2];

	if (pipe(ends) || fcntl(ends[1], F_SETPIPE_SZ, MIB) < 0)
		die("pipe");
	for (size_t done = 0; done < bytes; done += MIB) {
		struct iovec piece = {memory + done % SOURCE, MIB};

		if (vmsplice(ends[1], &piece, 1, 0) != MIB)
			die("vmsplice");
		for (ssize_t left = MIB; left;) {
			ssize_t moved = splice(ends[0], NULL, fd, NULL, left, 0);

			if (moved <= 0)
				die("splice");
			left -= moved;
		}
	}
	close_or_die(fd);
}

static void write_small_images(int dirfd, const char *data)
{
	for (int image = 0; image < SMALL_IMAGES; image++) {
		size_t body = 12 + image * 350;
		struct iovec parts[2] = {{(void *)data, 12}, {(void *)(data + 12), body}};
		char name[NAME_LEN];
		int fd;

		snprintf(name, sizeof(name), "core-%d.img", image);
		fd = open_or_die(dirfd, name, O_CREAT | O_TRUNC | O_WRONLY);
		if (writev(fd, parts, 2) != (ssize_t)(12 + body))
			die("writev");
		close_or_die(fd);
	}
}

/* dump DIR BYTES: how CRIU writes an image directory. */
static void run_dump(char **args)
{
	size_t bytes = strtoull(args[1], NULL, 0);
	char *memory = filled_buffer(SOURCE), line[96];
	double start;
	int dirfd, log;

	touch_memory(2 * bytes);
	start = now();
	dirfd = open_or_die(AT_FDCWD, args[0], O_RDONLY | O_DIRECTORY);
	if (!unlinkat(dirfd, "stats-dump", 0) || errno != ENOENT)
		die("unlink of a name that never existed");
	log = open_or_die(dirfd, "dump.log", O_CREAT | O_TRUNC | O_WRONLY | O_APPEND);
	for (int number = 0; number < LOG_LINES; number++)
		write_all(log, line, snprintf(line, sizeof(line), "(00.%06d) Dumping pagemap entry %d\n",
					      number, number));
	dump_pages(dirfd, bytes, memory);
	write_small_images(dirfd, memory);
	if (symlinkat(".", dirfd, "parent"))
		die("symlink");
	close_or_die(log);
	close_or_die(dirfd);
	report(start);
}

static void read_whole(int dirfd, const char *name, char *memory)
{
	int fd = open_or_die(dirfd, name, O_RDONLY);

	while (read(fd, memory, 12) == 12)
		;
	close_or_die(fd);
}

/* restore DIR BYTES: how CRIU reads it back, page runs of every length by preadv. */
static void run_restore(char **args)
{
	size_t bytes = strtoull(args[1], NULL, 0), done = 0;
	char *memory = filled_buffer(SOURCE), name[NAME_LEN];
	double start = now();
	int dirfd = open_or_die(AT_FDCWD, args[0], O_RDONLY | O_DIRECTORY), pages;

	close_or_die(open_or_die(dirfd, "parent", O_RDONLY | O_DIRECTORY));
	for (int image = 0; image < SMALL_IMAGES; image++) {
		snprintf(name, sizeof(name), "core-%d.img", image);
		read_whole(dirfd, name, memory);
	}
	pages = open_or_die(dirfd, "pages-1.img", O_RDONLY);
	while (done < bytes) {
		size_t half = (1 + random_u64() % 256) * PAGE;
		struct iovec parts[2] = {{memory, half}, {memory + SOURCE / 2, half}};
		ssize_t got = preadv(pages, parts, 2, done);

		if (got <= 0)
			die("preadv at %zu", done);
		done += got;
	}
	close_or_die(pages);
	close_or_die(dirfd);
	report(start);
}

/* copy FROM TO BYTES: by copy_file_range(2). */
static void run_copy(char **args)
{
	size_t left = strtoull(args[2], NULL, 0);
	int from = open_or_die(AT_FDCWD, args[0], O_RDONLY);
	int to = open_or_die(AT_FDCWD, args[1], O_WRONLY | O_CREAT | O_TRUNC);
	double start;

	touch_memory(left);
	for (start = now(); left;) {
		ssize_t copied = copy_file_range(from, NULL, to, NULL, left, 0);

		if (copied <= 0)
			die("copy_file_range");
		left -= copied;
	}
	close_or_die(to);
	report(start);
	close_or_die(from);
}

/* punch FILE BYTES: every second page of it becomes a hole, one at a time. */
static void run_punch(char **args)
{
	off_t bytes = strtoll(args[1], NULL, 0);
	int fd = open_or_die(AT_FDCWD, args[0], O_RDWR);
	double start = now();

	for (off_t at = 0; at < bytes; at += 2 * PAGE)
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, PAGE))
			die("fallocate");
	report(start);
	close_or_die(fd);
}

/* seek FILE EXTENTS: find every extent of data, and how long it is; there must be so many. */
static void run_seek(char **args)
{
	long expected = atol(args[1]), seen = 0;
	int fd = open_or_die(AT_FDCWD, args[0], O_RDONLY);
	double start = now();

	for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0; seen++)
		if ((at = lseek(fd, at, SEEK_HOLE)) < 0)
			die("lseek");
	report(start);
	close_or_die(fd);
	if (seen != expected) {
		fprintf(stderr, "%s has %ld extents, not %ld\n", args[0], seen, expected);
		exit(1);
	}
}

static const struct {
	const char *name;
	int args;
	void (*run)(char **args);
} commands[] = {
	{"write", 3, run_write}, {"read", 3, run_read},       {"resident", 1, run_resident},
	{"cool", 1, run_cool},   {"files", 3, run_files},     {"fill", 3, run_fill},
	{"grow", 4, run_grow},   {"walk", 2, run_walk},       {"scatter", 2, run_scatter},
	{"dump", 2, run_dump},   {"restore", 2, run_restore}, {"touch", 1, run_touch},
	{"copy", 3, run_copy},   {"punch", 2, run_punch},     {"seek", 2, run_seek},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		if (argc == commands[i].args + 2 && !strcmp(argv[1], commands[i].name)) {
			commands[i].run(argv + 2);
			return 0;
		}
	}
	fprintf(stderr, "usage: client COMMAND ARG…\n");
	return 2;
}
