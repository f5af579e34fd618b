/* budget.c - see budget.h. */
#include "frontend/budget.h"
#include "frontend/file.h"
#include "frontend/npz.h"
#include "frontend/program.h"
#include "frontend/search.h"
#include "ir/base/stage.h"
#include "passes/simulate.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    SAMPLES = 128,      /* at most, every second of which judges, */
    ROWS = 1 << 22,     /* of an output of a sample at most so many elements are looked at, */
    MEMORY = 512 << 20, /* and all that is kept of samples takes no more bytes than this */
    LOOKS = 8,          /* at the samples that judge, */
    CLOSER = 3,         /* of them after a choice is inside */
    TRIES = 24,         /* simulated choices of one search, */
    LEAST_TRIES = 6,    /* fewer where that lets it see */
    ENOUGH = 12,        /* samples: a few do not say what the others lose */
    FEW = 4,            /* samples that judge: fewer are a weak judge */
    CONDITIONS = 2      /* of an output */
};
static const double ALONE = 40,
                    TRYING = 60; /* seconds for the losses of regions alone, for the choices of one search */
static const double TIGHTEN = 0.6, NEAR = 1.08, /* of the budget after a failure; times a target that one outside is near */
                    TICK = 1e-4;                /* of a run: what is counted in */

typedef struct Condition {
    const Metric *metric;
    bool every; /* sample is judged, those of the search too */
} Condition;

typedef struct Output { /* a float output of the model */
    uint32_t index;
    const char *name;
    Condition condition[CONDITIONS]; /* each must be inside */
    uint32_t conditions;             /* 0: the samples have not told yet */
    const Metric *finer;             /* orders regions */
    bool says;                       /* some number, or has no rows */
    int k;
} Output;

typedef struct Plain { /* what the float model makes of an output of a sample */
    float *x;
    int64_t rows, n, step; /* every step-th row is kept: who judges asks the model again */
    int64_t *target;       /* per row, or NULL */
} Plain;

typedef struct Kept {
    const Tensor **in; /* and one more, for the switches */
    Plain *plain;      /* per output */
} Kept;

typedef struct Part {
    uint32_t *at, n; /* numbers of samples */
} Part;

typedef struct Tried { /* in the simulation, on the samples of the search */
    const bool *quantized; /* per region */
    double loss;
} Tried;

typedef struct Run {
    const Graph *g;
    Quantization *q;
    const BudgetOptions *o;
    BudgetPasses *passes;
    void *ctx;
    Diag *diag;
    Arena mem;
    Budget *b;
    VEC(Output) output;
    VEC(Kept) kept;
    size_t bytes;
    bool whole; /* no sample was left out */
    bool some;  /* of the rows of some output are kept, not all */
    bool timed; /* the float model's times are known */
    Part search, judge, alone, all; /* all: those that judge first */
    const Tensor *labels;
    int64_t labelled;
    Program plain, simulation;
    double *times; /* of the float model, by region */
    double seconds; /* of a simulated run */
    uint32_t tries; /* of a search */
    double scale;   /* of losses alone, as the search before left it */
    SearchRegion *region;
    VEC(Tried) tried;
} Run;

typedef enum Look { ORDERING, SEARCHING, JUDGING } Look; /* what a loss is for */

typedef struct Verdict {
    double loss, bound;
    double even; /* metric_even() */
    bool shown;
    int64_t rows, need;
} Verdict;

typedef struct Choice { /* an artefact that was judged */
    const bool *reverted; /* NULL: everything is quantized */
    Verdict v;
    double figure, seconds; /* what the user's program says; of a run */
    uint32_t point;         /* its number + 1 among those tried */
    BudgetCondition *condition;
    uint32_t conditions;
} Choice;

static void progress(const Run *r, const char *what)
{
    if (!r->o->calibrate.quiet && isatty(2)) fprintf(stderr, "\r\033[K%s ...", what);
}

/* ---- samples ---- */
static bool keep_sample(void *ctx, const Sample *s, Diag *diag)
{
    Run *r = ctx;
    Kept k = {NEW_ARRAY(&r->mem, const Tensor *, r->g->input.n + 1), NEW_ARRAY(&r->mem, Plain, r->output.n + 1)};
    (void)diag;
    r->whole = s->index < SAMPLES && r->bytes < MEMORY / 2;
    for (uint32_t i = 0; r->whole && i < r->g->input.n; i++) {
        k.in[i] = tensor_copy(&r->mem, s->in[i]), r->bytes += tensor_bytes(s->in[i]);
    }
    if (r->whole) vec_push(&r->mem, &r->kept, k);
    return true;
}

static void part_samples(Run *r)
{
    uint32_t n = r->kept.n;
    Part *s = &r->search, *j = &r->judge, *all = &r->all;
    s->at = NEW_ARRAY(&r->mem, uint32_t, n + 1), all->at = NEW_ARRAY(&r->mem, uint32_t, n + 1);
    for (uint32_t i = 0; i < n; i++) {
        bool judges = n < JUDGES ? i + 1 == n : i % JUDGES == JUDGES - 1;
        if (judges) all->at[all->n++] = i;
        if (!judges || n == 1) s->at[s->n++] = i;
    }
    *j = *all;
    for (uint32_t i = 0; n > 1 && i < s->n; i++) all->at[all->n++] = s->at[i];
    r->b->samples[0] = s->n, r->b->samples[1] = j->n;
}

/* `most` of a part, spread over it. */
static Part thin(Arena *mem, const Part *p, uint32_t most)
{
    Part t = {NEW_ARRAY(mem, uint32_t, p->n + 1), p->n < most ? p->n : most ? most : 1};
    for (uint32_t i = 0; i < t.n; i++) t.at[i] = p->at[(uint64_t)i * p->n / t.n];
    return t;
}

/* ---- rows ---- */
static int64_t columns_of(const Tensor *t)
{
    int rank = t->rank;
    while (rank > 2 && t->dim[rank - 1] == 1) rank--;
    return rank ? t->dim[rank - 1] : 1;
}

static void row_load(const Tensor *t, int64_t row, int64_t n, float *to)
{
    if (t->type == DT_f32) memcpy(to, (const float *)t->data + row * n, sizeof *to * (size_t)n);
    else
        for (int64_t i = 0; i < n; i++) to[i] = (float)dtype_load(t->type, t->data, row * n + i);
}

/* The text that a language model read: its first input of integers, if it has a token for every row. */
static const Tensor *text_of(const Run *r, const Kept *k, int64_t rows)
{
    for (uint32_t i = 0; i < r->g->input.n; i++)
        if (dtypes[k->in[i]->type].cls == DC_INT && k->in[i]->rank == 2 && tensor_count(k->in[i]) == rows)
            return k->in[i];
    return NULL;
}

static int64_t target_of(const Tensor *text, int64_t row)
{
    bool last = (row + 1) % text->dim[1] == 0;
    return last ? -1 : (int64_t)dtype_load(text->type, text->data, row + 1);
}

/* Of every step-th row. */
static int64_t *targets_of(Run *r, const Tensor *text, int64_t step)
{
    int64_t rows = tensor_count(text), *target = NEW_ARRAY(&r->mem, int64_t, rows + 1);
    for (int64_t i = 0; i * step < rows; i++) target[i] = target_of(text, i * step);
    return target;
}

/* By --labels, which are counted over all samples. */
static int64_t *labels_of(Run *r, const Plain *p)
{
    int64_t *target = NEW_ARRAY(&r->mem, int64_t, p->rows + 1), all = tensor_count(r->labels);
    for (int64_t i = 0; i < p->rows; i++) {
        int64_t at = r->labelled + i;
        target[i] = at < all ? (int64_t)dtype_load(r->labels->type, r->labels->data, at) : -1;
    }
    return target;
}

static bool keep_targets(Run *r, const Output *o, const Kept *k, Plain *p)
{
    for (uint32_t i = 0; i < o->conditions; i++) {
        const Metric *m = o->condition[i].metric;
        const Tensor *text = m->tokens ? text_of(r, k, p->rows) : NULL;
        if (text) p->target = targets_of(r, text, 1);
        else if (m->tokens && r->o->metric)
            return diag_error(r->diag, NULL,
                              "--metric %s: output '%s' needs a row for every element of an integer input of rank 2",
                              m->name, o->name);
        if (r->labels && m->labels) p->target = labels_of(r, p);
    }
    return true;
}

static int64_t kept_rows(const Plain *p) { return p->rows ? (p->rows - 1) / p->step + 1 : 0; }

static bool has_number(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i])) return true;
    return false;
}

static void keep_rows(Run *r, const Tensor *t, Plain *p)
{
    int64_t all = tensor_count(t);
    p->n = columns_of(t);
    p->rows = p->n ? all / p->n : 0;
    p->step = 1 + (all - 1) / ROWS;
    int64_t kept = kept_rows(p);
    p->x = NEW_ARRAY(&r->mem, float, kept * p->n + 1);
    for (int64_t i = 0; i < kept; i++) row_load(t, i * p->step, p->n, p->x + i * p->n);
    r->bytes += sizeof(float) * (size_t)(kept * p->n);
    r->some = r->some || p->step > 1;
}

static void add_condition(Output *o, const char *metric, bool every)
{
    o->condition[o->conditions++] = (Condition){metric_find(metric, &o->k), every};
}

/* What outputs are is the same for all samples: most tell, one may leave a classifier undecided. */
typedef struct Votes {
    int scores, predicts; /* of samples, less those that say no */
} Votes;

static Votes votes_of(Run *r, uint32_t output)
{
    Votes v = {0, 0};
    for (const Kept *k = r->kept.at; k < r->kept.at + r->kept.n; k++) {
        const Plain *p = &k->plain[output];
        int64_t kept = kept_rows(p);
        if (!kept) continue;
        bool scores = rows_are_scores(p->x, kept, p->n);
        const Tensor *text = scores ? text_of(r, k, p->rows) : NULL;
        v.scores += scores ? 1 : -1;
        v.predicts += text && rows_predict(p->x, targets_of(r, text, p->step), kept, p->n) ? 1 : -1;
    }
    return v;
}

/* A divergence is what the model's own text becomes more perplexing by. Answers are what scores are for: kl alone would let near ties fall. Few rows
 * are near one: half of the samples say little of how many, and the search did not choose which ones it sees. Not those of a language model: of the
 * words that may come next the likeliest is one of several good ones, and what counts is the likelihood of those that come. */
static void choose_metric(Run *r, Output *o, uint32_t output)
{
    Votes v = votes_of(r, output);
    add_condition(o, v.scores > 0 ? "kl" : "cosine", false);
    o->finer = o->condition[0].metric;
    if (v.scores > 0) add_condition(o, v.predicts > 0 ? "perplexity" : "answers", v.predicts <= 0);
}

static bool run_plain(Run *r, Kept *k)
{
    Arena mem = {0};
    const Tensor **out = NEW_ARRAY(&mem, const Tensor *, r->g->output.n + 1);
    bool ok = session_run(r->plain.session, &mem, k->in, out, r->diag);
    for (uint32_t i = 0; ok && i < r->output.n; i++) {
        Output *o = &r->output.at[i];
        Plain *p = &k->plain[i];
        keep_rows(r, out[o->index], p);
        o->says = o->says || !p->rows || has_number(p->x, kept_rows(p) * p->n);
    }
    arena_drop(&mem);
    return ok;
}

static bool settle_outputs(Run *r)
{
    for (uint32_t i = 0; r->kept.n && i < r->output.n; i++)
        if (!r->output.at[i].says)
            return diag_error(
                r->diag, NULL,
                "--max-loss: output '%s' of the float model has no number in any sample, so nothing can be compared",
                r->output.at[i].name);
    for (uint32_t i = 0; i < r->output.n; i++)
        if (!r->output.at[i].conditions) choose_metric(r, &r->output.at[i], i);
    for (Kept *k = r->kept.at; k < r->kept.at + r->kept.n; k++) {
        for (uint32_t i = 0; i < r->output.n; i++)
            if (!keep_targets(r, &r->output.at[i], k, &k->plain[i])) return false;
        if (r->labels) r->labelled += k->plain[r->output.n - 1].rows;
    }
    return true;
}

/* The float model on all samples, as many as memory allows. */
static bool plain_rows(Run *r)
{
    for (uint32_t i = 0; i < r->kept.n; i++) {
        if (!run_plain(r, &r->kept.at[i])) return false;
        arena_rest(&r->mem);
        if (r->bytes > MEMORY && i + 1 < r->kept.n) r->kept.n = i + 1, r->whole = false;
    }
    if (!settle_outputs(r)) return false;
    int64_t labels = r->labels ? tensor_count(r->labels) : 0;
    if (r->labels && (r->whole ? r->labelled != labels : r->labelled > labels))
        return diag_error(r->diag, NULL, "--labels %s: %lld labels, but the samples have %lld rows", r->o->labels,
                          (long long)tensor_count(r->labels), (long long)r->labelled);
    return true;
}

/* ---- losses ---- */
/* whole: what the float model says of every row, or NULL: of those that are kept. */
static void add_rows(const Output *o, const Metric *m, const Plain *p, const Tensor *whole, const Tensor *got, MetricSum *s)
{
    Arena mem = {0};
    float *row = NEW_ARRAY(&mem, float, p->n + 1), *plain = NEW_ARRAY(&mem, float, p->n + 1);
    for (int64_t i = 0; i < p->rows; i += whole ? 1 : p->step) {
        row_load(got, i, p->n, row);
        if (whole) row_load(whole, i, p->n, plain);
        MetricRow one = {whole ? plain : p->x + i / p->step * p->n, row, p->n, p->target ? p->target[i] : -1, o->k};
        m->row(&one, s), s->rows++;
    }
    arena_drop(&mem);
}

static uint32_t conditions(const Output *o, Look look) { return look == ORDERING ? 1 : o->conditions; }

/* Which tokens come is luck, and says less of choices that differ in a region than the metric that orders does: a search among them would find those that
 * were lucky on its samples. */
static Condition condition(const Output *o, Look look, uint32_t c)
{
    bool lucky = look == SEARCHING && o->condition[c].metric->tokens;
    return look == ORDERING || lucky ? (Condition){o->finer, false} : o->condition[c];
}

static bool sample_losses(Run *r, Program *p, Kept *k, Look look, MetricSum *const *sum, uint32_t at)
{
    Arena mem = {0};
    const Tensor **out = NEW_ARRAY(&mem, const Tensor *, r->g->output.n + 1), **plain = NEW_ARRAY(&mem, const Tensor *, r->g->output.n + 1);
    bool ok = session_run(p->session, &mem, k->in, out, r->diag);
    if (ok && look == JUDGING && r->some) { /* the weights of one at a time */
        artefact_rest(&p->loaded);
        ok = session_run(r->plain.session, &mem, k->in, plain, r->diag);
        artefact_rest(&r->plain.loaded);
    }
    for (uint32_t i = 0; ok && i < r->output.n; i++) {
        const Output *o = &r->output.at[i];
        for (uint32_t c = 0; c < conditions(o, look); c++)
            add_rows(o, condition(o, look, c).metric, &k->plain[i], plain[o->index], out[o->index], &sum[CONDITIONS * i + c][at]);
    }
    arena_drop(&mem), arena_rest(&r->mem);
    return ok;
}

/* What counted rows say, and with which bound. */
static Verdict verdict_of(const Run *r, const Metric *m, const MetricSum *sum, uint32_t n)
{
    Verdict v = {.loss = metric_loss(m, sum, n)};
    v.bound = metric_bound(m, sum, n, r->b->max_loss, &v.shown, &v.need);
    v.even = metric_even(m, sum, n, r->b->max_loss);
    for (uint32_t s = 0; s < n; s++) v.rows += sum[s].rows;
    return v;
}

/* Of the latest artefact: the last one that is judged is the choice. */
static void note_condition(Run *r, const Output *o, Condition c, const Verdict *v)
{
    const char *name = r->o->metric ? r->o->metric : c.metric->name;
    r->b->condition[r->b->conditions++] = (BudgetCondition){name, o->name, v->loss, v->bound, v->rows, v->shown, c.every};
}

static Verdict condition_verdict(Run *r, const Output *o, Condition c, const MetricSum *sum, uint32_t n, Look look)
{
    Verdict v = verdict_of(r, c.metric, sum, n);
    if (look == JUDGING) note_condition(r, o, c, &v);
    return v;
}

static void take_worse(Verdict *v, const Verdict *one)
{
    double even = !(one->even <= v->even) ? one->even : v->even;
    if (!(one->bound <= v->bound)) *v = *one;
    v->even = even;
}

static bool asks_every(const Run *r)
{
    for (uint32_t i = 0; i < r->output.n; i++)
        for (uint32_t c = 0; c < r->output.at[i].conditions; c++)
            if (r->output.at[i].condition[c].every) return true;
    return false;
}

static MetricSum *sums_new(Arena *mem, uint32_t n)
{
    MetricSum *s = NEW_ARRAY(mem, MetricSum, n + 1);
    for (uint32_t i = 0; i < n; i++) s[i].mem = mem;
    return s;
}

/* Of a sample that weights were fitted to the margins count. */
static void forget_errors(const Run *r, MetricSum *const *sum, uint32_t at)
{
    for (uint32_t i = 0; i < CONDITIONS * r->output.n; i++) sum[i][at].off = sum[i][at].likely = 0;
}

/* The worst condition of all outputs, on a part of the samples. */
static bool judge(Run *r, Program *p, const Tensor *switches, const Part *part, Look look, Verdict *v)
{
    Arena mem = {0};
    MetricSum **sum = NEW_ARRAY(&mem, MetricSum *, CONDITIONS * r->output.n + 1);
    const Part *seen = look == JUDGING && asks_every(r) ? &r->all : part;
    bool ok = true;
    *v = (Verdict){0, -1, -1, true, 0, 0};
    if (look == JUDGING) r->b->conditions = 0;
    for (uint32_t i = 0; i < CONDITIONS * r->output.n; i++) sum[i] = sums_new(&mem, seen->n);
    for (uint32_t s = 0; ok && s < seen->n; s++) {
        Kept *k = &r->kept.at[seen->at[s]];
        k->in[r->g->input.n] = switches;
        ok = sample_losses(r, p, k, look, sum, s);
        if (s >= part->n) forget_errors(r, sum, s);
    }
    for (uint32_t i = 0; ok && i < r->output.n; i++) {
        const Output *o = &r->output.at[i];
        for (uint32_t c = 0; c < conditions(o, look); c++) {
            Condition by = condition(o, look, c);
            Verdict one = condition_verdict(r, o, by, sum[CONDITIONS * i + c], by.every ? seen->n : part->n, look);
            take_worse(v, &one);
        }
    }
    arena_drop(&mem);
    return ok;
}

static uint32_t count_quantized(const Run *r, const bool *reverted)
{
    uint32_t n = 0;
    for (uint32_t i = 1; i <= r->b->regions; i++) n += !(reverted && reverted[i]);
    return n;
}

/* The float model, where it is asked again, takes no memory meanwhile. */
static void rest_plain(Run *r)
{
    if (r->plain.session) session_drop(r->plain.session);
    r->plain.session = NULL;
    if (r->plain.loaded.handle) artefact_rest(&r->plain.loaded);
}

static bool wake_plain(Run *r)
{
    bool asleep = r->some && !r->plain.session;
    return !asleep || (r->plain.session = session_new(&r->plain.loaded, r->o->calibrate.threads, r->diag));
}

static double predicted(const Run *r, const bool *quantized)
{
    double seconds = r->b->plain;
    if (!r->b->measured) return NAN;
    for (uint32_t i = 0; i < r->b->regions; i++) seconds -= quantized[i] ? r->b->region[i + 1].saved : 0;
    return seconds;
}

/* ---- the user's program ---- */
static bool ask_command(Run *r, const char *path, double *figure)
{
    Arena mem = {0};
    const char *command = arena_printf(&mem, "%s '%s'", r->o->command, path);
    FILE *f = popen(command, "r");
    char text[256];
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    while (f && fgetc(f) != EOF) {}
    int status = f ? pclose(f) : -1;
    char *end = text;
    text[n] = 0;
    *figure = strtod(text, &end);
    bool ok = status == 0 && end != text && !end[strspn(end, " \t\r\n")] && isfinite(*figure);
    arena_drop(&mem);
    if (ok) return true;
    if (status)
        return diag_error(r->diag, NULL, "--metric-cmd %s: ended with code %d", r->o->command,
                          WIFEXITED(status) ? WEXITSTATUS(status) : status);
    return diag_error(r->diag, NULL, "--metric-cmd %s: printed '%.40s', expected one number", r->o->command, text);
}

/* ---- artefacts ---- */
/* The graph is gone afterwards: it may be as large as the model. q NULL: the float model. */
static bool build(Run *r, Quantization *q, Program *p)
{
    Arena mem = {0};
    ProgramOptions o = {.target = r->o->target,
                        .threads = r->o->calibrate.threads,
                        .cache = r->o->calibrate.cache,
                        .name = r->o->command ? "model" : NULL};
    const Graph *g = r->passes(r->ctx, q, false, &mem);
    bool ok = g && program_new(p, region_labels(g, r->q, &mem), &o, &r->mem, r->diag);
    arena_drop(&mem), files_rest(r->o->calibrate.files); /* the weights are in the program now */
    return ok;
}

/* The quantized model with these regions in float, compiled as it will be and judged by what the search never saw. */
static bool judge_artefact(Run *r, const bool *reverted, double *times, Choice *c)
{
    Quantization q = *r->q;
    Program p = {{0}, NULL, NULL};
    *c = (Choice){.reverted = reverted, .figure = NAN};
    q.reverted = reverted, memset(&q.layer, 0, sizeof q.layer);
    artefact_rest(&r->simulation.loaded);
    bool ok = build(r, &q, &p) && wake_plain(r) && judge(r, &p, NULL, &r->judge, JUDGING, &c->v) &&
              (!r->o->command || ask_command(r, p.path, &c->figure));
    RegionTimes of[] = {{&p, times, &c->seconds}, {&r->plain, r->times, &r->b->plain}};
    ok = ok && region_times(of, r->timed ? 1 : 2, r->kept.at[0].in, r->b->regions, r->diag);
    r->timed = true, rest_plain(r);
    program_drop(&p);
    BudgetPoint point = {count_quantized(r, reverted), c->v.loss, c->v.bound, c->seconds, true, false};
    if (ok) vec_push(r->q->mem, &r->b->point, point), r->b->looks++;
    c->point = r->b->point.n;
    c->conditions = r->b->conditions, c->condition = arena_copy(r->q->mem, r->b->condition, c->conditions * sizeof *c->condition);
    return ok;
}

/* How much worse the user's figure is, as a part of that of the float model. */
static double command_loss(const Budget *b, double figure) { return (b->figure[0] - figure) / fabs(b->figure[0]); }

static bool inside(const Run *r, const Choice *c)
{
    return r->o->command ? command_loss(r->b, c->figure) <= r->b->max_loss : c->v.bound <= r->b->max_loss;
}

static void accept(Run *r, const Choice *c)
{
    Budget *b = r->b;
    const Verdict *v = &c->v;
    b->loss = v->loss, b->bound = v->bound, b->shown = v->shown, b->rows = v->rows, b->need = v->shown ? 0 : v->need;
    b->figure[1] = c->figure, b->chosen = c->seconds;
    b->condition = c->condition, b->conditions = c->conditions;
    if (r->o->command) b->loss = b->bound = command_loss(b, c->figure);
    for (uint32_t i = 1; i <= b->regions; i++)
        b->region[i].reverted = c->reverted && c->reverted[i], b->reverted += b->region[i].reverted;
    b->point.at[c->point - 1].chosen = true;
    r->q->reverted = c->reverted;
}

/* ---- regions alone ---- */
static const Tensor *switches_of(const Run *r, const bool *quantized, Arena *mem)
{
    int64_t n = r->b->regions;
    Tensor *t = tensor_new(mem, DT_bool, 1, &n);
    memcpy((void *)t->data, quantized, (size_t)n);
    return t;
}

static bool simulated(Run *r, const bool *quantized, const Part *part, Look look, Verdict *v)
{
    Arena mem = {0};
    double start = seconds_now();
    bool ok = judge(r, &r->simulation, switches_of(r, quantized, &mem), part, look, v);
    if (part->n) r->seconds = (seconds_now() - start) / part->n;
    arena_drop(&mem);
    return ok;
}

static bool build_simulation(Run *r)
{
    Quantization q = *r->q;
    q.simulate = true, q.reverted = NULL, memset(&q.layer, 0, sizeof q.layer);
    progress(r, "compiling a simulation");
    Arena mem = {0};
    const Graph *g = r->passes(r->ctx, &q, true, &mem);
    ProgramOptions o = {.threads = r->o->calibrate.threads, .cache = r->o->calibrate.cache};
    bool ok = g && program_new(&r->simulation, g, &o, &r->mem, r->diag);
    arena_drop(&mem), files_rest(r->o->calibrate.files);
    return ok;
}

static uint32_t affordable(double seconds, double run, uint32_t choices)
{
    double n = seconds / (run * choices + 1e-9);
    return n < 1 ? 1 : n > SAMPLES ? SAMPLES : (uint32_t)n;
}

/* Where runs take long, a search tries fewer choices and sees enough samples all the same. */
static void part_time(Run *r)
{
    uint32_t n = affordable(TRYING, r->seconds, TRIES), least = r->search.n < ENOUGH ? r->search.n : ENOUGH;
    r->alone = thin(&r->mem, &r->search, affordable(ALONE, r->seconds, r->b->regions));
    r->search = thin(&r->mem, &r->search, n > least ? n : least);
    r->tries = affordable(TRYING, r->seconds, r->search.n + r->alone.n);
    r->tries = r->tries > TRIES ? TRIES : r->tries < LEAST_TRIES ? LEAST_TRIES : r->tries;
}

static bool regions_alone(Run *r)
{
    Budget *b = r->b;
    bool *one = NEW_ARRAY(&r->mem, bool, b->regions + 1);
    Verdict v;
    Part first = thin(&r->mem, &r->search, 1);
    if (!simulated(r, one, &first, ORDERING, &v) || !simulated(r, one, &first, ORDERING, &v))
        return false; /* how long is it? */
    part_time(r);
    for (uint32_t i = 0; i < b->regions; i++) {
        progress(r, arena_printf(&r->mem, "measuring the loss of region %u of %u", i + 1, b->regions));
        one[i] = true;
        if (!simulated(r, one, &r->alone, ORDERING, &v)) return false;
        one[i] = false;
        b->region[i + 1].loss = v.loss, r->region[i].loss = v.loss;
    }
    return true;
}

/* Times as the search sees them, in whole TICKs. */
static void regions_saved(Run *r, const double *plain, const double *quantized, const Quantization *q)
{
    Budget *b = r->b;
    for (uint32_t i = 1; i <= b->regions; i++) {
        BudgetRegion *g = &b->region[i];
        if (b->measured) {
            g->plain = plain[i], g->quantized = quantized[i];
            g->saved = rint((plain[i] - quantized[i]) / (b->plain * TICK)) * b->plain * TICK;
        } else {
            for (uint32_t l = 0; l < q->layer.n; l++) g->saved += q->layer.at[l].region == i ? q->layer.at[l].saved : 0;
        }
        if (i == r->q->tables) g->saved = fmax(g->saved, b->measured ? b->plain * TICK : 1); /* whatever the time: it is smaller */
        r->region[i - 1].time = g->saved;
    }
}

/* ---- the search ---- */
/* A choice is not believed to lose less than its regions do alone, on the samples on which that was measured: what cancels there need not cancel
 * on others. By how much it seems to. */
static bool doubt(Run *r, const bool *quantized, double *times)
{
    double sum = 0;
    Verdict v;
    for (uint32_t i = 0; i < r->b->regions; i++) sum += quantized[i] ? r->region[i].loss : 0;
    if (!simulated(r, quantized, &r->alone, ORDERING, &v)) return false;
    *times = sum > v.loss && v.loss > 0 ? sum / v.loss : 1;
    return true;
}

static bool measure_choice(void *arg, const bool *quantized, double *loss)
{
    Run *r = arg;
    double times;
    Verdict v;
    for (uint32_t i = 0; i < r->tried.n; i++) /* by the search before */
        if (!memcmp(r->tried.at[i].quantized, quantized, r->b->regions)) return *loss = r->tried.at[i].loss, true;
    if (!doubt(r, quantized, &times) || !simulated(r, quantized, &r->search, SEARCHING, &v)) return false;
    *loss = v.even * times;
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->b->regions; i++) n += quantized[i];
    progress(r,
             arena_printf(&r->mem, "searching: %u of %u regions lose at most %.3g%%", n, r->b->regions, v.bound * 100));
    BudgetPoint p = {n, v.loss, v.bound, predicted(r, quantized), false, false};
    vec_push(r->q->mem, &r->b->point, p);
    vec_push(&r->mem, &r->tried, (Tried){arena_copy(&r->mem, quantized, r->b->regions), *loss});
    return true;
}

/* *loss: what the search believes of it. */
static bool search_choice(Run *r, double target, uint32_t most, bool *reverted, double *loss)
{
    Budget *b = r->b;
    bool *quantized = NEW_ARRAY(&r->mem, bool, b->regions + 1);
    Search s = {.n = b->regions,
                .region = r->region,
                .budget = target,
                .measure = measure_choice,
                .arg = r,
                .most = most,
                .scale = r->scale};
    if (!search_run(&s, quantized, loss)) return false;
    r->scale = s.scale;
    for (uint32_t i = 0; i < b->regions; i++) reverted[i + 1] = !quantized[i];
    return true;
}

/* What the samples of the search are held to, and the choices that it led to. */
typedef struct Aim {
    double target, outside; /* of the choice that is inside, the least that led to one outside; 0: none did */
    Choice choice;          /* inside */
    const bool *failed;     /* the last that was not; NULL: none was judged */
    double room;            /* what the search may believe of a choice for the judge to find the budget, by the last it was asked about */
} Aim;

static bool same_choice(const Run *r, const bool *a, const bool *b)
{
    return a && b && !memcmp(a, b, r->b->regions + 1);
}

static double expected(const Run *r, const bool *reverted)
{
    double saved = 0;
    for (uint32_t i = 1; i <= r->b->regions; i++) saved += reverted[i] ? 0 : r->b->region[i].saved;
    return saved;
}

/* How much worse the samples that judge are than those of the search is not known before one choice was judged. */
static void note_room(const Run *r, Aim *a, double believed, const Choice *c)
{
    a->room = believed * (r->o->command ? 1 : r->b->max_loss / c->v.even);
}

/* The budget at first, or, for a user's program, half of what it was when the program refused; less until a choice is inside. No choice is judged
 * twice. */
static bool aim_inside(Run *r, Aim *a, double *times)
{
    double target = a->target, believed;
    for (int tries = 1; tries < LOOKS && !a->choice.point; tries++) {
        bool *reverted = NEW_ARRAY(r->q->mem, bool, r->b->regions + 1);
        Choice c;
        if (!search_choice(r, target, r->tries, reverted, &believed)) return false;
        if (!count_quantized(r, reverted)) return true;
        bool judged = same_choice(r, a->failed, reverted);
        if (!judged) {
            progress(r, "compiling what was found");
            if (!judge_artefact(r, reverted, times, &c)) return false;
            note_room(r, a, believed, &c);
            if (inside(r, &c)) return a->choice = c, a->target = target, true;
        }
        a->failed = reverted, a->outside = believed;
        target = fmin(believed * TIGHTEN, a->room);
    }
    return true;
}

static double closer_target(const Aim *a)
{
    return a->outside > 0 ? sqrt(a->target * a->outside) : fmax(a->target / TIGHTEN, a->room * TIGHTEN);
}

/* A step of the target may have left more room than was needed: targets between the one that was inside and the one that was not are tried, as long as
 * the judge may be asked, and where none was outside a larger one. Faster choices that are inside count. By now the search knows the scale of losses,
 * and needs fewer tries. */
static bool aim_closer(Run *r, Aim *a, double *times)
{
    uint32_t most = r->b->looks + CLOSER;
    for (int tries = 0; tries < LOOKS && r->b->looks < most && r->b->looks < LOOKS; tries++) {
        bool *reverted = NEW_ARRAY(r->q->mem, bool, r->b->regions + 1);
        Choice c;
        double target = closer_target(a), believed;
        if (a->outside > 0 && a->outside < a->target * NEAR) return true;
        if (!search_choice(r, target, r->tries / 2, reverted, &believed)) return false;
        bool failed = same_choice(r, a->failed, reverted), faster = expected(r, reverted) > expected(r, a->choice.reverted);
        if (!failed && faster) {
            progress(r, "compiling what was found");
            if (!judge_artefact(r, reverted, times, &c)) return false;
            failed = !inside(r, &c), faster = !r->b->measured || c.seconds < a->choice.seconds;
            note_room(r, a, believed, &c);
        }
        if (failed) a->outside = believed, a->failed = reverted;
        else a->target = target;
        if (!failed && faster) a->choice = c;
    }
    return true;
}

static bool look_again(Run *r, double target, double *times)
{
    Aim a = {.target = target};
    if (!aim_inside(r, &a, times)) return false;
    if (a.choice.point && !r->o->command && !aim_closer(r, &a, times)) return false;
    if (a.choice.point) return accept(r, &a.choice), true;
    bool *all = NEW_ARRAY(r->q->mem, bool, r->b->regions + 1);
    memset(all, true, r->b->regions + 1);
    if (!judge_artefact(r, all, times, &a.choice)) return false;
    if (inside(r, &a.choice)) return accept(r, &a.choice), true;
    return diag_error(r->diag, NULL, "--max-loss %g%% cannot be kept: with everything in float the loss is %.3g%%",
                      r->b->max_loss * 100, (r->o->command ? command_loss(r->b, a.choice.figure) : a.choice.v.bound) * 100);
}

static bool search_regions(Run *r, const Quantization *all, const Choice *c, const double *quantized)
{
    double *times = NEW_ARRAY(&r->mem, double, r->b->regions + 1);
    r->region = NEW_ARRAY(&r->mem, SearchRegion, r->b->regions + 1);
    regions_saved(r, r->times, quantized, all);
    double target = r->o->command ? c->v.even / 2 : r->b->max_loss;
    return build_simulation(r) && regions_alone(r) && look_again(r, target, times);
}

/* ---- from the beginning ---- */
static const Metric *finer_of(const Metric *m)
{
    int k;
    return m->finer ? metric_find(m->finer, &k) : m;
}

static bool find_outputs(Run *r)
{
    for (uint32_t i = 0; i < r->g->output.n; i++) {
        if (!dtype_is_float(val_type(r->g, r->g->output.at[i])->dtype)) continue;
        Output o = {.index = i, .name = r->g->output_name.at[i], .k = 1};
        if (r->o->metric) add_condition(&o, r->o->metric, false), o.finer = finer_of(o.condition[0].metric);
        vec_push(&r->mem, &r->output, o);
        if (o.conditions && o.condition[0].metric->tokens) break; /* the others are caches */
    }
    return r->output.n || diag_error(r->diag, NULL, "--max-loss needs a float output to compare");
}

static bool read_labels(Run *r)
{
    if (!r->o->labels) return true;
    r->labels = npy_read(&r->mem, r->diag, r->o->labels);
    if (r->labels && dtypes[r->labels->type].cls != DC_INT)
        return diag_error(r->diag, NULL, "--labels %s: expected integers, one for each row", r->o->labels);
    return r->labels != NULL;
}

static const char *metric_text(const Run *r)
{
    const char *s = "";
    for (uint32_t i = 0; i < r->output.n; i++) {
        const Output *o = &r->output.at[i];
        const char *name = r->o->metric ? r->o->metric : o->condition[0].metric->name;
        for (uint32_t c = 1; c < o->conditions; c++) name = arena_printf(r->q->mem, "%s and %s", name, o->condition[c].metric->name);
        s = arena_printf(r->q->mem, "%s%s%s of '%s'", s, i ? ", " : "", name, o->name);
    }
    return r->labels ? arena_printf(r->q->mem, "%s with labels", s) : s;
}

static bool prepare(Run *r)
{
    Budget *b = r->b;
    progress(r, "compiling the float model");
    if (!find_outputs(r) || !read_labels(r) || !build(r, NULL, &r->plain) ||
        !samples_each(r->o->calibrate.samples, r->g, SAMPLES + 1, keep_sample, r, r->diag) || !plain_rows(r))
        return false;
    part_samples(r);
    b->condition = NEW_ARRAY(r->q->mem, BudgetCondition, CONDITIONS * r->output.n);
    b->metric = metric_text(r);
    return !r->o->command || ask_command(r, r->plain.path, &b->figure[0]);
}

static void warn(const Run *r)
{
    const Budget *b = r->b;
    if (r->o->command) return;
    if (b->need)
        diag_warn(
            r->diag, NULL,
            "--max-loss %g%%: %lld rows cannot show so small a loss with confidence, it takes %lld; the share that was "
            "counted is inside (kl needs fewer)",
            b->max_loss * 100, (long long)b->rows, (long long)b->need);
    else if (!b->shown || b->samples[1] < FEW)
        diag_warn(r->diag, NULL, "--max-loss is judged on %u sample%s: calibrate with at least %d", b->samples[1],
                  b->samples[1] == 1 ? "" : "s", FEW * JUDGES);
}

static bool first_look(Run *r, const Quantization *all)
{
    Budget *b = r->b;
    double *quantized = NEW_ARRAY(&r->mem, double, b->regions + 1);
    Choice c;
    r->times = NEW_ARRAY(&r->mem, double, b->regions + 1);
    progress(r, "compiling with everything quantized");
    if (!judge_artefact(r, NULL, quantized, &c)) return false;
    b->all = c.seconds;
    if (!r->some) program_drop(&r->plain); /* all is known of it */
    if (inside(r, &c)) return accept(r, &c), true;
    return search_regions(r, all, &c, quantized);
}

bool budget_run(const Graph *g, Quantization *q, const BudgetOptions *o, BudgetPasses *passes, void *ctx, Diag *diag)
{
    Budget *b = q->budget = NEW(q->mem, Budget);
    Run r = {.g = g, .q = q, .o = o, .passes = passes, .ctx = ctx, .diag = diag, .b = b, .mem = {.folder = q->mem->folder}};
    Quantization all = *q;
    *b = (Budget){.max_loss = o->max_loss, .command = o->command, .measured = !o->estimate, .shown = true};
    b->plain = b->all = b->chosen = NAN;
    Arena mem = {0};
    bool ok = passes(ctx, &all, false, &mem) != NULL;
    arena_drop(&mem);
    q->regions = b->regions = all.regions, q->tables = all.tables, q->region_reads = all.region_reads;
    q->region_at = all.region_at, q->located = all.located;
    b->region = NEW_ARRAY(q->mem, BudgetRegion, b->regions + 1);
    for (uint32_t i = 0; i <= b->regions; i++) b->region[i].loss = b->region[i].plain = b->region[i].quantized = NAN;
    if (ok && b->regions) ok = prepare(&r) && first_look(&r, &all);
    if (ok && b->regions) warn(&r);
    program_drop(&r.plain), program_drop(&r.simulation);
    arena_drop(&r.mem);
    return ok;
}
