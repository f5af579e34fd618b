/* calibrate.c - see calibrate.h. Samples are checked against the model's inputs before anything runs: a wrong name, rank, size,
 * type or a NaN is the user's mistake and is reported with the sample's file. */
#include "frontend/calibrate.h"
#include "codegen/artefact.h"
#include "frontend/npz.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the samples ---- */
typedef VEC(const char *) Paths;

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static bool samples_list(const char *path, Arena *mem, Paths *out, Diag *diag)
{
    struct stat st;
    if (stat(path, &st)) return diag_error(diag, NULL, "--calibrate %s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) return vec_push(mem, out, path), true;
    DIR *d = opendir(path);
    if (!d) return diag_error(diag, NULL, "--calibrate %s: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(d));)
        if (ends_with(e->d_name, ".npz") || ends_with(e->d_name, ".npy"))
            vec_push(mem, out, arena_printf(mem, "%s/%s", path, e->d_name));
    closedir(d);
    if (!out->n) return diag_error(diag, NULL, "--calibrate %s: no .npz or .npy file in this folder", path);
    qsort(out->at, out->n, sizeof *out->at, by_name);
    return true;
}

static const char *shape_text(const Tensor *t, Arena *mem)
{
    const char *s = dtypes[t->type].name;
    for (int d = 0; d < t->rank; d++) s = arena_printf(mem, "%s%s%lld", s, d ? "," : "[", (long long)t->dim[d]);
    return arena_printf(mem, "%s%s", s, t->rank ? "]" : "[]");
}

static bool sample_fits(const Graph *g, const Value *in, const Tensor *t)
{
    if (t->type != in->type.dtype || t->rank != in->type.rank) return false;
    for (int d = 0; d < t->rank; d++) {
        int64_t want;
        if (dim_is_const(g->module->dim, in->type.dim[d], &want) && want != t->dim[d]) return false;
    }
    return true;
}

static bool is_finite(const Tensor *t)
{
    int64_t n = dtype_is_float(t->type) ? tensor_count(t) : 0;
    for (int64_t i = 0; i < n; i++)
        if (isnan(dtype_load(t->type, t->data, i))) return false;
    return true;
}

/* One sample file as the model's inputs in order. */
static bool sample_read(const Graph *g, const char *path, Arena *mem, const Tensor **in, Diag *diag)
{
    NamedTensors named = {0};
    if (ends_with(path, ".npy")) {
        if (g->input.n != 1)
            return diag_error(diag, NULL, "%s: a .npy sample needs a model with one input, this one has %u", path,
                              g->input.n);
        const Tensor *t = npy_read(mem, diag, path);
        if (!t) return false;
        vec_push(mem, &named, (NamedTensor){graph_val(g, g->input.at[0])->name, t});
    } else if (!npz_read(mem, diag, path, &named)) {
        return false;
    }
    for (uint32_t i = 0; i < g->input.n; i++) {
        const Value *v = graph_val(g, g->input.at[i]);
        const NamedTensor *found = npz_find(&named, v->name);
        if (!found) return diag_error(diag, NULL, "%s: no array named '%s', an input of the model", path, v->name);
        in[i] = found->tensor;
        if (!sample_fits(g, v, in[i]))
            return diag_error(diag, NULL, "%s: array '%s' is %s, the model expects %s", path, v->name,
                              shape_text(in[i], mem), type_text(g->module, &v->type, mem));
        if (!is_finite(in[i])) return diag_error(diag, NULL, "%s: array '%s' holds NaN", path, v->name);
    }
    for (uint32_t i = 0; i < named.n; i++) {
        bool known = false;
        for (uint32_t k = 0; k < g->input.n; k++)
            known = known || !strcmp(named.at[i].name, graph_val(g, g->input.at[k])->name);
        if (!known) return diag_error(diag, NULL, "%s: array '%s' is no input of the model", path, named.at[i].name);
    }
    return true;
}

/* ---- a graph with other outputs, compiled and loaded ---- */
typedef VEC(Val) Vals;

static Graph *with_outputs(const Graph *g, const Vals *watch, Arena *mem)
{
    Arena scratch = {0};
    Graph *out = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(out, g, &scratch);
    for (uint32_t i = 0; i < g->node.n; i++) graph_copy_node(out, g, i, map);
    for (uint32_t i = 0; i < watch->n; i++)
        graph_output(out, map[watch->at[i].id], arena_printf(mem, "observed_%u", i));
    arena_drop(&scratch);
    return out;
}

typedef struct Observer {
    Loaded loaded;
    Session *session;
} Observer;

static void observer_drop(Observer *o)
{
    if (o->session) session_drop(o->session);
    if (o->loaded.handle) artefact_unload(&o->loaded);
    *o = (Observer){0};
}

static bool observer_new(Observer *o, const Graph *g, const Vals *watch, const Storage *store,
                         const CalibrateOptions *how, Arena *mem, Diag *diag)
{
    const char *base = getenv("TMPDIR") && *getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    char *folder = arena_printf(mem, "%s/octet-XXXXXX", base);
    if (!mkdtemp(folder)) return diag_error(diag, NULL, "%s cannot be made: %s", folder, strerror(errno));
    const char *path = arena_printf(mem, "%s/observed.so", folder);
    CodegenOptions c = {.target = "native", .out = path, .kind = ARTEFACT_SO, .cache = how->cache, .quiet = true};
    if (store) c.store = *store;
    bool ok = codegen_graph(with_outputs(g, watch, mem), &c, diag) && artefact_load(path, &o->loaded, diag) &&
              (o->session = session_new(&o->loaded, how->threads, diag));
    unlink(path), unlink(arena_printf(mem, "%s/observed.h", folder)), rmdir(folder);
    if (!ok) observer_drop(o);
    return ok;
}

/* ---- calibration ---- */
static void progress(const CalibrateOptions *o, const char *what, uint32_t i, uint32_t n)
{
    if (!o->quiet && isatty(2)) fprintf(stderr, "\r%s %u/%u%s", what, i, n, i == n ? "\r\033[K" : "");
}

typedef struct Watched {
    Arena mem;
    Statistic stat;
    ChannelSums sums;
    int axis;
} Watched; /* axis of channels, or -1 */

static void watch_tensor(Watched *w, const Tensor *t)
{
    Arena *mem = &w->mem;
    int64_t outer = 1, inner = 1;
    stat_add(mem, &w->stat, t->data, tensor_count(t));
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
    const Tensor **out;
    uint32_t n;
    atomic_uint next;
} Watch;

static void *watch_some(void *arg)
{
    Watch *w = arg;
    for (uint32_t i; (i = atomic_fetch_add(&w->next, 1)) < w->n;) watch_tensor(&w->stat[i], w->out[i]);
    return NULL;
}

static void watch_all(Watched *stat, const Tensor **out, uint32_t n, int threads)
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

static bool watch_samples(const Graph *g, Observer *w, const Vals *watch, const Paths *paths, Watched *stat,
                          const CalibrateOptions *o, Diag *diag)
{
    for (uint32_t s = 0; s < paths->n; s++) {
        Arena sample = {0};
        const Tensor **in = NEW_ARRAY(&sample, const Tensor *, g->input.n + 1),
                     **out = NEW_ARRAY(&sample, const Tensor *, watch->n + 1);
        bool ok = sample_read(g, paths->at[s], &sample, in, diag) && session_run(w->session, &sample, in, out, diag);
        if (ok) watch_all(stat, out, watch->n, o->threads);
        arena_drop(&sample);
        if (!ok) return false;
        progress(o, "calibrating, sample", s + 1, paths->n);
    }
    return true;
}

bool calibrate(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag)
{
    Arena mem = {0};
    Paths paths = {0};
    Vals watch = {0};
    Observer w = {0};
    const bool *want = quantize_wanted(g, &mem);
    for (uint32_t v = 1; v < g->val.n; v++)
        if (want[v]) vec_push(&mem, &watch, (Val){v});
    Watched *watched = NEW_ARRAY(&mem, Watched, watch.n + 1);
    for (uint32_t i = 0; i < watch.n; i++) watched[i].axis = channel_axis(g, watch.at[i]);
    bool ok = samples_list(o->samples, &mem, &paths, diag) && observer_new(&w, g, &watch, NULL, o, &mem, diag) &&
              watch_samples(g, &w, &watch, &paths, watched, o, diag);
    for (uint32_t i = 0; ok && i < watch.n; i++) {
        const char *name = tensor_name(g, watch.at[i], &mem);
        const Statistic *stat = &watched[i].stat;
        double lo, hi;
        if (stat->bad)
            diag_warn(diag, NULL, "tensor '%s' held %llu infinite or NaN values during calibration", name,
                      (unsigned long long)stat->bad);
        if (!stat->bin) continue;
        o->method->range(stat, &lo, &hi);
        keep_means(&watched[i].sums, range_set(q, name, lo, hi), q->mem);
    }
    for (uint32_t i = 0; i < watch.n; i++) arena_drop(&watched[i].mem);
    observer_drop(&w);
    arena_drop(&mem);
    return ok;
}

/* ---- measuring the quantized layers ---- */
static Val value_named(const Graph *g, const char *name, Arena *mem)
{
    for (uint32_t v = 1; v < g->val.n; v++)
        if (!strcmp(tensor_name(g, (Val){v}, mem), name)) return (Val){v};
    return (Val){0};
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

static const Tensor *made_up(const Graph *g, Val v, Arena *mem)
{
    const Type *type = val_type(g, v);
    int64_t dim[MAX_RANK];
    for (int d = 0; d < type->rank; d++)
        if (!dim_is_const(g->module->dim, type->dim[d], &dim[d])) dim[d] = 1;
    return tensor_made_up(mem, type->dtype, type->rank, dim);
}

/* Both programs on one sample, or on made-up numbers where path is NULL. */
static bool compare_run(const Graph *g, const char *path, Observer *w, uint32_t n, Apart *apart, Diag *diag)
{
    Arena run = {0};
    const Tensor **in = NEW_ARRAY(&run, const Tensor *, g->input.n + 1), **out[2];
    bool ok = !path || sample_read(g, path, &run, in, diag);
    for (uint32_t i = 0; !path && i < g->input.n; i++) in[i] = made_up(g, g->input.at[i], &run);
    for (int k = 0; ok && k < 2; k++) {
        out[k] = NEW_ARRAY(&run, const Tensor *, n + 1);
        ok = session_run(w[k].session, &run, in, out[k], diag);
    }
    for (uint32_t i = 0; ok && i < n; i++) apart_add(&apart[i], out[0][i], out[1][i]);
    arena_drop(&run);
    return ok;
}

bool calibrate_measure(const Graph *plain, const Graph *quantized, Quantization *q, const CalibrateOptions *o,
                       Diag *diag)
{
    Arena mem = {0};
    Paths paths = {0};
    Vals watch[2] = {{0}, {0}};
    VEC(Layer *) layer = {0};
    Observer w[2] = {{{0}, NULL}, {{0}, NULL}};
    for (uint32_t i = 0; i < q->layer.n; i++) {
        Layer *l = &q->layer.at[i];
        Val a = value_named(plain, l->tensor, &mem), b = value_named(quantized, l->tensor, &mem);
        if (!a.id || !b.id || val_type(quantized, b)->dtype != val_type(plain, a)->dtype) continue;
        vec_push(&mem, &watch[0], a), vec_push(&mem, &watch[1], b), vec_push(&mem, &layer, l);
    }
    Apart *apart = NEW_ARRAY(&mem, Apart, layer.n + 1);
    bool ok = samples_list(o->samples, &mem, &paths, diag) &&
              observer_new(&w[0], plain, &watch[0], NULL, o, &mem, diag) &&
              observer_new(&w[1], quantized, &watch[1], NULL, o, &mem, diag);
    for (uint32_t s = 0; ok && s < paths.n && s < MEASURED; s++)
        ok = compare_run(plain, paths.at[s], w, layer.n, apart, diag);
    for (uint32_t i = 0; ok && i < layer.n; i++) layer.at[i]->sqnr = 10 * log10(apart[i].signal / apart[i].noise);
    observer_drop(&w[0]), observer_drop(&w[1]);
    arena_drop(&mem);
    return ok;
}

/* ---- measuring a policy ---- */
bool calibrate_difference(const Graph *g, const Storage *policy, const CalibrateOptions *o, Difference *d,
                          bool *measured, Diag *diag)
{
    Arena mem = {0};
    Paths paths = {0};
    Vals watch = {0};
    Observer w[2] = {{{0}, NULL}, {{0}, NULL}};
    Diag quiet = {.mem = &mem, .subject = diag->subject};
    for (uint32_t i = 0; i < g->output.n; i++)
        if (dtype_is_float(val_type(g, g->output.at[i])->dtype)) vec_push(&mem, &watch, g->output.at[i]);
    *d = (Difference){.made_up = !o->samples}, *measured = false;
    Apart *apart = NEW_ARRAY(&mem, Apart, watch.n + 1);
    bool ok = (!o->samples || samples_list(o->samples, &mem, &paths, diag)) &&
              observer_new(&w[0], g, &watch, NULL, o, &mem, diag) &&
              observer_new(&w[1], g, &watch, policy, o, &mem, diag);
    if (!o->samples && watch.n) d->runs = ok && compare_run(g, NULL, w, watch.n, apart, &quiet);
    for (; ok && d->runs < paths.n && d->runs < MEASURED; d->runs++)
        if (!compare_run(g, paths.at[d->runs], w, watch.n, apart, diag)) ok = false;
    for (uint32_t i = 0; i < watch.n; i++) {
        d->relative = fmax(d->relative, sqrt(apart[i].noise / apart[i].signal));
        d->largest = fmax(d->largest, apart[i].off / apart[i].most);
    }
    *measured = ok && d->runs && watch.n;
    observer_drop(&w[0]), observer_drop(&w[1]);
    arena_drop(&mem);
    return ok;
}
