/* equalize.c - cross-layer equalization: where one contraction makes the channels that others read, a channel's weights become as large in the one
 * as in the others, so that no channel needs a scale much larger than its neighbours'.
 * Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1.
 *
 * Channel c is divided by s = sqrt(largest weight that makes it / largest that reads it): weights and bias that make it are, what reads it
 * is multiplied. That goes through what keeps a positive factor, found by the walk of balance.c; sums of several contractions
 * are divided in all of them. Every contraction stands in two pairs, so the factors are found by turns until they stay. */
#include "passes/balance.h"
#include "passes/passes.h"
#include <math.h>

enum { TURNS = 32 };
static const double STAYS = 1e-3, MOST = 1e3; /* of the logarithms; of a factor */

typedef struct Weights { /* of a contraction that is read or made by: the largest of all taps, [out][in] */
    int64_t out, in;
    float *most;
    double *made, *read; /* factors of rows and of columns */
} Weights;

typedef struct Equalizer {
    const Graph *g;
    Weights *weights;    /* per node; out 0: none */
    VEC(Gains) gains;
    uint32_t *of;        /* per Val: number + 1 in gains */
    struct Nodes {
        VEC(uint32_t) maker, reader;
    } *nodes;            /* per gains */
    uint32_t *readers;
    int *from_end;
    const Gains **taken; /* per node */
    bool *folds;
    Arena *mem;
} Equalizer;

static bool is_contraction(const Graph *g, const Node *n)
{
    const Tensor *t = n->op->quant == QUANT_INTEGER ? graph_val(g, node_in(g, n, 1))->konst : NULL;
    return t && t->type == DT_f32 && t->rank >= 2;
}

static void read_weights(Equalizer *e, uint32_t i)
{
    Weights *w = &e->weights[i];
    if (w->out) return;
    Arena work = {0};
    WeightMatrix m = weight_matrix(e->g, &e->g->node.at[i], &work);
    w->out = m.out / m.batches, w->in = m.channels;
    w->most = NEW_ARRAY(e->mem, float, w->out * w->in + 1);
    w->made = NEW_ARRAY(e->mem, double, w->out + 1), w->read = NEW_ARRAY(e->mem, double, w->in + 1);
    for (int64_t r = 0; r < m.out; r++)
        for (int64_t c = 0; c < m.in; c++) {
            float *most = &w->most[r % w->out * w->in + c % w->in];
            *most = fmaxf(*most, fabsf(m.w[r * m.in + c]));
        }
    for (int64_t r = 0; r < w->out; r++) w->made[r] = 1;
    for (int64_t c = 0; c < w->in; c++) w->read[c] = 1;
    arena_drop(&work);
}

/* Values that weights which will be codes multiply, all channels in one group. */
static void find_values(Equalizer *e, const WeightForm *form)
{
    for (uint32_t i = 0; i < e->g->node.n; i++) {
        const Node *n = &e->g->node.at[i];
        int64_t channels;
        if (!form[i].code || !is_contraction(e->g, n)) continue;
        Val x = node_in(e->g, n, 0);
        const Type *t = val_type(e->g, x);
        const Tensor *w = graph_val(e->g, node_in(e->g, n, 1))->konst;
        int axis = axis_at(n->op->x_input, t->rank);
        if (!dim_is_const(e->g->module->dim, t->dim[axis], &channels) || w->dim[axis_at(n->op->w_input, w->rank)] != channels) continue;
        if (!e->of[x.id]) vec_push(e->mem, &e->gains, ((Gains){x, channels, NEW_ARRAY(e->mem, float, channels + 1)})), e->of[x.id] = e->gains.n;
        e->readers[e->of[x.id] - 1]++, e->from_end[e->of[x.id] - 1] = t->rank - axis;
    }
}

static double largest_made(const Equalizer *e, const struct Nodes *n, int64_t c)
{
    double most = 0;
    for (uint32_t i = 0; i < n->maker.n; i++) {
        const Weights *w = &e->weights[n->maker.at[i]];
        for (int64_t j = 0; j < w->in; j++) most = fmax(most, (double)w->most[c * w->in + j] * w->made[c] * w->read[j]);
    }
    return most;
}

static double largest_read(const Equalizer *e, const struct Nodes *n, int64_t c)
{
    double most = 0;
    for (uint32_t i = 0; i < n->reader.n; i++) {
        const Weights *w = &e->weights[n->reader.at[i]];
        for (int64_t r = 0; r < w->out; r++) most = fmax(most, (double)w->most[r * w->in + c] * w->made[r] * w->read[c]);
    }
    return most;
}

static double take_turn(const Equalizer *e, const Gains *g, const struct Nodes *n)
{
    double change = 0;
    for (int64_t c = 0; c < g->channels; c++) {
        float *gain = (float *)(uintptr_t)g->by + c;
        double made = largest_made(e, n, c), read = largest_read(e, n, c), by = sqrt(made / read);
        if (!(made > 0) || !(read > 0) || !isfinite(by)) continue;
        by = fmin(MOST / (double)*gain, fmax(1 / (MOST * (double)*gain), by));
        change = fmax(change, fabs(log(by))), *gain *= (float)by;
        for (uint32_t i = 0; i < n->maker.n; i++) e->weights[n->maker.at[i]].made[c] /= by;
        for (uint32_t i = 0; i < n->reader.n; i++) e->weights[n->reader.at[i]].read[c] *= by;
    }
    return change;
}

/* Who makes and reads it. A division that no weights take says nothing about how large they should be. */
static bool is_pair(Equalizer *e, const Gains *g, struct Nodes *n)
{
    for (uint32_t i = 0; i < e->g->node.n; i++) {
        const Node *node = &e->g->node.at[i];
        if (!is_contraction(e->g, node)) continue;
        bool reads = node_in(e->g, node, 0).id == g->x.id, makes = e->taken[i] == g;
        if (reads) vec_push(e->mem, &n->reader, i);
        if (makes) vec_push(e->mem, &n->maker, i);
        if (reads || makes) read_weights(e, i);
    }
    return n->maker.n > 0;
}

static bool is_left(const Equalizer *e, const Quantization *q, const Gains *g)
{
    const char *name = tensor_name(e->g, g->x, e->mem);
    for (uint32_t i = 0; i < q->uneven.n; i++)
        if (!strcmp(q->uneven.at[i], name)) return true;
    return false;
}

/* For whoever judges it: by names, which other graphs of the same model have too. */
static void note_pair(const Equalizer *e, const Gains *g, const struct Nodes *n, Quantization *q)
{
    EqualPair p = {.x = tensor_name(e->g, g->x, q->mem)};
    for (uint32_t i = 0; i < n->maker.n; i++) vec_push(q->mem, &p.layer, tensor_name(e->g, e->g->node.at[n->maker.at[i]].out, q->mem));
    for (uint32_t i = 0; i < n->reader.n; i++) vec_push(q->mem, &p.layer, tensor_name(e->g, e->g->node.at[n->reader.at[i]].out, q->mem));
    vec_push(q->mem, &q->pair, p);
}

Graph *pass_equalize(const Graph *in, PassCtx *ctx)
{
    Arena *mem = ctx->scratch;
    Equalizer e = {.g = in, .mem = mem, .weights = NEW_ARRAY(mem, Weights, in->node.n + 1), .of = NEW_ARRAY(mem, uint32_t, in->val.n + 1)};
    e.readers = NEW_ARRAY(mem, uint32_t, in->node.n + 1), e.from_end = NEW_ARRAY(mem, int, in->node.n + 1);
    find_values(&e, quantize_forms(in, ctx->quant, mem));
    e.nodes = NEW_ARRAY(mem, struct Nodes, e.gains.n + 1);
    e.folds = NEW_ARRAY(mem, bool, e.gains.n + 1);
    e.taken = gains_taken(in, e.gains.at, e.readers, e.from_end, e.gains.n, e.folds, mem);
    ctx->quant->pair.n = 0;
    Quantization q = *ctx->quant;
    q.gains.at = NULL, q.gains.n = q.gains.cap = 0;
    for (uint32_t i = 0; i < e.gains.n; i++) {
        const Gains *g = &e.gains.at[i];
        for (int64_t c = 0; c < g->channels; c++) ((float *)(uintptr_t)g->by)[c] = 1;
        e.folds[i] = e.folds[i] && !is_left(&e, ctx->quant, g) && is_pair(&e, g, &e.nodes[i]);
    }
    double change = 1;
    for (int turn = 0; turn < TURNS && change > STAYS; turn++) {
        change = 0;
        for (uint32_t i = 0; i < e.gains.n; i++)
            if (e.folds[i]) change = fmax(change, take_turn(&e, &e.gains.at[i], &e.nodes[i]));
    }
    for (uint32_t i = 0; i < e.gains.n; i++)
        if (e.folds[i]) vec_push(mem, &q.gains, e.gains.at[i]), note_pair(&e, &e.gains.at[i], &e.nodes[i], ctx->quant);
    return graph_balanced(in, &q, ctx->mem);
}
