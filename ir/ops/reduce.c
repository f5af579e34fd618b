/* Reductions: sums, products and extremes along axes. The axes are an input (the newest form) and must be known when
 * the model is compiled. Narrow floats accumulate in f32. */
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"

/* Which axes are reduced. false: reported. */
static bool reduced_axes(Infer *c, int rank, bool *on)
{
    int axis[MAX_RANK];
    uint32_t n = 0;
    if (in_has(c, 1) && !rule_axes(c, 1, rank, axis, &n)) return false;
    bool all = n == 0 && !node_int(c->n, "noop_with_empty_axes");
    for (int i = 0; i < rank; i++) on[i] = all;
    for (uint32_t j = 0; j < n; j++) on[axis[j]] = true;
    return true;
}

static bool infer_reduce(Infer *c)
{
    int rank = in_rank(c, 0), kept = 0;
    bool on[MAX_RANK], keep = node_int(c->n, "keepdims") != 0;
    Dim out[MAX_RANK];
    if (!rule_known(c, 1)) return out_unknown(c, 0);
    if (!reduced_axes(c, rank, on)) return false;
    for (int i = 0; i < rank; i++) {
        if (on[i] && keep) out[kept++] = DIM(c, 1);
        if (!on[i]) out[kept++] = in_dim(c, 0, i);
    }
    out_shape(c, 0, kept, out);
    uint32_t n;
    const Dim *e = rule_elems(c, 0, &n);
    bool whole = c->n->op->value && e && n > 0 && type_count(c->d, &c->out[0]) == 1 && tracks_values(c->out[0].dtype);
    for (uint32_t j = 0; whole && j < n; j++) whole = dim_known(e[j]);
    if (!whole) return true;
    Dim *r = NEW(c->g->mem, Dim);
    *r = c->n->op->value(c->d, c->out[0].dtype, e, n);
    return !dim_known(*r) || out_elems(c, 0, r, 1);
}

static Dim value_prod(Dims *d, DType t, const Dim *a, uint32_t n) { return (void)t, dim_product(d, a, (int)n); }

/* The loops of a reduction: axes over the results, axes over what is reduced, the index into the input. */
typedef struct Nest {
    int space[MAX_RANK], reduce[MAX_RANK], spaces, reduces;
    Expr at[MAX_RANK], count;
} Nest;

static Nest make_nest(Lower *l)
{
    Kernel *k = l->k;
    int in = low_in(l, 0), rank = low_rank(l, in);
    const int64_t *axes;
    uint32_t n = 0;
    bool on[MAX_RANK] = {false}, given = low_in(l, 1) && low_ints(l, 1, &axes, &n) && n > 0;
    bool all = !given && !node_int(l->n, "noop_with_empty_axes"), keep = node_int(l->n, "keepdims") != 0;
    for (uint32_t j = 0; j < n; j++) on[axes[j] < 0 ? axes[j] + rank : axes[j]] = true;
    Nest s = {.count = expr_index(k, 1)};
    for (int i = 0; i < rank; i++) {
        Expr size = low_dim(l, in, i);
        int axis = low_axis(l, size);
        s.at[i] = expr_axis(k, axis);
        if (on[i] || all) {
            s.reduce[s.reduces++] = axis, s.count = expr_mul(k, s.count, size);
            if (keep) s.space[s.spaces++] = low_axis(l, expr_index(k, 1));
        } else {
            s.space[s.spaces++] = axis;
        }
    }
    return s;
}

static Expr acc_load(Lower *l, const Nest *s)
{
    DType t = low_type(l, low_in(l, 0));
    Expr x = expr_load(l->k, low_in(l, 0), s->at);
    return t == DT_bool ? x : expr_cast(l->k, dtype_compute(t), x);
}

/* Stores how(value) through `finish` (over the accumulated value) at the output. */
static void store_reduced(Lower *l, const Nest *s, Prim how, Expr value, Expr (*finish)(Lower *, const Nest *, Expr))
{
    int out = low_out(l, 0);
    DType t = (DType)expr_node(l->k, value)->type;
    Expr it = s->reduces ? expr_it(l->k, t) : value, end = finish ? finish(l, s, it) : it;
    end = low_store_as(l, out, end);
    if (s->reduces) low_reduce(l, out, s->space, s->spaces, s->reduce, s->reduces, how, value, end == it ? 0 : end);
    else low_stage(l, out, s->space, s->spaces, end);
}

static Expr finish_mean(Lower *l, const Nest *s, Expr it)
{
    return expr_div(l->k, it, expr_cast(l->k, (DType)expr_node(l->k, it)->type, s->count));
}
/* Integers take the root and the logarithm in f64 and are cut back. */
static Expr finish_float(Lower *l, Prim f, Expr it)
{
    DType t = (DType)expr_node(l->k, it)->type;
    return expr_prim(l->k, f, expr_cast(l->k, dtype_is_float(t) ? t : DT_f64, it), 0, 0);
}
static Expr finish_sqrt(Lower *l, const Nest *s, Expr it) { return (void)s, finish_float(l, P_sqrt, it); }
static Expr finish_log(Lower *l, const Nest *s, Expr it) { return (void)s, finish_float(l, P_log, it); }

static void lower_sum(Lower *l)
{
    Nest s = make_nest(l);
    store_reduced(l, &s, P_add, acc_load(l, &s), NULL);
}
static void lower_mean(Lower *l)
{
    Nest s = make_nest(l);
    store_reduced(l, &s, P_add, acc_load(l, &s), finish_mean);
}
static void lower_max(Lower *l)
{
    Nest s = make_nest(l);
    store_reduced(l, &s, P_max, acc_load(l, &s), NULL);
}
static void lower_min(Lower *l)
{
    Nest s = make_nest(l);
    store_reduced(l, &s, P_min, acc_load(l, &s), NULL);
}
static void lower_prod(Lower *l)
{
    Nest s = make_nest(l);
    store_reduced(l, &s, P_mul, acc_load(l, &s), NULL);
}
static void lower_l1(Lower *l)
{
    Nest s = make_nest(l);
    store_reduced(l, &s, P_add, expr_prim(l->k, P_abs, acc_load(l, &s), 0, 0), NULL);
}
static void lower_square(Lower *l)
{
    Nest s = make_nest(l);
    Expr x = acc_load(l, &s);
    store_reduced(l, &s, P_add, expr_mul(l->k, x, x), NULL);
}
static void lower_l2(Lower *l)
{
    Nest s = make_nest(l);
    Expr x = acc_load(l, &s);
    store_reduced(l, &s, P_add, expr_mul(l->k, x, x), finish_sqrt);
}
static void lower_log_sum(Lower *l)
{
    Nest s = make_nest(l);
    store_reduced(l, &s, P_add, acc_load(l, &s), finish_log);
}

/* log(sum(exp(x - m))) + m with m the largest x: nothing overflows. Infinite m is replaced by 0, or inf - inf would be
 * NaN. */
static void lower_log_sum_exp(Lower *l)
{
    Kernel *k = l->k;
    Nest top = make_nest(l), sum = make_nest(l);
    int out = low_out(l, 0), share = low_share(l);
    for (int i = 0, r = 0; i < low_rank(l, low_in(l, 0)); i++) { /* both walk the results with the same axes */
        bool reduced = r < sum.reduces && sum.at[i] == expr_axis(k, sum.reduce[r]);
        if (reduced) r++;
        else sum.at[i] = top.at[i];
    }
    memcpy(sum.space, top.space, sizeof sum.space);
    DType t = dtype_compute(low_type(l, out)), wide = dtype_is_float(t) ? t : DT_f64;
    Expr dim[MAX_RANK] = {0}, at[MAX_RANK] = {0};
    if (!sum.reduces) { /* log(exp(x)) */
        low_stage(l, out, sum.space, sum.spaces, expr_load(k, low_in(l, 0), sum.at));
        return;
    }
    for (int i = 0; i < low_rank(l, out); i++) dim[i] = low_dim(l, out, i);
    int m = low_temp(l, wide, low_rank(l, out), dim);
    Expr it = expr_it(k, wide), finite = low_select(l, expr_prim(k, P_isinf, it, 0, 0), low_const(l, wide, 0), it);
    low_reduce(l, m, top.space, top.spaces, top.reduce, top.reduces, P_max, expr_cast(k, wide, acc_load(l, &top)),
               finite)
        ->share = share;
    low_index(l, sum.space, sum.spaces, at);
    Expr most = expr_load(k, m, at);
    Expr value = expr_prim(k, P_exp, expr_sub(k, expr_cast(k, wide, acc_load(l, &sum)), most), 0, 0);
    Expr end = expr_add(k, expr_prim(k, P_log, it, 0, 0), most);
    low_reduce(l, out, sum.space, sum.spaces, sum.reduce, sum.reduces, P_add, value, low_store_as(l, out, end))->share =
        share;
}

#define REDUCE(n, types, low, rule, ...)                                                                               \
    OP(n, .since = 13, .sig = "data:T axes:i64? -> reduced:T", .T = types,                                             \
       .attrs = "keepdims:int=1 noop_with_empty_axes:int=0", .infer = infer_reduce, .lower = low, .value = rule,       \
       .flags = OP_VALUES, __VA_ARGS__)

/* clang-format off */
const OpDef ops_reduce[] = {
    REDUCE(ReduceSum, "int float", lower_sum, value_sum, ),
    REDUCE(ReduceMean, "int float", lower_mean, NULL, .quant = QUANT_RESCALE),
    REDUCE(ReduceMax, "int float bool", lower_max, value_max, .quant = QUANT_PASS),
    REDUCE(ReduceMin, "int float bool", lower_min, value_min, .quant = QUANT_PASS),
    REDUCE(ReduceProd, "int float", lower_prod, value_prod, ),
    REDUCE(ReduceL1, "int float", lower_l1, NULL, ),
    REDUCE(ReduceL2, "int float", lower_l2, NULL, ),
    REDUCE(ReduceSumSquare, "int float", lower_square, NULL, ),
    REDUCE(ReduceLogSum, "int float", lower_log_sum, NULL, ),
    REDUCE(ReduceLogSumExp, "int float", lower_log_sum_exp, NULL, ),
    {0},
};
/* clang-format on */
