/* report_text.c - the report's summary for a terminal: a few lines, the layers that stayed float and why, the layer that is worst off. */
#include "frontend/budget.h"
#include "frontend/report.h"
#include <math.h>

static void print_policy(const Report *r, FILE *f)
{
    Arena mem = {0};
    const Policy *p = r->policy;
    if (p->why) fprintf(f, "%s: --fp32 is exact: %s\n", r->model, p->why);
    if (policy_changes(p)) {
        fprintf(f, "%s: %s %s", r->model, p->storage ? "values are stored as" : "float products are",
                p->storage ? p->storage : p->fp32);
        if (p->measured)
            fprintf(f, "; outputs differ from float32 by %.2g, at most %.2g of the largest, on %s",
                    p->difference.relative, p->difference.largest, report_measured_on(p, &mem));
        else fputs("; what that costs could not be measured on random inputs (--calibrate)", f);
        fputc('\n', f);
    }
    arena_drop(&mem);
}

static void print_output(const OutputFigures *o, FILE *f)
{
    fprintf(f, "  output %s: ", o->name);
    if (!o->samples) fputs("its sizes differ", f);
    else if (!o->is_float)
        fprintf(f, "%.2f %% of its elements are equal", 100 * (double)o->agree / (double)(o->rows + !o->rows));
    else if (isinf(o->sqnr)) fputs("equal to float", f);
    else
        fprintf(f, "SQNR %.1f dB on %u sample%s, at least %.1f (sample %u), cosine %.5f", o->sqnr, o->samples,
                o->samples == 1 ? "" : "s", o->worst, o->worst_at, o->cosine);
    if (o->scores)
        fprintf(f, ", top-1 agrees %.2f %% (%.1f to %.1f)", 100 * (double)o->agree / (double)o->rows, 100 * o->low,
                100 * o->high);
    fputc('\n', f);
}

static double nearness(const OutputFigures *o)
{
    if (o->is_float) return isnan(o->sqnr) ? -INFINITY : o->sqnr;
    return o->agree == o->rows ? INFINITY : -INFINITY;
}

/* Those that are furthest off, in the model's order. */
static void print_outputs(const Measured *m, FILE *f)
{
    enum { NAMED = 4 };
    for (uint32_t i = 0; i < m->outputs; i++) {
        uint32_t further = 0;
        for (uint32_t k = 0; k < m->outputs; k++) {
            double a = nearness(&m->output[k]), b = nearness(&m->output[i]);
            further += a < b || (a == b && k < i);
        }
        if (further < NAMED) print_output(&m->output[i], f);
    }
    if (m->outputs > NAMED) fprintf(f, "  %u other outputs are as near to float, or nearer\n", m->outputs - NAMED);
}

static void print_measured(const Measured *m, FILE *f)
{
    print_outputs(m, f);
    const ProgramFigures *a = &m->program[0], *b = &m->program[1];
    if (a->runs && b->runs)
        fprintf(f, "  a run takes %.3g ms, float %.3g ms: %.2fx (%s, %d thread%s)\n", b->median * 1e3, a->median * 1e3,
                a->median / b->median, m->level, m->threads, m->threads == 1 ? "" : "s");
}

/* What stays float: a line for each reason. */
typedef struct Floats {
    const char *name, *op, *why;
} Floats;

static void print_floats(const Floats *at, uint32_t n, Arena *mem, FILE *f)
{
    enum { NAMED = 4 };
    bool *said = NEW_ARRAY(mem, bool, n + 1);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t alike = 0;
        for (uint32_t k = i; k < n && !said[i]; k++) {
            if (strcmp(at[k].why, at[i].why)) continue;
            if (alike++ < NAMED) fprintf(f, "%s%s (%s)", alike > 1 ? ", " : "  float: ", at[k].name, at[k].op);
            said[k] = k > i;
        }
        if (alike > NAMED) fprintf(f, " and %u more", alike - NAMED);
        if (alike) fprintf(f, ": %s\n", at[i].why);
    }
}

/* Contractions with quantized operands: how many are what, and why some are float. */
static void print_coded(const Report *r, FILE *f)
{
    const IntegerNote *note = r->integer;
    Arena mem = {0};
    Floats *at = NEW_ARRAY(&mem, Floats, note->at.n + 1);
    uint32_t n = 0;
    if (r->came)
        fprintf(f, "%s: came quantized: %u contractions are integer, %u have codes as weights, %u stay float\n", r->model, note->n[CODED_INTEGER],
                note->n[CODED_WEIGHTS], note->n[CODED_FLOAT]);
    else if (note->n[CODED_FLOAT])
        fprintf(f, "%s: warning: %u of %u contractions with quantized operands stay float\n", r->model, note->n[CODED_FLOAT], note->at.n);
    for (uint32_t i = 0; i < note->at.n; i++)
        if (note->at.at[i].why) at[n++] = (Floats){note->at.at[i].name, note->at.at[i].loc->op, note->at.at[i].why};
    print_floats(at, n, &mem, f);
    arena_drop(&mem);
}

/* What layers are, and what is behind their ranges: the method, where there are any, and numbers that are none. */
static void print_quantized(const Report *r, FILE *f)
{
    bool made_up = r->calibration == CALIBRATION_RANDOM;
    fprintf(f, "%s: %u of %u contractions are %s", r->model, r->integers, r->layers, r->precision);
    if (r->method || made_up)
        fprintf(f, " (%s%s%s)", r->method ? r->method : "", r->method && made_up ? ", " : "", made_up ? "RANDOM DATA" : "");
    fputc('\n', f);
    if (r->beside) fprintf(f, "  the weights of %u others are 8-bit integers, their products float, which is as fast\n", r->beside);
}

/* What was done to the operands of products for the sake of accuracy, and what they cost it. */
static void print_operands(const Report *r, FILE *f)
{
    uint32_t smooth = 0, wide = 0, eight = 0, spared = 0, finer = 0, rounded = 0;
    for (uint32_t i = 0; i < r->layers; i++) {
        const Layer *l = r->layer[i].layer;
        smooth += r->layer[i].integer && l->smooth, wide += r->layer[i].integer && l->wide;
        if (l->state != LAYER_WEIGHTS) continue;
        rounded += l->block != 0, eight += l->form.code == DT_i8, spared += l->spared && l->form.code == DT_i8,
            finer += l->spared && l->form.code != DT_i8;
    }
    if (smooth) fprintf(f, "  the inputs of %u of them have smoothed channels\n", smooth);
    if (wide) fprintf(f, "  the inputs of %u of them have 16 bits: 8 would cost the outputs too much\n", wide);
    if (rounded)
        fprintf(f, "  the values of %u of them are rounded to 8 bits in blocks, while the model runs\n", rounded);
    if (spared) fprintf(f, "  the weights of %u of them are 8-bit integers, those of %u because %s would cost the outputs too much\n", eight, spared, r->precision);
    if (finer) fprintf(f, "  the weights of %u of them are in groups of half the size for the same reason\n", finer);
    if (r->costs)
        fprintf(f, "  rounding %s costs the outputs %.2g %s, %s %.2g\n", r->rounds_values ? "the values of 8-bit products" : spared || finer ? "the weights of the others" : "their weights", r->costs->left,
                r->costs->scores ? "nats of divergence" : "of their energy", r->costs->left > r->costs->bound ? "with as many bits more as there may be; wanted were" : "at most",
                r->costs->bound);
}

/* What was done to the float model beforehand, and where samples said that it is better undone. */
static void print_rewriting(const Report *r, Rewriting kind, FILE *f)
{
    uint32_t taken = 0, back = 0;
    double gain = 0, loss = 0;
    for (uint32_t i = 0; i < r->layers; i++) {
        const LayerTried *t = r->layer[i].layer->tried;
        if (!t || !t->by[kind].judged) continue;
        double more = t->by[kind].after - t->by[kind].before;
        if (t->by[kind].taken) taken++, gain += more;
        else back++, loss += more;
    }
    if (!taken && !back) return;
    fprintf(f, "  %s: ", report_rewritings[kind]);
    if (taken) fprintf(f, "%u layers, rounding costs them %.1f dB %s on average", taken, fabs(gain) / taken, gain < 0 ? "more" : "less");
    if (back) fprintf(f, "%s%u layers fell back: with it, it would be %.1f dB %s", taken ? "; " : "", back, fabs(loss) / back, loss < 0 ? "more" : "less");
    fputc('\n', f);
}

static void print_float_layers(const Report *r, FILE *f)
{
    Arena mem = {0};
    Floats *at = NEW_ARRAY(&mem, Floats, r->layers + 1);
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->layers; i++) {
        const Layer *l = r->layer[i].layer;
        if (l->state == LAYER_FLOAT) at[n++] = (Floats){r->layer[i].name, l->loc->op, l->why};
    }
    print_floats(at, n, &mem, f);
    arena_drop(&mem);
}

void report_print(const Report *r, FILE *f)
{
    print_policy(r, f);
    const WinogradNote *w = r->winograd;
    if (w->convs)
        fprintf(f, "%s: %u of %u float convolutions by Winograd's algorithm, error of a sampled tile at most %.1e\n",
                r->model, w->convs, w->of, w->error);
    print_coded(r, f);
    if (r->quantized) print_quantized(r, f);
    print_operands(r, f);
    for (int k = 0; k < REWRITINGS; k++) print_rewriting(r, (Rewriting)k, f);
    if (!r->came) print_float_layers(r, f);
    if (r->worst)
        fprintf(f, "  lowest SQNR against float: %.1f dB at %s (%s)\n", r->worst->layer->sqnr, r->worst->name,
                r->worst->layer->loc->op);
    if (r->measured) print_measured(r->measured, f);
    if (r->advice) fprintf(f, "%s: warning: %s\n", r->model, r->advice);
    if (r->budget) budget_print(r->budget, r->model, f);
}
