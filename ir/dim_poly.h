/* dim_poly.h - inside of dim*.c: the normal form of sizes.
 *
 *   Poly   sum of coefficient * Mono, terms sorted by degree, then by atoms (a monomial order); a Dim is its number
 *   Mono   product of atom powers
 *   Atom   a symbol, or what is no polynomial: floor division, max(x, 0), 1 if x >= 0, 1 if x == 0, truncating
 *          division, a float scale; and ADD, MUL for a sum or product too large for this form: exact, but nothing is
 *          proven of it
 *
 * Everything else is spelled with these:  max(a,b) = b + pos(a-b)  min(a,b) = a - pos(a-b)  a mod b = a - b * fdiv(a,b)
 * select(c,a,b) = c*a + (1-c)*b. So arithmetic alone finds the normal form, also of a Where over sizes.
 *
 * Polys are passed as numbers. Those that poly_* and sum_finish make are 0 when something overflows or is unknown;
 * 0 passes through them. */
#ifndef OCTET_DIM_POLY_H
#define OCTET_DIM_POLY_H
#include "ir/base/map.h"
#include "ir/dim.h"

enum { TERMS = 64, SUM_TERMS = 4 * TERMS, PROOF_DEPTH = 6, DIVISION_STEPS = 200 };

typedef struct Factor {
    uint32_t atom, power;
} Factor;
typedef struct Mono {
    uint32_t at, n, degree, hash;
} Mono; /* at: first factor; by ascending atom */
typedef struct Term {
    int64_t c;
    uint32_t mono;
} Term;

/* A fact proven under the learnt equalities and bounds known at `when`; stale when more has been learnt. */
typedef struct Proof {
    uint32_t when;
    bool proven;
    int64_t lo;
} Proof;
typedef struct Poly {
    uint32_t at, n, hash;
    uint32_t canon, canon_when;
    Proof lower[2]; /* [1]: also using that no size exceeds SIZE_LIMIT */
} Poly;
typedef struct Atom {
    DimOp op;
    bool data;     /* mentions a DIM_DATA symbol */
    uint32_t a, b; /* Dims; SCALE: b holds the float's bits; SYM: a is the symbol's number */
    uint32_t hash;
    uint32_t self; /* the Dim that is this atom alone */
} Atom;
typedef struct Symbol {
    const char *name;
    DimKind kind;
    uint32_t atom;
    int64_t lo, hi;
    bool element;      /* of a tensor, so that running tells it */
    bool truth;        /* is 1 or 0 */
    bool bounded;      /* hi is proven */
    uint32_t solution; /* a Dim: what it was found to equal */
} Symbol;
typedef struct Table {
    uint32_t *slot, cap, n;
} Table; /* numbers + 1, by hash */

struct Dims {
    Arena *mem;
    VEC(Factor) factor;
    VEC(Mono) mono;
    VEC(Term) term;
    VEC(Poly) poly; /* [0] unknown, [1] zero */
    VEC(Atom) atom;
    VEC(Symbol) symbol;
    VEC(Guard) guard;
    Table monos, polys, atoms;
    Map names;       /* symbol number + 1 */
    uint32_t learnt; /* grows with every fact learnt; starts at 1 */
    uint32_t fresh;
    Dim when;        /* what is required counts only where this is 1; id 0: always */
};

/* No axis of a real tensor is longer: lets the usual "to the end" of Slice, INT64_MAX, vanish. */
enum { SIZE_LIMIT = INT32_MAX };

/* A sum under construction. */
typedef struct Sum {
    Term t[SUM_TERMS];
    uint32_t n;
    bool bad;
} Sum;
static inline Dim dim_of(uint32_t p) { return (Dim){p}; }

/* ---- dim_poly.c ---- */
uint32_t mono_intern(Dims *d, const Factor *f, uint32_t n);
uint32_t poly_intern(Dims *d, const Term *t, uint32_t n);
uint32_t atom_intern(Dims *d, DimOp op, uint32_t a, uint32_t b);
bool poly_has_data(const Dims *d, uint32_t p);
void sum_add(Sum *s, int64_t c, uint32_t mono);
uint32_t sum_finish(Dims *d, Sum *s);
uint32_t poly_const(Dims *d, int64_t v);
bool poly_is_const(const Dims *d, uint32_t p, int64_t *v);
int64_t poly_const_term(const Dims *d, uint32_t p);
uint32_t poly_add(Dims *d, uint32_t a, int64_t k, uint32_t b);
uint32_t poly_shift(Dims *d, uint32_t a, int64_t k);
uint32_t poly_scale(Dims *d, uint32_t a, int64_t k);
uint32_t poly_mul(Dims *d, uint32_t a, uint32_t b);
uint32_t mono_power(const Dims *d, uint32_t mono, uint32_t atom);

/* ---- dim_bounds.c ---- */
bool poly_lower(Dims *d, uint32_t p, int depth, bool limit, int64_t *lo);
bool poly_upper(Dims *d, uint32_t p, bool limit, int64_t *hi);
bool poly_at_least(Dims *d, uint32_t p, int depth, bool limit, int64_t v);

/* ---- dim.c ---- */
int64_t poly_content(const Dims *d, uint32_t p, int64_t g, bool whole);
uint32_t poly_divided(Dims *d, uint32_t p, int64_t k);
bool poly_never_zero(Dims *d, uint32_t p);
bool dim_scale_eval(int64_t x, uint32_t bits, int64_t *v);
#endif
