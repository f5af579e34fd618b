/* map.c - open addressing, doubled at 3/4 full. */
#include "ir/base/map.h"

uint64_t hash_bytes(const void *p, size_t n, uint64_t seed)
{
    uint64_t h = 14695981039346656037u ^ seed;
    for (const unsigned char *c = p; n--; c++) h = (h ^ *c) * 1099511628211u;
    return h;
}

static uint32_t slot_of(const Map *m, const char *key, size_t len, uint32_t hash)
{
    uint32_t i = hash & (m->cap - 1);
    for (; m->slot[i].key; i = (i + 1) & (m->cap - 1))
        if (m->slot[i].hash == hash && !strncmp(m->slot[i].key, key, len) && !m->slot[i].key[len]) break;
    return i;
}

static void map_grow(Arena *a, Map *m)
{
    Map old = *m;
    m->cap = old.cap ? old.cap * 2 : 16;
    m->slot = NEW_ARRAY(a, struct MapSlot, m->cap);
    for (uint32_t i = 0; i < old.cap; i++)
        if (old.slot[i].key)
            m->slot[slot_of(m, old.slot[i].key, strlen(old.slot[i].key), old.slot[i].hash)] = old.slot[i];
}

uint32_t map_get(const Map *m, const char *key)
{
    if (!m->cap) return 0;
    size_t len = strlen(key);
    return m->slot[slot_of(m, key, len, (uint32_t)hash_bytes(key, len, 0))].value;
}

static bool put(Arena *a, Map *m, const char *key, size_t len, uint32_t value, bool copy, const char **kept)
{
    if (m->n * 4 >= m->cap * 3) map_grow(a, m);
    uint32_t hash = (uint32_t)hash_bytes(key, len, 0);
    struct MapSlot *s = &m->slot[slot_of(m, key, len, hash)];
    bool fresh = !s->key;
    if (fresh) s->key = copy ? arena_text(a, key, len) : key, s->hash = hash, m->n++;
    s->value = value, *kept = s->key;
    return fresh;
}

bool map_put(Arena *a, Map *m, const char *key, uint32_t value)
{
    const char *kept;
    return put(a, m, key, strlen(key), value, false, &kept);
}

const char *map_intern(Arena *a, Map *m, const char *s, size_t len)
{
    const char *kept;
    put(a, m, s, len, 1, true, &kept);
    return kept;
}
