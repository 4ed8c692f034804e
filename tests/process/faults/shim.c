/* Preloaded into the binary under test: numbers the calls with which it changes files, and lets
 * some of them go wrong. The binary itself knows nothing of it.
 *
 *   FAULTS_UNDER  the folder whose files are watched; nothing else is touched
 *   FAULTS_KILL   "before 12", "within 12" or "after 12": SIGKILL at the 12th call; "within" writes
 *                 half of what was to be written
 *   FAULTS_TRACE  a file to which each call adds a line with its name and its file
 *   FAULTS_FLAGS  a folder. While there is a file of this name in it:
 *                   full   nothing can be written (ENOSPC)
 *                   stall  fsync and fdatasync do not return
 *                   clock  "R M": the wall clock is R seconds ahead, the monotonic one M seconds */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum when { NEVER, BEFORE, WITHIN, AFTER };

static const char *under, *trace, *flags;
static size_t under_length;
static enum when kill_when = NEVER;
static long kill_at;
static atomic_long calls;

__attribute__((constructor)) static void set_up(void)
{
    const char *kill = getenv("FAULTS_KILL");
    char when[8];
    if (kill && sscanf(kill, "%7s %ld", when, &kill_at) == 2)
        kill_when = when[0] == 'b' ? BEFORE : when[0] == 'w' ? WITHIN : AFTER;
    trace = getenv("FAULTS_TRACE");
    flags = getenv("FAULTS_FLAGS");
    under = getenv("FAULTS_UNDER");
    under_length = under ? strlen(under) : 0;
}

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

static int is_set(const char *flag)
{
    char path[PATH_MAX];
    if (!flags)
        return 0;
    snprintf(path, sizeof path, "%s/%s", flags, flag);
    return access(path, F_OK) == 0;
}

static int is_watched(const char *path)
{
    return under && strncmp(path, under, under_length) == 0 && path[under_length] == '/';
}

/* The file's path, or none if it is not watched. */
static const char *watched_file(int fd, char path[PATH_MAX])
{
    char link[32];
    if (!under)
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0)
        return NULL;
    path[length] = 0;
    return is_watched(path) ? path : NULL;
}

/* Numbers a call, and ends the process before it if it is the one. */
static long begin(const char *name, const char *path)
{
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (trace) {
        char line[PATH_MAX + 32];
        int length = snprintf(line, sizeof line, "%s %s\n", name, path + under_length + 1);
        int fd = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_CREAT | O_APPEND, 0600);
        syscall(SYS_write, fd, line, length);
        syscall(SYS_close, fd);
    }
    if (kill_when == BEFORE && number == kill_at)
        die();
    return number;
}

static long end(long number, long result)
{
    if ((kill_when == AFTER || kill_when == WITHIN) && number == kill_at)
        die();
    return result;
}

static int is_full(void)
{
    if (!is_set("full"))
        return 0;
    errno = ENOSPC;
    return 1;
}

static size_t part(long number, size_t length)
{
    return kill_when == WITHIN && number == kill_at ? length / 2 : length;
}

ssize_t write(int fd, const void *bytes, size_t length)
{
    char path[PATH_MAX];
    const char *file = watched_file(fd, path);
    if (!file)
        return syscall(SYS_write, fd, bytes, length);
    long number = begin("write", file);
    return is_full() ? -1 : end(number, syscall(SYS_write, fd, bytes, part(number, length)));
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
    char path[PATH_MAX];
    const char *file = watched_file(fd, path);
    if (!file)
        return syscall(SYS_pwrite64, fd, bytes, length, at);
    long number = begin("pwrite", file);
    return is_full() ? -1 : end(number, syscall(SYS_pwrite64, fd, bytes, part(number, length), at));
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at)
{
    return pwrite64(fd, bytes, length, at);
}

int ftruncate64(int fd, off64_t length)
{
    char path[PATH_MAX];
    const char *file = watched_file(fd, path);
    if (!file)
        return syscall(SYS_ftruncate, fd, length);
    long number = begin("ftruncate", file);
    return end(number, syscall(SYS_ftruncate, fd, length));
}

int ftruncate(int fd, off_t length)
{
    return ftruncate64(fd, length);
}

static int sync_file(int fd, const char *name, long call)
{
    char path[PATH_MAX];
    const char *file = watched_file(fd, path);
    if (!file)
        return syscall(call, fd);
    long number = begin(name, file);
    while (is_set("stall"))
        usleep(10000);
    return end(number, syscall(call, fd));
}

int fsync(int fd)
{
    return sync_file(fd, "fsync", SYS_fsync);
}

int fdatasync(int fd)
{
    return sync_file(fd, "fdatasync", SYS_fdatasync);
}

int rename(const char *from, const char *to)
{
    if (!is_watched(to))
        return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    long number = begin("rename", to);
    return end(number, syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

int unlink(const char *path)
{
    if (!is_watched(path))
        return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    long number = begin("unlink", path);
    return end(number, syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    long wall, monotonic;
    char path[PATH_MAX], text[64];
    if (result || !flags)
        return result;
    snprintf(path, sizeof path, "%s/clock", flags);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    text[length > 0 ? length : 0] = 0;
    if (sscanf(text, "%ld %ld", &wall, &monotonic) == 2) {
        int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
        int is_monotonic = clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE ||
                           clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_BOOTTIME;
        now->tv_sec += is_wall ? wall : is_monotonic ? monotonic : 0;
    }
    return 0;
}
