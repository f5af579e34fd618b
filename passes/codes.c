/* codes.c - constant weights and tables in few bits, under activations that stay float: all of them, or those of products that integers would slow down.
 *
 * Comes in: the graph after `quantize`. Goes out: the same graph, where large float constants that a product multiplies with, or that are
 * looked up, are codes in a DequantizeLinear; `finish` leaves those alone and kernels widen them (codegen/widen.c). How they are rounded
 * is weights.c's. What gets which form:
 *
 *   products   the precision's form. Small and shallow ones stay float: they are few bytes and many errors.
 *   windows    of channels one by one (depthwise convolutions): 8 bits and a scale for each channel, under every precision; few bits and groups
 *              would save little of so little. Beside integer products these are what this pass makes codes of: as integers they would be slower.
 *   the last   products that no other stands behind (a classifier, a language model's head), and the first behind a float input, have the spared
 *              form: their errors reach the output, or everything, as they are.
 *   filters    every pixel uses them again, so that few bits save no time: small ones have the spared form too.
 *   states     weights that multiply the state of a recurrence are used again by every step: the same.
 *   tables     the precision's form for tables, a row being what is looked up.
 *   costly     groups of half the size, or the form of 8 bits: what the precision's form of it would cost the outputs was measured (frontend/spare.h).
 *   tied       a table that is also the weights of a product, the other way round, is stored once, in the spared form. */
#include "passes/passes.h"
#include "passes/quantize.h"
#include "passes/simulate.h"
#include <assert.h>
#include <math.h>

enum { LEAST_WEIGHTS = 8192, LEAST_CHANNELWISE = 1024, LEAST_FILTERS = 1 << 18, LEAST_DEPTH = 32, LEAST_TABLE = 1 << 16, LEAST_ENTRY = 32 };

typedef struct Coder {
    PassCtx *ctx;
    Quantization *q;
    const Graph *in;
    Graph *out;
    Val *map, *coded;     /* per old Val: its DequantizeLinear, made on first need */
    const bool *live;
    bool *behind;          /* per old Val: a product made it */
    const bool *before;    /* per old Val: a product reads it, or what is made of it */
    const bool *looked;    /* per old Val: looked up */
    Arena *mem;            /* for names */
    regex_t keep;
} Coder;

/* ---- looking ---- */
static const Tensor *floats_of(const Graph *g, Val v)
{
    const Tensor *t = v.id ? graph_val(g, v)->konst : NULL;
    return t && t->type == DT_f32 && t->rank >= 2 ? t : NULL;
}

static bool multiplies(const Node *n) { return n->op->w_channel != n->op->w_input; }

static Dim dim_at(const Type *t, int axis) { return t->dim[axis_at(axis, t->rank)]; }

bool is_channelwise(const Graph *g, const Node *n)
{
    Dims *d = g->module->dim;
    const Type *x = val_type(g, node_in(g, n, 0)), *w = val_type(g, node_in(g, n, 1));
    if (!n->op->w_taps || !dim_is(d, dim_at(w, n->op->w_input), 1)) return false;
    return dim_same(dim_canon(d, dim_at(x, n->op->x_input)), dim_canon(d, dim_at(w, n->op->w_channel)));
}

bool widens_weights(const Graph *g, const Node *n)
{
    const Type *w = val_type(g, node_in(g, n, 1));
    int64_t all = 1, size, columns;
    if (w->rank < 2) return false;
    for (int d = 0; d < w->rank; d++) {
        if (!dim_is_const(g->module->dim, w->dim[d], &size)) return false;
        all *= size;
    }
    if (is_channelwise(g, n)) return all >= LEAST_CHANNELWISE;
    dim_is_const(g->module->dim, dim_at(w, n->op->w_channel), &columns);
    return all >= LEAST_WEIGHTS && all / columns >= LEAST_DEPTH;
}

bool codes_beside_integers(const Graph *g, const Quantization *q, const Node *n)
{
    return !q->float_activations && n->op->quant == QUANT_INTEGER && floats_of(g, node_in(g, n, 1)) && widens_weights(g, n) && integer_is_slower(g, n);
}

static bool *before_products(const Graph *g, const bool *live, Arena *mem)
{
    bool *before = NEW_ARRAY(mem, bool, g->val.n + 1);
    for (uint32_t i = g->node.n; i-- > 0;) {
        const Node *n = &g->node.at[i];
        bool is = multiplies(n);
        if (!live[i]) continue;
        for (uint32_t k = 0; k < n->nout; k++) is = is || before[n->out.id + k];
        for (uint32_t k = 0; k < n->nin && is; k++) before[node_in(g, n, k).id] = true;
    }
    return before;
}

/* A row that moves elements of one constant to places that only the call knows. */
bool looks_up(const Graph *g, const Node *n)
{
    const Tensor *t = n->op->quant == QUANT_PASS && n->nin >= 2 ? floats_of(g, node_in(g, n, 0)) : NULL;
    if (!t || t->rank != 2) return false;
    for (uint32_t i = 1; i < n->nin; i++) {
        Val v = node_in(g, n, i);
        if (v.id && !graph_val(g, v)->konst) return dtype_is_int(val_type(g, v)->dtype);
    }
    return false;
}

static void flow(Coder *c) /* which values stand behind a product */
{
    const Graph *g = c->in;
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        bool is = multiplies(n);
        if (!c->live[i]) continue;
        is = is || looks_up(g, n); /* what is made of a table is no raw input */
        for (uint32_t k = 0; k < n->nin; k++) is = is || c->behind[node_in(g, n, k).id];
        for (uint32_t k = 0; k < n->nout; k++) c->behind[n->out.id + k] = is;
    }
}

/* ---- codes ---- */
static WeightForm spared_form(const Quantization *q) { return q->spared.code ? q->spared : q->form; }

/* The table as codes: once, whoever reads it. */
static Val table(Coder *c, Val v, const WeightForm *form, const Loc *loc)
{
    if (c->coded[v.id].id) return c->coded[v.id];
    Arena work = {0};
    const Value *from = graph_val(c->in, v);
    WeightMatrix m = weight_table(from->konst, &work);
    WeightCodes codes = weight_choose(weight_method_blind(c->q->weights), &m, form, NULL, &work).codes;
    CodeTensors t = weight_tensors(&m, &codes, c->ctx->mem);
    c->coded[v.id] = codes_emit(c->out, &t, from->name, loc);
    arena_drop(&work);
    pass_rest(c->ctx);
    return c->coded[v.id];
}

Val table_of(const Graph *g, const bool *looked, Val weights)
{
    const Node *turn = val_def(g, weights);
    const Tensor *w = floats_of(g, weights);
    if (turn && node_is(turn, "Transpose") && floats_of(g, node_in(g, turn, 0))) return node_in(g, turn, 0);
    for (uint32_t v = 1; w && w->rank == 2 && v < g->val.n; v++) {
        const Tensor *t = looked[v] ? g->val.at[v].konst : NULL;
        if (!t || t->rank != 2 || t->dim[0] != w->dim[1] || t->dim[1] != w->dim[0]) continue;
        const float *a = t->data, *b = w->data;
        int64_t i = 0, n = tensor_count(t);
        while (i < n && a[i] == b[i % t->dim[1] * w->dim[1] + i / t->dim[1]]) i++;
        if (i == n) return (Val){v};
    }
    return (Val){0};
}

bool *tables_looked_up(const Graph *g, Arena *mem)
{
    bool *looked = NEW_ARRAY(mem, bool, g->val.n + 1);
    const bool *live = graph_live(g, mem);
    for (uint32_t i = 0; i < g->node.n; i++)
        if (live[i] && looks_up(g, &g->node.at[i])) looked[node_in(g, &g->node.at[i], 0).id] = true;
    return looked;
}

static Val tied_to(const Coder *c, Val weights) { return table_of(c->in, c->looked, weights); }

/* Does some value hardly change from one entry to the next? Then entries are positions (sines of angles, which rounding would bend), not
 * words. */
static bool is_smooth(const Tensor *t)
{
    static const double hardly = 0.02;
    Arena mem = {0};
    int64_t n = t->dim[1];
    double *change = NEW_ARRAY(&mem, double, n + 1), *size = NEW_ARRAY(&mem, double, n + 1);
    bool any = false;
    for (int64_t r = 1; r < t->dim[0]; r++) {
        const float *now = (const float *)t->data + r * n, *before = now - n;
        for (int64_t c = 0; c < n; c++) change[c] += fabs((double)now[c] - before[c]), size[c] += fabs((double)now[c]);
    }
    for (int64_t c = 0; c < n; c++) any = any || change[c] < hardly * size[c];
    arena_drop(&mem);
    return any;
}

/* Entries of few values are no place to save. */
static bool is_large(const Tensor *t)
{
    return tensor_count(t) >= LEAST_TABLE && t->dim[1] >= LEAST_ENTRY && !is_smooth(t);
}

bool codes_tables(const Graph *g, const Quantization *q, const Node *n)
{
    return q->table.code && looks_up(g, n) && is_large(floats_of(g, node_in(g, n, 0)));
}

static Val turned(Coder *c, Val v, const Loc *loc) { return emit(c->out, "Transpose", loc, 1, v); }

static bool is_spared(const Coder *c, const Node *n)
{
    Val x = node_in(c->in, n, 0);
    bool last = true;
    for (uint32_t k = 0; k < n->nout; k++) last = last && !c->before[n->out.id + k];
    bool again = n->op->w_taps || n->op->quant == QUANT_STATE;
    bool few = again && tensor_count(floats_of(c->in, node_in(c->in, n, 1))) < LEAST_FILTERS;
    return few || last || !c->behind[x.id];
}

static bool has_weights(const Coder *c, const Node *n)
{
    Val v = node_in(c->in, n, 1);
    return graph_val(c->in, v)->konst || tied_to(c, v).id;
}

/* Why the weights of a product stay float; NULL: they need not. */
static const char *why_float(const Coder *c, const Node *n)
{
    Val v = node_in(c->in, n, 1);
    const Tensor *t = floats_of(c->in, v);
    if (tied_to(c, v).id) return NULL;
    if (!t) return "its weights are not a float32 matrix";
    if (c->q->keep && !regexec(&c->keep, n->loc->node, 0, NULL, 0)) return "kept by --keep";
    return widens_weights(c->in, n) ? NULL : "its weights are few";
}

static WeightForm form_of(const Coder *c, const Node *n)
{
    if (is_channelwise(c->in, n)) return (WeightForm){.code = DT_i8};
    if (is_spared(c, n) && c->q->spared.code) return c->q->spared;
    const char *name = tensor_name(c->in, n->out, c->mem);
    const LayerCost *cost = cost_find(c->q, name);
    const LayerCodes *kept = cost && cost->spared ? codes_find(c->q, name) : NULL;
    return kept ? kept->form : c->q->form;
}

const float *lost_of_pixels(const Node *n, const Tensor *w, const LayerCodes *codes, const Range *r, Arena *mem)
{
    return n->op->w_taps ? lost_by_rounding(n, w, codes, r, mem) : NULL;
}

static Val product_weights(Coder *c, const Node *n, Layer *layer, const float **lost)
{
    Val v = node_in(c->in, n, 1), tied = tied_to(c, v);
    if (tied.id) {
        layer->form = spared_form(c->q), layer->method = weight_method_blind(c->q->weights)->name;
        return turned(c, table(c, tied, &layer->form, n->loc), n->loc);
    }
    const Value *from = graph_val(c->in, v);
    LayerCodes l = layer_codes(c->in, n, c->q, form_of(c, n), layer);
    const Range *r = range_find(c->q, tensor_name(c->in, node_in(c->in, n, 0), c->ctx->scratch));
    *lost = lost_of_pixels(n, from->konst, &l, r, c->ctx->scratch);
    pass_rest(c->ctx);
    return codes_emit(c->out, &l.codes, from->name, n->loc);
}

/* ---- the pass ---- */
static bool has_codes(const Coder *c, const Node *n)
{
    return multiplies(n) && (c->q->float_activations ? has_weights(c, n) : codes_beside_integers(c->in, c->q, n));
}

/* The weights of a product as codes, or as they were; it is noted which. */
static Val layer_weights(Coder *c, const Node *n, Val was, bool reverted, const float **lost)
{
    Layer layer = {.loc = n->loc, .tensor = tensor_name(c->in, n->out, c->q->mem), .sqnr = NAN, .weight_sqnr = NAN};
    layer_note_cost(c->q, &layer), layer.error_nearest = layer.error = NAN, layer.input = tensor_name(c->in, multiplied(c->in, n), c->q->mem);
    const Tensor *t = floats_of(c->in, node_in(c->in, n, 1));
    layer.weights = t ? tensor_count(t) : 0, layer.why = why_float(c, n), layer.region = c->q->float_activations ? 0 : c->q->tables;
    if (!layer.why && reverted) layer.why = "kept by --max-loss";
    layer.state = layer.why ? LAYER_FLOAT : LAYER_WEIGHTS, layer.tried = rewritings_find(c->q, layer.tensor);
    if (!layer.why) was = product_weights(c, n, &layer, lost);
    vec_push(c->q->mem, &c->q->layer, layer);
    return was;
}

static void code_node(Coder *c, uint32_t i)
{
    const Node *n = &c->in->node.at[i];
    Val *arg = NEW_ARRAY(c->ctx->scratch, Val, n->nin + 1), *was = NEW_ARRAY(c->ctx->scratch, Val, n->nin + 1),
        *out = NEW_ARRAY(c->ctx->scratch, Val, n->nout), from = node_in(c->in, n, 0), plain = {0};
    const float *lost = NULL;
    bool reverted = c->q->reverted && c->q->tables && c->q->reverted[c->q->tables];
    for (uint32_t k = 0; k < n->nin; k++) arg[k] = was[k] = c->map[node_in(c->in, n, k).id];
    if (has_codes(c, n)) arg[1] = layer_weights(c, n, arg[1], reverted, &lost);
    bool codes = !reverted && looks_up(c->in, n) && (c->coded[from.id].id || codes_tables(c->in, c->q, n));
    if (codes) arg[0] = table(c, from, &c->q->table, n->loc);
    bool chosen = c->q->simulate && c->q->tables && (codes || (n->nin > 1 && arg[1].id != was[1].id)); /* when it runs */
    if (chosen) plain = graph_emit(c->out, n->op, n->attr, was, n->nin, n->nout, n->loc, NULL);
    graph_emit(c->out, n->op, n->attr, arg, n->nin, n->nout, n->loc, out);
    if (lost) out[0] = add_lost(c->out, n, floats_of(c->in, node_in(c->in, n, 1)), out[0], lost);
    if (chosen) out[0] = simulate_switch(c->out, simulate_switches(c->out), c->q->tables, out[0], plain, n->loc);
    for (uint32_t k = 0; k < n->nout; k++) {
        c->map[n->out.id + k] = out[k];
        graph_stand_for(c->out, out[k], graph_val(c->in, node_out(n, k)));
    }
}

/* Tables that are tied are coded first, in the form they share. */
static void code_tied(Coder *c)
{
    for (uint32_t i = 0; i < c->in->node.n && c->q->float_activations; i++) {
        const Node *n = &c->in->node.at[i];
        Val tied = c->live[i] && multiplies(n) ? tied_to(c, node_in(c->in, n, 1)) : (Val){0};
        WeightForm form = spared_form(c->q);
        if (tied.id) table(c, tied, &form, n->loc);
    }
}

static Coder coder_new(const Graph *g, const Quantization *q, Arena *mem)
{
    Coder c = {.q = (Quantization *)(uintptr_t)q, .in = g, .mem = mem};
    c.coded = NEW_ARRAY(mem, Val, g->val.n + 1), c.looked = tables_looked_up(g, mem);
    c.behind = NEW_ARRAY(mem, bool, g->val.n + 1), c.live = graph_live(g, mem), c.before = before_products(g, c.live, mem);
    if (q->keep && regcomp(&c.keep, q->keep, REG_EXTENDED | REG_NOSUB)) assert(!"--keep was checked by its option");
    flow(&c);
    return c;
}

static void coder_drop(Coder *c)
{
    if (c->q->keep) regfree(&c->keep);
}

WeightForm *codes_forms(const Graph *g, const Quantization *q, Arena *mem)
{
    Coder c = coder_new(g, q, mem);
    WeightForm *form = NEW_ARRAY(mem, WeightForm, g->node.n + 1);
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        if (!c.live[i] || !has_codes(&c, n) || why_float(&c, n)) continue;
        if (!tied_to(&c, node_in(g, n, 1)).id) form[i] = form_of(&c, n);
    }
    coder_drop(&c);
    return form;
}

Graph *pass_codes(const Graph *in, PassCtx *ctx)
{
    Coder c = coder_new(in, ctx->quant, ctx->scratch);
    c.ctx = ctx, c.out = graph_new(ctx->module, ctx->mem, in->name), c.map = graph_begin(c.out, in, ctx->scratch);
    code_tied(&c);
    for (uint32_t i = 0; i < in->node.n; i++)
        if (c.live[i]) code_node(&c, i);
    graph_end(c.out, in, c.map);
    coder_drop(&c);
    return c.out;
}
