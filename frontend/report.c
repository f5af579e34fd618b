/* report.c - fills the report from what quantization noted and what was measured; see report.h. Fields: docs/CLI.md, "The report". */
#include "frontend/report.h"
#include "frontend/budget.h"
#include "frontend/file.h"
#include <math.h>
#include <stdlib.h>

const char *const report_calibrations[] = {[CALIBRATION_NONE] = NULL,
                                           [CALIBRATION_SAMPLES] = "samples",
                                           [CALIBRATION_RANGES] = "ranges",
                                           [CALIBRATION_RANDOM] = "random"};

const char *const report_rewritings[REWRITINGS] = {[REWRITING_EQUALIZE] = "equalization", [REWRITING_ROTATE] = "rotation"};

static int by_position(const void *a, const void *b)
{
    const Layer *x = ((const ReportLayer *)a)->layer, *y = ((const ReportLayer *)b)->layer;
    if (x->loc->index != y->loc->index) return x->loc->index > y->loc->index ? 1 : -1;
    return strcmp(x->tensor, y->tensor);
}

/* Values seen outside of [lo, hi], bins as a whole by their middle. */
static double clipped_part(const Range *r)
{
    uint64_t out = 0, all = 0;
    if (!r || !r->stat || !r->stat->bin) return NAN;
    for (int i = 0; i < STAT_BINS; i++) {
        double x = r->stat->from + (i + 0.5) * r->stat->width;
        all += r->stat->bin[i];
        if (x < r->lo - r->stat->width || x > r->hi + r->stat->width) out += r->stat->bin[i];
    }
    return all ? (double)out / (double)all : (double)NAN;
}

const char *report_weight_type(const Layer *l)
{
    return l->form.code == DT_i4 ? "s4" : !l->form.code || l->form.code == DT_i8 ? "s8" : dtypes[l->form.code].name;
}

const char *report_cost_unit(const OutputCosts *c) { return c->scores ? "nats" : "energy"; }

static ReportLayer layer_row(const Report *r, const Quantization *q, const Layer *l, Arena *mem)
{
    ReportLayer row = {.layer = l,
                       .alone = r->alone ? r->alone[l - q->layer.at] : (double)NAN,
                       .plain = NAN,
                       .made = NAN,
                       .bytes_float = NAN,
                       .bytes = NAN};
    row.integer = l->state == LAYER_INTEGER;
    row.name = *l->loc->node ? l->loc->node : arena_printf(mem, "#%d", l->loc->index);
    row.range = l->input ? range_find(q, l->input) : NULL;
    row.clipped = row.integer && !l->rows ? clipped_part(row.range) : (double)NAN;
    if (l->weights) row.bytes_float = 4.0 * (double)l->weights, row.bytes = (double)l->weights * (l->form.code ? dtypes[l->form.code].bits : 8) / 8;
    if (!r->measured) return row;
    row.plain = measured_node(&r->measured->program[0], l->loc->node);
    row.made = measured_node(&r->measured->program[1], l->loc->node);
    return row;
}

double report_error(const Measured *m)
{
    double worst = NAN;
    for (uint32_t i = 0; i < m->outputs; i++) {
        double e = pow(10, -m->output[i].sqnr / 20);
        if (!isnan(e) && !(worst >= e)) worst = e;
    }
    return worst;
}

static void fill_points(Report *r, Arena *mem)
{
    const Measured *m = r->measured;
    if (!m || isnan(report_error(m)) || !m->program[0].runs || !m->program[1].runs) return;
    vec_push(mem, &r->point.at, (ReportPoint){"float32", m->program[0].median, 0});
    const char *name = r->precision ? r->precision : r->policy->fp32;
    vec_push(mem, &r->point.at, (ReportPoint){name, m->program[1].median, report_error(m)});
}

/* Every choice of a budget's search whose time is known: those it predicted and those it compiled. */
static void fill_tried(Report *r, Arena *mem)
{
    const Budget *b = r->budget ? r->budget->budget : NULL;
    if (!b || !(b->plain > 0)) return;
    vec_push(mem, &r->tried.at, (ReportPoint){"float32", b->plain, 0});
    for (uint32_t i = 0; i < b->point.n; i++) {
        const BudgetPoint *p = &b->point.at[i];
        const char *name = p->chosen ? "chosen" : p->artefact ? "compiled" : NULL;
        if (p->seconds > 0 && isfinite(p->loss))
            vec_push(mem, &r->tried.at, (ReportPoint){name, p->seconds, fmax(0, p->loss)});
    }
}

/* The contractions of a model that came quantized, as layers. */
static const Quantization *layers_that_came(const IntegerNote *note, Arena *mem)
{
    static const LayerState states[] = {[CODED_INTEGER] = LAYER_INTEGER, [CODED_WEIGHTS] = LAYER_WEIGHTS, [CODED_FLOAT] = LAYER_FLOAT};
    Quantization *q = NEW(mem, Quantization);
    q->mem = mem;
    for (uint32_t i = 0; i < note->at.n; i++) {
        const Coded *c = &note->at.at[i];
        Layer l = {.loc = c->loc, .tensor = "", .state = states[c->state], .x = c->x, .why = c->why, .rows = c->rows, .weights = c->weights};
        l.form.code = c->w, l.weight_sqnr = l.cost = l.sqnr = l.error = l.error_nearest = NAN;
        vec_push(mem, &q->layer, l);
    }
    return q;
}

/* A tenth of an output's energy is noise, or one answer in ten is another one, whatever samples there might have been. */
static bool is_far(const OutputFigures *o)
{
    enum { NEAR_DB = 10 };
    const double near_answers = 0.9;
    return (o->is_float && o->sqnr < NEAR_DB) || (o->scores && o->high < near_answers);
}

static const char *advice(const Report *r, Arena *mem)
{
    for (uint32_t i = 0; i < (r->measured ? r->measured->outputs : 0); i++)
        if (is_far(&r->measured->output[i]))
            return arena_printf(mem, "output %s is far from float%s%s", r->measured->output[i].name,
                                r->nearer ? ": " : "", r->nearer ? r->nearer : "");
    return NULL;
}

void report_fill(Report *r, const Quantization *q, Arena *mem)
{
    r->costs = q && q->costs.known ? &q->costs : NULL, r->rounds_values = q && !q->float_activations;
    r->budget = q && q->budget ? q : NULL, r->quantized = q != NULL, r->came = !q && r->integer->at.n > 0;
    if (r->came) q = layers_that_came(r->integer, mem);
    r->layers = q ? q->layer.n : 0;
    r->layer = NEW_ARRAY(mem, ReportLayer, r->layers + 1);
    for (uint32_t i = 0; i < r->layers; i++) {
        r->layer[i] = layer_row(r, q, &q->layer.at[i], mem);
        bool beside = r->rounds_values && q->layer.at[i].state == LAYER_WEIGHTS;
        r->integers += !beside && q->layer.at[i].state != LAYER_FLOAT, r->beside += beside;
    }
    qsort(r->layer, r->layers, sizeof *r->layer, by_position);
    for (uint32_t i = 0; i < r->layers; i++) {
        double sqnr = r->layer[i].layer->sqnr;
        if (isfinite(sqnr) && (!r->worst || sqnr < r->worst->layer->sqnr)) r->worst = &r->layer[i];
    }
    if (!r->budget && !r->came && r->calibration != CALIBRATION_RANDOM) r->advice = advice(r, mem);
    fill_points(r, mem), fill_tried(r, mem);
}

const char *report_measured_on(const Policy *p, Arena *mem)
{
    if (p->difference.made_up) return "RANDOM INPUTS, not samples (--calibrate)";
    return arena_printf(mem, "%u sample%s", p->difference.runs, p->difference.runs == 1 ? "" : "s");
}

/* ---- files ---- */
static bool ends_in(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);
    return n > k && !strcmp(s + n - k, suffix);
}

bool report_is_page(const char *path) { return ends_in(path, ".html") || ends_in(path, ".htm"); }

bool report_write(const Report *r, Diag *diag, const char *path)
{
    Arena mem = {0};
    const char *temporary;
    FILE *f = file_create(&mem, diag, path, &temporary);
    bool ok = f != NULL;
    if (ok) (report_is_page(path) ? report_html : report_json)(r, f);
    ok = ok && file_commit(diag, f, temporary, path, !ferror(f));
    arena_drop(&mem);
    return ok;
}
