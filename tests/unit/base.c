/* Arenas, vectors, maps, diagnostics. */
#include "ir/base/checked.h"
#include "ir/base/diag.h"
#include "ir/base/map.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

Test(base, arena_is_zeroed_and_aligned)
{
    Arena a = {0};
    for (size_t n = 0; n < 300000; n = n * 3 + 7) {
        char *p = arena_alloc(&a, n);
        cr_assert(p != NULL);
        for (size_t i = 0; i < n; i++) cr_assert(!p[i]);
        memset(p, 0xff, n);
        if (n >= 64) cr_expect((uintptr_t)p % 64 == 0);
    }
    cr_expect_str_eq(arena_printf(&a, "%d-%s", 7, "x"), "7-x");
    cr_expect_str_eq(arena_text(&a, "abcdef", 3), "abc");
    arena_drop(&a);
    cr_expect(a.used == 0 && !a.chunk);
    cr_expect(arena_alloc(&a, 16) != NULL);
    arena_drop(&a);
}

/* Bytes that are in this process's memory; `unknown` where the system does not say. */
static size_t resident(const void *p, size_t bytes, size_t unknown)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = 0;
    uint64_t entry;
    FILE *f = fopen("/proc/self/pagemap", "rb");
    for (size_t i = 0; f && i < bytes / page; i++) {
        long at = (long)(((uintptr_t)p / page + i) * sizeof entry);
        if (!fseek(f, at, SEEK_SET) && fread(&entry, sizeof entry, 1, f) == 1) n += entry >> 63;
    }
    if (!f) return unknown;
    fclose(f);
    return n * page;
}

/* Large pieces of an arena with a folder leave memory and come back as they were; without a place for files they stay. */
Test(base, arena_rests)
{
    enum { BYTES = 3 << 20 };
    const char *folder[] = {"/tmp", "/no/such/folder"};
    for (int f = 0; f < 2; f++) {
        Arena a = {.folder = folder[f]};
        uint8_t *small = arena_alloc(&a, 100), *p = arena_alloc(&a, BYTES);
        cr_expect((uintptr_t)p % 64 == 0);
        for (size_t i = 0; i < BYTES; i++) cr_assert(!p[i]);
        for (size_t i = 0; i < BYTES; i++) p[i] = (uint8_t)(i * 2654435761u >> 24);
        memset(small, 7, 100);
        cr_expect(resident(p, BYTES, BYTES) > BYTES / 2);
        arena_rest(&a);
        cr_expect(f ? resident(p, BYTES, BYTES) > BYTES / 2 : resident(p, BYTES, 0) < BYTES / 2);
        for (size_t i = 0; i < BYTES; i++) cr_assert(p[i] == (uint8_t)(i * 2654435761u >> 24));
        cr_expect(small[99] == 7);
        uint8_t *more = arena_alloc(&a, BYTES);
        cr_expect(more != p && !more[BYTES - 1]);
        arena_drop(&a);
    }
}

Test(base, vec_grows)
{
    Arena a = {0};
    VEC(int) v = {0};
    for (int i = 0; i < 1000; i++) cr_assert(vec_push(&a, &v, i * 3) == (uint32_t)i);
    for (int i = 0; i < 1000; i++) cr_assert(v.at[i] == i * 3);
    arena_drop(&a);
}

Test(base, map_finds_and_replaces)
{
    Arena a = {0};
    Map m = {0};
    cr_expect(map_get(&m, "x") == 0);
    for (uint32_t i = 1; i < 2000; i++) cr_assert(map_put(&a, &m, arena_printf(&a, "k%u", i), i));
    for (uint32_t i = 1; i < 2000; i++) cr_assert(map_get(&m, arena_printf(&a, "k%u", i)) == i);
    cr_expect_not(map_put(&a, &m, "k5", 77));
    cr_expect(map_get(&m, "k5") == 77 && map_get(&m, "k2000") == 0 && map_get(&m, "k") == 0);
    arena_drop(&a);
}

Test(base, interned_names_are_one_pointer)
{
    Arena a = {0};
    Map m = {0};
    const char *x = map_intern(&a, &m, "weights!", 7);
    cr_expect_str_eq(x, "weights");
    cr_expect(map_intern(&a, &m, "weights", 7) == x && map_intern(&a, &m, "weight", 6) != x);
    arena_drop(&a);
}

Test(base, diagnostics_say_where)
{
    Arena a = {0};
    Diag d = {.mem = &a, .subject = "m.onnx"};
    Loc loc = {"conv1", "Conv", 17, 0, 0}, nameless = {"", "Add", 3, 0, 0};
    cr_expect_not(diag_error(&d, &loc, "W has rank %d, expected %d", 3, 4));
    diag_note(&d, "because");
    diag_error(&d, &nameless, "bad"), diag_error(&d, NULL, "worse");
    diag_warn(&d, NULL, "odd");
    cr_expect_str_eq(d.line.at[0], "m.onnx: node 'conv1' (Conv, #17): error: W has rank 3, expected 4");
    cr_expect_str_eq(d.line.at[1], "  note: because");
    cr_expect_str_eq(d.line.at[2], "m.onnx: node #3 (Add): error: bad");
    cr_expect_str_eq(d.line.at[3], "m.onnx: error: worse");
    cr_expect_str_eq(d.warning.at[0], "m.onnx: warning: odd");
    for (int i = 0; i < 100; i++) diag_error(&d, NULL, "again");
    cr_expect(d.errors == 103 && d.line.n == DIAG_MAX + 1);
    arena_drop(&a);
}

Test(base, checked_arithmetic)
{
    int64_t r;
    cr_expect(checked_add(1, 2, &r) && r == 3 && !checked_add(INT64_MAX, 1, &r));
    cr_expect(!checked_mul(INT64_MAX, 2, &r) && !checked_sub(INT64_MIN, 1, &r));
    cr_expect(floor_div(-7, 2) == -4 && floor_mod(-7, 2) == 1 && floor_div(7, 2) == 3);
}
