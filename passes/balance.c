/* balance.c - see balance.h. Where a division goes is found by a walk from the value against the arrows, along rows of a table of what
 * passes a factor of channels on: a product gives it to one factor, a sum to all its terms, a contraction to its weights, what keeps a positive
 * factor (an activation that is straight on either side of zero, a pool) to its input. A value that others read too is left as it is. */
#include "passes/balance.h"
#include <assert.h>

typedef struct Balance {
    const Graph *in;
    Graph *out;
    Quantization *q;
    Val *map;
    const uint16_t *uses;
    const Gains **taken;  /* per node: whose division some of its constants take */
    unsigned *operands;   /* which (bits) */
    const WeightForm *form; /* per node: of its weights, if they will be codes */
    Arena *scratch;
} Balance;

typedef bool TakeFn(Balance *b, uint32_t node, const Gains *g, int from_end, bool commit);

static bool takes(Balance *b, Val v, const Gains *g, int from_end, uint32_t uses, bool commit);

/* A constant takes it; another operand hands it on, where it has the channels at all. */
static bool operand_takes(Balance *b, uint32_t node, uint32_t k, const Gains *g, int from_end, bool commit)
{
    const Node *n = &b->in->node.at[node];
    Val v = node_in(b->in, n, k);
    const Value *val = graph_val(b->in, v);
    int64_t channels;
    if (val->konst) {
        if (val->konst->type != DT_f32) return false;
        if (commit) b->taken[node] = g, b->operands[node] |= 1u << k;
        return true;
    }
    return val->type.rank >= from_end &&
           dim_is_const(b->in->module->dim, val->type.dim[val->type.rank - from_end], &channels) &&
           channels == g->channels && takes(b, v, g, from_end, 1, commit);
}

static bool product_takes(Balance *b, uint32_t node, const Gains *g, int from_end, bool commit)
{
    const Node *n = &b->in->node.at[node];
    for (int constant = 1; constant >= 0; constant--)
        for (uint32_t k = 0; k < 2; k++) {
            bool is = graph_val(b->in, node_in(b->in, n, k))->konst != NULL;
            if (is == (constant == 1) && operand_takes(b, node, k, g, from_end, false))
                return !commit || operand_takes(b, node, k, g, from_end, true);
        }
    return false;
}

static bool sum_takes(Balance *b, uint32_t node, const Gains *g, int from_end, bool commit)
{
    return operand_takes(b, node, 0, g, from_end, commit) && operand_takes(b, node, 1, g, from_end, commit);
}

static bool contraction_takes(Balance *b, uint32_t node, const Gains *g, int from_end, bool commit)
{
    const Node *n = &b->in->node.at[node];
    int rank = val_type(b->in, n->out)->rank;
    if (rank - axis_at(n->op->y_channel, rank) != from_end) return false;
    for (uint32_t k = 1; k < n->nin; k++) {
        Val v = node_in(b->in, n, k);
        const Tensor *t = v.id ? graph_val(b->in, v)->konst : NULL;
        if (v.id && (!t || t->type != DT_f32 || (k > 1 && t->rank != 1))) return false;
        if (v.id && commit) b->taken[node] = g, b->operands[node] |= 1u << k;
    }
    return true;
}

/* f(x / s) = f(x) / s for s > 0 */
static bool input_takes(Balance *b, uint32_t node, const Gains *g, int from_end, bool commit)
{
    const Node *n = &b->in->node.at[node];
    return n->nout == 1 && !graph_val(b->in, node_in(b->in, n, 0))->konst && operand_takes(b, node, 0, g, from_end, commit);
}

/* A window over the axes behind the channels'. */
static bool pool_takes(Balance *b, uint32_t node, const Gains *g, int from_end, bool commit)
{
    return from_end == val_type(b->in, b->in->node.at[node].out)->rank - 1 && input_takes(b, node, g, from_end, commit);
}

/* Bounds are divided too. */
static bool bounds_take(Balance *b, uint32_t node, const Gains *g, int from_end, bool commit)
{
    const Node *n = &b->in->node.at[node];
    for (uint32_t k = 1; k < n->nin; k++) {
        Val v = node_in(b->in, n, k);
        const Tensor *t = v.id ? graph_val(b->in, v)->konst : NULL;
        if (!t || t->type != DT_f32 || tensor_count(t) != 1) return false;
    }
    if (!input_takes(b, node, g, from_end, commit)) return false;
    for (uint32_t k = 1; commit && k < n->nin; k++) b->taken[node] = g, b->operands[node] |= 1u << k;
    return true;
}

static const struct PassesOn {
    const char *name;
    TakeFn *take;
    const char *by[2]; /* NULL, or what operands 1 and 2 do when they are of channels */
} passes_on[] = {{"Mul", product_takes, {NULL}},
                 {"Add", sum_takes, {NULL}},
                 {"Sub", sum_takes, {NULL}},
                 {"Relu", input_takes, {NULL}},
                 {"LeakyRelu", input_takes, {NULL}},
                 {"PRelu", input_takes, {NULL}},
                 {"MaxPool", pool_takes, {NULL}},
                 {"AveragePool", pool_takes, {NULL}},
                 {"GlobalAveragePool", pool_takes, {NULL}},
                 {"Clip", bounds_take, {"Max", "Min"}}};

static const struct PassesOn *passing(const OpDef *op)
{
    for (size_t i = 0; i < COUNT_OF(passes_on); i++)
        if (!strcmp(op->name, passes_on[i].name)) return &passes_on[i];
    return NULL;
}

static bool takes(Balance *b, Val v, const Gains *g, int from_end, uint32_t uses, bool commit)
{
    uint32_t node = graph_val(b->in, v)->def;
    if (node == NO_NODE || b->uses[v.id] != uses || b->taken[node]) return false;
    const OpDef *op = b->in->node.at[node].op;
    if (op->quant == QUANT_INTEGER) return contraction_takes(b, node, g, from_end, commit);
    const struct PassesOn *row = passing(op);
    return row && row->take(b, node, g, from_end, commit);
}

/* ---- emission ---- */
/* The gains, or their inverses, along an axis of a tensor of some rank, counted from the end. */
static Val along(Balance *b, const Gains *g, int from_end, bool inverse)
{
    int64_t dim[MAX_RANK] = {g->channels};
    for (int d = 1; d < from_end; d++) dim[d] = 1;
    Tensor *t = tensor_new(b->out->mem, DT_f32, from_end, dim);
    for (int64_t c = 0; c < g->channels; c++) ((float *)(void *)t->data)[c] = inverse ? 1 / g->by[c] : g->by[c];
    return graph_const(b->out, t, NULL);
}

static const Gains *gains_for(const Balance *b, const Node *n)
{
    if (n->op->quant != QUANT_INTEGER || !b->form[n - b->in->node.at].code) return NULL;
    for (uint32_t i = 0; i < b->q->gains.n; i++)
        if (b->q->gains.at[i].x.id == node_in(b->in, n, 0).id) return &b->q->gains.at[i];
    return NULL;
}

/* number i of some values, `inner` for each channel, along all channels again and again */
static void divide_each(float *x, int64_t n, int64_t inner, const Gains *g)
{
    for (int64_t i = 0; i < n; i++) x[i] /= g->by[i / inner % g->channels];
}

/* Scales of rows that are divided are divided, and what rounding takes from them. */
static void divide_codes(const Balance *b, const Node *n, const Gains *g)
{
    const LayerCodes *found = codes_find(b->q, tensor_name(b->in, n->out, b->scratch));
    if (!found) return;
    const Tensor *scale = found->codes.scale;
    int axis = scale->rank == 1 ? 0 : axis_at(n->op->w_channel, scale->rank);
    int64_t inner = 1;
    for (int d = axis + 1; d < scale->rank; d++) inner *= scale->dim[d];
    divide_each((float *)(uintptr_t)scale->data, tensor_count(scale), inner, g);
    if (found->codes.scale_of) divide_each((float *)(uintptr_t)found->codes.scale_of->data, g->channels, 1, g);
    if (found->lost) divide_each((float *)(uintptr_t)found->lost, g->channels, 1, g);
}

static void copy_node(Balance *b, uint32_t i, const int *from_end, Val *divided)
{
    const Node *n = &b->in->node.at[i];
    Val *arg = NEW_ARRAY(b->scratch, Val, n->nin + 1), *out = NEW_ARRAY(b->scratch, Val, n->nout);
    for (uint32_t k = 0; k < n->nin; k++) arg[k] = b->map[node_in(b->in, n, k).id];
    const Gains *g = gains_for(b, n), *t = b->taken[i];
    for (uint32_t k = 0; t && k < n->nin; k++) {
        if (!(b->operands[i] >> k & 1)) continue;
        int rank = val_type(b->out, arg[k])->rank, at = from_end[t - b->q->gains.at];
        if (n->op->quant == QUANT_INTEGER) at = k == 1 ? rank - axis_at(n->op->w_channel, rank) : 1;
        arg[k] = emit(b->out, "Mul", n->loc, 2, arg[k], along(b, t, at, true));
    }
    if (t && n->op->quant == QUANT_INTEGER) divide_codes(b, n, t);
    if (g) {
        int rank = val_type(b->out, arg[1])->rank;
        Val x = divided[node_in(b->in, n, 0).id];
        if (x.id) arg[0] = x;
        arg[1] = emit(b->out, "Mul", n->loc, 2, arg[1], along(b, g, rank - axis_at(n->op->w_input, rank), false));
    }
    const struct PassesOn *row = t ? passing(n->op) : NULL;
    if (row && row->by[0])
        for (uint32_t k = 1; k < n->nin; k++) out[0] = arg[0] = emit(b->out, row->by[k - 1], n->loc, 2, arg[0], arg[k]);
    else graph_emit(b->out, n->op, n->attr, arg, n->nin, n->nout, n->loc, out);
    for (uint32_t k = 0; k < n->nout; k++) {
        b->map[n->out.id + k] = out[k];
        graph_stand_for(b->out, out[k], graph_val(b->in, node_out(n, k)));
    }
}

/* Divides a value for those who want it so; the others keep it. */
static void divide(Balance *b, const Gains *g, int from_end, const Loc *loc, Val *divided)
{
    divided[g->x.id] = emit(b->out, "Mul", loc, 2, b->map[g->x.id], along(b, g, from_end, true));
    graph_name(b->out, divided[g->x.id], tensor_name(b->in, g->x, b->out->mem)); /* its range is that of the quotients */
}

static void balance_begin(Balance *b)
{
    b->uses = graph_uses(b->in, b->scratch);
    b->taken = NEW_ARRAY(b->scratch, const Gains *, b->in->node.n + 1), b->operands = NEW_ARRAY(b->scratch, unsigned, b->in->node.n + 1);
}

void gains_fold(const Graph *g, const Gains *gains, const uint32_t *readers, uint32_t n, bool *folds)
{
    Arena scratch = {0};
    Balance b = {.in = g, .scratch = &scratch};
    balance_begin(&b);
    for (uint32_t i = 0; i < n; i++) folds[i] = takes(&b, gains[i].x, &gains[i], 1, readers[i], false);
    arena_drop(&scratch);
}

const Gains **gains_taken(const Graph *g, const Gains *gains, const uint32_t *readers, const int *from_end, uint32_t n, bool *folds,
                          Arena *mem)
{
    Balance b = {.in = g, .scratch = mem};
    balance_begin(&b);
    for (uint32_t i = 0; i < n; i++) {
        folds[i] = takes(&b, gains[i].x, &gains[i], from_end[i], readers[i], false);
        if (folds[i]) takes(&b, gains[i].x, &gains[i], from_end[i], readers[i], true);
    }
    return b.taken;
}

bool multiplies_rows_alone(const Graph *g, Val x)
{
    int rank = val_type(g, x)->rank;
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        if (n->op->quant == QUANT_INTEGER && node_in(g, n, 0).id == x.id && axis_at(n->op->x_input, rank) != rank - 1)
            return false;
    }
    return true;
}

void gains_of_ranges(const Graph *g, Quantization *q)
{
    Arena scratch = {0};
    bool *seen = NEW_ARRAY(&scratch, bool, g->val.n + 1);
    q->gains.n = 0;
    for (uint32_t i = 0; i < g->node.n; i++) {
        Val x = node_in(g, &g->node.at[i], 0);
        if (g->node.at[i].op->quant != QUANT_INTEGER || seen[x.id]) continue;
        const Range *r = range_find(q, tensor_name(g, x, &scratch));
        const Type *t = val_type(g, x);
        bool fits = r && r->gain && t->rank > 0 && dim_is(g->module->dim, t->dim[t->rank - 1], r->gains);
        if (fits && multiplies_rows_alone(g, x)) vec_push(q->mem, &q->gains, ((Gains){x, r->gains, r->gain}));
        seen[x.id] = true;
    }
    arena_drop(&scratch);
}

Graph *graph_balanced(const Graph *g, Quantization *q, Arena *mem)
{
    Arena scratch = {0};
    Balance b = {.in = g, .out = graph_new(g->module, mem, g->name), .q = q, .scratch = &scratch, .form = quantize_forms(g, q, &scratch)};
    const bool *live = graph_live(g, &scratch);
    uint32_t *readers = NEW_ARRAY(&scratch, uint32_t, q->gains.n + 1);
    int *from_end = NEW_ARRAY(&scratch, int, q->gains.n + 1);
    const Loc **loc = NEW_ARRAY(&scratch, const Loc *, q->gains.n + 1); /* of a reader */
    bool *folded = NEW_ARRAY(&scratch, bool, q->gains.n + 1);
    Val *divided = NEW_ARRAY(&scratch, Val, g->val.n + 1);
    b.map = graph_begin(b.out, g, &scratch);
    balance_begin(&b);
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Gains *has = live[i] ? gains_for(&b, &g->node.at[i]) : NULL;
        if (!has) continue;
        int rank = val_type(g, has->x)->rank;
        loc[has - q->gains.at] = g->node.at[i].loc;
        readers[has - q->gains.at]++, from_end[has - q->gains.at] = rank - axis_at(g->node.at[i].op->x_input, rank);
    }
    for (uint32_t k = 0; k < q->gains.n; k++) {
        const Gains *has = &q->gains.at[k];
        bool none = !readers[k]; /* all stay float */
        folded[k] = none || takes(&b, has->x, has, from_end[k], readers[k], false);
        if (none) continue;
        if (folded[k]) takes(&b, has->x, has, from_end[k], readers[k], true);
        else if (graph_val(g, has->x)->def == NO_NODE) divide(&b, has, from_end[k], loc[k], divided);
    }
    for (uint32_t i = 0; i < g->node.n; i++) {
        if (!live[i]) continue;
        copy_node(&b, i, from_end, divided);
        for (uint32_t k = 0; k < q->gains.n; k++)
            if (!folded[k] && graph_val(g, q->gains.at[k].x)->def == i) divide(&b, &q->gains.at[k], from_end[k], loc[k], divided);
    }
    graph_end(b.out, g, b.map);
    arena_drop(&scratch);
    return b.out;
}
