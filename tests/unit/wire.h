/* wire.h - protobuf messages spelt out by tests, byte for byte. */
#ifndef OCTET_TEST_WIRE_H
#define OCTET_TEST_WIRE_H
#include <stdint.h>
#include <string.h>

typedef struct Wire {
    uint8_t at[1 << 14];
    size_t n;
} Wire;

static inline void wire_varint(Wire *w, uint64_t v)
{
    for (; v >= 0x80; v >>= 7) w->at[w->n++] = (uint8_t)(v | 0x80);
    w->at[w->n++] = (uint8_t)v;
}

static inline void wire_int(Wire *w, uint32_t field, int64_t v)
{
    wire_varint(w, (uint64_t)field << 3), wire_varint(w, (uint64_t)v);
}

static inline void wire_bytes(Wire *w, uint32_t field, const void *p, size_t n)
{
    wire_varint(w, (uint64_t)field << 3 | 2), wire_varint(w, n);
    memcpy(w->at + w->n, p, n);
    w->n += n;
}

static inline void wire_text(Wire *w, uint32_t field, const char *s) { wire_bytes(w, field, s, strlen(s)); }
static inline void wire_sub(Wire *w, uint32_t field, const Wire *sub) { wire_bytes(w, field, sub->at, sub->n); }
#endif
