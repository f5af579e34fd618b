/* conv.c - convolutions.
 *
 * Conv is one contraction: Y[n, g*M+m, y...] = sum over (c, i...) of X[n, g*C+c, y*s + i*d - p...] * W[g*M+m, c, i...], the load of X
 * guarded only where padding exists, the bias an epilogue. One group has no group axis; one channel a group (depthwise) has no
 * channel reduction, so that it vectorises over channels.
 * ConvDot (octet) is Conv over u8/i8 with i32 sums of raw products: what every quantized convolution expands into; padding has
 * the value P, the zero point of X. */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include "ir/ops/window.h"
#include <assert.h>
#include <string.h>

#define CONV_ATTRS WINDOW_ATTRS "group:int=1 "

/* ---- shape rules ---- */
bool window_groups(Infer *c, Dim channels, Dim per_group, int64_t group)
{
    if (group < 1) return infer_error(c, "group is %lld, expected a positive number", (long long)group);
    return require_eq(c, channels, dim_mul(c->d, per_group, DIM(c, group)), "channels of X and of W times group");
}

bool window_bias(Infer *c, uint32_t i, Dim channels)
{
    if (in_rank(c, i) < 0) return true;
    if (in_rank(c, i) != 1) return infer_error(c, "B has rank %d, expected 1", in_rank(c, i));
    return require_eq(c, in_dim(c, i, 0), channels, "B");
}

static bool finish_conv(Infer *c, uint32_t wi, uint32_t bias)
{
    const Type *x = in_type(c, 0), *wt = in_type(c, wi);
    if (x->rank < 0 || wt->rank < 0) return out_unknown(c, 0);
    if (wt->rank != x->rank) return infer_error(c, "W has rank %d, expected %d, the rank of X", wt->rank, x->rank);
    Window w;
    const char *why = NULL;
    if (!window_read(&w, c->d, c->n, x, wt->dim + 2, &why)) return infer_error(c, "%s", why);
    int64_t group = node_int(c->n, "group"), m;
    if (!window_groups(c, x->dim[1], wt->dim[1], group)) return false;
    if (dim_is_const(c->d, wt->dim[0], &m) && m % group)
        return infer_error(c, "%lld output channels do not divide into %lld groups", (long long)m, (long long)group);
    if (bias && in_has(c, bias) && !window_bias(c, bias, wt->dim[0])) return false;
    Dim out[MAX_RANK] = {x->dim[0], wt->dim[0]};
    for (int i = 0; i < w.n; i++) {
        out[i + 2] = w.out[i];
        if (!require_ge(c, w.out[i], DIM(c, 0), "the kernel fits into the padded input")) return false;
    }
    return out_shape(c, 0, x->rank, out);
}

static bool infer_conv(Infer *c) { return finish_conv(c, 1, 2); }
static bool infer_conv_dot(Infer *c) { return finish_conv(c, 1, 0); }

/* ---- lowering ---- */
typedef struct Conv {
    Window w;
    int x, weights, y; /* buffers */
    DType acc;
    Expr pad; /* value of X outside, at the type of X's load */
    int space[MAX_RANK], spaces, reduce[MAX_RANK], reduces;
    Expr n, in_channel, w_channel, out_channel; /* indices */
    int at[MAX_SPATIAL], tap[MAX_SPATIAL];
} Conv;

static int push_space(Conv *c, int axis) { return c->space[c->spaces++] = axis; }
static int push_reduce(Conv *c, int axis) { return c->reduce[c->reduces++] = axis; }

/* The axes by number of groups; in_channel and w_channel index X and the second dim of W. */
static void conv_axes(Lower *l, Conv *c, int64_t group)
{
    Kernel *k = l->k;
    const Type *wt = low_in_type(l, 1);
    bool depthwise = group > 1 && dim_is(k->dim, wt->dim[1], 1) && dim_is(k->dim, wt->dim[0], group);
    c->n = expr_axis(k, push_space(c, low_axis(l, low_dim(l, c->y, 0))));
    if (depthwise) {
        c->out_channel = c->in_channel = expr_axis(k, push_space(c, low_axis(l, low_dim(l, c->y, 1))));
        c->w_channel = expr_index(k, 0);
        return;
    }
    Expr per_group = low_dim(l, c->weights, 1), base_in = 0;
    if (group == 1) {
        c->out_channel = expr_axis(k, push_space(c, low_axis(l, low_dim(l, c->y, 1))));
    } else {
        Expr m = expr_dim(k, dim_fdiv(k->dim, wt->dim[0], dim_const(k->dim, group)));
        Expr g = expr_axis(k, push_space(c, low_axis(l, expr_index(k, group))));
        Expr o = expr_axis(k, push_space(c, low_axis(l, m)));
        c->out_channel = expr_add(k, expr_mul(k, g, m), o);
        base_in = expr_mul(k, g, per_group);
    }
    c->w_channel = expr_axis(k, push_reduce(c, low_axis(l, per_group)));
    c->in_channel = base_in ? expr_add(k, base_in, c->w_channel) : c->w_channel;
}

static void conv_windows(Lower *l, Conv *c)
{
    for (int i = 0; i < c->w.n; i++) c->at[i] = push_space(c, low_axis(l, expr_dim(l->k, c->w.out[i])));
    for (int i = 0; i < c->w.n; i++) c->tap[i] = push_reduce(c, low_axis(l, expr_dim(l->k, c->w.kernel[i])));
}

static Expr conv_value(Lower *l, Conv *c)
{
    Kernel *k = l->k;
    Expr x[MAX_RANK] = {c->n, c->in_channel}, w[MAX_RANK] = {c->out_channel, c->w_channel}, inside = 0;
    for (int i = 0; i < c->w.n; i++) {
        x[i + 2] = window_index(l, &c->w, i, c->at[i], c->tap[i]);
        w[i + 2] = expr_axis(k, c->tap[i]);
        inside = expr_and(k, inside, window_inside(l, &c->w, i, x[i + 2]));
    }
    Expr left = expr_load(k, c->x, x);
    if (inside) left = expr_guard(k, inside, left, c->pad);
    return expr_mul(k, expr_cast(k, c->acc, left), expr_cast(k, c->acc, expr_load(k, c->weights, w)));
}

static void conv_stage(Lower *l, Conv *c, int bias)
{
    Kernel *k = l->k;
    Expr value = conv_value(l, c), it = expr_it(k, c->acc);
    if (bias) it = expr_add(k, it, expr_cast(k, c->acc, expr_load(k, bias, (Expr[MAX_RANK]){c->out_channel})));
    Compute *s =
        low_reduce(l, c->y, c->space, c->spaces, c->reduce, c->reduces, P_add, value, low_store_as(l, c->y, it));
    memset(s->at, 0, sizeof s->at);
    s->at[0] = c->n, s->at[1] = c->out_channel;
    for (int i = 0; i < c->w.n; i++) s->at[i + 2] = expr_axis(k, c->at[i]);
}

static Conv conv_begin(Lower *l, DType acc)
{
    Conv c = {.x = low_in(l, 0), .weights = low_in(l, 1), .y = low_out(l, 0), .acc = acc};
    const char *why = NULL;
    bool good = window_read(&c.w, l->k->dim, l->n, low_in_type(l, 0), low_in_type(l, 1)->dim + 2, &why);
    assert(good && "infer accepted this node");
    (void)good;
    low_channels_last(l, c.x), low_channels_last(l, c.y);
    conv_axes(l, &c, node_int(l->n, "group"));
    conv_windows(l, &c);
    return c;
}

static void lower_conv(Lower *l)
{
    Conv c = conv_begin(l, dtype_compute(low_type(l, low_in(l, 0))));
    c.pad = low_const(l, low_type(l, c.x), 0);
    conv_stage(l, &c, low_in(l, 2));
}

/* The padding value: an input that is nearly always constant, said as a number then so that the halo copy can write it. */
static Expr pad_value(Lower *l, uint32_t i, DType t)
{
    Val v = node_in(l->g, l->n, i);
    const Tensor *k = v.id ? graph_val(l->g, v)->konst : NULL;
    if (!v.id) return low_const(l, t, 0);
    if (k) return expr_int(l->k, t, dtype_load_int(k->type, k->data, 0));
    return expr_cast(l->k, t, low_scalar(l, i));
}

/* Weights given as f32 hold integers whose sums stay below 2^24: exact in f32, which multiplies and adds in one instruction. */
static void lower_conv_dot(Lower *l)
{
    Conv c = conv_begin(l, low_type(l, low_in(l, 1)) == DT_f32 ? DT_f32 : DT_i32);
    c.pad = pad_value(l, 2, low_type(l, c.x));
    conv_stage(l, &c, 0);
}

/* ---- ConvInteger: x, w, x_zero_point?, w_zero_point? ---- */
static bool expand_conv_integer(Expand *x)
{
    return ex_conv_integer(x, &(IntegerOp){.x = x->in[0], .w = x->in[1], .x_zero = ex_in(x, 2), .w_zero = ex_in(x, 3)},
                           x->out);
}

const OpDef ops_conv[] = {
    OP(Conv, .since = 1, .sig = "X:T W:T B:T? -> Y:T", .T = "float", .attrs = CONV_ATTRS, .infer = infer_conv,
       .lower = lower_conv, .quant = QUANT_INTEGER, .integer = "ConvInteger", .w_channel = 0, .y_channel = 1, .x_input = 1, .w_input = 1,
       .w_taps = 2),
    OP(ConvFloat, .domain = "octet", .since = 1, .sig = "X:T W:T -> Y:T", .T = "float", .attrs = CONV_ATTRS, .infer = infer_conv, .lower = lower_conv),
    OP(ConvInteger, .since = 10, .sig = "x:T w:U x_zero_point:T? w_zero_point:U? -> y:i32", .T = "u8 i8", .U = "u8 i8",
       .attrs = CONV_ATTRS, .infer = infer_conv_dot, .expand = expand_conv_integer),
    OP(ConvDot, .domain = "octet", .since = 1, .sig = "X:T W:U P:T? -> Y:i32", .T = "u8 i8", .U = "i8 f32",
       .attrs = CONV_ATTRS, .infer = infer_conv_dot, .lower = lower_conv_dot, .quant = QUANT_SUMS),
    {0},
};
