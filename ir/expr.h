/* expr.h - inside the expression pool: what expr.c, expr_index.c, scalar.c and the kernel text share, nobody else. */
#ifndef OCTET_EXPR_H
#define OCTET_EXPR_H
#include "ir/kernel.h"

enum { AXIS_BITS = 63, MAX_WALKS = 64 };
#define HAS_LOAD ((uint64_t)1 << 63)

typedef struct Memo {
    uint32_t *stamp, *value, cap, now;
} Memo; /* value[e] is meant where stamp[e] == now */
typedef struct Range {
    int64_t lo, hi;
} Range;
typedef struct ExprPool {
    Arena *mem;
    VEC(ExprNode) node; /* [0] is none */
    VEC(uint64_t) axes; /* beside node: which axes are below (a hash of them), and HAS_LOAD */
    uint32_t *hash, cap;
    Memo memo[MAX_WALKS]; /* of walks inside each other */
    int walks;
    struct {
        uint32_t *stamp, cap, now;
        Range *of;
    } range;
} ExprPool;

Expr expr_raw(Kernel *k, Prim p, DType type, const Expr *a); /* without folding */
Expr expr_bits(Kernel *k, Expr a);
bool expr_is_const(const Kernel *k, Expr e);
Number expr_number(const Kernel *k, Expr e); /* of a constant */
Expr expr_of_number(Kernel *k, DType t, Number v);
/* Every node of e once, operands first; within: only below nodes that have one of these marks, 0: all. */
bool expr_visit(const Kernel *k, Expr e, uint64_t within, bool (*visit)(void *ctx, const Kernel *k, Expr e), void *ctx);
Expr index_fold(Kernel *k, Prim p, Expr a, Expr b); /* expr_index.c: i64 identities; 0: none applies */
#endif
