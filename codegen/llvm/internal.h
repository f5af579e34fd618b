/* internal.h - what the files of codegen/llvm share.
 *
 *   compile.c  jobs in, objects out: modules, optimisation, threads, the JIT
 *   emit.c     a scheduled kernel into a function: loops and statements
 *   value.c    expressions into values
 *   memory.c   loads and stores: scalar, contiguous, gathered, masked
 *   scalar.c   one operation on registers: primitives, casts, small floats
 *   transpose.c  tiles computed along one axis and stored along another
 *   micro.c    the `contract` and `tiles` calls: a register tile of a contraction
 *   codes.c    the same of codes in blocks
 *   window.c   the `window` and `pool` calls: a window that passes over an image channel by channel
 *   amx.c      tile registers
 *   repair.c   what LLVM's code generation gets wrong, written otherwise
 *   probe.c    loops of one instruction, to measure what the machine can do
 *
 * Values in registers: bool is i1; f16 and bf16 are i16 and smaller floats i8 (they are computed in f32 and only
 * moved as they are); all else is itself. A value is a vector when it depends on the lane axis and a scalar when
 * not; the two are mixed by splat. */
#ifndef OCTET_LLVM_INTERNAL_H
#define OCTET_LLVM_INTERNAL_H
#include "codegen/codegen.h"
#include <assert.h>
#include <llvm-c/Core.h>

typedef LLVMValueRef V;
typedef LLVMTypeRef T;

typedef struct TileShape {
    int most;        /* rows of the kernel's largest call in tile registers; 0: there is none */
    int rows, words; /* of a tile; of a step of a sum, 4 bytes each */
} TileShape;

typedef struct Emit {
    Kernel *k;
    const Target *target;
    bool small; /* little code is wanted more than time */
    Arena *mem; /* scratch of this emission */
    LLVMContextRef c;
    LLVMModuleRef m;
    LLVMBuilderRef b, entry; /* entry: before the entry block's branch; allocas and sizes */
    V fn, lo, hi, size, scratch, zeros;
    T i1, i8, i16, i32, i64, f32, f64, ptr;
    V *buf, *var;       /* per buffer, per axis */
    bool *lane_private; /* per buffer: allocated inside the lane loop, so every lane has its own */
    Expr *scratch_at;   /* per buffer: offset in scratch; 0: on the stack */
    VEC(struct DimValue {
        uint32_t dim;
        V v;
    })
    dim;
    V it;
    int lane; /* the lane axis, or 0 */
    unsigned lanes;
    int lane_axis; /* the axis of the lane loop also where its lanes are taken one by one */
    int64_t lane_first;
    V mask; /* active lanes; NULL: all */
    V some; /* i1: at least one lane of mask is active; NULL: known */
    LLVMBasicBlockRef fail;
    TileShape tiles;
    VEC(struct Pending *) pending; /* calls whose last results are not stored yet (micro.c) */
    V *memo[2]; /* per expression: its value as a scalar (lane 0), as lanes */
    uint32_t memos;
    VEC(uint32_t) trail; /* which memo entries are set: expr * 2 + mode */
} Emit;

/* ---- compile.c ---- */
void llvm_emit(LLVMModuleRef m, const LlvmJob *job, Arena *mem); /* adds the function job->symbol (emit.c) */
double probe_emit(LLVMModuleRef m, const Target *target, ProbeKind kind, const char *symbol, Arena *mem); /* operations of a round (probe.c) */

/* ---- scalar.c ---- */
T reg_type(const Emit *x, DType t);
T mem_type(const Emit *x, DType t);
T like(T scalar, V v); /* scalar, or as many of them as v has lanes */
bool is_wide(V v);
static inline V int64(const Emit *x, int64_t i) { return LLVMConstInt(x->i64, (unsigned long long)i, 1); }
V int_of(T t, int64_t i); /* constants; t may be a vector */
V real_of(T t, double f);
V splat(Emit *x, V v, unsigned lanes);
V intrinsic(Emit *x, const char *name, const T *over, size_t overs, V *arg, unsigned n);
V any_lane(Emit *x, V mask);
V scalar_const(Emit *x, const ExprNode *n);    /* E_FLOAT, E_INT */
V scalar_prim(Emit *x, Prim p, DType t, V *a); /* t: of the operands; select: of the result */
V scalar_cast(Emit *x, DType from, DType to, V v);
V scalar_sat(Emit *x, DType from, DType to, V v);
V scalar_sat_rint(Emit *x, DType to, V v, V plus); /* sat(rint(v) + plus): v f32, plus an i32 or NULL, to 8 or 16 bits */
V scalar_fma(Emit *x, V a, V b, V c); /* multiplication and addition where the target has no fma */

/* ---- value.c ---- */
V emit_value(Emit *x, Expr e);  /* within one statement */
V emit_fresh(Emit *x, Expr e);  /* starts a statement: nothing is known yet */
V emit_scalar(Emit *x, Expr e); /* fresh, as lane 0 sees it */
void forget_all(Emit *x);       /* an axis got another value */

/* ---- memory.c ---- */
enum { SCRATCH_ALIGN = 64 };
typedef struct Place {
    Expr at;     /* element offset */
    bool moves;  /* with the lanes */
    bool dense;  /* by one element */
    bool affine; /* by a fixed step: no two lanes meet */
    bool whole;  /* all lanes may be touched whatever the mask says */
} Place;
Place place_of(Emit *x, int buf, const Expr *index);
T element_type(Emit *x, int buf);
V emit_address(Emit *x, int buf, Expr at); /* pointer to element at, lane 0 */
V load_value(Emit *x, int buf, const Expr *index);
void store_at(Emit *x, int buf, const Place *at, V v);
void emit_store(Emit *x, int buf, const Expr *index, V v);
V full_mask(Emit *x);
bool store_masks(const Emit *x, int buf);                     /* are masked stores of neighbours instructions? */
void store_run(Emit *x, int buf, Expr at, V v, V mask);

/* ---- emit.c ---- */
Emit *emit_new(LLVMModuleRef m, const Target *target, Arena *mem); /* nothing but types and builders */
void emit_drop(Emit *x);
V function_new(Emit *x, const char *name, T *param, unsigned n);   /* returning i32, for the target */
typedef struct Loop {
    LLVMBasicBlockRef from, head, body, exit;
    V i, hi;
} Loop;
LLVMBasicBlockRef block_new(Emit *x, const char *name);
Loop loop_head(Emit *x, V lo, V hi); /* phis may be added until loop_body() */
void loop_body(Emit *x, Loop *l);
void loop_close(Emit *x, Loop *l, int64_t step); /* l->body becomes the latch */
void loop_close_by(Emit *x, Loop *l, V step);
void loop_runs(Emit *x, const Loop *l, int64_t times); /* after loop_body(): how often its body runs each time, about */
void emit_stmts(Emit *x, const Stmt *s);
V woven(Emit *x, V *v, unsigned n); /* n vectors dealt into each other: v[0][0] v[1][0] .. v[0][1] .. */

/* ---- transpose.c ---- */
bool emit_turned(Emit *x, const Stmt *s); /* false: nothing emitted, not such a loop */

/* ---- amx.c ---- */
typedef struct TileSum { /* a matched call in words */
    const Tile *t;
    int left_buf, right_buf, inner; /* inner: the innermost reduction loop, counts words; 0: there is none */
    int word;                       /* elements of a word: 4 bytes, 2 bf16 */
    int lines, width;               /* of a call; rows of a line */
    int run, pitch;                 /* set by tiles_fit: rows that tiles take as one; in such a run, from a line to the next */
    void (*between)(void *ctx);     /* NULL, or code that stands between the steps of the sum */
    void *ctx;
    Expr left_at, right_at, words;  /* element offsets; whole words of the innermost loop */
    Expr row_step;                  /* set by tiles_fit */
    Factor passes;                  /* set by tiles_fit: what is read once, while the next call reads the other factor again */
    int turn, turns;                /* set by tiles_fit: the axis whose values take turns within a step, and how many they are; 0: there is none */
} TileSum;
static inline bool tiles_go_through(const TileSum *s) { return s->run > s->width; } /* the gaps between lines */
bool tiles_fit(Emit *x, TileSum *s);
void tiles_want(Emit *x, const TileSum *s, int rows); /* of each such call, before the code */
void tiles_configure(Emit *x);
void tiles_busy(Emit *x, int word); /* one product for each of the four sums, of whatever is in the tiles (probe.c) */
void tiles_free(Emit *x);
enum { TILES_BUSY_PRODUCTS = 4 * 16 * 16 * 16 }; /* of words */
Expr tiles_words(Emit *x, const TileSum *s); /* how many of the words are summed in tiles */
int tiles_of_call(const Emit *x, const TileSum *s); /* of a call whose rows exist; 0: it has too few */
/* i32, or f32 for bf16, out[][cols * 16] = sums of the rows of n tiles from `first` on, run by run; col: panels to read */
void tiles_sum(Emit *x, const TileSum *s, V first, int n, const V *col, int cols, V out);

typedef struct TileBlock { /* of codes in blocks: a tile's rows times a panel */
    int words;             /* a multiple of a step's */
    V left, by;            /* the first row's bytes; from a row to the next */
    V right;               /* lines of 16 words */
    V out;                 /* i32 [rows][16] */
} TileBlock;
void tiles_want_codes(Emit *x, int rows, int words);       /* of each such call, before the code */
bool tiles_take_codes(const Emit *x, int words, int rows); /* are tiles made for such blocks, and so many rows? */
void tiles_block(Emit *x, const TileBlock *b);

/* ---- micro.c ---- */
bool micro_contract(Emit *x, const Stmt *s); /* false: nothing emitted, the call's body says it */
void micro_plan(Emit *x, const Stmt *s);     /* before any code: what the calls among these statements want */
void micro_finish(Emit *x);                  /* after all code: what calls have left to do */
void tile_row(Emit *x, const Tile *t, V i);  /* the axes of a call's rows get the values of its i-th */
typedef struct Branch {
    LLVMBasicBlockRef then, done;
} Branch;
Branch branch_open(Emit *x, V cond);
void branch_close(Emit *x, Branch b);

/* ---- window.c ---- */
bool window_sum(Emit *x, const Stmt *s); /* like micro_contract */

/* ---- repair.c ---- */
void module_repair(LLVMModuleRef m); /* after optimisation */
#endif
