/* integer.c - arithmetic moves between DequantizeLinear and QuantizeLinear, where it costs a quarter of the memory and, in
 * contractions, a quarter of the time. For any graph with Q and DQ: ours (quantize.c) and the user's.
 *
 *   cancel    Q(DQ(x, s, z), s, z)            = x
 *   sink      P(DQ(x), ...)                   = DQ(P(x, ...))           P moves elements (QUANT_PASS), all with one scale, and may fill in numbers that have codes
 *   hoist     Q(P(y, ...))                    = P(Q(y), ...)            so that producers store 8 bits
 *   bound     f(DQ(x))                        = DQ(min(max(x, lo), hi))  f a unary row whose results all have codes (Relu)
 *   table     Q(f(DQ(x)))                     = table[x]                f a chain of unary rows (QUANT_LUT) that costs more than a look-up
 *   contract  C(DQ(x), DQ(w), b)              = float(Ci(x, w)) * (sx * sw) + b     C has an integer form Ci; sx is one, or one for each
 *                                                                                  row that is summed over, or for each channel that is summed by itself
 *   requant   Q(C(DQ(x), DQ(w), DQ(b)))   = sat(rint(float(Ci(x, w) + b) * (sx * sw / s)) + z)     in models that came quantized: what
 *                                                                                  ONNX Runtime computes, to the bit
 *   halves    the same with codes x of 16 bits: 256 h + l, both of 8 bits, so Ci(h, w) and Ci(l, w) are put together (adr/0012)
 *
 *   weights   constants become codes, or stay codes behind what moves them: weight_codes.c
 *   behind    C(x, DQ(w, s), b)           = C(x, DQ(w, 1)) * s + b      of pass_scale(), where the kernel of C widens codes as it loads them
 *
 * What is left around the contractions is elementwise float arithmetic that code generation fuses into their epilogues, the
 * final QuantizeLinear included. Steps repeat until none applies; Q only moves up and DQ only down, so that ends. */
#include "passes/integer.h"
#include "ir/lower.h"
#include "passes/integer_steps.h"
#include "passes/passes.h"
#include "passes/quantize.h"
#include <assert.h>
#include <math.h>

enum { ROUNDS = 200, MAX_CHAIN = 8 };

/* ---- looking ---- */
static bool same_affine(const Graph *g, const Node *a, const Node *b, DType ta, DType tb)
{
    return per_tensor(g, a) && per_tensor(g, b) && ta == tb &&
           number(g, node_in(g, a, 1)) == number(g, node_in(g, b, 1)) &&
           number(g, node_in(g, a, 2)) == number(g, node_in(g, b, 2));
}

bool node_is_data(const Node *n, uint32_t i)
{
    const OpSchema *s = op_schema(n->op);
    return !strcmp(schema_in(s, i)->type, s->in[0].type);
}

/* A node that moves elements of its data inputs to all its results; where one of these is absent, it may make up zeros. */
static bool moves_or_fills(const Node *n)
{
    if (!n || n->op->quant != QUANT_PASS || (n->op->moves && !n->op->moves(n))) return false;
    const OpSchema *s = op_schema(n->op);
    for (uint32_t o = 0; o < n->nout; o++)
        if (strcmp(schema_out(s, o)->type, s->in[0].type) != 0) return false;
    return true;
}

/* One that has one result and makes nothing up. */
bool node_moves(const Graph *g, const Node *n)
{
    if (!moves_or_fills(n) || n->nout != 1) return false;
    const OpSchema *s = op_schema(n->op);
    for (uint32_t i = 1; i < s->nin; i++) /* an absent optional operand stands for a float zero */
        if (node_is_data(n, i) && !s->in[i].variadic && !node_in(g, n, i).id) return false;
    return true;
}

/* ---- the steps: each yields the new value of node n, or id 0 ---- */
static Val cancel(Integer *x, const Node *n)
{
    const Node *dq = is_q(n) ? val_def(x->in, node_in(x->in, n, 0)) : NULL;
    if (!is_dq(dq)) return (Val){0};
    Val from = node_in(x->in, dq, 0);
    return same_affine(x->in, n, dq, val_type(x->in, n->out)->dtype, val_type(x->in, from)->dtype) ? x->map[from.id]
                                                                                                   : (Val){0};
}

/* The codes whose numbers a tensor holds, of type t with this scale and zero point; NULL: there are none for some of them. */
static const Tensor *exact_codes(Arena *mem, const Tensor *numbers, DType t, double scale, double zero)
{
    Tensor *codes = tensor_new(mem, t, numbers->rank, numbers->dim);
    for (int64_t i = 0, n = tensor_count(numbers); i < n; i++) {
        double is = dtype_load(numbers->type, numbers->data, i), code = rint(is / scale) + zero;
        if (!(code >= dtype_min(t) && code <= dtype_max(t)) || (float)(code - zero) * (float)scale != (float)is)
            return NULL;
        dtype_store_int(t, (void *)codes->data, i, (int64_t)code);
    }
    return codes;
}

/* The codes in operand i of a node that moves those of `dq`: dequantized the same way, a number that has a code, or the zeros that an absent one
 * stands for. Id 0: none of these. */
static Val operand_codes(Integer *x, const Node *n, uint32_t i, const Node *dq)
{
    Val v = node_in(x->in, n, i);
    const Node *def = val_def(x->in, v);
    DType t = val_type(x->in, node_in(x->in, dq, 0))->dtype;
    if (is_dq(def))
        return same_affine(x->in, dq, def, t, val_type(x->in, node_in(x->in, def, 0))->dtype)
                   ? x->map[node_in(x->in, def, 0).id]
                   : (Val){0};
    const Tensor *k = v.id ? graph_val(x->in, v)->konst : tensor_scalar(x->ctx->mem, DT_f32, 0);
    if (!k || tensor_count(k) != 1 || !eight_bits(t)) return (Val){0};
    k = exact_codes(x->out->mem, k, t, number(x->in, node_in(x->in, dq, 1)), number(x->in, node_in(x->in, dq, 2)));
    return k ? graph_const(x->out, k, NULL) : (Val){0};
}

static uint32_t operands_most(const Node *n) /* with those at the end that are absent */
{
    const OpSchema *s = op_schema(n->op);
    return n->nin > s->nin ? n->nin : s->nin;
}

static bool may_be_absent(const Node *n, uint32_t i) /* and stand for nothing */
{
    const OpSchema *s = op_schema(n->op);
    return !node_is_data(n, i) || schema_in(s, i)->variadic;
}

static Val sink(Integer *x, const Node *n)
{
    const Node *first = moves_or_fills(n) ? val_def(x->in, node_in(x->in, n, 0)) : NULL;
    if (!is_dq(first) || !per_tensor(x->in, first)) return (Val){0};
    uint32_t nin = operands_most(n);
    Val *arg = NEW_ARRAY(x->ctx->scratch, Val, nin), *made = NEW_ARRAY(x->ctx->scratch, Val, n->nout);
    if (!op_takes(n->op, 0, val_type(x->in, node_in(x->in, first, 0))->dtype)) return (Val){0};
    for (uint32_t i = 0; i < nin; i++) {
        arg[i] = x->map[node_in(x->in, n, i).id];
        if (!node_is_data(n, i) || (i >= n->nin && may_be_absent(n, i))) continue;
        arg[i] = operand_codes(x, n, i, first);
        if (!arg[i].id) return (Val){0};
    }
    while (nin > n->nin && !arg[nin - 1].id) nin--;
    graph_emit(x->out, n->op, n->attr, arg, nin, n->nout, n->loc, made);
    for (uint32_t o = 0; o < n->nout; o++) {
        Val dq[3] = {made[o], x->map[node_in(x->in, first, 1).id], x->map[node_in(x->in, first, 2).id]};
        made[o] = graph_emit(x->out, first->op, first->attr, dq, dq[2].id ? 3 : 2, 1, n->loc, NULL);
        if (o) x->map[node_out(n, o).id] = made[o];
    }
    return made[0];
}

static Val hoist(Integer *x, const Node *n)
{
    Val from = node_in(x->in, n, 0);
    const Node *p = is_q(n) ? val_def(x->in, from) : NULL;
    if (!moves_or_fills(p) || p->nout != 1 || !op_takes(p->op, 0, val_type(x->in, n->out)->dtype)) return (Val){0};
    if (!per_tensor(x->in, n) || x->uses[from.id] != 1) return (Val){0};
    uint32_t nin = operands_most(p);
    Val *arg = NEW_ARRAY(x->ctx->scratch, Val, nin), q[3] = {{0}}, zero = {0};
    q[1] = x->map[node_in(x->in, n, 1).id], q[2] = x->map[node_in(x->in, n, 2).id];
    for (uint32_t i = 0; i < nin; i++) {
        q[0] = arg[i] = x->map[node_in(x->in, p, i).id];
        if (!node_is_data(p, i) || (!q[0].id && may_be_absent(p, i))) continue;
        if (!q[0].id && !zero.id)
            zero = graph_const(x->out, tensor_scalar(x->out->mem, val_type(x->in, from)->dtype, 0), NULL);
        if (!q[0].id) q[0] = zero;
        arg[i] = graph_emit(x->out, n->op, n->attr, q, q[2].id ? 3 : 2, 1, n->loc, NULL);
    }
    while (nin > p->nin && !arg[nin - 1].id) nin--;
    return graph_emit(x->out, p->op, p->attr, arg, nin, 1, p->loc, NULL);
}

/* The chain of unary rows from n's input down to a DQ, nearest to n first; 0: it ends elsewhere. */
static uint32_t chain_of(const Integer *x, const Node *n, const Node **chain)
{
    uint32_t len = 0;
    Val v = node_in(x->in, n, 0);
    const Node *f = val_def(x->in, v);
    for (; f && !is_dq(f); f = val_def(x->in, v)) {
        if (f->op->quant != QUANT_LUT || f->nout != 1 || len == MAX_CHAIN || x->uses[v.id] != 1) return 0;
        for (uint32_t i = 1; i < f->nin; i++)
            if (node_in(x->in, f, i).id && count_of(x->in, node_in(x->in, f, i)) != 1) return 0;
        chain[len++] = f, v = node_in(x->in, f, 0);
    }
    return f ? len : 0;
}

static Tensor *codes(Arena *mem, DType t, double scale, double zero)
{
    int64_t n = 256;
    Tensor *f = tensor_new(mem, DT_f32, 1, &n);
    for (int64_t i = 0; i < n; i++)
        ((float *)(void *)f->data)[i] = (float)(((double)i + (double)dtype_min(t) - zero)) * (float)scale;
    return f;
}

static const Tensor *quantize_codes(Arena *mem, const Tensor *f, DType t, double scale, double zero)
{
    Tensor *q = tensor_new(mem, t, 1, f->dim);
    for (int64_t i = 0; i < f->dim[0]; i++) {
        double v = rint(((const float *)f->data)[i] / (float)scale) + zero;
        dtype_store_int(t, (void *)q->data, i,
                        (int64_t)fmax((double)dtype_min(t), fmin((double)dtype_max(t), isnan(v) ? 0 : v)));
    }
    return q;
}

/* A unary row of other numbers; id 0: not with constants alone. */
static Val apply(Integer *x, const Node *f, Val numbers)
{
    Val arg[MAX_CHAIN] = {numbers};
    if (f->nin > MAX_CHAIN) return (Val){0};
    for (uint32_t i = 1; i < f->nin; i++) {
        Val v = node_in(x->in, f, i);
        if (v.id && count_of(x->in, v) != 1) return (Val){0};
        arg[i] = x->map[v.id];
    }
    return graph_emit(x->out, f->op, f->attr, arg, f->nin, 1, f->loc, NULL);
}

static Val table(Integer *x, const Node *n)
{
    const Node *chain[MAX_CHAIN], *dq;
    DType to = val_type(x->in, n->out)->dtype;
    uint32_t len = is_q(n) && per_tensor(x->in, n) && eight_bits(to) ? chain_of(x, n, chain) : 0;
    if (!len) return (Val){0};
    dq = val_def(x->in, node_in(x->in, chain[len - 1], 0));
    Val from = node_in(x->in, dq, 0);
    DType t = val_type(x->in, from)->dtype;
    if (!per_tensor(x->in, dq) || !eight_bits(t) || val_type(x->in, dq->out)->dtype != DT_f32) return (Val){0};
    Val v = graph_const(
        x->out, codes(x->ctx->mem, t, number(x->in, node_in(x->in, dq, 1)), number(x->in, node_in(x->in, dq, 2))),
        NULL);
    for (uint32_t i = len; i-- > 0 && v.id;) v = apply(x, chain[i], v);
    const Tensor *f = v.id ? graph_val(x->out, v)->konst : NULL;
    if (!f) return (Val){0};
    const Tensor *q =
        quantize_codes(x->ctx->mem, f, to, number(x->in, node_in(x->in, n, 1)), number(x->in, node_in(x->in, n, 2)));
    Val arg[2] = {x->map[from.id], graph_const(x->out, q, NULL)};
    return graph_emit(x->out, op_find("octet", "Table"), NULL, arg, 2, 1, n->loc, NULL);
}

/* f(DQ(x)) that bounds numbers by others that have codes: as a bound of codes. A quantizer behind it makes a table of it all. */
static Val bound(Integer *x, const Node *n)
{
    const Node *dq = n->op->quant == QUANT_LUT && n->nout == 1 ? val_def(x->in, node_in(x->in, n, 0)) : NULL;
    if (!is_dq(dq) || (x->uses[n->out.id] == 1 && x->quantized[n->out.id])) return (Val){0};
    Val from = node_in(x->in, dq, 0);
    DType t = val_type(x->in, from)->dtype;
    if (!per_tensor(x->in, dq) || !eight_bits(t) || val_type(x->in, dq->out)->dtype != DT_f32) return (Val){0};
    double scale = number(x->in, node_in(x->in, dq, 1)), zero = number(x->in, node_in(x->in, dq, 2));
    Val v = apply(x, n, graph_const(x->out, codes(x->ctx->mem, t, scale, zero), NULL));
    const Tensor *f = v.id ? graph_val(x->out, v)->konst : NULL,
                 *to = f ? exact_codes(x->ctx->mem, f, t, scale, zero) : NULL;
    if (!to) return (Val){0};
    int64_t least = dtype_load_int(t, to->data, 0), most = dtype_load_int(t, to->data, to->dim[0] - 1);
    for (int64_t i = 0; i < to->dim[0]; i++) {
        int64_t code = i + dtype_min(t), bounded = code < least ? least : code > most ? most : code;
        if (dtype_load_int(t, to->data, i) != bounded) return (Val){0};
    }
    Val lo = graph_const(x->out, tensor_scalar(x->out->mem, t, (double)least), NULL),
        hi = graph_const(x->out, tensor_scalar(x->out->mem, t, (double)most), NULL);
    Val in[3] = {least > dtype_min(t) || most < dtype_max(t) ? emit(x->out, "Clip", n->loc, 3, x->map[from.id], lo, hi)
                                                             : x->map[from.id]};
    for (uint32_t i = 1; i < 3; i++) in[i] = x->map[node_in(x->in, dq, i).id];
    return graph_emit(x->out, dq->op, dq->attr, in, in[2].id ? 3 : 2, 1, n->loc, NULL);
}

static const Tensor *evaluate(Integer *x, const Graph *g, const Node *n)
{
    const Tensor *out = NULL;
    for (uint32_t i = 0; i < n->nin; i++)
        if (node_in(g, n, i).id && !graph_val(g, node_in(g, n, i))->konst) return NULL;
    return n->nout == 1 && lower_eval(g, n, x->ctx->mem, &out) ? out : NULL;
}

static Attr *same_attrs(Integer *x, const Node *n, const OpDef *to)
{
    Attr *attr = op_attr_defaults(x->out->mem, to);
    const OpSchema *s = op_schema(n->op);
    for (uint32_t i = 0; i < s->nattr; i++) {
        int at = op_attr_index(to, s->attr[i].name);
        if (at >= 0) attr[at] = n->attr[i];
    }
    return attr;
}

static Val along_channel(Integer *x, Val v, int rank, int axis, const Loc *loc)
{
    const Type *t = val_type(x->out, v);
    if (t->rank != 1 || axis == rank - 1) return v;
    int64_t shape[MAX_RANK] = {-1};
    for (int i = 1; i < rank - axis; i++) shape[i] = 1;
    return emit(x->out, "Reshape", loc, 2, v, graph_const(x->out, tensor_ints(x->out->mem, shape, rank - axis), NULL));
}

/* ---- contractions ---- */
/* One scale for the whole tensor, which may be computed while the model runs. */
static bool one_scale(const Graph *g, const Node *dq)
{
    const Type *s = val_type(g, node_in(g, dq, 1));
    return !node_int(dq, "block_size") && (s->rank == 0 || (s->rank == 1 && dim_is(g->module->dim, s->dim[0], 1)));
}

/* A scale for each row along the last axis, which is what n sums over: blocks as long as the rows, symmetric codes. */
static bool per_row(const Graph *g, const Node *dq, const Node *n)
{
    const Type *t = val_type(g, node_in(g, dq, 0)), *s = val_type(g, node_in(g, dq, 1));
    int axis = axis_at(n->op->x_input, t->rank);
    int64_t of = node_int(dq, "axis"), size;
    return !node_in(g, dq, 2).id && !n->op->w_taps && t->rank > 0 && s->rank == t->rank && axis == t->rank - 1 &&
           (of < 0 ? of + t->rank : of) == axis && dim_is_const(g->module->dim, t->dim[axis], &size) &&
           node_int(dq, "block_size") >= size;
}

/* A scale for each channel, and n sums each channel by itself: the scale is a factor of its sums. Zero points are one. */
static bool per_channel(const Graph *g, const Node *dq, const Node *n)
{
    const Type *t = val_type(g, node_in(g, dq, 0)), *w = val_type(g, node_in(g, n, 1));
    if (!n->op->w_taps || node_int(dq, "block_size") || t->rank != w->rank) return false;
    int axis = axis_at(n->op->x_input, t->rank);
    const Tensor *s = graph_val(g, node_in(g, dq, 1))->konst,
                 *z = node_in(g, dq, 2).id ? graph_val(g, node_in(g, dq, 2))->konst : NULL;
    bool zeros = !node_in(g, dq, 2).id || (z && tensor_is_all(z, number(g, node_in(g, dq, 2))));
    return s && zeros && axis_at((int)node_int(dq, "axis"), t->rank) == axis &&
           dim_is(g->module->dim, t->dim[axis], tensor_count(s)) && dim_is(g->module->dim, w->dim[n->op->w_input], 1) &&
           dim_is(g->module->dim, w->dim[channel_of(n, w->rank)], tensor_count(s));
}

static bool sixteen_bits(DType t) { return t == DT_u16 || t == DT_i16; }

/* Do 32 bits hold the sums of all channels, whatever the activations are? Where the zero point of weights is not 0 it counts too. Of codes of
 * 16 bits the sum's 256th part is what is held: at most 65535 / 256 for each weight. */
static bool sums_fit(const Graph *g, const Node *n, const Node *dx, const Node *dw)
{
    enum { MOST_W = 255 };
    const int64_t MOST_X = sixteen_bits(val_type(g, node_in(g, dx, 0))->dtype) ? 256 : 255;
    const Type *w = val_type(g, node_in(g, dw, 0));
    const Tensor *t = graph_val(g, node_in(g, dw, 0))->konst;
    int64_t depth = 1, size;
    for (int d = 0; d < w->rank; d++)
        if (d != channel_of(n, w->rank) && (d >= w->rank - 2 || n->op->w_channel >= 0))
            depth *= dim_is_const(g->module->dim, w->dim[d], &size) ? size : 1;
    if (depth <= INT32_MAX / (MOST_X * MOST_W)) return true;
    bool symmetric = !node_in(g, dw, 2).id || number(g, node_in(g, dw, 2)) == 0;
    return t && t->type == DT_i8 && symmetric && tensor_largest_sum(t, channel_of(n, t->rank)) <= INT32_MAX / MOST_X;
}

static const char *why_weights(const Graph *g, const Node *n, const Node *dx, const Node *dw)
{
    const Type *w = val_type(g, node_in(g, dw, 0));
    bool constant = graph_val(g, node_in(g, dw, 0))->konst != NULL;
    if (!eight_bits(w->dtype)) return "its weights are not of 8 bits: they are widened beside their products";
    if (w->rank < 2) return "its second operand is a vector";
    for (int d = 0; d < w->rank; d++)
        if (n->op->w_channel >= 0 && !dim_is_const(g->module->dim, w->dim[d], NULL))
            return "its weights have free sizes";
    if (!sums_fit(g, n, dx, dw)) return "32 bits may not hold sums of so many products";
    if (one_scale(g, dw)) return NULL;
    if (!constant) return "its second operand has several scales";
    int64_t axis = node_int(dw, "axis"), size;
    if (node_int(dw, "block_size")) return "its weights have a scale for each block: they are widened beside their products";
    if (axis_at(axis, w->rank) != channel_of(n, w->rank) ||
        !dim_is(g->module->dim, w->dim[channel_of(n, w->rank)], count_of(g, node_in(g, dw, 1))))
        return "the scales of its weights go along another axis than its output channels";
    return dim_is_const(g->module->dim, w->dim[channel_of(n, w->rank)], &size) ? NULL : "its weights have free sizes";
}

/* An integer instruction sums products of four of a group's channels in the time of one float product; 16-bit codes take two. */
static bool few_channels(const Graph *g, const Node *n, const Node *dw)
{
    enum { HALVES = 2 };
    const Type *w = val_type(g, node_in(g, dw, 0));
    int64_t channels;
    return n->op->w_taps && w->rank >= 2 && dim_is_const(g->module->dim, w->dim[n->op->w_input], &channels) && channels <= HALVES;
}

/* Codes of 16 bits that came with the model: their sums in float32 are what other engines give, rounded in the same places. Integer sums are
 * exact, so results may be other codes; whoever asks for them has no reference, or wants the time. */
static bool takes_halves(const PassCtx *ctx) { return ctx->halves || (ctx->quant && !ctx->quant->float_activations); }

/* Why a contraction whose operands are, or one of whose operands is, dequantized is not one of integers; NULL: it is. */
static const char *why_float(const Graph *g, const Node *n, const PassCtx *ctx)
{
    const Node *dx = val_def(g, node_in(g, n, 0)), *dw = val_def(g, node_in(g, n, 1));
    if (!dtype_is_float(val_type(g, n->out)->dtype) || val_type(g, n->out)->dtype == DT_f64) return "its result is not float32";
    if (!is_dq(dx)) return "its activations are float: codes of weights are widened beside their products";
    if (!is_dq(dw)) return "its second operand is float";
    DType t = val_type(g, node_in(g, dx, 0))->dtype;
    if (dtype_is_float(t)) return "its activations are floats of 8 bits: they are multiplied as float32";
    if (!eight_bits(t) && !sixteen_bits(t)) return "its activations are not of 8 or 16 bits";
    if (sixteen_bits(t) && !takes_halves(ctx))
        return "its activations are of 16 bits: summed in float32 they agree with other engines (--int16 integer is faster)";
    if (sixteen_bits(t) && few_channels(g, n, dw))
        return "its activations are of 16 bits, and float32 multiplies so few channels as fast as two integer products";
    if (val_type(g, node_in(g, dx, 0))->rank < 1) return "its first operand is a number";
    if (!one_scale(g, dx) && !per_row(g, dx, n) && !per_channel(g, dx, n)) return "its activations have several scales";
    return why_weights(g, n, dx, dw);
}

static bool meets_codes(const Graph *g, const Node *n)
{
    return n->op->quant == QUANT_INTEGER && n->op->integer &&
           (is_dq(val_def(g, node_in(g, n, 0))) || is_dq(val_def(g, node_in(g, n, 1))));
}

static Val cast_to(Integer *x, Val v, DType to, const Loc *loc)
{
    const OpDef *cast = op_find("", "Cast");
    Attr *attr = op_attr_defaults(x->out->mem, cast);
    attr_set_int(cast, attr, "to", to);
    return graph_emit(x->out, cast, attr, &v, 1, 1, loc, NULL);
}

static Val wide(Integer *x, Val v, const Loc *loc) { return val_type(x->out, v)->dtype == DT_f32 ? v : cast_to(x, v, DT_f32, loc); }
static Val narrow(Integer *x, Val v, DType to, const Loc *loc) { return to == DT_f32 ? v : cast_to(x, v, to, loc); }

static Val octet_row(Integer *x, const char *op, const Val *in, uint32_t n, const Loc *loc)
{
    return graph_emit(x->out, op_find("octet", op), NULL, in, n, 1, loc, NULL);
}

static Val sums(Integer *x, const Node *n, const Val *in)
{
    const OpDef *op = op_find("", n->op->integer);
    return graph_emit(x->out, op, same_attrs(x, n, op), in, 4, 1, n->loc, NULL);
}

/* Codes of 16 bits and their zero point, as two of 8 bits each. */
static Val half(Integer *x, Val code, const char *which, const Loc *loc)
{
    if (val_type(x->out, code)->dtype == DT_i16) code = octet_row(x, "ToU16", &code, 1, loc);
    return octet_row(x, which, &code, 1, loc);
}

static Val sums_of_halves(Integer *x, const Node *n, const Val *in)
{
    static const char *const which[] = {"High", "Low"};
    Val sum[2], part[4] = {{0}, in[1], {0}, in[3]}, zero = in[2];
    if (!zero.id) zero = graph_const(x->out, tensor_scalar(x->out->mem, val_type(x->out, in[0])->dtype, 0), NULL);
    for (int i = 0; i < 2; i++) {
        part[0] = half(x, in[0], which[i], n->loc), part[2] = half(x, zero, which[i], n->loc);
        sum[i] = sums(x, n, part);
    }
    return octet_row(x, "JoinHalves", sum, 2, n->loc);
}

static Val one_of(Integer *x, Val v) /* the number that a constant holds everywhere */
{
    const Tensor *t = graph_val(x->out, v)->konst;
    return graph_const(x->out, tensor_scalar(x->out->mem, t->type, dtype_load(t->type, t->data, 0)), NULL);
}

static Val contract(Integer *x, const Node *n)
{
    if (!meets_codes(x->in, n) || why_float(x->in, n, x->ctx)) return (Val){0};
    const Node *dx = val_def(x->in, node_in(x->in, n, 0)), *dw = val_def(x->in, node_in(x->in, n, 1));
    bool rows = per_row(x->in, dx, n);
    int rank = val_type(x->in, n->out)->rank, axis = axis_at(n->op->y_channel, rank);
    Val in[4];
    const Node *from[2] = {dx, dw};
    for (int i = 0; i < 2; i++)
        in[i] = x->map[node_in(x->in, from[i], 0).id], in[2 + i] = x->map[node_in(x->in, from[i], 2).id];
    bool halves = sixteen_bits(val_type(x->out, in[0])->dtype);
    if (in[2].id && count_of(x->in, node_in(x->in, dx, 2)) > 1) in[2] = one_of(x, in[2]);
    Val y = halves ? sums_of_halves(x, n, in) : cast_to(x, sums(x, n, in), DT_f32, n->loc);
    DType to = val_type(x->in, n->out)->dtype; /* where that is 16 bits wide, the sums are scaled before they are rounded */
    Val scale = wide(x, x->map[node_in(x->in, dw, 1).id], n->loc), scale_x = wide(x, x->map[node_in(x->in, dx, 1).id], n->loc);
    if (!rows) scale = emit(x->out, "Mul", n->loc, 2, scale_x, scale);
    y = emit(x->out, "Mul", n->loc, 2, y, along_channel(x, scale, rank, axis, n->loc));
    if (rows) y = emit(x->out, "Mul", n->loc, 2, y, scale_x);
    Val bias = n->nin > 2 ? node_in(x->in, n, 2) : (Val){0};
    if (!bias.id) return narrow(x, y, to, n->loc);
    const Node *db = val_def(x->in, bias);
    const Tensor *folded = is_dq(db) ? evaluate(x, x->in, db) : NULL;
    Val b = folded ? graph_const(x->out, folded, NULL) : x->map[bias.id];
    y = emit(x->out, "Add", n->loc, 2, y, along_channel(x, wide(x, b, n->loc), rank, axis, n->loc));
    return narrow(x, y, to, n->loc);
}

/* ---- between codes: as ONNX Runtime's kernels round, where the codes are the model's own ---- */
/* A bias in multiples of the sum's scales, as QDQ models have it: the integers. Id 0: it is none. */
static Val whole_bias(Integer *x, Val bias, const Tensor *scale)
{
    static const double NEAR = 1e-5;
    const Node *db = val_def(x->in, bias);
    const Tensor *t = is_dq(db) ? graph_val(x->in, node_in(x->in, db, 0))->konst : NULL,
                 *s = t ? graph_val(x->in, node_in(x->in, db, 1))->konst : NULL;
    int64_t ns = s ? tensor_count(s) : 0, n = tensor_count(scale);
    if (!ns || t->type != DT_i32 || t->rank != 1 || number(x->in, node_in(x->in, db, 2)) != 0) return (Val){0};
    if (node_int(db, "block_size") || (n != 1 && n != t->dim[0]) || (ns != 1 && ns != t->dim[0])) return (Val){0};
    for (int64_t i = 0; i < t->dim[0]; i++) {
        double is = dtype_load(s->type, s->data, ns > 1 ? i : 0), be = dtype_load(scale->type, scale->data, n > 1 ? i : 0);
        if (!(fabs(is - be) <= NEAR * fabs(be))) return (Val){0};
    }
    return x->map[node_in(x->in, db, 0).id];
}

static Val product_of(Integer *x, Val a, Val b, const char *op, const Loc *loc) { return emit(x->out, op, loc, 2, a, b); }

/* Q(C(DQ(x), DQ(w)) + b) with one scale of x: the sum with b among it times one factor, (sx * sw) / s. */
static Val requantize(Integer *x, const Node *n)
{
    Val from = node_in(x->in, n, 0), bias = {0};
    DType to = val_type(x->in, n->out)->dtype;
    if (!is_q(n) || x->ctx->quant || !per_tensor(x->in, n) || !eight_bits(to) || x->uses[from.id] != 1) return (Val){0};
    const Node *c = val_def(x->in, from);
    if (c && node_is(c, "Add"))
        for (uint32_t i = 0; i < 2 && !bias.id; i++) {
            const Node *sum = val_def(x->in, node_in(x->in, c, i));
            if (sum && meets_codes(x->in, sum) && x->uses[sum->out.id] == 1) bias = node_in(x->in, c, 1 - i), c = sum;
        }
    if (!c || !meets_codes(x->in, c) || why_float(x->in, c, x->ctx) || (bias.id && c->nin > 2)) return (Val){0};
    if (!bias.id && c->nin > 2) bias = node_in(x->in, c, 2);
    const Node *side[2] = {val_def(x->in, node_in(x->in, c, 0)), val_def(x->in, node_in(x->in, c, 1))};
    if (!eight_bits(val_type(x->in, node_in(x->in, side[0], 0))->dtype) || !per_tensor(x->in, side[0])) return (Val){0};
    int rank = val_type(x->in, c->out)->rank, axis = axis_at(c->op->y_channel, rank);
    Val in[4], scale = product_of(x, x->map[node_in(x->in, side[0], 1).id], x->map[node_in(x->in, side[1], 1).id], "Mul", c->loc);
    const Tensor *known = graph_val(x->out, scale)->konst;
    Val whole = bias.id && known ? whole_bias(x, bias, known) : (Val){0};
    if (!known || known->type != DT_f32 || (bias.id && !whole.id)) return (Val){0};
    for (int i = 0; i < 2; i++)
        in[i] = x->map[node_in(x->in, side[i], 0).id], in[2 + i] = x->map[node_in(x->in, side[i], 2).id];
    Val sum = sums(x, c, in), zero = x->map[node_in(x->in, n, 2).id];
    if (whole.id) sum = product_of(x, sum, along_channel(x, whole, rank, axis, c->loc), "Add", c->loc);
    scale = along_channel(x, product_of(x, scale, x->map[node_in(x->in, n, 1).id], "Div", c->loc), rank, axis, c->loc);
    if (!zero.id) zero = graph_const(x->out, tensor_scalar(x->out->mem, to, 0), NULL);
    return octet_row(x, "Requant", (Val[]){sum, scale, zero}, 3, n->loc);
}

/* Computed codes with one reader, which takes them as numbers. */
static bool read_once(const Integer *x, Val codes)
{
    Val numbers = x->floats[codes.id];
    return numbers.id && !graph_val(x->in, codes)->konst && x->uses[codes.id] == 1 && x->uses[numbers.id] == 1;
}

/* s8 codes, or their zero point, as u8; u8 ones are what they are. */
static Val raised(Integer *x, Val v, DType t, const Loc *loc)
{
    if (t == DT_u8) return v;
    return octet_row(x, "ToU8", v.id ? &v : (Val[]){graph_const(x->out, tensor_scalar(x->out->mem, DT_i8, 0), NULL)}, 1, loc);
}

/* Q(f(DQ(a), DQ(b))) as the operator that ONNX Runtime makes of it: with scales in simple ratios many codes lie on ties, which the order of the
 * roundings decides. It does so of u8 codes, and on x86 of s8 codes that have one reader each, raised to u8; others it computes in floats. */
static Val join_codes(Integer *x, const Node *n)
{
    static const struct {
        const char *floats, *codes;
    } joins[] = {{"Add", "QLinearAdd"}, {"Mul", "QLinearMul"}, {"AveragePool", "QLinearAveragePool"}, {"GlobalAveragePool", "QLinearGlobalAveragePool"}};
    Val from = node_in(x->in, n, 0), in[8] = {{0}};
    DType to = val_type(x->in, n->out)->dtype;
    const Node *f = is_q(n) && !x->ctx->quant && eight_bits(to) && per_tensor(x->in, n) ? val_def(x->in, from) : NULL;
    const OpDef *op = NULL;
    for (size_t i = 0; f && i < COUNT_OF(joins); i++)
        if (node_is(f, joins[i].floats)) op = op_find("com.microsoft", joins[i].codes);
    if (!op || val_type(x->in, from)->dtype != DT_f32 || x->uses[from.id] != 1 || f->nin > 2 ||
        (to == DT_i8 && !read_once(x, n->out)))
        return (Val){0};
    const Node *dq[2] = {val_def(x->in, node_in(x->in, f, 0)),
                         f->nin > 1 ? val_def(x->in, node_in(x->in, f, 1)) : NULL};
    for (uint32_t i = 0; i < f->nin; i++) {
        if (!is_dq(dq[i]) || !per_tensor(x->in, dq[i]) || val_type(x->in, node_in(x->in, dq[i], 0))->dtype != to) return (Val){0};
        if (to == DT_i8 && !read_once(x, node_in(x->in, dq[i], 0))) return (Val){0};
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < f->nin; i++)
        for (uint32_t k = 0; k < 3; k++) {
            Val v = x->map[node_in(x->in, dq[i], k).id];
            in[count++] = k == 1 ? v : raised(x, v, to, n->loc);
        }
    in[count++] = x->map[node_in(x->in, n, 1).id], in[count++] = raised(x, x->map[node_in(x->in, n, 2).id], to, n->loc);
    Val y = graph_emit(x->out, op, same_attrs(x, f, op), in, count - !in[count - 1].id, 1, n->loc, NULL);
    return to == DT_u8 ? y : octet_row(x, "ToI8", &y, 1, n->loc);
}

/* ---- constants that stay codes ---- */
/* A product whose kernel widens them (codegen/widen.c). */
static bool multiplies_codes(const Graph *g, const Node *n, uint32_t input)
{
    bool multiplies = n->op->quant == QUANT_INTEGER || n->op->quant == QUANT_STATE;
    if (n->op->quant == QUANT_SUMS) return true; /* scales that are codes: they are widened with the sums of a block */
    return input == 1 && multiplies && widens_weights(g, n);
}

/* A row that moves elements (or converts floats): what is said of its result holds of its input. A look-up, whose place the call says,
 * reads few elements of a table, and widens those. */
static bool moves_codes(const Graph *g, const Node *n, uint32_t input, const bool *numbers)
{
    if (widens(n)) return input > 0 && !numbers[n->out.id]; /* scales may be codes themselves */
    bool casts = node_is(n, "Cast") && dtype_is_float(val_type(g, n->out)->dtype), fixed = true;
    if (!casts && (!node_moves(g, n) || !node_is_data(n, input))) return false;
    for (uint32_t i = 0; i < n->nin; i++) {
        Val v = node_in(g, n, i);
        if (i != input && v.id && node_is_data(n, i)) return false;
        if (i != input && v.id) fixed = fixed && graph_val(g, v)->konst;
    }
    return fixed ? !numbers[n->out.id] : !casts;
}

static const bool *needs_numbers(const Graph *g, Arena *scratch)
{
    bool *numbers = NEW_ARRAY(scratch, bool, g->val.n + 1);
    const bool *live = graph_live(g, scratch);
    for (uint32_t i = 0; i < g->output.n; i++) numbers[g->output.at[i].id] = true;
    for (uint32_t i = g->node.n; i-- > 0;) {
        const Node *n = &g->node.at[i];
        for (uint32_t k = 0; live[i] && k < n->nin; k++)
            if (!multiplies_codes(g, n, k) && !moves_codes(g, n, k, numbers)) numbers[node_in(g, n, k).id] = true;
    }
    return numbers;
}

static const Val *dequantized(const Graph *g, Arena *mem) /* by one of its readers */
{
    Val *floats = NEW_ARRAY(mem, Val, g->val.n + 1);
    for (uint32_t i = 0; i < g->node.n; i++)
        if (is_dq(&g->node.at[i])) floats[node_in(g, &g->node.at[i], 0).id] = g->node.at[i].out;
    return floats;
}

static const bool *quantized_by(const Graph *g, Arena *mem)
{
    bool *quantized = NEW_ARRAY(mem, bool, g->val.n + 1);
    for (uint32_t i = 0; i < g->node.n; i++)
        if (is_q(&g->node.at[i])) quantized[node_in(g, &g->node.at[i], 0).id] = true;
    return quantized;
}

/* ---- the passes ---- */
static Graph *steps_round(const Graph *in, PassCtx *ctx, Move *const *step, uint32_t steps, bool *changed)
{
    Integer x = {
        .ctx = ctx, .in = in, .out = graph_new(ctx->module, ctx->mem, in->name), .uses = graph_uses(in, ctx->scratch)};
    x.map = graph_begin(x.out, in, ctx->scratch), x.numbers = needs_numbers(in, ctx->scratch),
    x.floats = dequantized(in, ctx->scratch), x.quantized = quantized_by(in, ctx->scratch);
    const bool *live = graph_live(in, ctx->scratch);
    for (uint32_t i = 0; i < in->node.n; i++) {
        const Node *n = &in->node.at[i];
        Val v = {0};
        if (!live[i]) continue;
        for (uint32_t s = 0; s < steps && !v.id; s++) v = step[s](&x, n);
        if (!v.id) {
            graph_copy_node(x.out, in, i, x.map);
            continue;
        }
        x.map[n->out.id] = v, *changed = true;
        graph_stand_for(x.out, v, graph_val(in, n->out));
    }
    graph_end(x.out, in, x.map);
    return x.out;
}

static Graph *steps_run(const Graph *in, PassCtx *ctx, Move *const *step, uint32_t steps)
{
    const Graph *g = in;
    for (int round = 0; round < ROUNDS; round++) {
        bool changed = false;
        g = steps_round(g, ctx, step, steps, &changed);
        if (!changed) return (Graph *)g;
    }
    assert(!"the steps of a pass do not end");
    return (Graph *)g;
}

static bool has_edges(const Graph *g)
{
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        if (is_q(n) || widens(n) || (node_is(n, "Cast") && graph_val(g, node_in(g, n, 0))->konst)) return true;
    }
    return false;
}

/* Codes that pass_codes() made: they are meant to stand beside floats. */
static bool are_ours(const Quantization *q, const Node *n)
{
    for (uint32_t i = 0; q && i < q->layer.n; i++)
        if (q->layer.at[i].state == LAYER_WEIGHTS && q->layer.at[i].loc == n->loc) return true;
    return false;
}

/* What makes numbers of codes, behind the moves before a value; NULL: they are none. */
static const Node *codes_behind(const Graph *g, Val v)
{
    const Node *n = val_def(g, v);
    while (n && node_moves(g, n)) n = val_def(g, node_in(g, n, 0));
    return n && widens(n) ? n : NULL;
}

static DType codes_type(const Graph *g, const Node *n) { return n ? val_type(g, node_in(g, n, 0))->dtype : DT_NONE; }

static void note_one(const Node *n, Coded c, IntegerNote *note)
{
    const Coded *last = note->at.n ? &note->at.at[note->at.n - 1] : NULL;
    if (last && n->loc && last->loc == n->loc && c.state == CODED_INTEGER && last->state == CODED_INTEGER) return; /* sums for its zero points */
    c.loc = n->loc, c.name = !n->loc ? "" : *n->loc->node ? n->loc->node : arena_printf(note->mem, "#%d", n->loc->index);
    vec_push(note->mem, &note->at, c);
    note->n[c.state]++;
}

static void note_sums(const Graph *g, const Node *n, IntegerNote *note)
{
    const Tensor *t = graph_val(g, node_in(g, n, 1))->konst;
    Coded c = {.state = CODED_INTEGER, .x = val_type(g, node_in(g, n, 0))->dtype, .w = val_type(g, node_in(g, n, 1))->dtype};
    c.weights = t ? tensor_count(t) : 0;
    note_one(n, c, note);
}

static void note_contraction(const Graph *g, const Node *n, const bool *numbers, const PassCtx *ctx)
{
    const Node *dx = codes_behind(g, node_in(g, n, 0)), *dw = codes_behind(g, node_in(g, n, 1));
    if (dx && graph_val(g, node_in(g, dx, 0))->konst) dx = NULL; /* looked up: its values are floats */
    if (!dw && !meets_codes(g, n)) return;
    const Tensor *t = dw ? graph_val(g, node_in(g, dw, 0))->konst : NULL;
    bool stay = t && dtypes[t->type].bits <= 8 && !numbers[dw->out.id];
    Coded c = {.state = CODED_FLOAT, .x = codes_type(g, dx), .w = codes_type(g, dw), .weights = t ? tensor_count(t) : 0};
    c.why = n->op->integer && meets_codes(g, n) ? why_float(g, n, ctx) : "its operands are dequantized before they are moved";
    if (!c.why) c.state = CODED_INTEGER, c.rows = per_row(g, val_def(g, node_in(g, n, 0)), n);
    else if (!dx && stay) c.state = CODED_WEIGHTS, c.why = NULL;
    else if (!dx && !stay && t) c.why = "its activations are float, and its weights too few, or too shallow, to be widened while it runs";
    note_one(n, c, ctx->integer);
}

static void note_contractions(const Graph *g, const PassCtx *ctx)
{
    const bool *live = graph_live(g, ctx->scratch), *numbers = needs_numbers(g, ctx->scratch);
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        if (!live[i] || are_ours(ctx->quant, n)) continue;
        if (n->op->quant == QUANT_SUMS) note_sums(g, n, ctx->integer);
        else if (n->op->quant == QUANT_INTEGER) note_contraction(g, n, numbers, ctx);
    }
}

Graph *pass_integer(const Graph *in, PassCtx *ctx)
{
    static Move *const moving[] = {cancel, sink, step_channels, step_cast, step_shift, step_scale, hoist, table, bound};
    static Move *const folded[] = {step_regain}; /* behind the moves: it reads all float weights */
    static Move *const integer[] = {requantize, join_codes, contract};
    if (!has_edges(in)) {
        if (ctx->integer) note_contractions(in, ctx);
        return (Graph *)in;
    }
    if (!ctx->quant) in = rewrite(in, ctx, rules_saturation, NULL);
    const Graph *g = steps_run(in, ctx, moving, COUNT_OF(moving));
    if (!ctx->quant) g = steps_run(g, ctx, folded, COUNT_OF(folded));
    if (ctx->integer) note_contractions(g, ctx);
    return steps_run(g, ctx, integer, COUNT_OF(integer));
}

/* A DQ of constants that no integer contraction took: weights of a product stay codes, and so do tables that are looked up; for all
 * others it is a float constant, which saves the arithmetic. */
static Val fold_constant(Integer *x, const Node *n)
{
    if (!is_q(n) && !widens(n)) return (Val){0};
    if (widens(n) && !x->numbers[n->out.id] && dtypes[val_type(x->in, node_in(x->in, n, 0))->dtype].bits <= 8)
        return (Val){0};
    const Tensor *t = evaluate(x, x->in, n);
    return t ? graph_const(x->out, t, graph_val(x->in, n->out)->name) : (Val){0};
}

/* 1 / s: a number, or one for each row along the last axis, computed once a row. */
static Val reciprocal(Integer *x, const Node *n)
{
    Val s = node_in(x->in, n, 1);
    const Type *t = val_type(x->in, s);
    int rank = val_type(x->in, n->out)->rank;
    if (t->dtype != DT_f32) return (Val){0};
    if (per_tensor(x->in, n)) {
        float v = (float)number(x->in, s);
        if (!isnormal(v) || !isnormal(1 / v)) return (Val){0};
        return graph_const(x->out, tensor_scalar(x->out->mem, DT_f32, 1 / v), NULL);
    }
    bool rows = !node_in(x->in, n, 2).id && rank > 0 && t->rank == rank && dim_is(x->in->module->dim, t->dim[rank - 1], 1);
    return rows ? emit(x->out, "Reciprocal", n->loc, 1, x->map[s.id]) : (Val){0};
}

/* x / s as x * (1 / s): the quotient is another one in its last place, so beside ties the code may be. A graph input is divided, since there
 * the values are given and a tie can be meant; so are codes of 16 bits by a scale of the whole tensor, since a quotient of thousands has its
 * last place near the tie. */
static Val by_reciprocal(Integer *x, const Node *n)
{
    DType t = val_type(x->in, n->out)->dtype;
    if (!is_q(n) || !(eight_bits(t) || (sixteen_bits(t) && !per_tensor(x->in, n)))) return (Val){0};
    Val from = node_in(x->in, n, 0), zero = node_in(x->in, n, 2);
    if (val_type(x->in, from)->dtype != DT_f32 || !val_def(x->in, from)) return (Val){0};
    Val inv = reciprocal(x, n);
    if (!inv.id) return inv;
    zero = zero.id ? x->map[zero.id] : graph_const(x->out, tensor_scalar(x->out->mem, t, 0), NULL);
    return graph_emit(x->out, op_find("octet", "QuantizeBy"), NULL, (Val[]){x->map[from.id], inv, zero}, 3, 1, n->loc, NULL);
}

Graph *pass_finish(const Graph *in, PassCtx *ctx)
{
    static Move *const steps[] = {fold_constant};
    return has_edges(in) ? steps_run(in, ctx, steps, COUNT_OF(steps)) : (Graph *)in;
}

/* C(x, DQ(codes, s), b) as C(x, DQ(codes, 1)) * s + b, where the kernel widens codes as it loads them: once for a result, not for each term. */
static Val scale_behind(Integer *x, const Node *n)
{
    const Node *dq = n->op->quant == QUANT_INTEGER ? val_def(x->in, node_in(x->in, n, 1)) : NULL;
    if (!is_dq(dq) || x->numbers[dq->out.id] || !is_channelwise(x->in, n) || node_in(x->in, dq, 2).id) return (Val){0};
    const Tensor *s = graph_val(x->in, node_in(x->in, dq, 1))->konst;
    const Type *w = val_type(x->in, dq->out), *y = val_type(x->in, n->out);
    if (!s || s->type != DT_f32 || s->rank != 1 || tensor_is_all(s, 1) || y->dtype != DT_f32 || y->rank < 1)
        return (Val){0};
    if (axis_at(n->op->w_channel, w->rank) != axis_at((int)node_int(dq, "axis"), w->rank) || node_int(dq, "block_size")) return (Val){0};
    Val one = graph_const(x->out, tensor_scalar(x->out->mem, DT_f32, 1), NULL), arg[3];
    for (uint32_t i = 0; i < n->nin && i < COUNT_OF(arg); i++) arg[i] = x->map[node_in(x->in, n, i).id];
    Val codes = emit(x->out, "DequantizeLinear", dq->loc, 2, x->map[node_in(x->in, dq, 0).id], one);
    Val sum = graph_emit(x->out, n->op, n->attr, (Val[]){arg[0], codes}, 2, 1, n->loc, NULL);
    int axis = axis_at(n->op->y_channel, y->rank);
    sum = emit(x->out, "Mul", n->loc, 2, sum, along_channel(x, x->map[node_in(x->in, dq, 1).id], y->rank, axis, n->loc));
    if (n->nin < 3 || !arg[2].id) return sum;
    return emit(x->out, "Add", n->loc, 2, sum, along_channel(x, arg[2], y->rank, axis, n->loc));
}

Graph *integer_factors(const Graph *in, PassCtx *ctx)
{
    static Move *const steps[] = {by_reciprocal, scale_behind};
    return steps_run(in, ctx, steps, COUNT_OF(steps));
}
