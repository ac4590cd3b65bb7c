// Records what is written to and synced in the data directory, for power.rs beside this file. Loaded with LD_PRELOAD.
//
// POWER_DIR    only files below it count
// POWER_TRACE  where the records go, each before its call returns to the program
// POWER_KILL   once there is a file of this name the process kills itself, behind a whole record
//
// A record is a `struct record` and `length` bytes. A file is known by its inode and when that was made, because
// names change and inodes are used again. Whenever the names in the directory have changed, a record of all of
// them comes before the next one: the program changes most of them with raw system calls, which pass libc by. So do
// its syncs of folders; the kernel is asked to send a signal for each `fsync` that does not come from here.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { WRITE = 1, TRUNCATE, SYNC_BEGINS, SYNC_ENDS, NAMES, FRESH };

struct record {
    uint64_t kind, inode, made, at, length;
};

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1;
static uint64_t syncs;

struct text {
    char *bytes;
    size_t length, room;
};
static struct text names, look, again;

static void broken(const char *what) {
    perror(what);
    abort();
}

static void put(uint64_t kind, uint64_t inode, uint64_t made, uint64_t at, const void *bytes, uint64_t length) {
    struct record head = {kind, inode, made, at, length};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)bytes, length}};
    if (trace < 0) trace = REAL(open64)(getenv("POWER_TRACE"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace < 0 || writev(trace, parts, 2) != (ssize_t)(sizeof head + length)) broken("the trace");
    if (access(getenv("POWER_KILL"), F_OK) == 0) raise(SIGKILL);
}

static void identify(int folder, const char *name, int flags, uint64_t *inode, uint64_t *made, int *is_folder) {
    struct statx stat;
    *inode = 0;
    if (statx(folder, name, flags, STATX_INO | STATX_TYPE | STATX_BTIME, &stat) != 0) return;
    *inode = stat.stx_ino;
    *made = stat.stx_mask & STATX_BTIME ? (uint64_t)stat.stx_btime.tv_sec * 1000000000 + stat.stx_btime.tv_nsec : 0;
    *is_folder = S_ISDIR(stat.stx_mode);
}

static void append(struct text *to, const char *line, size_t length) {
    if (to->length + length > to->room) {
        to->room = 2 * (to->length + length);
        if (!(to->bytes = realloc(to->bytes, to->room))) broken("memory");
    }
    memcpy(to->bytes + to->length, line, length);
    to->length += length;
}

static void list(const char *path, const char *within, int depth, struct text *to) {
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        uint64_t inode, made = 0;
        int is_folder = 0;
        identify(dirfd(folder), entry->d_name, AT_SYMLINK_NOFOLLOW, &inode, &made, &is_folder);
        if (!inode) continue;
        char name[1024], below[2048], line[2048];
        snprintf(name, sizeof name, "%s%s", within, entry->d_name);
        int length = snprintf(line, sizeof line, "%c %lu %lu %s\n", is_folder ? 'd' : 'f', inode, made, name);
        append(to, line, length);
        if (is_folder && depth > 0) {
            snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
            strcat(name, "/");
            list(below, name, depth - 1, to);
        }
    }
    closedir(folder);
}

static void list_all(const char *dir, struct text *to) {
    uint64_t inode, made = 0;
    int is_folder;
    char line[64];
    identify(AT_FDCWD, dir, 0, &inode, &made, &is_folder);
    to->length = 0;
    append(to, line, snprintf(line, sizeof line, "d %lu %lu .\n", inode, made));
    list(dir, "", 3, to);
}

static int differ(struct text *one, struct text *other) {
    return one->length != other->length || memcmp(one->bytes, other->bytes, one->length) != 0;
}

// Looks twice: a name that moves while it looks could be in neither folder.
static void note_names(void) {
    const char *dir = getenv("POWER_DIR");
    list_all(dir, &look);
    if (names.bytes && !differ(&names, &look)) return;
    for (;;) {
        list_all(dir, &again);
        struct text seen = look;
        look = again;
        again = seen;
        if (!differ(&look, &again)) break;
    }
    struct text before = names;
    names = look;
    look = before;
    put(NAMES, 0, 0, 0, names.bytes, names.length);
}

static int is_there(int fd, uint64_t *inode, uint64_t *made, int *is_folder) {
    const char *dir = getenv("POWER_DIR");
    char link[64], path[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = dir ? readlink(link, path, sizeof path - 1) : -1;
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, dir, strlen(dir)) != 0) return 0;
    identify(fd, "", AT_EMPTY_PATH, inode, made, is_folder);
    return *inode != 0;
}

static int is_below(int fd, uint64_t *inode, uint64_t *made) {
    int is_folder;
    return is_there(fd, inode, made, &is_folder) && !is_folder;
}

// An empty file that is written to: clocks are coarse, so it may look like one that was removed a moment ago.
static void note_fresh(int fd, uint64_t inode, uint64_t made) {
    struct stat stat;
    if (fstat(fd, &stat) == 0 && stat.st_size == 0) put(FRESH, inode, made, 0, "", 0);
}

ssize_t write(int fd, const void *from, size_t size) {
    uint64_t inode, made;
    if (fd == trace || !is_below(fd, &inode, &made)) return REAL(write)(fd, from, size);
    pthread_mutex_lock(&turn);
    note_names();
    note_fresh(fd, inode, made);
    ssize_t written = REAL(write)(fd, from, size);
    if (written > 0) put(WRITE, inode, made, lseek(fd, 0, SEEK_CUR) - written, from, written);
    pthread_mutex_unlock(&turn);
    return written;
}

ssize_t pwrite64(int fd, const void *from, size_t size, off_t at) {
    uint64_t inode, made;
    if (!is_below(fd, &inode, &made)) return REAL(pwrite64)(fd, from, size, at);
    pthread_mutex_lock(&turn);
    note_names();
    note_fresh(fd, inode, made);
    ssize_t written = REAL(pwrite64)(fd, from, size, at);
    if (written > 0) put(WRITE, inode, made, at, from, written);
    pthread_mutex_unlock(&turn);
    return written;
}

int ftruncate64(int fd, off_t size) {
    uint64_t inode, made;
    if (!is_below(fd, &inode, &made)) return REAL(ftruncate64)(fd, size);
    pthread_mutex_lock(&turn);
    note_names();
    int result = REAL(ftruncate64)(fd, size);
    if (result == 0) put(TRUNCATE, inode, made, size, "", 0);
    pthread_mutex_unlock(&turn);
    return result;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int fd = REAL(open64)(path, flags, mode);
    uint64_t inode, made;
    if (fd >= 0 && flags & O_TRUNC && is_below(fd, &inode, &made)) {
        pthread_mutex_lock(&turn);
        note_names();
        put(TRUNCATE, inode, made, 0, "", 0);
        pthread_mutex_unlock(&turn);
    }
    return fd;
}

// What was done before it begins is durable once it has ended. `sync_file_range` is no such call.
static int synced(int fd, int (*sync)(int)) {
    uint64_t inode, made;
    int is_folder;
    if (!is_there(fd, &inode, &made, &is_folder)) return sync(fd);
    pthread_mutex_lock(&turn);
    note_names();
    uint64_t number = (uint64_t)getpid() << 32 | syncs++;
    put(SYNC_BEGINS, inode, made, number, "", 0);
    pthread_mutex_unlock(&turn);
    int result = sync(fd);
    if (result == 0) {
        pthread_mutex_lock(&turn);
        put(SYNC_ENDS, inode, made, number, "", 0);
        pthread_mutex_unlock(&turn);
    }
    return result;
}

int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

// In an argument that `fsync` does not have: it comes from here.
#define OURS 0x706f7765

static int sync_really(int fd) { return syscall(SYS_fsync, fd, 0, 0, 0, 0, OURS); }

static void on_fsync(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    int before = errno;
    mcontext_t *registers = &((ucontext_t *)context)->uc_mcontext;
#if defined(__x86_64__)
    long long *result = &registers->gregs[REG_RAX], fd = registers->gregs[REG_RDI];
#elif defined(__aarch64__)
    unsigned long long *result = &registers->regs[0], fd = registers->regs[0];
#endif
    *result = synced((int)fd, sync_really) == 0 ? 0 : -errno;
    errno = before;
}

__attribute__((constructor)) static void watch_fsync(void) {
    struct sigaction action = {.sa_sigaction = on_fsync, .sa_flags = SA_SIGINFO};
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fsync, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OURS, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        broken("watching fsync");
}
