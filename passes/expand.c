/* expand.c - composite operators become the operators of their row's `expand`, until none is left.
 *
 * An expansion may emit composites again (QLinearMatMul -> MatMulInteger -> MatMulDot); every round takes one level off, and
 * rows form no cycle, so the rounds are few. What an expansion cannot do it reports, and its outputs stay unknown.
 * In a graph that will be written as a model (PassCtx.standard) a composite whose expansion needs operators of Octet's own stays. */
#include "passes/passes.h"
#include <assert.h>

enum { ROUNDS = 16, MAX_OUT = 16 };

/* Which nodes of the graph that is made are Octet's own, or compute with what such nodes yield; the graph may share a node that a
 * refused expansion left behind. */
typedef struct Own {
    VEC(bool) node;
} Own;

static bool is_own(const Own *own, const Graph *g, Val v)
{
    uint32_t def = v.id ? graph_val(g, v)->def : NO_NODE;
    return def != NO_NODE && own->node.at[def];
}

static void own_update(Own *own, const Graph *g, Arena *scratch)
{
    for (uint32_t i = own->node.n; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        bool yes = n->op->domain && !strcmp(n->op->domain, "octet");
        for (uint32_t k = 0; k < n->nin; k++) yes = yes || is_own(own, g, node_in(g, n, k));
        vec_push(scratch, &own->node, yes);
    }
}

/* Whether the composite was replaced: map has its outputs then. */
static bool expand_node(const Graph *in, Graph *out, uint32_t i, const uint16_t *uses, Val *map, Own *own, PassCtx *ctx)
{
    const Node *n = &in->node.at[i];
    Val *arg = NEW_ARRAY(ctx->scratch, Val, n->nin + 1), result[MAX_OUT] = {{0}};
    for (uint32_t k = 0; k < n->nin; k++) arg[k] = map[node_in(in, n, k).id];
    Node mapped = *n;
    Expand x = {.g = out, .m = ctx->module, .n = &mapped, .in = arg, .out = result, .loc = n->loc, .exact_values = ctx->values == VALUES_FLOAT};
    assert(n->nout <= MAX_OUT);
    if (!n->op->expand(&x)) return false; /* reported: the graph is not used, but what comes after it has types */
    for (uint32_t k = 0; k < n->nout; k++)
        if (!result[k].id && uses[n->out.id + k])
            return diag_error(ctx->module->diag, n->loc, "output %s is not computed",
                              schema_out(op_schema(n->op), k)->name);
    if (ctx->standard) own_update(own, out, ctx->scratch);
    for (uint32_t k = 0; ctx->standard && k < n->nout; k++)
        if (is_own(own, out, result[k])) return false;
    for (uint32_t k = 0; k < n->nout; k++) {
        map[n->out.id + k] = result[k];
        graph_stand_for(out, result[k], graph_val(in, node_out(n, k)));
    }
    return true;
}

static bool is_composite(const Node *n) { return n->op->expand && !n->op->lower && !n->op->body; }

static Graph *expand_round(const Graph *in, PassCtx *ctx, bool *changed)
{
    Graph *out = graph_new(ctx->module, ctx->mem, in->name);
    Val *map = graph_begin(out, in, ctx->scratch);
    const bool *live = graph_live(in, ctx->scratch);
    const uint16_t *uses = graph_uses(in, ctx->scratch);
    Own own = {{0}};
    for (uint32_t i = 0; i < in->node.n; i++) {
        if (!live[i]) continue;
        if (is_composite(&in->node.at[i]) && expand_node(in, out, i, uses, map, &own, ctx)) *changed = true;
        else graph_copy_node(out, in, i, map);
    }
    graph_end(out, in, map);
    return out;
}

Graph *pass_expand(const Graph *in, PassCtx *ctx)
{
    const Graph *g = in;
    for (int round = 0; round < ROUNDS; round++) {
        bool changed = false;
        g = expand_round(g, ctx, &changed);
        if (!changed || ctx->module->diag->errors) return (Graph *)g;
    }
    assert(!"rows expand into each other");
    return (Graph *)g;
}
