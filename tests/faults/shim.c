// Lets one system call on the data directory fail, for the test beside this file. Loaded with LD_PRELOAD.
//
// FAULT_DIR    only files below it count
// FAULT_KIND   read, write, sync, open, rename, remove
// FAULT_NTH    which call of that kind fails, from 1; 0 is none
// FAULT_ERRNO  with which error
// FAULT_COUNT  a file in which each call of that kind leaves a byte
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path) {
    const char *dir = getenv("FAULT_DIR");
    return dir && path && strncmp(path, dir, strlen(dir)) == 0;
}

static int is_below(int fd) {
    char link[64], path[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(path);
}

static int fails(const char *kind) {
    const char *wanted = getenv("FAULT_KIND");
    if (!wanted || strcmp(wanted, kind) != 0) return 0;
    long call = atomic_fetch_add(&calls, 1) + 1;
    int count = REAL(open64)(getenv("FAULT_COUNT"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (count >= 0) {
        REAL(write)(count, "x", 1);
        REAL(close)(count);
    }
    if (call != atol(getenv("FAULT_NTH"))) return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    return 1;
}

#define FD_CALL(type, name, kind, params, args)            \
    type name params {                                     \
        if (is_below(fd) && fails(kind)) return (type)-1;  \
        return REAL(name) args;                            \
    }

FD_CALL(ssize_t, read, "read", (int fd, void *to, size_t size), (fd, to, size))
FD_CALL(ssize_t, pread64, "read", (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
FD_CALL(ssize_t, write, "write", (int fd, const void *from, size_t size), (fd, from, size))
FD_CALL(ssize_t, pwrite64, "write", (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))
FD_CALL(int, fsync, "sync", (int fd), (fd))
FD_CALL(int, fdatasync, "sync", (int fd), (fd))
FD_CALL(int, sync_file_range, "sync", (int fd, off64_t at, off64_t size, unsigned flags), (fd, at, size, flags))
FD_CALL(int, ftruncate64, "write", (int fd, off64_t size), (fd, size))

int rename(const char *from, const char *to) {
    return below(to) && fails("rename") ? -1 : REAL(rename)(from, to);
}

int unlink(const char *path) {
    return below(path) && fails("remove") ? -1 : REAL(unlink)(path);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return below(path) && fails("open") ? -1 : REAL(open64)(path, flags, mode);
}
