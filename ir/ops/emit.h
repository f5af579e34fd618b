/* emit.h - what expansions (a row's `expand`) share: emitting the few operators that most of them are made of.
 * Constant operands fold on the way (graph_emit), so what is computed from weights costs nothing at run time. */
#ifndef OCTET_OPS_EMIT_H
#define OCTET_OPS_EMIT_H
#include "ir/op.h"

typedef struct AttrSet {
    const char *name;
    AttrKind kind;
    int64_t i;
    float f;
    const char *s;
    const int64_t *ints;
    uint32_t n;
} AttrSet;
#define SET_INT(name_, v)                                                                                              \
    {                                                                                                                  \
        .name = name_, .kind = ATTR_INT, .i = (v)                                                                      \
    }
#define SET_FLOAT(name_, v)                                                                                            \
    {                                                                                                                  \
        .name = name_, .kind = ATTR_FLOAT, .f = (float)(v)                                                             \
    }
#define SET_STR(name_, v)                                                                                              \
    {                                                                                                                  \
        .name = name_, .kind = ATTR_STRING, .s = (v)                                                                   \
    }
#define SET_INTS(name_, v, n_)                                                                                         \
    {                                                                                                                  \
        .name = name_, .kind = ATTR_INTS, .ints = (v), .n = (n_)                                                       \
    }

/* An operator of any domain with attributes; absent inputs are (Val){0}. */
Val ex_op(Expand *x, const char *domain, const char *op, const AttrSet *set, int nset, const Val *in, int nin);
#define EX(x, op, ...)                                                                                                 \
    ex_op(x, NULL, op, NULL, 0, (const Val[]){__VA_ARGS__}, (int)(sizeof((const Val[]){__VA_ARGS__}) / sizeof(Val)))
#define EX_OCTET(x, op, ...)                                                                                           \
    ex_op(x, "octet", op, NULL, 0, (const Val[]){__VA_ARGS__}, (int)(sizeof((const Val[]){__VA_ARGS__}) / sizeof(Val)))
/* The same with the node's own attributes, name by name, where the new operator has them. */
Val ex_op_like(Expand *x, const char *domain, const char *op, const Val *in, int nin);

Val ex_in(const Expand *x, uint32_t i); /* id 0: absent */
bool ex_has(const Expand *x, uint32_t i);
const Type *ex_type(const Expand *x, Val v);
const Tensor *ex_const(const Expand *x, Val v); /* NULL: not constant */
bool ex_is(const Expand *x, Val v, double k);   /* constant and every element is k; an absent value is 0 */
Val ex_tensor(Expand *x, const Tensor *t);
Val ex_scalar(Expand *x, DType t, double v);
Val ex_ints(Expand *x, const int64_t *v, int64_t n);
Val ex_cast(Expand *x, Val v, DType to); /* itself when it has that type */
Val ex_size(Expand *x, Val v, int axis); /* one size of v: i64 [1] */
Val ex_reshape(Expand *x, Val v, const int64_t *dim, int n);
Val ex_transpose(Expand *x, Val v, const int64_t *perm, int n);
Val ex_reduce(Expand *x, const char *op, Val v, const int64_t *axes, int n, bool keep);
Val ex_sums(Expand *x, Val v, const int64_t *axes, int n, bool keep); /* of integer codes, as i32; constants are added up without being widened */
Val ex_unsqueeze(Expand *x, Val v, const int64_t *axes, int n);
Val ex_squeeze(Expand *x, Val v, const int64_t *axes, int n);
Val ex_slice(Expand *x, Val v, int axis, int64_t from, int64_t to);
Val ex_concat(Expand *x, const Val *v, int n, int axis);
/* Swaps the last two dims of weights: constants are moved here and now, a DequantizeLinear of constants is rebuilt over moved
 * ones (so that the integer passes still see it), anything else gets a Transpose. */
Val ex_swap(Expand *x, Val v);
/* A per-channel vector [C] as [1, C, 1...] for a tensor of rank `rank`; a scalar or one-element value stays broadcastable. */
Val ex_channels(Expand *x, Val v, int rank, int axis);
/* Integer operands as the integer kernels take them: activations u8, weights i8, zero points moved along. */
typedef struct Quantized {
    Val q, zero;
} Quantized; /* zero: i32, id 0 when it is known to be 0 */
Quantized ex_as_u8(Expand *x, Val q, Val zero);
Quantized ex_as_i8(Expand *x, Val q, Val zero);
/* The exact sums of an integer convolution or product, zero points and bias taken into account: i32. */
typedef struct IntegerOp {
    Val x, w, x_zero, w_zero, bias;
} IntegerOp;
bool ex_conv_integer(Expand *x, const IntegerOp *op, Val *acc); /* quant.c; attributes are the node's */
bool ex_matmul_integer(Expand *x, const IntegerOp *op, Val *acc);
/* A f32 [..., K] times 8-bit weights [K, N]: A is quantized by its range, the product is integer. */
Val ex_dynamic_matmul(Expand *x, Val a, Val b, Val b_scale, Val b_zero);
/* (q - zero) * scale as f32, per tensor or per column (the last dim): constants here and now. */
Val ex_dequantize(Expand *x, Val q, Val scale, Val zero);
bool infer_product(Infer *c, uint32_t ia, uint32_t ib);            /* matmul.c: the shape of a numpy matmul */
Val ex_requant(Expand *x, Val acc, Val scale, Val zero, DType to); /* sat(rint(acc * scale) + zero) */
#endif
