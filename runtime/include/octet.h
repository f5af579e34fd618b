/* octet.h - the interface of a compiled model. Ships with every artefact; depends on libc alone.
 *
 * A model is immutable and shared by any number of contexts; a context serves one call at a time and may move between
 * threads. octet_run() allocates nothing, opens nothing and, on one thread, makes no system call. All memory is the
 * caller's: octet_context_bytes() for a context, octet_arena_bytes() for the intermediate results at given sizes.
 * Layout of every tensor: row-major, dense, in the element types of `OctetTensorInfo.dtype` (ONNX's numbering; 4- and 2-bit types
 * one element to a byte). */
#ifndef OCTET_H
#define OCTET_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

enum { OCTET_MAX_RANK = 8, OCTET_API_VERSION = 2 };
typedef enum OctetStatus {
    OCTET_OK = 0,
    OCTET_ERR_RANK = 1,     /* an input has another rank than the model */
    OCTET_ERR_DIM = 2,      /* a fixed size differs */
    OCTET_ERR_GUARD = 3,    /* sizes that do not fit together: octet_error_text() says which */
    OCTET_ERR_OVERFLOW = 4, /* sizes too large */
    OCTET_ERR_ARENA = 5,    /* the arena is too small or not 64-byte aligned */
    OCTET_ERR_INDEX = 6,    /* an index in the data is out of range; outputs are unspecified */
    OCTET_ERR_CPU = 7,      /* this CPU has none of the instruction sets in the artefact */
    OCTET_ERR_ARGUMENT = 8, /* a NULL or inconsistent argument */
    OCTET_ERR_SYSTEM = 9    /* a thread could not be started */
} OctetStatus;

typedef struct OctetModel OctetModel;     /* in the artefact's read-only data */
typedef struct OctetContext OctetContext; /* placed by octet_context_init() in memory of the caller */
typedef struct OctetPool OctetPool;       /* a thread pool, placed by octet_pool_init() */

typedef struct OctetTensorInfo {
    const char *name;
    int32_t dtype;                         /* ONNX TensorProto.DataType */
    int32_t rank;
    int64_t dim[OCTET_MAX_RANK];           /* -1: free */
    const char *dim_name[OCTET_MAX_RANK];  /* of free sizes: "N", "2*seq + 1"; NULL for fixed ones */
} OctetTensorInfo;

typedef struct OctetTensor {
    void *data;
    int64_t dim[OCTET_MAX_RANK];           /* inputs: given by the caller; outputs: written by octet_prepare() and octet_run() */
} OctetTensor;

/* How a host brings its own threads: call task(arg, i) for every i in [0, n), in any order, on any threads, all of them running
 * at the same time (n is at most the thread count given), and return when all are done. */
typedef void (*OctetTask)(void *arg, int32_t i);
typedef void (*OctetParallelFor)(void *host, int32_t n, OctetTask task, void *arg);

/* What a step has to do, for profiles. */
typedef enum OctetMath { OCTET_MATH_F32, OCTET_MATH_BF16, OCTET_MATH_INT8, OCTET_MATHS } OctetMath; /* the arithmetic that bounds it */
typedef struct OctetWork {
    const char *what;                      /* "contraction u8 i8", "window f32", "map f32", ... */
    int32_t math;                          /* OctetMath */
    int64_t size[4];                       /* contraction: batch, rows, columns, depth; else 1, results, 1, terms of each; 0: unknown */
    double operations, bytes;              /* multiplications and additions of products; distinct bytes read and written; 0: unknown */
} OctetWork;

#ifndef OCTET_API
#define OCTET_API
#endif
/* What the generated NAME.h wraps for one model, as NAME_inputs(), NAME_prepare(), ... with `OctetModel` bound. */
typedef struct OctetApi {
    uint32_t version;                      /* OCTET_API_VERSION */
    const OctetModel *model;
    int32_t inputs, outputs;
    const OctetTensorInfo *input, *output;
    size_t context_bytes;                  /* alignment 64 */
    size_t arena_bytes;                    /* SIZE_MAX when it depends on the sizes */
    /* Places a context. threads >= 1; pool may be NULL for one thread or when a host function is set. No more threads are used
     * than this process has CPUs, and fewer for a while when they often lose them amid their work. */
    OctetStatus (*context_init)(OctetContext *c, const OctetModel *m); /* one thread, best instruction set */
    void (*context_threads)(OctetContext *c, OctetPool *pool, OctetParallelFor host_for, void *host, int32_t threads);
    /* Checks the inputs' sizes, computes the outputs' sizes and the arena's. Of the inputs' data only the elements of small
     * integer inputs that are sizes (a shape, k, axes' lengths) are read. Output sizes that only running tells are -1: such an
     * output is placed in the arena, run() sets its `data` and dims, and it lives until the arena is used again. */
    OctetStatus (*prepare)(OctetContext *c, const OctetTensor *in, OctetTensor *out, size_t *arena_bytes);
    /* OCTET_ERR_ARENA: call prepare() again for the size that is needed (it may have become known only while running). */
    OctetStatus (*run)(OctetContext *c, const OctetTensor *in, OctetTensor *out, void *arena, size_t arena_bytes);
    const char *(*error_text)(const OctetContext *c); /* of the last failure on this context: "" when there was none */
    /* A built-in pool. pool_bytes(threads) of memory, alignment 64. */
    size_t (*pool_bytes)(int32_t threads);
    OctetStatus (*pool_init)(OctetPool *p, int32_t threads);
    void (*pool_finish)(OctetPool *p);
    int32_t (*cpu_level)(const OctetModel *m); /* index into levels of the best instruction set usable here, -1: none */
    const char *const *levels;             /* names, NULL-terminated, worst first */
    /* Profiling: with a buffer of `steps` counters set, run adds nanoseconds to each. NULL switches off. */
    int32_t steps;
    const char *const *step_name;
    void (*context_profile)(OctetContext *c, uint64_t *nanoseconds);
    void (*context_level)(OctetContext *c, int32_t level); /* caps the instruction set, for tests and comparison */
    void (*step_work)(const OctetContext *c, int32_t step, OctetWork *w);   /* at the sizes of the last prepare or run */
} OctetApi;

#ifdef __cplusplus
}
#endif
#endif
