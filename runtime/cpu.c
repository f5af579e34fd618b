/* cpu.c - which instruction sets may be used here: what the processor has (CPUID), what the system saves (XCR0), and
 * for AMX the permission that Linux gives on request. Never the processor's name. */
#include "model.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REQ_XCOMP_PERM = 0x1023, XFEATURE_TILEDATA = 18 }; /* arch_prctl(2) */
enum { STATE_YMM = 0x6, STATE_ZMM = 0xe6, STATE_TILE = 0x60000 };

typedef struct Leaf {
    uint32_t r[4];
} Leaf; /* eax ebx ecx edx */
enum { EAX, EBX, ECX, EDX };
enum { LEAF_1, LEAF_7, LEAF_7_1, LEAF_EXT, LEAVES };

/* A feature is ours when all of these bits are set and the system saves its registers. */
typedef struct Bit {
    uint8_t leaf, reg, bit;
} Bit;
typedef struct Feature {
    uint64_t bit;
    uint32_t state;
    int n;
    Bit need[10];
} Feature;
static const Feature features[] = {
    {OCTET_CPU_AVX2,
     STATE_YMM,
     9,
     {{LEAF_1, ECX, 12},
      {LEAF_1, ECX, 22},
      {LEAF_1, ECX, 28},
      {LEAF_1, ECX, 29},
      {LEAF_1, ECX, 23},
      {LEAF_7, EBX, 3},
      {LEAF_7, EBX, 5},
      {LEAF_7, EBX, 8},
      {LEAF_EXT, ECX, 5}}},
    {OCTET_CPU_AVX512,
     STATE_ZMM,
     5,
     {{LEAF_7, EBX, 16}, {LEAF_7, EBX, 17}, {LEAF_7, EBX, 28}, {LEAF_7, EBX, 30}, {LEAF_7, EBX, 31}}},
    {OCTET_CPU_AVXVNNI, STATE_YMM, 1, {{LEAF_7_1, EAX, 4}}},
    {OCTET_CPU_AVX512VNNI, STATE_ZMM, 1, {{LEAF_7, ECX, 11}}},
    {OCTET_CPU_AMX_INT8, STATE_TILE, 2, {{LEAF_7, EDX, 24}, {LEAF_7, EDX, 25}}},
    {OCTET_CPU_AMX_BF16, STATE_TILE, 2, {{LEAF_7, EDX, 24}, {LEAF_7, EDX, 22}}},
    {OCTET_CPU_AVX512BF16, STATE_ZMM, 1, {{LEAF_7_1, EAX, 5}}},
};

static Leaf leaf(uint32_t number, uint32_t sub)
{
    Leaf l = {{0}};
    if ((uint32_t)__get_cpuid_max(number & 0x80000000u, NULL) < number) return l;
    __cpuid_count(number, sub, l.r[EAX], l.r[EBX], l.r[ECX], l.r[EDX]);
    return l;
}

static uint32_t saved_state(const Leaf *l1)
{
    uint32_t lo = 0, hi = 0;
    if (l1->r[ECX] & 1u << 27) __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

uint64_t octet_cpu_features(uint64_t wanted)
{
    const uint64_t tiles = OCTET_CPU_AMX_INT8 | OCTET_CPU_AMX_BF16;
    Leaf l[LEAVES] = {leaf(1, 0), leaf(7, 0), {{0}}, leaf(0x80000001u, 0)};
    if (l[LEAF_7].r[EAX] >= 1) l[LEAF_7_1] = leaf(7, 1);
    uint32_t state = saved_state(&l[LEAF_1]);
    uint64_t have = 0;
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        const Feature *f = &features[i];
        int met = (state & f->state) == f->state;
        for (int b = 0; b < f->n && met; b++) met = l[f->need[b].leaf].r[f->need[b].reg] >> f->need[b].bit & 1;
        if (met) have |= f->bit;
    }
    if (have & wanted & tiles) {
        if (syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XFEATURE_TILEDATA) != 0) have &= ~tiles;
    }
    return have & (wanted | ~tiles);
}
#else
uint64_t octet_cpu_features(uint64_t wanted)
{
    (void)wanted;
    return 0;
}
#endif
