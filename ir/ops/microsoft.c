/* microsoft.c - operators of the domain com.microsoft that exporters and ONNX Runtime's tools write.
 *
 * All are spelled in other operators. The QLinear ones become DequantizeLinear, the float operator, QuantizeLinear, the form that
 * the quantization passes fuse; integer products become raw sums with corrections, as in quant.c. Weights of MatMulNBits stay
 * 2, 4 or 8-bit codes behind a DequantizeLinear in blocks along K. */
#include "ir/blocks.h"
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include "ir/ops/window.h"
#include <assert.h>
#include <math.h>

/* ---- 8-bit elementwise and pooling ---- */
static Val dequantize(Expand *x, Val q, Val scale, Val zero) { return EX(x, "DequantizeLinear", q, scale, zero); }
static Val quantize(Expand *x, Val v, Val scale, Val zero, DType to)
{
    if (!zero.id) zero = ex_scalar(x, to, 0);
    return EX(x, "QuantizeLinear", v, scale, zero);
}

static Val as_float(Expand *x, Val zero) { return zero.id ? ex_cast(x, zero, DT_f32) : ex_scalar(x, DT_f32, 0); }

/* A, A_scale, A_zero, B, B_scale, B_zero, C_scale, C_zero. The zero points are put together as ONNX Runtime's kernel does, with one rounding less: many
 * sums lie on ties. */
static bool expand_qlinear_add(Expand *x)
{
    const Val *in = x->in;
    Val ra = EX(x, "Div", in[1], in[6]), rb = EX(x, "Div", in[4], in[6]);
    Val za = as_float(x, in[2]), zb = as_float(x, in[5]), zc = as_float(x, ex_in(x, 7));
    Val shift = EX(x, "Sub", zc, EX_OCTET(x, "Fma", ra, za, EX(x, "Mul", rb, zb)));
    x->out[0] = EX_OCTET(x, "ScaledSum", in[0], ra, in[3], rb, shift);
    return true;
}

static bool expand_qlinear_mul(Expand *x)
{
    const Val *in = x->in;
    Val ratio = EX(x, "Div", EX(x, "Mul", in[1], in[4]), in[6]);
    x->out[0] = EX_OCTET(x, "ScaledProduct", in[0], as_float(x, in[2]), in[3], as_float(x, in[5]), ratio, as_float(x, ex_in(x, 7)));
    return true;
}

static bool infer_qlinear_binary(Infer *c) { return out_broadcast(c, 0, 2, (uint32_t[]){0, 3}); }

/* condition; X, X_scale, X_zero; Y, Y_scale, Y_zero; Z_scale, Z_zero: both become codes of Z, and one is taken. */
static bool expand_qlinear_where(Expand *x)
{
    const Val *in = x->in;
    DType t = ex_type(x, in[1])->dtype;
    Val a = quantize(x, dequantize(x, in[1], in[2], in[3]), in[7], in[8], t), b = quantize(x, dequantize(x, in[4], in[5], in[6]), in[7], in[8], t);
    x->out[0] = EX(x, "Where", in[0], a, b);
    return true;
}

static bool infer_qlinear_where(Infer *c) { return out_broadcast(c, 0, 3, (uint32_t[]){0, 1, 4}); }

/* X, X_scale, X_zero, Y_scale, Y_zero: one operator with the node's own attributes. */
static bool expand_qlinear_unary(Expand *x, const char *op)
{
    Val v = dequantize(x, x->in[0], x->in[1], x->in[2]);
    v = ex_op_like(x, NULL, op, &v, 1);
    x->out[0] = quantize(x, v, x->in[3], ex_in(x, 4), ex_type(x, x->in[0])->dtype);
    return true;
}

static bool expand_qlinear_sigmoid(Expand *x) { return expand_qlinear_unary(x, "Sigmoid"); }
static bool expand_qlinear_leaky_relu(Expand *x) { return expand_qlinear_unary(x, "LeakyRelu"); }
static bool infer_qlinear_unary(Infer *c) { return out_like(c, 0, 0); }

/* Softmax of an opset before 13 runs over all dimensions from the axis on: they are flattened. The operator is ONNX Runtime's alone, and its only
 * definition is what that computes: a code is the value times the reciprocal of the scale, rounded down to an integer. */
static bool expand_qlinear_softmax(Expand *x)
{
    int rank = ex_type(x, x->in[0])->rank;
    int64_t axis = node_int(x->n, "axis");
    if (rank < 1 || axis < -rank || axis >= rank)
        return expand_error(x, "axis %lld is outside of rank %d", (long long)axis, rank);
    if (axis < 0) axis += rank;
    bool flat = node_int(x->n, "opset") < 13 && axis != rank - 1;
    Val v = dequantize(x, x->in[0], x->in[1], x->in[2]), shape = EX(x, "Shape", v);
    if (flat) v = ex_op(x, NULL, "Flatten", (AttrSet[]){SET_INT("axis", axis)}, 1, &v, 1), axis = 1;
    v = ex_op(x, NULL, "Softmax", (AttrSet[]){SET_INT("axis", axis)}, 1, &v, 1);
    if (flat) v = EX(x, "Reshape", v, shape);
    Val steps = EX(x, "Floor", EX(x, "Reciprocal", x->in[3]));
    x->out[0] = quantize(x, v, EX(x, "Reciprocal", steps), ex_in(x, 4), ex_type(x, x->in[0])->dtype);
    return true;
}

static Val move_channels(Expand *x, Val v, bool last)
{
    int rank = ex_type(x, v)->rank;
    int64_t perm[MAX_RANK];
    for (int i = 0; i < rank; i++)
        perm[i] = last ? (i == 0 ? 0 : i == rank - 1 ? 1 : i + 1) : (i == 0 ? 0 : i == 1 ? rank - 1 : i - 1);
    return ex_transpose(x, v, perm, rank);
}

/* The mean of the dequantized window, rounded together with the zero point. */
static Val pool_window(Expand *x, Val v)
{
    v = dequantize(x, v, x->in[1], x->in[2]);
    v = EX(x, "Div", ex_op_like(x, NULL, "AveragePool", &v, 1), x->in[3]);
    Val steps = EX(x, "Add", v, as_float(x, ex_in(x, 4)));
    return quantize(x, steps, ex_scalar(x, DT_f32, 1), (Val){0}, ex_type(x, x->in[0])->dtype);
}

/* The exact sum of the codes about their zero point, times one factor. */
static Val pool_all(Expand *x, Val v)
{
    DType t = ex_type(x, v)->dtype;
    Val count = EX(x, "ReduceProd", ex_slice(x, EX(x, "Shape", v), 0, 2, INT64_MAX)), zero = ex_in(x, 4);
    Val sum = EX_OCTET(x, "GlobalSum", v);
    if (x->in[2].id) sum = EX(x, "Sub", sum, EX(x, "Mul", ex_cast(x, x->in[2], DT_i32), ex_cast(x, count, DT_i32)));
    Val scale = EX(x, "Div", x->in[1], EX(x, "Mul", x->in[3], ex_cast(x, count, DT_f32)));
    return EX_OCTET(x, "Requant", sum, scale, zero.id ? zero : ex_scalar(x, t, 0));
}

/* What is made of an image with its channels second, where they may be last. */
static bool expand_image(Expand *x, bool last, Val (*make)(Expand *, Val))
{
    if (ex_type(x, x->in[0])->rank < 3) return expand_error(x, "X has no known rank of at least 3");
    Val v = make(x, last ? move_channels(x, x->in[0], false) : x->in[0]);
    x->out[0] = last ? move_channels(x, v, true) : v;
    return true;
}

static bool expand_qlinear_average(Expand *x) { return expand_image(x, node_int(x->n, "channels_last"), pool_window); }
static bool expand_qlinear_global(Expand *x) { return expand_image(x, node_int(x->n, "channels_last"), pool_all); }

static Type channels_first(const Type *t, bool last)
{
    Type r = *t;
    for (int i = 1; last && i < t->rank; i++) r.dim[i] = t->dim[i == 1 ? t->rank - 1 : i - 1];
    return r;
}

static bool out_channels(Infer *c, Type t, bool last)
{
    Type r = t;
    for (int i = 1; last && i < t.rank; i++) r.dim[i] = t.dim[i == t.rank - 1 ? 1 : i + 1];
    return out_shape(c, 0, r.rank, r.dim);
}

static bool infer_window(Infer *c, bool last)
{
    if (in_rank(c, 0) < 3)
        return in_rank(c, 0) < 0 ? out_unknown(c, 0) : infer_error(c, "X has rank %d", in_rank(c, 0));
    Type t = channels_first(in_type(c, 0), last);
    Window w;
    const char *why = NULL;
    if (!window_read(&w, c->d, c->n, &t, NULL, &why)) return infer_error(c, "%s", why);
    for (int i = 0; i < w.n; i++) t.dim[i + 2] = w.out[i];
    return out_channels(c, t, last);
}

static bool infer_qlinear_average(Infer *c) { return infer_window(c, node_int(c->n, "channels_last")); }

/* What ONNX Runtime makes of its own graphs: images with their channels last, weights as ever. */
static bool infer_nhwc_max_pool(Infer *c) { return infer_window(c, true); }

static Val max_pool(Expand *x, Val v) { return ex_op_like(x, NULL, "MaxPool", &v, 1); }
static bool expand_nhwc_max_pool(Expand *x) { return expand_image(x, true, max_pool); }

static bool infer_conv_codes(Infer *c)
{
    bool last = node_int(c->n, "channels_last");
    if (in_rank(c, 0) < 0 || in_rank(c, 3) < 0) return out_unknown(c, 0);
    Type t = channels_first(in_type(c, 0), last);
    return rule_qlinear_conv(c, &t, t.dim) && out_channels(c, t, last);
}

static Val conv_codes(Expand *x, Val v)
{
    enum { OPERANDS = 9 };
    Val in[OPERANDS] = {v};
    for (uint32_t i = 1; i < OPERANDS; i++) in[i] = ex_in(x, i);
    return ex_op_like(x, NULL, "QLinearConv", in, OPERANDS - !in[OPERANDS - 1].id);
}

static bool expand_conv_codes(Expand *x) { return expand_image(x, node_int(x->n, "channels_last"), conv_codes); }

static bool infer_qlinear_global(Infer *c)
{
    bool last = node_int(c->n, "channels_last");
    if (in_rank(c, 0) < 3)
        return in_rank(c, 0) < 0 ? out_unknown(c, 0) : infer_error(c, "X has rank %d", in_rank(c, 0));
    Type t = channels_first(in_type(c, 0), last);
    for (int i = 2; i < t.rank; i++) t.dim[i] = DIM(c, 1);
    return out_channels(c, t, last);
}

/* Y_scale, Y_zero, then (x, scale, zero) of every part. */
static bool infer_qlinear_concat(Infer *c)
{
    int axis;
    if (c->n->nin < 5 || (c->n->nin - 2) % 3)
        return infer_error(c, "%u inputs, expected two and three a part", c->n->nin);
    const Type *first = in_type(c, 2);
    if (first->rank < 0) return out_unknown(c, 0);
    if (!in_axis(c, node_int(c->n, "axis"), first->rank, &axis)) return false;
    Dim out[MAX_RANK];
    memcpy(out, first->dim, sizeof out);
    for (uint32_t i = 5; i < c->n->nin; i += 3) {
        if (in_rank(c, i) != first->rank)
            return in_rank(c, i) < 0 ? out_unknown(c, 0) : infer_error(c, "the parts differ in rank");
        out[axis] = dim_add(c->d, out[axis], in_dim(c, i, axis));
    }
    return out_shape(c, 0, first->rank, out);
}

static bool expand_qlinear_concat(Expand *x)
{
    uint32_t n = (x->n->nin - 2) / 3;
    Val *part = NEW_ARRAY(x->m->mem, Val, n);
    for (uint32_t i = 0; i < n; i++) part[i] = dequantize(x, x->in[2 + 3 * i], x->in[3 + 3 * i], x->in[4 + 3 * i]);
    Val v = ex_concat(x, part, (int)n, (int)node_int(x->n, "axis"));
    x->out[0] = quantize(x, v, x->in[0], x->in[1], ex_type(x, x->in[1])->dtype);
    return true;
}

/* The boundaries as this domain spells them, with 16-bit types before ONNX had them. */
static bool expand_boundary(Expand *x, const char *op)
{
    Val in[] = {x->in[0], x->in[1], ex_in(x, 2)};
    x->out[0] = ex_op_like(x, NULL, op, in, 3);
    return true;
}

static bool expand_quantize(Expand *x) { return expand_boundary(x, "QuantizeLinear"); }
static bool expand_dequantize(Expand *x) { return expand_boundary(x, "DequantizeLinear"); }

static bool infer_quantize(Infer *c)
{
    c->out[0].dtype = in_has(c, 2) ? in_type(c, 2)->dtype : DT_u8;
    return out_like(c, 0, 0);
}

/* ---- products ---- */
Val ex_dequantize(Expand *x, Val q, Val scale, Val zero)
{
    const Tensor *qt = ex_const(x, q), *st = ex_const(x, scale), *zt = ex_const(x, zero);
    int rank = ex_type(x, q)->rank;
    if (!qt || !st || (zero.id && !zt))
        return ex_op(x, NULL, "DequantizeLinear", (AttrSet[]){SET_INT("axis", rank - 1)}, 1, (Val[]){q, scale, zero},
                     3);
    Tensor *t = tensor_new(x->m->mem, DT_f32, qt->rank, qt->dim);
    int64_t columns = qt->rank ? qt->dim[qt->rank - 1] : 1, ns = tensor_count(st), nz = zt ? tensor_count(zt) : 0;
    float *to = (float *)(uintptr_t)t->data;
    for (int64_t i = 0, n = tensor_count(qt); i < n; i++) {
        int64_t c = i % columns, z = nz ? dtype_load_int(zt->type, zt->data, nz > 1 ? c : 0) : 0;
        to[i] =
            (float)(dtype_load_int(qt->type, qt->data, i) - z) * (float)dtype_load(st->type, st->data, ns > 1 ? c : 0);
    }
    return ex_tensor(x, t);
}

static Val scale_sums(Expand *x, Val acc, Val a, Val b)
{
    return EX(x, "Mul", ex_cast(x, acc, DT_f32), EX(x, "Mul", a, b));
}

Val ex_dynamic_matmul(Expand *x, Val a, Val b, Val b_scale, Val b_zero)
{
    Val q[3], acc;
    graph_emit(x->g, op_find(NULL, "DynamicQuantizeLinear"), NULL, &a, 1, 3, x->loc, q);
    IntegerOp op = {.x = q[0], .x_zero = q[2], .w = b, .w_zero = b_zero};
    if (!ex_matmul_integer(x, &op, &acc)) return a;
    return scale_sums(x, acc, q[1], b_scale);
}

static bool expand_dynamic_matmul(Expand *x)
{
    Val y = ex_dynamic_matmul(x, x->in[0], x->in[1], x->in[2], ex_in(x, 3));
    x->out[0] = ex_has(x, 4) ? EX(x, "Add", y, x->in[4]) : y;
    return true;
}

/* A, B, a_scale, b_scale, a_zero, b_zero, bias */
static bool expand_integer_to_float(Expand *x)
{
    IntegerOp op = {.x = x->in[0], .w = x->in[1], .x_zero = ex_in(x, 4), .w_zero = ex_in(x, 5)};
    Val acc;
    if (!ex_matmul_integer(x, &op, &acc)) return false;
    Val y = scale_sums(x, acc, ex_cast(x, x->in[2], DT_f32), ex_cast(x, x->in[3], DT_f32));
    y = ex_cast(x, y, ex_type(x, x->in[2])->dtype);
    x->out[0] = ex_has(x, 6) ? EX(x, "Add", y, x->in[6]) : y;
    return true;
}

static bool infer_matmul(Infer *c) { return infer_product(c, 0, 1); }

/* A, a_scale, a_zero, B, b_scale, b_zero, C, y_scale, y_zero */
static bool infer_qgemm(Infer *c)
{
    const Type *a = in_type(c, 0), *b = in_type(c, 3);
    c->out[0].dtype = in_has(c, 8) ? in_type(c, 8)->dtype : in_has(c, 7) ? a->dtype : DT_f32;
    if (a->rank < 0 || b->rank < 0) return out_unknown(c, 0);
    if (a->rank != 2 || b->rank != 2)
        return infer_error(c, "A and B have rank %d and %d, expected 2", a->rank, b->rank);
    bool ta = node_int(c->n, "transA"), tb = node_int(c->n, "transB");
    return require_eq(c, a->dim[!ta], b->dim[tb], "inner dimensions") &&
           out_shape(c, 0, 2, (Dim[]){a->dim[ta], b->dim[!tb]});
}

static bool expand_qgemm(Expand *x)
{
    const Val *in = x->in;
    IntegerOp op = {.x = in[0], .w = in[3], .x_zero = ex_in(x, 2), .w_zero = ex_in(x, 5), .bias = ex_in(x, 6)};
    if (node_int(x->n, "transA")) op.x = ex_swap(x, op.x);
    if (node_int(x->n, "transB")) op.w = ex_swap(x, op.w);
    Val acc, scale = EX(x, "Mul", in[1], in[4]);
    if (!ex_matmul_integer(x, &op, &acc)) return false;
    double alpha = node_float(x->n, "alpha");
    if (alpha != 1) scale = EX(x, "Mul", scale, ex_scalar(x, DT_f32, alpha));
    if (ex_has(x, 7)) {
        DType to = ex_has(x, 8) ? ex_type(x, in[8])->dtype : ex_type(x, in[0])->dtype;
        x->out[0] = ex_requant(x, acc, EX(x, "Div", scale, in[7]), ex_in(x, 8), to);
    } else {
        x->out[0] = EX(x, "Mul", ex_cast(x, acc, DT_f32), scale);
    }
    return true;
}

static bool infer_fused_matmul(Infer *c)
{
    const Type *a = in_type(c, 0), *b = in_type(c, 1);
    if (a->rank < 0 || b->rank < 0) return out_unknown(c, 0);
    bool ta = node_int(c->n, "transA") && a->rank > 1, tb = node_int(c->n, "transB") && b->rank > 1;
    if (node_int(c->n, "transBatchA") || node_int(c->n, "transBatchB"))
        return infer_error(c, "FusedMatMul with transBatchA or transBatchB is not supported");
    if (a->rank < 2 || b->rank < 2)
        return infer_error(c, "A and B have rank %d and %d, expected at least 2", a->rank, b->rank);
    int rank = a->rank > b->rank ? a->rank : b->rank;
    Dim out[MAX_RANK];
    for (int i = 0; i < rank - 2; i++) {
        int ia = i - (rank - a->rank), ib = i - (rank - b->rank);
        out[i] = dim_broadcast(c->d, ia < 0 ? DIM(c, 1) : a->dim[ia], ib < 0 ? DIM(c, 1) : b->dim[ib], c->loc);
        if (!dim_known(out[i])) return infer_error(c, "batch dimensions do not broadcast");
    }
    out[rank - 2] = a->dim[a->rank - (ta ? 1 : 2)], out[rank - 1] = b->dim[b->rank - (tb ? 2 : 1)];
    return require_eq(c, a->dim[a->rank - (ta ? 2 : 1)], b->dim[b->rank - (tb ? 1 : 2)], "inner dimensions") &&
           out_shape(c, 0, rank, out);
}

static bool expand_fused_matmul(Expand *x)
{
    Val a = x->in[0], b = x->in[1];
    double alpha = node_float(x->n, "alpha");
    if (node_int(x->n, "transA")) a = ex_swap(x, a);
    if (node_int(x->n, "transB")) b = ex_swap(x, b);
    Val y = EX(x, "MatMul", a, b);
    x->out[0] = alpha == 1 ? y : EX(x, "Mul", y, ex_scalar(x, ex_type(x, y)->dtype, alpha));
    return true;
}

/* ---- MatMulNBits ---- */
typedef struct NBits {
    int64_t k, n, bits, block, blocks;
    const Tensor *codes, *scales, *zeros, *group;
    DType code;
} NBits;

static bool infer_nbits(Infer *c)
{
    const Type *a = in_type(c, 0);
    if (a->rank < 1) return a->rank < 0 ? out_unknown(c, 0) : infer_error(c, "A is a scalar");
    Dim out[MAX_RANK];
    memcpy(out, a->dim, sizeof out);
    out[a->rank - 1] = DIM(c, node_int(c->n, "N"));
    return require_eq(c, a->dim[a->rank - 1], DIM(c, node_int(c->n, "K")), "K and the last dimension of A") &&
           out_shape(c, 0, a->rank, out);
}

static int64_t code_at(const Tensor *t, int64_t row_bytes, int64_t bits, int64_t row, int64_t i)
{
    int64_t bit = i * bits, byte = ((const uint8_t *)t->data)[row * row_bytes + bit / 8];
    return (byte >> (bit % 8)) & ((1 << bits) - 1);
}

static bool read_nbits(Expand *x, NBits *q)
{
    q->k = node_int(x->n, "K"), q->n = node_int(x->n, "N"), q->bits = node_int(x->n, "bits"),
    q->block = node_int(x->n, "block_size");
    q->codes = ex_const(x, x->in[1]), q->scales = ex_const(x, x->in[2]);
    q->zeros = ex_const(x, ex_in(x, 3)), q->group = ex_const(x, ex_in(x, 4));
    if (q->bits != 2 && q->bits != 4 && q->bits != 8)
        return expand_error(x, "bits is %lld, expected 2, 4 or 8", (long long)q->bits);
    if (q->block < 16 || q->k < 1 || q->n < 1)
        return expand_error(x, "K, N and block_size must be positive, block_size at least 16");
    if (!q->codes || !q->scales || (ex_has(x, 3) && !q->zeros) || (ex_has(x, 4) && !q->group))
        return expand_error(x, "the weights of MatMulNBits must be constant");
    q->blocks = (q->k + q->block - 1) / q->block;
    q->code = q->bits == 4 ? DT_u4 : q->bits == 2 ? DT_u2 : DT_u8;
    int64_t bytes = q->blocks * (q->block * q->bits / 8), packed = (q->blocks * q->bits + 7) / 8;
    bool whole_zeros = !q->zeros || tensor_count(q->zeros) == q->n * (q->zeros->type == DT_u8 ? packed : q->blocks);
    if (tensor_count(q->codes) != q->n * bytes || tensor_count(q->scales) != q->n * q->blocks || !whole_zeros ||
        (q->group && tensor_count(q->group) < q->k))
        return expand_error(x, "weights, scales or zero points do not fit K, N and block_size");
    return true;
}

static double zero_at(const NBits *q, int64_t col, int64_t block)
{
    if (!q->zeros) return (double)(1 << (q->bits - 1));
    if (q->zeros->type != DT_u8) return dtype_load(q->zeros->type, q->zeros->data, col * q->blocks + block);
    return (double)code_at(q->zeros, (q->blocks * q->bits + 7) / 8, q->bits, col, block);
}

static const Tensor *codes_of(Expand *x, const NBits *q) /* [K, N] */
{
    int64_t row = q->blocks * (q->block * q->bits / 8);
    Tensor *codes = tensor_new(x->m->mem, q->code, 2, (int64_t[]){q->k, q->n});
    uint8_t *to = (uint8_t *)(uintptr_t)codes->data;
    for (int64_t n = 0; n < q->n; n++)
        for (int64_t k = 0; k < q->k; k++) to[k * q->n + n] = (uint8_t)code_at(q->codes, row, q->bits, n, k);
    return codes;
}

/* Codes, and scales and zero points [blocks, N], behind a DequantizeLinear. */
static Val nbits_codes(Expand *x, const NBits *q)
{
    int64_t small[2] = {q->blocks, q->n};
    Tensor *zeros = tensor_new(x->m->mem, q->code, 2, small),
           *scales = tensor_new(x->m->mem, q->scales->type, 2, small);
    for (int64_t n = 0; n < q->n; n++) {
        for (int64_t b = 0; b < q->blocks; b++) {
            dtype_store_int(q->code, (void *)(uintptr_t)zeros->data, b * q->n + n, (int64_t)zero_at(q, n, b));
            double s = dtype_load(q->scales->type, q->scales->data, n * q->blocks + b);
            dtype_store(q->scales->type, (void *)(uintptr_t)scales->data, b * q->n + n, s);
        }
    }
    AttrSet set[] = {SET_INT("axis", 0), SET_INT("block_size", q->block)};
    return ex_op(x, NULL, "DequantizeLinear", set, 2,
                 (Val[]){ex_tensor(x, codes_of(x, q)), ex_tensor(x, scales), ex_tensor(x, zeros)}, 3);
}

/* Groups in any order, or zero points that are no codes: the weights as numbers. */
static Val nbits_numbers(Expand *x, const NBits *q)
{
    int64_t shape[2] = {q->k, q->n}, row = q->blocks * (q->block * q->bits / 8);
    Tensor *t = tensor_new(x->m->mem, q->scales->type, 2, shape);
    for (int64_t n = 0; n < q->n; n++)
        for (int64_t k = 0; k < q->k; k++) {
            int64_t b = q->group ? dtype_load_int(q->group->type, q->group->data, k) : k / q->block;
            if (b < 0 || b >= q->blocks) b = 0;
            double s = dtype_load(q->scales->type, q->scales->data, n * q->blocks + b);
            double w = ((double)code_at(q->codes, row, q->bits, n, k) - zero_at(q, n, b)) * s;
            dtype_store(t->type, (void *)(uintptr_t)t->data, k * q->n + n, w);
        }
    return ex_tensor(x, t);
}

static bool groups_in_order(const NBits *q)
{
    for (int64_t k = 0; q->group && k < q->k; k++)
        if (dtype_load_int(q->group->type, q->group->data, k) != k / q->block) return false;
    return true;
}

static bool has_codes(const NBits *q) { return groups_in_order(q) && (!q->zeros || q->zeros->type == DT_u8); }

/* accuracy_level 4: values may be rounded to 8 bits, a block of the weights at a time, and codes multiplied. id 0: not these. */
static Val nbits_integer(Expand *x, const NBits *q)
{
    enum { INT8 = 4 };
    int steps;
    int64_t small[2] = {q->blocks, q->n};
    const Type *own = ex_type(x, x->in[0]);
    DType type = own->dtype;
    bool known = own->rank < MAX_RANK && dim_is(x->m->dim, dim_canon(x->m->dim, own->dim[own->rank - 1]), q->k);
    if (x->exact_values || node_int(x->n, "accuracy_level") != INT8 || !known || !block_fits(q->block, (int)q->bits) ||
        !groups_in_order(q))
        return (Val){0};
    double *zero = NEW_ARRAY(x->m->mem, double, q->blocks * q->n);
    Tensor *scale = tensor_new(x->m->mem, DT_f32, 2, small);
    for (int64_t i = 0; i < q->blocks * q->n; i++) {
        zero[i] = zero_at(q, i % q->n, i / q->n);
        dtype_store(DT_f32, (void *)(uintptr_t)scale->data, i,
                    dtype_load(q->scales->type, q->scales->data, i % q->n * q->blocks + i / q->n));
    }
    const Tensor *zeros = block_zeros(x->m->mem, zero, q->blocks, q->n, &steps);
    if (!zeros) return (Val){0};
    AttrSet set[] = {SET_INT("bits", q->bits), SET_INT("steps", steps)};
    Val words = ex_tensor(x, block_words(x->m->mem, codes_of(x, q), q->block)), a = ex_cast(x, x->in[0], DT_f32);
    Val in[] = {a, words, ex_tensor(x, block_once(x->m->mem, scale)), ex_tensor(x, zeros)};
    return ex_cast(x, ex_op(x, "octet", "RoundedProduct", set, 2, in, 4), type);
}

static Val nbits_float(Expand *x, const NBits *q)
{
    Val w = has_codes(q) ? nbits_codes(x, q) : nbits_numbers(x, q);
    return EX(x, "MatMul", x->in[0], ex_cast(x, w, ex_type(x, x->in[0])->dtype));
}

static bool expand_nbits(Expand *x)
{
    NBits q;
    if (!read_nbits(x, &q)) return false;
    Val y = nbits_integer(x, &q);
    if (!y.id) y = nbits_float(x, &q);
    x->out[0] = ex_has(x, 5) ? EX(x, "Add", y, x->in[5]) : y;
    return true;
}

/* ---- GatherBlockQuantized: a table of codes, looked up, with a scale for each block ---- */
static int table_axis(int64_t axis, int rank) { return (int)(axis < 0 ? axis + rank : axis); }

/* Bytes hold several codes along the last dimension. */
static int64_t codes_a_byte(const Node *n, DType t) { return t == DT_u8 ? 8 / node_int(n, "bits") : 1; }

static bool infer_gather_blocks(Infer *c)
{
    const Type *t = in_type(c, 0), *at = in_type(c, 1);
    int64_t bits = node_int(c->n, "bits"), axis;
    if (bits != 2 && bits != 4 && bits != 8) return infer_error(c, "bits is %lld, expected 2, 4 or 8", (long long)bits);
    if (t->rank < 0 || at->rank < 0) return out_unknown(c, 0);
    axis = table_axis(node_int(c->n, "gather_axis"), t->rank);
    if (axis < 0 || axis >= t->rank || t->rank - 1 + at->rank > MAX_RANK)
        return infer_error(c, "gather_axis is outside of rank %d", t->rank);
    Dim out[MAX_RANK];
    int n = 0;
    for (int d = 0; d < t->rank; d++) {
        for (int i = 0; d == axis && i < at->rank; i++) out[n++] = at->dim[i];
        if (d != axis) out[n++] = d == t->rank - 1 ? dim_mul(c->d, t->dim[d], DIM(c, codes_a_byte(c->n, t->dtype))) : t->dim[d];
    }
    return out_shape(c, 0, n, out);
}

/* Codes in bytes, low bits first, as codes of their own type; rows: along the last dimension, so many of them. */
static Val unpacked(Expand *x, const Tensor *t, int64_t bits, int64_t columns)
{
    int64_t dim[MAX_RANK], bytes = t->dim[t->rank - 1], rows = bytes ? tensor_count(t) / bytes : 0;
    memcpy(dim, t->dim, sizeof dim);
    dim[t->rank - 1] = columns;
    Tensor *to = tensor_new(x->m->mem, bits == 8 ? DT_u8 : bits == 4 ? DT_u4 : DT_u2, t->rank, dim);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < columns; i++)
            dtype_store_int(to->type, (void *)(uintptr_t)to->data, r * columns + i, code_at(t, bytes, bits, r, i));
    return ex_tensor(x, to);
}

/* Without zero points bytes mean codes around the middle; codes of their own type mean themselves. */
static Val middle(Expand *x, const Tensor *scales, DType code, int64_t bits)
{
    Tensor *z = tensor_new(x->m->mem, code, scales->rank, scales->dim);
    for (int64_t i = 0; i < tensor_count(z); i++) dtype_store_int(code, (void *)(uintptr_t)z->data, i, 1 << (bits - 1));
    return ex_tensor(x, z);
}

static bool expand_gather_blocks(Expand *x)
{
    const Tensor *t = ex_const(x, x->in[0]), *s = ex_const(x, x->in[2]), *z = ex_const(x, ex_in(x, 3));
    int64_t bits = node_int(x->n, "bits"), block = node_int(x->n, "block_size");
    if (!t || !s || (ex_has(x, 3) && !z)) return expand_error(x, "the table of GatherBlockQuantized, its scales and zero points must be constant");
    int along = t->rank ? table_axis(node_int(x->n, "quantize_axis"), t->rank) : -1;
    bool packed = t->type == DT_u8;
    if (along < 0 || along >= t->rank || block < 1 || t->dim[along] < 1) return expand_error(x, "quantize_axis or block_size does not fit the table");
    if (packed && along != t->rank - 1) return expand_error(x, "a table in bytes has its blocks along the last axis");
    int64_t columns = t->dim[along] * codes_a_byte(x->n, t->type), blocks = (columns + block - 1) / block;
    if (s->rank != t->rank || s->dim[along] != blocks) return expand_error(x, "scales do not fit the table and block_size");
    Val codes = packed ? unpacked(x, t, bits, columns) : x->in[0], zero = ex_in(x, 3);
    if (packed && z && (z->rank != s->rank || z->dim[along] != (blocks * bits + 7) / 8 || tensor_count(z) / z->dim[along] != tensor_count(s) / blocks))
        return expand_error(x, "zero points do not fit the table and block_size");
    if (packed) zero = z ? unpacked(x, z, bits, blocks) : middle(x, s, ex_type(x, codes)->dtype, bits);
    AttrSet set[] = {SET_INT("axis", along), SET_INT("block_size", block)};
    Val w = ex_op(x, NULL, "DequantizeLinear", set, 2, (Val[]){codes, x->in[2], zero}, 3);
    x->out[0] = ex_op(x, NULL, "Gather", (AttrSet[]){SET_INT("axis", node_int(x->n, "gather_axis"))}, 1, (Val[]){w, x->in[1]}, 2);
    return true;
}

/* ---- fused activations ---- */
typedef struct Fused {
    const char *name;
    int params;
    const char *first, *second;
} Fused; /* attributes that take the parameters */
static const Fused fused[] = {
    {"Relu", 0, NULL, NULL},         {"Sigmoid", 0, NULL, NULL},          {"Tanh", 0, NULL, NULL},
    {"LeakyRelu", 1, "alpha", NULL}, {"HardSigmoid", 2, "alpha", "beta"}, {"Elu", 1, "alpha", NULL},
    {"Softplus", 0, NULL, NULL},     {"HardSwish", 0, NULL, NULL},
};

static bool activate(Expand *x, Val *v, const char *name, const float *p, uint32_t n)
{
    if (!name || !*name) return true;
    DType t = ex_type(x, *v)->dtype;
    if (!strcmp(name, "Clip") && n >= 2) {
        *v = EX(x, "Clip", *v, ex_scalar(x, t, p[0]), ex_scalar(x, t, p[1]));
        return true;
    }
    for (size_t i = 0; i < COUNT_OF(fused); i++) {
        if (strcmp(fused[i].name, name)) continue;
        AttrSet set[2] = {SET_FLOAT(fused[i].first, n > 0 ? p[0] : 0), SET_FLOAT(fused[i].second, n > 1 ? p[1] : 0)};
        int given = (int)n < fused[i].params ? (int)n : fused[i].params;
        *v = ex_op(x, NULL, name, set, given, v, 1);
        return true;
    }
    return expand_error(x, "activation '%s' is not supported", name);
}

static bool infer_fused_conv(Infer *c)
{
    const Type *x = in_type(c, 0), *wt = in_type(c, 1);
    if (x->rank < 0 || wt->rank < 0) return out_unknown(c, 0);
    if (wt->rank != x->rank) return infer_error(c, "W has rank %d, expected %d, the rank of X", wt->rank, x->rank);
    Window w;
    const char *why = NULL;
    if (!window_read(&w, c->d, c->n, x, wt->dim + 2, &why)) return infer_error(c, "%s", why);
    Dim out[MAX_RANK] = {x->dim[0], wt->dim[0]};
    for (int i = 0; i < w.n; i++) out[i + 2] = w.out[i];
    return out_shape(c, 0, x->rank, out);
}

static bool expand_fused_conv(Expand *x)
{
    Val v = ex_op_like(x, NULL, "Conv", (Val[]){x->in[0], x->in[1], ex_in(x, 2)}, 3);
    if (ex_has(x, 3)) v = EX(x, "Add", v, x->in[3]);
    const Attr *p = node_attr(x->n, "activation_params");
    bool given = p->kind == ATTR_FLOATS;
    if (!activate(x, &v, node_str(x->n, "activation"), given ? p->floats : NULL, given ? p->n : 0)) return false;
    x->out[0] = v;
    return true;
}

static bool infer_fused_gemm(Infer *c)
{
    const Type *a = in_type(c, 0), *b = in_type(c, 1);
    if (a->rank < 0 || b->rank < 0) return out_unknown(c, 0);
    if (a->rank != 2 || b->rank != 2)
        return infer_error(c, "A and B have rank %d and %d, expected 2", a->rank, b->rank);
    bool ta = node_int(c->n, "transA"), tb = node_int(c->n, "transB");
    return require_eq(c, a->dim[!ta], b->dim[tb], "inner dimensions") &&
           out_shape(c, 0, 2, (Dim[]){a->dim[ta], b->dim[!tb]});
}

static bool expand_fused_gemm(Expand *x)
{
    Val v = ex_op_like(x, NULL, "Gemm", (Val[]){x->in[0], x->in[1], ex_in(x, 2)}, 3);
    float p[] = {(float)node_float(x->n, "activation_alpha"), (float)node_float(x->n, "activation_beta")};
    if (!activate(x, &v, node_str(x->n, "activation"), p, 2)) return false;
    x->out[0] = v;
    return true;
}

/* ---- normalizations ---- */
static bool infer_skip(Infer *c)
{
    const Type *x = in_type(c, 0);
    for (uint32_t o = 1; o < c->n->nout && o < 3; o++) c->out[o].dtype = DT_f32;
    if (x->rank < 1) return x->rank < 0 ? out_unknown(c, 0) : infer_error(c, "input is a scalar");
    for (uint32_t o = 1; o < c->n->nout && o < 3; o++) {
        Dim out[MAX_RANK];
        memcpy(out, x->dim, sizeof out);
        out[x->rank - 1] = DIM(c, 1);
        out_shape(c, o, x->rank, out);
    }
    if (c->n->nout > 3) out_like(c, 3, 0);
    return out_like(c, 0, 0);
}

/* 1 / sqrt(mean(v * v) + epsilon), for nodes that give it out. */
static Val inverse_rms(Expand *x, Val v, int64_t axis, double epsilon)
{
    v = ex_cast(x, v, DT_f32);
    int64_t axes[MAX_RANK], n = 0;
    for (int64_t i = axis; i < ex_type(x, v)->rank; i++) axes[n++] = i;
    Val mean = ex_reduce(x, "ReduceMean", EX(x, "Mul", v, v), axes, (int)n, true);
    return EX(x, "Reciprocal", EX(x, "Sqrt", EX(x, "Add", mean, ex_scalar(x, DT_f32, epsilon))));
}

/* input, skip, gamma, beta?, bias? -> output, mean, inverse deviation, input + skip + bias */
static bool expand_skip(Expand *x, bool simple)
{
    Val sum = EX(x, "Add", x->in[0], x->in[1]), bias = ex_in(x, simple ? 3 : 4);
    if (bias.id) sum = EX(x, "Add", sum, bias);
    double epsilon = node_float(x->n, "epsilon");
    AttrSet set[] = {SET_INT("axis", -1), SET_FLOAT("epsilon", epsilon)};
    Val in[] = {sum, x->in[2], simple ? (Val){0} : ex_in(x, 3)};
    int rank = ex_type(x, sum)->rank;
    if (x->n->nout > 3) x->out[3] = sum;
    x->out[0] = ex_op(x, NULL, simple ? "RMSNormalization" : "LayerNormalization", set, 2, in, 3);
    if (x->n->nout < 2) return true;
    if (rank < 1) return expand_error(x, "input has no known rank");
    Val wide = ex_cast(x, sum, DT_f32), mean = ex_reduce(x, "ReduceMean", wide, (int64_t[]){rank - 1}, 1, true);
    x->out[1] = mean;
    if (x->n->nout > 2) x->out[2] = inverse_rms(x, simple ? wide : EX(x, "Sub", wide, mean), rank - 1, epsilon);
    return true;
}

static bool expand_skip_layer(Expand *x) { return expand_skip(x, false); }
static bool expand_skip_simple(Expand *x) { return expand_skip(x, true); }

static bool infer_simple_layer(Infer *c)
{
    const Type *x = in_type(c, 0);
    int axis;
    for (uint32_t o = 1; o < c->n->nout; o++) c->out[o].dtype = DT_f32;
    if (x->rank < 0) return out_unknown(c, 0);
    if (!in_axis(c, node_int(c->n, "axis"), x->rank, &axis)) return false;
    for (uint32_t o = 1; o < c->n->nout; o++) {
        Dim out[MAX_RANK];
        for (int i = 0; i < x->rank; i++) out[i] = i < axis ? x->dim[i] : DIM(c, 1);
        out_shape(c, o, x->rank, out);
    }
    return out_like(c, 0, 0);
}

static bool expand_simple_layer(Expand *x)
{
    x->out[0] = ex_op_like(x, NULL, "RMSNormalization", x->in, 2);
    int rank = ex_type(x, x->in[0])->rank;
    int64_t axis = node_int(x->n, "axis");
    if (x->n->nout < 2) return true;
    if (rank < 1) return expand_error(x, "X has no known rank");
    x->out[1] = inverse_rms(x, x->in[0], axis < 0 ? axis + rank : axis, node_float(x->n, "epsilon"));
    return true;
}

/* input_ids, segment_ids?, word, position, segment?, gamma, beta, mask?, position_ids? -> output, mask_index, sum */
static bool infer_embedded(Infer *c, DType t)
{
    const Type *ids = in_type(c, 0), *word = in_type(c, 2);
    for (uint32_t o = 0; o < c->n->nout; o++) out_unknown(c, o), c->out[o].dtype = o == 1 ? DT_i32 : t;
    if (ids->rank < 0 || word->rank < 0) return true;
    if (ids->rank != 2 || word->rank != 2)
        return infer_error(c, "input_ids and the table of words have rank %d and %d, expected 2", ids->rank, word->rank);
    Dim out[] = {ids->dim[0], ids->dim[1], word->dim[1]};
    if (c->n->nout > 1) out_shape(c, 1, 1, ids->dim);
    if (c->n->nout > 2) out_shape(c, 2, 3, out);
    return out_shape(c, 0, 3, out);
}

static bool infer_embed(Infer *c) { return infer_embedded(c, in_type(c, 2)->dtype); }
static bool infer_qembed(Infer *c) { return infer_embedded(c, DT_f32); }

static bool embed(Expand *x, const Val in[9])
{
    Val sum = EX(x, "Gather", in[2], in[0]), place;
    if (in[8].id) place = EX(x, "Gather", in[3], in[8]);
    else {
        Val zero = ex_ints(x, (int64_t[]){0}, 1);
        place = EX(x, "Slice", in[3], zero, ex_size(x, in[0], 1), zero);
    }
    sum = EX(x, "Add", sum, place);
    if (in[1].id && in[4].id) sum = EX(x, "Add", sum, EX(x, "Gather", in[4], in[1]));
    AttrSet set[] = {SET_INT("axis", -1), SET_FLOAT("epsilon", node_float(x->n, "epsilon"))};
    x->out[0] = ex_op(x, NULL, "LayerNormalization", set, 2, (Val[]){sum, in[5], in[6]}, 3);
    if (x->n->nout > 2) x->out[2] = sum;
    if (x->n->nout < 2) return true;
    if (in[7].id) x->out[1] = ex_reduce(x, "ReduceSum", in[7], (int64_t[]){1}, 1, false);
    else {
        x->out[1] = EX(x, "Expand", ex_scalar(x, DT_i32, 0), ex_size(x, in[0], 0));
    }
    return true;
}

static bool expand_embed(Expand *x)
{
    Val in[9];
    for (uint32_t i = 0; i < COUNT_OF(in); i++) in[i] = ex_in(x, i);
    return embed(x, in);
}

/* The same inputs up to the mask as codes, then their scales and their zero points in the same order. */
static bool expand_qembed(Expand *x)
{
    const Val *in = x->in;
    Val all[9] = {in[0], in[1], [7] = in[7]};
    for (uint32_t i = 2; i < 7; i++)
        if (in[i].id) all[i] = dequantize(x, in[i], in[i + 6], in[i + 11]);
    return embed(x, all);
}

#define MS      .domain = "com.microsoft", .since = 1
#define Q8      "u8 i8"
#define BINARY  "A:T A_scale:f32 A_zero_point:T? B:T B_scale:f32 B_zero_point:T? C_scale:f32 C_zero_point:T? -> C:T"
#define UNARY   "X:T X_scale:f32 X_zero_point:T? Y_scale:f32 Y_zero_point:T? -> Y:T"
#define PART(i) " x" i ":V? s" i ":f32? z" i ":V?"
const OpDef ops_microsoft[] = {
    OP(QLinearAdd, MS, .sig = BINARY, .T = Q8, .infer = infer_qlinear_binary, .expand = expand_qlinear_add),
    OP(QLinearMul, MS, .sig = BINARY, .T = Q8, .infer = infer_qlinear_binary, .expand = expand_qlinear_mul),
    OP(QLinearWhere, MS, .T = Q8, .infer = infer_qlinear_where, .expand = expand_qlinear_where,
       .sig = "condition:bool X:T x_scale:f32 x_zero_point:T Y:T y_scale:f32 y_zero_point:T z_scale:f32 z_zero_point:T "
              "-> Z:T"),
    OP(QLinearSigmoid, MS, .sig = UNARY, .T = Q8, .infer = infer_qlinear_unary, .expand = expand_qlinear_sigmoid),
    OP(QLinearLeakyRelu, MS, .sig = UNARY, .T = Q8, .attrs = "alpha:float=0.01", .infer = infer_qlinear_unary,
       .expand = expand_qlinear_leaky_relu),
    OP(QLinearSoftmax, MS, .sig = UNARY, .T = Q8, .attrs = "axis:int=-1 opset:int=13", .infer = infer_qlinear_unary,
       .expand = expand_qlinear_softmax),
    OP(QLinearAveragePool, MS, .sig = UNARY, .T = Q8,
       .attrs = "auto_pad:string=NOTSET ceil_mode:int=0 channels_last:int=0 count_include_pad:int=0 dilations:ints "
                "kernel_shape:ints! "
                "pads:ints strides:ints",
       .infer = infer_qlinear_average, .expand = expand_qlinear_average),
    OP(QLinearGlobalAveragePool, MS, .sig = UNARY, .T = Q8, .attrs = "channels_last:int=0",
       .infer = infer_qlinear_global, .expand = expand_qlinear_global),
    OP(QLinearConv, MS, .sig = QLINEAR_CONV, .T = Q8, .U = Q8, .V = Q8,
       .attrs = WINDOW_ATTRS "channels_last:int=0 group:int=1", .infer = infer_conv_codes, .expand = expand_conv_codes),
    OP(NhwcMaxPool, MS, .sig = "x:T -> y:T", .T = Q8, .attrs = WINDOW_ATTRS "ceil_mode:int=0",
       .infer = infer_nhwc_max_pool, .expand = expand_nhwc_max_pool),
    OP(QLinearConcat, MS,
       .sig = "Y_scale:f32 Y_zero_point:V x0:V s0:f32 z0:V" PART("1") PART("2") PART("3") PART("4") PART("5")
           PART("6") " -> Y:V",
       .V = Q8, .attrs = "axis:int!", .infer = infer_qlinear_concat, .expand = expand_qlinear_concat),
    OP(QuantizeLinear, MS, .sig = "x:X y_scale:X y_zero_point:T? -> y:Y", .T = "u8 i8 u16 i16 u4 i4",
       .attrs = "axis:int=1", .infer = infer_quantize, .expand = expand_quantize, .quant = QUANT_EDGE,
       .flags = OP_UNRANKED),
    OP(DequantizeLinear, MS, .sig = "x:T x_scale:S x_zero_point:T? -> y:S", .T = "u8 i8 u16 i16 i32 u4 i4",
       .attrs = "axis:int=1", .infer = infer_qlinear_unary, .expand = expand_dequantize, .quant = QUANT_EDGE),
    OP(QGemm, MS,
       .sig =
           "A:T a_scale:f32 a_zero_point:T B:U b_scale:f32 b_zero_point:U C:i32? y_scale:f32? y_zero_point:V? -> Y:Y",
       .T = Q8, .U = Q8, .V = Q8, .attrs = "alpha:float=1 transA:int=0 transB:int=0", .infer = infer_qgemm,
       .expand = expand_qgemm, .flags = OP_UNRANKED),
    OP(DynamicQuantizeMatMul, MS, .sig = "A:f32 B:T b_scale:f32 b_zero_point:T? bias:f32? -> Y:f32", .T = Q8,
       .infer = infer_matmul, .expand = expand_dynamic_matmul),
    OP(MatMulIntegerToFloat, MS, .sig = "A:T B:U a_scale:V b_scale:V a_zero_point:T? b_zero_point:U? bias:V? -> Y:V",
       .T = Q8, .U = Q8, .V = "f32 f16", .infer = infer_matmul, .expand = expand_integer_to_float),
    OP(FusedMatMul, MS, .sig = "A:T B:T -> Y:T", .T = "float",
       .attrs = "alpha:float=1 transA:int=0 transB:int=0 transBatchA:int=0 transBatchB:int=0",
       .infer = infer_fused_matmul, .expand = expand_fused_matmul),
    OP(MatMulNBits, MS, .sig = "A:T B:u8 scales:T zero_points:Z? g_idx:i32? bias:T? -> Y:T", .T = "f32 f16 bf16",
       .attrs = "K:int! N:int! accuracy_level:int=0 bits:int=4 block_size:int! weight_prepacked:int=0",
       .infer = infer_nbits, .expand = expand_nbits),
    OP(GatherBlockQuantized, MS, .sig = "data:U indices:Z scales:T zero_points:U? -> Y:T", .T = "f32 f16 bf16",
       .U = "u8 u4 i4", .attrs = "bits:int=4 block_size:int=128 gather_axis:int=0 quantize_axis:int=1",
       .infer = infer_gather_blocks, .expand = expand_gather_blocks),
    OP(FusedConv, MS, .sig = "X:T W:T B:T? Z:T? -> Y:T", .T = "float",
       .attrs = WINDOW_ATTRS "activation:string activation_params:floats group:int=1", .infer = infer_fused_conv,
       .expand = expand_fused_conv),
    OP(FusedGemm, MS, .sig = "A:T B:T C:T? -> Y:T", .T = "float",
       .attrs = "activation:string activation_alpha:float=0 activation_beta:float=0 alpha:float=1 beta:float=1 "
                "transA:int=0 transB:int=0",
       .infer = infer_fused_gemm, .expand = expand_fused_gemm),
    OP(Gelu, MS, .sig = "X:T -> Y:T", .T = "float", .body = "0.5 * X * (1 + erf(X * 0.7071067811865476))"),
    OP(BiasGelu, MS, .sig = "A:T B:T -> C:T", .T = "float",
       .body = "x = A + B; 0.5 * x * (1 + erf(x * 0.7071067811865476))"),
    OP(FastGelu, MS, .sig = "X:T bias:T?=0 -> Y:T", .T = "float",
       .body = "x = X + bias; 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))"),
    OP(QuickGelu, MS, .sig = "X:T -> Y:T", .T = "float", .attrs = "alpha:float=1.702",
       .body = "X * sigmoid(alpha * X)"),
    OP(SkipLayerNormalization, MS,
       .sig = "input:T skip:T gamma:T beta:T? bias:T? -> output:T mean:U? inv_std_var:U? input_skip_bias_sum:T?",
       .T = "float", .attrs = "epsilon:float=1e-12", .infer = infer_skip, .expand = expand_skip_layer,
       .flags = OP_UNRANKED),
    OP(SkipSimplifiedLayerNormalization, MS,
       .sig = "input:T skip:T gamma:T bias:T? -> output:T mean:U? inv_std_var:U? input_skip_bias_sum:T?", .T = "float",
       .attrs = "epsilon:float=1e-12", .infer = infer_skip, .expand = expand_skip_simple, .flags = OP_UNRANKED),
    OP(SimplifiedLayerNormalization, .since = 1, .sig = "X:T scale:V -> Y:V inv_std_var:U?", .T = "float", .V = "float",
       .attrs = "axis:int=-1 epsilon:float=1e-5 stash_type:int=1", .infer = infer_simple_layer,
       .expand = expand_simple_layer, .flags = OP_UNRANKED),
    OP(EmbedLayerNormalization, MS,
       .sig = "input_ids:i32 segment_ids:i32? word_embedding:T position_embedding:T segment_embedding:T? gamma:T "
              "beta:T mask:i32? "
              "position_ids:i32? -> output:T mask_index:i32? embedding_sum:T?",
       .T = "float", .attrs = "epsilon:float=1e-12 mask_index_type:int=0", .infer = infer_embed, .expand = expand_embed,
       .flags = OP_UNRANKED),
    OP(QEmbedLayerNormalization, MS,
       .sig = "input_ids:i32 segment_ids:i32? word_embedding_quant:U position_embedding_quant:U segment_embedding:U? "
              "gamma_quant:U beta_quant:U mask:i32? word_embedding_scale:f32 position_embedding_scale:f32 "
              "segment_embedding_scale:f32? gamma_scale:f32 beta_scale:f32 word_embedding_zero_point:U "
              "position_embedding_zero_point:U segment_embedding_zero_point:U? gamma_zero_point:U beta_zero_point:U -> "
              "layernorm_out:f32 mask_index_out:i32",
       .U = Q8, .attrs = "epsilon:float=1e-12", .infer = infer_qembed, .expand = expand_qembed, .flags = OP_UNRANKED),
    {0},
};
