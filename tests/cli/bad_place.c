// A disk that does not give some bytes of the store's log. Loaded with LD_PRELOAD by the test beside this file.
//
// BAD_FILE  the end of the path of the log
// BAD_FROM  the first byte that cannot be read
// BAD_TO    the first one behind it that can be
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_bad(int fd, size_t size, off64_t at) {
    const char *file = getenv("BAD_FILE");
    if (!file) return 0;
    char link[64], path[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < (ssize_t)strlen(file)) return 0;
    path[length] = 0;
    if (strcmp(path + length - strlen(file), file) != 0) return 0;
    return at < atoll(getenv("BAD_TO")) && at + (off64_t)size > atoll(getenv("BAD_FROM"));
}

ssize_t pread64(int fd, void *to, size_t size, off64_t at) {
    if (is_bad(fd, size, at)) {
        errno = EIO;
        return -1;
    }
    return ((__typeof__(&pread64))dlsym(RTLD_NEXT, "pread64"))(fd, to, size, at);
}
