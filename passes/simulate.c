/* simulate.c - see simulate.h. */
#include "passes/simulate.h"
#include "ir/op.h"
#include <assert.h>

Regions regions_find(const Graph *g, const bool *integer, Arena *mem)
{
    Regions r = {0, NEW_ARRAY(mem, uint32_t, g->val.n + 1), NEW_ARRAY(mem, uint32_t, g->node.n + 1)};
    for (uint32_t i = 0; i < g->node.n; i++) {
        uint32_t *of = &r.of_val[node_in(g, &g->node.at[i], 0).id];
        if (integer[i] && !*of) *of = ++r.n;
    }
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        for (uint32_t k = 0; k < n->nin && !r.of_node[i]; k++)
            if (integer[i] ? k == 0 : n->op->quant != QUANT_NONE) r.of_node[i] = r.of_val[node_in(g, n, k).id];
    }
    return r;
}

const char simulate_input[] = "octet.regions";

Val simulate_begin(Graph *g, uint32_t regions)
{
    Type t = {.dtype = DT_bool, .rank = 1, .dim = {dim_const(g->module->dim, regions)}};
    return graph_input(g, simulate_input, t);
}

Val simulate_switches(const Graph *g)
{
    uint32_t i = g->input.n;
    while (i-- > 0 && strcmp(graph_val(g, g->input.at[i])->name, simulate_input)) {}
    assert(i < g->input.n && "a simulation has that input");
    return g->input.at[i];
}

Val simulate_switch(Graph *g, Val switches, uint32_t region, Val quantized, Val plain, const Loc *loc)
{
    Val on = emit(g, "Gather", loc, 2, switches, graph_const(g, tensor_scalar(g->mem, DT_i64, region - 1.0), NULL));
    return emit(g, "Where", loc, 3, on, quantized, plain);
}
