/* layers.c - one graph that computes three things beside each other: the float graph, the quantized one, and for every quantized layer a twin.
 *
 * A twin is copied out of the quantized graph, from the layer's output back to values that the float graph has too; those it reads from the
 * float graph. So no error of another layer reaches it. What is asked for are sums of squares, computed where the values are: the graphs go
 * on together, layer by layer, and memory is that of a run, however many layers there are. */
#include "frontend/layers.h"
#include <math.h>
#include <stdlib.h>

enum { SIGNAL, NOISE, NOISE_ALONE, SUMS };

typedef struct Layers {
    Graph *to;
    const Graph *plain, *simulated;
    Arena *mem;
    Map named;               /* name to plain value */
    Val *map, *whole;        /* plain value, simulated value to value of `to` */
    Val *twin;               /* simulated value to value of `to`, within one layer */
    VEC(uint32_t) made;      /* which of them are set */
    uint32_t plain_at, whole_at; /* nodes before these are copied */
    const bool *plain_live, *whole_live;
    const char *output;      /* the layer's */
    VEC(Val) watch;          /* SUMS for each layer */
    VEC(uint32_t) layer;
} Layers;

/* ---- the graphs ---- */
static void names_of(const Graph *g, Arena *mem, Map *names)
{
    for (uint32_t v = 1; v < g->val.n; v++) /* of two with one name the last: a layer's output, not what it is computed from */
        if (!g->val.at[v].konst) map_put(mem, names, tensor_name(g, (Val){v}, mem), v);
}

/* Inputs are those of the float graph, and constants that both have are one. */
static Val *whole_begin(const Layers *t, const Graph *g)
{
    Val *map = NEW_ARRAY(t->mem, Val, g->val.n + 1);
    for (uint32_t i = 0; i < g->input.n; i++) map[g->input.at[i].id] = t->map[t->plain->input.at[i].id];
    for (uint32_t v = 1; v < g->val.n; v++) {
        const Tensor *konst = g->val.at[v].konst;
        if (!konst || g->val.at[v].def != NO_NODE) continue;
        for (uint32_t p = 1; p < t->plain->val.n && !map[v].id; p++)
            if (t->plain->val.at[p].konst == konst) map[v] = t->map[p];
        if (!map[v].id) map[v] = graph_const(t->to, konst, g->val.at[v].name);
    }
    return map;
}

static bool has_data(const Graph *g, const Type *t)
{
    for (int d = 0; d < t->rank; d++)
        if (dim_has_data(g->module->dim, t->dim[d])) return true;
    return false;
}

/* A size that is computed from quantized data is another size: it keeps a symbol of its own. */
static void copy_whole(Layers *t, uint32_t i)
{
    const Node *n = &t->simulated->node.at[i];
    Val *in = NEW_ARRAY(t->mem, Val, n->nin + 1), *out = NEW_ARRAY(t->mem, Val, n->nout);
    for (uint32_t k = 0; k < n->nin; k++) in[k] = t->whole[node_in(t->simulated, n, k).id];
    graph_emit(t->to, n->op, n->attr, in, n->nin, n->nout, n->loc, out);
    for (uint32_t k = 0; k < n->nout; k++) {
        const Value *old = graph_val(t->simulated, node_out(n, k));
        t->whole[n->out.id + k] = out[k];
        if (!has_data(t->simulated, &old->type)) graph_stand_for(t->to, out[k], old);
    }
}

/* Both graphs as far as the definitions of these values. */
static void go_on(Layers *t, Val plain, Val whole)
{
    for (uint32_t end = graph_val(t->plain, plain)->def; t->plain_at <= end; t->plain_at++)
        if (t->plain_live[t->plain_at]) graph_copy_node(t->to, t->plain, t->plain_at, t->map);
    for (uint32_t end = graph_val(t->simulated, whole)->def; t->whole_at <= end; t->whole_at++)
        if (t->whole_live[t->whole_at]) copy_whole(t, t->whole_at);
}

/* ---- twins ---- */
static Val twin_known(Layers *t, Val v)
{
    const Value *x = graph_val(t->simulated, v);
    if (!v.id || t->twin[v.id].id) return t->twin[v.id];
    if (x->konst) return t->whole[v.id].id ? t->whole[v.id] : graph_const(t->to, x->konst, x->name);
    const char *name = tensor_name(t->simulated, v, t->mem);
    uint32_t plain = strcmp(name, t->output) ? map_get(&t->named, name) : 0;
    return plain ? t->map[plain] : (Val){0};
}

static void twin_node(Layers *t, const Node *n)
{
    Val *in = NEW_ARRAY(t->mem, Val, n->nin + 1), *out = NEW_ARRAY(t->mem, Val, n->nout);
    for (uint32_t i = 0; i < n->nin; i++) in[i] = twin_known(t, node_in(t->simulated, n, i));
    graph_emit(t->to, n->op, n->attr, in, n->nin, n->nout, n->loc, out);
    for (uint32_t i = 0; i < n->nout; i++) {
        t->twin[node_out(n, i).id] = out[i];
        vec_push(t->mem, &t->made, node_out(n, i).id);
    }
}

/* What v needs is made first; nodes stand in an order where definitions precede uses. */
static bool twin_make(Layers *t, Val v)
{
    uint32_t end = graph_val(t->simulated, v)->def, first = end;
    bool *needed = NEW_ARRAY(t->mem, bool, end + 1);
    if (end == NO_NODE) return false;
    needed[end] = true;
    for (uint32_t i = end + 1; i-- > 0;) {
        const Node *n = &t->simulated->node.at[i];
        if (!needed[i]) continue;
        first = i;
        for (uint32_t k = 0; k < n->nin; k++) {
            Val x = node_in(t->simulated, n, k);
            uint32_t def = graph_val(t->simulated, x)->def;
            if (!x.id || twin_known(t, x).id) continue;
            if (def == NO_NODE) return false;
            needed[def] = true;
        }
    }
    for (uint32_t i = first; i <= end; i++)
        if (needed[i]) twin_node(t, &t->simulated->node.at[i]);
    return true;
}

/* ---- sums ---- */
/* Of each row along the last axis: the rest is added in double. */
static Val squares(Graph *g, Val x, const Loc *loc)
{
    Tensor *axis = tensor_new(g->mem, DT_i64, 1, (int64_t[]){1});
    *(int64_t *)(uintptr_t)axis->data = val_type(g, x)->rank - 1;
    return emit(g, "ReduceSumSquare", loc, 2, x, graph_const(g, axis, NULL));
}

/* 0 where the two are not of the same sizes. */
static Val noise(Graph *g, Val x, Val y, const Loc *loc)
{
    if (!x.id || !y.id) return (Val){0};
    const Type *a = val_type(g, x), *b = val_type(g, y);
    bool same = a->dtype == b->dtype && a->rank == b->rank;
    for (int d = 0; same && d < a->rank; d++) same = dim_same(dim_canon(g->module->dim, a->dim[d]), dim_canon(g->module->dim, b->dim[d]));
    return same ? squares(g, emit(g, "Sub", loc, 2, x, y), loc) : (Val){0};
}

static void add_layer(Layers *t, const Layer *l, uint32_t number, const Map *simulated)
{
    Val plain = {map_get(&t->named, l->tensor)}, whole = {map_get(simulated, l->tensor)};
    for (uint32_t i = 0; i < t->made.n; i++) t->twin[t->made.at[i]] = (Val){0};
    t->made.n = 0, t->output = l->tensor;
    if (!plain.id || !whole.id) return;
    const Type *type = val_type(t->plain, plain);
    if (!dtype_is_float(type->dtype) || type->rank < 1) return;
    go_on(t, plain, whole);
    bool has_twin = l->state != LAYER_FLOAT && twin_make(t, whole);
    Val x = t->map[plain.id], sum[SUMS] = {squares(t->to, x, l->loc), noise(t->to, x, t->whole[whole.id], l->loc)};
    if (has_twin) sum[NOISE_ALONE] = noise(t->to, x, t->twin[whole.id], l->loc);
    for (int k = 0; k < SUMS; k++) vec_push(t->mem, &t->watch, sum[k].id ? sum[k] : sum[SIGNAL]);
    vec_push(t->mem, &t->layer, number);
}

typedef struct Sums {
    const Layers *of;
    double *sum; /* as Layers.watch */
} Sums;

static bool add_sample(void *ctx, const Sample *s, const Tensor *const *out, Diag *diag)
{
    const Sums *sums = ctx;
    (void)s, (void)diag;
    for (uint32_t i = 0; i < sums->of->watch.n; i++)
        for (int64_t row = 0, n = tensor_count(out[i]); row < n; row++) sums->sum[i] += dtype_load(out[i]->type, out[i]->data, row);
    return true;
}

/* A sum that there is none of stands as the signal itself. */
static double decibels(const Layers *t, const double *sum, uint32_t i, int which)
{
    const Val *v = &t->watch.at[i * SUMS];
    return v[which].id == v[SIGNAL].id ? (double)NAN : 10 * log10(sum[i * SUMS + SIGNAL] / sum[i * SUMS + (uint32_t)which]);
}

typedef struct Place {
    uint32_t layer, def; /* its number; where the float graph defines its output */
} Place;

static int by_place(const void *a, const void *b)
{
    const Place *x = a, *y = b;
    return x->def != y->def ? (x->def > y->def) - (x->def < y->def) : (x->layer > y->layer) - (x->layer < y->layer);
}

/* Layers as the graphs compute them, whatever the order they were noted in: what one of them needs is gone before the next begins. */
static const Place *in_order(const Layers *t, const Quantization *q)
{
    Place *place = NEW_ARRAY(t->mem, Place, q->layer.n + 1);
    for (uint32_t i = 0; i < q->layer.n; i++)
        place[i] = (Place){i, graph_val(t->plain, (Val){map_get(&t->named, q->layer.at[i].tensor)})->def};
    qsort(place, q->layer.n, sizeof *place, by_place);
    return place;
}

bool measure_layers(const Graph *plain, const Graph *simulated, Quantization *q, const CalibrateOptions *o, double *alone, Diag *diag)
{
    Arena mem = {0};
    Map names = {0};
    Layers t = {.plain = plain, .simulated = simulated, .mem = &mem, .to = graph_new(plain->module, &mem, plain->name)};
    t.map = graph_begin(t.to, plain, &mem), t.whole = whole_begin(&t, simulated);
    t.twin = NEW_ARRAY(&mem, Val, simulated->val.n + 1);
    t.plain_live = graph_live(plain, &mem), t.whole_live = graph_live(simulated, &mem);
    names_of(plain, &mem, &t.named), names_of(simulated, &mem, &names);
    const Place *place = in_order(&t, q);
    for (uint32_t i = 0; i < q->layer.n; i++) alone[i] = NAN;
    for (uint32_t i = 0; i < q->layer.n; i++) add_layer(&t, &q->layer.at[place[i].layer], place[i].layer, &names);
    for (uint32_t i = 0; i < t.watch.n; i++) graph_output(t.to, t.watch.at[i], arena_printf(&mem, "sum_%u", i));
    Sums sums = {&t, NEW_ARRAY(&mem, double, t.watch.n + 1)};
    bool ok = !t.layer.n || observe(t.to, t.watch.at, t.watch.n, o, MEASURED, NULL, add_sample, &sums, diag);
    for (uint32_t i = 0; ok && i < t.layer.n; i++) {
        q->layer.at[t.layer.at[i]].sqnr = decibels(&t, sums.sum, i, NOISE);
        alone[t.layer.at[i]] = decibels(&t, sums.sum, i, NOISE_ALONE);
    }
    arena_drop(&mem);
    return ok;
}
