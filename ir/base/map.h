/* map.h - text to a number, and interned text.
 *
 * Interned names of one Names are equal exactly when their pointers are. Numbers stored in a Map are never 0: 0 is "absent". */
#ifndef OCTET_MAP_H
#define OCTET_MAP_H
#include "ir/base/arena.h"

typedef struct Map {
    struct MapSlot { const char *key; uint32_t value; uint32_t hash; } *slot;
    uint32_t n, cap;
} Map;

uint32_t map_get(const Map *m, const char *key);                          /* 0: absent */
bool map_put(Arena *a, Map *m, const char *key, uint32_t value);          /* false: the key was there and was replaced. The key is not copied */
const char *map_intern(Arena *a, Map *m, const char *s, size_t len);      /* a Map used for interning holds value 1 for all */
uint64_t hash_bytes(const void *p, size_t n, uint64_t seed);              /* FNV-1a, 64 bits */
#endif
