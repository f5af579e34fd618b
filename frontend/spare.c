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

static void roundings_find(Spare *s, Arena *mem)
{
    const WeightForm *form = s->form = quantize_forms(s->g, s->q, mem);
    s->r.at = NEW_ARRAY(mem, Rounding, s->g->node.n + 1), s->codes = NEW_ARRAY(mem, LayerCodes, s->g->node.n + 1);
    for (uint32_t i = 0; i < s->g->node.n; i++) {
        if (!form[i].code) continue;
        s->codes[s->r.n] = layer_codes(s->g, &s->g->node.at[i], s->q, form[i], NULL);
        Rounding *r = &s->r.at[s->r.n];
        *r = (Rounding){.node = i, .operand = 1, .fixed = form[i].code != s->q->form.code};
        r->price = (double)tensor_count(weights_of(s, s->r.n++));
    }
}

/* So many weights as make the codes of all no larger than they may become. */
static double most_to_spare(const Spare *s)
{
    WeightForm eight = form_spared(s->q);
    double all = 0, more = weight_bits(&eight) - weight_bits(&s->q->form);
    for (uint32_t i = 0; i < s->r.n; i++) all += s->r.at[i].price * weight_bits(&s->form[s->r.at[i].node]);
    return more > 0 ? s->q->part * all / more : INFINITY;
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
        cost_note(q, tensor_name(g, node_of(&s, i)->out, &mem), s.r.at[i].cost, s.r.at[i].spared);
        if (s.r.at[i].spared) layer_spare(g, node_of(&s, i), q);
    }
    arena_drop(&mem);
    return ok;
}
