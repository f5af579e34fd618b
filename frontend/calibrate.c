/* calibrate.c - see calibrate.h. */
#include "frontend/calibrate.h"
#include "frontend/program.h"
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- a graph with other outputs, compiled and loaded ---- */
typedef VEC(Val) Vals;

static Graph *with_outputs(const Graph *g, const Val *watch, uint32_t n, Arena *mem)
{
    Arena scratch = {0};
    Graph *out = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(out, g, &scratch);
    for (uint32_t i = 0; i < g->node.n; i++) graph_copy_node(out, g, i, map);
    for (uint32_t i = 0; i < n; i++) graph_output(out, map[watch[i].id], arena_printf(mem, "observed_%u", i));
    arena_drop(&scratch);
    return out;
}

typedef Program Observer;

static void observer_drop(Observer *o) { program_drop(o); }

static bool observer_new(Observer *o, const Graph *g, const Val *watch, uint32_t n, const Storage *store,
                         const CalibrateOptions *how, Arena *mem, Diag *diag)
{
    ProgramOptions p = {.store = store, .threads = how->threads, .cache = how->cache};
    return program_new(o, with_outputs(g, watch, n, mem), &p, mem, diag);
}

/* ---- observing ---- */
typedef struct Observing {
    Observer observer;
    uint32_t n;
    const CalibrateOptions *o;
    const char *what;
    ObserveFn *each;
    void *ctx;
} Observing;

static void progress(const Observing *w, const Sample *s)
{
    if (w->o->quiet || !w->what || !isatty(2)) return;
    if (s->of) fprintf(stderr, "\r%s, sample %u/%u%s", w->what, s->index + 1, s->of, s->index + 1 == s->of ? "\r\033[K" : "");
    else fprintf(stderr, "\r%s, sample %u", w->what, s->index + 1);
}

static bool observe_one(void *ctx, const Sample *s, Diag *diag)
{
    Observing *w = ctx;
    const Tensor **out = NEW_ARRAY(s->mem, const Tensor *, w->n + 1);
    if (!session_run(w->observer.session, s->mem, s->in, out, diag)) return false;
    progress(w, s);
    return w->each(w->ctx, s, out, diag);
}

bool observe(const Graph *g, const Val *watch, uint32_t n, const CalibrateOptions *o, uint32_t most, const char *what,
             ObserveFn *each, void *ctx, Diag *diag)
{
    Arena mem = {0};
    Observing w = {.n = n, .o = o, .what = what, .each = each, .ctx = ctx};
    bool ok = observer_new(&w.observer, g, watch, n, NULL, o, &mem, diag) &&
              samples_each(o->samples, g, most, observe_one, &w, diag);
    observer_drop(&w.observer);
    arena_drop(&mem);
    return ok;
}

/* ---- calibration ---- */
typedef struct Watched {
    Arena mem;
    Statistic stat;
    ChannelSums sums;
    RowSums rows;
    int axis;
} Watched; /* axis of channels, or -1 */

static void watch_tensor(Watched *w, const Tensor *t)
{
    Arena *mem = &w->mem;
    int64_t outer = 1, inner = 1;
    stat_add(mem, &w->stat, t->data, tensor_count(t));
    if (t->rank) stat_rows(&w->rows, t->data, tensor_count(t), t->dim[t->rank - 1]);
    if (w->axis < 0) return;
    for (int d = 0; d < w->axis; d++) outer *= t->dim[d];
    for (int d = w->axis + 1; d < t->rank; d++) inner *= t->dim[d];
    stat_channels(mem, &w->sums, t->data, outer, t->dim[w->axis], inner);
}

static void keep_means(const ChannelSums *s, Range *r, Arena *mem)
{
    if (!s->sum || !s->seen) return;
    float *mean = NEW_ARRAY(mem, float, s->channels);
    for (int64_t c = 0; c < s->channels; c++) mean[c] = (float)(s->sum[c] / (double)s->seen);
    r->mean = mean, r->channels = s->channels;
}

/* The tensors of a sample, by several threads: each tensor's values are seen by one, in their order. */
typedef struct Watch {
    Watched *stat;
    const Tensor *const *out;
    uint32_t n;
    atomic_uint next;
} Watch;

static void *watch_some(void *arg)
{
    Watch *w = arg;
    for (uint32_t i; (i = atomic_fetch_add(&w->next, 1)) < w->n;) watch_tensor(&w->stat[i], w->out[i]);
    return NULL;
}

static void watch_all(Watched *stat, const Tensor *const *out, uint32_t n, int threads)
{
    enum { MOST = 64 };
    pthread_t thread[MOST];
    int started = 0;
    Watch w = {.stat = stat, .out = out, .n = n};
    while (started < threads - 1 && started < MOST && !pthread_create(&thread[started], NULL, watch_some, &w))
        started++;
    watch_some(&w);
    while (started) pthread_join(thread[--started], NULL);
}

typedef struct Watching {
    Watched *stat;
    uint32_t n;
    int threads;
} Watching;

static bool watch_sample(void *ctx, const Sample *s, const Tensor *const *out, Diag *diag)
{
    const Watching *w = ctx;
    (void)s, (void)diag;
    watch_all(w->stat, out, w->n, w->threads);
    return true;
}

static const Statistic *keep_statistic(const Statistic *s, Arena *mem)
{
    Statistic *kept = arena_copy(mem, s, sizeof *s);
    kept->bin = arena_copy(mem, s->bin, sizeof *s->bin * STAT_BINS);
    return kept;
}

static void keep_range(const Watched *w, const char *name, Quantization *q, const StatMethod *method, Diag *diag)
{
    const Statistic *stat = &w->stat;
    double lo, hi;
    if (stat->bad)
        diag_warn(diag, NULL, "tensor '%s' held %llu infinite or NaN values during calibration", name,
                  (unsigned long long)stat->bad);
    if (!stat->bin) return;
    method->range(stat, &lo, &hi);
    Range *r = range_set(q, name, lo, hi);
    r->stat = keep_statistic(stat, q->mem);
    keep_means(&w->sums, r, q->mem);
    if (w->rows.rows) r->rms = sqrt(w->rows.square / (double)w->rows.values), r->row_peak = sqrt(w->rows.peak / (double)w->rows.rows);
}

bool calibrate(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag)
{
    Arena mem = {0};
    Vals watch = {0};
    const bool *want = quantize_wanted(g, &mem);
    for (uint32_t v = 1; v < g->val.n; v++)
        if (want[v]) vec_push(&mem, &watch, (Val){v});
    Watched *watched = NEW_ARRAY(&mem, Watched, watch.n + 1);
    for (uint32_t i = 0; i < watch.n; i++) watched[i].axis = channel_axis(g, watch.at[i]);
    Watching w = {watched, watch.n, o->threads};
    bool ok = observe(g, watch.at, watch.n, o, 0, "calibrating", watch_sample, &w, diag);
    for (uint32_t i = 0; ok && i < watch.n; i++)
        keep_range(&watched[i], tensor_name(g, watch.at[i], &mem), q, o->method, diag);
    for (uint32_t i = 0; i < watch.n; i++) arena_drop(&watched[i].mem);
    arena_drop(&mem);
    return ok;
}

/* ---- measuring the quantized layers ---- */
static Val value_named(const Graph *g, const char *name, Arena *mem)
{
    Val found = {0}; /* of two with one name the last: a layer's output, not what it is computed from */
    for (uint32_t v = 1; v < g->val.n; v++)
        if (!strcmp(tensor_name(g, (Val){v}, mem), name)) found = (Val){v};
    return found;
}

/* How far two runs are apart: sums of squares of what should be and of what is off, the most of either. */
typedef struct Apart {
    double signal, noise, most, off;
} Apart;

static void apart_add(Apart *p, const Tensor *a, const Tensor *b)
{
    int64_t n = tensor_count(a);
    for (int64_t i = 0; i < n; i++) {
        double x = dtype_load(a->type, a->data, i), e = fabs(x - dtype_load(b->type, b->data, i));
        p->signal += x * x, p->noise += e * e;
        if (fabs(x) > p->most) p->most = fabs(x);
        if (!(e <= p->off)) p->off = e;
    }
}

/* Two programs on the same inputs. */
typedef struct Compared {
    Observer w[2];
    uint32_t n, runs;
    Apart *apart;
} Compared;

static bool compare_run(void *ctx, const Sample *s, Diag *diag)
{
    Compared *c = ctx;
    const Tensor **out[2];
    for (int k = 0; k < 2; k++) {
        out[k] = NEW_ARRAY(s->mem, const Tensor *, c->n + 1);
        if (!session_run(c->w[k].session, s->mem, s->in, out[k], diag)) return false;
    }
    for (uint32_t i = 0; i < c->n; i++) apart_add(&c->apart[i], out[0][i], out[1][i]);
    return c->runs++, true;
}

bool calibrate_measure(const Graph *plain, const Graph *quantized, Quantization *q, const CalibrateOptions *o,
                       Diag *diag)
{
    Arena mem = {0};
    Vals watch[2] = {{0}, {0}};
    VEC(Layer *) layer = {0};
    Compared c = {0};
    for (uint32_t i = 0; i < q->layer.n; i++) {
        Layer *l = &q->layer.at[i];
        Val a = value_named(plain, l->tensor, &mem), b = value_named(quantized, l->tensor, &mem);
        if (!a.id || !b.id || val_type(quantized, b)->dtype != val_type(plain, a)->dtype) continue;
        vec_push(&mem, &watch[0], a), vec_push(&mem, &watch[1], b), vec_push(&mem, &layer, l);
    }
    c.apart = NEW_ARRAY(&mem, Apart, layer.n + 1), c.n = layer.n;
    bool ok = observer_new(&c.w[0], plain, watch[0].at, c.n, NULL, o, &mem, diag) &&
              observer_new(&c.w[1], quantized, watch[1].at, c.n, NULL, o, &mem, diag) &&
              samples_each(o->samples, plain, MEASURED, compare_run, &c, diag);
    for (uint32_t i = 0; ok && i < layer.n; i++) layer.at[i]->sqnr = 10 * log10(c.apart[i].signal / c.apart[i].noise);
    observer_drop(&c.w[0]), observer_drop(&c.w[1]);
    arena_drop(&mem);
    return ok;
}

/* ---- measuring a policy ---- */
bool calibrate_difference(const Graph *g, const Graph *exact, const Storage *policy, const CalibrateOptions *o,
                          Difference *d, bool *measured, Diag *diag)
{
    Arena mem = {0};
    Vals watch = {0}, of = {0}; /* the same outputs of both graphs */
    Compared c = {0};
    Diag quiet = {.mem = &mem, .subject = diag->subject};
    for (uint32_t i = 0; i < g->output.n; i++)
        if (dtype_is_float(val_type(g, g->output.at[i])->dtype))
            vec_push(&mem, &watch, g->output.at[i]), vec_push(&mem, &of, exact->output.at[i]);
    *d = (Difference){.made_up = !o->samples || samples_are_random(o->samples)}, *measured = false;
    c.apart = NEW_ARRAY(&mem, Apart, watch.n + 1), c.n = watch.n;
    bool ok = observer_new(&c.w[0], exact, of.at, c.n, NULL, o, &mem, diag) &&
              observer_new(&c.w[1], g, watch.at, c.n, policy, o, &mem, diag);
    if (ok && o->samples) ok = samples_each(o->samples, g, MEASURED, compare_run, &c, diag);
    else if (ok && c.n && !samples_each(samples_random(&mem, 1), g, 0, compare_run, &c, &quiet)) c.runs = 0;
    d->runs = c.runs;
    for (uint32_t i = 0; i < watch.n; i++) {
        d->relative = fmax(d->relative, sqrt(c.apart[i].noise / c.apart[i].signal));
        d->largest = fmax(d->largest, c.apart[i].off / c.apart[i].most);
    }
    *measured = ok && d->runs && watch.n;
    observer_drop(&c.w[0]), observer_drop(&c.w[1]);
    arena_drop(&mem);
    return ok;
}
