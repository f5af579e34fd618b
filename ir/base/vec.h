/* vec.h - arrays that grow in an arena. VEC(T) declares one; zero is empty. Growth leaves the old storage to the arena. */
#ifndef OCTET_VEC_H
#define OCTET_VEC_H
#include "ir/base/arena.h"

#define VEC(T)                                                                                                         \
    struct {                                                                                                           \
        T *at;                                                                                                         \
        uint32_t n, cap;                                                                                               \
    }
/* Appends a value and yields its index. */
#define vec_push(arena, v, ...)                                                                                        \
    ((v)->n == (v)->cap ? vec_grow((arena), (void **)&(v)->at, &(v)->cap, sizeof *(v)->at) : (void)0,                  \
     (v)->at[(v)->n] = (__VA_ARGS__), (v)->n++)

static inline void vec_grow(Arena *a, void **at, uint32_t *cap, size_t size)
{
    uint32_t n = *cap ? *cap * 2 : 8;
    void *p = arena_alloc(a, n * size);
    if (*cap) memcpy(p, *at, *cap * size);
    *at = p, *cap = n;
}
#endif
