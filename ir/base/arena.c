/* arena.c - chunks from malloc, bumped; the only place of the compiler that calls malloc and free. Large chunks of an arena with a folder
 * are mapped files instead, unlinked at birth: weights that a pass has made are as cold as those of the model until somebody reads them. */
#include "ir/base/arena.h"
#include <fcntl.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 64, CHUNK = 1 << 16, LARGE = 1 << 18 };
struct ArenaChunk {
    ArenaChunk *next;
    size_t used, size; /* of the bytes behind the header */
    size_t mapped;     /* bytes of its file; 0: it is from malloc */
};
enum { HEADER = (sizeof(ArenaChunk) + ALIGN - 1) / ALIGN * ALIGN };

static void out_of_memory(void)
{
    fputs("octet: out of memory\n", stderr);
    exit(70);
}

static int file_without_name(const char *folder)
{
    char name[4096];
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), n = fd < 0 ? snprintf(name, sizeof name, "%s/octet-XXXXXX", folder) : 0;
    if (n <= 0 || (size_t)n >= sizeof name) return fd;
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0) unlink(name);
    return fd;
}

/* NULL: there is no room for a file, or the folder's file system cannot reserve it, without which a full disk would be a crash later. */
static ArenaChunk *chunk_mapped(const char *folder, size_t bytes)
{
    int fd = file_without_name(folder);
    void *p = fd >= 0 && fallocate(fd, 0, 0, (off_t)bytes) == 0 ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (p == MAP_FAILED) return NULL;
    ArenaChunk *c = p;
    c->mapped = bytes;
    return c;
}

static ArenaChunk *chunk_new(const char *folder, size_t bytes)
{
    size_t size = bytes > CHUNK ? bytes : CHUNK;
    if (size >= SIZE_MAX / 2) out_of_memory();
    ArenaChunk *c = folder && bytes >= LARGE ? chunk_mapped(folder, HEADER + size + ALIGN) : NULL;
    if (!c) c = calloc(1, HEADER + size + ALIGN);
    if (!c) out_of_memory();
    c->size = size;
    return c;
}

static char *chunk_base(ArenaChunk *c)
{
    uintptr_t p = (uintptr_t)c + HEADER;
    return (char *)c + HEADER + (ALIGN - p % ALIGN) % ALIGN;
}

void *arena_alloc(Arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) out_of_memory();
    size_t n = bytes < 64 ? (bytes + 15) & ~(size_t)15 : (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    ArenaChunk *c = a->chunk;
    size_t at = c ? (n < 64 ? c->used : (c->used + ALIGN - 1) & ~(size_t)(ALIGN - 1)) : 0;
    if (!c || at + n > c->size) {
        c = chunk_new(a->folder, n), at = 0;
        c->next = a->chunk, a->chunk = c;
    }
    c->used = at + n, a->used += n;
    return chunk_base(c) + at;
}

void *arena_copy(Arena *a, const void *from, size_t bytes)
{
    void *p = arena_alloc(a, bytes);
    if (bytes) memcpy(p, from, bytes);
    return p;
}

char *arena_text(Arena *a, const char *s, size_t len)
{
    char *p = arena_alloc(a, len + 1);
    if (len) memcpy(p, s, len);
    return p;
}

char *arena_vprintf(Arena *a, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *p = arena_alloc(a, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

char *arena_printf(Arena *a, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *p = arena_vprintf(a, fmt, args);
    va_end(args);
    return p;
}

void arena_rest(const Arena *a)
{
    for (ArenaChunk *c = a->chunk, *next; c; c = next) {
        next = c->next;
        if (c->mapped) madvise(c, c->mapped, MADV_DONTNEED);
    }
}

void memory_trim(void)
{
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

static void chunk_drop(ArenaChunk *c)
{
    if (c->mapped) munmap(c, c->mapped);
    else free(c);
}

void arena_drop(Arena *a)
{
    for (ArenaChunk *c = a->chunk, *next; c; c = next) next = c->next, chunk_drop(c);
    a->chunk = NULL, a->used = 0;
}
