/* Fails, kills or cuts short the n-th call that changes the disk below a folder.

   Built and preloaded by faults.py. Nothing happens until fault_arm is called, in the process under test.
   Calls are counted over all threads; a path is looked up only while the shim is armed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL_BEFORE, KILL_AFTER, FAIL_EIO, FAIL_ENOSPC, TERMINATE, INTERRUPT };

static char prefix[4096];
static char part[256];
static long wanted, calls;
static int action, armed;

void fault_arm(const char *below, const char *contains, long nth, int what) {
    snprintf(prefix, sizeof prefix, "%s", below);
    snprintf(part, sizeof part, "%s", contains);
    wanted = nth;
    action = what;
    calls = 0;
    armed = 1;
}

long fault_calls(void) { return calls; }

static int is_watched(const char *path) {
    return path && strncmp(path, prefix, strlen(prefix)) == 0 && strstr(path, part) != NULL;
}

static int path_of(int folder, const char *name, char *path, size_t size) {
    char link[64];
    if (name && name[0] == '/') {
        snprintf(path, size, "%s", name);
        return 1;
    }
    if (folder == AT_FDCWD) {
        if (!getcwd(path, size)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, path, size - 1);
        if (length < 0) return 0;
        path[length] = 0;
    }
    if (name) {
        size_t used = strlen(path);
        snprintf(path + used, size - used, "/%s", name);
    }
    return 1;
}

/* 0: go on; 1: fail with errno set; 2: do the call and then die. */
static int meets(int folder, const char *name) {
    char path[8192];
    if (!armed) return 0;
    int kept = errno;
    if (!path_of(folder, name, path, sizeof path) || !is_watched(path)) {
        errno = kept;
        return 0;
    }
    errno = kept;
    long number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (action == COUNT || number != wanted) return 0;
    switch (action) {
    case KILL_BEFORE: kill(getpid(), SIGKILL); pause(); return 0;
    case KILL_AFTER: return 2;
    case FAIL_EIO: errno = EIO; return 1;
    case FAIL_ENOSPC: errno = ENOSPC; return 1;
    case TERMINATE: raise(SIGTERM); return 0;
    case INTERRUPT: raise(SIGINT); return 0;
    }
    return 0;
}

static void die(void) { kill(getpid(), SIGKILL); pause(); }

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define PASS(folder, path, call) do { \
    int fault = meets(folder, path); \
    if (fault == 1) return -1; \
    __typeof__(call) result = call; \
    if (fault == 2) die(); \
    return result; } while (0)
/* A write that is killed or fails leaves the first half of its bytes, as a full disk or a crash may. */
#define PASS_WRITE(fd, half, call) do { \
    int fault = meets(fd, NULL), kept = errno; \
    if (fault) { (void)!(half); if (fault == 2) die(); errno = kept; return -1; } \
    return call; } while (0)

static int changes(int flags) { return (flags & (O_CREAT | O_TRUNC)) != 0; }

#define OPEN(name) int name(const char *path, int flags, ...) { \
    REAL(name); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, int); va_end(rest); \
    if (!changes(flags)) return real(path, flags, mode); \
    PASS(AT_FDCWD, path, real(path, flags, mode)); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { \
    REAL(name); va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, int); va_end(rest); \
    if (!changes(flags)) return real(folder, path, flags, mode); \
    PASS(folder, path, real(folder, path, flags, mode)); }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    PASS_WRITE(fd, real(fd, data, size / 2), real(fd, data, size));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    PASS_WRITE(fd, real(fd, data, size / 2, at), real(fd, data, size, at));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    PASS_WRITE(fd, real(fd, data, size / 2, at), real(fd, data, size, at));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    PASS_WRITE(fd, real(fd, parts, count / 2), real(fd, parts, count));
}
int fsync(int fd) { REAL(fsync); PASS(fd, NULL, real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); PASS(fd, NULL, real(fd)); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); PASS(fd, NULL, real(fd, size)); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); PASS(fd, NULL, real(fd, size)); }
int rename(const char *from, const char *to) { REAL(rename); PASS(AT_FDCWD, to, real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); PASS(b, to, real(a, from, b, to)); }
int unlink(const char *path) { REAL(unlink); PASS(AT_FDCWD, path, real(path)); }
int unlinkat(int folder, const char *path, int flags) { REAL(unlinkat); PASS(folder, path, real(folder, path, flags)); }
int rmdir(const char *path) { REAL(rmdir); PASS(AT_FDCWD, path, real(path)); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); PASS(AT_FDCWD, path, real(path, mode)); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(mkdirat); PASS(folder, path, real(folder, path, mode)); }
int link(const char *from, const char *to) { REAL(link); PASS(AT_FDCWD, to, real(from, to)); }
int symlink(const char *from, const char *to) { REAL(symlink); PASS(AT_FDCWD, to, real(from, to)); }
