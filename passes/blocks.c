/* blocks.c - values that meet weights of few bits are rounded to 8 bits in blocks, and codes are multiplied (docs/adr/0013).
 *
 * Comes in: a graph after the integer passes, with float products whose right operand is a matrix of constant codes behind a dequantizer, in blocks
 * along what is summed or with a scale for each column. Goes out: the same, where such a product is an octet.RoundedProduct. Scales stay what they are,
 * codes with a scale of their own among them; columns are cut into blocks for their values' sake alone. What does not fit (floats of few bits,
 * zero points in too small parts) keeps its float product. */
#include "ir/blocks.h"
#include "passes/integer.h"
#include "passes/passes.h"
#include "passes/quantize.h"
#include <string.h>

enum { COLUMN_BLOCK = 64, LEAST_BLOCK = 16 };

typedef struct Weights { /* [k][n] */
    const Node *dq;
    const Tensor *code, *zero; /* zero NULL: none */
    Val scale;
    int64_t n, block, blocks;
    bool columns; /* a scale for each column, or one for all */
} Weights;

static bool dequantizes(const Node *n) { return n && (!strcmp(n->op->name, "DequantizeLinear") || !strcmp(n->op->name, "Dequantize")); }

static bool read_scales(const Graph *g, Weights *w)
{
    const Type *t = val_type(g, w->scale);
    const Tensor *one = val_const(g, w->scale);
    int64_t axis = node_int(w->dq, "axis"), block = node_int(w->dq, "block_size"), k = w->code->dim[0];
    w->columns = (one && tensor_count(one) == 1) || (t->rank == 1 && (axis == 1 || axis == -1) && one);
    w->block = !w->columns ? block : k % COLUMN_BLOCK ? COLUMN_BLOCK / 2 : COLUMN_BLOCK;
    bool blocks = t->rank == 2 && (axis == 0 || axis == -2) && block >= LEAST_BLOCK;
    return (w->columns || blocks) && t->dtype == DT_f32 && block_fits(w->block, dtypes[w->code->type].bits);
}

static bool has_depth(const Graph *g, Val x) /* known: values are cut into blocks */
{
    Dims *d = g->module->dim;
    const Type *t = val_type(g, x);
    return t->rank >= 1 && t->rank < MAX_RANK && dim_is_const(d, dim_canon(d, t->dim[t->rank - 1]), &(int64_t){0});
}

static bool read_weights(const Graph *g, const Node *n, Weights *w)
{
    const Node *dq = node_is(n, "MatMul") ? val_def(g, node_in(g, n, 1)) : NULL;
    if (!dequantizes(dq)) return false;
    *w = (Weights){.dq = dq,
                   .code = val_const(g, node_in(g, dq, 0)),
                   .scale = node_in(g, dq, 1),
                   .zero = val_const(g, node_in(g, dq, 2))};
    if (!w->code || w->code->rank != 2 || (node_in(g, dq, 2).id && !w->zero)) return false;
    if (!dtype_is_int(w->code->type) || dtypes[w->code->type].bits > 8) return false;
    if (val_type(g, node_in(g, n, 0))->dtype != DT_f32 || !has_depth(g, node_in(g, n, 0))) return false;
    if (!tensor_count(w->code) || !read_scales(g, w)) return false;
    w->n = w->code->dim[1], w->blocks = w->columns ? 1 : (w->code->dim[0] + w->block - 1) / w->block;
    return !w->zero || tensor_count(w->zero) == 1 || tensor_count(w->zero) == w->blocks * w->n;
}

/* In the order of the scales, counted from the least code. */
static const Tensor *zeros_of(const Weights *w, Arena *mem, Arena *scratch, int *steps)
{
    double *zero = NEW_ARRAY(scratch, double, w->blocks *w->n);
    for (int64_t i = 0; i < w->blocks * w->n; i++) {
        zero[i] = -(double)dtype_min(w->code->type);
        if (w->zero) zero[i] += dtype_load(w->zero->type, w->zero->data, tensor_count(w->zero) == 1 ? 0 : i);
    }
    return block_zeros(mem, zero, w->blocks, w->n, steps);
}

static Val scales_of(Graph *to, const Graph *g, const Weights *w, const Val *map)
{
    const Tensor *t = val_const(g, w->scale);
    if (!w->columns) return map[w->scale.id];
    Tensor *row = tensor_new(to->mem, DT_f32, 2, (int64_t[]){1, w->n});
    for (int64_t i = 0; i < w->n; i++)
        dtype_store(DT_f32, (void *)(uintptr_t)row->data, i, dtype_load(t->type, t->data, tensor_count(t) == 1 ? 0 : i));
    return graph_const(to, row, NULL);
}

/* id 0: zero points do not fit. */
static Val product(Graph *to, const Graph *g, const Node *n, const Weights *w, const Val *map, Arena *scratch)
{
    int steps;
    const OpDef *op = op_find("octet", "RoundedProduct");
    const Tensor *zero = zeros_of(w, to->mem, scratch, &steps);
    if (!zero) return (Val){0};
    Attr *attr = op_attr_defaults(to->mem, op);
    attr_set_int(op, attr, "bits", dtypes[w->code->type].bits), attr_set_int(op, attr, "steps", steps);
    const char *name = graph_val(g, node_in(g, w->dq, 0))->name;
    Val words = graph_const(to, block_words(to->mem, w->code, w->block), name);
    Val in[] = {map[node_in(g, n, 0).id], words, scales_of(to, g, w, map), graph_const(to, zero, NULL)};
    return graph_emit(to, op, attr, in, COUNT_OF(in), 1, n->loc, NULL);
}

/* What the report and the note of pass_integer() say of the product. */
static void note(PassCtx *ctx, const Node *n, const Weights *w)
{
    for (uint32_t i = 0; ctx->quant && i < ctx->quant->layer.n; i++)
        if (ctx->quant->layer.at[i].loc == n->loc && n->loc) ctx->quant->layer.at[i].block = w->block;
    IntegerNote *all = ctx->integer;
    for (uint32_t i = 0; all && i < all->at.n; i++) {
        Coded *c = &all->at.at[i];
        if (c->loc != n->loc || c->state == CODED_INTEGER) continue;
        all->n[c->state]--, all->n[CODED_INTEGER]++;
        c->state = CODED_INTEGER, c->x = DT_i8, c->why = NULL;
    }
}

Graph *pass_blocks(const Graph *in, PassCtx *ctx)
{
    Graph *out = graph_new(in->module, ctx->mem, in->name);
    Val *map = graph_begin(out, in, ctx->scratch);
    const bool *live = graph_live(in, ctx->scratch);
    for (uint32_t i = 0; i < in->node.n; i++) {
        const Node *n = &in->node.at[i];
        Weights w;
        if (!live[i]) continue;
        Val y = read_weights(in, n, &w) ? product(out, in, n, &w, map, ctx->scratch) : (Val){0};
        if (y.id) note(ctx, n, &w);
        if (y.id) map[n->out.id] = y, graph_stand_for(out, y, graph_val(in, n->out));
        else graph_copy_node(out, in, i, map);
    }
    graph_end(out, in, map);
    return out;
}
