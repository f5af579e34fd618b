/* alone.c - the float graph with a quantized twin beside every integer layer.
 *
 * A twin is copied out of the simulated graph, from the layer's output back to values that the float graph has too; those it reads from the
 * float graph. So no error of another layer reaches it, and all layers are measured in one run. */
#include "frontend/alone.h"
#include <math.h>

typedef struct Twins {
    Graph *to;
    const Graph *plain, *simulated;
    Arena *mem;
    Map named;           /* name to plain value */
    Val *map;            /* plain value to value of `to` */
    Val *twin;           /* simulated value to value of `to`, within one layer */
    VEC(uint32_t) made;  /* which of them are set */
    const char *output;  /* the layer's */
    VEC(Val) watch;      /* pairs: float, twin */
    VEC(uint32_t) layer; /* of each pair */
} Twins;

static Val twin_known(Twins *t, Val v)
{
    const Value *x = graph_val(t->simulated, v);
    if (!v.id || t->twin[v.id].id) return t->twin[v.id];
    if (x->konst) return graph_const(t->to, x->konst, x->name);
    const char *name = tensor_name(t->simulated, v, t->mem);
    uint32_t plain = strcmp(name, t->output) ? map_get(&t->named, name) : 0;
    return plain ? t->map[plain] : (Val){0};
}

static void twin_node(Twins *t, const Node *n)
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
static bool twin_make(Twins *t, Val v)
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

static void twin_layer(Twins *t, const Layer *l, uint32_t number, const Map *simulated)
{
    uint32_t plain = map_get(&t->named, l->tensor), quantized = map_get(simulated, l->tensor);
    for (uint32_t i = 0; i < t->made.n; i++) t->twin[t->made.at[i]] = (Val){0};
    t->made.n = 0, t->output = l->tensor;
    if (l->state == LAYER_FLOAT || !plain || !quantized || !twin_make(t, (Val){quantized})) return;
    vec_push(t->mem, &t->watch, t->map[plain]), vec_push(t->mem, &t->watch, t->twin[quantized]);
    vec_push(t->mem, &t->layer, number);
}

static void names_of(const Graph *g, Arena *mem, Map *names)
{
    for (uint32_t v = 1; v < g->val.n; v++) /* of two with one name the last: a layer's output, not what it is computed from */
        if (!g->val.at[v].konst) map_put(mem, names, tensor_name(g, (Val){v}, mem), v);
}

typedef struct Sums {
    double *signal, *noise; /* per pair */
    uint32_t pairs;
} Sums;

static bool add_sample(void *ctx, const Sample *s, const Tensor *const *out, Diag *diag)
{
    const Sums *sums = ctx;
    (void)s, (void)diag;
    for (uint32_t p = 0; p < sums->pairs; p++) {
        const Tensor *a = out[2 * p], *b = out[2 * p + 1];
        int64_t n = tensor_count(a) == tensor_count(b) ? tensor_count(a) : 0;
        for (int64_t i = 0; i < n; i++) {
            double x = dtype_load(a->type, a->data, i), e = x - dtype_load(b->type, b->data, i);
            sums->signal[p] += x * x, sums->noise[p] += e * e;
        }
    }
    return true;
}

bool measure_alone(const Graph *plain, const Graph *simulated, const Quantization *q, const CalibrateOptions *o,
                   double *sqnr, Diag *diag)
{
    Arena mem = {0};
    Map names = {0};
    Twins t = {.plain = plain, .simulated = simulated, .mem = &mem, .to = graph_new(plain->module, &mem, plain->name)};
    t.map = graph_begin(t.to, plain, &mem), t.twin = NEW_ARRAY(&mem, Val, simulated->val.n + 1);
    for (uint32_t i = 0; i < plain->node.n; i++) graph_copy_node(t.to, plain, i, t.map);
    names_of(plain, &mem, &t.named), names_of(simulated, &mem, &names);
    for (uint32_t i = 0; i < q->layer.n; i++) sqnr[i] = NAN, twin_layer(&t, &q->layer.at[i], i, &names);
    graph_end(t.to, plain, t.map);
    for (uint32_t i = 0; i < t.watch.n; i++) graph_output(t.to, t.watch.at[i], NULL); /* so that all of it is alive */
    Sums sums = {NEW_ARRAY(&mem, double, t.layer.n + 1), NEW_ARRAY(&mem, double, t.layer.n + 1), t.layer.n};
    bool ok = !t.layer.n || observe(t.to, t.watch.at, t.watch.n, o, MEASURED, NULL, add_sample, &sums, diag);
    for (uint32_t p = 0; ok && p < t.layer.n; p++) sqnr[t.layer.at[p]] = 10 * log10(sums.signal[p] / sums.noise[p]);
    arena_drop(&mem);
    return ok;
}
