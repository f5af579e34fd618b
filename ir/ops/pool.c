/* pool.c - reductions over sliding windows (MaxPool, AveragePool, LpPool), over all positions (Global...), and MaxUnpool.
 *
 * A window is a reduction over its taps, guarded only where padding exists. AveragePool divides by the number of taps that count,
 * a constant unless windows overlap an edge. Indices of MaxPool are a second reduction: the least position among the taps that
 * equal the maximum. */
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include "ir/ops/window.h"
#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- shape rules ---- */
static bool infer_pool(Infer *c)
{
    const Type *x = in_type(c, 0);
    if (x->rank < 0) {
        for (uint32_t o = 0; o < c->n->nout; o++) out_unknown(c, o);
        return true;
    }
    Window w;
    const char *why = NULL;
    if (!window_read(&w, c->d, c->n, x, NULL, &why)) return infer_error(c, "%s", why);
    Dim out[MAX_RANK] = {x->dim[0], x->dim[1]};
    for (int i = 0; i < w.n; i++) {
        out[i + 2] = w.out[i];
        if (!require_ge(c, w.out[i], DIM(c, 0), "the window fits into the padded input")) return false;
    }
    for (uint32_t o = 0; o < c->n->nout; o++) out_shape(c, o, x->rank, out);
    return true;
}

static bool infer_global(Infer *c)
{
    const Type *x = in_type(c, 0);
    if (x->rank < 0) return out_unknown(c, 0);
    if (x->rank < 3) return infer_error(c, "X has rank %d, expected at least 3", x->rank);
    Dim out[MAX_RANK] = {x->dim[0], x->dim[1]};
    for (int i = 2; i < x->rank; i++) out[i] = DIM(c, 1);
    return out_shape(c, 0, x->rank, out);
}

/* ---- windows ---- */
typedef struct Pool {
    Window w;
    int x, y, rank, space[MAX_RANK], tap[MAX_SPATIAL];
    DType acc;
    Expr at[MAX_RANK], inside; /* where a tap looks; 0: always inside */
} Pool;

static void pool_taps(Lower *l, Pool *p)
{
    Kernel *k = l->k;
    p->inside = 0;
    for (int i = 0; i < p->w.n; i++) {
        p->tap[i] = low_axis(l, expr_dim(k, p->w.kernel[i]));
        p->at[i + 2] = window_index(l, &p->w, i, p->space[i + 2], p->tap[i]);
        p->inside = expr_and(k, p->inside, window_inside(l, &p->w, i, p->at[i + 2]));
    }
}

static Pool pool_begin(Lower *l)
{
    Pool p = {.x = low_in(l, 0), .y = low_out(l, 0)};
    const char *why = NULL;
    bool good = window_read(&p.w, l->k->dim, l->n, low_in_type(l, 0), NULL, &why);
    assert(good && "infer accepted this node");
    (void)good;
    p.rank = low_rank(l, p.y), p.acc = dtype_compute(low_type(l, p.x));
    low_channels_last(l, p.x), low_channels_last(l, p.y);
    low_axes(l, p.y, p.space);
    p.at[0] = expr_axis(l->k, p.space[0]), p.at[1] = expr_axis(l->k, p.space[1]);
    pool_taps(l, &p);
    return p;
}

static Expr pool_load(Lower *l, const Pool *p, Expr outside)
{
    Expr load = expr_load(l->k, p->x, p->at);
    return expr_cast(l->k, p->acc, p->inside ? expr_guard(l->k, p->inside, load, outside) : load);
}

static Expr lowest(Lower *l, DType t)
{
    return dtype_is_float(t) ? low_const(l, t, -INFINITY) : expr_int(l->k, t, dtype_min(t));
}

/* Where the maximum stands, as an element number of X, or with the spatial dimensions counted in column-major order. */
static void pool_indices(Lower *l, Pool *p, int out)
{
    Kernel *k = l->k;
    Expr at[MAX_RANK] = {0}, far = expr_index(k, INT64_MAX);
    low_axes(l, out, p->space);
    low_index(l, p->space, p->rank, at);
    p->at[0] = at[0], p->at[1] = at[1];
    pool_taps(l, p);
    Expr best = expr_load(k, p->y, at), x = expr_load(k, p->x, p->at);
    Expr hit = low_select(l, expr_le(k, best, x), low_linear(l, p->x, p->at), far), it = expr_it(k, DT_i64);
    if (p->inside) hit = expr_guard(k, p->inside, hit, far);
    if (node_int(l->n, "storage_order") && p->w.n > 1) {
        Expr place[MAX_RANK] = {0}, area = expr_index(k, 1);
        low_delinear(l, p->x, it, place);
        Expr flat = 0;
        for (int i = 0; i < p->w.n; i++) {
            Expr part = expr_mul(k, place[i + 2], area);
            flat = flat ? expr_add(k, flat, part) : part;
            area = expr_mul(k, area, low_dim(l, p->x, i + 2));
        }
        Expr image = expr_add(k, expr_mul(k, at[0], low_dim(l, p->x, 1)), at[1]);
        it = expr_add(k, expr_mul(k, image, area), flat);
    }
    low_reduce(l, out, p->space, p->rank, p->tap, p->w.n, P_min, hit, it);
}

static void lower_max_pool(Lower *l)
{
    Pool p = pool_begin(l);
    DType t = low_type(l, p.x);
    Expr value = pool_load(l, &p, lowest(l, t));
    low_reduce(l, p.y, p.space, p.rank, p.tap, p.w.n, P_max, value, low_store_as(l, p.y, expr_it(l->k, p.acc)));
    if (l->n->nout > 1 && low_out(l, 1)) pool_indices(l, &p, low_out(l, 1));
}

/* Taps of window i that lie in [0, end): those before the end less those before the input. */
static Expr taps_inside(Lower *l, const Pool *p, int i, Expr end, bool skip_begin)
{
    Kernel *k = l->k;
    Expr zero = expr_index(k, 0), d = expr_index(k, p->w.dilation[i]), round = expr_index(k, p->w.dilation[i] - 1);
    Expr first = expr_mul(k, expr_axis(k, p->space[i + 2]), expr_index(k, p->w.stride[i]));
    first = expr_sub(k, first, expr_dim(k, p->w.lo[i]));
    Expr room = expr_prim(k, P_max, expr_sub(k, end, first), zero, 0);
    Expr n = expr_prim(k, P_min, expr_dim(k, p->w.kernel[i]), expr_div(k, expr_add(k, room, round), d), 0);
    if (!skip_begin || dim_is(k->dim, p->w.lo[i], 0)) return n;
    Expr before = expr_prim(k, P_max, expr_sub(k, zero, first), zero, 0);
    return expr_sub(k, n, expr_div(k, expr_add(k, before, round), d));
}

static Expr counted_taps(Lower *l, const Pool *p)
{
    Kernel *k = l->k;
    bool with_pad = node_int(l->n, "count_include_pad");
    Expr count = expr_index(k, 1);
    for (int i = 0; i < p->w.n; i++) {
        bool pads = !dim_is(k->dim, p->w.lo[i], 0) || !dim_is(k->dim, p->w.hi[i], 0);
        Dim end = with_pad ? dim_add(k->dim, p->w.in[i], p->w.hi[i]) : p->w.in[i];
        bool whole = !p->w.ceil && (with_pad || !pads);
        count =
            expr_mul(k, count, whole ? expr_dim(k, p->w.kernel[i]) : taps_inside(l, p, i, expr_dim(k, end), !with_pad));
    }
    return count;
}

static void lower_average_pool(Lower *l)
{
    Kernel *k = l->k;
    Pool p = pool_begin(l);
    Expr value = pool_load(l, &p, low_const(l, low_type(l, p.x), 0));
    Expr mean = expr_div(k, expr_it(k, p.acc), expr_cast(k, p.acc, counted_taps(l, &p)));
    low_reduce(l, p.y, p.space, p.rank, p.tap, p.w.n, P_add, value, low_store_as(l, p.y, mean));
}

/* (sum |x|^p) ^ (1/p) */
static Expr power(Lower *l, Expr x, int64_t p, DType t)
{
    Kernel *k = l->k;
    if (p == 2) return expr_mul(k, x, x);
    x = expr_prim(k, P_abs, x, 0, 0);
    return p == 1 ? x : expr_prim(k, P_pow, x, low_const(l, t, (double)p), 0);
}

static Expr root(Lower *l, Expr x, int64_t p, DType t)
{
    if (p == 1) return x;
    return p == 2 ? expr_prim(l->k, P_sqrt, x, 0, 0) : expr_prim(l->k, P_pow, x, low_const(l, t, 1.0 / (double)p), 0);
}

static void lower_lp_pool(Lower *l)
{
    Pool p = pool_begin(l);
    int64_t norm = node_int(l->n, "p");
    Expr value = power(l, pool_load(l, &p, low_const(l, low_type(l, p.x), 0)), norm, p.acc);
    Expr it = root(l, expr_it(l->k, p.acc), norm, p.acc);
    low_reduce(l, p.y, p.space, p.rank, p.tap, p.w.n, P_add, value, low_store_as(l, p.y, it));
}

/* ---- over all positions ---- */
typedef struct Global {
    int x, y, rank, space[MAX_RANK], reduce[MAX_RANK];
    DType acc;
    Expr load, count;
} Global;

static Global global_begin(Lower *l)
{
    Kernel *k = l->k;
    Global g = {.x = low_in(l, 0), .y = low_out(l, 0), .count = expr_index(k, 1)};
    Expr at[MAX_RANK] = {0};
    g.rank = low_rank(l, g.x), g.acc = dtype_compute(low_type(l, g.x));
    low_channels_last(l, g.x);
    low_axes(l, g.y, g.space);
    for (int i = 0; i < 2; i++) at[i] = expr_axis(k, g.space[i]);
    for (int i = 2; i < g.rank; i++) {
        at[i] = expr_axis(k, g.reduce[i - 2] = low_axis(l, low_dim(l, g.x, i)));
        g.count = expr_mul(k, g.count, low_dim(l, g.x, i));
    }
    g.load = expr_cast(k, g.acc, expr_load(k, g.x, at));
    return g;
}

static void global_stage(Lower *l, const Global *g, Prim how, Expr value, Expr it)
{
    low_reduce(l, g->y, g->space, g->rank, g->reduce, g->rank - 2, how, value, low_store_as(l, g->y, it));
}

/* Of codes: exact. */
static void lower_global_sum(Lower *l)
{
    Global g = global_begin(l);
    g.acc = DT_i32;
    global_stage(l, &g, P_add, expr_cast(l->k, g.acc, g.load), expr_it(l->k, g.acc));
}

static void lower_global_average(Lower *l)
{
    Global g = global_begin(l);
    global_stage(l, &g, P_add, g.load, expr_div(l->k, expr_it(l->k, g.acc), expr_cast(l->k, g.acc, g.count)));
}

static void lower_global_max(Lower *l)
{
    Global g = global_begin(l);
    global_stage(l, &g, P_max, g.load, expr_it(l->k, g.acc));
}

static void lower_global_lp(Lower *l)
{
    Global g = global_begin(l);
    int64_t p = node_int(l->n, "p");
    global_stage(l, &g, P_add, power(l, g.load, p, g.acc), root(l, expr_it(l->k, g.acc), p, g.acc));
}

/* ---- MaxUnpool: the inverse, by element numbers of the output ---- */
static bool infer_unpool(Infer *c)
{
    const Type *x = in_type(c, 0);
    if (x->rank < 3)
        return x->rank < 0 ? out_unknown(c, 0) : infer_error(c, "X has rank %d, expected at least 3", x->rank);
    int n = x->rank - 2;
    Dim out[MAX_RANK] = {x->dim[0], x->dim[1]};
    uint32_t given = 0, count[3] = {0};
    if (!rule_has_shape(c, 1, x->rank, x->dim, "an index for every element")) return false;
    if (in_has(c, 2)) {
        const Dim *size = rule_sizes(c, 2, &given);
        if (!size) return out_unknown(c, 0);
        if (given != (uint32_t)x->rank)
            return infer_error(c, "output_shape has %u entries, expected %d", given, x->rank);
        return out_shape(c, 0, x->rank, size);
    }
    const int64_t *kernel = node_ints(c->n, "kernel_shape", &count[0]), *pads = node_ints(c->n, "pads", &count[1]);
    const int64_t *strides = node_ints(c->n, "strides", &count[2]);
    if (count[0] != (uint32_t)n || (count[1] && count[1] != 2 * (uint32_t)n) || (count[2] && count[2] != (uint32_t)n))
        return infer_error(c, "kernel_shape, pads and strides must have an entry a spatial dimension");
    for (int i = 0; i < n; i++) {
        int64_t pad = pads ? pads[i] + pads[i + n] : 0, stride = strides ? strides[i] : 1;
        Dim span = dim_mul(c->d, dim_sub(c->d, x->dim[i + 2], DIM(c, 1)), DIM(c, stride));
        out[i + 2] = dim_add(c->d, span, DIM(c, kernel[i] - pad));
    }
    return out_shape(c, 0, x->rank, out);
}

/* Indices count in the image that the pads, kernel and strides imply, which output_shape may enlarge (ONNX's definition). */
static void lower_unpool(Lower *l)
{
    Kernel *k = l->k;
    int x = low_in(l, 0), indices = low_in(l, 1), y = low_out(l, 0), rank = low_rank(l, y), axis[MAX_RANK];
    low_axes(l, y, axis);
    low_stage(l, y, axis, rank, low_const(l, low_type(l, y), 0));
    Expr at[MAX_RANK] = {0}, place[MAX_RANK] = {0}, total = expr_index(k, 1), zero = expr_index(k, 0);
    low_axes(l, x, axis), low_index(l, axis, rank, at);
    uint32_t n = 0;
    const int64_t *kernel = node_ints(l->n, "kernel_shape", &n), *pads = node_ints(l->n, "pads", &n),
                  *strides = node_ints(l->n, "strides", &n);
    Expr flat = expr_load(k, indices, at), rest = expr_prim(k, P_max, flat, zero, 0);
    for (int i = rank - 1; i >= 0; i--) {
        int s = i - 2, spatial = rank - 2;
        Expr size = low_dim(l, x, i);
        if (s >= 0) {
            int64_t fixed = kernel[s] - (pads ? pads[s] + pads[s + spatial] : 0), stride = strides ? strides[s] : 1;
            size = expr_mul(k, expr_sub(k, size, expr_index(k, 1)), expr_index(k, stride));
            size = expr_add(k, size, expr_index(k, fixed));
        }
        place[i] = i ? expr_mod(k, rest, size) : rest;
        rest = expr_div(k, rest, size), total = expr_mul(k, total, size);
    }
    Compute *s = low_stage(l, y, axis, rank, expr_load(k, x, at));
    memcpy(s->at, place, sizeof place);
    s->check = expr_and(k, expr_le(k, zero, flat), expr_lt(k, flat, total));
    for (int i = 0; i < rank; i++) s->check = expr_and(k, s->check, expr_lt(k, place[i], low_dim(l, y, i)));
}

#define POOL WINDOW_ATTRS "ceil_mode:int=0 "
const OpDef ops_pool[] = {
    OP(MaxPool, .since = 1, .sig = "X:T -> Y:T Indices:i64?", .T = "float i8 u8", .attrs = POOL "storage_order:int=0",
       .infer = infer_pool, .lower = lower_max_pool, .quant = QUANT_PASS),
    OP(AveragePool, .since = 1, .sig = "X:T -> Y:T", .T = "float", .attrs = POOL "count_include_pad:int=0",
       .infer = infer_pool, .lower = lower_average_pool, .quant = QUANT_RESCALE),
    OP(LpPool, .since = 1, .sig = "X:T -> Y:T", .T = "float", .attrs = POOL "p:int=2", .infer = infer_pool,
       .lower = lower_lp_pool),
    OP(GlobalAveragePool, .since = 1, .sig = "X:T -> Y:T", .T = "float", .infer = infer_global,
       .lower = lower_global_average, .quant = QUANT_RESCALE),
    OP(GlobalMaxPool, .since = 1, .sig = "X:T -> Y:T", .T = "float", .infer = infer_global, .lower = lower_global_max,
       .quant = QUANT_PASS),
    OP(GlobalLpPool, .since = 1, .sig = "X:T -> Y:T", .T = "float", .attrs = "p:int=2", .infer = infer_global,
       .lower = lower_global_lp),
    OP(GlobalSum, .domain = "octet", .since = 1, .sig = "X:T -> Y:i32", .T = "u8 i8",
       .infer = infer_global, .lower = lower_global_sum),
    OP(MaxUnpool, .since = 9, .sig = "X:T I:i64 output_shape:i64? -> Y:T", .T = "float",
       .attrs = "kernel_shape:ints! pads:ints strides:ints", .infer = infer_unpool, .lower = lower_unpool),
    {0},
};
