/* expr.c - the expression pool. Every node is made by intern(), so equal expressions are one handle, and building
 * folds: no simplification pass exists or is needed. Walks over expressions are memoised: linear in the nodes, however
 * shared. Index arithmetic (i64) has its own algebra in expr_index.c. */
#include "ir/expr.h"
#include <assert.h>
#include <math.h>

/* ---- the pool ---- */
enum { FIRST_HASH = 1 << 10 };

static uint32_t node_hash(const ExprNode *n)
{
    uint64_t word[sizeof *n / sizeof(uint64_t)], h = 0x9e3779b97f4a7c15u;
    memcpy(word, n, sizeof word);
    for (size_t i = 0; i < COUNT_OF(word); i++) h = (h ^ word[i]) * 0xff51afd7ed558ccdu, h ^= h >> 32;
    return (uint32_t)h;
}

static void pool_rehash(ExprPool *p)
{
    p->cap = p->cap ? 2 * p->cap : FIRST_HASH;
    p->hash = NEW_ARRAY(p->mem, uint32_t, p->cap);
    for (uint32_t e = 1; e < p->node.n; e++) {
        uint32_t h = node_hash(&p->node.at[e]) & (p->cap - 1);
        while (p->hash[h]) h = (h + 1) & (p->cap - 1);
        p->hash[h] = e;
    }
}

static uint64_t axes_of(const ExprPool *p, const ExprNode *n)
{
    uint64_t axes = n->kind == E_AXIS ? (uint64_t)1 << (n->id % AXIS_BITS) : n->kind == E_LOAD ? HAS_LOAD : 0;
    for (int i = 0; i < MAX_RANK && n->arg[i]; i++) axes |= p->axes.at[n->arg[i]];
    return axes;
}

static Expr intern(Kernel *k, const ExprNode *n)
{
    ExprPool *p = k->pool;
    if (2 * p->node.n >= p->cap) pool_rehash(p);
    uint32_t h = node_hash(n) & (p->cap - 1);
    for (; p->hash[h]; h = (h + 1) & (p->cap - 1))
        if (!memcmp(&p->node.at[p->hash[h]], n, sizeof *n)) return p->hash[h];
    uint64_t axes = axes_of(p, n);
    vec_push(p->mem, &p->axes, axes);
    return p->hash[h] = vec_push(p->mem, &p->node, *n);
}

Kernel *kernel_new(Arena *mem, Dims *dim, const char *name)
{
    Kernel *k = NEW(mem, Kernel);
    k->mem = mem, k->dim = dim, k->name = name, k->pool = NEW(mem, ExprPool);
    k->pool->mem = mem;
    vec_push(mem, &k->pool->node, (ExprNode){0});
    vec_push(mem, &k->pool->axes, 0);
    vec_push(mem, &k->buf, (Buf){0});
    vec_push(mem, &k->axis, (Axis){0});
    return k;
}

const ExprNode *expr_node(const Kernel *k, Expr e)
{
    assert(e && e < k->pool->node.n);
    return &k->pool->node.at[e];
}

uint32_t expr_count(const Kernel *k) { return k->pool->node.n - 1; }

/* ---- leaves ---- */
static ExprNode blank(ExprKind kind, DType type) { return (ExprNode){.kind = (uint8_t)kind, .type = (uint8_t)type}; }

Expr expr_float(Kernel *k, DType t, double f)
{
    ExprNode n = blank(E_FLOAT, t);
    assert(dtype_is_float(t));
    n.u.f = f != f ? (double)NAN : float_round(t, f); /* one NaN: nodes are compared as bytes */
    return intern(k, &n);
}

Expr expr_int(Kernel *k, DType t, int64_t i)
{
    ExprNode n = blank(E_INT, t);
    assert(dtype_is_int(t) || t == DT_bool);
    n.u.i = t == DT_bool ? i != 0 : int_wrap(t, i);
    return intern(k, &n);
}

Expr expr_index(Kernel *k, int64_t i) { return expr_int(k, DT_i64, i); }

Expr expr_dim(Kernel *k, Dim d)
{
    int64_t v;
    assert(dim_known(d));
    d = dim_canon(k->dim, d);
    if (dim_is_const(k->dim, d, &v)) return expr_index(k, v);
    ExprNode n = blank(E_SYM, DT_i64);
    n.id = d.id;
    return intern(k, &n);
}

Expr expr_axis(Kernel *k, int axis)
{
    ExprNode n = blank(E_AXIS, DT_i64);
    assert(axis > 0 && (uint32_t)axis < k->axis.n);
    n.id = (uint32_t)axis;
    return intern(k, &n);
}

Expr expr_it(Kernel *k, DType t)
{
    ExprNode n = blank(E_IT, t);
    return intern(k, &n);
}

Expr expr_load(Kernel *k, int buf, const Expr *at)
{
    assert(buf > 0 && (uint32_t)buf < k->buf.n);
    const Buf *b = &k->buf.at[buf];
    ExprNode n = blank(E_LOAD, b->type);
    n.id = (uint32_t)buf;
    for (int d = 0; d < b->rank; d++) {
        assert(at[d] && expr_node(k, at[d])->type == DT_i64);
        n.arg[d] = at[d];
    }
    return intern(k, &n);
}

bool expr_is_const(const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_FLOAT || n->kind == E_INT;
}

Number expr_number(const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_FLOAT ? (Number){.f = n->u.f} : (Number){.i = n->u.i};
}

Expr expr_of_number(Kernel *k, DType t, Number v)
{
    return dtype_is_float(t) ? expr_float(k, t, v.f) : expr_int(k, t, v.i);
}

bool expr_is_index(const Kernel *k, Expr e, int64_t *i)
{
    const ExprNode *n = expr_node(k, e);
    if (n->kind != E_INT) return false;
    if (i) *i = n->u.i;
    return true;
}

bool expr_is(const Kernel *k, Expr e, int64_t i)
{
    int64_t v;
    return e && expr_is_index(k, e, &v) && v == i;
}

static bool is_float(const Kernel *k, Expr e, double f)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind == E_FLOAT && n->u.f == f && !signbit(n->u.f) == !signbit(f);
}

static DType type_of(const Kernel *k, Expr e) { return (DType)expr_node(k, e)->type; }

/* ---- primitives ---- */
static bool prim_compares(Prim p, DType t) { return dtype_is_float(t) ? prims[p].compares : prims[p].integer.compares; }

static DType prim_type(const Kernel *k, Prim p, const Expr *a)
{
    if (prim_chooses(p)) return type_of(k, a[1]);
    return prim_compares(p, type_of(k, a[0])) ? DT_bool : type_of(k, a[0]);
}

Expr expr_raw(Kernel *k, Prim p, DType type, const Expr *a)
{
    ExprNode n = blank(E_PRIM, type);
    n.prim = (uint16_t)p;
    for (int i = 0; i < prims[p].arity; i++) n.arg[i] = a[i];
    return intern(k, &n);
}

static bool commutes(Prim p)
{
    static const bool table[PRIM_COUNT] = {
        [P_add] = true, [P_mul] = true, [P_max] = true, [P_min] = true, [P_and] = true,
        [P_or] = true,  [P_xor] = true, [P_eq] = true,  [P_ne] = true};
    return table[p];
}

static Expr fold_constants(Kernel *k, Prim p, const Expr *a)
{
    Number v[3] = {{0}}, r;
    for (int i = 0; i < prims[p].arity; i++) {
        if (!expr_is_const(k, a[i])) return 0;
        v[i] = expr_number(k, a[i]);
    }
    DType t = type_of(k, a[0]), to = prim_type(k, p, a);
    if (!dtype_is_float(t)) r.i = prim_int(p, t, v[0].i, v[1].i, v[2].i);
    else if (to == DT_bool) r.i = prim_float(p, t, v[0].f, v[1].f, v[2].f) != 0;
    else r.f = prim_float(p, t, v[0].f, v[1].f, v[2].f);
    return expr_of_number(k, to, r);
}

/* Only identities that hold for every float, -0, infinities and NaN included. */
static Expr fold_float(Kernel *k, Prim p, Expr a, Expr b)
{
    if ((p == P_mul || p == P_div) && is_float(k, b, 1)) return a;
    if ((p == P_sub && is_float(k, b, 0)) || (p == P_add && is_float(k, b, -0.0))) return a;
    if ((p == P_max && is_float(k, b, -INFINITY)) || (p == P_min && is_float(k, b, INFINITY))) return a;
    return 0;
}

static Expr fold_bool(Kernel *k, Prim p, Expr a, Expr b)
{
    if (a == b && (p == P_and || p == P_or)) return a;
    if (expr_is(k, b, p == P_and)) return p == P_and || p == P_or || p == P_xor ? a : 0; /* the neutral one */
    if (expr_is(k, b, p == P_or)) return p == P_and || p == P_or ? b : 0;
    return 0;
}

static Expr fold_int(Kernel *k, DType t, Prim p, Expr a, Expr b)
{
    bool none = expr_is(k, b, 0), one = expr_is(k, b, 1);
    if (none && (p == P_add || p == P_sub || p == P_or || p == P_xor || p == P_shl || p == P_shr)) return a;
    if (none && (p == P_mul || p == P_and)) return b;
    if (one && (p == P_mul || p == P_div)) return a;
    if (one && p == P_mod) return expr_int(k, t, 0);
    if (t != DT_u64 && p == P_max && expr_is(k, b, dtype_min(t))) return a;
    if (t != DT_u64 && p == P_min && expr_is(k, b, dtype_max(t))) return a;
    return a == b && (p == P_max || p == P_min || p == P_and || p == P_or) ? a : 0;
}

/* The exponent of pow, also when it is a constant of one element: x^2 must not cost a logarithm. */
static bool exponent(const Kernel *k, Expr e, double *v)
{
    const ExprNode *n = expr_node(k, e);
    if (n->kind == E_FLOAT) return *v = n->u.f, true;
    if (n->kind != E_LOAD) return false;
    const Tensor *t = k->buf.at[n->id].data;
    if (!t || tensor_count(t) != 1) return false;
    return *v = dtype_load(t->type, t->data, 0), true;
}

static Expr fold_pow(Kernel *k, Expr a, Expr b)
{
    double v;
    const ExprNode *n = expr_node(k, b);
    if (n->kind == E_PRIM && n->prim == P_cast) b = n->arg[0];
    if (!exponent(k, b, &v)) return 0;
    if (v == 1) return a;
    if (v == 2) return expr_mul(k, a, a);
    if (v == 3) return expr_mul(k, expr_mul(k, a, a), a);
    return v == -1 ? expr_div(k, expr_float(k, type_of(k, a), 1), a) : 0;
}

static Expr fold_choice(Kernel *k, Expr cond, Expr a, Expr b)
{
    int64_t v;
    if (a == b) return a;
    if (expr_is_index(k, cond, &v)) return v ? a : b;
    return 0;
}

static Expr fold(Kernel *k, Prim p, Expr a, Expr b, Expr c)
{
    DType t = type_of(k, a);
    if (prim_chooses(p)) return fold_choice(k, a, b, c);
    Expr e = fold_constants(k, p, (Expr[]){a, b, c});
    if (e) return e;
    const ExprNode *n = expr_node(k, a);
    if ((p == P_neg || p == P_not) && n->kind == E_PRIM && n->prim == p) return n->arg[0];
    if (!b) return 0;
    if (t == DT_bool) return fold_bool(k, p, a, b);
    if (dtype_is_float(t)) return p == P_pow ? fold_pow(k, a, b) : fold_float(k, p, a, b);
    e = fold_int(k, t, p, a, b);
    return e || t != DT_i64 ? e : index_fold(k, p, a, b);
}

Expr expr_prim(Kernel *k, Prim p, Expr a, Expr b, Expr c)
{
    assert(a && prims[p].arity >= 1 && p != P_cast && p != P_sat && !b == (prims[p].arity < 2) &&
           !c == (prims[p].arity < 3));
    if (p == P_bits) return expr_bits(k, a);
    if (p == P_gt || p == P_ge) return expr_prim(k, p == P_gt ? P_lt : P_le, b, a, 0);
    assert(!prim_chooses(p) || (type_of(k, a) == DT_bool && type_of(k, b) == type_of(k, c)));
    assert(prim_chooses(p) || !b || type_of(k, a) == type_of(k, b));
    assert(prim_chooses(p) || !c || type_of(k, a) == type_of(k, c));
    assert(prim_chooses(p) || prim_takes(p, type_of(k, a)));
    if (commutes(p) && expr_is_const(k, a) && !expr_is_const(k, b)) return expr_prim(k, p, b, a, c);
    Expr e = fold(k, p, a, b, c);
    return e ? e : expr_raw(k, p, prim_type(k, p, (Expr[]){a, b, c}), (Expr[]){a, b, c});
}

static Expr convert(Kernel *k, Prim p, DType to, Expr a)
{
    DType from = type_of(k, a);
    if (from == to) return a;
    if (expr_is_const(k, a)) return expr_of_number(k, to, number_convert(to, p == P_sat, from, expr_number(k, a)));
    return expr_raw(k, p, to, &a);
}

Expr expr_cast(Kernel *k, DType to, Expr a) { return convert(k, P_cast, to, a); }

Expr expr_sat(Kernel *k, DType to, Expr a)
{
    assert(dtype_is_int(to));
    return convert(k, P_sat, to, a);
}

Expr expr_bits(Kernel *k, Expr a)
{
    DType from = type_of(k, a), to = type_bits(from);
    assert(to);
    const ExprNode *n = expr_node(k, a);
    if (n->kind == E_PRIM && n->prim == P_bits) return n->arg[0];
    return expr_is_const(k, a) ? expr_of_number(k, to, number_bits(from, expr_number(k, a)))
                               : expr_raw(k, P_bits, to, &a);
}

Expr expr_guard(Kernel *k, Expr cond, Expr value, Expr other)
{
    return cond ? expr_prim(k, P_guard, cond, value, other) : value;
}

Expr expr_and(Kernel *k, Expr a, Expr b) { return !a ? b : !b ? a : expr_prim(k, P_and, a, b, 0); }

/* ---- memo: one result per node for the walk in progress; walks nest (inlining maps while it walks) ---- */
static Memo *memo_open(ExprPool *p)
{
    assert(p->walks < MAX_WALKS);
    Memo *m = &p->memo[p->walks++];
    m->now++;
    return m;
}

static void memo_close(ExprPool *p) { p->walks--; }

static void memo_grow(ExprPool *p, Memo *m, Expr e)
{
    if (e < m->cap) return;
    uint32_t cap = m->cap ? m->cap : 256;
    while (cap <= e) cap *= 2;
    uint32_t *stamp = NEW_ARRAY(p->mem, uint32_t, cap), *value = NEW_ARRAY(p->mem, uint32_t, cap);
    if (m->cap) memcpy(stamp, m->stamp, m->cap * sizeof *stamp), memcpy(value, m->value, m->cap * sizeof *value);
    m->stamp = stamp, m->value = value, m->cap = cap;
}

static void memo_put(ExprPool *p, Memo *m, Expr e, uint32_t value)
{
    memo_grow(p, m, e);
    m->stamp[e] = m->now, m->value[e] = value;
}

static bool memo_has(const Memo *m, Expr e) { return e < m->cap && m->stamp[e] == m->now; }

/* ---- looking ---- */
typedef struct Visit {
    const Kernel *k;
    Memo *memo;
    uint64_t within;                                   /* subtrees without these marks are skipped */
    bool (*visit)(void *ctx, const Kernel *k, Expr e); /* false: stop */
    void *ctx;
} Visit;

static bool visit_node(Visit *v, Expr e)
{
    ExprPool *p = v->k->pool;
    if (memo_has(v->memo, e) || (v->within && !(p->axes.at[e] & v->within))) return true;
    memo_put(p, v->memo, e, 0);
    for (int i = 0; i < MAX_RANK && p->node.at[e].arg[i]; i++)
        if (!visit_node(v, p->node.at[e].arg[i])) return false;
    return v->visit(v->ctx, v->k, e);
}

bool expr_visit(const Kernel *k, Expr e, uint64_t within, bool (*visit)(void *, const Kernel *, Expr), void *ctx)
{
    if (!e) return true;
    Visit v = {k, memo_open(k->pool), within, visit, ctx};
    bool all = visit_node(&v, e);
    memo_close(k->pool);
    return all;
}

static bool is_other_axis(void *ctx, const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    return n->kind != E_AXIS || (int)n->id != *(int *)ctx;
}

bool expr_uses(const Kernel *k, Expr e, int axis)
{
    uint64_t mark = (uint64_t)1 << (axis % AXIS_BITS);
    return e && (k->pool->axes.at[e] & mark) && !expr_visit(k, e, mark, is_other_axis, &axis);
}

static bool is_not_it(void *ctx, const Kernel *k, Expr e)
{
    (void)ctx;
    return expr_node(k, e)->kind != E_IT;
}

bool expr_uses_it(const Kernel *k, Expr e) { return !expr_visit(k, e, 0, is_not_it, NULL); }

static bool note_constant(void *ctx, const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    double *most = ctx;
    if (n->kind == E_FLOAT && isfinite(n->u.f)) *most = fmax(*most, fabs(n->u.f));
    return true;
}

double expr_largest(const Kernel *k, Expr e)
{
    double most = 0;
    expr_visit(k, e, 0, note_constant, &most);
    return most;
}

static bool add_cost(void *ctx, const Kernel *k, Expr e)
{
    const ExprNode *n = expr_node(k, e);
    int *cost = ctx;
    if (n->kind != E_PRIM || n->type == DT_i64) return true;
    bool index = n->type == DT_bool && expr_node(k, n->arg[0])->type == DT_i64;
    bool f32 = dtype_is_float((DType)n->type);
    if (!index)
        *cost += (f32 && (prims[n->prim].expansion || prims[n->prim].libm)) ? (prims[n->prim].exact ? 3 : 12) : 1;
    return true;
}

int expr_cost(const Kernel *k, Expr e)
{
    int cost = 0;
    expr_visit(k, e, 0, add_cost, &cost);
    return cost;
}

typedef struct Reads {
    int buf, count;
} Reads;
static bool count_read(void *ctx, const Kernel *k, Expr e)
{
    Reads *r = ctx;
    const ExprNode *n = expr_node(k, e);
    r->count += n->kind == E_LOAD && (int)n->id == r->buf;
    return true;
}

int expr_reads(const Kernel *k, Expr e, int buf)
{
    Reads r = {buf, 0};
    expr_visit(k, e, HAS_LOAD, count_read, &r);
    return r.count;
}

typedef struct Loads {
    bool (*visit)(void *, Expr);
    void *ctx;
} Loads;
static bool visit_load(void *ctx, const Kernel *k, Expr e)
{
    const Loads *l = ctx;
    return expr_node(k, e)->kind != E_LOAD || l->visit(l->ctx, e);
}

bool expr_loads(const Kernel *k, Expr e, bool (*visit)(void *ctx, Expr load), void *ctx)
{
    Loads l = {visit, ctx};
    return expr_visit(k, e, HAS_LOAD, visit_load, &l);
}

/* ---- rewriting: children first, then the node itself, rebuilt so that it folds again ---- */
typedef struct Rewrite {
    Kernel *k;
    Memo *memo;
    Expr (*before)(struct Rewrite *, Expr); /* not 0: e becomes that, and is not entered */
    Expr (*after)(struct Rewrite *, Expr);  /* of a node whose children were rewritten; NULL: nothing */
    const Expr *map;
    const int *buf;
    Expr from, to;
    const Compute *def;
} Rewrite;

Expr expr_rebuild(Kernel *k, const ExprNode *n)
{
    if (n->kind == E_LOAD) return expr_load(k, (int)n->id, n->arg);
    if (n->kind != E_PRIM) return intern(k, n);
    if (n->prim == P_cast) return expr_cast(k, (DType)n->type, n->arg[0]);
    if (n->prim == P_sat) return expr_sat(k, (DType)n->type, n->arg[0]);
    return expr_prim(k, (Prim)n->prim, n->arg[0], n->arg[1], n->arg[2]);
}

static Expr rewrite_node(Rewrite *r, Expr e)
{
    if (memo_has(r->memo, e)) return r->memo->value[e];
    Expr to = r->before ? r->before(r, e) : 0;
    if (!to) {
        ExprNode n = *expr_node(r->k, e);
        bool same = true;
        for (int i = 0; i < MAX_RANK && n.arg[i]; i++) {
            Expr child = rewrite_node(r, n.arg[i]);
            same = same && child == n.arg[i];
            n.arg[i] = child;
        }
        to = same ? e : expr_rebuild(r->k, &n);
        if (r->after) to = r->after(r, to);
    }
    memo_put(r->k->pool, r->memo, e, to);
    return to;
}

static Expr rewrite(Rewrite *r, Expr e)
{
    if (!e) return 0;
    r->memo = memo_open(r->k->pool);
    Expr to = rewrite_node(r, e);
    memo_close(r->k->pool);
    return to;
}

static Expr map_axis(Rewrite *r, Expr e)
{
    const ExprNode *n = expr_node(r->k, e);
    if (!(r->k->pool->axes.at[e] & ~HAS_LOAD)) return e;
    return n->kind == E_AXIS && r->map[n->id] ? r->map[n->id] : 0;
}

Expr expr_map(Kernel *k, Expr e, const Expr *map)
{
    Rewrite r = {.k = k, .before = map_axis, .map = map};
    return rewrite(&r, e);
}

static Expr split_axis(Rewrite *r, Expr e)
{
    const ExprNode *n = expr_node(r->k, e);
    if (!(r->k->pool->axes.at[e] & ~HAS_LOAD)) return e;
    return n->kind == E_AXIS && r->k->axis.at[n->id].whole ? expr_split(r->k, r->k->axis.at[n->id].whole) : 0;
}

Expr expr_split(Kernel *k, Expr e)
{
    Rewrite r = {.k = k, .before = split_axis};
    return rewrite(&r, e);
}

static Expr replace_one(Rewrite *r, Expr e) { return e == r->from ? r->to : 0; }

Expr expr_replace(Kernel *k, Expr e, Expr from, Expr to)
{
    Rewrite r = {.k = k, .before = replace_one, .from = from, .to = to};
    return rewrite(&r, e);
}

/* The axes of def->at, each replaced by the index the reader has at that dimension. */
static Expr bind_axis(Rewrite *r, Expr e)
{
    const Compute *def = r->def;
    if (!(r->k->pool->axes.at[e] & ~HAS_LOAD)) return e;
    if (expr_node(r->k, e)->kind != E_AXIS) return 0;
    for (int d = 0; d < MAX_RANK && r->map[d]; d++)
        if (def->at[d] == e) return r->map[d];
    return e;
}

static Expr inline_load(Rewrite *r, Expr e)
{
    ExprNode n = *expr_node(r->k, e);
    if (n.kind != E_LOAD || (int)n.id != r->def->out) return e;
    Expr map[MAX_RANK + 1] = {0};
    memcpy(map, n.arg, sizeof n.arg);
    Rewrite bind = {.k = r->k, .before = bind_axis, .map = map, .def = r->def};
    Expr value = rewrite(&bind, r->def->value);
    if (!r->def->epilogue) return value;
    Expr it = expr_it(r->k, type_of(r->k, r->def->value));
    return expr_replace(r->k, rewrite(&bind, r->def->epilogue), it, value);
}

static Expr without_load(Rewrite *r, Expr e) { return r->k->pool->axes.at[e] & HAS_LOAD ? 0 : e; }

Expr expr_inline(Kernel *k, Expr e, const Compute *def)
{
    assert(def->how == P_NONE && !def->where && !def->update);
    Rewrite r = {.k = k, .before = without_load, .after = inline_load, .def = def};
    return rewrite(&r, e);
}

static Expr move_load(Rewrite *r, Expr e)
{
    ExprNode n = *expr_node(r->k, e);
    return n.kind == E_LOAD && r->buf[n.id] ? expr_load(r->k, r->buf[n.id], n.arg) : e;
}

Expr expr_move(Kernel *k, Expr e, const int *buf)
{
    Rewrite r = {.k = k, .before = without_load, .after = move_load, .buf = buf};
    return rewrite(&r, e);
}

/* ---- expansion of primitives into simpler ones ---- */
static Expr expand_text(Kernel *k, const char *text, const ExprNode *n)
{
    static const char *const names[] = {"a", "b", "c"};
    const char *error = NULL;
    Expr e = scalar_parse(k, text, names, n->arg, prims[n->prim].arity, &error);
    assert(e && !error);
    return e;
}

static const char *expansion(const ExprNode *n, DType t)
{
    const PrimInfo *p = &prims[n->prim];
    if (!dtype_is_float(t)) return p->integer.expansion;
    return t == DT_f64 && !p->exact ? NULL : p->expansion;
}

/* Against a constant, which is not NaN, one compare keeps the NaN of the other side: a single vmaxps. */
static Expr expand_extreme(Kernel *k, Prim p, Expr x, Expr c)
{
    Expr beyond = p == P_max ? expr_lt(k, x, c) : expr_lt(k, c, x);
    return expr_prim(k, P_select, beyond, c, x);
}

static Expr expand_node(Rewrite *r, Expr e)
{
    Kernel *k = r->k;
    ExprNode n = *expr_node(k, e);
    if (n.kind != E_PRIM) return e;
    DType t = type_of(k, n.arg[0]);
    const char *text = expansion(&n, t);
    if (text && dtype_is_float(t) && dtype_compute(t) != t) { /* narrow floats: computed in f32 */
        for (int i = 0; i < prims[n.prim].arity; i++) n.arg[i] = expr_cast(k, DT_f32, n.arg[i]);
        Expr wide = expr_expand(k, expand_text(k, text, &n));
        return n.type == DT_bool ? wide : expr_cast(k, (DType)n.type, wide);
    }
    if (text) return expr_expand(k, expand_text(k, text, &n));
    if ((n.prim == P_max || n.prim == P_min) && expr_node(k, n.arg[1])->kind == E_FLOAT &&
        !isnan(expr_node(k, n.arg[1])->u.f))
        return expand_extreme(k, (Prim)n.prim, n.arg[0], n.arg[1]);
    return e;
}

Expr expr_expand(Kernel *k, Expr e)
{
    Rewrite r = {.k = k, .after = expand_node};
    return rewrite(&r, e);
}

/* ---- buffers ---- */
static Expr phys_index(Kernel *k, const Buf *b, const LayoutAxis *a, const Expr *at)
{
    Expr i = at[a->dim];
    if (b->block[a->dim] == 1) return 0;
    if (b->block[a->dim]) i = expr_mod(k, i, expr_index(k, b->block[a->dim]));
    if (a->div > 1) i = expr_div(k, i, expr_index(k, a->div));
    return a->size ? expr_mod(k, i, expr_index(k, a->size)) : i;
}

static Expr phys_size(Kernel *k, const Buf *b, const LayoutAxis *a)
{
    if (a->size) return expr_index(k, a->size);
    if (a->div <= 1) return b->dim[a->dim];
    return expr_div(k, expr_add(k, b->dim[a->dim], expr_index(k, a->div - 1)), expr_index(k, a->div));
}

static int phys_axes(const Buf *b, LayoutAxis *out)
{
    if (b->layout.n) memcpy(out, b->layout.axis, sizeof b->layout.axis);
    else
        for (int d = 0; d < b->rank; d++) out[d] = (LayoutAxis){.dim = d, .div = 1};
    return b->layout.n ? b->layout.n : b->rank;
}

Expr buf_address(Kernel *k, int buf, const Expr *at)
{
    Buf b = k->buf.at[buf];
    LayoutAxis axis[MAX_PHYS];
    Expr e = expr_index(k, 0), stride = expr_index(k, 1);
    for (int p = phys_axes(&b, axis) - 1; p >= 0; p--) {
        Expr i = phys_index(k, &b, &axis[p], at);
        if (!i) continue;
        e = expr_add(k, expr_mul(k, i, stride), e);
        stride = expr_mul(k, stride, phys_size(k, &b, &axis[p]));
    }
    return e;
}

Expr buf_elements(Kernel *k, int buf)
{
    Buf b = k->buf.at[buf];
    LayoutAxis axis[MAX_PHYS];
    Expr n = expr_index(k, 1);
    for (int p = phys_axes(&b, axis) - 1; p >= 0; p--)
        if (b.block[axis[p].dim] != 1) n = expr_mul(k, n, phys_size(k, &b, &axis[p]));
    return n;
}

Expr reduce_identity(Kernel *k, Prim how, DType t)
{
    bool f = dtype_is_float(t);
    switch (how) {
    case P_add:
    case P_or:
    case P_xor: return f ? expr_float(k, t, 0) : expr_int(k, t, 0);
    case P_mul: return f ? expr_float(k, t, 1) : expr_int(k, t, 1);
    case P_and: return expr_int(k, t, t == DT_bool ? 1 : -1);
    case P_larger:
    case P_max: return f ? expr_float(k, t, -INFINITY) : expr_int(k, t, dtype_min(t));
    case P_min: return f ? expr_float(k, t, INFINITY) : expr_int(k, t, t == DT_u64 ? -1 : dtype_max(t));
    default: assert(!"not a reduction"); return 0;
    }
}

int kernel_buf(Kernel *k, Buf b)
{
    assert(b.rank >= 0 && b.rank <= MAX_RANK);
    if (!b.name) b.name = arena_printf(k->mem, "t%u", k->buf.n);
    return (int)vec_push(k->mem, &k->buf, b);
}

static bool axis_taken(const Kernel *k, const char *name)
{
    for (uint32_t i = 1; i < k->axis.n; i++)
        if (!strcmp(k->axis.at[i].name, name)) return true;
    return false;
}

int kernel_axis(Kernel *k, const char *name, Expr extent)
{
    assert(extent && type_of(k, extent) == DT_i64);
    const char *base = name ? name : "a";
    if (!name) name = arena_printf(k->mem, "a%u", k->axis.n);
    else
        for (uint32_t i = 1; axis_taken(k, name); i++) name = arena_printf(k->mem, "%s_%u", base, i);
    return (int)vec_push(k->mem, &k->axis, (Axis){.name = name, .extent = extent});
}
