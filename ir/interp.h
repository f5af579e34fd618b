/* interp.h - inside the interpreter: what interp.c (one point at a time) and interp_block.c (many) share. */
#ifndef OCTET_INTERP_H
#define OCTET_INTERP_H
#include "ir/expr.h"

/* ---- code ---- */
typedef enum Op {
    OP_KONST,
    OP_AXIS,
    OP_IT,
    OP_LOAD,
    OP_FLOAT,
    OP_FLOAT_TEST,
    OP_INT,
    OP_INDEX,
    OP_SELECT,
    OP_CONVERT,
    OP_BITS,
    OP_SKIP_UNLESS
} Op;
typedef struct Inst {
    uint8_t op, type, from; /* type of the result; of the operands */
    uint8_t rank;
    uint16_t prim;
    uint32_t to; /* register; SKIP: the instruction to go on at */
    uint32_t arg[MAX_RANK];
    uint32_t id; /* AXIS, LOAD */
} Inst;
typedef struct Code {
    Inst *at;
    uint32_t n, regs, result;
    DType type;
    Number *reg;  /* the constants among them are written once */
    Number *wide; /* interp_block.c: BLOCK values of every register */
} Code;

typedef struct Place { /* how a buffer is addressed: sizes and layout as numbers */
    char *data;
    DType type;
    int32_t block[MAX_RANK];
    int rank, phys;
    int64_t dim[MAX_RANK], size[MAX_PHYS];
    int32_t which[MAX_PHYS], div[MAX_PHYS];
    int bytes;
} Place;

typedef struct Run {
    Kernel *k;
    Arena mem; /* code and locals */
    const int64_t *symbol;
    void *const *data;
    Place *place; /* per buffer, filled on first use */
    bool *placed;
    int64_t *axis;
    Number it;
    Code **code; /* per expression */
    uint32_t codes;
    uint32_t *reg_of, reg_ofs; /* the compiler's: per expression, its register + 1 in the code being made */
    uint8_t *ways;             /* per stage: WAY_*, 0 not looked at */
    int error;
} Run;

enum { BLOCK = 128 };
enum { WAY_KNOWN = 1, WAY_SPACE = 2, WAY_REDUCE = 4 }; /* innermost space axis, or reduction axis, in blocks */

Code *interp_code(Run *r, Expr e);
Place *interp_place(Run *r, int buf);
int64_t interp_offset(const Place *p, const int64_t *at); /* of an element; -1: out of range */
Number interp_load(const Place *p, int64_t i);
void interp_store(const Place *p, int64_t i, Number v);
Number interp_combine(Prim how, DType t, Number a, Number b);
/* The points [base, base + n) of `axis`, the others fixed: all of them done, or none, and false: do them one by one. */
bool interp_block_space(Run *r, const Compute *s, int axis, int64_t base, int n);
bool interp_block_reduce(Run *r, const Compute *s, int axis, int64_t base, int n, Number *acc);
#endif
