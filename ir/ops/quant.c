/* quant.c - boundaries between numbers and their 8-bit (16, 4, 2-bit, float8) codes, and the integer operators.
 *
 * QuantizeLinear and DequantizeLinear are elementwise with scale and zero point per tensor, per axis or per block.
 * The integer operators expand into raw sums of u8 times i8 (octet.ConvDot, octet.MatMulDot) with the zero points' share
 * subtracted around them:
 *     sum (x - zx)(w - zw) = sum x*w - zx * sum w - zw * sum (x - zx)
 * where sum w is a constant of the weights, and the last term vanishes for symmetric weights. Signed activations become
 * unsigned by adding 128 to them and to their zero point, unsigned weights signed by subtracting 128.
 * Rounding is ONNX's: half to even, then the zero point, then saturation; the scale of a requantization is one f32 product, as
 * in ONNX Runtime. */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include "ir/ops/window.h"
#include <assert.h>

/* ---- QuantizeLinear, DequantizeLinear ---- */
static bool is_single(const Dims *d, const Type *t)
{
    return t->rank == 0 || (t->rank == 1 && dim_is(d, t->dim[0], 1));
}

static bool check_params(Infer *c, uint32_t scale, uint32_t zero)
{
    const Type *x = in_type(c, 0), *s = in_type(c, scale), *z = in_type(c, zero);
    if (x->rank < 0 || s->rank < 0) return true;
    bool single = is_single(c->d, s);
    if (in_has(c, zero) && z->rank >= 0 && (single ? !is_single(c->d, z) : z->rank != s->rank))
        return infer_error(c, "zero point has rank %d, the scale %d", z->rank, s->rank);
    if (single) return true;
    for (int i = 0; in_has(c, zero) && i < z->rank; i++)
        if (!require_eq(c, z->dim[i], s->dim[i], "zero points and scales")) return false;
    int axis;
    int64_t block = node_int(c->n, "block_size");
    if (!in_axis(c, node_int(c->n, "axis"), x->rank, &axis)) return false;
    if (s->rank == 1 && block == 0) return require_eq(c, s->dim[0], x->dim[axis], "scales along the axis");
    if (s->rank != x->rank)
        return infer_error(c, "scale has rank %d, expected 0, 1 or, in blocks, %d", s->rank, x->rank);
    if (block < 1) return infer_error(c, "block_size is %lld with scales in blocks", (long long)block);
    for (int i = 0; i < x->rank; i++) {
        Dim want = i == axis ? dim_cdiv(c->d, x->dim[i], DIM(c, block)) : x->dim[i];
        if (!require_eq(c, s->dim[i], want, "scales of the blocks")) return false;
    }
    return true;
}

static bool infer_quantize(Infer *c)
{
    int64_t to = node_int(c->n, "output_dtype");
    if (!rule_type(c, 0, in_has(c, 2) ? in_type(c, 2)->dtype : to ? to : DT_u8)) return false;
    if (!node_int(c->n, "saturate") && dtype_is_float(c->out[0].dtype))
        return infer_error(c, "QuantizeLinear to %s without saturation is not supported", dtypes[c->out[0].dtype].name);
    return check_params(c, 1, 2) && out_like(c, 0, 0);
}

static bool infer_dequantize(Infer *c)
{
    int64_t to = node_int(c->n, "output_dtype");
    return rule_type(c, 0, to ? to : in_type(c, 1)->dtype) && check_params(c, 1, 2) && out_like(c, 0, 0);
}

/* The scale or zero point that belongs to the element at `axis`. */
static Expr load_param(Lower *l, int buf, const int *axis)
{
    Kernel *k = l->k;
    int rank = low_rank(l, buf), x_rank = low_rank(l, low_in(l, 0));
    Expr at[MAX_RANK] = {0};
    if (rank == 0) return expr_load(k, buf, at);
    if (rank == 1 && expr_is(k, low_dim(l, buf, 0), 1)) {
        at[0] = expr_index(k, 0);
        return expr_load(k, buf, at);
    }
    int along = low_attr_axis(l, "axis", x_rank);
    if (rank == 1 && !node_int(l->n, "block_size")) {
        at[0] = expr_axis(k, axis[along]);
        return expr_load(k, buf, at);
    }
    low_index(l, axis, x_rank, at);
    at[along] = expr_div(k, at[along], expr_index(k, node_int(l->n, "block_size")));
    return expr_load(k, buf, at);
}

/* 0: it is absent, or known to change nothing, which is to be `nothing` everywhere. */
static Expr load_unless(Lower *l, uint32_t i, double nothing, const int *axis)
{
    int buf = low_in(l, i);
    if (!buf) return 0;
    const Tensor *t = graph_val(l->g, node_in(l->g, l->n, i))->konst;
    bool all = t != NULL;
    for (int64_t e = 0, n = t ? tensor_count(t) : 0; all && e < n; e++) all = dtype_load(t->type, t->data, e) == nothing;
    return all ? 0 : load_param(l, buf, axis);
}

static Expr load_zero(Lower *l, uint32_t i, const int *axis) { return load_unless(l, i, 0, axis); }

/* A quotient rounded to the type that ONNX divides in. */
static Expr round_to(Lower *l, DType t, Expr e) { return expr_cast(l->k, dtype_compute(t), expr_cast(l->k, t, e)); }

static void lower_quantize(Lower *l)
{
    Kernel *k = l->k;
    int axis[MAX_RANK], y = low_out(l, 0), s = low_in(l, 1);
    low_axes(l, y, axis);
    int64_t precision = node_int(l->n, "precision");
    DType to = low_type(l, y), by = precision                        ? (DType)precision
                                    : dtype_is_float(low_type(l, s)) ? low_type(l, s)
                                                                     : DT_f32;
    DType f = dtype_compute(by);
    Expr at[MAX_RANK] = {0};
    low_index(l, axis, low_rank(l, y), at);
    Expr x = expr_cast(k, f, expr_load(k, low_in(l, 0), at));
    Expr q = round_to(l, by, expr_div(k, x, expr_cast(k, f, load_param(l, s, axis))));
    Expr zero = load_zero(l, 2, axis);
    if (!dtype_is_float(to)) q = expr_prim(k, P_rint, q, 0, 0);
    if (zero) q = expr_add(k, q, expr_cast(k, f, zero));
    low_stage(l, y, axis, low_rank(l, y), dtype_is_float(to) ? expr_cast(k, to, q) : expr_sat(k, to, q));
}

static void lower_dequantize(Lower *l)
{
    Kernel *k = l->k;
    int axis[MAX_RANK], y = low_out(l, 0);
    low_axes(l, y, axis);
    DType from = low_type(l, low_in(l, 0)), to = low_type(l, y), f = dtype_compute(to);
    Expr at[MAX_RANK] = {0};
    low_index(l, axis, low_rank(l, y), at);
    Expr x = expr_load(k, low_in(l, 0), at), zero = load_zero(l, 2, axis);
    bool real = dtype_is_float(from) || (zero && dtype_is_float((DType)expr_node(k, zero)->type));
    DType wide = real ? f : DT_i32; /* code minus zero point is exact there */
    if (zero) x = expr_sub(k, expr_cast(k, wide, x), expr_cast(k, wide, zero));
    Expr value = expr_cast(k, f, x), scale = load_unless(l, 1, 1, axis);
    if (scale) value = expr_mul(k, value, expr_cast(k, f, scale));
    low_stage(l, y, axis, low_rank(l, y), expr_cast(k, to, value));
}

/* ---- DynamicQuantizeLinear: y, y_scale, y_zero_point from the range of x, zero included ---- */
static bool infer_dynamic(Infer *c)
{
    return out_like(c, 0, 0) && out_shape(c, 1, 0, NULL) && out_shape(c, 2, 0, NULL);
}

static int range_end(Lower *l, Prim how)
{
    int axis[MAX_RANK], x = low_in(l, 0), t = low_temp(l, DT_f32, 0, NULL), rank = low_rank(l, x);
    Expr at[MAX_RANK] = {0}, zero = low_const(l, DT_f32, 0);
    low_axes(l, x, axis), low_index(l, axis, rank, at);
    Expr value = expr_load(l->k, x, at);
    if (rank == 0) low_stage(l, t, NULL, 0, expr_prim(l->k, how, value, zero, 0));
    else low_reduce(l, t, NULL, 0, axis, rank, how, value, expr_prim(l->k, how, expr_it(l->k, DT_f32), zero, 0));
    return t;
}

static void lower_dynamic(Lower *l)
{
    Kernel *k = l->k;
    int axis[MAX_RANK], x = low_in(l, 0), rank = low_rank(l, x), y = low_out(l, 0), scale = low_out(l, 1),
                        zp = low_out(l, 2);
    Expr none[MAX_RANK] = {0}, at[MAX_RANK] = {0}, zero = low_const(l, DT_f32, 0), top = low_const(l, DT_f32, 255);
    Expr lo = expr_load(k, range_end(l, P_min), none), hi = expr_load(k, range_end(l, P_max), none);
    Expr flat = expr_prim(k, P_eq, lo, hi, 0); /* all zero: any scale does, but not 0 */
    low_stage(l, scale, NULL, 0, low_select(l, flat, low_const(l, DT_f32, 1), expr_div(k, expr_sub(k, hi, lo), top)));
    Expr s = expr_load(k, scale, none), from = expr_sub(k, zero, expr_div(k, lo, s));
    from = expr_prim(k, P_min, expr_prim(k, P_max, from, zero, 0), top, 0);
    low_stage(l, zp, NULL, 0, expr_sat(k, DT_u8, expr_prim(k, P_rint, from, 0, 0)));
    low_axes(l, y, axis), low_index(l, axis, rank, at);
    Expr q = expr_prim(k, P_rint, expr_div(k, expr_load(k, x, at), s), 0, 0);
    q = expr_add(k, q, expr_cast(k, DT_f32, expr_load(k, zp, none)));
    low_stage(l, y, axis, rank, expr_sat(k, DT_u8, q));
}

/* ---- octet.Requant ---- */
static void lower_requant(Lower *l)
{
    Kernel *k = l->k;
    int axis[MAX_RANK], y = low_out(l, 0), rank = low_rank(l, y);
    low_axes(l, y, axis);
    Expr acc = expr_cast(k, DT_f32, low_load_broadcast(l, low_in(l, 0), axis, rank));
    Expr q = expr_prim(k, P_rint, expr_mul(k, acc, low_load_broadcast(l, low_in(l, 1), axis, rank)), 0, 0);
    const Tensor *z = graph_val(l->g, node_in(l->g, l->n, 2))->konst;
    bool zero = z && tensor_count(z) == 1 && dtype_load(z->type, z->data, 0) == 0;
    if (!zero) q = expr_add(k, q, expr_cast(k, DT_f32, low_load_broadcast(l, low_in(l, 2), axis, rank)));
    low_stage(l, y, axis, rank, expr_sat(k, low_type(l, y), q));
}

/* ---- integer convolution ---- */
static Val ones_weights(Expand *x, const Type *w, int64_t group, int64_t out)
{
    int64_t dim[MAX_RANK];
    for (int i = 0; i < w->rank; i++) dim_is_const(x->m->dim, w->dim[i], &dim[i]);
    dim[0] = group == 1 ? 1 : out;
    Tensor *t = tensor_new(x->m->mem, DT_i8, w->rank, dim);
    memset((void *)(uintptr_t)t->data, 1, tensor_bytes(t));
    return ex_tensor(x, t);
}

static Val conv_dot(Expand *x, Val q, Val w, Val zero)
{
    if (zero.id) zero = ex_cast(x, zero, DT_u8); /* 0 .. 255 by construction */
    return ex_op_like(x, "octet", "ConvDot", (Val[]){q, w, zero}, 3);
}

/* The weights as ConvDot multiplies them best: groups of fewer channels than an instruction sums have so few products that f32 adds
 * them exactly. */
static Val dot_weights(Expand *x, Val w, int64_t group, int64_t channels, int64_t inner)
{
    enum { EXACT = (1 << 24) / (255 * 128), DOT = 4 };
    return group > 1 && channels < DOT && inner <= EXACT ? ex_cast(x, w, DT_f32) : w;
}

/* Do 32 bits hold every sum, whatever the activations are? Constant weights are added up; of others the largest are assumed. */
static bool sums_fit(Expand *x, const Quantized *w, int channel, int64_t depth)
{
    enum { MOST_X = 255, MOST_W = 128 };
    const Tensor *t = graph_val(x->g, w->q)->konst;
    int64_t each = w->zero.id ? 2 * MOST_W : MOST_W, most = each * depth;
    if (most > INT32_MAX / MOST_X && t) most = tensor_largest_sum(t, channel) + (each - MOST_W) * depth;
    return most <= INT32_MAX / MOST_X ||
           expand_error(x, "%lld products a sum can overflow 32 bits", (long long)depth);
}

bool ex_conv_integer(Expand *x, const IntegerOp *op, Val *acc)
{
    Quantized q = ex_as_u8(x, op->x, op->x_zero), w = ex_as_i8(x, op->w, op->w_zero);
    const Type *wt = ex_type(x, w.q);
    int rank = ex_type(x, q.q)->rank;
    int64_t size[MAX_RANK], inner = 1, axes[MAX_RANK], group = node_int(x->n, "group");
    if (rank < 3 || wt->rank != rank)
        return expand_error(x, "an integer convolution needs operands of known, equal rank");
    for (int i = 0; i < rank; i++) {
        if (!dim_is_const(x->m->dim, wt->dim[i], &size[i]))
            return expand_error(x, "the weights need constant dimensions");
        if (i) inner *= size[i], axes[i - 1] = i;
    }
    if (!sums_fit(x, &w, 0, inner)) return false;
    Val zero = q.zero.id ? ex_reshape(x, q.zero, NULL, 0) : q.zero;
    Val sum = conv_dot(x, q.q, dot_weights(x, w.q, group, size[1], inner), zero), fix = op->bias;
    if (zero.id) {
        Val columns = ex_sums(x, w.q, axes, rank - 1, false);
        Val share = EX(x, "Mul", zero, columns);
        fix = fix.id ? EX(x, "Sub", fix, share) : EX(x, "Neg", share);
    }
    if (fix.id) sum = EX(x, "Add", sum, ex_channels(x, fix, rank, 1));
    if (w.zero.id) { /* zw * (sum x - count * zx): the sum of the window is a product with ones */
        Val rows = conv_dot(x, q.q, ones_weights(x, wt, group, size[0]), zero);
        if (zero.id) rows = EX(x, "Sub", rows, EX(x, "Mul", zero, ex_scalar(x, DT_i32, (double)inner)));
        sum = EX(x, "Sub", sum, EX(x, "Mul", rows, ex_channels(x, w.zero, rank, 1)));
    }
    *acc = sum;
    return true;
}

static Val scale_of(Expand *x, Val a, Val b, Val y)
{
    return EX(x, "Div", EX(x, "Mul", ex_cast(x, a, DT_f32), ex_cast(x, b, DT_f32)), ex_cast(x, y, DT_f32));
}

bool rule_qlinear_conv(Infer *c, const Type *x, Dim *out)
{
    const Type *wt = in_type(c, 3);
    if (wt->rank != x->rank) return infer_error(c, "w has rank %d, expected %d, the rank of x", wt->rank, x->rank);
    Window w;
    const char *why = NULL;
    if (!window_read(&w, c->d, c->n, x, wt->dim + 2, &why)) return infer_error(c, "%s", why);
    if (!require_eq(c, x->dim[1], dim_mul(c->d, wt->dim[1], DIM(c, node_int(c->n, "group"))),
                    "channels of x and of w times group"))
        return false;
    out[0] = x->dim[0], out[1] = wt->dim[0];
    for (int i = 0; i < w.n; i++) out[i + 2] = w.out[i];
    return true;
}

static bool infer_qlinear_conv(Infer *c)
{
    const Type *x = in_type(c, 0);
    Dim out[MAX_RANK];
    if (x->rank < 0 || in_rank(c, 3) < 0) return out_unknown(c, 0);
    return rule_qlinear_conv(c, x, out) && out_shape(c, 0, x->rank, out);
}

static bool expand_qlinear_conv(Expand *x)
{
    const Val *in = x->in;
    IntegerOp op = {.x = in[0], .w = in[3], .x_zero = in[2], .w_zero = in[5], .bias = ex_in(x, 8)};
    Val acc;
    if (!ex_conv_integer(x, &op, &acc)) return false;
    int rank = ex_type(x, acc)->rank;
    Val scale = ex_channels(x, scale_of(x, in[1], in[4], in[6]), rank, 1);
    x->out[0] = ex_requant(x, acc, scale, ex_channels(x, in[7], rank, 1), ex_type(x, in[7])->dtype);
    return true;
}

/* ---- integer matrix product ---- */
/* A vector of per-row parameters [M] of a [M, K] matrix as a column. */
static Val as_column(Expand *x, Val v, bool wanted)
{
    const Type *t = ex_type(x, v);
    if (!v.id || !wanted || t->rank != 1 || dim_is(x->m->dim, t->dim[0], 1)) return v;
    return ex_unsqueeze(x, v, (int64_t[]){-1}, 1);
}

bool ex_matmul_integer(Expand *x, const IntegerOp *op, Val *acc)
{
    Quantized a = ex_as_u8(x, op->x, op->x_zero), b = ex_as_i8(x, op->w, op->w_zero);
    int ra = ex_type(x, a.q)->rank, rb = ex_type(x, b.q)->rank;
    if (ra < 1 || rb < 1) return expand_error(x, "an integer product needs operands of known rank");
    int64_t depth;
    if (dim_is_const(x->m->dim, ex_type(x, a.q)->dim[ra - 1], &depth) && !sums_fit(x, &b, rb > 1 ? rb - 1 : -1, depth)) return false;
    int64_t row_axis = -1, column_axis = rb > 1 ? -2 : -1;
    Val az = as_column(x, a.zero, ra > 1);
    Val az_out = as_column(x, a.zero, ra > 1 && rb > 1);
    Val sum = EX_OCTET(x, "MatMulDot", a.q, b.q);
    if (a.zero.id) {
        Val columns = ex_sums(x, b.q, &column_axis, 1, rb == 1 || ra > 1);
        sum = EX(x, "Sub", sum, EX(x, "Mul", az_out, columns));
    }
    if (op->bias.id) sum = EX(x, "Add", sum, op->bias);
    if (b.zero.id) {
        Val rows = ex_cast(x, a.q, DT_i32);
        if (az.id) rows = EX(x, "Sub", rows, az);
        rows = ex_reduce(x, "ReduceSum", rows, &row_axis, 1, ra == 1 || rb > 1);
        sum = EX(x, "Sub", sum, EX(x, "Mul", rows, b.zero));
    }
    *acc = sum;
    return true;
}

static bool expand_matmul_integer(Expand *x)
{
    IntegerOp op = {.x = x->in[0], .w = x->in[1], .x_zero = ex_in(x, 2), .w_zero = ex_in(x, 3)};
    return ex_matmul_integer(x, &op, x->out);
}

/* Inputs: a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point. */
static bool expand_qlinear_matmul(Expand *x)
{
    const Val *in = x->in;
    IntegerOp op = {.x = in[0], .w = in[3], .x_zero = in[2], .w_zero = in[5]};
    Val acc;
    if (!ex_matmul_integer(x, &op, &acc)) return false;
    bool column = ex_type(x, acc)->rank > 1;
    Val scale = scale_of(x, as_column(x, in[1], column), in[4], as_column(x, in[6], column));
    x->out[0] = ex_requant(x, acc, scale, as_column(x, in[7], column), ex_type(x, in[7])->dtype);
    return true;
}

static bool infer_qlinear_matmul(Infer *c) { return infer_product(c, 0, 3); }
static bool infer_matmul_integer(Infer *c) { return infer_product(c, 0, 1); }

#define QTYPES "u8 i8 u16 i16 u4 i4 u2 i2 f8e4m3fn f8e4m3fnuz f8e5m2 f8e5m2fnuz f4e2m1"
const OpDef ops_quant[] = {
    OP(QuantizeLinear, .since = 10, .sig = "x:X y_scale:S y_zero_point:T? -> y:T", .T = QTYPES,
       .attrs = "axis:int=1 block_size:int=0 output_dtype:int=0 precision:int=0 saturate:int=1",
       .infer = infer_quantize, .lower = lower_quantize, .quant = QUANT_EDGE, .flags = OP_UNRANKED),
    OP(DequantizeLinear, .since = 10, .sig = "x:T x_scale:S x_zero_point:T? -> y:U", .T = QTYPES " i32", .U = "float",
       .attrs = "axis:int=1 block_size:int=0 output_dtype:int=0", .infer = infer_dequantize, .lower = lower_dequantize,
       .quant = QUANT_EDGE, .flags = OP_UNRANKED),
    OP(Dequantize, .domain = "octet", .since = 1, .sig = "x:T x_scale:S x_zero_point:Z? -> y:U", .T = QTYPES,
       .U = "float", .attrs = "axis:int=1 block_size:int=0 output_dtype:int=0", .infer = infer_dequantize,
       .lower = lower_dequantize, .quant = QUANT_EDGE, .flags = OP_UNRANKED), /* zero points that are no codes */
    OP(DynamicQuantizeLinear, .since = 11, .sig = "x:f32 -> y:u8 y_scale:f32 y_zero_point:u8", .infer = infer_dynamic,
       .lower = lower_dynamic, .quant = QUANT_EDGE),
    OP(QLinearConv, .since = 10, .sig = QLINEAR_CONV, .T = "u8 i8", .U = "u8 i8", .V = "u8 i8",
       .attrs = WINDOW_ATTRS "group:int=1", .infer = infer_qlinear_conv, .expand = expand_qlinear_conv),
    OP(MatMulInteger, .since = 10, .sig = "A:T B:U a_zero_point:T? b_zero_point:U? -> Y:i32", .T = "u8 i8",
       .U = "u8 i8", .infer = infer_matmul_integer, .expand = expand_matmul_integer),
    OP(QLinearMatMul, .since = 10,
       .sig = "a:T a_scale:S a_zero_point:T b:U b_scale:S b_zero_point:U y_scale:S y_zero_point:V -> y:V", .T = "u8 i8",
       .U = "u8 i8", .V = "u8 i8", .infer = infer_qlinear_matmul, .expand = expand_qlinear_matmul),
    OP(ToU8, .domain = "octet", .since = 1, .sig = "X:i8 -> Y:u8", .body = "u8(xor(X, -128))"),
    OP(ToI8, .domain = "octet", .since = 1, .sig = "X:u8 -> Y:i8", .body = "i8(xor(X, 128))"),
    OP(ToU16, .domain = "octet", .since = 1, .sig = "X:i16 -> Y:u16", .body = "u16(xor(X, -32768))"),
    OP(High, .domain = "octet", .since = 1, .sig = "X:u16 -> Y:u8", .body = "u8(shr(X, 8))"),
    OP(Low, .domain = "octet", .since = 1, .sig = "X:u16 -> Y:u8", .body = "u8(X)"),
    OP(JoinHalves, .domain = "octet", .since = 1, .sig = "H:i32 L:i32 -> Y:f32",
       .body =
           "f32(H + shr(L, 8)) * 256 + f32(and(L, 255))"), /* of 256 H + L: no part of it cancels, so at most its last bit is off */
    OP(Requant, .domain = "octet", .since = 1, .sig = "X:i32 scale:f32 zero:T -> Y:T", .T = "u8 i8 u16 i16",
       .infer = infer_elementwise, .lower = lower_requant),
    {0},
};
