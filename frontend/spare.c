/* spare.c - see spare.h. */
#include "frontend/spare.h"
#include "frontend/costs.h"
#include "ir/op.h"
#include <math.h>

typedef struct Spare {
    const Graph *g;
    Quantization *q;
    Roundings r;
    const WeightForm *form; /* of every node */
    LayerCodes *codes; /* of every rounding */
} Spare;

static const Node *node_of(const Spare *s, uint32_t i) { return &s->g->node.at[s->r.at[i].node]; }
static const Tensor *weights_of(const Spare *s, uint32_t i) { return graph_val(s->g, node_in(s->g, node_of(s, i), 1))->konst; }

static Val off_by_codes(const void *spare, Graph *to, uint32_t i, Val was)
{
    const Spare *s = spare;
    const float *w = weights_of(s, i)->data;
    Tensor *off = code_values(&s->codes[i].codes, to->mem);
    float *x = (float *)(uintptr_t)off->data;
    (void)was;
    for (int64_t k = 0, n = tensor_count(off); k < n; k++) x[k] -= w[k];
    arena_rest(to->mem);
    return graph_const(to, off, NULL);
}

static Val shift_of(const void *spare, Graph *to, uint32_t i, Val was)
{
    const Spare *s = spare;
    const Node *n = node_of(s, i);
    Arena mem = {0};
    const Range *r = range_find(s->q, tensor_name(s->g, node_in(s->g, n, 0), &mem));
    const float *lost = lost_of_pixels(n, weights_of(s, i), &s->codes[i], r, to->mem);
    arena_drop(&mem);
    return lost ? emit(to, "Sub", n->loc, 2, add_lost(to, n, weights_of(s, i), was, lost), was) : (Val){0};
}

/* What is left of the cost with other codes: errors of outputs on rows held out tell, or those of weights. */
static double left_by(const LayerCodes *is, const LayerCodes *other)
{
    double error = other->error / is->error, ratio = isfinite(error) ? error * error : pow(10, (is->sqnr - other->sqnr) / 10);
    return ratio < 1 ? ratio : 1;
}

/* Groups of half the size first, where there are any, then 8 bits. More bits cost by their number, as many by that of the weights. */
static void reliefs_find(Spare *s, uint32_t i)
{
    Rounding *r = &s->r.at[i];
    const LayerCodes *is = &s->codes[i], *finer = layer_finer(s->g, node_of(s, i), s->q);
    double weights = (double)tensor_count(weights_of(s, i));
    WeightForm eight = form_spared(s->q);
    double more = weight_bits(&eight) - weight_bits(&is->form);
    if (finer) r->by[r->reliefs++] = (Relief){weights * (weight_bits(&finer->form) - weight_bits(&is->form)), left_by(is, finer)};
    r->by[r->reliefs++] = (Relief){weights * (more > 0 ? more : 1), 0};
}

static void roundings_find(Spare *s, Arena *mem)
{
    const WeightForm *form = s->form = quantize_forms(s->g, s->q, mem);
    s->r.at = NEW_ARRAY(mem, Rounding, s->g->node.n + 1), s->codes = NEW_ARRAY(mem, LayerCodes, s->g->node.n + 1);
    for (uint32_t i = 0; i < s->g->node.n; i++) {
        if (!form[i].code) continue;
        uint32_t at = s->r.n++;
        s->codes[at] = layer_codes(s->g, &s->g->node.at[i], s->q, form[i], NULL), s->r.at[at] = (Rounding){.node = i, .operand = 1};
        if (form[i].code == s->q->form.code) reliefs_find(s, at);
    }
}

/* So many bits more as make the codes of all no larger than they may become: by a part of what they would be with scales of 16 bits. */
static double most_to_spare(const Spare *s)
{
    WeightForm eight = form_spared(s->q);
    double most = 0;
    for (uint32_t i = 0; i < s->r.n; i++) {
        WeightForm is = s->form[s->r.at[i].node], plain = {.code = is.code, .group = is.group};
        most += (double)tensor_count(weights_of(s, i)) * ((1 + s->q->part) * weight_bits(&plain) - weight_bits(&is));
    }
    return weight_bits(&eight) > weight_bits(&s->q->form) ? fmax(most, 0) : INFINITY;
}

bool spare_weights(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag)
{
    Arena mem = {0};
    Spare s = {.g = g, .q = q, .r = {.part = q->bound, .off = off_by_codes, .shift = shift_of}};
    s.r.fitted = q->weights && q->weights->needs & WEIGHT_MOMENTS;
    s.r.ctx = &s, roundings_find(&s, &mem), s.r.most = most_to_spare(&s);
    bool ok = costs_choose(g, &s.r, o, diag);
    q->costs = s.r.costs;
    for (uint32_t i = 0; ok && i < s.r.n; i++) {
        const Rounding *r = &s.r.at[i];
        cost_note(q, tensor_name(g, node_of(&s, i)->out, &mem), r->cost, r->relief > 0);
        if (r->relief && r->relief == r->reliefs) layer_spare(g, node_of(&s, i), q);
        else if (r->relief) codes_set(q, *layer_finer(g, node_of(&s, i), q));
    }
    arena_drop(&mem);
    return ok;
}
