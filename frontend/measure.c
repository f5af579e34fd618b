/* measure.c - see measure.h. */
#include "frontend/measure.h"
#include "frontend/metric.h"
#include "frontend/program.h"
#include "ir/base/stage.h"
#include <math.h>
#include <stdlib.h>

enum {
    LEAST_RUNS = 5,
    MOST_RUNS = 1000,
    TIMED_RUNS = 101,
    TELLING_ROWS = 64
};                                                /* TELLING_ROWS: of a sample that say whether they are scores */
static const double BUDGET = 1.0, PATIENCE = 8.0; /* seconds for all runs; no more than LEAST_RUNS / 2 after that */

/* What is known of an output while samples are run. */
typedef struct Running {
    double signal, noise, cosine, cosine2;
    uint32_t scores; /* samples whose rows look like them */
} Running;

typedef struct Measuring {
    Measured *m;
    Program p[2];
    Running *running;
    const PlainRuns *runs; /* in place of the first program */
    Arena *mem;
} Measuring;

/* ---- programs ---- */
/* The artefact itself, when it is one that can be loaded and runs here. */
static bool program_is(Program *p, const char *artefact, int threads, Arena *mem)
{
    Diag quiet = {.mem = mem, .subject = ""};
    if (!artefact || artefact_kind(artefact) != ARTEFACT_SO) return false;
    const char *path = strchr(artefact, '/') ? artefact : arena_printf(mem, "./%s", artefact);
    if (program_open(p, path, threads, &quiet)) return true;
    program_drop(p);
    return false;
}

/* ---- outputs ---- */
static int64_t largest_of(const Tensor *t, int64_t at, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (tensor_element(t, at + i) > tensor_element(t, at + best)) best = i;
    return best;
}

static void compare_rows(OutputFigures *f, Running *r, const Tensor *a, const Tensor *b)
{
    int64_t n = a->rank ? a->dim[a->rank - 1] : 1, rows = n ? tensor_count(a) / n : 0;
    if (a->rank < 2 || n < 2) return;
    f->rows += (uint64_t)rows;
    for (int64_t i = 0; i < rows; i++) f->agree += largest_of(a, i * n, n) == largest_of(b, i * n, n);
    if (a->type == DT_f32 && rows) r->scores += rows_are_scores(a->data, rows < TELLING_ROWS ? rows : TELLING_ROWS, n);
}

static void compare_floats(OutputFigures *f, Running *r, const Tensor *a, const Tensor *b, uint32_t sample)
{
    double signal = 0, noise = 0, both = 0, other = 0;
    for (int64_t i = 0, n = tensor_count(a); i < n; i++) {
        double x = tensor_element(a, i), y = tensor_element(b, i);
        if (says_nothing(x, y)) continue;
        signal += x * x, noise += (x - y) * (x - y), both += x * y, other += y * y;
    }
    double cosine = signal > 0 && other > 0 ? both / sqrt(signal * other) : signal == other;
    double sqnr = 10 * log10(signal / noise);
    r->signal += signal, r->noise += noise, r->cosine += cosine, r->cosine2 += cosine * cosine;
    if (f->samples == 1 || !(sqnr >= f->worst)) f->worst = sqnr, f->worst_at = sample;
    compare_rows(f, r, a, b);
}

static void compare(OutputFigures *f, Running *r, const Tensor *a, const Tensor *b, uint32_t sample)
{
    if (!tensor_alike(a, b)) {
        f->unequal++;
        return;
    }
    f->samples++;
    if (f->is_float) {
        compare_floats(f, r, a, b, sample);
        return;
    }
    f->rows += (uint64_t)tensor_count(a);
    for (int64_t i = 0, n = tensor_count(a); i < n; i++)
        f->agree += dtype_load_int(a->type, a->data, i) == dtype_load_int(b->type, b->data, i);
}

/* Wilson's interval of a share seen in n trials. */
static void interval(double p, double n, double *low, double *high)
{
    static const double z = 1.959964;
    double d = 1 + z * z / n, mid = (p + z * z / (2 * n)) / d,
           half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d;
    *low = fmax(0, mid - half), *high = fmin(1, mid + half);
}

static void settle_output(OutputFigures *f, const Running *r)
{
    double n = f->samples;
    f->sqnr = f->is_float && n ? 10 * log10(r->signal / r->noise) : (double)NAN;
    f->cosine = f->is_float && n ? r->cosine / n : (double)NAN, f->cosine_half = NAN;
    if (!f->is_float || !n) f->worst = NAN;
    if (n > 1) f->cosine_half = 1.96 * sqrt(fmax(0, r->cosine2 / n - f->cosine * f->cosine) / (n - 1));
    f->scores = 2 * r->scores > f->samples;
    f->low = f->high = NAN;
    if (f->rows) interval((double)f->agree / (double)f->rows, n, &f->low, &f->high);
}

/* ---- times ---- */
static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool run_once(Measuring *w, int k, const Sample *s, Diag *diag)
{
    Arena run = {0};
    const Tensor **out = NEW_ARRAY(&run, const Tensor *, w->m->outputs + 1);
    bool ok = session_run(w->p[k].session, &run, s->in, out, diag);
    arena_drop(&run);
    return ok;
}

static bool goes_on(uint32_t runs, double since)
{
    double now = seconds_now() - since;
    return runs < MOST_RUNS && (now < BUDGET || runs < LEAST_RUNS) && !(now > PATIENCE && runs > LEAST_RUNS / 2);
}

/* Both in turns: whatever else the machine does hits both. */
static bool time_runs(Measuring *w, const Sample *s, Diag *diag)
{
    double *time[2] = {NEW_ARRAY(s->mem, double, MOST_RUNS), NEW_ARRAY(s->mem, double, MOST_RUNS)};
    uint32_t runs = 0;
    for (double since = seconds_now(); goes_on(runs, since); runs++)
        for (int k = 0; k < 2; k++) {
            if (!run_once(w, k, s, diag)) return false;
            time[k][runs] = session_seconds(w->p[k].session);
        }
    for (int k = 0; k < 2; k++) {
        qsort(time[k], runs, sizeof *time[k], by_value);
        w->m->program[k].median = time[k][runs / 2], w->m->program[k].least = time[k][0];
        w->m->program[k].runs = runs, w->m->program[k].memory = session_memory(w->p[k].session);
    }
    return true;
}

/* "Conv 'layer1/conv2'" is of node layer1/conv2. */
static const char *node_of(const char *step, Arena *mem)
{
    const char *quote = strchr(step, '\'');
    size_t n = quote ? strlen(quote + 1) : 0;
    return n ? arena_text(mem, quote + 1, n - 1) : "";
}

static void nodes_add(ProgramFigures *p, const OctetApi *api, const double *took, Arena *mem)
{
    Map at = {0};
    for (int32_t i = 0; i < api->steps; i++) {
        double seconds = took[i];
        const char *node = node_of(api->step_name[i], mem);
        uint32_t known = map_get(&at, node);
        p->steps += seconds;
        if (known) p->node.at[known - 1].seconds += seconds;
        else map_put(mem, &at, node, vec_push(mem, &p->node, (NodeTime){node, seconds}) + 1);
    }
}

/* The median of the runs for each step: a run in which somebody else had the processor says nothing. */
static bool time_steps(Measuring *w, int k, const Sample *s, Diag *diag)
{
    int32_t steps = w->p[k].loaded.api->steps;
    uint64_t *ns = NEW_ARRAY(s->mem, uint64_t, steps + 1);
    double *time = NEW_ARRAY(s->mem, double, steps *TIMED_RUNS + 1), *took = NEW_ARRAY(s->mem, double, steps + 1);
    int runs = 0;
    bool ok = true;
    session_profile(w->p[k].session, ns);
    for (double since = seconds_now(); ok && runs < TIMED_RUNS && goes_on((uint32_t)runs, since); runs++) {
        memset(ns, 0, sizeof *ns * (size_t)steps);
        ok = run_once(w, k, s, diag);
        for (int32_t i = 0; i < steps; i++) time[i * TIMED_RUNS + runs] = (double)ns[i] * 1e-9;
    }
    session_profile(w->p[k].session, NULL);
    for (int32_t i = 0; i < steps; i++) {
        qsort(time + i * TIMED_RUNS, (size_t)runs, sizeof *time, by_value);
        took[i] = time[i * TIMED_RUNS + runs / 2];
    }
    nodes_add(&w->m->program[k], w->p[k].loaded.api, took, w->mem);
    return ok;
}

double measured_node(const ProgramFigures *p, const char *node)
{
    for (uint32_t i = 0; *node && i < p->node.n; i++)
        if (!strcmp(p->node.at[i].node, node)) return p->node.at[i].seconds;
    return NAN;
}

/* ---- all of it ---- */
static bool measure_sample(void *ctx, const Sample *s, Diag *diag)
{
    Measuring *w = ctx;
    const Tensor **out[2];
    for (int k = 0; k < 2; k++) {
        out[k] = NEW_ARRAY(s->mem, const Tensor *, w->m->outputs + 1);
        if (!session_run(w->p[k].session, s->mem, s->in, out[k], diag)) return false;
    }
    for (uint32_t i = 0; i < w->m->outputs; i++)
        compare(&w->m->output[i], &w->running[i], out[0][i], out[1][i], s->index);
    return w->m->samples++ || (time_runs(w, s, diag) && time_steps(w, 0, s, diag) && time_steps(w, 1, s, diag));
}

static void figures_begin(Measuring *w, const Graph *g, int threads, Arena *scratch)
{
    Measured *m = w->m;
    w->running = NEW_ARRAY(scratch, Running, g->output.n + 1);
    *m = (Measured){.outputs = g->output.n, .threads = threads};
    m->output = NEW_ARRAY(w->mem, OutputFigures, m->outputs + 1);
    for (uint32_t i = 0; i < m->outputs; i++)
        m->output[i] = (OutputFigures){.name = g->output_name.at[i],
                                       .is_float = dtype_is_float(val_type(g, g->output.at[i])->dtype)};
}

static bool made_program(Measuring *w, const Graph *made, const Storage *store, const char *artefact,
                         const CalibrateOptions *o, Arena *scratch, Diag *diag)
{
    ProgramOptions p = {.threads = o->threads, .cache = o->cache, .store = store};
    w->m->artefact = program_is(&w->p[1], artefact, o->threads, scratch);
    return w->m->artefact || program_new(&w->p[1], made, &p, scratch, diag);
}

static bool measure_run(void *ctx, const Sample *s, Diag *diag)
{
    Measuring *w = ctx;
    const Tensor **out = NEW_ARRAY(s->mem, const Tensor *, w->m->outputs + 1);
    if (w->m->samples == w->runs->run.n || w->runs->run.at[w->m->samples].sample != s->index) return true;
    if (!session_run(w->p[1].session, s->mem, s->in, out, diag)) return false;
    const PlainRun *plain = &w->runs->run.at[w->m->samples++];
    for (uint32_t i = 0; i < w->m->outputs; i++)
        compare(&w->m->output[i], &w->running[i], plain->out[i], out[i], s->index);
    return true;
}

bool measure_outputs(const Graph *made, const Storage *store, const char *artefact, const CalibrateOptions *o,
                     Arena *mem, Measured *m, Diag *diag)
{
    Arena scratch = {0};
    Measuring w = {.m = m, .mem = mem, .runs = o->runs};
    uint32_t n = o->runs->run.n;
    figures_begin(&w, made, o->threads, &scratch);
    bool ok = made_program(&w, made, store, artefact, o, &scratch, diag) &&
              samples_each(o->samples, made, n ? o->runs->run.at[n - 1].sample + 1 : 0, measure_run, &w, diag);
    for (uint32_t i = 0; ok && i < m->outputs; i++) settle_output(&m->output[i], &w.running[i]);
    program_drop(&w.p[1]), arena_drop(&scratch);
    return ok;
}

bool measure_programs(const Graph *plain, const Graph *made, const Storage *store, const char *artefact,
                      const CalibrateOptions *o, Arena *mem, Measured *m, Diag *diag)
{
    Arena scratch = {0};
    Measuring w = {.m = m, .mem = mem};
    figures_begin(&w, plain, o->threads, &scratch);
    ProgramOptions as_float = {.threads = o->threads, .cache = o->cache};
    bool ok = program_new(&w.p[0], plain, &as_float, &scratch, diag) &&
              made_program(&w, made, store, artefact, o, &scratch, diag);
    files_rest(o->files); /* the weights are in the programs now */
    ok = ok && samples_each(o->samples, plain, MEASURED_MOST, measure_sample, &w, diag);
    for (uint32_t i = 0; ok && i < m->outputs; i++) settle_output(&m->output[i], &w.running[i]);
    if (ok) {
        const OctetApi *api = w.p[0].loaded.api;
        const char *level = api->levels[api->cpu_level(api->model)];
        m->level = arena_text(mem, level, strlen(level));
    }
    program_drop(&w.p[0]), program_drop(&w.p[1]);
    arena_drop(&scratch);
    return ok;
}
