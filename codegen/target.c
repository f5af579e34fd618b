/* target.c - instruction-set levels as rows of a table, and which of them this machine has.
 *
 * A level is what an artefact carries a copy of its kernels for. Rows go from worst to best; features are explicit and the cpu is
 * always one of the psABI levels, so that nothing depends on the name of a processor. */
#include "codegen/codegen.h"

#define V3 "+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt,+movbe,+popcnt"
#define V4 V3 ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
/* 512-bit registers are wanted: LLVM's default for x86-64-v4 prefers 256 bits. */
#define WIDE ",-prefer-256-bit"

/* clang-format off */
static const Target targets[] = {
    {.name = "portable", .arch = "x86_64", .cpu = "x86-64", .features = "", .needs = 0, .old = OLD_ALL, .lanes = 4, .registers = 16},
    {.name = "avx2", .arch = "x86_64", .cpu = "x86-64-v3", .features = V3, .needs = OCTET_CPU_AVX2, .old = OLD_DOTS, .lanes = 8, .registers = 16, .fma = true, .dot = DOT_AVX2},
    {.name = "avxvnni", .arch = "x86_64", .cpu = "x86-64-v3", .features = V3 ",+avxvnni", .needs = OCTET_CPU_AVX2 | OCTET_CPU_AVXVNNI, .spare = "avx2", .lanes = 8,
     .registers = 16, .fma = true, .dot = DOT_VNNI256},
    {.name = "avx512", .arch = "x86_64", .cpu = "x86-64-v4", .features = V4 WIDE, .needs = OCTET_CPU_AVX2 | OCTET_CPU_AVX512, .old = OLD_WORDS, .spare = "avx2", .lanes = 16,
     .registers = 32, .fma = true, .dot = DOT_AVX512},
    {.name = "avx512vnni", .arch = "x86_64", .cpu = "x86-64-v4", .features = V4 ",+avx512vnni" WIDE,
     .needs = OCTET_CPU_AVX2 | OCTET_CPU_AVX512 | OCTET_CPU_AVX512VNNI, .lanes = 16, .registers = 32, .fma = true, .dot = DOT_VNNI512},
    {.name = "avx512bf16", .arch = "x86_64", .cpu = "x86-64-v4", .features = V4 ",+avx512vnni,+avx512bf16" WIDE,
     .needs = OCTET_CPU_AVX2 | OCTET_CPU_AVX512 | OCTET_CPU_AVX512VNNI | OCTET_CPU_AVX512BF16, .lanes = 16, .registers = 32, .fma = true,
     .dot = DOT_VNNI512, .pair = PAIR_DPBF16},
    /* Where there are tiles, they sum bf16; for the rest VDPBF16PS would take as long as four FMAs do (docs/adr/0008). */
    {.name = "amx", .arch = "x86_64", .cpu = "x86-64-v4", .features = V4 ",+avx512vnni,+avx512bf16,+amx-tile,+amx-int8,+amx-bf16" WIDE,
     .needs = OCTET_CPU_AVX2 | OCTET_CPU_AVX512 | OCTET_CPU_AVX512VNNI | OCTET_CPU_AVX512BF16 | OCTET_CPU_AMX_INT8 | OCTET_CPU_AMX_BF16, .spare = "avx512bf16", .lanes = 16,
     .registers = 32, .fma = true, .dot = DOT_AMX, .pair = PAIR_AMX},
    {.name = "cuda", .arch = "cuda", .cpu = "", .features = "", .lanes = 1, .registers = 255, .fma = true, .gpu = true},
};
/* clang-format on */

const Target *target_at(uint32_t i) { return i < COUNT_OF(targets) ? &targets[i] : NULL; }

const Target *target_find(const char *name)
{
    for (uint32_t i = 0; i < COUNT_OF(targets); i++)
        if (!strcmp(targets[i].name, name)) return &targets[i];
    return NULL;
}

bool target_sums_words(const Target *t, DType left, DType right)
{
    if (left == DT_bf16) return t->pair == PAIR_DPBF16;
    bool bytes = (left == DT_u8 && right == DT_i8) || (left == DT_i8 && right == DT_u8);
    if (!bytes) return false;
    return t->dot == DOT_VNNI512 || t->dot == DOT_VNNI256 || t->dot == DOT_AMX;
}

bool target_pairs_bytes(const Target *t) { return t->dot == DOT_AVX2 || t->dot == DOT_AVX512; }

/* Halves are kept of the side that has fewer registers, the other side's pass: two of them, a product, and one for what takes a
 * signed word apart or a mask. */
bool target_tile_fits(const Target *t, int rows, int panels, bool codes, TileStep step)
{
    enum { PANEL = 16, PASSING = 5, CODES = 2 }; /* CODES: a mask of them, ones for the sums of pairs */
    int registers = PANEL / t->lanes, right = panels * registers, sums = rows * right + (codes ? CODES : 0);
    if (rows * panels == 1) return true;
    if (step == TILE_HALVES) return sums + 2 * (rows < right ? rows : right) + PASSING <= t->registers;
    return sums + right + (registers > 1) <= t->registers - (step == TILE_FUSED && t->fma ? 1 : 2);
}

/* The artefact's own detection, so that a target chosen here is one the artefact would choose. */
uint64_t target_host_features(void) { return octet_cpu_features(UINT64_MAX); }
