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
        graph_stand_for(to, map[from->input.at[i].id], v);
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

/* A size that is computed from data has got a new symbol: it is the same size. */
static void unify_sizes(Graph *to, const Type *a, const Type *b)
{
    Dims *d = to->module->dim;
    for (int i = 0; a->rank == b->rank && i < a->rank; i++)
        if (dim_known(a->dim[i]) && dim_known(b->dim[i]) && (dim_has_data(d, a->dim[i]) || dim_has_data(d, b->dim[i])))
            dim_unify(d, a->dim[i], b->dim[i]);
}

void graph_stand_for(Graph *g, Val v, const Value *old)
{
    Value *val = graph_val(g, v);
    graph_name(g, v, old->name);
    unify_sizes(g, &val->type, &old->type);
    if (!v.id || val->konst || !old->elem || (val->elem && val->elems != old->elems)) return;
    Dim *elem = arena_copy(g->mem, old->elem, old->elems * sizeof *elem);
    for (uint32_t k = 0; val->elem && k < old->elems; k++)
        if (dim_known(val->elem[k])) elem[k] = val->elem[k];
    val->elem = elem, val->elems = old->elems;
}

static int64_t tracked_elements(const Graph *g, const Value *v)
{
    int64_t n = 1;
    bool truth = v->type.dtype == DT_bool && v->def == NO_NODE;
    if (v->konst || v->type.rank < 0 || v->type.rank > 1) return -1;
    if (v->type.dtype != DT_i64 && v->type.dtype != DT_i32 && !truth) return -1;
    if (v->type.rank == 1 && !dim_is_const(g->module->dim, v->type.dim[0], &n)) return -1;
    return n <= (truth ? 1 : MAX_TRACKED) ? n : -1;
}

void graph_track(Graph *g, Val v)
{
    Value *val = graph_val(g, v);
    int64_t n = v.id ? tracked_elements(g, val) : -1;
    if (n < 0 || (val->elem && val->elems != (uint32_t)n)) return;
    Dim *elem = NEW_ARRAY(g->mem, Dim, n + 1);
    Dim (*made)(Dims *, const char *) = val->type.dtype == DT_bool ? dim_truth : dim_element;
    for (int64_t k = 0; k < n; k++) {
        const char *stem = val->name ? val->name : "element";
        const char *name = val->type.rank ? arena_printf(g->mem, "%s[%d]", stem, (int)k) : stem;
        elem[k] = val->elem && dim_known(val->elem[k]) ? val->elem[k] : made(g->module->dim, name);
    }
    val->elem = elem, val->elems = (uint32_t)n;
}

bool graph_knows(const Graph *g, uint32_t symbol)
{
    const Dims *d = g->module->dim;
    uint32_t s;
    if (dim_symbol_kind(d, symbol) == DIM_INPUT) return true;
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Value *v = graph_val(g, g->input.at[i]);
        for (uint32_t k = 0; v->elem && k < v->elems; k++)
            if (dim_known(v->elem[k]) && dim_is_symbol(d, v->elem[k], &s) && s == symbol) return true;
    }
    return false;
}

bool graph_knows_size(const Graph *g, Dim size)
{
    Dims *d = g->module->dim;
    Arena scratch = {0};
    const DimCode *code;
    bool known = true;
    uint32_t n = dim_code(d, dim_canon(d, size), &scratch, &code);
    for (uint32_t i = 0; i < n && known; i++) known = code[i].op != DIMOP_SYM || graph_knows(g, (uint32_t)code[i].arg);
    arena_drop(&scratch);
    return known;
}

Dim graph_condition(const Graph *g, Val v)
{
    const Value *x = graph_val(g, v);
    Dims *d = g->module->dim;
    if (x->konst && tensor_count(x->konst) == 1)
        return dim_const(d, dtype_load_int(x->konst->type, x->konst->data, 0) != 0);
    return x->elem && x->elems == 1 ? x->elem[0] : (Dim){0};
}

Dim graph_when(const Graph *g, Val v)
{
    uint32_t def = graph_val(g, v)->def;
    const Loc *loc = def == NO_NODE ? NULL : g->node.at[def].loc;
    return (Dim){loc ? loc->when : 0};
}
