/* rnn.c - LSTM, GRU, RNN.
 *
 * Each expands, a direction at a time, into one MatMul of the whole sequence with the input weights (so that it is quantized and
 * scheduled like any other) and one recurrent row of the domain octet: LSTMScan, GRUScan, RNNScan. Those keep the states of all
 * steps, S[0] the initial one, and say step t as stages with Compute.scan that read S[t] and write S[t+1]. A reversed direction
 * reads the projected input backwards. With sequence_lens a batch entry keeps its state after its last step, and its later
 * outputs are zero. R may be s8 codes, with which the codes of the states are multiplied. */
#include "ir/ops/emit.h"
#include "ir/ops/ops.h"
#include "ir/ops/rules.h"
#include <assert.h>
#include <strings.h>

/* ---- activations ---- */
typedef struct Activation {
    const char *name, *body;
    bool a, b;
    float alpha, beta;
    const char *f32; /* the body of floats; NULL: the same */
} Activation;

/* Gates of float32: quotients of polynomials, nowhere further than 5e-7 from their function (Eigen's ptanh_float and plogistic, which MLAS, the
 * kernels of ONNX Runtime, evaluate in this order), so that states that are quantized behind them get the same codes as there. The primitives are
 * exact relative to their result, also where it is near 0. */
#define LOGISTIC                                                                                                       \
    "u = min(max(x, -18), 18); t = u * u;"                                                                             \
    "p = fma(4.37031012579801e-11, t, 1.15627324459942e-07); p = fma(p, t, 6.08574864600143e-05);"                     \
    "p = fma(p, t, 8.51377133304701e-03); p = fma(p, t, 2.48287947061529e-01);"                                        \
    "q = fma(6.10247389755681e-13, t, 5.76102136993427e-09); q = fma(q, t, 6.29106785017040e-06);"                     \
    "q = fma(q, t, 1.70198817374094e-03); q = fma(q, t, 1.16817656904453e-01); q = fma(q, t, 9.93151921023180e-01);"   \
    "min(max(p * u / q + 0.5, 0), 1)"
#define TANH                                                                                                           \
    "u = min(max(x, -9), 9); t = u * u;"                                                                               \
    "p = fma(-2.76076847742355e-16, t, 2.00018790482477e-13); p = fma(p, t, -8.60467152213735e-11);"                   \
    "p = fma(p, t, 5.12229709037114e-08); p = fma(p, t, 1.48572235717979e-05);"                                        \
    "p = fma(p, t, 6.37261928875436e-04); p = fma(p, t, 4.89352455891786e-03);"                                        \
    "q = fma(1.19825839466702e-06, t, 1.18534705686654e-04); q = fma(q, t, 2.26843463243900e-03);"                     \
    "q = fma(q, t, 4.89352518554385e-03); p * u / q"
static const Activation activations[] = {
    {"Sigmoid", "sigmoid(x)", false, false, 0, 0, LOGISTIC},
    {"Tanh", "tanh(x)", false, false, 0, 0, TANH},
    {"Relu", "max(x, 0)", false, false, 0, 0, NULL},
    {"Affine", "a * x + b", true, true, 1, 0, NULL},
    {"LeakyRelu", "select(x < 0, a * x, x)", true, false, 0.01F, 0, NULL},
    {"ThresholdedRelu", "select(x > a, x, 0)", true, false, 1, 0, NULL},
    {"ScaledTanh", "a * tanh(b * x)", true, true, 1, 1, NULL},
    {"HardSigmoid", "min(max(a * x + b, 0), 1)", true, true, 0.2F, 0.5F, NULL},
    {"Elu", "select(x < 0, a * (exp(x) - 1), x)", true, false, 1, 0, NULL},
    {"Softsign", "x / (1 + abs(x))", false, false, 0, 0, NULL},
    {"Softplus", "log(1 + exp(x))", false, false, 0, 0, NULL},
};
enum { MOST = 6 }; /* three a direction */

static const Activation *find_activation(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(activations); i++)
        if (!strcasecmp(activations[i].name, name)) return &activations[i];
    return NULL;
}

/* What differs between the three operators. */
typedef struct Cell {
    const char *scan, *usual[3];
    int gates, functions, states;
} Cell;
static const Cell lstm = {"LSTMScan", {"Sigmoid", "Tanh", "Tanh"}, 4, 3, 2};
static const Cell gru = {"GRUScan", {"Sigmoid", "Tanh", NULL}, 3, 2, 1};
static const Cell rnn = {"RNNScan", {"Tanh", NULL, NULL}, 1, 1, 1};

/* The functions of all directions with their parameters, which functions that take one consume in order. */
typedef struct Functions {
    const char *name[MOST];
    float alpha[MOST], beta[MOST];
} Functions;

static const char *read_functions(const Node *n, const Cell *cell, int directions, Functions *f)
{
    const Attr *names = node_attr(n, "activations"), *alpha = node_attr(n, "activation_alpha"),
               *beta = node_attr(n, "activation_beta");
    uint32_t count = (uint32_t)(cell->functions * directions), a = 0, b = 0;
    bool given = names->kind == ATTR_STRINGS && names->n > 0;
    if (given && names->n != count) return "activations has the wrong number of functions";
    for (uint32_t i = 0; i < count; i++) {
        f->name[i] = given ? names->strings[i] : cell->usual[i % (uint32_t)cell->functions];
        const Activation *row = find_activation(f->name[i]);
        if (!row) return "an activation function is unknown";
        f->alpha[i] = row->a && alpha->kind == ATTR_FLOATS && a < alpha->n ? alpha->floats[a++] : row->alpha;
        f->beta[i] = row->b && beta->kind == ATTR_FLOATS && b < beta->n ? beta->floats[b++] : row->beta;
    }
    return NULL;
}

static int directions_of(const Node *n) { return !strcmp(node_str(n, "direction"), "bidirectional") ? 2 : 1; }

/* ---- shape rule of the ONNX operators: outputs Y, Y_h and, for LSTM, Y_c ---- */
static bool infer_recurrent(Infer *c, const Cell *cell, uint32_t weights_axis, uint32_t hidden_axis)
{
    const Type *x = in_type(c, 0), *w = in_type(c, 1), *r = in_type(c, 2);
    for (uint32_t o = 0; o < c->n->nout; o++) out_unknown(c, o);
    if (x->rank < 0 || r->rank < 0 || w->rank < 0) return true;
    if (x->rank != 3 || w->rank != 3 || r->rank != 3)
        return infer_error(c, "X, W and R have rank %d, %d and %d, expected 3", x->rank, w->rank, r->rank);
    const char *way = node_str(c->n, "direction");
    if (strcmp(way, "forward") && strcmp(way, "reverse") && strcmp(way, "bidirectional"))
        return infer_error(c, "direction '%s' is unknown", way);
    int directions = directions_of(c->n), layout = (int)node_int(c->n, "layout");
    Functions f;
    const char *why = read_functions(c->n, cell, directions, &f);
    if (why) return infer_error(c, "%s", why);
    Dim h = r->dim[hidden_axis], d = DIM(c, directions), steps = x->dim[layout ? 1 : 0], batch = x->dim[layout ? 0 : 1];
    if (!require_eq(c, w->dim[0], d, "directions of W") || !require_eq(c, r->dim[0], d, "directions of R") ||
        !require_eq(c, x->dim[2], w->dim[weights_axis], "input size of X and W"))
        return false;
    Dim y[2][4] = {{steps, d, batch, h}, {batch, steps, d, h}}, last[2][3] = {{d, batch, h}, {batch, d, h}};
    Dim rows = dim_mul(c->d, h, DIM(c, cell->gates)), wide[2] = {d, dim_mul(c->d, rows, DIM(c, 2))},
        peep[2] = {d, dim_mul(c->d, h, DIM(c, 3))};
    if (!require_eq(c, w->dim[3 - weights_axis], rows, "gates of W and the hidden size") ||
        !require_eq(c, r->dim[3 - hidden_axis], rows, "gates of R and the hidden size") ||
        !rule_has_shape(c, 3, 2, wide, "B") || !rule_has_shape(c, 4, 1, &batch, "sequence_lens") ||
        !rule_has_shape(c, 5, 3, last[layout], "initial_h") || !rule_has_shape(c, 6, 3, last[layout], "initial_c") ||
        !rule_has_shape(c, 7, 2, peep, "P"))
        return false;
    if (c->n->nout > 0) out_shape(c, 0, 4, y[layout]);
    for (uint32_t o = 1; o < c->n->nout; o++) out_shape(c, o, 3, last[layout]);
    return true;
}

static bool infer_lstm(Infer *c) { return infer_recurrent(c, &lstm, 2, 2); }
static bool infer_gru(Infer *c) { return infer_recurrent(c, &gru, 2, 2); }
static bool infer_rnn(Infer *c) { return infer_recurrent(c, &rnn, 2, 2); }

/* Scales and zero points of W and R: one a direction, or one a column. */
static bool infer_dynamic_lstm(Infer *c)
{
    if (!infer_recurrent(c, &lstm, 1, 1)) return false;
    if (in_rank(c, 1) < 0 || in_rank(c, 2) < 0) return true;
    for (uint32_t i = 8; i < 12; i++)
        if (!rule_has_shape(c, i, in_rank(c, i) == 1 ? 1 : 2, (Dim[]){in_dim(c, 1, 0), in_dim(c, 1, 2)},
                            "scales and zero points of weights"))
            return false;
    return true;
}

/* ---- expansion ---- */
/* Entry d of the leading dimension, without it: a view of constants. */
static Val part_of(Expand *x, Val v, int d)
{
    const Tensor *t = ex_const(x, v);
    if (!v.id) return v;
    if (!t || t->rank < 1) return ex_squeeze(x, ex_slice(x, v, 0, d, d + 1), (int64_t[]){0}, 1);
    Tensor *p = NEW(x->m->mem, Tensor);
    p->type = t->type, p->rank = t->rank - 1;
    for (int i = 1; i < t->rank; i++) p->dim[i - 1] = t->dim[i];
    p->data = (const char *)t->data + (size_t)d * tensor_bytes(p);
    return ex_tensor(x, p);
}

/* One direction with its parameters: weights as they are multiplied, [I, G*H] and [G*H, H]. */
typedef struct Direction {
    Val projected, r, bias_w, bias_r, h, c, peephole, lens;
    Val codes, scale, sums; /* instead of r */
    int64_t hidden;
    bool reverse;
    int number;
} Direction;

static Val sum_bias(Expand *x, const Cell *cell, const Direction *d, bool split_last)
{
    if (!split_last) return EX(x, "Add", d->bias_w, d->bias_r);
    int64_t n = cell->gates - 1, h = d->hidden;
    Val front = EX(x, "Add", ex_slice(x, d->bias_w, 0, 0, n * h), ex_slice(x, d->bias_r, 0, 0, n * h));
    return ex_concat(x, (Val[]){front, ex_slice(x, d->bias_w, 0, n * h, (n + 1) * h)}, 2, 0);
}

static Attr *scan_attrs(Expand *x, const OpDef *op, const Cell *cell, const Functions *f, const Direction *d)
{
    Attr *a = op_attr_defaults(x->m->mem, op);
    uint32_t n = (uint32_t)cell->functions, from = (uint32_t)d->number * n;
    const char *const *names = arena_copy(x->m->mem, f->name + from, n * sizeof *f->name);
    const float *alpha = arena_copy(x->m->mem, f->alpha + from, n * sizeof(float));
    const float *beta = arena_copy(x->m->mem, f->beta + from, n * sizeof(float));
    a[op_attr_index(op, "activations")] = (Attr){.kind = ATTR_STRINGS, .n = n, .strings = names};
    a[op_attr_index(op, "alpha")] = (Attr){.kind = ATTR_FLOATS, .n = n, .floats = alpha};
    a[op_attr_index(op, "beta")] = (Attr){.kind = ATTR_FLOATS, .n = n, .floats = beta};
    attr_set_int(op, a, "reverse", d->reverse);
    const Attr *clip = node_attr(x->n, "clip");
    if (clip->kind == ATTR_FLOAT) attr_set_float(op, a, "clip", clip->f);
    if (op_attr_index(op, "input_forget") >= 0) attr_set_int(op, a, "input_forget", node_int(x->n, "input_forget"));
    return a;
}

static void emit_scan(Expand *x, const Cell *cell, const Functions *f, const Direction *d, Val *out)
{
    const OpDef *op = op_find("octet", cell->scan);
    bool after = cell == &gru && node_int(x->n, "linear_before_reset");
    Val xw = d->projected, bias = d->bias_w.id ? sum_bias(x, cell, d, after) : (Val){0};
    if (bias.id && !d->codes.id) xw = EX(x, "Add", xw, bias);
    Val in[9] = {xw, d->codes.id ? d->codes : d->r};
    uint32_t n = 2;
    in[n++] = d->h, in[n++] = d->lens;
    if (cell == &lstm) in[n++] = d->c, in[n++] = d->peephole;
    if (cell == &gru && after && d->bias_r.id) in[n++] = ex_slice(x, d->bias_r, 0, 2 * d->hidden, 3 * d->hidden); /* the reset gate scales it */
    if (d->codes.id) in[n++] = d->scale, in[n++] = d->sums, in[n++] = bias;
    while (!in[n - 1].id) n--;
    Attr *attr = scan_attrs(x, op, cell, f, d);
    if (cell == &gru) attr_set_int(op, attr, "linear_before_reset", after);
    graph_emit(x->g, op, attr, in, n, 1 + (uint32_t)cell->states, x->loc, out);
}

typedef struct Inputs {
    Val x, w, r, b, lens, h, c, p;
} Inputs; /* all at the wide type, steps first */
typedef Val (*Project)(Expand *x, const Inputs *in, int direction);
typedef Val (*Recurrent)(Expand *x, const Inputs *in, int direction);
typedef void (*Codes)(Expand *x, const Inputs *in, Direction *d);

static Val time_first(Expand *x, Val v) { return v.id ? ex_transpose(x, v, (int64_t[]){1, 0, 2}, 3) : v; }

static void finish_outputs(Expand *x, Val part[][3], int directions, DType t, bool batch_first)
{
    for (uint32_t o = 0; o < x->n->nout; o++) {
        Val dir[2];
        for (int d = 0; d < directions; d++) dir[d] = ex_unsqueeze(x, part[d][o], (int64_t[]){o == 0}, 1);
        Val v = ex_cast(x, ex_concat(x, dir, directions, o == 0), t);
        if (batch_first) v = o ? time_first(x, v) : ex_transpose(x, v, (int64_t[]){2, 0, 1, 3}, 4);
        x->out[o] = v;
    }
}

static bool expand_recurrent(Expand *x, const Cell *cell, Inputs in, int64_t hidden, Project project,
                             Recurrent recurrent, Codes codes)
{
    int directions = directions_of(x->n);
    DType t = ex_type(x, in.x)->dtype, wide = dtype_compute(t);
    bool batch_first = node_int(x->n, "layout");
    Functions f;
    const char *why = read_functions(x->n, cell, directions, &f);
    if (why) return expand_error(x, "%s", why);
    in.x = ex_cast(x, in.x, wide), in.b = ex_cast(x, in.b, wide), in.h = ex_cast(x, in.h, wide);
    in.c = ex_cast(x, in.c, wide), in.p = ex_cast(x, in.p, wide);
    if (batch_first) in.x = time_first(x, in.x), in.h = time_first(x, in.h), in.c = time_first(x, in.c);
    Val part[2][3] = {{{0}}};
    for (int i = 0; i < directions; i++) {
        Direction d = {
            .number = i, .reverse = i == 1 || !strcmp(node_str(x->n, "direction"), "reverse"), .hidden = hidden};
        d.projected = project(x, &in, i), d.lens = in.lens;
        if (codes) codes(x, &in, &d);
        if (!d.codes.id) d.r = recurrent(x, &in, i);
        d.h = part_of(x, in.h, i), d.c = part_of(x, in.c, i), d.peephole = part_of(x, in.p, i);
        if (in.b.id) {
            Val b = part_of(x, in.b, i);
            int64_t n = cell->gates * d.hidden;
            d.bias_w = ex_slice(x, b, 0, 0, n), d.bias_r = ex_slice(x, b, 0, n, 2 * n);
        }
        emit_scan(x, cell, &f, &d, part[i]);
    }
    finish_outputs(x, part, directions, t, batch_first);
    return true;
}

static Val project_float(Expand *x, const Inputs *in, int d)
{
    return EX(x, "MatMul", in->x, ex_swap(x, part_of(x, in->w, d)));
}
static Val recurrent_float(Expand *x, const Inputs *in, int d) { return part_of(x, in->r, d); }

static bool expand_float(Expand *x, const Cell *cell)
{
    DType wide = dtype_compute(ex_type(x, x->in[0])->dtype);
    Inputs in = {.x = x->in[0],
                 .w = ex_cast(x, x->in[1], wide),
                 .r = ex_cast(x, x->in[2], wide),
                 .b = ex_in(x, 3),
                 .lens = ex_in(x, 4),
                 .h = ex_in(x, 5)};
    if (cell == &lstm) in.c = ex_in(x, 6), in.p = ex_in(x, 7);
    int64_t hidden;
    if (ex_type(x, in.r)->rank != 3 || !dim_is_const(x->m->dim, ex_type(x, in.r)->dim[2], &hidden))
        return expand_error(x, "the hidden size must be known when compiling");
    return expand_recurrent(x, cell, in, hidden, project_float, recurrent_float, NULL);
}

static bool expand_lstm(Expand *x) { return expand_float(x, &lstm); }
static bool expand_gru(Expand *x) { return expand_float(x, &gru); }
static bool expand_rnn(Expand *x) { return expand_float(x, &rnn); }

/* com.microsoft.DynamicQuantizeLSTM: weights [D, I, 4H] in 8 bits. The projection quantizes X and multiplies integers, and so does every step with
 * its state; weights with a zero point that is not their middle become floats once, when compiling. */
static Val project_quantized(Expand *x, const Inputs *in, int d)
{
    Val scale = part_of(x, x->in[8], d), zero = part_of(x, ex_in(x, 9), d);
    return ex_dynamic_matmul(x, in->x, part_of(x, in->w, d), scale, zero);
}

static Val recurrent_quantized(Expand *x, const Inputs *in, int d)
{
    return ex_swap(x, ex_dequantize(x, part_of(x, in->r, d), part_of(x, x->in[10], d), part_of(x, ex_in(x, 11), d)));
}

/* R as s8 codes [4H, H], and their sums, by which the state's zero point counts; id 0: they have a zero point, or are not known. */
static Val recurrent_codes(Expand *x, const Inputs *in, int d, Val *sums)
{
    Quantized r = ex_as_i8(x, part_of(x, in->r, d), part_of(x, ex_in(x, 11), d));
    if (!ex_const(x, r.q) || r.zero.id || ex_type(x, in->x)->dtype != DT_f32) return (Val){0};
    Val codes = ex_transpose(x, r.q, (int64_t[]){1, 0}, 2);
    *sums = ex_sums(x, codes, (int64_t[]){1}, 1, false);
    return codes;
}

static void take_codes(Expand *x, const Inputs *in, Direction *d)
{
    d->codes = recurrent_codes(x, in, d->number, &d->sums);
    Val scale = part_of(x, x->in[10], d->number), wide = ex_ints(x, (int64_t[]){4 * d->hidden}, 1);
    if (d->codes.id) d->scale = EX(x, "Expand", ex_reshape(x, scale, (int64_t[]){-1}, 1), wide);
}

static bool expand_dynamic_lstm(Expand *x)
{
    Inputs in = {.x = x->in[0],
                 .w = x->in[1],
                 .r = x->in[2],
                 .b = ex_in(x, 3),
                 .lens = ex_in(x, 4),
                 .h = ex_in(x, 5),
                 .c = ex_in(x, 6),
                 .p = ex_in(x, 7)};
    int64_t hidden;
    if (ex_type(x, in.r)->rank != 3 || !dim_is_const(x->m->dim, ex_type(x, in.r)->dim[1], &hidden))
        return expand_error(x, "the hidden size must be known when compiling");
    return expand_recurrent(x, &lstm, in, hidden, project_quantized, recurrent_quantized, take_codes);
}

/* ---- the recurrent rows: XW [T, B, G*H], R [*, H] -> Y [T, B, H], last states [B, H] ---- */
static bool infer_scan(Infer *c)
{
    const Type *x = in_type(c, 0), *r = in_type(c, 1);
    if (x->rank != 3 || r->rank != 2)
        return infer_error(c, "XW and R have rank %d and %d, expected 3 and 2", x->rank, r->rank);
    out_shape(c, 0, 3, (Dim[]){x->dim[0], x->dim[1], r->dim[1]});
    for (uint32_t o = 1; o < c->n->nout; o++) out_shape(c, o, 2, (Dim[]){x->dim[1], r->dim[1]});
    return true;
}

typedef struct Scan {
    int xw, r, lens, t, b; /* buffers; the axes of steps and batch, shared by all stages */
    int scales, sums;      /* of the rows of R, where those are codes */
    Expr steps, batch, hidden, at_t, at_b, length,
        source; /* length: of this entry, 0 for all; source: the step of XW */
    DType acc;
    bool reverse;
} Scan;

static Scan scan_begin(Lower *l, uint32_t lens)
{
    Kernel *k = l->k;
    Scan s = {.xw = low_in(l, 0), .r = low_in(l, 1), .lens = low_in(l, lens), .reverse = node_int(l->n, "reverse")};
    uint32_t scales = (uint32_t)l->n->op->w_scales;
    s.scales = low_in(l, scales), s.sums = low_in(l, scales + 1);
    s.acc = low_type(l, s.xw);
    s.steps = low_dim(l, s.xw, 0), s.batch = low_dim(l, s.xw, 1), s.hidden = low_dim(l, s.r, 1);
    s.t = low_axis(l, s.steps), s.b = low_axis(l, s.batch);
    s.at_t = expr_axis(k, s.t), s.at_b = expr_axis(k, s.b), s.source = s.at_t;
    Expr one = expr_index(k, 1), end = s.steps;
    if (s.lens) end = s.length = low_i64(l, expr_load(k, s.lens, (Expr[MAX_RANK]){s.at_b}));
    if (s.reverse) s.source = expr_sub(k, expr_sub(k, end, one), s.at_t);
    if (s.reverse && s.lens) s.source = expr_prim(k, P_max, s.source, expr_index(k, 0), 0);
    return s;
}

static Expr load3(Lower *l, int buf, Expr a, Expr b, Expr c) { return expr_load(l->k, buf, (Expr[MAX_RANK]){a, b, c}); }
static Expr load2(Lower *l, int buf, Expr a, Expr b) { return expr_load(l->k, buf, (Expr[MAX_RANK]){a, b}); }
static Expr load1(Lower *l, int buf, Expr a) { return expr_load(l->k, buf, (Expr[MAX_RANK]){a}); }
static Expr next(Lower *l, Expr e) { return expr_add(l->k, e, expr_index(l->k, 1)); }

/* Function i of the node. */
static Expr apply(Lower *l, uint32_t i, Expr x)
{
    Kernel *k = l->k;
    DType t = (DType)expr_node(k, x)->type;
    const Activation *row = find_activation(node_attr(l->n, "activations")->strings[i]);
    Expr arg[] = {x, low_const(l, t, node_attr(l->n, "alpha")->floats[i]),
                  low_const(l, t, node_attr(l->n, "beta")->floats[i])};
    return low_formula(l, t == DT_f32 && row->f32 ? row->f32 : row->body, (const char *const[]){"x", "a", "b"}, arg, 3);
}

/* The same on a gate, which is clipped first where the node says so (the cell is not, as in ONNX Runtime). */
static Expr activate(Lower *l, uint32_t i, Expr x)
{
    Kernel *k = l->k;
    DType t = (DType)expr_node(k, x)->type;
    double clip = node_float(l->n, "clip");
    if (clip > 0) x = expr_prim(k, P_min, expr_prim(k, P_max, x, low_const(l, t, -clip), 0), low_const(l, t, clip), 0);
    return apply(l, i, x);
}

/* The states of all steps, the initial one first. */
static int state_buffer(Lower *l, const Scan *s, uint32_t initial)
{
    Kernel *k = l->k;
    int buf = low_temp(l, s->acc, 3, (Expr[]){next(l, s->steps), s->batch, s->hidden}), from = low_in(l, initial);
    int axis[3] = {low_axis(l, expr_index(k, 1)), low_axis(l, s->batch), low_axis(l, s->hidden)};
    Expr at[MAX_RANK] = {expr_axis(k, axis[1]), expr_axis(k, axis[2])};
    low_stage(l, buf, axis, 3, from ? expr_load(k, from, at) : low_const(l, s->acc, 0));
    return buf;
}

/* A product of the states with rows of R, where those are floats: out[t, b, n] = state[t, b] . r[from + n] (+ XW at its step) */
typedef struct Recurrence {
    int out, state;
    Expr from, width; /* from 0: the first */
    bool add;
} Recurrence;

static void recur_floats(Lower *l, const Scan *s, const Recurrence *r)
{
    Kernel *k = l->k;
    int n = low_axis(l, r->width), j = low_axis(l, s->hidden), space[3] = {s->t, s->b, n};
    Expr at_n = expr_axis(k, n), row = r->from ? expr_add(k, at_n, r->from) : at_n;
    Expr value = expr_mul(k, load3(l, r->state, s->at_t, s->at_b, expr_axis(k, j)), load2(l, s->r, row, expr_axis(k, j)));
    Expr it = expr_it(k, s->acc);
    if (r->add) it = expr_add(k, it, load3(l, s->xw, s->source, s->at_b, at_n));
    low_reduce(l, r->out, space, 3, &j, 1, P_add, value, it)->scan = s->t;
}

/* The state of a step as u8 codes, each entry of the batch by its own range, zero included, as DynamicQuantizeLinear does it. (ONNX Runtime
 * takes so many entries together as its threads have to share; alone they give the same results in every batch.) */
typedef struct Coded {
    int codes;
    Expr scale, zero; /* of step at_t, entry at_b */
} Coded;

static Expr state_end(Lower *l, const Scan *s, int state, Prim how)
{
    Kernel *k = l->k;
    int buf = low_temp(l, s->acc, 2, (Expr[]){s->steps, s->batch}), h = low_axis(l, s->hidden), space[2] = {s->t, s->b};
    Expr value = load3(l, state, s->at_t, s->at_b, expr_axis(k, h)), zero = low_const(l, s->acc, 0);
    low_reduce(l, buf, space, 2, &h, 1, how, value, expr_prim(k, how, expr_it(k, s->acc), zero, 0))->scan = s->t;
    return load2(l, buf, s->at_t, s->at_b);
}

/* A value for each entry and step, kept. */
static Expr kept(Lower *l, const Scan *s, DType t, Expr value)
{
    int buf = low_temp(l, t, 2, (Expr[]){s->steps, s->batch});
    low_stage(l, buf, (int[]){s->t, s->b}, 2, value)->scan = s->t;
    return load2(l, buf, s->at_t, s->at_b);
}

static Coded coded_state(Lower *l, const Scan *s, int state)
{
    Kernel *k = l->k;
    Coded c = {.codes = low_temp(l, DT_u8, 3, (Expr[]){s->steps, s->batch, s->hidden})};
    Expr lo = state_end(l, s, state, P_min), hi = state_end(l, s, state, P_max), none = low_const(l, DT_f32, 0), top = low_const(l, DT_f32, 255);
    Expr flat = expr_prim(k, P_eq, lo, hi, 0), step = expr_div(k, expr_sub(k, hi, lo), top);
    c.scale = kept(l, s, DT_f32, low_select(l, flat, low_const(l, DT_f32, 1), step));
    Expr from = expr_sub(k, none, expr_div(k, lo, c.scale));
    from = expr_prim(k, P_min, expr_prim(k, P_max, from, none, 0), top, 0);
    c.zero = kept(l, s, DT_i32, expr_sat(k, DT_i32, expr_prim(k, P_rint, from, 0, 0)));
    int h = low_axis(l, s->hidden);
    Expr x = load3(l, state, s->at_t, s->at_b, expr_axis(k, h));
    Expr q = expr_add(k, expr_prim(k, P_rint, expr_div(k, x, c.scale), 0, 0), expr_cast(k, DT_f32, c.zero));
    low_stage(l, c.codes, (int[]){s->t, s->b, h}, 3, expr_sat(k, DT_u8, q))->scan = s->t;
    return c;
}

/* The same with integers: f32(codes . r[n] - zero * sums[n]) * (scale * scales[n]) (+ XW). */
static void recur_codes(Lower *l, const Scan *s, const Recurrence *r)
{
    Kernel *k = l->k;
    Coded c = coded_state(l, s, r->state);
    int n = low_axis(l, r->width), j = low_axis(l, s->hidden), space[3] = {s->t, s->b, n};
    Expr at_n = expr_axis(k, n), at_j = expr_axis(k, j), row = r->from ? expr_add(k, at_n, r->from) : at_n;
    Expr code = load3(l, c.codes, s->at_t, s->at_b, at_j);
    Expr value = expr_mul(k, expr_cast(k, DT_i32, code), expr_cast(k, DT_i32, load2(l, s->r, row, at_j)));
    Expr it = expr_sub(k, expr_it(k, DT_i32), expr_mul(k, c.zero, load1(l, s->sums, row)));
    it = expr_mul(k, expr_cast(k, DT_f32, it), expr_mul(k, c.scale, load1(l, s->scales, row)));
    if (r->add) it = expr_add(k, it, load3(l, s->xw, s->source, s->at_b, at_n));
    low_reduce(l, r->out, space, 3, &j, 1, P_add, value, it)->scan = s->t;
}

static void recur(Lower *l, const Scan *s, Recurrence r)
{
    if (s->scales) recur_codes(l, s, &r);
    else recur_floats(l, s, &r);
}

/* state[t+1, b, h] = value, or what it was after the entry's last step. */
static void advance(Lower *l, const Scan *s, int state, int h, Expr value)
{
    Kernel *k = l->k;
    if (s->lens)
        value =
            low_select(l, expr_lt(k, s->at_t, s->length), value, load3(l, state, s->at_t, s->at_b, expr_axis(k, h)));
    Compute *c = low_stage(l, state, (int[]){s->t, s->b, h}, 3, value);
    c->at[0] = next(l, s->at_t);
    c->scan = s->t;
}

static void elementwise(Lower *l, const Scan *s, int out, int h, Expr value)
{
    low_stage(l, out, (int[]){s->t, s->b, h}, 3, value)->scan = s->t;
}

static void store_sequence(Lower *l, const Scan *s, int y, int state)
{
    Kernel *k = l->k;
    int axis[3];
    Expr at[MAX_RANK] = {0};
    low_axes(l, y, axis), low_index(l, axis, 3, at);
    Expr length = s->lens ? low_i64(l, load1(l, s->lens, at[1])) : s->steps;
    Expr step = s->reverse ? expr_sub(k, length, at[0]) : next(l, at[0]);
    Expr value = load3(l, state, step, at[1], at[2]);
    if (s->lens) value = expr_guard(k, expr_lt(k, at[0], length), value, low_const(l, s->acc, 0));
    low_stage(l, y, axis, 3, value);
}

static void store_last(Lower *l, const Scan *s, uint32_t o, int state)
{
    if (l->n->nout <= o || !low_out(l, o)) return;
    int axis[2];
    Expr at[MAX_RANK] = {0};
    low_axes(l, low_out(l, o), axis), low_index(l, axis, 2, at);
    low_stage(l, low_out(l, o), axis, 2, load3(l, state, s->steps, at[0], at[1]));
}

/* XW, R, initial_h, sequence_lens, initial_c, P; of an R of codes its scales, its sums and a bias that comes last; gates in the order i o f c,
 * peepholes i o f. */
static void lower_lstm_scan(Lower *l)
{
    Kernel *k = l->k;
    Scan s = scan_begin(l, 3);
    Expr width = expr_mul(k, s.hidden, expr_index(k, 4));
    int hs = state_buffer(l, &s, 2), cs = state_buffer(l, &s, 4), p = low_in(l, 5);
    int gates = low_temp(l, s.acc, 3, (Expr[]){s.steps, s.batch, width});
    int bias = low_in(l, 8);
    recur(l, &s, (Recurrence){.out = gates, .state = hs, .width = width, .add = true});
    int h = low_axis(l, s.hidden);
    Expr at_h = expr_axis(k, h), gate[4], old = load3(l, cs, s.at_t, s.at_b, at_h), one = low_const(l, s.acc, 1);
    for (int i = 0; i < 4; i++) {
        Expr place = expr_add(k, at_h, expr_mul(k, s.hidden, expr_index(k, i)));
        gate[i] = load3(l, gates, s.at_t, s.at_b, place);
        if (bias) gate[i] = expr_add(k, gate[i], load1(l, bias, place));
        Expr peep = p && i < 3 ? load1(l, p, place) : 0;
        if (peep)
            gate[i] =
                expr_add(k, gate[i], expr_mul(k, peep, i == 1 ? load3(l, cs, next(l, s.at_t), s.at_b, at_h) : old));
    }
    Expr in = activate(l, 0, gate[0]);
    Expr forget = node_int(l->n, "input_forget") ? expr_sub(k, one, in) : activate(l, 0, gate[2]);
    advance(l, &s, cs, h, expr_add(k, expr_mul(k, forget, old), expr_mul(k, in, activate(l, 1, gate[3]))));
    Expr now = load3(l, cs, next(l, s.at_t), s.at_b, at_h);
    advance(l, &s, hs, h, expr_mul(k, activate(l, 0, gate[1]), apply(l, 2, now)));
    store_sequence(l, &s, low_out(l, 0), hs);
    store_last(l, &s, 1, hs), store_last(l, &s, 2, cs);
}

/* XW, R, initial_h, sequence_lens, bias of h inside the reset; of an R of codes its scales and its sums; gates in the order z r h. */
static void lower_gru_scan(Lower *l)
{
    Kernel *k = l->k;
    Scan s = scan_begin(l, 3);
    bool apart = !node_int(l->n, "linear_before_reset"); /* the candidate's rows of R multiply the states after the reset */
    int bias = low_in(l, 4), hs = state_buffer(l, &s, 2), h = low_axis(l, s.hidden);
    Expr width = expr_mul(k, s.hidden, expr_index(k, apart ? 2 : 3)), at_h = expr_axis(k, h), x[3], m[3];
    int sums = low_temp(l, s.acc, 3, (Expr[]){s.steps, s.batch, width});
    recur(l, &s, (Recurrence){.out = sums, .state = hs, .width = width});
    for (int i = 0; i < 3; i++) {
        Expr place = expr_add(k, at_h, expr_mul(k, s.hidden, expr_index(k, i)));
        x[i] = load3(l, s.xw, s.source, s.at_b, place);
        m[i] = apart && i == 2 ? 0 : load3(l, sums, s.at_t, s.at_b, place);
    }
    Expr old = load3(l, hs, s.at_t, s.at_b, at_h), reset = activate(l, 0, expr_add(k, x[1], m[1])), inner;
    if (apart) {
        Expr dim[] = {s.steps, s.batch, s.hidden};
        int kept = low_temp(l, s.acc, 3, dim), sum = low_temp(l, s.acc, 3, dim);
        elementwise(l, &s, kept, h, expr_mul(k, reset, old));
        recur(l, &s, (Recurrence){.out = sum, .state = kept, .from = width, .width = s.hidden});
        inner = load3(l, sum, s.at_t, s.at_b, at_h);
    } else {
        inner = expr_mul(k, reset, bias ? expr_add(k, m[2], load1(l, bias, at_h)) : m[2]);
    }
    Expr update = activate(l, 0, expr_add(k, x[0], m[0])), fresh = activate(l, 1, expr_add(k, x[2], inner));
    Expr keep = expr_mul(k, update, old), change = expr_mul(k, expr_sub(k, low_const(l, s.acc, 1), update), fresh);
    advance(l, &s, hs, h, expr_add(k, change, keep));
    store_sequence(l, &s, low_out(l, 0), hs);
    store_last(l, &s, 1, hs);
}

/* XW, R, initial_h, sequence_lens; of an R of codes its scales and its sums */
static void lower_rnn_scan(Lower *l)
{
    Kernel *k = l->k;
    Scan s = scan_begin(l, 3);
    int hs = state_buffer(l, &s, 2), h = low_axis(l, s.hidden);
    int sums = low_temp(l, s.acc, 3, (Expr[]){s.steps, s.batch, s.hidden});
    recur(l, &s, (Recurrence){.out = sums, .state = hs, .width = s.hidden, .add = true});
    advance(l, &s, hs, h, activate(l, 0, load3(l, sums, s.at_t, s.at_b, expr_axis(k, h))));
    store_sequence(l, &s, low_out(l, 0), hs);
    store_last(l, &s, 1, hs);
}

#define RECURRENT                                                                                                      \
    "activation_alpha:floats activation_beta:floats activations:strings clip:float direction:string=forward "          \
    "hidden_size:int layout:int=0 "
#define RECURS .quant = QUANT_STATE, .w_channel = 0, .w_input = 1
#define SCAN "activations:strings alpha:floats beta:floats clip:float=0 reverse:int=0 "
const OpDef ops_rnn[] = {
    OP(LSTM, .since = 7,
       .sig = "X:T W:T R:T B:T? sequence_lens:i32? initial_h:T? initial_c:T? P:T? -> Y:T? Y_h:T? Y_c:T?", .T = "float",
       .attrs = RECURRENT "input_forget:int=0", .infer = infer_lstm, .expand = expand_lstm),
    OP(GRU, .since = 7, .sig = "X:T W:T R:T B:T? sequence_lens:i32? initial_h:T? -> Y:T? Y_h:T?", .T = "float",
       .attrs = RECURRENT "linear_before_reset:int=0", .infer = infer_gru, .expand = expand_gru),
    OP(RNN, .since = 7, .sig = "X:T W:T R:T B:T? sequence_lens:i32? initial_h:T? -> Y:T? Y_h:T?", .T = "float",
       .attrs = RECURRENT, .infer = infer_rnn, .expand = expand_rnn),
    OP(DynamicQuantizeLSTM, .domain = "com.microsoft", .since = 1,
       .sig = "X:T W:U R:U B:T? sequence_lens:i32? initial_h:T? initial_c:T? P:T? W_scale:T W_zero_point:U R_scale:T "
              "R_zero_point:U "
              "-> Y:T? Y_h:T? Y_c:T?",
       .T = "f32", .U = "u8 i8", .attrs = RECURRENT "input_forget:int=0", .infer = infer_dynamic_lstm,
       .expand = expand_dynamic_lstm),
    OP(LSTMScan, .domain = "octet", .since = 1,
       .sig = "XW:T R:U initial_h:T? sequence_lens:i32? initial_c:T? P:T? R_scale:T? R_sums:i32? B:T? -> Y:T Y_h:T? Y_c:T?", .T = "f32 f64",
       .U = "f32 f64 i8", .attrs = SCAN "input_forget:int=0", .infer = infer_scan, .lower = lower_lstm_scan, RECURS, .w_scales = 6),
    OP(GRUScan, .domain = "octet", .since = 1,
       .sig = "XW:T R:U initial_h:T? sequence_lens:i32? Rbh:T? R_scale:T? R_sums:i32? -> Y:T Y_h:T?", .T = "f32 f64", .U = "f32 f64 i8",
       .attrs = SCAN "linear_before_reset:int=0", .infer = infer_scan, .lower = lower_gru_scan, RECURS, .w_scales = 5),
    OP(RNNScan, .domain = "octet", .since = 1,
       .sig = "XW:T R:U initial_h:T? sequence_lens:i32? R_scale:T? R_sums:i32? -> Y:T Y_h:T?", .T = "f32 f64", .U = "f32 f64 i8",
       .attrs = SCAN, .infer = infer_scan, .lower = lower_rnn_scan, RECURS, .w_scales = 4),
    {0},
};
