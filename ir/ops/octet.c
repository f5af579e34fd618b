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

/* y = saturate(rint(a * ra + (b * rb + shift))), both steps fused: the sum of two quantized tensors as ONNX Runtime's QLinearAdd
 * computes it, with the ratios of scales and all zero points folded into ra, rb and shift. */
static void lower_scaled_sum(Lower *l)
{
    Kernel *k = l->k;
    int y = low_out(l, 0), axis[MAX_RANK], rank = low_rank(l, y);
    Expr in[5];
    low_axes(l, y, axis);
    for (uint32_t i = 0; i < 5; i++) in[i] = expr_cast(k, DT_f32, low_load_broadcast(l, low_in(l, i), axis, rank));
    Expr b = expr_prim(k, P_fma, in[2], in[3], in[4]), sum = expr_prim(k, P_fma, in[0], in[1], b);
    low_stage(l, y, axis, rank, expr_sat(k, low_type(l, y), expr_prim(k, P_rint, sum, 0, 0)));
}

static bool infer_scaled_sum(Infer *c) { return out_broadcast(c, 0, 2, (uint32_t[]){0, 2}); }

/* clang-format off */
const OpDef ops_octet[] = {
    OP(QuantizeBy, .domain = "octet", .since = 1, .sig = "x:T inv:T zero:U -> y:U", .T = "f32", .U = "u8 i8",
       .infer = infer_quantize_by, .lower = lower_quantize_by, .quant = QUANT_EDGE),
    OP(Table,      .domain = "octet", .since = 1, .sig = "x:T table:U -> y:U", .T = "u8 i8", .U = "u8 i8",
       .infer = infer_quantize_by, .lower = lower_table),
    OP(ScaledSum,  .domain = "octet", .since = 1, .sig = "a:T ra:f32 b:T rb:f32 shift:f32 -> y:T", .T = "u8 i8",
       .infer = infer_scaled_sum, .lower = lower_scaled_sum),
    {0}
};
/* clang-format on */
