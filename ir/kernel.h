/* kernel.h - the kernel language: what to compute, how, and the loops that do it.
 *
 *   Expr     arithmetic on one element: a handle into the kernel's hash-consed pool; 0 means none. Indices, extents, guards,
 *            checks, values and epilogues are the same Exprs. A symbolic size is a SYM leaf holding a Dim.
 *   Buf      a tensor in memory: type, dims, layout (the order of its elements).
 *   Compute  one stage: a tensor said as a formula:  out[at] = how(reduce...) value  then epilogue.
 *            A kernel is a list of stages run in order; a stage may read the results of stages before it.
 *   Step     one scheduling directive: data, printable.
 *   Stmt     the loops that schedule_apply() makes; the interpreter and both emitters read them.
 *
 * A whole model is first lowered into one Kernel of many stages (the program), clustered, then cut into kernels.
 * Index arithmetic is i64 and non-negative wherever it is divided. Text form: docs/IR.md. */
#ifndef OCTET_KERNEL_H
#define OCTET_KERNEL_H
#include "ir/graph.h"

typedef enum Prim {
    P_NONE,
#define PRIM(name, ...) P_##name,
#include "ir/prim.def"
#undef PRIM
    PRIM_COUNT
} Prim;
typedef struct PrimInfo {
    const char *name;
    int arity;
    bool compares;           /* yields bool */
    const char *c, *c_int;   /* CUDA C templates for float and integer operands, $0 $1 $2; NULL: not defined there, or expanded */
    const char *expansion;   /* over a, b, c: the float definition in other prims, used where the target has no such instruction */
    const char *libm;        /* the f64 function that a POLY or CALL row names (an f behind it for f32); NULL: none */
    bool exact;              /* the expansion also holds for f64 */
    bool none;               /* not defined on floats */
    struct { const char *expansion; bool compares, exact, none; } integer; /* the same for integers and bool */
} PrimInfo;
extern const PrimInfo prims[PRIM_COUNT];

typedef uint32_t Expr;
typedef enum ExprKind { E_NONE, E_FLOAT, E_INT, E_SYM, E_AXIS, E_IT, E_LOAD, E_PRIM } ExprKind;
typedef struct ExprNode {
    uint8_t kind, type;      /* ExprKind; DType of the value: i64 for indices */
    uint16_t prim;           /* PRIM */
    uint32_t id;             /* SYM: a Dim; AXIS: which; LOAD: the buffer */
    Expr arg[MAX_RANK];      /* LOAD: one index a dimension (0-terminated when rank < MAX_RANK); PRIM: operands */
    union { double f; int64_t i; } u; /* FLOAT, INT */
} ExprNode;
/* The prim `guard(cond, value, other)`: value where cond holds, else other; loads in value are performed only where cond
 * holds. It is how padding is said. `select` evaluates both sides. `cast` converts to the node's type as ONNX's Cast
 * (float to int truncates and is undefined out of range; `sat` clamps first: saturating, NaN gives 0). */

/* The order of a buffer's elements. Physical axis p holds (index[dim] / div) % size; the last one is contiguous.
 * n = 0 is row-major. size 0: the rest of that dimension, ceil(dims[dim] / div). Elements that padding adds are zero in
 * constants and unspecified elsewhere. Example: weights W[o, k] in panels of 16: {dim 0 div 16 size 0} {dim 1} {dim 0 div 1 size 16}. */
enum { MAX_PHYS = 12 };
typedef struct LayoutAxis { int32_t dim, div, size; } LayoutAxis;
typedef struct Layout { int32_t n; LayoutAxis axis[MAX_PHYS]; } Layout;

typedef enum BufKind { BUF_NONE, BUF_IN, BUF_OUT, BUF_TMP, BUF_CONST, BUF_LOCAL, BUF_SHARED } BufKind; /* LOCAL, SHARED: made by the schedule, registers or stack, GPU shared memory */
typedef struct Buf {
    const char *name;
    BufKind kind;
    DType type;
    int rank;
    Expr dim[MAX_RANK];
    int32_t block[MAX_RANK]; /* not 0: the schedule keeps so many elements of the dimension, an index counts modulo it; 1: dropped */
    Layout layout;
    bool slack;              /* 64 bytes behind the last element may be read: so is every temporary placed. Only said of bytes */
    const Tensor *data;      /* CONST: row-major, before layout */
    uint32_t source;         /* program: the Val it holds, 0 for temporaries; extracted kernel: the program's buffer */
} Buf;

typedef enum LoopKind { LOOP_SERIAL, LOOP_UNROLL, LOOP_VECTOR, LOOP_PARALLEL, LOOP_BLOCK_X, LOOP_BLOCK_Y, LOOP_THREAD_X, LOOP_THREAD_Y, LOOP_KINDS } LoopKind;
extern const char *const loop_kinds[LOOP_KINDS];
typedef struct Axis {
    const char *name;
    Expr extent;
    LoopKind kind;
    bool shared, partial, guarded;
    int part, parts;         /* split: its parts are axes [part, part + parts) */
    int parent;              /* the axis it is a part of, or 0 */
    Expr whole;              /* split: its value, said with its parts */
    bool ragged;             /* split: parts may overrun the extent */
} Axis;

typedef struct Compute {
    int out, rank, reduces;  /* rank: number of space axes (loops over the results) */
    int space[MAX_RANK], reduce[MAX_RANK];
    Expr at[MAX_RANK];       /* where in out, one index per dimension of out; normally the space axes themselves */
    Prim how;                /* P_NONE: no reduction; else add, mul, max, min, and, or */
    Expr value, epilogue;    /* epilogue: over E_IT, the reduced value; 0 is the identity */
    Expr keep;               /* a place (a LOAD) that also receives each value before it is reduced */
    Expr check;              /* must hold at every point, or the kernel fails with OCTET_ERR_INDEX */
    Expr where;              /* 0, or a condition: the point is stored only where it holds (scatter by rank, TopK) */
    Expr when;               /* program: 0, or a size that is 1 where the stage runs at all, else 0 (octet.Choose; ir/demand.c) */
    int scan;                /* 0, or a space axis: consecutive stages with the same scan axis run together, one value of the axis after the other, so they may read what they wrote at smaller values */
    Prim update;             /* P_NONE: store; else out[at] = update(out[at], result), points in order (Scatter with a reduction) */
    bool apart;              /* stores where no other stage does, and nothing reads there before: in any order with those that store elsewhere */
    int share;               /* stages of one node with the same non-zero number may share the loops over common leading space axes */
    const Loc *loc;
} Compute;

/* SPLIT: axis[0] gets n + 1 parts, the last n of factor[0, n) values. The parts are axes named "c.0" "c.1" ..., made together with
 * the step (Axis.part, .parts, .parent), so that later steps name them. CALL: `name` may replace the loops from the first
 * reduction loop inward of the stage that reduces axis[0]. The others name n axes in axis[]. */
typedef enum StepKind { STEP_SPLIT, STEP_ORDER, STEP_SHARE, STEP_PARTIAL, STEP_GUARD, STEP_LOOP, STEP_CALL } StepKind;
enum { MAX_STEP = 16 };
typedef struct Step { StepKind what; LoopKind loop; int n; int axis[MAX_STEP]; int factor[MAX_STEP]; const char *name; } Step;
typedef struct Schedule { VEC(Step) step; } Schedule;

typedef enum StmtKind { S_FOR, S_IF, S_STORE, S_UPDATE, S_CHECK, S_ALLOC, S_BARRIER, S_CALL } StmtKind;
typedef enum Factor { FACTOR_NONE, FACTOR_LEFT, FACTOR_RIGHT } Factor;
/* What a `contract` call computes, in the terms of its body: an outer product tile over (line x) row x (col x lane), summed over
 * depth. left does not depend on col and lane, right does not depend on line and row. A `window` call: row x lane without col, and
 * left, an image, depends on lane too. A `pool` call: the same, left alone reduced by the call's how, a cast around it. */
typedef struct Tile {
    int line;                /* 0, or an axis around the rows: lines of an image, each of all its rows */
    int row, col, lane;      /* axes: rows of the register tile, its panels (0: none), the lanes of a panel (16) */
    int depth[MAX_RANK], depths; /* reduction axes, outermost first */
    int dot;                 /* 0, or the innermost reduction axis that one instruction sums: 4 bytes or 2 bf16, the elements of a word of 32 bits */
    Expr left, right;        /* the factors, without their casts to the type they are multiplied in */
    Expr scale, zero;        /* f32, of codes in blocks, (steps * the block's sum of left * right - zero * sum) * scale; else 0 */
    Expr sum;                /* of the block's values themselves, an f32; 0: there is no zero point */
    int64_t steps;
    int blocks;              /* of these: the first so many loops choose the block, inside them integers are summed */
    Expr shift;              /* right holds several codes: (byte >> shift) & mask */
    int64_t mask;            /* 0: a byte is one code */
    Expr epilogue;           /* over E_IT */
    Expr line_guard, row_guard, lane_guard; /* 0, or hold where the point exists */
    DType acc;               /* in which products are summed: f32 or i32; sums in blocks become f32 */
    int block;               /* f32: products are summed in blocks of so many, each from zero, and the blocks added */
    Expr pass, passes;       /* of a product: which of how many tiles that have the same panels, */
    int ahead;               /* while this axis, which moves the panels, keeps its value; 0: there is none */
    Factor again;            /* of a product: what the next tile reads again */
    Expr start;              /* 0, or what is added after the first of several blocks, or may begin a sum of words (a bias); the epilogue is without it then */
} Tile;
typedef struct Stmt {
    StmtKind kind;
    struct Stmt *next, *body; /* FOR, IF, CALL have a body; a CALL's body is what the call means */
    int axis;                 /* FOR: the variable; IF: the ragged axis it guards, or 0 */
    LoopKind loop;
    Expr lo, hi;              /* FOR: half-open range */
    Expr cond;                /* IF, CHECK */
    int buf;                  /* STORE, UPDATE, ALLOC, CALL */
    Expr at[MAX_RANK], value;
    Prim how;                 /* UPDATE: buf[at] = how(buf[at], value); CALL: what it reduces by */
    const char *name;         /* CALL */
    Tile tile;
} Stmt;

typedef struct Kernel {
    Arena *mem;
    Dims *dim;
    const char *name;
    VEC(Buf) buf;             /* [0] is none */
    VEC(Axis) axis;           /* [0] is none */
    VEC(Compute) stage;
    Schedule schedule;
    struct ExprPool *pool;    /* shared by scheduled copies of a kernel: it only grows */
    Stmt *loops;              /* after schedule_apply */
} Kernel;

/* ---- prim.c: one operation on numbers. t: the operands' type; results are rounded or wrapped to it, comparisons give 0 or 1.
 *      bits, cast, sat change the type and are number_bits, number_convert. ---- */
typedef union Number { double f; int64_t i; } Number;        /* f for float types; i for the others (u64 as its bits) */
double prim_float(Prim p, DType t, double a, double b, double c);
int64_t prim_int(Prim p, DType t, int64_t a, int64_t b, int64_t c);
double float_round(DType t, double f);
int64_t int_wrap(DType t, int64_t i);
Number number_convert(DType to, bool saturate, DType from, Number v);
Number number_bits(DType from, Number v);                    /* of type type_bits(from) */
DType type_bits(DType t);                                    /* f32 <-> i32, f64 <-> i64; DT_NONE for others */
bool prim_takes(Prim p, DType t);                            /* defined on operands of this type */
bool prim_chooses(Prim p);                                   /* takes one of its last two operands, by the first, a bool */

/* ---- expr.c: building folds and shares ---- */
Kernel *kernel_new(Arena *mem, Dims *dim, const char *name);
const ExprNode *expr_node(const Kernel *k, Expr e);          /* valid until the next expression is made */
uint32_t expr_count(const Kernel *k);                        /* handles are 1 .. expr_count */
Expr expr_float(Kernel *k, DType t, double f);
Expr expr_int(Kernel *k, DType t, int64_t i);
Expr expr_index(Kernel *k, int64_t i);                       /* an i64 constant */
Expr expr_dim(Kernel *k, Dim d);                             /* an i64: INT when constant, else SYM */
Expr expr_axis(Kernel *k, int axis);
Expr expr_it(Kernel *k, DType t);
Expr expr_load(Kernel *k, int buf, const Expr *at);
Expr expr_prim(Kernel *k, Prim p, Expr a, Expr b, Expr c);   /* P_cast and P_sat: expr_cast, expr_sat */
Expr expr_cast(Kernel *k, DType to, Expr a);
Expr expr_sat(Kernel *k, DType to, Expr a);
Expr expr_guard(Kernel *k, Expr cond, Expr value, Expr other);
static inline Expr expr_add(Kernel *k, Expr a, Expr b) { return expr_prim(k, P_add, a, b, 0); }
static inline Expr expr_sub(Kernel *k, Expr a, Expr b) { return expr_prim(k, P_sub, a, b, 0); }
static inline Expr expr_mul(Kernel *k, Expr a, Expr b) { return expr_prim(k, P_mul, a, b, 0); }
static inline Expr expr_div(Kernel *k, Expr a, Expr b) { return expr_prim(k, P_div, a, b, 0); }
static inline Expr expr_mod(Kernel *k, Expr a, Expr b) { return expr_prim(k, P_mod, a, b, 0); }
static inline Expr expr_lt(Kernel *k, Expr a, Expr b) { return expr_prim(k, P_lt, a, b, 0); }
static inline Expr expr_le(Kernel *k, Expr a, Expr b) { return expr_prim(k, P_le, a, b, 0); }
Expr expr_and(Kernel *k, Expr a, Expr b);                    /* 0 means true on either side */
bool expr_is_index(const Kernel *k, Expr e, int64_t *i);     /* an integer constant */
bool expr_is(const Kernel *k, Expr e, int64_t i);
bool expr_uses(const Kernel *k, Expr e, int axis);
bool expr_uses_it(const Kernel *k, Expr e); /* the reduced value, in an epilogue */
bool expr_range(Kernel *k, Expr e, int64_t *lo, int64_t *hi);/* of an index, from its axes' extents and its sizes' bounds; false: unknown */
Expr expr_step(Kernel *k, Expr e, int axis);                 /* e(axis + 1) - e(axis) when that does not depend on axis, else 0 */
Expr expr_map(Kernel *k, Expr e, const Expr *map);           /* axis a replaced by map[a], where that is not 0 */
Expr expr_replace(Kernel *k, Expr e, Expr from, Expr to);
Expr expr_rebuild(Kernel *k, const ExprNode *n);            /* like n, perhaps of another kernel, but with the id and operands that k has for it; folds */
Expr expr_inline(Kernel *k, Expr e, const Compute *def);     /* loads of def's output replaced by def's value at that index; def->at are its axes */
Expr expr_move(Kernel *k, Expr e, const int *buf);           /* loads of buffer b become loads of buf[b], where that is not 0 */
Expr expr_split(Kernel *k, Expr e);                          /* split axes replaced by their parts */
int expr_cost(const Kernel *k, Expr e);                      /* in plain operations; a polynomial is a dozen */
int expr_reads(const Kernel *k, Expr e, int buf);            /* how many loads of buf */
double expr_largest(const Kernel *k, Expr e);                /* magnitude of the finite float constants in it; 0: none */
/* Every load in e, depth first; visit returns false to stop. */
bool expr_loads(const Kernel *k, Expr e, bool (*visit)(void *ctx, Expr load), void *ctx);
Expr expr_expand(Kernel *k, Expr e);                         /* f32 prims with an expansion replaced by it */
Expr buf_address(Kernel *k, int buf, const Expr *at);        /* element offset, by layout */
Expr buf_elements(Kernel *k, int buf);                       /* how many elements its layout takes, padding included */
Expr reduce_identity(Kernel *k, Prim how, DType t);
int kernel_buf(Kernel *k, Buf b);
int kernel_axis(Kernel *k, const char *name, Expr extent);   /* name NULL: made up; names are unique in a kernel */
/* A scalar body such as "select(X < 0, alpha * X, X)": name i is arg[i], used at its own type. Numbers take the type of what
 * they meet. The error text is for unit tests: a body that does not parse is a bug. */
Expr scalar_parse(Kernel *k, const char *body, const char *const *name, const Expr *arg, int n, const char **error);

/* ---- kernel_text.c, kernel_verify.c ---- */
void kernel_print(const Kernel *k, FILE *f);
void loops_print(const Kernel *k, const Stmt *s, int depth, FILE *f);
const char *expr_text(const Kernel *k, Expr e, Arena *mem);
Kernel *kernel_parse(Arena *mem, Dims *dim, const char *text, Diag *diag); /* one kernel with its schedule; NULL: reported */
bool kernel_verify(Kernel *k, const char **why);             /* false is a bug of ours */

/* ---- interp.c: slow and exact, every index checked. Buffers are typed arrays in the layout of their Buf.
 *      data[b] for b in 1 .. buf.n-1 (LOCAL ones NULL); symbol: the values of the module's symbols. Returns 0 or what is numbered as in octet.h. */
enum { INTERP_ERR_OVERFLOW = 4, INTERP_ERR_INDEX = 6 };
int interp_compute(Kernel *k, const int64_t *symbol, void *const *data); /* the stages, ignoring the schedule */
int interp_loops(Kernel *k, const int64_t *symbol, void *const *data);   /* the loops */

/* ---- schedule.c (codegen) makes loops; here because tests of ir use its result ---- */
#endif
