/* expr_index.c - the algebra of indices: i64 expressions over axes and sizes.
 *
 * A sum is kept flat, like terms merged: c1 * t1 + c2 * t2 + ... + constant, in the order the terms first appeared;
 * sizes are one term (a Dim). So what a reshape divides is what the next one multiplies again, n / 16 goes when n is
 * split by 16, and a comparison that the extents of its axes decide is a constant. Divided values are non-negative
 * (kernel.h). */
#include "ir/expr.h"
#include <assert.h>

enum { MAX_TERMS = 40 };
#define BIG ((int64_t)1 << 61) /* beyond it a bound is unknown */

typedef struct Term {
    Expr e;
    int64_t c;
} Term;
typedef struct Sum {
    Kernel *k;
    int n;
    Term term[MAX_TERMS];
    int64_t constant;
    Dim dim;   /* the sizes in it; id 0: none */
    bool full; /* too many terms, or too large: not a sum */
} Sum;

static bool is_prim(const Kernel *k, Expr e, Prim p)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_PRIM && n->prim == p && n->type == DT_i64;
}

static Expr arg(const Kernel *k, Expr e, int i) { return expr_node(k, e)->arg[i]; }

static bool divisor(const Kernel *k, Expr e, Prim p, int64_t *c) /* e is x / c or x % c, c > 0 */
{
    return is_prim(k, e, p) && expr_is_index(k, arg(k, e, 1), c) && *c > 0;
}

/* ---- sums ---- */
static bool mul_small(int64_t a, int64_t b, int64_t *r)
{
    const int64_t most = (int64_t)1 << 31;
    *r = 0;
    if (a == 0 || b == 0) return true;
    if (a < -BIG || a > BIG || b < -BIG || b > BIG) return false;
    int64_t x = a < 0 ? -a : a, y = b < 0 ? -b : b;
    if ((x >= most || y >= most) && x > BIG / y) return false;
    return *r = a * b, true;
}

static void sum_constant(Sum *s, int64_t v)
{
    s->constant += v;
    s->full = s->full || s->constant > BIG || s->constant < -BIG;
}

static void sum_term(Sum *s, Expr e, int64_t c)
{
    for (int i = 0; i < s->n; i++)
        if (s->term[i].e == e) {
            s->term[i].c += c;
            return;
        }
    if (s->n == MAX_TERMS) {
        s->full = true;
        return;
    }
    s->term[s->n++] = (Term){e, c};
}

static void sum_dim(Sum *s, Dim d, int64_t c)
{
    Dims *dims = s->k->dim;
    d = dim_mul(dims, d, dim_const(dims, c));
    s->dim = dim_known(s->dim) ? dim_add(dims, s->dim, d) : d;
}

static void sum_add(Sum *s, Expr e, int64_t c)
{
    const ExprNode n = *expr_node(s->k, e);
    int64_t v;
    if (s->full) return;
    if (n.kind == E_INT) {
        if (mul_small(n.u.i, c, &v)) sum_constant(s, v);
        else s->full = true;
    } else if (n.kind == E_SYM) {
        sum_dim(s, (Dim){n.id}, c);
    } else if (is_prim(s->k, e, P_add) || is_prim(s->k, e, P_sub)) {
        sum_add(s, n.arg[0], c);
        sum_add(s, n.arg[1], n.prim == P_add ? c : -c);
    } else if (is_prim(s->k, e, P_neg)) {
        sum_add(s, n.arg[0], -c);
    } else if (is_prim(s->k, e, P_mul) && expr_is_index(s->k, n.arg[1], &v) && mul_small(v, c, &v)) {
        sum_add(s, n.arg[0], v);
    } else {
        sum_term(s, e, c);
    }
}

/* (x / a % b) * (c * a) + (x % a) * c  is  (x % (a * b)) * c, and without the % b it is x * c. a may be a size. */
static bool rejoin(Sum *s, int hi, int lo)
{
    Kernel *k = s->k;
    Expr low = s->term[lo].e, high = s->term[hi].e, x, join;
    int64_t c = s->term[lo].c, a, b, scaled;
    if (!is_prim(k, low, P_mod) || !c) return false;
    Expr a_of = arg(k, low, 1);
    x = arg(k, low, 0);
    if (expr_is_index(k, a_of, &a)) {
        if (!mul_small(a, c, &scaled) || s->term[hi].c != scaled) return false;
    } else {
        if (s->term[hi].c != c || !is_prim(k, high, P_mul) || arg(k, high, 1) != a_of) return false;
        high = arg(k, high, 0), a = 0;
    }
    Expr quotient = expr_div(k, x, a_of);
    if (high == quotient) join = x;
    else if (a && divisor(k, high, P_mod, &b) && arg(k, high, 0) == quotient && mul_small(a, b, &scaled))
        join = expr_mod(k, x, expr_index(k, scaled));
    else return false;
    s->term[lo].c = s->term[hi].c = 0;
    sum_add(s, join, c);
    return true;
}

static void sum_rejoin(Sum *s)
{
    bool again = true;
    while (again && !s->full) {
        again = false;
        for (int lo = 0; lo < s->n && !again; lo++) {
            if (!is_prim(s->k, s->term[lo].e, P_mod)) continue;
            for (int hi = 0; hi < s->n && !again; hi++) again = hi != lo && rejoin(s, hi, lo);
        }
    }
}

static Expr raw2(Kernel *k, Prim p, Expr a, Expr b) { return expr_raw(k, p, DT_i64, (Expr[]){a, b}); }

static Expr scaled(Kernel *k, Expr e, int64_t c) { return c == 1 ? e : raw2(k, P_mul, e, expr_index(k, c)); }

static Expr join(Kernel *k, Expr sum, Expr e, bool minus) { return !sum ? e : raw2(k, minus ? P_sub : P_add, sum, e); }

/* Positive terms first, so that few subtractions are written. */
static Expr sum_expr(Sum *s)
{
    Kernel *k = s->k;
    Expr e = 0;
    int64_t rest = s->constant;
    for (int i = 0; i < s->n; i++)
        if (s->term[i].c > 0) e = join(k, e, scaled(k, s->term[i].e, s->term[i].c), false);
    if (dim_known(s->dim)) {
        Expr d = expr_dim(k, dim_add(k->dim, s->dim, dim_const(k->dim, s->constant)));
        if (!expr_is_index(k, d, &rest)) e = join(k, e, d, false), rest = 0;
    }
    if (!e && rest > 0) e = expr_index(k, rest), rest = 0;
    for (int i = 0; i < s->n; i++) {
        int64_t c = s->term[i].c;
        if (c < 0) e = e ? join(k, e, scaled(k, s->term[i].e, -c), true) : scaled(k, s->term[i].e, c);
    }
    if (!e) return expr_index(k, rest);
    return rest > 0 ? join(k, e, expr_index(k, rest), false) : rest < 0 ? join(k, e, expr_index(k, -rest), true) : e;
}

static Sum sum_of(Kernel *k, Expr a, Expr b, int64_t c) /* a + c * b; b may be 0 */
{
    Sum s = {.k = k};
    sum_add(&s, a, 1);
    if (b) sum_add(&s, b, c);
    if (!s.full) sum_rejoin(&s);
    return s;
}

static Expr fold_sum(Kernel *k, Prim p, Expr a, Expr b)
{
    Sum s = sum_of(k, a, b, p == P_add ? 1 : -1);
    return s.full ? 0 : sum_expr(&s);
}

static Expr fold_mul(Kernel *k, Expr a, Expr b)
{
    const ExprNode *x = expr_node(k, a), *y = expr_node(k, b);
    int64_t c;
    if (x->kind == E_SYM && y->kind == E_SYM) return expr_dim(k, dim_mul(k->dim, (Dim){x->id}, (Dim){y->id}));
    if (y->kind == E_INT) {
        Sum s = {.k = k};
        sum_add(&s, a, y->u.i);
        return s.full ? 0 : sum_expr(&s);
    }
    if (is_prim(k, a, P_mul) && expr_is_index(k, arg(k, a, 1), &c))
        return expr_mul(k, expr_mul(k, arg(k, a, 0), b), expr_index(k, c));
    if (is_prim(k, b, P_mul) && expr_is_index(k, arg(k, b, 1), &c))
        return expr_mul(k, expr_mul(k, a, arg(k, b, 0)), expr_index(k, c));
    return x->kind == E_SYM && y->kind != E_SYM ? raw2(k, P_mul, b, a) : 0; /* sizes on the right */
}

/* ---- ranges ---- */
static Range range_of(Kernel *k, Expr e);

static int64_t clamp(int64_t v) { return v > BIG ? BIG : v < -BIG ? -BIG : v; }

static int64_t bound_mul(int64_t a, int64_t b)
{
    int64_t r;
    if (a == 0 || b == 0) return 0;
    bool minus = (a < 0) != (b < 0);
    return mul_small(a, b, &r) ? clamp(r) : minus ? -BIG : BIG;
}

static Range dim_range(Kernel *k, Dim d)
{
    Range r = {-BIG, BIG};
    int64_t v;
    if (dim_lower(k->dim, d, &v)) r.lo = clamp(v);
    if (dim_upper(k->dim, d, &v)) r.hi = clamp(v);
    return r;
}

static Range mul_range(Range a, Range b)
{
    int64_t v[4] = {bound_mul(a.lo, b.lo), bound_mul(a.lo, b.hi), bound_mul(a.hi, b.lo), bound_mul(a.hi, b.hi)};
    Range r = {v[0], v[0]};
    for (int i = 1; i < 4; i++) {
        if (v[i] < r.lo) r.lo = v[i];
        if (v[i] > r.hi) r.hi = v[i];
    }
    return r;
}

static Range div_range(Range a, Range b)
{
    if (a.lo < 0 || b.lo <= 0) return (Range){-BIG, BIG};
    return (Range){b.hi >= BIG ? 0 : a.lo / b.hi, a.hi >= BIG ? BIG : a.hi / b.lo};
}

static Range mod_range(Range a, Range b)
{
    if (a.lo < 0 || b.lo <= 0) return (Range){-BIG, BIG};
    return (Range){0, b.hi >= BIG || a.hi < b.hi - 1 ? a.hi : b.hi - 1};
}

static Range type_range(DType t)
{
    if (t == DT_bool) return (Range){0, 1};
    if (!dtype_is_int(t) || dtypes[t].bits > 32) return (Range){-BIG, BIG};
    return (Range){dtype_min(t), dtype_max(t)};
}

static Range both(Range a, Range b) { return (Range){a.lo < b.lo ? a.lo : b.lo, a.hi > b.hi ? a.hi : b.hi}; }

static Range prim_range(Kernel *k, const ExprNode *n)
{
    Range all = type_range((DType)n->type);
    if (n->prim == P_cast) {
        DType from = (DType)expr_node(k, n->arg[0])->type;
        if (dtype_is_float(from)) return all;
        Range r = range_of(k, n->arg[0]);
        return r.lo >= all.lo && r.hi <= all.hi ? r : all;
    }
    if (prim_chooses(n->prim)) return both(range_of(k, n->arg[1]), range_of(k, n->arg[2]));
    if (n->type != DT_i64 || !n->arg[1]) return all;
    Range a = range_of(k, n->arg[0]), b = range_of(k, n->arg[1]);
    switch (n->prim) {
    case P_add:
        return (Range){a.lo <= -BIG || b.lo <= -BIG ? -BIG : clamp(a.lo + b.lo),
                       a.hi >= BIG || b.hi >= BIG ? BIG : clamp(a.hi + b.hi)};
    case P_sub:
        return (Range){a.lo <= -BIG || b.hi >= BIG ? -BIG : clamp(a.lo - b.hi),
                       a.hi >= BIG || b.lo <= -BIG ? BIG : clamp(a.hi - b.lo)};
    case P_mul: return mul_range(a, b);
    case P_div: return div_range(a, b);
    case P_mod: return mod_range(a, b);
    case P_max: return (Range){a.lo > b.lo ? a.lo : b.lo, a.hi > b.hi ? a.hi : b.hi};
    case P_min: return (Range){a.lo < b.lo ? a.lo : b.lo, a.hi < b.hi ? a.hi : b.hi};
    default: return all;
    }
}

static Range node_range(Kernel *k, Expr e)
{
    const ExprNode n = *expr_node(k, e);
    switch (n.kind) {
    case E_INT: return (Range){clamp(n.u.i), clamp(n.u.i)};
    case E_SYM: return dim_range(k, (Dim){n.id});
    case E_AXIS: {
        Range r = range_of(k, k->axis.at[n.id].extent);
        return (Range){0, r.hi >= BIG ? BIG : r.hi > 0 ? r.hi - 1 : 0};
    }
    case E_PRIM: return prim_range(k, &n);
    default: return type_range((DType)n.type);
    }
}

static Range range_of(Kernel *k, Expr e)
{
    ExprPool *p = k->pool;
    if (e < p->range.cap && p->range.stamp[e] == p->range.now) return p->range.of[e];
    Range r = node_range(k, e);
    if (e >= p->range.cap) {
        uint32_t cap = p->range.cap ? p->range.cap : 256, *stamp;
        while (cap <= e) cap *= 2;
        stamp = NEW_ARRAY(p->mem, uint32_t, cap);
        Range *of = NEW_ARRAY(p->mem, Range, cap);
        if (p->range.cap)
            memcpy(stamp, p->range.stamp, p->range.cap * sizeof *stamp),
                memcpy(of, p->range.of, p->range.cap * sizeof *of);
        p->range.stamp = stamp, p->range.of = of, p->range.cap = cap;
    }
    p->range.stamp[e] = p->range.now, p->range.of[e] = r;
    return r;
}

static Range range_now(Kernel *k, Expr e) /* extents may have changed since the last time */
{
    k->pool->range.now++;
    return range_of(k, e);
}

bool expr_range(Kernel *k, Expr e, int64_t *lo, int64_t *hi)
{
    Range r = range_now(k, e);
    *lo = r.lo, *hi = r.hi;
    return r.lo > -BIG && r.hi < BIG;
}

/* The least value of a sum of axes and sizes as a size: what proves i + 2 < N + 2 for an axis i of extent N. */
static bool least(Kernel *k, const Sum *s, int64_t *lo)
{
    Dim d = dim_const(k->dim, s->constant);
    if (dim_known(s->dim)) d = dim_add(k->dim, d, s->dim);
    for (int i = 0; i < s->n; i++) {
        Term t = s->term[i];
        if (!t.c) continue;
        const ExprNode *n = expr_node(k, t.e);
        if (t.c > 0) {
            Range r = range_now(k, t.e);
            if (r.lo <= -BIG) return false;
            d = dim_add(k->dim, d, dim_const(k->dim, bound_mul(r.lo, t.c)));
            continue;
        }
        if (n->kind != E_AXIS) return false;
        const ExprNode *x = expr_node(k, k->axis.at[n->id].extent);
        if (x->kind != E_INT && x->kind != E_SYM) return false;
        Dim last = dim_sub(k->dim, x->kind == E_INT ? dim_const(k->dim, x->u.i) : (Dim){x->id}, dim_const(k->dim, 1));
        d = dim_add(k->dim, d, dim_mul(k->dim, last, dim_const(k->dim, t.c)));
    }
    return dim_lower(k->dim, d, lo);
}

/* ---- division ---- */
static int64_t gcd(int64_t a, int64_t b)
{
    a = a < 0 ? -a : a;
    while (b) {
        int64_t r = a % b;
        a = b, b = r;
    }
    return a;
}

static Expr fold_dims(Kernel *k, Prim p, Expr a, Expr b)
{
    const ExprNode *x = expr_node(k, a), *y = expr_node(k, b);
    if ((x->kind != E_SYM && x->kind != E_INT) || (y->kind != E_SYM && y->kind != E_INT)) return 0;
    Dim m = x->kind == E_SYM ? (Dim){x->id} : dim_const(k->dim, x->u.i),
        n = y->kind == E_SYM ? (Dim){y->id} : dim_const(k->dim, y->u.i);
    int64_t lo;
    if (p == P_max || p == P_min) return expr_dim(k, p == P_max ? dim_max(k->dim, m, n) : dim_min(k->dim, m, n));
    if (!dim_lower(k->dim, m, &lo) || lo < 0 || !dim_lower(k->dim, n, &lo) || lo < 1) return 0;
    return expr_dim(k, p == P_div ? dim_fdiv(k->dim, m, n) : dim_mod(k->dim, m, n));
}

/* Is every value of r in [0, c)? c is a constant, or a size: then r must be an axis of that extent. */
static bool below(Kernel *k, Expr r, Expr c)
{
    int64_t n, lo;
    Range x = range_now(k, r);
    if (x.lo < 0) return false;
    if (expr_is_index(k, c, &n)) return x.hi < n;
    Sum d = sum_of(k, c, r, -1);
    return !d.full && least(k, &d, &lo) && lo >= 1;
}

/* a = quotient * c + rest, term by term; this is what undoes n / 16 and n % 16 once n has been split by 16. */
static bool divide(Kernel *k, Expr a, Expr c, Expr *quotient, Expr *rest)
{
    Sum s = sum_of(k, a, 0, 0), q = {.k = k}, r = {.k = k};
    int64_t n = 0, v;
    bool constant = expr_is_index(k, c, &n);
    if (s.full) return false;
    for (int i = 0; i < s.n; i++) {
        Term t = s.term[i];
        if (constant && t.c % n == 0) sum_term(&q, t.e, t.c / n);
        else if (!constant && is_prim(k, t.e, P_mul) && arg(k, t.e, 1) == c) sum_add(&q, arg(k, t.e, 0), t.c);
        else sum_term(&r, t.e, t.c);
    }
    if (constant) {
        v = s.constant / n - (s.constant % n < 0); /* the rest is never negative */
        sum_constant(&q, v), sum_constant(&r, s.constant - v * n);
    } else {
        sum_constant(&r, s.constant);
    }
    if (dim_known(s.dim)) {
        Dim exact, by = constant ? dim_const(k->dim, n) : (Dim){expr_node(k, c)->id};
        if (dim_exact(k->dim, s.dim, by, &exact)) sum_dim(&q, exact, 1);
        else sum_dim(&r, s.dim, 1);
    }
    *quotient = sum_expr(&q), *rest = sum_expr(&r);
    return true;
}

static Expr shrink(Kernel *k, Expr r, int64_t c) /* r / c with a common factor taken out; 0: there is none */
{
    Sum s = sum_of(k, r, 0, 0);
    int64_t g = c;
    if (s.full || dim_known(s.dim) || !s.n || s.constant < 0) return 0;
    for (int i = 0; i < s.n; i++) g = gcd(s.term[i].c, g);
    if (g <= 1) return 0;
    for (int i = 0; i < s.n; i++) s.term[i].c /= g;
    s.constant /= g;
    return expr_div(k, sum_expr(&s), expr_index(k, c / g));
}

/* r = g * x + low, low in [0, g), g a divisor of c: low changes nothing of r / c and stays as it is in r % c. 0: there is no such g. */
static Expr split_low(Kernel *k, Prim p, Expr r, int64_t c)
{
    Sum s = sum_of(k, r, 0, 0);
    if (s.full || dim_known(s.dim) || s.n < 2) return 0;
    for (int t = 0; t < s.n; t++) {
        int64_t g = gcd(s.term[t].c, c);
        if (g <= 1) continue;
        Sum high = {.k = k}, low = {.k = k};
        for (int i = 0; i < s.n; i++)
            if (s.term[i].c % g == 0) sum_term(&high, s.term[i].e, s.term[i].c / g);
            else sum_term(&low, s.term[i].e, s.term[i].c);
        sum_constant(&low, s.constant);
        Expr x = sum_expr(&high), rest = sum_expr(&low);
        if (!low.n || !below(k, rest, expr_index(k, g)) || range_now(k, x).lo < 0) continue;
        Expr by = expr_index(k, c / g);
        if (p == P_div) return expr_div(k, x, by);
        return expr_add(k, expr_mul(k, expr_mod(k, x, by), expr_index(k, g)), rest);
    }
    return 0;
}

static Expr fold_division(Kernel *k, Prim p, Expr a, Expr b)
{
    Expr q, r, e;
    int64_t c, d;
    if ((e = fold_dims(k, p, a, b))) return e;
    bool constant = expr_is_index(k, b, &c);
    if ((constant && c <= 0) || (!constant && expr_node(k, b)->kind != E_SYM)) return 0;
    if (constant && p == P_div && divisor(k, a, P_div, &d) && mul_small(c, d, &d))
        return expr_div(k, arg(k, a, 0), expr_index(k, d));
    if (constant && p == P_mod && divisor(k, a, P_mod, &d) && d % c == 0) return expr_mod(k, arg(k, a, 0), b);
    if (!divide(k, a, b, &q, &r)) return 0;
    if (below(k, r, b)) return p == P_div ? q : r;
    if (range_now(k, r).lo < 0) return 0;
    if (!expr_is(k, q, 0)) return p == P_div ? expr_add(k, q, expr_div(k, r, b)) : expr_mod(k, r, b);
    if (constant && (e = split_low(k, p, r, c))) return e;
    return constant && p == P_div ? shrink(k, r, c) : 0;
}

/* ---- comparisons ---- */
static Expr decided(Kernel *k, bool yes) { return expr_int(k, DT_bool, yes); }

static Expr fold_compare(Kernel *k, Prim p, Expr a, Expr b)
{
    Sum s = sum_of(k, b, a, -1); /* b - a */
    if (s.full) return 0;
    Expr d = sum_expr(&s);
    Range r = range_now(k, d);
    int64_t lo;
    if (least(k, &s, &lo) && lo > r.lo) r.lo = lo;
    for (int i = 0; i < s.n; i++) s.term[i].c = -s.term[i].c;
    s.constant = -s.constant;
    if (dim_known(s.dim)) s.dim = dim_sub(k->dim, dim_const(k->dim, 0), s.dim);
    if (least(k, &s, &lo) && -lo < r.hi) r.hi = -lo;
    bool same = r.lo == 0 && r.hi == 0, apart = r.lo > 0 || r.hi < 0;
    switch (p) {
    case P_lt: return r.lo >= 1 ? decided(k, true) : r.hi <= 0 ? decided(k, false) : 0;
    case P_le: return r.lo >= 0 ? decided(k, true) : r.hi < 0 ? decided(k, false) : 0;
    case P_eq: return same ? decided(k, true) : apart ? decided(k, false) : 0;
    default: return same ? decided(k, false) : apart ? decided(k, true) : 0;
    }
}

static Expr fold_extreme(Kernel *k, Prim p, Expr a, Expr b)
{
    Expr e = fold_dims(k, p, a, b), less = fold_compare(k, P_le, a, b);
    if (e || !less) return e;
    return expr_is(k, less, p == P_min) ? a : b;
}

Expr index_fold(Kernel *k, Prim p, Expr a, Expr b)
{
    switch (p) {
    case P_add:
    case P_sub: return fold_sum(k, p, a, b);
    case P_mul: return fold_mul(k, a, b);
    case P_div:
    case P_mod: return fold_division(k, p, a, b);
    case P_lt:
    case P_le:
    case P_eq:
    case P_ne: return fold_compare(k, p, a, b);
    case P_max:
    case P_min: return fold_extreme(k, p, a, b);
    default: return 0;
    }
}

/* ---- steps ---- */
static Expr step(Kernel *k, Expr e, int axis)
{
    ExprNode n = *expr_node(k, e);
    if (!expr_uses(k, e, axis)) return expr_index(k, 0);
    if (n.kind == E_AXIS) return expr_index(k, 1);
    if (n.kind != E_PRIM || n.type != DT_i64) return 0;
    if (n.prim == P_mul && expr_uses(k, n.arg[0], axis) != expr_uses(k, n.arg[1], axis)) {
        int varies = expr_uses(k, n.arg[1], axis);
        Expr s = step(k, n.arg[varies], axis);
        return s ? expr_mul(k, s, n.arg[!varies]) : 0;
    }
    if (n.prim != P_add && n.prim != P_sub) return 0;
    Expr a = step(k, n.arg[0], axis), b = step(k, n.arg[1], axis);
    return a && b ? expr_prim(k, (Prim)n.prim, a, b, 0) : 0;
}

Expr expr_step(Kernel *k, Expr e, int axis)
{
    Expr s = step(k, e, axis);
    return s && !expr_uses(k, s, axis) ? s : 0;
}
