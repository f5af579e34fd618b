/* codegen.h - Graph to artefact: the steps of code generation and what passes between them.
 *
 *   lower_graph (ir/lower.h)  Graph -> one Kernel of many stages, the program
 *   program_alike             constants that are each other's transpose are one
 *   program_cluster           stages inlined into readers, epilogues attached
 *   program_fork              products whose rows may be few or many in a form for each
 *   program_layout            a Layout for every buffer; copies where a reader needs another order
 *   program_faint             weights too small to count are zero
 *   program_widen             weights that are codes are widened a block of columns at a time, beside their product
 *   program_join              products that follow each other share loops over blocks of rows
 *   program_cut               the program cut into kernels; equal kernels shared
 *   cut_generalize            kernels that differ in sizes alone have one in common
 *   tune + schedule_apply     kernel + target facts -> directives -> loops
 *   plan_memory               every temporary an offset in the arena, or a formula
 *   llvm_emit / cuda_emit     loops -> object code | CUDA C
 *   artefact_write            objects + weights + tables + runtime -> .so .o .a executable, header */
#ifndef OCTET_CODEGEN_H
#define OCTET_CODEGEN_H
#include "ir/kernel.h"
#include "runtime/model.h"
#include <regex.h>

/* ---- targets: instruction-set levels as rows of a table (codegen/target.c) ---- */
typedef enum DotKind { DOT_NONE, DOT_VNNI512, DOT_VNNI256, DOT_AVX2, DOT_AVX512, DOT_AMX } DotKind;
typedef enum PairKind { PAIR_FMA, PAIR_DPBF16, PAIR_AMX } PairKind;
/* Stands in for the tile instructions on machines without them (tests): code made with it calls these addresses in this process. */
typedef struct TileEmulator {
    void (*configure)(const void *config);
    void (*zero)(int32_t tile);
    void (*load)(int32_t tile, const void *at, int64_t step);
    void (*store)(int32_t tile, void *at, int64_t step);
    void (*dot)(int32_t sum, int32_t left, int32_t right); /* u8 x i8 */
    void (*dot_codes)(int32_t sum, int32_t left, int32_t right); /* i8 x u8 */
    void (*dot_bf16)(int32_t sum, int32_t left, int32_t right);
} TileEmulator;
/* What of a level an artefact of several has for few machines: there, little code is wanted more than time. */
typedef enum OldLevel { OLD_NONE, OLD_DOTS, OLD_WORDS, OLD_ALL } OldLevel; /* DOTS: integer products, which newer levels have instructions for; WORDS: those of bf16 too */
typedef struct Target {
    const char *name;          /* "portable" "avx2" "avxvnni" "avx512" "avx512vnni" "avx512bf16" "amx"; "cuda" */
    const char *arch;          /* "x86_64", "aarch64", "cuda" */
    const char *cpu, *features;/* LLVM's target-cpu and target-features */
    uint64_t needs;            /* OCTET_CPU_* */
    int lanes;                 /* f32 lanes of a vector register */
    int registers;             /* vector registers */
    bool fma;                  /* has fused multiply-add */
    DotKind dot;               /* how u8 x s8 dot products are made; DOT_NONE: plain loops */
    PairKind pair;             /* and those of bf16: widened and multiplied, VDPBF16PS, or in tiles and the rest widened */
    bool gpu;
    OldLevel old;
    const char *spare;         /* NULL, or the level whose code runs where it hardly matters which: a row before this one */
    const TileEmulator *emulate; /* NULL: the instructions themselves */
} Target;
const Target *target_at(uint32_t i);                 /* all rows, worst first; NULL past the end */
const Target *target_find(const char *name);         /* NULL: no such level */
/* Does one instruction sum the products of a word (four bytes, two bf16)? Else both sides are taken apart into halves. */
bool target_sums_words(const Target *t, DType left, DType right);
/* Does one instruction add two neighbouring products of bytes, as far as 16 bits hold them: of codes of 4 bits they do? */
bool target_pairs_bytes(const Target *t);
/* How a register tile takes a step: one instruction multiplies and adds, or two do, or words are taken apart into halves first. */
typedef enum TileStep { TILE_FUSED, TILE_APART, TILE_HALVES } TileStep;
/* The sums, and what a step needs beside them; of codes in blocks a mask, too. */
bool target_tile_fits(const Target *t, int rows, int panels, bool codes, TileStep step);
uint64_t target_host_features(void);                 /* OCTET_CPU_* of this machine (shares rt's detection) */

/* How values between kernels and weights are stored, and what float products are made of; sums are f32 in every case. */
typedef struct Storage {
    DType type;                /* bf16 or f16; DT_NONE: as the model says */
    int planes;                /* 0, or: the factors of float products are split in so many bf16 planes; type is DT_NONE then */
    const regex_t *keep;       /* NULL, or: nodes whose results, weights and products stay f32 */
} Storage;

/* ---- alike.c ---- */
void program_alike(Kernel *k);                       /* constants that are each other's transpose become one */
/* ---- cluster.c ---- */
Kernel *program_cluster(Kernel *k);                  /* changes k's stages in place and returns k */
/* ---- fork.c ---- */
void program_fork(Kernel *k);                        /* products of few or many rows in two forms, before layouts */
/* ---- layout.c ---- */
void program_layout(Kernel *k, const Storage *store); /* store NULL: every value keeps its type */
/* ---- words.c ---- */
void program_fill_words(Kernel *k);                  /* images of few channels that are multiplied in words of floats: channels last, filled up with zeros */
/* ---- faint.c ---- */
void program_faint(Kernel *k);                       /* constant factors have no subnormal numbers: some processors take very long for them */
/* ---- widen.c ---- */
void program_widen(Kernel *k, bool join);            /* weights that are codes: widened by the kernel that multiplies with them; join false: while they are read */
/* ---- store.c ---- */
void program_store(Kernel *k, const Storage *store);
void program_narrow(Kernel *k, DType t, const bool *narrow); /* per buffer: stored as t, rounded where it is stored, widened where it is read */
bool is_deep_sum(Kernel *k, const Compute *c, const regex_t *keep); /* a contraction whose factors are worth other types */
/* ---- split.c ---- */
void program_split(Kernel *k, const Storage *store);
/* ---- join.c ---- */
void program_join(Kernel *k);                        /* products that follow each other share loops, so that one runs on what the other just made */
enum { JOINED = 16 };                                /* most stages that it puts together */
uint32_t joined_stages(Kernel *k, uint32_t at, uint32_t *stage); /* those it would from this product on, if layouts do not matter; 0: none */
/* ---- cut.c ---- */
typedef struct Cut {
    VEC(Kernel *) kernel;                            /* distinct kernels */
    struct CutStep { uint32_t kernel; uint32_t bufs, sizes; const int *buf; const Dim *size; const Loc *loc; Dim when; } *step; /* buf[i]: program buffer of the kernel's parameter i+1; size[i]: its i-th free size; when: 1 where the step runs at all, id 0: always */
    uint32_t steps;
    Kernel **general;                                /* NULL, or per kernel: NULL, or what stands for it and others where little code is wanted */
} Cut;
Cut *program_cut(Kernel *program, Arena *mem);
/* ---- general.c ---- */
void cut_generalize(Cut *c, Dims *dim, Arena *mem);  /* dim: the program's. Steps may get more sizes than their kernels have */
/* An extracted kernel's parameters are buffers 1..params in order; its SYM leaves are Dims of a private Dims with symbols s0.. in order of `size`. */
uint32_t kernel_params(const Kernel *k);             /* IN, OUT, TMP, CONST buffers: they come first */

/* ---- tune.c, schedule.c ---- */
void tune(Kernel *k, const Target *t, bool small);   /* small: little code is wanted more than time. Fills k->schedule (a former one is dropped); tune a copy of the struct per target */
/* Splits an axis in n + 1 parts, the last n of the given sizes: adds the step and the axes of the parts. Returns the first part. */
int schedule_split(Kernel *k, int axis, const int *factor, int n);
Kernel *schedule_apply(const Kernel *k, const char **error); /* a copy with loops; NULL: the schedule does not fit (text in error) */
Expr kernel_range(Kernel *k);                        /* extent of the parallel range: product of the leading parallel loops; constant 1 when there are none */
Expr kernel_scratch(Kernel *k);                      /* llvm/: bytes of per-thread scratch a scheduled kernel needs on a CPU, a multiple of 64 */

/* ---- llvm/ ---- */
int tile_rows_for(int64_t rows);                     /* amx.c: rows of a tile where so many follow each other */
/* Tiles of a call: so many lines of so many rows, a line `pitch` rows behind the other (0: elsewhere). Where a line begins soon after the last one
 * ends, tiles go on through the gap. Yields their number, and how many rows follow each other. */
int tiles_for(int64_t lines, int64_t rows, int64_t pitch, int64_t *run);
typedef struct LlvmJob { Kernel *kernel; const Target *target; const char *symbol; bool small; } LlvmJob; /* small: little code is wanted more than time */
typedef struct Bytes { const void *at; size_t n; } Bytes;
typedef struct Cache Cache; /* cache.h */
/* Compiles scheduled kernels to relocatable ELF objects, one each, on `threads` threads; every symbol hidden, signature OctetKernel. Jobs
 * whose code is the same get the same bytes (equal `at`), with the symbol of the first of them.
 * cache: NULL, or kernels that need not be compiled. objects: NEW_ARRAYed in mem. false: reported. */
bool llvm_compile(Arena *mem, Diag *diag, const LlvmJob *job, uint32_t jobs, int threads, Cache *cache, Bytes **objects);
/* rename.c: an object's symbols `symbol` and `*.symbol` end in `to` instead. */
Bytes object_rename(Arena *mem, Bytes object, const char *symbol, const char *to);
/* For tests and --emit: text of one kernel. assembly false: LLVM IR after optimisation. */
bool llvm_text(Arena *mem, Diag *diag, const LlvmJob *job, bool assembly, const char **text);
/* Runs one kernel in this process (tests, observers): NULL: reported. */
typedef struct LlvmJit LlvmJit;
LlvmJit *llvm_jit_new(Diag *diag);
OctetKernel llvm_jit_add(LlvmJit *j, const LlvmJob *job);
void llvm_jit_drop(LlvmJit *j);
/* Loops that do nothing but one thing, to measure what this machine can do with a target's instructions. Called as a kernel:
 * buf[0] the data to read, size[0] its bytes (a multiple of PROBE_ALIGN), buf[1] PROBE_ALIGN bytes that receive a result;
 * hi - lo rounds, each `per_round` operations (READ: all bytes once). */
typedef enum ProbeKind { PROBE_F32, PROBE_BF16, PROBE_INT8, PROBE_READ } ProbeKind;
enum { PROBE_ALIGN = 4096 };
OctetKernel llvm_probe(LlvmJit *j, const Target *t, ProbeKind kind, double *per_round); /* NULL: reported */

/* ---- cuda/ ---- */
void cuda_emit(Kernel *k, const char *symbol, FILE *f); /* one scheduled kernel as CUDA C */
#endif
