/* calibrate.c - see calibrate.h. */
#include "frontend/calibrate.h"
#include "frontend/crew.h"
#include "frontend/file.h"
#include "frontend/metric.h"
#include "frontend/program.h"
#include "ir/base/stage.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- a graph with other outputs, compiled and loaded ---- */
typedef VEC(Val) Vals;

static Graph *with_outputs(const Graph *g, const Val *watch, uint32_t n, Arena *mem)
{
    Arena scratch = {0};
    Graph *out = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(out, g, &scratch);
    const bool *live = graph_live(g, &scratch); /* what is watched is */
    for (uint32_t i = 0; i < g->node.n; i++)
        if (live[i]) graph_copy_node(out, g, i, map);
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
    bool ok = program_new(o, with_outputs(g, watch, n, mem), &p, mem, diag);
    files_rest(how->files); /* the weights are in the observer now */
    return ok;
}

/* ---- observing ---- */
typedef struct Observing {
    const Graph *g;
    const Val *watch;
    uint32_t n;
    const CalibrateOptions *o;
    const char *what;
    ObserveFn *each;
    void *ctx;
    uint32_t spread;             /* 0, or of the samples only so many are run, spread over all */
    Arena mem;
    Observer observer;
} Observing;

static void progress(const Observing *w, const Sample *s)
{
    if (w->o->quiet || !w->what || !isatty(2)) return;
    if (s->of) fprintf(stderr, "\r%s, sample %u/%u%s", w->what, s->index + 1, s->of, s->index + 1 == s->of ? "\r\033[K" : "");
    else fprintf(stderr, "\r%s, sample %u", w->what, s->index + 1);
}

/* Whether sample i of n is one of `of`, spread over all; where nobody knows n the first are. */
bool is_spread(uint64_t i, uint64_t n, uint64_t of)
{
    return n <= of ? i < of : (i + 1) * of / n > i * of / n;
}

bool is_held_out(uint64_t i, uint64_t n) { return n >= HELD_OUT && i % HELD_OUT == HELD_OUT - 1; }

/* A sample among those that are not set apart. */
static bool remains(Sample *s, uint32_t apart)
{
    if (!apart) return true;
    if (s->index % apart == apart - 1) return false;
    return s->index -= s->index / apart, s->of -= s->of / apart, true;
}

/* The observer is made for the first sample that is run. */
static bool observe_one(void *ctx, const Sample *all, Diag *diag)
{
    Observing *w = ctx;
    Sample one = *all, *s = &one;
    if (!remains(s, w->o->apart) || (w->spread && !is_spread(s->index, s->of, w->spread))) return true;
    if (!w->observer.session && !observer_new(&w->observer, w->g, w->watch, w->n, NULL, w->o, &w->mem, diag)) return false;
    const Tensor **out = NEW_ARRAY(s->mem, const Tensor *, w->n + 1);
    if (!session_run(w->observer.session, s->mem, s->in, out, diag)) return false;
    progress(w, s);
    return w->each(w->ctx, s, out, diag);
}

static void observing_end(Observing *w)
{
    observer_drop(&w->observer);
    arena_drop(&w->mem);
}

bool observe(const Graph *g, const Val *watch, uint32_t n, const CalibrateOptions *o, uint32_t most, const char *what,
             ObserveFn *each, void *ctx, Diag *diag)
{
    Observing w = {.g = g, .watch = watch, .n = n, .o = o, .what = what, .each = each, .ctx = ctx};
    bool ok = samples_each(o->samples, g, most, observe_one, &w, diag);
    observing_end(&w);
    return ok;
}

bool observe_some(const Graph *g, const Val *watch, uint32_t n, const CalibrateOptions *o, uint32_t most, const char *what,
                  ObserveFn *each, void *ctx, Diag *diag)
{
    Observing w = {.g = g, .watch = watch, .n = n, .o = o, .what = what, .each = each, .ctx = ctx, .spread = most};
    bool ok = samples_each(o->samples, g, samples_are_streamed(o->samples) ? most : 0, observe_one, &w, diag);
    observing_end(&w);
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
    int64_t outer = 1, inner = 1, last = t->rank ? t->dim[t->rank - 1] : 0;
    stat_add(&w->mem, &w->stat, t->data, tensor_count(t));
    for (int d = 0; d < w->axis; d++) outer *= t->dim[d];
    for (int d = w->axis + 1; d < t->rank; d++) inner *= t->dim[d];
    if (w->axis >= 0 && inner == 1) {
        stat_row_channels(&w->mem, &w->sums, &w->rows, t->data, outer, t->dim[w->axis], last);
        return;
    }
    if (t->rank) stat_rows(&w->rows, t->data, tensor_count(t), last);
    if (w->axis >= 0) stat_channels(&w->mem, &w->sums, t->data, outer, t->dim[w->axis], inner);
}

/* The tensors of a sample, by several threads: each tensor's values are seen by one, in their order. */
typedef struct Watch {
    Watched *stat;
    const Tensor *const *out;
} Watch;

static void watch_one(void *arg, uint32_t i)
{
    const Watch *w = arg;
    watch_tensor(&w->stat[i], w->out[i]);
}

static void watch_all(Watched *stat, const Tensor *const *out, uint32_t n, int threads)
{
    Watch w = {stat, out};
    crew_run(threads, n, watch_one, &w);
}

/* ---- the state of a calibration, which a file may keep ---- */
typedef struct Calibration {
    Observing observing;
    Quantization *q;
    uint32_t n, seen, kept;      /* tensors; samples; those of them that came from the file */
    const char **name;
    Watched *watched;
    CacheKey content;            /* of the samples seen */
    Quantization file;           /* what it says */
    RangesHead head;             /* of the file; graph: of this one in any case */
    bool other;                  /* the samples are not those of the file */
    double saved;                /* when */
} Calibration;

static const char *key_text(CacheKey k, Arena *mem)
{
    return arena_printf(mem, "%016llx%016llx", (unsigned long long)k.word[0], (unsigned long long)k.word[1]);
}

static const char *method_text(StatChoice c, Arena *mem)
{
    return c.method->usual == 0 ? c.method->name : arena_printf(mem, "%s:%g", c.method->name, c.parameter);
}

/* Of everything that statistics follow from but the samples. */
static const char *graph_key(const Graph *g, Arena *mem)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    fprintf(f, "statistics 2, %d bins\n", (int)STAT_BINS);
    graph_print(g, f);
    fclose(f);
    CacheKey k = cache_key(text, n);
    free(text);
    return key_text(k, mem);
}

/* What was seen goes to q, with ranges by `method`. */
static void keep_range(const Watched *w, const char *name, Quantization *q, StatChoice method)
{
    double lo, hi;
    if (!w->stat.bin) return;
    stat_range(&w->stat, method, &lo, &hi);
    Range *r = range_set(q, name, lo, hi);
    Statistic *s = arena_copy(q->mem, &w->stat, sizeof *s);
    s->bin = arena_copy(q->mem, s->bin, sizeof *s->bin * STAT_BINS);
    r->stat = s;
    if (w->rows.rows) {
        const RowSums *rows = r->rows = arena_copy(q->mem, &w->rows, sizeof *rows);
        r->rms = sqrt(rows->square / (double)rows->values), r->row_peak = sqrt(rows->peak / (double)rows->rows);
    }
    if (!w->sums.sum || !w->sums.seen) return;
    ChannelSums *sums = arena_copy(q->mem, &w->sums, sizeof *sums);
    sums->sum = arena_copy(q->mem, sums->sum, sizeof *sums->sum * (size_t)sums->channels);
    r->sums = sums, r->channels = sums->channels;
    float *mean = NEW_ARRAY(q->mem, float, sums->channels);
    for (int64_t c = 0; c < sums->channels; c++) mean[c] = (float)(sums->sum[c] / sums->seen);
    r->mean = mean;
}

static bool same_number(double a, double b)
{
    char x[32], y[32];
    snprintf(x, sizeof x, "%.9g", a), snprintf(y, sizeof y, "%.9g", b);
    return !strcmp(x, y);
}

/* Ranges of the file that do not follow from its statistics: somebody wrote them, and they stay. */
static void keep_edited(Quantization *q, const Quantization *file, const RangesHead *head)
{
    StatChoice method;
    if (!head->method || stat_choose(head->method, &method)) return;
    for (const Range *f = file->range.at; f < file->range.at + file->range.n; f++) {
        double lo = f->lo, hi = f->hi;
        if (f->stat) stat_range(f->stat, method, &lo, &hi);
        if ((f->stat && same_number(lo, f->lo) && same_number(hi, f->hi)) || !range_find(q, f->name)) continue;
        range_set(q, f->name, f->lo, f->hi);
    }
}

static void keep_run(PlainRuns *runs, uint32_t sample, const Tensor *const *out, uint32_t n)
{
    enum { MEMORY = 64 << 20 };
    PlainRun r = {sample, NEW_ARRAY(&runs->mem, const Tensor *, n + 1)};
    for (uint32_t i = 0; i < n; i++) runs->bytes += tensor_bytes(out[i]);
    if (runs->bytes > MEMORY) return;
    for (uint32_t i = 0; i < n; i++) r.out[i] = tensor_copy(&runs->mem, out[i]);
    vec_push(&runs->mem, &runs->run, r);
}

static bool watch_sample(void *ctx, const Sample *s, const Tensor *const *out, Diag *diag)
{
    enum { RUNS = 4 };
    const Calibration *c = ctx;
    PlainRuns *runs = c->observing.o->runs;
    (void)diag;
    watch_all(c->watched, out, c->n, c->observing.o->threads);
    if (runs && is_spread(s->index, s->of, RUNS)) keep_run(runs, s->index, out + c->n, c->observing.n - c->n);
    return true;
}

static bool calibration_write(const Quantization *q, const RangesHead *head, const char *path, Diag *diag)
{
    Arena mem = {0};
    const char *temporary;
    FILE *f = file_create(&mem, diag, path, &temporary);
    if (f) ranges_print(q, f, head);
    bool ok = f && file_commit(diag, f, temporary, path, true);
    arena_drop(&mem);
    return ok;
}

static bool calibration_save(Calibration *c, Diag *diag)
{
    const CalibrateOptions *o = c->observing.o;
    Arena mem = {0};
    Quantization q = {.mem = &mem};
    RangesHead head = {.model = c->observing.g->name,
                       .graph = c->head.graph,
                       .content = key_text(c->content, &mem),
                       .samples = c->seen,
                       .method = method_text(o->method, &mem)};
    for (uint32_t i = 0; i < c->n; i++) {
        keep_range(&c->watched[i], c->name[i], &q, o->method);
        const Range *has = range_find(c->q, c->name[i]), *kept = range_find(&q, c->name[i]);
        if (has && kept) {
            Range *r = range_set(&q, c->name[i], kept->lo, kept->hi);
            r->gain = has->gain, r->gains = has->gains, r->tensor_db = has->tensor_db, r->row_db = has->row_db;
        }
    }
    keep_edited(&q, &c->file, &c->head);
    bool ok = calibration_write(&q, &head, o->kept, diag);
    arena_drop(&mem);
    return c->saved = seconds_now(), ok;
}

/* Takes up what the file says. false: reported. */
static bool calibration_load(Calibration *c, Diag *diag)
{
    Quantization *file = &c->file;
    const char *path = c->observing.o->kept, *key = path ? graph_key(c->observing.g, file->mem) : NULL;
    c->head = (RangesHead){.graph = key};
    if (!path || access(path, F_OK)) return true;
    if (!ranges_read_head(file, diag, path, &c->head)) return false;
    if (!c->head.graph)
        return diag_error(diag, NULL, "--calibration-cache %s: a file of ranges without statistics: it is for --ranges", path);
    bool same = !strcmp(c->head.graph, key) && c->head.content;
    if (!same) {
        diag_warn(diag, NULL, "%s: made from another model or by another version: calibrating anew", path);
        *file = (Quantization){.mem = file->mem};
        c->head = (RangesHead){.graph = key};
    }
    c->kept = c->head.samples;
    for (uint32_t i = 0; i < c->n; i++) {
        const Range *r = range_find(file, c->name[i]);
        if (r && r->stat) c->watched[i].stat = *r->stat;
        if (r && r->sums) c->watched[i].sums = *r->sums;
        if (r && r->rows) c->watched[i].rows = *r->rows;
    }
    return true;
}

bool calibration_note(const Graph *g, const Quantization *q, const CalibrateOptions *o, Diag *diag)
{
    Arena mem = {0};
    Quantization file = {.mem = &mem};
    RangesHead head;
    bool any = false;
    for (const Range *r = q->range.at; r < q->range.at + q->range.n; r++) any = any || r->wide;
    if (!o->kept || !any) return true;
    bool ok = ranges_read_head(&file, diag, o->kept, &head);
    for (Range *r = file.range.at; r < file.range.at + file.range.n; r++) {
        const Range *has = range_find(q, r->name);
        if (has) r->wide = has->wide, r->readers = has->readers;
    }
    head.model = g->name;
    ok = ok && calibration_write(&file, &head, o->kept, diag);
    arena_drop(&mem);
    return ok;
}

/* Samples that the file has seen are only compared with what it saw. */
static bool calibrate_sample(void *ctx, const Sample *s, Diag *diag)
{
    enum { SECONDS = 2 };
    Calibration *c = ctx;
    const CalibrateOptions *o = c->observing.o;
    if (s->index >= c->kept && !observe_one(&c->observing, s, diag)) return false;
    c->seen++;
    if (!o->kept) return true;
    CacheKey chain[2] = {c->content, sample_key(s, c->observing.g)};
    c->content = cache_key(chain, sizeof chain);
    if (c->seen == c->kept) c->other = strcmp(key_text(c->content, s->mem), c->head.content) != 0;
    if (c->seen <= c->kept) return !c->other;
    bool due = (c->seen & (c->seen - 1)) == 0 || seconds_now() - c->saved > SECONDS;
    return !due || calibration_save(c, diag);
}

static bool calibrate_samples(Calibration *c, Diag *diag)
{
    const CalibrateOptions *o = c->observing.o;
    bool ok = samples_each(o->samples, c->observing.g, 0, calibrate_sample, c, diag);
    if (c->other || (ok && c->seen < c->kept)) {
        diag_warn(diag, NULL, "%s: made from other samples: calibrating anew", o->kept);
        for (uint32_t i = 0; i < c->n; i++) {
            Watched *w = &c->watched[i];
            w->stat = (Statistic){0}, w->sums = (ChannelSums){0}, w->rows = (RowSums){0};
        }
        c->seen = c->kept = 0, c->other = false, c->content = (CacheKey){{0}};
        ok = samples_each(o->samples, c->observing.g, 0, calibrate_sample, c, diag);
    }
    if (!o->kept) return ok;
    bool other_method = c->head.method && strcmp(c->head.method, method_text(o->method, c->file.mem)) != 0;
    if (c->seen > c->kept || (ok && other_method)) ok = calibration_save(c, diag) && ok;
    return ok;
}

static void calibration_end(Calibration *c, Diag *diag)
{
    const CalibrateOptions *o = c->observing.o;
    for (uint32_t i = 0; i < c->n; i++) {
        const Watched *w = &c->watched[i];
        if (w->stat.bad)
            diag_warn(diag, NULL, "tensor '%s' held %llu infinite or NaN values during calibration", c->name[i],
                      (unsigned long long)w->stat.bad);
        keep_range(w, c->name[i], c->q, o->method);
    }
    keep_edited(c->q, &c->file, &c->head);
}

/* g, or g with the quotients of what q has gains for, which become what is watched. */
static const Graph *with_quotients(const Graph *g, const Quantization *q, Val *watch, uint32_t n, Arena *mem)
{
    static const Loc nowhere = {.node = "", .op = "Mul", .index = -1};
    if (!q->gains.n) return g;
    Arena scratch = {0};
    Graph *out = graph_new(g->module, mem, g->name);
    Val *map = graph_begin(out, g, &scratch);
    for (uint32_t i = 0; i < g->node.n; i++) graph_copy_node(out, g, i, map);
    for (uint32_t i = 0; i < n; i++) {
        const Gains *has = NULL;
        for (uint32_t k = 0; k < q->gains.n; k++)
            if (q->gains.at[k].x.id == watch[i].id) has = &q->gains.at[k];
        Tensor *by = has ? tensor_new(mem, DT_f32, 1, &has->channels) : NULL;
        watch[i] = map[watch[i].id];
        for (int64_t c = 0; has && c < has->channels; c++) ((float *)(void *)by->data)[c] = 1 / has->by[c];
        if (has) watch[i] = emit(out, "Mul", &nowhere, 2, watch[i], graph_const(out, by, NULL));
    }
    graph_end(out, g, map);
    for (uint32_t i = 0; i < n; i++) graph_output(out, watch[i], arena_printf(mem, "quotient_%u", i)); /* they are no dead code */
    arena_drop(&scratch);
    return out;
}

bool calibrate(const Graph *g, Quantization *q, const CalibrateOptions *o, Diag *diag)
{
    Arena mem = {0};
    Vals watch = {0};
    const bool *want = quantize_wanted(g, q, &mem);
    for (uint32_t v = 1; v < g->val.n; v++)
        if (want[v]) vec_push(&mem, &watch, (Val){v});
    Calibration c = {.observing = {.g = g, .watch = watch.at, .n = watch.n, .o = o, .what = "calibrating"},
                     .q = q,
                     .n = watch.n,
                     .file = {.mem = &mem}};
    c.watched = NEW_ARRAY(&mem, Watched, c.n + 1), c.name = NEW_ARRAY(&mem, const char *, c.n + 1);
    c.observing.each = watch_sample, c.observing.ctx = &c;
    if (o->method.method->clips_hard && multiplies_computed(g))
        diag_warn(diag, NULL, "--method %s clips the few large values that attention rests on: minmax and mse lose less here",
                  o->method.method->name);
    for (uint32_t i = 0; i < c.n; i++)
        c.watched[i].axis = channel_axis(g, q, watch.at[i]), c.name[i] = tensor_name(g, watch.at[i], &mem);
    c.observing.g = with_quotients(g, q, watch.at, c.n, &mem);
    for (uint32_t i = 0; o->runs && i < g->output.n; i++) vec_push(&mem, &watch, c.observing.g->output.at[i]);
    c.observing.watch = watch.at, c.observing.n = watch.n;
    bool ok = calibration_load(&c, diag) && calibrate_samples(&c, diag);
    if (ok) calibration_end(&c, diag);
    observing_end(&c.observing);
    for (uint32_t i = 0; i < c.n; i++) arena_drop(&c.watched[i].mem);
    arena_drop(&mem);
    return ok;
}

/* ---- measuring a policy ---- */
/* How far two runs are apart: sums of squares of what should be and of what is off, the most of either. */
typedef struct Apart {
    double signal, noise, most, off;
} Apart;

static void apart_add(Apart *p, const Tensor *a, const Tensor *b)
{
    int64_t n = tensor_count(a);
    for (int64_t i = 0; i < n; i++) {
        double x = tensor_element(a, i), y = tensor_element(b, i), e = fabs(x - y);
        if (says_nothing(x, y)) continue;
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
