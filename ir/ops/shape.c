/* Operators that read, make or move shapes: each moves elements (QUANT_PASS) or computes sizes.
 *
 * Moving is index arithmetic: an output element is a load of the input at an index made of the output's axes. Their
 * rules also move known elements (OP_VALUES), because in exported models most of these nodes compute the shapes of
 * others. */
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"

enum { BIG = INT32_MAX }; /* exporters write INT32_MAX or INT64_MAX for "to the end" */

/* ---- Shape, Size, Constant, ConstantOfShape, EyeLike, Range ---- */

static void shape_range(int rank, const Node *n, int *first, int *end)
{
    const Attr *given = node_attr(n, "end");
    int64_t s = node_int(n, "start"), e = given->kind == ATTR_NONE ? rank : given->i;
    s = s < 0 ? s + rank : s, e = e < 0 ? e + rank : e;
    s = s < 0 ? 0 : s > rank ? rank : s, e = e < 0 ? 0 : e > rank ? rank : e;
    *first = (int)s, *end = (int)(e < s ? s : e);
}

static bool infer_shape(Infer *c)
{
    int rank = in_rank(c, 0), first, end;
    shape_range(rank, c->n, &first, &end);
    out_shape(c, 0, 1, &(Dim){DIM(c, end - first).id});
    Dim *e = NEW_ARRAY(c->g->mem, Dim, end - first + 1);
    for (int i = first; i < end; i++) e[i - first] = in_dim(c, 0, i);
    return out_elems(c, 0, e, (uint32_t)(end - first));
}

static void store_sizes(Lower *l, const Expr *size, int n)
{
    for (int i = 0; i < n; i++) {
        Compute *s = low_stage(l, low_out(l, 0), NULL, 0, size[i]);
        s->rank = 0, s->at[0] = expr_index(l->k, i);
    }
}

static void lower_shape(Lower *l)
{
    int first, end;
    Expr size[MAX_RANK];
    shape_range(low_in_type(l, 0)->rank, l->n, &first, &end);
    for (int i = first; i < end; i++) size[i - first] = low_dim(l, low_in(l, 0), i);
    store_sizes(l, size, end - first);
}

static bool infer_size(Infer *c)
{
    out_shape(c, 0, 0, NULL);
    Dim *e = NEW(c->g->mem, Dim);
    *e = dim_product(c->d, in_type(c, 0)->dim, in_rank(c, 0));
    return out_elems(c, 0, e, 1);
}

static void lower_size(Lower *l)
{
    Expr n = expr_index(l->k, 1);
    for (int i = 0; i < low_rank(l, low_in(l, 0)); i++) n = expr_mul(l->k, n, low_dim(l, low_in(l, 0), i));
    low_stage(l, low_out(l, 0), NULL, 0, n);
}

/* Constant: the tensor one of its attributes says; NULL for strings and sparse tensors. */
static const Tensor *constant_value(Arena *mem, const Node *n)
{
    const Attr *a;
    if ((a = node_attr(n, "value"))->kind != ATTR_NONE) return a->tensor;
    if ((a = node_attr(n, "value_int"))->kind != ATTR_NONE) {
        Tensor *t = tensor_new(mem, DT_i64, 0, NULL);
        dtype_store_int(DT_i64, (void *)t->data, 0, a->i);
        return t;
    }
    if ((a = node_attr(n, "value_ints"))->kind != ATTR_NONE) return tensor_ints(mem, a->ints, a->n);
    if ((a = node_attr(n, "value_float"))->kind != ATTR_NONE) return tensor_scalar(mem, DT_f32, a->f);
    if ((a = node_attr(n, "value_floats"))->kind == ATTR_NONE) return NULL;
    Tensor *t = tensor_new(mem, DT_f32, 1, &(int64_t){a->n});
    if (a->n) memcpy((void *)t->data, a->floats, a->n * sizeof(float));
    return t;
}

static bool infer_constant(Infer *c)
{
    const Tensor *t = constant_value(c->g->mem, c->n);
    if (!t) return infer_error(c, "only number tensors are supported as constants");
    c->out[0] = type_of_tensor(c->m, t);
    return true;
}

static bool expand_constant(Expand *x)
{
    x->out[0] = graph_const(x->g, constant_value(x->m->mem, x->n), NULL);
    return true;
}

/* Sizes given as the elements of a tensor: the rank is its length. */
static bool target_dims(Infer *c, uint32_t i, Dim *dim, int *rank)
{
    uint32_t n;
    int64_t count = type_count(c->d, in_type(c, i));
    if (in_rank(c, i) < 0 || count < 0) return false;
    if (count > MAX_RANK) return infer_error(c, "rank %d, at most %d is supported", (int)count, MAX_RANK);
    const Dim *e = rule_sizes(c, i, &n);
    for (int j = 0; j < count; j++) dim[j] = e && j < (int)n ? dim_canon(c->d, e[j]) : (Dim){0};
    *rank = (int)count;
    return true;
}

static bool fresh_unknown(Infer *c, Dim *dim, int rank, const char *stem)
{
    for (int j = 0; j < rank; j++)
        if (!dim_known(dim[j])) dim[j] = dim_fresh(c->d, stem, DIM_DATA);
    return true;
}

static bool infer_constant_of_shape(Infer *c)
{
    Dim dim[MAX_RANK];
    int rank;
    const Attr *a = node_attr(c->n, "value");
    DType t = a->kind == ATTR_NONE ? DT_f32 : a->tensor->type;
    c->out[0].dtype = t;
    if (a->kind != ATTR_NONE && tensor_count(a->tensor) != 1) return infer_error(c, "value must have one element");
    if (!target_dims(c, 0, dim, &rank)) return out_unknown(c, 0);
    fresh_unknown(c, dim, rank, "fill");
    out_shape(c, 0, rank, dim);
    int64_t count = type_count(c->d, &c->out[0]);
    if (count < 0 || count > MAX_ELEMS || !tracks_values(t) || dtype_is_float(t)) return true;
    Dim v = DIM(c, a->kind == ATTR_NONE ? 0 : dtype_load_int(t, a->tensor->data, 0)),
        *e = NEW_ARRAY(c->g->mem, Dim, count + 1);
    for (int64_t j = 0; j < count; j++) e[j] = v;
    return out_elems(c, 0, e, (uint32_t)count);
}

static Expr tensor_first(Lower *l, const Tensor *t)
{
    if (dtype_is_float(t->type)) return low_const(l, t->type, dtype_load(t->type, t->data, 0));
    return expr_int(l->k, t->type, dtype_load_int(t->type, t->data, 0));
}

static void lower_constant_of_shape(Lower *l)
{
    if (!low_sized(l)) return;
    int out = low_out(l, 0), axis[MAX_RANK];
    const Attr *a = node_attr(l->n, "value");
    low_axes(l, out, axis);
    low_stage(l, out, axis, low_rank(l, out),
              a->kind == ATTR_NONE ? low_const(l, DT_f32, 0) : tensor_first(l, a->tensor));
}

static bool infer_eye(Infer *c)
{
    const Attr *a = node_attr(c->n, "dtype");
    if (in_rank(c, 0) >= 0 && in_rank(c, 0) != 2) return infer_error(c, "input has rank %d, expected 2", in_rank(c, 0));
    return rule_type(c, 0, a->kind == ATTR_NONE ? in_type(c, 0)->dtype : a->i) && out_like(c, 0, 0);
}

static void lower_eye(Lower *l)
{
    int out = low_out(l, 0), axis[MAX_RANK];
    Expr at[MAX_RANK];
    DType t = low_type(l, out);
    low_axes(l, out, axis);
    low_index(l, axis, 2, at);
    Expr on = expr_prim(l->k, P_eq, at[1], expr_add(l->k, at[0], expr_index(l->k, node_int(l->n, "k"))), 0);
    low_stage(l, out, axis, 2, low_select(l, on, low_const(l, t, 1), low_const(l, t, 0)));
}

/* How many steps of that size, which is not negative, lie in a span. */
static Dim range_steps(Dims *d, Dim span, Dim step)
{
    return dim_max(d, dim_cdiv(d, span, dim_max(d, step, dim_const(d, 1))), dim_const(d, 0));
}

static bool range_count(Infer *c, Dim *count)
{
    Dim start = rule_elem(c, 0, 0), limit = rule_elem(c, 1, 0), delta = rule_elem(c, 2, 0), zero = DIM(c, 0);
    if (dim_known(start) && dim_known(limit) && dim_known(delta)) {
        if (!dim_require(c->d, GUARD_NE, delta, zero, c->loc, "the step of Range is not 0"))
            return infer_error(c, "delta is 0");
        Dim span = dim_sub(c->d, limit, start), back = dim_sub(c->d, zero, delta);
        *count = dim_select(c->d, dim_ge(c->d, delta, zero), range_steps(c->d, span, delta),
                            range_steps(c->d, dim_sub(c->d, zero, span), back));
        return true;
    }
    const Tensor *s = in_const(c, 0), *l = in_const(c, 1), *d = in_const(c, 2);
    *count = dim_fresh(c->d, "range", DIM_DATA);
    if (!s || !l || !d) return true;
    double from = dtype_load(s->type, s->data, 0), to = dtype_load(l->type, l->data, 0),
           by = dtype_load(d->type, d->data, 0);
    double n = (to - from) / by;
    if (!(n == n) || n > 1e15) return infer_error(c, "range from %g to %g by %g", from, to, by);
    int64_t whole = n <= 0 ? 0 : (int64_t)n;
    *count = DIM(c, whole + ((double)whole < n));
    return true;
}

static bool infer_range(Infer *c)
{
    Dim count, start = rule_elem(c, 0, 0), delta = rule_elem(c, 2, 0);
    int64_t n;
    for (uint32_t i = 0; i < 3; i++)
        if (in_rank(c, i) > 1) return infer_error(c, "input %u has rank %d, expected a scalar", i, in_rank(c, i));
    if (!range_count(c, &count)) return false;
    out_shape(c, 0, 1, &count);
    if (!dim_known(start) || !dim_known(delta) || !dim_is_const(c->d, count, &n) || n > MAX_ELEMS) return true;
    if (!tracks_values(c->out[0].dtype)) return true;
    Dim *e = NEW_ARRAY(c->g->mem, Dim, n + 1);
    for (int64_t j = 0; j < n; j++) e[j] = dim_add(c->d, start, dim_mul(c->d, delta, DIM(c, j)));
    return out_elems(c, 0, e, (uint32_t)n);
}

static void lower_range(Lower *l)
{
    if (!low_sized(l)) return;
    int out = low_out(l, 0), axis[MAX_RANK];
    DType t = dtype_compute(low_type(l, out));
    low_axes(l, out, axis);
    Expr start = expr_cast(l->k, t, low_scalar(l, 0)), delta = expr_cast(l->k, t, low_scalar(l, 2));
    Expr step = expr_mul(l->k, expr_cast(l->k, t, expr_axis(l->k, axis[0])), delta);
    low_stage(l, out, axis, 1, low_store_as(l, out, expr_add(l->k, start, step)));
}

/* ---- the same elements in the same order under another shape ---- */

/* Two shapes of one element count fall into groups of neighbouring dimensions with equal products; inside a group an
 * index is split or merged, between groups nothing is divided. [B,S,768] -> [B,S,12,64] has three groups. */
typedef struct Grouping {
    Dims *d;
    const Type *in, *out;
} Grouping;

static bool group_next(Grouping *g, int *i, int *o)
{
    Dim p = dim_const(g->d, 1), q = p, ratio;
    int a = *i, b = *o;
    do { /* the side that is known to be a divisor of the other grows; when neither is, both do */
        bool grow_in =
            a < g->in->rank && (a == *i || b >= g->out->rank || !dim_exact(g->d, p, q, &ratio) || dim_same(p, q));
        bool grow_out =
            b < g->out->rank && (b == *o || a >= g->in->rank || !dim_exact(g->d, q, p, &ratio) || dim_same(p, q));
        if (!grow_in && !grow_out) return false;
        if (grow_in) p = dim_mul(g->d, p, dim_canon(g->d, g->in->dim[a++]));
        if (grow_out) q = dim_mul(g->d, q, dim_canon(g->d, g->out->dim[b++]));
    } while (!dim_same(dim_canon(g->d, p), dim_canon(g->d, q)));
    *i = a, *o = b;
    return true;
}

/* The index of the input, dimensions [i0, i1), from that of the output, dimensions [o0, o1): through the element
 * number. */
static void group_index(Lower *l, int in, int i0, int i1, int out, int o0, int o1, const Expr *at, Expr *from)
{
    Kernel *k = l->k;
    Expr flat = expr_index(k, 0);
    for (int o = o0; o < o1; o++)
        if (!expr_is(k, low_dim(l, out, o), 1)) flat = expr_add(k, expr_mul(k, flat, low_dim(l, out, o)), at[o]);
    for (int i = i1 - 1; i > i0; i--) {
        Expr size = low_dim(l, in, i);
        if (expr_is(k, size, 1)) {
            from[i] = expr_index(k, 0);
            continue;
        }
        from[i] = expr_mod(k, flat, size);
        flat = expr_div(k, flat, size);
    }
    if (i1 > i0) from[i0] = flat;
}

/* Sizes of 1 belong to no group: they are taken out first. */
static Type without_ones(Dims *d, const Type *t, int *where)
{
    Type r = {.dtype = t->dtype};
    for (int i = 0; i < t->rank; i++)
        if (!dim_is(d, dim_canon(d, t->dim[i]), 1)) where[r.rank] = i, r.dim[r.rank++] = t->dim[i];
    return r;
}

static void reshape_index(Lower *l, int in, int out, const Expr *at, Expr *from)
{
    Dims *d = l->k->dim;
    int iw[MAX_RANK], ow[MAX_RANK], i = 0, o = 0;
    Type it = without_ones(d, low_in_type(l, 0), iw), ot = without_ones(d, low_out_type(l, 0), ow);
    Grouping g = {d, &it, &ot};
    for (int j = 0; j < low_rank(l, in); j++) from[j] = expr_index(l->k, 0);
    while (i < it.rank || o < ot.rank) {
        int i0 = i, o0 = o;
        if (!group_next(&g, &i, &o))
            i = it.rank, o = ot.rank; /* equal only by a guard: one group of all that is left */
        int i1 = i < it.rank ? iw[i - 1] + 1 : low_rank(l, in), o1 = o < ot.rank ? ow[o - 1] + 1 : low_rank(l, out);
        group_index(l, in, i > i0 ? iw[i0] : 0, i > i0 ? i1 : 0, out, o > o0 ? ow[o0] : 0, o > o0 ? o1 : 0, at, from);
    }
}

static void lower_reshape(Lower *l)
{
    if (!low_sized(l)) return;
    int in = low_in(l, 0), out = low_out(l, 0), axis[MAX_RANK];
    Expr at[MAX_RANK] = {0}, from[MAX_RANK] = {0};
    low_axes(l, out, axis);
    low_index(l, axis, low_rank(l, out), at);
    reshape_index(l, in, out, at, from);
    low_move(l, out, axis, in, from);
}

static bool same_elems(Infer *c)
{
    uint32_t n;
    const Dim *e = rule_elems(c, 0, &n);
    return !e || !tracks_values(in_type(c, 0)->dtype) || out_elems(c, 0, e, n);
}

/* The product of the input's sizes that are not also sizes of the output, and the other way round. */
static void cancel(Dim *in, int *ni, Dim *out, int *no)
{
    for (int o = 0; o < *no; o++)
        for (int i = 0; i < *ni; i++)
            if (dim_same(in[i], out[o])) {
                in[i] = in[--*ni], out[o] = out[--*no], o--;
                break;
            }
}

static bool reshape_hole(Infer *c, Dim *out, int rank, int hole)
{
    Dim num[MAX_RANK], den[MAX_RANK];
    int n = in_rank(c, 0), m = 0;
    for (int i = 0; i < n; i++) num[i] = dim_canon(c->d, in_dim(c, 0, i));
    for (int o = 0; o < rank; o++)
        if (o != hole && dim_known(out[o])) den[m++] = out[o];
    cancel(num, &n, den, &m);
    Dim total = dim_product(c->d, num, n), part = dim_product(c->d, den, m);
    if (!dim_known(total) || !dim_known(part)) return out[hole] = dim_fresh(c->d, "reshape", DIM_DATA), true;
    if (dim_is(c->d, part, 0)) return infer_error(c, "-1 stands beside a size of 0");
    if (dim_exact(c->d, total, part, &out[hole])) return true;
    if (dim_is_const(c->d, total, NULL) && dim_is_const(c->d, part, NULL))
        return infer_error(c, "%s elements do not divide by %s", dim_text(c->d, total, c->g->mem),
                           dim_text(c->d, part, c->g->mem));
    int64_t lo;
    if (!dim_lower(c->d, part, &lo) || lo < 1) {
        if (!require_ge(c, part, DIM(c, 1), "sizes beside -1 are not 0")) return false;
    }
    out[hole] = dim_fdiv(c->d, total, part);
    return require_eq(c, total, dim_mul(c->d, out[hole], part), "element count divides evenly");
}

static bool reshape_counts(Infer *c, const Dim *out, int rank)
{
    Dim num[MAX_RANK], den[MAX_RANK];
    int n = in_rank(c, 0), m = rank;
    for (int i = 0; i < n; i++) num[i] = dim_canon(c->d, in_dim(c, 0, i));
    for (int o = 0; o < rank; o++) den[o] = out[o];
    cancel(num, &n, den, &m);
    if (!n && !m) return true;
    Dim a = dim_product(c->d, num, n), b = dim_product(c->d, den, m);
    return !dim_known(a) || !dim_known(b) || require_eq(c, a, b, "element counts before and after");
}

/* 0 stands for the input's size at that place. */
static Dim reshape_zero(Infer *c, Dim size, int j)
{
    bool positive = dim_known(size) && !dim_has_data(c->d, size); /* a size of an input: 0 only when it is empty */
    if (!dim_known(size) || j >= in_rank(c, 0) || positive) return size;
    return dim_select(c->d, dim_eq(c->d, size, DIM(c, 0)), in_dim(c, 0, j), size);
}

/* Sizes that data says may also be -1, at most one of them: what the others leave. */
static bool reshape_data(Infer *c, Dim *out, int rank)
{
    Dim total = dim_product(c->d, in_type(c, 0)->dim, in_rank(c, 0)), part = dim_product(c->d, out, rank);
    if (!dim_known(total) || !dim_known(part)) return true;
    Dim rest = dim_fdiv(c->d, total, dim_max(c->d, dim_sub(c->d, DIM(c, 0), part), DIM(c, 1)));
    for (int j = 0; j < rank; j++)
        if (dim_has_data(c->d, out[j])) out[j] = dim_select(c->d, dim_eq(c->d, out[j], DIM(c, -1)), rest, out[j]);
    return true;
}

static bool infer_reshape(Infer *c)
{
    Dim out[MAX_RANK];
    int rank, hole = -1, unknown = -1, unknowns = 0;
    bool zero = node_int(c->n, "allowzero") != 0;
    if (!target_dims(c, 1, out, &rank)) return out_unknown(c, 0);
    for (int j = 0; j < rank; j++) {
        if (!dim_known(out[j]) || dim_has_data(c->d, out[j])) unknown = j, unknowns++;
        if (dim_is(c->d, out[j], -1)) {
            if (hole >= 0) return infer_error(c, "the shape has more than one -1");
            hole = j;
        } else if (dim_is(c->d, out[j], 0) && !zero) {
            if (j >= in_rank(c, 0)) return infer_error(c, "0 at %d, the input has rank %d", j, in_rank(c, 0));
            out[j] = in_dim(c, 0, j);
        } else if (!zero) {
            out[j] = reshape_zero(c, out[j], j);
        }
    }
    if (hole < 0 && unknowns == 1) hole = unknown; /* the element count tells it */
    if (hole >= 0) out[hole] = DIM(c, 1);
    fresh_unknown(c, out, rank, "reshape");
    if (hole < 0 && unknowns) reshape_data(c, out, rank);
    if (hole >= 0 ? !reshape_hole(c, out, rank, hole) : !reshape_counts(c, out, rank)) return false;
    out_shape(c, 0, rank, out);
    return same_elems(c);
}

static bool infer_flatten(Infer *c)
{
    int rank = in_rank(c, 0);
    int64_t axis = node_int(c->n, "axis");
    if (axis < -rank || axis > rank) return infer_error(c, "axis %d, the input has rank %d", (int)axis, rank);
    int at = (int)(axis < 0 ? axis + rank : axis);
    const Dim *dim = in_type(c, 0)->dim;
    out_shape(c, 0, 2, (Dim[]){dim_product(c->d, dim, at), dim_product(c->d, dim + at, rank - at)});
    return same_elems(c);
}

static bool infer_unsqueeze(Infer *c)
{
    const int64_t *v;
    uint32_t n;
    int axis[MAX_RANK], rank = in_rank(c, 0);
    if (!rule_ints(c, 1, &v, &n)) return out_unknown(c, 0);
    if (rank + (int)n > MAX_RANK) return infer_error(c, "rank %d, at most %d is supported", rank + (int)n, MAX_RANK);
    if (!rule_axes(c, 1, rank + (int)n, axis, &n)) return false;
    Dim out[MAX_RANK] = {{0}};
    for (uint32_t j = 0; j < n; j++) out[axis[j]] = DIM(c, 1);
    for (int o = 0, i = 0; o < rank + (int)n; o++)
        if (!dim_known(out[o])) out[o] = in_dim(c, 0, i++);
    out_shape(c, 0, rank + (int)n, out);
    return same_elems(c);
}

static bool infer_squeeze(Infer *c)
{
    int axis[MAX_RANK], rank = in_rank(c, 0), kept = 0;
    uint32_t n = 0;
    bool drop[MAX_RANK] = {false};
    if (!rule_known(c, 1)) return out_unknown(c, 0);
    if (in_has(c, 1)) {
        if (!rule_axes(c, 1, rank, axis, &n)) return false;
        for (uint32_t j = 0; j < n; j++) {
            drop[axis[j]] = true;
            if (!require_eq(c, in_dim(c, 0, axis[j]), DIM(c, 1), "a squeezed size is 1")) return false;
        }
    } else { /* the rank depends on which sizes are 1: those not known to be are taken not to be, under a guard */
        for (int i = 0; i < rank; i++) {
            drop[i] = dim_is(c->d, dim_canon(c->d, in_dim(c, 0, i)), 1);
            if (!drop[i] &&
                !dim_require(c->d, GUARD_NE, in_dim(c, 0, i), DIM(c, 1), c->loc, "a size kept by Squeeze is not 1"))
                return false;
        }
    }
    Dim out[MAX_RANK];
    for (int i = 0; i < rank; i++)
        if (!drop[i]) out[kept++] = in_dim(c, 0, i);
    out_shape(c, 0, kept, out);
    return same_elems(c);
}

/* ---- Transpose ---- */

static bool permutation(const Node *n, int rank, int *perm)
{
    uint32_t count;
    unsigned seen = 0;
    const int64_t *p = node_ints(n, "perm", &count);
    if (p && count != (uint32_t)rank) return false;
    for (int i = 0; i < rank; i++) {
        int64_t a = p ? p[i] : rank - 1 - i;
        if (a < 0 || a >= rank || (seen >> a & 1)) return false;
        seen |= 1u << a, perm[i] = (int)a;
    }
    return true;
}

static void strides_of(const Dims *d, const Type *t, int64_t *stride)
{
    int64_t s = 1, size;
    for (int i = t->rank - 1; i >= 0; i--) {
        stride[i] = s;
        if (dim_is_const(d, t->dim[i], &size)) s *= size;
    }
}

/* Moves known elements: element j of the output comes from the sum over its coordinates of from_start[a] + coordinate
 * * step[a] elements of the input. Every mover with affine indices says itself so. */
static bool move_affine(Infer *c, uint32_t o, int64_t start, const int64_t *step)
{
    const Type *out = &c->out[o];
    int64_t n = type_count(c->d, out), size;
    if (n < 0 || n > MAX_ELEMS) return true;
    int64_t *from = NEW_ARRAY(c->g->mem, int64_t, n + 1);
    for (int64_t j = 0; j < n; j++) {
        int64_t rest = j, at = start;
        for (int a = out->rank - 1; a >= 0; a--) {
            dim_is_const(c->d, out->dim[a], &size);
            at += rest % size * step[a], rest /= size;
        }
        from[j] = at;
    }
    return rule_move(c, o, 0, from, (uint32_t)n);
}

static bool infer_transpose(Infer *c)
{
    int rank = in_rank(c, 0), perm[MAX_RANK];
    Dim out[MAX_RANK];
    int64_t stride[MAX_RANK] = {0}, step[MAX_RANK] = {0};
    if (!permutation(c->n, rank, perm)) return infer_error(c, "perm is not a permutation of the %d axes", rank);
    strides_of(c->d, in_type(c, 0), stride);
    for (int i = 0; i < rank; i++) out[i] = in_dim(c, 0, perm[i]), step[i] = stride[perm[i]];
    out_shape(c, 0, rank, out);
    return type_count(c->d, in_type(c, 0)) < 0 || move_affine(c, 0, 0, step);
}

static void lower_transpose(Lower *l)
{
    int out = low_out(l, 0), rank = low_rank(l, out), axis[MAX_RANK], perm[MAX_RANK];
    Expr from[MAX_RANK] = {0};
    permutation(l->n, rank, perm);
    low_axes(l, out, axis);
    for (int i = 0; i < rank; i++) from[perm[i]] = expr_axis(l->k, axis[i]);
    low_move(l, out, axis, low_in(l, 0), from);
}

/* ---- Expand, Tile ---- */

static bool infer_expand(Infer *c)
{
    Dim target[MAX_RANK], out[MAX_RANK];
    int n, own = in_rank(c, 0);
    if (!target_dims(c, 1, target, &n)) return out_unknown(c, 0);
    int rank = n > own ? n : own;
    fresh_unknown(c, target, n, "expand");
    for (int i = 0; i < rank; i++) {
        int a = i - (rank - own), b = i - (rank - n);
        Dim x = a >= 0 ? in_dim(c, 0, a) : DIM(c, 1), y = b >= 0 ? target[b] : DIM(c, 1);
        out[i] = dim_broadcast(c->d, x, y, c->loc);
        if (!dim_known(out[i]))
            return infer_error(c, "size %s cannot become %s", dim_text(c->d, x, c->g->mem),
                               dim_text(c->d, y, c->g->mem));
    }
    out_shape(c, 0, rank, out);
    int64_t count = type_count(c->d, &c->out[0]);
    if (count < 0 || count > MAX_ELEMS || type_count(c->d, in_type(c, 0)) < 0) return true;
    int64_t *from = NEW_ARRAY(c->g->mem, int64_t, count + 1);
    for (int64_t j = 0; j < count; j++) from[j] = broadcast_from(c->d, &c->out[0], in_type(c, 0), j);
    return rule_move(c, 0, 0, from, (uint32_t)count);
}

static void lower_expand(Lower *l)
{
    if (!low_sized(l)) return;
    int out = low_out(l, 0), axis[MAX_RANK], rank = low_rank(l, out);
    low_axes(l, out, axis);
    low_stage(l, out, axis, rank, low_load_broadcast(l, low_in(l, 0), axis, rank));
}

static bool infer_tile(Infer *c)
{
    int rank = in_rank(c, 0), n;
    Dim repeat[MAX_RANK], out[MAX_RANK];
    if (!target_dims(c, 1, repeat, &n)) return out_unknown(c, 0);
    if (n != rank) return infer_error(c, "%d repeats for rank %d", n, rank);
    for (int i = 0; i < rank; i++)
        out[i] = dim_known(repeat[i]) ? dim_mul(c->d, in_dim(c, 0, i), repeat[i]) : dim_fresh(c->d, "tile", DIM_DATA);
    out_shape(c, 0, rank, out);
    int64_t count = type_count(c->d, &c->out[0]), stride[MAX_RANK] = {0}, size, own;
    if (count < 0 || count > MAX_ELEMS || type_count(c->d, in_type(c, 0)) < 0) return true;
    strides_of(c->d, in_type(c, 0), stride);
    int64_t *from = NEW_ARRAY(c->g->mem, int64_t, count + 1);
    for (int64_t j = 0; j < count; j++) {
        int64_t rest = j;
        for (int a = rank - 1; a >= 0; a--) {
            if (!dim_is_const(c->d, out[a], &size) || !dim_is_const(c->d, in_dim(c, 0, a), &own)) return true;
            from[j] += rest % size % own * stride[a], rest /= size;
        }
    }
    return rule_move(c, 0, 0, from, (uint32_t)count);
}

static void lower_tile(Lower *l)
{
    if (!low_sized(l)) return;
    int in = low_in(l, 0), out = low_out(l, 0), axis[MAX_RANK], rank = low_rank(l, out);
    const Type *it = low_in_type(l, 0), *ot = low_out_type(l, 0);
    Expr at[MAX_RANK] = {0};
    low_axes(l, out, axis);
    for (int i = 0; i < rank; i++) {
        at[i] = expr_axis(l->k, axis[i]);
        if (!dim_same(dim_canon(l->k->dim, it->dim[i]), dim_canon(l->k->dim, ot->dim[i])))
            at[i] = expr_mod(l->k, at[i], low_dim(l, in, i));
    }
    low_move(l, out, axis, in, at);
}

/* ---- Concat, Split ---- */

static bool infer_concat(Infer *c)
{
    int axis, rank = -1;
    Dim out[MAX_RANK];
    for (uint32_t i = 0; i < c->n->nin; i++) {
        if (rank >= 0 && in_rank(c, i) != rank)
            return infer_error(c, "input %u has rank %d, expected %d", i, in_rank(c, i), rank);
        rank = in_rank(c, i);
    }
    if (!in_axis(c, node_int(c->n, "axis"), rank, &axis)) return false;
    for (int a = 0; a < rank; a++) out[a] = in_dim(c, 0, a);
    for (uint32_t i = 1; i < c->n->nin; i++)
        for (int a = 0; a < rank; a++) {
            if (a == axis) out[a] = dim_add(c->d, out[a], in_dim(c, i, a));
            else if (!require_eq(c, out[a], in_dim(c, i, a), "Concat: sizes of the other axes")) return false;
            else if (dim_is_const(c->d, in_dim(c, i, a), NULL)) out[a] = in_dim(c, i, a);
        }
    out_shape(c, 0, rank, out);
    int64_t count = type_count(c->d, &c->out[0]), at = 0;
    if (rank != 1 || count < 0 || count > MAX_ELEMS || !tracks_values(c->out[0].dtype)) return true;
    Dim *e = NEW_ARRAY(c->g->mem, Dim, count + 1);
    bool any = false;
    for (uint32_t i = 0; i < c->n->nin; i++) {
        uint32_t n;
        const Dim *x = rule_elems(c, i, &n);
        for (uint32_t j = 0; x && j < n; j++) e[at + j] = x[j], any |= dim_known(x[j]);
        at += type_count(c->d, in_type(c, i));
    }
    return !any || out_elems(c, 0, e, (uint32_t)count);
}

static void lower_concat(Lower *l)
{
    int out = low_out(l, 0), rank = low_rank(l, out), a = low_attr_axis(l, "axis", rank), axis[MAX_RANK];
    Expr offset = expr_index(l->k, 0), at[MAX_RANK] = {0};
    for (uint32_t i = 0; i < l->n->nin; i++) {
        int in = low_in(l, i);
        low_axes(l, in, axis);
        low_index(l, axis, rank, at);
        Compute *s = low_move(l, out, axis, in, at);
        s->at[a] = expr_add(l->k, at[a], offset);
        offset = expr_add(l->k, offset, low_dim(l, in, a));
    }
}

/* The sizes of the pieces: given, or equal with a smaller last one. */
static bool split_sizes(Infer *c, Dim whole, Dim *size)
{
    uint32_t parts = c->n->nout, n;
    const Dim *e = in_has(c, 1) ? rule_sizes(c, 1, &n) : NULL;
    if (e && n != parts) return infer_error(c, "%u sizes for %u outputs", n, parts);
    Dim sum = DIM(c, 0), chunk = dim_cdiv(c->d, whole, DIM(c, parts));
    for (uint32_t o = 0; o < parts; o++) {
        if (!in_has(c, 1)) {
            size[o] = o + 1 < parts ? chunk : dim_sub(c->d, whole, dim_mul(c->d, chunk, DIM(c, (int64_t)parts - 1)));
            continue;
        }
        size[o] = e && dim_known(e[o]) ? dim_canon(c->d, e[o]) : dim_fresh(c->d, "split", DIM_DATA);
        sum = dim_add(c->d, sum, size[o]);
    }
    if (in_has(c, 1)) return require_eq(c, whole, sum, "sizes of Split add up");
    int64_t lo;
    if (dim_lower(c->d, size[parts - 1], &lo) && lo >= 0) return true;
    return require_ge(c, size[parts - 1], DIM(c, 0), "Split: the last piece exists");
}

static bool infer_split(Infer *c)
{
    enum { MAX_PARTS = 512 };
    int rank = in_rank(c, 0), axis;
    Dim out[MAX_RANK], size[MAX_PARTS];
    const Attr *num = node_attr(c->n, "num_outputs");
    if (num->kind != ATTR_NONE && num->i != c->n->nout)
        return infer_error(c, "num_outputs is %d, there are %u", (int)num->i, c->n->nout);
    if (c->n->nout > MAX_PARTS) return infer_error(c, "%u outputs, at most %d are supported", c->n->nout, MAX_PARTS);
    if (!in_axis(c, node_int(c->n, "axis"), rank, &axis) || !split_sizes(c, in_dim(c, 0, axis), size)) return false;
    int64_t stride[MAX_RANK] = {0}, start = 0, piece;
    bool whole = type_count(c->d, in_type(c, 0)) >= 0;
    strides_of(c->d, in_type(c, 0), stride);
    for (uint32_t o = 0; o < c->n->nout; o++) {
        for (int a = 0; a < rank; a++) out[a] = a == axis ? size[o] : in_dim(c, 0, a);
        out_shape(c, o, rank, out);
        whole = whole && dim_is_const(c->d, size[o], &piece);
        if (whole) move_affine(c, o, start * stride[axis], stride), start += piece;
    }
    return true;
}

static void lower_split(Lower *l)
{
    if (!low_sized(l)) return;
    int in = low_in(l, 0), rank = low_rank(l, in), a = low_attr_axis(l, "axis", rank), axis[MAX_RANK];
    Expr offset = expr_index(l->k, 0), at[MAX_RANK] = {0};
    for (uint32_t o = 0; o < l->n->nout; o++) {
        int out = low_out(l, o);
        low_axes(l, out, axis);
        low_index(l, axis, rank, at);
        at[a] = expr_add(l->k, at[a], offset);
        low_move(l, out, axis, in, at);
        offset = expr_add(l->k, offset, low_dim(l, out, a));
    }
}

/* ---- Slice ---- */

typedef struct Cut {
    Dim first, count;
    int64_t step;
} Cut; /* along one axis */

/* A bound that may count from the end. */
static Dim wrap_bound(Dims *d, Dim b, Dim size)
{
    int64_t v;
    if (dim_lower(d, b, &v) && v >= 0) return b;
    if (dim_upper(d, b, &v) && v < 0) return dim_add(d, b, size);
    return dim_select(d, dim_ge(d, b, dim_const(d, 0)), b, dim_add(d, b, size));
}

static Cut cut_axis(Dims *d, Dim size, Dim start, Dim end, int64_t step)
{
    Dim zero = dim_const(d, 0), one = dim_const(d, 1), last = dim_sub(d, size, one), from, to;
    int64_t s = 0, e = 0;
    bool ks = dim_is_const(d, start, &s), ke = dim_is_const(d, end, &e);
    if (step > 0) {
        from = ks && (s == 0 || s <= -BIG) ? zero : dim_min(d, dim_max(d, wrap_bound(d, start, size), zero), size);
        to = ke && e >= BIG ? size : dim_min(d, dim_max(d, wrap_bound(d, end, size), zero), size);
        return (Cut){from, dim_cdiv(d, dim_max(d, dim_sub(d, to, from), zero), dim_const(d, step)), step};
    }
    from = ks && (s == -1 || s >= BIG) ? last : dim_min(d, dim_max(d, wrap_bound(d, start, size), zero), last);
    to = ke && e <= -BIG ? dim_const(d, -1) : dim_max(d, dim_min(d, wrap_bound(d, end, size), last), dim_const(d, -1));
    return (Cut){from, dim_cdiv(d, dim_max(d, dim_sub(d, from, to), zero), dim_const(d, -step)), step};
}

/* Where every axis is cut; count unknown where a bound is not a known size. */
typedef struct Bounds {
    const Dim *start, *end;
    const int64_t *axis, *step;
    uint32_t n;
} Bounds;

static void slice_cuts(Dims *d, const Type *in, const Bounds *b, Cut *cut)
{
    for (int a = 0; a < in->rank; a++) cut[a] = (Cut){dim_const(d, 0), in->dim[a], 1};
    for (uint32_t j = 0; j < b->n; j++) {
        int a = (int)(b->axis ? b->axis[j] : j);
        a = a < 0 ? a + in->rank : a;
        int64_t step = b->step ? b->step[j] : 1;
        if (!b->start || !b->end || !dim_known(b->start[j]) || !dim_known(b->end[j])) cut[a] = (Cut){{0}, {0}, step};
        else cut[a] = cut_axis(d, dim_canon(d, in->dim[a]), dim_canon(d, b->start[j]), dim_canon(d, b->end[j]), step);
    }
}

static bool slice_bounds(Infer *c, Bounds *b)
{
    uint32_t n;
    int64_t count = type_count(c->d, in_type(c, 1));
    int axis[MAX_RANK];
    if (count < 0) count = type_count(c->d, in_type(c, 2));
    *b = (Bounds){.n = (uint32_t)count};
    b->start = rule_sizes(c, 1, &n);
    if (b->start && n != b->n) return infer_error(c, "%u starts, expected %u", n, b->n);
    b->end = rule_sizes(c, 2, &n);
    if (b->end && n != b->n) return infer_error(c, "%u ends, expected %u", n, b->n);
    if (!in_has(c, 3) && count > in_rank(c, 0)) return infer_error(c, "%u starts for rank %d", b->n, in_rank(c, 0));
    if (in_has(c, 3) && (!rule_axes(c, 3, in_rank(c, 0), axis, &n) || !rule_ints(c, 3, &b->axis, &n))) return false;
    if (in_has(c, 3) && n != b->n) return infer_error(c, "%u axes, expected %u", n, b->n);
    if (!in_has(c, 4)) return true;
    if (!rule_ints(c, 4, &b->step, &n)) return false;
    if (n != b->n) return infer_error(c, "%u steps, expected %u", n, b->n);
    for (uint32_t j = 0; j < n; j++)
        if (!b->step[j] || b->step[j] == INT64_MIN) return infer_error(c, "a step is 0 or too large");
    return true;
}

static bool infer_slice(Infer *c)
{
    int rank = in_rank(c, 0);
    Bounds b;
    Cut cut[MAX_RANK];
    Dim out[MAX_RANK];
    int64_t stride[MAX_RANK] = {0}, start = 0, first;
    bool lengths = type_count(c->d, in_type(c, 1)) >= 0 || type_count(c->d, in_type(c, 2)) >= 0;
    if (!lengths || !rule_known(c, 3) || !rule_known(c, 4)) return out_unknown(c, 0);
    if (!slice_bounds(c, &b)) return false;
    slice_cuts(c->d, in_type(c, 0), &b, cut);
    strides_of(c->d, in_type(c, 0), stride);
    bool constant = type_count(c->d, in_type(c, 0)) >= 0;
    for (int a = 0; a < rank; a++) {
        out[a] = dim_known(cut[a].count) ? cut[a].count : dim_fresh(c->d, "slice", DIM_DATA);
        constant = constant && dim_known(cut[a].first) && dim_is_const(c->d, cut[a].first, &first);
        if (constant) start += first * stride[a], stride[a] *= cut[a].step;
    }
    out_shape(c, 0, rank, out);
    return !constant || move_affine(c, 0, start, stride);
}

static void lower_slice(Lower *l)
{
    if (!low_sized(l)) return;
    int out = low_out(l, 0), rank = low_rank(l, out), axis[MAX_RANK];
    Bounds b = {0};
    Cut cut[MAX_RANK];
    Expr at[MAX_RANK] = {0};
    uint32_t n;
    b.start = low_elems(l, 1, &b.n), b.end = low_elems(l, 2, &n);
    low_ints(l, 3, &b.axis, &n);
    low_ints(l, 4, &b.step, &n);
    slice_cuts(l->k->dim, low_in_type(l, 0), &b, cut);
    low_axes(l, out, axis);
    for (int a = 0; a < rank; a++) {
        Expr step = expr_mul(l->k, expr_axis(l->k, axis[a]), expr_index(l->k, cut[a].step));
        at[a] = expr_add(l->k, step, expr_dim(l->k, cut[a].first));
    }
    low_move(l, out, axis, low_in(l, 0), at);
}

/* ---- Pad ---- */

typedef struct Border {
    Dim before, after;
} Border;

static bool pad_borders(Dims *d, const Dim *pads, const int64_t *axes, uint32_t n, int rank, Border *b)
{
    for (int a = 0; a < rank; a++) b[a] = (Border){dim_const(d, 0), dim_const(d, 0)};
    for (uint32_t j = 0; j < n; j++) {
        int64_t a = axes ? axes[j] : j;
        if (!dim_known(pads[j]) || !dim_known(pads[j + n])) return false;
        b[a < 0 ? a + rank : a] = (Border){dim_canon(d, pads[j]), dim_canon(d, pads[j + n])};
    }
    return true;
}

typedef enum PadMode { PAD_CONSTANT, PAD_REFLECT, PAD_EDGE, PAD_WRAP, PAD_MODES } PadMode;
static PadMode pad_mode(const Node *n)
{
    static const char *const name[PAD_MODES] = {"constant", "reflect", "edge", "wrap"};
    int m = 0;
    while (m < PAD_MODES && strcmp(name[m], node_str(n, "mode")) != 0) m++;
    return (PadMode)m;
}

/* Reflecting and wrapping more than once needs the period as a constant; with a free size once must do. */
static bool pad_once(Infer *c, PadMode mode, Dim size, Border b)
{
    if ((mode != PAD_REFLECT && mode != PAD_WRAP) || dim_is_const(c->d, size, NULL)) return true;
    Dim most = mode == PAD_REFLECT ? dim_sub(c->d, size, DIM(c, 1)) : size;
    return require_ge(c, most, b.before, "padding is smaller than the size") &&
           require_ge(c, most, b.after, "padding is smaller than the size");
}

static bool infer_pad(Infer *c)
{
    int rank = in_rank(c, 0), axis[MAX_RANK];
    const int64_t *axes = NULL;
    uint32_t n = (uint32_t)rank, np;
    Border b[MAX_RANK];
    Dim out[MAX_RANK];
    if (!rule_known(c, 3)) return out_unknown(c, 0);
    if (pad_mode(c->n) == PAD_MODES) return infer_error(c, "mode '%s' is unknown", node_str(c->n, "mode"));
    if (in_has(c, 3) && (!rule_axes(c, 3, rank, axis, &n) || !rule_ints(c, 3, &axes, &n))) return false;
    const Dim *pads = rule_sizes(c, 1, &np);
    if (!pads && in_rank(c, 1) > 1) return infer_error(c, "pads has rank %d, expected 1", in_rank(c, 1));
    if (pads && np != 2 * n) return infer_error(c, "%u pads, expected %u", np, 2 * n);
    if (!pads || !pad_borders(c->d, pads, axes, n, rank, b)) {
        for (int a = 0; a < rank; a++) out[a] = dim_fresh(c->d, "pad", DIM_DATA);
        return out_shape(c, 0, rank, out);
    }
    for (int a = 0; a < rank; a++) {
        int64_t lo;
        if (!pad_once(c, pad_mode(c->n), in_dim(c, 0, a), b[a])) return false;
        out[a] = dim_add(c->d, dim_add(c->d, in_dim(c, 0, a), b[a].before), b[a].after);
        if ((!dim_lower(c->d, out[a], &lo) || lo < 0) &&
            !require_ge(c, out[a], DIM(c, 0), "a padded size is not negative"))
            return false;
    }
    return out_shape(c, 0, rank, out);
}

static Expr least(Lower *l, Expr a, Expr b) { return expr_prim(l->k, P_min, a, b, 0); }
static Expr most(Lower *l, Expr a, Expr b) { return expr_prim(l->k, P_max, a, b, 0); }

/* x mod period for x >= -before; period a constant or not smaller than before. */
static Expr periodic(Lower *l, Expr x, Expr before, Expr period)
{
    Kernel *k = l->k;
    int64_t b, p;
    Expr lift = expr_is_index(k, before, &b) && expr_is_index(k, period, &p)
                    ? expr_index(k, b <= 0 ? 0 : (b + p - 1) / p * p)
                    : period;
    return expr_mod(k, expr_add(k, x, lift), period);
}

/* Where along an axis of that size the padded element at x (0: the first real one) comes from. */
static Expr pad_source(Lower *l, PadMode mode, Expr x, Border b, Expr size)
{
    Kernel *k = l->k;
    Expr zero = expr_index(k, 0), last = expr_sub(k, size, expr_index(k, 1)), before = expr_dim(k, b.before);
    int64_t n;
    if (mode == PAD_EDGE) return least(l, most(l, x, zero), last);
    if (mode == PAD_WRAP) return periodic(l, x, before, size);
    if (expr_is_index(k, size, &n)) { /* any number of reflections */
        if (n <= 1) return zero;
        Expr period = expr_index(k, 2 * (n - 1)), y = periodic(l, x, before, period);
        return least(l, y, expr_sub(k, period, y));
    }
    x = most(l, x, expr_sub(k, zero, x));
    x = expr_sub(k, last, x);
    return expr_sub(k, last, most(l, x, expr_sub(k, zero, x)));
}

static void lower_pad(Lower *l)
{
    if (!low_sized(l)) return;
    Kernel *k = l->k;
    int in = low_in(l, 0), out = low_out(l, 0), rank = low_rank(l, out), axis[MAX_RANK];
    const int64_t *axes = NULL;
    uint32_t n = (uint32_t)rank, np;
    Border b[MAX_RANK];
    Expr at[MAX_RANK] = {0}, inside = 0, zero = expr_index(k, 0);
    PadMode mode = pad_mode(l->n);
    const Dim *pads = low_elems(l, 1, &np);
    if (low_in(l, 3)) low_ints(l, 3, &axes, &n);
    pad_borders(k->dim, pads, axes, n, rank, b);
    low_axes(l, out, axis);
    for (int a = 0; a < rank; a++) {
        at[a] = expr_sub(k, expr_axis(k, axis[a]), expr_dim(k, b[a].before));
        bool low_side = !dim_is(k->dim, b[a].before, 0), high_side = !dim_is(k->dim, b[a].after, 0);
        if (mode != PAD_CONSTANT && (low_side || high_side))
            at[a] = pad_source(l, mode, at[a], b[a], low_dim(l, in, a));
        if (mode != PAD_CONSTANT) continue;
        if (low_side) inside = expr_and(k, inside, expr_le(k, zero, at[a]));
        if (high_side) inside = expr_and(k, inside, expr_lt(k, at[a], low_dim(l, in, a)));
    }
    Expr value = expr_load(k, in, at), fill = low_in(l, 2) ? low_scalar(l, 2) : low_const(l, low_type(l, in), 0);
    low_stage(l, out, axis, rank, inside ? expr_guard(k, inside, value, fill) : value);
}

/* CenterCropPad: a Pad whose borders, positive or negative, are shared evenly. */
static bool center_dims(Infer *c, Dim *target, Dim *out)
{
    int rank = in_rank(c, 0), n;
    uint32_t count;
    const int64_t *axes = node_ints(c->n, "axes", &count);
    if (!target_dims(c, 1, target, &n)) return infer_error(c, "shape has a length that is not known");
    fresh_unknown(c, target, n, "crop");
    if (n != (axes ? (int)count : rank)) return infer_error(c, "%d sizes, expected %d", n, axes ? (int)count : rank);
    for (int a = 0; a < rank; a++) out[a] = in_dim(c, 0, a);
    for (int j = 0; j < n; j++) {
        int a = j;
        if (axes && !in_axis(c, axes[j], rank, &a)) return false;
        out[a] = target[j];
    }
    return true;
}

static bool infer_center(Infer *c)
{
    Dim target[MAX_RANK], out[MAX_RANK];
    return center_dims(c, target, out) && out_shape(c, 0, in_rank(c, 0), out);
}

static void lower_center(Lower *l)
{
    if (!low_sized(l)) return;
    Kernel *k = l->k;
    int in = low_in(l, 0), out = low_out(l, 0), rank = low_rank(l, out), axis[MAX_RANK];
    const Type *it = low_in_type(l, 0), *ot = low_out_type(l, 0);
    Expr at[MAX_RANK] = {0}, inside = 0, zero = expr_index(k, 0);
    Dim two = dim_const(k->dim, 2), none = dim_const(k->dim, 0);
    low_axes(l, out, axis);
    for (int a = 0; a < rank; a++) {
        at[a] = expr_axis(k, axis[a]);
        if (dim_same(it->dim[a], ot->dim[a])) continue;
        /* floor of half the difference on either side: one of the two terms is 0 */
        Dim crop = dim_fdiv(k->dim, dim_max(k->dim, dim_sub(k->dim, it->dim[a], ot->dim[a]), none), two);
        Dim pad = dim_fdiv(k->dim, dim_max(k->dim, dim_sub(k->dim, ot->dim[a], it->dim[a]), none), two);
        at[a] = expr_add(k, at[a], expr_sub(k, expr_dim(k, crop), expr_dim(k, pad)));
        inside = expr_and(k, inside, expr_and(k, expr_le(k, zero, at[a]), expr_lt(k, at[a], low_dim(l, in, a))));
    }
    Expr value = expr_load(k, in, at);
    low_stage(l, out, axis, rank, inside ? expr_guard(k, inside, value, low_const(l, low_type(l, in), 0)) : value);
}

/* ---- DepthToSpace, SpaceToDepth ---- */

static bool block_input(Infer *c, int64_t *block, bool *crd)
{
    const char *mode = node_str(c->n, "mode");
    *block = node_int(c->n, "blocksize"), *crd = !strcmp(mode, "CRD");
    if (in_rank(c, 0) != 4) return infer_error(c, "input has rank %d, expected 4", in_rank(c, 0));
    if (*block < 1 || *block > 4096) return infer_error(c, "blocksize is %d", (int)*block);
    return *crd || !strcmp(mode, "DCR") || infer_error(c, "mode '%s' is unknown", mode);
}

static bool divide(Infer *c, Dim a, int64_t by, Dim *q)
{
    if (dim_exact(c->d, a, DIM(c, by), q)) return true;
    *q = dim_fdiv(c->d, a, DIM(c, by));
    return require_eq(c, a, dim_mul(c->d, *q, DIM(c, by)), "a size is a multiple of the block");
}

static bool infer_depth_to_space(Infer *c)
{
    int64_t b;
    bool crd;
    Dim channels;
    if (!block_input(c, &b, &crd) || !divide(c, in_dim(c, 0, 1), b * b, &channels)) return false;
    Dim by = DIM(c, b);
    return out_shape(
        c, 0, 4,
        (Dim[]){in_dim(c, 0, 0), channels, dim_mul(c->d, in_dim(c, 0, 2), by), dim_mul(c->d, in_dim(c, 0, 3), by)});
}

static bool infer_space_to_depth(Infer *c)
{
    int64_t b;
    bool crd;
    Dim h, w;
    if (!block_input(c, &b, &crd) || !divide(c, in_dim(c, 0, 2), b, &h) || !divide(c, in_dim(c, 0, 3), b, &w))
        return false;
    return out_shape(c, 0, 4, (Dim[]){in_dim(c, 0, 0), dim_mul(c->d, in_dim(c, 0, 1), DIM(c, b * b)), h, w});
}

/* Channel of the deep tensor for channel c of the flat one at row i, column j of its block. */
static Expr deep_channel(Lower *l, Expr c, Expr channels, Expr i, Expr j, Expr b)
{
    Kernel *k = l->k;
    if (!strcmp(node_str(l->n, "mode"), "CRD"))
        return expr_add(k, expr_mul(k, expr_add(k, expr_mul(k, c, b), i), b), j);
    return expr_add(k, expr_mul(k, expr_add(k, expr_mul(k, i, b), j), channels), c);
}

static void lower_depth_to_space(Lower *l)
{
    Kernel *k = l->k;
    int out = low_out(l, 0), axis[MAX_RANK];
    Expr x[MAX_RANK] = {0}, b = expr_index(k, node_int(l->n, "blocksize"));
    low_axes(l, out, axis);
    low_index(l, axis, 4, x);
    Expr channel = deep_channel(l, x[1], low_dim(l, out, 1), expr_mod(k, x[2], b), expr_mod(k, x[3], b), b);
    low_move(l, out, axis, low_in(l, 0), (Expr[MAX_RANK]){x[0], channel, expr_div(k, x[2], b), expr_div(k, x[3], b)});
}

static void lower_space_to_depth(Lower *l)
{
    Kernel *k = l->k;
    int in = low_in(l, 0), out = low_out(l, 0), axis[MAX_RANK];
    Expr x[MAX_RANK] = {0}, b = expr_index(k, node_int(l->n, "blocksize")), c, i, j;
    low_axes(l, out, axis);
    low_index(l, axis, 4, x);
    if (!strcmp(node_str(l->n, "mode"), "CRD")) {
        j = expr_mod(k, x[1], b), c = expr_div(k, x[1], b);
        i = expr_mod(k, c, b), c = expr_div(k, c, b);
    } else {
        c = expr_mod(k, x[1], low_dim(l, in, 1)), i = expr_div(k, x[1], low_dim(l, in, 1));
        j = expr_mod(k, i, b), i = expr_div(k, i, b);
    }
    Expr row = expr_add(k, expr_mul(k, x[2], b), i), column = expr_add(k, expr_mul(k, x[3], b), j);
    low_move(l, out, axis, in, (Expr[MAX_RANK]){x[0], c, row, column});
}

/* ---- Trilu ---- */

static bool infer_trilu(Infer *c)
{
    if (in_rank(c, 0) < 2) return infer_error(c, "input has rank %d, expected 2 or more", in_rank(c, 0));
    return infer_same(c);
}

static void lower_trilu(Lower *l)
{
    Kernel *k = l->k;
    int in = low_in(l, 0), out = low_out(l, 0), rank = low_rank(l, out), axis[MAX_RANK];
    Expr x[MAX_RANK] = {0}, shift = expr_index(k, 0);
    uint32_t n;
    const Dim *e = low_elems(l, 1, &n);
    if (low_in(l, 1)) shift = e && n == 1 ? expr_dim(k, e[0]) : low_i64(l, low_scalar(l, 1));
    low_axes(l, out, axis);
    low_index(l, axis, rank, x);
    Expr diagonal = expr_add(k, x[rank - 2], shift), column = x[rank - 1];
    Expr keep = node_int(l->n, "upper") ? expr_le(k, diagonal, column) : expr_le(k, column, diagonal);
    low_stage(l, out, axis, rank, low_select(l, keep, expr_load(k, in, x), low_const(l, low_type(l, in), 0)));
}

/* clang-format off */
const OpDef ops_shape[] = {
    OP(Shape, .since = 1, .sig = "data:T -> shape:i64", .T = "any", .attrs = "start:int=0 end:int", .infer = infer_shape,
       .lower = lower_shape, .flags = OP_VALUES | OP_SHAPE_ONLY),
    OP(Size, .since = 1, .sig = "data:T -> size:i64", .T = "any", .infer = infer_size, .lower = lower_size,
       .flags = OP_VALUES | OP_SHAPE_ONLY),
    OP(Constant, .since = 1, .sig = "-> output:T", .T = "any",
       .attrs = "value:tensor value_float:float value_floats:floats value_int:int value_ints:ints value_string:string "
                "value_strings:strings sparse_value:tensor",
       .infer = infer_constant, .expand = expand_constant),
    OP(ConstantOfShape, .since = 9, .sig = "input:i64 -> output:T", .T = "any", .attrs = "value:tensor",
       .infer = infer_constant_of_shape, .lower = lower_constant_of_shape, .flags = OP_VALUES | OP_UNRANKED),
    OP(EyeLike, .since = 9, .sig = "input:T -> output:U", .T = "any", .U = "number", .attrs = "dtype:int k:int=0",
       .infer = infer_eye, .lower = lower_eye, .flags = OP_SHAPE_ONLY | OP_UNRANKED),
    OP(Range, .since = 11, .sig = "start:T limit:T delta:T -> output:T", .T = "int float", .attrs = "stash_type:int=1",
       .infer = infer_range, .lower = lower_range, .flags = OP_VALUES),
    OP(Reshape, .since = 5, .sig = "data:T shape:i64 -> reshaped:T", .T = "any", .attrs = "allowzero:int=0",
       .infer = infer_reshape, .lower = lower_reshape, .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Flatten, .since = 1, .sig = "input:T -> output:T", .T = "any", .attrs = "axis:int=1", .infer = infer_flatten,
       .lower = lower_reshape, .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Unsqueeze, .since = 13, .sig = "data:T axes:i64 -> expanded:T", .T = "any", .infer = infer_unsqueeze,
       .lower = lower_reshape, .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Squeeze, .since = 13, .sig = "data:T axes:i64? -> squeezed:T", .T = "any", .infer = infer_squeeze,
       .lower = lower_reshape, .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Transpose, .since = 1, .sig = "data:T -> transposed:T", .T = "any", .attrs = "perm:ints", .infer = infer_transpose,
       .lower = lower_transpose, .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Expand, .since = 8, .sig = "input:T shape:i64 -> output:T", .T = "any", .infer = infer_expand, .lower = lower_expand,
       .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Tile, .since = 6, .sig = "input:T repeats:i64 -> output:T", .T = "any", .infer = infer_tile, .lower = lower_tile,
       .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Concat, .since = 4, .sig = "inputs:T* -> concat_result:T", .T = "any", .attrs = "axis:int!", .infer = infer_concat,
       .lower = lower_concat, .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Split, .since = 13, .sig = "input:T split:i64? -> outputs:T*", .T = "any", .attrs = "axis:int=0 num_outputs:int",
       .infer = infer_split, .lower = lower_split, .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Slice, .since = 10, .sig = "data:T starts:U ends:U axes:U? steps:U? -> output:T", .T = "any", .U = "i32 i64",
       .infer = infer_slice, .lower = lower_slice, .quant = QUANT_PASS, .flags = OP_VALUES),
    OP(Pad, .since = 11, .sig = "data:T pads:i64 constant_value:T? axes:U? -> output:T", .T = "any", .U = "i32 i64",
       .attrs = "mode:string=constant", .infer = infer_pad, .lower = lower_pad,
       .quant = QUANT_PASS), /* without constant_value it adds a float 0, which the passes know */
    OP(CenterCropPad, .since = 18, .sig = "input_data:T shape:U -> output_data:T", .T = "any", .U = "i32 i64",
       .attrs = "axes:ints", .infer = infer_center, .lower = lower_center),
    OP(DepthToSpace, .since = 1, .sig = "input:T -> output:T", .T = "any", .attrs = "blocksize:int! mode:string=DCR",
       .infer = infer_depth_to_space, .lower = lower_depth_to_space, .quant = QUANT_PASS),
    OP(SpaceToDepth, .since = 1, .sig = "input:T -> output:T", .T = "any", .attrs = "blocksize:int! mode:string=DCR",
       .infer = infer_space_to_depth, .lower = lower_space_to_depth, .quant = QUANT_PASS),
    OP(Trilu, .since = 14, .sig = "input:T k:i64? -> output:T", .T = "any", .attrs = "upper:int=1", .infer = infer_trilu,
       .lower = lower_trilu),
    {0},
};
/* clang-format on */
