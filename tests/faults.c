/* Preloaded into a process: the nth system call of a kind on the files below a folder fails; see faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *kinds[] = {"write", "fsync", "rename", "open", "unlink", "mkdir", NULL};
static int counts[6];
static char folder[4096];
static const char *wanted = "";
static int nth, error, lasting;

/* From now on counts the calls; the nth of one kind fails (0: none), and all after it if it is lasting, as on a full disk. */
void arm(const char *path, const char *kind, int at, int number, int keeps_failing) {
    strncpy(folder, path, sizeof folder - 1);
    wanted = strdup(kind), nth = at, error = number, lasting = keeps_failing;
}

int counted(int kind) { return counts[kind]; }

static int fails(const char *kind, const char *path) {
    if (!*folder || !path || strncmp(path, folder, strlen(folder)))
        return 0;
    int number = 0;
    while (strcmp(kinds[number], kind))
        number++;
    int count = ++counts[number];
    if (strcmp(kind, wanted) || !nth || count < nth || (count > nth && !lasting))
        return 0;
    errno = error;
    return 1;
}

static int file_fails(const char *kind, int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = *folder ? readlink(link, path, sizeof path - 1) : -1;
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(kind, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *bytes, size_t size) { return file_fails("write", file) ? -1 : REAL(write)(file, bytes, size); }
int fsync(int file) { return file_fails("fsync", file) ? -1 : REAL(fsync)(file); }
int rename(const char *old, const char *new) { return fails("rename", new) ? -1 : REAL(rename)(old, new); }
int unlink(const char *path) { return fails("unlink", path) ? -1 : REAL(unlink)(path); }
int mkdir(const char *path, mode_t mode) { return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode); }

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        va_list more;                                                \
        va_start(more, flags);                                       \
        mode_t mode = va_arg(more, mode_t);                          \
        va_end(more);                                                \
        return fails("open", path) ? -1 : REAL(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
