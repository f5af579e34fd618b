/* octet.c - rows of the domain "octet": what the passes emit and no ONNX file names. */
#include "ir/lower.h"
#include "ir/ops/ops.h"

/* y = saturate(rint(x * inv) + zero): QuantizeLinear with the scale's reciprocal. */
static void lower_quantize_by(Lower *l)
{
    Kernel *k = l->k;
    int y = low_out(l, 0), axis[MAX_RANK], rank = low_rank(l, y);
    low_axes(l, y, axis);
    Expr x = low_load_broadcast(l, low_in(l, 0), axis, rank), inv = low_load_broadcast(l, low_in(l, 1), axis, rank);
    Expr zero = expr_cast(k, DT_f32, low_load_broadcast(l, low_in(l, 2), axis, rank));
    Expr steps = expr_prim(k, P_rint, expr_mul(k, x, inv), 0, 0);
    low_stage(l, y, axis, rank, expr_sat(k, low_type(l, y), expr_add(k, steps, zero)));
}

static bool infer_quantize_by(Infer *c) { return out_like(c, 0, 0); }

/* y = table[x - lowest(x)]: any function of an 8-bit number. */
static void lower_table(Lower *l)
{
    Kernel *k = l->k;
    int y = low_out(l, 0), axis[MAX_RANK], rank = low_rank(l, y), x = low_in(l, 0);
    Expr at[MAX_RANK] = {0};
    low_axes(l, y, axis);
    low_index(l, axis, rank, at);
    Expr code = expr_cast(k, DT_i64, expr_load(k, x, at));
    Expr entry[MAX_RANK] = {expr_sub(k, code, expr_index(k, dtype_min(low_type(l, x))))};
    low_stage(l, y, axis, rank, expr_load(k, low_in(l, 1), entry));
}

/* Codes computed from numbers: n operands as floats, at the places of the result; what is made of them, rounded and saturated. */
static int low_numbers(Lower *l, int *axis, uint32_t n, Expr *in) /* the rank */
{
    int y = low_out(l, 0), rank = low_rank(l, y);
    low_axes(l, y, axis);
    for (uint32_t i = 0; i < n; i++) in[i] = expr_cast(l->k, DT_f32, low_load_broadcast(l, low_in(l, i), axis, rank));
    return rank;
}

static void low_codes(Lower *l, const int *axis, int rank, Expr number)
{
    int y = low_out(l, 0);
    low_stage(l, y, axis, rank, expr_sat(l->k, low_type(l, y), expr_prim(l->k, P_rint, number, 0, 0)));
}

/* y = saturate(rint(a * ra + (b * rb + shift))), both steps fused: the sum of two quantized tensors as ONNX Runtime's QLinearAdd
 * computes it, with the ratios of scales and all zero points folded into ra, rb and shift. */
static void lower_scaled_sum(Lower *l)
{
    Kernel *k = l->k;
    Expr in[5];
    int axis[MAX_RANK], rank = low_numbers(l, axis, COUNT_OF(in), in);
    Expr b = expr_prim(k, P_fma, in[2], in[3], in[4]);
    low_codes(l, axis, rank, expr_prim(k, P_fma, in[0], in[1], b));
}

/* y = saturate(rint((a - za) * (b - zb) * ratio + shift)): the product of two quantized tensors as ONNX Runtime's QLinearMul computes it. The
 * product of differences is exact. */
static void lower_scaled_product(Lower *l)
{
    Kernel *k = l->k;
    Expr in[6];
    int axis[MAX_RANK], rank = low_numbers(l, axis, COUNT_OF(in), in);
    Expr product = expr_mul(k, expr_sub(k, in[0], in[1]), expr_sub(k, in[2], in[3]));
    low_codes(l, axis, rank, expr_add(k, expr_mul(k, product, in[4]), in[5]));
}

static bool infer_scaled(Infer *c) { return out_broadcast(c, 0, 2, (uint32_t[]){0, 2}); }

/* One of two tensors, by a condition that is known before the model runs. Their sizes may differ. */
static bool infer_choose(Infer *c)
{
    Dim when = graph_condition(c->g, node_in(c->g, c->n, 0)), size[MAX_RANK];
    int rank = in_rank(c, 1);
    if (!dim_known(when)) return infer_error(c, "the condition is not known as a size");
    if (in_rank(c, 2) != rank) return infer_error(c, "the branches have ranks %d and %d", rank, in_rank(c, 2));
    for (int i = 0; i < rank; i++) size[i] = dim_select(c->d, when, in_dim(c, 1, i), in_dim(c, 2, i));
    uint32_t x, y;
    const Dim *a = in_elems(c, 1, &x), *b = in_elems(c, 2, &y);
    Dim *e = a && b && x == y ? NEW_ARRAY(c->g->mem, Dim, x + 1) : NULL;
    for (uint32_t i = 0; e && i < x; i++)
        if (dim_known(a[i]) && dim_known(b[i])) e[i] = dim_select(c->d, when, a[i], b[i]);
    if (e) out_elems(c, 0, e, x);
    return out_shape(c, 0, rank, size);
}

/* Two copies, of which one is made: what only the other one reads is not computed (ir/demand.c). */
static void lower_choose(Lower *l)
{
    Dims *d = l->k->dim;
    Dim when = graph_condition(l->g, node_in(l->g, l->n, 0));
    for (uint32_t i = 1; i < 3; i++) {
        Dim taken = dim_canon(d, i == 1 ? when : dim_not(d, when));
        int from = low_in(l, i), axis[MAX_RANK], rank = low_rank(l, from);
        Expr at[MAX_RANK] = {0};
        if (dim_is(d, taken, 0)) continue;
        low_axes(l, from, axis);
        low_index(l, axis, rank, at);
        Compute *c = low_stage(l, low_out(l, 0), axis, rank, expr_load(l->k, from, at));
        if (!dim_is(d, taken, 1)) c->when = expr_dim(l->k, taken);
    }
}

/* clang-format off */
const OpDef ops_octet[] = {
    OP(QuantizeBy, .domain = "octet", .since = 1, .sig = "x:T inv:T zero:U -> y:U", .T = "f32", .U = "u8 i8 u16 i16",
       .infer = infer_quantize_by, .lower = lower_quantize_by, .quant = QUANT_EDGE),
    OP(Table,      .domain = "octet", .since = 1, .sig = "x:T table:U -> y:U", .T = "u8 i8", .U = "u8 i8",
       .infer = infer_quantize_by, .lower = lower_table),
    OP(Fma,        .domain = "octet", .since = 1, .sig = "a:T b:T c:T -> y:T", .T = "f32", .body = "fma(a, b, c)"),
    OP(ScaledSum,  .domain = "octet", .since = 1, .sig = "a:T ra:f32 b:T rb:f32 shift:f32 -> y:T", .T = "u8 i8",
       .infer = infer_scaled, .lower = lower_scaled_sum),
    OP(ScaledProduct, .domain = "octet", .since = 1, .sig = "a:T za:f32 b:T zb:f32 ratio:f32 shift:f32 -> y:T", .T = "u8 i8",
       .infer = infer_scaled, .lower = lower_scaled_product),
    OP(Choose,     .domain = "octet", .since = 1, .sig = "condition:bool x:T y:T -> z:T", .T = "any",
       .infer = infer_choose, .lower = lower_choose, .flags = OP_VALUES),
    {0}
};
/* clang-format on */
