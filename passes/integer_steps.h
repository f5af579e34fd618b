/* integer_steps.h - what the steps of integer.c and weight_codes.c have in common: a step looks at a node of the old graph and yields the value
 * that stands for it in the new one, or id 0. */
#ifndef OCTET_INTEGER_STEPS_H
#define OCTET_INTEGER_STEPS_H
#include "passes/pass.h"
#include "passes/rewrite.h"

typedef struct Integer {
    PassCtx *ctx;
    const Graph *in;
    Graph *out;
    Val *map;
    const uint16_t *uses;
    const Val *floats;     /* per Val: what a DequantizeLinear makes of it */
    const bool *quantized; /* per Val: a QuantizeLinear reads it */
    const bool *numbers;   /* finish: per Val, somebody needs it as numbers, not as codes */
} Integer;
typedef Val Move(Integer *, const Node *);

/* ---- looking ---- */
static inline bool is_q(const Node *n) { return n && node_is(n, "QuantizeLinear"); }
static inline bool is_dq(const Node *n) { return n && node_is(n, "DequantizeLinear"); }
static inline bool widens(const Node *n) { return is_dq(n) || node_is(n, "Dequantize"); }

static inline int64_t count_of(const Graph *g, Val v)
{
    const Tensor *t = v.id ? graph_val(g, v)->konst : NULL;
    return t ? tensor_count(t) : 0;
}

/* One constant scale for the whole tensor. */
static inline bool per_tensor(const Graph *g, const Node *n) { return count_of(g, node_in(g, n, 1)) == 1; }
static inline bool eight_bits(DType t) { return t == DT_u8 || t == DT_i8; }

static inline double number(const Graph *g, Val v)
{
    const Tensor *t = v.id ? graph_val(g, v)->konst : NULL;
    return t ? dtype_load(t->type, t->data, 0) : 0;
}

/* The axis of output channels in the weights of a contraction. */
static inline int channel_of(const Node *n, int rank) { return axis_at(n->op->w_channel, rank); }

bool node_is_data(const Node *n, uint32_t i); /* is operand i of the type of the first, of a row that moves elements? */
bool node_moves(const Graph *g, const Node *n); /* elements of all data operands to one result, and makes nothing up */
bool tensor_is_all(const Tensor *t, double v);  /* NULL and no elements: false */

/* ---- steps of weight_codes.c ---- */
Move step_channels, step_cast, step_shift, step_scale, step_regain;
#endif
