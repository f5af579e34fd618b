/* norm.c - normalizations: statistics over some axes, then every element rewritten with them.
 *
 * Each is a few stages over the same outer axes with one Compute.share number, so that a schedule can run them row by row while
 * the row is in cache. The variance is the mean square deviation from the mean: two passes, no cancellation. Statistics are f32
 * (f64 for f64). Axes that are not normalized lead in every stage; Compute.at puts the results where they belong.
 * BatchNormalization expands into one multiplication and one addition with constants, which folds into a convolution. */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <math.h>
#include <string.h>

/* The axes of X split into those with one statistic each and those it runs over. */
typedef struct Norm {
    int x, share, rank;
    int outer[MAX_RANK], outers, inner[MAX_RANK], inners;
    int order[MAX_RANK]; /* outer axes, then inner ones */
    Expr outer_dim[MAX_RANK], outer_at[MAX_RANK], at[MAX_RANK], count;
    DType acc;
    Expr value; /* X at `at`, at the statistics' type */
} Norm;

static Norm norm_begin(Lower *l, int x, const bool *inner)
{
    Kernel *k = l->k;
    Norm n = {.x = x, .rank = low_rank(l, x), .share = low_share(l), .acc = dtype_compute(low_type(l, x))};
    n.count = expr_index(k, 1);
    for (int i = 0; i < n.rank; i++) {
        int axis = low_axis(l, low_dim(l, x, i));
        n.at[i] = expr_axis(k, axis);
        if (inner[i]) {
            n.inner[n.inners++] = axis;
            n.count = expr_mul(k, n.count, low_dim(l, x, i));
            continue;
        }
        n.outer_dim[n.outers] = low_dim(l, x, i), n.outer_at[n.outers] = n.at[i];
        n.outer[n.outers++] = axis;
    }
    memcpy(n.order, n.outer, sizeof(int) * (size_t)n.outers);
    memcpy(n.order + n.outers, n.inner, sizeof(int) * (size_t)n.inners);
    n.value = expr_cast(k, n.acc, expr_load(k, x, n.at));
    return n;
}

static Norm norm_axis(Lower *l, int x, int first, int count)
{
    bool inner[MAX_RANK] = {0};
    for (int i = 0; i < count; i++) inner[first + i] = true;
    return norm_begin(l, x, inner);
}

/* One statistic: a temporary over the outer axes. Yields its load there. */
static Expr norm_stat(Lower *l, const Norm *n, Prim how, Expr value, Expr epilogue)
{
    int t = low_temp(l, n->acc, n->outers, n->outer_dim);
    Compute *s = n->inners
                     ? low_reduce(l, t, n->outer, n->outers, n->inner, n->inners, how, value, epilogue)
                     : low_stage(l, t, n->outer, n->outers, expr_replace(l->k, epilogue, expr_it(l->k, n->acc), value));
    s->share = n->share;
    return expr_load(l->k, t, n->outer_at);
}

static Expr norm_mean(Lower *l, const Norm *n, Expr value)
{
    Expr count = expr_cast(l->k, n->acc, n->count);
    return norm_stat(l, n, P_add, value, expr_div(l->k, expr_it(l->k, n->acc), count));
}

/* 1 / sqrt(mean of value + epsilon) */
static Expr norm_inverse(Lower *l, const Norm *n, Expr value, double epsilon)
{
    Kernel *k = l->k;
    Expr mean = expr_div(k, expr_it(k, n->acc), expr_cast(k, n->acc, n->count));
    Expr under = expr_add(k, mean, low_const(l, n->acc, epsilon));
    return norm_stat(l, n, P_add, value, expr_prim(k, P_rsqrt, under, 0, 0));
}

static void norm_store(Lower *l, const Norm *n, int y, Expr value)
{
    Compute *s = low_stage(l, y, n->order, n->rank, low_store_as(l, y, value));
    memcpy(s->at, n->at, sizeof s->at);
    s->share = n->share;
}

/* ---- Softmax, LogSoftmax, Hardmax ---- */
static bool infer_axis_same(Infer *c)
{
    int axis;
    if (in_rank(c, 0) < 0) return out_unknown(c, 0);
    if (in_rank(c, 0) > 0 && !in_axis(c, node_int(c->n, "axis"), in_rank(c, 0), &axis)) return false;
    return out_like(c, 0, 0);
}

static Norm softmax_begin(Lower *l)
{
    int x = low_in(l, 0), rank = low_rank(l, x);
    return norm_axis(l, x, rank ? low_attr_axis(l, "axis", rank) : 0, rank ? 1 : 0);
}

static Expr exp_less(Lower *l, const Norm *n, Expr max)
{
    return expr_prim(l->k, P_exp, expr_sub(l->k, n->value, max), 0, 0);
}

/* The exponentials are stored while they are summed, in the result itself where it has their type. */
static void lower_softmax(Lower *l)
{
    Kernel *k = l->k;
    Norm n = softmax_begin(l);
    int y = low_out(l, 0), kept = y;
    Expr dim[MAX_RANK];
    for (int i = 0; i < n.rank; i++) dim[i] = low_dim(l, y, i);
    Expr max = norm_stat(l, &n, P_larger, n.value, expr_it(k, n.acc));
    if (low_type(l, y) != n.acc) kept = low_temp(l, n.acc, n.rank, dim);
    Expr inverse =
        norm_stat(l, &n, P_add, exp_less(l, &n, max), expr_div(k, low_const(l, n.acc, 1), expr_it(k, n.acc)));
    if (n.inners) k->stage.at[k->stage.n - 1].keep = expr_load(k, kept, n.at);
    norm_store(l, &n, y, n.inners ? expr_mul(k, expr_load(k, kept, n.at), inverse) : low_const(l, n.acc, 1));
}

static void lower_log_softmax(Lower *l)
{
    Kernel *k = l->k;
    Norm n = softmax_begin(l);
    Expr max = norm_stat(l, &n, P_larger, n.value, expr_it(k, n.acc));
    Expr log = norm_stat(l, &n, P_add, exp_less(l, &n, max), expr_prim(k, P_log, expr_it(k, n.acc), 0, 0));
    norm_store(l, &n, low_out(l, 0), expr_sub(k, expr_sub(k, n.value, max), log));
}

/* 1 at the first of the largest elements. */
static void lower_hardmax(Lower *l)
{
    Kernel *k = l->k;
    Norm n = softmax_begin(l);
    Expr one = low_const(l, n.acc, 1), zero = low_const(l, n.acc, 0);
    if (!n.inners) {
        norm_store(l, &n, low_out(l, 0), one);
        return;
    }
    Expr max = norm_stat(l, &n, P_max, n.value, expr_it(k, n.acc)), place = expr_axis(k, n.inner[0]);
    int first = low_temp(l, DT_i64, n.outers, n.outer_dim);
    Expr hit = low_select(l, expr_le(k, max, n.value), place, expr_index(k, INT64_MAX));
    low_reduce(l, first, n.outer, n.outers, n.inner, 1, P_min, hit, expr_it(k, DT_i64))->share = n.share;
    norm_store(l, &n, low_out(l, 0),
               low_select(l, expr_prim(k, P_eq, place, expr_load(k, first, n.outer_at), 0), one, zero));
}

/* ---- LayerNormalization, RMSNormalization ---- */
static bool infer_layer(Infer *c)
{
    const Type *x = in_type(c, 0);
    int axis;
    for (uint32_t o = 1; o < c->n->nout; o++) c->out[o].dtype = x->dtype == DT_f64 ? DT_f64 : DT_f32;
    if (x->rank < 0) return out_unknown(c, 0);
    if (!in_axis(c, node_int(c->n, "axis"), x->rank, &axis)) return false;
    for (uint32_t o = 1; o < c->n->nout; o++) {
        Dim out[MAX_RANK];
        for (int i = 0; i < x->rank; i++) out[i] = i < axis ? x->dim[i] : DIM(c, 1);
        out_shape(c, o, x->rank, out);
    }
    if (!rule_lies_along(c, 1, x, "the scale and the normalized dimensions") ||
        !rule_lies_along(c, 2, x, "the bias and the normalized dimensions"))
        return false;
    return out_like(c, 0, 0);
}

/* Scale and bias have the normalized shape, or broadcast to X. */
static Expr affine(Lower *l, const Norm *n, Expr e, int scale, int bias)
{
    Kernel *k = l->k;
    int axis[MAX_RANK];
    for (int i = 0; i < n->rank; i++) axis[i] = (int)expr_node(k, n->at[i])->id;
    if (scale) e = expr_mul(k, e, expr_cast(k, n->acc, low_load_broadcast(l, scale, axis, n->rank)));
    if (bias) e = expr_add(k, e, expr_cast(k, n->acc, low_load_broadcast(l, bias, axis, n->rank)));
    return e;
}

/* A statistic that the node also gives out, with ones for the normalized dims. */
static void store_stat(Lower *l, const Norm *n, uint32_t o, Expr stat)
{
    if (l->n->nout <= o || !low_out(l, o)) return;
    Expr at[MAX_RANK] = {0};
    for (int i = 0; i < n->rank; i++) at[i] = i < n->outers ? n->outer_at[i] : expr_index(l->k, 0);
    int axis[MAX_RANK];
    memcpy(axis, n->outer, sizeof axis);
    for (int i = n->outers; i < n->rank; i++) axis[i] = low_axis(l, expr_index(l->k, 1));
    Compute *s = low_stage(l, low_out(l, o), axis, n->rank, low_store_as(l, low_out(l, o), stat));
    memcpy(s->at, at, sizeof at);
}

static void lower_layer_norm(Lower *l)
{
    Kernel *k = l->k;
    int x = low_in(l, 0), rank = low_rank(l, x), axis = low_attr_axis(l, "axis", rank);
    Norm n = norm_axis(l, x, axis, rank - axis);
    Expr mean = norm_mean(l, &n, n.value), off = expr_sub(k, n.value, mean);
    Expr inverse = norm_inverse(l, &n, expr_mul(k, off, off), node_float(l->n, "epsilon"));
    norm_store(l, &n, low_out(l, 0), affine(l, &n, expr_mul(k, off, inverse), low_in(l, 1), low_in(l, 2)));
    store_stat(l, &n, 1, mean), store_stat(l, &n, 2, inverse);
}

static void lower_rms_norm(Lower *l)
{
    Kernel *k = l->k;
    int x = low_in(l, 0), rank = low_rank(l, x), axis = low_attr_axis(l, "axis", rank);
    Norm n = norm_axis(l, x, axis, rank - axis);
    Expr inverse = norm_inverse(l, &n, expr_mul(k, n.value, n.value), node_float(l->n, "epsilon"));
    norm_store(l, &n, low_out(l, 0), affine(l, &n, expr_mul(k, n.value, inverse), low_in(l, 1), 0));
}

/* ---- InstanceNormalization, GroupNormalization ---- */
static bool infer_channels(Infer *c)
{
    const Type *x = in_type(c, 0);
    if (x->rank < 0) return out_unknown(c, 0);
    if (x->rank < 2) return infer_error(c, "X has rank %d, expected at least 2", x->rank);
    for (uint32_t i = 1; i < 3; i++)
        if (!rule_has_shape(c, i, 1, &x->dim[1], "parameters a channel")) return false;
    return out_like(c, 0, 0);
}

static bool infer_group_norm(Infer *c)
{
    const Type *x = in_type(c, 0);
    int64_t groups = node_int(c->n, "num_groups"), channels;
    if (groups < 1) return infer_error(c, "num_groups is %lld", (long long)groups);
    if (x->rank >= 2 && dim_is_const(c->d, x->dim[1], &channels) && channels % groups)
        return infer_error(c, "%lld channels do not divide into %lld groups", (long long)channels, (long long)groups);
    return infer_channels(c);
}

static Expr by_channel(Lower *l, const Norm *n, Expr e, Expr channel)
{
    Kernel *k = l->k;
    Expr at[MAX_RANK] = {channel};
    e = expr_mul(k, e, expr_cast(k, n->acc, expr_load(k, low_in(l, 1), at)));
    return expr_add(k, e, expr_cast(k, n->acc, expr_load(k, low_in(l, 2), at)));
}

static void normalize_channels(Lower *l, const Norm *n)
{
    Kernel *k = l->k;
    Expr off = expr_sub(k, n->value, norm_mean(l, n, n->value));
    Expr inverse = norm_inverse(l, n, expr_mul(k, off, off), node_float(l->n, "epsilon"));
    norm_store(l, n, low_out(l, 0), by_channel(l, n, expr_mul(k, off, inverse), n->at[1]));
}

static void lower_instance_norm(Lower *l)
{
    int x = low_in(l, 0);
    Norm n = norm_axis(l, x, 2, low_rank(l, x) - 2);
    normalize_channels(l, &n);
}

/* Channel c is member c % size of group c / size: the channel axis is two axes, and `order` has one axis more than X has dims. */
static void lower_group_norm(Lower *l)
{
    Kernel *k = l->k;
    int x = low_in(l, 0), rank = low_rank(l, x);
    int64_t groups = node_int(l->n, "num_groups");
    Expr size = expr_dim(k, dim_fdiv(k->dim, low_in_type(l, 0)->dim[1], dim_const(k->dim, groups)));
    Norm n = {.x = x, .rank = rank, .share = low_share(l), .acc = dtype_compute(low_type(l, x)), .outers = 2};
    int batch = low_axis(l, low_dim(l, x, 0)), group = low_axis(l, expr_index(k, groups)), member = low_axis(l, size);
    n.outer[0] = batch, n.outer[1] = group;
    n.outer_dim[0] = low_dim(l, x, 0), n.outer_dim[1] = expr_index(k, groups);
    n.outer_at[0] = expr_axis(k, batch), n.outer_at[1] = expr_axis(k, group);
    n.at[0] = n.outer_at[0], n.at[1] = expr_add(k, expr_mul(k, n.outer_at[1], size), expr_axis(k, member));
    n.inner[n.inners++] = member, n.count = size;
    for (int i = 2; i < rank; i++) {
        n.at[i] = expr_axis(k, n.inner[n.inners++] = low_axis(l, low_dim(l, x, i)));
        n.count = expr_mul(k, n.count, low_dim(l, x, i));
    }
    n.order[0] = batch, n.order[1] = group;
    memcpy(n.order + 2, n.inner, sizeof(int) * (size_t)n.inners);
    n.value = expr_cast(k, n.acc, expr_load(k, x, n.at));
    n.rank = rank + 1; /* space axes of a stage over all elements */
    normalize_channels(l, &n);
}

static bool infer_group_rank(Infer *c)
{
    if (in_rank(c, 0) >= MAX_RANK)
        return infer_error(c, "X has rank %d, expected less than %d", in_rank(c, 0), MAX_RANK);
    return infer_group_norm(c);
}

/* ---- MeanVarianceNormalization, LpNormalization, LRN ---- */
static bool infer_mvn(Infer *c)
{
    uint32_t n;
    const int64_t *axes = node_ints(c->n, "axes", &n);
    int rank = in_rank(c, 0), axis;
    for (uint32_t i = 0; rank >= 0 && axes && i < n; i++)
        if (!in_axis(c, axes[i], rank, &axis)) return false;
    if (!axes && rank >= 0 && rank != 4) return infer_error(c, "X has rank %d, expected 4 where axes is absent", rank);
    return rank < 0 ? out_unknown(c, 0) : out_like(c, 0, 0);
}

static void lower_mvn(Lower *l)
{
    Kernel *k = l->k;
    int x = low_in(l, 0), rank = low_rank(l, x);
    static const int64_t usual[] = {0, 2, 3};
    uint32_t count = 3;
    const int64_t *axes = node_ints(l->n, "axes", &count);
    if (!axes) axes = usual, count = COUNT_OF(usual);
    bool inner[MAX_RANK] = {0};
    for (uint32_t i = 0; i < count; i++) inner[axes[i] < 0 ? axes[i] + rank : axes[i]] = true;
    Norm n = norm_begin(l, x, inner);
    Expr off = expr_sub(k, n.value, norm_mean(l, &n, n.value)), it = expr_it(k, n.acc);
    Expr deviation = expr_prim(k, P_sqrt, expr_div(k, it, expr_cast(k, n.acc, n.count)), 0, 0);
    Expr by = norm_stat(l, &n, P_add, expr_mul(k, off, off), expr_add(k, deviation, low_const(l, n.acc, 1e-9)));
    norm_store(l, &n, low_out(l, 0), expr_div(k, off, by));
}

static bool infer_lp(Infer *c)
{
    int64_t p = node_int(c->n, "p");
    if (p != 1 && p != 2) return infer_error(c, "p is %lld, expected 1 or 2", (long long)p);
    return infer_axis_same(c);
}

/* A row of zeros stays zero. */
static void lower_lp_norm(Lower *l)
{
    Kernel *k = l->k;
    Norm n = softmax_begin(l);
    Expr it = expr_it(k, n.acc), zero = low_const(l, n.acc, 0);
    bool square = node_int(l->n, "p") == 2;
    Expr part = square ? expr_mul(k, n.value, n.value) : expr_prim(k, P_abs, n.value, 0, 0);
    Expr norm = norm_stat(l, &n, P_add, part, square ? expr_prim(k, P_sqrt, it, 0, 0) : it);
    norm_store(l, &n, low_out(l, 0),
               low_select(l, expr_prim(k, P_eq, norm, zero, 0), zero, expr_div(k, n.value, norm)));
}

static bool infer_lrn(Infer *c)
{
    if (node_int(c->n, "size") < 1)
        return infer_error(c, "size is %lld, expected a positive number", (long long)node_int(c->n, "size"));
    if (in_rank(c, 0) >= 0 && in_rank(c, 0) < 2)
        return infer_error(c, "X has rank %d, expected at least 2", in_rank(c, 0));
    return in_rank(c, 0) < 0 ? out_unknown(c, 0) : out_like(c, 0, 0);
}

/* Y = X / (bias + alpha / size * sum of squares over neighbouring channels) ^ beta */
static void lower_lrn(Lower *l)
{
    Kernel *k = l->k;
    int x = low_in(l, 0), y = low_out(l, 0), rank = low_rank(l, x), axis[MAX_RANK];
    DType acc = dtype_compute(low_type(l, x));
    int64_t size = node_int(l->n, "size");
    Expr at[MAX_RANK] = {0}, near[MAX_RANK];
    low_channels_last(l, x), low_channels_last(l, y);
    low_axes(l, y, axis), low_index(l, axis, rank, at);
    int tap = low_axis(l, expr_index(k, size));
    memcpy(near, at, sizeof near);
    near[1] = expr_sub(k, expr_add(k, at[1], expr_axis(k, tap)), expr_index(k, (size - 1) / 2));
    Expr inside = expr_and(k, expr_le(k, expr_index(k, 0), near[1]), expr_lt(k, near[1], low_dim(l, x, 1)));
    Expr value = expr_cast(k, acc, expr_guard(k, inside, expr_load(k, x, near), low_const(l, low_type(l, x), 0)));
    Expr sum = expr_mul(k, expr_it(k, acc), low_const(l, acc, node_float(l->n, "alpha") / (double)size));
    Expr base = expr_add(k, sum, low_const(l, acc, node_float(l->n, "bias")));
    Expr by = expr_prim(k, P_pow, base, low_const(l, acc, node_float(l->n, "beta")), 0);
    Expr out = expr_div(k, expr_cast(k, acc, expr_load(k, x, at)), by);
    low_reduce(l, y, axis, rank, &tap, 1, P_add, expr_mul(k, value, value), low_store_as(l, y, out));
}

/* ---- BatchNormalization: X, scale, B, mean, var ---- */
static bool infer_batch(Infer *c)
{
    const Type *x = in_type(c, 0);
    for (uint32_t o = 1; o < c->n->nout; o++) {
        c->out[o].dtype = in_type(c, 3)->dtype;
        out_like(c, o, 3);
    }
    if (x->rank < 0) return out_unknown(c, 0);
    for (uint32_t i = 1; i < 5; i++)
        if (in_rank(c, i) == 1 && x->rank > 1 && !require_eq(c, in_dim(c, i, 0), x->dim[1], "parameters a channel"))
            return false;
    return out_like(c, 0, 0);
}

static Val blend(Expand *x, Val old, Val now, double momentum)
{
    Val a = EX(x, "Mul", ex_cast(x, old, DT_f32), ex_scalar(x, DT_f32, momentum));
    Val b = EX(x, "Mul", now, ex_scalar(x, DT_f32, 1 - momentum));
    return ex_cast(x, EX(x, "Add", a, b), ex_type(x, old)->dtype);
}

static bool expand_batch_norm(Expand *x)
{
    DType t = ex_type(x, x->in[0])->dtype, wide = t == DT_f64 ? DT_f64 : DT_f32;
    int rank = ex_type(x, x->in[0])->rank;
    if (rank < 0) return expand_error(x, "X has no known rank");
    Val v = ex_cast(x, x->in[0], wide), p[5];
    for (int i = 1; i < 5; i++) p[i] = ex_cast(x, x->in[i], wide);
    if (node_int(x->n, "training_mode")) {
        if (wide != DT_f32) return expand_error(x, "training mode of BatchNormalization in f64 is not supported");
        int64_t axes[MAX_RANK], n = 0;
        for (int i = 0; i < rank; i++)
            if (i != 1) axes[n++] = i;
        Val mean = ex_reduce(x, "ReduceMean", v, axes, (int)n, true), off = EX(x, "Sub", v, mean);
        p[4] = ex_reduce(x, "ReduceMean", EX(x, "Mul", off, off), axes, (int)n, false);
        p[3] = ex_reshape(x, mean, (int64_t[]){-1}, 1);
        double momentum = node_float(x->n, "momentum");
        if (x->n->nout > 1) x->out[1] = blend(x, x->in[3], p[3], momentum);
        if (x->n->nout > 2) x->out[2] = blend(x, x->in[4], p[4], momentum);
    }
    Val deviation = EX(x, "Sqrt", EX(x, "Add", p[4], ex_scalar(x, wide, node_float(x->n, "epsilon"))));
    Val scale = EX(x, "Div", p[1], deviation), bias = EX(x, "Sub", p[2], EX(x, "Mul", p[3], scale));
    Val y = EX(x, "Mul", v, ex_channels(x, scale, rank, 1));
    x->out[0] = ex_cast(x, EX(x, "Add", y, ex_channels(x, bias, rank, 1)), t);
    return true;
}

const OpDef ops_norm[] = {
    OP(BatchNormalization, .since = 9,
       .sig = "X:T scale:U B:U input_mean:V input_var:V -> Y:T running_mean:V? running_var:V?", .T = "float",
       .U = "float", .V = "float", .attrs = "epsilon:float=1e-5 momentum:float=0.9 training_mode:int=0",
       .infer = infer_batch, .expand = expand_batch_norm, .quant = QUANT_RESCALE),
    OP(InstanceNormalization, .since = 6, .sig = "input:T scale:T B:T -> output:T", .T = "float",
       .attrs = "epsilon:float=1e-5", .infer = infer_channels, .lower = lower_instance_norm),
    OP(GroupNormalization, .since = 21, .sig = "X:T scale:T bias:T -> Y:T", .T = "float",
       .attrs = "epsilon:float=1e-5 num_groups:int! stash_type:int=1", .infer = infer_group_rank,
       .lower = lower_group_norm),
    OP(LayerNormalization, .since = 17, .sig = "X:T Scale:S B:S? -> Y:T Mean:U? InvStdDev:U?", .T = "float",
       .U = "float", .attrs = "axis:int=-1 epsilon:float=1e-5 stash_type:int=1", .infer = infer_layer,
       .lower = lower_layer_norm, .flags = OP_UNRANKED),
    OP(RMSNormalization, .since = 23, .sig = "X:T scale:V -> Y:V", .T = "float", .V = "float",
       .attrs = "axis:int=-1 epsilon:float=1e-5 stash_type:int=1", .infer = infer_layer, .lower = lower_rms_norm),
    OP(LRN, .since = 1, .sig = "X:T -> Y:T", .T = "float",
       .attrs = "alpha:float=0.0001 beta:float=0.75 bias:float=1.0 size:int!", .infer = infer_lrn, .lower = lower_lrn),
    OP(MeanVarianceNormalization, .since = 9, .sig = "X:T -> Y:T", .T = "float", .attrs = "axes:ints",
       .infer = infer_mvn, .lower = lower_mvn),
    OP(LpNormalization, .since = 1, .sig = "input:T -> output:T", .T = "float", .attrs = "axis:int=-1 p:int=2",
       .infer = infer_lp, .lower = lower_lp_norm),
    OP(Softmax, .since = 13, .sig = "input:T -> output:T", .T = "float", .attrs = "axis:int=-1",
       .infer = infer_axis_same, .lower = lower_softmax),
    OP(LogSoftmax, .since = 13, .sig = "input:T -> output:T", .T = "float", .attrs = "axis:int=-1",
       .infer = infer_axis_same, .lower = lower_log_softmax),
    OP(Hardmax, .since = 13, .sig = "input:T -> output:T", .T = "float", .attrs = "axis:int=-1",
       .infer = infer_axis_same, .lower = lower_hardmax),
    {0},
};
