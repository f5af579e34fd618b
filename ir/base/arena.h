/* arena.h - memory that is born together and dies together.
 *
 * A function that allocates takes the arena first; what it returns lives exactly as long as that arena; nobody frees.
 * Out of memory ends the process from this one place with exit code 70 (the compiler is a batch program; the runtime that
 * ships in artefacts allocates nothing). An arena is used by one thread at a time. */
#ifndef OCTET_ARENA_H
#define OCTET_ARENA_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct ArenaChunk ArenaChunk;
typedef struct Arena {
    ArenaChunk *chunk; /* newest first */
    size_t used;       /* bytes handed out, for --max-memory and tests */
    const char *folder; /* NULL, or where large pieces lie, in files without a name: see arena_rest() */
} Arena;

#if defined(__GNUC__)
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define PRINTF_LIKE(fmt, args)
#endif

void *arena_alloc(Arena *a, size_t bytes);                      /* zeroed, 64-byte aligned, never NULL; bytes may be 0 */
void *arena_copy(Arena *a, const void *from, size_t bytes);     /* a private copy */
char *arena_text(Arena *a, const char *s, size_t len);          /* a NUL-terminated copy of s[0, len) */
char *arena_printf(Arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
char *arena_vprintf(Arena *a, const char *fmt, va_list args);
void arena_rest(const Arena *a);                                /* pages of large pieces leave memory, and come back when they are touched */
void memory_trim(void);                                         /* what was freed, by anybody, goes back to the system where the C library can */
void arena_drop(Arena *a);                                      /* frees everything; the arena may be used again */

#define NEW(arena, T)          ((T *)arena_alloc(arena, sizeof(T)))
#define NEW_ARRAY(arena, T, n) ((T *)arena_alloc(arena, sizeof(T) * (size_t)(n)))
#define COUNT_OF(array)        (sizeof(array) / sizeof((array)[0]))
#endif
