/* arena.c - chunks from malloc, bumped; the only place of the compiler that calls malloc and free. */
#include "ir/base/arena.h"
#include <stdio.h>
#include <stdlib.h>

enum { ALIGN = 64, CHUNK = 1 << 16 };
struct ArenaChunk {
    ArenaChunk *next;
    size_t used, size; /* of the bytes behind the header */
};
enum { HEADER = (sizeof(ArenaChunk) + ALIGN - 1) / ALIGN * ALIGN };

static void out_of_memory(void)
{
    fputs("octet: out of memory\n", stderr);
    exit(70);
}

static ArenaChunk *chunk_new(size_t bytes)
{
    size_t size = bytes > CHUNK ? bytes : CHUNK;
    ArenaChunk *c = size < SIZE_MAX - HEADER - ALIGN ? calloc(1, HEADER + size + ALIGN) : NULL;
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
        c = chunk_new(n), at = 0;
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

void arena_drop(Arena *a)
{
    for (ArenaChunk *c = a->chunk, *next; c; c = next) next = c->next, free(c);
    a->chunk = NULL, a->used = 0;
}
