/* graph_verify.c - every invariant of graph.h, checked between passes in debug builds and by `--verify`.
 * A violation is a bug of ours. */
#include "ir/graph.h"
#include "ir/op.h"

static bool type_sound(const Graph *g, const Value *v)
{
    const Type *t = &v->type;
    if (t->rank < -1 || t->rank > MAX_RANK || (unsigned)t->dtype >= DT_COUNT) return false;
    if (!t->dtype) return g->failed && t->rank == -1;
    for (int i = 0; i < t->rank; i++) {
        int64_t n;
        if (dim_is_const(g->module->dim, t->dim[i], &n) && n < 0) return false;
    }
    return true;
}

static bool const_sound(const Graph *g, const Value *v)
{
    const Tensor *t = v->konst;
    if (v->type.dtype != t->type || v->type.rank != t->rank || (!t->data && tensor_count(t))) return false;
    for (int i = 0; i < t->rank; i++)
        if (!dim_is(g->module->dim, v->type.dim[i], t->dim[i])) return false;
    return true;
}

static bool elements_sound(const Graph *g, const Value *v)
{
    int64_t count = 1, n;
    if (v->elems > MAX_ELEMS || v->type.rank < 0) return false;
    for (int i = 0; i < v->type.rank; i++) {
        if (!dim_is_const(g->module->dim, v->type.dim[i], &n)) return true; /* a size that became known later */
        count *= n;
    }
    return count == v->elems;
}

static bool value_sound(const Graph *g, uint32_t i, const char **why)
{
    const Value *v = &g->val.at[i];
    *why = "a type is malformed, or unknown without an error";
    if (!type_sound(g, v)) return false;
    *why = "a constant is not of its type";
    if (v->konst && (v->def != NO_NODE || !const_sound(g, v))) return false;
    *why = "known elements do not match the type";
    if (v->elem && !elements_sound(g, v)) return false;
    *why = "a value is no output of the node it names";
    if (v->def == NO_NODE) return true;
    if (v->def >= g->node.n) return false;
    const Node *n = &g->node.at[v->def];
    return i >= n->out.id && i < n->out.id + n->nout;
}

static bool attrs_sound(const Node *n, const char **why)
{
    const OpSchema *s = op_schema(n->op);
    for (uint32_t i = 0; i < s->nattr; i++) {
        *why = "an attribute is not of its row's kind";
        if (n->attr[i].kind && n->attr[i].kind != s->attr[i].kind) return false;
        if (n->attr[i].kind == ATTR_GRAPH && !graph_verify(n->attr[i].graph, why)) return false;
    }
    return true;
}

static bool node_sound(const Graph *g, uint32_t i, const char **why)
{
    const Node *n = &g->node.at[i];
    *why = "a node's operands or outputs are outside of the graph";
    if (!n->op || !n->nout || !n->out.id) return false;
    if (n->in + (uint64_t)n->nin > g->operand.n || n->out.id + (uint64_t)n->nout > g->val.n) return false;
    *why = "an output does not name its node";
    for (uint32_t o = 0; o < n->nout; o++)
        if (graph_val(g, node_out(n, o))->def != i) return false;
    *why = "a value is used before it is defined";
    for (uint32_t k = 0; k < n->nin; k++)
        if (node_in(g, n, k).id >= n->out.id) return false;
    *why = "nodes are not in the order of their values";
    if (i && g->node.at[i - 1].out.id + g->node.at[i - 1].nout > n->out.id) return false;
    return attrs_sound(n, why);
}

bool graph_verify(const Graph *g, const char **why)
{
    *why = "value 0 is not the absent value";
    if (!g->val.n || g->val.at[0].type.dtype || g->val.at[0].konst || g->val.at[0].def != NO_NODE) return false;
    for (uint32_t i = 1; i < g->val.n; i++)
        if (!value_sound(g, i, why)) return false;
    for (uint32_t i = 0; i < g->node.n; i++)
        if (!node_sound(g, i, why)) return false;
    *why = "an input is not a plain value";
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Value *v = graph_val(g, g->input.at[i]);
        if (!g->input.at[i].id || g->input.at[i].id >= g->val.n || v->konst || v->def != NO_NODE || !v->type.dtype)
            return false;
    }
    *why = "an output is no value of the graph";
    if (g->output.n != g->output_name.n) return false;
    for (uint32_t i = 0; i < g->output.n; i++)
        if (!g->output.at[i].id || g->output.at[i].id >= g->val.n) return false;
    *why = NULL;
    return true;
}
