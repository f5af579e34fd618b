/* worlds.h - for tests of graphs: a module with nothing in it, and tensors of made-up data. */
#ifndef WORLDS_H
#define WORLDS_H
#include "ir/graph.h"
#include "ir/lower.h"
#include "ir/op.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

typedef struct World {
    Arena mem, scratch;
    Diag diag;
    Module module;
} World;

static inline void world_open(World *w)
{
    memset(w, 0, sizeof *w);
    w->diag = (Diag){.mem = &w->mem, .subject = "test"};
    w->module = (Module){.mem = &w->mem, .dim = dims_new(&w->mem), .diag = &w->diag, .name = "test", .folder = "."};
}

static inline void world_close(World *w)
{
    arena_drop(&w->scratch);
    arena_drop(&w->mem);
}

static inline uint32_t random_step(uint32_t *seed) { return *seed = *seed * 1664525u + 1013904223u, *seed >> 8; }

/* Floats in [-2, 2), integers in [0, 200) or, where there is a sign, [-100, 100). */
static inline Tensor *tensor_random(Arena *mem, DType type, int rank, const int64_t *dim, uint32_t seed)
{
    Tensor *t = tensor_new(mem, type, rank, dim);
    for (int64_t i = 0; i < tensor_count(t); i++) {
        uint32_t r = random_step(&seed);
        if (dtype_is_float(type)) dtype_store(type, (void *)(uintptr_t)t->data, i, (double)r / (1 << 22) - 2);
        else dtype_store_int(type, (void *)(uintptr_t)t->data, i, type == DT_bool ? r & 1 : (int64_t)(r % 200) - (dtypes[type].cls == DC_UINT ? 0 : 100));
    }
    return t;
}

/* The graph computed by folding: out, a new graph, becomes constants; yields the outputs for the one input x. seen, where not NULL, is told of every
 * node with what it reads. */
typedef void Folded(void *ctx, const Graph *out, const Node *n, const Val *arg);
static inline const Tensor **graph_folded(World *w, const Graph *g, const Tensor *x, Folded *seen, void *ctx)
{
    Graph *out = graph_new(&w->module, &w->mem, "folded");
    Val *map = graph_begin(out, g, &w->mem);
    map[g->input.at[0].id] = graph_const(out, x, NULL);
    const Tensor **y = NEW_ARRAY(&w->mem, const Tensor *, g->output.n + 1);
    for (uint32_t i = 0; i < g->node.n; i++) {
        const Node *n = &g->node.at[i];
        Val arg[4];
        cr_assert(n->nin <= COUNT_OF(arg) && n->nout == 1);
        for (uint32_t k = 0; k < n->nin; k++) arg[k] = map[node_in(g, n, k).id];
        graph_emit(out, n->op, n->attr, arg, n->nin, 1, n->loc, &map[n->out.id]);
        if (seen) seen(ctx, out, n, arg);
    }
    for (uint32_t i = 0; i < g->output.n; i++) cr_assert(y[i] = graph_val(out, map[g->output.at[i].id])->konst);
    return y;
}

/* Whether a type variable's list (OpDef.T) holds t: names, or classes. Types that no arithmetic has are left out of `any`. */
static inline bool list_takes(const char *list, DType t)
{
    DClass c = dtypes[t].cls;
    bool number = dtypes[t].bits >= 8 && (c == DC_INT || c == DC_UINT), real = t == DT_f16 || t == DT_bf16 || t == DT_f32 || t == DT_f64;
    char text[200], *word, *rest = text;
    snprintf(text, sizeof text, "%s", list ? list : "");
    while ((word = strtok_r(rest, " ", &rest))) {
        bool any = !strcmp(word, "any");
        if (!strcmp(word, dtypes[t].name) || (real && (any || !strcmp(word, "float"))) || (number && (any || !strcmp(word, "int"))) ||
            (number && c == DC_UINT && !strcmp(word, "uint")) || (t == DT_bool && any))
            return true;
    }
    return false;
}

/* Data for an input of that name: scales (names that begin with s) are positive, zero points (z) near the middle of their type. */
static inline Tensor *made_up(World *w, const char *name, const Type *t, uint32_t seed)
{
    int64_t dim[MAX_RANK];
    for (int d = 0; d < t->rank; d++) dim_is_const(w->module.dim, t->dim[d], &dim[d]);
    Tensor *x = tensor_new(&w->mem, t->dtype, t->rank, dim);
    void *data = (void *)(uintptr_t)x->data;
    for (int64_t i = 0; i < tensor_count(x); i++) {
        double r = (double)random_step(&seed) / (1 << 24);
        if (*name == 's') dtype_store(t->dtype, data, i, t->dtype == DT_f8e8m0 ? ldexp(1, (int)(r * 4) - 6) : t->dtype == DT_f8e4m3fn ? 1 + 7 * r : 0.01 + 0.03 * r);
        else if (*name == 'z') dtype_store(t->dtype, data, i, dtype_is_float(t->dtype) ? 0 : (double)(dtype_min(t->dtype) + dtype_max(t->dtype) + 1) / 2 + floor(3 * r));
        else if (dtype_is_float(t->dtype)) dtype_store(t->dtype, data, i, 4 * r - 2);
        else dtype_store_int(t->dtype, data, i, t->dtype == DT_i64 ? (int64_t)(100 * r) : dtype_min(t->dtype) / (t->dtype == DT_i32 ? 1 << 20 : 1) + (int64_t)(r * 255));
    }
    return x;
}

/* The graph with made-up constants for all inputs but those whose names begin with x. */
static inline Graph *graph_with_constants(World *w, const Graph *g)
{
    Graph *out = graph_new(&w->module, &w->mem, g->name);
    Val *map = NEW_ARRAY(&w->mem, Val, g->val.n + 1);
    for (uint32_t i = 0; i < g->input.n; i++) {
        Val v = g->input.at[i];
        const Value *val = graph_val(g, v);
        bool stays = *val->name == 'x';
        map[v.id] = stays ? graph_input(out, val->name, *val_type(g, v)) : graph_const(out, made_up(w, val->name, val_type(g, v), i + 1), val->name);
    }
    for (uint32_t v = 1; v < g->val.n; v++)
        if (g->val.at[v].konst) map[v] = graph_const(out, g->val.at[v].konst, NULL);
    for (uint32_t i = 0; i < g->node.n; i++) graph_copy_node(out, g, i, map);
    for (uint32_t o = 0; o < g->output.n; o++) graph_output(out, map[g->output.at[o].id], "y");
    return out;
}
#endif
