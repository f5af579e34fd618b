/* dim.h - sizes known only at run time: interned integer polynomials over symbols.
 *
 * A Dim is a handle; equal expressions are the same handle (after dim_canon, also under learnt equalities), so "is this size
 * known equal" is one comparison. Constants are Dims too. All arithmetic is on mathematical integers held in int64 with
 * overflow checks: what would overflow, or grow over 64 terms, is kept as an opaque sum or product: evaluated exactly (or
 * refused by dim_eval), but nothing is proven about it.
 * Division is floor division by a positive divisor. Dim 0 is "unknown".
 *
 * A Guard is a condition that the sizes of a call must meet, recorded while shapes are inferred, checked at entry by the
 * artefact, with the node that needs it. Equalities are also used: the solved symbol is substituted everywhere (dim_canon).
 * Source of the normal form, the bounds and the rules: docs/IR.md, "Symbolic dimensions". */
#ifndef OCTET_DIM_H
#define OCTET_DIM_H
#include "ir/base/diag.h"

typedef struct Dims Dims;
typedef struct Dim { uint32_t id; } Dim;

typedef enum DimKind { DIM_INPUT, DIM_DATA } DimKind; /* a free size of an input; a size computed from data */

Dims *dims_new(Arena *mem);
Dim dim_const(Dims *d, int64_t v);
Dim dim_symbol(Dims *d, const char *name, DimKind kind, int64_t lo); /* the symbol of that name, made when new; lo: its least value (0 for inputs) */
Dim dim_fresh(Dims *d, const char *stem, DimKind kind);              /* a new symbol named stem.N */
enum { DIM_ELEMENT_BITS = 61 };                                      /* an element of a tensor lies in +-2^61: what reads it saturates */
Dim dim_element(Dims *d, const char *name);                          /* a new DIM_DATA symbol of that name, or name.N: any element */
Dim dim_truth(Dims *d, const char *name);                            /* the same for an element that is 1 or 0 */
Dim dim_add(Dims *d, Dim a, Dim b), dim_sub(Dims *d, Dim a, Dim b), dim_mul(Dims *d, Dim a, Dim b);
Dim dim_fdiv(Dims *d, Dim a, Dim b), dim_cdiv(Dims *d, Dim a, Dim b), dim_mod(Dims *d, Dim a, Dim b);
Dim dim_tdiv(Dims *d, Dim a, Dim b);                                  /* C's truncating division */
Dim dim_max(Dims *d, Dim a, Dim b), dim_min(Dims *d, Dim a, Dim b);
Dim dim_ge(Dims *d, Dim a, Dim b), dim_eq(Dims *d, Dim a, Dim b);     /* 1 or 0 */
Dim dim_select(Dims *d, Dim cond, Dim a, Dim b);                      /* cond is 1 or 0 */
Dim dim_not(Dims *d, Dim a), dim_either(Dims *d, Dim a, Dim b);       /* of conditions, which are 1 or 0; both: dim_mul */
Dim dim_scale(Dims *d, Dim a, float s);                               /* trunc((float)a * s): Resize by scales, float32 arithmetic */
bool dim_exact(Dims *d, Dim a, Dim b, Dim *q);                        /* a == q * b for all values of the symbols */

bool dim_is_const(const Dims *d, Dim a, int64_t *v);                  /* v may be NULL */
bool dim_is(const Dims *d, Dim a, int64_t v);                         /* is the constant v */
static inline bool dim_known(Dim a) { return a.id != 0; }
static inline bool dim_same(Dim a, Dim b) { return a.id == b.id; }    /* after dim_canon of both: proven equal */
bool dim_lower(Dims *d, Dim a, int64_t *lo), dim_upper(Dims *d, Dim a, int64_t *hi); /* false: no bound proven */
Dim dim_canon(Dims *d, Dim a);                                        /* learnt equalities applied */
bool dim_has_data(const Dims *d, Dim a);                              /* mentions a DIM_DATA symbol */

typedef enum GuardKind { GUARD_EQ, GUARD_GE, GUARD_EQ_OR_ONE, GUARD_NE } GuardKind; /* a==b, a>=b, a==b or a==1, a!=b */
typedef struct Guard {
    GuardKind kind;
    Dim a, b;
    const Loc *loc;  /* the node that needs it, may be NULL */
    const char *why; /* "inner dimensions of MatMul", lower case */
    Dim when;        /* must hold only where this condition is 1; id 0: always */
} Guard;

/* Require a condition: true when proven, or recorded as a guard (and learnt from); false when it can never hold: the caller
 * reports the error. */
bool dim_require(Dims *d, GuardKind kind, Dim a, Dim b, const Loc *loc, const char *why);
/* From now on what is required need only hold where `when` is 1 (id 0: always), and nothing is learnt from it: the branch of an If.
 * Yields what was assumed before. */
Dim dim_assume(Dims *d, Dim when);
void dim_unify(Dims *d, Dim a, Dim b); /* the same size by construction (a node and its copy): learnt, no guard needed */
/* The size of two sizes broadcast together, by the policy of docs/IR.md: 1 gives way, equal stays, two free input sizes are
 * taken as equal under a guard; a data size is never guessed: the result is the exact expression "b where a is 1, else a"
 * under a guard for each. Unknown (id 0) when they can never agree, or when both are unknown. */
Dim dim_broadcast(Dims *d, Dim a, Dim b, const Loc *loc);
uint32_t dim_guards(const Dims *d, const Guard **list);               /* in the order they were recorded */

/* Evaluation. Symbols are numbered from 0 in the order they were made. */
uint32_t dim_symbols(const Dims *d);
const char *dim_symbol_name(const Dims *d, uint32_t i);
DimKind dim_symbol_kind(const Dims *d, uint32_t i);
bool dim_is_symbol(const Dims *d, Dim a, uint32_t *i);
bool dim_eval(const Dims *d, Dim a, const int64_t *symbol, int64_t *v); /* false: overflow or division by zero */

/* A Dim as a program for other evaluators (the artefact's size table, the emitters): postfix over a small stack machine. */
typedef enum DimOp { DIMOP_CONST, DIMOP_SYM, DIMOP_ADD, DIMOP_MUL, DIMOP_FDIV, DIMOP_POS, DIMOP_GE0, DIMOP_EQ0, DIMOP_TDIV, DIMOP_SCALE } DimOp;
typedef struct DimCode { int32_t op; int32_t pad; int64_t arg; } DimCode; /* CONST: value; SYM: symbol number; SCALE: the float's bits */
uint32_t dim_code(const Dims *d, Dim a, Arena *mem, const DimCode **code); /* returns the length; every op but CONST, SYM pops its operands (POS, GE0, EQ0, SCALE one, others two) and pushes one */

const char *dim_text(const Dims *d, Dim a, Arena *mem);               /* "2*N + 1"; "?" for unknown */
#endif
