/* graph_rebuild.c - the frame of every pass: a new graph begun from an old one, its live nodes, its outputs. Dead code ends here:
 * what no output needs is not live, and a pass copies only live nodes. */
#include "ir/graph.h"

bool *graph_live(const Graph *g, Arena *scratch)
{
    bool *live = NEW_ARRAY(scratch, bool, g->node.n + 1);
    for (uint32_t i = 0; i < g->output.n; i++) {
        uint32_t def = graph_val(g, g->output.at[i])->def;
        if (def != NO_NODE) live[def] = true;
    }
    for (uint32_t i = g->node.n; i-- > 0;) {
        const Node *n = &g->node.at[i];
        for (uint32_t k = 0; live[i] && k < n->nin; k++) {
            uint32_t def = graph_val(g, node_in(g, n, k))->def;
            if (node_in(g, n, k).id && def != NO_NODE) live[def] = true;
        }
    }
    return live;
}

static bool *values_used(const Graph *g, Arena *scratch)
{
    bool *used = NEW_ARRAY(scratch, bool, g->val.n + 1);
    const bool *live = graph_live(g, scratch);
    for (uint32_t i = 0; i < g->node.n; i++)
        for (uint32_t k = 0; live[i] && k < g->node.at[i].nin; k++) used[node_in(g, &g->node.at[i], k).id] = true;
    for (uint32_t i = 0; i < g->output.n; i++) used[g->output.at[i].id] = true;
    return used;
}

Val *graph_begin(Graph *to, const Graph *from, Arena *scratch)
{
    Val *map = NEW_ARRAY(scratch, Val, from->val.n + 1);
    for (uint32_t i = 0; i < from->input.n; i++) {
        const Value *v = graph_val(from, from->input.at[i]);
        map[from->input.at[i].id] = graph_input(to, v->name, v->type);
    }
    const bool *used = values_used(from, scratch);
    for (uint32_t v = 1; v < from->val.n; v++) {
        const Value *val = &from->val.at[v];
        if (used[v] && !map[v].id && val->konst && val->def == NO_NODE) map[v] = graph_const(to, val->konst, val->name);
    }
    return map;
}

void graph_end(Graph *to, const Graph *from, const Val *map)
{
    for (uint32_t i = 0; i < from->output.n; i++) graph_output(to, map[from->output.at[i].id], from->output_name.at[i]);
}

void graph_name(Graph *g, Val v, const char *name)
{
    Value *val = graph_val(g, v);
    if (v.id && name && !val->name) val->name = name;
}
