/* smooth.c - see smooth.h. The gain of a channel is its largest value to the power `a` over its largest weight to the power 1 - a, from the
 * paper, divided by the mean of all (geometric). Of some powers the one with the least error of the outputs is taken, both operands being
 * rounded.
 * Rows are rounded as pass_quantize() will do it: with one scale for all, or, where that is clearly better, with one each. */
#include "passes/smooth.h"
#include "passes/quantize.h"
#include <math.h>

enum { ROOM_CHOOSE = 64, ROOM_JUDGE = 64, JUDGED = 64 };
static const double POWERS[] = {0.35, 0.5, 0.65, 0.8};
static const double PART[] = {[SMOOTH_FREE] = 0.79, [SMOOTH_MULTIPLIES] = 0.63}; /* of the error that was: 1 dB, 2 dB less */

static const double NOTHING = 1e-30;

/* ---- rows ---- */
KeptRows *kept_rows_new(int64_t channels, Arena *mem)
{
    KeptRows *k = NEW(mem, KeptRows);
    *k = (KeptRows){.channels = channels, .room = {ROOM_CHOOSE, ROOM_JUDGE}};
    k->lo = NEW_ARRAY(mem, float, channels + 1), k->hi = NEW_ARRAY(mem, float, channels + 1);
    for (int s = 0; s < SMOOTH_SETS; s++) k->row[s] = NEW_ARRAY(mem, float, k->room[s] * channels + 1);
    return k;
}

void kept_rows_add(KeptRows *k, int set, const float *x, int64_t rows, int64_t most)
{
    int64_t n = k->channels, room = k->room[set] - k->rows[set], taken = rows < most ? rows : most;
    if (taken > room) taken = room;
    for (int64_t r = 0; set == 0 && r < rows; r++)
        for (int64_t c = 0; c < n; c++) {
            float v = x[r * n + c];
            k->lo[c] = v < k->lo[c] && isfinite(v) ? v : k->lo[c], k->hi[c] = v > k->hi[c] && isfinite(v) ? v : k->hi[c];
        }
    for (int64_t i = 0; i < taken; i++) {
        const float *from = x + row_spread(k->seed, i, taken, rows) * n;
        if (row_is_finite(from, n)) memcpy(k->row[set] + k->rows[set]++ * n, from, sizeof *from * (size_t)n);
    }
    k->seed++;
}

/* ---- trying ---- */
/* Outputs of a layer that stand for all: those with the largest values, which alone may make up most of a row, and some of the others,
 * each for as many. */
typedef struct Outputs {
    int64_t n;
    int64_t at[JUDGED];
    double stands_for[JUDGED];
    float *y[SMOOTH_SETS];       /* what the rows give, [rows][n] */
} Outputs;

typedef struct Trial {
    const WeightMatrix *const *m;
    const WeightForm *form;
    uint32_t n;
    const KeptRows *kept;
    Outputs *out;                /* by layer */
    Arena mem;
} Trial;

static double *output_sizes(const WeightMatrix *m, const KeptRows *k, Arena *mem)
{
    enum { SOME = 16 };
    int64_t n = k->channels, rows = k->rows[0] < SOME ? k->rows[0] : SOME;
    float *x = NEW_ARRAY(mem, float, rows * n + 1), *y = NEW_ARRAY(mem, float, rows * m->out + 1);
    double *size = NEW_ARRAY(mem, double, m->out + 1);
    for (int64_t r = 0; r < rows; r++)
        memcpy(x + r * n, k->row[0] + r * k->rows[0] / rows * n, sizeof *x * (size_t)n);
    rows_times(x, rows, n, m->w, m->out, n, y);
    for (int64_t i = 0; i < rows * m->out; i++) size[i % m->out] += (double)y[i] * y[i];
    return size;
}

static void outputs_choose(Outputs *o, const WeightMatrix *m, const KeptRows *k)
{
    Arena work = {0};
    double *size = m->out > JUDGED ? output_sizes(m, k, &work) : NULL;
    o->n = m->out < JUDGED ? m->out : JUDGED;
    for (int64_t i = 0; i < o->n; i++) {
        bool large = size && i < JUDGED / 2;
        int64_t best = size ? (i - JUDGED / 2) * m->out / (JUDGED / 2) : i;
        if (large) best = 0;
        for (int64_t c = 0; large && c < m->out; c++)
            if (size[c] > size[best]) best = c;
        while (size && !large && size[best] < 0) best = (best + 1) % m->out; /* taken already */
        o->at[i] = best, o->stands_for[i] = size && !large ? (double)(m->out - JUDGED / 2) / (JUDGED / 2) : 1;
        if (size) size[best] = -1;
    }
    arena_drop(&work);
}

/* The weights of the outputs chosen, times the gains of the input channels. */
static WeightMatrix part_of(const Trial *t, uint32_t layer, const float *gain, Arena *mem)
{
    const Outputs *o = &t->out[layer];
    WeightMatrix x = *t->m[layer];
    const float *w = x.w;
    x.out = o->n, x.w = NEW_ARRAY(mem, float, x.out * x.in + 1);
    for (int64_t r = 0; r < x.out; r++)
        for (int64_t c = 0; c < x.in; c++) x.w[r * x.in + c] = w[o->at[r] * x.in + c] * (gain ? gain[c] : 1);
    return x;
}

static void trial_begin(Trial *t)
{
    t->out = NEW_ARRAY(&t->mem, Outputs, t->n + 1);
    for (uint32_t i = 0; i < t->n; i++) {
        Arena work = {0};
        Outputs *o = &t->out[i];
        outputs_choose(o, t->m[i], t->kept);
        WeightMatrix part = part_of(t, i, NULL, &work);
        for (int s = 0; s < SMOOTH_SETS; s++) {
            o->y[s] = NEW_ARRAY(&t->mem, float, t->kept->rows[s] * part.out + 1);
            rows_times(t->kept->row[s], t->kept->rows[s], part.in, part.w, part.out, part.in, o->y[s]);
        }
        arena_drop(&work);
    }
}

/* The rows of a set, divided by the gains and rounded; one scale each, or one for all that were offered. */
static float *rounded(const Trial *t, int set, const float *gain, bool each, Arena *mem)
{
    const KeptRows *k = t->kept;
    float *x = NEW_ARRAY(mem, float, k->rows[set] * k->channels + 1), lo = 0, hi = 0;
    for (int64_t c = 0; c < k->channels; c++) lo = fminf(lo, k->lo[c] / gain[c]), hi = fmaxf(hi, k->hi[c] / gain[c]);
    for (int64_t r = 0; r < k->rows[set]; r++) {
        float *to = x + r * k->channels, most = 0, step = (hi - lo) / 255, below = lo, above = hi;
        for (int64_t c = 0; c < k->channels; c++) {
            to[c] = k->row[set][r * k->channels + c] / gain[c];
            most = fmaxf(most, fabsf(to[c]));
        }
        if (each) step = most / (lo < 0 ? 127 : 255), below = -most, above = most;
        if (!(step > 0)) step = 1;
        for (int64_t c = 0; c < k->channels; c++) to[c] = step * rintf(fmaxf(below, fminf(above, to[c])) / step);
    }
    return x;
}

/* The mean of rows' errors over what they should be (rows of next to nothing count as if they were a little), and the error of all over all:
 * the former says what most rows lose, the latter what the few with large values do. */
typedef struct Errors {
    double rows, all;
} Errors;

static double both(Errors e) { return sqrt(e.rows * e.all); }

static Errors outputs_errors(const Outputs *o, int set, const float *z, int64_t rows)
{
    static const double LITTLE = 1e-3; /* of the mean row */
    const float *y = o->y[set];
    double all = 0, sum = 0, off_all = 0;
    for (int64_t i = 0; i < rows * o->n; i++) all += (double)y[i] * y[i] * o->stands_for[i % o->n];
    for (int64_t r = 0; r < rows; r++) {
        double signal = 0, noise = 0;
        for (int64_t c = 0; c < o->n; c++) {
            double is = y[r * o->n + c], off = z[r * o->n + c] - is;
            signal += is * is * o->stands_for[c], noise += off * off * o->stands_for[c];
        }
        sum += noise / (signal + LITTLE * all / (double)rows + NOTHING), off_all += noise;
    }
    return (Errors){sum / (double)rows, off_all / (all + NOTHING)};
}

/* Of all layers' outputs, on the rows of a set: their mean, or of the layer that loses most. weights: they are rounded too. */
typedef struct OfLayers {
    Errors mean, worst;
} OfLayers;

static OfLayers errors_with(const Trial *t, int set, const float *gain, bool each, bool weights)
{
    Arena work = {0};
    const float *x = rounded(t, set, gain, each, &work);
    int64_t rows = t->kept->rows[set];
    OfLayers of = {{0, 0}, {0, 0}};
    for (uint32_t i = 0; i < t->n; i++) {
        WeightMatrix part = part_of(t, i, gain, &work);
        float *z = NEW_ARRAY(&work, float, rows * part.out + 1);
        if (weights) weights_rounded(&part, &t->form[i]);
        rows_times(x, rows, part.in, part.w, part.out, part.in, z);
        Errors e = outputs_errors(&t->out[i], set, z, rows);
        of.mean.rows += e.rows / t->n, of.mean.all += e.all / t->n;
        if (both(e) > both(of.worst)) of.worst = e;
    }
    arena_drop(&work);
    return of;
}

static double db_of(Errors e) { return -10 * log10(both(e) + NOTHING); }

/* With scales as pass_quantize() will choose them. */
static Errors errors_of(const Trial *t, int set, const float *gain)
{
    Errors all = errors_with(t, set, gain, false, true).mean;
    if (!rows_pay(db_of(all), INFINITY)) return all;
    Errors each = errors_with(t, set, gain, true, true).mean;
    return rows_pay(db_of(all), db_of(each)) ? each : all;
}

/* ---- gains ---- */
/* For every input channel the largest weight of all layers. */
static float *largest_weights(const Trial *t, Arena *mem)
{
    int64_t channels = t->kept->channels;
    float *most = NEW_ARRAY(mem, float, channels + 1);
    for (uint32_t i = 0; i < t->n; i++)
        for (int64_t r = 0; r < t->m[i]->out; r++)
            for (int64_t c = 0; c < channels; c++) most[c] = fmaxf(most[c], fabsf(t->m[i]->w[r * channels + c]));
    return most;
}

static void gains_of(const KeptRows *k, const float *weight, double power, float *gain)
{
    static const double LEAST = 1e-4; /* of the largest channel */
    double peak = 0, most = 0, mean = 0;
    for (int64_t c = 0; c < k->channels; c++)
        peak = fmax(peak, fmax(-k->lo[c], k->hi[c])), most = fmax(most, weight[c]);
    for (int64_t c = 0; c < k->channels; c++) {
        double x = fmax(fmax(-k->lo[c], k->hi[c]), LEAST * peak), w = fmax(weight[c], LEAST * most + 1e-30);
        double log_gain = power * log(x) - (1 - power) * log(w);
        gain[c] = (float)log_gain, mean += log_gain / (double)k->channels;
    }
    for (int64_t c = 0; c < k->channels; c++) gain[c] = (float)exp(gain[c] - mean);
}

static void search(const Trial *t, float *best, Arena *mem)
{
    const float *weight = largest_weights(t, mem);
    float *tried = NEW_ARRAY(mem, float, t->kept->channels + 1);
    double least = both(errors_of(t, 0, best));
    for (size_t i = 0; i < COUNT_OF(POWERS); i++) {
        gains_of(t->kept, weight, POWERS[i], tried);
        double error = both(errors_of(t, 0, tried));
        if (error < least) least = error, memcpy(best, tried, sizeof *best * (size_t)t->kept->channels);
    }
}

static bool says_something(const KeptRows *k)
{
    enum { LEAST_CHOOSE = 16, LEAST_JUDGE = 8 };
    bool values = false;
    for (int64_t c = 0; c < k->channels; c++) values = values || k->hi[c] > k->lo[c];
    return values && k->rows[0] >= LEAST_CHOOSE && k->rows[1] >= LEAST_JUDGE;
}

/* gain: of ones, becomes what was found where that is clearly better on the rows of set 1. */
static void try_gains(Trial *t, SmoothCost cost, Smoothing *s, float *gain)
{
    size_t bytes = sizeof *gain * (size_t)t->kept->channels;
    float *found = memcpy(NEW_ARRAY(&t->mem, float, t->kept->channels + 1), gain, bytes);
    search(t, found, &t->mem);
    Errors plain = errors_of(t, 1, gain), smooth = errors_of(t, 1, found);
    s->plain = db_of(plain), s->smooth = db_of(smooth);
    s->any = smooth.rows < PART[cost] * plain.rows && smooth.all < PART[cost] * plain.all;
    if (s->any) memcpy(gain, found, bytes);
}

Smoothing smooth_find(const WeightMatrix *const *m, const WeightForm *f, uint32_t n, const KeptRows *k, SmoothCost cost, float *gain)
{
    Smoothing s = {.plain = NAN, .smooth = NAN};
    for (int64_t c = 0; c < k->channels; c++) gain[c] = 1;
    if (!says_something(k) || !n) return s;
    Trial t = {.m = m, .form = f, .n = n, .kept = k};
    trial_begin(&t);
    if (cost != SMOOTH_NEVER) try_gains(&t, cost, &s, gain);
    s.tensor = db_of(errors_with(&t, 0, gain, false, false).worst);
    s.rows = db_of(errors_with(&t, 0, gain, true, false).worst);
    arena_drop(&t.mem);
    return s;
}
