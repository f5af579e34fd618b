/* Shared parts of the operator rows: see rules.h. */
#include "ir/ops/rules.h"
#include "ir/scalar.h"
#include <assert.h>
#include <math.h>

/* ---- elements as sizes ---- */

int64_t type_count(const Dims *d, const Type *t)
{
    if (t->rank < 0) return -1;
    int64_t n = 1, v;
    for (int i = 0; i < t->rank; i++) {
        if (!dim_is_const(d, t->dim[i], &v)) return -1;
        if (v > INT32_MAX || n > INT32_MAX) return -1; /* far beyond what is tracked; keeps the product exact */
        n *= v;
    }
    return n;
}

Dim dim_product(Dims *d, const Dim *dim, int n)
{
    Dim p = dim_const(d, 1);
    for (int i = 0; i < n; i++) {
        if (!dim_known(dim[i])) return (Dim){0};
        p = dim_mul(d, p, dim[i]);
    }
    return p;
}

bool tracks_values(DType t)
{
    /* Narrow and unsigned integers wrap, narrow floats round: their elements are not sizes. */
    static const bool tracked[DT_COUNT] = {
        [DT_i64] = true, [DT_i32] = true, [DT_f32] = true, [DT_f64] = true, [DT_bool] = true};
    return tracked[t];
}

static const Dim *tensor_elems(Arena *mem, Dims *d, const Tensor *t, uint32_t *n)
{
    int64_t count = tensor_count(t);
    if (count > MAX_ELEMS || !tracks_values(t->type)) return NULL;
    Dim *e = NEW_ARRAY(mem, Dim, count + 1); /* never NULL, also for no elements */
    for (int64_t i = 0; i < count; i++) {
        if (!dtype_is_float(t->type)) {
            e[i] = dim_const(d, dtype_load_int(t->type, t->data, i));
            continue;
        }
        double v = dtype_load(t->type, t->data, i);
        if (v == floor(v) && fabs(v) < 9e15) e[i] = dim_const(d, (int64_t)v);
    }
    *n = (uint32_t)count;
    return e;
}

const Dim *rule_elems(Infer *c, uint32_t i, uint32_t *n)
{
    const Dim *e = in_elems(c, i, n);
    if (e) return e;
    const Tensor *t = in_const(c, i);
    *n = 0;
    return t ? tensor_elems(c->g->mem, c->d, t, n) : NULL;
}

const Dim *rule_sizes(Infer *c, uint32_t i, uint32_t *n)
{
    graph_track(c->g, node_in(c->g, c->n, i));
    return rule_elems(c, i, n);
}

Dim rule_elem(Infer *c, uint32_t i, uint32_t at)
{
    uint32_t n;
    const Dim *e = rule_sizes(c, i, &n);
    return e && at < n ? dim_canon(c->d, e[at]) : (Dim){0};
}

static bool rule_fits(Infer *c, uint32_t i, int rank, const Dim *dim, bool spread, const char *why)
{
    int own = in_has(c, i) ? in_rank(c, i) : -1;
    if (own < 0) return true;
    if (spread ? own > rank : own != rank)
        return infer_error(c, "%s: input %s has rank %d, expected %s%d", why, op_schema(c->n->op)->in[i].name, own,
                           spread ? "at most " : "", rank);
    for (int a = 0; a < own; a++) {
        Dim is = in_dim(c, i, a), to = dim[rank - own + a];
        if (!(spread && dim_is(c->d, is, 1)) && !require_eq(c, is, to, why)) return false;
    }
    return true;
}

bool rule_lies_along(Infer *c, uint32_t i, const Type *t, const char *why)
{
    return rule_fits(c, i, t->rank, t->dim, true, why);
}
bool rule_has_shape(Infer *c, uint32_t i, int rank, const Dim *dim, const char *why)
{
    return rule_fits(c, i, rank, dim, false, why);
}

bool rule_type(Infer *c, uint32_t o, int64_t code)
{
    if (code <= DT_NONE || code >= DT_COUNT) return infer_error(c, "%lld is not an element type", (long long)code);
    c->out[o].dtype = (DType)code;
    return true;
}

static bool all_const(Arena *mem, Dims *d, const Dim *e, uint32_t n, const int64_t **v)
{
    int64_t *k = NEW_ARRAY(mem, int64_t, n + 1);
    for (uint32_t j = 0; j < n; j++)
        if (!dim_known(e[j]) || !dim_is_const(d, e[j], &k[j])) return false;
    *v = k;
    return true;
}

bool rule_ints(Infer *c, uint32_t i, const int64_t **v, uint32_t *n)
{
    *n = 0;
    const Dim *e = rule_elems(c, i, n);
    return e && all_const(c->g->mem, c->d, e, *n, v);
}

bool rule_known(Infer *c, uint32_t i)
{
    const int64_t *v;
    uint32_t n;
    return !in_has(c, i) || rule_ints(c, i, &v, &n);
}

bool rule_axes(Infer *c, uint32_t i, int rank, int *axis, uint32_t *n)
{
    const int64_t *v;
    bool known = rule_ints(c, i, &v, n);
    assert(known);
    (void)known;
    if (*n > MAX_RANK) return infer_error(c, "%u axes, at most %d are possible", *n, MAX_RANK);
    unsigned seen = 0;
    for (uint32_t j = 0; j < *n; j++) {
        if (!in_axis(c, v[j], rank, &axis[j])) return false;
        if (seen >> axis[j] & 1) return infer_error(c, "axis %d is given twice", axis[j]);
        seen |= 1u << axis[j];
    }
    return true;
}

bool rule_move(Infer *c, uint32_t o, uint32_t i, const int64_t *from, uint32_t n)
{
    uint32_t have;
    const Dim *e = rule_elems(c, i, &have);
    if (!e || !tracks_values(in_type(c, i)->dtype)) return true;
    Dim *to = NEW_ARRAY(c->g->mem, Dim, n + 1);
    for (uint32_t j = 0; j < n; j++) to[j] = from[j] >= 0 && from[j] < have ? e[from[j]] : (Dim){0};
    return out_elems(c, o, to, n);
}

int64_t broadcast_from(const Dims *d, const Type *out, const Type *t, int64_t flat)
{
    int64_t index = 0, stride = 1, size, own;
    for (int axis = out->rank - 1; axis >= 0; axis--) {
        bool constant = dim_is_const(d, out->dim[axis], &size);
        assert(constant && size > 0);
        (void)constant;
        int a = axis - (out->rank - t->rank);
        if (a >= 0 && dim_is_const(d, t->dim[a], &own)) {
            if (own != 1) index += flat % size * stride;
            stride *= own;
        }
        flat /= size;
    }
    return index;
}

/* ---- elementwise ---- */

static void infer_values(Infer *c)
{
    enum { MAX_ARGS = 16 };
    const Dim *e[MAX_ARGS];
    uint32_t n[MAX_ARGS], args = c->n->nin;
    int64_t count = type_count(c->d, &c->out[0]);
    if (!c->n->op->value || args > MAX_ARGS || count < 0 || count > MAX_ELEMS) return;
    if (!tracks_values(in_type(c, 0)->dtype) || !tracks_values(c->out[0].dtype)) return;
    for (uint32_t i = 0; i < args; i++)
        if (!(e[i] = rule_elems(c, i, &n[i])) || type_count(c->d, in_type(c, i)) != n[i]) return;
    Dim *to = NEW_ARRAY(c->g->mem, Dim, count + 1);
    bool any = count == 0;
    for (int64_t j = 0; j < count; j++) {
        Dim arg[MAX_ARGS];
        bool known = true;
        for (uint32_t i = 0; i < args; i++) {
            arg[i] = dim_canon(c->d, e[i][broadcast_from(c->d, &c->out[0], in_type(c, i), j)]);
            known &= dim_known(arg[i]);
        }
        if (known) to[j] = c->n->op->value(c->d, in_type(c, 0)->dtype, arg, args);
        any |= dim_known(to[j]);
    }
    if (any) out_elems(c, 0, to, (uint32_t)count);
}

bool infer_elementwise(Infer *c)
{
    uint32_t in[64], n = 0;
    if (c->n->nin > COUNT_OF(in)) return infer_error(c, "%u inputs, at most %zu are possible", c->n->nin, COUNT_OF(in));
    for (uint32_t i = 0; i < c->n->nin; i++)
        if (in_has(c, i)) in[n++] = i;
    if (!out_broadcast(c, 0, n, in)) return false;
    infer_values(c);
    return true;
}

Dim value_max(Dims *d, DType t, const Dim *a, uint32_t n)
{
    Dim r = a[0];
    (void)t;
    for (uint32_t i = 1; i < n; i++) r = dim_max(d, r, a[i]);
    return r;
}

Dim value_min(Dims *d, DType t, const Dim *a, uint32_t n)
{
    Dim r = a[0];
    (void)t;
    for (uint32_t i = 1; i < n; i++) r = dim_min(d, r, a[i]);
    return r;
}

Dim value_sum(Dims *d, DType t, const Dim *a, uint32_t n)
{
    Dim r = dim_const(d, 0);
    (void)t;
    for (uint32_t i = 0; i < n; i++) r = dim_add(d, r, a[i]);
    return r;
}

bool infer_same(Infer *c)
{
    for (uint32_t o = 0; o < c->n->nout; o++) out_like(c, o, 0);
    return true;
}

/* ---- lowerings ---- */

const Type *low_in_type(const Lower *l, uint32_t i) { return val_type(l->g, node_in(l->g, l->n, i)); }
const Type *low_out_type(const Lower *l, uint32_t o) { return val_type(l->g, node_out(l->n, o)); }

const Dim *low_elems(const Lower *l, uint32_t i, uint32_t *n)
{
    *n = 0;
    Val v = node_in(l->g, l->n, i);
    if (!v.id) return NULL;
    const Value *x = graph_val(l->g, v);
    const Dim *e = x->elem;
    if (e) *n = x->elems;
    else if (!x->konst || !(e = tensor_elems(l->k->mem, l->k->dim, x->konst, n))) return NULL;
    for (uint32_t j = 0; j < *n; j++)
        if (!dim_known(e[j])) return NULL;
    return e;
}

bool low_ints(const Lower *l, uint32_t i, const int64_t **v, uint32_t *n)
{
    const Dim *e = low_elems(l, i, n);
    return e && all_const(l->k->mem, l->k->dim, e, *n, v);
}

int low_attr_axis(const Lower *l, const char *attr, int rank)
{
    int64_t a = node_int(l->n, attr);
    return (int)(a < 0 ? a + rank : a);
}

Expr low_scalar(Lower *l, uint32_t i)
{
    Expr at[MAX_RANK] = {0};
    int buf = low_in(l, i);
    for (int j = 0; j < low_rank(l, buf); j++) at[j] = expr_index(l->k, 0);
    return expr_load(l->k, buf, at);
}

Expr low_load(Lower *l, int buf, const Expr *at)
{
    return expr_cast(l->k, dtype_compute(low_type(l, buf)), expr_load(l->k, buf, at));
}

Expr low_store_as(Lower *l, int buf, Expr value) { return expr_cast(l->k, low_type(l, buf), value); }
Expr low_select(Lower *l, Expr cond, Expr a, Expr b) { return expr_prim(l->k, P_select, cond, a, b); }
Expr low_i64(Lower *l, Expr e) { return expr_cast(l->k, DT_i64, e); }

Expr low_formula(Lower *l, const char *text, const char *const *name, const Expr *arg, int n)
{
    const char *error = NULL;
    Expr e = scalar_parse(l->k, text, name, arg, n, &error);
    assert(e && !error);
    return e;
}

Compute *low_move(Lower *l, int out, const int *axis, int in, const Expr *at)
{
    return low_stage(l, out, axis, low_rank(l, out), expr_load(l->k, in, at));
}

Expr low_wrap_index(Lower *l, Expr index, Expr size, Expr *check)
{
    Kernel *k = l->k;
    Expr zero = expr_index(k, 0), i = low_i64(l, index);
    i = low_select(l, expr_lt(k, i, zero), expr_add(k, i, size), i);
    *check = expr_and(k, *check, expr_and(k, expr_le(k, zero, i), expr_lt(k, i, size)));
    return i;
}

/* Some value of the graph has this symbol as an element: it can be read when the model runs. */
static bool symbol_readable(const Lower *l, uint32_t symbol)
{
    uint32_t i;
    for (uint32_t v = 1; v < l->g->val.n; v++) {
        const Value *val = &l->g->val.at[v];
        for (uint32_t k = 0; val->elem && k < val->elems; k++)
            if (dim_known(val->elem[k]) && dim_is_symbol(l->k->dim, val->elem[k], &i) && i == symbol) return true;
    }
    return false;
}

static bool size_readable(const Lower *l, Dim size)
{
    const DimCode *code;
    if (!dim_known(size)) return false;
    size = dim_canon(l->k->dim, size);
    if (!dim_has_data(l->k->dim, size)) return true;
    uint32_t n = dim_code(l->k->dim, size, l->k->mem, &code);
    for (uint32_t i = 0; i < n; i++)
        if (code[i].op == DIMOP_SYM && dim_symbol_kind(l->k->dim, (uint32_t)code[i].arg) == DIM_DATA &&
            !symbol_readable(l, (uint32_t)code[i].arg))
            return false;
    return true;
}

bool low_sized(Lower *l)
{
    for (uint32_t o = 0; o < l->n->nout; o++) {
        const Type *t = low_out_type(l, o);
        for (int i = 0; i < t->rank; i++)
            if (!size_readable(l, t->dim[i])) {
                low_refuse(l, "the size of its result depends on data, which is not supported");
                return false;
            }
    }
    return true;
}
