/* model.h - the tables that the compiler writes and rt.c reads: a compiled model as data.
 *
 * A model is a list of steps; a step calls one kernel on the slices [lo, hi) of its parallel range. Buffers are (segment, offset)
 * pairs; sizes that depend on the call are entries of a table of integers computed by prepare() from small programs.
 * Sizes that depend on data computed by the model come in phases: before phase p's first step, its symbols are read from
 * buffers that earlier steps wrote, then its programs, guards and blocks follow. Phase 0 is prepare().
 * Everything here is constant, position independent apart from the pointers, and lives in read-only data. */
#ifndef OCTET_MODEL_H
#define OCTET_MODEL_H
#include "octet.h"

/* buf: the kernel's buffers in order; size: its free sizes in order; [lo, hi): part of the parallel range; scratch: per-thread
 * memory of as many bytes as the step's slice says, 64-byte aligned. Returns 0 or OCTET_ERR_INDEX. */
typedef int32_t (*OctetKernel)(void *const *buf, const int64_t *size, int64_t lo, int64_t hi, void *scratch);

/* Programs that compute sizes: postfix, one result on the stack. Operators as in ir/dim.h DimOp. */
typedef struct OctetCode { uint32_t op : 8, arg : 24; } OctetCode; /* arg: of SYM a size index; of CONST and SCALE an index into number[] */
typedef struct OctetSpan { uint32_t at, n; } OctetSpan;
enum { OCTET_CODE_CONST, OCTET_CODE_SYM, OCTET_CODE_ADD, OCTET_CODE_MUL, OCTET_CODE_FDIV, OCTET_CODE_POS, OCTET_CODE_GE0,
       OCTET_CODE_EQ0, OCTET_CODE_TDIV, OCTET_CODE_SCALE, OCTET_CODE_DEPTH = 64 }; /* DEPTH: of the evaluation stack */

typedef enum OctetSegment { SEG_NONE, SEG_INPUT, SEG_OUTPUT, SEG_ARENA, SEG_WEIGHTS, SEG_BLOCK } OctetSegment;
typedef struct OctetBuffer {
    uint32_t segment;      /* OctetSegment */
    uint32_t index;        /* INPUT, OUTPUT: which; BLOCK (dynamic plan): which of `block` */
    uint64_t offset;       /* ARENA (static plan), WEIGHTS: bytes from the segment's start */
} OctetBuffer;

typedef struct OctetStep {
    uint32_t kernel;               /* into the level's table */
    OctetSpan buf;                 /* of arg[]: indices into buffer[] */
    OctetSpan size;                /* of arg[]: indices into the size table */
    uint32_t barrier;              /* 1: begins when all steps before it are done; 0: may run at the same time as those since the last
                                    * barrier, but steps with a range of one item keep their order and one thread does them all */
} OctetStep;

/* What a step needs on one instruction set: schedules differ, so do the ranges they share out. */
typedef struct OctetSlice {
    uint32_t range;                /* size index of the parallel range's extent */
    uint32_t grain;                /* fewest range items worth a thread of their own, >= 1 */
    uint32_t scratch;              /* size index of the bytes of scratch, a multiple of 64; UINT32_MAX: none */
} OctetSlice;

/* A step's OctetWork, its numbers as indices into formula[]; an empty one: not known. */
typedef struct OctetWorkRow {
    int32_t what;                  /* bytes from the row to its text */
    int32_t math;
    uint32_t size[4], operations, bytes;
} OctetWorkRow;

typedef enum OctetSource { SOURCE_DIM, SOURCE_VALUE, SOURCE_BUFFER } OctetSource;
typedef struct OctetSymbol {
    uint32_t source;       /* OctetSource: a dim of an input, an element of an input, an element of a buffer that steps wrote */
    uint32_t index;        /* input, or buffer */
    uint32_t at;           /* axis, or element */
    int32_t dtype;         /* of elements: one of ONNX's integer types or bool */
    uint32_t when;         /* UINT32_MAX, or a size index: where that is 0 nothing wrote the buffer, and the symbol is 0 */
} OctetSymbol;

/* Ends (exclusive) of what each phase takes from the tables, which are sorted by phase. */
typedef struct OctetPhase { uint32_t step, symbols, sizes, guards, blocks; } OctetPhase; /* step: the first of the phase; sizes count programs only */
typedef struct OctetBlock { uint32_t first, last, size; uint32_t pad; } OctetBlock; /* dynamic plan: alive in steps [first, last], size index of its bytes */
typedef struct OctetGuard { int32_t kind; uint32_t a, b; uint32_t pad; const char *text; } OctetGuard; /* GuardKind; size indices; text with node and reason */

struct OctetModel {
    const char *name;
    uint32_t inputs, outputs;
    const OctetTensorInfo *input, *output;
    const uint32_t *input_dim;     /* per input and axis (rank entries each, in order): size index holding it */
    const uint32_t *output_dim;    /* the same for outputs */
    const uint32_t *output_buffer; /* per output: UINT32_MAX when the caller's memory receives it, else the arena's buffer that holds it */
    uint32_t symbols, sizes;       /* size[0, symbols): the symbols; then the programs' results */
    const OctetSymbol *symbol;
    const OctetSpan *program;      /* for sizes [symbols, sizes): spans of code[] */
    const OctetCode *code;
    uint32_t guards, phases;       /* at least one phase */
    const OctetGuard *guard;
    const OctetPhase *phase;
    uint32_t buffers, steps, args, blocks;
    const OctetBuffer *buffer;
    const OctetStep *step;
    const uint32_t *arg;
    const OctetBlock *block;       /* blocks > 0: dynamic plan */
    uint64_t arena_bytes;          /* static plan, without scratch; UINT64_MAX: dynamic */
    const void *weights;
    uint32_t levels, kernels;
    const char *const *level_name; /* worst first, NULL-terminated */
    const uint64_t *level_needs;   /* OCTET_CPU_* bits of each level */
    const int32_t *function;                /* the distinct kernels of all levels: bytes from the entry to the function */
    const uint32_t *const *level_kernel;    /* per level and kernel: which function */
    const OctetSlice *slice;
    const uint32_t *const *level_slice;     /* per level and step: which slice */
    const char *const *step_name;
    const OctetWorkRow *work;      /* per step */
    const OctetSpan *formula;      /* of code[] */
    const int64_t *number;         /* what code[] names */
};

/* Bytes of a context: a head of fixed size and the tables that prepare() fills. */
enum { OCTET_CONTEXT_HEAD = 1024 };
static inline size_t octet_context_size(uint32_t sizes, uint32_t args, uint32_t blocks)
{
    return (OCTET_CONTEXT_HEAD + 8 * ((size_t)sizes + args + 2 * (size_t)blocks) + 63) / 64 * 64;
}

/* CPU features by CPUID, XCR0 and the AMX permission, never by the CPU's name. */
enum {
    OCTET_CPU_AVX2 = 1,        /* AVX2, FMA, BMI2, F16C: x86-64-v3 */
    OCTET_CPU_AVX512 = 2,      /* F, BW, CD, DQ, VL: x86-64-v4 */
    OCTET_CPU_AVXVNNI = 4,
    OCTET_CPU_AVX512VNNI = 8,
    OCTET_CPU_AMX_INT8 = 16,
    OCTET_CPU_AMX_BF16 = 32,
    OCTET_CPU_AVX512BF16 = 64,
};
/* cpu.c: the bits of this machine. Asks the kernel for the AMX tiles when `wanted` has one of its bits. */
uint64_t octet_cpu_features(uint64_t wanted);

/* How a pool begins. run: does a job (team.h) on that many threads, the caller as the first of them. */
struct OctetJob;
struct OctetUnit;
typedef struct OctetPoolHead {
    void (*run)(OctetPool *p, const struct OctetJob *job, int32_t threads, const struct OctetUnit *first);
    int32_t threads;
} OctetPoolHead;

/* rt.c, pool.c: what the OctetApi of every model points at. */
OctetStatus octet_context_init(OctetContext *c, const OctetModel *m);
void octet_context_threads(OctetContext *c, OctetPool *pool, OctetParallelFor host_for, void *host, int32_t threads);
OctetStatus octet_prepare(OctetContext *c, const OctetTensor *in, OctetTensor *out, size_t *arena_bytes);
OctetStatus octet_run(OctetContext *c, const OctetTensor *in, OctetTensor *out, void *arena, size_t arena_bytes);
const char *octet_error_text(const OctetContext *c);
void octet_context_profile(OctetContext *c, uint64_t *nanoseconds);
void octet_context_level(OctetContext *c, int32_t level);
void octet_step_work(const OctetContext *c, int32_t step, OctetWork *w);
int32_t octet_cpu_level(const OctetModel *m);
size_t octet_pool_bytes(int32_t threads);
OctetStatus octet_pool_init(OctetPool *p, int32_t threads);
void octet_pool_finish(OctetPool *p);
#endif
