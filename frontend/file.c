/* file.c - the only place of the front end that opens files; see file.h. */
#include "frontend/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STEP = 1 << 20, MAX_NAME = 1024 };

static bool read_all(Arena *mem, int fd, FileBytes *out)
{
    size_t cap = STEP, n = 0;
    uint8_t *p = arena_alloc(mem, cap);
    for (ssize_t got; (got = read(fd, p + n, cap - n)) != 0;) {
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return false;
        n += (size_t)got;
        if (n < cap) continue;
        uint8_t *larger = arena_alloc(mem, cap * 2);
        memcpy(larger, p, n);
        p = larger, cap *= 2;
    }
    *out = (FileBytes){p, n};
    return true;
}

static bool read_sized(Arena *mem, int fd, size_t size, FileBytes *out)
{
    uint8_t *p = arena_alloc(mem, size);
    size_t n = 0;
    for (ssize_t got; n < size && (got = read(fd, p + n, size - n)) != 0;) {
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return false;
        n += (size_t)got;
    }
    *out = (FileBytes){p, n};
    return true;
}

static bool find_mapped(const Files *files, const char *path, FileBytes *out)
{
    for (uint32_t i = 0; files && i < files->path.n; i++)
        if (!strcmp(files->path.at[i], path)) return *out = files->mapped.at[i], true;
    return false;
}

/* The content of an open regular file. */
static bool take(Arena *mem, Files *files, const char *path, int fd, size_t size, FileBytes *out)
{
    if (!size) return *out = (FileBytes){(const uint8_t *)"", 0}, true;
    if (!files) return read_sized(mem, fd, size, out);
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return false;
    *out = (FileBytes){p, size};
    vec_push(files->mem, &files->mapped, *out);
    vec_push(files->mem, &files->path, arena_text(files->mem, path, strlen(path)));
    return true;
}

bool file_bytes(Arena *mem, Files *files, Diag *d, const char *path, FileBytes *out)
{
    if (!strcmp(path, "-"))
        return read_all(mem, STDIN_FILENO, out) ||
               diag_error(d, NULL, "cannot read standard input: %s", strerror(errno));
    if (find_mapped(files, path, out)) return true;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) {
        int why = errno;
        if (fd >= 0) close(fd);
        return diag_error(d, NULL, "cannot open %s: %s", path, strerror(why));
    }
    bool ok = S_ISREG(st.st_mode)   ? take(mem, files, path, fd, (size_t)st.st_size, out)
              : S_ISDIR(st.st_mode) ? (errno = EISDIR, false)
                                    : read_all(mem, fd, out);
    int why = errno;
    close(fd);
    return ok || diag_error(d, NULL, "cannot read %s: %s", path, strerror(why));
}

static const char *bad_name(const char *name)
{
    size_t n = strlen(name);
    if (!n) return "is empty";
    if (n > MAX_NAME) return "is too long";
    if (*name == '/') return "is an absolute path";
    if (name[n - 1] == '/') return "is a folder";
    if (strchr(name, '\\')) return "has a backslash";
    for (const char *p = name; p; p = strchr(p, '/')) {
        p += *p == '/';
        size_t part = strcspn(p, "/");
        if (!part || (part == 1 && *p == '.') || (part == 2 && p[0] == '.' && p[1] == '.'))
            return "has an empty, '.' or '..' part";
    }
    return NULL;
}

/* Opens one component after the other without following links, so nothing can be swapped in between check and use. */
static int open_below(Arena *mem, const char *folder, const char *name)
{
    int at = open(*folder ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (const char *p = name; at >= 0;) {
        size_t part = strcspn(p, "/");
        bool last = !p[part];
        int flags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | (last ? 0 : O_DIRECTORY);
        int next = openat(at, arena_text(mem, p, part), flags);
        int why = errno;
        close(at);
        errno = why, at = next;
        if (last) break;
        p += part + 1;
    }
    return at;
}

bool file_below(Arena *mem, Files *files, Diag *d, const Loc *loc, const char *folder, const char *name, FileBytes *out)
{
    const char *bad = bad_name(name);
    if (bad)
        return diag_error(d, loc, "external data location '%.80s' %s; it must lie in the model's folder", name, bad);
    const char *path = arena_printf(mem, "%s/%s", *folder ? folder : ".", name);
    if (find_mapped(files, path, out)) return true;
    int fd = open_below(mem, folder, name);
    if (fd < 0)
        return diag_error(d, loc, "cannot open external data '%s': %s", name,
                          errno == ELOOP ? "symbolic links are not followed" : strerror(errno));
    struct stat st;
    bool regular = !fstat(fd, &st) && S_ISREG(st.st_mode);
    bool ok = regular && take(mem, files, path, fd, (size_t)st.st_size, out);
    int why = errno;
    close(fd);
    if (!regular) return diag_error(d, loc, "external data '%s' is not a regular file", name);
    return ok || diag_error(d, loc, "cannot read external data '%s': %s", name, strerror(why));
}

static void pages_forget(const uint8_t *at, size_t n)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)at + page - 1) / page * page,
              to = ((uintptr_t)at + n) / page * page;
    if (from < to) madvise((void *)from, to - from, MADV_DONTNEED); /* advice: nothing depends on it */
}

void files_forget(const Files *f, const uint8_t *at, size_t n)
{
    for (uint32_t i = 0; f && i < f->mapped.n; i++) {
        const FileBytes *m = &f->mapped.at[i];
        if (at >= m->at && at + n <= m->at + m->n) pages_forget(at, n);
    }
}

void files_rest(const Files *f)
{
    for (uint32_t i = 0; f && i < f->mapped.n; i++) pages_forget(f->mapped.at[i].at, f->mapped.at[i].n);
    if (f) arena_rest(f->mem);
}

void files_drop(Files *f)
{
    for (uint32_t i = 0; i < f->mapped.n; i++) munmap((void *)f->mapped.at[i].at, f->mapped.at[i].n);
    f->mapped.n = f->path.n = 0;
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        p += put, n -= (size_t)put;
    }
    return true;
}

/* A device, a pipe: written in place, since a rename would put a file where it was. */
static bool is_special(const char *path)
{
    struct stat st;
    return !stat(path, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

static int create_beside(Arena *mem, const char *path, char **temporary)
{
    *temporary = NULL;
    if (is_special(path)) return open(path, O_WRONLY);
    *temporary = arena_printf(mem, "%s.XXXXXX", path);
    int fd = mkstemp(*temporary);
    mode_t mask = umask(0);
    umask(mask);
    if (fd >= 0) fchmod(fd, 0666 & ~mask);
    return fd;
}

FILE *file_create(Arena *mem, Diag *d, const char *path, const char **temporary)
{
    char *name;
    int fd = create_beside(mem, path, &name);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!f) diag_error(d, NULL, "cannot write %s: %s", path, strerror(errno));
    *temporary = name;
    return f;
}

bool file_commit(Diag *d, FILE *f, const char *temporary, const char *path, bool ok)
{
    bool written = !ferror(f);
    written = !fclose(f) && written;
    if (ok && written && (!temporary || !rename(temporary, path))) return true;
    if (ok) diag_error(d, NULL, "cannot write %s: %s", path, strerror(errno));
    if (temporary) unlink(temporary);
    return false;
}

const char *temporary_base(void)
{
    const char *base = getenv("TMPDIR");
    return base && *base ? base : "/tmp";
}

bool file_write(Arena *mem, Diag *d, const char *path, const void *at, size_t n)
{
    char *temporary;
    if (!strcmp(path, "-"))
        return write_all(STDOUT_FILENO, at, n) ||
               diag_error(d, NULL, "cannot write to standard output: %s", strerror(errno));
    int fd = create_beside(mem, path, &temporary);
    if (fd < 0) return diag_error(d, NULL, "cannot write %s: %s", path, strerror(errno));
    bool ok = write_all(fd, at, n);
    ok = !close(fd) && ok && (!temporary || !rename(temporary, path));
    int why = errno;
    if (!ok && temporary) unlink(temporary);
    return ok || diag_error(d, NULL, "cannot write %s: %s", path, strerror(why));
}
